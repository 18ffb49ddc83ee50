"""`dkm.evaluation.metrics` by hand, against brute force, against scikit-learn, and where a score is undefined."""

import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn import metrics as reference
from sklearn.datasets import make_blobs

from dkm.clustering.graph import GraphScore, modularity, n_compared, neighbor_graph, score
from dkm.clustering.labels import cluster_sizes, contingency, effective_clusters, hungarian_order
from dkm.clustering.partition import principal_components
from dkm.data.sampling import draw_rows
from dkm.evaluation.metrics import (
    accuracy,
    adjusted_rand_index,
    dispersion,
    normalized_mutual_information,
    sample_neighbors,
    silhouette,
)

UNDEFINED = {"silhouette": None, "davies_bouldin": None, "calinski_harabasz": None}
# Our float64 sums against scikit-learn's in another order.
RTOL = 1e-10


def random_clustering(n_samples=200, n_classes=4, n_clusters=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(n_classes, size=n_samples), rng.integers(n_clusters, size=n_samples)


def blobs(seed=0):
    Z, labels = make_blobs(n_samples=120, n_features=3, centers=4, cluster_std=2.0, random_state=seed)
    return Z, labels


def label_scores(y, labels):
    scores = {"acc": accuracy, "nmi": normalized_mutual_information, "ari": adjusted_rand_index}
    return {name: score(y, labels) for name, score in scores.items()}


def geometry(Z, labels, n_clusters=None, max_samples=1000, seed=0):
    n_clusters = int(labels.max()) + 1 if n_clusters is None else n_clusters
    return {
        "silhouette": silhouette(Z, labels, max_samples=max_samples, seed=seed),
        **dispersion(Z, labels)._asdict(),
        "n_effective_clusters": effective_clusters(cluster_sizes(labels, n_clusters)),
    }


def undefined_part(scores):
    return {name: scores[name] for name in UNDEFINED}


# --- contingency and its order ------------------------------------------------------------------------------


def test_contingency_counts_by_hand_and_keeps_empty_rows_and_columns():
    table = contingency(np.array([0, 0, 1, 1, 1]), np.array([2, 2, 0, 2, 0]), n_classes=3, n_clusters=4)
    assert table.dtype == np.int64
    assert table.tolist() == [[0, 0, 2, 0], [2, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("bad", [4, -1])
def test_contingency_refuses_a_label_out_of_range(bad):
    with pytest.raises(ValueError, match=r"labels has values from .* expected 0 to 3"):
        contingency(np.array([0, 1, 1]), np.array([0, 1, bad]), n_classes=2, n_clusters=4)


def test_contingency_refuses_two_lengths_even_where_they_would_broadcast():
    with pytest.raises(ValueError, match=r"y has shape \(3,\) and labels \(1,\)"):
        contingency(np.array([0, 1, 1]), np.array([0]), n_classes=2, n_clusters=1)


def test_hungarian_order_undoes_a_permutation_of_the_diagonal():
    rng = np.random.default_rng(0)
    permutation = rng.permutation(7)
    table = np.diag(np.arange(1, 8))[:, permutation]
    assert np.array_equal(table[:, hungarian_order(table)], np.diag(np.arange(1, 8)))


def test_hungarian_order_puts_spare_clusters_last_and_largest_first():
    table = np.array([[0, 1, 3, 9], [0, 8, 3, 0]])
    assert hungarian_order(table).tolist() == [3, 1, 2, 0]


def test_hungarian_order_is_a_permutation_with_fewer_clusters_than_classes():
    table = np.array([[0, 5], [1, 1], [6, 0]])
    assert hungarian_order(table).tolist() == [1, 0]


# --- accuracy and its companions ----------------------------------------------------------------------------


def test_accuracy_by_hand():
    y = np.array([0, 0, 0, 1, 1, 2])
    labels = np.array([2, 2, 1, 1, 1, 0])  # 2 -> 0, 1 -> 1, 0 -> 2: five of six
    assert accuracy(y, labels) == 5 / 6


@pytest.mark.parametrize("n_clusters", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n_classes", [1, 3, 5])
def test_accuracy_equals_the_best_of_all_matchings(n_classes, n_clusters):
    for seed in range(5):
        y, labels = random_clustering(30, n_classes, n_clusters, seed)
        table = contingency(y, labels, n_classes, n_clusters)
        square = np.zeros((5, 5), dtype=int)  # padded with partners that match nobody
        square[:n_classes, :n_clusters] = table
        best = max(sum(square[i, j] for i, j in enumerate(match)) for match in permutations(range(5)))
        assert accuracy(y, labels) == best / 30


def test_accuracy_is_not_purity():
    # Both clusters are mostly class 0, but only one of them may be it.
    assert accuracy(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 1])) == 3 / 5


def test_accuracy_with_more_clusters_than_classes_counts_the_spare_ones_as_wrong():
    assert accuracy(np.zeros(6, dtype=int), np.array([0, 0, 0, 1, 1, 2])) == 3 / 6


def test_accuracy_with_fewer_clusters_than_classes_counts_the_spare_classes_as_wrong():
    assert accuracy(np.array([0, 0, 1, 1, 2, 2]), np.zeros(6, dtype=int)) == 2 / 6


def test_accuracy_takes_any_names():
    assert accuracy(np.array(["cat", "dog", "dog"]), np.array([-7, 100, 100])) == 1.0


def test_label_scores_equal_scikit_learn():
    y, labels = random_clustering()
    scores = label_scores(y, labels)
    assert scores["nmi"] == reference.normalized_mutual_info_score(y, labels)
    assert scores["ari"] == reference.adjusted_rand_score(y, labels)


def test_nmi_divides_by_the_arithmetic_mean_of_the_entropies():
    # y determines nothing finer than labels: I = H(y) = log 2, H(labels) = log 4.
    scores = label_scores(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]))
    assert scores["nmi"] == pytest.approx(np.log(2) / ((np.log(2) + np.log(4)) / 2), abs=1e-12)


