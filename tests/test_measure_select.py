"""The study of ``dkm.select``: what it counts, and that it measures real runs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from dkm.errors import Failure
from dkm.runs import reading

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with four blobs as its only data and ``tmp_path`` as its place."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("measure_select")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "TABLE", tmp_path / "select.md")
    words = ("data=blobs", "data.n_samples=200", "data.n_blobs=4", "model.hidden=[16]", "clustering.n_init=2")
    sets = {"four": module.Set(4, "3-4", (*words, "pretrain.epochs=2", "joint.epochs=1"))}
    monkeypatch.setattr(module, "SETS", sets)
    return module


def case(
    recommended: int, plausible: list[int], warnings: list[str], alone: int, module: ModuleType
) -> dict[str, object]:
    own = {"recommended": recommended, "plausible": plausible, "warnings": warnings}
    return {**own, "alone": dict.fromkeys(module.ALONE, alone)}


def test_the_table_counts_cases(study: ModuleType) -> None:
    cases = [case(4, [4, 5], [], 9, study), case(5, [4, 5], ["weak"], 3, study), case(7, [7], [], 4, study)]
    lines = study.table({"four": {"n_classes": 4, "k": "2-9", "cases": cases}}).splitlines()
    assert lines[-2] == "| four | 4 | 2-9 | 4, 5, 7 | 1 | 2 | 2 | 1 | 2 | 2 | 2 | 2 | 2 | 2 |"
    assert lines[-1] == "| all |  |  |  | 1 | 2 of 3 |  |  | 2 | 2 | 2 | 2 | 2 | 2 |"
    assert lines[-3].count("|") == lines[-1].count("|")


def test_a_case_has_the_scores_of_its_seeds_and_pairs(study: ModuleType) -> None:
    pairs = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    scores = {
        "modularity_data": {(seed,): float(seed) for seed in range(5)},
        "agreement_seeds": {(i, j): 10.0 * i + j for i, j in pairs},
        "silhouette": {},
    }
    assert study.of_seeds(scores, [3, 4, 0]) == {
        "modularity_data": {(3,): 3.0, (4,): 4.0, (0,): 0.0},
        "agreement_seeds": {(3, 4): 34.0, (0, 3): 3.0, (0, 4): 4.0},
        "silhouette": {},
    }
    with pytest.raises(Failure, match="silhouette: 4 values"):
        study.of_seeds({"silhouette": {(seed,): 0.0 for seed in range(4)}}, [0, 1, 2])


def test_less_is_better_where_it_is(study: ModuleType) -> None:
    scores = {2: {"a": {(0,): 1.0, (1,): 3.0}}, 3: {"a": {(0,): 1.0}}, 4: {"a": {}}}
    assert study.best(scores, "a", is_more_better=True) == 2
    assert study.best(scores, "a", is_more_better=False) == 3


def test_an_unknown_name_is_one_line(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["measure_select.py", "five"])
    assert study.main() == 2
    assert capsys.readouterr().err == "error: five: expected [NAMES]; the names are four\n"


@pytest.mark.slow
def test_it_measures_the_answers_of_real_runs(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["measure_select.py"])
    assert study.main() == 0
    found = json.loads((tmp_path / "results" / "four.json").read_text())
    assert [case["seeds"] for case in found["cases"]] == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1]]
    assert found["cases"][0]["recommended"] == 4
    (run,) = {str(reading.read(path).settings["data.name"]) for path in reading.find([str(tmp_path / "runs" / "four")])}
    assert run == "blobs"
    assert found["cases"][0]["scores"]["modularity_data"].keys() == {"3", "4"}
    assert "| four | 4 | 3-4 |" in (tmp_path / "select.md").read_text()
