"""Rows that stay on disk: one ``.npy`` file, or a folder of them (shards), read piece by piece.

``StoredArray`` has the values as they were written, ``StoredRows`` what the network gets, bit for bit what the same
array would be in memory. Files are read at given positions and not mapped into memory: mapped pages would count as
memory of the process, and the process would be killed (SIGBUS) for touching one behind the end of a file that someone
shortened. A file is opened anew for each read, so any number of threads and of shards will do.
"""

# Shapes: N samples, F features, M chosen rows, n rows of a piece.

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.data.files import NpyFiles, NpyHeader
from dkm.data.scaling import Array, Scaling, to_rows
from dkm.errors import UserError, input_error, reason

if TYPE_CHECKING:
    from scipy import sparse

Index = npt.NDArray[np.int64]

# Rows that are encoded at once: large enough for the matrix products, small enough for the 2,000-wide layer. Rows get
# the same bits only in the same chunks.
CHUNK_ROWS = 2048
# Memory for a piece of chosen rows as they are read, with the rows between them.
_PIECE_BYTES = 2**25
# Chosen rows that are less than this apart are read together: the bytes cost about what another call would.
_GAP_BYTES = 2**13


class _ReadArray:
    """What the arrays have in common whose rows are read when they are asked for."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def _require_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop}: expected an ascending range within 0 to {len(self)}")


class StoredArray(_ReadArray):
    """An array (N, ...) in files, whose rows are read when they are asked for.

    Parameters
    ----------
    files : NpyFiles
        With at least one dimension.

    Raises
    ------
    UserError
        If a file is in Fortran order, where a row is not in one place, or shorter than its header says.
    """

    def __init__(self, files: NpyFiles) -> None:
        self.dtype, self.shape = files.dtype, files.shape
        self._files = files
        for header in files.headers:
            self._check_readable(header)
        n_rows = [math.prod(header.shape[:1]) for header in files.headers]  # one of a lone number, refused later
        # Row i of the array is row i - first[s] of shard s, where first[s] <= i < first[s + 1].
        self._first = np.concatenate([[0], np.cumsum(n_rows, dtype=np.int64)])
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> Array:
        """Return rows ``start`` to ``stop - 1``, in C order.

        Raises
        ------
        IndexError
            If they are not all there.
        UserError
            If a file is gone or has become shorter.
        """
        self._require_range(start, stop)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self._read_runs(np.array([start]), np.array([stop]))

    def pieces(self, rows: Index) -> Iterator[tuple[slice, Array]]:
        """Yield the chosen rows in pieces of bounded memory: which of ``rows`` they are, and their values.

        Parameters
        ----------
        rows : int64, shape (M,), ascending, each at least 0 and below N
            Some may be equal.
        """
        step = max(1, _PIECE_BYTES // (self._row_bytes + _GAP_BYTES))
        for begin in range(0, len(rows), step):
            piece = slice(begin, begin + step)
            yield piece, self._read_chosen(rows[piece])

    def check_unchanged(self) -> None:
        """Raise ``UserError`` if a file has another size or modification time than when it was opened."""
        for header in self._files.headers:
            with self._one_line_errors(header):
                state = header.path.stat()
            if (state.st_size, state.st_mtime_ns) != (header.n_bytes_of_file, header.modified_ns):
                raise self._changed(header)

    def _read_chosen(self, rows: Index) -> Array:
        gap = 1 + _GAP_BYTES // self._row_bytes
        is_first = np.diff(rows, prepend=rows[0] - gap - 1) > gap
        begins = np.flatnonzero(is_first)
        starts, stops = rows[begins], rows[np.append(begins[1:], len(rows)) - 1] + 1
        # Where each chosen row is among those that were read.
        offsets = np.cumsum(stops - starts) - (stops - starts)
        run = np.cumsum(is_first) - 1
        chosen: Array = self._read_runs(starts, stops)[rows - starts[run] + offsets[run]]
        return chosen

    def _read_runs(self, starts: Index, stops: Index) -> Array:
        """Return the rows of ascending ranges that do not overlap, one after the other."""
        n_rows = int((stops - starts).sum())
        content = np.empty(n_rows * self._row_bytes, np.uint8)
        rest = content.data
        begin, end = np.searchsorted(self._first, [starts[0], stops[-1] - 1], side="right")
        for header, low, high in zip(
            self._files.headers[begin - 1 : end],
            self._first[begin - 1 : end],
            self._first[begin : end + 1],
            strict=True,
        ):
            inside = slice(np.searchsorted(stops, low, side="right"), np.searchsorted(starts, high))
            first_rows = np.maximum(starts[inside], low) - low
            n_bytes = (np.minimum(stops[inside], high) - low - first_rows) * self._row_bytes
            positions = header.offset + first_rows * self._row_bytes
            rest = self._read_file(header, zip(positions.tolist(), n_bytes.tolist(), strict=True), rest)
        values: Array = content.view(self.dtype).reshape(n_rows, *self.shape[1:])
        return values

    def _read_file(self, header: NpyHeader, ranges: Iterable[tuple[int, int]], target: memoryview) -> memoryview:
        """Fill the beginning of ``target`` with ranges (position, number of bytes); return what is left of it."""
        with self._one_line_errors(header), header.path.open("rb", buffering=0) as file:
            for position, n_bytes in ranges:
                file.seek(position)
                part, target = target[:n_bytes], target[n_bytes:]
                while len(part) > 0:  # the system may return fewer bytes than there are, as for more than 2 GiB
                    n_read = file.readinto(part)
                    if not n_read:
                        raise self._changed(header)
                    part = part[n_read:]
        return target

    def _check_readable(self, header: NpyHeader) -> None:
        source = self._files.source_of(header.path)
        if header.is_fortran:
            found, expected = "an array in Fortran order, whose rows lie scattered", "C order"
            remedy = "save np.ascontiguousarray(X), or set data.load=memory"
            raise input_error(source, found, expected, remedy)
        if header.n_bytes_of_file < header.n_bytes:
            sizes = f"{header.n_bytes_of_file:,} bytes, but its header promises {header.n_bytes:,}"
            raise input_error(source, f"cannot be read ({sizes})", "a complete file", "write or copy it again")

    def _changed(self, header: NpyHeader) -> UserError:
        state = header.path.stat()
        now = _describe(state.st_size, state.st_mtime_ns)
        then = _describe(header.n_bytes_of_file, header.modified_ns)
        return self._lost(header, f"changed while it was used ({now}; at first {then})")

    @contextlib.contextmanager
    def _one_line_errors(self, header: NpyHeader) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._lost(header, f"cannot be read any more ({reason(error)})") from error

    def _lost(self, header: NpyHeader, found: str) -> UserError:
        expected, remedy = "the same file to the end", "restore it and continue with resume=RUN"
        return input_error(self._files.source_of(header.path), found, expected, remedy)


class SparseArray(_ReadArray):
    """A sparse matrix (N, F) in memory, whose rows are made dense when they are asked for; see ``StoredArray``."""

    def __init__(self, matrix: sparse.csr_array) -> None:
        self.dtype, self.shape = matrix.dtype, matrix.shape
        self._matrix = matrix

    @staticmethod
    def is_in(names: Sequence[str]) -> bool:
        """Return whether a ``.npz`` file with arrays of these names was written by ``scipy.sparse.save_npz``."""
        return {"format", "shape", "data"} <= set(names)

    def read(self, start: int, stop: int) -> Array:
        """Return rows ``start`` to ``stop - 1``, in C order."""
        self._require_range(start, stop)
        rows: Array = self._matrix[start:stop].toarray()
        return rows

    def pieces(self, rows: Index) -> Iterator[tuple[slice, Array]]:
        """Yield the chosen rows in pieces, as ``StoredArray.pieces`` does."""
        step = max(1, _PIECE_BYTES // (self.shape[1] * self.dtype.itemsize))
        for begin in range(0, len(rows), step):
            piece = slice(begin, begin + step)
            yield piece, self._matrix[rows[piece]].toarray()

    def check_unchanged(self) -> None:
        """Nothing changes in memory."""


def load_sparse(path: Path) -> sparse.csr_array:
    """Return the matrix of a file of ``scipy.sparse.save_npz``, which holds no Python objects.

    Raises
    ------
    ValueError
        If its parts do not make a matrix.
    """
    from scipy import sparse

    matrix = sparse.csr_array(sparse.load_npz(path))
    matrix.check_format(full_check=True)
    return matrix


def _describe(n_bytes: int, modified_ns: int) -> str:
    return f"{n_bytes:,} bytes of {datetime.fromtimestamp(modified_ns / 1e9):%Y-%m-%d %H:%M:%S.%f}"


class StoredRows:
    """The rows of a stored array as the network gets them: float32 (N, F), scaled, images with channels first."""

    def __init__(self, array: StoredArray | SparseArray, scaling: Scaling) -> None:
        self.shape = (len(array), math.prod(array.shape[1:]))
        self._array, self._scaling = array, scaling

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop - 1``: float32 (stop - start, F). Raises as ``StoredArray.read`` does."""
        return self._scaled(self._array.read(start, stop))

    def take(self, index: Tensor) -> Tensor:
        """Return any rows, in any order.

        They are read in the order in which they are stored, neighbors together, a few at a time.

        Parameters
        ----------
        index : int64 Tensor, shape (M,), each at least 0 and below N
            Some may be equal.

        Returns
        -------
        float32 Tensor, shape (M, F)
        """
        wanted = index.cpu().numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()}: expected rows within 0 to {len(self) - 1}")
        order = np.argsort(wanted, kind="stable")
        taken = torch.empty(len(wanted), self.shape[1])
        for piece, values in self._array.pieces(wanted[order]):
            taken[torch.from_numpy(order[piece])] = self._scaled(values)
        return taken

    def check_unchanged(self) -> None:
        """Raise as ``StoredArray.check_unchanged`` does."""
        self._array.check_unchanged()

    def _scaled(self, values: Array) -> Tensor:
        return torch.from_numpy(self._scaling.apply(to_rows(values)))
