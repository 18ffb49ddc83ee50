"""Tables and the figure of a comparison of runs."""

# Shapes: N rows of the data, R runs.

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dkm.errors import printable
from dkm.evaluation.scores import SCORES
from dkm.evaluation.summary import Summary
from dkm.runs import reading
from dkm.runs.comparison import Agreement, Group, format_setting, telling_settings
from dkm.runs.reading import Run

# The largest number of runs or groups for which a matrix of agreements, or a table of settings by groups, is legible.
_MOST_IN_MATRIX = 12
# More settings than this get a table of their own.
_MOST_SETTINGS = 5
# Rows of the table of unfinished runs.
_MOST_UNFINISHED = 20
# Panels of the figure for scores against labels, which agree with each other.
_MOST_LABEL_PANELS = 2

Table = list[list[str]]


class Report(NamedTuple):
    """Tables with their titles."""

    parts: list[tuple[str, Table]]

    def lines(self, as_lines: Callable[[Table], list[str]]) -> list[str]:
        """Return the report as lines, its tables formatted by ``as_lines``; control characters of runs are escaped."""
        lines: list[str] = []
        for title, cells in self.parts:
            table = [[printable(cell) for cell in row] for row in cells]
            lines += [*([""] if lines else []), printable(title), "", *as_lines(table)]
        return lines


