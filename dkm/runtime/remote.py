"""Files elsewhere: ``s3://``, ``gs://``, ``https://`` and their kin, through fsspec.

What is read is copied into a local folder first, once for each version of the remote file, so that everything else sees
local files only. A web server that tells no version of a file is asked for its content again. What is written is made
locally and copied when it is complete.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dkm.config.values import scheme_of
from dkm.errors import UserError, in_short, input_error
from dkm.installation import pip_install
from dkm.runtime.atomic import publish

# The packages that fsspec needs for these; it chains and interprets others, such as "reference", which are not allowed.
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hdfs": "pyarrow",
    "memory": "fsspec",
}
# What changes with the content of a file, under the names that file systems give it. Not among them is the time of the
# last access, which our own reading changes.
_VERSION_KEYS = {"size", "etag", "mtime", "lastmodified", "last_modified", "last-modified", "updated", "created"}
_VERSION_KEYS |= {"content-md5", "digest", "md5hash", "generation"}
# Within this time a process reads a file of which the server tells no version once: a command asks several times.
_READ_AGAIN_S = 600.0
# Longer names are cut; file systems take 255 bytes.
_MAX_NAME_BYTES, _MAX_SUFFIX_BYTES = 100, 20
_read_files: dict[str, tuple[float, Path]] = {}

log = logging.getLogger(__name__)


def fetch(url: str, key: str = "path") -> Path:
    """Return a local copy of a remote file or folder.

    Parameters
    ----------
    url : str
    key : str
        The setting that names it, for messages.

    Raises
    ------
    UserError
        If it does not exist, cannot be read, or needs a package that is not installed.
    """
    filesystem, path = _filesystem(url, key)
    source = f"{key}={url}"
    try:
        info = _info(filesystem, path)
        if info is None:
            raise input_error(source, "no such file", "an existing file or folder", f"correct {key}")
        version = _version(filesystem, path, info)
        if version is None:
            return _read_anew(filesystem, path, url, source)
        target = _local_copy(url, version)
        if not target.exists():
            _copy(filesystem, path, target)
    except UserError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise input_error(
            source, f"cannot be read ({in_short(error)})", "a readable file", "check its rights and the network"
        ) from error
    return target


def local_name(url: str) -> str:
    """Return the last part of an address as the name of a local file; empty if there is none.

    The query of a web address, such as a signature, is not part of it.
    """
    path = urlsplit(url).path if scheme_of(url) in ("http", "https") else url.partition("://")[2]
    name = path.rstrip("/").rpartition("/")[2]
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    stem = name.encode()[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    return stem + "".join(part for part in Path(name).suffixes[-2:] if len(part.encode()) <= _MAX_SUFFIX_BYTES)


@contextmanager
def uploaded(url: str, key: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield a local path of the same name, and copy what the block has made there to ``url``.

    Raises
    ------
    UserError
        If something is there already and ``overwrite`` is false, or it cannot be written.
    """
    filesystem, path = _filesystem(url, key)
    source = f"{key}={url}"
    try:
        is_there = filesystem.exists(path)
    except Exception as error:
        raise input_error(source, f"cannot be reached ({in_short(error)})", "a place to write", "check it") from error
    if is_there and not overwrite:
        raise input_error(source, "it exists", "a new name", "set overwrite=true, or choose another name")
    with tempfile.TemporaryDirectory(prefix="dkm-") as folder:
        local = Path(folder) / (local_name(url) or "output")
        yield local
        try:
            _put(filesystem, local, path)
        except Exception as error:
            raise input_error(
                source, f"cannot be written ({in_short(error)})", "a place to write", "check it"
            ) from error


def _put(filesystem: Any, local: Path, path: str) -> None:
    """Copy a file, or the files of a folder, to ``path``.

    ``put`` takes a [ in the name for a pattern, and copies a folder into one that exists.
    """
    files = sorted(part for part in local.rglob("*") if part.is_file()) if local.is_dir() else [local]
    for file in files:
        filesystem.put_file(str(file), path if file == local else f"{path}/{file.relative_to(local).as_posix()}")


