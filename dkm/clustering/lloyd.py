"""k-means on tensors: distances, nearest centroids, k-means++, Lloyd's iterations with many restarts at once.

The primitives below every clustering here, on any device; no autograd (the differentiable loss is in
``dkm.clustering.losses``). No (N, K, D) tensor is ever made: ``|z - c|^2 = |z|^2 - 2 z.c + |c|^2`` needs one matrix
product, and what is reported as a distance is computed again from the difference to the one centroid that was chosen.

Sources: Lloyd (1982); k-means++ (Arthur and Vassilvitskii, 2007), greedy with ``2 + log(K)`` trials and with empty
clusters moved to the worst served points, as in scikit-learn.
"""

# Shapes: N points, D dimensions, K clusters, R restarts, T trials.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dkm.clustering.assignment import CHUNK_NUMEL, assign, full_precision_addmm

# Numbers whose running sums are one matrix product.
_BLOCK = 256
# Numbers in the (N, R * K) matrices of the restarts that run side by side: 1 GiB in float32.
_GROUP_NUMEL = 2**28
MAX_ITERATIONS = 300
# Lloyd stops when the squared movement of the centroids is below this fraction of the data's variance (scikit-learn's
# default).
TOLERANCE = 1e-4


class KMeansResult(NamedTuple):
    """``centroids`` (K, D), ``labels`` (N,) int64 nearest to them, ``inertia`` the sum of squared distances."""

    centroids: Tensor
    labels: Tensor
    inertia: float


@torch.no_grad()
def kmeans(z: Tensor, n_clusters: int, *, n_init: int = 20, init: str = "k-means++", seed: int = 0) -> KMeansResult:
    """Cluster ``z`` by k-means and keep the restart with the lowest inertia; see ``kmeans_restarts``."""
    return lowest_inertia(kmeans_restarts(z, n_clusters, n_init=n_init, init=init, seed=seed))


