"""The study of ``dkm.tune``: what is searched, checked before anything is written, and Optuna's storage of it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkm.config.commands import TuneConfig, words_of_runs
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS
from dkm.config.messages import kind_of
from dkm.config.run import Config
from dkm.config.schema import dotted, flatten
from dkm.errors import UserError, in_short
from dkm.runs import reading
from dkm.search.space import Choices, Interval, space_of, whole_numbers
from dkm.search.trials import Study, sampler

if TYPE_CHECKING:
    import optuna

# What varies where nothing is said: settings of the joint phase.
_SPACE = (
    "clustering.weight=tag(log,interval(0.1,10))",
    "clustering.init=k-means++,auto",
    "joint.lr=tag(log,interval(0.00003,0.001))",
)


_OURS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "resume")


STORAGE, LOCK = "study.db", "study.lock"


# Joint epochs, as a part of all, before a trial may be pruned.
_WARM_UP = 0.2


def cautions(study: Study) -> Iterator[str]:
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


def plan_study(config: TuneConfig, folder: Path, overrides: Sequence[str]) -> Study:
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


def data_sha256(plan: Study) -> str | None:
    """Return what tells the data from others, None where they vary; refuse what the first run would refuse."""
    from dkm.training.trainer import require_trainable  # late: a wrong word answers without torch

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
    settings = reading.moving_numbers(dotted(_first(plan)))
    # Data are told apart by their SHA-256: they may have moved.
    varying = (*(f"{key}." for key in plan.space), "data.path", "data.labels", "device", "threads")
    return {key: value for key, value in settings.items() if key not in plan.space and not key.startswith(varying)}


def open_study(plan: Study) -> optuna.Study:
    """Make Optuna's study, or open the one that is there."""
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    path = plan.folder / STORAGE
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
        raise UserError(f"{path}: cannot be read ({in_short(error)}); {remedy}") from error
    if was is None:
        raise UserError(f"output={plan.folder}: the study there was made by something else; {remedy}")
    known = dict(was)
    if was.setdefault("data_sha256", plan.sha256) != plan.sha256:
        what = "the study there is of other data than there are now; expected the same for all trials"
        raise UserError(f"output={plan.folder}: {what}; choose another folder")
    if "fixed" in was:  # what has come since has a default that does what was done before
        was["fixed"] = reading.moving_numbers(was["fixed"])  # an older version counted more settings
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
