"""The rows of a table between reading and encoding: in memory, or, where they are many, in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

# Rows that take more bytes go to a file.
MAX_BYTES_IN_MEMORY = 2**28
_CHUNK_ROWS = 2**16


class SchemaChangedError(Exception):
    """A later table has other types than the first."""


class Rows:
    """Rows of a table, to be read column by column and in parts, as often as needed.

    Parameters
    ----------
    tables : iterator of pa.Table
        All rows in order, at least one table.

    Raises
    ------
    SchemaChangedError
        If the tables differ in their types.
    """

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._parts: list[pa.Table] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.num_rows, n_bytes, self._schema = 0, 0, pa.schema([])
        writer = None
        try:
            for table in tables:
                if self.num_rows == 0:
                    self._schema = table.schema
                if table.schema != self._schema:
                    raise SchemaChangedError
                self.num_rows += len(table)
                n_bytes += table.nbytes
                self._parts.append(table)
                if n_bytes > MAX_BYTES_IN_MEMORY:
                    if writer is None:
                        self._folder = tempfile.TemporaryDirectory(prefix="dkm-", ignore_cleanup_errors=True)
                        writer = ipc.new_file(str(self._path), self._schema)
                    for part in self._parts:
                        writer.write_table(part)
                    self._parts, n_bytes = [], MAX_BYTES_IN_MEMORY
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            self._parts = [pa.concat_tables(self._parts)]

    @property
    def column_names(self) -> list[str]:
        return list(self._schema.names)

    @property
    def is_on_disk(self) -> bool:
        return self._folder is not None

    def column(self, name: str) -> pa.ChunkedArray:
        """Return all values of a column."""
        if self._folder is None:
            return self._parts[0].column(name)
        options = ipc.IpcReadOptions(included_fields=[self._schema.get_field_index(name)])
        with pa.OSFile(str(self._path)) as file:
            return ipc.open_file(file, options=options).read_all().column(0)

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows in order, in tables of a bounded number of rows."""
        if self._folder is None:
            for start in range(0, self.num_rows, _CHUNK_ROWS):
                yield self._parts[0].slice(start, _CHUNK_ROWS)
            return
        with pa.OSFile(str(self._path)) as file:
            reader = ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(i)])

    @property
    def _path(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "rows.arrow"
