"""`dkm.clustering.initialization`: where the joint phase starts from, and what a file may say about it."""

import logging
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from dkm.clustering import initialization, partition
from dkm.clustering.assignment import means_of_parts
from dkm.clustering.neighborhood import Neighborhood
from dkm.config.clustering import KMeansConfig
from dkm.errors import UserError

K, D, N = 4, 3, 200


@pytest.fixture(scope="module")
def z():
    X, _ = make_blobs(N, D, centers=K, cluster_std=0.5, random_state=0)
    return torch.from_numpy(X.astype(np.float32))


def no_rows(index):
    raise AssertionError("only init=data looks at the rows")


def start_of(z, *, given=None, seed=0, take_rows=no_rows, sample=None, **settings):
    config = KMeansConfig(name="kmeans", **settings)
    restarts = initialization.run_restarts(z, K, config, None, seed)
    neighborhood = Neighborhood(take_rows, sample, 2, seed)
    return initialization.find_start(z, restarts, config, given, seed, neighborhood)


def written(path, array):
    np.save(path, array)
    return str(path)


@pytest.mark.parametrize("init", ["gmm", "spectral", "ward"])
def test_centroids_are_the_means_of_the_parts(init, z):
    centroids, labels = start_of(z, init=init)
    torch.testing.assert_close(centroids, means_of_parts(z, labels, K))
    assert labels.unique().tolist() == [0, 1, 2, 3]


def test_a_mixture_that_cannot_be_fitted_is_refused_with_a_remedy(z, monkeypatch):
    def fail(self, z):
        raise ValueError("Fitting the mixture model failed")

    monkeypatch.setattr(GaussianMixture, "fit_predict", fail)
    with pytest.raises(UserError, match=r"^clustering.init=gmm: .*; expected .*; set clustering.init=auto$"):
        start_of(z, init="gmm")
    assert len(start_of(z, init="auto").labels) == N


def test_auto_takes_the_clusters_with_the_highest_modularity_and_says_which(caplog):
    X, y = make_moons(300, noise=0.03, random_state=0)
    z = torch.from_numpy(X.astype(np.float32))
    config = KMeansConfig(name="kmeans", init="auto", n_neighbors=10)
    restarts = initialization.run_restarts(z, 2, config, None, 0)
    with caplog.at_level(logging.INFO):
        centroids, labels = initialization.find_start(z, restarts, config, None, 0, no_rows)
    assert adjusted_rand_score(y, labels.numpy()) == 1
    torch.testing.assert_close(centroids, means_of_parts(z, labels, 2))
    found = re.search(r"clustering.init=auto: (\S+), modularity (\S+); highest from (.+) \(", caplog.text)
    assert found
    highest = {word.split(" ")[0]: word.split(" ")[1] for word in found[3].split(", ")}
    assert highest.keys() == {"k-means", "gmm", "spectral", "ward"}
    assert float(found[2]) >= float(max(highest.values())) - 0.0021


def test_data_takes_the_clusters_of_the_rows_whatever_the_embedding(caplog):
    X, y = make_blobs(300, 5, centers=K, cluster_std=0.5, random_state=0)
    rows, z = torch.from_numpy(X.astype(np.float32)), torch.randn(300, D, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.INFO):
        centroids, labels = start_of(z, init="data", take_rows=lambda index: rows)
    assert adjusted_rand_score(y, labels.numpy()) == 1
    torch.testing.assert_close(centroids, means_of_parts(z, labels, K))
    assert "clusters from clustering.init=data: " in caplog.text


@pytest.mark.thorough
def test_data_looks_at_principal_components_of_many_features():
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 300)) + 6 * np.repeat(np.eye(4, 300), 50, axis=0)
    components = partition.principal_components(X, 0)
    assert components.shape == (200, 100)
    assert np.array_equal(partition.principal_components(X[:, :100], 0), X[:, :100])
    z = torch.zeros(200, D)
    z[:, 0] = torch.arange(200)
    _, labels = start_of(z, init="data", take_rows=lambda index: torch.from_numpy(X).float())
    assert adjusted_rand_score(np.repeat(np.arange(4), 50), labels.numpy()) > 0.95


def test_rows_of_the_same_length_keep_all_features(monkeypatch):
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 300)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    X[7] = 0  # a text without a known word
    assert partition.principal_components(X) is X
    assert partition.principal_components(X * np.linspace(1, 1.002, 200)[:, np.newaxis]).shape == (200, 100)
    monkeypatch.setattr(partition, "_MAX_PRODUCTS", 200 * 200 * 300 - 1)
    assert partition.principal_components(X).shape == (200, 100)


