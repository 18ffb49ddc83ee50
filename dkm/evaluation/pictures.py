"""The figures of a run, drawn from its embedding and clusters."""

# Shapes: N samples, F input features, D latent, K clusters, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dkm.clustering.labels import cluster_sizes, contingency
from dkm.data.datasets import Dataset
from dkm.evaluation import metrics
from dkm.evaluation.exemplars import Contrast, Exemplars
from dkm.models.autoencoder import Autoencoder

if TYPE_CHECKING:
    pass
from dkm.data.sampling import sample_row_indices
from dkm.evaluation.clusters import Clusters
from dkm.evaluation.evaluator import Evaluator

_N_SHOWN = 20


# Points of the figure of silhouettes, which compares all pairs, and of the projector.
_N_SILHOUETTES, _N_PROJECTED = 2000, 5000


@torch.no_grad()
def pictures(
    autoencoder: Autoencoder,
    evaluator: Evaluator,
    z: Tensor,
    centroids: Tensor,
    found: Clusters | None,
    before: np.ndarray | None,
    method: str,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, figure) of what training looks like at an evaluation, and at the end.

    z (N, D) is the embedding, ``found`` its clusters, None in pretraining, ``before`` (N,) those of an earlier
    evaluation; ``method`` is how the embedding is laid out, see ``dkm.evaluation.figures.plane``.
    """
    from dkm.evaluation.figures.clusters import (
        contingency_map,
        embedding_map,
    )
    from dkm.evaluation.figures.images import reconstruction_pairs

    data, batches, K = evaluator.data, evaluator.batches, len(centroids)
    if data.image_shape is not None:
        n_shown = min(_N_SHOWN, data.n_samples)
        picks = torch.arange(n_shown) * (data.n_samples - 1) // max(n_shown - 1, 1)
        x = batches.take(picks)
        both = (x, autoencoder.decode(autoencoder.encode(x)))
        pair = [data.scaling.for_pictures(t.view(-1, *data.image_shape).cpu().numpy()) for t in both]
        yield "reconstructions", reconstruction_pairs(*pair)
    if found is None:
        return
    if data.y is None and before is not None:
        table = contingency(before, found.labels, K, K)
        title = "Clusters of the last evaluation with pictures, and now"
        yield "agreement", contingency_map(table, title=title, rows="cluster before")
    yield "decoded_centroids", _centroid_figure(autoencoder, centroids, data, cluster_sizes(found.labels, K))
    mine, its = evaluator.sampled(z), evaluator.sampled_labels(found.labels)
    yield "embedding", embedding_map(mine, its, centroids.cpu().numpy(), method=method)
    if data.y is not None and data.n_classes is not None:
        table = contingency(data.y, found.labels, data.n_classes, K)
        yield "contingency", contingency_map(table, _class_names(data))


@torch.no_grad()
def _centroid_figure(autoencoder: Autoencoder, centroids: Tensor, data: Dataset, sizes: np.ndarray) -> Any:
    """Draw the decoded centroids, with the sizes (K,) of their clusters: images, or profiles over the features."""
    from dkm.evaluation.figures.clusters import (
        decoded_profiles,
    )
    from dkm.evaluation.figures.images import image_grid

    decoded = autoencoder.decode(centroids)
    if data.image_shape is None:
        return decoded_profiles(decoded.cpu().numpy(), data.features, sizes)
    images = data.scaling.for_pictures(decoded.view(-1, *data.image_shape).cpu().numpy())
    return image_grid(images, n_columns=10, titles=[f"{k}: {size:,}" for k, size in enumerate(sizes)])


@torch.no_grad()
def projection(
    autoencoder: Autoencoder, evaluator: Evaluator, z: Tensor, centroids: Tensor, found: Clusters
) -> tuple[np.ndarray, dict[str, list[object]], np.ndarray | None]:
    """Return what the projector shows: a sample of the points, always the same, and the centroids behind them.

    Returns
    -------
    Z : float array of shape (n + K, D)
    columns : dict of lists of n + K
        kind (point or centroid), index, cluster, label where there are some, margin.
    images : float array of shape (n + K, C, H, W)
        Of image data, the centroids decoded; else None.
    """
    data, K = evaluator.data, len(centroids)
    rows = sample_row_indices(data.n_samples, _N_PROJECTED)
    columns: dict[str, list[object]] = {
        "cluster": [*found.labels[rows].tolist(), *range(K)],
        "kind": [*["point"] * len(rows), *["centroid"] * K],
        "index": [*rows.tolist(), *[""] * K],
    }
    if data.labels is not None:
        columns["label"] = [*(_on_one_line(label) for label in data.labels[rows]), *[""] * K]
    if found.margin is not None:
        columns["margin"] = [*(f"{margin:.4g}" for margin in found.margin[rows]), *[""] * K]
    Z = torch.cat([z[torch.from_numpy(rows).to(z.device)], centroids]).cpu().numpy()
    images = None
    if data.image_shape is not None:
        decoded = autoencoder.decode(centroids).cpu().numpy()
        images = np.concatenate([evaluator.rows(rows), decoded]).reshape(-1, *data.image_shape)
        images = data.scaling.for_pictures(images)
    return Z, columns, images


def _class_names(data: Dataset) -> list[str] | None:
    """Return what the classes are called in the data."""
    return None if data.classes is None else [str(name) for name in data.classes]


def _on_one_line(label: object) -> str:
    """Return a label without what would end its cell in the projector's table."""
    return " ".join(str(label).split())


def final_figures(
    data: Dataset,
    evaluator: Evaluator,
    z: Tensor,
    centroids: Tensor,
    clustering: Clusters,
    found: list[Exemplars],
    found_contrast: Contrast | None,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, figure) of what is drawn at the end of a run only; the contrast is that of a table."""
    from dkm.evaluation.figures.clusters import (
        cluster_sizes_bar,
        contrast_map,
        margin_histogram,
        silhouette_plot,
    )
    from dkm.evaluation.figures.images import exemplar_grid

    K = len(centroids)
    sizes = cluster_sizes(clustering.labels, K)
    picks = sample_row_indices(len(z), _N_SILHOUETTES)
    silhouettes = metrics.silhouettes(z[torch.from_numpy(picks).to(z.device)].cpu().numpy(), clustering.labels[picks])
    if silhouettes is not None:
        yield "silhouettes", silhouette_plot(silhouettes, clustering.labels[picks], K)
    if clustering.margin is not None:
        yield "margins", margin_histogram(clustering.margin, clustering.labels, K)
    yield "cluster_sizes", cluster_sizes_bar(sizes)
    if data.image_shape is not None:
        for name in Exemplars._fields:
            rows = [getattr(exemplars, name) for exemplars in found]
            if any(len(some) for some in rows):
                images = _images_of(rows, data.image_shape, evaluator)
                yield "exemplars" if name == "nearest" else f"exemplars_{name}", exemplar_grid(images, sizes)
    elif found_contrast is not None:
        yield "features", contrast_map(found_contrast.difference, data.features)


def _images_of(rows: list[np.ndarray], image_shape: tuple[int, int, int], evaluator: Evaluator) -> np.ndarray:
    """Return the images (K, M, C, H, W) of K lists of rows, nan where a list is shorter than the longest."""
    images = np.full((len(rows), max(map(len, rows)), *image_shape), np.nan, np.float32)
    for k, some in enumerate(rows):
        if len(some):
            rows_of_k = evaluator.rows(some).reshape(-1, *image_shape)
            images[k, : len(some)] = evaluator.data.scaling.for_pictures(rows_of_k)
    return images
