"""The initial clusters of the joint phase: k-means on the embedding, or another clustering of it.

After the length of the pretraining, the initialization affects the result most: the joint phase refines the clusters
that it starts from and does not separate merged classes.
"""

# Shapes: N points, D latent, K clusters.

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dkm.clustering import partition
from dkm.clustering.assignment import Assignment, assign, means_of_parts
from dkm.clustering.labels import contingency, hungarian_order
from dkm.clustering.lloyd import kmeans, kmeans_restarts, lowest_inertia, most_even
from dkm.clustering.neighborhood import Neighborhood
from dkm.config.clustering import ClusteringConfig
from dkm.data import files
from dkm.data.batches import stream_seed
from dkm.data.sampling import draw_rows
from dkm.errors import input_error

log = logging.getLogger(__name__)

# BRB clusters the embedding of at most this many points after a reset.
_RESET_SAMPLES = 10_000


class Start(NamedTuple):
    """``centroids`` (K, D) and ``labels`` (N,) of all points; the labels may differ from the nearest centroids."""

    centroids: Tensor
    labels: Tensor


def run_restarts(
    z: Tensor, n_clusters: int, config: ClusteringConfig, sample: Tensor | None, seed: int
) -> list[Assignment]:
    """Run k-means ``config.n_init`` times on the rows ``sample`` (None: all rows) of the embedding z (N, D)."""
    sampled = z if sample is None else z[sample.to(z.device)]
    init = "random" if config.init == "random" else "k-means++"
    return kmeans_restarts(sampled, n_clusters, n_init=config.n_init, init=init, seed=seed)


def assign_all_points(z: Tensor, result: Assignment) -> Assignment:
    """Assign all points z (N, D) to the centroids of ``result``, which may be of a sample."""
    return result if len(result.labels) == len(z) else assign(z, result.centroids)


def find_start(
    z: Tensor,
    restarts: Sequence[Assignment],
    config: ClusteringConfig,
    given: np.ndarray | None,
    seed: int,
    neighborhood: Neighborhood,
) -> Start:
    """Cluster z (N, D) as ``config.init`` says, or return the clusters ``given`` by ``read_init_file``.

    The ``neighborhood`` is that of the rows, for ``config.init=data``.

    Raises
    ------
    UserError
        If ``config.init=gmm`` and no mixture can be fitted.
    """
    K = len(restarts[0].centroids)
    if given is not None:
        return _from_given(z, given, K)
    if config.init == "uniform":
        generator = torch.Generator().manual_seed(stream_seed(seed))
        drawn = 2 * torch.rand(K, z.shape[1], generator=generator).to(z.device) - 1
        return Start(drawn, assign(z, drawn).labels)
    if config.init in partition.METHODS:
        start_s = time.perf_counter()
        how: dict[str, int] = {"samples": config.partition_samples, "n_neighbors": config.n_neighbors, "seed": seed}
        try:
            labels_array = partition.partition(z.cpu().numpy(), K, config.init, **how)
        except partition.MixtureFailed as error:
            expected = f"an embedding that {K} Gaussians can be fitted to"
            raise input_error("clustering.init=gmm", str(error), expected, "set clustering.init=auto") from error
        log.info("clusters from clustering.init=%s (%.1f s)", config.init, time.perf_counter() - start_s)
        labels = torch.from_numpy(labels_array).to(z.device)
        return Start(means_of_parts(z, labels, K), labels)
    if config.init == "auto":
        return _choose_clusters(z, restarts, config, seed)
    if config.init == "data":
        return _cluster_rows(z, K, config, neighborhood)
    plain, chosen = lowest_inertia(restarts), most_even(restarts, config.balance_slack)
    if chosen.inertia > plain.inertia:
        log.info(
            "the joint phase starts from the restart with the most even clusters, inertia %.1f %% above the lowest "
            "(clustering.balance_slack=%g)",
            *(100 * (chosen.inertia / plain.inertia - 1), config.balance_slack),
        )
    return Start(chosen.centroids, assign_all_points(z, chosen).labels)


