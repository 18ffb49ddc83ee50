"""Distances and nearest centroids, exact and on any device; no autograd.

No (N, K, D) tensor is ever made: ``|z - c|^2 = |z|^2 - 2 z.c + |c|^2`` needs one matrix product, and what is reported
as a distance is computed again from the difference to the one centroid that was chosen.
"""

# Shapes: N points, D dimensions, K clusters, R restarts, T trials.

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Numbers in the largest temporary matrix: 2 MiB in float32, which stays in the cache on a CPU. Eight times as many made
# the search for the nearest of 1,000 centroids half as fast.
CHUNK_NUMEL = 2**19


# More centroids than this are searched by groups.
_GROUPED = 256


# Below so many scores, calls cost more than what they do.
_FEW = 2**16


# Rows that are searched again at once, in float64.
_AGAIN_ROWS = 2**16


_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}


class Assignment(NamedTuple):
    """Nearest centroids: their indices ``labels`` (N,) int64, and the squared Euclidean ``distance`` to them (N,)."""

    labels: Tensor
    distance: Tensor


@torch.no_grad()
def nearest_centroids(z: Tensor, centroids: Tensor, n_nearest: int = 1) -> Tensor:
    """Return the indices of the nearest centroids, nearest first; of equally near ones, the lowest index.

    Exact, also far from the origin and between centroids that almost coincide: where the rounding of the matrix product
    could have decided, the row is searched again in float64, and in the last doubt by differences. Never in half
    precision: autocast is off inside.

    Parameters
    ----------
    z : Tensor of shape (N, D)
    centroids : Tensor of shape (K, D)
        Of the same floating-point type as ``z``.
    n_nearest : int
        At most K.

    Returns
    -------
    Tensor of shape (N, n_nearest), int64
    """
    if torch.is_autocast_enabled(z.device.type):
        with torch.autocast(z.device.type, enabled=False):
            return nearest_centroids(z, centroids, n_nearest)
    if z.dtype not in _INTEGER:
        z, centroids = z.float(), centroids.float()
    squares = centroids.square().sum(1, keepdim=True)  # (K, 1)
    scores_of, n_groups = _scores(centroids, squares, by_groups=z.device.type == "cpu")
    thresholds_of = _thresholds(centroids, squares, n_groups)
    chunks = torch.split(z, max(1, CHUNK_NUMEL // len(centroids)))

    def found_in(chunk: Tensor) -> tuple[Tensor, Tensor]:
        return _nearest_of_chunk(scores_of(chunk), thresholds_of(chunk), n_nearest, n_groups)

    if len(chunks) == 1:
        nearest, surplus = found_in(z)
    else:
        # Written to one place: what is kept of each chunk in between large matrices that come and go keeps the system
        # from taking those back, 1 MB a chunk with 10,000 centroids.
        nearest = torch.empty(n_nearest, len(z), dtype=torch.int64, device=z.device)
        surplus = z.new_empty(len(z))
        start = 0
        for chunk in chunks:
            stop = start + len(chunk)
            nearest[:, start:stop], surplus[start:stop] = found_in(chunk)
            start = stop
    nearest = nearest.T
    if len(centroids) == 1 or surplus.amin() > 0:  # nan is not above 0
        return nearest
    search = _nearest_by_difference if z.dtype == torch.float64 else nearest_centroids
    for rows in torch.split((~(surplus > 0)).nonzero()[:, 0], _AGAIN_ROWS):
        nearest[rows] = search(z[rows].double(), centroids.double(), n_nearest)
    return nearest


def _scores(centroids: Tensor, squares: Tensor, *, by_groups: bool) -> tuple[Callable[[Tensor], Tensor], int]:
    """Return the function that maps points (rows, D) to their scores (K, rows), less is nearer, and a number of groups.

    The score is ``|c|^2 - 2 z.c``: |z|^2 is the same for all centroids of a point and left out. Points along the rows
    make the minimum over centroids run over whole rows at once. Many centroids are in about sqrt(K) groups of equal
    size, and the scores that fill up the last one are the largest number there is.
    """
    K = len(centroids)
    if K <= _GROUPED or not by_groups:
        return lambda chunk: torch.addmm(squares, centroids, chunk.T, alpha=-2), 1
    n_groups = math.ceil(math.sqrt(K))
    # |c|^2 as one more dimension, where the points have a 1: addmm would first write it to the whole (K, rows).
    factors = torch.cat([-2 * centroids, squares], 1)

    def scores_of(chunk: Tensor) -> Tensor:
        scores = chunk.new_empty(n_groups * math.ceil(K / n_groups), len(chunk))
        scores[K:] = torch.finfo(chunk.dtype).max
        torch.mm(factors, F.pad(chunk, (0, 1), value=1.0).T, out=scores[:K])
        return scores

    return scores_of, n_groups


def _thresholds(centroids: Tensor, squares: Tensor, n_groups: int) -> Callable[[Tensor], Tensor]:
    """Return the function that gives the threshold (rows,) of points (rows, D).

    By half of that must two scores of a point differ for rounding not to have decided which is less. A score is off by
    at most ``(D + 5) * eps * (|z| + |c|)^2``: D + 1 products and their sums, and |c|^2; and by ``2^n_bits * eps`` of
    itself where an index takes its last bits. Two scores may each be off by that. ``(|z| + |c|)^2`` is at most
    ``2 * |z|^2 + 2 * |c|^2``.
    """
    K, D = centroids.shape
    n_bits = (max(n_groups, math.ceil(K / n_groups)) - 1).bit_length()
    unit = 8 * (D + 5 + 2**n_bits) * _matmul_eps(centroids.dtype)
    constant = unit * squares.amax()
    factor = centroids.new_full((D,), unit)
    return lambda chunk: torch.addmv(constant, chunk.square(), factor)


def _nearest_of_chunk(scores: Tensor, threshold: Tensor, n_nearest: int, n_groups: int) -> tuple[Tensor, Tensor]:
    """Find the smallest scores of each column of ``scores`` (n_groups * group size, rows), which are used up.

    Returns
    -------
    tuple of Tensor
        Their indices (n_nearest, rows), int64; and the ``surplus`` (rows,), above 0 where they are certain.
    """
    found: list[Tensor] = []
    surpluses: list[Tensor] = []
    lowest = _lowest if n_groups == 1 else partial(_lowest_by_groups, n_groups=n_groups)
    for _ in range(n_nearest - 1):
        index, surplus = lowest(scores.clone(), threshold)
        scores.scatter_(0, index[None], torch.finfo(scores.dtype).max)
        found.append(index)
        surpluses.append(surplus)
    index, surplus = lowest(scores, threshold)
    if not found:
        return index[None], surplus
    return torch.stack([*found, index]), torch.stack([*surpluses, surplus]).amin(0)


def _lowest_by_groups(scores: Tensor, threshold: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Return what ``_lowest`` does: first which group, then which of it, so that most scores are read only once."""
    groups = scores.view(n_groups, -1, scores.shape[1])  # (G, K / G, rows)
    group, surplus = _lowest(groups.amin(1), threshold)
    members = groups.gather(0, group.expand(1, *groups.shape[1:]))[0]
    index, surplus_inside = _lowest(members, threshold)
    return group * groups.shape[1] + index, torch.minimum(surplus, surplus_inside)


def _lowest(scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index (rows,) of the smallest score in each column of ``scores`` (K, rows), and its surplus (rows,).

    The scores are used up. The surplus is above 0 if no other score is within half the ``threshold`` (rows,) of the
    smallest: of the differences to it, cut off at the threshold, it contributes one threshold itself, any such other at
    least half of one more.
    """
    is_simple = scores.device.type != "cpu" or scores.numel() < _FEW
    lowest, index = scores.min(0) if is_simple else _packed_min(scores)
    close = scores.sub_(lowest.add_(threshold)).clamp_(max=0).sum(0)
    return index, close.add_(threshold, alpha=1.25)


def _packed_min(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``scores.min(0)`` does, up to the last bits of the scores, which it overwrites.

    torch looks for an index one number at a time, but for a minimum at many. So the last bits of each score are made
    its index, and the minimum brings it along.
    """
    K = len(scores)
    mask = 2 ** (K - 1).bit_length() - 1
    bits = scores.view(_INTEGER[scores.dtype])
    bits.bitwise_and_(~mask).bitwise_or_(torch.arange(K, dtype=bits.dtype)[:, None])
    lowest = scores.amin(0)
    index = lowest.view(bits.dtype) & mask
    return lowest, index.clamp_(max=K - 1).long()  # the bits of a nan may be anything


def _nearest_by_difference(z: Tensor, centroids: Tensor, n_nearest: int) -> Tensor:
    """Return what ``nearest_centroids`` does, from sums that have the same bits for equal points."""
    n_rows = max(1, CHUNK_NUMEL // centroids.numel())
    parts = [(rows[:, None] - centroids).square().sum(2) for rows in torch.split(z, n_rows)]
    return torch.cat([distance.argsort(dim=1, stable=True)[:, :n_nearest] for distance in parts])


def _matmul_eps(dtype: torch.dtype) -> float:
    """Return the rounding unit of matrix products, which users may have lowered for speed in float32."""
    is_lowered = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return torch.finfo(torch.bfloat16 if is_lowered else dtype).eps


def full_precision_addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return ``bias - 2 * a @ b``, which is not worth having in the half precision that autocast would choose."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.addmm(bias, a, b, alpha=-2)


@torch.no_grad()
def assign(z: Tensor, centroids: Tensor) -> Assignment:
    """Return each point's nearest centroid and the squared distance to it; shapes as in ``nearest_centroids``."""
    index = nearest_centroids(z, centroids)[:, 0]
    return Assignment(index, squared_distances_to(z, centroids, index))


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
    ones = z.new_ones(len(z), 1)
    points = torch.cat([z, ones], 1).double()  # (N, D + 1)
    points = points if weights is None else points * weights[:, None]
    return points.new_zeros(n_clusters, points.shape[1]).index_add_(0, labels, points)
