"""The trials of a study: each a run of ``dkm.train`` in a process of its own, reported to Optuna as it goes.

``dkm.tune`` plans the study and tells its answer. A study that was killed goes on to the trials that it would have had.
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
from dkm.search.pool import POLL_S, ChildPool, ChildRun
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
    # Overrides of every trial, and those of them that are the user's.
    words: Sequence[str]
    own_words: Sequence[str]
    space: Space
    # The settings as they are, of those that vary; None where they are no point of the space.
    start: Mapping[str, Any] | None
    # Of the data; None where they vary.
    sha256: str | None = None
    study: optuna.Study = None  # type: ignore[assignment]  # until it is opened

    def directory_of(self, number: int) -> Path:
        """Return where the run of a trial is."""
        return self.folder / "trials" / str(number)

    def log_of(self, number: int) -> Path:
        """Return where what its run says on the terminal is kept."""
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

    own = study.study
    own.pruner = optuna.pruners.MedianPruner(n_startup_trials=_N_UNPRUNED)
    _enqueue(study)
    trials = own.get_trials(deepcopy=False)
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
                    run = _continued(study, interrupted.pop(0))
                else:
                    own.sampler = sampler(n_begun)
                    run = _run_of(study, own.ask())
                    n_begun += 1
                if run is not None:
                    pool.start(run)
            for run in pool.ended(partial(_report, study)):
                _told(study, run)
                is_pretrained = is_pretrained or run.exit_code == 0


def _enqueue(study: Study) -> None:
    """Let the settings as they are come first, and of not too large a space of choices every point at most once."""
    wanted = [] if study.start is None else [dict(study.start)]
    n = n_points(study.space)
    if n <= _REPEATABLE * study.config.trials:
        others = [point for point in points(study.space) if point != study.start]
        if n > study.config.trials:
            random.Random(0).shuffle(others)
        wanted += others
    for point in wanted[: study.config.trials]:
        study.study.enqueue_trial(point, skip_if_exists=True)


def _continued(study: Study, frozen: optuna.trial.FrozenTrial) -> TrialRun | None:
    """Go on with a trial that was under way when the study was killed; it may have been about to be pruned."""
    import optuna
    from optuna.trial import TrialState

    trial = optuna.Trial(study.study, frozen._trial_id)  # Optuna has no public way back to a trial
    if is_locked(study.log_of(frozen.number)):
        print(f"trial {frozen.number}: still trains; waiting for it", flush=True)
    while is_locked(study.log_of(frozen.number)):  # its process outlived the study's
        time.sleep(POLL_S)
    epoch = max(frozen.intermediate_values, default=-1)
    if _is_hopeless(study, trial, epoch):
        study.study.tell(trial, state=TrialState.PRUNED)
        print(f"trial {frozen.number}: pruned in epoch {epoch}; {shown(frozen.params)}", flush=True)
        return None
    study.study.sampler = sampler(frozen.number)
    return _run_of(study, trial, epoch=epoch)


def _run_of(study: Study, trial: optuna.Trial, *, epoch: int = -1) -> TrialRun:
    values = {key: dimension.suggest(trial, key) for key, dimension in study.space.items()}
    overrides = [*study.words, *(f"{key}={value}" for key, value in values.items())]
    return TrialRun(overrides, study.directory_of(trial.number), study.log_of(trial.number), trial=trial, epoch=epoch)


def _report(study: Study, one: TrialRun) -> None:
    """Tell Optuna the scores of the evaluations since the last time; interrupt the run if it says so."""
    path = one.directory / reading.METRICS
    n_bytes = path.stat().st_size if path.exists() else 0
    if one.is_pruned or n_bytes == one.n_read:
        return
    one.n_read = n_bytes
    with contextlib.suppress(reading.DamagedRun):
        for record in reading.records(path):
            epoch, value = record["epoch"], record.get(f"metrics/{study.config.objective}")
            if record["phase"] != "joint" or epoch <= one.epoch or value is None:
                continue
            one.epoch = epoch
            one.trial.report(value, epoch)
            if _is_hopeless(study, one.trial, epoch):
                one.is_pruned = True
                one.interrupt()
                return


def _is_hopeless(study: Study, trial: optuna.Trial, epoch: int) -> bool:
    """Return whether a trial is to be pruned after an evaluation."""
    is_possible = study.config.prune and _may_be_pruned(study.directory_of(trial.number), epoch)
    return is_possible and trial.should_prune()


def _may_be_pruned(directory: Path, epoch: int) -> bool:
    """Return whether a run is neither in its warm-up nor at its end, which comes early when the labels have settled."""
    try:
        settings, records = reading.read(directory).settings, reading.records(directory / reading.METRICS)
    except reading.DamagedRun:
        return False
    n_epochs = settings.get("joint.epochs", math.inf)
    (record,) = [record for record in records if record["phase"] == "joint" and record["epoch"] == epoch][-1:] or [{}]
    has_settled = record.get("clusters/label_change", math.inf) < settings.get("joint.tolerance", 0)
    return bool(_WARM_UP * n_epochs <= epoch < n_epochs and not has_settled)


def _told(study: Study, one: TrialRun) -> None:
    """Tell Optuna how a trial ended, and the user.

    Raises
    ------
    UserError, Failure
        If nothing but failures is to be expected.
    KeyboardInterrupt
        If somebody else interrupted the run, which can go on.
    """
    from optuna.trial import TrialState

    own, number = study.study, one.trial.number
    if one.was_interrupted and not one.is_pruned:
        raise KeyboardInterrupt(f"trial {number} was; the same command with output={study.folder} goes on")
    value, why = _outcome(study, one)
    _require_same_data(study, one)
    if one.is_pruned:
        own.tell(one.trial, state=TrialState.PRUNED)
        said = f"pruned in epoch {one.epoch}"
    elif value is None:
        one.trial.set_user_attr("error", why)
        own.tell(one.trial, state=TrialState.FAIL)
        said = f"failed: {why}"
    else:
        own.tell(one.trial, value)
        best = own.best_trial
        said = f"{study.config.objective} {value:.4f}"
        said += f" (best {best.value:.4f})" if best.number != number else ""
    print(f"trial {number}: {said}; {shown(one.trial.params)}", flush=True)
    ended = [trial.state for trial in own.get_trials(deepcopy=False) if trial.state.is_finished()]
    if set(ended) == {TrialState.FAIL}:
        if one.exit_code == EXIT_USER_ERROR:
            raise UserError(why)
        if len(ended) >= _FAILURES_AT_START:
            raise Failure(f"{study.folder}: the first {len(ended)} trials failed, the last one: {why}")


def _outcome(study: Study, one: TrialRun) -> tuple[float | None, str]:
    """Return the objective of a run that has ended; if there is none, None and why."""
    if one.exit_code != 0:
        return None, one.error()
    try:
        value = reading.read(one.directory).scores.get(study.config.objective)
    except reading.DamagedRun as error:
        return None, str(error)
    if value is None or not math.isfinite(value):
        return None, f"{study.config.objective} is undefined"
    return value, ""


def _require_same_data(study: Study, one: TrialRun) -> None:
    """Refuse to go on when the data have changed since the study began."""
    with contextlib.suppress(reading.DamagedRun):
        sha256 = reading.read(one.directory).data.get("sha256")
        if None not in (study.sha256, sha256) and sha256 != study.sha256:
            what = f"trial {one.trial.number} is of other data than the study; expected the same for all trials"
            raise UserError(f"output={study.folder}: {what}; choose another folder")


def shown(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )
