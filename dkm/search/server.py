"""A server that forks the processes of child runs, so that a run does not pay for the imports (3 s of CPU time).

The server is a process that only imports: it computes nothing, so it has neither CUDA nor threads of torch, which do
not survive a fork. A forked process continues as ``python -m MODULE`` would: it gets the arguments, the environment,
the folder, the output and a session, and executes the module as ``__main__``. Linux only: elsewhere, libraries of the
system do not support a fork.

For each run, the server forks a watcher, which forks the run and reports its process id and its exit code through a
socket. The server keeps no state, and its end does not affect the runs.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

IS_AVAILABLE = sys.platform == "linux"

# What a run imports. The commands are not among them, because runpy executes them. A program that starts many runs may
# add to it before the first one.
PRELOADED = [
    *("dkm.config.page", "dkm.search.sweep", "dkm.training.launch", "dkm.training.trainer", "dkm.training.resume"),
    *("dkm.data.datasets", "dkm.runs.directory", "sklearn.datasets", "sklearn.metrics", "sklearn.neighbors"),
    "torch._dynamo",  # torch imports it at the first step of an optimizer
]
_MAX_BYTES, _MAX_DESCRIPTORS = 2**18, 250


class ForkedProcess:
    """A process that the server forked, with those members of ``subprocess.Popen`` that the pool uses."""

    def __init__(self, status: socket.socket) -> None:
        self.returncode: int | None = None
        self._status = status
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """The process id; waits for the server to fork the process."""
        if self._pid is None:
            self._pid = self._receive(None, default=0)
        return self._pid

    def poll(self) -> int | None:
        """Return the exit code if the process has ended."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process and return its exit code, negative if a signal killed it."""
        if self.returncode is None:
            try:
                if self._pid is None:
                    self._pid = self._receive(timeout, default=0)
                self.returncode = self._receive(timeout, default=1)
            except (BlockingIOError, TimeoutError) as error:
                raise subprocess.TimeoutExpired("python -m", timeout or 0.0) from error
            self._status.close()  # the watcher now reaps the process, whose id is no longer valid
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process unless it has ended."""
        if self.pid and self.poll() is None:
            os.kill(self.pid, number)

    def _receive(self, timeout: float | None, default: int) -> int:
        """Return the next number from the watcher, or the default if the server or the watcher has ended."""
        self._status.settimeout(timeout)
        return int(self._status.recv(_MAX_BYTES) or default)


def start(module: str, arguments: Sequence[str], descriptors: Sequence[int]) -> ForkedProcess:
    """Start ``python -m module arguments`` in a session of its own.

    Parameters
    ----------
    module, arguments : str, sequence of str
    descriptors : sequence of int
        Standard output, standard error, and files that the process keeps open.

    Raises
    ------
    OSError
        If the server cannot be reached, or the arguments and the environment are too long for it.
    """
    asked = {
        "module": module,
        "arguments": [*arguments],
        "folder": str(Path.cwd()),
        "has_folder": has_folder_on_path(),
        "environment": dict(os.environ),
    }
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            socket.send_fds(_connect(), [json.dumps(asked).encode()], [theirs.fileno(), *descriptors])
        except OSError:
            ours.close()
            raise
    return ForkedProcess(ours)


def has_folder_on_path() -> bool:
    """Return whether this process looks for modules in the current folder first, as ``python -m`` does.

    A console script does not, and its child runs must not either.
    """
    return sys.path[:1] in ([""], [str(Path.cwd())])


@functools.cache
def _connect() -> socket.socket:
    """Start the server, which ends with this process; return the connection to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Last on the path, because `python -m` may have found dkm in the current folder.
    root = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.append({root!r}); from dkm.search.server import serve; "
    program += f"serve({theirs.fileno()}, {PRELOADED})"
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-P", "-c", program],  # -P: no modules of the current folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[theirs.fileno()],
        )

    def stop() -> None:
        ours.close()
        server.kill()
        server.wait()

    atexit.register(stop)
    return ours


# --- in the server ----------------------------------------------------------------------------------------------------


def serve(descriptor: int, modules: Sequence[str]) -> None:
    """Import the modules; then fork a watcher for each request, until the other end of the connection is closed."""
    for name in modules:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no watcher becomes a zombie
    with socket.socket(fileno=descriptor) as connection:
        while True:
            request, received, *_ = socket.recv_fds(connection, _MAX_BYTES, _MAX_DESCRIPTORS)
            if not request:
                return
            if os.fork() == 0:
                break
            for number in received:
                os.close(number)
    _watch(request, received)


def _watch(request: bytes, received: Sequence[int]) -> NoReturn:
    """Fork the run; report its process id, then its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = socket.socket(fileno=received[0])
    pid = os.fork()
    if pid == 0:
        status.close()
        _run(request, received[1:])
    os.dup2(1, 2)  # so that nobody waits for the end of an output that the watcher has open
    for number in received[1:]:
        os.close(number)
    try:
        status.send(str(pid).encode())
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        status.send(str(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status).encode())
        status.recv(1)  # the process id stays valid until the other end has the exit code
        os.waitpid(pid, 0)
    finally:
        os._exit(0)


def _run(request: bytes, received: Sequence[int]) -> NoReturn:
    """Become the process that was asked for.

    It ends without the shutdown of the interpreter, which takes 1.8 s of CPU time after a fork of so many objects.
    """
    asked = json.loads(request)
    os.setsid()
    for number, target in zip(received, (1, 2), strict=False):
        os.dup2(number, target)
        os.close(number)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    if asked["has_folder"]:
        sys.path.insert(0, asked["folder"])
    sys.argv = ["-m", *asked["arguments"]]
    code: object = 1
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
