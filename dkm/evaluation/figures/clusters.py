"""Figures of clusters: the embedding, sizes, contingency, features, silhouettes, margins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dkm.clustering.labels import hungarian_order
from dkm.data.sampling import draw_rows
from dkm.evaluation.figures.plane import MAX_POINTS, plane
from dkm.evaluation.figures.style import (
    MAX_FEATURES,
    MAX_HEIGHT,
    MAX_NAMED,
    MAX_ROOMY,
    MAX_WIDTH,
    PALETTE,
    FloatArray,
    IntArray,
    cluster_colors,
    figure_with_axes,
    font_size,
    heat_map,
    name_ticks,
    styled,
)

# Values that differ by a smaller fraction of the largest one differ by rounding alone.
_LEAST_SPREAD = 1e-4


@styled
def embedding_map(
    Z: FloatArray,
    labels: IntArray,
    centroids: FloatArray,
    *,
    method: str = "pca",
    max_points: int | None = None,
    seed: int = 0,
) -> Figure:
    """Draw the embedding in two dimensions, with the centroids.

    Parameters
    ----------
    Z : float array, shape (N, D), N >= 1
        Embedded samples.
    labels : int array, shape (N,), values 0 to K - 1
        Their clusters.
    centroids : float array, shape (K, D)
        Drawn as crosses with the cluster's number.
    method : str
        pca, tsne or umap; see ``dkm.evaluation.figures.plane.plane``.
    max_points : int, optional
        The largest number of samples that are drawn; of more, a random subset. By default what the method lays out in
        a few seconds.
    seed : int
        Seed of the subset and of the layout.
    """
    max_points = max_points or MAX_POINTS[method]
    if len(Z) > max_points:
        rows = draw_rows(len(Z), max_points, seed)
        Z, labels = Z[rows], labels[rows]
    K = len(centroids)
    points, crosses, names = plane(Z, centroids, method=method, seed=seed)

    width, height, cross_size = (7.0, 6.0, 7) if K <= MAX_ROOMY else (10.5, MAX_HEIGHT, 6)
    figure, axes = figure_with_axes(width, height, "Embedding")
    axes.set(xlabel=names[0], ylabel=names[1])
    if names[1] == "jitter":
        axes.set_yticks([])
    else:
        axes.set_aspect("equal", adjustable="datalim")
    axes.scatter(points[:, 0], points[:, 1], 10, cluster_colors(K)[labels], alpha=0.7, linewidths=0)
    axes.plot(*crosses.T, "X", color="black", markeredgecolor="white", markersize=cross_size)
    outline = withStroke(linewidth=2, foreground="white")
    for k, (x, y) in enumerate(crosses[:MAX_NAMED]):
        text = axes.annotate(str(k), (x, y), (4, 3), textcoords="offset points", path_effects=[outline])
        text.set(weight="bold", fontsize=font_size(K), in_layout=False)
    return figure


@styled
def cluster_sizes_bar(sizes: IntArray) -> Figure:
    """Draw the sizes of the clusters, largest first, and the size of equal clusters as a line.

    Parameters
    ----------
    sizes : int array, shape (K,)
        Samples of each cluster. Empty clusters are marked.
    """
    K, mean = len(sizes), sizes.mean()
    order = np.argsort(-sizes, kind="stable")
    figure, axes = figure_with_axes(min(max(6.0, 0.14 * K), MAX_WIDTH), 3.6, "Cluster sizes")
    axes.bar(range(K), sizes[order], color=PALETTE[0])
    axes.axhline(mean, color="black", linestyle="--", linewidth=1, label=f"equal: {mean:,.1f}")
    empty = np.flatnonzero(sizes[order] == 0)
    if len(empty):
        axes.plot(empty, 0 * empty, "x", color=PALETTE[2], clip_on=False, label=f"empty: {len(empty)}")
    axes.set(xlim=(-0.6, K - 0.4), xlabel="cluster", ylabel="samples")
    name_ticks(axes.xaxis, order)
    axes.legend(frameon=False)
    return figure


@styled
def contingency_map(
    table: IntArray,
    class_names: Sequence[str] | None = None,
    *,
    title: str = "Classes and clusters",
    rows: str = "class",
) -> Figure:
    """Draw the contingency of classes and clusters; the best one-to-one matching lies on the diagonal.

    Parameters
    ----------
    table : int array, shape (n_classes, K)
        Samples of each class in each cluster. The color is the share of the class; up to 20 classes and
        clusters, the counts stand in the cells that are not empty.
    class_names : sequence of n_classes strings, optional
        The class numbers by default.
    title, rows : str
        The title, and what the rows are if they are not classes.
    """
    n_classes, K = table.shape
    order = hungarian_order(table)
    table = table[:, order]
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    names = [str(name) for name in (range(n_classes) if class_names is None else class_names)]
    has_names = max(map(len, names)) > 3
    figure, axes = heat_map(share, "Blues", title, f"share of the {rows}", has_names=has_names, vmin=0)
    axes.set(xlabel="cluster", ylabel=rows)
    name_ticks(axes.xaxis, order)
    name_ticks(axes.yaxis, names)
    if max(n_classes, K) <= MAX_ROOMY:
        for row, column in np.argwhere(table):
            color = "white" if share[row, column] > share.max() / 2 else "black"
            cell = axes.text(column, row, str(table[row, column]), ha="center", va="center", fontsize=7, color=color)
            cell.set_in_layout(False)  # the layout need not make room for it
    return figure


@styled
def contrast_map(difference: FloatArray, feature_names: Sequence[str] | None = None) -> Figure:
    """Draw which features distinguish each cluster from the rest, and in which direction.

    Parameters
    ----------
    difference : float array, shape (K, F)
        Standardized mean differences of a cluster to the rest; beyond +-3 the color is the same. Of more than 50
        features, the 50 with the largest differences are drawn, in their own order.
    feature_names : sequence of F strings, optional
        The feature numbers by default.
    """
    K, F = difference.shape
    size = np.abs(np.nan_to_num(difference)).max(axis=0)
    shown = np.sort(np.argsort(-size, kind="stable")[:MAX_FEATURES])
    title = "What sets each cluster apart" + (f": {MAX_FEATURES} of {F} features" if F > MAX_FEATURES else "")
    values = np.clip(difference[:, shown], -3, 3)
    names = [str(f) if feature_names is None else feature_names[f] for f in shown]
    meaning = "standardized mean difference"
    figure, axes = heat_map(values, "PuOr", title, meaning, column_names=names, vmin=-3, vmax=3)
    axes.set(xlabel="feature", ylabel="cluster")
    name_ticks(axes.xaxis, names)
    name_ticks(axes.yaxis, range(K))
    return figure


@styled
def decoded_profiles(
    profiles: FloatArray, feature_names: Sequence[str] | None = None, sizes: IntArray | None = None
) -> Figure:
    """Draw the decoded centroids of tabular data: a typical row of each cluster.

    Parameters
    ----------
    profiles : float array, shape (K, F)
        Decoded centroids. Of more than 50 features, the 50 with the largest spread between clusters are
        drawn, in their own order.
    feature_names : sequence of F strings, optional
        The feature numbers by default.
    sizes : int array, shape (K,), optional
        Samples of each cluster, written next to its number.
    """
    K, F = profiles.shape
    shown = np.sort(np.argsort(-profiles.std(axis=0), kind="stable")[:MAX_FEATURES])
    title = "Decoded centroids" + (f": {MAX_FEATURES} of {F} features" if F > MAX_FEATURES else "")
    names = [str(f) if feature_names is None else feature_names[f] for f in shown]
    figure, axes = heat_map(profiles[:, shown], "viridis", title, "decoded value", column_names=names)
    axes.set(xlabel="feature", ylabel="cluster")
    name_ticks(axes.xaxis, names)
    name_ticks(axes.yaxis, range(K) if sizes is None else [f"{k}: {size:,}" for k, size in enumerate(sizes)])
    return figure


@styled
def silhouette_plot(silhouettes: FloatArray, labels: IntArray, n_clusters: int) -> Figure:
    """Draw the silhouette of each point, grouped by cluster and sorted in descending order.

    Parameters
    ----------
    silhouettes : float array, shape (N,), values in [-1, 1]
    labels : int array, shape (N,), values 0 to n_clusters - 1
        Empty clusters are left out.
    """
    figure, axes = figure_with_axes(7.0, min(max(3.5, 0.3 * n_clusters + 1.5), MAX_HEIGHT), "Silhouettes")
    order = np.lexsort((-silhouettes, labels))
    values, sorted_labels = silhouettes[order], labels[order]
    present, starts, counts = np.unique(sorted_labels, return_index=True, return_counts=True)
    gap = max(1.0, 0.01 * len(values))
    colors = cluster_colors(n_clusters)
    middles = []
    for place, (k, start, count) in enumerate(zip(present, starts, counts, strict=True)):
        top = start + place * gap
        axes.fill_betweenx(
            [top, *(top + 1 + np.arange(count))],
            0,
            [values[start], *values[start : start + count]],
            color=colors[k],
            linewidth=0,
            step="pre",
        )
        middles.append(top + count / 2)
    mean = float(silhouettes.mean())
    axes.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean: {mean:.3f}")
    axes.set(xlabel="silhouette", ylabel="cluster", xlim=(min(-0.1, silhouettes.min()), 1))
    axes.set_ylim(len(values) + len(present) * gap, -gap)
    every = math.ceil(len(present) / (MAX_NAMED // 2))
    axes.set_yticks(middles[::every], [str(k) for k in present[::every]], fontsize=font_size(len(present)))
    axes.legend(frameon=False, loc="lower right")
    return figure


@styled
def margin_histogram(margin: FloatArray, labels: IntArray, n_clusters: int) -> Figure:
    """Draw a histogram of the margins of all points, and the median of each cluster.

    Parameters
    ----------
    margin : float array, shape (N,), values >= 0
        How much farther the second nearest centroid is than the nearest.
    labels : int array, shape (N,), values 0 to n_clusters - 1
    """
    figure, axes = figure_with_axes(7.0, 3.6, "Margins: how much farther the second nearest centroid is")
    values = margin.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high - low < _LEAST_SPREAD * high:  # float32 has no 60 bins between them
        low, high = 0.5 * low, 1.5 * high
    axes.hist(values, bins=60, range=(low, high), color=PALETTE[0], alpha=0.7)
    colors = cluster_colors(n_clusters)
    top = axes.get_ylim()[1]
    for k in np.unique(labels):
        axes.plot([np.median(margin[labels == k])], [0.97 * top], "v", color=colors[k], markersize=7)
    axes.set(xlabel="margin; triangles: medians of the clusters", ylabel="samples", ylim=(0, top))
    return figure
