"""A few cells of another notation among the numbers or the dates of a text column."""

from __future__ import annotations

import pyarrow as pa

from dkm.config.values import override
from dkm.data.tables.columns import Column

# So many values of another notation may stand among numbers or dates, in this fraction of the cells.
MAX_OTHERS, MAX_OTHER_FRACTION = 3, 0.05


def is_mostly_read(parsed: pa.Array) -> bool:
    """Return whether so many cells could be read that the others are exceptions."""
    return bool(parsed.null_count <= MAX_OTHER_FRACTION * len(parsed))


def read_as_missing(column: Column, others: list[str], n_cells: int, odd: list[str]) -> None:
    """Read a few words among numbers or dates as missing; what has digits may be a value, so that is told as odd."""
    column.missing = [*column.missing, *others]
    quoted = ", ".join(map(repr, others))
    column.note = join_notes(column.note, f"{quoted} means missing")
    if any(character.isdigit() for text in others for character in text):
        cells = "1 cell" if n_cells == 1 else f"{n_cells:,} cells"
        what = "date" if column.kind == "date" else "plain number"
        odd.append(
            f"column {column.name} has {quoted} in {cells}, which is no {what} and is read as missing; correct the "
            f"file or leave the column out with {override('data.exclude', [column.name])}"
        )


def join_notes(*notes: str) -> str:
    """Return the notes that are not empty, in one line."""
    return "; ".join(filter(None, notes))
