"""The user's own NumPy files: found, recognized by their first bytes, and never trusted to be what they say.

Everything is read with ``allow_pickle=False``. Whatever is wrong becomes one ``UserError`` line.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dkm.errors import UserError, input_error, reason

# The second kind of zip archive is one without members.
_FIRST_BYTES = {b"\x93NUMPY": "npy", b"PK\x03\x04": "npz", b"PK\x05\x06": "npz", b"PAR1": "parquet"}

# What NumPy and zipfile were seen to raise on files with random bytes changed.
_ARRAY_ERRORS = (EOFError, MemoryError, OSError, RuntimeError, SyntaxError, TokenError, TypeError, ValueError)
_FILE_ERRORS = (*_ARRAY_ERRORS, BadZipFile, zlib.error)


class Part(NamedTuple):
    """Rows of a file, n of them, as they were read."""

    X: npt.NDArray[Any]  # (n, F), or images (n, H, W), (n, C, H, W), (n, H, W, C)
    position: npt.NDArray[np.int64]  # (n,) their positions in the file, counted from 0
    ids: npt.NDArray[Any] | None = None  # (n,) text that names them
    labels: npt.NDArray[Any] | None = None  # (n,)


# --- messages -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_line_errors(source: str) -> Iterator[None]:
    """Turn what a damaged or refused array raises into the line for the user."""
    try:
        yield
    except _FILE_ERRORS as error:
        if "allow_pickle" in str(error):
            found, expected = "holds Python objects", "numbers, or strings as labels"
            remedy = "loading objects could run code and is never done; write it with such a dtype"
        else:
            found, expected = f"cannot be read ({reason(error)})", "a complete file"
            remedy = "write or copy it again"
        raise input_error(source, found, expected, remedy) from error


# --- finding ------------------------------------------------------------------------------------------------


def expand(path: str) -> Path:
    """Replace a leading ``~`` as a shell does, which leaves the home of an unknown user as it is."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def find_file(key: str, value: str, file_format: str) -> Path:
    """Return the path of a file that can be opened and that begins as one of this format does."""
    path = expand(value)
    remedy = f"use data={'npy' if file_format == 'npz' else 'npz'}" if key == "data.path" else "write it with np.save"
    _check_format(path, f"{key}={value}", file_format, remedy, key)
    return path


def _find_shards(key: str, folder: Path) -> list[Path]:
    """Return the ``.npy`` files of a folder, sorted by name; hidden ones are left out, as a shell does."""
    source, expected = f"{key}={folder}", "a .npy file, or a folder of .npy files"
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        found, remedy = f"a folder that cannot be read ({reason(error)})", "check its permissions"
        raise input_error(source, found, expected, remedy) from error
    shards = [folder / name for name in names if name.endswith(".npy")]
    if not shards:
        found = f"a folder without .npy files (it has {names[0]}, for example)" if names else "an empty folder"
        raise input_error(source, found, expected, f"correct {key}, or write the files with np.save")
    for path in shards:
        _check_format(path, _shard_source(source, path), "npy", "write it with np.save", key)
    return shards


def _shard_source(source: str, path: Path) -> str:
    """Return KEY=VALUE of a folder, and which of its files it is about."""
    return f"{source}: shard {path.name}"


