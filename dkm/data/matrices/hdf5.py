"""Read arrays of an HDF5 file piece by piece, without following it to any other file.

External links, virtual data sets and data sets with external storage make HDF5 read other files of the user, so they
are refused. h5py is imported where it is used, because it is an extra.
"""

# Shapes: N samples, F features.

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dkm.config.data import Hdf5Data
from dkm.data.files import expand, read_first_bytes
from dkm.data.matrices.named_arrays import NamedShape, choose_array, choose_labels, describe_array, flat_labels
from dkm.data.raw import RawData
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.data.stored import LazyArray, SparseArray
from dkm.data.unpacking import UnpackingLimit, array_bytes
from dkm.errors import UserError, input_error, missing_extra_error, reason

# What h5py raises for damaged files and objects.
_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError)
# Decompressed chunks that are kept: rows of one chunk are read one after the other.
_CHUNK_CACHE_BYTES = 2**26
# Limits that no sensible file exceeds, for damaged ones.
_MAX_OBJECTS = 10_000
_MAX_LINKS = 16
_REMEDY = "write or copy it again"


@contextlib.contextmanager
def one_line_hdf5_errors(source: str) -> Iterator[None]:
    """Turn the errors of a damaged file into a one-line ``UserError``."""
    try:
        yield
    except _ERRORS as error:
        raise input_error(source, f"cannot be read ({reason(error)})", "a complete HDF5 file", _REMEDY) from error


