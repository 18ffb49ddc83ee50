"""The map of a report: positions of rows in two dimensions, and which rows it shows."""

# Shapes: N rows, n rows of the map, m rows that are laid out, D latent, K clusters.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dkm.clustering.graph import fuzzy_graph, nearest_neighbors
from dkm.clustering.neighbor_embedding import embed_neighbors
from dkm.data.sampling import draw_rows, sample_row_indices
from dkm.evaluation.exemplars import Exemplars
from dkm.evaluation.figures.plane import plane

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

# Rows that are laid out by their neighbors; others are placed between those of them that are nearest.
_N_LAID_OUT = 2000
_N_NEIGHBORS, _N_BETWEEN = 15, 3
# An edge of the largest weight is drawn so often: enough for a picture, in a tenth of the time of a training's.
_N_DRAWS = 40
# With fewer rows, or fewer than three dimensions, there is nothing to unfold.
_FEWEST_ROWS, _FEWEST_DIMENSIONS = 30, 3
# Each cluster has at least so many rows in the map, as far as it has them.
_LEAST_OF_CLUSTER = 20


class Layout(NamedTuple):
    """Positions (n, 2), and in a few words how they were found."""

    points: FloatArray
    method: str


def lay_out(Z: FloatArray) -> Layout:
    """Lay out an embedding (n, D) in two dimensions.

    An embedding of two dimensions is shown as it is, one of few rows by its principal components, and all others by
    UMAP's objective (`dkm.clustering.neighbor_embedding`), which keeps neighbors together.
    """
    if Z.shape[1] == 2:
        return Layout(Z.astype(np.float64), "the two dimensions of the embedding")
    distinct = np.unique(Z, axis=0)
    if Z.shape[1] < _FEWEST_DIMENSIONS or len(distinct) < _FEWEST_ROWS:
        method = "the principal components of the embedding"
        if Z.shape[1] == 1:
            method = "the one dimension of the embedding; heights are random"
        return Layout(plane(Z, Z[:0]).points, method)
    chosen = np.sort(draw_rows(len(Z), _N_LAID_OUT))
    landmarks = Z[chosen].astype(np.float64)
    graph = fuzzy_graph(nearest_neighbors(landmarks, _N_NEIGHBORS))
    laid_out = embed_neighbors(graph, landmarks, 2, n_draws=_N_DRAWS).numpy().astype(np.float64)
    points = np.empty((len(Z), 2))
    points[chosen] = laid_out
    others = np.setdiff1d(np.arange(len(Z)), chosen)
    if len(others):
        points[others] = _between(Z[others], landmarks, laid_out)
    return Layout(points, "neighbors in the embedding (UMAP's objective)")


def _between(Z: FloatArray, landmarks: FloatArray, laid_out: FloatArray) -> FloatArray:
    """Return positions between those of the nearest landmarks, the nearer ones counting more."""
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree(landmarks).query(Z, k=min(_N_BETWEEN, len(landmarks)))
    weight = 1 / np.maximum(distance, 1e-9)
    weight /= weight.sum(axis=1, keepdims=True)
    positions: FloatArray = (laid_out[nearest] * weight[:, :, np.newaxis]).sum(axis=1)
    return positions


def rows_of_map(labels: IntArray, exemplars: Sequence[Exemplars], limit: int) -> IntArray:
    """Return the sorted rows that a map shows: a sample of ``limit`` rows, exemplars, and some rows of each cluster.

    Parameters
    ----------
    labels : int array, shape (N,)
    exemplars : sequence of Exemplars
        Those that the cards of the clusters show.
    limit : int
        All rows are shown if there are no more than this. Otherwise the map may have more rows than the limit where
        there are many clusters.
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    wanted = [np.concatenate([rows.nearest, rows.least_certain]) for rows in exemplars]
    n_clusters = int(labels.max()) + 1
    order = draw_rows(len(labels), len(labels))  # all rows, in a random order
    of_cluster = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[of_cluster], np.arange(n_clusters + 1))
    wanted += [of_cluster[start : min(start + _LEAST_OF_CLUSTER, stop)] for start, stop in pairwise(starts.tolist())]
    required = np.unique(np.concatenate(wanted))
    sample = sample_row_indices(len(labels), limit)
    n_more = max(0, limit - len(required))
    more = sample[~np.isin(sample, required)]
    more = np.sort(more[draw_rows(len(more), n_more)])
    return np.union1d(required, more)
