"""Finished work that later runs may share: kept in a folder, under a hash of all that decides its numbers.

Ten methods on the same data begin with the same pretraining. What is found here is what the run would have computed,
to the last bit, or else it has another key.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dkm import checkpoint

log = logging.getLogger(__name__)

# Raise one with every change to the code that alters the numbers of a pretraining, or of k-means on the raw data.
_VERSIONS = {"pretrained": 1, "raw": 2}


def key_of(kind: str, parts: Mapping[str, Any]) -> str:
    """Return the name of the entry that holds the work ``kind`` done under ``parts``, builtins for JSON."""
    text = json.dumps({"version": _VERSIONS[kind], **parts}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the entry, None if there is none; of one that is damaged a warning says so, and it counts as none."""
    path = folder / f"{key}.pt"
    if not path.exists():
        return None
    try:
        return checkpoint.read(path)
    except checkpoint.CheckpointError as error:
        log.warning("%s; computed anew", error)
        return None


def save(folder: Path, key: str, state: dict[str, Any]) -> None:
    """Keep ``state`` (tensors and builtin containers); a folder that cannot be written to is only warned about."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(folder / f"{key}.pt", checkpoint.serialized(state))
    except OSError as error:
        log.warning("pretrain.cache=%s: cannot be written to (%s); choose another folder", folder, error.strerror)
