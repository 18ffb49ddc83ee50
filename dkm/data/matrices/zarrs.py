"""Read an array of a Zarr store on the local disk, piece by piece.

Chunks of Python objects (numcodecs' Pickle) are refused, because reading them could run code. zarr is imported where it
is used, because it is an extra.
"""

# Shapes: N samples.

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dkm.config.data import ZarrData
from dkm.data.files import expand, read_first_bytes
from dkm.data.matrices.named_arrays import NamedShape, choose_array, choose_labels, describe_array, flat_labels
from dkm.data.raw import RawData
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.data.stored import LazyArray
from dkm.data.unpacking import UnpackingLimit, array_bytes
from dkm.errors import UserError, input_error, missing_extra_error, reason

METADATA = ("zarr.json", ".zgroup", ".zarray")


def open_zarr(config: ZarrData, source: str, plan: Mapping[str, Any] | None) -> RawData:
    """Open the store of ``data=zarr``; see ``dkm.data.matrices.reader``."""
    parts = _open_arrays(expand(config.path, source.partition("=")[0]), source)
    arrays = {name: NamedShape(tuple(part.shape), _dtype_of(part)) for name, part in parts.items()}
    name, why = choose_array(arrays, config, source, plan)
    X = ZarrArray(parts[name], f"{source}: {name}")
    label_name = choose_labels(arrays, config, source, plan)
    limit = UnpackingLimit(source, config.max_expansion)
    for part in dict.fromkeys(read for read in (name, label_name) if read is not None):
        with _one_line_errors(f"{source}: {part}"):
            itemsize = _dtype_of(parts[part]).itemsize
            sizes = array_bytes(parts[part].shape, parts[part].chunks, itemsize), parts[part].nbytes_stored()
        limit.check(*sizes)
    labels = None
    if label_name is not None:
        label_source = f"{source}: {label_name}"
        _refuse_objects(parts[label_name], label_source)
        with _one_line_errors(label_source):
            values = np.asarray(parts[label_name][...])
            labels = flat_labels(values.astype(str) if values.dtype.kind in "OT" else values)
    report = DataReport(source, n_rows=X.shape[0] if X.shape else 0)
    report.decisions["array"] = describe_array(name, X.shape, why)
    with _one_line_errors(source):
        n_absent = parts[name].nchunks - parts[name].nchunks_initialized
    if n_absent:
        report.odd.append(f"{n_absent:,} of {parts[name].nchunks:,} chunks are not stored and read as the fill value")
    return RawData(X, labels, plan={"array": name}, report=report)


class ZarrArray(LazyArray):
    """An array (N, ...) of a Zarr store."""

    def __init__(self, array: Any, source: str) -> None:
        _refuse_objects(array, source)
        self.dtype, self.shape = _dtype_of(array), tuple(array.shape)
        self._array, self._source = array, source

    def read(self, start: int, stop: int) -> Array:
        self._require_range(start, stop)
        with _one_line_errors(self._source):
            return np.ascontiguousarray(self._array[start:stop])


def _open_arrays(path: Path, source: str) -> dict[str, Any]:
    """Return the arrays of a store by their path; an array that is the store itself is called ``array``."""
    try:
        import zarr
        from zarr.storage import LocalStore, ZipStore
    except ImportError as error:
        raise missing_extra_error(source, "zarr", "zarr") from error
    if path.is_dir() and not any((path / name).is_file() for name in METADATA):
        expected = f"a Zarr store, with {' or '.join(METADATA)} in it"
        raise input_error(source, "a folder that is none", expected, "check data= and data.path")
    if not path.is_dir():
        head = read_first_bytes(path, source, source.partition("=")[0], "a Zarr store")
        if not head.startswith(b"PK"):
            found, expected = "a file that is no zip archive", "a Zarr store: a folder, or a .zip file of one"
            raise input_error(source, found, expected, "check data= and data.path")
    with _one_line_errors(source):
        store: Any = LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")
        opened = zarr.open(store, mode="r")
        if isinstance(opened, zarr.Array):
            return {"array": opened}
        return {name: part for name, part in opened.members(max_depth=None) if isinstance(part, zarr.Array)}


def _dtype_of(array: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(array.dtype)
    return dtype


def _refuse_objects(array: Any, source: str) -> None:
    with _one_line_errors(source):
        metadata = {key: value for key, value in array.metadata.to_dict().items() if key != "attributes"}
        is_pickled = "pickle" in json.dumps(metadata, default=str).lower()
    if is_pickled:
        found, remedy = "Python objects", "loading objects could run code and is never done; write numbers or strings"
        raise input_error(source, found, "numbers, or strings as labels", remedy)


@contextlib.contextmanager
def _one_line_errors(source: str) -> Iterator[None]:
    """Turn zarr's errors on a damaged store, which are of many types, into a one-line ``UserError``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found, expected = f"cannot be read ({reason(error)})", "a complete Zarr store"
        raise input_error(source, found, expected, "write or copy it again") from error
