"""Search settings without labels, on Optuna; needs the extra: pip install 'dkm[optuna]'

    python -m dkm.tune trials=40 data=csv data.path=customers.csv clustering.n_clusters=8 \\
        'clustering.weight=tag(log,interval(0.1,10))' clustering.init=k-means++,auto

What varies is written as for a Hydra sweep: choices ``a,b,c``, ``range(1,5)``, ``interval(0,1)``,
``tag(log,interval(0.001,1))``. Where nothing varies, the weight of the clustering loss, the start of the clusters and
the learning rate of the joint phase do, so that one pretraining serves all trials. Every trial is a run of
``dkm.train``, which takes all other words; the first one has the settings as they are. Trials that fall behind are
pruned, failed ones do not end the study. Writes ``study.db`` (Optuna's), ``tune.csv``, ``tune.json``, ``tune.png``.

    trials=50                    of the whole study, those of an earlier call among them
    output=DIR                   where trials and answer go; a study that is there is gone on with
    objective=modularity_data    or silhouette, calinski_harabasz, davies_bouldin
    allow_labels=false           true: acc, nmi and ari can be the objective too
    prune=true                   end trials that are worse than the median at the same epoch
    jobs=1                       trials at a time
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from dkm import runs
from dkm.commands import EXIT_USER_ERROR, TuneConfig, parse_words, words_of_runs
from dkm.commands import main as run_command
from dkm.compose import absolute, compose, parse
from dkm.config import Failure, UserError, flatten
from dkm.space import Choices, Interval, Space, space_of

if TYPE_CHECKING:
    import optuna

# What varies where nothing is said: settings of the joint phase.
_SPACE = (
    "clustering.weight=tag(log,interval(0.1,10))",
    "clustering.init=k-means++,auto",
    "joint.lr=tag(log,interval(0.00003,0.001))",
)
_OURS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "resume")
_STORAGE = "study.db"
_POLL_S = 0.2
# Joint epochs, as a part of all, before a trial may be pruned; trials before that.
_WARM_UP, _N_UNPRUNED = 0.2, 5
# Trials that fail, and nothing else yet, before the study gives up.
_FAILURES_AT_START = 3
# Seconds that an interrupted run has to write its checkpoint.
_PATIENCE_S = 60.0
_N_SHOWN = 5


class Study(NamedTuple):
    """What is searched, how, and where."""

    config: TuneConfig
    folder: Path
    # Overrides of every trial.
    words: Sequence[str]
    space: Space
    # The settings as they are, of those that vary; None where they are no point of the space.
    start: Mapping[str, Any] | None
    # Of the joint phase: how many before a trial may be pruned, and how many in all.
    n_warm_up: int
    n_epochs: int
    study: optuna.Study

    def directory_of(self, number: int) -> Path:
        """Return where the run of a trial is."""
        return self.folder / "trials" / str(number)


@dataclass
class Running:
    """A trial whose run is under way."""

    trial: optuna.Trial
    directory: Path
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    # The last epoch whose score Optuna knows.
    epoch: int
    is_pruned: bool = False

    def interrupt(self) -> None:
        """Let the run write a checkpoint and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, __doc__)


def work(words: Sequence[str]) -> None:
    """Search as the words say."""
    known = {part.name for part in fields(TuneConfig)}
    own = [word for word in words if word.partition("=")[0] in known]
    config, _ = parse_words(TuneConfig, own)
    tune(config, [word for word in words if word not in own])


