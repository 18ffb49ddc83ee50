"""The study of ``dkm.tune``: what is searched, checked before anything is written, and Optuna's storage of it.

``trials.py`` runs its trials, ``study_report.py`` writes its answer.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkm.config.checks import require
from dkm.config.clustering import JointClusteringConfig
from dkm.config.commands import TuneConfig, words_of_runs
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS, PRESETS
from dkm.config.messages import kind_of
from dkm.config.regularization import NoRegularizationConfig
from dkm.config.roles import distinguishing_settings
from dkm.config.run import Config
from dkm.config.schema import dotted, flatten
from dkm.config.values import absolute
from dkm.errors import Failure, UserError, in_short, missing_extra_error
from dkm.evaluation.scores import SCORES, objectives
from dkm.runtime.locks import lock_folder
from dkm.search.pool import resume_hint
from dkm.search.space import Choices, Interval, Space, space_of, whole_numbers
from dkm.search.study_report import answer_lines, build_answer, write_answer, write_trials
from dkm.search.trials import Study, run_trials, sampler
from dkm.training.launch import require_trainable

if TYPE_CHECKING:
    import optuna

# Keys that the command sets itself.
_REFUSED = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "resume")
_STORAGE, _LOCK = "study.db", "study.lock"


def tune(config: TuneConfig, overrides: Sequence[str], tell: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run the trials that are missing; write, print and return the answer.

    Parameters
    ----------
    config : TuneConfig
    overrides : sequence of str
        Those of ``dkm train``, with what varies.
    tell : callable, optional
        Called once the overrides have composed without an error.

    Raises
    ------
    UserError
        If an override is wrong, or the folder has another study.
    Failure
        If no trial completes.
    """
    optuna = _import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    folder = Path(absolute(config.output or f"runs/tune/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    plan = plan_study(config, folder, overrides)
    tell()
    plan = plan._replace(sha256=data_sha256(plan))
    is_new = not os.path.exists(folder)  # noqa: PTH110  # pathlib raises for a name too long
    with lock_folder(folder, _LOCK):
        is_new = is_new and [path.name for path in folder.iterdir()] == [_LOCK]
        try:
            study = plan._replace(study=open_study(plan))
            print(f"{config.trials} trials in {folder}", flush=True)
            for line in cautions(study):
                print(f"warning: {line}", file=sys.stderr, flush=True)
            run_trials(study)
            write_trials(study)
            answer = build_answer(study)
            write_answer(study, answer)
            print("\n".join(answer_lines(study, answer)))
            return answer
        except KeyboardInterrupt as error:
            if error.args:
                raise
            raise KeyboardInterrupt(resume_hint(folder)) from error
        except UserError:
            if is_new and not any(folder.glob("trials/*/checkpoints/*")):  # wrong from the first trial on
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            raise Failure(f"{folder / _STORAGE}: {in_short(error)}; what was written before is kept") from error
        except OSError as error:
            where = error.filename or folder
            raise Failure(f"{where}: {error.strerror}; what was written before is kept") from error


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing_extra_error("dkm.tune", "optuna", "optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def cautions(study: Study) -> Iterator[str]:
    """Yield what a reader of the answer must know."""
    config = study.config
    if SCORES[config.objective].needs_labels:
        yield f"LABELS CHOOSE: objective={config.objective} uses the labels; such a score is no result of clustering"
    elif config.objective != "modularity_data":
        yield (
            f"objective={config.objective} is computed in the embedding of each trial, which the joint phase can make "
            "arbitrarily compact; objective=modularity_data compares trials"
        )
    of_the_data = [key for key in study.space if key.partition(".")[0] in ("data", *PRESETS)]
    if of_the_data:
        yield f"{of_the_data[0]} varies: scores are comparable only between clusterings of the same rows, scaled alike"
    if study.start is None:
        yield "the current settings lie outside of the search space, so no trial has them to compare with"


def plan_study(config: TuneConfig, folder: Path, overrides: Sequence[str]) -> Study:
    """Check everything that can be checked before anything is written; the study itself is still missing."""
    _require_objective(config)
    words = words_of_runs(overrides, _REFUSED, "dkm.tune sets it; use output=", folder, config.jobs)
    space, fixed = space_of(words)
    if not space:
        default = _default_space(compose(parse(fixed)).config)
        keys = {word.partition("=")[0] for word in fixed}
        space, _ = space_of([word for word in default if word.partition("=")[0] not in keys])
        if not space:
            last = next(word for word in reversed(overrides) if word in fixed)
            raise UserError(f"{last}: expected a setting that varies; for example {shlex.quote(default[0])}")
    _make_whole(space)
    _check_points(space, fixed)
    known = _current_settings(space, fixed)
    start = {key: space[key].holds(value) for key, value in known.items()}
    is_point = len(start) == len(space) and None not in start.values()
    given = [word for word in fixed if word in overrides]
    return Study(config, folder, fixed, given, space, start if is_point else None)


def _require_objective(config: TuneConfig) -> None:
    """Refuse an objective that no search can have, and one that needs labels unless the user allows it."""
    choices = ", ".join(score.name for score in objectives(with_labels=False))
    name = config.objective
    if name in {score.name for score in objectives(with_labels=True)}:
        expected = "a score that needs no labels, as they would choose the settings"
        require(config.allow_labels, "objective", name, expected, f"choose one of {choices}, or say allow_labels=true")
    else:
        known = choices.split(", ")
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        remedy = f"did you mean objective={near[0]}?" if near else "for example objective=modularity_data"
        require(name in known, "objective", name, f"one of {choices}", remedy)


def _default_space(config: Config) -> list[str]:
    """Return what varies where the user varies nothing.

    Settings of the joint phase, so that one pretraining serves all trials: the weight of the clustering loss (from the
    default of its method to 100 times that), the start of the clusters, the learning rate. A method without a joint
    phase has settings of the pretraining.
    """
    clustering = config.clustering
    inits = dict.fromkeys([clustering.init, "k-means++", "auto"])  # the user's first, each once
    words = [f"clustering.init={','.join(inits)}"]
    if not isinstance(clustering, JointClusteringConfig):
        words.insert(0, "pretrain.lr=tag(log,interval(0.0003,0.03))")
        if not isinstance(config.regularization, NoRegularizationConfig):
            words.append("regularization.strength=tag(log,interval(1e-8,1e-4))")
        return words
    low = "0.00003" if config.joint.lr >= 3e-5 else f"{config.joint.lr:g}"
    words.append(f"joint.lr=tag(log,interval({low},{max(1e-3, config.joint.lr):g}))")
    if clustering.reconstruction > 0:  # else the weight scales the whole loss, to which Adam is indifferent
        least = type(clustering)().weight
        words.insert(0, f"clustering.weight=tag(log,interval({least:g},{100 * least:g}))")
    return words


def _make_whole(space: dict[str, Choices | Interval]) -> None:
    """Make intervals of settings that are whole numbers intervals of whole numbers."""
    for key, dimension in space.items():
        if isinstance(dimension, Interval) and not dimension.is_int and kind_of(key).startswith("a whole number"):
            space[key] = whole_numbers(key, dimension)


def _check_points(space: Space, words: Sequence[str]) -> None:
    """Compose the config with the ends of every interval and with every choice; refuse a search for a number."""
    firsts = {key: dimension.samples()[0] for key, dimension in space.items()}
    for key, dimension in space.items():
        for value in dimension.samples():
            point = firsts | {key: value}
            config = compose(parse([*words, *(f"{name}={text}" for name, text in point.items())])).config
            _require_number(config.clustering.n_clusters)


def _require_number(n_clusters: object) -> None:
    key, expected = "clustering.n_clusters", "a number, as each trial would find one of its own"
    require(not isinstance(n_clusters, str), key, n_clusters, expected, f"for example {key}=10")


def _current_settings(space: Space, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings that vary as they are without the search, as far as they are known."""
    settings = {}
    with contextlib.suppress(UserError):  # what varies may be required, such as the number of clusters
        settings = flatten(asdict(compose(parse(words)).config))
    settings |= {group: settings[f"{group}.name"] for group in GROUPS if f"{group}.name" in settings}
    return {key: settings[key] for key in space if key in settings}


def data_sha256(plan: Study) -> str | None:
    """Return what tells the data from others, None where they vary; refuse what the first run would refuse."""
    if any(key.partition(".")[0] in ("data", *PRESETS) for key in plan.space):
        return None
    config = plan.config
    needs_labels = SCORES[config.objective].needs_labels
    return require_trainable(_first(plan), labels_for=f"objective={config.objective}" if needs_labels else None)


def _first(plan: Study) -> Config:
    """Return the config of one point of the space."""
    firsts = [f"{key}={dimension.samples()[0]}" for key, dimension in plan.space.items()]
    return compose(parse([*plan.overrides, *firsts])).config


def _fixed(plan: Study) -> dict[str, Any]:
    """Return the settings that all trials have, and that move a number; the file of a preset may have changed."""
    settings = distinguishing_settings(dotted(_first(plan)))
    # Data are told apart by their SHA-256: they may have moved.
    varying = (*(f"{key}." for key in plan.space), "data.path", "data.labels")
    return {key: value for key, value in settings.items() if key not in plan.space and not key.startswith(varying)}


def open_study(plan: Study) -> optuna.Study:
    """Make Optuna's study, or open the existing one."""
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    path = plan.folder / _STORAGE
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    remedy = "expected a study of the same search; choose another output="
    settings = {
        "objective": plan.config.objective,
        "space": {key: asdict(dimension) for key, dimension in plan.space.items()},
        "words": sorted(plan.given_overrides),
        "data_sha256": plan.sha256,
        "fixed": {} if any(preset in plan.space for preset in PRESETS) else _fixed(plan),
    }
    settings = json.loads(json.dumps(settings))  # as the study keeps them
    try:
        study = optuna.create_study(
            storage=url,
            study_name="dkm",
            direction=SCORES[plan.config.objective].direction,
            load_if_exists=True,
            sampler=sampler(0),
        )
        was = study.user_attrs.get("settings")
        if was is None and not study.trials:
            study.set_user_attr("settings", settings)
            was = settings
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise UserError(f"{path}: cannot be read ({in_short(error)}); {remedy}") from error
    if was is None:
        raise UserError(f"output={plan.folder}: the study there was made by something else; {remedy}")
    known = dict(was)
    if was.setdefault("data_sha256", plan.sha256) != plan.sha256:
        what = "the study there was made with other data; expected the same data for all trials"
        raise UserError(f"output={plan.folder}: {what}; choose another output=")
    if "fixed" in was:  # what has come since has a default that does what was done before
        was["fixed"] = distinguishing_settings(was["fixed"])  # an older version counted more settings
        settings["fixed"] = {key: settings["fixed"].get(key) for key in was["fixed"]}
    for key, value in settings.items():
        if was.setdefault(key, value) != value:
            raise UserError(f"output={plan.folder}: the study there has {_difference(key, was[key], value)}; {remedy}")
    if was != known:
        study.set_user_attr("settings", was)
    return study


def _difference(key: str, old: Any, new: Any) -> str:
    """Return in what two studies differ."""
    if isinstance(old, list):
        only_old, only_new = [w for w in old if w not in new], [w for w in new if w not in old]
        return f"{', '.join(only_old) or 'nothing'} where this call has {', '.join(only_new) or 'nothing'}"
    if key == "fixed":
        key = next(key for key in (old | new) if old.get(key) != new.get(key))
        old, new = old.get(key), new.get(key)
    return f"{key} {json.dumps(old)}, this call {json.dumps(new)}"
