"""Links in a folder from somebody else, who may have planted them: what they lead to is not ours to write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def links_out_of(folder: Path) -> Iterator[Path]:
    """Yield the links in a folder, itself or anywhere below, that lead out of it; the folder itself may be a link."""
    inside = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for link in (Path(place, name) for name in sorted(folders + files)):
            if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(inside):
                yield link
