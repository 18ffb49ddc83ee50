"""Bound what compressed files unpack to: a file of a megabyte may describe a thousand gigabytes.

Sizes that a file declares are compared before anything is unpacked; where a format declares none, the bytes are counted
while they are unpacked.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any
from zipfile import ZipInfo

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
        if n_bytes > max(FREE_BYTES, self.factor * n_packed):
            raise self._error(f"{n_bytes:,}", n_packed)

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


def parquet_bytes(file: Any) -> int:
    """Return the size that the pages of a ``pyarrow.parquet.ParquetFile`` unpack to, as it declares it."""
    metadata = file.metadata
    return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def compressed_parts(path: Path) -> int:
    """Return how many bytes the compressed variables of a MATLAB file declare, 0 if it has none.

    Only the first bytes of each variable are unpacked.
    """
    total = 0
    with path.open("rb") as file:
        header = file.read(128)
        order = "little" if header[126:128] == b"IM" else "big"
        while len(tag := file.read(8)) == 8:
            kind, n_bytes = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)  # type: ignore[arg-type]
            position = file.tell()
            if kind == _COMPRESSED:
                try:
                    first = zlib.decompressobj().decompress(file.read(min(n_bytes, 1024)), 8)
                except zlib.error:
                    return total
                total += int.from_bytes(first[4:8], order)  # type: ignore[arg-type]
            file.seek(position + n_bytes)
    return total


# The type of a compressed element in MATLAB's level 5 format.
_COMPRESSED = 15
