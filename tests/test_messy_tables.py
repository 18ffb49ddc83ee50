"""Tables as people have them: what each column is, how a text table is written, and what is told or refused."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import json
import lzma
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from dkm import predict, train
from dkm.config.data import CsvData, FeatherData, NpzData, ParquetData
from dkm.data.datasets import Dataset, load_dataset
from dkm.data.raw import RawData
from dkm.data.recognition import recognize
from dkm.data.tables import rows as table_rows
from dkm.data.tables import sources
from dkm.data.tables.dialect import Dialect, Given, find_dialect
from dkm.data.tables.lines import TableFile
from dkm.data.tables.plan import TablePlan
from dkm.data.tables.reader import TableReader
from dkm.errors import UserError

RNG = np.random.default_rng(0)
B = np.round(np.array([[0, 0, 0], [10, 10, 0], [0, 10, 10.0]])[np.arange(60) % 3] + RNG.normal(size=(60, 3)), 3)
ROWS = "".join(f"{a},{b},{c}\n" for a, b, c in B)


def read_text(folder: Path, content: str | bytes, **settings: Any) -> tuple[RawData, TableReader]:
    file = folder / "t.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    reader = TableReader(CsvData(path=str(file), **settings))
    return reader.read(), reader


def read_parquet(folder: Path, table: pa.Table, **settings: Any) -> tuple[RawData, TableReader]:
    pq.write_table(table, folder / "t.parquet")
    reader = TableReader(ParquetData(path=str(folder / "t.parquet"), **settings))
    return reader.read(), reader


def dialect(text: str, **given: Any) -> Dialect:
    return find_dialect(text.encode(), "data.path=t.csv", Given(**given), is_whole=True)


def columns(reader: TableReader) -> dict[str, tuple[str, str]]:
    return {column["name"]: (column["role"], column["kind"]) for column in reader.report.columns}


def gaps_of(reader: TableReader) -> np.ndarray:
    """Return the mask (n, F) of the cells that were filled."""
    assert reader.filled is not None
    return reader.filled[torch.arange(len(reader.filled))].numpy()


# --- header -----------------------------------------------------------------------------------------------------------


def test_a_first_row_like_the_others_is_data(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, "".join(f"{a},{b},{c},cls{i % 3}\n" for i, (a, b, c) in enumerate(B)))
    assert len(part.X) == 60
    assert reader.report.decisions["header"].startswith("none, since 'cls0' occurs again below")


def test_an_empty_first_cell_above_numbers_is_a_gap(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, ROWS[ROWS.index(",") :])
    assert reader.features == ("0", "1", "2")
    assert part.ids is None
    assert part.X[0, 0] == np.median(B[1:, 0])
    assert gaps_of(reader)[:, 0].nonzero()[0].tolist() == [0]


@pytest.mark.parametrize("names", ["2019,2020,2021", "400,402,404", "0,1,2"])
def test_numbers_that_no_column_has_are_names(names: str, tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, f"{names}\n{ROWS}")
    assert reader.features == tuple(names.split(","))
    assert len(part.X) == 60
    assert "header" in reader.report.decisions


WIDE = {
    "a column of texts": ("country,2000,2001,2002", lambda i: f"c{i},{100 * i + 5},{101 * i + 7},{102 * i + 9}"),
    "unequal steps": ("1950,1960,1975", lambda i: f"{i}.5,{i % 7}.25,{3 * i}"),
    "two columns of texts": ("country,region,1952,1957,1962", lambda i: f"c{i},r{i % 3},{99 * i},{98 * i},{97 * i}"),
    "row names": (",1952,1957,1962", lambda i: f"c{i},{99 * i},{98 * i},{97 * i}"),
    "a name above numbers": ("code,1999,2000", lambda i: f"{7 * i},{99 * i},{98 * i}"),
    "gaps": ("country,1952,1957,1962", lambda i: f"c{i},{99 * i if i % 2 else 'NA'},{98 * i},"),
}


@pytest.mark.parametrize("case", WIDE)
def test_rising_years_above_other_values_are_names(case: str, tmp_path: Path) -> None:
    names, row = WIDE[case]
    part, reader = read_text(tmp_path, names + "\n" + "".join(f"{row(i)}\n" for i in range(40)))
    assert [column["name"] for column in reader.report.columns] == [name or "Unnamed: 0" for name in names.split(",")]
    assert len(part.X) == 40
    assert reader.report.decisions["header"].endswith(" are years, as most values below are not")


@pytest.mark.parametrize("steps", [(1900, 1925, 1980), (1980, 1991, 2011)])
def test_rising_years_above_years_are_values_if_half_of_the_rows_rise_too(
    steps: tuple[int, ...], tmp_path: Path
) -> None:
    text = "".join(f"p{i},{steps[0] + i},{steps[1] + i % 31},{steps[2] + i % 7}\n" for i in range(40))
    part, reader = read_text(tmp_path, text)
    assert len(part.X) == 40
    assert reader.report.decisions["header"].startswith("none, since the first row has numbers as the others do")


OPEN_YEARS = {
    "years below, not rising": ("", lambda i: f"p{i},{1900 + i},{1902 + 31 * i % 90},{1904 + 53 * i % 90}"),
    "a text that occurs again": ("c1,1950,1960,1975\n", lambda i: f"c{i % 3},{i}.5,{i % 7}.25,{3 * i}"),
    "two years": ("country,1950,1960\n", lambda i: f"c{i},{199 * i},{99 * i}"),
}


@pytest.mark.parametrize("case", OPEN_YEARS)
def test_years_that_may_be_names_or_values_are_refused(case: str, tmp_path: Path) -> None:
    first, row = OPEN_YEARS[case]
    text = first + "".join(f"{row(i)}\n" for i in range(40))
    with pytest.raises(
        UserError, match=r"may be names or values: .* year.*; set data.header=true or data.header=false"
    ):
        read_text(tmp_path, text)


@pytest.mark.parametrize("text", ["0\n0.5\n0.7\n", "0,1\n3,4\n5,6\n", "0,1,2\n3,4,5\n1,0,2\n", "2019,2020\n5,6\n7,8\n"])
def test_a_row_that_may_be_either_is_refused_with_both_settings(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"may be names or values: .*; set data.header=true or data.header=false"):
        read_text(tmp_path, text)
    n_lines = text.count("\n")
    assert len(read_text(tmp_path, text, header=True)[0].X) == n_lines - 1
    assert len(read_text(tmp_path, text, header=False)[0].X) == n_lines


def test_an_index_that_was_saved_twice_has_an_unused_name(tmp_path: Path) -> None:
    text = ",Unnamed: 0,a\n" + "".join(f"{i},{i},{a}\n" for i, (a, _, _) in enumerate(B[:9]))
    part, reader = read_text(tmp_path, text)
    assert [column["name"] for column in reader.report.columns] == ["Unnamed: 0.1", "Unnamed: 0", "a"]
    np.testing.assert_array_equal(part.X, B[:9, :1])
    assert part.ids is not None
    part, reader = read_text(tmp_path, "Unnamed: 1,,Unnamed: 1.1\n" + ROWS, header=True)
    assert reader.features == ("Unnamed: 1", "Unnamed: 1.2", "Unnamed: 1.1")
    text = "Unnamed: 0,a\n" + "".join(f"r{i},{i},{a}\n" for i, (a, _, _) in enumerate(B[:9]))
    assert read_text(tmp_path, text)[1].features == ("a",)


@pytest.mark.parametrize("name", ["None", "NA", "null"])
def test_a_name_that_means_no_value_in_other_rows_is_a_name(name: str, tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, f"a,{name},c\n" + ROWS)
    assert reader.features == ("a", name, "c")
    np.testing.assert_array_equal(part.X, B)
    part, reader = read_text(tmp_path, f"1.5,{name},3\n" + ROWS)  # below no names it means what it says
    assert reader.features == ("0", "1", "2")
    assert gaps_of(reader)[:, 1].nonzero()[0].tolist() == [0]
    text = f"x,{name},2.5\n" + "".join(f"{'xyz'[i % 3]},{name if i % 5 == 0 else i},{i}.5\n" for i in range(30))
    assert len(read_text(tmp_path, text)[0].X) == 31


def test_names_above_numbers_outweigh_a_name_that_is_a_level_too(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, "a,control\n1,control\n2,treated\n3,treated\n")
    assert [column["name"] for column in reader.report.columns] == ["a", "control"]
    assert len(part.X) == 3
    decision = reader.report.decisions["header"]
    assert decision == "the first row: 'a' stands above numbers, although 'control' occurs again below"
    for text in (
        "a,b\n1,b\n2.5,a\na,c\n4,c\n5,c\n6,b\n",  # a again below
        "x,b,7\n1,b,8\n2,c,6\n3,c,9\n",
        "a,,c\n1,2,c\n3,4,d\n5,6,d\n",
        "unknown,red,big\n1,red,big\n2,blue,small\n3,red,small\n",
    ):
        with pytest.raises(UserError, match=r"may be names or values: .*; set data.header=true or data.header=false"):
            read_text(tmp_path, text)


def test_a_name_less_than_cells_means_row_names(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, "a,b\nr1,1.5,2\nr2,3,4\n")
    assert reader.features == ("a", "b")
    assert part.ids is not None
    assert part.ids.tolist() == ["r1", "r2"]


@pytest.mark.parametrize("gap", [" ", "  ", "\t", ","])
@pytest.mark.parametrize("quote", ['"', ""])
@pytest.mark.parametrize("name", ["{}", "r{}"])
def test_a_table_that_r_wrote_has_row_names(name: str, quote: str, gap: str, tmp_path: Path) -> None:
    lines = [["a", "b", "c"], *([name.format(i), f"{a}", f"{b}", "xyz"[i % 3]] for i, (a, b, _) in enumerate(B, 1))]
    quoted = [[f"{quote}{cell}{quote}" if i in (0, len(line) - 1) or k == 0 else cell for i, cell in enumerate(line)]
              for k, line in enumerate(lines)]  # fmt: skip
    part, reader = read_text(tmp_path, "".join(gap.join(line) + "\n" for line in quoted))
    assert reader.features == ("a", "b", "c=x", "c=y", "c=z")
    np.testing.assert_array_equal(part.X[:, :2], B[:, :2])
    assert part.ids is not None
    assert part.ids.tolist() == [line[0] for line in lines[1:]]
    assert reader.report.decisions["header"].endswith("row names")
    if gap in "\t,":
        assert reader.report.decisions.get("delimiter", "comma").startswith("tab" if gap == "\t" else "comma")


def test_row_names_between_spaces_are_told_from_a_title(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, '"x"\n' + "".join(f'"{i}" {a}\n' for i, (a, _, _) in enumerate(B)))
    np.testing.assert_array_equal(part.X, B[:, :1])
    assert part.ids is not None
    assert reader.report.decisions["delimiter"] == "spaces, which cut each line into 2 cells"
    part, reader = read_text(tmp_path, '"x" "y"\n' + "".join(f'"{7 * i}" {a} {b}\n' for i, (a, b, _) in enumerate(B)))
    np.testing.assert_array_equal(part.X, B[:, :2])
    with pytest.raises(UserError):
        read_text(tmp_path, "a title\n" + ROWS.replace(",", " "))


def test_a_delimiter_too_many_at_the_end_of_each_row_is_no_column(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, "a,b\n1.5,2,\n3,4,\n")
    assert reader.features == ("a", "b")
    np.testing.assert_array_equal(part.X, [[1.5, 2], [3, 4]])


def test_comments_and_a_line_that_names_the_delimiter_come_first(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, "# exported 2024\n# by hand\na,b,c\n" + ROWS)
    assert reader.features == ("a", "b", "c")
    assert "2 lines" in reader.report.decisions["comments"]
    part, reader = read_text(tmp_path, "sep=;\na;b;c\n" + ROWS.replace(",", ";"))
    assert reader.features == ("a", "b", "c")
    np.testing.assert_array_equal(part.X, B)


@pytest.mark.parametrize("gap", [" ", "   ", "\t", "  \t "])
def test_cells_may_be_separated_by_any_number_of_spaces(gap: str, tmp_path: Path) -> None:
    text = "".join(gap.join([f"{a}", f"{b}", '"two words"', "xyz"[i % 3]]) + "\n" for i, (a, b, _) in enumerate(B))
    data, reader = read_text(tmp_path, text)
    np.testing.assert_array_equal(data.X[:, :2], B[:, :2])
    assert columns(reader)["2"] == ("left_out", "")
    assert columns(reader)["3"] == ("feature", "category")


def test_spaces_around_names_are_no_part_of_them(tmp_path: Path) -> None:
    _, reader = read_text(tmp_path, "a, b, c\n" + ROWS, exclude=["b"])
    assert reader.features == ("a", "c")


# --- a second row of names --------------------------------------------------------------------------------------------

SURVEY = 'day,Q1,Q2,Q3\n"Date of\nthe call","How old are you?","Do you smoke?",1. How happy?\n'
ANSWERS = "".join(f"2024-03-{1 + i % 28:02d},{18 + 7 * i % 60},{'yn'[i % 2]},{i % 7}\n" for i in range(60))
UNITS = "".join(f"{i}.5,{20 + i % 7},{1000 + i % 9},{'xy'[i % 2]}\n" for i in range(60))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("above", "rows", "n_lines"),
    [
        (SURVEY, ANSWERS, 1),
        (SURVEY + ",".join(['"{""ImportId"":""QID1""}"'] * 4) + "\n", ANSWERS, 2),
        ("time,temp,press,site\ns,degC,hPa,\n", UNITS, 1),
        ("Export 2024\ntime,temp,press,site\ns,%,,-\n", UNITS, 1),
    ],
)
def test_a_second_row_of_names_is_skipped_and_told(
    above: str, rows: str, n_lines: int, end: str, tmp_path: Path
) -> None:
    part, reader = read_text(tmp_path, (above + rows).replace("\n", end))
    assert len(part.X) == reader.n_rows == 60
    assert reader.filled is None
    assert "means missing" not in str(reader.report.columns)
    told = reader.report.decisions["second header row"]
    assert told.endswith(
        f"and {n_lines - 1} more rows below the names skipped" if n_lines > 1 else "below the names skipped"
    )


def multi_index(**names: Any) -> pd.DataFrame:
    columns = pd.MultiIndex.from_product([["height", "weight"], ["mean", "std"]], names=names.get("columns"))
    index = pd.Index([f"g{i}" for i in range(20)], name=names.get("index"))
    return pd.DataFrame(RNG.normal(size=(20, 4)).round(3), index, columns)


@pytest.mark.parametrize("names", [{}, {"index": "group"}, {"index": "group", "columns": ["what", "how"]}])
def test_two_rows_of_names_that_pandas_wrote_are_joined(names: dict[str, Any], tmp_path: Path) -> None:
    frame = multi_index(**names)
    part, reader = read_text(tmp_path, frame.to_csv())
    features = ("height / mean", "height / std", "weight / mean", "weight / std")
    assert reader.features == features
    np.testing.assert_array_equal(part.X, frame)
    assert reader.report.columns[0]["name"] == names.get("index", "Unnamed: 0")
    assert part.ids is not None
    assert part.ids.tolist() == list(frame.index)
    assert reader.report.decisions["second header row"] == "joined to the names, as in 'height / mean'"
    assert read_text(tmp_path, frame.to_csv(index=False))[1].features == features
    frame.index = pd.MultiIndex.from_product([["x", "y"], range(10)], names=["set", "run"])
    part, reader = read_text(tmp_path, frame.to_csv())
    np.testing.assert_array_equal(part.X[:, -4:], frame)
    assert [column["name"] for column in reader.report.columns] == ["set", "run", *features]
    frame = frame.set_axis(pd.RangeIndex(20, name=names.get("index")), axis=0)
    frame.columns = pd.MultiIndex.from_product([["height", "weight"], [1990, 2000]], names=names.get("columns"))
    part, reader = read_text(tmp_path, frame.to_csv())
    assert reader.features[-4:] == ("height / 1990", "height / 2000", "weight / 1990", "weight / 2000")
    np.testing.assert_array_equal(part.X[:, -4:], frame)
    assert reader.report.columns[0]["name"] == names.get("index", "Unnamed: 0")


def test_a_first_row_of_texts_is_data_if_there_are_texts_below_too(tmp_path: Path) -> None:
    rows = [("trace", "faint"), *((i % 7, i % 5) for i in range(59))]
    rows[30] = ("weak", "strong")
    _, reader = read_text(tmp_path, "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    assert "second header row" not in reader.report.decisions
    assert reader.report.n_rows == 60


def test_the_name_of_a_group_of_columns_stands_above_the_first_of_them(tmp_path: Path) -> None:
    _, reader = read_text(
        tmp_path, ",before,,after\nname,x,y,x\n" + "".join(f"r{i},{row}\n" for i, row in enumerate(ROWS.split()))
    )
    assert reader.features == ("before / x", "before / y", "after / x")
    assert reader.report.columns[0]["name"] == "name"


def test_names_that_a_second_row_does_not_tell_apart_are_refused(tmp_path: Path) -> None:
    for second in ("kg,kg,m", "1.5,2,3"):
        with pytest.raises(UserError, match="two columns are called a; expected different names"):
            read_text(tmp_path, f"a,a,b\n{second}\n" + ROWS)


def test_a_first_row_of_data_is_no_second_row_of_names(tmp_path: Path) -> None:
    for first in (
        "inf,n.a.,1,x",
        "<0.5,5 kg,1,x",
        "unknown,failed,1,x",
        "a,b,1,z",
        "low,3,1,z",
        "2024-01-01,2024-01-01,1,z",
    ):
        decisions = dialect("p,q,r,s\n" + first + "\n" + UNITS).decisions
        assert "second header row" not in decisions, first
    assert "second header row" not in dialect("p,q,r,s\nkg,m,s,z\n" + UNITS, header=False).decisions


def test_a_prediction_skips_a_second_row_of_names_where_it_is(tmp_path: Path) -> None:
    above = "time,temp,press,site\ns,degC,hPa,\n"
    X, reader = predicted(tmp_path, above + UNITS, above + "0.5,1,2,x\n")
    assert [row[:3] for row in X] == [[0.5, 1, 2]]
    assert "second header row: 's, degC, hPa' below the names skipped" in reader.report.prediction_remarks()
    X, reader = predicted(tmp_path, above + UNITS, "temp,time,press,site\n1,0.5,2,x\n3,1.5,4,x\n")
    assert [row[:3] for row in X] == [[0.5, 1, 2], [1.5, 3, 4]]
    frame = multi_index(index="group")
    joined = frame.set_axis([" / ".join(names) for names in frame.columns], axis=1)
    for text, n_rows in ((frame.to_csv(), 20), (joined.to_csv(), 20), (frame.head(1).to_csv(), 1)):
        X, _ = predicted(tmp_path, frame.to_csv(), text)
        assert frame.to_numpy()[:n_rows].tolist() == X


# --- notation ---------------------------------------------------------------------------------------------------------


def test_decimal_commas(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, "a;b;c\n" + ROWS.replace(",", ";").replace(".", ","))
    np.testing.assert_array_equal(part.X, B)
    assert reader.report.decisions["decimal mark"].startswith("comma, as in ")


def test_thousands_and_currency(tmp_path: Path) -> None:
    rows = 'a,b\n"$1,234.50",5%\n"$987.25",7%\n"$2,000,000.00",6.5%\n'
    part, reader = read_text(tmp_path, rows)
    np.testing.assert_array_equal(part.X, [[1234.5, 5], [987.25, 7], [2e6, 6.5]])
    assert reader.report.decisions["thousands mark"].startswith("comma")
    part, _ = read_text(tmp_path, "a;b\n1.234,5;1\n2.345.678,25;2\n3,5;1\n")
    np.testing.assert_array_equal(part.X[:, 0], [1234.5, 2345678.25, 3.5])


THOUSANDS_POINTS = {
    "beside decimal commas": ("12.500;2,5\n8.300;1,5\n950;0,5\n", [[12500, 2.5], [8300, 1.5], [950, 0.5]]),
    "as many as decimal commas": ("12.500;2,5\n8.300;1,5\n", [[12500, 2.5], [8300, 1.5]]),
    "one of two groups": ("1.234.567;1\n1.234;2\n5.678;3\n2.345;1\n", [[1234567, 1], [1234, 2], [5678, 3], [2345, 1]]),
    "more than decimal commas": ("12.500;8.300\n9.100;2,5\n", [[12500, 8300], [9100, 2.5]]),
}


@pytest.mark.parametrize("case", THOUSANDS_POINTS)
def test_points_before_three_digits_are_thousands_where_the_comma_is_decimal(case: str, tmp_path: Path) -> None:
    rows, X = THOUSANDS_POINTS[case]
    part, reader = read_text(tmp_path, "a;b\n" + rows)
    np.testing.assert_array_equal(part.X, X)
    assert reader.report.decisions["thousands mark"].startswith("point, as in ")


def test_points_before_three_digits_are_decimals_where_something_says_so(tmp_path: Path) -> None:
    for rows in ("0.123;1.234\n12.345;5.678\n", "1.234;1.5\n12.345;2.5\n", "1.234;1\n12.345;1234.567\n"):
        part, reader = read_text(tmp_path, "a;b\n" + rows)
        np.testing.assert_array_equal(part.X[:, 0], [float(row.split(";")[0]) for row in rows.splitlines()])
        assert "thousands mark" not in reader.report.decisions
    part, reader = read_text(tmp_path, "a,b\n1.234,1.500\n12.345,2.500\n")  # a comma separates cells in English
    np.testing.assert_array_equal(part.X, [[1.234, 1.5], [12.345, 2.5]])
    assert reader.report.decisions["decimal mark"].startswith("point, as in 1.234; data.decimal=comma data.thousands=")


@pytest.mark.parametrize(
    "text", ["a;b\n12.500;1.100\n950;85\n", "a;b\n1.234;5\n2.345;6\n", "a\tb\n12.500\t1\n950\t2\n"]
)
def test_points_before_three_digits_are_refused_where_they_may_be_either(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"may be decimals or thousands; .*; set data.decimal=point \(.*, or data.decimal="
    ):
        read_text(tmp_path, text)
    first = float(text.splitlines()[1].replace("\t", ";").split(";")[0])
    assert read_text(tmp_path, text, decimal="point")[0].X[0, 0] == first
    assert read_text(tmp_path, text, decimal="comma", thousands="point")[0].X[0, 0] == 1000 * first


def test_points_and_commas_before_three_digits_need_one_settled(tmp_path: Path) -> None:
    text = "a;b\n1.234;5,678\n2.345;6,789\n"
    with pytest.raises(
        UserError, match=r"like 1.234 and 5,678, which may be .* set data.decimal=point data.thousands=comma"
    ):
        read_text(tmp_path, text)
    np.testing.assert_array_equal(read_text(tmp_path, text, thousands="comma")[0].X, [[1.234, 5678], [2.345, 6789]])


@pytest.mark.parametrize("mark", [" ", "\u00a0", "\u202f", "\u2009", "'", "\u2019"])
@pytest.mark.parametrize("decimal", [",", "."])
def test_spaces_and_apostrophes_between_thousands(mark: str, decimal: str, tmp_path: Path) -> None:
    rows = f"a;b\n1{mark}234{decimal}5;1\n987{decimal}25;2\n-2{mark}345{mark}678{decimal}0 €;3\n"
    name = "apostrophe" if mark in "'\u2019" else "space"
    for settings in ({}, {"thousands": name}):
        part, reader = read_text(tmp_path, rows, **settings)
        np.testing.assert_array_equal(part.X[:, 0], [1234.5, 987.25, -2345678])
    assert "thousands mark" not in reader.report.decisions
    assert read_text(tmp_path, rows)[1].report.decisions["thousands mark"] == f"{name}, as in 2 of the first cells"
    part, _ = read_text(tmp_path, f"a;b\n1{mark}234;1,234\n950;2,5\n")
    np.testing.assert_array_equal(part.X, [[1234, 1.234], [950, 2.5]])


def test_groups_of_digits_of_one_length_are_codes(tmp_path: Path) -> None:
    text = "phone;b\n" + "".join(f"555 1{i:02d} 4{i:02d};{i % 7}\n" for i in range(30))
    _, reader = read_text(tmp_path, text)
    assert columns(reader)["phone"][0] == "id"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings_and_line_ends_are_found(encoding: str, end: str, tmp_path: Path) -> None:
    text = end.join(["größe\tb", *(f"{a}\t{b}" for a, b, _ in B)]) + end
    part, reader = read_text(tmp_path, text.encode(encoding))
    assert reader.features == ("größe", "b")
    np.testing.assert_array_equal(part.X, B[:, :2])


def packed(how: str, content: bytes) -> bytes:
    if how != "zip":
        return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": pa.Codec("zstd").compress}[how](
            content, **({"asbytes": True} if how == "zst" else {})
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inside.csv", content)
    return buffer.getvalue()


@pytest.mark.parametrize("how", ["gz", "bz2", "xz", "zst", "zip"])
def test_compression_is_found_by_content(how: str, tmp_path: Path) -> None:
    part, _ = read_text(tmp_path, packed(how, b"a,b,c\n" + ROWS.encode()))
    np.testing.assert_array_equal(part.X, B)


@pytest.mark.parametrize("case", ["comma", "tab", "at once", "unread"])
def test_rows_between_two_quotation_marks_are_not_lost(case: str, tmp_path: Path) -> None:
    """The cell between them held 140 rows of 200, and nothing told it."""
    marked = (10, 11) if case == "at once" else (10, 150)
    mark = '"'
    rows = [f"u{i},{mark * (i in marked)}L,{20 + i % 50},{150.5 + i % 40}\n" for i in range(200)]
    text = "user,size,age,height\n" + "".join(rows)
    settings = {"columns": ["age", "height"]} if case == "unread" else {}
    with pytest.raises(UserError) as caught:
        read_text(tmp_path, text.replace(",", "\t") if case == "tab" else text, **settings)
    last = 13 if case == "at once" else 152
    assert f"in line 12 ends in line {last} only" in str(caught.value)
    assert len(read_text(tmp_path, text.replace('"', ""), **settings)[0].X) == 200


def test_texts_of_several_lines_are_no_lost_rows(tmp_path: Path) -> None:
    texts = ["Good, I think\nnot cheap, but fine, really\nso, yes", "10, at most\n9, no\n8, 7, 6\nover, and out"]
    rows = "".join(f'{i},"{texts[i % 2]}",{i % 5}\n' for i in range(60))
    part, _ = read_text(tmp_path, "id,review,stars\n" + rows)
    assert len(part.X) == 60


def test_an_open_quotation_mark_is_named(tmp_path: Path) -> None:
    rows = [f"u {i}\tL {i % 3}\t{20 + i}\t{150.5 + i}\n" for i in range(60)]
    rows[50] = rows[50].replace("\tL", '\t"L')
    with pytest.raises(UserError, match="remove the quotation mark in this row"):
        read_text(tmp_path, "user\tsize\tage\theight\n" + "".join(rows))


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        ("age,income,city", [f"{20 + i * 7 % 60},{20_000 + i},Paris, France" for i in range(60)]),
        ("name,income,city", [f"Ann {i},{20_000 + i},Paris, France" for i in range(60)]),
        ("station,temp", [f"s{i},{10 + i % 20},{i % 7}" for i in range(60)]),
    ],
)
def test_one_cell_more_than_names_may_be_a_delimiter_without_quotes(
    names: str, rows: list[str], tmp_path: Path
) -> None:
    """Each value was read under the next name."""
    with pytest.raises(UserError) as caught:
        read_text(tmp_path, names + "\n" + "\n".join(rows) + "\n")
    assert "begin the names with 'row' and a comma if first cells name rows" in str(caught.value)
    _, reader = read_text(tmp_path, "row," + names + "\n" + "\n".join(rows) + "\n")
    assert len(reader.report.columns) == names.count(",") + 2


def test_ratings_beside_names_of_rows_are_no_fractions(tmp_path: Path) -> None:
    part, _ = read_text(tmp_path, "u,v\n" + "".join(f"s{i},{10 + i * i % 20},{1 + i % 5}\n" for i in range(60)))
    assert part.features == ("u", "v")
    assert part.X[:2].tolist() == [[10, 1], [11, 2]]


def test_quotation_marks_after_spaces_are_read(tmp_path: Path) -> None:
    rows = "".join(f'{i + 100}, {20 + i * i % 50}, "Smith, {["Ann", "Bob", "Cy"][i % 3]}"\n' for i in range(60))
    part, reader = read_text(tmp_path, "id, age, name\n" + rows)
    assert part.features == ("age", "name=Smith, Ann", "name=Smith, Bob", "name=Smith, Cy")
    assert part.X[:3, 0].tolist() == [20, 21, 24]
    assert "quotes" in reader.report.decisions


@pytest.mark.parametrize("at", [5, 2500])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_names_that_are_repeated_among_the_rows_are_left_out(
    at: int, mark: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{i * 7 % 60},{20_000 + i * 37 % 500},{'Rome' if i % 2 else 'Oslo'}" for i in range(3000)]
    repeated = [*rows[:at], f"{mark}age,income,city", *rows[at:], "age,income,city"]
    expected, _ = read_text(tmp_path, "age,income,city\n" + "\n".join(rows))
    for block_bytes in (2**20, 2**14 - 1):  # the names lie on a boundary between blocks or not
        monkeypatch.setattr(sources, "_BLOCK_BYTES", block_bytes)
        part, reader = read_text(tmp_path, "age,income,city" + end + end.join(repeated))
        np.testing.assert_array_equal(part.X, expected.X)
        assert [(left.n, left.reason) for left in reader.report.left_out] == [(2, "the names once more")]


@pytest.mark.parametrize("n_bytes", range(16, 60))
def test_repeated_names_are_found_across_blocks(n_bytes: int) -> None:
    content = b"a,bc\n" + b"1,2\n33,44,a,bc\na,bc\n5,6\n" * 3 + b"a,bc"
    file = TableFile(io.BytesIO(content), b"a,bc")
    assert b"".join(iter(lambda: file.read(n_bytes), b"")) == b"a,bc\n" + b"1,2\n33,44,a,bc\n5,6\n" * 3
    assert file.n_repeated == 4


def test_rows_equal_to_the_first_stay_if_it_has_no_words(tmp_path: Path) -> None:
    part, _ = read_text(tmp_path, ROWS + ROWS)
    assert len(part.X) == 120
    part, _ = read_text(tmp_path, "0,1\n" + "0,1\n1,1\n1,0\n" * 20, header=True)
    assert len(part.X) == 60


def test_a_table_between_spaces_may_repeat_its_names_and_end_without_a_line_end(tmp_path: Path) -> None:
    rows = [f"{i * 7 % 60}  {i * i % 7}   {i * i % 11}" for i in range(60)]
    part, _ = read_text(tmp_path, "\n".join(["age  width   height", *rows[:30], "age  width   height", *rows[30:]]))
    assert part.X[[30, 59], 0].tolist() == [30, 53]
    assert len(part.X) == 60


def test_answers_below_the_questions_of_a_survey_are_no_respondent(tmp_path: Path) -> None:
    rows = "".join(
        f"{11_000_000 + 37 * i},{1 + i % 9:02}/{10 + i % 18}/2024 10:10:00,{'Red' * (i % 2)},{'Blue' * (i % 3 > 0)},"
        f"{18 + i * i % 60},{'Male' if i % 5 < 3 else 'Female'}\n"
        for i in range(60)
    )
    names = "Respondent ID,Start Date,Which colors?,,How old are you?,Gender\n"
    part, reader = read_text(tmp_path, names + ",,Red,Blue,Open-Ended Response,Response\n" + rows)
    assert len(part.X) == 60
    assert {"Which colors? / Red", "Which colors? / Blue", "How old are you?", "Gender"} <= set(columns(reader))
    part, _ = read_text(tmp_path, names.replace(",,", ",x,") + ",,Red,Blue,44,Male\n" + rows)
    assert len(part.X) == 61, "a respondent without an id"


def test_qualtrics_with_choice_texts(tmp_path: Path) -> None:
    levels = ["Agree", "Disagree", "Neutral"]
    rows = "".join(f"True,R_{i * 7919},{levels[i % 3]},{levels[i * i % 3]}\n" for i in range(60))
    keys = ",".join('"{""ImportId"":""' + key + '""}"' for key in ("finished", "_recordId", "QID1", "QID2"))
    names = f"Finished,ResponseId,Q1,Q2\nFinished,Response ID,I like it,I use it\n{keys}\n"
    part, reader = read_text(tmp_path, names + rows)
    assert len(part.X) == 60
    assert columns(reader)["Q1"] == ("feature", "category")


@pytest.mark.parametrize("n_rows", [60, 3000])
def test_a_source_below_the_table_is_left_out(n_rows: int, tmp_path: Path) -> None:
    rows = "".join(f"{1900 + i},{RNG.normal():.3f},{RNG.normal():.3f}\n" for i in range(n_rows))
    part, reader = read_text(tmp_path, f"year,gdp,pop\n{rows}\nSource: Eurostat\nLast update: 2024\n")
    assert part.X.shape == (n_rows, 3)
    assert [(left.n, left.reason) for left in reader.report.left_out] == [(2, "a text below the table")]
    with pytest.raises(UserError, match="a row of 1 cells"):
        read_text(tmp_path, f"year,gdp,pop\n{rows}Source: Eurostat\n1850,1.5,2.5\n")


def test_rows_without_their_last_cells_are_filled_by_the_command_of_the_message(tmp_path: Path) -> None:
    rows = "".join(f"p{i},{20 + i},{i % 7}{',late' if i % 4 == 0 else ',' if i < 16 else ''}\n" for i in range(60))
    with pytest.raises(UserError, match="a row of 3 cells") as caught:
        read_text(tmp_path, "name,age,score,note\n" + rows)
    program = shlex.split(str(caught.value).partition("fill it: ")[2])[2]
    exec(program)
    part = TableReader(CsvData(path=str(tmp_path / "t-filled.csv"))).read()
    assert len(part.X) == 60


def test_codes_keep_leading_zeros_that_begin_below_the_first_rows(tmp_path: Path) -> None:
    ids = [*range(99_999, 97_499, -1), *range(9_999, 9_499, -1)]
    numbers = RNG.integers(150, 200, 3000)
    rows = [f"{i:05},{20_000 + i % 7 if k < 2500 else '01234'},{numbers[k]}\n" for k, i in enumerate(ids)]
    part, reader = read_text(tmp_path, "cust_id,zip,height\n" + "".join(rows))
    assert part.ids is not None
    assert part.ids[[0, 2500, 2999]].tolist() == ["99999", "09999", "09500"]
    assert columns(reader)["zip"] == ("feature", "category")
    assert part.features[-1] == "height"
    np.testing.assert_array_equal(part.X[:, -1], numbers)


def test_an_id_keeps_a_zero_before_numbers_of_any_length(tmp_path: Path) -> None:
    ids = [str(i) for i in range(1, 2600)]
    ids[2500] = "09999"
    part, _ = read_text(tmp_path, "id,x\n" + "".join(f"{i},{RNG.normal():.3f}\n" for i in ids))
    assert part.ids is not None
    assert part.ids.tolist() == ids


def test_quoted_line_breaks_and_delimiters_stay_in_their_cell(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, '"a\nb",c\n1.5,"x, y"\n2,"x\ny"\n3,"x, y"\n')
    assert reader.features[0] == "a b"
    assert part.X.shape == (3, 3)


WRONG = {
    b"\xff\xd8\xff\xe0" + bytes(range(256)): "not a text file",
    b'[{"a": 1, "b": 2}]\n': "JSON",
    packed("zip", b"a") [:0] + b"PK\x03\x04": "cannot be read",
}  # fmt: skip


@pytest.mark.parametrize("content", WRONG)
def test_what_is_no_table_says_what_it_is(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=WRONG[content]):
        read_text(tmp_path, content)


def test_an_excel_workbook_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as book:
        book.writestr("[Content_Types].xml", "<x/>")
    with pytest.raises(UserError, match="an Excel workbook; expected a CSV file; save its sheet as CSV"):
        TableReader(CsvData(path=str(tmp_path / "book.xlsx"))).read()


LIBSVM = "# made by hand\n" + "".join(
    f"{'+-'[i % 2]}1 1:{a} {'' if i % 3 else f'2:{b} '}3:{c}\n" for i, (a, b, c) in enumerate(B)
)
ARFF = "% by hand\n\n@RELATION 'my table'\n@attribute a real\n@attribute c {x,y}\n@data\n" + "".join(
    f"{a},{'xy?'[i % 3]}\n" for i, (a, _, _) in enumerate(B)
)


def run_remedy(message: str) -> list[str]:
    """Run the command of a remedy, and return the settings that it names."""
    settings, command = re.search(r"convert it, and set (.*?): (\S+ -c .*)", message).groups()  # type: ignore[union-attr]
    subprocess.run(shlex.split(command), check=True)
    return shlex.split(settings)


@pytest.mark.thorough
def test_a_libsvm_file_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t.csv: the LIBSVM \(SVMlight\) format, a label and pairs of index") as raised:
        read_text(tmp_path, LIBSVM)
    file = tmp_path / "t.csv"
    assert run_remedy(str(raised.value)) == ["data=npz", f"data.path={file}.npz", f"data.labels={file}.labels.npy"]
    data = load_dataset(NpzData(path=f"{file}.npz", labels=f"{file}.labels.npy", scaling="none"))
    np.testing.assert_array_equal(data.X[torch.arange(60)][:, [0, 2]].numpy(), B[:, [0, 2]].astype(np.float32))
    assert recognize(str(file)).option == "csv"
    (tmp_path / "t.txt").write_text(LIBSVM, encoding="utf-8")
    assert recognize(str(tmp_path / "t.txt")).option == "csv"
    times = "".join(f"{i + 5} {7 + i % 3}:{i:02d} {15 + i % 3}:{59 - i:02d}\n" for i in range(50))
    assert dialect(times).delimiter == "\0"


def test_an_arff_file_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t.csv: the ARFF format of Weka; expected a table as text") as raised:
        read_text(tmp_path, ARFF)
    file = tmp_path / "t.csv"
    assert run_remedy(str(raised.value)) == ["data=csv", f"data.path={file}.csv"]
    part = TableReader(CsvData(path=f"{file}.csv")).read()
    assert part.features == ("a", "c=x", "c=y")
    np.testing.assert_array_equal(part.X[:, 0], B[:, 0])
    assert recognize(str(file)).option == "csv"
    (tmp_path / "t.arff.gz").write_bytes(gzip.compress(ARFF.encode()))
    with pytest.raises(UserError, match=r"the ARFF format of Weka, compressed; expected .*; unpack it, and name the"):
        TableReader(CsvData(path=str(tmp_path / "t.arff.gz")))


@pytest.mark.parametrize(("text", "delimiter"), [(";\n\n", None), ('"\n', None), ('"\n', "space"), (",,\n,,\n", None)])
def test_a_file_without_any_value_is_refused(text: str, delimiter: str | None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no (rows|cell with a value); expected one row or more"):
        read_text(tmp_path, text, delimiter=delimiter)


@pytest.mark.parametrize("n_cells", [100_000, 2_000_000])
def test_a_file_of_one_long_line_is_refused_at_once(n_cells: int, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"0," * n_cells)
    with pytest.raises(UserError, match="cells in the first line; expected at most 100,000 columns; check"):
        TableReader(CsvData(path=str(tmp_path / "t.csv"))).read()


@pytest.mark.thorough
def test_a_table_of_many_columns_is_read_in_time_that_is_linear_in_them(tmp_path: Path) -> None:
    """A lookup of each column among all took 14 s for 5,000 columns."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 6000)).round(3))
    frame.to_csv(tmp_path / "t.csv", index=False)
    start_s = time.process_time()
    assert TableReader(CsvData(path=str(tmp_path / "t.csv"))).read().X.shape == (20, 6000)
    assert time.process_time() - start_s < 10


