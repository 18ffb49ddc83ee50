"""Cache of pretrainings and raw-data baselines that several runs share.

Ten methods on the same data begin with the same pretraining. The key of an entry is a hash of everything that affects
its numbers, so an entry equals what the run would compute, to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
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

# Increment an entry when a change to the code alters the numbers of a pretraining or of k-means on the raw data.
_VERSIONS = {"pretrained": 4, "raw": 7}
# The packages that compute what is kept: scikit-learn and SciPy the neighbors and the scores.
_DECIDING = ("dkm", "torch", "numpy", "scikit-learn", "scipy")
_STAGES = {"pretrained": Stage.PRETRAINING, "raw": Stage.BASELINE}


class Cache:
    """The cache of one run in the folder ``pretrain.cache``; if that is null, the cache is disabled.

    Parameters
    ----------
    config : Config
    data : Dataset
    n_clusters, latent_dim : int
        Resolved values; the config may leave them to the data.
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
        """Return the key of this run with its current threads and device; None if the cache is disabled."""
        config, data = self._config, self._data
        if config.pretrain.cache is None:
            return None
        has_neighbors = config.pretrain.neighbor_weight > 0
        # Their SHA-256 identifies the data. Rows on disk are sampled and batched differently from rows in memory.
        replaced = ("data.",) if kind == "raw" or config.pretrain.optimizer is None else ("data.", "optimizer.")
        special = [self._n_clusters if kind == "raw" else self._latent_dim, isinstance(data.X, StoredRows)]
        installed = versions()
        parts = {
            "settings": {
                key: value
                for key, value in dotted(config).items()
                if role_of(key).decides_work and _STAGES[kind] in stages_of(key) and not key.startswith(replaced)
            },
            "data": [data.sha256, list(data.X.shape), data.image_shape, data.scaling.to_dict()],
            # The rows of the neighbor embedding.
            **({"neighbors": config.clustering.init_samples} if kind == "pretrained" and has_neighbors else {}),
            **({} if data.filled is None else {"filled": data.filled.sha256()}),
            kind: special,
            "versions": {name: installed[name] for name in _DECIDING},
            "machine": [processor(self._device), torch.get_num_threads(), distributed.world_size()],
        }
        return key_of(kind, parts)

    def find(self, key: str | None) -> dict[str, Any] | None:
        """Return the entry with this key on every rank; None if there is none."""
        if key is None:
            return None
        return distributed.state_of_main(distributed.on_main(lambda: load(self.folder, key)))

    def keep(self, key: str | None, state: dict[str, Any]) -> None:
        """Store ``state`` (tensors and builtin containers) under the key."""
        if key is not None:
            save(self.folder, key, state)

    @property
    def folder(self) -> Path:
        """The folder of the entries."""
        return Path(str(self._config.pretrain.cache))


def key_of(kind: Kind, parts: Mapping[str, Any]) -> str:
    """Return the key of an entry: its kind and a hash of ``parts``, which JSON must be able to represent."""
    text = json.dumps({"version": _VERSIONS[kind], **parts}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the entry, or None if there is none or it cannot be used, which is logged as a warning."""
    path = folder / f"{key}.pt"
    if not path.exists():
        return None
    try:
        return checkpoints.read(path)
    except checkpoints.CheckpointError as error:
        log.warning("%s; computed anew", error)
        return None
    except OSError as error:
        log.warning("%s: cannot be read (%s); computed anew", path, error.strerror)
        return None


def save(folder: Path, key: str, state: dict[str, Any]) -> None:
    """Store ``state`` (tensors and builtin containers); if the folder cannot be written to, log a warning."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two runs may finish the same pretraining at the same time.
        write_atomically(folder / f"{key}.pt", checkpoints.serialized(state), is_shared=True)
    except OSError as error:
        log.warning("pretrain.cache=%s: cannot be written to (%s); choose another folder", folder, error.strerror)
