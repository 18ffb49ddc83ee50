"""Find the image files of a user: all below a folder, or those that a CSV file lists."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dkm.config.values import quoted
from dkm.data.images.decoding import RAW_SUFFIXES, is_image, is_image_suffix
from dkm.data.report import DataReport
from dkm.data.tables.dialect import find_encoding
from dkm.errors import UserError, input_error, reason

# Formats that people have pictures in, and that Pillow does not read.
_FOREIGN_SUFFIXES = (".heic", ".heif", ".jxl", ".svg", ".eps", ".emf", ".wmf", ".cr3", *RAW_SUFFIXES)
_DELIMITERS = ",;\t|"
# Lines of a list that are inspected to find the column of paths.
_N_INSPECTED = 100


class ImageFile(NamedTuple):
    """An image file of the user."""

    id: str  # path relative to the folder, or as the list gives it
    path: Path
    label: str | None = None


# --- a folder -----------------------------------------------------------------------------------------------


@dataclass
class _Walk:
    """Files below a folder, and what was skipped."""

    names: list[str] = field(default_factory=list)  # relative paths
    skipped: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by (what, reason)

    def skip(self, what: str, why: str, name: str) -> None:
        self.skipped.setdefault((what, why), []).append(escape_name(name))

    def visit(self, folder: str, prefix: str, parents: tuple[tuple[int, int], ...]) -> None:
        """Add the files below ``folder``; ``parents`` are device and inode of the folders above it."""
        try:
            state = os.stat(folder)  # noqa: PTH116  # a name that is not UTF-8 stays as it is
            identity = (state.st_dev, state.st_ino)
            if identity in parents:
                self.skip("folders", "linked to a folder that contains them", prefix)
                return
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not parents:
                raise
            self.skip("folders", f"cannot be opened ({reason(error)})", prefix)
            return
        for entry in found:
            name = f"{prefix}{os.sep}{entry.name}" if prefix else entry.name
            is_folder = entry.is_dir()
            if entry.name.startswith("."):
                self.skip("folders" if is_folder else "files", "hidden", name)
            elif is_folder:
                self.visit(entry.path, name, (*parents, identity))
            elif entry.is_file() or entry.is_symlink():  # a broken link is an unreadable image
                self.names.append(name)
            else:
                self.skip("files", "no regular files", name)


def find_images(folder: Path, source: str, report: DataReport) -> list[ImageFile]:
    """Return the images below a folder, sorted by path; record in ``report`` what is left out.

    An image has a suffix that Pillow knows, or the first bytes of an image.

    Raises
    ------
    UserError
        If the folder does not exist, cannot be opened, or contains no image.
    """
    key = source.partition("=")[0]
    expected = "a folder with images below it, such as .png, .jpg, .webp or .tif files"
    if not os.path.isdir(folder):  # noqa: PTH112  # Path.is_dir raises for a name that is too long
        found = "a file" if os.path.lexists(folder) else "no such folder"
        raise input_error(source, found, expected, f"correct {key}")
    walk = _Walk()
    try:
        walk.visit(str(folder), "", ())
    except OSError as error:
        found = f"a folder that cannot be opened ({reason(error)})"
        raise input_error(source, found, expected, "check its permissions") from error
    images: list[ImageFile] = []
    for name in sorted(walk.names):
        path = folder / name
        if is_image(path):
            images.append(ImageFile(escape_name(name), path))
        else:
            walk.skip("files", "not in an image format that Pillow reads", name)
    if not images:
        skipped = [f"{names[0]} is {why}" for (_, why), names in walk.skipped.items()]
        found = f"no images ({'; '.join(skipped)})" if skipped else "an empty folder"
        raise input_error(source, found, expected, "convert the images, or name another folder")
    _report_skipped(walk, report)
    _report_escaped(walk.names, report)
    return images


def _report_skipped(walk: _Walk, report: DataReport) -> None:
    for (what, why), names in sorted(walk.skipped.items()):
        report.leave_out(what, len(names), why, names)
        if why.startswith("cannot be opened"):
            report.odd.append(f"{len(names):,} folders {why}, for example {names[0]}; check their permissions")
        foreign = [name for name in names if Path(name).suffix.lower() in _FOREIGN_SUFFIXES and why != "hidden"]
        if foreign:
            kinds = Counter(Path(name).suffix.lower() for name in foreign)
            listed = ", ".join(f"{kind} ({n:,})" for kind, n in sorted(kinds.items()))
            report.odd.append(f"pictures are left out in formats that Pillow does not read: {listed}; convert them")


def _report_escaped(names: Iterable[str], report: DataReport) -> None:
    escaped = [escape_name(name) for name in names if not _is_utf8(name)]
    if escaped:
        report.decisions["names"] = f"{len(escaped):,} are not UTF-8 and are escaped in the ids, such as {escaped[0]}"


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def escape_name(name: str) -> str:
    """Return a file name as text; bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- a list -------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    columns: list[str]
    rows: list[tuple[int, list[str]]]  # with the number of their (last) line
    has_header: bool


