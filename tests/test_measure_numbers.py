"""The measurement of clustering.n_clusters=auto: its counts, its page, and one measured set."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("measure_numbers")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "n_clusters.json")
    monkeypatch.setattr(module, "TABLE", tmp_path / "n_clusters.md")
    monkeypatch.setattr(module.benchmark_tables, "RUNS", tmp_path / "runs")
    yield module
    for name in ("measure_numbers", "measure_select", "benchmark_tables"):
        sys.modules.pop(name)


def case(found: int, plausible: list[int], *, n_classes: int = 5, is_warned: bool = False) -> dict[str, Any]:
    warnings = ["doubtful"] if is_warned else []
    sizes = {"n_classes": n_classes, "n_rows": 1200, "seconds": 3.4}
    return {"found": found, "plausible": plausible, "warnings": warnings, **sizes}


def test_cases_are_counted(numbers: ModuleType) -> None:
    cases = [case(5, [5]), case(6, [5, 6]), case(4, [4], is_warned=True), case(7, [6, 7])]
    assert numbers.count(cases) == (1, 3, 2, 1)


def test_the_page_has_each_set_and_the_sum(numbers: ModuleType) -> None:
    vowel = {"0": case(9, [9])}
    page = numbers.page(
        {"blobs5": {"0": case(5, [5]), "1": case(6, [6])}, "blobs16": {"0": case(5, [5])}, "vowel": vowel}
    )
    assert "| blobs5 | 1,200 | 5 | 5, 6 | 1 | 2 | 1 | 0 | 3 |" in page
    assert "| blobs16 (fresh) |" in page
    assert "| vowel (fresh) |" in page
    assert page.endswith(
        "| others |  |  | 2 | 1 | 2 | 1 | 0 |  |\n"
        "| fresh |  |  | 2 | 1 | 1 | 1 | 0 |  |\n"
        "| all |  |  | 4 | 2 | 3 | 2 | 0 |  |\n"
    )


def test_digits_are_read_as_images_and_as_a_table(numbers: ModuleType) -> None:
    assert numbers.words_of("digits") == ("data=digits",)
    assert "data=npz" in numbers.words_of("digits_table")
    assert not any(word.startswith("precision") for word in numbers.words_of("usps"))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_search")
def test_a_set_is_measured_once(numbers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_numbers.py", "wine", "0"])
    assert numbers.main() == 0
    found = json.loads(numbers.RESULTS.read_text(encoding="utf-8"))["wine"]["0"]
    assert (found["n_classes"], found["n_rows"]) == (3, 178)
    assert 3 in found["plausible"]
    monkeypatch.setattr(numbers, "measure", None)
    assert numbers.main() == 0, "nothing is missing"
    assert "| wine | 178 | 3 |" in numbers.TABLE.read_text(encoding="utf-8")


def test_an_unknown_set_is_refused(
    numbers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_numbers.py", "irises"])
    assert numbers.main() == 2
    assert capsys.readouterr().err == "error: irises: expected [NAMES] [SEEDS]; see --help\n"
