"""The figures of a run: ``FIGURES`` says when each is drawn and from what.

``dkm.training.recorder`` iterates ``FIGURES`` and shows what comes out on the dashboard and in ``figures/``. A new
figure is a function of a ``RunContext`` and an entry here. Imports matplotlib: import it where there is something to
draw.
"""

# Shapes: N samples, D latent, K clusters, M exemplars, C channels, H height, W width.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure as Drawing
from torch import Tensor

from dkm.clustering.labels import contingency
from dkm.data.datasets import Dataset
from dkm.data.sampling import sample_row_indices
from dkm.errors import UserError, in_short
from dkm.evaluation import metrics
from dkm.evaluation.clusters import Clusters
from dkm.evaluation.evaluator import Evaluator
from dkm.evaluation.exemplars import Contrast, Exemplars
from dkm.evaluation.figures.clusters import (
    cluster_sizes_bar,
    contingency_map,
    contrast_map,
    decoded_profiles,
    embedding_map,
    margin_histogram,
    silhouette_plot,
)
from dkm.evaluation.figures.images import exemplar_grid, image_grid, reconstruction_pairs
from dkm.evaluation.figures.training import loss_curves
from dkm.models.autoencoder import Autoencoder, evaluation_mode

log = logging.getLogger(__name__)

_N_RECONSTRUCTIONS = 20
# Points of the figure of silhouettes, which compares all pairs.
_N_SILHOUETTES = 2000


@dataclass(frozen=True)
class RunContext:
    """What is known of a run when its figures are drawn."""

    autoencoder: Autoencoder
    evaluator: Evaluator
    z: Tensor  # (N, D)
    # None in pretraining.
    clusters: Clusters | None = None
    # The clusters (N,) of the last evaluation with figures in this process.
    labels_before: np.ndarray | None = None
    # How the embedding is laid out in two dimensions, see ``dkm.evaluation.figures.plane``.
    map_method: str = "pca"
    # At the end only: the lines of metrics.jsonl, the exemplars of each cluster, and the contrast of a table.
    records: Sequence[Mapping[str, Any]] = ()
    exemplars: Sequence[Exemplars] = ()
    contrast: Contrast | None = None

    @property
    def data(self) -> Dataset:
        return self.evaluator.data


@dataclass(frozen=True)
class Figure:
    """Everything that there is to say about a figure of a run."""

    # The name of its file in figures/, and the last part of its tags.
    name: str
    # At evaluations and at the end, or at the end only.
    when: Literal["evaluation", "end"]
    # Returns None where there is nothing to draw.
    function: Callable[[RunContext], Drawing | None]


def draw_figures(context: RunContext, *, at_end: bool) -> Iterator[tuple[Figure, Drawing | None]]:
    """Draw the figures of an evaluation, or all of them at the end; None for those that do not apply, or went wrong."""
    for figure in FIGURES.values():
        if at_end or figure.when == "evaluation":
            drawing = None
            try:
                with torch.no_grad(), evaluation_mode(context.autoencoder):
                    drawing = figure.function(context)
            except UserError:  # the data have changed
                raise
            except Exception as error:  # also of a function of the user's own: no picture is worth a run
                told = f"{type(error).__name__}: {in_short(error)}"
                log.warning("figure %s was not drawn (%s); the run goes on", figure.name, told)
            yield figure, drawing


# --- at evaluations ---------------------------------------------------------------------------------------------------


def _reconstructions(context: RunContext) -> Drawing | None:
    data, evaluator, autoencoder = context.data, context.evaluator, context.autoencoder
    if data.image_shape is None:
        return None
    n_shown = min(_N_RECONSTRUCTIONS, data.n_samples)
    index = torch.arange(n_shown) * (data.n_samples - 1) // max(n_shown - 1, 1)  # evenly spaced
    x = evaluator.batches.take(index)
    x_hat = autoencoder.decode(autoencoder.encode(x))
    return reconstruction_pairs(*(data.to_pictures(rows.cpu().numpy()) for rows in (x, x_hat)))


def _agreement(context: RunContext) -> Drawing | None:
    """Draw the clusters against those before; with labels the classes take their place."""
    if context.data.y is not None or context.clusters is None or context.labels_before is None:
        return None
    K = len(context.clusters.centroids)
    table = contingency(context.labels_before, context.clusters.labels, K, K)
    return contingency_map(table, title="Clusters of the last evaluation with pictures, and now", rows="cluster before")


