"""The clustering losses: one module per method, holding its centroids and all its state.

``kmeans_loss`` and ``KMeansLoss`` stand on their own and fit into any training loop. ``KMeansClustering`` adds what the
trainer needs: assignments that are held for an epoch, and dead centroids that are found and revived.

The k-means loss with a neural embedding: Yang et al., "Towards K-means-friendly spaces" (arXiv:1610.04794); Fard et
al., "Deep k-means" (arXiv:1806.10069). Assignments held for an epoch: Guo et al., ASPC-DA (TKDE 2019). Holding them
breaks a feedback: a point that follows whichever centroid just moved towards it, which at large weights collapses
everything into a few clusters.
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkm.kmeans import assign, kmeans, nearest_centroids

# Rows of as many numbers torch adds up on all cores.
_WIDE = 16
# For fewer rows, copying them costs more than it saves.
_MANY = 2**13


def kmeans_loss(z: Tensor, centroids: Tensor, assignments: Tensor | None = None) -> Tensor:
    """Return the mean over points of the squared Euclidean distance to the nearest centroid.

    ``1/N * sum_n min_k |z_n - c_k|^2``: summed over the D dimensions, averaged over the N points. The nearest centroids
    are found without gradient (where the minimum is attained, the gradient of the minimum is that of the chosen term)
    by one matrix product; the distance is then that to one centroid per point. No (N, K, D) tensor is made.

    Parameters
    ----------
    z : Tensor of shape (N, D), floating point
        Half precision is computed in float32, also under autocast.
    centroids : Tensor of shape (K, D)
        Of the same type and device.
    assignments : Tensor of shape (N,), int64, optional
        Centroids to use instead of the nearest ones.

    Returns
    -------
    Tensor, scalar
        Differentiable in ``z`` and ``centroids``: ``2/N * (z_n - c_k(n))`` for a point, and ``2/N * sum (c_k - z_n)``
        over the points of a centroid.

    Raises
    ------
    ValueError
        If the shapes do not fit, there are no points, or no centroids; the message has both shapes.
    """
    if z.ndim != 2 or centroids.ndim != 2 or z.shape[1] != centroids.shape[1] or 0 in (*z.shape, *centroids.shape):
        raise ValueError(
            f"kmeans_loss: expected z (N, D) and centroids (K, D) with the same D and N, K, D of 1 or more, "
            f"got z {tuple(z.shape)} and centroids {tuple(centroids.shape)}"
        )
    if assignments is not None and assignments.shape != z.shape[:1]:
        raise ValueError(
            f"kmeans_loss: expected one assignment per point, got z {tuple(z.shape)} and "
            f"assignments {tuple(assignments.shape)}"
        )
    if z.dtype != centroids.dtype or z.dtype in (torch.float16, torch.bfloat16):
        common = torch.promote_types(torch.promote_types(z.dtype, centroids.dtype), torch.float32)
        z, centroids = z.to(common), centroids.to(common)
    if torch.is_autocast_enabled(z.device.type):
        with torch.autocast(z.device.type, enabled=False):
            return _loss(z, centroids, assignments)
    return _loss(z, centroids, assignments)


def _loss(z: Tensor, centroids: Tensor, assignments: Tensor | None) -> Tensor:
    if assignments is None:
        assignments = nearest_centroids(z.detach(), centroids.detach())[:, 0]
    # Four operations whose derivatives torch has in C++: a function of our own with a backward in Python took longer at
    # most sizes. What is kept for it are inputs and one centroid per point.
    is_slow = z.device.type == "cpu" and len(z) >= _MANY and centroids.shape[1] < _WIDE
    chosen = _Rows.apply(centroids, assignments) if is_slow else centroids.index_select(0, assignments)
    return F.mse_loss(z, chosen, reduction="sum") / len(z)


class _Rows(torch.autograd.Function):
    """``index_select(0, index)`` of rows of few numbers, whose derivative torch sums one row at a time on one core.

    Rows of 16 numbers it sums on all cores, many numbers at once: with 70,000 points of 10 dimensions, in half the
    time though they are copied first.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = table.shape
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        K, D = ctx.shape
        wide = F.pad(gradient, (0, _WIDE - D))
        return wide.new_zeros(K, _WIDE).index_add(0, index, wide)[:, :D], None


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

    def forward(self, z: Tensor) -> Tensor:
        """Return ``kmeans_loss(z, self.centroids)`` for z (N, D)."""
        return kmeans_loss(z, self.centroids)

    @torch.no_grad()
    def initialize(self, z: Tensor, *, n_init: int = 20, seed: int = 0) -> Tensor:
        """Set the centroids by k-means on z (N, D), N >= K; return the labels (N,)."""
        result = kmeans(z, len(self.centroids), n_init=n_init, seed=seed)
        self.centroids.copy_(result.centroids)
        return result.labels

    @torch.no_grad()
    def assign(self, z: Tensor) -> Tensor:
        """Return the nearest centroid of each point of z (N, D): (N,) int64."""
        return nearest_centroids(z, self.centroids)[:, 0]

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

    Attributes
    ----------
    assignments : Tensor of shape (N,), int64
        Those of the last clean pass.
    """

    assignments: Tensor

    def __init__(
        self, n_clusters: int, latent_dim: int, n_samples: int, *, hold_assignments: bool, revive: bool
    ) -> None:
        super().__init__(n_clusters, latent_dim)
        self.hold_assignments = hold_assignments
        self.revive = revive
        self.register_buffer("assignments", torch.zeros(n_samples, dtype=torch.int64))

    def loss(self, z: Tensor, index: Tensor) -> Tensor:
        """Return the loss of a batch: z (B, D), ``index`` (B,) its positions in the data set."""
        return kmeans_loss(z, self.centroids, self.assignments[index] if self.hold_assignments else None)

    @torch.no_grad()
    def reassign(self, z: Tensor) -> Reassignment:
        """Assign the clean embedding z (N, D) of the whole data set, and revive centroids without a point."""
        labels, distance = assign(z, self.centroids)
        sizes = torch.bincount(labels, minlength=len(self.centroids))
        dead = (sizes == 0).nonzero()[:, 0]
        revived = dead[:0]
        if self.revive and len(dead) > 0:
            worst = distance.topk(len(dead))
            revived = dead[worst.values > 0]  # fewer distinct points than centroids: nothing left to serve
            self.centroids[revived] = z[worst.indices[: len(revived)]]
            labels = self.assign(z)
        change = (labels != self.assignments).double().mean().item()
        self.assignments.copy_(labels)
        return Reassignment(change, len(dead), revived)
