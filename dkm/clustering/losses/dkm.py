"""Deep k-means: Fard, Thonet and Gaussier (arXiv:1806.10069)."""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

import math

import torch
from torch import Tensor

from dkm.clustering.functional import soft_kmeans_loss
from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.clustering import DKMConfig


def annealed_alpha(start: float, n_before: int) -> float:
    """Return DKM's inverse temperature after ``n_before`` earlier ones.

    The i-th, from 1, is followed by ``2^(1 / ln(i + 1)^2)`` times itself (arXiv:1806.10069): 0.1, 0.423,
    0.752, 1.078, ...; the 40th is 28.1.
    """
    alpha = start
    for i in range(1, n_before + 1):
        alpha *= 2 ** (1 / math.log(i + 1) ** 2)
    return alpha


class DKMClustering(KMeansClustering):
    """Deep k-means inside the trainer: Fard, Thonet and Gaussier (arXiv:1806.10069).

    Parameters
    ----------
    config : DKMConfig
        The schedule of alpha. ``constant`` at 1000 after pretraining is the paper's DKM^p; ``annealed`` from 0.1
        without pretraining, from centroids drawn uniformly, is its DKM^a.

    Attributes
    ----------
    alpha : Tensor, scalar
        The inverse temperature, a function of the epoch.
    """

    alpha: Tensor

    def __init__(self, config: DKMConfig, n_clusters: int, latent_dim: int, n_samples: int) -> None:
        super().__init__(n_clusters, latent_dim, n_samples, hold_assignments=False, revive=False)
        self._config = config
        self.register_buffer("alpha", torch.tensor(0.0))
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        config = self._config
        is_annealed = config.schedule == "annealed"
        self.alpha.fill_(
            annealed_alpha(config.alpha_start, epoch // config.epochs_per_alpha) if is_annealed else config.alpha
        )

    def loss(self, z: Tensor, index: Tensor) -> Tensor:
        return soft_kmeans_loss(z, self.centroids, self.alpha)
