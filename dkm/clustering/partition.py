"""Clusterings of an embedding that find clusters which k-means misses: elongated and non-convex ones.

Even on a good embedding k-means may merge two classes with elongated clouds, and the joint phase keeps the merge. A
Gaussian mixture, spectral clustering or Ward's method on the same embedding can separate them. All are scikit-learn's
and run on a random sample; each other point gets the majority label of its nearest neighbors in the sample.
"""

# Shapes: N points, D dimensions, K clusters.

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from dkm.clustering.graph import improve_modularity, modularity, neighbor_graph
from dkm.clustering.labels import effective_clusters
from dkm.data.sampling import draw_rows

log = logging.getLogger(__name__)

METHODS = ("gmm", "spectral", "ward")
# Number of neighbors that vote on the label of a point outside the sample.
_N_VOTERS = 10
_GMM_N_INIT = 5
_N_COMPONENTS = 100
# N^2 F up to which neighbors are searched for in all features: 25,000 texts of 2,000 terms.
_MAX_PRODUCTS = 1.25e12
_LENGTH_TOLERANCE = 1e-3


class MixtureFailed(Exception):
    """No Gaussian mixture could be fitted to the points."""


def partition(z: np.ndarray, n_clusters: int, method: str, *, samples: int, n_neighbors: int, seed: int) -> np.ndarray:
    """Cluster the points with one method.

    Parameters
    ----------
    z : float array of shape (N, D)
        N >= n_clusters.
    method : {"gmm", "spectral", "ward"}
        Gaussian mixture with full covariances, the best of five starts | spectral clustering on the graph of nearest
        neighbors | agglomerative clustering with Ward's criterion.
    samples : int
        Largest number of points to cluster; a random sample of this size is drawn from more points.
    n_neighbors : int
        Number of neighbors in the graph of ``spectral``.

    Returns
    -------
    int64 array of shape (N,)
        Labels from 0 to n_clusters - 1; a mixture may leave a component without a point.

    Raises
    ------
    MixtureFailed
        For ``gmm``, if the covariance of a component stays singular.
    """
    picks = np.sort(draw_rows(len(z), samples, seed))
    z = z.astype(np.float64)
    return spread(z, picks, _cluster(z[picks], n_clusters, method, n_neighbors, seed))


class Choice(NamedTuple):
    """``labels`` (N,) of the best candidate, its ``name``, and the modularity of each refined candidate."""

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
    """Cluster the points with several methods and return the clustering with the highest modularity.

    The candidates are those of ``METHODS``, with ``spectral`` on three graphs, and the ``given`` clusterings. Each is
    refined by ``improve_modularity`` before its modularity in the graph of nearest neighbors is computed. No class
    labels are used. A mixture that cannot be fitted is left out, which is logged.

    Parameters
    ----------
    z : float array of shape (N, D)
        N >= n_clusters. All points are used: the time and memory of ``ward`` grow with N^2.
    given : mapping of names to int64 arrays of shape (N,)
        Additional candidates.
    n_neighbors : int
        The graphs of ``spectral`` have ``n_neighbors``, two and four times as many neighbors; the graph of the
        modularity has twice as many.
    slack : float
        Candidates whose modularity is at most this much below the highest are tied; the tied candidate with the most
        even sizes is returned.
    """
    z = z.astype(np.float64)
    candidates = dict(given)
    for method in METHODS:
        try:
            candidates[method] = _cluster(z, n_clusters, method, n_neighbors, seed)
        except MixtureFailed as error:
            log.info("clustering.init=auto: without gmm (%s)", error)
    for wider in (2 * n_neighbors, 4 * n_neighbors):
        candidates[f"spectral-{wider}"] = _cluster(z, n_clusters, "spectral", wider, seed)
    graph = neighbor_graph(z, 2 * n_neighbors)
    candidates = {name: improve_modularity(graph, labels, n_clusters, seed=seed) for name, labels in candidates.items()}
    scores = {name: modularity(graph, labels) for name, labels in candidates.items()}
    highest = max(scores.values())
    ties = [name for name, score in scores.items() if score >= highest - slack]
    evenness = {name: effective_clusters(np.bincount(candidates[name], minlength=n_clusters)) for name in ties}
    best = max(ties, key=lambda name: (evenness[name], scores[name])) if slack else max(ties, key=scores.__getitem__)
    return Choice(candidates[best], best, scores)


