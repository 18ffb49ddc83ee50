"""Infer the kind of a text column: numbers, yes and no, dates, categories, or free text."""

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
from dkm.data.tables.inferred_dates import as_date, as_duration
from dkm.data.tables.strays import MAX_OTHER_FRACTION, MAX_OTHERS, is_mostly_read, join_notes, read_as_missing
from dkm.data.tables.values import is_distinct
from dkm.data.tables.wishes import Wishes

# A text column of one value with at least so many blank cells and values is a check box.
_MIN_BLANK = 0.05
# A text column whose cells are longer on average is text, not a category.
_LONG_TEXT = 40
# A text column with so many numbers may be one of numbers; so many words are named in a remedy.
_LEAST_NUMBERS, _MAX_WORDS = 0.5, 10
# 72 kg, 180cm, 2.5M, EUR 12.50; fewer different numbers are levels.
_MEASURE = (
    r"^(?P<before>(?:EUR|USD|GBP|CHF|JPY|CNY|INR|AUD|CAD|BRL|Rs\.?|US\$|R\$)?) ?"
    r"(?P<number>[+-]?(?:\d+|\d{1,3}(?:[.,]\d{3})+)(?:[.,]\d+)?) ?(?P<after>(?:[\p{L}\p{Sc}°²³/'\"]{1,10}\d?)?)$"
)
_LEAST_MEASURES = 3
_CURRENCIES = "$€£¥₹"


def infer_text(column: Column, present: pa.Array, wishes: Wishes, odd: list[str]) -> Column:
    """Return the kind of a text column: number, boolean, date, category, or free text, which is left out."""
    text = pc.utf8_trim_whitespace(present)
    is_number: pa.Array | None = None
    has_zero = pc.match_substring_regex(text, r"^0\d+$")
    is_coded = _is_coded(column.name, text, has_zero)
    if not is_coded:
        number = replace(column)
        numbers = read_numbers(number, text)
        others = pc.unique(text.filter(numbers.is_null())).to_pylist() if is_mostly_read(numbers) else None
        if others is not None and len(others) <= MAX_OTHERS:
            number.kind = "number"
            number.note = join_notes(_notation(text), number.note)
            _tell_mixed_signs(number, text.filter(numbers.is_valid()), wishes, odd)
            if others:
                read_as_missing(number, others, numbers.null_count, odd)
            if pc.any(has_zero).as_py():
                first = text.filter(has_zero)[0].as_py()
                remedy = override("data.categorical", [*wishes.categorical, column.name])
                odd.append(f"column {column.name} has {first!r}, read as {int(first)}; {remedy} reads codes")
            return number
        is_number = numbers.is_valid()
    levels = pc.unique(text)
    words = {level.lower() for level in levels.to_pylist()[:5]}
    if len(levels) == 2 and words <= kinds.TRUE | kinds.FALSE and words & kinds.TRUE and words & kinds.FALSE:
        column.kind = "boolean"
        return column
    has_days = pc.any(pc.match_substring_regex(text, r"^\d+ days?,? \d+:")).as_py()
    has_seconds = pc.any(pc.match_substring_regex(text, r"^\d+:\d\d:\d\d")).as_py()
    is_named = naming.is_duration(column.name, has_seconds=has_seconds)
    if (has_days or is_named) and (duration := as_duration(column, text, odd)) is not None:
        remedy = override("data.dates", [*wishes.dates, column.name])
        duration.note = join_notes(duration.note, "" if has_days else f"{remedy} reads times of day")
        return duration
    if (date := as_date(column, text, odd)) is not None:
        if date.cycles == ["day"] and as_duration(replace(date), text) is not None:
            remedy = override("data.numeric", [*wishes.numeric, column.name])
            date.note = join_notes(date.note, f"{remedy} reads durations")
        return date
    column = _infer_words(column, text, len(levels))
    is_mixed = is_number is not None and pc.mean(pc.cast(is_number, pa.float64())).as_py() >= _LEAST_NUMBERS
    if is_mixed and not naming.is_id(column.name, ()):  # 15, 15A
        _tell_numbers(column, text, is_number, wishes, odd)
    elif not is_coded and (what := _find_measure(text, wishes.decimal)):
        odd.append(f"column {column.name} has {what}, and is {_result(column)}; {_remedy(column, wishes)}")
    if is_coded and column.role == "left_out" and not naming.is_id(column.name, ()) and not is_distinct(text):
        first, remedy = text.filter(has_zero)[0].as_py(), override("data.numeric", [*wishes.numeric, column.name])
        odd.append(
            f"column {column.name} has leading zeros, such as {first!r}, as codes have, and is left out; {remedy} "
            "reads numbers"
        )
    return column


