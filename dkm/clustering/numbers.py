"""Scores of several numbers of clusters, from neighbor embeddings of the rows: no network is trained for them."""

# Shapes: M rows of a neighborhood, D latent, K clusters.

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from dkm.clustering.agreement import agreement_of_halves
from dkm.clustering.labels import IntArray, adjusted_rand_index
from dkm.clustering.lloyd import kmeans
from dkm.clustering.neighborhood import Neighborhood
from dkm.clustering.selection import Scores

log = logging.getLogger(__name__)

# Restarts of k-means on an embedding, and pairs of halves of it.
_N_INIT, _N_SPLITS = 10, 2


def score_numbers(neighborhoods: Sequence[Neighborhood], numbers: Sequence[int]) -> dict[int, Scores]:
    """Score each number of clusters; ``dkm.clustering.selection.recommend_stable`` chooses one by these scores.

    Parameters
    ----------
    neighborhoods : sequence of Neighborhood
        Those of the same rows with different seeds.
    numbers : sequence of int
        The numbers K to compare, each at most M.

    Returns
    -------
    dict
        For each number ``modularity_data`` and ``calinski_harabasz``: of k-means on the embedding of each seed, in the
        graph of the rows and in the embedding; ``agreement_seeds``: the adjusted Rand index of these clusterings for
        each two seeds; ``agreement_halves``: for each seed that of clusterings of two halves, empty for a number that
        exceeds the rows of a half.
    """
    names = ("modularity_data", "calinski_harabasz", "agreement_seeds", "agreement_halves")
    scores: dict[int, Scores] = {k: {name: {} for name in names} for k in numbers}
    labels: dict[int, dict[int, IntArray]] = {}  # by seed and number, each (M,)
    for hood in neighborhoods:
        z, seed, start_s = hood.own_embedding, hood.seed, time.perf_counter()
        labels[seed] = {}
        for k in numbers:
            found = kmeans(z, k, n_init=_N_INIT, seed=seed)
            labels[seed][k] = found.labels.numpy()
            scores[k]["modularity_data"][seed,] = hood.modularity(labels[seed][k])
            scores[k]["calinski_harabasz"][seed,] = calinski_harabasz(z, k, found.inertia)
        for k, agreement in agreement_of_halves(z, numbers, seed=seed, n_splits=_N_SPLITS).items():
            scores[k]["agreement_halves"][seed,] = agreement
        log.info("clusterings of the embedding with seed %d (%.1f s)", seed, time.perf_counter() - start_s)
    for k in numbers:
        for first, second in combinations(labels, 2):
            scores[k]["agreement_seeds"][first, second] = adjusted_rand_index(labels[first][k], labels[second][k])
    return scores


def calinski_harabasz(z: Tensor, n_clusters: int, inertia: float) -> float:
    """Return the ratio of the variance between clusters to that within them, each by its degrees of freedom.

    Parameters
    ----------
    z : Tensor of shape (M, D)
    n_clusters : int
        K, 2 <= K < M.
    inertia : float
        The sum of the squared distances of the points to the means of their clusters; the ratio is infinite for 0.

    References
    ----------
    Caliński, Harabasz: A dendrite method for cluster analysis (Communications in Statistics 3(1), 1974).
    """
    total = (z - z.mean(0)).square().sum(dtype=torch.float64).item()
    between, within = (total - inertia) / (n_clusters - 1), inertia / (len(z) - n_clusters)
    return between / within if within > 0 else math.inf
