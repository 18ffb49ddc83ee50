"""Figures of several runs: comparison, number of clusters, search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dkm.evaluation.figures.style import (
    MAX_GROUPS,
    MAX_HEIGHT,
    MAX_LETTERS,
    MAX_NAMED,
    MAX_TITLE,
    MAX_WIDTH,
    PALETTE,
    FloatArray,
    font_size,
    name_ticks,
    new_figure,
    number_powers,
    shorten,
    styled,
)


@styled
def comparison(
    names: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float]]],
    agreement: FloatArray | None = None,
    run_names: Sequence[str] = (),
) -> Figure:
    """Draw the scores of groups of runs, each run as a dot and the mean as a bar, and the agreement of all pairs.

    Parameters
    ----------
    names : sequence of G strings, G >= 1
        The groups. The first 40 are drawn.
    values : mapping of a score's name to G sequences of floats
        A panel for each score, with the values of the runs of each group.
    agreement : float array, shape (R, R), optional
        Adjusted Rand index of each pair of runs; nan is drawn as background. Up to 100 runs are drawn.
    run_names : sequence of R strings
    """
    n_groups = min(len(names), MAX_GROUPS)
    height = max(2.5, 0.28 * n_groups + 1.2)
    has_map = agreement is not None and 2 <= len(agreement) <= MAX_NAMED
    map_height = min(max(3.0, 0.16 * len(run_names) + 1.6), MAX_HEIGHT) if has_map else 0.0
    figure = new_figure(MAX_WIDTH if len(values) > 2 else 9.0, min(height + map_height, 2 * MAX_HEIGHT))
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
    panels[0].set_yticks(range(n_groups), [shorten(name, 48) for name in names[:n_groups]], parse_math=False)
    panels[0].set_xlabel(f"dots: runs, bars: means{more}")
    if agreement is not None and has_map:
        axes = rows[1].add_subplot(title="Agreement between runs")
        heat = axes.imshow(agreement, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(heat, ax=axes, label="adjusted Rand index", pad=0.02)
        every = math.ceil(len(run_names) / (MAX_NAMED // 2))
        shown = [shorten(name, 60) for name in run_names[::every]]
        axes.set_yticks(range(0, len(run_names), every), shown, parse_math=False, fontsize=font_size(len(run_names)))
        axes.set_xticks([])
    return figure


@styled
def selection(
    n_clusters: Sequence[int], values: Mapping[str, Sequence[Sequence[float]]], chosen: int, plausible: Sequence[int]
) -> Figure:
    """Draw scores over the number of clusters: a dot for each run, a line through the means.

    Parameters
    ----------
    n_clusters : sequence of G ints
    values : mapping of a score's name to G sequences of floats
        A panel for each score.
    chosen : int
        The recommended number, marked by a line; the other ``plausible`` numbers are shaded.
    """
    n_columns = min(3, len(values))
    n_rows = math.ceil(len(values) / n_columns)
    figure = new_figure(4.0 * n_columns, 2.8 * n_rows)
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


@styled
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
    """Draw the trials of a search: the objective over the trials with the best so far, and over each setting.

    Parameters
    ----------
    numbers, values, is_pruned : sequences of T
        The trials in order; pruned trials are drawn hollow, at their last value.
    settings : mapping of a setting's name to T values
        A panel for each setting: numbers on an axis, other values as names.
    logarithmic : sequence of names
        Settings with a logarithmic axis.
    orders : mapping of a setting's name to its values
        The order of the values that are drawn as names.
    """
    n_panels = len(settings) + 1
    n_columns = min(3, n_panels)
    n_rows = math.ceil(n_panels / n_columns)
    figure = new_figure(4.0 * n_columns, 2.8 * n_rows)
    y = np.asarray(values, dtype=float)
    pruned = np.asarray(is_pruned, dtype=bool)

    def draw(place: int, x: npt.NDArray[Any], title: str) -> Axes:
        axes: Axes = figure.add_subplot(n_rows, n_columns, place, title=shorten(title, MAX_TITLE), ylabel=objective)
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
    for place, (name, column) in enumerate(settings.items(), start=2):
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
            axes = draw(place, np.asarray(column, dtype=float), name)
            if name in logarithmic:
                axes.set_xscale("log")
                number_powers(axes.xaxis, (1.0, 3.0))  # it may span less than a power of 10
        else:
            names = list(orders.get(name, sorted({str(value) for value in column})))
            axes = draw(place, np.asarray([names.index(str(value)) for value in column]), name)
            axes.set_xlim(-0.5, len(names) - 0.5)
            if sum(map(len, names)) <= MAX_LETTERS:
                axes.set_xticks(range(len(names)), names, parse_math=False)
            else:
                name_ticks(axes.xaxis, names)
    return figure
