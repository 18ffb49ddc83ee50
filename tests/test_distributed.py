"""Two processes train what one trains, agree on when to stop, and lose nothing when one of them is gone.

Most tests fork the ranks themselves, which takes a second where torchrun takes ten. Then nobody ends the others when
one dies: they must find out by themselves.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import OPTIMIZER, Finished, Point, train, train_ranks
from torch import nn
from written import manifest_of, records_of

from dkm.config.compose import compose, parse
from dkm.data.datasets import load_dataset
from dkm.evaluation.clusters import assign_clusters
from dkm.models.saved import load_model
from dkm.runtime import distributed
from dkm.runtime.signals import Signals, signals_handled
from dkm.train import main

N_SAMPLES, N_BATCHES = 201, 5  # batches of 40 and 41 rows: shares of 20 and 21
PRETRAIN_EPOCHS, JOINT_EPOCHS = 3, 5
DURING_JOINT = 17  # the second step of the joint phase, the 18th of the run with the one that sets the centroids

Losses = list[dict[str, float]]


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images[:N_SAMPLES].astype(np.float32), digits.target[:N_SAMPLES]


@pytest.fixture(scope="module")
def overrides(images: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of a second with everything in it: images, so augmentation; labels; more clusters than stay alive."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=images[0], y=images[1])
    return ["data=npz", f"data.path={path}", "data.labels=y", *SMALL]


SMALL = [
    "model.hidden=[16]",
    "batch_size=50",
    "recipe=classic",
    f"pretrain.epochs={PRETRAIN_EPOCHS}",
    f"joint.epochs={JOINT_EPOCHS}",
    "joint.tolerance=0",
    "joint.lr=0.01",
    "evaluation.every_epochs=1",
    "clustering.n_init=3",
    "checkpoint.every_s=1000",
    "log.figures=false",
    "log.report=false",
    "log.tensorboard=false",
]
EVERYTHING = ["log.report=true", "log.tensorboard=true"]


@pytest.fixture(scope="module")
def reference(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert train([*overrides, *EVERYTHING, f"hydra.run.dir={run}"], run.parent / "log").code == 0
    return run


@pytest.fixture(scope="module")
def several(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Finished]]:
    """The run of two processes."""
    run = tmp_path_factory.mktemp("several") / "run"
    finished = train_ranks([*overrides, *EVERYTHING, f"hydra.run.dir={run}"], run.parent / "log")
    assert codes(finished) == [0, 0], finished
    return run, finished


def codes(finished: Sequence[Finished]) -> list[int | None]:
    return [rank.code for rank in finished]


def only_line(finished: Sequence[Finished]) -> str:
    """Return what all ranks together printed to standard error, which is one line."""
    err = "".join(rank.err for rank in finished)
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def losses_of(run: Path) -> Losses:
    records = records_of(run)
    return [{k: v for k, v in r.items() if k in ("epoch", "step") or k.startswith("loss")} for r in records]


def clusters_of(run: Path) -> np.ndarray:
    return np.loadtxt(run / "assignments.csv", delimiter=",", skiprows=1, usecols=1, dtype=int)


def state_of(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["train_state"]
    return state


def assert_equal(run: Path, reference: Path, rel: float = 1e-4, smallest: float = 1e-12) -> None:
    """See that both runs were completed, with the same losses but for rounding, and the same clusters."""
    assert manifest_of(run)["status"] == "completed"
    found, expected = losses_of(run), losses_of(reference)
    assert len(found) == len(expected) == PRETRAIN_EPOCHS + JOINT_EPOCHS
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=rel, abs=smallest)
    assert (clusters_of(run) == clusters_of(reference)).all()


# --- the same numbers ---------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_two_ranks_write_the_run_that_one_writes(reference: Path, several: tuple[Path, list[Finished]]) -> None:
    run, _ = several
    assert_equal(run, reference)
    assert manifest_of(run)["processes"] == 2
    assert manifest_of(reference)["processes"] == 1
    assert files_of(run) == files_of(reference)
    assert (run / "report.html").exists()
    assert n_revived(run) == n_revived(reference) > 0


def files_of(run: Path) -> Counter[str]:
    return Counter(re.sub(r"tfevents.*", "tfevents", str(path.relative_to(run))) for path in run.rglob("*"))


def n_revived(run: Path) -> int:
    records = records_of(run)
    return sum(record.get("clusters/n_revived", 0) for record in records)


def test_rank_0_alone_prints(several: tuple[Path, list[Finished]]) -> None:
    main, other = several[1]
    assert (main.err, other.out, other.err) == ("", "", "")
    assert "2 processes, each" in main.out
    assert set(Counter(main.out.splitlines()).values()) == {1}


def test_two_ranks_give_the_same_bytes_twice(
    overrides: list[str], several: tuple[Path, list[Finished]], tmp_path: Path
) -> None:
    run, first = tmp_path / "run", several[0]
    assert codes(train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log")) == [0, 0]
    for name in ("metrics.jsonl", "result.json", "assignments.csv", "model/weights.safetensors"):
        assert (run / name).read_bytes() == (first / name).read_bytes(), name


WAYS = {
    "a penalty": ["regularization=l2_penalty", "regularization.strength=1e-3"],
    "a neighbor embedding": [
        *("pretrain.neighbor_weight=1", "clustering.init=data", "joint.hold_labels=true"),
    ],
    "a coupled decay": ["regularization.strength=1e-2"],
    "assignments of the batch": ["clustering.assignment=batch"],
    "no augmentation": ["augmentation=none"],
    "a summed loss": ["loss.reduction=sum"],
    "k-means on a part": ["clustering.init_samples=150"],
    "a convolution": ["model=conv", "model.filters=[4,4,4]"],
    "deep k-means": ["clustering=dkm", "clustering.schedule=annealed", "clustering.epochs_per_alpha=2"],
    "running means": ["clustering=dcn"],
    "targets without a decoder": ["clustering=dec", "clustering.update_interval=7"],
    "targets beside the reconstruction": ["clustering=idec"],
    "self-paced means": ["clustering.self_paced=true", "clustering.centroids=mean"],
    "resets": ["clustering.reset_every=2", "joint.average_epochs=2"],
    "no clustering": ["clustering=none"],
}


# In the default suite those of which each touches what no other one does.
USUAL = (
    "a penalty",
    "a neighbor embedding",
    "a convolution",
    "running means",
    "targets beside the reconstruction",
    "resets",
)


@pytest.mark.parametrize("way", [way if way in USUAL else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
@pytest.mark.thorough
def test_two_ranks_equal_one_with(way: str, overrides: list[str], tmp_path: Path) -> None:
    words = [w for w in overrides if way != "a convolution" or not w.startswith("model.")] + WAYS[way]
    one, two = both_ways(words, tmp_path)
    if way == "no clustering":
        assert losses_of(two) == [pytest.approx(record, rel=1e-4) for record in losses_of(one)]
        assert (clusters_of(two) == clusters_of(one)).all()
    else:
        # A divergence from targets that are nearly met is a sum of float32 numbers of both signs, 1,000 times as large.
        assert_equal(two, one, smallest=1e-7 if way.startswith("targets") else 1e-12)


def both_ways(words: Sequence[str], tmp_path: Path) -> tuple[Path, Path]:
    """Train with one process and with two; return both runs."""
    one, two = tmp_path / "one", tmp_path / "two"
    alone = train([*words, f"hydra.run.dir={one}"], tmp_path / "log")
    assert alone.code == 0, alone.err
    finished = train_ranks([*words, f"hydra.run.dir={two}"], tmp_path / "log")
    assert codes(finished) == [0, 0], finished
    return one, two


@pytest.mark.thorough
def test_two_ranks_equal_one_in_bf16(overrides: list[str], tmp_path: Path) -> None:
    """Gradients of a bf16 layer are rounded to 8 bits before they are added, so by a share other than by a batch.

    A point between two clusters may then go to the other one, which the clustering loss, a tenth of the other, shows.
    """
    one, two = both_ways([*overrides, "precision=bf16"], tmp_path)
    for mine, theirs in zip(losses_of(two), losses_of(one), strict=True):
        for name in ("loss/total", "loss/reconstruction"):
            assert mine[name] == pytest.approx(theirs[name], rel=0.02), name


@pytest.mark.parametrize(
    "where",
    [
        "a file on disk",
        "a folder of shards on disk",
        pytest.param("a folder of shards in memory", marks=pytest.mark.slow),  # an array as any other
    ],
)
@pytest.mark.thorough
def test_two_ranks_equal_one_with_data_from(where: str, images: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    X, y = images
    path, labels = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(labels, y)
    if where == "a file on disk":
        np.save(path, X)
    else:
        path = tmp_path / "shards"
        path.mkdir()
        for number, part in enumerate(np.split(X, [50, 53, 160])):
            np.save(path / f"{number}.npy", part)
    load = "memory" if "memory" in where else "disk"
    data = ["data=npy", f"data.path={path}", f"data.labels={labels}", f"data.load={load}"]
    one, two = both_ways([*data, *SMALL], tmp_path)
    assert_equal(two, one)


@pytest.mark.slow
def test_three_ranks_equal_one(overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert codes(train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", n_ranks=3)) == [0, 0, 0]
    assert_equal(run, reference)


class BatchNormed(nn.Module):
    def __init__(self, n_features: int, latent_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, latent_dim))
        self.decoder = nn.Linear(latent_dim, n_features)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(z)


def train_here() -> None:
    """Run the command line in a process that has imported this module."""
    main()


@pytest.mark.thorough
def test_batch_norm_has_the_same_statistics_in_all_ranks(tmp_path: Path) -> None:
    """The saved model assigns as the run did, and a run that ended within an epoch goes on as one that did not."""
    own = "model.class=test_distributed.BatchNormed"
    words = ["data=blobs", "data.n_samples=4500", "data.blob_std=4", "model=custom", own, "batch_size=500"]
    words += [word for word in SMALL if not word.startswith(("model.", "batch_size", "joint.epochs", "pretrain."))]
    words += ["pretrain.epochs=1", "joint.epochs=2", "joint.average_epochs=1"]
    whole = tmp_path / "whole"

    def ranks(*words: str, points: Mapping[int, Point] | None = None) -> list[int | None]:
        return codes(train_ranks(words, tmp_path / "log", points=points, program=train_here))

    assert ranks(*words, f"hydra.run.dir={whole}") == [0, 0]
    ends = {
        "interrupted": ({0: Point(*OPTIMIZER, 13, signal.SIGINT)}, [130, 130]),
        "killed": ({1: Point(*OPTIMIZER, 13)}, [1, -signal.SIGKILL]),  # rank 0 finds out in a later forward pass
    }
    for end, (points, expected) in ends.items():
        run = tmp_path / end
        assert ranks(*words, f"hydra.run.dir={run}", points=points) == expected, end
        assert ranks(f"resume={run}", own) == [0, 0], end
        for name in ("metrics.jsonl", "result.json", "assignments.csv", "model/weights.safetensors"):
            assert (run / name).read_bytes() == (whole / name).read_bytes(), (end, name)
    data = load_dataset(compose(parse(words)).config.data)
    model = load_model(str(whole), model_class="test_distributed.BatchNormed")
    labels = assign_clusters(model.embed(data.X), model.centroids).labels
    assert (labels == clusters_of(whole)).all()


@pytest.mark.thorough
def test_all_ranks_go_back_to_the_best_clusters(tmp_path: Path) -> None:
    """What the first process scores decides; the others have its state, also when the run is resumed before its end."""
    path = tmp_path / "noise.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32), y=np.arange(400) % 5)
    words = ["data=npz", f"data.path={path}", "data.labels=y", "model.hidden=[32]", "batch_size=100", "joint.lr=0.02"]
    words += ["pretrain.steps=60", "joint.steps=60", "joint.average_epochs=1"]
    words += [word for word in SMALL if word.startswith(("log.", "checkpoint."))]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert codes(train_ranks([*words, f"hydra.run.dir={whole}"], tmp_path / "log")) == [0, 0]
    result = json.loads((whole / "result.json").read_text())
    assert result["restored_step"] is not None
    points = {0: Point("dkm.training.guard:Guard", "restore", 1, signal.SIGKILL)}
    codes(train_ranks([*words, f"hydra.run.dir={killed}"], tmp_path / "log", points=points))
    assert not (killed / "result.json").exists()
    assert codes(train_ranks([f"resume={killed}"], tmp_path / "log")) == [0, 0]
    for name in ("metrics.jsonl", "result.json", "assignments.csv", "model/weights.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    data = load_dataset(compose(parse(words)).config.data)
    model = load_model(str(whole))
    assert (assign_clusters(model.embed(data.X), model.centroids).labels == clusters_of(whole)).all()


# --- a rank that dies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, PRETRAIN_EPOCHS * N_BATCHES, DURING_JOINT])
@pytest.mark.thorough
def test_rank_0_writes_a_checkpoint_of_the_step_in_which_another_rank_died(
    count: int, overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    points = {1: Point(*OPTIMIZER, count)}
    main, other = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points=points)
    assert (main.code, other.code) == (1, -signal.SIGKILL)
    line = only_line([main, other])
    assert "error: rank 1 ended without a message (was it killed?); a checkpoint was written" in line
    assert f"resume={run}" in line
    assert manifest_of(run)["status"] == "failed"
    assert state_of(run)["step"] == count + (count > PRETRAIN_EPOCHS * N_BATCHES)  # setting the centroids is one
    resumed = train([f"resume={run}"], tmp_path / "log")
    assert resumed.code == 0, resumed.err
    assert_equal(run, reference)


@pytest.mark.slow
def test_a_step_that_a_death_leaves_half_done_is_done_anew(overrides: list[str], tmp_path: Path) -> None:
    """DCN's centroids move after the optimizer's step, together: between the two there is no state to go on from."""
    words = [*(o for o in overrides if not o.startswith("clustering.")), "clustering=dcn", "clustering.n_init=2"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train([*words, f"hydra.run.dir={whole}"], tmp_path / "log").code == 0
    points = {1: Point("dkm.clustering.losses.dcn:DCNClustering", "after_step", 3)}
    main, _ = train_ranks([*words, f"hydra.run.dir={run}"], tmp_path / "log", points=points)
    assert main.code == 1
    assert state_of(run)["step"] == PRETRAIN_EPOCHS * N_BATCHES + 1
    resumed = train([f"resume={run}"], tmp_path / "log")
    assert resumed.code == 0, resumed.err
    assert_equal(run, whole)


@pytest.mark.thorough
def test_the_others_end_when_rank_0_dies(overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    points = {0: Point(*OPTIMIZER, DURING_JOINT)}
    main, other = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points=points)
    assert (main.code, other.code) == (-signal.SIGKILL, 1)
    line = only_line([main, other])
    assert "error: rank 0 ended without a message (was it killed?); the last checkpoint is kept; continue with" in line
    assert f"resume={run}" in line
    assert state_of(run)["step"] == PRETRAIN_EPOCHS * N_BATCHES + 1
    resumed = train([f"resume={run}"], tmp_path / "log")
    assert resumed.code == 0, resumed.err
    assert_equal(run, reference)


DEATHS = {
    "while the objective is wrapped": Point("dkm.training.objective:Objective", "__init__", 2),
    "in the pass after an epoch": Point("dkm.evaluation.evaluator", "encode", 6),
    "after new assignments with a revival": Point(
        "dkm.clustering.losses.kmeans:KMeansClustering", "end_epoch", 1, after=True
    ),
    "in the last pass": Point("dkm.training.trainer:Trainer", "_finish", 1),
}


@pytest.mark.parametrize("when", DEATHS)
@pytest.mark.thorough
def test_no_moment_of_a_death_spoils_the_checkpoint(
    when: str, overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finished = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points={1: DEATHS[when]})
    assert codes(finished) == [1, -signal.SIGKILL]
    assert f"a checkpoint was written; continue with resume={run}" in only_line(finished)
    resumed = train([f"resume={run}"], tmp_path / "log")
    assert resumed.code == 0, resumed.err
    assert_equal(run, reference)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_death_before_the_run_leaves_nothing(rank: int, overrides: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    points = {rank: Point("dkm.data.datasets", "load_dataset", 1)}
    finished = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points=points)
    assert codes(finished)[rank] == -signal.SIGKILL
    assert codes(finished)[1 - rank] == 1
    assert f"error: rank {rank} ended without a message (was it killed?); nothing was trained yet" in only_line(
        finished
    )
    assert not run.exists()


# --- from one to two and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, DURING_JOINT])
@pytest.mark.thorough
def test_two_ranks_go_on_with_what_one_began(count: int, overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun = [*overrides, f"hydra.run.dir={run}", "checkpoint.every_s=0"]
    assert train(begun, tmp_path / "log", Point(*OPTIMIZER, count)).code == -signal.SIGKILL
    finished = train_ranks([f"resume={run}"], tmp_path / "log")
    assert codes(finished) == [0, 0], finished
    assert f"at epoch {(count - 1) % 15 // 5}, batch {(count - 1) % 5}" in finished[0].out
    assert_equal(run, reference)


@pytest.mark.thorough
def test_auto_finds_the_run_for_all_ranks(overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run, new = tmp_path / "run", tmp_path / "${now:%Y}"
    points = {1: Point(*OPTIMIZER, DURING_JOINT)}
    train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points=points)
    finished = train_ranks([*overrides, f"hydra.run.dir={new}", "resume=auto"], tmp_path / "log")
    assert codes(finished) == [0, 0], finished
    assert [path.parent for path in tmp_path.glob("*/config.yaml")] == [run]
    assert_equal(run, reference)


@pytest.mark.thorough
def test_auto_resumes_a_run_that_has_no_checkpoint_yet(overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run, new = tmp_path / "run", tmp_path / "${now:%Y}"
    points = {0: Point("dkm.training.baseline", "kmeans", 1)}
    finished = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points=points)
    assert codes(finished) == [-signal.SIGKILL, 1]
    assert not (run / "checkpoints").exists()
    finished = train_ranks([*overrides, f"hydra.run.dir={new}", "resume=auto"], tmp_path / "log")
    assert codes(finished) == [0, 0], finished
    assert [path.parent for path in tmp_path.glob("*/config.yaml")] == [run]
    assert_equal(run, reference)


# --- signals ------------------------------------------------------------------------------------------------------


SIGNALS: Mapping[str, Mapping[int, Point]] = {
    "to both": {0: Point(*OPTIMIZER, 7, signal.SIGINT), 1: Point(*OPTIMIZER, 8, signal.SIGINT)},
    "to rank 0": {0: Point(*OPTIMIZER, DURING_JOINT, signal.SIGINT)},
    "to rank 1": {1: Point(*OPTIMIZER, DURING_JOINT, signal.SIGTERM)},
    "to both, twice": {r: Point(*OPTIMIZER, 7, signal.SIGINT, and_signal=signal.SIGTERM) for r in (0, 1)},
    "in k-means": {0: Point("dkm.clustering.initialization", "kmeans_restarts", 1, signal.SIGINT)},
    "to one, and to the other on its way out": {
        0: Point(*OPTIMIZER, 7, signal.SIGINT),
        1: Point("dkm.train", "print_once", 1, signal.SIGTERM),
    },
}


# They leave the checkpoint that another one leaves, from which a run goes on.
STOP_ALIKE = ("to rank 1", "to both, twice", "to one, and to the other on its way out")


@pytest.mark.parametrize("which", SIGNALS)
@pytest.mark.thorough
def test_ranks_stop_together_after_a_signal(which: str, overrides: list[str], reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points=SIGNALS[which])
    assert codes(finished) == [130, 130], finished
    assert f"interrupted: a checkpoint was written; continue with resume={run}" in only_line(finished)
    assert manifest_of(run)["status"] == "interrupted"
    if which in STOP_ALIKE:
        return
    resumed = train([f"resume={run}"], tmp_path / "log")
    assert resumed.code == 0, resumed.err
    assert_equal(run, reference)


def test_a_signal_before_the_run_is_one_line(overrides: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    points = {rank: Point("dkm.training.launch", "compose", 1, signal.SIGINT) for rank in (0, 1)}
    finished = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log", points=points)
    assert codes(finished) == [130, 130]
    assert "interrupted\n" in "".join(rank.err for rank in finished)
    assert all("Traceback" not in rank.err for rank in finished)
    assert not run.exists()


def test_a_process_among_several_is_never_left_at_once() -> None:
    with signals_handled(is_alone=False) as signals, signals.interruptible():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert signals.is_requested
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_request_of_several_processes_does_not_stop_a_computation() -> None:
    signals = Signals(is_alone=False)
    signals.handle(signal.SIGINT, None)
    with signals.interruptible():
        signals.handle(signal.SIGINT, None)
    signals.handle(signal.SIGTERM, None)
    assert signals.is_requested


# --- ranks that disagree, and other mistakes ----------------------------------------------------------------------


def refused(arguments: Sequence[str], tmp_path: Path, n_ranks: int = 2, **own: Sequence[str]) -> str:
    """Run ranks that are to be refused; return the only line that they print."""
    run = tmp_path / "run"
    given = {1: own["own"]} if own else {}
    finished = train_ranks([f"output={run}", *arguments], tmp_path / "log", n_ranks=n_ranks, own=given)
    assert codes(finished) == [2] * n_ranks, finished
    assert {rank.out for rank in finished} == {""}
    line = only_line(finished)
    assert re.fullmatch(r"error: .*expected .+; .+\n", line), line
    assert not run.exists()
    return line


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("seed=7", "0"),
        pytest.param("joint.epochs=6", "5", marks=pytest.mark.slow),
        ("optimizer=sgd", "adam"),
    ],
)
def test_settings_that_differ_are_refused(own: str, other: str, overrides: list[str], tmp_path: Path) -> None:
    line = refused(overrides, tmp_path, own=[own])
    key, _, value = own.partition("=")
    assert re.search(rf"error: {key}\S*={value} on rank 1: expected {other} as on rank 0; start", line) or (
        own == "optimizer=sgd" and "on rank 1: expected" in line
    )


def test_data_that_differ_are_refused(
    overrides: list[str], images: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X = images[0].copy()
    X[3, 2, 1] += 1
    np.savez(tmp_path / "other.npz", x=X, y=images[1])
    line = refused(overrides, tmp_path, own=[f"data.path={tmp_path / 'other.npz'}"])
    assert re.search(r"the SHA-256 of data=npz=\w{64} on rank 1: expected \w{64} as on rank 0", line)


def test_a_file_that_one_rank_lacks_is_one_line(overrides: list[str], tmp_path: Path) -> None:
    assert f"error: rank 1: data.path={tmp_path / 'nope.npz'}: " in refused(
        overrides, tmp_path, own=[f"data.path={tmp_path / 'nope.npz'}"]
    )


MISTAKES = {
    "batch_size=1": "torchrun with 2 processes: expected at most 1, the rows of the smallest batch",
    "device=cuda:0": "device=cuda:0",
    "--multirun": "--multirun: expected one process",
    "seed=x": "expected a whole number; correct seed",
    "nope=1": "nope=1: expected a key",
    "clustering.n_clusters=300": "clustering.n_clusters=300: expected at most",
    "resume=/nope": "resume=/nope: expected a run directory",
}


# Found where another mistake of the list is found: by the composition, by the data, before both.
ALIKE = ("nope=1", "clustering.n_clusters=300", "resume=/nope")


@pytest.mark.parametrize(
    "mistake", [pytest.param(text, marks=pytest.mark.slow) if text in ALIKE else text for text in MISTAKES]
)
def test_a_mistake_of_all_ranks_is_one_line(mistake: str, overrides: list[str], tmp_path: Path) -> None:
    assert MISTAKES[mistake] in refused([*overrides, mistake], tmp_path)


def test_a_directory_with_something_in_it_is_refused_once(overrides: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine").write_text("")
    finished = train_ranks([*overrides, f"hydra.run.dir={run}"], tmp_path / "log")
    assert codes(finished) == [2, 2]
    assert f"output={run}: expected a new or an empty directory" in only_line(finished)
    assert [path.name for path in run.iterdir()] == ["mine"]


def test_hydra_prints_once(overrides: list[str], tmp_path: Path) -> None:
    main, other = train_ranks([*overrides, "--cfg", "job"], tmp_path / "log")
    assert codes([main, other]) == [0, 0]
    assert "batch_size: 50" in main.out
    assert (main.err, other.out, other.err) == ("", "", "")


# --- what goes wrong in a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("every_s", [0, 1000])
def test_a_loss_that_is_not_finite_on_one_rank_stops_both(every_s: int, overrides: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*overrides, f"hydra.run.dir={run}", f"checkpoint.every_s={every_s}"]
    nan = Point("torch.nn.functional", "mse_loss", 7, is_nan=True)  # one call a step
    finished = train_ranks(words, tmp_path / "log", points={1: nan})
    assert codes(finished) == [1, 1], finished
    line = only_line(finished)
    assert "error: the reconstruction loss is nan in phase pretrain, epoch 2, step 7; expected finite losses" in line
    assert manifest_of(run)["status"] == "failed"
    assert manifest_of(run)["reason"].startswith("NonFiniteLoss")
    assert state_of(run)["step"] == (6 if every_s == 0 else 0)


def change_data_and_train(rank: int) -> None:
    """The program of each rank: train, and touch this rank's data between the phases."""
    from dkm.train import main
    from dkm.training.trainer import Trainer

    path = [word.partition("=")[2] for word in sys.argv if word.startswith("data.path=")][-1]
    original = Trainer._initialize_clusters

    def changed(trainer: Trainer) -> None:
        if distributed.rank() == rank:
            os.utime(path, (0, 0))
        original(trainer)

    Trainer._initialize_clusters = changed  # type: ignore[method-assign]
    main()


