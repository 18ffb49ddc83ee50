"""The trials of a study: each a run of ``dkm.train`` in a child process, whose scores are reported to Optuna.

``study.py`` plans the study and writes its answer. A study that was killed resumes with the trials that it would have
had.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dkm.config.commands import EXIT_USER_ERROR, TuneConfig
from dkm.errors import Failure, UserError
from dkm.runs import reading
from dkm.runtime.locks import is_locked
from dkm.search.pool import POLL_S, ChildPool, ChildRun, resume_hint
from dkm.search.space import Space, n_points, points

if TYPE_CHECKING:
    import optuna

# Trials before one may be pruned.
_N_UNPRUNED = 5
# A space of choices with at most so many times the points that there are trials is drawn from without repetition.
_REPEATABLE = 10
# Trials that fail, and nothing else yet, before the study gives up.
_FAILURES_AT_START = 3
# Fraction of a trial's joint epochs before it may be pruned.
_WARM_UP = 0.2


class Study(NamedTuple):
    """What is searched, how, and where."""

    config: TuneConfig
    folder: Path
    # Overrides of every trial, and those of them that the user gave.
    overrides: Sequence[str]
    given_overrides: Sequence[str]
    space: Space
    # Those of the current settings that vary; None where they are no point of the space.
    start: Mapping[str, Any] | None
    # SHA-256 of the data; None where they vary.
    sha256: str | None = None
    study: optuna.Study = None  # type: ignore[assignment]  # until it is opened

    def directory_of(self, number: int) -> Path:
        """Return the run directory of a trial."""
        return self.folder / "trials" / str(number)

    def log_of(self, number: int) -> Path:
        """Return the file with the errors of the process that trains a trial."""
        return self.folder / "trials" / f"{number}.log"


@dataclass(eq=False, kw_only=True)
class TrialRun(ChildRun):
    """The run of a trial that is under way."""

    trial: optuna.Trial
    # The last epoch whose score Optuna knows.
    epoch: int
    is_pruned: bool = False
    # Bytes of metrics.jsonl that were read.
    n_read: int = 0


def sampler(number: int) -> optuna.samplers.BaseSampler:
    """Return what draws the settings of a trial: the same in a study that was interrupted as in one that was not."""
    import optuna

    return optuna.samplers.TPESampler(seed=number)


def run_trials(study: Study) -> None:
    """Run trials until there are as many as wanted, or as the space has points."""
    import optuna
    from optuna.trial import TrialState

    optuna_study = study.study
    optuna_study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_N_UNPRUNED)
    _enqueue_known_points(study)
    trials = optuna_study.get_trials(deepcopy=False)
    interrupted = [trial for trial in trials if trial.state is TrialState.RUNNING]
    n_begun = sum(trial.state is not TrialState.WAITING for trial in trials)
    n_wanted = min(study.config.trials, n_points(study.space))
    # The first trial makes the pretraining that the others take.
    is_pretrained = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    with ChildPool[TrialRun]() as pool:
        while pool.running or interrupted or n_begun < n_wanted:
            is_pretrained = is_pretrained or any(run.epoch >= 0 for run in pool.running)
            pool.n_at_once = study.config.jobs if is_pretrained else 1
            while pool.has_room and (interrupted or n_begun < n_wanted):
                if interrupted:
                    run = _resume_trial(study, interrupted.pop(0))
                else:
                    optuna_study.sampler = sampler(n_begun)
                    run = _build_run(study, optuna_study.ask())
                    n_begun += 1
                if run is not None:
                    pool.start(run)
            for run in pool.ended(partial(_report_scores, study)):
                _finish_trial(study, run)
                is_pretrained = is_pretrained or run.exit_code == 0


def _enqueue_known_points(study: Study) -> None:
    """Enqueue the current settings first, and every point of a space of choices that is not too large once."""
    queue = [] if study.start is None else [dict(study.start)]
    n = n_points(study.space)
    if n <= _REPEATABLE * study.config.trials:
        others = [point for point in points(study.space) if point != study.start]
        if n > study.config.trials:
            random.Random(0).shuffle(others)
        queue += others
    for point in queue[: study.config.trials]:
        study.study.enqueue_trial(point, skip_if_exists=True)


def _resume_trial(study: Study, frozen: optuna.trial.FrozenTrial) -> TrialRun | None:
    """Return the run of a trial that was under way when the study was killed, None if it is pruned instead."""
    import optuna
    from optuna.trial import TrialState

    trial = optuna.Trial(study.study, frozen._trial_id)  # Optuna has no public way back to a trial
    if is_locked(study.log_of(frozen.number)):
        print(f"trial {frozen.number}: still trains in an earlier process; waiting for it", flush=True)
    while is_locked(study.log_of(frozen.number)):  # its process outlived the study's
        time.sleep(POLL_S)
    epoch = max(frozen.intermediate_values, default=-1)
    if _is_hopeless(study, trial, epoch):
        study.study.tell(trial, state=TrialState.PRUNED)
        print(f"trial {frozen.number}: pruned in epoch {epoch}; {format_settings(frozen.params)}", flush=True)
        return None
    study.study.sampler = sampler(frozen.number)
    return _build_run(study, trial, epoch=epoch)


def _build_run(study: Study, trial: optuna.Trial, *, epoch: int = -1) -> TrialRun:
    values = {key: dimension.suggest(trial, key) for key, dimension in study.space.items()}
    overrides = [*study.overrides, *(f"{key}={value}" for key, value in values.items())]
    return TrialRun(overrides, study.directory_of(trial.number), study.log_of(trial.number), trial=trial, epoch=epoch)


def _report_scores(study: Study, run: TrialRun) -> None:
    """Report new evaluations to Optuna; interrupt the run if the trial is to be pruned."""
    path = run.directory / reading.METRICS
    n_bytes = path.stat().st_size if path.exists() else 0
    if run.is_pruned or n_bytes == run.n_read:
        return
    run.n_read = n_bytes
    with contextlib.suppress(reading.DamagedRun):
        for record in reading.records(path):
            epoch, value = record["epoch"], record.get(f"metrics/{study.config.objective}")
            if record["phase"] != "joint" or epoch <= run.epoch or value is None:
                continue
            run.epoch = epoch
            run.trial.report(value, epoch)
            if _is_hopeless(study, run.trial, epoch):
                run.is_pruned = True
                run.interrupt()
                return


def _is_hopeless(study: Study, trial: optuna.Trial, epoch: int) -> bool:
    """Return whether a trial is to be pruned after an evaluation."""
    is_possible = study.config.prune and _may_be_pruned(study.directory_of(trial.number), epoch)
    return is_possible and trial.should_prune()


def _may_be_pruned(directory: Path, epoch: int) -> bool:
    """Return whether a run is neither in its warm-up nor at its end, which comes early when the labels have settled.

    A run with ``joint.guard`` never may: what it ends with can be better than what its joint phase has.
    """
    try:
        settings, records = reading.read(directory).settings, reading.records(directory / reading.METRICS)
        n_epochs = reading.n_epochs_of(directory, "joint")
    except reading.DamagedRun:
        return False
    if n_epochs is None or settings.get("joint.guard"):
        return False
    (record,) = [record for record in records if record["phase"] == "joint" and record["epoch"] == epoch][-1:] or [{}]
    has_settled = record.get("clusters/label_change", math.inf) < settings.get("joint.tolerance", 0)
    return bool(_WARM_UP * n_epochs <= epoch < n_epochs and not has_settled)


def _finish_trial(study: Study, run: TrialRun) -> None:
    """Report to Optuna, and print, how a trial ended.

    Raises
    ------
    UserError, Failure
        If only failures are to be expected.
    KeyboardInterrupt
        If something else interrupted the run, which can be resumed.
    """
    from optuna.trial import TrialState

    optuna_study, number = study.study, run.trial.number
    if run.was_interrupted and not run.is_pruned:
        raise KeyboardInterrupt(f"trial {number} was stopped from outside; {resume_hint(study.folder)}")
    value, why = _outcome(study, run)
    _require_same_data(study, run)
    if run.is_pruned:
        optuna_study.tell(run.trial, state=TrialState.PRUNED)
        outcome = f"pruned in epoch {run.epoch}"
    elif value is None:
        run.trial.set_user_attr("error", why)
        optuna_study.tell(run.trial, state=TrialState.FAIL)
        outcome = f"failed: {why}"
    else:
        optuna_study.tell(run.trial, value)
        best = optuna_study.best_trial
        outcome = f"{study.config.objective} {value:.4f}"
        outcome += f" (best {best.value:.4f})" if best.number != number else ""
    print(f"trial {number}: {outcome}; {format_settings(run.trial.params)}", flush=True)
    ended = [trial.state for trial in optuna_study.get_trials(deepcopy=False) if trial.state.is_finished()]
    if set(ended) == {TrialState.FAIL}:
        if run.exit_code == EXIT_USER_ERROR:
            raise UserError(why)
        if len(ended) >= _FAILURES_AT_START:
            raise Failure(f"{study.folder}: the first {len(ended)} trials failed, the last one: {why}")


def _outcome(study: Study, run: TrialRun) -> tuple[float | None, str]:
    """Return the objective of a run that has ended; if there is none, None and why."""
    if run.exit_code != 0:
        return None, run.error()
    try:
        value = reading.read(run.directory).scores.get(study.config.objective)
    except reading.DamagedRun as error:
        return None, str(error)
    if value is None or not math.isfinite(value):
        return None, f"{study.config.objective} is undefined"
    return value, ""


def _require_same_data(study: Study, run: TrialRun) -> None:
    """Stop the study if the data have changed since it began."""
    with contextlib.suppress(reading.DamagedRun):
        sha256 = reading.read(run.directory).data.get("sha256")
        if None not in (study.sha256, sha256) and sha256 != study.sha256:
            what = f"trial {run.trial.number} had other data than the study; expected the same data for all trials"
            raise UserError(f"output={study.folder}: {what}; choose another output=")


def format_settings(params: Mapping[str, Any]) -> str:
    """Return settings as overrides, numbers with three digits."""
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )
