"""Find the run that ``resume=`` names, and determine the config with which it is resumed.

A resumed run keeps the config of its start. Overrides that would change the results of completed steps are refused, the
others are applied; the role of a setting decides (``dkm.config.settings.Role``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dkm.config.compose import Command, compose, with_absolute_paths
from dkm.config.groups import GROUPS, PRESETS
from dkm.config.resolved import read_config
from dkm.config.roles import distinguishing_settings, role_of
from dkm.config.run import Config, with_number
from dkm.config.schema import dotted
from dkm.config.settings import dotted_key
from dkm.config.values import absolute, auto_bounds
from dkm.errors import UserError
from dkm.runs.directory import read_json
from dkm.runs.reading import CHECKPOINTS, COMPLETED, CONFIG, MANIFEST, METRICS, N_CLUSTERS_CHOICE, RESULT, is_in_use


def named_run(value: str) -> Path:
    """Return the run directory that ``resume=value`` names."""
    run = absolute(value)
    if not os.path.isfile(os.path.join(run, CONFIG)):  # noqa: PTH113, PTH118  # also False for a name that is too long
        what = "a path that does not exist"
        if os.path.isdir(run):  # noqa: PTH112
            what = f"a directory without {CONFIG}"
        elif os.path.isfile(run):  # noqa: PTH113
            what = "a file"
        raise UserError(f"resume={value}: expected a run directory, got {what}; give the path of a run")
    return Path(run)


def unfinished_run(wanted: Config, directory: Path, *, is_named: bool = False) -> Path | None:
    """Return the run that ``resume=auto`` resumes, or None to start a new one.

    This is the run in ``directory``, if there is one. If the user has not named the directory, it is otherwise the
    newest unfinished run with the same config and the same names of the data in the parent folder of ``directory`` in
    which no process is training.
    """
    if (directory / CONFIG).is_file():
        return directory
    if is_named:
        return None
    unfinished: list[tuple[str, Path]] = []
    expected = distinguishing_settings(dotted(wanted))
    for manifest_path in directory.parent.glob(f"*/{MANIFEST}"):
        try:
            manifest = read_json(manifest_path)
            if (manifest or {}).get("status") == COMPLETED or is_in_use(manifest_path.parent):
                continue
            saved = config_of(manifest_path.parent)
        except UserError as error:
            print(f"warning: resume=auto: the run is left alone: {error}", file=sys.stderr)
            continue
        numbered = _with_number_of(saved, manifest or {}, wanted)
        settings = expected if numbered is wanted else distinguishing_settings(dotted(numbered))
        if distinguishing_settings(dotted(saved)) != settings:
            continue
        if manifest is None:  # it may have completed
            found = f"{manifest_path} is damaged, so the run is left alone"
            remedy = f"if it has not ended, set resume={shlex.quote(str(manifest_path.parent))}"
            print(f"warning: resume=auto: {found}; {remedy}", file=sys.stderr)
            continue
        if (lost := what_was_lost(manifest_path.parent)) is not None:
            found = f"{manifest_path.parent}: {lost}, but its checkpoints are gone, so the run is left alone"
            print(f"warning: resume=auto: {found}", file=sys.stderr)
            continue
        unfinished.append((str(manifest.get("started")), manifest_path.parent))
    return max(unfinished)[1] if unfinished else None


def what_was_lost(run: Path) -> str | None:
    """Return what tells that a run without checkpoints has had some; None if it has one, or may have had none.

    The first checkpoint that every run writes is that of the begin of the joint phase.
    """
    folder = run / CHECKPOINTS
    if any((folder / name).exists() for name in ("last.pt", "previous.pt")):
        return None
    if (read_json(run / MANIFEST) or {}).get("status") == COMPLETED:
        return "completed"
    if (run / RESULT).exists():
        return "has results"
    return "its joint phase has begun" if _has_joint_record(run / METRICS) else None


def _has_joint_record(path: Path) -> bool:
    """Return whether metrics have a record of the joint phase; damaged records do not count."""
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(RecursionError, ValueError, AttributeError):
            if json.loads(line).get("phase") == "joint":
                return True
    return False


def resumed_config(run: Path, command: Command) -> Config:
    """Return the config with which ``run`` is resumed: its saved config with the overrides of the command line.

    A command line with a recipe or an experiment is taken as the complete command that started the run and must match
    its config.
    """
    _require_no_other_directory(run, command.overrides)
    overrides = [o for o in command.overrides if not o.lstrip("+").startswith(("resume=", "hydra.", "hydra/"))]
    preset = next((o for o in overrides if o.partition("=")[0] in PRESETS), None)
    if preset is not None:
        given = {override.lstrip("+").partition("=")[0] for override in overrides}
        remedy = f"a command with {preset} must be the whole one that started the run; leave {preset} out"
        config = compose(command._replace(overrides=overrides)).config
        return with_config_of(run, config, lambda key: _REMEDY if key.removesuffix(".name") in given else remedy)
    saved = config_of(run)
    keys = []
    for override in overrides:
        group, _, option = override.partition("=")
        if group not in GROUPS:
            keys.append(override)
            continue
        expected = getattr(saved, group).name
        if option != expected:
            raise UserError(f"{override}: expected {group}={expected} as in {run / CONFIG}, {_REMEDY}")
    return with_config_of(run, compose(_command_of(run, keys)).config)


def _require_no_other_directory(run: Path, overrides: Sequence[str]) -> None:
    """Refuse ``output=`` beside ``resume=RUN``, unless it names the run: a run is resumed in its own directory."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    for value in (text for key, _, text in pairs if key == "hydra.run.dir"):
        other = value.strip("\"'")
        if os.path.realpath(absolute(other)) != os.path.realpath(run):
            raise UserError(
                f"output={other}: expected the directory of the run, {run}, as resume= goes on in it; leave output "
                f"out, or resume a copy: cp -r {shlex.quote(str(run))} {shlex.quote(absolute(other))}"
            )


