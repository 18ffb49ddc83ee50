"""`dkm.clustering.losses`: the k-means loss by hand, against other ways to compute it, and the modules around it."""

import math
from itertools import pairwise

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dkm.clustering.assignment import nearest_centroids
from dkm.clustering.functional import kmeans_loss, soft_kmeans_loss
from dkm.clustering.losses.base import NoClustering
from dkm.clustering.losses.dcn import DCNClustering
from dkm.clustering.losses.dec import DECClustering, log_soft_assignments, target_distribution
from dkm.clustering.losses.dkm import DKMClustering, annealed_alpha
from dkm.clustering.losses.kmeans import KMeansClustering, KMeansLoss
from dkm.clustering.methods import build_clustering
from dkm.config.clustering import (
    METHODS,
    DCNConfig,
    DECConfig,
    DKMConfig,
    IDECConfig,
    KMeansConfig,
    Method,
    NoClusteringConfig,
)

# N points, D dimensions, K clusters.
SHAPES = [(1, 1, 1), (1, 3, 4), (5, 1, 1), (7, 4, 1), (20, 1, 3), (50, 8, 10), (40, 30, 2)]
# Two float64 computations of one number whose steps differ.
RTOL = 1e-9


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def broadcast_loss(z, centroids):
    """The definition, with the (N, K, D) tensor."""
    return ((z[:, None] - centroids[None]) ** 2).sum(2).min(1).values.mean()


def slow_loss(z, centroids):
    total = 0.0
    for point in z.tolist():
        total += min(sum((a - b) ** 2 for a, b in zip(point, center, strict=True)) for center in centroids.tolist())
    return total / len(z)


def value_and_gradients(loss, z, centroids, *args):
    z, centroids = leaf(z), leaf(centroids)
    value = loss(z, centroids, *args)
    value.backward()
    return value.detach(), z.grad, centroids.grad


