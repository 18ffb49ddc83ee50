"""From a config to the module of its method."""

# Shapes: B batch, N points of the data set, D latent, K clusters.

from __future__ import annotations

from dkm.clustering.losses.custom import as_clustering
from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.clustering import METHODS, ClusteringConfig, KMeansConfig, NoClusteringConfig


def build_clustering(
    config: ClusteringConfig, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int
) -> KMeansClustering:
    """Return the module of the method that ``config`` names; that of ``none`` only holds the clusters of k-means.

    ``n_epochs`` are those of the joint phase.
    """
    loss = METHODS[config.name].load()
    sizes = (n_clusters, latent_dim, n_samples)
    clustering: KMeansClustering
    if isinstance(config, NoClusteringConfig):
        return KMeansClustering(*sizes, hold_assignments=False, revive=False)
    if isinstance(config, KMeansConfig):
        return KMeansClustering(
            *sizes,
            hold_assignments=config.assignment == "epoch",
            revive=config.revive,
            initial_epochs=config.initial_epochs,
            centroids=config.centroids,
            n_epochs=n_epochs if config.self_paced else None,
            norm_weight=config.norm_weight,
        )
    if hasattr(loss, "from_config"):
        clustering = loss.from_config(
            config, n_clusters=n_clusters, latent_dim=latent_dim, n_samples=n_samples, n_epochs=n_epochs
        )
    else:
        clustering = loss(config, *sizes)
    return as_clustering(clustering, *sizes, f"clustering={config.name}")
