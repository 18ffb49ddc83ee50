"""Fuzz the readers guided by coverage, with atheris (extra ``fuzz``):

    python scripts/fuzz_coverage.py 40                     40 minutes over all readers
    python scripts/fuzz_coverage.py 5 csv npy              over these targets
    python scripts/fuzz_coverage.py 0                      only reduce what was found to the corpus of the tests

The targets are those of ``scripts/fuzz.py`` that change the bytes of a file, with the same rules. Inputs that reach
code which no other has reached are kept in ``runs/fuzz`` and are where the next call begins; at the end the smallest
set with the same coverage goes to ``tests/fixtures/corpus``, where ``tests/test_properties.py`` reads it. Instrumented
are this package, Pillow, PyYAML, and what is written in Python of NumPy's and SciPy's readers and of torch's unpickler;
C is not.

Each target is fuzzed in forked processes, so that one that ends by a signal costs only itself. Figures are written as
JSON after each target.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import json
import logging
import os
import pickle
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import atheris

INSTRUMENTED = ["dkm", "PIL", "yaml"]
# Of larger packages only these modules.
MODULES = ["numpy.lib._format_impl", "scipy.io.matlab._mio5", "torch._weights_only_unpickler"]
with atheris.instrument_imports(include=INSTRUMENTED):
    import fuzz

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tests" / "fixtures" / "corpus"
# Larger inputs are neither made nor kept.
_MOST_BYTES = 20_000
_STATISTICS = re.compile(rb"stat::number_of_executed_units: *(\d+)")
_COVERAGE = re.compile(rb"cov: (\d+) ft: (\d+)")


def _instrument(name: str) -> None:
    """Instrument the functions of a module that has been imported."""
    module = importlib.import_module(name)
    classes = [item for item in vars(module).values() if inspect.isclass(item) and item.__module__ == name]
    for owner in (module, *classes):
        for item in vars(owner).values():
            if inspect.isfunction(item) and item.__module__ == name:
                atheris.instrument_func(item)


def targets() -> dict[str, fuzz.Target]:
    """Return the targets whose examples are bytes."""
    return {name: target for name, target in fuzz.targets().items() if target.original is not None}


def _run(target: fuzz.Target, arguments: Sequence[str], log: Path, faults: Path) -> int:
    """Run libFuzzer in a forked process, which appends its faults to a file; return the exit code."""
    process = os.fork()
    if process == 0:
        _fuzz(target, arguments, log, faults)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _fuzz(target: fuzz.Target, arguments: Sequence[str], log: Path, faults: Path) -> NoReturn:
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    known: set[str] = set()
    watchdog = fuzz.Watchdog()

    def read(content: bytes) -> None:
        watchdog.start()
        try:
            fuzz.check(target, content)
        except fuzz.Fault as error:
            kind = fuzz.kind_of(error)
            if kind not in known:
                known.add(kind)
                with faults.open("ab") as file:
                    pickle.dump((kind, str(error), content), file)

    atheris.Setup([sys.argv[0], *arguments], read)
    atheris.Fuzz()
    os._exit(0)


def fuzz_target(name: str, seconds: int, folder: Path) -> dict[str, Any]:
    """Fuzz a target for some time; return its figures."""
    target, inputs = targets()[name], folder / name / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for content in [target.original or b"", *(path.read_bytes() for path in (CORPUS / name).glob("*"))]:
        (inputs / hashlib.sha1(content).hexdigest()).write_bytes(content)
    log, faults = folder / name / "log", folder / name / "faults"
    start, n_ended = time.monotonic(), 0
    while (left := seconds - (time.monotonic() - start)) > 1:
        options = [f"-max_total_time={int(left)}", "-print_final_stats=1", "-timeout=0", "-handle_alrm=0"]
        options += [f"-max_len={_MOST_BYTES}", f"-artifact_prefix={folder / name}/", "-rss_limit_mb=6000"]
        code = _run(target, [str(inputs), *options], log, faults)
        if code == 0:
            break
        n_ended += 1
        print(f"  {name}: the process ended with {code}; see {log}", flush=True)
    text = log.read_bytes() if log.exists() else b""
    coverage = _COVERAGE.findall(text)
    return {
        "seconds": round(time.monotonic() - start),
        "executions": sum(map(int, _STATISTICS.findall(text))),
        "coverage_first": int(coverage[0][0]) if coverage else 0,
        "coverage": int(coverage[-1][0]) if coverage else 0,
        "inputs": len(list(inputs.iterdir())),
        "processes_ended_by_a_signal": n_ended,
        "faults": _faults(faults, name),
    }


def _faults(path: Path, name: str) -> dict[str, str]:
    faults: dict[str, str] = {}
    if path.exists():
        with path.open("rb") as file:
            while file.peek(1):
                kind, text, content = pickle.load(file)
                if kind not in faults:
                    example = path.with_name(f"fault-{hashlib.sha1(content).hexdigest()[:12]}")
                    example.write_bytes(content)
                    print(f"  {name}: {kind}: {text[:600]}\n    {example}", flush=True)
                faults.setdefault(kind, text[:600])
    return faults


def reduce(name: str, folder: Path) -> None:
    """Replace the corpus of a target by few small inputs that together reach all code that was reached."""
    paths = sorted((folder / name / "inputs").iterdir(), key=lambda path: (path.stat().st_size, path.name))
    control = folder / name / "control"  # the list of inputs, to which libFuzzer appends the features of each
    control.write_text("\n".join([str(len(paths)), "0", *map(str, paths), ""]))
    options = ["-merge_inner=1", f"-merge_control_file={control}", "-timeout=0", "-handle_alrm=0"]
    code = _run(targets()[name], options, folder / name / "merge", folder / name / "faults-merge")
    reached: set[str] = set()
    kept: list[Path] = []
    for line in control.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "FT":
            number, *features = rest.split()
            if not reached.issuperset(features):
                reached.update(features)
                kept.append(paths[int(number)])
    print(f"{name}: {len(paths)} inputs reduced to {len(kept)} ({code})", flush=True)
    if kept:
        shutil.rmtree(CORPUS / name, ignore_errors=True)
        (CORPUS / name).mkdir(parents=True)
        for path in kept:
            shutil.copyfile(path, CORPUS / name / path.name[:12])


def main(words: Sequence[str]) -> int:
    """Fuzz the targets that the words name; return 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, help="of all targets together")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--folder", type=Path, default=Path("runs/fuzz"), help="folder of the inputs that are kept")
    options = parser.parse_args(words)
    logging.disable(logging.WARNING)
    sys.dont_write_bytecode = True
    with atheris.instrument_imports(include=INSTRUMENTED):
        fuzz.import_everything()
    for name in MODULES:
        _instrument(name)
    names, folder = options.targets or list(targets()), options.folder.absolute()
    figures_file = folder / "figures.json"
    figures = json.loads(figures_file.read_text(encoding="utf-8")) if figures_file.exists() else {}
    for name in names if options.minutes else ():
        figures[name] = fuzz_target(name, int(60 * options.minutes / len(names)), folder)
        print(f"{name}: { {key: value for key, value in figures[name].items() if key != 'faults'} }", flush=True)
        figures_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for name in names:
        reduce(name, folder)
    return 1 if any(figures.get(name, {}).get("faults") for name in names) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
