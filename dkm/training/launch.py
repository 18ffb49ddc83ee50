"""Launch a run from a command line: choose its directory, train, and report errors in one line."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf

from dkm.config.compose import Command, Composed, compose
from dkm.config.data import SCALINGS
from dkm.config.run import Config, with_number
from dkm.config.values import absolute, override
from dkm.errors import Failure, UserError, is_out_of_memory
from dkm.runs.reading import CHECKPOINTS, CONFIG, LOCK, LOG, MANIFEST, N_CLUSTERS_CHOICE
from dkm.runtime import distributed

if TYPE_CHECKING:
    from dkm.clustering.neighborhood import Neighborhood
    from dkm.data.datasets import Dataset
    from dkm.runs.directory import RunWriter
    from dkm.training.state import Clock
    from dkm.training.trainer import Trainer

log = logging.getLogger(__name__)

# Files written before the config. A run without a config cannot be resumed, so its directory may be used again. So may
# one whose manifest holds a number of clusters and nothing else.
_FILES_BEFORE_CONFIG = (".hydra", LOCK, LOG, f"{CONFIG}.tmp", f"{MANIFEST}.tmp")


class Plan(NamedTuple):
    """The config and the directory of a run."""

    config: Config
    directory: Path
    # What Hydra writes for a new run; None for a resumed run, and in a sweep, where Hydra writes it itself.
    composed: Composed | None = None
    is_new: bool = False
    # The search for the number of clusters that the command line asks for again, and that the resumed run has made.
    asked: str | None = None


def plan_run(command: Command) -> Plan:
    """Return the plan for a command line: a new run, or one to resume (``resume=RUN``, ``resume=auto``)."""
    values = [o.partition("=")[2].strip("'\"") for o in command.overrides if o.startswith("resume=")]
    resume = values[-1] if values else None
    if resume not in (None, "auto", "null"):
        from dkm.training.resume import named_run, resumed_config

        run = named_run(resume)
        return Plan(resumed_config(run, command), run)
    composed = compose(command)
    resume = composed.config.resume  # which a config of the user's own may set too
    directory = Path(absolute(composed.hydra.run.dir)).absolute()
    if not distributed.is_main():  # see `plan_of_main`
        composed.config.resume = None
        return Plan(composed.config, directory, composed, is_new=True)
    if resume not in (None, "auto"):
        word = override("resume", resume)
        raise UserError(f"resume={resume}: expected null or auto in a config file; put {word} on the command line")
    if resume == "auto":
        from dkm.training.resume import unfinished_run, with_config_of

        unfinished = unfinished_run(composed.config, directory, is_named=_is_named(composed))
        if unfinished is not None:
            asked, config = composed.config.clustering.n_clusters, with_config_of(unfinished, composed.config)
            return Plan(config, unfinished, asked=asked if isinstance(asked, str) else None)
    require_new(directory)
    return Plan(composed.config, directory, composed, is_new=True)


def plan_of_main(plan: Plan) -> Plan:
    """Return the plan of this rank with what rank 0 alone has decided.

    That is the directory, whether the run is new, and the number of clusters that a resumed run has found. The name of
    a new directory contains the time, and other ranks may see no runs to resume.
    """
    decided = [str(plan.directory), plan.is_new, plan.asked, plan.config.clustering.n_clusters]
    sent = distributed.from_main(json.dumps(decided).encode())
    assert sent is not None
    directory, is_new, asked, number = json.loads(sent)
    config = plan.config
    if asked is not None and config.clustering.n_clusters == asked:
        config = with_number(config, number)
    return Plan(config, Path(directory), plan.composed, is_new, asked)


def _is_named(composed: Composed) -> bool:
    """Return whether the directory of a run was chosen, and not made from the time, so that it is a new one each time.

    ``output=``, ``hydra.run.dir=`` and a config of the user's own may choose it.
    """
    raw = OmegaConf.to_container(composed.hydra.run, resolve=False)
    return isinstance(raw, dict) and "${now:" not in str(raw["dir"])


def require_new(directory: Path) -> None:
    """Refuse a run directory with files other than those of a run that was killed before it wrote its config."""
    is_directory = os.path.isdir(directory)  # noqa: PTH112  # also False for a name that is too long
    if os.path.lexists(directory) and not is_directory:
        raise UserError(f"output={directory}: expected a directory, got a file; choose another")
    if is_directory and not all(_precedes_config(path) for path in directory.iterdir()):
        raise UserError(
            f"output={directory}: expected a new or an empty directory; choose another, or continue the run in "
            f"it with resume={shlex.quote(str(directory))}"
        )


def _precedes_config(path: Path) -> bool:
    """Return whether a run has written the file, and before its config."""
    from dkm.runs.directory import read_json

    if path.name == MANIFEST:
        return (read_json(path) or {}).keys() == {N_CLUSTERS_CHOICE}
    return path.name in _FILES_BEFORE_CONFIG


def print_once(message: str) -> None:
    """Print a message to stderr, on rank 0 only."""
    if distributed.is_main():
        print(message, file=sys.stderr)


def execute_with_one_line_errors(plan: Plan) -> dict[str, Any]:
    """Call ``execute``; raise failures that are not user errors as a ``Failure`` with a message of one line."""
    try:
        return execute(plan)
    except distributed.RankLost as error:
        if (plan.directory / CHECKPOINTS).is_dir():
            what = "a checkpoint was written" if distributed.is_main() else "the last checkpoint is kept"
            error.remedy = f"{what}; {_how_to_continue(plan)}"
        raise
    except OSError as error:
        where = error.filename or str(plan.directory)
        kept = "; what was written before is kept" if distributed.is_main() else ""  # rank 0 tells what was
        if kept and error.errno in (errno.ENOSPC, errno.EDQUOT) and (plan.directory / CHECKPOINTS).is_dir():
            kept += f"; free some space, then {_how_to_continue(plan)}"
        raise Failure(f"{_who()}{where}: {error.strerror or error}{kept}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = str(error).partition("\n")[0]
        remedy = "lower batch_size or model.hidden, or use less data"
        raise Failure(f"{_who()}not enough memory ({what}); {remedy}") from error


def _who() -> str:
    """Return the rank for the begin of a message, empty with one process."""
    return f"rank {distributed.rank()}: " if distributed.is_several() else ""


def _how_to_continue(plan: Plan) -> str:
    return f"continue with resume={shlex.quote(str(plan.directory))}, with any number of processes"


def execute(plan: Plan) -> dict[str, Any]:
    """Train in a new run directory, or resume the run in it; return the result.

    The data, and their consistency with the config and the machine, are checked before anything is written. Only rank 0
    reads and writes the run directory; it sends the other ranks what they need. The number of clusters is found, if the
    config asks for that, before the config is written, which then has it.
    """
    from dkm.runs.directory import RunDirectory, Unwritten
    from dkm.runtime.devices import set_threads
    from dkm.training.requirements import check_sinks, identity
    from dkm.training.restoring import scaling_of
    from dkm.training.state import Clock
    from dkm.training.trainer import Trainer

    clock = Clock()
    config, directory = plan.config, plan.directory
    distributed.limit_waits(config.distributed.timeout_s)
    if config.log.figures:
        import dkm.evaluation.figures.style  # noqa: F401 - imports matplotlib before gc.freeze
    if not gc.get_freeze_count():
        gc.freeze()  # a collection that visits all modules took 0.3 s, and each figure leaves cycles
    set_threads(config.threads)
    kept = distributed.from_main(_kept_scaling(directory))
    trainer = _load_trainer(config, None if kept is None else kept.decode(), clock)
    distributed.require_equal(identity(config, trainer.data, trainer.device))
    distributed.on_main(lambda: check_sinks(config))
    run: RunWriter = Unwritten()
    if distributed.is_main():
        settings = config.log
        run = RunDirectory(directory, sinks=settings.sinks, progress=settings.progress, safe_csv=config.safe_csv)
    try:
        state = distributed.state_of_main(distributed.on_main(lambda: prepare_run_directory(run, plan)))
        if state is None and not plan.is_new:
            distributed.on_main(lambda: _require_data_of(run, trainer.data))
        distributed.prepare_for_failure(
            str(directory / LOG), f"the last checkpoint, if there is one, is kept; {_how_to_continue(plan)}"
        )
        if state is not None:
            kind, present = scaling_of(state), trainer.data.scaling.kind
            if kind not in (None, present) and config.data.scaling is None:
                log.warning("the checkpoint says data.scaling=%s, not %s as %s; read again", kind, present, MANIFEST)
                del trainer  # its copy of the data
                trainer = _load_trainer(config, kind, clock)
            distributed.jointly(lambda: trainer.restore(state, directory))
            if (choice := state.get(N_CLUSTERS_CHOICE)) is not None:
                run.manifest[N_CLUSTERS_CHOICE] = choice  # the one in the manifest has no digest
        elif isinstance(config.clustering.n_clusters, str):
            data = trainer.data
            del trainer  # its copy of the data on the device
            config, neighborhood = _find_number(config, data, run, clock)
            trainer = Trainer(config, data, clock, neighborhood)
        run.open(config, step=None if state is None else trainer.progress.step, has_labels=trainer.data.y is not None)
        return trainer.run(run)
    except Exception as error:
        if trace := distributed.traceback_of(error):
            log.info("%s", trace, extra={"is_for_file": True})
        raise
    finally:
        run.close()


def _load_trainer(config: Config, kept_kind: str | None, clock: Clock) -> Trainer:
    """Load the data, scaled as ``kept_kind`` says (see ``load_dataset``), and return a trainer for them."""
    from dkm.data.datasets import load_dataset

    return distributed.first_of_machine_first(
        lambda: _build_trainer(config, load_dataset(config.data, kept_kind=kept_kind), clock)
    )


def _build_trainer(config: Config, data: Dataset, clock: Clock | None = None) -> Trainer:
    """Return a trainer, with the largest number of clusters if the config leaves the number to a search."""
    from dkm.training.n_clusters import with_largest_number
    from dkm.training.trainer import Trainer

    return Trainer(with_largest_number(config, data), data, clock)


def _find_number(config: Config, data: Dataset, run: RunWriter, clock: Clock) -> tuple[Config, Neighborhood | None]:
    """Find the number of clusters on rank 0; return the config with it, and there the neighborhood that it is from."""
    from dkm.runtime.devices import deterministic
    from dkm.training.n_clusters import find_number

    with clock.section(clock.SEARCH), deterministic(config.deterministic):
        choice = distributed.on_main(lambda: find_number(config, data))
    if choice is not None:
        for warning in choice.recommendation.warnings:
            log.warning("number of clusters: %s", warning)
        run.update_manifest(**{N_CLUSTERS_CHOICE: choice.to_dict()})
    number = distributed.from_main(None if choice is None else str(choice.recommendation.n_clusters).encode())
    assert number is not None
    return with_number(config, int(number)), None if choice is None else choice.neighborhood


def require_trainable(config: Config, *, labels_for: str | None = None) -> str:
    """Return the SHA-256 of the data; refuse what a run would refuse when it sees them, such as too many clusters.

    Parameters
    ----------
    labels_for : str, optional
        The setting that needs labels; data without labels are refused.

    Raises
    ------
    UserError
    """
    from dkm.data.datasets import load_dataset

    data = load_dataset(config.data)
    if labels_for is not None and data.y is None:
        raise UserError(f"{labels_for}: expected data with labels, got data={data.name} without; give data.labels=")
    _build_trainer(config, data)
    return data.sha256


def _kept_scaling(run: Path) -> bytes | None:
    """Return the kind of scaling in the manifest of a run that is resumed, empty if it is too old to have one.

    None if there is no such run, or the manifest is damaged. The checkpoint says it too, and is digested.
    """
    from dkm.runs.directory import read_json

    data = (read_json(run / MANIFEST) or {}).get("data")
    if not isinstance(data, dict):
        return None
    kind = data.get("scaling", "")
    return kind.encode() if kind in ("", *SCALINGS) else None


def _require_data_of(run: RunWriter, data: Dataset) -> None:
    """Refuse other data than those of a run that has no checkpoint yet; a checkpoint names its data itself."""
    from dkm.training.restoring import require_same_data

    earlier = run.read_manifest().get("data")
    if isinstance(earlier, dict) and isinstance(earlier.get("sha256"), str):
        require_same_data(earlier["sha256"], data)


def prepare_run_directory(run: RunWriter, plan: Plan) -> dict[str, Any] | None:
    """Create the run directory and open its log; return the checkpoint to resume from, or None."""
    from dkm.runtime import checkpoints
    from dkm.runtime.locks import holder_of
    from dkm.training.resume import what_was_lost

    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        _require_no_links(plan.directory)
        if not run.lock():
            key = "output" if plan.is_new else "resume"
            found = f"a process is training in it ({holder_of(plan.directory / LOCK)})"
            remedy = "wait until it ends, or stop it"
            raise UserError(f"{key}={plan.directory}: expected a run that has ended, {found}; {remedy}")
        if plan.is_new:
            require_new(plan.directory)  # again: since it was planned another process may have trained in it
        run.open_log()
        if not (plan.directory / CONFIG).exists() and _precedes_config(plan.directory / MANIFEST):
            (plan.directory / MANIFEST).unlink()  # of a run that was killed
        if plan.composed is not None:
            _write_hydra_files(plan.directory / ".hydra", plan.composed)
    except OSError as error:
        raise UserError(
            f"output={plan.directory}: {error.strerror}; expected a place to write; choose another"
        ) from error
    try:
        state = checkpoints.load(plan.directory / CHECKPOINTS)
        lost = what_was_lost(plan.directory) if state is None and not plan.is_new else None
    except OSError as error:
        where = error.filename or plan.directory / "checkpoints"
        found = f"cannot be read ({error.strerror}); nothing was changed"
        raise UserError(f"{where}: {found}; expected a readable checkpoint; resume the run once it is") from error
    if lost is not None:
        raise UserError(
            f"{plan.directory}: {lost}, but its checkpoints are gone; expected {CHECKPOINTS}/{checkpoints.LAST}; "
            "put it back, or start a new run with output=DIR; a search trains a run again whose directory is gone"
        )
    return state


def _require_no_links(run: Path) -> None:
    """Refuse a run directory with a link that leads out of it: somebody may have planted it, and resuming writes there.

    The directory itself may be a link, and wandb makes links within it.
    """
    from dkm.runtime.links import links_out_of

    for link in links_out_of(run):
        copied = f"cp -rL {shlex.quote(str(run))} {shlex.quote(f'{run}-copy')}"
        raise UserError(
            f"{link}: a link to {link.readlink()}; expected files of the run alone, as resuming it writes to "
            f"them; remove the link, or resume a copy without links: {copied}"
        )


def _write_hydra_files(directory: Path, composed: Composed) -> None:
    """Write the files that Hydra itself writes for a job."""
    from dkm.runtime.atomic import write_atomically

    directory.mkdir(exist_ok=True)
    parts = {"config": composed.job, "hydra": {"hydra": composed.hydra}, "overrides": composed.hydra.overrides.task}
    for name, part in parts.items():
        write_atomically(directory / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(part)).encode())
