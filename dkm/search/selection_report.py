"""The answer of ``dkm.select``: the table that it prints, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dkm.clustering.selection import Recommendation, Scores
from dkm.errors import UserError
from dkm.evaluation.scores import SCORES as RUN_SCORES
from dkm.evaluation.summary import Summary

# Spaces of the scores that tell numbers of clusters apart: neither the labels nor the inertia, which always falls.
_SPACES = ("embedding", "data", "sizes")
# The scores in the files: those of each run, then those of several runs. The table and the figure have some of them.
SCORES_OF_RUNS = (*(s.name for s in RUN_SCORES.values() if s.on_the_way and s.space in _SPACES), "reconstruction")
SCORES = (*SCORES_OF_RUNS, "agreement_seeds", "agreement_halves")
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
        summaries = [Summary.of(list(scores_of_k[name].values())) if scores_of_k[name] else None for name in SCORES]
        statistics_of_k = [value for one in summaries for value in ((one.mean, one.sd) if one else (None, None))]
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
    return Summary.of(list(scores.values())).format(4) if scores else "-"
