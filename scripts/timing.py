"""What the benchmarks share: works that take turns, medians of ratios, the options, tables and JSON.

Works that are compared take turns in one process, in an order drawn anew for each turn, so that whatever else the
machine does meanwhile hits all of them. Each turn gives one ratio, and the median of these is reported: it compares
times that lie seconds apart, which the ratio of two medians does not.
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

# More turns than this change no median that is worth having.
_MAX_TURNS = 1000
# A work that takes longer fills the cache by itself.
_LONG_S = 0.1

Row = dict[str, Any]


@dataclass(frozen=True)
class Turns:
    """The seconds that each work took, one number per turn."""

    times_s: Mapping[str, Sequence[float]]

    def median_s(self, name: str) -> float:
        return statistics.median(self.times_s[name])

    def ratio(self, fraction: str) -> float:
        """Return the median over turns of ``a`` divided by ``b``, for a fraction written ``a/b``."""
        above, below = (self.times_s[name] for name in fraction.split("/"))
        return statistics.median(a / b for a, b in zip(above, below, strict=True))

    def row(self, *fractions: str) -> Row:
        """Return the number of turns, the medians of all works, and those of the ``fractions`` whose works ran."""
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
    """Run all works once per turn.

    Parameters
    ----------
    works : mapping of name to work
    repeats : int
        The fewest turns.
    seconds : float
        Turns go on until this much time has passed: many for short works, ``repeats`` for long ones.
    is_warm : bool
        Without the call of each work that otherwise comes before the turns and is not timed.
    calls : int
        With more than one, a turn of a work that takes less than a tenth of a second is this many calls in a row after
        one that is not timed, and counts as the mean of them: as in a training loop, and not with the cache full of
        what another work left there.
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
    """Return a parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"the fewest turns (default: {repeats})")
    parser.add_argument("--threads", type=int, default=threads, help=f"default: {threads or 'as torch chooses'}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser


def read_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


# --- results ------------------------------------------------------------------------------------------------------


class Report:
    """Prints each table when it is there, and writes all of them as JSON in the end."""

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
    """Print one column per key; those of medians and ratios are spread out; ``-`` where a row has no such key."""
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
