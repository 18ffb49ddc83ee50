"""Clusterings of an embedding that see what k-means misses: stretched clouds, and points that hang together.

k-means on a good embedding still merges two classes whose clouds are stretched, and the joint phase then polishes the
merge. A Gaussian mixture, spectral clustering or Ward's method on the same embedding can find them apart. All are
scikit-learn's, on a random sample; the other points go with the majority of their nearest neighbors in it.
"""

# Shapes: N points, D dimensions, K clusters.

from __future__ import annotations

import warnings

import numpy as np

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
    picks = _sample(len(z), samples, seed)
    z = z.astype(np.float64)
    found = _cluster(z[picks], n_clusters, method, n_neighbors, seed)
    if len(picks) == len(z):
        return found
    from sklearn.neighbors import KNeighborsClassifier

    voters = KNeighborsClassifier(min(_N_VOTERS, len(picks))).fit(z[picks], found)
    labels: np.ndarray = voters.predict(z).astype(np.int64)
    labels[picks] = found
    return labels


def _sample(n_samples: int, limit: int, seed: int) -> np.ndarray:
    if n_samples <= limit:
        return np.arange(n_samples)
    return np.sort(np.random.default_rng(seed).choice(n_samples, limit, replace=False))


def _cluster(z: np.ndarray, n_clusters: int, method: str, n_neighbors: int, seed: int) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering, SpectralClustering
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if n_clusters == 1:
        return np.zeros(len(z), np.int64)
    if method == "gmm":
        model = GaussianMixture(n_clusters, n_init=_GMM_N_INIT, random_state=seed)
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
