"""Common code of the commands other than ``dkm.train``: parse KEY=VALUE arguments, report errors, set the exit code.

This module does not import torch, so a wrong argument is reported without that delay.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from dkm.config.checks import DEVICE, AtLeast, Choice, require
from dkm.config.settings import REQUIRED, Section, setting
from dkm.config.values import quoted, require_utf8
from dkm.errors import Failure, UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

T = TypeVar("T")


def main(work: Callable[[Sequence[str]], None], doc: str | None) -> None:
    """Run a command on ``sys.argv``; on an error, exit with the code that ``dkm.train`` uses for it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, signal.default_int_handler)  # the terminal was closed
    words = sys.argv[1:]
    try:
        if not words or not {"-h", "--help"}.isdisjoint(words):
            print((doc or "").strip())
            raise SystemExit(0 if words else EXIT_USER_ERROR)
        work(words)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from error
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        print(f"interrupted: {error if error.args else 'nothing was written'}", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from error
    except BrokenPipeError as error:  # the reader, for example head, has ended
        sys.stdout = None  # discard the remaining output
        raise SystemExit(EXIT_INTERRUPTED) from error


def parse_words(
    schema: type[T],
    words: Sequence[str],
    sections: Sequence[str] = (),
    *,
    alone: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> tuple[T, list[str]]:
    """Parse arguments KEY=VALUE into a dataclass; return it and the arguments whose key is in one of ``sections``.

    Values are taken literally: only the shell requires quotes.

    Parameters
    ----------
    schema : type
        The dataclass.
    words : sequence of str
    sections : sequence of str
        Sections whose keys belong to somebody else.
    alone : sequence of str
        Keys whose values may also stand alone, in this order.
    aliases : mapping, optional
        Keys by other spellings of them.
    """
    known = {part.name: part for part in fields(schema)}  # type: ignore[arg-type]
    aliases = aliases or {}
    written: dict[str, str] = {}  # the spelling of each key
    values: dict[str, Any] = {}
    rest: list[str] = []
    for word in _name_words(words, alone, {*known, *aliases}):
        require_utf8(word)
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word}: expected KEY=VALUE; for example {next(iter(known))}=VALUE")
        spelling, key = key, aliases.get(key, key)
        if written.setdefault(key, spelling) != spelling:
            raise UserError(f"{word} and {written[key]}=: expected one of them; leave the other out")
        if key.partition(".")[0] in sections and "." in key:
            rest.append(word)
            continue
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            raise UserError(f"{word}: expected a key of this command; {remedy}")
        values[key] = _value(spelling, text, str(known[key].type))
    for name, part in known.items():
        if name not in values and part.default == REQUIRED:
            shown = next((spelling for spelling, key in aliases.items() if key == name), name)
            raise UserError(f"{shown}: missing; expected {shown}=VALUE; add it to the command")
    try:
        return schema(**values), rest
    except UserError as error:
        key = str(error).partition("=")[0]
        raise UserError(str(error).replace(f"{key}=", f"{written.get(key, key)}=")) from error


def _name_words(words: Sequence[str], keys: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the words with the keys, in this order, before those that stand alone.

    The path of a file may have an equals sign in it, unless it begins like one of the ``known`` keys. A key alone is
    one without its value.
    """
    given = {word.partition("=")[0] for word in words}
    free = iter([key for key in keys if key not in given])
    result = []
    for word in words:
        is_path = "/" in word and word.partition("=")[0] not in known and os.path.lexists(word)
        is_value = is_path or ("=" not in word and word not in known)
        key = next(free, None) if is_value else None
        result.append(word if key is None else f"{key}={word}")
    return result


def parse_own(schema: type[T], words: Sequence[str], aliases: Mapping[str, str] | None = None) -> tuple[T, list[str]]:
    """Parse the arguments KEY=VALUE whose key is a field of the dataclass; return it and the other arguments."""
    from dkm.config.groups import GROUPS, PRESETS
    from dkm.config.messages import keys
    from dkm.config.short import SHORT_NAMES

    known = {part.name for part in fields(schema)} | set(aliases or ())  # type: ignore[arg-type]
    matching = [word for word in words if word.partition("=")[0] in known and "=" in word]
    others = [word for word in words if word not in matching]
    of_train = {*GROUPS, *PRESETS, *SHORT_NAMES, *keys()}
    for word in others:
        key, equals, _ = word.partition("=")
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8) if equals and key not in of_train else []
        if near:
            raise UserError(f"{word}: expected a key of this command or of dkm train; did you mean {near[0]}?")
    return parse_words(schema, matching, aliases=aliases)[0], others


def split_options(words: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the paths and the options KEY=VALUE among the words of a command that takes several paths.

    The path of a run of a sweep may have an equals sign in it. A word that is neither a path nor a pattern, and whose
    key is similar to a known one, is an option with a mistake in it, which ``parse_words`` reports; so is a flag.
    """
    paths: list[str] = []
    options: list[str] = []
    for word in words:
        key, equals, _ = word.partition("=")
        is_known = bool(equals) and key.partition(".")[0] in known
        looks_like_one = word.startswith("-") or (equals and difflib.get_close_matches(key, known))
        is_path = os.path.lexists(word) or any(mark in word for mark in "*?[")
        (options if is_known or (looks_like_one and not is_path) else paths).append(word)
    return paths, options


def _value(key: str, text: str, annotation: str) -> Any:
    if text == "null" and annotation.endswith("None"):
        return None
    kind = annotation.partition(" ")[0]
    if kind == "bool":
        require(text in ("true", "false"), key, text, "true or false", f"for example {key}=true")
        return text == "true"
    if kind == "int":
        require(text.removeprefix("-").isdecimal(), key, text, "a whole number", f"for example {key}=2")
        return int(text)
    return text


def words_of_runs(
    overrides: Sequence[str],
    refused: Sequence[str],
    instead: str,
    folder: Path,
    n_jobs: int,
    defaults: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the overrides of ``dkm.train`` for all runs of a command that needs only their scores.

    Parameters
    ----------
    overrides
        Overrides of the user, which take precedence over the defaults.
    refused, instead
        Keys that the command sets itself, and the remedy for the message.
    folder
        Folder in which the runs share their pretrainings.
    n_jobs
        Number of parallel runs, which share the cores.
    defaults
        Further defaults of the command.
    """
    keys = [word.partition("=")[0].lstrip("+~") for word in overrides]
    for key, word in zip(keys, overrides, strict=True):
        if word.startswith("-") or "=" not in word:
            raise UserError(f"{word}: expected KEY=VALUE, as dkm.train takes it; leave it out")
        if key in refused:
            raise UserError(f"{word}: expected no such key, {instead}")
    from joblib import cpu_count  # knows affinity and container limits

    # Only runs with the same number of threads share a pretraining.
    omp_threads = os.environ.get("OMP_NUM_THREADS", "")
    n_cores = int(omp_threads) if omp_threads.isdecimal() else cpu_count(only_physical_cores=True)
    all_defaults = {
        "evaluation.kmeans_raw": "false",
        "log.figures": "false",
        "log.report": "false",
        "log.tensorboard": "false",
        "log.progress": "off",
        "pretrain.cache": quoted(folder / "cache"),
        "threads": str(max(1, n_cores // n_jobs)),
        **(defaults or {}),
    }
    return [*overrides, *(f"{key}={value}" for key, value in all_defaults.items() if key not in keys)]


_RUN = "A finished run, or its `model/` folder."
# Other spellings of the keys of ``dkm.select``: those of ``dkm.train``.
SELECT_ALIASES = {"n_clusters": "k", "seed": "seeds"}

_OVERWRITE = "Whether existing files are replaced."
_SAFE_CSV = "Whether texts in a CSV file that a spreadsheet would execute as formulas get an apostrophe before them."
_PLUGINS = "Comma-separated modules to import first: those in the run's `plugins`."


@dataclass
class PredictConfig(Section):
    """Settings of ``dkm.predict``: the run, the rows, and the columns of the output."""

    run: str = setting(REQUIRED, _RUN)
    input: str = setting(
        REQUIRED,
        "A file or folder with the same features as the run's data. `data.` keys override how the run reads its data.",
    )
    output: str = setting(REQUIRED, "The file to write: `.csv`, `.parquet` or `.npz`.")
    overwrite: bool = setting(False, _OVERWRITE)
    memberships: bool = setting(False, "Whether to write soft memberships too, one column for each cluster.")
    embedding: bool = setting(False, "Whether to write the embedding too, one column for each dimension.")
    safe_csv: bool = setting(False, _SAFE_CSV)
    device: str = setting("auto", "`auto`, `cpu`, `cuda` or `cuda:N`.", check=DEVICE, example="cpu")
    threads: int | None = setting(
        None,
        "Number of CPU threads. null: OMP_NUM_THREADS, else all cores available to this process.",
        check=AtLeast(1),
        example=4,
    )
    plugins: str = setting("", _PLUGINS)


@dataclass
class ExportConfig(Section):
    """Settings of ``dkm.export``: the model and the format."""

    run: str = setting(REQUIRED, _RUN)
    output: str = setting(REQUIRED, "The folder to create.")
    format: str = setting("torch", "Format of the artifact.", check=Choice(("torch", "onnx", "numpy")))
    input: str | None = setting(
        None, "Rows on which the exported model is compared with the original; null: the data of the run."
    )
    overwrite: bool = setting(False, _OVERWRITE)
    plugins: str = setting("", _PLUGINS)


@dataclass
class CompareConfig(Section):
    """Settings of ``dkm.compare``, in addition to the paths of the runs."""

    output: str | None = setting(
        None, "Files for the table (`.csv`, `.md`) and the figure (`.png`), separated by commas; as the next three."
    )
    csv: str | None = setting(None, "File for the table, `.csv`.")
    markdown: str | None = setting(None, "File for the table, `.md`.")
    figure: str | None = setting(None, "File for the figure, `.png`.")
    pairs: str | None = setting(None, "File for the agreement of each pair of runs, `.csv`.")
    each: bool = setting(False, "Whether each run has a row, instead of each setting.")
    sort: str | None = setting(None, "The score to sort by.")
    agreement: bool = setting(False, "Whether to compare the assignments also of more than 100 runs.")
    safe_csv: bool = setting(False, _SAFE_CSV)
    overwrite: bool = setting(False, _OVERWRITE)
    plugins: str = setting("", _PLUGINS)


@dataclass
class ReportConfig(Section):
    """Settings of ``dkm.report``, in addition to the paths of the runs."""

    output: str | None = setting(
        None, "The file to write, `.html`; null: `report.html` in the directory of a single run."
    )
    overwrite: bool = setting(False, _OVERWRITE)
    plugins: str = setting("", _PLUGINS)


@dataclass
class SelectConfig(Section):
    """Settings of ``dkm.select``: the numbers of clusters to try, the seeds, and the output."""

    k: str = setting(REQUIRED, "Numbers of clusters: a range `2-12`, or a list `2,4,8`. `n_clusters=` is the same.")
    seeds: str = setting("0,1,2", "Seeds of the runs with each number of clusters. `seed=` is the same.")
    output: str | None = setting(
        None,
        "Folder of the runs and the result; null: a new one under `runs/select`. An existing folder is resumed.",
    )
    jobs: int = setting(1, "Number of parallel runs.", check=AtLeast(1), example=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers("k", self.k, "2-12", least=2)
        numbers("seeds", self.seeds, "0,1,2", least=0)


@dataclass
class TuneConfig(Section):
    """Settings of ``dkm.tune``: the trials, the objective, and the output."""

    trials: int = setting(50, "Number of trials of the study, including those of earlier calls.", check=AtLeast(1))
    output: str | None = setting(
        None,
        "Folder of the trials and the result; null: a new one under `runs/tune`. An existing study is resumed.",
    )
    objective: str = setting(
        "modularity_data", "The score to optimize. A score that needs labels also requires `allow_labels=true`."
    )
    allow_labels: bool = setting(False, "Whether the objective may look at labels.")
    prune: bool = setting(
        True,
        "Whether to stop trials that are worse than the median at the same epoch. Trials with `joint.guard=true`, as "
        "in `recipe=auto`, are not stopped: they may end with better clusters than their joint phase has.",
    )
    jobs: int = setting(1, "Number of parallel trials.", check=AtLeast(1), example=2)


COMMANDS: dict[str, type[Section]] = {
    "predict": PredictConfig,
    "export": ExportConfig,
    "compare": CompareConfig,
    "report": ReportConfig,
    "select": SelectConfig,
    "tune": TuneConfig,
}


# More runs than anybody starts with one command.
_MOST_NUMBERS = 10_000


def numbers(key: str, text: str, example: str, *, least: int) -> list[int]:
    """Parse a range ``2-12`` or a list ``2,4,8`` of whole numbers; return them sorted and without duplicates.

    Hydra's ``range(2,13)``, which ends before its second number, is accepted too.
    """
    ranges = []
    if match := re.fullmatch(r"range\((\d{1,9}),\s*(\d{1,9})(?:,\s*([1-9]\d{0,8}))?\)", text):
        ranges.append(range(int(match[1]), int(match[2]), int(match[3] or 1)))
    else:
        for piece in text.split(","):
            match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", piece)
            if match is None:
                what = "a range or a list of whole numbers of at most 9 digits"
                raise UserError(f"{key}={text}: expected {what}; for example {key}={example}")
            ranges.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    at_most = f"at most {_MOST_NUMBERS:,} numbers"
    require(sum(map(len, ranges)) <= _MOST_NUMBERS, key, text, at_most, f"for example {key}={example}")
    values = set().union(*ranges)
    require(bool(values), key, text, "a range that goes up", f"for example {key}={example}")
    require(min(values) >= least, key, text, f"numbers of {least} or more", f"for example {key}={example}")
    return sorted(values)
