"""Nearest centroids, distances to them, and sums over clusters; exact, on any device, without autograd.

No (N, K, D) tensor is ever made: ``|z - c|^2 = |z|^2 - 2 z.c + |c|^2`` needs one matrix product to find the nearest
centroid. A distance that is returned is computed from the difference to the one centroid that was chosen.
"""

# Shapes: N points, D dimensions, K clusters.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dkm.runtime.devices import matmul_precision

# Numbers in the largest temporary matrix on a CPU: 1 MiB in float32, which stays in the second-level cache.
CHUNK_NUMEL = 2**18
_DEVICE_CHUNK_NUMEL = 2**26
# A product (K, D) x (D, rows) of fewer rows is slow, however many centroids there are.
_LEAST_ROWS = 64
# At most this many N * K * D are searched by differences in float64. On a CPU the product is faster beyond. On other
# devices the limit is high: the check of a product waits for the device, which a training step must not.
_FEW_NUMEL, _DEVICE_FEW_NUMEL = 2**18, 2**26


@dataclass(frozen=True, eq=False)
class Assignment:
    """Points assigned to their nearest centroids."""

    labels: Tensor  # (N,) int64
    squared_distance: Tensor  # (N,) to the centroid of the cluster
    centroids: Tensor  # (K, D)

    @cached_property
    def inertia(self) -> float:
        """The sum of the squared distances, in float64."""
        return self.squared_distance.sum(dtype=torch.float64).item()


def nearest_centroids(z: Tensor, centroids: Tensor, n_nearest: int = 1, *, norms: Tensor | None = None) -> Tensor:
    """Return the indices of the nearest centroids, nearest first; of equally near ones, the lowest index.

    Exact, also far from the origin and between centroids that almost coincide. Few points and centroids, as in a
    training step, are compared by differences in float64. Else a matrix product decides, and rows in which its rounding
    could have changed the result are searched again in float64, in the last doubt by differences. On a GPU only the
    second way waits for the device. Never in half precision: autocast is off inside.

    Parameters
    ----------
    z : Tensor of shape (N, D)
    centroids : Tensor of shape (K, D)
        Of the same floating-point type as ``z``.
    n_nearest : int
        At most K.
    norms : Tensor of shape (N,), optional
        ``|z|``, computed once for many searches of the same points.

    Returns
    -------
    Tensor of shape (N, n_nearest), int64
    """
    z, centroids = z.detach(), centroids.detach()
    few_numel = _FEW_NUMEL if z.device.type == "cpu" else _DEVICE_FEW_NUMEL
    if z.numel() * len(centroids) <= few_numel:
        return _nearest_by_differences(z, centroids, n_nearest)
    if torch.is_autocast_enabled(z.device.type):
        with torch.autocast(z.device.type, enabled=False):
            return nearest_centroids(z, centroids, n_nearest, norms=norms)
    # Products may be rounded more than float32, which users can choose for speed.
    is_coarse = z.dtype != torch.float64 and matmul_precision() != "highest"
    dtype = torch.float64 if is_coarse else torch.promote_types(z.dtype, torch.float32)
    nearest, counts = _nearest_by_products(z, centroids.to(dtype), n_nearest, norms)
    doubtful = (counts != 1).any(0).nonzero()[:, 0]
    if len(doubtful) > 0:
        search = _nearest_by_differences if dtype == torch.float64 else nearest_centroids
        nearest[doubtful] = search(z.index_select(0, doubtful).double(), centroids.double(), n_nearest)
    return nearest