def tune(config: TuneConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the trials that are missing; write, print and return the answer.

    Raises
    ------
    UserError
        If a word is wrong, or the study in the folder is another one.
    Failure
        If no trial comes to an end.
    """
    folder = Path(absolute(config.output or f"runs/tune/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    is_new = not folder.exists()
    study = _opened(config, folder, overrides)
    print(f"{config.trials} trials in {folder}", flush=True)
    for line in _cautions(config):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    try:
        with (folder / _STORAGE).open("ab") as file:
            if not runs.claim(file):
                raise UserError(
                    f"output={folder}: expected a study that no other process is at; wait for it or stop it"
                )
            _run(study)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"the same command with output={folder} goes on") from error
    except UserError:
        if is_new:  # the first trial found what is wrong
            shutil.rmtree(folder, ignore_errors=True)
        raise
    answer = _answer(study)
    _write(study, answer)
    print("\n".join(_lines(study, answer)))
    print(f"written: {study.folder}/tune.csv, tune.json, tune.png")
    return answer


def _cautions(config: TuneConfig) -> Iterator[str]:
    if config.is_by_labels:
        yield f"LABELS CHOOSE: objective={config.objective} is of the labels; such a score is no result of clustering"
    elif config.objective != "modularity_data":
        yield (
            f"objective={config.objective} is taken in each trial's own embedding, which the joint phase can make as "
            "compact as it likes; modularity_data compares trials"
        )


# --- the study --------------------------------------------------------------------------------------------------------


def _opened(config: TuneConfig, folder: Path, overrides: Sequence[str]) -> Study:
    """Check everything, then make the study or open the one that is there."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("dkm.tune: expected the package optuna; install it: pip install 'dkm[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    words = words_of_runs(overrides, _OURS, "dkm.tune sets it; use output=", folder, config.jobs)
    space, fixed = space_of(words)
    if not space:
        keys = [word.partition("=")[0] for word in fixed]
        space, _ = space_of([word for word in _SPACE if word.partition("=")[0] not in keys])
    if not space:
        raise UserError(f"{fixed[-1]}: expected a setting that varies; for example {_SPACE[0]}")
    known, n_epochs = _checked(space, fixed)
    points = {key: space[key].holds(value) for key, value in known.items()}
    start = points if len(points) == len(space) and None not in points.values() else None
    settings = {
        "objective": config.objective,
        "space": {key: asdict(dimension) for key, dimension in space.items()},
        "words": sorted(word for word in fixed if word in overrides),  # ours depend on the machine
    }
    study = _study(config, folder, settings)
    return Study(config, folder, fixed, space, start, math.ceil(n_epochs * _WARM_UP), n_epochs, study)


def _checked(space: dict[str, Choices | Interval], words: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Compose the config with the ends of every interval and with every choice; make intervals of integers such.

    Returns
    -------
    start : dict
        The settings as they are, of those that vary and are known.
    n_epochs : int
        Of the joint phase.
    """
    firsts = {key: dimension.samples()[0] for key, dimension in space.items()}
    plain = None
    with contextlib.suppress(UserError):  # what varies may be required, such as the number of clusters
        plain = compose(parse(words)).config
    settings = flatten(asdict(plain)) if plain else {}
    for key, dimension in space.items():
        if isinstance(dimension, Interval) and isinstance(settings.get(key), int) and not dimension.is_int:
            space[key] = dimension = Interval(
                math.ceil(dimension.low), math.floor(dimension.high), dimension.is_log, True
            )
            firsts[key] = str(dimension.low)
    for key, dimension in space.items():
        for value in dimension.samples():
            tried = firsts | {key: value}
            config = compose(parse([*words, *(f"{name}={text}" for name, text in tried.items())])).config
    return {key: settings[key] for key in space if key in settings}, config.joint.epochs


def _study(config: TuneConfig, folder: Path, settings: Mapping[str, Any]) -> optuna.Study:
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    path = folder / _STORAGE
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    remedy = "expected a study with the same words; choose another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: {error.strerror}; expected a place to write; choose another") from error
    try:
        study = optuna.create_study(
            storage=url, study_name="dkm", direction=config.direction, load_if_exists=True, sampler=_sampler(0)
        )
        was = study.user_attrs.get("settings")
        if was is None and not study.trials:
            study.set_user_attr("settings", settings)
            was = settings
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise UserError(f"{path}: cannot be read ({runs.in_short(error)}); {remedy}") from error
    if was is None:
        raise UserError(f"output={folder}: the study there was made by something else; {remedy}")
    for key, value in json.loads(json.dumps(settings)).items():  # tuples are lists in the study
        old = json.loads(json.dumps(was[key]))
        if old != value:
            raise UserError(f"output={folder}: the study there has {_difference(key, old, value)}; {remedy}")
    return study


def _difference(key: str, old: Any, new: Any) -> str:
    """Say in what two studies differ, as shortly as it can be said."""
    if isinstance(old, list):
        mine, its = [w for w in new if w not in old], [w for w in old if w not in new]
        return f"{', '.join(its) or 'nothing'} where this call has {', '.join(mine) or 'nothing'}"
    return f"{key} {json.dumps(old)}, this call {json.dumps(new)}"


def _sampler(number: int) -> optuna.samplers.BaseSampler:
    """Return what draws the settings of a trial: the same in a study that was interrupted as in one that was not."""
    import optuna

    return optuna.samplers.TPESampler(seed=number)


# --- the trials -------------------------------------------------------------------------------------------------------


def _run(study: Study) -> None:
    """Run trials until there are as many as wanted, or as the space has points."""
    import optuna
    from optuna.trial import TrialState

    own = study.study
    own.pruner = optuna.pruners.MedianPruner(n_startup_trials=_N_UNPRUNED)
    if not own.trials:
        _enqueue(study)
    trials = own.get_trials(deepcopy=False)
    interrupted = [trial for trial in trials if trial.state is TrialState.RUNNING]
    n_begun = sum(trial.state is not TrialState.WAITING for trial in trials)
    n_wanted = min(study.config.trials, _n_points(study.space))
    running: list[Running] = []
    try:
        while running or interrupted or n_begun < n_wanted:
            # The first trial makes the pretraining that the others take.
            is_pretrained = n_begun > len(running) or any(one.epoch >= 0 for one in running)
            n_slots = study.config.jobs if is_pretrained else 1
            while len(running) < n_slots and (interrupted or n_begun < n_wanted):
                if interrupted:
                    running.append(_continued(study, interrupted.pop(0)))
                else:
                    own.sampler = _sampler(n_begun)
                    running.append(_started(study, own.ask()))
                    n_begun += 1
            time.sleep(_POLL_S)
            for one in list(running):
                has_ended = one.process.poll() is not None  # asked first: what it wrote last is then seen
                _report(study, one)
                if has_ended:
                    running.remove(one)
                    _told(study, one)
    finally:
        _stop(running)


def _enqueue(study: Study) -> None:
    """Let the settings as they are come first; of a space with no more points than trials, every point once."""
    if study.start is not None:
        study.study.enqueue_trial(dict(study.start))
    if _n_points(study.space) <= study.config.trials:
        for values in itertools.product(*(dimension.samples() for dimension in study.space.values())):
            point = dict(zip(study.space, values, strict=True))
            if point != study.start:
                study.study.enqueue_trial(point)


def _n_points(space: Space) -> float:
    return math.prod(len(d.values) if isinstance(d, Choices) else math.inf for d in space.values())


def _continued(study: Study, frozen: optuna.trial.FrozenTrial) -> Running:
    """Go on with a trial that was under way when the study was killed."""
    import optuna

    directory = study.directory_of(frozen.number)
    while runs.is_in_use(directory):  # its process outlived the study's
        time.sleep(_POLL_S)
    is_begun = (directory / runs.CONFIG).is_file()
    if not is_begun:
        shutil.rmtree(directory, ignore_errors=True)
    study.study.sampler = _sampler(frozen.number)
    trial = optuna.Trial(study.study, frozen._trial_id)  # Optuna has no public way back to a trial
    return _started(study, trial, epoch=max(frozen.intermediate_values, default=-1), resume=is_begun)


def _started(study: Study, trial: optuna.Trial, *, epoch: int = -1, resume: bool = False) -> Running:
    values = {key: dimension.suggest(trial, key) for key, dimension in study.space.items()}
    directory = study.directory_of(trial.number)
    command = [sys.executable, "-m", "dkm.train", *study.words, *(f"{key}={value}" for key, value in values.items())]
    # Not for a new one: it might take up an equal trial that was pruned.
    command += [f"hydra.run.dir={directory}", *(["resume=auto"] if resume else [])]
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the run goes on
    # In a session of its own: Ctrl-C comes to this process alone, which passes it on.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
    return Running(trial, directory, process, errors, epoch)


def _report(study: Study, one: Running) -> None:
    """Tell Optuna the scores of the evaluations since the last time; interrupt the run if it says so."""
    if one.is_pruned:
        return
    with contextlib.suppress(runs.DamagedRun):
        for record in runs.records(one.directory / runs.METRICS):
            epoch, value = record["epoch"], record.get(f"metrics/{study.config.objective}")
            if record["phase"] != "joint" or epoch <= one.epoch or value is None:
                continue
            one.epoch = epoch
            one.trial.report(value, epoch)
            is_early = study.n_warm_up <= epoch < study.n_epochs
            if study.config.prune and is_early and one.trial.should_prune():
                one.is_pruned = True
                one.interrupt()
                return


def _told(study: Study, one: Running) -> None:
    """Tell Optuna how a trial ended, and the user.

    Raises
    ------
    UserError, Failure
        If nothing but failures is to be expected.
    """
    from optuna.trial import TrialState

    own = study.study
    value, why = _outcome(study, one)
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
        said += f" (best {best.value:.4f})" if best.number != one.trial.number else ""
    print(f"trial {one.trial.number}: {said}; {_shown(one.trial.params)}", flush=True)
    ended = [trial.state for trial in own.get_trials(deepcopy=False) if trial.state.is_finished()]
    if set(ended) == {TrialState.FAIL}:
        if one.process.returncode == EXIT_USER_ERROR:
            raise UserError(why)
        if len(ended) >= _FAILURES_AT_START:
            raise Failure(f"{study.folder}: the first {len(ended)} trials failed, the last one: {why}")


def _outcome(study: Study, one: Running) -> tuple[float | None, str]:
    """Return the objective of a run that has ended; if there is none, None and why."""
    one.errors.seek(0)
    said = one.errors.read().decode(errors="replace").strip().splitlines()
    one.errors.close()
    if one.process.returncode != 0:
        lines = [line for line in said if line.startswith("error: ")] or said or ["it said nothing"]
        return None, lines[-1].removeprefix("error: ")
    try:
        value = runs.read(one.directory).scores.get(study.config.objective)
    except runs.DamagedRun as error:
        return None, str(error)
    if value is None or not math.isfinite(value):
        return None, f"{study.config.objective} is undefined"
    return value, ""


def _stop(running: Sequence[Running]) -> None:
    """Interrupt the runs that are under way; each writes a checkpoint first."""
    for one in running:
        one.interrupt()
    for one in running:
        try:
            one.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        one.errors.close()


def _shown(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


# --- the answer -------------------------------------------------------------------------------------------------------


def _answer(study: Study) -> dict[str, Any]:
    """Return what the trials say."""
    from optuna.trial import TrialState

    own = study.study
    trials = own.get_trials(deepcopy=False)
    n_of = {state.name.lower(): sum(trial.state is state for trial in trials) for state in TrialState}
    if not n_of["complete"]:
        raise Failure(f"{study.folder}: no trial came to an end; see tune.csv and the runs in trials/")
    best = own.best_trial
    return {
        "objective": study.config.objective,
        "direction": study.config.direction,
        "labels_chose": study.config.is_by_labels,
        "best": {
            "trial": best.number,
            "value": best.value,
            "settings": best.params,
            "run": str(study.directory_of(best.number)),
        },
        "trials": {name: n_of[name] for name in ("complete", "pruned", "fail")},
    }


def _write(study: Study, answer: Mapping[str, Any]) -> None:
    from dkm.checkpoint import write_atomically
    from dkm.compare import csv_text
    from dkm.figures import save_figure, search

    trials = [trial for trial in study.study.get_trials(deepcopy=False) if trial.state.is_finished()]
    rows: list[list[object]] = [["trial", "state", study.config.objective, *study.space, "seconds", "error"]]
    for trial in trials:
        seconds = trial.duration.total_seconds() if trial.duration else math.nan
        params = [trial.params.get(key, "") for key in study.space]
        value = "" if trial.value is None else f"{trial.value:.9g}"
        state = trial.state.name.lower()
        rows.append([trial.number, state, value, *params, f"{seconds:.1f}", trial.user_attrs.get("error", "")])
    try:
        write_atomically(study.folder / "tune.csv", csv_text(rows).encode())
        write_atomically(study.folder / "tune.json", (json.dumps(answer, indent=2) + "\n").encode())
        seen = [trial for trial in trials if trial.value is not None]
        figure = search(
            [trial.number for trial in seen],
            [float(trial.value) for trial in seen if trial.value is not None],
            [trial.state.name == "PRUNED" for trial in seen],
            {key: [trial.params[key] for trial in seen] for key in study.space},
            logarithmic=[key for key, d in study.space.items() if isinstance(d, Interval) and d.is_log],
            objective=study.config.objective,
            is_maximized=study.config.direction == "maximize",
        )
        save_figure(figure, study.folder / "tune.png")
    except OSError as error:
        raise UserError(
            f"output={study.folder}: {error.strerror}; expected a place to write; choose another"
        ) from error


def _lines(study: Study, answer: Mapping[str, Any]) -> list[str]:
    from optuna.trial import TrialState

    done = study.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    sign = -1 if study.config.direction == "maximize" else 1
    ordered = sorted(done, key=lambda trial: sign * (trial.value or 0.0))
    lines = ["", f"{'trial':>6}{study.config.objective:>20}  settings"]
    lines += [f"{t.number:>6}{t.value:>20.4f}  {_shown(t.params)}" for t in ordered[:_N_SHOWN]]
    counts = answer["trials"]
    lines += ["", f"{counts['complete']} trials completed, {counts['pruned']} pruned, {counts['fail']} failed"]
    best = answer["best"]
    as_they_are = next((t for t in done if study.start is not None and t.params == dict(study.start)), None)
    against = "" if as_they_are is None else f"; the settings as they are: {as_they_are.value:.4f}"
    lines.append(f"best: trial {best['trial']}, {study.config.objective} {best['value']:.4f}{against}")
    ours = ("log.", "pretrain.cache=", "threads=", "seed=", "evaluation.kmeans_raw=")
    words = [word for word in study.words if not word.startswith(ours)]
    words += [f"{key}={value}" for key, value in best["settings"].items()]
    lines.append(
        "The best of many is partly luck; over seeds: "
        + shlex.join(["python", "-m", "dkm.train", "--multirun", "seed=1,2,3", *words])
    )
    return lines


if __name__ == "__main__":
    main()
