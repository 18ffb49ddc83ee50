"""Convert raw values to the input of the network: flat rows, images with channels first, scaled.

A scaling is fitted on a stream of chunks in one pass. ``row_slices`` cuts data in memory and on disk at the same rows,
so the same data give bit for bit the same scaling wherever they are stored.
"""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dkm.config.data import SCALINGS

Array = npt.NDArray[Any]

# All computations use float64, so that a large offset costs no digits.
# Sums are computed over chunks of this many values (32 MiB).
_CHUNK_VALUES = 2**22
# Values are scaled in pieces that fit into the cache, in half the time of pieces of 2**22.
_PIECE_VALUES = 2**18


def row_slices(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the rows of each chunk of an array (N, ...), in order.

    The last bits of sums depend on the chunks, so the chunks depend on the shape alone.
    """
    return _slices(shape, _CHUNK_VALUES)


def _slices(shape: tuple[int, ...], n_values: int) -> Iterator[slice]:
    n_rows = max(1, n_values // math.prod(shape[1:]))
    for start in range(0, shape[0], n_rows):
        yield slice(start, min(start + n_rows, shape[0]))


def channels_first(X: Array) -> Array:
    """Return images as (N, C, H, W), a table unchanged."""
    if X.ndim == 3:
        return X[:, np.newaxis]
    # Likely numbers of channels: gray and RGB, then RGBA, then any other. Ties are read as channels first.
    rank = {1: 0, 3: 0, 4: 1}
    if X.ndim == 4 and rank.get(X.shape[3], 2) < rank.get(X.shape[1], 2):
        return np.moveaxis(X, 3, 1)
    return X


def picture_channels(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return images (N, C, H, W) with 1 or 3 channels: the first three of four, the mean of other numbers."""
    C = images.shape[1]
    if C in (1, 3):
        return images
    return images[:, :3] if C == 4 else images.mean(axis=1, keepdims=True)


def to_rows(X: Array) -> Array:
    """Return images or rows (N, ...) as (N, F)."""
    return channels_first(X).reshape(len(X), math.prod(X.shape[1:]))


@dataclass(frozen=True)
class Scaling:
    """``(X - shift) / scale``, fitted once and saved with the model; ``l2`` and ``row_rms`` normalize each row.

    ``counts`` first divides each row by its sum, multiplies by ``total`` and takes log(1 + x). A feature that has one
    value in the data that ``standard``, ``centered`` or ``counts`` was fitted to has an infinite scale: it becomes 0
    whatever its value, since a network that saw one value learned nothing about others.
    """

    kind: str
    n_features: int
    # One number for all features, or one per feature.
    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    # The sum of each row before the logarithm; None if the kind is not `counts`.
    total: float | None = None

    @classmethod
    def fit(
        cls,
        chunks: Iterable[Array],
        kind: str,
        value_range: tuple[float, float] | None = None,
        groups: npt.NDArray[np.int64] | None = None,
        total: float | None = None,
    ) -> Scaling:
        """Fit the scaling to the data.

        Parameters
        ----------
        chunks : iterable of arrays of finite real numbers, shape (n, F)
            All rows in order, at least one. They are read once, and only as far as the scaling needs. An array in
            memory may be a single chunk. Other chunks may change the last bits of ``standard``, ``centered``, ``rms``.
        kind : one of `dkm.config.data.SCALINGS`
            See `DataConfig.scaling`.
        value_range : (low, high), optional
            The range that ``unit`` maps to [0, 1] and ``symmetric`` to [-1, 1], if it is known by definition. By
            default the range of the data.
        groups : int array, shape (F,), optional
            Features with the same number share one scale under ``standard``: the root of the sum of their variances.
            So the levels of a category together have the variance of one number.
        total : float, optional
            The sum that ``counts`` gives each row: the median sum of the rows (`dkm.data.counts.Counts`).

        Raises
        ------
        ValueError
            For an unknown kind, or counts without a total or with a negative value.
        """
        if kind not in SCALINGS:
            raise ValueError(f"kind={kind!r}: expected one of {', '.join(SCALINGS)}")
        chunks = iter(chunks)
        first = next(chunks)
        chunks = itertools.chain([first], chunks)
        F = first.shape[1]
        if kind in ("unit", "symmetric"):
            low, high = value_range or _range(chunks)
            if kind == "unit":
                return cls(kind, F, (low,), (high - low or 1.0,))
            return cls(kind, F, ((low + high) / 2,), ((high - low) / 2 or 1.0,))
        if kind == "rms":
            return cls(kind, F, (0.0,), (_root_mean_square(chunks),))
        if kind == "standard":
            shift, scale = _mean_and_deviation(chunks)
            scale = scale if groups is None else _shared_scale(scale, groups)
            return cls(kind, F, tuple(shift.tolist()), tuple(scale.tolist()))
        if kind == "centered":
            mean, variance = _mean_and_variance(chunks)
            return cls(kind, F, tuple(mean.tolist()), _common_scale(variance))
        if kind == "counts":
            if total is None:
                raise ValueError("kind='counts': expected the total of a row")
            mean, variance = _mean_and_variance(_log_counts(_to_float64(chunk), total) for chunk in chunks)
            return cls(kind, F, tuple(mean.tolist()), _common_scale(variance), total)
        return cls(kind, F)

    def apply(self, X: Array) -> npt.NDArray[np.float32]:
        """Return the scaled copy of ``X`` (N, F), in C order. A row does not depend on the other rows.

        Raises
        ------
        ValueError
            If the number of features differs from that of the fitted data, or a count is negative.
        """
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]} features: expected {self.n_features}, as when fitted")
        scaled = np.empty(X.shape, dtype=np.float32)
        shift, scale = np.array(self.shift), np.array(self.scale)
        is_shifted, is_scaled = bool((shift != 0).any()), bool((scale != 1).any())
        if not (is_shifted or is_scaled or self.row_length or self.total):
            scaled[...] = X
            return scaled
        for rows in _slices(X.shape, _PIECE_VALUES):
            part = _to_float64(X[rows])
            if self.total is not None:
                part = _log_counts(part, self.total)
            if is_shifted:
                part -= shift
            if is_scaled:
                part /= scale
            if self.row_length:
                length = np.linalg.norm(part, axis=1, keepdims=True) / self.row_length
                part /= np.where(length > 0, length, 1.0)
            scaled[rows] = part
        return scaled

    @property
    def constant(self) -> npt.NDArray[np.int64]:
        """The positions of the features that had one value in the fitted data and are ignored."""
        scale = np.broadcast_to(np.array(self.scale), self.n_features)
        return np.flatnonzero(np.isinf(scale))

    @property
    def finite_scale(self) -> npt.NDArray[np.float64]:
        """The scale (1,) or (F,) with which scaled values are multiplied to undo it: 0 for a constant feature."""
        scale = np.array(self.scale)
        return np.where(np.isinf(scale), 0.0, scale)

    def differs_in_constant(self, X: Array) -> npt.NDArray[np.bool_]:
        """Return which values of unscaled rows (n, ...) differ from the one value of each constant feature: (n, C).

        For ``counts``, whose shift is of the logarithm, only a feature that was 0 in all rows is compared.
        """
        rows, constant = to_rows(X), self.constant
        value = np.broadcast_to(np.array(self.shift), self.n_features)[constant]
        differs: npt.NDArray[np.bool_] = rows[:, constant] != value
        return differs if self.total is None else differs & (value == 0)

    @property
    def row_length(self) -> float:
        """The length of each scaled row that is not zero; 0 if rows are not normalized."""
        return {"l2": 1.0, "row_rms": math.sqrt(self.n_features)}.get(self.kind, 0.0)

    def for_pictures(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map scaled images (n, ...) to [0, 1]: by their range if it is known, else by that of these images.

        Rows that were divided by their length are divided by their own largest value: the brightest pixel of each is 1.
        """
        if self.kind == "unit":
            return images
        if self.kind == "symmetric":
            return np.float32(0.5) * (images + np.float32(1.0))
        if self.row_length:
            largest = images.max(axis=tuple(range(1, images.ndim)), initial=0.0, keepdims=True)
            largest[largest == 0] = 1
            return np.asarray(images / largest, np.float32)
        low = np.float32(0.0)
        if self.kind != "rms":
            values = self.unscale(images.reshape(-1, self.n_features)).reshape(images.shape)
            images = (values if self.total is None else np.log1p(np.maximum(values, 0.0))).astype(np.float32)
            low = images.min(initial=0.0)
        return (images - low) / (images.max(initial=0.0) - low or np.float32(1.0))

    def unscale(self, rows: Array) -> npt.NDArray[np.float64]:
        """Return scaled rows (n, F) in the units of the data; for ``counts`` in those of a row with the sum ``total``.

        The length of rows that ``l2`` and ``row_rms`` normalized is not restored.
        """
        values: npt.NDArray[np.float64] = rows * self.finite_scale + np.array(self.shift)
        return values if self.total is None else np.expm1(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; JSON keeps floats exactly, and an infinite scale is null."""
        scale = [None if math.isinf(value) else value for value in self.scale]
        fields = asdict(self) | {"shift": list(self.shift), "scale": scale}
        if self.total is None:  # as before this kind existed: the cache of pretraining hashes the fields
            del fields["total"]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Scaling:
        """Return the scaling of a ``to_dict`` result."""
        scale = tuple(math.inf if value is None else value for value in fields["scale"])
        return cls(fields["kind"], fields["n_features"], tuple(fields["shift"]), scale, fields.get("total"))


def _to_float64(X: Array) -> npt.NDArray[np.float64]:
    # In C order even if X is not, because NumPy sums in memory order.
    return X.astype(np.float64, order="C")


def _log_counts(rows: npt.NDArray[np.float64], total: float) -> npt.NDArray[np.float64]:
    """Scale each row (n, F) to the same total, unless it is zero, and take log(1 + x), in place."""
    if rows.size and rows.min() < 0:
        raise ValueError("data.scaling=counts: a value is negative; expected counts, 0 or more")
    sums = rows.sum(axis=1, keepdims=True)
    rows *= total / np.where(sums > 0, sums, 1.0)
    return np.log1p(rows, out=rows)


def _range(chunks: Iterable[Array]) -> tuple[float, float]:
    lows, highs = zip(*((float(chunk.min()), float(chunk.max())) for chunk in chunks), strict=True)
    return min(lows), max(highs)


def _root_mean_square(chunks: Iterable[Array]) -> float:
    """Return the root mean square of all values, 1 if all are 0."""
    n, total = 0, 0.0
    for chunk in chunks:
        part = _to_float64(chunk)
        n += part.size
        total += float(np.square(part, out=part).sum())
    return math.sqrt(total / n) or 1.0


def _mean_and_deviation(chunks: Iterable[Array]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean (F,) and the standard deviation (F,) of each feature, infinity for a constant feature."""
    mean, variance = _mean_and_variance(chunks)
    return mean, np.where(variance == 0, np.inf, np.sqrt(variance))


def _common_scale(variance: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return the root of the mean variance, or for each feature that and infinity if some features are constant."""
    scale = math.sqrt(variance.mean()) or 1.0
    if variance.all():
        return (scale,)
    return tuple(np.where(variance == 0, np.inf, scale).tolist())


def _mean_and_variance(chunks: Iterable[Array]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean (F,) and the variance (F,) of each feature.

    One pass: squares are summed about the mean of their chunk, and the sums of two chunks are merged by the distance of
    their means, which loses no digits to a large offset (Chan, Golub, LeVeque 1983, The American Statistician 37).
    """
    chunks = iter(chunks)
    first = next(chunks)
    n, mean, squares = _moments(first)
    low, high = first.min(axis=0), first.max(axis=0)
    for chunk in chunks:
        n_chunk, mean_chunk, squares_chunk = _moments(chunk)
        distance = mean_chunk - mean
        squares += squares_chunk + distance**2 * (n * n_chunk / (n + n_chunk))
        mean += distance * (n_chunk / (n + n_chunk))
        n += n_chunk
        low, high = np.minimum(low, chunk.min(axis=0)), np.maximum(high, chunk.max(axis=0))
    # Rounding gives a constant feature a tiny variance, which must not be scaled up to 1. The square of a tiny
    # deviation may underflow to 0.
    is_constant = low == high
    return np.where(is_constant, _to_float64(first[0]), mean), np.where(is_constant, 0.0, squares / n)


def _shared_scale(scale: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the scale (F,) in which the features of a group share the root of the sum of their variances."""
    size = np.bincount(groups)[groups]
    varies = np.isfinite(scale)
    squares = np.bincount(groups, np.square(np.where(varies, scale, 0.0)))
    shared: npt.NDArray[np.float64] = np.sqrt(squares)[groups]
    return np.where((size > 1) & varies, shared, scale)


def _moments(chunk: Array) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the number of rows, the mean of each feature, and its sum of squares about that mean."""
    part = _to_float64(chunk)
    mean = part.sum(axis=0) / len(part)
    part -= mean
    return len(part), mean, np.square(part, out=part).sum(axis=0)
