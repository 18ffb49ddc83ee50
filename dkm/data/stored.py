"""Rows that stay on disk, read piece by piece.

A ``LazyArray`` returns the values as they are stored, such as ``StoredArray`` those of one ``.npy`` file or of a folder
of them (shards), and ``StoredRows`` the scaled rows for the network, bit for bit equal
to those of the same array in memory. Files are read at given positions and not memory-mapped: mapped pages would count
as memory of the process, and accessing a page beyond the end of a truncated file would kill it (SIGBUS). Each read
opens its file, so any number of threads and shards works.
"""

# Shapes: N samples, F features, M chosen rows, n rows of a piece.

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.data.files import NpyFiles, NpyHeader
from dkm.data.layout import flatten
from dkm.data.scaling import Array, Scaling, to_rows
from dkm.errors import UserError, input_error, reason

if TYPE_CHECKING:
    from scipy import sparse

Index = npt.NDArray[np.int64]

# Rows that are encoded at once: large enough for efficient matrix products, small enough for the 2,000-wide layer.
# Embeddings are bit for bit equal only for equal chunks.
CHUNK_ROWS = 2048
# Values of a part that is read for a prediction, unless CHUNK_ROWS rows have more: 16 MiB as float32.
_PART_VALUES = 2**22
# Limit for data.load=auto, as float32: 1 GiB. It is fixed because the choice decides how batches are drawn.
_MAX_BYTES_IN_MEMORY = 2**30
# Memory for a piece of selected rows, including the rows between them that are read too.
_PIECE_BYTES = 2**25
# The width of a sparse matrix, which a few bytes of a file declare; a dense row of it takes 8 GiB.
_MAX_COLUMNS = 2**30
# Selected rows with a smaller gap are read in one call: reading the gap costs about as much as another call.
_GAP_BYTES = 2**13


def is_large(n_values: int) -> bool:
    """Return whether ``data.load=auto`` leaves so many values on disk."""
    return 4 * n_values > _MAX_BYTES_IN_MEMORY


