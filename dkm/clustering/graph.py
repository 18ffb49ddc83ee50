"""The graph of nearest neighbors, and the modularity of a clustering in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dkm.clustering.labels import FloatArray, IntArray

if TYPE_CHECKING:  # SciPy takes long to load
    from scipy.sparse import csr_array

_MAX_SWEEPS = 50


def neighbor_graph(Z: FloatArray, n_neighbors: int) -> csr_array:
    """Join each point to its nearest neighbors.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 2, finite
        The points; distances are Euclidean.
    n_neighbors : int
        Number of neighbors of each point; at most N - 1 are used.

    Returns
    -------
    sparse array, shape (N, N)
        1 where one of the two points is among the nearest neighbors of the other; symmetric, without self-loops.
    """
    from scipy.sparse import csr_array
    from sklearn.neighbors import kneighbors_graph

    Z = Z.astype(np.float64)
    directed = kneighbors_graph(Z - Z.mean(axis=0), min(n_neighbors, len(Z) - 1))
    return csr_array(directed.maximum(directed.T))


def modularity(graph: csr_array, labels: IntArray) -> float:
    """Return the modularity of a clustering: its fraction of edges within clusters, above that expected by chance.

    Parameters
    ----------
    graph : sparse array, shape (N, N), symmetric, at least one edge
        For example a `neighbor_graph`.
    labels : int array, shape (N,), values >= 0
        Cluster of each point.

    Returns
    -------
    float in [-0.5, 1)
        ``sum_k (e_k - a_k^2)``, where ``e_k`` is the fraction of edges within cluster k and ``a_k`` the fraction of
        edge ends in it. ``a_k^2`` is the expectation of ``e_k`` in a random graph with the same degrees. Clusters of
        any shape score high if few edges leave them; even sizes score higher than uneven ones.

    References
    ----------
    Newman, Girvan: Finding and evaluating community structure in networks (arXiv:cond-mat/0308217), eq. 5.
    """
    edges = graph.tocoo()
    starts, ends = labels[edges.row], labels[edges.col]
    total = edges.data.sum()
    share = np.bincount(starts, weights=edges.data) / total
    return float(edges.data[starts == ends].sum() / total - np.square(share).sum())


def improve_modularity(graph: csr_array, labels: np.ndarray, n_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Raise the modularity of ``labels`` (N,) by moving single points between clusters; return new labels (N,).

    Each sweep visits the points in random order and moves each to the cluster with the largest gain in modularity. It
    stops when a sweep moves at most a thousandth of the points. This is the local moving of Louvain and Leiden with a
    fixed number of clusters: no cluster loses its last point.
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
            current = labels[point]
            if size[current] == 1:
                continue
            neighbors = graph.indices[graph.indptr[point] : graph.indptr[point + 1]]
            edges = np.bincount(labels[neighbors], minlength=n_clusters)
            volume[current] -= degree[point]
            gain = edges - degree[point] * volume / n_ends  # all weights are 1
            best = gain.argmax()
            best = best if gain[best] > gain[current] else current
            volume[best] += degree[point]
            if best != current:
                labels[point] = best
                size[current] -= 1
                size[best] += 1
                n_moved += 1
        if n_moved <= len(labels) / 1000:
            break
    return labels
