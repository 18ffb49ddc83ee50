"""The clustering losses as functions of points and centroids; they fit into any training loop.

The k-means loss with a neural embedding: Yang et al., "Towards K-means-friendly spaces" (arXiv:1610.04794); Fard et
al., "Deep k-means" (arXiv:1806.10069).
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dkm.clustering.assignment import nearest_centroids


def kmeans_loss(z: Tensor, centroids: Tensor, assignments: Tensor | None = None) -> Tensor:
    """Return the mean over points of the squared Euclidean distance to the nearest centroid.

    ``1/N * sum_n min_k |z_n - c_k|^2``: summed over the D dimensions, averaged over the N points. The nearest centroids
    are found without gradient (where the minimum is attained, the gradient of the minimum is that of the chosen term)
    by ``nearest_centroids``: exactly and, for a batch on a GPU, without waiting for the device. The distance is then
    that to one centroid per point. No (N, K, D) tensor is made.

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
    if assignments is None:
        assignments = nearest_centroids(z, centroids)[:, 0]
    # An autograd.Function with a backward pass of its own was no faster at any size, and slower for a small batch.
    return F.mse_loss(z, centroids.index_select(0, assignments), reduction="sum") / len(z)


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


def squared_distances(z: Tensor, centroids: Tensor) -> Tensor:
    """Return the squared distances (N, K), at least in float32.

    By differences, not by |z|^2 - 2 z.c + |c|^2, whose rounding a large alpha would blow up. The forward pass makes no
    (N, K, D) tensor, nor does the backward pass on a CPU; that of torch's ``cdist`` on a GPU makes one.
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
