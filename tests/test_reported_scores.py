"""What a finished run reports, computed again from its model by scikit-learn and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist
from sklearn import metrics
from sklearn.datasets import make_blobs
from sklearn.neighbors import kneighbors_graph
from written import json_of, records_of, rows_of

from dkm.estimator import DeepKMeans
from dkm.train import _main as main

N, N_FEATURES, K, LATENT_DIM = 150, 5, 4, 3
# The embedding is float32, and its distances are sums in another order.
REL = 1e-4

Matrix = np.ndarray[Any, Any]


class Finished(NamedTuple):
    X: Matrix  # (N, F)
    y: Matrix  # (N,)
    z: Matrix  # (N, D)
    centroids: Matrix  # (K, D)
    labels: Matrix  # (N,)
    path: Path

    @property
    def result(self) -> dict[str, Any]:
        return json_of(self.path / "result.json")

    def rows(self, name: str) -> list[dict[str, str]]:
        return rows_of(self.path / name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run on overlapping blobs, so that no score is at the end of its range."""
    folder = tmp_path_factory.mktemp("scores")
    X, y = make_blobs(N, N_FEATURES, centers=K, cluster_std=4.0, random_state=0)
    X = (X / 4).astype(np.float32)
    np.savez(folder / "blobs.npz", x=X, y=y)
    words = ["data=npz", f"data.path={folder / 'blobs.npz'}", "data.labels=y", "data.scaling=none", "batch_size=50"]
    words += [
        f"model.latent_dim={LATENT_DIM}",
        "model.hidden=[16]",
        "recipe=classic",
        "pretrain.epochs=20",
        "joint.epochs=3",
    ]
    words += ["pretrain.lr=0.01", "joint.tolerance=0", "joint.lr=0.003", "clustering.n_init=3", "threads=1"]
    words += ["device=cpu", "log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off"]
    assert main([*words, f"hydra.run.dir={folder / 'run'}"]) == 0
    model = DeepKMeans.load(folder / "run")
    z = model.embed(X.astype(np.float64)).astype(np.float64)
    centroids = model.cluster_centers_.astype(np.float64)
    return Finished(X.astype(np.float64), y, z, centroids, cdist(z, centroids).argmin(1), folder / "run")


def test_the_assignments_are_the_nearest_centroids_with_their_distances(run: Finished) -> None:
    rows = run.rows("assignments.csv")
    distances = np.sort(cdist(run.z, run.centroids), axis=1)
    assert [int(row["index"]) for row in rows] == list(range(N))
    assert [int(row["cluster"]) for row in rows] == run.labels.tolist()
    assert [int(row["label"]) for row in rows] == run.y.tolist()
    np.testing.assert_allclose([float(row["distance"]) for row in rows], distances[:, 0], rtol=REL)
    np.testing.assert_allclose(
        [float(row["margin"]) for row in rows], distances[:, 1] - distances[:, 0], rtol=REL, atol=1e-5
    )