def _choose_clusters(z: Tensor, restarts: Sequence[Assignment], config: ClusteringConfig, seed: int) -> Start:
    """Return the best of several clusterings of the embedding z (N, D)."""
    start_s = time.perf_counter()
    K = len(restarts[0].centroids)
    picks = np.sort(draw_rows(len(z), config.partition_samples, seed))
    sampled = z[torch.from_numpy(picks).to(z.device)]
    starts = [assign(sampled, restart.centroids).labels.cpu() for restart in restarts]
    choice = partition.choose(
        sampled.cpu().numpy(),
        K,
        {f"k-means-{i}": labels.numpy() for i, labels in enumerate(starts)},
        n_neighbors=config.n_neighbors,
        slack=config.modularity_slack,
        seed=seed,
    )
    best = {
        name.rpartition("-")[0] or name: value for name, value in sorted(choice.modularity.items(), key=lambda i: i[1])
    }
    log.info(
        "clusters from clustering.init=auto: %s, modularity %.4f; highest from %s (%.1f s)",
        *(choice.name, choice.modularity[choice.name]),
        ", ".join(f"{name} {value:.4f}" for name, value in best.items()),
        time.perf_counter() - start_s,
    )
    labels = torch.from_numpy(partition.spread(z.cpu().numpy(), picks, choice.labels)).to(z.device)
    return Start(means_of_parts(z, labels, K), labels)


def _cluster_rows(z: Tensor, n_clusters: int, config: ClusteringConfig, neighborhood: Neighborhood) -> Start:
    """Return the clusters of the rows in the embedding z (N, D); rows outside the sample join the nearest centroids."""
    start_s = time.perf_counter()
    found = neighborhood.cluster(n_clusters, n_init=config.n_init)
    log.info(
        "clusters from clustering.init=data: k-means on %s; modularity on %s (%.1f s)",
        found.origin,
        ", ".join(f"{origin} {value:.4f}" for origin, value in found.modularities.items()),
        time.perf_counter() - start_s,
    )
    labels = torch.from_numpy(found.labels).to(z.device)
    if neighborhood.sample is None:
        return Start(means_of_parts(z, labels, n_clusters), labels)
    sample = neighborhood.sample.to(z.device)
    centroids = means_of_parts(z[sample], labels, n_clusters)
    all_labels = assign(z, centroids).labels
    all_labels[sample] = labels
    return Start(centroids, all_labels)


def cluster_again(
    z: Tensor, n_clusters: int, config: ClusteringConfig, sample: Tensor | None, seed: int, old: Tensor
) -> Start:
    """Cluster z (N, D) with k-means and number the clusters like the most similar ones of ``old`` (N,)."""
    rows = torch.arange(len(z)) if sample is None else sample
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    sampled = z[rows[order[: max(_RESET_SAMPLES, n_clusters)]].to(z.device)]
    centroids = kmeans(sampled, n_clusters, n_init=config.n_init, seed=seed).centroids
    labels = assign(z, centroids).labels
    table = contingency(old.cpu().numpy(), labels.cpu().numpy(), n_clusters, n_clusters)
    order_of_old = torch.from_numpy(hungarian_order(table)).to(z.device)
    new_number = torch.empty_like(order_of_old)
    new_number[order_of_old] = torch.arange(n_clusters, device=z.device)
    return Start(centroids[order_of_old], new_number[labels])


def read_init_file(path: str, n_samples: int, n_clusters: int, latent_dim: int) -> np.ndarray:
    """Read ``clustering.init_file``: centroids (K, D) as floats, or the labels (N,) of all points as integers.

    Raises
    ------
    UserError
        If it contains neither.
    """
    key = f"clustering.init_file={path}"
    array = files.read_npy(files.find_file("clustering.init_file", path, "npy"), key)
    remedy = "write one or the other with np.save"
    expected = (
        f"centroids, floats of shape ({n_clusters}, {latent_dim}), or the cluster of each point, "
        f"integers of shape ({n_samples},)"
    )
    is_labels = array.dtype.kind in "iu" and array.shape == (n_samples,)
    if not is_labels and not (array.dtype.kind == "f" and array.shape == (n_clusters, latent_dim)):
        raise input_error(key, f"{array.dtype} of shape {array.shape}", expected, remedy)
    if is_labels:
        if not (array.min() >= 0 and array.max() < n_clusters):
            between = f"clusters {array.min()} to {array.max()}"
            raise input_error(key, between, f"0 to {n_clusters - 1}", "correct it or clustering.n_clusters")
        return array.astype(np.int64)
    if not np.isfinite(array).all():
        raise input_error(key, "a value that is nan or inf", "finite centroids", "correct it")
    return array.astype(np.float32)


def _from_given(z: Tensor, given: np.ndarray, n_clusters: int) -> Start:
    values = torch.from_numpy(given).to(z.device)
    if values.ndim == 1:
        return Start(means_of_parts(z, values, n_clusters), values)
    return Start(values, assign(z, values).labels)
