"""``dkm.compare``: which runs belong together, what their numbers say, and what it makes of runs that are not whole."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.metrics import adjusted_rand_score

from dkm import compare, report, train
from dkm.clustering.labels import adjusted_rand_index
from dkm.errors import UserError
from dkm.evaluation.figures.comparison import comparison
from dkm.runs import reading
from dkm.runs.comparison import Group, telling_settings
from dkm.runtime.locks import try_lock

SETTINGS = {
    "clustering": {"name": "kmeans", "weight": 0.1},
    "data": {"name": "digits", "root": "/here"},
    "log": {"figures": True},
}


def make(
    folder: Path,
    *,
    seed: int = 0,
    weight: float = 0.1,
    acc: float | None = 0.5,
    status: str = "completed",
    labels: Sequence[int] = (0, 1, 1, 0),
    sha: str = "a" * 64,
    rows: str | None = None,
    **changes: Any,
) -> Path:
    """Write what a run leaves, with the numbers given."""
    folder.mkdir(parents=True)
    clustering = SETTINGS["clustering"] | {"weight": weight} | changes.pop("clustering", {})
    settings = SETTINGS | {"clustering": clustering, "seed": seed} | changes
    (folder / "config.yaml").write_text(json.dumps({"defaults": ["paths", "_self_"], **settings}), encoding="utf-8")
    manifest = {
        "status": status,
        "reason": None if status == "completed" else "signal",
        "seconds": {"pretrain": 1.0 + seed, "joint": 2.0},
        "data": {"name": "digits", "sha256": sha, "shape": [4, 2]} | ({} if rows is None else {"rows_sha256": rows}),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    record = {"phase": "joint", "epoch": 1, "step": 7, "metrics/acc": 0.25, "metrics/silhouette": 0.5}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    if status == "completed":
        scores = {"silhouette": 0.5, "n_effective_clusters": 2.0} | ({} if acc is None else {"acc": acc})
        result = scores | {"kmeans_raw": {"acc": 0.125, "ari": None}, "kmeans_pretrained": {"acc": 0.25}}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        lines = [f"{row},{cluster},0.5,0.25\n" for row, cluster in enumerate(labels)]
        text = "".join(["index,cluster,distance,margin\n", *lines])
        (folder / "assignments.csv").write_text(text, encoding="utf-8")
    return folder


def groups_of(*words: str | Path) -> list[Group]:
    paths, options = [str(w) for w in words if "=" not in str(w)], [str(w) for w in words if "=" in str(w)]
    config, _ = compare.parse_words(compare.CompareConfig, options)
    return compare.compare(paths, config)


# --- groups and numbers -----------------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_alone_are_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for weight in (0.1, 1.0):
        for seed in range(3):
            make(tmp_path / f"{weight}-{seed}", seed=seed, weight=weight, acc=0.5 + seed / 10 + weight / 10)
    low, high = groups_of(tmp_path)
    assert (low.settings, high.settings) == ({"clustering.weight": 0.1}, {"clustering.weight": 1.0})
    accs = [0.51, 0.61, 0.71]
    assert low.scores["acc"] == pytest.approx((statistics.mean(accs), statistics.stdev(accs), 3))
    assert low.scores["seconds"].mean == 4.0
    assert low.scores["kmeans_raw.acc"].mean == 0.125
    assert "kmeans_raw.ari" not in low.scores
    out = capsys.readouterr().out
    assert "6 runs of 2 settings: 6 completed" in out
    assert "0.610 ± 0.100" in out


def test_settings_that_move_no_number_make_no_groups(tmp_path: Path) -> None:
    make(tmp_path / "a")
    more = {"log": {"figures": False}, "resume": "auto", "evaluation": {"every_epochs": 5}}
    make(tmp_path / "b", seed=1, data={"name": "digits", "root": "/there"}, **more)
    (group,) = groups_of(tmp_path)
    assert group.settings == {}
    assert len(group.runs) == 2


def test_a_key_that_only_one_method_has_is_told_by_the_name_of_the_method(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", clustering={"name": "dkm", "alpha": 1000.0})
    make(tmp_path / "c", clustering={"name": "dkm", "alpha": 10.0})
    settings = [group.settings for group in groups_of(tmp_path)]
    assert settings == [
        {"clustering.name": "kmeans", "clustering.alpha": "-"},
        {"clustering.name": "dkm", "clustering.alpha": 1000.0},
        {"clustering.name": "dkm", "clustering.alpha": 10.0},
    ]


def test_settings_of_a_section_that_differ_together_are_all_told(tmp_path: Path) -> None:
    make(tmp_path / "a", clustering={"name": "kmeans", "init": "k-means++", "weight": 0.1})
    make(tmp_path / "b", clustering={"name": "kmeans", "init": "auto", "weight": 1.0})
    assert groups_of(tmp_path)[0].settings.keys() == {"clustering.init", "clustering.weight"}


def test_what_goes_with_the_option_of_its_section_is_not_told_twice(tmp_path: Path) -> None:
    make(tmp_path / "a", batch_size=64)
    make(tmp_path / "b", batch_size=256, data={"name": "usps", "root": "/here", "path": "usps.npz"})
    assert list(groups_of(tmp_path)[0].settings) == ["data.name", "batch_size"]


def test_what_is_set_for_one_option_alone_is_told_beside_the_option(tmp_path: Path) -> None:
    make(tmp_path / "a", model={"name": "mlp", "latent_dim": 5})
    make(tmp_path / "b", model={"name": "conv", "latent_dim": 20})
    assert [group.settings for group in groups_of(tmp_path)] == [
        {"model.name": "mlp", "model.latent_dim": 5},
        {"model.name": "conv", "model.latent_dim": 20},
    ]


def test_a_setting_that_some_runs_lack_had_its_default(tmp_path: Path) -> None:
    """Runs of an earlier version have fewer settings."""
    make(tmp_path / "a", seed=0)
    make(tmp_path / "b", seed=1, joint={"guard": False})
    make(tmp_path / "c", seed=2, joint={"guard": True})
    first, second = groups_of(tmp_path)
    assert ([run.seed for run in first.runs], first.settings) == ([0, 1], {"joint.guard": False})
    assert ([run.seed for run in second.runs], second.settings) == ([2], {"joint.guard": True})


def test_options_of_a_class_that_only_some_runs_have_tell_them_apart(tmp_path: Path) -> None:
    model = {"name": "custom", "class": "mine.Net"}
    make(tmp_path / "a", model={**model, "options": {}})
    make(tmp_path / "b", model={**model, "options": {"width": 16}})
    assert [group.settings for group in groups_of(tmp_path)] == [
        {"model.options.width": "-"},
        {"model.options.width": 16},
    ]


def test_a_mean_over_fewer_runs_than_the_row_has_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clustering with one cluster has no silhouette."""
    for seed in range(3):
        make(tmp_path / str(seed), seed=seed, acc=0.5)
    make(tmp_path / "again", seed=2, acc=0.5)
    result = json.loads((tmp_path / "1" / "result.json").read_text())
    (tmp_path / "1" / "result.json").write_text(json.dumps(result | {"silhouette": None}))
    groups_of(tmp_path, f"csv={tmp_path}/t.csv")
    row = next(line for line in capsys.readouterr().out.splitlines() if "±" in line)
    assert "0.500 ± 0.000 (2)" in row
    assert row.count("(2)") == 1
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        (kept,) = csv.DictReader(file)
    assert (kept["n_runs"], kept["n_completed"], kept["n_counted"]) == ("4", "4", "3")
    assert (kept["acc_n"], kept["silhouette_n"]) == ("3", "2")


