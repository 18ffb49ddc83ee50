"""Read a matrix or images from a MATLAB file: up to version 7 with SciPy, version 7.3 (HDF5) with h5py.

MATLAB objects and functions in the file are not read and nothing is executed: only the chosen arrays are loaded.
MATLAB keeps the samples of images often along the last axis; the labels tell, or the longer of the two axes.
"""

# Shapes: N samples, F features.

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dkm.config.data import MatData
from dkm.data.files import expand, read_first_bytes
from dkm.data.matrices.hdf5 import Hdf5Array, Hdf5File, one_line_hdf5_errors, read_sparse_columns
from dkm.data.matrices.mat5 import compressed_parts, require_known_types
from dkm.data.matrices.named_arrays import NamedShape, choose_array, choose_labels, describe_array, flat_labels
from dkm.data.raw import RawData, RawRows
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.data.stored import SparseArray
from dkm.data.unpacking import UnpackingLimit
from dkm.errors import UserError, input_error, reason

_USUAL_NAMES = ("X", "x", "data", "fea", "features")
# MATLAB's classes of numbers, with NumPy's names; what SciPy calls logical is stored as bytes.
_DTYPES = {"double": "f8", "single": "f4", "logical": "u1", "sparse": "f8"}
_DTYPES |= {f"{sign}int{n}": f"{sign or 'i'}{n // 8}" for sign in ("", "u") for n in (8, 16, 32, 64)}
# A class of anything else, such as char, cell, struct, function: no data, but a char or cell array may be labels.
_OTHER = np.dtype("O")
_SPARSE_PARTS = ("data", "ir", "jc")
# What SciPy calls the format of MATLAB 5 to 7; that of MATLAB 4 is 0.
_VERSION_5 = 1


def open_mat(config: MatData, source: str, plan: Mapping[str, Any] | None) -> RawData:
    """Open the file of ``data=mat``; see ``dkm.data.matrices.reader``."""
    path = expand(config.path, source.partition("=")[0])
    head = read_first_bytes(path, source, source.partition("=")[0])
    is_hdf5 = head.startswith((b"MATLAB 7.3", b"\x89HDF"))
    file: _Mat5File | _Mat73File
    if is_hdf5:
        file = _Mat73File(config.path, source, config.max_expansion)
    else:
        limit = UnpackingLimit(source, config.max_expansion)
        limit.check_file(compressed_parts(path, limit), path)
        file = _Mat5File(path, source)
    name, why = choose_array(file.arrays, config, source, plan, usual=_USUAL_NAMES, axes=(0, -1))
    shape = file.shapes[name]
    label_name = choose_labels(file.arrays, config, source, plan)
    labels = None if label_name is None else flat_labels(file.read_labels(label_name))
    is_last, how = _find_sample_axis(shape, None if labels is None else len(labels), plan, source)
    X = file.open(name, is_last=is_last)
    report = DataReport(source, n_rows=X.shape[0])
    report.decisions["array"] = describe_array(name, shape, why)
    if how:
        report.decisions["samples"] = how
    scaling = "row_rms" if isinstance(X, SparseArray) else None
    return RawData(X, labels, scaling, plan={"array": name, "is_last": is_last}, report=report)


def _find_sample_axis(
    shape: tuple[int, ...], n_labels: int | None, plan: Mapping[str, Any] | None, source: str
) -> tuple[bool, str]:
    """Return whether the samples lie along the last axis, and why ("" for rows of a table)."""
    first, last = shape[0], shape[-1]
    if plan is not None and "is_last" in plan:
        return bool(plan["is_last"]), ""
    if n_labels is not None and n_labels in (first, last) and first != last:
        is_last = n_labels == last
        if is_last:
            return True, f"along the last axis, as many as there are labels ({n_labels:,})"
        return False, ""
    if len(shape) == 2:
        is_vector = plan is None and first == 1 < last  # one sample is nothing to train on
        return is_vector, "along the last axis, as the first has length 1" if is_vector else ""
    if first == last:
        expected, remedy = "samples along the first or the last axis", "set data.labels, or save them along the first"
        raise input_error(source, f"an array of {shape}, which has both", expected, remedy)
    return last > first, f"along the {'last' if last > first else 'first'} axis, the longer one of both"


