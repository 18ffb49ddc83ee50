"""Compares epochs on a file on disk with epochs on data in memory: time per row, and peak memory.

A file of float32 noise around ten centers (default: 10,000,000 x 64, 2.6 GB) is written to a temporary folder.
Pretraining epochs (``OurEpochs`` in epochs.py) are timed: one epoch of the file, read with ``data.load=disk``, takes
turns with epochs of 100,000 rows in memory that together have the same number of rows, after one untimed epoch. Extra
memory is the kernel's high-water mark of resident memory (VmHWM) at the end of a whole run of one epoch in a separate
process, with k-means, scores and ``assignments.csv``, minus that of a process that has only imported the same modules.
The file was just written, so the system reads it from its cache as far as it fits.

    python scripts/benchmark_disk.py [--rows 10000000] [--features 64] [--precision bf16] [--folder DIR] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from epochs import OurEpochs, load
from runs import train
from timing import Report, Row, options_parser, read_options, take_turns

_CENTERS = 10
_ROWS_AT_ONCE = 100_000
_MIB = 2**20


def write_file(path: Path, n_rows: int, n_features: int) -> None:
    """Write noise around centers, in chunks."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(_CENTERS, n_features)).astype(np.float32) * 3
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, n_features))
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        rows = array[start : start + _ROWS_AT_ONCE]
        rows[:] = centers[random.integers(_CENTERS, size=len(rows))]
        rows += random.standard_normal(rows.shape, dtype=np.float32)
    array.flush()


def start_bytes() -> int:
    """Return the peak memory of a process that has imported the modules and read nothing."""
    code = (
        "import sklearn.metrics, dkm.training.trainer; from dkm.runtime.environment import peak_memory_bytes;"
        "print(peak_memory_bytes())"
    )
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def run(path: Path, overrides: Sequence[str], threads: int) -> Row:
    """Return the extra memory of a whole run from disk."""
    with tempfile.TemporaryDirectory() as directory:
        fixed = [
            "recipe=classic",
            "data=npy",
            f"data.path={path}",
            "data.load=disk",
            "pretrain.epochs=1",
            "clustering=none",
        ]
        fixed += ["clustering.n_init=3", "checkpoint.every_s=30", f"clustering.n_clusters={_CENTERS}"]
        manifest = train([*fixed, *overrides], Path(directory) / "run", threads=threads)
    return {"extra_mib": (manifest["peak_memory_bytes"] - start_bytes()) / _MIB}


def compare(large: Path, small: Path, overrides: Sequence[str], repeats: int) -> Row:
    """Return the times of the same number of rows from disk and in memory."""
    ours = {
        name: OurEpochs(
            load("data=npy", f"data.path={path}", f"data.load={name}"),
            *(f"clustering.n_clusters={_CENTERS}", *overrides),
            phase="pretrain",
        )
        for name, path in (("disk", large), ("memory", small))
    }
    n_rows, n_small = (ours[name].trainer.data.n_samples for name in ("disk", "memory"))
    ours["memory"]()

    def in_memory() -> None:
        for _ in range(n_rows // n_small):
            ours["memory"]()

    turns = take_turns({"disk": ours["disk"], "memory": in_memory}, repeats=repeats, is_warm=True)
    return {"rows": n_rows, "us_per_row": 1e6 * turns.median_s("disk") / n_rows, **turns.row("disk/memory")}


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=1, threads=2)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--rows-in-memory", type=int, default=100_000)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--folder", help="where the file is written (default: the system's temporary folder)")
    parser.add_argument("overrides", nargs="*", help="more settings, for instance model.hidden=[64]")
    options = read_options(parser, argv)
    if sys.platform != "linux":
        sys.exit("peak memory is measured on Linux only")
    n_rows, n_small = (5000, 1000) if options.quick else (options.rows, options.rows_in_memory)
    overrides = [f"precision={options.precision}", *options.overrides]
    report = Report(options.json, precision=options.precision, overrides=" ".join(options.overrides))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        large, small = Path(folder, "large.npy"), Path(folder, "small.npy")
        write_file(large, n_rows, options.features)
        write_file(small, n_small, options.features)
        memory = run(large, overrides, options.threads)
        rows = [{**compare(large, small, overrides, options.repeats), **memory}]
    report.add("disk", f"Epochs of {n_rows:,} x {options.features}", rows)
    report.write()


if __name__ == "__main__":
    main()