class Hdf5File:
    """An open HDF5 file.

    Parameters
    ----------
    path : str
    source : str
        ``KEY=VALUE`` that names the file, for messages.
    option : str
        The option of ``data`` that reads it, which decides the extra to install.
    max_expansion : int
        How many times its size the file may unpack to.

    Raises
    ------
    UserError
        If h5py is not installed, or the file is missing, damaged or none of HDF5.
    """

    def __init__(self, path: str, source: str, option: str, max_expansion: int) -> None:
        try:
            import h5py
        except ImportError as error:
            raise missing_extra_error(source, "h5py", "anndata" if option == "h5ad" else "hdf5") from error
        self.source = source
        self.limit = UnpackingLimit(source, max_expansion)
        self._h5py: Any = h5py
        self._path = expand(path, source.partition("=")[0])
        read_first_bytes(self._path, source, source.partition("=")[0])
        if not h5py.is_hdf5(self._path):
            found, remedy = "not an HDF5 file", "check data= and the file: its content has another format"
            raise input_error(source, found, "an HDF5 file", remedy)
        with one_line_hdf5_errors(source):
            self._file: Any = h5py.File(self._path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
            self._state = self._stat()

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self._state[0]

    def _stat(self) -> tuple[int, int]:
        state = os.stat(self._path)  # noqa: PTH116
        return state.st_size, state.st_mtime_ns

    def check_unchanged(self) -> None:
        """Raise ``UserError`` if the file changed since it was opened."""
        with one_line_hdf5_errors(self.source):
            is_same = self._stat() == self._state
        if not is_same:
            expected, remedy = "the same file to the end", "restore it and continue with resume=RUN"
            raise input_error(self.source, "changed while it was used", expected, remedy)

    # --- objects ---

    def find(self, path: str) -> Any:
        """Return the group or data set at ``path``, None if there is none.

        Raises
        ------
        UserError
            If the object is not in this file.
        """
        links = self._h5py.h5l
        names, n_links = [name for name in path.split("/") if name], 0
        part, place = self._file, ""
        with one_line_hdf5_errors(self.source):
            while names:
                # The low-level interface, because h5py's own look-up of a name opens the file that a link names.
                name, group = names.pop(0), part.id
                if self.is_array(part) or not group.links.exists(name.encode()):
                    return None
                kind = group.links.get_info(name.encode()).type
                if kind == links.TYPE_HARD:
                    part, place = part[name], f"{place}/{name}"
                    continue
                target = group.links.get_val(name.encode())
                n_links += 1
                if kind != links.TYPE_SOFT:
                    file = os.fsdecode(target[0]) if isinstance(target, tuple) else "another file"
                    raise self._other_file_error(f"{place}/{name}", f"a link to {file}")
                if n_links > _MAX_LINKS:
                    return None
                path = os.fsdecode(target)
                names = [step for step in path.split("/") if step not in ("", ".")] + names
                if path.startswith("/"):
                    part, place = self._file, ""
            return self._checked(part, place)

    def follow(self, reference: Any) -> Any:
        """Return the object that a reference in the file names."""
        with one_line_hdf5_errors(self.source):
            return self._checked(self._file[reference], "a reference")

    def arrays(self) -> dict[str, Any]:
        """Return the data sets of this file by their path; links are not followed."""
        found: dict[str, Any] = {}
        seen: set[int] = set()
        groups = [("", self._file)]
        with one_line_hdf5_errors(self.source):
            while groups and len(seen) < _MAX_OBJECTS:
                prefix, group = groups.pop(0)
                for name in group:
                    if group.id.links.get_info(name.encode()).type != self._h5py.h5l.TYPE_HARD or name.startswith("#"):
                        continue
                    part, path = group[name], f"{prefix}{name}"
                    address = self._h5py.h5o.get_info(part.id).addr
                    if address in seen:
                        continue
                    seen.add(address)
                    if isinstance(part, self._h5py.Group):
                        groups.append((f"{path}/", part))
                    elif self.is_array(part):
                        found[path] = part
        return found

    def is_array(self, part: Any) -> bool:
        """Return whether an object is a data set and not a group."""
        return isinstance(part, self._h5py.Dataset)

    def dtype_of(self, part: Any) -> np.dtype[Any]:
        """Return the type of a data set; object for one that NumPy does not have, such as a damaged one."""
        try:
            dtype: np.dtype[Any] = part.dtype
        except _ERRORS:
            return np.dtype(object)
        return dtype

    def _checked(self, part: Any, name: str) -> Any:
        if self.is_array(part) and part.is_virtual:
            raise self._other_file_error(name, "a virtual data set, which other files hold")
        if self.is_array(part) and part.external:
            raise self._other_file_error(name, f"a data set whose values are in {part.external[0][0]}")
        return part

    def _other_file_error(self, name: str, found: str) -> UserError:
        expected, remedy = "data in this file (no other file is ever opened)", "copy the data into one file"
        return input_error(f"{self.source}: {name.strip('/')}", found, expected, remedy)

    # --- values ---

    def read(self, part: Any, name: str) -> Array:
        """Return all values of a data set; strings as ``str``."""
        self._checked(part, name)
        self._check_size(part)
        with one_line_hdf5_errors(f"{self.source}: {name}"):
            if self._h5py.check_string_dtype(part.dtype) is not None:
                return np.asarray(part.asstr()[()], dtype=str)
            if part.dtype.kind == "O":
                raise TypeError("it holds objects or references")
            return np.asarray(part[()])

    def require_numbers(self, part: Any, name: str) -> None:
        """Refuse anything but a data set of real numbers."""
        what = f"values of {self.dtype_of(part)}" if self.is_array(part) else "a group"
        if not self.is_array(part) or self.dtype_of(part).kind not in "biuf" or part.shape is None:
            raise input_error(f"{self.source}: {name}", what, "an array of real numbers", "choose another array")
        self._check_size(part)

    def _check_size(self, part: Any) -> None:
        with one_line_hdf5_errors(self.source):
            n_bytes = 0 if part.shape is None else array_bytes(part.shape, part.chunks, part.dtype.itemsize)
        self.limit.check(n_bytes, self._state[0])


class Hdf5Array(LazyArray):
    """A data set of an HDF5 file as an array (N, ...).

    Parameters
    ----------
    file : Hdf5File
    dataset : h5py.Dataset
    axes : sequence of int, optional
        The axes of the data set in the order of the array; the first one is that of the samples.
    """

    def __init__(self, file: Hdf5File, dataset: Any, axes: Sequence[int] | None = None) -> None:
        file.require_numbers(dataset, dataset.name.strip("/"))
        self._axes = tuple(range(dataset.ndim)) if axes is None else tuple(axes)
        self.dtype, self.shape = dataset.dtype, tuple(dataset.shape[axis] for axis in self._axes)
        self._file, self._dataset = file, dataset

    def read(self, start: int, stop: int) -> Array:
        self._require_range(start, stop)
        index = [slice(None)] * self.ndim
        index[self._axes[0]] = slice(start, stop)
        with one_line_hdf5_errors(f"{self._file.source}: {self._dataset.name.strip('/')}"):
            values = np.asarray(self._dataset[tuple(index)])
        return np.ascontiguousarray(values.transpose(self._axes))

    def check_unchanged(self) -> None:
        self._file.check_unchanged()


class SparseRows(LazyArray):
    """A sparse matrix (N, F) of an HDF5 file that is stored by rows (CSR); a piece is made dense when it is read."""

    def __init__(self, file: Hdf5File, group: Any, shape: tuple[int, int], names: Sequence[str]) -> None:
        self._file, self._source = file, f"{file.source}: {group.name.strip('/')}"
        self._data, self._indices, self._indptr = _sparse_parts(file, group, shape, shape[0], names)
        # SciPy makes no rows of float16 dense.
        self.dtype, self.shape = np.dtype(np.float32) if self._data.dtype == np.float16 else self._data.dtype, shape

    def read(self, start: int, stop: int) -> Array:
        from scipy import sparse

        self._require_range(start, stop)
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        with one_line_hdf5_errors(self._source):
            values = self._data[first:last].astype(self.dtype, copy=False)
            parts = values, self._indices[first:last], self._indptr[start : stop + 1] - first
            matrix = sparse.csr_array(parts, shape=(stop - start, self.shape[1]))
            matrix.check_format(full_check=True)
        rows: Array = matrix.toarray()
        return rows

    def check_unchanged(self) -> None:
        self._file.check_unchanged()


def read_sparse_columns(file: Hdf5File, group: Any, shape: tuple[int, int], names: Sequence[str]) -> SparseArray:
    """Return a sparse matrix (N, F) that is stored by columns (CSC); its non-zero values are read into memory."""
    from scipy import sparse

    data, indices, indptr = _sparse_parts(file, group, shape, shape[1], names)
    with one_line_hdf5_errors(f"{file.source}: {group.name.strip('/')}"):
        matrix = sparse.csc_array((data[()], indices[()], indptr), shape=shape)
        matrix.check_format(full_check=True)
        return SparseArray(sparse.csr_array(matrix))


def _sparse_parts(
    file: Hdf5File, group: Any, shape: tuple[int, int], n_lines: int, names: Sequence[str]
) -> tuple[Any, Any, npt.NDArray[np.int64]]:
    """Return the values, indices (data sets) and line starts (n_lines + 1,) of a sparse matrix, checked."""
    name = group.name.strip("/")
    parts = [file.find(f"{name}/{part}") for part in names]
    for part, label in zip(parts, names, strict=True):
        file.require_numbers(part, f"{name}/{label}")
    data, indices, starts = parts
    indptr = file.read(starts, f"{name}/{names[2]}").astype(np.int64)
    is_sound = indptr.shape == (n_lines + 1,) and indptr[0] == 0 and bool((np.diff(indptr) >= 0).all())
    if not is_sound or data.shape != indices.shape or data.shape != (int(indptr[-1]),) or min(shape) < 1:
        found, expected = "parts that do not form a matrix", f"a sparse matrix of shape {shape}"
        raise input_error(f"{file.source}: {name}", found, expected, _REMEDY)
    return data, indices, indptr


def open_hdf5(config: Hdf5Data, source: str, plan: Mapping[str, Any] | None) -> RawData:
    """Open the file of ``data=hdf5``; see ``dkm.data.matrices.reader``."""
    file = Hdf5File(config.path, source, "hdf5", config.max_expansion)
    parts = file.arrays()
    # Paths that lead through links within the file, or to data that are refused.
    for path in (config.array, config.labels):
        name = (path or "").strip("/")
        if name and name not in parts and (part := file.find(name)) is not None:
            if not file.is_array(part):
                raise input_error(f"{source}: {name}", "a group", "an array", "name an array in it")
            parts[name] = part
    arrays = {name: NamedShape(part.shape or (), file.dtype_of(part)) for name, part in parts.items()}
    name, why = choose_array(arrays, config, source, plan)
    X = Hdf5Array(file, file.find(name))
    label_name = choose_labels(arrays, config, source, plan)
    labels = None if label_name is None else flat_labels(file.read(file.find(label_name), label_name))
    report = DataReport(source, n_rows=X.shape[0] if X.shape else 0)
    report.decisions["array"] = describe_array(name, X.shape, why)
    return RawData(X, labels, plan={"array": name}, report=report)
