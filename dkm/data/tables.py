"""Read the user's own tables, CSV or Parquet: select and check columns, return one matrix or parts of it.

Training and prediction use the same reader, so that values are interpreted alike. To read more rows of the same table,
a trained model stores the names of its features and, with ``data.missing=median``, the values for missing ones.
Every error is raised as a one-line ``UserError``. Only local files are read, and nothing in them is executed. pandas is
imported where it is used, because it takes long to load.
"""

# Shapes: N rows of the file, n rows of a part, F features.

from __future__ import annotations

import contextlib
import difflib
import lzma
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dkm.config.data import CsvData, TableData
from dkm.data.files import Part, expand, read_first_bytes
from dkm.data.scaling import Array
from dkm.errors import UserError, input_error, reason

if TYPE_CHECKING:
    import pandas as pd

_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
# The names of an index that pandas wrote without a name: as pandas reads it from CSV, and in Parquet.
_UNNAMED = ("Unnamed: 0", "__index_level_0__")
# These include pandas' ParserError and EmptyDataError, and pyarrow's errors.
_FILE_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ImportError,
    Warning,
    BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
# Largest number of names listed in a message.
_MAX_NAMES = 5
# With fewer rows, distinct whole numbers do not indicate an id.
_MIN_ROWS_FOR_IDS = 100


