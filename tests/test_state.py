"""`dkm.training.state`: to which section seconds are booked, the position of a run, and both in a checkpoint."""

from __future__ import annotations

import time

import pytest
import torch

from dkm.training.restoring import progress_from_dict, progress_to_dict, without_empty_buffers
from dkm.training.state import Clock, Progress, TrainState


class Time:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


def test_each_second_is_booked_to_the_innermost_section(monkeypatch: pytest.MonkeyPatch) -> None:
    now, clock = Time(monkeypatch), Clock()
    now.passes(1)
    with clock.section("joint"):
        now.passes(2)
        with pytest.raises(KeyboardInterrupt), clock.section("initialization"):
            now.passes(4)
            raise KeyboardInterrupt
        now.passes(8)
        assert clock.seconds()["joint"] == 10  # of a section that is open
        now.passes(16)
    now.passes(32)
    expected = {"setup": 33, "baseline": 0, "pretrain": 0, "initialization": 4, "joint": 26, "report": 0}
    assert clock.seconds() == clock.seconds() == expected


def test_seconds_of_earlier_processes_are_added_and_all_are_rounded_to_the_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, clock = Time(monkeypatch), Clock()
    clock.credit({"pretrain": 7.0, "setup": 1.0})
    clock.credit({"pretrain": 0.5})
    now.passes(0.23456)
    assert Progress(clock=clock).seconds == {**dict.fromkeys(Clock.SECTIONS, 0.0), "setup": 1.235, "pretrain": 7.5}


def test_a_run_begins_with_the_first_step_of_pretraining() -> None:
    state = TrainState()
    assert (state.epoch, state.batch, state.step) == (0, 0, 0)
    assert (state.phase_idx, state.is_joint, state.is_stopped) == (0, False, False)
    assert (TrainState("joint").phase_idx, TrainState("joint").is_joint) == (1, True)


STATE = TrainState("joint", epoch=3, batch=2, step=41, is_stopped=True)
REASSIGNMENT = {"label_change": 0.25, "n_dead": 2, "n_revived": 1}


def test_a_checkpoint_keeps_the_progress_and_adds_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, clock = Time(monkeypatch), Clock()
    saved = progress_to_dict(Progress(STATE, clock, REASSIGNMENT, {"acc": 0.5}, {"acc": 0.75}, "pretrained-1"))
    saved["seconds"]["joint"] = 8.0
    now.passes(2)
    restored = progress_from_dict(saved, clock)
    assert restored == Progress(STATE, clock, REASSIGNMENT, {"acc": 0.5}, {"acc": 0.75}, "pretrained-1")
    assert restored.state is not STATE
    assert (restored.seconds["setup"], restored.seconds["joint"]) == (2.0, 8.0)


def test_a_checkpoint_of_version_0_1_0_has_all_of_it_in_its_position(monkeypatch: pytest.MonkeyPatch) -> None:
    Time(monkeypatch)
    position = {"phase_idx": 1, "epoch": 3, "batch": 2, "step": 41, "is_stopped": True, "seconds": {"joint": 8.0}}
    position |= {"pass_info": REASSIGNMENT, "raw": {"acc": 0.5}, "pretrained": None, "cache_key": None}
    restored = progress_from_dict({"position": position}, clock := Clock())
    assert restored == Progress(STATE, clock, REASSIGNMENT, {"acc": 0.5}, None, {}, [])
    assert restored.seconds["joint"] == 8.0
    buffers = {"point_weights": torch.zeros(0), "assignments": torch.zeros(1)}
    assert without_empty_buffers(buffers).keys() == {"assignments"}
