"""Read the matrix, the names and a column of an AnnData file (``.h5ad``) of any version, with h5py alone.

AnnData stores tables as compound data sets (until 0.6) or as groups of columns, and categories in four ways. The
package anndata is not used: it follows links to other files and reads sparse matrices by columns slowly in parts.
Format: https://anndata.readthedocs.io/en/latest/fileformat-prose.html
"""

# Shapes: N observations (rows), F variables (features).

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dkm.config.data import H5adData
from dkm.data.matrices.hdf5 import Hdf5Array, Hdf5File, SparseRows, one_line_hdf5_errors, read_sparse_columns
from dkm.data.matrices.named_arrays import describe_shape
from dkm.data.raw import RawData
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.data.stored import Index, LazyArray
from dkm.data.tables.plan import TablePlan
from dkm.errors import input_error

log = logging.getLogger(__name__)

_MAX_NAMES = 5
_SPARSE_PARTS = ("data", "indices", "indptr")


def open_h5ad(config: H5adData, source: str, plan: Mapping[str, Any] | None) -> RawData:
    """Open the file; with the plan of a trained model, select its features by name."""
    file = Hdf5File(config.path, source, "h5ad", config.max_expansion)
    obs, var, path = _open_table(file, "obs"), _open_table(file, "var"), "X"
    layers = _children(file, "layers")
    raw = next((name for name in ("raw", "raw.X") if file.find(name) is not None), None)
    if config.layer is not None and config.layer not in (*layers, *(["raw"] if raw else [])):
        found = f"no such layer; the file has {_list_names([*layers, *(['raw'] if raw else [])]) or 'none'}"
        remedy = f"set data.layer={layers[0]}" if layers else "leave data.layer out"
        raise input_error(f"data.layer={config.layer}", found, "a name in layers, or raw", remedy)
    if config.layer is not None:
        path = f"layers/{config.layer}"
    if config.layer == "raw" and "raw" not in layers:
        path = "raw/X" if raw == "raw" else "raw.X"
        var = _open_table(file, path.replace("X", "var"))
    X, storage = _open_matrix(file, path, layers)
    if X.shape != (len(obs.names), len(var.names)):
        found = f"{path} of {describe_shape(X.shape)}, {len(obs.names):,} obs and {len(var.names):,} var names"
        raise input_error(source, found, "a name for each row and column", "write the file again with anndata")
    report = DataReport(source, n_rows=len(X))
    others = [name for name in ("X", *layers, *(["raw"] if raw else [])) if name != (config.layer or "X")]
    more = f"; data.layer=NAME reads another one ({_list_names(others)})" if others else ""
    report.decisions["matrix"] = f"{path}, {describe_shape(X.shape)}, {storage}{more}"
    names = _make_unique(var.names, report)
    trained = TablePlan.from_dict(plan or {}).features  # also of a model of a table; none of one of an array
    if trained:
        X = _select_features(X, names, trained, source)
    labels = _read_labels(config, obs, is_trained=plan is not None)
    features = trained or tuple(names)
    return RawData(X, labels, ids=obs.names, features=features, plan={"features": list(features)}, report=report)


def is_h5ad(path: str, source: str) -> bool:
    """Return whether an HDF5 file has the tables of an AnnData file."""
    file = Hdf5File(path, source, "h5ad", max_expansion=1)  # no values are read
    return file.find("obs") is not None and file.find("var") is not None


# --- the matrix ---------------------------------------------------------------------------------------------


def _open_matrix(file: Hdf5File, path: str, layers: Sequence[str]) -> tuple[LazyArray, str]:
    """Return a matrix (N, F), and how it is stored."""
    part = file.find(path)
    if part is None or (file.is_array(part) and (part.shape is None or part.ndim != 2)):
        found = f"no matrix {path}; it has {_list_names(layers) or 'no layers'}"
        remedy = f"set data.layer={layers[0]}" if layers else "write the file with X"
        raise input_error(file.source, found, "a matrix of observations and variables", remedy)
    if file.is_array(part):
        return Hdf5Array(file, part), "dense"
    with one_line_hdf5_errors(f"{file.source}: {path}"):
        kind = _text(part.attrs.get("encoding-type", part.attrs.get("h5sparse_format", ""))).removesuffix("_matrix")
        shape = tuple(int(n) for n in part.attrs.get("shape", part.attrs.get("h5sparse_shape", ())))
    if kind not in ("csr", "csc") or len(shape) != 2:
        found = f"{path} in the encoding {kind or 'of a group'}"
        raise input_error(file.source, found, "a dense, csr or csc matrix", "write the file again with anndata")
    if kind == "csr":
        return SparseRows(file, part, (shape[0], shape[1]), _SPARSE_PARTS), "sparse by rows"
    X = read_sparse_columns(file, part, (shape[0], shape[1]), _SPARSE_PARTS)
    return X, "sparse by columns, so its values other than 0 are read into memory"


class _SelectedColumns(LazyArray):
    """Some columns of an array (N, F) in a given order."""

    def __init__(self, array: LazyArray, columns: Index) -> None:
        self.dtype, self.shape = array.dtype, (len(array), len(columns))
        self._array, self._columns = array, columns

    def read(self, start: int, stop: int) -> Array:
        return np.ascontiguousarray(self._array.read(start, stop)[:, self._columns])

    def check_unchanged(self) -> None:
        self._array.check_unchanged()


