"""``python -m dkm.train [overrides]``: from the command line to a finished run.

Compose the config, check it, load the data, check what they allow together, and only then make the run directory and
train: a mistake costs one line and leaves nothing behind. torch is imported after the config was found good.

Exit codes: 0 done, 2 the user's input is wrong (one line), 1 anything else, 130 interrupted (a checkpoint was written).
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dkm import distributed
from dkm.commands import EXIT_INTERRUPTED, EXIT_USER_ERROR, quoted
from dkm.compose import Command, Composed, OwnConfigs, absolute, checked, compose, explain, parse, set_up
from dkm.config import Config, Failure, UserError, dotted, require

if TYPE_CHECKING:
    from dkm.rundir import RunDirectory


class Plan(NamedTuple):
    """What to run, and in which directory; ``composed`` if the run is new."""

    config: Config
    directory: Path
    composed: Composed | None = None


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _main(sys.argv[1:])
    except distributed.ToldElsewhere:
        code = EXIT_USER_ERROR
    except distributed.RankLost as error:  # before the run began
        print(f"error: {error}; nothing was trained yet; start all of them again", file=sys.stderr)
        code = 1
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        _say("interrupted")
        code = EXIT_INTERRUPTED
    distributed.leave(code)


def _main(arguments: Sequence[str]) -> int:
    if not distributed.is_several():
        command = parse(arguments)
        return _run_hydra(command) if command.is_for_hydra else _exit_code(_plan(command))
    import torch

    with distributed.process_group(with_cuda=torch.cuda.is_available()):
        command = distributed.jointly(lambda: _parse_for_several(arguments))
        if command.is_for_hydra:  # prints, and needs no help with it
            return _run_hydra(command) if distributed.is_main() else 0
        plan = distributed.jointly(lambda: _plan(command))
        directory = distributed.from_main(os.fsencode(plan.directory))
        assert directory is not None
        return _exit_code(plan._replace(directory=Path(os.fsdecode(directory))))


def _parse_for_several(arguments: Sequence[str]) -> Command:
    command = parse(arguments)
    if _is_sweep(command):
        raise UserError("--multirun: expected one process, got several from torchrun; start the runs one by one")
    return command


def _is_sweep(command: Command) -> bool:
    return not {"-m", "--multirun"}.isdisjoint(command.overrides)


def _plan(command: Command) -> Plan:
    given = [o.partition("=")[2].strip("'\"") for o in command.overrides if o.startswith("resume=")]
    named = given[-1] if given else None
    if named not in (None, "auto", "null"):
        from dkm.resume import named_run, resumed_config

        run = named_run(named)
        return Plan(resumed_config(run, command), run)
    composed = compose(command)
    directory = Path(composed.hydra.run.dir).absolute()
    if not distributed.is_main():  # rank 0 tells the directory, whose name has the time in it
        composed.config.resume = None
        return Plan(composed.config, directory, composed)
    if named == "auto":
        from dkm.resume import unfinished_run, with_config_of

        found = unfinished_run(composed.config, directory)
        if found is not None:
            return Plan(with_config_of(found, composed.config), found)
    require_new(directory)
    return Plan(composed.config, directory, composed)


def require_new(directory: Path, besides: Sequence[str] = ()) -> None:
    """Refuse a run directory that has something in it, ``besides`` the names given."""
    is_directory = os.path.isdir(directory)  # noqa: PTH112  # False also for a name too long
    if os.path.lexists(directory) and not is_directory:
        raise UserError(f"hydra.run.dir={directory}: expected a directory, got a file; choose another")
    if is_directory and any(path.name not in besides for path in directory.iterdir()):
        raise UserError(
            f"hydra.run.dir={directory}: expected a new or an empty directory; choose another, or continue the run in "
            f"it with resume={directory}"
        )


def _exit_code(plan: Plan) -> int:
    from dkm.interrupt import Interrupted

    try:
        _explained(plan)
    except Interrupted:
        _say(f"interrupted: a checkpoint was written; continue with resume={shlex.quote(str(plan.directory))}")
        return EXIT_INTERRUPTED
    return 0


def _say(message: str) -> None:
    """Print what all processes know, once."""
    if distributed.is_main():
        print(message, file=sys.stderr)


def _explained(plan: Plan) -> dict[str, Any]:
    """``execute``, with what can go wrong in a run that is right as a ``Failure`` of one line."""
    from dkm.trainer import NonFiniteLoss

    try:
        return execute(plan)
    except NonFiniteLoss as error:
        if not distributed.is_main():
            raise SystemExit(1) from error  # rank 0 has found the same, and says so
        raise Failure(str(error)) from error
    except distributed.RankLost as error:
        if not (plan.directory / "checkpoints").is_dir():
            raise
        where = shlex.quote(str(plan.directory))
        what = "a checkpoint was written" if distributed.is_main() else "the last checkpoint is kept"
        raise Failure(f"{error}; {what}; continue with resume={where}, with any number of processes") from error
    except OSError as error:
        where = error.filename or str(plan.directory)
        raise Failure(f"{where}: {error.strerror}; what was written before is kept") from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        what = str(error).partition("\n")[0]
        raise Failure(f"not enough memory ({what}); lower batch_size or model.hidden, or give less data") from error


def execute(plan: Plan) -> dict[str, Any]:
    """Train, in a new directory or continuing from what is in it; return the result.

    Whatever is wrong with the data, or between config, data and machine, is found before anything is written. With
    several processes rank 0 alone reads and writes the run directory, and tells the others what they need.
    """
    from dkm.data import load_dataset
    from dkm.devices import set_threads
    from dkm.rundir import RunDirectory, Unwritten
    from dkm.trainer import Trainer

    config, directory, _ = plan
    if config.log.figures:
        import dkm.figures  # noqa: F401 - matplotlib, which is needed anyway
    if not gc.get_freeze_count():
        gc.freeze()  # modules: a collection that walked through them took 0.3 s, and each picture leaves cycles
    set_threads(config.threads)
    trainer = distributed.first_of_machine_first(lambda: Trainer(config, load_dataset(config.data)))
    distributed.require_equal(trainer.identity())
    run: RunDirectory = Unwritten()
    if distributed.is_main():
        run = RunDirectory(directory, tensorboard=config.log.tensorboard, progress=config.log.progress)
    try:
        state = distributed.state_of_main(distributed.on_main(lambda: _opened(run, plan)))
        if state is not None:
            distributed.jointly(lambda: trainer.restore(state, directory))
        run.open(config, step=None if state is None else trainer.at.step, has_labels=trainer.data.y is not None)
        return trainer.run(run)
    finally:
        run.close()


def _opened(run: RunDirectory, plan: Plan) -> dict[str, Any] | None:
    """Make the run directory what a run can write to; return the state to go on from, if there is one."""
    from dkm import checkpoint

    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        if not run.open_log():
            key = "resume" if plan.composed is None else "hydra.run.dir"
            what = "expected a run that has ended, a process is training in it; wait for it or stop it"
            raise UserError(f"{key}={plan.directory}: {what}")
        if plan.composed is not None:
            _write_hydra_files(plan.directory / ".hydra", plan.composed)
    except OSError as error:
        raise UserError(
            f"hydra.run.dir={plan.directory}: {error.strerror}; expected a place to write; choose another"
        ) from error
    return checkpoint.load(plan.directory / "checkpoints")


def _write_hydra_files(directory: Path, composed: Composed) -> None:
    """Write what Hydra itself leaves beside a run."""
    directory.mkdir(exist_ok=True)
    OmegaConf.save(composed.job, directory / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": composed.hydra}), directory / "hydra.yaml")
    OmegaConf.save(composed.hydra.overrides.task, directory / "overrides.yaml")


def _run_hydra(command: Command) -> int:
    """Leave ``--multirun``, ``--cfg``, ``--help`` and the other flags to Hydra."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its exceptions come to us instead of a traceback
    set_up()
    OwnConfigs.extra_dir = command.extra_dir
    is_sweep = _is_sweep(command)
    overrides, directory = command.overrides, None
    jobs: dict[str, JobReturn] = {}  # those of a sweep, by their directories
    getter = JobReturn.return_value.getter(lambda job: _noted(job, jobs))  # type: ignore[attr-defined]
    JobReturn.return_value = getter  # type: ignore[method-assign]
    start = hydra.main(version_base="1.3", config_path=str(command.config_path), config_name=command.config_name)
    try:
        if is_sweep:
            directory = _check_sweep(command)
            if directory is not None:  # the time in its name is that of now, once and for all
                overrides = [*overrides, f"hydra.sweep.dir={quoted(directory)}"]
            _quiet_about_what_an_interrupt_leaves()
        sys.argv = [sys.argv[0], *overrides]
        start(_job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, command.overrides)) from error
    except OSError as error:
        where = f"hydra.sweep.dir={error.filename}"
        raise UserError(f"{where}: {error.strerror}; expected a place to write; choose another") from error
    except BrokenExecutor as error:  # of joblib's workers
        why = "a worker of the sweep was killed, which often means that there was not enough memory"
        if directory is None:
            raise Failure(f"{why}; runs that had ended are whole") from error
        _write_sweep(directory)
        goes_on = f"the same command with resume=auto hydra.sweep.dir={directory} goes on"
        raise Failure(f"{directory}: {why}; runs that had ended are whole; {goes_on}") from error
    return _end_of_sweep(jobs) if is_sweep else 0


