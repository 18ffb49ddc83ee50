"""Checkpoints: written atomically, the previous one kept, verified before anything in them is used.

A checkpoint is what ``torch.save`` writes, followed by a line with the SHA-256 of what stands before it (``torch.load``
does not mind the line). Only tensors and builtin containers are stored and loaded (``weights_only=True``): nothing in a
checkpoint can run.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from dkm.errors import UserError
from dkm.runtime.atomic import write_atomically

log = logging.getLogger(__name__)

LAST = "last.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"
FORMAT_VERSION = 1
_MARK = b"\ndkm sha256 "
_TRAILER_BYTES = len(_MARK) + 64 + 1


class CheckpointError(UserError):
    """A checkpoint that cannot be used."""


def save(directory: Path, state: dict[str, Any]) -> None:
    """Make ``state`` (tensors and builtin containers) the last checkpoint, and the last one the previous one."""
    content = serialized(state)
    directory.mkdir(exist_ok=True)
    last = directory / LAST
    if last.exists():
        # Linked under a second name and not moved, so that `last.pt` is never missing.
        link = directory / (PREVIOUS + ".tmp")
        link.unlink(missing_ok=True)
        try:
            os.link(last, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(last, link)
        link.replace(directory / PREVIOUS)
    write_atomically(last, content)


def serialized(state: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, **state}, buffer)
    payload = buffer.getvalue()
    return payload + _MARK + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def load(directory: Path) -> dict[str, Any] | None:
    """Return the newest intact state, on the CPU; None if no checkpoint was ever written.

    Raises
    ------
    CheckpointError
        If there are checkpoints and none is intact.
    """
    broken: list[str] = []
    for path in (directory / LAST, directory / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = read(path)
        except CheckpointError as error:
            broken.append(str(error))
            continue
        if broken:
            # Otherwise `save` would make the damaged checkpoint the previous one.
            (directory / LAST).replace(directory / DAMAGED)
            log.warning("%s; going back to %s, the one before it; kept as %s", broken[0], path, DAMAGED)
        return state
    if broken:
        raise CheckpointError("; ".join(broken) + "; expected an intact checkpoint; start a new run")
    return None


def read(path: Path) -> dict[str, Any]:
    """Return what ``serialized`` made a file of, on the CPU.

    Raises
    ------
    CheckpointError
        If it cannot be read, is damaged, or holds anything else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    payload, trailer = content[:-_TRAILER_BYTES], content[-_TRAILER_BYTES:]
    digest = hashlib.sha256(payload).hexdigest().encode()
    if trailer != _MARK + digest + b"\n":
        raise CheckpointError(f"{path}: damaged or altered (its SHA-256 is not the one it was written with)")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # crafted content can make the unpickler stumble in any way; none of it is executed
        raise CheckpointError(f"{path}: holds something other than tensors and plain containers; not loaded") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format_version={version}, expected {FORMAT_VERSION}")
    assert isinstance(state, dict)
    return state
