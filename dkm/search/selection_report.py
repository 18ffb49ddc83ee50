"""The answer of ``dkm.select``: the table that it prints, and its files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from dkm.errors import UserError
from dkm.search.selection import Recommendation, Scores

# The scores in the files, and those of them in the table and the figure.
SCORES = (
    *("modularity_data", "silhouette", "davies_bouldin", "calinski_harabasz", "n_effective_clusters"),
    *("reconstruction", "agreement_seeds", "agreement_halves"),
)
_IN_TABLE = ("modularity_data", "agreement_seeds", "agreement_halves", "silhouette", "davies_bouldin")


def table_lines(scores: Mapping[int, Scores], answer: Recommendation) -> list[str]:
    """Return the lines that are printed: scores of each number, the recommendation, and what makes it doubtful."""
    lines = ["", f"{'k':>4}" + "".join(f"{name:>20}" for name in _IN_TABLE)]
    for k, scores_of_k in scores.items():
        mark = " <-" if k == answer.n_clusters else ""
        lines.append(f"{k:>4}" + "".join(f"{_cell(scores_of_k[name]):>20}" for name in _IN_TABLE) + mark)
    others = [str(k) for k in answer.plausible if k != answer.n_clusters]
    also = f"; as plausible: {', '.join(others)}" if others else ""
    lines += ["", f"recommended: clustering.n_clusters={answer.n_clusters} ({answer.reason}){also}"]
    return lines + [f"warning: {warning}" for warning in answer.warnings]


def write_recommendation(folder: Path, scores: Mapping[int, Scores], answer: Recommendation) -> None:
    """Write ``select.csv``, ``select.json`` and ``select.png``."""
    from dkm.evaluation.figures.comparison import selection
    from dkm.evaluation.figures.style import save_figure
    from dkm.runs.comparison import csv_text
    from dkm.runtime.atomic import write_atomically

    rows: list[list[object]] = [["k", *(column for name in SCORES for column in (name, f"{name}_sd"))]]
    for k, scores_of_k in scores.items():
        statistics_of_k = [value for name in SCORES for value in _mean_and_sd(scores_of_k[name])]
        rows.append([k, *("" if value is None else f"{value:.9g}" for value in statistics_of_k)])
    lists = {k: {name: list(values.values()) for name, values in of_k.items()} for k, of_k in scores.items()}
    panels = {name: [of_k[name] for of_k in lists.values()] for name in (*_IN_TABLE, "reconstruction")}
    content = {**answer._asdict(), "scores": {str(k): of_k for k, of_k in lists.items()}}
    try:
        write_atomically(folder / "select.csv", csv_text(rows).encode())
        write_atomically(folder / "select.json", (json.dumps(content, indent=2) + "\n").encode())
        save_figure(selection(list(scores), panels, answer.n_clusters, answer.plausible), folder / "select.png")
    except OSError as error:
        raise UserError(f"output={folder}: {error.strerror}; expected a place to write; choose another") from error


def _cell(scores: Mapping[tuple[int, ...], float]) -> str:
    mean, sd = _mean_and_sd(scores)
    return "-" if mean is None else f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"


def _mean_and_sd(scores: Mapping[tuple[int, ...], float]) -> tuple[float | None, float | None]:
    """Return both, None where there are too few values for it."""
    values = scores.values()
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
