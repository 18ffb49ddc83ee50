"""What every clustering loss is: a module that owns the centroids and all other state of its method.

The trainer calls ``initialize`` once, then in every epoch ``start_epoch``, ``forward`` for each batch, ``after_step``
after each optimizer step and ``end_epoch`` with the embedding of all rows. It never writes into the buffers of a
method. Whatever a method must remember is a parameter or a buffer, so that ``state_dict`` is the whole truth.
"""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from dkm.clustering.assignment import assign
from dkm.runtime import distributed


class Reassignment(NamedTuple):
    """The result of the pass over all rows at the end of an epoch.

    ``label_change`` is the fraction of the labels that differ from those of the last pass, ``n_dead`` the number of
    centroids without a point, ``revived`` (M,) the indices of the centroids that were moved to a point.
    """

    label_change: float
    n_dead: int
    revived: Tensor


class ClusteringLoss(nn.Module):
    """Base class of the clustering losses.

    A subclass implements ``forward`` and, where its method needs them, the other hooks.

    Parameters
    ----------
    n_clusters, latent_dim, n_samples : int
        K, D and N.

    Attributes
    ----------
    centroids : Parameter of shape (K, D)
        Zero until ``initialize``.
    assignments : Tensor of shape (N,), int64
        The cluster of each row, from ``initialize`` or the last ``end_epoch``.

    Raises
    ------
    ValueError
        If a number is below 1.
    """

    assignments: Tensor

    def __init__(self, n_clusters: int, latent_dim: int, n_samples: int) -> None:
        super().__init__()
        if min(n_clusters, latent_dim, n_samples) < 1:
            raise ValueError(
                f"expected n_clusters, latent_dim and n_samples of 1 or more, "
                f"got {n_clusters}, {latent_dim} and {n_samples}"
            )
        self.centroids = nn.Parameter(torch.zeros(n_clusters, latent_dim))
        self.register_buffer("assignments", torch.zeros(n_samples, dtype=torch.int64))

    @classmethod
    def from_config(cls, config: Any, *, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int) -> Self:
        """Build the loss from the settings of its method; ``n_epochs`` is the length of the joint phase."""
        return cls(n_clusters, latent_dim, n_samples)

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        """Return the loss of a batch, summed over latent dimensions and averaged over points.

        Parameters
        ----------
        z : Tensor of shape (B, D)
            The embedding of the batch.
        index : Tensor of shape (B,), int64
            The positions of its rows in the data set.

        Returns
        -------
        Tensor, scalar
        """
        raise NotImplementedError

    @torch.no_grad()
    def initialize(self, centroids: Tensor, labels: Tensor, z: Tensor) -> None:
        """Set the clusters at the start of the joint phase, or after the weights were reset.

        Parameters
        ----------
        centroids : Tensor of shape (K, D)
        labels : Tensor of shape (N,), int64
            Need not be those of the nearest centroids.
        z : Tensor of shape (N, D)
            The embedding of all rows.
        """
        self.centroids.copy_(centroids)
        self.assignments.copy_(labels)

    def start_epoch(self, epoch: int) -> None:
        """Prepare for a joint epoch, also in the middle of it after a restart; ``epoch`` epochs have ended before."""

    def hold_labels(self) -> None:
        """Keep the labels of ``initialize`` for the whole phase; no effect in a method whose loss does not use them."""

    def is_refresh_due(self, step: int) -> bool:
        """Return whether ``refresh`` must be called before this step of the joint phase, counted from 0."""
        return False

    def refresh(self, z: Tensor) -> None:
        """Compute what is held for some steps from the embedding z (N, D) of all rows."""

    def after_step(self, encode: Callable[[], Tensor]) -> None:
        """Update the state after an optimizer step.

        Parameters
        ----------
        encode : callable
            Returns the embedding (B, D) of this process's share of the batch under the new weights.
        """

    @torch.no_grad()
    def end_epoch(self, z: Tensor) -> Reassignment:
        """Assign all rows to their nearest centroids; z (N, D) is their embedding."""
        labels = assign(z, self.centroids).labels
        return self._keep(labels, self._dead(labels))

    def broadcast(self) -> None:
        """Copy centroids and assignments of the first process to all others."""
        distributed.broadcast_(self.centroids.detach())
        distributed.broadcast_(self.assignments)

    def _dead(self, labels: Tensor) -> Tensor:
        """Return the indices of the centroids that none of the labels (N,) names."""
        return (torch.bincount(labels, minlength=len(self.centroids)) == 0).nonzero()[:, 0]

    def _keep(self, labels: Tensor, dead: Tensor, revived: Tensor | None = None) -> Reassignment:
        """Make labels (N,) the assignments and return what changed."""
        reassignment = self._compare(labels, dead, revived)
        self.assignments.copy_(labels)
        return reassignment

    def _compare(self, labels: Tensor, dead: Tensor, revived: Tensor | None = None) -> Reassignment:
        """Return what labels (N,) would change in the assignments."""
        label_change = (labels != self.assignments).double().mean().item()
        return Reassignment(label_change, len(dead), dead[:0] if revived is None else revived)

    def extra_repr(self) -> str:
        K, D = self.centroids.shape
        return f"n_clusters={K}, latent_dim={D}"


class NoClustering(ClusteringLoss):
    """The method ``none``: there is no joint phase, and the centroids are those of k-means on the embedding."""
