"""Bound what compressed files unpack to: a file of a megabyte may describe a thousand gigabytes.

Sizes that a file declares are compared before anything is unpacked; where a format declares none, the bytes are counted
while they are unpacked.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any
from zipfile import ZipInfo

import numpy as np
import numpy.typing as npt

from dkm.errors import UserError, input_error

# Files that unpack to no more are read whatever their ratio.
FREE_BYTES = 2**30


@dataclass(frozen=True)
class UnpackingLimit:
    """How many times its size a file may unpack to.

    Parameters
    ----------
    source : str
        The setting with its value that names the file, for messages.
    factor : int
        ``data.max_expansion``.
    """

    source: str
    factor: int

    def check(self, n_bytes: int, n_packed: int) -> None:
        """Refuse a file of ``n_packed`` bytes that unpacks to ``n_bytes`` bytes or more.

        Raises
        ------
        UserError
        """
        if n_bytes > self.most(n_packed):
            raise self._error(f"{n_bytes:,}", n_packed)

    def most(self, n_packed: int) -> int:
        """Return how many bytes a file of ``n_packed`` bytes may unpack to."""
        return max(FREE_BYTES, self.factor * n_packed)

    def check_file(self, n_bytes: int, path: Path) -> None:
        """Refuse a file that unpacks to ``n_bytes`` bytes; that of a file that is not there is checked elsewhere."""
        try:
            n_packed = path.stat().st_size
        except OSError:
            return
        self.check(n_bytes, n_packed)

    def check_members(self, members: Iterable[ZipInfo]) -> None:
        """Refuse a zip archive by the sizes that it declares, to which reading is limited."""
        infos = list(members)
        self.check(sum(info.file_size for info in infos), sum(info.compress_size for info in infos))

    def bounded(self, stream: IO[bytes] | GzipFile, path: Path) -> Any:
        """Return a raw binary stream of the same bytes that raises ``UserError`` when there are too many."""
        return _Bounded(stream, self, path.stat().st_size)

    def _error(self, n_bytes: str, n_packed: int) -> UserError:
        found = f"{n_packed:,} bytes that unpack to {n_bytes} bytes or more"
        remedy = "if you trust the file, unpack it yourself or raise data.max_expansion"
        return input_error(self.source, found, f"at most {self.factor} times their size", remedy)


class _Bounded(io.RawIOBase):
    """Counts the bytes that are read from a decompressing stream."""

    def __init__(self, stream: IO[bytes] | GzipFile, limit: UnpackingLimit, n_packed: int) -> None:
        super().__init__()
        self._stream, self._limit, self._n_packed, self._n_bytes = stream, limit, n_packed, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, position: int, whence: int = 0) -> int:
        self._n_bytes = self._stream.seek(position, whence)
        return self._n_bytes

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        content = self._stream.read(size)
        self._n_bytes += len(content)
        self._limit.check(self._n_bytes, self._n_packed)
        return content

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def array_bytes(shape: Sequence[int], chunks: Sequence[int] | None, itemsize: int) -> int:
    """Return the size of an array, or of one chunk if that is larger: a chunk is unpacked whole."""
    return math.prod(map(max, shape, chunks or shape)) * itemsize


def parquet_bytes(file: Any) -> int:
    """Return the size that the pages of a ``pyarrow.parquet.ParquetFile`` unpack to, as it declares it."""
    metadata = file.metadata
    return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def parquet_rows(path: Path, file: Any, columns: Sequence[str], n_rows: int) -> int:
    """Return how many rows of a Parquet file to read at once: at most ``n_rows``, fewer where texts or bytes are long.

    Of a column with a dictionary, Parquet stores each value once and declares only what that takes. The rows of a batch
    are limited such that they take at most ``FREE_BYTES``, so that they can be counted batch by batch. Dictionaries are
    read only where they are long enough for that to matter: from the first row of a row group.

    Parameters
    ----------
    path : Path
    file : pyarrow.parquet.ParquetFile
        The same file, opened.
    columns : sequence of str
        Those that are read.
    n_rows : int
    """
    schema, wanted = file.schema_arrow, set(columns)
    with_bytes = {field.name for field in schema if field.name in wanted and _has_bytes(field.type)}
    leaves = {i: file.schema.column(i) for i in range(len(file.schema))} if with_bytes else {}
    leaves = {i: leaf for i, leaf in leaves.items() if leaf.path.partition(".")[0] in with_bytes}
    row_bytes, doubtful = 0, dict[int, set[str]]()
    with path.open("rb") as content:
        for group in range(file.metadata.num_row_groups if leaves else 0):
            chunks, n_bytes = file.metadata.row_group(group), 0
            for i, leaf in leaves.items():
                chunk = chunks.column(i)
                if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY":
                    n_bytes += leaf.length
                elif leaf.physical_type == "BYTE_ARRAY" and "DELTA_BYTE_ARRAY" in chunk.encodings:
                    n_bytes += chunk.total_uncompressed_size  # each value may repeat the one before it
                elif leaf.physical_type == "BYTE_ARRAY":
                    most = min(n_rows, chunks.num_rows) * _dictionary_bytes(content, chunk)
                    if most > FREE_BYTES // len(leaves):
                        doubtful.setdefault(group, set()).add(leaf.path)
            row_bytes = max(row_bytes, n_bytes)
    for group, paths in doubtful.items():
        row_bytes = max(row_bytes, _longest_entries(path, file, group, sorted(paths)))
    return max(1, min(n_rows, FREE_BYTES // max(1, row_bytes)))


def _has_bytes(type_: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(type_):
        return any(_has_bytes(field.type) for field in type_)
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
    return any(getattr(pa.types, f"is_{name}")(type_) for name in names)


def _dictionary_bytes(content: IO[bytes], chunk: Any) -> int:
    """Return the size of the dictionary of a column chunk, 0 if it does not begin with one.

    The chunk begins with a header in Thrift's compact protocol: the type of the page, then its size when unpacked.
    """
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
        start = chunk.dictionary_page_offset
    head = _bytes_at(content, max(0, start), 8)
    if head[:3] != _DICTIONARY_HEAD:
        return 0
    zigzag = 0
    for i, byte in enumerate(head[3:]):
        zigzag |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            break
    return zigzag >> 1


# Field 1, an int32 (0x15): 2 for the page of a dictionary (0x04 as zigzag); field 2, an int32.
_DICTIONARY_HEAD = b"\x15\x04\x15"


def _longest_entries(path: Path, file: Any, group: int, leaves: Sequence[str]) -> int:
    """Return the sum of the longest entries in the dictionaries of some columns."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, metadata=file.metadata, read_dictionary=list(leaves), pre_buffer=False) as reader:
        batch = next(reader.iter_batches(1, row_groups=[group], columns=list(leaves)), None)
    return sum(map(_longest_entry, [] if batch is None else batch.columns))


