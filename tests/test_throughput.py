"""``dkm.training.throughput``: rows per second, what is not arithmetic, and the time that is left."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from test_sinks import train
from tqdm import tqdm

from dkm.data.batches import Batch
from dkm.training.throughput import StepTimer, Throughput


class Clock:
    """A clock that goes on when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, seconds: float) -> None:
        self.now_s += seconds


def batches_of(clock: Clock, *n_rows: int, seconds: float) -> object:
    for n in n_rows:
        clock.work(seconds)
        yield Batch(torch.zeros(n, 1), torch.arange(n), 0, n)


def train_epoch(timer: StepTimer, clock: Clock) -> None:
    """30 rows in two steps: 2 s of data, 1 s of augmentation, 4 s of arithmetic, 5 s of a checkpoint; 8 s after it."""
    with timer.steps():
        for _ in timer.fetch(batches_of(clock, 20, 10, seconds=1.0)):  # type: ignore[arg-type]
            with timer.data():
                clock.work(0.5)
            clock.work(2.0)
        with timer.pause():
            clock.work(5.0)
    with timer.pause():
        clock.work(8.0)


def test_seconds_are_booked_as_what_they_were() -> None:
    clock = Clock()
    timer = StepTimer(clock)
    clock.work(100.0)
    timer.start_phase()
    train_epoch(timer, clock)
    assert timer.overhead_share() == pytest.approx(1 - 4 / 20)
    lap = timer.lap(n_rows_left=60)
    assert lap.rows_per_s == pytest.approx(30 / 7)
    assert lap.data_share == pytest.approx(3 / 20)
    assert lap.overhead_share == pytest.approx(1 - 4 / 20)
    assert lap.left_s == pytest.approx(2 * 20)


def test_a_lap_begins_where_the_last_one_ended_but_the_time_left_is_by_the_whole_phase() -> None:
    clock = Clock()
    timer = StepTimer(clock)
    train_epoch(timer, clock)
    timer.lap(0)
    clock.work(20.0)  # figures
    train_epoch(timer, clock)
    lap = timer.lap(n_rows_left=30)
    assert lap.rows_per_s == pytest.approx(30 / 7)
    assert lap.overhead_share == pytest.approx(1 - 4 / 40)
    assert lap.left_s == pytest.approx(60 / 2)


def test_a_lap_without_a_step_is_no_error() -> None:
    lap = StepTimer(Clock()).lap(10)
    assert (lap.rows_per_s, lap.data_share, lap.left_s) == (0, 0, 0)


@pytest.mark.parametrize(
    ("left_s", "text"),
    [(0.0, "24,600 rows/s, overhead 8%"), (3725.4, "24,600 rows/s, overhead 8%, 1:02:05 left")],
)
def test_it_is_told_in_short(left_s: float, text: str) -> None:
    assert str(Throughput(24_600.4, 0.01, 0.08, left_s)) == text


def test_a_run_tells_its_throughput_in_the_log_and_the_sinks_but_not_in_metrics_jsonl(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path / "run")
    lines = [line for line in (run / "train.log").read_text(encoding="utf-8").splitlines() if " epoch " in line]
    assert len(lines) == 6
    assert all(" rows/s, overhead " in line for line in lines)
    assert [line.endswith(" left") for line in lines] == [True, True, False, True, True, False]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert not any(key.startswith(("throughput/", "time/")) for record in records for key in record)
    events = EventAccumulator(str(run))
    events.Reload()
    for phase in ("pretrain", "joint"):
        steps = [record["step"] for record in records if record["phase"] == phase]
        for tag in ("throughput/rows_per_s", "time/data_share", "time/overhead_share"):
            points = events.Scalars(f"{phase}/{tag}")
            assert [point.step for point in points] == steps
            assert all(point.value >= 0 for point in points)
            assert "share" not in tag or all(point.value < 1 for point in points)


def test_the_bar_counts_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dkm.training.trainer.tqdm", partial(tqdm, mininterval=0))  # it shows each step
    train(tmp_path / "run", "log.progress=bar", "log.to=[]")
    err = capsys.readouterr().err
    assert " rows/s" in err
    assert "/180 [" in err  # 60 rows in 3 epochs
    assert "overhead=" in err
