"""k-means on tensors: k-means++ and Lloyd's iterations from several starts, on any device, without autograd.

The differentiable loss is ``dkm.clustering.functional.kmeans_loss``.

Sources: Lloyd (1982); k-means++ (Arthur and Vassilvitskii, 2007), greedy with ``2 + log(K)`` trials and with empty
clusters moved to the points farthest from their centroid, as in scikit-learn.
"""

# Shapes: N points, D dimensions, K clusters, T trials.

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dkm.clustering.assignment import (
    CHUNK_NUMEL,
    Assignment,
    assign,
    nearest_centroids,
    squared_distances_to,
    sums_and_sizes,
)

log = logging.getLogger(__name__)

# Numbers whose running sums are one matrix product.
_BLOCK = 256
MAX_ITERATIONS = 300
# Lloyd stops when the squared movement of the centroids is below this fraction of the data's variance (scikit-learn's
# default).
TOLERANCE = 1e-4


@torch.no_grad()
def kmeans(z: Tensor, n_clusters: int, *, n_init: int = 20, init: str = "k-means++", seed: int = 0) -> Assignment:
    """Cluster ``z`` by k-means and keep the restart with the lowest inertia; see ``kmeans_restarts``."""
    return lowest_inertia(kmeans_restarts(z, n_clusters, n_init=n_init, init=init, seed=seed))


@torch.no_grad()
def kmeans_restarts(
    z: Tensor, n_clusters: int, *, n_init: int = 20, init: str = "k-means++", seed: int = 0
) -> list[Assignment]:
    """Cluster ``z`` by k-means from ``n_init`` starts.

    The same input and seed give the same bits on the same device with the same number of threads. If there are fewer
    distinct points than clusters, some clusters stay empty, and a warning is logged.

    Parameters
    ----------
    z : Tensor of shape (N, D), floating point
        N >= n_clusters, finite. Half precision is computed in float32.
    n_init : int
        At least 1.
    init : {"k-means++", "random"}
        ``random`` starts from distinct random points.

    Returns
    -------
    list of Assignment
        One per start, with its centroids, as ``assign`` returns it.

    Raises
    ------
    ValueError
        If there are more clusters than points, or a value that is nan or inf, or for another ``n_init`` or ``init``.
    """
    N = len(z)
    if not 1 <= n_clusters <= N:
        raise ValueError(f"n_clusters={n_clusters}: expected 1 to n_samples={N}")
    if n_init < 1:
        raise ValueError(f"n_init={n_init}: expected 1 or more starts; the default is n_init=20")
    if init not in _STARTS:
        raise ValueError(f"init={init!r}: expected one of {', '.join(_STARTS)}; the default is init='k-means++'")
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    n_non_finite = int((~z.isfinite()).sum())
    if n_non_finite > 0:
        raise ValueError(
            f"k-means: {n_non_finite} of {z.numel()} values are nan or inf; expected finite values; remove these "
            "points or replace the values"
        )
    generator = torch.Generator().manual_seed(seed)
    origin = z.mean(0)
    centered = z - origin  # scores round well near the origin
    tolerance = TOLERANCE * centered.var(0, correction=0).mean().item()
    start = _STARTS[init]
    results: list[Assignment] = []
    for _ in range(n_init):
        centroids = _lloyd(centered, start(centered, n_clusters, generator), tolerance) + origin
        results.append(assign(z, centroids))
    n_used = int(torch.bincount(lowest_inertia(results).labels).count_nonzero())
    if n_used < n_clusters:
        log.warning("k-means: only %d of %d clusters have points; there may be duplicate points", n_used, n_clusters)
    return results


def lowest_inertia(results: Sequence[Assignment]) -> Assignment:
    """Return the restart with the lowest inertia, the first of equal ones."""
    return min(results, key=lambda result: result.inertia)


def most_even(results: Sequence[Assignment], slack: float) -> Assignment:
    """Return the restart with the most even cluster sizes among those that hardly differ in inertia.

    k-means on an embedding has many local optima of nearly the same inertia. In the bad ones two classes share a
    centroid and another class is halved, which shows in the sizes.

    Parameters
    ----------
    slack : float
        Restarts whose inertia is above the lowest by at most this fraction of it take part; with 0 the lowest wins.
    """
    lowest = lowest_inertia(results)
    if slack == 0:
        return lowest
    ties = [result for result in results if result.inertia <= lowest.inertia * (1 + slack)]
    return max(ties, key=lambda result: (_evenness(result), -result.inertia))


def _evenness(result: Assignment) -> float:
    """Return the entropy of the cluster sizes."""
    share = torch.bincount(result.labels, minlength=len(result.centroids)).double() / len(result.labels)
    return float(torch.special.entr(share).sum())


