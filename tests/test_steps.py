"""What a run writes about its steps, and what it does between them, against the steps themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from steps import Step, recorded_steps
from torch import Tensor

from dkm.train import _main as main

N_CLUSTERS, LATENT_DIM, N_BATCHES, PRETRAIN_EPOCHS, JOINT_EPOCHS = 4, 3, 4, 2, 4
CENTROIDS = (N_CLUSTERS, LATENT_DIM)
FIRST_JOINT = PRETRAIN_EPOCHS * N_BATCHES
# Sums in float32, in another order.
REL = 1e-5


class Recorded(NamedTuple):
    steps: list[Step]
    records: list[dict[str, Any]]
    path: Path

    def last_step(self, record: dict[str, Any]) -> int:
        """Return the number of the last step of a record's epoch."""
        return record["epoch"] * N_BATCHES - 1 + (FIRST_JOINT if record["phase"] == "joint" else 0)


Run = Callable[..., Recorded]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that trains in this process and returns what it did and what it wrote."""
    folder = tmp_path_factory.mktemp("steps")
    np.savez(folder / "digits.npz", x=load_digits().images[:120])
    words = ["data=npz", f"data.path={folder / 'digits.npz'}", f"clustering.n_clusters={N_CLUSTERS}"]
    words += [f"model.latent_dim={LATENT_DIM}", "model.hidden=[16]", "batch_size=30", "clustering.n_init=2"]
    words += [
        "recipe=classic",
        f"pretrain.epochs={PRETRAIN_EPOCHS}",
        f"joint.epochs={JOINT_EPOCHS}",
        "joint.tolerance=0",
    ]
    words += ["joint.lr=0.01", "evaluation.every_epochs=1", "evaluation.kmeans_raw=false", "threads=1", "device=cpu"]
    words += ["log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off"]
    n_runs = 0

    def train(*more: str, after: Callable[[int, list[Tensor]], None] | None = None) -> Recorded:
        nonlocal n_runs
        n_runs += 1
        path = folder / str(n_runs)
        with recorded_steps(after) as steps:
            assert main([*words, *more, f"hydra.run.dir={path}"]) == 0
        assert len(steps) == (PRETRAIN_EPOCHS + JOINT_EPOCHS) * N_BATCHES
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return Recorded(steps, [json.loads(line) for line in lines], path)

    return train


def weights_of(step: Step, tensors: list[Tensor]) -> list[Tensor]:
    """Return the weight matrices of the network, which are what is regularized by default."""
    return [t for t, p in zip(tensors, step.before, strict=True) if p.ndim == 2 and p.shape != CENTROIDS]


def half_square_sum(tensors: list[Tensor]) -> float:
    return sum(0.5 * tensor.double().square().sum().item() for tensor in tensors)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(run: Run) -> Recorded:
    return run("clustering.revive=false", "regularization.strength=0.01")


def test_the_gradient_norm_is_that_of_all_parameters_in_the_last_step(plain: Recorded) -> None:
    assert len(plain.records) == PRETRAIN_EPOCHS + JOINT_EPOCHS
    for record in plain.records:
        step = plain.steps[plain.last_step(record)]
        assert len(step.gradients) == len(step.before) == (8 if record["phase"] == "pretrain" else 9)
        norm = sum(gradient.double().square().sum().item() for gradient in step.gradients) ** 0.5
        assert record["optimizer/gradient_norm"] == pytest.approx(norm, rel=REL)
        assert record["optimizer/lr"] == step.lr


def test_the_drift_of_the_centroids_is_their_mean_distance_from_where_the_epoch_began(plain: Recorded) -> None:
    joint = [record for record in plain.records if record["phase"] == "joint"]
    assert len(joint) == JOINT_EPOCHS
    for record in joint:
        last = plain.last_step(record)
        first = plain.steps[last - N_BATCHES + 1]
        at = first.index_of(CENTROIDS)
        moved = plain.steps[last].after[at].double() - first.before[at].double()
        drift = moved.square().sum(1).sqrt().mean().item()
        assert drift > 0
        assert record["clusters/centroid_drift"] == pytest.approx(drift, rel=REL)


def test_l2_of_weight_decay_is_half_the_square_sum_of_the_weights_after_the_epoch(plain: Recorded) -> None:
    for record in plain.records:
        step = plain.steps[plain.last_step(record)]
        expected = half_square_sum(weights_of(step, step.after))
        assert record["loss/l2"] == pytest.approx(expected, rel=REL)
        assert record["loss_weighted/l2"] == pytest.approx(0.01 * expected, rel=REL)


def test_l2_of_the_penalty_is_the_mean_over_the_steps_of_the_epoch(run: Run) -> None:
    recorded = run("regularization=l2_penalty", "regularization.strength=0.01")
    for record in recorded.records:
        last = recorded.last_step(record)
        steps = recorded.steps[last - N_BATCHES + 1 : last + 1]
        expected = sum(half_square_sum(weights_of(step, step.before)) for step in steps) / N_BATCHES
        assert record["loss/l2"] == pytest.approx(expected, rel=REL)
        assert record["loss_weighted/l2"] == pytest.approx(0.01 * expected, rel=REL)


# --- what is done between steps ---------------------------------------------------------------------------------------


def test_the_centroids_forget_their_momentum_where_the_clusters_are_reset(run: Run) -> None:
    recorded = run("clustering.reset_every=2")
    first_after_reset = FIRST_JOINT + 2 * N_BATCHES
    at = recorded.steps[-1].index_of(CENTROIDS)
    for number, step in enumerate(recorded.steps[FIRST_JOINT + 1 :], FIRST_JOINT + 1):
        momentum = [m for m in step.momentum if m is not None]
        assert len(momentum) == 9
        assert momentum[at].any().item() == (number != first_after_reset)
        assert all(m.any() for k, m in enumerate(momentum) if k != at)  # the network keeps its own


def test_the_average_begins_again_where_the_clusters_are_reset(run: Run) -> None:
    """The final model is the average of the two epochs after the reset: nothing of what was before it."""
    from safetensors.torch import load_file

    recorded = run("clustering.reset_every=2", "joint.average_epochs=2", "clustering.revive=false")
    first_after_reset = FIRST_JOINT + 2 * N_BATCHES
    decay = 1 - 1 / (2 * N_BATCHES)
    average = [p.double() for p in recorded.steps[first_after_reset].before]
    for step in recorded.steps[first_after_reset:]:
        average = [decay * a + (1 - decay) * p.double() for a, p in zip(average, step.after, strict=True)]
    model = load_file(recorded.path / "model" / "weights.safetensors")
    at = recorded.steps[-1].index_of(CENTROIDS)
    centroids = next(tensor for tensor in model.values() if tensor.shape == CENTROIDS)
    torch.testing.assert_close(centroids.double(), average[at], rtol=1e-4, atol=1e-6)
    for expected in average:
        assert any(
            tensor.shape == expected.shape and torch.allclose(tensor.double(), expected, rtol=1e-4, atol=1e-6)
            for tensor in model.values()
        )


def lose_centroid_2(number: int, parameters: list[Tensor]) -> None:
    """Move a centroid away from all points in the last step of the first joint epoch."""
    if number == FIRST_JOINT + N_BATCHES - 1:
        (centroids,) = [p for p in parameters if p.shape == CENTROIDS]
        centroids[2] = 1e3


def test_a_revived_centroid_forgets_its_momentum(run: Run) -> None:
    recorded = run(after=lose_centroid_2)
    first = recorded.records[PRETRAIN_EPOCHS]
    assert (first["phase"], first["clusters/n_dead"], first["clusters/n_revived"]) == ("joint", 1, 1)
    assert sum(first["clusters/sizes"]) == 120
    assert min(first["clusters/sizes"]) > 0
    step = recorded.steps[FIRST_JOINT + N_BATCHES]
    momentum = step.momentum[step.index_of(CENTROIDS)]
    assert momentum is not None
    assert momentum.any(1).tolist() == [True, True, False, True]


def test_a_centroid_revived_in_the_average_is_revived_beyond_it(run: Run) -> None:
    recorded = run("joint.average_epochs=2", after=lose_centroid_2)
    first = recorded.records[PRETRAIN_EPOCHS]
    assert (first["phase"], first["clusters/n_dead"], first["clusters/n_revived"]) == ("joint", 1, 1)
    last, following = recorded.steps[FIRST_JOINT + N_BATCHES - 1 : FIRST_JOINT + N_BATCHES + 1]
    at = last.index_of(CENTROIDS)
    assert following.before[at][2].abs().max() < 10  # where a point is, not at 1000
    others = [0, 1, 3]
    assert torch.equal(following.before[at][others], last.after[at][others])


@pytest.mark.parametrize(
    ("method", "revives"),
    [("kmeans", True), ("kmeans clustering.revive=false", False), ("dkm", False), ("dcn", False), ("dec", False)],
)
def test_a_dead_centroid_is_revived_by_the_k_means_loss_alone(
    method: str, revives: bool, run: Run, tmp_path: Path
) -> None:
    """The other methods are as published: their empty clusters stay."""
    centroids = np.zeros(CENTROIDS, np.float32)
    centroids[:3] = 0.01 * np.eye(3)  # an embedding that has hardly been trained is near the origin
    centroids[3] = 1e3
    np.save(tmp_path / "centroids.npy", centroids)
    init = ["clustering.init=file", f"clustering.init_file={tmp_path / 'centroids.npy'}"]
    first = run(f"clustering={method.split()[0]}", *method.split()[1:], *init).records[PRETRAIN_EPOCHS]
    assert first["phase"] == "joint"
    assert first["clusters/n_dead"] >= 1
    assert (first["clusters/n_revived"] > 0) == revives
    assert (first["clusters/sizes"][3] > 0) == revives
