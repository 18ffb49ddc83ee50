"""The wheel carries all that a run needs; the scripts make an environment once and notice when it is out of date."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

from dkm.installation import VERSION

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


def load(name: str) -> ModuleType:
    """Import a script, which is no part of a package."""
    spec = spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


build_metadata, environment = load("build_metadata"), load("environment")
# What a copy of the checkout needs: no environment, history, data or runs.
COPIED = ("dkm", "configs", "pyproject.toml", "constraints.txt", "LICENSE", "README.md", ".gitignore", "scripts")


def copy_checkout(target: Path, names: Sequence[str] = COPIED) -> Path:
    target.mkdir()
    for path in (ROOT / name for name in names):
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, target)
    return target


def run(command: Sequence[str | Path], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "DKM_VENV", "DKM_TORCH", "DKM_CONSTRAINTS", "DKM_INSTALLER", "PYTHON")
    variables = {k: v for k, v in os.environ.items() if k not in left_out} | {"OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


# --- the wheel ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by way of the source distribution, from a copy of the checkout, so that the checkout is not touched."""
    folder = tmp_path_factory.mktemp("build")
    copy = copy_checkout(folder / "checkout")
    done = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"], copy)
    assert done.returncode == 0, done.stdout + done.stderr
    name = f"deepkmeans-{VERSION}"
    assert {path.name for path in (folder / "dist").iterdir()} == {f"{name}.tar.gz", f"{name}-py3-none-any.whl"}
    return folder / "dist" / f"{name}-py3-none-any.whl"


