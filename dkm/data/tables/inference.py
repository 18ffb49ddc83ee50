"""Decide the role and the kind of each column of a table.

``infer`` looks at all training rows, never at labels. Everything that it decides has a reason, which the data report
shows; the settings ``data.columns``, ``exclude``, ``id``, ``categorical``, ``numeric`` and ``dates`` override it, and
``data.strict=true`` refuses instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dkm.config.values import override
from dkm.data.tables import columns as kinds
from dkm.data.tables import naming
from dkm.data.tables.columns import Column, Mask, is_text
from dkm.data.tables.inferred_dates import as_date, as_duration, looks_like_dates, tell_far_date
from dkm.data.tables.inferred_text import as_category, as_check_box, infer_text, read_numbers
from dkm.data.tables.roles import choose_id, leave_out_labels
from dkm.data.tables.rows import Rows
from dkm.data.tables.sentinels import SentinelSearch
from dkm.data.tables.strays import MAX_OTHERS, join_notes
from dkm.data.tables.values import is_constant, is_whole
from dkm.data.tables.wishes import Inferred, Wishes

# A column with a larger fraction of missing values is left out.
MAX_MISSING = 0.9
# Columns that a remedy names.
_MAX_NAMES = 10
_MAX_CODES = 20


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
    search = SentinelSearch(wishes)
    odd: dict[str, list[str]] = {name: [] for name in names}
    there = set(rows.column_names) - {wishes.labels, wishes.id}
    for name in names:
        values = rows.column(name) if name in there else None
        with kinds.named_column(name, pa.null() if values is None else values.type):
            inferred.columns.append(_infer_column(name, values, wishes, [], odd[name]))
            if values is not None and not wishes.is_strict:
                search.look_at(name, values)
                if pa.types.is_floating(values.type) and not is_whole(values):
                    inferred.fractional.add(name)
    sentinels = search.found()
    for i, name in enumerate(names):
        if name in sentinels:
            odd[name].clear()
            values = rows.column(name)
            with kinds.named_column(name, values.type):
                inferred.columns[i] = _infer_column(name, values, wishes, sentinels[name], odd[name])
    inferred.odd += [what for name in names for what in odd[name]]
    if not wishes.is_strict:
        choose_id(inferred, rows, wishes)
        leave_out_labels(inferred, rows, wishes)
    for value in sorted({value for values in sentinels.values() for value in values}):
        where = [name for name in names if value in sentinels.get(name, ())]
        shown = ", ".join(where[:MAX_OTHERS]) + (", ..." if len(where) > MAX_OTHERS else "")
        columns = "1 column" if len(where) == 1 else f"{len(where)} columns"
        remedy = override("data.numeric", [*wishes.numeric, *where[:_MAX_NAMES]])
        inferred.odd.append(
            f"{value} in {columns} ({shown}) lies far below all other values there, and is read as missing; "
            f"{remedy} reads it as a number there"
        )
    return inferred


def _infer_column(
    name: str, chunks: pa.ChunkedArray | None, wishes: Wishes, sentinels: list[str], odd: list[str]
) -> Column:
    if name == wishes.labels:
        return Column(name, "label")
    if name == wishes.id:
        return Column(name, "id")
    if name in wishes.exclude:
        return Column(name, "left_out", note="data.exclude")
    if wishes.columns is not None and name not in wishes.columns:
        return Column(name, "left_out", note="not in data.columns")
    assert chunks is not None
    values = chunks.combine_chunks()
    column = _infer_used(name, values, wishes, sentinels, odd)
    if column.cycles[:1] == ["days"]:
        tell_far_date(column, values, wishes, odd)
    return column


def _infer_used(name: str, values: pa.Array, wishes: Wishes, sentinels: list[str], odd: list[str]) -> Column:
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
    if not is_asked and (box := as_check_box(column, values, missing)) is not None:
        return box
    if not is_asked and n_present < (1 - MAX_MISSING) * len(values):
        percent = 100 * (1 - n_present / len(values))
        note = join_notes(f"{percent:.0f} % missing", _explain_missing(name, values, missing, wishes))
        return Column(name, "left_out", note="empty" if n_present == 0 else note)
    present = values if n_present == len(values) else values.filter(pa.array(~missing))
    if name in wishes.dates:
        return as_date(column, present) or _refused(column, "date")
    if name in wishes.categorical:
        return as_category(column, kinds.as_levels(present), is_asked=True)
    if name in wishes.numeric:
        column.kind = "number"
        column.missing = list(wishes.missing_values or ())
        if is_text(values.type) and as_duration(column, present) is None:
            read_numbers(column, present)
        return column
    if is_constant(present):
        value = str(present[0].as_py()).strip()[:20]
        if n_present < len(values):
            percent = 100 * (1 - n_present / len(values))
            return Column(name, "left_out", note=f"constant where present: {value}; {percent:.0f} % missing")
        return Column(name, "left_out", note=f"constant: {value}")
    if name in wishes.declared and kinds.is_real(values.type):
        return as_category(column, kinds.as_levels(present), note="a category, as the file says")
    if kinds.is_list(values.type):
        column.kind, column.length = "list", _length_of(present)
        if column.length == 0:
            return Column(name, "left_out", note="empty lists")
        column.note = f"{column.length} numbers"
        return column
    if pa.types.is_duration(values.type):
        column.kind, column.formats, column.note = "number", ["duration"], "durations in seconds"
        return column
    if pa.types.is_temporal(values.type):
        return as_date(column, present) or _refused(column, "date")
    if pa.types.is_boolean(values.type):
        column.kind = "boolean"
        return column
    if is_text(values.type):
        column = infer_text(column, present, wishes, odd)
        if column.kind in ("category", "boolean"):
            column.note = join_notes(column.note, _explain_missing(name, values, missing, wishes))
        if column.kind != "number":
            return column
        present = present.filter(pa.array(~column.is_missing(present)))
    if looks_like_dates(name, present):
        date = as_date(replace(column, kind="", note=""), kinds.as_levels(present))
        assert date is not None
        remedy = override("data.numeric", [*wishes.numeric, name])
        date.note = join_notes(column.note, date.note, f"{remedy} reads the whole numbers as they are")
        return date
    if _names_things(name, present) and (n_things := pc.count_distinct(present).as_py()) < len(present):
        note = "numbers that name something, by its name"
        if n_things > min(kinds.MAX_LEVELS, 0.5 * len(present)):
            return Column(name, "left_out", note=note)
        if n_things > 2 or pc.min_max(kinds.as_levels(present)).as_py() != {"min": "0", "max": "1"}:
            return as_category(replace(column, kind="", note=""), kinds.as_levels(present), note=note)
    if _looks_like_codes(name, present):
        note = join_notes("whole-number codes, by its name", column.note)
        return as_category(replace(column, kind="", note=""), kinds.as_levels(present), note=note)
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


def _names_things(name: str, present: pa.Array) -> bool:
    """Return whether whole numbers name something, by the name of the column: customers, or telephones."""
    if naming.is_key(name):
        return is_whole(present)
    return (
        naming.LONG_NUMBER.search(name) is not None
        and is_whole(present)
        and naming.is_long_number(name, _as_floats(present))
    )


def _as_floats(present: pa.Array) -> kinds.Floats:
    numbers = kinds.parse_numbers(present) if is_text(present.type) else pc.cast(present, pa.float64(), safe=False)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)


def _looks_like_codes(name: str, present: pa.Array) -> bool:
    """Return whether a column of numbers holds codes of categories: few whole numbers below a name such as Region."""
    if not naming.is_code(name) or not is_whole(present):
        return False
    if is_text(present.type):
        present = pa.array(_as_floats(present))
    if naming.PLACE.search(name):
        return True
    low, high = pc.min_max(present).as_py().values()
    n_levels = pc.count_distinct(present).as_py()
    if n_levels > 0.5 * len(present):
        return False
    return 2 <= n_levels <= _MAX_CODES and low >= 0 and high < 10 * _MAX_CODES and (low, high) != (0, 1)


def _refused(column: Column, kind: str) -> Column:
    column.kind = kind
    return column


def _length_of(values: pa.Array) -> int:
    lengths = pc.mode(pc.list_value_length(values))
    return int(lengths[0]["mode"].as_py()) if len(lengths) else 0
