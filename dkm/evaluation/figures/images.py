"""Figures made of images: grids, reconstructions, exemplars."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dkm.evaluation.figures.style import DPI, MAX_HEIGHT, MAX_NAMED, MAX_ROOMY, MAX_WIDTH, FloatArray, IntArray, styled


@styled
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


@styled
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
