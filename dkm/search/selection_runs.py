"""The runs of ``dkm.select``: which are trained, which are left out, and their scores."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import IO, Any, NamedTuple

from dkm.clustering.selection import Recommendation, Scores, recommend
from dkm.config.commands import EXIT_USER_ERROR, SelectConfig, numbers, words_of_runs
from dkm.config.compose import compose, parse
from dkm.config.custom import require_named_by_user
from dkm.config.resolved import read_config
from dkm.config.roles import differences, distinguishing_settings
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.config.values import absolute
from dkm.errors import Failure, UserError
from dkm.runs import reading
from dkm.runtime import locks
from dkm.search.pool import ChildPool, ChildRun, resume_hint
from dkm.search.selection_report import SCORES, table_lines, write_recommendation
from dkm.training.launch import require_trainable

# The embedding has the same number of dimensions for all numbers of clusters, so that they share a pretraining.
_DEFAULTS = {"model.latent_dim": "10"}
# Keys that the command sets itself.
_REFUSED = ("clustering.n_clusters", "seed", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "resume")
# Settings in which the runs of a folder may differ.
_MAY_DIFFER = ("clustering.n_clusters", "seed")
# Locked while a search is under way, by its runs too, which may outlive it.
_LOCK = "select.lock"


class Search(NamedTuple):
    """What is searched, and where."""

    folder: Path
    # Overrides that all runs have in common.
    overrides: Sequence[str]
    ks: Sequence[int]
    seeds: Sequence[int]
    n_jobs: int
    # SHA-256 of the data.
    sha256: str
    lock: IO[bytes]


def select(config: SelectConfig, overrides: Sequence[str], tell: Callable[[], None] = lambda: None) -> Recommendation:
    """Train the runs that are missing, recommend a number of clusters, write and print the answer.

    Parameters
    ----------
    config : SelectConfig
    overrides : sequence of str
        Those of ``dkm train``.
    tell : callable, optional
        Called once the overrides have composed without an error.

    Raises
    ------
    UserError
        If an override is wrong, the data have too few rows, or the folder cannot be written to or has other runs.
    Failure
        If no number has all of its runs; the same command resumes the search.
    """
    ks, seeds = numbers("k", config.k, "", least=2), numbers("seeds", config.seeds, "", least=0)
    folder = Path(absolute(config.output or f"runs/select/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    instead = "dkm.select sets it; use k=, seeds= or output="
    overrides = words_of_runs(overrides, _REFUSED, instead, folder, config.jobs, _DEFAULTS)
    # A wrong override is refused before anything is written.
    wanted = compose(parse([*overrides, f"clustering.n_clusters={ks[-1]}"])).config
    if wanted.model.latent_dim is None:
        what = "a number, as one pretraining serves all numbers of clusters"
        raise UserError(f"model.latent_dim=null: expected {what}; for example model.latent_dim=10")
    tell()
    require_same_settings(folder, ks, seeds, wanted)
    sha256 = require_trainable(wanted)
    require_same_data(folder, ks, seeds, sha256)
    with lock_folder(folder) as lock:
        # Again: another process may have used the folder meanwhile.
        require_same_settings(folder, ks, seeds, wanted)
        require_same_data(folder, ks, seeds, sha256)
        print(f"{len(ks) * len(seeds)} runs in {folder}", flush=True)
        return _run_search(Search(folder, overrides, ks, seeds, config.jobs, sha256, lock))


def _run_search(search: Search) -> Recommendation:
    # The first number fills the cache of pretrainings, one for each seed, which the others take.
    train_missing(search, search.ks[:1])
    search, lost_seeds = drop_lost_seeds(search)
    train_missing(search, search.ks[1:])
    ks, lost_numbers = complete_numbers(search)
    scores = collect_scores(search.folder, ks, search.seeds, search.overrides)
    answer = recommend(scores)
    answer = answer._replace(warnings=[*lost_seeds, *lost_numbers, *answer.warnings])
    write_recommendation(search.folder, scores, answer)
    print("\n".join(table_lines(scores, answer)))
    print(f"written: {search.folder}/select.csv, select.json, select.png")
    return answer


@contextmanager
def lock_folder(folder: Path) -> Iterator[IO[bytes]]:
    """Make the folder and keep other processes out of it while the block runs; remove it if it stays empty."""
    with locks.lock_folder(folder, _LOCK) as lock:
        try:
            yield lock
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(resume_hint(folder)) from error
        finally:
            if [path.name for path in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()
                folder.rmdir()


# --- training ---------------------------------------------------------------------------------------------------------


def train_missing(search: Search, ks: Sequence[int]) -> None:
    """Train the runs of some numbers that have not completed."""
    folder, seeds = search.folder, search.seeds
    missing = [k for k in ks if not all(_completed(directory_of(folder, k, seed)) for seed in seeds)]
    if missing:
        _train(search, missing)
        require_same_data(folder, missing, seeds, search.sha256)  # which may have changed meanwhile


def _train(search: Search, ks: Sequence[int]) -> None:
    """Train the runs that are missing; some of them may fail.

    Raises
    ------
    UserError, Failure
        If a run refuses its settings or its data, or is killed.
    KeyboardInterrupt
        If somebody interrupted a run.
    """
    places = [(k, seed, directory_of(search.folder, k, seed)) for k in ks for seed in search.seeds]
    runs = [_SelectionRun.of(search, k, seed) for k, seed, directory in places if not _completed(directory)]
    with ChildPool[_SelectionRun](search.n_jobs, inherited=[search.lock]) as pool:
        for run in pool.train(runs):
            if run.exit_code == EXIT_USER_ERROR:
                raise UserError(run.error())
            if run.was_interrupted:
                raise KeyboardInterrupt
            if run.exit_code < 0:
                raise Failure(f"{run.directory}: {run.error()}; {resume_hint(search.folder)}")
            if run.exit_code > 0:
                print(f"warning: k={run.k}, seed={run.seed}: {run.error()}", file=sys.stderr, flush=True)
            _print_completed(run)


@dataclass(eq=False, kw_only=True)
class _SelectionRun(ChildRun):
    k: int
    seed: int

    @classmethod
    def of(cls, search: Search, k: int, seed: int) -> _SelectionRun:
        overrides = [*search.overrides, f"clustering.n_clusters={k}", f"seed={seed}"]
        log = search.folder / "logs" / f"k{k}-seed{seed}.log"
        return cls(overrides, directory_of(search.folder, k, seed), log, k=k, seed=seed)


def _print_completed(run: _SelectionRun) -> None:
    """Print the score of a run that has completed, and drop its checkpoints.

    With the default network the checkpoints of a hundred runs take 4 GB.
    """
    completed = _completed(run.directory)
    if completed is not None:
        shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)
        score = completed.scores.get("modularity_data")
        text = "-" if score is None else f"{score:.4f}"
        print(f"k={run.k}, seed={run.seed}: modularity on the data {text}, {completed.seconds or 0:.0f} s", flush=True)


# --- what is left out -------------------------------------------------------------------------------------------------


def drop_lost_seeds(search: Search) -> tuple[Search, list[str]]:
    """Leave out the seeds whose pretraining failed, which would cost every number a run; return warnings about them."""
    first, kept, warnings = search.ks[0], [], []
    for seed in search.seeds:
        directory = directory_of(search.folder, first, seed)
        why = _why_lost(directory, search.folder)
        if why is not None and not _is_pretrained(directory):
            warnings.append(f"seed {seed} is left out: {why}")
        else:
            kept.append(seed)
    if not kept:
        raise Failure(f"{search.folder}: no seed could be pretrained; {warnings[0]}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return search._replace(seeds=kept), warnings


def complete_numbers(search: Search) -> tuple[list[int], list[str]]:
    """Return the numbers that have all of their runs, and why the others are left out.

    Raises
    ------
    Failure
        If there is no such number, or a run is missing that has not failed.
    """
    folder, complete, warnings = search.folder, [], []
    for k in search.ks:
        lost = [why for seed in search.seeds if (why := _why_lost(directory_of(folder, k, seed), folder))]
        if lost:
            warnings.append(f"k={k} is left out: {'; '.join(lost)}")
        else:
            complete.append(k)
    if not complete:
        raise Failure(f"{folder}: no number has all of its runs; {warnings[0]}")
    return complete, warnings


def _why_lost(directory: Path, folder: Path) -> str | None:
    """Return why a run has no scores, None if it has.

    Raises
    ------
    Failure
        If it has neither completed nor failed.
    """
    try:
        run = reading.read(directory) if reading.is_run(directory) else None
    except reading.DamagedRun as error:
        return str(error)
    if run is not None and run.is_completed:
        return None
    if run is None or run.status != "failed":
        raise Failure(f"{directory}: did not complete, see above; {resume_hint(folder)}")
    return f"{directory} failed: {run.reason}"


def _is_pretrained(directory: Path) -> bool:
    """Return whether a run completed its pretraining, or took one from the cache."""
    try:
        n_epochs = reading.n_epochs_of(directory, "pretrain")
        records, manifest = reading.records(directory / reading.METRICS), reading.manifest_of(directory)
    except reading.DamagedRun:
        return True
    ends = [record for record in records if record.get("phase") == "joint" or record.get("epoch") == n_epochs]
    return bool(ends) or manifest.get("pretrained_by") is not None


# --- what is refused --------------------------------------------------------------------------------------------------


def require_same_settings(folder: Path, ks: Sequence[int], seeds: Sequence[int], wanted: Config) -> None:
    """Refuse a folder with runs of other settings, apart from the number of clusters and the seed."""
    settings = _comparable(distinguishing_settings(dotted(wanted)))
    for run in _runs_of(folder, ks, seeds):
        for key, value, kept in differences(settings, _comparable(run.settings)):
            what = f"expected {kept} as in {run.path}, which this search would resume"
            raise UserError(f"{key}={value}: {what}; choose another output=")


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _MAY_DIFFER}


def require_same_data(folder: Path, ks: Sequence[int], seeds: Sequence[int], sha256: str) -> None:
    """Refuse a folder with runs of other data: a file may have changed between two calls."""
    for run in _runs_of(folder, ks, seeds):
        if run.data.get("sha256", sha256) != sha256:
            what = f"{run.path} was trained on other data; expected the same data for all runs"
            raise UserError(f"output={folder}: {what}; choose another output=")


# --- reading ----------------------------------------------------------------------------------------------------------


def directory_of(folder: Path, k: int, seed: int) -> Path:
    """Return the directory of a run."""
    return folder / f"k{k}" / f"seed{seed}"


def _completed(directory: Path) -> reading.Run | None:
    """Return the run in a directory if it has completed."""
    try:
        run = reading.read(directory) if reading.is_run(directory) else None
    except reading.DamagedRun:
        return None
    return run if run is not None and run.is_completed else None


def _runs_of(folder: Path, ks: Sequence[int], seeds: Sequence[int]) -> Iterator[reading.Run]:
    """Yield the runs that exist and can be read."""
    for directory in (directory_of(folder, k, seed) for k in ks for seed in seeds):
        with suppress(reading.DamagedRun):
            if reading.is_run(directory):
                yield reading.read(directory)


def collect_scores(
    folder: Path, ks: Sequence[int], seeds: Sequence[int], overrides: Sequence[str] = ()
) -> dict[int, Scores]:
    """Return the scores of the runs of each number, and the agreement of each two of them and of each two halves.

    ``overrides`` are those of the command line, which may name code of the user.
    """
    collected: dict[int, Scores] = {}
    agreement_of_halves = _agreement_of_halves(folder, ks, seeds, overrides)
    for k in ks:
        runs = {seed: reading.read(directory_of(folder, k, seed)) for seed in seeds}
        scores: Scores = {name: {} for name in SCORES}
        for seed, run in runs.items():
            values = {name: run.scores.get(name) for name in SCORES}
            for name, value in values.items():
                if value is not None:
                    scores[name][seed,] = value
        scores["agreement_seeds"] = _agreement_of_seeds(runs)
        scores["agreement_halves"] = agreement_of_halves[k]
        collected[k] = scores
    return collected


def _agreement_of_seeds(runs: Mapping[int, reading.Run]) -> dict[tuple[int, ...], float]:
    """Return the adjusted Rand index of each two runs, by their seeds; without those where it is not known."""
    from dkm.runs.comparison import agreement_of, warn_of_alterations

    for run in runs.values():
        warn_of_alterations(run, reading.RESULT)
    agreement = agreement_of(list(runs.values()))
    if agreement is None:
        return {}
    seed_of = {run.path: seed for seed, run in runs.items()}
    seeds = [seed_of[run.path] for run in agreement.runs]
    pairs = combinations(range(len(seeds)), 2)
    values = {(seeds[i], seeds[j]): float(agreement.ari[i, j]) for i, j in pairs}
    return {pair: value for pair, value in values.items() if not math.isnan(value)}


def _agreement_of_halves(
    folder: Path, ks: Sequence[int], seeds: Sequence[int], overrides: Sequence[str]
) -> dict[int, dict[tuple[int, ...], float]]:
    """Return for each number and seed how far k-means on one half of the pretrained embedding agrees with the other's.

    The embedding is the pretrained one, the same for every number: the joint phase makes any clusters compact, and so
    any number stable.
    """
    from dkm.clustering.agreement import agreement_of_halves
    from dkm.data.datasets import load_dataset
    from dkm.runtime.devices import set_threads
    from dkm.training.pretraining import load_pretrained
    from dkm.training.trainer import Trainer

    agreement: dict[int, dict[tuple[int, ...], float]] = {k: {} for k in ks}
    data: Any = None
    for seed in seeds:
        config = _config_of(directory_of(folder, ks[0], seed), overrides)
        set_threads(config.threads)
        data = data or load_dataset(config.data)
        try:
            trainer = Trainer(config, data)
            load_pretrained(trainer.autoencoder, trainer.cache)
        except Failure as error:  # the runs are there, but their cache is not, or is of another version or machine
            print(f"warning: seed {seed}: no agreement between halves ({error})", file=sys.stderr)
            continue
        for k, value in agreement_of_halves(trainer.embed(), ks, seed=seed).items():
            agreement[k][seed,] = value
    return agreement


def _config_of(run: Path, overrides: Sequence[str]) -> Config:
    path = run / reading.CONFIG
    config = read_config(path)
    require_named_by_user(dotted(config), overrides, str(path))
    return config
