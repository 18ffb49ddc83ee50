"""What the encoders of images and texts share: the cache of features, and the identity of an encoder.

An entry of the cache holds the features of one chunk of rows. Its key is the SHA-256 of the encoder and of the rows'
contents, so equal rows are encoded once, in whatever run, and an interrupted encoding continues where it stopped.
"""

# Shapes: n rows of a chunk, F features.

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dkm.errors import UserError, input_error, missing_extra_error, reason
from dkm.runtime.atomic import replacing
from dkm.runtime.remote import cache_folder

log = logging.getLogger(__name__)

T = TypeVar("T")
Features = npt.NDArray[np.float32]

# Rows that are encoded and cached together. It divides dkm.data.stored.CHUNK_ROWS, so that a prediction in parts
# encodes the batches of training, and its features are the same to the last bit.
CHUNK = 1024
# Increment when a change to the code alters the features.
_VERSION = 1
_SECONDS_BETWEEN_MESSAGES = 10
_MAX_MESSAGE = 200


def chunked(items: Iterable[T], n: int) -> Iterator[list[T]]:
    """Yield the items in lists of ``n``; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, n)):
        yield chunk


def require_package(package: str, source: str, extra: str) -> str:
    """Return the version of an optional package without importing it.

    Raises
    ------
    UserError
        If the package is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise missing_extra_error(source, package, extra) from error


def digest_of_files(files: Mapping[str, Path], source: str) -> str:
    """Return the SHA-256 of the names and contents of files.

    Raises
    ------
    UserError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        try:
            with files[name].open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            found = f"{files[name]} cannot be read ({reason(error)})"
            raise input_error(source, found, "a file with weights", f"correct {source.partition('=')[0]}") from error
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def require_trained_encoder(trained: Mapping[str, Any] | None, identity: Mapping[str, Any], source: str) -> None:
    """Check that an encoder is the one that a model was trained with.

    Parameters
    ----------
    trained : Mapping, optional
        ``identity`` of the encoder at training; None at training itself.
    identity : Mapping
        Name, digest of the files, and settings of the encoder.
    source : str
        The setting that names the encoder, as KEY=VALUE.

    Raises
    ------
    UserError
        If they differ in anything but the name, which may be another path of the same files.
    """
    if trained is None:
        return
    for part, value in identity.items():
        if part != "name" and trained.get(part) != value:
            found = f"its {part} is {_shorten(value)}"
            expected = f"the encoder of the training, {trained.get('name')} with {part} {_shorten(trained.get(part))}"
            raise input_error(source, found, expected, f"name the same files with {source.partition('=')[0]}")


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


class FeatureCache:
    """The features of one encoder by the contents that they were computed from.

    Parameters
    ----------
    encoder : Mapping
        Everything that decides the features besides the contents, as JSON values.
    """

    def __init__(self, encoder: Mapping[str, Any]) -> None:
        self._folder = cache_folder("features")
        self._prefix = json.dumps({"version": _VERSION, **encoder}, sort_keys=True).encode()

    def key(self, contents: Iterable[bytes]) -> str:
        """Return the key of a chunk of rows: contents in order, each of any length."""
        digest = hashlib.sha256(self._prefix)
        for content in contents:
            digest.update(f"{len(content)} ".encode())
            digest.update(content)
        return digest.hexdigest()[:32]

    def find(self, key: str, n_rows: int) -> Features | None:
        """Return the features (n_rows, F); None if there are none or the file is damaged."""
        path = self._path(key)
        try:
            features = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError) as error:
            log.warning("%s cannot be read (%s); its features are computed anew", path, reason(error))
            return None
        is_whole = features.ndim == 2 and len(features) == n_rows and features.dtype == np.float32
        return features if is_whole else None

    def keep(self, key: str, features: Features) -> None:
        """Store features; if the folder cannot be written to, log a warning."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two runs may encode the same rows at the same time.
            with replacing(path, is_shared=True) as temporary, temporary.open("wb") as file:
                np.save(file, features)
        except OSError as error:
            message = "the cache of features %s cannot be written to (%s); set DKM_CACHE to another folder"
            log.warning(message, self._folder, error.strerror)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.npy"


class EncodingProgress:
    """Logs how many rows were encoded, every few seconds."""

    def __init__(self, source: str, what: str) -> None:
        self._source, self._what = source, what
        self._start = self._last = time.monotonic()
        self._n = 0

    def add(self, n: int) -> None:
        """Count ``n`` more encoded rows."""
        self._n += n
        now = time.monotonic()
        if now - self._last > _SECONDS_BETWEEN_MESSAGES:
            self._last = now
            rate = self._n / (now - self._start)
            text = f"{self._source}: encoded {self._n:,} {self._what}, {rate:,.1f} per second"
            log.info("%s", text, extra={"is_progress": True})


def unusable_encoder_error(source: str, error: BaseException, expected: str) -> UserError:
    """Return the error of an encoder that cannot be loaded or does not run."""
    key = source.partition("=")[0]
    return input_error(source, f"cannot be used ({first_line(error)})", expected, f"correct {key}")


def first_line(error: BaseException) -> str:
    """Return the beginning of a library's long message."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:_MAX_MESSAGE]
