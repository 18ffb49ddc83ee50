"""Measures how often ``clustering.n_clusters=auto`` finds the known number of classes of data sets.

    python scripts/measure_numbers.py [NAMES] [SEEDS]

Each argument is a list with commas; by default all data sets and the seeds 0, 1 and 2. The data sets are those of
measure_select.py and benchmark_tables.py. Only the search is run, no training. Labels are used only to count right
numbers. A result that exists is kept in docs/n_clusters.json; docs/n_clusters.md is written from it. Real data are read
from $DKM_DATA_ROOT, else ./data.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when NumPy and PyTorch load

import benchmark_tables
import measure_select
from dkm.config.commands import EXIT_USER_ERROR
from dkm.config.compose import compose, parse
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.runtime.atomic import write_atomically
from dkm.training.n_clusters import find_number

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "n_clusters.json"
TABLE = ROOT / "docs" / "n_clusters.md"
SEEDS = ("0", "1", "2")
# Both scripts have digits, here as images and there as a table.
SETS: dict[str, str] = {
    **dict.fromkeys(measure_select.SETS, "select"),
    **{"digits_table" if name == "digits" else name: "tables" for name in benchmark_tables.SETS},
}

Found = dict[str, Any]
_INTRODUCTION = """\
# How often clustering.n_clusters=auto finds the number of classes

Written by `python scripts/measure_numbers.py`; do not edit. *Found* has the number for each seed, from 2 to 30;
*exact*, *within one*, *plausible* and *warned* count the seeds for which it is the number of classes, differs from it
by at most one, has it among the plausible numbers, and has a warning. Seconds are processor time of the search alone,
on one thread.

The rule was chosen with the classes of these sets in view, except for those that are marked as fresh.
"""


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of ``dkm.train`` that read a data set."""
    if SETS[name] == "tables":
        return benchmark_tables.words_of("digits" if name == "digits_table" else name)
    return tuple(word for word in measure_select.SETS[name].words if not word.startswith("precision="))


def measure(name: str, seed: str) -> Found:
    """Search with one seed."""
    config = compose(parse([*words_of(name), "clustering.n_clusters=auto", f"seed={seed}"])).config
    data = load_dataset(config.data)
    start_s = time.process_time()
    choice = find_number(config, data)
    assert choice is not None and data.n_classes is not None
    found = choice.recommendation
    return {
        "n_classes": data.n_classes,
        "n_rows": data.n_samples,
        "found": found.n_clusters,
        "plausible": found.plausible,
        "warnings": found.warnings,
        "seconds": round(time.process_time() - start_s, 1),
    }


def page(results: Mapping[str, Mapping[str, Found]]) -> str:
    """Return docs/n_clusters.md."""
    counted = ("exact", "within one", "plausible", "warned")
    lines = [
        *_INTRODUCTION.splitlines(),
        *("", f"| data | rows | classes | found | {' | '.join(counted)} | s |", f"|{'---|' * (len(counted) + 5)}"),
    ]
    cases_of: dict[str, list[Found]] = {}
    for name, by_seed in results.items():
        cases = list(by_seed.values())
        kind = "fresh" if is_fresh(name) else "others"
        for group in (kind, "all"):
            cases_of.setdefault(group, []).extend(cases)
        numbers, seconds = ", ".join(str(case["found"]) for case in cases), max(case["seconds"] for case in cases)
        title = f"{name} (fresh)" if kind == "fresh" else name
        cells = [title, f"{cases[0]['n_rows']:,}", str(cases[0]["n_classes"]), numbers, *map(str, count(cases))]
        lines.append(f"| {' | '.join([*cells, f'{seconds:.0f}'])} |")
    for group in sorted(cases_of, reverse=True):
        cases = cases_of[group]
        lines.append(f"| {group} |  |  | {len(cases)} | {' | '.join(map(str, count(cases)))} |  |")
    return "\n".join([*lines, ""])


def is_fresh(name: str) -> bool:
    """Return whether the rule was chosen without the classes of a data set."""
    if SETS[name] == "tables":
        return name in benchmark_tables.SETS and benchmark_tables.SETS[name].keel is not None
    return measure_select.SETS[name].is_fresh


def count(cases: Sequence[Found]) -> tuple[int, int, int, int]:
    """Return how many cases are exact, within one, plausible and warned of."""
    return (
        sum(case["found"] == case["n_classes"] for case in cases),
        sum(abs(case["found"] - case["n_classes"]) <= 1 for case in cases),
        sum(case["n_classes"] in case["plausible"] for case in cases),
        sum(bool(case["warnings"]) for case in cases),
    )


def main() -> int:
    """Measure what is missing, and write the table of all results."""
    chosen = [list(known) for known in (SETS, SEEDS)]
    chosen[: len(sys.argv) - 1] = [word.split(",") for word in sys.argv[1:]]
    unknown = [name for name in chosen[0] if name not in SETS] + [s for s in chosen[1] if not s.isdigit()]
    if unknown or len(sys.argv) > 3:
        print(f"error: {(unknown or sys.argv[3:])[0]}: expected [NAMES] [SEEDS]; see --help", file=sys.stderr)
        return EXIT_USER_ERROR
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in chosen[0]:
        for seed in chosen[1]:
            if seed in results.get(name, {}):
                continue
            try:
                results.setdefault(name, {})[seed] = found = measure(name, seed)
            except UserError as error:
                print(f"error: {name}: {error}", file=sys.stderr)
                return EXIT_USER_ERROR
            print(f"{name}, seed {seed}: {found}", flush=True)
            write_atomically(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_atomically(TABLE, page({name: results[name] for name in SETS if name in results}).encode())
    print(f"written: {TABLE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
