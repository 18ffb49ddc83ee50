"""`dkm.training.optimizers`: learning rates against torch's schedulers, skipped steps, momentum forgotten by row."""

import math

import pytest
import torch
from torch import nn

from dkm.config.optimizer import AdamConfig, AdamWConfig, SGDConfig
from dkm.config.run import SCHEDULES
from dkm.training.optimizers import WeightAverage, build_optimizer, learning_rate, reset_rows

PEAK = 0.3
# Two formulas for the same cosine in float64.
RTOL = 1e-9

OPTIMIZERS = {
    "adam": AdamConfig(),
    "adamw": AdamWConfig(),
    "sgd": SGDConfig(),
    "nesterov": SGDConfig(nesterov=True),
    "plain_sgd": SGDConfig(momentum=0.0),
}
every_optimizer = pytest.mark.parametrize("config", OPTIMIZERS.values(), ids=OPTIMIZERS)


def parameter(*shape, seed=0):
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def one_group(*parameters, weight_decay=0.0):
    return [{"params": list(parameters), "weight_decay": weight_decay}]


# --- learning rates -----------------------------------------------------------------------------------------


def rates_of(schedule, n_steps):
    return [learning_rate(schedule, PEAK, step, n_steps) for step in range(n_steps)]


def rates_of_torch(scheduler_of, n_steps):
    optimizer = torch.optim.SGD([parameter(1)], lr=PEAK)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant_is_the_peak_at_every_step():
    assert rates_of("constant", 7) == [PEAK] * 7


def test_cosine_at_known_steps():
    assert learning_rate("cosine", 2.0, 0, 12) == 2.0
    assert learning_rate("cosine", 2.0, 4, 12) == pytest.approx(1.5, rel=RTOL)  # (1 + cos 60°) / 2 = 3/4
    assert learning_rate("cosine", 2.0, 6, 12) == pytest.approx(1.0, rel=RTOL)
    assert learning_rate("cosine", 2.0, 8, 12) == pytest.approx(0.5, rel=RTOL)


@pytest.mark.parametrize("n_steps", [1, 2, 17, 100])
def test_cosine_is_torchs_cosine_annealing_to_zero_after_the_last_step(n_steps):
    expected = rates_of_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=n_steps), n_steps)
    assert rates_of("cosine", n_steps) == pytest.approx(expected, rel=RTOL)


def test_one_cycle_at_known_steps():
    start, end = 2.0 / 25, 2.0 / 25 / 10_000
    assert learning_rate("one_cycle", 2.0, 0, 100) == pytest.approx(start, rel=RTOL)
    assert learning_rate("one_cycle", 2.0, 15, 100) == pytest.approx((start + 2) / 2, rel=RTOL)  # half way up
    assert learning_rate("one_cycle", 2.0, 30, 100) == 2.0
    assert learning_rate("one_cycle", 2.0, 65, 100) == pytest.approx((2 + end) / 2, rel=RTOL)  # half way down
    # The last of 70 steps down, by the formula; the end itself is where a step 100 would be.
    last = end + (2 - end) * (1 + math.cos(math.pi * 69 / 70)) / 2
    assert learning_rate("one_cycle", 2.0, 99, 100) == pytest.approx(last, rel=RTOL)


@pytest.mark.parametrize("n_steps", [10, 33, 200])
def test_one_cycle_is_torchs_over_one_more_step(n_steps):
    # torch counts from the first step to the last one, here the end is where the step after the last one would be: the
    # same curve for torch's n + 1 steps, whose peak is at pct_start * (n + 1) - 1 = 0.3 n.
    expected = rates_of_torch(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o,
            max_lr=PEAK,
            total_steps=n_steps + 1,
            pct_start=(0.3 * n_steps + 1) / (n_steps + 1),
            cycle_momentum=False,
        ),
        n_steps,
    )
    assert rates_of("one_cycle", n_steps) == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 10, 997])
