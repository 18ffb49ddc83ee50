"""`dkm.training.divergence`: which loss or weight is not finite, and in which step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dkm.training.divergence import NonFiniteLoss, require_finite
from dkm.training.state import TrainState

WEIGHTS = [torch.ones(2, 3), torch.zeros(4)]
# Three batches of the third epoch have ended, at the 103rd step of the run.
STATE = TrainState("joint", epoch=2, batch=3, step=103)


def terms(**values: float) -> Tensor:
    """Return the terms of three steps; ``values`` are those of the second step."""
    rows = torch.ones(3, 4)
    for column, name in enumerate(("total", "reconstruction", "clustering", "l2")):
        rows[1, column] = values.get(name, 1.0)
    return rows


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total": math.inf, "clustering": math.inf}, "the clustering loss is inf"),
        ({"total": math.nan, "reconstruction": -math.inf, "l2": math.nan}, "the reconstruction loss is -inf"),
        ({"total": math.inf}, "the total loss is inf"),
    ],
)
def test_the_first_step_that_is_not_finite_and_its_term_are_named(values: dict[str, float], message: str) -> None:
    rows = terms(**values)
    rows[2] = math.nan  # the steps after it are not told
    with pytest.raises(NonFiniteLoss, match=rf"^{message} in phase joint, epoch 3, step 102; .* lower joint\.lr or"):
        require_finite(rows, WEIGHTS, STATE)


def test_a_sum_that_overflows_in_one_step_is_enough() -> None:
    with pytest.raises(NonFiniteLoss, match=r"^the total loss is inf in phase joint, epoch 3, step 102; "):
        require_finite(terms(total=math.inf), WEIGHTS, STATE)


def test_weights_that_are_not_finite_are_refused_though_all_losses_are() -> None:
    bad = torch.ones(5)
    bad[4] = math.nan
    with pytest.raises(NonFiniteLoss, match=r"^a weight became nan or inf in phase joint, epoch 3, up to step 103; "):
        require_finite(terms(), [*WEIGHTS, bad], STATE)


def test_finite_losses_and_weights_pass() -> None:
    require_finite(terms(), WEIGHTS, STATE)
    require_finite(torch.zeros(0, 4), WEIGHTS, TrainState())