def check_there(path: Path, source: str, key: str, expected: str = "a file") -> bytes:
    """Return the first bytes of a file that can be opened and is not empty.

    Raises
    ------
    UserError
        If there is no such file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(max(map(len, _FIRST_BYTES)))
    except FileNotFoundError as error:
        raise _missing(path, source, expected, key) from error
    except (OSError, ValueError) as error:
        found, remedy = f"cannot be opened ({reason(error)})", "name a file, and check its permissions"
        raise input_error(source, found, expected, remedy) from error
    if not head:
        raise input_error(source, "an empty file (0 bytes)", expected, "write or copy it again")
    return head


def format_of(head: bytes) -> str | None:
    """Return npy, npz or parquet for the first bytes of such a file, None for another."""
    return next((name for start, name in _FIRST_BYTES.items() if head.startswith(start)), None)


def _check_format(path: Path, source: str, file_format: str, remedy: str, key: str) -> None:
    expected = f"a .{file_format} file"
    found_format = format_of(check_there(path, source, key, expected))
    if found_format not in ("npy", "npz"):
        raise input_error(source, "neither a .npy nor a .npz file", expected, "write it with np.save or np.savez")
    if found_format != file_format:
        raise input_error(source, f"the content of a .{found_format} file", expected, remedy)


def _missing(path: Path, source: str, expected: str, key: str) -> UserError:
    folder, near = path.absolute().parent, []
    with contextlib.suppress(OSError):  # there may be no such folder
        near = difflib.get_close_matches(path.name, [sibling.name for sibling in folder.iterdir()], n=1)
    remedy = f"did you mean {key}={path.with_name(near[0])}?" if near else f"correct {key}"
    return input_error(source, f"no such file in {folder}", expected, remedy)


# --- reading ------------------------------------------------------------------------------------------------


def read_npy(path: Path, source: str) -> npt.NDArray[Any]:
    """Return the array of a ``.npy`` file."""
    with one_line_errors(source):
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return array


@dataclass(frozen=True)
class NpyHeader:
    """What a ``.npy`` file says about itself, and the state of the file when it said so."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    # Where the values begin.
    offset: int
    n_bytes_of_file: int
    modified_ns: int

    @property
    def n_bytes(self) -> int:
        """The length that the file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path, source: str) -> NpyHeader:
    """Return the header of a ``.npy`` file, whose values may be missing."""
    npy = np.lib.format
    with one_line_errors(source), path.open("rb") as file:
        state = os.fstat(file.fileno())
        # Version 3.0 differs from 2.0 in the encoding of the names of fields, and data have no fields.
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("expected allow_pickle=True")
        if any(length < 0 for length in shape):
            raise ValueError(f"shape {shape}")
        n_dims = sum(length > 1 for length in shape)
        is_fortran = is_fortran and n_dims > 1  # else both orders are the same
        return NpyHeader(path, dtype, shape, is_fortran, file.tell(), state.st_size, state.st_mtime_ns)


class NpyFiles:
    """The headers of one file or of the shards of a folder, which agree with each other; no values are read.

    Parameters
    ----------
    key, value : str
        The setting that names the file or folder.

    Raises
    ------
    UserError
        If there is nothing to read, or a shard has another dtype or another shape of its rows than the first.
    """

    def __init__(self, key: str, value: str) -> None:
        self.source = f"{key}={value}"
        path = expand(value)
        self.is_folder = os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises for a name that is too long
        paths = _find_shards(key, path) if self.is_folder else [find_file(key, value, "npy")]
        self.headers = [read_header(path, self.source_of(path)) for path in paths]
        first = self.headers[0]
        for header in self.headers[1:]:
            self._check_agreement(header, first)
        self.dtype = first.dtype
        self.shape = first.shape
        if len(self.headers) > 1:
            self.shape = (sum(header.shape[0] for header in self.headers), *first.shape[1:])

    def source_of(self, path: Path) -> str:
        """Return how a message names a file."""
        return _shard_source(self.source, path) if self.is_folder else self.source

    def read_whole(self) -> npt.NDArray[Any]:
        """Return all values in memory."""
        first = self.headers[0]
        if len(self.headers) == 1:
            return read_npy(first.path, self.source_of(first.path))
        with one_line_errors(self.source):
            array = np.empty(self.shape, self.dtype)
        start = 0
        for header in self.headers:
            stop = start + header.shape[0]
            with one_line_errors(self.source_of(header.path)):
                array[start:stop] = read_npy(header.path, self.source_of(header.path))
            start = stop
        return array

    def _check_agreement(self, header: NpyHeader, first: NpyHeader) -> None:
        source, remedy = self.source_of(header.path), "write all shards alike, or move this one away"
        if header.dtype != first.dtype:
            expected = f"{first.dtype} as in {first.path.name}"
            raise input_error(source, f"an array of {header.dtype}", expected, remedy)
        if not first.shape or not header.shape or header.shape[1:] != first.shape[1:]:
            expected = ", ".join(["any number", *map(str, first.shape[1:])])
            raise input_error(source, f"shape {header.shape}", f"({expected}) as in {first.path.name}", remedy)
