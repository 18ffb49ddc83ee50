"""The part of ``dkm.train`` that Hydra executes: ``--multirun``, ``--cfg`` and its other flags."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from dkm.config.checks import require
from dkm.config.compose import (
    COMPOSITION_ERRORS,
    Command,
    OwnConfigs,
    checked,
    compose,
    explain,
    is_multirun,
    prepare_primary,
    set_up,
)
from dkm.config.custom import CODE_KEYS, import_plugins
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.config.values import absolute, quoted
from dkm.errors import Failure, UserError
from dkm.training.launch import Plan, execute_with_one_line_errors, require_new

# The jobs of a sweep that have ended in this process. Hydra keeps them all to the end of the sweep.
_ENDED: list[JobReturn] = []


def run_hydra(command: Command, tell: Callable[[], None] = lambda: None) -> int:
    """Let Hydra execute ``--multirun``, ``--cfg``, ``--help`` or its other flags; return the exit code.

    Parameters
    ----------
    command : Command
    tell : callable, optional
        Called once the config is composed, and before the runs of a sweep start.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its exceptions and prints no traceback
    set_up()
    OwnConfigs.extra_dir = command.extra_dir
    has_jobs = is_multirun(command.overrides)
    overrides, directory = command.overrides, None
    jobs: dict[str, JobReturn] = {}  # the jobs of a sweep by directory
    getter = JobReturn.return_value.getter(lambda job: _record_job(job, jobs))  # type: ignore[attr-defined]
    JobReturn.return_value = getter.setter(_note_end)  # type: ignore[method-assign]
    folder, name = prepare_primary(command)
    start = hydra.main(version_base="1.3", config_path=folder, config_name=name)
    try:
        if has_jobs:
            directory = _check_sweep(command)
            if directory is not None:  # fixes the time in its name
                overrides = [*overrides, f"hydra.sweep.dir={quoted(directory)}"]
            _silence_resource_tracker()
            tell()
        sys.argv = [sys.argv[0], *overrides]
        start(_run_job)()
        if not has_jobs:
            tell()
    except COMPOSITION_ERRORS as error:
        raise UserError(explain(error, command)) from error
    except OSError as error:
        if not has_jobs or error.filename is None:
            raise  # not a matter of the sweep: what is printed, for example
        where = f"output={error.filename}"
        raise UserError(f"{where}: {error.strerror}; expected a place to write; choose another") from error
    except BrokenExecutor as error:  # raised by joblib
        why = "a worker of the sweep was killed, which often means that there was not enough memory"
        if directory is None:
            raise Failure(f"{why}; completed runs are kept") from error
        _write_sweep(directory)
        raise Failure(f"{directory}: {why}; completed runs are kept; {_resume_hint(directory)}") from error
    except KeyboardInterrupt as error:
        if directory is None:
            raise
        _write_sweep(directory)
        raise KeyboardInterrupt(f"completed runs are kept; {_resume_hint(directory)}") from error
    return _finish_sweep(jobs) if has_jobs else 0


def _resume_hint(directory: Path) -> str:
    return f"the same command with resume=auto output={shlex.quote(str(directory))} resumes it"


def _check_sweep(command: Command) -> Path | None:
    """Compose and check every run of a sweep before the first one starts; return the directory of the sweep.

    Returns None for other sweepers than Hydra's basic one, which choose the runs later.
    """
    overrides = [word for word in command.overrides if "=" in word]
    if any(override.startswith("hydra/sweeper=") for override in overrides):
        code_overrides = [word for word in overrides if word.partition("=")[0].lstrip("+") in CODE_KEYS]
        # Refuses classes and plugins that only the config of a run names.
        compose(command._replace(overrides=code_overrides, is_for_hydra=False))
        return None
    directory: Path | None = None
    parsed = OverridesParser.create().parse_overrides(overrides)
    for override in parsed:
        if override.is_interval_sweep():
            command_line = f"dkm tune {shlex.quote(str(override.input_line))}"
            raise UserError(
                f"{override.input_line}: expected single values in a sweep, as {override.key_or_group}=VALUE,VALUE; to "
                f"search an interval: {command_line}"
            )
    for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None):
        for job in batch:
            composed = compose(command._replace(overrides=list(job), is_for_hydra=False))
            config, launcher = composed.config, composed.hydra.launcher
            if launcher._target_.endswith(".SlurmLauncher") and shutil.which("srun") is None:
                raise UserError("hydra/launcher: expected Slurm, found no srun; start it on a machine of the cluster")
            is_known = config.resume in (None, "auto")
            require(is_known, "resume", config.resume, "null or auto in a sweep", "resume its runs one by one")
            directory = directory or Path(absolute(composed.hydra.sweep.dir))
    return directory


def _silence_resource_tracker() -> None:
    """Suppress the warnings of joblib's resource tracker, a separate process, about leaked semaphores.

    Workers that Ctrl-C interrupts may leak semaphores. The tracker removes them, so the user need not know.
    """
    given = [os.environ["PYTHONWARNINGS"]] if os.environ.get("PYTHONWARNINGS") else []
    os.environ["PYTHONWARNINGS"] = ",".join([*given, "ignore:resource_tracker:UserWarning"])


