"""`dkm.clustering.lloyd` against brute force, a slow loop and scikit-learn, and where k-means is degenerate."""

import itertools
import logging

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs

from dkm.clustering import assignment
from dkm.clustering import lloyd as module
from dkm.clustering.assignment import Assignment, assign, means_of_parts, nearest_centroids, squared_distances_to
from dkm.clustering.functional import kmeans_loss
from dkm.clustering.lloyd import kmeans, kmeans_restarts, lowest_inertia, most_even
from dkm.runtime.devices import matmul_precision

INITS = ["k-means++", "random"]
# The same float64 numbers, summed in another order.
RTOL = 1e-12


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute_force(z, centroids):
    """All squared distances (N, K), from differences in float64."""
    return (z.double()[:, None] - centroids.double()[None]).square().sum(2)


def blobs(n_samples=500, n_features=4, n_blobs=8, seed=0):
    X, y = make_blobs(n_samples, n_features, centers=n_blobs, random_state=seed)
    return torch.from_numpy(X), torch.from_numpy(y)


def digits():
    return torch.from_numpy(load_digits().data)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def lloyd_step(z, centroids):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_ITERATIONS", 1)
        return module._lloyd(z, centroids, tolerance=0.0)


def slow_lloyd_step(z, centroids):
    members = [[] for _ in centroids]
    for point in z:
        members[min(range(len(centroids)), key=lambda k: (point - centroids[k]).square().sum().item())].append(point)
    return torch.stack([torch.stack(points).mean(0) for points in members])


def kmeans_plus_plus(z, n_clusters, n_restarts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([module._plus_plus(z - z.mean(0), n_clusters, generator) for _ in range(n_restarts)])


def n_distinct(points):
    return len(torch.unique(points, dim=0))


# --- nearest centroids --------------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (1, 5, 2), (7, 1, 3), (50, 10, 1), (200, 50, 64), (90, 257, 2), (40, 1000, 5)]


@pytest.fixture(params=["by differences", "by products"])
def search(request, monkeypatch):
    """Both ways to search, whatever the size."""
    monkeypatch.setattr(assignment, "_FEW_NUMEL", 2**40 if request.param == "by differences" else 0)


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("N", "K", "D"), SHAPES)
def test_nearest_centroids_are_those_of_brute_force(N, K, D, dtype):
    z, centroids = normal(N, D, dtype=dtype), normal(K, D, seed=1, dtype=dtype)
    index = nearest_centroids(z, centroids)
    assert index.shape == (N, 1)
    assert index.dtype == torch.int64
    assert torch.equal(index[:, 0], brute_force(z, centroids).argmin(1))


@pytest.mark.parametrize(("N", "K", "D"), SHAPES)
def test_assign_returns_the_squared_distance_to_the_nearest(N, K, D):
    z, centroids = normal(N, D), normal(K, D, seed=1)
    nearest = assign(z, centroids)
    lowest = brute_force(z, centroids).min(1)
    assert torch.equal(nearest.labels, lowest.indices)
    torch.testing.assert_close(nearest.squared_distance, lowest.values, rtol=RTOL, atol=0)


def test_squared_distances_by_hand():
    z, centroids = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[9.0, 9.0], [3.0, 4.0]])
    assert squared_distances_to(z, centroids, torch.tensor([1, 0])).tolist() == [25.0, 113.0]


@pytest.mark.usefixtures("search")
def test_the_nearest_come_first():
    z, centroids = normal(100, 6), normal(9, 6, seed=1)
    expected = brute_force(z, centroids).argsort(1)
    assert torch.equal(nearest_centroids(z, centroids, n_nearest=2), expected[:, :2])
    assert torch.equal(nearest_centroids(z, centroids, n_nearest=9), expected)


@pytest.mark.usefixtures("search")
def test_of_equally_near_centroids_the_lowest_index_comes_first():
    # Small whole numbers, whose products are exact: the ties are ties in floating point too.
    cross = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert nearest_centroids(torch.zeros(1, 2), cross, n_nearest=4).tolist() == [[0, 1, 2, 3]]
    twins = column(2, 0, 0, 2)
    assert nearest_centroids(column(0, 3), twins, n_nearest=2).tolist() == [[1, 2], [0, 3]]