def _decoded_centroids(context: RunContext) -> Drawing | None:
    """Draw the decoded centroids with the sizes of their clusters: images, or profiles over the features."""
    data, clusters = context.data, context.clusters
    if clusters is None:
        return None
    decoded = context.autoencoder.decode(clusters.centroids).cpu().numpy()
    if data.image_shape is None:
        return decoded_profiles(decoded, data.features, clusters.sizes)
    titles = [f"{k}: {size:,}" for k, size in enumerate(clusters.sizes)]
    return image_grid(data.to_pictures(decoded), n_columns=10, titles=titles)


def _embedding(context: RunContext) -> Drawing | None:
    evaluator, clusters = context.evaluator, context.clusters
    if clusters is None:
        return None
    Z, labels = evaluator.sampled(context.z), evaluator.sampled_labels(clusters.labels)
    return embedding_map(Z, labels, clusters.centroids.cpu().numpy(), method=context.map_method)


def _contingency(context: RunContext) -> Drawing | None:
    data, clusters = context.data, context.clusters
    if clusters is None or data.y is None or data.n_classes is None:
        return None
    table = contingency(data.y, clusters.labels, data.n_classes, len(clusters.centroids))
    return contingency_map(table, None if data.classes is None else [str(name) for name in data.classes])


# --- at the end -------------------------------------------------------------------------------------------------------


def _silhouettes(context: RunContext) -> Drawing | None:
    if context.clusters is None:
        return None
    rows = sample_row_indices(len(context.z), _N_SILHOUETTES)
    Z, labels = context.z[torch.from_numpy(rows).to(context.z.device)].cpu().numpy(), context.clusters.labels[rows]
    silhouettes = metrics.silhouettes(Z, labels)
    return None if silhouettes is None else silhouette_plot(silhouettes, labels, len(context.clusters.centroids))


def _margins(context: RunContext) -> Drawing | None:
    clusters = context.clusters
    if clusters is None or clusters.margin is None:
        return None
    return margin_histogram(clusters.margin, clusters.labels, len(clusters.centroids))


def _cluster_sizes(context: RunContext) -> Drawing | None:
    return None if context.clusters is None else cluster_sizes_bar(context.clusters.sizes)


def _exemplars(context: RunContext, *, kind: str) -> Drawing | None:
    data, clusters = context.data, context.clusters
    rows_by_cluster = [getattr(exemplars, kind) for exemplars in context.exemplars]
    if clusters is None or data.image_shape is None or not any(len(rows) for rows in rows_by_cluster):
        return None
    # (K, M, C, H, W) with 1 or 3 channels, nan where a cluster has fewer exemplars than the others.
    M = max(map(len, rows_by_cluster))
    n_channels = 3 if data.image_shape[0] in (3, 4) else 1
    images = np.full((len(rows_by_cluster), M, n_channels, *data.image_shape[1:]), np.nan, np.float32)
    for k, rows in enumerate(rows_by_cluster):
        if len(rows):
            images[k, : len(rows)] = data.to_pictures(context.evaluator.rows(rows))
    return exemplar_grid(images, clusters.sizes)


def _features(context: RunContext) -> Drawing | None:
    return None if context.contrast is None else contrast_map(context.contrast.difference, context.data.features)


def _loss_curves(context: RunContext) -> Drawing:
    return loss_curves(context.records)


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("reconstructions", "evaluation", _reconstructions),
        Figure("agreement", "evaluation", _agreement),
        Figure("decoded_centroids", "evaluation", _decoded_centroids),
        Figure("embedding", "evaluation", _embedding),
        Figure("contingency", "evaluation", _contingency),
        Figure("silhouettes", "end", _silhouettes),
        Figure("margins", "end", _margins),
        Figure("cluster_sizes", "end", _cluster_sizes),
        Figure("exemplars", "end", partial(_exemplars, kind="nearest")),
        Figure("exemplars_least_certain", "end", partial(_exemplars, kind="least_certain")),
        Figure("features", "end", _features),
        Figure("loss_curves", "end", _loss_curves),
    )
}
