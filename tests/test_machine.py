"""What a run takes from its machine: threads, bfloat16, a compiler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from processes import train
from torch import Tensor
from written import manifest_of, records_of

from dkm.clustering import functional
from dkm.clustering.functional import kmeans_loss
from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.compose import compose, parse
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.evaluation.clusters import assign_clusters
from dkm.runs.directory import RunDirectory
from dkm.runtime.devices import find_device, set_threads
from dkm.training.trainer import Trainer

QUIET = ["log.figures=false", "log.report=false", "log.tensorboard=false"]
TINY = [
    *("data=blobs", "data.n_samples=200", "model.hidden=[8]", "batch_size=50", "recipe=classic", "pretrain.epochs=2"),
    *("joint.epochs=2", "joint.tolerance=0", "clustering.n_init=2", *QUIET),
]


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def n_threads() -> Iterator[None]:
    """Three threads, and those from before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize(
    ("threads", "given", "n_local", "n_cores", "expected"),
    [
        pytest.param(None, "1", None, 16, 3, id="OMP_NUM_THREADS, which torch has read, is kept"),
        pytest.param(None, "3", "4", 16, 3, id="also in a job of several"),
        pytest.param(None, "1", "4", 16, 4, id="torchrun's own 1 is not the user's choice"),
        pytest.param(None, None, "4", 16, 4, id="processes share the cores"),
        pytest.param(None, None, "3", 16, 5, id="rounded down"),
        pytest.param(None, None, "4", 2, 1, id="one at least"),
        pytest.param(None, None, None, 2, 2, id="all cores"),
        pytest.param(None, None, None, 16, 3, id="no more than torch would take"),
        pytest.param(2, None, None, 16, 2, id="a number wins"),
        pytest.param(2, "7", None, 16, 2, id="over OMP_NUM_THREADS"),
        pytest.param(2, "1", "4", 16, 2, id="over the share"),
    ],
)
def test_threads(
    threads: int | None,
    given: str | None,
    n_local: str | None,
    n_cores: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("OMP_NUM_THREADS", given), ("LOCAL_WORLD_SIZE", n_local)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(joblib, "cpu_count", lambda only_physical_cores: n_cores)
    set_threads(threads)
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.thorough
def test_the_command_line_sets_the_threads_and_the_manifest_has_them(threads: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished = train([*TINY, f"threads={threads}", f"hydra.run.dir={run}"], tmp_path / "log")
    assert (finished.code, finished.err) == (0, "")
    assert manifest_of(run)["threads"] == threads
    assert f"cpu, {threads} threads" in finished.out


# --- bfloat16 -----------------------------------------------------------------------------------------------------


def set_capabilities(*names: str) -> None:
    torch.cpu.get_capabilities = lambda: {"avx2": True, **dict.fromkeys(names, True)}


SLOWER = "warning: precision=bf16: cpu has no arithmetic for it and will be slower than with precision=fp32\n"


@pytest.mark.parametrize(("names", "said"), [((), SLOWER), (("avx512_bf16",), ""), (("bf16",), "")])
def test_bf16_warns_once_where_the_processor_has_none_and_trains(
    names: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [*TINY, "precision=bf16", f"hydra.run.dir={run}"]
    finished = train(arguments, tmp_path / "log", prepare=partial(set_capabilities, *names))
    assert (finished.code, finished.err) == (0, said)
    records = records_of(run)
    assert records[1]["loss/reconstruction"] < records[0]["loss/reconstruction"]


def test_fp32_says_nothing_about_bf16(tmp_path: Path) -> None:
    arguments = [*TINY, f"hydra.run.dir={tmp_path / 'run'}"]
    assert train(arguments, tmp_path / "log", prepare=set_capabilities).err == ""


def test_distances_and_assignments_stay_in_float32_under_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: set[torch.dtype] = set()
    encoded: set[torch.dtype] = set()
    nearest = functional.nearest_centroids

    def recorded(z: Tensor, centroids: Tensor, n_nearest: int = 1) -> Tensor:
        compared.update((z.dtype, centroids.dtype))
        return nearest(z, centroids, n_nearest)

    def loss(self: KMeansClustering, z: Tensor, index: Tensor) -> Tensor:
        encoded.add(z.dtype)
        value = kmeans_loss(z, self.centroids)
        assert value.dtype == torch.float32
        return value

    monkeypatch.setattr(functional, "nearest_centroids", recorded)
    monkeypatch.setattr(KMeansClustering, "forward", loss)
    config = compose(parse([*TINY, "precision=bf16", "clustering.assignment=batch"])).config
    trainer = Trainer(config, load_dataset(config.data))
    run = RunDirectory(tmp_path, progress="off")
    run.open(config, step=None, has_labels=False)
    trainer.run(run)
    assert encoded == {torch.bfloat16}  # the network computes in it
    assert compared == {torch.float32}
    assert all(p.dtype == torch.float32 for p in trainer.autoencoder.parameters())
    with torch.no_grad():
        z = trainer.autoencoder.encode(trainer.batches.take(torch.arange(200)))
    found = assign_clusters(z, trainer.clustering.centroids.detach())
    assert found.distance.dtype == np.float32
    rows = np.genfromtxt(tmp_path / "assignments.csv", delimiter=",", names=True)
    assert np.array_equal(rows["cluster"], found.labels)
    assert np.array_equal(rows["distance"].astype(np.float32), found.distance)


# --- torch.compile ------------------------------------------------------------------------------------------------


def hide_compiler() -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def refuse() -> str:
        raise InvalidCxxCompiler

    cpp_builder.get_cpp_compiler = refuse


def test_compile_without_a_compiler_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [*TINY, "compile=true", f"hydra.run.dir={run}"]
    finished = train(arguments, tmp_path / "log", prepare=hide_compiler)
    assert (finished.code, finished.out) == (2, "")
    assert finished.err == (
        "error: compile=true: found no C++ compiler, which torch.compile needs on a CPU; expected g++ or clang++ on "
        "the PATH; install one or set compile=false\n"
    )
    assert not run.exists()


def set_environment(name: str, value: str) -> None:
    os.environ[name] = value


@pytest.mark.slow
def test_a_compiled_run_ends_like_an_eager_one(tmp_path: Path) -> None:
    losses = {}
    for is_compiled in (False, True):
        run = tmp_path / str(is_compiled)
        arguments = ["experiment=debug", *QUIET, f"compile={str(is_compiled).lower()}", f"hydra.run.dir={run}"]
        prepare = partial(set_environment, "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
        finished = train(arguments, tmp_path / "log", prepare=prepare)
        assert finished.code == 0, finished.err
        said = [f"compile: the first step of the {phase} phase took" in finished.out for phase in ("pretrain", "joint")]
        assert said == [is_compiled] * 2
        records = records_of(run)
        losses[is_compiled] = [v for r in records for k, v in r.items() if k.startswith("loss/")]
    seconds = manifest_of(tmp_path / "True")["compile_seconds"]
    assert isinstance(seconds, dict)
    assert seconds.keys() == {"pretrain", "joint"}
    assert all(value > 0 for value in seconds.values())
    assert "compile_seconds" not in manifest_of(tmp_path / "False")
    # Sums are taken in another order, over 32 steps of float32.
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


# --- devices ------------------------------------------------------------------------------------------------------


def test_a_device_without_float64_is_refused_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"device=mps: expected a device with float64 arithmetic.*use device=cpu"):
        find_device("mps")
