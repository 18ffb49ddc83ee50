"""Find the numbers that mean "missing", such as -999."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dkm.data.tables.columns import is_real
from dkm.data.tables.wishes import Wishes

# Fewer different numbers may be codes: -9 beside 1 to 5 is one, unless it is so many times their range below them.
_MIN_AMOUNTS, _FAR_BELOW = 10, 5


class SentinelSearch:
    """Finds negative whole numbers that mean "missing", such as -200 or -999, column by column.

    They are the minimum of three columns or more, occur at least twice in each, and lie far below the other values,
    which are not a few codes. One of nines, such as -99, needs one such column. What means "missing" in one column does
    so in all where it is the minimum and lies far below the others.
    """

    def __init__(self, wishes: Wishes) -> None:
        self._settled = {wishes.labels, wishes.id, *wishes.numeric, *wishes.categorical, *wishes.exclude}
        self._accepted: dict[float, list[str]] = {}
        self._possible: dict[float, list[str]] = {}

    def look_at(self, name: str, values: pa.ChunkedArray) -> None:
        """Look at a column (N,), of any type."""
        if not is_real(values.type) or name in self._settled:
            return
        if pa.types.is_decimal(values.type):
            values = pc.cast(values, pa.float64(), safe=False)
        low = pc.min(values).as_py()
        if low is None or low >= -1 or low != np.floor(low) or not np.isfinite(low):
            return
        others = values.filter(pc.greater(values, pa.scalar(low, values.type)))
        if not len(others):
            return
        least, most = pc.min_max(others).as_py().values()
        if least - low < 0.9 * abs(low):
            return
        n_low = len(values) - values.null_count - len(others)
        has_codes = pc.count_distinct(others).as_py() < _MIN_AMOUNTS
        if n_low >= 2 and not has_codes:
            self._accepted.setdefault(float(low), []).append(name)
        elif not has_codes or (low <= -9 and least - low >= _FAR_BELOW * (most - least)):
            self._possible.setdefault(float(low), []).append(name)

    def found(self) -> dict[str, list[str]]:
        """Return the numbers, as text, by the names of the columns that were looked at."""
        sentinels = {
            low: names
            for low, names in self._accepted.items()
            if len(names) >= 3 or (low <= -99 and set(f"{-low:g}") == {"9"})
        }
        return {
            name: [f"{low:g}"] for low, names in sentinels.items() for name in (*names, *self._possible.get(low, ()))
        }
