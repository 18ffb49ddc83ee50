"""Use the user's own clustering loss: ``clustering=custom clustering.class=package.Class``."""

# Shapes: B batch, D latent, K clusters.

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dkm.clustering.losses.base import ClusteringLoss
from dkm.config.clustering import CustomClusteringConfig
from dkm.config.custom import class_of, construct, import_named
from dkm.errors import UserError


class CustomClustering(ClusteringLoss):
    """Adapter that gives a module with ``forward(z, index)`` and ``centroids`` the interface of ``ClusteringLoss``.

    The optimizer updates its parameters; empty clusters are not revived.
    """

    def __init__(self, module: nn.Module, centroids: nn.Parameter, n_samples: int) -> None:
        n_clusters, latent_dim = centroids.shape
        super().__init__(n_clusters, latent_dim, n_samples)
        self.module = module
        self.centroids = centroids  # one parameter under two names

    @classmethod
    def from_config(  # type: ignore[override]
        cls, config: CustomClusteringConfig, *, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int
    ) -> ClusteringLoss:
        """Build the loss that the config names; a subclass of ``ClusteringLoss`` is returned unchanged.

        Raises
        ------
        UserError
            If the class cannot be imported or called, or its instance is not a clustering loss.
        """
        name = class_of(config)
        given = {"n_clusters": n_clusters, "latent_dim": latent_dim, "n_samples": n_samples, "n_epochs": n_epochs}
        module: Any = construct("clustering", import_named("clustering.class", name), given, config.options)
        return as_clustering(module, n_clusters, latent_dim, n_samples, f"clustering.class={name}")

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        loss: Tensor = self.module(z, index)
        return loss


def as_clustering(module: Any, n_clusters: int, latent_dim: int, n_samples: int, key: str) -> ClusteringLoss:
    """Wrap a module as a ``ClusteringLoss``, unless it is one already; ``key`` names it in messages.

    Raises
    ------
    UserError
        If it is no module with centroids of this shape.
    """
    if isinstance(module, ClusteringLoss):
        return module
    expected = "expected a torch.nn.Module with forward(z, index) and a parameter centroids"
    if not isinstance(module, nn.Module):
        raise UserError(f"{key}: {expected}, got {type(module).__name__}; derive the class from torch.nn.Module")
    centroids = getattr(module, "centroids", None)
    if not isinstance(centroids, nn.Parameter) or centroids.shape != (n_clusters, latent_dim):
        found = f"shape {tuple(centroids.shape)}" if isinstance(centroids, nn.Parameter) else "no parameter"
        raise UserError(
            f"{key}: {expected} of shape (n_clusters, latent_dim), here ({n_clusters}, {latent_dim}), got {found}; "
            "set self.centroids = nn.Parameter(torch.zeros(n_clusters, latent_dim))"
        )
    return CustomClustering(module, centroids, n_samples)