def read_image_list(
    path: Path, source: str, images: str | None, labels: str | None, report: DataReport, *, is_trained: bool
) -> list[ImageFile]:
    """Return the images that a CSV file lists, in its order.

    Parameters
    ----------
    images : str, optional
        Column of the paths. By default the only column that contains paths of files.
    labels : str, optional
        Column of the labels.
    is_trained : bool
        Whether the images are for a trained model; the labels may then be missing.

    Raises
    ------
    UserError
        If the file cannot be read, or a column does not exist or is not unique.
    """
    table = _read_table(path, source, report)
    folder = path.parent
    column = _column_of_paths(table, folder, source) if images is None else _index(table, "data.images", images, source)
    label_column = None
    if labels is not None and not (is_trained and labels not in table.columns):
        label_column = _index(table, "data.labels", labels, source)
    name = table.columns[column]
    header = "the first line" if table.has_header else "none, as the first line contains the path of an image"
    report.decisions["header"] = header
    report.decisions["images"] = f"column {name}" + ("" if images else ", whose values are paths of files")
    files: list[ImageFile] = []
    for number, row in table.rows:
        if len(row) != len(table.columns):
            found = f"{len(row)} values in line {number}"
            raise input_error(source, found, f"{len(table.columns)}, as in the first line", "quote or correct the line")
        label = None if label_column is None else row[label_column]
        if label == "":
            found = f"line {number} has no label"
            raise input_error(f"data.labels={labels}", found, "a label for each image", "set data.labels=null")
        files.append(ImageFile(row[column], folder / row[column], label))
    return files


def _read_table(path: Path, source: str, report: DataReport) -> _Table:
    expected = "a CSV file with the path of an image in each line"
    try:
        content = path.read_bytes()
    except OSError as error:
        remedy = f"correct {source.partition('=')[0]}"
        raise input_error(source, f"cannot be opened ({reason(error)})", expected, remedy) from error
    text = content.decode(find_encoding(content, source, None, report.decisions, is_whole=True))
    delimiter = max(_DELIMITERS, key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        found = f"line {reader.line_num} cannot be read ({error})"
        raise input_error(source, found, expected, "correct its quotes") from error
    if not rows:
        raise input_error(source, "an empty file", expected, "name another file")
    rows = _cut_at_spaces(rows)
    head = rows[0][1]
    has_header = not any(is_image_suffix(Path(cell).suffix) or _is_file(path.parent, cell) for cell in head)
    columns = head if has_header else [str(k) for k in range(len(head))]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise input_error(source, f"two columns {twice}", "column names that differ", "rename one of them")
    body = rows[has_header:]
    if not body:
        raise input_error(source, "a header and no further line", expected, "name another file")
    return _Table(columns, body, has_header)


def _cut_at_spaces(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Return lines such as ``cat.png 3``, the lists of Caffe, as a path and what follows its last space."""
    cut = [(number, row[0].rsplit(maxsplit=1)) for number, row in rows if len(row) == 1]
    is_cut = len(cut) == len(rows) and all(
        len(cells) == 2 and is_image_suffix(Path(cells[0]).suffix) and not is_image_suffix(Path(cells[1]).suffix)
        for _, cells in cut
    )
    return cut if is_cut else rows


def _column_of_paths(table: _Table, folder: Path, source: str) -> int:
    counts = [
        sum(_is_file(folder, row[k]) for _, row in table.rows[:_N_INSPECTED] if k < len(row))
        for k in range(len(table.columns))
    ]
    candidates = [k for k, n in enumerate(counts) if n]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        example = table.rows[0][1][0]
        found = f"no column contains paths of files relative to {folder} (the first value is {example})"
        raise input_error(source, found, "a column of image paths", _choose_column("data.images", table.columns))
    names = [table.columns[k] for k in candidates]
    found = f"{len(names)} columns contain paths of files"
    raise input_error(source, found, "one column of image paths", _choose_column("data.images", names))


def _choose_column(key: str, names: Sequence[str]) -> str:
    values = [name if re.fullmatch(r"[\w.-]+", name) else quoted(name) for name in names]
    return "set " + " or ".join(shlex.quote(f"{key}={value}") for value in values)


def _index(table: _Table, key: str, name: str, source: str) -> int:
    if name not in table.columns:
        raise _no_column_error(table, key, name, source)
    return table.columns.index(name)


def _no_column_error(table: _Table, key: str, name: str, source: str) -> UserError:
    found = f"{source} has no such column"
    return input_error(f"{key}={name}", found, "one of its columns", _choose_column(key, table.columns))


def _is_file(folder: Path, name: str) -> bool:
    try:
        return bool(name) and os.path.isfile(folder / name)  # noqa: PTH113  # a long name is no file
    except ValueError:  # a null byte
        return False
