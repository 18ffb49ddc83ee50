"""Broken input of every kind is read or refused in one line; the examples are those of ``scripts/fuzz.py``.

Here a hundred of each, the same every time; the script runs as many as one has patience for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dkm.errors import Failure, UserError, printable

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import fuzz

# A composition by Hydra takes a tenth of a second.
N_EXAMPLES = {"config": 30}


@pytest.mark.parametrize("name", fuzz.targets())
def test_broken_input_is_read_or_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LONGEST_S", 60)  # the first example imports, and other tests run beside this one
    target = fuzz.targets()[name]

    @settings(
        max_examples=N_EXAMPLES.get(name, 100), deadline=None, database=None, derandomize=True,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.examples)
    def check(example: Any) -> None:
        fuzz.check(target, example)

    check()


def raising(error: Exception) -> fuzz.Target:
    def read(example: Any, folder: Path) -> None:
        raise error

    return fuzz.Target(st.just(0), read)


def wait_forever(example: Any, folder: Path) -> None:
    while True:
        pass


def test_the_check_tells_a_fault_from_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (UserError("a: b; expected c; d"), Failure("not enough memory")):
        assert fuzz.check(raising(error), 0) is False
    assert fuzz.check(fuzz.Target(st.just(0), lambda *_: None), 0) is True
    for fault in (ValueError("x"), MemoryError(), KeyError("a"), RuntimeWarning("x")):
        with pytest.raises(fuzz.Fault):
            fuzz.check(raising(fault), 0)

    def leave_output(example: Any, folder: Path) -> None:
        (folder / "out.csv").touch()
        raise UserError("x")

    with pytest.raises(fuzz.Fault, match="an output remains"):
        fuzz.check(fuzz.Target(st.just(0), leave_output), 0)
    monkeypatch.setattr(fuzz, "LONGEST_S", 1)
    with pytest.raises(fuzz.Fault, match="more than 1 s"):
        fuzz.check(fuzz.Target(st.just(0), wait_forever), 0)


def test_the_script_counts_and_prints_each_kind_of_fault_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing = fuzz.Target(st.integers(), lambda n, _: json.loads("{" if n > 0 else "1"))
    monkeypatch.setattr(fuzz, "targets", lambda: {"a": refusing})
    monkeypatch.setattr(fuzz.logging, "disable", lambda level: None)
    assert fuzz.main(["50"]) == 1
    out = capsys.readouterr().out
    assert "a: 50 examples in " in out
    assert "1 kinds of faults" in out
    assert out.count("JSONDecodeError") == 2  # the kind and the message


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    assert str(UserError("a\x1b[2Jb\x00 c\nd é 😀")) == "a\\x1b[2Jb\\x00 c d é 😀"
    assert str(Failure("a\rb")) == "a b"
    assert printable("plain") == "plain"