@pytest.mark.usefixtures("search")
def test_points_far_from_the_origin_get_their_true_nearest_centroid():
    z, centroids = normal(500, 5, dtype=torch.float32) + 1e4, normal(30, 5, seed=1, dtype=torch.float32) + 1e4
    nearest = brute_force(z, centroids).argmin(1)
    # What the expanded square gives when it is not taken about a near origin: most are wrong.
    naive = (centroids.square().sum(1) - 2 * z @ centroids.T).argmin(1)
    assert (naive != nearest).float().mean() > 0.5
    assert torch.equal(nearest_centroids(z, centroids)[:, 0], nearest)


HARD = {
    "at an offset": lambda z, c: (z + 1e4, c + 1e4),
    "two groups far apart": lambda z, c: (z + 1e4 * (z[:, :1] > 0), c + 1e4 * (torch.arange(len(c)) % 2)[:, None]),
    "centroids that almost coincide": lambda z, c: (z, c[:1] + 1e-6 * c),
    "coinciding centroids": lambda z, c: (z, c[:5].repeat(len(c) // 5, 1)),
    "an outlier among the points": lambda z, c: (torch.cat([z[:-1], 1e6 * z[-1:]]), c),
    "tiny": lambda z, c: (1e-15 * z, 1e-15 * c),
    "squares that overflow": lambda z, c: (1e25 * z, 1e25 * c),
    "one far centroid": lambda z, c: (z, torch.cat([c[:-1], 1e25 * c[-1:]])),
}


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("n_nearest", [1, 2, 3])
@pytest.mark.parametrize("K", [10, 40])
@pytest.mark.parametrize("case", HARD)
def test_the_nearest_are_exactly_those_of_float64(case, K, n_nearest):
    z, centroids = HARD[case](normal(3000, 8, dtype=torch.float32), normal(K, 8, seed=1, dtype=torch.float32))
    distance = torch.cdist(z.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist")
    found = nearest_centroids(z, centroids, n_nearest)
    # The distances rather than the indices: those of coinciding centroids are equal up to the last bit of float64.
    expected = distance.topk(n_nearest, dim=1, largest=False).values
    torch.testing.assert_close(distance.gather(1, found), expected, rtol=1e-9, atol=0)


def test_the_matrix_product_alone_would_be_wrong_where_groups_lie_far_apart():
    """So that the test above can fail."""
    z, centroids = HARD["two groups far apart"](*(normal(n, 8, seed=n, dtype=torch.float32) for n in (3000, 40)))
    shifted, origin = centroids - centroids.mean(0), centroids.mean(0)
    scores = torch.addmm(shifted.square().sum(1), z - origin, shifted.T, alpha=-2)
    assert (scores.argmin(1) != nearest_centroids(z, centroids)[:, 0]).float().mean() > 0.01


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("n_nearest", [1, 2])
@pytest.mark.parametrize("K", [2, 10, 200])
def test_points_that_are_not_numbers_get_some_centroid_and_spoil_no_other(K, n_nearest):
    z, centroids = normal(500, 3, dtype=torch.float32), normal(K, 3, seed=1, dtype=torch.float32)
    expected = nearest_centroids(z, centroids, n_nearest)
    z[::7] = torch.nan
    found = nearest_centroids(z, centroids, n_nearest)
    assert found.min() >= 0
    assert found.max() < K
    is_finite = z.isfinite().all(1)
    assert torch.equal(found[is_finite], expected[is_finite])


def test_lowered_matmul_precision_leaves_the_nearest_exact():
    z, centroids = normal(3000, 64, dtype=torch.float32), normal(40, 64, seed=1, dtype=torch.float32)
    expected = nearest_centroids(z.double(), centroids.double())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(nearest_centroids(z, centroids), expected)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has only the old setting")
@pytest.mark.parametrize(("backend", "precision"), [("cuda", "tf32"), ("mkldnn", "bf16")])
def test_precision_that_was_lowered_for_one_backend_leaves_the_nearest_exact(backend, precision):
    z, centroids = normal(3000, 64, dtype=torch.float32), normal(40, 64, seed=1, dtype=torch.float32)
    expected = nearest_centroids(z.double(), centroids.double())
    loss = kmeans_loss(z, centroids)
    products = getattr(torch.backends, backend).matmul
    before = products.fp32_precision
    products.fp32_precision = precision
    try:
        assert matmul_precision() != "highest"
        assert torch.equal(nearest_centroids(z, centroids), expected)
        assert torch.equal(kmeans_loss(z, centroids), loss)
        assert kmeans(z, 40, n_init=1).labels.shape == (3000,)
    finally:
        products.fp32_precision = before


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("chunk_numel", [1, 33, 1000])  # 200 rows are a multiple of no number of rows
def test_chunks_change_nothing(chunk_numel, monkeypatch):
    z, centroids = normal(200, 3), normal(11, 3, seed=1)
    whole = nearest_centroids(z, centroids, n_nearest=3), kmeans(z, 11, n_init=2)
    for module_ in (assignment, module):
        monkeypatch.setattr(module_, "CHUNK_NUMEL", chunk_numel)
    monkeypatch.setattr(assignment, "_LEAST_ROWS", 1)
    chunked = nearest_centroids(z, centroids, n_nearest=3), kmeans(z, 11, n_init=2)
    assert torch.equal(chunked[0], whole[0])
    assert torch.equal(chunked[1].labels, whole[1].labels)
    assert torch.equal(chunked[1].centroids, whole[1].centroids)


def test_norms_that_are_given_change_nothing(monkeypatch):
    monkeypatch.setattr(assignment, "_FEW_NUMEL", 0)
    z, centroids = normal(500, 5, dtype=torch.float32) + 1e4, normal(30, 5, seed=1, dtype=torch.float32) + 1e4
    assert torch.equal(nearest_centroids(z, centroids, norms=z.norm(dim=1)), nearest_centroids(z, centroids))


# --- Lloyd --------------------------------------------------------------------------------------------------


def test_a_lloyd_step_is_that_of_a_slow_loop():
    z, starts = normal(60, 3), normal(4, 5, 3, seed=1) * 0.5
    for start in starts:
        torch.testing.assert_close(lloyd_step(z, start), slow_lloyd_step(z, start), rtol=RTOL, atol=RTOL)


def test_ten_lloyd_steps_are_those_of_a_slow_loop(monkeypatch):
    """Later steps only add and subtract the points that changed their cluster."""
    z = expected = normal(300, 3)
    expected = start = z[:8]
    for _ in range(10):
        expected = slow_lloyd_step(z, expected)
    monkeypatch.setattr(module, "MAX_ITERATIONS", 10)
    torch.testing.assert_close(module._lloyd(z, start, tolerance=0.0), expected, rtol=RTOL, atol=RTOL)


def test_an_empty_cluster_gets_the_worst_served_point_which_leaves_its_own():
    assert lloyd_step(column(0, 1, 10), column(0.5, 100)).tolist() == [[0.5], [10.0]]


def test_several_empty_clusters_get_the_worst_served_points_in_order():
    assert lloyd_step(column(0, 1, 10, 20), column(0.5, 100, -100)).tolist() == [[0.5], [20.0], [10.0]]


def test_a_cluster_does_not_lose_its_only_point_to_an_empty_one():
    # 50 is served worst, but taking it away from its own cluster would only move the hole.
    assert lloyd_step(column(0, 0, 50), column(0, 40, 1000)).tolist() == [[0.0], [50.0], [1000.0]]


def test_no_cluster_ends_empty_when_starts_were():
    # All starts in one of two distant groups, and two of them beyond every point.
    z, _ = blobs(n_blobs=4)
    starts = torch.stack([z[0], z[0] + 0.1, z[0] + 1e6, z[0] - 1e6])
    centroids = module._lloyd(z, starts, tolerance=0.0)
    assert assign(z, centroids).labels.bincount(minlength=4).min() > 0


def test_lloyd_stops_at_the_means_of_the_clusters():
    z, _ = blobs()
    centroids = kmeans(z, 8).centroids
    # Blobs this clear are reached exactly; the tolerance is that of means taken in another order.
    torch.testing.assert_close(centroids, slow_lloyd_step(z, centroids), rtol=1e-10, atol=1e-10)


def test_lloyd_goes_on_until_the_centroids_move_less_than_the_tolerance():
    z = digits()
    for result in kmeans_restarts(z, 10, n_init=5):
        movement = (lloyd_step(z, result.centroids) - result.centroids).square().sum().item()
        assert movement <= 1e-4 * z.var(0, correction=0).mean().item()


# --- k-means against scikit-learn ---------------------------------------------------------------------------


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("data", [lambda: blobs()[0], digits], ids=["blobs", "digits"])
def test_inertia_is_scikit_learns_within_one_percent(data, init):
    z = data()
    n_clusters = 8 if z.shape[1] == 4 else 10
    reference = KMeans(n_clusters, init=init, n_init=10, random_state=0).fit(z.numpy()).inertia_
    # One percent: the best of ten local optima, found from other random numbers.
    assert kmeans(z, n_clusters, n_init=10, init=init).inertia == pytest.approx(reference, rel=0.01)


def test_from_the_same_start_the_same_optimum_as_scikit_learn():
    z = digits()
    starts = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:10]]
    reference = KMeans(10, init=starts.numpy(), n_init=1, tol=0, algorithm="lloyd").fit(z.numpy())
    centroids = module._lloyd(z, starts, tolerance=0.0)
    torch.testing.assert_close(centroids, torch.from_numpy(reference.cluster_centers_), rtol=1e-9, atol=1e-9)


def test_blobs_are_found():
    z, y = blobs()
    labels = kmeans(z, 8).labels
    # One label for each blob and one blob for each label.
    assert len({*zip(labels.tolist(), y.tolist(), strict=True)}) == 8


# --- what k-means returns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_and_inertia_are_those_of_the_returned_centroids(dtype, offset):
    # float32 steps by 2^-7 at 1e5: centroids that are moved back there are other numbers.
    z = normal(20_000, 4, dtype=dtype) + offset
    for result in kmeans_restarts(z, 10, n_init=2):
        nearest = assign(z, result.centroids)
        assert result.centroids.dtype == dtype
        assert torch.equal(result.labels, nearest.labels)
        assert result.inertia == nearest.squared_distance.sum(dtype=torch.float64).item()


def test_the_input_is_not_changed():
    z = normal(50, 3)
    copy = z.clone()
    kmeans(z, 5, n_init=2)
    assert torch.equal(z, copy)


def test_clusters_far_from_the_origin_are_those_at_the_origin():
    # float32 steps by 2^-10 at 1e4: points that are multiples of it move there and back without rounding.
    z = (blobs()[0] * 1024).round().div(1024).float()
    here, far = kmeans(z, 8), kmeans(z + 10_000, 8)
    assert torch.equal(far.labels, here.labels)
    torch.testing.assert_close(far.centroids - 10_000, here.centroids, rtol=0, atol=2 / 1024)
    assert far.inertia == pytest.approx(here.inertia, rel=1e-5)  # of centroids rounded to 2^-10


def test_groups_that_lie_far_apart_are_clustered_as_exactly_as_near_ones():
    # Two groups 1e4 apart, four blobs in each: products in float32 are off by 10 there, and blobs 2 wide.
    z = blobs(n_samples=400, n_blobs=4)[0] * 0.1
    z = torch.cat([z, z + 1e4]).float()
    reference = KMeans(8, n_init=20, random_state=0).fit(z.double().numpy()).inertia_
    assert kmeans(z, 8).inertia == pytest.approx(reference, rel=0.01)


@pytest.mark.parametrize("init", INITS)
def test_one_cluster_is_the_mean(init):
    z = normal(40, 3) + 5
    result = kmeans(z, 1, n_init=2, init=init)
    torch.testing.assert_close(result.centroids[0], z.mean(0), rtol=RTOL, atol=0)
    assert result.labels.tolist() == [0] * 40
    assert result.inertia == pytest.approx((z - z.mean(0)).square().sum().item(), rel=RTOL)


@pytest.mark.parametrize("init", INITS)
def test_as_many_clusters_as_points_serve_each_its_own(init):
    z = normal(12, 3)
    result = kmeans(z, 12, n_init=2, init=init)
    assert sorted(result.labels.tolist()) == list(range(12))
    assert result.inertia == pytest.approx(0, abs=1e-25)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [[0.1], [0.1, 0.7]])