def test_rates_are_above_zero_and_at_most_the_peak(schedule, n_steps):
    rates = rates_of(schedule, n_steps)
    assert all(math.isfinite(rate) and 0 < rate <= PEAK * (1 + 1e-12) for rate in rates)


# --- the optimizer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "expected"),
    [
        (AdamConfig(betas=[0.8, 0.95], eps=1e-6), torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-6}),
        (AdamWConfig(betas=[0.8, 0.95], eps=1e-6), torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-6}),
        (SGDConfig(momentum=0.7), torch.optim.SGD, {"momentum": 0.7, "nesterov": False, "dampening": 0}),
        (SGDConfig(momentum=0.7, nesterov=True), torch.optim.SGD, {"momentum": 0.7, "nesterov": True}),
    ],
)
def test_the_optimizer_is_of_its_kind_fused_with_every_setting(config, kind, expected):
    decayed, other = parameter(2), parameter(3)
    groups = [{"params": [decayed], "weight_decay": 0.2}, {"params": [other], "weight_decay": 0.0}]
    optimizer = build_optimizer(config, groups, lr=0.05)
    assert type(optimizer) is kind  # AdamW is a subclass of Adam
    for group, member, weight_decay in zip(optimizer.param_groups, (decayed, other), (0.2, 0.0), strict=True):
        assert group["params"] == [member]
        expected_here = {**expected, "lr": 0.05, "fused": True, "weight_decay": weight_decay, "maximize": False}
        assert {key: group[key] for key in expected_here} == expected_here


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_first_step_of_each_kind_by_hand(decay):
    stepped = {}
    for name in ("sgd", "adam", "adamw"):
        p = nn.Parameter(torch.tensor([2.0]))
        optimizer = build_optimizer(OPTIMIZERS[name], one_group(p, weight_decay=decay), lr=0.01)
        p.grad = torch.tensor([3.0])
        optimizer.step()
        stepped[name] = p.item()
    # SGD: lr * (g + decay * w). Adam's first step is lr whatever the gradient; AdamW's decay stands beside it.
    rel = 1e-6  # float32
    assert stepped["sgd"] == pytest.approx(2 - 0.01 * (3 + decay * 2), rel=rel)
    assert stepped["adam"] == pytest.approx(2 - 0.01, rel=rel)
    assert stepped["adamw"] == pytest.approx(2 - 0.01 - 0.01 * decay * 2, rel=rel)


# --- steps that are skipped ---------------------------------------------------------------------------------


@pytest.fixture
def poisoned_memory():
    """Let torch fill memory that it hands out uninitialized with nan, so that using it is seen."""
    torch.use_deterministic_algorithms(True)  # turns torch.utils.deterministic.fill_uninitialized_memory on
    yield
    torch.use_deterministic_algorithms(False)


def step(optimizer, p, gradient, *, found_inf):
    optimizer.found_inf = torch.tensor(float(found_inf))
    p.grad = gradient.clone()
    optimizer.step()


def tensors_of(state):
    return {key: value.clone() for key, value in state.items() if isinstance(value, torch.Tensor)}


@every_optimizer
def test_found_inf_leaves_parameters_and_state_as_they_are(config, poisoned_memory):
    p = parameter(50)
    optimizer = build_optimizer(config, one_group(p, weight_decay=0.1), lr=0.1)
    for seed in (1, 2):
        step(optimizer, p, parameter(50, seed=seed).detach(), found_inf=False)
    value, state = p.detach().clone(), tensors_of(optimizer.state[p])
    step(optimizer, p, torch.full((50,), math.nan), found_inf=True)
    assert torch.equal(p, value)
    after = tensors_of(optimizer.state[p])
    assert after.keys() == state.keys()
    assert all(torch.equal(after[key], state[key]) for key in state)


