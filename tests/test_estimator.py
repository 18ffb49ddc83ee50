"""`DeepKMeans`: scikit-learn's conventions, and the numbers of the command line."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from dkm import DeepKMeans, predict, train
from dkm.config.schema import dotted

QUICK: dict[str, Any] = {
    "recipe": "classic",
    "hidden": (16,),
    "pretrain_epochs": 2,
    "joint_epochs": 2,
    "n_init": 2,
    "tol": 0,
    "random_state": 0,
}
X, Y = make_blobs(300, 5, centers=4, random_state=0)


# What another method or network has of its own stays so.
OTHERS: dict[str, Any] = {
    "dec": {"clustering.name": "dec", "clustering.weight": 1.0, "model.hidden": None},
    "dkm": {"clustering.name": "dkm", "clustering.weight": 0.01},
    "none": {"clustering.name": "none"},
}


def small(n_clusters: int | str = 4, **settings: Any) -> DeepKMeans:
    return DeepKMeans(n_clusters, **(QUICK | settings))


CHECKS = [(check.func.__name__, check) for _, check in estimator_checks_generator(small(3), legacy=True)]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("check", [check for _, check in CHECKS], ids=[name for name, _ in CHECKS])
def test_scikit_learns_own_check(check: Any) -> None:
    check(small(3, pretrain_epochs=1, joint_epochs=1, n_init=1))


def test_a_collapse_is_told() -> None:
    with pytest.warns(ConvergenceWarning, match="nearly all rows are in one of the 4 clusters"):
        small(config=["data.scaling=rms"]).fit(np.vstack([X, np.full(5, 1e12)]))  # beside which all else is one point


def test_it_fits_inside_an_application_of_hydra(tmp_path: Path) -> None:
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        model = small(pretrain_epochs=1, joint_epochs=1).fit(X)
        assert hydra.compose(overrides=["+theirs=1"]) == {"theirs": 1}
    assert len(model.labels_) == len(X)
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("method", OTHERS)
def test_another_method_has_its_own_weight(method: str) -> None:
    settings = dotted(DeepKMeans(4, config={"clustering": method})._compose_config())
    assert {key: settings[key] for key in OTHERS[method]} == OTHERS[method]


def test_another_network_has_its_own_layers() -> None:
    images = load_digits().data[:60]
    model = small(hidden=None, image_shape=(1, 8, 8), config=["model=conv"]).fit(images)
    np.testing.assert_array_equal(model.predict(images), model.labels_)


def test_channels_that_come_last_are_refused() -> None:
    images = np.random.default_rng(0).random((30, 8 * 8 * 3))
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8, 3\): expected \(C, H, W\), but it would be read as"):
        small(image_shape=(8, 8, 3)).fit(images)
    model = small(image_shape=(3, 8, 8)).fit(images)
    np.testing.assert_array_equal(model.predict(images), model.labels_)


@pytest.mark.usefixtures("quick_search")
@pytest.mark.parametrize("recipe", ["auto", "classic"])
@pytest.mark.parametrize("config", [None, ["optimizer=sgd", "joint.lr=0.01"], {"joint.lr": 0.001, "precision": "bf16"}])
def test_the_labels_are_those_of_the_command_line_bit_for_bit(config: Any, recipe: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    more = [] if config is None else config if isinstance(config, list) else [f"{k}={v}" for k, v in config.items()]
    words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", "clustering.n_clusters=4", "model.hidden=[16]", *more]
    words += [
        f"recipe={recipe}",
        "pretrain.epochs=2",
        "joint.epochs=2",
        "joint.tolerance=0",
        "clustering.n_init=2",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
    ]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}", "log.progress=off"]) == 0
    rows = np.genfromtxt(tmp_path / "run" / "assignments.csv", delimiter=",", names=True)
    model = small(config=config, recipe=recipe).fit(X)
    np.testing.assert_array_equal(model.labels_, rows["cluster"])
    nearest = model.transform(X)[np.arange(len(X)), model.labels_]
    np.testing.assert_allclose(nearest, rows["distance"], rtol=1e-5, atol=1e-6)
    loaded = DeepKMeans.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.cluster_centers_, model.cluster_centers_)
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float16", "float64"])
def test_an_array_of_any_type_is_scaled_as_on_the_command_line(dtype: str, tmp_path: Path) -> None:
    """A hundred flags and more are on one scale; as floats the same values are taken for embeddings."""
    flags = (np.random.default_rng(0).random((120, 150)) < 0.3).astype(dtype)
    np.save(tmp_path / "x.npy", flags)
    words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", "clustering.n_clusters=4", "model.hidden=[16]"]
    words += ["recipe=classic", "pretrain.epochs=2", "joint.epochs=2", "joint.tolerance=0", "clustering.n_init=2"]
    words += ["log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off"]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    model, loaded = small().fit(flags), DeepKMeans.load(tmp_path / "run")
    assert model.model_.scaling == loaded.model_.scaling
    assert model.model_.scaling.kind == ("row_rms" if "float" in dtype else "centered")
    np.testing.assert_array_equal(model.cluster_centers_, loaded.cluster_centers_)
    np.testing.assert_array_equal(model.embed(flags), loaded.embed(flags))


def test_images_are_augmented_and_scaled_as_images(tmp_path: Path) -> None:
    digits = load_digits()
    np.save(tmp_path / "x.npy", digits.images[:200])
    words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", "clustering.n_clusters=4", "model.hidden=[16]"]
    words += ["recipe=classic", "pretrain.epochs=2", "joint.epochs=2", "joint.tolerance=0", "clustering.n_init=2"]
    words += ["log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off"]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    rows = np.genfromtxt(tmp_path / "run" / "assignments.csv", delimiter=",", names=True)
    model = small(image_shape=(1, 8, 8)).fit(digits.data[:200])
    np.testing.assert_array_equal(model.labels_, rows["cluster"])
    np.testing.assert_array_equal(model.predict(digits.data[:200]), model.labels_)


def test_what_was_fitted_is_consistent() -> None:
    model = small()
    labels = model.fit_predict(X)
    np.testing.assert_array_equal(labels, model.labels_)
    np.testing.assert_array_equal(model.predict(X), labels)
    distances = model.transform(X)
    assert distances.shape == (300, 4)
    np.testing.assert_array_equal(distances.argmin(1), labels)
    gaps = model.embed(X)[:, None] - model.cluster_centers_[None]
    np.testing.assert_allclose(distances, np.sqrt((gaps**2).sum(2)), rtol=1e-4, atol=1e-5)
    assert model.inertia_ == pytest.approx((distances.min(1) ** 2).sum(), rel=1e-4)
    assert (model.n_iter_, model.n_features_in_) == (2, 5)
    assert -1 <= model.score(X) <= 1


@pytest.mark.parametrize("method", ["predict", "transform", "embed", "score"])
def test_what_is_not_fitted_says_so(method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(DeepKMeans(), method)(np.zeros((3, 2)))


@pytest.mark.parametrize("method", ["predict", "embed"])
def test_values_that_float32_cannot_hold_are_refused(method: str) -> None:
    X = np.random.default_rng(0).normal(size=(40, 2))
    model = small(2).fit(X)
    X[3, 1] = 1e300
    with pytest.raises(ValueError, match=r"^X: expected values that are finite as float32 once they are scaled"):
        getattr(model, method)(X)


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_a_row_too_far_away_is_refused(method: str) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    model = small(2).fit(rows)
    rows[3, 1] = 1e30
    expected = (
        r"^X: 1 rows whose distance to every centroid is infinite, the first is row 3 \(counted from 0\); expected"
    )
    with pytest.raises(ValueError, match=expected):
        getattr(model, method)(rows)


def test_it_works_in_a_pipeline_and_a_grid_search_without_labels() -> None:
    search = GridSearchCV(make_pipeline(StandardScaler(), small()), {"deepkmeans__weight": [0.01, 0.1]}, cv=2)
    search.fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == (300,)


def test_names_of_pandas_columns_are_kept_and_checked() -> None:
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = small().fit(frame)
    assert model.feature_names_in_.tolist() == list("abcde")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("edcba")])
    np.testing.assert_array_equal(model.get_feature_names_out(), [f"deepkmeans{k}" for k in range(4)])


def test_a_saved_model_matches_columns_by_name(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = small().fit(frame)
    model.save(tmp_path / "saved")
    loaded = DeepKMeans.load(tmp_path / "saved")
    assert loaded.feature_names_in_.tolist() == list("abcde")
    np.testing.assert_array_equal(loaded.predict(frame), model.labels_)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame[list("edcba")])
    frame[list("edcba")].to_csv(tmp_path / "x.csv", index=False)
    predict.work([f"run={tmp_path / 'saved'}", f"input={tmp_path / 'x.csv'}", f"output={tmp_path / 'o.csv'}"])
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "o.csv")["cluster"], model.labels_)


def test_a_saved_model_of_columns_without_names_takes_them_in_order(tmp_path: Path) -> None:
    model = small().fit(pd.DataFrame(X))
    model.save(tmp_path / "saved")
    pd.DataFrame(X, columns=list("edcba")).to_csv(tmp_path / "x.csv", index=False)
    predict.work([f"run={tmp_path / 'saved'}", f"input={tmp_path / 'x.csv'}", f"output={tmp_path / 'o.csv'}"])
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "o.csv")["cluster"], model.labels_)


@pytest.mark.parametrize("copy", ["pickle", "joblib", "deepcopy", "files"])
def test_a_copy_predicts_the_same(copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small().fit(X)
    if copy == "pickle":
        again = pickle.loads(pickle.dumps(model))
    elif copy == "joblib":
        joblib.dump(model, tmp_path / "m.joblib")
        again = joblib.load(tmp_path / "m.joblib")
    elif copy == "deepcopy":
        again = deepcopy(model)
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
        model.save("~/saved")
        again = DeepKMeans.load("~/saved")
        np.save(tmp_path / "x.npy", X)
        predict.work([f"run={tmp_path / 'saved'}", f"input={tmp_path / 'x.npy'}", f"output={tmp_path / 'o.csv'}"])
        rows = np.genfromtxt(tmp_path / "o.csv", delimiter=",", names=True)
        np.testing.assert_array_equal(rows["cluster"], model.labels_)
    np.testing.assert_array_equal(again.embed(X), model.embed(X))
    np.testing.assert_array_equal(again.predict(X), model.labels_)


@pytest.mark.parametrize("place", ["a_file", "a_file/inside", "folder"])
def test_what_cannot_be_saved_to_is_a_value_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model").touch()
    expected = rf"^directory={tmp_path / place}: cannot be written \(.*\); expected a folder; choose another$"
    with pytest.raises(ValueError, match=expected):
        small(2, pretrain_epochs=1, joint_epochs=1).fit(X).save(tmp_path / place)


def test_an_int_seeds_and_a_random_state_draws() -> None:
    np.testing.assert_array_equal(small().fit(X).embed(X), small().fit(X).embed(X))
    first, second = (small(random_state=np.random.RandomState(1)).fit(X).embed(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, small().fit(X).embed(X))


def test_what_a_run_refuses_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"did you mean joint\.lr"):
        small(config={"joint.lrr": 1}).fit(X)
    with pytest.raises(ValueError, match="no such folder"):
        DeepKMeans.load("nowhere")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "n_clusters as text": ({"n_clusters": "auto:9-3"}, r"n_clusters=auto:9-3: .*; for example n_clusters=auto:2-30"),
    "few rows": ({"n_clusters": "auto:200-300"}, "n_clusters=auto:200-300: .*, or choose n_clusters=auto:2-150"),
    "n_clusters": ({"n_clusters": 400}, "n_clusters=400: expected at most n_samples=300; lower it or load more data"),
    "n_clusters of no number": (
        {"n_clusters": "many"},
        "n_clusters=many: expected a whole number, 1 or more, auto, or auto:A-B .*; for example n_clusters=auto:2-30",
    ),
    "n_clusters of None": ({"n_clusters": None}, "n_clusters=null: expected a number.*; for example n_clusters=10"),
    "init": ({"init": "k-mean++"}, r"init=k-mean\+\+: expected one of .*; did you mean init=k-means\+\+\?"),
    "weight": ({"weight": -1}, "weight=-1.0: expected a finite number, 0 or more; for example weight="),
    "hidden": ({"hidden": (8, 0)}, r"hidden=\[8, 0\]: expected widths of 1 or more; for example hidden="),
    "hidden of a number": (
        {"hidden": 16},
        r"hidden=16: expected a sequence of widths; for example hidden=\(500, 500\)",
    ),
    "hidden of conv": ({"config": ["model=conv"]}, r"hidden=\[16\]: expected a key .*; hidden belongs to model=mlp"),
    "epochs": ({"joint_epochs": -1}, "joint_epochs=-1: expected a whole number, 0 or more"),
    "tol": ({"tol": 2}, "tol=2.0: expected a number from 0 to below 1; for example tol=0.001"),
    "random_state": ({"random_state": -1}, "random_state=-1: expected"),
    "image_shape": ({"image_shape": (1, 2, 3)}, r"image_shape=\(1, 2, 3\): expected \(C, H, W\) .*n_features=5"),
    "config": ({"config": {"joint.lr": -1}}, "joint.lr=-1.0: expected a finite number above 0; for example joint.lr="),
    "config of a parameter": (
        {"weight": None, "config": {"clustering.weight": -1}},
        "clustering.weight=-1.0: expected a finite number, 0 or more; for example clustering.weight=",
    ),
    "config of one text": (
        {"config": "optimizer=sgd"},
        r"config='optimizer=sgd': .*; write config=\['optimizer=sgd'\]",
    ),
    "config of other data": (
        {"config": ["data=moons"]},
        "config: .*; leave data=moons out of config",
    ),
    "config of a run's labels": (
        {"config": ["labels=y.npy"]},
        "config: expected no labels, .*; leave labels=y.npy out of config",
    ),
    "config of a run's directory": (
        {"config": {"output": "runs/x"}},
        "config: expected no directory, .*; leave output=runs/x out of config",
    ),
    "config to resume": (
        {"config": ["resume=auto"]},
        "config: expected no run to resume, .*; leave resume=auto out of config",
    ),
    "a recipe for images": (
        {"recipe": "flagship", "hidden": None},
        r"augmentation=affine: expected image data, got rows of a table; use recipe=auto .*flagship",
    ),
    "a parameter in config": (
        {"config": {"n_clusters": 4}},
        "config: n_clusters=4 is no key of the config; expected keys .*; give the parameter n_clusters=4$",
    ),
    "a parameter of text in config": (
        {"config": ["init=ward"]},
        "config: init=ward is no key of the config; expected keys .*; give the parameter init='ward'$",
    ),
    "a short name and its key": (
        {"config": {"scaling": "rms", "data.scaling": "unit"}},
        "config: scaling=rms and data.scaling=unit: expected one value; leave one of them out$",
    ),
    "image_shape of a number": (
        {"image_shape": 5},
        r"image_shape=5: expected \(C, H, W\), whole numbers of 1 or more; for example image_shape=\(1, 28, 28\)$",
    ),
    "image_shape of text": ({"image_shape": "1x5x1"}, r"image_shape='1x5x1': expected \(C, H, W\), whole numbers"),
    "image_shape below 1": ({"image_shape": (-1, -5, 1)}, r"image_shape=\(-1, -5, 1\): expected \(C, H, W\), whole"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_messages_name_what_the_user_has_set(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        small(**settings).fit(X)


@pytest.mark.usefixtures("quick_search")
def test_the_number_of_clusters_is_found() -> None:
    model = small("auto:2-6").fit(X)
    assert (model.n_clusters_, model.n_clusters_choice_["n_clusters"], len(model.cluster_centers_)) == (4, 4, 4)
    assert model.n_clusters_choice_["range"] == [2, 6]
    given = small(4).fit(X)
    assert (given.n_clusters_, given.n_clusters_choice_) == (4, None)
    np.testing.assert_array_equal(model.labels_, given.labels_)
    assert model.transform(X).shape == (len(X), 4)
    assert model.get_params()["n_clusters"] == "auto:2-6"


@pytest.mark.usefixtures("quick_search")
def test_the_number_is_that_of_the_command_line(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", "recipe=classic", "model.hidden=[16]", "log.progress=off"]
    words += ["pretrain.epochs=2", "joint.epochs=2", "clustering.n_init=2", "joint.tolerance=0"]
    words += ["clustering.n_clusters=auto:2-6", "log.figures=false", "log.report=false", "log.tensorboard=false"]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    model = small("auto:2-6").fit(X)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["n_clusters_choice"] == model.n_clusters_choice_
    loaded = DeepKMeans.load(tmp_path / "run")
    assert (loaded.n_clusters_, loaded.n_clusters_choice_) == (4, None)
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)


@pytest.mark.usefixtures("quick_search")
def test_doubts_about_the_number_are_warnings() -> None:
    with pytest.warns(UserWarning) as caught:
        small("auto:2-3").fit(X)
    doubts = [str(warning.message) for warning in caught]
    assert all(doubt.startswith("n_clusters=auto:2-3: ") for doubt in doubts)
    assert any(doubt.endswith("3 is at the end of the range: try a wider one, n_clusters=auto:2-6") for doubt in doubts)


CONTRADICTIONS: dict[str, tuple[Any, str]] = {
    "mapping": (
        {"clustering.n_clusters": 7},
        "n_clusters=4: expected no other value in config, got clustering.n_clu.*=7",
    ),
    "nested": ({"joint": {"epochs": 7}}, "joint_epochs=2: .*, got joint.epochs=7; leave joint.epochs out of config"),
    "a section": (
        ["pretrain={epochs:7}"],
        "pretrain_epochs=2: expected no other value in config, got pretrain.epochs=7",
    ),
    "seed": (["seed=7"], "random_state=0: expected no other value in config, got seed=7"),
    "hidden": ({"model.hidden": [8]}, r"hidden=\[16\]: expected no other value in config, got model.hidden=\[8\]"),
}


@pytest.mark.parametrize(("config", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_config_must_not_contradict_a_parameter(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        small(config=config).fit(X)


def test_config_may_repeat_a_parameter_and_sets_what_a_parameter_leaves() -> None:
    repeated = {"clustering.n_clusters": 4, "joint.tolerance": 0.0, "model.hidden": [16], "seed": 0}
    assert small(config=repeated)._compose_config() == small()._compose_config()
    free: dict[str, Any] = {"weight": None, "hidden": None, "random_state": None, "latent_dim": None}
    left = {"clustering.weight": 0.5, "model.hidden": [8], "seed": 3, "model.latent_dim": 2}
    settings = dotted(small(**free, config=left)._compose_config())
    assert {key: settings[key] for key in left} == left


@pytest.mark.parametrize("name", ["zürich", "true", "1e3", "007", "a b", "None", "x#y", "~x"])
def test_config_takes_any_name_of_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert small(config={"pretrain.cache": name})._compose_config().pretrain.cache == str(tmp_path / name)


def test_config_takes_short_names() -> None:
    for config in ({"scaling": "rms"}, ["scaling=rms"], {"scaling": "rms", "data.scaling": "rms"}):
        assert small(config=config)._compose_config().data.scaling == "rms"


def test_config_takes_numbers_as_text() -> None:
    config = {"clustering.n_clusters": "4", "joint.lr": "1e-3", "compile": "true", "pretrain.cache": "null"}
    composed = small(config=config)._compose_config()
    assert (composed.clustering.n_clusters, composed.joint.lr) == (4, 1e-3)
    assert (composed.compile, composed.pretrain.cache) == (True, None)


def test_a_relative_path_belongs_to_the_folder_of_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert small(config={"pretrain.cache": "x"})._compose_config().pretrain.cache == str(tmp_path / name / "x")


def test_config_takes_text_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "lr=0.1 (it's, a)"
    assert small(config={"pretrain.cache": str(place)})._compose_config().pretrain.cache == str(place)
    assert small(config={"pretrain.cache": place})._compose_config().pretrain.cache == str(place)
    assert small(config={"pretrain": {"cache": None, "lr": 1e-5}})._compose_config().pretrain.lr == 1e-5


def test_verbose_shows_a_bar_for_each_phase(capsys: pytest.CaptureFixture[str]) -> None:
    silent = small().fit(X)
    assert capsys.readouterr() == ("", "")
    told = small(verbose=1).fit(X)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.findall(r"(\w+): +0%.*? 0\.00/600 ", err) == ["pretrain", "joint"]
    np.testing.assert_array_equal(told.cluster_centers_, silent.cluster_centers_)


def test_the_scaling_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    ratings = np.random.default_rng(0).integers(1, 6, (300, 8)).astype(np.float32)
    fitted = small(verbose=1).fit(ratings)
    lines = ["X: 300 rows, 8 features", "  values: 8 of 8 features that vary have values from 1 to 5"]
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == lines
    assert told[2].startswith("  scaling: centered (")
    assert fitted.data_report_["scaling"].startswith("centered (")
    assert fitted.data_report_["decisions"]["values"] in lines[1]
    assert fitted.model_.scaling.kind == "centered"


def test_an_empty_cluster_is_told() -> None:
    two_points = np.repeat([[1.0, 2.0], [3.0, 4.0]], 50, axis=0)
    with pytest.warns(ConvergenceWarning, match="^n_clusters=3: only 2 clusters have rows"):
        small(3).fit(two_points)


@pytest.mark.thorough
def test_nothing_but_warnings_reaches_standard_error() -> None:
    program = """
