"""`dkm.training.phase`: the average of the weights, and the state of a phase."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dkm.clustering.methods import build_clustering
from dkm.config.compose import compose, parse
from dkm.config.run import Config
from dkm.models.autoencoder import Autoencoder
from dkm.models.mlp import mlp_autoencoder
from dkm.training.phase import Phase

N_BATCHES = 10


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(parse(["data=blobs", "optimizer=adam"])).config


def phase_of(config: Config, *, is_joint: bool = True) -> Phase:
    torch.manual_seed(0)
    autoencoder, clustering = mlp_autoencoder(6, [5], 3), build_clustering(config.clustering, 4, 3, 20, 5)
    settings = config.joint if is_joint else config.pretrain
    return Phase(config, settings, autoencoder, clustering, n_batches=N_BATCHES, on_compiled=lambda seconds: None)


def step(phase: Phase, seed: int) -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
    phase.optimizer.zero_grad()
    phase.forward(x, torch.arange(20), 1.0).total.backward()
    phase.optimizer.step()
    if phase.average is not None:
        phase.average.update()


@pytest.mark.parametrize(("epochs", "decay"), [(2.0, 0.95), (1.0, 0.9), (0.5, 0.8), (0.1, 0.0), (0.01, 0.0)])
def test_weights_are_averaged_over_so_many_epochs_and_one_step_or_more(
    epochs: float, decay: float, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.joint, "average_epochs", epochs)
    average = phase_of(config).average
    assert average is not None
    assert average.decay == pytest.approx(decay)
    assert phase_of(config, is_joint=False).average is None


def test_without_epochs_no_weights_are_averaged(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.joint, "average_epochs", 0.0)
    assert phase_of(config).average is None


def test_the_running_statistics_of_batch_norm_are_averaged_with_the_weights(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.joint, "average_epochs", 2.0)
    norm = nn.BatchNorm1d(3)
    autoencoder = Autoencoder(nn.Sequential(nn.Linear(6, 3), norm), nn.Linear(3, 6), 3)
    clustering = build_clustering(config.clustering, 4, 3, 20, 5)
    phase = Phase(config, config.joint, autoencoder, clustering, n_batches=N_BATCHES, on_compiled=lambda seconds: None)
    assert norm.running_mean is not None
    expected = torch.zeros(3)
    for seed in range(2):
        step(phase, seed)
        expected = 0.95 * expected + 0.05 * norm.running_mean
    raw = norm.running_mean.clone()
    with phase.averaged():
        torch.testing.assert_close(norm.running_mean, expected)
    assert torch.equal(norm.running_mean, raw)
    assert norm.num_batches_tracked == 2


def test_a_phase_continues_from_its_state_to_the_same_bits(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.joint, "average_epochs", 2.0)
    whole, resumed = phase_of(config), phase_of(config)
    for seed in range(3):
        step(whole, seed)
    parameters = [[p for group in phase.optimizer.param_groups for p in group["params"]] for phase in (whole, resumed)]
    with torch.no_grad():
        for target, source in zip(parameters[1], parameters[0], strict=True):
            target.copy_(source)
    resumed.load(copy.deepcopy(whole.state()))  # as from a file
    for phase in (whole, resumed):
        step(phase, 3)
    assert all(torch.equal(a, b) for a, b in zip(*parameters, strict=True))
    assert whole.average is not None
    assert resumed.average is not None
    averages = whole.average.state(), resumed.average.state()
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))
    assert not any(torch.equal(a, p) for a, p in zip(averages[0], parameters[0], strict=False))
