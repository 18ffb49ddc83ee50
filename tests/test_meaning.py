"""What the values of a column mean: whole numbers, codes, dates, durations and measures, however they are written."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from dkm.config.data import CsvData, FeatherData, ParquetData
from dkm.data.raw import RawData
from dkm.data.tables.reader import TableReader

RNG = np.random.default_rng(0)
N = 200
X = RNG.normal(size=N)


def read(folder: Path, columns: dict[str, Sequence[object]], **settings: Any) -> tuple[RawData, TableReader]:
    """Read a CSV file of a column of numbers and these columns."""
    return read_text(folder, pd.DataFrame({"x": X.round(4), **columns}).to_csv(index=False), **settings)


def read_text(folder: Path, text: str, **settings: Any) -> tuple[RawData, TableReader]:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    reader = TableReader(CsvData(path=str(folder / "t.csv"), **settings))
    return reader.read(), reader


def read_typed(folder: Path, table: pa.Table, kind: str = "parquet") -> tuple[RawData, TableReader]:
    path = folder / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
        reader = TableReader(ParquetData(path=str(path)))
    else:
        pyarrow.feather.write_feather(table, path)
        reader = TableReader(FeatherData(path=str(path)))
    return reader.read(), reader


def column(reader: TableReader, name: str) -> dict[str, Any]:
    return next(column for column in reader.report.columns if column["name"] == name)


def told(reader: TableReader, name: str) -> str:
    """Return the warnings about a column."""
    return "\n".join(odd for odd in reader.report.odd if f"column {name} " in odd)


def predict(folder: Path, reader: TableReader) -> np.ndarray[Any, Any]:
    """Return the features that a model with this plan reads from the same file."""
    assert reader.plan is not None
    config = CsvData(path=str(folder / "t.csv"))
    return np.concatenate([part.X for part in TableReader(config, key="input", plan=reader.plan.to_dict()).parts(7)])


# --- whole numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_whole_numbers_stored_as_decimals_are_read_like_integers(kind: str, tmp_path: Path) -> None:
    """Snowflake and Oracle write NUMBER(38,0): ids, codes, dates and -999 were quantities in silence."""
    values = {
        "CUSTOMER_ID": RNG.permutation(N) + 70_000,
        "STORE_ID": RNG.integers(1, 9, N),
        "REGION_CODE": RNG.integers(1, 5, N),
        "ORDER_DATE": 20240100 + RNG.integers(1, 31, N),
        "SCORE": np.where(np.arange(N) % 7 == 0, -999, RNG.integers(0, 100, N)),
    }
    integers = pa.table({"x": X, **values})
    decimals = {name: pa.array([Decimal(int(v)) for v in column], pa.decimal128(38)) for name, column in values.items()}
    plain, plain_reader = read_typed(tmp_path, integers, kind)
    part, reader = read_typed(tmp_path, pa.table({"x": X, **decimals}), kind)
    assert [(c["role"], c["kind"]) for c in reader.report.columns] == [
        ("feature", "number"),
        ("id", ""),
        ("feature", "category"),
        ("feature", "category"),
        ("feature", "date"),
        ("feature", "number"),
    ]
    assert list(reader.report.columns) == list(plain_reader.report.columns)
    assert reader.report.odd == plain_reader.report.odd
    np.testing.assert_array_equal(part.X, plain.X)
    assert part.ids is not None and part.ids[0] == str(values["CUSTOMER_ID"][0])


def test_decimals_beyond_64_bits_are_exact_ids_and_fractions_have_sentinels(tmp_path: Path) -> None:
    keys = [Decimal(10**25 + 7 * i) for i in range(N)]
    prices = [Decimal(-999) if i % 9 == 0 else Decimal(i % 50) + Decimal("0.25") for i in range(N)]
    table = pa.table(
        {"x": X, "key": pa.array(keys, pa.decimal128(38)), "price": pa.array(prices, pa.decimal128(12, 2))}
    )
    part, reader = read_typed(tmp_path, table)
    assert part.ids is not None and part.ids[:2].tolist() == [str(10**25), str(10**25 + 7)]
    assert reader.report.filled == {"price": 23}


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_numbers_that_the_file_declares_to_be_a_category_are_one(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": X, "plan": pd.Categorical(RNG.integers(1, 5, N))})
    _, reader = read_typed(tmp_path, pa.Table.from_pandas(frame), kind)
    assert column(reader, "plan")["kind"] == "category"
    assert column(reader, "plan")["note"] == "4 levels; a category, as the file says"
    assert set(reader.features) == {"x", "plan=1", "plan=2", "plan=3", "plan=4"}


def test_metadata_that_are_no_table_of_columns_declare_nothing(tmp_path: Path) -> None:
    for text in (b"{", b"[]", b'{"columns": 3}', b'{"columns": [{"name": []}]}'):
        table = pa.table({"x": X, "n": RNG.integers(1, 5, N)}).replace_schema_metadata({"pandas": text})
        assert column(read_typed(tmp_path, table)[1], "n")["kind"] == "number"


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_codes_with_a_gap_are_codes(kind: str, tmp_path: Path) -> None:
    """Pandas writes whole numbers with a gap as 1.0 to 5.0."""
    frame = pd.DataFrame({"x": X, "region": RNG.integers(1, 6, N) * 1.0, "zip": RNG.integers(1000, 1020, N) * 1.0})
    frame.loc[5, ["region", "zip"]] = np.nan
    if kind == "csv":
        part, reader = read(tmp_path, frame.to_dict("list"))
        np.testing.assert_array_equal(predict(tmp_path, reader), part.X)
    else:
        _, reader = read_typed(tmp_path, pa.Table.from_pandas(frame))
    assert column(reader, "region") == {
        "name": "region",
        "role": "feature",
        "kind": "category",
        "note": "5 levels; whole-number codes, by its name",
    }
    assert {f"region={level}" for level in range(1, 6)} < set(reader.features)
    assert column(reader, "zip")["kind"] == "category"


def test_codes_beside_a_word_are_codes(tmp_path: Path) -> None:
    cells = ["unknown" if i % 50 == 3 else RNG.integers(1, 6) for i in range(N)]
    part, reader = read(tmp_path, {"region": cells, "sales": cells})
    assert column(reader, "region")["note"] == ("5 levels; whole-number codes, by its name; 'unknown' means missing")
    assert column(reader, "sales")["kind"] == "number"
    assert reader.report.filled == {"region": 4, "sales": 4}
    np.testing.assert_array_equal(predict(tmp_path, reader), part.X)


# --- dates and durations --------------------------------------------------------------------------------------

NO_DATES = {
    "versions": ["3.8.10", "3.9.7", "3.10.12", "3.12.1"],
    "short versions": ["2.0.1", "1.4.0", "1.13.2", "1.4.12"],
    "results": ["2:1", "0:0", "1:3"],
    "aspects": ["16:9", "4:3", "21:9"],
    "mixtures": ["1:10", "1:5", "1:25"],
    "formations": ["4-4-2", "4-3-3", "3-5-2"],
}


@pytest.mark.parametrize("case", NO_DATES)
def test_versions_scores_and_ratios_are_no_dates(case: str, tmp_path: Path) -> None:
    _, reader = read(tmp_path, {"c": RNG.choice(NO_DATES[case], N)})
    assert column(reader, "c")["note"] == f"{len(NO_DATES[case])} levels"


DURATIONS = {
    "finish": (["2:59:31", "3:05:00", "27:15:00"], [10771, 11100, 98100], "durations in seconds: 2:59:31 is 10771"),
    "lap_time": (["1:02", "0:59", "61:00"], [62, 59, 3660], "durations in seconds: 1:02 is 62"),
    "t": (["0 days 00:05:00", "1 days 00:00:01.5", "0 days 10:00:00"], [300, 86401.5, 36000], "durations in seconds"),
}


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_are_seconds(name: str, tmp_path: Path) -> None:
    cells, seconds, note = DURATIONS[name]
    part, reader = read(tmp_path, {name: [*(cells * 67)[: N - 2], "DNF", "DNF"]})
    assert reader.features == ("x", name)
    assert part.X[:3, 1].tolist() == seconds
    assert column(reader, name)["note"].startswith(note)
    assert "'DNF' means missing" in column(reader, name)["note"]
    np.testing.assert_array_equal(predict(tmp_path, reader), part.X)


def test_a_finish_without_seconds_is_a_time_of_day(tmp_path: Path) -> None:
    _, reader = read(tmp_path, {"finish": [f"{i % 24}:{i % 60:02}" for i in range(N)]})
    assert column(reader, "finish")["kind"] == "date"


def test_times_of_day_and_durations_have_a_setting_each(tmp_path: Path) -> None:
    cells = [f"{i % 9 + 1}:{i % 60:02}:{i * 7 % 60:02}" for i in range(N)]
    _, reader = read(tmp_path, {"elapsed": cells, "opens": cells})
    assert column(reader, "elapsed")["note"].endswith("; data.dates=[elapsed] reads times of day")
    assert column(reader, "opens")["note"].endswith("time of day; data.numeric=[opens] reads durations")
    part, reader = read(tmp_path, {"elapsed": cells, "opens": cells}, numeric=["opens"], dates=["elapsed"])
    assert reader.features == ("x", "elapsed (day sin)", "elapsed (day cos)", "opens")
    assert part.X[1, 3] == 2 * 3600 + 67
    np.testing.assert_array_equal(predict(tmp_path, reader), part.X)


def test_durations_of_a_typed_file_are_seconds(tmp_path: Path) -> None:
    table = pa.table({"x": X, "stay": pa.array(np.arange(N) * 12 * 3600 * 10, pa.duration("s"))})
    part, reader = read_typed(tmp_path, table)
    assert reader.features == ("x", "stay")
    assert part.X[:3, 1].tolist() == [0, 432_000, 864_000]
    assert column(reader, "stay")["note"] == "durations in seconds"


STAMPS = {
    "PostgreSQL": ("2024-01-{:02} 10:00:00+00", "2024-01-{:02} 12:00:11.123456+02"),
    "log4j": ("2024-01-{:02} 10:00:00,123", "2024-01-{:02} 10:00:11,999"),
    "slashes": ("2024/01/{:02} 10:00:00.123", "2024/01/{:02} 10:00:11.123"),
    "AM": ("1/{}/2024 10:00AM", "1/{}/2024 10:00AM"),
    "space before the zone": ("2024-01-{:02} 10:00:00 +0000", "2024-01-{:02} 10:00:11 +00:00"),
}


@pytest.mark.parametrize("case", STAMPS)
def test_dates_of_databases_and_logs_are_read(case: str, tmp_path: Path) -> None:
    """They were left out as texts, or became the id."""
    cells = [STAMPS[case][i % 2].format(i % 28 + 1) for i in range(N)]
    part, _ = read(tmp_path, {"created": cells}, dates=["created"])
    np.testing.assert_allclose(part.X[:28, 1], np.arange(28), atol=2e-4)
    inferred, _ = read(tmp_path, {"created": cells})
    np.testing.assert_array_equal(inferred.X, part.X)


def test_am_needs_no_space(tmp_path: Path) -> None:
    _, reader = read(tmp_path, {"t": [f"{i % 12 + 1}:{i % 60:02}{'ap'[i % 2]}m".upper() for i in range(N)]})
    assert column(reader, "t")["note"] == "format %I:%M %p; time of day"


def test_an_open_end_far_from_the_other_dates_is_told_with_its_spelling(tmp_path: Path) -> None:
    """SAP writes 9999-12-31; it was a date, and all others were at -0.16."""
    days = [f"{i % 28 + 1:02}.{i % 12 + 1:02}.2024" for i in range(N)]
    few = ["31.12.9999" if i % 40 == 0 else day for i, day in enumerate(days)]
    most = ["31.12.9999" if i % 3 else day for i, day in enumerate(days)]
    early = ["01.01.1900", *days[1:]]
    _, reader = read(tmp_path, {"few": few, "most": most, "early": early, "days": days})
    text = "far from the other dates; data.missing_values=[{0}] reads it as missing"
    assert told(reader, "few") == "column few has '31.12.9999' in 5 cells, " + text.format("31.12.9999")
    assert told(reader, "most") == "column most has '31.12.9999' in 133 cells, " + text.format("31.12.9999")
    assert told(reader, "early") == "column early has '01.01.1900' in 1 cell, " + text.format("01.01.1900")
    assert told(reader, "days") == ""
    _, reader = read(tmp_path, {"few": few, "days": days}, missing_values=["31.12.9999"])
    assert reader.report.filled == {"few": 5} and told(reader, "few") == ""
    ends = [datetime.datetime.strptime(day, "%d.%m.%Y") for day in (*days[:99], "31.12.9999")]
    table = pa.table({"x": X[:100], "end": pa.array(ends, pa.timestamp("us"))})
    _, reader = read_typed(tmp_path, table)
    assert told(reader, "end").endswith("correct the file or leave the column out with data.exclude=[end]")


# --- numbers as text ------------------------------------------------------------------------------------------


def test_a_few_leading_zeros_are_read_as_numbers_and_told(tmp_path: Path) -> None:
    ages = ["07" if i == 5 else str(i % 60 + 18) for i in range(N)]
    part, reader = read(tmp_path, {"age": ages})
    assert column(reader, "age")["kind"] == "number" and part.X[5, 1] == 7
    assert told(reader, "age") == "column age has '07', read as 7; data.categorical=[age] reads codes"
    np.testing.assert_array_equal(predict(tmp_path, reader), part.X)


@pytest.mark.parametrize("name", ["article", "zip", "dept"])
def test_many_leading_zeros_or_one_width_are_codes(name: str, tmp_path: Path) -> None:
    cells = {
        "article": ["0123" if i == 5 else str(1000 + i % 8) for i in range(N)],  # one width
        "zip": ["01234" if i == 5 else str(90 + i % 8) for i in range(N)],  # its name
        "dept": [f"{i % 30:02}" if i % 2 else str(i + 100) for i in range(N)],  # many
    }[name]
    _, reader = read(tmp_path, {name: cells})
    assert column(reader, name)["kind"] in ("category", "")


def test_codes_that_are_left_out_may_be_numbers(tmp_path: Path) -> None:
    cells = [f"{i * 7 % 24:02}{i * 11 % 60:02}" for i in range(N)]
    _, reader = read(tmp_path, {"hhmm": cells})
    assert column(reader, "hhmm")["role"] == "left_out"
    assert told(reader, "hhmm").endswith("as codes have, and is left out; data.numeric=[hhmm] reads numbers")
    assert read(tmp_path, {"hhmm": cells}, numeric=["hhmm"])[0].X[1, 1] == 711


MEASURES = {
    "weight": "{} kg",
    "height": "{}cm",
    "dose": "{}.5 mg/dL",
    "area": "{}m²",
    "price": "EUR {}.50",
    "views": "{}.2M",
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_that_are_not_read_are_told(name: str, tmp_path: Path) -> None:
    cells = [MEASURES[name].format(i % 25 + 10) for i in range(N)]
    _, reader = read(tmp_path, {name: [*cells[:-2], "unknown", "unknown"]})
    what = f"a unit, such as {cells[0]!r}"
    assert told(reader, name).startswith(f"column {name} has numbers with {what}, and is read as a category; correct")
    assert told(reader, name).endswith(f"data.exclude=[{name}]; data.categorical=[{name}] confirms the category")
    assert told(read(tmp_path, {name: cells}, categorical=[name])[1], name) == ""


def test_the_other_decimal_mark_is_told(tmp_path: Path) -> None:
    rows = "".join(f'{i}.5,{i % 9}.25,"{i % 20},{i % 9}"\n' for i in range(N))
    _, reader = read_text(tmp_path, f"a,b,lat\n{rows}")
    assert "has numbers with a decimal comma, where the file has a decimal point, and is not a" in told(reader, "lat")
    rows = "".join(f"{i},5;{i % 9},25;{47 + i / 130:.6f}\n" for i in range(N))
    _, reader = read_text(tmp_path, f"a;b;lat\n{rows}")
    assert "has numbers with a decimal point, where the file has a decimal comma, and is not a" in told(reader, "lat")


@pytest.mark.parametrize(
    "cells", [["3.8.10", "3.9.7", "3.1.2"], ["12A", "7B", "3C"], ["u1", "u22", "u3"], ["3D", "2D"]]
)
def test_versions_and_codes_are_no_measures(cells: list[str], tmp_path: Path) -> None:
    _, reader = read(tmp_path, {"c": [cells[i % len(cells)] for i in range(N)]})
    assert column(reader, "c")["kind"] == "category" and told(reader, "c") == ""


def test_indian_groups_of_digits(tmp_path: Path) -> None:
    rows = "".join(f'{i},"₹{i % 80 + 12},34,567","1,05,00,{i:03}.5"\n' for i in range(N))
    part, reader = read_text(tmp_path, f"a,price,total\n{rows}")
    assert part.X[0].tolist()[-2:] == [1234567, 10500000.5]
    np.testing.assert_array_equal(predict(tmp_path, reader), part.X)


def test_two_units_in_one_column_are_told(tmp_path: Path) -> None:
    signs = {
        "rate": [f"{i % 40 + 1}%" if i % 2 else f"0.{i % 40 + 10}" for i in range(N)],
        "price": [f"{'$€'[i % 2]}{i % 40 + 1}.5" for i in range(N)],
        "share": [f"{i % 40}%" if i % 40 else "0" for i in range(N)],
        "cost": [f"${i % 40}.5" if i % 2 else f"{i % 40}.5" for i in range(N)],
    }
    _, reader = read(tmp_path, signs)
    assert told(reader, "rate").startswith(
        "column rate has a per cent sign in some cells only, such as '2%' beside '0.10', read as numbers of one unit; "
    )
    assert told(reader, "price").startswith("column price has numbers in $ and €, read as numbers of one unit; ")
    assert told(reader, "share") == told(reader, "cost") == ""


@pytest.mark.parametrize("name", ["phone", "home_phone", "Mobile Number", "EAN13", "isbn", "fax_no"])
def test_numbers_of_telephones_and_articles_are_no_quantities(name: str, tmp_path: Path) -> None:
    numbers = RNG.integers(4915100000000, 4917999999999, N)
    numbers[7] = numbers[6]
    assert column(read(tmp_path, {name: numbers})[1], name)["role"] == "left_out"
    numbers[7] += 1
    assert column(read(tmp_path, {name: numbers})[1], name)["role"] == "id"


@pytest.mark.parametrize("name", ["mobile", "phone_sales", "telecom", "cells"])
def test_counts_of_calls_and_visits_are_quantities(name: str, tmp_path: Path) -> None:
    numbers = RNG.integers(10, 3000, N) * (1 if name == "mobile" else 10**6)
    assert column(read(tmp_path, {name: numbers})[1], name)["kind"] == "number"