def test_the_reconstruction_of_a_run_that_was_undone_is_not_known(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    (run / "metrics.jsonl").write_text(json.dumps({"loss/reconstruction": 0.5}) + "\n", encoding="utf-8")
    assert reading.read(run).scores["reconstruction"] == 0.5
    result = json.loads((run / "result.json").read_text()) | {"is_undone": True}
    (run / "result.json").write_text(json.dumps(result))
    assert reading.read(run).scores["reconstruction"] is None


def test_many_settings_that_differ_stand_in_a_table_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joint = {"lr": 0.1, "epochs": 5, "tolerance": 0.0}
    make(tmp_path / "a", clustering={"name": "kmeans"}, joint=joint, batch_size=64, data={"name": "digits"})
    make(tmp_path / "b", clustering={"name": "dkm"}, joint={**joint, "lr": 0.2}, batch_size=8, data={"name": "usps"})
    joint = {"lr": 0.3, "epochs": 6, "tolerance": 0.5}
    make(tmp_path / "c", clustering={"name": "dkm"}, joint=joint, batch_size=8, data={"name": "usps"})
    groups = groups_of(tmp_path)
    assert len(groups[0].settings) == 6
    assert telling_settings(groups) == ["joint.lr"]
    assert groups[2].name(["clustering.name", "joint.lr"]) == "clustering=dkm, lr=0.3"
    _, _, head, *rest = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["joint.lr", "runs", "ACC"]
    assert rest[1].split()[:3] == ["2", "0.2", "1"]
    assert "All settings that differ, by the numbers of the rows:" in rest
    assert ["clustering.name", "kmeans", "dkm", "dkm"] in [line.split() for line in rest]


def test_each_gives_every_run_a_row(tmp_path: Path) -> None:
    make(tmp_path / "a", seed=0, acc=0.5)
    make(tmp_path / "b", seed=1, acc=0.75)
    found = groups_of(tmp_path, "each=true")
    assert [group.settings["seed"] for group in found] == [0, 1]
    assert [group.scores["acc"] for group in found] == [(0.5, None, 1), (0.75, None, 1)]


@pytest.mark.parametrize(("name", "first"), [("acc", 1.0), ("seconds", 0.1), ("reconstruction", 0.1)])
def test_the_best_comes_first_when_sorted(name: str, first: float, tmp_path: Path) -> None:
    low = make(tmp_path / "a", weight=0.1, seed=0, acc=0.5)
    high = make(tmp_path / "b", weight=1.0, seed=5, acc=0.75)
    for run, error in ((low, 0.25), (high, 0.5)):
        (run / "metrics.jsonl").write_text(json.dumps({"loss/reconstruction": error}) + "\n", encoding="utf-8")
    assert groups_of(tmp_path, f"sort={name}")[0].settings == {"clustering.weight": first}


def test_a_folder_is_searched_in_natural_order_and_no_run_is_taken_twice(tmp_path: Path) -> None:
    for seed in (10, 9, 1):
        make(tmp_path / "sweep" / f"seed={seed}", seed=seed)
    make(tmp_path / "sweep" / "seed=1" / "inner")  # within a run
    make(tmp_path / "other" / "x=1")
    words = ["sweep", "sweep/seed=9", "sweep/../sweep", "*/x=*"]
    found = reading.find([*(f"{tmp_path}/{word}" for word in words), os.path.relpath(tmp_path / "sweep")])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "sweep/seed=1",
        "sweep/seed=9",
        "sweep/seed=10",
        "other/x=1",
    ]


