"""Data sets as one float32 matrix, in memory or on disk.

``load_dataset`` reads, checks and scales the data set that the ``data`` section of a config names. To add a data set,
write a dataclass and its entry of ``DATASETS`` in ``dkm.config.data``, a YAML file, and a function that returns the
``RawData``. Labels are used for scores only.

No file is trusted, and every error in the user's data is raised as a one-line ``UserError``.
"""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.config.data import DataConfig, FileData
from dkm.data.counts import Counts
from dkm.data.default_scaling import fit_default_scaling
from dkm.data.gaps import GapMask
from dkm.data.loaders import read_raw
from dkm.data.raw import RawData, RawRows
from dkm.data.report import DataReport
from dkm.data.scaling import Array, Scaling, channels_first, picture_channels, row_slices, to_rows
from dkm.data.stored import StoredRows
from dkm.data.unicode import require_encodable
from dkm.errors import UserError, input_error

log = logging.getLogger(__name__)

# With fewer rows each may well have a class of its own.
_MIN_ROWS_FOR_CLASSES = 20


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data ready for training."""

    name: str
    # float32 (N, F), scaled: in memory in C order, or rows that are read on demand.
    X: Tensor | StoredRows
    # (N,), 0 to n_classes - 1; used for scores only.
    y: npt.NDArray[np.int64] | None
    # (C, H, W) if each row is an image.
    image_shape: tuple[int, int, int] | None
    scaling: Scaling
    # Hash of the data before scaling (dtype, shape and bytes) and of the labels.
    sha256: str
    # The distinct labels as they were in the data, sorted: (n_classes,).
    classes: Array | None = None
    # (N,) positions of the rows in the file, counted from 0, if some rows were dropped.
    position: npt.NDArray[np.int64] | None = None
    # (N,) identifiers of the rows: a column of a table, or the paths of images.
    ids: Array | None = None
    # Column names of a table and the values that replace missing ones (data.missing=median): (F,).
    features: tuple[str, ...] | None = None
    fill: npt.NDArray[np.float64] | None = None
    # What the reader needs to read further rows as it read these, as JSON values.
    plan: Mapping[str, Any] | None = None
    # (N, F): the cells that were missing and are filled; None if there are none.
    filled: GapMask | None = None
    report: DataReport = field(default_factory=DataReport)
    # (N,) the text of each row, shortened, to show it beside its cluster.
    texts: Array | None = None

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

    def to_pictures(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return scaled rows (n, F) of image data as images (n, 1 or 3, H, W) with values in [0, 1]."""
        assert self.image_shape is not None
        return picture_channels(self.scaling.for_pictures(rows.reshape(-1, *self.image_shape)))


def load_dataset(config: DataConfig, scaling: Scaling | None = None, *, kept_kind: str | None = None) -> Dataset:
    """Read the data set that the ``data`` section of a config names.

    Parameters
    ----------
    config : DataConfig
    scaling : Scaling, optional
        Scaling of a trained model, applied to data to predict instead of a fitted one. ``config.scaling`` then has
        no effect, and all rows may be equal.
    kept_kind : str, optional
        The kind of scaling of a run that is resumed, which newer rules for the default do not change. Empty for a run
        of before there were such rules.

    Raises
    ------
    UserError
        If the data cannot be read or downloaded, or are not rows or images of finite numbers.
    """
    source = label_source = f"data={config.name}"
    if isinstance(config, FileData):
        source, label_source = f"data.path={config.path}", f"data.labels={config.labels}"
    return _build_dataset(read_raw(config), config, source, label_source, scaling, kept_kind)


def array_dataset(X: Array, config: DataConfig, source: str, *, features: Sequence[str] | None = None) -> Dataset:
    """Check and scale rows (N, F) or images in memory.

    Parameters
    ----------
    X : array
    config : DataConfig
    source : str
        What names the rows in messages.
    features : sequence of str, optional
        Names of the columns (F,).
    """
    raw = RawData(X, None, features=None if features is None else tuple(features))
    return _build_dataset(raw, config, source, source, None, None)


