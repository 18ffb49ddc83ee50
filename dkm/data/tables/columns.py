"""The columns of a table: their roles, their kinds, and how each kind becomes numbers for the network.

A ``Column`` is fitted on the training rows, stored as JSON with the model, and applied to further rows. What the kinds
mean: ``number``; ``boolean`` (0 and 1); ``category`` (one number for each frequent level, and one for all others);
``date`` (days since the first, with cycles of the year and the day where the values have them); ``list`` (a vector of
equal length in each row, such as an embedding).
"""

# Shapes: n rows, w numbers that a column becomes.

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dkm.data.tables.dates import FIRST_YEAR, parse_dates
from dkm.data.tables.notation import AFFIXES, ALIKE, MINUS, MISSING, MISSING_MARKS, USUAL_MARKS
from dkm.data.tables.nulls import null_where
from dkm.errors import reason

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Rarer levels are joined to one. Both limits hold: this many levels, and this fraction of the rows each.
MAX_LEVELS = 30
MIN_LEVEL_FRACTION = 0.005
OTHER = "other"
# Words for true and false.
TRUE, FALSE = frozenset({"true", "yes", "y", "t", "on"}), frozenset({"false", "no", "n", "f", "off"})
_DAY_S = 86_400.0
YEAR_DAYS = 365.2425
# A number, without a sign before it, in parentheses or before a minus.
_NEGATIVE = r"^\([^()+-]+\)$|^[^()+-]+-$"
_AFFIXES = rf"^[{AFFIXES}]+|[{AFFIXES}]+$"
TYPESET_MINUS = rf"^[{MINUS}]([.,]?\d)"
# What MySQL writes for no date.
_NO_DATES = ("0000-00-00", "0000-00-00 00:00:00")
# What means "no value" in a text column, by the field ``marks`` of the column.
_MARKS = {"earlier": MISSING | MISSING_MARKS, "usual": USUAL_MARKS, "none": {""}}
MARKS = tuple(_MARKS)


class NotOfKindError(ValueError):
    """A cell that is not of the kind of its column: ``row`` within the rows that were encoded, and its ``text``."""

    def __init__(self, row: int, text: str) -> None:
        super().__init__(f"row {row}: {text!r}")
        self.row, self.text = row, text


class ColumnError(Exception):
    """A column that pyarrow cannot interpret, though the file as a whole can be read."""

    def __init__(self, name: str, type_: pa.DataType, why: str) -> None:
        super().__init__(f"{name} ({type_}): {why}")
        self.name, self.type, self.why = name, type_, why


@contextlib.contextmanager
def named_column(name: str, type_: pa.DataType) -> Iterator[None]:
    """Turn errors of pyarrow, which name no column, into a ``ColumnError``."""
    try:
        yield
    except (NotOfKindError, pa.ArrowMemoryError):
        raise
    except (pa.ArrowException, ValueError, LookupError, NotImplementedError) as error:
        raise ColumnError(name, type_, reason(error)) from error