def test_of_runs_that_repeat_one_another_the_one_begun_last_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, acc, hour in (("1", 0.25, 1), ("2", 0.75, 5), ("3", 0.5, 3)):
        path = make(tmp_path / name, acc=acc) / "manifest.json"
        started = f"2026-01-31T0{hour}:00:00+00:00"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"started": started}))
    make(tmp_path / "4", seed=1, acc=0.25, labels=(0, 1, 0, 1))
    (group,) = groups_of(tmp_path)
    assert group.scores["acc"] == pytest.approx((0.5, statistics.stdev([0.75, 0.25]), 2))
    assert group.scores["agreement"].sd is None  # one pair of seeds
    captured = capsys.readouterr()
    assert captured.err.startswith(f"warning: {tmp_path}/1, seed 0 and 1 more: repeated with the same settings later")
    assert "2 of 4" in captured.out
    assert len(groups_of(tmp_path, "each=true")) == 4
    assert capsys.readouterr().err == ""


def test_equal_settings_on_other_data_are_another_row(tmp_path: Path) -> None:
    """A file of the same name that has changed since."""
    make(tmp_path / "a", acc=0.25)
    make(tmp_path / "b", seed=1, acc=0.75, sha="b" * 64)
    started = make(tmp_path / "c", seed=2, status="running")
    (started / "manifest.json").unlink()
    (started / ".hydra").mkdir()
    first, second, _ = groups_of(tmp_path)
    assert (first.settings, second.settings) == ({"data.sha256": "aaaaaaaa"}, {"data.sha256": "bbbbbbbb"})
    assert (first.scores["acc"].mean, second.scores["acc"].mean) == (0.25, 0.75)


