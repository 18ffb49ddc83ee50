"""`dkm.training.due`: in which epochs the run is evaluated and drawn, and its weights are reset."""

from __future__ import annotations

import pytest

from dkm.training import due


@pytest.mark.parametrize(
    ("n_epochs", "every", "expected"),
    [(10, 4, [1, 4, 8, 10]), (8, 4, [1, 4, 8]), (3, 1, [1, 2, 3]), (3, 100, [1, 3]), (1, 2, [1])],
)
def test_the_first_the_last_and_each_multiple_are_evaluated(n_epochs: int, every: int, expected: list[int]) -> None:
    epochs = range(1, n_epochs + 1)
    assert [epoch for epoch in epochs if due.is_evaluated(epoch, n_epochs, every)] == expected


@pytest.mark.parametrize(
    ("every", "n_epochs", "is_in_steps", "expected"),
    [
        (None, 800, True, 80),
        (None, 134, True, 14),
        (None, 101, True, 11),
        (None, 100, True, 10),
        (None, 1, True, 10),
        (None, 0, True, 10),
        (None, 800, False, 10),  # may be extended, and is then evaluated in the same epochs
        (5, 800, True, 5),
        (100, 800, True, 100),
        (10, 800, True, 10),
    ],
)
def test_a_phase_of_many_short_epochs_has_about_ten_evaluations(
    every: int | None, n_epochs: int, is_in_steps: bool, expected: int
) -> None:
    assert due.evaluation_interval(every, n_epochs, is_in_steps=is_in_steps) == expected


@pytest.mark.parametrize(
    ("n_epochs", "every", "expected"),
    [(300, 1, [1, 4, 16, 64, 256, 300]), (150, 2, [1, 8, 32, 128, 150]), (4, 5, [1, 4]), (32, 8, [1, 32])],
)
def test_the_first_the_last_and_evaluations_4_16_64_are_drawn(n_epochs: int, every: int, expected: list[int]) -> None:
    epochs = range(1, n_epochs + 1)
    assert [epoch for epoch in epochs if due.is_pictured(epoch, n_epochs, every)] == expected


def test_weights_are_reset_after_each_multiple_but_not_before_the_first_epoch() -> None:
    assert [epoch for epoch in range(13) if due.is_reset_due(epoch, 4)] == [4, 8, 12]
    assert [epoch for epoch in range(4) if due.is_reset_due(epoch, 1)] == [1, 2, 3]
    assert not any(due.is_reset_due(epoch, None) for epoch in range(13))


@pytest.mark.parametrize(("n_epochs", "last"), [(12, 8), (13, 12), (9, 8), (8, 4), (4, 0)])
def test_a_reset_follows_until_the_last_one_before_the_end(n_epochs: int, last: int) -> None:
    ahead = [epoch for epoch in range(1, n_epochs + 1) if due.is_reset_ahead(epoch, n_epochs, 4)]
    assert ahead == [*range(1, last + 1)]
    assert not due.is_reset_ahead(1, n_epochs, None)
