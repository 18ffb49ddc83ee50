"""Choose the number of clusters without labels:

    python -m dkm.select k=2-12 data=csv data.path=customers.csv

Trains a run for each number and each seed, all with the same settings (any of ``dkm.train`` may be given; one
pretraining for each seed serves all numbers), and weighs what tells a natural number without labels: the modularity of
the clusters on the data, and how far clusterings agree, between seeds and between halves of the data. Writes the scores
(``select.csv``), the recommendation with its reason and its uncertainty (``select.json``) and a figure
(``select.png``). Where the evidence is weak, it says so.

    seeds=0,1,2     of the runs for each number
    output=DIR      where runs and answer go; a folder that is there is gone on with
    jobs=2          runs at a time
"""

# Shapes: N rows of the data, D latent, K clusters.

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from dkm.config.commands import (
    SelectConfig,
    numbers,
    parse_own,
    words_of_runs,
)
from dkm.config.commands import main as run_command
from dkm.config.compose import absolute, compose, parse
from dkm.errors import UserError
from dkm.search.selection import Recommendation, Scores, recommend
from dkm.search.selection_runs import (
    SCORES,
    Search,
    collect_scores,
    complete_numbers,
    drop_lost_seeds,
    lock_folder,
    require_same_data,
    require_same_settings,
    train_missing,
)

# The embedding has the same number of dimensions for all numbers of clusters, so that they share a pretraining.
_DEFAULTS = {"model.latent_dim": "10"}
_OURS = ("clustering.n_clusters", "seed", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "resume")
_SHOWN = ("modularity_data", "agreement_seeds", "agreement_halves", "silhouette", "davies_bouldin")


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, __doc__)


def work(words: Sequence[str]) -> None:
    """Choose as the words say."""
    select(*parse_own(SelectConfig, words))


def select(config: SelectConfig, overrides: Sequence[str]) -> Recommendation:
    """Train what is missing, weigh it, write and print the answer.

    Raises
    ------
    UserError
        If a word is wrong, the data do not have that many rows, or the folder cannot be written to or is of other data.
    Failure
        If no number has all of its runs; what is finished is gone on with by the same command.
    """
    ks, seeds = numbers("k", config.k, "", least=2), numbers("seeds", config.seeds, "", least=0)
    folder = Path(absolute(config.output or f"runs/select/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    instead = "dkm.select sets it; use k=, seeds= or output="
    words = words_of_runs(overrides, _OURS, instead, folder, config.jobs, _DEFAULTS)
    # A wrong one is refused before anything is written.
    wanted = compose(parse([*words, f"clustering.n_clusters={ks[-1]}"])).config
    if wanted.model.latent_dim is None:
        what = "a number, as one pretraining serves all numbers of clusters"
        raise UserError(f"model.latent_dim=null: expected {what}; for example model.latent_dim=10")
    require_same_settings(folder, ks, seeds, wanted)
    from dkm.training.trainer import require_trainable  # late: a wrong word answers without torch

    sha256 = require_trainable(wanted)
    require_same_data(folder, ks, seeds, sha256)
    with lock_folder(folder) as lock:
        print(f"{len(ks) * len(seeds)} runs in {folder}", flush=True)
        return _searched(Search(folder, words, ks, seeds, config.jobs, sha256, lock))


def _searched(search: Search) -> Recommendation:
    """Train what is missing, weigh it, write and print the answer."""
    # The first number fills the cache of pretrainings, one for each seed, for the others to take.
    train_missing(search, search.ks[:1])
    search, without = drop_lost_seeds(search)
    train_missing(search, search.ks[1:])
    ks, left_out = complete_numbers(search)
    scores = collect_scores(search.folder, ks, search.seeds)
    found = recommend(scores)
    found = found._replace(warnings=[*without, *left_out, *found.warnings])
    _write(search.folder, scores, found)
    print("\n".join(_lines(scores, found)))
    print(f"written: {search.folder}/select.csv, select.json, select.png")
    return found


# --- the runs ---------------------------------------------------------------------------------------------------------


# --- the scores -------------------------------------------------------------------------------------------------------


# --- the choice -------------------------------------------------------------------------------------------------------


# --- what is printed and written --------------------------------------------------------------------------------------


def _mean_and_sd(scores: Mapping[tuple[int, ...], float]) -> tuple[float | None, float | None]:
    """Return both, None where there are too few values for it."""
    values = scores.values()
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


def _shown(scores: Mapping[tuple[int, ...], float]) -> str:
    mean, sd = _mean_and_sd(scores)
    return "-" if mean is None else f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"


def _lines(scores: Mapping[int, Scores], found: Recommendation) -> list[str]:
    lines = ["", f"{'k':>4}" + "".join(f"{name:>20}" for name in _SHOWN)]
    for k, own in scores.items():
        mark = " <-" if k == found.n_clusters else ""
        lines.append(f"{k:>4}" + "".join(f"{_shown(own[name]):>20}" for name in _SHOWN) + mark)
    others = [str(k) for k in found.plausible if k != found.n_clusters]
    also = f"; not told apart from it: {', '.join(others)}" if others else ""
    lines += ["", f"recommended: clustering.n_clusters={found.n_clusters} ({found.reason}){also}"]
    return lines + [f"warning: {warning}" for warning in found.warnings]


def _write(folder: Path, scores: Mapping[int, Scores], found: Recommendation) -> None:
    from dkm.evaluation.figures.comparison import selection
    from dkm.evaluation.figures.style import save_figure
    from dkm.runs.comparison import csv_text
    from dkm.runtime.atomic import write_atomically

    rows: list[list[object]] = [["k", *(column for name in SCORES for column in (name, f"{name}_sd"))]]
    for k, own in scores.items():
        values = [value for name in SCORES for value in _mean_and_sd(own[name])]
        rows.append([k, *("" if value is None else f"{value:.9g}" for value in values)])
    try:
        write_atomically(folder / "select.csv", csv_text(rows).encode())
        lists = {str(k): {name: list(own[name].values()) for name in own} for k, own in scores.items()}
        content = {**found._asdict(), "scores": lists}
        write_atomically(folder / "select.json", (json.dumps(content, indent=2) + "\n").encode())
        panels = {name: [list(own[name].values()) for own in scores.values()] for name in (*_SHOWN, "reconstruction")}
        save_figure(selection(list(scores), panels, found.n_clusters, found.plausible), folder / "select.png")
    except OSError as error:
        raise UserError(f"output={folder}: {error.strerror}; expected a place to write; choose another") from error


if __name__ == "__main__":
    main()
