"""Batches: each row once per epoch, in an order that depends on seed, phase and epoch, from memory and from disk."""

from __future__ import annotations

import pytest
import torch

from dkm.batches import batch_indices, stream_seed


@pytest.mark.parametrize(("n_samples", "batch_size"), [(1797, 256), (512, 256), (5, 256), (257, 256), (7, 1), (1, 1)])
def test_batches_cover_every_sample_once_in_nearly_equal_sizes(n_samples: int, batch_size: int) -> None:
    batches = batch_indices(n_samples, batch_size, seed=0, phase_idx=0, epoch=0)
    sizes = [len(batch) for batch in batches]
    assert len(batches) == -(-n_samples // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert sorted(torch.cat(batches).tolist()) == list(range(n_samples))


def test_batches_depend_on_seed_phase_and_epoch_and_on_nothing_else() -> None:
    def order(*at: int) -> list[int]:
        torch.manual_seed(len(orders))  # the global stream must not matter
        return torch.cat(batch_indices(100, 32, *at)).tolist()

    orders: list[list[int]] = []
    for at in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)):
        orders.append(order(*at))
        assert order(*at) == orders[-1]
    assert len({tuple(o) for o in orders}) == len(orders)


def test_batches_are_shuffled() -> None:
    order = torch.cat(batch_indices(1000, 100, seed=0, phase_idx=0, epoch=0)).double()
    correlation = torch.corrcoef(torch.stack([order, torch.arange(1000).double()]))[0, 1]
    assert abs(correlation) < 0.1  # the standard deviation of chance is 0.03


def test_stream_seeds_are_fixed_distinct_and_of_63_bits() -> None:
    # A literal, because another mixing would silently change every run.
    assert stream_seed(0, 0, 0) == 1445694884619442965
    seeds = [stream_seed(seed, phase, epoch) for seed in range(20) for phase in range(3) for epoch in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_stream_seed_tells_the_number_of_parts_apart() -> None:
    assert len({stream_seed(), stream_seed(0), stream_seed(0, 0), stream_seed(0, -1)}) == 4
