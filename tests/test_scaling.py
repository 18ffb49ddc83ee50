"""Scalings: what they do to the values, that they can be fitted chunk by chunk, and where the chunks end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dkm.data.scaling
from dkm.data.counts import Counts
from dkm.data.scaling import Scaling, row_slices, to_rows

TABLE = np.arange(12, dtype=np.float64).reshape(6, 2)
KINDS = ("none", "unit", "symmetric", "rms", "standard", "centered", "l2", "row_rms")


def test_unit_scaling_maps_the_range_of_all_values_to_0_and_1() -> None:
    X = np.array([[2.0, 4.0], [6.0, 10.0]])
    np.testing.assert_array_equal(Scaling.fit([X], "unit").apply(X), np.float32([[0, 0.25], [0.5, 1]]))


def test_unit_scaling_uses_a_known_range_rather_than_the_observed_one() -> None:
    X = np.array([[51, 102]], dtype=np.uint8)
    np.testing.assert_array_equal(Scaling.fit([X], "unit", (0, 255)).apply(X), np.float32([[0.2, 0.4]]))


def test_symmetric_scaling_maps_the_range_to_minus_1_and_1_and_pictures_see_it_from_0_to_1() -> None:
    X = np.array([[51, 255]], dtype=np.uint8)
    scaling = Scaling.fit([X], "symmetric", (0, 255))
    scaled = scaling.apply(X)
    np.testing.assert_allclose(scaled, [[-0.6, 1]], rtol=1e-6)
    np.testing.assert_allclose(scaling.for_pictures(scaled), [[0.2, 1]], rtol=1e-6)
    np.testing.assert_array_equal(Scaling.fit([X], "symmetric").apply(X), [[-1, 1]])
    assert Scaling.fit([np.full((2, 2), 7.0)], "symmetric").apply(np.full((1, 2), 7.0)).tolist() == [[0, 0]]
    unit = Scaling.fit([X], "unit", (0, 255))
    np.testing.assert_array_equal(unit.for_pictures(unit.apply(X)), unit.apply(X))


def test_rms_scaling_divides_by_one_number_so_that_squares_are_1_on_average() -> None:
    X = np.random.default_rng(0).normal(3, [1, 20, 0], size=(500, 3))
    scaling = Scaling.fit([X[:200], X[200:]], "rms")
    scaled = scaling.apply(X)
    assert np.square(scaled.astype(np.float64)).mean() == pytest.approx(1)
    np.testing.assert_allclose(scaled, X / np.sqrt(np.square(X).mean()), rtol=1e-6)
    assert Scaling.fit([np.zeros((2, 2))], "rms").scale == (1.0,)
    np.testing.assert_array_equal(scaling.for_pictures(np.float32([[0, 1], [3, 4]])), [[0, 0.25], [0.75, 1]])
    np.testing.assert_array_equal(scaling.for_pictures(np.zeros((1, 2), np.float32)), [[0, 0]])


@pytest.mark.parametrize("low", [0.0, -100.0])
@pytest.mark.parametrize("kind", ["none", "standard", "centered"])
def test_pictures_have_the_range_of_the_images(kind: str, low: float) -> None:
    X = np.array([[0.0, 51.0, 7.0], [255.0, 204.0, 7.0]]) + low
    scaling = Scaling.fit([X], kind)
    pictures = scaling.for_pictures(scaling.apply(X).reshape(2, 1, 1, 3)).reshape(2, 3)
    high = (255.0 + low) - min(low, 0.0)
    np.testing.assert_allclose(pictures, (X - min(low, 0.0)) / high, atol=1e-6)


@pytest.mark.parametrize("kind", ["l2", "row_rms"])
def test_pictures_of_rows_of_one_length_are_as_bright_as_each_other(kind: str) -> None:
    X = np.array([[0.0, 51.0, 102.0], [255.0, 204.0, 0.0], [0.0, 0.0, 0.0]])
    scaling = Scaling.fit([X], kind)
    pictures = scaling.for_pictures(scaling.apply(X).reshape(3, 1, 1, 3)).reshape(3, 3)
    np.testing.assert_allclose(pictures, [[0, 0.5, 1], [1, 0.8, 0], [0, 0, 0]], atol=1e-6)


def test_standard_scaling_gives_each_feature_mean_0_and_variance_1() -> None:
    X = np.random.default_rng(0).normal(5, [1, 20, 300], size=(500, 3))
    scaled = Scaling.fit([X], "standard").apply(X).astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-7)


def test_standard_scaling_turns_a_constant_feature_into_exact_zeros() -> None:
    X = np.column_stack([np.full(1000, 0.1), np.arange(1000)])  # the mean of 1000 times 0.1 is not 0.1
    scaling = Scaling.fit([X], "standard")
    assert scaling.scale[0] == np.inf
    assert not scaling.apply(X)[:, 0].any()


def test_standard_scaling_keeps_a_feature_finite_whose_variance_is_0_in_float64() -> None:
    X = np.array([[1e-200, 0], [2e-200, 1]])
    np.testing.assert_array_equal(Scaling.fit([X], "standard").apply(X), [[0, -1], [0, 1]])


@pytest.mark.parametrize("kind", ["unit", "standard"])
def test_scaling_survives_an_offset_that_float32_cannot_hold(kind: str) -> None:
    X = np.arange(10.0).reshape(5, 2)
    # 1e12 is a multiple of the float64 spacing, so only the arithmetic could lose digits.
    np.testing.assert_array_equal(Scaling.fit([X + 1e12], kind).apply(X + 1e12), Scaling.fit([X], kind).apply(X))


def test_l2_scaling_gives_rows_of_length_1_and_leaves_a_zero_row() -> None:
    X = np.array([[3, 4], [0, 0], [-5, 0]])
    np.testing.assert_array_equal(Scaling.fit([X], "l2").apply(X), np.float32([[0.6, 0.8], [0, 0], [-1, 0]]))


def test_row_rms_scaling_gives_rows_of_mean_square_1_and_leaves_a_zero_row() -> None:
    X = np.array([[3, 4], [0, 0], [-5, 0]])
    expected = np.sqrt(2) * np.array([[0.6, 0.8], [0, 0], [-1, 0]])
    np.testing.assert_allclose(Scaling.fit([X], "row_rms").apply(X), expected, rtol=1e-7)


# --- in chunks ----------------------------------------------------------------------------------------------


def chunks_of(X: Any, *sizes: int) -> Iterator[Any]:
    """Cut an array after so many rows each, and leave the rest as the last chunk."""
    yield from np.split(X, np.cumsum(sizes))


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_in_chunks_equals_scaling_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).normal(size=(50, 4))
    whole = Scaling.fit([X], kind).apply(X)
    monkeypatch.setattr(dkm.data.scaling, "_PIECE_VALUES", 12)  # 3 rows, and a rest of 2
    np.testing.assert_allclose(Scaling.fit(chunks_of(X, 3, 1, 16), kind).apply(X), whole, rtol=1e-6)


def test_mean_and_deviation_of_chunks_are_those_of_the_whole() -> None:
    X = np.random.default_rng(0).normal([0, 1e6], [1e-3, 5], size=(1000, 2))
    scaling = Scaling.fit(chunks_of(X, 1, 1, 300, 5), "standard")
    np.testing.assert_allclose(scaling.shift, X.mean(axis=0), rtol=1e-14, atol=1e-17)
    np.testing.assert_allclose(scaling.scale, X.std(axis=0), rtol=1e-9)  # the offset costs the mean 7 of 16 digits


def test_joining_chunks_loses_nothing_to_an_offset() -> None:
    X = np.arange(16.0).reshape(8, 2)
    expected = Scaling.fit([X], "standard")
    scaling = Scaling.fit(chunks_of(X + 1e12, 2, 4), "standard")
    assert scaling.shift == tuple(shift + 1e12 for shift in expected.shift)
    np.testing.assert_allclose(scaling.scale, expected.scale, rtol=1e-15)


def test_a_feature_that_is_constant_in_each_chunk_but_not_in_all_is_scaled() -> None:
    scaling = Scaling.fit([np.zeros((2, 1)), np.ones((2, 1))], "standard")
    assert (scaling.shift, scaling.scale) == ((0.5,), (0.5,))


def test_a_feature_that_is_constant_over_all_chunks_becomes_exact_zeros() -> None:
    X = np.full((1000, 1), 0.1)
    scaling = Scaling.fit(chunks_of(X, 7, 300), "standard")
    assert (scaling.shift, scaling.scale) == ((0.1,), (np.inf,))


def test_chunks_are_read_once_and_no_further_than_the_scaling_needs() -> None:
    for kind, value_range, n_left in (("none", None, 2), ("l2", None, 2), ("unit", (0, 1), 2), ("unit", None, 0)):
        chunks = chunks_of(TABLE, 2, 2)
        Scaling.fit(chunks, kind, value_range)
        assert len(list(chunks)) == n_left


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_a_row_do_not_depend_on_its_neighbors_or_the_order_in_memory(kind: str) -> None:
    X = np.random.default_rng(0).normal(3, 7, size=(300, 37))
    scaling = Scaling.fit([X], kind)
    whole = scaling.apply(X)
    assert Scaling.fit([np.asfortranarray(X)], kind) == scaling
    np.testing.assert_array_equal(scaling.apply(np.asfortranarray(X)), whole)
    parts = [scaling.apply(part) for part in chunks_of(X, 1, 2, 0, 3, 100, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 3), (9, 3), (10, 1, 3), (2, 20), (5, 1, 2, 2)])
def test_row_slices_cover_all_rows_in_order(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dkm.data.scaling, "_CHUNK_VALUES", 12)
    slices = list(row_slices(shape))
    assert [row for rows in slices for row in range(rows.start, rows.stop)] == list(range(shape[0]))
    n_values = [(rows.stop - rows.start) * np.prod(shape[1:]) for rows in slices]
    assert all(n <= 12 or rows.stop == rows.start + 1 for n, rows in zip(n_values, slices, strict=True))


def test_images_become_rows_channel_by_channel() -> None:
    image = np.arange(12).reshape(1, 2, 2, 3)  # (N, H, W, C)
    np.testing.assert_array_equal(to_rows(image), [[0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]])
    np.testing.assert_array_equal(to_rows(image[..., 0]), [[0, 3, 6, 9]])
    assert to_rows(image[:0]).shape == (0, 12)


# --- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_survives_json_exactly(kind: str) -> None:
    X = np.random.default_rng(0).normal(size=(20, 3)) / 3
    scaling = Scaling.fit([X], kind)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


def test_scaling_does_not_change_its_input() -> None:
    X = np.arange(6, dtype=np.float32).reshape(3, 2)
    Scaling.fit([X], "none").apply(X)[:] = 7
    np.testing.assert_array_equal(X, [[0, 1], [2, 3], [4, 5]])


def test_scaling_refuses_another_number_of_features() -> None:
    with pytest.raises(ValueError, match=r"X has 1 features: expected 2, as when fitted"):
        Scaling.fit([TABLE], "standard").apply(TABLE[:, :1])


def test_scaling_refuses_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match=f"kind='minmax': expected one of {', '.join(KINDS)}"):
        Scaling.fit([TABLE], "minmax")


# --- counts -------------------------------------------------------------------------------------------------


def counts_of(n_rows: int = 400, n_features: int = 120, seed: int = 0) -> Any:
    """Return counts whose rows differ in depth and whose features differ in frequency."""
    rng = np.random.default_rng(seed)
    rates = rng.lognormal(-2, 1.5, n_features) * rng.lognormal(0, 0.7, (n_rows, 1))
    return rng.poisson(rates).astype(np.uint16)


def evidence_of(*chunks: Any) -> str | None:
    counts = Counts()
    for chunk in chunks:
        counts.add(chunk)
    return counts.evidence()


def test_counts_scaling_equalizes_rows_takes_logarithms_and_centers() -> None:
    X = counts_of()
    X[7] = 0  # a row without counts stays as it is
    counts = Counts()
    counts.add(X)
    sums = X.sum(axis=1)
    assert counts.total == np.median(sums[sums > 0])
    scaling = Scaling.fit([X[:150], X[150:]], "counts", total=counts.total)
    logarithms = np.log1p(X * (counts.total / np.maximum(sums, 1))[:, np.newaxis])
    centered = logarithms - logarithms.mean(axis=0)
    np.testing.assert_allclose(scaling.apply(X), centered / np.sqrt(np.square(centered).mean()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaling.unscale(scaling.apply(X))[7], 0, atol=1e-5)


def test_counts_scaling_of_a_row_does_not_depend_on_its_depth_or_on_other_rows() -> None:
    X = counts_of()
    scaling = Scaling.fit([X], "counts", total=50.0)
    np.testing.assert_allclose(scaling.apply(3 * X), scaling.apply(X), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(scaling.apply(X[5:6]), scaling.apply(X)[5:6])


def test_counts_scaling_survives_json_and_other_kinds_store_what_they_stored_before() -> None:
    scaling = Scaling.fit([counts_of()], "counts", total=50.5)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling
    assert set(Scaling.fit([TABLE], "standard").to_dict()) == {"kind", "n_features", "shift", "scale"}


def test_counts_scaling_refuses_what_are_no_counts() -> None:
    with pytest.raises(ValueError, match="a value is negative"):
        Scaling.fit([TABLE - 1], "counts", total=1.0)
    with pytest.raises(ValueError, match="negative"):
        Scaling.fit([TABLE], "counts", total=1.0).apply(TABLE - 1)
    with pytest.raises(ValueError, match="expected the total"):
        Scaling.fit([TABLE], "counts")


def test_pictures_of_counts_are_logarithms_from_0_to_1() -> None:
    X = counts_of()
    scaling = Scaling.fit([X], "counts", total=50.0)
    pictures = scaling.for_pictures(scaling.apply(X).reshape(-1, 1, 10, 12))
    assert (pictures.min(), pictures.max()) == (0, 1)
    assert (pictures[0].ravel()[X[0] == 0] < 1e-6).all()


def test_counts_are_recognized_whatever_their_type_and_chunks() -> None:
    X = counts_of()
    evidence = evidence_of(X)
    assert evidence is not None
    assert re.fullmatch(
        r"whole numbers from 0 to \d+ in 120 features, 7\d% are 0, and 0\.\d+% of the others exceed half of .*",
        evidence,
    )
    assert evidence_of(X[:3].astype(np.float32), X[3:].astype(np.float64)) == evidence
    assert evidence_of(counts_of() * np.uint16(50) + np.uint16(3)) is not None  # no zeros, but variance


def test_what_only_looks_like_counts_is_not_taken_for_them() -> None:
    rng = np.random.default_rng(0)
    X = counts_of()
    others = {
        "few features": X[:, :99],
        "a value is not whole": np.where(X.max() == X, 0.5, X),
        "a value is negative": np.where(X.max() == X, -1.0, X),
        "bool": X > 0,
        "one-hot": np.eye(150, dtype=np.int64)[rng.integers(0, 150, 300)],
        "answers from 1 to 5": rng.integers(1, 6, (300, 120)),
        "pixels": np.clip(rng.normal(-100, 200, (300, 784)), 0, 255).astype(np.uint8),
        "all zero": np.zeros((5, 120)),
    }
    assert [name for name, values in others.items() if evidence_of(values) is not None] == []
    assert [name for name, values in others.items() if Counts.may_be(values)] == [
        "one-hot",
        "answers from 1 to 5",
        "pixels",
        "all zero",
    ]


@pytest.mark.parametrize("table", ["events", "tags"])
def test_one_large_feature_beside_counts_is_not_what_rows_are_divided_by(table: str) -> None:
    random = np.random.default_rng(0)
    spent = random.lognormal(9, 1.5, size=(400, 1)).astype(np.int64)
    tags = (random.uniform(size=(400, 150)) < 0.1).astype(np.int64)
    few = counts_of().astype(np.int64) if table == "events" else tags
    assert evidence_of(np.concatenate([few, spent], axis=1)) is None


@pytest.mark.parametrize("kind", ["standard", "centered", "counts"])
def test_a_feature_without_variance_in_training_is_ignored_afterwards(kind: str) -> None:
    X = np.array([[1, 0, 2], [5, 0, 1], [3, 0, 9]], dtype=np.float32)
    scaling = Scaling.fit([X], kind, total=10.0 if kind == "counts" else None)
    same, other = X[:2].copy(), X[:2].copy()
    other[0, 1] = 0 if kind == "counts" else 1e30  # another count changes the sum of the row
    np.testing.assert_array_equal(scaling.apply(other), scaling.apply(same))
    assert scaling.apply(X)[:, 1].tolist() == [0, 0, 0]
    other[0, 1] = 7
    assert scaling.apply(other)[0, 1] == 0
    assert scaling.constant.tolist() == [1]
    assert scaling.differs_in_constant(other).tolist() == [[True], [False]]
    stored = json.loads(json.dumps(scaling.to_dict(), allow_nan=False))
    assert Scaling.from_dict(stored) == scaling
    np.testing.assert_allclose(scaling.unscale(scaling.apply(X))[:, 1], 0, atol=1e-12)
