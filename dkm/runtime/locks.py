"""Lock files that prevent two processes from writing to the same folder.

A lock belongs to the open file: it lasts until every process with the open file, including children that inherited it,
has closed it. A folder therefore stays locked while a child trains in it, even if the parent was killed. The lock file
tells which process has taken the lock, on which host and when; only the lock itself says whether it is still held.

On a file system without locks nobody is kept out, with a warning.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from dkm.errors import UserError
from dkm.runtime.links import links_out_of, open_unless_link

# `is_locked` briefly holds the lock: a file is in use only if it stays locked over several tries.
_N_TRIES, _PAUSE_S = 5, 0.02
# Of a host's name and other parts of a lock file in a message.
_MAX_CHARACTERS = 64


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds.

    Parameters
    ----------
    path : Path
        The lock file.
    file : file
        The open lock file; a child process that inherits it also holds the lock.
    problem : str, optional
        Why the file system has no locks, so that nobody is kept out; None if it has.
    """

    path: Path
    file: IO[bytes]
    problem: str | None = None

    @property
    def caution(self) -> str:
        """What to take care of if the file system has no locks."""
        remedy = "make sure that no other process uses it"
        return f"{self.path.parent}: the file system has no locks ({self.problem}); {remedy}"

    def release(self) -> None:
        """Remove the lock file and release the lock; not for a lock that children have inherited."""
        # Removed while locked: a process that opens it before that finds out in `acquire`.
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.file.close()


def acquire(path: Path) -> Lock | None:
    """Lock a file, which is created if it does not exist; return None if another process has locked it.

    Raises
    ------
    OSError
        If the file cannot be written to, or is a link.
    """
    for n_left in reversed(range(_N_TRIES)):
        file, problem = open_unless_link(path, "a+b"), None
        try:
            is_free = _lock(file)
        except OSError as error:
            is_free, problem = True, error.strerror or str(error)
        if not is_free:
            file.close()
            return None
        if _is_file(file, path) or n_left == 0:  # file systems are known in which no file is the same twice
            break
        file.close()  # its holder has removed it since it was opened
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    file.truncate(0)
    file.write((json.dumps(holder) + "\n").encode())
    file.flush()
    return Lock(path, file, problem)


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; return False if another process has locked it.

    On a file system without locks, return True.
    """
    try:
        return _lock(file)
    except OSError:
        return True


def _lock(file: IO[Any]) -> bool:
    for n_left in reversed(range(_N_TRIES)):
        if lock_descriptor(file.fileno(), blocking=False):
            return True
        if n_left > 0:
            time.sleep(_PAUSE_S)
    return False


def _is_file(file: IO[Any], path: Path) -> bool:
    """Return whether an open file is the one with this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Return whether a process has locked a file; False if the file does not exist."""
    try:
        with _open_to_probe(path) as file:
            return not try_lock(file)
    except OSError:
        return False


def _open_to_probe(path: Path) -> IO[bytes]:
    """Open a file so that it can be locked: over NFS only one that is open for writing can, elsewhere any."""
    try:
        return path.open("r+b")
    except FileNotFoundError:
        raise
    except OSError:  # it may only be read
        return path.open("rb")


def holder_of(path: Path) -> str:
    """Return who has taken the lock, such as "process 71 on node3 since 2026-01-31T12:00:00+00:00"."""
    try:
        holder = json.loads(path.read_bytes())
        pid, host, started = (
            " ".join(str(holder[key]).split())[:_MAX_CHARACTERS] for key in ("pid", "host", "started")
        )
    except (OSError, RecursionError, ValueError, TypeError, KeyError):
        return "another process"
    return f"process {pid} on {host} since {started}"


@contextlib.contextmanager
def lock_folder(folder: Path, name: str) -> Iterator[IO[bytes]]:
    """Create the folder ``output=`` and lock it for the duration of the context.

    Yields the lock file, which is called ``name``; a child process that inherits it also holds the lock.

    Raises
    ------
    UserError
        If the folder cannot be created or written to, another process uses it, or a link in it leads out of it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_no_links(folder)
        lock = acquire(folder / name)
    except OSError as error:
        raise UserError(f"output={folder}: {error.strerror}; expected a place to write; choose another") from error
    if lock is None:
        found = f"in use by {holder_of(folder / name)}, or by a run that it has started"
        remedy = "wait until that process ends, or choose another"
        raise UserError(f"output={folder}: {found}; expected a folder that no other process uses; {remedy}")
    if lock.problem is not None:
        print(f"warning: {lock.caution}", file=sys.stderr)
    with lock.file as file:
        yield file


def _require_no_links(folder: Path) -> None:
    """Refuse a folder with a link that leads out of it: somebody may have planted it, and a search writes there."""
    for link in links_out_of(folder):
        raise UserError(
            f"output={folder}: {link} is a link to {link.readlink()}; expected a folder without links that lead out of "
            f"it, as it is written to; remove the link: rm {shlex.quote(str(link))}"
        )
