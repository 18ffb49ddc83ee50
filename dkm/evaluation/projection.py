"""What TensorBoard's projector shows of a run: a sample of the points, and the centroids behind them."""

# Shapes: n points of the sample, F input features, D latent, K clusters, C channels, H height, W width.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dkm.data.sampling import sample_row_indices
from dkm.evaluation.clusters import Clusters
from dkm.evaluation.evaluator import Evaluator
from dkm.models.autoencoder import Autoencoder, evaluation_mode

_N_POINTS = 5000
# Pixels that are read for it at most, 512 MB: of large images fewer are shown.
_MAX_VALUES = 2**27


class Projection(NamedTuple):
    """Points and centroids of an embedding."""

    Z: np.ndarray  # (n + K, D)
    # Of n + K values: cluster, kind (point or centroid), index, label where there are some, margin.
    columns: dict[str, list[object]]
    # (n + K, 1 or 3, H, W) of image data, the centroids decoded.
    images: np.ndarray | None


@torch.no_grad()
def project(autoencoder: Autoencoder, evaluator: Evaluator, z: Tensor, clusters: Clusters) -> Projection:
    """Return always the same points of z (N, D), and all centroids."""
    data, centroids = evaluator.data, clusters.centroids
    K = len(centroids)
    n_points = _N_POINTS if data.image_shape is None else min(_N_POINTS, max(1, _MAX_VALUES // data.n_features))
    rows = sample_row_indices(data.n_samples, n_points)
    columns: dict[str, list[object]] = {
        "cluster": [*clusters.labels[rows].tolist(), *range(K)],
        "kind": [*["point"] * len(rows), *["centroid"] * K],
        "index": [*rows.tolist(), *[""] * K],
    }
    if data.labels is not None:
        # Tabs and line breaks would end a cell of the projector's table.
        columns["label"] = [*(" ".join(str(label).split()) for label in data.labels[rows]), *[""] * K]
    if clusters.margin is not None:
        columns["margin"] = [*(f"{margin:.4g}" for margin in clusters.margin[rows]), *[""] * K]
    Z = torch.cat([z[torch.from_numpy(rows).to(z.device)], centroids]).cpu().numpy()
    images = None
    if data.image_shape is not None:
        with evaluation_mode(autoencoder):
            decoded = autoencoder.decode(centroids).cpu().numpy()
        images = data.to_pictures(np.concatenate([evaluator.rows(rows), decoded]))
    return Projection(Z, columns, images)