def _is_coded(name: str, text: pa.Array, has_zero: pa.Array) -> bool:
    """Return whether cells are codes such as 007: more than a few have zeros before them, or all have one width."""
    n_zeros = pc.sum(has_zero).as_py() or 0
    if n_zeros == 0:
        return False
    shortest, longest = pc.min_max(pc.utf8_length(text)).as_py().values()
    has_name = naming.is_id(name, ()) or naming.is_code(name)
    return has_name or (shortest == longest > 2) or n_zeros > MAX_OTHER_FRACTION * len(text)


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
    return as_category(column, text)


def as_check_box(column: Column, values: pa.Array, missing: Mask) -> Column | None:
    """Return a text column as yes or no if its cells have one value or are blank; None if it is none such."""
    if not is_text(values.type):
        return None
    text = pc.utf8_trim_whitespace(values)
    is_blank = pc.fill_null(pc.equal(text, ""), True)
    n_blank = pc.sum(is_blank).as_py() or 0
    if not _MIN_BLANK * len(text) <= n_blank <= (1 - _MIN_BLANK) * len(text):
        return None
    checked = pc.unique(text.filter(pa.array(~missing)))
    if len(checked) != 1 or read_numbers(replace(column), checked).null_count == 0:
        return None
    column.kind, column.levels = "boolean", checked.to_pylist()
    column.note = f"{column.levels[0][:_LONG_TEXT]!r} is 1, a blank cell 0"
    return column


def as_category(column: Column, text: pa.Array, *, is_asked: bool = False, note: str = "") -> Column:
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
            note = join_notes(note, equal)
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
    column.note = join_notes(shown, note)
    return column


def _is_even(pairs: Sequence[tuple[str, int]], kept: Sequence[tuple[str, int]], n_rows: int) -> bool:
    """Return whether the levels that would be kept of all ``pairs`` of level and number say little about the rows.

    They are fewer than two, or hold less than half of the rows without a level that is much more frequent than others.
    """
    n_next = pairs[kinds.MAX_LEVELS][1]
    return len(kept) < 2 or (2 * sum(n for _, n in kept) < n_rows and pairs[0][1] < 2 * n_next)


def read_numbers(column: Column, text: pa.Array) -> pa.Array:
    """Return the numbers of a text column, null where a cell is none; the column says how negative ones are written."""
    numbers = kinds.parse_numbers(text, column.decimal, column.thousands)
    if numbers.null_count and numbers.null_count <= 0.5 * len(text):  # (1), (2), (3) alone are no amounts
        signed = kinds.parse_numbers(text, column.decimal, column.thousands, negatives=True)
        if signed.null_count < numbers.null_count:
            example = text.filter(pc.and_(numbers.is_null(), signed.is_valid()))[0].as_py().strip()
            column.negatives, column.note = True, f"{example!r} is a negative number"
            return signed
    return numbers


def _notation(text: pa.Array) -> str:
    """Return what stands around the numbers."""
    signs = {"%": "per cent", **{sign: sign for sign in _CURRENCIES}}
    found = [word for sign, word in signs.items() if pc.any(pc.match_substring(text, sign)).as_py()]
    notes = [f"without its {', '.join(found)}"] if found else []
    dashes = pc.unique(pc.utf8_slice_codeunits(text.filter(pc.match_substring_regex(text, kinds.TYPESET_MINUS)), 0, 1))
    notes += [f"{dash!r} means minus" for dash in sorted(dashes.to_pylist())]
    return "; ".join(notes)