def test_more_clusters_than_distinct_points_end_with_one_for_each_distinct_point(values, dtype, init, caplog):
    z = torch.tensor(values, dtype=dtype)[:, None].repeat(10, 3)
    with caplog.at_level(logging.WARNING):
        result = kmeans(z, 6, n_init=3, init=init)
    expected = f"k-means: only {len(values)} of 6 clusters have points; there may be duplicate points"
    assert caplog.messages == [expected]
    assert result.centroids.isfinite().all()
    assert len(result.labels.unique()) == len(values)
    assert result.inertia == pytest.approx(0, abs=1e-10)  # rounding of the mean in float32


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicate_points_are_not_moved_back_and_forth(dtype, init, monkeypatch):
    z = normal(5, 3, dtype=dtype).repeat(1000, 1)
    searches = []

    def counted(*args, **settings):
        searches.append(1)
        return nearest_centroids(*args, **settings)

    monkeypatch.setattr(module, "nearest_centroids", counted)
    assert len(kmeans(z, 8, n_init=1, init=init).labels.unique()) == 5
    assert len(searches) <= 4


def test_distinct_points_give_no_warning(caplog):
    kmeans(normal(12, 3), 12, n_init=2)
    assert caplog.messages == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused_with_their_number(value):
    z = normal(20, 3)
    z[2, 1] = z[7, 0] = value
    with pytest.raises(ValueError, match=r"k-means: 2 of 60 values are nan or inf; expected finite values"):
        kmeans(z, 3)


