"""The layering of the modules: each imports only from layers below its own, so there are no cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dkm

PACKAGE = Path(dkm.__file__).parent
LAYERS = (
    {"config", "metrics", "interrupt", "planar"},
    {
        "compose",
        "kmeans",
        "scaling",
        "files",
        "models",
        "regularization",
        "checkpoint",
        "figures",
        "optim",
        "dashboard",
    }
    | {"distributed", "partition", "commands", "space"},
    {"clustering", "stored", "tables", "images", "answers", "devices", "runs"},
    {"objective", "data", "batches", "exemplars", "augment"},
    {"learner"},
    {"evaluate", "initialize", "rundir", "saved"},
    {"report", "cache", "position"},
    {"recorder"},
    {"trainer"},
    {"resume", "predict", "estimator", "compare", "trials"},
    {"train", "export", "select", "tune"},
)
LAYER_OF = {module: number for number, modules in enumerate(LAYERS) for module in modules}


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
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def own_imports(module: str) -> set[str]:
    """Return the modules of the package that this one imports, inside functions too."""
    names = (name.split(".") for name in imports(parse(module)))
    return {parts[1] for parts in names if parts[0] == "dkm"}


def test_every_module_has_a_layer() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == LAYER_OF.keys()
    assert not [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]


@pytest.mark.parametrize("module", sorted(LAYER_OF))
def test_a_module_imports_only_from_lower_layers(module: str) -> None:
    too_high = {name for name in own_imports(module) if LAYER_OF[name] >= LAYER_OF[module]}
    assert too_high == set()


def test_no_module_imports_the_package_as_a_whole() -> None:
    """Its public names are resolved lazily, which would hide a cycle."""
    for module in LAYER_OF:
        assert "dkm" not in set(imports(parse(module))), module
        assert own_imports(module) <= LAYER_OF.keys(), module


QUICK_TO_IMPORT = (
    "__init__",
    "config",
    "compose",
    "commands",
    "train",
    "predict",
    "compare",
    "runs",
    "interrupt",
    "distributed",
)


@pytest.mark.parametrize("module", QUICK_TO_IMPORT)
def test_what_answers_a_wrong_override_imports_nothing_slow(module: str) -> None:
    """At module level; test_config.py holds that it stays so at run time."""
    top = [node for node in parse(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    slow = {"pandas", "torch", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "tensorboard"}
    assert {name.split(".")[0] for node in top for name in imports(node)} & slow == set()


def test_only_the_modules_below_the_command_line_are_free_of_its_config() -> None:
    """Hydra and OmegaConf stay at the edge: the numerical modules take dataclasses."""
    edge = {name for name in LAYER_OF if {"hydra", "omegaconf"} & {i.split(".")[0] for i in imports(parse(name))}}
    assert edge <= {"config", "compose", "train", "rundir", "predict", "export", "space"}