def rows_per_part(n_rows: int, n_values: int) -> int:
    """Return how many rows of ``n_values`` values a prediction reads at once: at most ``n_rows``."""
    return min(n_rows, max(CHUNK_ROWS, _PART_VALUES // n_values))


class LazyArray(ABC):
    """An array (N, ...) whose rows are read on demand."""

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

    @abstractmethod
    def read(self, start: int, stop: int) -> Array:
        """Return rows ``start`` to ``stop - 1``, in C order.

        Raises
        ------
        IndexError
            If the range is not within 0 to N.
        UserError
            If a file was removed or is damaged.
        """

    def pieces(self, rows: Index) -> Iterator[tuple[slice, Array]]:
        """Yield the selected rows in pieces of bounded memory: a slice of ``rows``, and the values of these rows.

        Parameters
        ----------
        rows : int64, shape (M,), ascending, each at least 0 and below N
            May contain duplicates.
        """
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        gap, limit = 1 + _GAP_BYTES // row_bytes, max(1, _PIECE_BYTES // row_bytes)
        is_far = np.append(np.diff(rows) > gap, True)
        begin = 0
        while begin < len(rows):
            first = int(rows[begin])
            end = begin + min(int(np.argmax(is_far[begin:])) + 1, int(np.searchsorted(rows[begin:], first + limit)))
            yield slice(begin, end), self.read(first, int(rows[end - 1]) + 1)[rows[begin:end] - first]
            begin = end

    def check_unchanged(self) -> None:
        """Raise ``UserError`` if a file changed since it was opened; data in memory do not change."""
        return

    def _require_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop}: expected an ascending range within 0 to {len(self)}")


class StoredArray(LazyArray):
    """An array (N, ...) in files, whose rows are read on demand.

    Parameters
    ----------
    files : NpyFiles
        The files, of at least one dimension.

    Raises
    ------
    UserError
        If a file is in Fortran order, where rows are not contiguous, or shorter than its header says.
    """

    def __init__(self, files: NpyFiles) -> None:
        self.dtype, self.shape = files.dtype, files.shape
        self._files = files
        for header in files.headers:
            self._check_readable(header)
        n_rows = [math.prod(header.shape[:1]) for header in files.headers]  # 1 for a scalar, refused later
        # Row i of the array is row i - first[s] of shard s, where first[s] <= i < first[s + 1].
        self._first = np.concatenate([[0], np.cumsum(n_rows, dtype=np.int64)])
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> Array:
        """Return rows ``start`` to ``stop - 1``; see ``LazyArray.read``."""
        self._require_range(start, stop)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self._read_runs(np.array([start]), np.array([stop]))

    def pieces(self, rows: Index) -> Iterator[tuple[slice, Array]]:
        """Yield the selected rows in pieces, whose runs of neighbors are read in one call."""
        step = max(1, _PIECE_BYTES // (self._row_bytes + _GAP_BYTES))
        for begin in range(0, len(rows), step):
            piece = slice(begin, begin + step)
            yield piece, self._read_selected(rows[piece])

    def check_unchanged(self) -> None:
        """Raise ``UserError`` if the size or modification time of a file changed since its header was read."""
        for header in self._files.headers:
            with self._one_line_errors(header):
                state = header.path.stat()
            if (state.st_size, state.st_mtime_ns) != (header.n_bytes_of_file, header.modified_ns):
                raise self._changed_file_error(header)

    def _read_selected(self, rows: Index) -> Array:
        gap = 1 + _GAP_BYTES // self._row_bytes
        is_first = np.diff(rows, prepend=rows[0] - gap - 1) > gap
        begins = np.flatnonzero(is_first)
        starts, stops = rows[begins], rows[np.append(begins[1:], len(rows)) - 1] + 1
        # Position of each run's first row among the rows that are read.
        offsets = np.cumsum(stops - starts) - (stops - starts)
        run = np.cumsum(is_first) - 1
        selected: Array = self._read_runs(starts, stops)[rows - starts[run] + offsets[run]]
        return selected

    def _read_runs(self, starts: Index, stops: Index) -> Array:
        """Return the concatenated rows of ascending ranges that do not overlap."""
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
        """Read ranges (position, number of bytes) to the beginning of ``target``; return the rest of ``target``."""
        with self._one_line_errors(header), header.path.open("rb", buffering=0) as file:
            for position, n_bytes in ranges:
                file.seek(position)
                part, target = target[:n_bytes], target[n_bytes:]
                while len(part) > 0:  # a call may return fewer bytes, for example above 2 GiB
                    n_read = file.readinto(part)
                    if not n_read:
                        raise self._changed_file_error(header)
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

    def _changed_file_error(self, header: NpyHeader) -> UserError:
        state = header.path.stat()
        now = _describe(state.st_size, state.st_mtime_ns)
        then = _describe(header.n_bytes_of_file, header.modified_ns)
        return self._lost_file_error(header, f"changed while it was used ({now}; at first {then})")

    @contextlib.contextmanager
    def _one_line_errors(self, header: NpyHeader) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._lost_file_error(header, f"cannot be read any more ({reason(error)})") from error

    def _lost_file_error(self, header: NpyHeader, found: str) -> UserError:
        expected, remedy = "the same file to the end", "restore it and continue with resume=RUN"
        return input_error(self._files.source_of(header.path), found, expected, remedy)


class SparseArray(LazyArray):
    """A sparse matrix (N, F) in memory, whose rows are made dense on demand; see ``StoredArray``.

    Raises
    ------
    ValueError
        If a dense row could not be held.
    """

    def __init__(self, matrix: sparse.csr_array) -> None:
        if matrix.shape[1] > _MAX_COLUMNS:
            raise ValueError(f"{matrix.shape[1]:,} columns, of which {_MAX_COLUMNS:,} can be read")
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

    def transposed(self) -> SparseArray:
        """Return the matrix with rows and columns exchanged."""
        from scipy import sparse

        return SparseArray(sparse.csr_array(self._matrix.T))

    def pieces(self, rows: Index) -> Iterator[tuple[slice, Array]]:
        """Yield the selected rows in pieces, as ``LazyArray.pieces`` does."""
        step = max(1, _PIECE_BYTES // (self.shape[1] * self.dtype.itemsize))
        for begin in range(0, len(rows), step):
            piece = slice(begin, begin + step)
            yield piece, self._matrix[rows[piece]].toarray()


class FlattenedArray(LazyArray):
    """The rows of another array as (N, F), channels first; see ``dkm.data.layout.flatten``."""

    def __init__(self, array: LazyArray, layout: str) -> None:
        self.dtype, self.shape = array.dtype, (len(array), math.prod(array.shape[1:]))
        self._array, self._layout = array, layout

    def read(self, start: int, stop: int) -> Array:
        """Return rows ``start`` to ``stop - 1``, in C order."""
        return np.ascontiguousarray(flatten(self._array.read(start, stop), self._layout))

    def pieces(self, rows: Index) -> Iterator[tuple[slice, Array]]:
        """Yield the selected rows in the pieces of the other array."""
        for piece, values in self._array.pieces(rows):
            yield piece, flatten(values, self._layout)

    def check_unchanged(self) -> None:
        self._array.check_unchanged()


def load_sparse(path: Path) -> sparse.csr_array:
    """Read a file of ``scipy.sparse.save_npz``; files with Python objects are refused.

    Raises
    ------
    ValueError
        If its arrays do not form a valid matrix.
    """
    from scipy import sparse

    try:
        matrix = sparse.csr_array(sparse.load_npz(path))
    except (KeyError, AttributeError) as error:
        raise ValueError(f"its arrays form no sparse matrix: {error.args[0]}") from error
    matrix.check_format(full_check=True)
    if matrix.dtype == np.float16:  # SciPy cannot take rows of it
        matrix.data = matrix.data.astype(np.float32)
    return matrix


def _describe(n_bytes: int, modified_ns: int) -> str:
    return f"{n_bytes:,} bytes of {datetime.fromtimestamp(modified_ns / 1e9):%Y-%m-%d %H:%M:%S.%f}"


class StoredRows:
    """The rows of a stored array as input of the network: float32 (N, F), scaled, images with channels first."""

    def __init__(self, array: LazyArray, scaling: Scaling) -> None:
        self.shape = (len(array), math.prod(array.shape[1:]))
        self._array, self._scaling = array, scaling

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop - 1``: float32 (stop - start, F). See ``StoredArray.read`` for errors."""
        return self._scale(self._array.read(start, stop))

    def take(self, index: Tensor) -> Tensor:
        """Return the rows at ``index``, in any order.

        They are read in storage order, adjacent rows in one call, in pieces of bounded memory.

        Parameters
        ----------
        index : int64 Tensor, shape (M,), each at least 0 and below N
            May contain duplicates.

        Returns
        -------
        float32 Tensor, shape (M, F)
        """
        rows = index.cpu().numpy()
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()}: expected rows within 0 to {len(self) - 1}")
        order = np.argsort(rows, kind="stable")
        scaled = torch.empty(len(rows), self.shape[1])
        for piece, values in self._array.pieces(rows[order]):
            scaled[torch.from_numpy(order[piece])] = self._scale(values)
        return scaled

    def check_unchanged(self) -> None:
        """Raise ``UserError`` if a file changed; see ``StoredArray.check_unchanged``."""
        self._array.check_unchanged()

    def _scale(self, values: Array) -> Tensor:
        return torch.from_numpy(self._scaling.apply(to_rows(values)))
