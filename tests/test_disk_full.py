"""A disk that is full, or a directory that cannot be written, ends a run with one line and no traceback."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import Finished, train

from dkm.config.compose import compose, parse
from dkm.errors import Failure
from dkm.runs.directory import RunDirectory
from dkm.runs.tensorboard import Dashboard
from dkm.training import launch

WORDS = [
    *("data=digits", "recipe=classic", "threads=1", "model.hidden=[32]", "pretrain.epochs=2", "joint.epochs=1"),
    *("clustering.n_init=1", "evaluation.kmeans_raw=false"),
]


def train_with_limit(n_bytes: int, folder: Path) -> Finished:
    """Train where no file may be larger."""
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    return train([*WORDS, f"hydra.run.dir={folder / 'run'}"], folder / "log", prepare=limit)


EVENTS_ARE_LEFT_OUT = r"warning: log\.to=tensorboard: File too large; the run goes on without it, .+\n"


@pytest.mark.parametrize(("n_bytes", "before"), [(1_500, ""), (20_000, EVENTS_ARE_LEFT_OUT)])  # the second: checkpoints
def test_a_full_disk_ends_a_run_with_one_line(n_bytes: int, before: str, tmp_path: Path) -> None:
    finished = train_with_limit(n_bytes, tmp_path)
    assert finished.code in (1, 2)
    assert re.fullmatch(rf"{before}error: \S+: File too large; .+\n", finished.err), finished.err


@pytest.mark.thorough
def test_a_run_goes_on_without_events_that_cannot_be_written(tmp_path: Path) -> None:
    finished = train_with_limit(150_000, tmp_path)
    assert finished.code == 0, finished.err
    assert re.search(EVENTS_ARE_LEFT_OUT, finished.err), finished.err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "completed"
    assert any("log.to=tensorboard" in warning for warning in manifest["warnings"])
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_a_full_disk_is_told_with_how_to_go_on(
    has_checkpoint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(plan: launch.Plan) -> None:
        raise OSError(28, "No space left on device", str(plan.directory / "metrics.jsonl"))

    if has_checkpoint:
        (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(launch, "execute", fill)
    with pytest.raises(Failure) as failed:
        launch.execute_with_one_line_errors(launch.Plan(compose(parse([])).config, tmp_path))
    line = f"{tmp_path / 'metrics.jsonl'}: No space left on device; what was written before is kept"
    how = f"; free some space, then continue with resume={tmp_path}, with any number of processes"
    assert str(failed.value) == line + how * has_checkpoint


def test_the_thread_that_writes_events_prints_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.excepthook
    dashboard = Dashboard(tmp_path, None, has_labels=False)
    worker = dashboard._writer._get_file_writer().event_writer._async_writer  # type: ignore[no-untyped-call]

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker._writer, "write", full)
    with pytest.raises(OSError, match="No space left"):
        for _ in range(100):
            dashboard.scalars("joint", 1, {"x": 1.0})
            dashboard.flush()
    with pytest.raises(OSError, match="No space left"):
        dashboard.close()
    assert threading.excepthook is before
    assert capfd.readouterr().err == ""


def test_a_line_of_the_log_that_cannot_be_written_is_told_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path, progress="off")
    run.open_log()
    (handler,) = (handler for handler in run._handlers if isinstance(handler, logging.FileHandler))
    assert handler.stream is not None
    os.dup2(os.open("/dev/full", os.O_WRONLY), handler.stream.fileno())
    for _ in range(3):
        logging.getLogger("dkm").info("a line")
    with pytest.raises(OSError, match="No space left on device") as failed:
        run.close()
    assert failed.value.filename == str(tmp_path / "train.log")
    assert capfd.readouterr().err == ""
    assert not [h for h in logging.getLogger("dkm").handlers if isinstance(h, logging.FileHandler)]


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], WORDS])
@pytest.mark.thorough
def test_output_that_cannot_be_written_is_told_in_one_line(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dkm.train", *words]
    if words is WORDS:
        command += [
            "log.figures=false",
            "log.report=false",
            "log.tensorboard=false",
            f"hydra.run.dir={tmp_path / 'run'}",
        ]
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert "No space left on device" in finished.stderr
