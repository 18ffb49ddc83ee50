"""From the words that a user writes to those that Hydra reads.

A file, a folder, or the name of a data set or an experiment may stand alone: ``dkm train customers.csv n_clusters=8``.
What follows from it is told in one line on standard error once the config is composed, so that an error stays one line;
it stands in the config of the run like words that were written. Short names are those of ``dkm.config.short``.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dkm.config.compose import CONFIG_FLAGS, is_multirun, parse, require_known_flags, split_flags
from dkm.config.data import DATASETS, CustomData, FileData
from dkm.config.groups import GROUPS, PRESETS
from dkm.config.messages import keys
from dkm.config.schema import config_dir
from dkm.config.short import SHORT_NAMES, translate
from dkm.config.values import as_value, scheme_of
from dkm.errors import UserError
from dkm.runtime.distributed import is_main

# Similarity of a word to the one that was probably meant: names of files have their suffix in common.
_SIMILAR = 0.7
_N_CLUSTERS = "clustering.n_clusters"
# Flags with which Hydra answers a question of its own, or reads words that are not those of a run.
_ANSWERS = frozenset(["-sc", "--shell-completion", "--hydra-help", "--version"])


class _Meaning(NamedTuple):
    """What a word that stands alone means: words of the config, and the line that tells it."""

    words: list[str]
    told: str


class Understood(NamedTuple):
    """The words of a command line as ``dkm.config.compose.parse`` takes them, and what was derived from them."""

    words: list[str]
    # One line for the user; empty if nothing was derived.
    told: str = ""

    def tell(self) -> None:
        """Print what was derived on standard error, on rank 0 only."""
        if self.told and is_main():
            print(self.told, file=sys.stderr, flush=True)


def understand(arguments: Sequence[str], *, is_sweep: bool = False, finds_number: bool = True) -> Understood:
    """Return the words of a command line in the form that Hydra reads.

    The caller calls ``tell`` of the result once the words have composed without an error.

    Parameters
    ----------
    arguments : sequence of str
        Flags, KEY=VALUE, and at most one word that stands alone.
    is_sweep : bool
        Whether the words are for several runs without ``--multirun``.
    finds_number : bool
        Whether the number of clusters is found for a file without labels if none is given.

    Raises
    ------
    UserError
        If a word has no meaning or several, or two words contradict each other.
    """
    flags, words = split_flags(arguments)
    require_known_flags(flags)
    if any(flag.partition("=")[0] in _ANSWERS for flag in flags):
        return Understood(list(arguments))
    alone = [word for word in words if stands_alone(word)]
    given = translate([word for word in words if word not in alone], is_sweep=is_sweep or is_multirun(flags))
    if not alone:
        return Understood([*flags, *given])
    if len(alone) > 1:
        _refuse_several(alone)
    has_own_config = any(flag.partition("=")[0] in CONFIG_FLAGS for flag in flags)
    repeats_run = has_own_config and parse(flags).is_plain
    meaning = _meaning(alone[0], given, _config_folder(flags), repeats_run=repeats_run)
    derived = _without_repetitions(meaning.words, given, alone[0])
    told = meaning.told
    if finds_number and not has_own_config and _lacks_number([*derived, *given]):
        derived.append(f"{_N_CLUSTERS}=auto")
        told += f"; without labels and n_clusters, the number of clusters is found: {_N_CLUSTERS}=auto"
    return Understood([*flags, *derived, *given], told)


def stands_alone(word: str) -> bool:
    """Return whether a word is no KEY=VALUE: a name, or the path of a file, which may have an equals sign in it."""
    key, equals, _ = word.partition("=")
    if not equals:
        return bool(word) and (os.path.lexists(word) or not word.startswith(("+", "~")))
    return "/" in word and os.path.lexists(word) and key not in {*GROUPS, *PRESETS, *SHORT_NAMES, *keys()}


def _refuse_several(alone: Sequence[str]) -> None:
    suffixes, folders = {Path(word).suffix for word in alone}, {os.path.dirname(word) for word in alone}  # noqa: PTH120
    if all(map(os.path.isfile, alone)) and len(suffixes) == len(folders) == 1:
        folder, suffix = folders.pop() or ".", suffixes.pop()
        remedy = f"name their folder, or quote a pattern: {shlex.quote(os.path.join(folder, '*' + suffix))}"  # noqa: PTH118
    else:
        remedy = "write the others as KEY=VALUE"
    raise UserError(f"{' '.join(alone[:5])}: expected one file, folder or name, got {len(alone)}; {remedy}")


def _meaning(word: str, given: Sequence[str], own_folder: Path | None, *, repeats_run: bool) -> _Meaning:
    """Return what a word that stands alone means."""
    is_path = os.path.lexists(word)
    names = list(_names(word, own_folder))
    if is_path and names:
        here = shlex.quote(f"./{word}")
        raise UserError(f"{word}: expected one meaning, got a file here and {names[0]}; write {here} or {names[0]}")
    if len(names) > 1:
        raise UserError(f"{word}: expected one meaning, got {' and '.join(names)}; write one of them")
    if names:
        return _Meaning(names, f"{word}: {names[0]}")
    if not is_path and scheme_of(word) is None and not any(mark in word for mark in "*?["):
        raise UserError(_unknown(word))
    if repeats_run:  # whose config decides data=
        return _Meaning([f"data.path={as_value(word)}"], f"{word}: data.path of the run that is repeated")
    return _meaning_of_path(word, given)


def _meaning_of_path(word: str, given: Sequence[str]) -> _Meaning:
    from dkm.data.recognition import recognize

    path = f"data.path={as_value(word)}"
    chosen = next((w.partition("=")[2] for w in given if w.startswith("data=")), None)
    if chosen is not None:
        schema = DATASETS[chosen].config if chosen in DATASETS else FileData  # composing reports an unknown one
        if not issubclass(schema, FileData):
            raise UserError(f"{word}: expected no file beside data={chosen}, which reads none; leave one of them out")
        return _Meaning([path], f"{word}: data={chosen}, as given")
    section = [w.partition("=")[0].lstrip("+").partition(".") for w in given if "=" in w]
    option, why = recognize(word, {name for group, _, name in section if group == "data"} - {"root"})
    return _Meaning([f"data={option}", path], f"{word}: data={option}, {why}")


def _names(word: str, own_folder: Path | None) -> Iterator[str]:
    """Yield the overrides that a name may stand for: a data set that needs no file, an experiment."""
    if word in DATASETS and not issubclass(DATASETS[word].config, FileData | CustomData):
        yield f"data={word}"
    folders = [folder / "experiment" for folder in (config_dir(), own_folder) if folder is not None]
    if any(word in _options_in(folder) for folder in folders):
        yield f"experiment={word}"


def _options_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _config_folder(flags: Sequence[str]) -> Path | None:
    """Return the folder that ``--config-dir`` or ``--config-path`` names."""
    for number, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name in ("--config-dir", "-cd", "--config-path", "-cp"):
            return Path(value if equals else "".join(flags[number + 1 : number + 2]))
    return None


def _unknown(word: str) -> str:
    """Return the message about a word that is neither a file nor a name."""
    expected = "expected an override KEY=VALUE, a file or folder, or the name of a data set or an experiment"
    if word in SHORT_NAMES or word in set(keys()):
        return f"{word}: {expected}; write {word}=VALUE"
    if word in DATASETS:
        return f"{word}: {expected}; write data={word} {'data.class=' if word == 'custom' else 'data.path='}VALUE"
    for preset in PRESETS:
        if word in _options_in(config_dir() / preset):
            return f"{word}: {expected}; write {preset}={word}"
    names = [name for name, entry in DATASETS.items() if not issubclass(entry.config, FileData | CustomData)]
    names += _options_in(config_dir() / "experiment")
    near = difflib.get_close_matches(word, [*_siblings(word), *names, *SHORT_NAMES], n=1, cutoff=_SIMILAR)
    if os.sep in word or "." in word:
        expected = f"no such file or folder; {expected}"
    return f"{word}: {expected}; " + (f"did you mean {shlex.quote(near[0])}?" if near else "`dkm help` explains them")


def _siblings(word: str) -> list[str]:
    """Return the entries of the folder that a path names, as it would name them."""
    folder = os.path.dirname(word)  # noqa: PTH120  # as it was given
    try:
        return [os.path.join(folder, entry.name) for entry in Path(folder or ".").iterdir()]  # noqa: PTH118
    except OSError:
        return []


def _without_repetitions(derived: Sequence[str], given: Sequence[str], word: str) -> list[str]:
    """Return the derived words that are not given too; refuse those that are given with another value."""
    values = {key: value.strip("\"'") for key, _, value in (w.partition("=") for w in given)}
    result = []
    for item in derived:
        key, _, value = item.partition("=")
        if key not in values:
            result.append(item)
        elif values[key] != value.strip("\"'"):
            raise UserError(f"{word} and {key}={values[key]}: expected one of them; leave the other out")
    return result


def _lacks_number(words: Sequence[str]) -> bool:
    """Return whether a run on a file has neither labels nor a number of clusters, and is not one to resume."""
    values: dict[str, Any] = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)}
    is_file = "data.path" in values
    is_resumed = values.get("resume", "null") not in ("null", "auto")
    has_labels = values.get("data.labels", "null") != "null"
    return is_file and not is_resumed and not has_labels and _N_CLUSTERS not in values
