"""Tables of the user's own: which columns, which rows, and every refusal."""

from __future__ import annotations

import gzip
import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dkm.config.data import CsvData, ParquetData
from dkm.data.datasets import load_dataset
from dkm.data.raw import RawData
from dkm.data.tables import sources
from dkm.data.tables.reader import TableReader
from dkm.errors import UserError

FRAME = pd.DataFrame(
    {
        "customer": [f"c{i:03d}" for i in range(6)],
        "age": [31, 45, 28, 60, 52, 39],
        "income": [1.5, 2.5, np.nan, 4.5, 3.5, 0.5],
        "city": ["Rome", "Oslo", "Rome", "Bern", "Oslo", "Rome"],
    }
)


def read(path: Path, frame: pd.DataFrame | str = FRAME, **settings: Any) -> tuple[RawData, TableReader]:
    file = path / "t.csv"
    if isinstance(frame, str):
        file.write_text(frame, encoding="utf-8")
    else:
        frame.to_csv(file, index=False)
    reader = TableReader(CsvData(path=str(file), **settings))
    return reader.read(), reader


def notes(reader: TableReader) -> dict[str, str]:
    return {column["name"]: column["note"] for column in reader.report.columns}


def message(path: Path, frame: pd.DataFrame | str = FRAME, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, frame, **settings)
    text = str(caught.value)
    assert re.fullmatch(r"data\.\w+=.*: .*; expected .*; .*", text), text
    return text


def test_features_are_all_columns_but_the_id_the_labels_and_the_excluded(tmp_path: Path) -> None:
    frame = FRAME.assign(kind=["a", "b", "a", "b", "a", "b"])
    part, reader = read(tmp_path, frame, id="customer", labels="kind", exclude=["city", "income"])
    assert reader.features == ("age",)
    np.testing.assert_array_equal(part.X, FRAME[["age"]])
    assert part.ids is not None
    assert part.ids.tolist() == FRAME["customer"].tolist()
    assert part.labels is not None
    assert part.labels.tolist() == ["a", "b", "a", "b", "a", "b"]


def test_the_columns_that_are_asked_for_come_in_their_order(tmp_path: Path) -> None:
    part, reader = read(tmp_path, columns=["income", "age"], missing="drop")
    assert reader.features == ("income", "age")
    np.testing.assert_array_equal(part.X, FRAME[["income", "age"]].dropna())
    assert part.position is not None
    assert part.position.tolist() == [0, 1, 3, 4, 5]


def test_gaps_are_filled_with_the_median_of_the_column(tmp_path: Path) -> None:
    part, reader = read(tmp_path, columns=["age", "income"], missing="median")
    assert part.X[2].tolist() == [28, 2.5]
    assert reader.fill is not None
    assert reader.fill.tolist() == [42.0, 2.5]


@pytest.mark.parametrize(("late", "first"), [("2.5", "1"), ("yes", "1")])
def test_a_column_may_change_its_type_far_down(late: str, first: str, tmp_path: Path) -> None:
    """The type of a column is taken from the first rows; a later cell that does not fit widens it."""
    n_rows = 300_000
    lines = [f"{row},1,1\n" for row in range(n_rows - 1)]
    (tmp_path / "t.csv").write_text("".join(["x,y,label\n", *lines, f"0,0.5,{late}\n"]), encoding="utf-8")
    reader = TableReader(CsvData(path=str(tmp_path / "t.csv"), labels="label"))
    part = reader.read()
    assert part.X.shape == (n_rows, 2)
    assert part.X[-1].tolist() == [0, 0.5]
    assert part.labels is not None
    assert part.labels[[0, -1]].tolist() == [first, late], "labels stay as they are written"


def test_the_gaps_of_a_single_column_are_filled(tmp_path: Path) -> None:
    """Of one column pandas shows its own memory, which cannot be written to."""
    part, _ = read(tmp_path, columns=["income"], missing="median")
    assert part.X[2].tolist() == [2.5]


def test_a_trained_models_columns_are_found_by_name_in_any_order_and_its_medians_fill(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("extra,income,age\nx,,1\ny,5,2\n", encoding="utf-8")
    config = CsvData(path=str(tmp_path / "t.csv"), id="customer", missing="median")
    reader = TableReader(config, key="input", plan={"features": ["age", "income"], "fill": [42.0, 2.5]})
    (part,) = reader.parts(100)
    np.testing.assert_array_equal(part.X, [[1, 2.5], [2, 5]])
    assert part.ids is None, "the file has no such column"


@pytest.mark.parametrize("n_rows", [1, 2, 4, 100])
@pytest.mark.parametrize("missing", ["drop", "median"])
def test_parts_are_the_same_rows(n_rows: int, missing: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"id": "customer", "exclude": ["city"], "missing": missing}
    whole, reader = read(tmp_path, **settings)
    config = CsvData(path=str(tmp_path / "t.csv"), **settings)
    parts = list(TableReader(config, plan={"features": reader.features, "fill": reader.fill}).parts(n_rows))
    np.testing.assert_array_equal(np.concatenate([part.X for part in parts]), whole.X)
    position = np.arange(reader.n_rows) if whole.position is None else whole.position
    np.testing.assert_array_equal(np.concatenate([part.position for part in parts]), position)
    assert whole.ids is not None
    assert np.concatenate([part.ids for part in parts if part.ids is not None]).tolist() == whole.ids.tolist()


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float32, np.float64])
def test_every_kind_of_number_is_read(dtype: Any, tmp_path: Path) -> None:
    values = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    part, _ = read(tmp_path, pd.DataFrame(values, columns=["a", "b"]))
    np.testing.assert_array_equal(part.X.astype(np.float64), values.astype(np.float64))


