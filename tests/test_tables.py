"""Tables of the user's own: which columns, which rows, and every refusal."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dkm.config.data import CsvData, ParquetData
from dkm.data.datasets import load_dataset
from dkm.data.files import Part
from dkm.data.tables import TableReader
from dkm.errors import UserError

FRAME = pd.DataFrame(
    {
        "customer": [f"c{i:03d}" for i in range(6)],
        "age": [31, 45, 28, 60, 52, 39],
        "income": [1.5, 2.5, np.nan, 4.5, 3.5, 0.5],
        "city": ["Rome", "Oslo", "Rome", "Bern", "Oslo", "Rome"],
    }
)


def read(path: Path, frame: pd.DataFrame | str = FRAME, **settings: Any) -> tuple[Part, TableReader]:
    file = path / "t.csv"
    if isinstance(frame, str):
        file.write_text(frame, encoding="utf-8")
    else:
        frame.to_csv(file, index=False)
    reader = TableReader(CsvData(path=str(file), **settings))
    return reader.read(), reader


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
    assert part.position.tolist() == [0, 1, 3, 4, 5]


def test_gaps_are_filled_with_the_median_of_the_column(tmp_path: Path) -> None:
    part, reader = read(tmp_path, columns=["age", "income"], missing="median")
    assert part.X[2].tolist() == [28, 2.5]
    assert reader.fill is not None
    assert reader.fill.tolist() == [42.0, 2.5]


@pytest.mark.parametrize(("late", "kind"), [("2.5", "f"), ("yes", "U")])
def test_a_column_may_change_its_type_far_down(late: str, kind: str, tmp_path: Path) -> None:
    """pandas reads by pieces, and says of labels only in a warning that whole numbers turned into words."""
    n_rows = 300_000
    lines = [f"{row},1,1\n" for row in range(n_rows - 1)]
    (tmp_path / "t.csv").write_text("".join(["x,y,label\n", *lines, f"0,0.5,{late}\n"]), encoding="utf-8")
    reader = TableReader(CsvData(path=str(tmp_path / "t.csv"), labels="label"))
    part = reader.read()
    assert part.X.shape == (n_rows, 2)
    assert part.X[-1].tolist() == [0, 0.5]
    assert part.labels.dtype.kind == kind
    assert [str(label) for label in part.labels[[0, -1]]] == [{"f": "1.0", "U": "1"}[kind], late]


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
    np.testing.assert_array_equal(np.concatenate([part.position for part in parts]), whole.position)
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
    part, reader = read(tmp_path, "0,1\n3,4\n")
    assert len(part.X) == 1, "0, 1 are the names that pandas gives to columns without"


def test_an_index_without_a_name_is_carried_along_and_no_feature(tmp_path: Path) -> None:
    part, reader = read(tmp_path, ",a\n007,1\n008,2\n")
    assert reader.features == ("a",)
    assert part.ids is not None
    assert part.ids.tolist() == ["007", "008"]


def test_a_different_whole_number_in_each_row_is_suspected_to_be_an_id(tmp_path: Path) -> None:
    frame = pd.DataFrame({"number": np.arange(200)[::-1] * 3, "a": np.arange(200) % 7, "b": np.arange(200) / 3})
    part, reader = read(tmp_path, frame)
    assert reader.suspected_ids(part.X) == ["number"]


def test_a_large_offset_keeps_its_digits_until_it_is_scaled(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    pd.DataFrame({"time": 1.7e9 + np.arange(5) / 10, "a": [1, 2, 3, 4, 6]}).to_csv(file, index=False)
    scaled = load_dataset(CsvData(path=str(file))).X
    np.testing.assert_allclose(np.asarray(scaled)[:, 0], (np.arange(5) - 2) / np.sqrt(2), rtol=1e-5)


# --- refused ------------------------------------------------------------------------------------------------


def test_columns_of_text_are_named_with_the_first_bad_row_and_the_remedy(tmp_path: Path) -> None:
    text = message(tmp_path)
    assert "2 columns, customer, city: not only numbers, the first that is none is 'c000' in row 0" in text
    assert text.endswith("set data.id=customer data.exclude=[city], or encode them as numbers")
    text = message(tmp_path, id="customer", exclude=["age"])
    assert text.endswith("set data.exclude=[age,city], or encode them as numbers")


def test_a_few_cells_of_text_may_stand_for_missing_values(tmp_path: Path) -> None:
    table = "a,b\n1,2\n3,?\n5,6\n"
    assert "column b: not only numbers, the first that is none is '?' in row 1" in message(tmp_path, table)
    assert "data.missing_values=['?']" in message(tmp_path, table)
    part, _ = read(tmp_path, table, missing_values=["?"], missing="drop")
    np.testing.assert_array_equal(part.X, [[1, 2], [5, 6]])


def test_missing_values_are_named_with_their_columns_and_the_first_row(tmp_path: Path) -> None:
    text = message(tmp_path, exclude=["customer", "city"])
    assert "values are missing in income, in 1 rows; the first is income in row 2 (counted from 0)" in text
    assert "set data.missing=drop (leave out these rows) or median (fill the gaps)" in text


REFUSED = {
    "no such column": ({"exclude": ["town"]}, "data.exclude=town: "),
    "no such id": ({"id": "custome"}, "did you mean customer?"),
    "no such labels": ({"labels": "kind"}, "data.labels=kind: "),
    "nothing left": ({"columns": ["city"], "exclude": ["city"]}, "no column is left"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_columns_are_refused(case: str, tmp_path: Path) -> None:
    settings, words = REFUSED[case]
    assert words in message(tmp_path, **settings)


TABLES = {
    "a,b\n1,2\n3,4,5\n": "Expected 2 fields in line 3, saw 3",
    "a,b\n1,2,3\n3,4,5\n": "cannot be read (Length of header",
    "a,b\n": "no rows",
    "a,b\n1,\n2,\n": "values are missing in b, in 2 rows",
}


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_table_is_refused(table: str, tmp_path: Path) -> None:
    assert TABLES[table] in message(tmp_path, table)


def test_a_column_without_any_value_has_no_median(tmp_path: Path) -> None:
    assert "no values at all in b; " in message(tmp_path, "a,b\n1,\n2,\n", missing="median")


def test_rows_that_all_miss_something_leave_nothing(tmp_path: Path) -> None:
    assert "every row misses a value (a, b)" in message(tmp_path, "a,b\n1,\n,2\n", missing="drop")


def test_labels_must_be_there_for_each_row(tmp_path: Path) -> None:
    text = message(tmp_path, "a,y\n1,x\n2,\n", labels="y")
    assert "data.labels=y: 1 rows without a label, the first is row 1" in text


def test_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe\n1\n2\n".encode("latin-1"))
    config = CsvData(path=str(tmp_path / "t.csv"))
    with pytest.raises(UserError, match=r"is not in the encoding utf-8; .* set data.encoding, for example latin-1"):
        TableReader(config)
    config.encoding = "latin-1"
    assert TableReader(config).features == ("größe",)


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


def test_an_address_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        TableReader(CsvData(path="https://example.org/t.csv"))


# --- Parquet ------------------------------------------------------------------------------------------------


def test_parquet_is_read_as_the_csv_is(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    FRAME.assign(n=pd.array([1, 2, None, 4, 5, 6], dtype="Int64")).to_parquet(tmp_path / "t.parquet")
    settings: dict[str, Any] = {"id": "customer", "exclude": ["city"], "missing": "median"}
    reader = TableReader(ParquetData(path=str(tmp_path / "t.parquet"), **settings))
    part = reader.read()
    assert reader.features == ("age", "income", "n")
    np.testing.assert_array_equal(part.X[2], [28, 2.5, 4])
    assert part.ids is not None
    assert part.ids.tolist() == FRAME["customer"].tolist()


def test_dates_are_no_numbers(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"day": pd.date_range("2026-01-01", periods=3), "a": [1, 2, 3]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"column day: not only numbers, the first that is none is '2026-01-01"):
        TableReader(ParquetData(path=str(tmp_path / "t.parquet"))).read()


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(UserError, match="cannot be read"):
        TableReader(ParquetData(path=str(tmp_path / "t.parquet")))