@pytest.mark.parametrize(
    ("rank", "is_shared"),
    [(1, True), (0, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, True), (1, False)))],
)
def test_data_that_change_during_the_run_stop_both_with_one_line(
    rank: int, is_shared: bool, images: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.npy" for number in (0, 1)]
    for path in paths:
        np.save(path, images[0])
    run = tmp_path / "run"
    words = ["data=npy", f"data.path={paths[0]}", "data.load=disk", "clustering.n_clusters=4", *SMALL]
    own = {} if is_shared else {1: [f"data.path={paths[1]}"]}
    program = partial(change_data_and_train, rank)
    finished = train_ranks([*words, f"hydra.run.dir={run}"], tmp_path / "log", own=own, program=program)
    assert codes(finished) == [2, 2], finished
    assert "changed while it was used" in only_line(finished)
    assert manifest_of(run)["status"] == "failed"
    assert state_of(run)["step"] == PRETRAIN_EPOCHS * N_BATCHES


# --- what the functions of dkm.distributed do ---------------------------------------------------------------------


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 41, 1000])
def test_shares_cover_everything_once(n: int, n_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(n_ranks))
    shares = []
    for rank in range(n_ranks):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(range(n)[distributed.share(n)])
    assert [i for mine in shares for i in mine] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_there_is_nothing_to_exchange() -> None:
    x = torch.tensor([1.0, 2.0])
    with distributed.process_group(with_cuda=False):
        assert not torch.distributed.is_initialized()
        for exchange in (distributed.sum_, distributed.mean_, distributed.broadcast_):
            assert exchange(x) is x
    assert x.tolist() == [1, 2]
    assert distributed.gather(b"x") == [b"x"]
    assert distributed.from_main(b"x") == b"x"
    assert distributed.from_main(None) is None
    assert distributed.any_rank(True)
    assert not distributed.any_rank(False)
    state = {"x": x}
    assert distributed.state_of_main(state) is state
    assert distributed.jointly(lambda: 5) == distributed.on_main(lambda: 5) == 5
    assert distributed.first_of_machine_first(lambda: 5) == 5
    distributed.require_equal({"a": 1})


