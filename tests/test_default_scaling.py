"""The scaling of values without a declared kind: on one scale, embeddings, or neither; chosen, told and kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from words import SMALL_RUN

from dkm import train
from dkm.config.data import NpyData
from dkm.config.resolved import read_config
from dkm.data.bounds import FeatureRanges
from dkm.data.datasets import Dataset, load_dataset
from dkm.data.embeddings import Embeddings
from dkm.errors import UserError
from dkm.runtime import checkpoints
from dkm.training.restoring import require_same_origin

N = 200


def load(X: Any, folder: Path, **settings: Any) -> Dataset:
    np.save(folder / "x.npy", X)
    return load_dataset(NpyData(path=str(folder / "x.npy"), **settings))


def ratings(n_features: int = 6, n_rows: int = N) -> Any:
    X = np.random.default_rng(0).integers(1, 6, (n_rows, n_features))
    X[0], X[1] = 1, 5
    return X


def embeddings(n_features: int = 120) -> Any:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, n_features)) * rng.uniform(1, 2, n_features) + 0.2
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


# --- one scale ---


def test_features_on_one_scale_are_centered_and_keep_their_spread(tmp_path: Path) -> None:
    X = ratings()
    X[2:, 0] = np.where(np.arange(N - 2) < 3, 1, 3)  # hardly varies
    data = load(X, tmp_path)
    assert data.scaling.kind == "centered"
    scaled = np.asarray(data.X, np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.square(scaled).mean(), 1, rtol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0) / X.std(axis=0), X.var(axis=0).mean() ** -0.5, rtol=1e-5)
    lines = "\n".join(data.report.lines())
    assert "values: 6 of 6 features that vary have values from 1 to 5" in lines
    assert "centered (each feature to mean 0, all values divided by one number) because the features are on" in lines
    assert load(X, tmp_path, scaling="standard").scaling.kind == "standard"


@pytest.mark.parametrize(
    ("n_full", "n_features", "n_constant", "is_found"),
    [(3, 6, 0, False), (4, 8, 0, True), (4, 9, 0, False), (4, 8, 5, True), (3, 3, 0, False)],
)
def test_at_least_half_of_the_features_that_vary_and_four_have_both_bounds(
    n_full: int, n_features: int, n_constant: int, is_found: bool
) -> None:
    X = ratings(n_features)
    X[:, n_full:] = np.clip(X[:, n_full:], 2, 5)
    X = np.concatenate([X, np.full((N, n_constant), 3)], axis=1)
    bounds = FeatureRanges()
    for rows in np.array_split(X, 3):
        bounds.add(rows)
    assert (bounds.evidence() is not None) == is_found


def test_bounds_are_those_of_all_chunks() -> None:
    X = ratings()
    bounds = FeatureRanges()
    for rows in (X[2:50], X[50:], X[:2]):
        bounds.add(rows)
    assert bounds.evidence() == "6 of 6 features that vary have values from 1 to 5"
    assert FeatureRanges().evidence() is None


def test_flags_beside_a_number_of_another_scale_are_not_on_one_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 2, (N, 8)), rng.normal(50_000, 9_000, N)])
    assert load(X, tmp_path).scaling.kind == "standard"


# --- embeddings ---


def test_embeddings_are_normalized(tmp_path: Path) -> None:
    data = load(embeddings(), tmp_path)
    assert data.scaling.kind == "row_rms"
    np.testing.assert_allclose(np.square(np.asarray(data.X)).mean(axis=1), 1, rtol=1e-5)
    lines = "\n".join(data.report.lines())
    assert "values: 120 features of similar spread (90th to 10th percentile 1." in lines
    assert "row_rms (each row to the same length) because the rows are embeddings; else standard" in lines


def test_empty_texts_among_embeddings_have_no_length_to_compare(tmp_path: Path) -> None:
    X = embeddings()
    X[: len(X) // 20] = 0
    assert load(X, tmp_path).scaling.kind == "row_rms"


def change(X: Any, what: str) -> Any:
    rng = np.random.default_rng(1)
    if what == "few features":
        return X[:, :99]
    if what == "a constant feature, 99 others":
        return np.concatenate([X[:, :99], np.full((N, 1), 0.1, np.float32)], axis=1)
    if what == "lengths":
        return X * rng.lognormal(0, 0.3, (N, 1)).astype(np.float32)
    if what == "spread":
        return X * np.where(np.arange(X.shape[1]) % 2, 1, 8).astype(np.float32)
    if what == "offset":
        return X + np.float32(0.5)
    return (X * 100).astype(np.int64)


@pytest.mark.parametrize(
    "what", ["few features", "a constant feature, 99 others", "lengths", "spread", "offset", "whole numbers"]
)
def test_other_values_are_not_embeddings(what: str, tmp_path: Path) -> None:
    assert load(change(embeddings(), what), tmp_path).scaling.kind == "standard"


def test_moments_are_those_of_all_chunks() -> None:
    X = embeddings()
    whole, parts = Embeddings(), Embeddings()
    whole.add(X)
    for rows in np.array_split(X, 7):
        parts.add(rows)
    assert parts.evidence() == whole.evidence() is not None


def test_zeros_are_not_embeddings() -> None:
    zeros = Embeddings()
    zeros.add(np.zeros((5, 120), np.float32))
    assert zeros.evidence() is None


# --- runs ---


def test_a_resumed_run_keeps_the_scaling_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of before the rule has standardized rows; its weights belong to them."""
    np.save(tmp_path / "x.npy", ratings())
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(FeatureRanges, "evidence", lambda self: None)
        words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", *SMALL_RUN, f"hydra.run.dir={run}"]
        assert train._main(words) == 0
    assert train._main([f"resume={run}", "joint.epochs=3"]) == 0
    assert json.loads((run / "model" / "model.json").read_text())["scaling"]["kind"] == "standard"


