"""Runs ``dkm-train`` in real processes that can be killed at an exact point.

The processes are forked from a server that has imported everything, so that one costs a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra.experimental.callback import Callback

from dkm.train import main

OPTIMIZER = ("torch.optim:Adam", "step")  # of a Point: once per step

# As `dkm.train` sets it for several processes. The server of the processes imports torch, which reads it then.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

# A process that takes longer hangs.
_LONGEST_S = 60


class Point(NamedTuple):
    """The ``count``-th call of ``owner.name``; the signals come before it is made, or after.

    Without any signal the call returns nan times its result.
    """

    owner: str
    name: str
    count: int
    signal: int = signal.SIGKILL
    after: bool = False
    and_signal: int | None = None
    is_nan: bool = False


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
    return _finished([_started(list(arguments), log, point, {}, prepare=prepare)])[0]


def train_ranks(
    arguments: Sequence[str],
    log: Path,
    *,
    n_ranks: int = 2,
    own: Mapping[int, Sequence[str]] | None = None,
    points: Mapping[int, Point] | None = None,
    program: Callable[[], object] = main,
) -> list[Finished]:
    """Run the command line in processes that train together, as torchrun starts them; none of them ends another.

    Parameters
    ----------
    own : mapping, optional
        Arguments that only one rank gets, by rank.
    points : mapping, optional
        What happens to a rank, by rank.
    program : callable
        What each rank runs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": str(n_ranks), "LOCAL_WORLD_SIZE": str(n_ranks)}
    started = []
    for rank in range(n_ranks):
        words = [*arguments, *(own or {}).get(rank, ())]
        environment = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(_started(words, log / str(rank), (points or {}).get(rank), environment, program))
    return _finished(started)


def _started(
    arguments: list[str],
    log: Path,
    point: Point | None,
    environment: Mapping[str, str],
    program: Callable[[], object] = main,
    prepare: Callable[[], object] | None = None,
) -> tuple[BaseProcess, Path]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    log.mkdir(exist_ok=True, parents=True)
    process = context.Process(target=_run, args=(arguments, log, point, environment, program, prepare))
    with pytest.MonkeyPatch.context() as patch:  # for the server, which the first process starts
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        process.start()
    return process, log


def _finished(started: Sequence[tuple[BaseProcess, Path]]) -> list[Finished]:
    try:
        for process, _ in started:
            process.join(_LONGEST_S)
        return [Finished(p.exitcode, (log / "out").read_text(), (log / "err").read_text()) for p, log in started]
    finally:
        for process, _ in started:
            process.kill()  # one that hangs; its code is None above


def _run(
    arguments: list[str],
    log: Path,
    point: Point | None,
    environment: Mapping[str, str],
    program: Callable[[], object],
    prepare: Callable[[], object] | None,
) -> None:
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    import torch

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    if point is not None:
        on_call(point, lambda: _send(point))
    sys.argv = ["dkm-train", *arguments]
    program()


def _send(point: Point) -> None:
    for number in (point.signal, point.and_signal):
        if number is not None:
            os.kill(os.getpid(), number)


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
        is_here = calls == point.count
        if is_here and not point.after and not point.is_nan:
            action()
        result = original(*args, **kwargs)
        if is_here and point.after:
            action()
        return result * float("nan") if is_here and point.is_nan else result

    setattr(owner, point.name, counted)
