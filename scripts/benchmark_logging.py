"""Times the logging of whole runs at its default intervals: the sinks of ``log.to``, figures, and loading both.

The logging is timed inside the run, call by call, and ``rest`` is the remaining time of the process from the start of
Python to its end: their ratio is the relative cost of logging. (Comparing runs with and without logging would not do:
equal runs differ by a few per cent, as much as the cost.) The data are digits with the default settings, and noise of
MNIST's size with few epochs, where an evaluation is a larger part than in a long run.

    python scripts/benchmark_logging.py [--to tensorboard csv] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dkm.config.compose import compose, parse
from dkm.config.sinks import SINKS
from dkm.runs.sinks.base import Sinks
from dkm.training.launch import Plan, execute
from dkm.training.recorder import Recorder
from epochs import random_images, rows_of
from timing import Report, Row, Turns, options_parser, read_options

_QUICK = ("pretrain.epochs=1", "joint.epochs=1", "model.hidden=[8]", "clustering.n_init=1", "evaluation.samples=300")


class Stopwatch:
    """Adds up the seconds in ``running`` blocks; nested blocks count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        started_s = time.perf_counter()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.seconds += time.perf_counter() - started_s

    def time(self, owner: type, *names: str) -> None:
        """Time these methods of a class."""
        for name in names:
            setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **more: Any) -> Any:
            with self.running():
                return method(*args, **more)

        return timed


def measure(directory: Path, words: Sequence[str]) -> None:
    """Train in this process, and print the seconds of logging as the last line."""
    watch = Stopwatch()
    with watch.running():
        import dkm.evaluation.figures.run  # noqa: F401 - matplotlib
    watch.time(Recorder, "pictures", "_write_figures")
    watch.time(Sinks, *(name for name in vars(Sinks) if callable(getattr(Sinks, name)) and not name.startswith("_")))
    composed = compose(parse(["recipe=classic", *words]))
    execute(Plan(composed.config, directory, composed))
    print(watch.seconds)


def turn(words: Sequence[str]) -> tuple[float, float]:
    """Train in a new folder; return the seconds of logging and of the rest."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--measure", f"{folder}/run", *words]
        started_s = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        total_s = time.perf_counter() - started_s
    logging_s = float(done.stdout.splitlines()[-1])
    return logging_s, total_s - logging_s


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=3)
    parser.add_argument("--measure", nargs="+", help="only train, FOLDER WORDS..., and print the seconds of logging")
    parser.add_argument("--to", nargs="+", default=["tensorboard"], choices=SINKS, help="the sinks (log.to)")
    options = read_options(parser, argv)
    if options.measure is not None:
        folder, *words = options.measure
        measure(Path(folder), words)
        return
    report = Report(options.json)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, rows_of(random_images(300 if options.quick else 70_000)).numpy().reshape(-1, 28, 28))
        large = ["data=npy", f"data.path={path}", "clustering.n_clusters=10", "pretrain.epochs=10", "joint.epochs=10"]
        settings = {"digits": ["data=digits"], "70,000 images": [*large, "joint.tolerance=0", "precision=bf16"]}
        rows: list[Row] = []
        for name, words in settings.items():
            words = [*words, f"log.to=[{','.join(options.to)}]", *(_QUICK if options.quick else ())]
            turns = [turn(words) for _ in range(options.repeats)]
            times_s = dict(zip(("logging", "rest"), zip(*turns, strict=True), strict=True))
            rows.append({"data": name, **Turns(times_s).row("logging/rest")})
        report.add("runs", "Whole runs", rows)
    report.write()


if __name__ == "__main__":
    main()