def _nearest_by_products(z: Tensor, centroids: Tensor, n_nearest: int, norms: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the indices (N, n_nearest) of the smallest scores ``|c|^2 - 2 z.c``, and counts (n_nearest, N).

    A count is the number of centroids whose score is as small, up to rounding: 1 where the index is certain.

    torch finds a minimum on a CPU with vector instructions, but its index one number at a time. So all scores that
    rounding cannot tell from the minimum become ones, the others zeros, and one product with a row of ones and a row of
    indices counts and locates them. Points along the columns keep every step on contiguous memory.
    """
    N, D = z.shape
    K, dtype = len(centroids), centroids.dtype
    squares = centroids.square().sum(1, keepdim=True)  # (K, 1)
    # D products and their sum are off by at most D * eps / 2 * |c| * |z|, so a score by (D + 4) * eps / 2 times
    # |c| * (|c| + 2 * |z|), and the difference of two scores by twice as much.
    largest = squares.amax().sqrt()
    factor = (D + 4) * torch.finfo(dtype).eps * largest
    ones_and_indices = torch.stack([centroids.new_ones(K), torch.arange(K, dtype=dtype, device=z.device)])
    counts_and_indices = centroids.new_empty(n_nearest, 2, N)
    n_rows = max(_LEAST_ROWS, (CHUNK_NUMEL if z.device.type == "cpu" else _DEVICE_CHUNK_NUMEL) // K)
    for start in range(0, N, n_rows):
        rows = slice(start, start + n_rows)
        points = z[rows].to(dtype)
        lengths = points.square().sum(1).sqrt_() if norms is None else norms[rows].to(dtype)
        error = factor * torch.add(largest, lengths, alpha=2)  # (rows,)
        scores = torch.addmm(squares, centroids, points.T, alpha=-2)  # (K, rows)
        for rank in range(n_nearest):
            if rank > 0:  # exclude the previous one, whose index may be too large where it is not certain
                previous = counts_and_indices[rank - 1, 1:, rows].long().clamp_(max=K - 1)
                scores.scatter_(0, previous, torch.finfo(dtype).max)
            limit = scores.amin(0).add_(error)
            is_close = (scores if rank == n_nearest - 1 else scores.clone()).le_(limit)
            counts_and_indices[rank, :, rows] = ones_and_indices @ is_close
    # Points that are not numbers have a count of 0.
    return counts_and_indices[:, 1].T.long(), counts_and_indices[:, 0]


def _nearest_by_differences(z: Tensor, centroids: Tensor, n_nearest: int) -> Tensor:
    """Return what ``nearest_centroids`` does, in float64, with the same bits for equal points."""
    n_rows = max(1, CHUNK_NUMEL // len(centroids))
    if len(z) > n_rows:
        return torch.cat([_nearest_by_differences(rows, centroids, n_nearest) for rows in torch.split(z, n_rows)])
    distance = torch.cdist(z.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if n_nearest == 1:
        return distance.argmin(1, keepdim=True)
    return distance.argsort(dim=1, stable=True)[:, :n_nearest]


@torch.no_grad()
def assign(z: Tensor, centroids: Tensor) -> Assignment:
    """Assign each point to its nearest centroid; shapes as in ``nearest_centroids``."""
    labels = nearest_centroids(z, centroids)[:, 0]
    return Assignment(labels, squared_distances_to(z, centroids, labels), centroids.detach())


def squared_distances_to(z: Tensor, centroids: Tensor, index: Tensor) -> Tensor:
    """Return the squared distance (N,) of each point z (N, D) to its own centroid ``centroids[index]``."""
    n_rows = max(1, CHUNK_NUMEL // z.shape[1])
    parts = zip(torch.split(z, n_rows), torch.split(index, n_rows), strict=True)
    return torch.cat([(rows - centroids[picks]).square().sum(1) for rows, picks in parts])


def means_of_parts(z: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Return the means (K, D) of the parts of z (N, D) with ``labels`` (N,).

    An empty part gets one of the points that are farthest from the means of theirs.
    """
    sums = sums_and_sizes(z, labels, n_clusters)
    means = (sums[:, :-1] / sums[:, -1:].clamp(min=1)).to(z.dtype)
    empty = (sums[:, -1] == 0).nonzero()[:, 0]
    means[empty] = z[squared_distances_to(z, means, labels).topk(len(empty)).indices]
    return means


def sums_and_sizes(z: Tensor, labels: Tensor, n_clusters: int, weights: Tensor | None = None) -> Tensor:
    """Return the sums of the parts of z (N, D) with ``labels`` (N,), and in a last column their sizes.

    Parameters
    ----------
    weights : Tensor of shape (N,), optional
        How much each point counts; 1 without them.

    Returns
    -------
    float64 Tensor of shape (K, D + 1)
    """
    points = torch.cat([z, z.new_ones(len(z), 1)], 1).double()  # (N, D + 1)
    points = points if weights is None else points * weights[:, None]
    # Unlike index_add_ deterministic on a GPU too, and twice as fast on a CPU for few dimensions.
    return points.new_zeros(n_clusters, points.shape[1]).index_put_((labels,), points, accumulate=True)
