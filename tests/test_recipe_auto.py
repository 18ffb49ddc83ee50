"""The default recipe: lengths in steps, the neighbor embedding, labels that are learned, and the guard."""

from __future__ import annotations

import csv
import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from processes import OPTIMIZER, Point
from processes import train as train_in_process
from quick import search_quickly
from sklearn.datasets import make_blobs, make_moons

from dkm.clustering import graph, neighborhood
from dkm.clustering.assignment import Assignment
from dkm.clustering.graph import VISIBLE, GraphScore
from dkm.clustering.lloyd import kmeans
from dkm.clustering.losses.dcn import DCNClustering
from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.augmentation import AffineConfig
from dkm.config.compose import compose, parse
from dkm.config.run import in_epochs
from dkm.config.schema import config_dir, dotted
from dkm.data.augmentation import build_augmentation
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.estimator import DeepKMeans
from dkm.evaluation import metrics, printed_scores
from dkm.evaluation.evaluator import Evaluator
from dkm.evaluation.scores import Scores
from dkm.models.build import build_autoencoder
from dkm.predict import work as predict
from dkm.runs import reading
from dkm.train import _main as main
from dkm.training import due
from dkm.training.guard import Guard, Kept, baseline_above, best_above, is_covered, judge, states_from, with_state
from dkm.training.objective import Objective, mean_squared_distance
from dkm.training.restoring import with_all_terms
from dkm.training.state import Progress, TrainState
from dkm.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_search")

QUICK = (
    "model.hidden=[32]",
    "pretrain.steps=60",
    "joint.steps=60",
    "batch_size=100",
    "log.figures=false",
    "log.report=false",
    "log.tensorboard=false",
)
RECIPES = sorted(path.stem for path in (config_dir() / "recipe").glob("*.yaml"))


def saved(path: Path, X: Any, y: Any) -> tuple[str, ...]:
    np.savez(path, X=np.asarray(X, np.float32), y=y)
    return ("data=npz", f"data.path={path}", "data.labels=y", f"clustering.n_clusters={len(np.unique(y))}")


