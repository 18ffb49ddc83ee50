"""Find the user's own NumPy files, check their format by their first bytes, and read them.

Everything is read with ``allow_pickle=False``. Every error is raised as a one-line ``UserError``.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dkm.config.values import scheme_of
from dkm.errors import UserError, input_error, reason
from dkm.runtime.remote import fetch

# PK\x05\x06 begins a zip archive without members.
_FIRST_BYTES = {
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "npz",
    b"PK\x05\x06": "npz",
    b"PAR1": "parquet",
    b"ARROW1": "feather",
}
_FIRST_BYTES |= {b"\x89HDF\r\n\x1a\n": "hdf5", b"MATLAB 5.0": "mat", b"MATLAB 7.3": "mat"}

# The errors that NumPy and zipfile raised on files with random changes (fuzzing).
_ARRAY_ERRORS = (EOFError, MemoryError, OSError, RuntimeError, SyntaxError, TokenError, TypeError, ValueError)
_FILE_ERRORS = (*_ARRAY_ERRORS, BadZipFile, zlib.error)


class Part(NamedTuple):
    """n rows of a file, unscaled."""

    X: npt.NDArray[Any]  # (n, F), or images (n, H, W), (n, C, H, W), (n, H, W, C)
    position: npt.NDArray[np.int64]  # (n,) positions in the file, counted from 0
    ids: npt.NDArray[Any] | None = None  # (n,) identifiers of the rows
    labels: npt.NDArray[Any] | None = None  # (n,)
    texts: npt.NDArray[Any] | None = None  # (n,) the text of each row, shortened, to show it beside its cluster


def part_of(rows: Sequence[Any], X: npt.NDArray[Any]) -> Part:
    """Return the part of rows, with position, id and label; ids and labels all rows of a source have, or none."""
    ids = None if rows[0].id is None else np.array([row.id for row in rows])
    labels = None if rows[0].label is None else np.array([row.label for row in rows])
    return Part(X, np.array([row.position for row in rows]), ids, labels)


def concatenate(parts: Sequence[Part]) -> Part:
    """Return the rows of consecutive parts, of which there is at least one."""
    if len(parts) == 1:
        return parts[0]
    columns: list[Any] = [None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)]
    return Part(*columns)


def find_column(key: str, name: str | None, columns: Sequence[str], source: str, *, is_trained: bool) -> str | None:
    """Return the name of a column that a setting gives; None if it gives none, or a trained model does without it.

    Raises
    ------
    UserError
        If the source has no such column.
    """
    if name is None or name in columns:
        return name
    if is_trained:
        return None
    raise no_column_error(key, name, columns, source)


def no_column_error(key: str, name: str, columns: Sequence[str], source: str) -> UserError:
    expected = f"one of {', '.join(columns)}"
    return input_error(f"{key}={name}", f"{source} has no such column", expected, f"correct {key}")


# --- messages -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_line_errors(source: str) -> Iterator[None]:
    """Turn the errors of a damaged or refused array into a one-line ``UserError``."""
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


# --- files ------------------------------------------------------------------------------------------------


def expand(path: str, key: str = "path") -> Path:
    """Expand a leading ``~`` as a shell does (that of an unknown user stays), and copy what an address names.

    Parameters
    ----------
    path : str
    key : str
        The setting that has the path, for messages.

    Raises
    ------
    UserError
        If the path is an address, such as ``s3://``, of what cannot be read.
    """
    if scheme_of(path) is not None:
        return fetch(path, key)
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def find_file(key: str, value: str, file_format: str) -> Path:
    """Return the path of a file after checking that it can be opened and has this format."""
    path = expand(value, key)
    remedy = f"use data={'npy' if file_format == 'npz' else 'npz'}" if key == "data.path" else "write it with np.save"
    _check_format(path, f"{key}={value}", file_format, remedy, key)
    return path


def _find_shards(key: str, folder: Path) -> list[Path]:
    """Return the ``.npy`` files of a folder in the natural order of their names, without hidden files."""
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
    shards.sort(key=lambda path: natural_key(path.name))
    for path in shards:
        _check_format(path, _shard_source(source, path), "npy", "write it with np.save", key)
    return shards


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return the sort key of a name by which ``part2`` comes before ``part10``."""
    # Text and numbers alternate in the split, so that equal positions are comparable.
    return [int(part) if k % 2 else part for k, part in enumerate(re.split("([0-9]+)", name))], name


def _shard_source(source: str, path: Path) -> str:
    """Return the source of a message about one shard of a folder."""
    return f"{source}: shard {path.name}"


