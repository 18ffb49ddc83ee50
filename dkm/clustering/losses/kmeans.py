"""The k-means loss, as a function, as a module, and as the trainer needs it.

``kmeans_loss`` and ``KMeansLoss`` stand on their own and fit into any training loop. ``KMeansClustering`` adds what the
trainer needs: assignments that are held for an epoch, and dead centroids that are found and revived. The other methods
are modules of the same kind.

The k-means loss with a neural embedding: Yang et al., "Towards K-means-friendly spaces" (arXiv:1610.04794); Fard et
al., "Deep k-means" (arXiv:1806.10069). Assignments held for an epoch: Guo et al., ASPC-DA (TKDE 2019). Holding them
breaks a feedback: a point that follows whichever centroid just moved towards it, which at large weights collapses
everything into a few clusters.
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dkm.clustering.assignment import assign, nearest_centroids, squared_distances_to, sums_and_sizes
from dkm.clustering.functional import in_full_precision, kmeans_loss
from dkm.clustering.lloyd import kmeans


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

        ``assignments`` (N,), integers, are what ``assign`` returned before the epoch, say; the nearest by default.
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


class Reassignment(NamedTuple):
    """What a clean pass over the data found.

    ``change``, the fraction of the labels that differ from the last pass; ``n_dead`` centroids without a point;
    ``revived`` (M,), the indices of those that were moved.
    """

    change: float
    n_dead: int
    revived: Tensor


class KMeansClustering(KMeansLoss):
    """The k-means loss inside the trainer.

    Parameters
    ----------
    hold_assignments : bool
        Use the assignments of the clean pass before the epoch, else the nearest centroid in each batch.
    revive : bool
        Move dead centroids to the points that are served worst.
    initial_epochs : int
        Keep the assignments that the phase starts with for so many epochs, and revive nothing meanwhile.
    centroids : {"gradient", "mean", "fixed"}
        Learned by the optimizer | set after each clean pass to the means of the points that the loss counts, which
        minimize it in closed form | left as they are. ASPC-DA's released code fixes them.
    n_epochs : int, optional
        With it, points are self-paced as in ASPC-DA: after ``epoch`` epochs those whose squared distance is at least
        the mean plus ``epoch / n_epochs`` standard deviations of all are left out of the loss. (The authors' code
        begins one epoch later, with the mean alone after the first.) It is divided by the fraction of the data that
        counts (the authors' code: of the batch), so that it stays a mean over points.
    norm_weight : float
        Of ``-|z|^2`` in the loss. With 1 it is that of SR-K-means, ``mean(|z - c|^2 - |z|^2)``, which an embedding
        cannot lower by shrinking towards the origin.

    Attributes
    ----------
    assignments : Tensor of shape (N,), int64
        Those of the last clean pass.
    point_weights : Tensor of shape (N,)
        Of self-paced points: 0, or 1 / the fraction of the data that counts. Else of shape (0,).
    has_running_means : bool
        Whether ``after_step`` moves the centroids, and the optimizer does not.
    """

    assignments: Tensor
    point_weights: Tensor
    has_running_means = False

    def __init__(
        self,
        n_clusters: int,
        latent_dim: int,
        n_samples: int,
        *,
        hold_assignments: bool,
        revive: bool,
        initial_epochs: int = 1,
        centroids: str = "gradient",
        n_epochs: int | None = None,
        norm_weight: float = 0.0,
    ) -> None:
        super().__init__(n_clusters, latent_dim)
        self.hold_assignments = hold_assignments
        self.revive = revive
        self.initial_epochs = initial_epochs
        self.norm_weight = norm_weight
        self._are_means = centroids == "mean"
        self._n_epochs = n_epochs
        self._epoch = 0
        self.centroids.requires_grad_(centroids == "gradient")
        self.register_buffer("assignments", torch.zeros(n_samples, dtype=torch.int64))
        self.register_buffer("point_weights", torch.ones(n_samples if n_epochs is not None else 0))

    def start(self, z: Tensor) -> None:
        """Take notice that centroids and labels were set to clusters of the clean embedding z (N, D).

        At the beginning of the joint phase, and where it clusters anew.
        """
        self.point_weights.fill_(1.0)  # those of self-pacing are of other clusters

    def start_epoch(self, epoch: int) -> None:
        """Take notice that a joint epoch begins, or goes on after a restart; ``epoch`` have ended before."""
        self._epoch = epoch

    def loss(self, z: Tensor, index: Tensor) -> Tensor:
        """Return the loss of a batch: z (B, D), ``index`` (B,) its positions in the data set."""
        assignments = self.assignments[index] if self.hold_assignments else None
        if self._n_epochs is None:
            loss = kmeans_loss(z, self.centroids, assignments)
            return loss - self.norm_weight * z.float().square().sum(1).mean() if self.norm_weight else loss
        z, centroids = in_full_precision(z, self.centroids)
        distance = (z - centroids[assignments]).square().sum(1)  # (B,)
        if self.norm_weight:
            distance = distance - self.norm_weight * z.square().sum(1)
        return (self.point_weights[index] * distance).mean()

    def is_refresh_due(self, step: int) -> bool:
        """Whether ``refresh`` is to be called before this step of the joint phase, from 0."""
        return False

    def refresh(self, z: Tensor) -> None:
        """Compute what is held for some steps from the clean embedding z (N, D) of all data."""

    def after_step(self, z: Tensor) -> None:
        """Move the centroids after an optimizer step: z (B, D), this rank's share of the batch encoded anew."""

    @torch.no_grad()
    def reassign(self, z: Tensor) -> Reassignment:
        """Assign the clean embedding z (N, D) of the whole data set, and revive centroids without a point."""
        is_initial = self.hold_assignments and self._epoch + 1 < self.initial_epochs
        labels, distance = assign(z, self.centroids)
        sizes = torch.bincount(labels, minlength=len(self.centroids))
        dead = (sizes == 0).nonzero()[:, 0]
        revived = dead[:0]
        if self.revive and len(dead) > 0 and not is_initial:
            worst = distance.topk(len(dead))
            revived = dead[worst.values > 0]  # fewer distinct points than centroids: nothing left to serve
            self.centroids[revived] = z[worst.indices[: len(revived)]]
            labels = self.assign(z)
        change = (labels != self.assignments).double().mean().item()
        if not is_initial:
            self.assignments.copy_(labels)
        if self._n_epochs is not None:
            self._pace(z, self._n_epochs)
        if self._are_means:
            self._set_to_means(z)
        return Reassignment(change, len(dead), revived)

    def _pace(self, z: Tensor, n_epochs: int) -> None:
        distance = squared_distances_to(z, self.centroids, self.assignments)
        limit = distance.mean() + (self._epoch + 1) / n_epochs * distance.std(correction=0)
        counts = (distance < limit).to(self.point_weights.dtype)
        # Without any spread no point is below the mean: then all count.
        counts = counts if counts.any() else torch.ones_like(counts)
        self.point_weights.copy_(counts / counts.mean())

    def _set_to_means(self, z: Tensor) -> None:
        """Minimize the loss over the centroids; one without a point that counts stays."""
        weights = self.point_weights if len(self.point_weights) > 0 else None
        sums = sums_and_sizes(z, self.assignments, len(self.centroids), weights)
        means = sums[:, :-1] / sums[:, -1:].clamp(min=1e-12)
        self.centroids.copy_(torch.where(sums[:, -1:] > 0, means, self.centroids.double()))
