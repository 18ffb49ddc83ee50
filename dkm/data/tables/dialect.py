"""Decide how a text table is written: encoding, delimiter, decimal mark, header; each with its evidence.

The decision reads the beginning of a file only. What the evidence does not settle is refused, with the settings that
settle it. Python's ``csv`` splits lines into cells, as pyarrow does later for the whole file.
"""

# Shapes: n sampled rows of m cells.

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dkm.data.tables.formats import check_format
from dkm.data.tables.notation import MISSING_MARKS, Known, Marks, find_marks, is_missing, is_number, to_number
from dkm.data.tables.second_header import SecondHeader, find_second_header
from dkm.errors import UserError, input_error

# Bytes of the file that decide.
HEAD_BYTES = 2**20
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# The delimiter of tables whose cells are separated by one or more spaces or tabs.
WHITESPACE = "\0"
_SPACES = re.compile(r"""[^\s"]+|"[^"]*\"""")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", " ": "space"}
# Rows that decide: at most so many, and so many cells, which a wide table reaches first.
_SAMPLE_ROWS, _SAMPLE_CELLS, _LEAST_ROWS = 2000, 20_000, 200
# More than any table of genes; a file without line ends has one line.
_MOST_COLUMNS = 100_000
# Cells that decide between delimiters which cut equally well.
_MAX_COMPARED_CELLS = 2000
# Rows of data above which a row may go with the names.
_LEAST_BELOW = 3
# Cells of a line above the names that delimiters fill up.
_MOST_TITLES = 3
# Lines of text below a table.
MOST_BELOW = 5
# Integers below so many decimal commas may count the rows by accident.
_LEAST_COUNTED = 10
_YEARS = range(1800, 2101)


@dataclass(frozen=True)
class Dialect:
    """How a text table is written."""

    encoding: str
    delimiter: str
    decimal: str
    thousands: str
    # Lines before the first row: comments, a line ``sep=;``, and the header.
    n_skipped: int
    has_header: bool
    names: tuple[str, ...]
    rows: list[list[str]] = field(repr=False)
    # How each was decided, for the data report.
    decisions: dict[str, str] = field(default_factory=dict)
    # The line with the names, by which further ones are found; empty if there is none.
    names_line: bytes = b""
    # Whether pyarrow cannot cut the lines: between spaces, or with spaces before quotation marks.
    is_rewritten: bool = False


@dataclass(frozen=True)
class Given:
    """What the user has settled; None is decided here."""

    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    header: bool | None = None


