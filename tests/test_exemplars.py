"""What tells a person what a cluster is."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from dkm.data.scaling import Scaling
from dkm.evaluation.assignments import Assignments
from dkm.evaluation.exemplars import contrast_clusters, exemplar_lines, feature_lines, find_exemplars

LABELS = np.array([1, 0, 1, 1, 0, 3])
DISTANCE = np.array([0.3, 0.2, 0.1, 0.2, 0.1, 0.5], np.float32)
MARGIN = np.array([0.1, 0.4, 0.3, 0.2, 0.5, 0.6], np.float32)
ASSIGNMENTS = Assignments(np.arange(10, 16), np.array(list("abcdef")), LABELS, DISTANCE, MARGIN)


def test_exemplars_are_the_nearest_and_the_least_certain_rows_of_each_cluster() -> None:
    found = find_exemplars(ASSIGNMENTS, 4)
    assert [exemplars.nearest.tolist() for exemplars in found] == [[4, 1], [2, 3, 0], [], [5]]
    assert [exemplars.least_certain.tolist() for exemplars in found] == [[1, 4], [0, 3, 2], [], [5]]
    assert find_exemplars(ASSIGNMENTS._replace(margin=None), 4)[1].least_certain.tolist() == []


def test_their_table_names_the_rows_of_the_file() -> None:
    rows = list(csv.DictReader(exemplar_lines(ASSIGNMENTS, find_exemplars(ASSIGNMENTS, 4))))
    assert rows[0] == {
        "cluster": "0",
        "kind": "nearest",
        "rank": "1",
        "index": "14",
        "id": "e",
        "distance": "0.100000001",
        "margin": "0.5",
    }
    assert len(rows) == 2 * len(LABELS)


def test_without_ids_and_margins_the_table_has_neither() -> None:
    assignments = ASSIGNMENTS._replace(ids=None, margin=None)
    lines = list(exemplar_lines(assignments, find_exemplars(assignments, 4)))
    assert lines[0] == "cluster,kind,rank,index,distance,margin\n"
    assert lines[1:3] == ["0,nearest,1,14,0.100000001,\n", "0,nearest,2,11,0.200000003,\n"]
    assert len(lines) == 1 + len(LABELS)


def test_of_many_rows_ten_are_exemplars_and_of_equal_ones_the_first() -> None:
    distance = np.repeat(np.arange(20.0, 0, -1), 2)  # 20, 20, 19, 19, ..., 1, 1
    labels = np.zeros(40, np.int64)
    (found,) = find_exemplars(Assignments(np.arange(40), None, labels, distance, -distance), 1)
    assert found.nearest.tolist() == [38, 39, 36, 37, 34, 35, 32, 33, 30, 31]
    assert found.least_certain.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_the_contrast_is_the_difference_of_means_in_pooled_standard_deviations() -> None:
    generator = np.random.default_rng(0)
    X = (generator.normal(size=(60, 3)) + 1e4).astype(np.float32)
    labels = generator.integers(3, size=60)
    found = contrast_clusters(X, labels, 3)
    for k in range(3):
        mine, rest = X[labels == k].astype(np.float64), X[labels != k].astype(np.float64)
        pooled = np.sqrt((mine.var(0) * len(mine) + rest.var(0) * len(rest)) / 60)
        np.testing.assert_allclose(found.difference[k], (mine.mean(0) - rest.mean(0)) / pooled, rtol=1e-6)
        np.testing.assert_allclose(found.mean[k], mine.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.mean_of_others[k], rest.mean(0), rtol=1e-12)


def test_the_contrast_does_not_depend_on_the_parts_that_the_rows_are_read_in(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    X, labels = generator.normal(size=(60, 3)), generator.integers(3, size=60)
    whole = contrast_clusters(X, labels, 3)
    monkeypatch.setattr(
        "dkm.evaluation.exemplars.row_slices", lambda shape: [slice(0, 25), slice(25, 50), slice(50, 60)]
    )
    for ours, theirs in zip(contrast_clusters(X, labels, 3), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_constant_feature_sets_nothing_apart_and_an_empty_cluster_has_no_contrast() -> None:
    X = np.array([[1, 0], [1, 0], [1, 5], [1, 5]], np.float32)
    found = contrast_clusters(X, np.array([0, 0, 1, 1]), 3)
    np.testing.assert_array_equal(found.difference[:2], [[0, -np.inf], [0, np.inf]])
    assert np.isnan(found.difference[2]).all()


def test_a_single_row_is_a_cluster_like_any_other() -> None:
    found = contrast_clusters(np.array([[2.0], [6.0], [13.0]]), np.array([0, 0, 1]), 2)
    assert found.mean.tolist() == [[4.0], [13.0]]
    assert found.mean_of_others.tolist() == [[13.0], [4.0]]
    np.testing.assert_allclose(found.difference, [[-9 / (8 / 3) ** 0.5], [9 / (8 / 3) ** 0.5]], rtol=1e-12)


def test_the_contrast_of_clusters_far_from_each_other_keeps_its_digits() -> None:
    """A variance from one pass over the rows gave minus infinity here."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 50)
    X = generator.normal(size=(150, 2)) + 1e8 * labels[:, np.newaxis] + 1e6
    found = contrast_clusters(X, labels, 3)
    for k in range(3):
        cluster, rest = X[labels == k], X[labels != k]
        pooled = np.sqrt((cluster.var(0) * len(cluster) + rest.var(0) * len(rest)) / len(X))
        np.testing.assert_allclose(found.difference[k], (cluster.mean(0) - rest.mean(0)) / pooled, rtol=1e-6, atol=1e-9)
    two = X[:100]
    spread = np.sqrt((two[:50].var(0) + two[50:].var(0)) / 2)
    np.testing.assert_allclose(contrast_clusters(two, labels[:100], 2).difference[1], 1e8 / spread, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "sizes"), [((0.1, 0.3), (30, 71)), ((-1e-3, 1e6 / 3), (3, 11)), ((1 / 3, 3.0), (13, 90))]
)
def test_a_feature_that_is_constant_in_each_cluster_separates_them_without_limit(
    values: tuple[float, float], sizes: tuple[int, int]
) -> None:
    """Rounding made +-50 million of it."""
    labels = np.repeat([0, 1], sizes)
    found = contrast_clusters(np.array(values)[labels][:, np.newaxis], labels, 2)
    np.testing.assert_array_equal(found.difference, [[-np.inf], [np.inf]])