def test_booleans_beside_numbers_are_0_and_1(tmp_path: Path) -> None:
    part, _ = read(tmp_path, "a,b\nTrue,0.5\nFalse,2\n")
    np.testing.assert_array_equal(part.X, [[1, 0.5], [0, 2]])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_delimiter_is_what_the_first_line_has(separator: str, tmp_path: Path) -> None:
    part, _ = read(tmp_path, f"a{separator}b\n1{separator}2\n3{separator}4\n")
    np.testing.assert_array_equal(part.X, [[1, 2], [3, 4]])


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n"))
    np.testing.assert_array_equal(TableReader(CsvData(path=str(tmp_path / "t.csv.gz"))).read().X, [[1, 2], [3, 4]])


def test_a_file_without_names_counts_its_columns(tmp_path: Path) -> None:
    part, reader = read(tmp_path, "1.5,2\n3,4\n")
    assert reader.features == ("0", "1")
    np.testing.assert_array_equal(part.X, [[1.5, 2], [3, 4]])


def test_an_index_without_a_name_is_carried_along_and_no_feature(tmp_path: Path) -> None:
    part, reader = read(tmp_path, ",a\n007,1\n008,2\n")
    assert reader.features == ("a",)
    assert part.ids is not None
    assert part.ids.tolist() == ["007", "008"]


def test_a_different_whole_number_in_each_row_is_an_id_if_its_name_or_its_order_says_so(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(200) % 7, "row_id": np.arange(200)[::-1] * 3, "n": np.arange(200)})
    part, reader = read(tmp_path, frame)
    assert reader.features == ("a",)
    assert part.ids is not None
    assert part.ids[:2].tolist() == ["597", "594"]
    assert notes(reader)["n"] == "identifies rows: it counts the rows"
    part, reader = read(tmp_path, frame.rename(columns={"row_id": "income", "n": "m"}), numeric=["m"])
    assert reader.features == ("a", "income", "m"), "an amount may differ in each row"