def exchange() -> None:
    """What each of two ranks checks."""
    with distributed.process_group(with_cuda=False):
        rank = distributed.rank()
        assert distributed.world_size() == distributed.local_world_size() == 2
        assert distributed.is_main() == (rank == 0)
        assert distributed.sum_(torch.tensor([1.0, rank])).tolist() == [2, 1]
        assert distributed.mean_(torch.tensor([1.0, rank])).tolist() == [1, 0.5]
        assert math.isnan(distributed.mean_(torch.tensor(math.nan if rank else 1.0)).item())
        assert distributed.broadcast_(torch.tensor([rank + 3])).tolist() == [3]
        norm = nn.BatchNorm1d(2)
        norm.running_mean.fill_(rank)
        norm.running_var[1] += 2 * rank
        norm.num_batches_tracked += 7 + rank
        distributed.share_buffers(norm)
        assert [buffer.tolist() for buffer in norm.buffers()] == [[0.5, 0.5], [1, 2], 7]
        assert [distributed.any_rank(flag) for flag in (False, rank == 0, rank == 1, True)] == [False, True, True, True]
        assert distributed.gather(b"a" * (3 * rank)) == [b"", b"aaa"]
        assert distributed.gather(b"") == [b"", b""]
        assert distributed.gather(bytes([255, rank])) == [b"\xff\x00", b"\xff\x01"]
        assert distributed.from_main(None if rank else b"\x00\xff") == b"\x00\xff"
        assert distributed.from_main(b"from rank 1" if rank else b"") == b""
        assert distributed.from_main(b"from rank 1" if rank else None) is None
        state = distributed.state_of_main(None if rank else {"x": torch.arange(3), "none": None, "pi": 3.14})
        assert state is not None
        assert (state["x"].tolist(), state["none"], state["pi"]) == ([0, 1, 2], None, 3.14)
        assert distributed.state_of_main({"x": 1} if rank else None) is None
        assert distributed.jointly(lambda: rank) == rank
        assert distributed.on_main(lambda: "done") == (None if rank else "done")
        distributed.require_equal({"a": 1, "b": [1, 2]})
        agree_on_mistakes(rank)


