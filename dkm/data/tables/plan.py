"""The plan of a table: the role and the kind of each column, kept with the model and applied to further rows."""

# Shapes: N rows, n rows of a part, F features.

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dkm.data.tables.columns import Column, Floats, Mask, NotOfKindError
from dkm.data.tables.rows import Rows

_BLOCK_ROWS = 1024


@dataclass
class TablePlan:
    """The columns of a table, and how they become features; stored as JSON with the model.

    Attributes
    ----------
    columns : list of Column
        All columns of the training file.
    has_header : bool
        Whether the file had names; without, the columns are numbered.
    refuses_gaps : bool
        A missing value is an error: the plan of a model of version 0.1 that filled none.
    """

    columns: list[Column]
    has_header: bool = True
    refuses_gaps: bool = False

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any], names: Sequence[str] = ()) -> TablePlan:
        """Return the plan that is stored with a model.

        Parameters
        ----------
        plan : Mapping
            A ``to_dict`` result; the features and fill values of version 0.1; or the plan of a model of something else
            than a table, whose features, if it has no names for them, are ``names``.
        names : sequence of str
            Columns of numbers in the order of the model's features.
        """
        if "columns" in plan:
            columns = [Column.from_dict(fields) for fields in plan["columns"]]
            return cls(columns, plan["has_header"], plan["refuses_gaps"])
        features, fill = plan.get("features") or names, plan.get("fill")
        fills = [None] * len(features) if fill is None else fill
        numbers = [Column(name, kind="number", fill=value) for name, value in zip(features, fills, strict=True)]
        return cls(numbers, refuses_gaps=fill is None)

    def to_dict(self) -> dict[str, Any]:
        columns = [column.to_dict() for column in self.columns]
        return {"columns": columns, "has_header": self.has_header, "refuses_gaps": self.refuses_gaps}

    @property
    def used(self) -> list[Column]:
        """The columns that are features."""
        return [column for column in self.columns if column.role == "feature"]

    def named(self, role: str) -> str | None:
        """Return the name of the column with this role, None if there is none."""
        return next((column.name for column in self.columns if column.role == role), None)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(name for column in self.used for name in column.features)

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """For each feature the number of its group; None if each is alone."""
        groups: list[int] = []
        for column in self.used:
            start = groups[-1] + 1 if groups else 0
            groups += [start + group for group in column.groups]
        return None if len(set(groups)) == len(groups) else np.array(groups)

    @property
    def fill(self) -> npt.NDArray[np.float64] | None:
        """What replaces missing values, (F,); None if they are refused."""
        if self.refuses_gaps:
            return None
        return np.concatenate([_fill_of(column) for column in self.used])

    def dtype(self, rows: Rows, with_gaps: Container[str]) -> np.dtype[Any]:
        """Return the smallest type that holds the features of all rows, float64 for the columns ``with_gaps``.

        Raises
        ------
        BadCellError
            For a column of a type that no kind reads.
        """
        types = []
        for column in self.used:
            try:
                encoded, _, _ = column.encode(pa.array([], rows.type_of(column.name)))
            except NotOfKindError as error:
                raise BadCellError(column, error.row, error.text) from error
            types.append(np.dtype(np.float64) if column.name in with_gaps else encoded.dtype)
        return np.result_type(*types)

    def encode(self, table: pa.Table | pa.RecordBatch) -> tuple[npt.NDArray[Any], Mask, dict[str, int]]:
        """Return the features (n, F), not filled, the mask (n, F) of missing ones, and new levels by column.

        The values have the smallest type that holds all columns. The mask has shape (0, 0) if nothing is missing.

        Raises
        ------
        BadCellError
            For a cell that is not of the kind of its column.
        """
        n, parts, masks, n_new = table.num_rows, [], [], {}
        for column in self.used:
            values = table.column(column.name)
            if isinstance(values, pa.ChunkedArray):
                values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
            try:
                encoded, missing, new = column.encode(values)
            except NotOfKindError as error:
                raise BadCellError(column, error.row, error.text) from error
            parts.append(encoded)
            masks.append(missing)
            if new:
                n_new[column.name] = new
        widths = [part.shape[1] for part in parts]
        X = np.empty((n, sum(widths)), np.result_type(*(part.dtype for part in parts)))
        starts = np.cumsum([0, *widths])
        for first in range(0, n, _BLOCK_ROWS):  # columns into rows that stay in the cache
            rows = slice(first, first + _BLOCK_ROWS)
            for part, start, width in zip(parts, starts, widths, strict=False):
                X[rows, start : start + width] = part[rows]
        if not any(mask.any() for mask in masks):
            return X, np.zeros((0, 0), dtype=bool), n_new
        return X, np.repeat(np.stack(masks, axis=1), widths, axis=1), n_new

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the columns for the data report."""
        for column in self.columns:
            yield {"name": column.name, "role": column.role, "kind": column.kind, "note": column.note}


class BadCellError(ValueError):
    """A cell that is not of the kind of its column."""

    def __init__(self, column: Column, row: int, text: str) -> None:
        super().__init__(f"{column.name}: {text!r}")
        self.column, self.row, self.text = column, row, text


def _fill_of(column: Column) -> Floats:
    return np.full(len(column.features), np.nan) if column.fill is None else column.filled()