def _random_points(z: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    return z[torch.randperm(len(z), generator=generator)[:n_clusters].to(z.device)]


def _plus_plus(z: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Draw starting centroids (K, D): each next one is the best of T points drawn in proportion to distance^2.

    In float64: within groups that lie far apart, float32 would draw by rounding errors of ``|z|^2 - 2 z.c + |c|^2``.
    """
    N, D = z.shape
    T = 2 + int(math.log(n_clusters))
    chunks = torch.split(z, max(1, CHUNK_NUMEL // D))
    norms = [chunk.double().square().sum(1) for chunk in chunks]

    def squared_distances(picks: Tensor) -> Tensor:  # (M,) -> (M, N)
        points = z[picks].double()
        squares = points.square().sum(1, keepdim=True)
        parts = [
            torch.addmm(squares + norm, points, chunk.double().T, alpha=-2)
            for chunk, norm in zip(chunks, norms, strict=True)
        ]
        return torch.cat(parts, 1).clamp_(min=0)

    pick = torch.randint(N, (1,), generator=generator).to(z.device)
    chosen = [pick]
    closest = squared_distances(pick)  # (1, N)
    for _ in range(1, n_clusters):
        mass = _running_sums(closest)[0]  # (N,)
        draws = torch.rand(T, generator=generator, dtype=torch.float64).to(z.device) * mass[-1]
        trials = torch.searchsorted(mass, draws, right=True).clamp_(max=N - 1)  # (T,)
        reach = torch.minimum(squared_distances(trials), closest)  # (T, N)
        best = reach.sum(1).argmin(0, keepdim=True)
        chosen.append(trials[best])
        closest = reach[best]
    return z[torch.cat(chosen)]


_STARTS = {"k-means++": _plus_plus, "random": _random_points}


def _running_sums(values: Tensor) -> Tensor:
    """Return ``cumsum(1)`` of values (R, N). That of torch is not deterministic on a GPU."""
    return values.cumsum(1) if values.device.type == "cpu" else _sums_by_products(values)


def _sums_by_products(values: Tensor) -> Tensor:
    """Return ``cumsum(1)`` of values (R, N): those within blocks by products with a triangle of ones."""
    R, N = values.shape
    length = min(N, _BLOCK)
    ones = torch.ones(length, length, dtype=values.dtype, device=values.device).triu_()
    sums = F.pad(values, (0, -N % length)).view(R, -1, length) @ ones  # (R, blocks, length)
    if sums.shape[1] > 1:
        sums[:, 1:] += _sums_by_products(sums[:, :-1, -1])[:, :, None]
    return sums.view(R, -1)[:, :N].contiguous()


def _lloyd(z: Tensor, centroids: Tensor, tolerance: float) -> Tensor:
    """Return the centroids (K, D) after Lloyd's iterations: until no label changes, or little movement.

    The search for the nearest centroid is exact, and sums are kept in float64 and updated by the points that change
    their cluster, which soon are few.
    """
    n_clusters = len(centroids)
    norms = z.square().sum(1).sqrt_()
    labels = nearest_centroids(z, centroids, norms=norms)[:, 0]
    sums = sums_and_sizes(z, labels, n_clusters)
    for _ in range(MAX_ITERATIONS):
        _relocate_empty(z, labels, centroids, sums)
        means = (sums[:, :-1] / sums[:, -1:].clamp(min=1)).to(z.dtype)
        before, centroids = centroids, torch.where(sums[:, -1:] > 0, means, centroids)
        if (centroids - before).square().sum() <= tolerance:
            break
        previous = labels
        labels = nearest_centroids(z, centroids, norms=norms)[:, 0]
        changed = (labels != previous).nonzero()[:, 0]
        if len(changed) == 0:
            break
        points = z.index_select(0, changed)
        sums += sums_and_sizes(points, labels.index_select(0, changed), n_clusters)
        sums -= sums_and_sizes(points, previous.index_select(0, changed), n_clusters)
    return centroids


def _relocate_empty(z: Tensor, labels: Tensor, centroids: Tensor, sums: Tensor) -> None:
    """Give each empty cluster the point farthest from its centroid, which leaves its cluster; changes labels and sums.

    A cluster keeps its only point, and points that lie on their centroid: moving duplicates would never end.
    """
    empty = (sums[:, -1] == 0).nonzero()[:, 0]
    if len(empty) == 0:
        return
    # The rounding of a mean of up to N equal points, in float64, and of its conversion.
    unit = max(torch.finfo(z.dtype).eps, len(z) * torch.finfo(torch.float64).eps)
    rounding = unit**2 * z.square().sum(1).amax().item()
    farthest = squared_distances_to(z, centroids, labels).topk(len(empty))
    for cluster, point, distance in zip(
        empty.tolist(), farthest.indices.tolist(), farthest.values.tolist(), strict=True
    ):
        old = int(labels[point])
        if distance <= rounding or sums[old, -1] <= 1:
            continue
        moved = F.pad(z[point].double(), (0, 1), value=1.0)
        sums[old] -= moved
        sums[cluster] = moved
        labels[point] = cluster
