"""Common code of the benchmarks: alternating workloads, medians of ratios, options, tables and JSON.

Compared workloads alternate in one process, in a new random order each turn, so that other load on the machine affects
all of them. Each turn gives one ratio, and their median is reported: it compares times measured seconds apart, which
the ratio of two medians does not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# More turns hardly change the median.
_MAX_TURNS = 1000
# A longer workload fills the cache by itself.
_LONG_S = 0.1

Row = dict[str, Any]


@dataclass(frozen=True)
class Turns:
    """Seconds of each workload, one number per turn."""

    times_s: Mapping[str, Sequence[float]]

    def median_s(self, name: str) -> float:
        return statistics.median(self.times_s[name])

    def ratio(self, fraction: str) -> float:
        """Return the median over turns of ``a`` divided by ``b``, for a fraction written ``a/b``."""
        numerators, denominators = (self.times_s[name] for name in fraction.split("/"))
        return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))

    def row(self, *fractions: str) -> Row:
        """Return the number of turns, all median times, and the ratios of the ``fractions`` whose workloads ran."""
        known = [fraction for fraction in fractions if self.times_s.keys() >= set(fraction.split("/"))]
        return {
            "turns": len(next(iter(self.times_s.values()))),
            "median_s": {name: self.median_s(name) for name in self.times_s},
            "ratio": {fraction: self.ratio(fraction) for fraction in known},
        }


def take_turns(
    works: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    seconds: float = 0.0,
    is_warm: bool = False,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Turns:
    """Run all workloads once per turn.

    Parameters
    ----------
    works : mapping of str to callable
        Workloads by name.
    repeats : int
        Minimum number of turns.
    seconds : float
        Minimum time of all turns: many turns for short workloads, ``repeats`` for long ones.
    is_warm : bool
        Skip the untimed call of each workload before the turns.
    calls : int
        Calls in a row per turn of a workload shorter than a tenth of a second, after one untimed call if more than 1;
        the turn counts their mean. As in a training loop, the cache then has no data of another workload.
    clock : callable
        Returns the time in seconds.
    """
    order = list(works)
    shuffle = random.Random(0).shuffle
    n_calls = dict.fromkeys(works, calls)
    if not is_warm:
        for name, work in works.items():
            start_s = clock()
            work()
            if clock() - start_s > _LONG_S:
                n_calls[name] = 1
    times_s: dict[str, list[float]] = {name: [] for name in works}
    begin_s = clock()
    n_turns = 0
    while n_turns < repeats or (clock() - begin_s < seconds and n_turns < _MAX_TURNS):
        shuffle(order)
        for name in order:
            if n_calls[name] > 1:
                works[name]()
            start_s = clock()
            for _ in range(n_calls[name]):
                works[name]()
            times_s[name].append((clock() - start_s) / n_calls[name])
        n_turns += 1
    return Turns(times_s)


# --- options ------------------------------------------------------------------------------------------------------


def options_parser(doc: str | None, *, repeats: int, threads: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"minimum number of turns (default: {repeats})")
    parser.add_argument("--threads", type=int, default=threads, help=f"default: {threads or 'as torch chooses'}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    parser.add_argument("--json", type=Path, help="also write all tables to this file")
    return parser


def read_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


# --- results ------------------------------------------------------------------------------------------------------


class Report:
    """Prints each table when it is added, and writes all of them as JSON at the end."""

    def __init__(self, path: Path | None, **settings: Any) -> None:
        self._path = path
        self._tables: dict[str, list[Row]] = {}
        self._environment = {
            "torch": torch.__version__,
            "cpu": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
            "threads": torch.get_num_threads(),
            **settings,
        }
        print(", ".join(f"{name} {value}" for name, value in self._environment.items()))

    def add(self, name: str, title: str, rows: list[Row]) -> None:
        self._tables[name] = rows
        print(f"\n{title}")
        print_table(rows)

    def write(self) -> None:
        if self._path is not None:
            content = {"environment": self._environment, **self._tables}
            self._path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def print_table(rows: Sequence[Row]) -> None:
    """Print one column per key, also of the nested medians and ratios; ``-`` where a row lacks the key."""
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    lines = [columns, *([row.get(name, "-") for name in columns] for row in flat)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _flatten(row: Row) -> dict[str, str]:
    medians, ratios = row.get("median_s", {}), row.get("ratio", {})
    cells = {name: _number(value) for name, value in row.items() if name not in ("median_s", "ratio")}
    cells |= {name: _duration(value) for name, value in medians.items()}
    return cells | {name: _number(value) for name, value in ratios.items()}


def _number(value: object) -> str:
    if isinstance(value, float):
        return _three_digits(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(value_s: float) -> str:
    unit, scale = ("s", 1.0) if value_s >= 1 else ("ms", 1e3) if value_s >= 1e-3 else ("us", 1e6)
    return f"{_three_digits(value_s * scale)} {unit}"


def _three_digits(value: float) -> str:
    return (
        f"{value:,.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 0.1
        else f"{value:.2g}"
    )
