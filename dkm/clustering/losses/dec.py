"""Deep embedded clustering and its improved form.

Xie, Girshick and Farhadi (arXiv:1511.06335); Guo, Gao, Liu and Yin, "Improved deep embedded clustering with local
structure preservation" (IJCAI 2017).
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from dkm.clustering.functional import squared_distances
from dkm.clustering.losses.base import ClusteringLoss, Reassignment

if TYPE_CHECKING:
    from dkm.config.clustering import DECConfig


def log_soft_assignments(z: Tensor, centroids: Tensor) -> Tensor:
    """Return DEC's logarithms of Student's t assignments, equation 1 of arXiv:1511.06335 with one degree of freedom.

    ``q_nk = (1 + |z_n - c_k|^2)^-1 / sum_j (1 + |z_n - c_j|^2)^-1`` for z (N, D) and centroids (K, D): log q, (N, K).
    """
    return torch.log_softmax(-torch.log1p(squared_distances(z, centroids)), 1)


def target_distribution(q: Tensor) -> Tensor:
    """Return DEC's targets p (N, K) for the assignments q (N, K) of all points, equation 3 of arXiv:1511.06335.

    ``p_nk = (q_nk^2 / f_k) / sum_j (q_nj^2 / f_j)`` with ``f_k = sum_n q_nk``: sharper, and small clusters count more.
    """
    share = q.square() / q.sum(0)
    return share / share.sum(1, keepdim=True)


class DECClustering(ClusteringLoss):
    """The methods ``dec`` and ``idec``: the divergence KL(P || Q) of the assignments from their targets.

    Summed over clusters, averaged over samples, as in Keras and so in the authors' code (``IDEC.py`` of
    XifengGuo/IDEC). Different there: batches in sequence without shuffling.

    Parameters
    ----------
    n_clusters, latent_dim, n_samples : int
        K, D and N.
    update_interval : int, optional
        Steps between two computations of the targets; by default they are computed at the end of each epoch.

    Attributes
    ----------
    targets : Tensor of shape (N, K)
        P of the last refresh.
    """

    targets: Tensor

    def __init__(self, n_clusters: int, latent_dim: int, n_samples: int, *, update_interval: int | None = None) -> None:
        super().__init__(n_clusters, latent_dim, n_samples)
        self.update_interval = update_interval
        self.register_buffer("targets", torch.zeros(n_samples, n_clusters))
        self._is_fresh = False  # no step was made since the clusters were set, and with them the targets

    @classmethod
    def from_config(cls, config: DECConfig, *, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int) -> Self:
        return cls(n_clusters, latent_dim, n_samples, update_interval=config.update_interval)

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        return F.kl_div(log_soft_assignments(z, self.centroids), self.targets[index], reduction="batchmean")

    def initialize(self, centroids: Tensor, labels: Tensor, z: Tensor) -> None:
        super().initialize(centroids, labels, z)
        self.refresh(z)
        self._is_fresh = True

    def is_refresh_due(self, step: int) -> bool:
        if self.update_interval is None or step == 0 or self._is_fresh:
            return False
        return step % self.update_interval == 0

    @torch.no_grad()
    def refresh(self, z: Tensor) -> None:
        self.targets.copy_(target_distribution(log_soft_assignments(z, self.centroids).exp()))

    def after_step(self, encode: Callable[[], Tensor]) -> None:
        self._is_fresh = False

    def end_epoch(self, z: Tensor) -> Reassignment:
        reassignment = super().end_epoch(z)
        if self.update_interval is None:
            self.refresh(z)
        return reassignment
