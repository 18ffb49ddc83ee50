"""Nulls in place of some values."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def null_where(mask: pa.Array | pa.ChunkedArray, values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the values, null where the mask is true or null.

    ``pc.if_else(mask, None, values)`` is that too, but before pyarrow 24 it returns other bytes for a slice of an array
    of texts.
    """
    return pc.if_else(mask, pa.nulls(len(values), values.type), values)
