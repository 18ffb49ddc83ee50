"""The loss of a run: weighted reconstruction, clustering and L2 terms.

``Objective.forward`` is the only differentiable door: both phases go through it, pretraining without a clustering.
"""

# Shapes: B batch, F input features, D latent.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkm.clustering.losses.base import ClusteringLoss
from dkm.data.gaps import GapMask
from dkm.models.autoencoder import Autoencoder
from dkm.models.regularization import l2_penalty


class LossTerms(NamedTuple):
    """Scalars: the sum that is minimized, and its terms before their weights; a term without weight is 0."""

    total: Tensor
    reconstruction: Tensor
    clustering: Tensor
    l2: Tensor
    neighbors: Tensor


class Objective(nn.Module):
    """Autoencoder and clustering under one loss.

    Parameters
    ----------
    autoencoder : Autoencoder
    clustering : ClusteringLoss or None
        None while pretraining.
    clustering_weight : float
        Weight of the clustering loss, which is summed over latent dimensions and averaged over samples.
    reconstruction_weight : float
        Weight of the reconstruction error. With 0 nothing is decoded.
    reduction : {"mean", "sum"}
        Reduction of the reconstruction error: averaged over samples and features, or summed over features and averaged
        over samples.
    penalized : sequence of Parameter
        Parameters of the explicit L2 penalty; empty where the optimizer's weight decay regularizes, or nothing does.
    l2_strength : float
        Strength s of the penalty ``s/2 * sum(w^2)``.
    filled : GapMask (N, F), optional
        Cells of the data set that were missing and are filled: their reconstruction error counts as 0.
    targets : Tensor of shape (N, D), optional
        Positions that the embedding is drawn to, nan for rows without one.
    target_weight : float
        Weight of the squared distance to them, averaged over rows with a target and over dimensions.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        clustering: ClusteringLoss | None,
        *,
        clustering_weight: float = 0.0,
        reconstruction_weight: float = 1.0,
        reduction: str = "mean",
        penalized: Sequence[nn.Parameter] = (),
        l2_strength: float = 0.0,
        filled: GapMask | None = None,
        targets: Tensor | None = None,
        target_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.clustering = clustering
        self.clustering_weight = clustering_weight
        self.reconstruction_weight = reconstruction_weight
        self.reduction = reduction
        self.l2_strength = l2_strength
        self._filled = filled
        self.targets = targets
        self.target_weight = target_weight
        # Of all rows, not of a batch: a part of a batch may have none.
        self._known_share = 1.0 if targets is None else _share_without_nan(targets)
        self._penalized = tuple(penalized)  # a tuple: they are already registered where they belong

    def forward(self, x: Tensor, index: Tensor, share: float = 1.0) -> LossTerms:
        """Return the loss terms of a batch.

        Parameters
        ----------
        x : Tensor of shape (B, F)
        index : Tensor of shape (B,)
            The positions of its rows in the data set.
        share : float
            Factor of the terms that are means over samples. With W processes, W times this one's part of the rows, so
            that the mean over the processes is the mean over the whole batch.
        """
        z = self.autoencoder.encode(x)  # (B, D)
        zero = x.new_zeros(())
        total, reconstruction, clustering, l2, neighbors = zero, zero, zero, zero, zero
        if self.reconstruction_weight > 0:
            x_hat = self.autoencoder.decode(z).to(x.dtype)  # (B, F); half precision under autocast
            if self._filled is not None:
                x_hat = torch.where(self._filled[index], x, x_hat)
            reconstruction = F.mse_loss(x_hat, x)
            if self.reduction == "sum":
                reconstruction = reconstruction * x.shape[1]
            reconstruction = share * reconstruction if share != 1 else reconstruction
            total = self.reconstruction_weight * reconstruction
        if self.clustering is not None:
            clustering = self.clustering(z, index)
            clustering = share * clustering if share != 1 else clustering
            total = total + self.clustering_weight * clustering
        if self.targets is not None:
            neighbors = share * mean_squared_distance(z, self.targets[index], self._known_share)
            total = total + self.target_weight * neighbors
        if self._penalized:
            l2 = l2_penalty(self._penalized)
            total = total + self.l2_strength * l2
        return LossTerms(total, reconstruction, clustering, l2, neighbors)


def mean_squared_distance(z: Tensor, targets: Tensor, known_share: float) -> Tensor:
    """Return the sum of the squared differences of z and targets (B, D), over B * D times the share of known targets.

    Rows with nan as target add nothing. The mean over the batches is then that over the known rows of the data set.
    """
    is_known = ~targets[:, :1].isnan()  # (B, 1)
    difference = torch.where(is_known, z.float() - targets, 0.0)
    return difference.square().sum() / (z.numel() * known_share)


def _share_without_nan(targets: Tensor) -> float:
    """Return the share of the rows (N, D) that have no nan; 1 if all have, as there is nothing to share then."""
    return float((~targets[:, 0].isnan()).float().mean().item()) or 1.0