def agree_on_mistakes(rank: int) -> None:
    def fail_on(*ranks: int) -> Callable[[], int]:
        def action() -> int:
            if rank in ranks:
                raise distributed.UserError(f"found on {rank}")
            return 5

        return action

    for ranks, message in (((0,), "found on 0"), ((1,), "rank 1: found on 1"), ((0, 1), "found on 0")):
        for together in (distributed.jointly, distributed.first_of_machine_first):
            with pytest.raises(distributed.UserError, match=f"^{message}$") as raised:
                together(fail_on(*ranks))
            assert isinstance(raised.value, distributed.ToldElsewhere) == (rank != 0)
    done = Path(tempfile.gettempdir()) / f"dkm-order-{os.getppid()}"

    def after_the_first() -> int:
        if rank == 0:
            time.sleep(0.3)  # longer than the others need to come here
            done.touch()
        return 5 if done.exists() else 0

    try:
        assert distributed.first_of_machine_first(after_the_first) == 5
        distributed.meet()
    finally:
        done.unlink(missing_ok=True)
    with pytest.raises(distributed.UserError, match=r"b=2 on rank 1: expected 1 as on rank 0; "):
        distributed.require_equal({"a": 1, "b": 1 + rank})
    with pytest.raises(distributed.UserError, match=r"c=None on rank 1: expected 1 as on rank 0; "):
        distributed.require_equal({"a": 1, **({} if rank else {"c": 1})})


