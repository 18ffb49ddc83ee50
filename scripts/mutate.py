"""Mutation testing: changes the package one expression at a time and runs the tests of that module.

    python scripts/mutate.py MODULE... [--mutants 15] [--seed 0] [--results runs/mutants.jsonl]

MODULE is a module or a room below ``dkm/``, such as ``clustering/lloyd`` or ``evaluation``. A random
sample of the mutants of each module is tested in a temporary copy of the checkout, one at a time. A mutant is *killed*
if a test fails, *survived* if all pass, and a *timeout* if the tests take more than 3 times as long as those of the
unchanged module plus 10 s. Each result is a line of the results file; mutants in that file are not tested again, so an
interrupted command can be repeated. A survivor is a missing test, or a change that no test can detect: how work is
divided into chunks, a log message, a tolerance.

Why not mutmut or cosmic-ray: mutmut 3.8 is fast (4.9 mutants a second on ``evaluation/metrics``), but skips every
decorated function, here those under ``torch.no_grad``, and does not cover tests that train in a separate process.
cosmic-ray 8.7 has neither limitation; it takes the same time per mutant as this script (5 s), does not sample mutants
and needs one configuration for each set of tests.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# The tests of a module are those of its longest prefix here; fast ones first.
TESTS = {
    "clustering": ["test_kmeans", "test_clustering", "test_initialize", "test_partition"],
    "clustering/assignment": ["test_kmeans", "test_clustering"],
    "clustering/functional": ["test_clustering"],
    "clustering/graph": ["test_metrics", "test_partition"],
    "clustering/initialization": ["test_initialize", "test_sampling"],
    "clustering/labels": ["test_metrics", "test_compare"],
    "clustering/lloyd": ["test_kmeans"],
    "clustering/losses": ["test_clustering"],
    "clustering/partition": ["test_partition"],
    "evaluation": ["test_reported_scores", "test_sampling", "test_predict", "test_train"],
    "evaluation/assignments": ["test_exemplars", "test_predict"],
    "evaluation/evaluator": ["test_reported_scores", "test_sampling"],
    "evaluation/exemplars": ["test_exemplars"],
    "evaluation/figures": ["test_figures"],
    "evaluation/figures/plane": ["test_planar"],
    "evaluation/figures/run": ["test_run_figures", "test_dashboard"],
    "evaluation/metrics": ["test_metrics"],
    "evaluation/prediction": ["test_predict"],
    "evaluation/projection": ["test_dashboard"],
    "evaluation/printed_scores": ["test_printed_scores", "test_scores"],
    "runs/directory": ["test_rundir", "test_provenance", "test_locks"],
    "runtime/atomic": ["test_durability"],
    "runtime/checkpoints": ["test_checkpoint", "test_durability"],
    "runtime/locks": ["test_locks"],
    "training": ["test_objective", "test_optim", "test_steps", "test_train", "test_resume"],
    "training/cache": ["test_cache"],
    "training/objective": ["test_objective"],
    "training/optimizers": ["test_optim", "test_steps"],
    "training/divergence": ["test_divergence", "test_steps"],
    "training/phase": ["test_phase", "test_steps", "test_objective", "test_train"],
    "training/requirements": ["test_requirements", "test_machine"],
    "training/restoring": ["test_restoring", "test_state"],
    "training/resume": ["test_resume_config", "test_provenance"],
    "training/due": ["test_due", "test_steps"],
    "training/segments": ["test_provenance"],
    "training/state": ["test_state", "test_train"],
}
_TIMEOUT_FACTOR, _TIMEOUT_MORE_S = 3, 10

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}


class Mutant(NamedTuple):
    """A module with one change: its ``source``, the changed ``line``, and the ``change`` as "old -> new"."""

    line: int
    change: str
    source: str


class Outcome(NamedTuple):
    status: str  # killed, survived or timeout
    seconds: float


# --- the mutants --------------------------------------------------------------------------------------------------


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in source order."""
    tree = ast.parse(source)
    for path, node in _expressions(tree, ()):
        for changed in _changes(node):
            mutated = _replace_node(tree, path, changed)
            yield Mutant(node.lineno, f"{_to_text(node)} -> {_to_text(changed)}", ast.unparse(mutated) + "\n")


_Path = tuple[tuple[str, int | None], ...]
# Not executed.
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list"}


def _expressions(node: ast.AST, path: _Path) -> Iterator[tuple[_Path, Any]]:
    """Yield statements and expressions that may be changed, except messages, each with its path of fields."""
    for name, value in ast.iter_fields(node):
        if name in _SKIPPED_FIELDS:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.JoinedStr) or _is_log(child):
                continue
            here = (*path, (name, index))
            if isinstance(child, ast.stmt | ast.expr):
                yield here, child
            yield from _expressions(child, here)


