"""The elements of a MATLAB 5 file: their types and sizes, checked before SciPy reads them.

SciPy takes the number of a type as a place in a table without a check: where there is none, it reads other memory, and
the process ends with a segmentation fault (SciPy 1.17). The format is that of "MAT-File Format", The MathWorks.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from pathlib import Path
from typing import IO, Literal

from dkm.data.unpacking import UnpackingLimit

Order = Literal["little", "big"]

_MATRIX, _COMPRESSED = 14, 15
# int8 to uint32, single, double, int64, uint64, UTF-8, UTF-16 and UTF-32.
_TYPES = frozenset([1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18])
_CELL, _SPARSE = 1, 5
# Characters and numbers (double, single, int8 to uint64), which have one element of values unless they are complex.
_PLAIN = frozenset([4, *range(6, 16)])
_IS_COMPLEX = 1 << 11
_HEADER_BYTES, _BLOCK_BYTES = 128, 2**17
# Cells within cells, and bytes of a shape or a name.
_MAX_DEPTH, _MAX_HEAD_BYTES = 20, 2**16


def require_known_types(path: Path, name: str) -> None:
    """Walk through the elements of the first variable that is called so.

    Raises
    ------
    ValueError
        If one has a type that the format does not have, is cut off, or belongs to a struct, an object or a function.
    """
    with path.open("rb") as file:
        order: Order = "little" if file.read(_HEADER_BYTES)[126:128] == b"IM" else "big"
        while len(tag := file.read(8)) == 8:
            kind, n_bytes = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
            end = file.tell() + n_bytes
            stream: IO[bytes] | _Unpacked = file
            if kind == _COMPRESSED:
                stream = _Unpacked(file, n_bytes)
                kind = int.from_bytes(_exactly(stream, 8)[:4], order)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} in place of a variable")
            elements = _Elements(stream, order)
            head = elements.head()
            if head.name == name:
                elements.check_values(head, 0)
                return
            file.seek(end)


class _Head:
    """What stands before the values of a variable: the number of its class, and of values if it is a cell array."""

    def __init__(self, flags: int, n_values: int, name: str) -> None:
        self.kind, self.is_complex, self.n_values, self.name = flags & 0xFF, bool(flags & _IS_COMPLEX), n_values, name


class _Elements:
    def __init__(self, stream: IO[bytes] | _Unpacked, order: Order) -> None:
        self._stream, self._order = stream, order

    def _number(self, content: bytes) -> int:
        return int.from_bytes(content, self._order)

    def tag(self) -> tuple[int, int, bytes | None]:
        """Return the type and the number of bytes of the next element, and its bytes if the tag holds them."""
        tag = _exactly(self._stream, 8)
        word = self._number(tag[:4])
        if word >> 16:
            return word & 0xFFFF, word >> 16, tag[4 : 4 + (word >> 16)]
        return word, self._number(tag[4:]), None

    def _head_element(self) -> bytes:
        _, n_bytes, content = self.tag()
        if n_bytes > _MAX_HEAD_BYTES:
            raise ValueError(f"a shape or name of {n_bytes:,} bytes")
        if content is None:
            content = _exactly(self._stream, -(-n_bytes // 8) * 8)[:n_bytes]
        return content

    def head(self) -> _Head:
        flags = self._number(_exactly(self._stream, 16)[8:12])
        shape, name = self._head_element(), self._head_element()
        lengths = [self._number(shape[i : i + 4]) for i in range(0, len(shape), 4)]
        return _Head(flags, math.prod(lengths), name.decode("latin-1"))

    def _check_element(self, *, is_last: bool) -> None:
        type_, n_bytes, content = self.tag()
        if type_ not in _TYPES:
            raise ValueError(f"values of type {type_}, which the format does not have")
        if content is None and not is_last:
            _skip(self._stream, -(-n_bytes // 8) * 8)

    def check_values(self, head: _Head, depth: int) -> None:
        if head.kind in _PLAIN or head.kind == _SPARSE:
            n_elements = head.is_complex + (3 if head.kind == _SPARSE else 1)
            for i in range(n_elements):
                self._check_element(is_last=depth == 0 and i == n_elements - 1)
        elif head.kind == _CELL and depth < _MAX_DEPTH:
            for _ in range(head.n_values):
                kind, n_bytes, _ = self.tag()
                if kind != _MATRIX:
                    raise ValueError(f"an element of type {kind} in a cell array")
                if n_bytes:
                    self.check_values(self.head(), depth + 1)
        else:
            raise ValueError(f"a variable of class {head.kind}; expected numbers, text, or cells of these")


class _Unpacked:
    """The next ``n_bytes`` bytes of a file, decompressed."""

    def __init__(self, file: IO[bytes], n_bytes: int) -> None:
        self._file, self._n_left = file, n_bytes
        self._zlib, self._content = zlib.decompressobj(), b""

    def read(self, n_bytes: int) -> bytes:
        while len(self._content) < n_bytes and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail or self._file.read(min(self._n_left, _BLOCK_BYTES))
            if not packed:
                break
            if not self._zlib.unconsumed_tail:
                self._n_left -= len(packed)
            self._content += self._zlib.decompress(packed, _BLOCK_BYTES)
        content, self._content = self._content[:n_bytes], self._content[n_bytes:]
        return content


def _exactly(stream: IO[bytes] | _Unpacked, n_bytes: int) -> bytes:
    content = stream.read(n_bytes)
    if len(content) < n_bytes:
        raise ValueError("the variable is cut off")
    return content


def _skip(stream: IO[bytes] | _Unpacked, n_bytes: int) -> None:
    """Skip values; those at the end of a file may lack the bytes that fill them up to a multiple of 8."""
    if not isinstance(stream, _Unpacked):
        stream.seek(n_bytes, os.SEEK_CUR)
        return
    while n_bytes > 0 and (content := stream.read(min(n_bytes, _BLOCK_BYTES))):
        n_bytes -= len(content)


# --- sizes ---------------------------------------------------------------------------------------------------


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
    elements = _Elements(io.BytesIO(first[8:]), order)
    try:
        head = elements.head()
        return None if head.kind not in _PLAIN or head.is_complex else elements.tag()[1]
    except ValueError:  # cut off
        return None


def _unpacked_bytes(file: IO[bytes], n_bytes: int, most: int) -> int:
    """Return how many bytes the next ``n_bytes`` bytes unpack to, or a number above ``most``."""
    stream, total = _Unpacked(file, n_bytes), 0
    while total <= most and (content := stream.read(_BLOCK_BYTES)):
        total += len(content)
    return total


# Bytes at the beginning of a variable that hold its class, its shape and its name.
_HEAD_BYTES = 1024
# No stream of zlib unpacks to more times its size.
_MAX_RATIO = 1032