def test_two_processes_exchange_what_the_functions_promise(tmp_path: Path) -> None:
    finished = train_ranks([], tmp_path, program=exchange)
    assert codes(finished) == [0, 0], finished


# --- under torchrun -----------------------------------------------------------------------------------------------


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts torchrun as a terminal does, in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        process = subprocess.Popen(
            [*command, "-m", "dkm.train", *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:  # a test failed before its end
            process.terminate()
        process.communicate()


@pytest.mark.thorough
def test_torchrun_trains_what_one_process_trains(
    torchrun: Start, overrides: list[str], reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    out, err = torchrun(*overrides, f"hydra.run.dir={run}").communicate(timeout=120)
    assert_equal(run, reference)
    assert err == ""
    assert out.count("k-means on the raw data:") == out.count("pretrain epoch 1:") == 1


@pytest.mark.slow
def test_interrupting_torchrun_leaves_a_run_to_resume(torchrun: Start, overrides: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = torchrun(*overrides, f"hydra.run.dir={run}", "pretrain.epochs=100000")
    assert process.stdout is not None
    assert any("pretrain epoch 2:" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does on Ctrl-C
    _, err = process.communicate(timeout=60)
    assert err.count(f"interrupted: a checkpoint was written; continue with resume={run}\n") == 1, err
    assert manifest_of(run)["status"] == "interrupted"
    assert state_of(run)["epoch"] >= 2


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_was_killed(torchrun: Start, overrides: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = torchrun(*overrides, f"hydra.run.dir={run}", "pretrain.epochs=100000")
    assert process.stdout is not None
    assert any("pretrain epoch 2:" in line for line in process.stdout)
    os.kill(pid_of_rank(1, process.pid), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("rank 1 ended without a message (was it killed?); a checkpoint was written; continue with") == 1, (
        err
    )
    assert manifest_of(run)["status"] == "failed"
    assert state_of(run)["epoch"] >= 2


def pid_of_rank(rank: int, parent: int) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    pytest.fail(f"no rank {rank}")
