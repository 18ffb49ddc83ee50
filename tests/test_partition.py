"""`dkm.partition`: each method finds what k-means cannot, on all points and on a sample."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score
from torch import from_numpy

from dkm.kmeans import kmeans
from dkm.partition import METHODS, partition


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
