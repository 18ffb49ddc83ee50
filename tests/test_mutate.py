"""``scripts/mutate.py``: which changes it makes, and what it says of tests that notice them and tests that do not."""

from __future__ import annotations

import importlib
import json
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # half of the time of a mutant
    return importlib.import_module("mutate")


CHANGES = {
    "x < y": ["x < y -> x <= y"],
    "x == y != z": ["x == y != z -> x != y != z", "x == y != z -> x == y == z"],
    "x is None": ["x is None -> x is not None"],
    "x - y": ["x - y -> x + y"],
    "x * y": ["x * y -> x / y"],
    "x += y": ["x += y -> x -= y"],
    "x and y": ["x and y -> x or y"],
    "not x": ["not x -> x"],
    "-x": ["-x -> x"],
    "x = True": ["True -> False"],
    "x = 0.5": ["0.5 -> 1.5"],
    "f(x)": ["f(x) -> pass"],
    "def f(): return x": ["return x -> return None"],
    # Nothing that runs, or that says something to a person:
    "def f() -> 'x < y': return": [],
    "x: 3": [],
    "raise ValueError(x + y)": [],
    "x = f'{x + y}'": [],
    "log.info(x)": [],
    "import x": [],
}


@pytest.mark.parametrize("source", CHANGES)
def test_each_operator_has_its_changes(source: str, mutate: Any) -> None:
    found = list(mutate.mutants(source))
    assert [mutant.change for mutant in found] == CHANGES[source]
    assert len({mutant.source for mutant in found}) == len(found)


def test_a_mutant_differs_in_one_place(mutate: Any) -> None:
    found = list(mutate.mutants("def f(x, n=1):\n    if x > 0:\n        return x - 1\n    return [n + 1, n + 1]\n"))
    assert [mutant.line for mutant in found] == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4]
    assert found[1].source == "def f(x, n=1):\n    if x >= 0:\n        return x - 1\n    return [n + 1, n + 1]\n"
    assert [mutant.source.splitlines()[-1] for mutant in found[-4:]] == [
        *(
            "    return [n - 1, n + 1]",
            "    return [n + 2, n + 1]",
            "    return [n + 1, n - 1]",
            "    return [n + 1, n + 2]",
        )
    ]


def test_the_tests_of_a_module_are_those_of_the_longest_name(mutate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutate, "TESTS", {"a": ["test_a"], "a/b": ["test_b", "test_c"]})
    assert mutate.tests_of("a/x") == ["tests/test_a.py"]
    assert mutate.tests_of("a/b") == mutate.tests_of("a/b/c") == ["tests/test_b.py", "tests/test_c.py"]
    assert mutate.tests_of("a/bc") == ["tests/test_a.py"]
    assert mutate.tests_of("b") == []


def test_the_modules_and_rooms_that_have_tests_exist(mutate: Any) -> None:
    assert [name for name in mutate.TESTS if not any((ROOT / "dkm").glob(f"{name}*"))] == []


def test_the_tests_that_are_named_exist(mutate: Any) -> None:
    missing = [test for tests in mutate.TESTS.values() for test in tests if not (ROOT / f"tests/{test}.py").is_file()]
    assert missing == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with two modules: of one the tests look at the border, of the other at nothing."""
    root = tmp_path / "checkout"
    files = {
        "dkm/__init__.py": "",
        "dkm/room/__init__.py": "",
        "dkm/room/tested.py": "def is_adult(age):\n    return age >= 18\n",
        "dkm/room/untested.py": "def double(x):\n    return x * 2\n",
        "dkm/room/endless.py": "def count():\n    n = 0\n    while n < 1:\n        n += 1\n    return n\n",
        "tests/test_tested.py": """\
            from dkm.room.tested import is_adult

            def test_the_border():
                assert [is_adult(age) for age in (17, 18, 19)] == [False, True, True]
            """,
        "tests/test_untested.py": "from dkm.room import untested\n\ndef test_nothing():\n    assert untested\n",
        "tests/test_endless.py": "from dkm.room.endless import count\n\ndef test_count():\n    assert count() == 1\n",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(content), encoding="utf-8")
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


@pytest.mark.thorough
def test_killed_and_survived_mutants_are_counted_and_not_tested_twice(
    mutate: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutate, "TESTS", {"room/tested": ["test_tested"], "room/untested": ["test_untested"]})
    results = checkout / "results.jsonl"
    words = ["room/tested", "room/untested", "--results", str(results)]
    mutate.main(words, checkout)
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert sorted((line["module"], line["line"], line["change"], line["status"]) for line in lines) == [
        ("room/tested", 2, "18 -> 19", "killed"),
        ("room/tested", 2, "age >= 18 -> age > 18", "killed"),
        ("room/tested", 2, "return age >= 18 -> return None", "killed"),
        ("room/untested", 2, "2 -> 3", "survived"),
        ("room/untested", 2, "return x * 2 -> return None", "survived"),
        ("room/untested", 2, "x * 2 -> x / 2", "survived"),
    ]
    printed = capsys.readouterr().out
    assert "3 of 6 mutants were noticed (50%)" in printed
    assert "dkm/room/untested.py:2: x * 2 -> x / 2" in printed
    assert (checkout / "dkm/room/tested.py").read_text() == "def is_adult(age):\n    return age >= 18\n"

    def not_again(*arguments: Any) -> None:
        raise AssertionError("tested twice")

    monkeypatch.setattr(mutate, "run_tests", not_again)
    mutate.main(words, checkout)
    assert len(results.read_text(encoding="utf-8").splitlines()) == 6
    assert "3 of 6 mutants were noticed (50%)" in capsys.readouterr().out


def test_an_endless_mutant_is_a_timeout(mutate: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = checkout / "dkm/room/endless.py"
    module.write_text(module.read_text().replace("n += 1", "n -= 1"))
    outcome = mutate.run_tests(checkout, ["tests/test_endless.py"], 1.0)
    assert outcome.status == "timeout"
    assert outcome.seconds >= 1


def test_a_module_whose_tests_fail_anyway_is_left_out(
    mutate: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutate, "TESTS", {"room/tested": ["test_tested"]})
    module = checkout / "dkm/room/tested.py"
    module.write_text(module.read_text().replace("18", "21"))
    mutate.main(["room/tested", "--results", str(checkout / "r.jsonl")], checkout)
    assert (checkout / "r.jsonl").read_text() == ""
    assert "room/tested: tests/test_tested.py fail without any change; left out" in capsys.readouterr().err


def test_a_module_without_tests_is_refused(mutate: Any, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        mutate.main(["room/tested"], checkout)
    assert "room/tested: expected a module of dkm/ whose tests are in TESTS" in capsys.readouterr().err
