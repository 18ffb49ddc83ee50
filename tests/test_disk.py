"""Whole runs on data that stay on disk: one file or shards, killed, damaged and restored, in little memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import Finished, Point, on_call, train
from sklearn.datasets import load_digits
from written import assert_same

from dkm.evaluation import metrics
from dkm.runtime import checkpoints

N, BATCH_SIZE, WINDOWS, BATCHES_PER_WINDOW = 360, 20, 6, 3
BATCHES = WINDOWS * BATCHES_PER_WINDOW
EPOCHS = 2  # of each phase
OPTIMIZER = ("torch.optim:Adam", "step")


def small_windows(n_bytes: int = N * 64 * 4 // WINDOWS, chunk_rows: int = 32) -> None:
    """Cut the data of this process into six windows, and passes over them into a dozen chunks."""
    from dkm.data import batches

    batches._WINDOW_BYTES, batches._BLOCKS_PER_WINDOW, batches.CHUNK_ROWS = n_bytes, 8, chunk_rows
    batches._WINDOW_BATCHES = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in one file and in shards, and their labels."""
    path = tmp_path_factory.mktemp("data")
    digits = load_digits()
    images = digits.images[:N].astype(np.float32)
    np.save(path / "x.npy", images)
    np.save(path / "y.npy", digits.target[:N])
    write_shards(path / "shards")
    return path


