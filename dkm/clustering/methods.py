"""Build the clustering loss of a config."""

from __future__ import annotations

from dkm.clustering.losses.base import ClusteringLoss
from dkm.clustering.losses.custom import as_clustering
from dkm.config.clustering import METHODS, ClusteringConfig
from dkm.runtime.seeding import SeededDraws


def build_clustering(
    config: ClusteringConfig, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int
) -> ClusteringLoss:
    """Return the loss of the method that ``config`` names; ``n_epochs`` is the length of the joint phase."""
    loss = METHODS[config.name].load()
    with SeededDraws(0):  # a loss may draw its initial values; those of the centroids are replaced at initialization
        clustering = loss.from_config(
            config, n_clusters=n_clusters, latent_dim=latent_dim, n_samples=n_samples, n_epochs=n_epochs
        )
    return as_clustering(clustering, n_clusters, latent_dim, n_samples, f"clustering={config.name}")
