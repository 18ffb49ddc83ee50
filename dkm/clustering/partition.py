"""Clusterings of an embedding that see what k-means misses: stretched clouds, and points that hang together.

k-means on a good embedding still merges two classes whose clouds are stretched, and the joint phase then polishes the
merge. A Gaussian mixture, spectral clustering or Ward's method on the same embedding can find them apart. All are
scikit-learn's, on a random sample; the other points go with the majority of their nearest neighbors in it.
"""

# Shapes: N points, D dimensions, K clusters.

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dkm.clustering.graph import improved, modularity, neighbor_graph
from dkm.clustering.labels import effective_clusters
from dkm.data.sampling import draw_rows

if TYPE_CHECKING:  # SciPy takes long to load
    pass

METHODS = ("gmm", "spectral", "ward")
# Neighbors that vote for a point that is not in the sample.
_N_VOTERS = 10
_GMM_N_INIT = 5


def partition(z: np.ndarray, n_clusters: int, method: str, *, samples: int, n_neighbors: int, seed: int) -> np.ndarray:
    """Cluster the points.

    Parameters
    ----------
    z : float array of shape (N, D)
        N >= n_clusters.
    method : {"gmm", "spectral", "ward"}
        Gaussian mixture with full covariances, the best of five starts | spectral clustering on the graph of nearest
        neighbors | agglomerative clustering with Ward's criterion.
    samples : int
        Of more points than this, the clusters are found on that many.
    n_neighbors : int
        Of the graph of ``spectral``.

    Returns
    -------
    int64 array of shape (N,)
        0 to n_clusters - 1; a mixture may leave a component without a point.
    """
    picks = np.sort(draw_rows(len(z), samples, seed))
    z = z.astype(np.float64)
    return spread(z, picks, _cluster(z[picks], n_clusters, method, n_neighbors, seed))


class Choice(NamedTuple):
    """``labels`` (N,) of the best candidate, its ``name``, and the modularity of each candidate once improved."""

    labels: np.ndarray
    name: str
    modularity: dict[str, float]


def choose(
    z: np.ndarray,
    n_clusters: int,
    given: Mapping[str, np.ndarray],
    *,
    n_neighbors: int,
    slack: float = 0.0,
    seed: int,
) -> Choice:
    """Cluster the points in many ways and return the parts that hang together best.

    The candidates are those of ``METHODS``, ``spectral`` on three graphs, and the ``given`` ones. Each is improved by
    ``improved``, and the highest ``modularity`` in the graph of nearest neighbors wins. No class labels are seen.

    Parameters
    ----------
    z : float array of shape (N, D)
        N >= n_clusters. All of it is looked at: time and memory grow with N^2 for ``ward``.
    given : mapping of names to int64 arrays of shape (N,)
        Other clusterings to begin with.
    n_neighbors : int
        The graphs of ``spectral`` have ``n_neighbors`` and two and four times as many, the graph of the modularity
        twice as many.
    slack : float
        Candidates whose modularity is less than the highest by at most this count as equal, and the one with the most
        even sizes wins.
    """
    z = z.astype(np.float64)
    found = dict(given)
    for method in METHODS:
        found[method] = _cluster(z, n_clusters, method, n_neighbors, seed)
    for wider in (2 * n_neighbors, 4 * n_neighbors):
        found[f"spectral-{wider}"] = _cluster(z, n_clusters, "spectral", wider, seed)
    graph = neighbor_graph(z, 2 * n_neighbors)
    found = {name: improved(graph, labels, n_clusters, seed=seed) for name, labels in found.items()}
    scores = {name: modularity(graph, labels) for name, labels in found.items()}
    highest = max(scores.values())
    ties = [name for name, score in scores.items() if score >= highest - slack]
    evenness = {name: effective_clusters(np.bincount(found[name], minlength=n_clusters)) for name in ties}
    best = max(ties, key=lambda name: (evenness[name], scores[name])) if slack else max(ties, key=scores.__getitem__)
    return Choice(found[best], best, scores)


def spread(z: np.ndarray, picks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return labels (N,) of all points z (N, D): those ``found`` (M,) at ``picks`` (M,), else by their vote."""
    if len(picks) == len(z):
        return found
    from sklearn.neighbors import KNeighborsClassifier

    voters = KNeighborsClassifier(min(_N_VOTERS, len(picks))).fit(z[picks], found)
    labels: np.ndarray = voters.predict(z).astype(np.int64)
    labels[picks] = found
    return labels


def _cluster(z: np.ndarray, n_clusters: int, method: str, n_neighbors: int, seed: int) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering, SpectralClustering
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if n_clusters == 1:
        return np.zeros(len(z), np.int64)
    if n_clusters == len(z):  # fewer eigenvectors than points is what `spectral` can have
        return np.arange(len(z))
    if method == "gmm":
        # What is added to the variances is a millionth of those of the points, where these are small.
        scale = min(1.0, float(z.var(0).mean())) or 1.0
        model = GaussianMixture(n_clusters, n_init=_GMM_N_INIT, reg_covar=1e-6 * scale, random_state=seed)
    elif method == "spectral":
        n_neighbors = min(n_neighbors, len(z))
        model = SpectralClustering(n_clusters, affinity="nearest_neighbors", n_neighbors=n_neighbors, random_state=seed)
    else:
        model = AgglomerativeClustering(n_clusters)
    with warnings.catch_warnings():
        # A start that has not converged is still a start; parts of a graph that do not touch are clusters already.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)
        labels: np.ndarray = model.fit_predict(z).astype(np.int64)
    return labels
