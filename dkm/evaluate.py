"""Evaluation: encode a data set, score a clustering, draw what a person wants to see.

Labels come in here and nowhere else, and only scores come out.
"""

# Shapes: N samples, F input features, D latent, K clusters, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dkm import distributed, metrics
from dkm.batches import Batches
from dkm.config import EvaluationConfig
from dkm.data import Dataset
from dkm.exemplars import Contrast, Exemplars
from dkm.kmeans import nearest_centroids, squared_distances_to
from dkm.models import Autoencoder
from dkm.stored import StoredRows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_N_SHOWN = 20
# Points of the figure of silhouettes, which compares all pairs, and of the projector.
_N_SILHOUETTES, _N_PROJECTED = 2000, 5000
# Of the graph on the data in which clusterings are compared.
_N_NEIGHBORS = 20
# Numbers in a sample of rows from disk: 1 GiB in float32.
_SAMPLE_NUMEL = 2**28

Scores = dict[str, float | None]


class Clustering(NamedTuple):
    """Nearest centroids of N points.

    ``labels`` (N,) int64; ``distance`` (N,) Euclidean, to the nearest centroid; ``margin`` (N,), how much farther the
    second nearest is, None with one cluster; ``inertia``, the sum of the squared distances.
    """

    labels: np.ndarray
    distance: np.ndarray
    margin: np.ndarray | None
    inertia: float


def sample_rows(n_samples: int, limit: int) -> Tensor | None:
    """Return which rows stand for all of more than ``limit``, in order, always the same ones; None for all rows."""
    if n_samples <= limit:
        return None
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(n_samples, generator=generator)[:limit].sort().values


def _picks(n_samples: int, limit: int) -> np.ndarray:
    """Return ``sample_rows`` as an array, also of all rows."""
    sample = sample_rows(n_samples, limit)
    return np.arange(n_samples) if sample is None else sample.numpy()