def _filesystem(url: str, key: str) -> tuple[Any, str]:
    scheme, source = scheme_of(url), f"{key}={url}"
    assert scheme is not None
    if scheme not in _PACKAGES or "::" in url:
        raise input_error(
            source, f"{scheme}://", f"one of {', '.join(f'{name}://' for name in _PACKAGES)}", f"correct {key}"
        )
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES[scheme]
        raise input_error(
            source, f"{package} is not installed", f"the package for {scheme}://", pip_install(package)
        ) from error
    except Exception as error:
        raise input_error(source, f"cannot be reached ({in_short(error)})", "an address", f"correct {key}") from error
    return filesystem, str(path)


def _info(filesystem: Any, path: str) -> Mapping[str, Any] | None:
    """Return what is known of a file or folder; None if it does not exist, as ``exists`` says whatever has failed.

    Raises
    ------
    Exception
        If it cannot be reached.
    """
    try:
        info: Mapping[str, Any] = filesystem.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__ if _is_web(filesystem) else None  # fsspec says so of all that can fail there
        status = getattr(cause, "status", None)
        if cause is None or status in (404, 410):
            return None
        if status is not None:  # the text of the cause has the address, which may be signed
            raise OSError(f"{status} {getattr(cause, 'message', '')}".strip()) from error
        raise OSError(str(cause) or type(cause).__name__) from error
    return info


def _is_web(filesystem: Any) -> bool:
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    return "http" in protocols


def _version(filesystem: Any, path: str, info: Mapping[str, Any]) -> str | None:
    """Return what changes when a file or folder changes; None if a web server does not tell it."""
    if filesystem.isdir(path):
        entries = filesystem.find(path, detail=True)
        return repr(sorted((name, _version_of(info)) for name, info in entries.items()))
    version = _version_of(info)
    if any(key.lower() != "size" for key, _ in version):
        return repr(version)
    # fsspec's own ``ukey`` takes every file of the web for unchanging, and the time of the last access for a change.
    return None if _is_web(filesystem) else str(filesystem.ukey(path))


def _version_of(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted((key, str(value)) for key, value in info.items() if key.lower() in _VERSION_KEYS)


def _local_copy(url: str, version: str) -> Path:
    digest = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:24]
    return cache_folder("remote") / digest / (local_name(url) or "data")


def cache_folder(name: str) -> Path:
    """Return a folder below ``DKM_CACHE``, else below the user's cache directory; it may be removed at any time."""
    given = os.environ.get("DKM_CACHE")
    folder = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dkm"
    return folder.expanduser() / name


def _read_anew(filesystem: Any, path: str, url: str, source: str) -> Path:
    """Return a copy of a file whose version is its content."""
    read_at, target = _read_files.get(url, (-_READ_AGAIN_S, Path()))
    if time.monotonic() - read_at < _READ_AGAIN_S and target.exists():
        return target
    log.info("%s: the server tells neither ETag nor Last-Modified, so it is read again", source)
    cache_folder("remote").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder("remote")) as folder:
        temporary = Path(folder) / (local_name(url) or "data")
        filesystem.get_file(path, str(temporary))
        with temporary.open("rb") as file:
            target = _local_copy(url, hashlib.file_digest(file, "sha256").hexdigest())
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            publish(temporary, target)
    _read_files[url] = (time.monotonic(), target)
    return target


def _copy(filesystem: Any, path: str, target: Path) -> None:
    """Copy a file or a folder; nothing remains if it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        if filesystem.isdir(path):
            filesystem.get(path, str(temporary), recursive=True)
        else:  # ``get`` takes a ? or [ in the name for a pattern
            filesystem.get_file(path, str(temporary))
        try:
            publish(temporary, target)
        except OSError:
            if not target.exists():  # else another process was faster
                raise