@pytest.fixture(scope="module")
def moons(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return saved(tmp_path_factory.mktemp("moons") / "moons.npz", *make_moons(400, noise=0.05, random_state=0))


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    X, y = make_blobs(300, 5, centers=4, random_state=0)
    return saved(tmp_path_factory.mktemp("blobs") / "blobs.npz", X, y)


def run(words: tuple[str, ...], directory: Path) -> dict[str, Any]:
    assert main([*words, f"hydra.run.dir={directory}"]) == 0
    result: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return result


def joint_records(directory: Path) -> list[dict[str, Any]]:
    return [record for record in reading.records(directory / reading.METRICS) if record["phase"] == "joint"]


# --- recipes ---


def test_the_default_is_recipe_auto() -> None:
    assert dotted(compose(parse([])).config) == dotted(compose(parse(["recipe=auto"])).config)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_composes_with_any_data_and_loses_to_the_command_line(recipe: str) -> None:
    for data in ("digits", "blobs"):
        config = compose(parse([f"data={data}", f"recipe={recipe}", "pretrain.epochs=7"])).config
        assert (config.data.name, config.pretrain.epochs) == (data, 7)


def test_a_recipe_for_images_is_refused_for_rows_of_a_table_by_its_name() -> None:
    for_images = [r for r in RECIPES if compose(parse([f"recipe={r}"])).config.augmentation.name == "affine"]
    with pytest.raises(UserError, match=rf"a recipe for images \({', '.join(for_images)}\), or augmentation=none$"):
        build_augmentation(AffineConfig(), None)
    assert for_images == ["aspc_da", "dec_da", "flagship"]


@pytest.mark.parametrize("recipe", ["aspc_da", "dec_da", "flagship"])
def test_a_recipe_for_images_trains_on_a_table_without_augmentation(recipe: str, blobs: tuple[str, ...]) -> None:
    config = compose(parse([*blobs, f"recipe={recipe}", "augmentation=none", "pretrain.lr=0.1"])).config
    assert Trainer(config, load_dataset(config.data)).augment is None


def test_a_recipe_for_images_trains_as_with_automatic_augmentation(tmp_path: Path) -> None:
    quick = [word for word in QUICK if ".steps=" not in word]
    words = ("data=digits", "recipe=flagship", *quick, "pretrain.epochs=1", "joint.epochs=1")
    weights = []
    for name, more in (("affine", ()), ("auto", ("augmentation=auto",))):
        run((*words, *more), tmp_path / name)
        weights.append((tmp_path / name / "model" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_recipe_dec_has_the_published_constants_and_trains(tmp_path: Path) -> None:
    settings = dotted(compose(parse(["data=mnist", "recipe=dec"])).config)
    assert settings["joint.epochs"] * np.ceil(70_000 / settings["batch_size"]) == pytest.approx(20_000, rel=0.01)
    constants = {
        "pretrain.optimizer": "sgd",
        "pretrain.lr": 1.0,
        "pretrain.epochs": 300,
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.9,
        "joint.lr": 0.01,
        "joint.schedule": "constant",
        "joint.tolerance": 0.001,
        "joint.hold_labels": False,
        "clustering.name": "dec",
        "clustering.reconstruction": 0.0,
        "clustering.update_interval": 140,
        "augmentation.name": "none",
        "regularization.name": "none",
    }
    assert {key: settings[key] for key in constants} == constants
    quick = [word for word in QUICK if ".steps=" not in word]
    result = run(("data=digits", "recipe=dec", *quick, "pretrain.epochs=20", "joint.epochs=5"), tmp_path / "run")
    assert result["acc"] > 0.5
    assert result["stage"] == "joint"


@pytest.mark.parametrize(
    "choice", ["model=conv", "clustering=dcn", "clustering=none", "clustering=dkm", "optimizer=sgd"]
)
def test_the_default_recipe_goes_with_any_choice(choice: str) -> None:
    group, _, option = choice.partition("=")
    assert getattr(compose(parse([choice])).config, group).name == option


def test_an_unknown_recipe_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^recipe=best: expected one of aspc_da, auto, classic, .*; choose recipe="):
        compose(parse(["recipe=best"]))


def test_augmentation_is_refused_for_a_table(blobs: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^augmentation=affine: expected image data"):
        main([*blobs, "augmentation=affine", f"hydra.run.dir={tmp_path / 'run'}"])


# --- lengths in steps ---


@pytest.mark.parametrize(("n_batches", "epochs"), [(1, 400), (3, 134), (400, 1), (4000, 1)])
def test_steps_become_whole_epochs(n_batches: int, epochs: int) -> None:
    config = in_epochs(compose(parse(["pretrain.steps=400", "joint.epochs=5"])).config, n_batches)
    assert (config.pretrain.n_epochs, config.joint.n_epochs) == (epochs, 5)


def test_a_phase_without_a_length_is_refused() -> None:
    with pytest.raises(UserError, match=r"^joint\.epochs=null: expected a number, or joint\.steps beside it; "):
        compose(parse(["recipe=classic", "joint.epochs=null"]))


def test_a_resumed_run_keeps_its_kind_of_length(blobs: tuple[str, ...], tmp_path: Path) -> None:
    run((*blobs, *QUICK), tmp_path / "run")
    with pytest.raises(UserError, match=r"^joint\.epochs=300: expected null as in "):
        main([f"resume={tmp_path / 'run'}", "joint.epochs=300"])


def test_a_small_table_is_evaluated_about_ten_times_and_trains_as_with_any_other_number(tmp_path: Path) -> None:
    X, y = make_blobs(60, 3, centers=3, random_state=0)
    words = (*saved(tmp_path / "X.npz", X, y), *QUICK, "joint.tolerance=0", "pretrain.steps=120", "joint.steps=120")
    epochs, outputs = [], []
    for name, more in (("auto", ()), ("each", ("evaluation.every_epochs=1",))):
        run((*words, *more), tmp_path / name)
        records = reading.records(tmp_path / name / reading.METRICS)
        epochs.append([record["epoch"] for record in records if record["phase"] == "pretrain"])
        files = ("assignments.csv", "model/weights.safetensors")
        outputs.append([(tmp_path / name / file).read_bytes() for file in files])
    assert epochs == [[1, *range(12, 121, 12)], [*range(1, 121)]]
    assert outputs[0] == outputs[1]


def test_an_interrupted_small_table_is_evaluated_in_the_same_epochs(
    blobs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*blobs, *QUICK, "batch_size=300", "pretrain.steps=130", "joint.steps=5", "checkpoint.every_s=0")
    run(words, tmp_path / "whole")
    train_epoch = Trainer._train_epoch

    def stopping(self: Trainer, *rest: Any) -> None:
        if self.progress.state.epoch == 40:
            raise KeyboardInterrupt
        train_epoch(self, *rest)

    monkeypatch.setattr(Trainer, "_train_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(words, tmp_path / "parts")
    monkeypatch.setattr(Trainer, "_train_epoch", train_epoch)
    assert main([f"resume={tmp_path / 'parts'}"]) == 0
    for file in (reading.METRICS, "result.json", "assignments.csv"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


# --- the neighbor embedding ---


def test_the_distance_to_targets_leaves_out_rows_without_one() -> None:
    z = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 0.0], [torch.nan, torch.nan], [5.0, 4.0]])
    loss = mean_squared_distance(z, targets, 2 / 3)  # of three rows two have a target
    assert loss.item() == pytest.approx((1 + 4 + 0 + 4) / 4)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(z.grad, torch.tensor([[0.5, 1.0], [0.0, 0.0], [0.0, 1.0]]))
    assert mean_squared_distance(z, torch.full((3, 2), torch.nan), 2 / 3).item() == 0


def test_parts_of_a_batch_add_up_whichever_of_them_have_targets() -> None:
    """As on several processes: each has the mean of its rows, times its share of the batch."""
    torch.manual_seed(0)
    network = build_autoencoder(compose(parse(["model.hidden=[4]"])).config.model, 3, None, 2, 0)
    x, targets = torch.randn(8, 3), torch.randn(8, 2)
    targets[[0, 1, 5]] = torch.nan
    objective = Objective(network, None, targets=targets, target_weight=1.0)
    whole = objective(x, torch.arange(8)).neighbors
    parts = [
        objective(x[rows], rows, share=len(rows) * 2 / 8).neighbors for rows in (torch.arange(2), torch.arange(2, 8))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)
    known = ~targets[:, 0].isnan()
    torch.testing.assert_close(whole, (network.encode(x) - targets)[known].square().mean())


@pytest.mark.thorough
def test_the_pretraining_draws_the_embedding_to_the_neighbor_embedding(
    moons: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the neighbor embedding at its full length
    result = run((*moons, *QUICK, "model.hidden=null", "pretrain.steps=200"), tmp_path / "run")
    records = [r for r in reading.records(tmp_path / "run" / reading.METRICS) if r["phase"] == "pretrain"]
    assert records[-1]["loss/neighbors"] < 0.3 < records[0]["loss/neighbors"]
    assert records[-1]["loss_weighted/neighbors"] == records[-1]["loss/neighbors"]
    assert all("loss/neighbors" not in record for record in joint_records(tmp_path / "run"))
    # k-means tells the moons apart in the embedding, but not in the data.
    assert result["kmeans_raw"]["acc"] < 0.9
    assert result["acc"] > 0.99


def test_more_rows_than_the_sample_are_clustered(blobs: tuple[str, ...], tmp_path: Path) -> None:
    assert run((*blobs, *QUICK, "clustering.init_samples=100"), tmp_path / "run")["acc"] > 0.95


def test_rows_on_disk_are_clustered(tmp_path: Path) -> None:
    X, y = make_blobs(300, 5, centers=4, random_state=0)
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    np.save(tmp_path / "y.npy", y)
    words = ("data=npy", f"data.path={tmp_path / 'X.npy'}", f"data.labels={tmp_path / 'y.npy'}", "data.load=disk")
    assert run((*words, *QUICK), tmp_path / "run")["acc"] > 0.95


# --- labels that are held ---


@pytest.mark.parametrize("method", [KMeansClustering, DCNClustering])
def test_held_labels_stay_whatever_the_embedding(method: type[KMeansClustering | DCNClustering]) -> None:
    clustering = method(2, 1, 4)
    clustering.hold_labels()
    z = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    clustering.initialize(torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1, 1, 1]), z)
    for epoch in range(5):
        clustering.start_epoch(epoch)
        assert clustering.end_epoch(z).label_change == 0.25  # the nearest centroids give one row another label
        assert clustering.assignments.tolist() == [0, 1, 1, 1]


def test_labels_that_are_not_held_follow_the_nearest_centroids() -> None:
    clustering = DCNClustering(2, 1, 4)
    z = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    clustering.initialize(torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1, 1, 1]), z)
    assert clustering.end_epoch(z).label_change == 0.25
    assert clustering.assignments.tolist() == [0, 0, 1, 1]
    assert clustering.end_epoch(z).label_change == 0


