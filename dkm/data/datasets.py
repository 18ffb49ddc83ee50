"""Data sets as one float32 matrix, in memory or on disk, and the order of the batches.

``load_dataset`` turns the ``data`` section of a config into a ``Dataset``. To add a data set: a dataclass in
``dkm.config.schema``, a YAML file, and here a function that returns its ``RawData`` arrays. Labels only ever score.

No file is trusted: see ``dkm.data.files`` for the user's own; archives are unpacked in memory. Whatever is wrong with
the user's data becomes one ``UserError`` line. scikit-learn and torchvision are imported where they are
used, because they take long to load.
"""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.config.data import DataConfig, FileData
from dkm.data.loaders import read_raw
from dkm.data.raw import RawData, RawRows
from dkm.data.scaling import Array, Scaling, channels_first, row_slices, to_rows
from dkm.data.stored import StoredRows
from dkm.errors import UserError, input_error

log = logging.getLogger(__name__)


# --- data sets ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data ready for training."""

    name: str
    # float32 (N, F), scaled: in memory, in C order, or rows that are read when they are asked for.
    X: Tensor | StoredRows
    # (N,), 0 to n_classes - 1; only ever for scores.
    y: npt.NDArray[np.int64] | None
    # (C, H, W) where each row is an image.
    image_shape: tuple[int, int, int] | None
    scaling: Scaling
    # Of the data as they were read (dtype, shape and bytes, before scaling) and of the labels.
    sha256: str
    # What the labels were in the data, sorted: (n_classes,).
    classes: Array | None = None
    # (N,) where the rows were in the file, counted from 0, if some were left out.
    position: npt.NDArray[np.int64] | None = None
    # (N,) what names the rows: a column of a table, or the paths of images.
    ids: Array | None = None
    # The names of the columns of a table, and what fills their gaps (data.missing=median): (F,).
    features: tuple[str, ...] | None = None
    fill: npt.NDArray[np.float64] | None = None

    @property
    def n_samples(self) -> int:
        return self.X.shape[0]

    @property
    def n_features(self) -> int:
        return self.X.shape[1]

    @property
    def labels(self) -> Array | None:
        """The labels as they were in the data, (N,)."""
        return self.y if self.y is None or self.classes is None else self.classes[self.y]

    @property
    def n_classes(self) -> int | None:
        return None if self.y is None else int(self.y.max()) + 1


def load_dataset(config: DataConfig, scaling: Scaling | None = None) -> Dataset:
    """Read the data set that the ``data`` section of a config names.

    Parameters
    ----------
    config : DataConfig
    scaling : Scaling, optional
        Of a trained model, for data to predict: applied instead of a fitted one. ``config.scaling`` then has
        no effect, and rows may all be equal.

    Raises
    ------
    UserError
        If the data cannot be had, or are not rows or images of finite numbers.
    """
    source = label_source = f"data={config.name}"
    if isinstance(config, FileData):
        source, label_source = f"data.path={config.path}", f"data.labels={config.labels}"
    return _dataset(read_raw(config), config, source, label_source, scaling)


def array_dataset(X: Array, config: DataConfig, source: str) -> Dataset:
    """Return rows (N, F) or images in memory as ``load_dataset`` returns those of a file; ``source`` names them."""
    return _dataset(RawData(X, None), config, source, source, None)


def _dataset(raw: RawData, config: DataConfig, source: str, label_source: str, scaling: Scaling | None) -> Dataset:
    check_shape(raw.X, source)
    classes, y = (None, None) if raw.labels is None else _encode_labels(raw.labels, len(raw.X), label_source)
    F, image_shape = math.prod(raw.X.shape[1:]), _image_shape(raw.X)
    if scaling is not None and scaling.n_features != F:
        expected = f"{scaling.n_features}, as in the data that the model was trained on"
        raise input_error(source, f"{F} features", expected, "give it data of the same kind")

    digest = hashlib.sha256()
    chunks = _checked(raw.X, source, digest, may_be_constant=scaling is not None)
    if scaling is None:
        kind = config.scaling or raw.scaling or ("unit" if image_shape else "standard")
        scaling = Scaling.fit(map(to_rows, chunks), kind, raw.value_range)
    for _ in chunks:  # which the scaling had no need to see
        pass
    if raw.labels is not None:
        _update(digest, raw.labels)
    return Dataset(
        config.name,
        _scaled(raw.X, scaling),
        y,
        image_shape,
        scaling,
        digest.hexdigest(),
        classes=classes,
        position=raw.position,
        ids=raw.ids,
        features=raw.features,
        fill=raw.fill,
    )


def _scaled(X: RawRows, scaling: Scaling) -> Tensor | StoredRows:
    return torch.from_numpy(scaling.apply(to_rows(X))) if isinstance(X, np.ndarray) else StoredRows(X, scaling)


