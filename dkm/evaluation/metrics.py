"""The formulas of the scores: against labels where they exist, and without labels.

NumPy arrays in, Python floats out, and no state; ``dkm.evaluation.scores`` says which score calls which. Labels score
a finished clustering only; nothing here feeds back into training. SciPy and scikit-learn are imported where they are
used, because they take long to load.

A score that is undefined is ``None`` (``null`` in result.json), never NaN and never an exception: a collapsed
clustering is a result to report, not a reason to lose the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dkm.clustering.graph import MOST_COMPARED, GraphScore, compared_graph, has_distances, nearest_neighbors, score
from dkm.clustering.labels import FloatArray, Int64Array, IntArray, contingency
from dkm.clustering.partition import principal_components
from dkm.data.sampling import draw_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Memory for the distances of all pairs; scikit-learn's default is 1 GiB.
_SILHOUETTE_MIB = 64


# --- against labels -----------------------------------------------------------------------------------------


def accuracy(y: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Return the share of samples that the best one-to-one matching of clusters to classes labels correctly.

    Parameters
    ----------
    y, labels : arrays, shape (N,), N >= 1
        Class and cluster of each sample, under any names. The numbers of clusters and classes may differ: samples of
        an unmatched cluster or class count as wrong.

    Returns
    -------
    float in (0, 1]
        Mean over the samples.

    References
    ----------
    Xie, Girshick, Farhadi: Unsupervised Deep Embedding for Clustering Analysis (arXiv:1511.06335), eq. 10.
    """
    from scipy.optimize import linear_sum_assignment

    classes, y = np.unique(y, return_inverse=True)
    clusters, labels = np.unique(labels, return_inverse=True)
    table = contingency(y, labels, len(classes), len(clusters))
    matches = linear_sum_assignment(table, maximize=True)
    return float(table[matches].sum() / len(y))


def normalized_mutual_information(y: IntArray, labels: IntArray) -> float:
    """Return the mutual information of classes and clusters over the *arithmetic* mean of the two entropies.

    scikit-learn's default since 0.22; older papers may use the geometric mean, which never gives less.

    Parameters
    ----------
    y, labels : int arrays, shape (N,), N >= 1

    Returns
    -------
    float in [0, 1]
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(y, labels, average_method="arithmetic"))


def adjusted_rand_index(y: IntArray, labels: IntArray) -> float:
    """Return the share of pairs on which classes and clusters agree, adjusted so that chance gives 0.

    Parameters
    ----------
    y, labels : int arrays, shape (N,), N >= 1

    Returns
    -------
    float in [-0.5, 1]
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(y, labels))


# --- without labels -----------------------------------------------------------------------------------------


def _is_scorable(Z: FloatArray, labels: IntArray) -> bool:
    n_nonempty = len(np.unique(labels))
    return bool(1 < n_nonempty < len(Z) and np.isfinite(Z).all() and (Z.min(axis=0) < Z.max(axis=0)).any())


def silhouettes(Z: FloatArray, labels: IntArray) -> FloatArray | None:
    """Return how well each point fits its cluster, compared with the nearest other one.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 1
        The points; all pairs are compared.
    labels : int array, shape (N,)

    Returns
    -------
    float array, shape (N,), values in [-1, 1], or None where undefined, as for `dispersion`
    """
    from sklearn import config_context
    from sklearn.metrics import silhouette_samples

    if not _is_scorable(Z, labels):
        return None
    # scikit-learn expands |a - b|^2, which loses digits for points far from the origin: center them, in float64.
    Z = Z.astype(np.float64)
    with config_context(working_memory=_SILHOUETTE_MIB):
        values: FloatArray = silhouette_samples(Z - Z.mean(axis=0), labels)
    return values


def silhouette(Z: FloatArray, labels: IntArray, *, max_samples: int, seed: int = 0) -> float | None:
    """Return the mean silhouette of the points.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 1
    labels : int array, shape (N,), values >= 0
    max_samples : int
        All pairs of points are compared: of more points than this, those of a random sample, which may hold fewer
        clusters.
    seed : int
        Seed of the sample. Equal arguments give equal scores, to the last bit.

    Returns
    -------
    float in [-1, 1], higher is better; None where undefined, as for `dispersion`
    """
    if len(Z) > max_samples:
        rows = draw_rows(len(Z), max_samples, seed)
        Z, labels = Z[rows], labels[rows]
    values = silhouettes(Z, labels)
    return None if values is None else float(values.mean())


