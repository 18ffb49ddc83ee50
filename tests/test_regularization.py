"""`dkm.models.regularization`: the L2 penalty, what it is taken over, and that weight decay is the same training."""

import functools

import pytest
import torch
from torch import nn

from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.optimizer import AdamConfig, AdamWConfig, SGDConfig
from dkm.config.regularization import L2PenaltyConfig, NoRegularizationConfig, WeightDecayConfig
from dkm.models.autoencoder import Autoencoder
from dkm.models.conv import conv_autoencoder
from dkm.models.mlp import mlp_autoencoder
from dkm.models.regularization import _HalfSquares, l2_penalty, parameter_groups, regularized_parameters
from dkm.training.objective import Objective
from dkm.training.optimizers import build_optimizer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the penalty --------------------------------------------------------------------------------------------


def test_the_penalty_has_a_gradient_under_torch_func():
    weights = torch.randn(3, 4)
    torch.testing.assert_close(torch.func.grad(lambda w: l2_penalty([w]))(weights), weights)


def test_penalty_is_half_the_sum_of_squares():
    parameters = [torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([4.0]), torch.tensor(2.0)]
    penalty = l2_penalty(parameters)
    assert penalty.shape == ()
    assert penalty.item() == (1 + 4 + 9 + 16 + 4) / 2


def test_gradient_of_the_penalty_is_the_parameter():
    parameters = [nn.Parameter(normal(3, 4)), nn.Parameter(normal(2, 3, 5, 5, seed=1)), nn.Parameter(normal(7, seed=2))]
    l2_penalty(parameters).backward()
    assert all(torch.equal(p.grad, p) for p in parameters)


def test_penalty_takes_any_iterable_and_any_memory_order():
    strided = normal(4, 5).T
    assert l2_penalty(iter([strided])).item() == pytest.approx(strided.square().sum().item() / 2, rel=1e-12)


def test_gradient_of_the_penalty_is_that_of_finite_differences():
    leaves = [normal(3, 4).requires_grad_(), normal(5, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda *p: l2_penalty(p), leaves)


def test_second_derivatives_of_the_penalty_are_those_of_finite_differences():
    leaves = [normal(3, 4).requires_grad_(), normal(5, seed=1).requires_grad_()]
    assert torch.autograd.gradgradcheck(lambda *p: l2_penalty(p) ** 2, leaves)
    (gradient,) = torch.autograd.grad(l2_penalty(leaves[1:]), leaves[1:], create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), leaves[1:])
    assert torch.equal(second, torch.ones(5, dtype=torch.float64))


def test_half_the_squares_have_the_derivatives_of_finite_differences_in_any_memory_order():
    p = normal(3, 4).T.requires_grad_()
    assert torch.autograd.gradcheck(_HalfSquares.apply, p)
    assert torch.autograd.gradgradcheck(_HalfSquares.apply, p)


def test_penalty_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected at least one parameter, got none"):
        l2_penalty([])