@pytest.fixture(scope="module")
def centered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose default scaling is not that of a run of before the rules for it."""
    folder = tmp_path_factory.mktemp("centered")
    np.save(folder / "x.npy", ratings())
    words = ["data=npy", f"data.path={folder / 'x.npy'}", *SMALL_RUN, f"hydra.run.dir={folder / 'run'}"]
    assert train._main(words) == 0
    return folder / "run"


DAMAGE: dict[str, Callable[[str], str]] = {
    "the key": lambda text: text.replace('"scaling"', '"scalinc"'),
    "the value": lambda text: text.replace('"centered"', '"cenuered"'),
    "another value": lambda text: text.replace('"centered"', '"unit"'),
    "another type": lambda text: text.replace('"centered"', '["centered"]'),
    "data of another type": lambda text: json.dumps({**json.loads(text), "data": "blobs"}),
    "all": lambda text: text[:-9],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_scaling_is_that_of_the_checkpoint_whatever_the_manifest_says(
    what: str, centered: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(centered, tmp_path / "run"))
    manifest = run / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(DAMAGE[what](text), encoding="utf-8")
    assert manifest.read_text(encoding="utf-8") != text
    assert train._main([f"resume={run}"]) == 0
    for name in ("result.json", "assignments.csv", "model/model.json"):
        assert (run / name).read_bytes() == (centered / name).read_bytes()
    assert json.loads(manifest.read_text(encoding="utf-8"))["data"]["scaling"] == "centered"


def test_a_checkpoint_of_an_earlier_version_leaves_the_scaling_to_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", ratings())
    run = tmp_path / "run"
    with monkeypatch.context() as patch:  # the rules of now would say centered
        patch.setattr(FeatureRanges, "evidence", lambda self: None)
        words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", *SMALL_RUN, f"hydra.run.dir={run}"]
        assert train._main(words) == 0
    result, last = (run / "result.json").read_bytes(), run / "checkpoints" / "last.pt"
    state = checkpoints.read(last)
    assert state.pop("scaling") == "standard"
    last.write_bytes(checkpoints.serialized(state))
    assert train._main([f"resume={run}"]) == 0
    assert (run / "result.json").read_bytes() == result
    assert json.loads((run / "model" / "model.json").read_text())["scaling"]["kind"] == "standard"


@pytest.mark.parametrize("kind", ["unit", "nope", 3, ["centered"]])
def test_a_checkpoint_with_another_scaling_than_the_config_is_refused(kind: Any, centered: Path) -> None:
    state = checkpoints.read(centered / "checkpoints" / "last.pt")
    config = read_config(centered / "config.yaml")
    config.data.scaling = "centered"
    state["config"]["data"]["scaling"] = "centered"
    data = load_dataset(config.data)
    require_same_origin(state, config, data, centered)
    with pytest.raises(UserError) as refused:
        require_same_origin({**state, "scaling": kind}, config, data, centered)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"data.scaling=centered: expected {kind}, with which the checkpoint of")
