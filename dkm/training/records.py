"""The part of an evaluation's record that is about the clusters."""

# Shapes: N samples, D latent, K clusters.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dkm.evaluation.clusters import Clusters
from dkm.evaluation.evaluator import Evaluator, smallest_centroid_distance


def cluster_record(
    evaluator: Evaluator,
    z: Tensor,
    clusters: Clusters,
    centroids: Tensor,
    centroids_before: Tensor,
    reassignment: Mapping[str, float],
) -> dict[str, Any]:
    """Return what an evaluation of the joint phase says about the clusters, by the keys of ``metrics.jsonl``.

    Parameters
    ----------
    evaluator : Evaluator
    z : Tensor of shape (N, D)
        The embedding of the unaugmented data.
    clusters : Clusters
        The clusters of z.
    centroids, centroids_before : Tensor of shape (K, D)
        The centroids, and those at the start of the epoch, on the CPU.
    reassignment : mapping
        Label change, dead and revived centroids.
    """
    moved = (centroids.cpu() - centroids_before).square().sum(1).sqrt()  # (K,)
    scores = evaluator.scores(evaluator.sampled(z), clusters.labels, clusters.inertia)
    return {
        **{f"clusters/{name}": value for name, value in reassignment.items()},
        "clusters/centroid_drift": moved.mean().item(),
        "clusters/smallest_centroid_distance": smallest_centroid_distance(centroids),
        "clusters/sizes": clusters.sizes.tolist(),
        **{f"metrics/{name}": value for name, value in scores.items()},
    }