@pytest.mark.parametrize("method", ["kmeans", "dcn"])
@pytest.mark.parametrize(
    ("hold", "learned", "expected"), [(True, None, True), (False, None, False), (False, "kmeans_raw", True)]
)
def test_labels_are_held_where_they_are_to_be_learned(
    hold: bool, learned: str | None, expected: bool, method: str, blobs: tuple[str, ...]
) -> None:
    config = compose(parse([*blobs, *QUICK, f"clustering={method}", f"joint.hold_labels={hold}"])).config
    trainer = Trainer(config, load_dataset(config.data))
    trainer.progress.state = TrainState("joint", learned=learned)
    trainer.begin(trainer.config.joint)
    assert isinstance(trainer.clustering, KMeansClustering | DCNClustering)
    assert trainer.clustering.are_labels_kept == expected


@pytest.mark.parametrize("words", [["clustering=dec"], ["clustering=kmeans", "clustering.assignment=batch"]])
def test_the_end_does_not_claim_that_labels_were_learned_which_the_method_does_not_hold(
    words: list[str], bad_start: tuple[str, ...], caplog: Any
) -> None:
    config = compose(parse([*bad_start, *words])).config
    trainer = Trainer(config, load_dataset(config.data))
    trainer.progress.state = TrainState("joint")
    trainer.progress.labels["kmeans_raw"] = torch.arange(300) % 4
    with caplog.at_level(logging.INFO):
        trainer._learn("kmeans_raw")
    assert "below those of kmeans_raw, from which a second joint phase starts" in caplog.text
    assert "learned" not in caplog.text


@pytest.mark.parametrize(
    ("agreement", "expected"),
    [
        (1.0, "The final clusters are those of k-means, raw data, learned (adjusted Rand index 1.000): "),
        (0.4, "a second one started from those clusters; the final ones differ from them (adjusted Rand index 0.400)."),
        (None, "The final clusters are those of k-means, raw data, learned: "),
    ],
)
def test_the_closing_words_tell_learned_clusters_from_others(agreement: float | None, expected: str) -> None:
    scores = {"modularity_data": 0.5}
    [*_, last] = printed_scores.table(scores, None, scores, name="dec", learned="kmeans_raw", agreement=agreement)
    assert expected in last
    assert ("learned" in last) == (agreement != 0.4)


@pytest.mark.parametrize(
    ("raw", "final", "is_said"),
    [
        ({"modularity_data": 0.6}, {"modularity_data": 0.5}, True),
        ({"modularity_data": 0.5}, {"modularity_data": 0.5}, False),
        ({"modularity_data": 0.5}, {"modularity_data": 0.6}, False),
        ({}, {"modularity_data": 0.6}, False),
        # more even, not better
        (
            {"modularity_data": 0.698, "assortativity_data": 0.886},
            {"modularity_data": 0.663, "assortativity_data": 1.0},
            False,
        ),
    ],
)
def test_the_closing_words_say_that_the_clusters_are_below_those_that_were_not_learned(
    raw: dict[str, float | None], final: dict[str, float | None], is_said: bool
) -> None:
    lines = printed_scores.table(raw, None, final, name="dec", learned="kmeans_raw", agreement=0.4)
    (last,) = [line for line in lines if "differ from them" in line]
    assert last.endswith(
        "the final ones differ from them (adjusted Rand index 0.400)"
        + (" and are below them: their modularity on the data is 0.500 for 0.600." if is_said else ".")
    )


