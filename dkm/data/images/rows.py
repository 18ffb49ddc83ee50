"""The images of any source before they are decoded, and the record of those that cannot be read."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

from dkm.data.report import DataReport
from dkm.errors import UserError, first_of, input_error

log = logging.getLogger(__name__)

_MAX_LISTED = 10


class ImageRow(NamedTuple):
    """One image of a source."""

    position: int  # in the source, counted from 0
    content: Path | bytes | None  # its file, or the content of a file; None if the source has none for this row
    id: str | None = None
    label: str | int | None = None

    @property
    def name(self) -> str:
        """The image in messages."""
        return self.id or f"row {self.position:,} (counted from 0)"

    def digest(self) -> bytes:
        """Return the SHA-256 of the content; the same for all contents that cannot be read."""
        try:
            if isinstance(self.content, Path):
                with self.content.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return b""
        return b"" if self.content is None else hashlib.sha256(self.content).digest()


class UnreadableImages:
    """The images of a source that cannot be read; too many of them are an error.

    Parameters
    ----------
    source : str
        The setting that names the source, as KEY=VALUE.
    n_rows : int
        Images of the source.
    max_unreadable : float
        Largest accepted fraction, ``data.max_unreadable``.
    """

    def __init__(self, source: str, n_rows: int, max_unreadable: float) -> None:
        self._source, self._n_rows, self._max_unreadable = source, n_rows, max_unreadable
        self._names: list[str] = []

    def add(self, row: ImageRow, why: str) -> None:
        """Record an image.

        Raises
        ------
        UserError
            If more than the accepted fraction cannot be read, or all.
        """
        self._names.append(f"{row.name} ({why})")
        if len(self._names) > self._max_unreadable * self._n_rows or len(self._names) == self._n_rows:
            raise self._error()

    def report(self, report: DataReport) -> None:
        """Add the images to the data report."""
        report.leave_out("images", len(self._names), "cannot be read", self._names)

    def warn(self) -> None:
        """Log the images as a warning, if there are any."""
        if self._names:
            n = len(self._names)
            log.warning("%s: %d images cannot be read and are left out: %s", self._source, n, self._list_names())

    def _list_names(self) -> str:
        return first_of(self._names, _MAX_LISTED)

    def _error(self) -> UserError:
        found = f"{len(self._names)} of {self._n_rows} images or more cannot be read: {self._list_names()}"
        expected = f"at most {int(self._max_unreadable * self._n_rows)} (data.max_unreadable={self._max_unreadable})"
        return input_error(self._source, found, expected, "repair or remove them, or raise data.max_unreadable")
