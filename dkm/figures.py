"""The pictures of a run: arrays in, a matplotlib ``Figure`` out, and two ways to hand it on.

No pyplot, hence no open figures, no display and nothing to close; equal arrays give equal bytes. Style and
colors are set here while a figure is made, so that it is the same everywhere and also reads inside a dark
dashboard. ``dkm.evaluate`` calls these for ``figures/`` and TensorBoard, and imports this module only when
pictures are wanted, because matplotlib is slow to load.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import color_sequences, colormaps, rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from dkm.metrics import hungarian_order
from dkm.planar import MAX_POINTS, plane

# N samples, D dimensions, K clusters, M exemplars of each, F features, C channels, H height, W width
IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]

DPI = 120
MAX_WIDTH, MAX_HEIGHT = 12.0, 9.0  # inches: 1440 x 1080 pixels, a laptop's screen
MAX_ROOMY = 20  # names or counts that fit side by side in full size
MAX_NAMED = 100  # names that fit side by side at all
MAX_LETTERS = 24  # of a name
MAX_TITLE = 40  # letters over a panel
MAX_FEATURES = 50
MAX_GROUPS = 40  # of runs that are compared
LEFT, RIGHT, BOTTOM, TOP = 0.95, 0.15, 0.65, 0.35  # inches around a panel: room for numbers, a label and a title
LABEL_CHANGE = "clusters/label_change"  # its key in metrics.jsonl
# Ten colors that stay apart under color-vision deficiency (Petroff, arXiv:2107.02270).
PALETTE = color_sequences["petroff10"]
# matplotlib's defaults, whatever style the user has, but for these.
_styled = rc_context(
    {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    | {
        "font.family": "DejaVu Sans",  # ships with matplotlib
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titley": 1.0,  # where it would be put after a search for what may be in its way
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def cluster_colors(n_clusters: int) -> FloatArray:
    """Return one color per cluster: up to ten of a fixed palette, beyond that evenly spaced ones of viridis.

    Returns
    -------
    float array, shape (n_clusters, 4), values in [0, 1]
        RGBA.
    """
    if n_clusters <= len(PALETTE):
        return np.asarray(to_rgba_array(PALETTE[:n_clusters]))
    return np.asarray(colormaps["viridis"](np.linspace(0.0, 0.95, n_clusters)))  # beyond 0.95 too pale on white


# --- clusters -----------------------------------------------------------------------------------------------


@_styled
def embedding_map(
    Z: FloatArray,
    labels: IntArray,
    centroids: FloatArray,
    *,
    method: str = "pca",
    max_points: int | None = None,
    seed: int = 0,
    title: str = "Embedding",
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
        pca, tsne or umap; see ``dkm.planar.plane``.
    max_points : int, optional
        Of more samples than this, a random choice is laid out and drawn; as many as the method is fast with.
    seed : int
        Of that choice, and of the layout.
    """
    rng = np.random.default_rng(seed)
    max_points = max_points or MAX_POINTS[method]
    if len(Z) > max_points:
        sample = rng.choice(len(Z), max_points, replace=False)
        Z, labels = Z[sample], labels[sample]
    K = len(centroids)
    points, crosses, names = plane(Z, centroids, method=method, seed=seed)

    width, height, cross_size = (7.0, 6.0, 7) if K <= MAX_ROOMY else (10.5, MAX_HEIGHT, 6)
    figure, axes = _figure_with_axes(width, height, title)
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
        text.set(weight="bold", fontsize=_font_size(K), in_layout=False)
    return figure


@_styled
def cluster_sizes_bar(sizes: IntArray) -> Figure:
    """Draw the sizes of the clusters, largest first, against the size that all would have if they were equal.

    Parameters
    ----------
    sizes : int array, shape (K,)
        Samples of each cluster. Empty clusters are marked.
    """
    K, mean = len(sizes), sizes.mean()
    order = np.argsort(-sizes, kind="stable")
    figure, axes = _figure_with_axes(min(max(6.0, 0.14 * K), MAX_WIDTH), 3.6, "Cluster sizes")
    axes.bar(range(K), sizes[order], color=PALETTE[0])
    axes.axhline(mean, color="black", linestyle="--", linewidth=1, label=f"equal: {mean:,.1f}")
    empty = np.flatnonzero(sizes[order] == 0)
    if len(empty):
        axes.plot(empty, 0 * empty, "x", color=PALETTE[2], clip_on=False, label=f"empty: {len(empty)}")
    axes.set(xlim=(-0.6, K - 0.4), xlabel="cluster", ylabel="samples")
    _name_ticks(axes.xaxis, order)
    axes.legend(frameon=False)
    return figure


