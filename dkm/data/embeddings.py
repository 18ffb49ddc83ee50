"""Recognize embeddings of a pretrained network: rows of about the same length, in many features of similar spread.

What such a row means is its direction: ``data.scaling=row_rms`` keeps it, and the spread that the network gave each
feature.
"""

# Shapes: n rows of a chunk, F features.

from __future__ import annotations

import numpy as np

from dkm.data.scaling import Array

_MIN_FEATURES = 100
# The most that the lengths of rows may vary (standard deviation / mean), the spread of features (ratio of the 90th to
# the 10th percentile of their standard deviations), and the mean of a feature differ from 0 (median, in its standard
# deviations). Sentences in MiniLM have 0.00, 1.2 and 0.2, photos in EfficientNet 0.09, 3.5 and 0.6, counts of genes
# 0.38, 18 and 0.2.
_MAX_VARIATION, _MAX_SPREAD, _MAX_OFFSET = 0.15, 5.0, 1.0


class Embeddings:
    """Lengths of rows and moments of features, updated chunk by chunk."""

    def __init__(self) -> None:
        self._n = 0
        self._lengths: list[Array] = []
        self._sum: Array = np.zeros(0)
        self._squares: Array = np.zeros(0)

    @staticmethod
    def may_be(chunk: Array) -> bool:
        """Return whether the type and number of features of rows (n, F) allow embeddings."""
        return chunk.dtype.kind == "f" and chunk.shape[1] >= _MIN_FEATURES

    def add(self, chunk: Array) -> None:
        """Add finite rows (n, F)."""
        squares = np.square(chunk, dtype=np.float64)
        self._n += len(chunk)
        self._lengths.append(np.sqrt(squares.sum(axis=1)))
        self._sum = chunk.sum(axis=0, dtype=np.float64) + (self._sum if self._sum.size else 0.0)
        self._squares = squares.sum(axis=0) + (self._squares if self._squares.size else 0.0)

    def evidence(self) -> str | None:
        """Return why the rows are embeddings; None if they are not."""
        if not self._lengths:
            return None
        lengths, mean = np.concatenate(self._lengths), self._sum / self._n
        lengths = lengths[lengths > 0]  # an empty text may be all zeros
        deviation = np.sqrt(np.maximum(self._squares / self._n - mean**2, 0.0))
        varies = deviation > 1e-6 * np.sqrt(self._squares / self._n)
        if varies.sum() < _MIN_FEATURES:
            return None
        low, high = np.quantile(deviation[varies], (0.1, 0.9))
        variation, offset = lengths.std() / lengths.mean(), np.median(np.abs(mean[varies]) / deviation[varies])
        if variation > _MAX_VARIATION or high > _MAX_SPREAD * low or offset > _MAX_OFFSET:
            return None
        return (
            f"{varies.sum():,} features of similar spread (90th to 10th percentile {high / low:.1f}), and rows of "
            f"about the same length ({lengths.mean():.3g}, varying by {variation:.0%})"
        )
