"""Whole runs of ``python -m dkm.train`` in processes of their own, for the benchmarks that need one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Nothing but training: no pictures, no events, one evaluation.
QUIET = ("log.tensorboard=false", "log.figures=false", "log.progress=off", "evaluation.every_epochs=1000000")


def train(overrides: Sequence[str], directory: Path, *, n_processes: int = 1, threads: int = 1) -> dict[str, Any]:
    """Train in ``directory`` and return the run's manifest, which has the seconds of each phase without the start."""
    module = ["-m", "dkm.train"]
    if n_processes > 1:
        module = ["-m", "torch.distributed.run", f"--nproc_per_node={n_processes}", *module]
    command = [sys.executable, *module, *QUIET, *overrides, f"threads={threads}", f"hydra.run.dir={directory}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr[-2000:]}")
    manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return manifest