@torch.no_grad()
def kmeans_restarts(
    z: Tensor, n_clusters: int, *, n_init: int = 20, init: str = "k-means++", seed: int = 0
) -> list[KMeansResult]:
    """Cluster ``z`` by k-means from ``n_init`` starts.

    All restarts run side by side, so that one matrix product serves them all. The same input and seed give the same
    bits on the same device with the same number of threads.

    Parameters
    ----------
    z : Tensor of shape (N, D), floating point
        N >= n_clusters. Half precision is computed in float32.
    init : {"k-means++", "random"}
        ``random`` starts from distinct random points.

    Raises
    ------
    ValueError
        If there are more clusters than points.
    """
    N = len(z)
    if not 1 <= n_clusters <= N:
        raise ValueError(f"n_clusters={n_clusters}: expected 1 to n_samples={N}")
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    generator = torch.Generator().manual_seed(seed)
    origin = z.mean(0)
    z = z - origin
    tolerance = TOLERANCE * z.var(0, correction=0).mean().item()
    start = _plus_plus if init == "k-means++" else _random_points
    group = max(1, min(n_init, _GROUP_NUMEL // (N * n_clusters)))
    results: list[KMeansResult] = []
    for first in range(0, n_init, group):
        starts = start(z, n_clusters, min(group, n_init - first), generator)  # (R, K, D)
        for centroids in _lloyd(z, starts, tolerance):
            labels, distance = assign(z, centroids)
            inertia = distance.sum(dtype=torch.float64).item()
            results.append(KMeansResult(centroids + origin, labels, inertia))
    return results


def lowest_inertia(results: Sequence[KMeansResult]) -> KMeansResult:
    """Return the restart with the lowest inertia, the first of equal ones."""
    return min(results, key=lambda result: result.inertia)


def most_even(results: Sequence[KMeansResult], slack: float) -> KMeansResult:
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


def _evenness(result: KMeansResult) -> float:
    """Return the entropy of the cluster sizes."""
    share = torch.bincount(result.labels, minlength=len(result.centroids)).double() / len(result.labels)
    return float(torch.special.entr(share).sum())


def _random_points(z: Tensor, n_clusters: int, n_restarts: int, generator: torch.Generator) -> Tensor:
    picks = [torch.randperm(len(z), generator=generator)[:n_clusters] for _ in range(n_restarts)]
    return z[torch.stack(picks).to(z.device)]


def _plus_plus(z: Tensor, n_clusters: int, n_restarts: int, generator: torch.Generator) -> Tensor:
    """Draw starting centroids (R, K, D): each next one is the best of T points drawn in proportion to distance^2.

    Points nearer to each other than the rounding of |z|^2 count as one.
    """
    N, R = len(z), n_restarts
    T = 2 + int(math.log(n_clusters))
    norms = z.square().sum(1)  # (N,)

    def distances(picks: Tensor) -> Tensor:  # (M,) -> (M, N)
        return full_precision_addmm(norms + norms[picks][:, None], z[picks], z.T).clamp_(min=0)

    picks = torch.randint(N, (R,), generator=generator).to(z.device)
    chosen = [picks]
    closest = distances(picks)  # (R, N)
    for _ in range(1, n_clusters):
        mass = _running_sums(closest)  # (R, N)
        draws = torch.rand(R, T, generator=generator, dtype=torch.float64).to(z.device) * mass[:, -1:]
        trials = torch.searchsorted(mass, draws, right=True).clamp_(max=N - 1)  # (R, T)
        reach = torch.minimum(distances(trials.flatten()).view(R, T, N), closest[:, None])
        best = reach.sum(2).argmin(1)  # (R,)
        rows = torch.arange(R, device=z.device)
        chosen.append(trials[rows, best])
        closest = reach[rows, best]
    return z[torch.stack(chosen, 1)]


def _running_sums(values: Tensor) -> Tensor:
    """Return ``cumsum(1)`` of values (R, N) in float64. That of torch is not deterministic on a GPU."""
    return values.cumsum(1, dtype=torch.float64) if values.device.type == "cpu" else _sums_by_products(values.double())


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
    """Run Lloyd's iterations on (R, K, D) centroids; a restart that has converged takes no further part."""
    centroids = centroids.clone()
    active = torch.arange(len(centroids), device=z.device)
    for _ in range(MAX_ITERATIONS):
        updated = _lloyd_step(z, centroids[active])
        shift = (updated - centroids[active]).square().sum((1, 2))
        centroids[active] = updated
        active = active[shift > tolerance]
        if len(active) == 0:
            break
    return centroids


def _lloyd_step(z: Tensor, centroids: Tensor) -> Tensor:
    """Return the means of the points nearest to each centroid (R, K, D)."""
    N, D = z.shape
    R, K, _ = centroids.shape
    flat = centroids.reshape(R * K, D)
    bias = flat.square().sum(1, keepdim=True)
    offset = torch.arange(R, device=z.device)[:, None] * K
    sums = torch.zeros(R * K, D, dtype=torch.float64, device=z.device)
    counts = torch.zeros(R * K, dtype=torch.float64, device=z.device)
    score = torch.empty(R, N, dtype=z.dtype, device=z.device)
    labels = torch.empty(R, N, dtype=torch.int64, device=z.device)
    rows = max(1, CHUNK_NUMEL // (R * K))
    for start in range(0, N, rows):
        chunk = z[start : start + rows]
        scores = full_precision_addmm(bias, flat, chunk.T).view(R, K, -1)
        low, nearest = scores.min(1)  # (R, rows)
        # Sums by a matrix product: deterministic on every device, which scattered addition on a GPU is not.
        one_hot = torch.zeros(R * K, len(chunk), dtype=z.dtype, device=z.device)
        one_hot.scatter_(0, nearest + offset, 1)
        with torch.autocast(z.device.type, enabled=False):
            sums += one_hot @ chunk
        counts += one_hot.sum(1, dtype=torch.float64)
        score[:, start : start + rows] = low
        labels[:, start : start + rows] = nearest
    for restart in (counts.view(R, K) == 0).any(1).nonzero()[:, 0].tolist():
        distance = score[restart] + z.square().sum(1)
        _relocate_empty(z, labels[restart], distance, sums.view(R, K, D)[restart], counts.view(R, K)[restart])
    means = (sums / counts.clamp(min=1)[:, None]).to(z.dtype)
    return torch.where((counts > 0)[:, None], means, flat).view(R, K, D)


def _relocate_empty(z: Tensor, labels: Tensor, distance: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Give each empty cluster the worst served point, which leaves its old cluster; changes sums and counts."""
    empty = (counts == 0).nonzero()[:, 0]
    points = distance.topk(len(empty)).indices
    for cluster, point in zip(empty.tolist(), points.tolist(), strict=True):
        old = int(labels[point])
        if counts[old] <= 1:  # its only point: nothing would be gained
            continue
        sums[old] -= z[point]
        counts[old] -= 1
        sums[cluster] = z[point]
        counts[cluster] = 1
