"""Decide the role and the kind of each column of a table, and keep the decisions as a plan.

``infer`` looks at all training rows, never at labels. Everything that it decides has a reason, which the data report
shows; the settings ``data.columns``, ``exclude``, ``id``, ``categorical``, ``numeric`` and ``dates`` override it, and
``data.strict=true`` refuses instead.
"""

# Shapes: N rows, n rows of a part, F features.

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dkm.config.values import override
from dkm.data.tables import columns as kinds
from dkm.data.tables import dates, naming
from dkm.data.tables.columns import Column, Floats, Mask, NotOfKindError, is_text
from dkm.data.tables.rows import Rows

# A column with a larger fraction of missing values is left out.
MAX_MISSING = 0.9
# A text column of one value with at least so many blank cells and values is a check box.
_MIN_BLANK = 0.05
# A text column whose cells are longer on average is text, not a category.
_LONG_TEXT = 40
# So many values of another notation may stand among numbers or dates, in this fraction of the cells.
_MAX_OTHERS, _MAX_OTHER_FRACTION = 3, 0.05
# A text column with so many numbers may be one of numbers; so many words are named in a remedy.
_LEAST_NUMBERS, _MAX_WORDS = 0.5, 10
# Columns that a remedy names.
_MAX_NAMES = 10
# A column with a larger fraction of missing values is no id that could be copied to the outputs.
_MAX_MISSING_IDS = 0.05
# With fewer rows, distinct values do not indicate an id.
_MIN_ROWS_FOR_IDS = 20
# Smaller numbers in the first column of a table without names are counts or grades.
_LEAST_ID = 1000
_MIN_ROWS_FOR_WARNING = 100
# Numbers by chance, of which so many pairs would be equal, hardly ever have none.
_LEAST_EQUAL = 5
_BLOCK_ROWS = 1024
_HEAD_ROWS = 200
_MAX_CODES = 20
_MAX_LABELS = 100
# Fewer different numbers may be codes: -9 beside 1 to 5 is one, unless it is so many times their range below them.
_MIN_AMOUNTS, _FAR_BELOW = 10, 5
# A column of so many different numbers is a quantity, if nothing else but its name says that it has the answer.
_MIN_QUANTITIES = 11
# So many different numbers are dates by their values alone.
_LEAST_DATES = 10