def _longest_entry(values: Any) -> int:
    import pyarrow as pa

    if pa.types.is_struct(values.type):
        return sum(_longest_entry(values.field(i)) for i in range(values.type.num_fields))
    return int(_entry_bytes(values.dictionary).max(initial=0)) if pa.types.is_dictionary(values.type) else 0


def feather_bytes(path: Path) -> int:
    """Return the size that the compressed buffers of a Feather file unpack to, as each of them declares it.

    pyarrow unpacks a whole batch and does not say beforehand how long it is. The footer of the file and the head of
    each batch are FlatBuffers; what is damaged in them is left to pyarrow to report.
    """
    total = 0
    with path.open("rb") as file, contextlib.suppress(struct.error, OSError, ValueError):
        n_footer = _Table.number("<i", _bytes_at(file, file.seek(0, io.SEEK_END) - 10, 4), 0)
        footer = _Table.root(_bytes_at(file, file.tell() - 4 - n_footer, n_footer))
        for field, part in ((2, 1), (3, None)):  # dictionaries and batches
            for offset, n_head, _ in footer.vector(field, "<qi4xq"):
                head = _bytes_at(file, offset, n_head)
                n_prefix = 8 if head[:4] == b"\xff\xff\xff\xff" else 4
                batch = _Table.root(head[n_prefix:]).table(2)
                batch = batch if part is None or batch is None else batch.table(part)
                if batch is None or batch.table(3) is None:  # not compressed
                    continue
                for position, n_bytes in batch.vector(2, "<qq"):
                    if n_bytes >= 8:
                        declared = _Table.number("<q", _bytes_at(file, offset + n_head + position, 8), 0)
                        total += n_bytes if declared < 0 else declared
    return total


def plain_bytes(values: Any) -> int:
    """Return the size of a pyarrow array; of one with a dictionary the size of its values where those are long."""
    import pyarrow as pa

    if not pa.types.is_dictionary(values.type):
        return int(values.nbytes)
    lengths = _entry_bytes(values.dictionary)
    if not len(lengths) or int(lengths.max()) * len(values) <= FREE_BYTES:
        return int(values.nbytes)
    counts = np.bincount(values.indices.drop_null().to_numpy(zero_copy_only=False), minlength=len(lengths))
    return int(counts @ lengths)


def _entry_bytes(dictionary: Any) -> npt.NDArray[np.int64]:
    """Return the size of each entry of a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of_bytes = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary
    if any(is_type(dictionary.type) for is_type in of_bytes):
        return np.asarray(pc.fill_null(pc.binary_length(dictionary), 0), np.int64)
    return np.full(len(dictionary), dictionary.nbytes // max(1, len(dictionary)), np.int64)


def _bytes_at(file: IO[bytes], position: int, n_bytes: int) -> bytes:
    file.seek(position)
    return file.read(max(0, n_bytes))


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer, whose fields are known by their number."""

    content: bytes
    position: int

    @staticmethod
    def number(format_: str, content: bytes, position: int) -> int:
        if position < 0:
            raise ValueError("a position before the beginning")
        (value,) = struct.unpack_from(format_, content, position)
        return int(value)

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, cls.number("<I", content, 0))

    def _field(self, number: int) -> int | None:
        """Return the position of a field; None if it has its default."""
        fields = self.position - self.number("<i", self.content, self.position)
        if 4 + 2 * number >= self.number("<H", self.content, fields):
            return None
        offset = self.number("<H", self.content, fields + 4 + 2 * number)
        return self.position + offset if offset else None

    def table(self, number: int) -> _Table | None:
        field = self._field(number)
        return None if field is None else _Table(self.content, field + self.number("<I", self.content, field))

    def vector(self, number: int, format_: str) -> Iterator[tuple[int, ...]]:
        """Yield the structs of a vector."""
        field = self._field(number)
        if field is None:
            return
        start = field + self.number("<I", self.content, field)
        for i in range(self.number("<I", self.content, start)):
            yield struct.unpack_from(format_, self.content, start + 4 + i * struct.calcsize(format_))
