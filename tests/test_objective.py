"""`dkm.training.objective`: the total and its parts by hand, where the gradients go, and what is registered."""

import numpy as np
import pytest
import torch
from torch import nn

from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.regularization import WeightDecayConfig
from dkm.data.gaps import GapMask
from dkm.models.autoencoder import Autoencoder
from dkm.models.mlp import mlp_autoencoder
from dkm.models.regularization import regularized_parameters
from dkm.training.objective import LossTerms, Objective

# Every number of the small example is a multiple of 1/16 and exact in binary, but for the weights 0.1 and 0.2.
REL = 1e-6

X = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])  # four samples, two features
INDEX = torch.arange(4)


def linear(*rows):
    weight = torch.tensor(rows)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def small_autoencoder():
    """Takes X to z = 1, 3, 0, 0, and to x_hat = (1, 0.5), (3, 1.5) and zeros: errors 0, 0.5, 2, -0.5, and zeros."""
    return Autoencoder(linear([1.0, 1.0]), linear([1.0], [0.5]), latent_dim=1)


def small_clustering(*, hold_assignments=False):
    """Centroids 0 and 5: distances 1, 2, 0, 0."""
    clustering = KMeansClustering(2, 1, 4, hold_assignments=hold_assignments, revive=False)
    with torch.no_grad():
        clustering.centroids.copy_(torch.tensor([[0.0], [5.0]]))
    return clustering


def objective_of(autoencoder, clustering, **settings):
    penalized = [p for name, p in autoencoder.named_parameters() if name.endswith("weight")]
    return Objective(autoencoder, clustering, penalized=penalized, **settings)


def values(terms):
    return {name: value.item() for name, value in terms._asdict().items()}


# --- the value ----------------------------------------------------------------------------------------------


def test_total_is_reconstruction_plus_weighted_clustering_plus_l2_by_hand():
    objective = objective_of(small_autoencoder(), small_clustering(), clustering_weight=0.1, l2_strength=0.2)
    reconstruction = (0 + 0.25 + 4 + 0.25) / 8
    clustering = (1 + 4) / 4
    l2 = (1 + 1 + 1 + 0.25) / 2
    terms = objective(X, INDEX)
    assert isinstance(terms, LossTerms)
    assert all(term.shape == () for term in terms)
    assert values(terms) == pytest.approx(
        {
            "total": reconstruction + 0.1 * clustering + 0.2 * l2,
            "reconstruction": reconstruction,
            "clustering": clustering,  # the parts are reported before their weights
            "l2": l2,
            "neighbors": 0,
        },
        rel=REL,
    )


def test_targets_add_their_weighted_mean_squared_distance():
    autoencoder = small_autoencoder()
    z = autoencoder.encode(X)
    targets = torch.zeros(len(X), z.shape[1])
    plain = Objective(autoencoder, None)(X, INDEX)
    terms = Objective(autoencoder, None, targets=targets, target_weight=3.0)(X, INDEX)
    assert terms.neighbors.item() == pytest.approx(z.square().mean().item())
    assert terms.total.item() == pytest.approx(plain.total.item() + 3 * terms.neighbors.item())


def test_reduction_sum_adds_up_features_and_averages_samples():
    mean = Objective(small_autoencoder(), None, reduction="mean")(X, INDEX)
    total = Objective(small_autoencoder(), None, reduction="sum")(X, INDEX)
    assert mean.reconstruction.item() == mean.total.item() == 4.5 / 8
    assert total.reconstruction.item() == total.total.item() == 4.5 / 4


def test_reduction_leaves_the_other_terms_as_they_are():
    objective = objective_of(
        small_autoencoder(), small_clustering(), clustering_weight=0.1, l2_strength=0.2, reduction="sum"
    )
    assert objective(X, INDEX).total.item() == pytest.approx(4.5 / 4 + 0.1 * 1.25 + 0.2 * 1.625, rel=REL)


def test_without_clustering_the_weight_multiplies_nothing():
    terms = objective_of(small_autoencoder(), None, clustering_weight=0.1, l2_strength=0.2)(X, INDEX)
    assert terms.clustering.item() == 0
    assert terms.total.item() == pytest.approx(4.5 / 8 + 0.2 * 1.625, rel=REL)


