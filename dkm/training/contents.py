"""What the entries of a checkpoint must be: types, ranges and shapes.

A checkpoint has a digest against damage, but it may come from somebody else. Every error here is a ``ValueError`` that
names the entry; ``dkm.training.restoring`` makes one line of it.
"""

# Shapes: N samples, D latent, K clusters.

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dkm.runs.reading import N_CLUSTERS_CHOICE, is_choice
from dkm.runs.tensorboard import BASELINES
from dkm.training.guard import Kept
from dkm.training.state import PHASES, Progress

# More epochs, steps or bytes than any run has; floats count up to here without gaps.
_MOST = 2**53


def require(is_valid: bool, name: str) -> None:
    """Refuse an entry.

    Raises
    ------
    ValueError
    """
    if not is_valid:
        raise ValueError(f"{name} is not what a run writes")


def require_like(value: Any, like: Tensor, name: str) -> None:
    """Refuse what is not a tensor of the shape of another one."""
    require(isinstance(value, Tensor) and value.shape == like.shape, name)


def require_labels(labels: Any, n_samples: int, n_clusters: int, name: str) -> None:
    """Refuse what is not the label (N,) of each row, from 0 to K - 1."""
    is_typed = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (n_samples,)
    require(is_typed and int(labels.min()) >= 0 and int(labels.max()) < n_clusters, name)


def require_entries(state: Mapping[str, Any]) -> None:
    """Refuse entries that are neither part of the progress nor of a module."""
    optimizer, average = state["optimizer"], state["average"]
    is_state = isinstance(optimizer, dict) and isinstance(optimizer.get("state"), dict)
    require(optimizer is None or (is_state and isinstance(optimizer.get("param_groups"), list)), "optimizer")
    is_list = isinstance(average, list) and all(isinstance(value, Tensor) for value in average)
    require(average is None or is_list, "average")
    require(_is_count(state["metrics_bytes"]), "metrics_bytes")
    require(isinstance(state.get("metrics_sha256"), str | None), "metrics_sha256")
    choice = state.get(N_CLUSTERS_CHOICE)
    require(choice is None or is_choice(choice), N_CLUSTERS_CHOICE)


def require_progress(progress: Progress, *, n_samples: int, n_clusters: int, n_batches: int) -> None:
    """Refuse a progress that no run has; see ``require_kept`` for the model that it keeps.

    Parameters
    ----------
    progress : Progress
    n_samples, n_clusters : int
        N and K.
    n_batches : int
        Number of batches of an epoch.
    """
    at = progress.state
    require(at.phase in PHASES, "train_state.phase")
    for name in ("epoch", "batch", "step", "epochs_before"):
        require(_is_count(getattr(at, name)), f"train_state.{name}")
    require(at.batch <= n_batches, "train_state.batch")
    require(isinstance(at.is_stopped, bool), "train_state.is_stopped")
    require(at.learned in (None, *BASELINES), "train_state.learned")
    require(at.restored in (None, "initialization", "joint", at.learned), "train_state.restored")
    require(at.restored_step is None or _is_count(at.restored_step), "train_state.restored_step")
    require(all(math.isfinite(seconds) and seconds >= 0 for seconds in progress.seconds.values()), "seconds")
    reassigned = progress.reassignment
    require(_are_numbers(reassigned) and None not in reassigned.values(), "reassignment")
    require(not reassigned or {"label_change", "n_dead", "n_revived"} <= reassigned.keys(), "reassignment")
    for name, scores in progress.baselines.items():
        require(scores is None or _are_numbers(scores), f"baselines.{name}")
    require(isinstance(progress.labels, dict), "labels")
    for name, labels in progress.labels.items():
        require_labels(labels, n_samples, n_clusters, f"labels.{name}")
    require(isinstance(progress.cache_key, str | None), "cache_key")


def require_kept(kept: Kept, autoencoder: Mapping[str, Tensor], centroids: Tensor) -> None:
    """Refuse a kept state of another model than that of these weights and centroids (K, D)."""
    require(kept.stage in ("initialization", "joint", *BASELINES), "kept.stage")
    require(kept.step is None or _is_count(kept.step), "kept.step")
    require(_is_finite(kept.modularity), "kept.modularity")
    # Both have the same sign.
    is_valid = kept.assortativity is None or _is_finite(kept.assortativity)
    require(is_valid and kept.modularity * (kept.assortativity or 0) >= 0, "kept.assortativity")
    require_like(kept.centroids, centroids, "kept.centroids")
    require(isinstance(kept.autoencoder, dict) and kept.autoencoder.keys() == autoencoder.keys(), "kept.autoencoder")
    for name, weights in autoencoder.items():
        require_like(kept.autoencoder[name], weights, f"kept.autoencoder.{name}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _are_numbers(values: object) -> bool:
    """Return whether this is a dictionary of numbers and None by their names."""
    return isinstance(values, dict) and all(
        isinstance(name, str) and (value is None or isinstance(value, int | float)) for name, value in values.items()
    )
