"""Finished work that later runs may share: kept in a folder, under a hash of all that decides its numbers.

Ten methods on the same data begin with the same pretraining. What is found here is what the run would have computed,
to the last bit, or else it has another key.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.data.datasets import Dataset
from dkm.data.stored import StoredRows
from dkm.runtime import checkpoints, distributed
from dkm.runtime.atomic import write_atomically
from dkm.runtime.environment import processor, versions

log = logging.getLogger(__name__)

# Raise one with every change to the code that alters the numbers of a pretraining, or of k-means on the raw data.
_VERSIONS = {"pretrained": 1, "raw": 2}
# Settings that caches of earlier versions do not know, with what these did: left out of a key where they are that.
_YOUNGER = {"model.initial_weights": "fan_in"}

Kind = Literal["raw", "pretrained"]


class Cache:
    """The folder ``pretrain.cache`` as one run sees it; where that is null nothing is found and nothing kept.

    Parameters
    ----------
    config : Config
    data : Dataset
    n_clusters, latent_dim : int
        As the run has them, where the config leaves them to the data.
    device : torch.device
    """

    def __init__(
        self, config: Config, data: Dataset, *, n_clusters: int, latent_dim: int, device: torch.device
    ) -> None:
        self._config = config
        self._data = data
        self._n_clusters = n_clusters
        self._latent_dim = latent_dim
        self._device = device

    def key(self, kind: Kind) -> str | None:
        """Return the name of what this run computes with its present threads and device; None without a folder."""
        config, data = self._config, self._data
        if config.pretrain.cache is None:
            return None
        settings = {k: v for k, v in dotted(config).items() if k not in _YOUNGER or v != _YOUNGER[k]}
        sections = ["evaluation.", "batch_size", "seed", "precision", "compile", "deterministic"]
        if kind == "raw":
            sections += ["clustering.n_init", "clustering.init_samples"]
            special: list[Any] = [self._n_clusters]
            special += [True] if isinstance(data.X, StoredRows) else []  # of which smaller samples are taken
        else:
            sections += ["model.", "augmentation.", "regularization.", "loss.", "pretrain."]
            sections += ["optimizer."] if config.pretrain.optimizer is None else []
            special = [self._latent_dim, isinstance(data.X, StoredRows)]  # of which batches are drawn otherwise
        found = versions()
        parts = {
            "settings": {k: v for k, v in settings.items() if k.startswith(tuple(sections)) and k != "pretrain.cache"},
            "data": [data.sha256, list(data.X.shape), data.image_shape, data.scaling.to_dict()],
            kind: special,
            "versions": {name: found[name] for name in ("dkm", "torch", "numpy")},
            "machine": [processor(self._device), torch.get_num_threads(), distributed.world_size()],
        }
        return key_of(kind, parts)

    def find(self, key: str | None) -> dict[str, Any] | None:
        """Return what is kept under the key, on every rank."""
        if key is None:
            return None
        return distributed.state_of_main(distributed.on_main(lambda: load(self._folder, key)))

    def keep(self, key: str | None, state: dict[str, Any]) -> None:
        """Keep ``state`` (tensors and builtin containers) under the key."""
        if key is not None:
            save(self._folder, key, state)

    @property
    def _folder(self) -> Path:
        return Path(str(self._config.pretrain.cache))


def key_of(kind: Kind, parts: Mapping[str, Any]) -> str:
    """Return the name of the entry that holds the work ``kind`` done under ``parts``, builtins for JSON."""
    text = json.dumps({"version": _VERSIONS[kind], **parts}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the entry, None if there is none; of one that is damaged a warning says so, and it counts as none."""
    path = folder / f"{key}.pt"
    if not path.exists():
        return None
    try:
        return checkpoints.read(path)
    except checkpoints.CheckpointError as error:
        log.warning("%s; computed anew", error)
        return None


def save(folder: Path, key: str, state: dict[str, Any]) -> None:
    """Keep ``state`` (tensors and builtin containers); a folder that cannot be written to is only warned about."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two runs may finish the same pretraining at the same time.
        beside = folder / f"{key}.{os.getpid()}.pt"
        write_atomically(beside, checkpoints.serialized(state))
        beside.replace(folder / f"{key}.pt")
    except OSError as error:
        log.warning("pretrain.cache=%s: cannot be written to (%s); choose another folder", folder, error.strerror)
