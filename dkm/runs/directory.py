"""The run directory: config, manifest, metrics, log.

A killed run leaves no half-written files. Times and paths go into the manifest and the log only, so that two equal runs
have equal ``metrics.jsonl``, ``result.json`` and ``assignments.csv``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf
from tqdm import tqdm

from dkm.config.groups import GROUPS
from dkm.config.resolved import read_yaml, with_digest
from dkm.config.run import Config
from dkm.config.schema import to_dict
from dkm.data.report import DataReport
from dkm.errors import UserError, printable_lines
from dkm.evaluation.assignments import Assignments, csv_parts
from dkm.evaluation.exemplars import Contrast, Exemplars, exemplar_lines, feature_lines
from dkm.runs.reading import (
    ASSIGNMENTS,
    CONFIG,
    DATA,
    EXEMPLARS,
    FEATURES,
    LOCK,
    LOG,
    LOGGED_TO,
    MANIFEST,
    METRICS,
    N_CLUSTERS_CHOICE,
    OVERRIDES,
    RESULT,
    RESULTS_SHA256,
    is_choice,
)
from dkm.runs.sinks.base import SinkContext, Sinks
from dkm.runtime.atomic import write_atomically
from dkm.runtime.locks import Lock, acquire

log = logging.getLogger(__name__)

_CONFIG_HEADER = """\
# The resolved config of this run. Repeat it with
#   python -m dkm.train --config-dir {directory} --config-name config
"""
_CONFIG_DEFAULTS = """\
defaults:
  - paths
  - _self_

