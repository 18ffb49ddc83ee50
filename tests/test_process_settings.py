"""Settings that torch has once per process, when several threads need them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dkm import DeepKMeans
from dkm.runtime.devices import deterministic, matmul_precision, seeded, standard_torch, threads

HAS_NEW_SETTING = hasattr(torch.backends, "fp32_precision")
needs_new_setting = pytest.mark.skipif(not HAS_NEW_SETTING, reason="torch has only the old setting")


def test_the_last_thread_restores_what_the_first_one_found() -> None:
    entered, may_leave = threading.Event(), threading.Event()

    def hold() -> None:
        with deterministic(is_wanted=True):
            entered.set()
            may_leave.wait()

    before = torch.get_deterministic_debug_mode()
    worker = threading.Thread(target=hold)
    with deterministic(is_wanted=True):
        worker.start()
        entered.wait()
    assert torch.get_deterministic_debug_mode() == 2 != before
    may_leave.set()
    worker.join()
    assert torch.get_deterministic_debug_mode() == before


def test_a_thread_that_needs_another_value_waits() -> None:
    counts: list[int] = []

    def count() -> None:
        with threads(2):
            counts.append(torch.get_num_threads())

    worker = threading.Thread(target=count)
    with threads(1):
        worker.start()
        worker.join(timeout=0.1)
        assert (worker.is_alive(), counts, torch.get_num_threads()) == (True, [], 1)
    worker.join()
    assert counts == [2]


def test_an_error_restores_as_well() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="inside"), threads(before + 1), standard_torch():
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.fixture
def precision_put_back() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), precisions()
    yield
    if HAS_NEW_SETTING:
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision(before[0])
    if HAS_NEW_SETTING:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before[1]


def precisions() -> list[str]:
    if not HAS_NEW_SETTING:
        return []
    return [backend.matmul.fp32_precision for backend in (torch.backends.cuda, torch.backends.mkldnn)]


def lower(setting: str) -> None:
    match setting:
        case "allow_tf32":
            torch.backends.cuda.matmul.allow_tf32 = True
        case "cuda":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        case "mkldnn":
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        case "all":
            torch.backends.fp32_precision = "tf32"
        case precision:
            torch.set_float32_matmul_precision(precision)


@pytest.mark.usefixtures("precision_put_back")
@pytest.mark.parametrize(
    "setting",
    [
        *("highest", "high", "medium", "allow_tf32"),
        *(pytest.param(name, marks=needs_new_setting) for name in ("cuda", "mkldnn", "all")),
    ],
)
def test_products_have_the_highest_precision_inside_and_the_one_of_the_caller_after(setting: str) -> None:
    lower(setting)
    before = matmul_precision(), precisions()
    with standard_torch(), standard_torch():
        assert matmul_precision() == "highest"
        assert not {"tf32", "bf16"}.intersection(precisions())
    assert (matmul_precision(), precisions()) == before
    if setting == "all":  # the backends still follow it
        torch.backends.fp32_precision = "ieee"
        assert precisions() == ["ieee", "ieee"]


@pytest.mark.usefixtures("precision_put_back")
@pytest.mark.parametrize("setting", ["medium", pytest.param("mkldnn", marks=needs_new_setting)])
def test_a_fit_gives_the_same_bits_whatever_precision_the_caller_has_chosen(setting: str) -> None:
    X = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)

    def fit() -> tuple[float, np.ndarray]:
        model = DeepKMeans(3, random_state=0, recipe="classic", hidden=(64,), pretrain_epochs=3, joint_epochs=2).fit(X)
        return model.inertia_, model.transform(X)

    inertia, distances = fit()
    lower(setting)
    lowered_inertia, lowered_distances = fit()
    assert lowered_inertia == inertia
    assert np.array_equal(lowered_distances, distances)


def test_threads_draw_from_their_own_seeds() -> None:
    cpu = torch.device("cpu")
    entered, has_drawn, has_left = threading.Event(), threading.Event(), threading.Event()

    def draw() -> None:
        entered.wait()
        with seeded(2, cpu):
            torch.rand(1)
            has_drawn.set()
            has_left.wait(10)

    worker = threading.Thread(target=draw)
    worker.start()
    with seeded(1, cpu):
        entered.set()
        first = torch.rand(1).item()
        has_drawn.wait(0.2)  # as long as this block is open, the other thread does not get that far
        drawn = [first, torch.rand(1).item()]
    has_left.set()
    worker.join()
    generator = torch.Generator().manual_seed(1)
    assert drawn == [torch.rand(1, generator=generator).item() for _ in range(2)]
