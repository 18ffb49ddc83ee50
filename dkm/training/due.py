"""What is due in an epoch: pure functions of the epoch's number, counted from 1 where it has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dkm.config.run import EVERY_EPOCHS, JointConfig

# Evaluations of a phase, besides the first, where `evaluation.every_epochs` leaves their number open.
_N_EVALUATIONS = 10


def evaluation_interval(every: int | None, n_epochs: int, *, is_in_steps: bool) -> int:
    """Return the number of epochs between two evaluations of a phase.

    Parameters
    ----------
    every : int, optional
        ``evaluation.every_epochs``; None for at most ten evaluations of a phase whose length is in steps. One whose
        length is in epochs may be extended, and is evaluated in the same epochs then.
    n_epochs : int
        Number of epochs of the phase.
    is_in_steps : bool
        Whether the config has its length in steps.
    """
    if every is not None:
        return every
    return max(EVERY_EPOCHS, math.ceil(n_epochs / _N_EVALUATIONS)) if is_in_steps else EVERY_EPOCHS


def comparison_interval(n_epochs: int, *, is_in_steps: bool) -> int:
    """Return the number of epochs between two comparisons of clusters, see ``joint.guard``.

    They are compared where they are evaluated by default, the first epoch among them, and in a short phase whose length
    is in steps also between: ten times or more, or after each of fewer epochs.
    """
    interval = evaluation_interval(None, n_epochs, is_in_steps=is_in_steps)
    if not is_in_steps:
        return interval
    divisors = (divisor for divisor in range(2, interval + 1) if interval % divisor == 0)
    return max((divisor for divisor in divisors if 1 + n_epochs // divisor >= _N_EVALUATIONS), default=1)


def is_evaluated(epoch: int, n_epochs: int, every: int) -> bool:
    """Return whether the run is evaluated after this epoch: the first, the last and each multiple of ``every``."""
    return epoch % every == 0 or epoch in (1, n_epochs)


def is_pictured(epoch: int, n_epochs: int, every: int) -> bool:
    """Return whether an evaluation has figures: the first and last epoch, and evaluations 4, 16, 64, ..."""
    number, rest = divmod(epoch, every)
    is_power_of_4 = rest == 0 and number > 1 and number & (number - 1) == 0 and number.bit_length() % 2 == 1
    return epoch in (1, n_epochs) or is_power_of_4


def is_reset_due(epoch: int, every: int | None) -> bool:
    """Return whether the weights are reset before the next epoch, when ``epoch`` epochs have ended."""
    return every is not None and epoch > 0 and epoch % every == 0


def is_reset_ahead(epoch: int, n_epochs: int, every: int | None) -> bool:
    """Return whether a reset follows when ``epoch`` epochs have ended; settled labels do not stop the run before it."""
    return every is not None and math.ceil(epoch / every) * every < n_epochs


def have_labels_settled(
    reassignment: Mapping[str, float], settings: JointConfig, epoch: int, reset_every: int | None
) -> bool:
    """Return whether few labels changed, no centroid was revived, which must still train, and no reset follows."""
    is_steady = reassignment["label_change"] < settings.tolerance and reassignment["n_revived"] == 0
    return is_steady and not is_reset_ahead(epoch, settings.n_epochs, reset_every)
