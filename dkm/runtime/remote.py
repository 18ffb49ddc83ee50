"""Files elsewhere: ``s3://``, ``gs://``, ``https://`` and their kin, through fsspec.

What is read is copied into a local folder first, once for each version of the remote file, so that everything else sees
local files only. What is written is made locally and copied when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dkm.config.values import scheme_of
from dkm.errors import UserError, in_short, input_error
from dkm.installation import pip_install

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
        if not filesystem.exists(path):
            raise input_error(source, "no such file", "an existing file or folder", f"correct {key}")
        version = str(filesystem.ukey(path)) if not filesystem.isdir(path) else _version_of_folder(filesystem, path)
        digest = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:24]
        target = cache_folder("remote") / digest / (path.rstrip("/").rpartition("/")[2] or "data")
        if not target.exists():
            _copy(filesystem, path, target)
    except UserError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise input_error(
            source, f"cannot be read ({in_short(error)})", "a readable file", "check its rights"
        ) from error
    return target


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
        local = Path(folder) / (path.rstrip("/").rpartition("/")[2] or "output")
        yield local
        try:
            filesystem.put(str(local), path, recursive=local.is_dir())
        except Exception as error:
            raise input_error(
                source, f"cannot be written ({in_short(error)})", "a place to write", "check it"
            ) from error


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


def _version_of_folder(filesystem: Any, path: str) -> str:
    entries = filesystem.find(path, detail=True)
    return repr(
        sorted((name, info.get("size"), info.get("ETag"), str(info.get("mtime"))) for name, info in entries.items())
    )


def cache_folder(name: str) -> Path:
    """Return a folder below ``DKM_CACHE``, else below the user's cache directory; it may be removed at any time."""
    given = os.environ.get("DKM_CACHE")
    folder = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dkm"
    return folder.expanduser() / name


def _copy(filesystem: Any, path: str, target: Path) -> None:
    """Copy a file or a folder; nothing remains if it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        filesystem.get(path, str(temporary), recursive=filesystem.isdir(path))
        if target.exists():  # another process was faster
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.replace(target)
