"""How dates and times of day are written in text."""

# Shapes: n cells.

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

_YEAR_1000_S = -30_610_224_000.0
# Formats of dates, most specific first; %y before %Y would read 2012 as 20.
DATE_FORMATS = (
    *("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%Y%m%d"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
# A date with a time of day: any of these after a space.
DATE_TIME_FORMATS = (
    *(f"{date} {time}" for date in DATE_FORMATS for time in ("%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p")),
    "%Y%m%dT%H%M%S",
)
# 2024-01-31, with a time after T or a space, with or without a zone; the days are checked apart.
_ISO = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?)?$"
)
_ISO_NO_DAY = r"^\d{4}-(02-3|(04|06|09|11)-31)"
_ISO_LEAP_DAY = r"^\d{4}-02-29"
_ISO_LEAP_YEAR = r"^(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-"
TIME_FORMATS = ("%H:%M:%S", "%H:%M", "%H.%M.%S", "%I:%M:%S %p", "%I:%M %p")


def parse_dates(values: pa.Array, formats: Sequence[str]) -> pa.Array:
    """Return the seconds of text cells in the first format that reads them, null where none does."""
    text = pc.utf8_trim_whitespace(values)
    result = pa.nulls(len(values), pa.float64())
    for format_ in formats:
        parsed = _strptime(text, format_)
        result = pc.coalesce(result, parsed)
    return result


def _strptime(text: pa.Array, format_: str) -> pa.Array:
    """Return seconds as float64, null where a cell does not have the format; fractions of seconds are ignored."""
    if format_ == "iso":
        text = pc.if_else(_is_iso(text), text, None)
        text = pc.replace_substring_regex(text, r"\.\d+", "")
        zone = pc.match_substring_regex(text, r":.*(Z|[+-]\d{2}:\d{2})$")
        plain = pc.cast(pc.if_else(zone, None, text), pa.timestamp("s"))
        zoned = pc.cast(pc.if_else(zone, text, None), pa.timestamp("s", "UTC"))
        seconds = pc.coalesce(pc.cast(plain, pa.int64()), pc.cast(zoned, pa.int64()))
        return pc.cast(seconds, pa.float64())
    parsed = pc.strptime(text, format=format_, unit="s", error_is_null=True)
    # strptime reads 11/11/2007 as %y too, and 12 as the year 12.
    again = pc.strftime(parsed, format=format_)
    digits = pc.replace_substring_regex(text, r"\b0+(\d)", r"\1")
    same = pc.equal(pc.utf8_lower(pc.replace_substring_regex(again, r"\b0+(\d)", r"\1")), pc.utf8_lower(digits))
    seconds = pc.cast(pc.cast(parsed, pa.int64()), pa.float64())
    if format_ in TIME_FORMATS:  # strptime counts from 1900
        seconds = pc.cast(pc.add(seconds, float(2_208_988_800)), pa.float64())
    # %Y reads 07 as the year 7.
    return pc.if_else(pc.and_(same, pc.greater(seconds, _YEAR_1000_S)), seconds, None)


def _is_iso(text: pa.Array) -> pa.Array:
    """Return the mask of dates that exist: pyarrow raises an error for 2023-02-30, and names no column."""
    is_iso = pc.match_substring_regex(text, _ISO)
    is_leap_day = pc.match_substring_regex(text, _ISO_LEAP_DAY)
    is_no_day = pc.or_(
        pc.match_substring_regex(text, _ISO_NO_DAY),
        pc.and_not(is_leap_day, pc.match_substring_regex(text, _ISO_LEAP_YEAR)),
    )
    return pc.and_not(is_iso, is_no_day)
