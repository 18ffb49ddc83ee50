"""Find rows below the names of a text table that are no data: questions of a survey, units, further levels of names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dkm.data.tables.notation import MISSING_MARKS, Marks, is_missing, is_number

# Rows below the names that are looked at: two levels and the names of an index, or two and no index.
_MOST_ROWS = 3
# A word or a unit; a number with something after it, as in 5 kg; a year.
_LABEL = re.compile(r"[^\W\d_]|[%‰°$€£¥]")
_AMOUNT = re.compile(r"[<>~]?\s*[+-]?[.,]?\d[\d.,]*\s*\D{0,4}")
_YEAR = re.compile(r"(1[89]|20)\d\d")
_QUALTRICS = '{"ImportId"'
# Words in the place of a number.
_NO_NUMBERS = frozenset({"inf", "+inf", "-inf", "infinity", "n.a.", "unknown", "missing", "error", "nil"})
# A column with a larger fraction of numbers is one of numbers.
_LEAST_NUMBERS = 0.8


class SecondHeader(NamedTuple):
    """The number of rows below the first that belong to the names, and the names, to which they may be joined."""

    n_rows: int
    names: list[str]


def find_second_header(
    first: list[str], rows: Sequence[Sequence[str]], marks: Marks, n_least: int, decisions: dict[str, str]
) -> SecondHeader:
    """Return how many rows below the names belong to them, and the names with them.

    They have the only texts in two or more columns of numbers, and in half of these columns or more. They are joined to
    names that are not distinct, as two levels of names that pandas wrote.

    Parameters
    ----------
    first : list of str
        The cells of the first row.
    rows : sequence of sequences of str
        The rows below it.
    marks : Marks
        How numbers are written.
    n_least : int
        The least number of rows of data below.
    decisions : dict
        Gets an entry ``second header row`` if there are such rows.
    """
    for n, row in enumerate(rows[:_MOST_ROWS], 1):
        if all(cell.startswith(_QUALTRICS) for cell in row):
            return _skipped(rows[:n], first, decisions)
    if len(rows) > n_least and (answers := _with_answers(first, rows[0], rows[1:], marks)) is not None:
        shown = ", ".join(filter(None, rows[0]))[:60]
        decisions["second header row"] = f"{shown!r} below the names, joined to questions with several columns"
        return SecondHeader(1, answers)
    for n in range(_MOST_ROWS, 0, -1):
        below, rest = rows[:n], rows[n:]
        if len(rest) < n_least or any(len(row) != len(first) for row in below):
            continue
        names = _Table(first, below, rest, marks).names()
        if names is None:
            continue
        if names == first:
            return _skipped(below, first, decisions)
        example = next(name for name, cell in zip(names, first, strict=True) if name != cell and " / " in name)
        decisions["second header row"] = f"joined to the names, as in {example!r}"
        return SecondHeader(n, names)
    return SecondHeader(0, first)


def _skipped(below: Sequence[Sequence[str]], first: list[str], decisions: dict[str, str]) -> SecondHeader:
    shown = ", ".join(" ".join(cell.split()) for cell in below[0] if cell.strip())[:60]
    more = f" and {len(below) - 1} more rows" if len(below) > 1 else ""
    decisions["second header row"] = f"{shown!r}{more} below the names skipped"
    return SecondHeader(len(below), first)


def _with_answers(
    first: Sequence[str], row: Sequence[str], rest: Sequence[Sequence[str]], marks: Marks
) -> list[str] | None:
    """Return the names with the answers below them, as SurveyMonkey writes them; None if the row is data.

    It has no id, which all other rows have, and a text below each empty name. It has a number nowhere, and below other
    names no text that occurs again, but a text above numbers or below an empty name.
    """
    decimal, thousands = marks.decimal or ".", marks.thousands or ""
    has_id = all(other and other[0].strip() for other in rest)
    if len(row) != len(first) or row[0].strip() or not first[0].strip() or not has_id:
        return None
    columns = [[other[i].strip() for other in rest if i < len(other)] for i in range(len(first))]
    names, question, is_known = [], "", False
    for i, (name, cell) in enumerate(zip(first, (cell.strip() for cell in row), strict=True)):
        question = name or question
        has_several = not name or (i + 1 < len(first) and not first[i + 1])
        is_value = is_number(cell, decimal, thousands) or (not has_several and cell in columns[i])
        if is_value if cell else not name:
            return None
        above_numbers = (
            _is_label(cell)
            and any(columns[i])
            and all(is_number(value, decimal, thousands) for value in columns[i] if value)
        )
        is_known = is_known or not name or above_numbers
        names.append(f"{question} / {cell}" if has_several and cell else name)
    return names if is_known else None


class _Table:
    """A table whose first rows may belong to the names.

    Parameters
    ----------
    first : list of str
        The names.
    below : sequence of sequences of str
        The rows that may belong to them.
    rest : sequence of sequences of str
        The rows of data.
    marks : Marks
    """

    def __init__(
        self, first: list[str], below: Sequence[Sequence[str]], rest: Sequence[Sequence[str]], marks: Marks
    ) -> None:
        self._first, self._rest = first, rest
        self._below = [[" ".join(cell.split()) for cell in row] for row in below]
        self._decimal, self._thousands = marks.decimal or ".", marks.thousands or ""
        self._shares: dict[int, float] = {}  # of numbers in the columns that were looked at

    def names(self) -> list[str] | None:
        """Return the names, joined to the rows below if they are not distinct; None if these rows are data."""
        names, levels, index = [" ".join(cell.split()) for cell in self._first], self._below, None
        n_index = _count_index(levels[-1]) if len(levels) > 1 else 0
        if n_index:
            *levels, index = levels
        is_open = len(set(names)) < len(names)
        above = [
            i for i in range(n_index, len(names)) if _is_label(levels[0][i]) or (is_open and _is_year(levels[0][i]))
        ]
        above = [i for i in above if self._has_numbers_only(i)]
        heads = [names[i] for i in above if names[i]]
        if len(above) < 2 or not heads or any(self._is_number(head) and not _is_year(head) for head in heads):
            return None
        numbers = {i for i in range(n_index, len(names)) if self._share_of_numbers(i) >= _LEAST_NUMBERS}
        joined = _join(names, levels, index, numbers)
        is_joined = len({names[i] for i in above}) < len(above) or len(heads) < len(above)
        is_joined = is_joined and len(set(filter(None, joined))) == len(list(filter(None, joined)))
        for level in levels:
            is_years = all(_is_year(level[i]) for i in above) and (n_index > 0 or not level[0])
            if not (self._is_of_labels(level, numbers) or (is_years and is_joined)):
                return None
        return joined if is_joined else self._first

    def _is_of_labels(self, row: Sequence[str], numbers: set[int]) -> bool:
        """Return whether a row has texts in half of the columns of numbers or more, no number there, and no level."""
        n_labels = sum(_is_label(row[i]) and self._has_numbers_only(i) for i in numbers)
        if n_labels < 2 or 2 * n_labels < len(numbers) or any(self._is_number(row[i]) for i in numbers):
            return False
        others = (i for i, cell in enumerate(row) if cell and i not in numbers)
        return not any(row[i] == other[i].strip() for i in others for other in self._rest if i < len(other))

    def _is_number(self, cell: str) -> bool:
        return is_number(cell, self._decimal, self._thousands)

    def _has_numbers_only(self, i: int) -> bool:
        return self._share_of_numbers(i) == 1

    def _share_of_numbers(self, i: int) -> float:
        """Return the fraction of numbers among the values of a column of data; 0 if it has none."""
        if i not in self._shares:
            cells = (row[i] for row in self._rest if i < len(row))
            values = [cell for cell in cells if not is_missing(cell) and cell.strip() not in MISSING_MARKS]
            self._shares[i] = sum(map(self._is_number, values)) / len(values) if values else 0.0
        return self._shares[i]


def _count_index(row: Sequence[str]) -> int:
    """Return how many names of index columns a row begins with, beside which pandas leaves two cells or more empty."""
    n = next((i for i, cell in enumerate(row) if not cell), len(row))
    return n if n and all(map(_is_label, row[:n])) and not any(row[n:]) and len(row) - n > 1 else 0


def _is_year(cell: str) -> bool:
    return _YEAR.fullmatch(cell) is not None


def _is_label(cell: str) -> bool:
    """Return whether a cell has a text such as a question or a unit, no amount such as 5 kg."""
    if is_missing(cell) or cell.lower() in _NO_NUMBERS:
        return False
    return _LABEL.search(cell) is not None and _AMOUNT.fullmatch(cell) is None


def _join(
    names: Sequence[str], levels: Sequence[Sequence[str]], index: Sequence[str] | None, numbers: set[int]
) -> list[str]:
    """Return the names with the levels below; a name of several columns of numbers stands above the first of them."""
    joined, last = [], ""
    for i, name in enumerate(names):
        last = name if name or i not in numbers else last
        parts = [last, *(level[i] for level in levels)]
        if index is not None and index[i]:
            parts = [index[i]]
        joined.append(" / ".join(dict.fromkeys(filter(None, parts))))
    return joined
