"""Atomic file writes.

A file is written under a temporary name beside its own, flushed to disk and renamed: at every moment it has either its
old or its new content, also after a power failure. A temporary file does not outlive a write that fails.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes | Iterable[bytes], *, is_shared: bool = False) -> None:
    """Replace a file atomically.

    Parameters
    ----------
    data : bytes or iterable of bytes
        Content of the file, in one piece or in consecutive parts.
    is_shared : bool
        See ``replacing``.
    """
    with replacing(path, is_shared=is_shared) as temporary, temporary.open("wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)


@contextlib.contextmanager
def replacing(path: Path, *, is_shared: bool = False, is_synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path, which the block writes and which then replaces ``path``.

    If the block or the replacement fails, the temporary file is removed and ``path`` keeps its old content.

    Parameters
    ----------
    is_shared : bool
        Whether other processes, here or on another host, may write the same file at the same time. The temporary name
        is then a random one; otherwise it is a fixed one, so that killed processes do not accumulate files.
    is_synced : bool
        Whether the content survives a power failure.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp" if is_shared else f"{path.name}.tmp")
    if temporary.is_symlink():  # of a folder from somebody else: what it leads to is not ours to write
        temporary.unlink()
    try:
        yield temporary
        if is_synced:
            publish(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def publish(temporary: Path, path: Path) -> None:
    """Flush a file, or a folder with all of its files, to disk and give it its final name."""
    sync(temporary)
    temporary.replace(path)
    sync_directory(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder with all of its files, to disk."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    for child in path.iterdir():
        sync(child)
    sync_directory(path)


def sync_directory(directory: Path) -> None:
    """Flush the names in a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