def test_rows_outside_the_sample_join_the_nearest_centroids():
    X, y = make_blobs(300, 5, centers=K, cluster_std=0.5, random_state=0)
    rows, sample = torch.from_numpy(X.astype(np.float32)), torch.arange(0, 300, 3)
    centroids, labels = start_of(rows, init="data", take_rows=lambda index: rows[index], sample=sample)
    assert adjusted_rand_score(y, labels.numpy()) == 1
    torch.testing.assert_close(centroids, means_of_parts(rows[sample], labels[sample], K))


def test_auto_looks_at_a_part_of_many_points(z, monkeypatch):
    n_seen, choose = [], partition.choose

    def seen(points, *words, **more):
        n_seen.append(len(points))
        return choose(points, *words, **more)

    monkeypatch.setattr(partition, "choose", seen)
    whole, part = (start_of(z, init="auto", partition_samples=n, n_neighbors=5).labels for n in (10_000, 60))
    assert adjusted_rand_score(whole.numpy(), part.numpy()) == 1
    assert n_seen == [N, 60]


def test_uniform_centroids_are_drawn_between_minus_one_and_one(z):
    first, other = start_of(z, init="uniform").centroids, start_of(z, init="uniform", seed=1).centroids
    assert first.abs().max() <= 1
    assert first.min() < -0.5
    assert first.max() > 0.5
    assert not torch.equal(first, other)
    assert torch.equal(first, start_of(z, init="uniform").centroids)


def test_labels_from_a_file_give_their_means(z, tmp_path):
    labels = np.arange(N, dtype=np.int32) % K
    path = written(tmp_path / "labels.npy", labels)
    start = start_of(z, init="file", init_file=path, given=initialization.read_init_file(path, N, K, D))
    assert start.labels.tolist() == labels.tolist()
    torch.testing.assert_close(start.centroids, means_of_parts(z, start.labels, K))


def test_centroids_from_a_file_are_taken_as_they_are(z, tmp_path):
    path = written(tmp_path / "centroids.npy", z[:K].double().numpy())
    start = start_of(z, init="file", init_file=path, given=initialization.read_init_file(path, N, K, D))
    assert torch.equal(start.centroids, z[:K])
    assert start.labels[:K].tolist() == [0, 1, 2, 3]


WRONG = {
    "another number of points": (np.zeros(N - 1, np.int64), "int64 of shape (199,)"),
    "another latent dimension": (np.zeros((K, D + 1)), "float64 of shape (4, 4)"),
    "labels as floats": (np.zeros(N), "float64 of shape (200,)"),
    "a cluster too many": (np.arange(N) % (K + 1), "clusters 0 to 4; expected 0 to 3"),
    "a negative cluster": (np.arange(N) % K - 1, "clusters -1 to 2; expected 0 to 3"),
    "not a number": (np.full((K, D), np.nan), "a value that is nan or inf"),
    "objects": (np.array([{}]), "holds Python objects"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_is_neither_is_refused_in_one_line(what, tmp_path):
    array, found = WRONG[what]
    path = written(tmp_path / "start.npy", array)
    with pytest.raises(UserError) as error:
        initialization.read_init_file(path, N, K, D)
    message = str(error.value)
    assert message.startswith(f"clustering.init_file={path}: ")
    assert found in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "start.npy").touch()
    with pytest.raises(UserError, match=r"did you mean clustering\.init_file=.*start\.npy\?"):
        initialization.read_init_file(str(tmp_path / "strat.npy"), N, K, D)


def test_clusters_found_again_stand_in_the_places_of_those_that_they_resemble(z):
    config = KMeansConfig(name="kmeans", init="k-means++")
    old = start_of(z).labels
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        renamed = torch.tensor(order)[old]
        centroids, labels = initialization.cluster_again(z, K, config, None, 7, renamed)
        assert labels.tolist() == renamed.tolist()
        torch.testing.assert_close(centroids, means_of_parts(z, renamed, K), rtol=1e-4, atol=1e-4)


def test_clusters_are_found_again_on_a_part_of_the_points(z, monkeypatch):
    n_seen, kmeans = [], initialization.kmeans

    def seen(z, *words, **more):
        n_seen.append(len(z))
        return kmeans(z, *words, **more)

    monkeypatch.setattr(initialization, "kmeans", seen)
    monkeypatch.setattr(initialization, "_RESET_SAMPLES", 50)
    old = start_of(z).labels
    n_seen.clear()
    labels = initialization.cluster_again(z, K, KMeansConfig(name="kmeans"), torch.arange(0, N, 2), 7, old).labels
    assert n_seen == [50]
    assert labels.tolist() == old.tolist()