def test_label_scores_of_a_perfect_clustering_are_one():
    y, _ = random_clustering()
    assert label_scores(y, (y + 1) % 4) == pytest.approx({"acc": 1.0, "nmi": 1.0, "ari": 1.0}, abs=1e-12)


def test_label_scores_do_not_depend_on_names_or_order():
    y, labels = random_clustering()
    rng = np.random.default_rng(1)
    renamed, order = rng.permutation(5)[labels], rng.permutation(len(y))
    assert label_scores(y[order], renamed[order]) == pytest.approx(label_scores(y, labels), rel=RTOL)


@pytest.mark.parametrize(
    ("y", "labels", "acc"),
    [([0, 1, 2], [0, 0, 0], 1 / 3), ([0, 0, 1], [0, 1, 2], 2 / 3), ([3], [9], 1.0)],
    ids=["one cluster", "all singletons", "one sample"],
)
def test_label_scores_of_degenerate_clusterings_are_finite(y, labels, acc):
    scores = label_scores(np.array(y), np.array(labels))
    assert scores["acc"] == acc
    assert all(isinstance(value, float) and np.isfinite(value) for value in scores.values())


# --- sizes --------------------------------------------------------------------------------------------------


def test_cluster_sizes_count_empty_clusters():
    sizes = cluster_sizes(np.array([3, 1, 3, 3]), n_clusters=5)
    assert sizes.dtype == np.int64
    assert sizes.tolist() == [0, 1, 0, 3, 0]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([7], 1.0), ([0, 9, 0], 1.0), ([5] * 10, 10.0), ([4, 4, 0], 2.0), ([2, 1, 1], 2 * 2**0.5)],
)
def test_effective_clusters_by_hand(sizes, expected):
    assert effective_clusters(np.array(sizes)) == pytest.approx(expected, abs=1e-12)


# --- without labels -----------------------------------------------------------------------------------------


def test_label_free_scores_by_hand():
    Z, labels = np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])
    # Means 1 and 11, mean radius 1: (1 + 1) / 10. Within 4 * 1, between 4 * 5**2: (100 / 1) / (4 / 2).
    # Silhouettes: a = 2; b = 11 for the two outer points, 9 for the two inner ones.
    scores = geometry(Z, labels)
    assert scores["davies_bouldin"] == pytest.approx(0.2, rel=RTOL)
    assert scores["calinski_harabasz"] == pytest.approx(50.0, rel=RTOL)
    assert scores["silhouette"] == pytest.approx(((11 - 2) / 11 + (9 - 2) / 9) / 2, rel=RTOL)
    assert scores["n_effective_clusters"] == pytest.approx(2.0, rel=RTOL)


def test_label_free_scores_equal_scikit_learn():
    Z, labels = blobs()
    scores = geometry(Z, labels)
    assert scores["silhouette"] == pytest.approx(reference.silhouette_score(Z, labels), rel=RTOL)
    assert scores["davies_bouldin"] == pytest.approx(reference.davies_bouldin_score(Z, labels), rel=RTOL)
    assert scores["calinski_harabasz"] == pytest.approx(reference.calinski_harabasz_score(Z, labels), rel=RTOL)