def principal_components(X: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the first 100 principal components of the rows X (N, F), or the rows if they have no more features.

    In many noisy dimensions all points are about equally far from each other, and their graph means little. Rows of
    the same length are texts or embeddings, whose neighbors in all features mean more: they are returned as they are,
    unless they are so many that the search for neighbors would take minutes.
    """
    if min(X.shape) <= _N_COMPONENTS or (_have_same_length(X) and len(X) ** 2 * X.shape[1] <= _MAX_PRODUCTS):
        return X
    from sklearn.decomposition import PCA

    components: np.ndarray = PCA(_N_COMPONENTS, svd_solver="randomized", random_state=seed).fit_transform(X)
    return components


def _have_same_length(X: np.ndarray) -> bool:
    """Return whether the rows (N, F) that are not zero have the same length, up to rounding."""
    lengths = np.linalg.norm(X, axis=1)
    lengths = lengths[lengths > 0]
    return bool(lengths.size) and float(np.ptp(lengths)) <= _LENGTH_TOLERANCE * float(lengths.max())


def spread(z: np.ndarray, picks: np.ndarray, picked_labels: np.ndarray) -> np.ndarray:
    """Extend the ``picked_labels`` (M,) of the points at ``picks`` (M,) to all points z (N, D) by nearest neighbors."""
    if len(picks) == len(z):
        return picked_labels
    from sklearn.neighbors import KNeighborsClassifier

    voters = KNeighborsClassifier(min(_N_VOTERS, len(picks))).fit(z[picks], picked_labels)
    labels: np.ndarray = voters.predict(z).astype(np.int64)
    labels[picks] = picked_labels
    return labels


def _cluster(z: np.ndarray, n_clusters: int, method: str, n_neighbors: int, seed: int) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering, SpectralClustering
    from sklearn.exceptions import ConvergenceWarning

    if n_clusters == 1:
        return np.zeros(len(z), np.int64)
    if n_clusters == len(z):  # `spectral` needs fewer eigenvectors than points
        return np.arange(len(z))
    if method == "gmm":
        return _fit_mixture(z, n_clusters, seed)
    if method == "spectral":
        n_neighbors = min(n_neighbors, len(z))
        solver = "lobpcg" if _needs_other_solver(z, n_neighbors) else None
        model = SpectralClustering(
            n_clusters, affinity="nearest_neighbors", n_neighbors=n_neighbors, eigen_solver=solver, random_state=seed
        )
    else:
        model = AgglomerativeClustering(n_clusters)
    with warnings.catch_warnings():
        # A candidate need not have converged, and the components of a disconnected graph are clusters already.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)
        warnings.filterwarnings("ignore", "Exited ", UserWarning)  # lobpcg, before it converged
        labels: np.ndarray = model.fit_predict(z).astype(np.int64)
    return labels


def _fit_mixture(z: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    variance = float(z.var(0).mean()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # For small variances, add a millionth of them instead of the default 1e-6. For large ones the default may be
        # less than the rounding of a covariance, so that a component of one point has a singular one: then add more.
        for added in dict.fromkeys((1e-6 * min(1.0, variance), 1e-6 * variance)):
            model = GaussianMixture(n_clusters, n_init=_GMM_N_INIT, reg_covar=added, random_state=seed)
            with suppress(ValueError):
                labels: np.ndarray = model.fit_predict(z).astype(np.int64)
                return labels
    raise MixtureFailed(f"a component of the mixture of {n_clusters} has a singular covariance")


def _needs_other_solver(z: np.ndarray, n_neighbors: int) -> bool:
    """Return whether the default solver would give wrong eigenvectors: disconnected graphs, before scikit-learn 1.9.

    Of six blobs in six components it found clusters with an ARI of 0.63 to 1.0; since 1.9 it finds the blobs.
    """
    import sklearn
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import kneighbors_graph

    if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9):
        return False
    graph = kneighbors_graph(z, n_neighbors, include_self=True)
    return bool(connected_components(graph, directed=False, return_labels=False) > 1)
