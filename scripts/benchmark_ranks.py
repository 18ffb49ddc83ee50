"""Times epochs of several processes of one thread each against one process of one thread.

The data are noise of MNIST's shape; default network, no augmentation; an epoch is that of ``OurEpochs`` in epochs.py.
One process and ``torchrun --nproc_per_node=N`` take turns; each is started anew, trains one untimed epoch, and reports
the median of the following ones. Each process trains its share of every batch: with larger batches, the matrix products
of a share are more efficient, and the exchange of 13 MB of gradients per step matters less.

    python scripts/benchmark_ranks.py [--processes 2] [--samples 16384] [--batch-sizes 256 1024] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from dkm.runtime import distributed
from epochs import OurEpochs, random_images
from timing import Report, Row, Turns, options_parser, read_options

_PHASES = ("pretrain", "joint")


def measure(phase: str, batch_size: int, n_samples: int, n_epochs: int) -> float:
    """Return the median seconds of an epoch in this process, which trains with the others of its job."""
    overrides = [f"batch_size={batch_size}", "augmentation=none", "threads=1"]
    with distributed.process_group(with_cuda=False):
        epoch = OurEpochs(random_images(n_samples), *overrides, phase=phase)
        times_s = []
        for _ in range(1 + n_epochs):
            start_s = time.perf_counter()
            epoch()
            times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s[1:])


def start(n_processes: int, phase: str, batch_size: int, n_samples: int, n_epochs: int) -> float:
    """Return the result of ``measure`` in new processes."""
    program = [__file__, "--threads", "1", "--measure", phase]
    program += [str(number) for number in (batch_size, n_samples, n_epochs)]
    if n_processes > 1:
        program = ["-m", "torch.distributed.run", f"--nproc_per_node={n_processes}", *program]
    done = subprocess.run([sys.executable, *program], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def compare(n_processes: int, phase: str, batch_size: int, n_samples: int, n_epochs: int, repeats: int) -> Row:
    times_s: dict[str, list[float]] = {"one": [], "several": []}
    for turn in range(repeats):
        for name in ("one", "several") if turn % 2 == 0 else ("several", "one"):
            n = n_processes if name == "several" else 1
            times_s[name].append(start(n, phase, batch_size, n_samples, n_epochs))
    return {"phase": phase, "batch_size": batch_size, **Turns(times_s).row("one/several")}


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samples", type=int, default=16_384)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each process (default: 3)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--measure", nargs=4, help="only print the seconds of PHASE BATCH_SIZE SAMPLES EPOCHS")
    options = read_options(parser, argv)
    if options.measure is not None:
        phase, *numbers = options.measure
        seconds = measure(phase, *(int(number) for number in numbers))
        if distributed.is_main():
            print(json.dumps(seconds))
        return
    report = Report(options.json, precision="fp32", processes=options.processes)
    n_samples, n_epochs, batch_sizes = options.samples, options.epochs, options.batch_sizes
    if options.quick:
        n_samples, n_epochs, batch_sizes = 300, 1, [100]
    rows = [
        compare(options.processes, phase, size, n_samples, n_epochs, options.repeats)
        for size in batch_sizes
        for phase in _PHASES
    ]
    report.add("ranks", f"{options.processes} processes of one thread against one, {n_samples:,} samples", rows)
    report.write()


if __name__ == "__main__":
    main()
