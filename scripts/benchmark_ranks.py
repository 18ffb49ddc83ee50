"""Times epochs of several processes of one thread each against one process of one thread.

Whole runs in turns: ``torchrun --nproc_per_node=N -m dkm.train`` on noise of MNIST's width, default network, without
augmentation. The seconds are those of the phases in the run's manifest, without start, k-means and scores. Each process
takes its share of every batch, so the more rows a batch has, the less the exchange of the gradients (13 MB each step)
weighs.

    python scripts/benchmark_ranks.py [--processes 2] [--samples 20000] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from runs import train
from timing import Report, Row, Turns, options_parser, read_options

BATCH_SIZES = (256, 1024)
_FEATURES = 784


def compare(n_processes: int, n_samples: int, batch_size: int, repeats: int) -> list[Row]:
    overrides = ["data=blobs", f"data.n_features={_FEATURES}", f"data.n_samples={n_samples}", "clustering.n_init=1"]
    overrides += [f"batch_size={batch_size}", "pretrain.epochs=2", "joint.epochs=2", "joint.tolerance=0"]
    times_s: dict[str, dict[str, list[float]]] = {phase: {"one": [], "several": []} for phase in ("pretrain", "joint")}
    for turn in range(repeats):
        order = ("one", "several") if turn % 2 == 0 else ("several", "one")
        for name in order:
            with tempfile.TemporaryDirectory() as directory:
                manifest = train(
                    overrides, Path(directory) / "run", n_processes=n_processes if name == "several" else 1
                )
            for phase, seconds in manifest["seconds"].items():
                times_s[phase][name].append(seconds)
    return [
        {"phase": phase, "batch_size": batch_size, **Turns(times).row("one/several")}
        for phase, times in times_s.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samples", type=int, default=20_000)
    options = read_options(parser, argv)
    report = Report(options.json, precision="fp32", processes=options.processes)
    n_samples: int = options.samples
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    if options.quick:
        n_samples, batch_sizes = 300, (100,)
    rows = [row for size in batch_sizes for row in compare(options.processes, n_samples, size, options.repeats)]
    report.add("ranks", f"{options.processes} processes of one thread against one, {n_samples:,} samples", rows)
    report.write()


if __name__ == "__main__":
    main()
