"""Read the user's own tables: text (CSV and its kin), Parquet, Feather.

``sources`` yields the rows, ``plan`` decides what the columns are, ``columns`` makes numbers of them. Training and
prediction use the same reader and the same plan, so that values are interpreted alike. Every error is raised as a
one-line ``UserError``. Nothing in a file is executed.
"""

# Shapes: N rows of the file, n rows of a part, F features.

from __future__ import annotations

import contextlib
import difflib
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dkm.config.data import CsvData, TableData
from dkm.config.values import override
from dkm.data.files import Part, missing_label_error
from dkm.data.gaps import GapMask, GapMaskBuilder
from dkm.data.raw import RawData
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.data.stored import StoredArray, is_large
from dkm.data.tables.columns import Column, ColumnError, Mask, NotOfKindError, as_levels, named_column, parse_numbers
from dkm.data.tables.dates import example_of
from dkm.data.tables.dialect import WHITESPACE, Given
from dkm.data.tables.inference import infer
from dkm.data.tables.notation import MARK_NAMES, Known, Marks
from dkm.data.tables.nulls import null_where
from dkm.data.tables.plan import BadCellError, TablePlan
from dkm.data.tables.rows import MatrixFile, Rows, SchemaChangedError
from dkm.data.tables.sources import open_source
from dkm.data.tables.values import FAR
from dkm.data.tables.wishes import Wishes
from dkm.errors import UserError, first_of, input_error, reason

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": WHITESPACE}
MARKS = {name: mark for mark, name in MARK_NAMES.items()}
# These include pyarrow's errors.
_FILE_ERRORS = (
    *(OSError, EOFError, ValueError, LookupError, ImportError, NotImplementedError),
    *(BadZipFile, zlib.error, lzma.LZMAError, pa.ArrowMemoryError),
)
# Largest number of names listed in a message.
_MAX_NAMES = 5
_MAX_LEVELS_SHOWN = 3
# Rows that give the quartiles.
_SAMPLE_ROWS = 20_000
# The first rows, in which equal rows and values far from the others are looked for.
_MAX_CHECKED_ROWS = 200_000


