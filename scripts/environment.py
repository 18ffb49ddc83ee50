"""Make the virtual environment of the scripts, or bring it up to date; environment.sh calls this and describes it.

    python scripts/environment.py ROOT VENV EXTRA BASE

Only the standard library: it runs before anything is installed. Every step may be interrupted, and the next start goes
on from there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path
from typing import Any, NamedTuple

# Megabytes on disk, measured on Linux: the default build, the CPU build, what is added to an environment with torch.
SIZES = {"default": "6 GB", "cpu": "1.5 GB", "existing": "0.6 GB"}
# The packages of the pair and of its GPU libraries, which the environment with an existing torch has or does without.
_OF_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")
# What pip's settings call the places of packages: global.index-url='...', :env:.find-links='...'.
_OTHER_SOURCE = re.compile(r"^\S+\.(index-url|extra-index-url|find-links|no-index)=", re.MULTILINE)
_FIND_TORCH = """
import json, os, torch
from importlib.metadata import version
print(json.dumps({"folder": os.path.dirname(os.path.dirname(torch.__file__)), "version": version("torch")}))
"""


class SetUpError(Exception):
    """What the user can mend, on one line."""


class Torch(NamedTuple):
    """Where the torch of an environment comes from.

    Attributes
    ----------
    source : str
        ``default`` and ``cpu``: a build from the package index. ``existing``: that of another environment, whose
        folder this one sees, or one that was here.
    folder, version : str
        Those of an existing torch.
    kept : tuple of str
        The distributions that were there, which are not replaced by pinned versions.
    is_ours : bool
        Whether these scripts made the environment.
    """

    source: str
    folder: str = ""
    version: str = ""
    kept: tuple[str, ...] = ()
    is_ours: bool = True


def main(root: Path, venv: Path, extra: str, base: str) -> int:
    """Return the exit status: 0, 2 for what the user can mend, 1 where pip failed, 130 if interrupted."""
    try:
        installer = check_choice("DKM_INSTALLER", "auto", "pip", "uv")
        torch = make(root, venv, base)
        repair(venv, torch)
        return install(root, venv, extra, torch, installer)
    except SetUpError as error:
        say(f"error: {error}")
        return 2
    except OSError as error:
        say(f"error: {error.filename or venv}: {error.strerror or error}; set DKM_VENV to another folder")
        return 2
    except KeyboardInterrupt:
        say("interrupted; start again, and it goes on from there")
        return 130


def check_choice(name: str, *choices: str) -> str:
    """Return the value of an environment variable, or the first choice where it is not set."""
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise SetUpError(f"{name}={value}: expected {expected}; set one of these, or none")
    return value


# --- the environment ----------------------------------------------------------------------------------------------


def make(root: Path, venv: Path, base: str) -> Torch:
    """Make the environment if it is not there, and return where its torch comes from."""
    requested = check_choice("DKM_TORCH", "auto", "cpu", "default")
    python, unfinished, record = venv / "bin" / "python", venv / ".dkm-making", venv / ".dkm-torch.json"
    link = venv / ".dkm-torch"
    for what, is_so in {
        "its set-up was interrupted": unfinished.exists(),
        "the torch that it uses is gone": link.is_symlink() and not link.exists(),
        "its Python is gone": (venv / "pyvenv.cfg").exists() and not python.exists(),
    }.items():
        if is_so:
            say(f"{venv}: {what}; making it anew")
            unfinished.touch()
            empty(venv, unfinished)
            break
    if not python.exists():
        if venv.exists() and not unfinished.exists() and (not venv.is_dir() or any(venv.iterdir())):
            raise SetUpError(f"{venv}: expected a virtual environment or nothing; set DKM_VENV to another folder")
        say(f"making the environment {venv}")
        venv.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        if subprocess.run([base, "-m", "venv", venv], stdout=subprocess.DEVNULL, check=False).returncode:
            raise SetUpError(f"{base}: -m venv failed; set PYTHON=/path/to/another/python")
        torch = choose_torch(root, python, base, requested)
        if torch.source == "existing":
            link.symlink_to(Path(torch.folder, "torch"))
            # A line that is a path is put at the end of sys.path, behind what this environment has itself.
            (site_packages(venv) / "dkm-existing-torch.pth").write_text(torch.folder + "\n")
        write(record, torch)
        unfinished.unlink()
        return torch
    if record.exists():
        return Torch(**json.loads(record.read_text()))
    if (venv / ".dkm-installed").exists():  # made by these scripts when there was no choice
        return Torch("default")
    if run_pip(python, "--version", quiet=True) and quietly([python, "-m", "ensurepip"]):
        raise SetUpError(f"{python}: expected an environment with pip; set DKM_VENV to another folder")
    torch = choose_torch(root, python, str(python), requested)._replace(is_ours=False)
    write(record, torch)
    return torch


def empty(folder: Path, kept: Path) -> None:
    """Remove what is in the folder but one file, which tells a later start that the rest may go."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != kept:
            path.unlink()


