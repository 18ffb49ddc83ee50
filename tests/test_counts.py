"""Runs on counts: the scaling is chosen and told, stored with the model, and kept by runs of before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from dkm import predict, train
from dkm.config.data import CsvData, NpyData, NpzData
from dkm.data.counts import Counts
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.runtime import checkpoints

N, F = 300, 120
QUICK = [
    *(
        "model.hidden=[8]",
        "recipe=classic",
        "pretrain.epochs=1",
        "joint.epochs=2",
        "joint.tolerance=0",
        "clustering.n_clusters=3",
    ),
    *("clustering.n_init=1", "log.progress=off", "log.figures=false", "log.report=false", "log.tensorboard=false"),
]


def counts_of(n_rows: int = N) -> Any:
    """Return counts of three kinds of rows, which differ in depth by more than their kinds differ."""
    rng = np.random.default_rng(0)
    rates = rng.lognormal(-2, 1.5, (3, F))[np.arange(n_rows) % 3]
    return rng.poisson(rates * rng.lognormal(0, 1, (n_rows, 1)))


def test_counts_are_chosen_and_told_with_the_evidence(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", counts_of())
    data = load_dataset(NpyData(path=str(tmp_path / "x.npy")))
    assert data.scaling.kind == "counts"
    assert data.report.has_decisions
    lines = "\n".join(data.report.lines())
    assert "values: counts: whole numbers from 0 to" in lines
    assert f"counts (rows to the sum {data.scaling.total:g}, log(1 + x), centered)" in lines
    assert "because the values are counts; else standard" in lines
    assert load_dataset(NpyData(path=str(tmp_path / "x.npy"), scaling="standard")).scaling.kind == "standard"


@pytest.mark.parametrize(("has_category", "scaling"), [(False, "counts"), (True, "standard")])
def test_counts_in_a_table_are_chosen_unless_it_has_a_category(
    has_category: bool, scaling: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame(counts_of(), columns=[f"gene{i}" for i in range(F)])
    frame.insert(0, "id", [f"cell{i}" for i in range(N)])
    if has_category:
        frame["tissue"] = np.array(["skin", "liver", "blood"])[np.arange(N) % 3]
    frame.to_csv(tmp_path / "x.csv", index=False)
    data = load_dataset(CsvData(path=str(tmp_path / "x.csv")))
    assert data.scaling.kind == scaling
    assert ("values: counts: whole numbers" in "\n".join(data.report.lines())) == (scaling == "counts")


def test_ratings_are_no_counts(tmp_path: Path) -> None:
    X = np.random.default_rng(0).integers(1, 6, (N, F))
    np.save(tmp_path / "x.npy", X)
    data = load_dataset(NpyData(path=str(tmp_path / "x.npy")))
    assert data.scaling.kind == "centered"
    np.testing.assert_array_equal(data.scaling.shift, X.mean(axis=0))


def test_sparse_counts_are_scaled_as_dense_ones_and_other_sparse_rows_as_before(tmp_path: Path) -> None:
    X = counts_of()
    np.save(tmp_path / "dense.npy", X)
    sparse.save_npz(tmp_path / "sparse.npz", sparse.csr_array(X))
    sparse.save_npz(tmp_path / "weights.npz", sparse.csr_array(X / 3))
    dense, packed, weights = (
        load_dataset(NpyData(path=str(tmp_path / "dense.npy"))),
        load_dataset(NpzData(path=str(tmp_path / "sparse.npz"))),
        load_dataset(NpzData(path=str(tmp_path / "weights.npz"))),
    )
    assert packed.scaling == dense.scaling
    assert packed.X.numpy().tobytes() == dense.X.numpy().tobytes()
    assert weights.scaling.kind == "row_rms"


def test_a_negative_value_is_refused_with_its_place(tmp_path: Path) -> None:
    X = counts_of()
    X[7, 3] = -2
    np.save(tmp_path / "x.npy", X)
    expected = (
        r"^data.scaling=counts: a negative value, -2 in row 7, column 3 \(counted from 0\); expected counts, 0 or"
    )
    with pytest.raises(UserError, match=expected):
        load_dataset(NpyData(path=str(tmp_path / "x.npy"), scaling="counts"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counts")
    np.save(folder / "x.npy", counts_of())
    assert train._main(["data=npy", f"data.path={folder / 'x.npy'}", *QUICK, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


def test_predicting_the_counts_of_the_training_repeats_the_assignments(run: Path, tmp_path: Path) -> None:
    predict.work([f"run={run}", f"input={run.parent / 'x.npy'}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()
    assert json.loads((run / "model" / "model.json").read_text())["scaling"]["total"] > 0
    assert json.loads((run / "data.json").read_text())["scaling"].startswith("counts (")


def test_predicting_negative_values_is_refused_with_their_place(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.where(np.arange(F) == 5, -0.5, counts_of(4)))
    with pytest.raises(UserError, match=r"^input=.*: -0.5 in row 0, column 5 \(counted from 0\); expected counts"):
        predict.work([f"run={run}", f"input={tmp_path / 'x.npy'}", f"output={tmp_path / 'o.csv'}"])
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("kind", ["standard", "counts"])
def test_a_resumed_run_keeps_the_scaling_it_began_with(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", counts_of())
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if kind == "standard":
            patch.setattr(Counts, "may_be", lambda chunk: False)
        words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", *QUICK, f"hydra.run.dir={run}"]
        assert train._main(words) == 0
    if kind == "standard":  # as a run that began before counts were recognized: nothing says how it is scaled
        manifest = json.loads((run / "manifest.json").read_text())
        assert manifest["data"].pop("scaling") == "standard"
        (run / "manifest.json").write_text(json.dumps(manifest))
        for file in (run / "checkpoints").glob("*.pt"):
            state = checkpoints.read(file)
            assert state.pop("scaling") == "standard"
            file.write_bytes(checkpoints.serialized(state))
    for n_epochs in (3, 4):
        assert train._main([f"resume={run}", f"joint.epochs={n_epochs}"]) == 0
        assert json.loads((run / "model" / "model.json").read_text())["scaling"]["kind"] == kind


@pytest.mark.data
@pytest.mark.skipif("DKM_DATA_ROOT" not in os.environ, reason="needs DKM_DATA_ROOT")
def test_kmeans_on_scaled_counts_of_cells_finds_more_of_their_types_than_on_standardized_ones() -> None:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    path = str(Path(os.environ["DKM_DATA_ROOT"]) / "tables" / "pbmc.npz")
    scores = {}
    for scaling in (None, "standard"):
        data = load_dataset(NpzData(path=path, labels="y", scaling=scaling))
        labels = KMeans(8, n_init=1, random_state=0).fit_predict(data.X.numpy())
        scores[data.scaling.kind] = adjusted_rand_score(data.y, labels)
    assert scores["counts"] > scores["standard"] + 0.1, scores
