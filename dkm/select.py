"""Choose the number of clusters without labels:

    python -m dkm.select k=2-12 data=csv data.path=customers.csv

Trains a run for each number and each seed, all with the same settings (any of ``dkm.train`` may be given; one
pretraining for each seed serves all numbers), and weighs what tells a natural number without labels: the modularity of
the clusters on the data, and how far clusterings agree, between seeds and between halves of the data. Writes the scores
(``select.csv``), the recommendation with its reason and its uncertainty (``select.json``) and a figure
(``select.png``). Where the evidence is weak, it says so.

    seeds=0,1,2     of the runs for each number
    output=DIR      where runs and answer go; a folder that is there is gone on with
    jobs=2          runs at a time; needs the extra: pip install 'dkm[sweep]'
"""

# Shapes: N rows of the data, D latent, K clusters.

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from dkm import runs
from dkm.commands import EXIT_INTERRUPTED, EXIT_USER_ERROR, SelectConfig, numbers, parse_own, quoted, words_of_runs
from dkm.commands import main as run_command
from dkm.compose import absolute, compose, parse
from dkm.config import Config, Failure, UserError, dotted

# The embedding has the same number of dimensions for all numbers of clusters, so that they share a pretraining.
_DEFAULTS = {"model.latent_dim": "10"}
_OURS = ("clustering.n_clusters", "seed", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "resume")
# Scores of the files.
_SCORES = (
    *("modularity_data", "silhouette", "davies_bouldin", "calinski_harabasz", "n_effective_clusters"),
    *("reconstruction", "agreement_seeds", "agreement_halves"),
)
_SHOWN = ("modularity_data", "agreement_seeds", "agreement_halves", "silhouette", "davies_bouldin")
# Restarts of k-means on each half, and rows of a half.
_N_INIT, _HALF_ROWS = 10, 5000
_POLL_S = 0.5
# Seconds that an interrupted sweep has to write its checkpoints.
_PATIENCE_S = 60.0
# Settings in which the runs of a folder may differ.
_MAY_DIFFER = ("clustering.n_clusters", "seed", "device", "threads")
# The rule and its doubts; see `recommend`.
_SLACK = 0.01
_FEW_SEEDS, _MANY_PLAUSIBLE = 3, 3
_LOW_AGREEMENT, _LOW_MODULARITY = 0.8, 0.3

Scores = dict[str, list[float]]


class Recommendation(NamedTuple):
    """A number of clusters, with what speaks for it."""

    n_clusters: int
    # Numbers that the evidence does not tell apart from it, itself among them.
    plausible: list[int]
    reason: str
    # Why the evidence is weak; empty where it is not.
    warnings: list[str]


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
    _require_same(folder, ks, seeds, wanted)
    from dkm.trainer import require_trainable  # late: a wrong word answers without torch

    sha256 = require_trainable(wanted)
    _require_data(folder, ks, seeds, sha256)
    print(f"{len(ks) * len(seeds)} runs in {folder}", flush=True)

    def train_missing(some: Sequence[int]) -> None:
        missing = [k for k in some if not all(_completed(directory_of(folder, k, seed)) for seed in seeds)]
        if missing:
            _train(words, folder, missing, seeds, config.jobs)
            _require_data(folder, missing, seeds, sha256)  # which may have changed meanwhile

    # The first number fills the cache of pretrainings, one for each seed, for the others to take.
    train_missing(ks[:1])
    lost = [_why_lost(directory_of(folder, ks[0], seed), folder) for seed in seeds]
    if all(lost):  # a pretraining that diverges, say
        raise Failure(f"{folder}: every run with k={ks[0]} is lost; {lost[0]}")
    train_missing(ks[1:])
    scores = collect(folder, _whole(folder, ks, seeds), seeds)
    found = recommend(scores)
    _write(folder, scores, found)
    print("\n".join(_lines(scores, found)))
    print(f"written: {folder}/select.csv, select.json, select.png")
    return found


# --- the runs ---------------------------------------------------------------------------------------------------------


