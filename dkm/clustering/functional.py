"""The clustering losses as functions of points and centroids; they fit into any training loop.

The k-means loss with a neural embedding: Yang et al., "Towards K-means-friendly spaces" (arXiv:1610.04794); Fard et
al., "Deep k-means" (arXiv:1806.10069).
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dkm.clustering.assignment import nearest_centroids

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
    if assignments is not None and assignments.shape != z.shape[:1]:
        raise ValueError(
            f"kmeans_loss: expected one assignment per point, got z {tuple(z.shape)} and "
            f"assignments {tuple(assignments.shape)}"
        )
    z, centroids = in_full_precision(z, centroids)
    if torch.is_autocast_enabled(z.device.type):
        with torch.autocast(z.device.type, enabled=False):
            return _loss(z, centroids, assignments)
    return _loss(z, centroids, assignments)


def in_full_precision(z: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in their common type, at least float32.

    Raises
    ------
    ValueError
        If the shapes do not fit; the message has both.
    """
    if z.ndim != 2 or centroids.ndim != 2 or z.shape[1] != centroids.shape[1] or 0 in (*z.shape, *centroids.shape):
        raise ValueError(
            f"kmeans_loss: expected z (N, D) and centroids (K, D) with the same D and N, K, D of 1 or more, "
            f"got z {tuple(z.shape)} and centroids {tuple(centroids.shape)}"
        )
    if z.dtype != centroids.dtype or z.dtype in (torch.float16, torch.bfloat16):
        common = torch.promote_types(torch.promote_types(z.dtype, centroids.dtype), torch.float32)
        return z.to(common), centroids.to(common)
    return z, centroids


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
    def forward(table: Tensor, index: Tensor) -> Tensor:
        return table.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, index = inputs
        ctx.save_for_backward(index)
        ctx.shape = table.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        K, D = ctx.shape
        wide = F.pad(gradient, (0, _WIDE - D))
        return wide.new_zeros(K, _WIDE).index_add(0, index, wide)[:, :D], None


def squared_distances(z: Tensor, centroids: Tensor) -> Tensor:
    """Return the squared distances (N, K), at least in float32.

    By differences, not by |z|^2 - 2 z.c + |c|^2, whose rounding a large alpha would blow up; without an (N, K, D)
    tensor all the same.
    """
    z, centroids = in_full_precision(z, centroids)
    with torch.autocast(z.device.type, enabled=False):
        return torch.cdist(z, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()


def soft_kmeans_loss(z: Tensor, centroids: Tensor, alpha: float | Tensor) -> Tensor:
    """Return the k-means loss of DKM, with a softmin instead of the minimum.

    ``1/N * sum_n sum_k w_nk * |z_n - c_k|^2`` with ``w_n = softmax_k(-alpha * |z_n - c_k|^2)``: summed over the D
    dimensions, averaged over the N points. The gradient flows through the distances and the weights, as in the
    published code (``compgraph.py`` of MaziarMF/deep-k-means); arXiv:1806.10069.

    Parameters
    ----------
    z : Tensor of shape (N, D), floating point
        Half precision is computed in float32, also under autocast.
    centroids : Tensor of shape (K, D)
    alpha : float or scalar Tensor, above 0
        Inverse temperature, in units of 1 / squared distance; the larger, the nearer to ``kmeans_loss``.

    Returns
    -------
    Tensor, scalar
        Differentiable in ``z`` and ``centroids``.

    Raises
    ------
    ValueError
        As ``kmeans_loss``.
    """
    distance = squared_distances(z, centroids)
    return (distance * torch.softmax(-alpha * distance, 1)).sum() / len(z)