def test_a_restart_does_not_depend_on_how_many_follow():
    z = normal(300, 5)
    few, many = (kmeans_restarts(z, 7, n_init=n) for n in (2, 5))
    for a, b in zip(few, many[:2], strict=True):
        assert torch.equal(a.centroids, b.centroids)


@pytest.mark.parametrize("init", INITS)
def test_the_same_seed_gives_the_same_bits(init):
    z = normal(300, 5, dtype=torch.float32)
    first, second = kmeans(z, 7, n_init=3, init=init, seed=0), kmeans(z, 7, n_init=3, init=init, seed=0)
    assert torch.equal(first.centroids, second.centroids)
    assert torch.equal(first.labels, second.labels)
    assert first.inertia == second.inertia


@pytest.mark.parametrize("N", [1, 2, 255, 256, 257, 256 * 256, 256 * 256 + 3])
def test_running_sums_by_products_are_those_of_cumsum(N):
    values = torch.rand(3, N, generator=torch.Generator().manual_seed(N), dtype=torch.float64)
    torch.testing.assert_close(module._sums_by_products(values), values.cumsum(1), rtol=1e-12, atol=0)


def test_another_seed_draws_other_starts():
    z = normal(300, 5)
    inertias = [kmeans(z, 20, n_init=1, seed=seed).inertia for seed in range(5)]
    assert len(set(inertias)) == 5


