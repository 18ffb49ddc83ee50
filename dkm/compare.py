"""Compare runs: what differs in their settings, and what came out.

    python -m dkm.compare PATH...

A PATH is a run directory, a folder with runs anywhere below (of a sweep, or of many), or a glob of these. Runs that
differ in nothing but the seed make one row: mean and standard deviation (of a sample) of their scores, and
``agreement``, the mean adjusted Rand index between the assignments of each two of them, which needs no labels. Runs
that did not complete are told apart with their last scores and count for no mean, and of several runs of one seed only
the last one counts. ``mod. data`` and ``agreement`` compare clusterings of one data set without labels; scores that are
taken in the embedding (``sil. own``) do not.

    each=true            one row for each run
    sort=acc             the best first, by any score (davies_bouldin, inertia, reconstruction, seconds: the lowest)
    csv=FILE.csv         the table with every score
    markdown=FILE.md     what is printed, for a report
    figure=FILE.png      the scores of each run, and how far the runs agree
    pairs=FILE.csv       the agreement of each two runs
    agreement=true       also where there are more than 100 runs, whose assignments take long to read
    overwrite=true       replace files that are there
"""

# Shapes: N rows of the data, R runs.

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dkm import runs
from dkm.commands import CompareConfig, parse_words
from dkm.commands import main as run_command
from dkm.compose import absolute
from dkm.config import UserError
from dkm.runs import Run

if TYPE_CHECKING:
    import numpy as np

# Scores of the printed table and their names there; the CSV file has all that the runs have.
_SHOWN = {
    "acc": "ACC",
    "nmi": "NMI",
    "ari": "ARI",
    "modularity_data": "mod. data",
    "silhouette": "sil. own",
    "n_effective_clusters": "eff. K",
    "seconds": "seconds",
    "agreement": "agreement",
}
_LOW_IS_BETTER = ("davies_bouldin", "inertia", "reconstruction", "seconds")
# More runs than this are compared pair by pair only if that is asked for.
_MOST_AGREEING = 100
# More than this, and the matrix of agreements, or a column of settings for each row, is no reading matter.
_MOST_IN_MATRIX = 12
# More settings than this stand in a table of their own.
_MOST_SETTINGS = 5
_MOST_UNFINISHED = 20
# Of a run that did not get as far as to read its data.
_NO_SHA256 = "-"


class Values(NamedTuple):
    """A score over the runs of a group that have it."""

    mean: float
    sd: float | None  # None of a single run

    def __str__(self) -> str:
        digits = 3 if abs(self.mean) < 10 else 1
        mean = f"{self.mean:.{digits}f}"
        return mean if self.sd is None else f"{mean} ± {self.sd:.{digits}f}"


@dataclass
class Group:
    """Runs with the same settings."""

    settings: dict[str, Any]  # those that differ between groups
    runs: list[Run] = field(default_factory=list)
    scores: dict[str, Values] = field(default_factory=dict)

    @property
    def completed(self) -> list[Run]:
        return [run for run in self.runs if run.is_completed]

    @property
    def counted(self) -> list[Run]:
        """Return the completed runs, of several with one seed the one begun last: they repeat one another."""
        ordered = sorted(self.completed, key=lambda run: run.started)
        last = {run.path if run.seed is None else run.seed: run for run in ordered}
        counted = {run.path for run in last.values()}
        return [run for run in self.completed if run.path in counted]

    def name(self, keys: Sequence[str]) -> str:
        """Return these of its settings in a few words: the last part of a key where that is enough."""
        ends = [key.removesuffix(".name").rpartition(".")[2] for key in keys]
        words = [end if ends.count(end) == 1 else key for end, key in zip(ends, keys, strict=True)]
        return ", ".join(f"{word}={_shown(self.settings[key])}" for word, key in zip(words, keys, strict=True)) or "all"


class Agreement(NamedTuple):
    """Adjusted Rand index (R, R) between runs, nan where two have not clustered the same rows."""

    runs: list[Run]
    ari: np.ndarray


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, __doc__)


def work(words: Sequence[str]) -> None:
    """Compare what the words say."""
    known = {part.name for part in fields(CompareConfig)}
    # A path may have an equals sign in it, as those of sweeps have.
    is_option = [word.partition("=")[0] in known and "=" in word for word in words]
    paths = [word for word, option in zip(words, is_option, strict=True) if not option]
    config, _ = parse_words(CompareConfig, [word for word, option in zip(words, is_option, strict=True) if option])
    compare(paths, config)


