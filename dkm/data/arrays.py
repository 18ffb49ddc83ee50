"""The user's own arrays: .npy and .npz files."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from dkm.config.data import ArrayData, NpyData, NpzData
from dkm.data.files import NpyFiles, expand, find_file, one_line_errors, read_npy
from dkm.data.layout import choose_layout, describe_layout, flatten, image_shape, is_default, layout_of_plan
from dkm.data.raw import RawData
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.data.stored import FlattenedArray, SparseArray, StoredArray, is_large, load_sparse
from dkm.data.unpacking import UnpackingLimit
from dkm.errors import input_error


def _read_labels(path: str) -> Array:
    return read_npy(find_file("data.labels", path, "npy"), f"data.labels={path}")


def read_npy_data(config: NpyData) -> RawData:
    return arrange(_read_npy_data(config), config)


def read_npz_data(config: NpzData) -> RawData:
    return arrange(_read_npz_data(config), config)


def read_for_model(config: ArrayData, plan: Mapping[str, Any] | None, key: str = "data.path") -> RawData:
    """Read an array for a trained model; ``plan`` is what was stored with the model.

    Raises
    ------
    UserError
        If it has images of another shape than the model's. ``key`` is the setting that names the file.
    """
    raw = _read_npy_data(config, key) if isinstance(config, NpyData) else _read_npz_data(config, key)
    return arrange_for_model(raw, config, plan, f"{key}={config.path}")


def arrange_for_model(raw: RawData, config: ArrayData, plan: Mapping[str, Any] | None, source: str) -> RawData:
    """Return data for a trained model in the layout that is set or that of the model; see ``read_for_model``."""
    layout = layout_of_plan(raw.X.shape, config.layout, plan, source)
    return raw if layout is None else _apply_layout(raw, layout)


def arrange(raw: RawData, config: ArrayData) -> RawData:
    """Return the data in the layout that is set or the only plausible one, with the plan and the report."""
    shape, source = raw.X.shape, f"data.path={config.path}"
    layout = choose_layout(shape, raw.X.dtype, config.layout, source)
    report = raw.report or DataReport(source)
    report.n_rows = math.prod(shape[:1])
    report.decisions |= describe_layout(shape, layout)
    plan = raw.plan
    if len(shape) > 2:
        plan = {**(plan or {}), "layout": layout.name, "image_shape": image_shape(shape, layout.name)}
    return _apply_layout(raw, layout.name)._replace(plan=plan, report=report)


def _apply_layout(raw: RawData, layout: str) -> RawData:
    if is_default(raw.X.shape, layout):
        return raw
    X = flatten(raw.X, layout) if isinstance(raw.X, np.ndarray) else FlattenedArray(raw.X, layout)
    return raw._replace(X=X, image_shape=image_shape(raw.X.shape, layout))


def _read_npy_data(config: NpyData, key: str = "data.path") -> RawData:
    labels = None if config.labels is None else _read_labels(config.labels)
    files = NpyFiles(key, config.path)
    report = DataReport(files.source)
    if files.has_natural_order:
        first, last = files.headers[0].path.name, files.headers[-1].path.name
        report.decisions["order"] = f"files by the numbers in their names, from {first} to {last}"
    is_on_disk = config.load == "disk" or (config.load == "auto" and is_large(math.prod(files.shape)))
    return RawData(StoredArray(files) if is_on_disk else files.read_whole(), labels, report=report)


def _read_npz_data(config: ArrayData, key: str = "data.path") -> RawData:
    assert isinstance(config, NpzData)
    path, source = find_file(key, config.path, "npz"), f"{key}={config.path}"
    # Opened here, because np.load does not close a file that turns out to be no zip archive.
    with one_line_errors(source), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        UnpackingLimit(source, config.max_expansion).check_members(archive.zip.infolist())
        names = [name.removesuffix(".npy") for name in archive.zip.namelist() if name.endswith(".npy")]

        def read(setting: str, name: str | None) -> Array:
            if name not in names:
                found = "no such array" if name is not None else "several arrays that could be the data, or none"
                expected = f"one of the arrays of {path}: {', '.join(names) or '(it has none)'}"
                raise input_error(f"{setting}={name or 'null'}", found, expected, f"set {setting}=NAME")
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
            return RawData(sparse, labels, scaling="row_rms", in_memory=not is_large(sparse.size))
        return RawData(read("data.array", _choose_array(config, names)), labels)


def has_array(path: str, name: str | None = None) -> bool:
    """Return whether a ``.npz`` file has an array of this name, or any array."""
    try:
        with zipfile.ZipFile(expand(path)) as archive:
            members = archive.namelist()
            return any(member.endswith(".npy") for member in members) if name is None else f"{name}.npy" in members
    except (OSError, zipfile.BadZipFile):
        return False


def _choose_array(config: NpzData, names: list[str]) -> str | None:
    if config.array is not None:
        return config.array
    usual = [name for name in ("x", "X", "data") if name in names]
    others = [name for name in names if name != config.labels]
    return usual[0] if usual else others[0] if len(others) == 1 else None
