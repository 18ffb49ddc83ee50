"""The graph of nearest neighbors, and the modularity of a clustering in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # SciPy takes long to load
    from scipy.sparse import csr_array

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scipy.sparse import csr_array
from dkm.clustering.labels import FloatArray, IntArray


def neighbor_graph(Z: FloatArray, n_neighbors: int) -> csr_array:
    """Join each point to its nearest neighbors.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 2, finite
        The points; distances are Euclidean.
    n_neighbors : int
        At most N - 1 are taken.

    Returns
    -------
    sparse array, shape (N, N)
        1 where one of two points is among the nearest neighbors of the other; symmetric, without loops.
    """
    from scipy.sparse import csr_array
    from sklearn.neighbors import kneighbors_graph

    Z = Z.astype(np.float64)
    directed = kneighbors_graph(Z - Z.mean(axis=0), min(n_neighbors, len(Z) - 1))
    return csr_array(directed.maximum(directed.T))


def modularity(graph: csr_array, labels: IntArray) -> float:
    """Score how much more the points of a cluster hang together than chance would have it.

    Parameters
    ----------
    graph : sparse array, shape (N, N), symmetric, at least one edge
        For example a `neighbor_graph`.
    labels : int array, shape (N,), values >= 0
        Cluster of each point.

    Returns
    -------
    float in [-0.5, 1)
        The fraction of the edges within clusters, less what it would be if they joined points at random with the same
        number of edges at each: ``sum_k (e_k - a_k^2)``, with ``a_k`` the fraction of the ends of edges in cluster k.
        Clusters of any shape score high if few edges leave them, and even sizes score higher than uneven ones.

    References
    ----------
    Newman, Girvan: Finding and evaluating community structure in networks (arXiv:cond-mat/0308217), eq. 5.
    """
    edges = graph.tocoo()
    starts, ends = labels[edges.row], labels[edges.col]
    total = edges.data.sum()
    share = np.bincount(starts, weights=edges.data) / total
    return float(edges.data[starts == ends].sum() / total - np.square(share).sum())


_MAX_SWEEPS = 50


def improved(graph: csr_array, labels: np.ndarray, n_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Return labels (N,) whose modularity no move of a single point to another part raises much further.

    Point by point, in random order, each goes to the part where it adds most to the modularity, until a sweep moves
    less than a thousandth of the points. This is the local moving of Louvain and Leiden, with the number of parts held:
    no part is left without a point.
    """
    labels = labels.copy()
    degree = np.asarray(graph.sum(1)).ravel()
    n_ends = degree.sum()
    volume = np.bincount(labels, weights=degree, minlength=n_clusters)
    size = np.bincount(labels, minlength=n_clusters)
    random = np.random.default_rng(seed)
    for _ in range(_MAX_SWEEPS):
        n_moved = 0
        for point in random.permutation(len(labels)):
            own = labels[point]
            if size[own] == 1:
                continue
            neighbors = graph.indices[graph.indptr[point] : graph.indptr[point + 1]]
            edges = np.bincount(labels[neighbors], minlength=n_clusters)
            volume[own] -= degree[point]
            gain = edges - degree[point] * volume / n_ends  # all weights are 1
            best = gain.argmax()
            best = best if gain[best] > gain[own] else own
            volume[best] += degree[point]
            if best != own:
                labels[point] = best
                size[own] -= 1
                size[best] += 1
                n_moved += 1
        if n_moved <= len(labels) / 1000:
            break
    return labels
