"""What the values of a column are like, whatever their type."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dkm.data.tables.columns import Floats, is_list, is_text

# The first rows, which settle most questions.
HEAD_ROWS = 200
# A value is far from the others if it is so many interquartile ranges from the median.
FAR = 15


def is_constant(present: pa.Array) -> bool:
    """Return whether all values are equal; lists never are."""
    type_ = present.type
    if is_list(type_) or not len(present):
        return False
    if present[0].as_py() != present[-1].as_py():  # most columns end here
        return False
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        low, high = pc.min_max(present).as_py().values()
        return bool(low == high)
    return bool(pc.count_distinct(present).as_py() == 1)


def is_distinct(values: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether no two values are equal."""
    return bool(pc.count_distinct(values).as_py() == len(values))


def is_sorted(numbers: Floats) -> bool:
    """Return whether each number is larger than the one before."""
    return bool((np.diff(numbers) > 0).all())


def is_whole(values: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether all values are whole numbers: integers, floats without a fraction, or such numbers as text."""
    if pa.types.is_integer(values.type):
        return True
    head = values.slice(0, HEAD_ROWS)  # most columns that have fractions have them here
    return all(pc.all(_is_whole_each(part)).as_py() is True for part in (head, values))


def _is_whole_each(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if is_text(values.type):
        return pc.match_substring_regex(values, r"^\s*[+-]?\d+(\.0*)?\s*$")
    if pa.types.is_decimal(values.type):
        values = pc.cast(values, pa.float64(), safe=False)
    if pa.types.is_floating(values.type):
        return pc.or_(pc.equal(values, pc.floor(values)), pc.is_nan(values))
    return pa.array([False])
