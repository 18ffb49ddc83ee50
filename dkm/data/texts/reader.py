"""Read the user's texts: lines, JSON lines, or one column of a CSV or Parquet file; see ``dkm.data.texts.features``.

Compression, encoding and delimiter follow from the content, as for tables, and are told. Empty texts are left out, and
counted. Texts, ids and labels are read as they are written, as strings.
"""

# Shapes: n texts of a part, F features.

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, cast

import numpy as np

from dkm.config.data import TextData
from dkm.config.values import override
from dkm.data.arrays import has_array
from dkm.data.features import chunked
from dkm.data.files import Part, expand, find_column, format_of, missing_label_error, part_of, read_first_bytes
from dkm.data.images.parquet import open_parquet, unreadable_parquet_error
from dkm.data.raw import RawData, RawRows, from_part
from dkm.data.recognition import COMPRESSED, is_json_object, json_error
from dkm.data.report import DataReport
from dkm.data.stored import SparseArray, is_large, rows_per_part
from dkm.data.tables.dialect import HEAD_BYTES, find_delimiter, find_encoding
from dkm.data.tables.sources import open_unpacked
from dkm.data.texts.features import Tfidf, find_sentence_encoder
from dkm.data.unicode import is_encodable, replace_surrogates
from dkm.data.unpacking import UnpackingLimit, parquet_rows
from dkm.errors import UserError, first_of, input_error, reason

# Length of a text in the outputs.
_MAX_SHOWN = 200
_TABLE_SUFFIXES, _JSON_SUFFIXES = {".csv", ".tsv"}, {".json", ".jsonl", ".ndjson"}  # another may follow: .csv.gz
_MAX_CELL = 2**31 - 1
# Rows of a Parquet file that are read at once.
_ROWS_AT_ONCE = 2**16
# The first lines, which decide the delimiter and the keys of JSON objects.
_N_LINES = 1000
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, csv.Error)


class _Row(NamedTuple):
    position: int
    text: str
    id: str | None
    label: str | None


