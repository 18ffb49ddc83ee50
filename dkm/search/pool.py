"""Child runs: ``python -m dkm.train`` in processes of its own, a few at a time.

``dkm.select``, ``dkm.tune`` and the scripts train this way. On Linux, ``dkm.search.server`` forks the processes, which
saves their imports. A sweep (``dkm.train --multirun``) has Hydra's launchers.

    with ChildPool[ChildRun](n_at_once=2) as pool:
        for run in pool.train([ChildRun(["seed=0"], Path("a")), ChildRun(["seed=1"], Path("b"))]):
            print(run.directory, run.exit_code)
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Generic, TypeVar

from dkm.config.commands import EXIT_INTERRUPTED
from dkm.config.values import quoted
from dkm.errors import Failure, reason
from dkm.runs.reading import CONFIG
from dkm.runtime.links import open_unless_link
from dkm.runtime.locks import try_lock
from dkm.search import server

POLL_S = 0.2
# Seconds that an interrupted run has to write its checkpoint before it is killed.
PATIENCE_S = 60.0


@dataclass(eq=False)
class ChildRun:
    """One run in a process of its own.

    Parameters
    ----------
    overrides : sequence of str
        The overrides of ``dkm.train``, without the run directory.
    directory : Path
        The run directory. A run that has begun in it is resumed.
    log : Path, optional
        Where the errors of the process are kept, and what it prints is dropped. The process holds the lock of this
        file, also when it outlives the one that started it. None: all goes to the terminal.
    n_processes : int
        More than one train together under torchrun.
    """

    overrides: Sequence[str]
    directory: Path
    log: Path | None = None
    n_processes: int = 1
    process: subprocess.Popen[bytes] | server.ForkedProcess = field(init=False)

    def command(self) -> list[str]:
        """Return the command line of the process."""
        torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={self.n_processes}"]
        # resume=auto would take up another run of the same config where there is none in the directory yet.
        resume = ["resume=auto"] if (self.directory / CONFIG).is_file() else []
        return [
            *(sys.executable, *(torchrun if self.n_processes > 1 else []), "-m", "dkm.train"),
            *(*self.overrides, f"hydra.run.dir={quoted(self.directory)}", *resume),
        ]

    @property
    def exit_code(self) -> int:
        """The code with which the process has ended, negative if a signal killed it."""
        assert self.process.returncode is not None, "the run has ended"
        return self.process.returncode

    @property
    def was_interrupted(self) -> bool:
        """Whether it was asked to end, and can be resumed."""
        return self.exit_code in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)

    def interrupt(self) -> None:
        """Ask the process to write a checkpoint and end."""
        # Not SIGINT, which the children of a background job ignore until they have set up their own handler.
        self.process.send_signal(signal.SIGTERM)

    def error(self) -> str:
        """Return in one line why the process failed."""
        if self.exit_code < 0:
            return f"killed by {signal.Signals(-self.exit_code).name}"
        text = "" if self.log is None else self.log.read_text(encoding="utf-8", errors="replace")
        lines = text.strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return [f"exit code {self.exit_code}", *lines, *errors][-1].removeprefix("error: ")


R = TypeVar("R", bound=ChildRun)


class ChildPool(Generic[R]):
    """Trains runs in child processes; whoever leaves its ``with`` block interrupts those that still train.

    Each process has a session of its own: Ctrl-C reaches this process alone, which passes it on.

    Parameters
    ----------
    n_at_once : int
        Runs at a time; may be changed.
    inherited : sequence of files
        Files that the processes keep open, for the locks on them.
    """

    def __init__(self, n_at_once: int = 1, *, inherited: Sequence[IO[bytes]] = ()) -> None:
        self.n_at_once = n_at_once
        self.running: list[R] = []
        self._inherited = inherited

    def __enter__(self) -> ChildPool[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.n_at_once

    def start(self, run: R) -> None:
        """Start the process of a run."""
        descriptors = [file.fileno() for file in self._inherited]
        if run.log is None:
            run.process = _start_process(run.command(), 1, 2, descriptors)
        else:
            with _open_log(run.log) as log, Path(os.devnull).open("wb") as devnull:
                try_lock(log)  # the process inherits the lock with the file
                run.process = _start_process(run.command(), devnull.fileno(), log.fileno(), descriptors)
        self.running.append(run)

    def ended(self, on_poll: Callable[[R], object] | None = None) -> Iterator[R]:
        """Wait a moment, then yield the runs that have ended.

        ``on_poll`` is called with each run, once more after its process has ended: it sees all that a run has written.
        """
        time.sleep(POLL_S)
        for run in list(self.running):
            has_ended = run.process.poll() is not None
            if on_poll is not None:
                on_poll(run)
            if has_ended:
                self.running.remove(run)
                yield run

    def train(self, runs: Iterable[R]) -> Iterator[R]:
        """Train the runs, in their order and as many at a time as may be; yield each when it has ended."""
        waiting = deque(runs)
        while waiting or self.running:
            while waiting and self.has_room:
                self.start(waiting.popleft())
            yield from self.ended()

    def stop(self) -> None:
        """Interrupt the runs that still train and wait for their checkpoints; kill those that take too long."""
        for run in self.running:
            run.interrupt()
        deadline = time.monotonic() + PATIENCE_S
        while self.running:
            run = self.running.pop()
            try:
                run.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(run.process.pid, signal.SIGKILL)
                run.process.wait()


def _open_log(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open_unless_link(path, "wb")
    except OSError as error:
        found = f"cannot be written ({reason(error)})"
        raise Failure(f"{path}: {found}; remove it if it is a link, or choose another output=") from error


def _start_process(
    command: list[str], stdout: int, stderr: int, inherited: Sequence[int]
) -> subprocess.Popen[bytes] | server.ForkedProcess:
    """Start a process in a session of its own: a run of ``dkm.train`` by the fork server."""
    if server.IS_AVAILABLE and command[:3] == [sys.executable, "-m", "dkm.train"]:
        try:
            return server.start(command[2], command[3:], [stdout, stderr, *inherited])
        except OSError:
            pass  # no server
    # Not the option -P: the processes that torchrun starts need it too.
    environment = None if server.has_folder_on_path() else {**os.environ, "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(
        command, stdout=stdout, stderr=stderr, env=environment, start_new_session=True, pass_fds=inherited
    )


def resume_hint(folder: Path) -> str:
    """Return how a search in a folder is resumed."""
    return f"the same command with output={shlex.quote(str(folder))} resumes it"


def train_in_child(run: ChildRun) -> ChildRun:
    """Train one run in a process of its own, and return it when it has ended."""
    with ChildPool[ChildRun]() as pool:
        (ended,) = pool.train([run])
    return ended
