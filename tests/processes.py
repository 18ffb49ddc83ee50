"""Runs ``dkm-train`` in real processes that can be killed at an exact point.

The processes are forked from a server that has imported everything, so that one costs a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback

_PRELOADED = [
    "torch._dynamo",
    "dkm.trainer",
    "dkm.resume",
    "dkm.figures",
    "dkm.train",
    "torch.utils.tensorboard",
    "sklearn.metrics",
]
OPTIMIZER = ("torch.optim:Adam", "step")  # of a Point: once per step


class Point(NamedTuple):
    """The ``count``-th call of ``owner.name``; the signal comes before it is made, or after."""

    owner: str
    name: str
    count: int
    signal: int = signal.SIGKILL
    after: bool = False


class Finished(NamedTuple):
    code: int | None
    out: str
    err: str


def train(
    arguments: Sequence[str], log: Path, point: Point | None = None, prepare: Callable[[], object] | None = None
) -> Finished:
    """Run the command line in a process of its own; ``log`` is a directory for its output.

    ``prepare`` is called in that process before anything else: a function of a module, or a partial of one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    log.mkdir(exist_ok=True, parents=True)
    process = context.Process(target=_run, args=(list(arguments), log, point, prepare))
    process.start()
    process.join()
    return Finished(process.exitcode, (log / "out").read_text(), (log / "err").read_text())


def _run(arguments: list[str], log: Path, point: Point | None, prepare: Callable[[], object] | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    import torch

    from dkm.train import main

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    if point is not None:
        on_call(point, lambda: os.kill(os.getpid(), point.signal))
    sys.argv = ["dkm-train", *arguments]
    main()


class Preempted(Callback):
    """Sends SIGUSR2, as a cluster does, to job 1 of a sweep before its 7th step; not when it is started again."""

    def on_job_start(self, config: Any, **_: Any) -> None:
        hydra = config.hydra
        if hydra.job.num == 1 and not Path(hydra.runtime.output_dir, "config.yaml").exists():
            on_call(Point(*OPTIMIZER, 7), lambda: os.kill(os.getpid(), signal.SIGUSR2))


def on_call(point: Point, action: Callable[[], object]) -> None:
    """Do something at a point of this process, instead of sending the signal."""
    import importlib

    module, _, inner = point.owner.partition(":")
    owner: Any = importlib.import_module(module)
    for part in inner.split(".") if inner else ():
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, point.name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == point.count and not point.after:
            action()
        result = original(*args, **kwargs)
        if calls == point.count and point.after:
            action()
        return result

    setattr(owner, point.name, counted)
