"""``dkm.evaluation.summary``: mean and standard deviation, and how they are written."""

from __future__ import annotations

import statistics

import pytest

from dkm.evaluation.summary import Summary, format_score


def test_a_summary_has_the_mean_and_the_deviation_of_a_sample() -> None:
    assert Summary.of([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, statistics.stdev([1, 2, 4]), 3))
    assert Summary.of([5.0]) == (5.0, None, 1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.25, 0.75], "0.500 ± 0.354"),
        ([0.5], "0.500"),
        ([100.0, 110.0], "105.0 ± 7.1"),
        ([-12.34], "-12.3"),
    ],
)
def test_a_summary_has_three_decimals_and_one_from_ten_on(values: list[float], text: str) -> None:
    assert str(Summary.of(values)) == text


def test_the_decimals_of_a_summary_can_be_fixed() -> None:
    assert Summary.of([12.0, 14.0]).format(4) == "13.0000 ± 1.4142"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.98765, "0.9877"), (-9.5, "-9.5000"), (1234.56, "1234.6")])
def test_a_score_has_four_decimals_and_one_from_ten_on(value: float | None, text: str) -> None:
    assert format_score(value) == text
