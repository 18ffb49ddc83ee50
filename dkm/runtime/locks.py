"""File locks that prevent two processes from writing to the same folder.

A lock belongs to the open file: it lasts until every process with the open file, including children that inherited it,
has closed it. A folder therefore stays locked while a child trains in it, even if the parent was killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from dkm.errors import UserError

# `is_locked` briefly holds the lock: a file is in use only if it stays locked over several tries.
_N_TRIES, _PAUSE_S = 5, 0.02


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; return False if another process has locked it.

    On a file system without locks, return True.
    """
    try:
        for _ in range(_N_TRIES - 1):
            if lock_descriptor(file.fileno(), blocking=False):
                return True
            time.sleep(_PAUSE_S)
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError:
        return True


def is_locked(path: Path) -> bool:
    """Return whether a process has locked a file; False if the file does not exist."""
    try:
        with path.open("rb") as file:
            return not try_lock(file)
    except OSError:
        return False


@contextmanager
def lock_folder(folder: Path, name: str) -> Iterator[IO[bytes]]:
    """Create the folder ``output=`` and lock it for the duration of the context.

    Yields the lock file, which is called ``name``; a child process that inherits it also holds the lock.

    Raises
    ------
    UserError
        If the folder cannot be created or written to, or another process uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / name).open("ab")
    except OSError as error:
        raise UserError(f"output={folder}: {error.strerror}; expected a place to write; choose another") from error
    with lock:
        if not try_lock(lock):
            what = "expected a folder that no other process uses; wait until that process ends, or choose another"
            raise UserError(f"output={folder}: {what}")
        yield lock
