"""The rows of a table between reading and training: in memory, or, where they are many, in files.

They are read from the user's own files again if these have each column by itself; else they go to temporary ones, in
the folder of the environment variable ``TMPDIR``, else in that of the system.
"""

# Shapes: N rows, n rows of a part, F features.

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from dkm.data.files import NpyFiles
from dkm.data.scaling import Array
from dkm.data.stored import StoredArray

# Rows that take more bytes are not held.
MAX_BYTES_IN_MEMORY = 2**28
_GROUP_BYTES = 2**25
_CHUNK_ROWS = 2**16
_DESCRIPTORS = Path("/proc/self/fd")


class SchemaChangedError(Exception):
    """A later table has other types than the first."""


class StoredColumns(Protocol):
    """Rows in files that have each column by itself."""

    num_rows: int

    def column(self, name: str) -> pa.ChunkedArray:
        """Read all values of a column."""
        ...

    def tables(self, n_rows: int) -> Iterator[pa.Table]:
        """Yield all rows in order, in tables of at most ``n_rows`` rows."""
        ...


class Rows:
    """Rows of a table, to be read column by column and in parts, as often as needed.

    Parameters
    ----------
    tables : iterator of pa.Table
        All rows in order, at least one table.
    stored : StoredColumns, optional
        The same rows, read from there if they are too many to be held; None to write them to a temporary file.

    Raises
    ------
    SchemaChangedError
        If the tables differ in their types.
    """

    def __init__(self, tables: Iterator[pa.Table], stored: StoredColumns | None = None) -> None:
        self._parts: list[pa.Table] = []
        self._stored: StoredColumns | None = None
        self.num_rows, n_bytes, self._schema = 0, 0, pa.schema([])
        copy: _Copy | None = None
        try:
            for table in tables:
                if self.num_rows == 0:
                    self._schema = table.schema
                if table.schema != self._schema:
                    raise SchemaChangedError
                self.num_rows += len(table)
                n_bytes += table.nbytes
                self._parts.append(table)
                if n_bytes > (MAX_BYTES_IN_MEMORY if copy is None else _GROUP_BYTES):
                    if stored is not None:
                        self._stored, self.num_rows, self._parts = stored, stored.num_rows, []
                        return
                    copy = copy or _Copy(self._schema)
                    copy.append(self._parts)
                    self._parts, n_bytes = [], 0
            if copy is not None and self._parts:
                copy.append(self._parts)
        finally:
            if copy is not None:
                copy.close()
        self._stored, self._parts = copy, [] if copy is not None else [pa.concat_tables(self._parts)]

    @property
    def column_names(self) -> list[str]:
        return list(self._schema.names)

    @property
    def is_on_disk(self) -> bool:
        return self._stored is not None

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column."""
        return self._schema.field(name).type

    def column(self, name: str) -> pa.ChunkedArray:
        """Return all values of a column."""
        return self._parts[0].column(name) if self._stored is None else self._stored.column(name)

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows in order, in tables of a bounded number of rows."""
        if self._stored is not None:
            yield from self._stored.tables(_CHUNK_ROWS)
            return
        for start in range(0, self.num_rows, _CHUNK_ROWS):
            yield self._parts[0].slice(start, _CHUNK_ROWS)


def _open_temporary(name: str) -> tuple[IO[bytes], Path, Callable[[], object]]:
    """Return a new file, a path that leads to it, and what removes it.

    On Linux it has no name in a folder: nothing of it stays when the process is killed or ends without the shutdown of
    the interpreter. The path leads to it as long as the file is open. Elsewhere it is in a folder of its own.
    """
    if sys.platform == "linux" and _DESCRIPTORS.is_dir():
        file = tempfile.TemporaryFile(prefix="dkm-")  # noqa: SIM115
        return file, _DESCRIPTORS / str(file.fileno()), file.close
    folder = Path(tempfile.mkdtemp(prefix="dkm-"))
    named = (folder / name).open("wb")

    def remove() -> None:
        named.close()
        shutil.rmtree(folder, ignore_errors=True)

    return named, folder / name, remove


class _Copy:
    """Rows in a temporary Parquet file, which is removed with the last reference to them."""

    def __init__(self, schema: pa.Schema) -> None:
        _, self._path, remove = _open_temporary("rows.parquet")
        weakref.finalize(self, remove)
        self.num_rows = 0
        self._writer = pq.ParquetWriter(self._path, schema, compression="NONE", use_dictionary=False)

    def append(self, tables: Sequence[pa.Table]) -> None:
        self._writer.write_table(pa.concat_tables(tables), row_group_size=_CHUNK_ROWS)
        self.num_rows += sum(map(len, tables))

    def close(self) -> None:
        self._writer.close()

    def column(self, name: str) -> pa.ChunkedArray:
        with pq.ParquetFile(self._path) as file:
            return file.read(columns=[name]).column(0)

    def tables(self, n_rows: int) -> Iterator[pa.Table]:
        assert n_rows == _CHUNK_ROWS  # of its groups
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            for i in range(file.num_row_groups):
                yield file.read_row_group(i, use_threads=False)


class MatrixFile:
    """Rows (N, F) that are written to a temporary ``.npy`` file, in order, and then read from there on demand.

    Parameters
    ----------
    n_features : int
    dtype : dtype
    """

    def __init__(self, n_features: int, dtype: np.dtype[Any]) -> None:
        self._file, self._path, remove = _open_temporary("rows.npy")
        self._remove = weakref.finalize(self, remove)
        self._n_features, self._dtype, self._n_rows = n_features, dtype, 0
        self._write_header()

    def append(self, X: Array) -> None:
        """Write rows (n, F)."""
        np.ascontiguousarray(X, self._dtype).tofile(self._file)
        self._n_rows += len(X)

    def finish(self) -> StoredArray:
        """Return the rows; the file is removed with the last reference to them."""
        self._file.seek(0)
        self._write_header()  # as long as before: NumPy leaves room for the digits of N
        self._file.flush()
        array = StoredArray(NpyFiles("temporary file", str(self._path)))
        detached = self._remove.detach()
        assert detached is not None
        weakref.finalize(array, detached[1])
        return array

    def _write_header(self) -> None:
        shape = (self._n_rows, self._n_features)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
