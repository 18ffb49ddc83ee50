"""The clusters of an embedding: the nearest centroid of each point, and what follows from it."""

# Shapes: N points, D latent, K clusters.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.clustering.assignment import nearest_centroids, squared_distances_to
from dkm.clustering.labels import cluster_sizes
from dkm.errors import input_error

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clusters:
    """Points assigned to their nearest centroids; distances are Euclidean, in the embedding."""

    labels: npt.NDArray[np.int64]  # (N,)
    squared_distance: Tensor  # (N,) to the centroid of the cluster
    centroids: Tensor  # (K, D)
    # (N,) to the second nearest centroid; None where it was not searched for, or with one cluster.
    second_squared_distance: Tensor | None = None

    @property
    def distance(self) -> Float32Array:
        """The distances (N,) to the centroids of the clusters."""
        return _roots(self.squared_distance)

    @property
    def margin(self) -> Float32Array | None:
        """How much farther (N,) the second nearest centroid is; None where it is not known."""
        if self.second_squared_distance is None:
            return None
        return _roots(self.second_squared_distance) - self.distance

    @property
    def inertia(self) -> float:
        """The sum of the squared distances, in float64."""
        return float(self.squared_distance.cpu().numpy().sum(dtype=np.float64))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of points (K,) in each cluster."""
        return cluster_sizes(self.labels, len(self.centroids))


def _roots(squares: Tensor) -> Float32Array:
    """Return the square roots as an array.

    torch's: on a CPU those of NumPy differ from them in the last bit, which the files of a run show.
    """
    return squares.sqrt().cpu().numpy()


@torch.no_grad()
def assign_clusters(z: Tensor, centroids: Tensor, *, with_margin: bool = False) -> Clusters:
    """Assign the points to their nearest centroids.

    Parameters
    ----------
    z : float Tensor of shape (N, D)
    centroids : float Tensor of shape (K, D)
    with_margin : bool
        Also search for the second nearest centroid, which the margin takes.
    """
    n_nearest = min(2 if with_margin else 1, len(centroids))
    nearest = nearest_centroids(z, centroids, n_nearest)  # (N, n_nearest)
    first, *second = (squared_distances_to(z, centroids, nearest[:, n]) for n in range(n_nearest))
    return Clusters(nearest[:, 0].cpu().numpy(), first, centroids, second[0] if second else None)


def require_finite_distances(clusters: Clusters, position: npt.NDArray[np.int64], source: str) -> None:
    """Refuse rows whose distances to the centroids overflow float32.

    Parameters
    ----------
    clusters : Clusters
    position : int array, shape (N,)
        Positions of the rows in ``source``.
    source : str
        What names the rows in the message.

    Raises
    ------
    UserError
    """
    far = np.flatnonzero(~np.isfinite(clusters.squared_distance.cpu().numpy()))
    if len(far):
        found = f"rows whose distance to every centroid is infinite, the first is row {position[far[0]]:,}"
        expected = "values like those of the training data"
        raise input_error(source, f"{len(far):,} {found} (counted from 0)", expected, "correct or leave out the rows")