import warnings, numpy as np
from dkm import DeepKMeans
warnings.simplefilter("ignore")
X = np.repeat([[1.0, 2.0], [3.0, 4.0]], 50, axis=0)
DeepKMeans(3, recipe="classic", pretrain_epochs=1, joint_epochs=1, n_init=1, hidden=(4,), random_state=0).fit(X)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stderr == ""


@pytest.mark.parametrize("method", ["predict", "transform", "embed", "score"])
def test_values_in_another_unit_than_in_training_are_told_once(method: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(60, 16))
    model = small(2, image_shape=(1, 4, 4)).fit(pixels)
    assert model.model_.scaling.kind == "unit"
    getattr(model, method)(pixels)
    with pytest.warns(UserWarning, match="^X: values from 0 to 1, and those of the training data were from 0") as told:
        getattr(model, method)(pixels / 255)
    assert len(told) == 1
    assert method == "transform" or told[0].filename == __file__  # scikit-learn wraps `transform`


def test_set_output_names_the_distances() -> None:
    frame = small().set_output(transform="pandas").fit_transform(pd.DataFrame(X, index=range(7, 307)))
    assert frame.columns.tolist() == [f"deepkmeans{k}" for k in range(4)]
    assert frame.index.tolist() == list(range(7, 307))
    assert (frame.dtypes == np.float32).all()


