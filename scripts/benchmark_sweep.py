"""Times a sweep of 12 short runs on two workers, ``hydra/launcher=joblib``, against the same sweep on one.

The runs are digits with 20 epochs of pretraining and 10 of the joint phase. Two workers have half of the cores each
(``two``). One worker is timed with the same number of threads (``one``, bitwise equal runs) and with all cores
(``wide``): the first ratio is the gain from a second worker, the second the gain over giving each run the whole
machine.

    python scripts/benchmark_sweep.py [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from tempfile import TemporaryDirectory

import torch

from timing import Report, options_parser, read_options, take_turns

_RUN = (
    "recipe=classic",
    "data=digits",
    "pretrain.epochs=20",
    "joint.epochs=10",
    "joint.tolerance=0",
    "log.progress=off",
)
_QUICK = (
    "pretrain.epochs=1",
    "joint.epochs=1",
    "model.hidden=[8]",
    "clustering.n_init=1",
    "log.figures=false",
    "log.report=false",
)


def sweep(words: Sequence[str]) -> None:
    """Sweep in a new folder."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dkm.train", "--multirun", *words, f"hydra.sweep.dir={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=3)
    options = read_options(parser, argv)
    n_runs = 2 if options.quick else 12
    words = [*_RUN, *(_QUICK if options.quick else ()), f"seed=range({n_runs})"]
    threads = torch.get_num_threads()
    half = [*words, f"threads={max(1, threads // 2)}"]
    works = {
        "one": partial(sweep, half),
        "wide": partial(sweep, [*words, f"threads={threads}"]),
        "two": partial(sweep, [*half, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
    }
    report = Report(options.json)
    turns = take_turns(works, repeats=options.repeats, is_warm=True)
    report.add("sweep", f"A sweep of {n_runs} runs", [{"runs": n_runs, **turns.row("two/one", "two/wide")}])
    report.write()


if __name__ == "__main__":
    main()