@_styled
def contingency_map(
    table: IntArray,
    class_names: Sequence[str] | None = None,
    *,
    title: str = "Classes and clusters",
    rows: str = "class",
) -> Figure:
    """Draw which classes went to which clusters; the best one-to-one match lies on the diagonal.

    Parameters
    ----------
    table : int array, shape (n_classes, K)
        Samples of each class in each cluster. The color is the share of the class; up to 20 classes and
        clusters, the counts stand in the cells that are not empty.
    class_names : sequence of n_classes strings, optional
        The class numbers by default.
    title, rows : str
        Other words where the rows are no classes.
    """
    n_classes, K = table.shape
    order = hungarian_order(table)
    table = table[:, order]
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    names = [str(name) for name in (range(n_classes) if class_names is None else class_names)]
    has_names = max(map(len, names)) > 3
    figure, axes = _heat_map(share, "Blues", title, f"share of the {rows}", has_names=has_names, vmin=0)
    axes.set(xlabel="cluster", ylabel=rows)
    _name_ticks(axes.xaxis, order)
    _name_ticks(axes.yaxis, names)
    if max(n_classes, K) <= MAX_ROOMY:
        for row, column in np.argwhere(table):
            color = "white" if share[row, column] > share.max() / 2 else "black"
            cell = axes.text(column, row, str(table[row, column]), ha="center", va="center", fontsize=7, color=color)
            cell.set_in_layout(False)  # which has not to make room for it
    return figure