def compare(paths: Sequence[str], config: CompareConfig) -> list[Group]:
    """Print the comparison, write the files that are asked for, and return the groups.

    Raises
    ------
    UserError
        If there are no runs, or a file cannot be written.
    """
    if not paths:
        raise UserError("PATH: missing; expected run directories, or folders with runs in them; add one")
    _check_files(config)
    found = _readable(runs.find(paths))
    is_asked = config.agreement or config.pairs is not None
    n_completed = sum(run.is_completed for run in found)
    agreement = agreement_of(found) if is_asked or n_completed <= _MOST_AGREEING else None
    groups = _scored(_grouped(found, each=config.each), agreement, each=config.each)
    for warning in _warnings(found, groups):
        print(f"warning: {warning}", file=sys.stderr)
    if config.sort is not None:
        groups = _sorted(groups, config.sort)
    report = _report(groups, agreement)
    print("\n".join(report.lines(_text_table)))
    _write_files(config, groups, agreement, report)
    return groups


def sweep_table(folder: Path) -> str:
    """Return all runs in a folder as CSV, one row for each."""
    groups = _grouped(_readable(runs.find([str(folder)])), each=True)
    return csv_text(_csv_rows(_scored(groups, None, each=True)))


def _readable(paths: Sequence[Path]) -> list[Run]:
    found = []
    for path in paths:
        try:
            found.append(runs.read(path))
        except runs.DamagedRun as error:
            print(f"warning: {error}; left out", file=sys.stderr)
    runs.require_some(found)
    return found


def _warnings(found: Sequence[Run], groups: Sequence[Group]) -> Iterator[str]:
    data = {run.data["sha256"]: str(run.data.get("name")) for run in found if run.data.get("sha256")}
    if len(data) > 1:
        names = ", ".join(f"{name} ({sha[:8]})" for sha, name in data.items())
        yield f"the runs are of different data sets, {names}: their scores do not compare"
    counted = {run.path for group in groups for run in group.counted}
    repeated = [run for group in groups for run in group.completed if run.path not in counted]
    if repeated:
        which = f"{repeated[0].path}, seed {repeated[0].seed}"
        others = f" and {len(repeated) - 1} more" if len(repeated) > 1 else ""
        yield f"{which}{others}: repeated with the same settings later, and in no mean"


# --- groups -----------------------------------------------------------------------------------------------------------


def _grouped(found: Sequence[Run], *, each: bool) -> list[Group]:
    """Put runs together that differ in the seed alone, in the order in which they were found."""
    found = _told_apart_by_data(found)
    texts = [{key: json.dumps(value) for key, value in run.settings.items()} for run in found]
    keys = dict.fromkeys(key for settings in texts for key in settings)
    # A key that only one method has differs from none; the method's name does.
    differing = [key for key in keys if len({settings[key] for settings in texts if key in settings}) > 1]
    differing = _without_those_of_an_option(differing, texts)
    groups: dict[Any, Group] = {}
    for number, (run, settings) in enumerate(zip(found, texts, strict=True)):
        key = number if each else tuple(sorted(settings.items()))
        if key not in groups:
            own = {name: run.settings.get(name, "-") for name in differing}
            groups[key] = Group(own | {"seed": run.seed} if each else own)
        groups[key].runs.append(run)
    return list(groups.values())


def _told_apart_by_data(found: Sequence[Run]) -> list[Run]:
    """Give the runs the SHA-256 of their data as a setting, where equal settings do not mean equal data.

    A file may have changed from one run to the next.
    """
    seen: dict[str, set[str]] = {}
    for run in found:
        settings = json.dumps(run.settings, sort_keys=True)
        seen.setdefault(settings, set()).add(_sha256(run))
    if all(len(digests - {_NO_SHA256}) < 2 for digests in seen.values()):
        return list(found)
    return [replace(run, settings={**run.settings, "data.sha256": _sha256(run)[:8]}) for run in found]


def _sha256(run: Run) -> str:
    return str(run.data.get("sha256", _NO_SHA256))


