"""``dkm.tune``: what it varies, which trials it runs, what a kill leaves, and every refusal."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.image import imread
from written import rows_of

from dkm import tune
from dkm.config.commands import TuneConfig
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS
from dkm.errors import Failure, UserError
from dkm.runs import reading
from dkm.runtime.locks import try_lock
from dkm.search import pool, server, trials
from dkm.search import study as study_module
from dkm.search.space import Choices, Interval, space_of
from dkm.search.study import _current_settings, _default_space, _make_whole, plan_study

optuna = pytest.importorskip("optuna")

QUICK = [
    *("data=blobs", "data.n_samples=300", "data.n_blobs=4", "data.n_features=6", "model.hidden=[16]"),
    *(
        "recipe=classic",
        "pretrain.epochs=3",
        "joint.epochs=4",
        "joint.tolerance=0",
        "clustering.n_init=2",
        "evaluation.every_epochs=1",
    ),
]


def table(folder: Path) -> list[dict[str, str]]:
    return rows_of(folder / "tune.csv")


# --- what varies ---


def test_hydras_words_for_sweeps_make_the_space() -> None:
    words = [
        "a=1,2,x",
        "b=range(2,8,3)",
        "c=interval(1,3)",
        "d=tag(log,interval(0.1,10))",
        "e=int(interval(1,4))",
        "f=3",
    ]
    space, fixed = space_of([*words, "g=[1,2],[3]", "h=[1,2]"])
    assert space == {
        "a": Choices(("1", "2", "x")),
        "b": Choices(("2", "5")),
        "c": Interval(1.0, 3.0, is_log=False, is_int=False),
        "d": Interval(0.1, 10.0, is_log=True, is_int=False),
        "e": Interval(1, 4, is_log=False, is_int=True),
        "g": Choices(("[1,2]", "[3]")),
    }
    assert fixed == ["f=3", "h=[1,2]"]


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        (Choices(("0.1", "1")), 0.1, "0.1"),
        (Choices(("true", "false")), True, "true"),
        (Choices(("[1,2]", "[3]")), [1, 2], "[1,2]"),
        (Choices(("a", "b")), "c", None),
        (Interval(0.1, 1.0, False, False), 0.1, 0.1),
        (Interval(0.1, 1.0, False, False), 2.0, None),
        (Interval(0.1, 1.0, False, False), None, None),
        (Interval(0, 1, False, True), True, None),
        (Choices(("1", "2")), 1.0, "1"),
        (Choices(("1e-3",)), 0.001, "1e-3"),
        (Choices(("null", "5")), None, "null"),
    ],
)
def test_a_setting_as_it_is_is_found_in_the_space(
    dimension: Choices | Interval, value: object, expected: object
) -> None:
    assert dimension.holds(value) == expected


def test_an_interval_of_a_whole_number_is_one_of_whole_numbers() -> None:
    space: dict[str, Any] = {
        "clustering.n_init": Interval(1.5, 6.0, is_log=False, is_int=False),
        "clustering.n_clusters": Interval(2.0, 5.0, is_log=False, is_int=False),  # null as it is
        "clustering": Choices(("kmeans", "dkm")),
    }
    _make_whole(space)
    start = _current_settings(space, QUICK)
    assert space["clustering.n_init"] == Interval(2, 6, is_log=False, is_int=True)
    assert space["clustering.n_clusters"] == Interval(2, 5, is_log=False, is_int=True)
    assert start == {"clustering.n_init": 2, "clustering.n_clusters": None, "clustering": "kmeans"}


@pytest.mark.parametrize("method", [name for name in GROUPS["clustering"] if name != "custom"])
@pytest.mark.thorough
def test_what_varies_where_nothing_is_said_fits_every_method(method: str, tmp_path: Path) -> None:
    """Before, `none` was refused, and `dkm` had its default weight outside of what was searched."""
    plan = plan_study(TuneConfig(), tmp_path, [*QUICK, f"clustering={method}"])
    assert plan.start is not None  # which is searched first, so that the answer can say what was gained
    assert "clustering.init" in plan.space
    assert ("clustering.weight" in plan.space) == (method not in ("none", "dec"))  # of dec it scales the whole loss
    assert ("joint.lr" in plan.space) == (method != "none")


def test_the_k_means_loss_is_searched_as_ever() -> None:
    """A study that was begun earlier goes on."""
    assert _default_space(compose(parse(QUICK)).config) == [
        "clustering.weight=tag(log,interval(0.1,10))",
        "clustering.init=k-means++,auto",
        "joint.lr=tag(log,interval(0.00003,0.001))",
    ]


def test_without_regularization_its_strength_is_not_searched(tmp_path: Path) -> None:
    words = [*QUICK, "clustering=none", "regularization=none"]
    assert list(plan_study(TuneConfig(), tmp_path, words).space) == ["pretrain.lr", "clustering.init"]


# --- a study ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of choices, one of which every trial fails with: a rate that diverges."""
    path = tmp_path_factory.mktemp("tune") / "out"
    tune.work(["trials=9", f"output={path}", "joint.lr=0.0001,1e30", *QUICK])
    return path