def _select_features(X: LazyArray, names: Sequence[str], trained: Sequence[str], source: str) -> LazyArray:
    position = {name: i for i, name in enumerate(names)}
    missing = [name for name in trained if name not in position]
    if missing:
        found = f"lacks {len(missing):,} of {len(trained):,} features of the model: {_list_names(missing)}"
        expected = "the var_names that the model was trained on"
        raise input_error(source, found, expected, "add them, or rename those of the file as in training")
    n_extra = len(names) - len(trained)
    if n_extra:
        extra = _list_names([name for name in names if name not in set(trained)])
        log.warning("%s: %s features that the model does not know are ignored: %s", source, f"{n_extra:,}", extra)
    if list(names) == list(trained):
        return X
    return _SelectedColumns(X, np.array([position[name] for name in trained], dtype=np.int64))


def _make_unique(names: Array, report: DataReport) -> list[str]:
    """Append -1, -2, ... to repeated names, as anndata's ``var_names_make_unique`` does."""
    counts = Counter(names.tolist())
    n_repeated = len(names) - len(counts)
    if not n_repeated:
        return list(names.tolist())
    used, unique = set(counts), dict[str, None]()
    for name in names.tolist():
        new, n = name, 0
        while new in unique or (n and new in used):
            n += 1
            new = f"{name}-{n}"
        unique[new] = None
    repeated = _list_names([name for name, n in counts.items() if n > 1])
    report.decisions["feature names"] = f"-1, -2, ... is appended to {n_repeated:,} repeated names: {repeated}"
    return list(unique)


# --- tables -------------------------------------------------------------------------------------------------


class _Table:
    """``obs`` or ``var``: a compound data set, or a group of columns."""

    def __init__(self, file: Hdf5File, part: Any, path: str) -> None:
        self._file, self._part, self._path = file, part, path
        self._is_compound = file.is_array(part)
        with one_line_hdf5_errors(f"{file.source}: {path}"):
            fields = list(part.dtype.names or ()) if self._is_compound else sorted(part.keys())
            index = "index" if "index" in fields else "_index"
            if self._is_compound and index not in fields:
                index = fields[0]
            elif not self._is_compound:
                index = _text(part.attrs.get("_index", index))
        self.columns = [name for name in fields if name not in (index, "__categories")]
        values = self.read(index)
        self.names = values if values.dtype.kind == "U" else values.astype(str)

    def read(self, name: str) -> Array:
        """Return the values of a column (N,); those of a category are its level."""
        source = f"{self._path}/{name}"
        if self._is_compound:
            with one_line_hdf5_errors(f"{self._file.source}: {source}"):
                values = _decode(self._part.fields(name)[()])
            levels = self._file.find(f"uns/{name}_categories")
            return values if levels is None else self._levels(values, self._file.read(levels, source), source)
        part = self._file.find(source)
        if part is None:
            raise input_error(self._file.source, f"no {source}", "an AnnData file", "write it again with anndata")
        if self._file.is_array(part):
            values = self._file.read(part, source)
            reference = part.attrs.get("categories")
            if reference is None:
                return _decode(values)
            return self._levels(values, self._file.read(self._file.follow(reference), source), source)
        codes, mask = (self._file.find(f"{source}/{key}") for key in ("codes", "mask"))
        if codes is not None:
            levels = self._file.find(f"{source}/categories")
            if levels is not None and not self._file.is_array(levels):
                levels = self._file.find(f"{source}/categories/values")
            if levels is not None:
                return self._levels(self._file.read(codes, source), _decode(self._file.read(levels, source)), source)
        values = self._file.find(f"{source}/values")
        if values is None or mask is None:
            raise input_error(f"{self._file.source}: {source}", "an unknown encoding", "a column", "write it as text")
        _require_all(~self._file.read(mask, source).astype(bool), f"{self._file.source}: {source}")
        return _decode(self._file.read(values, source))

    def _levels(self, codes: Array, levels: Array, source: str) -> Array:
        levels = _decode(levels)
        _require_all((codes >= 0) & (codes < len(levels)), f"{self._file.source}: {source}")
        return np.asarray(levels[codes])


def _open_table(file: Hdf5File, path: str) -> _Table:
    part = file.find(path)
    if part is None:
        found, remedy = f"no {path}", "use data=hdf5 for other HDF5 files"
        raise input_error(file.source, found, "an AnnData file with X, obs and var", remedy)
    return _Table(file, part, path)


def _read_labels(config: H5adData, obs: _Table, *, is_trained: bool) -> Array | None:
    name = config.labels
    if name is None or (is_trained and name not in obs.columns):
        return None
    if name not in obs.columns:
        near = difflib.get_close_matches(name, obs.columns, n=1)
        remedy = f"did you mean data.labels={near[0]}?" if near else "set data.labels=null"
        found = f"no such column in obs; it has {_list_names(obs.columns) or 'none'}"
        raise input_error(f"data.labels={name}", found, "a column of obs", remedy)
    return obs.read(name)


def _require_all(is_given: Array, source: str) -> None:
    rows = np.flatnonzero(~is_given)
    if len(rows):
        found = f"{len(rows):,} rows without a value, the first is row {rows[0]:,} (counted from 0)"
        raise input_error(source, found, "a value in each row", "complete them, or set data.labels=null")


def _children(file: Hdf5File, path: str) -> list[str]:
    part = file.find(path)
    return [] if part is None or file.is_array(part) else sorted(part.keys())


def _decode(values: Array) -> Array:
    """Return bytes as text."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "O":
        texts = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values)
        return np.array(list(texts), dtype=str)
    return values


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _list_names(names: Sequence[str]) -> str:
    first = ", ".join(map(str, names[:_MAX_NAMES]))
    return first if len(names) <= _MAX_NAMES else f"{first}, and {len(names) - _MAX_NAMES:,} more"
