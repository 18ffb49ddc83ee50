"""What the commands beside ``dkm.train`` share: KEY=VALUE words to a dataclass, and errors to one line and a code.

Imports no torch: a wrong word answers at once.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from dkm.config.checks import require
from dkm.errors import Failure, UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

T = TypeVar("T")


def main(work: Callable[[Sequence[str]], None], doc: str | None) -> None:
    """Run a command on ``sys.argv`` and exit with its code, one of those of ``dkm.train``."""
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
    except BrokenPipeError as error:  # of a reader such as head
        sys.stdout = None  # what is left to print has nowhere to go
        raise SystemExit(EXIT_INTERRUPTED) from error


def parse_words(schema: type[T], words: Sequence[str], sections: Sequence[str] = ()) -> tuple[T, list[str]]:
    """Return the dataclass that the words KEY=VALUE fill, and the words whose key is in one of ``sections``.

    Values are taken as they stand: nothing in them needs to be quoted but for the shell.
    """
    known = {part.name: part for part in fields(schema)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    rest: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word}: expected KEY=VALUE; for example {next(iter(known))}=VALUE")
        if key.partition(".")[0] in sections and "." in key:
            rest.append(word)
            continue
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            raise UserError(f"{word}: expected a key of this command; {remedy}")
        values[key] = _value(key, text, str(known[key].type))
    for name, part in known.items():
        if name not in values and part.default is MISSING and part.default_factory is MISSING:
            raise UserError(f"{name}: missing; expected {name}=VALUE; add it to the command")
    return schema(**values), rest


def parse_own(schema: type[T], words: Sequence[str]) -> tuple[T, list[str]]:
    """Return the dataclass that those of the words KEY=VALUE fill whose key it has, and the other words."""
    known = {part.name for part in fields(schema)}  # type: ignore[arg-type]
    own = [word for word in words if word.partition("=")[0] in known]
    return parse_words(schema, own)[0], [word for word in words if word not in own]


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


def quoted(value: Path | str) -> str:
    """Return a text as the value of an override, which a comma or a space in it would end otherwise.

    Hydra takes a backslash for an escape only in front of a quote.
    """
    text = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(value))
    return f"'{text}'"


def words_of_runs(
    overrides: Sequence[str],
    refused: Sequence[str],
    instead: str,
    folder: Path,
    n_jobs: int,
    defaults: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the overrides for ``dkm.train`` that all runs of a command have, which only their scores are wanted of.

    Parameters
    ----------
    overrides
        The user's, which go before ours.
    refused, instead
        Keys that the command sets itself, and what to do instead.
    folder
        Where they keep the pretrainings that they share.
    n_jobs
        Runs at a time, which share the cores.
    defaults
        Of the command, beside those of all.
    """
    keys = [word.partition("=")[0].lstrip("+~") for word in overrides]
    for key, word in zip(keys, overrides, strict=True):
        if word.startswith("-") or "=" not in word:
            raise UserError(f"{word}: expected KEY=VALUE, as dkm.train takes it; leave it out")
        if key in refused:
            raise UserError(f"{word}: expected no such key, {instead}")
    from joblib import cpu_count  # knows affinity and container limits

    # A pretraining is shared by runs with the same number of threads.
    given = os.environ.get("OMP_NUM_THREADS", "")
    n_cores = int(given) if given.isdecimal() else cpu_count(only_physical_cores=True)
    ours = {
        "evaluation.kmeans_raw": "false",
        "log.figures": "false",
        "log.tensorboard": "false",
        "log.progress": "off",
        "pretrain.cache": quoted(folder / "cache"),
        "threads": str(max(1, n_cores // n_jobs)),
        **(defaults or {}),
    }
    return [*overrides, *(f"{key}={value}" for key, value in ours.items() if key not in keys)]


@dataclass
class PredictConfig:
    """``dkm.predict``: which rows, of which file, get which answers."""

    # A finished run, or its model/ folder.
    run: str
    # A file or folder of what the run was trained on: .npy, .npz, .csv, .parquet, images. `data.` keys say how it is
    # read, where that differs from the run.
    input: str
    # .csv, .parquet or .npz.
    output: str
    overwrite: bool = False
    # Also soft memberships, one column for each cluster; the embedding, one column for each dimension.
    memberships: bool = False
    embedding: bool = False
    # auto | cpu | cuda | cuda:N
    device: str = "auto"
    threads: int | None = None
    # Modules, separated by commas, that are imported first: those of the run's `plugins`.
    plugins: str = ""

    def __post_init__(self) -> None:
        if self.threads is not None:
            require(self.threads >= 1, "threads", self.threads, "a whole number, 1 or more", "for example threads=4")


@dataclass
class ExportConfig:
    """``dkm.export``: which model, in which form."""

    # A finished run, or its model/ folder.
    run: str
    # A folder that is made.
    output: str
    # torch | onnx | numpy
    format: str = "torch"
    # Real rows to compare on; null: the data of the run.
    input: str | None = None
    overwrite: bool = False
    # Modules, separated by commas, that are imported first: those of the run's `plugins`.
    plugins: str = ""

    def __post_init__(self) -> None:
        choices = ("torch", "onnx", "numpy")
        remedy = "for example format=torch"
        require(self.format in choices, "format", self.format, "one of " + ", ".join(choices), remedy)


@dataclass
class CompareConfig:
    """``dkm.compare``: what beside the paths of the runs it is told."""

    # Files to write: the table (.csv, .md), the picture (.png), the agreement of each two runs (.csv).
    csv: str | None = None
    markdown: str | None = None
    figure: str | None = None
    pairs: str | None = None
    # One row for each run, not for each setting.
    each: bool = False
    # The score to sort by.
    sort: str | None = None
    # Compare the assignments of more than 100 runs too.
    agreement: bool = False
    overwrite: bool = False


@dataclass
class SelectConfig:
    """``dkm.select``: which numbers of clusters are tried, and where."""

    # A range 2-12, or a list 2,4,8.
    k: str
    # Of the runs for each number.
    seeds: str = "0,1,2"
    # A folder for the runs and the answer; null: a new one under runs/select. One that is there is gone on with.
    output: str | None = None
    # Runs at a time.
    jobs: int = 1

    def __post_init__(self) -> None:
        numbers("k", self.k, "2-12", least=2)
        numbers("seeds", self.seeds, "0,1,2", least=0)
        require(self.jobs >= 1, "jobs", self.jobs, "a whole number, 1 or more", "for example jobs=2")


@dataclass
class TuneConfig:
    """``dkm.tune``: how many trials, towards what, and where."""

    # Of the whole study, those of an earlier call among them.
    trials: int = 50
    # A folder for the trials and the answer; null: a new one under runs/tune. A study that is there is gone on with.
    output: str | None = None
    # A score of ``dkm.evaluation.scores.objectives``; one that needs labels only with allow_labels=true.
    objective: str = "modularity_data"
    allow_labels: bool = False
    # End trials that are worse than the median at the same epoch.
    prune: bool = True
    # Trials at a time.
    jobs: int = 1

    def __post_init__(self) -> None:
        require(self.trials >= 1, "trials", self.trials, "a whole number, 1 or more", "for example trials=50")
        require(self.jobs >= 1, "jobs", self.jobs, "a whole number, 1 or more", "for example jobs=2")


def numbers(key: str, text: str, example: str, *, least: int) -> list[int]:
    """Return the whole numbers of ``2-12`` or ``2,4,8``, in order and each once."""
    found: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.partition("-")
        is_number = first.isdecimal() and (not dash or last.isdecimal())
        require(is_number, key, text, "a range or a list of whole numbers", f"for example {key}={example}")
        found |= set(range(int(first), int(last if dash else first) + 1))
    require(bool(found), key, text, "a range that goes up", f"for example {key}={example}")
    require(min(found) >= least, key, text, f"numbers of {least} or more", f"for example {key}={example}")
    return sorted(found)
