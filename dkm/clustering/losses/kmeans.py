"""The k-means loss as a module: ``KMeansLoss`` for any training loop, ``KMeansClustering`` for the trainer.

The k-means loss with a neural embedding: Yang et al., "Towards K-means-friendly spaces" (arXiv:1610.04794); Fard et
al., "Deep k-means" (arXiv:1806.10069). Assignments held for an epoch: Guo et al., ASPC-DA (TKDE 2019). Holding them
breaks a feedback: a point that follows whichever centroid just moved towards it, which at large weights collapses
everything into a few clusters.
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from dkm.clustering.assignment import assign, nearest_centroids, squared_distances_to, sums_and_sizes
from dkm.clustering.functional import in_full_precision, kmeans_loss
from dkm.clustering.lloyd import kmeans
from dkm.clustering.losses.base import ClusteringLoss, Reassignment

if TYPE_CHECKING:
    from dkm.config.clustering import KMeansConfig


class KMeansLoss(nn.Module):
    """The k-means loss as a module that owns its centroids: ``loss = mse + weight * kmeans(encoder(x))``.

    Parameters
    ----------
    n_clusters, latent_dim : int
        K and D.

    Attributes
    ----------
    centroids : Parameter of shape (K, D)
        Drawn from the standard normal distribution; ``initialize`` sets them by k-means, which every published result
        needs.
    """

    def __init__(self, n_clusters: int, latent_dim: int) -> None:
        super().__init__()
        if n_clusters < 1 or latent_dim < 1:
            raise ValueError(f"expected n_clusters and latent_dim of 1 or more, got {n_clusters} and {latent_dim}")
        self.centroids = nn.Parameter(torch.randn(n_clusters, latent_dim))

    def forward(self, z: Tensor, assignments: Tensor | None = None) -> Tensor:
        """Return ``kmeans_loss(z, self.centroids, assignments)`` for z (N, D).

        ``assignments`` (N,), integers, are the clusters to use, for example those that ``assign`` returned before the
        epoch; by default the nearest centroids.
        """
        return kmeans_loss(z, self.centroids, assignments)

    @torch.no_grad()
    def initialize(self, z: Tensor, *, n_init: int = 20, seed: int = 0) -> Tensor:
        """Set the centroids by k-means on z (N, D), N >= K; return the labels (N,)."""
        result = kmeans(z, len(self.centroids), n_init=n_init, seed=seed)
        self.centroids.copy_(result.centroids)
        return result.labels

    @torch.no_grad()
    def assign(self, z: Tensor) -> Tensor:
        """Return the nearest centroid of each point of z (N, D): (N,) int64."""
        z, centroids = in_full_precision(z, self.centroids)
        return nearest_centroids(z, centroids)[:, 0]

    def extra_repr(self) -> str:
        K, D = self.centroids.shape
        return f"n_clusters={K}, latent_dim={D}"


class KMeansClustering(ClusteringLoss):
    """The method ``kmeans``.

    Parameters
    ----------
    n_clusters, latent_dim, n_samples : int
        K, D and N.
    hold_assignments : bool
        Use the assignments of the pass before the epoch; otherwise the nearest centroid in each batch.
    revive : bool
        Move dead centroids to the points that are farthest from their centroids.
    initial_epochs : int
        Keep the assignments that the phase starts with for so many epochs, and revive nothing meanwhile.
    centroids : {"gradient", "mean", "fixed"}
        Learned by the optimizer | set after each pass to the means of the points that count in the loss, which minimize
        it in closed form | left as they are. ASPC-DA's released code fixes them.
    n_paced_epochs : int, optional
        Length of the joint phase; with it points are self-paced, see ``self_paced_weights``.
    norm_weight : float
        Weight of ``-|z|^2`` in the loss. With 1 it is that of SR-K-means, ``mean(|z - c|^2 - |z|^2)``, which an
        embedding cannot lower by shrinking towards the origin.

    Attributes
    ----------
    point_weights : Tensor of shape (N,)
        Weight of each point in the loss, only with self-pacing.
    """

    point_weights: Tensor

    def __init__(
        self,
        n_clusters: int,
        latent_dim: int,
        n_samples: int,
        *,
        hold_assignments: bool = True,
        revive: bool = True,
        initial_epochs: int = 1,
        centroids: str = "gradient",
        n_paced_epochs: int | None = None,
        norm_weight: float = 0.0,
    ) -> None:
        super().__init__(n_clusters, latent_dim, n_samples)
        self.hold_assignments = hold_assignments
        self.revive = revive
        self.initial_epochs = initial_epochs
        self.norm_weight = norm_weight
        self.n_paced_epochs = n_paced_epochs
        self.are_means = centroids == "mean"
        self.centroids.requires_grad_(centroids == "gradient")
        self.are_labels_kept = False
        self._epoch = 0
        if n_paced_epochs is not None:
            self.register_buffer("point_weights", torch.ones(n_samples))

    @classmethod
    def from_config(
        cls, config: KMeansConfig, *, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int
    ) -> Self:
        return cls(
            n_clusters,
            latent_dim,
            n_samples,
            hold_assignments=config.assignment == "epoch",
            revive=config.revive,
            initial_epochs=config.initial_epochs,
            centroids=config.centroids,
            n_paced_epochs=n_epochs if config.self_paced else None,
            norm_weight=config.norm_weight,
        )

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        assignments = self.assignments[index] if self.hold_assignments else None
        if self.n_paced_epochs is None:
            loss = kmeans_loss(z, self.centroids, assignments)
            return loss - self.norm_weight * z.float().square().sum(1).mean() if self.norm_weight else loss
        z, centroids = in_full_precision(z, self.centroids)
        squared_distance = (z - centroids[assignments]).square().sum(1)  # (B,)
        if self.norm_weight:
            squared_distance = squared_distance - self.norm_weight * z.square().sum(1)
        return (self.point_weights[index] * squared_distance).mean()

    def initialize(self, centroids: Tensor, labels: Tensor, z: Tensor) -> None:
        super().initialize(centroids, labels, z)
        if self.n_paced_epochs is not None:
            self.point_weights.fill_(1.0)  # the weights of self-pacing belong to other clusters

    def hold_labels(self) -> None:
        self.are_labels_kept = True

    def start_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @torch.no_grad()
    def end_epoch(self, z: Tensor) -> Reassignment:
        """Assign all rows of z (N, D), revive dead centroids, and update point weights and means."""
        is_early = self._epoch + 1 < self.initial_epochs
        is_initial = self.hold_assignments and (is_early or self.are_labels_kept)
        nearest = assign(z, self.centroids)
        labels, dead = nearest.labels, self._dead(nearest.labels)
        if is_initial:
            reassignment = self._compare(labels, dead)
        else:
            revived = dead[:0]
            if self.revive and len(dead) > 0:
                revived = revive_centroids(self.centroids, dead, z, nearest.squared_distance)
                labels = assign(z, self.centroids).labels
            reassignment = self._keep(labels, dead, revived)
        if self.n_paced_epochs is not None:
            squared_distance = squared_distances_to(z, self.centroids, self.assignments)
            progress = (self._epoch + 1) / self.n_paced_epochs
            self.point_weights.copy_(self_paced_weights(squared_distance, progress))
        if self.are_means:
            weights = self.point_weights if self.n_paced_epochs is not None else None
            self.centroids.copy_(cluster_means(z, self.assignments, self.centroids, weights))
        return reassignment


def revive_centroids(centroids: Tensor, dead: Tensor, z: Tensor, squared_distance: Tensor) -> Tensor:
    """Move dead centroids to the points farthest from their centroids, in place.

    Parameters
    ----------
    centroids : Tensor of shape (K, D)
    dead : Tensor of shape (M,), int64
        Indices of the centroids without a point.
    z : Tensor of shape (N, D)
    squared_distance : Tensor of shape (N,)
        To the nearest centroid.

    Returns
    -------
    Tensor of shape (at most M,), int64
        The centroids that were moved: with fewer distinct points than centroids, no point is left for some.
    """
    farthest = squared_distance.topk(len(dead))
    revived = dead[farthest.values > 0]
    centroids[revived] = z[farthest.indices[: len(revived)]]
    return revived


def self_paced_weights(squared_distance: Tensor, progress: float) -> Tensor:
    """Return the weight of each point in the self-paced loss of ASPC-DA (TKDE 2019).

    Points whose squared distance is at least the mean plus ``progress`` standard deviations are left out. The others
    have equal weights, divided by their fraction, so that the loss stays a mean over points; the authors' code divides
    by the fraction of the batch. It also begins one epoch later, with the mean alone after the first.

    Parameters
    ----------
    squared_distance : Tensor of shape (N,)
    progress : float in (0, 1]
        The part of the phase that has ended.

    Returns
    -------
    Tensor of shape (N,)
    """
    limit = squared_distance.mean() + progress * squared_distance.std(correction=0)
    counts = (squared_distance < limit).to(squared_distance.dtype)
    # Without any spread no point is below the mean: then all count.
    counts = counts if counts.any() else torch.ones_like(counts)
    return counts / counts.mean()


def cluster_means(z: Tensor, labels: Tensor, centroids: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weighted means (K, D) of the clusters, the minimum of the k-means loss over the centroids.

    Parameters
    ----------
    z : Tensor of shape (N, D)
    labels : Tensor of shape (N,), int64
    centroids : Tensor of shape (K, D)
        What a cluster without weight keeps.
    weights : Tensor of shape (N,), optional
        1 for all points by default.

    Returns
    -------
    float64 Tensor of shape (K, D)
    """
    sums = sums_and_sizes(z, labels, len(centroids), weights)
    means = sums[:, :-1] / sums[:, -1:].clamp(min=1e-12)
    return torch.where(sums[:, -1:] > 0, means, centroids.double())