def test_a_large_offset_keeps_its_digits_until_it_is_scaled(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    pd.DataFrame({"time": 1.7e9 + np.arange(5) / 10, "a": [1, 2, 3, 4, 6]}).to_csv(file, index=False)
    scaled = load_dataset(CsvData(path=str(file))).X
    np.testing.assert_allclose(np.asarray(scaled)[:, 0], (np.arange(5) - 2) / np.sqrt(2), rtol=1e-5)


# --- refused ------------------------------------------------------------------------------------------------


def test_strict_refuses_text_with_the_first_bad_row_and_the_remedy(tmp_path: Path) -> None:
    text = message(tmp_path, strict=True)
    assert "column customer has 'c000' in row 0 (counted from 0); expected numbers" in text
    assert text.endswith("set data.exclude=[customer], or data.strict=false to let the values decide")
    text = message(tmp_path, strict=True, id="customer", exclude=["age"])
    assert "set data.exclude=[age,city]" in text


def test_strict_refuses_gaps(tmp_path: Path) -> None:
    text = message(tmp_path, exclude=["customer", "city"], strict=True)
    assert "values are missing in income, in 1 rows; the first is income in row 2 (counted from 0)" in text
    assert "set data.missing=drop (leave out these rows) or data.missing=median (fill the gaps)" in text


def test_a_few_marks_among_numbers_are_missing_values(tmp_path: Path) -> None:
    part, reader = read(tmp_path, "a,b\n1,2\n3,?\n5,6\n", missing="drop")
    np.testing.assert_array_equal(part.X, [[1, 2], [5, 6]])
    assert [(left.n, left.reason) for left in reader.report.left_out] == [(1, "a value is missing (data.missing=drop)")]


REFUSED = {
    "no such column": ({"exclude": ["town"]}, "data.exclude=town: "),
    "no such id": ({"id": "custome"}, "did you mean data.id=customer?"),
    "no such labels": ({"labels": "kind"}, "data.labels=kind: "),
    "nothing left": ({"columns": ["city"], "exclude": ["city"]}, "no column is left"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_columns_are_refused(case: str, tmp_path: Path) -> None:
    settings, words = REFUSED[case]
    assert words in message(tmp_path, **settings)


TABLES = {
    "a,b\n1,2\n3,4,5\n": "a row of 3 cells: '3,4,5'; expected 2 cells, as in the other rows",
    "a,b\n": "no rows",
    "a,b,b\n1,2,3\n4,5,6\n": "two columns are called b; expected different names",
    "a;b\n1,234;2\n5,678;3\n": "set data.decimal=comma (1.234 in English), or data.decimal=point data.thousands=comma",
}


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_table_is_refused(table: str, tmp_path: Path) -> None:
    assert TABLES[table] in message(tmp_path, table)


def test_a_column_without_any_value_has_no_median(tmp_path: Path) -> None:
    assert "no values at all in b; " in message(tmp_path, "a,b\n1,\n2,\n", missing="median", strict=True)
    _, reader = read(tmp_path, "a,b\n1,\n2,\n")
    assert reader.features == ("a",)
    assert notes(reader)["b"] == "empty"


def test_rows_that_all_miss_something_leave_nothing(tmp_path: Path) -> None:
    assert "every row misses a value (a, b)" in message(tmp_path, "a,b\n1,\n3,\n,2\n,4\n", missing="drop")


def test_labels_must_be_there_for_each_row(tmp_path: Path) -> None:
    text = message(tmp_path, "a,y\n1,x\n2,\n", labels="y")
    assert "data.labels=y: 1 rows without a label, the first is row 1" in text


def test_the_remedy_for_missing_labels_makes_them_no_feature(tmp_path: Path) -> None:
    table = "age,town,segment\n" + "".join(f"{i},{'ab'[i % 2]},{'xyz'[i % 3]}\n" for i in range(40)) + "1,a,\n"
    text = message(tmp_path, table, labels="segment", exclude=["town"])
    assert text.endswith("or set data.labels=null data.exclude=[town,segment]: labels only score")
    _, reader = read(tmp_path, table, exclude=["town", "segment"])
    assert reader.features == ("age",)
    text = message(tmp_path, table, labels="segment", columns=["age"])
    assert text.endswith("or set data.labels=null: labels only score")


def test_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe\n1\n2\n".encode("latin-1"))
    config = CsvData(path=str(tmp_path / "t.csv"))
    reader = TableReader(config)
    reader.read()
    assert reader.features == ("größe",)
    assert reader.report.decisions["encoding"].startswith("cp1252, since it is not UTF-8")
    config.encoding = "utf-8"
    with pytest.raises(UserError, match=r"data.encoding=utf-8: .* is not in this encoding; .* set data.encoding=null"):
        TableReader(config)


def test_what_is_not_there_or_not_packed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"a\n" + bytes(range(48, 58)) * 9 + b"\n1\n")[:30])
    (tmp_path / "empty.csv").write_bytes(b"")
    for name, words in (
        ("broken.csv.gz", "cannot be read"),
        ("empty.csv", "an empty file"),
        ("no.csv", "no such file"),
    ):
        with pytest.raises(UserError, match=words):
            TableReader(CsvData(path=str(tmp_path / name))).read()


# --- Parquet ------------------------------------------------------------------------------------------------


def test_parquet_is_read_as_the_csv_is(tmp_path: Path) -> None:
    FRAME.assign(n=pd.array([1, 2, None, 4, 5, 6], dtype="Int64")).to_parquet(tmp_path / "t.parquet")
    settings: dict[str, Any] = {"id": "customer", "exclude": ["city"], "missing": "median"}
    reader = TableReader(ParquetData(path=str(tmp_path / "t.parquet"), **settings))
    part = reader.read()
    assert reader.features == ("age", "income", "n")
    np.testing.assert_array_equal(part.X[2], [28, 2.5, 4])
    assert part.ids is not None
    assert part.ids.tolist() == FRAME["customer"].tolist()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_become_days_since_the_first(unit: str, tmp_path: Path) -> None:
    days = pd.date_range("2026-01-01", periods=3, unit=unit)
    pd.DataFrame({"day": days, "a": [1, 2, 3]}).to_parquet(tmp_path / "t.parquet")
    reader = TableReader(ParquetData(path=str(tmp_path / "t.parquet")))
    np.testing.assert_array_equal(reader.read().X, [[0, 1], [1, 2], [2, 3]])
    assert reader.features == ("day (days)", "a")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(UserError, match="cannot be read"):
        TableReader(ParquetData(path=str(tmp_path / "t.parquet")))


def test_no_thread_holds_a_file_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of pyarrow that drops a Python object while the interpreter shuts down aborts the process."""
    trackers: list[sources._Tracker] = []

    class Tracker(sources._Tracker):
        def __init__(self) -> None:
            super().__init__()
            trackers.append(self)

    class SlowFile(io.BytesIO):
        def read(self, n_bytes: int | None = -1, /) -> bytes:
            time.sleep(0.02)
            return super().read(64)

    content = b"a,b\n" + b"1,2\n" * 50 + b"3,4,5\n" + b"1,2\n" * 500
    monkeypatch.setattr(sources, "_Tracker", Tracker)
    monkeypatch.setattr(sources, "open_unpacked", lambda path, *arguments: SlowFile(content))
    with pytest.raises(UserError, match="a row of 3 cells"):
        read(tmp_path, content.decode())
    assert [tracker._n_held for tracker in trackers] == [0] * len(trackers)
    assert trackers
