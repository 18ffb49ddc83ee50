"""What the settings ask of the columns of a table, and what was inferred of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from dkm.data.tables.columns import Column


@dataclass(frozen=True)
class Wishes:
    """What the settings say about columns."""

    columns: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    id: str | None = None
    labels: str | None = None
    categorical: Sequence[str] = ()
    numeric: Sequence[str] = ()
    dates: Sequence[str] = ()
    # What the file itself declares to be categories.
    declared: Collection[str] = ()
    # None where there is no such setting.
    missing_values: Sequence[str] | None = ()
    is_strict: bool = False
    decimal: str = "."
    thousands: str = ""


@dataclass
class Inferred:
    """The result of ``infer``: the columns, what looks odd, and which columns have numbers with fractions."""

    columns: list[Column]
    odd: list[str] = field(default_factory=list)
    fractional: set[str] = field(default_factory=set)