@dataclass
class TablePlan:
    """The columns of a table, and how they become features; stored as JSON with the model.

    Attributes
    ----------
    columns : list of Column
        All columns of the training file.
    has_header : bool
        Whether the file had names; without, the columns are numbered.
    refuses_gaps : bool
        A missing value is an error: the plan of a model of version 0.1 that filled none.
    """

    columns: list[Column]
    has_header: bool = True
    refuses_gaps: bool = False

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any], names: Sequence[str] = ()) -> TablePlan:
        """Return the plan that is stored with a model.

        Parameters
        ----------
        plan : Mapping
            A ``to_dict`` result; the features and fill values of version 0.1; or the plan of a model of something else
            than a table, whose features, if it has no names for them, are ``names``.
        names : sequence of str
            Columns of numbers in the order of the model's features.
        """
        if "columns" in plan:
            columns = [Column.from_dict(fields) for fields in plan["columns"]]
            return cls(columns, plan["has_header"], plan["refuses_gaps"])
        features, fill = plan.get("features") or names, plan.get("fill")
        fills = [None] * len(features) if fill is None else fill
        numbers = [Column(name, kind="number", fill=value) for name, value in zip(features, fills, strict=True)]
        return cls(numbers, refuses_gaps=fill is None)

    def to_dict(self) -> dict[str, Any]:
        columns = [column.to_dict() for column in self.columns]
        return {"columns": columns, "has_header": self.has_header, "refuses_gaps": self.refuses_gaps}

    @property
    def used(self) -> list[Column]:
        """The columns that are features."""
        return [column for column in self.columns if column.role == "feature"]

    def named(self, role: str) -> str | None:
        """Return the name of the column with this role, None if there is none."""
        return next((column.name for column in self.columns if column.role == role), None)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(name for column in self.used for name in column.features)

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """For each feature the number of its group; None if each is alone."""
        groups: list[int] = []
        for column in self.used:
            start = groups[-1] + 1 if groups else 0
            groups += [start + group for group in column.groups]
        return None if len(set(groups)) == len(groups) else np.array(groups)

    @property
    def fill(self) -> npt.NDArray[np.float64] | None:
        """What replaces missing values, (F,); None if they are refused."""
        if self.refuses_gaps:
            return None
        return np.concatenate([_fill_of(column) for column in self.used])

    def dtype(self, rows: Rows, with_gaps: Container[str]) -> np.dtype[Any]:
        """Return the smallest type that holds the features of all rows, float64 for the columns ``with_gaps``.

        Raises
        ------
        BadCellError
            For a column of a type that no kind reads.
        """
        types = []
        for column in self.used:
            try:
                encoded, _, _ = column.encode(pa.array([], rows.type_of(column.name)))
            except NotOfKindError as error:
                raise BadCellError(column, error.row, error.text) from error
            types.append(np.dtype(np.float64) if column.name in with_gaps else encoded.dtype)
        return np.result_type(*types)

    def encode(self, table: pa.Table | pa.RecordBatch) -> tuple[npt.NDArray[Any], Mask, dict[str, int]]:
        """Return the features (n, F), not filled, the mask (n, F) of missing ones, and new levels by column.

        The values have the smallest type that holds all columns. The mask has shape (0, 0) if nothing is missing.

        Raises
        ------
        BadCellError
            For a cell that is not of the kind of its column.
        """
        n, parts, masks, n_new = table.num_rows, [], [], {}
        for column in self.used:
            values = table.column(column.name)
            if isinstance(values, pa.ChunkedArray):
                values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
            try:
                encoded, missing, new = column.encode(values)
            except NotOfKindError as error:
                raise BadCellError(column, error.row, error.text) from error
            parts.append(encoded)
            masks.append(missing)
            if new:
                n_new[column.name] = new
        widths = [part.shape[1] for part in parts]
        X = np.empty((n, sum(widths)), np.result_type(*(part.dtype for part in parts)))
        starts = np.cumsum([0, *widths])
        for first in range(0, n, _BLOCK_ROWS):  # columns into rows that stay in the cache
            rows = slice(first, first + _BLOCK_ROWS)
            for part, start, width in zip(parts, starts, widths, strict=False):
                X[rows, start : start + width] = part[rows]
        if not any(mask.any() for mask in masks):
            return X, np.zeros((0, 0), dtype=bool), n_new
        return X, np.repeat(np.stack(masks, axis=1), widths, axis=1), n_new

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the columns for the data report."""
        for column in self.columns:
            yield {"name": column.name, "role": column.role, "kind": column.kind, "note": column.note}


class BadCellError(ValueError):
    """A cell that is not of the kind of its column."""

    def __init__(self, column: Column, row: int, text: str) -> None:
        super().__init__(f"{column.name}: {text!r}")
        self.column, self.row, self.text = column, row, text


def _fill_of(column: Column) -> Floats:
    return np.full(len(column.features), np.nan) if column.fill is None else column.filled()


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
    # None where there is no such setting.
    missing_values: Sequence[str] | None = ()
    is_strict: bool = False
    decimal: str = "."
    thousands: str = ""


@dataclass
class Inferred:
    """The result of ``infer``: the columns, and what looks odd."""

    columns: list[Column]
    odd: list[str] = field(default_factory=list)


def infer(rows: Rows, names: Sequence[str], wishes: Wishes) -> Inferred:
    """Return the plan of the columns ``names``.

    Parameters
    ----------
    rows : Rows
        All rows, with the columns that may be features, the id and the labels.
    names : sequence of str
        All columns of the file, in order.
    wishes : Wishes
    """
    inferred = Inferred([])
    sentinels = {} if wishes.is_strict else _find_sentinels(rows, wishes)
    there = set(rows.column_names)
    for name in names:
        with kinds.named_column(name, rows.type_of(name) if name in there else pa.null()):
            inferred.columns.append(_infer_column(name, rows, wishes, sentinels.get(name, []), inferred.odd))
    if not wishes.is_strict:
        _choose_id(inferred, rows, wishes)
        _leave_out_labels(inferred, rows, wishes)
    for value in sorted({value for values in sentinels.values() for value in values}):
        where = [name for name in names if value in sentinels.get(name, ())]
        shown = ", ".join(where[:_MAX_OTHERS]) + (", ..." if len(where) > _MAX_OTHERS else "")
        columns = "1 column" if len(where) == 1 else f"{len(where)} columns"
        remedy = override("data.numeric", [*wishes.numeric, *where[:_MAX_NAMES]])
        inferred.odd.append(
            f"{value} in {columns} ({shown}) lies far below all other values there, and is read as missing; "
            f"{remedy} reads it as a number there"
        )
    return inferred


def _infer_column(name: str, rows: Rows, wishes: Wishes, sentinels: list[str], odd: list[str]) -> Column:
    if name == wishes.labels:
        return Column(name, "label")
    if name == wishes.id:
        return Column(name, "id")
    if name in wishes.exclude:
        return Column(name, "left_out", note="data.exclude")
    if wishes.columns is not None and name not in wishes.columns:
        return Column(name, "left_out", note="not in data.columns")
    values = rows.column(name).combine_chunks()
    missing_words = [*(wishes.missing_values or ()), *sentinels]
    column = Column(name, missing=missing_words, marks="usual", decimal=wishes.decimal, thousands=wishes.thousands)
    is_asked = name in (*wishes.categorical, *wishes.numeric, *wishes.dates)
    if not (kinds.is_readable(values.type) or pa.types.is_null(values.type)):
        if wishes.is_strict or is_asked:
            return _refused(column, "date" if name in wishes.dates else "number")
        return Column(name, "left_out", note=f"{values.type}, which is no feature")
    if wishes.is_strict and not is_asked:
        column.kind = "list" if kinds.is_list(values.type) else "number"
        if column.kind == "list":
            column.length = _length_of(values)
        return column
    if name in wishes.categorical:
        # NA among numbers is no level; among texts it may be one, and the user knows.
        column.missing, column.marks = list(wishes.missing_values or ()), "none" if is_text(values.type) else "usual"
    missing = column.is_missing(values)
    n_present = len(values) - int(missing.sum())
    if not is_asked and (box := _as_check_box(column, values, missing)) is not None:
        return box
    if not is_asked and n_present < (1 - MAX_MISSING) * len(values):
        percent = 100 * (1 - n_present / len(values))
        note = _join_notes(f"{percent:.0f} % missing", _explain_missing(name, values, missing, wishes))
        return Column(name, "left_out", note="empty" if n_present == 0 else note)
    present = values.filter(pa.array(~missing))
    if name in wishes.dates:
        return _as_date(column, present) or _refused(column, "date")
    if name in wishes.categorical:
        return _as_category(column, kinds.as_levels(present), is_asked=True)
    if name in wishes.numeric:
        column.kind = "number"
        column.missing = list(wishes.missing_values or ())
        if is_text(values.type):
            _read_numbers(column, present)
        return column
    if _is_constant(present):
        value = str(present[0].as_py()).strip()[:20]
        if n_present < len(values):
            percent = 100 * (1 - n_present / len(values))
            return Column(name, "left_out", note=f"constant where present: {value}; {percent:.0f} % missing")
        return Column(name, "left_out", note=f"constant: {value}")
    if kinds.is_list(values.type):
        column.kind, column.length = "list", _length_of(present)
        if column.length == 0:
            return Column(name, "left_out", note="empty lists")
        column.note = f"{column.length} numbers"
        return column
    if pa.types.is_temporal(values.type):
        return _as_date(column, present) or _refused(column, "date")
    if pa.types.is_boolean(values.type):
        column.kind = "boolean"
        return column
    if is_text(values.type):
        column = _infer_text(column, present, wishes, odd)
        if column.kind in ("category", "boolean"):
            column.note = _join_notes(column.note, _explain_missing(name, values, missing, wishes))
        if column.kind != "number":
            return column
        present = present.filter(pa.array(~column.is_missing(present)))
    if _looks_like_dates(name, present):
        date = _as_date(replace(column, kind="", note=""), kinds.as_levels(present))
        assert date is not None
        remedy = override("data.numeric", [*wishes.numeric, name])
        date.note = _join_notes(column.note, date.note, f"{remedy} reads the whole numbers as they are")
        return date
    if naming.is_key(name) and _is_whole(present) and (n_things := pc.count_distinct(present).as_py()) < len(present):
        note = "numbers that name something, by its name"
        if n_things > min(kinds.MAX_LEVELS, 0.5 * len(present)):
            return Column(name, "left_out", note=note)
        if n_things > 2 or pc.min_max(kinds.as_levels(present)).as_py() != {"min": "0", "max": "1"}:
            return _as_category(replace(column, kind="", note=""), kinds.as_levels(present), note=note)
    if is_text(values.type):
        return column
    if _looks_like_codes(name, present):
        return _as_category(column, kinds.as_levels(present), note="whole-number codes, by its name")
    column.kind = "number"
    return column


def _explain_missing(name: str, values: pa.Array, missing: Mask, wishes: Wishes) -> str:
    """Return which words of a text column mean "no value", and what makes levels of them."""
    if not is_text(values.type):
        return ""
    words = pc.unique(pc.utf8_trim_whitespace(values.filter(pa.array(missing)).drop_null())).to_pylist()
    words = sorted({*words} - {"", *(wishes.missing_values or ())})
    if not words:
        return ""
    remedy, quoted = override("data.categorical", [*wishes.categorical, name]), ", ".join(map(repr, words))
    if len(words) == 1:
        return f"{quoted} means missing, {remedy} makes a level of it"
    return f"{quoted} mean missing, {remedy} makes levels of them"


def _join_notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _as_check_box(column: Column, values: pa.Array, missing: Mask) -> Column | None:
    """Return a text column as yes or no if its cells have one value or are blank; None if it is none such."""
    if not is_text(values.type):
        return None
    text = pc.utf8_trim_whitespace(values)
    is_blank = pc.fill_null(pc.equal(text, ""), True)
    n_blank = pc.sum(is_blank).as_py() or 0
    if not _MIN_BLANK * len(text) <= n_blank <= (1 - _MIN_BLANK) * len(text):
        return None
    checked = pc.unique(text.filter(pa.array(~missing)))
    if len(checked) != 1 or _read_numbers(replace(column), checked).null_count == 0:
        return None
    column.kind, column.levels = "boolean", checked.to_pylist()
    column.note = f"{column.levels[0][:_LONG_TEXT]!r} is 1, a blank cell 0"
    return column


def _is_constant(present: pa.Array) -> bool:
    type_ = present.type
    if kinds.is_list(type_) or not len(present):
        return False
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        low, high = pc.min_max(present).as_py().values()
        return bool(low == high)
    return bool(pc.count_distinct(present).as_py() == 1)


def _refused(column: Column, kind: str) -> Column:
    column.kind = kind
    return column


def _length_of(values: pa.Array) -> int:
    lengths = pc.mode(pc.list_value_length(values))
    return int(lengths[0]["mode"].as_py()) if len(lengths) else 0


def _read_numbers(column: Column, text: pa.Array) -> pa.Array:
    """Return the numbers of a text column, null where a cell is none; the column says how negative ones are written."""
    numbers = kinds.parse_numbers(text, column.decimal, column.thousands)
    if numbers.null_count and numbers.null_count <= 0.5 * len(text):  # (1), (2), (3) alone are no amounts
        signed = kinds.parse_numbers(text, column.decimal, column.thousands, negatives=True)
        if signed.null_count < numbers.null_count:
            example = text.filter(pc.and_(numbers.is_null(), signed.is_valid()))[0].as_py().strip()
            column.negatives, column.note = True, f"{example!r} is a negative number"
            return signed
    return numbers


def _is_mostly_read(parsed: pa.Array) -> bool:
    """Return whether so many cells could be read that the others are exceptions."""
    return bool(parsed.null_count <= _MAX_OTHER_FRACTION * len(parsed))


def _read_as_missing(column: Column, others: list[str], n_cells: int, odd: list[str]) -> None:
    """Read a few words among numbers or dates as missing; what has digits may be a value, so that is told as odd."""
    column.missing = [*column.missing, *others]
    quoted = ", ".join(map(repr, others))
    column.note = _join_notes(column.note, f"{quoted} means missing")
    if any(character.isdigit() for text in others for character in text):
        cells = "1 cell" if n_cells == 1 else f"{n_cells:,} cells"
        what = "date" if column.kind == "date" else "plain number"
        odd.append(
            f"column {column.name} has {quoted} in {cells}, which is no {what} and is read as missing; correct the "
            f"file or leave the column out with {override('data.exclude', [column.name])}"
        )


def _tell_numbers(column: Column, text: pa.Array, is_number: pa.Array, wishes: Wishes, odd: list[str]) -> None:
    """Tell that most cells of a column that is no number are numbers, and what reads it as one."""
    counts = pc.value_counts(text.filter(pc.invert(is_number))).to_pylist()
    counts.sort(key=lambda item: (-item["counts"], item["values"]))
    others = [item["values"] for item in counts]
    shown = ", ".join(map(repr, others[:_MAX_OTHERS])) + (", ..." if len(others) > _MAX_OTHERS else "")
    percent = 100 * pc.mean(pc.cast(is_number, pa.float64())).as_py()
    result = "read as a category" if column.role == "feature" else "not a feature"
    if len(others) <= _MAX_WORDS and wishes.missing_values is not None:
        words = override("data.missing_values", [*wishes.missing_values, *others])
        remedy = f"{words} reads them as missing, and the column as numbers"
    else:
        exclude = override("data.exclude", [*wishes.exclude, column.name])
        remedy = f"correct the file, or leave the column out with {exclude}"
    if column.role == "feature":
        remedy += f"; {override('data.categorical', [*wishes.categorical, column.name])} confirms the category"
    odd.append(
        f"column {column.name} has numbers in {percent:.0f} % of its cells and {shown} in others, and is {result}; "
        f"{remedy}"
    )


def _infer_text(column: Column, present: pa.Array, wishes: Wishes, odd: list[str]) -> Column:
    """Return the kind of a text column: number, boolean, date, category, or free text, which is left out."""
    text = pc.utf8_trim_whitespace(present)
    is_number: pa.Array | None = None
    has_zeros = pc.any(pc.match_substring_regex(text, r"^0\d+$")).as_py()  # 007: the text of an id or a code
    if not has_zeros:
        number = replace(column)
        numbers = _read_numbers(number, text)
        others = pc.unique(text.filter(numbers.is_null())).to_pylist() if _is_mostly_read(numbers) else None
        if others is not None and len(others) <= _MAX_OTHERS:
            number.kind = "number"
            number.note = _join_notes(_notation(text), number.note)
            if others:
                _read_as_missing(number, others, numbers.null_count, odd)
            return number
        is_number = numbers.is_valid()
    levels = pc.unique(text)
    words = {level.lower() for level in levels.to_pylist()[:5]}
    if len(levels) == 2 and words <= kinds.TRUE | kinds.FALSE and words & kinds.TRUE and words & kinds.FALSE:
        column.kind = "boolean"
        return column
    if (date := _as_date(column, text, odd)) is not None:
        return date
    column = _infer_words(column, text, len(levels))
    is_mixed = is_number is not None and pc.mean(pc.cast(is_number, pa.float64())).as_py() >= _LEAST_NUMBERS
    if is_mixed and not naming.is_id(column.name, ()):  # 15, 15A
        _tell_numbers(column, text, is_number, wishes, odd)
    return column


def _infer_words(column: Column, text: pa.Array, n_levels: int) -> Column:
    """Return the column as a category, or as names or free text, which are left out."""
    length = pc.mean(pc.utf8_length(text)).as_py()
    if n_levels > max(2, 0.5 * len(text)):
        is_long = length > _LONG_TEXT
        note = (
            "free text; data.text clusters by it" if is_long else f"{n_levels:,} distinct texts, as names or ids have"
        )
        return Column(column.name, "left_out", note=note)
    if length > _LONG_TEXT and n_levels > kinds.MAX_LEVELS:
        return Column(column.name, "left_out", note="free text; data.text clusters by it")
    return _as_category(column, text)


def _notation(text: pa.Array) -> str:
    """Return what stands around the numbers."""
    signs = {"%": "per cent", "$": "$", "€": "€", "£": "£"}
    found = [word for sign, word in signs.items() if pc.any(pc.match_substring(text, sign)).as_py()]
    notes = [f"without its {', '.join(found)}"] if found else []
    dashes = pc.unique(pc.utf8_slice_codeunits(text.filter(pc.match_substring_regex(text, kinds.TYPESET_MINUS)), 0, 1))
    notes += [f"{dash!r} means minus" for dash in sorted(dashes.to_pylist())]
    return "; ".join(notes)


def _as_category(column: Column, text: pa.Array, *, is_asked: bool = False, note: str = "") -> Column:
    """Return the column as a category, with its levels by frequency; rare ones are joined.

    Where more levels are as frequent as the last one that would be kept, none of these is, unless the column is asked
    for: the alphabet would choose among them.
    """
    counts = pc.value_counts(text)
    pairs = [(item["values"], item["counts"]) for item in counts.to_pylist()]
    pairs.sort(key=lambda pair: (-pair[1], pair[0]))
    n_least = 1 if is_asked else max(1, int(np.ceil(kinds.MIN_LEVEL_FRACTION * len(text))))
    frequent = [(level, n) for level, n in pairs[: kinds.MAX_LEVELS] if n >= n_least]
    n_next = pairs[kinds.MAX_LEVELS][1] if len(pairs) > kinds.MAX_LEVELS else 0
    if frequent and frequent[-1][1] == n_next:
        if is_asked:
            equal = "those of equal frequency in alphabetical order"
            note = _join_notes(note, equal)
        else:
            frequent = [(level, n) for level, n in frequent if n > n_next]
            if _is_even(pairs, frequent, len(text)):
                return Column(column.name, "left_out", note=f"{len(pairs):,} levels, about equally frequent")
    kept = [level for level, _ in frequent]
    n_joined = len(pairs) - len(kept)
    if n_joined == 1 and len(kept) < kinds.MAX_LEVELS:  # joining one level with nothing joins nothing
        kept, n_joined = [level for level, _ in pairs], 0
    if not kept:
        note = f"{len(pairs):,} levels, none of them in {100 * kinds.MIN_LEVEL_FRACTION:g} % of the rows"
        return Column(column.name, "left_out", note=note)
    column.kind, column.levels, column.has_other = "category", kept, n_joined > 0
    shown = f"{len(pairs):,} levels" + (f", {n_joined:,} rare ones joined" if n_joined else "")
    column.note = _join_notes(shown, note)
    return column


def _is_even(pairs: Sequence[tuple[str, int]], kept: Sequence[tuple[str, int]], n_rows: int) -> bool:
    """Return whether the levels that would be kept of all ``pairs`` of level and number say little about the rows.

    They are fewer than two, or hold less than half of the rows without a level that is much more frequent than others.
    """
    n_next = pairs[kinds.MAX_LEVELS][1]
    return len(kept) < 2 or (2 * sum(n for _, n in kept) < n_rows and pairs[0][1] < 2 * n_next)


def _looks_like_codes(name: str, present: pa.Array) -> bool:
    """Return whether a column of numbers holds codes of categories: few whole numbers below a name such as Region."""
    if not pa.types.is_integer(present.type) or not naming.is_code(name):
        return False
    if naming.PLACE.search(name):
        return True
    low, high = pc.min_max(present).as_py().values()
    n_levels = pc.count_distinct(present).as_py()
    if n_levels > 0.5 * len(present):
        return False
    return 2 <= n_levels <= _MAX_CODES and low >= 0 and high < 10 * _MAX_CODES and (low, high) != (0, 1)


def _looks_like_dates(name: str, present: pa.Array) -> bool:
    """Return whether all numbers are dates such as 20240131, which their name or their number and range confirm."""
    if not (is_text(present.type) or pa.types.is_integer(present.type) or pa.types.is_floating(present.type)):
        return False
    if not is_text(present.type):
        least, most = pc.min_max(present).as_py().values()
        if least is None or least < 19_000_101 or most > 21_001_231:
            return False
    if naming.is_id(name, ()) or not _is_whole(present):
        return False
    for values in (present.slice(0, _HEAD_ROWS), present):
        seconds = dates.parse_dates(kinds.as_levels(values), ["%Y%m%d"])
        if seconds.null_count or not len(seconds):
            return False
    low, high = (np.datetime64(int(bound), "s") for bound in pc.min_max(seconds).as_py().values())
    if low < np.datetime64("1900") or high >= np.datetime64("2101"):  # of text
        return False
    # A counter within the days of a month has dates by chance; other numbers have not.
    is_sure = (
        low.astype("datetime64[M]") != high.astype("datetime64[M]")
        and pc.count_distinct(seconds).as_py() >= _LEAST_DATES
    )
    return bool(is_sure or naming.DATE.search(name))


def _is_whole(values: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether all values are whole numbers: integers, floats without a fraction, or such numbers as text."""
    if pa.types.is_integer(values.type):
        return True
    head = values.slice(0, _HEAD_ROWS)  # most columns that have fractions have them here
    return all(pc.all(_is_whole_each(part)).as_py() is True for part in (head, values))