class TextReader:
    """The texts of one file; ``rows`` returns them, ``parts`` their features for a trained model.

    Parameters
    ----------
    config : TextData
    key : str
        The setting that names the file, for messages.
    plan : Mapping, optional
        What a trained model stores: ``text``, with the vocabulary and idf of TF-IDF or the identity of the encoder, and
        the column of the texts, which is read if ``data.text`` does not name another.
    n_channels : int, optional
        Not used.

    Raises
    ------
    UserError
        If the file cannot be read, or has no such column.
    """

    def __init__(
        self,
        config: TextData,
        *,
        key: str = "data.path",
        plan: Mapping[str, Any] | None = None,
        n_channels: int | None = None,
    ) -> None:
        self.source = f"{key}={config.path}"
        self.n_rows = 0  # rows of the file read so far
        self.report = DataReport(self.source)
        self._config = config
        self._key = key
        self._plan = None if plan is None else plan["text"]
        self._is_trained = plan is not None
        self._path = expand(config.path, key)
        content = format_of(read_first_bytes(self._path, self.source, key))
        if content == "npy" or (content == "npz" and has_array(config.path)):
            raise input_error(self.source, f"the content of a .{content} file", "texts", f"use data={content}")
        self._limit = UnpackingLimit(self.source, config.max_expansion)
        self._file = None
        if content == "parquet":
            self._file = open_parquet(config.path, self.source, key, config.max_expansion)
        self._encoding, self._delimiter, self.has_header = "utf-8", ",", True
        self._told: dict[str, str] = {}  # how the encoding was found
        self.format = "Parquet" if self._file is not None else self._find_format()
        self._columns = columns = self._read_columns()
        self.text = self._find_text_column()
        self._id = find_column("data.id", config.id, columns, self.source, is_trained=self._is_trained)
        self._labels = find_column("data.labels", config.labels, columns, self.source, is_trained=self._is_trained)
        self.empty: list[int] = []  # the first positions of empty texts
        self.n_empty = self.n_replaced = 0
        self.report.decisions |= self._decisions()
        if config.id is not None and self._id is None and self._columns:
            self.report.decisions["ids"] = f"none, as there is no column {config.id}"

    def _decisions(self) -> dict[str, str]:
        """Return how the file is read."""
        how = {"lines": "each line is a text", "JSON lines": "by its content", "Parquet": "by its content"}
        header = "" if self.has_header else "; no header, columns are called 0, 1, ..."
        why = how.get(self.format, f"delimiter {self._delimiter!r}, which cuts most lines alike{header}")
        texts = {} if self.text is None else {"texts": f"column {self.text}"}
        return {"format": f"{self.format}, {why}", **self._told, **texts}

    def rows(self) -> Iterator[_Row]:
        """Yield all texts that are not empty; the report is then complete.

        Raises
        ------
        UserError
            If a row cannot be read, is no text, or misses its label.
        """
        self.n_rows = self.n_empty = self.n_replaced = 0
        self.empty = []
        self.report.left_out, self.report.odd = [], []
        for position, (text, name, label) in enumerate(self._cells()):
            self.n_rows = position + 1
            if text is None or not text.strip():
                self.n_empty += 1
                if len(self.empty) < 5:
                    self.empty.append(position)
                continue
            if self._labels is not None and label is None:
                raise missing_label_error(self._labels, f"no label in row {position:,} (counted from 0)")
            if not is_encodable(text):
                text, self.n_replaced = replace_surrogates(text), self.n_replaced + 1
            yield _Row(position, text, name if self._id is None else name or "", label)
        examples = [f"row {position:,}" for position in self.empty]
        self.report.n_rows = self.n_rows
        self.report.leave_out("rows", self.n_empty, "the text is empty", examples)
        if self.n_replaced:
            self.report.odd.append(_replaced_message(self.n_replaced))
        if self.n_rows == self.n_empty:
            found = f"all {self.n_rows:,} texts are empty" if self.n_rows else "no rows"
            raise input_error(self.source, found, "one text or more", "check how the file was written")

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield the features of all texts that are not empty, in parts of at most ``n_rows`` rows.

        There are fewer if the vocabulary is large.
        """
        assert self._plan is not None
        tfidf = Tfidf.from_plan(self._plan["tfidf"]) if "tfidf" in self._plan else None
        encoder = None
        if tfidf is None:
            if self._config.text_encoder is None:
                expected = f"expected the encoder of the training, {self._plan['encoder']['name']}"
                raise UserError(f"data.text_encoder=null: {expected}; leave out data.text_encoder")
            encoder = find_sentence_encoder(self._config.text_encoder, self._plan["encoder"])
        n_unknown = 0
        n_part = n_rows if tfidf is None else rows_per_part(n_rows, len(tfidf.terms))
        for rows in chunked(self.rows(), n_part):
            texts = [row.text for row in rows]
            if tfidf is not None:
                X = tfidf.transform(texts).toarray()
                n_unknown += int((~X.any(axis=1)).sum())
            else:
                assert encoder is not None
                X = encoder.encode(texts)
            yield _part_of(rows, X)
        if n_unknown:
            self.report.odd.append(_unknown_texts_message(n_unknown))

    # --- the format ---

    @contextlib.contextmanager
    def _open(self, newline: str | None = "") -> Iterator[IO[str]]:
        """Open the file as text, decompressed; by default line ends stay as they are."""
        with open_unpacked(self._path, self.source, self._limit) as file:
            buffered = file if isinstance(file, io.BufferedIOBase) else io.BufferedReader(cast(io.RawIOBase, file))
            with io.TextIOWrapper(buffered, self._encoding, newline=newline) as text:
                yield text

    def _find_format(self) -> str:
        with self._one_line_errors(), open_unpacked(self._path, self.source, self._limit) as file:
            head = file.read(HEAD_BYTES)
        is_whole = len(head) < HEAD_BYTES
        self._encoding = find_encoding(head, self.source, self._config.encoding, self._told, is_whole=is_whole)
        with self._one_line_errors(), self._open() as text:
            first = next((line for line in iter(lambda: text.readline(2**20), "") if line.strip()), "")
        suffixes = {suffix.lower() for suffix in self._path.suffixes[-2:]}
        if first.lstrip().startswith("{") and (suffixes & _JSON_SUFFIXES or is_json_object(first)):
            return "JSON lines"
        if first and suffixes & _JSON_SUFFIXES and self._path.suffix.lower() in {*_JSON_SUFFIXES, *COMPRESSED}:
            raise json_error(self.source)
        return "CSV" if self._config.text is not None or suffixes & _TABLE_SUFFIXES else "lines"

    def _read_columns(self) -> list[str]:
        """Return the names of the columns; none for lines."""
        if self._file is not None:
            return [str(name) for name in self._file.schema_arrow.names]
        if self.format == "lines":
            return []
        with self._one_line_errors(), self._open() as file:
            if self.format == "JSON lines":
                objects = itertools.islice(self._objects(file), _N_LINES)
                return list(dict.fromkeys(itertools.chain.from_iterable(objects)))
            csv.field_size_limit(_MAX_CELL)  # a document may be longer than the default, 128 KiB
            lines = list(itertools.islice(file, _N_LINES))
            if not any(map(str.strip, lines)):
                raise input_error(self.source, "no rows", "one text or more", "check how the file was written")
            found = find_delimiter(lines, {})
            self._delimiter = found if found in lines[0] else ","
            names = next(csv.reader(lines, delimiter=self._delimiter, strict=True), [])
        self.has_header = self._is_header(names)
        return names if self.has_header else [str(place) for place in range(len(names))]

    def _is_header(self, cells: Sequence[str]) -> bool:
        """Return whether the first row of a CSV file has the names of the columns; data.text may be a place instead."""
        text = self._config.text
        if text is None or not text.isdecimal() or int(text) >= len(cells):
            return True
        if text not in cells:
            return False
        # An id or label of the first row may equal the place; a cell of the texts that is a number is a name.
        cell, trained = cells[int(text)], (self._plan or {}).get("has_header")
        return cell.isdecimal() if trained is None else trained or cell == text

    def _find_text_column(self) -> str | None:
        config, names = self._config, self._columns
        if self.format == "lines":
            for key, name in (("data.id", config.id), ("data.labels", config.labels)):
                if name is not None and not self._is_trained:
                    found, remedy = "a file of lines has no columns", "name the column of the texts: data.text=COLUMN"
                    raise input_error(f"{key}={name}", found, "null", remedy)
            return None
        trained = (self._plan or {}).get("column") if config.text is None else None
        for name in (config.text, trained):
            if name is not None and name in names:
                return name
        others = [name for name in names if name not in (config.id, config.labels)]
        usual = ["text"] if "text" in others else others
        if config.text is None and len(usual) == 1:
            return usual[0]
        found = "no such column" if config.text is not None else "several columns that could be the texts"
        listed = first_of(others, 8)
        source = self.source if config.text is None else f"data.text={config.text}"
        remedy = f"set {override('data.text', others[0] if others else 'COLUMN')}, for example"
        expected = f"one of {listed or 'its columns (it has none)'}"
        if self.format == "CSV" and config.text is not None:
            expected += f", or a place from 0 to {len(names) - 1} if the file has no header"
            remedy = f"{remedy}, or data.text=null if each line is a text"
        raise input_error(source, found, expected, remedy)

    # --- the rows ---

    def _cells(self) -> Iterator[tuple[str | None, str | None, str | None]]:
        """Yield text, id and label of each row."""
        if self._file is not None:
            yield from self._parquet_cells(self._file)
            return
        with self._one_line_errors(), self._open(None if self.format == "lines" else "") as file:
            if self.format == "lines":
                for line in file:
                    yield line.rstrip("\n"), None, None
            elif self.format == "JSON lines":
                for number, values in enumerate(self._objects(file)):
                    text = self._require_text(values.get(str(self.text)), number)
                    yield text, _as_string(values.get(str(self._id))), _as_string(values.get(str(self._labels)))
            else:
                yield from self._csv_cells(file)

    def _csv_cells(self, file: IO[str]) -> Iterator[tuple[str | None, str | None, str | None]]:
        rows = csv.reader(file, delimiter=self._delimiter, strict=True)
        if self.has_header:
            next(rows)
        n_cells = len(self._columns)
        places = [None if name is None else self._columns.index(name) for name in (self.text, self._id, self._labels)]
        for row in rows:
            if not row and n_cells > 1:
                continue
            row = row or [""]
            if len(row) != n_cells:
                found = f"{len(row)} cells in the row that ends in line {rows.line_num:,}"
                expected = f"{n_cells}, as in the header, with delimiter {self._delimiter!r}"
                raise input_error(self.source, found, expected, "quote the texts that contain the delimiter")
            cells = [None if place is None else row[place] or None for place in places]
            yield cells[0], cells[1], cells[2]

    def _parquet_cells(self, file: Any) -> Iterator[tuple[str | None, str | None, str | None]]:
        names = [name for name in (self.text, self._id, self._labels) if name is not None]
        position = 0
        try:
            n_rows = parquet_rows(self._path, file, names, _ROWS_AT_ONCE)
            for batch in file.iter_batches(n_rows, columns=list(dict.fromkeys(names))):
                columns = [
                    [None] * batch.num_rows if name is None else batch.column(name).to_pylist()
                    for name in (self.text, self._id, self._labels)
                ]
                for text, name, label in zip(*columns, strict=True):
                    yield self._require_text(text, position), _as_string(name), _as_string(label)
                    position += 1
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise unreadable_parquet_error(self.source, error) from error

    def _objects(self, file: IO[str]) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise ValueError(f"a {type(values).__name__}")
            except ValueError as error:
                found = f"line {number:,} is no JSON object ({reason(error)})"
                raise input_error(self.source, found, "a JSON object in each line", "correct the line") from error
            yield values

    def _require_text(self, value: object, position: int) -> str | None:
        if value is None or isinstance(value, str):
            return value
        found = f"{self.source} has {str(value)[:40]!r} in row {position:,} (counted from 0)"
        raise input_error(f"data.text={self.text}", found, "a string or null", "name the column of the texts")

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            found = f"its beginning is in the encoding {self._encoding}, and a later part is not"
            remedy = "set data.encoding, for example data.encoding=cp1252"
            raise input_error(self.source, found, "one encoding", remedy) from error
        except _UNREADABLE as error:
            raise input_error(
                self.source, f"cannot be read ({reason(error)})", "a complete text file", "write or copy it again"
            ) from error


def read_text(config: TextData) -> RawData:
    """Read all texts and fit TF-IDF to them, or encode them."""
    reader = TextReader(config)
    rows = list(reader.rows())
    texts = [row.text for row in rows]
    report = reader.report
    why = ""
    if config.text_encoder is None:
        tfidf = Tfidf.fit(texts, config.n_terms, reader.source)
        plan: dict[str, Any] = {"tfidf": tfidf.to_plan()}
        matrix = tfidf.transform(texts)
        X: RawRows = SparseArray(matrix)
        features: tuple[str, ...] | None = tfidf.terms
        report.decisions["features"] = f"TF-IDF of the {len(tfidf.terms):,} most frequent terms (data.n_terms)"
        if n_unknown := int((np.diff(matrix.indptr) == 0).sum()):
            report.odd.append(_unknown_texts_message(n_unknown))
        why = "the default for TF-IDF"
    else:
        encoder = find_sentence_encoder(config.text_encoder, None)
        plan, features = {"encoder": encoder.identity}, None
        X = encoder.encode(texts)
        digest = encoder.identity["digest"][:12]
        report.decisions["features"] = f"{encoder.identity['name']}, SHA-256 of its files {digest}"
        why = "the default for the features of an encoder"
    if config.scaling is None:
        report.scaling = f"row_rms: each row to the same length, {why}"
    # The matrix may stay sparse, so it is not part of the Part.
    part = _part_of(rows, np.empty((len(rows), 0), np.float32))
    if reader.text is not None:
        plan |= {"column": reader.text, "has_header": reader.has_header}
    raw = from_part(part, scaling="row_rms", features=features, plan={"text": plan}, report=report)
    return raw._replace(X=X, in_memory=not is_large(X.size), texts=part.texts)


def _part_of(rows: Sequence[_Row], X: np.ndarray) -> Part:
    return part_of(rows, X)._replace(texts=np.array([_shorten(row.text) for row in rows], dtype=object))


def _shorten(text: str) -> str:
    """Return the beginning of a text, on one line."""
    line = " ".join(text[: 4 * _MAX_SHOWN].split())
    return line if len(line) <= _MAX_SHOWN else f"{line[: _MAX_SHOWN - 3]}..."


def _unknown_texts_message(n: int) -> str:
    return f"texts without a term of the vocabulary: {n:,}; all their features are 0, so they share one cluster"


def _replaced_message(n: int) -> str:
    return f"texts with half of a character (a lone surrogate), which is replaced by U+FFFD: {n:,}"


def _as_string(value: object) -> str | None:
    """Return an id or a label as text: what JSON has as JSON, else as Python writes it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return json.dumps(value, default=str) if isinstance(value, bool | int | float | list | dict) else str(value)