def build_report(groups: Sequence[Group], agreement: Agreement | None) -> Report:
    """Return the tables that ``dkm.compare`` prints."""
    runs = [run for group in groups for run in group.runs]
    statuses = [run.status for run in runs]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    settings = f"{len(groups)} settings" if len(groups) > 1 else "one setting"
    parts = [(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of {settings}: {counts}", _table(groups))]
    if len(groups[0].settings) > _MOST_SETTINGS:
        if len(groups) <= _MOST_IN_MATRIX:
            parts.append(("All settings that differ, by the numbers of the rows:", _settings_table(groups)))
        else:
            parts[0] = (f"{parts[0][0]} (the settings that tell them apart; csv=FILE.csv has all)", parts[0][1])
    unfinished = [run for run in runs if not run.is_completed]
    if unfinished:
        parts.append(("Not completed, and in no mean:", _unfinished_table(unfinished)))
    if agreement is not None and len(agreement.runs) <= _MOST_IN_MATRIX:
        parts.append(("Agreement between runs (adjusted Rand index of their assignments):", _matrix(agreement)))
    return Report(parts)


def _labels() -> dict[str, str]:
    """Return the labels of the numeric columns by their keys; the CSV file has all numbers of the runs."""
    scores = {score.name: score.label for score in SCORES.values() if score.shown == "headline"}
    return scores | {"seconds": "seconds", "agreement": "agreement"}


def _settings_table(groups: Sequence[Group]) -> Table:
    """Return the settings that differ: a row for each setting, a column for each row of the table of scores."""
    head = ["", *(str(number) for number in range(1, len(groups) + 1))]
    return [head, *([key, *(format_setting(group.settings[key]) for group in groups)] for key in groups[0].settings)]


def _table(groups: Sequence[Group]) -> Table:
    settings = list(groups[0].settings)
    is_each, is_long = "seed" in settings, len(settings) > _MOST_SETTINGS
    if is_long:
        settings = [key for key in telling_settings(groups) if key != "seed"] + (["seed"] if is_each else [])
    known = {name for group in groups for name in group.scores}
    labels = {name: label for name, label in _labels().items() if name in known}
    head = [*([""] if is_long else []), *settings, *([] if is_each else ["runs"]), *labels.values()]
    rows = []
    for number, group in enumerate(groups, 1):
        cells = [*([str(number)] if is_long else []), *(format_setting(group.settings[key]) for key in settings)]
        if not is_each:
            n, n_counted = len(group.runs), len(group.counted)
            cells.append(str(n) if n == n_counted else f"{n_counted} of {n}")
        elif not group.completed:
            cells[-1] += f" ({group.runs[0].status})"
        cells += [_score_cell(group, name) for name in labels]
        rows.append(cells)
    return [head, *rows]


def _score_cell(group: Group, name: str) -> str:
    """Return the mean of a score; with the number of runs where not all have one, as a collapsed one has none."""
    summary = group.scores.get(name)
    if summary is None:
        return "-"
    is_of_fewer = name != "agreement" and summary.n < len(group.counted)
    return f"{summary} ({summary.n})" if is_of_fewer else str(summary)


def _unfinished_table(unfinished: Sequence[Run]) -> Table:
    """Return status and reason of unfinished runs, with the scores of their last evaluations."""
    shown = unfinished[:_MOST_UNFINISHED]
    known = {name for run in shown for name, value in run.scores.items() if value is not None}
    labels = {name: label for name, label in _labels().items() if name in known}
    rows = [["run", "status", *labels.values(), "why"]]
    for run in shown:
        values = [run.scores.get(name) for name in labels]
        cells = ["-" if value is None else str(Summary.of([value])) for value in values]
        rows.append([str(run.path), run.status, *cells, _reason(run)])
    if len(unfinished) > _MOST_UNFINISHED:
        rows.append([f"and {len(unfinished) - _MOST_UNFINISHED} more", *[""] * (len(rows[0]) - 1)])
    return rows


def _reason(run: Run) -> str:
    if run.status == "running" and not reading.is_in_use(run.path):
        return "no process is training it: killed, or on another machine"
    return run.reason or ""


def _matrix(agreement: Agreement) -> Table:
    import numpy as np

    numbers = [str(number) for number in range(1, len(agreement.runs) + 1)]
    rows = [["", "run", *numbers]]
    for number, run, row in zip(numbers, agreement.runs, agreement.ari, strict=True):
        rows.append([number, str(run.path), *("-" if np.isnan(value) else f"{value:.3f}" for value in row)])
    return rows


def text_table(table: Table) -> list[str]:
    """Return the lines of a table with aligned columns: text to the left, numbers to the right."""
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


def markdown_table(table: Table) -> list[str]:
    """Return the lines of a table in Markdown."""
    head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in table)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def draw_comparison(groups: list[Group], agreement: Agreement | None, path: Path) -> None:
    """Write the figure with the scores of every run and the agreement of all pairs."""
    from dkm.evaluation.figures.comparison import comparison
    from dkm.evaluation.figures.style import save_figure

    values = {_labels()[name]: [_values_of(group, name) for group in groups] for name in _drawn_scores(groups)}
    order = [] if agreement is None else _rows_by_group(groups, agreement)
    ari = None if agreement is None else agreement.ari[order][:, order]
    keys = telling_settings(groups)
    run_names = [] if agreement is None else [_run_name(groups, agreement.runs[i], keys) for i in order]
    save_figure(comparison([group.name(keys) for group in groups], values, ari, run_names), path)


def _drawn_scores(groups: Sequence[Group]) -> list[str]:
    """Return the keys of the panels: two scores against labels and those on the data, else all others; seconds."""
    known = {name for group in groups for name in group.scores}
    headline = [score for score in SCORES.values() if score.shown == "headline" and score.name in known]
    against_labels = [score for score in headline if score.needs_labels][:_MOST_LABEL_PANELS]
    others = [score for score in headline if not score.needs_labels and (score.space == "data" or not against_labels)]
    return [*(score.name for score in (*against_labels, *others)), *(["seconds"] if "seconds" in known else [])]


def _values_of(group: Group, name: str) -> list[float]:
    values = [run.seconds if name == "seconds" else run.scores.get(name) for run in group.counted]
    return [value for value in values if value is not None]


def _rows_by_group(groups: Sequence[Group], agreement: Agreement) -> list[int]:
    position = {run.path: i for i, run in enumerate(agreement.runs)}
    return [position[run.path] for group in groups for run in group.runs if run.path in position]


def _run_name(groups: Sequence[Group], run: Run, keys: Sequence[str]) -> str:
    group = next(group for group in groups if any(other.path == run.path for other in group.runs))
    return group.name(keys) if "seed" in keys else f"{group.name(keys)}, seed={run.seed}"
