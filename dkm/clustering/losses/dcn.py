"""Deep clustering network: Yang, Fu, Sidiropoulos and Hong (arXiv:1610.04794)."""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from dkm.clustering.assignment import assign, nearest_centroids, sums_and_sizes
from dkm.clustering.functional import kmeans_loss
from dkm.clustering.losses.base import ClusteringLoss, Reassignment
from dkm.runtime import distributed

if TYPE_CHECKING:
    from dkm.config.clustering import DCNConfig


class DCNClustering(ClusteringLoss):
    """The method ``dcn``: the k-means loss for the network, running means for the centroids.

    The network learns with centroids and assignments held; after each step the batch is encoded again, and each of its
    points moves its nearest centroid by 1 / count of the way, where the count of that centroid has just grown by one.
    Over the points of a batch, assigned before any of them moves a centroid, that is the mean of the centroid, taken
    count times, and the points. As in the authors' code (``multi_layer_km.py`` of boyangumn/DCN) counts start at 100
    and empty clusters stay. Different from both: the assignments that a point is trained with are those of the pass
    before the epoch, not those of the last time that it was in a batch; where labels are held, those of the start.

    Parameters
    ----------
    n_clusters, latent_dim, n_samples : int
        K, D and N.
    count : int
        What each centroid counts as when the clusters are set, in points.

    Attributes
    ----------
    counts : Tensor of shape (K,), float64
    """

    counts: Tensor

    def __init__(self, n_clusters: int, latent_dim: int, n_samples: int, *, count: int = 100) -> None:
        super().__init__(n_clusters, latent_dim, n_samples)
        self.count = count
        self.are_labels_kept = False
        self.centroids.requires_grad_(False)
        self.register_buffer("counts", torch.full((n_clusters,), float(count), dtype=torch.float64))

    @classmethod
    def from_config(cls, config: DCNConfig, *, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int) -> Self:
        return cls(n_clusters, latent_dim, n_samples, count=config.count)

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        return kmeans_loss(z, self.centroids, self.assignments[index])

    def initialize(self, centroids: Tensor, labels: Tensor, z: Tensor) -> None:
        super().initialize(centroids, labels, z)
        self.counts.fill_(float(self.count))  # of a run that was clustered anew, fresh centroids would hardly move

    def hold_labels(self) -> None:
        self.are_labels_kept = True

    @torch.no_grad()
    def end_epoch(self, z: Tensor) -> Reassignment:
        labels = assign(z, self.centroids).labels
        compared = self._compare if self.are_labels_kept else self._keep
        return compared(labels, self._dead(labels))

    @torch.no_grad()
    def after_step(self, encode: Callable[[], Tensor]) -> None:
        z = encode().float()
        labels = nearest_centroids(z, self.centroids)[:, 0]
        added = sums_and_sizes(z, labels, len(self.centroids))
        distributed.sum_(added)  # the same means on every rank, up to the order of the sum
        sizes = added[:, -1]
        total = self.counts + sizes
        means = (self.counts[:, None] * self.centroids + added[:, :-1]) / total.clamp(min=1)[:, None]
        self.centroids.copy_(torch.where((sizes > 0)[:, None], means, self.centroids.double()))
        self.counts.copy_(total)