def test_runs_on_other_data_are_drawn(tmp_path: Path) -> None:
    for seed, sha in enumerate("ab"):
        make(tmp_path / "runs" / sha, seed=seed, sha=sha * 64)
        make(tmp_path / "runs" / f"{sha}2", seed=seed + 2, sha=sha * 64, labels=(0, 1, 1, 1))
    compare.work([str(tmp_path / "runs"), f"figure={tmp_path}/t.png", f"pairs={tmp_path}/p.csv"])
    assert (tmp_path / "t.png").exists()
    assert (tmp_path / "p.csv").exists()


def test_other_data_are_another_row_where_a_run_lacks_a_setting(tmp_path: Path) -> None:
    make(tmp_path / "a", acc=0.25, joint={"hold_labels": False})
    make(tmp_path / "b", seed=1, acc=0.75, sha="b" * 64)  # of a version that did not have the setting
    first, second = groups_of(tmp_path)
    assert (first.settings, second.settings) == ({"data.sha256": "aaaaaaaa"}, {"data.sha256": "bbbbbbbb"})
    assert (first.scores["acc"].mean, second.scores["acc"].mean) == (0.25, 0.75)


@pytest.mark.parametrize("command", [compare, report])
def test_a_mistyped_option_is_no_path(command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word, remedy in {
        "overwite=true": "expected a key of this command; did you mean overwrite?",
        "--overwrite=true": "expected a key of this command; did you mean overwrite?",
        "-f": "expected KEY=VALUE; for example output=VALUE",
    }.items():
        with pytest.raises(UserError) as raised:
            command.work(["run", word])
        assert str(raised.value) == f"{word}: {remedy}"
    for path, what in (("seed=3", "no such folder"), ("seed=*", "matches nothing")):
        with pytest.raises(UserError, match=rf"^{re.escape(path)}: {what}"):
            command.work([path])


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.work([str(make(tmp_path / "seed=0")), "each=true"])
    assert "1 run of one setting: 1 completed" in capsys.readouterr().out


# --- agreement --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 2, 7, 40])
def test_the_adjusted_rand_index_is_that_of_scikit_learn(K: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, K, 300)
    for b in (rng.integers(0, 9, 300), np.where(rng.random(300) < 0.1, 0, (a * 3 + 1) % (K + 2)), a, np.zeros_like(a)):
        assert adjusted_rand_index(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
        assert adjusted_rand_index(b, a) == pytest.approx(adjusted_rand_index(a, b), abs=1e-12)


def test_the_agreement_of_a_row_is_the_mean_over_the_pairs_of_its_runs(tmp_path: Path) -> None:
    labels = [(0, 0, 1, 1, 2, 2), (2, 2, 0, 0, 1, 1), (0, 1, 1, 1, 2, 2)]
    for seed, some in enumerate(labels):
        make(tmp_path / str(seed), seed=seed, labels=some)
    make(tmp_path / "more", weight=1.0, labels=labels[0])
    pairs = tmp_path / "pairs.csv"
    group, single = groups_of(tmp_path, f"pairs={pairs}")
    expected = [adjusted_rand_score(labels[i], labels[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert group.scores["agreement"] == pytest.approx((statistics.mean(expected), statistics.stdev(expected), 3))
    assert "agreement" not in single.scores
    with pairs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert float(rows[1]["ari"]) == pytest.approx(expected[1])


def test_runs_of_different_data_do_not_agree_and_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", sha="b" * 64, data={"name": "other", "root": "/here"})
    assert len(groups_of(tmp_path)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: the runs are of different data sets, digits (aaaaaaaa)")
    assert "1.000      -" in captured.out


def test_runs_of_other_columns_of_the_same_rows_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": "csv", "path": "/here/customers.csv", "exclude": []}
    make(tmp_path / "a", rows="r" * 64, data=data)
    make(tmp_path / "b", sha="b" * 64, rows="r" * 64, data=data | {"exclude": ["city"]}, labels=(0, 1, 1, 1))
    first, second = groups_of(tmp_path)
    assert (first.settings, second.settings) == ({"data.exclude": []}, {"data.exclude": ["city"]})
    captured = capsys.readouterr()
    assert captured.err == (
        "warning: the runs are of the same rows with other columns, labels or values, digits (aaaaaaaa), digits "
        "(bbbbbbbb): their agreement compares, scores on the data do not\n"
    )
    assert f"1.000  {adjusted_rand_score([0, 1, 1, 0], [0, 1, 1, 1]):.3f}" in captured.out


@pytest.mark.parametrize(
    ("rows", "path", "expected"),
    [
        (None, "/here/customers.csv", "of other columns, labels or values of customers.csv, or of other rows, digits"),
        (None, "/here/other.csv", "of different data sets, digits (aaaaaaaa)"),
        ("s" * 64, "/here/customers.csv", "of different data sets, digits (aaaaaaaa)"),
    ],
)
def test_rows_that_may_differ_do_not_agree(
    rows: str | None, path: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"name": "csv", "path": "/here/customers.csv", "exclude": []}
    make(tmp_path / "a", rows="r" * 64, data=data)
    make(tmp_path / "b", sha="b" * 64, rows=rows, data=data | {"path": path, "exclude": ["city"]})
    groups_of(tmp_path)
    captured = capsys.readouterr()
    assert captured.err.startswith(f"warning: the runs are {expected}")
    assert captured.err.count("\n") == 1
    assert "1.000      -" in captured.out


def test_many_runs_are_compared_pair_by_pair_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_MOST_AGREEING", 2)
    for seed in range(3):
        make(tmp_path / str(seed), seed=seed)
    assert "agreement" not in groups_of(tmp_path)[0].scores
    assert groups_of(tmp_path, "agreement=true")[0].scores["agreement"].mean == 1.0


# --- runs that are not whole ------------------------------------------------------------------------------------------


def test_a_name_that_is_too_long_is_a_mistake_like_any_other() -> None:
    with pytest.raises(UserError, match="no such folder"):
        compare.work(["x" * 300])
    with pytest.raises(UserError, match="expected a file in an existing folder"):
        compare.work(["runs", "csv=" + "x" * 300 + "/out.csv"])


def test_unfinished_runs_are_told_and_count_for_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a", acc=0.5)
    make(tmp_path / "b", seed=1, status="interrupted")
    make(tmp_path / "c", seed=2, status="failed", weight=1.0)
    started = tmp_path / "d"
    (started / ".hydra").mkdir(parents=True)
    (started / "config.yaml").write_text("seed: 3\n", encoding="utf-8")
    first = groups_of(tmp_path)[0]
    assert first.scores["acc"] == (0.5, None, 1)
    out = capsys.readouterr().out
    assert "4 runs of 3 settings: 1 completed, 1 interrupted, 1 failed, 1 not started" in out
    assert "1 of 2" in out
    cells = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(str(tmp_path))}
    assert cells[f"{tmp_path}/b"] == ["interrupted", "0.250", "0.500", "signal"]  # of its last evaluation
    scores = groups_of(tmp_path, "each=true")[1].scores
    assert scores["acc"] == (0.25, None, 1)


def test_a_run_whose_process_is_gone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a")
    running = make(tmp_path / "b", seed=1, status="running")
    with (running / "run.lock").open("wb") as file:
        assert try_lock(file)
        groups_of(tmp_path)
        assert "no process" not in capsys.readouterr().out
    groups_of(tmp_path)
    assert "no process is training it: killed, or on another machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", '{"phase": "joint"}\n{"pha\n{"phase": "joint"}\n'),
        ("metrics.jsonl", "[1]\n"),
        ("result.json", "{"),
        ("result.json", '{"kmeans_raw": 3}'),
        ("metrics.jsonl", "[" * 100_000 + "\n"),
        ("manifest.json", "[]"),
        ("manifest.json", "[" * 100_000),
        ("manifest.json", '{"status": "completed", "seconds": 3}'),
        ("config.yaml", "a: [\n"),
        ("config.yaml", "a: !!python/object/apply:os.getcwd []\n"),
        ("config.yaml", "3\n"),
        ("config.yaml", ""),
    ],
)
def test_a_damaged_run_is_named_and_left_out(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "good")
    bad = make(tmp_path / "bad", seed=1)
    (bad / name).write_text(text, encoding="utf-8")
    (group,) = groups_of(tmp_path)
    assert len(group.runs) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"warning: {bad}")


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


@pytest.mark.parametrize(
    "entries",
    [
        {"data": "x"},
        {"data": None},
        {"data": {"name": "digits", "sha256": 5}},
        {"data": {"name": "digits", "sha256": ["a"]}},
        {"data": {"name": "digits", "sha256": "a", "rows_sha256": 5}},
        {"reason": 5, "status": "failed"},
        {"seconds": {"joint": "x"}},
        {"seconds": {"joint": 10**400}},
        {"seconds": [1]},
    ],
)
def test_a_run_whose_manifest_has_entries_of_another_type_is_left_out(
    entries: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "good")
    change(make(tmp_path / "bad", seed=1) / "manifest.json", **entries)
    (group,) = groups_of(tmp_path)
    assert len(group.runs) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {tmp_path / 'bad'}: result.json or manifest.json is not what a run writes (")
    assert error.count("\n") == 1


def test_a_seed_that_is_no_number_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "good")
    change(make(tmp_path / "bad") / "config.yaml", seed=[1])
    (group,) = groups_of(tmp_path)
    assert len(group.runs) == 1
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / 'bad'}: ")


