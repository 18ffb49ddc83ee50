"""How well clusterings by k-means agree between halves of an embedding."""

# Shapes: N points, D dimensions, K clusters.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dkm.clustering.assignment import assign
from dkm.clustering.labels import adjusted_rand_index
from dkm.clustering.lloyd import kmeans

# Restarts of k-means on each half, and the most points of a half.
_N_INIT, _HALF_POINTS = 10, 5000


def agreement_of_halves(z: Tensor, numbers: Sequence[int], *, seed: int) -> dict[int, float]:
    """Cluster two random halves of the points; return how far both assign all of these points alike.

    Parameters
    ----------
    z : Tensor of shape (N, D)
        An embedding. A half has at most 5,000 of its points.
    numbers : sequence of int
        The numbers of clusters K to compare.
    seed : int
        Seed of the halves and of k-means.

    Returns
    -------
    dict
        For each number the adjusted Rand index of the two assignments of the points in the halves to the centroids of
        one half; without those numbers that exceed the points of a half.
    """
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).to(z.device)
    size = min(len(z) // 2, _HALF_POINTS)
    halves = z[order[:size]], z[order[size : 2 * size]]
    both = torch.cat(halves)
    agreement = {}
    for k in numbers:
        if k <= size:
            labels = [assign(both, kmeans(half, k, n_init=_N_INIT, seed=seed).centroids).labels for half in halves]
            agreement[k] = adjusted_rand_index(labels[0].cpu().numpy(), labels[1].cpu().numpy())
    return agreement
