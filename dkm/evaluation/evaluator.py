"""Evaluation: encode a data set, score a clustering, draw what a person wants to see.

Labels come in here and nowhere else, and only scores come out.
"""

# Shapes: N samples, F input features, D latent, K clusters, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dkm.clustering.graph import modularity, neighbor_graph
from dkm.clustering.labels import cluster_sizes, effective_clusters
from dkm.config.run import EvaluationConfig
from dkm.data.batches import Batches
from dkm.data.datasets import Dataset
from dkm.data.sampling import draw_rows, sample_dataset
from dkm.evaluation import metrics
from dkm.models.autoencoder import Autoencoder
from dkm.runtime import distributed

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Of the graph on the data in which clusterings are compared.
_N_NEIGHBORS = 20

Scores = dict[str, float | None]


def every_row(function: Callable[[Tensor], Tensor], batches: Batches, width: int) -> Tensor:
    """Return ``function(rows)`` of all rows of the data in their order, computed in chunks, by each rank its share.

    Parameters
    ----------
    function : callable
        Maps rows (B, F) to (B, width).

    Returns
    -------
    float32 Tensor of shape (N, width)
    """
    result = torch.zeros(batches.n_samples, width, device=batches.device)
    for rows, x in batches.chunks():
        result[rows] = function(x)
    return distributed.sum_(result)


@torch.no_grad()
def encode(autoencoder: Autoencoder, batches: Batches, precision: str = "fp32") -> Tensor:
    """Return the embedding (N, D) of all rows as float32, computed in ``precision`` (fp32 or bf16)."""
    with torch.autocast(batches.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return every_row(autoencoder.encode, batches, autoencoder.latent_dim)


class Evaluator:
    """Scores clusterings of one data set.

    Scores that look at distances are taken on ``sample``, all rows where there are few.
    """

    def __init__(self, data: Dataset, batches: Batches, n_clusters: int, config: EvaluationConfig) -> None:
        self.sample = sample_dataset(data, config.samples)
        self.data = data
        self.batches = batches
        self._n_clusters = n_clusters
        self._silhouette_samples = config.silhouette_samples

    @cached_property
    def X(self) -> np.ndarray:
        """The rows of the sample in the space of the data."""
        return self.batches.take(self.sample).cpu().numpy()

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Return rows (M, F) of the data."""
        return self.batches.take(torch.from_numpy(index)).cpu().numpy()

    def sampled(self, z: Tensor) -> np.ndarray:
        """Return the rows of the sample of z (N, D)."""
        return (z if self.sample is None else z[self.sample.to(z.device)]).cpu().numpy()

    def sampled_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels (N,) of the rows of the sample."""
        return labels if self.sample is None else labels[self.sample.numpy()]

    def scores(self, Z: np.ndarray, labels: np.ndarray, inertia: float, *, on_data: bool = False) -> Scores:
        """Score ``labels`` (N,) of all rows, found in the space of Z, which has the rows of the sample.

        Returns
        -------
        dict
            acc, nmi, ari where there are labels; silhouette, davies_bouldin, calinski_harabasz in the space of Z, which
            differs between clusterings, so they tell how compact each is and not which is right; silhouette_data (with
            ``on_data``), the same labels in the space of the data; modularity_data (with ``on_data``), how far they
            hang together there, which compares clusterings; inertia; n_effective_clusters. None where a score is
            undefined.
        """
        scores: Scores = {}
        if self.data.y is not None:
            scores |= metrics.label_scores(self.data.y, labels)
        scores |= self._label_free(Z, labels)
        scores["n_effective_clusters"] = effective_clusters(cluster_sizes(labels, self._n_clusters))
        if on_data:
            mine = self.sampled_labels(labels)
            scores["silhouette_data"] = metrics.silhouette(self.X, mine, max_samples=self._silhouette_samples)
            scores["modularity_data"] = self.modularity_data(labels)
        return scores | {"inertia": inertia}

    def modularity_data(self, labels: np.ndarray) -> float | None:
        """Return the modularity of the labels (N,) in a graph of nearest neighbors on the data themselves.

        The graph is the same for all clusterings of the data, however they were found, so it compares them. It has
        the rows of the sample, or ``evaluation.silhouette_samples`` of them.
        """
        if self._graph is None:
            return None
        rows, graph = self._graph
        return modularity(graph, self.sampled_labels(labels)[rows])

    @cached_property
    def _graph(self) -> tuple[np.ndarray, csr_array] | None:
        rows = draw_rows(len(self.X), self._silhouette_samples)
        if len(rows) < 2 or not np.isfinite(self.X[rows]).all():
            return None
        return rows, neighbor_graph(self.X[rows], _N_NEIGHBORS)

    def _label_free(self, Z: np.ndarray, labels: np.ndarray) -> Scores:
        mine = self.sampled_labels(labels)
        return metrics.label_free_scores(Z, mine, self._n_clusters, max_samples=self._silhouette_samples)


def embedding_variance(z: Tensor) -> float:
    """Return the total variance of the embedding (N, D), summed over dimensions; it goes to 0 in a collapse."""
    return z.var(0, correction=0).sum().item()


def smallest_centroid_distance(centroids: Tensor) -> float | None:
    """Return the distance of the two nearest centroids (K, D); None with one cluster."""
    if len(centroids) < 2:
        return None
    return torch.nn.functional.pdist(centroids.double()).min().item()