@pytest.mark.parametrize("value", ["x", [1], 10**400, float("inf"), float("nan")])
def test_a_score_that_is_no_finite_number_counts_as_undefined(value: Any, tmp_path: Path) -> None:
    make(tmp_path / "a", acc=0.25)
    bad = make(tmp_path / "b", seed=1)
    change(bad / "result.json", acc=value, kmeans_raw={"acc": value, "ari": 0.5})
    change(bad / "metrics.jsonl", **{"loss/reconstruction": value})
    (group,) = groups_of(tmp_path, f"csv={tmp_path / 'table.csv'}")
    assert len(group.runs) == 2
    assert group.scores["acc"] == (0.25, None, 1)
    assert group.scores["kmeans_raw.acc"] == (0.125, None, 1)
    assert group.scores["kmeans_raw.ari"] == (0.5, None, 1)
    assert "reconstruction" not in group.scores


@pytest.mark.parametrize("epochs", [3, {"joint": 4}, {"pretrain": "4", "joint": 4}])
def test_a_number_of_epochs_that_is_none_is_damage(epochs: Any, tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    change(run / "manifest.json", epochs={"pretrain": 3, "joint": 4})
    assert reading.n_epochs_of(run, "pretrain") == 3
    change(run / "manifest.json", epochs=epochs)
    with pytest.raises(reading.DamagedRun, match="epochs"):
        reading.n_epochs_of(run, "pretrain")


def test_settings_data_and_paths_of_a_run_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;pwn\x07"
    for number, sha in enumerate("ab"):
        run = make(tmp_path / f"{number}{evil}", sha=sha * 64, optimizer={"schedule": f"{number}{evil}"})
        change(run / "manifest.json", data={"name": evil, "sha256": sha * 64, "shape": [4, 2]})
    make(tmp_path / f"2{evil}", sha="b" * 64, optimizer={"schedule": f"1{evil}"})
    groups_of(tmp_path, f"markdown={tmp_path / 'x.md'}")
    captured = capsys.readouterr()
    for text in (captured.out, captured.err, (tmp_path / "x.md").read_text()):
        assert "\\x1b]0;pwn\\x07" in text
        assert all(line.isprintable() for line in text.splitlines())


def test_the_reason_of_a_run_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a")
    change(make(tmp_path / "b", seed=1, status="failed") / "manifest.json", reason="gone \x1b[2J\ud800")
    groups_of(tmp_path)
    assert "gone \\x1b[2J\\ud800" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [(), (0, 1, -1, 0), (0, 1, 2**40, 0), (0, 1, 10**30, 0)])