@pytest.mark.thorough
def test_a_space_of_choices_is_run_through_once_the_settings_as_they_are_first(folder: Path) -> None:
    rows = table(folder)
    assert [row["joint.lr"] for row in rows] == ["0.0001", "1e+30"]
    assert [row["state"] for row in rows] == ["complete", "fail"]


def test_a_trial_is_a_run_and_the_objective_its_score(folder: Path) -> None:
    run = reading.read(folder / "trials" / "0")
    assert run.is_completed
    assert float(table(folder)[0]["modularity_data"]) == pytest.approx(run.scores["modularity_data"])
    assert len(list((folder / "cache").glob("pretrained-*.pt"))) == 1


def test_a_failed_trial_says_why_and_ends_nothing(folder: Path) -> None:
    assert "expected finite losses" in table(folder)[1]["error"]
    assert reading.read(folder / "trials" / "1").status == "failed"


def test_the_answer_is_the_best_completed_trial(folder: Path) -> None:
    answer = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    assert answer["best"]["trial"] == 0
    assert answer["best"]["settings"] == {"joint.lr": "0.0001"}
    assert answer["trials"] == {"complete": 1, "pruned": 0, "fail": 1}
    assert answer["labels_chose"] is False
    assert imread(folder / "tune.png").shape[1] > 500


def test_a_finished_study_is_only_told_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "_build_run", pytest.fail)
    before = (folder / "tune.csv").read_bytes()
    tune.work(["trials=9", f"output={folder}", "joint.lr=0.0001,1e30", *QUICK])
    assert (folder / "tune.csv").read_bytes() == before
    out = capsys.readouterr().out
    assert "the current settings: 0." in out
    assert out.splitlines()[-1].startswith(
        "The best of many is partly luck; repeat it over seeds: python -m dkm.train --multirun"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["joint.lr=0.0001,0.01", *QUICK], "the study there has space"),
        (["joint.lr=0.0001,1e30", *QUICK, "batch_size=32"], "nothing where this call has batch_size=32"),
        (["joint.lr=0.0001,1e30", *QUICK, "objective=silhouette"], 'the study there has objective "modularity'),
    ],
)
def test_another_study_in_the_folder_is_refused_and_kept(folder: Path, words: list[str], expected: str) -> None:
    before = (folder / "study.db").read_bytes()
    with pytest.raises(UserError) as caught:
        tune.work(["trials=9", f"output={folder}", *words])
    assert expected in str(caught.value)
    assert (folder / "study.db").read_bytes() == before


def test_a_study_that_another_process_is_at_is_refused(folder: Path) -> None:
    with (folder / "study.lock").open("ab") as file:
        assert try_lock(file)
        with pytest.raises(UserError, match="expected a folder that no other process uses"):
            tune.work(["trials=9", f"output={folder}", "joint.lr=0.0001,1e30", *QUICK])


