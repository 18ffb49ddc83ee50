"""`dkm.clustering.partition`: each method finds what k-means cannot, on all points and on a sample."""

import logging

import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from torch import from_numpy

from dkm.clustering.graph import improve_modularity, modularity, neighbor_graph
from dkm.clustering.lloyd import kmeans
from dkm.clustering.partition import METHODS, MixtureFailed, choose, partition, spread
from dkm.data.sampling import draw_rows


def stretched(n_samples=600, seed=0):
    """A cloud that is twelve times as long as wide, and a round one beside its middle: k-means halves the long one."""
    random = np.random.default_rng(seed)
    y = np.arange(n_samples) % 2
    z = random.normal(size=(n_samples, 2)) * np.where(y[:, None], [0.5, 0.5], [6, 0.5])
    z[:, 1] += 4 * y
    return z.astype(np.float32), y


def parts_of(z, n_clusters, method, *, samples=10_000, n_neighbors=10, seed=0):
    return partition(z, n_clusters, method, samples=samples, n_neighbors=n_neighbors, seed=seed)


@pytest.mark.parametrize("samples", [10_000, 150])
@pytest.mark.parametrize("method", METHODS)
def test_blobs_are_found(method, samples):
    z, y = make_blobs(500, 4, centers=6, cluster_std=0.5, random_state=0)
    labels = parts_of(z.astype(np.float32), 6, method, samples=samples)
    assert labels.dtype == np.int64
    assert adjusted_rand_score(y, labels) == 1


@pytest.mark.parametrize("samples", [10_000, 300])
def test_a_mixture_sees_stretched_clouds_where_k_means_does_not(samples):
    z, y = stretched()
    assert adjusted_rand_score(y, kmeans(from_numpy(z), 2).labels.numpy()) < 0.5
    assert adjusted_rand_score(y, parts_of(z, 2, "gmm", samples=samples)) > 0.95


@pytest.mark.parametrize("samples", [10_000, 300])
def test_spectral_clustering_sees_what_hangs_together(samples):
    z, y = make_moons(600, noise=0.05, random_state=0)
    assert adjusted_rand_score(y, kmeans(from_numpy(z).float(), 2).labels.numpy()) < 0.6
    assert adjusted_rand_score(y, parts_of(z.astype(np.float32), 2, "spectral", samples=samples)) > 0.98


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_the_scale_of_the_points_does_not_matter(method, scale):
    """A fresh encoder on rows of length 1 makes an embedding with a standard deviation of 5e-4."""
    z, y = make_blobs(300, 4, centers=4, cluster_std=0.5, random_state=0)
    assert adjusted_rand_score(y, parts_of((scale * z).astype(np.float32), 4, method)) == 1


@pytest.mark.parametrize(("n_points", "n_clusters"), [(60, 8), (200, 20)])
@pytest.mark.parametrize("scale", [1e6, 1e9])
def test_a_mixture_is_fitted_to_points_of_a_large_scale(scale, n_points, n_clusters):
    """A millionth of the unit is less than the rounding of their covariances, which scikit-learn then refuses."""
    z, _ = make_blobs(n_points, 4, centers=n_clusters, random_state=0)
    labels = parts_of((scale * z).astype(np.float32), n_clusters, "gmm")
    assert len(np.unique(labels)) > n_clusters / 2
    choice = chosen((scale * z).astype(np.float32), n_clusters, n_neighbors=5)
    assert "gmm" in choice.modularity


def test_a_mixture_that_cannot_be_fitted_is_no_candidate(monkeypatch, caplog):
    z, y = make_blobs(100, 4, centers=3, random_state=0)
    expected = chosen(z, 3)
    added = []

    def fail(self, z):
        added.append(self.reg_covar)
        raise ValueError("Fitting the mixture model failed")

    monkeypatch.setattr(GaussianMixture, "fit_predict", fail)
    with caplog.at_level(logging.INFO):
        choice = chosen(z, 3)
    assert choice.modularity == {name: value for name, value in expected.modularity.items() if name != "gmm"}
    assert adjusted_rand_score(y, choice.labels) == 1
    assert added == pytest.approx([1e-6, 1e-6 * z.var(0).mean()])
    assert "without gmm (a component of the mixture of 3 has a singular covariance)" in caplog.text
    with pytest.raises(MixtureFailed, match="mixture of 3"):
        parts_of(z, 3, "gmm")


@pytest.mark.parametrize("method", METHODS)
def test_as_many_parts_as_points_or_equal_points_are_no_trouble(method):
    assert sorted(parts_of(np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32), 12, method)) == [
        *range(12)
    ]
    assert set(parts_of(np.ones((12, 2), np.float32), 3, method)) <= {0, 1, 2}