def read_first_bytes(path: Path, source: str, key: str, expected: str = "a file") -> bytes:
    """Return the first bytes of a file, enough for ``format_of``.

    Raises
    ------
    UserError
        If the file does not exist, cannot be opened or is empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(max(map(len, _FIRST_BYTES)))
    except FileNotFoundError as error:
        raise _missing_file_error(path, source, expected, key) from error
    except (OSError, ValueError) as error:
        found, remedy = f"cannot be opened ({reason(error)})", "name a file, and check its permissions"
        raise input_error(source, found, expected, remedy) from error
    if not head:
        raise input_error(source, "an empty file (0 bytes)", expected, "write or copy it again")
    return head


def format_of(head: bytes) -> str | None:
    """Return the format that the first bytes show: npy, npz, parquet, feather, hdf5 or mat, None for any other."""
    return next((name for start, name in _FIRST_BYTES.items() if head.startswith(start)), None)


def missing_label_error(labels: str | None, found: str, *, exclude: str = "") -> UserError:
    """Return the error about rows without a label.

    Parameters
    ----------
    labels : str, optional
        The value of ``data.labels``.
    found : str
    exclude : str
        Where the labels would be a feature without ``data.labels``, the override that prevents it.
    """
    settings = " ".join(filter(None, ["data.labels=null", exclude]))
    remedy = f"give each row a label, or set {settings}: labels only score"
    return input_error(f"data.labels={labels}", found, "a label in each row", remedy)


def _check_format(path: Path, source: str, file_format: str, remedy: str, key: str) -> None:
    expected = f"a .{file_format} file"
    found_format = format_of(read_first_bytes(path, source, key, expected))
    if found_format not in ("npy", "npz"):
        raise input_error(source, "neither a .npy nor a .npz file", expected, "write it with np.save or np.savez")
    if found_format != file_format:
        raise input_error(source, f"the content of a .{found_format} file", expected, remedy)


def _missing_file_error(path: Path, source: str, expected: str, key: str) -> UserError:
    folder, near = path.absolute().parent, []
    with contextlib.suppress(OSError):  # the folder may not exist
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
    """The header of a ``.npy`` file, with the file's size and modification time when it was read."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    # Position of the first value in the file, in bytes.
    offset: int
    n_bytes_of_file: int
    modified_ns: int

    @property
    def n_bytes(self) -> int:
        """Size of the complete file."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path, source: str) -> NpyHeader:
    """Read the header of a ``.npy`` file; the file may be truncated after it."""
    npy = np.lib.format
    with one_line_errors(source), path.open("rb") as file:
        state = os.fstat(file.fileno())
        # Version 3.0 differs from 2.0 only in the encoding of field names, and data have no fields.
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a header of Python 2 is read as well
            shape, is_fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("expected allow_pickle=True")
        if any(length < 0 for length in shape):
            raise ValueError(f"shape {shape}")
        n_dims = sum(length > 1 for length in shape)
        is_fortran = is_fortran and n_dims > 1  # in one dimension both orders are equal
        return NpyHeader(path, dtype, shape, is_fortran, file.tell(), state.st_size, state.st_mtime_ns)


class NpyFiles:
    """One file, or the shards of a folder with equal dtypes and row shapes; only their headers are read.

    Parameters
    ----------
    key, value : str
        The setting that names the file or folder.

    Raises
    ------
    UserError
        If there is no file, or the dtype or row shape of a shard differs from the first one's.
    """

    def __init__(self, key: str, value: str) -> None:
        self.source = f"{key}={value}"
        path = expand(value, key)
        self.is_folder = os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises for a name that is too long
        paths = _find_shards(key, path) if self.is_folder else [find_file(key, value, "npy")]
        # Whether this order differs from the order of the names as text.
        self.has_natural_order = [path.name for path in paths] != sorted(path.name for path in paths)
        self.headers = [read_header(path, self.source_of(path)) for path in paths]
        first = self.headers[0]
        for header in self.headers[1:]:
            self._check_agreement(header, first)
        self.dtype = first.dtype
        self.shape = first.shape
        if len(self.headers) > 1:
            self.shape = (sum(header.shape[0] for header in self.headers), *first.shape[1:])

    def source_of(self, path: Path) -> str:
        """Return the source of a message about a file."""
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
        source, remedy = (
            self.source_of(header.path),
            "save all shards with the same dtype and row shape, or remove this one",
        )
        if header.dtype != first.dtype:
            expected = f"{first.dtype} as in {first.path.name}"
            raise input_error(source, f"an array of {header.dtype}", expected, remedy)
        if not first.shape or not header.shape or header.shape[1:] != first.shape[1:]:
            expected = ", ".join(["any number", *map(str, first.shape[1:])])
            raise input_error(source, f"shape {header.shape}", f"({expected}) as in {first.path.name}", remedy)
