"""Values on the command line: paths, addresses such as ``s3://bucket/table.parquet``, and quoted texts."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dkm.errors import UserError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.\-]+)://")
_QUOTES = "\"'"
_AUTO = re.compile(r"auto(?::([0-9]{1,9})-([0-9]{1,9}))?")
# The numbers of clusters that plain "auto" compares.
_AUTO_LOW, _AUTO_HIGH = 2, 30
# A text that Hydra would read as a number.
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Bounds(NamedTuple):
    """The smallest and the largest number of clusters to compare."""

    low: int
    high: int


def auto_bounds(value: object) -> Bounds | None:
    """Return the bounds of ``auto``, which are 2 and 30, or of ``auto:A-B`` with 2 <= A < B; None for other values."""
    match = _AUTO.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    bounds = Bounds(_AUTO_LOW, _AUTO_HIGH) if match[1] is None else Bounds(int(match[1]), int(match[2]))
    return bounds if _AUTO_LOW <= bounds.low < bounds.high else None


def scheme_of(path: str) -> str | None:
    """Return ``s3`` for ``s3://bucket/file``, None for a local path."""
    match = _ADDRESS.match(path)
    return None if match is None else match[1]


def absolute(path: str) -> str:
    """Return an absolute path; an unknown ``~user`` is not expanded, and an address such as ``s3://`` stays."""
    if scheme_of(path) is not None:
        return path
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  # pathlib raises for unknown users


def require_utf8(word: str) -> None:
    """Refuse an argument that is no valid UTF-8, such as a file name in another encoding: no file could hold it."""
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{word!a}: expected an argument in UTF-8; rename the file or folder that it names") from error


def quoted(value: Path | str) -> str:
    """Quote a text as the value of an override, because a comma or a space would end the value.

    Hydra treats a backslash as an escape only before a quote.
    """
    text = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(value))
    return f"'{text}'"


def override(key: str, value: str | Sequence[str]) -> str:
    """Return KEY=VALUE, or KEY=[VALUE,...] for a list of texts, as a word that can be pasted into a shell."""
    if isinstance(value, str):
        text = as_value(value)
        is_plain = text == value
    else:
        items = [as_value(item) for item in value]
        text, is_plain = f"[{','.join(items)}]", items == list(value)
    return f"{key}={text}" if is_plain else shlex.quote(f"{key}={text}")


def as_list(key: str, value: str) -> str:
    """Return KEY=[...] of a text that was meant as a list, with or without its brackets and quotes."""
    text = value.strip(_QUOTES).removeprefix("[").removesuffix("]")
    items = [] if text in ("", "null") else text.split(",")
    return override(key, [item.strip().strip(_QUOTES) for item in items])


def as_value(text: str) -> str:
    """Return a text as Hydra reads it back; in double quotes where possible, which a shell's quotes can enclose."""
    is_word = re.fullmatch(r"[A-Za-z0-9_./+%@\-]+", text) is not None
    if is_word and text.lower() not in ("null", "true", "false", "nan", "inf", "none") and not _NUMBER.fullmatch(text):
        return text
    return quoted(text) if '"' in text or "\\" in text else f'"{text}"'
