"""What a checkpoint holds of a run beside tensors, and whether it belongs to the run that is to be resumed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from dkm.config.roles import role_of
from dkm.config.run import Config
from dkm.config.schema import dotted, flatten
from dkm.data.datasets import Dataset
from dkm.errors import UserError
from dkm.training.state import PHASES, Clock, Progress, TrainState


def progress_to_dict(progress: Progress) -> dict[str, Any]:
    """Return the part of a checkpoint that is no tensor: builtins only."""
    return {
        "train_state": asdict(progress.state),
        "seconds": progress.seconds,
        "reassignment": progress.reassignment,
        "baselines": progress.baselines,
        "cache_key": progress.cache_key,
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
        return Progress(train_state, clock, position["pass_info"], raw, pretrained, position["cache_key"])
    clock.credit(state["seconds"])
    raw, pretrained = state["baselines"].values()
    train_state = TrainState(**state["train_state"])
    return Progress(train_state, clock, state["reassignment"], raw, pretrained, state["cache_key"])


def without_empty_buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the point weights of version 0.1.0, which runs without self-pacing had too, with no points."""
    return {name: value for name, value in state.items() if value.numel() > 0}


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
    for key in sorted(present.keys() | earlier.keys()):
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
    if state["data_sha256"] != data.sha256:
        raise UserError(
            f"data={data.name}: the data changed since the run began (SHA-256 {data.sha256[:12]}..., "
            f"then {state['data_sha256'][:12]}...); expected the same data; restore them or start a new run"
        )
