"""The baseline of a run: k-means on the raw data."""

# Shapes: N samples, F input features, K clusters, M rows of a sample.

from __future__ import annotations

import logging
import time

import torch

from dkm.clustering.assignment import assign
from dkm.clustering.lloyd import kmeans
from dkm.data.batches import Batches
from dkm.data.sampling import sample_dataset
from dkm.evaluation import report
from dkm.evaluation.evaluator import Evaluator, every_row
from dkm.evaluation.scores import Scores
from dkm.runtime import distributed

log = logging.getLogger(__name__)


def score_raw_data(
    evaluator: Evaluator, batches: Batches, n_clusters: int, *, n_init: int, n_sample: int, seed: int
) -> Scores:
    """Cluster the data as they are by k-means and score the result.

    Parameters
    ----------
    evaluator : Evaluator
    batches : Batches
        The rows of the data.
    n_clusters : int
        K.
    n_init : int
        Restarts of k-means.
    n_sample : int
        The most rows that k-means sees; all rows are then assigned to its centroids.
    seed : int

    Returns
    -------
    dict
        The scores; empty on all processes but the first.
    """
    start_s = time.perf_counter()
    sample = sample_dataset(evaluator.data, n_sample, at_least=n_clusters)
    centroids = torch.zeros(n_clusters, evaluator.data.n_features, device=batches.device)
    if distributed.is_main():
        result = kmeans(batches.take(sample), n_clusters, n_init=n_init, seed=seed)
        labels, inertia, centroids = result.labels, result.inertia, result.centroids
    if sample is not None:
        distributed.broadcast_(centroids)
        nearest = every_row(lambda x: torch.stack(tuple(assign(x, centroids)), 1), batches, 2)
        labels, inertia = nearest[:, 0].long(), nearest[:, 1].sum(dtype=torch.float64).item()
    if not distributed.is_main():
        return {}
    scores = evaluator.scores(evaluator.X, labels.cpu().numpy(), inertia, final=True)
    log.info("k-means on the raw data: %s (%.1f s)", report.line(scores), time.perf_counter() - start_s)
    return scores
