"""Reads run directories, finished or not: settings, status, scores.

Reads only, without torch, and fast: a thousand runs in a second or two.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dkm.config.resolved import read_yaml
from dkm.config.roles import distinguishing_settings
from dkm.config.schema import flatten
from dkm.data.files import expand, natural_key
from dkm.errors import UserError, in_short, input_error, printable
from dkm.runtime.locks import is_locked

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
DATA = "data.json"
METRICS = "metrics.jsonl"
METRICS_CSV = "metrics.csv"
RESULT = "result.json"
ASSIGNMENTS = "assignments.csv"
EXEMPLARS = "exemplars.csv"
FEATURES = "features.csv"
SWEEP = "sweep.csv"
CHECKPOINTS = "checkpoints"
LOG = "train.log"
# Exists while a process trains in the directory, and after it was killed.
LOCK = "run.lock"
OVERRIDES = ".hydra/overrides.yaml"

COMPLETED = "completed"
# The key of the manifest and the result with the search for the number of clusters, of a run that made one.
N_CLUSTERS_CHOICE = "n_clusters_choice"
# The key of the manifest with what finds the run in its sinks again, by the name of the sink.
LOGGED_TO = "logged_to"
# The key of the manifest of a completed run with the SHA-256 of its results by the names of their files.
RESULTS_SHA256 = "results_sha256"


class DamagedRun(Exception):
    """A file of a run cannot be read; the message names it."""


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    # completed | running | interrupted | failed | not started
    status: str
    # Why it was interrupted or failed.
    reason: str | None
    # Every setting that changes the numbers, by its dotted key, without the seed.
    settings: Mapping[str, Any]
    seed: int | None
    # The final scores; those of the last evaluation if the run has no result.
    scores: Mapping[str, float | None]
    # Scores of k-means on the raw data and on the pretrained embedding, as far as the run got.
    baselines: Mapping[str, Mapping[str, float | None]]
    # Seconds of all sections of the run.
    seconds: float | None
    # Name, SHA-256 and shape of the data, and the digest of their rows, as far as the run got.
    data: Mapping[str, Any]
    # Start of the run in ISO 8601; empty if unknown.
    started: str = ""
    # SHA-256 of the results of a completed run by the names of their files; runs of earlier versions have none.
    results_sha256: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_completed(self) -> bool:
        return self.status == COMPLETED

    @property
    def rows_sha256(self) -> str | None:
        """The digest of the rows, whichever columns and labels are read; None where it is not known."""
        return self.data.get("rows_sha256")


def find(words: Sequence[str]) -> list[Path]:
    """Return the run directories that words name: runs, folders with runs anywhere below, globs of these.

    Returns
    -------
    list of Path
        Each once, in the order of the words, those of a folder in natural order: ``seed=10`` after ``seed=9``.

    Raises
    ------
    UserError
        If a word names nothing, or a folder has no runs.
    """
    run_of: dict[Path, Path] = {}  # as the words spell them, by their resolved paths
    for word in words:
        path = expand(word, "run")
        # os.path says no where pathlib raises: of a name too long, of a folder that may not be looked into.
        is_pattern = not os.path.exists(path) and glob.has_magic(word)  # noqa: PTH110
        places = [path]
        if is_pattern:
            matching = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
            places = sorted(matching, key=lambda place: natural_key(str(place)))
        runs = [run for place in places for run in _below(place)]
        if not runs:
            what = "matches nothing" if is_pattern and not places else "no runs in it"
            if not is_pattern and not os.path.isdir(path):  # noqa: PTH112
                what = "no such folder"
            raise input_error(word, what, "run directories, or folders with runs in them", "correct the path")
        for run in runs:
            run_of.setdefault(run.resolve(), run)
    return list(run_of.values())


def _below(folder: Path) -> Iterator[Path]:
    """Yield the runs in a folder, itself or anywhere below; there are no runs within runs."""
    for place, folders, _ in os.walk(folder):
        if is_run(Path(place)):
            folders.clear()
            yield Path(place)
        else:
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory; the run may have just begun."""
    has_config = os.path.isfile(folder / CONFIG) and os.path.isdir(folder / ".hydra")  # noqa: PTH112, PTH113
    return has_config or os.path.isfile(folder / MANIFEST)  # noqa: PTH113


def read(path: Path) -> Run:
    """Return the run in a directory.

    Raises
    ------
    DamagedRun
        If one of its files is not what a run writes.
    """
    settings = _settings(path)
    manifest = manifest_of(path)
    result = _json(path / RESULT) if (path / RESULT).exists() else None
    evaluations = records(path / METRICS)
    status = printable(str(manifest.get("status", "not started")))
    if status == COMPLETED and result is None:
        raise DamagedRun(f"{path}: completed, but there is no {RESULT}")
    try:
        final = result or {}
        baselines = {
            name: _numbers(flatten(final[name])) for name in ("kmeans_raw", "kmeans_pretrained") if final.get(name)
        }
        scores = _numbers(final if result else _last_scores(evaluations))
        scores["reconstruction"] = _reconstruction(evaluations, final)
        seconds = _typed(manifest.get("seconds") or {}, dict, "seconds")
        total = sum(_typed(part, int | float, "seconds") for part in seconds.values()) if seconds else None
        if total is not None and not math.isfinite(total):
            raise TypeError("seconds")
        seed = _typed(settings.pop("seed", None), int | None, "seed")
        reason = _typed(manifest.get("reason"), str | None, "reason")
        reason = None if reason is None else printable(reason)
        data = _typed(manifest.get("data", {}), dict, "data")
        for name in ("sha256", "rows_sha256"):
            _typed(data.get(name), str | None, f"data.{name}")
        started = str(manifest.get("started", ""))
        digests = _typed(manifest.get(RESULTS_SHA256, {}), dict, RESULTS_SHA256) if status == COMPLETED else {}
        return Run(path, status, reason, settings, seed, scores, baselines, total, data, started, digests)
    except (AttributeError, OverflowError, TypeError) as error:
        raise DamagedRun(f"{path}: {RESULT} or {MANIFEST} is not what a run writes ({error})") from error


