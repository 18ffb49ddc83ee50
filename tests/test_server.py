"""``dkm.search.server``: a forked process is one that ``python -m`` would have started."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dkm.runtime.locks import is_locked, try_lock
from dkm.search import pool, server
from dkm.search.pool import ChildRun, train_in_child

pytestmark = pytest.mark.skipif(not server.IS_AVAILABLE, reason="the system has no fork server")


@pytest.fixture(scope="module")
def connection() -> socket.socket:
    """Return the connection to a server that imports nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "PRELOADED", [])
        return server._connect.__wrapped__()


@pytest.fixture
def folder(connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, whose modules the processes of that server can import."""
    monkeypatch.setattr(server, "_connect", lambda: connection)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as python -m does
    return tmp_path


def start(code: str, folder: Path, *arguments: str, inherited: tuple[int, ...] = ()) -> server.ForkedProcess:
    """Fork a process that executes the code; its output goes to the files out and err."""
    (folder / "program.py").write_text(f"import json, os, signal, sys\n{code}\n")
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return server.start("program", arguments, [out.fileno(), err.fileno(), *inherited])


def await_output(process: server.ForkedProcess, folder: Path) -> None:
    while not (folder / "out").read_bytes():
        assert process.poll() is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", 0),
        ("sys.exit()", 0),
        ("sys.exit(2)", 2),
        ("sys.exit(130)", 130),
        ("raise ValueError('no')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_the_exit_code_is_that_of_the_process(code: str, expected: int, folder: Path) -> None:
    process = start(code, folder)
    assert process.wait(60) == process.poll() == process.returncode == expected
    if code.startswith("raise"):
        assert (folder / "err").read_text().endswith("ValueError: no\n")


SEEN = """
print(json.dumps({
    "argv": sys.argv[1:], "name": __name__, "folder": os.getcwd(), "path": sys.path[0], "pid": os.getpid(),
    "session": os.getsid(0), "variable": os.environ.get("DKM_TEST"), "variables": sorted(os.environ),
    "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
}))
print("error", file=sys.stderr)
"""


def test_a_process_has_what_a_new_one_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKM_TEST", "ä, '")
    process = start(SEEN, folder, "a=1", "b='ü'")
    assert process.wait(60) == 0
    forked, errors = (folder / "out").read_text(), (folder / "err").read_text()
    command = [sys.executable, "-m", "program", "a=1", "b='ü'"]
    # Not the C environment, to which readline adds.
    environment = dict(os.environ)
    new = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, start_new_session=True)
    assert errors == new.stderr == "error\n"
    seen, expected = json.loads(forked), json.loads(new.stdout)
    assert seen["pid"] == seen["session"] == process.pid
    assert {**seen, "pid": 0, "session": 0} == {**expected, "pid": 0, "session": 0}


def test_no_module_of_the_current_folder_is_imported_unless_the_parent_has_it_on_its_path(
    tmp_path: Path, connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('imported', 'w').close()")
    with monkeypatch.context() as patch:
        patch.setattr(server, "PRELOADED", ["evil"])
        with server._connect.__wrapped__() as other:
            assert other.recv(1) == b""  # the server has ended
    assert not (tmp_path / "imported").exists()
    monkeypatch.setattr(server, "_connect", lambda: connection)
    process = start("", tmp_path)
    assert process.wait(60) == 1
    assert "No module named program" in (tmp_path / "err").read_text()
    with (tmp_path / "out").open("wb") as out:
        code = "import sys; print(sys.flags.safe_path)"
        for first in ("/other", str(tmp_path), ""):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "path", [first, *sys.path])
                new = pool._start_process([sys.executable, "-c", code], out.fileno(), out.fileno(), [])
            assert new.wait(60) == 0
    assert (tmp_path / "out").read_text().split() == ["True", "False", "False"]


def test_a_process_can_be_waited_for_and_signaled(folder: Path) -> None:
    process = start("print('runs', flush=True); signal.pause()", folder)
    await_output(process, folder)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.send_signal(signal.SIGTERM)  # no effect on a process that has ended, whose id may be another's


def test_a_process_keeps_inherited_files_open(folder: Path) -> None:
    with (folder / "lock").open("wb") as lock:
        assert try_lock(lock)
        process = start("print('runs', flush=True); signal.pause()", folder, inherited=(lock.fileno(),))
        await_output(process, folder)
    assert is_locked(folder / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not is_locked(folder / "lock")


PARENT = """
import sys
from dkm.search import server
server.PRELOADED = []
with open("lock", "wb") as lock:
    from dkm.runtime.locks import try_lock
    try_lock(lock)
    process = server.start("program", [], [1, 2, lock.fileno()])
print(process.pid, flush=True)
input()
"""


def test_a_process_outlives_its_parent_and_the_server(folder: Path) -> None:
    (folder / "program.py").write_text("import signal; print('runs', flush=True); signal.pause()")
    command = [sys.executable, "-c", PARENT]
    paths = {"PYTHONPATH": str(Path(server.__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=paths) as parent:
        assert parent.stdout is not None
        words = {parent.stdout.readline(), parent.stdout.readline()}
        (pid,) = [int(word) for word in words - {b"runs\n"}]
        parent.kill()
    assert is_locked(folder / "lock")
    signal.pidfd_send_signal(pidfd := os.pidfd_open(pid), signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)
    assert not is_locked(folder / "lock")


def test_the_end_of_the_server_is_no_end_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is started without it."""
    monkeypatch.setattr(server, "PRELOADED", [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    connection = server._connect.__wrapped__()
    monkeypatch.setattr(server, "_connect", lambda: connection)
    process = start("print('runs', flush=True); signal.pause()", tmp_path)
    await_output(process, tmp_path)
    connection.close()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    with pytest.raises(OSError):
        start("", tmp_path)
    ended = subprocess.Popen(["true"])
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: ended)
    assert pool._start_process([sys.executable, "-m", "dkm.train"], 1, 2, []) is ended
    ended.wait()


# --- runs of dkm.train ------------------------------------------------------------------------------------------------

TINY = [
    *(
        "data=blobs",
        "data.n_samples=200",
        "data.n_features=4",
        "model.hidden=[8]",
        "recipe=classic",
        "pretrain.epochs=2",
    ),
    *(
        "joint.epochs=2",
        "clustering.n_init=2",
        "log.tensorboard=false",
        "log.figures=false",
        "log.report=false",
        "log.progress=off",
    ),
]
NUMBERS = ("metrics.jsonl", "assignments.csv", "result.json", "model/weights.safetensors")


@pytest.mark.thorough
def test_a_forked_run_has_the_numbers_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forked = train_in_child(ChildRun(TINY, tmp_path / "forked", tmp_path / "log"))
    assert isinstance(forked.process, server.ForkedProcess)
    assert (forked.exit_code, (tmp_path / "log").read_text()) == (0, "")
    monkeypatch.setattr(server, "IS_AVAILABLE", False)
    new = train_in_child(ChildRun(TINY, tmp_path / "new", tmp_path / "log"))
    assert isinstance(new.process, subprocess.Popen)
    for name in NUMBERS:
        assert (tmp_path / "forked" / name).read_bytes() == (tmp_path / "new" / name).read_bytes(), name
    threads = [json.loads((tmp_path / name / "manifest.json").read_text())["threads"] for name in ("forked", "new")]
    assert threads[0] == threads[1]


def test_a_mistake_of_a_forked_run_has_exit_code_2(tmp_path: Path) -> None:
    run = train_in_child(ChildRun(["joint.epochs=-1"], tmp_path / "run", tmp_path / "log"))
    assert (run.exit_code, run.was_interrupted) == (2, False)
    assert run.error().startswith("joint.epochs=-1: expected")


def test_an_interrupted_forked_run_writes_a_checkpoint(tmp_path: Path) -> None:
    words = [*TINY, "joint.epochs=100000", "joint.tolerance=0", "evaluation.every_epochs=1"]
    run = ChildRun(words, tmp_path / "run", tmp_path / "log")
    metrics = run.directory / "metrics.jsonl"
    with pool.ChildPool[ChildRun]() as children:
        children.start(run)
        while not (metrics.exists() and b'"joint"' in metrics.read_bytes()):
            assert run.process.poll() is None
    assert (run.exit_code, run.was_interrupted) == (130, True)
    assert (run.directory / "checkpoints" / "last.pt").is_file()


def test_the_server_does_not_initialize_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked process could not use it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "import torch; print(torch.cuda.is_initialized(), torch.cuda._is_in_bad_fork())"
    process = start(code, tmp_path)
    assert process.wait(60) == 0
    assert (tmp_path / "out").read_text() == "False False\n"
