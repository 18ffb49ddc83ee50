"""What characterizes each cluster: its most typical and its least certain rows, and its features."""

# Shapes: N samples, n of a sample, F features, K clusters, M exemplars.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dkm.data.scaling import Array, Scaling, row_slices
from dkm.evaluation.assignments import Assignments, csv_line

N_EXEMPLARS = 10
# Features of each cluster in features.csv.
N_FEATURES = 10


class Exemplars(NamedTuple):
    """Indices among the N rows, in order; at most ``N_EXEMPLARS`` of each kind."""

    nearest: npt.NDArray[np.int64]  # nearest to the centroid
    least_certain: npt.NDArray[np.int64]  # with the smallest margins; empty with one cluster


def find_exemplars(assignments: Assignments, n_clusters: int) -> list[Exemplars]:
    """Return the exemplars of each cluster."""
    exemplars = []
    order = np.argsort(assignments.cluster, kind="stable")
    starts = np.searchsorted(assignments.cluster[order], np.arange(n_clusters + 1))
    for start, stop in pairwise(starts):
        members = order[start:stop]
        uncertain = members[:0] if assignments.margin is None else _smallest(assignments.margin, members)
        exemplars.append(Exemplars(_smallest(assignments.distance, members), uncertain))
    return exemplars


def _smallest(values: Array, members: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    chosen: npt.NDArray[np.int64] = members[np.argsort(values[members], kind="stable")[:N_EXEMPLARS]]
    return chosen


def exemplar_lines(assignments: Assignments, exemplars: Sequence[Exemplars], *, is_safe: bool = False) -> Iterator[str]:
    """Yield the lines of ``exemplars.csv``; entry k of ``exemplars`` is of cluster k.

    ``is_safe`` marks texts that a spreadsheet would execute; see ``dkm.evaluation.assignments.safe_text``.
    """
    ids, texts = assignments.ids, assignments.texts
    columns = ["cluster", "kind", "rank", "index", *([] if ids is None else ["id"]), "distance", "margin"]
    yield csv_line(*columns, *([] if texts is None else ["text"]))
    for cluster, rows_of_cluster in enumerate(exemplars):
        for kind, rows in zip(Exemplars._fields, rows_of_cluster, strict=True):
            for rank, row in enumerate(rows, 1):
                yield csv_line(
                    *(cluster, kind, rank, assignments.position[row]),
                    *([] if ids is None else [ids[row]]),
                    assignments.distance[row],
                    None if assignments.margin is None else assignments.margin[row],
                    *([] if texts is None else [texts[row]]),
                    is_safe=is_safe,
                )


class Contrast(NamedTuple):
    """How the rows of each cluster differ from all other rows, feature by feature: (K, F)."""

    difference: Array  # of the means, in units of the pooled standard deviation; nan for an empty cluster
    mean: Array  # in the units of the data
    mean_of_others: Array


def contrast_clusters(
    X: Array, labels: npt.NDArray[np.int64], n_clusters: int, scaling: Scaling | None = None
) -> Contrast:
    """Compare each cluster with all other rows of X, feature by feature.

    The standardized mean difference (Cohen's d): the pooled variance is the mean over all rows of the squared
    deviation from the mean of their own side, the cluster or the rest.

    Parameters
    ----------
    X : float array, shape (n, F)
    labels : int64 array, shape (n,), values 0 to n_clusters - 1
    scaling : Scaling, optional
        That of X, which the differences are in, but not the means: those are of the unscaled rows.

    Returns
    -------
    Contrast
        ``difference`` is 0 where a feature is constant in all rows, and infinite where it is constant in the cluster
        and has another constant value in the rest.

    References
    ----------
    Chan, Golub, LeVeque: Algorithms for Computing the Sample Variance (1983), eq. 2.1: how two groups are merged.
    """
    # Two passes, each relative to a row of the row's own cluster: a one-pass variance cancels where clusters lie far
    # from each other, and a mean of equal numbers would be rounded.
    first_rows = np.zeros((n_clusters, X.shape[1]))
    present, first_index = np.unique(labels, return_index=True)
    first_rows[present] = X[first_index]
    counts = np.bincount(labels, minlength=n_clusters).astype(np.float64)[:, np.newaxis]  # (K, 1)
    offset = _sums_by_cluster(X, labels, first_rows, power=1) / np.maximum(counts, 1)
    squares = _sums_by_cluster(X, labels, first_rows + offset, power=2)

    groups = [_Group(*group) for group in zip(counts[:, 0], first_rows + offset, squares, strict=True)]
    empty = _Group(0.0, np.zeros(X.shape[1]), np.zeros(X.shape[1]))
    before = list(accumulate(groups, _merge, initial=empty))  # entry k: the clusters below k
    after = list(accumulate(reversed(groups), _merge, initial=empty))[::-1]  # entry k + 1: the clusters above k
    rests = [_merge(before[k], after[k + 1]) for k in range(n_clusters)]
    n_rest, mean_of_others, rest_squares = (np.array(part) for part in zip(*rests, strict=True))

    deviation = np.sqrt((squares + rest_squares) / len(X))
    gap = first_rows + offset - mean_of_others
    is_undefined = (counts == 0) | (n_rest[:, np.newaxis] == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(is_undefined, np.nan, np.where(gap == 0, 0.0, gap / deviation))
    mean = first_rows + offset
    if scaling is not None and scaling.total is None:
        mean, mean_of_others = scaling.unscale(mean), scaling.unscale(mean_of_others)
    elif scaling is not None:  # a mean of logarithms is not the logarithm of the mean
        sums = _sums_by_cluster(X, labels, np.zeros_like(mean), power=1, scaling=scaling)
        mean, mean_of_others = sums / np.maximum(counts, 1), (sums.sum(axis=0) - sums) / np.maximum(n_rest, 1)[:, None]
    mean = np.where(counts == 0, np.nan, mean)
    return Contrast(difference, mean, np.where(n_rest[:, np.newaxis] == 0, np.nan, mean_of_others))


class _Group(NamedTuple):
    """Rows with their mean (F,) and the sums (F,) of their squared deviations from it."""

    n_rows: float
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


def _merge(one: _Group, other: _Group) -> _Group:
    """Return the mean and the squared deviations of two groups together; every term is positive, so none cancels."""
    n_rows = one.n_rows + other.n_rows
    share = other.n_rows / max(n_rows, 1)
    gap = other.mean - one.mean
    return _Group(n_rows, one.mean + share * gap, one.squares + other.squares + one.n_rows * share * gap**2)


def _sums_by_cluster(
    X: Array,
    labels: npt.NDArray[np.int64],
    centers: npt.NDArray[np.float64],
    *,
    power: int,
    scaling: Scaling | None = None,
) -> npt.NDArray[np.float64]:
    """Return the sums (K, F) of the powers of the deviations of the rows from the center of their cluster.

    With ``scaling`` the rows are unscaled first.
    """
    sums = np.zeros_like(centers)
    for part in row_slices(X.shape):
        rows = X[part] if scaling is None else scaling.unscale(X[part])
        deviations = (rows - centers[labels[part]]) ** power
        n = len(deviations)
        member = sparse.csr_array((np.ones(n), (labels[part], np.arange(n))), shape=(len(centers), n))
        sums += member @ deviations
    return sums


def feature_lines(contrast: Contrast, names: Sequence[str], *, is_safe: bool = False) -> Iterator[str]:
    """Yield the lines of ``features.csv``: the features that distinguish each cluster, in the units of the data."""
    means = (contrast.mean, contrast.mean_of_others)
    yield csv_line("cluster", "rank", "feature", "difference", "mean", "mean_of_others")
    for cluster, row in enumerate(contrast.difference):
        if np.isnan(row).all():
            continue
        for rank, feature in enumerate(np.argsort(-np.abs(row), kind="stable")[:N_FEATURES], 1):
            in_units = (values[cluster, feature] for values in means)
            yield csv_line(cluster, rank, names[feature], row[feature], *in_units, is_safe=is_safe)