def _is_log(node: ast.AST) -> bool:
    """Return whether a node is a statement such as ``log.info(...)`` or ``warnings.warn(...)``."""
    call = node.value if isinstance(node, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    owner = function.value if isinstance(function, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("log", "warnings")


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            operators = [*node.ops]
            operators[index] = _COMPARISONS[type(operator)]()
            yield ast.Compare(node.left, operators, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _OPERATORS:
        yield ast.AugAssign(node.target, _OPERATORS[type(node.op)](), node.value)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


def _replace_node(tree: ast.Module, path: _Path, changed: ast.AST) -> ast.Module:
    mutated = copy.deepcopy(tree)
    owner: Any = mutated
    for name, index in path[:-1]:
        owner = getattr(owner, name) if index is None else getattr(owner, name)[index]
    name, index = path[-1]
    if index is None:
        setattr(owner, name, changed)
    else:
        getattr(owner, name)[index] = changed
    return ast.fix_missing_locations(mutated)


def _to_text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- the tests ----------------------------------------------------------------------------------------------------


def tests_of(module: str) -> list[str]:
    """Return the test files of a module, such as ``clustering/lloyd``."""
    names = [name for name in TESTS if f"{module}/".startswith(f"{name}/")]
    return [f"tests/{test}.py" for test in TESTS[max(names, key=len)]] if names else []


def modules_of(package: Path, word: str) -> list[str]:
    """Return the modules that an argument names: a module, or those of a room."""
    paths = sorted((package / word).rglob("*.py")) if (package / word).is_dir() else [package / f"{word}.py"]
    return [path.relative_to(package).with_suffix("").as_posix() for path in paths if path.name != "__init__.py"]


def copy_checkout(root: Path, target: Path) -> None:
    """Copy the tracked and the untracked, not ignored files in their present state."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)


def run_tests(checkout: Path, tests: Sequence[str], timeout_s: float | None) -> Outcome:
    """Run test files of the copy until the first failure."""
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",  # two mutants of one size within a second would share their bytecode
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start_s = time.perf_counter()
    process = subprocess.Popen(command, cwd=checkout, env=environment, start_new_session=True, **quiet)
    try:
        status = "survived" if process.wait(timeout_s) == 0 else "killed"
    except subprocess.TimeoutExpired:
        status = "timeout"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # including the processes that its tests started
            process.wait()
    return Outcome(status, round(time.perf_counter() - start_s, 1))


def test_module(module: str, checkout: Path, options: argparse.Namespace, known: set[str]) -> Iterator[dict[str, Any]]:
    """Test a sample of the mutants of one module, except those whose keys are known; yield a result for each."""
    path, tests = checkout / "dkm" / f"{module}.py", tests_of(module)
    source = path.read_text(encoding="utf-8")
    candidates = list(mutants(source))
    sample = random.Random(f"{options.seed} {module}").sample(candidates, min(options.mutants, len(candidates)))
    keys = [hashlib.sha256(f"{module}\n{mutant.source}".encode()).hexdigest()[:16] for mutant in sample]
    if known.issuperset(keys):
        return
    try:
        path.write_text(ast.unparse(ast.parse(source)), encoding="utf-8")
        unchanged = run_tests(checkout, tests, None)
        if unchanged.status != "survived":
            print(f"{module}: {' '.join(tests)} fail without any change; left out", file=sys.stderr)
            return
        timeout_s = _TIMEOUT_FACTOR * unchanged.seconds + _TIMEOUT_MORE_S
        for key, mutant in zip(keys, sample, strict=True):
            if key not in known:
                path.write_text(mutant.source, encoding="utf-8")
                outcome = run_tests(checkout, tests, timeout_s)
                yield {"key": key, "module": module, "line": mutant.line, "change": mutant.change, **outcome._asdict()}
    finally:
        path.write_text(source, encoding="utf-8")


# --- the command --------------------------------------------------------------------------------------------------


def report(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table, and the survivors."""
    counts = Counter((result["module"], result["status"]) for result in results)
    modules = sorted({result["module"] for result in results})
    yield f"{'module':32}{'killed':>8}{'survived':>10}{'timeout':>9}"
    for module in modules:
        killed, survived, timeout = (counts[module, status] for status in ("killed", "survived", "timeout"))
        yield f"{module:32}{killed:8}{survived:10}{timeout:9}"
    n_caught = sum(result["status"] != "survived" for result in results)
    yield f"{n_caught} of {len(results)} mutants were noticed ({n_caught / max(len(results), 1):.0%}); not noticed:"
    for result in sorted(results, key=lambda result: (result["module"], result["line"])):
        if result["status"] == "survived":
            yield f"dkm/{result['module']}.py:{result['line']}: {result['change']}"


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--mutants", type=int, default=15, help="mutants per module")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--results", type=Path, default=Path("runs/mutants.jsonl"))
    options = parser.parse_args(argv)
    modules = [module for word in options.modules for module in modules_of(root / "dkm", word.rstrip("/"))]
    for module in modules:
        if not (root / "dkm" / f"{module}.py").is_file() or not tests_of(module):
            parser.error(f"{module}: expected a module of dkm/ whose tests are in TESTS of this script")
    results: list[dict[str, Any]] = []
    if options.results.exists():
        results = [json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, options.results.open("a", encoding="utf-8") as file:
        copy_checkout(root, Path(folder))
        for module in modules:
            for result in test_module(module, Path(folder), options, {result["key"] for result in results}):
                results.append(result)
                file.write(json.dumps(result) + "\n")
                file.flush()
    print(*report([result for result in results if result["module"] in modules]), sep="\n")


if __name__ == "__main__":
    main()
