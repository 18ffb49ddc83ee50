"""Compares runs: groups with equal settings, their scores, and the agreement of their clusterings."""

# Shapes: N rows of the data, R runs.

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dkm.config.checks import format_value
from dkm.config.roles import default_in
from dkm.errors import UserError, in_short
from dkm.evaluation.assignments import safe_text
from dkm.evaluation.scores import SCORES
from dkm.evaluation.summary import Summary
from dkm.runs import reading
from dkm.runs.reading import Run

if TYPE_CHECKING:
    import numpy as np

# Numbers of runs other than scores, and whether higher is better.
_RUN_NUMBERS = {"reconstruction": False, "seconds": False, "agreement": True}
# The SHA-256 of a run that ended before it read its data.
_NO_SHA256 = "-"


@dataclass
class Group:
    """Runs with the same settings."""

    settings: dict[str, Any]  # the settings that differ between groups
    runs: list[Run] = field(default_factory=list)
    scores: dict[str, Summary] = field(default_factory=dict)

    @property
    def completed(self) -> list[Run]:
        return [run for run in self.runs if run.is_completed]

    @property
    def counted(self) -> list[Run]:
        """Return the completed runs that count: of several runs with one seed, the one that started last."""
        ordered = sorted(self.completed, key=lambda run: run.started)
        last = {run.path if run.seed is None else run.seed: run for run in ordered}
        counted = {run.path for run in last.values()}
        return [run for run in self.completed if run.path in counted]

    def name(self, keys: Sequence[str]) -> str:
        """Return some settings in short form: with the last part of each key where it is unambiguous."""
        ends = [key.removesuffix(".name").rpartition(".")[2] for key in keys]
        short_keys = [end if ends.count(end) == 1 else key for end, key in zip(ends, keys, strict=True)]
        values = [format_setting(self.settings[key]) for key in keys]
        return ", ".join(f"{key}={value}" for key, value in zip(short_keys, values, strict=True)) or "all"


class Agreement(NamedTuple):
    """Adjusted Rand index (R, R) between runs; nan where two runs clustered different rows."""

    runs: list[Run]
    ari: np.ndarray


