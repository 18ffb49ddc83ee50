"""The layering of the package: rooms import downward, and what answers a wrong override imports nothing slow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dkm

PACKAGE = Path(dkm.__file__).parent
ROOT = PACKAGE.parent
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of whatever is imported anywhere below ``tree``: ``from dkm import x`` is ``dkm.x``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def test_rooms_import_downward() -> None:
    """The contract stands in pyproject.toml, and names every module at the top of the package and every room."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_no_module_imports_the_package_as_a_whole() -> None:
    """Its public names are resolved lazily, which would hide a cycle."""
    public = {f"dkm.{name}" for name in dkm.__all__}
    for module in MODULES:
        if module != "dkm.__init__":
            assert not {"dkm", *public} & set(imports(parse(module))), module


def test_no_private_name_crosses_a_module() -> None:
    for module in MODULES:
        for node in ast.walk(parse(module)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dkm"):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], module


QUICK_TO_IMPORT = (
    *("dkm.__init__", "dkm.errors", "dkm.train", "dkm.predict", "dkm.compare", "dkm.report", "dkm.runs.reading"),
    *(module for module in sorted(MODULES) if module.startswith("dkm.config.")),
    *("dkm.runtime.signals", "dkm.runtime.distributed"),
)


@pytest.mark.parametrize("module", QUICK_TO_IMPORT)
def test_what_answers_a_wrong_override_imports_nothing_slow(module: str) -> None:
    """At module level; test_config.py holds that it stays so at run time."""
    top = [node for node in parse(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    slow = {"pandas", "torch", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "tensorboard"}
    assert {name.split(".")[0] for node in top for name in imports(node)} & slow == set()


def test_only_the_edge_of_the_package_knows_hydra() -> None:
    """The numerical modules take dataclasses."""
    edge = {name for name in MODULES if {"hydra", "omegaconf"} & {i.split(".")[0] for i in imports(parse(name))}}
    config = {name for name in edge if name.startswith("dkm.config.")}
    others = {"dkm.training.launch", "dkm.search.sweep", "dkm.search.space", "dkm.runs.directory"}
    assert edge - config <= others | {"dkm.evaluation.prediction", "dkm.export"}
