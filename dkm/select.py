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
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

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
# Kinds of agreement, and what it is between.
_AGREEMENTS = {"agreement_seeds": "seeds", "agreement_halves": "halves of the data"}
_SHOWN = ("modularity_data", "agreement_seeds", "agreement_halves", "silhouette", "davies_bouldin")
# Restarts of k-means on each half, and rows of a half.
_N_INIT, _HALF_ROWS = 10, 5000
_POLL_S = 0.5
# Seconds that an interrupted sweep has to write its checkpoints.
_PATIENCE_S = 60.0
# Settings in which the runs of a folder may differ.
_MAY_DIFFER = ("clustering.n_clusters", "seed", "device", "threads")
# Held while a search is under way, by its sweep too, which may outlive it.
_LOCK = "select.lock"
# The rule and its doubts; see `recommend`.
_SLACK = 0.01
_FEW_SEEDS, _MANY_PLAUSIBLE = 3, 3
_LOW_AGREEMENT, _LOW_MODULARITY = 0.8, 0.3

Scores = dict[str, list[float]]


class Search(NamedTuple):
    """What is searched, and where."""

    folder: Path
    # Overrides of every run.
    words: Sequence[str]
    ks: Sequence[int]
    seeds: Sequence[int]
    n_jobs: int
    # Of the data.
    sha256: str
    lock: IO[bytes]


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
    if wanted.model.latent_dim is None:
        what = "a number, as one pretraining serves all numbers of clusters"
        raise UserError(f"model.latent_dim=null: expected {what}; for example model.latent_dim=10")
    _require_same(folder, ks, seeds, wanted)
    from dkm.trainer import require_trainable  # late: a wrong word answers without torch

    sha256 = require_trainable(wanted)
    _require_data(folder, ks, seeds, sha256)
    with _locked(folder) as lock:
        print(f"{len(ks) * len(seeds)} runs in {folder}", flush=True)
        return _searched(Search(folder, words, ks, seeds, config.jobs, sha256, lock))


@contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    """Make the folder and keep others out of it while the block runs; one that was made for nothing is removed."""
    with runs.claimed_folder(folder, _LOCK, "a folder in which no other process trains") as lock:
        try:
            yield lock
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_goes_on(folder)) from error
        finally:
            if [path.name for path in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()
                folder.rmdir()


def _searched(search: Search) -> Recommendation:
    """Train what is missing, weigh it, write and print the answer."""
    # The first number fills the cache of pretrainings, one for each seed, for the others to take.
    _train_missing(search, search.ks[:1])
    search, without = _without_lost_seeds(search)
    _train_missing(search, search.ks[1:])
    ks, left_out = _whole(search)
    scores = collect(search.folder, ks, search.seeds)
    found = recommend(scores)
    found = found._replace(warnings=[*without, *left_out, *found.warnings])
    _write(search.folder, scores, found)
    print("\n".join(_lines(scores, found)))
    print(f"written: {search.folder}/select.csv, select.json, select.png")
    return found


# --- the runs ---------------------------------------------------------------------------------------------------------


def _train_missing(search: Search, ks: Sequence[int]) -> None:
    folder, seeds = search.folder, search.seeds
    missing = [k for k in ks if not all(_completed(directory_of(folder, k, seed)) for seed in seeds)]
    if missing:
        _train(search, missing)
        _require_data(folder, missing, seeds, search.sha256)  # which may have changed meanwhile


def _without_lost_seeds(search: Search) -> tuple[Search, list[str]]:
    """Leave out the seeds whose pretraining failed, which would cost every number a run, and say so."""
    first, left, warnings = search.ks[0], [], []
    for seed in search.seeds:
        directory = directory_of(search.folder, first, seed)
        why = _why_lost(directory, search.folder)
        if why is not None and not _is_pretrained(directory):
            warnings.append(f"seed {seed} is left out: {why}")
        else:
            left.append(seed)
    if not left:
        raise Failure(f"{search.folder}: no seed could be pretrained; {warnings[0]}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return search._replace(seeds=left), warnings


def _is_pretrained(directory: Path) -> bool:
    """Return whether a run came to the end of its pretraining, or took one over."""
    try:
        n_epochs = runs.read(directory).settings.get("pretrain.epochs")
        records, manifest = runs.records(directory / runs.METRICS), runs.manifest_of(directory)
    except runs.DamagedRun:
        return True
    ends = [record for record in records if record.get("phase") == "joint" or record.get("epoch") == n_epochs]
    return bool(ends) or manifest.get("pretrained_by") is not None


def _require_same(folder: Path, ks: Sequence[int], seeds: Sequence[int], wanted: Config) -> None:
    """Refuse a folder with runs of other settings; these are the same but for the number and the seed."""
    settings = _comparable(runs.moving_numbers(dotted(wanted)))
    for run in _runs_of(folder, ks, seeds):
        for key, its in _comparable(run.settings).items():
            if settings.get(key) != its:
                what = f"expected {its} as in {run.path}, which is gone on with"
                raise UserError(f"{key}={settings.get(key)}: {what}; choose another output=")


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _MAY_DIFFER}


def _require_data(folder: Path, ks: Sequence[int], seeds: Sequence[int], sha256: str) -> None:
    """Refuse a folder with runs of other data: a file may have changed between two calls."""
    for run in _runs_of(folder, ks, seeds):
        if run.data.get("sha256", sha256) != sha256:
            what = f"{run.path} is of other data than there are now; expected the same for all runs"
            raise UserError(f"output={folder}: {what}; choose another output=")


def _whole(search: Search) -> tuple[list[int], list[str]]:
    """Return the numbers that have all of their runs, and why the others are left out.

    Raises
    ------
    Failure
        If there is no such number, or a run is missing that has not failed: the sweep was killed.
    """
    folder, whole, warnings = search.folder, [], []
    for k in search.ks:
        lost = [why for seed in search.seeds if (why := _why_lost(directory_of(folder, k, seed), folder))]
        if lost:
            warnings.append(f"k={k} is left out: {'; '.join(lost)}")
        else:
            whole.append(k)
    if not whole:
        raise Failure(f"{folder}: no number has all of its runs; {warnings[0]}")
    return whole, warnings


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


def _train(search: Search, ks: Sequence[int]) -> None:
    """Train the runs that are missing; some of them may fail."""
    folder, seeds = search.folder, search.seeds
    command = [sys.executable, "-m", "dkm.train", "--multirun", *search.words]
    command += [f"clustering.n_clusters={','.join(map(str, ks))}", f"seed={','.join(map(str, seeds))}", "resume=auto"]
    command += [f"hydra.sweep.dir={quoted(folder)}", "hydra.sweep.subdir=k${clustering.n_clusters}/seed${seed}"]
    command.append("hydra/hydra_logging=disabled")
    if search.n_jobs > 1:
        command += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={search.n_jobs}"]
    waiting = [(k, seed) for k in ks for seed in seeds]
    # In a session of its own: Ctrl-C comes to this process alone, which passes it on.
    shared = [search.lock.fileno()] if os.name == "posix" else []
    process = subprocess.Popen(command, start_new_session=True, pass_fds=shared)
    try:
        while process.poll() is None:
            time.sleep(_POLL_S)
            waiting = _told(folder, waiting)
    finally:
        _stop(process)
    _told(folder, waiting)
    code = process.returncode
    if code == EXIT_USER_ERROR:
        raise SystemExit(EXIT_USER_ERROR)  # it has said why
    if code in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt
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
    """Print those of the runs that have completed, and drop their checkpoints; return the others.

    With the default network the checkpoints of a hundred runs take 4 GB.
    """
    left = []
    for k, seed in waiting:
        run = _completed(directory_of(folder, k, seed))
        if run is not None:
            shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
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


def _runs_of(folder: Path, ks: Sequence[int], seeds: Sequence[int]) -> Iterator[runs.Run]:
    """Yield those of the runs that are there and can be read."""
    for directory in (directory_of(folder, k, seed) for k in ks for seed in seeds):
        with suppress(runs.DamagedRun):
            if runs.is_run(directory):
                yield runs.read(directory)


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
    agreement = _agreements(scores, plausible)
    chosen = max(plausible, key=lambda k: (agreement.get(k, 0.0), known[k]))
    reason = f"modularity on the data {known[chosen]:.3f}, the highest"
    if chosen != best:
        reason = f"modularity on the data {known[chosen]:.3f} of at most {known[best]:.3f}"
    if agreement and len(plausible) > 1:
        reason += f"; of {len(plausible)} numbers that it does not tell apart the one with the best agreement"
    if agreement:
        reason += f", {agreement[chosen]:.2f}"
    return Recommendation(chosen, plausible, reason, _doubts(scores, known, plausible, chosen))


def _gap(best: Sequence[float], other: Sequence[float]) -> float:
    """Return by how much more than noise, or than the slack, the modularity of one number exceeds that of another."""
    differences = [mine - its for mine, its in zip(best, other, strict=False)]
    noise = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return statistics.fmean(differences) - max(_SLACK, noise)


def _agreements(scores: Mapping[int, Scores], ks: Sequence[int]) -> dict[int, float]:
    """Return the mean over those kinds of agreement that all of the numbers have; empty if there are none."""
    kinds = [name for name in _AGREEMENTS if all(scores[k][name] for k in ks)]
    return {k: statistics.fmean(statistics.fmean(scores[k][name]) for name in kinds) for k in ks} if kinds else {}


def _doubts(
    scores: Mapping[int, Scores], known: Mapping[int, float], plausible: Sequence[int], chosen: int
) -> list[str]:
    """Return why the evidence is weak."""
    doubts = []
    if len(scores[chosen]["modularity_data"]) < _FEW_SEEDS:
        doubts.append(f"fewer than {_FEW_SEEDS} seeds: how much chance there is in the scores is hardly known")
    if len(plausible) > _MANY_PLAUSIBLE:
        doubts.append(f"{len(plausible)} numbers are as plausible: the data may have no natural one")
    for name, between in _AGREEMENTS.items():
        own = scores[chosen][name]
        if not own and (name != "agreement_seeds" or len(scores[chosen]["modularity_data"]) > 1):
            doubts.append(f"how far clusterings agree between {between} is not known")
        elif own and statistics.fmean(own) < _LOW_AGREEMENT:
            doubts.append(
                f"clusterings with {chosen} clusters agree between {between} only to {statistics.fmean(own):.2f}"
            )
    if known[chosen] < _LOW_MODULARITY:
        doubts.append(f"a modularity of {known[chosen]:.2f} says that the data hardly fall into clusters")
    if len(scores) == 1:
        doubts.append("there is no other number to compare with")
    else:
        # No number is below 2.
        ends = [k for k in (min(scores), max(scores)) if k > 2]
        highest = max(known, key=known.__getitem__)
        doubts += [f"{k} is at the end of the range: try more numbers" for k in ends if k == chosen]
        if highest != chosen and highest in ends:
            doubts.append(f"the modularity is highest with {highest}, the end of the range: try more numbers")
    return doubts


# --- what is printed and written --------------------------------------------------------------------------------------


def _mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return both, None where there are too few values for it."""
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


def _shown(values: Sequence[float]) -> str:
    mean, sd = _mean_and_sd(values)
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
    from dkm.checkpoint import write_atomically
    from dkm.compare import csv_text
    from dkm.figures import save_figure, selection

    rows: list[list[object]] = [["k", *(column for name in _SCORES for column in (name, f"{name}_sd"))]]
    for k, own in scores.items():
        values = [value for name in _SCORES for value in _mean_and_sd(own[name])]
        rows.append([k, *("" if value is None else f"{value:.9g}" for value in values)])
    try:
        write_atomically(folder / "select.csv", csv_text(rows).encode())
        content = {**found._asdict(), "scores": {str(k): own for k, own in scores.items()}}
        write_atomically(folder / "select.json", (json.dumps(content, indent=2) + "\n").encode())
        panels = {name: [own[name] for own in scores.values()] for name in (*_SHOWN, "reconstruction")}
        save_figure(selection(list(scores), panels, found.n_clusters, found.plausible), folder / "select.png")
    except OSError as error:
        raise UserError(f"output={folder}: {error.strerror}; expected a place to write; choose another") from error


if __name__ == "__main__":
    main()