def test_label_free_scores_do_not_depend_on_names_or_order():
    Z, labels = blobs()
    rng = np.random.default_rng(1)
    renamed, order = rng.permutation(4)[labels], rng.permutation(len(Z))
    assert geometry(Z[order], renamed[order]) == pytest.approx(geometry(Z, labels), rel=RTOL)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_label_free_scores_do_not_depend_on_the_scale(scale):
    # scikit-learn's Davies-Bouldin is 0.0 at 1e-12.
    Z, labels = blobs()
    assert geometry(scale * Z, labels) == pytest.approx(geometry(Z, labels), rel=RTOL)


def test_label_free_scores_survive_an_embedding_far_from_the_origin():
    Z, labels = blobs()
    # 1e6 away, a float64 keeps ten digits of a coordinate of order one.
    assert geometry(Z + 1e6, labels) == pytest.approx(geometry(Z, labels), rel=1e-8)
    offset = 1e6 * (-1.0) ** np.arange(Z.shape[1])  # another one for each coordinate
    assert geometry(Z + offset, labels) == pytest.approx(geometry(Z, labels), rel=1e-8)


def test_label_free_scores_take_float32_and_accumulate_in_float64():
    Z, labels = blobs()
    single = Z.astype(np.float32)
    assert geometry(single, labels) == geometry(single.astype(np.float64), labels)


def test_label_free_scores_repeat_to_the_last_bit():
    Z, labels = blobs()
    assert geometry(Z, labels, max_samples=50) == geometry(Z, labels, max_samples=50)


def test_only_the_silhouette_is_subsampled_and_the_seed_chooses_the_sample():
    Z, labels = blobs()
    scores = [geometry(Z, labels, max_samples=50, seed=seed) for seed in (0, 1)]
    silhouettes = [score.pop("silhouette") for score in scores]
    assert scores[0] == scores[1]
    assert silhouettes[0] != silhouettes[1]
    assert silhouettes == pytest.approx([geometry(Z, labels)["silhouette"]] * 2, abs=0.1)


def test_the_sample_holds_no_point_twice():
    # A repeated point would make two of one cluster, and the score defined.
    Z = np.random.default_rng(0).normal(size=(50, 2))
    assert geometry(Z, np.arange(50), max_samples=49)["silhouette"] is None


def test_max_samples_of_at_least_n_takes_all_points():
    Z, labels = blobs()
    assert geometry(Z, labels, max_samples=len(Z)) == geometry(Z, labels, max_samples=10**9)


def test_empty_clusters_change_no_score():
    Z, labels = blobs()
    assert geometry(Z, 2 * labels, n_clusters=100) == geometry(Z, labels)


def test_singleton_clusters_have_silhouette_zero_as_in_scikit_learn():
    Z, labels = blobs()
    labels[0] = 4
    assert geometry(Z, labels)["silhouette"] == pytest.approx(reference.silhouette_score(Z, labels), rel=RTOL)


@pytest.mark.parametrize("labels", [np.zeros(6, dtype=int), np.arange(6)], ids=["one cluster", "all singletons"])
def test_scores_of_too_few_or_too_many_clusters_are_none(labels):
    Z = np.random.default_rng(0).normal(size=(6, 2))
    assert undefined_part(geometry(Z, labels)) == UNDEFINED


def test_scores_of_one_sample_are_none():
    assert geometry(np.ones((1, 2)), np.zeros(1, dtype=int)) == {**UNDEFINED, "n_effective_clusters": 1.0}


def test_scores_of_a_collapsed_embedding_are_none():
    scores = geometry(np.full((6, 2), 0.1), np.array([0, 0, 0, 1, 1, 1]))
    assert scores == {**UNDEFINED, "n_effective_clusters": pytest.approx(2.0)}


def test_scores_of_equal_points_whose_coordinates_differ_are_none():
    scores = geometry(np.tile([1.0, 2.0], (6, 1)), np.array([0, 0, 0, 1, 1, 1]))
    assert undefined_part(scores) == UNDEFINED


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_of_points_that_are_not_finite_are_none(bad):
    Z, labels = blobs()
    Z[5, 1] = bad
    assert undefined_part(geometry(Z, labels)) == UNDEFINED


def test_davies_bouldin_of_coincident_means_is_none_and_the_others_stay():
    Z, labels = np.array([[-1.0], [1.0], [-2.0], [2.0]]), np.array([0, 0, 1, 1])
    scores = geometry(Z, labels)
    assert scores["davies_bouldin"] is None
    assert scores["calinski_harabasz"] == 0.0
    assert -1 <= scores["silhouette"] < 0