@pytest.mark.slow
def test_a_killed_study_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The trials are those of a study that was left alone, the one under way among them."""
    words = ["trials=3", *QUICK, "clustering.weight=tag(log,interval(0.1,10))", "joint.epochs=8", "prune=false"]
    tune.work([*words, f"output={tmp_path / 'whole'}"])
    command = [sys.executable, "-m", "dkm.tune", *words, f"output={tmp_path / 'killed'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    under_way = tmp_path / "killed" / "trials" / "1" / reading.METRICS
    deadline = time.monotonic() + 120
    while not under_way.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert under_way.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    tune.work([*words, f"output={tmp_path / 'killed'}"])
    whole, killed = (
        [(r["state"], r["modularity_data"], r["clustering.weight"]) for r in table(tmp_path / name)]
        for name in ("whole", "killed")
    )
    assert killed == whole


@pytest.mark.thorough
def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "dkm.tune", "trials=2", f"output={folder}", *QUICK, "joint.epochs=5000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    under_way = folder / "trials" / "0" / reading.METRICS
    deadline = time.monotonic() + 120
    while not under_way.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode() == f"interrupted: the same command with output={folder} resumes it\n"
    assert reading.read(folder / "trials" / "0").status == "interrupted"


class Trials:
    """Stands for the runs: writes what a run would, by the weight that it was given."""

    def __init__(self, command: list[str], **_: Any) -> None:
        given = dict(word.partition("=")[::2] for word in command[3:])
        (place,) = [word for word in command if word.startswith("hydra.run.dir=")]
        self.directory = Path(str(OverridesParser.create().parse_override(place).value()))
        self.weight = float(given["clustering.weight"])
        self.directory.mkdir(parents=True, exist_ok=True)
        # What is bad in the first epochs recovers later.
        values = {0: -self.weight, 1: -self.weight, 2: 0.0, 4: -self.weight}
        records = [{"phase": "joint", "epoch": e, "metrics/modularity_data": value} for e, value in values.items()]
        (self.directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (self.directory / "config.yaml").write_text("seed: 0\njoint: {epochs: 4}\n")
        (self.directory / "manifest.json").write_text('{"status": "completed"}')
        (self.directory / "result.json").write_text(json.dumps({"modularity_data": -self.weight, "acc": 0.5}))
        self.signals: list[int] = []
        self.returncode = 0

    def poll(self) -> int:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.returncode = 130


def stand_in(monkeypatch: pytest.MonkeyPatch, runs_are: Any) -> None:
    """Let what stands for the runs be started in their place; nobody else's processes."""
    monkeypatch.setattr(pool, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": runs_are}))
    monkeypatch.setattr(server, "IS_AVAILABLE", False)


class Failing(Trials):
    """Stands for a run that fails, beside warnings."""

    def __init__(self, command: list[str], **streams: Any) -> None:
        super().__init__(command)
        os.write(streams["stderr"], b"warning: slow\nerror: no space left\nand more\n")
        self.returncode = 1


@pytest.mark.thorough
def test_a_trial_worse_than_the_median_is_pruned_after_the_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began: list[Trials] = []
    stand_in(monkeypatch, lambda *a, **k: began.append(Trials(*a, **k)) or began[-1])
    weights = ",".join(map(str, range(1, 8)))
    tune.work(["trials=20", f"output={tmp_path / 'out'}", *QUICK, f"clustering.weight={weights}"])
    rows = table(tmp_path / "out")
    by_weight = {row["clustering.weight"]: row["state"] for row in rows}
    # The settings as they are, 0.1, are no point of the space: 1 to 5 complete, and 6 is worse than their median.
    assert [by_weight[str(weight)] for weight in range(1, 8)] == ["complete"] * 5 + ["pruned"] * 2
    assert [trial.signals for trial in began] == [[]] * 5 + [[signal.SIGTERM]] * 2
    assert "trial 6: pruned in epoch 1; clustering.weight=" in capsys.readouterr().out  # the warm-up is epoch 0
    study = optuna.load_study(study_name="dkm", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    assert list(study.trials[6].intermediate_values) == [0, 1]


class Settled(Trials):
    """Stands for a run whose labels settle in epoch 1, or have not quite by then."""

    label_change = 0.0

    def __init__(self, command: list[str], **streams: Any) -> None:
        super().__init__(command, **streams)
        (self.directory / "config.yaml").write_text("seed: 0\njoint: {epochs: 4, tolerance: 0.001}\n")
        lines = [json.loads(line) for line in (self.directory / "metrics.jsonl").read_text().splitlines()[:2]]
        records = [line | {"clusters/label_change": self.label_change} for line in lines]
        (self.directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


class NotYet(Settled):
    label_change = 0.001


@pytest.mark.parametrize(("runs_are", "expected"), [(Settled, {"complete"}), (NotYet, {"complete", "pruned"})])
@pytest.mark.thorough
def test_a_trial_that_settles_is_at_its_end_and_not_pruned(
    runs_are: type[Trials], expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, runs_are)
    weights = ",".join(map(str, range(1, 8)))
    tune.work(["trials=20", f"output={tmp_path / 'out'}", *QUICK, f"clustering.weight={weights}"])
    assert {row["state"] for row in table(tmp_path / "out")} == expected


class Long(Trials):
    """Stands for a run with the joint epochs that it was given."""

    def __init__(self, command: list[str], **streams: Any) -> None:
        super().__init__(command, **streams)
        (n_epochs,) = [word.partition("=")[2] for word in command if word.startswith("joint.epochs=")][-1:]
        (self.directory / "config.yaml").write_text(f"seed: 0\njoint: {{epochs: {n_epochs}}}\n")


@pytest.mark.parametrize("epochs", ["4,40", "40,4"])
@pytest.mark.thorough
def test_the_warm_up_is_that_of_a_trials_own_epochs(
    epochs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the choice that happens to come last: trials of 40 epochs were pruned in epoch 1."""
    stand_in(monkeypatch, Long)
    monkeypatch.setattr(pool, "POLL_S", 0.0)
    words = [word for word in QUICK if not word.startswith("joint.epochs")]
    weights = ",".join(map(str, range(1, 8)))
    tune.work(
        ["trials=20", f"output={tmp_path / 'out'}", *words, f"joint.epochs={epochs}", f"clustering.weight={weights}"]
    )
    states = {n: {row["state"] for row in table(tmp_path / "out") if row["joint.epochs"] == n} for n in ("4", "40")}
    assert states == {"4": {"complete", "pruned"}, "40": {"complete"}}


def test_a_trial_is_pruned_neither_in_its_warm_up_nor_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\njoint: {epochs: 20, tolerance: 0}\n")
    assert [trials._may_be_pruned(tmp_path, epoch) for epoch in (3, 4, 19, 20)] == [False, True, True, False]


def test_a_trial_whose_guard_may_raise_its_score_is_not_pruned(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\njoint: {epochs: 20, tolerance: 0, guard: true}\n")
    assert not any(trials._may_be_pruned(tmp_path, epoch) for epoch in range(1, 21))


def test_trials_whose_length_is_in_steps_are_pruned_by_their_epochs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\njoint: {epochs: null, steps: 60, tolerance: 0}\n")
    assert not trials._may_be_pruned(tmp_path, 4)  # it has not begun
    (tmp_path / "manifest.json").write_text(json.dumps({"epochs": {"pretrain": 7, "joint": 20}}))
    assert [trials._may_be_pruned(tmp_path, epoch) for epoch in (3, 4, 19, 20)] == [False, True, True, False]


@pytest.mark.thorough
def test_the_default_recipe_is_searched(tmp_path: Path) -> None:
    words = ["data=blobs", "data.n_samples=120", "model.hidden=[8]", "pretrain.steps=10", "joint.steps=20"]
    tune.work(["trials=2", f"output={tmp_path / 'out'}", *words, "evaluation.every_epochs=1", "device=cpu"])
    rows = table(tmp_path / "out")
    assert len(rows) == 2
    assert {row["state"] for row in rows} <= {"complete", "pruned"}


@pytest.mark.parametrize("number", [12, None])
@pytest.mark.thorough
def test_a_study_that_is_stopped_at_any_trial_has_the_trials_of_one_that_is_not(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More trials than Optuna's sampler needs to learn from; stopped as this one ends, None: the first to be pruned."""
    stand_in(monkeypatch, Trials)
    monkeypatch.setattr(pool, "POLL_S", 0.0)
    words = ["trials=16", *QUICK, "clustering.weight=tag(log,interval(0.1,10))"]
    tune.work([*words, f"output={tmp_path / 'whole'}"])
    whole = table(tmp_path / "whole")
    assert {row["state"] for row in whole} == {"complete", "pruned"}
    if number is None:
        number = next(int(row["trial"]) for row in whole if row["state"] == "pruned")
    finish = trials._finish_trial

    def stop(study: trials.Study, one: trials.TrialRun) -> None:
        if one.trial.number == number:
            raise KeyboardInterrupt
        finish(study, one)

    monkeypatch.setattr(trials, "_finish_trial", stop)
    with pytest.raises(KeyboardInterrupt, match="the same command with output="):
        tune.work([*words, f"output={tmp_path / 'stopped'}"])
    monkeypatch.setattr(trials, "_finish_trial", finish)
    tune.work([*words, f"output={tmp_path / 'stopped'}"])
    assert table(tmp_path / "stopped") == whole


@pytest.mark.thorough
def test_a_run_that_outlived_its_study_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, Trials)
    monkeypatch.setattr(trials, "_finish_trial", lambda study, one: 1 / 0)
    words = ["trials=2", f"output={tmp_path / 'out'}", *QUICK, "clustering.weight=1,2"]
    with pytest.raises(ZeroDivisionError):
        tune.work(words)
    monkeypatch.undo()
    stand_in(monkeypatch, Trials)
    log = (tmp_path / "out" / "trials" / "0.log").open("ab")
    assert try_lock(log)
    monkeypatch.setattr(trials.time, "sleep", lambda seconds: seconds == trials.POLL_S and log.close())
    tune.work(words)
    assert "trial 0: still trains in an earlier process; waiting for it" in capsys.readouterr().out
    assert [row["state"] for row in table(tmp_path / "out")] == ["complete"] * 2


@pytest.mark.thorough
def test_a_run_that_somebody_else_interrupts_goes_on_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Trials):
        def __init__(self, command: list[str], **streams: Any) -> None:
            super().__init__(command)
            self.returncode = 130

    words = ["trials=2", f"output={tmp_path / 'out'}", *QUICK, "clustering.weight=1,2"]
    stand_in(monkeypatch, Interrupted)
    with pytest.raises(KeyboardInterrupt, match="trial 0 was stopped from outside; the same command"):
        tune.work(words)
    stand_in(monkeypatch, Trials)
    tune.work(words)
    assert [row["state"] for row in table(tmp_path / "out")] == ["complete"] * 2


@pytest.mark.thorough
def test_more_trials_of_a_space_of_choices_are_other_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Trials)
    monkeypatch.setattr(pool, "POLL_S", 0.0)
    words = [f"output={tmp_path / 'out'}", *QUICK, "clustering.weight=1,2,3", "clustering.init=gmm,ward,k-means++"]
    for n_trials, n_seen in ((5, 5), (8, 8), (20, 9)):
        tune.work([f"trials={n_trials}", *words])
        seen = [(row["clustering.weight"], row["clustering.init"]) for row in table(tmp_path / "out")]
        assert len(seen) == len(set(seen)) == n_seen


@pytest.mark.thorough
def test_a_comma_in_the_path_is_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Trials)
    answer = tune.tune(TuneConfig(trials=2, output=str(tmp_path / "a, 'b'")), [*QUICK, "clustering.weight=1,2"])
    assert list(answer["best"]["settings"]) == ["clustering.weight"]


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Trials)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device", "study.db")

    monkeypatch.setattr(trials, "_report_scores", fail)
    with pytest.raises(Failure, match=r"study\.db: No space left on device; what was written before is kept"):
        tune.work([f"output={tmp_path / 'out'}", *QUICK, "clustering.weight=1,2"])
    assert (tmp_path / "out" / "study.db").exists()


