"""``dkm.search.pool``: which processes it starts, how many at a time, and how they end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dkm.config.compose import compose, parse
from dkm.errors import UserError
from dkm.runtime.locks import is_locked
from dkm.search import pool
from dkm.search.pool import ChildPool, ChildRun, train_in_child
from dkm.training.launch import require_new


@dataclass(eq=False, kw_only=True)
class Program(ChildRun):
    """Stands for a run: a line of Python."""

    code: str = ""

    def command(self) -> list[str]:
        return [sys.executable, "-c", f"import os, signal, sys; {self.code}"]


def program(folder: Path, code: str, name: str = "run") -> Program:
    return Program([], folder / name, folder / f"{name}.log", code=code)


def await_start(run: Program) -> None:
    """Wait for the program to say that it runs."""
    assert run.log is not None
    while not run.log.read_bytes():
        assert run.process.poll() is None


@pytest.fixture(autouse=True)
def polled_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POLL_S", 0.0)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_run_is_a_command_of_dkm_train(tmp_path: Path) -> None:
    command = ChildRun(["seed=3"], tmp_path / "a, b").command()
    assert command[:3] == [sys.executable, "-m", "dkm.train"]
    assert compose(parse(command[3:])).hydra.run.dir == str(tmp_path / "a, b")


def test_a_run_that_has_begun_is_resumed(tmp_path: Path) -> None:
    assert "resume=auto" not in ChildRun([], tmp_path).command()
    (tmp_path / "config.yaml").touch()
    assert ChildRun([], tmp_path).command()[-1] == "resume=auto"


def test_several_processes_are_started_by_torchrun(tmp_path: Path) -> None:
    command = ChildRun(["seed=3"], tmp_path, n_processes=2).command()
    assert command[1:5] == ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m"]
    assert command[5:7] == ["dkm.train", "seed=3"]


def test_what_a_run_leaves_that_was_killed_as_it_began_is_no_run(tmp_path: Path) -> None:
    """Refused before, so that a search could not go on with it."""
    (tmp_path / "train.log").touch()
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "config.yaml.tmp").touch()
    require_new(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=f"output={tmp_path}: expected a new or an empty directory"):
        require_new(tmp_path)


# --- how many ---------------------------------------------------------------------------------------------------------


def test_no_more_runs_at_a_time_than_allowed(tmp_path: Path) -> None:
    n_running = []
    runs = [program(tmp_path, "", str(i)) for i in range(5)]
    with ChildPool[Program](2) as children:
        for run in children.train(runs):
            assert run.exit_code == 0
            n_running.append(len(children.running) + 1)
    assert max(n_running) == 2


def test_each_run_is_yielded_once(tmp_path: Path) -> None:
    runs = [program(tmp_path, "", str(i)) for i in range(4)]
    with ChildPool[Program](3) as children:
        ended = list(children.train(runs))
    assert sorted(run.directory for run in ended) == [run.directory for run in runs]


def test_a_poll_sees_what_a_run_wrote_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process writes right before it ends is there by the last call of ``on_poll``."""
    run = program(tmp_path, "pass")
    seen: list[bool] = []
    with ChildPool[Program]() as children:
        children.start(run)
        poll = run.process.poll

        def write_and_end() -> int | None:
            run.process.wait()
            (tmp_path / "file").write_text("last words")
            return poll()

        monkeypatch.setattr(run.process, "poll", write_and_end)
        assert list(children.ended(lambda _: seen.append((tmp_path / "file").exists()))) == [run]
    assert seen == [True]


# --- how they end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('warning: slow\\nerror: no space\\nand more', file=sys.stderr); sys.exit(1)", "no space"),
        ("print('first\\nlast', file=sys.stderr); sys.exit(1)", "last"),
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
    ],
)
def test_a_failure_is_one_line(code: str, expected: str, tmp_path: Path) -> None:
    run = train_in_child(program(tmp_path, code))
    assert run.error() == expected
    assert not run.was_interrupted


@pytest.mark.parametrize(
    "code", ["sys.exit(130)", "os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), signal.SIGTERM)"]
)
def test_an_interrupted_run_is_told_from_a_failed_one(code: str, tmp_path: Path) -> None:
    assert train_in_child(program(tmp_path, code)).was_interrupted


def test_without_a_log_a_run_writes_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = train_in_child(Program([], tmp_path, code="print('out'); print('error', file=sys.stderr); sys.exit(2)"))
    assert capfd.readouterr() == ("out\n", "error\n")
    assert run.error() == "exit code 2"


WAIT = "print('runs', file=sys.stderr, flush=True); signal.pause()"


def test_leaving_the_block_interrupts_the_runs(tmp_path: Path) -> None:
    """As on Ctrl-C, which reaches this process alone."""
    run = program(tmp_path, WAIT)
    with pytest.raises(KeyboardInterrupt), ChildPool[Program]() as children:
        children.start(run)
        await_start(run)
        raise KeyboardInterrupt
    assert run.exit_code == -signal.SIGTERM


def test_a_run_that_does_not_end_is_killed_with_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PATIENCE_S", 0.0)
    child = "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])"
    code = f"import subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN); {child}; {WAIT}"
    run = program(tmp_path, code)
    with ChildPool[Program]() as children:
        children.start(run)
        await_start(run)
    assert run.exit_code == -signal.SIGKILL
    while is_locked(tmp_path / "run.log"):  # by the process that it had started
        pass


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_run_holds_the_lock_of_its_log(tmp_path: Path) -> None:
    """So that a study which is started again knows that the run still trains."""
    run = program(tmp_path, WAIT)
    with ChildPool[Program]() as children:
        children.start(run)
        assert is_locked(tmp_path / "run.log")
    assert not is_locked(tmp_path / "run.log")


PARENT = """
import sys
from pathlib import Path
from test_pool import WAIT, program
from dkm.runtime.locks import lock_folder
from dkm.search.pool import ChildPool
folder = Path(sys.argv[1])
with lock_folder(folder, "lock") as lock, ChildPool(inherited=[lock]) as children:
    children.start(program(folder, WAIT))
    print(children.running[0].process.pid, flush=True)
    input()
"""


def test_a_run_that_outlives_its_parent_keeps_others_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    paths = {"PYTHONPATH": f"{Path(pool.__file__).parents[2]}:{Path(__file__).parent}"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=paths) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    assert is_locked(tmp_path / "lock")
    assert is_locked(tmp_path / "run.log")
    signal.pidfd_send_signal(pidfd := os.pidfd_open(child), signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)
    assert not is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "run.log")