def test_the_scores_against_labels_are_those_of_scikit_learn(run: Finished) -> None:
    table = metrics.cluster.contingency_matrix(run.y, run.labels)
    n_right = table[linear_sum_assignment(-table)].sum()
    assert N / 2 < n_right < N
    assert run.result["acc"] == pytest.approx(n_right / N, rel=1e-12)
    assert run.result["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(run.y, run.labels), rel=1e-12)
    assert run.result["ari"] == pytest.approx(metrics.adjusted_rand_score(run.y, run.labels), rel=1e-12)


def test_the_scores_in_the_embedding_are_those_of_scikit_learn(run: Finished) -> None:
    result, z, labels = run.result, run.z, run.labels
    assert result["silhouette"] == pytest.approx(metrics.silhouette_score(z, labels), rel=REL)
    assert result["davies_bouldin"] == pytest.approx(metrics.davies_bouldin_score(z, labels), rel=REL)
    assert result["calinski_harabasz"] == pytest.approx(metrics.calinski_harabasz_score(z, labels), rel=REL)
    assert result["inertia"] == pytest.approx(np.square(z - run.centroids[labels]).sum(), rel=REL)


def test_the_scores_in_the_data_see_the_rows_and_not_the_embedding(run: Finished) -> None:
    assert run.result["silhouette_data"] == pytest.approx(metrics.silhouette_score(run.X, run.labels), rel=REL)
    directed = kneighbors_graph(run.X, min(20, N // 8)).toarray()
    A = np.maximum(directed, directed.T)
    degree, is_same = A.sum(1), run.labels[:, None] == run.labels
    modularity = ((A - np.outer(degree, degree) / A.sum()) * is_same).sum() / A.sum()
    assert run.result["modularity_data"] == pytest.approx(modularity, rel=1e-9)
    mixing = np.array([[A[run.labels == k][:, run.labels == j].sum() for j in range(K)] for k in range(K)]) / A.sum()
    by_chance = (mixing.sum(0) * mixing.sum(1)).sum()
    assortativity = (np.trace(mixing) - by_chance) / (1 - by_chance)
    assert run.result["assortativity_data"] == pytest.approx(assortativity, rel=1e-9)


def test_the_sizes_and_their_perplexity(run: Finished) -> None:
    share = np.bincount(run.labels, minlength=K) / N
    assert run.result["n_effective_clusters"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-12)
    assert (run.result["n_clusters"], run.result["n_samples"]) == (K, N)


def test_the_last_evaluation_is_that_of_the_final_model(run: Finished) -> None:
    record = records_of(run.path)[-1]
    for name in ("acc", "nmi", "ari", "silhouette", "davies_bouldin", "calinski_harabasz", "modularity_data"):
        assert record[f"metrics/{name}"] == pytest.approx(run.result[name], rel=1e-6)
    assert record["clusters/sizes"] == np.bincount(run.labels, minlength=K).tolist()
    assert record["embedding/variance"] == pytest.approx(run.z.var(0).sum(), rel=REL)
    assert record["clusters/smallest_centroid_distance"] == pytest.approx(pdist(run.centroids).min(), rel=REL)


def test_the_exemplars_are_the_first_ten_by_distance_and_by_margin(run: Finished) -> None:
    distances = np.sort(cdist(run.z, run.centroids), axis=1)
    values = {"nearest": distances[:, 0], "least_certain": distances[:, 1] - distances[:, 0]}
    rows = run.rows("exemplars.csv")
    assert len(rows) == 2 * K * 10
    for k in range(K):
        members = np.flatnonzero(run.labels == k)
        assert len(members) > 10
        for kind, value in values.items():
            expected = members[value[members].argsort(kind="stable")[:10]]
            told = [row for row in rows if (int(row["cluster"]), row["kind"]) == (k, kind)]
            assert [int(row["rank"]) for row in told] == list(range(1, 11))
            assert [int(row["index"]) for row in told] == expected.tolist()


def test_the_features_of_a_cluster_are_ordered_by_their_standardized_difference(run: Finished) -> None:
    rows = run.rows("features.csv")
    assert len(rows) == K * N_FEATURES
    for k in range(K):
        mine, others = run.X[run.labels == k], run.X[run.labels != k]
        pooled = np.sqrt((len(mine) * mine.var(0) + len(others) * others.var(0)) / N)
        difference = (mine.mean(0) - others.mean(0)) / pooled
        order = np.abs(difference).argsort()[::-1]
        told = [row for row in rows if int(row["cluster"]) == k]
        assert [int(row["feature"]) for row in told] == order.tolist()
        for name, expected in {
            "difference": difference[order],
            "mean": mine.mean(0)[order],
            "mean_of_others": others.mean(0)[order],
        }.items():
            np.testing.assert_allclose([float(row[name]) for row in told], expected, rtol=REL, atol=1e-6)
