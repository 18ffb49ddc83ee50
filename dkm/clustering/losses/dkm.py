"""Deep k-means: Fard, Thonet and Gaussier (arXiv:1806.10069)."""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from dkm.clustering.functional import soft_kmeans_loss
from dkm.clustering.losses.base import ClusteringLoss

if TYPE_CHECKING:
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


class DKMClustering(ClusteringLoss):
    """The method ``dkm``: the k-means loss with a softmin in place of the minimum.

    Parameters
    ----------
    n_clusters, latent_dim, n_samples : int
        K, D and N.
    schedule : {"constant", "annealed"}
        ``constant`` at 1000 after pretraining is the paper's DKM^p; ``annealed`` from 0.1 without pretraining, from
        centroids drawn uniformly, is its DKM^a.
    alpha_constant : float
        The inverse temperature of the constant schedule.
    alpha_start : float
        The first one of the annealed schedule.
    epochs_per_alpha : int
        Epochs between two changes of the annealed schedule.

    Attributes
    ----------
    alpha : Tensor, scalar
        The inverse temperature, a function of the epoch.
    """

    alpha: Tensor

    def __init__(
        self,
        n_clusters: int,
        latent_dim: int,
        n_samples: int,
        *,
        schedule: str = "constant",
        alpha_constant: float = 1000.0,
        alpha_start: float = 0.1,
        epochs_per_alpha: int = 5,
    ) -> None:
        super().__init__(n_clusters, latent_dim, n_samples)
        self.schedule = schedule
        self.alpha_constant = alpha_constant
        self.alpha_start = alpha_start
        self.epochs_per_alpha = epochs_per_alpha
        self.register_buffer("alpha", torch.tensor(0.0))
        self.start_epoch(0)

    @classmethod
    def from_config(cls, config: DKMConfig, *, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int) -> Self:
        return cls(
            n_clusters,
            latent_dim,
            n_samples,
            schedule=config.schedule,
            alpha_constant=config.alpha,
            alpha_start=config.alpha_start,
            epochs_per_alpha=config.epochs_per_alpha,
        )

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        return soft_kmeans_loss(z, self.centroids, self.alpha)

    def start_epoch(self, epoch: int) -> None:
        if self.schedule == "annealed":
            self.alpha.fill_(annealed_alpha(self.alpha_start, epoch // self.epochs_per_alpha))
        else:
            self.alpha.fill_(self.alpha_constant)
