"""Figures of a training run: its losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dkm.evaluation.figures.style import (
    BOTTOM,
    LEFT,
    PALETTE,
    RIGHT,
    TOP,
    framed_figure,
    new_figure,
    number_powers,
    styled,
)

LABEL_CHANGE = "clusters/label_change"  # its key in metrics.jsonl


@styled
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
        figure = new_figure(4.0, 2.0)
        figure.text(0.5, 0.5, "no losses recorded", ha="center", va="center")
        return figure

    n_columns = min(3, len(curves))
    n_rows = math.ceil(len(curves) / n_columns)
    width, height = 4.0, 2.7  # of a panel
    figure = framed_figure(n_columns * width, n_rows * height)
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
            number_powers(axes.yaxis, (1.0, 2.0, 5.0) if max(heights) < 50 * min(heights) else (1.0,))
    figure.axes[0].legend(frameon=False)
    return figure


def _curve(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, int, float]]:
    """Phase, step and value of each record that has a finite one."""
    points = [(record["phase"], record["step"], record.get(key)) for record in records]
    return [(phase, step, value) for phase, step, value in points if value is not None and np.isfinite(value)]
