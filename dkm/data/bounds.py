"""Recognize features on one scale, such as pixels, ratings or coordinates: most have the same lowest and highest value.

Scaling each of them to variance 1 would make the differences of a pixel that is hardly ever set as large as those of a
pixel in the middle; ``data.scaling=centered`` keeps the scale that they share.
"""

# Shapes: n rows of a chunk, F features.

from __future__ import annotations

import numpy as np

from dkm.data.scaling import Array

# Two features can have the same bounds by chance: two flags, or two grades.
_MIN_FEATURES = 4


class FeatureRanges:
    """The lowest and highest value of each feature, updated chunk by chunk."""

    def __init__(self) -> None:
        self._low: Array | None = None
        self._high: Array | None = None

    def add(self, chunk: Array) -> None:
        """Add finite rows (n, F), n >= 1."""
        low, high = chunk.min(axis=0), chunk.max(axis=0)
        if self._low is not None and self._high is not None:
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self._low, self._high = low, high

    def evidence(self) -> str | None:
        """Return why the features are on one scale; None if they are not.

        They are if at least half of the features that vary, and four of them, have both the lowest and the highest
        value of all.
        """
        if self._low is None or self._high is None:
            return None
        low, high = self._low[self._low < self._high], self._high[self._low < self._high]
        if len(low) < _MIN_FEATURES:
            return None
        n_full = int(((low == low.min()) & (high == high.max())).sum())
        if n_full < max(_MIN_FEATURES, len(low) / 2):
            return None
        return f"{n_full:,} of {len(low):,} features that vary have values from {low.min():g} to {high.max():g}"
