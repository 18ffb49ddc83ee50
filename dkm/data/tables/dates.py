"""How dates and times of day are written in text."""

# Shapes: n cells.

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dkm.data.tables.nulls import null_where

# The first of the hundred years that two digits may mean, unless a column says otherwise: as in POSIX.
FIRST_YEAR = 1969
# Two digits mean no later year where all dates of a column can be read so.
_LAST_YEAR = 2049
_YEAR_1000_S = -30_610_224_000.0
# Formats of dates, most specific first; %y before %Y would read 2012 as 20.
DATE_FORMATS = (
    *("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%Y%m%d"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
    *("%Y.%m.%d", "%d/%b/%Y", "%b %d %Y", "%B %d %Y", "%a, %d %b %Y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%y/%m/%d"),
)
# Months, quarters (1998 Q1, Q1-1998) and weeks (1991 W06): their first day.
MONTH_FORMATS = (
    *("%Y-%m", "%Y/%m", "%m/%Y", "%b-%y", "%b-%Y", "%b %Y", "%B %Y", "%Y-%b", "%Y %b", "%Y %B", "quarter", "week"),
)
# A date with a time of day: any of these after a space, or a comma and a space.
DATE_TIME_FORMATS = (
    *(f"{date} {time}" for date in DATE_FORMATS for time in ("%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p")),
    "%Y%m%dT%H%M%S",
)
# 2024-01-31, with a time after T or a space, with or without a zone; the days are checked apart.
_ISO = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d([.,]\d+)?)?(Z| ?UTC| ?GMT| ?[+-]([01]\d|2[0-3])(:?[0-5]\d)?)?)?$"
)
_QUARTERS = (r"^(?P<year>\d{4})[ -]?[Qq](?P<part>[1-4])$", r"^[Qq](?P<part>[1-4])[ -]?(?P<year>\d{4})$")
_WEEKS = (r"^(?P<year>\d{4})[ -]?W(?P<part>\d{1,2})$",)
# 2:59:31, 27:15:00, 14:35 (minutes and seconds), 0 days 00:05:00 (pandas).
_DURATION = r"^(?:(?P<days>\d+) days?,? )?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>[0-5]\d(?:\.\d+)?)$"
_UNITS = {"days": 86_400.0, "hours": 3_600.0, "minutes": 60.0, "seconds": 1.0}
_ISO_NO_DAY = r"^\d{4}-(02-3|(04|06|09|11)-31)"
_ISO_LEAP_DAY = r"^\d{4}-02-29"
_ISO_LEAP_YEAR = r"^(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-"
TIME_FORMATS = ("%H:%M:%S", "%H:%M", "%H.%M.%S", "%I:%M:%S %p", "%I:%M %p")
# Formats that are none of strftime's.
_EXAMPLES = {"iso": "2024-01-31", "quarter": "2024-Q1", "week": "2024-W05", "duration": "2:59:31"}
_EXAMPLE = datetime.datetime(2024, 1, 31, 23, 59)
# Parts that keep their leading zeros: 2:1 is a score, 3.9.7 a version, 4-4-2 a formation.
_WIDTHS = {"Y": r"\d{4}", "y": r"\d{2}", "M": r"\d{2}", "S": r"\d{2}"}


def example_of(format_: str) -> str:
    """Return a text in a format of ``parse_dates``."""
    return _EXAMPLES.get(format_) or _EXAMPLE.strftime(format_)


def parse_dates(values: pa.Array, formats: Sequence[str], first_year: int = FIRST_YEAR) -> pa.Array:
    """Return the seconds of text cells in the first format that reads them, null where none does.

    Years of two digits are those from ``first_year`` on.
    """
    text = pc.utf8_trim_whitespace(values)
    result = pa.nulls(len(values), pa.float64())
    for format_ in formats:
        parsed = _strptime(text, format_, first_year)
        result = pc.coalesce(result, parsed)
    return result


