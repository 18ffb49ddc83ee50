"""How the cells of text tables write numbers, and that there is no value."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dkm.errors import UserError, input_error

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
# The same of databases, statistical offices and spreadsheets. A column may be called na, so these say nothing about a
# first row.
FURTHER_MARKS = frozenset(
    {
        *("..", ":", "na", "n.a.", "N.A.", "\u2013", "\u2014", r"\N", "(null)"),
        *("#DIV/0!", "#REF!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!"),
    }
)
# All of these: what means "missing" in a column that is not read by an older plan.
USUAL_MARKS = MISSING | MISSING_MARKS | FURTHER_MARKS
# What may stand around a number: spaces, currency, per cent.
AFFIXES = " \t\u00a0\u202f\u2009%$€£¥₹"
# What typesetters write for the minus before a number: the minus sign and the en dash.
MINUS = "\u2212\u2013"
# Characters that stand for a mark between thousands: no-break and thin spaces, a typographic apostrophe.
ALIKE = {" ": "\u00a0\u202f\u2009", "'": "\u2019"}
MARK_NAMES = {",": "comma", ".": "point", " ": "space", "'": "apostrophe", "": "none"}
_OTHER = {".": ",", ",": "."}
_MINUS = re.compile(rf"[{MINUS}](?=[.,]?\d)")
_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d*,\d+([eE][+-]?\d+)?|\d+)")
# The first group never begins with 0: 0.123 is a decimal only. Indian numbers have pairs of digits: 12,34,567.
_GROUPS = re.compile(r"[+-]?([1-9]\d{0,2})([.,' ])(?:(?<=,)\d\d,)*\d{3}(?:\2\d{3})*(?:([.,])\d+)?")
_LIKE_ANY = str.maketrans({character: mark for mark, characters in ALIKE.items() for character in characters})
# A column in which fewer cells are numbers says nothing about their notation.
_LEAST_NUMBERS = 0.5


class Marks(NamedTuple):
    """The decimal mark and the mark between thousands, "" for none; None where it is not known."""

    decimal: str | None = None
    thousands: str | None = None


@dataclass(frozen=True)
class Known:
    """What other data settle where a file does not: the training data of a model, or the first of several files."""

    marks: Marks = field(default_factory=Marks)
    # Whether the file had names, and those that are needed.
    has_header: bool | None = None
    names: frozenset[str] = frozenset()
    origin: str = "the data that the model was trained on"


def is_missing(cell: str) -> bool:
    """Return whether a cell of any column holds no value."""
    return cell in MISSING or cell.strip() in MISSING


def is_number(cell: str, decimal: str = ".", thousands: str = "") -> bool:
    """Return whether a cell is a finite number in this notation."""
    return to_number(cell, decimal, thousands) is not None


def to_number(cell: str, decimal: str = ".", thousands: str = "") -> float | None:
    """Return the number that a cell is in this notation; None if it is none."""
    cell = _with_plain_minus(cell.strip(AFFIXES))
    if thousands:
        cell = cell.translate(_LIKE_ANY) if thousands in ALIKE else cell
        match = _GROUPS.fullmatch(cell)
        if match is not None and match[2] == thousands and match[3] in (None, decimal):
            cell = cell.replace(thousands, "")
    if (_COMMA if decimal == "," else _POINT).fullmatch(cell) is None:
        return None
    return float(cell.replace(",", "."))


def _with_plain_minus(cell: str) -> str:
    return cell if cell.isascii() or _MINUS.match(cell) is None else f"-{cell[1:]}"


# --- the marks of a file ------------------------------------------------------------------------------------------


@dataclass
class _Evidence:
    """What the cells of a column, or of all columns, say about the marks."""

    n_values: int = 0
    n_numbers: int = 0
    # Cells by their decimal mark, and by their mark between thousands.
    decimals: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    # Cells like 1.234 and 1,234 by their mark, which may be either, and the first of each.
    either: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    # Numbers of digits before the first mark.
    lengths: set[int] = field(default_factory=set)
    has_surely_spaces: bool = False
    # Whether a column has cells like 1.234 beside whole numbers from 1 to 999, and none from 1000.
    has_small_whole: bool = False
    has_large_whole: bool = False

    def count(self, cell: str) -> None:
        self.n_values += 1
        plain = cell.strip(AFFIXES)
        cell = plain if plain.isascii() else _with_plain_minus(plain).translate(_LIKE_ANY)
        if (match := _GROUPS.fullmatch(cell)) is not None and match[2] != match[3]:
            first, mark, decimal = match.groups()
            self.n_numbers += 1
            if mark in ".," and decimal is None and cell.count(mark) == 1:
                self.either[mark] += 1
                self.example.setdefault(mark, cell)
                return
            self.groups[mark] += 1
            self.lengths.add(len(first))
            if mark in ".," or decimal is not None:
                self.decimals[_OTHER[mark] if mark in ".," else decimal] += 1
            self.has_surely_spaces |= mark == " " and (decimal is not None or cell != plain)
        elif "," in cell and _COMMA.fullmatch(cell):
            self.n_numbers += 1
            self.decimals[","] += 1
        elif _POINT.fullmatch(cell):
            self.n_numbers += 1
            if "." in cell:
                self.decimals["."] += 1
            elif (digits := cell.lstrip("+-")).isdecimal() and not digits.startswith("0"):
                self.lengths.add(len(digits))
                self.has_small_whole |= len(digits) <= 3
                self.has_large_whole |= len(digits) > 3

    def add(self, column: _Evidence) -> None:
        """Add what a column says, unless most of its cells are no numbers."""
        if column.n_numbers < _LEAST_NUMBERS * column.n_values:
            return
        # Codes such as 555 123 456 have groups of digits, all of the same length.
        if not column.has_surely_spaces and len(column.lengths) < 2:
            del column.groups[" "]
        self.decimals.update(column.decimals)
        self.groups.update(column.groups)
        self.either.update(column.either)
        for mark, cell in column.example.items():
            self.example.setdefault(mark, cell)
        self.has_small_whole |= bool(column.either["."]) and column.has_small_whole and not column.has_large_whole

    def settle(self, thousands: str) -> None:
        """Read the cells that may be either, given the mark between thousands."""
        for mark, n in self.either.items():
            self.decimals[_OTHER[mark] if mark == thousands else mark] += n
        self.groups[thousands] += self.either[thousands]
        self.either.clear()


def find_marks(
    rows: Sequence[Sequence[str]], delimiter: str, given: Marks, known: Known, *, source: str, decisions: dict[str, str]
) -> tuple[str, str]:
    """Return the decimal mark and the mark between thousands, "" for none, and record how they were decided.

    Parameters
    ----------
    rows : sequence of sequences of str
        The cells of the first rows, without names.
    delimiter : str
    given : Marks
        What the user has settled.
    known : Known
        What other data settle; the cells themselves come first.
    source : str
        For messages.
    decisions : dict
        Gets entries ``decimal mark`` and ``thousands mark`` where they are not plain.

    Raises
    ------
    UserError
        If numbers such as 1,234 may be decimals or thousands.
    """
    evidence = _Evidence()
    for cells in itertools.zip_longest(*rows, fillvalue=""):
        column = _Evidence()
        for cell in cells:
            if not is_missing(cell) and cell not in USUAL_MARKS:
                column.count(cell)
        evidence.add(column)
    thousands = given.thousands
    if thousands is None:
        mark, n = max(((mark, evidence.groups[mark]) for mark in ALIKE), key=lambda pair: pair[1])
        thousands = mark if n > evidence.groups["."] + evidence.groups[","] else None
    if thousands is not None:
        evidence.settle(thousands)
    decimal = given.decimal or _OTHER.get(given.thousands or "")
    if decimal is None:
        decimal = _choose_decimal(evidence, delimiter, known, source, decisions)
    if thousands is None:
        mark = _OTHER[decimal]
        thousands = mark if evidence.groups[mark] + evidence.either[mark] else ""
        if not thousands and known.marks.decimal == decimal and known.marks.thousands:
            return decimal, known.marks.thousands  # for rows below the first ones
    if thousands and given.thousands is None:
        n = evidence.groups[thousands] + evidence.either[thousands]
        decisions["thousands mark"] = f"{MARK_NAMES[thousands]}, as in {n:,} of the first cells"
    return decimal, thousands


def _choose_decimal(evidence: _Evidence, delimiter: str, known: Known, source: str, decisions: dict[str, str]) -> str:
    n_comma, n_point = evidence.decimals[","], evidence.decimals["."]
    if n_comma == n_point and (decimal := _known_decimal(evidence, delimiter, known.marks)) is not None:
        if n_comma or evidence.either:
            decisions["decimal mark"] = f"{MARK_NAMES[decimal]}, as in {known.origin}"
        return decimal
    if n_comma > n_point:
        decisions["decimal mark"] = f"comma, as in {n_comma:,} of the first cells ({n_point:,} have a point)"
        return ","
    if n_point:
        if n_comma or known.marks.decimal == ",":
            other = f"; a comma in {known.origin}" if known.marks.decimal == "," else ""
            decisions["decimal mark"] = f"point, as in {n_point:,} of the first cells ({n_comma:,} have a comma){other}"
        return "."
    if not evidence.either:
        return "."
    if not evidence.either[","] and known.marks.decimal != "," and not _may_be_thousands(evidence, delimiter):
        example = evidence.example["."]
        decisions["decimal mark"] = (
            f"point, as in {example}; data.decimal=comma data.thousands=point reads {example.replace('.', '')}"
        )
        return "."
    raise _ambiguous_marks_error(evidence, source)


def _known_decimal(evidence: _Evidence, delimiter: str, known: Marks) -> str | None:
    """Return the decimal mark of other data, None if it does not settle the cells that may be either.

    The comma as delimiter speaks for 1.234 as a decimal, whatever the mark was. A point is also the mark of data
    without any decimal, so that it settles 1,234 only together with a comma between thousands.
    """
    if known.decimal == ",":
        return None if delimiter == "," and evidence.either["."] else ","
    if known.decimal == "." and (known.thousands == "," or not evidence.either[","]):
        return "."
    return None


def _may_be_thousands(evidence: _Evidence, delimiter: str) -> bool:
    """Return whether cells like 1.234, without any other evidence, may be thousands.

    A semicolon comes from where the comma is the decimal mark; a comma does not. With other delimiters, a column that
    has 950 beside 12.500 tells that three digits after a point are no fixed number of decimals.
    """
    return delimiter == ";" or (delimiter != "," and evidence.has_small_whole)


def _ambiguous_marks_error(evidence: _Evidence, source: str) -> UserError:
    found = f"numbers like {' and '.join(evidence.example.values())}, which may be decimals or thousands"
    if evidence.either["."] and evidence.either[","]:
        remedy = "set data.decimal=point data.thousands=comma, or data.decimal=comma data.thousands=point"
    elif evidence.either["."]:
        example = evidence.example["."]
        whole = example.replace(".", "")
        remedy = f"set data.decimal=point ({example}), or data.decimal=comma data.thousands=point ({whole})"
    else:
        remedy = "set data.decimal=comma (1.234 in English), or data.decimal=point data.thousands=comma (1234)"
    return input_error(source, found, "one reading", remedy)
