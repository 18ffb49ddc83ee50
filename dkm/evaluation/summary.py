"""Mean and standard deviation of a score over runs, and how numbers of scores are written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple, Self


class Summary(NamedTuple):
    """Mean and standard deviation (of a sample) of ``n`` values; ``sd`` is None for a single value."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarize one or more finite values.

        Raises
        ------
        statistics.StatisticsError
            If there are none.
        """
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), sd, len(values))

    def format(self, decimals: int = 3) -> str:
        """Return ``mean ± sd`` with a fixed number of decimals, the mean alone for a single value."""
        mean = f"{self.mean:.{decimals}f}"
        return mean if self.sd is None else f"{mean} ± {self.sd:.{decimals}f}"

    def __str__(self) -> str:
        return self.format(decimals_of(self.mean, 3))


def decimals_of(value: float, decimals: int) -> int:
    """Return ``decimals`` for numbers below ten, and one for larger ones, such as sums over all rows."""
    return decimals if abs(value) < 10 else 1


def format_score(value: float | None) -> str:
    """Return a score with four decimals, or one from ten on; ``-`` where it is undefined."""
    return "-" if value is None else f"{value:.{decimals_of(value, 4)}f}"
