"""The benchmarks run and report ratios; how they are timed is checked with a clock of its own."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, *times_s: float) -> Callable[[], None]:
        """Return a work that takes these times, one after the other."""
        left = iter(times_s)

        def run() -> None:
            self.now_s += next(left)

        return run


def test_the_two_forms_of_l2_are_compared_under_each_optimizer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("measure_l2")
    monkeypatch.setattr(module, "N_STEPS", 5)
    module.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| `sgd`", "| `adam`", "| `adamw`"]
    in_float64 = [float(row[1]) for row in rows]
    assert max(in_float64[:2]) < 1e-12 < 1e-4 < in_float64[2]


# --- timing -------------------------------------------------------------------------------------------------------


def test_the_ratio_is_the_median_of_the_ratios_of_each_turn() -> None:
    timing = importlib.import_module("timing")
    clock = FakeClock()
    works = {"a": clock.work(100, 2, 40, 12), "b": clock.work(100, 1, 10, 8)}
    turns = timing.take_turns(works, repeats=3, clock=clock)
    assert turns.times_s == {"a": [2, 40, 12], "b": [1, 10, 8]}  # the first call warms up
    assert turns.ratio("a/b") == 2  # of 2, 4 and 1.5; the ratio of the medians is 12 / 8
    assert turns.row("a/b", "a/left_out") == {
        "turns": 3,
        "median_s": {"a": 12, "b": 8},
        "ratio": {"a/b": 2},
    }


def test_turns_go_on_until_the_time_is_up() -> None:
    timing = importlib.import_module("timing")
    clock = FakeClock()
    works = {"a": clock.work(*[0.25] * 20), "b": clock.work(*[0.75] * 20)}
    assert timing.take_turns(works, repeats=2, seconds=5.0, is_warm=True, clock=clock).row()["turns"] == 5


def test_each_turn_has_an_order_of_its_own() -> None:
    timing = importlib.import_module("timing")
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) for name in "abc"}
    timing.take_turns(works, repeats=20, is_warm=True)
    turns = ["".join(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert len(set(turns)) == 6


# --- the benchmarks -----------------------------------------------------------------------------------------------


def run_quickly(name: str, path: Path, *options: str) -> dict[str, Any]:
    """Return what a benchmark writes, its ratios checked."""
    importlib.import_module(name).main(["--quick", "--repeats", "1", "--json", str(path), *options])
    content: dict[str, Any] = json.loads(path.read_text())
    environment = content.pop("environment")
    assert environment["threads"] == torch.get_num_threads()
    assert environment["torch"] == torch.__version__
    rows = [row for table in content.values() for row in table]
    numbers = [x for row in rows for key in ("median_s", "ratio") for x in row.get(key, {}).values()]
    assert len(numbers) >= len(rows)
    assert all(math.isfinite(x) and x > 0 for x in numbers)
    return content


@pytest.mark.thorough
def test_benchmark_loss(tmp_path: Path) -> None:
    found = run_quickly("benchmark_loss", tmp_path / "loss.json", "--large")
    assert found["sizes"][0]["ratio"].keys() == {"repeat/dkm", "broadcast/dkm", "cdist/dkm", "dkm/product"}
    # The (n, k) matrix of 2 MB is in it; half of that is left for what was resident and free before.
    assert found["memory"][0]["of_n_k"] > 0.5
    assert found["large"][0]["ratio"].keys() == {"assign/product"}


def test_the_forms_of_the_loss_agree() -> None:
    module = importlib.import_module("benchmark_loss")
    z, c = module.draw((50, 3, 4), requires_grad=True)
    expected = module.forward_and_backward(module.LOSSES["dkm"], z, c)
    for loss in module.LOSSES.values():
        torch.testing.assert_close(module.forward_and_backward(loss, z, c), expected)


def test_a_form_that_would_need_too_much_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("benchmark_loss")
    monkeypatch.setattr(module, "_LARGEST_TENSOR_BYTES", 4 * 50 * 3 * 4 - 1)
    row = module.time_size((50, 3, 4), repeats=1, seconds=0.0)
    assert row["median_s"].keys() == {"dkm", "cdist", "product"}
    assert row["ratio"].keys() == {"cdist/dkm", "dkm/product"}


@pytest.mark.thorough
def test_benchmark_epoch(tmp_path: Path) -> None:
    found = run_quickly("benchmark_epoch", tmp_path / "epoch.json")
    assert [row["epoch"] for row in found["epochs"]] == ["pretrain", "joint"]


def test_benchmark_step(tmp_path: Path) -> None:
    found = run_quickly("benchmark_step", tmp_path / "step.json", "--steps", "1")
    assert found["regularization"][0]["ratio"].keys() == {"weight_decay/none", "l2_penalty/none"}
    assert found["precision"][0]["ratio"].keys() == {"bf16/fp32"}


@pytest.mark.thorough
def test_benchmark_predict(tmp_path: Path) -> None:
    found = run_quickly("benchmark_predict", tmp_path / "predict.json")
    works = ["encoder", "k=10", "k=100", "k=1000", "command", "command uint8"]
    assert [row["work"] for row in found["predict"]] == works
    assert found["memory"][0]["peak_mb"] > 10


def test_benchmark_csv(tmp_path: Path) -> None:
    found = run_quickly("benchmark_csv", tmp_path / "csv.json")
    assert found["csv"][0]["ratio"].keys() == {"reader/pandas", "data set/pandas"}


@pytest.mark.slow
def test_benchmark_logging(tmp_path: Path) -> None:
    found = run_quickly("benchmark_logging", tmp_path / "logging.json")
    assert [row["data"] for row in found["runs"]] == ["digits", "70,000 images"]


@pytest.mark.slow
def test_benchmark_sweep(tmp_path: Path) -> None:
    found = run_quickly("benchmark_sweep", tmp_path / "sweep.json")
    assert found["sweep"][0]["ratio"].keys() == {"two/one", "two/wide"}


@pytest.mark.filterwarnings("ignore")  # ClustPy's own
def test_benchmark_clustpy(tmp_path: Path) -> None:
    pytest.importorskip("clustpy")
    found = run_quickly("benchmark_clustpy", tmp_path / "clustpy.json")
    assert [row["data"] for row in found["epochs"]] == ["noise", "blobs"]
    assert len(found["epochs"][0]["ratio"]) == 6


def test_without_clustpy_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("benchmark_clustpy")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="ClustPy is not installed"):
        module.main([])


# --- the epochs ---------------------------------------------------------------------------------------------------


def test_our_epoch_trains_all_batches_and_passes_over_the_data() -> None:
    epochs = importlib.import_module("epochs")
    ours = epochs.OurEpochs(epochs.random_images(300), "model.hidden=[8]", "batch_size=100")
    weight = ours.trainer.autoencoder.encoder[0].weight.detach().clone()
    calls = 0
    end_epoch = ours.trainer.clustering.end_epoch

    def count(z: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        return end_epoch(z)

    ours.trainer.clustering.end_epoch = count
    ours()
    ours()
    assert (ours.trainer.progress.epoch, ours.trainer.progress.step, calls) == (3, 6, 2)
    ours.steps()
    assert (ours.trainer.progress.epoch, ours.trainer.progress.step, calls) == (3, 9, 2)
    assert not torch.equal(weight, ours.trainer.autoencoder.encoder[0].weight)


def test_the_bare_loop_has_the_same_network_and_learns() -> None:
    epochs = importlib.import_module("epochs")
    ours = epochs.OurEpochs(epochs.random_images(300), "model.hidden=[8]", "batch_size=100")
    bare = epochs.BareEpochs(ours)
    mine, theirs = ([p.shape for p in m.parameters()] for m in (bare._encoder, ours.trainer.autoencoder.encoder))
    assert mine == theirs
    index = torch.arange(300)
    before = bare._loss(bare._X, index).item()
    for _ in range(20):
        bare()
    assert bare._loss(bare._X, index).item() < before
