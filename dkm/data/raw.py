"""The arrays of a data set before they are checked and scaled."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dkm.data.files import Part
from dkm.data.gaps import GapMask
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.data.stored import LazyArray

RawRows = Array | LazyArray


class RawData(NamedTuple):
    """Result of the function that reads a data set."""

    # (N, F), or images (N, H, W), (N, C, H, W) or (N, H, W, C)
    X: RawRows
    labels: Array | None
    # Default of data.scaling; None: unit for images, standard for tables
    scaling: str | None = None
    value_range: tuple[float, float] | None = None
    # The following as in Dataset.
    position: npt.NDArray[np.int64] | None = None
    ids: Array | None = None
    features: tuple[str, ...] | None = None
    fill: npt.NDArray[np.float64] | None = None
    # What the reader needs to read further rows as it read these, as JSON values; stored with the model.
    plan: Mapping[str, Any] | None = None
    # (N, F): the cells that were missing and are filled; their reconstruction error does not count.
    filled: GapMask | None = None
    # (F,) int: features with the same number share one variance under data.scaling=standard, such as the levels of a
    # category, so that a category counts as one number does.
    groups: npt.NDArray[np.int64] | None = None
    report: DataReport | None = None
    # (N,) the text of each row, shortened.
    texts: Array | None = None
    # (C, H, W) if the rows (N, F) of X are images.
    image_shape: tuple[int, int, int] | None = None
    # Whether the scaled rows of a LazyArray are kept in memory.
    in_memory: bool = False


def from_part(part: Part, **more: Any) -> RawData:
    is_whole = bool((part.position == np.arange(len(part.position))).all())
    return RawData(part.X, part.labels, position=None if is_whole else part.position, ids=part.ids, **more)