def test_no_global_random_numbers_are_drawn():
    before = torch.get_rng_state()
    kmeans(normal(30, 2), 3, n_init=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("init", INITS)
def test_each_restart_starts_elsewhere_and_the_best_is_kept(init):
    z = normal(200, 5)
    results = kmeans_restarts(z, 20, n_init=6, init=init)
    inertias = [result.inertia for result in results]
    assert len(set(inertias)) == len(results) == 6
    assert kmeans(z, 20, n_init=6, init=init).inertia == min(inertias)


@pytest.mark.parametrize("n_clusters", [0, 5])
def test_clusters_without_a_point_to_start_from_are_refused(n_clusters):
    with pytest.raises(ValueError, match=rf"n_clusters={n_clusters}: expected 1 to n_samples=4"):
        kmeans(normal(4, 2), n_clusters)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"init": "kmeans++"}, r"init='kmeans\+\+': expected one of k-means\+\+, random;"),
        ({"n_init": 0}, "n_init=0: expected 1 or more starts;"),
    ],
)
def test_other_starts_are_refused(mistake, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        kmeans(normal(4, 2), 2, **mistake)


# --- starts -------------------------------------------------------------------------------------------------


def test_random_starts_are_distinct_points_of_the_data():
    z = torch.arange(10.0)[:, None]
    generator = torch.Generator().manual_seed(0)
    starts = torch.stack([module._random_points(z, 10, generator) for _ in range(5)])
    assert starts.shape == (5, 10, 1)
    assert all(sorted(start.flatten().tolist()) == list(range(10)) for start in starts)
    assert n_distinct(starts.view(5, 10)) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kmeans_plus_plus_picks_no_point_twice_while_distinct_points_are_left(dtype):
    z = (normal(200, 3) * 1.5).round().to(dtype)  # a grid with many duplicates
    for start in kmeans_plus_plus(z, n_distinct(z), 20):
        assert n_distinct(start) == n_distinct(z)


def test_kmeans_plus_plus_starts_from_points_of_the_data():
    z = column(*range(8)) - 3.5
    starts = kmeans_plus_plus(z, 3, 50)
    assert starts.shape == (50, 3, 1)
    assert set(starts.flatten().tolist()) == set(z.flatten().tolist())


def test_kmeans_plus_plus_takes_the_best_of_several_draws():
    # With 1, 2, and 2 + log 8 = 4 draws, 36 %, 65 % and 93 % of the starts have a point in each of the 8 blobs.
    z, _ = blobs()
    centers = kmeans(z, 8).centroids - z.mean(0)
    starts = kmeans_plus_plus(z, 8, 200)
    hits = [len(nearest_centroids(start, centers).unique()) == 8 for start in starts]
    assert sum(hits) / len(hits) > 0.8


# --- which restart ------------------------------------------------------------------------------------------


def result_of(inertia, *sizes):
    labels = torch.tensor([k for k, size in enumerate(sizes) for _ in range(size)])
    return Assignment(labels, torch.tensor([float(inertia)]), torch.zeros(len(sizes), 1))


UNEVEN, EVEN, WORSE = result_of(100, 8, 1, 1), result_of(102, 4, 3, 3), result_of(104, 3, 4, 3)


def test_the_lowest_inertia_is_the_first_of_equal_ones():
    twins = [result_of(2, 5, 5), result_of(1, 9, 1), result_of(1, 5, 5)]
    assert lowest_inertia(twins) is twins[1]


@pytest.mark.parametrize("order", list(itertools.permutations([UNEVEN, EVEN, WORSE])))
@pytest.mark.parametrize(
    ("slack", "expected"),
    [(0, UNEVEN), (0.01, UNEVEN), (0.03, EVEN), (0.05, EVEN)],  # 0.05: EVEN and WORSE are as even, EVEN is lower
)
def test_within_the_slack_the_most_even_sizes_win_then_the_lower_inertia(order, slack, expected):
    assert most_even(order, slack) is expected


def test_the_slack_is_a_fraction_of_the_lowest_inertia_inclusive():
    low, high = result_of(8, 9, 1), result_of(10, 5, 5)
    assert most_even([low, high], 0.25) is high  # 8 * 1.25 = 10, exact in binary
    assert most_even([low, high], 0.2499) is low


def test_without_slack_sizes_do_not_count_even_between_equal_inertias():
    twins = [result_of(1, 9, 1), result_of(1, 5, 5)]
    assert most_even(twins, 0) is twins[0]


def test_an_empty_cluster_is_the_least_even():
    halves, hole = result_of(1, 3, 3, 3), result_of(1, 5, 4, 0)
    assert most_even([hole, halves], 0.1) is halves


# --- means of parts -----------------------------------------------------------------------------------------


def test_the_means_of_parts_by_hand():
    means = means_of_parts(column(1, 3, 10, 14), torch.tensor([0, 0, 2, 2]), 3)
    # The empty part gets the point that is farthest from its mean: 10 and 14 are 2 from 12, the first of them counts.
    assert means.flatten().tolist() in ([2, 10, 12], [2, 14, 12])


def test_without_an_empty_part_the_means_are_those_of_each():
    z, labels = normal(50, 3), torch.arange(50) % 4
    expected = torch.stack([z[labels == k].mean(0) for k in range(4)])
    torch.testing.assert_close(means_of_parts(z, labels, 4), expected, rtol=RTOL, atol=1e-15)
