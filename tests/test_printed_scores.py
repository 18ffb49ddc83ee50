"""What a run says of its scores at the end."""

import json
from pathlib import Path

import numpy as np
import pytest

from dkm import train
from dkm.evaluation import printed_scores
from dkm.evaluation.scores import Scores


def scores(modularity: float | None, effective: float | None) -> Scores:
    return {"modularity_data": modularity, "n_effective_clusters": effective}


@pytest.mark.parametrize(
    ("raw", "final", "n_clusters", "told"),
    [
        (0.78, scores(0.82, 9.9), 10, None),
        (0.78, scores(0.731, 9.9), 10, None),  # no more than noise, which is 0.05
        (0.8, scores(0.75, 9.9), 10, None),
        (0.78, scores(0.729, 9.9), 10, "the modularity of the clusters on the data (0.729) is lower than"),
        # 95 % of the rows in one cluster: 1.22 effective ones of 2, and 1.36 of 10.
        (None, scores(0.5, 1.37), 10, None),
        (None, scores(0.5, 1.35), 10, "nearly all rows are in one of the 10 clusters"),
        (None, scores(0.5, 1.5), 2, None),  # 86 %
        (None, scores(0.5, 1.23), 2, None),
        (None, scores(0.5, 1.2), 2, "nearly all rows are in one of the 2 clusters"),
        (0.78, scores(0.12, 8.0), 10, "the modularity of the clusters on the data (0.120) is lower than"),
        (0.78, scores(0.0, 1.0), 10, "nearly all rows are in one of the 10 clusters: the embedding has collapsed"),
        (None, scores(0.0, 1.2), 10, "nearly all rows are in one of the 10 clusters"),
        (None, scores(0.1, 9.0), 10, None),
        (0.0, scores(0.0, 1.0), 1, None),
        (0.78, scores(None, 9.9), 10, None),
    ],
)
def test_scores_that_speak_against_a_clustering_give_a_warning(
    raw: float | None, final: Scores, n_clusters: int, told: str | None
) -> None:
    found = printed_scores.clustering_warning(None if raw is None else scores(raw, 9.0), final, n_clusters)
    assert (found is None) == (told is None)
    assert found is None or (found.startswith(told or "") and "\n" not in found)


@pytest.mark.parametrize(
    ("raw", "pretrained", "final", "n_clusters", "highest"),
    [
        (0.280, 0.263, 0.282, 4, "0.282"),
        (0.280, None, 0.1, 4, "0.280"),
        (None, 0.263, 0.282, 4, "0.282"),
        (0.280, 0.263, 0.3, 4, None),
        (0.280, 0.31, 0.282, 4, None),  # a baseline is not poor
        (0.31, 0.263, 0.282, 4, None),
        (None, None, 0.282, 4, None),  # one poor clustering says little of the data
        (0.280, 0.263, None, 4, None),
        (0.0, 0.0, 0.0, 1, None),  # by definition, whatever the rows
    ],
)
def test_data_on_which_every_clustering_is_poor_give_a_warning(
    raw: float | None, pretrained: float | None, final: float | None, n_clusters: int, highest: str | None
) -> None:
    of_raw, of_pretrained = (None if value is None else scores(value, 4.0) for value in (raw, pretrained))
    found = printed_scores.structure_warning(of_raw, of_pretrained, scores(final, 4.0), n_clusters)
    said = f"the modularity of all clusterings on the data is at most {highest}: the data hardly fall into clusters"
    assert found == (None if highest is None else said)


def test_small_clusters_that_hang_together_are_not_poor() -> None:
    """A tenth of the rows far from all others: the modularity cannot exceed 0.18, and the assortativity is 1."""
    apart: Scores = {"modularity_data": 0.173, "assortativity_data": 1.0}
    split: Scores = {"modularity_data": 0.275, "assortativity_data": 0.557}
    assert printed_scores.structure_warning(split, apart, split, 2) is None
    assert printed_scores.structure_warning(split, split, apart, 2) is None
    assert printed_scores.structure_warning(split, split, split, 2) is not None


def test_clusters_as_uneven_as_those_of_the_raw_data_are_no_collapse() -> None:
    raw, uneven = scores(0.5, 1.25), scores(0.5, 1.1)
    assert printed_scores.clustering_warning(raw, uneven, 3) is None
    assert printed_scores.clustering_warning(scores(0.5, 2.0), uneven, 3) is not None


def test_the_line_of_an_evaluation_has_the_scores_against_labels_else_the_others() -> None:
    label_free: Scores = {"modularity_data": 0.81234, "silhouette": None, "davies_bouldin": 0.5, "inertia": 1234.56}
    assert printed_scores.line(label_free) == "mod. data 0.8123, sil. own -"
    assert (
        printed_scores.line({"acc": 0.9, "nmi": 0.85, "ari": 1.0} | label_free) == "ACC 0.9000, NMI 0.8500, ARI 1.0000"
    )


def test_the_table_has_a_row_for_each_clustering_that_has_scores() -> None:
    head, raw, final = printed_scores.table({"acc": 0.5}, None, {"acc": 0.75, "inertia": 12.5}, name="dkm")
    assert head.split() == ["ACC", "inertia"]
    assert raw.split() == ["k-means,", "raw", "data", "0.5000", "-"]
    assert final.split() == ["final", "(dkm)", "0.7500", "12.5"]
    assert len(head) == len(raw) == len(final)


