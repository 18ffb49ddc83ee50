"""What a run on a CUDA device must hold; skipped where there is none.

On a machine with one the other tests run on it too: ``device=auto`` takes it. ``./scripts/test.sh -m gpu`` for these.
"""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import OPTIMIZER, Point, train
from sklearn.datasets import load_digits
from torch import Tensor
from written import SAME

from dkm.clustering.functional import kmeans_loss, soft_kmeans_loss
from dkm.clustering.lloyd import kmeans
from dkm.data import batches
from dkm.data.batches import Batch, MemoryBatches, build_batches
from dkm.predict import work as predict
from dkm.runtime.devices import deterministic
from dkm.train import _main as main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

QUICK = ["recipe=classic", "pretrain.epochs=4", "joint.epochs=4", "joint.tolerance=0", "log.figures=false"]
QUICK += ["clustering.n_init=3", "evaluation.kmeans_raw=false"]
DIGITS = ["data=digits", "augmentation=affine", *QUICK]
METHODS = {
    "held assignments": ["clustering=kmeans"],
    "assignments of the batch": ["clustering=kmeans", "clustering.assignment=batch"],
    "means": ["clustering=kmeans", "clustering.centroids=mean"],
    "self-paced": ["clustering=kmeans", "clustering.self_paced=true", "joint.average_epochs=2"],
    "resets": ["clustering=kmeans", "clustering.reset_every=2"],
    "init=auto": ["clustering=kmeans", "clustering.init=auto"],
    "DKM": ["clustering=dkm"],
    "DCN": ["clustering=dcn"],
    "DEC": ["clustering=dec"],
    "convolutions": ["clustering=kmeans", "model=conv"],
    "explicit penalty": ["clustering=kmeans", "regularization=l2_penalty"],
    "SGD": ["clustering=kmeans", "optimizer=sgd", "pretrain.lr=0.1", "joint.lr=0.01"],
    "bf16": ["clustering=kmeans", "precision=bf16"],
    "compiled": ["clustering=kmeans", "compile=true"],
}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_gives_the_same_bits_each_time_also_where_it_was_killed(method: str, tmp_path: Path) -> None:
    words = [*DIGITS, *METHODS[method], "device=cuda", "checkpoint.every_s=0"]
    words += [] if method == "convolutions" else ["model.hidden=[64]"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*words, f"hydra.run.dir={first}"]) == 0
    assert json.loads((first / "manifest.json").read_text())["processor"] == torch.cuda.get_device_name()
    owner = "torch.optim:SGD" if method == "SGD" else OPTIMIZER[0]
    killed = train([*words, f"hydra.run.dir={second}"], tmp_path / "log", Point(owner, "step", 43))
    assert killed.code == -signal.SIGKILL, killed.err
    assert main([f"resume={second}"]) == 0
    for name in SAME:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_model_trained_on_it_predicts_the_same_on_a_cpu(tmp_path: Path) -> None:
    digits = load_digits()
    np.savez(tmp_path / "digits.npz", x=digits.images)
    words = ["data=npz", f"data.path={tmp_path / 'digits.npz'}", "clustering.n_clusters=10", *QUICK, "device=cuda"]
    assert main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    found = {}
    for number, device in enumerate(("cuda", "cpu")):
        output = tmp_path / f"on_{number}.npz"
        predict([f"run={tmp_path / 'run'}", f"input={tmp_path / 'digits.npz'}", f"output={output}", f"device={device}"])
        with np.load(output, allow_pickle=False) as answers:
            found[number] = {name: answers[name] for name in ("cluster", "distance")}
    assert (found[1]["cluster"] == found[0]["cluster"]).mean() > 0.999
    np.testing.assert_allclose(found[1]["distance"], found[0]["distance"], rtol=1e-2)


@pytest.mark.parametrize("loss", ["nearest", "given", "soft"])
def test_losses_and_their_gradients_are_those_of_a_cpu_in_float64(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z, centroids = torch.randn(10_000, 10, generator=generator), torch.randn(20, 10, generator=generator)
    given = torch.randint(20, (10_000,), generator=generator)

    def found(dtype: torch.dtype, device: str) -> list[Tensor]:
        both = [x.to(device, dtype).requires_grad_() for x in (z, centroids)]
        value = {
            "nearest": lambda: kmeans_loss(*both),
            "given": lambda: kmeans_loss(*both, given.to(device)),
            "soft": lambda: soft_kmeans_loss(*both, 5.0),
        }[loss]()
        return [x.detach().cpu().double() for x in (value, *torch.autograd.grad(value, both))]

    for mine, exact in zip(found(torch.float32, "cuda"), found(torch.float64, "cpu"), strict=True):
        assert (mine - exact).norm() <= 1e-5 * exact.norm()


def test_kmeans_finds_what_it_finds_on_a_cpu() -> None:
    X = torch.from_numpy(load_digits().data).float()
    there, here = kmeans(X.cuda(), 10, seed=0), kmeans(X, 10, seed=0)
    assert there.inertia == pytest.approx(here.inertia, rel=1e-5)
    with deterministic(is_wanted=True):
        again = [kmeans(X.cuda(), 10, seed=0) for _ in range(2)]
    assert torch.equal(again[0].centroids, again[1].centroids)


def test_data_that_do_not_fit_stay_in_host_memory_and_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    X, device = torch.randn(1000, 8), torch.device("cuda")
    there = build_batches(X, 64, 0, device)
    monkeypatch.setattr(batches, "_DEVICE_SHARE", 0)
    here = build_batches(X, 64, 0, device)
    assert (there.take(torch.arange(3)) == X[:3].cuda()).all()
    for a, b in zip(there.epoch(0, 0, 5), here.epoch(0, 0, 5), strict=True):
        assert a.x.is_cuda and b.x.is_cuda and torch.equal(a.x, b.x) and torch.equal(a.rows, b.rows)
    for (_, p), (_, q) in zip(there.chunks(), here.chunks(), strict=True):
        assert p.is_cuda and torch.equal(p, q)


@pytest.mark.parametrize("method", ["held assignments", "self-paced", "DKM", "DEC"])
def test_no_step_waits_for_the_device(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one step to the next of an epoch, with augmentation.

    Assignments of the batch do wait: whether rounding could have decided one is asked for each batch.
    """
    original = MemoryBatches.epoch

    def refuse_waiting(is_wanted: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error" if is_wanted else "default")

    def watched(self: MemoryBatches, *place: int) -> Iterator[Batch]:
        try:
            for number, batch in enumerate(original(self, *place)):
                # What the first step makes, the optimizer's state say, may wait.
                refuse_waiting(number > 0)
                yield batch
        finally:
            refuse_waiting(False)

    monkeypatch.setattr(MemoryBatches, "epoch", watched)
    assert main([*DIGITS, *METHODS[method], "device=cuda", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
