"""A run that is killed, interrupted or damaged, and resumed, ends like one that was never stopped: byte for byte."""

from __future__ import annotations

import functools
import json
import random
import shutil
import signal
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written
from processes import OPTIMIZER, Finished, Point, train

from dkm.data.batches import MemoryBatches
from dkm.errors import UserError
from dkm.runs import reading
from dkm.runs.directory import RunDirectory
from dkm.runtime.locks import try_lock
from dkm.train import _main as main

# A report and what TensorBoard shows take as long as such a run: only where a test looks at them.
EVERYTHING = ["log.report=true", "log.to=[tensorboard,csv]"]
PRETRAIN_EPOCHS, JOINT_EPOCHS, BATCHES = 3, 5, 4
STEPS = (PRETRAIN_EPOCHS + JOINT_EPOCHS) * BATCHES
UNNAMED = "${now:%Y}"  # the name of a directory that is made from the time, as by default


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of a second with everything in it: images, so augmentation; labels; more clusters than stay alive."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=digits.images[:200], y=digits.target[:200])
    return [
        "data=npz",
        f"data.path={path}",
        "data.labels=y",
        "model.hidden=[16]",
        "batch_size=50",
        "recipe=classic",
        f"pretrain.epochs={PRETRAIN_EPOCHS}",
        f"joint.epochs={JOINT_EPOCHS}",
        "joint.tolerance=0",
        "joint.lr=0.01",
        "evaluation.every_epochs=2",
        "clustering.n_init=3",
        "checkpoint.every_s=0",
        "log.figures=false",
        "log.report=false",
        "log.to=[csv]",
    ]