class TableReader:
    """The rows of one table; ``read`` or ``parts`` reads them.

    Parameters
    ----------
    config : TableData
    key : str
        The setting that names the file, for messages.
    plan : Mapping, optional
        The plan of a trained model: its columns are read by name, in any order; others are ignored. A model of an array
        has none by name, and takes all columns in the order of the file.
    n_channels : int, optional
        Not used.

    Attributes
    ----------
    plan : TablePlan
        Decided by ``read``, or that of the model.
    report : DataReport
    filled : GapMask, optional
        The cells (n, F) that ``read`` filled; None if there are none.

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
        self.source = f"{key}={config.path}"
        self.n_rows = 0  # rows of the file read so far
        self.report = DataReport(self.source)
        self.filled: GapMask | None = None
        self.plan: TablePlan | None = None
        self.n_new: Counter[str] = Counter()
        self._new_levels: dict[str, list[str]] = {}  # the first ones of each column
        self._with_gaps: set[str] = set()  # names of columns
        self._number_categories: set[str] = set()  # of a trained model: those whose levels are numbers
        self._n_left_out: Counter[str] = Counter()
        self._n_filled: Counter[str] = Counter()
        self._config = config
        self._is_trained = plan is not None
        with _one_line_errors(self.source):
            known = Known() if plan is None else _known(plan)
            self._source = open_source(
                config.path, config.name, self.source, key, _given(config), known, config.max_expansion
            )
        self.report.decisions |= self._source.decisions
        names = self._source.names
        self._require_columns(names)
        if plan is not None:
            excluded = (*config.exclude, config.id, config.labels)
            self.plan = TablePlan.from_dict(plan, config.columns or [name for name in names if name not in excluded])
            self._require_trained_columns(names, self.plan)
            if self._source.is_text:  # a model may be given a file with other marks than it was trained on
                for column in self.plan.used:
                    column.decimal, column.thousands = self._source.decimal, self._source.thousands
            categories = [column for column in self.plan.used if column.kind == "category"]
            self._number_categories = {column.name for column in categories if _are_numbers(column.levels)}
            name = config.id or self.plan.named("id")
            if name is not None and name not in names:
                self.report.decisions["ids"] = f"none, as there is no column {name}"

    @property
    def features(self) -> tuple[str, ...]:
        assert self.plan is not None
        return self.plan.features

    @property
    def fill(self) -> npt.NDArray[np.float64] | None:
        return None if self.plan is None else self.plan.fill

    def read(self) -> RawData:
        """Return all rows; decide the plan unless a model has given it."""
        with _one_line_errors(self.source, is_trained=self._is_trained):
            rows = self._read_rows()
            if self.plan is None:
                self.plan = self._infer(rows)
                self._fit_fill(rows, self.plan)
                if self._lacks_exact_ids(rows, self.plan):
                    del rows
                    rows = self._read_rows()  # the plan has the id by now, and it is read as text
            self.n_rows = rows.num_rows
            return self._encode(rows, self.plan)

    def _lacks_exact_ids(self, rows: Rows, plan: TablePlan) -> bool:
        """Return whether the id that was found has lost how it is written: 1.0, 1e15, 007, or NA."""
        name = plan.named("id")
        if self._config.id is not None or name is None:
            return False
        if self._source.is_text and pa.types.is_integer(rows.type_of(name)):
            text = Rows(self._source.batches([name], [name], None)).column(name)
            return not pc.cast(rows.column(name), pa.string()).equals(text)
        is_float, has_gaps = pa.types.is_floating(rows.type_of(name)), rows.column(name).null_count > 0
        return bool(is_float or (has_gaps and self._source.is_text))

    def _read_rows(self) -> Rows:
        """Return all rows as they are in the file; read them again if a later cell has widened the type of a column."""
        while True:  # types only become wider, twice at most
            with contextlib.suppress(SchemaChangedError):
                return Rows(self._tables(None), self._source.stored(*self._selection()))

    def _encode(self, rows: Rows, plan: TablePlan) -> RawData:
        """Return all rows in the type that holds all columns; many of them are left in a file."""
        load, F = self._config.load, len(plan.features)
        stays_on_disk = load == "disk" or (load == "auto" and is_large(rows.num_rows * F))
        is_file = stays_on_disk or rows.is_on_disk
        try:
            dtype = plan.dtype(rows, self._with_gaps)
        except BadCellError as error:
            raise self._bad_cell_error(error, 0) from error
        matrix = MatrixFile(F, dtype) if is_file else None
        whole = np.empty((0 if is_file else rows.num_rows, F), dtype)
        filled = self._gap_mask_builder(rows.num_rows, plan)
        others: list[Part] = []
        stop = 0
        for table, start in _with_starts(rows.tables()):
            part, gaps = self._make_part(table, start, plan)
            if filled is not None:
                filled.append(gaps, len(part.position))
            if matrix is not None:
                matrix.append(part.X)
            else:
                whole[stop : stop + len(part.position)] = part.X
            stop += len(part.position)
            others.append(part._replace(X=whole[:0]))  # a slice of its rows would keep them
        position, ids, labels = (
            None if column[0] is None else np.concatenate(column)
            for column in zip(*((part.position, part.ids, part.labels) for part in others), strict=True)
        )
        X = whole[:stop] if matrix is None else matrix.finish()
        mask = None if filled is None else filled.finish()
        self.filled = mask if mask is not None and mask.any() else None
        self._finish_report(X, plan)
        assert position is not None
        return RawData(
            X,
            labels,
            position=None if stop == rows.num_rows else position,
            ids=ids,
            features=plan.features,
            fill=plan.fill,
            plan=plan.to_dict(),
            filled=self.filled,
            groups=plan.groups,
            report=self.report,
            in_memory=not stays_on_disk,
        )

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all rows in parts of at most ``n_rows`` rows of the file; parts without remaining rows are skipped."""
        assert self.plan is not None
        with _one_line_errors(self.source, is_trained=self._is_trained):
            for table, start in _with_starts(self._tables(n_rows)):
                part, _ = self._make_part(table, start, self.plan)
                self.n_rows = start + len(table)
                if len(part.position):
                    yield part
        self._report_left_out()
        self._report_filled(self.plan)
        self._report_new_levels(self.plan)

    # --- columns ---

    def _require_columns(self, names: Sequence[str]) -> None:
        """Refuse settings that name columns which the file does not have."""
        config = self._config
        if self._is_trained:
            return
        for key in ("columns", "exclude", "categorical", "numeric", "dates"):
            for name in getattr(config, key) or ():
                if name not in names:
                    raise self._no_column_error(f"data.{key}", name, names)
        for key in ("id", "labels"):
            name = getattr(config, key)
            if name is not None and name not in names:
                raise self._no_column_error(f"data.{key}", name, names)
        kinds = {key: set(getattr(config, key)) for key in ("categorical", "numeric", "dates")}
        for key, other in combinations(kinds, 2):
            if both := kinds[key] & kinds[other]:
                remedy = f"leave it out of data.{other}"
                raise input_error(f"data.{key}={min(both)}", f"also in data.{other}", "one kind", remedy)
        for name in sorted({*kinds["categorical"], *kinds["numeric"], *kinds["dates"]}):
            if name in config.exclude or name in (config.id, config.labels):
                raise input_error(
                    f"data.exclude={name}" if name in config.exclude else self.source,
                    f"column {name} has a kind and is no feature", "one of both", "leave out one of the settings",
                )  # fmt: skip

    def _require_trained_columns(self, names: Sequence[str], plan: TablePlan) -> None:
        there = set(names)
        missing = [column.name for column in plan.used if column.name not in there]
        if missing:
            noun = "column" if len(missing) == 1 else f"{len(missing)} columns"
            found = f"has no {noun} {first_of(missing, _MAX_NAMES)}; its columns are {first_of(names, _MAX_NAMES)}"
            raise input_error(self.source, found, "the columns that the model was trained on", "add or rename them")

    def _no_column_error(self, key: str, name: str, names: Sequence[str]) -> UserError:
        near = difflib.get_close_matches(name, names, n=1)
        is_list = key not in ("data.id", "data.labels")
        remedy = f"did you mean {override(key, near if is_list else near[0])}?" if near else f"correct {key}"
        return input_error(
            f"{key}={name}", f"{self.source} has no such column", f"one of {first_of(names, _MAX_NAMES)}", remedy
        )

    def _infer(self, rows: Rows) -> TablePlan:
        config = self._config
        wishes = Wishes(
            columns=config.columns,
            exclude=config.exclude,
            id=config.id,
            labels=config.labels,
            categorical=config.categorical,
            numeric=config.numeric,
            dates=config.dates,
            declared=self._source.categories,
            missing_values=getattr(config, "missing_values", None),
            is_strict=config.strict,
            decimal=self._source.decimal,
            thousands=self._source.thousands,
        )
        inferred = infer(rows, self._source.names, wishes)
        plan = TablePlan(inferred.columns, self._source.has_header)
        if config.columns is not None:  # in the order asked for
            order = {name: i for i, name in enumerate(config.columns)}
            plan.columns.sort(key=lambda column: order.get(column.name, len(order)))
        self.report.odd += inferred.odd
        if not plan.used:
            raise self._no_features_error()
        return plan

    def _no_features_error(self) -> UserError:
        found = f"no column is left of {first_of(self._source.names, _MAX_NAMES)}"
        example = override("data.categorical", self._source.names[:1])
        remedy = f"correct data.columns or data.exclude, or name the kind of a column, such as {example}"
        return input_error(self.source, found, "one feature or more", remedy)

    # --- rows ---

    def _selection(self) -> tuple[list[str], list[str]]:
        """Return the columns to read, and those of them to be read as text, exactly as they stand."""
        config, source = self._config, self._source
        if self.plan is None:
            columns = [name for name in source.names if name not in config.exclude]
            if config.columns is not None:
                wanted = {*config.columns, config.id, config.labels}
                columns = [name for name in columns if name in wanted]
            named = (config.id, config.labels)
        else:
            named = (config.id or self.plan.named("id"), config.labels)
            columns = [column.name for column in self.plan.used]
        texts = [name for name in named if name is not None and name in source.names]
        if not set(columns) - set(texts):
            raise self._no_features_error()
        columns = list(dict.fromkeys([*columns, *texts]))
        texts = texts if source.is_text else texts[:1] if named[0] in texts else []
        if self.plan is not None and source.is_text:  # the type must not depend on the rows that are there
            texts = [*texts, *(column.name for column in self.plan.used if column.kind == "category")]
        return columns, texts

    def _tables(self, n_rows: int | None) -> Iterator[pa.Table]:
        is_empty = True
        for table in self._source.batches(*self._selection(), n_rows):
            if len(table):
                is_empty = False
                yield table
        if is_empty:
            raise input_error(self.source, "no rows", "one row or more", "check how the file was written")

    def _gap_mask_builder(self, n_rows: int, plan: TablePlan) -> GapMaskBuilder | None:
        """Return what collects the gaps of the training data; None if there are none to fill."""
        if self._is_trained or not self._with_gaps or self._config.missing == "drop":
            return None
        has_gaps = [column.name in self._with_gaps for column in plan.used for _ in column.features]
        return GapMaskBuilder(n_rows, len(has_gaps), np.flatnonzero(has_gaps))

    def _make_part(self, table: pa.Table, start: int, plan: TablePlan) -> tuple[Part, Mask]:
        """Return the rows that are kept, and the mask (n, F) of their filled cells; of shape (0, 0) without gaps."""
        if self._is_trained and self._source.is_text:
            table = self._with_levels_of_numbers(table, plan)
        try:
            X, gaps, n_new = plan.encode(table)
        except BadCellError as error:
            raise self._bad_cell_error(error, start) from error
        if n_new:
            self._note_new_levels(table, plan, n_new)
        index = np.arange(start, start + len(X))
        is_kept: Mask = np.ones(len(X), dtype=bool)
        if gaps.size:
            X, is_kept = self._treat_gaps(X, gaps, index, plan)
            gaps = gaps[is_kept]
            self._count_filled(gaps, plan)
        ids = self._read_ids(table, plan)
        labels = None
        if self._config.labels is not None and self._config.labels in table.column_names:
            column = table.column(self._config.labels)
            with named_column(self._config.labels, column.type):
                labels = self._read_labels(column, start)
        if is_kept.all():
            return Part(X, index, ids, labels), gaps
        kept = Part(
            X[is_kept],
            index[is_kept],
            None if ids is None else ids[is_kept],
            None if labels is None else labels[is_kept],
        )
        return kept, gaps

    def _treat_gaps(self, X: Array, gaps: Mask, index: npt.NDArray[np.int64], plan: TablePlan) -> tuple[Array, Mask]:
        """Return the rows with their gaps filled, and the mask of the rows to keep."""
        missing = self._config.missing
        if missing == "drop":
            is_kept: Mask = np.logical_not(gaps.any(axis=1))
            self._n_left_out["a value is missing (data.missing=drop)"] += int((~is_kept).sum())
            return X, is_kept
        if missing == "refuse" or (missing is None and self._config.strict) or plan.refuses_gaps:
            raise self._missing_values_error(gaps, index, plan)
        # A row without any value is no row, unless the user asked for each gap to be filled.
        is_kept = np.logical_not(gaps.all(axis=1) & (missing is None and gaps.shape[1] > 1))
        self._n_left_out["no value in any feature"] += int((~is_kept).sum())
        fill = plan.fill
        assert fill is not None
        X = X.astype(np.float64, copy=False)
        np.copyto(X, fill, where=gaps)
        return X, is_kept

    def _fit_fill(self, rows: Rows, plan: TablePlan) -> None:
        """Set what replaces missing values of each column: the median, or the most frequent level."""
        missing = self._config.missing
        is_filled = missing not in ("drop", "refuse") and not (missing is None and self._config.strict)
        plan.refuses_gaps = not is_filled and missing != "drop"
        self._with_gaps = set()
        for column in plan.used:
            values = rows.column(column.name)
            has_gaps = _has_gaps(column, values)
            if has_gaps:
                self._with_gaps.add(column.name)
            if not is_filled or column.kind == "list":
                continue
            if not has_gaps:  # for gaps at prediction; then a sample is as good
                values = values.take(np.arange(0, len(values), 1 + len(values) // _MAX_CHECKED_ROWS))
            try:
                encoded, is_missing, _ = column.encode(values.combine_chunks())
            except NotOfKindError as error:
                raise self._bad_cell_error(BadCellError(column, error.row, error.text), 0) from error
            if is_missing.all():
                found = f"no values at all in {column.name}"
                remedy = f"set {override('data.exclude', [*self._config.exclude, column.name])}"
                raise input_error(self.source, found, "columns with values", remedy)
            column.fill = _fill_value(column, encoded, is_missing)

    def _finish_report(self, X: Array | StoredArray, plan: TablePlan) -> None:
        """Complete the report of all rows; refuse them if none is left."""
        report = self.report
        self._report_left_out()
        report.n_rows, report.columns = self.n_rows, list(plan.rows())
        if not len(X):
            found = f"every row misses a value ({first_of([column.name for column in plan.used], _MAX_NAMES)})"
            remedy = "set data.missing=median, or leave out columns"
            raise input_error(self.source, found, "complete rows", remedy)
        if self._is_trained:
            self._report_new_levels(plan)
            return
        self._report_filled(plan)
        if not self._config.strict:
            sample = X[:_MAX_CHECKED_ROWS] if isinstance(X, np.ndarray) else X.read(0, min(len(X), _MAX_CHECKED_ROWS))
            self._note_duplicates(sample)
            self._note_outliers(sample, plan)

    def _report_left_out(self) -> None:
        for why, n in (*self._n_left_out.items(), *self._source.left_out.items()):
            self.report.leave_out("rows", n, why)

    def _count_filled(self, gaps: Mask, plan: TablePlan) -> None:
        counts = gaps.sum(axis=0)
        starts = np.cumsum([0, *(len(column.features) for column in plan.used)])[:-1]
        for column, at in zip(plan.used, starts, strict=True):
            self._n_filled[column.name] += int(counts[at])

    def _report_filled(self, plan: TablePlan) -> None:
        names = [column.name for column in plan.used]
        self.report.filled = {name: self._n_filled[name] for name in names if self._n_filled[name]}

    def _with_levels_of_numbers(self, table: pa.Table, plan: TablePlan) -> pa.Table:
        """Return the table with the numbers of a category, read as text, as training read them: 1.0 is the level 1."""
        for i, name in enumerate(table.column_names):
            if name in self._number_categories:
                table = table.set_column(i, name, number_levels(table.column(name), self._source.decimal))
        return table

    def _note_new_levels(self, table: pa.Table, plan: TablePlan, n_new: Mapping[str, int]) -> None:
        self.n_new.update(n_new)
        for column in plan.used:
            shown = self._new_levels.setdefault(column.name, []) if column.name in n_new else None
            if shown is None or len(shown) == _MAX_LEVELS_SHOWN:
                continue
            values = table.column(column.name).combine_chunks()
            levels = pc.unique(as_levels(values.filter(pa.array(~column.is_missing(values))))).to_pylist()
            new = [level for level in levels if level not in {*column.levels, *shown}]
            shown += new[: _MAX_LEVELS_SHOWN - len(shown)]

    def _report_new_levels(self, plan: TablePlan) -> None:
        """Report the levels that the training did not have; without a number for others, all numbers are 0."""
        for column in plan.used:
            if n := self.n_new[column.name]:
                first = ", ".join(map(repr, self._new_levels[column.name]))
                if column.has_other:
                    what = f"{n:,} cells, rare in the training data or new, such as {first}, read as other"
                    self.report.decisions[f"new levels of {column.name}"] = what
                    continue
                known = first_of(list(map(repr, column.levels)), _MAX_NAMES)
                self.report.odd.append(
                    f"column {column.name} has {n:,} cells with levels that it did not have in training ({first}), "
                    f"which are read as none of its levels {known}"
                )

    def _note_duplicates(self, X: Array) -> None:
        # Equal rows have equal sums of products with random numbers; others have not, up to an accident of rounding.
        numbers = np.random.default_rng(0).normal(size=X.shape[1])
        sums = X @ numbers
        n_equal = len(sums) - len(np.unique(sums))
        if n_equal > 0.05 * len(sums):
            self.report.odd.append(f"{n_equal:,} of {len(sums):,} rows are equal to an earlier row")

    def _note_outliers(self, X: Array, plan: TablePlan) -> None:
        """Warn of numbers far outside of the others, which a typing error or a heavy tail makes."""
        at, far, step = 0, [], 1 + len(X) // _SAMPLE_ROWS
        lowest, highest = X.min(axis=0), X.max(axis=0)
        for column in plan.used:
            if column.kind == "number":
                low, median, high = np.quantile(X[::step, at].astype(np.float64), (0.25, 0.5, 0.75))
                extreme = max(highest[at], lowest[at], key=lambda value: abs(value - median))
                if high > low and abs(extreme - median) > FAR * (high - low):
                    far.append(f"{column.name} ({_shown(extreme)}, median {_shown(median)})")
            at += len(column.features)
        if far:
            self.report.odd.append(
                f"values far from the others in {first_of(far, _MAX_NAMES)}; errors, or heavy tails, which a "
                "logarithm would tame"
            )

    def _read_ids(self, table: pa.Table, plan: TablePlan) -> Array | None:
        name = self._config.id or plan.named("id")
        if name is None or name not in table.column_names:
            return None
        values = pc.fill_null(pc.cast(table.column(name), pa.string()), "")
        return np.array(values.to_pylist(), dtype=str)

    def _read_labels(self, column: pa.ChunkedArray, start: int) -> Array:
        values = column.combine_chunks()
        empty_mask = values.is_null()
        if pa.types.is_string(values.type):
            values = pc.utf8_trim_whitespace(values)
            empty_mask = pc.or_(empty_mask, pc.equal(values, ""))
        empty = np.flatnonzero(empty_mask.to_numpy(zero_copy_only=False))
        if len(empty):
            found = f"{len(empty):,} rows without a label, the first is row {start + empty[0]:,} (counted from 0)"
            name, columns = self._config.labels, self._config.columns
            is_feature = name is not None and (columns is None or name in columns)
            exclude = override("data.exclude", [*self._config.exclude, str(name)]) if is_feature else ""
            raise missing_label_error(name, found, exclude=exclude)
        if self._source.is_text:
            is_whole = pc.all(pc.match_substring_regex(values, r"^-?(0|[1-9]\d{0,17})$")).as_py()
            if is_whole and not self._is_trained:
                labels: Array = pc.cast(values, pa.int64()).to_numpy(zero_copy_only=False)
                return labels
            return np.array(values.to_pylist(), dtype=str)
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
            return np.asarray(values.to_numpy(zero_copy_only=False))
        return np.array(pc.cast(values, pa.string()).to_pylist(), dtype=str)

    # --- messages ---

    def _bad_cell_error(self, error: BadCellError, start: int) -> UserError:
        name, text = error.column.name, " ".join(error.text.split())[:40]
        kinds = {"number": "numbers", "boolean": "yes or no", "date": "dates", "list": "lists of the same length"}
        expected = kinds.get(error.column.kind, error.column.kind)
        found = f"column {name} has {text!r} in row {start + error.row:,} (counted from 0)"
        if self._is_trained:
            if error.column.formats:
                expected += f" such as {' or '.join(map(example_of, error.column.formats))}"
            remedy = "correct it, as in the data that the model was trained on, or leave the cell empty"
            return input_error(self.source, found, expected, remedy)
        exclude = override("data.exclude", [*self._config.exclude, name])
        if self._config.strict:
            remedy = f"set {exclude}, or data.strict=false to let the values decide"
        else:
            markers = [*getattr(self._config, "missing_values", []), text]
            remedy = f"set {exclude}, or {override('data.missing_values', markers)} if it means that there is no value"
        return input_error(self.source, found, expected, remedy)

    def _missing_values_error(self, gaps: Mask, index: npt.NDArray[np.int64], plan: TablePlan) -> UserError:
        row = int(np.flatnonzero(gaps.any(axis=1))[0])
        names = _names_with_gaps(gaps, plan)
        first = _names_with_gaps(gaps[row : row + 1], plan)[0]
        n_rows = int(gaps.any(axis=1).sum())
        where = f"in {n_rows:,} rows; the first is {first} in row {index[row]:,} (counted from 0)"
        found = f"values are missing in {first_of(names, _MAX_NAMES)}, {where}"
        remedy = "set data.missing=drop (leave out these rows) or data.missing=median (fill the gaps)"
        if self._is_trained:
            remedy = "complete them, or set data.missing=drop to leave out these rows"
        return input_error(self.source, found, "a value everywhere", remedy)


def _given(config: TableData) -> Given:
    if not isinstance(config, CsvData):
        return Given()
    return Given(
        encoding=config.encoding,
        delimiter=None if config.delimiter is None else DELIMITERS[config.delimiter],
        decimal=None if config.decimal is None else MARKS[config.decimal],
        thousands=None if config.thousands is None else MARKS[config.thousands],
        header=config.header,
    )


def _known(plan: Mapping[str, Any]) -> Known:
    """Return what the plan of a model says about further files."""
    has_header = plan.get("has_header", True if "features" in plan else None)
    if "columns" not in plan:
        return Known(has_header=has_header, names=frozenset(plan.get("features") or ()))
    used = TablePlan.from_dict(plan).used
    marks = {Marks(column.decimal, column.thousands) for column in used} - {Marks(".", "")}
    names = frozenset(column.name for column in used) if has_header else frozenset[str]()
    return Known(marks.pop() if marks else Marks(".", ""), has_header, names)


def _with_starts(tables: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, int]]:
    """Yield each table with the position of its first row in the file."""
    start = 0
    for table in tables:
        yield table, start
        start += len(table)


def _are_numbers(levels: Sequence[str]) -> bool:
    """Return whether the levels of a category are numbers as ``as_levels`` writes them, as in a column of numbers."""
    text = pa.array(levels, pa.string())
    return bool(parse_numbers(text).null_count == 0 and number_levels(text, ".").equals(text))


def number_levels(values: pa.Array | pa.ChunkedArray, decimal: str) -> pa.Array | pa.ChunkedArray:
    """Return text cells with numbers as the levels that ``as_levels`` makes of numbers; other cells stay.

    A leading zero, as in 007, or a sign around it make no number, as in the inference of types.
    """
    text = pc.utf8_trim_whitespace(values)
    is_plain = pc.match_substring_regex(text, r"^[+-]?(0|[1-9]\d*)?([.,]\d*)?([eE][+-]?\d+)?$")
    is_exact = pc.match_substring_regex(text, r"^(0|-?[1-9]\d*)$")  # perhaps more digits than a float has
    numbers = parse_numbers(null_where(pc.or_(pc.invert(is_plain), is_exact), text), decimal)
    return pc.coalesce(as_levels(numbers), text)


def _has_gaps(column: Column, values: pa.ChunkedArray) -> bool:
    if pa.types.is_floating(values.type) and not column.missing:
        return values.null_count > 0 or pc.any(pc.is_nan(values)).as_py() is True
    return any(column.is_missing(chunk).any() for chunk in values.chunks)


def _fill_value(column: Column, encoded: Array, missing: Mask) -> float | str:
    if column.kind == "category":
        return column.levels[0]
    present = encoded[~missing, 0].astype(np.float64, copy=False)
    if column.kind == "boolean":
        return float(present.mean() >= 0.5)
    if column.kind == "date" and column.cycles[0] == "day":  # sine and cosine of the time: their mean direction
        angle = np.arctan2(present.mean(), encoded[~missing, 1].mean())
        return float(angle / (2 * np.pi) % 1.0)
    return float(np.median(present))


def _names_with_gaps(gaps: Mask, plan: TablePlan) -> list[str]:
    has_gap = np.atleast_1d(gaps.any(axis=0))
    names = [column.name for column in plan.used for _ in column.features]
    return list(dict.fromkeys(name for name, is_missing in zip(names, has_gap, strict=True) if is_missing))


def _shown(value: float) -> str:
    """Return a number in the digits that tell it from others of its column, without an exponent unless it is huge."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


@contextlib.contextmanager
def _one_line_errors(source: str, *, is_trained: bool = False) -> Iterator[None]:
    """Turn the errors of pyarrow on a damaged file into a one-line ``UserError``."""
    try:
        yield
    except ColumnError as error:
        remedy = "write it as in the data that the model was trained on"
        if not is_trained:
            remedy = f"set {override('data.exclude', [error.name])}"
        found = f"column {error.name} ({error.type}) cannot be interpreted ({error.why})"
        raise input_error(source, found, "numbers, text or dates", remedy) from error
    except UnicodeDecodeError as error:
        found, expected = f"is not in the encoding {error.encoding}", "the encoding of the file"
        raise input_error(source, found, expected, "set data.encoding, for example data.encoding=cp1252") from error
    except _FILE_ERRORS as error:
        text = reason(error)
        if "UTF8" in text:
            found, expected = "has bytes that are not UTF-8", "one encoding in the whole file"
            remedy = "set data.encoding=cp1252 if it comes from Windows, or convert it"
            raise input_error(source, found, expected, remedy) from error
        found, expected = f"cannot be read ({text})", "a complete table with the same columns in each row"
        remedy = "check that the file is complete, and for CSV its quoting and data.delimiter"
        raise input_error(source, found, expected, remedy) from error
