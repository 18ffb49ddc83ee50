"""Settings that torch has once per process, when several threads need them."""

from __future__ import annotations

import threading

import pytest
import torch

from dkm.runtime.devices import deterministic, standard_torch, threads


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