def test_without_penalty_l2_is_zero():
    terms = Objective(small_autoencoder(), small_clustering(), clustering_weight=0.1, l2_strength=0.2)(X, INDEX)
    assert terms.l2.item() == 0
    assert terms.total.item() == pytest.approx(4.5 / 8 + 0.1 * 1.25, rel=REL)


def test_a_weight_of_zero_still_reports_the_clustering_loss():
    terms = Objective(small_autoencoder(), small_clustering(), clustering_weight=0.0)(X, INDEX)
    assert terms.clustering.item() == 5 / 4
    assert terms.total.item() == 4.5 / 8


@pytest.mark.parametrize("share", [0.5, 2.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_share_of_a_process_scales_the_means_over_samples_and_not_the_penalty(reduction, share):
    objective = objective_of(small_autoencoder(), small_clustering(), clustering_weight=0.1, reduction=reduction)
    whole, part = objective(X, INDEX), objective(X, INDEX, share)
    assert part.reconstruction.item() == share * whole.reconstruction.item()
    assert part.clustering.item() == share * whole.clustering.item() == share * 5 / 4
    assert part.l2.item() == whole.l2.item()
    assert part.total.item() == pytest.approx(part.reconstruction.item() + 0.1 * share * 5 / 4, rel=REL)


def test_held_assignments_are_looked_up_by_position_in_the_data_set():
    clustering = small_clustering(hold_assignments=True)
    clustering.end_epoch(torch.tensor([[0.0], [5.0], [0.0], [0.0]]))  # sample 1 is held at 5, the others at 0
    objective = Objective(small_autoencoder(), clustering, clustering_weight=0.1)
    assert objective(X, INDEX).clustering.item() == (1 + 4) / 4  # z = 1, 3, 0, 0 to 0, 5, 0, 0
    assert objective(X, INDEX.flip(0)).clustering.item() == (1 + 9 + 25) / 4  # z = 1, 3, 0, 0 to 0, 0, 5, 0


# --- gradients ----------------------------------------------------------------------------------------------


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def joint(dtype=torch.float32, penalize=True, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = mlp_autoencoder(6, [5], 3).to(dtype)
        clustering = KMeansClustering(4, 3, 10, hold_assignments=False, revive=False).to(dtype)
    return (objective_of if penalize else Objective)(autoencoder, clustering, **settings)


def gradients(loss, objective):
    names = dict(objective.named_parameters())
    found = torch.autograd.grad(loss, names.values(), allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def halves(gradients_by_name):
    return {".".join(name.split(".")[:2]) for name in gradients_by_name}


ENCODER, DECODER, CENTROIDS = "autoencoder.encoder", "autoencoder.decoder", "clustering.centroids"


def test_gradients_reach_encoder_decoder_and_centroids():
    objective = joint(clustering_weight=0.1, l2_strength=0.2)
    found = gradients(objective(normal(10, 6), torch.arange(10)).total, objective)
    assert found.keys() == {name for name, _ in objective.named_parameters()}
    assert halves(found) == {ENCODER, DECODER, CENTROIDS}
    assert all(gradient.any() for gradient in found.values())


def test_each_term_moves_what_it_depends_on():
    objective = joint(clustering_weight=0.1, l2_strength=0.2)
    terms = objective(normal(10, 6), torch.arange(10))
    assert halves(gradients(terms.reconstruction, objective)) == {ENCODER, DECODER}
    assert halves(gradients(terms.clustering, objective)) == {ENCODER, CENTROIDS}
    l2 = gradients(terms.l2, objective)
    assert halves(l2) == {ENCODER, DECODER}
    assert all(name.endswith("weight") for name in l2)


def test_the_penalty_adds_strength_times_the_weights_to_the_gradient():
    x, index = normal(10, 6), torch.arange(10)
    plain, penalized = joint(clustering_weight=0.1, l2_strength=0.0), joint(clustering_weight=0.1, l2_strength=0.2)
    without, with_penalty = (gradients(o(x, index).total, o) for o in (plain, penalized))
    for name, parameter in penalized.named_parameters():
        expected = without[name] + (0.2 * parameter if name.endswith("weight") else 0)
        torch.testing.assert_close(with_penalty[name], expected, rtol=1e-5, atol=1e-7)  # float32 sums


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_those_of_finite_differences(reduction):
    objective = joint(torch.float64, penalize=False, clustering_weight=0.1, reduction=reduction)
    names, parameters = zip(*objective.named_parameters(), strict=True)
    with torch.no_grad():
        for parameter in parameters:  # biases of 0 put samples that no unit answers to on the kink of the next ReLU
            parameter += 0.1 * normal(*parameter.shape, dtype=torch.float64)
    x, index = normal(10, 6, dtype=torch.float64), torch.arange(10)

    def total(*candidates):
        return torch.func.functional_call(objective, dict(zip(names, candidates, strict=True)), (x, index)).total

    assert torch.autograd.gradcheck(total, parameters)


# --- precision ----------------------------------------------------------------------------------------------


def test_under_autocast_every_term_is_float32():
    objective = joint(clustering_weight=0.1, l2_strength=0.2)
    x, index = normal(10, 6), torch.arange(10)
    expected = objective(x, index)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(x, index)
    assert {term.dtype for term in terms} == {torch.float32}
    # bfloat16 keeps 8 bits: layers and so losses within some of its roundings, 2^-8; the penalty is not touched.
    assert terms.total.item() == pytest.approx(expected.total.item(), rel=0.03)
    assert terms.l2.item() == expected.l2.item()


# --- what is registered -------------------------------------------------------------------------------------


def test_penalized_parameters_are_registered_once():
    autoencoder, clustering = mlp_autoencoder(6, [5], 3), small_clustering()
    plain = Objective(autoencoder, clustering)
    chosen = regularized_parameters(WeightDecayConfig(parameters="all"), autoencoder, clustering.centroids)
    penalized = Objective(autoencoder, clustering, penalized=chosen, l2_strength=1.0)
    names = [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in penalized.named_parameters()] == names
    # Without the removal of duplicates that named_parameters does by default:
    assert [name for name, _ in penalized.named_parameters(remove_duplicate=False)] == names
    assert list(penalized.state_dict()) == list(plain.state_dict())


def test_the_penalty_follows_the_parameters_as_they_train():
    objective = objective_of(small_autoencoder(), None, l2_strength=0.2)
    with torch.no_grad():
        objective.autoencoder.encoder.weight.fill_(3.0)
    assert objective(X, INDEX).l2.item() == (9 + 9 + 1 + 0.25) / 2


def test_without_reconstruction_nothing_is_decoded(monkeypatch):
    torch.manual_seed(0)
    autoencoder = mlp_autoencoder(6, (5,), 3)
    clustering = KMeansClustering(4, 3, 10, hold_assignments=False, revive=False)
    x, index = torch.rand(10, 6), torch.arange(10)
    whole = Objective(autoencoder, clustering, clustering_weight=0.5)(x, index)
    half = Objective(autoencoder, clustering, clustering_weight=0.5, reconstruction_weight=0.25)(x, index)
    assert half.total.item() == pytest.approx(0.25 * whole.reconstruction.item() + 0.5 * whole.clustering.item())
    monkeypatch.setattr(autoencoder, "decode", None)
    terms = Objective(autoencoder, clustering, clustering_weight=0.5, reconstruction_weight=0.0)(x, index)
    assert terms.reconstruction.item() == 0
    assert terms.total.item() == pytest.approx(0.5 * whole.clustering.item())
    terms.total.backward()
    assert all(p.grad is None for p in autoencoder.decoder.parameters())
    assert autoencoder.encoder[0].weight.grad.abs().sum() > 0


def test_reconstruction_error_of_a_filled_cell_counts_as_zero() -> None:
    autoencoder = small_autoencoder()
    x, index = X[:4], INDEX[:4]
    cells = np.zeros((len(X), x.shape[1]), dtype=bool)
    cells[index[1], 0] = True
    filled = GapMask.pack(cells)
    with torch.no_grad():
        error = (autoencoder.decode(autoencoder.encode(x)) - x).square()
    error[1, 0] = 0
    assert Objective(autoencoder, None, filled=filled)(x, index).total.item() == pytest.approx(error.mean().item())
