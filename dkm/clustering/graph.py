"""The graph of nearest neighbors, and the scores of a clustering in it."""

# Shapes: N points, D dimensions, J neighbors of each point.

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dkm.clustering.labels import FloatArray, IntArray

if TYPE_CHECKING:  # SciPy takes long to load
    from scipy.sparse import csr_array

_MAX_SWEEPS = 50
# Parts of the points whose points move at once. With fewer, neighbors move past each other; with more, it is slower.
_N_BLOCKS = 32
# Steps of the search for the scale of a point's neighborhood.
_N_BISECTIONS = 64
# Neighbors of a point in the graph in which clusterings are compared, and the points for each of them.
MOST_COMPARED, _FEWEST_COMPARED, _POINTS_PER_NEIGHBOR = 20, 2, 8

# Below this modularity clusterings are said to be poor: Newman and Girvan (Physical Review E 69, 2004) see structure
# from about 0.3 on, and k-means on normal noise of 200 rows and 8 features has up to 0.28. Noise of fewer features or
# more rows has a higher one, as the parts of a plane have few neighbors outside, so a higher one proves nothing.
LOW_MODULARITY = 0.3

# Differences in modularity of less than this do not show in the three digits of tables.
VISIBLE = 0.0005

# The sums of a score depend on the numbers of the clusters in their last bits.
_ROUNDING = 1e-9


