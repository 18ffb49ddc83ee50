"""`SeededDraws`: the numbers of `torch.manual_seed`, without the global generator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dkm.runtime.seeding import SeededDraws

DRAWS: dict[str, Callable[[], Tensor]] = {
    "linear": lambda: nn.Linear(5, 7).weight,
    "lstm": lambda: nn.LSTM(3, 4).weight_hh_l0,
    "embedding": lambda: nn.Embedding(4, 3).weight,
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
    "randn": lambda: torch.randn(3, 2),
    "rand_like": lambda: torch.rand_like(torch.ones(3)),
    "randn_like": lambda: torch.randn_like(torch.ones(3), dtype=torch.float64),
    "randint_like": lambda: torch.randint_like(torch.ones(3), 2, 50),
    "randperm": lambda: torch.randperm(9),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 4),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_those_after_manual_seed_and_the_global_generator_stays(draw: Callable[[], Tensor]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = [draw(), draw()]
    before = torch.get_rng_state()
    with SeededDraws(3):
        drawn = [draw(), draw()]
    assert torch.equal(torch.get_rng_state(), before)
    for value, expected_value in zip(drawn, expected, strict=True):
        assert torch.equal(value, expected_value)


def test_a_generator_that_is_given_is_used() -> None:
    with SeededDraws(3):
        drawn = torch.randn(4, generator=torch.Generator().manual_seed(8))
    assert torch.equal(drawn, torch.randn(4, generator=torch.Generator().manual_seed(8)))


def test_blocks_nest() -> None:
    with SeededDraws(3):
        first = torch.randn(2)
        with SeededDraws(8):
            inner = torch.randn(2)
        second = torch.randn(2)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(torch.stack([first, second]), torch.randn(2, 2, generator=generator))
    assert torch.equal(inner, torch.randn(2, generator=torch.Generator().manual_seed(8)))
