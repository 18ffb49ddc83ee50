"""``dkm.select``: which runs it trains, what it makes of their scores, and every refusal."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.metrics import adjusted_rand_score

from dkm import select
from dkm.clustering.selection import Scores, recommend
from dkm.config.commands import SelectConfig, numbers
from dkm.config.compose import compose, parse
from dkm.config.schema import to_dict
from dkm.errors import Failure, UserError
from dkm.runs import reading
from dkm.runtime.locks import try_lock
from dkm.search.pool import ChildRun
from dkm.search.selection_report import SCORES
from dkm.search.selection_runs import (
    Search,
    _train,
    complete_numbers,
    directory_of,
    drop_lost_seeds,
    lock_folder,
)
from dkm.training.launch import require_trainable

QUICK = [
    *("data=blobs", "data.n_samples=300", "data.n_blobs=4", "data.n_features=6", "model.hidden=[16]"),
    *("recipe=classic", "pretrain.epochs=3", "joint.epochs=2", "clustering.n_init=2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("select") / "out"
    select.work(["k=3-5", "seeds=0,1", "jobs=2", f"output={path}", *QUICK])
    return path


@pytest.mark.thorough
def test_every_number_and_seed_has_a_run_from_one_pretraining(folder: Path) -> None:
    found = [reading.read(path) for path in reading.find([str(folder)])]
    assert [(run.settings["clustering.n_clusters"], run.seed) for run in found] == [
        (k, seed) for k in (3, 4, 5) for seed in (0, 1)
    ]
    assert {run.settings["model.latent_dim"] for run in found} == {10}
    assert len(list((folder / "cache").glob("pretrained-*.pt"))) == 2
    assert not [*folder.rglob("checkpoints")]  # of a hundred runs they fill a disk
    manifests = [json.loads((run.path / "manifest.json").read_text(encoding="utf-8")) for run in found]
    assert [bool(manifest.get("pretrained_by")) for manifest in manifests] == [False, False, True, True, True, True]


def test_the_files_hold_scores_and_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads((folder / "select.json").read_text(encoding="utf-8"))
    assert answer["n_clusters"] == 4
    assert answer["reason"]
    with (folder / "select.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["k"] for row in rows] == ["3", "4", "5"]
    found = [reading.read(folder / "k4" / f"seed{seed}").scores for seed in (0, 1)]
    for name in ("modularity_data", "silhouette", "davies_bouldin", "reconstruction"):
        mean = sum(scores[name] or 0 for scores in found) / 2
        assert float(rows[1][name]) == pytest.approx(mean)
    labels = [
        np.loadtxt(folder / "k4" / f"seed{s}" / "assignments.csv", int, delimiter=",", skiprows=1, usecols=1)
        for s in (0, 1)
    ]
    assert float(rows[1]["agreement_seeds"]) == pytest.approx(adjusted_rand_score(*labels))
    assert len(answer["scores"]["4"]["agreement_halves"]) == 2
    assert imread(folder / "select.png").shape[1] > 1000


@pytest.mark.slow
def test_a_second_call_trains_only_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[Any] = []
    train = _train
    monkeypatch.setattr(
        "dkm.search.selection_runs._train", lambda *arguments: trained.append(arguments[1]) or train(*arguments)
    )
    before = (folder / "select.csv").read_bytes()
    select.work(["k=3-5", "seeds=0,1", f"output={folder}", *QUICK])
    assert trained == []
    assert (folder / "select.csv").read_bytes() == before
    select.work(["k=4,6", "seeds=0,1", f"output={folder}", *QUICK])
    assert trained == [[6]]
    out = capsys.readouterr().out
    assert "k=6, seed=1: modularity on the data 0." in out


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.n_samples=301", "data.n_samples=301: expected 300 as in OUT/k3/seed0, which this search would resume"),
        ("joint.lr=0.01", "joint.lr=0.01: expected 0.0001 as in OUT/k3/seed0, which this search would resume"),
        ("data=moons", "data.name=moons: expected blobs as in OUT/k3/seed0, which this search would resume"),
    ],
)
def test_runs_of_other_settings_are_not_gone_on_with(word: str, expected: str, folder: Path) -> None:
    words = [w for w in QUICK if w.partition("=")[0] != word.partition("=")[0]]
    words = [w for w in words if "moons" not in word or w not in ("data.n_blobs=4", "data.n_features=6")]
    with pytest.raises(UserError) as caught:
        select.work(["k=3-7", "seeds=0,1", f"output={folder}", *words, word])
    assert str(caught.value).startswith(expected.replace("OUT", str(folder)))


def run_in(folder: Path, k: int, seed: int, **manifest: Any) -> Path:
    """Write what `select` reads of a run."""
    run = directory_of(folder, k, seed)
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"seed: {seed}\n")
    (run / "manifest.json").write_text(json.dumps({"status": "completed", **manifest}))
    (run / "result.json").write_text("{}")
    return run


def test_runs_of_data_that_changed_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same name with other content: nothing is trained, whichever number has runs."""
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    words = ["data=npy", f"data.path={tmp_path}/X.npy", *QUICK[4:]]
    sha256 = require_trainable(compose(parse([*words, "clustering.n_clusters=2"])).config)
    run = run_in(tmp_path / "out", 2, 0, data={"sha256": sha256})
    config = compose(parse([*words, "model.latent_dim=10", "clustering.n_clusters=2"])).config
    (run / "config.yaml").write_text(json.dumps(to_dict(config)))

    def train(*_: object) -> None:
        raise Failure("trained")

    monkeypatch.setattr("dkm.search.selection_runs._train", train)
    words = ["k=2-4", "seeds=0", *words, f"output={tmp_path}/out"]
    with pytest.raises(Failure, match="trained"):
        select.work(words)
    np.save(tmp_path / "X.npy", X[::-1])
    with pytest.raises(UserError, match=r"k2/seed0 was trained on other data; .* choose another output="):
        select.work(words)