def _without_those_of_an_option(differing: Sequence[str], texts: Sequence[Mapping[str, str]]) -> list[str]:
    """Leave out a key that goes with the option of its section, as ``data.path`` does with ``data.name``."""

    def pattern(key: str) -> list[int]:
        values = [settings.get(key, "") for settings in texts]
        order = list(dict.fromkeys(values))
        return [order.index(value) for value in values]

    options = {key.partition(".")[0]: pattern(key) for key in differing if key.endswith(".name")}
    return [k for k in differing if k.endswith(".name") or pattern(k) != options.get(k.partition(".")[0])]


def _scored(groups: list[Group], agreement: Agreement | None, *, each: bool) -> list[Group]:
    """Fill in the scores of the completed runs; of a group without any those of its unfinished ones."""
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
        group.scores = {name: _values(some) for name, some in values.items()}
        if agreement is not None and not each:
            own = agreements_in(agreement, group.counted)
            if own:
                group.scores["agreement"] = _values(own)
    return groups


def _values(values: Sequence[float]) -> Values:
    return Values(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _sorted(groups: list[Group], name: str) -> list[Group]:
    known = sorted({score for group in groups for score in group.scores})
    if name not in known:
        raise UserError(f"sort={name}: expected a score of these runs; one of {', '.join(known)}")
    sign = 1 if name.rpartition(".")[2] in _LOW_IS_BETTER else -1
    with_it = [group for group in groups if name in group.scores]
    rest = [group for group in groups if name not in group.scores]
    return sorted(with_it, key=lambda group: sign * group.scores[name].mean) + rest


# --- agreement --------------------------------------------------------------------------------------------------------


def agreement_of(found: Sequence[Run]) -> Agreement | None:
    """Return the adjusted Rand index of each two completed runs."""
    import numpy as np

    from dkm.metrics import adjusted_rand_index

    read: list[tuple[Run, np.ndarray, np.ndarray]] = []
    for run in found:
        if run.is_completed:
            assignments = _assignments(run.path / runs.ASSIGNMENTS)
            if assignments is not None:
                read.append((run, *assignments))
    if len(read) < 2:
        return None
    ari = np.eye(len(read))
    for (i, (first, index, labels)), (j, (second, other_index, others)) in combinations(enumerate(read), 2):
        is_same = first.data.get("sha256") == second.data.get("sha256") and np.array_equal(index, other_index)
        ari[i, j] = ari[j, i] = adjusted_rand_index(labels, others) if is_same else np.nan
    return Agreement([run for run, *_ in read], ari)


def _assignments(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    import numpy as np
    import pandas as pd

    try:
        frame = pd.read_csv(path, usecols=["index", "cluster"], dtype=np.int64)
    except (OSError, ValueError) as error:  # pandas' own errors are among these
        print(f"warning: {path}: cannot be read ({runs.in_short(error)}); left out of the agreement", file=sys.stderr)
        return None
    return frame["index"].to_numpy(), frame["cluster"].to_numpy()


def agreements_in(agreement: Agreement, some: Sequence[Run]) -> list[float]:
    """Return the agreement of each two of some runs."""
    import numpy as np

    paths = {run.path for run in some}
    rows = [i for i, run in enumerate(agreement.runs) if run.path in paths]
    values = [float(agreement.ari[i, j]) for i, j in combinations(rows, 2)]
    return [value for value in values if not np.isnan(value)]


# --- what is printed and written --------------------------------------------------------------------------------------

Table = list[list[str]]


class Report(NamedTuple):
    """Tables with what stands above them."""

    parts: list[tuple[str, Table]]

    def lines(self, as_lines: Callable[[Table], list[str]]) -> list[str]:
        lines: list[str] = []
        for title, table in self.parts:
            lines += [*([""] if lines else []), title, "", *as_lines(table)]
        return lines


def _report(groups: Sequence[Group], agreement: Agreement | None) -> Report:
    found = [run for group in groups for run in group.runs]
    statuses = [run.status for run in found]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    settings = f"{len(groups)} settings" if len(groups) > 1 else "one setting"
    parts = [(f"{len(found)} {'run' if len(found) == 1 else 'runs'} of {settings}: {counts}", _table(groups))]
    if len(groups[0].settings) > _MOST_SETTINGS:
        if len(groups) <= _MOST_IN_MATRIX:
            parts.append(("All settings that differ, by the numbers of the rows:", _settings_table(groups)))
        else:
            parts[0] = (f"{parts[0][0]} (the settings that tell them apart; csv=FILE.csv has all)", parts[0][1])
    unfinished = [run for run in found if not run.is_completed]
    if unfinished:
        parts.append(("Not completed, and in no mean:", _unfinished_table(unfinished)))
    if agreement is not None and len(agreement.runs) <= _MOST_IN_MATRIX:
        parts.append(("Agreement between runs (adjusted Rand index of their assignments):", _matrix(agreement)))
    return Report(parts)


def telling_settings(groups: Sequence[Group]) -> list[str]:
    """Return a few of the settings that differ, enough to tell the groups apart: each the one that parts them most."""
    keys = list(groups[0].settings)
    told: list[str] = []

    def n_parts(key: str) -> int:
        return len({tuple(_shown(group.settings[k]) for k in (*told, key)) for group in groups})

    while (left := [key for key in keys if key not in told]) and (not told or n_parts(told[-1]) < len(groups)):
        told.append(max(left, key=lambda key: (n_parts(key), key.endswith(".name"))))  # of equal ones the first
    return [key for key in keys if key in told]


def _settings_table(groups: Sequence[Group]) -> Table:
    """Return what differs, one row for each setting and one column for each row of the table of scores."""
    head = ["", *(str(number) for number in range(1, len(groups) + 1))]
    return [head, *([key, *(_shown(group.settings[key]) for group in groups)] for key in groups[0].settings)]


def _table(groups: Sequence[Group]) -> Table:
    settings = list(groups[0].settings)
    is_each, is_long = "seed" in settings, len(settings) > _MOST_SETTINGS
    if is_long:
        settings = [key for key in telling_settings(groups) if key != "seed"] + (["seed"] if is_each else [])
    scores = [name for name in _SHOWN if any(name in group.scores for group in groups)]
    head = [*([""] if is_long else []), *settings, *([] if is_each else ["runs"]), *(_SHOWN[name] for name in scores)]
    rows = []
    for number, group in enumerate(groups, 1):
        cells = [*([str(number)] if is_long else []), *(_shown(group.settings[key]) for key in settings)]
        if not is_each:
            n, n_counted = len(group.runs), len(group.counted)
            cells.append(str(n) if n == n_counted else f"{n_counted} of {n}")
        elif not group.completed:
            cells[-1] += f" ({group.runs[0].status})"
        cells += [str(group.scores[name]) if name in group.scores else "-" for name in scores]
        rows.append(cells)
    return [head, *rows]


def _unfinished_table(unfinished: Sequence[Run]) -> Table:
    """Return what became of the runs, with the scores of their last evaluations."""
    shown = unfinished[:_MOST_UNFINISHED]
    scores = [name for name in _SHOWN if any(run.scores.get(name) is not None for run in shown)]
    rows = [["run", "status", *(_SHOWN[name] for name in scores), "why"]]
    for run in shown:
        values = [run.scores.get(name) for name in scores]
        cells = ["-" if value is None else str(Values(value, None)) for value in values]
        rows.append([str(run.path), run.status, *cells, _why(run)])
    if len(unfinished) > _MOST_UNFINISHED:
        rows.append([f"and {len(unfinished) - _MOST_UNFINISHED} more", *[""] * (len(rows[0]) - 1)])
    return rows


def _why(run: Run) -> str:
    if run.status == "running" and not runs.is_in_use(run.path):
        return "no process is training it: killed, or on another machine"
    return run.reason or ""


def _matrix(agreement: Agreement) -> Table:
    import numpy as np

    numbers = [str(number) for number in range(1, len(agreement.runs) + 1)]
    rows = [["", "run", *numbers]]
    for number, run, row in zip(numbers, agreement.runs, agreement.ari, strict=True):
        rows.append([number, str(run.path), *("-" if np.isnan(value) else f"{value:.3f}" for value in row)])
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text_table(table: Table) -> list[str]:
    """Align columns: to the left what holds words, to the right numbers."""
    columns = list(zip(*table, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_text = [any(cell[:1].isalpha() or cell[:1] in "/.~" for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in table
    ]


def _markdown_table(table: Table) -> list[str]:
    head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in table)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _csv_rows(groups: Sequence[Group]) -> list[list[object]]:
    settings = list(groups[0].settings)
    scores = list(dict.fromkeys(name for group in groups for name in group.scores))
    head = [*settings, "n_runs", "n_completed", "seeds", "paths"]
    rows: list[list[object]] = [[*head, *(column for name in scores for column in (name, f"{name}_sd"))]]
    for group in groups:
        seeds = " ".join(str(run.seed) for run in group.runs)
        paths = " ".join(str(run.path) for run in group.runs)
        cells: list[object] = [_shown(group.settings[key]) for key in settings]
        cells += [len(group.runs), len(group.completed), seeds, paths]
        for name in scores:
            mean, sd = group.scores.get(name, (None, None))
            cells += ["" if value is None else f"{value:.9g}" for value in (mean, sd)]
        rows.append(cells)
    return rows


def _pair_rows(agreement: Agreement) -> list[list[object]]:
    rows: list[list[object]] = [["run", "other", "ari"]]
    for (i, first), (j, second) in combinations(enumerate(agreement.runs), 2):
        value = agreement.ari[i, j]
        rows.append([first.path, second.path, "" if value != value else f"{value:.9g}"])
    return rows


_SUFFIXES = {"csv": ".csv", "markdown": ".md", "figure": ".png", "pairs": ".csv"}


def _files(config: CompareConfig) -> dict[str, Path]:
    return {key: Path(absolute(name)) for key in _SUFFIXES if (name := getattr(config, key)) is not None}


def _check_files(config: CompareConfig) -> None:
    """Refuse a file that cannot be written before anything is read."""
    for key, path in _files(config).items():
        given = f"{key}={getattr(config, key)}"
        if path.suffix != _SUFFIXES[key]:
            raise UserError(f"{given}: expected a name ending in {_SUFFIXES[key]}; correct it")
        if os.path.isdir(path) or not os.path.isdir(path.parent):  # noqa: PTH112  # pathlib raises for a name too long
            raise UserError(f"{given}: expected a file in a folder that is there; choose another")
        if list(_files(config).values()).count(path) > 1:
            raise UserError(f"{given}: expected one file for each key; choose another")
        if os.path.exists(path) and not config.overwrite:  # noqa: PTH110
            raise UserError(f"{given}: there is such a file; expected a new one; set overwrite=true to replace it")


def _write_files(config: CompareConfig, groups: list[Group], agreement: Agreement | None, report: Report) -> None:
    from dkm.checkpoint import write_atomically

    for key, path in _files(config).items():
        try:
            if key == "figure":
                if not any(group.completed for group in groups):
                    raise UserError(f"figure={config.figure}: expected a completed run to draw; leave it out")
                _draw(groups, agreement, path)
            elif key == "markdown":
                write_atomically(path, ("\n".join(report.lines(_markdown_table)) + "\n").encode())
            elif key == "csv":
                write_atomically(path, csv_text(_csv_rows(groups)).encode())
            elif agreement is not None:
                write_atomically(path, csv_text(_pair_rows(agreement)).encode())
            else:
                raise UserError(f"pairs={config.pairs}: expected two completed runs or more; leave it out")
        except OSError as error:
            given = f"{key}={getattr(config, key)}"
            raise UserError(f"{given}: {error.strerror}; expected a place to write; choose another") from error
        print(f"written: {path}")


def _draw(groups: list[Group], agreement: Agreement | None, path: Path) -> None:
    from dkm.figures import comparison, save_figure

    names = ("acc", "nmi") if any("acc" in group.scores for group in groups) else ("silhouette", "n_effective_clusters")
    scores = [name for name in (*names, "modularity_data", "seconds") if any(name in g.scores for g in groups)]
    values = {_SHOWN[name]: [_of_runs(group, name) for group in groups] for name in scores}
    order = [] if agreement is None else _rows_by_group(groups, agreement)
    ari = None if agreement is None else agreement.ari[order][:, order]
    keys = telling_settings(groups)
    run_names = [] if agreement is None else [_run_name(groups, agreement.runs[i], keys) for i in order]
    save_figure(comparison([group.name(keys) for group in groups], values, ari, run_names), path)


def _of_runs(group: Group, name: str) -> list[float]:
    values = [run.seconds if name == "seconds" else run.scores.get(name) for run in group.counted]
    return [value for value in values if value is not None]


def _rows_by_group(groups: Sequence[Group], agreement: Agreement) -> list[int]:
    position = {run.path: i for i, run in enumerate(agreement.runs)}
    return [position[run.path] for group in groups for run in group.runs if run.path in position]


def _run_name(groups: Sequence[Group], run: Run, keys: Sequence[str]) -> str:
    group = next(group for group in groups if run in group.runs)
    return group.name(keys) if "seed" in keys else f"{group.name(keys)}, seed={run.seed}"


if __name__ == "__main__":
    main()
