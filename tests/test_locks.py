"""``dkm.runtime.locks``: who keeps whom out of a file or a folder, and for how long."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dkm.errors import UserError
from dkm.runs import reading
from dkm.runtime import locks
from dkm.runtime.locks import is_locked, lock_folder, try_lock


def test_a_lock_lasts_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("ab") as first, path.open("ab") as second:
        assert try_lock(first)
        assert not try_lock(second)
        assert is_locked(path)
    assert not is_locked(path)


def test_a_file_that_does_not_exist_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_locking_changes_nothing_in_the_file(tmp_path: Path) -> None:
    """``train.log`` is both the log and the lock of a run."""
    path = tmp_path / "train.log"
    path.write_text("what an earlier process logged\n")
    with path.open("a") as log:
        assert try_lock(log)
        assert is_locked(path)
    assert path.read_text() == "what an earlier process logged\n"


def test_a_probe_does_not_keep_a_process_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``is_locked`` holds the lock for a moment; ``try_lock`` tries again after it."""
    path = tmp_path / "lock"
    path.touch()
    probe = path.open("rb")
    assert try_lock(probe)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: probe.close())
    with path.open("ab") as file:
        assert try_lock(file)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_descriptor", unsupported)
    with (tmp_path / "lock").open("ab") as file:
        assert try_lock(file)
    assert not is_locked(tmp_path / "lock")


def test_a_run_that_an_older_version_trains_in_is_in_use(tmp_path: Path) -> None:
    """It locked train.log with flock itself."""
    with (tmp_path / reading.LOG).open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert reading.is_in_use(tmp_path)
    assert not reading.is_in_use(tmp_path)


def test_an_older_version_sees_a_run_that_this_one_trains_in(tmp_path: Path) -> None:
    with (tmp_path / reading.LOG).open("ab") as log, (tmp_path / reading.LOG).open("rb") as other:
        assert try_lock(log)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


PARENT = """
import subprocess, sys
from pathlib import Path
from dkm.runtime.locks import lock_folder
with lock_folder(Path(sys.argv[1]), "lock") as lock:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=0, pass_fds=[lock.fileno()])
    print(child.pid, flush=True)
    child.wait()
"""


def test_a_folder_stays_locked_while_a_child_outlives_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()  # the child runs
        os.kill(parent.pid, signal.SIGKILL)
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        expected = f"output={tmp_path}: expected a folder that no other process uses; wait until"
        with pytest.raises(UserError, match=expected), lock_folder(tmp_path, "lock"):
            pass
        parent.stdin.close()
        parent.stdout.read()  # ends with the child, which has it open too
        with lock_folder(tmp_path, "lock"):
            assert is_locked(tmp_path / "lock")


def test_a_folder_that_cannot_be_made_is_a_mistake_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    expected = r"output=.*file: File exists; expected a place to write; choose another"
    with pytest.raises(UserError, match=expected), lock_folder(tmp_path / "file", "lock"):
        pass