def search_in(folder: Path, ks: list[int], seeds: list[int]) -> Search:
    return Search(folder, [], ks, seeds, 1, "the SHA-256", BytesIO())


def test_a_number_with_a_failed_or_damaged_run_is_left_out(tmp_path: Path) -> None:
    for k, seed in ((2, 0), (2, 1), (3, 0), (4, 1), (5, 0), (5, 1)):
        run_in(tmp_path, k, seed)
    run_in(tmp_path, 3, 1, status="failed", reason="loss is nan")
    damaged = run_in(tmp_path, 4, 0)
    (damaged / "metrics.jsonl").write_text("{\n{}\n")
    ks, (first, second) = complete_numbers(search_in(tmp_path, [2, 3, 4, 5], [0, 1]))
    assert ks == [2, 5]
    assert first == f"k=3 is left out: {tmp_path}/k3/seed1 failed: loss is nan"
    assert second.startswith(f"k=4 is left out: {damaged}/metrics.jsonl: cannot be read")
    with pytest.raises(Failure, match=r"no number has all of its runs; k=3 is left out: .*: loss is nan"):
        complete_numbers(search_in(tmp_path, [3], [0, 1]))


def test_a_seed_whose_pretraining_failed_is_left_out_of_every_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise every number would lack a run, after hours."""
    run_in(tmp_path, 2, 0)
    for seed, epoch in ((1, 2), (2, 3)):  # of three
        run = run_in(tmp_path, 2, seed, status="failed", reason="loss is nan")
        (run / "config.yaml").write_text(f"seed: {seed}\npretrain: {{epochs: 3}}\n")
        (run / "metrics.jsonl").write_text(json.dumps({"phase": "pretrain", "epoch": epoch}) + "\n")
    taken = run_in(tmp_path, 2, 3, status="failed", reason="loss is nan", pretrained_by="runs/other")
    (taken / "config.yaml").write_text("seed: 3\npretrain: {epochs: 3}\n")
    search, warnings = drop_lost_seeds(search_in(tmp_path, [2, 3], [0, 1, 2, 3]))
    assert search.seeds == [0, 2, 3]  # which may be as good as any with another number
    assert warnings == [f"seed 1 is left out: {tmp_path}/k2/seed1 failed: loss is nan"]
    assert capsys.readouterr().err == f"warning: {warnings[0]}\n"
    lost = directory_of(tmp_path, 2, 1)  # pretrained after all: its length was in steps
    (lost / "metrics.jsonl").write_text(json.dumps({"phase": "pretrain", "epoch": 9}) + "\n")
    manifest = json.loads((lost / "manifest.json").read_text())
    (lost / "manifest.json").write_text(json.dumps(manifest | {"epochs": {"pretrain": 9, "joint": 5}}))
    assert drop_lost_seeds(search_in(tmp_path, [2, 3], [1]))[0].seeds == [1]
    (lost / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Failure, match=r"no seed could be pretrained; seed 1 is left out: .*: loss is nan"):
        drop_lost_seeds(search_in(tmp_path, [2, 3], [1]))


def test_a_run_that_was_killed_is_no_reason_to_leave_its_number_out(tmp_path: Path) -> None:
    run_in(tmp_path, 2, 0)
    run_in(tmp_path, 3, 0, status="running")
    with pytest.raises(
        Failure, match=f"k3/seed0: did not complete, see above; the same command with output={tmp_path}"
    ):
        complete_numbers(search_in(tmp_path, [2, 3], [0]))
    with pytest.raises(Failure, match="k4/seed0: did not complete"):
        complete_numbers(search_in(tmp_path, [2, 4], [0]))


@pytest.mark.parametrize(
    ("number", "error", "expected"),
    [
        (signal.SIGKILL, Failure, r"k2/seed0: killed by SIGKILL; the same command with output=.* resumes it"),
        (signal.SIGINT, KeyboardInterrupt, r"^the same command with output=.* resumes it"),
    ],
)
def test_a_run_that_dies_says_of_what(
    number: signal.Signals,
    error: type[BaseException],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill = [sys.executable, "-c", f"import os, signal; os.kill(os.getpid(), {int(number)})"]
    monkeypatch.setattr(ChildRun, "command", lambda self: kill)
    with pytest.raises(error, match=expected), lock_folder(tmp_path / "out") as lock:
        _train(search_in(tmp_path / "out", [2], [0])._replace(lock=lock), [2])


def fail_with(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run fail with this exit code."""
    program = f"import sys; print('error: no space left', file=sys.stderr); sys.exit({code})"
    monkeypatch.setattr(ChildRun, "command", lambda self: [sys.executable, "-c", program])