def sweep_table(folder: Path) -> str:
    """Return a CSV table with a row for each run in a folder."""
    groups = group_runs(read_all(reading.find([str(folder)])), each=True)
    return csv_text(csv_rows(score_groups(groups, None, each=True)))


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Read runs; warn of those that are damaged, and leave them out. One whose result was altered stays."""
    runs = []
    for path in paths:
        try:
            runs.append(reading.read(path))
            warn_of_alterations(runs[-1], reading.RESULT)
        except reading.DamagedRun as error:
            print(f"warning: {error}; left out", file=sys.stderr)
    if not runs:
        raise UserError("PATH: none of the runs can be read; expected run directories; see the warnings above")
    return runs


def warn_of_alterations(run: Run, name: str) -> None:
    """Warn if a file of a completed run is not as the run wrote it."""
    for warning in reading.alterations(run, [name]):
        print(f"warning: {warning}", file=sys.stderr)


def comparison_warnings(runs: Sequence[Run], groups: Sequence[Group]) -> Iterator[str]:
    """Yield reasons why scores of the runs do not compare, or do not count."""
    data = {run.data["sha256"]: run for run in runs if run.data.get("sha256")}
    if len(data) > 1:
        names = ", ".join(f"{run.data.get('name')} ({sha[:8]})" for sha, run in data.items())
        first, *rest = data.values()
        paths = {run.settings.get("data.path") for run in data.values()}
        if all(_has_rows_of(first, other) for other in rest):
            yield (
                f"the runs are of the same rows with other columns, labels or values, {names}: their agreement "
                "compares, scores on the data do not"
            )
        elif len(paths) == 1 and None not in paths and any(run.rows_sha256 is None for run in data.values()):
            file = Path(str(paths.pop())).name
            yield (
                f"the runs are of other columns, labels or values of {file}, or of other rows, {names}: their scores "
                "do not compare, and not all of them keep which rows they are of"
            )
        else:
            yield f"the runs are of different data sets, {names}: their scores do not compare"
    counted = {run.path for group in groups for run in group.counted}
    repeated = [run for group in groups for run in group.completed if run.path not in counted]
    if repeated:
        which = f"{repeated[0].path}, seed {repeated[0].seed}"
        others = f" and {len(repeated) - 1} more" if len(repeated) > 1 else ""
        yield f"{which}{others}: repeated with the same settings later, and in no mean"


def group_runs(runs: Sequence[Run], *, each: bool) -> list[Group]:
    """Group runs that differ only in the seed, in the given order; with ``each`` every run is a group."""
    runs = _distinguish_data(_with_defaults(runs))
    texts = [{key: json.dumps(value) for key, value in run.settings.items()} for run in runs]
    keys = dict.fromkeys(key for settings in texts for key in settings)
    differing = [key for key in keys if _differs(key, texts)]
    differing = _without_dependent_settings(differing, runs)
    groups: dict[Any, Group] = {}
    for number, (run, settings) in enumerate(zip(runs, texts, strict=True)):
        key = number if each else tuple(sorted(settings.items()))
        if key not in groups:
            values = {name: run.settings.get(name, "-") for name in differing}
            groups[key] = Group(values | {"seed": run.seed} if each else values)
        groups[key].runs.append(run)
    return list(groups.values())


def _distinguish_data(runs: Sequence[Run]) -> list[Run]:
    """Add the SHA-256 of the data to the settings if runs with equal settings have different data.

    A file may have changed between two runs.
    """
    seen: dict[str, set[str]] = {}
    for run in runs:
        settings = json.dumps(run.settings, sort_keys=True)
        seen.setdefault(settings, set()).add(_sha256(run))
    if all(len(digests - {_NO_SHA256}) < 2 for digests in seen.values()):
        return list(runs)
    return [replace(run, settings={**run.settings, "data.sha256": _sha256(run)[:8]}) for run in runs]


def _has_rows_of(run: Run, other: Run) -> bool:
    """Return whether two runs are of the same rows, of which they may read other columns and labels."""
    is_same_data = run.data.get("sha256") == other.data.get("sha256")
    return is_same_data or (run.rows_sha256 is not None and run.rows_sha256 == other.rows_sha256)


def _sha256(run: Run) -> str:
    return str(run.data.get("sha256", _NO_SHA256))


def _with_defaults(runs: Sequence[Run]) -> list[Run]:
    """Give each run the settings of others that its version did not have yet: they had their defaults."""
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    completed = []
    for run in runs:
        defaults = {key: default_in(run.settings, key) for key in keys if key not in run.settings}
        added = {key: value for key, value in defaults.items() if value is not None}
        completed.append(replace(run, settings={**run.settings, **added}))
    return completed


def _differs(key: str, texts: Sequence[Mapping[str, str]]) -> bool:
    """Return whether runs have different values of a setting, or only some of those with the same option have one.

    A key that only one method has does not differ; the name of the method does.
    """
    having = [settings for settings in texts if key in settings]
    if len({settings[key] for settings in having}) > 1:
        return True
    option = f"{key.partition('.')[0]}.name"
    options = {settings.get(option) for settings in having}
    return any(settings.get(option) in options for settings in texts if key not in settings)


def _without_dependent_settings(differing: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Drop a key whose values follow the name of its section, and are the defaults of those options where there are.

    The path of data follows their name as well.
    """

    def pattern(key: str) -> list[int]:
        values = [json.dumps(run.settings.get(key)) for run in runs]
        order = list(dict.fromkeys(values))
        return [order.index(value) for value in values]

    def is_default(key: str) -> bool:
        with_it = [run.settings for run in runs if key in run.settings]
        return key == "data.path" or all(settings[key] == default_in(settings, key) for settings in with_it)

    options = {key.partition(".")[0]: pattern(key) for key in differing if key.endswith(".name")}
    dependent = {k for k in differing if pattern(k) == options.get(k.partition(".")[0]) and is_default(k)}
    return [key for key in differing if key.endswith(".name") or key not in dependent]


def score_groups(groups: list[Group], agreement: Agreement | None, *, each: bool) -> list[Group]:
    """Fill in the scores of the completed runs; with ``each`` also those of a run that is unfinished."""
    for group in groups:
        counted = group.counted or (group.runs if each else [])
        values: dict[str, list[float]] = {}
        for run in counted:
            flat = dict(run.scores) | {"seconds": run.seconds}
            for baseline, scores in run.baselines.items():
                flat |= {f"{baseline}.{name}": value for name, value in scores.items()}
            for name, value in flat.items():
                if value is not None:
                    values.setdefault(name, []).append(value)
        group.scores = {name: Summary.of(numbers) for name, numbers in values.items()}
        if agreement is not None and not each:
            ari = agreements_in(agreement, group.counted)
            if ari:
                group.scores["agreement"] = Summary.of(ari)
    return groups


def sort_groups(groups: list[Group], name: str) -> list[Group]:
    """Sort groups by a score, the best first and those without it last.

    Raises
    ------
    UserError
        If no group has the score.
    """
    known = sorted({score for group in groups for score in group.scores})
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        near = near or [score for score in known if name in score or score in name][:1]
        remedy = f"did you mean sort={near[0]}?" if near else f"choose one of {', '.join(known)}"
        raise UserError(f"sort={name}: expected a score of these runs; {remedy}")
    sign = -1 if is_higher_better(name) else 1
    scored = [group for group in groups if name in group.scores]
    unscored = [group for group in groups if name not in group.scores]
    return sorted(scored, key=lambda group: sign * group.scores[name].mean) + unscored


