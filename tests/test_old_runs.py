"""Runs that version 0.1 wrote (tests/fixtures/runs_0.1) can be resumed, predicted with, exported, compared, loaded."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from processes import train
from written import json_of, records_of, rows_of

from dkm import compare, export, predict
from dkm.estimator import DeepKMeans

OLD = Path(__file__).parent / "fixtures" / "runs_0.1"
POINTS, IMAGES, PEOPLE = OLD / "points.npz", OLD / "images.npz", OLD / "people.csv"
METHODS = ("kmeans", "dkm", "dcn", "dec", "idec")
COMPLETED = {**dict.fromkeys((*METHODS, "none", "averaged", "l2_sgd"), POINTS), "conv": IMAGES, "table": PEOPLE}
JOINT = [name for name in COMPLETED if name != "none"]
# Clusters are compared exactly, as the smallest margin of a point is 4e-4. Distances are sums of float32 products, and
# the order of such a sum depends on the processor.
TOLERANCE: dict[str, float] = {"rel": 1e-4, "abs": 1e-6}

Call = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that runs a command in this process and returns its exit code."""

    def run(module: Any, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dkm", *words])
        try:
            module.main()
        except SystemExit as exit_:
            return int(exit_.code or 0)
        return 0

    return run


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def copy_of(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / name, tmp_path / name))


def resume(run: Path, data: Path, *more: str) -> None:
    finished = train([f"resume={run}", f"data.path={data}", *more], run.parent / "log")
    assert finished.code == 0, finished.err


def evaluations(run: Path) -> list[tuple[str, int]]:
    return [(record["phase"], record["epoch"]) for record in records_of(run)]


PRETRAINED = [("pretrain", epoch) for epoch in (1, 2, 4, 6, 8, 10, 12)]


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOINT)
def test_a_completed_run_is_made_longer(name: str, tmp_path: Path) -> None:
    run = copy_of(name, tmp_path)
    resume(run, COMPLETED[name], "joint.epochs=6")
    before = (OLD / name / "metrics.jsonl").read_bytes()
    assert (run / "metrics.jsonl").read_bytes().startswith(before)
    assert evaluations(run) == [*PRETRAINED, ("joint", 1), ("joint", 2), ("joint", 4), ("joint", 6)]
    result, old = json_of(run / "result.json"), json_of(OLD / name / "result.json")
    n_batches = {POINTS: 4, IMAGES: 3, PEOPLE: 3}[COMPLETED[name]]
    assert (old["joint_epochs"], old["steps"]) == (4, 16 * n_batches + 1)  # finding the first clusters counts as one
    assert (result["joint_epochs"], result["steps"]) == (6, 18 * n_batches + 1)
    for baseline in ("kmeans_raw", "kmeans_pretrained"):
        assert result[baseline] == old[baseline]
    assert len(rows_of(run / "assignments.csv")) == result["n_samples"] == old["n_samples"]
    manifest = json_of(run / "manifest.json")
    assert (manifest["status"], manifest["n_resumed"]) == ("completed", 1)
    assert manifest["started"] == "2026-01-01T00:00:00+00:00"


def test_a_run_without_a_joint_phase_ends_as_it_had(tmp_path: Path) -> None:
    run = copy_of("none", tmp_path)
    resume(run, POINTS)
    assert (run / "metrics.jsonl").read_bytes() == (OLD / "none" / "metrics.jsonl").read_bytes()
    result, old = json_of(run / "result.json"), json_of(OLD / "none" / "result.json")
    assert (result["joint_epochs"], result["steps"]) == (0, 49)
    assert {key: result[key] for key in ("acc", "inertia", "silhouette")} == pytest.approx(
        {key: old[key] for key in ("acc", "inertia", "silhouette")}, **TOLERANCE
    )
    ours, theirs = rows_of(run / "assignments.csv"), rows_of(OLD / "none" / "assignments.csv")
    assert column(ours, "cluster") == column(theirs, "cluster")


def test_an_interrupted_run_ends_like_the_run_that_was_not(tmp_path: Path) -> None:
    """``interrupted`` and ``kmeans`` have the same config; the checkpoint has 1.5 of the 4 joint epochs."""
    run = copy_of("interrupted", tmp_path)
    resume(run, POINTS)
    assert (run / "metrics.jsonl").read_bytes().startswith((OLD / "interrupted" / "metrics.jsonl").read_bytes())
    assert evaluations(OLD / "interrupted") == [*PRETRAINED, ("joint", 1)]
    assert evaluations(run) == evaluations(OLD / "kmeans")
    assert json_of(run / "manifest.json")["status"] == "completed"
    result, old = json_of(run / "result.json"), json_of(OLD / "kmeans" / "result.json")
    assert (result["joint_epochs"], result["steps"]) == (4, 65)
    for key in ("acc", "nmi", "inertia", "silhouette"):
        assert result[key] == pytest.approx(old[key], rel=1e-3)
    # The graph of so few rows has fewer neighbors now.
    assert result["modularity_data"] == pytest.approx(old["modularity_data"], abs=0.02)
    ours, theirs = rows_of(run / "assignments.csv"), rows_of(OLD / "kmeans" / "assignments.csv")
    assert column(ours, "cluster") == column(theirs, "cluster")
    assert column(ours, "distance") == pytest.approx(column(theirs, "distance"), rel=1e-3, abs=1e-4)


