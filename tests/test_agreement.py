"""`dkm.clustering.agreement`: how well clusterings of halves agree."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from dkm.clustering import agreement
from dkm.clustering.agreement import agreement_of_halves
from dkm.clustering.assignment import assign
from dkm.clustering.lloyd import kmeans


def points(n: int = 101) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def test_the_agreement_is_that_of_two_clusterings_of_the_points_in_both_halves() -> None:
    z = points()
    order = torch.randperm(101, generator=torch.Generator().manual_seed(1))
    halves = z[order[:50]], z[order[50:100]]
    centroids = [kmeans(half, 5, n_init=10, seed=1).centroids for half in halves]
    labels = [assign(torch.cat(halves), c).labels.numpy() for c in centroids]
    assert agreement_of_halves(z, [5], seed=1)[5] == pytest.approx(adjusted_rand_score(*labels))


def test_several_pairs_of_halves_are_drawn_one_after_the_other() -> None:
    z, generator = points(), torch.Generator().manual_seed(1)
    values = []
    for _ in range(3):
        order = torch.randperm(101, generator=generator)
        halves = z[order[:50]], z[order[50:100]]
        centroids = [kmeans(half, 5, n_init=10, seed=1).centroids for half in halves]
        values.append(adjusted_rand_score(*(assign(torch.cat(halves), c).labels.numpy() for c in centroids)))
    assert len(set(values)) == 3
    assert agreement_of_halves(z, [5], seed=1, n_splits=3)[5] == pytest.approx(sum(values) / 3)


def test_a_number_needs_as_many_points_in_each_half() -> None:
    assert list(agreement_of_halves(points(21), [2, 10, 11], seed=0)) == [2, 10]


def test_halves_have_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_HALF_POINTS", 20)
    assert list(agreement_of_halves(points(), [20, 21], seed=0)) == [20]
