"""``dkm.runtime.locks``: who keeps whom out of a file or a folder, and for how long."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dkm.config.compose import parse
from dkm.errors import Failure, UserError
from dkm.runs import reading
from dkm.runs.directory import RunDirectory
from dkm.runtime import locks
from dkm.runtime.locks import acquire, holder_of, is_locked, lock_folder, try_lock
from dkm.search.pool import ChildPool, ChildRun
from dkm.training import launch


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
    """The output of a search's run is both its log and its lock."""
    path = tmp_path / "0.log"
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


@pytest.mark.parametrize("n_busy", [0, 4, 5])
def test_a_lock_is_tried_for_a_moment(n_busy: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    pauses: list[float] = []
    monkeypatch.setattr(locks.time, "sleep", pauses.append)
    monkeypatch.setattr(locks, "lock_descriptor", lambda *_, **__: tries.append(1) or len(tries) > n_busy)
    with (tmp_path / "lock").open("ab") as file:
        assert try_lock(file) is (n_busy < 5)
    assert len(tries) == min(n_busy + 1, 5)
    assert len(pauses) == len(tries) - 1
    assert sum(pauses) < 0.1


class NfsLocks:
    """Exclusive locks of NFS, which are locks on a range of bytes: they need a file that is open for writing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lock_descriptor = locks.lock_descriptor
        monkeypatch.setattr(locks, "lock_descriptor", self)

    def __call__(self, descriptor: int, *, blocking: bool) -> bool:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return bool(self.lock_descriptor(descriptor, blocking=blocking))


def test_a_file_on_nfs_is_probed_with_a_file_that_is_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    NfsLocks(monkeypatch)
    path = tmp_path / "lock"
    path.write_bytes(b"kept")
    with path.open("ab") as file:
        assert try_lock(file)
        assert is_locked(path)
    assert not is_locked(path)
    assert path.read_bytes() == b"kept"


def test_a_file_that_may_only_be_read_is_probed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "lock", Path.open

    def read_only(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "+" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, *arguments, **options)

    with path.open("ab") as file:
        monkeypatch.setattr(Path, "open", read_only)
        assert not is_locked(path)
        assert try_lock(file)
        assert is_locked(path)


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_descriptor", unsupported)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch)
    with (tmp_path / "lock").open("ab") as file:
        assert try_lock(file)
    assert not is_locked(tmp_path / "lock")


def test_a_file_system_without_locks_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_locks(monkeypatch)
    with lock_folder(tmp_path, "lock"), lock_folder(tmp_path, "lock"):  # nobody is kept out
        pass
    what = "the file system has no locks (No locks available); make sure that no other process uses it"
    assert capsys.readouterr().err == f"warning: {tmp_path}: {what}\n" * 2


# --- lock files ---------------------------------------------------------------------------------------------------


def test_a_lock_file_tells_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("of an earlier process, and longer than what this one writes: " + "x" * 500)
    lock = acquire(path)
    assert lock is not None
    holder = json.loads(path.read_text())
    assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
    age_s = (datetime.now(UTC) - datetime.fromisoformat(holder["started"])).total_seconds()
    assert -1 < age_s < 100
    assert holder_of(path) == f"process {os.getpid()} on {socket.gethostname()} since {holder['started']}"
    lock.release()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"3", b'{"pid": 3}', b"[" * 100_000])
def test_a_lock_file_that_tells_nothing_is_of_another_process(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder_of(path) == "another process"
    path.write_bytes(content)
    assert holder_of(path) == "another process"


def test_whatever_a_lock_file_says_is_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": [1], "host": "a\nb" + "c" * 999, "started": None}))
    assert holder_of(path) == f"process [1] on a b{'c' * 61} since None"


def test_only_one_process_has_a_lock_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = acquire(path)
    assert lock is not None
    assert lock.problem is None
    assert is_locked(path)
    before = path.read_bytes()
    assert acquire(path) is None
    assert path.read_bytes() == before
    lock.release()
    assert not path.exists()
    again = acquire(path)
    assert again is not None
    again.release()


def test_the_file_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = acquire(path)
    assert first is not None
    first.file.close()  # as the end of a process does
    assert path.exists()
    second = acquire(path)
    assert second is not None
    second.release()
    assert not path.exists()


def test_a_lock_file_that_was_removed_since_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two processes would have locked two files of the same name."""
    path = tmp_path / "lock"
    first = acquire(path)
    assert first is not None
    lock_descriptor, tried = locks.lock_descriptor, []

    def after_release(descriptor: int, *, blocking: bool) -> bool:
        if not tried:
            first.release()
        tried.append(descriptor)
        return lock_descriptor(descriptor, blocking=blocking)

    monkeypatch.setattr(locks, "lock_descriptor", after_release)
    second = acquire(path)
    assert len(tried) == 2
    assert second is not None
    assert is_locked(path)
    assert acquire(path) is None
    second.release()


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        acquire(tmp_path / "nowhere" / "lock")


# --- run directories ----------------------------------------------------------------------------------------------


def run_in(path: Path) -> RunDirectory:
    return RunDirectory(path, progress="off")


def test_a_run_is_in_use_from_its_lock_to_its_end(tmp_path: Path) -> None:
    run, other = run_in(tmp_path), run_in(tmp_path)
    assert not reading.is_in_use(tmp_path)
    assert run.lock()
    assert reading.is_in_use(tmp_path)
    assert not other.lock()
    other.close()
    assert reading.is_in_use(tmp_path)
    run.close()
    assert not reading.is_in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_locks_is_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_locks(monkeypatch)
    run = run_in(tmp_path)
    assert run.lock()
    run.open_log()
    run.close()
    what = "the file system has no locks (No locks available); make sure that no other process uses it"
    assert capsys.readouterr().err == f"warning: {tmp_path}: {what}\n"
    assert run.warnings == [f"{tmp_path}: {what}"]


WORDS = [
    *("data=blobs", "data.n_samples=60", "model.hidden=[4]", "pretrain.epochs=1", "joint.epochs=1", "recipe=classic"),
    *("log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off", "device=cpu"),
    "clustering.n_init=1",
]


def plan_in(path: Path, *words: str) -> launch.Plan:
    return launch.plan_run(parse([*WORDS, *words, f"hydra.run.dir={path}"]))


def files_in(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("words", [[], ["resume=auto"]])
def test_a_new_run_does_not_resume_another_that_was_made_meanwhile(words: list[str], tmp_path: Path) -> None:
    """Its data may take minutes to load, and the directory was empty before."""
    path = tmp_path / "run"
    late = plan_in(path, "seed=1", *words)
    launch.execute(plan_in(path))
    before = files_in(path)
    expected = f"output={path}: expected a new or an empty directory; choose another, or continue"
    with pytest.raises(UserError, match=expected):
        launch.execute(late)
    assert files_in(path) == before


def test_a_run_that_another_process_trains_is_refused_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    plan = plan_in(path)
    path.mkdir()
    lock = acquire(path / reading.LOCK)
    assert lock is not None
    expected = rf"output={path}: expected a run that has ended, a process is training in it "
    with pytest.raises(UserError, match=rf"{expected}\(process {os.getpid()} on .* since .*\); wait until it ends, or"):
        launch.execute(plan)
    with pytest.raises(UserError, match=rf"^resume={path}: expected a run that has ended"):
        launch.execute(plan._replace(is_new=False, composed=None))
    assert [file.name for file in path.iterdir()] == [reading.LOCK]
    lock.release()


def test_what_a_killed_run_left_before_its_config_does_not_count(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    for name in (reading.LOCK, reading.LOG, "config.yaml.tmp", "manifest.json.tmp"):
        (tmp_path / name).touch()
    launch.require_new(tmp_path)
    (tmp_path / "mine.lock").touch()
    with pytest.raises(UserError, match="expected a new or an empty directory"):
        launch.require_new(tmp_path)


# --- folders ------------------------------------------------------------------------------------------------------


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
        expected = (
            rf"output={tmp_path}: in use by process {parent.pid} on .* since .*, or by a run that it has started; "
        )
        with pytest.raises(UserError, match=expected), lock_folder(tmp_path, "lock"):
            pass
        parent.stdin.close()
        parent.stdout.read()  # ends with the child, which has it open too
        with lock_folder(tmp_path, "lock"):
            assert is_locked(tmp_path / "lock")


def test_the_folders_above_are_made_too(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "one" / "two", "lock"):
        assert is_locked(tmp_path / "one" / "two" / "lock")
    with lock_folder(tmp_path / "one" / "two", "lock"):
        pass


def test_a_folder_that_cannot_be_made_is_a_mistake_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    expected = r"output=.*file: File exists; expected a place to write; choose another"
    with pytest.raises(UserError, match=expected), lock_folder(tmp_path / "file", "lock"):
        pass


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lock", "logs", "logs/k3-seed0.log", "k3/seed0/new"])
def test_a_folder_with_a_link_that_leads_out_of_it_is_not_locked(name: str, tmp_path: Path) -> None:
    target, folder = tmp_path / "mine", tmp_path / "search"
    target.write_text("ssh-rsa AAAA\n")
    link = folder / name
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(UserError) as refused, lock_folder(folder, "lock"):
        pass
    expected = "expected a folder without links that lead out of it, as it is written to"
    found = f"output={folder}: {link} is a link to {target}"
    assert str(refused.value) == f"{found}; {expected}; remove the link: rm {link}"
    assert target.read_text() == "ssh-rsa AAAA\n"
    assert (folder / "lock").exists() == (name == "lock")


def test_a_lock_is_not_written_through_a_link_within_its_folder(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "lock").symlink_to("result.json")
    expected = f"output={tmp_path}: lock is a link; expected a place to write; choose another"
    with pytest.raises(UserError, match=expected), lock_folder(tmp_path, "lock"):
        pass
    assert (tmp_path / "result.json").read_text() == "{}"


def test_the_log_of_a_search_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "0.log").symlink_to("result.json")
    with ChildPool[ChildRun]() as pool, pytest.raises(Failure, match=r"0\.log is a link"):
        pool.start(ChildRun([], tmp_path / "0", tmp_path / "0.log"))
    assert (tmp_path / "result.json").read_text() == "{}"


def test_the_folder_of_a_search_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "search").symlink_to("disk")
    (tmp_path / "disk" / "latest").symlink_to("lock")
    with lock_folder(tmp_path / "search", "lock"):
        assert is_locked(tmp_path / "disk" / "lock")
