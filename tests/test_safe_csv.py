"""``safe_csv=true``: texts that a spreadsheet would execute as formulas are marked in every CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dkm.config.roles import role_of
from dkm.config.settings import Role
from dkm.evaluation.assignments import Assignments, Writer, csv_line, csv_parts, safe_text, without_mark
from dkm.evaluation.exemplars import Contrast, Exemplars, exemplar_lines, feature_lines
from dkm.runs.comparison import csv_text
from dkm.runs.directory import RunDirectory

EVIL = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t1", "\ra", "=1,2"]
HARMLESS = ["", "a", "-5", "+1.5e3", "-inf", "a=1", "'=1", "1-2"]


def table(texts: list[str]) -> Assignments:
    n = len(texts)
    column = np.array(texts, dtype=object)
    distance = np.linspace(-1, 1, n, dtype=np.float32)
    return Assignments(np.arange(n), column, np.zeros(n, np.int64), distance, distance, column.astype(str), column)


def rows_of(lines: str) -> list[dict[str, str]]:
    return list(csv.DictReader(lines.splitlines(keepends=True)))


@pytest.mark.parametrize("text", EVIL)
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert safe_text(text) == f"'{text}"
    assert next(csv.reader([csv_line(text, -1.5, None, -3, is_safe=True)])) == [f"'{text}", "-1.5", "", "-3"]
    assert next(csv.reader([csv_line(text)])) == [text]


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_and_numbers_stay(text: str) -> None:
    assert safe_text(text) == text


@pytest.mark.parametrize("text", [*EVIL, *HARMLESS[:-2], HARMLESS[-1]])
def test_the_mark_is_taken_off_again(text: str) -> None:
    """But for a text that has such an apostrophe of its own."""
    assert without_mark(safe_text(text)) == text


INNER = {
    "x;=cmd|' /C calc'!A0;": "x;'=cmd|' /C calc'!A0;",
    "=1;-2": "'=1;'-2",
    "x\t@a": "x\t'@a",
    "\t=1": "'\t'=1",
    "x\n+1": "x\n'+1",
    "x\r\n=1": "x\r'\n'=1",
    'x;"=1;': "x;'\"=1;",
    "x;'=1": "x;''=1",
    "x;y; =1,=2": "x;y; =1,=2",
}


@pytest.mark.parametrize("text", INNER)
def test_a_formula_within_a_text_where_a_spreadsheet_splits_it_gets_an_apostrophe(text: str) -> None:
    assert safe_text(text) == INNER[text]
    assert without_mark(INNER[text]) == text
    # As a spreadsheet reads the line whose delimiter is a semicolon or a tab.
    line = csv_line(0, text, is_safe=True)
    for delimiter in ";\t":
        cells = [cell for row in csv.reader(io.StringIO(line, newline=""), delimiter=delimiter) for cell in row]
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_each_text_of_the_assignments_is_marked(tmp_path: Path) -> None:
    texts = [text for text in EVIL + HARMLESS if "\r" not in text]
    plain = b"".join(csv_parts(table(texts))).decode()
    safe = b"".join(csv_parts(table(texts), is_safe=True)).decode()
    assert [row["id"] for row in rows_of(plain)] == texts
    for row, text, before in zip(rows_of(safe), texts, rows_of(plain), strict=True):
        assert row["id"] == row["label"] == row["text"] == safe_text(text)
        assert (row["distance"], row["margin"]) == (before["distance"], before["margin"])
    for is_safe, expected in ((False, plain), (True, safe)):
        with Writer(tmp_path / f"{is_safe}.csv", "output=x", overwrite=False, is_safe=is_safe) as writer:
            writer.write(table(texts))
        assert (tmp_path / f"{is_safe}.csv").read_text() == expected
    with Writer(tmp_path / "x.npz", "output=x", overwrite=False, is_safe=True) as writer:
        writer.write(table(texts))
    with np.load(tmp_path / "x.npz") as archive:
        assert archive["id"].tolist() == texts


def test_exemplars_features_and_comparisons_are_marked() -> None:
    exemplars = [Exemplars(np.array([0, 3]), np.array([1]))]
    rows = rows_of("".join(exemplar_lines(table(EVIL), exemplars, is_safe=True)))
    assert [row["id"] for row in rows] == [row["text"] for row in rows] == ["'=1+1", "'@SUM(A1)", "'+cmd|' /C calc'!A0"]
    contrast = Contrast(*(np.array([[-1.0, 2.0]]) for _ in range(3)))
    lines = feature_lines(contrast, ["=a", "b"], is_safe=True)
    assert [(row["feature"], row["difference"]) for row in rows_of("".join(lines))] == [("b", "2"), ("'=a", "-1")]
    cells: list[list[Any]] = [["paths", "x"], [Path("=run"), -1.5], ["=1", -2]]
    assert csv_text(cells, is_safe=True) == "paths,x\n'=run,-1.5\n'=1,-2\n"
    assert csv_text(cells) == "paths,x\n=run,-1.5\n=1,-2\n"


def test_a_run_writes_its_files_so(tmp_path: Path) -> None:
    for safe_csv in (False, True):
        run = RunDirectory(tmp_path, progress="off", safe_csv=safe_csv)
        run.write_assignments(table(EVIL), [Exemplars(np.array([0]), np.array([1]))])
        contrast = Contrast(*(np.array([[-1.0]]) for _ in range(3)))
        run.write_features(contrast, ["=a"])
        for name in ("assignments.csv", "exemplars.csv", "features.csv"):
            assert ("'=" in (tmp_path / name).read_text()) is safe_csv
    assert role_of("safe_csv") is Role.OUTPUT
