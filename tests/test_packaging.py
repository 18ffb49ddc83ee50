"""What pyproject.toml declares: the versions, the packages that are imported, and the commands that messages print."""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import dkm
from dkm import installation, train
from dkm.config.data import TorchvisionData
from dkm.data.builtin.torchvision import read_torchvision
from dkm.data.images.encoders import find_image_encoder
from dkm.errors import UserError
from dkm.installation import install_command, pip_install

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
INSTALLABLE = sorted(EXTRAS.keys() - {"test", "dev", "docs", "benchmark", "fuzz"})  # those that messages name


def requirements(lines: list[str]) -> Iterator[Requirement]:
    """Yield the requirements, those of this project's own extras in their place."""
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            yield from (r for extra in sorted(requirement.extras) for r in requirements(EXTRAS[extra]))
        else:
            yield requirement


def pins(name: str) -> dict[str, Version]:
    lines = (line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#"))
    pairs = [line.split("==") for line in lines]
    assert len({canonicalize_name(package) for package, _ in pairs}) == len(pairs)
    return {canonicalize_name(package): Version(version) for package, version in pairs}


# --- versions -----------------------------------------------------------------------------------------------------

TESTED = [*requirements(PROJECT["dependencies"]), *requirements(EXTRAS["test"])]


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    bounds = {canonicalize_name(r.name): lower_bound(r.specifier) for r in TESTED}
    lowest = pins("constraints-lowest.txt")
    lowest.pop("pyparsing")  # held back for matplotlib 3.10.0
    assert lowest == bounds


def lower_bound(specifier: SpecifierSet) -> Version:
    [version] = [s.version for s in specifier if s.operator in (">=", "==")]
    return Version(version)


def test_the_pinned_versions_are_within_the_bounds() -> None:
    pinned = pins("constraints.txt")
    for requirement in TESTED:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_version_is_told_without_an_installation() -> None:
    assert "version" in PROJECT["dynamic"]
    assert dkm.__version__ == str(Version(dkm.__version__))
    assert f"## {dkm.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {dkm.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# --- imports ------------------------------------------------------------------------------------------------------

# Modules whose distribution has another name; it may not be installed.
ELSEWHERE = {"igraph": "python-igraph", "mlflow": "mlflow-skinny"}


def imported(folder: str) -> dict[str, set[str]]:
    """Return the names of the distributions of each module that is imported, without Python's and our own."""
    known = packages_distributions()
    own = {"dkm", *(path.stem for place in ("scripts", "tests") for path in (ROOT / place).glob("*.py"))}
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("import_module", "import_torchvision"):
                names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
                modules |= {name.partition(".")[0] for name in names}
    modules -= {*sys.stdlib_module_names, *own}
    return {
        module: {canonicalize_name(name) for name in known.get(module, [ELSEWHERE.get(module, module)])}
        for module in modules
    }


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements(lines)}


@pytest.mark.parametrize("folder", ["dkm", "scripts", "tests"])
def test_what_is_imported_is_declared(folder: str) -> None:
    optional = INSTALLABLE if folder == "dkm" else ["test", "benchmark", "fuzz"]
    declared = names(PROJECT["dependencies"]).union(*(names(EXTRAS[extra]) for extra in optional))
    found = imported(folder)
    assert "torch" in found
    assert {module: dists for module, dists in found.items() if not dists & declared} == {}


def test_the_default_installation_has_only_what_the_package_imports() -> None:
    used = set().union(*imported("dkm").values())
    assert names(PROJECT["dependencies"]) - used == {"bokeh"}  # reports read its scripts, and import nothing of it
    assert set().union(*(names(EXTRAS[extra]) for extra in INSTALLABLE)) - used == {
        *("hydra-joblib-launcher", "hydra-submitit-launcher"),  # plugins, which Hydra imports
        "alembic",  # MLflow imports it for its SQLite files
        *("umap-learn",) * (not packages_distributions().get("umap")),
    }


# --- torchvision --------------------------------------------------------------------------------------------------

QUICK = ["model.hidden=[4]", "pretrain.epochs=1", "joint.epochs=1", "clustering.n_init=1", "log.progress=off"]


@pytest.fixture(params=["missing", "of another torch"])
def broken_torchvision(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Importing torchvision fails as it does where it is missing, or was built for another torch."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "missing":
        monkeypatch.setitem(sys.modules, "torchvision", None)
        return ""
    folder = tmp_path / "path" / "torchvision"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(folder.parent))
    return "operator torchvision::nms does not exist"


