"""Lays out the embedding in two dimensions: principal components, t-SNE or UMAP."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

# Numbers of points that each method lays out in a few seconds.
MAX_POINTS = {"pca": 5000, "tsne": 2000, "umap": 5000}
_PERPLEXITY = 30.0
_N_NEIGHBORS = 15
# t-SNE and UMAP fail, or mean nothing, with fewer points.
_FEWEST = 10


class Plane(NamedTuple):
    """Points (N, 2), centroids (K, 2), and the labels of the two axes."""

    points: FloatArray
    centroids: FloatArray
    axes: tuple[str, str]


def is_available(method: str) -> bool:
    """Return whether the package of a method is installed."""
    return method != "umap" or importlib.util.find_spec("umap") is not None


def plane(Z: FloatArray, centroids: FloatArray, *, method: str = "pca", seed: int = 0) -> Plane:
    """Lay out the embedding and the centroids in two dimensions.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 1
    centroids : float array, shape (K, D)
        Projected into the plane of the points' principal components; laid out with the points by the other methods,
        in whose maps distances between clusters mean little.
    method : str
        pca, tsne or umap. The last two are replaced by pca where there are fewer than ten points, one dimension, or
        nothing but equal points.
    seed : int
        Seed of the layout, and of the jitter that replaces the second axis if D = 1.
    """
    if method == "pca" or len(Z) < _FEWEST or Z.shape[1] < 2 or np.ptp(Z, axis=0).max() == 0:
        return _principal(Z, centroids, seed)
    together = np.vstack([Z, centroids]).astype(np.float64)
    together -= together.mean(axis=0)
    together = (together / np.ptp(together, axis=0).max()).astype(np.float32)  # neither changes the neighbors
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(together) - 1) / 3)
        laid_out = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(together)
        names = ("t-SNE 1", "t-SNE 2")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of UMAP and numba, which the user cannot act on
            from umap import UMAP

            n_neighbors = min(_N_NEIGHBORS, len(together) - 1)
            laid_out = UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(together)
        names = ("UMAP 1", "UMAP 2")
    return Plane(laid_out[: len(Z)], laid_out[len(Z) :], names)


def _principal(Z: FloatArray, centroids: FloatArray, seed: int) -> Plane:
    mean = Z.mean(axis=0, dtype=np.float64)
    components, variance = _principal_components(Z - mean)
    points, crosses = (Z - mean) @ components.T, (centroids - mean) @ components.T  # (N, 2), (K, 2)
    names = [f"component {number} ({share:.0%} of the variance)" for number, share in enumerate(variance, 1)]
    if Z.shape[1] < 2:
        points[:, 1] = np.random.default_rng(seed).uniform(-1, 1, len(points))
        names[1] = "jitter"
    return Plane(points, crosses, (names[0], names[1]))


def _principal_components(centered: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two leading directions (2, D), their largest entries positive, and shares of the variance (2,)."""
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    components, variance = np.zeros((2, centered.shape[1])), np.zeros(2)  # zero where N or D is below two
    components[: len(directions)] = directions[:2]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    if singular.any():
        variance[: len(singular)] = (singular[:2] / np.linalg.norm(singular)) ** 2
    return np.where(largest < 0, -components, components), variance
