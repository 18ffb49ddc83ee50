"""Contingency tables, cluster sizes and agreement of label arrays.

All functions take NumPy arrays, return NumPy arrays or Python floats, and have no state. SciPy is imported where it is
used, because it takes long to load.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
        If the shapes differ, or a value is out of range.
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
    """Order the clusters by their best one-to-one match with the classes; matched ones come first, in class order.

    Parameters
    ----------
    table : array, shape (C, K)
        Samples of each class in each cluster, see `contingency`.

    Returns
    -------
    int64 array, shape (K,)
        A permutation of 0 to K - 1. With K >= C, ``table[:, order]`` has the matches on its diagonal, followed by the
        clusters without a class, largest first; with K < C, the K matches in class order.
    """
    from scipy.optimize import linear_sum_assignment

    _, matched = linear_sum_assignment(table, maximize=True)
    largest_first = np.argsort(-table.sum(axis=0), kind="stable")
    rest = largest_first[~np.isin(largest_first, matched)]
    return np.concatenate([matched, rest]).astype(np.int64)


def adjusted_rand_index(labels: IntArray, others: IntArray) -> float:
    """Return the adjusted Rand index of two clusterings of the same rows: 1 if they are equal, about 0 by chance.

    Equals scikit-learn's ``adjusted_rand_score``. Labels that count from 0 need no sorting, which matters because a
    hundred runs are compared pair by pair.

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
    in_both, n_pairs = (table * (table - 1)).sum(), len(labels) * (len(labels) - 1)
    in_first, in_second = ((sums * (sums - 1)).sum() for sums in (table.sum(0), table.sum(1)))
    expected = in_first * in_second / n_pairs if n_pairs else 0.0
    maximum = (in_first + in_second) / 2
    return 1.0 if maximum == expected else float((in_both - expected) / (maximum - expected))


def cluster_sizes(labels: IntArray, n_clusters: int) -> Int64Array:
    """Count the samples of each cluster.

    Parameters
    ----------
    labels : int array, shape (N,), values 0 to n_clusters - 1
        Cluster of each sample.

    Returns
    -------
    int64 array, shape (n_clusters,)
        Number of samples of each cluster; sums to N.
    """
    sizes: Int64Array = contingency(np.zeros_like(labels), labels, 1, n_clusters)[0]
    return sizes


def effective_clusters(sizes: IntArray) -> float:
    """Return the perplexity of the cluster sizes, the exp of their entropy.

    Parameters
    ----------
    sizes : int array, shape (K,), at least one value above 0
        Samples of each cluster.

    Returns
    -------
    float in [1, K]
        K if all sizes are equal, 1 if one cluster has all samples.
    """
    share = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
