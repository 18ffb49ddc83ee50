"""The rows of tables in files, as pyarrow batches: CSV and its kin, Parquet, Feather; one file, a glob or a folder.

A source knows the names of its columns and yields their rows again as often as asked. Nothing in a file is executed.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import glob
import gzip
import io
import lzma
import re
import shlex
import threading
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from pyarrow import ipc
from pyarrow import parquet as pq

from dkm.config.values import override
from dkm.data.files import expand, natural_key, read_first_bytes
from dkm.data.tables.columns import as_levels, is_real, named_column
from dkm.data.tables.dialect import (
    HEAD_BYTES,
    MOST_BELOW,
    WHITESPACE,
    Dialect,
    Given,
    find_dialect,
    is_below_table,
    split_at_spaces,
)
from dkm.data.tables.lines import TableFile, find_joined_rows
from dkm.data.tables.notation import USUAL_MARKS, Known, Marks, is_missing, is_number
from dkm.data.tables.nulls import null_where
from dkm.data.tables.rows import StoredColumns
from dkm.data.unpacking import UnpackingLimit, feather_bytes, parquet_bytes, parquet_rows, plain_bytes
from dkm.errors import UserError, input_error

_BLOCK_BYTES = 2**20
_BATCH_ROWS = 2**16
# Rows of one column that are read at once.
_COLUMN_ROWS = 2**20
# Groups of fewer rows, on average, are read all columns at once: each column of each group takes a call.
_LEAST_GROUP_ROWS = 2**14
# Columns that the data report names one by one.
_MAX_TOLD = 3
# More than reading a block takes.
_LONGEST_WAIT_S = 10.0
# Blocks in which the types of all columns are looked for; their cost is a call for each column.
_SCAN_BYTES = 2**24
_INT = re.compile(r"[+-]?(0|[1-9]\d*)")
_LARGEST_INT = 2**63 - 1
_INT_DIGITS = 18  # that every 64-bit integer of as many digits has
_LEADING_ZERO = re.compile(r"[+-]?0\d+")
_CODE = re.compile(r"[1-9]\d{2,}")
_NULLS = sorted(USUAL_MARKS)
# Why a row is left out.
_EMPTY = "nothing but delimiters and spaces"
_BELOW = "a text below the table"
_REPEATED = "the names once more"
# Columns of a table whose columns are all looked at for lost rows, also those that are not used.
_MOST_WATCHED = 500
_SUFFIXES = {
    "csv": (".csv", ".tsv", ".txt", ".data", ".tab", ".gz", ".bz2", ".xz", ".zip", ".zst"),
    "parquet": (".parquet", ".pq", ".parq"),
    "feather": (".feather", ".arrow", ".ipc"),
}


class Source(Protocol):
    """Rows of a table."""

    names: tuple[str, ...]
    decisions: dict[str, str]
    has_header: bool
    # Whether the types of its columns were inferred from text.
    is_text: bool
    decimal: str
    thousands: str
    # Columns of numbers that the file declares to be categories.
    categories: frozenset[str]

    @property
    def left_out(self) -> Mapping[str, int]:
        """The number of rows that the last pass has left out for each reason."""
        ...

    def batches(self, columns: Sequence[str], texts: Sequence[str], n_rows: int | None) -> Iterator[pa.Table]:
        """Yield the rows of some columns, in order; ``texts`` are read as text, exactly as they stand.

        ``n_rows`` is the largest number of rows of a table.
        """
        ...

    def stored(self, columns: Sequence[str], texts: Sequence[str]) -> StoredColumns | None:
        """Return the same rows to be read column by column; None if the files do not allow that, or only slowly."""
        ...


def open_source(path: str, kind: str, source: str, key: str, given: Given, known: Known, max_expansion: int) -> Source:
    """Return the source of a file, a glob or a folder.

    Parameters
    ----------
    path : str
    kind : {"csv", "parquet", "feather"}
    source, key : str
        The setting with its value, and its name, for messages.
    given : Given
        What the user has settled about a text file.
    known : Known
        What the data that a model was trained on settle.
    max_expansion : int
        How many times its size a file may unpack to.
    """
    limit = UnpackingLimit(source, max_expansion)
    files = find_files(path, kind, source, key)
    if kind == "csv":
        return TextSource(files, source, given, known, limit)
    return ArrowSource(files, kind, source, limit)


def find_files(path: str, kind: str, source: str, key: str) -> list[tuple[Path, dict[str, str]]]:
    """Return the files of a path in natural order (part2 before part10), each with the values of its partition.

    A folder may have Hive partitions, ``year=2024/part.csv``: each becomes a column.
    """
    place = expand(path, key)
    if place.is_file() or not (place.is_dir() or has_wildcard(path)):
        read_first_bytes(place, source, key)
        return [(place, {})]
    if place.is_dir():
        root = place
        files = [
            file
            for file in place.rglob("*")
            if file.is_file()
            and file.name.lower().endswith(_SUFFIXES[kind])
            and not any(part.startswith((".", "_")) for part in file.relative_to(place).parts)
        ]
        found = f"a folder without {', '.join(_SUFFIXES[kind][:2])} files"
    else:
        root = Path()
        files = [Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file()]  # noqa: PTH207
        found = "no file matches"
    if not files:
        raise input_error(source, found, "one file or more", f"correct {key}")
    files.sort(key=lambda file: natural_key(str(file)))
    for file in files:
        read_first_bytes(file, f"{source}: {file.name}", key)
    return [(file, _partition(file, root)) for file in files]


def has_wildcard(path: str) -> bool:
    """Return whether a path may be a glob, unless there is a file of this name."""
    return any(mark in path for mark in "*?[")


def _partition(file: Path, root: Path) -> dict[str, str]:
    folders = file.relative_to(root).parts[:-1] if root != Path() else file.parts[:-1]
    return dict(part.split("=", 1) for part in folders if "=" in part)


def check_duplicates(names: Sequence[str], source: str) -> None:
    """Refuse a table in which two columns have the same name."""
    twice = next((name for name, n in Counter(names).items() if n > 1), None)
    if twice is not None:
        found = f"two columns are called {twice}"
        raise input_error(source, found, "different names", "rename one of them in the file")


# --- text -----------------------------------------------------------------------------------------------------


class TextSource:
    """CSV, TSV and other text tables, also compressed; how they are written is decided by their content."""

    is_text, categories = True, frozenset[str]()

    def __init__(
        self,
        files: Sequence[tuple[Path, Mapping[str, str]]],
        source: str,
        given: Given,
        known: Known,
        limit: UnpackingLimit,
    ) -> None:
        self._source, self._files, self._limit = source, files, limit
        if known.has_header is False and given.header is None:
            given = Given(given.encoding, given.delimiter, given.decimal, given.thousands, header=False)
        first = self._read_dialect(files[0][0], given, known)
        if known == Known():
            names = frozenset(first.names if first.has_header else ())
            known = Known(_proven_marks(first), names=names, origin=files[0][0].name)
        self._dialects = [first, *(self._read_dialect(path, given, known) for path, _ in files[1:])]
        check_duplicates(first.names, source)
        for (path, _), dialect in zip(files, self._dialects, strict=True):
            if set(first.names) - set(dialect.names) or len(dialect.names) != len(first.names):
                found = f"has the columns {', '.join(dialect.names[:5])}"
                expected = f"those of {files[0][0].name}: {', '.join(first.names[:5])}"
                raise input_error(f"{source}: {path.name}", found, expected, "correct the file, or leave it out")
        self._partitions = tuple(files[0][1])
        self.names = (*first.names, *self._partitions)
        self.has_header, self.decimal, self.thousands = first.has_header, first.decimal, first.thousands
        self.decisions = {**_told_files(files), **first.decisions}
        self._types: dict[str, pa.DataType] = {}
        # The smallest number of as many digits as all first cells of a column have: below it may be 0123.
        self._least: dict[str, int] = {}
        for place, name in enumerate(first.names):
            cells = [row[place].strip() for row in first.rows if place < len(row)]
            values = [cell for cell in cells if not is_missing(cell) and cell not in USUAL_MARKS]
            self._types[name] = self._type_of(values)
            if len(set(map(len, values))) == 1 and all(map(_CODE.fullmatch, values)):
                self._least[name] = int(10 ** (len(values[0]) - 1))
        self._left_out: dict[Path, Counter[str]] = {}

    @property
    def left_out(self) -> Mapping[str, int]:
        return sum(self._left_out.values(), Counter())

    def batches(self, columns: Sequence[str], texts: Sequence[str], n_rows: int | None) -> Iterator[pa.Table]:
        types = {name: pa.string() if name in texts else self._types.get(name, pa.string()) for name in columns}
        for i, (_, partition) in enumerate(self._files):
            for table in self._file_batches(i, types, n_rows):
                yield _with_partition(table, partition, columns)

    def stored(self, columns: Sequence[str], texts: Sequence[str]) -> None:
        return None

    def _file_batches(self, i: int, types: dict[str, pa.DataType], n_rows: int | None) -> Iterator[pa.Table]:
        """Yield the rows of file ``i``; where a cell does not fit the type of its column, go on with wider types."""
        (path, _), dialect = self._files[i], self._dialects[i]
        n_done = 0
        while True:
            try:
                for table in _rechunk(self._read(path, dialect, types), n_rows, skip=n_done):
                    if self._has_shorter_codes(table):
                        raise _ShorterCodesError
                    n_done += len(table)
                    yield table
                return
            except _ShorterCodesError:
                self._widen(i, n_done, types)
                self._least = {name: least for name, least in self._least.items() if name not in types}
            except pa.ArrowInvalid as error:
                name = _failed_column(str(error), dialect)
                if name is None or types.get(name) == pa.string():
                    raise
                is_fraction = types[name] == pa.int64() and _is_fraction(str(error), dialect.decimal)
                types[name] = self._types[name] = pa.float64() if is_fraction else pa.string()
                self._widen(i, n_done, types)

    def _has_shorter_codes(self, table: pa.Table) -> bool:
        """Return whether a column of whole numbers of equal length has a shorter one, which may be written as 0123."""
        return any(
            column.type == pa.int64() and pc.any(pc.less(column, self._least[name])).as_py()
            for name, column in zip(table.column_names, table.columns, strict=True)
            if name in self._least
        )

    def _widen(self, i: int, n_done: int, types: dict[str, pa.DataType]) -> None:
        """Widen the types of all columns to what their cells need from row ``n_done`` of file ``i`` to the last file.

        The error names one column only. If each of many columns was found by an error of its own, the file would be
        read as often from its start.
        """
        for (path, _), dialect in zip(self._files[i:], self._dialects[i:], strict=True):
            skip, n_done = n_done, 0
            open_types = {name: type_ for name, type_ in types.items() if type_ != pa.string()}
            if not open_types:
                return
            texts = dict.fromkeys(open_types, pa.string())
            for table in _rechunk(self._read(path, dialect, texts, _SCAN_BYTES), None, skip):
                for name, type_ in open_types.items():
                    if type_ != pa.string():
                        open_types[name] = _type_of_cells(
                            table.column(name), type_, dialect.decimal, is_code=name in self._least
                        )
            for name, type_ in open_types.items():
                types[name] = self._types[name] = type_

    def _read(
        self, path: Path, dialect: Dialect, types: Mapping[str, pa.DataType], block_bytes: int = _BLOCK_BYTES
    ) -> Iterator[pa.RecordBatch]:
        names = [f"c{i}" for i in range(len(dialect.names))]  # a name may have any characters
        chosen = [i for i, name in enumerate(dialect.names) if name in types]
        # Further columns tell whether rows are lost; in wide tables each column costs a call.
        watched = [i for i in range(len(names)) if dialect.names[i] not in types and len(names) <= _MOST_WATCHED]
        bad: list[pa_csv.InvalidRow] = []
        below: list[pa_csv.InvalidRow] = []
        encoding = dialect.encoding.replace("utf-8-sig", "utf-8")
        delimiter = "," if dialect.is_rewritten else dialect.delimiter
        left_out = self._left_out[path] = Counter()
        numbers = {i: dialect.decimal for i, name in enumerate(dialect.names) if self._types[name] != pa.string()}

        def handle(row: pa_csv.InvalidRow) -> str:
            text = (row.text or "").strip(f" \t{delimiter}")
            if not text:
                left_out[_EMPTY] += 1
                return "skip"
            if len(below) < MOST_BELOW and is_below_table(text.split(delimiter), row.expected_columns):
                below.append(row)
                return "skip"
            bad.append(row)
            return "error"

        try:
            with open_unpacked(path, self._source, self._limit) as opened:
                file = TableFile(opened, dialect.names_line)
                for batch in _csv_batches(
                    _as_csv(file, dialect) if dialect.is_rewritten else file,
                    pa_csv.ReadOptions(
                        column_names=names,
                        skip_rows=dialect.n_skipped,
                        encoding="utf-8" if dialect.is_rewritten else encoding,
                        block_size=block_bytes,
                    ),
                    pa_csv.ConvertOptions(
                        include_columns=[names[i] for i in (*chosen, *watched)],
                        column_types={names[i]: types.get(dialect.names[i], pa.binary()) for i in (*chosen, *watched)},
                        null_values=_NULLS,
                        strings_can_be_null=False,
                        decimal_point=dialect.decimal,
                    ),
                    delimiter,
                    handle,
                ):
                    if file.has_quotes:
                        lines = find_joined_rows(batch, [*chosen, *watched], len(names), numbers, delimiter)
                        if lines:
                            raise self._joined_rows_error(path, dialect, lines)
                    yield batch.select(range(len(chosen))).rename_columns([dialect.names[i] for i in chosen])
                end = [line.strip() for line in file.tail.decode(dialect.encoding, "replace").splitlines()]
                end = [line for line in end if line.strip(f" \t{delimiter}")]
                if below and sorted((row.text or "").strip() for row in below) != sorted(end[-len(below) :]):
                    raise self._width_error(path, below[0], dialect)
                left_out.update({_BELOW: len(below), _REPEATED: file.n_repeated})
        except pa.ArrowInvalid as error:
            if bad:
                raise self._width_error(path, bad[0], dialect) from error
            raise

    def _named(self, path: Path) -> str:
        return f"{self._source}: {path.name}" if len(self._files) > 1 else self._source

    def _width_error(self, path: Path, row: pa_csv.InvalidRow, dialect: Dialect) -> UserError:
        found = f"a row of {row.actual_columns} cells: {' '.join((row.text or '').split())[:60]!r}"
        remedy = "correct the row (cells with the delimiter in them need quotes), or set data.delimiter"
        if "\n" in (row.text or "").strip():
            remedy = "remove the quotation mark in this row, which joins it to the rows below"
        elif row.actual_columns < row.expected_columns and dialect.delimiter != WHITESPACE:
            old, new = str(path), str(path.with_name(path.name.split(".")[0] + "-filled.csv"))
            options = f"sep={dialect.delimiter!r}, encoding={dialect.encoding!r}, dtype=str, keep_default_na=False"
            program = f"import pandas; pandas.read_csv({old!r}, {options}).to_csv({new!r}, index=False)"
            quoted = shlex.quote(program) if re.search(r'["$`]', program) else f'"{program}"'
            remedy = f"correct the row or, if its last cells are empty, fill it: python -c {quoted}"
        return input_error(self._named(path), found, f"{row.expected_columns} cells, as in the other rows", remedy)

    def _joined_rows_error(self, path: Path, dialect: Dialect, lines: Sequence[str]) -> UserError:
        begin = '"' + lines[0].strip("\r").replace('"', '""')
        with open_unpacked(path, self._source, self._limit) as opened:
            rows = enumerate(codecs.getreader(dialect.encoding)(opened), 1)
            number = next((i for i, line in rows if line.rstrip("\r\n").endswith(begin)), 0)
        found = f"the quotation mark of {begin[:30]!r} in line {number:,} ends in line {number + len(lines) - 1:,} only"
        remedy = "remove the quotation marks in these two lines"
        return input_error(self._named(path), found, "quotation marks around single cells", remedy)

    def _read_dialect(self, path: Path, given: Given, known: Known) -> Dialect:
        with open_unpacked(path, self._source, self._limit) as file:
            head = file.read(HEAD_BYTES)
        return find_dialect(head, self._named(path), given, known, path=path, is_whole=len(head) < HEAD_BYTES)

    def _type_of(self, values: Sequence[str]) -> pa.DataType:
        """Return the type of a column by its first values: int64, float64, or string."""
        if not values or any(_LEADING_ZERO.fullmatch(value) for value in values):
            return pa.string()
        if all(_INT.fullmatch(value) for value in values):  # as text, larger numbers keep their digits
            return pa.int64() if all(_fits_int64(value) for value in values) else pa.string()
        return pa.float64() if all(is_number(value, self.decimal) for value in values) else pa.string()


def _proven_marks(dialect: Dialect) -> Marks:
    """Return the marks of a file; none if its first rows have no number with a decimal mark."""
    cells = (cell for row in dialect.rows for cell in row if dialect.decimal in cell)
    is_proven = any(is_number(cell, dialect.decimal, dialect.thousands) for cell in cells)
    return Marks(dialect.decimal, dialect.thousands) if is_proven else Marks()


class _ShorterCodesError(Exception):
    """A column of whole numbers of equal length has a shorter one."""


class _Tracker:
    """Waits until objects that were handed to pyarrow's threads are released."""

    def __init__(self) -> None:
        self._n_held = 0
        self._changed = threading.Condition(threading.RLock())

    def track(self, held: Any) -> Any:
        """Return ``held``, which must allow weak references."""
        with self._changed:
            self._n_held += 1
        weakref.finalize(held, self._release).atexit = False
        return held

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._n_held == 0, _LONGEST_WAIT_S)

    def _release(self) -> None:
        with self._changed:
            self._n_held -= 1
            self._changed.notify_all()


