"""A run whose numbers are no longer finite stops before it writes them anywhere."""

# Shapes: B steps of the epoch so far.

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dkm.errors import Failure
from dkm.training.objective import LossTerms
from dkm.training.state import TrainState


class NonFiniteLoss(Failure):
    """A loss term or a weight became nan or inf; the update was not made."""


def require_finite(terms: Tensor, parameters: Iterable[Tensor], state: TrainState) -> None:
    """Refuse the first step of the epoch with a non-finite loss term, or parameters that are not finite.

    Parameters
    ----------
    terms : Tensor of shape (B, 5)
        The ``LossTerms`` of the steps so far. The optimizer has skipped the first non-finite step and all after it.
    parameters : iterable of Tensor
    state : TrainState

    Raises
    ------
    NonFiniteLoss
        The message names the term, phase, epoch and step.
    """
    bad = (~terms.isfinite()).nonzero()
    if len(bad) > 0:
        batch = int(bad[0, 0])
        names = [LossTerms._fields[column] for column in bad[bad[:, 0] == batch, 1].tolist()]
        name = next((name for name in names if name != "total"), "total")
        value = terms[batch, LossTerms._fields.index(name)].item()
        raise NonFiniteLoss(
            f"the {name} loss is {value} in phase {state.phase}, epoch {state.epoch + 1}, "
            f"step {state.step - state.batch + batch + 1}; expected finite losses; the update was not made and the "
            f"last good checkpoint is kept; lower {state.phase}.lr or check the scale of the data"
        )
    if not torch.stack([parameter.detach().isfinite().all() for parameter in parameters]).all():
        raise NonFiniteLoss(
            f"a weight became nan or inf in phase {state.phase}, epoch {state.epoch + 1}, up to step {state.step}; "
            f"the last good checkpoint is kept; lower {state.phase}.lr"
        )
