"""``dkm.evaluation.figures.plane``: layouts keep clusters apart, repeat, and have the centroids among their points."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.neighbors import KNeighborsClassifier

from dkm import train
from dkm.errors import UserError
from dkm.evaluation.figures import plane
from dkm.installation import install_command

SLOW_UMAP = pytest.param("umap", marks=pytest.mark.slow)  # numba compiles for a quarter of a minute


def clouds(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three clouds in ten dimensions, with their means."""
    Z, labels = make_blobs(n, 10, centers=3, cluster_std=0.5, random_state=0)
    return Z.astype(np.float32), labels, np.stack([Z[labels == k].mean(axis=0) for k in range(3)])


@pytest.mark.parametrize("method", ["pca", "tsne", SLOW_UMAP])
def test_points_keep_their_neighbors_and_centroids_lie_within_their_clouds(method: str) -> None:
    if not plane.is_available(method):
        pytest.skip("not installed")
    Z, labels, centroids = clouds()
    points, crosses, names = plane.plane(Z, centroids, method=method)
    assert points.shape == (300, 2)
    assert len(set(names)) == 2
    neighbors = KNeighborsClassifier(5).fit(points, labels)
    assert neighbors.score(points, labels) == 1.0
    assert neighbors.predict(crosses).tolist() == [0, 1, 2]
    again = plane.plane(Z, centroids, method=method)
    np.testing.assert_array_equal(again.points, points)


@pytest.mark.parametrize(("n", "D"), [(1, 3), (5, 2), (300, 1)])
def test_too_few_points_or_dimensions_are_shown_by_components(n: int, D: int) -> None:
    Z, _, centroids = clouds()
    found = plane.plane(Z[:n, :D], centroids[:, :D], method="tsne")
    assert found.axes[0].startswith("component 1")
    assert np.isfinite(found.points).all()


def test_points_of_one_dimension_are_jittered_from_minus_one_to_one() -> None:
    Z, _, centroids = clouds()
    found = plane.plane(Z[:, :1], centroids[:, :1])
    jitter = found.points[:, 1]
    assert found.axes[1] == "jitter"
    assert -1 <= jitter.min() < -0.9 < 0.9 < jitter.max() <= 1
    assert abs(jitter.mean()) < 0.1
    assert found.centroids[:, 1].tolist() == [0, 0, 0]


def test_equal_points_are_shown_by_components() -> None:
    """t-SNE would end the whole process."""
    found = plane.plane(np.ones((50, 3), np.float32), np.zeros((2, 3), np.float32), method="tsne")
    assert found.axes[0].startswith("component 1")


def test_twelve_points_are_enough_for_tsne() -> None:
    Z, _, centroids = clouds()
    assert plane.plane(Z[:12], centroids, method="tsne").axes[0] == "t-SNE 1"


QUICK = [
    "recipe=classic",
    "model.hidden=[8]",
    "pretrain.epochs=1",
    "joint.epochs=1",
    "clustering.n_init=1",
    "log.progress=off",
]


@pytest.mark.thorough
def test_a_run_draws_the_map_that_was_asked_for_and_its_numbers_stay(tmp_path: Path) -> None:
    blobs = ["data=blobs", "data.n_samples=200", *QUICK]
    for method in ("pca", "tsne"):
        assert train._main([*blobs, f"log.map={method}", f"hydra.run.dir={tmp_path / method}"]) == 0
    pca, tsne = (tmp_path / method for method in ("pca", "tsne"))
    assert (pca / "figures" / "embedding.png").read_bytes() != (tsne / "figures" / "embedding.png").read_bytes()
    for name in ("metrics.jsonl", "result.json", "assignments.csv"):
        assert (pca / name).read_bytes() == (tsne / name).read_bytes()
    assert json.loads((tsne / "manifest.json").read_text())["status"] == "completed"


def test_a_missing_package_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane.importlib.util, "find_spec", lambda name: None)
    run = tmp_path / "run"
    message = f"log.map=umap: expected its package; install it: {install_command('umap')}, or choose log.map=tsne"
    with pytest.raises(UserError, match=re.escape(message)):
        train._main(["data=blobs", *QUICK, "log.map=umap", f"hydra.run.dir={run}"])
    assert not run.exists()
    quiet = ["data.n_samples=60", "log.figures=false", "log.report=false", "log.tensorboard=false"]
    assert train._main(["data=blobs", *QUICK, *quiet, "log.map=umap", f"hydra.run.dir={run}"]) == 0
