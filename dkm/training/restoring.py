"""The content of a checkpoint: written from the parts of a run, checked against them, and restored into them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dkm.clustering.losses.base import ClusteringLoss
from dkm.config.data import SCALINGS
from dkm.config.roles import role_of
from dkm.config.run import Config
from dkm.config.schema import dotted, flatten, to_dict
from dkm.data.datasets import Dataset
from dkm.errors import UserError, is_out_of_memory
from dkm.models.autoencoder import Autoencoder
from dkm.runs.directory import RunWriter
from dkm.runs.reading import N_CLUSTERS_CHOICE
from dkm.runtime import checkpoints
from dkm.training.contents import require_entries, require_kept, require_labels, require_like, require_progress
from dkm.training.due import is_reset_ahead
from dkm.training.guard import states_from
from dkm.training.objective import LossTerms
from dkm.training.state import PHASES, Clock, Progress, TrainState
from dkm.training.steps import EpochSteps

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a run resumes with beside its modules.

    ``phase`` is the state for ``Phase.load``, ``metrics_bytes`` the size of ``metrics.jsonl`` at the checkpoint and
    ``metrics_sha256`` its digest, which checkpoints of earlier versions lack.
    """

    progress: Progress
    phase: dict[str, Any]
    metrics_bytes: int
    metrics_sha256: str | None


class Checkpointer:
    """Writes checkpoints of a run, and restores one.

    Parameters
    ----------
    config : Config
    data : Dataset
    autoencoder : Autoencoder
    clustering : ClusteringLoss
    steps : EpochSteps
    """

    def __init__(
        self, config: Config, data: Dataset, autoencoder: Autoencoder, clustering: ClusteringLoss, steps: EpochSteps
    ) -> None:
        self._config = config
        self._data = data
        self._autoencoder = autoencoder
        self._clustering = clustering
        self._steps = steps
        self._saved_at_s = time.monotonic()

    def is_due(self) -> bool:
        """Return whether the last checkpoint is older than ``checkpoint.every_s``."""
        return time.monotonic() - self._saved_at_s >= self._config.checkpoint.every_s

    def save(self, run: RunWriter, progress: Progress, phase: dict[str, Any]) -> None:
        """Write a checkpoint to the run directory; ``phase`` is the ``Phase.state``."""
        state = {
            **progress_to_dict(progress),
            "autoencoder": self._autoencoder.state_dict(),
            "clustering": self._clustering.state_dict(),
            **phase,
            "terms": self._steps.values,
            "centroids_before": self._steps.centroids_before,
            "metrics_bytes": run.sync_metrics(),
            "metrics_sha256": run.metrics_sha256(),
            "config": to_dict(self._config),
            "data_sha256": self._data.sha256,
            "scaling": self._data.scaling.kind,
            N_CLUSTERS_CHOICE: run.manifest.get(N_CLUSTERS_CHOICE),
        }
        checkpoints.save(run.path / "checkpoints", state)
        self._saved_at_s = time.monotonic()

    def restore(self, state: dict[str, Any], directory: Path, clock: Clock) -> Restored:
        """Load a checkpoint into the modules; return the rest of it.

        Parameters
        ----------
        state : dict
            The content of the checkpoint.
        directory : Path
            The run directory, for messages.
        clock : Clock
            The clock of this process; gets the seconds of earlier ones.

        Raises
        ------
        UserError
            If it is of another config or other data, or not what a run of this version writes.
        """
        with refusing_what_does_not_fit(directory):
            require_same_origin(state, self._config, self._data, directory)
            require_entries(state)
            progress, steps = progress_from_dict(state, clock), self._steps
            K, n_batches = len(self._clustering.centroids), len(steps.values)
            require_progress(progress, n_samples=self._data.n_samples, n_clusters=K, n_batches=n_batches)
            for kept in progress.kept:
                require_kept(kept, self._autoencoder.state_dict(), self._clustering.centroids)
            self._autoencoder.load_state_dict(state["autoencoder"])
            self._clustering.load_state_dict(without_empty_buffers(state["clustering"]))
            require_labels(self._clustering.assignments, self._data.n_samples, K, "clustering.assignments")
            terms, centroids_before = with_all_terms(state["terms"]), state["centroids_before"]
            require_like(terms, steps.values, "terms")
            require_like(centroids_before, steps.centroids_before, "centroids_before")
            steps.values.copy_(terms)
            steps.centroids_before = centroids_before
            if self._config.joint.n_epochs > state["config"]["joint"]["epochs"]:
                self._make_longer(progress.state, state["config"]["joint"]["epochs"], directory)
            phase = {name: state[name] for name in ("optimizer", "average")}
            return Restored(progress, phase, state["metrics_bytes"], state.get("metrics_sha256"))

    def _make_longer(self, state: TrainState, n_before: int, directory: Path) -> None:
        """Set the state to that of a run with more joint epochs than ``n_before`` at the same position.

        Raises
        ------
        UserError
            If a run of that length would not have come to this position.
        """
        n_epochs, what = self._config.joint.n_epochs, None
        if state.is_undone:
            what = "was undone"
        elif state.restored is not None:
            what = f"has gone back to step {state.restored_step} (joint.guard)"
        elif state.learned is not None:
            what = f"has gone on to learn the labels of {state.learned} (joint.guard)"
        if what is not None:
            raise UserError(
                f"joint.epochs={n_epochs}: expected {n_before}, as the joint phase of {directory} {what}; leave the "
                "override out or start a new run"
            )
        reset_every = getattr(self._config.clustering, "reset_every", None)
        state.is_stopped = state.is_stopped and not is_reset_ahead(state.epoch, n_epochs, reset_every)
        if state.is_stopped:
            log.warning(
                "joint.epochs=%d changes nothing: the labels had settled after epoch %d (joint.tolerance=%g), where a "
                "run of that length ends too; for a longer phase start a new run with joint.tolerance=0",
                *(n_epochs, state.epoch, self._config.joint.tolerance),
            )