def _tell_mixed_signs(column: Column, numbers: pa.Array, wishes: Wishes, odd: list[str]) -> None:
    """Tell that numbers of two units are read as one: 45% and 0.45, or $5 and 5 €; a zero needs no per cent sign."""
    found = [sign for sign in _CURRENCIES if pc.any(pc.match_substring(numbers, sign)).as_py()]
    what = f"numbers in {' and '.join(found)}" if len(found) > 1 else ""
    is_percent = pc.match_substring(numbers, "%")
    if (
        pc.any(is_percent).as_py()
        and not pc.all(pc.or_(is_percent, pc.match_substring_regex(numbers, "^[0., ]*$"))).as_py()
    ):
        example = numbers.filter(is_percent)[0].as_py(), numbers.filter(pc.invert(is_percent))[0].as_py()
        what = f"a per cent sign in some cells only, such as {example[0]!r} beside {example[1]!r}"
    if what:
        exclude = override("data.exclude", [*wishes.exclude, column.name])
        odd.append(
            f"column {column.name} has {what}, read as numbers of one unit; correct the file, or leave the column out "
            f"with {exclude}"
        )


def _find_measure(text: pa.Array, decimal: str) -> str:
    """Return why nearly all cells are no numbers: the other decimal mark, or a unit; nothing for other texts."""
    here, other, mark = ("point", "comma", ",") if decimal == "." else ("comma", "point", ".")
    if is_mostly_read(kinds.parse_numbers(text, mark)):
        return f"numbers with a decimal {other}, where the file has a decimal {here}"
    found = pc.extract_regex(text, _MEASURE).drop_null()
    before, number, after = (pc.struct_field(found, part) for part in ("before", "number", "after"))
    after = pc.replace_substring_regex(after, "^[kKmMbB]$", "M")  # 1.2M beside 300k
    units = pc.value_counts(pc.binary_join_element_wise(before, after, "")).to_pylist()
    n_largest = max((unit["counts"] for unit in units if unit["values"]), default=0)
    if n_largest < (1 - MAX_OTHER_FRACTION) * len(text) or pc.count_distinct(number).as_py() < _LEAST_MEASURES:
        return ""
    example = text.filter(pc.match_substring_regex(text, _MEASURE))[0].as_py()
    return f"numbers with a unit, such as {example!r}"


def _tell_numbers(column: Column, text: pa.Array, is_number: pa.Array, wishes: Wishes, odd: list[str]) -> None:
    """Tell that most cells of a column that is no number are numbers, and what reads it as one."""
    counts = pc.value_counts(text.filter(pc.invert(is_number))).to_pylist()
    counts.sort(key=lambda item: (-item["counts"], item["values"]))
    others = [item["values"] for item in counts]
    shown = ", ".join(map(repr, others[:MAX_OTHERS])) + (", ..." if len(others) > MAX_OTHERS else "")
    percent = 100 * pc.mean(pc.cast(is_number, pa.float64())).as_py()
    if len(others) <= _MAX_WORDS and wishes.missing_values is not None:
        words = override("data.missing_values", [*wishes.missing_values, *others])
        remedy = _remedy(column, wishes, f"{words} reads them as missing, and the column as numbers")
    else:
        remedy = _remedy(column, wishes)
    odd.append(
        f"column {column.name} has numbers in {percent:.0f} % of its cells and {shown} in others, and is "
        f"{_result(column)}; {remedy}"
    )


def _result(column: Column) -> str:
    return "read as a category" if column.role == "feature" else "not a feature"


def _remedy(column: Column, wishes: Wishes, remedy: str = "") -> str:
    """Return what to do about a column whose numbers are not read."""
    exclude = override("data.exclude", [*wishes.exclude, column.name])
    remedy = remedy or f"correct the file, or leave the column out with {exclude}"
    if column.role != "feature":
        return remedy
    return f"{remedy}; {override('data.categorical', [*wishes.categorical, column.name])} confirms the category"
