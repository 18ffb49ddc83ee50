"""The graph of the rows, its embedding and its clusters: `neighborhood`, `graph`, `neighbor_embedding`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import linalg
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score

from dkm.clustering import graph
from dkm.clustering import neighborhood as neighborhood_module
from dkm.clustering.graph import (
    GraphScore,
    Neighbors,
    fuzzy_graph,
    nearest_neighbors,
    neighbor_graph,
    unweighted_graph,
)
from dkm.clustering.lloyd import kmeans
from dkm.clustering.neighbor_embedding import _broad, embed_neighbors, laplacian_eigenvectors
from dkm.clustering.neighborhood import Neighborhood
from dkm.errors import UserError
from dkm.evaluation.metrics import sample_neighbors


def neighborhood(X, *, sample=None, latent_dim=2, seed=0):
    rows = torch.from_numpy(np.asarray(X, np.float32))
    return Neighborhood(lambda index: rows if index is None else rows[index], sample, latent_dim, seed)


# --- the graph ---


def test_nearest_neighbors_are_those_of_the_distances():
    X = np.random.default_rng(0).normal(size=(50, 3)) + 1e3
    found = nearest_neighbors(X, 7)
    distance = np.linalg.norm(X[:, None] - X[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert np.array_equal(found.indices, distance.argsort(axis=1)[:, :7])
    np.testing.assert_allclose(found.distance, np.sort(distance, axis=1)[:, :7], rtol=1e-3)
    assert nearest_neighbors(X[:3], 20).indices.shape == (3, 2)


def test_a_graph_joins_two_points_if_one_is_a_neighbor_of_the_other():
    X = np.random.default_rng(1).normal(size=(60, 4))
    neighbors = nearest_neighbors(X, 5)
    joined = np.zeros((60, 60))
    for point, others in enumerate(neighbors.indices):
        joined[point, others] = joined[others, point] = 1
    assert np.array_equal(unweighted_graph(neighbors).toarray(), joined)
    assert np.array_equal(neighbor_graph(X, 5).toarray(), joined)


def test_fuzzy_weights_follow_their_definition():
    neighbors = nearest_neighbors(np.random.default_rng(2).normal(size=(80, 3)), 15)
    weights = fuzzy_graph(neighbors)
    assert abs(weights - weights.T).max() < 1e-12
    assert weights.data.min() > 0
    assert weights.data.max() <= 1
    # One point by hand: the scale s with sum_j exp(-(d_j - d_1) / s) = log2(15).
    excess = neighbors.distance[0] - neighbors.distance[0, 0]
    scales = np.geomspace(1e-3, 10, 200_000)
    total = np.exp(-excess / scales[:, None]).sum(axis=1)
    one_way = {
        j: np.exp(-e / scales[abs(total - np.log2(15)).argmin()])
        for j, e in zip(neighbors.indices[0], excess, strict=True)
    }
    for j, weight in one_way.items():
        if 0 not in neighbors.indices[j]:  # no edge from the other end
            assert weights[0, j] == pytest.approx(weight, rel=1e-3)
        else:
            assert weights[0, j] >= weight * (1 - 1e-3)


@pytest.mark.slow  # the import of umap-learn compiles
def test_fuzzy_weights_are_those_of_umap():
    umap = pytest.importorskip("umap.umap_")
    X = np.random.default_rng(3).normal(size=(200, 5)).astype(np.float32)
    # umap-learn counts the point itself as its first neighbor.
    theirs = umap.fuzzy_simplicial_set(X, 16, np.random.RandomState(0), "euclidean")[0].toarray()
    ours = fuzzy_graph(nearest_neighbors(X, 15)).toarray()
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.99


def test_equal_points_have_finite_weights():
    X = np.repeat(np.random.default_rng(4).normal(size=(5, 2)), 30, axis=0)
    weights = fuzzy_graph(nearest_neighbors(X, 15))
    assert np.isfinite(weights.data).all()
    all_equal = Neighbors(np.array([[1, 2], [0, 2], [0, 1]]), np.zeros((3, 2)))
    assert np.array_equal(fuzzy_graph(all_equal).toarray(), 1 - np.eye(3))


# --- the eigenvectors ---


@pytest.mark.parametrize("n_parts", [1, 2])
@pytest.mark.parametrize("n_points", [6, 8, 12, 20, 24, 60])
def test_eigenvectors_of_few_points_are_orthonormal_with_the_largest_eigenvalues(n_points, n_parts):
    """Of few points some have negative eigenvalues, below the 0 of a constant that was removed from the search."""
    X = np.random.default_rng(n_points).normal(size=(n_points, 4))
    X[: n_points // n_parts] += 1e3
    weights = fuzzy_graph(nearest_neighbors(X, 15 if n_parts == 1 else n_points // 2 - 1))
    found = laplacian_eigenvectors(weights, 11)
    n_vectors = min(11, n_points - 1)
    assert found.shape == (n_points, n_vectors)
    np.testing.assert_allclose(found.T @ found, np.eye(n_vectors), atol=1e-6)
    root = np.sqrt(weights.sum(axis=1))
    normalized = weights.toarray() / root / root[:, np.newaxis]
    largest = np.linalg.eigvalsh(normalized)[::-1][:n_vectors]
    np.testing.assert_allclose(np.diag(found.T @ normalized @ found), largest, atol=1e-4)


def test_eigenvectors_of_many_points_are_searched_for_once(monkeypatch):
    """Their eigenvalues are far above 0, and they have the bits that they had before few points were taken care of."""
    searches = []
    search = linalg.eigsh

    def counted(operator, *arguments, **settings):
        searches.append(operator)
        return search(operator, *arguments, **settings)

    monkeypatch.setattr(linalg, "eigsh", counted)
    for n_points, n_searches in ((12, 2), (60, 1), (300, 1)):
        searches.clear()
        X = np.random.default_rng(n_points).normal(size=(n_points, 4))
        laplacian_eigenvectors(fuzzy_graph(nearest_neighbors(X, 15)), 11)
        assert len(searches) == n_searches


# --- the embedding ---


def test_the_embedding_keeps_neighbors_and_separates_clusters():
    X, y = make_blobs(300, 20, centers=3, random_state=0)
    Z = embed_neighbors(fuzzy_graph(nearest_neighbors(X, 15)), X, 4, seed=0)
    assert Z.shape == (300, 4)
    assert Z.dtype == torch.float32
    torch.testing.assert_close(Z.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert Z.square().mean().item() == pytest.approx(1, abs=1e-4)
    nearest = nearest_neighbors(Z.numpy(), 10).indices
    assert (y[nearest] == y[:, None]).all()
    kept = np.mean(
        [len(np.intersect1d(a, b)) / 10 for a, b in zip(nearest, nearest_neighbors(X, 10).indices, strict=True)]
    )
    assert kept > 0.4


def test_a_seed_gives_the_same_embedding_and_another_seed_another_one():
    X = np.random.default_rng(0).normal(size=(100, 3))
    weights = fuzzy_graph(nearest_neighbors(X, 15))
    first, again, other = (embed_neighbors(weights, X, 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_function_that_lives_on_a_few_points_is_no_initial_direction():
    random = np.random.default_rng(0)
    broad, narrow = random.normal(size=400), np.zeros(400)
    narrow[:3] = 5.0
    kept = _broad(np.column_stack([narrow, broad]))
    assert kept.shape == (400, 1)
    assert np.corrcoef(kept[:, 0], broad)[0, 1] > 0.99
    assert np.abs(kept).max() == pytest.approx(10)


@pytest.mark.parametrize("n_points", [3, 4, 12])
def test_more_dimensions_than_points_are_possible(n_points):
    X = np.random.default_rng(0).normal(size=(n_points, 2))
    Z = embed_neighbors(fuzzy_graph(nearest_neighbors(X, 15)), X, 10)
    assert Z.shape == (n_points, 10)
    assert Z.isfinite().all()


def test_a_graph_in_parts_is_embedded():
    X = np.concatenate([np.random.default_rng(i).normal(size=(30, 2)) + 1e4 * i for i in range(6)])
    Z = embed_neighbors(fuzzy_graph(nearest_neighbors(X, 15)), X, 2)
    assert Z.isfinite().all()
    found = kmeans(Z, 6, n_init=20).labels.numpy()
    assert adjusted_rand_score(np.repeat(np.arange(6), 30), found) > 0.9


@pytest.mark.thorough
def test_neighborhoods_of_other_seeds_share_the_graph_but_not_the_embedding(monkeypatch):
    X, _ = make_blobs(80, 3, random_state=0)
    first, calls = neighborhood(X, seed=4), []
    search = graph.nearest_neighbors
    monkeypatch.setattr(graph, "nearest_neighbors", lambda *arguments: calls.append(1) or search(*arguments))
    second = first.with_seed(5)
    for hood, seed in ((first, 4), (second, 5)):
        assert hood.seed == seed
        assert torch.equal(hood.embedding, neighborhood(X, seed=seed).embedding)
    assert second.graph is first.graph
    assert len(calls) == 3  # one of them for both, and one for each of the two that they are compared with


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, True),
        ({"seed": 1}, False),
        ({"latent_dim": 3}, False),
        ({"sample": torch.arange(0, 60, 2)}, False),
    ],
)
def test_neighborhoods_of_the_same_rows_dimensions_and_seed_are_alike(others, expected):
    X = np.zeros((60, 3))
    assert neighborhood(X).is_like(neighborhood(X, **others)) == expected
    assert neighborhood(X, **others).is_like(neighborhood(X)) == expected
    sample = torch.arange(0, 60, 2)
    assert neighborhood(X, sample=sample).is_like(neighborhood(X, sample=sample.clone()))
    assert not neighborhood(X, sample=sample).is_like(neighborhood(X, sample=sample + 1))


# --- the clusters of the rows ---


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_of_three_embeddings_one_of_the_two_that_agree_is_taken(odd, monkeypatch):
    X, _ = make_blobs(120, 5, centers=5, random_state=0)
    hood = neighborhood(X)
    noise = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    embeddings = [noise if seed == odd else torch.from_numpy(X + seed).float() for seed in range(3)]
    for seed in range(3):
        monkeypatch.setitem(vars(hood.with_seed(seed)), "own_embedding", embeddings[seed])
    assert hood.embedding is embeddings[1 if odd == 0 else 0]
    monkeypatch.setattr(neighborhood_module, "_FEW_ROWS", 119)  # of more rows there is one
    monkeypatch.delitem(vars(hood), "embedding")
    assert hood.embedding is embeddings[0]


def test_a_neighborhood_with_a_seed_is_made_once():
    hood = neighborhood(np.zeros((60, 3)))
    other = hood.with_seed(1)
    assert other.with_seed(0) is hood
    assert hood.with_seed(1) is other


@pytest.mark.thorough
def test_clusters_of_any_shape_are_found():
    X, y = make_moons(600, noise=0.05, random_state=0)
    hood = neighborhood(X)
    found = hood.cluster(2, n_init=10)
    assert adjusted_rand_score(y, found.labels) == 1
    assert adjusted_rand_score(y, kmeans(torch.from_numpy(X), 2).labels.numpy()) < 0.5
    assert found.modularity == hood.modularity(found.labels) == found.modularities[found.origin]


def test_clusters_of_the_rows_are_taken_if_the_embedding_has_none_as_good(monkeypatch):
    X, y = make_blobs(200, 5, centers=4, random_state=0)
    hood = neighborhood(X)
    monkeypatch.setitem(vars(hood), "embedding", torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    hood.spectral_points = lambda n_clusters: hood.embedding
    found = hood.cluster(4, n_init=10)
    assert found.origin == "the rows"
    assert adjusted_rand_score(y, found.labels) == 1
    assert found.modularity > found.modularities["the neighbor embedding"] + 0.01


@pytest.mark.parametrize(
    ("space", "advantage", "is_taken"),
    [("rows", 0.0, False), ("rows", 0.005, True), ("spectrum", 0.005, False), ("spectrum", 0.02, True)],
)
def test_clusters_made_from_the_graph_need_a_clear_advantage(space, advantage, is_taken, monkeypatch):
    X, y = make_blobs(200, 5, centers=4, random_state=0)
    hood = neighborhood(X)
    points = torch.from_numpy(X).float()
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(vars(hood), "embedding", noise)
    monkeypatch.setattr(Neighborhood, "points", points if space == "rows" else noise)
    hood.spectral_points = lambda n_clusters: points if space == "spectrum" else noise
    hood.score = lambda labels: GraphScore(0.5 + advantage * (adjusted_rand_score(y, labels) == 1))
    taken = {"rows": "the rows", "spectrum": "the eigenvectors of the graph"}[space]
    assert hood.cluster(4, n_init=10).origin == (taken if is_taken else "the neighbor embedding")


@pytest.mark.parametrize(
    ("inertias", "modularities", "taken"),
    [
        ((100.0, 101.9, 102.1), (0.5, 0.6, 0.7), 1),
        ((101.9, 100.0, 102.1), (0.5, 0.6, 0.7), 1),
        ((102.1, 101.9, 100.0), (0.5, 0.6, 0.6), 2),  # not better than that with the lowest inertia
        ((100.0, 101.9, 102.1), (0.6, 0.5, 0.7), 0),
        ((100.0, 101.9, 101.9), (0.6, 0.61, 0.62), 2),
        ((100.0, 101.9, 101.9), ((0.6, 0.9), (0.61, 0.8), (0.59, 0.99)), 0),  # better in one score only
        ((100.0, 101.9, 101.9), ((0.6, 0.9), (0.62, 0.9), (0.61, 0.99)), 2),  # the higher mean
    ],
)
def test_restarts_of_nearly_the_same_inertia_on_the_embedding_are_told_apart_by_the_graph(
    inertias, modularities, taken, monkeypatch
):
    X, y = make_blobs(90, 5, centers=3, random_state=0)
    hood = neighborhood(X)
    found = [torch.from_numpy(np.roll(y, shift)) for shift in range(3)]

    def restarts(z, n_clusters, *, n_init, seed):
        assert z is hood.embedding
        assert n_init == 3 * 2
        return [
            SimpleNamespace(labels=labels, inertia=inertia) for labels, inertia in zip(found, inertias, strict=True)
        ]

    def score(labels):
        known = [value for value, other in zip(modularities, found, strict=True) if (other.numpy() == labels).all()]
        value = known[0] if known else 0.0
        return GraphScore(*value) if isinstance(value, tuple) else GraphScore(value, 0.9)

    monkeypatch.setattr(neighborhood_module, "kmeans_restarts", restarts)
    hood.score = score
    result = hood.cluster(3, n_init=2)
    assert result.origin == "the neighbor embedding"
    assert (result.labels == found[taken].numpy()).all()


def test_other_clusters_that_another_seed_does_not_find_are_not_taken(monkeypatch):
    """A split of a large cluster raises the modularity, in another place with each seed."""
    X, _ = make_blobs([300, 20, 20], 5, centers=10 * np.eye(3, 5), random_state=0)
    hood = neighborhood(X)
    monkeypatch.setitem(vars(hood), "embedding", torch.from_numpy(X[:, :2]).float())
    line = torch.rand(len(X), 1, generator=torch.Generator().manual_seed(0))
    splits = {seed: line.roll(60 * seed, 0) for seed in (0, 1)}
    points = torch.from_numpy(X).float()
    calls = []

    def split_of(z, n_clusters, *, n_init, seed):
        calls.append(seed)
        return kmeans(splits[seed] if z is points else z, n_clusters, n_init=n_init, seed=seed)

    hood.spectral_points = lambda n_clusters: hood.embedding
    monkeypatch.setattr(Neighborhood, "points", points)
    monkeypatch.setattr(neighborhood_module, "kmeans", split_of)
    of_rows = kmeans(line, 3, n_init=2, seed=0).labels.numpy()
    hood.score = lambda labels: GraphScore(0.9 if np.array_equal(labels, of_rows) else 0.5)
    found = hood.cluster(3, n_init=2)
    assert (found.origin, found.modularity) == ("the neighbor embedding", 0.5)
    assert found.modularities["the rows"] == 0.9
    assert calls == [0, 0, 1]
    splits[1] = splits[0]
    assert hood.cluster(3, n_init=2).origin == "the rows"


@pytest.mark.parametrize(
    ("of_rows", "is_taken"),
    [
        (GraphScore(0.53, 0.75), False),  # more even, but more edges leave the clusters than of such sizes would
        (GraphScore(0.53, 0.76), True),
        (GraphScore(0.53, 0.9), True),
        (GraphScore(0.49, 0.9), False),
    ],
)
def test_more_even_clusters_are_not_better_for_it(of_rows, is_taken, monkeypatch):
    X, y = make_blobs(200, 5, centers=4, random_state=0)
    hood = neighborhood(X)
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(vars(hood), "embedding", noise)
    hood.spectral_points = lambda n_clusters: noise
    hood.score = lambda labels: of_rows if adjusted_rand_score(y, labels) == 1 else GraphScore(0.5, 0.8)
    assert hood.cluster(4, n_init=10).origin == ("the rows" if is_taken else "the neighbor embedding")


def test_known_clusters_of_the_rows_are_not_computed_again(monkeypatch):
    X, _ = make_blobs(120, 5, centers=3, random_state=0)
    hood, calls = neighborhood(X), []
    expected = hood.cluster(3, n_init=2)
    hood.labels_of_rows = kmeans(hood.points, 3, n_init=2, seed=0).labels.numpy()

    def counted(z, *arguments, **settings):
        calls.append(z)
        return kmeans(z, *arguments, **settings)

    monkeypatch.setattr(neighborhood_module, "kmeans", counted)
    found = hood.cluster(3, n_init=2)
    assert not any(z is hood.points for z in calls)
    assert (found.origin, found.modularities) == (expected.origin, expected.modularities)


def test_known_clusters_of_the_rows_are_not_those_of_their_components(monkeypatch):
    X = np.random.default_rng(0).normal(size=(120, 105))
    hood = neighborhood(X)
    expected = hood.cluster(2, n_init=1)
    hood.labels_of_rows = np.arange(120) % 2
    assert hood.points.shape == (120, 100)
    assert hood.cluster(2, n_init=1).modularities == expected.modularities


def test_rows_outside_the_sample_have_no_target():
    X, _ = make_blobs(60, 3, random_state=0)
    sample = torch.arange(0, 60, 2)
    hood = neighborhood(X, sample=sample)
    targets = hood.targets(60)
    assert torch.equal(targets[sample], hood.embedding)
    assert targets[1::2].isnan().all()
    assert torch.equal(neighborhood(X).targets(60), neighborhood(X).embedding)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5])
def test_few_rows_have_clusters(n_rows):
    hood = neighborhood(np.random.default_rng(0).normal(size=(n_rows, 2)))
    found = hood.cluster(n_rows, n_init=2)
    assert sorted(found.labels) == list(range(n_rows))


@pytest.mark.parametrize(("n_rows", "n_neighbors"), [(21, 2), (80, 10), (159, 19), (160, 20), (300, 20)])
def test_the_graph_of_the_modularity_has_fewer_neighbors_for_few_rows(n_rows, n_neighbors):
    X = np.random.default_rng(0).normal(size=(n_rows, 3)).astype(np.float32)
    expected = neighbor_graph(X, n_neighbors)
    assert (neighborhood(X).graph != expected).nnz == 0
    sample = sample_neighbors(X, 1000)
    assert (sample.graph != expected[sample.rows][:, sample.rows]).nnz == 0


@pytest.mark.parametrize("n_features", [4, 150])
@pytest.mark.parametrize("scale", [1e19, 1e25, 1e37])
def test_rows_whose_distances_overflow_are_refused_with_a_remedy(scale, n_features):
    X = scale * np.random.default_rng(0).normal(size=(130, n_features))
    hood = neighborhood(X)
    for use in (lambda: hood.embedding, lambda: hood.cluster(2, n_init=1), lambda: hood.graph):
        with pytest.raises(
            UserError, match=r"^data\.scaling: values up to .*; expected .*; set data\.scaling=standard$"
        ):
            use()
    assert sample_neighbors(X.astype(np.float32), 100) is None
    assert neighborhood(X / scale * 1e17).cluster(2, n_init=1).labels.shape == (130,)


@pytest.mark.thorough
def test_equal_rows_have_clusters():
    found = neighborhood(np.ones((40, 3))).cluster(2, n_init=2)
    assert set(found.labels) <= {0, 1}
