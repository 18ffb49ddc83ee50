"""The answer of ``dkm.tune``: what it prints, its tables and its figure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkm.errors import Failure
from dkm.evaluation.scores import SCORES
from dkm.runs import reading
from dkm.search.space import Choices, Interval
from dkm.search.trials import Study, format_settings

if TYPE_CHECKING:
    import optuna

_N_SHOWN = 5


def build_answer(study: Study) -> dict[str, Any]:
    """Return the content of ``tune.json``: the best trial, and how many ended in which way."""
    from optuna.trial import TrialState

    trials = study.study.get_trials(deepcopy=False)
    n_of = {state.name.lower(): sum(trial.state is state for trial in trials) for state in TrialState}
    if not n_of["complete"]:
        raise Failure(f"{study.folder}: no trial completed; see tune.csv and the runs in trials/")
    best = study.study.best_trial
    return {
        "objective": study.config.objective,
        "direction": SCORES[study.config.objective].direction,
        "labels_chose": SCORES[study.config.objective].needs_labels,
        "best": {
            "trial": best.number,
            "value": best.value,
            "settings": best.params,
            "run": str(study.directory_of(best.number)),
        },
        "trials": {name: n_of[name] for name in ("complete", "pruned", "fail")},
    }


def write_trials(study: Study) -> None:
    """Write ``tune.csv``: every trial that has ended."""
    from dkm.runs.comparison import csv_text
    from dkm.runtime.atomic import write_atomically

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
        seconds = reading.read(directory).seconds
    except reading.DamagedRun:
        seconds = None
    return "" if seconds is None else f"{seconds:.1f}"


def write_answer(study: Study, answer: Mapping[str, Any]) -> None:
    """Write ``tune.json`` and ``tune.png``."""
    from dkm.evaluation.figures.comparison import search
    from dkm.evaluation.figures.style import save_figure
    from dkm.runtime.atomic import write_atomically

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
        is_maximized=SCORES[study.config.objective].higher_is_better,
    )
    save_figure(figure, study.folder / "tune.png")


def answer_lines(study: Study, answer: Mapping[str, Any]) -> list[str]:
    """Return the lines that are printed: the best trials, the best one, and the command that repeats it over seeds."""
    from optuna.trial import TrialState

    done = study.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    sign = -1 if SCORES[study.config.objective].higher_is_better else 1
    ordered = sorted(done, key=lambda trial: sign * (trial.value or 0.0))
    lines = ["", f"{'trial':>6}{study.config.objective:>20}  settings"]
    lines += [f"{t.number:>6}{t.value:>20.4f}  {format_settings(t.params)}" for t in ordered[:_N_SHOWN]]
    counts = answer["trials"]
    lines += ["", f"{counts['complete']} trials completed, {counts['pruned']} pruned, {counts['fail']} failed"]
    best = answer["best"]
    current = next((t for t in done if study.start is not None and t.params == dict(study.start)), None)
    against = "" if current is None else f"; the current settings: {current.value:.4f}"
    lines.append(f"best: trial {best['trial']}, {study.config.objective} {best['value']:.4f}{against}")
    lines.append(f"written: {study.folder}/tune.csv, tune.json, tune.png")
    overrides = [word for word in study.given_overrides if not word.startswith("seed=")]
    overrides += [f"{key}={value}" for key, value in best["settings"].items() if key != "seed"]
    lines.append(
        "The best of many is partly luck; repeat it over seeds: "
        + shlex.join(["python", "-m", "dkm.train", "--multirun", "seed=1,2,3", *overrides])
    )
    return lines