@_styled
def contrast_map(difference: FloatArray, feature_names: Sequence[str] | None = None) -> Figure:
    """Draw which features set each cluster apart, and in which direction.

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
    figure, axes = _heat_map(values, "PuOr", title, meaning, column_names=names, vmin=-3, vmax=3)
    axes.set(xlabel="feature", ylabel="cluster")
    _name_ticks(axes.xaxis, names)
    _name_ticks(axes.yaxis, range(K))
    return figure


@_styled
def decoded_profiles(
    profiles: FloatArray, feature_names: Sequence[str] | None = None, sizes: IntArray | None = None
) -> Figure:
    """Draw the decoded centroids of tabular data: what is typical of each cluster.

    Parameters
    ----------
    profiles : float array, shape (K, F)
        Decoded centroids. Of more than 50 features, the 50 with the largest spread between clusters are
        drawn, in their own order.
    feature_names : sequence of F strings, optional
        The feature numbers by default.
    sizes : int array, shape (K,), optional
        Samples of each cluster, told beside its number.
    """
    K, F = profiles.shape
    shown = np.sort(np.argsort(-profiles.std(axis=0), kind="stable")[:MAX_FEATURES])
    title = "Decoded centroids" + (f": {MAX_FEATURES} of {F} features" if F > MAX_FEATURES else "")
    names = [str(f) if feature_names is None else feature_names[f] for f in shown]
    figure, axes = _heat_map(profiles[:, shown], "viridis", title, "decoded value", column_names=names)
    axes.set(xlabel="feature", ylabel="cluster")
    _name_ticks(axes.xaxis, names)
    _name_ticks(axes.yaxis, range(K) if sizes is None else [f"{k}: {size:,}" for k, size in enumerate(sizes)])
    return figure


@_styled
def silhouette_plot(silhouettes: FloatArray, labels: IntArray, n_clusters: int) -> Figure:
    """Draw the silhouette of each point, cluster by cluster, the highest first: how well the points fit.

    Parameters
    ----------
    silhouettes : float array, shape (N,), values in [-1, 1]
    labels : int array, shape (N,), values 0 to n_clusters - 1
        A cluster without points has no place.
    """
    figure, axes = _figure_with_axes(7.0, min(max(3.5, 0.3 * n_clusters + 1.5), MAX_HEIGHT), "Silhouettes")
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
    axes.set_yticks(middles[::every], [str(k) for k in present[::every]], fontsize=_font_size(len(present)))
    axes.legend(frameon=False, loc="lower right")
    return figure


@_styled
def margin_histogram(margin: FloatArray, labels: IntArray, n_clusters: int) -> Figure:
    """Draw how far the points are from changing their cluster: all of them, and the medians of the clusters.

    Parameters
    ----------
    margin : float array, shape (N,), values >= 0
        How much farther the second nearest centroid is than the nearest.
    labels : int array, shape (N,), values 0 to n_clusters - 1
    """
    figure, axes = _figure_with_axes(7.0, 3.6, "Margins: how much farther the second nearest centroid is")
    axes.hist(margin, bins=60, color=PALETTE[0], alpha=0.7)
    colors = cluster_colors(n_clusters)
    top = axes.get_ylim()[1]
    for k in np.unique(labels):
        axes.plot([np.median(margin[labels == k])], [0.97 * top], "v", color=colors[k], markersize=7)
    axes.set(xlabel="margin; triangles: medians of the clusters", ylabel="samples", ylim=(0, top))
    return figure


# --- images -------------------------------------------------------------------------------------------------


@_styled
def image_grid(images: FloatArray, *, n_columns: int, titles: Sequence[str] | None = None) -> Figure:
    """Tile images from left to right, then down: decoded centroids, for example.

    Parameters
    ----------
    images : float array, shape (N, C, H, W), N >= 1, C = 1 (gray) or 3 (RGB)
        Values in [0, 1]; others are clipped. NaN is drawn as background.
    n_columns : int
        More where the rows would not fit on a screen.
    titles : sequence of at most N short strings, optional
        One above each image.
    """
    N, _, H, W = images.shape
    gap = _gap(W)
    title_height = 0.0 if titles is None else 0.2  # room for a line of text
    n_columns = min(n_columns, N)
    while n_columns < N and math.ceil(N / n_columns) * (_cell(n_columns) * H / W + title_height) > MAX_HEIGHT:
        n_columns += 1
    inch = _inches_per_pixel(_cell(n_columns), W + gap)
    row_gap = gap if titles is None else math.ceil(title_height / inch)
    row, column = np.divmod(np.arange(N), n_columns)
    tops, lefts = row_gap + row * (H + row_gap), gap + column * (W + gap)
    figure, axes = _figure_of_images(images, tops, lefts, inch)
    longest = max((len(text) for text in titles or ()), default=0)
    font_size = min(8.0, max(4.0, 120 * _cell(n_columns) / max(longest, 1)))  # a letter is 1/120 inch wide to a point
    for n, text in enumerate(titles or ()):
        axes.text(lefts[n] + W / 2, tops[n] - 0.03 / inch, text, ha="center", va="bottom", fontsize=font_size)
    return figure


def _cell(n_columns: int) -> float:
    """Width of an image with its gap, in inches."""
    return min(1.0, MAX_WIDTH / n_columns)


def reconstruction_pairs(x: FloatArray, x_hat: FloatArray) -> Figure:
    """Draw each input above its reconstruction, ten pairs to a row.

    Parameters
    ----------
    x, x_hat : float arrays, shape (N, C, H, W), N >= 1, C = 1 or 3
        Values in [0, 1]; others are clipped.
    """
    N, C, _, W = x.shape
    line = np.full((N, C, _gap(W) // 2, W), np.nan)
    return image_grid(np.concatenate([x, line, x_hat], axis=2), n_columns=10)


@_styled
def exemplar_grid(images: FloatArray, sizes: IntArray) -> Figure:
    """Draw one row per cluster with the points nearest to its centroid; number and size stand at the left.

    Rows run down in blocks of at most 20; where blocks stand side by side, only the nearest points fit. Of
    more than 100 clusters, the 100 largest are drawn.

    Parameters
    ----------
    images : float array, shape (K, M, C, H, W), M >= 1, C = 1 or 3
        Values in [0, 1], nearest first; NaN where a cluster has fewer than M points.
    sizes : int array, shape (K,)
        Samples of each cluster.
    """
    shown = np.sort(np.argsort(-sizes, kind="stable")[:MAX_NAMED])
    n_blocks = math.ceil(len(shown) / MAX_ROOMY)
    n_rows = math.ceil(len(shown) / n_blocks)
    label_width, min_cell, max_cell = 0.9, 0.3, min(0.75, MAX_HEIGHT / n_rows)  # inches
    room = MAX_WIDTH / n_blocks - label_width
    images = images[shown, : int(room / min_cell)]
    K, M, _, H, W = images.shape
    gap = _gap(W)
    inch = _inches_per_pixel(min(max_cell, room / M), W + gap)
    label_gap = math.ceil(label_width / inch)
    block, row = np.divmod(np.arange(K), n_rows)
    tops = gap + row * (H + gap)  # (K,)
    starts = label_gap + block * (label_gap + M * (W + gap))  # (K,)
    lefts = starts[:, None] + np.arange(M) * (W + gap)  # (K, M)
    figure, axes = _figure_of_images(np.concatenate(images), tops.repeat(M), lefts.ravel(), inch)
    for k, top, start in zip(shown, tops, starts, strict=True):
        text = f"{k}  n={sizes[k]:,}"
        axes.text(start - 0.06 / inch, top + H / 2, text, ha="right", va="center", fontsize=8)
    return figure


def _gap(width: int) -> int:
    """Pixels between two images of that width."""
    return max(2, width // 12)


def _inches_per_pixel(cell: float, n_pixels: int) -> float:
    """Size of a pixel where so many share a cell; enlarged by a whole factor, so that all stay equal."""
    scale = cell * DPI / n_pixels
    return (round(scale) if scale > 1 else scale) / DPI


def _figure_of_images(images: FloatArray, tops: IntArray, lefts: IntArray, inch: float) -> tuple[Figure, Axes]:
    """Paste images (N, C, H, W) at pixel positions (N,) into a white figure; data coordinates are pixels."""
    _, C, H, W = images.shape
    if C not in (1, 3):
        raise ValueError(f"images have shape {images.shape}, so {C} channels: expected 1 (gray) or 3 (RGB)")
    canvas = np.ones((tops.max() + H + _gap(W), lefts.max() + W + _gap(W), 3))
    for image, top, left in zip(images, tops, lefts, strict=True):
        canvas[top : top + H, left : left + W] = np.nan_to_num(image.transpose(1, 2, 0), nan=1.0)
    pixels = np.round(canvas.clip(0, 1) * 255).astype(np.uint8)
    height, width, _ = canvas.shape
    figure = Figure(figsize=(width * inch, height * inch), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    interpolation = "nearest" if inch * DPI >= 1 else "hanning"
    axes.imshow(pixels, extent=(0, width, height, 0), aspect="auto", interpolation=interpolation)
    return figure, axes


# --- training -----------------------------------------------------------------------------------------------


@_styled
def loss_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw every loss term over the steps, one panel each, and the share of labels that still change.

    Parameters
    ----------
    records : sequence of mappings
        Lines of metrics.jsonl: ``phase``, ``step``, ``loss/...`` (unweighted terms), ``clusters/label_change``.
        What a record lacks or has as None is left out. A panel is logarithmic where its values are positive
        and span more than a factor of five.
    """
    terms = dict.fromkeys(key for record in records for key in record if key.startswith("loss/"))
    curves = {key: curve for key in (*terms, LABEL_CHANGE) if (curve := _curve(records, key))}
    if not curves:
        figure = _figure(4.0, 2.0)
        figure.text(0.5, 0.5, "no losses recorded", ha="center", va="center")
        return figure

    n_columns = min(3, len(curves))
    n_rows = math.ceil(len(curves) / n_columns)
    width, height = 4.0, 2.7  # of a panel
    figure = _framed_figure(n_columns * width, n_rows * height)
    across, down = LEFT + RIGHT, BOTTOM + TOP
    figure.subplots_adjust(wspace=across / (width - across), hspace=down / (height - down))
    phases = list(dict.fromkeys(record["phase"] for record in records))
    changes = [after["step"] for before, after in pairwise(records) if before["phase"] != after["phase"]]
    for n, (key, curve) in enumerate(curves.items()):
        share = figure.axes[0] if n else None
        axes = figure.add_subplot(n_rows, n_columns, n + 1, sharex=share, title=key, xlabel="step")
        for phase, color in zip(phases, PALETTE, strict=False):
            steps, values = np.reshape([point for name, *point in curve if name == phase], (-1, 2)).T
            axes.plot(steps, values, ".-", color=color, linewidth=1.2, markersize=4, label=phase)
        for step in changes:
            axes.axvline(step, color="black", linestyle=":", linewidth=1)
        heights = [value for _, _, value in curve]
        if 0 < 5 * min(heights) < max(heights):
            axes.set_yscale("log")
            _number_powers(axes.yaxis, (1.0, 2.0, 5.0) if max(heights) < 50 * min(heights) else (1.0,))
    figure.axes[0].legend(frameon=False)
    return figure