def _image_shape(X: RawRows) -> tuple[int, int, int] | None:
    """Return (C, H, W) of images, None for a table."""
    shape = channels_first(np.empty((0, *X.shape[1:]))).shape[1:]
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def _chunks(X: RawRows) -> Iterator[Array]:
    """Yield all rows in order, cut at the same places whether they are in memory or on disk."""
    for rows in row_slices(X.shape):
        yield X[rows] if isinstance(X, np.ndarray) else X.read(rows.start, rows.stop)


def _update(digest: hashlib._Hash, array: Array) -> None:
    digest.update(_kind(array))
    digest.update(np.ascontiguousarray(array).data)


def _kind(array: RawRows) -> bytes:
    """Return what the SHA-256 of an array begins with, so that equal bytes of another kind differ."""
    return f"{array.dtype.str} {array.shape} ".encode()


# --- checks -------------------------------------------------------------------------------------------------


def check_shape(X: RawRows, source: str) -> None:
    if X.dtype.kind not in "biuf":
        found, expected = f"an array of {X.dtype}", "real numbers (bool, int, uint or float)"
        raise input_error(source, found, expected, "convert it, for example with X.astype(np.float32)")
    if X.ndim not in (2, 3, 4):
        expected = "rows (N, F) or images (N, H, W), (N, C, H, W) or (N, H, W, C)"
        n_rows = "-1, 1" if X.ndim < 2 else "len(X), -1"
        raise input_error(source, f"shape {X.shape}", expected, f"X.reshape({n_rows}) makes rows of it")
    if X.size == 0:
        raise input_error(source, f"no values (shape {X.shape})", "one row or more", "write it again")


def _checked(X: RawRows, source: str, digest: hashlib._Hash, *, may_be_constant: bool) -> Iterator[Array]:
    """Yield all rows in chunks, each checked and added to the SHA-256: one pass, with memory for a chunk."""
    digest.update(_kind(X))
    is_constant = len(X) > 1 and not may_be_constant  # as far as was seen
    first_row = None
    for chunk in _chunks(X):
        if not _is_finite(chunk):
            raise _not_finite(X, source)
        digest.update(np.ascontiguousarray(chunk).data)
        first_row = chunk[:1].copy() if first_row is None else first_row
        is_constant = is_constant and bool((chunk == first_row).all())
        yield chunk
    if is_constant:
        raise input_error(source, f"all {len(X):,} rows are equal", "rows that differ", "check how it was written")


def _is_finite(chunk: Array) -> bool:
    """Return whether float32 can hold all values."""
    limit = float(np.finfo(np.float32).max)
    # Both are NaN if any value is. So nothing of the size of the chunk is allocated.
    return -limit <= float(chunk.min()) <= float(chunk.max()) <= limit


def _not_finite(X: RawRows, source: str) -> UserError:
    n_bad, n_rows, first = 0, 0, ""
    for chunk in _chunks(X):
        rows = chunk.reshape(len(chunk), -1).astype(np.float64)
        bad = np.argwhere(~(np.abs(rows) <= np.finfo(np.float32).max))
        if len(bad) and not first:
            row, column = bad[0]
            first = f"{rows[row, column]} in row {n_rows + row}, column {column} (counted from 0)"
        n_bad, n_rows = n_bad + len(bad), n_rows + len(chunk)
    found = f"values that are NaN, infinite or too large for float32: {n_bad:,}, the first is {first}"
    return input_error(source, found, "finite numbers", "replace them, or leave out their rows")


def _encode_labels(labels: Array, n_samples: int, source: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the sorted distinct labels, and the labels as indices into them."""
    expected = "whole numbers, bools or strings"
    if labels.shape != (n_samples,):
        found, remedy = f"shape {labels.shape}", "give each row of the data one label"
        raise input_error(source, found, f"({n_samples},)", remedy)
    if labels.dtype.kind not in "biufUS":
        raise input_error(source, f"labels of {labels.dtype}", expected, "convert them, for example to strings")
    if labels.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)))
        if len(bad):
            found = f"{len(bad):,} labels like {labels[bad[0]]}, the first in row {bad[0]} (counted from 0)"
            raise input_error(source, found, expected, "give each row a class, or set data.labels=null")
        labels = labels.astype(np.int64)
    classes, index = np.unique(labels, return_inverse=True)
    return classes, index.astype(np.int64)


# --- what comes with scikit-learn ---------------------------------------------------------------------------


# --- what has to be downloaded ------------------------------------------------------------------------------


# --- the user's own files -----------------------------------------------------------------------------------


# --- rows to predict ----------------------------------------------------------------------------------------