@pytest.fixture(scope="module")
def reference(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    run = tmp_path_factory.mktemp("reference") / "run"
    finished = train([*overrides, *EVERYTHING, f"hydra.run.dir={run}"], run.parent / "log")
    assert finished.code == 0, finished.err
    return run


@pytest.fixture(scope="module")
def whole(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that trains a method of ``METHODS`` once, without checkpoints, and returns the run."""

    @functools.cache
    def trained(method: str) -> Path:
        run = tmp_path_factory.mktemp("whole") / "run"
        finished = start([*overrides, *METHODS[method], "checkpoint.every_s=1000"], run, None)
        assert finished.code == 0, finished.err
        return run

    return trained


def start(overrides: list[str], run: Path, point: Point | None) -> Finished:
    return train([*overrides, f"hydra.run.dir={run}"], run.parent / "log", point)


def resume(run: Path, point: Point | None = None, *more: str) -> Finished:
    return train([f"resume={run}", *more], run.parent / "log", point)


def assert_same(run: Path, reference: Path, *more: str) -> None:
    written.assert_same(run, reference, "metrics.csv", *more)


POINTS = {
    "before the first step": Point(*OPTIMIZER, 1),
    "in the first epoch of pretraining": Point(*OPTIMIZER, 3),
    "between two epochs of pretraining": Point("dkm.data.batches", "batch_indices", 2),
    "in the last step of pretraining": Point(*OPTIMIZER, PRETRAIN_EPOCHS * BATCHES, after=True),
    "in the first epoch of the joint phase": Point(*OPTIMIZER, PRETRAIN_EPOCHS * BATCHES + 2),
    "in the middle of the joint phase": Point(*OPTIMIZER, PRETRAIN_EPOCHS * BATCHES + 11),
    "in the last step": Point(*OPTIMIZER, STEPS, after=True),
    "in k-means on the raw data": Point("dkm.training.baseline", "kmeans", 1),
    "in k-means on the embedding": Point("dkm.clustering.initialization", "kmeans_restarts", 1),
    "in the evaluation of pretraining": Point("dkm.training.records", "embedding_variance", 2),
    "in the evaluation of the joint phase": Point("dkm.evaluation.evaluator:Evaluator", "scores", 4),
    "after new assignments": Point("dkm.clustering.losses.kmeans:KMeansClustering", "end_epoch", 2, after=True),
    "after a record was written": Point("dkm.runs.directory:RunDirectory", "append_metrics", 3, after=True),
    "in the manifest's write": Point("os", "fsync", 9),
    "in the first checkpoint's write": Point("os", "fsync", 14),
    "in a checkpoint's write": Point("dkm.runtime.checkpoints", "write_atomically", 9),
    "while checkpoints are moved on": Point("os", "link", 5, after=True),
    "before the result": Point("dkm.runs.directory:RunDirectory", "write_result", 1),
    "between result and assignments": Point("dkm.runs.directory:RunDirectory", "write_assignments", 1),
    "before the model is written": Point("dkm.models.saved:SavedModel", "save", 1),
}
WITH_REPORT = ("in the middle of the joint phase", "before the result", "before the model is written")


# Moments that the code reaches by the way of another point.
RARE_POINTS = (
    *("in the first epoch of pretraining", "in the first epoch of the joint phase"),
    *("in the evaluation of pretraining", "between result and assignments"),
)


def slow_if(rare: Collection[str], names: Iterable[str]) -> list[Any]:
    """Return the names as parameters, those that are ``rare`` for ``-m slow`` only."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in rare else name for name in names]


def test_a_run_is_not_completed_before_its_report(overrides: list[str], reference: Path, tmp_path: Path) -> None:
    """Otherwise ``resume=auto`` of a sweep would pass over a run that was killed while it wrote the report."""
    run = tmp_path / "run"
    assert start([*overrides, *EVERYTHING], run, Point("dkm.reports.page", "write_report", 1)).code == -signal.SIGKILL
    assert json.loads((run / "manifest.json").read_text())["status"] != "completed"
    assert not (run / "report.html").exists()
    assert resume(run).code == 0
    assert_same(run, reference, "report.html")


@pytest.mark.parametrize("when", slow_if(RARE_POINTS, POINTS))
def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(
    when: str, overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    has_report = when in WITH_REPORT
    assert start([*overrides, *(EVERYTHING if has_report else [])], run, POINTS[when]).code == -signal.SIGKILL
    finished = resume(run)
    assert finished.code == 0, finished.err
    assert_same(run, reference, *(["report.html"] if has_report else []))


METHODS = {
    "dkm": ["clustering=dkm", "clustering.schedule=annealed", "clustering.epochs_per_alpha=2"],
    "dcn": ["clustering=dcn"],
    "dec": ["clustering=dec", "clustering.update_interval=3"],
    "idec": ["clustering=idec"],
    "self-paced means": ["clustering.self_paced=true", "clustering.centroids=mean", "clustering.reconstruction=0"],
    "resets": ["clustering.reset_every=2", "clustering.initial_epochs=2"],
    "averaged weights": ["joint.average_epochs=2", "clustering.centroids=mean"],
}


# "idec" has targets too; resets and averaged weights are cut in tests of their own below.
@pytest.mark.parametrize("method", slow_if(("dec", "resets", "averaged weights"), METHODS))
def test_each_method_resumes_to_the_same_bytes(
    method: str, overrides: list[str], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    middle = Point(*OPTIMIZER, (PRETRAIN_EPOCHS + 2) * BATCHES + 3)  # the third epoch of the joint phase
    assert start([*overrides, *METHODS[method]], cut, middle).code == -signal.SIGKILL
    finished = resume(cut)
    assert finished.code == 0, finished.err
    assert_same(cut, whole(method))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.thorough
def test_a_reset_is_made_whole_or_not_at_all(
    number: int, overrides: list[str], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    # The weights are mixed, the new clusters not yet found.
    finished = start(
        [*overrides, *METHODS["resets"]], cut, Point("dkm.clustering.initialization", "cluster_again", 2, number)
    )
    assert finished.code == (130 if number == signal.SIGINT else -number)
    finished = resume(cut)
    assert finished.code == 0, finished.err
    assert_same(cut, whole("resets"))
    assert (whole("resets") / "train.log").read_text(encoding="utf-8").count("clustered again") == 2


@pytest.mark.thorough
def test_centroids_that_an_interrupted_evaluation_had_set_stay_set(
    overrides: list[str], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """The pass that set them, within averaged weights, is not made again."""
    cut = tmp_path / "cut"
    point = Point("dkm.evaluation.evaluator:Evaluator", "scores", 4, signal.SIGINT)
    assert start([*overrides, *METHODS["averaged weights"]], cut, point).code == 130
    finished = resume(cut)
    assert finished.code == 0, finished.err
    assert_same(cut, whole("averaged weights"))


def test_a_reset_is_not_made_twice_where_its_first_step_fails(
    overrides: list[str], whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = tmp_path / "cut"
    words = [*overrides, *METHODS["resets"], "log.progress=off"]
    with monkeypatch.context() as patched:
        epoch = MemoryBatches.epoch

        def changed(batches: MemoryBatches, phase_idx: int, number: int, first: int = 0) -> Any:
            if (phase_idx, number) == (1, 2):
                raise UserError("the data changed")
            return epoch(batches, phase_idx, number, first)

        patched.setattr(MemoryBatches, "epoch", changed)
        with pytest.raises(UserError, match="the data changed"):
            main([*words, f"hydra.run.dir={cut}"])
    assert main([f"resume={cut}", "log.progress=off"]) == 0
    assert_same(cut, whole("resets"))


def test_labels_that_settle_before_a_reset_do_not_end_the_run(overrides: list[str], tmp_path: Path) -> None:
    words = [
        "joint.tolerance=0.99",
        "clustering.reset_every=3",
        "log.progress=off",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    assert main([*overrides, *words]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["joint_epochs"] == 4  # the reset comes before the fourth epoch, and after it they may settle


@pytest.mark.parametrize("every_s", ["0", "1000"])
@pytest.mark.thorough
def test_a_run_killed_many_times_in_a_row_resumes_to_the_same_bytes(
    every_s: str, overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    draw = random.Random(int(every_s))
    longest = 8
    kinds = [OPTIMIZER, ("os", "fsync")]
    command = [*overrides, f"hydra.run.dir={run}", f"checkpoint.every_s={every_s}"]
    n_kills = 0
    while n_kills < 4:
        owner, name = draw.choice(kinds)
        point = Point(owner, name, draw.randint(2, longest), after=draw.random() < 0.5)
        finished = train(command, tmp_path / "log", point)
        n_kills += finished.code == -signal.SIGKILL
        if (run / "config.yaml").exists():
            command = [f"resume={run}"]
        if finished.code == 0:  # came to its end before the point: nothing is left to kill
            break
    assert n_kills >= 2
    finished = resume(run)
    assert finished.code == 0, finished.err
    assert_same(run, reference)


# The handler of both signals is one; it is asked from the same places.
@pytest.mark.parametrize(
    ("when", "number"),
    [
        *((when, signal.SIGINT) for when in ("in a step", "in the evaluation", "in k-means")),
        ("in a step", signal.SIGTERM),
        *(pytest.param(when, signal.SIGTERM, marks=pytest.mark.slow) for when in ("in the evaluation", "in k-means")),
    ],
)
def test_a_signal_writes_a_checkpoint_and_exits_with_130(
    when: str, number: int, overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    point = {
        "in a step": Point(*OPTIMIZER, 7, number),
        "in the evaluation": Point("dkm.evaluation.evaluator:Evaluator", "scores", 3, number),
        "in k-means": Point("dkm.clustering.initialization", "kmeans_restarts", 1, number),
    }[when]
    # No checkpoint but the one that the signal asks for.
    finished = start([*overrides, "checkpoint.every_s=1000"], run, point)
    assert finished.code == 130
    assert finished.err.count("\n") == 1
    assert f"resume={run}" in finished.err
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    finished = resume(run)
    assert finished.code == 0, finished.err
    if when == "in a step":
        assert "resumed in pretrain at epoch 1, batch 3, step 7" in finished.out
    assert_same(run, reference)


def test_a_signal_ends_a_sweep_and_not_only_its_first_run(overrides: list[str], tmp_path: Path) -> None:
    sweep = ["--multirun", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    finished = train([*overrides, *sweep], tmp_path / "log", Point(*OPTIMIZER, 7, signal.SIGINT))
    assert finished.code == 130
    assert json.loads((tmp_path / "sweep" / "0" / "manifest.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "sweep" / "1").exists()


def test_a_finished_run_resumes_to_itself(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    assert resume(run).code == 0
    assert_same(run, reference, "report.html")


@pytest.mark.parametrize("damage", ["torn", "altered", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert start(overrides, run, Point(*OPTIMIZER, 20)).code == -signal.SIGKILL
    last = run / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "torn":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
    else:
        last.unlink()
    finished = resume(run)
    assert finished.code == 0, finished.err
    if damage != "missing":
        assert "last.pt: damaged or altered" in finished.err
        assert "going back to" in finished.err
    assert_same(run, reference)


@pytest.mark.thorough
def test_tensorboard_has_no_doubled_steps_after_resumes(overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # Killed after events were written that the last checkpoint does not know of.
    slow = [*overrides, *EVERYTHING, "checkpoint.every_s=1000"]
    assert (
        start(slow, run, Point("dkm.runs.directory:RunDirectory", "append_metrics", 2, after=True)).code
        == -signal.SIGKILL
    )
    assert (
        resume(run, Point("dkm.runs.directory:RunDirectory", "append_metrics", 4, after=True)).code == -signal.SIGKILL
    )
    assert resume(run).code == 0
    assert scalars_of(run) == scalars_of(reference)


def scalars_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    measured = ("/throughput/", "/time/")  # of the clock
    tags = [tag for tag in events.Tags()["scalars"] if not any(part in tag for part in measured)]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def test_more_joint_epochs_continue_a_finished_run(overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    every = "evaluation.every_epochs=1"
    assert start([*overrides, every, "joint.epochs=2"], run, None).code == 0
    finished = resume(run, None, f"joint.epochs={JOINT_EPOCHS}")
    assert finished.code == 0, finished.err
    assert (run / "assignments.csv").read_bytes() == (reference / "assignments.csv").read_bytes()
    assert (run / "result.json").read_bytes() == (reference / "result.json").read_bytes()


@pytest.mark.thorough
def test_a_longer_run_that_is_killed_goes_on_to_its_new_end(
    overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    """Its ``config.yaml`` is the one that it goes on with."""
    run = tmp_path / "run"
    every = "evaluation.every_epochs=1"
    assert start([*overrides, every, "joint.epochs=2"], run, None).code == 0
    killed = resume(run, Point(*OPTIMIZER, 5), f"joint.epochs={JOINT_EPOCHS}")
    assert killed.code == -signal.SIGKILL
    assert resume(run).code == 0
    assert (run / "result.json").read_bytes() == (reference / "result.json").read_bytes()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["samples_per_second"].keys() == {"pretrain", "joint"}  # that of the first process is kept


NOT_LONGER = {
    "clustering.self_paced=true": ("joint.epochs=9", "as with clustering.self_paced=true they say how fast"),
    "pretrain.schedule=constant": ("pretrain.epochs=9", "as the pretraining of RUN has ended; leave the override out"),
}


@pytest.mark.parametrize("setting", NOT_LONGER)
def test_what_would_change_steps_already_taken_is_not_made_longer(
    setting: str, overrides: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert start([*overrides, setting], run, None).code == 0
    override, line = NOT_LONGER[setting]
    refused = resume(run, None, override)
    assert refused.code == 2
    assert refused.err.startswith(f"error: {override}: expected ")
    assert line.replace("RUN", str(run)) in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.thorough
def test_auto_finds_the_unfinished_run_of_the_same_config(
    overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run, other = tmp_path / "one", tmp_path / "other"
    assert start(overrides, run, Point(*OPTIMIZER, 20)).code == -signal.SIGKILL
    assert start([*overrides, "seed=1"], other, Point(*OPTIMIZER, 20)).code == -signal.SIGKILL
    finished = start([*overrides, "resume=auto"], tmp_path / UNNAMED, None)
    assert finished.code == 0, finished.err
    assert {path.name for path in tmp_path.iterdir() if (path / "config.yaml").exists()} == {"one", "other"}
    assert_same(run, reference)
    assert json.loads((other / "manifest.json").read_text())["status"] == "running"


def test_auto_starts_anew_where_there_is_nothing_to_resume(
    overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert start([*overrides, "resume=auto"], run, None).code == 0
    assert_same(run, reference)


@pytest.mark.thorough
def test_a_run_in_which_a_process_is_training_is_left_alone(
    overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    """Two processes would write over each other's files: neither by name nor by resume=auto is it taken up."""
    run, new = tmp_path / "one", tmp_path / "new"
    assert start(overrides, run, Point(*OPTIMIZER, 20)).code == -signal.SIGKILL
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with (run / "run.lock").open("a") as lock:
        assert try_lock(lock)
        assert reading.is_in_use(run)
        finished = resume(run)
        assert finished.code == 2
        assert finished.err.startswith(
            f"error: resume={run}: expected a run that has ended, a process is training in it"
        )
        finished = start([*overrides, "resume=auto"], new, None)
        assert finished.code == 0, finished.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert_same(new, reference)
    assert not reading.is_in_use(run)
    assert resume(run).code == 0
    assert_same(run, reference)


def test_a_run_is_in_use_while_it_trains(overrides: list[str], tmp_path: Path) -> None:
    seen = []

    class Watching(RunDirectory):
        def write_result(self, result: Any) -> None:
            seen.append(reading.is_in_use(self.path))
            super().write_result(result)

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dkm.runs.directory.RunDirectory", Watching)
        assert main([*overrides, f"hydra.run.dir={run}"]) == 0
    assert seen == [True]
    assert not reading.is_in_use(run)
    assert not reading.is_in_use(tmp_path / "nothing")