class TableReader:
    """The selected columns of one file; ``read`` or ``parts`` reads the rows.

    Parameters
    ----------
    config : CsvData or ParquetData
    key : str
        The setting that names the file, for messages.
    plan : Mapping, optional
        What a trained model stores: ``features``, the columns to read, in this order (others are ignored), and
        ``fill``, the replacement of missing values, one per feature. By default ``data.missing=median`` computes the
        medians in ``read``; ``parts`` then refuses missing values.
    n_channels : int, optional
        Not used.

    Raises
    ------
    UserError
        If the file cannot be read, or lacks a requested column.
    """

    def __init__(
        self,
        config: TableData,
        *,
        key: str = "data.path",
        plan: Mapping[str, Any] | None = None,
        n_channels: int | None = None,
    ) -> None:
        features, fill = (None, None) if plan is None else (plan["features"], plan["fill"])
        self.source = f"{key}={config.path}"
        self.fill = None if fill is None else np.array(fill, dtype=np.float64)
        self.n_rows = 0  # rows of the file read so far
        self._config = config
        self._path = expand(config.path)
        self._is_trained = features is not None
        read_first_bytes(self._path, self.source, key)
        self._format: _Csv | _Parquet
        with _one_line_errors(self.source):
            self._format = _Csv(self._path, config) if isinstance(config, CsvData) else _Parquet(self._path)
        names = self._format.names
        self.id = self._find_id(names)
        self.features = self._select_features(names) if features is None else self._match_features(names, features)

    def read(self) -> Part:
        """Return all rows. With ``data.missing=median`` set ``fill`` to the medians."""
        frames = list(self._frames(None))
        self.n_rows = len(frames[0])
        return self._make_part(frames[0], 0, is_whole=True)

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all rows in parts of at most ``n_rows`` rows of the file; parts without remaining rows are skipped."""
        start = 0
        for frame in self._frames(n_rows):
            part = self._make_part(frame, start, is_whole=False)
            self.n_rows = start = start + len(frame)
            if len(part.position):
                yield part

    # --- columns ---

    def _find_id(self, names: Sequence[str]) -> str | None:
        config = self._config
        if config.id is not None:
            if config.id not in names and self._is_trained:
                return None
            if config.id not in names:
                raise self._no_column_error("data.id", config.id, names)
            return config.id
        is_unnamed = names[0] in _UNNAMED and names[0] not in (*(config.columns or ()), *config.exclude)
        return names[0] if is_unnamed else None

    def _select_features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the features that ``data.columns`` and ``data.exclude`` select."""
        config = self._config
        for key, required in (("data.columns", config.columns or ()), ("data.exclude", config.exclude)):
            for name in required:
                if name not in names:
                    raise self._no_column_error(key, name, names)
        if config.labels is not None and config.labels not in names:
            raise self._no_column_error("data.labels", config.labels, names)
        excluded = {config.labels, self.id, *config.exclude}
        columns = names if config.columns is None else config.columns
        features = tuple(name for name in columns if name not in excluded)
        if not features:
            found = f"no column is left of {_list_names(names)}"
            raise input_error(self.source, found, "one feature or more", "correct data.columns or data.exclude")
        return features

    def _match_features(self, names: Sequence[str], features: Sequence[str]) -> tuple[str, ...]:
        missing = [name for name in features if name not in names]
        if missing:
            noun = "column" if len(missing) == 1 else f"{len(missing)} columns"
            found = f"has no {noun} {_list_names(missing)}; its columns are {_list_names(names)}"
            raise input_error(self.source, found, "the columns that the model was trained on", "add or rename them")
        return tuple(features)

    def _no_column_error(self, key: str, name: str, names: Sequence[str]) -> UserError:
        near = difflib.get_close_matches(name, names, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"correct {key}"
        return input_error(f"{key}={name}", f"{self.source} has no such column", f"one of {_list_names(names)}", remedy)

    # --- rows ---

    def _frames(self, n_rows: int | None) -> Iterator[pd.DataFrame]:
        texts = [] if self.id is None else [self.id]
        labels = self._config.labels if self._config.labels in self._format.names else None
        columns = list(dict.fromkeys([*self.features, *texts, *([] if labels is None else [labels])]))
        n_frames = 0
        with _one_line_errors(self.source):
            for frame in self._format.frames(columns, texts, n_rows):
                n_frames += len(frame) > 0
                if len(frame):
                    yield frame
        if n_frames == 0:
            raise input_error(self.source, "no rows", "one row or more", "check how the file was written")

    def _make_part(self, frame: pd.DataFrame, start: int, *, is_whole: bool) -> Part:
        config = self._config
        features = frame[list(self.features)]
        self._require_numbers(features, start)
        X = _to_matrix(features)
        index = np.arange(start, start + len(X))
        gaps = _find_gaps(X)
        is_kept: Any = np.ones(len(X), dtype=bool)
        if config.missing == "median" and is_whole and self.fill is None:
            self.fill = self._medians(X)
        if gaps.any() and config.missing == "drop":
            is_kept = np.logical_not(gaps).all(axis=1)
        elif gaps.any() and self.fill is not None:
            X = X if X.flags.writeable else X.copy()  # pandas returns a read-only view of a single column
            np.copyto(X, self.fill, where=gaps, casting="same_kind")
        elif gaps.any():
            raise self._missing_values_error(gaps, index)
        if is_whole and not is_kept.any():
            found = f"every row misses a value ({_list_names(self._names_with_gaps(gaps))})"
            raise input_error(self.source, found, "complete rows", "set data.missing=median, or leave out columns")
        ids = None if self.id is None else frame[self.id].astype(object).fillna("").to_numpy(dtype=str)
        labels = None
        if config.labels is not None and config.labels in frame:
            labels = self._read_labels(frame[config.labels], start)
        if is_kept.all():
            return Part(X, index, ids, labels)
        return Part(
            X[is_kept],
            index[is_kept],
            None if ids is None else ids[is_kept],
            None if labels is None else labels[is_kept],
        )

    def _require_numbers(self, features: pd.DataFrame, start: int) -> None:
        """Refuse columns that hold anything but numbers."""
        wrong = [name for name, dtype in features.dtypes.items() if not _is_number(dtype)]
        if not wrong:
            return
        import pandas as pd

        column = features[wrong[0]]
        numbers = pd.to_numeric(column.astype(object), errors="coerce") if column.dtype.kind != "M" else column.isna()
        bad = np.flatnonzero(np.asarray(column.notna()) & np.asarray(pd.isna(numbers) | (column.dtype.kind == "M")))
        row = int(bad[0]) if len(bad) else 0
        example = f"{str(column.iloc[row])[:40]!r} in row {start + row:,} (counted from 0)"
        noun = "column" if len(wrong) == 1 else f"{len(wrong)} columns,"
        found = f"{noun} {_list_names(wrong)}: not only numbers, the first that is none is {example}"
        is_text = len(bad) == len(column)
        # A column with a different text in each row is probably an id.
        names = [name for name in wrong[:1] if self.id is None and is_text and 1 < len(column) == column.nunique()]
        settings = [f"data.id={name}" for name in names]
        if len(wrong) > len(names):
            settings.append(self._exclude_setting([name for name in wrong if name not in names]))
        remedy = f"set {' '.join(settings)}, or encode them as numbers"
        if 0 < len(bad) < len(column) / 2:
            remedy += f"; if this stands for a missing value, data.missing_values=[{str(column.iloc[row])[:40]!r}]"
        if self._is_trained:
            remedy = "write numbers there, as in the data that the model was trained on"
        raise input_error(self.source, found, "numbers", remedy)

    def _exclude_setting(self, names: Sequence[str]) -> str:
        """Return the setting that excludes these columns too."""
        return f"data.exclude=[{','.join([*self._config.exclude, *names])}]"

    def _medians(self, X: Array) -> npt.NDArray[np.float64]:
        empty = np.isnan(X).all(axis=0)
        if empty.any():
            names = [name for name, is_empty in zip(self.features, np.atleast_1d(empty), strict=True) if is_empty]
            found = f"no values at all in {_list_names(names)}"
            raise input_error(self.source, found, "columns with values", f"set {self._exclude_setting(names)}")
        medians: npt.NDArray[np.float64] = np.nanmedian(X.astype(np.float64, copy=False), axis=0)
        return medians

    def _missing_values_error(self, gaps: Array, index: npt.NDArray[np.int64]) -> UserError:
        row = int(np.flatnonzero(gaps.any(axis=1))[0])
        names = self._names_with_gaps(gaps)
        first = self.features[int(np.flatnonzero(gaps[row])[0])]
        n_rows = int(gaps.any(axis=1).sum())
        where = f"in {n_rows:,} rows; the first is {first} in row {index[row]:,} (counted from 0)"
        found = f"values are missing in {_list_names(names)}, {where}"
        remedy = "set data.missing=drop (leave out these rows) or median (fill the gaps), or data.exclude"
        if self._is_trained:
            remedy = "complete them, or set data.missing=drop to leave out these rows"
        return input_error(self.source, found, "a value everywhere", remedy)

    def _names_with_gaps(self, gaps: Array) -> list[str]:
        has_gap = np.atleast_1d(gaps.any(axis=0))
        return [name for name, is_missing in zip(self.features, has_gap, strict=True) if is_missing]

    def _read_labels(self, column: pd.Series[Any], start: int) -> Array:
        empty = np.flatnonzero(np.asarray(column.isna()))
        if len(empty):
            found = f"{len(empty):,} rows without a label, the first is row {start + empty[0]:,} (counted from 0)"
            remedy = "give each row a label, or set data.labels=null: labels only score"
            raise input_error(f"data.labels={self._config.labels}", found, "a label in each row", remedy)
        values = column.to_numpy()
        return values if values.dtype.kind in "biuf" else np.asarray(column.astype(str), dtype=str)

    def suspected_ids(self, X: Array) -> list[str]:
        """Return the features with a distinct whole number in each row, which indicates an id."""
        if len(X) < _MIN_ROWS_FOR_IDS:
            return []
        names = []
        for name, column in zip(self.features, X.T, strict=True):
            is_whole = column.dtype.kind in "iu" or bool((column == np.floor(column)).all())
            if is_whole and len(np.unique(column)) == len(column):
                names.append(name)
        return names


class _Csv:
    """Reads a CSV file, which may be compressed, with pandas."""

    def __init__(self, path: Path, config: CsvData) -> None:
        import pandas as pd

        self._path = path
        self._options: dict[str, Any] = {
            "sep": _find_delimiter(path, config),
            "encoding": config.encoding,
            "na_values": config.missing_values,
            "index_col": False,  # else a header with one name too few makes the first column an index
            "low_memory": False,  # else the type of a column may change within it
        }
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **self._options)
        cells = [str(cell) for cell in first.iloc[0]]
        has_header = config.header
        if has_header is None:
            has_header = not all(_is_numeric(cell) for cell in cells) or cells == [str(i) for i in range(len(cells))]
        self._options["header"] = 0 if has_header else None
        head = pd.read_csv(path, nrows=0, **self._options) if has_header else first
        self.names = [str(name) for name in head.columns]

    def frames(self, columns: Sequence[str], texts: Sequence[str], n_rows: int | None) -> Iterator[pd.DataFrame]:
        import pandas as pd

        # Without a header pandas numbers the columns. All columns are read: with usecols pandas would silently take
        # the wrong ones from rows with more cells than names.
        keys: list[Any] = [n if self._options["header"] == 0 else self.names.index(n) for n in texts]
        options = self._options | {"dtype": dict.fromkeys(keys, str)}
        if n_rows is None:
            yield self._set_names(self._read_whole(options))[list(columns)]
            return
        with pd.read_csv(self._path, chunksize=n_rows, **options) as chunks:
            while (frame := self._next_chunk(chunks)) is not None:
                yield self._set_names(frame)[list(columns)]

    def _read_whole(self, options: Mapping[str, Any]) -> pd.DataFrame:
        import pandas as pd

        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("error", pd.errors.DtypeWarning)
            try:  # in pieces that fit into the processor's cache: a third of the time
                return pd.read_csv(self._path, **{**options, "low_memory": True})
            except pd.errors.DtypeWarning:  # the type of a column differs between pieces
                return pd.read_csv(self._path, **options)

    def _next_chunk(self, chunks: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
        import pandas as pd

        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return next(chunks, None)

    def _set_names(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame.columns = self.names
        return frame


class _Parquet:
    """Reads a Parquet file with pyarrow."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            found, expected = "pyarrow is not installed", "the extra that reads Parquet files"
            raise input_error("data=parquet", found, expected, "install it: pip install 'dkm[parquet]'") from error
        self._file = parquet.ParquetFile(path)
        self.names = [str(name) for name in self._file.schema_arrow.names]

    def frames(self, columns: Sequence[str], texts: Sequence[str], n_rows: int | None) -> Iterator[pd.DataFrame]:
        if n_rows is None:
            yield self._to_frame(self._file.read(columns=list(columns)), texts)
            return
        for batch in self._file.iter_batches(batch_size=n_rows, columns=list(columns)):
            yield self._to_frame(batch, texts)

    def _to_frame(self, batch: Any, texts: Sequence[str]) -> pd.DataFrame:
        frame: pd.DataFrame = batch.to_pandas(ignore_metadata=True)
        for name in texts:
            frame[name] = frame[name].map(str, na_action="ignore")
        return frame


def _find_delimiter(path: Path, config: CsvData) -> str:
    """Return the delimiter: the setting, or by default the most frequent candidate in the first line."""
    if config.delimiter is not None:
        return _DELIMITERS[config.delimiter]
    import pandas as pd

    # With a separator that no text contains, the line is one cell.
    line = pd.read_csv(path, header=None, nrows=1, sep="\x1f", dtype=str, encoding=config.encoding, quoting=3)
    text = str(line.iloc[0, 0])
    counts = {character: text.count(character) for character in ",;\t|"}
    return max(counts, key=counts.__getitem__)


def _is_numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "biuf"


def _to_matrix(frame: pd.DataFrame) -> Array:
    """Return the values (n, F) in C order, in the smallest type for all columns; missing values are NaN."""
    kinds = {dtype for dtype in frame.dtypes if isinstance(dtype, np.dtype)}
    if len(kinds) == len(set(frame.dtypes)):
        dtype = np.result_type(*(np.uint8 if kind == np.bool_ else kind for kind in kinds))
        return np.ascontiguousarray(frame.to_numpy(dtype=dtype))
    return np.ascontiguousarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def _find_gaps(X: Array) -> Array:
    """Return the mask (n, F) of missing values, or False of shape (1, 1) if there are none."""
    none = np.zeros((1, 1), dtype=bool)
    if X.dtype.kind != "f" or not np.isnan(X.sum()):  # one pass, without an array of the size of X
        return none
    gaps: Array = np.isnan(X)
    return gaps if gaps.any() else none


def _list_names(names: Sequence[str]) -> str:
    first = ", ".join(names[:_MAX_NAMES])
    return first if len(names) <= _MAX_NAMES else f"{first}, and {len(names) - _MAX_NAMES} more"


@contextlib.contextmanager
def _one_line_errors(source: str) -> Iterator[None]:
    """Turn the errors of pandas and pyarrow on a damaged file into a one-line ``UserError``."""
    try:
        yield
    except UnicodeDecodeError as error:
        found, expected = f"is not in the encoding {error.encoding}", "UTF-8, or the encoding that is set"
        raise input_error(source, found, expected, "set data.encoding, for example latin-1") from error
    except _FILE_ERRORS as error:
        found, expected = f"cannot be read ({reason(error)})", "a complete table with the same columns in each row"
        remedy = "check that the file is complete, and for CSV its quoting and data.delimiter"
        raise input_error(source, found, expected, remedy) from error