def _require_same(folder: Path, ks: Sequence[int], seeds: Sequence[int], wanted: Config) -> None:
    """Refuse a folder with runs of other settings; these are the same but for the number and the seed."""
    settings = _comparable(runs.moving_numbers(dotted(wanted)))
    for run in _completed_of(folder, ks, seeds):
        for key, its in _comparable(run.settings).items():
            if settings.get(key) != its:
                what = f"expected {its} as in {run.path}, which is gone on with"
                raise UserError(f"{key}={settings.get(key)}: {what}; choose another output=")


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _MAY_DIFFER}


def _require_data(folder: Path, ks: Sequence[int], seeds: Sequence[int], sha256: str) -> None:
    """Refuse a folder with runs of other data: a file may have changed between two calls."""
    for run in _completed_of(folder, ks, seeds):
        if run.data.get("sha256") != sha256:
            what = f"{run.path} is of other data than there are now; expected the same for all runs"
            raise UserError(f"output={folder}: {what}; choose another output=")


def _whole(folder: Path, ks: Sequence[int], seeds: Sequence[int]) -> list[int]:
    """Return the numbers that have all of their runs, and name the others.

    Raises
    ------
    Failure
        If there is no such number, or a run is missing that has not failed: the sweep was killed.
    """
    whole, warnings = [], []
    for k in ks:
        lost = [why for seed in seeds if (why := _why_lost(directory_of(folder, k, seed), folder))]
        if lost:
            warnings.append(f"k={k} is left out: {'; '.join(lost)}")
        else:
            whole.append(k)
    if not whole:
        raise Failure(f"{folder}: no number has all of its runs; {warnings[0]}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return whole


def _why_lost(directory: Path, folder: Path) -> str | None:
    """Return why a run cannot be weighed; None if it can.

    Raises
    ------
    Failure
        If it is neither whole nor failed.
    """
    try:
        run = runs.read(directory) if runs.is_run(directory) else None
    except runs.DamagedRun as error:
        return str(error)
    if run is not None and run.is_completed:
        return None
    if run is None or run.status != "failed":
        raise Failure(f"{directory}: did not end, see above; {_goes_on(folder)}")
    return f"{directory} failed: {run.reason}"


def _goes_on(folder: Path) -> str:
    return f"the same command with output={folder} goes on"


def _train(words: Sequence[str], folder: Path, ks: Sequence[int], seeds: Sequence[int], n_jobs: int) -> None:
    """Train the runs that are missing; some of them may fail."""
    command = [sys.executable, "-m", "dkm.train", "--multirun", *words]
    command += [f"clustering.n_clusters={','.join(map(str, ks))}", f"seed={','.join(map(str, seeds))}", "resume=auto"]
    command += [f"hydra.sweep.dir={quoted(folder)}", "hydra.sweep.subdir=k${clustering.n_clusters}/seed${seed}"]
    command.append("hydra/hydra_logging=disabled")
    if n_jobs > 1:
        command += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={n_jobs}"]
    waiting = [(k, seed) for k in ks for seed in seeds]
    # In a session of its own: Ctrl-C comes to this process alone, which passes it on.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while process.poll() is None:
            time.sleep(_POLL_S)
            waiting = _told(folder, waiting)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_goes_on(folder)) from error
    finally:
        _stop(process)
    _told(folder, waiting)
    code = process.returncode
    if code == EXIT_USER_ERROR:
        raise SystemExit(EXIT_USER_ERROR)  # it has said why
    if code in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt(_goes_on(folder))
    if code < 0:
        raise Failure(f"{folder}: the sweep was killed ({signal.Signals(-code).name}); {_goes_on(folder)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a sweep that is under way, and the processes that it started; its runs write their checkpoints."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _told(folder: Path, waiting: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Print those of the runs that have completed; return the others."""
    left = []
    for k, seed in waiting:
        run = _completed(directory_of(folder, k, seed))
        if run is not None:
            score = run.scores.get("modularity_data")
            shown = "-" if score is None else f"{score:.4f}"
            print(f"k={k}, seed={seed}: modularity on the data {shown}, {run.seconds or 0:.0f} s", flush=True)
        else:
            left.append((k, seed))
    return left


def directory_of(folder: Path, k: int, seed: int) -> Path:
    """Return where the run is."""
    return folder / f"k{k}" / f"seed{seed}"


def _completed(directory: Path) -> runs.Run | None:
    """Return the run that has completed there."""
    try:
        run = runs.read(directory) if runs.is_run(directory) else None
    except runs.DamagedRun:
        return None
    return run if run is not None and run.is_completed else None


def _completed_of(folder: Path, ks: Sequence[int], seeds: Sequence[int]) -> list[runs.Run]:
    """Return those of the runs that have completed."""
    found = (_completed(directory_of(folder, k, seed)) for k in ks for seed in seeds)
    return [run for run in found if run is not None]


# --- the scores -------------------------------------------------------------------------------------------------------


def collect(folder: Path, ks: Sequence[int], seeds: Sequence[int]) -> dict[int, Scores]:
    """Return for each number the scores of its runs, and of each two of them or each two halves the agreement."""
    from dkm.compare import agreement_of, agreements_in

    found: dict[int, Scores] = {}
    halves = _agreement_of_halves(folder, ks, seeds)
    for k in ks:
        own = [runs.read(directory_of(folder, k, seed)) for seed in seeds]
        scores: Scores = {name: [] for name in _SCORES}
        for run in own:
            for name in _SCORES:
                value = run.scores.get(name)
                if value is not None:
                    scores[name].append(value)
        agreement = agreement_of(own)
        if agreement is not None:
            scores["agreement_seeds"] = agreements_in(agreement, own)
        scores["agreement_halves"] = halves[k]
        found[k] = scores
    return found


def _agreement_of_halves(folder: Path, ks: Sequence[int], seeds: Sequence[int]) -> dict[int, list[float]]:
    """Return for each number and seed how far k-means on one half of the pretrained embedding agrees with the other's.

    Each half has centroids of its own, which assign all rows. The embedding is the pretrained one, the same for every
    number: the joint phase makes any clusters compact, and so any number stable.
    """
    import torch

    from dkm.data import load_dataset
    from dkm.devices import set_threads
    from dkm.kmeans import assign, kmeans
    from dkm.metrics import adjusted_rand_index
    from dkm.trainer import Trainer

    found: dict[int, list[float]] = {k: [] for k in ks}
    data: Any = None
    for seed in seeds:
        config = _config_of(directory_of(folder, ks[0], seed))
        set_threads(config.threads)
        data = data or load_dataset(config.data)
        try:
            z = Trainer(config, data).pretrained_embedding()
        except Failure as error:  # the runs are there, but their cache is not, or is of another version or machine
            print(f"warning: seed {seed}: no agreement between halves ({error})", file=sys.stderr)
            continue
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).to(z.device)
        size = min(len(z) // 2, _HALF_ROWS)
        halves = z[order[:size]], z[order[size : 2 * size]]
        seen = torch.cat(halves)
        for k in ks:
            if k <= size:
                labels = [assign(seen, kmeans(half, k, n_init=_N_INIT, seed=seed).centroids).labels for half in halves]
                found[k].append(adjusted_rand_index(labels[0].cpu().numpy(), labels[1].cpu().numpy()))
    return found


def _config_of(run: Path) -> Config:
    return compose(parse(["--config-dir", str(run), "--config-name", "config"])).config


# --- the choice -------------------------------------------------------------------------------------------------------


def recommend(scores: Mapping[int, Scores]) -> Recommendation:
    """Return the number of clusters that the scores speak for.

    Numbers whose mean modularity on the data lies within 0.01 of the highest, or within the standard deviation of the
    difference over seeds, are plausible; of these the one is taken whose clusterings agree best, the mean over seeds
    and over halves of the data. Modularity alone would split round clusters, at little cost, in ways on which no two
    runs agree; agreement alone would take two clusters of almost any data.
    """
    modularity = {k: own["modularity_data"] for k, own in scores.items()}
    known = {k: statistics.fmean(values) for k, values in modularity.items() if values}
    if not known:
        raise Failure("modularity on the data: undefined for every run; expected finite data with two rows or more")
    best = max(known, key=known.__getitem__)
    plausible = [k for k in known if _gap(modularity[best], modularity[k]) <= 0]
    agreement = {k: _agreement(scores[k]) for k in plausible}
    chosen = max(plausible, key=agreement.__getitem__)
    reason = f"modularity on the data {known[chosen]:.3f}, the highest"
    if chosen != best:
        reason = f"modularity on the data {known[chosen]:.3f} of at most {known[best]:.3f}"
    if len(plausible) > 1:
        reason += f"; of {len(plausible)} numbers that it does not tell apart the one with the best agreement"
    reason += f", {agreement[chosen]:.2f}"
    return Recommendation(chosen, plausible, reason, _doubts(scores, known, plausible, chosen))


def _gap(best: Sequence[float], other: Sequence[float]) -> float:
    """Return by how much more than noise the modularity of one number exceeds that of another."""
    differences = [mine - its for mine, its in zip(best, other, strict=False)]
    noise = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return statistics.fmean(differences) - max(_SLACK, noise)


def _agreement(own: Scores) -> float:
    parts = [statistics.fmean(own[name]) for name in ("agreement_seeds", "agreement_halves") if own[name]]
    return statistics.fmean(parts) if parts else 0.0


def _doubts(
    scores: Mapping[int, Scores], known: Mapping[int, float], plausible: Sequence[int], chosen: int
) -> list[str]:
    """Return why the evidence is weak."""
    doubts = []
    if len(scores[chosen]["modularity_data"]) < _FEW_SEEDS:
        doubts.append(f"fewer than {_FEW_SEEDS} seeds: how much chance there is in the scores is hardly known")
    if len(plausible) > _MANY_PLAUSIBLE:
        doubts.append(f"{len(plausible)} numbers are as plausible: the data may have no natural one")
    if _agreement(scores[chosen]) < _LOW_AGREEMENT:
        doubts.append(f"clusterings with {chosen} clusters agree only to {_agreement(scores[chosen]):.2f}")
    if known[chosen] < _LOW_MODULARITY:
        doubts.append(f"a modularity of {known[chosen]:.2f} says that the data hardly fall into clusters")
    if len(scores) > 1 and chosen in (min(scores), max(scores)):
        doubts.append(f"{chosen} is at the end of the range: try more numbers")
    return doubts


# --- what is printed and written --------------------------------------------------------------------------------------


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _lines(scores: Mapping[int, Scores], found: Recommendation) -> list[str]:
    lines = ["", f"{'k':>4}" + "".join(f"{name:>20}" for name in _SHOWN)]
    for k, own in scores.items():
        cells = [
            "-" if mean != mean else f"{mean:.4f} ± {sd:.4f}" for mean, sd in (_mean_and_sd(own[n]) for n in _SHOWN)
        ]
        mark = " <-" if k == found.n_clusters else ""
        lines.append(f"{k:>4}" + "".join(f"{cell:>20}" for cell in cells) + mark)
    others = [str(k) for k in found.plausible if k != found.n_clusters]
    also = f"; not told apart from it: {', '.join(others)}" if others else ""
    lines += ["", f"recommended: clustering.n_clusters={found.n_clusters} ({found.reason}){also}"]
    return lines + [f"warning: {warning}" for warning in found.warnings]


def _write(folder: Path, scores: Mapping[int, Scores], found: Recommendation) -> None:
    from dkm.checkpoint import write_atomically
    from dkm.compare import csv_text
    from dkm.figures import save_figure, selection

    rows: list[list[object]] = [["k", *(column for name in _SCORES for column in (name, f"{name}_sd"))]]
    for k, own in scores.items():
        rows.append([k, *(f"{value:.9g}" for name in _SCORES for value in _mean_and_sd(own[name]))])
    try:
        write_atomically(folder / "select.csv", csv_text(rows).encode())
        content = {**found._asdict(), "scores": {str(k): own for k, own in scores.items()}}
        write_atomically(folder / "select.json", (json.dumps(content, indent=2) + "\n").encode())
        panels = {name: [own[name] for own in scores.values()] for name in _SHOWN}
        save_figure(selection(list(scores), panels, found.n_clusters, found.plausible), folder / "select.png")
    except OSError as error:
        raise UserError(f"output={folder}: {error.strerror}; expected a place to write; choose another") from error


if __name__ == "__main__":
    main()
