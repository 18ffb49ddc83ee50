"""The table of assignments: the cluster of each row, its distance to the centroid, and its margin.

``assignments.csv`` of a run and the output of ``dkm.predict`` have the same lines. A ``Writer`` writes to a temporary
file and renames it at the end, so that the file is whole or missing, and holds one part in memory at a time.
"""

# Shapes: n rows, D latent, K clusters.

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from dkm.data.scaling import Array
from dkm.errors import UserError, input_error
from dkm.runtime.atomic import publish

FORMATS = (".csv", ".parquet", ".npz")
_ROWS_AT_ONCE = 100_000
# What makes a spreadsheet take a cell for a formula.
_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n")
# A place within a text where a cell may begin that is a formula. An apostrophe there is marked too, so that it can be
# told from a mark.
_INNER_FORMULA = re.compile(r"""(?<=[;\t\r\n])(?=['"]*[=+\-@\t\r\n])""")
_INNER_MARK = re.compile(r"""(?<=[;\t\r\n])'(?=['"]*[=+\-@\t\r\n])""")


class Assignments(NamedTuple):
    """The assignments of n rows; distances are Euclidean, in the embedding."""

    position: npt.NDArray[np.int64]  # (n,) positions of the rows in the file
    ids: Array | None  # (n,)
    cluster: npt.NDArray[np.int64]  # (n,)
    distance: Array  # (n,) to the cluster's centroid
    margin: Array | None  # (n,) how much farther the second nearest centroid is; None with one cluster
    labels: Array | None = None  # (n,)
    texts: Array | None = None  # (n,) the beginning of each row's text
    memberships: Array | None = None  # (n, K)
    embedding: Array | None = None  # (n, D)

    def columns(self) -> dict[str, Array | None]:
        """Return the columns (n,) by their names."""
        columns = self.arrays()
        for name, prefix in (("memberships", "membership"), ("embedding", "z")):
            values = columns.pop(name, None)
            if values is not None:
                columns |= {f"{prefix}_{number}": column for number, column in enumerate(values.T)}
        return columns

    def arrays(self) -> dict[str, Array | None]:
        """Return the columns (n,), and memberships (n, K) and embedding (n, D) whole, by their names."""
        columns: dict[str, Array | None] = {"index": self.position}
        if self.ids is not None:
            columns["id"] = self.ids
        columns |= {"cluster": self.cluster, "distance": self.distance, "margin": self.margin}
        more = {"label": self.labels, "text": self.texts, "memberships": self.memberships, "embedding": self.embedding}
        return columns | {name: values for name, values in more.items() if values is not None}


def csv_parts(assignments: Assignments, *, header: bool = True, is_safe: bool = False) -> Iterator[bytes]:
    """Yield the lines of a CSV file; nine digits identify every float32.

    ``is_safe`` marks texts that a spreadsheet would execute; see ``safe_text``.
    """
    columns = assignments.columns()
    if header:
        yield (",".join(columns) + "\n").encode()
    n_rows = len(assignments.position)
    cells_of = [_cells(column, n_rows, is_safe=is_safe) for column in columns.values()]
    line = ",".join("%.9g" if isinstance(c, np.ndarray) and c.dtype.kind == "f" else "%s" for c in cells_of) + "\n"
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        values = [column[rows].tolist() if isinstance(column, np.ndarray) else column[rows] for column in cells_of]
        n = len(values[0])
        # A single format string for all rows: a Python loop over the rows takes twice as long.
        cells: list[Any] = [None] * (n * len(values))
        for position, column in enumerate(values):
            cells[position :: len(values)] = column
        yield (line * n % tuple(cells)).encode()


def csv_line(*cells: object, is_safe: bool = False) -> str:
    """Return one line of a CSV file, with numbers as in ``csv_parts``."""

    def text_of(cell: object) -> str:
        if isinstance(cell, float | np.floating):
            return f"{cell:.9g}"
        is_text = is_safe and isinstance(cell, str)
        return "" if cell is None else _quoted(safe_text(cell) if is_text else str(cell))  # type: ignore[arg-type]

    return ",".join(map(text_of, cells)) + "\n"


def safe_text(text: str) -> str:
    """Return a text with an apostrophe before what a spreadsheet would take for a formula; numbers stay.

    Where the decimal mark is a comma, a spreadsheet splits the lines of a CSV file at semicolons, and does not see that
    the text is quoted unless it begins the line. So what follows a semicolon, a tab or a line break gets an apostrophe
    too, also after quotation marks.
    """
    marked = _INNER_FORMULA.sub("'", text)
    if not text.startswith(_FORMULA_MARKS):
        return marked
    try:
        float(text)
    except ValueError:
        return f"'{marked}"
    return text if text.strip() == text else f"'{marked}"


def without_mark(text: str) -> str:
    """Return the text of which ``safe_text`` made this one."""
    plain = _INNER_MARK.sub("", text)
    return plain[1:] if plain.startswith("'") and safe_text(plain[1:]) == text else plain