def test_the_names_of_all_columns_are_not_listed_for_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list for each of 20,000 columns took minutes."""
    n_lists = 0

    def column_names(rows: table_rows.Rows) -> list[str]:
        nonlocal n_lists
        n_lists += 1
        return list(rows._schema.names)

    monkeypatch.setattr(table_rows.Rows, "column_names", property(column_names))
    names = ",".join(f"g{i}" for i in range(90))
    read_text(
        tmp_path, names + "\n" + "".join(",".join([f"{i}.5", f"{7 * i}.5", f"{i * i}"] * 30) + "\n" for i in range(30))
    )
    assert 0 < n_lists < 5


def test_the_delimiter_of_a_decimal_comma_table_is_decided_by_the_header() -> None:
    assert dialect("a;b;c\n1,5;2,5;3\n4,5;5,5;6\n").delimiter == ";"


@pytest.mark.parametrize("n_rows", [3, 50, 250])
def test_a_comma_that_cuts_no_name_is_a_decimal_mark(n_rows: int, tmp_path: Path) -> None:
    values = [round(20 + RNG.normal(), 1) for _ in range(n_rows)]
    rows = "".join(f"{7 * i};{value}\n".replace(".", ",") for i, value in enumerate(values))
    part, reader = read_text(tmp_path, "Zeit;Temperatur\n" + rows)
    assert reader.features == ("Zeit", "Temperatur")
    np.testing.assert_array_equal(part.X[:, 1], values)
    part, reader = read_text(tmp_path, rows, header=False)
    np.testing.assert_array_equal(part.X[:, 1], values)


@pytest.mark.parametrize("n_rows", [2, 9, 250])
def test_a_single_column_may_have_decimal_commas(n_rows: int, tmp_path: Path) -> None:
    values = [i % 40 + 1.5 for i in range(n_rows)]
    rows = "".join(f"{value}\n".replace(".", ",") for value in values)
    part, reader = read_text(tmp_path, "Wert\n" + rows)
    assert reader.features == ("Wert",)
    assert part.ids is None
    np.testing.assert_array_equal(part.X[:, 0], values)
    assert reader.report.decisions["delimiter"].startswith("none, ")


def test_a_single_name_above_counted_rows_means_row_names(tmp_path: Path) -> None:
    for names in (range(1, 31), [f"r{i}" for i in range(30)]):
        part, reader = read_text(tmp_path, "x\n" + "".join(f"{name},{i % 7}\n" for i, name in enumerate(names)))
        assert reader.features == ("x",)
        assert part.ids is not None
        assert part.ids.tolist() == list(map(str, names))


TITLES = {
    "two columns": "Export 2024\np;q\n1,5;2\n3,5;4\n5;7\n",
    "three columns": "Export 2024\np;q;z\n1,5;2;1\n3,5;4;2\n5;7;9\n",
    "commas in the title": "Export, Mai, 2024\np;q;z\n1,5;2,5;1\n3,5;4,5;2\n5,5;7,5;9\n",
    "as many commas as columns": "Export, Mai\np,q,z\n1,2,3\n2,5,4\n3,3,9\n",
    "several lines": "Export 2024\n\nFiliale;Nord\np;q;z;w\n1;2;3;4\n3;4;5;5\n7;7;7;9\n",
    "delimiters after the title": "Export 2024;;\n;;\np;q;z\n1;2;3\n3;4;5\n7;7;8\n",
    "a line break in it": '"Export\n2024";;\np;q;z\n1;2;3\n3;4;5\n7;7;8\n',
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("case", TITLES)
def test_a_title_above_the_names_is_skipped_and_told(case: str, end: str, tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, TITLES[case].replace("\n", end))
    assert reader.features[:2] == ("p", "q")
    assert len(part.X) == 3
    assert part.ids is None
    assert reader.report.decisions["title"].startswith("'Export")
    assert reader.report.decisions["title"].endswith(" above the table skipped")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("gap", ["", "\n"])
@pytest.mark.parametrize("last", ["", ","])
def test_lines_of_several_cells_above_years_are_skipped(last: str, gap: str, end: str, tmp_path: Path) -> None:
    """As in the downloads of the World Bank."""
    names = ["Country Name", "Code", "2000", "2001", "2002"]
    above = f'"Data Source","WDI"{last}\n{gap}"Last Updated","2024-05-30"{last}\n{gap}'
    rows = "".join(f'"C{i}","K{i}","","{i * 1.5}","{i * 2.5}"{last}\n' for i in range(40))
    part, reader = read_text(
        tmp_path, (above + ",".join(map('"{}"'.format, names)) + last + "\n" + rows).replace("\n", end)
    )
    assert reader.features == ("2001", "2002")
    np.testing.assert_array_equal(part.X[:, 0], np.arange(40) * 1.5)
    assert part.ids is not None
    assert reader.report.decisions["title"] == "'Data Source WDI' and 1 more rows above the table skipped"


def test_lines_above_the_names_may_be_filled_up_with_delimiters(tmp_path: Path) -> None:
    """As a spreadsheet saves a download."""
    above = "Data Source,WDI,,,\nLast Updated,2024-05-30,,,\n"
    for names in ("Country,Code,2000,2001,2002", "Country,Code,p,q,r"):
        rows = "".join(f"C{i},K{i},{i}.5,{i * 1.5},{i * 2.5}\n" for i in range(40))
        part, reader = read_text(tmp_path, f"{above}{names}\n{rows}")
        assert reader.features == tuple(names.split(",")[2:])
        assert len(part.X) == 40
        assert reader.report.decisions["title"] == "'Data Source WDI' and 1 more rows above the table skipped"
    part, _ = read_text(tmp_path, "1,2,,,\n" + "".join(f"{i}.5,{i},3,{i * 1.5},{i * 2.5}\n" for i in range(40)))
    assert len(part.X) == 41
    _, reader = read_text(
        tmp_path, "a,b,,,\n" + "".join(f"{i}.5,{7 * i},3,{i * 1.5},{i * 2.5}\n" for i in range(40)), header=True
    )
    assert reader.features[:2] == ("a", "b")


def test_delimiters_too_many_at_the_end_of_the_names_are_no_columns(tmp_path: Path) -> None:
    for last in (",", ",,", ", ,"):
        part, reader = read_text(tmp_path, f"a,b,c{last}\n" + ROWS)
        assert reader.features == ("a", "b", "c")
        np.testing.assert_array_equal(part.X, B)
    assert read_text(tmp_path, "Export 2024\na,b,c,\n" + ROWS)[1].features == ("a", "b", "c")
    with pytest.raises(UserError, match="a row of 3 cells"):
        read_text(tmp_path, "a,b,c,d\n" + ROWS)


def test_a_title_above_rows_without_names(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, "Export 2024\n1.5,2,7\n3.5,4,8\n3.5,5,9\n")
    np.testing.assert_array_equal(part.X, [[1.5, 2, 7], [3.5, 4, 8], [3.5, 5, 9]])
    part, reader = read_text(tmp_path, "Export 2024\na,b\nr1,1.5,2\nr2,3,4\n")
    assert reader.features == ("a", "b")
    assert part.ids is not None
    assert part.ids.tolist() == ["r1", "r2"]


def test_narrow_first_rows_that_are_no_titles_are_refused(tmp_path: Path) -> None:
    for text in ("5\n1.5,2,3\n3.5,4,4\n", "a,b\n1.5,2,3,4\n3.5,4,5,6\n"):
        with pytest.raises(UserError, match=r"a row of . cells"):
            read_text(tmp_path, text)


def predicted(folder: Path, trained_on: str, text: str, **settings: Any) -> tuple[list[list[float]], TableReader]:
    """Return the features of the rows of ``text`` for a model that was trained on another table."""
    plan = read_text(folder, trained_on)[1].plan
    assert plan is not None
    (folder / "new.csv").write_text(text, encoding="utf-8")
    config = CsvData(path=str(folder / "new.csv"), **settings)
    reader = TableReader(config, key="input", plan=json.loads(json.dumps(plan.to_dict())))
    return [row for part in reader.parts(10) for row in part.X.tolist()], reader


GERMAN = "a;b\n1.234,5;1\n2.345.678,25;2\n3,5;1\n"
ENGLISH = 'a;b\n1,234.5;1\n"2,345,678.25";2\n3.5;1\n'


def test_the_training_data_settle_marks_that_a_file_leaves_open(tmp_path: Path) -> None:
    for trained_on, text, number in (
        (GERMAN, "a;b\n1.234;2\n", 1234),
        (GERMAN, "a;b\n1,234;2\n", 1.234),
        (ENGLISH, "a;b\n1,250;2\n", 1250),
        (ENGLISH, "a;b\n1.250;2\n", 1.25),
        ("a;b\n1,5;2\n2,5;3\n", "a;b\n1.250;2\n", 1250),
    ):
        X, reader = predicted(tmp_path, trained_on, text)
        assert X[0] == [number, 2]
        assert reader.report.decisions["decimal mark"].endswith(", as in the data that the model was trained on")
    with pytest.raises(UserError, match="may be decimals or thousands"):  # the training data had neither
        predicted(tmp_path, "a;b\n1;2\n2;3\n", "a;b\n1,250;2\n")
    with pytest.raises(UserError, match="may be decimals or thousands"):  # no German program writes this
        predicted(tmp_path, GERMAN, "a,b\n1.250,2\n")
    assert predicted(tmp_path, GERMAN, "a,b\n1.250,2\n", decimal="point")[0] == [[1.25, 2]]


def test_a_file_with_other_marks_than_the_training_data_is_read_by_its_own(tmp_path: Path) -> None:
    X, reader = predicted(tmp_path, GERMAN, ENGLISH)
    assert X == [[1234.5, 1], [2345678.25, 2], [3.5, 1]]
    assert "; a comma in the data that the model" in reader.report.decisions["decimal mark"]
    assert predicted(tmp_path, ENGLISH, GERMAN)[0] == X


def test_marks_below_the_first_rows_are_those_of_the_training_data(tmp_path: Path) -> None:
    X, _ = predicted(tmp_path, GERMAN, "a;b\n" + "5;1\n" * 11_000 + "1.234;2\n")
    assert X[-1] == [1234, 2]


def test_the_names_of_the_training_data_are_names(tmp_path: Path) -> None:
    years = "2019,2020,2021\n1.5,2,3\n2.5,3,4\n3,5,5\n"
    assert predicted(tmp_path, years, "2019,2020,2021\n2019,2,3\n")[0] == [[2019, 2, 3]]
    levels = "a,b\n" + "".join(f"{i % 7}.5,{'xz'[i % 2]}\n" for i in range(20))
    X, _ = predicted(tmp_path, levels, "b,a\nx,1\nb,3\n")
    assert [row[0] for row in X] == [1, 3]  # although b occurs again below
    with pytest.raises(UserError, match="has no 2 columns a, b"):
        predicted(tmp_path, "a,b\n1.5,2\n2.5,3\n", "5,2\n3,4\n")


def test_the_first_of_several_files_settles_the_others(tmp_path: Path) -> None:
    (tmp_path / "part1.csv").write_text(GERMAN, encoding="utf-8")
    (tmp_path / "part2.csv").write_text("a;b\n1.234;2\n", encoding="utf-8")
    reader = TableReader(CsvData(path=str(tmp_path)))
    assert reader.read().X[:, 0].tolist() == [1234.5, 2345678.25, 3.5, 1234]
    (tmp_path / "part1.csv").write_text("a;b\n1;2\n2;3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"part2.csv: numbers like 1.234, which may be decimals or thousands"):
        TableReader(CsvData(path=str(tmp_path)))


# --- kinds and roles --------------------------------------------------------------------------------------------------

CUSTOMERS = "id,age,sex,city,member,since,note,constant,empty\n" + "".join(
    f"{1000 + i},{20 + i % 37},{'MF'[i % 2]},{['Rome', 'Oslo', 'Bern'][i % 3]},{['yes', 'no'][i % 2]},"
    f"2021-{1 + i % 12:02d}-15,some free text number {i} that is long enough to be no name,7,\n"
    for i in range(90)
)


def test_each_column_gets_its_role_and_kind(tmp_path: Path) -> None:
    part, reader = read_text(tmp_path, CUSTOMERS)
    assert columns(reader) == {
        "id": ("id", ""),
        "age": ("feature", "number"),
        "sex": ("feature", "category"),
        "city": ("feature", "category"),
        "member": ("feature", "boolean"),
        "since": ("feature", "date"),
        "note": ("left_out", ""),
        "constant": ("left_out", ""),
        "empty": ("left_out", ""),
    }
    assert reader.features == (
        *("age", "sex=F", "sex=M", "city=Bern", "city=Oslo", "city=Rome", "member", "since (days)"),
    )
    assert part.ids is not None
    assert part.ids[0] == "1000"
    assert part.X[1].tolist() == [21, 1, 0, 0, 1, 0, 0, 31]


def test_a_category_has_the_variance_of_one_number(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CUSTOMERS, encoding="utf-8")
    X = load_dataset(CsvData(path=str(tmp_path / "t.csv"))).X.double()
    variance = X.var(0, correction=0)
    assert variance[[0, 6, 7]].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert variance[1:3].sum().item() == pytest.approx(1, abs=1e-5)
    assert variance[3:6].sum().item() == pytest.approx(1, abs=1e-5)


def test_settings_override_what_was_inferred(tmp_path: Path) -> None:
    _, reader = read_text(tmp_path, CUSTOMERS, categorical=["age"], exclude=["member", "since"], id="note")
    kinds = columns(reader)
    assert kinds["age"] == ("feature", "category")
    assert kinds["note"] == ("id", "")
    assert kinds["id"] == ("left_out", "")
    assert kinds["since"] == ("left_out", "")


def test_rare_levels_are_joined_and_a_new_level_goes_there_too(tmp_path: Path) -> None:
    cells = [*["a"] * 500, *["b"] * 400, *(f"rare{i}" for i in range(100))]
    text = "x,kind\n" + "".join(f"{i % 7}.5,{cell}\n" for i, cell in enumerate(cells))
    part, reader = read_text(tmp_path, text)
    assert reader.features == ("x", "kind=a", "kind=b", "kind=other")
    assert part.X[:, 1:].sum(0).tolist() == [500, 400, 100]
    assert reader.plan is not None
    plan = json.loads(json.dumps(reader.plan.to_dict()))
    (tmp_path / "new.csv").write_text("kind,x\nnever seen,1.5\nb,2.5\n", encoding="utf-8")
    trained = TableReader(CsvData(path=str(tmp_path / "new.csv")), key="input", plan=plan)
    (found,) = trained.parts(10)
    assert found.X.tolist() == [[1.5, 0, 0, 1], [2.5, 0, 1, 0]]
    assert trained.report.decisions["new levels of kind"].startswith("1 cells")


def read_again(folder: Path, reader: TableReader, content: str, n_rows: int = 10) -> tuple[np.ndarray, TableReader]:
    """Return the rows of another file as a model reads them, in parts of ``n_rows`` rows."""
    (folder / "new.csv").write_text(content, encoding="utf-8")
    assert reader.plan is not None
    trained = TableReader(CsvData(path=str(folder / "new.csv")), key="input", plan=reader.plan.to_dict())
    return np.concatenate([part.X for part in trained.parts(n_rows)]), trained


def test_a_prediction_tells_new_levels_and_filled_cells_once(tmp_path: Path) -> None:
    text = "x,sex,y\n" + "".join(f"{i}.5,{['male', 'female'][i % 3 > 0]},{(i * 7) % 60}.5\n" for i in range(60))
    _, reader = read_text(tmp_path, text)
    rows = [f"{i if i % 3 else ''},{['Male', 'Female', 'male'][i % 3]},{i}.5\n" for i in range(12)]
    X, trained = read_again(tmp_path, reader, "x,sex,y\n" + "".join(rows), n_rows=5)
    assert X[:3, 1:3].tolist() == [[0, 0], [0, 0], [0, 1]]
    filled, new = trained.report.prediction_warnings()
    assert filled == "4 missing values are filled as those of the training data were: x (4)"
    assert new.startswith("column sex has 8 cells with levels that it did not have in training ('Male', 'Female'), ")


def test_a_level_does_not_depend_on_the_rows_that_are_there(tmp_path: Path) -> None:
    cells = ["1.0", "3.10", "beta"]
    _, reader = read_text(tmp_path, "x,version\n" + "".join(f"{i}.5,{cells[i % 3]}\n" for i in range(60)))
    assert reader.features == ("x", "version=1.0", "version=3.10", "version=beta")
    X, trained = read_again(tmp_path, reader, "x,version\n1.5,1.0\n2.5,3.10\n")
    assert X[:, 1:].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert not trained.n_new


def test_levels_that_were_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    text = "x,grade\n" + "".join(f"{i}.5,{['1.0', '2.0', '2.50', ''][i % 4]}\n" for i in range(60))
    _, reader = read_text(tmp_path, text, categorical=["grade"])
    assert reader.features == ("x", "grade=1", "grade=2", "grade=2.5")
    rows = ["1.5,2.0", "2.5,1", "3.5,2.50", "4.5,02", "5.5,none of these"]
    X, trained = read_again(tmp_path, reader, "x,grade\n" + "\n".join(rows) + "\n", n_rows=2)
    assert X[:, 1:].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert "('02', 'none of these')" in trained.report.odd[0]


def test_a_number_that_is_neither_yes_nor_no_is_refused(tmp_path: Path) -> None:
    _, reader = read_text(tmp_path, "x,flag\n" + "".join(f"{i}.5,{['yes', 'no'][i % 2]}\n" for i in range(40)))
    X, _ = read_again(tmp_path, reader, "x,flag\n1.5,1\n2.5,0\n3.5,\n")
    assert X[:, 1].tolist() == [1, 0, 1]
    for numbers in ("1\n2.5,7", "1.0\n2.5,0.5"):
        with pytest.raises(
            UserError, match=r"column flag has '(7|0.5)' in row 1 \(counted from 0\); expected yes or no"
        ):
            read_again(tmp_path, reader, f"x,flag\n1.5,{numbers}\n")


def test_missing_levels_take_the_most_frequent_one(tmp_path: Path) -> None:
    text = "x,sex\n" + "".join(f"{i},{['M', 'F', 'M', '.'][i % 4]}\n" for i in range(40, 0, -1))
    part, reader = read_text(tmp_path, text, numeric=["x"])
    assert reader.features == ("x", "sex=M", "sex=F")
    assert part.X[:, 1].sum() == 30
    assert reader.report.filled == {"sex": 10}
    assert gaps_of(reader).sum() == 20


def test_a_number_below_all_others_in_many_columns_means_missing(tmp_path: Path) -> None:
    X = np.round(RNG.uniform(0, 50, size=(60, 4)), 1)
    X[::7] = -200
    X[3, 1] = -200
    _, reader = read_text(tmp_path, "a,b,c,d\n" + "".join(",".join(map(str, row)) + "\n" for row in X))
    assert reader.report.filled == {"b": 1}
    assert [(part.n, part.what, part.reason) for part in reader.report.left_out] == [
        (9, "rows", "no value in any feature")
    ]
    assert "-200 in 4 columns" in reader.report.odd[0]
    votes = RNG.integers(-1, 2, size=(60, 4))
    _, reader = read_text(tmp_path, "a,b,c,d\n" + "".join(",".join(map(str, row)) + "\n" for row in votes))
    assert reader.report.filled == {}, "-1, 0, 1 are codes"


def test_rows_of_nothing_but_delimiters_are_left_out_and_told(tmp_path: Path) -> None:
    text = "a;b\n" + "".join(f"{i % 17}.5;{i % 5}.25\n" for i in range(40)) + ";;;;\n  ; ; \n"
    part, reader = read_text(tmp_path, text)
    assert len(part.X) == 40
    assert [(out.n, out.what, out.reason) for out in reader.report.left_out] == [
        (2, "rows", "nothing but delimiters and spaces")
    ]


def test_whole_numbers_below_the_name_of_a_code_are_a_category(tmp_path: Path) -> None:
    text = "Region,Kids,Spent\n" + "".join(f"{1 + i % 3},{i % 4},{i * i % 101}\n" for i in range(60))
    _, reader = read_text(tmp_path, text)
    assert columns(reader)["Region"] == ("feature", "category")
    assert columns(reader)["Kids"] == ("feature", "number")
    assert columns(read_text(tmp_path, text, numeric=["Region"])[1])["Region"] == ("feature", "number")


def test_a_column_that_is_called_class_is_left_out_and_told(tmp_path: Path) -> None:
    text = "a,class\n" + "".join(f"{a},{i % 3}\n" for i, (a, _, _) in enumerate(B))
    _, reader = read_text(tmp_path, text)
    assert reader.features == ("a",)
    assert "data.labels=class scores the clusters against it" in reader.report.odd[0]
    assert read_text(tmp_path, text, numeric=["class"])[1].features == ("a", "class")
    part, _ = read_text(tmp_path, text, labels="class")
    assert part.labels is not None
    assert part.labels.tolist() == (np.arange(60) % 3).tolist()


@pytest.mark.parametrize(
    ("cells", "days"),
    [
        (["11/30/07", "12/01/07", "12/31/07"], [0, 1, 31]),
        (["30/11/2007", "01/12/2007", "31/12/2007"], [0, 1, 31]),
        (["2007-11-30", "2007-12-01", "2007-12-31"], [0, 1, 31]),
        (["30.11.2007", "01.12.2007", "31.12.2007"], [0, 1, 31]),
        (["30-Nov-2007", "01-Dec-2007", "31-Dec-2007"], [0, 1, 31]),
        (["20071130", "20071201", "20071231"], [0, 1, 31]),
    ],
)
def test_dates_are_days_since_the_first(cells: list[str], days: list[float], tmp_path: Path) -> None:
    text = "a,day\n" + "".join(f"{a},{cells[i % 3]}\n" for i, (a, _, _) in enumerate(B))
    part, reader = read_text(tmp_path, text, dates=["day"] if cells[0].isdecimal() else [])
    assert reader.features == ("a", "day (days)")
    assert part.X[:3, 1].tolist() == days


def test_a_date_with_a_time_has_both(tmp_path: Path) -> None:
    text = "a,at\n" + "".join(
        f"{a},{1 + i % 12}/{1 + i % 28}/2010 {6 + 6 * (i % 2)}:00\n" for i, (a, _, _) in enumerate(B)
    )
    data, reader = read_text(tmp_path, text)
    assert reader.features == ("a", "at (days)", "at (day sin)", "at (day cos)")
    assert data.X[0, 1:].tolist() == pytest.approx([0, 1, 0], abs=1e-9)
    assert data.X[13, 1] == 44.25


def test_numbers_that_name_customers_are_left_out_and_postal_codes_are_a_category(tmp_path: Path) -> None:
    text = "a,CustomerID,zipcode\n" + "".join(f"{i % 7}.5,{17850 + i // 2},{98001 + i % 20}\n" for i in range(80))
    _, reader = read_text(tmp_path, text)
    assert columns(reader)["CustomerID"] == ("left_out", "")
    assert columns(reader)["zipcode"] == ("feature", "category")


def test_the_first_column_of_a_table_without_names_may_be_an_id(tmp_path: Path) -> None:
    text = "".join(f"{1000025 + 37 * (i * 7 % 60)},{i % 9},{i % 5}\n" for i in range(60))
    data, reader = read_text(tmp_path, text)
    assert reader.features == ("1", "2")
    assert data.ids is not None
    assert data.ids[0] == "1000025"


def test_a_time_of_day_is_a_point_on_a_circle(tmp_path: Path) -> None:
    text = "a,time\n" + "".join(f"{a},{(6 * i) % 24:02d}.00.00\n" for i, (a, _, _) in enumerate(B))
    part, reader = read_text(tmp_path, text)
    assert reader.features == ("a", "time (day sin)", "time (day cos)")
    np.testing.assert_allclose(part.X[:4, 1:], [[0, 1], [1, 0], [0, -1], [-1, 0]], atol=1e-12)


def test_a_boolean_with_gaps(tmp_path: Path) -> None:
    text = "a,member\n" + "".join(f"{a},{['true', 'false', 'true', ''][i % 4]}\n" for i, (a, _, _) in enumerate(B))
    part, reader = read_text(tmp_path, text)
    assert columns(reader)["member"] == ("feature", "boolean")
    assert part.X[:4, 1].tolist() == [1, 0, 1, 1]
    assert len(read_text(tmp_path, text, missing="drop")[0].X) == 45


# --- exactness --------------------------------------------------------------------------------------------------------


def test_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    ids = ["NA", "None", "null", "007", "1.0", *(f"X{i}" for i in range(55))]
    text = "iso,a,b,c\n" + "".join(f"{k},{a},{b},{c}\n" for k, (a, b, c) in zip(ids, B, strict=True))
    part, _ = read_text(tmp_path, text, id="iso")
    assert part.ids is not None
    assert part.ids.tolist() == ids


def test_large_ids_with_a_gap_stay_whole_numbers(tmp_path: Path) -> None:
    ids: list[int | None] = [1582218195625938945 + i for i in range(60)]
    ids[5] = None
    part, _ = read_parquet(tmp_path, pa.table({"id": pa.array(ids, pa.int64()), "a": B[:, 0]}), id="id")
    assert part.ids is not None
    assert part.ids[[0, 4, 5]].tolist() == ["1582218195625938945", "1582218195625938949", ""]


def test_an_id_does_not_depend_on_the_part_it_is_in(tmp_path: Path) -> None:
    text = "id,a\n" + "".join(f"{i if i < 30 else f'x{i}'},{B[i, 0]}\n" for i in range(60))
    _, reader = read_text(tmp_path, text, id="id")
    assert reader.plan is not None
    trained = TableReader(CsvData(path=str(tmp_path / "t.csv"), id="id"), plan=reader.plan.to_dict())
    ids = [part.ids.tolist() for part in trained.parts(10) if part.ids is not None]
    assert ids[0] == [str(i) for i in range(10)]
    assert ids[-1][-1] == "x59"


def test_leading_zeros_are_no_numbers(tmp_path: Path) -> None:
    text = "a,zip\n" + "".join(f"{B[i, 0]},{['01234', '10115'][i % 2]}\n" for i in range(60))
    assert read_text(tmp_path, text)[1].features == ("a", "zip=01234", "zip=10115")


def test_a_pandas_index_is_an_id(tmp_path: Path) -> None:
    order = RNG.permutation(60)
    part, reader = read_parquet(tmp_path, pa.table({"a": B[:, 0], "b": B[:, 1], "__index_level_0__": order}))
    assert reader.features == ("a", "b")
    assert part.ids is not None
    assert part.ids.tolist() == [str(i) for i in order]


def test_parquet_types_that_are_no_plain_numbers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "price": pa.array([Decimal(i) / 4 for i in range(60)], pa.decimal128(10, 2)),
            "n": pa.array([None if i == 3 else i % 5 for i in range(60)], pa.int64()),
            "flag": pa.array([None if i == 4 else i % 2 == 0 for i in range(60)], pa.bool_()),
            "kind": pa.array(["x", "y", "y"] * 20).dictionary_encode(),
            "embedding": pa.array([[1.0, i, 2.0 * i] for i in range(60)], pa.list_(pa.float32())),
        }
    )
    part, reader = read_parquet(tmp_path, table)
    assert reader.features == (
        *("price", "n", "flag", "kind=y", "kind=x", "embedding[0]", "embedding[1]", "embedding[2]"),
    )
    assert part.X[5].tolist() == [1.25, 0, 0, 1, 0, 1, 5, 10]
    assert reader.report.filled == {"n": 1, "flag": 1}


def test_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    table = pa.table({"embedding": pa.array([[1.0, 2.0]] * 59 + [[1.0]], pa.list_(pa.float32()))})
    with pytest.raises(UserError, match=r"column embedding has 'a list of 1' in row 59 .*; expected lists of the same"):
        read_parquet(tmp_path, table)


def test_two_columns_of_one_name_are_refused_before_training(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(B[:, i]) for i in range(3)], ["a", "b", "b"])
    with pytest.raises(UserError, match="two columns are called b; expected different names"):
        read_parquet(tmp_path, table, columns=["a", "b"])


def test_labels_with_as_many_classes_as_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,pay\n" + "".join(f"{B[i, 0]},{1000 * i}\n" for i in range(60)), encoding="utf-8")
    with pytest.raises(UserError, match=r"data.labels=pay: 60 classes in 60 rows; expected classes that repeat"):
        load_dataset(CsvData(path=str(tmp_path / "t.csv"), labels="pay"))


def test_a_remedy_can_be_pasted_whatever_the_name(tmp_path: Path) -> None:
    text = 'a,"Sex (M/F), text"\n1.5,x\n2.5,y\n'
    with pytest.raises(UserError) as caught:
        read_text(tmp_path, text, strict=True)
    assert """set 'data.exclude=["Sex (M/F), text"]'""" in str(caught.value)


# --- several files ----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_natural_order_with_its_partitions(tmp_path: Path) -> None:
    for year in (2, 10):
        (tmp_path / "data" / f"year={year}").mkdir(parents=True)
        for part in (2, 10):
            rows = f"a,b\n{year}.5,{part}\n{year}.25,{part}\n"
            (tmp_path / "data" / f"year={year}" / f"part{part}.csv").write_text(rows, encoding="utf-8")
    reader = TableReader(CsvData(path=str(tmp_path / "data")))
    found = reader.read()
    assert reader.features == ("a", "b", "year")
    assert found.X.tolist() == [[y + f, p, y] for y in (2, 10) for p in (2, 10) for f in (0.5, 0.25)]
    assert reader.report.decisions["files"].startswith("4, from part2.csv to part10.csv")


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_a_glob_of_typed_files(kind: str, tmp_path: Path) -> None:
    write = pq.write_table if kind == "parquet" else pyarrow.feather.write_feather
    for i in (2, 10):
        write(pa.table({"a": B[:, 0] + i, "b": B[:, 1]}), tmp_path / f"part{i}.{kind}")
    config = {"parquet": ParquetData, "feather": FeatherData}[kind]
    found = TableReader(config(path=str(tmp_path / f"part*.{kind}"))).read()
    assert found.X[[0, 60], 0].tolist() == [B[0, 0] + 2, B[0, 0] + 10]
    write(pa.table({"a": B[:, 0]}), tmp_path / f"part11.{kind}")
    with pytest.raises(UserError, match=r"part11.*has no column b; expected the columns of part2"):
        TableReader(config(path=str(tmp_path)))


# --- larger than memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", ["memory", "disk"])
def test_a_table_that_passes_through_files_gives_the_same_rows(
    load: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text(CUSTOMERS.replace("21,F", ",F", 1), encoding="utf-8")
    config = CsvData(path=str(tmp_path / "t.csv"), load=load)
    expected = load_dataset(CsvData(path=str(tmp_path / "t.csv")))
    monkeypatch.setattr(table_rows, "MAX_BYTES_IN_MEMORY", 1000)
    found = load_dataset(config)
    assert found.sha256 == expected.sha256
    assert isinstance(found.X, torch.Tensor) == (load == "memory")
    X = found.X if isinstance(found.X, torch.Tensor) else found.X.read(0, 90)
    assert torch.equal(X, expected.X)
    assert found.ids is not None
    assert expected.ids is not None
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.filled is not None
    assert expected.filled is not None
    assert found.filled.sha256() == expected.filled.sha256()


@pytest.mark.parametrize("has_descriptors", [True, False])
def test_nothing_is_left_of_rows_in_temporary_files(
    has_descriptors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a process that is killed, where the system allows files without a name."""
    (tmp_path / "t.csv").write_text(CUSTOMERS, encoding="utf-8")
    (folder := tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(table_rows, "MAX_BYTES_IN_MEMORY", 1000)
    if not has_descriptors:
        monkeypatch.setattr(table_rows, "_DESCRIPTORS", tmp_path / "none")
    names: list[str] = []
    tables = table_rows.Rows.tables

    def list_names(rows: table_rows.Rows) -> Iterator[pa.Table]:
        names.extend(path.name for path in folder.iterdir())
        return tables(rows)

    monkeypatch.setattr(table_rows.Rows, "tables", list_names)
    found = load_dataset(CsvData(path=str(tmp_path / "t.csv"), load="disk"))
    assert not isinstance(found.X, torch.Tensor)
    names.extend(path.name for path in folder.iterdir())
    assert bool(names) == (not has_descriptors or sys.platform != "linux")
    rows = found.X.read(0, 90)
    gc.collect()
    assert torch.equal(found.X.read(0, 90), rows)
    del found
    gc.collect()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("group_rows", "is_copied"), [(60, False), (10, True)])
