"""From a config to the module of its method."""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from dkm.clustering.losses.dcn import DCNClustering
from dkm.clustering.losses.dec import DECClustering
from dkm.clustering.losses.dkm import DKMClustering
from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.clustering import ClusteringConfig, DCNConfig, DECConfig, DKMConfig, KMeansConfig


def build_clustering(
    config: ClusteringConfig, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int
) -> KMeansClustering:
    """Return the module of the method that ``config`` names; that of ``none`` only holds the clusters of k-means.

    ``n_epochs`` are those of the joint phase.
    """
    if isinstance(config, DKMConfig):
        return DKMClustering(config, n_clusters, latent_dim, n_samples)
    if isinstance(config, DCNConfig):
        return DCNClustering(config, n_clusters, latent_dim, n_samples)
    if isinstance(config, DECConfig):
        return DECClustering(config, n_clusters, latent_dim, n_samples)
    if isinstance(config, KMeansConfig):
        return KMeansClustering(
            n_clusters,
            latent_dim,
            n_samples,
            hold_assignments=config.assignment == "epoch",
            revive=config.revive,
            initial_epochs=config.initial_epochs,
            centroids=config.centroids,
            n_epochs=n_epochs if config.self_paced else None,
            norm_weight=config.norm_weight,
        )
    return KMeansClustering(n_clusters, latent_dim, n_samples, hold_assignments=False, revive=False)
