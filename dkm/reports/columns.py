"""The values of rows as a reader knows them: numbers in their units, levels of categories, dates."""

# Shapes: n rows, F features.

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from dkm.data.datasets import Dataset
from dkm.data.tables.columns import Column
from dkm.data.tables.plan import TablePlan
from dkm.reports.features import DAY_S, levels_of

Floats = npt.NDArray[np.float64]

MISSING = "missing"
# Features without names, such as the dimensions of an embedding: so many are shown.
_MAX_UNNAMED = 64
# Numbers between these are written without an exponent.
_SMALLEST, _LARGEST = 1e-4, 1e15
_MOST_DECIMALS = 9


@dataclass(frozen=True, eq=False)
class Values:
    """One column of some rows."""

    name: str
    kind: Literal["number", "category", "date"]
    # (n,) numbers, nan where one was missing; the index of a level; days since 1970.
    values: Floats
    levels: Sequence[str] = ()
    # The features (positions among F) that the column has become.
    features: Sequence[int] = ()

    @cached_property
    def n_decimals(self) -> int:
        """So many digits after the decimal point tell the values apart: three significant digits of their spread."""
        present = self.values[np.isfinite(self.values)]
        if self.kind != "number" or not len(present) or (present == np.rint(present)).all():
            return 0
        low, high = np.percentile(present, [5, 95])
        return decimals_of(float(high - low or np.ptp(present)), 3)

    def text(self, row: int) -> str:
        """Return the value of a row as text."""
        return format_value(self.kind, float(self.values[row]), self.levels, self.n_decimals)


def format_value(kind: str, value: float, levels: Sequence[str] = (), n_decimals: int = 0) -> str:
    """Return a value of a column as text."""
    if np.isnan(value):
        return MISSING
    if kind == "category":
        return str(levels[int(value)])
    if kind == "date":
        try:
            return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(value))).isoformat()
        except OverflowError:
            return f"{value:,.0f} days"
    return format_number(value, n_decimals, 4)


def format_number(value: float, n_decimals: int = 0, n_digits: int = 3) -> str:
    """Return a number with ``n_digits`` significant digits, but at least ``n_decimals`` after the decimal point.

    All digits before the decimal point are shown, and no zeros at the end; very small and large numbers have exponents.
    """
    if not np.isfinite(value):
        return "-"
    if value == 0 or not _SMALLEST <= abs(value) < _LARGEST:
        return f"{value + 0.0:.{n_digits}g}"  # no minus before a zero
    n_decimals = max(n_decimals, n_digits - 1 - math.floor(math.log10(abs(value))), 0)
    rounded = round(value, n_decimals) + 0.0
    text = f"{rounded:{',' if abs(rounded) >= 10_000 else ''}.{n_decimals}f}"
    return text.rstrip("0").rstrip(".") if n_decimals else text


def decimals_of(size: float, n_digits: int) -> int:
    """Return how many digits after the decimal point show ``n_digits`` significant digits of a size."""
    if not 0 < size < math.inf:
        return 0
    return min(max(n_digits - 1 - math.floor(math.log10(size)), 0), _MOST_DECIMALS)


def columns_of(data: Dataset, rows: npt.NDArray[np.float32], index: npt.NDArray[np.int64]) -> list[Values]:
    """Return the columns of scaled rows (n, F) at positions (n,); none of images, texts and features of encoders.

    Where scaling has normalized the length of each row, numbers are as scaled, which their names say, and dates are
    left out; levels and booleans are known all the same.
    """
    is_encoded = data.plan is not None and "encoder" in data.plan
    if data.image_shape is not None or data.texts is not None or is_encoded:
        return []
    F, take, is_cut = data.n_features, _reader(data, rows, index), data.scaling.row_length > 0
    if data.features is None:
        names = [f"feature {f}" for f in range(F)] if F <= _MAX_UNNAMED else []
    else:
        names = list(data.features)
        if parts := [] if data.plan is None else _planned(data, take, is_cut=is_cut):
            return parts
    return [Values(_as_scaled(name, is_cut), "number", take(f), (), (f,)) for f, name in enumerate(names)]


def _as_scaled(name: str, is_cut: bool) -> str:
    return f"{name} (scaled)" if is_cut else name


def _reader(data: Dataset, rows: npt.NDArray[np.float32], index: npt.NDArray[np.int64]) -> Callable[[int], Floats]:
    """Return a function that returns the values (n,) of a feature, in the units of the data."""
    scaling = data.scaling
    shift, scale = (np.broadcast_to(part, data.n_features) for part in (np.array(scaling.shift), scaling.finite_scale))

    def take(f: int) -> Floats:
        values = rows[:, f].astype(np.float64) * scale[f] + shift[f]
        if scaling.total is not None:
            values = np.expm1(values)
        values = _rounded(values, float(abs(shift[f]) + abs(scale[f])))
        if data.filled is not None:
            values[data.filled.of_feature(f, index)] = np.nan
        return values

    return take


def _rounded(values: Floats, size: float) -> Floats:
    """Return whole numbers exactly: scaling to float32 and back has changed their last digits."""
    whole = np.rint(values)
    is_whole = np.abs(values - whole) <= 1e-6 * np.maximum(np.abs(values), size)
    return whole + 0.0 if is_whole.all() else values  # no minus before a zero


def _planned(data: Dataset, take: Callable[[int], Floats], *, is_cut: bool) -> list[Values]:
    """Return the columns as the file had them: a category as one column, a date as a date."""
    assert data.plan is not None
    if "columns" not in data.plan:
        return []
    plan = TablePlan.from_dict(data.plan)
    if plan.features != data.features:
        return []
    return list(_joined(plan.used, take, is_cut=is_cut))


def _joined(columns: Sequence[Column], take: Callable[[int], Floats], *, is_cut: bool) -> Iterator[Values]:
    """Yield the columns of the file; with ``is_cut`` rows were divided by their length, so a level is only positive."""
    f, least = 0, 0.0 if is_cut else 0.5
    for column in columns:
        features = range(f, f + len(column.features))
        f += len(features)
        if column.kind == "category":
            table = np.column_stack([take(feature) for feature in features])
            values = np.where(table.max(axis=1) > least, table.argmax(axis=1), np.nan).astype(np.float64)
            yield Values(column.name, "category", values, levels_of(column), features)
        elif column.kind == "boolean" and is_cut:
            values = take(features[0])
            yield Values(column.name, "number", np.where(np.isnan(values), np.nan, values > 0), (), features)
        elif column.kind == "date" and "days" in column.cycles and not is_cut:
            at = features[column.features.index(f"{column.name} (days)")]
            yield Values(column.name, "date", np.floor(take(at) + column.origin / DAY_S + 1e-3), (), features)
        elif column.kind == "list":
            for feature, name in zip(features, column.features, strict=True):
                yield Values(_as_scaled(name, is_cut), "number", take(feature), (), (feature,))
        elif column.kind != "date":
            yield Values(_as_scaled(column.name, is_cut), "number", take(features[0]), (), features)
