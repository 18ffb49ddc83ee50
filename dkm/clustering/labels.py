"""Tables and sizes of label arrays: how clusterings relate to classes and to each other.

NumPy arrays in, NumPy arrays or Python floats out, no state. SciPy is imported where it is used, because it takes long
to load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    pass

# N samples, D dimensions, K clusters, C classes
IntArray = npt.NDArray[np.integer[Any]]


FloatArray = npt.NDArray[np.floating[Any]]


Int64Array = npt.NDArray[np.int64]


def contingency(y: IntArray, labels: IntArray, n_classes: int, n_clusters: int) -> Int64Array:
    """Count the samples of each class in each cluster.

    Parameters
    ----------
    y : int array, shape (N,), values 0 to n_classes - 1
        Class of each sample.
    labels : int array, shape (N,), values 0 to n_clusters - 1
        Cluster of each sample.

    Returns
    -------
    int64 array, shape (n_classes, n_clusters)
        Sums to N; classes and clusters without samples are rows and columns of zeros.

    Raises
    ------
    ValueError
        If the two differ in shape, or a value is out of its range.
    """
    if y.shape != labels.shape:
        raise ValueError(f"y has shape {y.shape} and labels {labels.shape}: expected one of each per sample")
    for name, ids, n in (("y", y, n_classes), ("labels", labels, n_clusters)):
        if ids.size and not 0 <= ids.min() <= ids.max() < n:
            raise ValueError(f"{name} has values from {ids.min()} to {ids.max()}: expected 0 to {n - 1}")
    table = np.zeros((n_classes, n_clusters), dtype=np.int64)
    np.add.at(table, (y, labels), 1)
    return table


def hungarian_order(table: npt.NDArray[Any]) -> Int64Array:
    """Order the clusters such that the best one-to-one match with the classes comes first, in class order.

    Parameters
    ----------
    table : array, shape (C, K)
        Samples of each class in each cluster, see `contingency`.

    Returns
    -------
    int64 array, shape (K,)
        A permutation of 0 to K - 1. With K >= C, ``table[:, order]`` has the matches on its diagonal and the
        clusters without a class after them, largest first; with K < C, the K matches in class order.
    """
    from scipy.optimize import linear_sum_assignment

    _, matched = linear_sum_assignment(table, maximize=True)
    largest_first = np.argsort(-table.sum(axis=0), kind="stable")
    rest = largest_first[~np.isin(largest_first, matched)]
    return np.concatenate([matched, rest]).astype(np.int64)


def adjusted_rand_index(labels: IntArray, others: IntArray) -> float:
    """How far two clusterings of the same rows agree: 1 for equal ones, 0 by chance.

    scikit-learn's ``adjusted_rand_score`` for cluster numbers from 0, without sorting them first: a hundred runs are
    compared pair by pair.

    Parameters
    ----------
    labels, others : int arrays, shape (N,), values from 0 on

    Returns
    -------
    float in [-0.5, 1]
    """
    K = int(labels.max()) + 1
    table = np.bincount(others * K + labels).astype(np.float64)
    table = np.append(table, np.zeros(-len(table) % K)).reshape(-1, K)
    together, n_pairs = (table * (table - 1)).sum(), len(labels) * (len(labels) - 1)
    in_first, in_second = ((sums * (sums - 1)).sum() for sums in (table.sum(0), table.sum(1)))
    by_chance = in_first * in_second / n_pairs if n_pairs else 0.0
    most = (in_first + in_second) / 2
    return 1.0 if most == by_chance else float((together - by_chance) / (most - by_chance))


def cluster_sizes(labels: IntArray, n_clusters: int) -> Int64Array:
    """Count the samples of each cluster.

    Parameters
    ----------
    labels : int array, shape (N,), values 0 to n_clusters - 1
        Cluster of each sample.

    Returns
    -------
    int64 array, shape (n_clusters,)
        Sums to N; an empty cluster counts 0.
    """
    sizes: Int64Array = contingency(np.zeros_like(labels), labels, 1, n_clusters)[0]
    return sizes


def effective_clusters(sizes: IntArray) -> float:
    """Return the perplexity of the sizes, exp of their entropy: how many equal clusters are as diverse.

    Parameters
    ----------
    sizes : int array, shape (K,), at least one value above 0
        Samples of each cluster.

    Returns
    -------
    float in [1, K]
        K where all are equal, 1 where one cluster holds everything.
    """
    share = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