def n_compared(n_points: int) -> int:
    """Return the number of neighbors of each point in the graph in which clusterings of the points are compared.

    An eighth of the points, at least 2 and at most 20. If nearly all points are neighbors, the modularity of the right
    clusters is about 0, and that of uneven wrong ones can be higher.
    """
    return min(MOST_COMPARED, max(_FEWEST_COMPARED, n_points // _POINTS_PER_NEIGHBOR))


def has_distances(X: FloatArray) -> bool:
    """Return whether squared distances between the rows X (N, F) are finite in float32, by the ranges of features."""
    extent = X.max(axis=0).astype(np.float64) - X.min(axis=0)
    return bool(np.square(extent).sum() < np.finfo(np.float32).max)


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
    return unweighted_graph(nearest_neighbors(Z.astype(np.float64), n_neighbors))


class Neighbors(NamedTuple):
    """The nearest neighbors of each point, the nearest first: their ``indices`` and Euclidean ``distance`` (N, J)."""

    indices: IntArray
    distance: FloatArray

    def first(self, n_neighbors: int) -> Neighbors:
        """Return at most so many of the neighbors of each point."""
        return Neighbors(self.indices[:, :n_neighbors], self.distance[:, :n_neighbors])


def nearest_neighbors(Z: FloatArray, n_neighbors: int) -> Neighbors:
    """Find the nearest neighbors of each point, exactly, in the precision of the points.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 2, finite
    n_neighbors : int
        J; at most N - 1 are found.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(Z) - 1)).fit(Z - Z.mean(axis=0))
    distance, indices = search.kneighbors()
    return Neighbors(indices, distance)


def unweighted_graph(neighbors: Neighbors) -> csr_array:
    """Return 1 where one of two points is among the nearest neighbors of the other; see `neighbor_graph`."""
    directed = _directed(neighbors, np.ones(neighbors.indices.shape))
    return directed.maximum(directed.T).tocsr()


def compared_graph(neighbors: Neighbors) -> csr_array:
    """Return the graph (N, N) in which clusterings are compared, of points with `MOST_COMPARED` neighbors each."""
    return unweighted_graph(neighbors.first(n_compared(len(neighbors.indices))))


def fuzzy_graph(neighbors: Neighbors) -> csr_array:
    """Return the weights (N, N), symmetric, in (0, 1], that UMAP gives the edges between neighbors.

    The weight of a point's neighbor is ``exp(-(d - d_1) / s)`` with the distance ``d_1`` of the nearest neighbor and a
    scale s such that the weights of a point sum to ``log2(J)``. Two weights a and b of an edge, one from either end,
    make ``a + b - a * b``.

    References
    ----------
    McInnes, Healy, Melville: UMAP (arXiv:1802.03426), section 3.1.
    """
    distance = neighbors.distance
    excess = distance - distance[:, :1]  # (N, J)
    target = np.log2(max(2, distance.shape[1]))
    low, scale, high = np.zeros(len(distance)), np.ones(len(distance)), np.full(len(distance), np.inf)
    for _ in range(_N_BISECTIONS):
        total = np.exp(-excess / scale[:, np.newaxis]).sum(axis=1)
        is_wide = total > target
        high, low = np.where(is_wide, scale, high), np.where(is_wide, low, scale)
        scale = np.where(np.isinf(high), 2 * scale, (low + high) / 2)
    # Points in the same place, and those with equally far neighbors, have no scale of their own.
    scale = np.maximum(scale, 1e-3 * (distance.mean() or 1.0))
    directed = _directed(neighbors, np.exp(-excess / scale[:, np.newaxis]))
    both = directed.multiply(directed.T)
    return (directed + directed.T - both).tocsr()


def _directed(neighbors: Neighbors, weights: FloatArray) -> csr_array:
    """Return the sparse array (N, N) with the weights (N, J) of each point's neighbors in its row."""
    from scipy.sparse import csr_array

    N, J = neighbors.indices.shape
    ends = np.arange(0, N * J + 1, J)
    return csr_array((weights.ravel(), neighbors.indices.ravel(), ends), shape=(N, N))


class GraphScore(NamedTuple):
    """How well clusters follow the edges of a graph, see `score`; ``assortativity`` is None where it was not kept."""

    modularity: float
    assortativity: float | None = None

    def __str__(self) -> str:
        assortativity = "unknown" if self.assortativity is None else f"{self.assortativity:.4f}"
        return f"modularity {self.modularity:.4f}, assortativity {assortativity}"

    def is_above(self, other: GraphScore, by: float = _ROUNDING) -> bool:
        """Return whether these clusters are better than others of the same graph, by more than a margin.

        They are if their modularity is higher, and its geometric mean with the assortativity too. The modularity alone
        favors even sizes: a split of a large cluster can raise it. The assortativity alone favors uneven ones: it is 1
        for a few rows without neighbors outside and all others. By default differences of at most 1e-9 do not count.
        """
        is_higher = self.modularity > other.modularity + by
        if self.assortativity is None or other.assortativity is None:
            return is_higher
        return is_higher and self.mean > other.mean + by

    def covers(self, other: GraphScore) -> bool:
        """Return whether these clusters are above whatever the others are above, by any margin."""
        is_as_high = self.modularity >= other.modularity
        if self.assortativity is None or other.assortativity is None:
            return is_as_high
        return is_as_high and self.mean >= other.mean

    @property
    def mean(self) -> float:
        """The geometric mean of both, negative if they are; the modularity where the assortativity was not kept.

        Clusters with the highest one are below no others.
        """
        if self.assortativity is None:
            return self.modularity
        return math.copysign(math.sqrt(self.modularity * self.assortativity), self.modularity)


def score(graph: csr_array, labels: IntArray) -> GraphScore:
    """Return the modularity of a clustering, and its assortativity.

    The modularity is the fraction of edges within clusters, above that expected by chance. The assortativity is the
    modularity over the largest value that it can have for clusters with as many edge ends; 0 for one cluster.

    Parameters
    ----------
    graph : sparse array, shape (N, N), symmetric, at least one edge
        For example a `neighbor_graph`.
    labels : int array, shape (N,), values >= 0
        Cluster of each point.

    Returns
    -------
    modularity : float in [-0.5, 1)
        ``sum_k (e_k - a_k^2)``, where ``e_k`` is the fraction of edges within cluster k and ``a_k`` the fraction of
        edge ends in it. ``a_k^2`` is the expectation of ``e_k`` in a random graph with the same degrees. Clusters of
        any shape score high if few edges leave them; even sizes score higher than uneven ones.
    assortativity : float in [-1, 1]
        The modularity divided by ``1 - sum_k a_k^2``; 1 if no edge leaves a cluster.

    References
    ----------
    Newman, Girvan: Finding and evaluating community structure in networks (arXiv:cond-mat/0308217), eq. 5.
    Newman: Mixing patterns in networks (arXiv:cond-mat/0209450), eq. 2.
    """
    edges = graph.tocoo()
    starts, ends = labels[edges.row], labels[edges.col]
    total = edges.data.sum()
    share = np.bincount(starts, weights=edges.data) / total
    by_chance = np.square(share).sum()
    modularity = edges.data[starts == ends].sum() / total - by_chance
    return GraphScore(float(modularity), float(modularity / (1 - by_chance)) if by_chance < 1 else 0.0)


def modularity(graph: csr_array, labels: IntArray) -> float:
    """Return the modularity of a clustering, see `score`."""
    return score(graph, labels).modularity


def improve_modularity(graph: csr_array, labels: np.ndarray, n_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Raise the modularity of ``labels`` (N,) by moving single points between clusters; return new labels (N,).

    This is the local moving of Louvain and Leiden with a fixed number of clusters: each point moves to the cluster with
    the largest gain in modularity, and no cluster loses its last point. The points of a block move at once, by one
    sparse product; the blocks are random parts of the points, in turn. It stops when a sweep over all blocks moves at
    most a thousandth of the points.

    Parameters
    ----------
    graph : sparse array, shape (N, N), symmetric
    """
    labels = labels.copy()
    N = len(labels)
    degree = np.asarray(graph.sum(1)).ravel()
    n_ends = degree.sum()
    volume = np.bincount(labels, weights=degree, minlength=n_clusters)
    size = np.bincount(labels, minlength=n_clusters)
    is_member = np.zeros((N, n_clusters), np.float32)  # one-hot
    is_member[np.arange(N), labels] = 1.0
    blocks = np.array_split(np.random.default_rng(seed).permutation(N), min(_N_BLOCKS, N))
    edges_of_blocks = [graph[block] for block in blocks]
    for _ in range(_MAX_SWEEPS):
        n_moved = 0
        for block, edges in zip(blocks, edges_of_blocks, strict=True):
            rows, current = np.arange(len(block)), labels[block]
            # Edges to each cluster, above those expected by chance from a cluster without the point itself.
            gain = edges @ is_member - degree[block, np.newaxis] * (volume / n_ends)
            gain[rows, current] += np.square(degree[block]) / n_ends
            best = gain.argmax(axis=1)
            moves = _keep_one(np.flatnonzero(gain[rows, best] > gain[rows, current]), current, size)
            points, old, new = block[moves], current[moves], best[moves]
            is_member[points, old], is_member[points, new] = 0.0, 1.0
            labels[points] = new
            for sign, clusters in ((1, new), (-1, old)):
                volume += sign * np.bincount(clusters, weights=degree[points], minlength=n_clusters)
                size += sign * np.bincount(clusters, minlength=n_clusters)
            n_moved += len(moves)
        if n_moved <= N / 1000:
            break
    return labels


def _keep_one(moves: np.ndarray, current: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the moves without one of each cluster that would lose all its points."""
    for cluster in np.flatnonzero(np.bincount(current[moves], minlength=len(size)) >= np.maximum(size, 1)):
        moves = np.delete(moves, np.flatnonzero(current[moves] == cluster)[0])
    return moves