def find_first_year(values: pa.Array, format_: str) -> tuple[int, str]:
    """Return which years two digits mean, for ``parse_dates``, and a remark; dates without such years have none.

    Where they are in both centuries, or late in this one, they are read as the shortest span of years that ends before
    2050. The hundred years of the window continue it in both directions, for further rows.
    """
    if "%y" not in format_:
        return FIRST_YEAR, ""
    years = np.unique(_years(parse_dates(values, [format_])))
    first_year, low, high = FIRST_YEAR, int(years[0]), int(years[-1])
    if low < 2000 <= high or high > _LAST_YEAR:
        digits = np.unique(years % 100)
        gaps = np.diff(digits, append=digits[0] + 100)  # after each of them
        last = int(gaps.argmax())
        gap, span = int(gaps[last]), 100 - int(gaps[last])
        end = _LAST_YEAR - (_LAST_YEAR - int(digits[last])) % 100
        if (end - span, end) != (low, high):
            shifted = max(end - 99, min(end - span - gap // 2, _LAST_YEAR - 99))
            n_read = len(values) - parse_dates(values, [format_], shifted).null_count
            if n_read == len(values) - parse_dates(values, [format_]).null_count:  # 29 February 1900 is no day
                first_year, low, high = shifted, end - span, end
    return first_year, f"years of two digits are {low} to {high}"


def _years(seconds: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    present = seconds.drop_null().to_numpy().astype("datetime64[s]")
    years: np.ndarray[tuple[int], np.dtype[np.int64]] = present.astype("datetime64[Y]").astype(np.int64) + 1970
    return years


def _strptime(text: pa.Array, format_: str, first_year: int = FIRST_YEAR) -> pa.Array:
    """Return seconds as float64, null where a cell does not have the format; fractions of seconds are ignored."""
    if format_ == "iso":
        text = null_where(pc.invert(_is_iso(text)), text)
        text = pc.replace_substring_regex(text, r"[.,]\d+", "")
        text = pc.replace_substring_regex(text, r" ?(UTC|GMT)$", "Z")
        text = pc.replace_substring_regex(text, r"(:\d{2}) ?([+-]\d{2}):?(\d{2})?$", r"\1\2:\3")
        text = pc.replace_substring_regex(text, ":$", ":00")  # +02 of PostgreSQL
        zone = pc.match_substring_regex(text, r":.*(Z|[+-]\d{2}:\d{2})$")
        plain = pc.cast(null_where(zone, text), pa.timestamp("s"))
        zoned = pc.cast(null_where(pc.invert(zone), text), pa.timestamp("s", "UTC"))
        seconds = pc.coalesce(pc.cast(plain, pa.int64()), pc.cast(zoned, pa.int64()))
        return pc.cast(seconds, pa.float64())
    if format_ == "duration":
        found = pc.extract_regex(text, _DURATION)
        parts = {unit: pc.struct_field(found, unit) for unit in _UNITS}
        numbers = [
            pc.multiply(pc.cast(null_where(pc.equal(part, ""), part), pa.float64()), _UNITS[unit])
            for unit, part in parts.items()
        ]
        filled = [pc.fill_null(number, 0.0) for number in numbers[:-1]]
        return pc.add(pc.add(filled[0], filled[1]), pc.add(filled[2], numbers[3]))
    if format_ == "quarter":
        return _first_days(text, _QUARTERS, lambda year, part: year + 3 * (part - 1), 4)
    if format_ == "week":
        return _first_days(text, _WEEKS, _monday, 53)
    if format_ in DATE_TIME_FORMATS:
        text = pc.replace_substring_regex(text, r", (\d{1,2}:\d{2})", r" \1")
        text = pc.replace_substring_regex(text, r" (UTC|GMT|\+0000)$", "")
    if "%M" in format_:
        text = pc.replace_substring_regex(text, r"(:\d{2}:\d{2})[.,]\d+", r"\1")
        text = pc.replace_substring_regex(text, r"(?i)(\d)([ap]m)$", r"\1 \2")  # 9:30AM
    parsed = pc.strptime(text, format=format_, unit="s", error_is_null=True)
    # strptime reads 11/11/2007 as %y too, and 12 as the year 12.
    again = pc.strftime(parsed, format=format_)
    digits = pc.replace_substring_regex(text, r"\b0+(\d)", r"\1")
    same = pc.equal(pc.utf8_lower(pc.replace_substring_regex(again, r"\b0+(\d)", r"\1")), pc.utf8_lower(digits))
    shape = re.sub("%(.)", lambda part: _WIDTHS.get(part[1], ".+"), re.escape(format_))
    same = pc.and_(same, pc.match_substring_regex(text, f"^{shape}$"))
    if format_ in ("%Y-%m", "%Y/%m"):  # 2000-1 is a semester or a season
        same = pc.equal(again, text)
    seconds = pc.cast(pc.cast(parsed, pa.int64()), pa.float64())
    if format_ in TIME_FORMATS:  # strptime counts from 1900
        seconds = pc.cast(pc.add(seconds, float(2_208_988_800)), pa.float64())
    if "%y" in format_ and first_year != FIRST_YEAR:
        seconds = _in_window(seconds, first_year)
    # %Y reads 07 as the year 7.
    return null_where(pc.invert(pc.and_(same, pc.greater(seconds, _YEAR_1000_S))), seconds)


def _first_days(text: pa.Array, patterns: Sequence[str], start: Callable[[Any, Any], Any], n_parts: int) -> pa.Array:
    """Return the seconds at the beginning of quarters or weeks, null where a cell is none."""
    result = pa.nulls(len(text), pa.float64())
    for pattern in patterns:
        found = pc.extract_regex(text, pattern)
        fields = [pc.fill_null(pc.struct_field(found, name), "1") for name in ("year", "part")]
        year, part = (pc.cast(field, pa.int64()).to_numpy(zero_copy_only=False) for field in fields)
        first = start((year - 1970).astype("datetime64[Y]").astype("datetime64[M]"), part)
        is_none = found.is_null().to_numpy(zero_copy_only=False) | (part < 1) | (part > n_parts) | np.isnat(first)
        seconds = first.astype("datetime64[s]").astype(np.int64).astype(np.float64)
        result = pc.coalesce(result, pa.array(seconds, mask=is_none))
    return result


def _monday(year: Any, week: Any) -> Any:
    """Return the Mondays of ISO weeks; the first week has 4 January, and a year has its 53rd only if it ends there."""
    fourth = year.astype("datetime64[D]") + 3
    monday = fourth - (fourth.astype(np.int64) + 3) % 7 + 7 * (week - 1)
    return np.where((monday + 3).astype("datetime64[Y]") == year.astype("datetime64[Y]"), monday, np.datetime64("NaT"))


def _is_iso(text: pa.Array) -> pa.Array:
    """Return the mask of dates that exist: pyarrow raises an error for 2023-02-30, and names no column."""
    is_iso = pc.match_substring_regex(text, _ISO)
    is_leap_day = pc.match_substring_regex(text, _ISO_LEAP_DAY)
    is_no_day = pc.or_(
        pc.match_substring_regex(text, _ISO_NO_DAY),
        pc.and_not(is_leap_day, pc.match_substring_regex(text, _ISO_LEAP_YEAR)),
    )
    return pc.and_not(is_iso, is_no_day)


def _in_window(seconds: pa.Array, first_year: int) -> pa.Array:
    """Return dates in the century in which their years are among the hundred from ``first_year`` on."""
    is_null = seconds.is_null().to_numpy(zero_copy_only=False)
    days = pc.fill_null(seconds, 0.0).to_numpy().astype("datetime64[s]")
    years, months = days.astype("datetime64[Y]").astype(np.int64) + 1970, days.astype("datetime64[M]")
    moved = months + 12 * (first_year + (years - first_year) % 100 - years)
    result = moved.astype("datetime64[s]") + (days - months.astype("datetime64[s]"))
    is_no_day = result.astype("datetime64[M]") != moved  # 29 February 1900
    return pa.array(result.astype(np.int64).astype(np.float64), mask=is_null | is_no_day)
