"""What the features of a run mean to a reader: numbers, levels of a category, parts of a date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from dkm.data.tables.columns import Column
from dkm.data.tables.plan import TablePlan

DAY_S = 86_400
Kind = Literal["number", "boolean", "level", "days", "cycle"]


class Feature(NamedTuple):
    """One feature: a column of the file, or one of the numbers that a column has become."""

    name: str
    # "days" counts from ``origin``; "cycle" is the sine or cosine of a time of the year or the day.
    kind: Kind = "number"
    column: str = ""
    level: str = ""
    # Days since 1970.
    origin: float = 0.0


def features_of(names: Sequence[str], plan: Mapping[str, Any] | None) -> list[Feature]:
    """Return what the features ``names`` mean, by the plan of a table where there is one."""
    if plan is None or "columns" not in plan:
        return [Feature(name) for name in names]
    planned = [feature for column in TablePlan.from_dict(plan).used for feature in _features_of(column)]
    if [feature.name for feature in planned] == list(names):
        return planned
    known = {feature.name: feature for feature in planned}
    return [known.get(name, Feature(name)) for name in names]


def levels_of(column: Column) -> list[str]:
    """Return the levels of a category in the order of its features."""
    return [name[len(column.name) + 1 :] for name in column.features]


def _features_of(column: Column) -> Iterator[Feature]:
    if column.kind == "category":
        for name, level in zip(column.features, levels_of(column), strict=True):
            yield Feature(name, "level", column.name, level)
    elif column.kind == "date":
        for name in column.features:
            kind: Kind = "days" if name == f"{column.name} (days)" else "cycle"
            yield Feature(name, kind, column.name, origin=column.origin / DAY_S)
    else:
        kind = "boolean" if column.kind == "boolean" else "number"
        yield from (Feature(name, kind, column.name) for name in column.features)
