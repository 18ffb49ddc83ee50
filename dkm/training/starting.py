"""The clusters that the joint phase starts from, and those after a reset of the weights; the same on every process."""

# Shapes: N samples, D latent, K clusters.

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from dkm.clustering import initialization
from dkm.clustering.initialization import Start
from dkm.clustering.lloyd import lowest_inertia
from dkm.clustering.neighborhood import Neighborhood
from dkm.config.clustering import ClusteringConfig
from dkm.data.sampling import sample_rows
from dkm.evaluation import printed_scores
from dkm.evaluation.evaluator import Evaluator
from dkm.models.autoencoder import Autoencoder, mix_encoder
from dkm.runtime import distributed
from dkm.training.state import Baseline

log = logging.getLogger(__name__)


class Starter:
    """Clusters the embedding on the first process, which sends the clusters to the others.

    Parameters
    ----------
    settings : ClusteringConfig
    evaluator : Evaluator
    neighborhood : Neighborhood
        That of the rows, for ``clustering.init=data``.
    latent_dim : int
        D.
    seed : int

    Attributes
    ----------
    sample : Tensor of int64, optional
        Indices of the rows that k-means uses; None for all rows.

    Raises
    ------
    UserError
        If ``clustering.init_file`` does not fit.
    """

    def __init__(
        self,
        settings: ClusteringConfig,
        evaluator: Evaluator,
        neighborhood: Neighborhood,
        latent_dim: int,
        seed: int,
    ) -> None:
        n_samples = evaluator.data.n_samples
        self.sample = sample_rows(n_samples, settings.init_samples)
        self._settings = settings
        self._evaluator = evaluator
        self._neighborhood = neighborhood
        self._n_clusters = evaluator.n_clusters
        self._seed = seed
        self._given: np.ndarray | None = None
        if settings.init_file is not None:
            self._given = initialization.read_init_file(settings.init_file, n_samples, self._n_clusters, latent_dim)

    def start(self, z: Tensor, *, is_scored: bool) -> tuple[Start, Baseline | None]:
        """Return the clusters of the embedding z (N, D), and plain k-means if ``is_scored`` (on the first process)."""
        start: Start | None = None
        baseline: Baseline | None = None
        if distributed.is_main():
            settings, seed = self._settings, self._seed
            restarts = initialization.run_restarts(z, self._n_clusters, settings, self.sample, seed)
            if is_scored:
                plain = initialization.assign_all_points(z, lowest_inertia(restarts))
                Z, labels = self._evaluator.sampled(z), plain.labels.cpu().numpy()
                scores = self._evaluator.scores(Z, labels, plain.inertia, final=True)
                log.info("k-means on the embedding: %s", printed_scores.line(scores))
                baseline = Baseline(scores, plain.labels.cpu(), plain.centroids)
            start = initialization.find_start(z, restarts, settings, self._given, seed, self._neighborhood)
        return self._share(start, z), baseline

    def restart(self, z: Tensor, labels: Tensor, seed: int) -> Start:
        """Return new clusters of the embedding z (N, D), numbered like the most similar ones of ``labels`` (N,)."""
        start: Start | None = None
        if distributed.is_main():
            start = initialization.cluster_again(z, self._n_clusters, self._settings, self.sample, seed, labels)
        return self._share(start, z)

    def _share(self, start: Start | None, z: Tensor) -> Start:
        """Return the first process's clusters on every process; the others have None."""
        if start is None:
            centroids = z.new_zeros(self._n_clusters, z.shape[1])
            start = Start(centroids, torch.zeros(len(z), dtype=torch.int64, device=z.device))
        distributed.meet()  # the others wait for the first process's work here
        for value in start:
            distributed.broadcast_(value)
        return start


@contextmanager
def mixed_encoder(autoencoder: Autoencoder, fresh: Autoencoder, fraction: float) -> Iterator[None]:
    """Mix the weights of ``fresh`` into the encoder; if the block raises, undo that."""
    kept = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    mix_encoder(autoencoder, fresh, fraction)
    try:
        yield
    except BaseException:
        autoencoder.load_state_dict(kept)
        raise