def _build_dataset(
    raw: RawData,
    config: DataConfig,
    source: str,
    label_source: str,
    scaling: Scaling | None,
    kept_kind: str | None,
) -> Dataset:
    check_shape(raw.X, source)
    require_encodable(raw.ids, "id", source, raw.position)
    require_encodable(raw.labels, "label", label_source, raw.position)
    require_encodable(raw.features, "feature", source)
    classes, y = (None, None) if raw.labels is None else _encode_labels(raw.labels, len(raw.X), label_source)
    F, image_shape = math.prod(raw.X.shape[1:]), raw.image_shape or _image_shape(raw.X)
    if scaling is not None and scaling.n_features != F:
        expected = f"{scaling.n_features}, as in the data that the model was trained on"
        raise input_error(source, f"{F} features", expected, "give it data of the same kind")

    digest = hashlib.sha256()
    chunks = _check_chunks(raw, source, digest, may_be_constant=scaling is not None)
    report = raw.report or DataReport(n_rows=len(raw.X))
    report.source, report.n_used, report.n_features = report.source or source, len(raw.X), F
    if scaling is None:
        kind = config.scaling or kept_kind
        kind = _plain_kind(raw, image_shape) if kind == "" else kind
        scaling = _fit_scaling(raw._replace(image_shape=image_shape), kind, chunks, report)
    for _ in chunks:  # check and hash the chunks that the scaling did not need
        pass
    if raw.labels is not None:
        _hash_array(digest, raw.labels)
    report.scaling = report.scaling or scaling.kind
    return Dataset(
        config.name,
        _apply_scaling(raw, scaling),
        y,
        image_shape,
        scaling,
        digest.hexdigest(),
        classes=classes,
        position=raw.position,
        ids=raw.ids,
        features=raw.features,
        fill=raw.fill,
        plan=raw.plan,
        filled=raw.filled,
        report=report,
        texts=raw.texts,
    )


def _fit_scaling(raw: RawData, kind: str | None, chunks: Iterator[Array], report: DataReport) -> Scaling:
    """Fit the scaling ``kind``, by default the one that suits the data; ``chunks`` are the checked rows, read once."""
    default = _plain_kind(raw, raw.image_shape)
    if kind == "counts":
        return _fit_counts(raw, chunks)
    if kind is not None or default not in ("standard", "row_rms") or raw.groups is not None or raw.image_shape:
        return Scaling.fit(map(to_rows, chunks), kind or default, raw.value_range, raw.groups)
    return fit_default_scaling(map(to_rows, chunks), lambda: map(to_rows, _chunks(raw.X)), default, report)


def _plain_kind(raw: RawData, image_shape: tuple[int, int, int] | None) -> str:
    """Return the scaling of data whose values are not looked at."""
    return raw.scaling or ("standard" if image_shape is None else "unit")


def _fit_counts(raw: RawData, chunks: Iterator[Array]) -> Scaling:
    counts = Counts()
    for chunk in map(to_rows, chunks):
        counts.add(chunk)
    if counts.negative is not None:
        value, row, column = counts.negative
        found = f"a negative value, {value:g} in row {row:,}, column {column} (counted from 0)"
        raise input_error("data.scaling=counts", found, "counts, 0 or more", "set data.scaling=null")
    return Scaling.fit(map(to_rows, _chunks(raw.X)), "counts", total=counts.total)


def _apply_scaling(raw: RawData, scaling: Scaling) -> Tensor | StoredRows:
    if isinstance(raw.X, np.ndarray):
        return torch.from_numpy(scaling.apply(to_rows(raw.X)))
    stored = StoredRows(raw.X, scaling)
    if not raw.in_memory:
        return stored
    X = torch.empty(stored.shape)
    for rows in row_slices(raw.X.shape):
        X[rows] = stored.read(rows.start, rows.stop)
    return X


def _image_shape(X: RawRows) -> tuple[int, int, int] | None:
    """Return (C, H, W) of images, None for a table."""
    shape = channels_first(np.empty((0, *X.shape[1:]))).shape[1:]
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def _chunks(X: RawRows) -> Iterator[Array]:
    """Yield all rows in order, in the same chunks whether they are in memory or on disk."""
    for rows in row_slices(X.shape):
        yield X[rows] if isinstance(X, np.ndarray) else X.read(rows.start, rows.stop)


def _hash_array(digest: hashlib._Hash, array: Array) -> None:
    digest.update(_hash_prefix(array))
    digest.update(np.ascontiguousarray(array).data)


def _hash_prefix(array: RawRows) -> bytes:
    """Return the dtype and shape to hash first, so that equal bytes of another type or shape differ."""
    return f"{array.dtype.str} {array.shape} ".encode()


