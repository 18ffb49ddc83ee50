"""``dkm.training.restoring``: what a checkpoint holds is restored, and what does not belong to the run is refused."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dkm.config.compose import compose, parse
from dkm.config.run import Config
from dkm.data.datasets import load_dataset
from dkm.errors import Failure, UserError
from dkm.runtime import checkpoints
from dkm.train import _main as main
from dkm.training.launch import Plan, execute_with_one_line_errors
from dkm.training.restoring import require_same_origin, with_all_terms
from dkm.training.trainer import Trainer

WORDS = [
    *("data=blobs", "data.n_samples=60", "model.hidden=[8]", "batch_size=20", "device=cpu", "clustering.n_init=2"),
    *("recipe=classic", "pretrain.epochs=2", "joint.epochs=2", "joint.tolerance=0", "checkpoint.every_s=0"),
    *("log.figures=false", "log.tensorboard=false", "log.progress=off", "pretrain.schedule=constant"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    assert main([*WORDS, f"hydra.run.dir={path}"]) == 0
    return path


@pytest.fixture
def state(run: Path) -> dict[str, Any]:
    state = checkpoints.load(run / "checkpoints")
    assert state is not None
    return state


def config_with(*overrides: str) -> Config:
    return compose(parse([*WORDS, *overrides])).config


def trainer_with(*overrides: str) -> Trainer:
    config = config_with(*overrides)
    return Trainer(config, load_dataset(config.data))


def test_everything_in_a_checkpoint_is_restored(state: dict[str, Any], run: Path) -> None:
    trainer = trainer_with()
    trainer.restore(state, run)
    for name, module in (("autoencoder", trainer.autoencoder), ("clustering", trainer.clustering)):
        restored = module.state_dict()
        assert all(torch.equal(restored[key], value) for key, value in state[name].items())
    progress = trainer.progress
    assert asdict(progress.state) == state["train_state"]
    assert (progress.state.phase, progress.state.epoch, progress.step) == ("joint", 2, 13)
    assert progress.baselines == state["baselines"]
    torch.testing.assert_close(trainer._steps.values, state["terms"], rtol=0, atol=0, equal_nan=True)
    assert trainer._phase_state["optimizer"] is state["optimizer"]
    metrics = (run / "metrics.jsonl").read_bytes()
    assert trainer._metrics_bytes == state["metrics_bytes"] == len(metrics)
    assert trainer._metrics_sha256 == state["metrics_sha256"] == hashlib.sha256(metrics).hexdigest()


@pytest.mark.parametrize("joint_epochs", [1, 2, 3])
def test_a_run_that_has_settled_ends_there_whatever_its_length(
    joint_epochs: int, state: dict[str, Any], run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state["train_state"]["is_stopped"] = True
    trainer = trainer_with(f"joint.epochs={joint_epochs}")
    trainer.restore(state, run)
    assert trainer.progress.state.is_stopped
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = (
        "joint.epochs=3 changes nothing: the labels had settled after epoch 2 (joint.tolerance=0), where a run of "
    )
    expected += "that length ends too; for a longer phase start a new run with joint.tolerance=0"
    assert warned == ([expected] if joint_epochs == 3 else [])


@pytest.mark.parametrize(("joint_epochs", "is_stopped"), [(2, True), (3, True), (4, True), (5, False)])
def test_a_run_that_has_settled_goes_on_to_the_resets_that_a_longer_one_has(
    joint_epochs: int, is_stopped: bool, state: dict[str, Any], run: Path
) -> None:
    """Labels that have settled do not end a run before its last reset."""
    state["train_state"]["is_stopped"] = True
    state["config"]["clustering"]["reset_every"] = 4
    trainer = trainer_with(f"joint.epochs={joint_epochs}", "clustering.reset_every=4")
    trainer.restore(state, run)
    assert trainer.progress.state.is_stopped == is_stopped


def test_a_run_that_has_settled_and_is_made_longer_is_the_longer_run(tmp_path: Path) -> None:
    words = ["joint.tolerance=0.9", "evaluation.every_epochs=1"]
    for name, n_epochs in (("run", 4), ("longer", 9)):
        assert main([*WORDS, *words, f"joint.epochs={n_epochs}", f"hydra.run.dir={tmp_path / name}"]) == 0
    assert main([f"resume={tmp_path / 'run'}", "joint.epochs=9"]) == 0
    for name in ("result.json", "metrics.jsonl", "assignments.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "longer" / name).read_bytes()


GUARDED = {
    "learned": ("kmeans_raw", "has gone on to learn the labels of kmeans_raw (joint.guard)"),
    "restored": ("initialization", "was undone"),
}


@pytest.mark.parametrize("entry", GUARDED)
def test_a_joint_phase_that_the_guard_has_ended_is_not_made_longer(
    entry: str, state: dict[str, Any], run: Path
) -> None:
    """A longer first phase would have ended elsewhere, and been judged there."""
    state["train_state"][entry], what = GUARDED[entry]
    trainer_with().restore(state, run)
    with pytest.raises(UserError) as refused:
        trainer_with("joint.epochs=3").restore(state, run)
    assert str(refused.value) == (
        f"joint.epochs=3: expected 2, as the joint phase of {run} {what}; leave the override out or start a new run"
    )


REFUSED = {
    "batch_size=10": "config.yaml: batch_size=10, but the checkpoint was written with 20; expected the same config",
    "pretrain.epochs=3": "pretrain.epochs=3: expected 2, as the pretraining of",
}


@pytest.mark.parametrize("override", REFUSED)
def test_another_config_is_refused(override: str, state: dict[str, Any], run: Path) -> None:
    with pytest.raises(UserError, match=REFUSED[override]):
        trainer_with(override).restore(state, run)


def test_more_pretraining_is_welcome_while_it_lasts(state: dict[str, Any], run: Path) -> None:
    config = config_with("pretrain.epochs=3")
    data = load_dataset(config.data)
    state["train_state"]["phase"] = "pretrain"
    require_same_origin(state, config, data, run)


def test_settings_that_a_later_version_adds_do_not_matter(state: dict[str, Any], run: Path) -> None:
    config = config_with("log.progress=plain")  # may change
    del state["config"]["batch_size"]
    require_same_origin(state, config, load_dataset(config.data), run)


def test_other_data_are_refused(state: dict[str, Any], run: Path) -> None:
    config = config_with()
    data = replace(load_dataset(config.data), sha256="0" * 64)
    expected = (
        rf"data=blobs: the data changed since the run began \(SHA-256 0{{12}}\.\.\., then {state['data_sha256'][:12]}"
    )
    with pytest.raises(UserError, match=expected):
        require_same_origin(state, config, data, run)


@pytest.mark.parametrize("key", ["autoencoder", "clustering", "optimizer", "average", "terms", "train_state"])
def test_a_checkpoint_without_a_part_is_refused_in_one_line(key: str, state: dict[str, Any], run: Path) -> None:
    del state[key]
    with pytest.raises(checkpoints.CheckpointError, match="the state does not fit this model") as raised:
        trainer_with().restore(state, run)
    assert str(run / "checkpoints") in str(raised.value)
    assert "\n" not in str(raised.value)


POSITION = {"phase_idx": 1, "epoch": 0, "batch": 0, "step": 7, "is_stopped": False, "seconds": {}, "raw": None}
POSITION |= {"pretrained": None, "pass_info": {}, "cache_key": None}
KEPT = {"stage": "joint", "modularity": 0.5, "autoencoder": {}, "centroids": torch.zeros(5, 5), "assortativity": 0.5}
FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "the shape of the terms": ({"terms": torch.zeros(3)}, "tuple index out of range"),
    "the number of the terms": ({"terms": torch.zeros(1, 6)}, "terms is not what a run writes"),
    "no phase": ({"train_state.phase": "x"}, "train_state.phase is not"),
    "another phase": ({"position": {**POSITION, "phase_idx": 7}}, "tuple index out of range"),
    "the epoch": ({"train_state.epoch": "x"}, "train_state.epoch is not"),
    "a negative step": ({"train_state.step": -1}, "train_state.step is not"),
    "the batch": ({"train_state.batch": 99}, "train_state.batch is not"),
    "a flag": ({"train_state.is_stopped": 1}, "train_state.is_stopped is not"),
    "what was learned": ({"train_state.learned": "x"}, "train_state.learned is not"),
    "what was restored": ({"train_state.restored": 3}, "train_state.restored is not"),
    "another state": ({"train_state.more": 3}, "unexpected keyword argument 'more'"),
    "seconds": ({"seconds": {"joint": "x"}}, "unsupported operand"),
    "many seconds": ({"seconds": {"joint": 10**400}}, "int too large"),
    "no finite seconds": ({"seconds": {"joint": float("nan")}}, "seconds is not"),
    "a list of seconds": ({"seconds": [1]}, "'list' object has no attribute 'items'"),
    "baselines": ({"baselines": {"kmeans_raw": "x", "kmeans_pretrained": None}}, "baselines.kmeans_raw is not"),
    "texts of baselines": ({"baselines": {"a": {"acc": "x"}, "b": None}}, "baselines.kmeans_raw is not"),
    "one baseline": ({"baselines": {"kmeans_raw": None}}, "not enough values to unpack"),
    "the reassignment": ({"reassignment": {"label_change": 0.5}}, "reassignment is not"),
    "labels": ({"labels": 3}, "labels is not"),
    "labels of other rows": ({"labels": {"kmeans_raw": torch.zeros(3, dtype=torch.int64)}}, "labels.kmeans_raw is not"),
    "labels of other clusters": ({"labels": {"kmeans_raw": torch.full((60,), 5)}}, "labels.kmeans_raw is not"),
    "assignments": ({"clustering.assignments": torch.full((60,), -1)}, "clustering.assignments is not"),
    "the kept state": ({"kept": 3}, "'int' object is not iterable"),
    "the kept weights": ({"kept": KEPT}, "kept.autoencoder is not"),
    "the cache": ({"cache_key": 3}, "cache_key is not"),
    "the centroids": ({"centroids_before": None}, "centroids_before is not"),
    "the optimizer": ({"optimizer": {"a": 1}}, "optimizer is not"),
    "the average": ({"average": [1]}, "average is not"),
    "the size of the metrics": ({"metrics_bytes": "x"}, "metrics_bytes is not"),
    "a negative size of the metrics": ({"metrics_bytes": -5}, "metrics_bytes is not"),
    "the digest of the metrics": ({"metrics_sha256": 5}, "metrics_sha256 is not"),
    "the search": ({"n_clusters_choice": 3}, "n_clusters_choice is not"),
    "the config": ({"config": 3}, "'int' object has no attribute 'items'"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_an_entry_that_no_run_writes_is_refused_in_one_line(what: str, state: dict[str, Any], run: Path) -> None:
    entries, expected = FOREIGN[what]
    for key, value in entries.items():
        section, _, name = key.rpartition(".")
        (state[section] if section else state)[name] = value
    with pytest.raises(checkpoints.CheckpointError) as refused:
        trainer_with().restore(state, run)
    assert str(refused.value).startswith(f"{run / 'checkpoints'}: the state does not fit this model (")
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def a_moment(state: dict[str, Any]) -> None:
    moments = next(iter(state["optimizer"]["state"].values()))
    moments["exp_avg"] = moments["exp_avg"].new_zeros(3, 1)


OTHER_PHASE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "the groups of the optimizer": (lambda s: s["optimizer"]["param_groups"].clear(), "different number of parameter"),
    "no groups": (lambda s: s["optimizer"]["param_groups"].__setitem__(0, 3), "'int' object"),
    "the moments": (a_moment, "optimizer: a state of another shape than its parameter"),
    "the average": (lambda s: s["average"].__setitem__(0, torch.zeros(1)), "average: of another shape than its"),
    "one average": (lambda s: s["average"].pop(), "zip() argument 2 is shorter"),
}


@pytest.mark.parametrize("what", OTHER_PHASE)
def test_the_state_of_another_optimizer_is_refused_in_one_line_and_kept(what: str, tmp_path: Path) -> None:
    run, change = tmp_path / "run", OTHER_PHASE[what]
    assert main([*WORDS, "joint.average_epochs=1", f"hydra.run.dir={run}"]) == 0
    last = run / "checkpoints" / "last.pt"
    state = checkpoints.read(last)
    change[0](state)
    last.write_bytes(checkpoints.serialized(state))
    with pytest.raises(checkpoints.CheckpointError) as refused:
        main([f"resume={run}"])
    assert change[1] in str(refused.value)
    assert "\n" not in str(refused.value)
    kept = checkpoints.read(last)
    assert kept["train_state"] == state["train_state"]
    assert kept["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]


def test_weights_of_other_shapes_are_refused(state: dict[str, Any], run: Path) -> None:
    name = next(iter(state["autoencoder"]))
    state["autoencoder"][name] = torch.zeros(1)
    with pytest.raises(checkpoints.CheckpointError, match="size mismatch"):
        trainer_with().restore(state, run)


def test_a_lack_of_memory_is_not_taken_for_a_state_that_does_not_fit(
    state: dict[str, Any], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_with()
    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(trainer.autoencoder, "load_state_dict", fail)
    with pytest.raises(RuntimeError, match=message) as raised:
        trainer.restore(state, run)
    assert not isinstance(raised.value, UserError)


UNREADABLE: dict[str, tuple[BaseException, type[Exception], str]] = {
    "a disk that fails": (
        OSError(errno.EIO, "Input/output error"),
        UserError,
        "checkpoints: cannot be read (Input/output error); nothing was changed; expected a readable checkpoint",
    ),
    "no memory": (MemoryError("1 GiB"), Failure, "not enough memory (1 GiB)"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_checkpoint_that_cannot_be_read_now_is_one_line(
    what: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, kind, expected = UNREADABLE[what]
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}

    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "read", fail)
    with pytest.raises(kind) as raised:
        execute_with_one_line_errors(Plan(config_with(), run))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


def test_a_checkpoint_is_due_after_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    checkpointer = trainer_with("checkpoint.every_s=10")._checkpointer
    due = []
    for now_s in (109.0, 110.0, 111.0):
        monkeypatch.setattr(time, "monotonic", lambda now_s=now_s: now_s)
        due.append(checkpointer.is_due())
    assert due == [False, True, True]


def test_numbers_of_an_earlier_version_get_the_term_that_they_lack() -> None:
    earlier = torch.arange(10.0).reshape(2, 5)
    assert with_all_terms(earlier).tolist() == [[0, 1, 2, 3, 0, 4], [5, 6, 7, 8, 0, 9]]
    present = torch.arange(12.0).reshape(2, 6)
    assert with_all_terms(present) is present
