"""The numbers that the steps of an epoch leave behind."""

# Shapes: S steps of an epoch, D latent, K clusters.

from __future__ import annotations

import math

import torch
from torch import Tensor

from dkm.training.objective import LossTerms


class EpochSteps:
    """Loss terms and gradient norms of the steps of one epoch.

    They stay on the device and are read once per epoch, so that no step waits for the device.

    Parameters
    ----------
    n_steps : int
        S.
    centroids : Tensor of shape (K, D)
        Gives shape and device.

    Attributes
    ----------
    values : Tensor of shape (S, 6)
        Terms and norm of each step, for a checkpoint; nan for steps that were not made.
    terms : Tensor of shape (S, 5)
        The ``LossTerms``; a view of ``values``.
    norms : Tensor of shape (S,)
        The gradient norms, nan where they were not computed; a view of ``values``.
    centroids_before : Tensor of shape (K, D)
        The centroids at the start of the epoch, on the CPU.
    """

    def __init__(self, n_steps: int, centroids: Tensor) -> None:
        self.values = torch.full((n_steps, len(LossTerms._fields) + 1), math.nan, device=centroids.device)
        self.terms, self.norms = self.values[:, :-1], self.values[:, -1]
        self.centroids_before = torch.zeros(centroids.shape)

    def start_epoch(self, centroids: Tensor) -> None:
        """Forget the last epoch, and keep the centroids (K, D)."""
        self.values.fill_(math.nan)
        self.centroids_before = centroids.detach().cpu().clone()

    def last_norm(self) -> float | None:
        """Return the gradient norm of the last step; None if it was not computed."""
        norm = self.norms[-1].item()
        return None if math.isnan(norm) else norm