def test_a_baseline_that_is_only_more_even_is_told_apart_from_a_better_one() -> None:
    final: Scores = {"modularity_data": 0.663, "assortativity_data": 1.0}
    even: Scores = {"modularity_data": 0.698, "assortativity_data": 0.886}
    told = printed_scores.table(even, final, final, name="dkm")[-1]
    assert told == (
        "The modularity of k-means, raw data is higher, but its assortativity is lower (0.886 for 1.000): its clusters "
        "are more even, not better."
    )
    for other in (
        {"modularity_data": 0.663, "assortativity_data": 0.9},  # not higher
        {"modularity_data": 0.66, "assortativity_data": 0.9},
        {"modularity_data": 0.76, "assortativity_data": 0.886},  # better
        {"modularity_data": 0.698},  # of an earlier version
        {"modularity_data": None, "assortativity_data": None},
    ):
        assert printed_scores.table(other, final, final, name="dkm")[-1].startswith("final (dkm)")


@pytest.mark.parametrize(
    ("learned", "restored", "step", "told"),
    [
        (None, "joint", 120, "step 120, restored: the joint phase ended with worse clusters on the data."),
        (None, "initialization", 60, "k-means, pretrained embedding, restored: the joint phase ended with worse clus"),
        ("kmeans_raw", "kmeans_raw", 170, "step 170, restored: the joint phase ended with worse clusters on the data."),
        ("kmeans_raw", "joint", 120, "step 120, restored: a second joint phase, which started from k-means, raw data"),
        ("kmeans_raw", "joint", None, "an earlier state, restored: a second joint phase, which started from k-means"),
    ],
)
def test_the_state_that_was_restored_is_told(learned: str | None, restored: str, step: int | None, told: str) -> None:
    scores: Scores = {"modularity_data": 0.6, "assortativity_data": 0.7}
    lines = printed_scores.table(
        scores, scores, scores, name="dkm", learned=learned, agreement=0.99, restored=restored, restored_step=step
    )
    text = "\n".join(lines)
    assert f"The final model and clusters are those of {told}" in text
    assert ("learned (adjusted Rand index" in text) == (learned == restored)


def test_labels_of_the_start_that_were_not_learned_are_told() -> None:
    final: Scores = {"modularity_data": 0.6, "assortativity_data": 0.7}
    start: Scores = {"agreement": 0.9, "modularity_data": 0.65, "assortativity_data": 0.75}
    assert printed_scores.table(None, None, final, name="dkm", start=start)[-1] == (
        "The joint phase was to keep the clusters that it started from; the final ones differ from them (adjusted Rand "
        "index 0.900) and are below them: their modularity on the data is 0.600 for 0.650."
    )
    for other in (
        {**start, "agreement": 0.96},  # learned but for a few rows
        {**start, "modularity_data": 0.59},  # not better
        {**start, "modularity_data": None, "assortativity_data": None},
        None,
    ):
        assert printed_scores.not_learned(other, final) is None


def test_no_recorded_run_has_a_warning() -> None:
    """As docs/explanation/judging.md says."""
    paths = sorted((Path(__file__).parents[1] / "docs" / "results").glob("*/*.json"))
    assert paths
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))["result"]
        raw, n_clusters = result["kmeans_raw"], result["n_clusters"]
        assert printed_scores.clustering_warning(raw, result, n_clusters) is None, path
        assert printed_scores.structure_warning(raw, result["kmeans_pretrained"], result, n_clusters) is None, path


def test_the_warning_of_a_run_is_printed_before_its_table_and_kept_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "data=blobs",
        "model.hidden=[4]",
        "recipe=classic",
        "pretrain.epochs=1",
        "joint.epochs=1",
        "clustering.weight=1e4",
    ]
    words += ["joint.lr=0.1", "clustering.n_init=1", "log.figures=false", "log.report=false", "log.tensorboard=false"]
    run = tmp_path / "run"
    assert train._main([*words, f"hydra.run.dir={run}"]) == 0
    (warning,) = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["warnings"]
    lines = capsys.readouterr().out.splitlines()
    (table,) = [i for i, line in enumerate(lines) if line.split()[:1] == ["ACC"]]
    assert lines.index(f"warning: {warning}") < table
    assert f"warning: {warning}" in (run / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("is_noise", [True, False])
def test_a_run_says_once_that_the_data_hardly_fall_into_clusters(
    is_noise: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    if not is_noise:
        X[:, :4] += 9 * np.eye(4, dtype=np.float32)[np.arange(200) % 4]
    np.save(tmp_path / "X.npy", X)
    words = [*("data=npy", f"data.path={tmp_path / 'X.npy'}", "clustering.n_clusters=4", "model.hidden=[8]")]
    words += ["pretrain.steps=5", "joint.steps=5", "log.figures=false", "log.report=false", "log.tensorboard=false"]
    run = tmp_path / "run"
    assert train._main([*words, f"hydra.run.dir={run}"]) == 0
    said = "the data hardly fall into clusters"
    kept = [
        text for text in json.loads((run / "manifest.json").read_text(encoding="utf-8"))["warnings"] if said in text
    ]
    printed = [line for line in capsys.readouterr().out.splitlines() if said in line]
    assert (len(kept), len(printed)) == ((1, 1) if is_noise else (0, 0))
    assert printed == [f"warning: {text}" for text in kept]
