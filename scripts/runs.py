"""Complete runs of ``python -m dkm.train`` in child processes, for the benchmarks that need one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dkm.search.pool import ChildRun, train_in_child

# Training only: no figures, no events, one evaluation.
QUIET = (
    "log.tensorboard=false",
    "log.figures=false",
    "log.report=false",
    "log.progress=off",
    "evaluation.every_epochs=1000000",
)


def train(overrides: Sequence[str], directory: Path, *, n_processes: int = 1, threads: int = 1) -> dict[str, Any]:
    """Train in ``directory`` and return the manifest of the run."""
    words = [*QUIET, *overrides, f"threads={threads}"]
    run = train_in_child(ChildRun(words, directory, directory.with_suffix(".log"), n_processes))
    if run.exit_code != 0:
        raise RuntimeError(f"{shlex.join(run.command())}: {run.error()}; see {run.log}")
    manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return manifest