class Odd(nn.Module):
    """Layers of types that the networks of the package have none of."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(2, 3, 5)
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.norm = nn.LayerNorm((3, 3))
        self.batch_norm = nn.BatchNorm1d(3)
        self.table = nn.Embedding(5, 2)
        self.matrix = nn.Parameter(torch.zeros(2, 2))
        self.scale = nn.Parameter(torch.zeros(2))
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.matrix


def test_the_weights_of_a_layer_of_any_type_are_regularized():
    """A Conv1d, a Bilinear, attention: once, such layers were left out without a word."""
    encoder, decoder = Odd(), nn.Linear(3, 5)
    attention = encoder.attention
    of_encoder = [encoder.matrix, encoder.convolution.weight, encoder.bilinear.weight]
    of_encoder += [attention.in_proj_weight, attention.out_proj.weight]
    autoencoder = Autoencoder(encoder, decoder, 3)
    for part, expected in {
        "encoder": of_encoder,
        "decoder": [decoder.weight],
        "weights": [*of_encoder, decoder.weight],
    }.items():
        found = regularized_parameters(WeightDecayConfig(parameters=part), autoencoder, None)
        assert list(map(id, found)) == list(map(id, expected)), part


# --- what is regularized ------------------------------------------------------------------------------------


def mlp():
    return mlp_autoencoder(6, [5, 4], 3)


def conv():
    return conv_autoencoder((1, 8, 8), [2, 3, 4], 3)


def regularized_names(autoencoder, parameters, *, kind=WeightDecayConfig, centroids=None):
    """The names of what is regularized, in the order returned."""
    names = {id(p): name for name, p in autoencoder.named_parameters()}
    names[id(centroids)] = "centroids"
    chosen = regularized_parameters(kind(parameters=parameters), autoencoder, centroids)
    return [names[id(p)] for p in chosen]


MLP_ENCODER = ["encoder.0.weight", "encoder.2.weight", "encoder.4.weight"]
MLP_DECODER = ["decoder.0.weight", "decoder.2.weight", "decoder.4.weight"]
# Three convolutions and a linear layer; a linear layer and three transposed convolutions.
CONV_ENCODER = ["encoder.1.weight", "encoder.3.weight", "encoder.5.weight", "encoder.8.weight"]
CONV_DECODER = ["decoder.0.weight", "decoder.3.weight", "decoder.5.weight", "decoder.7.weight"]


@pytest.mark.parametrize("kind", [WeightDecayConfig, L2PenaltyConfig])
@pytest.mark.parametrize(
    ("build", "encoder", "decoder"), [(mlp, MLP_ENCODER, MLP_DECODER), (conv, CONV_ENCODER, CONV_DECODER)]
)
def test_the_weights_of_the_layers_are_regularized_not_biases_nor_centroids(build, encoder, decoder, kind):
    centroids = nn.Parameter(torch.ones(3, 3))
    names = functools.partial(regularized_names, build(), kind=kind, centroids=centroids)
    assert names("weights") == encoder + decoder
    assert names("encoder") == encoder
    assert names("decoder") == decoder


@pytest.mark.parametrize("build", [mlp, conv])
def test_all_is_every_parameter_and_the_centroids(build):
    autoencoder, centroids = build(), nn.Parameter(torch.ones(3, 3))
    every = [name for name, _ in autoencoder.named_parameters()]
    assert regularized_names(autoencoder, "all", centroids=centroids) == [*every, "centroids"]
    assert regularized_names(autoencoder, "all") == every  # there are none while pretraining


def test_weights_of_normalization_layers_are_no_weight_matrices():
    autoencoder = mlp()
    autoencoder.encoder = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
    assert regularized_names(autoencoder, "encoder") == ["encoder.0.weight"]


def test_none_regularizes_nothing():
    assert regularized_parameters(NoRegularizationConfig(name="none"), mlp(), nn.Parameter(torch.ones(3, 3))) == []


# --- the optimizer's groups ---------------------------------------------------------------------------------


def groups_by_decay(config, names, parameters):
    groups = parameter_groups(config, parameters.values(), [parameters[name] for name in names])
    of = {id(p): name for name, p in parameters.items()}
    return [(group["weight_decay"], [of[id(p)] for p in group["params"]]) for group in groups]


def test_weight_decay_puts_the_regularized_into_a_group_of_their_own():
    parameters = {name: nn.Parameter(torch.ones(2)) for name in "abcd"}
    config = WeightDecayConfig(strength=0.3)
    assert groups_by_decay(config, "bd", parameters) == [(0.3, ["b", "d"]), (0.0, ["a", "c"])]


def test_a_group_without_parameters_is_left_out():
    parameters = {name: nn.Parameter(torch.ones(2)) for name in "ab"}
    assert groups_by_decay(WeightDecayConfig(strength=0.3), "ab", parameters) == [(0.3, ["a", "b"])]
    assert groups_by_decay(WeightDecayConfig(strength=0.3), "", parameters) == [(0.0, ["a", "b"])]


@pytest.mark.parametrize(
    "config", [L2PenaltyConfig(strength=0.3), NoRegularizationConfig(name="none"), WeightDecayConfig(strength=0)]
)
def test_otherwise_the_optimizer_decays_nothing(config):
    parameters = {name: nn.Parameter(torch.ones(2)) for name in "ab"}
    assert groups_by_decay(config, "a", parameters) == [(0.0, ["a", "b"])]


# --- the two forms are the same training --------------------------------------------------------------------

STRENGTH = 0.01
N_STEPS = 200
OPTIMIZERS = {
    "sgd": (SGDConfig(momentum=0.9), 1e-2),
    "nesterov": (SGDConfig(momentum=0.9, nesterov=True), 1e-2),
    "adam": (AdamConfig(), 1e-3),
    "adamw": (AdamWConfig(), 1e-3),
}


@functools.cache
def trained(optimizer, kind, parameters="weights", dtype=torch.float64):
    """All weights, biases and centroids after 200 full-batch steps of the joint loss."""
    regularization = kind(name="") if kind is NoRegularizationConfig else kind(strength=STRENGTH, parameters=parameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = mlp_autoencoder(8, [16], 3).to(dtype)
        clustering = KMeansClustering(4, 3, 64, hold_assignments=False, revive=False).to(dtype)
        nn.init.normal_(clustering.centroids)
    x, index = normal(64, 8).to(dtype), torch.arange(64)
    regularized = regularized_parameters(regularization, autoencoder, clustering.centroids)
    objective = Objective(
        autoencoder,
        clustering,
        clustering_weight=0.1,
        penalized=regularized if kind is L2PenaltyConfig else (),
        l2_strength=STRENGTH,
    )
    config, lr = OPTIMIZERS[optimizer]
    stepper = build_optimizer(config, parameter_groups(regularization, objective.parameters(), regularized), lr)
    for _ in range(N_STEPS):
        stepper.zero_grad()
        objective(x, index).total.backward()
        stepper.step()
    return torch.cat([p.detach().flatten() for p in objective.parameters()])


def relative_difference(first, second):
    return ((first - second).norm() / second.norm()).item()


def test_weight_decay_equals_l2_penalty_under_sgd_with_momentum():
    decay, penalty = trained("sgd", WeightDecayConfig), trained("sgd", L2PenaltyConfig)
    # float64: measured 1e-16, the sum of the two gradients is rounded once more in one form than in the other.
    torch.testing.assert_close(decay, penalty, rtol=0, atol=1e-10)
    assert relative_difference(decay, trained("sgd", NoRegularizationConfig)) > 0.05  # it did regularize


def test_weight_decay_equals_l2_penalty_under_nesterov_momentum():
    decay, penalty = trained("nesterov", WeightDecayConfig), trained("nesterov", L2PenaltyConfig)
    torch.testing.assert_close(decay, penalty, rtol=0, atol=1e-10)


@pytest.mark.parametrize("parameters", ["weights", "all"])
def test_weight_decay_equals_l2_penalty_under_adam(parameters):
    decay, penalty = trained("adam", WeightDecayConfig, parameters), trained("adam", L2PenaltyConfig, parameters)
    torch.testing.assert_close(decay, penalty, rtol=0, atol=1e-10)
    assert relative_difference(decay, trained("adam", NoRegularizationConfig)) > 0.05


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_equals_l2_penalty_in_float32(optimizer):
    decay = trained(optimizer, WeightDecayConfig, dtype=torch.float32)
    penalty = trained(optimizer, L2PenaltyConfig, dtype=torch.float32)
    # Weights are up to 1 and a rounding 6e-8. Measured 1e-7; Adam divides by the size of the gradient, which turns a
    # rounding of a gradient near 0 into a larger part of a step of 1e-3: 100 such steps of 1e-4 parts are 1e-5.
    torch.testing.assert_close(decay, penalty, rtol=0, atol=1e-5)


def test_weight_decay_is_not_the_l2_penalty_under_adamw():
    decay, penalty = trained("adamw", WeightDecayConfig), trained("adamw", L2PenaltyConfig)
    assert relative_difference(decay, penalty) > 0.1  # measured 0.3; the forms agree to 1e-15 under Adam


def test_what_is_regularized_makes_a_difference():
    weights, everything = trained("adam", L2PenaltyConfig), trained("adam", L2PenaltyConfig, "all")
    assert relative_difference(weights, everything) > 0.01
