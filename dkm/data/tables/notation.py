"""How the cells of text tables write numbers, and that there is no value."""

from __future__ import annotations

import re

# What a cell without a value holds, in any column. pandas reads the same, so files that it wrote come back.
MISSING = frozenset(
    [
        "",
        "NA",
        "N/A",
        "n/a",
        "<NA>",
        "#N/A",
        "#NA",
        "#N/A N/A",
        "NaN",
        "nan",
        "-NaN",
        "-nan",
        "NULL",
        "null",
        "None",
        "-1.#IND",
        "1.#IND",
        "1.#QNAN",
        "-1.#QNAN",
    ]
)
# What people write for no value; not in a column of ids or labels.
MISSING_MARKS = frozenset({"?", ".", "-", "--", "*", "..."})
POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
COMMA = re.compile(r"[+-]?(\d+,\d+|,\d+)([eE][+-]?\d+)?")
POINT_GROUPS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
COMMA_GROUPS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
# What may stand around a number: spaces, currency, per cent.
AFFIXES = " \t\u00a0%$€£¥₹"


def is_missing(cell: str) -> bool:
    """Return whether a cell of any column holds no value."""
    return cell in MISSING or cell.strip() in MISSING


def is_number(cell: str, decimal: str = ".", thousands: str = "") -> bool:
    """Return whether a cell is a finite number in this notation."""
    cell = cell.strip(AFFIXES)
    if decimal == ",":
        return bool(COMMA.fullmatch(cell) or re.fullmatch(r"[+-]?\d+", cell)) or (
            thousands == "." and bool(POINT_GROUPS.fullmatch(cell))
        )
    return bool(POINT.fullmatch(cell)) or (thousands == "," and bool(COMMA_GROUPS.fullmatch(cell)))