def _curve(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, int, float]]:
    """Phase, step and value of each record that has a finite one."""
    points = [(record["phase"], record["step"], record.get(key)) for record in records]
    return [(phase, step, value) for phase, step, value in points if value is not None and np.isfinite(value)]


# --- several runs -------------------------------------------------------------------------------------------


@_styled
def comparison(
    names: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float]]],
    agreement: FloatArray | None = None,
    run_names: Sequence[str] = (),
) -> Figure:
    """Draw the scores of groups of runs, every run a dot and the mean a bar, and how far the runs agree.

    Parameters
    ----------
    names : sequence of G strings, G >= 1
        The groups. The first 40 are drawn.
    values : mapping of a score's name to G sequences of floats
        One panel for each score; of each group the values of its runs.
    agreement : float array, shape (R, R), optional
        Adjusted Rand index of each two runs; nan is drawn as background. Up to 100 runs are drawn.
    run_names : sequence of R strings
    """
    n_groups = min(len(names), MAX_GROUPS)
    height = max(2.5, 0.28 * n_groups + 1.2)
    has_map = agreement is not None and 2 <= len(agreement) <= MAX_NAMED
    map_height = min(max(3.0, 0.16 * len(run_names) + 1.6), MAX_HEIGHT) if has_map else 0.0
    figure = _figure(MAX_WIDTH if len(values) > 2 else 9.0, min(height + map_height, 2 * MAX_HEIGHT))
    rows: Any = figure.subfigures(2, 1, height_ratios=(height, map_height)) if has_map else [figure]
    panels = np.atleast_1d(rows[0].subplots(1, len(values), sharey=True))
    for axes, (score, groups) in zip(panels, values.items(), strict=True):
        for place, group in enumerate(groups[:n_groups]):
            finite = [value for value in group if np.isfinite(value)]
            axes.plot(finite, [place] * len(finite), "o", color=PALETTE[0], markersize=4, alpha=0.6, linewidth=0)
            if finite:
                mean = float(np.mean(finite))
                axes.plot([mean, mean], [place - 0.3, place + 0.3], color="black", linewidth=1.5)
        axes.set(title=score, ylim=(n_groups - 0.5, -0.5))
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x", alpha=0.3)
    more = f" and {len(names) - n_groups} more" if len(names) > n_groups else ""
    panels[0].set_yticks(range(n_groups), [_shortened(name, 48) for name in names[:n_groups]], parse_math=False)
    panels[0].set_xlabel(f"dots: runs, bars: means{more}")
    if agreement is not None and has_map:
        axes = rows[1].add_subplot(title="Agreement between runs")
        heat = axes.imshow(agreement, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(heat, ax=axes, label="adjusted Rand index", pad=0.02)
        every = math.ceil(len(run_names) / (MAX_NAMED // 2))
        shown = [_shortened(name, 60) for name in run_names[::every]]
        axes.set_yticks(range(0, len(run_names), every), shown, parse_math=False, fontsize=_font_size(len(run_names)))
        axes.set_xticks([])
    return figure


@_styled
def selection(
    n_clusters: Sequence[int], values: Mapping[str, Sequence[Sequence[float]]], chosen: int, plausible: Sequence[int]
) -> Figure:
    """Draw scores over the number of clusters: a dot for each run, a line through the means.

    Parameters
    ----------
    n_clusters : sequence of G ints
    values : mapping of a score's name to G sequences of floats
        One panel for each score.
    chosen : int
        The number that is recommended, marked by a line; the other ``plausible`` ones are shaded.
    """
    n_columns = min(3, len(values))
    n_rows = math.ceil(len(values) / n_columns)
    figure = _figure(4.0 * n_columns, 2.8 * n_rows)
    for place, (score, groups) in enumerate(values.items()):
        axes = figure.add_subplot(n_rows, n_columns, place + 1, title=score, xlabel="clusters")
        for k in plausible:
            axes.axvspan(k - 0.4, k + 0.4, color=PALETTE[1], alpha=0.2, linewidth=0)
        axes.axvline(chosen, color=PALETTE[1], linewidth=1.5)
        for k, group in zip(n_clusters, groups, strict=True):
            axes.plot([k] * len(group), group, "o", color=PALETTE[0], markersize=4, alpha=0.5, linewidth=0)
        means = [float(np.mean(group)) if group else math.nan for group in groups]
        axes.plot(n_clusters, means, color=PALETTE[0], linewidth=1.2)
        axes.locator_params(axis="x", integer=True)
    return figure


@_styled
def search(
    numbers: Sequence[int],
    values: Sequence[float],
    is_pruned: Sequence[bool],
    settings: Mapping[str, Sequence[Any]],
    *,
    logarithmic: Sequence[str],
    orders: Mapping[str, Sequence[str]],
    objective: str,
    is_maximized: bool,
) -> Figure:
    """Draw the trials of a search: the objective over their numbers with the best so far, and over each setting.

    Parameters
    ----------
    numbers, values, is_pruned : sequences of T
        The trials, in the order of their numbers; of pruned ones, which are drawn hollow, the last value.
    settings : mapping of a setting's name to T values
        One panel for each: numbers on an axis, anything else as names.
    logarithmic : sequence of names
        Settings on a logarithmic axis.
    orders : mapping of a setting's name to its values
        In the order in which they are to stand.
    """
    n_panels = len(settings) + 1
    n_columns = min(3, n_panels)
    n_rows = math.ceil(n_panels / n_columns)
    figure = _figure(4.0 * n_columns, 2.8 * n_rows)
    y = np.asarray(values, dtype=float)
    pruned = np.asarray(is_pruned, dtype=bool)

    def draw(place: int, x: npt.NDArray[Any], title: str) -> Axes:
        axes: Axes = figure.add_subplot(n_rows, n_columns, place, title=_shortened(title, MAX_TITLE), ylabel=objective)
        axes.scatter(x[~pruned], y[~pruned], s=16, color=PALETTE[0], linewidths=1)
        axes.scatter(x[pruned], y[pruned], s=16, facecolors="none", edgecolors=PALETTE[0], linewidths=1)
        if not pruned.all():
            best = np.flatnonzero(~pruned)[(y[~pruned] if is_maximized else -y[~pruned]).argmax()]
            axes.scatter(x[best], y[best], s=90, facecolors="none", edgecolors=PALETTE[1], linewidths=2)
        return axes

    order = np.asarray(numbers)
    axes = draw(1, order, "trials (hollow: pruned)")
    done = y[~pruned]
    best_so_far = np.maximum.accumulate(done) if is_maximized else np.minimum.accumulate(done)
    axes.plot(order[~pruned], best_so_far, color=PALETTE[1], linewidth=1.2, drawstyle="steps-post")
    axes.locator_params(axis="x", integer=True)
    for place, (name, its) in enumerate(settings.items(), start=2):
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in its):
            axes = draw(place, np.asarray(its, dtype=float), name)
            if name in logarithmic:
                axes.set_xscale("log")
                _number_powers(axes.xaxis, (1.0, 3.0))  # it may span less than a power of 10
        else:
            names = list(orders.get(name, sorted({str(value) for value in its})))
            axes = draw(place, np.asarray([names.index(str(value)) for value in its]), name)
            axes.set_xlim(-0.5, len(names) - 0.5)
            if sum(map(len, names)) <= MAX_LETTERS:
                axes.set_xticks(range(len(names)), names, parse_math=False)
            else:
                _name_ticks(axes.xaxis, names)
    return figure


# --- frames, heat maps, names -------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    """Return a figure that makes room for all that stands in it, which takes as long as drawing it again."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def _framed_figure(width: float, height: float, *, right: float = RIGHT) -> Figure:
    """Return a figure with fixed margins: of equal pictures of a run, the frames lie on each other."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.subplots_adjust(LEFT / width, BOTTOM / height, 1 - right / width, 1 - TOP / height)
    return figure


def _figure_with_axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = _framed_figure(width, height)
    return figure, figure.add_subplot(title=title)


def _heat_map(
    values: FloatArray,
    cmap: str,
    title: str,
    meaning: str,
    *,
    has_names: bool = True,
    column_names: Sequence[str] = (),
    vmin: float | None = None,
    vmax: float | None = None,
) -> tuple[Figure, Axes]:
    n_rows, n_columns = values.shape
    width, height = max(5.0, 0.45 * n_columns + 2.0), max(3.0, 0.35 * n_rows + 1.6)
    height += max(0.0, 0.1 * min(max(map(len, column_names), default=0), MAX_LETTERS) - 0.3)  # they are upright
    size = min(width, MAX_WIDTH), min(height, MAX_HEIGHT)
    figure = _figure(*size) if has_names else _framed_figure(*size, right=0.7)
    axes = figure.add_subplot(title=title)
    heat = axes.imshow(values, cmap=cmap, vmin=vmin, vmax=vmax, aspect="auto", interpolation="nearest")
    figure.colorbar(heat, ax=axes, label=meaning, fraction=0.05, pad=0.02, aspect=5 * size[1])
    return figure, axes


def _font_size(n_names: int) -> int:
    return 9 if n_names <= MAX_ROOMY else 7


def _name_ticks(axis: Axis, names: Iterable[object]) -> None:
    """Name the ticks 0, 1, ...: small and upright where they crowd, not all of them where they do not fit."""
    texts = [_shortened(str(name), MAX_LETTERS) for name in names]
    is_x = isinstance(axis, XAxis)
    every = math.ceil(len(texts) / (MAX_NAMED if is_x else MAX_NAMED // 2))
    is_crowded = len(texts) > MAX_ROOMY or max(map(len, texts)) > 3
    style: dict[str, Any] = {"fontsize": _font_size(len(texts)), "rotation": 90 if is_x and is_crowded else 0}
    axis.set_ticks(range(0, len(texts), every), texts[::every], parse_math=False, **style)


def _number_powers(axis: Axis, subs: Sequence[float]) -> None:
    """Name these multiples of the powers of ten on a logarithmic axis, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _shortened(name: str, n_letters: int) -> str:
    name = " ".join(name.split())
    return name if len(name) <= n_letters else name[: n_letters - 3] + "..."


# --- output -------------------------------------------------------------------------------------------------


def figure_to_array(figure: Figure) -> npt.NDArray[np.uint8]:
    """Render a figure.

    Returns
    -------
    uint8 array, shape (H, W, 3)
        RGB.
    """
    canvas: Any = FigureCanvasAgg(figure)  # its methods carry no types
    with warnings.catch_warnings():  # a letter that the font has not is drawn as a box
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]


def figure_to_png(figure: Figure) -> bytes:
    """Return the content of a PNG file; equal figures give equal bytes."""
    png = BytesIO()
    # A sixth larger than at level 6, in two thirds of the time.
    Image.fromarray(figure_to_array(figure)).save(png, format="png", dpi=(DPI, DPI), compress_level=3)
    return png.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Parameters
    ----------
    path : Path
        In an existing folder; an existing file is replaced.
    """
    save_png(figure_to_png(figure), path)


def save_png(png: bytes, path: Path) -> None:
    """Write what ``figure_to_png`` returned, whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(png)
    beside.replace(path)
