"""Broken input of every kind is read or refused in one line; the examples are those of ``scripts/fuzz.py``.

Here thirty of each, and a hundred with ``-m slow``, the same every time; the script runs as many as one has patience
for.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dkm.errors import Failure, UserError, printable

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import fuzz

# A composition by Hydra takes a tenth of a second.
PART_OF = {"config": 0.3}


@pytest.mark.parametrize("n_examples", [30, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in fuzz.targets() if name != "train"])
@pytest.mark.thorough
def test_broken_input_is_read_or_refused_in_one_line(
    name: str, n_examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "LONGEST_S", 60)  # the first example imports, and other tests run beside this one
    target = fuzz.targets()[name]

    @settings(
        max_examples=round(n_examples * PART_OF.get(name, 1)), deadline=None, database=None, derandomize=True,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.examples)
    def check(example: Any) -> None:
        fuzz.check(target, example)

    check()


CORPUS = Path(__file__).parent / "fixtures" / "corpus"


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_inputs_that_reach_all_code_that_fuzzing_has_reached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ``scripts/fuzz_coverage.py`` has kept."""
    monkeypatch.setattr(fuzz, "LONGEST_S", 60)
    for path in sorted((CORPUS / name).iterdir()):
        fuzz.check(fuzz.targets()[name], path.read_bytes())


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000


def raising(error: Exception) -> fuzz.Target:
    def read(example: Any, folder: Path) -> None:
        raise error

    return fuzz.Target(st.just(0), read)


def wait_forever(example: Any, folder: Path) -> None:
    while True:
        pass


def test_the_check_tells_a_fault_from_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (UserError("a: b; expected c; d"), Failure("not enough memory")):
        assert fuzz.check(raising(error), 0) == ("refused" if isinstance(error, UserError) else "failed")
    assert fuzz.check(fuzz.Target(st.just(0), lambda *_: None), 0) == "read"
    for fault in (ValueError("x"), MemoryError(), KeyError("a"), RuntimeWarning("x")):
        with pytest.raises(fuzz.Fault):
            fuzz.check(raising(fault), 0)

    monkeypatch.setattr(fuzz, "LONGEST_S", 1)
    with pytest.raises(fuzz.Fault, match="more than 1 s"):
        fuzz.check(fuzz.Target(st.just(0), wait_forever), 0)


def leave_output(example: Any, folder: Path) -> None:
    (folder / "out.csv").touch()
    if example:
        raise UserError("x")


def test_the_check_notices_what_is_left_behind_and_what_is_written_elsewhere(tmp_path: Path) -> None:
    def places(example: Any) -> tuple[str, ...]:
        return ("out.csv",)

    assert fuzz.check(fuzz.Target(st.just(0), leave_output, places=places), False) == "read"
    with pytest.raises(fuzz.Fault, match=r"refused, and changed out\.csv"):
        fuzz.check(fuzz.Target(st.just(0), leave_output, places=places), True)
    with pytest.raises(fuzz.Fault, match=r"read, and changed out\.csv"):
        fuzz.check(fuzz.Target(st.just(0), leave_output), False)

    outside = tmp_path / "outside"
    outside.mkdir()
    actions: list[Callable[[Path], object]] = [
        lambda folder: (outside / "a").write_text("a"),
        lambda folder: (outside / "a").rename(outside / "b"),
        lambda folder: shutil.move(folder / "x", outside / "x"),
        lambda folder: (outside / "b").unlink(),
        lambda folder: shutil.rmtree(outside),
        lambda folder: Path("here").touch(),  # in the working directory
        lambda folder: Path("~/here").expanduser().touch(),
        lambda folder: tempfile.NamedTemporaryFile(delete=False).close(),
        lambda folder: (folder / "x").write_bytes(b"other"),  # the input
    ]
    for number, action in enumerate(actions):
        target = fuzz.Target(
            st.just(0),
            lambda example, folder, action=action: action(folder),
            lambda example, folder: (folder / "x").write_bytes(b"in"),
        )
        with pytest.raises(fuzz.Fault, match="read, and"):
            fuzz.check(target, number)


def test_the_check_notices_code_that_runs() -> None:
    actions: list[Callable[[], object]] = [
        lambda: pickle.loads(pickle.dumps(Path("a"))),
        lambda: subprocess.run(["true"], check=True),
        lambda: os.system("true"),
    ]
    for action in actions:
        with pytest.raises(fuzz.Fault, match="read, and did"):
            fuzz.check(fuzz.Target(st.just(0), lambda example, folder, action=action: action()), 0)


def test_a_command_is_checked_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def target(main: Callable[[], object]) -> fuzz.Target:
        module = SimpleNamespace(main=main)
        monkeypatch.setattr(fuzz.importlib, "import_module", lambda name: module)
        return fuzz.targets()["train"]

    def end(code: int, text: str) -> Callable[[], object]:
        def main() -> None:
            sys.stderr.write(text)
            raise SystemExit(code)

        return main

    def write(place: str) -> Callable[[], object]:
        def main() -> None:
            Path(place).touch()

        return main

    example: tuple[list[str], bytes] = (["data.root=there"], b"")
    assert fuzz.check(target(end(0, "a warning")), example) == "read"
    assert fuzz.check(target(end(2, "error: a")), example) == "refused"
    assert fuzz.check(target(end(1, "error: a")), example) == "failed"
    assert fuzz.check(target(write("run")), example) == "read"
    assert fuzz.check(target(write("there")), example) == "read"
    for main, match in {
        end(2, "a\nerror: a"): "exit code 2",
        end(3, "error: a"): "exit code 3",
        end(0, "Traceback"): "exit code 0",
        write("elsewhere"): "changed cwd/elsewhere",
        write(str(tmp_path / "outside")): "did .*/outside",
        lambda: os._exit(4): "exit code 4",
        lambda: os.kill(os.getpid(), 9): "exit code -9",
    }.items():
        with pytest.raises(fuzz.Fault, match=match):
            fuzz.check(target(main), example)


def test_the_script_counts_prints_each_kind_of_fault_once_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = {
        "a": fuzz.Target(st.integers(), lambda n, _: json.loads("{" if n > 0 else "1")),
        "b": fuzz.Target(st.just(0), lambda *_: os.kill(os.getpid(), 9)),
    }
    monkeypatch.setattr(fuzz, "targets", lambda: targets)
    monkeypatch.setattr(fuzz.logging, "disable", lambda level: None)
    monkeypatch.setattr(fuzz, "import_everything", lambda: None)
    monkeypatch.setattr(fuzz, "CHUNK", 20)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    results = ["--results", str(tmp_path / "results.json")]
    assert fuzz.main(["50", "a", *results]) == 1
    out = capsys.readouterr().out
    assert "a: 50 examples in " in out
    assert "1 kinds of faults" in out
    assert out.count("JSONDecodeError") == 2  # the kind and the message
    figures = json.loads((tmp_path / "results.json").read_text())["targets"]["a"]
    assert figures["chunks"] == 3
    assert figures["read"] + figures["n_faults"] == figures["examples"] == 50
    assert fuzz.main(["70", "a", *results]) == 1
    assert json.loads((tmp_path / "results.json").read_text())["targets"]["a"]["chunks"] == 4
    assert fuzz.main(["1", "b"]) == 1
    assert "the process ended with -9" in capsys.readouterr().out


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    assert str(UserError("a\x1b[2Jb\x00 c\nd é 😀")) == "a\\x1b[2Jb\\x00 c d é 😀"
    assert str(Failure("a\rb")) == "a b"
    assert printable("plain") == "plain"
