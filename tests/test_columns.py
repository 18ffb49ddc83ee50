"""What a column of a table is: cells that do not fit, types that change, ids, dates; nothing is lost in silence."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from dkm.config.data import CsvData, FeatherData, ParquetData
from dkm.data.raw import RawData
from dkm.data.tables import dates, inference, sources
from dkm.data.tables.columns import parse_numbers
from dkm.data.tables.dates import parse_dates
from dkm.data.tables.dialect import Given
from dkm.data.tables.plan import TablePlan
from dkm.data.tables.reader import TableReader
from dkm.errors import UserError

RNG = np.random.default_rng(0)
X = [f"{x:.3f}" for x in RNG.normal(size=500)]
CONFIGS = {"parquet": ParquetData, "feather": FeatherData}


def read(folder: Path, text: str, **settings: Any) -> tuple[RawData, TableReader]:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    reader = TableReader(CsvData(path=str(folder / "t.csv"), **settings))
    return reader.read(), reader


def table(name: str, cells: Sequence[object]) -> str:
    """Return a CSV file of one column of numbers, and one with these cells."""
    return f"x,{name}\n" + "".join(f'{X[i]},"{cell}"\n' for i, cell in enumerate(cells))


def read_typed(folder: Path, kind: str, *parts: pa.Array, **settings: Any) -> tuple[RawData, TableReader]:
    """Read a folder of files, each with one part of the column ``c``."""
    write = pq.write_table if kind == "parquet" else pyarrow.feather.write_feather
    for i, part in enumerate(parts):
        write(pa.table({"x": RNG.normal(size=len(part)), "c": part}), folder / f"part{i}.{kind}")
    reader = TableReader(CONFIGS[kind](path=str(folder), **settings))
    return reader.read(), reader


def column(reader: TableReader, name: str) -> dict[str, Any]:
    return next(column for column in reader.report.columns if column["name"] == name)


def predict(folder: Path, plan: TablePlan | None, text: str | None = None) -> list[Any]:
    """Return the features and ids that a model with this plan reads, in parts of 7 rows."""
    assert plan is not None
    if text is not None:
        (folder / "t.csv").write_text(text, encoding="utf-8")
    parts = list(TableReader(CsvData(path=str(folder / "t.csv")), key="input", plan=plan.to_dict()).parts(7))
    ids = None if parts[0].ids is None else np.concatenate([part.ids for part in parts if part.ids is not None])
    return [np.concatenate([part.X for part in parts]), ids]


# --- categories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [None, "drop"])
def test_a_category_without_a_frequent_level_is_left_out(missing: str | None, tmp_path: Path) -> None:
    text = table("name", [f"n{i // 2}" for i in range(402)])
    part, reader = read(tmp_path, text, missing=missing)
    assert part.X.shape == (402, 1)
    assert column(reader, "name")["note"] == "201 levels, none of them in 0.5 % of the rows"
    part, _ = read(tmp_path, text, missing=missing, categorical=["name"])
    assert part.X.shape == (402, 1 + 30 + 1)


def test_levels_of_the_same_frequency_are_not_chosen_by_the_alphabet(tmp_path: Path) -> None:
    """The 142 countries of gapminder have 12 rows each: those from A to C had become features, the others rare."""
    panel = table("country", [f"n{i // 12}" for i in range(12 * 40)])
    _, reader = read(tmp_path, panel)
    assert reader.features == ("x",)
    assert column(reader, "country")["note"] == "40 levels, about equally frequent"
    _, reader = read(tmp_path, panel, categorical=["country"])
    assert len(reader.features) == 1 + 30 + 1
    assert column(reader, "country")["note"] == (
        "40 levels, 10 rare ones joined; those of equal frequency in alphabetical order"
    )
    uneven = [*["a"] * 200, *["b"] * 60, *(f"n{i // 6}" for i in range(40 * 6))]
    _, reader = read(tmp_path, table("brand", uneven))
    assert reader.features == ("x", "brand=a", "brand=b", "brand=other")
    assert column(reader, "brand")["note"] == "42 levels, 40 rare ones joined"
    nearly_even = [f"n{i // 6}" for i in range(40 * 6)] + [f"n{i}" for i in range(5)]
    _, reader = read(tmp_path, table("brand", nearly_even))
    assert column(reader, "brand")["note"] == "40 levels, about equally frequent"
    _, reader = read(tmp_path, table("month", [f"n{i // 10}" for i in range(300)]))
    assert len(reader.features) == 31, "30 levels need no choice"


def test_a_level_that_is_called_na_is_kept_where_the_column_is_named(tmp_path: Path) -> None:
    """North America could not be a level."""
    text = table("region", ["NA", "EU", "None", "EU", "EU", "JP", ""] * 20)
    _, reader = read(tmp_path, text)
    assert reader.features == ("x", "region=EU", "region=JP")
    assert column(reader, "region")["note"] == (
        "2 levels; 'NA', 'None' mean missing, data.categorical=[region] makes levels of them"
    )
    part, reader = read(tmp_path, text, categorical=["region"])
    assert reader.features == ("x", "region=EU", "region=JP", "region=NA", "region=None")
    assert reader.report.filled == {"region": 20}
    assert predict(tmp_path, reader.plan)[0].tolist() == part.X.tolist()
    assert predict(tmp_path, reader.plan, table("region", ["NA", "", "n.a."]))[0][:, 1:].tolist() == [
        *([0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]),
    ]
    _, reader = read(tmp_path, text, categorical=["region"], missing_values=["None"])
    assert reader.features == ("x", "region=EU", "region=JP", "region=NA")
    _, reader = read(tmp_path, table("alley", ["NA"] * 190 + ["Grvl"] * 6 + ["Pave"] * 4))
    assert column(reader, "alley")["note"] == (
        "95 % missing; 'NA' means missing, data.categorical=[alley] makes a level of it"
    )
    _, reader = read(tmp_path, table("smokes", ["yes", "no", "no", "?"] * 20))
    assert column(reader, "smokes")["kind"] == "boolean"
    assert column(reader, "smokes")["note"] == "'?' means missing, data.categorical=[smokes] makes a level of it"
    _, reader = read(tmp_path, table("grade", [1, 2, 3, "NA"] * 20), categorical=["grade"])
    assert reader.features == ("x", "grade=1", "grade=2", "grade=3"), "among numbers it is no level"


@pytest.mark.parametrize("name", ["model_year", "group_size", "mpg_city", "MPG.city", "state rank", "Region-Counts"])
def test_amounts_whose_name_has_the_name_of_a_code_are_numbers(name: str, tmp_path: Path) -> None:
    """Years of models were thirteen categories that were equally far from each other."""
    assert column(read(tmp_path, table(name, [70 + i % 13 for i in range(60)]))[1], name)["kind"] == "number"
    assert (
        column(read(tmp_path, table("Age.Group", [1 + i % 3 for i in range(60)]))[1], "Age.Group")["kind"] == "category"
    )


def test_a_code_has_fewer_levels_than_half_of_the_rows(tmp_path: Path) -> None:
    species = [16, 126, 129, 13, 15, 18, 19, 23, 24, 8, 16, 13, 21, 6]
    assert column(read(tmp_path, table("Species", species))[1], "Species")["kind"] == "number"
    assert column(read(tmp_path, table("Species", species * 2))[1], "Species")["kind"] == "category"


# --- check boxes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_checked", [6, 50, 94])
def test_one_value_or_blank_is_yes_or_no(n_checked: int, tmp_path: Path) -> None:
    """A column of x and blanks was left out as constant."""
    cells = ["x" if i < n_checked else "" for i in range(100)]
    part, reader = read(tmp_path, table("paid", cells))
    assert column(reader, "paid") == {
        "name": "paid", "role": "feature", "kind": "boolean", "note": "'x' is 1, a blank cell 0"
    }  # fmt: skip
    assert part.X[:, 1].tolist() == [1.0] * n_checked + [0.0] * (100 - n_checked)
    assert reader.report.filled == {}
    assert predict(tmp_path, reader.plan)[0].tolist() == part.X.tolist()
    assert predict(tmp_path, reader.plan, table("paid", ["", "X ", "x"]))[0][:, 1].tolist() == [0, 1, 1]
    assert predict(tmp_path, reader.plan, table("paid", ["", ""]))[0][:, 1].tolist() == [0, 0]
    assert predict(tmp_path, reader.plan, table("paid", ["NA"]))[0][:, 1].tolist() == [float(n_checked >= 50)]
    with pytest.raises(UserError, match=r"column paid has 'y' in row 1"):
        predict(tmp_path, reader.plan, table("paid", ["x", "y"]))
    pq.write_table(pa.table({"x": [0.5, 1.5], "paid": pa.array([None, "x"])}), tmp_path / "t.parquet")
    assert reader.plan is not None
    plan = reader.plan.to_dict()
    for paid in (pa.array([None, "x"]), pa.nulls(2)):
        pq.write_table(pa.table({"x": [0.5, 1.5], "paid": paid}), tmp_path / "t.parquet")
        (found,) = TableReader(ParquetData(path=str(tmp_path / "t.parquet")), plan=plan).parts(10)
        assert found.X[:, 1].tolist() == [0, int(pa.types.is_string(paid.type))]


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["x"] * 97 + [""] * 3, "constant where present: x; 3 % missing"),
        (["x"] * 3 + [""] * 97, "97 % missing"),
        ([7] * 55 + [""] * 45, "constant where present: 7; 45 % missing"),
        (["5 % "] * 55 + [""] * 45, "constant where present: 5 %; 45 % missing"),
        (["yes"] * 55 + ["NA"] * 45, "constant where present: yes; 45 % missing"),
        (["x"] * 100, "constant: x"),
    ],
)
def test_other_columns_of_one_value_are_left_out(cells: list[Any], note: str, tmp_path: Path) -> None:
    assert column(read(tmp_path, table("paid", cells))[1], "paid")["note"] == note


def test_a_typed_column_of_one_text_or_null_is_yes_or_no(tmp_path: Path) -> None:
    part, _ = read_typed(tmp_path, "parquet", pa.array(["x", None] * 20))
    assert part.X[:, 1].tolist() == [1, 0] * 20


# --- types that change ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("1.5,1", "1,2.5"), ("1.5,1", "word,1"), ("1,word", "1.5,1")])
def test_a_second_change_of_types_is_read_too(
    first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 2**13)
    rows = ["1,1" if i % 3 else "2,2" for i in range(300_000)]
    rows[270_000], rows[295_000] = first, second
    part, reader = read(tmp_path, "a,b\n" + "\n".join(rows) + "\n")
    assert part.X.shape == (300_000, 2)
    expected = [[float(cell) if cell != "word" else 1 for cell in row.split(",")] for row in (first, second)]
    assert part.X[[270_000, 295_000]].tolist() == expected
    assert sum(reader.report.filled.values()) == ("word" in first + second)


def test_the_types_of_all_columns_are_widened_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each column of a table of counts with fractions far down had made the file read once more from its start."""
    n_columns, n_rows = 40, 30_000
    rows = [",".join(["1", "2"][i % 2] for _ in range(n_columns)) for i in range(n_rows)]
    for i in range(n_columns):
        cells = rows[n_rows - n_columns + i].split(",")
        cells[i] = "0.5"
        rows[n_rows - n_columns + i] = ",".join(cells)
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 2**15)
    n_opened = 0
    open_unpacked = sources.open_unpacked

    def count(*args: Any) -> Any:
        nonlocal n_opened
        n_opened += 1
        return open_unpacked(*args)

    monkeypatch.setattr(sources, "open_unpacked", count)
    part, _ = read(tmp_path, ",".join(f"c{i}" for i in range(n_columns)) + "\n" + "\n".join(rows) + "\n")
    assert np.diag(part.X[-n_columns:]).tolist() == [0.5] * n_columns
    assert n_opened <= 5, "head, first pass, types, the rest of the pass, second pass"