# --- the guard ---

Pair = tuple[float, float | None]  # modularity, assortativity


@pytest.mark.parametrize(
    ("raw", "pretrained", "final", "expected"),
    [
        ((0.5, 0.9), (0.6, 0.8), (0.55, 0.7), "kmeans_pretrained"),
        ((0.7, 0.8), (0.6, 0.8), (0.55, 0.7), "kmeans_raw"),
        ((0.5, 0.9), (0.6, 0.8), (0.6, 0.7), None),
        (None, (0.6, 0.8), (0.55, 0.7), "kmeans_pretrained"),
        (None, None, (0.1, 0.1), None),
        ((0.5, 0.9), (0.6, 0.8), None, None),
        ((0.59, 0.7), (0.6, 0.59), (0.55, 0.65), "kmeans_raw"),  # the other is more even, not better
        ((0.54, 0.7), (0.6, 0.59), (0.55, 0.65), None),
        ((0.54, 0.7), (0.61, 0.59), (0.55, 0.65), "kmeans_pretrained"),  # by more than that
        ((0.5, 0.7), (0.6, None), (0.55, 0.65), "kmeans_pretrained"),  # kept by an earlier version
    ],
)
def test_the_best_baseline_above_the_end_of_the_run_is_found(
    raw: Pair | None, pretrained: Pair | None, final: Pair | None, expected: str | None
) -> None:
    given = (("kmeans_raw", raw), ("kmeans_pretrained", pretrained))
    names = ("modularity_data", "assortativity_data")
    scores = {name: dict(zip(names, pair, strict=True)) if pair else {"modularity_data": None} for name, pair in given}
    score = GraphScore(*final) if final else None
    assert baseline_above(scores, score) == expected
    assert baseline_above({"kmeans_raw": None, "kmeans_pretrained": {}}, score) is None


