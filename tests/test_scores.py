"""``SCORES``: what is said of each score, what a context computes once, and that a new score is found everywhere."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import homogeneity_score

from dkm import compare, train
from dkm.evaluation import metrics, printed_scores
from dkm.evaluation.scores import SCORES, SPACES, Score, ScoreContext, compute_scores, objectives
from dkm.runs.comparison import is_higher_better
from dkm.runs.tensorboard import layout

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Z = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
LABELS = np.arange(40) % 4


class Data:
    """Forty rows that are their own sample."""

    n_clusters = 5
    silhouette_samples = 30

    def __init__(self, y: np.ndarray | None) -> None:
        self.y, self.X = y, X

    @property
    def neighbors(self) -> metrics.NeighborSample | None:
        return metrics.sample_neighbors(self.X, 30)

    def sampled_labels(self, labels: np.ndarray) -> np.ndarray:
        return labels


def context_of(y: np.ndarray | None = None, points: np.ndarray = Z) -> ScoreContext:
    return ScoreContext(Data(y), LABELS, points, inertia=12.5)


def test_every_score_is_that_of_its_formula() -> None:
    y = np.arange(40) % 3
    found = compute_scores(context_of(y), final=True)
    neighbors = metrics.sample_neighbors(X, 30)
    assert neighbors is not None
    dispersion = metrics.dispersion(Z, LABELS)
    assert found == {
        "acc": metrics.accuracy(y, LABELS),
        "nmi": metrics.normalized_mutual_information(y, LABELS),
        "ari": metrics.adjusted_rand_index(y, LABELS),
        "silhouette": metrics.silhouette(Z, LABELS, max_samples=30),
        "davies_bouldin": dispersion.davies_bouldin,
        "calinski_harabasz": dispersion.calinski_harabasz,
        "n_effective_clusters": pytest.approx(4.0),
        "inertia": 12.5,
        "modularity_data": neighbors.modularity(LABELS),
        "assortativity_data": neighbors.score(LABELS).assortativity,
        "silhouette_data": metrics.silhouette(X, LABELS, max_samples=30),
    }
    assert found.keys() == SCORES.keys()


def test_files_list_the_scores_by_what_they_compare_with() -> None:
    spaces = [SPACES.index(SCORES[name].space) for name in compute_scores(context_of(np.zeros(40, int)), final=True)]
    assert spaces == sorted(spaces)


def test_scores_that_need_labels_or_take_long_are_left_out() -> None:
    unlabeled = compute_scores(context_of(), final=False)
    assert not {"acc", "nmi", "ari"} & unlabeled.keys()
    assert SCORES.keys() - unlabeled.keys() == {"acc", "nmi", "ari", "assortativity_data", "silhouette_data"}


def test_no_score_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("silhouette", "dispersion"):
        function = getattr(metrics, name)

        def counted(*args: Any, name: str = name, function: Any = function, **more: Any) -> Any:
            calls.append(name)
            return function(*args, **more)

        monkeypatch.setattr(metrics, name, counted)
    compute_scores(context_of(), final=True)
    assert sorted(calls) == ["dispersion", "silhouette", "silhouette"]
    calls.clear()
    raw = compute_scores(context_of(points=X), final=True)  # the data are the space that was clustered
    assert sorted(calls) == ["dispersion", "silhouette"]
    assert raw["silhouette_data"] == raw["silhouette"]


def test_the_label_of_a_score_is_its_own_and_fits_into_the_table() -> None:
    labels = [score.label for score in SCORES.values()]
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) < 11


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("acc", True), ("davies_bouldin", False), ("inertia", False), ("kmeans_raw.davies_bouldin", False)),
        *(("kmeans_raw.acc", True), ("seconds", False), ("reconstruction", False), ("agreement", True)),
    ],
)
def test_a_comparison_knows_the_direction_of_every_number(name: str, expected: bool) -> None:
    assert is_higher_better(name) == expected


def test_the_objectives_of_a_search_are_those_of_the_scores() -> None:
    assert {score.name: score.direction for score in objectives(with_labels=False)} == {
        "modularity_data": "maximize",
        "silhouette": "maximize",
        "davies_bouldin": "minimize",
        "calinski_harabasz": "maximize",
    }
    assert {score.name for score in objectives(with_labels=True)} == {"acc", "nmi", "ari"}


def test_importing_the_scores_loads_nothing_slow() -> None:
    program = "import sys, dkm.evaluation.scores; print({'numpy', 'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


# --- a new score ------------------------------------------------------------------------------------------------------


def test_a_new_score_is_one_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which result.json, metrics.jsonl, the tables, the dashboard and the comparison of runs then have."""
    homogeneity = Score(
        "homogeneity", "HOM", "labels", True, lambda context: float(homogeneity_score(context.y, context.labels))
    )
    largest = Score(
        "largest", "largest", "sizes", False, lambda context: float(context.sizes.max() / len(context.labels))
    )
    monkeypatch.setitem(SCORES, "homogeneity", homogeneity)
    monkeypatch.setitem(SCORES, "largest", largest)
    np.savez(tmp_path / "x.npz", x=load_digits().images[:150], y=load_digits().target[:150])
    words = [
        "data=npz",
        f"data.path={tmp_path / 'x.npz'}",
        "data.labels=y",
        "model.hidden=[8]",
        "recipe=classic",
        "pretrain.epochs=1",
    ]
    words += ["joint.epochs=1", "clustering.n_init=1", "log.figures=false"]
    runs = [tmp_path / "runs" / str(seed) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        assert train._main([*words, f"seed={seed}", f"hydra.run.dir={run}"]) == 0
    result = json.loads((runs[0] / "result.json").read_text(encoding="utf-8"))
    rows = np.genfromtxt(runs[0] / "assignments.csv", delimiter=",", names=True)
    assert result["homogeneity"] == pytest.approx(homogeneity_score(rows["label"], rows["cluster"]))
    assert {"homogeneity", "largest"} <= result["kmeans_raw"].keys() & result["kmeans_pretrained"].keys()
    *_, record = map(json.loads, (runs[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert record["metrics/largest"] == result["largest"]

    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if line.split()[:1] == ["ACC"])
    assert head.split()[-2:] == ["HOM", "largest"]
    assert f"HOM {result['homogeneity']:.4f}" in out  # the line of an evaluation
    scores = layout(has_labels=True)["Scores and baselines"]
    assert list(scores)[-2:] == ["homogeneity", "largest"]
    assert "homogeneity" not in layout(has_labels=False)["Scores and baselines"]

    compare.work([str(tmp_path / "runs"), f"csv={tmp_path / 'table.csv'}", "sort=largest"])
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if "ACC" in line)
    assert {"HOM", "largest"} <= set(head.split())
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert {"homogeneity", "homogeneity_sd", "kmeans_raw.largest"} <= row.keys()


def test_a_score_for_files_alone_is_in_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "one", Score("one", "one", "sizes", True, lambda context: 1.0, shown="file"))
    scores = compute_scores(context_of(), final=False)
    assert scores["one"] == 1.0
    head, _ = printed_scores.table(None, None, scores, name="kmeans")
    assert "one" not in head.split()
    assert "one" not in printed_scores.line(scores)
