"""Bound what compressed files unpack to: a file of a megabyte may describe a thousand gigabytes.

Sizes that a file declares are compared before anything is unpacked; where a format declares none, the bytes are counted
while they are unpacked.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import ZipInfo

from dkm.errors import UserError, input_error

Order = Literal["little", "big"]

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


def compressed_parts(path: Path, limit: UnpackingLimit) -> int:
    """Return how many bytes the compressed variables of a MATLAB file unpack to, 0 if it has none.

    Of an array of real numbers or characters, the first bytes tell how many values are read. What is read of other
    variables is counted by unpacking them, unless they are too short to exceed the limit; counting ends at the limit.
    """
    total, most = 0, limit.most(path.stat().st_size)
    with path.open("rb") as file:
        header = file.read(128)
        order: Order = "little" if header[126:128] == b"IM" else "big"
        while len(tag := file.read(8)) == 8 and total <= most:
            kind, n_bytes = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
            position = file.tell()
            if kind == _COMPRESSED:
                try:
                    first = zlib.decompressobj().decompress(file.read(min(n_bytes, 1024)), _HEAD_BYTES)
                    n_declared = int.from_bytes(first[4:8], order)
                    n_values = _value_bytes(first, order)
                    if n_values is None and total + _MAX_RATIO * n_bytes > most:
                        file.seek(position)
                        n_values = _unpacked_bytes(file, n_bytes, most - total)
                except zlib.error:
                    return total
                total += max(n_declared, n_values or 0)
            file.seek(position + n_bytes)
    return total


def _value_bytes(first: bytes, order: Order) -> int | None:
    """Return how many bytes the values of a MATLAB variable take, by its first bytes.

    None if they do not tell: SciPy does not compare the sizes within a variable with the size of the variable.
    """
    flags = int.from_bytes(first[16:20], order)
    if flags & 0xFF not in _PLAIN_CLASSES or flags & _COMPLEX:
        return None
    position = 24
    for _ in ("dimensions", "name"):
        n_bytes, is_short = _element(first[position:], order)
        position += 8 if is_short else 8 + -(-n_bytes // 8) * 8
    if position + 8 > len(first):
        return None
    return _element(first[position:], order)[0]


def _element(tag: bytes, order: Order) -> tuple[int, bool]:
    """Return the number of bytes of an element, and whether its tag of 8 bytes holds them."""
    word = int.from_bytes(tag[:4], order)
    return (word >> 16, True) if word >> 16 else (int.from_bytes(tag[4:8], order), False)


def _unpacked_bytes(file: IO[bytes], n_bytes: int, most: int) -> int:
    """Return how many bytes the next ``n_bytes`` bytes unpack to, or a number above ``most``."""
    unpack, total = zlib.decompressobj(), 0
    while n_bytes > 0 and total <= most and (packed := file.read(min(n_bytes, _BLOCK_BYTES))):
        n_bytes -= len(packed)
        while packed and total <= most and not unpack.eof:
            total += len(unpack.decompress(packed, _BLOCK_BYTES))
            packed = unpack.unconsumed_tail
        if unpack.eof:
            break
    return total


_BLOCK_BYTES = 2**17
# The type of a compressed element in MATLAB's level 5 format.
_COMPRESSED = 15
# Bytes at the beginning of a variable that hold its class, its shape and its name.
_HEAD_BYTES = 1024
# Classes of characters and of numbers (double, single, int8 to uint64), which have one element of values unless they
# are complex.
_PLAIN_CLASSES = (4, *range(6, 16))
_COMPLEX = 1 << 11
# No stream of zlib unpacks to more times its size.
_MAX_RATIO = 1032
