"""Deep embedded clustering and its improved form.

Xie, Girshick and Farhadi (arXiv:1511.06335); Guo, Gao, Liu and Yin (IJCAI 2017).
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dkm.clustering.functional import squared_distances
from dkm.clustering.losses.kmeans import KMeansClustering, Reassignment
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


class DECClustering(KMeansClustering):
    """DEC and IDEC inside the trainer: the divergence KL(P || Q) of the assignments from their targets.

    Xie, Girshick and Farhadi (arXiv:1511.06335); Guo, Gao, Liu and Yin, "Improved deep embedded clustering with local
    structure preservation" (IJCAI 2017). Summed over clusters, averaged over samples, as in Keras and so in the
    authors' code (``IDEC.py`` of XifengGuo/IDEC). Different there: batches in sequence without shuffling.

    Attributes
    ----------
    targets : Tensor of shape (N, K)
        P of the last refresh.
    """

    targets: Tensor

    def __init__(self, config: DECConfig, n_clusters: int, latent_dim: int, n_samples: int) -> None:
        super().__init__(n_clusters, latent_dim, n_samples, hold_assignments=False, revive=False)
        self._update_interval = config.update_interval
        self.register_buffer("targets", torch.zeros(n_samples, n_clusters))

    def start(self, z: Tensor) -> None:
        self.refresh(z)

    def is_refresh_due(self, step: int) -> bool:
        return self._update_interval is not None and step % self._update_interval == 0

    @torch.no_grad()
    def refresh(self, z: Tensor) -> None:
        self.targets.copy_(target_distribution(log_soft_assignments(z, self.centroids).exp()))

    def loss(self, z: Tensor, index: Tensor) -> Tensor:
        return F.kl_div(log_soft_assignments(z, self.centroids), self.targets[index], reduction="batchmean")

    def reassign(self, z: Tensor) -> Reassignment:
        found = super().reassign(z)
        if self._update_interval is None:
            self.refresh(z)
        return found
