"""Locks on files, so that two processes do not write into one folder.

A lock belongs to the open file: it lasts until every process that has the file open, children that inherited it
included, has closed it. So a folder stays locked while a child trains in it whose parent was killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from dkm.errors import UserError

# `is_locked` holds the lock for a moment: only a file that stays locked over several tries is in use.
_N_TRIES, _PAUSE_S = 5, 0.02


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; return False if another process has locked it.

    On a file system without locks every file counts as free.
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
    """Return whether a process has locked a file; False if there is none."""
    try:
        with path.open("rb") as file:
            return not try_lock(file)
    except OSError:
        return False


@contextmanager
def lock_folder(folder: Path, name: str) -> Iterator[IO[bytes]]:
    """Make the folder ``output=`` and keep other processes out of it while the block runs.

    Yields the locked file, which is called ``name``: a child process that inherits it keeps others out too.

    Raises
    ------
    UserError
        If the folder cannot be made or written to, or another process uses it.
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