@pytest.fixture(scope="module")
def bad_start(blobs: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A run that starts from labels drawn by lot, which it cannot learn."""
    path = tmp_path_factory.mktemp("labels") / "labels.npy"
    np.save(path, np.random.default_rng(0).integers(4, size=300))
    return (*blobs, *QUICK, "pretrain.steps=3", "clustering.init=file", f"clustering.init_file={path}")


def test_a_run_that_falls_below_a_baseline_learns_its_labels(
    bad_start: tuple[str, ...], tmp_path: Path, caplog: Any
) -> None:
    without = run((*bad_start, "joint.guard=false"), tmp_path / "without")
    baseline = max(without[name]["modularity_data"] for name in ("kmeans_raw", "kmeans_pretrained"))
    assert without["modularity_data"] < baseline - 0.01
    assert without["stage"] == "joint"
    guarded = run(bad_start, tmp_path / "guarded")
    assert guarded["stage"] in ("kmeans_raw", "kmeans_pretrained")
    assert guarded["modularity_data"] >= baseline
    assert guarded["learned_agreement"] > 0.95
    assert guarded["start"]["agreement"] < 0.1  # with the labels that were drawn by lot
    assert "learned_agreement" not in without
    n_epochs = [record["epoch"] for record in joint_records(tmp_path / "guarded")]
    assert guarded["joint_epochs"] == without["joint_epochs"] + n_epochs[-1]  # those of both joint phases
    assert "whose labels are learned now" in caplog.text
    found = f"learned (adjusted Rand index {guarded['learned_agreement']:.3f}): the joint phase had ended below them"
    assert found in caplog.text


@pytest.mark.thorough
def test_the_guard_runs_its_baseline_whether_it_is_shown_or_not(blobs: tuple[str, ...], tmp_path: Path) -> None:
    """As in ``dkm.select`` and ``dkm.tune``, whose runs train as ``dkm.train`` would."""
    runs = []
    for is_shown in ("true", "false"):
        runs.append(run((*blobs, *QUICK, f"evaluation.kmeans_raw={is_shown}"), tmp_path / is_shown))
    assert runs[0] == runs[1]
    assert runs[0]["kmeans_raw"]
    without = run((*blobs, *QUICK, "evaluation.kmeans_raw=false", "joint.guard=false"), tmp_path / "without")
    assert not without["kmeans_raw"]


def test_labels_that_are_learned_outlast_the_resets_of_the_weights(bad_start: tuple[str, ...]) -> None:
    config = compose(parse([*bad_start, "joint.hold_labels=false", "clustering.reset_every=3"])).config
    trainer = Trainer(config, load_dataset(config.data))
    assert trainer._reset_every == 3
    trainer.progress.state = TrainState("joint", learned="kmeans_raw")
    assert trainer._reset_every is None


def test_resets_are_refused_where_the_first_labels_are_to_be_learned(blobs: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^clustering\.reset_every=3: expected null with joint\.hold_labels=true"):
        main([*blobs, *QUICK, "clustering.reset_every=3", f"hydra.run.dir={tmp_path / 'run'}"])


def test_averaged_weights_go_on_where_a_baseline_is_learned(bad_start: tuple[str, ...], tmp_path: Path) -> None:
    """The second joint phase starts from the network that was judged, whose embedding the centroids are means of."""
    config = compose(parse([*bad_start, "joint.average_epochs=2"])).config
    trainer = Trainer(config, load_dataset(config.data))
    trainer.progress.state = TrainState("joint")
    phase = trainer.begin(trainer.config.joint)
    assert phase.average is not None
    trainer._phase = phase
    with torch.no_grad():
        for parameter in trainer.autoencoder.parameters():
            parameter.add_(0.1)  # away from the average
    with phase.averaged():
        expected = trainer.embed()
    trainer.progress.labels["kmeans_raw"] = torch.arange(300) % 4
    trainer._learn("kmeans_raw")
    torch.testing.assert_close(trainer.embed(), expected)
    means = torch.stack([expected[k::4].mean(0) for k in range(4)])
    torch.testing.assert_close(trainer.clustering.centroids.detach(), means)


def state_with(stage: str, modularity: float, assortativity: float | None = None) -> Kept:
    return Kept(stage, modularity, {}, torch.zeros(2, 1), assortativity, 7)


@pytest.mark.parametrize(
    ("kept", "final", "learned", "expected"),
    [
        ([("initialization", 0.6)], 0.55, None, ("kmeans_raw", None)),
        ([("initialization", 0.6)], 0.65, None, ("kmeans_raw", None)),
        ([("initialization", 0.6)], 0.75, None, (None, None)),
        ([("initialization", 0.6)], 0.55, "kmeans_raw", (None, 0)),
        ([("initialization", 0.6)], 0.65, "kmeans_raw", (None, None)),
        ([("initialization", 0.6)], 0.6, "kmeans_raw", (None, None)),
        ([("initialization", 0.6)], 0.5996, "kmeans_raw", (None, None)),  # .600 in the table
        ([("joint", 0.65)], 0.55, None, ("kmeans_raw", None)),
        ([("joint", 0.72)], 0.55, None, (None, 0)),  # no baseline is above the best epoch
        ([("joint", 0.72)], 0.55, "kmeans_raw", (None, 0)),
        ([("joint", 0.65), ("kmeans_raw", 0.69)], 0.68, "kmeans_raw", (None, 1)),
        ([], 0.1, "kmeans_raw", (None, None)),
        ([("initialization", 0.6)], None, None, (None, None)),
        # Of two states that are better, the one with the higher mean; others may be better in one score alone.
        ([("joint", 0.72, 0.8), ("joint", 0.71, 0.9)], (0.7, 0.7), None, (None, 1)),
        ([("joint", 0.72, 0.8), ("joint", 0.69, 0.95)], (0.7, 0.7), None, (None, 0)),
        ([("initialization", 0.69, 0.95)], (0.7, 0.7), None, (None, None)),
    ],
)
def test_a_joint_phase_is_judged_by_what_the_run_had_before(
    kept: list[Any], final: Any, learned: str | None, expected: tuple[str | None, int | None]
) -> None:
    baselines: dict[str, Scores | None] = {
        "kmeans_raw": {"modularity_data": 0.7},
        "kmeans_pretrained": {"modularity_data": 0.6},
    }
    states = [state_with(*state) for state in kept]
    score = GraphScore(*final) if isinstance(final, tuple) else final and GraphScore(final)
    verdict = judge(baselines, states, score, learned=learned)
    assert verdict.learn == expected[0]
    assert verdict.restore is (None if expected[1] is None else states[expected[1]])


def test_a_state_is_kept_unless_another_one_is_as_good_in_both_scores() -> None:
    even, uneven = state_with("joint", 0.7, 0.8), state_with("joint", 0.65, 0.95)
    assert not is_covered(uneven.score, [even])
    assert with_state([even], uneven) == [even, uneven]
    assert is_covered(GraphScore(0.64, 0.94), [even, uneven])
    assert is_covered(GraphScore(0.7, 0.8), [even, uneven])
    better = state_with("joint", 0.71, 0.9)
    assert with_state([even, uneven], better) == [better]
    above_one = state_with("joint", 0.71, 0.81)
    assert with_state([even, uneven], above_one) == [uneven, above_one]


def test_no_state_that_a_run_had_is_above_the_one_that_it_ends_with() -> None:
    rng, n_restored = np.random.default_rng(0), 0
    for _ in range(2000):
        *before, end = (state_with("joint", *pair) for pair in rng.uniform(0.7, 0.71, size=(8, 2)))
        kept: list[Kept] = []
        for state in before:
            kept = kept if is_covered(state.score, kept) else with_state(kept, state)
        final = best_above(kept, end.score) or end
        assert not any(state.score.is_above(final.score, VISIBLE) for state in before)
        n_restored += final is not end
    assert 200 < n_restored < 1900


def test_of_two_better_baselines_the_one_that_comes_first_is_learned() -> None:
    baselines: dict[str, Scores | None] = {
        "kmeans_raw": {"modularity_data": 0.6, "assortativity_data": 0.6},
        "kmeans_pretrained": {"modularity_data": 0.55, "assortativity_data": 0.8},
    }
    assert baseline_above(baselines, GraphScore(0.5, 0.5)) == "kmeans_pretrained"


def test_a_state_keeps_both_scores_in_checkpoints() -> None:
    network = torch.nn.Linear(1, 1)
    kept = Kept.of("joint", GraphScore(0.6, 0.7), network, torch.zeros(2, 1), 7)  # type: ignore[arg-type]
    (again,) = states_from([kept._asdict()])
    assert (again.score, again.step) == (GraphScore(0.6, 0.7), 7)
    earlier = {name: value for name, value in kept._asdict().items() if name not in ("assortativity", "step")}
    (again,) = states_from(earlier)
    assert again.score.is_above(GraphScore(0.59, 0.9))
    assert states_from({**earlier, "modularity": None}) == states_from(None) == []


@pytest.fixture(scope="module")
def wandering(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A run whose clusters are better after some epochs than at the end: the rows are noise."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 6)), np.arange(400) % 5
    words = saved(tmp_path_factory.mktemp("noise") / "noise.npz", X, y)
    return (*words, *QUICK, "joint.lr=0.02", "evaluation.every_epochs=1")


def test_the_reported_clusters_are_the_best_that_the_model_had(
    wandering: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, GraphScore]] = []

    def noting(compare: Callable[..., Any]) -> Callable[..., Any]:
        def compare_and_note(self: Guard, progress: Progress, z: torch.Tensor) -> Any:
            score = self.score(z)
            assert score is not None
            found.append((progress.step, score))
            return compare(self, progress, z)

        return compare_and_note

    for name in ("keep", "judge"):
        monkeypatch.setattr(Guard, name, noting(getattr(Guard, name)))
    result = run(wandering, tmp_path / "run")
    final = GraphScore(result["modularity_data"], result["assortativity_data"])
    first, second = ([before + 4 * epoch for epoch in range(1, 16)] for before in (61, 122))
    # After each epoch, when each phase is judged, and when the end of the first one is kept.
    assert [step for step, _ in found] == [*first, first[-1], first[-1], *second, second[-1]]
    end = found[-1][1]
    best_step, best = max((at for at in found if at[1].is_above(end, VISIBLE)), key=lambda at: at[1].mean)
    assert (best.modularity, best.assortativity) == pytest.approx(final)
    assert result["restored_step"] == best_step
    assert not any(score.is_above(final, VISIBLE) for _, score in found)
    assert (result["stage"], result["is_undone"]) == ("kmeans_raw", False)
    # The record of that step is of the same model.
    (record,) = [record for record in joint_records(tmp_path / "run") if record["step"] == best_step]
    assert record["metrics/modularity_data"] == result["modularity_data"]
    assert record["metrics/silhouette"] == pytest.approx(result["silhouette"], abs=1e-6)
    assert reading.read(tmp_path / "run").scores["reconstruction"] == record["loss/reconstruction"]
    told = (tmp_path / "run" / "train.log").read_text()
    assert f"those of step {best_step}, restored: the joint phase ended with worse clusters on the data." in told


@pytest.mark.parametrize(
    ("n_epochs", "is_in_steps", "expected"),
    [
        *((3, True, 1), (11, True, 1), (20, True, 2), (60, True, 5), (99, True, 10), (100, True, 10), (101, True, 11)),
        *((127, True, 13), (267, True, 27), (400, True, 40), (405, True, 41)),
        *((3, False, 10), (400, False, 10)),
    ],
)
def test_clusters_are_compared_wherever_they_are_evaluated_and_ten_times(
    n_epochs: int, is_in_steps: bool, expected: int
) -> None:
    interval = due.comparison_interval(n_epochs, is_in_steps=is_in_steps)
    assert interval == expected
    assert due.evaluation_interval(None, n_epochs, is_in_steps=is_in_steps) % interval == 0


@pytest.mark.parametrize("words", [("joint.average_epochs=2",), ("precision=bf16",)])
def test_the_kept_clusters_are_those_of_the_model_that_is_saved(
    words: tuple[str, ...], wandering: tuple[str, ...], tmp_path: Path
) -> None:
    """With averaged weights too, and where the steps are taken in another precision."""
    for seed in range(3):
        result = run((*wandering, *words, f"seed={seed}"), tmp_path / f"{seed}")
        kept = states_from(torch.load(tmp_path / f"{seed}" / "checkpoints" / "last.pt", weights_only=True)["kept"])
        final = GraphScore(result["modularity_data"], result["assortativity_data"])
        if result["restored_step"] is None:
            assert best_above(kept, final) is None
        else:
            (state,) = [state for state in kept if state.step == result["restored_step"]]
            assert state.score == pytest.approx(final)
            assert result["restored_step"] < result["steps"] - 1  # the last step is not restored


def test_what_is_evaluated_does_not_decide_which_clusters_are_kept(wandering: tuple[str, ...], tmp_path: Path) -> None:
    runs = [run((*wandering, f"evaluation.every_epochs={n}"), tmp_path / str(n)) for n in (3, 1000)]
    assert runs[0] == runs[1]
    assert runs[0]["restored_step"] is not None


def test_the_estimator_keeps_the_same_clusters(wandering: tuple[str, ...], tmp_path: Path) -> None:
    """It writes nothing, so nothing is evaluated on the way."""
    result = run(wandering, tmp_path / "run")
    assert result["restored_step"] is not None
    X = np.load(wandering[1].removeprefix("data.path="))["X"]
    words = [word for word in wandering if not word.startswith(("data", "clustering.n_clusters"))]
    model = DeepKMeans(5, config=words, random_state=0).fit(X)
    with (tmp_path / "run" / "assignments.csv").open(newline="") as file:
        assert model.labels_.tolist() == [int(row["cluster"]) for row in csv.DictReader(file)]


def test_a_run_that_is_made_longer_may_keep_the_clusters_of_its_former_end(
    blobs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_end = 60 + 1 + 10 * 3  # steps; the initialization counts as one
    # After the epochs 1 and 10 and at the end; after epoch 20 and at the new end; after 1, 10 and 20 and at the end.
    scores = iter([0.8, 0.9, 0.9, 0.8, 0.8, 0.8, 0.9, 0.8, 0.8])
    monkeypatch.setattr(Guard, "score", lambda *_: GraphScore(next(scores), 1.0))
    words = (*blobs, *QUICK, "joint.steps=null", "joint.schedule=constant", "joint.tolerance=0")
    short = run((*words, "joint.epochs=10"), tmp_path / "run")
    assert (short["steps"], short["restored_step"]) == (at_end, None)
    assert main([f"resume={tmp_path / 'run'}", "joint.epochs=20"]) == 0
    longer = json.loads((tmp_path / "run" / "result.json").read_text())
    assert longer == run((*words, "joint.epochs=20"), tmp_path / "other")
    assert (longer["restored_step"], longer["stage"], longer["is_undone"]) == (at_end, "joint", False)
    with pytest.raises(UserError, match=rf"has gone back to step {at_end} \(joint.guard\); leave the override out"):
        main([f"resume={tmp_path / 'run'}", "joint.epochs=30"])


@pytest.mark.parametrize("n_steps", [60 + 60 + 20, 60 + 60 + 58], ids=["before", "after"])
@pytest.mark.thorough
def test_a_run_killed_before_or_after_its_best_clusters_resumes_to_the_same_bytes(
    n_steps: int, wandering: tuple[str, ...], tmp_path: Path
) -> None:
    words = [*wandering, "checkpoint.every_s=0"]  # a checkpoint each step
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_in_process([*words, f"hydra.run.dir={whole}"], tmp_path / "log", prepare=search_quickly).code == 0
    finished = train_in_process(
        [*words, f"hydra.run.dir={killed}"], tmp_path / "log2", Point(*OPTIMIZER, n_steps), search_quickly
    )
    assert finished.code == -signal.SIGKILL, finished.err
    assert train_in_process([f"resume={killed}"], tmp_path / "log3", prepare=search_quickly).code == 0
    assert json.loads((whole / "result.json").read_text())["restored_step"] is not None
    for name in ("metrics.jsonl", "result.json", "assignments.csv", "model/weights.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_says_how_far_the_labels_of_its_start_were_learned(moons: tuple[str, ...], tmp_path: Path) -> None:
    few = run((*moons, *QUICK, "pretrain.steps=1", "joint.steps=4", "joint.guard=false"), tmp_path / "few")
    assert few["start"]["agreement"] < 0.9
    assert few["start"]["modularity_data"] > few["modularity_data"] + 0.01
    told = (tmp_path / "few" / "train.log").read_text()
    assert "The joint phase was to keep the clusters that it started from; the final ones differ" in told
    free = run((*moons, *QUICK, "joint.hold_labels=false", "joint.guard=false"), tmp_path / "free")
    assert "start" not in free


# A learning rate that destroys the network: it learns neither the clusters of its start nor those of a baseline.
DESTROYED = ("joint.lr=3", "joint.tolerance=0", "checkpoint.every_s=0")


@pytest.fixture(scope="module")
def undone(blobs: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose joint phases both end below k-means on the pretrained embedding."""
    folder = tmp_path_factory.mktemp("undone")
    words = [*blobs, *QUICK, *DESTROYED, f"hydra.run.dir={folder / 'run'}"]
    finished = train_in_process(words, folder / "log", prepare=search_quickly)
    assert finished.code == 0, finished.err
    (folder / "told").write_text(finished.out + finished.err)
    return folder / "run"


def test_a_run_that_cannot_learn_a_baseline_goes_back_to_the_pretraining(undone: Path) -> None:
    result = json.loads((undone / "result.json").read_text())
    assert result["stage"] == "initialization"
    assert result["is_undone"]
    for name, value in result["kmeans_pretrained"].items():
        assert result[name] == pytest.approx(value, rel=1e-5), name
    last = [json.loads(line) for line in (undone / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["metrics/modularity_data"] < result["modularity_data"] - 0.01
    told = (undone.parent / "told").read_text()
    assert "k-means, pretrained embedding, restored" in told
    assert "worse than those of the pretraining, which are restored" in told


def test_the_restored_model_gives_the_reported_clusters(blobs: tuple[str, ...], undone: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "labels.csv", blobs[1].removeprefix("data.path=")
    predict([f"run={undone}", f"input={data}", "data.labels=y", f"output={path}"])
    assert path.read_bytes() == (undone / "assignments.csv").read_bytes()


@pytest.mark.parametrize(
    "point",
    [Point(*OPTIMIZER, 3 + 60 + 20), Point("dkm.models.saved:SavedModel", "save", 1)],
    ids=["second joint phase", "report"],
)
@pytest.mark.thorough
def test_a_run_that_is_killed_before_or_after_it_is_undone_resumes_to_the_same_bytes(
    point: Point, blobs: tuple[str, ...], undone: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    words = [*blobs, *QUICK, *DESTROYED, f"hydra.run.dir={killed}"]
    finished = train_in_process(words, tmp_path / "log", point, search_quickly)
    assert finished.code == -signal.SIGKILL, finished.err
    assert train_in_process([f"resume={killed}"], tmp_path / "log2", prepare=search_quickly).code == 0
    for name in ("metrics.jsonl", "result.json", "assignments.csv", "model/weights.safetensors"):
        assert (killed / name).read_bytes() == (undone / name).read_bytes(), name


def test_an_undone_run_cannot_be_made_longer(undone: Path) -> None:
    config = yaml.safe_load((undone / "config.yaml").read_text())
    n_epochs = json.loads((undone / "result.json").read_text())["joint_epochs"] + 5
    assert config["joint"]["epochs"] is None
    checkpoint = torch.load(undone / "checkpoints" / "last.pt", weights_only=True)
    settings = compose(parse([f"--config-dir={undone}", "--config-name=config"])).config
    settings.joint.epochs = n_epochs
    trainer = Trainer(settings, load_dataset(settings.data))
    wanted = rf"^joint\.epochs={n_epochs}: expected {n_epochs - 25}, as the joint phase of .* was undone; "
    with pytest.raises(UserError, match=wanted):
        trainer.restore(checkpoint, undone)


def test_a_run_above_its_baselines_has_one_joint_phase(blobs: tuple[str, ...], tmp_path: Path) -> None:
    result = run((*blobs, *QUICK), tmp_path / "run")
    assert result["stage"] == "joint"
    for name in ("kmeans_raw", "kmeans_pretrained"):
        assert result["modularity_data"] >= result[name]["modularity_data"]


@pytest.mark.parametrize("way", ["joint.hold_labels=true", "joint.hold_labels=false"])
@pytest.mark.thorough
def test_a_run_killed_while_it_learns_a_baseline_resumes_to_the_same_bytes(
    way: str, bad_start: tuple[str, ...], tmp_path: Path
) -> None:
    bad = [*bad_start, "checkpoint.every_s=0", "joint.tolerance=0", way]  # a checkpoint each step
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_in_process([*bad, f"hydra.run.dir={whole}"], tmp_path / "log", prepare=search_quickly).code == 0
    assert json.loads((whole / "result.json").read_text())["stage"].startswith("kmeans_")
    n_steps = 3 + 60 + 20
    point = Point(*OPTIMIZER, n_steps)
    finished = train_in_process([*bad, f"hydra.run.dir={killed}"], tmp_path / "log2", point, search_quickly)
    assert finished.code == -signal.SIGKILL, finished.err
    assert train_in_process([f"resume={killed}"], tmp_path / "log3", prepare=search_quickly).code == 0
    for name in ("metrics.jsonl", "result.json", "assignments.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


# --- checkpoints of earlier versions ---


def test_steps_of_earlier_versions_have_no_neighbor_term() -> None:
    old = torch.arange(10.0).view(2, 5)
    assert with_all_terms(old).tolist() == [[0, 1, 2, 3, 0, 4], [5, 6, 7, 8, 0, 9]]
    new = torch.arange(12.0).view(2, 6)
    assert with_all_terms(new) is new


def test_the_baseline_is_the_candidate_of_the_rows(
    blobs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """k-means on the rows runs once, and the clusters are those of a run without the baseline."""
    n_features: list[int] = []

    def counted(points: torch.Tensor, n_clusters: int, *, n_init: int, seed: int) -> Assignment:
        n_features.append(points.shape[1])
        return kmeans(points, n_clusters, n_init=n_init, seed=seed)

    monkeypatch.setattr(neighborhood, "kmeans", counted)
    lines, on_the_rows = [], []
    for has_labels in ("true", "false"):  # the guard keeps the labels of the baseline
        directory = tmp_path / has_labels
        n_features.clear()
        run((*blobs, *QUICK, f"joint.guard={has_labels}"), directory)
        on_the_rows.append(n_features.count(5))
        log = (directory / "train.log").read_text()
        lines.append(log.partition("clusters from clustering.init=data: ")[2].partition(" (")[0])
    assert on_the_rows == [0, 1]
    assert lines[0] == lines[1] != ""


@pytest.mark.parametrize(
    ("n_features", "n_values", "words", "n_searches"),
    [
        (5, None, (), 1),
        (3, 5, (), 1),  # many neighbors are equally far
        (150, None, (), 1),  # the graph of both is that of 100 principal components
        (5, None, ("evaluation.graph_samples=100",), 2),
        (5, None, ("evaluation.samples=100",), 2),
        (5, None, ("clustering.init_samples=100",), 2),
    ],
)
def test_clusters_are_scored_in_the_graph_that_they_are_found_in_where_it_is_the_same(
    n_features: int,
    n_values: int | None,
    words: tuple[str, ...],
    n_searches: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = make_blobs(200, n_features, centers=4, cluster_std=4.0, random_state=0)
    if n_values is not None:
        X = np.random.default_rng(0).integers(n_values, size=X.shape)
    config = compose(parse([*saved(tmp_path / "X.npz", X, y), *QUICK, *words])).config
    data = load_dataset(config.data)
    trainer = Trainer(config, data)
    searched: list[int] = []

    def counted(points: Any, n_neighbors: int) -> graph.Neighbors:
        searched.append(len(points))
        return search(points, n_neighbors)

    search = graph.nearest_neighbors
    for module in (graph, metrics):
        monkeypatch.setattr(module, "nearest_neighbors", counted)
    labels = np.random.default_rng(0).integers(4, size=200)
    score = trainer.evaluator.graph_score(labels)
    assert (score, trainer.neighborhood.graph.shape[0]) == (trainer.evaluator.graph_score(labels), searched[-1])
    assert len(searched) == n_searches
    alone = Evaluator(data, trainer.batches, 4, config.evaluation)
    assert alone.graph_score(labels) == score
