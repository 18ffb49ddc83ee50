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
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkm import runs
from dkm.commands import TuneConfig, parse_own, words_of_runs
from dkm.commands import main as run_command
from dkm.compose import absolute, compose, parse
from dkm.config import GROUPS, Config, Failure, UserError, dotted, flatten, kind_of
from dkm.space import Choices, Interval, space_of, whole_numbers
from dkm.trials import Study, run_trials, sampler, shown

if TYPE_CHECKING:
    import optuna

# What varies where nothing is said: settings of the joint phase.
_SPACE = (
    "clustering.weight=tag(log,interval(0.1,10))",
    "clustering.init=k-means++,auto",
    "joint.lr=tag(log,interval(0.00003,0.001))",
)
_OURS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "resume")
_STORAGE, _LOCK = "study.db", "study.lock"
# Joint epochs, as a part of all, before a trial may be pruned.
_WARM_UP = 0.2
_N_SHOWN = 5


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, __doc__)


def work(words: Sequence[str]) -> None:
    """Search as the words say."""
    tune(*parse_own(TuneConfig, words))


def tune(config: TuneConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the trials that are missing; write, print and return the answer.

    Raises
    ------
    UserError
        If a word is wrong, or the study in the folder is another one.
    Failure
        If no trial comes to an end.
    """
    optuna = _optuna()
    from sqlalchemy.exc import SQLAlchemyError

    folder = Path(absolute(config.output or f"runs/tune/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    plan = _planned(config, folder, overrides)
    plan = plan._replace(sha256=_sha256(plan))
    is_new = not os.path.exists(folder)  # noqa: PTH110  # pathlib raises for a name too long
    with runs.claimed_folder(folder, _LOCK, "a study that no other process is at"):
        try:
            study = plan._replace(study=_study(plan))
            print(f"{config.trials} trials in {folder}", flush=True)
            for line in _cautions(study):
                print(f"warning: {line}", file=sys.stderr, flush=True)
            run_trials(study)
            return _answered(study)
        except KeyboardInterrupt as error:
            if error.args:
                raise
            raise KeyboardInterrupt(f"the same command with output={folder} goes on") from error
        except UserError:
            if is_new and not any(folder.glob("trials/*/checkpoints/*")):  # wrong from the first trial on
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            raise Failure(f"{folder / _STORAGE}: {runs.in_short(error)}; what was written before is kept") from error
        except OSError as error:
            where = error.filename or folder
            raise Failure(f"{where}: {error.strerror}; what was written before is kept") from error


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("dkm.tune: expected the package optuna; install it: pip install 'dkm[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _answered(study: Study) -> dict[str, Any]:
    """Write, print and return the answer."""
    _write_trials(study)
    answer = _answer(study)
    _write(study, answer)
    print("\n".join(_lines(study, answer)))
    return answer


def _cautions(study: Study) -> Iterator[str]:
    config = study.config
    if config.is_by_labels:
        yield f"LABELS CHOOSE: objective={config.objective} is of the labels; such a score is no result of clustering"
    elif config.objective != "modularity_data":
        yield (
            f"objective={config.objective} is taken in each trial's own embedding, which the joint phase can make as "
            "compact as it likes; modularity_data compares trials"
        )
    ours = [key for key in study.space if key.partition(".")[0] in ("data", "experiment")]
    if ours:
        yield f"{ours[0]} varies: scores compare clusterings of the same rows, scaled in the same way, and no others"
    if study.start is None:
        yield "the settings as they are lie outside of what is searched, so no trial has them to compare with"


# --- the study --------------------------------------------------------------------------------------------------------


def _planned(config: TuneConfig, folder: Path, overrides: Sequence[str]) -> Study:
    """Check everything that can be checked before anything is written; the study itself is still missing."""
    words = words_of_runs(overrides, _OURS, "dkm.tune sets it; use output=", folder, config.jobs)
    space, fixed = space_of(words)
    if not space:
        keys = [word.partition("=")[0] for word in fixed]
        space, _ = space_of([word for word in _SPACE if word.partition("=")[0] not in keys])
    if not space:
        given = next(word for word in reversed(overrides) if word in fixed)
        raise UserError(f"{given}: expected a setting that varies; for example {_SPACE[0]}")
    known, n_epochs = _checked(space, fixed)
    start = {key: space[key].holds(value) for key, value in known.items()}
    is_point = len(start) == len(space) and None not in start.values()
    own = [word for word in fixed if word in overrides]
    n_warm_up = math.ceil(n_epochs * _WARM_UP)
    return Study(config, folder, fixed, own, space, start if is_point else None, n_warm_up)


def _checked(space: dict[str, Choices | Interval], words: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Compose the config with the ends of every interval and with every choice; make intervals of integers such.

    Returns
    -------
    start : dict
        The settings as they are, of those that vary and are known.
    n_epochs : int
        Of the joint phase.
    """
    for key, dimension in space.items():
        if isinstance(dimension, Interval) and not dimension.is_int and kind_of(key).startswith("a whole number"):
            space[key] = whole_numbers(key, dimension)
    firsts = {key: dimension.samples()[0] for key, dimension in space.items()}
    for key, dimension in space.items():
        for value in dimension.samples():
            tried = firsts | {key: value}
            config = compose(parse([*words, *(f"{name}={text}" for name, text in tried.items())])).config
    settings = {}
    with contextlib.suppress(UserError):  # what varies may be required, such as the number of clusters
        settings = flatten(asdict(compose(parse(words)).config))
    settings |= {group: settings[f"{group}.name"] for group in GROUPS if f"{group}.name" in settings}
    return {key: settings[key] for key in space if key in settings}, config.joint.epochs


def _sha256(plan: Study) -> str | None:
    """Return what tells the data from others, None where they vary; refuse what the first run would refuse."""
    from dkm.trainer import require_trainable  # late: a wrong word answers without torch

    if any(key.partition(".")[0] in ("data", "experiment") for key in plan.space):
        return None
    config = plan.config
    return require_trainable(_first(plan), labels_for=f"objective={config.objective}" if config.is_by_labels else None)


def _first(plan: Study) -> Config:
    """Return the config of one point of the space."""
    firsts = [f"{key}={dimension.samples()[0]}" for key, dimension in plan.space.items()]
    return compose(parse([*plan.words, *firsts])).config


def _fixed(plan: Study) -> dict[str, Any]:
    """Return the settings that all trials have, and that move a number; an experiment's file may have changed."""
    settings = runs.moving_numbers(dotted(_first(plan)))
    # Data are told apart by their SHA-256: they may have moved.
    varying = (*(f"{key}." for key in plan.space), "data.path", "data.labels", "device", "threads")
    return {key: value for key, value in settings.items() if key not in plan.space and not key.startswith(varying)}


def _study(plan: Study) -> optuna.Study:
    """Make Optuna's study, or open the one that is there."""
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    path = plan.folder / _STORAGE
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    remedy = "expected a study with the same words; choose another folder"
    settings = {
        "objective": plan.config.objective,
        "space": {key: asdict(dimension) for key, dimension in plan.space.items()},
        "words": sorted(plan.own_words),
        "data_sha256": plan.sha256,
        "fixed": {} if "experiment" in plan.space else _fixed(plan),
    }
    settings = json.loads(json.dumps(settings))  # as the study keeps them
    try:
        study = optuna.create_study(
            storage=url, study_name="dkm", direction=plan.config.direction, load_if_exists=True, sampler=sampler(0)
        )
        was = study.user_attrs.get("settings")
        if was is None and not study.trials:
            study.set_user_attr("settings", settings)
            was = settings
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise UserError(f"{path}: cannot be read ({runs.in_short(error)}); {remedy}") from error
    if was is None:
        raise UserError(f"output={plan.folder}: the study there was made by something else; {remedy}")
    known = dict(was)
    if was.setdefault("data_sha256", plan.sha256) != plan.sha256:
        what = "the study there is of other data than there are now; expected the same for all trials"
        raise UserError(f"output={plan.folder}: {what}; choose another folder")
    if "fixed" in was:  # what has come since has a default that does what was done before
        settings["fixed"] = {key: settings["fixed"].get(key) for key in was["fixed"]}
    for key, value in settings.items():
        if was.setdefault(key, value) != value:
            raise UserError(f"output={plan.folder}: the study there has {_difference(key, was[key], value)}; {remedy}")
    if was != known:
        study.set_user_attr("settings", was)
    return study


def _difference(key: str, old: Any, new: Any) -> str:
    """Say in what two studies differ, as shortly as it can be said."""
    if isinstance(old, list):
        mine, its = [w for w in new if w not in old], [w for w in old if w not in new]
        return f"{', '.join(its) or 'nothing'} where this call has {', '.join(mine) or 'nothing'}"
    if key == "fixed":
        key = next(key for key in (old | new) if old.get(key) != new.get(key))
        old, new = old.get(key), new.get(key)
    return f"{key} {json.dumps(old)}, this call {json.dumps(new)}"


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


def _write_trials(study: Study) -> None:
    """Write ``tune.csv``: every trial that has ended."""
    from dkm.checkpoint import write_atomically
    from dkm.compare import csv_text

    rows: list[list[object]] = [["trial", "state", study.config.objective, *study.space, "seconds", "error"]]
    for trial in _ended(study):
        params = [trial.params.get(key, "") for key in study.space]
        value = "" if trial.value is None else f"{trial.value:.9g}"
        seconds = _seconds(study.directory_of(trial.number))
        rows.append(
            [trial.number, trial.state.name.lower(), value, *params, seconds, trial.user_attrs.get("error", "")]
        )
    write_atomically(study.folder / "tune.csv", csv_text(rows).encode())


def _ended(study: Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _seconds(directory: Path) -> str:
    """Return the seconds of training of a run, as far as they are known."""
    try:
        seconds = runs.read(directory).seconds
    except runs.DamagedRun:
        seconds = None
    return "" if seconds is None else f"{seconds:.1f}"


def _write(study: Study, answer: Mapping[str, Any]) -> None:
    """Write ``tune.json`` and ``tune.png``."""
    from dkm.checkpoint import write_atomically
    from dkm.figures import save_figure, search

    write_atomically(study.folder / "tune.json", (json.dumps(answer, indent=2) + "\n").encode())
    seen = [(trial, trial.value) for trial in _ended(study) if trial.value is not None]
    figure = search(
        [trial.number for trial, _ in seen],
        [value for _, value in seen],
        [trial.state.name == "PRUNED" for trial, _ in seen],
        {key: [trial.params[key] for trial, _ in seen] for key in study.space},
        logarithmic=[key for key, d in study.space.items() if isinstance(d, Interval) and d.is_log],
        orders={key: d.values for key, d in study.space.items() if isinstance(d, Choices)},
        objective=study.config.objective,
        is_maximized=study.config.direction == "maximize",
    )
    save_figure(figure, study.folder / "tune.png")


def _lines(study: Study, answer: Mapping[str, Any]) -> list[str]:
    from optuna.trial import TrialState

    done = study.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    sign = -1 if study.config.direction == "maximize" else 1
    ordered = sorted(done, key=lambda trial: sign * (trial.value or 0.0))
    lines = ["", f"{'trial':>6}{study.config.objective:>20}  settings"]
    lines += [f"{t.number:>6}{t.value:>20.4f}  {shown(t.params)}" for t in ordered[:_N_SHOWN]]
    counts = answer["trials"]
    lines += ["", f"{counts['complete']} trials completed, {counts['pruned']} pruned, {counts['fail']} failed"]
    best = answer["best"]
    as_they_are = next((t for t in done if study.start is not None and t.params == dict(study.start)), None)
    against = "" if as_they_are is None else f"; the settings as they are: {as_they_are.value:.4f}"
    lines.append(f"best: trial {best['trial']}, {study.config.objective} {best['value']:.4f}{against}")
    lines.append(f"written: {study.folder}/tune.csv, tune.json, tune.png")
    words = [word for word in study.own_words if not word.startswith("seed=")]
    words += [f"{key}={value}" for key, value in best["settings"].items() if key != "seed"]
    lines.append(
        "The best of many is partly luck; over seeds: "
        + shlex.join(["python", "-m", "dkm.train", "--multirun", "seed=1,2,3", *words])
    )
    return lines


if __name__ == "__main__":
    main()