def find_dialect(
    head: bytes,
    source: str,
    given: Given,
    known: Known | None = None,
    *,
    path: Path = Path("FILE"),
    is_whole: bool,
) -> Dialect:
    """Return how the file that begins with ``head`` is written.

    Parameters
    ----------
    head : bytes
        The decompressed beginning of the file, up to ``HEAD_BYTES``.
    source : str
        For messages.
    given : Given
    known : Known, optional
        What other data settle where this file does not.
    path : Path
        The file, for messages.
    is_whole : bool
        Whether ``head`` is the whole file.

    Raises
    ------
    UserError
        If the file is no text, or the evidence does not settle the header or the decimal mark.
    """
    decisions: dict[str, str] = {}
    known = known or Known()
    encoding = find_encoding(head, source, given.encoding, decisions, is_whole=is_whole)
    text = codecs.getincrementaldecoder(encoding)().decode(head)  # leaves out a cut character at the end
    lines = _split_lines(text, is_whole=is_whole)
    n_preamble, delimiter = _skip_preamble(lines, decisions)
    lines = lines[n_preamble:]
    if not any(line.strip() for line in lines):
        raise input_error(source, "no rows", "one row or more", "check how the file was written")
    if re.match(r"\s*[\[{]\s*[\"{\[]", lines[0]) and given.delimiter is None:
        raise input_error(source, "JSON", "a table as text (CSV, TSV)", "convert it, for example with pandas' to_csv")
    if given.delimiter is None:
        check_format(lines, path, source)
    delimiter = given.delimiter or delimiter or find_delimiter(lines, decisions)
    is_rewritten = delimiter == WHITESPACE
    if is_rewritten:
        rows = [cells for line in lines[: _SAMPLE_ROWS + 1] if (cells := split_at_spaces(line))]
    else:
        rows = [row for row in _cells("".join(lines), delimiter) if any(cell.strip() for cell in row)]
        if (cut := _cut_at_spaced_quotes("".join(lines), delimiter, rows)) is not None:
            rows, is_rewritten = cut, True
            decisions["quotes"] = "spaces between the delimiter and a quotation mark left out"
    if not rows:
        raise input_error(source, "no cell with a value", "one row or more", "check how the file was written")
    rows = rows[: 1 + max(_LEAST_ROWS, _SAMPLE_CELLS // len(rows[0]))]
    header_lines = rows[0]
    if len(header_lines) > _MOST_COLUMNS:
        found, remedy = (
            f"{len(header_lines):,} cells in the first line",
            "check its line ends, or save it as .npy or .h5ad",
        )
        raise input_error(source, found, f"at most {_MOST_COLUMNS:,} columns", remedy)
    width = Counter(map(len, rows[1:] or rows)).most_common(1)[0][0]
    for _ in range(MOST_BELOW):
        if len(rows) > _LEAST_BELOW and is_below_table(rows[-1], width):
            rows.pop()
    ends_empty = all(len(row) == width and not row[-1].strip() for row in rows[1:])  # a delimiter too many
    if len(rows) > 1 and len(header_lines) == width - 1 and ends_empty:
        rows[0] = header_lines = [*header_lines, ""]
    n_narrow = next((i for i, row in enumerate(rows) if not _is_narrow(row, width)), 0)
    decimal, thousands = find_marks(
        rows[max(1, n_narrow) :] or rows,
        delimiter,
        Marks(given.decimal, given.thousands),
        known,
        source=source,
        decisions=decisions,
    )
    n_titles = _count_titles(rows, n_narrow, width, Marks(decimal, thousands))
    if n_titles:
        shown = " ".join(" ".join(rows[0]).split())[:60]
        more = f" and {n_titles - 1} more rows" if n_titles > 1 else ""
        decisions["title"] = f"{shown!r}{more} above the table skipped"
        rows = rows[n_titles:]
    has_words = len(rows[0]) > 1 and any(re.search(r"[^\W\d]", cell) for cell in rows[0])
    can_repeat = has_words and "\n\n".encode(encoding).endswith(b"\n\n")
    once = [row for row in rows if row is rows[0] or [cell.removeprefix("\ufeff") for cell in row] != rows[0]]
    if can_repeat and given.header is not False:
        has_names = given.header or known.names or _has_names(rows[0], once[1:], Marks(decimal, thousands))
        rows = once if has_names else rows
    header_lines = rows[0] = _without_end(rows[0], width)
    has_row_names = len(rows) > 1 and len(header_lines) == width - 1
    if has_row_names and "Unnamed: 0" not in known.names:
        n_quoted = sum(
            line.lstrip().startswith('"') for line in lines[: _count_lines(lines, delimiter, n_titles + len(rows))]
        )
        _check_row_names(header_lines, rows[1:], delimiter, is_quoted=n_quoted >= len(rows) - 1, source=source)
    first = ["", *header_lines] if has_row_names else header_lines
    second = SecondHeader(0, first)
    if given.header is not False:
        n_least = 1 if known.names else _LEAST_BELOW
        second = find_second_header(first, rows[1:], Marks(decimal, thousands), n_least, decisions)
    names = _names(second.names)
    if has_row_names:
        has_header = True
        decisions["header"] = "the first row, which has one name less than the other rows have cells: row names"
    elif given.header is None and (second.n_rows or (known.names and known.names <= set(names))):
        has_header = True
    else:
        has_header = _has_header(rows, decimal, thousands, given.header, source, decisions)
    n_header = has_header + second.n_rows
    line = lines[_count_lines(lines, delimiter, n_titles + 1) - 1].strip("\r\n") if has_header else ""
    return Dialect(
        encoding,
        delimiter,
        decimal,
        thousands,
        n_preamble + _count_lines(lines, delimiter, n_titles + n_header),
        has_header,
        names if has_header else tuple(map(str, range(width))),
        rows[n_header:],
        decisions,
        line.encode(encoding).removeprefix(codecs.BOM_UTF8) if can_repeat and line.count('"') % 2 == 0 else b"",
        is_rewritten,
    )


def split_at_spaces(line: str) -> list[str]:
    """Return the cells of a line that are separated by spaces or tabs; a text in quotes is one cell."""
    return [cell.strip('"') for cell in _SPACES.findall(line)]


# --- text -----------------------------------------------------------------------------------------------------


def find_encoding(head: bytes, source: str, given: str | None, decisions: dict[str, str], *, is_whole: bool) -> str:
    """Return the encoding of a file, and record how it was decided.

    Parameters
    ----------
    head : bytes
        The decompressed beginning of the file.
    source : str
        For messages.
    given : str, optional
        The encoding that the user has set.
    decisions : dict
        Gets an entry ``encoding`` where it is not plain UTF-8.
    is_whole : bool
        Whether ``head`` is the whole file.

    Raises
    ------
    UserError
        If the file is no text, or not in the given encoding.
    """
    mark = next((name for bom, name in _BOMS.items() if head.startswith(bom)), None)
    if given is not None:
        # utf-8 given by hand is fine for a file that begins with a mark.
        encoding = "utf-8-sig" if mark == "utf-8-sig" and codecs.lookup(given).name == "utf-8" else given
        try:
            codecs.getincrementaldecoder(encoding)().decode(head, final=is_whole)
        except (UnicodeError, LookupError) as error:
            raise input_error(
                f"data.encoding={given}", f"{source} is not in this encoding", "the encoding of the file",
                "set data.encoding=null to let the content decide",
            ) from error  # fmt: skip
        return encoding
    if mark is not None:
        if mark != "utf-8-sig":
            decisions["encoding"] = f"{mark.upper()}, by its byte-order mark"
        return mark
    if (wide := _find_utf16(head)) is not None:
        decisions["encoding"] = f"{wide.upper()}, since every other byte is zero"
        return wide
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=is_whole)
    except UnicodeDecodeError:
        if _is_binary(head):
            raise _not_text_error(source) from None
        try:
            codecs.getincrementaldecoder("cp1252")().decode(head, final=is_whole)
        except UnicodeDecodeError:
            encoding = "latin-1"
        else:
            encoding = "cp1252"
        decisions["encoding"] = f"{encoding}, since it is not UTF-8; data.encoding=NAME names another"
        return encoding
    if "\0" in text:
        raise _not_text_error(source)
    return "utf-8"


def _find_utf16(head: bytes) -> str | None:
    """Return the byte order of UTF-16 without a mark, which has a zero in nearly every other byte; None for others."""
    zeros, half = [head[start::2].count(0) for start in (0, 1)], len(head) // 2
    if max(zeros) <= 0.4 * half or min(zeros) >= 0.1 * half:
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _is_binary(head: bytes) -> bool:
    controls = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\r\f\x1a\x1b")
    return controls > 0.01 * len(head)


def _not_text_error(source: str) -> UserError:
    remedy = (
        "name a CSV file, or choose the data option that reads it, such as data=parquet, data=npz or data=image_folder"
    )
    return input_error(source, "not a text file", "a table as text (CSV, TSV)", remedy)


def _split_lines(text: str, *, is_whole: bool) -> list[str]:
    """Return the lines with their ends: ``\\n``, ``\\r\\n`` or ``\\r``; without a cut line at the end."""
    lines = list(io.StringIO(text, newline=""))
    return lines if is_whole or len(lines) < 2 else lines[:-1]


def _skip_preamble(lines: Sequence[str], decisions: dict[str, str]) -> tuple[int, str | None]:
    """Return the number of lines before the table, and the delimiter that a line ``sep=;`` names."""
    delimiter, number = None, 0
    if match := re.fullmatch(r"\"?sep=(.)\"?", lines[0].strip("\r\n") if lines else ""):
        delimiter, number = match[1], 1
        decisions["delimiter"] = f"{_quoted(delimiter)}, by the line sep={delimiter}"
    n_comments = sum(1 for _ in itertools.takewhile(lambda line: line.startswith("#"), lines[number:]))
    # A single line with as many cells as the others is a header whose first name begins with '#'.
    if n_comments == 1 and len(lines) > number + 1:
        first, second = lines[number], lines[number + 1]
        if any(first.count(mark) == second.count(mark) > 0 for mark in ",;\t|"):
            n_comments = 0
    if n_comments:
        decisions["comments"] = f"{n_comments:,} lines at the beginning that start with '#' are skipped"
    return number + n_comments, delimiter


def _cells(text: str, delimiter: str, n_rows: int = _SAMPLE_ROWS + 1, *, skips_spaces: bool = False) -> list[list[str]]:
    try:
        lines = io.StringIO(text, newline="")
        return list(itertools.islice(csv.reader(lines, delimiter=delimiter, skipinitialspace=skips_spaces), n_rows))
    except csv.Error:
        return [line.rstrip("\r\n").split(delimiter) for line in text.splitlines()[:n_rows]]


def _cut_at_spaced_quotes(text: str, delimiter: str, rows: Sequence[Sequence[str]]) -> list[list[str]] | None:
    """Return the rows with quotation marks after spaces read as such, if all are equally wide then; else None."""
    if delimiter == " " or f'{delimiter} "' not in text:
        return None
    cut = [row for row in _cells(text, delimiter, skips_spaces=True) if any(cell.strip() for cell in row)]
    is_even = len(set(map(len, cut[:-1]))) == 1  # the end of the last may not be there
    return cut if is_even and cut != [[cell.lstrip(" ") for cell in row] for row in rows] else None


def _count_lines(lines: Sequence[str], delimiter: str, n_rows: int) -> int:
    """Return how many lines the first rows with a cell take: a name in quotes may hold a line break."""
    if n_rows == 0:
        return 0
    if delimiter == WHITESPACE:
        return [i for i, line in enumerate(lines, 1) if split_at_spaces(line)][n_rows - 1]
    reader = csv.reader(iter(lines), delimiter=delimiter)
    for row in reader:
        n_rows -= any(cell.strip() for cell in row)
        if n_rows == 0:
            break
    return reader.line_num


class _Cut(NamedTuple):
    """How a delimiter cuts the first lines."""

    delimiter: str
    rows: list[list[str]]
    width: int  # cells of most rows
    share: float  # of the rows that have so many
    n_before: int  # rows before two that have so many

    @property
    def order(self) -> tuple[float, int]:
        """The better, the larger: the names decide between ';' and ',' where ',' is the decimal mark."""
        if self.n_before == 0 or self.has_row_names:
            return round(self.share, 2), 0
        return round(0.5 * self.share, 2), -self.n_before

    @property
    def has_row_names(self) -> bool:
        """Whether the first row may have the names of all columns but that of the rows."""
        return self.n_before == 1 and len(self.rows[0]) == self.width - 1 > 1

    @property
    def share_of_numbers(self) -> float:
        cells = list(itertools.islice(itertools.chain.from_iterable(self.rows[1:]), _MAX_COMPARED_CELLS))
        return sum(is_number(cell) or is_number(cell, ",") for cell in cells) / max(1, len(cells))


def find_delimiter(lines: Sequence[str], decisions: dict[str, str]) -> str:
    """Return the character that cuts most lines into the same number of cells, two or more."""
    if _is_one_column(lines):
        decisions["delimiter"] = "none, since each line below the first is one number"
        return ";"
    cuts = [cut for delimiter in ",;\t|" if (cut := _cut("".join(lines[:1000]), delimiter)) is not None]
    cuts = [cut for cut in cuts if cut.order == max(cut.order for cut in cuts)]
    best = cuts[0] if cuts else None
    if len(cuts) > 1:
        best = max(cuts, key=lambda cut: (cut.share_of_numbers, cut.width))
    rows = [split_at_spaces(line) for line in lines[:1000] if line.strip()]
    width, n = Counter(map(len, rows)).most_common(1)[0]
    # Spaces within texts cut lines into different numbers of cells.
    is_finer = best is None or best.order < (1.0, 0) or (best.delimiter == "\t" and best.width == 2 and width > 4)
    is_even = width > 2 and n == len(rows)
    has_row_names = (best is None or not best.has_row_names) and _begin_with_row_names(lines, rows, width)
    if is_finer and len(rows) > 2 and (is_even or has_row_names):
        decisions["delimiter"] = f"spaces, which cut each line into {width} cells"
        return WHITESPACE
    if best is None:
        return ","
    if best.delimiter != ",":
        name = _DELIMITERS[best.delimiter]
        decisions["delimiter"] = f"{name}, which cuts {best.share:.0%} of the lines into {best.width} cells"
    return best.delimiter


def _begin_with_row_names(lines: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Return whether all lines but the first have ``width`` cells between spaces, of which the first names the row.

    So writes R. The first line has the names of the other columns, or is a title of as many words: the first cells must
    be in quotes, different texts, or 1, 2, 3, ...
    """
    if len(rows[0]) != width - 1 or any(len(row) != width for row in rows[1:]):
        return False
    is_quoted = all(line.lstrip().startswith('"') for line in lines[:1000] if line.strip())
    is_counted = _are_row_names([row[0] for row in rows[1:]])
    return is_quoted or is_counted if width > 2 else is_quoted and is_counted


def _cut(text: str, delimiter: str) -> _Cut | None:
    """Return how a delimiter cuts a text; None if it leaves most lines whole."""
    rows = [row for row in _cells(text, delimiter, skips_spaces=True) if any(cell.strip() for cell in row)]
    widths = [len(row) for row in rows]
    width, n = Counter(widths).most_common(1)[0] if rows else (0, 0)
    if width < 2:
        return None
    pairs = itertools.zip_longest(widths, widths[1:], fillvalue=width)
    n_before = next((i for i, pair in enumerate(pairs) if pair == (width, width)), len(rows))
    return _Cut(delimiter, rows, width, n / len(rows), n_before)


def _is_one_column(lines: Sequence[str]) -> bool:
    """Return whether a name stands above numbers in one column, whose decimal mark or thousands mark is a comma."""
    first, *rest = [line.strip() for line in lines[:1000] if line.strip()] or [""]
    if any(mark in first for mark in _DELIMITERS if mark != " ") or not any("," in line for line in rest):
        return False
    cells = [line for line in rest if not is_missing(line)]
    is_one = any(
        all(is_number(cell, decimal, thousands) for cell in cells)
        for decimal, thousands in ((",", "."), (",", " "), (",", "'"), (".", ","))
    )
    return is_one and not (len(rest) >= _LEAST_COUNTED and _are_row_names([line.split(",")[0] for line in rest]))


# --- title ----------------------------------------------------------------------------------------------------


def _is_narrow(row: Sequence[str], width: int) -> bool:
    """Return whether a row has fewer cells than others: a title, also with delimiters after it, or names of columns."""
    n = next((n for n in range(len(row), 0, -1) if row[n - 1].strip()), 0)  # cells up to the last that is not empty
    is_filled_up = 0 < n <= _MOST_TITLES and 2 * n <= width and all(cell.strip() for cell in row[:n])
    return len(row) < width or is_filled_up or (n == 1 and width > 2)


def is_below_table(cells: Sequence[str], width: int) -> bool:
    """Return whether a row has less cells than others and begins with a text: a source or a note below the table."""
    is_text = re.search(r"[^\W\d]", cells[0]) is not None and not is_missing(cells[0])
    return is_text and len(cells) < width and (len(cells) == 1 or 2 * len(cells) <= width)


def _count_titles(rows: Sequence[Sequence[str]], n_narrow: int, width: int, marks: Marks) -> int:
    """Return how many of the first ``n_narrow`` rows, which are narrower than the others, are no part of the table.

    They are titles if the next row has names, or if they have one cell with a text. The last of them may have the names
    of all columns but that of the rows.
    """
    titles = rows[:n_narrow]
    if not titles or _has_names(rows[n_narrow], rows[n_narrow + 1 :], marks):
        return n_narrow
    if len(titles[-1]) == width - 1 and (width > 2 or _are_row_names([row[0] for row in rows[n_narrow:] if row])):
        titles = titles[:-1]
    is_text = all(len(row) == 1 and re.search(r"[^\W\d]", row[0]) is not None for row in titles)
    return len(titles) if is_text else 0


def _without_end(cells: list[str], width: int) -> list[str]:
    """Return the cells without empty ones after the first ``width``: delimiters too many at the end of the names."""
    return cells if any(cell.strip() for cell in cells[width:]) else cells[:width]


def _has_names(first: Sequence[str], rest: Sequence[Sequence[str]], marks: Marks) -> bool:
    """Return whether a row has a text above numbers, and no number above numbers but years that are names."""
    decimal, thousands = marks.decimal or ".", marks.thousands or ""
    numbers = [i for i, cell in enumerate(first) if is_number(cell, decimal, thousands)]
    has_years = _are_years(numbers, first, rest) is True
    n_texts = 0
    for i, cell in enumerate(first):
        values = [row[i] for row in rest if i < len(row) and not is_missing(row[i])]
        n_numbers = sum(is_number(value, decimal, thousands) for value in values)
        if values and n_numbers >= 0.8 * len(values):
            if is_number(cell, decimal, thousands):
                if not has_years:
                    return False
                continue
            n_texts += not is_missing(cell) and cell.strip() not in MISSING_MARKS
    return n_texts > 0 or has_years


def _are_row_names(cells: Sequence[str]) -> bool:
    """Return whether the first cells of the rows name them: different texts, or 1, 2, 3, ..."""
    if all(cell.strip().isdecimal() and len(cell) < 19 for cell in cells):
        numbers = [int(cell) for cell in cells]
        return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return len(set(cells)) == len(cells) and not any(is_number(cell) or is_number(cell, ",") for cell in cells)


def _check_row_names(
    names: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str, *, is_quoted: bool, source: str
) -> None:
    """Refuse rows with one cell more than there are names unless the first cells name them.

    Else a cell with the delimiter in it may lack its quotes: a last cell that begins with a space, as no other does, or
    a fraction after a decimal comma.
    """
    before, last = [[row[i] for row in rows if len(row) > 2] for i in (-2, -1)]
    has_space = last != [] and all(cell[:1] == " " for cell in last) and not any(cell[:1] == " " for cell in before)
    is_fraction = delimiter == "," and set(map(len, last)) in ({1}, {2}, {3}) and all(map(str.isdecimal, before + last))
    is_fraction = is_fraction and any(cell[0] == "0" for cell in last)  # else ratings, say
    if is_quoted or (_are_row_names([row[0] for row in rows if row]) and not has_space and not is_fraction):
        return
    mark = _DELIMITERS.get(delimiter, "space")
    found = f"{len(names):,} names ({', '.join(names)[:60]}) above rows of {len(names) + 1:,} cells"
    remedy = f"begin the names with 'row' and a {mark} if first cells name rows, else put cells with a {mark} in quotes"
    raise input_error(source, found, "as many names as cells", remedy)


# --- header ---------------------------------------------------------------------------------------------------


def _has_header(
    rows: Sequence[Sequence[str]],
    decimal: str,
    thousands: str,
    given: bool | None,
    source: str,
    decisions: dict[str, str],
) -> bool:
    """Return whether the first row has the names; ``decisions`` gets the reason where it is not obvious."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    if given is not None:
        if not given:
            decisions["header"] = "none (data.header=false); columns are called 0, 1, 2, ..."
        return given
    if not rest:
        is_named = not any(is_number(cell, decimal, thousands) or is_missing(cell) for cell in first)
        if is_named:
            return True
        decisions["header"] = "none, since the only row has numbers"
        return False
    columns = [[row[i].strip() for row in rest if i < len(row)] for i in range(len(first))]

    def numeric(cell: str) -> bool:
        return is_number(cell, decimal, thousands)

    for_header: list[str] = []
    above_numbers: list[str] = []
    for_data: list[str] = []
    repeated: list[str] = []  # levels of categories
    numbers: list[int] = []  # columns whose first cell is a number
    gaps: list[str] = []  # cells such as NA above numbers, which beside names are names
    for i, (cell, column) in enumerate(zip(first, columns, strict=True)):
        values = [value for value in column if not is_missing(value) and value not in MISSING_MARKS]
        if not values:
            continue
        n_numeric = sum(map(numeric, values))
        is_numeric = n_numeric >= 0.8 * len(values)
        if not cell or cell in MISSING_MARKS:
            if i > 0 and is_numeric:
                for_data.append(f"its cell {i} is empty")
        elif is_missing(cell):
            if cell in column:
                for_data.append(f"{cell!r} occurs again below")
            elif i > 0 and is_numeric:
                gaps.append(f"its cell {i} is {cell}")
        elif numeric(cell):
            numbers.append(i)
        elif is_numeric:
            for_header.append(cell)
            above_numbers += [cell] if cell not in values else []
        elif cell in values:
            repeated.append(f"{cell!r} occurs again below")
        elif len(set(values)) <= max(1, len(values) // 3):  # the levels repeat, and it is none of them
            for_header.append(cell)
    if not for_header:
        for_data += gaps
    if above_numbers and 0 < len(repeated) <= len(for_header) and not (numbers or for_data):
        name = above_numbers[0]
        decisions["header"] = f"the first row: {name!r} stands above numbers, although {repeated[0]}"
        return True
    for_data = repeated + for_data
    dated = [i for i, cell in enumerate(first) if numeric(cell)]  # also above a column without values
    years = _are_years(dated, first, rest)
    shown = ", ".join(first[i] for i in dated[:3]) + (", ..." if len(dated) > 3 else "")
    of_years = f"the first row, whose numbers ({shown}) are years, as most values below are not"
    if numbers and not for_header and not for_data:
        if years and len(dated) > 2:
            decisions["header"] = of_years
            return True
        if years is not False:
            raise _ambiguous_header_error(source, first, "its cells may be years")
        if _are_names(numbers, first, columns, decimal, thousands, source):
            decisions["header"] = f"the first row, whose numbers ({', '.join(first[:3])}, ...) no column has below"
            return True
        decisions["header"] = "none, since the first row has numbers as the others do; columns are called 0, 1, 2, ..."
        return False
    if for_header and for_data:
        raise _ambiguous_header_error(source, first, f"{for_header[0]!r} looks like a name, but {for_data[0]}")
    if for_data:
        if years and len(dated) > 2:
            raise _ambiguous_header_error(source, first, f"{first[dated[0]]!r} looks like a year, but {for_data[0]}")
        decisions["header"] = f"none, since {for_data[0]}; columns are called 0, 1, 2, ..."
        return False
    if for_header:
        if years:
            decisions["header"] = of_years
        elif numbers and not _are_outside(numbers, first, columns, decimal, thousands):
            named, value = for_header[0], first[numbers[0]]
            raise _ambiguous_header_error(source, first, f"{named!r} looks like a name, {value!r} like a value")
        return True
    if len(set(first)) == len(first) and all(re.search(r"[^\W\d]", cell) for cell in first if cell):
        decisions["header"] = "the first row, whose cells differ from all others; data.header=false makes it a row"
        return True
    raise _ambiguous_header_error(source, first, "nothing tells it from the other rows")


def _are_years(numbers: Sequence[int], first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool | None:
    """Return whether the numbers of the first row are years in rising order, unlike the values below; None if unclear.

    Parameters
    ----------
    numbers : sequence of int
        The columns whose first cell is a number.
    first : sequence of str
    rest : sequence of sequences of str
        The other rows.
    """
    if len(numbers) < 2 or not _are_rising_years([first[i] for i in numbers]):
        return False
    rows = [[cell for i in numbers if i < len(row) and not is_missing(cell := row[i].strip())] for row in rest]
    values = [cell for row in rows for cell in row]
    if sum(map(_is_year, values)) < 0.5 * len(values):
        return True
    n_alike = sum(_are_rising_years(row) for row in rows if row)
    return None if len(numbers) > 2 and n_alike < 0.5 * sum(map(bool, rows)) else False


def _is_year(cell: str) -> bool:
    return re.fullmatch(r"\d{4}", cell) is not None and int(cell) in _YEARS


def _are_rising_years(cells: Sequence[str]) -> bool:
    return all(map(_is_year, cells)) and all(left < right for left, right in itertools.pairwise(cells))


def _are_outside(
    numbers: Sequence[int], first: Sequence[str], columns: Sequence[Sequence[str]], decimal: str, thousands: str
) -> bool:
    """Return whether the numbers of the first row are outside of the values below, in nearly all columns."""
    n_outside = 0
    for i in numbers:
        value = to_number(first[i], decimal, thousands)
        numbers_below = (to_number(cell, decimal, thousands) for cell in columns[i])
        below = [number for number in numbers_below if number is not None]
        n_outside += value is not None and (not below or not min(below) <= value <= max(below))
    return n_outside >= 0.9 * len(numbers)


def _are_names(
    numbers: Sequence[int],
    first: Sequence[str],
    columns: Sequence[Sequence[str]],
    decimal: str,
    thousands: str,
    source: str,
) -> bool:
    """Return whether the numbers of the first row are names: years, wavelengths, or 0, 1, 2, ... as pandas writes.

    Raises
    ------
    UserError
        If they may be either.
    """
    values = [value for i in numbers if (value := to_number(first[i], decimal, thousands)) is not None]
    is_whole = all(value == int(value) for value in values) and not any("." in first[i] for i in numbers)
    steps = {round(right - left, 9) for left, right in itertools.pairwise(values)}
    is_progression = len(values) > 1 and len(steps) == 1 and 0 not in steps
    is_counted = is_whole and values[0] in (0, 1) and (len(values) == 1 or steps == {1})
    below_whole = all("." not in cell for i in numbers for cell in columns[i])
    if is_counted:
        if len(values) >= 4 or (len(values) == 3 and not below_whole):
            return True
        raise _ambiguous_header_error(source, first, "0, 1, 2, ... may be names that a program wrote, or values")
    are_outside = _are_outside(numbers, first, columns, decimal, thousands)
    if is_progression and are_outside:
        if len(values) >= 3:
            return True
        if is_whole and all(value in _YEARS for value in values):
            raise _ambiguous_header_error(source, first, "its cells may be years")
    return False


def _ambiguous_header_error(source: str, first: Sequence[str], why: str) -> UserError:
    shown = ", ".join(first[:4]) + (", ..." if len(first) > 4 else "")
    found = f"the first row ({shown[:80]}) may be names or values: {why}"
    return input_error(source, found, "one reading", "set data.header=true or data.header=false")


def _names(cells: Sequence[str]) -> tuple[str, ...]:
    """Return the names without the spaces around them; a column without a name is called by its number."""
    names = [" ".join(cell.split()) for cell in cells]
    used = set(names)
    return tuple(name or _unused(f"Unnamed: {i}", used) for i, name in enumerate(names))


def _unused(name: str, used: Container[str]) -> str:
    """Return a name that no other column has, numbered as pandas does: ``name``, ``name.1``, ``name.2``, ..."""
    return next(new for i in itertools.count() if (new := f"{name}.{i}" if i else name) not in used)


def _quoted(character: str) -> str:
    return "tab" if character == "\t" else f"'{character}'"
