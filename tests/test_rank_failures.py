"""Whatever ends one of two ranks ends both soon, with one line that names it, and leaves a run to resume."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from processes import OPTIMIZER, Finished, Point, on_call, train_ranks

from dkm.errors import Failure, UserError
from dkm.runtime import distributed, peers
from dkm.runtime.peers import RankFailure

# Steps: 3 and 2 epochs of 3 batches, and one that sets the centroids.
SMALL = [
    *("data=blobs", "data.n_samples=60", "clustering.n_clusters=3", "batch_size=20", "model.hidden=[4]"),
    *("recipe=classic", "pretrain.epochs=3", "joint.epochs=2", "joint.tolerance=0", "clustering.n_init=1"),
    *("log.figures=false", "log.tensorboard=false", "log.report=false", "checkpoint.every_s=1000", "threads=1"),
]
LOADING = ("dkm.data.datasets", "load_dataset")
SCORING = ("dkm.training.trainer", "evaluation_record")
RESULTS = ("metrics.jsonl", "result.json", "assignments.csv")

Action = Callable[[], object]


def read_error() -> None:
    raise OSError(5, "Input/output error", "/data/rows.npy")


def no_memory() -> None:
    raise MemoryError("cannot allocate 12 GB")


def bug() -> None:
    raise ZeroDivisionError("a bug\nwith details")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def missing_package() -> None:
    raise ImportError("No module named 'mine'")


def user_error() -> None:
    raise UserError("data.path=x: found y; expected z; mend it")


def stop() -> None:
    """Stop this process; nobody is left to end it but a child, after the other rank has ended."""
    subprocess.Popen(["sh", "-c", f"sleep 25; kill -KILL {os.getpid()}"], stdout=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGSTOP)


def loop() -> None:
    """Compute for long."""
    end_s = time.monotonic() + 50
    while time.monotonic() < end_s:
        sum(range(1000))


class Fault(NamedTuple):
    """What happens on one rank before the ``count``-th call of a function."""

    rank: int
    owner: str
    name: str
    count: int
    action: Action


def program(*faults: Fault, ended_after_s: float | None = None, warning: str | None = None) -> None:
    """The program of each rank."""
    from dkm.train import main

    if ended_after_s is not None:
        peers._ENDED_AFTER_S = ended_after_s  # type: ignore[assignment]
    for rank, owner, name, count, action in faults:
        if rank == distributed.rank():
            on_call(Point(owner, name, count), action)
    if warning is not None:
        on_call(Point(*LOADING, 1), partial(warn_on_both_and_one, warning))
    main()


def warn_on_both_and_one(text: str) -> None:
    log = logging.getLogger("dkm.data.test")
    log.warning("what all ranks see")
    if distributed.rank() == 1:
        log.warning("%s", text)


def failed(tmp_path: Path, *faults: Fault, more: Sequence[str] = (), **others: object) -> tuple[Path, list[Finished]]:
    run = tmp_path / "run"
    words = [*SMALL, *more, f"hydra.run.dir={run}"]
    return run, train_ranks(words, tmp_path / "log", program=partial(program, *faults, **others))  # type: ignore[arg-type]


def line_of_rank_0(finished: Sequence[Finished]) -> str:
    """Return the only line on standard error, which rank 0 has printed."""
    main, other = finished
    assert other.err == ""
    assert main.err.count("\n") == 1, main.err
    return main.err


def step_of(run: Path) -> int:
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["train_state"]
    step: int = state["step"]
    return step


# --- before the run -----------------------------------------------------------------------------------------------

BEFORE = {
    "a read error": (read_error, 1, "error: rank 1: /data/rows.npy: Input/output error; nothing was trained yet; "),
    "no memory": (no_memory, 1, "error: rank 1: not enough memory (cannot allocate 12 GB); lower batch_size or "),
    "an interrupt": (interrupt, 130, "error: rank 1: interrupted; nothing was trained yet; "),
    "a user error": (user_error, 2, "error: rank 1: data.path=x: found y; expected z; mend it\n"),
}


@pytest.mark.parametrize(
    "what", [what if what == "a read error" else pytest.param(what, marks=pytest.mark.slow) for what in BEFORE]
)
def test_a_failure_of_rank_1_before_the_run_is_one_line_of_rank_0(what: str, tmp_path: Path) -> None:
    action, code, line = BEFORE[what]
    run, finished = failed(tmp_path, Fault(1, *LOADING, 1, action))
    assert [rank.code for rank in finished] == [code, code], finished
    assert line_of_rank_0(finished).startswith(line)
    assert not run.exists()


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_bug_before_the_run_prints_its_traceback_and_a_line_with_the_rank(rank: int, tmp_path: Path) -> None:
    action = (bug, missing_package)[rank]
    run, finished = failed(tmp_path, Fault(rank, *LOADING, 1, action))
    assert [one.code for one in finished] == [1, 1], finished
    expected = ("ZeroDivisionError: a bug", "ImportError: No module named 'mine'")[rank]
    assert finished[rank].err.startswith("Traceback (most recent call last):\n")
    line = finished[0].err.splitlines()[-1]
    assert line == f"error: rank {rank}: {expected}; nothing was trained yet; start all processes again"
    assert finished[1].err.count("error: rank") == 0
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_computation_of_one_rank_ends_when_the_other_one_fails(rank: int, tmp_path: Path) -> None:
    start_s = time.monotonic()
    where = ("dkm.train", "_parse_for_several", 1)
    _, finished = failed(tmp_path, Fault(rank, *where, read_error), Fault(1 - rank, *where, loop))
    assert time.monotonic() - start_s < 40
    assert [one.code for one in finished] == [1, 1], finished
    assert finished[0].err.count("error: ") == 1


# --- in the run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks without a fault."""
    run, finished = failed(tmp_path_factory.mktemp("undisturbed"), warning="a file is odd")
    assert [rank.code for rank in finished] == [0, 0], finished
    # Rank 0 has no log yet when it warns.
    assert finished[0].err == "what all ranks see\nwarning: rank 1: a file is odd\n"
    assert finished[1].err == ""
    return run


