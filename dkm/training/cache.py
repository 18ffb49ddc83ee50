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

from dkm.config.roles import role_of, stages_of
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.config.settings import Stage
from dkm.data.datasets import Dataset
from dkm.data.stored import StoredRows
from dkm.runtime import checkpoints, distributed
from dkm.runtime.atomic import write_atomically
from dkm.runtime.environment import processor, versions

log = logging.getLogger(__name__)

Kind = Literal["raw", "pretrained"]

# Raise one with every change to the code that alters the numbers of a pretraining, or of k-means on the raw data.
_VERSIONS = {"pretrained": 2, "raw": 3}
_STAGES = {"pretrained": Stage.PRETRAINING, "raw": Stage.BASELINE}


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
        # The data are told by their SHA-256. Rows on disk are sampled and batched differently from rows in memory.
        replaced = ("data.",) if kind == "raw" or config.pretrain.optimizer is None else ("data.", "optimizer.")
        special = [self._n_clusters if kind == "raw" else self._latent_dim, isinstance(data.X, StoredRows)]
        found = versions()
        parts = {
            "settings": {
                key: value
                for key, value in dotted(config).items()
                if role_of(key).decides_work and _STAGES[kind] in stages_of(key) and not key.startswith(replaced)
            },
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