def _check_sweep(command: Command) -> Path | None:
    """Compose every run of a sweep before the first one starts; return where they go.

    Other sweepers than Hydra's basic one choose the runs later: then None.
    """
    overrides = [word for word in command.overrides if "=" in word]
    if any(override.startswith("hydra/sweeper=") for override in overrides):
        return None
    directory: Path | None = None
    parsed = OverridesParser.create().parse_overrides(overrides)
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


def _quiet_about_what_an_interrupt_leaves() -> None:
    """Keep joblib's tracker of semaphores, a process of its own, from warning about those that it clears away.

    Workers that Ctrl-C ends at the wrong moment leave some, and nobody can do anything about it.
    """
    given = [os.environ["PYTHONWARNINGS"]] if os.environ.get("PYTHONWARNINGS") else []
    os.environ["PYTHONWARNINGS"] = ",".join([*given, "ignore:resource_tracker:UserWarning"])


def _noted(job: JobReturn, jobs: dict[str, JobReturn]) -> Any:
    """Return what a job of a sweep returned, nan if it failed: the other runs go on."""
    assert job.hydra_cfg is not None
    jobs[job.hydra_cfg.hydra.runtime.output_dir] = job
    return math.nan if job.status is JobStatus.FAILED else job._return_value


def _end_of_sweep(jobs: Mapping[str, JobReturn]) -> int:
    """Write ``sweep.csv``, tell which runs failed and why, and return the exit code."""
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
        print(f"{len(failed)} of {len(jobs)} runs failed; the others are whole", file=sys.stderr)
    return 1 if failed else 0