def write(record: Path, torch: Torch) -> None:
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(torch._asdict()))
    temporary.replace(record)


def site_packages(venv: Path) -> Path:
    [folder] = venv.glob("lib/python3.*/site-packages")
    return folder


def repair(venv: Path, torch: Torch) -> None:
    """Remove the records of what an interrupted installation left incomplete, so that pip installs it again."""
    if not torch.is_ours:
        return
    for site in venv.glob("lib/python3.*/site-packages"):
        for left in site.glob("~*"):  # what pip moves aside while it replaces a package
            shutil.rmtree(left, ignore_errors=True)
        for record in site.glob("*.dist-info"):
            if not is_complete(PathDistribution(record)):
                say(f"{record.name.removesuffix('.dist-info')} is incomplete; installing it again")
                shutil.rmtree(record)


def is_complete(distribution: Distribution) -> bool:
    """Return whether all its files are there in their size; pip writes the list of them last."""
    files = distribution.files
    return files is not None and all(file.size is None or has_size(Path(file.locate()), file.size) for file in files)


def has_size(path: Path, n_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == n_bytes


# --- torch --------------------------------------------------------------------------------------------------------


def choose_torch(root: Path, python: Path, base: str, requested: str) -> Torch:
    """Return which torch to take: that of ``base``, or a build of the package index, asked with ``python``'s pip."""
    if requested == "default":
        return Torch("default")
    if requested == "auto" and (found := find_torch(root, base)) is not None:
        return found
    if requested == "auto" and (sys.platform != "linux" or has_gpu()):  # elsewhere the default build is for the CPU
        return Torch("default")
    if run_pip(python, "install", "--dry-run", "--no-deps", *cpu_builds(root), quiet=True) == 0:
        return Torch("cpu")
    if requested == "cpu":
        builds = " and ".join(cpu_builds(root))
        raise SetUpError(
            f"DKM_TORCH=cpu: the package index has no {builds}; set PIP_EXTRA_INDEX_URL to one that has, "
            "or DKM_TORCH=default"
        )
    say("no NVIDIA GPU here, and the package index has no CPU build of torch; taking the default build")
    return Torch("default")


def find_torch(root: Path, base: str) -> Torch | None:
    """Return the torch that ``base`` can import, if it is new enough."""
    done = subprocess.run([base, "-c", _FIND_TORCH], capture_output=True, text=True, check=False)
    if done.returncode:
        if "No module named 'torch'" not in done.stderr:
            say(f"the torch of {base} cannot be imported; installing one")
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    lowest = next(re.finditer(r'"torch>=([\d.]+)"', (root / "pyproject.toml").read_text()))[1]
    if as_numbers(found["version"]) < as_numbers(lowest):
        say(f"the torch of {base} is {found['version']}; expected {lowest} or newer; installing one")
        return None
    kept = {normalize(d.metadata["Name"]) for d in distributions(path=[found["folder"]])}
    return Torch("existing", found["folder"], found["version"], tuple(sorted(kept)))


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, also in the Linux of Windows."""
    if any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")):
        return True
    return shutil.which("nvidia-smi") is not None and quietly(["nvidia-smi", "-L"]) == 0


def cpu_builds(root: Path) -> list[str]:
    """Return the pinned pair as its builds for CPUs are called."""
    return [
        f"{pin}+cpu" for pin in pinned(root).read_text().splitlines() if pin.startswith(("torch==", "torchvision=="))
    ]


def pinned(root: Path) -> Path:
    """Return the file of the versions to install; lowest.sh has another one."""
    return root / os.environ.get("DKM_CONSTRAINTS", "constraints.txt")


def constraints(root: Path, torch: Torch) -> list[str]:
    """Return the pinned versions that hold beside this torch, which is not the default one."""
    pins = pinned(root).read_text().splitlines()
    others = [pin for pin in pins if not _OF_TORCH.match(pin) and normalize(pin.partition("==")[0]) not in torch.kept]
    return others + (cpu_builds(root) if torch.source == "cpu" else [f"torch=={torch.version}"])


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- pip and uv ---------------------------------------------------------------------------------------------------


def install(root: Path, venv: Path, extra: str, torch: Torch, installer: str) -> int:
    """Install the project, editable, and what it needs; return 0, or 1 where pip failed."""
    python, pins = venv / "bin" / "python", pinned(root)
    if torch.source != "default":
        pins = venv / ".dkm-constraints.txt"
        pins.write_text("\n".join(constraints(root, torch)) + "\n")
    if is_named_dkm(venv, root):
        run_pip(python, "uninstall", "--yes", "dkm")
    wanted = f"[{extra}]" if extra else ""
    say(f"installing dkm{wanted} into {venv}: {describe(root, torch)}")
    words = ("install", "--constraint", str(pins), "--editable", f"{root}{wanted}")
    is_done = takes_uv(python, torch, installer) and run_uv(python, *words) == 0
    if not is_done and run_pip(python, *words):
        say("error: pip failed, as it says above; start again when that is mended, and it goes on from there")
        return 1
    command = venv / "bin" / "tensorboard"
    if torch.source == "existing" and torch.is_ours and not command.exists():
        # The other environment has the command; the documentation names that of this one.
        command.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -m tensorboard.main "$@"\n')
        command.chmod(0o755)
    return 0


def describe(root: Path, torch: Torch) -> str:
    """Return which torch is taken, and how much is installed at most."""
    if torch.source == "existing":
        return f"beside torch {torch.version} of {torch.folder}, up to {SIZES['existing']}"
    builds = cpu_builds(root) if torch.source == "cpu" else [build.removesuffix("+cpu") for build in cpu_builds(root)]
    build = "for CPUs" if torch.source == "cpu" or sys.platform != "linux" else "with its GPU libraries"
    size = SIZES["cpu" if build == "for CPUs" else "default"]
    return f"{builds[0].replace('==', ' ')} {build}, about {size}"


def takes_uv(python: Path, torch: Torch, installer: str) -> bool:
    """Return whether uv installs, in a tenth of pip's time where both have the packages in their caches.

    It reads none of pip's settings, so pip installs where they name another source of packages. It does not see the
    torch of another environment either.
    """
    if installer == "pip" or torch.source == "existing" or shutil.which("uv") is None:
        if installer == "uv":
            say("DKM_INSTALLER=uv: it is not on PATH, or does not see the torch that is used; taking pip")
        return False
    return installer == "uv" or not _OTHER_SOURCE.search(pip_settings(python))


def pip_settings(python: Path) -> str:
    """Return pip's settings, those of its files and of environment variables, one on a line."""
    done = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return done.stdout


def run_uv(python: Path, *words: str) -> int:
    code = subprocess.run(["uv", "pip", *words, "--quiet", "--python", python], check=False).returncode
    if code:
        say("uv failed, as it says above; taking pip (DKM_INSTALLER=pip takes it at once)")
    return code


def is_named_dkm(venv: Path, root: Path) -> bool:
    """Return whether this checkout is installed under the name that it had until version 0.1."""
    for record in venv.glob("lib/python3.*/site-packages/dkm-*.dist-info"):
        text = PathDistribution(record).read_text("direct_url.json")
        if text is not None and json.loads(text).get("url") == root.as_uri():
            return True
    return False


def run_pip(python: Path, command: str, *arguments: str, quiet: bool = False) -> int:
    words = [python, "-m", "pip", command, *(() if command == "--version" else ("--quiet",)), *arguments]
    if command == "install":
        words.insert(4, "--disable-pip-version-check")
        if not os.environ.get("PYTHONDONTWRITEBYTECODE"):  # Python compiles what is imported, a small part
            words.insert(5, "--no-compile")
    return quietly(words) if quiet else subprocess.run(words, check=False).returncode


def quietly(words: Sequence[str | Path]) -> int:
    return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    root, venv, extra, base = sys.argv[1:]
    sys.exit(main(Path(root), Path(venv), extra, base))