def check_shape(X: RawRows, source: str) -> None:
    if X.dtype.kind not in "biuf":
        found, expected = f"an array of {X.dtype}", "real numbers (bool, int, uint or float)"
        raise input_error(source, found, expected, "convert it, for example with X.astype(np.float32)")
    if X.ndim not in (2, 3, 4):
        expected = "rows (N, F) or images (N, H, W), (N, C, H, W) or (N, H, W, C)"
        n_rows = "-1, 1" if X.ndim < 2 else "len(X), -1"
        raise input_error(source, f"shape {X.shape}", expected, f"X.reshape({n_rows}) makes rows of it")
    if X.size == 0:
        raise input_error(source, f"no values (shape {X.shape})", "one row or more", "save an array that has rows")


def _check_chunks(raw: RawData, source: str, digest: hashlib._Hash, *, may_be_constant: bool) -> Iterator[Array]:
    """Yield all rows in chunks, each checked and added to the SHA-256, in one pass."""
    X = raw.X
    digest.update(_hash_prefix(X))
    is_constant = len(X) > 1 and not may_be_constant  # so far
    first_row = None
    for chunk in _chunks(X):
        if not _is_finite(chunk):
            raise _not_finite_error(raw, source)
        digest.update(np.ascontiguousarray(chunk).data)
        first_row = chunk[:1].copy() if first_row is None else first_row
        is_constant = is_constant and bool((chunk == first_row).all())
        yield chunk
    if is_constant:
        raise input_error(source, f"all {len(X):,} rows are equal", "rows that differ", "check how it was written")


def _is_finite(chunk: Array) -> bool:
    """Return whether float32 can hold all values."""
    limit = float(np.finfo(np.float32).max)
    # Minimum and maximum are NaN if any value is; unlike np.isfinite they allocate no array of the chunk's size.
    return -limit <= float(chunk.min()) <= float(chunk.max()) <= limit


def _not_finite_error(raw: RawData, source: str) -> UserError:
    n_bad, n_rows, first = 0, 0, ""
    for chunk in _chunks(raw.X):
        with np.errstate(invalid="ignore"):  # a signaling NaN
            rows = chunk.reshape(len(chunk), -1).astype(np.float64)
        bad = np.argwhere(~(np.abs(rows) <= np.finfo(np.float32).max))
        if len(bad) and not first:
            row, column = bad[0]
            position = n_rows + row if raw.position is None else raw.position[n_rows + row]
            first = f"{rows[row, column]} in {cell_name(position, column, raw.features)}"
        n_bad, n_rows = n_bad + len(bad), n_rows + len(chunk)
    found = f"values that are NaN, infinite or too large for float32: {n_bad:,}, the first is {first}"
    return input_error(source, found, "finite numbers", "replace them, or leave out their rows")


def cell_name(row: int, column: int, features: Sequence[str] | None) -> str:
    """Return how a message names a cell: by its column's name where it has one."""
    if features is None:
        return f"row {row:,}, column {column} (counted from 0)"
    return f"column {features[column]}, row {row:,} (counted from 0)"


def check_labels(labels: Array, n_samples: int, source: str) -> None:
    """Refuse labels that are not one for each row."""
    if labels.shape != (n_samples,):
        remedy = "give each row of the data one label, or set data.labels=null"
        raise input_error(source, f"shape {labels.shape}", f"({n_samples},)", remedy)


def _encode_labels(labels: Array, n_samples: int, source: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the sorted distinct labels and, for each sample, its index in them."""
    expected = "whole numbers, bools or strings"
    check_labels(labels, n_samples, source)
    if labels.dtype.kind not in "biufUS":
        raise input_error(source, f"labels of {labels.dtype}", expected, "convert them, for example to strings")
    if labels.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)))
        if len(bad):
            found = f"{len(bad):,} labels like {labels[bad[0]]}, the first in row {bad[0]} (counted from 0)"
            raise input_error(source, found, expected, "give each row a class, or set data.labels=null")
        if (np.abs(labels) < 2.0**63).all():
            labels = labels.astype(np.int64)  # written with all of their digits
    classes, index = np.unique(labels, return_inverse=True)
    if n_samples >= _MIN_ROWS_FOR_CLASSES and len(classes) > n_samples / 2:
        found, remedy = (
            f"{len(classes):,} classes in {n_samples:,} rows",
            "name the column of the classes, or set data.labels=null",
        )
        raise input_error(source, found, "classes that repeat", remedy)
    return classes, index.astype(np.int64)