def _reconstruction(evaluations: Sequence[Mapping[str, Any]], final: Mapping[str, Any]) -> float | None:
    """Return the loss at the evaluation of the model that the run ended with; None where there was none."""
    step = final.get("restored_step")
    if step is not None:
        evaluations = [record for record in evaluations if record.get("step") == step]
    elif final.get("is_undone"):  # runs of earlier versions do not say to which step
        return None
    return _numbers(evaluations[-1]).get("loss/reconstruction") if evaluations else None


def _typed(value: Any, expected: Any, name: str) -> Any:
    """Return the value of an entry; raise a TypeError if it has another type."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} is of another type")
    return value


def alterations(run: Run, names: Sequence[str]) -> Iterator[str]:
    """Yield a warning for each file of a completed run that is missing or not as the run wrote it."""
    for name in names:
        path = run.path / name
        if name not in run.results_sha256:
            continue
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            what = f"cannot be read ({in_short(error)})"
        else:
            if digest == run.results_sha256[name]:
                continue
            what = f"damaged or altered since the run completed (its SHA-256 is not the one in {MANIFEST})"
        remedy = f"python -m dkm.train resume={shlex.quote(str(run.path))}"
        yield f"{path}: {what}; what is read from it may be wrong; copy it again, or write it anew: {remedy}"


def is_in_use(path: Path) -> bool:
    """Return whether a process is training in a run directory."""
    return is_locked(path / LOCK)


def has_safe_csv(path: Path) -> bool:
    """Return whether the CSV files of a run directory mark the texts that a spreadsheet would execute."""
    return _config(path).get("safe_csv") is True


def _settings(path: Path) -> dict[str, Any]:
    return distinguishing_settings(flatten({key: value for key, value in _config(path).items() if key != "defaults"}))


def _config(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path / CONFIG)
    except UserError as error:
        raise DamagedRun(str(error)) from error
    if not isinstance(content, dict):
        raise DamagedRun(f"{path / CONFIG}: holds no settings")
    return content


def manifest_of(path: Path) -> dict[str, Any]:
    """Return the manifest of a run, empty if it has none yet.

    Raises
    ------
    DamagedRun
    """
    return _json(path / MANIFEST) if (path / MANIFEST).exists() else {}


def n_epochs_of(path: Path, phase: str) -> int | None:
    """Return the number of epochs of a phase of a run, "pretrain" or "joint"; None if it is not known.

    It is in the manifest, because the setting may leave it to the number of steps. Runs of version 0.1 have the setting
    alone.

    Raises
    ------
    DamagedRun
    """
    epochs = manifest_of(path).get("epochs")
    try:
        n_epochs = epochs[phase] if epochs else _settings(path).get(f"{phase}.epochs")
        n_typed: int | None = _typed(n_epochs, int | None, "epochs")
    except (KeyError, TypeError) as error:
        raise DamagedRun(f"{path / MANIFEST}: not what a run writes (epochs: {error})") from error
    return n_typed


def is_choice(value: object) -> bool:
    """Return whether a value is what manifest and result hold of a search for the number of clusters."""
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("asked", "reason")):
        return False
    plausible, bounds, warnings = (_list_of(value.get(name)) for name in ("plausible", "range", "warnings"))
    numbers = [value.get("n_clusters"), *plausible, *bounds]
    is_numbered = len(bounds) == 2 and all(isinstance(number, int) for number in numbers)
    return is_numbered and all(isinstance(text, str) for text in warnings)


def _list_of(value: object) -> list[object]:
    """Return a list; one with None for what is none."""
    return value if isinstance(value, list) else [None]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, RecursionError, ValueError) as error:
        raise DamagedRun(f"{path}: cannot be read ({in_short(error)})") from error
    if not isinstance(content, dict):
        raise DamagedRun(f"{path}: holds no JSON object")
    return content


def records(path: Path) -> list[dict[str, Any]]:
    """Return the evaluations so far, without an incomplete last line that a killed run may have left."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        records = [json.loads(line) for line in lines]
    except (OSError, RecursionError, ValueError) as error:
        raise DamagedRun(f"{path}: cannot be read ({in_short(error)})") from error
    if not all(isinstance(record, dict) for record in records):
        raise DamagedRun(f"{path}: expected one JSON object on each line")
    return records


def _last_scores(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = records[-1] if records else {}
    return {key.removeprefix("metrics/"): value for key, value in last.items() if key.startswith("metrics/")}


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the entries that are numbers or None; a number that is infinite, or too large for a float, is None."""
    return {
        key: value if value is None or abs(value) <= sys.float_info.max else None
        for key, value in values.items()
        if value is None or isinstance(value, int | float)
    }