def test_a_mistake_that_a_run_finds_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(2, monkeypatch)
    with pytest.raises(UserError, match=r"^no space left$"), lock_folder(tmp_path / "out") as lock:
        _train(search_in(tmp_path / "out", [2], [0])._replace(lock=lock), [2])


def test_a_run_that_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(1, monkeypatch)
    with lock_folder(tmp_path / "out") as lock:
        search = search_in(tmp_path / "out", [2], [0])._replace(lock=lock)
        _train(search, [2])
    assert capsys.readouterr().err == "warning: k=2, seed=0: no space left\n"
    with pytest.raises(Failure, match="k2/seed0: did not complete, see above"):
        complete_numbers(search)


def test_runs_at_a_time_need_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's launchers have no part in it."""
    commands: list[list[str]] = []
    monkeypatch.setattr(ChildRun, "command", lambda self: commands.append([*self.overrides]) or ["true"])
    with lock_folder(tmp_path / "out") as lock:
        _train(search_in(tmp_path / "out", [2, 3], [0, 1])._replace(lock=lock, n_jobs=2), [2, 3])
    assert commands == [[f"clustering.n_clusters={k}", f"seed={seed}"] for k in (2, 3) for seed in (0, 1)]


def test_a_folder_in_which_a_sweep_still_trains_is_left_alone(tmp_path: Path, folder: Path) -> None:
    """It may have outlived the search that started it: its process has the lock too."""
    words = ["k=3-5", "seeds=0,1", f"output={folder}", *QUICK]
    with (folder / "select.lock").open("ab") as lock:
        assert try_lock(lock)
        sleep = [sys.executable, "-c", "input()"]
        sweep = subprocess.Popen(sleep, stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    with pytest.raises(UserError, match=f"output={folder}: in use by .*; expected a folder that no other process uses"):
        select.work(words)
    sweep.communicate(b"\n")
    select.work(words)


def test_unfinished_runs_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    run = run_in(tmp_path, 2, 0, status="interrupted")
    (run / "config.yaml").write_text("seed: 0\njoint: {lr: 0.001}\n")
    with pytest.raises(
        UserError, match=r"^joint.lr=0.0001: expected 0.001 as in .*/k2/seed0, which this search would resume"
    ):
        select.work(["k=2-4", "seeds=0,1", f"output={tmp_path}", *QUICK])


def test_without_its_pretrainings_the_halves_are_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a new version of torch, say, whose pretraining would be another one."""
    moved = tmp_path / "out"
    shutil.copytree(folder, moved)
    for run in moved.glob("k*/seed*"):
        text = (run / "config.yaml").read_text(encoding="utf-8")
        (run / "config.yaml").write_text(text.replace(str(folder / "cache"), str(tmp_path / "no cache")))
    select.work(["k=3-5", "seeds=0,1", f"output={moved}", *QUICK])
    captured = capsys.readouterr()
    assert captured.err.count("no agreement between halves (pretrain.cache=") == 2
    answer = json.loads((moved / "select.json").read_text(encoding="utf-8"))
    assert answer["n_clusters"] == 4
    assert answer["scores"]["4"]["agreement_halves"] == []
    assert " nan" not in captured.out


@pytest.mark.thorough
def test_a_stop_reaches_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dkm.select", "k=3", "seeds=0", f"output={out}", *QUICK, "joint.epochs=100000"]
    command += ["joint.tolerance=0", "evaluation.every_epochs=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = out / "k3" / "seed0" / reading.METRICS
    deadline = time.monotonic() + 60
    while not (metrics.exists() and b'"joint"' in metrics.read_bytes()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted: the same command with output={out} resumes it\n" in err
    assert reading.read(out / "k3" / "seed0").status == "interrupted"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "n_clusters: missing"),
        (["k=2-"], "k=2-: expected a range or a list of whole numbers"),
        (["k=1-4"], "k=1-4: expected numbers of 2 or more"),
        (["k=5-2"], "k=5-2: expected a range that goes up"),
        (["k=2,x"], "k=2,x: expected a range or a list"),
        (["k=2-4", "seeds=-1"], "seeds=-1: expected a range or a list of whole numbers"),
        (["k=2-1000000000000"], "k=2-1000000000000: expected a range or a list of whole numbers of at most 9 digits"),
        (["k=2-999999999"], "k=2-999999999: expected at most 10,000 numbers; for example k=2-12"),
        (["k=range(2,999999999)"], "k=range(2,999999999): expected at most 10,000 numbers; for example k=2-12"),
        (["k=2-4", "jobs=0"], "jobs=0: expected a whole number, 1 or more"),
        (["k=2-4", "clustering.n_clusters=3"], "clustering.n_clusters=3: expected no such key"),
        (["k=2-4", "--multirun"], "--multirun: expected KEY=VALUE"),
        (["k=2-4", "pretrain.epoch=3"], "pretrain.epoch"),
        (["k=2-4", "clustering.weight=1,2"], "clustering.weight=1,2: expected one value; `dkm train -m` trains a run"),
        (["k=2-4", "sed=1"], "sed=1: expected a key of this command or of dkm train; did you mean seed?"),
        (["k=2-4", "model.latent_dim=null"], "model.latent_dim=null: expected a number"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        select.work(words)
    assert str(caught.value).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_more_clusters_than_rows_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"clustering.n_clusters=301: expected at most n_samples=300"):
        select.work(["k=2-301", "seeds=0", "output=out", *QUICK])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"), [("2-5", [2, 3, 4, 5]), ("8,2,4", [2, 4, 8]), ("3,2-4", [2, 3, 4]), ("7", [7])]
)
def test_numbers(text: str, expected: list[int]) -> None:
    assert numbers("k", text, "2-12", least=2) == expected
    assert SelectConfig(k=text).seeds == "0,1,2"


# --- the choice -------------------------------------------------------------------------------------------------------


def scores_of(**columns: Mapping[int, list[float]]) -> dict[int, Scores]:
    """Return scores of numbers of clusters: of each score a list, whose place is the seed."""
    ks = next(iter(columns.values())).keys()
    lists = {k: {name: columns[name][k] if name in columns else [] for name in SCORES} for k in ks}
    return {k: {name: {(seed,): value for seed, value in enumerate(lists[k][name])} for name in SCORES} for k in lists}


AGREE = {2: [0.9], 3: [0.95], 4: [0.99], 5: [0.7]}


def test_the_highest_modularity_is_recommended_where_it_stands_out() -> None:
    modularity = {2: [0.4, 0.41, 0.4], 3: [0.6, 0.6, 0.6], 4: [0.7, 0.71, 0.7], 5: [0.65, 0.6, 0.66]}
    found = recommend(scores_of(modularity_data=modularity, agreement_seeds=AGREE, agreement_halves=AGREE))
    assert (found.n_clusters, found.plausible, found.warnings) == (4, [4], [])
    assert found.reason == "its modularity on the data, 0.703, is the highest; the agreement of its clusterings is 0.99"


def test_of_numbers_that_modularity_does_not_tell_apart_the_best_agreement_decides() -> None:
    modularity = {2: [0.4] * 3, 3: [0.693] * 3, 4: [0.7] * 3, 5: [0.68, 0.71, 0.63]}
    agree = {2: [1.0], 3: [0.95], 4: [0.8], 5: [0.9]}
    halves = {2: [1.0], 3: [0.95], 4: [0.7], 5: [0.9]}
    scores = scores_of(modularity_data=modularity, agreement_seeds=agree, agreement_halves=halves)
    found = recommend(scores)
    assert (found.n_clusters, found.plausible) == (3, [3, 4, 5])  # 5 is within the noise of its own seeds
    assert found.warnings == []
    assert found.reason == (
        "its modularity on the data, 0.693, is close to the highest, 0.700; "
        "of 3 plausible numbers its clusterings have the highest agreement, 0.95"
    )


def test_modularity_is_compared_within_seeds() -> None:
    """Seeds differ more than numbers do. Without seed 0, place by place, 4 would have been as good as 3."""
    scores = scores_of(modularity_data={3: [0.5, 0.7, 0.9], 4: [0.0, 0.6, 0.8]}, agreement_seeds={3: [0.9], 4: [1.0]})
    del scores[4]["modularity_data"][0,]
    assert recommend(scores).plausible == [3]


def test_numbers_without_a_seed_in_common_are_compared_by_their_means() -> None:
    scores = scores_of(modularity_data={3: [0.6, 0.0], 4: [0.0, 0.595], 5: [0.0, 0.5]})
    for k, seed in ((3, 1), (4, 0), (5, 0)):
        del scores[k]["modularity_data"][seed,]
    assert recommend(scores).plausible == [3, 4]


@pytest.mark.parametrize(
    ("modularity", "agreement", "expected"),
    [
        ({2: [0.1], 3: [0.5], 4: [0.2]}, 0.9, "fewer than 3 seeds"),
        ({2: [0.5] * 3, 3: [0.5] * 3, 4: [0.5] * 3, 5: [0.5] * 3}, 0.9, "4 numbers are equally plausible"),
        (
            *({2: [0.1] * 3, 3: [0.5] * 3, 4: [0.2] * 3}, 0.6),
            "clusterings with 3 clusters agree only to 0.60 between seeds",
        ),
        (
            {2: [0.1] * 3, 3: [0.5] * 3, 4: [0.2] * 3},
            0.9,
            "the agreement between halves of the data is not known",
        ),
        ({2: [0.1] * 3, 3: [0.2] * 3, 4: [0.15] * 3}, 0.9, "the modularity is only 0.20"),
        ({3: [0.5] * 3, 4: [0.4] * 3}, 0.9, "3 is at the end of the range"),
        ({3: [0.5] * 3}, 0.9, "there is no other number to compare with"),
    ],
)
def test_weak_evidence_is_called_so(modularity: dict[int, list[float]], agreement: float, expected: str) -> None:
    agree = {k: [agreement] for k in modularity}
    doubts = recommend(scores_of(modularity_data=modularity, agreement_seeds=agree)).warnings
    assert any(doubt.startswith(expected) for doubt in doubts)


def test_no_number_is_below_two() -> None:
    modularity = {2: [0.5] * 3, 3: [0.4] * 3}
    found = recommend(scores_of(modularity_data=modularity, agreement_seeds=AGREE, agreement_halves=AGREE))
    assert (found.n_clusters, found.warnings) == (2, [])


def test_a_modularity_that_still_rises_at_the_end_is_a_warning() -> None:
    modularity = {3: [0.6] * 3, 4: [0.695] * 3, 5: [0.7] * 3}
    found = recommend(scores_of(modularity_data=modularity, agreement_seeds=AGREE, agreement_halves=AGREE))
    assert found.n_clusters == 4
    assert found.warnings == ["the modularity is highest with 5, the end of the range: try more numbers"]


def test_agreement_is_compared_in_what_all_numbers_have() -> None:
    modularity = {3: [0.7] * 3, 4: [0.7] * 3}
    scores = scores_of(
        modularity_data=modularity, agreement_seeds={3: [0.9], 4: [0.95]}, agreement_halves={3: [1.0], 4: []}
    )
    assert recommend(scores).n_clusters == 4


def test_without_agreement_the_modularity_decides() -> None:
    found = recommend(scores_of(modularity_data={3: [0.695] * 2, 4: [0.7] * 2, 5: [0.6] * 2}))
    assert (found.n_clusters, found.plausible) == (4, [3, 4])
    assert found.reason == "its modularity on the data, 0.700, is the highest"


def test_of_many_even_clusters_one_less_is_plausible_but_not_chosen() -> None:
    """Joining two of K perfect clusters costs a modularity of 2 / K^2, which is below 0.01 from K = 15 on."""
    modularity = {k: [1 - (1 / 20 if k == 20 else 22 / 400)] * 3 for k in (19, 20)}
    agree = {19: [1.0], 20: [1.0]}
    found = recommend(scores_of(modularity_data=modularity, agreement_seeds=agree, agreement_halves=agree))
    assert (found.n_clusters, found.plausible) == (20, [19, 20])


def test_without_any_modularity_there_is_no_answer() -> None:
    with pytest.raises(Failure, match="undefined for every run"):
        recommend(scores_of(modularity_data={2: [], 3: []}))