def test_a_warning_of_rank_1_alone_reaches_the_terminal_and_the_manifest(undisturbed: Path) -> None:
    log = (undisturbed / "train.log").read_text()
    assert log.count("WARNING rank 1: a file is odd\n") == 1
    assert "rank 1: what all ranks see" not in log
    assert '"rank 1: a file is odd"' in (undisturbed / "manifest.json").read_text()


IN_RUN = {
    "a read error": (Fault(1, "dkm.data.batches", "batch_indices", 2, read_error), 1, 3, "Input/output error"),
    "a bug": (Fault(1, *OPTIMIZER, 5, bug), 1, 5, "ZeroDivisionError: a bug; its traceback is in {run}/train.log"),
    "no memory": (Fault(1, *OPTIMIZER, 5, no_memory), 1, 5, "not enough memory (cannot allocate 12 GB)"),
    "a user error": (Fault(1, *OPTIMIZER, 5, user_error), 2, 5, "data.path=x: found y; expected z; mend it"),
}


@pytest.mark.parametrize(
    "what",
    [what if what in ("a read error", "a bug") else pytest.param(what, marks=pytest.mark.slow) for what in IN_RUN],
)
@pytest.mark.thorough
def test_rank_0_writes_a_checkpoint_when_rank_1_fails(what: str, undisturbed: Path, tmp_path: Path) -> None:
    fault, code, step, text = IN_RUN[what]
    run, finished = failed(tmp_path, fault)
    assert [rank.code for rank in finished] == [code, code], finished
    line = line_of_rank_0(finished)
    assert re.match(rf"error: rank 1: .*{re.escape(text.format(run=run))}.*; a checkpoint was written; ", line), line
    assert line.endswith(f"continue with resume={run}, with any number of processes\n")
    assert step_of(run) == step
    assert '"failed"' in (run / "manifest.json").read_text()
    log = (run / "train.log").read_text()
    assert ("ZeroDivisionError: a bug\nwith details\n" in log) == (what == "a bug")
    if what == "a bug":
        resumed = train_ranks([f"resume={run}"], tmp_path / "log")
        assert [rank.code for rank in resumed] == [0, 0], resumed
        for name in RESULTS:
            assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.parametrize("action", [pytest.param(bug, marks=pytest.mark.slow), read_error])
def test_rank_1_ends_when_rank_0_fails_while_it_scores(action: Action, tmp_path: Path) -> None:
    run, finished = failed(tmp_path, Fault(0, *SCORING, 1, action))
    assert [rank.code for rank in finished] == [1, 1], finished
    line = line_of_rank_0(finished)
    if action is bug:
        assert line.startswith(f"error: rank 0: ZeroDivisionError: a bug; its traceback is in {run}/train.log; ")
        assert line.endswith(f"is kept; continue with resume={run}, with any number of processes\n")
        assert "ZeroDivisionError: a bug\nwith details\n" in (run / "train.log").read_text()
    else:
        expected = "error: rank 0: /data/rows.npy: Input/output error; what was written before is kept\n"
        assert line == expected


@pytest.mark.slow
def test_a_computation_of_rank_0_in_the_run_is_interrupted_when_rank_1_fails(tmp_path: Path) -> None:
    faults = [
        Fault(0, "dkm.clustering.initialization", "run_restarts", 1, loop),
        Fault(1, "dkm.training.starting:Starter", "start", 1, read_error),
    ]
    start_s = time.monotonic()
    run, finished = failed(tmp_path, *faults)
    assert time.monotonic() - start_s < 40
    assert [rank.code for rank in finished] == [1, 1], finished
    assert "rank 1: /data/rows.npy: Input/output error; a checkpoint was written; " in line_of_rank_0(finished)
    assert step_of(run) == 9


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_ends_the_job_after_the_timeout(rank: int, tmp_path: Path) -> None:
    start_s = time.monotonic()
    fault = Fault(rank, *OPTIMIZER, 5, stop)
    run, finished = failed(tmp_path, fault, more=["distributed.timeout_s=3"], ended_after_s=4)
    assert time.monotonic() - start_s < 50
    assert finished[rank].code == -signal.SIGKILL
    other = finished[1 - rank]
    assert other.code == 1
    kept = ("the last checkpoint is kept", "a checkpoint was written")[rank]
    silence = f"error: rank {rank} has not answered for 3 s (distributed.timeout_s); {kept}; continue with resume={run}"
    assert other.err == f"{silence}, with any number of processes\n"
    assert step_of(run) == (0, 5)[rank]