def test_assignments_that_no_run_writes_leave_out_the_agreement_alone(
    labels: Sequence[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a")
    bad = make(tmp_path / "b", seed=1, labels=labels)
    (group,) = groups_of(tmp_path)
    assert "agreement" not in group.scores
    assert group.scores["acc"].n == 2
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {bad / 'assignments.csv'}: cannot be read (")
    assert error.count("\n") == 1


def test_half_a_last_line_of_a_killed_run_is_no_damage(tmp_path: Path) -> None:
    run = make(tmp_path / "a", status="running")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"phase": "jo')
    assert groups_of(tmp_path, "each=true")[0].scores["acc"].mean == 0.25


def test_damaged_assignments_leave_out_the_agreement_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        make(tmp_path / str(seed), seed=seed)
    (tmp_path / "1" / "assignments.csv").write_text("index,cluster\n0,x\n", encoding="utf-8")
    (group,) = groups_of(tmp_path)
    assert len(group.completed) == 3
    assert group.scores["agreement"] == (1.0, None, 1)
    assert "left out of the agreement" in capsys.readouterr().err


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "PATH: missing"),
        (["each=true"], "PATH: missing"),
        (["nowhere"], "nowhere: no such folder"),
        (["no*where"], "no*where: matches nothing"),
        (["."], ".: no runs in it"),
        (["run", "csvv=x"], "csvv=x: expected a key of this command; did you mean csv?"),
        (["run", "each=perhaps"], "each=perhaps: expected true or false"),
        (["run", "sort=accuracy"], "sort=accuracy: expected a score of these runs; did you mean sort=acc?"),
        (["run", "sort=effective"], "sort=effective: expected a score of these runs; did you mean sort=n_effective_cl"),
        (["run", "sort=xyz"], "sort=xyz: expected a score of these runs; choose one of acc,"),
        (["run", "csv=out.csv", "pairs=./out.csv"], "csv=out.csv: expected one file for each key"),
        (["unfinished", "figure=out.png"], "figure=out.png: expected a completed run to draw"),
        (["run", "csv=out.txt"], "csv=out.txt: expected a name ending in .csv"),
        (["run", "figure=no/out.png"], "figure=no/out.png: expected a file in an existing folder"),
        (["run", "markdown=there.md"], "markdown=there.md: the file exists"),
        (["run", "pairs=out.csv"], "pairs=out.csv: expected two completed runs or more"),
        (["damaged"], "PATH: none of the runs can be read"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "run")
    (make(tmp_path / "damaged") / "result.json").write_text("{", encoding="utf-8")
    make(tmp_path / "unfinished", status="interrupted")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.md").touch()
    monkeypatch.chdir(tmp_path / "empty" if words == ["."] else tmp_path)
    with pytest.raises(UserError) as caught:
        compare.work(words)
    assert str(caught.value).startswith(expected)
    assert not (tmp_path / "out.csv").exists()


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_files_hold_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        make(tmp_path / "runs" / str(seed), seed=seed, acc=0.5 + seed / 4)
        make(tmp_path / "runs" / f"more{seed}", seed=seed, weight=1.0)
    out = tmp_path / "out"
    out.mkdir()
    words = [f"csv={out}/t.csv", f"markdown={out}/t.md", f"figure={out}/t.png"]
    compare.work([str(tmp_path / "runs"), *words])
    with (out / "t.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["clustering.weight"], first["n_runs"], first["seeds"]) == ("0.1", "2", "0 1")
    assert float(first["acc"]) == 0.625
    assert float(first["acc_sd"]) == pytest.approx(statistics.stdev([0.5, 0.75]))
    assert float(second["kmeans_pretrained.acc"]) == 0.25
    markdown = (out / "t.md").read_text(encoding="utf-8")
    assert "| clustering.weight | runs | ACC |" in markdown
    assert "| 0.1 | 2 | 0.625 ± 0.177 |" in markdown
    assert imread(out / "t.png").shape[1] >= 1080  # pixels: legible at a laptop's size
    assert capsys.readouterr().out.count("written: ") == 3
    with pytest.raises(UserError, match="overwrite=true"):
        compare.work([str(tmp_path / "runs"), *words])
    compare.work([str(tmp_path / "runs"), *words, "overwrite=true"])


def test_runs_without_labels_are_compared_by_what_they_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "runs" / "a", acc=None)
    make(tmp_path / "runs" / "b", acc=None, weight=1.0)
    titles: list[str] = []
    drawn = comparison
    monkeypatch.setattr(
        "dkm.evaluation.figures.comparison.comparison",
        lambda names, values, *rest: titles.extend(values) or drawn(names, values, *rest),
    )
    compare.work([str(tmp_path / "runs"), f"figure={tmp_path}/t.png"])
    out = capsys.readouterr().out
    assert "ACC" not in out
    assert "sil. own" in out
    assert titles == ["sil. own", "eff. K", "seconds"]


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_runs_of_the_trainer_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [
        "data=blobs",
        "data.n_samples=200",
        "model.hidden=[8]",
        "recipe=classic",
        "pretrain.epochs=1",
        "joint.epochs=1",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
    ]
    for seed in (0, 1):
        words = [f"seed={seed}", f"hydra.run.dir={tmp_path / str(seed)}", "log.progress=off", "threads=1", *quick]
        assert train._main(words) == 0
    capsys.readouterr()
    (group,) = groups_of(tmp_path)
    assert [run.seed for run in group.runs] == [0, 1]
    result = json.loads((tmp_path / "0" / "result.json").read_text(encoding="utf-8"))
    assert group.runs[0].scores["acc"] == result["acc"]
    assert {"acc", "modularity_data", "agreement", "seconds", "kmeans_raw.acc"} <= group.scores.keys()
    assert "seed" not in group.runs[0].settings
    assert group.runs[0].settings["clustering.weight"] == group.runs[1].settings["clustering.weight"]


def test_a_thousand_runs_take_under_five_seconds(tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    config = (source / "config.yaml").read_text(encoding="utf-8").replace('"seed": 0', '"seed": {seed}, "x": {x}')
    config = config.replace("{", "{{").replace("}", "}}").replace("{{seed}}", "{seed}").replace("{{x}}", "{x}")
    for number in range(1000):
        run = tmp_path / "many" / f"run{number}"
        run.mkdir(parents=True)
        text = config.format(seed=number % 5, x=number // 5)
        (run / "config.yaml").write_text(text, encoding="utf-8")
        for name in ("manifest.json", "result.json", "metrics.jsonl"):
            (run / name).hardlink_to(source / name)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dkm.compare", str(tmp_path / "many")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # time of the processor: others on the machine do not count
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 5
    assert "1000 runs of 200 settings: 1000 completed" in done.stdout


def test_output_names_files_by_their_suffixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run")
    compare.work([str(run), f"output={tmp_path / 'a.csv'},{tmp_path / 'a.md'}"])
    compare.work([str(run), f"csv={tmp_path / 'b.csv'}", f"markdown={tmp_path / 'b.md'}"])
    for suffix in (".csv", ".md"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with pytest.raises(UserError, match=r"^output=a\.txt: expected a name ending in \.csv, \.md, \.png; correct it$"):
        compare.work([str(run), "output=a.txt"])
    with pytest.raises(UserError, match=r"^output=c\.csv and csv=d\.csv: expected one file; leave one of them out$"):
        compare.work([str(run), "output=c.csv", "csv=d.csv"])
