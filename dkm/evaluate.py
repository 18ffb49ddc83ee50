"""Evaluation: encode a data set, score a clustering, draw what a person wants to see.

Labels come in here and nowhere else, and only scores come out.
"""

# Shapes: N samples, F input features, D latent, K clusters, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dkm import metrics
from dkm.data import Dataset
from dkm.kmeans import nearest_centroids, squared_distances_to
from dkm.models import Autoencoder

# Rows that are encoded at once: large enough for the matrix products, small enough for the 2,000-wide layer.
_ROWS = 2048
_N_SHOWN = 20

Scores = dict[str, float | None]


class Clustering(NamedTuple):
    """Nearest centroids of N points.

    ``labels`` (N,) int64; ``distance`` (N,) Euclidean, to the nearest centroid; ``margin`` (N,), how much farther the
    second nearest is, None with one cluster; ``inertia``, the sum of the squared distances.
    """

    labels: np.ndarray
    distance: np.ndarray
    margin: np.ndarray | None
    inertia: float


@torch.no_grad()
def encode(autoencoder: Autoencoder, X: Tensor) -> Tensor:
    """Return the embedding (N, D) of X (N, F) in float32, whatever precision the training has."""
    return torch.cat([autoencoder.encode(rows) for rows in torch.split(X, _ROWS)])


@torch.no_grad()
def cluster(z: Tensor, centroids: Tensor) -> Clustering:
    """Assign the points z (N, D) to the centroids (K, D)."""
    n_nearest = min(2, len(centroids))
    index = nearest_centroids(z, centroids, n_nearest)
    squared = torch.stack([squared_distances_to(z, centroids, index[:, rank]) for rank in range(n_nearest)])
    distance = squared.sqrt().cpu().numpy()
    margin = distance[1] - distance[0] if n_nearest == 2 else None
    return Clustering(index[:, 0].cpu().numpy(), distance[0], margin, metrics.inertia(squared[0].cpu().numpy()))


class Evaluator:
    """Scores clusterings of one data set.

    Parameters
    ----------
    silhouette_samples : int
        The silhouette is taken on a fixed random sample of at most this many points.
    """

    def __init__(self, data: Dataset, n_clusters: int, silhouette_samples: int) -> None:
        self._X = data.X.cpu().numpy()
        self._y = data.y
        self._n_clusters = n_clusters
        self._max_samples = silhouette_samples

    def scores(self, Z: np.ndarray, labels: np.ndarray, inertia: float, *, on_data: bool = False) -> Scores:
        """Score ``labels`` (N,), found in the space of Z (N, D).

        Returns
        -------
        dict
            acc, nmi, ari where there are labels; silhouette, davies_bouldin, calinski_harabasz in the space of Z, which
            differs between clusterings, so they tell how compact each is and not which is right; silhouette_data (with
            ``on_data``), the same labels in the space of the data, which compares them; inertia;
            n_effective_clusters. None where a score is undefined.
        """
        scores: Scores = {}
        if self._y is not None:
            scores |= metrics.label_scores(self._y, labels)
        scores |= metrics.label_free_scores(Z, labels, self._n_clusters, max_samples=self._max_samples)
        if on_data:
            on_raw = metrics.label_free_scores(self._X, labels, self._n_clusters, max_samples=self._max_samples)
            scores["silhouette_data"] = on_raw["silhouette"]
        return scores | {"inertia": inertia}


def embedding_variance(z: Tensor) -> float:
    """Return the total variance of the embedding (N, D), summed over dimensions; it goes to 0 in a collapse."""
    return z.var(0, correction=0).sum().item()


def smallest_centroid_distance(centroids: Tensor) -> float | None:
    """Return the distance of the two nearest centroids (K, D); None with one cluster."""
    if len(centroids) < 2:
        return None
    return torch.nn.functional.pdist(centroids.double()).min().item()


@torch.no_grad()
def reconstruction_figure(autoencoder: Autoencoder, data: Dataset) -> Any:
    """Draw fixed samples beside their reconstructions; None for data that are not images."""
    if data.image_shape is None:
        return None
    from dkm import figures

    picks = torch.linspace(0, data.n_samples - 1, min(_N_SHOWN, data.n_samples)).long()
    x = data.X[picks.to(data.X.device)]
    pair = [t.view(-1, *data.image_shape).cpu().numpy() for t in (x, autoencoder.decode(autoencoder.encode(x)))]
    return figures.reconstruction_pairs(*pair)


@torch.no_grad()
def centroid_figure(autoencoder: Autoencoder, centroids: Tensor, data: Dataset) -> Any:
    """Draw the decoded centroids: images, or profiles over the features of a table."""
    from dkm import figures

    decoded = autoencoder.decode(centroids)
    if data.image_shape is None:
        return figures.decoded_profiles(decoded.cpu().numpy())
    images = decoded.view(-1, *data.image_shape).cpu().numpy()
    return figures.image_grid(images, n_columns=10, titles=[str(k) for k in range(len(images))])


def final_figures(
    data: Dataset, z: Tensor, centroids: Tensor, clustering: Clustering, records: list[dict[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """Yield (name, figure) for ``figures/`` at the end of a run."""
    from dkm import figures

    K = len(centroids)
    sizes = metrics.cluster_sizes(clustering.labels, K)
    yield (
        "embedding",
        figures.embedding_map(z.cpu().numpy(), clustering.labels, centroids.cpu().numpy(), title="Embedding"),
    )
    yield "cluster_sizes", figures.cluster_sizes_bar(sizes)
    yield "loss_curves", figures.loss_curves(records)
    if data.y is not None and data.n_classes is not None:
        yield (
            "contingency",
            figures.contingency_map(metrics.contingency(data.y, clustering.labels, data.n_classes, K)),
        )
    if data.image_shape is not None:
        yield "exemplars", figures.exemplar_grid(_exemplars(data, clustering, K), sizes)


def _exemplars(data: Dataset, clustering: Clustering, n_clusters: int) -> np.ndarray:
    """Return the images nearest to each centroid (K, M, C, H, W), nan where a cluster has fewer."""
    assert data.image_shape is not None
    M = 10
    images = np.full((n_clusters, M, *data.image_shape), np.nan, np.float32)
    for k in range(n_clusters):
        members = np.flatnonzero(clustering.labels == k)
        nearest = members[np.argsort(clustering.distance[members], kind="stable")[:M]]
        images[k, : len(nearest)] = data.X[torch.from_numpy(nearest)].cpu().numpy().reshape(-1, *data.image_shape)
    return images