@pytest.mark.slow
def test_two_at_a_time_begin_when_the_first_has_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, they would make the same pretraining side by side."""
    words = ["trials=3", f"output={tmp_path / 'out'}", "jobs=2", *QUICK, "clustering.weight=0.1,0.2,0.3"]
    tune.work(words)
    manifests = [json.loads((tmp_path / "out" / "trials" / str(n) / "manifest.json").read_text()) for n in range(3)]
    assert [bool(manifest.get("pretrained_by")) for manifest in manifests] == [False, True, True]
    assert [row["state"] for row in table(tmp_path / "out")] == ["complete"] * 3


# --- labels ---


@pytest.mark.thorough
def test_labels_choose_only_when_told_to_and_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"objective=acc: expected a score that needs no labels.*allow_labels=true"):
        tune.work(["objective=acc", *QUICK])
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(60, 4)))
    words = ["data=npy", f"data.path={tmp_path}/X.npy", "clustering.n_clusters=3", *QUICK[4:]]
    with pytest.raises(UserError, match=r"objective=acc: expected data with labels, got data=npy without"):
        tune.work(["objective=acc", "allow_labels=true", f"output={tmp_path / 'out'}", *words])
    assert not (tmp_path / "out").exists()
    stand_in(monkeypatch, Trials)
    output = tmp_path / "out"
    answer = tune.tune(
        TuneConfig(trials=1, output=str(output), objective="acc", allow_labels=True), [*QUICK, "clustering.weight=1,2"]
    )
    assert "LABELS CHOOSE" in capsys.readouterr().err
    assert answer["labels_chose"] is True
    assert answer["best"]["value"] == 0.5


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trials=0"], "trials=0: expected a whole number, 1 or more"),
        (["jobs=0"], "jobs=0: expected a whole number, 1 or more"),
        (["objective=inertia"], "objective=inertia: expected one of modularity_data, silhouette"),
        (["resume=auto"], "resume=auto: expected no such key"),
        (["--multirun"], "--multirun: expected KEY=VALUE"),
        (["clustering.weigth=1,2"], "clustering.weigth"),
        (["clustering.weight=1,-2"], "clustering.weight=-2"),
        (
            ["clustering.n_init=interval(1.2,1.8)"],
            "clustering.n_init=interval(1.2,1.8): expected an interval with whole",
        ),
        (["clustering.weight=interval(2,1)"], "clustering.weight=interval(2,1): expected an interval that goes up"),
        (
            ["clustering.weight=tag(log,interval(0,1))"],
            "clustering.weight=tag(log,interval(0,1)): expected a logarithmic",
        ),
        (["clustering.weight=glob(*)"], "clustering.weight=glob(*): expected choices"),
        (["clustering.weight=shuffle(1,2)"], "clustering.weight=shuffle(1,2): expected no shuffle"),
        (["trials=--5"], "trials=--5: expected a whole number"),
        (["clustering.weight=1,2", "clustering.weight=3,4"], "clustering.weight=3,4: expected each key once"),
        (
            ["clustering.weight=1", "clustering.init=gmm", "joint.lr=0.001"],
            "evaluation.every_epochs=1: expected a setting",
        ),
        (["clustering=kmeans,kmean"], "clustering=kmean: expected one of"),
        *(
            (
                [f"clustering.n_clusters={value}"],
                "clustering.n_clusters=auto:3-5: expected a number, as each trial would find one of its own; for "
                "example clustering.n_clusters=10",
            )
            for value in ("auto:3-5", "4,auto:3-5")
        ),
        (["trial=3"], "trial=3: expected a key of this command or of dkm train; did you mean trials?"),
        (["seed=interval(0,"], "seed=interval(0,: expected an override KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        tune.work([*words, *QUICK])
    assert str(caught.value).startswith(expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_a_name_that_is_too_long_is_a_mistake_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"output=.*xxx: File name too long; expected a place to write; choose another"):
        tune.work(["output=" + "x" * 300, *QUICK])


@pytest.mark.thorough
def test_what_the_first_run_refuses_ends_the_study_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"clustering\.n_clusters=500: expected at most n_samples=300"):
        tune.work(["output=" + str(tmp_path / "out"), *QUICK, "clustering.n_clusters=500"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_what_a_run_refuses_later_leaves_what_it_had_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_trials(study: trials.Study) -> None:
        checkpoints = study.directory_of(0) / "checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / "last.pt").touch()
        raise UserError("data.path=f.npy: changed while it was used")

    monkeypatch.setattr(study_module, "run_trials", run_trials)
    with pytest.raises(UserError, match="changed while it was used"):
        tune.work([*QUICK, f"output={tmp_path / 'study'}"])
    assert (tmp_path / "study" / "trials" / "0" / "checkpoints" / "last.pt").exists()


@pytest.mark.thorough
def test_a_study_of_data_that_changed_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same name with other content: nothing more is trained."""
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    data = ["data=npy", f"data.path={tmp_path}/X.npy", "clustering.n_clusters=3"]
    words = [*data, *(word for word in QUICK if not word.startswith("data")), f"output={tmp_path}/out"]
    stand_in(monkeypatch, Trials)
    tune.work(["trials=1", "clustering.weight=0.1,1.0", *words])
    tune.work(["trials=1", "clustering.weight=0.1,1.0", *words])
    np.save(tmp_path / "X.npy", X[::-1])
    monkeypatch.setattr(study_module, "run_trials", lambda _: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"the study there was made with other data; .* choose another"):
        tune.work(["trials=2", "clustering.weight=0.1,1.0", *words])