"""


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


# The entries of a manifest that a process that resumes the run reads.
_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "started": _is(str),
    "n_resumed": _is(int),
    "segments": _is(list),
    "status": _is(str),
    **dict.fromkeys(("versions", "data", "epochs", "seconds"), _is(dict)),
    **dict.fromkeys(("samples_per_second", "compile_seconds", LOGGED_TO, RESULTS_SHA256), _is(dict)),
    "warnings": lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
    N_CLUSTERS_CHOICE: is_choice,
}


class RunWriter(Protocol):
    """What a run is written with: `RunDirectory` writes files, `Unwritten` drops everything."""

    is_written: bool
    path: Path
    shows_bars: bool
    manifest: dict[str, Any]
    sinks: Sinks
    # What the run has warned about, in this process and in earlier ones.
    warnings: list[str]
    # SHA-256 of the results that this process has written, by the names of their files.
    results_sha256: dict[str, str]

    def lock(self) -> bool: ...
    def open_log(self) -> None: ...
    def open(self, config: Config, *, step: int | None, has_labels: bool) -> None: ...
    def close(self) -> None: ...
    def given_settings(self) -> set[str]: ...
    def update_manifest(self, /, **entries: Any) -> None: ...
    def read_manifest(self) -> dict[str, Any]: ...
    def append_metrics(self, record: Mapping[str, Any]) -> None: ...
    def sync_metrics(self) -> int: ...
    def metrics_sha256(self) -> str: ...
    def truncate_metrics(self, n_bytes: int, sha256: str | None = None) -> None: ...
    def read_metrics(self) -> list[dict[str, Any]]: ...
    def write_data_report(self, report: DataReport) -> None: ...
    def write_result(self, result: Mapping[str, Any]) -> None: ...
    def write_assignments(self, assignments: Assignments, exemplars: Sequence[Exemplars]) -> None: ...
    def write_features(self, contrast: Contrast, names: Sequence[str]) -> None: ...


class RunDirectory:
    """Writes the files of one run.

    Parameters
    ----------
    path : Path
        An existing directory.
    sinks : sequence of str, optional
        Names of the sinks that the run is logged to, in ``dkm.config.sinks.SINKS``.
    progress : {"auto", "bar", "plain", "off"}
        What is printed; ``train.log`` has it all.
    safe_csv : bool
        Whether texts in CSV files are marked that a spreadsheet would execute.
    """

    is_written = True

    def __init__(self, path: Path, *, sinks: Sequence[str] = (), progress: str, safe_csv: bool = False) -> None:
        self.path = path
        self._safe_csv = safe_csv
        self.shows_bars = progress == "bar" or (progress == "auto" and sys.stderr.isatty())
        self._is_quiet = progress == "off"
        self.manifest: dict[str, Any] = {}
        self._sink_names = tuple(sinks)
        self.sinks = Sinks()
        self._handlers: list[logging.Handler] = []
        self._lock: Lock | None = None
        self.warnings: list[str] = []
        self.results_sha256: dict[str, str] = {}

    # --- start and end ---

    def open(self, config: Config, *, step: int | None, has_labels: bool) -> None:
        """Write the config and open the sinks.

        Parameters
        ----------
        config : Config
            Replaces the one in ``config.yaml``: a run may be resumed with more epochs, for instance.
        step : int, optional
            Step of the checkpoint to resume from; None for a new run.
        has_labels : bool
            Whether there are scores against labels.
        """
        references = (read_json(self.path / MANIFEST) or {}).get(LOGGED_TO)
        text = OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))
        header = _CONFIG_HEADER.format(directory=shlex.quote(str(self.path)))
        text = header + with_digest(_CONFIG_DEFAULTS + text)
        path = self.path / CONFIG
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            self._write(CONFIG, text)
        context = SinkContext(self.path, config, step, has_labels)
        self.sinks = Sinks.open(self._sink_names, context, references if isinstance(references, dict) else {})

    def close(self) -> None:
        """Close the files.

        Raises
        ------
        OSError
            If a line of the log could not be written, unless another exception ends the run.
        """
        handlers, self._handlers = self._handlers, []
        is_failing = sys.exc_info()[0] is not None
        try:
            self.sinks.close()
            self._keep_warnings()
        finally:
            for handler in handlers:
                logging.getLogger("dkm").removeHandler(handler)
                handler.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None
        failed = [handler.error for handler in handlers if isinstance(handler, _LogFile) and handler.error is not None]
        if failed and not is_failing:
            raise failed[0]

    def lock(self) -> bool:
        """Keep other processes out of the directory until ``close``; return False if one is training in it."""
        self._lock = acquire(self.path / LOCK)
        return self._lock is not None

    def open_log(self) -> None:
        """Log to ``train.log`` and to the terminal."""
        # tqdm's default lock is also a system semaphore: a sweep's worker that is killed leaks it, with a warning.
        tqdm.set_lock(threading.RLock())
        logger = logging.getLogger("dkm")
        logger.setLevel(logging.INFO)
        to_file = _LogFile(self.path / LOG, encoding="utf-8")
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        console = _Console(logging.WARNING if self._is_quiet else logging.INFO)
        console.addFilter(lambda record: not getattr(record, "is_for_file", False))
        if self.shows_bars:  # the bar tells the progress
            console.addFilter(lambda record: not getattr(record, "is_progress", False))
        self._handlers = [to_file, console, _Collector(self.warnings)]
        for handler in self._handlers:
            logger.addHandler(handler)
        if self._lock is not None and self._lock.problem is not None:
            log.warning("%s", self._lock.caution)

    def given_settings(self) -> set[str]:
        """Return the keys that the command line set, as recorded in ``.hydra/overrides.yaml``."""
        words: Any = []
        with contextlib.suppress(UserError):  # they only order the columns of TensorBoard
            words = read_yaml(self.path / OVERRIDES)
        keys = {str(word).partition("=")[0].lstrip("+~") for word in words} if isinstance(words, list) else set()
        return {f"{key}.name" if key in GROUPS else key for key in keys}

    # --- manifest ---

    def update_manifest(self, /, **entries: Any) -> None:
        self.manifest |= entries
        self._write(MANIFEST, json.dumps(self.manifest, indent=2) + "\n")

    def read_manifest(self) -> dict[str, Any]:
        """Return the manifest that an earlier process wrote, empty if there is none or it is damaged.

        An entry that a run does not write so is left out.
        """
        path = self.path / MANIFEST
        content = read_json(path)
        if content is None and path.exists():
            log.warning("%s is damaged: what it told about the earlier parts of the run is lost", path)
        manifest = content or {}
        for name in [name for name, is_written in _ENTRIES.items() if not is_written(manifest.get(name))]:
            if manifest.pop(name, None) is not None:
                log.warning("%s: %s is not what a run writes, and is left out", path, name)
        return manifest

    # --- metrics ---

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def sync_metrics(self) -> int:
        """Flush the metrics and the warnings to disk; return the size of the metrics in bytes, for the checkpoint."""
        self.sinks.flush()
        self._keep_warnings()
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())
            return file.tell()

    def _keep_warnings(self) -> None:
        if "status" in self.manifest and self.manifest.get("warnings", []) != self.warnings:
            self.update_manifest(warnings=list(self.warnings))

    def metrics_sha256(self) -> str:
        """Return the digest of the metrics, for the checkpoint."""
        return hashlib.sha256((self.path / METRICS).read_bytes()).hexdigest()

    def truncate_metrics(self, n_bytes: int, sha256: str | None = None) -> None:
        """Cut off the records that were written after the checkpoint, and an incomplete last one.

        Parameters
        ----------
        n_bytes : int
            Size of the file at the checkpoint.
        sha256 : str, optional
            Its digest then; a file with another one is warned about.
        """
        path = self.path / METRICS
        with path.open("a+b") as file:
            file.seek(0)
            content = file.read(n_bytes)
            file.truncate(content.rfind(b"\n") + 1)
        if len(content) < n_bytes:
            log.warning("%s is shorter than when the checkpoint was written: records are missing", path)
        elif sha256 not in (None, hashlib.sha256(content).hexdigest()):
            log.warning("%s was altered since the checkpoint was written: curves may be wrong, results are not", path)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the records, without those that were damaged after they were written."""
        path, records, n_damaged = self.path / METRICS, [], 0
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except (RecursionError, ValueError):
                record = None
            if isinstance(record, dict):
                records.append(record)
            else:
                n_damaged += 1
        if n_damaged:
            log.warning("%s: %d lines hold no record, so curves lack them", path, n_damaged)
        return records

    # --- results ---

    def write_data_report(self, report: DataReport) -> None:
        """Write ``data.json``: what was read, left out, filled, encoded or guessed."""
        self._write(DATA, json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._write_result(RESULT, [json.dumps(result, indent=2), "\n"])

    def write_assignments(self, assignments: Assignments, exemplars: Sequence[Exemplars]) -> None:
        """Write one row per sample, see ``dkm.evaluation.assignments``, and the exemplars of each cluster."""
        self._write_result(ASSIGNMENTS, csv_parts(assignments, is_safe=self._safe_csv))
        self._write_result(EXEMPLARS, exemplar_lines(assignments, exemplars, is_safe=self._safe_csv))

    def write_features(self, contrast: Contrast, names: Sequence[str]) -> None:
        """Write the features in which each cluster differs most from the others."""
        self._write_result(FEATURES, feature_lines(contrast, names, is_safe=self._safe_csv))

    def _write_result(self, name: str, parts: Iterable[str | bytes]) -> None:
        """Write a file in parts; keep its SHA-256 for the manifest."""
        digest = hashlib.sha256()

        def digested() -> Iterator[bytes]:
            for part in parts:
                content = part.encode() if isinstance(part, str) else part
                digest.update(content)
                yield content

        write_atomically(self.path / name, digested())
        self.results_sha256[name] = digest.hexdigest()

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text.encode())


