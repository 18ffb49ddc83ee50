"""The benchmark of ordinary data: its ranks, its page, and one measured set."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("benchmark_tables")
    for name in ("RUNS", "RESULTS"):
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setattr(module, "TABLE", tmp_path / "tables.md")
    yield module
    sys.modules.pop("benchmark_tables")


def result(**nmi: float) -> dict[str, Any]:
    entries = [
        {"method": method, "seed": seed, "acc": value, "nmi": value, "ari": value, "n_clusters": 3, "seconds": 1.0}
        for method, value in nmi.items()
        for seed in (0, 1)
    ]
    return {"kind": "table", "n": 100, "features": 4, "k": 3, "scaling": "standard", "results": entries}


def test_ranks_are_over_the_sets_that_a_method_was_run_on(tables: ModuleType) -> None:
    results = {"a": result(dkm=0.9, kmeans=0.5, ward=0.7), "b": result(dkm=0.6, kmeans=0.8)}
    assert tables.mean_ranks(results, "nmi") == {"dkm": (1.5, 2), "kmeans": (2.0, 2), "ward": (2.0, 1)}


def test_the_page_says_where_we_are_behind_kmeans(tables: ModuleType) -> None:
    page = tables.page({"a": result(dkm=0.9, kmeans=0.5), "b": result(dkm=0.6, kmeans=0.8)})
    assert "- `b`: the NMI is 0.200 below that of k-means on the rows." in page
    assert "- `a`" not in page
    assert "Nowhere" in tables.page({"a": result(dkm=0.9, kmeans=0.5)})


def test_the_page_says_which_methods_are_ahead(tables: ModuleType) -> None:
    page = tables.page({"a": result(dkm=0.7, kmeans=0.6, ward=0.75, genie=0.71, leiden=0.9, umap_kmeans=0.8)})
    assert [line for line in page.splitlines() if line.startswith("- `a`")] == [
        "- `a`: UMAP, k-means has 0.100 more NMI.",
        "- `a`: Ward has 0.050 more NMI.",
    ]


def test_sets_on_which_nothing_was_chosen_have_ranks_of_their_own(tables: ModuleType) -> None:
    chosen, held_out = result(dkm=0.9, kmeans=0.5), result(dkm=0.4, kmeans=0.5) | {"kind": "held out"}
    before, _, after = tables.page({"a": chosen, "b": held_out}).partition("## Sets on which no default was chosen")
    assert "| **dkm**, defaults | 1.00 | 1 |" in before
    assert "| k-means | 2.00 | 1 |" in before
    assert "| **dkm**, defaults | 2.00 | 1 |" in after
    assert "| k-means | 1.00 | 1 |" in after


def test_a_set_is_measured_once(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_tables.py", "wine", "kmeans,ward", "0"])
    assert tables.main() == 0
    content = json.loads((tables.RESULTS / "wine.json").read_text(encoding="utf-8"))
    assert (content["n"], content["features"], content["k"]) == (178, 13, 3)
    assert {entry["method"] for entry in content["results"]} == {"kmeans", "ward"}
    assert all(entry["nmi"] > 0.7 for entry in content["results"])
    monkeypatch.setattr(tables, "measure", None)
    assert tables.main() == 0, "nothing is missing"
    assert "## wine (table: 178 x 13, 3 classes, scaling standard)" in tables.TABLE.read_text(encoding="utf-8")


def test_the_made_shapes_have_the_classes_that_they_say(tables: ModuleType) -> None:
    for name, n_classes in (("uneven_blobs", 7), ("uneven_densities", 5), ("stretched_blobs", 6), ("moons", 2)):
        X, y = tables.SETS[name].make()
        assert len(X) == len(y)
        assert len(np.unique(y)) == n_classes