PARTS = {
    "gap": (pa.array([1, 2, 2**53 + 1]), pa.array([1.5, None, 2]), [1, 2, 2.0**53, 1.5, 2, 2]),
    "width": (pa.array([1, 2, 3], pa.int8()), pa.array([1, 2, 300]), [1, 2, 3, 1, 2, 300]),
    "none": (pa.nulls(3), pa.array([1.5, 2, 3]), [2, 2, 2, 1.5, 2, 3]),
    "boolean": (pa.array([True, False, True]), pa.array([1, 2, 3]), [1, 0, 1, 1, 2, 3]),
    "decimal": (pa.array([1, 2, 3]), pa.array(["1.5", "2", "3"]).cast(pa.decimal128(2, 1)), [1, 2, 3, 1.5, 2, 3]),
    "text": (pa.array([1, 2, 3]), pa.array(["1.5", "2", "3"]), [1, 2, 3, 1.5, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("case", PARTS)
def test_files_whose_types_differ_are_read_in_a_common_one(case: str, kind: str, tmp_path: Path) -> None:
    first, second, expected = PARTS[case]
    part, reader = read_typed(tmp_path, kind, first, second)
    assert part.X[:, 1].tolist() == expected
    told = reader.report.decisions.get("types", "")
    assert told.startswith(f"c is {first.type} and {second.type} in different files") == (case != "none")
    part, _ = read_typed(tmp_path, kind, second, first)
    assert part.X[:, 1].tolist() == expected[3:] + expected[:3]


def test_dates_texts_and_lists_of_files_whose_types_differ(tmp_path: Path) -> None:
    days = [datetime.date(2024, 1, i) for i in (1, 2, 3)]
    for i, (first, second, expected) in enumerate(
        [
            (pa.array(days), pa.array(days).cast(pa.timestamp("ns")), [0, 1, 2, 0, 1, 2]),
            (pa.array(["u", "v", "u"]), pa.nulls(3), [1, 0, 1, 1, 1, 1]),
            (pa.array([[1.0, 2]] * 3), pa.array([[3.0, 4]] * 3, pa.list_(pa.float32(), 2)), [1, 1, 1, 3, 3, 3]),
        ]
    ):
        (tmp_path / str(i)).mkdir()
        part, _ = read_typed(tmp_path / str(i), "parquet", first, second)
        assert part.X[:, 1].tolist() == expected


def test_types_that_have_nothing_in_common_are_refused_by_the_name_of_the_column(tmp_path: Path) -> None:
    parts = (pa.array([1.5, 2, 3]), pa.array([[1.5], [2], [3]]))
    with pytest.raises(UserError, match=r"column c is double in part0.parquet and list<.*> in part1.parquet; expected"):
        read_typed(tmp_path, "parquet", *parts)
    assert read_typed(tmp_path, "parquet", *parts, exclude=["c"])[0].X.shape == (6, 1)


def test_a_typed_table_of_many_columns_is_read_in_time_that_is_linear_in_them(tmp_path: Path) -> None:
    """A list of all columns was copied for each column: 260 s for 20,000 columns of 20 rows."""
    n_columns = 5000
    names = [f"g{i}" for i in range(n_columns)]
    pq.write_table(pa.table({name: [0.5, 1.5] for name in names}), tmp_path / "t.parquet")
    source = sources.open_source(str(tmp_path / "t.parquet"), "parquet", "data.path", "data.path", Given(), None, 1000)
    start_s = time.process_time()
    (found,) = source.batches(names, [], None)
    assert found.shape == (2, n_columns)
    assert time.process_time() - start_s < 1.5


# --- numbers in another notation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "value"), [("(500)", -500), ("500-", -500), ("($1.5)", -1.5), ("€ 2-", -2)])
def test_the_negative_numbers_of_accounting_are_read_and_told(cell: str, value: float, tmp_path: Path) -> None:
    text = table("saldo", [*range(97), *[cell] * 3])
    part, reader = read(tmp_path, text)
    assert part.X[-3:, 1].tolist() == [value] * 3
    assert repr(cell) in column(reader, "saldo")["note"]
    np.testing.assert_array_equal(predict(tmp_path, reader.plan)[0], part.X)


@pytest.mark.parametrize(
    "mark", ["..", ":", "na", "n.a.", "N.A.", "\u2013", r"\N", "(null)", "#DIV/0!", "#REF!", "#VALUE!", "#NUM!"]
)
def test_marks_of_databases_and_spreadsheets_mean_missing(mark: str, tmp_path: Path) -> None:
    """In more than 5 % of the cells they had made a column of numbers one of distinct texts, which was left out."""
    cells = [mark if i % 5 == 4 else 7 * i % 40 for i in range(100)]
    part, reader = read(tmp_path, table("v", cells))
    assert reader.features == ("x", "v")
    assert reader.report.filled == {"v": 20}
    assert predict(tmp_path, reader.plan)[0].tolist() == part.X.tolist()
    _, reader = read(tmp_path, table("v", [mark if i % 5 == 4 else "ab"[i % 2] for i in range(100)]))
    assert reader.features == ("x", "v=a", "v=b")


def test_the_plan_of_an_earlier_model_keeps_its_levels(tmp_path: Path) -> None:
    """Marks that were levels then are levels now."""
    fields = [{"name": "x", "kind": "number"}, {"name": "v", "kind": "category", "levels": ["na", "u"], "fill": "na"}]
    plan = TablePlan.from_dict({"columns": fields, "has_header": True, "refuses_gaps": False})
    X, _ = predict(tmp_path, plan, table("v", ["na", "u", "NA"]))
    assert X[:, 1:].tolist() == [[1, 0], [0, 1], [1, 0]]


def test_a_column_of_numbers_and_words_is_told_with_what_reads_it(tmp_path: Path) -> None:
    """It was left out as distinct texts, or became the id, without a word."""
    words = ["sold", "on request", "sold", "n/v"]
    text = table("price", [words[i // 4 % 4] if i % 4 == 0 else 100.5 + 7 * i % 390 for i in range(200)])
    _, reader = read(tmp_path, text)
    assert reader.features == ("x",)
    assert reader.report.odd == [
        "column price has numbers in 75 % of its cells and 'sold', 'on request', 'n/v' in others, and is not a "
        "feature; 'data.missing_values=[sold,\"on request\",n/v]' reads them as missing, and the column as numbers"
    ]
    _, reader = read(tmp_path, text, missing_values=["sold", "n/v", "on request"])
    assert reader.features == ("x", "price")
    assert reader.report.filled == {"price": 50}
    assert reader.report.odd == []
    _, reader = read(tmp_path, table("kids", ["0", "1", "2", "3 or more"] * 30), missing_values=["unknown"])
    assert reader.report.odd == [
        "column kids has numbers in 75 % of its cells and '3 or more' in others, and is read as a category; "
        "'data.missing_values=[unknown,\"3 or more\"]' reads them as missing, and the column as numbers; "
        "data.categorical=[kids] confirms the category"
    ]
    _, reader = read(tmp_path, table("kids", ["0", "1", "2", "3 or more"] * 30), categorical=["kids"])
    assert reader.report.odd == []
    _, reader = read(tmp_path, table("code", [i if i % 3 else f"A{i}" for i in range(60)]), exclude=[])
    assert reader.report.odd == [
        "column code has numbers in 67 % of its cells and 'A0', 'A12', 'A15', ... in others, and is not a feature; "
        "correct the file, or leave the column out with data.exclude=[code]"
    ]
    assert read(tmp_path, table("code", ["A", "B", "1"] * 20))[1].report.odd == []
    assert read(tmp_path, table("ID", [i if i % 3 else f"A{i}" for i in range(60)]))[1].report.odd == []


def test_a_typed_table_has_no_words_for_missing_values(tmp_path: Path) -> None:
    _, reader = read_typed(tmp_path, "parquet", pa.array([str(i) if i % 3 else "sold" for i in range(60)]))
    assert reader.report.odd[0].endswith("leave the column out with data.exclude=[c]")


@pytest.mark.parametrize("minus", ["\u2212", "\u2013"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_a_typeset_minus_is_a_minus(decimal: str, minus: str, tmp_path: Path) -> None:
    """A column of temperatures from a text processor was left out as distinct texts."""
    values = [round(-20 + 0.37 * i, 2) for i in range(100)]
    cells = [str(value).replace("-", minus).replace(".", decimal) for value in values]
    part, reader = read(tmp_path, "t;u\n" + "".join(f"{cell};{cell}\n" for cell in cells))
    assert part.X.tolist() == [[value, value] for value in values]
    assert column(reader, "t")["note"] == f"{minus!r} means minus"
    assert predict(tmp_path, reader.plan)[0].tolist() == part.X.tolist()
    X, _ = predict(tmp_path, reader.plan, f"t;u\n{minus}{decimal}5;-1{decimal}5\n")
    assert X.tolist() == [[-0.5, -1.5]]
    assert parse_numbers(pa.array([f"{minus}5", f"{minus}", f"5{minus}7", f"{minus}{minus}5"])).to_pylist() == [
        *(-5, None, None, None),
    ]


def test_numbers_in_parentheses_alone_are_no_amounts(tmp_path: Path) -> None:
    _, reader = read(tmp_path, table("note", [f"({i % 3})" for i in range(60)]))
    assert column(reader, "note")["kind"] == "category"
    assert parse_numbers(pa.array(["(5)", "(-5)", "-5-", "5-6-", "()", "-"]), negatives=True).to_pylist() == [
        *(-5, None, None, None, None, None),
    ]


@pytest.mark.parametrize("cell", ["<5", ">90", "12 kg", "1.234.567"])
def test_a_cell_with_digits_that_is_read_as_missing_is_told_as_odd(cell: str, tmp_path: Path) -> None:
    amounts = [2 * (i % 40) for i in range(97)]
    text = table("saldo", [*amounts, *[cell] * 3])
    _, reader = read(tmp_path, text)
    assert reader.report.filled == {"saldo": 3}
    (odd,) = reader.report.odd
    assert odd.startswith(f"column saldo has {cell!r} in 3 cells, which is no plain number and is read as missing;")
    assert "data.exclude=[saldo]" in odd
    _, reader = read(tmp_path, text, missing_values=[cell])
    assert reader.report.odd == [], "the user has said it"
    _, reader = read(tmp_path, table("saldo", [*amounts, *["unknown"] * 3]))
    assert reader.report.odd == []
    assert column(reader, "saldo")["note"] == "'unknown' means missing"


def test_what_means_missing_in_one_column_does_so_in_others(tmp_path: Path) -> None:
    """-99 was missing among incomes, and a value among grades from 1 to 5."""
    n = 80
    income = [-99 if i % 11 == 0 else 800 + 37 * i % 4000 for i in range(n)]
    grade = [-99 if i % 13 == 0 else 1 + i % 5 for i in range(n)]
    once = [-99 if i == 5 else i * i % 97 for i in range(n)]
    change = [-99 + 2 * i for i in range(n)]
    rows = [f"{a},{b},{c},{d}\n" for a, b, c, d in zip(income, grade, once, change, strict=True)]
    text = "income,grade,once,change\n" + "".join(rows)
    part, reader = read(tmp_path, text)
    assert reader.report.filled == {"income": 8, "grade": 7, "once": 1}
    assert reader.report.odd == [
        "-99 in 3 columns (income, grade, once) lies far below all other values there, and is read as missing; "
        "data.numeric=[income,grade,once] reads it as a number there"
    ]
    assert predict(tmp_path, reader.plan)[0].tolist() == part.X.tolist()
    _, reader = read(tmp_path, text, numeric=["income"])
    assert reader.report.filled == {}, "nothing else says what it means"
    _, reader = read(tmp_path, text, categorical=["grade"])
    assert "grade=-99" in reader.features
    rows = [
        f"{a},{a},{a},{i % 3 or -2},{i % 2 or -2},0.{i}\n"
        for i, a in enumerate([-2, *(7 * i % 40 for i in range(40)), -2])
    ]
    _, reader = read(tmp_path, "a,b,c,d,e,f\n" + "".join(rows))
    assert reader.report.filled == {"a": 2, "b": 2, "c": 2}, "-2, 1 and 2 are codes"


def test_values_far_from_the_others_are_told_without_exponents(tmp_path: Path) -> None:
    incomes = [30_000 + 1_000 * (i % 40) for i in range(100)]
    _, reader = read(tmp_path, table("income", [*incomes, 66_666_666]))
    assert reader.report.odd == [
        "values far from the others in income (66,666,666, median 46,000); errors, or heavy tails, which a logarithm "
        "would tame"
    ]
    _, reader = read(tmp_path, table("share", [*(0.5 + income / 1e6 for income in incomes), 12.3456]))
    assert reader.report.odd[0].startswith("values far from the others in share (12.35, median 0.546);")
    _, reader = read(tmp_path, table("income", incomes))
    assert reader.report.odd == []


# --- ids --------------------------------------------------------------------------------------------------------------

ORDER = [int(i) for i in RNG.permutation(1000)[:200]]
IDS = {
    "19 digits": [1234567890123456789 + 1_000_003 * i for i in ORDER],
    "20 digits": [12345678901234567890 + 1_000_003 * i for i in ORDER],
    "a gap": [*ORDER[:199], "NA"],
    "an empty gap": ["", *ORDER[1:]],
    "a footer": [*ORDER, "Total"],
    "floats": [f"{i}.0" for i in ORDER],
}


@pytest.mark.parametrize("case", IDS)
def test_distinct_whole_numbers_below_the_name_of_an_id_are_the_id(case: str, tmp_path: Path) -> None:
    part, reader = read(tmp_path, table("id", IDS[case]))
    assert reader.features == ("x",)
    assert column(reader, "id")["role"] == "id"
    assert part.ids is not None
    assert part.ids.tolist() == [str(cell) for cell in IDS[case]], "as they are written"
    X, ids = predict(tmp_path, reader.plan)
    np.testing.assert_array_equal(X, part.X)
    assert ids.tolist() == part.ids.tolist()


def test_an_id_with_many_gaps_is_left_out(tmp_path: Path) -> None:
    part, reader = read(tmp_path, table("id", ["" if i % 3 == 0 else i for i in ORDER]))
    assert part.ids is None
    assert column(reader, "id")["note"].startswith("identifies rows: a different number in each row")
    assert "missing" in column(reader, "id")["note"]


def test_a_different_whole_number_in_each_row_is_told_where_one_is_missing(tmp_path: Path) -> None:
    _, reader = read(tmp_path, table("member", ["", *ORDER[1:]]))
    assert reader.features == ("x", "member")
    assert "column member has a different whole number in each row" in reader.report.odd[0]


@pytest.mark.parametrize("kind", ["int", "float"])
def test_typed_ids_are_decided_by_the_values_that_are_there(kind: str, tmp_path: Path) -> None:
    values: list[Any] = [None, *(10**16 + 2 * i for i in ORDER[1:])]
    typed = [value if value is None or kind == "int" else float(value) for value in values]
    pq.write_table(pa.table({"id": typed, "x": RNG.normal(size=200)}), tmp_path / "t.parquet")
    part = TableReader(ParquetData(path=str(tmp_path / "t.parquet"))).read()
    assert part.ids is not None
    assert part.ids.tolist() == ["", *map(str, values[1:])]


@pytest.mark.parametrize("name", ["CUSTOMER_ID", "ID", "Id", "customer_id", "CustomerID"])
def test_repeated_ids_are_left_out_in_capitals_too(name: str, tmp_path: Path) -> None:
    _, reader = read(tmp_path, table(name, [i // 4 for i in ORDER]))
    assert column(reader, name)["note"] == "numbers that name something, by its name"


def test_measures_that_are_called_no_number_or_index_are_features(tmp_path: Path) -> None:
    """Votes against, the survivors of a life table and an index of prices had become the id, or were left out."""
    votes = [[int(n) for n in RNG.permutation(9000)[:50]] for _ in range(2)]
    rows = "".join(f"{yes},{no},c{i % 3}\n" for i, (yes, no) in enumerate(zip(*votes, strict=True)))
    assert "votes_no" in read(tmp_path, f"votes_yes,votes_no,c\n{rows}")[1].features
    assert "No" in read(tmp_path, f"Yes,No,c\n{rows}")[1].features
    assert "votes_no" not in read(tmp_path, f"votes_in,votes_no,c\n{rows}")[1].features
    survivors = [1000, *np.cumsum([-145, *[-11] * 40]) + 1000]
    trend = [100 + i + i * i // 7 for i in range(40)]
    assert read(tmp_path, table("number", survivors))[1].features == ("x", "number")
    for name in ("index", "price_index"):
        assert read(tmp_path, table(name, trend))[1].features == ("x", name)


NUMBERS = {
    "counter": ("Number", [int(i) for i in RNG.permutation(60)]),
    "counter from 500": ("order number", list(range(500, 560))),
    "counter with gaps": ("obs_index", [3 * i // 2 for i in range(60)]),
    "many different ones": ("number", [int(i) for i in RNG.permutation(4000)[:400]]),
    "codes": ("account_number", [int(i) for i in RNG.integers(10**7, 10**8, 60)]),
    "numero": ("invoice_no", [int(i) for i in RNG.permutation(9000)[:60]]),
    "nr": ("nr", [int(i) for i in RNG.permutation(9000)[:60]]),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_counters_and_codes_that_are_called_number_or_index_are_ids(case: str, tmp_path: Path) -> None:
    name, values = NUMBERS[case]
    assert column(read(tmp_path, table(name, values))[1], name)["role"] == "id"


@pytest.mark.parametrize("values", [[*range(1, 21)] * 3, [*range(60)]])
def test_an_index_that_a_program_wrote_counts(values: list[int], tmp_path: Path) -> None:
    assert column(read(tmp_path, table("index", values))[1], "index")["note"] == "an index that a program wrote"


@pytest.mark.parametrize("name", ["schoolid", "USERID", "my_townid", "schoolid2", "identifier", "CountryIdentifier"])
def test_ids_in_one_word_are_ids(name: str, tmp_path: Path) -> None:
    """They were quantities: the number of a school is none."""
    assert column(read(tmp_path, table(name, ORDER))[1], name)["role"] == "id"
    _, reader = read(tmp_path, table(name, [i // 4 for i in ORDER]))
    assert column(reader, name)["note"] == "numbers that name something, by its name"


@pytest.mark.parametrize("name", ["StoreID", "plot_id", "id", "townid"])
@pytest.mark.parametrize("first", [1, 7001])
def test_the_numbers_of_a_few_things_are_a_category(first: int, name: str, tmp_path: Path) -> None:
    """Twelve stores were a quantity, thirty-one were left out."""
    part, reader = read(tmp_path, table(name, [first + i % 12 for i in range(200)]))
    assert column(reader, name)["note"] == "12 levels; numbers that name something, by its name"
    assert part.X[:, 1:].sum() == 200
    np.testing.assert_array_equal(predict(tmp_path, reader.plan)[0], part.X)
    _, reader = read(tmp_path, table(name, [first + i % 12 for i in range(20)]))
    assert column(reader, name)["role"] == "left_out", "hardly any level has two rows"
    _, reader = read(tmp_path, table(name, [first + i % 12 for i in range(200)]), numeric=[name])
    assert column(reader, name)["kind"] == "number"


@pytest.mark.parametrize("name", ["paid", "Humid", "GRID", "acid", "partyid", "medicaid", "placid", "resid", "pid7"])
def test_a_word_that_ends_in_id_is_no_id(name: str, tmp_path: Path) -> None:
    assert read(tmp_path, table(name, ORDER))[1].features == ("x", name)
    assert read(tmp_path, table(name, [i // 4 for i in ORDER]))[1].features == ("x", name)


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", ["x", "X", "x1", "x_coord", "lon"])
def test_a_coordinate_beside_x_is_no_answer(x: str, tmp_path: Path) -> None:
    """The points of ruspini were clustered by x alone."""
    rows = "".join(f"{i * 7 % 61},{i * 11 % 53},{i % 2}\n" for i in range(80))
    _, reader = read(tmp_path, f"{x},y,class\n{rows}")
    assert reader.features == (x, "y")
    assert column(reader, "y")["note"] == f"a quantity beside {x}, not the answer"
    _, reader = read(tmp_path, f"{x},class,y\n{rows}")
    assert reader.features == (x,), "0 and 1 are an answer"


def test_what_makes_a_feature_of_an_answer_fits_its_values(tmp_path: Path) -> None:
    for n, kind in ((11, "numeric"), (10, "categorical")):
        _, reader = read(tmp_path, table("y", [i % n for i in range(99)]).replace("x,", "a,", 1))
        assert reader.features == ("a",)
        assert reader.report.odd == [
            "column y is left out, since its name says that it has the answer; data.labels=y scores the clusters "
            f"against it, data.{kind}=[y] makes it a feature"
        ]
    _, reader = read(tmp_path, table("ground truth", ["a", "b", "c"] * 33))
    assert "'data.labels=\"ground truth\"' scores" in reader.report.odd[0]


# --- dates ------------------------------------------------------------------------------------------------------------

DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(days=5 * i) for i in range(100)]


def test_dates_that_do_not_exist_are_none() -> None:
    texts = [f"{y}-{m:02d}-{d:02d}" for y in (1900, 2000, 2023, 2024) for m in range(14) for d in range(33)]

    def exists(text: str) -> bool:
        try:
            datetime.date.fromisoformat(text)
        except ValueError:
            return False
        return True

    assert parse_dates(pa.array(texts), ["iso"]).is_valid().to_pylist() == [exists(text) for text in texts]
    times = ["00:00", "23:59:59.5", "24:00", "12:60", "12:00:60", "12:00+23:59", "12:00+24:00", "12:00Z"]
    parsed = parse_dates(pa.array([f"2024-01-01T{text}" for text in times]), ["iso"])
    assert parsed.is_valid().to_pylist() == [True, True, False, False, False, True, False, True]


@pytest.mark.parametrize("cells", [["1234-56-78", "abc"], ["2024-31-01", "2024-30-12"], ["2024-02-30", "2024-02-01"]])
def test_what_looks_like_a_date_and_is_none_is_a_category(cells: list[str], tmp_path: Path) -> None:
    _, reader = read(tmp_path, table("d", cells * 30))
    assert column(reader, "d")["kind"] == "category"


@pytest.mark.parametrize(
    "format_",
    ["iso", "duration", *dates.DATE_FORMATS, *dates.MONTH_FORMATS, *dates.DATE_TIME_FORMATS[:2], *dates.TIME_FORMATS],
)
def test_the_example_of_a_format_is_read_in_it(format_: str) -> None:
    assert parse_dates(pa.array([dates.example_of(format_)]), [format_]).null_count == 0


def test_a_date_in_another_format_than_in_training_is_told_with_the_format(tmp_path: Path) -> None:
    _, reader = read(tmp_path, table("d", [day.strftime("%d.%m.%Y") for day in DAYS]))
    expected = r"column d has '05/15/2024' in row 0 .*; expected dates such as 31\.01\.2024; "
    with pytest.raises(UserError, match=expected):
        predict(tmp_path, reader.plan, table("d", ["05/15/2024"]))


@pytest.mark.parametrize("none", ["0000-00-00", "0000-00-00 00:00:00"])
def test_the_zero_date_means_missing(none: str, tmp_path: Path) -> None:
    part, reader = read(tmp_path, table("d", [*DAYS, none, none]))
    assert reader.report.filled == {"d": 2}
    assert column(reader, "d")["note"] == "0000-00-00 means missing; days since the first"
    np.testing.assert_array_equal(predict(tmp_path, reader.plan)[0], part.X)
    _, reader = read(tmp_path, table("d", DAYS))
    assert predict(tmp_path, reader.plan, table("d", ["2024-01-02", none]))[0][:, 1].tolist() == [1, 247.5]


def test_a_cell_among_dates_that_is_no_date_is_missing_and_told(tmp_path: Path) -> None:
    _, reader = read(tmp_path, table("d", [*DAYS, "2023-02-30"]))
    assert reader.report.filled == {"d": 1}
    assert reader.report.odd[0].startswith(
        "column d has '2023-02-30' in 1 cell, which is no date and is read as missing"
    )
    expected = r"column d has '2023-02-31' in row 1 \(counted from 0\); expected dates such as 2024-01-31; correct"
    with pytest.raises(UserError, match=expected):
        predict(tmp_path, reader.plan, table("d", ["2024-01-02", "2023-02-31"]))
    with pytest.raises(UserError, match=r"column d has '2023-02-30' in row 100 .* data.missing_values=\[2023-02-30\]"):
        read(tmp_path, table("d", [*DAYS, "2023-02-30"]), dates=["d"])


@pytest.mark.parametrize("is_asked", [False, True])
@pytest.mark.parametrize("is_upper", [False, True])
@pytest.mark.parametrize(
    "format_", ["%d %b %Y", "%B %d, %Y", "%d-%b-%y", "%b %d, %Y", "%d %B %Y", "%d %b %Y %H:%M", "%Y%m%dT%H%M%S"]
)
def test_dates_with_the_name_of_a_month(format_: str, is_upper: bool, is_asked: bool, tmp_path: Path) -> None:
    cells = [day.strftime(format_) for day in DAYS]
    text = table("d", [cell.upper() for cell in cells] if is_upper else cells)
    part, _ = read(tmp_path, text, dates=["d"] if is_asked else [])
    assert part.X[:, 1].tolist() == [5 * i for i in range(100)]


FORMATS = {
    "month": ("%Y-%m", 31),
    "month with slashes": ("%m/%Y", 31),
    "month of a spreadsheet": ("%b-%y", 31),
    "month by name": ("%B %Y", 31),
    "year and month": ("%Y %b", 31),
    "American": ("%b %d %Y", 5),
    "slashes and a name": ("%d/%b/%Y", 5),
    "day of the week": ("%a, %d %b %Y", 5),
    "points": ("%Y.%m.%d", 5),
    "two digits": ("%d-%m-%y", 5),
    "UTC": ("%Y-%m-%d %H:%M:%S UTC", 5),
    "GMT": ("%a, %d %b %Y %H:%M:%S GMT", 5),
    "zone without a colon": ("%Y-%m-%dT%H:%M:%S.000+0000", 5),
    "comma before the time": ("%d.%m.%Y, %H:%M", 5),
}


@pytest.mark.parametrize("case", FORMATS)
def test_further_formats_of_dates_are_read(case: str, tmp_path: Path) -> None:
    """They were categories, or distinct texts that were left out or became the id."""
    format_, step = FORMATS[case]
    first = datetime.date(2020, 1, 1)
    days = [first + datetime.timedelta(days=step * i) for i in range(80)]
    shown = [day.replace(day=1) if step == 31 else day for day in days]
    part, reader = read(tmp_path, table("d", [day.strftime(format_) for day in days]))
    assert column(reader, "d")["kind"] == "date"
    assert part.X[:, 1].tolist() == [(day - first).days for day in shown]
    np.testing.assert_array_equal(predict(tmp_path, reader.plan)[0], part.X)


@pytest.mark.parametrize(("form", "n_days"), [("{} Q{}", 91), ("{}q{}", 91), ("Q{1} {0}", 91), ("{} W{:02d}", 7)])
def test_quarters_and_weeks_are_their_first_day(form: str, n_days: int, tmp_path: Path) -> None:
    if n_days == 7:
        days = [datetime.date(2018, 1, 1) + datetime.timedelta(days=7 * i) for i in range(160)]
        cells = [form.format(*day.isocalendar()[:2]) for day in days]
        assert "2020 W53" in cells
    else:
        days = [datetime.date(1998 + i // 4, 1 + 3 * (i % 4), 1) for i in range(40)]
        cells = [form.format(day.year, 1 + day.month // 3) for day in days]
    part, reader = read(tmp_path, table("d", cells))
    assert part.X[:, 1].tolist() == [(day - days[0]).days for day in days]
    np.testing.assert_array_equal(predict(tmp_path, reader.plan)[0], part.X)
    none = ["1998 Q5", "1998 W54", "2021 W53", "1998 W00", "98 Q1", "1998-1", "abc", None]
    assert parse_dates(pa.array(none), ["quarter", "week"]).null_count == len(none)


def test_dates_that_can_be_read_in_two_ways_are_told(tmp_path: Path) -> None:
    def note(cells: list[str]) -> str:
        return str(column(read(tmp_path, table("d", cells * 10))[1], "d")["note"])

    assert note(["05-01-10", "06-02-10", "07-03-11"]).startswith("day, month or year first? read as %d-%m-%y; ")
    assert note(["10-01-05", "10-02-06", "11-03-07"]).startswith("day, month or year first? read as %y-%m-%d; ")
    assert note(["05-01-99", "06-02-99", "07-03-98"]).startswith("day or month first? read as %d-%m-%y; ")
    assert note(["10/01/05", "10/02/06", "11/03/07"]).startswith("day, month or year first? read as %d/%m/%y; ")
    assert note(["99/12/31", "98/01/13"]).startswith("format %y/%m/%d; ")
    assert note(["Jan-10", "Feb-11", "Dec-12"]).startswith("year or day after the month? read as %b-%y; ")
    assert note(["Jan-99", "Feb-98", "Dec-97"]).startswith("format %b-%y; ")


@pytest.mark.parametrize(
    "cells", [["2010-11", "2011-12", "2012-13"], ["2000-1", "2000-2"], ["1234-05", "1234-06"], ["1.2", "1.2.3"]]
)
def test_seasons_and_codes_are_no_months(cells: list[str], tmp_path: Path) -> None:
    assert column(read(tmp_path, table("d", cells * 30))[1], "d")["kind"] == "category"


@pytest.mark.parametrize("kind", ["csv", "int", "float", "words"])
def test_whole_numbers_that_are_dates_are_read_as_dates(kind: str, tmp_path: Path) -> None:
    """From 20191231 to 20200101 is a day, not 8,870."""
    days = [datetime.date(2019, 11, 1) + datetime.timedelta(days=3 * i) for i in range(100)]
    numbers: list[Any] = [int(day.strftime("%Y%m%d")) for day in days]
    if kind in ("csv", "words"):
        text = table("created", [*numbers, "unknown"] if kind == "words" else numbers)
        part, reader = read(tmp_path, text)
        np.testing.assert_array_equal(predict(tmp_path, reader.plan)[0], part.X)
        numeric, _ = read(tmp_path, text, numeric=["created"], missing_values=["unknown"])
        assert numeric.X[0, 1] == 20191101
    else:
        values = pa.array(numbers if kind == "int" else [None, *map(float, numbers[1:])])
        part, reader = read_typed(tmp_path, "parquet", values)
    name = reader.features[1].split()[0]
    assert part.X[1:100, 1].tolist() == [(day - days[kind == "float"]).days for day in days[1:]]
    assert column(reader, name)["note"].endswith(
        f"format %Y%m%d; days since the first; data.numeric=[{name}] reads the whole numbers as they are"
    )


def test_whole_numbers_that_may_be_dates_by_chance_stay_numbers(tmp_path: Path) -> None:
    counter = [20190101 + i % 28 for i in range(100)]
    assert column(read(tmp_path, table("student", counter))[1], "student")["kind"] == "number"
    assert column(read(tmp_path, table("order_date", counter))[1], "order_date")["kind"] == "date"
    assert column(read(tmp_path, table("saledate", [20190101, 20190228] * 50))[1], "saledate")["kind"] == "date"
    assert column(read(tmp_path, table("c", [20190101, 20190228] * 50))[1], "c")["kind"] == "number"
    for value in (20190230, 18991231, 21010101, 2019010):
        _, reader = read(tmp_path, table("date", [20190101 + 100 * (i % 12) for i in range(99)] + [value]))
        assert column(reader, "date")["kind"] == "number"


SPANS = {
    "births": ([1950, 1963, 1968, 1969, 1989], "1950 to 1989"),
    "long lives": (list(range(1931, 2023, 3)), "1931 to 2021"),
    "early": ([1951, 1955, 1968], "1951 to 1968"),
    "this century": ([1998, 1999, 2000, 2004], "1998 to 2004"),
    "planned": ([2001, 2030, 2045], "2001 to 2045"),
    "a leap day of 2000": ([2000, 2030, 2060], "2000 to 2060"),
}


@pytest.mark.parametrize("format_", ["%d/%m/%y", "%m/%d/%y", "%d-%b-%y", "%d.%m.%y %H:%M"])
@pytest.mark.parametrize("case", SPANS)
def test_years_of_two_digits_are_in_the_shortest_span(case: str, format_: str, tmp_path: Path) -> None:
    """Births from 1950 to 1968 were read as 2050 to 2068, those from 1969 on as 1969."""
    years, told = SPANS[case]
    days = [
        datetime.datetime(year, 2, 28 if year % 4 else 29) + datetime.timedelta(hours=i)
        for i in (0, 5)
        for year in years
    ]
    part, reader = read(tmp_path, table("d", [day.strftime(format_) for day in days] * 5))
    assert f"years of two digits are {told};" in column(reader, "d")["note"], "29 February 1900 is no day"
    first = min(day.date() for day in days)
    assert np.floor(part.X[: len(days), 1]).tolist() == [(day.date() - first).days for day in days]
    np.testing.assert_array_equal(predict(tmp_path, reader.plan)[0], part.X)


def test_the_plan_stores_which_years_two_digits_mean(tmp_path: Path) -> None:
    days = [datetime.date(year, 3, 1) for year in (1950, 1968, 1969, 1989)]
    _, reader = read(tmp_path, table("d", [day.strftime("%d/%m/%y") for day in days] * 20))
    assert reader.plan is not None
    assert reader.plan.to_dict()["columns"][1]["first_year"] == 1920
    for year in (1920, 1950, 1970, 2019):
        X, _ = predict(tmp_path, reader.plan, table("d", [datetime.date(year, 3, 1).strftime("%d/%m/%y")]))
        assert X[0, 1] == (datetime.date(year, 3, 1) - days[0]).days
    days = [datetime.date(year, 3, 1) for year in (1998, 2004)]
    _, reader = read(tmp_path, table("d", [day.strftime("%d/%m/%y") for day in days] * 20))
    assert reader.plan is not None
    assert "first_year" not in reader.plan.to_dict()["columns"][1], "as it was read before"


# --- types that are no feature ----------------------------------------------------------------------------------------

NO_FEATURES = {
    "texts": pa.array([["x"], ["y"]]),
    "struct": pa.array([{"a": 1}, {"a": 2}]),
    "map": pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
    "lists": pa.array([[[1.0]], [[2.0]]]),
    "booleans": pa.array([[True], [False]]),
    "binary": pa.array([b"a", b"b"]),
    "view": pa.array([b"a", b"b"], pa.binary_view()),
    "empty": pa.array([[], []], pa.list_(pa.float64())),
}


@pytest.mark.parametrize("case", NO_FEATURES)
def test_columns_of_a_type_that_is_no_feature_are_left_out(case: str, tmp_path: Path) -> None:
    values = NO_FEATURES[case]
    try:
        part, reader = read_typed(tmp_path, "parquet", values)
    except pa.ArrowNotImplementedError:
        pytest.skip("this pyarrow cannot write the type")
    assert reader.features == ("x",)
    assert part.X.shape == (2, 1)
    note = column(reader, "c")["note"]
    assert note == "empty lists" if case == "empty" else note.endswith(", which is no feature")


@pytest.mark.parametrize("settings", [{"strict": True}, {"numeric": ["c"]}, {"categorical": ["c"]}, {"dates": ["c"]}])
def test_a_type_that_is_no_feature_is_refused_if_it_is_asked_for(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"column c has 'struct<a: int64>' in row 0 .*; set data.exclude=\[c\]"):
        read_typed(tmp_path, "parquet", NO_FEATURES["struct"], **settings)


@pytest.mark.parametrize("role", ["id", "labels"])
def test_an_id_or_labels_of_such_a_type_are_refused_by_name(role: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"column c \(struct<.*>\) cannot be interpreted \(.*\); expected numbers, text"
    ):
        read_typed(tmp_path, "parquet", NO_FEATURES["struct"], **{role: "c"})


def test_a_list_that_is_called_label_is_no_label(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2], "label": [[1.0], [2.0]]}), tmp_path / "t.parquet")
    assert TableReader(ParquetData(path=str(tmp_path / "t.parquet"))).read().X.shape == (2, 2)


def test_an_error_in_the_inference_of_a_column_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no sign of a damaged file."""

    def fail(*_: object) -> bool:
        raise pa.ArrowNotImplementedError("no kernel")

    monkeypatch.setattr(inference, "is_constant", fail)
    with pytest.raises(
        UserError, match=r"column x \(double\) cannot be interpreted \(no kernel\);.* data.exclude=\[x\]"
    ):
        read(tmp_path, table("c", [1.5, 2.5]))