def write_shards(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    images = load_digits().images[:N].astype(np.float32)
    for number, part in enumerate(np.split(images, [100, 101, 290])):
        np.save(folder / f"part-{number}.npy", part)
    return folder


def command(folder: Path, data: str | Path, run: Path, *more: str) -> list[str]:
    """Images, so augmentation; labels; every batch and every evaluation is a place to stop at."""
    return [
        "data=npy",
        f"data.path={folder / data}",
        f"data.labels={folder / 'y.npy'}",
        "data.load=disk",
        "model.hidden=[16]",
        f"batch_size={BATCH_SIZE}",
        "recipe=classic",
        f"pretrain.epochs={EPOCHS}",
        f"joint.epochs={EPOCHS}",
        "joint.tolerance=0",
        "joint.lr=0.01",
        "evaluation.every_epochs=1",
        "clustering.n_init=2",
        "checkpoint.every_s=1000",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
        f"hydra.run.dir={run}",
        *more,
    ]


def start(
    arguments: list[str], log: Path, point: Point | None = None, prepare: Callable[[], object] = small_windows
) -> Finished:
    return train(arguments, log, point, prepare)


@pytest.fixture(scope="module")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run from one file that nothing happened to."""
    run = tmp_path_factory.mktemp("reference") / "run"
    finished = start(command(folder, "x.npy", run), run.parent / "log")
    assert finished.code == 0, finished.err
    assert finished.err == ""
    assert "read from disk" in finished.out
    return run


def result_of(run: Path) -> dict[str, object]:
    result: dict[str, object] = json.loads((run / "result.json").read_text())
    return result


# --- the same run wherever the rows lie ---------------------------------------------------------------------------


def test_each_epoch_has_the_batches_of_all_windows(reference: Path) -> None:
    steps = [json.loads(line)["step"] for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert steps == [BATCHES, 2 * BATCHES, 3 * BATCHES + 1, 4 * BATCHES + 1]  # setting the centroids is a step


def test_one_file_and_shards_give_the_same_bytes(folder: Path, reference: Path, tmp_path: Path) -> None:
    finished = start(command(folder, "shards", tmp_path / "run"), tmp_path / "log")
    assert finished.code == 0, finished.err
    assert_same(tmp_path / "run", reference)


def test_disk_and_memory_differ_in_nothing_but_the_order(folder: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished = start(command(folder, "x.npy", run, "data.load=memory"), tmp_path / "log")
    assert finished.code == 0, finished.err
    theirs, mine = result_of(run), result_of(reference)
    assert theirs.keys() == mine.keys()
    # Clustered before any batch was drawn, from the same scaled rows.
    assert theirs["kmeans_raw"] == mine["kmeans_raw"]
    assert theirs["steps"] == mine["steps"]
    assert theirs["inertia"] != mine["inertia"]
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (run, reference)]
    assert manifests[0]["data"] == manifests[1]["data"]


def test_labels_from_a_file_score_a_run_from_disk(reference: Path) -> None:
    rows = np.genfromtxt(reference / "assignments.csv", delimiter=",", names=True)
    assert rows["label"].tolist() == load_digits().target[:N].tolist()
    y, labels = rows["label"].astype(np.int64), rows["cluster"].astype(np.int64)
    assert result_of(reference)["acc"] == metrics.accuracy(y, labels)
    assert result_of(reference)["nmi"] == metrics.normalized_mutual_information(y, labels)
    assert result_of(reference)["ari"] == metrics.adjusted_rand_index(y, labels)


@pytest.mark.thorough
def test_a_run_from_disk_draws_its_figures(folder: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shown = ["log.figures=true", "log.report=true", "log.tensorboard=true"]
    finished = start(command(folder, "shards", run, *shown), tmp_path / "log")
    assert finished.code == 0, finished.err
    assert (run / "report.html").exists()
    assert {path.stem for path in (run / "figures").iterdir()} >= {"embedding", "exemplars", "decoded_centroids"}
    assert_same(run, reference)


# --- killed -------------------------------------------------------------------------------------------------------

KILLS = {
    "in the first window": Point(*OPTIMIZER, 2),
    "in a later window": Point(*OPTIMIZER, BATCHES + 2 * BATCHES_PER_WINDOW + 2),
    "between two windows": Point(*OPTIMIZER, BATCHES + 2 * BATCHES_PER_WINDOW, after=True),
    "in the joint phase": Point(*OPTIMIZER, 3 * BATCHES + 5 * BATCHES_PER_WINDOW + 1),
    "while a window is read": Point("dkm.data.batches:DiskBatches", "_read_blocks", WINDOWS + 4),
    "in a pass over all rows": Point("dkm.data.stored:StoredRows", "read", 11),
}


MORE_KILLS = ("in the first window", "between two windows", "in the joint phase", "while a window is read")


@pytest.mark.parametrize(
    "when", [pytest.param(when, marks=pytest.mark.slow) if when in MORE_KILLS else when for when in KILLS]
)
def test_a_run_killed_in_mid_epoch_resumes_to_the_same_bytes(
    when: str, folder: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = command(folder, "shards", run, "checkpoint.every_s=0")
    assert start(arguments, tmp_path / "log", KILLS[when]).code == -signal.SIGKILL
    finished = start([f"resume={run}"], tmp_path / "log")
    assert finished.code == 0, finished.err
    if when == "in a later window":
        assert f"resumed in pretrain at epoch 1, batch 7, step {BATCHES + 7}" in finished.out
    assert_same(run, reference)


# --- data that change under the run -------------------------------------------------------------------------------


def damage(path: Path, how: str, point: Point) -> None:
    """Prepare this process to lose a shard at a point of the run."""
    small_windows()
    actions: dict[str, Callable[[], object]] = {
        "truncated": lambda: os.truncate(path, path.stat().st_size // 2),
        "emptied": lambda: os.truncate(path, 0),
        "deleted": path.unlink,
        "longer": lambda: os.truncate(path, path.stat().st_size + 1),
        "rewritten": lambda: os.utime(path, ns=(0, 0)),
        "a folder": lambda: (path.unlink(), path.mkdir()),
    }
    on_call(point, actions[how])


EPOCH = ("dkm.data.batches:DiskBatches", "epoch")
READ = ("dkm.data.batches:DiskBatches", "_read_blocks")
PASS = ("dkm.data.batches:DiskBatches", "chunks")
RECORD = ("dkm.runs.directory:RunDirectory", "append_metrics")
LOSSES = [
    ("truncated", Point(*READ, WINDOWS + 3)),
    ("deleted", Point(*EPOCH, 2)),
    ("longer", Point(*EPOCH, 3)),
    ("longer", Point(*PASS, 2)),
    ("deleted", Point(*RECORD, 2 * EPOCHS, after=True)),
]
MORE_LOSSES = [
    ("deleted", Point("dkm.data.stored:StoredRows", "take", 1)),
    ("truncated", Point(*RECORD, EPOCHS, after=True)),
    ("deleted", Point(*READ, 3 * WINDOWS + 2)),
    ("truncated", Point(*READ, 2 * WINDOWS + 1)),
    ("emptied", Point(*READ, 2)),
    ("a folder", Point(*READ, WINDOWS + 2)),
    ("truncated", Point(*EPOCH, 2)),
    ("rewritten", Point(*EPOCH, 4)),
    ("deleted", Point(*PASS, 1)),
    ("deleted", Point(*PASS, 4)),
]


@pytest.mark.parametrize(
    ("how", "point"),
    [*LOSSES, *(pytest.param(*loss, marks=pytest.mark.slow) for loss in MORE_LOSSES)],
    ids=[f"{how}-{point.name}-{point.count}" for how, point in [*LOSSES, *MORE_LOSSES]],
)
def test_a_lost_shard_is_one_line_and_the_run_goes_on_once_it_is_restored(
    how: str, point: Point, folder: Path, reference: Path, tmp_path: Path
) -> None:
    run, shards = tmp_path / "run", write_shards(tmp_path / "shards")
    lost = shards / "part-2.npy"
    finished = start(command(folder, shards, run), tmp_path / "log", prepare=partial(damage, lost, how, point))
    assert finished.code == 2, finished.err
    assert finished.err.count("\n") == 1
    found = "cannot be read any more" if how in ("deleted", "a folder") else "changed while it was used"
    assert finished.err.startswith(f"error: data.path={shards}: shard part-2.npy: {found} (")
    assert finished.err.endswith("; expected the same file to the end; restore it and continue with resume=RUN\n")
    assert "Traceback" not in (run / "train.log").read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["reason"].startswith("UserError: data.path=")
    assert checkpoints.load(run / "checkpoints") is not None

    if lost.is_dir():
        lost.rmdir()
    write_shards(shards)
    finished = start([f"resume={run}"], tmp_path / "log")
    assert finished.code == 0, finished.err
    assert_same(run, reference)


def test_a_shard_that_stays_lost_is_refused_when_the_run_resumes(folder: Path, tmp_path: Path) -> None:
    run, shards = tmp_path / "run", write_shards(tmp_path / "shards")
    prepare = partial(damage, shards / "part-2.npy", "deleted", Point(*EPOCH, 2))
    assert start(command(folder, shards, run), tmp_path / "log", prepare=prepare).code == 2
    before = (run / "checkpoints" / "last.pt").read_bytes()
    finished = start([f"resume={run}"], tmp_path / "log")
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    # One shard less is another data set, which the labels do not fit.
    assert "expected (171,)" in finished.err
    assert (run / "checkpoints" / "last.pt").read_bytes() == before


def test_moved_data_are_found_by_their_new_path(folder: Path, reference: Path, tmp_path: Path) -> None:
    run, shards = tmp_path / "run", write_shards(tmp_path / "shards")
    assert start(command(folder, shards, run), tmp_path / "log", Point(*OPTIMIZER, 30, signal.SIGTERM)).code == 130
    shutil.rmtree(shards)
    finished = start([f"resume={run}", f"data.path={folder / 'x.npy'}"], tmp_path / "log")
    assert finished.code == 0, finished.err
    assert_same(run, reference)


# --- memory -------------------------------------------------------------------------------------------------------


def peak_kib() -> int:
    """Return the largest resident memory of this process since the peak was last reset (VmHWM, proc(5))."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def measure(target: Path) -> None:
    """Reset the peak, and write how far it has grown when the run is over.

    Files are read and not mapped, so the growth is memory that the run allocated. The buffers for a window and for the
    pass that fits the scaling are made small, so that it is not made of them.
    """
    from dkm.data import scaling

    small_windows(2**22, 2048)
    scaling._CHUNK_VALUES = 2**19  # 4 MiB in float64
    Path("/proc/self/clear_refs").write_text("5")
    base = peak_kib()
    point = Point("dkm.runs.directory:RunDirectory", "close", 1)
    on_call(point, lambda: target.write_text(str((peak_kib() - base) / 1024)))


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/self/clear_refs")
def test_a_run_from_disk_takes_far_less_memory_than_its_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    growth = {}
    for n_mib, load in ((10, "disk"), (200, "disk"), (200, "memory")):
        path = tmp_path / f"{n_mib}.npy"
        if not path.exists():
            X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_mib * 512, 512))
            for part in np.split(X, n_mib):
                part[:] = generator.normal(size=part.shape)
            del X, part
        arguments = ["data=npy", f"data.path={path}", f"data.load={load}", "clustering.n_clusters=3"]
        arguments += ["model.hidden=[8]", "pretrain.epochs=1", "joint.epochs=1", "clustering.n_init=1"]
        arguments += ["clustering.init_samples=1000", "evaluation.samples=1000"]
        arguments += [
            "log.figures=false",
            "log.report=false",
            "log.tensorboard=false",
            f"hydra.run.dir={tmp_path / f'{n_mib}-{load}'}",
        ]
        finished = train(arguments, tmp_path / "log", prepare=partial(measure, tmp_path / "growth"))
        assert finished.code == 0, finished.err
        growth[n_mib, load] = float((tmp_path / "growth").read_text())
    # The run from the small file takes what torch and the buffers take, about 130 MiB.
    assert growth[200, "disk"] < growth[10, "disk"] + 50, growth
    assert growth[200, "memory"] > growth[10, "disk"] + 180, "the method sees what is there"
