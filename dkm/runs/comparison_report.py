"""Tables and the figure of a comparison of runs."""

# Shapes: N rows of the data, R runs.

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dkm.evaluation.scores import SCORES
from dkm.evaluation.summary import Summary
from dkm.runs import reading
from dkm.runs.reading import Run

if TYPE_CHECKING:
    pass
from dkm.runs.comparison import Agreement, Group, format_setting, telling_settings

# More than this, and the matrix of agreements, or a column of settings for each row, is no reading matter.
_MOST_IN_MATRIX = 12


# More settings than this stand in a table of their own.
_MOST_SETTINGS = 5


_MOST_UNFINISHED = 20

# Panels of the figure with scores against labels, which tell much the same.
_MOST_LABEL_PANELS = 2


Table = list[list[str]]


class Report(NamedTuple):
    """Tables with what stands above them."""

    parts: list[tuple[str, Table]]

    def lines(self, as_lines: Callable[[Table], list[str]]) -> list[str]:
        lines: list[str] = []
        for title, table in self.parts:
            lines += [*([""] if lines else []), title, "", *as_lines(table)]
        return lines


def build_report(groups: Sequence[Group], agreement: Agreement | None) -> Report:
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


def _labels() -> dict[str, str]:
    """Return the labels of the columns of numbers by their keys; the CSV file has all numbers of the runs."""
    scores = {score.name: score.label for score in SCORES.values() if score.shown == "headline"}
    return scores | {"seconds": "seconds", "agreement": "agreement"}


def _settings_table(groups: Sequence[Group]) -> Table:
    """Return what differs, one row for each setting and one column for each row of the table of scores."""
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
        cells += [str(group.scores[name]) if name in group.scores else "-" for name in labels]
        rows.append(cells)
    return [head, *rows]


def _unfinished_table(unfinished: Sequence[Run]) -> Table:
    """Return what became of the runs, with the scores of their last evaluations."""
    shown = unfinished[:_MOST_UNFINISHED]
    known = {name for run in shown for name, value in run.scores.items() if value is not None}
    labels = {name: label for name, label in _labels().items() if name in known}
    rows = [["run", "status", *labels.values(), "why"]]
    for run in shown:
        values = [run.scores.get(name) for name in labels]
        cells = ["-" if value is None else str(Summary.of([value])) for value in values]
        rows.append([str(run.path), run.status, *cells, _why(run)])
    if len(unfinished) > _MOST_UNFINISHED:
        rows.append([f"and {len(unfinished) - _MOST_UNFINISHED} more", *[""] * (len(rows[0]) - 1)])
    return rows


def _why(run: Run) -> str:
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


def markdown_table(table: Table) -> list[str]:
    head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in table)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def draw_comparison(groups: list[Group], agreement: Agreement | None, path: Path) -> None:
    from dkm.evaluation.figures.comparison import comparison
    from dkm.evaluation.figures.style import save_figure

    values = {_labels()[name]: [_of_runs(group, name) for group in groups] for name in _drawn_scores(groups)}
    order = [] if agreement is None else _rows_by_group(groups, agreement)
    ari = None if agreement is None else agreement.ari[order][:, order]
    keys = telling_settings(groups)
    run_names = [] if agreement is None else [_run_name(groups, agreement.runs[i], keys) for i in order]
    save_figure(comparison([group.name(keys) for group in groups], values, ari, run_names), path)


def _drawn_scores(groups: Sequence[Group]) -> list[str]:
    """Return what has a panel: two scores against labels and those on the data, or all without labels; the seconds."""
    known = {name for group in groups for name in group.scores}
    headline = [score for score in SCORES.values() if score.shown == "headline" and score.name in known]
    against_labels = [score for score in headline if score.needs_labels][:_MOST_LABEL_PANELS]
    others = [score for score in headline if not score.needs_labels and (score.space == "data" or not against_labels)]
    return [*(score.name for score in (*against_labels, *others)), *(["seconds"] if "seconds" in known else [])]


def _of_runs(group: Group, name: str) -> list[float]:
    values = [run.seconds if name == "seconds" else run.scores.get(name) for run in group.counted]
    return [value for value in values if value is not None]


def _rows_by_group(groups: Sequence[Group], agreement: Agreement) -> list[int]:
    position = {run.path: i for i, run in enumerate(agreement.runs)}
    return [position[run.path] for group in groups for run in group.runs if run.path in position]


def _run_name(groups: Sequence[Group], run: Run, keys: Sequence[str]) -> str:
    group = next(group for group in groups if run in group.runs)
    return group.name(keys) if "seed" in keys else f"{group.name(keys)}, seed={run.seed}"