def assert_close(actual, expected):
    """Relative to the largest element: the small ones are differences of large ones."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=RTOL * expected.abs().max().item())


# --- the value and its gradients ----------------------------------------------------------------------------


def test_loss_and_gradients_by_hand():
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    centroids = torch.tensor([[1.0, 0.0], [5.0, 4.0]])
    # Squared distances to the nearest: 1, 1 and 1 + 9 to the first centroid, 1 to the second.
    value, z_grad, centroids_grad = value_and_gradients(kmeans_loss, z, centroids)
    assert value.item() == 13 / 4
    # 2/N (z - c) for each point, 2/N sum (c - z) for each centroid, N = 4.
    assert z_grad.tolist() == [[-0.5, 0.0], [0.5, 0.0], [-0.5, 1.5], [0.0, 0.5]]
    assert centroids_grad.tolist() == [[0.5, -1.5], [0.0, -0.5]]


def test_a_point_on_its_centroid_costs_nothing_and_does_not_move():
    value, z_grad, centroids_grad = value_and_gradients(kmeans_loss, column(3.0), column(7.0, 3.0))
    assert value.item() == 0
    assert z_grad.tolist() == [[0.0]]
    assert centroids_grad.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(("N", "D", "K"), SHAPES)
def test_value_and_gradients_are_those_of_the_broadcast_formula(N, D, K):
    z, centroids = normal(N, D), normal(K, D, seed=1)
    actual, expected = (value_and_gradients(loss, z, centroids) for loss in (kmeans_loss, broadcast_loss))
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


@pytest.mark.parametrize(("N", "D", "K"), SHAPES)
def test_loss_is_that_of_a_slow_loop(N, D, K):
    z, centroids = normal(N, D), normal(K, D, seed=1)
    assert kmeans_loss(z, centroids).item() == pytest.approx(slow_loss(z, centroids), rel=RTOL)


def test_loss_is_scikit_learns_inertia_per_point():
    X, _ = make_blobs(300, 5, centers=6, random_state=0)
    fitted = KMeans(6, n_init=1, random_state=0).fit(X)
    loss = kmeans_loss(torch.from_numpy(X), torch.from_numpy(fitted.cluster_centers_))
    assert loss.item() == pytest.approx(fitted.inertia_ / len(X), rel=RTOL)


@pytest.mark.parametrize("assignments", [None, torch.tensor([2, 0, 0, 1, 2, 2])])
def test_gradients_are_those_of_finite_differences(assignments):
    z, centroids = leaf(normal(6, 3)), leaf(normal(3, 3, seed=1))
    assert torch.autograd.gradcheck(kmeans_loss, (z, centroids, assignments))


def test_gradients_of_many_points_are_those_of_the_broadcast_formula():
    z, centroids = normal(10_000, 10), normal(7, 10, seed=1)
    actual, expected = (value_and_gradients(loss, z, centroids) for loss in (kmeans_loss, broadcast_loss))
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


def test_a_gradient_is_computed_for_what_requires_one():
    z, centroids = leaf(normal(6, 3)), normal(3, 3, seed=1)
    kmeans_loss(z, centroids).backward()
    expected = value_and_gradients(broadcast_loss, z, centroids)
    assert_close(z.grad, expected[1])
    fixed, centroids = z.detach(), leaf(centroids)
    kmeans_loss(fixed, centroids).backward()
    assert_close(centroids.grad, expected[2])


@pytest.mark.parametrize("assignments", [None, torch.tensor([0, 2, 2, 1, 0, 2])])
def test_second_derivatives_are_those_of_finite_differences(assignments):
    z, centroids = leaf(normal(6, 3)), leaf(normal(3, 3, seed=1))
    assert torch.autograd.gradgradcheck(lambda *args: kmeans_loss(*args, assignments), (z, centroids))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # of torch.func itself
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd, torch.func.hessian])
@pytest.mark.parametrize("argnums", [0, 1])
def test_transforms_of_torch_func_are_those_of_the_broadcast_formula(transform, argnums):
    z, centroids = normal(6, 3), normal(3, 3, seed=1)
    actual, expected = (transform(loss, argnums)(z, centroids) for loss in (kmeans_loss, broadcast_loss))
    assert_close(actual, expected)


def test_vmap_over_batches_is_a_loop():
    z, centroids = normal(4, 6, 3), normal(3, 3, seed=1)
    actual = torch.func.vmap(torch.func.grad(kmeans_loss), in_dims=(0, None))(z, centroids)
    assert_close(actual, torch.stack([torch.func.grad(kmeans_loss)(batch, centroids) for batch in z]))


# --- what leaves it as it is --------------------------------------------------------------------------------


def test_the_order_of_the_centroids_does_not_matter():
    z, centroids, order = normal(30, 4), normal(6, 4, seed=1), torch.tensor([3, 0, 5, 1, 4, 2])
    value, z_grad, centroids_grad = value_and_gradients(kmeans_loss, z, centroids)
    permuted = value_and_gradients(kmeans_loss, z, centroids[order])
    assert_close(permuted[0], value)
    assert_close(permuted[1], z_grad)
    assert_close(permuted[2], centroids_grad[order])


def test_the_order_of_the_points_does_not_matter():
    z, centroids = normal(30, 4), normal(6, 4, seed=1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    value, z_grad, centroids_grad = value_and_gradients(kmeans_loss, z, centroids)
    permuted = value_and_gradients(kmeans_loss, z[order], centroids)
    assert_close(permuted[0], value)
    assert_close(permuted[1], z_grad[order])
    assert_close(permuted[2], centroids_grad)


def test_moving_points_and_centroids_together_changes_nothing():
    z, centroids, shift = normal(30, 4), normal(6, 4, seed=1), torch.tensor([3.0, -70.0, 0.5, 1000.0])
    expected = value_and_gradients(kmeans_loss, z, centroids)
    moved = value_and_gradients(kmeans_loss, z + shift, centroids + shift)
    for m, e in zip(moved, expected, strict=True):
        assert_close(m, e)


def test_scaling_points_and_centroids_scales_the_loss_by_the_square():
    z, centroids = normal(30, 4), normal(6, 4, seed=1)
    assert_close(kmeans_loss(3 * z, 3 * centroids), 9 * kmeans_loss(z, centroids))


# --- degenerate cases ---------------------------------------------------------------------------------------


def test_an_empty_cluster_gets_exactly_no_gradient():
    _, _, centroids_grad = value_and_gradients(kmeans_loss, column(0, 1, 2), column(1, 100))
    assert centroids_grad.tolist() == [[0.0], [0.0]]  # the first one is the mean of its points
    _, _, centroids_grad = value_and_gradients(
        kmeans_loss, normal(50, 3), torch.tensor([[0.0] * 3, [99.0] * 3]).double()
    )
    assert centroids_grad[0].abs().min() > 0
    assert centroids_grad[1].tolist() == [0.0, 0.0, 0.0]


def test_duplicate_points_count_each():
    value, z_grad, centroids_grad = value_and_gradients(kmeans_loss, column(3, 3, 3, 0), column(0, 1))
    assert value.item() == 3 * 4 / 4
    assert z_grad.flatten().tolist() == [1.0, 1.0, 1.0, 0.0]
    assert centroids_grad.flatten().tolist() == [0.0, -3.0]


def test_of_duplicate_centroids_the_first_takes_the_gradient():
    _, _, centroids_grad = value_and_gradients(kmeans_loss, column(3), column(1, 1))
    assert centroids_grad.flatten().tolist() == [-4.0, 0.0]


def test_given_assignments_are_used_though_another_centroid_is_nearer():
    value, z_grad, centroids_grad = value_and_gradients(kmeans_loss, column(0, 10), column(0, 10), torch.tensor([1, 1]))
    assert value.item() == 50
    assert z_grad.flatten().tolist() == [-10.0, 0.0]
    assert centroids_grad.flatten().tolist() == [0.0, 10.0]


def test_points_far_from_the_origin_keep_their_loss():
    # float32 at 1e4 has steps of 1e-3: the loss of the rounded numbers, computed in float64, is the reference.
    z, centroids = normal(500, 5).float() + 1e4, normal(30, 5, seed=1).float() + 1e4
    expected = broadcast_loss(z.double(), centroids.double()).item()
    assert kmeans_loss(z, centroids).item() == pytest.approx(expected, rel=1e-6)  # 500 float32 summands


# --- precision ----------------------------------------------------------------------------------------------

HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("half", HALF)
def test_half_precision_is_computed_in_float32(half):
    z, centroids = normal(50, 8).to(half), normal(4, 8, seed=1).to(half)
    value, z_grad, centroids_grad = value_and_gradients(kmeans_loss, z, centroids)
    expected, expected_z, expected_centroids = value_and_gradients(kmeans_loss, z.float(), centroids.float())
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    # The gradients have the types of what they belong to.
    assert torch.equal(z_grad, expected_z.to(half))
    assert torch.equal(centroids_grad, expected_centroids.to(half))


@pytest.mark.parametrize("half", HALF)
def test_a_half_precision_embedding_goes_with_float32_centroids(half):
    z, centroids = normal(50, 8).to(half), normal(4, 8, seed=1).float()
    value, _, centroids_grad = value_and_gradients(kmeans_loss, z, centroids)
    expected, _, expected_centroids = value_and_gradients(kmeans_loss, z.float(), centroids)
    assert torch.equal(value, expected)
    assert torch.equal(centroids_grad, expected_centroids)


def test_mixed_precision_is_computed_in_the_wider_type():
    z, centroids = normal(50, 8), normal(4, 8, seed=1).float()
    value = kmeans_loss(z, centroids)
    assert value.dtype == torch.float64
    assert torch.equal(value, kmeans_loss(z, centroids.double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_changes_nothing(dtype):
    z, centroids = normal(200, 8).to(dtype), normal(30, 8, seed=1).to(dtype)
    expected = value_and_gradients(kmeans_loss, z, centroids)
    with torch.autocast("cpu", torch.bfloat16):
        actual = value_and_gradients(kmeans_loss, z, centroids)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_labels_are_the_same_under_autocast():
    criterion, z = KMeansLoss(30, 5), normal(2000, 5).float()
    with torch.no_grad():
        criterion.centroids.copy_(normal(30, 5, seed=1))
    expected = criterion.assign(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(criterion.assign(z), expected)


def test_the_module_under_autocast_is_exact_for_a_half_precision_embedding():
    encoder, criterion = nn.Linear(20, 5), KMeansLoss(40, 5)
    with torch.no_grad():
        encoder.weight.copy_(normal(5, 20))
        criterion.centroids.copy_(3 * normal(40, 5, seed=1))
    with torch.autocast("cpu", torch.bfloat16):
        z = encoder(normal(3000, 20, seed=2).float())
        loss = criterion(z)
        labels = criterion.assign(z.float())
    assert (z.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    exact = (z.double()[:, None] - criterion.centroids.double()).square().sum(2)
    assert torch.equal(labels, exact.argmin(1))
    assert loss.item() == pytest.approx(exact.amin(1).mean().item(), rel=1e-6)
    loss.backward()
    assert criterion.centroids.grad.dtype == encoder.weight.grad.dtype == torch.float32


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z_shape", "centroids_shape"),
    [
        ((4, 3), (2, 5)),  # other dimensions
        ((4,), (2, 4)),
        ((4, 3), (3,)),
        ((4, 3, 1), (2, 3)),
        ((4, 3), (2, 3, 1)),
        ((), (2, 3)),
        ((0, 3), (2, 3)),  # no points
        ((4, 3), (0, 3)),  # no centroids
        ((4, 0), (2, 0)),  # no dimensions
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(z_shape, centroids_shape):
    with pytest.raises(ValueError) as error:
        kmeans_loss(torch.zeros(z_shape), torch.zeros(centroids_shape))
    assert f"got z {z_shape} and centroids {centroids_shape}" in str(error.value)


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()])
def test_assignments_that_are_not_one_per_point_are_refused_with_both_shapes(shape):
    with pytest.raises(ValueError) as error:
        kmeans_loss(torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(shape, dtype=torch.int64))
    assert f"got z (4, 3) and assignments {shape}" in str(error.value)


# --- memory -------------------------------------------------------------------------------------------------


class LargestOutput(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_the_recorder_sees_the_broadcast_formulas_tensor():
    with LargestOutput() as largest:
        value_and_gradients(broadcast_loss, torch.zeros(200, 64), torch.zeros(50, 64))
    assert largest.numel == 200 * 50 * 64


def test_no_tensor_over_points_clusters_and_dimensions_is_made():
    N, K, D = 200, 50, 64
    with LargestOutput() as largest:
        value_and_gradients(kmeans_loss, normal(N, D), normal(K, D, seed=1))
    # Nothing, backward included, is larger than the points, the centroids, or the distances between them.
    assert largest.numel == max(N * D, K * D, N * K) < N * K * D


def test_the_backward_pass_keeps_no_matrix_of_points_and_clusters():
    N, K, D = 4096, 1000, 64
    z, centroids = leaf(normal(N, D).float()), leaf(normal(K, D, seed=1).float())
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kmeans_loss(z, centroids).backward()
    # The points, the centroid of each, and its number; all distances would be 16 MB more.
    assert sum(kept.values()) <= z.nbytes + N * D * 4 + N * 8 + 64
    assert sum(kept.values()) < N * K * 4 / 5


# --- torch.compile ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the compiler
def test_the_compiled_loss_is_the_eager_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    z, centroids = normal(500, 8).float(), normal(20, 8, seed=1).float()
    compiled = torch.compile(kmeans_loss)
    for assignments in ((), (torch.arange(500) % 20,)):
        expected = value_and_gradients(kmeans_loss, z, centroids, *assignments)
        actual = value_and_gradients(compiled, z, centroids, *assignments)
        for a, e in zip(actual, expected, strict=True):  # float32 sums of 4,000 numbers
            torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6 * e.abs().max().item())


# --- KMeansLoss ---------------------------------------------------------------------------------------------


def test_the_module_takes_assignments_that_are_held():
    criterion, z = KMeansLoss(4, 3), normal(10, 3).float()
    held = torch.arange(10) % 4
    assert torch.equal(criterion(z, held), kmeans_loss(z, criterion.centroids, held))
    assert torch.equal(criterion(z, criterion.assign(z)), criterion(z))
    assert criterion(z, held) > criterion(z)


def test_the_module_is_the_loss_of_its_centroids():
    criterion, z = KMeansLoss(4, 3), normal(10, 3).float()
    assert isinstance(criterion, nn.Module)
    assert [(name, p.shape) for name, p in criterion.named_parameters()] == [("centroids", (4, 3))]
    assert torch.equal(criterion(z), kmeans_loss(z, criterion.centroids))
    assert torch.equal(criterion.assign(z), nearest_centroids(z, criterion.centroids)[:, 0])


def test_fresh_centroids_are_standard_normal():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        centroids = KMeansLoss(100, 100).centroids.detach()
    assert abs(centroids.mean().item()) < 0.04  # 4 standard errors of 10,000 numbers
    assert centroids.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("n_clusters", "latent_dim"), [(0, 3), (3, 0)])
def test_a_module_without_centroids_is_refused(n_clusters, latent_dim):
    with pytest.raises(ValueError, match=f"got {n_clusters} and {latent_dim}"):
        KMeansLoss(n_clusters, latent_dim)


def test_the_loss_goes_down_in_every_one_of_20_steps_of_gradient_descent():
    z = normal(100, 3).float()
    criterion = KMeansLoss(5, 3)
    with torch.no_grad():
        criterion.centroids.copy_(normal(5, 3, seed=1))
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = criterion(z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in pairwise(losses))
    # Measured 1.69 -> 1.48: a step moves a centroid by 2 * 0.1 times its cluster's share of the way to the mean.
    assert losses[-1] < 0.9 * losses[0]


def test_it_drops_into_a_loop_and_trains_the_encoder_too():
    x = normal(100, 6).float()
    encoder, criterion = nn.Linear(6, 3, bias=False), KMeansLoss(4, 3)
    with torch.no_grad():
        encoder.weight.copy_(normal(3, 6, seed=1))
    criterion.initialize(encoder(x))
    before = criterion(encoder(x)).item(), encoder.weight.detach().clone()
    optimizer = torch.optim.SGD([*encoder.parameters(), *criterion.parameters()], lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        criterion(encoder(x)).backward()
        optimizer.step()
    assert criterion(encoder(x)).item() < 0.8 * before[0]
    assert not torch.equal(encoder.weight, before[1])


def test_initialize_lowers_the_loss_and_returns_the_labels():
    z = normal(200, 3).float()
    criterion = KMeansLoss(8, 3)
    with torch.no_grad():
        criterion.centroids.copy_(normal(8, 3, seed=1))
    parameter, before = criterion.centroids, criterion(z).item()
    labels = criterion.initialize(z, n_init=10, seed=0)
    reference = KMeans(8, n_init=10, random_state=0).fit(z.numpy()).inertia_ / 200
    assert criterion(z).item() == pytest.approx(reference, rel=0.02)  # of local optima, the best of ten
    assert criterion(z).item() < before
    assert torch.equal(labels, criterion.assign(z))
    assert criterion.centroids is parameter  # an optimizer that holds it goes on
    assert parameter.requires_grad


def test_initialize_refuses_an_embedding_that_is_not_finite():
    criterion, z = KMeansLoss(4, 3), normal(10, 3).float()
    z[0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 30 values are nan or inf"):
        criterion.initialize(z)
    assert criterion.centroids.isfinite().all()


def test_initialize_depends_on_the_seed_alone():
    z = normal(200, 3).float()
    first, second, other = KMeansLoss(20, 3), KMeansLoss(20, 3), KMeansLoss(20, 3)
    assert torch.equal(first.initialize(z, n_init=1), second.initialize(z, n_init=1, seed=0))
    assert torch.equal(first.centroids, second.centroids)
    other.initialize(z, n_init=1, seed=1)
    assert not torch.equal(first.centroids, other.centroids)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_points_in_half_precision_give_finite_centroids(dtype):
    """Sums of 40,000 of them are beyond the largest number of float16."""
    z = torch.tensor([[-5.0], [5.0]]).repeat(20_000, 1).to(dtype)
    loss = KMeansLoss(2, 1)
    labels = loss.initialize(z, n_init=1)
    assert loss.centroids.flatten().sort().values.tolist() == [-5.0, 5.0]
    assert (loss.assign(z) == labels).all()


def test_points_in_double_precision_are_assigned_as_the_loss_takes_them():
    z = torch.randn(20, 3, dtype=torch.float64)
    loss = KMeansLoss(4, 3)
    torch.testing.assert_close(loss(z), (z - loss.centroids[loss.assign(z)]).square().sum(1).mean())


@pytest.mark.parametrize("n_points", [20, 20_000])
def test_the_loss_has_a_gradient_under_torch_func(n_points):
    z, centroids = torch.randn(n_points, 3), torch.randn(4, 3)
    found = torch.func.grad(kmeans_loss, argnums=(0, 1))(z, centroids)
    z.requires_grad_(), centroids.requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(kmeans_loss(z, centroids), (z, centroids)))


def test_the_centroids_travel_in_the_state_dict():
    first, second, z = KMeansLoss(4, 3), KMeansLoss(4, 3), normal(10, 3).float()
    assert list(first.state_dict()) == ["centroids"]
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(z), first(z))


def test_repr_names_the_sizes():
    assert repr(KMeansLoss(10, 5)) == "KMeansLoss(n_clusters=10, latent_dim=5)"
    assert repr(DCNClustering(10, 5, 7)) == "DCNClustering(n_clusters=10, latent_dim=5)"


# --- KMeansClustering ---------------------------------------------------------------------------------------


def clustering_at(centroids, n_samples, *, hold_assignments=True, revive=True):
    K, D = centroids.shape
    clustering = KMeansClustering(K, D, n_samples, hold_assignments=hold_assignments, revive=revive)
    with torch.no_grad():
        clustering.centroids.copy_(centroids)
    return clustering


def start(clustering, z):
    """Initialize with the centroids that the loss has."""
    labels = nearest_centroids(z, clustering.centroids.detach())[:, 0]
    clustering.initialize(clustering.centroids.detach().clone(), labels, z)


def test_held_assignments_stay_until_the_next_pass():
    clustering = clustering_at(column(0, 10), 3)
    clustering.end_epoch(column(1, 2, 9).float())
    assert clustering.assignments.tolist() == [0, 0, 1]
    moved, index = column(8, 7).float(), torch.tensor([0, 2])  # points 0 and 2, both nearer to 10 now
    assert clustering(moved, index).item() == (64 + 9) / 2
    clustering.end_epoch(column(8, 2, 7).float())
    assert clustering(moved, index).item() == (4 + 9) / 2


def test_initial_assignments_are_kept_for_the_first_epochs():
    clustering = KMeansClustering(2, 1, 3, hold_assignments=True, revive=True, initial_epochs=3)
    with torch.no_grad():
        clustering.centroids.copy_(column(0, 10))
    clustering.assignments.copy_(torch.tensor([0, 1, 1]))
    z = column(0, 1, 2).float()  # all nearest to the first centroid: the second is dead
    for epoch in (0, 1):
        clustering.start_epoch(epoch)
        found = clustering.end_epoch(z)
        assert clustering.assignments.tolist() == [0, 1, 1]
        assert (found.label_change, found.n_dead, len(found.revived)) == (pytest.approx(2 / 3), 1, 0)
    clustering.start_epoch(2)
    assert len(clustering.end_epoch(z).revived) == 1
    assert clustering.assignments.tolist() != [0, 1, 1]


def test_without_held_assignments_each_batch_takes_the_nearest():
    clustering = clustering_at(column(0, 10), 3, hold_assignments=False)
    clustering.end_epoch(column(1, 2, 9).float())
    assert clustering(column(8, 7).float(), torch.tensor([0, 2])).item() == (4 + 9) / 2


@pytest.mark.parametrize("hold_assignments", [True, False])
def test_a_batch_moves_the_centroids_of_its_points(hold_assignments):
    clustering = clustering_at(column(0, 10), 3, hold_assignments=hold_assignments)
    clustering.end_epoch(column(1, 2, 9).float())
    clustering(column(1, 2).float(), torch.tensor([0, 1])).backward()
    assert clustering.centroids.grad.flatten().tolist() == [-3.0, 0.0]


@pytest.mark.parametrize("hold_assignments", [True, False])
def test_change_is_the_fraction_of_labels_that_differ_from_the_last_pass(hold_assignments):
    clustering = clustering_at(column(0, 10), 4, hold_assignments=hold_assignments)
    clustering.end_epoch(column(1, 2, 9, 8).float())
    assert clustering.end_epoch(column(1, 2, 9, 8).float()).label_change == 0
    assert clustering.end_epoch(column(9, 2, 9, 8).float()).label_change == 0.25
    assert clustering.end_epoch(column(1, 9, 1, 1).float()).label_change == 1
    assert clustering.assignments.tolist() == [0, 1, 0, 0]


def test_without_dead_centroids_none_moves():
    clustering = clustering_at(column(0, 10), 3)
    found = clustering.end_epoch(column(1, 2, 9).float())
    assert (found.n_dead, found.revived.tolist()) == (0, [])
    assert clustering.centroids.flatten().tolist() == [0.0, 10.0]


def test_dead_centroids_move_to_the_points_farthest_from_theirs():
    clustering = clustering_at(column(100, 1, -100), 5)
    found = clustering.end_epoch(column(0, 1, 2, 30, 40).float())
    assert found.n_dead == 2
    assert found.revived.tolist() == [0, 2]
    assert clustering.centroids.flatten().tolist() == [40.0, 1.0, 30.0]
    # The labels are those after the move, and the change is that of the labels.
    assert clustering.assignments.tolist() == [1, 1, 1, 2, 0]
    assert found.label_change == 0.8


def test_revived_centroids_are_alive_at_the_next_pass():
    clustering, z = clustering_at(column(100, 1, -100), 5), column(0, 1, 2, 30, 40).float()
    clustering.end_epoch(z)
    found = clustering.end_epoch(z)
    assert (found.label_change, found.n_dead, found.revived.tolist()) == (0, 0, [])


def test_reviving_keeps_the_parameter_that_the_optimizer_holds():
    clustering = clustering_at(column(100, 1, -100), 5)
    parameter = clustering.centroids
    clustering.end_epoch(column(0, 1, 2, 30, 40).float())
    assert clustering.centroids is parameter
    assert parameter.requires_grad


def test_without_reviving_dead_centroids_are_counted_and_stay():
    clustering = clustering_at(column(100, 1, -100), 5, revive=False)
    found = clustering.end_epoch(column(0, 1, 2, 30, 40).float())
    assert (found.n_dead, found.revived.tolist()) == (2, [])
    assert clustering.centroids.flatten().tolist() == [100.0, 1.0, -100.0]
    assert clustering.assignments.tolist() == [1, 1, 1, 1, 1]


def test_only_points_that_are_not_served_yet_revive():
    clustering, z = clustering_at(column(0, 100, 200, 300), 4), column(0, 0, 5, 5).float()
    found = clustering.end_epoch(z)
    assert found.n_dead == 3
    assert found.revived.tolist() == [1, 2]  # two points at a distance, both at 5
    assert clustering.centroids.flatten().tolist() == [0.0, 5.0, 5.0, 300.0]
    assert clustering.assignments.tolist() == [0, 0, 1, 1]
    found = clustering.end_epoch(z)
    assert (found.n_dead, found.revived.tolist()) == (2, [])


def test_identical_points_revive_nothing_once_served():
    clustering, z = clustering_at(column(7, 1, 2), 5), torch.full((5, 1), 7.0)
    for _ in range(3):
        found = clustering.end_epoch(z)
        assert (found.label_change, found.n_dead, found.revived.tolist()) == (0, 2, [])
    assert clustering.centroids.flatten().tolist() == [7.0, 1.0, 2.0]


def test_the_assignments_travel_in_the_state_dict():
    first, second = clustering_at(column(0, 10), 3), clustering_at(column(5, 6), 3)
    first.end_epoch(column(1, 2, 9).float())
    second.load_state_dict(first.state_dict())
    assert second.assignments.tolist() == [0, 0, 1]
    assert second.centroids.flatten().tolist() == [0.0, 10.0]
    assert list(dict(second.named_parameters())) == ["centroids"]


# --- means, self-paced points and the norm ------------------------------------------------------------------


def kmeans_at(start, n_samples, **settings):
    clustering = KMeansClustering(*start.shape, n_samples, hold_assignments=True, revive=False, **settings)
    with torch.no_grad():
        clustering.centroids.copy_(start)
    return clustering


def test_means_minimize_the_held_loss():
    z, index = normal(60, 3).float(), torch.arange(60)
    clustering = kmeans_at(normal(4, 3, seed=1).float(), 60, centroids="mean")
    labels = nearest_centroids(z, clustering.centroids)[:, 0]
    clustering.end_epoch(z)
    assert clustering.assignments.tolist() == labels.tolist()
    for k in range(4):
        torch.testing.assert_close(clustering.centroids[k], z[labels == k].mean(0))
    best = clustering(z, index)
    for shift in (0.01, -0.01):
        other = kmeans_at(clustering.centroids.detach() + shift, 60)
        other.assignments.copy_(labels)
        assert other(z, index) > best


def test_means_are_those_of_the_initial_labels_while_these_are_kept():
    clustering = kmeans_at(column(0, 10).float(), 3, centroids="mean", initial_epochs=2)
    clustering.assignments.copy_(torch.tensor([0, 1, 1]))
    clustering.start_epoch(0)
    clustering.end_epoch(column(1, 2, 9).float())
    assert clustering.centroids.flatten().tolist() == [1.0, 5.5]


def test_a_mean_of_no_points_stays():
    clustering = kmeans_at(column(0, 100).float(), 2, centroids="mean")
    clustering.end_epoch(column(1, 3).float())
    assert clustering.centroids.flatten().tolist() == [2.0, 100.0]


@pytest.mark.parametrize("kind", ["mean", "fixed"])
def test_only_learned_centroids_have_a_gradient(kind):
    assert not kmeans_at(column(0, 1).float(), 2, centroids=kind).centroids.requires_grad
    assert kmeans_at(column(0, 1).float(), 2).centroids.requires_grad


def slow_self_paced_loss(z, batch, index, centroids, epoch, n_epochs):
    """The rule of ASPC-DA, one point at a time: z of all points decides, those of the batch are pulled."""
    labels, losses = [], []
    for point in z.tolist():
        distances = [sum((a - b) ** 2 for a, b in zip(point, c, strict=True)) for c in centroids.tolist()]
        labels.append(distances.index(min(distances)))
        losses.append(min(distances))
    mean = sum(losses) / len(losses)
    std = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / len(losses))
    counts = [loss < mean + epoch / n_epochs * std for loss in losses]
    total = 0.0
    for point, i in zip(batch.tolist(), index.tolist(), strict=True):
        if counts[i]:
            total += sum((a - b) ** 2 for a, b in zip(point, centroids[labels[i]].tolist(), strict=True))
    return total / len(batch) / (sum(counts) / len(counts))


@pytest.mark.parametrize("epoch", [1, 3, 8])
def test_the_self_paced_loss_is_that_of_a_slow_loop(epoch):
    z, centroids, index = normal(80, 3).float(), normal(5, 3, seed=1).float(), torch.tensor([3, 70, 5, 41])
    clustering = kmeans_at(centroids, 80, n_paced_epochs=8)
    clustering.start_epoch(epoch - 1)
    clustering.end_epoch(z)
    batch = z[index] + 0.1 * normal(4, 3, seed=2).float()
    expected = slow_self_paced_loss(z, batch, index, centroids, epoch, 8)
    assert clustering(batch, index).item() == pytest.approx(expected, rel=1e-5)


def test_self_pacing_starts_with_all_points_and_then_leaves_out_the_far_ones():
    clustering = kmeans_at(column(0, 10).float(), 4, n_paced_epochs=4)
    clustering.assignments.copy_(torch.tensor([0, 0, 0, 1]))
    z = leaf(column(1, 1, 4, 10).float())
    assert torch.equal(clustering(z, torch.arange(4)), kmeans_loss(z, clustering.centroids, clustering.assignments))
    clustering.end_epoch(z.detach())  # squared distances 1, 1, 16, 0: mean 4.5, standard deviation 6.7
    assert clustering.point_weights.tolist() == pytest.approx([4 / 3, 4 / 3, 0, 4 / 3])
    clustering(z, torch.arange(4)).backward()
    assert z.grad.flatten().tolist() == pytest.approx([2 / 3, 2 / 3, 0, 0])


def test_points_that_are_all_equally_far_all_count():
    clustering = kmeans_at(column(0, 10).float(), 2, n_paced_epochs=4)
    clustering.end_epoch(column(1, 11).float())
    assert clustering.point_weights.tolist() == [1, 1]


def test_a_mean_is_taken_over_the_points_that_count():
    clustering = kmeans_at(column(0, 10).float(), 4, n_paced_epochs=4, centroids="mean")
    clustering.end_epoch(column(1, 1, 4, 9).float())
    assert clustering.centroids.flatten().tolist() == [1.0, 9.0]


@pytest.mark.parametrize("n_epochs", [None, 10])
def test_the_norm_is_taken_off_the_loss(n_epochs):
    z, index = leaf(normal(6, 3).float()), torch.arange(6)
    plain = kmeans_at(normal(2, 3, seed=1).float(), 6, n_paced_epochs=n_epochs)
    other = kmeans_at(normal(2, 3, seed=1).float(), 6, n_paced_epochs=n_epochs, norm_weight=0.5)
    torch.testing.assert_close(other(z, index), plain(z, index) - 0.5 * z.square().sum(1).mean())
    # With weight 1, -2 z.c + |c|^2: scaling everything down towards the origin makes it larger, not smaller.
    full = kmeans_at(column(2, 5).float(), 2, n_paced_epochs=n_epochs, norm_weight=1.0)
    full.assignments.copy_(torch.tensor([0, 1]))
    assert full(column(2, 5).float(), index[:2]).item() == pytest.approx(-(4 + 25) / 2)
    half = kmeans_at(column(1, 2.5).float(), 2, n_paced_epochs=n_epochs, norm_weight=1.0)
    half.assignments.copy_(torch.tensor([0, 1]))
    assert half(column(1, 2.5).float(), index[:2]) > full(column(2, 5).float(), index[:2])


def test_the_weights_of_points_travel_in_the_state_dict():
    first, second = (kmeans_at(column(0, 10).float(), 4, n_paced_epochs=4) for _ in range(2))
    first.end_epoch(column(1, 1, 4, 10).float())
    second.load_state_dict(first.state_dict())
    assert second.point_weights.tolist() == first.point_weights.tolist() != [1, 1, 1, 1]


# --- DKM ----------------------------------------------------------------------------------------------------


def slow_soft_loss(z, centroids, alpha):
    """The formula of the paper, one point and one centroid at a time."""
    total = 0.0
    for point in z.tolist():
        distances = [sum((a - b) ** 2 for a, b in zip(point, c, strict=True)) for c in centroids.tolist()]
        weights = [math.exp(-alpha * (distance - min(distances))) for distance in distances]
        total += sum(w * distance for w, distance in zip(weights, distances, strict=True)) / sum(weights)
    return total / len(z)


def test_the_soft_loss_by_hand():
    # Squared distances 1 and 9, then 1 and 1; with alpha = ln(3) / 8 the weights of the first point are 3/4 and 1/4.
    loss = soft_kmeans_loss(column(0, 2), column(1, 3), math.log(3) / 8)
    assert loss.item() == pytest.approx((3 / 4 * 1 + 1 / 4 * 9 + 1) / 2, rel=RTOL)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 1000.0])
@pytest.mark.parametrize(("N", "D", "K"), SHAPES)
def test_the_soft_loss_is_that_of_a_slow_loop(N, D, K, alpha):
    z, centroids = normal(N, D), normal(K, D, seed=1)
    assert soft_kmeans_loss(z, centroids, alpha).item() == pytest.approx(slow_soft_loss(z, centroids, alpha), rel=RTOL)


def test_the_soft_loss_goes_from_the_mean_of_all_distances_to_the_k_means_loss():
    z, centroids = normal(50, 3), normal(4, 3, seed=1)
    mean = torch.cdist(z, centroids).square().mean()
    torch.testing.assert_close(soft_kmeans_loss(z, centroids, 1e-12), mean, rtol=1e-9, atol=0)
    hard = value_and_gradients(kmeans_loss, z, centroids)
    soft = value_and_gradients(soft_kmeans_loss, z, centroids, 1e6)
    for a, e in zip(soft, hard, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 3.0])
def test_the_gradient_of_the_soft_loss_flows_through_distances_and_weights(alpha):
    z, centroids = leaf(normal(6, 3)), leaf(normal(3, 3, seed=1))
    assert torch.autograd.gradcheck(lambda *args: soft_kmeans_loss(*args, alpha), (z, centroids))
    # With the weights held fixed it would be another one.
    distance = torch.cdist(z, centroids).square()
    held = (torch.softmax(-alpha * distance, 1).detach() * distance).sum() / len(z)
    (without,) = torch.autograd.grad(held, z)
    (full,) = torch.autograd.grad(soft_kmeans_loss(z, centroids, alpha), z)
    assert (full - without).abs().max() > 0.01


def test_a_point_on_its_centroid_has_a_finite_soft_gradient():
    z = normal(4, 3)
    _, z_grad, centroids_grad = value_and_gradients(soft_kmeans_loss, z, z, 1000.0)
    assert z_grad.isfinite().all()
    assert centroids_grad.isfinite().all()


def test_the_soft_loss_far_from_the_origin_is_that_at_the_origin():
    z, centroids = 8 * normal(50, 3).round(), 8 * normal(4, 3, seed=1).round()  # exact in float32 at the offset too
    near = soft_kmeans_loss(z.float(), centroids.float(), 1000.0)
    assert torch.equal(soft_kmeans_loss(z.float() + 2**20, centroids.float() + 2**20, 1000.0), near)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_the_soft_loss_of_half_precision_is_computed_in_float32(half):
    z, centroids = normal(20, 4).to(half), normal(5, 4, seed=1).float()
    expected = soft_kmeans_loss(z.float(), centroids, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(soft_kmeans_loss(z, centroids, 2.0), expected)


def test_the_soft_loss_of_mixed_precision_is_computed_in_the_wider_type():
    z, centroids = normal(20, 4), normal(5, 4, seed=1).float()
    value = soft_kmeans_loss(z, centroids, 2.0)
    assert value.dtype == torch.float64
    assert torch.equal(value, soft_kmeans_loss(z, centroids.double(), 2.0))


def test_the_soft_loss_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"got z \(3, 2\) and centroids \(4, 5\)"):
        soft_kmeans_loss(torch.zeros(3, 2), torch.zeros(4, 5), 1.0)


def test_alpha_rises_as_published():
    alphas = [annealed_alpha(0.1, n) for n in range(40)]
    assert alphas[:5] == pytest.approx([0.1, 0.423, 0.752, 1.078, 1.409], abs=5e-4)
    assert [alphas[19], alphas[29], alphas[39]] == pytest.approx([8.37, 16.3, 28.1], rel=3e-3)


def test_alpha_is_a_function_of_the_epoch():
    annealed = DKMClustering(3, 2, 10, schedule="annealed", epochs_per_alpha=5)
    assert annealed.alpha.item() == pytest.approx(0.1)
    for epoch, n_before in ((4, 0), (5, 1), (14, 2), (4, 0)):
        annealed.start_epoch(epoch)
        assert annealed.alpha.item() == pytest.approx(annealed_alpha(0.1, n_before))
    constant = DKMClustering(3, 2, 10)
    constant.start_epoch(99)
    assert constant.alpha.item() == 1000


def test_the_module_of_dkm_is_the_soft_loss_at_its_alpha():
    clustering, z = DKMClustering(3, 2, 10, alpha_constant=2.5), normal(10, 2).float()
    loss = clustering(z, torch.arange(10))
    assert torch.equal(loss, soft_kmeans_loss(z, clustering.centroids, 2.5))


def test_each_method_has_its_module():
    for config, kind in (
        (KMeansConfig(name="kmeans"), KMeansClustering),
        (NoClusteringConfig(name="none"), NoClustering),
        (DKMConfig(name="dkm"), DKMClustering),
        (DCNConfig(name="dcn"), DCNClustering),
        (DECConfig(name="dec"), DECClustering),
        (IDECConfig(name="idec"), DECClustering),
    ):
        assert type(build_clustering(config, 3, 2, 10, 5)) is kind
    held = build_clustering(KMeansConfig(name="kmeans", assignment="epoch", revive=False), 3, 2, 10, 5)
    assert (held.hold_assignments, held.revive) == (True, False)
    free = build_clustering(KMeansConfig(name="kmeans", assignment="batch", revive=True), 3, 2, 10, 5)
    assert (free.hold_assignments, free.revive) == (False, True)


def test_what_a_loss_draws_repeats_and_leaves_the_global_generator(monkeypatch):
    class Drawn(KMeansLoss):  # as one of a plugin may be
        @classmethod
        def from_config(cls, config, *, n_clusters, latent_dim, n_samples, n_epochs):
            return cls(n_clusters, latent_dim)

    monkeypatch.setitem(METHODS, "drawn", Method("drawn", KMeansConfig, Drawn))
    state = torch.random.get_rng_state()
    one, other = (build_clustering(KMeansConfig(name="drawn"), 3, 2, 10, 5).centroids for _ in range(2))
    assert torch.equal(one, other)
    assert one.abs().min() > 0
    assert torch.equal(torch.random.get_rng_state(), state)


# --- DCN ----------------------------------------------------------------------------------------------------


def dcn_at(centroids, n_samples=10, count=100):
    clustering = DCNClustering(*centroids.shape, n_samples, count=count)
    clustering.centroids.copy_(centroids)
    return clustering


def test_running_means_by_hand():
    clustering = dcn_at(column(0, 10).float(), count=3)
    clustering.after_step(lambda: column(4, 8, 9, 1).float())
    # The first counts three times, and 4 and 1 join it; 8 and 9 join the second.
    assert clustering.centroids.flatten().tolist() == pytest.approx([(3 * 0 + 4 + 1) / 5, (3 * 10 + 8 + 9) / 5])
    assert clustering.counts.tolist() == [5, 5]
    clustering.after_step(lambda: column(9).float())
    assert clustering.centroids[1].item() == pytest.approx((47 + 9) / 6)
    assert clustering.counts.tolist() == [5, 6]


def test_counts_start_again_when_the_clusters_are_set_again():
    """With the counts of thousands of points, fresh centroids would hardly move."""
    clustering = dcn_at(column(0, 10).float(), count=3)
    for _ in range(50):
        clustering.after_step(lambda: column(1, 2, 8, 9).float())
    assert clustering.counts.tolist() == [103, 103]
    clustering.initialize(column(-4, 4).float(), torch.zeros(10, dtype=torch.int64), column(0).float())
    assert clustering.counts.tolist() == [3, 3]
    clustering.after_step(lambda: column(-8).float())
    assert clustering.centroids.flatten().tolist() == [-5.0, 4.0]


def test_running_means_are_the_papers_update_one_point_at_a_time():
    z, start = normal(200, 4).float(), normal(6, 4, seed=1).float()
    clustering = dcn_at(start, count=100)
    labels = nearest_centroids(z, start)[:, 0].tolist()
    centroids, counts = start.double().clone(), [100] * 6
    for point, k in zip(z.double(), labels, strict=True):
        counts[k] += 1
        centroids[k] -= (centroids[k] - point) / counts[k]
    clustering.after_step(lambda: z)
    torch.testing.assert_close(clustering.centroids.double(), centroids, rtol=1e-6, atol=1e-7)
    assert clustering.counts.tolist() == counts


def test_a_centroid_without_a_point_keeps_its_bits_even_at_count_zero():
    start = torch.tensor([[0.1], [1e6]])
    clustering = dcn_at(start, count=0)
    clustering.after_step(lambda: column(0.3, 0.5).float())
    assert clustering.centroids[0].item() == pytest.approx(0.4)
    assert clustering.centroids[1].item() == start[1].item()


def test_the_loss_of_dcn_moves_the_points_alone():
    clustering, z = dcn_at(normal(3, 2).float()), leaf(normal(10, 2, seed=1).float())
    clustering.end_epoch(z.detach())
    loss = clustering(z, torch.arange(10))
    assert torch.equal(loss, kmeans_loss(z, clustering.centroids, clustering.assignments))
    loss.backward()
    assert z.grad.abs().sum() > 0
    assert not clustering.centroids.requires_grad


def test_counts_travel_in_the_state_dict():
    first, second = dcn_at(column(0, 10).float()), dcn_at(column(0, 0).float())
    first.after_step(lambda: column(1, 2, 3).float())
    second.load_state_dict(first.state_dict())
    assert second.counts.tolist() == [103, 100]


# --- DEC and IDEC -------------------------------------------------------------------------------------------


def slow_divergence(z, centroids, all_z):
    """Equations 1 to 3 of the paper, one point and one centroid at a time; targets from ``all_z``, whose head is z."""

    def assignments(points):
        similar = [[1 / (1 + (p - c).square().sum().item()) for c in centroids] for p in points]
        return [[s / sum(row) for s in row] for row in similar]

    q = assignments(all_z)
    f = [sum(column) for column in zip(*q, strict=True)]
    weighted = [[q_k**2 / f_k for q_k, f_k in zip(row, f, strict=True)] for row in q]
    p = [[w / sum(row) for w in row] for row in weighted]
    pairs = [pair for p_n, q_n in zip(p[: len(z)], assignments(z), strict=True) for pair in zip(p_n, q_n, strict=True)]
    return sum(p_k * math.log(p_k / q_k) for p_k, q_k in pairs) / len(z)


def dec_at(centroids, n_samples, update_interval=None):
    clustering = DECClustering(*centroids.shape, n_samples, update_interval=update_interval).to(centroids.dtype)
    with torch.no_grad():
        clustering.centroids.copy_(centroids)
    return clustering


def test_soft_assignments_and_targets_by_hand():
    # Similarities 1 and 1/2 of the first point, 1/2 and 1 of the second; 1/5 and 1/2 of the third.
    q = log_soft_assignments(column(0, 1, 2), column(0, 1)).exp()
    torch.testing.assert_close(q, torch.tensor([[2, 1], [1, 2], [6 / 7, 15 / 7]], dtype=torch.float64) / 3)
    f = q.sum(0)
    p = target_distribution(q)
    torch.testing.assert_close(p[0, 0], (4 / 9 / f[0]) / (4 / 9 / f[0] + 1 / 9 / f[1]))
    torch.testing.assert_close(p.sum(1), torch.ones(3, dtype=torch.float64))


def test_the_divergence_is_that_of_a_slow_loop():
    z, centroids = normal(30, 3), normal(4, 3, seed=1)
    clustering = dec_at(centroids, 30)
    start(clustering, z)
    for n in (30, 7):
        loss = clustering(z[:n], torch.arange(n))
        assert loss.item() == pytest.approx(slow_divergence(z[:n], centroids, z), rel=RTOL)


def test_the_gradient_of_the_divergence_is_that_of_finite_differences():
    z, centroids = normal(8, 3), normal(3, 3, seed=1)
    clustering = dec_at(centroids, 8)
    start(clustering, z)
    z = leaf(z + 0.1)
    assert torch.autograd.gradcheck(lambda z: clustering(z, torch.arange(8)), (z,))
    # Equation 5 of the paper, averaged over the points.
    loss = clustering(z, torch.arange(8))
    (gradient,) = torch.autograd.grad(loss, clustering.centroids)
    difference = z.detach()[:, None] - centroids  # (N, K, D)
    p, q = clustering.targets, log_soft_assignments(z.detach(), centroids).exp()
    factor = (p - q) / (1 + difference.square().sum(2))
    torch.testing.assert_close(gradient, -2 * (factor[..., None] * difference).sum(0) / 8)


def test_targets_stay_until_they_are_due():
    z = normal(10, 2)
    every_epoch, on_interval = dec_at(normal(3, 2, seed=1), 10), dec_at(normal(3, 2, seed=1), 10, update_interval=4)
    for method in (every_epoch, on_interval):
        start(method, z)
    before = every_epoch.targets.clone()
    assert torch.equal(on_interval.targets, before)
    for method in (every_epoch, on_interval):
        method.end_epoch(2 * z)
    assert not torch.equal(every_epoch.targets, before)
    assert torch.equal(on_interval.targets, before)
    assert [step for step in range(10) if on_interval.is_refresh_due(step)] == []  # no step was made since
    on_interval.after_step(lambda: z)
    assert [step for step in range(10) if on_interval.is_refresh_due(step)] == [4, 8]
    assert not any(every_epoch.is_refresh_due(step) for step in range(10))
    on_interval.refresh(2 * z)
    assert torch.equal(on_interval.targets, every_epoch.targets)


def test_descent_on_the_divergence_sharpens_the_assignments():
    z, centroids = normal(60, 2), normal(3, 2, seed=1)
    clustering = dec_at(centroids, 60)
    points = leaf(z)
    optimizer = torch.optim.SGD([points, clustering.centroids], lr=1.0)
    start(clustering, z)
    first, losses = log_soft_assignments(z, centroids).exp().amax(1).mean(), []
    for _ in range(20):
        loss = clustering(points, torch.arange(60))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(b < a for a, b in pairwise(losses))
    assert log_soft_assignments(points, clustering.centroids).exp().amax(1).mean() > first


def test_a_new_start_forgets_which_points_counted_for_the_clusters_before() -> None:
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    clustering = KMeansClustering(3, 2, 50, hold_assignments=True, revive=False, n_paced_epochs=10)
    with torch.no_grad():
        clustering.centroids.copy_(z[:3])
    clustering.end_epoch(z)
    assert (clustering.point_weights == 0).any()
    start(clustering, z)
    assert clustering.point_weights.tolist() == [1.0] * 50