class _TrackedFile:
    """A file for pyarrow to read; its blocks are tracked."""

    def __init__(self, file: IO[bytes] | TableFile, tracker: _Tracker) -> None:
        self._file = file
        self._tracker = tracker

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read(self, n_bytes: int = -1) -> memoryview:
        return cast(memoryview, self._tracker.track(memoryview(self._file.read(n_bytes))))

    def close(self) -> None:
        """Leave the file open; who has opened it closes it."""


def _csv_batches(
    file: IO[bytes] | TableFile,
    read: pa_csv.ReadOptions,
    convert: pa_csv.ConvertOptions,
    delimiter: str,
    handle: Callable[[pa_csv.InvalidRow], str],
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a CSV file, and end only when the thread of pyarrow that reads ahead has ended too.

    That thread holds references to Python objects. If it drops one while the interpreter shuts down, after an error,
    the process aborts instead of exiting with its code.
    """
    tracker = _Tracker()

    def handle_row(row: pa_csv.InvalidRow) -> str:
        return handle(row)

    source = pa.PythonFile(tracker.track(_TrackedFile(file, tracker)), mode="r")
    parse = pa_csv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=tracker.track(handle_row)
    )
    del handle_row
    reader = None
    try:
        reader = pa_csv.open_csv(source, read_options=read, parse_options=parse, convert_options=convert)
        yield from reader
    finally:
        if reader is not None:
            reader.close()
        del reader, parse, source
        tracker.wait()


def _as_csv(file: TableFile, dialect: Dialect) -> IO[bytes]:
    """Return a table that pyarrow cannot cut as CSV, in memory: such files are small."""
    text, content = io.StringIO(newline=""), file.read().decode(dialect.encoding)
    lines = io.StringIO(content, newline="")
    rows: Iterable[list[str]] = csv.reader(lines, delimiter=dialect.delimiter, skipinitialspace=True)
    if dialect.delimiter == WHITESPACE:
        rows = (split_at_spaces(line) for line in content.splitlines())
    try:
        csv.writer(text).writerows(rows)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return io.BytesIO(text.getvalue().encode())


def _failed_column(message: str, dialect: Dialect) -> str | None:
    match = re.search(r"CSV column #?'?(?:c)?(\d+)", message)
    return None if match is None or "conversion error" not in message else dialect.names[int(match[1])]


def _is_fraction(message: str, decimal: str) -> bool:
    """Return whether the cell that an error about a whole number names is a number, and none too large for 64 bits."""
    match = re.search(r"invalid value '(.*)'", message)
    return match is not None and is_number(match[1], decimal) and _INT.fullmatch(match[1].strip()) is None


def _fits_int64(text: str) -> bool:
    return -_LARGEST_INT - 1 <= int(text) <= _LARGEST_INT


def _type_of_cells(cells: pa.ChunkedArray, type_: pa.DataType, decimal: str, *, is_code: bool) -> pa.DataType:
    """Return the narrowest type from ``type_`` on (int64, float64, string) that pyarrow reads all these cells as.

    A code is text if a cell begins with a zero, as in 0123.
    """
    text = pc.ascii_trim(null_where(pc.is_in(cells, value_set=pa.array(_NULLS)), cells), " \t")
    if type_ == pa.int64():
        if is_code and pc.any(pc.match_substring_regex(text, rf"^{_LEADING_ZERO.pattern}$")).as_py():
            return pa.string()
        with contextlib.suppress(pa.ArrowInvalid):
            pc.cast(text, pa.int64())
            return type_
        whole = text.filter(pc.match_substring_regex(text, rf"^{_INT.pattern}$"))
        if not all(map(_fits_int64, pc.unique(whole.filter(pc.greater(pc.utf8_length(whole), 18))).to_pylist())):
            return pa.string()
    if decimal != ".":
        if pc.any(pc.match_substring(text, ".")).as_py():
            return pa.string()
        text = pc.replace_substring(text, decimal, ".")
    with contextlib.suppress(pa.ArrowInvalid):
        pc.cast(text, pa.float64())
        return pa.float64()
    return pa.string()


@contextlib.contextmanager
def open_unpacked(path: Path, source: str, limit: UnpackingLimit) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed by its content (gzip, bzip2, xz, zstd, zip), not by its name."""
    with path.open("rb") as file:
        head = file.read(6)
    with contextlib.ExitStack() as stack:
        stream: Any
        if head.startswith(b"\x1f\x8b"):
            stream = gzip.open(path)  # noqa: SIM115
        elif head.startswith(b"BZh"):
            stream = bz2.open(path)  # noqa: SIM115
        elif head == b"\xfd7zXZ\x00":
            stream = lzma.open(path)  # noqa: SIM115
        elif head.startswith(b"(\xb5/\xfd"):
            stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        elif head.startswith(b"PK\x03\x04"):
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = _only_member(archive, source)
            limit.check_members([member])
            stream = archive.open(member)
        else:
            yield stack.enter_context(path.open("rb"))
            return
        yield stack.enter_context(limit.bounded(stream, path))


def _only_member(archive: zipfile.ZipFile, source: str) -> zipfile.ZipInfo:
    members = [info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
    names = [info.filename for info in members]
    if any(name.startswith(("xl/", "[Content_Types]")) for name in names):
        raise input_error(source, "an Excel workbook", "a CSV file", "save its sheet as CSV")
    if len(members) != 1:
        found = f"an archive of {len(members)} files ({', '.join(names[:3])})"
        raise input_error(source, found, "one file in it", "unpack it, and name the file, or the folder")
    return members[0]


def _rechunk(batches: Iterator[pa.RecordBatch], n_rows: int | None, skip: int) -> Iterator[pa.Table]:
    """Yield the rows after the first ``skip`` as tables of at most ``n_rows`` rows."""
    for batch in batches:
        n_skipped = min(skip, batch.num_rows)
        skip -= n_skipped
        for start in range(n_skipped, batch.num_rows, n_rows or batch.num_rows or 1):
            yield pa.Table.from_batches([batch.slice(start, n_rows)])


# --- Parquet and Feather --------------------------------------------------------------------------------------


class ArrowSource:
    """Parquet and Feather files, whose columns have types."""

    is_text, has_header, decimal, thousands = False, True, ".", ""
    left_out: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self, files: Sequence[tuple[Path, Mapping[str, str]]], kind: str, source: str, limit: UnpackingLimit
    ) -> None:
        self._source, self._files, self._is_parquet, self._limit = source, files, kind == "parquet", limit
        first: list[str] = []
        categories: set[str] = set()
        self.n_rows = self._n_groups = 0  # of Parquet
        self._rows_of: dict[tuple[object, ...], int] = {}  # rows of Parquet that are read at once
        self._types_of: dict[str, dict[pa.DataType, str]] = {}  # by column and type the name of the first file with it
        for path, _ in files:
            schema = self._schema(path)
            names = [str(name) for name in schema.names]
            categories |= _declared_categories(schema)
            for name, type_ in zip(names, schema.types, strict=True):
                self._types_of.setdefault(name, {}).setdefault(_plain_type(type_), path.name)
            first = first or names
            where = source if len(files) == 1 else f"{source}: {path.name}"
            check_duplicates(names, where)
            there = set(names)
            missing = [name for name in first if name not in there]
            if missing:
                found, expected = f"has no column {missing[0]}", f"the columns of {files[0][0].name}"
                raise input_error(where, found, expected, "write it again, or leave it out")
        self._partitions = tuple(files[0][1])
        self.names = (*first, *self._partitions)
        self.categories = frozenset(categories)
        self._types = {name: _common_type(list(self._types_of[name])) for name in first}
        self.decisions = {**_told_files(files), **self._told_types()}

    def batches(self, columns: Sequence[str], texts: Sequence[str], n_rows: int | None) -> Iterator[pa.Table]:
        stored = [name for name in columns if name not in self._partitions]
        types = [pa.string() if name in texts else self._type_of(name) for name in stored]
        for path, partition in self._files:
            n_bytes = 0
            for batch in self._read(path, stored, n_rows or _BATCH_ROWS):
                n_bytes += sum(map(plain_bytes, batch.columns))
                self._limit.check_file(n_bytes, path)
                # All columns at once: Table.set_column copies the list of all columns.
                values = []
                for name, column, type_ in zip(stored, batch.columns, types, strict=True):
                    with named_column(name, column.type):
                        values.append(_as_type(column, type_))
                table = pa.Table.from_arrays(values, stored)
                yield _with_partition(table, partition, columns)

    def stored(self, columns: Sequence[str], texts: Sequence[str]) -> StoredColumns | None:
        is_fast = self._is_parquet and self.n_rows >= _LEAST_GROUP_ROWS * self._n_groups
        return _ParquetColumns(self, columns, texts) if is_fast and not self._partitions else None

    def _type_of(self, name: str) -> pa.DataType:
        """Return the type that holds the values of a column in all files."""
        type_ = self._types[name]
        if type_ is not None and _is_whole_decimal(type_):
            type_ = self._types[name] = self._whole_type(name)
        if type_ is None:
            found = " and ".join(f"{type_} in {file}" for type_, file in list(self._types_of[name].items())[:2])
            remedy = f"write the files again with one type, or set {override('data.exclude', [name])}"
            raise input_error(self._source, f"column {name} is {found}", "one type in all files", remedy)
        return type_

    def _whole_type(self, name: str) -> pa.DataType:
        """Return the type of decimals without fractions, as Oracle and Snowflake write integers: text if it is long."""
        for path, _ in self._files:
            for batch in self._read(path, [name], _BATCH_ROWS):
                bounds = pc.min_max(_as_type(batch.column(0), self._types[name])).as_py().values()
                if any(bound is not None and abs(bound) > _LARGEST_INT for bound in bounds):
                    return pa.string()
        return pa.int64()

    def _told_types(self) -> dict[str, str]:
        mixed = {}
        for name, type_ in self._types.items():
            there = [str(other) for other in self._types_of[name] if not pa.types.is_null(other)]
            if len(there) > 1 and type_ is not None:
                mixed[name] = f"{name} is {' and '.join(there[:3])} in different files, and is read as {type_}"
        more = f"; and {len(mixed) - _MAX_TOLD} more columns" if len(mixed) > _MAX_TOLD else ""
        return {"types": "; ".join(list(mixed.values())[:_MAX_TOLD]) + more} if mixed else {}

    def _schema(self, path: Path) -> pa.Schema:
        if self._is_parquet:
            metadata = pq.read_metadata(path)
            self.n_rows += metadata.num_rows
            self._n_groups += metadata.num_row_groups
            return metadata.schema.to_arrow_schema()
        self._limit.check_file(feather_bytes(path), path)
        with pa.OSFile(str(path)) as file:
            return ipc.open_file(file).schema

    def _read(self, path: Path, columns: Sequence[str], n_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows batch by batch, without reading ahead: a row group may be large."""
        if self._is_parquet:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                self._limit.check_file(parquet_bytes(file), path)
                key = path, *columns, n_rows
                if key not in self._rows_of:
                    self._rows_of[key] = parquet_rows(path, file, columns, n_rows)
                for batch in file.iter_batches(batch_size=self._rows_of[key], columns=list(columns)):
                    # In the order asked for: the file yields them in its own.
                    yield batch.select(list(columns))
            return
        with pa.OSFile(str(path)) as file:
            schema = ipc.open_file(file).schema
            options = ipc.IpcReadOptions(included_fields=sorted(schema.get_field_index(name) for name in columns))
            reader = ipc.open_file(file, options=options)
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i).select(list(columns))
                batch.validate(full=True)  # Arrow reads what is not there where offsets or indices are damaged
                for start in range(0, batch.num_rows, n_rows):
                    yield batch.slice(start, n_rows)


class _ParquetColumns:
    """The columns of Parquet files, each of which is read when it is asked for."""

    def __init__(self, source: ArrowSource, columns: Sequence[str], texts: Sequence[str]) -> None:
        self._source, self._columns, self._texts = source, columns, texts
        self.num_rows = source.n_rows

    def column(self, name: str) -> pa.ChunkedArray:
        return pa.concat_tables(self._source.batches([name], self._texts, _COLUMN_ROWS)).column(0)

    def tables(self, n_rows: int) -> Iterator[pa.Table]:
        return self._source.batches(self._columns, self._texts, n_rows)


def _declared_categories(schema: pa.Schema) -> set[str]:
    """Return the columns of numbers that are categories of pandas, or dictionaries, by the schema of their file."""
    with contextlib.suppress(ValueError, LookupError, TypeError):  # the metadata may be anything
        columns = (schema.pandas_metadata or {})["columns"]
        return {column["name"] for column in columns if column["pandas_type"] == "categorical"}
    return {field.name for field in schema if pa.types.is_dictionary(field.type) and is_real(field.type.value_type)}


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """Return the type without the encodings that only storage has: dictionaries, views, large strings."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_large_string(type_) or type_ == pa.string_view():
        return pa.string()
    if _is_whole_decimal(type_) and type_.precision <= _INT_DIGITS:
        return pa.int64()
    return pa.float32() if pa.types.is_float16(type_) else type_


def _is_whole_decimal(type_: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(type_) and type_.scale == 0)


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the type that holds all values of a column whose type differs between files; None if there is none."""
    present = [type_ for type_ in types if not pa.types.is_null(type_)]
    if len(present) < 2:
        return [*present, pa.null()][0]
    has_wide = any(pa.types.is_uint64(type_) or pa.types.is_decimal(type_) for type_ in present)
    if has_wide and all(map(is_real, present)):
        return pa.float64()
    if any(map(is_real, present)):
        present = [pa.uint8() if pa.types.is_boolean(type_) else type_ for type_ in present]
    if all(pa.types.is_date(type_) or (pa.types.is_timestamp(type_) and type_.tz is None) for type_ in present):
        return pa.timestamp("us")
    schemas = [pa.schema([("column", type_)]) for type_ in present]
    with contextlib.suppress(pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    is_text = pa.string() in present and all(
        is_real(type_) or type_ in (pa.string(), pa.bool_()) or pa.types.is_date(type_) for type_ in present
    )
    return pa.string() if is_text else None


def _as_type(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """Return the values in another type; of whole floats as text without their point."""
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    if values.type == type_:
        return values
    if type_ == pa.string() and pa.types.is_floating(values.type):
        return as_levels(values)
    return pc.cast(values, type_, safe=False)  # large whole numbers beside fractions are rounded


def _with_partition(table: pa.Table, partition: Mapping[str, str], columns: Sequence[str]) -> pa.Table:
    """Return the columns of a table, to which the values of its partition are added."""
    present = set(table.column_names)
    for name in columns:
        if name not in present:
            table = table.append_column(name, pa.array([partition.get(name)] * len(table), pa.string()))
    return table.select(list(columns))


def _told_files(files: Sequence[tuple[Path, Mapping[str, str]]]) -> dict[str, str]:
    if len(files) == 1:
        return {}
    return {"files": f"{len(files):,}, from {files[0][0].name} to {files[-1][0].name}, in the order of their names"}