_REMEDY = "a resumed run keeps its config; leave the override out or start a new run"


def config_of(run: Path) -> Config:
    """Return the config of a run for a comparison; code that it names is not imported."""
    return with_absolute_paths(read_config(run / CONFIG, to_resume=True))


def with_config_of(run: Path, config: Config, remedy_of: Callable[[str], str] = lambda _: _REMEDY) -> Config:
    """Return ``config`` for resuming ``run``; refuse it if it changes a setting that a resumed run must keep.

    ``remedy_of`` returns the remedy for a key.
    """
    saved = config_of(run)
    config = _with_number_of(saved, read_json(run / MANIFEST) or {}, config)
    config.resume = None
    before, after = dotted(saved), dotted(config)
    for key in sorted(before.keys() | after.keys(), key=lambda key: (not key.endswith(".name"), key)):
        if before.get(key) != after.get(key) and not role_of(key).may_change_on_resume:
            raise UserError(
                f"{key}={after.get(key)}: expected {before.get(key)} as in {run / CONFIG}, {remedy_of(key)}"
            )
    for phase in (saved.pretrain, saved.joint):
        key = dotted_key(type(phase), "epochs")
        if (before[key] is None) != (after[key] is None):
            then, now = ("null" if value is None else value for value in (before[key], after[key]))
            raise UserError(f"{key}={now}: expected {then} as in {run / CONFIG}, {remedy_of(key)}")
        if before[key] != after[key] and phase.schedule != "constant":
            raise UserError(
                f"{key}={after[key]}: expected {before[key]} as in {run / CONFIG}, as {phase.section}.schedule="
                f"{phase.schedule} depends on it; leave the override out or start a new run"
            )
        if before[key] != after[key] and phase is saved.joint and getattr(saved.clustering, "self_paced", False):
            raise UserError(
                f"{key}={after[key]}: expected {before[key]} as in {run / CONFIG}, as with clustering.self_paced=true "
                "they say how fast far points are taken in; leave the override out or start a new run"
            )
        if before[key] is not None and before[key] > after[key]:
            raise UserError(
                f"{key}={after[key]}: expected {before[key]} or more, as in {run / CONFIG}; a resumed run is only made "
                f"longer; leave the override out or start a new run"
            )
    return config


def _with_number_of(saved: Config, manifest: Mapping[str, Any], config: Config) -> Config:
    """Return the config with the number of clusters that the run has found, if the config asks for the same search."""
    asked, choice = config.clustering.n_clusters, manifest.get(N_CLUSTERS_CHOICE)
    number = saved.clustering.n_clusters
    if not isinstance(asked, str) or not isinstance(choice, dict) or not isinstance(number, int):
        return config
    return with_number(config, number) if auto_bounds(choice.get("asked")) == auto_bounds(asked) else config


def _command_of(run: Path, overrides: list[str]) -> Command:
    return Command(run, "config", None, overrides, is_for_hydra=False, is_to_resume=True)