def sample_of(data: Dataset, limit: int, least: int = 1) -> Tensor | None:
    """Return ``sample_rows`` of a data set; of rows that stay on disk no more than take 1 GiB, or ``least``."""
    if isinstance(data.X, StoredRows):
        limit = min(limit, max(least, _SAMPLE_NUMEL // data.n_features))
    return sample_rows(data.n_samples, limit)


def every_row(function: Callable[[Tensor], Tensor], batches: Batches, width: int) -> Tensor:
    """Return ``function(rows)`` of all rows of the data in their order, computed in chunks, by each rank its share.

    Parameters
    ----------
    function : callable
        Maps rows (B, F) to (B, width).

    Returns
    -------
    float32 Tensor of shape (N, width)
    """
    result = torch.zeros(batches.n_samples, width, device=batches.device)
    for rows, x in batches.chunks():
        result[rows] = function(x)
    return distributed.sum_(result)


@torch.no_grad()
def encode(autoencoder: Autoencoder, batches: Batches, precision: str = "fp32") -> Tensor:
    """Return the embedding (N, D) of all rows as float32, computed in ``precision`` (fp32 or bf16)."""
    with torch.autocast(batches.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return every_row(autoencoder.encode, batches, autoencoder.latent_dim)


@torch.no_grad()
def cluster(z: Tensor, centroids: Tensor) -> Clustering:
    """Assign the points z (N, D) to the centroids (K, D)."""
    n_nearest = min(2, len(centroids))
    index = nearest_centroids(z, centroids, n_nearest)
    squared = torch.stack([squared_distances_to(z, centroids, index[:, rank]) for rank in range(n_nearest)])
    distance = squared.sqrt().cpu().numpy()
    margin = distance[1] - distance[0] if n_nearest == 2 else None
    return Clustering(index[:, 0].cpu().numpy(), distance[0], margin, metrics.inertia(squared[0].cpu().numpy()))


class Evaluator:
    """Scores clusterings of one data set.

    Scores that look at distances are taken on ``sample``, all rows where there are few.
    """

    def __init__(self, data: Dataset, batches: Batches, n_clusters: int, config: EvaluationConfig) -> None:
        self.sample = sample_of(data, config.samples)
        self.data = data
        self.batches = batches
        self._n_clusters = n_clusters
        self._silhouette_samples = config.silhouette_samples

    @cached_property
    def X(self) -> np.ndarray:
        """The rows of the sample in the space of the data."""
        return self.batches.take(self.sample).cpu().numpy()

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Return rows (M, F) of the data."""
        return self.batches.take(torch.from_numpy(index)).cpu().numpy()

    def sampled(self, z: Tensor) -> np.ndarray:
        """Return the rows of the sample of z (N, D)."""
        return (z if self.sample is None else z[self.sample.to(z.device)]).cpu().numpy()

    def sampled_labels(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels (N,) of the rows of the sample."""
        return labels if self.sample is None else labels[self.sample.numpy()]

    def scores(self, Z: np.ndarray, labels: np.ndarray, inertia: float, *, on_data: bool = False) -> Scores:
        """Score ``labels`` (N,) of all rows, found in the space of Z, which has the rows of the sample.

        Returns
        -------
        dict
            acc, nmi, ari where there are labels; silhouette, davies_bouldin, calinski_harabasz in the space of Z, which
            differs between clusterings, so they tell how compact each is and not which is right; silhouette_data (with
            ``on_data``), the same labels in the space of the data; modularity_data (with ``on_data``), how far they
            hang together there, which compares clusterings; inertia; n_effective_clusters. None where a score is
            undefined.
        """
        scores: Scores = {}
        if self.data.y is not None:
            scores |= metrics.label_scores(self.data.y, labels)
        scores |= self._label_free(Z, labels)
        scores["n_effective_clusters"] = metrics.effective_clusters(metrics.cluster_sizes(labels, self._n_clusters))
        if on_data:
            mine = self.sampled_labels(labels)
            scores["silhouette_data"] = metrics.silhouette(self.X, mine, max_samples=self._silhouette_samples)
            scores["modularity_data"] = self.modularity_data(labels)
        return scores | {"inertia": inertia}

    def modularity_data(self, labels: np.ndarray) -> float | None:
        """Return the modularity of the labels (N,) in a graph of nearest neighbors on the data themselves.

        The graph is the same for all clusterings of the data, however they were found, so it compares them. It has
        the rows of the sample, or ``evaluation.silhouette_samples`` of them.
        """
        if self._graph is None:
            return None
        rows, graph = self._graph
        return metrics.modularity(graph, self.sampled_labels(labels)[rows])

    @cached_property
    def _graph(self) -> tuple[np.ndarray, csr_array] | None:
        n_rows = min(len(self.X), self._silhouette_samples)
        rows = np.random.default_rng(0).choice(len(self.X), n_rows, replace=False)
        if n_rows < 2 or not np.isfinite(self.X[rows]).all():
            return None
        return rows, metrics.neighbor_graph(self.X[rows], _N_NEIGHBORS)

    def _label_free(self, Z: np.ndarray, labels: np.ndarray) -> Scores:
        mine = self.sampled_labels(labels)
        return metrics.label_free_scores(Z, mine, self._n_clusters, max_samples=self._silhouette_samples)


def embedding_variance(z: Tensor) -> float:
    """Return the total variance of the embedding (N, D), summed over dimensions; it goes to 0 in a collapse."""
    return z.var(0, correction=0).sum().item()


def smallest_centroid_distance(centroids: Tensor) -> float | None:
    """Return the distance of the two nearest centroids (K, D); None with one cluster."""
    if len(centroids) < 2:
        return None
    return torch.nn.functional.pdist(centroids.double()).min().item()


@torch.no_grad()
def pictures(
    autoencoder: Autoencoder,
    evaluator: Evaluator,
    z: Tensor,
    centroids: Tensor,
    found: Clustering | None,
    before: np.ndarray | None,
    method: str,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, figure) of what training looks like at an evaluation, and at the end.

    z (N, D) is the embedding, ``found`` its clusters, None in pretraining, ``before`` (N,) those of an earlier
    evaluation; ``method`` is how the embedding is laid out, see ``dkm.planar``.
    """
    from dkm import figures

    data, batches, K = evaluator.data, evaluator.batches, len(centroids)
    if data.image_shape is not None:
        n_shown = min(_N_SHOWN, data.n_samples)
        picks = torch.arange(n_shown) * (data.n_samples - 1) // max(n_shown - 1, 1)
        x = batches.take(picks)
        both = (x, autoencoder.decode(autoencoder.encode(x)))
        pair = [data.scaling.for_pictures(t.view(-1, *data.image_shape).cpu().numpy()) for t in both]
        yield "reconstructions", figures.reconstruction_pairs(*pair)
    if found is None:
        return
    if data.y is None and before is not None:
        table = metrics.contingency(before, found.labels, K, K)
        title = "Clusters of the last evaluation with pictures, and now"
        yield "agreement", figures.contingency_map(table, title=title, rows="cluster before")
    yield "decoded_centroids", _centroid_figure(autoencoder, centroids, data, metrics.cluster_sizes(found.labels, K))
    mine, its = evaluator.sampled(z), evaluator.sampled_labels(found.labels)
    yield "embedding", figures.embedding_map(mine, its, centroids.cpu().numpy(), method=method)
    if data.y is not None and data.n_classes is not None:
        table = metrics.contingency(data.y, found.labels, data.n_classes, K)
        yield "contingency", figures.contingency_map(table, _class_names(data))


@torch.no_grad()
def _centroid_figure(autoencoder: Autoencoder, centroids: Tensor, data: Dataset, sizes: np.ndarray) -> Any:
    """Draw the decoded centroids, with the sizes (K,) of their clusters: images, or profiles over the features."""
    from dkm import figures

    decoded = autoencoder.decode(centroids)
    if data.image_shape is None:
        return figures.decoded_profiles(decoded.cpu().numpy(), data.features, sizes)
    images = data.scaling.for_pictures(decoded.view(-1, *data.image_shape).cpu().numpy())
    return figures.image_grid(images, n_columns=10, titles=[f"{k}: {size:,}" for k, size in enumerate(sizes)])


@torch.no_grad()
def projection(
    autoencoder: Autoencoder, evaluator: Evaluator, z: Tensor, centroids: Tensor, found: Clustering
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
    rows = _picks(data.n_samples, _N_PROJECTED)
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
    clustering: Clustering,
    found: list[Exemplars],
    found_contrast: Contrast | None,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, figure) of what is drawn at the end of a run only; the contrast is that of a table."""
    from dkm import figures

    K = len(centroids)
    sizes = metrics.cluster_sizes(clustering.labels, K)
    picks = _picks(len(z), _N_SILHOUETTES)
    silhouettes = metrics.silhouettes(z[torch.from_numpy(picks).to(z.device)].cpu().numpy(), clustering.labels[picks])
    if silhouettes is not None:
        yield "silhouettes", figures.silhouette_plot(silhouettes, clustering.labels[picks], K)
    if clustering.margin is not None:
        yield "margins", figures.margin_histogram(clustering.margin, clustering.labels, K)
    yield "cluster_sizes", figures.cluster_sizes_bar(sizes)
    if data.image_shape is not None:
        for name in Exemplars._fields:
            rows = [getattr(exemplars, name) for exemplars in found]
            if any(len(some) for some in rows):
                images = _images_of(rows, data.image_shape, evaluator)
                yield "exemplars" if name == "nearest" else f"exemplars_{name}", figures.exemplar_grid(images, sizes)
    elif found_contrast is not None:
        yield "features", figures.contrast_map(found_contrast.difference, data.features)


def _images_of(rows: list[np.ndarray], image_shape: tuple[int, int, int], evaluator: Evaluator) -> np.ndarray:
    """Return the images (K, M, C, H, W) of K lists of rows, nan where a list is shorter than the longest."""
    images = np.full((len(rows), max(map(len, rows)), *image_shape), np.nan, np.float32)
    for k, some in enumerate(rows):
        if len(some):
            rows_of_k = evaluator.rows(some).reshape(-1, *image_shape)
            images[k, : len(some)] = evaluator.data.scaling.for_pictures(rows_of_k)
    return images
