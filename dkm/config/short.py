"""Short names of the settings that users of a table, of images, of texts and of embeddings set most often.

``translate`` turns the words of a command line into those of the config: short names into keys, ``output=`` into
the directory of a run or of a sweep, ranges ``A-B`` and ``jobs=`` of a sweep into Hydra's syntax. Keys in full are
accepted beside them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dkm.config.values import absolute, as_list, as_value
from dkm.errors import UserError


@dataclass(frozen=True)
class ShortName:
    """A short name: ``name`` is written instead of ``key``; ``meaning`` fits into a line of ``--help``."""

    name: str
    key: str
    meaning: str


SHORT_NAMES: dict[str, ShortName] = {
    short.name: short
    for short in (
        ShortName("n_clusters", "clustering.n_clusters", "number of clusters, or auto to find it"),
        ShortName("labels", "data.labels", "column or array of labels; used only for scores"),
        ShortName("id", "data.id", "column that identifies the rows"),
        ShortName("columns", "data.columns", "columns to use, as a,b,c"),
        ShortName("exclude", "data.exclude", "columns to leave out, as a,b,c"),
        ShortName("scaling", "data.scaling", "scaling of the features"),
        ShortName("text", "data.text", "column of the texts to cluster"),
        ShortName("image_size", "data.image_size", "height and width of images, in pixels"),
        ShortName("encoder", "data.encoder", "pretrained network for images"),
        ShortName("output", "hydra.run.dir", "directory of the run, or of the sweep"),
    )
}
_SWEEP_DIR = "hydra.sweep.dir"
_FOLDERS = (SHORT_NAMES["output"].key, _SWEEP_DIR)
_PLUGINS = "plugins"
_LISTS = ("data.columns", "data.exclude", _PLUGINS)
# Whole numbers of which a sweep may have a range A-B.
_RANGES = ("seed", "clustering.n_clusters")
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")


def translate(words: Sequence[str], *, is_sweep: bool = False) -> list[str]:
    """Return the words with short names, ``output=``, ``jobs=`` and ranges replaced.

    Parameters
    ----------
    words : sequence of str
        KEY=VALUE, without flags.
    is_sweep : bool
        Whether they are for several runs.

    Raises
    ------
    UserError
        If a short name and its key have different values, or a range or ``jobs=`` is given to a single run.
    """
    result: list[str] = []
    given = dict(map(_split, words))
    for word in words:
        prefix, name = _split_prefix(word.partition("=")[0])
        if "=" not in word:
            result.append(word)
            continue
        value = word.partition("=")[2]
        key = key_of(name, is_sweep=is_sweep)
        if key in _FOLDERS and not value.strip("\"'"):
            raise UserError(f"{word}: expected a folder, got an empty text; for example {name}=runs/mine")
        if key != name and key in given:
            if _is_same(key, given[key], _split(_format(key, value))[1]):
                continue
            raise UserError(f"{word} and {key}={given[key]}: expected one value; leave one of them out")
        if key == "jobs":
            result += _words_of_jobs(word, value, is_sweep=is_sweep)
        elif key in _RANGES and (match := _RANGE.fullmatch(value)):
            result.append(f"{prefix}{_format_range(word, key, int(match[1]), int(match[2]), is_sweep=is_sweep)}")
        else:
            result.append(f"{prefix}{_format(key, value)}" if key != name or key == _PLUGINS else word)
    return result


def translate_data_names(words: Sequence[str], kept: Sequence[str] = ()) -> list[str]:
    """Return the words with the short names of settings in the section ``data`` replaced, but for those ``kept``."""
    names = {short.name for short in SHORT_NAMES.values() if short.key.startswith("data.")} - set(kept)
    return [translate([word])[0] if word.partition("=")[0] in names else word for word in words]


def key_of(name: str, *, is_sweep: bool = False) -> str:
    """Return the key that a short name stands for, any other name as it is."""
    if name == "output" and is_sweep:
        return _SWEEP_DIR
    return SHORT_NAMES[name].key if name in SHORT_NAMES else name


def _split(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return _split_prefix(key)[1], value.strip("\"'")


def _is_same(key: str, value: str, other: str) -> bool:
    return value == other or (key in _FOLDERS and absolute(value) == absolute(other))


def _split_prefix(key: str) -> tuple[str, str]:
    name = key.lstrip("+~")
    return key[: len(key) - len(name)], name


def _format(key: str, value: str) -> str:
    """Return KEY=VALUE as Hydra reads it, for a value that was written after a short name."""
    if key in _LISTS and value and value != "null" and not value.startswith("["):
        return shlex.split(as_list(key, value))[0]
    if key in _FOLDERS and value and "${" not in value and value[0] not in "\"'":
        return f"{key}={as_value(value)}"
    return f"{key}={value}"


def _format_range(word: str, key: str, low: int, high: int, *, is_sweep: bool) -> str:
    if low > high:
        raise UserError(f"{word}: expected a range that goes up; write {key}={high}-{low}")
    if is_sweep:
        return f"{key}=range({low},{high + 1})"
    one_run = f"; write {key}=auto:{low}-{high} to find the number in one run, or" if key != "seed" else ";"
    raise UserError(f"{word}: expected one value for one run{one_run} add --multirun for a run with each value")


def _words_of_jobs(word: str, value: str, *, is_sweep: bool) -> list[str]:
    """Return the words that let joblib train several runs of a sweep at a time."""
    if not re.fullmatch(r"[1-9]\d{0,5}", value):
        raise UserError(f"{word}: expected a whole number, 1 or more; for example jobs=2")
    if value == "1":
        return []
    if not is_sweep:
        raise UserError(f"{word}: expected one process for one run; add --multirun, or leave jobs out")
    return ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={value}"]