def _cells(column: Array | None, n_rows: int, *, is_safe: bool) -> Array | list[str]:
    if column is None:
        return [""] * n_rows
    if column.dtype.kind not in "OUS":
        return column
    texts = (str(cell) for cell in column.tolist())
    return [_quoted(safe_text(text) if is_safe else text) for text in texts]


def _quoted(text: str) -> str:
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(c in text for c in ',"\n\r') else text


class Writer:
    """Writes assignments part by part to one file; its suffix chooses the format: ``.csv``, ``.parquet`` or ``.npz``.

    A context manager: the file exists after a block that succeeded, and nothing remains of one that failed.

    Parameters
    ----------
    path : Path
    source : str
        The setting that names the file, as KEY=VALUE, for messages.
    overwrite : bool
        Whether an existing file may be replaced.
    is_safe : bool
        Whether texts in a CSV file are marked that a spreadsheet would execute.

    Raises
    ------
    UserError
        If the suffix is another one, the file exists, or it cannot be written.
    """

    def __init__(self, path: Path, source: str, *, overwrite: bool, is_safe: bool = False) -> None:
        if path.suffix not in FORMATS:
            remedy = f"for example {path.with_suffix('.csv').name}"
            raise input_error(source, f"the suffix {path.suffix or '(none)'!r}", f"one of {', '.join(FORMATS)}", remedy)
        if path.is_dir():
            raise input_error(source, "a folder", "a file to write", f"for example {path / 'clusters.csv'}")
        if os.path.lexists(path) and not overwrite:
            raise input_error(source, "the file exists", "a new file", "pass overwrite=true or choose another name")
        self._path, self._source = path, source
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        writers: dict[str, type[_PartWriter]] = {".csv": _SafeCsv if is_safe else _Csv, ".parquet": _Parquet}
        self._file = writers.get(path.suffix, _Npz)(self._temporary)

    def __enter__(self) -> Self:
        try:
            self._temporary.touch()
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def write(self, assignments: Assignments) -> None:
        try:
            self._file.write(assignments)
        except OSError as error:
            raise self._unwritable(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                publish(self._temporary, self._path)
        except OSError as failure:
            raise self._unwritable(failure) from failure
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    def _unwritable(self, error: OSError) -> UserError:
        problem = f"cannot be written ({error.strerror or error})"
        return input_error(self._source, problem, "a writable folder with enough space", "choose another")


class _PartWriter(Protocol):
    """Writes a file of one format part by part."""

    def __init__(self, path: Path) -> None: ...

    def write(self, assignments: Assignments) -> None: ...

    def close(self) -> None: ...


class _Csv:
    is_safe = False

    def __init__(self, path: Path) -> None:
        self._path, self._is_new = path, True

    def write(self, assignments: Assignments) -> None:
        with self._path.open("ab") as file:
            file.writelines(csv_parts(assignments, header=self._is_new, is_safe=self.is_safe))
        self._is_new = False

    def close(self) -> None:
        pass


class _SafeCsv(_Csv):
    is_safe = True


class _Parquet:
    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        self._pyarrow, self._parquet = pyarrow, parquet
        self._path = path
        self._writer: Any = None
        self._waiting: list[Any] = []

    def write(self, assignments: Assignments) -> None:
        columns = assignments.columns()
        if assignments.labels is not None:  # a part with integer labels may be followed by one with text
            columns["label"] = assignments.labels.astype(str)
        arrays = {
            name: self._pyarrow.nulls(len(assignments.position), self._pyarrow.float32())
            if column is None
            else self._pyarrow.array(column.tolist() if column.dtype.kind in "OUS" else np.ascontiguousarray(column))
            for name, column in columns.items()
        }
        table = self._pyarrow.table(arrays)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, table.schema)
        self._waiting.append(table)
        if sum(table.num_rows for table in self._waiting) >= _ROWS_AT_ONCE:
            self._write_group()

    def _write_group(self) -> None:
        # Readers of Parquet take one row group at a time: many small groups are slow to read.
        self._writer.write_table(self._pyarrow.concat_tables(self._waiting), row_group_size=2 * _ROWS_AT_ONCE)
        self._waiting.clear()

    def close(self) -> None:
        if self._writer is not None:
            if self._waiting:
                self._write_group()
            self._writer.close()


class _Npz:
    """The columns as arrays, kept in memory until the end, as the header of an array has its length."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: list[Mapping[str, Array]] = []

    def write(self, assignments: Assignments) -> None:
        arrays = {
            # Text of any length has the type object, which a .npz file can only store as a pickle.
            name: column.astype(str) if column.dtype.kind == "O" else column
            for name, column in assignments.arrays().items()
            if column is not None
        }
        self._parts.append(arrays)

    def close(self) -> None:
        if self._parts:
            names: Sequence[str] = list(self._parts[0])
            joined: dict[str, Any] = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
            with self._path.open("wb") as file:
                np.savez(file, **joined)
