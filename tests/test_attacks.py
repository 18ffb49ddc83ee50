"""The scripts that attack runs: what they draw, how they judge, what their model of a disk loses, and their page."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they need Linux")


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module(name)


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("attacks", monkeypatch)


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("chaos", monkeypatch)


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("power_cut", monkeypatch)


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("soak", monkeypatch)


@pytest.fixture
def reliability(monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("reliability", monkeypatch)


# --- verdicts -----------------------------------------------------------------------------------------------------

SAME = {"metrics.jsonl": b"1", "result.json": b"2"}
WARNING = "warning: RUN/metrics.jsonl was altered\n"
REFUSAL = "error: RUN/config.yaml: damaged; restore it\n"


@pytest.mark.parametrize(
    ("code", "err", "found", "damaged", "outcome"),
    [
        (0, "", SAME, None, "equal"),
        (0, WARNING, SAME, "metrics.jsonl", "equal"),
        (0, "", SAME | {"result.json": b"3"}, None, "failed"),
        (0, "", {"metrics.jsonl": b"1"}, None, "failed"),
        (0, "", SAME | {"more": b""}, None, "failed"),
        (0, WARNING, SAME | {"metrics.jsonl": b""}, "metrics.jsonl", "told"),
        (0, "", SAME | {"metrics.jsonl": b""}, "metrics.jsonl", "failed"),  # without a word
        (0, WARNING, SAME | {"metrics.jsonl": b"", "result.json": b""}, "metrics.jsonl", "failed"),
        (0, WARNING, SAME | {"metrics.jsonl": b""}, None, "failed"),  # nothing was damaged
        (2, REFUSAL, {}, "config.yaml", "refused"),
        (2, REFUSAL, {}, "manifest.json", "failed"),  # names another file
        (2, REFUSAL, {}, None, "failed"),
        (2, REFUSAL * 2, {}, "config.yaml", "failed"),
        (1, REFUSAL, {}, "config.yaml", "failed"),
        (2, "Traceback (most recent call last):\n" + REFUSAL, {}, "config.yaml", "failed"),
        (None, "", SAME, None, "failed"),
        (-9, "", SAME, None, "failed"),
    ],
)
def test_a_verdict_follows_from_bytes_messages_and_exit_code(
    code: int | None, err: str, found: dict[str, bytes], damaged: str | None, outcome: str, attacks: Any
) -> None:
    assert attacks.judge(attacks.Ended(code, err), found, SAME, damaged).outcome == outcome


def test_results_are_compared_without_the_seconds_and_the_folder(attacks: Any, tmp_path: Path) -> None:
    (tmp_path / "tune.csv").write_text("trial,value,seconds\n0,0.5,1.2\n")
    (tmp_path / "tune.json").write_text(json.dumps({"run": f"{tmp_path}/trials/0"}))
    work = attacks.Work("tune", "dkm.tune", ("a=1",), "output", False, ("tune.csv", "tune.json"))
    assert work.results(tmp_path) == {
        "tune.csv": b'[{"trial": "0", "value": "0.5"}]',
        "tune.json": b'{"run": "FOLDER/trials/0"}',
    }
    assert work.command(tmp_path) == ["a=1", f"output={tmp_path}"]
    run = attacks.Work("run", "dkm.train", ("a=1",))
    assert run.command(tmp_path) == ["a=1", f"hydra.run.dir={tmp_path}"]
    (tmp_path / "config.yaml").touch()
    assert run.command(tmp_path) == [f"resume={tmp_path}"]


# --- chaos --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_of_300_runs_a_tenth_meets_a_fault_and_all_kinds_are_among_them(n_ranks: int, chaos: Any) -> None:
    cases = [chaos.draw_case(0, index, n_ranks) for index in range(300)]
    assert cases == [chaos.draw_case(0, index, n_ranks) for index in range(300)]
    faults = Counter(case.fault for case in cases if case.fault)
    assert (faults.total(), faults.keys()) == (30, set(chaos.FAULTS))
    kinds = {case.work for case in cases}
    assert kinds.issuperset({"images", "table", "number", "dec", "averaged", "resets"})
    assert kinds.issuperset({"sweep", "select", "tune"}) == (n_ranks == 1)
    assert Counter(case.way for case in cases)["plain" if n_ranks == 1 else "torchrun"] == 15
    assert {case.n_kills for case in cases} == {1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["cut", "zeros", "bit"])
def test_damage_begins_at_the_byte_that_it_tells(kind: str, chaos: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytes(range(1, 101))
    path.write_bytes(content)
    offset = chaos.damage(path, kind, random.Random(3))
    found = path.read_bytes()
    assert 0 < offset < 100
    assert found[:offset] == content[:offset]
    if kind == "bit":
        assert (found[offset] ^ content[offset]).bit_count() == 1
        assert found[offset + 1 :] == content[offset + 1 :]
    else:
        assert found[offset:] == (b"" if kind == "cut" else bytes(100 - offset))


def test_only_runs_that_are_missing_are_attacked(
    chaos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attacked: list[int] = []

    def attack(case: Any, *_: Any) -> dict[str, Any]:
        attacked.append(case.index)
        outcome = "failed" if case.index == 4 else "equal"
        key = {"ranks": case.n_ranks, "seed": case.seed, "case": case.index}
        return key | {"kills": [], "fault": None, "outcome": outcome, "detail": "differs: result.json"}

    monkeypatch.setattr(chaos, "attack", attack)
    monkeypatch.setattr(chaos, "undisturbed", lambda *_, **__: {})
    options = ["--results", str(tmp_path / "lines.jsonl"), "--folder", str(tmp_path / "runs")]
    assert chaos.main(["2", *options]) == 0
    assert chaos.main(["4", *options]) == 0
    assert attacked == [0, 1, 2, 3]
    assert chaos.main(["5", *options]) == 1
    assert f"failed (differs: result.json; {tmp_path}/runs/1_0_4)" in capsys.readouterr().out
    assert chaos.main(["5", *options, "--only", "2"]) == 0
    assert attacked == [0, 1, 2, 3, 4, 2]
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
def test_a_few_real_runs_survive(chaos: Any, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    options = ["--results", str(lines), "--folder", str(tmp_path / "runs")]
    assert chaos.main(["8", *options]) == 0
    assert chaos.main(["3", "--ranks", "2", *options]) == 0
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(found) == 11
    assert all(line["kills"] and line["outcome"] != "failed" for line in found)


# --- power cut ----------------------------------------------------------------------------------------------------


def replaced(power_cut: Any, *, is_flushed: bool) -> list[Any]:
    """Return the operations that replace ``run/a``: old content, then new content under another name, then its name."""
    make = power_cut.Operation
    first = [make("mkdir", "run"), make("create", "run/a"), make("write", "run/a", data=b"old content")]
    first += [make("sync", "run/a"), make("sync", "run")]
    second = [make("create", "run/a.tmp"), make("write", "run/a.tmp", data=b"new")]
    flush = [make("sync", "run/a.tmp")] if is_flushed else []
    return [*first, *second, *flush, make("rename", "run/a.tmp", "run/a"), make("sync", "run")]


@pytest.mark.parametrize("is_flushed", [True, False])
def test_the_model_tells_a_file_that_was_flushed_before_its_name_from_another(is_flushed: bool, power_cut: Any) -> None:
    operations = replaced(power_cut, is_flushed=is_flushed)
    disk, contents = power_cut.Disk(), set()
    for number, operation in enumerate(operations, 1):
        disk.apply(operation)
        left = [disk.after_cut(variant, random.Random(number)) for variant in power_cut.VARIANTS]
        contents |= {state["run/a"] for state in left if number > 5}  # after the old content was flushed
    assert contents == ({b"old content", b"new"} if is_flushed else {b"old content", b"new", b"", b"\0\0\0", b"n"})
    # The last operation makes it final.
    final = {bytes(disk.after_cut(variant, random.Random(0))["run/a"]) for variant in power_cut.VARIANTS}
    assert final == ({b"new"} if is_flushed else {b"new", b"", b"\0\0\0", b"n"})


def test_each_distinct_state_comes_once_and_events_do_not_count(power_cut: Any) -> None:
    make = power_cut.Operation
    operations = [make("mkdir", "run"), make("create", "run/train.log"), make("sync", "run")]
    operations += [make("append", "run/train.log", data=b"a line"), make("append", "run/train.log", data=b"another")]
    states = [(number, left) for number, _, left in power_cut.states(operations)]
    assert states == [(1, {"run": None}), (2, {"run": None, "run/train.log": b""})]


def test_the_model_knows_appended_cut_and_linked_files(power_cut: Any) -> None:
    make, disk = power_cut.Operation, power_cut.Disk()
    for operation in (
        *(make("create", "a"), make("append", "a", data=b"1234"), make("sync", "a"), make("append", "a", data=b"5678")),
        *(make("link", "a", "b"), make("truncate", "b", offset=6), make("mkdir", "d"), make("rmdir", "d")),
    ):
        disk.apply(operation)
    draw = random.Random(0)
    assert disk.after_cut("kept", draw) == {"a": b"123456", "b": b"123456"}
    assert disk.after_cut("data lost", draw) == {"a": b"1234", "b": b"1234"}
    assert disk.after_cut("zeros", draw) == {"a": b"1234\0\0", "b": b"1234\0\0"}
    assert disk.after_cut("half", draw) == {"a": b"12345", "b": b"12345"}
    disk.apply(make("truncate", "a", offset=2))
    disk.apply(make("append", "a", data=b"x"))
    assert disk.after_cut("data lost", draw)["a"] == b""  # of a file that is written anew nothing is safe
    disk.apply(make("unlink", "b"))
    assert list(disk.after_cut("kept", draw)) == ["a"]


def quoted(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def test_a_trace_is_read_in_the_order_of_time(power_cut: Any, tmp_path: Path) -> None:
    folder, traces = Path("/some/where"), tmp_path / "traces"
    traces.mkdir()
    path, new, outside = quoted("/some/where/a"), quoted("/some/where/b"), quoted("/else/c")
    descriptor = f"3<{path}>"
    (traces / "trace.1").write_text(
        f'10.000000001 openat(AT_FDCWD<{quoted("/")}>, "{path}", O_WRONLY|O_CREAT|O_TRUNC, 0666) = {descriptor}\n'
        f'10.000000003 openat(AT_FDCWD<{quoted("/")}>, "{outside}", O_RDONLY) = 3<{outside}>\n'  # of a child process
        f'10.000000003 write({descriptor}, "{quoted("ab")}", 2) = 2\n'
        f'10.000000005 rename("{path}", "{new}") = 0\n'
        f'10.000000006 write(4<{outside}>, "{quoted("x")}", 1) = 1\n'
        f'10.000000007 unlink("{new}") = -1 ENOENT (No such file or directory)\n'
        "10.000000008 +++ exited with 0 +++\n"
    )
    (traces / "trace.2").write_text(
        f'10.000000002 write({descriptor}, "{quoted("1")}", 1) = 1\n10.000000004 fsync({descriptor}) = 0\n'
    )
    make = power_cut.Operation
    assert list(power_cut.read_trace(traces, folder)) == [
        make("create", "a"),
        make("write", "a", offset=0, data=b"1"),
        make("write", "a", offset=1, data=b"ab"),
        make("sync", "a"),
        make("rename", "a", "b"),
    ]


def test_a_claim_to_be_completed_without_results_is_a_failure(attacks: Any, power_cut: Any, tmp_path: Path) -> None:
    work = attacks.Work("run", "dkm.train", ())
    expected = {"result.json": b"{}", "report.html": b"page"}
    (tmp_path / "manifest.json").write_text('{"status": "running"}')
    assert power_cut.false_claim(work, tmp_path, expected) == ""
    (tmp_path / "manifest.json").write_text('{"status": "completed"}')
    assert power_cut.false_claim(work, tmp_path, expected) == "completed, but without result.json"
    (tmp_path / "result.json").write_text("{}")
    assert power_cut.false_claim(work, tmp_path, expected) == ""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_few_real_power_cuts_are_survived(power_cut: Any, tmp_path: Path) -> None:
    options = ["--results", str(tmp_path / "lines.jsonl"), "--folder", str(tmp_path / "runs")]
    assert power_cut.main(["--works", "dec", "--most", "6", *options]) == 0
    assert power_cut.main(["--works", "dec", "--most", "6", *options]) == 0
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 6


# --- soak ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("growth", "files", "threads", "is_flat"),
    [(0, 0, 0, True), (9_000, 0, 0, True), (11_000, 0, 0, False), (0, 1, 0, False), (0, 0, 1, False)],
)
def test_growth_after_the_first_quarter_is_above_the_bar(
    growth: int, files: int, threads: int, is_flat: bool, soak: Any
) -> None:
    lines = [
        {
            "run": run,
            "memory": 10**8 + growth * run + (run < 100) * 10**7,
            "files": 5 + (run > 350) * files + run % 20 // 10,
            "threads": 3 + (run > 350) * threads,
        }
        for run in range(10, 401, 10)
    ]
    found = soak.verdict(lines)
    assert found["is_flat"] == is_flat
    assert found["bytes_per_run"] == growth
    assert found["files"] == [6, 6 + files]


@pytest.mark.slow
def test_a_few_runs_are_sampled(soak: Any, tmp_path: Path) -> None:
    for _ in range(2):
        soak.main(["40", "--modes", "sweep", "--results", str(tmp_path / "lines.jsonl")])
    runs = [json.loads(line)["run"] for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert runs == [10, 20, 30]  # the last run is not followed by another


# --- the page -----------------------------------------------------------------------------------------------------


def test_the_page_has_the_tables_and_the_summaries_of_what_was_found(reliability: Any) -> None:
    """Otherwise: python scripts/reliability.py."""
    page = reliability.PAGE.read_text(encoding="utf-8")
    summaries, made = reliability.make_page(page)
    assert made == page
    for name, summary in summaries.items():
        assert json.loads((reliability.RESULTS / f"{name}.json").read_text(encoding="utf-8")) == summary


def test_no_attack_that_is_told_of_has_failed(reliability: Any) -> None:
    lines = [
        line
        for name in ("chaos", "power_cut")
        for line in reliability.read_lines(reliability.RESULTS / f"{name}.jsonl")
    ]
    assert [line for line in lines if line["outcome"] == "failed"] == []


def test_a_summary_counts_runs_kills_and_outcomes(reliability: Any) -> None:
    kill = {"found": "writing checkpoints/last.pt"}
    line = {"version": "1", "seed": 0, "ranks": 1, "work": "dec", "way": "fork", "kills": [kill, kill], "fault": None}
    cut = {"kind": "cut", "file": "config.yaml"}
    lines = [line | {"outcome": "equal"}, line | {"work": "tune", "fault": cut, "outcome": "refused", "kills": [kill]}]
    found = reliability.summarize_chaos(lines)
    assert found["ranks"] == {"1": {"runs": 2, "kills": 3, "faults": 1, "equal": 1, "refused": 1}}
    assert found["ways"].keys() == {"fork", "tune"}
    assert found["faults"] == {"cut": {"runs": 1, "kills": 1, "faults": 1, "refused": 1}}
    assert found["found"] == {"writing a file": 3}
