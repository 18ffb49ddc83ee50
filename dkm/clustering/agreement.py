"""How well clusterings by k-means agree between halves of an embedding."""

# Shapes: N points, D dimensions, K clusters.

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from dkm.clustering.assignment import assign
from dkm.clustering.labels import adjusted_rand_index
from dkm.clustering.lloyd import kmeans

# Restarts of k-means on each half, and the most points of a half.
_N_INIT, _HALF_POINTS = 10, 5000


def agreement_of_halves(z: Tensor, numbers: Sequence[int], *, seed: int, n_splits: int = 1) -> dict[int, float]:
    """Cluster two random halves of the points; return how far both assign all of these points alike.

    Parameters
    ----------
    z : Tensor of shape (N, D)
        An embedding. A half has at most 5,000 of its points.
    numbers : sequence of int
        The numbers of clusters K to compare.
    seed : int
        Seed of the halves and of k-means.
    n_splits : int
        Pairs of halves, each drawn anew; the agreement is the mean over them.

    Returns
    -------
    dict
        For each number the adjusted Rand index of the two assignments of the points in the halves to the centroids of
        one half; without those numbers that exceed the points of a half.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(len(z) // 2, _HALF_POINTS)
    agreement: dict[int, list[float]] = {k: [] for k in numbers if k <= size}
    for _ in range(n_splits):
        order = torch.randperm(len(z), generator=generator).to(z.device)
        halves = z[order[:size]], z[order[size : 2 * size]]
        both = torch.cat(halves)
        for k, values in agreement.items():
            labels = [assign(both, kmeans(half, k, n_init=_N_INIT, seed=seed).centroids).labels for half in halves]
            values.append(adjusted_rand_index(labels[0].cpu().numpy(), labels[1].cpu().numpy()))
    return {k: statistics.fmean(values) for k, values in agreement.items()}