def test_clusters_without_spread_have_no_calinski_harabasz_and_the_best_of_the_others():
    scores = geometry(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 0, 1, 1]))
    assert scores["calinski_harabasz"] is None
    assert scores["davies_bouldin"] == 0.0
    assert scores["silhouette"] == 1.0


def test_silhouette_is_none_where_the_sample_loses_all_clusters_but_one():
    Z = np.random.default_rng(0).normal(size=(1000, 2))
    labels = np.zeros(1000, dtype=int)
    labels[:2] = 1
    scores = geometry(Z, labels, max_samples=10)
    assert scores["silhouette"] is None
    assert scores["davies_bouldin"] is not None


def test_silhouette_is_none_where_the_sample_holds_one_point_of_each_cluster():
    Z = np.random.default_rng(0).normal(size=(1000, 2))
    assert geometry(Z, np.arange(1000) // 2, max_samples=2)["silhouette"] is None


def test_importing_metrics_loads_neither_torch_nor_scikit_learn():
    program = "import sys, dkm.evaluation.metrics; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


# --- modularity ---------------------------------------------------------------------------------------------


def slow_modularity(A, labels):
    """Newman's formula over all pairs of points."""
    degree, total = A.sum(1), A.sum()
    pairs = (
        (A[i, j] - degree[i] * degree[j] / total, labels[i] == labels[j]) for i in range(len(A)) for j in range(len(A))
    )
    return sum(value for value, is_same in pairs if is_same) / total


def test_the_modularity_of_two_triangles_and_an_edge_by_hand():
    A = np.zeros((6, 6))
    for i, j in [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]:
        A[i, j] = A[j, i] = 1
    # 6 of 7 edges within; each part has half of the ends.
    assert modularity(csr_array(A), np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(6 / 7 - 1 / 2)
    assert modularity(csr_array(A), np.zeros(6, np.int64)) == pytest.approx(0)


def test_the_assortativity_of_two_triangles_and_an_edge_by_hand():
    A = np.zeros((6, 6))
    for i, j in [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3)]:
        A[i, j] = A[j, i] = 1
    assert score(csr_array(A), np.array([0, 0, 0, 1, 1, 1])).assortativity == pytest.approx((6 / 7 - 1 / 2) / (1 / 2))
    assert score(csr_array(A), np.zeros(6, np.int64)) == (pytest.approx(0), 0)
    A[2, 3] = A[3, 2] = 0
    assert score(csr_array(A), np.array([0, 0, 0, 1, 1, 1])).assortativity == 1


def test_the_split_of_a_large_cluster_raises_the_modularity_and_lowers_the_assortativity():
    X, y = make_blobs([200, 100, 50, 25], 4, centers=20 * np.eye(4), random_state=0)
    graph = neighbor_graph(X, 10)
    halves = np.where(y == 3, 2, y)  # the two smallest are one cluster
    halves[(y == 0) & (X[:, 3] > 0)] = 3
    right, split = score(graph, y), score(graph, halves)
    assert right.assortativity == 1
    assert right.modularity < split.modularity
    assert not split.is_above(right)
    assert not right.is_above(split)


def test_the_same_clusters_with_other_numbers_are_not_above():
    is_other = False
    for seed in range(8):
        K = 3 + seed
        X, y = make_blobs(300 + 7 * seed, 6, centers=K, random_state=seed, cluster_std=1.5)
        graph = neighbor_graph(X, 20)
        for permutation in map(np.random.default_rng(seed).permutation, [K] * 5):
            one, other = score(graph, y), score(graph, permutation[y])
            assert not one.is_above(other)
            assert not other.is_above(one)
            is_other |= one != other
    assert is_other  # in the last bits


def test_one_of_two_scores_is_above_if_both_differ_by_more_than_rounding():
    below = GraphScore(0.5, 0.6)
    assert GraphScore(0.5 + 1e-8, 0.6).is_above(below)
    assert not GraphScore(0.5 + 1e-10, 0.7).is_above(below)
    assert not GraphScore(0.6, 0.5 + 1e-10).is_above(below)  # equal means
    assert GraphScore(0.5 + 1e-8).is_above(GraphScore(0.5))
    assert not GraphScore(0.5 + 1e-10).is_above(GraphScore(0.5))


@pytest.mark.parametrize("score_of", [GraphScore(-0.1, -0.2), GraphScore(0.0, 0.0), GraphScore(0.05, 1.0)])
def test_a_collapse_is_below_clusters_however_few_edges_leave_it(score_of):
    assert GraphScore(0.8, 0.88).is_above(score_of)
    assert not score_of.is_above(GraphScore(0.8, 0.88))


def test_modularity_is_that_of_the_formula_over_all_pairs():
    z, labels = np.random.default_rng(0).normal(size=(40, 3)), np.random.default_rng(1).integers(0, 4, 40)
    graph = neighbor_graph(z, 5)
    A = graph.toarray()
    assert (A == A.T).all()
    assert (A.diagonal() == 0).all()
    assert modularity(graph, labels) == pytest.approx(slow_modularity(A, labels))


def test_points_that_are_far_from_the_origin_have_the_same_neighbors():
    Z = np.random.default_rng(0).normal(size=(60, 3))
    near, far = neighbor_graph(Z, 5), neighbor_graph(Z + 1e6, 5)
    assert (near != far).nnz == 0


def test_two_points_are_neighbors_though_more_are_asked_for():
    assert neighbor_graph(np.array([[0.0], [1.0]]), 20).toarray().tolist() == [[0, 1], [1, 0]]


def test_the_modularity_of_many_rows_is_that_of_a_sample_joined_to_20_neighbors():
    X, labels = np.random.default_rng(0).normal(size=(240, 3)), np.random.default_rng(1).integers(0, 4, 240)
    sample = sample_neighbors(X, 160)
    rows = np.sort(draw_rows(240, 160))
    assert np.array_equal(sample.rows, rows)
    assert sample.modularity(labels) == modularity(neighbor_graph(X[rows], 20), labels[rows])


def test_the_graph_of_many_features_is_that_of_their_principal_components_but_for_images():
    X = np.random.default_rng(0).normal(size=(150, 200))
    rows = sample_neighbors(X, 150).rows
    labels = np.random.default_rng(1).integers(0, 3, 150)
    for is_image, points in ((False, principal_components(X)), (True, X)):
        graph = neighbor_graph(points[rows], 18)
        assert sample_neighbors(X, 150, is_image=is_image).modularity(labels) == modularity(graph, labels[rows])
    assert sample_neighbors(X, 150).modularity(labels) != sample_neighbors(X, 150, is_image=True).modularity(labels)


def test_the_principal_components_are_those_of_the_rows_in_the_graph():
    X = np.random.default_rng(0).normal(size=(300, 200))
    X[draw_rows(300, 300)[150:], :100] *= 10  # the spread of rows that are left out
    sample, in_order = sample_neighbors(X, 150), np.sort(draw_rows(300, 150))
    graph = neighbor_graph(principal_components(X[in_order])[np.searchsorted(in_order, sample.rows)], 18)
    assert (sample.graph != graph).nnz == 0


@pytest.mark.parametrize(
    ("n_points", "expected"),
    [(2, 2), (3, 2), (15, 2), (23, 2), (24, 3), (100, 12), (159, 19), (160, 20), (161, 20), (10_000, 20)],
)
def test_clusterings_are_compared_with_20_neighbors_from_160_points_on_and_with_an_eighth_of_fewer(n_points, expected):
    assert n_compared(n_points) == expected


@pytest.mark.parametrize(("n_groups", "size"), [(2, 3), (3, 3), (5, 3), (3, 4), (3, 7), (3, 8), (3, 10), (5, 8)])
def test_the_right_clusters_of_few_rows_are_above_wrong_ones(n_groups, size):
    """With 20 neighbors each, the graph of 21 rows is complete, and all that counts is that sizes are uneven."""
    N = n_groups * size
    y = np.arange(N) // size
    X = np.eye(n_groups)[y] * 1000 + np.random.default_rng(0).standard_normal((N, n_groups))
    wrong = np.where(y == 1, 0, y)  # two groups are one cluster, and one row is alone
    wrong[0] = 1
    sample = sample_neighbors(X, 100)
    assert sample.score(y).is_above(sample.score(wrong))
    assert sample.modularity(y) > 0.3


@pytest.mark.parametrize("n_rows", range(2, 16))
def test_few_rows_have_finite_scores(n_rows):
    X = np.random.default_rng(n_rows).normal(size=(n_rows, 3))
    X[1] = X[0]
    for points in (X, X[:1].repeat(n_rows, axis=0)):
        sample = sample_neighbors(points, 100)
        for labels in (np.arange(n_rows), np.arange(n_rows) % 2, np.zeros(n_rows, np.int64)):
            score_of_labels = sample.score(labels)
            assert np.isfinite(score_of_labels).all()
            assert not score_of_labels.is_above(score_of_labels)


def test_two_finite_rows_are_the_fewest_that_have_neighbors():
    rows = np.array([[0.0], [1.0], [np.nan]])
    assert sample_neighbors(rows[:1], 50) is None
    assert sample_neighbors(rows, 50) is None
    assert sample_neighbors(rows[:2], 50).modularity(np.array([0, 1])) == -0.5  # the one edge joins two clusters