@dataclass
class Column:
    """One column of the table, and how it is read.

    Attributes
    ----------
    name, role, kind : str
        ``kind`` is empty for a role that has none.
    note : str
        The reason or the encoding in a few words, for the data report.
    missing : list of str
        Cells that mean "no value" in this column, besides the usual ones.
    marks : {"earlier", "usual", "none"}
        Which cells are the usual ones: those of plans that say nothing of it, or with ``FURTHER_MARKS``, or only empty
        ones.
    fill : float or str, optional
        Replacement of a missing value: the median, or the most frequent level. None: missing values are refused.
    decimal, thousands : str
        Notation of numbers in text.
    negatives : bool
        Whether (500) and 500- in text are negative numbers, as in accounting.
    levels : list of str
        Levels of a category, the most frequent first; without those that are joined as ``other``. Of a boolean, what
        a checked box has in text, if a blank cell means no; else none.
    has_other : bool
        Whether a category has rarer levels, which become one number together.
    formats : list of str
        Format of a date in text; ``duration`` of a number that is one, in seconds.
    first_year : int
        First of the hundred years that two digits of a date in text may mean.
    origin : float
        First date, in seconds since 1970.
    cycles : list of {"days", "year", "day"}
        What a date becomes: days since the origin, sine and cosine of the time of the year and of the day.
    length : int
        Length of a list.
    """

    name: str
    role: str = "feature"
    kind: str = ""
    note: str = ""
    missing: list[str] = field(default_factory=list)
    marks: str = "earlier"
    fill: float | str | None = None
    decimal: str = "."
    thousands: str = ""
    negatives: bool = False
    levels: list[str] = field(default_factory=list)
    has_other: bool = False
    formats: list[str] = field(default_factory=list)
    first_year: int = FIRST_YEAR
    origin: float = 0.0
    cycles: list[str] = field(default_factory=list)
    length: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as JSON values."""
        plain = asdict(Column(self.name))
        return {key: value for key, value in asdict(self).items() if key == "name" or value != plain[key]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Column:
        return cls(**fields)

    @property
    def features(self) -> list[str]:
        """The names of the numbers that the column becomes."""
        if self.kind == "category":
            return [f"{self.name}={level}" for level in [*self.levels, *([OTHER] if self.has_other else [])]]
        if self.kind == "date":
            parts = {"days": ["days"], "year": ["year sin", "year cos"], "day": ["day sin", "day cos"]}
            return [f"{self.name} ({part})" for cycle in self.cycles for part in parts[cycle]]
        if self.kind == "list":
            return [f"{self.name}[{i}]" for i in range(self.length)]
        return [self.name]

    @property
    def groups(self) -> list[int]:
        """For each number a group within the column: numbers of one group share one variance."""
        if self.kind == "category":
            return [0] * len(self.features)
        if self.kind == "date":
            width = {"days": 1, "year": 2, "day": 2}
            return [group for group, cycle in enumerate(self.cycles) for _ in range(width[cycle])]
        return list(range(len(self.features)))

    @property
    def is_check_box(self) -> bool:
        return self.kind == "boolean" and bool(self.levels)

    def encode(self, values: pa.Array) -> tuple[npt.NDArray[Any], Mask, int]:
        """Return the numbers (n, w) of the values (n,), the mask (n,) of missing values, and the number of new levels.

        Missing numbers are NaN; a missing level is all zeros. They are not yet filled.

        Raises
        ------
        NotOfKindError
            For a value that is not of this kind.
        ColumnError
            If pyarrow cannot interpret the values.
        """
        if not (is_readable(values.type) or pa.types.is_null(values.type)):
            raise NotOfKindError(0, str(values.type))
        with named_column(self.name, values.type):
            return _ENCODERS[self.kind](self, values)

    def filled(self) -> Floats:
        """Return the numbers (w,) that replace a missing value."""
        if self.kind == "category":
            return np.array([name == f"{self.name}={self.fill}" for name in self.features], np.float64)
        if self.kind == "date":
            assert isinstance(self.fill, float | int)
            parts: Floats = _date_parts(self, np.array([float(self.fill)]))[0]
            return parts
        assert self.fill is not None
        return np.full(len(self.features), float(self.fill))

    def is_missing(self, values: pa.Array) -> Mask:
        """Return the mask (n,) of values that are missing: nulls, NaN, and cells that mean "no value"."""
        missing = values.is_null(nan_is_null=pa.types.is_floating(values.type))
        if self.is_check_box:  # blank means no
            missing = pa.array(np.zeros(len(values), dtype=bool))
        if is_text(values.type):
            marks = {*_MARKS[self.marks], *self.missing, *(_NO_DATES if self.kind == "date" else ())}
            words = pa.array(sorted(marks - {""} if self.is_check_box else marks))
            missing = pc.or_(missing, pc.is_in(pc.utf8_trim_whitespace(values), value_set=words))
        elif self.missing and (is_real(values.type) or pa.types.is_boolean(values.type)):
            numbers = [float(text) for text in self.missing if _is_float(text)]
            floats = pc.cast(values, pa.float64(), safe=False)
            missing = pc.or_(missing, pc.fill_null(pc.is_in(floats, value_set=pa.array(numbers, pa.float64())), False))
        mask: Mask = np.asarray(missing.to_numpy(zero_copy_only=False), dtype=bool)
        return mask


def is_list(type_: pa.DataType) -> bool:
    """Return whether the values are lists of numbers, such as embeddings."""
    has_items = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(has_items and (pa.types.is_floating(type_.value_type) or pa.types.is_integer(type_.value_type)))


def is_readable(type_: pa.DataType) -> bool:
    """Return whether a column of this type can be a feature: not bytes, structs, maps, or lists of anything else."""
    is_time = pa.types.is_temporal(type_) and not pa.types.is_interval(type_)
    return bool(is_real(type_) or is_time or is_text(type_) or pa.types.is_boolean(type_) or is_list(type_))


def is_real(type_: pa.DataType) -> bool:
    """Return whether the values are integers, floats or decimals."""
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_numbers(values: pa.Array, decimal: str = ".", thousands: str = "", *, negatives: bool = False) -> pa.Array:
    """Return the numbers of text cells as float64, null where a cell is none.

    Spaces, currency signs and per cent signs around a number are ignored, and a minus may be typeset (U+2212 or an en
    dash). With ``negatives``, (500) and 500- are -500.
    """
    text = pc.replace_substring_regex(values, _AFFIXES, "")
    text = pc.replace_substring_regex(text, TYPESET_MINUS, r"-\1")
    if not negatives:
        return _parse_plain(text, decimal, thousands)
    is_negative = pc.match_substring_regex(text, _NEGATIVE)
    inner = pc.if_else(is_negative, pc.replace_substring_regex(text, r"^\(|\)$|-$", ""), text)
    numbers = _parse_plain(pc.replace_substring_regex(inner, _AFFIXES, ""), decimal, thousands)
    return pc.if_else(is_negative, pc.negate(numbers), numbers)


def _parse_plain(text: pa.Array, decimal: str, thousands: str) -> pa.Array:
    if thousands:
        if thousands in ALIKE:
            text = pc.replace_substring_regex(text, f"[{ALIKE[thousands]}]", thousands)
        group = re.escape(thousands)
        # Only marks between groups of three digits, of which the first does not begin with 0; Indian 12,34,567.
        pairs = r"(,\d\d)*" if thousands == "," else ""
        is_grouped = pc.match_substring_regex(
            text, rf"^[+-]?[1-9]\d{{0,2}}{pairs}({group}\d{{3}})+({re.escape(decimal)}\d+)?$"
        )
        text = pc.if_else(is_grouped, pc.replace_substring(text, thousands, ""), text)
    if decimal != ".":
        # A point is no decimal mark here: 1.5 must not become a number that was never meant.
        text = null_where(pc.match_substring(text, "."), pc.replace_substring(text, decimal, "."))
    is_number = pc.match_substring_regex(
        text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?inf(inity)?$", ignore_case=True
    )
    text = null_where(pc.invert(is_number), pc.utf8_ltrim(text, "+"))
    return pc.cast(text, pa.float64())


# --- encoders -------------------------------------------------------------------------------------------------


def _encode_number(column: Column, values: pa.Array) -> tuple[npt.NDArray[Any], Mask, int]:
    missing = column.is_missing(values)
    if is_text(values.type):
        if column.formats:
            numbers = parse_dates(values, column.formats)
        else:
            numbers = parse_numbers(values, column.decimal, column.thousands, negatives=column.negatives)
        _require_parsed(values, numbers, missing)
        array = numbers.to_numpy(zero_copy_only=False)
    elif pa.types.is_duration(values.type):
        array = temporal_seconds(values)
    elif pa.types.is_decimal(values.type):
        array = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    elif pa.types.is_boolean(values.type):
        array = pc.cast(values, pa.uint8()).to_numpy(zero_copy_only=False)
    else:
        array = values.to_numpy(zero_copy_only=False)
    if missing.any():
        array = np.where(missing, np.nan, array.astype(np.float64))
    return array[:, np.newaxis], missing, 0


def _encode_boolean(column: Column, values: pa.Array) -> tuple[npt.NDArray[Any], Mask, int]:
    if column.is_check_box:
        return _encode_check_box(column, values)
    if not is_text(values.type):
        array, missing, _ = _encode_number(column, values)
        others = np.flatnonzero(~missing & (array[:, 0] != 0) & (array[:, 0] != 1))
        if len(others):
            raise NotOfKindError(int(others[0]), str(values[int(others[0])].as_py()))
        return array, missing, 0
    missing = column.is_missing(values)
    words = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    is_true = pc.is_in(words, value_set=pa.array(sorted({*TRUE, "1", "1.0"})))
    is_false = pc.is_in(words, value_set=pa.array(sorted({*FALSE, "0", "0.0"})))
    numbers = pc.if_else(is_true, 1.0, pc.if_else(is_false, 0.0, None))
    _require_parsed(values, numbers, missing)
    array = numbers.to_numpy(zero_copy_only=False)
    return np.where(missing, np.nan, array)[:, np.newaxis], missing, 0


def _encode_check_box(column: Column, values: pa.Array) -> tuple[npt.NDArray[Any], Mask, int]:
    missing = column.is_missing(values)
    cells = pc.utf8_lower(pc.fill_null(as_levels(values), ""))
    is_checked = pc.equal(cells, column.levels[0].lower())
    numbers = pc.if_else(is_checked, 1.0, pc.if_else(pc.equal(cells, ""), 0.0, None))
    _require_parsed(values, numbers, missing)
    array = numbers.to_numpy(zero_copy_only=False)
    return np.where(missing, np.nan, array)[:, np.newaxis], missing, 0


def _encode_category(column: Column, values: pa.Array) -> tuple[npt.NDArray[Any], Mask, int]:
    missing = column.is_missing(values)
    text = as_levels(values)
    index = pc.index_in(text, value_set=pa.array(column.levels, pa.string()))
    codes = pc.fill_null(index, len(column.levels)).to_numpy(zero_copy_only=False)
    is_new = (codes == len(column.levels)) & ~missing
    encoded = np.zeros((len(values), len(column.features)))
    is_column = ~missing & (codes < len(column.features))
    rows = np.flatnonzero(is_column)
    encoded[rows, codes[rows]] = 1.0
    return encoded, missing, int(is_new.sum())


def as_levels(values: pa.Array) -> pa.Array:
    """Return values of any type as the text of their level; whole floats without their point."""
    if is_text(values.type):
        return pc.utf8_trim_whitespace(values)
    if pa.types.is_floating(values.type):
        whole = pc.fill_null(pc.equal(values, pc.floor(values)), False)
        return pc.if_else(
            whole, pc.cast(pc.cast(values, pa.int64(), safe=False), pa.string()), pc.cast(values, pa.string())
        )
    return pc.cast(values, pa.string())


def _encode_date(column: Column, values: pa.Array) -> tuple[npt.NDArray[Any], Mask, int]:
    seconds, missing = date_seconds(column, values)
    return _date_parts(column, (seconds - column.origin) / _DAY_S), missing, 0


def date_seconds(column: Column, values: pa.Array) -> tuple[Floats, Mask]:
    """Return the values (n,) in seconds since 1970 (of the day for times), NaN where missing, and the mask of these.

    Raises
    ------
    NotOfKindError
        For text in another format.
    """
    missing = column.is_missing(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):  # 20240131
        values = as_levels(values)
    if is_text(values.type):
        parsed = parse_dates(values, column.formats, column.first_year)
        _require_parsed(values, parsed, missing)
        seconds = parsed.to_numpy(zero_copy_only=False)
    else:
        seconds = temporal_seconds(values)
    return np.where(missing, np.nan, seconds), missing


def temporal_seconds(values: pa.Array) -> Floats:
    """Return dates, times and timestamps (n,) in seconds, NaN where null."""
    type_ = values.type
    if pa.types.is_date(type_):
        ints = pc.cast(pc.cast(values, pa.timestamp("s")), pa.int64())
        factor = 1.0
    else:
        ints = (
            pc.cast(values, pa.int64())
            if not pa.types.is_time32(type_)
            else pc.cast(pc.cast(values, pa.int32()), pa.int64())
        )
        factor = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[type_.unit]
    # Nanoseconds since 1970 are rounded to 256 ns.
    array: Floats = pc.cast(ints, pa.float64(), safe=False).to_numpy(zero_copy_only=False) * factor
    return array


def _date_parts(column: Column, days: Floats) -> Floats:
    parts: list[Floats] = []
    for cycle in column.cycles:
        if cycle == "days":
            parts.append(days)
            continue
        since = days + column.origin / _DAY_S
        turn = 2 * np.pi * (since / (YEAR_DAYS if cycle == "year" else 1.0))
        parts += [np.sin(turn), np.cos(turn)]
    return np.stack(parts, axis=1)


def _encode_list(column: Column, values: pa.Array) -> tuple[npt.NDArray[Any], Mask, int]:
    missing = column.is_missing(values)
    if missing.any():
        raise NotOfKindError(int(np.flatnonzero(missing)[0]), "null")
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != column.length)
    if len(wrong):
        raise NotOfKindError(int(wrong[0]), f"a list of {int(lengths[wrong[0]])}")
    flat = pc.list_flatten(values)
    numbers = pc.cast(flat, pa.float32() if pa.types.is_float16(flat.type) else pa.float64(), safe=False)
    array = numbers.to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(np.isnan(array))
    if len(bad):
        raise NotOfKindError(int(bad[0]) // column.length, "a list with a missing value")
    return array.reshape(len(values), column.length), missing, 0


_ENCODERS: dict[str, Callable[[Column, pa.Array], tuple[npt.NDArray[Any], Mask, int]]] = {
    "number": _encode_number,
    "boolean": _encode_boolean,
    "category": _encode_category,
    "date": _encode_date,
    "list": _encode_list,
}


def _require_parsed(values: pa.Array, parsed: pa.Array, missing: Mask) -> None:
    wrong = np.asarray(parsed.is_null().to_numpy(zero_copy_only=False), dtype=bool) & ~missing
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise NotOfKindError(row, str(values[row].as_py()))
