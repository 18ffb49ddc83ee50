"""An object whose pickle acts when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.marker,)