def _record_job(job: JobReturn, jobs: dict[str, JobReturn]) -> Any:
    """Record a job of a sweep; return its value, or nan if it failed, so that the sweep continues."""
    assert job.hydra_cfg is not None
    jobs[job.hydra_cfg.hydra.runtime.output_dir] = job
    return math.nan if job.status is JobStatus.FAILED else job._return_value


def _note_end(job: JobReturn, value: Any) -> None:
    """Set the value of a job, as Hydra does when the job has ended."""
    job._return_value = value
    _ENDED.append(job)


def _drop_configs() -> None:
    """Drop the configs of the jobs that have ended, 0.2 MB each, except what ``run_hydra`` needs of them.

    Called when the next one starts, because the callbacks of a job may use its configs.
    """
    for job in _ENDED:
        hydra_config: Any = job.hydra_cfg
        if hydra_config is not None:
            runtime = SimpleNamespace(output_dir=hydra_config.hydra.runtime.output_dir)
            sweep = SimpleNamespace(dir=hydra_config.hydra.sweep.dir)
            kept: Any = SimpleNamespace(hydra=SimpleNamespace(runtime=runtime, sweep=sweep))
            job.cfg, job.hydra_cfg = None, kept
    _ENDED.clear()


def _finish_sweep(jobs: Mapping[str, JobReturn]) -> int:
    """Write ``sweep.csv``, print the errors of failed runs, and return the exit code."""
    if not jobs:
        return 0
    failed = {place: job._return_value for place, job in jobs.items() if job.status is JobStatus.FAILED}
    errors = list(failed.values())
    is_one_mistake = len({str(error) for error in errors}) == 1 and isinstance(errors[0], UserError)
    if len(failed) == len(jobs) and is_one_mistake:
        raise errors[0]
    config = next(iter(jobs.values())).hydra_cfg
    assert config is not None
    _write_sweep(Path(absolute(config.hydra.sweep.dir)))
    for place, error in failed.items():
        if not isinstance(error, UserError | Failure):
            traceback.print_exception(error)
        text = " ".join(str(error).split())
        print(f"error: {text if text.startswith(place) else f'{place}: {text}'}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed; the others have completed", file=sys.stderr)
    return 1 if failed else 0


def _write_sweep(directory: Path) -> None:
    """Write ``sweep.csv`` if the sweep has any run directory."""
    from dkm.runs.comparison import sweep_table
    from dkm.runs.reading import SWEEP
    from dkm.runtime.atomic import write_atomically

    with contextlib.suppress(UserError):
        write_atomically(directory / SWEEP, sweep_table(directory).encode())
        print(f"written: {directory / SWEEP}")


def _run_job(cfg: DictConfig) -> float:
    """Train one run of a sweep; return the objective to maximize, the modularity on the data (needs no labels).

    A launcher may call it in another process or on another machine. If it requeues the job, it calls it again in the
    same directory, and ``resume=auto`` resumes the run.
    """
    from dkm.runs.reading import CONFIG
    from dkm.training.resume import with_config_of

    _drop_configs()
    import_plugins(cfg.plugins)  # a launcher's worker has not imported them yet
    config = checked(cfg)
    directory = Path(HydraConfig.get().runtime.output_dir)
    is_new = config.resume != "auto" or not (directory / CONFIG).is_file()
    if not is_new:
        config = with_config_of(directory, config)
        if (scores := _scores_of_completed(directory, config)) is not None:
            return _objective(scores)
    else:
        require_new(directory)
    try:
        return _objective(execute_with_one_line_errors(Plan(config, directory, is_new=is_new)))
    except Failure as error:
        raise Failure(f"{directory}: {error}") from error


def _scores_of_completed(directory: Path, config: Config) -> Mapping[str, Any] | None:
    """Return the scores of a run that completed on the same data and needs no more training, None for other runs.

    None also for one whose result was altered: it is written anew from the checkpoint.

    ``config`` equals the run's config except for settings that may change on resume.
    """
    from dkm.runs import reading
    from dkm.training.resume import config_of

    try:
        run = reading.read(directory)
    except reading.DamagedRun:
        return None
    saved, wanted = dotted(config_of(directory)), dotted(config)
    applied_on_resume = [key for key in wanted if key.endswith(".epochs") or key.startswith("log.")]
    if not run.is_completed or any(reading.alterations(run, [reading.RESULT])):
        return None
    if any(saved[key] != wanted[key] for key in applied_on_resume):
        return None
    from dkm.data.datasets import load_dataset

    return run.scores if load_dataset(config.data).sha256 == run.data.get("sha256") else None


def _objective(scores: Mapping[str, Any]) -> float:
    modularity = scores.get("modularity_data")
    return -1.0 if modularity is None else float(modularity)
