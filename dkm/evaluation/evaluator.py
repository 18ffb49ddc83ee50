"""Evaluation: encode a data set and score clusterings of it.

Labels come in here and nowhere else, and only scores come out.
"""

# Shapes: N samples, F input features, D latent, K clusters, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dkm.clustering.graph import GraphScore
from dkm.clustering.labels import IntArray
from dkm.clustering.neighborhood import Neighborhood
from dkm.config.run import EvaluationConfig
from dkm.data.batches import Batches
from dkm.data.datasets import Dataset
from dkm.data.sampling import sample_dataset
from dkm.evaluation import metrics
from dkm.evaluation.scores import ScoreContext, Scores, compute_scores
from dkm.models.autoencoder import Autoencoder, evaluation_mode
from dkm.runtime import distributed


def every_row(function: Callable[[Tensor], Tensor], batches: Batches, width: int) -> Tensor:
    """Return ``function(rows)`` for all rows of the data in order; each rank computes its share, chunk by chunk.

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
    autocast = torch.autocast(batches.device.type, torch.bfloat16, enabled=precision == "bf16")
    with autocast, evaluation_mode(autoencoder):
        return every_row(autoencoder.encode, batches, autoencoder.latent_dim)


class Evaluator:
    """Scores clusterings of one data set; it is the ``ScoredData`` of ``dkm.evaluation.scores``.

    Scores that look at distances are taken on ``sample``, the indices of some rows, or None for all rows.

    Parameters
    ----------
    data : Dataset
    batches : Batches
    n_clusters : int
        K.
    config : EvaluationConfig
    neighborhood : Neighborhood, optional
        One of the same data: where the scores take the same graph, neighbors are searched for once.
    """

    def __init__(
        self,
        data: Dataset,
        batches: Batches,
        n_clusters: int,
        config: EvaluationConfig,
        neighborhood: Neighborhood | None = None,
    ) -> None:
        self.sample = sample_dataset(data, config.samples)
        self.data = data
        self.batches = batches
        self.n_clusters = n_clusters
        self.silhouette_samples = config.silhouette_samples
        self._graph_samples = config.graph_samples
        self._neighborhood = neighborhood

    @property
    def y(self) -> IntArray | None:
        """The class (N,) of each row; None without labels."""
        return self.data.y

    @cached_property
    def X(self) -> np.ndarray:
        """The rows (n, F) of the sample in the space of the data."""
        return self.batches.take(self.sample).cpu().numpy()

    @cached_property
    def neighbors(self) -> metrics.NeighborSample | None:
        """The graph of nearest neighbors on ``evaluation.graph_samples`` rows of the sample."""
        is_image = self.data.image_shape is not None
        has_all_rows = self.sample is None and len(self.X) <= self._graph_samples
        known = self._neighborhood
        if known is not None and known.sample is None and has_all_rows and not is_image:
            is_defined = metrics.has_graph(self.X)
            return metrics.NeighborSample(np.arange(len(self.X)), known.graph) if is_defined else None
        return metrics.sample_neighbors(self.X, self._graph_samples, is_image=is_image)

    def graph_score(self, labels: np.ndarray) -> GraphScore | None:
        """Return the scores of labels (N,) in the graph of the data; None where they are undefined."""
        return None if self.neighbors is None else self.neighbors.score(self.sampled_labels(labels))

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Return the rows (M, F) of the data at an index (M,)."""
        return self.batches.take(torch.from_numpy(index)).cpu().numpy()

    def sampled(self, z: Tensor) -> np.ndarray:
        """Return the rows (n, D) of the sample of z (N, D)."""
        return (z if self.sample is None else z[self.sample.to(z.device)]).cpu().numpy()

    def sampled_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels (n,) of the rows of the sample."""
        return labels if self.sample is None else labels[self.sample.numpy()]

    def scores(self, Z: np.ndarray, labels: np.ndarray, inertia: float, *, final: bool = False) -> Scores:
        """Compute the scores of a clustering, see ``dkm.evaluation.scores``.

        Parameters
        ----------
        Z : float array, shape (n, D)
            The rows of the sample in the space that was clustered; ``X`` itself for clusters of the raw data.
        labels : int64 array, shape (N,)
            The cluster of each row, not only of the sample.
        inertia : float
            The sum of the squared distances of all rows to the centroids of their clusters.
        final : bool
            Also compute the scores that take too long for each evaluation.
        """
        return compute_scores(ScoreContext(self, labels, Z, inertia), final=final)


def embedding_variance(z: Tensor) -> float:
    """Return the variance of the embedding (N, D), summed over its dimensions; it tends to 0 in a collapse."""
    return z.var(0, correction=0).sum().item()


def smallest_centroid_distance(centroids: Tensor) -> float | None:
    """Return the distance between the two centroids (K, D) that are closest to each other; None with one cluster."""
    if len(centroids) < 2:
        return None
    return torch.nn.functional.pdist(centroids.double()).min().item()