class _Mat5File:
    """A file of a version up to 7, read with SciPy."""

    def __init__(self, path: Path, source: str) -> None:
        from scipy import io

        self._path, self._source, self._io = path, source, io
        with _one_line_errors(source):
            found = io.whosmat(path)
        self._kinds = {name: kind for name, _, kind in found}
        self.shapes = {name: tuple(shape) for name, shape, _ in found}
        self.arrays = {name: NamedShape(_without_vectors(shape), _dtype_of(kind)) for name, shape, kind in found}

    def _load(self, name: str) -> Any:
        with _one_line_errors(f"{self._source}: {name}"):
            if self._io.matlab.matfile_version(self._path)[0] == _VERSION_5:
                require_known_types(self._path, name)
            return self._io.loadmat(self._path, variable_names=[name])[name]

    def open(self, name: str, *, is_last: bool) -> RawRows:
        from scipy import sparse

        values = self._load(name)
        is_sparse = sparse.issparse(values)  # its class may also be logical
        if not (is_sparse or isinstance(values, np.ndarray)) or values.dtype.kind not in "biuf":
            found = f"values of MATLAB's class {self._kinds[name]}, or complex ones"
            raise input_error(f"{self._source}: {name}", found, "an array of real numbers", "choose another array")
        if is_sparse:
            with _one_line_errors(f"{self._source}: {name}"):
                matrix = sparse.csr_array(values.T if is_last else values)
                matrix.check_format(full_check=True)
                return SparseArray(matrix)
        return np.ascontiguousarray(np.moveaxis(values, -1, 0) if is_last else values)

    def read_labels(self, name: str) -> Array:
        values = np.asarray(self._load(name))
        if values.dtype.kind != "O":
            return values
        texts = [np.asarray(cell) for cell in values.ravel()]
        if not all(text.dtype.kind == "U" and text.size <= 1 for text in texts):
            expected = "numbers, text, or a cell array of text"
            raise input_error(f"data.labels={name}", "a cell array of other things", expected, "save text or numbers")
        return np.array([str(text.item()) if text.size else "" for text in texts])


class _Mat73File:
    """A file of version 7.3, which is HDF5 with the axes in reverse order."""

    def __init__(self, path: str, source: str, max_expansion: int) -> None:
        self._file = Hdf5File(path, source, "mat", max_expansion)
        self._source = source
        self._parts: dict[str, Any] = {}
        self._sparse_shapes: dict[str, tuple[int, int]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.arrays: dict[str, NamedShape] = {}
        with one_line_hdf5_errors(source):
            for path_, part in self._file.arrays().items():
                self._add(path_, part)

    def _add(self, path: str, part: Any) -> None:
        name = path.rpartition("/")[0]
        group = self._file.find(name) if path.endswith("/jc") else None
        if group is not None and "MATLAB_sparse" in group.attrs:
            shape = (int(group.attrs["MATLAB_sparse"]), math.prod(part.shape) - 1)
            self._file.limit.check(8 * shape[0], self._file.n_bytes)
            self._parts[name], self.shapes[name], self._sparse_shapes[name] = group, shape, shape
            self.arrays[name] = NamedShape(shape, np.dtype("f8"))
        elif "MATLAB_empty" not in part.attrs and "/" not in path:
            kind = part.attrs.get("MATLAB_class", b"double")
            self._parts[path] = part
            is_number = (kind.decode() if isinstance(kind, bytes) else str(kind)) in _DTYPES
            dtype = self._file.dtype_of(part) if is_number else _OTHER
            self.shapes[path] = tuple((part.shape or ())[::-1])
            self.arrays[path] = NamedShape(_without_vectors(self.shapes[path]), dtype)

    def open(self, name: str, *, is_last: bool) -> RawRows:
        if name in self._sparse_shapes:
            X = read_sparse_columns(self._file, self._parts[name], self._sparse_shapes[name], _SPARSE_PARTS)
            return X.transposed() if is_last else X
        part = self._file.find(name)
        backward = tuple(range(part.ndim))[::-1]  # MATLAB's order
        return Hdf5Array(self._file, part, (backward[-1], *backward[:-1]) if is_last else backward)

    def read_labels(self, name: str) -> Array:
        part = self._parts[name]
        if self.arrays[name].dtype == _OTHER:
            expected = "numbers (text is not read from version 7.3)"
            raise input_error(f"data.labels={name}", "no numbers", expected, "save them as numbers, or with -v7")
        return self._file.read(part, name)


def _without_vectors(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (N,) for MATLAB's vectors (N, 1) and (1, N), which are no matrices of data."""
    return (math.prod(shape),) if len(shape) == 2 and 1 in shape else tuple(shape)


def _dtype_of(kind: str) -> np.dtype[Any]:
    return np.dtype(_DTYPES[kind]) if kind in _DTYPES else _OTHER


@contextlib.contextmanager
def _one_line_errors(source: str) -> Iterator[None]:
    """Turn SciPy's errors on a damaged file, which are of many types, into a one-line ``UserError``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found, expected = f"cannot be read ({reason(error)})", "a complete MATLAB file"
        raise input_error(source, found, expected, "check its content, or save it again") from error