def test_a_killed_run_goes_on_to_its_end(tmp_path: Path) -> None:
    run = copy_of("killed", tmp_path)
    assert json_of(run / "manifest.json")["status"] == "running"
    resume(run, POINTS)
    assert (run / "metrics.jsonl").read_bytes().startswith((OLD / "killed" / "metrics.jsonl").read_bytes())
    assert evaluations(run) == [*PRETRAINED, ("joint", 1), ("joint", 2), ("joint", 4), ("joint", 6)]
    result = json_of(run / "result.json")
    assert (result["joint_epochs"], result["steps"], result["acc"]) == (6, 73, 1.0)
    manifest = json_of(run / "manifest.json")
    assert (manifest["status"], manifest["n_resumed"]) == ("completed", 1)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run = copy_of("interrupted", tmp_path)
    last = run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    resume(run, POINTS)
    assert evaluations(run) == evaluations(OLD / "kmeans")
    assert json_of(run / "result.json")["steps"] == 65


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPLETED)
def test_predict_repeats_the_assignments(name: str, call: Call, tmp_path: Path) -> None:
    output = tmp_path / "clusters.csv"
    words = [f"run={OLD / name}", f"input={COMPLETED[name]}", f"output={output}", "threads=1"]
    assert call(predict, *words) == 0
    ours, theirs = rows_of(output), rows_of(OLD / name / "assignments.csv")
    for key in ("index", "id", "cluster"):
        assert [row.get(key) for row in ours] == [row.get(key) for row in theirs]
    for key in ("distance", "margin"):
        assert column(ours, key) == pytest.approx(column(theirs, key), **TOLERANCE)


def inputs(name: str) -> Any:
    """Return what a person hands to the estimator: an array of rows, or a table."""
    if name == "table":
        return pd.read_csv(PEOPLE)[["age", "income", "visits"]]
    with np.load(COMPLETED[name]) as arrays:
        return arrays["x"].reshape(len(arrays["x"]), -1).astype(np.float64)


@pytest.mark.parametrize("name", COMPLETED)
def test_the_estimator_loads_the_model(name: str) -> None:
    estimator = DeepKMeans.load(OLD / name)
    rows, X = rows_of(OLD / name / "assignments.csv"), inputs(name)
    assert estimator.cluster_centers_.shape == (3, 2)
    assert estimator.predict(X).tolist() == column(rows, "cluster")
    distances = np.sort(estimator.transform(X), axis=1)
    assert distances[:, 0].tolist() == pytest.approx(column(rows, "distance"), **TOLERANCE)
    assert (distances[:, 1] - distances[:, 0]).tolist() == pytest.approx(column(rows, "margin"), **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in COMPLETED if name != "conv"])
def test_the_exported_model_repeats_the_assignments(name: str, call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    words = [f"run={OLD / name}", f"input={COMPLETED[name]}", f"output={folder}", "format=numpy"]
    assert call(export, *words) == 0
    spec = importlib.util.spec_from_file_location("assign", folder / "assign.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    X = inputs(name)
    if name == "table":  # an artifact takes rows without gaps: these are the medians of the three columns
        X = X.fillna(X.median()).to_numpy()
    cluster, distance, _ = module.predict(X)
    rows = rows_of(OLD / name / "assignments.csv")
    assert cluster.tolist() == column(rows, "cluster")
    assert distance.tolist() == pytest.approx(column(rows, "distance"), **TOLERANCE)


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_reads_all_of_them(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    runs = [str(OLD / name) for name in COMPLETED]
    assert call(compare, *runs, "each=true", f"csv={table}") == 0
    rows = rows_of(table)
    assert len(rows) == len(COMPLETED)
    found = sorted((row["acc"], row["modularity_data"], row["inertia"]) for row in rows)
    results = [json_of(OLD / name / "result.json") for name in COMPLETED]
    expected = sorted((r["acc"], r["modularity_data"], r["inertia"]) for r in results)
    for ours, theirs in zip(found, expected, strict=True):
        assert [float(cell) for cell in ours] == pytest.approx(theirs, rel=1e-6)


def test_compare_groups_the_methods_and_tells_what_differs(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(compare, *(str(OLD / name) for name in METHODS)) == 0
    printed = capsys.readouterr().out
    for method in METHODS:
        assert f"{method} " in printed
    assert call(compare, str(OLD / "interrupted"), str(OLD / "kmeans")) == 0
    assert "interrupted" in capsys.readouterr().out
