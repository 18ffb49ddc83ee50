"""Decide which option of the group ``data`` reads a file or a folder: by its name, and by its content where the name
leaves several.

Only the beginning of a file is read, and nothing in it is executed. What can be read in several ways is refused with
the options, because another reading would give other clusters. The reader of the chosen option checks the file itself.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import shlex
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from dkm.config.data import DATASETS
from dkm.config.values import absolute, scheme_of
from dkm.data.tables.dialect import split_at_spaces
from dkm.data.tables.formats import is_arff, is_libsvm
from dkm.data.tables.notation import is_missing, is_number
from dkm.errors import UserError, input_error, reason
from dkm.runtime.remote import local_name

# The options that a name leaves, the usual one first.
_BY_SUFFIX: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv", ".data", ".dat"), ("csv", "text", "image_list")),
    ".txt": ("text", "csv", "image_list"),
    **dict.fromkeys((".parquet", ".pq", ".parq"), ("parquet", "image_parquet", "text")),
    **dict.fromkeys((".feather", ".arrow", ".ipc"), ("feather",)),
    **dict.fromkeys((".jsonl", ".ndjson"), ("text",)),
    ".npy": ("npy",),
    ".npz": ("npz",),
    ".h5ad": ("h5ad",),
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5"), ("hdf5", "h5ad")),
    ".zarr": ("zarr",),
    ".mat": ("mat",),
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xltx", ".xltm", ".xls", ".ods")
_BY_FORMAT = {"parquet": ".parquet", "feather": ".feather", "npy": ".npy", "npz": ".npz", "hdf5": ".h5", "mat": ".mat"}
# Options that read a folder of such files.
_FOLDERS = ("csv", "parquet", "feather", "npy", "image_folder")
_READABLE = "a table, an array, a matrix, texts, or a folder of images or of table files"
_HEAD_BYTES, _MAX_LINES, _MAX_FILES = 2**16, 200, 10_000
_MAX_NAMES = 3
_DELIMITERS = ",;\t|"
# Files by which a Zarr store is known.
_ZARR = {".zarray", ".zgroup", "zarr.json"}


class Recognized(NamedTuple):
    """An option of the group ``data``, and how it was found: "by its name" or "by its content"."""

    option: str
    why: str


def recognize(path: str, keys: Collection[str] = ()) -> Recognized:
    """Return the option that reads a file, a folder, a glob or an address.

    Parameters
    ----------
    path : str
    keys : collection of str
        Settings of the section ``data`` that the user gives, without the section. An option must have them.

    Raises
    ------
    UserError
        If nothing reads it, or several options could.
    """
    if scheme_of(path) is not None or (any(mark in path for mark in "*?[") and not os.path.lexists(path)):
        return _by_name_alone(path, keys)
    place = Path(absolute(path))
    if place.is_dir():
        return _recognize_folder(path, place, keys)
    suffix = _suffix(place.name)
    if suffix in _SPREADSHEETS:
        raise _spreadsheet_error(path)
    try:
        with place.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise input_error(path, f"cannot be opened ({reason(error)})", "a file", "check its permissions") from error
    if not head:
        raise input_error(path, "an empty file (0 bytes)", _READABLE, "write or copy it again")
    if suffix not in _BY_SUFFIX:
        suffix = _suffix_of_content(path, place, head)
    every = _BY_SUFFIX[suffix]
    options = _with_keys(every, keys)
    if len(options) == 1:
        return Recognized(options[0], "by its name" if options[0] == every[0] else "by its name and the settings")
    if every[0] in ("parquet", "hdf5"):
        chosen = _recognize_parquet(place) if every[0] == "parquet" else _recognize_hdf5(place)
        return Recognized(chosen if chosen in options else options[0], "by its content")
    return _recognize_text(path, place, head, options)


def _suffix(name: str) -> str:
    """Return the suffix in lower case, without that of a compression."""
    name = name.lower()
    stem, dot, last = name.rpartition(".")
    if f".{last}" in COMPRESSED and "." in stem:
        inner = "." + stem.rpartition(".")[2]
        return inner if inner in _BY_SUFFIX else f".{last}"
    return dot + last if dot else ""


def _with_keys(options: Sequence[str], keys: Collection[str]) -> Sequence[str]:
    """Return the options that have all of these settings; all options if none has."""
    fitting = [name for name in options if set(keys) <= {part.name for part in fields(DATASETS[name].config)}]
    return fitting or options


def _by_name_alone(path: str, keys: Collection[str]) -> Recognized:
    name = path.rstrip("/") if scheme_of(path) is None else local_name(path)
    options = _with_keys(_BY_SUFFIX.get(_suffix(name), ()), keys)
    if not options:
        remedy = "choose the option that reads it, for example data=csv"
        raise input_error(path, "no known suffix", f"the name of {_READABLE}", remedy)
    if options[0] == "text" and len(options) > 1:
        raise _ambiguous_error(path, "its name alone does not tell whether it has texts or a table", options)
    return Recognized(options[0], "by its name")


def _ambiguous_error(path: str, found: str, options: Sequence[str]) -> UserError:
    choices = " or ".join(f"data={option}" for option in options)
    example = f"{shlex.quote(path)} data={options[0]}"
    return input_error(path, found, f"one reading of {choices}", f"choose one, for example: {example}")


def _suffix_of_content(path: str, place: Path, head: bytes) -> str:
    """Return the usual suffix of a file with another one, or none."""
    from dkm.data.files import format_of

    if (name := format_of(head)) is not None:
        return _suffix_of_archive(path, place) if name == "npz" else _BY_FORMAT[name]
    text = _decompress(head)
    if b"\0" not in text[:1024] or text.startswith((b"\xff\xfe", b"\xfe\xff")):
        from dkm.data.images.decoding import is_image_suffix

        if not is_image_suffix(place.suffix):
            if place.suffix.lower() == ".json" and not is_json_object(text.decode("utf-8", "replace").lstrip()):
                raise json_error(path)
            return ".txt"
    from dkm.data.images.decoding import has_image_signature, is_image_suffix

    if is_image_suffix(place.suffix) or has_image_signature(place):
        remedy = f"name its folder: {shlex.quote(os.path.dirname(path) or '.')}"  # noqa: PTH120  # as it was given
        raise input_error(path, "one image", "a folder of images", remedy)
    found = "a format that no data option reads"
    raise input_error(path, found, _READABLE, "convert it, for example to CSV, Parquet or .npy")


def _suffix_of_archive(path: str, place: Path) -> str:
    """Return the usual suffix of what a zip archive holds: arrays, a Zarr store, or the only file in it."""
    try:
        with zipfile.ZipFile(place) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (OSError, ValueError, zipfile.BadZipFile):
        return ".npz"  # whose reader says what is wrong
    if any(Path(name).name in _ZARR for name in names):
        return ".zarr"
    if any(name.endswith(".npy") for name in names):
        return ".npz"
    if len(names) == 1 and (suffix := _suffix(names[0])) in _BY_SUFFIX:
        return suffix
    if any(name.startswith("xl/") for name in names):
        raise _spreadsheet_error(path)
    first = f" ({', '.join(names[:_MAX_NAMES])})" if names else ""
    found = f"a zip archive of {len(names):,} files without an array{first}"
    raise input_error(path, found, _READABLE, "unpack it, and name a file or the folder")


def _spreadsheet_error(path: str) -> UserError:
    return input_error(path, "a spreadsheet", _READABLE, "save the sheet as CSV, and name that file")


# --- text ---------------------------------------------------------------------------------------------------------


def _decompress(head: bytes) -> bytes:
    """Return the beginning of the text in a compressed file, as far as this part of it reaches."""
    if head.startswith(b"\x1f\x8b"):
        opened: io.BufferedIOBase = gzip.GzipFile(fileobj=io.BytesIO(head))
    elif head.startswith(b"BZh"):
        opened = bz2.BZ2File(io.BytesIO(head))
    elif head.startswith(b"\xfd7zXZ"):
        opened = lzma.LZMAFile(io.BytesIO(head))  # noqa: SIM115
    else:
        return head
    text = bytearray()
    try:
        while len(text) < _HEAD_BYTES and (block := opened.read(1024)):
            text += block
    except (EOFError, OSError, lzma.LZMAError, zlib.error):  # it is cut off, or damaged
        pass
    return bytes(text)


def is_json_object(line: str) -> bool:
    """Return whether the first line of a text is a JSON object, as in JSON lines."""
    try:
        return isinstance(json.loads(line.partition("\n")[0]), dict)
    except ValueError:
        return False


def json_error(source: str) -> UserError:
    """Return the error about a file whose first line is no JSON object."""
    return input_error(source, "JSON", "JSON lines, one object in each line", "write it so, as FILE.jsonl")


def _lines(head: bytes) -> list[str]:
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = head.decode(encoding, "replace").splitlines()
    lines = lines if len(head) < _HEAD_BYTES or len(lines) < 2 else lines[:-1]  # the last one may be cut off
    return [line for line in lines if line.strip() and not line.startswith("#")][:_MAX_LINES]


def _recognize_text(path: str, place: Path, head: bytes, options: Sequence[str]) -> Recognized:
    """Choose among ``csv``, ``text`` and ``image_list``."""
    is_zip = head.startswith(b"PK")
    lines = [] if is_zip else _lines(_decompress(head))
    if "text" in options and lines and is_json_object(lines[0]):
        return Recognized("text", "by its content, JSON lines")
    if "csv" in options and (is_libsvm(lines) or is_arff(lines)):
        return Recognized("csv", "by its content")  # whose reader names the format, and what converts it
    rows = _cells(lines)
    if "image_list" in options and (column := _column_of_images(rows, place.parent)) is not None:
        n_numbers = sum(_is_numeric(values) for k, values in enumerate(_columns(rows[1:])) if k != column)
        if n_numbers > 1 and "csv" in options:
            found = "a table with a column of image files and columns of numbers"
            raise _ambiguous_error(path, found, ("image_list", "csv"))
        return Recognized("image_list", "by its content, paths of images")
    if options[0] == "csv":
        return Recognized("csv", "by its name")
    if "csv" not in options:
        return Recognized(options[0], "by its name")
    share = _share_of_numbers(rows)
    if share >= 0.5:
        return Recognized("csv", "by its content, rows of numbers")
    is_regular = len(rows) > 2 and len(rows[0]) > 1 and len(set(map(len, rows))) == 1
    if is_regular:
        found = f"lines with {len(rows[0])} cells each, few of them numbers"
        raise _ambiguous_error(path, found, ("csv", "text"))
    return Recognized("text", "by its content, lines of text")


def _cells(lines: Sequence[str]) -> list[list[str]]:
    """Return the cells of the lines, cut by the delimiter that gives all of them the same number, the largest."""
    best = [[line] for line in lines]
    for delimiter in _DELIMITERS:
        try:
            rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter))
        except csv.Error:
            continue
        if rows and len({len(row) for row in rows}) == 1 and len(rows[0]) > len(best[0]):
            best = rows
    rows = [split_at_spaces(line) for line in lines]
    is_even = len(rows) > 1 and len({len(row) for row in rows[1:]}) == 1
    if is_even and len(best[0]) == 1 and len(rows[1]) > 1 and _share_of_numbers(rows) >= 0.5:
        return rows
    return best


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    return zip(*rows, strict=False)


def _is_numeric(values: Sequence[str]) -> bool:
    return all(is_number(value) or is_missing(value) for value in values)


def _share_of_numbers(rows: Sequence[Sequence[str]]) -> float:
    """Return the fraction of numbers among the cells after the first row, which may have names."""
    cells = [cell for row in (rows[1:] or rows) for cell in row]
    return sum(map(is_number, cells)) / len(cells) if cells else 0.0


def _column_of_images(rows: Sequence[Sequence[str]], folder: Path) -> int | None:
    """Return the first column in which most cells are names of image files that exist, else None."""
    from dkm.data.images.decoding import is_image_suffix

    def is_image(cell: str) -> bool:
        return is_image_suffix(Path(cell).suffix) and os.path.isfile(folder / cell)  # noqa: PTH113  # any text

    for k, values in enumerate(_columns(rows[:20])):
        if any("." in value for value in values) and sum(map(is_image, values)) > len(values) / 2:
            return k
    return None


# --- binary files -------------------------------------------------------------------------------------------------


def _recognize_parquet(path: Path) -> str:
    from dkm.data.images.parquet import has_image_column

    if has_image_column(str(path)):
        return "image_parquet"
    from pyarrow import lib, parquet, types

    try:
        schema = parquet.read_schema(path)
    except (OSError, ValueError, lib.ArrowException):
        return "parquet"  # whose reader says what is wrong
    is_text = len(schema) == 1 and (types.is_string(schema.types[0]) or types.is_large_string(schema.types[0]))
    return "text" if is_text else "parquet"


def _recognize_hdf5(path: Path) -> str:
    """Return ``h5ad`` for the tables of AnnData, ``hdf5`` for other files, also for those that h5py cannot read."""
    try:
        import h5py

        with h5py.File(path, "r") as file:
            is_cells = all(isinstance(file.get(name, getlink=True), h5py.HardLink) for name in ("X", "obs", "var"))
            return "h5ad" if is_cells else "hdf5"
    except (ImportError, OSError, ValueError, RuntimeError):
        return "hdf5"


# --- folders ------------------------------------------------------------------------------------------------------


def _recognize_folder(path: str, folder: Path, keys: Collection[str]) -> Recognized:
    names = _names_in(folder)
    if names & _ZARR:
        return Recognized("zarr", "by its content")
    if names & {"manifest.json", "checkpoints"} and "config.yaml" in names:
        raise input_error(path, "the directory of a run", _READABLE, f"resume it with resume={shlex.quote(path)}")
    counts = count_files(folder)
    options = _with_keys([option for option in _FOLDERS if counts.get(option)], keys)
    if not options:
        found = "an empty folder" if not names else "a folder without files that a data option reads"
        remedy = "choose data=csv if its .txt files are tables" if counts.get("text") else "name another folder"
        raise input_error(path, found, "a folder of images or of table files", remedy)
    if len(options) > 1:
        found = " and ".join(f"{counts[option]:,} files for data={option}" for option in options)
        raise _ambiguous_error(path, f"a folder with {found}", options)
    return Recognized(options[0], "by the files in it")


def _names_in(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError as error:
        remedy = "check its permissions"
        raise input_error(str(folder), f"cannot be opened ({reason(error)})", "a folder", remedy) from error


def count_files(folder: Path) -> dict[str, int]:
    """Return how many of the first files below a folder each option reads; hidden ones are skipped."""
    from dkm.data.images.decoding import is_image_suffix

    counts: dict[str, int] = {}
    for name in itertools.islice(_files_below(folder), _MAX_FILES):
        option = next(iter(_BY_SUFFIX.get(_suffix(name), ())), None)
        if option is None and is_image_suffix(Path(name).suffix):
            option = "image_folder"
        if option is not None:
            counts[option] = counts.get(option, 0) + 1
    return counts


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the names of the files below a folder that are not hidden."""
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (name for name in names if not name.startswith("."))
