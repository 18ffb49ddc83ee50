"""``dkm.evaluation.clusters``: distances, margins and sizes of assigned points, and who searches for the margin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dkm import train
from dkm.clustering.assignment import nearest_centroids
from dkm.evaluation.clusters import Clusters, assign_clusters

Z = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
CENTROIDS = torch.tensor([[0.0, 0.0], [3.0, 0.0], [9.0, 9.0]])


def test_clusters_by_hand() -> None:
    clusters = assign_clusters(Z, CENTROIDS, with_margin=True)
    assert clusters.labels.tolist() == [0, 1, 0]
    assert clusters.squared_distance.tolist() == [0, 16, 1]
    assert clusters.distance.tolist() == [0, 4, 1]
    assert clusters.margin is not None
    np.testing.assert_allclose(clusters.margin, [3, 1, np.sqrt(10) - 1], rtol=1e-6)
    assert clusters.inertia == 17
    assert clusters.sizes.tolist() == [2, 1, 0]


def test_inertia_is_a_float64_sum() -> None:
    # In float32 the running total would stop growing at 2**24.
    clusters = Clusters(np.zeros(1, np.int64), torch.ones(2**24 + 3), CENTROIDS[:1])
    assert clusters.inertia == 2**24 + 3


def test_the_margin_is_unknown_where_nobody_searched_for_it_and_with_one_cluster() -> None:
    plain, searched = assign_clusters(Z, CENTROIDS), assign_clusters(Z, CENTROIDS, with_margin=True)
    assert plain.margin is None
    assert (plain.labels == searched.labels).all()
    assert torch.equal(plain.squared_distance, searched.squared_distance)
    assert assign_clusters(Z, CENTROIDS[:1], with_margin=True).margin is None


def test_only_the_end_of_a_run_searches_for_two_centroids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    searched: list[int] = []

    def counted(z: Any, centroids: Any, n_nearest: int = 1) -> Any:
        searched.append(n_nearest)
        return nearest_centroids(z, centroids, n_nearest)

    monkeypatch.setattr("dkm.evaluation.clusters.nearest_centroids", counted)
    words = [
        "data=blobs",
        "model.hidden=[4]",
        "recipe=classic",
        "pretrain.epochs=1",
        "joint.epochs=3",
        "joint.tolerance=0",
    ]
    words += [
        "evaluation.every_epochs=1",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
        "log.progress=off",
    ]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert searched == [1, 1, 1, 2]  # three evaluations, and the result
