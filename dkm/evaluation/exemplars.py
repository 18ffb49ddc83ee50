"""What a person looks at to say what each cluster is: its nearest and its least certain rows, and its features."""

# Shapes: N samples, n of a sample, F features, K clusters, M exemplars.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dkm.data.scaling import Array, Scaling, row_slices
from dkm.evaluation.assignments import Answers, csv_line

N_EXEMPLARS = 10
# Features of each cluster that are told.
N_FEATURES = 10


class Exemplars(NamedTuple):
    """Positions among the N rows, the first ones first; as many as there are, at most ``N_EXEMPLARS``."""

    nearest: npt.NDArray[np.int64]  # to the centroid
    least_certain: npt.NDArray[np.int64]  # smallest margin to the second nearest centroid; none with one cluster


def find(answers: Answers, n_clusters: int) -> list[Exemplars]:
    """Return the exemplars of each cluster."""
    found = []
    order = np.argsort(answers.cluster, kind="stable")
    starts = np.searchsorted(answers.cluster[order], np.arange(n_clusters + 1))
    for start, stop in pairwise(starts):
        members = order[start:stop]
        uncertain = members[:0]
        if answers.margin is not None:
            uncertain = _smallest(answers.margin, members)
        found.append(Exemplars(_smallest(answers.distance, members), uncertain))
    return found


def _smallest(values: Array, members: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    chosen: npt.NDArray[np.int64] = members[np.argsort(values[members], kind="stable")[:N_EXEMPLARS]]
    return chosen


def exemplar_lines(answers: Answers, found: Sequence[Exemplars]) -> Iterator[str]:
    """Yield the lines of ``exemplars.csv``."""
    with_id = answers.ids is not None
    yield csv_line("cluster", "kind", "rank", "index", *(["id"] if with_id else []), "distance", "margin")
    for cluster, exemplars in enumerate(found):
        for kind, rows in zip(Exemplars._fields, exemplars, strict=True):
            for rank, row in enumerate(rows, 1):
                yield csv_line(
                    *(cluster, kind, rank, answers.position[row]),
                    *([] if answers.ids is None else [answers.ids[row]]),
                    answers.distance[row],
                    None if answers.margin is None else answers.margin[row],
                )


class Contrast(NamedTuple):
    """How the rows of each cluster differ from all other rows, feature by feature: (K, F)."""

    difference: Array  # of the means, in units of the pooled standard deviation; nan for an empty cluster
    mean: Array
    mean_of_others: Array


def contrast(X: Array, labels: npt.NDArray[np.int64], n_clusters: int) -> Contrast:
    """Compare each cluster with the rest of X (n, F), whose rows have ``labels`` (n,).

    The standardized mean difference (Cohen's d): the pooled standard deviation has the variances within the cluster
    and within the rest, weighted by their sizes. 0 where a feature is constant in both.
    """
    shift = X[:1].astype(np.float64)  # squares of a large offset would cost digits
    counts = np.bincount(labels, minlength=n_clusters).astype(np.float64)[:, np.newaxis]
    sums = np.zeros((n_clusters, X.shape[1]))
    squares = np.zeros_like(sums)
    for part in row_slices(X.shape):
        rows = X[part] - shift
        n = len(rows)
        member = sparse.csr_array((np.ones(n), (labels[part], np.arange(n))), shape=(n_clusters, n))
        sums += member @ rows
        squares += member @ np.square(rows, out=rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        n_others = counts.sum() - counts
        mean, others = sums / counts, (sums.sum(0) - sums) / n_others
        within = squares - counts * np.square(mean)
        around = squares.sum(0) - squares - n_others * np.square(others)
        deviation = np.sqrt(np.maximum(within + around, 0) / counts.sum())
        gap = mean - others
        is_flat = deviation <= 1e-12 * np.abs(gap)
        difference = np.where(is_flat, np.sign(gap) * np.where(gap == 0, 0, np.inf), gap / deviation)
    return Contrast(difference, mean + shift, others + shift)


def feature_lines(found: Contrast, names: Sequence[str], scaling: Scaling) -> Iterator[str]:
    """Yield the lines of ``features.csv``: of each cluster the features that set it apart, in the units of the data."""
    shift, scale = (np.broadcast_to(values, found.mean.shape[1:]) for values in (scaling.shift, scaling.scale))
    yield csv_line("cluster", "rank", "feature", "difference", "mean", "mean_of_others")
    for cluster, row in enumerate(found.difference):
        if np.isnan(row).all():
            continue
        for rank, feature in enumerate(np.argsort(-np.abs(row), kind="stable")[:N_FEATURES], 1):
            means = (values[cluster, feature] * scale[feature] + shift[feature] for values in found[1:])
            yield csv_line(cluster, rank, names[feature], row[feature], *means)
