"""The lines of a text table, before and after pyarrow has cut them into cells.

Names that are repeated among the rows are left out, and rows that two quotation marks join to one cell are found.
"""

# Shapes: n rows of a part.

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from dkm.data.tables.notation import USUAL_MARKS, is_missing, is_number

_BOM = b"\xef\xbb\xbf"
_TAIL_BYTES = 2**12
# Numbers, or lines, that fit the columns by no accident.
_LEAST_NUMBERS, _LEAST_LINES = 2, 5


class TableFile:
    """The bytes of a text table without the lines that repeat the names, as in files that were appended to each other.

    Parameters
    ----------
    file : binary file
    names : bytes
        The line with the names, without its end; empty to leave all lines.

    Attributes
    ----------
    n_repeated : int
        The lines left out so far.
    has_quotes : bool
        Whether a quotation mark has been read.
    tail : bytes
        The end of what has been read.
    """

    closed = False

    def __init__(self, file: IO[bytes], names: bytes) -> None:
        self._file, self._names = file, names
        self._line = re.compile(rb"(?m)^(?:" + _BOM + rb")?" + re.escape(names) + rb"[ \t]*\r?(?:\n|\Z)")
        self._rest = b""  # of a line that may be the names
        self._n_found, self._begins_line = 0, True
        self.has_quotes, self.tail = False, b""

    @property
    def n_repeated(self) -> int:
        return max(0, self._n_found - 1)  # the first are the names

    def read(self, n_bytes: int = -1) -> bytes:
        content = b""
        while not content:
            block = self._file.read(max(1, n_bytes - len(self._rest)) if n_bytes > 0 else -1)
            content, self._rest = self._rest + block, b""
            if not content:
                return b""
            if self._names:
                content = self._without_names(content, is_end=not block or n_bytes < 0)
        self.has_quotes = self.has_quotes or b'"' in content
        self.tail = (self.tail + content if len(content) < _TAIL_BYTES else content)[-_TAIL_BYTES:]
        return content

    def _without_names(self, content: bytes, *, is_end: bool) -> bytes:
        start = content.rfind(b"\n") + 1
        if not is_end and len(content) - start < len(self._names) + len(_BOM) + 2:
            content, self._rest = content[:start], content[start:]
        if self._names in content:
            start = 0 if self._begins_line else content.find(b"\n") + 1
            content = content[:start] + self._line.sub(self._keep_first, content[start:])
        self._begins_line = content.endswith(b"\n") if content else self._begins_line
        return content

    def _keep_first(self, match: re.Match[bytes]) -> bytes:
        self._n_found += 1
        return match[0] if self._n_found == 1 else b""


def find_joined_rows(
    batch: pa.RecordBatch, places: Sequence[int], width: int, numbers: Mapping[int, str], delimiter: str
) -> list[str]:
    """Return the lines of the first cell that holds rows of the table, which quotation marks have joined; else none.

    The lines must have the cells that the table has after, between and before the place of this cell, with numbers
    where the table has them.

    Parameters
    ----------
    batch : pa.RecordBatch
    places : sequence of int
        The place of each column of the batch in the file.
    width : int
        The number of cells in each row of the file.
    numbers : Mapping from int to str
        The places of numbers, with their decimal mark.
    delimiter : str
    """
    for place, column in zip(places, batch.columns, strict=True):
        if not (pa.types.is_string(column.type) or pa.types.is_binary(column.type)):
            continue
        for cell in column.filter(pc.match_substring(column, "\n")).to_pylist():
            text = cell if isinstance(cell, str) else cell.decode(errors="replace")
            first, _, rest = text.partition("\n")
            if first.count(delimiter) == width - place - 1 and _are_rows(
                [first, *rest.split("\n")], place, width, numbers, delimiter
            ):
                return text.split("\n")
    return []


def _are_rows(lines: Sequence[str], place: int, width: int, numbers: Mapping[int, str], delimiter: str) -> bool:
    cut = [line.rstrip("\r").split(delimiter) for line in lines]
    if len(cut[-1]) != place + 1 or any(len(cells) != width for cells in cut[1:-1]):
        return False
    n_numbers = 0
    for i, cells in enumerate(cut):
        for at, cell in enumerate(cells, place if i == 0 else 0):
            if at in numbers and at != place and not is_missing(cell) and cell.strip() not in USUAL_MARKS:
                if not is_number(cell, numbers[at]):
                    return False
                n_numbers += 1
    return n_numbers >= _LEAST_NUMBERS or (width > 2 and len(lines) >= _LEAST_LINES)
