"""What all figures share: size, colors, frames, heat maps, tick labels, and writing them to files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from io import BytesIO
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
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from dkm.runtime.atomic import replacing

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
MAX_GROUPS = 40  # of compared runs
LEFT, RIGHT, BOTTOM, TOP = 0.95, 0.15, 0.65, 0.35  # inches around a panel: room for numbers, a label and a title

# Ten colors that stay apart under color-vision deficiency (Petroff, arXiv:2107.02270).
PALETTE = color_sequences["petroff10"]

# matplotlib's defaults, whatever style the user has, but for these.
styled = rc_context(
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


def new_figure(width: float, height: float) -> Figure:
    """Return a figure whose layout fits everything in it; this takes as long as drawing it a second time."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def framed_figure(width: float, height: float, *, right: float = RIGHT) -> Figure:
    """Return a figure with fixed margins, so that the frames of a figure of several runs coincide."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.subplots_adjust(LEFT / width, BOTTOM / height, 1 - right / width, 1 - TOP / height)
    return figure


def figure_with_axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = framed_figure(width, height)
    return figure, figure.add_subplot(title=title)


def heat_map(
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
    figure = new_figure(*size) if has_names else framed_figure(*size, right=0.7)
    axes = figure.add_subplot(title=title)
    heat = axes.imshow(values, cmap=cmap, vmin=vmin, vmax=vmax, aspect="auto", interpolation="nearest")
    figure.colorbar(heat, ax=axes, label=meaning, fraction=0.05, pad=0.02, aspect=5 * size[1])
    return figure, axes


def font_size(n_names: int) -> int:
    return 9 if n_names <= MAX_ROOMY else 7


def name_ticks(axis: Axis, names: Iterable[object]) -> None:
    """Label the ticks 0, 1, ...: small and upright if they are crowded, and only some if they do not fit."""
    texts = [shorten(str(name), MAX_LETTERS) for name in names]
    is_x = isinstance(axis, XAxis)
    every = math.ceil(len(texts) / (MAX_NAMED if is_x else MAX_NAMED // 2))
    is_crowded = len(texts) > MAX_ROOMY or max(map(len, texts)) > 3
    style: dict[str, Any] = {"fontsize": font_size(len(texts)), "rotation": 90 if is_x and is_crowded else 0}
    axis.set_ticks(range(0, len(texts), every), texts[::every], parse_math=False, **style)


def number_powers(axis: Axis, subs: Sequence[float]) -> None:
    """Label these multiples of the powers of ten on a logarithmic axis as plain numbers."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def shorten(name: str, n_letters: int) -> str:
    name = " ".join(name.split())
    return name if len(name) <= n_letters else name[: n_letters - 3] + "..."


def figure_to_array(figure: Figure) -> npt.NDArray[np.uint8]:
    """Render a figure.

    Returns
    -------
    uint8 array, shape (H, W, 3)
        RGB.
    """
    canvas: Any = FigureCanvasAgg(figure)  # its methods carry no types
    with warnings.catch_warnings():  # a letter that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]


def figure_to_png(figure: Figure) -> bytes:
    """Return the content of a PNG file; equal figures give equal bytes."""
    png = BytesIO()
    # Compared with level 6: files are a sixth larger, and take two thirds of the time.
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
    """Write the content of a PNG file, whole or not at all; unlike ``write_atomically``, without a sync to disk."""
    with replacing(path, is_synced=False) as temporary:
        temporary.write_bytes(png)
