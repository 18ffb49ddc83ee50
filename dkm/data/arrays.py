"""The user's own arrays: .npy and .npz files."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import math
import zipfile

import numpy as np

from dkm.config.data import NpyData, NpzData
from dkm.data.files import NpyFiles, expand, find_file, one_line_errors, read_npy
from dkm.data.raw import RawData
from dkm.data.scaling import Array
from dkm.data.stored import MAX_BYTES_IN_MEMORY, SparseArray, StoredArray, load_sparse
from dkm.errors import input_error


def _read_labels(path: str) -> Array:
    return read_npy(find_file("data.labels", path, "npy"), f"data.labels={path}")


def read_npy_data(config: NpyData) -> RawData:
    labels = None if config.labels is None else _read_labels(config.labels)
    files = NpyFiles("data.path", config.path)
    is_large = 4 * math.prod(files.shape) > MAX_BYTES_IN_MEMORY
    if config.load == "disk" or (config.load == "auto" and is_large):
        return RawData(StoredArray(files), labels)
    return RawData(files.read_whole(), labels)


def read_npz_data(config: NpzData) -> RawData:
    path, source = find_file("data.path", config.path, "npz"), f"data.path={config.path}"
    # Opened here, because np.load does not close a file that turns out to be no zip archive.
    with one_line_errors(source), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = [name.removesuffix(".npy") for name in archive.zip.namelist() if name.endswith(".npy")]

        def read(key: str, name: str | None) -> Array:
            if name not in names:
                found = "no such array" if name is not None else "several arrays that could be the data, or none"
                expected = f"one of the arrays of {path}: {', '.join(names) or '(it has none)'}"
                raise input_error(f"{key}={name or 'null'}", found, expected, f"set {key}=NAME")
            with one_line_errors(f"{source}: array {name}"):
                array = archive[name]
                if not isinstance(array, np.ndarray):
                    raise ValueError("it does not begin as an array does")
            return array

        labels = None
        if config.labels is not None:
            is_file = config.labels.endswith(".npy")
            labels = _read_labels(config.labels) if is_file else read("data.labels", config.labels)
        if config.array is None and SparseArray.is_in(names):
            with one_line_errors(source):
                sparse = SparseArray(load_sparse(path))
            is_large = 4 * sparse.size > MAX_BYTES_IN_MEMORY
            return RawData(sparse, labels, scaling="row_rms", in_memory=not is_large)
        return RawData(read("data.array", _choose_array(config, names)), labels)


def has_array(path: str, name: str | None) -> bool:
    """Return whether a ``.npz`` file has an array of this name."""
    try:
        with zipfile.ZipFile(expand(path)) as archive:
            return f"{name}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _choose_array(config: NpzData, names: list[str]) -> str | None:
    if config.array is not None:
        return config.array
    usual = [name for name in ("x", "X", "data") if name in names]
    others = [name for name in names if name != config.labels]
    return usual[0] if usual else others[0] if len(others) == 1 else None