class Dispersion(NamedTuple):
    """How far clusters are from each other, relative to their own extent.

    ``davies_bouldin`` >= 0, lower is better; ``calinski_harabasz`` >= 0, higher is better.
    """

    davies_bouldin: float | None
    calinski_harabasz: float | None


def dispersion(Z: FloatArray, labels: IntArray) -> Dispersion:
    """Return Davies-Bouldin and Calinski-Harabasz, which both follow from the means of the clusters.

    Not scikit-learn's functions, which return a constant for a collapsed embedding: a Davies-Bouldin of 0.0, its best
    value, where all means lie within 1e-8 of each other. A search would then choose the collapse.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 1
        The points.
    labels : int array, shape (N,), values >= 0

    Returns
    -------
    Dispersion
        Both are None for fewer than 2 nonempty clusters, as many clusters as points, and points that are all equal or
        not all finite; also Davies-Bouldin where the means of two clusters coincide, and Calinski-Harabasz where no
        cluster has any spread.
    """
    from scipy.spatial.distance import cdist

    if not _is_scorable(Z, labels):
        return Dispersion(None, None)
    clusters = [Z[labels == k] for k in np.unique(labels)]
    N, K = len(Z), len(clusters)
    sizes = np.array([len(points) for points in clusters])  # (K,)
    means = np.stack([points.mean(axis=0, dtype=np.float64) for points in clusters])  # (K, D)
    squared = [((points - mean) ** 2).sum(axis=1) for points, mean in zip(clusters, means, strict=True)]

    radii = np.array([np.sqrt(s).mean() for s in squared])  # (K,) mean distance to the mean
    separation = cdist(means, means)  # (K, K)
    np.fill_diagonal(separation, np.inf)
    within = sum(s.sum() for s in squared)
    between = sizes @ ((means - Z.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        davies_bouldin = ((radii[:, None] + radii) / separation).max(axis=1).mean()
        calinski_harabasz = np.float64(between) * (N - K) / (within * (K - 1))
    return Dispersion(_finite_or_none(davies_bouldin), _finite_or_none(calinski_harabasz))


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


class NeighborSample(NamedTuple):
    """The graph of nearest neighbors on a random part of some rows: their indices (M,) and the graph (M, M)."""

    rows: Int64Array
    graph: csr_array

    def score(self, labels: IntArray) -> GraphScore:
        """Return the scores in the graph of the labels (n,) of all rows that it was drawn from."""
        return score(self.graph, labels[self.rows])

    def modularity(self, labels: IntArray) -> float:
        """Return the modularity in the graph of the labels (n,) of all rows that it was drawn from."""
        return self.score(labels).modularity


def has_graph(X: FloatArray) -> bool:
    """Return whether the rows X (N, F) have a graph of nearest neighbors: several, finite, and no infinite distance."""
    return len(X) > 1 and bool(np.isfinite(X).all()) and has_distances(X)


def sample_neighbors(X: FloatArray, max_samples: int, *, is_image: bool = False) -> NeighborSample | None:
    """Join at most ``max_samples`` random rows of X (n, F) to their nearest neighbors, see `n_compared`.

    Distances are those of the `principal_components` of these rows, but of images those of all pixels.

    The graph is the same for all clusterings of the rows, wherever they were found, so that its modularity compares
    them. Of all rows, but of images, it is that of a `dkm.clustering.neighborhood.Neighborhood` too, also where
    neighbors are equally far: the rows keep their order, and distances are those in float32. None for fewer than two
    rows, and where some are not finite or too far from each other for float32.
    """
    rows = np.sort(draw_rows(len(X), max_samples))
    if not has_graph(X[rows]):
        return None
    points = X[rows] if is_image else principal_components(X[rows])
    neighbors = nearest_neighbors(np.ascontiguousarray(points, np.float32), MOST_COMPARED)
    return NeighborSample(rows, compared_graph(neighbors))
