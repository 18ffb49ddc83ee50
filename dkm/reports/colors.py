"""Colors of clusters, which can be told apart on white and on black as far as that is possible."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Of medium lightness, neighbors in the list far apart in hue.
_FIRST = (
    *("#3b7dd8", "#e07b1a", "#2a9d5c", "#d0435b", "#8a63d2", "#a9762f"),
    *("#d65fb0", "#6b8e23", "#159fb0", "#b3a21c", "#7c8798", "#f08a80"),
)
# The share of the circle of hues from one further color to the next, and lightnesses that alternate.
_GOLDEN, _LIGHTNESS, _SATURATION = 0.618034, (0.5, 0.64, 0.4), 0.58


def cluster_colors(n_clusters: int) -> list[str]:
    """Return a color, #rrggbb, for each cluster."""
    return [_FIRST[k] if k < len(_FIRST) else _further(k - len(_FIRST)) for k in range(n_clusters)]


def matching_colors(
    labels: npt.NDArray[np.int64], n_clusters: int, first: npt.NDArray[np.int64], first_colors: Sequence[str]
) -> list[str]:
    """Return colors for the clusters of a run: those of the clusters of the first run that share the most rows.

    Parameters
    ----------
    labels, first : int array, shape (N,)
        The clusters of the same rows in this run and in the first one.
    n_clusters : int
        The number of clusters of this run; those without a counterpart get colors of their own.
    first_colors : sequence of str
        The colors of the clusters of the first run.
    """
    from scipy.optimize import linear_sum_assignment

    from dkm.clustering.labels import contingency

    table: Any = contingency(labels, first, n_clusters, len(first_colors))
    own, others = linear_sum_assignment(-table)
    further = iter(cluster_colors(len(first_colors) + n_clusters)[len(first_colors) :])
    color_of = {int(k): first_colors[other] for k, other in zip(own, others, strict=True) if table[k, other] > 0}
    return [color_of[k] if k in color_of else next(further) for k in range(n_clusters)]


def _further(number: int) -> str:
    lightness = _LIGHTNESS[number % len(_LIGHTNESS)]
    parts = colorsys.hls_to_rgb((0.05 + number * _GOLDEN) % 1, lightness, _SATURATION)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)
