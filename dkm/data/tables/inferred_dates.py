"""Infer whether a column has dates or times, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dkm.config.values import override
from dkm.data.tables import columns as kinds
from dkm.data.tables import dates, naming
from dkm.data.tables.columns import Column, is_text
from dkm.data.tables.strays import MAX_OTHER_FRACTION, MAX_OTHERS, is_mostly_read, read_as_missing
from dkm.data.tables.values import FAR, HEAD_ROWS, is_whole
from dkm.data.tables.wishes import Wishes

# So many different numbers are dates by their values alone.
_LEAST_DATES = 10
_YEAR_9999_S = 253_370_764_800.0  # SAP and others write 9999-12-31 for an open end


def as_date(column: Column, present: pa.Array, odd: list[str] | None = None) -> Column | None:
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
        if len(others) > MAX_OTHERS:
            return None
        column.kind, column.formats = "date", formats
        if odd is not None and others:
            read_as_missing(column, others, parsed.null_count, odd)
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


def as_duration(column: Column, text: pa.Array, odd: list[str] | None = None) -> Column | None:
    """Return text such as 2:59:31 as a number of seconds; None if it is none.

    With ``odd``, a few other cells are read as missing, and told there.
    """
    seconds = dates.parse_dates(text, ["duration"])
    others = pc.unique(text.filter(seconds.is_null())).to_pylist() if is_mostly_read(seconds) else None
    if others is None or len(others) > (0 if odd is None else MAX_OTHERS) or seconds.null_count == len(text):
        return None
    first = pc.index(seconds.is_valid(), True).as_py()
    column.kind, column.formats = "number", ["duration"]
    column.note = f"durations in seconds: {text[first].as_py().strip()} is {seconds[first].as_py():g}"
    if others and odd is not None:
        read_as_missing(column, others, seconds.null_count, odd)
    return column


def tell_far_date(column: Column, values: pa.Array, wishes: Wishes, odd: list[str]) -> None:
    """Tell the date that is farthest from the others, if it is far: it often means that there is none."""
    seconds, missing = kinds.date_seconds(column, values)
    low, median, high = np.quantile(seconds[~missing], (0.25, 0.5, 0.75))
    at = int(np.nanargmax(seconds))
    if seconds[at] < _YEAR_9999_S:
        at = int(np.nanargmax(np.abs(seconds - median)))
        if high == low or abs(seconds[at] - median) <= FAR * (high - low):
            return
    cell, n = kinds.as_levels(values.slice(at, 1))[0].as_py(), int((seconds == seconds[at]).sum())
    remedy = f"correct the file or leave the column out with {override('data.exclude', [*wishes.exclude, column.name])}"
    if wishes.missing_values is not None:
        remedy = f"{override('data.missing_values', [*wishes.missing_values, cell])} reads it as missing"
    cells = "1 cell" if n == 1 else f"{n:,} cells"
    odd.append(f"column {column.name} has {cell!r} in {cells}, far from the other dates; {remedy}")


def looks_like_dates(name: str, present: pa.Array) -> bool:
    """Return whether all numbers are dates such as 20240131, which their name or their number and range confirm."""
    if not (is_text(present.type) or pa.types.is_integer(present.type) or pa.types.is_floating(present.type)):
        return False
    if not is_whole(present.slice(0, HEAD_ROWS)):
        return False
    if not is_text(present.type):
        least, most = pc.min_max(present).as_py().values()
        if least is None or least < 19_000_101 or most > 21_001_231:
            return False
    if naming.is_id(name, ()) or not is_whole(present):
        return False
    for values in (present.slice(0, HEAD_ROWS), present):
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


def _find_formats(text: pa.Array) -> tuple[list[str], str]:
    """Return the format that reads all cells, and a remark where two formats do."""
    head = text.slice(0, HEAD_ROWS)
    has_digit = pc.match_substring_regex(head, r"\d")
    if not len(head) or pc.sum(has_digit).as_py() < (1 - MAX_OTHER_FRACTION) * len(head):
        return [], ""
    # 31 Jan 2024 and 15-OCT-24 have no time.
    has_time = pc.any(pc.match_substring_regex(head, r"\d,?[ T]\d{1,2}[:.]\d{2}|\dT\d{6}")).as_py() is True
    days = dates.DATE_TIME_FORMATS if has_time else (*dates.DATE_FORMATS, *dates.MONTH_FORMATS)
    formats = ("iso", *days, *dates.TIME_FORMATS)
    in_head = {format_: dates.parse_dates(head, [format_]) for format_ in formats}
    readable = _readable(text, [format_ for format_, parsed in in_head.items() if not parsed.null_count], 0.0)
    if not readable:
        mostly = [format_ for format_, parsed in in_head.items() if is_mostly_read(parsed)]
        readable = _readable(text, mostly, MAX_OTHER_FRACTION)
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