@every_optimizer
def test_a_skipped_first_step_leaves_the_second_as_if_it_were_the_first(config, poisoned_memory):
    skipped, fresh = parameter(50), parameter(50)
    gradient = parameter(50, seed=1).detach()
    optimizer = build_optimizer(config, one_group(skipped, weight_decay=0.1), lr=0.1)
    step(optimizer, skipped, torch.full((50,), math.nan), found_inf=True)
    assert torch.equal(skipped, fresh)
    step(optimizer, skipped, gradient, found_inf=False)
    step(build_optimizer(config, one_group(fresh, weight_decay=0.1), lr=0.1), fresh, gradient, found_inf=False)
    assert torch.equal(skipped, fresh)


@every_optimizer
def test_found_inf_of_zero_is_an_ordinary_step(config):
    flagged, plain = parameter(50), parameter(50)
    gradient = parameter(50, seed=1).detach()
    step(build_optimizer(config, one_group(flagged), lr=0.1), flagged, gradient, found_inf=False)
    plain.grad = gradient.clone()
    build_optimizer(config, one_group(plain), lr=0.1).step()
    assert torch.equal(flagged, plain)
    assert not torch.equal(plain, parameter(50))


# --- momentum that is forgotten -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("adam", {"exp_avg", "exp_avg_sq"}),
        ("adamw", {"exp_avg", "exp_avg_sq"}),
        ("sgd", {"momentum_buffer"}),
        ("plain_sgd", set()),
    ],
)
def test_reset_rows_forgets_the_moments_of_those_rows_only(name, moments):
    centroids, other = parameter(4, 3), parameter(4, 3, seed=5)
    optimizer = build_optimizer(OPTIMIZERS[name], one_group(centroids, other), lr=0.1)
    for p in (centroids, other):
        p.grad = torch.ones(4, 3)
    optimizer.step()
    value, before = centroids.detach().clone(), tensors_of(optimizer.state[centroids])
    before_other = tensors_of(optimizer.state[other])
    assert moments == {key for key in before if before[key].shape == (4, 3)}
    reset_rows(optimizer, centroids, torch.tensor([3, 1]))
    after, after_other = tensors_of(optimizer.state[centroids]), tensors_of(optimizer.state[other])
    for key in moments:
        assert before[key].abs().min() > 0
        if key != "exp_avg_sq":
            assert after[key][[1, 3]].tolist() == [[0.0] * 3] * 2
        assert torch.equal(after[key][[0, 2]], before[key][[0, 2]])
    for key in before.keys() - moments:  # Adam's step
        assert torch.equal(after[key], before[key])
    assert all(torch.equal(after_other[key], before_other[key]) for key in before_other)
    assert torch.equal(centroids, value)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("is_dead", [True, False])
def test_a_reset_row_never_moves_farther_than_the_others_do(name, is_dead):
    """Zeroed second moments under a shared step count made it move 2.9, 6.1, 3.0 times lr in steps 1, 10, 100."""
    lr, centroids = 0.1, parameter(4, 3)
    optimizer = build_optimizer(OPTIMIZERS[name], one_group(centroids), lr=lr)
    centroids.grad = torch.ones(4, 3)
    if is_dead:
        centroids.grad[2] = 0.0  # no point has pulled it
    for _ in range(2000):
        optimizer.step()
    reset_rows(optimizer, centroids, torch.tensor([2]))
    centroids.grad = torch.ones(4, 3)
    for _ in range(150):
        before = centroids.detach().clone()
        optimizer.step()
        moved = (centroids.detach() - before).abs().amax(1) / lr
        assert moved[2] <= 1.001 * moved[0]
        assert moved[0] == pytest.approx(1, rel=1e-3)


