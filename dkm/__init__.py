"""Deep embedded clustering with a k-means loss.

The public names are resolved on first use (PEP 562). ``import dkm`` does not import torch; the losses and ``kmeans``
import nothing but torch and numpy; ``DeepKMeans`` imports the whole application.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dkm.installation import VERSION

if TYPE_CHECKING:
    from dkm.clustering.functional import kmeans_loss, soft_kmeans_loss
    from dkm.clustering.lloyd import kmeans
    from dkm.clustering.losses.kmeans import KMeansLoss
    from dkm.estimator import DeepKMeans
    from dkm.models.regularization import l2_penalty

__all__ = ["DeepKMeans", "KMeansLoss", "kmeans", "kmeans_loss", "l2_penalty", "soft_kmeans_loss"]
__version__ = VERSION

_HOME = {
    "DeepKMeans": "dkm.estimator",
    "KMeansLoss": "dkm.clustering.losses.kmeans",
    "kmeans": "dkm.clustering.lloyd",
    "kmeans_loss": "dkm.clustering.functional",
    "l2_penalty": "dkm.models.regularization",
    "soft_kmeans_loss": "dkm.clustering.functional",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dkm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