@pytest.mark.thorough
def test_data_that_change_while_a_trial_trains_end_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Trials):
        def __init__(self, command: list[str], **streams: Any) -> None:
            super().__init__(command, **streams)
            (self.directory / "manifest.json").write_text('{"status": "completed", "data": {"sha256": "other"}}')

    stand_in(monkeypatch, Other)
    with pytest.raises(UserError, match=r"trial 0 had other data than the study; .* choose another output="):
        tune.work([f"output={tmp_path / 'out'}", *QUICK, "clustering.weight=1,2"])


@pytest.mark.thorough
def test_a_study_is_not_gone_on_with_when_its_experiment_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are the same; what they stand for is not."""
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment" / "mine.yaml"
    mine.write_text("# @package _global_\njoint:\n  lr: 0.001\n", encoding="utf-8")
    words = ["trials=1", f"output={tmp_path}/out", *QUICK, "experiment=mine", "clustering.weight=1,2"]
    parse = study_module.parse
    monkeypatch.setattr(study_module, "parse", lambda words: parse(["--config-dir", str(tmp_path), *words]))
    stand_in(monkeypatch, Trials)
    tune.work(words)
    tune.work(words)
    mine.write_text("# @package _global_\njoint:\n  lr: 0.01\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"the study there has joint.lr 0.001, this call 0.01; expected a study of"):
        tune.work(words)
    # One of an earlier version, which did not keep them, had fewer settings, or counted more of them.
    for fixed in (None, {"joint.lr": 0.01}, {"joint.lr": 0.01, "evaluation.kmeans_raw": True, "log.figures": True}):
        study = optuna.load_study(study_name="dkm", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
        kept = {key: value for key, value in study.user_attrs["settings"].items() if key != "fixed"}
        study.set_user_attr("settings", kept | ({} if fixed is None else {"fixed": fixed}))
        tune.work(words)


@pytest.mark.thorough
def test_a_caution_where_the_data_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, Trials)
    tune.work(["trials=1", f"output={tmp_path}/out", *QUICK, "clustering.weight=1,2", "data.scaling=unit,standard"])
    assert "warning: data.scaling varies: scores are comparable only between" in capsys.readouterr().err


@pytest.mark.thorough
def test_nothing_but_failures_end_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Failing)
    with pytest.raises(Failure, match=r"out: the first 3 trials failed, the last one: no space left"):
        tune.work([f"output={tmp_path / 'out'}", *QUICK])
    assert (tmp_path / "out" / "study.db").exists()


@pytest.mark.thorough
def test_a_storage_that_is_no_study_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match=r"study\.db: cannot be read"):
        tune.work([f"output={tmp_path}", *QUICK])
    (tmp_path / "study.db").unlink()
    sqlite3.connect(tmp_path / "study.db").close()
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="dkm", direction="maximize").ask()
    with pytest.raises(UserError, match="the study there was made by something else"):
        tune.work([f"output={tmp_path}", *QUICK])


@pytest.mark.thorough
def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match=r"out: .*; expected a place to write"):
        tune.work([f"output={tmp_path / 'out'}", *QUICK])