@pytest.mark.usefixtures("broken_torchvision")
def test_a_broken_torchvision_stops_no_other_data(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(60, 3)) + 9 * (np.arange(60)[:, np.newaxis] % 3)
    np.savetxt(tmp_path / "x.csv", X, delimiter=",", header="a,b,c", comments="")
    run = tmp_path / "run"
    data = ["data=csv", f"data.path={tmp_path / 'x.csv'}", "clustering.n_clusters=3"]
    assert train._main([*data, *QUICK, "log.figures=false", f"hydra.run.dir={run}"]) == 0
    assert (run / "assignments.csv").exists()


def test_a_broken_torchvision_stops_its_own_data_with_one_line(broken_torchvision: str, tmp_path: Path) -> None:
    remedy = f"install the matching pair together: {pip_install('--force-reinstall', 'torch', 'torchvision')}"
    configs: list[Any] = [
        lambda: read_torchvision(TorchvisionData(name="mnist", root=str(tmp_path))),
        lambda: find_image_encoder(
            dkm.config.data.ImageFolderData(path=str(tmp_path), encoder="torchvision/resnet18", root="")
        ),
    ]
    for read, source in zip(configs, ("data=mnist", "data.encoder=torchvision/resnet18"), strict=True):
        with pytest.raises(UserError) as caught:
            read()
        line = str(caught.value)
        assert line.startswith(f"{source}: torchvision cannot be imported ({broken_torchvision}")
        assert line.endswith(remedy)
        assert "\n" not in line


# --- what messages print ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", INSTALLABLE)
def test_a_message_names_the_packages_of_an_extra(extra: str) -> None:
    """They can be installed wherever the package came from: no index has to have it."""
    command = shlex.split(install_command(extra))
    assert command[-len(EXTRAS[extra]) :] == EXTRAS[extra]


def test_an_installed_wheel_names_the_same_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.6", 'onnx>=1.17; extra == "onnx"', "onnxscript>=0.2 ; extra == 'onnx'", "h5py; extra == 'hdf5'"]
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "site-packages" / "dkm" / "installation.py"))
    monkeypatch.setattr("importlib.metadata.requires", {"deepkmeans": lines}.__getitem__)
    assert shlex.split(install_command("onnx"))[-3:] == ["install", "onnx>=1.17", "onnxscript>=0.2"]
    (tmp_path / "site-packages" / "pyproject.toml").parent.mkdir()
    (tmp_path / "site-packages" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert shlex.split(install_command("hdf5"))[-2:] == ["install", "h5py"]


@pytest.mark.parametrize("case", ["active", "not active", "made by uv"])
def test_a_message_installs_into_the_environment_that_runs(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "my env" / "bin" / "python"
    elsewhere = "/usr/bin/pip"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(installation.shutil, "which", {"pip": str(python.with_name("pip"))}.get)
    if case != "active":
        monkeypatch.setattr(installation.shutil, "which", {"pip": elsewhere}.get)
    if case == "made by uv":
        monkeypatch.setattr(installation, "find_spec", lambda name: None)
    expected = {
        "active": "pip install 'x>=1'",
        "not active": f"'{python}' -m pip install 'x>=1'",
        "made by uv": f"uv pip install --python '{python}' 'x>=1'",
    }
    assert pip_install("x>=1") == expected[case]


def test_the_files_for_contributors_call_scripts_that_are_there() -> None:
    files = [
        "Makefile",
        "CONTRIBUTING.md",
        "AGENTS.md",
        ".github/workflows/test.yml",
        ".github/pull_request_template.md",
    ]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in files]
    for text, name in zip(texts, files, strict=True):
        called = set(re.findall(r"\./(scripts/\w+\.sh)", text))
        assert "scripts/test.sh" in called, name
        assert all(os.access(ROOT / script, os.X_OK) for script in called), name
    recipes = [line for line in texts[0].splitlines() if line.startswith("\t")]
    assert all(re.fullmatch(r"\t\./scripts/\w+\.sh( -m (?:thorough|slow))? \$\(ARGS\)", line) for line in recipes)


HOST = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]


@pytest.mark.parametrize("path", HOST, ids=[path.name for path in HOST])
def test_the_files_for_the_host_can_be_read(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_no_text_installs_the_package_of_another_project() -> None:
    """On the public index, ``dkm`` is somebody else's."""
    files = [ROOT / "README.md", ROOT / "pyproject.toml", *(ROOT / "docs").glob("*.md")]
    files += [path for place in ("dkm", "configs", "scripts", ".github") for path in (ROOT / place).rglob("*.*")]
    texts = [path for path in files if path.suffix in (".py", ".md", ".yaml", ".yml", ".sh", ".toml")]
    assert len(texts) > 100
    assert [path for path in texts if "dkm[" in path.read_text(encoding="utf-8")] == []