class Unwritten:
    """Writes nothing: for ranks that do not own the run directory, and for `DeepKMeans`, which has none."""

    is_written = False
    path = Path(os.devnull)
    shows_bars = False

    def __init__(self) -> None:
        self.manifest: dict[str, Any] = {}
        self.sinks = Sinks()
        self.warnings: list[str] = []
        self.results_sha256: dict[str, str] = {}

    def lock(self) -> bool:
        return True

    def open_log(self) -> None:
        pass

    def open(self, config: Config, *, step: int | None, has_labels: bool) -> None:
        pass

    def close(self) -> None:
        pass

    def given_settings(self) -> set[str]:
        return set()

    def update_manifest(self, /, **entries: Any) -> None:
        pass

    def read_manifest(self) -> dict[str, Any]:
        return {}

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        pass

    def sync_metrics(self) -> int:
        return 0

    def metrics_sha256(self) -> str:
        return ""

    def truncate_metrics(self, n_bytes: int, sha256: str | None = None) -> None:
        pass

    def read_metrics(self) -> list[dict[str, Any]]:
        return []

    def write_data_report(self, report: DataReport) -> None:
        pass

    def write_result(self, result: Mapping[str, Any]) -> None:
        pass

    def write_assignments(self, assignments: Assignments, exemplars: Sequence[Exemplars]) -> None:
        pass

    def write_features(self, contrast: Contrast, names: Sequence[str]) -> None:
        pass


class _LogFile(logging.FileHandler):
    """Writes ``train.log``. A line that cannot be written is no reason for a traceback: the error is kept."""

    error: OSError | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self.error is None:
            self.error = OSError(error.errno, error.strerror, self.baseFilename)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what is in its buffer cannot be written
            self.error = self.error or OSError(error.errno, error.strerror, self.baseFilename)


class _Collector(logging.Handler):
    """Keeps the warnings, each once: a process that resumes a run repeats some."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if (message := record.getMessage()) not in self._messages:
            self._messages.append(message)


class _Console(logging.Handler):
    """Prints log lines between progress bars: information to standard output, warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        prefix = f"{record.levelname.lower()}: " if warns else ""
        # The report of the data has lines, and names that come from a file.
        tqdm.write(prefix + printable_lines(record.getMessage()), file=sys.stderr if warns else sys.stdout)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None if the file is missing or holds something else.

    Raises
    ------
    UserError
        If the file cannot be read now: it is not damaged, and must not be written anew.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, RecursionError, ValueError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # so it cannot be there
            return None
        found = f"cannot be read ({error.strerror}); it was left as it is"
        raise UserError(f"{path}: {found}; expected a readable file; run the command again once it is") from error
    return content if isinstance(content, dict) else None