def test_parquet_that_is_not_held_is_read_from_its_own_columns(
    group_rows: int, is_copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of small groups of rows are copied: each column of each group takes a call."""
    for i in range(2):
        columns = {
            "name": [f"{n + 60 * i:03d}" for n in range(60)],
            "b": pa.array(B[:, 1]),
            "a": pa.array(B[:, 0] + i).cast(pa.float32()),
            "c": pa.array(["x", "y", None] * 20).dictionary_encode(),
            "n": pa.array([None, *range(2, 61)], pa.int64()),
            "y": pa.array([n % 3 for n in range(60)], pa.int8()),
        }
        pq.write_table(pa.table(columns), tmp_path / f"part{i}.parquet", row_group_size=group_rows)
    config = ParquetData(path=str(tmp_path), id="name", labels="y")
    expected = load_dataset(config)
    opened: list[object] = []

    class Writer(pq.ParquetWriter):  # type: ignore[misc]
        def __init__(self, *words: object, **options: object) -> None:
            opened.append(words)
            super().__init__(*words, **options)

    monkeypatch.setattr(table_rows, "MAX_BYTES_IN_MEMORY", 1000)
    monkeypatch.setattr(table_rows.pq, "ParquetWriter", Writer)
    monkeypatch.setattr(sources, "_LEAST_GROUP_ROWS", 60)
    found = load_dataset(config)
    assert bool(opened) == is_copied
    assert isinstance(found.X, torch.Tensor)
    assert isinstance(expected.X, torch.Tensor)
    assert torch.equal(found.X, expected.X)
    assert found.sha256 == expected.sha256
    assert (found.ids == expected.ids).all()
    assert (found.labels == expected.labels).all()
    assert found.report.to_dict() == expected.report.to_dict()


def test_each_column_is_read_once_to_infer_it_and_once_to_fill_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the rows are in files, each look at a column reads it."""
    columns = {name: pa.array(B[:, i % 2] + i) for i, name in enumerate("abcd")}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    n_read: Counter[str] = Counter()
    column = table_rows.Rows.column

    def count(rows: table_rows.Rows, name: str) -> pa.ChunkedArray:
        n_read[name] += 1
        return column(rows, name)

    monkeypatch.setattr(table_rows.Rows, "column", count)
    TableReader(ParquetData(path=str(tmp_path / "t.parquet"))).read()
    assert n_read == dict.fromkeys("abcd", 2)


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_search")
def test_a_run_tells_what_it_did_and_predicts_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = CUSTOMERS.splitlines(keepends=True)
    lines[3] = lines[3].replace("22,", ",", 1)
    Path("c.csv").write_text("".join(lines), encoding="utf-8")
    quick = [
        "model.hidden=[8]",
        "pretrain.epochs=1",
        "joint.epochs=1",
        "log.tensorboard=false",
        "log.figures=false",
        "log.report=false",
    ]
    words = ["data=csv", "data.path=c.csv", "clustering.n_clusters=3", *quick, "hydra.run.dir=run"]
    assert train._main(words) == 0
    assert "filled: 1 missing values, their reconstruction does not count: age (1)" in capsys.readouterr().out
    report = json.loads(Path("run/data.json").read_text(encoding="utf-8"))
    assert report["filled"] == {"age": 1}
    assert report["n_rows"] == report["n_used"] == 90
    predict.work(["run=run", "input=c.csv", "output=o.csv"])
    assert Path("o.csv").read_bytes() == Path("run/assignments.csv").read_bytes()


def test_a_plan_of_version_0_1_is_columns_of_numbers() -> None:
    plan = TablePlan.from_dict({"features": ["a", "b"], "fill": [1.5, 2.0]})
    X, gaps, _ = plan.encode(pa.table({"b": [1, 2], "a": pa.array([None, 3.5], pa.float64())}))
    np.testing.assert_array_equal(X, [[np.nan, 1], [3.5, 2]])
    assert gaps.tolist() == [[True, False], [False, False]]
    assert plan.fill is not None
    assert plan.fill.tolist() == [1.5, 2.0]


# --- real files -------------------------------------------------------------------------------------------------------

MESSY = {
    "marketing_campaign.csv": (2240, 35, {"Income": 24}),
    "penguins_lter.csv": (344, 20, {"Sex": 11}),
    "Mall_Customers.csv": (200, 5, {}),
    "Wholesale customers data.csv": (440, 11, {}),
    "AirQualityUCI.csv": (9357, 15, {"CO(GT)": 1683}),
    "Data_Cortex_Nuclear.csv": (1080, 83, {"DYRK1A_N": 3}),
    "dermatology.data": (366, 34, {"age": 8}),
}


@pytest.mark.data
@pytest.mark.parametrize("name", MESSY)
def test_files_as_people_have_them_are_read_at_the_first_command(name: str, data_root: Callable[[str], Path]) -> None:
    n_rows, n_features, filled = MESSY[name]
    data: Dataset = load_dataset(CsvData(path=str(data_root(f"messy/{name}") / "messy" / name)))
    assert data.X.shape == (n_rows, n_features)
    assert data.report.filled.items() >= filled.items()
    assert all(column["note"] for column in data.report.columns if column["role"] == "left_out")


def test_a_value_that_is_not_finite_is_named_by_its_column_and_its_row_in_the_file(tmp_path: Path) -> None:
    rows = [f"{i % 7}.5,{i % 5}" for i in range(60)]
    rows[2], rows[9] = "1.5,", "inf,3"
    (tmp_path / "t.csv").write_text("\n".join(["income,b", *rows, ""]), encoding="utf-8")
    with pytest.raises(UserError, match=r"infinite .*: 1, the first is inf in column income, row 9 \(counted from 0\)"):
        load_dataset(CsvData(path=str(tmp_path / "t.csv"), missing="drop"))


@pytest.mark.usefixtures("quick_search")
def test_a_prediction_of_no_row_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,c\n" + ROWS, encoding="utf-8")
    quick = [
        "model.hidden=[8]",
        "pretrain.epochs=1",
        "joint.epochs=1",
        "log.tensorboard=false",
        "log.figures=false",
        "log.report=false",
    ]
    assert train._main(["data=csv", "data.path=t.csv", "clustering.n_clusters=3", *quick, "hydra.run.dir=run"]) == 0
    Path("new.csv").write_text("a,b,c\n1,,2\n3,,4\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"input=new.csv: all 2 rows are left out; expected a row to assign"):
        predict.work(["run=run", "input=new.csv", "output=o.csv", "data.missing=drop"])
    assert not Path("o.csv").exists()
