"""Train many small runs in a row and watch the memory, the open files and the threads of the process:

    python scripts/soak.py                     2,000 runs in one process, then 2,000 in a sweep
    python scripts/soak.py 200 --modes sweep   200 in a sweep

- *process*: by turns ``DeepKMeans.fit`` and the command ``dkm train`` in this process;
- *sweep*: one ``dkm train --multirun``, which trains its runs in one process.

The bar, set before the measurement: after the first quarter of the runs, the memory grows by less than 10 kB per run
(least squares over the samples), and in the last quarter there are never more open files or more threads than in the
second quarter at its highest.

Every tenth run is a line of ``docs/reliability/soak.jsonl``; a mode that is run again replaces its lines.
``scripts/reliability.py`` makes the tables of ``docs/reliability.md`` of it. Linux only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attacks import RESULTS, append_line, read_lines, version, write_lines

LINES = RESULTS / "soak.jsonl"
EVERY = 10
MAX_BYTES_PER_RUN = 10_000  # the bar
_TINY = (
    *("data=blobs", "data.n_samples=60", "model.hidden=[8]", "recipe=classic", "pretrain.epochs=1", "joint.epochs=1"),
    *("clustering.n_init=1", "threads=1", "log.figures=false"),
)


class Sample(NamedTuple):
    """Resident memory in bytes, open files and threads of a process."""

    memory: int
    files: int
    threads: int


def sample(pid: int) -> Sample:
    """Return what a process uses now."""
    process = Path("/proc", str(pid))
    pages = int((process / "statm").read_text(encoding="ascii").split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE")
    return Sample(memory, len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())))


def verdict(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the samples of a mode show: growth per run, and whether all is below the bar."""
    n_runs = max(line["run"] for line in lines)
    quarters = [[line for line in lines if n_runs * q < 4 * line["run"] <= n_runs * (q + 1)] for q in range(4)]
    kept = [line for quarter in quarters[1:] for line in quarter]
    slope = float(np.polyfit([line["run"] for line in kept], [line["memory"] for line in kept], 1)[0])
    most = {key: [max(line[key] for line in quarters[q]) for q in (1, 3)] for key in ("files", "threads")}
    return {
        "runs": n_runs,
        "bytes_per_run": round(slope),
        "memory": [kept[0]["memory"], kept[-1]["memory"]],
        **most,
        "is_flat": slope < MAX_BYTES_PER_RUN and all(then >= now for then, now in most.values()),
    }


def in_process(n_runs: int, folder: Path, on_sample: Callable[[int, Sample], None]) -> None:
    """Train by turns with the estimator and with the command."""
    from dkm import DeepKMeans
    from dkm.train import _main as train

    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    for number in range(1, n_runs + 1):
        if number % 2:
            model = DeepKMeans(n_clusters=3, recipe="classic", hidden=(8,), pretrain_epochs=1, joint_epochs=1, n_init=1)
            model.set_params(random_state=number).fit(X)
        else:
            run = folder / "run"
            if train([*_TINY, f"seed={number}", "log.progress=off", f"hydra.run.dir={run}"]) != 0:
                raise RuntimeError("the run has failed")
            shutil.rmtree(run)
        if number % EVERY == 0:
            on_sample(number, sample(os.getpid()))


def in_sweep(n_runs: int, folder: Path, on_sample: Callable[[int, Sample], None]) -> None:
    """Train in a sweep; its process is sampled as the directories of its runs appear, which are then removed."""
    words = ["--multirun", *_TINY, f"seed=range({n_runs})", f"hydra.sweep.dir={folder / 'sweep'}", "log.progress=off"]
    command = [sys.executable, "-m", "dkm.train", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    number = 0
    while process.poll() is None:
        if (folder / "sweep" / str(number + 1)).is_dir():  # the run before it has ended
            number += 1
            shutil.rmtree(folder / "sweep" / str(number - 1))
            if number % EVERY == 0:
                on_sample(number, sample(process.pid))
            continue
        time.sleep(0.02)
    if process.returncode != 0 and number < n_runs - 1:
        raise RuntimeError(f"the sweep has ended after {number} runs with exit code {process.returncode}")


MODES = {"process": in_process, "sweep": in_sweep}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if a mode is not below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=2000, metavar="N")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--results", type=Path, default=LINES)
    options = parser.parse_args(argv)
    is_flat = True
    for mode in options.modes:
        write_lines(options.results, [line for line in read_lines(options.results) if line["mode"] != mode])

        def on_sample(number: int, found: Sample, mode: str = mode) -> None:
            append_line(options.results, {"mode": mode, "run": number, **found._asdict(), "version": version()})

        with tempfile.TemporaryDirectory(prefix="dkm-soak-") as folder:
            MODES[mode](options.runs, Path(folder), on_sample)
        found = verdict([line for line in read_lines(options.results) if line["mode"] == mode])
        is_flat &= found["is_flat"]
        print(f"{mode}: {json.dumps(found)}", flush=True)
    return 0 if is_flat else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    sys.exit(main())
