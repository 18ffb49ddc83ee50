"""Deep clustering network: Yang, Fu, Sidiropoulos and Hong (arXiv:1610.04794)."""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

import torch
from torch import Tensor

from dkm.clustering.assignment import sums_and_sizes
from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.clustering import DCNConfig
from dkm.runtime import distributed


class DCNClustering(KMeansClustering):
    """Deep clustering network inside the trainer: Yang, Fu, Sidiropoulos and Hong (arXiv:1610.04794).

    The network learns with centroids and assignments held; after each step the batch is encoded again, and each of its
    points moves its nearest centroid by 1 / count of the way, where the count of that centroid has just grown by one.
    Over the points of a batch, assigned before any of them moves a centroid, that is the mean of the centroid, taken
    count times, and the points. As in the authors' code (``multi_layer_km.py`` of boyangumn/DCN) counts
    start at 100 and empty clusters stay. Different from both: the assignments that a point is trained with are those of
    the clean pass before the epoch, not those of the last time that it was in a batch.

    Attributes
    ----------
    counts : Tensor of shape (K,), float64
    """

    counts: Tensor
    has_running_means = True

    def __init__(self, config: DCNConfig, n_clusters: int, latent_dim: int, n_samples: int) -> None:
        super().__init__(n_clusters, latent_dim, n_samples, hold_assignments=True, revive=False, centroids="fixed")
        self.register_buffer("counts", torch.full((n_clusters,), float(config.count), dtype=torch.float64))

    @torch.no_grad()
    def after_step(self, z: Tensor) -> None:
        z = z.float()
        labels = self.assign(z)
        added = sums_and_sizes(z, labels, len(self.centroids))
        distributed.sum_(added)  # the same means on every rank, up to the order of the sum
        sizes = added[:, -1]
        total = self.counts + sizes
        means = (self.counts[:, None] * self.centroids + added[:, :-1]) / total.clamp(min=1)[:, None]
        self.centroids.copy_(torch.where((sizes > 0)[:, None], means, self.centroids.double()))
        self.counts.copy_(total)
