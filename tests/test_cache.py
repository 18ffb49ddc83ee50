"""Pretrainings that runs share: with the cache a run ends like without it, byte for byte."""

from __future__ import annotations

import errno
import functools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import OPTIMIZER, Finished, Point, train, train_ranks
from written import assert_same

from dkm.config.compose import compose, parse
from dkm.data.datasets import load_dataset
from dkm.training import cache as caches
from dkm.training.trainer import Trainer

SMALL = [
    *("data=blobs", "data.n_samples=120", "model.hidden=[16]", "batch_size=16", "device=cpu", "clustering.n_init=2"),
    *(
        "recipe=classic",
        "pretrain.epochs=3",
        "joint.epochs=3",
        "joint.tolerance=0",
        "evaluation.every_epochs=2",
        "log.figures=false",
    ),
    *("log.report=false", "log.tensorboard=false"),
]
METHODS = {
    "kmeans": [],
    "dkm": ["clustering=dkm"],
    "none": ["clustering=none"],
    "another optimizer later": ["pretrain.optimizer=adam", "optimizer=sgd"],
}


def start(overrides: list[str], run: Path, point: Point | None = None) -> Finished:
    return train([*SMALL, *overrides, f"hydra.run.dir={run}"], run.parent / f"{run.name}_log", point)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a run of ``clustering=kmeans``, beside it, has filled."""
    folder = tmp_path_factory.mktemp("cached") / "cache"
    finished = start([f"pretrain.cache={folder}"], folder.parent / "first")
    assert finished.code == 0, finished.err
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == ["pretrained", "raw"]
    return folder


@pytest.mark.thorough
def test_filling_the_cache_changes_nothing(cache: Path, tmp_path: Path) -> None:
    assert start([], tmp_path / "without").code == 0
    assert_same(cache.parent / "first", tmp_path / "without")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_from_the_cache_ends_in_the_same_bytes(method: str, cache: Path, tmp_path: Path) -> None:
    if method == "another optimizer later":  # another key
        cache = tmp_path / "cache"
        assert start(["pretrain.optimizer=adam", f"pretrain.cache={cache}"], tmp_path / "first").code == 0
    found = start([*METHODS[method], f"pretrain.cache={cache}"], tmp_path / "with")
    assert found.code == 0, found.err
    assert "pretrain: 3 epochs taken from pretrain.cache" in found.out
    assert "(from pretrain.cache)" in found.out
    assert start(METHODS[method], tmp_path / "without").code == 0
    assert_same(tmp_path / "with", tmp_path / "without")
    manifest = json.loads((tmp_path / "with" / "manifest.json").read_text())
    assert manifest["seconds"]["pretrain"] > 0
    assert manifest["status"] == "completed"


@pytest.mark.parametrize("point", [Point("dkm.clustering.initialization", "kmeans_restarts", 1), Point(*OPTIMIZER, 5)])
def test_a_run_from_the_cache_that_is_killed_resumes_to_the_same_bytes(
    point: Point, cache: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert start([f"pretrain.cache={cache}", "checkpoint.every_s=0"], run, point).code == -signal.SIGKILL
    finished = train([f"resume={run}", "pretrain.cache=null"], tmp_path / "log")
    assert finished.code == 0, finished.err
    assert_same(run, cache.parent / "first")


def test_a_run_that_was_killed_in_pretraining_fills_the_cache_too(cache: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "cache"
    killed = start([f"pretrain.cache={folder}", "checkpoint.every_s=0"], run, Point(*OPTIMIZER, 12))
    assert killed.code == -signal.SIGKILL
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["raw"]
    assert train([f"resume={run}"], tmp_path / "log").code == 0
    assert {path.name for path in folder.iterdir()} == {path.name for path in cache.iterdir()}
    assert_same(run, cache.parent / "first")


def test_a_run_that_was_made_longer_keeps_nothing(tmp_path: Path) -> None:
    """It has trained some of its epochs under another length, and the key tells of one."""
    run, folder = tmp_path / "run", tmp_path / "cache"
    constant = ["pretrain.schedule=constant", f"pretrain.cache={folder}", "checkpoint.every_s=0"]
    assert start(constant, run, Point(*OPTIMIZER, 12)).code == -signal.SIGKILL
    assert train([f"resume={run}", "pretrain.epochs=4"], tmp_path / "log").code == 0
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["raw"]


def test_a_damaged_entry_is_computed_anew(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    for path in cache.iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:-100])
    finished = start([f"pretrain.cache={folder}"], tmp_path / "run")
    assert finished.code == 0
    lines = finished.err.splitlines()
    assert len(lines) == 2
    assert all("damaged or altered" in line and line.endswith("; computed anew") for line in lines)
    assert_same(tmp_path / "run", cache.parent / "first")
    assert start([f"pretrain.cache={folder}"], tmp_path / "again").err == ""


def test_a_folder_that_cannot_be_written_to_is_only_a_warning(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished = start([f"pretrain.cache={tmp_path / 'file'}"], tmp_path / "run")
    assert finished.code == 0
    line = f"warning: pretrain.cache={tmp_path / 'file'}: cannot be written to (File exists); choose another folder"
    assert finished.err.splitlines() == [line, line]
    assert_same(tmp_path / "run", cache.parent / "first")


@pytest.mark.thorough
def test_two_processes_share_what_two_have_pretrained(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for name in ("first", "second"):
        words = [*SMALL, f"pretrain.cache={folder}", f"hydra.run.dir={tmp_path / name}"]
        ranks = train_ranks(words, tmp_path / f"{name}_log")
        assert [rank.code for rank in ranks] == [0, 0], ranks
        assert ("taken from pretrain.cache" in ranks[0].out) == (name == "second")
    assert_same(tmp_path / "second", tmp_path / "first")
    assert {path.name for path in folder.iterdir()}.isdisjoint({path.name for path in cache.iterdir()})


# --- keys ---------------------------------------------------------------------------------------------------------


@functools.cache
def keys(*overrides: str) -> tuple[str | None, str | None]:
    given = [o for o in SMALL if o.partition("=")[0] not in {p.partition("=")[0] for p in overrides}]
    if "data=digits" in overrides:
        given.remove("data.n_samples=120")
    config = compose(parse([*given, "pretrain.cache=x", *overrides])).config
    trainer = Trainer(config, load_dataset(config.data))
    return trainer.cache.key("pretrained"), trainer.cache.key("raw")


BOTH = ["data.generator_seed=1", "data.scaling=none", "seed=1", "evaluation.samples=50", "batch_size=8"]
PRETRAINED = [
    *("model.hidden=[8]", "model.latent_dim=2", "model.initial_weights=glorot", "augmentation=affine"),
    *("regularization=none", "loss.reduction=sum"),
    *(
        "pretrain.neighbor_weight=1",
        "pretrain.epochs=4",
        "pretrain.lr=0.1",
        "pretrain.schedule=cosine",
        "pretrain.optimizer=sgd",
        "optimizer=sgd",
    ),
    "evaluation.every_epochs=3",  # the records of the evaluations are kept too
]
RAW = ["evaluation.kmeans_raw=false", "clustering.n_init=3", "clustering.init_samples=50"]
NEITHER = [
    *("clustering=dec", "clustering.weight=1", "clustering.init=gmm", "joint.epochs=4", "joint.lr=0.1", "resume=auto"),
    *("log.progress=off", "checkpoint.every_s=1", "pretrain.cache=y", "data.root=elsewhere", "plugins=[json]"),
]


@pytest.mark.parametrize("override", [*BOTH, *PRETRAINED, *RAW, *NEITHER])
def test_the_key_is_made_of_what_decides_the_numbers(override: str) -> None:
    given = ["data=digits"] if override == "augmentation=affine" else []
    pretrained, raw = (a != b for a, b in zip(keys(*given), keys(*given, override), strict=True))
    assert pretrained == (override in BOTH or override in PRETRAINED)
    assert raw == (override in BOTH or override in RAW)


def test_the_clusters_count_for_the_raw_data_and_through_the_latent_dimensions() -> None:
    fixed = "model.latent_dim=5"
    (one, one_raw), (two, two_raw) = keys(fixed), keys(fixed, "clustering.n_clusters=4")
    assert one == two
    assert one_raw != two_raw
    assert keys("clustering.n_clusters=4")[0] != keys("clustering.n_clusters=3")[0]


def test_the_rows_of_the_neighbor_embedding_count_where_there_is_one() -> None:
    embedded = "pretrain.neighbor_weight=1"
    assert keys(embedded)[0] != keys(embedded, "clustering.init_samples=50")[0]


def test_filled_cells_count(tmp_path: Path) -> None:
    """They take no part in the reconstruction, although the rows are the same with and without them."""
    of = []
    for cell in ("", "3.5"):
        (tmp_path / "x.csv").write_text(
            "a,b\n" + "".join(f"{cell if n == 2 else n},{n % 2}\n" for n in (1, 2, 3, 4, 5))
        )
        words = ["data=csv", f"data.path={tmp_path / 'x.csv'}", "clustering.n_clusters=2", "data.numeric=[a,b]"]
        config = compose(parse([*words, "data.missing=median", "pretrain.cache=x"])).config
        data = load_dataset(config.data)
        of.append((Trainer(config, data).cache.key("pretrained"), data.X))
    assert torch.equal(of[0][1], of[1][1])
    assert of[0][0] != of[1][0]


def test_the_optimizer_of_the_joint_phase_does_not_count_where_pretraining_has_its_own() -> None:
    own = "pretrain.optimizer=adam"
    assert keys(own) == keys(own, "optimizer=sgd")


def test_rows_on_disk_have_keys_of_their_own(tmp_path: Path) -> None:
    """Batches are drawn otherwise, and smaller samples of many features."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((50, 4)).astype(np.float32))
    of = []
    for load in ("memory", "disk"):
        words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", f"data.load={load}", "clustering.n_clusters=3"]
        config = compose(parse([*words, "pretrain.cache=x"])).config
        trainer = Trainer(config, load_dataset(config.data))
        of.append((trainer.cache.key("pretrained"), trainer.cache.key("raw")))
    assert of[0][0] != of[1][0]
    assert of[0][1] != of[1][1]


def test_without_a_folder_there_is_no_key() -> None:
    assert keys("pretrain.cache=null") == (None, None)


def test_the_numbers_are_those_of_this_version_of_the_cache(cache: Path) -> None:
    """If this fails, pretraining computes something else than it did: raise ``cache._VERSIONS`` with the numbers."""
    records = [json.loads(line) for line in (cache.parent / "first" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss/reconstruction"] for record in records if record["phase"] == "pretrain"]
    assert losses == pytest.approx([1.012253, 0.966488, 0.928874], rel=1e-3)
    raw = json.loads((cache.parent / "first" / "result.json").read_text())["kmeans_raw"]
    assert raw["inertia"] == pytest.approx(80.67324, rel=1e-3)


def test_an_entry_that_cannot_be_read_is_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caches.save(tmp_path, "key", {"n": 1})

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert caches.load(tmp_path, "key") is None
    assert caplog.messages == [f"{tmp_path / 'key.pt'}: cannot be read (Input/output error); computed anew"]
