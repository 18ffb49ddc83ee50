"""The loss of a run: reconstruction + weight * clustering + strength * L2; without reconstruction, if that is wanted.

``Objective.forward`` is the only differentiable door: both phases go through it, pretraining without a clustering.
"""

# Shapes: B batch, F input features, D latent.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.models.autoencoder import Autoencoder
from dkm.models.regularization import l2_penalty


class LossTerms(NamedTuple):
    """Scalars: what is minimized, and its parts before their weights."""

    total: Tensor
    reconstruction: Tensor
    clustering: Tensor
    l2: Tensor


class Objective(nn.Module):
    """Autoencoder and clustering under one loss.

    Parameters
    ----------
    clustering : KMeansClustering or None
        None while pretraining.
    weight : float
        Of the clustering loss, which is summed over latent dimensions and averaged over samples.
    reconstruction : float
        Weight of the reconstruction error. With 0 it is computed to be seen, and nothing learns from it.
    reduction : {"mean", "sum"}
        Of the reconstruction error: averaged over samples and features, or summed over features and averaged over
        samples.
    penalized : sequence of Parameter
        What the explicit L2 penalty is taken over; empty where the optimizer's weight decay does it, or nothing.
    strength : float
        Of the penalty: ``strength / 2 * sum(w^2)``.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        clustering: KMeansClustering | None,
        *,
        weight: float = 0.0,
        reconstruction: float = 1.0,
        reduction: str = "mean",
        penalized: Sequence[nn.Parameter] = (),
        strength: float = 0.0,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.clustering = clustering
        self.weight = weight
        self.reconstruction = reconstruction
        self.reduction = reduction
        self.strength = strength
        self._penalized = tuple(penalized)  # a tuple: they are already registered where they belong

    def forward(self, x: Tensor, index: Tensor, share: float = 1.0) -> LossTerms:
        """Return the loss terms of a batch.

        Parameters
        ----------
        x : Tensor of shape (B, F)
        index : Tensor of shape (B,)
            Its positions in the data set.
        share : float
            What the terms that are means over samples are multiplied by. With W processes, W times this one's part of
            the rows, so that the mean over the processes is the mean over the whole batch.
        """
        z = self.autoencoder.encode(x)  # (B, D)
        learns = self.reconstruction > 0 and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns):
            x_hat = self.autoencoder.decode(z).to(x.dtype)  # (B, F); half precision under autocast
        reconstruction = F.mse_loss(x_hat, x)
        if self.reduction == "sum":
            reconstruction = reconstruction * x.shape[1]
        zero = reconstruction.new_zeros(())
        clustering = zero if self.clustering is None else self.clustering.loss(z, index)
        if share != 1:
            reconstruction, clustering = share * reconstruction, share * clustering
        l2 = l2_penalty(self._penalized) if self._penalized else zero
        total = self.reconstruction * reconstruction
        if self.clustering is not None:
            total = total + self.weight * clustering
        if self._penalized:
            total = total + self.strength * l2
        return LossTerms(total, reconstruction, clustering, l2)