@contextlib.contextmanager
def refusing_what_does_not_fit(directory: Path) -> Iterator[None]:
    """Turn what a part of a checkpoint raises that does not fit the model into one line.

    Parameters
    ----------
    directory : Path
        The run directory, for the message.

    Raises
    ------
    CheckpointError
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise checkpoints.CheckpointError(
            f"{directory / 'checkpoints'}: the state does not fit this model ({reason}); "
            f"expected what a run of this version writes; start a new run"
        ) from error


def progress_to_dict(progress: Progress) -> dict[str, Any]:
    """Return the part of a checkpoint that is not of a module or an optimizer."""
    return {
        "train_state": asdict(progress.state),
        "seconds": progress.seconds,
        "reassignment": progress.reassignment,
        "baselines": progress.baselines,
        "cache_key": progress.cache_key,
        "labels": progress.labels,
        "kept": [state._asdict() for state in progress.kept],
    }


def progress_from_dict(state: dict[str, Any], clock: Clock) -> Progress:
    """Return what ``progress_to_dict`` saved; ``clock`` is that of this process and gets the earlier seconds.

    Checkpoints of version 0.1.0 hold all of it under ``position``.
    """
    if "position" in state:
        position = state["position"]
        clock.credit(position["seconds"])
        train_state = TrainState(
            PHASES[position["phase_idx"]],
            position["epoch"],
            position["batch"],
            position["step"],
            position["is_stopped"],
        )
        raw, pretrained = position["raw"], position["pretrained"]
        return Progress(train_state, clock, position["pass_info"], raw, pretrained, {}, [], position["cache_key"])
    clock.credit(state["seconds"])
    raw, pretrained = state["baselines"].values()
    train_state = TrainState(**state["train_state"])
    labels, kept = state.get("labels", {}), states_from(state.get("kept"))  # a run of an earlier version has none
    return Progress(train_state, clock, state["reassignment"], raw, pretrained, labels, kept, state["cache_key"])


def without_empty_buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the point weights of version 0.1.0, which runs without self-pacing had too, with no points."""
    return {name: value for name, value in state.items() if value.numel() > 0}


def with_all_terms(values: Tensor) -> Tensor:
    """Return the numbers of the steps (S, 6); those of earlier versions (S, 5) lack the last loss term."""
    if values.shape[1] > len(LossTerms._fields):
        return values
    return torch.cat([values[:, :-1], torch.zeros_like(values[:, :1]), values[:, -1:]], 1)


def require_same_origin(state: dict[str, Any], config: Config, data: Dataset, directory: Path) -> None:
    """Refuse a checkpoint of another config or of other data than the run has now.

    Parameters
    ----------
    state : dict
        The content of the checkpoint.
    directory : Path
        The run directory, for messages.

    Raises
    ------
    UserError
    """
    present, earlier = dotted(config), flatten(state["config"])
    for key in sorted(earlier):  # a key that the version of the run did not have cannot differ
        if present.get(key) != earlier.get(key) and not role_of(key).may_change_on_resume:
            raise UserError(
                f"{directory / 'config.yaml'}: {key}={present.get(key)}, but the checkpoint was written with "
                f"{earlier.get(key)}; expected the same config; restore the file or start a new run"
            )
    n_epochs, n_before = present["pretrain.epochs"], earlier["pretrain.epochs"]
    if n_epochs != n_before and progress_from_dict(state, Clock()).state.is_joint:
        raise UserError(
            f"pretrain.epochs={n_epochs}: expected {n_before}, as the pretraining of {directory} has ended; leave "
            "the override out or start a new run"
        )
    require_same_data(state["data_sha256"], data)
    if (kind := state.get("scaling", data.scaling.kind)) != data.scaling.kind:
        raise UserError(
            f"data.scaling={data.scaling.kind}: expected {kind}, with which the checkpoint of {directory} was written; "
            "restore its config.yaml or start a new run"
        )


def scaling_of(state: dict[str, Any]) -> str | None:
    """Return the kind of scaling that a checkpoint was written with; None for one of an earlier version."""
    kind = state.get("scaling")
    return kind if kind in SCALINGS else None


def require_same_data(earlier: str, data: Dataset) -> None:
    """Refuse data whose SHA-256 is not the ``earlier`` one, with which the run began.

    Raises
    ------
    UserError
    """
    if earlier != data.sha256:
        raise UserError(
            f"data={data.name}: the data changed since the run began (SHA-256 {data.sha256[:12]}..., "
            f"then {earlier[:12]}...); expected the same data; restore them or start a new run"
        )