def test_a_package_index_takes_the_distributions(wheel: Path) -> None:
    done = run([sys.executable, "-m", "twine", "check", "--strict", *wheel.parent.iterdir()], wheel.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_page_of_an_index_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert "# dkm" in metadata
    assert re.findall(r"\]\((?!https?:|#)", metadata) == []
    assert "\nProject-URL: " not in metadata  # no address is known


def test_with_an_address_the_links_of_the_readme_lead_there() -> None:
    readme = (
        "# x\n\n![A picture](docs/a.png)\n\nSee [docs](docs/a.md), [below](#below) and [that](https://example.org).\n"
    )
    shown = build_metadata.for_an_index(readme, "https://example.org/o/r")
    assert shown == (
        "# x\n\n![A picture](https://example.org/o/r/raw/main/docs/a.png)\n\n"
        "See [docs](https://example.org/o/r/blob/main/docs/a.md), [below](#below) and [that](https://example.org).\n"
    )
    without = "# x\n\nSee docs, [below](#below) and [that](https://example.org).\n"
    assert build_metadata.for_an_index(readme, "") == without
    assert build_metadata.addresses("https://example.org/o/r")["Source"] == "https://example.org/o/r"
    assert build_metadata.addresses("") == {}


def test_the_wheel_holds_the_modules_the_assets_and_the_configs_as_they_are(wheel: Path) -> None:
    expected = {str(path.relative_to(ROOT)): path.read_bytes() for path in (ROOT / "dkm").rglob("*.py")}
    expected |= {"dkm/py.typed": (ROOT / "dkm" / "py.typed").read_bytes()}
    assets = ROOT / "dkm" / "reports" / "assets"
    expected |= {str(path.relative_to(ROOT)): path.read_bytes() for path in assets.iterdir()}
    configs = ROOT / "configs"
    expected |= {f"dkm/configs/{path.relative_to(configs)}": path.read_bytes() for path in configs.rglob("*.yaml")}
    assert "dkm/configs/config.yaml" in expected
    assert "dkm/configs/experiment/debug.yaml" in expected
    with ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_the_wheel_holds_the_licence_the_command_and_the_python_versions(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        parts = {name.partition(".dist-info/")[2]: archive.read(name).decode() for name in archive.namelist()}
    assert parts["licenses/LICENSE"] == (ROOT / "LICENSE").read_text()
    assert "dkm-train = dkm.train:main" in parts["entry_points.txt"]
    assert "\nRequires-Python: <3.14,>=3.11\n" in parts["METADATA"]
    assert "\nLicense-Expression: MIT\n" in parts["METADATA"]
    assert f"\nVersion: {VERSION}\n" in parts["METADATA"]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with the wheel; its dependencies are those of the environment of the tests."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    assert run([sys.executable, "-m", "venv", "--without-pip", venv], venv.parent).returncode == 0
    python = venv / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    # A line that is a path is put at the end of sys.path, and .pth files in there (an editable dkm) are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install"]
    done = run([*pip, "--quiet", "--no-deps", "--no-index", "--no-compile", wheel], venv.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "import dkm, dkm.config.schema as s; print(dkm.__file__, dkm.__version__, s.config_dir(), sep='\\n')"
    found = run([python, "-c", code], venv.parent).stdout.splitlines()
    assert found == [str(site / "dkm" / "__init__.py"), wheel.name.split("-")[1], str(site / "dkm" / "configs")]
    return python.parent


@pytest.fixture(scope="session")
def trained(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from an empty folder."""
    return train_in(tmp_path_factory.mktemp("module"), installed / "python", "-m", "dkm.train")


def train_in(folder: Path, *command: str | Path) -> Path:
    done = run([*command, *TINY], folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "final (kmeans)" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["runs"]
    [path] = (folder / "runs" / "blobs_kmeans").iterdir()
    return path


TINY = [
    *("recipe=classic", "experiment=debug", "data=blobs", "data.n_samples=60", "clustering.n_init=2"),
    "log.figures=false",
]


@pytest.mark.thorough
def test_the_installed_package_trains_from_an_empty_folder(trained: Path) -> None:
    path = trained
    assert path.name.endswith("_seed0")
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    events = {name for name in files if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert files - events == {
        *(
            "config.yaml",
            "manifest.json",
            "metrics.jsonl",
            "result.json",
            "assignments.csv",
            "data.json",
            "report.html",
        ),
        "train.log",
        *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
        *("exemplars.csv", "features.csv"),
        *("projector_config.pbtxt", "projector/metadata.tsv", "projector/tensors.tsv"),
        *("checkpoints/last.pt", "checkpoints/previous.pt", "model/weights.safetensors", "model/model.json"),
    }
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["status"] == "completed"
    assert manifest["git"] is None
    assert len((path / "assignments.csv").read_text().splitlines()) == 61


def test_module_and_script_compose_the_same(installed: Path, tmp_path: Path) -> None:
    shown = []
    for command in ([installed / "python", "-m", "dkm.train"], [installed / "dkm-train"]):
        done = run([*command, *TINY, "--cfg", "job"], tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        shown.append(done.stdout)
    assert shown[0] == shown[1]
    assert "n_samples: 60\n" in shown[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_module_and_script_train_the_same(trained: Path, installed: Path, tmp_path: Path) -> None:
    other = train_in(tmp_path, installed / "dkm-train")
    for name in ("metrics.jsonl", "result.json", "assignments.csv"):
        assert (trained / name).read_bytes() == (other / name).read_bytes(), name


# --- the scripts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.sh", "test.sh", "sweep.sh", "reproduce.sh", "lowest.sh"])
def test_a_script_can_be_executed(name: str) -> None:
    assert os.access(SCRIPTS / name, os.X_OK)
    assert (SCRIPTS / name).read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_bash_can_read_a_script(path: Path) -> None:
    done = run(["bash", "-n", path], ROOT)
    assert (done.returncode, done.stderr) == (0, "")


FAKE_PYTHON = """\
#!/usr/bin/env bash
# Stands for the python of an environment and for the one that makes it: writes down the modules that it runs.
if [[ "$1" == "-c" ]]; then # sees the packages in $TORCH_PATH and no other
    before="import sys; sys.version_info = ($VERSION, 1, 'final', 0); ${MISSING:+sys.modules['$MISSING'] = None; }"
    PYTHONPATH="${TORCH_PATH:-}" exec "$REAL_PYTHON" -S -c "$before$2"
fi
if [[ "$1" == *.py ]]; then exec "$REAL_PYTHON" "$@"; fi
echo "$*" >> "$CALLS"
site="$(dirname "$0")/../lib/python3.11/site-packages"
if [[ "$1 $2" == "-m venv" ]]; then
    mkdir -p "$3/bin" "$3/lib/python3.11/site-packages" && touch "$3/pyvenv.cfg"
    if [[ "${KILL_AT:-}" == venv ]]; then kill -KILL "$PPID"; fi
    cp "$0" "$3/bin/python"
fi
if [[ "$*" == "-m pip config list" ]]; then echo "${PIP_SETTINGS:-}"; fi
if [[ "$*" == *--dry-run* ]]; then exit "${HAS_NO_CPU_BUILD:-1}"; fi
if [[ "$1 $2 $3" == "-m pip install" && "${KILL_AT:-}" == pip ]]; then # what an upgrade of numpy leaves
    mkdir -p "$site/numpy" "$site/numpy-2.4.6.dist-info" "$site/~umpy"
    kill -KILL "$PPID"
fi
if [[ "$1 $2" == "-m pip" ]]; then exit "${PIP_EXIT:-0}"; fi
if [[ "$2" == "${REAL:-}"* && -n "${REAL:-}" ]]; then exec "$REAL_PYTHON" "$@"; fi
if [[ "$2" == dkm.train ]]; then exit "${TRAIN_EXIT:-0}"; fi
"""

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts look at."""
    # With a space, as a user's folder may have.
    return copy_checkout(
        tmp_path / "check out", ["scripts", "pyproject.toml", "constraints.txt", "constraints-lowest.txt"]
    )


@pytest.fixture
def script(checkout: Path, tmp_path: Path) -> Script:
    """Return a function that runs a script beside fakes; the calls of python since the last time are its stdout."""
    python, calls = tmp_path / "fake-python", tmp_path / "calls"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def start(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        calls.write_text("")
        fakes = {"PYTHON": str(python), "DKM_VENV": str(tmp_path / "v env"), "CALLS": str(calls)}
        fakes |= {"VERSION": "3, 11", "REAL_PYTHON": sys.executable, "DKM_TORCH": "default", "DKM_INSTALLER": "pip"}
        done = run([checkout / "scripts" / name, *arguments], tmp_path, **{**fakes, **variables})
        done.stdout = calls.read_text()
        return done

    return start


def test_the_first_start_makes_the_environment_and_installs_the_pinned_versions(
    script: Script, checkout: Path, tmp_path: Path
) -> None:
    done = script("train.sh", "seed=1", "data=blobs")
    assert done.returncode == 0, done.stderr
    make, install, train = done.stdout.splitlines()
    assert make == f"-m venv {tmp_path / 'v env'}"
    assert install.startswith("-m pip install ")
    assert install.endswith(f"--constraint {checkout / 'constraints.txt'} --editable {checkout}")
    assert train == "-m dkm.train seed=1 data=blobs"
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    making, installing = done.stderr.splitlines()
    assert making == f"making the environment {tmp_path / 'v env'}"
    text = f"installing dkm into {tmp_path / 'v env'}: {torch.replace('==', ' ')} "
    assert installing.startswith(text)
    assert re.fullmatch(r".*about [\d.]+ GB", installing)


@pytest.mark.parametrize("point", ["venv", "pip"])
def test_a_set_up_that_was_killed_is_made_up_for(point: str, script: Script, tmp_path: Path) -> None:
    done = script("train.sh", KILL_AT=point)
    assert done.returncode != 0
    assert "-m dkm.train" not in done.stdout
    done = script("train.sh")
    assert done.returncode == 0, done.stderr
    venv = tmp_path / "v env"
    if point == "venv":
        assert f"{venv}: its set-up was interrupted; making it anew" in done.stderr.splitlines()
        assert [call.split()[1] for call in done.stdout.splitlines()] == ["venv", "pip", "dkm.train"]
    else:
        assert "numpy-2.4.6 is incomplete; installing it again" in done.stderr.splitlines()
        assert [path.name for path in (venv / "lib/python3.11/site-packages").iterdir()] == ["numpy"]
        assert [call.split()[1] for call in done.stdout.splitlines()] == ["pip", "dkm.train"]
    assert not (venv / ".dkm-making").exists()
    assert script("train.sh").stdout == "-m dkm.train\n"


def test_a_package_with_a_file_cut_short_is_incomplete(tmp_path: Path) -> None:
    record = tmp_path / "x-1.dist-info"
    record.mkdir()
    (tmp_path / "x.py").write_text("12345")
    (record / "RECORD").write_text("x.py,sha256=a,5\nx-1.dist-info/RECORD,,\n")
    (record / "METADATA").write_text("Name: x\nVersion: 1\n")
    distribution = environment.PathDistribution(record)
    assert environment.is_complete(distribution)
    (tmp_path / "x.py").write_text("123")
    assert not environment.is_complete(distribution)
    (tmp_path / "x.py").unlink()
    assert not environment.is_complete(distribution)


def test_an_environment_whose_python_is_gone_is_made_anew(script: Script, tmp_path: Path) -> None:
    script("train.sh")
    (tmp_path / "v env" / "bin" / "python").unlink()
    done = script("train.sh")
    assert done.stderr.startswith(f"{tmp_path / 'v env'}: its Python is gone; making it anew\n")
    assert done.stdout.startswith("-m venv ")


def test_a_folder_of_other_files_is_never_taken_for_an_environment(script: Script, tmp_path: Path) -> None:
    (tmp_path / "v env").mkdir()
    (tmp_path / "v env" / "thesis.tex").touch()
    done = script("train.sh")
    expected = (
        f"error: {tmp_path / 'v env'}: expected a virtual environment or nothing; set DKM_VENV to another folder\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert (tmp_path / "v env" / "thesis.tex").exists()


# --- the torch of the environment ---------------------------------------------------------------------------------


def fake_packages(folder: Path, **versions: str) -> Path:
    folder.mkdir()
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").touch()
    for name, version in versions.items():
        (folder / f"{name}-{version}.dist-info").mkdir()
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    return folder


def test_the_torch_of_the_active_environment_is_used(script: Script, tmp_path: Path) -> None:
    other = fake_packages(tmp_path / "conda", torch="2.11.0+cu130", numpy="2.1.0", PyYAML="6.0.2")
    done = script("train.sh", DKM_TORCH="auto", TORCH_PATH=str(other))
    assert done.returncode == 0, done.stderr
    assert f": beside torch 2.11.0+cu130 of {other}, up to " in done.stderr
    venv = tmp_path / "v env"
    assert (venv / "lib/python3.11/site-packages/dkm-existing-torch.pth").read_text() == f"{other}\n"
    pins = set((venv / ".dkm-constraints.txt").read_text().splitlines())
    assert "torch==2.11.0+cu130" in pins
    given = (ROOT / "constraints.txt").read_text().splitlines()
    left_out = {pin.partition("==")[0] for pin in set(given) - pins}
    assert {"torch", "torchvision", "triton", "numpy", "PyYAML"} < left_out
    assert {name for name in left_out if not name.startswith(("nvidia-", "cuda-"))} <= {
        *("torch", "torchvision", "triton", "numpy", "PyYAML")
    }
    # The command that the README names is not where the other environment has it.
    assert (
        run([venv / "bin" / "tensorboard", "--logdir", "my runs"], tmp_path, CALLS=str(tmp_path / "c")).returncode == 0
    )
    assert (tmp_path / "c").read_text() == "-m tensorboard.main --logdir my runs\n"
    _, install, _ = done.stdout.splitlines()
    assert f"--constraint {venv / '.dkm-constraints.txt'} --editable " in install
    assert script("train.sh").stdout == "-m dkm.train\n"  # another shell, in which nothing is active
    shutil.rmtree(other)
    done = script("train.sh")
    assert done.stderr.startswith(f"{venv}: the torch that it uses is gone; making it anew\n")


@pytest.mark.parametrize("case", ["too old", "broken"])
def test_a_torch_that_does_not_do_is_named_and_replaced(case: str, script: Script, tmp_path: Path) -> None:
    other = fake_packages(tmp_path / "conda", torch="2.5.1" if case == "too old" else "2.11.0")
    if case == "broken":
        (other / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    done = script("train.sh", DKM_TORCH="auto", TORCH_PATH=str(other), HAS_NO_CPU_BUILD="0")
    python = tmp_path / "fake-python"
    says = "is 2.5.1; expected 2.6 or newer" if case == "too old" else "cannot be imported"
    assert f"the torch of {python} {says}; installing one" in done.stderr.splitlines()
    assert done.returncode == 0
    assert not (tmp_path / "v env" / ".dkm-torch").exists()


def test_an_environment_of_the_users_own_keeps_its_torch(script: Script, checkout: Path, tmp_path: Path) -> None:
    venv = tmp_path / "v env"
    (venv / "bin").mkdir(parents=True)
    shutil.copy(tmp_path / "fake-python", venv / "bin" / "python")
    other = fake_packages(tmp_path / "packages", torch="2.11.0", scipy="1.15.0")
    done = script("train.sh", DKM_TORCH="auto", TORCH_PATH=str(other))
    assert done.returncode == 0, done.stderr
    assert "-m venv" not in done.stdout
    pins = (venv / ".dkm-constraints.txt").read_text().splitlines()
    assert "torch==2.11.0" in pins
    assert not [pin for pin in pins if pin.startswith("scipy==")]
    assert not (venv / ".dkm-torch").exists()
    # Its packages are not ours to judge: conda writes other records.
    (venv / "lib/python3.11/site-packages/numpy-2.4.6.dist-info").mkdir(parents=True)
    (checkout / "constraints.txt").write_text("numpy==2.4.6\n")
    assert script("train.sh", VERSION="3, 9", PYTHON="/nowhere/python").returncode == 0
    assert (venv / "lib/python3.11/site-packages/numpy-2.4.6.dist-info").exists()


@pytest.mark.parametrize("has_build", [True, False])
def test_the_build_for_cpus_is_installed_where_it_is_asked_for(has_build: bool, script: Script, tmp_path: Path) -> None:
    done = script("train.sh", DKM_TORCH="cpu", HAS_NO_CPU_BUILD=str(int(not has_build)))
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match("torch(vision)?==", line)]
    builds = [f"{pin}+cpu" for pin in pins]
    if not has_build:
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(
            f"error: DKM_TORCH=cpu: the package index has no {builds[0]} and {builds[1]}; set PIP_EXTRA_INDEX_URL"
        )
        return
    assert done.returncode == 0, done.stderr
    assert f"{builds[0].replace('==', ' ')} for CPUs, about " in done.stderr
    assert [p for p in (tmp_path / "v env" / ".dkm-constraints.txt").read_text().splitlines() if "torch" in p] == builds


@pytest.mark.parametrize(
    ("platform", "has_gpu", "has_build", "expected"),
    [
        ("linux", False, True, "cpu"),
        ("linux", False, False, "default"),
        ("linux", True, True, "default"),
        ("darwin", False, True, "default"),  # where the default build is for the CPU
    ],
)
def test_a_machine_without_a_gpu_asks_for_the_build_for_cpus(
    platform: str, has_gpu: bool, has_build: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.sys, "platform", platform)
    monkeypatch.setattr(environment, "has_gpu", lambda: has_gpu)
    monkeypatch.setattr(environment, "find_torch", lambda root, base: None)
    monkeypatch.setattr(environment, "run_pip", lambda *words, quiet: int(not has_build))
    assert environment.choose_torch(ROOT, Path("python"), "python", "auto") == environment.Torch(expected)


def test_a_choice_that_does_not_exist_is_refused(script: Script, tmp_path: Path) -> None:
    done = script("train.sh", DKM_TORCH="gpu")
    line = "error: DKM_TORCH=gpu: expected auto, cpu or default; set one of these, or none\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert not (tmp_path / "v env").exists()


def test_this_checkout_under_its_former_name_is_uninstalled(script: Script, checkout: Path, tmp_path: Path) -> None:
    script("train.sh")
    record = tmp_path / "v env" / "lib/python3.11/site-packages/dkm-0.1.0.dist-info"
    for url, is_ours in ((checkout.as_uri(), True), ("file:///another", False)):
        record.mkdir(exist_ok=True)
        (record / "RECORD").write_text(f"{record.name}/RECORD,,\n")
        (record / "direct_url.json").write_text(json.dumps({"url": url}))
        (checkout / "pyproject.toml").write_text(f"# {url}")
        assert ("-m pip uninstall --quiet --yes dkm" in script("train.sh").stdout.splitlines()) == is_ours


def test_an_environment_that_is_up_to_date_is_reused_at_once(script: Script) -> None:
    script("train.sh")
    start_s = time.perf_counter()
    done = script("train.sh", "seed=2")
    assert time.perf_counter() - start_s < 2
    assert (done.returncode, done.stdout, done.stderr) == (0, "-m dkm.train seed=2\n", "")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_is_to_be_installed_is_noticed(name: str, script: Script, checkout: Path) -> None:
    script("train.sh")
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert "-m pip install " in script("train.sh").stdout
    assert "-m pip install " not in script("train.sh").stdout


def test_the_environment_of_another_checkout_is_not_taken_for_ones_own(script: Script, checkout: Path) -> None:
    """It runs the code of that other one, as the installation is editable."""
    script("train.sh")
    moved = checkout.rename(checkout.with_name("moved"))
    checkout.symlink_to(moved)
    assert f"--editable {moved}" in script("../../moved/scripts/train.sh").stdout


@pytest.mark.parametrize(("code", "has_table"), [("0", True), ("1", True), ("2", False), ("130", False)])
def test_a_sweep_makes_its_table_if_there_are_runs(code: str, has_table: bool, script: Script, tmp_path: Path) -> None:
    script("train.sh")
    (help_alone,) = script("sweep.sh", "--help").stdout.splitlines()  # no run, no table
    assert help_alone.endswith("--help")
    (tmp_path / "here").mkdir()
    done = script("sweep.sh", "seed=0,1", "hydra.sweep.dir=here", TRAIN_EXIT=code)
    assert done.returncode == int(code)
    train, *compare = done.stdout.splitlines()
    assert train == "-m dkm.train --multirun seed=0,1 hydra.sweep.dir=here"
    files = "csv=here/table.csv markdown=here/table.md figure=here/table.png overwrite=true"
    assert compare == ([f"-m dkm.compare here {files}"] if has_table else [])


@pytest.mark.thorough
def test_a_sweep_without_a_folder_gets_one_of_its_own(script: Script, tmp_path: Path) -> None:
    quick = [
        "recipe=classic",
        "data=blobs",
        "data.n_samples=60",
        "model.hidden=[8]",
        "pretrain.epochs=1",
        "joint.epochs=1",
    ]
    more = ["clustering.n_init=1", "log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off"]
    script("train.sh")
    done = script("sweep.sh", "seed=0,1", *quick, *more, REAL="dkm.")
    assert (done.returncode, done.stderr) == (0, "")
    [folder] = (tmp_path / "runs" / "sweeps").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names == {"0", "1", "multirun.yaml", "sweep.csv", "table.csv", "table.md", "table.png"}
    assert "| runs | ACC |" in (folder / "table.md").read_text(encoding="utf-8")


def test_packages_are_compiled_when_they_are_imported_unless_python_may_write_nothing(
    script: Script, checkout: Path
) -> None:
    """Of all modules a run imports a small part."""
    called = script("train.sh", PYTHONDONTWRITEBYTECODE="").stdout.splitlines()
    [call] = [call for call in called if " --editable " in call]
    assert "-m pip install --disable-pip-version-check --no-compile " in call
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    called = script("train.sh", PYTHONDONTWRITEBYTECODE="1").stdout.splitlines()
    [call] = [call for call in called if " --editable " in call]
    assert "--no-compile" not in call


FAKE_UV = """\
#!/usr/bin/env bash
echo "uv $*" >> "$CALLS"
exit "${UV_EXIT:-0}"
"""


@pytest.fixture
def uv(tmp_path: Path) -> dict[str, str]:
    """Environment variables with a fake ``uv`` on PATH."""
    command = tmp_path / "bin" / "uv"
    command.parent.mkdir()
    command.write_text(FAKE_UV)
    command.chmod(0o755)
    return {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "DKM_INSTALLER": ""}


def test_uv_installs_the_same_where_it_is(script: Script, uv: dict[str, str], checkout: Path, tmp_path: Path) -> None:
    done = script("train.sh", **uv, PIP_SETTINGS=":env:.cert='/a/b'\nglobal.timeout='60'")
    make, settings, install, train = done.stdout.splitlines()
    assert (make.split()[1], settings, train) == ("venv", "-m pip config list", "-m dkm.train")
    requested = f"--constraint {checkout / 'constraints.txt'} --editable {checkout}"
    assert install == f"uv pip install {requested} --quiet --python {tmp_path / 'v env' / 'bin' / 'python'}"


@pytest.mark.parametrize(
    "setting",
    [
        "global.index-url='https://packages.example.org/simple'",
        "global.timeout='60'\n:env:.extra-index-url='https://packages.example.org/simple'",
        "install.find-links='/opt/wheels'",
        "user.no-index='true'",
    ],
)
def test_a_package_index_of_pip_is_not_passed_over(script: Script, uv: dict[str, str], setting: str) -> None:
    calls = script("train.sh", **uv, PIP_SETTINGS=setting).stdout
    assert "-m pip install " in calls
    assert "uv " not in calls
    assert "uv pip install" in script("test.sh", **{**uv, "DKM_INSTALLER": "uv"}, PIP_SETTINGS=setting).stdout


def test_where_uv_fails_pip_installs(script: Script, uv: dict[str, str]) -> None:
    done = script("train.sh", **uv, UV_EXIT="2")
    assert done.returncode == 0
    assert [call.split()[:3] for call in done.stdout.splitlines()[2:4]] == [
        ["uv", "pip", "install"],
        ["-m", "pip", "install"],
    ]
    assert done.stderr.splitlines()[-1].startswith("uv failed, as it says above; taking pip")


def test_the_torch_of_another_environment_is_for_pip(script: Script, uv: dict[str, str], tmp_path: Path) -> None:
    other = fake_packages(tmp_path / "conda", torch="2.11.0")
    done = script("train.sh", **{**uv, "DKM_INSTALLER": "uv"}, DKM_TORCH="auto", TORCH_PATH=str(other))
    assert done.returncode == 0, done.stderr
    assert "uv " not in done.stdout
    assert "DKM_INSTALLER=uv: it is not on PATH, or does not see the torch that is used; taking pip" in done.stderr


def test_an_installer_that_does_not_exist_is_refused(script: Script, tmp_path: Path) -> None:
    done = script("train.sh", DKM_INSTALLER="poetry")
    line = "error: DKM_INSTALLER=poetry: expected auto, pip or uv; set one of these, or none\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert not (tmp_path / "v env").exists()


def test_the_tests_need_their_extra_and_bring_what_training_needs(script: Script, checkout: Path) -> None:
    script("train.sh")
    calls = script("test.sh", "-k", "kmeans").stdout.splitlines()
    assert calls[0].endswith(f"--editable {checkout}[test]")
    assert [call.split()[1] for call in calls[1:]] == ["ruff", "ruff", "mypy", "pytest"]
    workers = "--numprocesses 2 --dist worksteal"
    assert calls[-1] == f"-m pytest {workers} -k kmeans"
    assert script("test.sh").stdout.splitlines()[-1] == f"-m pytest {workers}"
    for name in ("test.sh", "train.sh"):
        assert "-m pip install " not in script(name).stdout


def test_the_lowest_versions_have_an_environment_of_their_own(script: Script, checkout: Path) -> None:
    _, install, tests = script("lowest.sh", "-k", "kmeans").stdout.splitlines()
    assert install.endswith(f"--constraint {checkout / 'constraints-lowest.txt'} --editable {checkout}[test]")
    assert tests == "-m pytest --numprocesses 2 --dist worksteal -k kmeans"
    assert "-m pip install" in script("test.sh").stdout  # not taken for one of the current versions


def test_an_installation_that_failed_is_made_up_for(script: Script) -> None:
    done = script("train.sh", PIP_EXIT="1")
    assert done.returncode == 1
    assert "-m dkm.train" not in done.stdout
    calls = script("train.sh").stdout.splitlines()
    assert [call.split()[1] for call in calls] == ["pip", "dkm.train"]


@pytest.mark.parametrize("name", ["train.sh", "test.sh"])
def test_a_python_that_cannot_be_run_is_refused(name: str, script: Script, tmp_path: Path) -> None:
    assert_refused(script(name, PYTHON="/nowhere/python3"), "/nowhere/python3", tmp_path)


@pytest.mark.parametrize(
    "version", ["3, 10", "3, 14", *(pytest.param(old, marks=pytest.mark.slow) for old in ("2, 7", "3, 9"))]
)
def test_a_python_of_another_version_is_refused(version: str, script: Script, tmp_path: Path) -> None:
    done = script("train.sh", VERSION=version)
    assert_refused(done, str(tmp_path / "fake-python"), tmp_path)


@pytest.mark.parametrize("version", ["3, 11", pytest.param("3, 12", marks=pytest.mark.slow), "3, 13"])
def test_a_python_of_each_version_that_fits_makes_the_environment(version: str, script: Script, tmp_path: Path) -> None:
    done = script("train.sh", VERSION=version)
    assert done.returncode == 0, done.stderr
    assert f"-m venv {tmp_path / 'v env'}\n" in done.stdout


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_or_pip_is_refused(module: str, script: Script, tmp_path: Path) -> None:
    """As in Debian, where they are in a package of their own."""
    done = script("train.sh", MISSING=module)
    remedy = "install them (Debian, Ubuntu: sudo apt install python3-venv) or set PYTHON=/path/to/another/python"
    line = f"error: {tmp_path / 'fake-python'}: expected its modules venv and ensurepip; {remedy}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert not (tmp_path / "v env").exists()


def test_the_first_python_that_can_is_taken(script: Script, tmp_path: Path) -> None:
    """``python3`` may be too old where ``python3.12`` is there."""
    folder = tmp_path / "path"
    folder.mkdir()
    for name, version in (("python3", "3, 9"), ("python", "3, 14"), ("python3.13", "3, 13")):
        text = (tmp_path / "fake-python").read_text().replace("($VERSION,", f"({version},")
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    done = script("train.sh", PYTHON="", PATH=f"{folder}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert "(3, 13," in (tmp_path / "v env" / "bin" / "python").read_text()


def assert_refused(done: subprocess.CompletedProcess[str], python: str, tmp_path: Path) -> None:
    assert done.returncode == 2
    expected = f"error: {python}: expected Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python3.11\n"
    assert done.stderr == expected
    assert done.stdout == ""
    assert not (tmp_path / "v env").exists()