@pytest.mark.parametrize("value", [0.1, 1e8 / 3, -3e-5])
def test_a_feature_that_is_constant_in_all_rows_has_no_contrast(value: float) -> None:
    labels = np.arange(90) % 4
    np.testing.assert_array_equal(contrast_clusters(np.full((90, 1), value), labels, 4).difference, np.zeros((4, 1)))


def test_the_table_of_features_has_the_units_of_the_data() -> None:
    X = np.array([[0.0, 7], [0, 9], [10, 7], [10, 9.5]])
    scaling = Scaling.fit([X], "standard")
    contrast = contrast_clusters(scaling.apply(X), np.array([0, 0, 1, 1]), 3, scaling)
    lines = feature_lines(contrast, ["age", "size, cm"])
    rows = list(csv.DictReader(lines))
    assert [(row["cluster"], row["feature"]) for row in rows] == [
        ("0", "age"),
        ("0", "size, cm"),
        ("1", "age"),
        ("1", "size, cm"),
    ]
    assert float(rows[0]["mean"]) == pytest.approx(0, abs=1e-6)
    assert float(rows[0]["mean_of_others"]) == pytest.approx(10)


def test_means_of_counts_are_those_of_the_counts() -> None:
    """Not of their logarithms, of which the differences are."""
    X = np.array([[0.0, 40], [10, 30], [0, 40], [10, 30], [20, 20], [40, 0]])
    labels = np.array([0, 0, 0, 0, 2, 2])
    scaling = Scaling.fit([X], "counts", total=40.0)
    found = contrast_clusters(scaling.apply(X), labels, 4, scaling)
    np.testing.assert_allclose(found.mean[[0, 2]], [[5, 35], [30, 10]], rtol=1e-5)
    np.testing.assert_allclose(found.mean_of_others[[0, 2]], [[30, 10], [5, 35]], rtol=1e-5)
    assert np.isnan(found.mean[[1, 3]]).all()
    scaled = contrast_clusters(scaling.apply(X), labels, 4)
    np.testing.assert_array_equal(found.difference, scaled.difference)


def test_the_table_of_features_has_the_ten_largest_differences_and_no_empty_cluster() -> None:
    X = np.zeros((4, 12))
    X[:2] = np.arange(12)
    X[1::2] += 1  # some spread
    names = [f"f{i}" for i in range(12)]
    lines = list(feature_lines(contrast_clusters(X, np.array([0, 0, 2, 2]), 3), names))
    assert lines[0] == "cluster,rank,feature,difference,mean,mean_of_others\n"
    # The difference of the means is i, the standard deviation within both clusters 1/2.
    expected = [(0, rank, 12 - rank, 2 * (12 - rank), 12.5 - rank, 0.5) for rank in range(1, 11)]
    expected += [(2, rank, 12 - rank, -2 * (12 - rank), 0.5, 12.5 - rank) for rank in range(1, 11)]
    assert lines[1:] == [f"{k},{rank},f{i},{d},{mean:.9g},{others:.9g}\n" for k, rank, i, d, mean, others in expected]
