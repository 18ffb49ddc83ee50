"""Times whole runs with all of the logging, at its default intervals, against the same runs without any.

``all`` is ``python -m dkm.train`` as it is: TensorBoard, pictures, progress. ``none`` has log.tensorboard=false,
log.figures=false and log.progress=off. Both evaluate as often. The seconds are those of the process, from the start of
Python to its end. Digits with the default settings; images as large as MNIST, of noise, with few epochs, of which an
evaluation is a larger part than in a long run.

    python scripts/benchmark_logging.py [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from epochs import random_images, rows_of
from timing import Report, Row, options_parser, read_options, take_turns

_SILENT = ("log.tensorboard=false", "log.figures=false", "log.progress=off")
_QUICK = ("pretrain.epochs=1", "joint.epochs=1", "model.hidden=[8]", "clustering.n_init=1", "evaluation.samples=300")


def train(words: Sequence[str]) -> None:
    """Train in a folder that is new each time."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dkm.train", *words, f"hydra.run.dir={folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=3)
    options = read_options(parser, argv)
    report = Report(options.json)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, rows_of(random_images(300 if options.quick else 70_000)).numpy().reshape(-1, 28, 28))
        large = ["data=npy", f"data.path={path}", "clustering.n_clusters=10", "pretrain.epochs=10", "joint.epochs=10"]
        settings = {"digits": ["data=digits"], "70,000 images": [*large, "joint.tolerance=0", "precision=bf16"]}
        rows: list[Row] = []
        for name, words in settings.items():
            own = [*words, *(_QUICK if options.quick else ())]
            works = {"all": partial(train, own), "none": partial(train, [*own, *_SILENT])}
            turns = take_turns(works, repeats=options.repeats, is_warm=True)
            rows.append({"data": name, **turns.row("all/none")})
        report.add("runs", "Whole runs", rows)
    report.write()


if __name__ == "__main__":
    main()
