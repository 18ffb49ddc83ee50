"""Checkpoints: written atomically, verified before use, with the previous checkpoint kept.

A checkpoint consists of the output of ``torch.save`` and a line with its SHA-256, which ``torch.load`` ignores. Only
tensors and builtin containers are stored and loaded (``weights_only=True``), so loading a checkpoint cannot run code.

A checkpoint is damaged if its content does not have that SHA-256. Only then, or if it is missing, the previous one
takes its place: a lack of memory, a disk that cannot be read now, or a checkpoint of another version is an error, and
nothing is renamed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from dkm.errors import UserError, is_out_of_memory
from dkm.runtime.atomic import replacing, sync_directory, write_atomically

log = logging.getLogger(__name__)

LAST = "last.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"
FORMAT_VERSION = 1
_REMEDY = "resume the run with the version of dkm that wrote it, or start a new run"
_MARK = b"\ndkm sha256 "
_TRAILER_BYTES = len(_MARK) + 64 + 1


class CheckpointError(UserError):
    """A checkpoint that cannot be used."""


class CompressedError(ValueError):
    """An archive that unpacks to more than its size."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint with another content than was written."""


def save(directory: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and builtin containers) as the last checkpoint; keep the one before as the previous."""
    content = serialized(state)
    if not directory.is_dir():
        directory.mkdir()
        sync_directory(directory.parent)  # else a power failure could leave metrics of the joint phase without it
    last = directory / LAST
    if last.exists():
        # Linked under a second name instead of moved, so that `last.pt` always exists.
        with replacing(directory / PREVIOUS, is_synced=False) as link:
            link.unlink(missing_ok=True)
            try:
                os.link(last, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(last, link)
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
        If checkpoints exist but none is intact, or the newest intact one is not what this version writes.
    OSError, MemoryError
        If the newest intact one cannot be read now.
    """
    last, previous = directory / LAST, directory / PREVIOUS
    broken: list[str] = []
    for path in (last, previous):
        if not path.exists():
            continue
        try:
            state = read(path)
        except DamagedCheckpoint as error:
            broken.append(str(error))
            continue
        if broken:
            # Otherwise `save` would keep the damaged checkpoint as the previous one.
            last.replace(directory / DAMAGED)
            log.warning("%s; going back to %s, the one before it; kept as %s", broken[0], path, DAMAGED)
        elif path == previous:
            log.warning("%s is missing; going back to %s, the one before it", last, path)
        return state
    if broken:
        raise CheckpointError("; ".join(broken) + "; expected an intact checkpoint; start a new run")
    return None


def require_stored(file: IO[bytes]) -> None:
    """Raise ``CompressedError`` if the output of ``torch.save`` unpacks to more than its size.

    ``torch.save`` writes a zip archive whose members are not compressed; ``torch.load`` would unpack others without a
    limit. The older format is no archive.
    """
    is_archive = file.read(4) == b"PK\x03\x04"  # as torch decides
    n_bytes = file.seek(0, io.SEEK_END)
    if is_archive:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CompressedError("has compressed members, which torch.save does not write")
        if sum(member.file_size for member in members) > n_bytes:
            raise CompressedError("has members that are larger than the file")
    file.seek(0)


def read(path: Path) -> dict[str, Any]:
    """Return the state in a file with the content of ``serialized``, on the CPU.

    Raises
    ------
    DamagedCheckpoint
        If the content is not the one that was written.
    CheckpointError
        If the content is intact, but not that of a checkpoint of this version.
    OSError, MemoryError
        If the file cannot be read, or does not fit into memory.
    """
    content = path.read_bytes()
    payload, trailer = content[:-_TRAILER_BYTES], content[-_TRAILER_BYTES:]
    digest = hashlib.sha256(payload).hexdigest().encode()
    if trailer != _MARK + digest + b"\n":
        raise DamagedCheckpoint(f"{path}: damaged or altered (its SHA-256 is not the one it was written with)")
    try:
        require_stored(io.BytesIO(payload))
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # crafted content can raise any exception in the unpickler; none of it is executed
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise
        is_compressed = isinstance(error, CompressedError)
        found = str(error) if is_compressed else "holds something other than tensors and plain containers"
        raise CheckpointError(f"{path}: {found}; not loaded; expected a checkpoint of a run; {_REMEDY}") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format_version={version}, expected {FORMAT_VERSION}; {_REMEDY}")
    assert isinstance(state, dict)
    return state
