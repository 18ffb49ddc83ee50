"""The wheel carries all that a run needs; the scripts make an environment once and notice when it is out of date."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
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
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "DKM_VENV", "PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


# --- the wheel ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, so that nothing of the checkout itself is touched."""
    folder = tmp_path_factory.mktemp("build")
    copy = copy_checkout(folder / "checkout")
    done = run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist"], copy)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = (folder / "dist").iterdir()
    assert path.name.startswith("dkm-")
    assert path.name.endswith("-py3-none-any.whl")
    return path


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
def runs(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run by the module and one by the console script, each from an empty folder."""
    overrides = ["experiment=debug", "data=blobs", "data.n_samples=60", "clustering.n_init=2", "log.figures=false"]
    directories = {}
    for name, command in (("module", [installed / "python", "-m", "dkm.train"]), ("script", [installed / "dkm-train"])):
        folder = tmp_path_factory.mktemp(name)
        done = run([*command, *overrides], folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert "final (kmeans)" in done.stdout
        assert [path.name for path in folder.iterdir()] == ["runs"]
        [directories[name]] = (folder / "runs" / "blobs_kmeans").iterdir()
    return directories


@pytest.mark.parametrize("command", ["module", "script"])
def test_the_installed_package_trains_from_an_empty_folder(command: str, runs: dict[str, Path]) -> None:
    path = runs[command]
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


def test_module_and_script_do_the_same(runs: dict[str, Path]) -> None:
    for name in ("metrics.jsonl", "result.json", "assignments.csv"):
        assert (runs["module"] / name).read_bytes() == (runs["script"] / name).read_bytes(), name


# --- the scripts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.sh", "test.sh", "sweep.sh", "reproduce.sh"])
def test_a_script_can_be_executed(name: str) -> None:
    assert os.access(SCRIPTS / name, os.X_OK)
    assert (SCRIPTS / name).read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_bash_can_read_a_script(path: Path) -> None:
    done = run(["bash", "-n", path], ROOT)
    assert (done.returncode, done.stderr) == (0, "")


FAKE_PYTHON = """\
#!/usr/bin/env bash
# Stands for the python of an environment and for the one that makes it: writes down its arguments.
echo "$*" >> "$CALLS"
if [[ "$1" == "-c" ]]; then exec "$REAL_PYTHON" -c "import sys; sys.version_info = ($VERSION, 1, 'final', 0); $2"; fi
if [[ "$1 $2" == "-m venv" ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
if [[ "$1 $2" == "-m pip" ]]; then exit "${PIP_EXIT:-0}"; fi
if [[ "$2" == "${REAL:-}"* && -n "${REAL:-}" ]]; then exec "$REAL_PYTHON" "$@"; fi
if [[ "$2" == dkm.train ]]; then exit "${TRAIN_EXIT:-0}"; fi
"""

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts look at."""
    # With a space, as a user's folder may have.
    return copy_checkout(tmp_path / "check out", ["scripts", "pyproject.toml", "constraints.txt"])


@pytest.fixture
def script(checkout: Path, tmp_path: Path) -> Script:
    """Return a function that runs a script beside fakes; the calls of python since the last time are its stdout."""
    python, calls = tmp_path / "fake-python", tmp_path / "calls"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def start(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        calls.write_text("")
        fakes = {"PYTHON": str(python), "DKM_VENV": str(tmp_path / "v env"), "CALLS": str(calls)}
        fakes |= {"VERSION": "3, 11", "REAL_PYTHON": sys.executable}
        done = run([checkout / "scripts" / name, *arguments], tmp_path, **{**fakes, **variables})
        done.stdout = calls.read_text()
        return done

    return start


def test_the_first_start_makes_the_environment_and_installs_the_pinned_versions(
    script: Script, checkout: Path, tmp_path: Path
) -> None:
    done = script("train.sh", "seed=1", "data=blobs")
    assert done.returncode == 0, done.stderr
    check, make, install, train = done.stdout.splitlines()
    assert check.startswith("-c ")
    assert make == f"-m venv {tmp_path / 'v env'}"
    assert install.startswith("-m pip install ")
    assert install.endswith(f"--constraint {checkout / 'constraints.txt'} --editable {checkout}")
    assert train == "-m dkm.train seed=1 data=blobs"
    assert "making the environment" in done.stderr


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
def test_a_sweep_makes_its_table_if_there_are_runs(code: str, has_table: bool, script: Script) -> None:
    script("train.sh")
    done = script("sweep.sh", "seed=0,1", "hydra.sweep.dir=here", TRAIN_EXIT=code)
    assert done.returncode == int(code)
    train, *compare = done.stdout.splitlines()
    assert train == "-m dkm.train --multirun seed=0,1 hydra.sweep.dir=here"
    files = "csv=here/table.csv markdown=here/table.md figure=here/table.png overwrite=true"
    assert compare == ([f"-m dkm.compare here {files}"] if has_table else [])


def test_a_sweep_without_a_folder_gets_one_of_its_own(script: Script, tmp_path: Path) -> None:
    quick = ["data=blobs", "data.n_samples=60", "model.hidden=[8]", "pretrain.epochs=1", "joint.epochs=1"]
    more = ["clustering.n_init=1", "log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off"]
    script("train.sh")
    done = script("sweep.sh", "seed=0,1", *quick, *more, REAL="dkm.")
    assert (done.returncode, done.stderr) == (0, "")
    [folder] = (tmp_path / "runs" / "sweeps").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names == {"0", "1", "multirun.yaml", "sweep.csv", "table.csv", "table.md", "table.png"}
    assert "| runs | ACC |" in (folder / "table.md").read_text(encoding="utf-8")


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


def test_an_installation_that_failed_is_made_up_for(script: Script) -> None:
    done = script("train.sh", PIP_EXIT="1")
    assert done.returncode == 1
    assert "-m dkm.train" not in done.stdout
    calls = script("train.sh").stdout.splitlines()
    assert [call.split()[1] for call in calls] == ["pip", "dkm.train"]


@pytest.mark.parametrize("name", ["train.sh", "test.sh"])
def test_a_python_that_cannot_be_run_is_refused(name: str, script: Script, tmp_path: Path) -> None:
    assert_refused(script(name, PYTHON="/nowhere/python3"), "/nowhere/python3", tmp_path)


@pytest.mark.parametrize("version", ["2, 7", "3, 9", "3, 10", "3, 14"])
def test_a_python_of_another_version_is_refused(version: str, script: Script, tmp_path: Path) -> None:
    done = script("train.sh", VERSION=version)
    done.stdout = "".join(line for line in done.stdout.splitlines(keepends=True) if not line.startswith("-c "))
    assert_refused(done, str(tmp_path / "fake-python"), tmp_path)


@pytest.mark.parametrize("version", ["3, 11", "3, 12", "3, 13"])
def test_a_python_of_each_version_that_fits_makes_the_environment(version: str, script: Script, tmp_path: Path) -> None:
    done = script("train.sh", VERSION=version)
    assert done.returncode == 0, done.stderr
    assert f"-m venv {tmp_path / 'v env'}\n" in done.stdout


def assert_refused(done: subprocess.CompletedProcess[str], python: str, tmp_path: Path) -> None:
    assert done.returncode == 2
    expected = f"error: {python}: expected Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/python3.11\n"
    assert done.stderr == expected
    assert done.stdout == ""
    assert not (tmp_path / "v env").exists()