def test_the_second_moment_of_a_reset_row_is_at_least_the_mean_of_the_others():
    centroids = parameter(3, 2)
    optimizer = build_optimizer(AdamConfig(), one_group(centroids), lr=0.1)
    centroids.grad = torch.tensor([[1.0, 3.0], [2.0, 1.0], [9.0, 0.0]])
    optimizer.step()
    second = optimizer.state[centroids]["exp_avg_sq"]
    torch.testing.assert_close(second, 0.001 * centroids.grad.square())
    reset_rows(optimizer, centroids, torch.tensor([2]))
    torch.testing.assert_close(second[2], 0.001 * torch.tensor([81.0, (9 + 1) / 2]))
    assert optimizer.state[centroids]["exp_avg"][2].tolist() == [0.0, 0.0]
    assert optimizer.state[centroids]["step"].item() == 1


@every_optimizer
def test_where_all_rows_are_reset_the_optimizer_starts_again(config):
    p, fresh = parameter(4, 3), parameter(4, 3)
    optimizer = build_optimizer(config, one_group(p), lr=0.1)
    for gradient in (1.0, -3.0, 0.5):
        p.grad = torch.full((4, 3), gradient)
        optimizer.step()
    with torch.no_grad():
        p.copy_(fresh)
    reset_rows(optimizer, p, torch.arange(4))
    again = build_optimizer(config, one_group(fresh), lr=0.1)
    for gradient in (2.0, -1.0):
        p.grad = fresh.grad = torch.full((4, 3), gradient)
        optimizer.step()
        again.step()
        assert torch.equal(p, fresh)


def test_reset_rows_of_no_rows_changes_nothing():
    p = parameter(4, 3)
    optimizer = build_optimizer(AdamConfig(), one_group(p), lr=0.1)
    p.grad = torch.ones(4, 3)
    optimizer.step()
    before = tensors_of(optimizer.state[p])
    reset_rows(optimizer, p, torch.tensor([], dtype=torch.int64))
    assert all(torch.equal(optimizer.state[p][key], before[key]) for key in before)


@every_optimizer
def test_reset_rows_before_the_first_step_has_nothing_to_forget(config):
    p, fresh = parameter(4, 3), parameter(4, 3)
    optimizer = build_optimizer(config, one_group(p), lr=0.1)
    reset_rows(optimizer, p, torch.tensor([0]))
    p.grad = fresh.grad = torch.ones(4, 3)
    optimizer.step()
    build_optimizer(config, one_group(fresh), lr=0.1).step()
    assert torch.equal(p, fresh)


# --- averages -----------------------------------------------------------------------------------------------


def moved(average, weights, steps):
    for step in steps:
        with torch.no_grad():
            weights.fill_(step)
        average.update()


def test_the_average_is_the_exponential_one():
    weights = nn.Parameter(torch.zeros(2))
    average = WeightAverage([weights], decay=0.75)
    moved(average, weights, [4.0, 8.0])
    expected = 0.75 * (0.75 * 0 + 0.25 * 4) + 0.25 * 8
    assert average.state()[0].tolist() == [expected, expected]
    assert weights.tolist() == [8.0, 8.0]


def test_the_parameters_hold_the_average_within_the_block_whatever_happens_there():
    weights = nn.Parameter(torch.zeros(1))
    average = WeightAverage([weights], decay=0.5)
    moved(average, weights, [4.0])
    with pytest.raises(ValueError, match="within"), average.swapped_in():
        assert weights.item() == 2.0
        raise ValueError("within")
    assert weights.item() == 4.0
    assert average.state()[0].item() == 2.0


def test_the_average_begins_again_goes_on_and_is_adopted():
    weights = nn.Parameter(torch.zeros(1))
    average = WeightAverage([weights], decay=0.5)
    moved(average, weights, [4.0, 8.0])
    other = WeightAverage([weights], decay=0.5)
    other.load(average.state())
    moved(other, weights, [1.0])
    assert other.state()[0].item() == 3.0  # (5 + 1) / 2
    assert average.state()[0].item() == 5.0  # memory of its own
    average.restart()
    assert average.state()[0].item() == 1.0
    other.adopt()
    assert weights.item() == 3.0