def _is_whole_each(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if is_text(values.type):
        return pc.match_substring_regex(values, r"^\s*[+-]?\d+(\.0*)?\s*$")
    if pa.types.is_floating(values.type):
        return pc.or_(pc.equal(values, pc.floor(values)), pc.is_nan(values))
    return pa.array([False])


# --- dates ----------------------------------------------------------------------------------------------------


def _as_date(column: Column, present: pa.Array, odd: list[str] | None = None) -> Column | None:
    """Return the column as a date or a time; None if its text is neither.

    With ``odd``, a few other cells are read as missing, and told there; without, all cells must be dates.
    """
    notes = []
    if pa.types.is_integer(present.type) or pa.types.is_floating(present.type):
        present = kinds.as_levels(present)
    if is_text(present.type):
        is_no_date = replace(column, kind="date").is_missing(present)
        if is_no_date.any():
            present = present.filter(pa.array(~is_no_date))
            notes.append("0000-00-00 means missing")
        formats, note = _find_formats(present)
        if not formats:
            return None
        parsed = dates.parse_dates(present, formats)
        others = pc.unique(present.filter(parsed.is_null())).to_pylist() if parsed.null_count else []
        if odd is None and others:  # the first of these cells is refused
            column.formats = formats
            return None
        if len(others) > _MAX_OTHERS:
            return None
        column.kind, column.formats = "date", formats
        if odd is not None and others:
            _read_as_missing(column, others, parsed.null_count, odd)
            notes.append(column.note)
        column.first_year, years = dates.find_first_year(present, formats[0])
        notes += filter(None, (note, years))
    elif not pa.types.is_temporal(present.type):
        return None
    seconds, missing = kinds.date_seconds(column, present)
    seconds = seconds[~missing]
    if not len(seconds):
        return None
    low, high = float(seconds.min()), float(seconds.max())
    days = (high - low) / 86_400
    is_time = pa.types.is_time(present.type) or bool(set(column.formats) & set(dates.TIME_FORMATS))
    has_hours = bool((np.mod(seconds, 86_400) != 0).any())
    column.kind, column.origin = "date", 0.0 if is_time else low
    column.cycles = ["day"] if is_time else ["days"]
    if not is_time and days > 2 * 365 and len(np.unique(np.floor(np.mod(seconds / 86_400, kinds.YEAR_DAYS) / 30))) > 4:
        column.cycles.append("year")
    if not is_time and has_hours and days > 1:
        column.cycles.append("day")
    what = {"days": "days since the first", "year": "cycle of the year", "day": "time of day"}
    notes.append(" and ".join(what[cycle] for cycle in column.cycles))
    column.note = "; ".join(notes)
    return column


def _find_formats(text: pa.Array) -> tuple[list[str], str]:
    """Return the format that reads all cells, and a remark where two formats do."""
    head = text.slice(0, _HEAD_ROWS)
    has_digit = pc.match_substring_regex(head, r"\d")
    if not len(head) or pc.sum(has_digit).as_py() < (1 - _MAX_OTHER_FRACTION) * len(head):
        return [], ""
    # 31 Jan 2024 and 15-OCT-24 have no time.
    has_time = pc.any(pc.match_substring_regex(head, r"\d,?[ T]\d{1,2}[:.]\d{2}|\dT\d{6}")).as_py() is True
    days = dates.DATE_TIME_FORMATS if has_time else (*dates.DATE_FORMATS, *dates.MONTH_FORMATS)
    formats = ("iso", *days, *dates.TIME_FORMATS)
    in_head = {format_: dates.parse_dates(head, [format_]) for format_ in formats}
    readable = _readable(text, [format_ for format_, parsed in in_head.items() if not parsed.null_count], 0.0)
    if not readable:
        mostly = [format_ for format_, parsed in in_head.items() if _is_mostly_read(parsed)]
        readable = _readable(text, mostly, _MAX_OTHER_FRACTION)
    if not readable:
        return [], ""
    first = readable[0]
    if first == "%d-%m-%y" and "%y-%m-%d" in readable and _span(text, "%y-%m-%d") < _span(text, first):
        first = "%y-%m-%d"
    if first == "%Y%m%d" or first in dates.MONTH_FORMATS:
        years = dates.parse_dates(text, [first]).drop_null().to_numpy() / (kinds.YEAR_DAYS * 86_400) + 1970
        if years.min() < (1900 if first == "%Y%m%d" else 1700) or years.max() > 2100:
            return [], ""
    return [first], _ambiguity(text, first, readable) or ("" if first == "iso" else f"format {first}")


def _span(text: pa.Array, format_: str) -> float:
    seconds = dates.parse_dates(text, [format_])
    return float(pc.max(seconds).as_py() - pc.min(seconds).as_py())


def _ambiguity(text: pa.Array, first: str, readable: Sequence[str]) -> str:
    """Return a remark where the dates could be read in another way too."""
    if first == "%b-%y" and pc.all(pc.match_substring_regex(text, r"^\D{3}-(0?[1-9]|[12]\d|3[01])$")).as_py():
        return f"year or day after the month? read as {first}"
    others = [other for other in readable if other != first and sorted(other) == sorted(first)]
    if not others:
        return ""
    parts = "day, month or year" if any(other.startswith("%y") for other in (first, *others)) else "day or month"
    return f"{parts} first? read as {first}"


def _readable(text: pa.Array, formats: Sequence[str], max_others: float) -> list[str]:
    """Return the formats that read all cells but a fraction; only one if it is unlike all others."""
    readable = []
    for format_ in formats:
        if dates.parse_dates(text, [format_]).null_count <= max_others * len(text):
            readable.append(format_)
            if format_ in ("iso", *dates.TIME_FORMATS):
                break
    return readable


# --- roles ----------------------------------------------------------------------------------------------------


def _choose_id(inferred: Inferred, rows: Rows, wishes: Wishes) -> None:
    """Give one column the role of the id, and leave out others that identify rows."""
    has_id = wishes.id is not None
    names = [column.name for column in inferred.columns]
    for i, column in enumerate(inferred.columns):
        name = column.name
        is_candidate = column.role == "feature" and name not in (
            *(wishes.columns or ()), *wishes.numeric, *wishes.categorical, *wishes.dates
        )  # fmt: skip
        is_names = column.role == "left_out" and column.note.endswith("as names or ids have")
        is_index = is_candidate and naming.INDEX.fullmatch(name) is not None
        if not (is_candidate and column.kind == "number") and not is_names and not is_index:
            continue
        values = rows.column(name)
        if is_names or is_index:
            why = None if values.null_count else _why_index(name, values, is_names=is_names, is_first=i == 0)
        else:
            why = None
        present = _present_whole(column, values) if column.kind == "number" and why is None else None
        if present is not None:
            why = _why_id(name, present, len(values), names)
            if why is None and len(present) >= _MIN_ROWS_FOR_WARNING and _is_distinct(present):
                inferred.odd.append(
                    f"column {name} has a different whole number in each row, as an id has, and is a feature; "
                    f"{override('data.id', name)} or {override('data.exclude', [name])} takes it out"
                )
        if why is None:
            continue
        n_missing = 0 if present is None else len(values) - len(present)
        is_id = not has_id and n_missing <= _MAX_MISSING_IDS * len(values)
        why += f", {n_missing:,} missing" if n_missing else ""
        inferred.columns[i] = Column(
            name, "id" if is_id else "left_out", note=why if is_id else f"identifies rows: {why}"
        )
        has_id = has_id or is_id


def _why_index(name: str, values: pa.ChunkedArray, *, is_names: bool, is_first: bool) -> str | None:
    if naming.INDEX.fullmatch(name) and len(values) > 1:
        is_index = is_text(values.type)
        if pa.types.is_integer(values.type):
            is_index = name.lower() != "index" or _is_written_index(values, is_first=is_first)
        if is_index:
            return "an index that a program wrote"
    if not (is_names and is_text(values.type)) or len(values) < _MIN_ROWS_FOR_IDS:
        return None
    return "a different text in each row" if _is_distinct(values) else None


def _is_written_index(values: pa.ChunkedArray, *, is_first: bool) -> bool:
    """Return whether whole numbers below the name index are one, and no measure, such as an index of prices.

    An index counts all rows, or those of each group; or it is the first column and different in each row.
    """
    low, high = pc.min_max(values).as_py().values()
    n_levels = pc.count_distinct(values).as_py()
    return bool((low in (0, 1) and high - low == n_levels - 1) or (is_first and n_levels == len(values)))


def _present_whole(column: Column, values: pa.ChunkedArray) -> pa.Array | None:
    """Return the values that are not missing, if they are two whole numbers or more; of text without spaces around."""
    if not is_text(values.type) and not _is_whole(values):
        return None
    array = values.combine_chunks()
    present = array.filter(pa.array(~column.is_missing(array)))
    if len(present) < 2 or not _is_whole(present):
        return None
    return pc.utf8_trim_whitespace(present) if is_text(present.type) else present


def _why_id(name: str, present: pa.Array, n_rows: int, names: Sequence[str]) -> str | None:
    """Return why whole numbers (n,), of ``n_rows`` rows, identify the rows; None if they do not."""
    if not _is_distinct(present):
        return None
    numbers = pc.cast(present, pa.float64(), safe=False).to_numpy()
    if naming.is_id(name, names) or (naming.NUMBER.search(name) and _counts_or_codes(name, numbers)):
        return "a different number in each row, and its name"
    is_first = name == names[0]
    low, span = numbers.min(), numbers.max() - numbers.min()
    if is_first and name == "0" and low >= _LEAST_ID and n_rows >= _MIN_ROWS_FOR_IDS:
        return "the first column, without a name, has a different large number in each row"
    is_counter = low in (0, 1) and len(present) - 1 <= span <= n_rows - 1 and n_rows >= _MIN_ROWS_FOR_IDS
    return "it counts the rows" if is_counter and _is_sorted(numbers) else None


def _counts_or_codes(name: str, numbers: Floats) -> bool:
    """Return whether different whole numbers (n,) below a name such as number, account_number or index are no measure.

    They count if they are at least half of the numbers of their range. Those of a name that ends in number are codes if
    they have no equal ones though chance would make some, or, after another word, all have as many digits, 6 or more.
    """
    span = numbers.max() - numbers.min()
    if span < 2 * len(numbers):
        return True
    if name.lower().endswith("index"):
        return False
    n_equal_by_chance = len(numbers) ** 2 / (2 * span)
    if n_equal_by_chance >= _LEAST_EQUAL and not (_is_sorted(numbers) or _is_sorted(-numbers)):  # a trend has none
        return True
    digits = np.floor(np.log10(np.maximum(numbers, 1)))
    return bool(name.lower() != "number" and digits.min() == digits.max() >= 5)


def _is_distinct(values: pa.Array | pa.ChunkedArray) -> bool:
    return bool(pc.count_distinct(values).as_py() == len(values))


def _is_sorted(numbers: Floats) -> bool:
    return bool((np.diff(numbers) > 0).all())


def _leave_out_labels(inferred: Inferred, rows: Rows, wishes: Wishes) -> None:
    """Leave out a column that is called as labels are: with the answer among the features, it decides the clusters."""
    names = [column.name for column in inferred.columns]
    for i, column in enumerate(inferred.columns):
        name = column.name
        is_asked = name in (*(wishes.columns or ()), *wishes.numeric, *wishes.categorical)
        if column.role != "feature" or is_asked or not naming.LABEL.fullmatch(name):
            continue
        values = rows.column(name)
        if pa.types.is_floating(values.type) or kinds.is_list(values.type):
            continue
        n_values = pc.count_distinct(values).as_py()
        is_quantity = column.kind == "number" and n_values >= _MIN_QUANTITIES
        if n_values > _MAX_LABELS:
            continue
        if is_quantity and (x := naming.find_x(name, names)) is not None:
            column.note = _join_notes(column.note, f"a quantity beside {x}, not the answer")
            continue
        inferred.columns[i] = Column(name, "left_out", note="its name says that it has the answer")
        kind = "numeric" if is_quantity else "categorical"
        remedy = override(f"data.{kind}", [*(wishes.numeric if is_quantity else wishes.categorical), name])
        inferred.odd.append(
            f"column {name} is left out, since its name says that it has the answer; {override('data.labels', name)} "
            f"scores the clusters against it, {remedy} makes it a feature"
        )


# --- values that mean missing ---------------------------------------------------------------------------------


def _find_sentinels(rows: Rows, wishes: Wishes) -> dict[str, list[str]]:
    """Return, by column, negative whole numbers that mean "missing", such as -200 or -999.

    They are the minimum of three columns or more, occur at least twice in each, and lie far below the other values,
    which are not a few codes. One of nines, such as -99, needs one such column. What means "missing" in one column does
    so in all where it is the minimum and lies far below the others.
    """
    accepted: dict[float, list[str]] = {}
    possible: dict[float, list[str]] = {}
    settled = {wishes.labels, wishes.id, *wishes.numeric, *wishes.categorical, *wishes.exclude}
    for name in rows.column_names:
        values = rows.column(name)
        is_number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
        if not is_number or name in settled:
            continue
        low = pc.min(values).as_py()
        if low is None or low >= -1 or low != np.floor(low) or not np.isfinite(low):
            continue
        others = values.filter(pc.greater(values, pa.scalar(low, values.type)))
        if not len(others):
            continue
        least, most = pc.min_max(others).as_py().values()
        if least - low < 0.9 * abs(low):
            continue
        n_low = len(values) - values.null_count - len(others)
        has_codes = pc.count_distinct(others).as_py() < _MIN_AMOUNTS
        if n_low >= 2 and not has_codes:
            accepted.setdefault(float(low), []).append(name)
        elif not has_codes or (low <= -9 and least - low >= _FAR_BELOW * (most - least)):
            possible.setdefault(float(low), []).append(name)
    sentinels = {
        low: names for low, names in accepted.items() if len(names) >= 3 or (low <= -99 and set(f"{-low:g}") == {"9"})
    }
    return {name: [f"{low:g}"] for low, names in sentinels.items() for name in (*names, *possible.get(low, ()))}
