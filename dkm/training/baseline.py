"""The baseline of a run: k-means on the raw data."""

# Shapes: N samples, F input features, K clusters, M rows of a sample.

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from dkm.clustering.assignment import assign
from dkm.clustering.lloyd import kmeans
from dkm.config.clustering import ClusteringConfig
from dkm.data.sampling import sample_dataset
from dkm.evaluation import printed_scores
from dkm.evaluation.evaluator import Evaluator, every_row
from dkm.runtime import distributed
from dkm.training.cache import Cache
from dkm.training.state import Baseline

log = logging.getLogger(__name__)


def find_or_score_raw_data(
    cache: Cache,
    evaluator: Evaluator,
    settings: ClusteringConfig,
    seed: int,
    *,
    interruptible: Callable[[], AbstractContextManager[None]],
    is_kept: bool,
) -> Baseline | None:
    """Return k-means on the data, from the cache if it has it.

    Parameters
    ----------
    cache : Cache
    evaluator : Evaluator
    settings : ClusteringConfig
        The settings of k-means.
    seed : int
    interruptible : callable
        Returns the context in which k-means runs.
    is_kept : bool
        Whether this process stores new scores in the cache.

    Returns
    -------
    Baseline, optional
        If it is new, None on all processes but the first.
    """
    key = cache.key("raw")
    cached = cache.find(key)
    if cached is not None:
        baseline: Baseline | None = Baseline(cached["scores"], cached["labels"])
        log.info("k-means on the raw data: %s (from pretrain.cache)", printed_scores.line(cached["scores"]))
        return baseline
    with interruptible():
        baseline = cluster_raw_data(evaluator, n_init=settings.n_init, n_sample=settings.init_samples, seed=seed)
    if is_kept and baseline is not None:
        cache.keep(key, {"scores": baseline.scores, "labels": baseline.labels})
    return baseline


def cluster_raw_data(evaluator: Evaluator, *, n_init: int, n_sample: int, seed: int) -> Baseline | None:
    """Cluster the data as they are by k-means and score the result.

    Parameters
    ----------
    evaluator : Evaluator
    n_init : int
        Restarts of k-means.
    n_sample : int
        The most rows that k-means sees; all rows are then assigned to its centroids.
    seed : int

    Returns
    -------
    Baseline, optional
        None on all processes but the first.
    """
    start_s = time.perf_counter()
    batches, n_clusters = evaluator.batches, evaluator.n_clusters
    sample = sample_dataset(evaluator.data, n_sample, at_least=n_clusters)
    centroids = torch.zeros(n_clusters, evaluator.data.n_features, device=batches.device)
    if distributed.is_main():
        result = kmeans(batches.take(sample), n_clusters, n_init=n_init, seed=seed)
        labels, inertia, centroids = result.labels, result.inertia, result.centroids
    if sample is not None:
        distributed.meet()
        distributed.broadcast_(centroids)
        nearest = every_row(lambda x: _nearest(x, centroids), batches, 2)
        labels, inertia = nearest[:, 0].long(), nearest[:, 1].sum(dtype=torch.float64).item()
    if not distributed.is_main():
        return None
    scores = evaluator.scores(evaluator.X, labels.cpu().numpy(), inertia, final=True)
    log.info("k-means on the raw data: %s (%.1f s)", printed_scores.line(scores), time.perf_counter() - start_s)
    return Baseline(scores, labels.cpu())


def _nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """Return the label of each row x (B, F) and its squared distance to the centroid, as columns (B, 2)."""
    nearest = assign(x, centroids)
    return torch.stack([nearest.labels, nearest.squared_distance], 1)
