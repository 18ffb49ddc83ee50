"""From a config to the loss of its method."""

from __future__ import annotations

from dkm.clustering.losses.base import ClusteringLoss, NoClustering
from dkm.clustering.losses.dcn import DCNClustering
from dkm.clustering.losses.dec import DECClustering
from dkm.clustering.losses.dkm import DKMClustering
from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.clustering import ClusteringConfig

_LOSSES: dict[str, type[ClusteringLoss]] = {
    "kmeans": KMeansClustering,
    "dkm": DKMClustering,
    "dcn": DCNClustering,
    "dec": DECClustering,
    "idec": DECClustering,
    "none": NoClustering,
}


def build_clustering(
    config: ClusteringConfig, n_clusters: int, latent_dim: int, n_samples: int, n_epochs: int
) -> ClusteringLoss:
    """Return the loss of the method that ``config`` names; ``n_epochs`` is the length of the joint phase."""
    return _LOSSES[config.name].from_config(
        config, n_clusters=n_clusters, latent_dim=latent_dim, n_samples=n_samples, n_epochs=n_epochs
    )
