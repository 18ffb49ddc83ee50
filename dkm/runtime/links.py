"""Links in a folder from somebody else, who may have planted them: what they lead to is not ours to write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def links_out_of(folder: Path) -> Iterator[Path]:
    """Yield the links in a folder, itself or anywhere below, that lead out of it; the folder itself may be a link."""
    inside = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for link in (Path(place, name) for name in sorted(folders + files)):
            if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(inside):
                yield link


def open_unless_link(path: Path, mode: str) -> IO[Any]:
    """Open a file to write, as ``open`` does.

    Raises
    ------
    OSError
        Also if the path is a link.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    try:
        return open(path, mode, opener=opener)  # pathlib has no opener
    except OSError as error:
        if path.is_symlink():
            raise OSError(error.errno, f"{path.name} is a link", str(path)) from error
        raise
