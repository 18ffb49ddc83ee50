"""Decide which columns are no features: ids, indices that a program wrote, and the answer itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dkm.config.values import override
from dkm.data.tables import columns as kinds
from dkm.data.tables import naming
from dkm.data.tables.columns import Column, Floats, is_text
from dkm.data.tables.rows import Rows
from dkm.data.tables.strays import join_notes
from dkm.data.tables.values import is_distinct, is_sorted, is_whole
from dkm.data.tables.wishes import Inferred, Wishes

# A column with a larger fraction of missing values is no id that could be copied to the outputs.
_MAX_MISSING_IDS = 0.05
# With fewer rows, distinct values do not indicate an id.
_MIN_ROWS_FOR_IDS = 20
# Smaller numbers in the first column of a table without names are counts or grades.
_LEAST_ID = 1000
_MIN_ROWS_FOR_WARNING = 100
# Numbers by chance, of which so many pairs would be equal, hardly ever have none.
_LEAST_EQUAL = 5
_MAX_LABELS = 100
# A column of so many different numbers is a quantity, if nothing else but its name says that it has the answer.
_MIN_QUANTITIES = 11


def choose_id(inferred: Inferred, rows: Rows, wishes: Wishes) -> None:
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
        may_count = is_candidate and column.kind == "number" and name not in inferred.fractional
        if not may_count and not is_names and not is_index:
            continue
        values = rows.column(name)
        if is_names or is_index:
            why = None if values.null_count else _why_index(name, values, is_names=is_names, is_first=i == 0)
        else:
            why = None
        present = _present_whole(column, values) if column.kind == "number" and why is None else None
        if present is not None:
            why = _why_id(name, present, len(values), names)
            if why is None and len(present) >= _MIN_ROWS_FOR_WARNING and is_distinct(present):
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
    return "a different text in each row" if is_distinct(values) else None


def _is_written_index(values: pa.ChunkedArray, *, is_first: bool) -> bool:
    """Return whether whole numbers below the name index are one, and no measure, such as an index of prices.

    An index counts all rows, or those of each group; or it is the first column and different in each row.
    """
    low, high = pc.min_max(values).as_py().values()
    n_levels = pc.count_distinct(values).as_py()
    return bool((low in (0, 1) and high - low == n_levels - 1) or (is_first and n_levels == len(values)))


def _present_whole(column: Column, values: pa.ChunkedArray) -> pa.Array | None:
    """Return the values that are not missing, if they are two whole numbers or more; of text without spaces around."""
    if not is_text(values.type) and not is_whole(values):
        return None
    array = values.combine_chunks()
    present = array.filter(pa.array(~column.is_missing(array)))
    if len(present) < 2 or not is_whole(present):
        return None
    return pc.utf8_trim_whitespace(present) if is_text(present.type) else present


def _why_id(name: str, present: pa.Array, n_rows: int, names: Sequence[str]) -> str | None:
    """Return why whole numbers (n,), of ``n_rows`` rows, identify the rows; None if they do not."""
    if not is_distinct(present):
        return None
    numbers = pc.cast(present, pa.float64(), safe=False).to_numpy()
    is_named = naming.is_id(name, names) or naming.is_long_number(name, numbers)
    if is_named or (naming.NUMBER.search(name) and _counts_or_codes(name, numbers)):
        return "a different number in each row, and its name"
    is_first = name == names[0]
    low, span = numbers.min(), numbers.max() - numbers.min()
    if is_first and name == "0" and low >= _LEAST_ID and n_rows >= _MIN_ROWS_FOR_IDS:
        return "the first column, without a name, has a different large number in each row"
    is_counter = low in (0, 1) and len(present) - 1 <= span <= n_rows - 1 and n_rows >= _MIN_ROWS_FOR_IDS
    return "it counts the rows" if is_counter and is_sorted(numbers) else None


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
    if n_equal_by_chance >= _LEAST_EQUAL and not (is_sorted(numbers) or is_sorted(-numbers)):  # a trend has none
        return True
    digits = np.floor(np.log10(np.maximum(numbers, 1)))
    return bool(name.lower() != "number" and digits.min() == digits.max() >= 5)


def leave_out_labels(inferred: Inferred, rows: Rows, wishes: Wishes) -> None:
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
            column.note = join_notes(column.note, f"a quantity beside {x}, not the answer")
            continue
        inferred.columns[i] = Column(name, "left_out", note="its name says that it has the answer")
        kind = "numeric" if is_quantity else "categorical"
        remedy = override(f"data.{kind}", [*(wishes.numeric if is_quantity else wishes.categorical), name])
        inferred.odd.append(
            f"column {name} is left out, since its name says that it has the answer; {override('data.labels', name)} "
            f"scores the clusters against it, {remedy} makes it a feature"
        )