def is_higher_better(name: str) -> bool:
    """Return whether higher is better, for a score, a baseline's score such as ``kmeans_raw.acc``, or seconds."""
    score = SCORES.get(name.rpartition(".")[2])
    return _RUN_NUMBERS.get(name, True) if score is None else score.higher_is_better


def agreement_of(runs: Sequence[Run]) -> Agreement | None:
    """Return the adjusted Rand index of each pair of completed runs; None for fewer than two."""
    import numpy as np

    from dkm.clustering.labels import adjusted_rand_index

    read: list[tuple[Run, np.ndarray, np.ndarray]] = []
    for run in runs:
        if run.is_completed:
            assignments = _assignments(run.path / reading.ASSIGNMENTS)
            if assignments is not None:
                warn_of_alterations(run, reading.ASSIGNMENTS)
                read.append((run, *assignments))
    if len(read) < 2:
        return None
    ari = np.eye(len(read))
    for (i, (first, index, labels)), (j, (second, other_index, others)) in combinations(enumerate(read), 2):
        is_same = _has_rows_of(first, second) and np.array_equal(index, other_index)
        ari[i, j] = ari[j, i] = adjusted_rand_index(labels, others) if is_same else np.nan
    return Agreement([run for run, *_ in read], ari)


def _assignments(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    import numpy as np
    import pandas as pd

    try:
        frame = pd.read_csv(path, usecols=["index", "cluster"], dtype=np.int64)
        if not frame["cluster"].between(0, len(frame) - 1).all() or frame.empty:
            raise ValueError("clusters that no run of so many rows has")
    except (OSError, OverflowError, ValueError) as error:  # pandas' own errors are among these
        print(f"warning: {path}: cannot be read ({in_short(error)}); left out of the agreement", file=sys.stderr)
        return None
    return frame["index"].to_numpy(), frame["cluster"].to_numpy()


def agreements_in(agreement: Agreement, runs: Sequence[Run]) -> list[float]:
    """Return the adjusted Rand index of each pair of some runs."""
    import numpy as np

    paths = {run.path for run in runs}
    rows = [i for i, run in enumerate(agreement.runs) if run.path in paths]
    values = [float(agreement.ari[i, j]) for i, j in combinations(rows, 2)]
    return [value for value in values if not np.isnan(value)]


def telling_settings(groups: Sequence[Group]) -> list[str]:
    """Return a few of the settings that differ, enough to distinguish the groups.

    Greedily: each is the one that splits the groups into the most parts.
    """
    keys = list(groups[0].settings)
    chosen: list[str] = []

    def n_parts(key: str) -> int:
        return len({tuple(format_setting(group.settings[k]) for k in (*chosen, key)) for group in groups})

    while (left := [key for key in keys if key not in chosen]) and (not chosen or n_parts(chosen[-1]) < len(groups)):
        chosen.append(max(left, key=lambda key: (n_parts(key), key.endswith(".name"))))  # the first of equal ones
    return [key for key in keys if key in chosen]


def format_setting(value: Any) -> str:
    """Return a setting as tables show it: a float in its short form, 1 for the 1.0 of ``format_value``."""
    return f"{value:g}" if isinstance(value, float) else format_value(value)


def csv_text(rows: Sequence[Sequence[object]], *, is_safe: bool = False) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    if is_safe:
        rows = [[cell if isinstance(cell, int | float) else safe_text(str(cell)) for cell in row] for row in rows]
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def csv_rows(groups: Sequence[Group]) -> list[list[object]]:
    """Return a header and one row per group: mean, standard deviation and count of every number of its runs."""
    settings = list(groups[0].settings)
    scores = list(dict.fromkeys(name for group in groups for name in group.scores))
    head = [*settings, "n_runs", "n_completed", "n_counted", "seeds", "paths"]
    rows: list[list[object]] = [[*head, *(column for name in scores for column in (name, f"{name}_sd", f"{name}_n"))]]
    for group in groups:
        seeds = " ".join(str(run.seed) for run in group.runs)
        paths = " ".join(str(run.path) for run in group.runs)
        cells: list[object] = [format_setting(group.settings[key]) for key in settings]
        cells += [len(group.runs), len(group.completed), len(group.counted), seeds, paths]
        for name in scores:
            mean, sd, n = group.scores.get(name, (None, None, 0))
            cells += [*("" if value is None else f"{value:.9g}" for value in (mean, sd)), n]
        rows.append(cells)
    return rows


def pair_rows(agreement: Agreement) -> list[list[object]]:
    """Return a header and one row per pair of runs."""
    rows: list[list[object]] = [["run", "other", "ari"]]
    for (i, first), (j, second) in combinations(enumerate(agreement.runs), 2):
        value = agreement.ari[i, j]
        rows.append([first.path, second.path, "" if math.isnan(value) else f"{value:.9g}"])
    return rows