def test_nothing_is_written_and_the_threads_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    small(config=["threads=1"]).fit(X)
    assert torch.get_num_threads() == before
    assert list(tmp_path.iterdir()) == []


SEEDS = list(range(4)) * 10


def tiny_centers(seed: int) -> np.ndarray:
    return small(pretrain_epochs=1, joint_epochs=1, random_state=seed, config={"threads": 1}).fit(X).cluster_centers_


@pytest.mark.thorough
def test_fits_in_threads_are_those_made_one_after_the_other() -> None:
    alone = [tiny_centers(seed) for seed in range(4)]
    torch.manual_seed(0)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_deterministic_debug_mode()
    with hydra.initialize(config_path=None, job_name="theirs", version_base="1.2"), ThreadPoolExecutor(4) as pool:
        theirs = GlobalHydra.instance().hydra
        together = [pool.submit(tiny_centers, seed) for seed in SEEDS]
        while not all(future.done() for future in together):
            assert GlobalHydra.instance().hydra is theirs
            assert hydra.compose(overrides=["+x=1"]) == {"x": 1}
            assert torch.randn(2).equal(torch.randn(2, generator=torch.Generator().manual_seed(0)))
            torch.manual_seed(0)
        assert hydra.compose(overrides=["+x=1"]) == {"x": 1}
    for seed, future in zip(SEEDS, together, strict=True):
        np.testing.assert_array_equal(future.result(), alone[seed], err_msg=f"seed {seed}")
    after = torch.get_rng_state(), torch.get_num_threads(), torch.get_deterministic_debug_mode()
    assert (after[0].equal(before[0]), after[1:]) == (True, before[1:])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    assert torch.get_default_dtype() == dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: default_dtype(torch.float64),
    ],
    ids=["no_grad", "inference_mode", "autocast", "default device", "default type"],
)
def test_a_mode_of_torch_that_the_caller_has_set_changes_nothing(mode: Any) -> None:
    usual = small().fit(X)
    expected = usual.labels_, usual.cluster_centers_, usual.transform(X), usual.embed(X), usual.score(X)
    with mode():
        model = small().fit(X)
        inside = model.predict(X), model.cluster_centers_, model.transform(X), model.embed(X), model.score(X)
    for value, usual_value in zip(inside, expected, strict=True):
        np.testing.assert_array_equal(value, usual_value)


def test_bf16_is_the_same_inside_a_block_of_autocast() -> None:
    usual = small(config=["precision=bf16"]).fit(X).cluster_centers_
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(small(config=["precision=bf16"]).fit(X).cluster_centers_, usual)


@pytest.mark.thorough
def test_gaps_are_filled_as_the_run_filled_them(tmp_path: Path) -> None:
    frame = pd.DataFrame(X[:, :3], columns=["a", "b", "c"])
    frame.iloc[::7, 1] = np.nan
    frame.to_csv(tmp_path / "x.csv", index=False)
    words = ["data=csv", f"data.path={tmp_path / 'x.csv'}", "data.missing=median", "clustering.n_clusters=4"]
    quick = ["model.hidden=[16]", "pretrain.epochs=2", "joint.epochs=2", "clustering.n_init=2", "log.tensorboard=false"]
    assert train._main([*words, *quick, "log.figures=false", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    lines = (tmp_path / "run" / "assignments.csv").read_text(encoding="utf-8").splitlines()[1:]
    model = DeepKMeans.load(tmp_path / "run")
    assert model.predict(frame).tolist() == [int(line.split(",")[1]) for line in lines]