@pytest.mark.slow
def test_work_of_rank_0_may_take_longer_than_the_timeout(tmp_path: Path) -> None:
    faults = [Fault(0, "dkm.clustering.initialization", "run_restarts", 1, partial(time.sleep, 8))]
    _, finished = failed(tmp_path, *faults, more=["distributed.timeout_s=2"], ended_after_s=4)
    assert [rank.code for rank in finished] == [0, 0], finished


@pytest.mark.slow
def test_the_job_ends_if_a_rank_does_not_start(tmp_path: Path) -> None:
    program = partial(train_without_others, 1.0)
    finished = train_ranks(SMALL, tmp_path / "log", program=program)
    assert [rank.code for rank in finished] == [1, 0]
    assert re.fullmatch(
        r"error: rank 0: the 2 processes did not all start and connect within \d+ s \(.*1/2 clients joined.*\); "
        r"start all of them again\n",
        finished[0].err,
    ), finished[0].err


def train_without_others(start_s: float) -> None:
    """The program of rank 0; rank 1 ends at once."""
    distributed._START_S = start_s
    peers._ENDED_AFTER_S = 2
    if distributed.rank() == 0:
        from dkm.train import main

        main()


def test_one_process_needs_no_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "listen", lambda **_: pytest.fail("nobody else is there"))
    distributed.meet()
    distributed.begin_ending()
    distributed.prepare_for_failure("train.log", "continue")
    distributed.limit_waits(1)
    assert distributed.failure() is None
    assert distributed.current_group() is None
    assert distributed.traceback_of(ZeroDivisionError("a bug")) == ""
    with distributed.process_group(with_cuda=False):
        pass


class OnePeer:
    """The peers of a rank that knows of a failure, and what it tells them."""

    def __init__(self, failure: RankFailure | None) -> None:
        self.failure = failure
        self.log = "runs/a/train.log"
        self.remedy = "go on"
        self.must_tell = False
        self.told: list[RankFailure] = []

    def fail(self, failure: RankFailure) -> bool:
        self.told.append(failure)
        return True

    def line(self, failure: RankFailure) -> str:
        return failure.text


LOST = RankFailure(1, "rank 1: no space left")
INTERRUPTED = RankFailure(1, "rank 1: interrupted", 130)
# What ends a rank, on which, what it knows by then; what is raised instead, and what the others are told.
ENDINGS: dict[str, tuple[BaseException, int, RankFailure | None, str, list[str]]] = {
    "of its own": (ValueError("a\nb"), 1, None, "Told: exit code 1", ["rank 1: ValueError: a"]),
    "of rank 0": (ValueError("a"), 0, None, "Failure: rank 0: ValueError: a; go on", ["rank 0: ValueError: a"]),
    "named already": (Failure("rank 1: full"), 1, None, "Told: exit code 1", ["rank 1: full"]),
    "a user error": (UserError("k=v: bad"), 1, None, "Told: exit code 2", ["rank 1: k=v: bad"]),
    "a user error of rank 0": (UserError("k=v: bad"), 0, None, "", ["rank 0: k=v: bad"]),
    "an interrupt": (KeyboardInterrupt(), 1, None, "Told: exit code 130", ["rank 1: interrupted"]),
    "an interrupt of all": (KeyboardInterrupt(), 0, INTERRUPTED, "", []),
    "interrupted by its thread": (KeyboardInterrupt(), 0, LOST, "RankLost: rank 1: no space left", []),
    "caused by another": (RuntimeError("NCCL error"), 0, LOST, "RankLost: rank 1: no space left", []),
    "agreed": (distributed.ToldElsewhere("k=v: bad"), 1, None, "", []),
    "lost": (distributed.RankLost(LOST), 1, LOST, "", []),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_what_a_rank_tells_and_raises_at_its_end(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, rank, known, raised, told = ENDINGS[how]
    peer = OnePeer(known)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(distributed, "_peers", peer)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    end = ""
    try:
        distributed._tell(error)
    except Exception as instead:
        end = f"{type(instead).__name__}: {instead}"
        assert instead.__cause__ is error
    assert end == raised
    assert [failure.text for failure in peer.told] == told


def test_the_cause_is_one_line() -> None:
    assert distributed.cause(OSError(28, "No space left on device", "/x")) == "/x: No space left on device"
    assert distributed.cause(OSError("broken")) == "broken"
    assert distributed.cause(KeyError("a")) == "KeyError: 'a'"
    assert distributed.cause(AssertionError()) == "AssertionError"
    assert distributed.cause(ValueError("one\ntwo")) == "ValueError: one"
    assert distributed.cause(UserError("k=v: expected w")) == "k=v: expected w"