def _write_sweep(directory: Path) -> None:
    """Write ``sweep.csv``, if a run got as far as to have a directory."""
    from dkm import checkpoint
    from dkm.compare import sweep_table
    from dkm.runs import SWEEP

    with contextlib.suppress(UserError):
        checkpoint.write_atomically(directory / SWEEP, sweep_table(directory).encode())
        print(f"written: {directory / SWEEP}")


def _job(cfg: DictConfig) -> float:
    """One run of a sweep; returns the objective, to be maximized: the modularity on the data, which needs no labels.

    A launcher may call it in another process or on another machine, and again in the same directory when it has queued
    the job again; with ``resume=auto`` the run then goes on.
    """
    from dkm.resume import with_config_of
    from dkm.runs import CONFIG, LOG

    config = checked(cfg)
    directory = Path(HydraConfig.get().runtime.output_dir)
    if config.resume == "auto" and (directory / CONFIG).is_file():
        config = with_config_of(directory, config)
        if (scores := _scores_of_completed(directory, config)) is not None:
            return _objective(scores)
    else:  # Hydra has just written the first, and a run that was killed as it began left the others
        require_new(directory, besides=(".hydra", LOG, f"{CONFIG}.tmp"))
    try:
        return _objective(_explained(Plan(config, directory)))
    except Failure as error:
        raise Failure(f"{directory}: {error}") from error


def _scores_of_completed(directory: Path, config: Config) -> Mapping[str, Any] | None:
    """Return the scores of a run that is there and complete, on these data, in which nothing is to be done; else None.

    Its config is that of the run, but for what a run may be resumed with.
    """
    from dkm import runs
    from dkm.resume import config_of

    try:
        run = runs.read(directory)
    except runs.DamagedRun:
        return None
    saved, wanted = dotted(config_of(directory)), dotted(config)
    to_do = [key for key in wanted if key.endswith(".epochs") or key.startswith("log.")]
    if not run.is_completed or any(saved[key] != wanted[key] for key in to_do):
        return None
    from dkm.data import load_dataset

    return run.scores if load_dataset(config.data).sha256 == run.data.get("sha256") else None


def _objective(scores: Mapping[str, Any]) -> float:
    modularity = scores.get("modularity_data")
    return -1.0 if modularity is None else float(modularity)


if __name__ == "__main__":
    main()
