"""The record of an evaluation in ``metrics.jsonl``."""

# Shapes: N samples, D latent, K clusters.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dkm.evaluation.clusters import Clusters
from dkm.evaluation.evaluator import Evaluator, embedding_variance, smallest_centroid_distance
from dkm.training.state import Progress
from dkm.training.steps import EpochSteps


def evaluation_record(
    progress: Progress,
    losses: Mapping[str, float],
    lr: float,
    steps: EpochSteps,
    evaluator: Evaluator,
    z: Tensor,
    clusters: Clusters | None,
) -> dict[str, Any]:
    """Return the record of an epoch that is about to end.

    Parameters
    ----------
    progress : Progress
    losses : mapping
        Mean losses of the epoch.
    lr : float
        Learning rate of the last step.
    steps : EpochSteps
    evaluator : Evaluator
    z : Tensor of shape (N, D)
        The embedding of the unaugmented data.
    clusters : Clusters, optional
        The clusters of z, in the joint phase.
    """
    record = {
        "phase": progress.state.phase,
        "epoch": progress.epoch + 1,
        "step": progress.step,
        **losses,
        "optimizer/lr": lr,
        "optimizer/gradient_norm": steps.last_norm(),
        "embedding/variance": embedding_variance(z),
    }
    if clusters is None:
        return record
    moved = (clusters.centroids.cpu() - steps.centroids_before).square().sum(1).sqrt()  # (K,)
    scores = evaluator.scores(evaluator.sampled(z), clusters.labels, clusters.inertia)
    return {
        **record,
        **{f"clusters/{name}": value for name, value in progress.reassignment.items()},
        "clusters/centroid_drift": moved.mean().item(),
        "clusters/smallest_centroid_distance": smallest_centroid_distance(clusters.centroids),
        "clusters/sizes": clusters.sizes.tolist(),
        **{f"metrics/{name}": value for name, value in scores.items()},
    }