def test_a_graph_in_pieces_is_no_trouble():
    z = np.concatenate([np.zeros((30, 2)), 100 + np.zeros((30, 2))]) + np.random.default_rng(0).normal(size=(60, 2))
    labels = parts_of(z.astype(np.float32), 2, "spectral", n_neighbors=5)
    assert adjusted_rand_score(np.arange(60) // 30, labels) == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_the_sample_and_all_else(method):
    z, _ = make_blobs(300, 3, centers=5, cluster_std=3.0, random_state=0)
    first = parts_of(z, 5, method, samples=100, seed=1)
    assert (parts_of(z, 5, method, samples=100, seed=1) == first).all()
    assert not (parts_of(z, 5, method, samples=100, seed=2) == first).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_cluster_is_everything(method):
    assert (parts_of(np.random.default_rng(0).normal(size=(20, 2)), 1, method) == 0).all()


# --- the choice ---------------------------------------------------------------------------------------------


def chosen(z, n_clusters, n_neighbors=10):
    given = {"k-means": kmeans(from_numpy(z), n_clusters).labels.numpy()}
    return choose(z, n_clusters, given, n_neighbors=n_neighbors, seed=0)


def test_the_clustering_with_the_highest_modularity_is_chosen():
    X, y = make_moons(600, noise=0.05, random_state=0)
    choice = chosen(X.astype(np.float32), 2)
    assert adjusted_rand_score(y, choice.labels) > 0.98
    assert set(choice.modularity) == {"k-means", "gmm", "spectral", "spectral-20", "spectral-40", "ward"}
    assert choice.modularity[choice.name] == max(choice.modularity.values())
    assert choice.modularity[choice.name] == modularity(neighbor_graph(X.astype(np.float32), 20), choice.labels)


def test_clouds_that_k_means_halves_are_found():
    z, y = stretched()
    assert adjusted_rand_score(y, chosen(z, 2).labels) > 0.95


def test_the_choice_sees_what_was_given():
    z, y = make_blobs(500, 3, centers=4, cluster_std=0.3, random_state=0)
    choice = choose(z, 4, {"ours": y.astype(np.int64)}, n_neighbors=10, seed=0)
    assert choice.modularity["ours"] == pytest.approx(max(choice.modularity.values()))
    assert adjusted_rand_score(y, choice.labels) == 1


def test_of_candidates_with_similar_modularity_the_most_even_wins(monkeypatch):
    z, y = make_blobs([80, 20], 2, centers=[[0, 0], [9, 0]], cluster_std=0.5, random_state=0)
    uneven, even = y.astype(np.int64), np.arange(100) % 2  # the clouds, and halves of both
    monkeypatch.setattr("dkm.clustering.partition._cluster", lambda *arguments: uneven)
    monkeypatch.setattr(
        "dkm.clustering.partition.improve_modularity", lambda graph, labels, *arguments, **settings: labels
    )
    for slack, expected in ((0.0, uneven), (0.01, uneven), (1.0, even)):
        choice = choose(z, 2, {"even": even}, n_neighbors=10, slack=slack, seed=0)
        assert choice.labels.tolist() == expected.tolist()
    assert choice.modularity["even"] < choice.modularity["gmm"] - 0.01


def test_few_points_have_few_neighbors():
    z = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    assert chosen(z, 2).labels.shape == (6,)


def test_an_improved_partition_has_no_better_neighbor():
    z, _ = make_blobs(60, 3, centers=4, cluster_std=3.0, random_state=0)
    graph, start = neighbor_graph(z, 8), np.random.default_rng(0).integers(0, 4, 60)
    before = start.copy()
    labels = improve_modularity(graph, start, 4)
    assert (start == before).all()
    reached = modularity(graph, labels)
    assert reached > modularity(graph, start)
    for point in range(60):
        for k in range(4):
            other = labels.copy()
            other[point] = k
            assert modularity(graph, other) <= reached + 1e-12


def test_improving_leaves_no_part_without_a_point():
    z, y = make_blobs(60, 2, centers=2, cluster_std=0.2, random_state=0)
    start = np.zeros(60, np.int64)
    start[:2] = 1, 2  # two clouds, and a part of one point in each
    labels = improve_modularity(neighbor_graph(z, 8), start, 3)
    assert np.bincount(labels, minlength=3).min() >= 1
    start = y.astype(np.int64)
    start[np.flatnonzero(y)[:2]] = 2  # two points of one cloud: when one has left, the other must stay
    labels = improve_modularity(neighbor_graph(z, 8), start, 3)
    assert np.bincount(labels).tolist() == [30, 29, 1]


def test_the_labels_of_picked_points_spread_to_the_nearest():
    z, y = make_blobs(500, 4, centers=6, cluster_std=0.5, random_state=0)
    picks = draw_rows(500, 100)
    assert (spread(z, picks, y[picks]) == y).all()


@pytest.mark.parametrize("seed", range(6))
def test_no_move_of_a_single_point_raises_an_improved_modularity(seed: int) -> None:
    random = np.random.default_rng(seed)
    graph = neighbor_graph(random.normal(size=(60, 2)), 4)
    labels = improve_modularity(graph, random.integers(4, size=60), 4, seed=seed)
    best = modularity(graph, labels)
    for point in range(60):
        for cluster in range(4):
            moved = labels.copy()
            moved[point] = cluster
            assert modularity(graph, moved) <= best + 1e-6
