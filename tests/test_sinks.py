"""``log.to``: what each sink gets, also when a run is killed and resumed, and a sink that fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from written import manifest_of, records_of, rows_of

from dkm.config.compose import compose, parse
from dkm.config.sinks import SINKS, SinkType
from dkm.errors import UserError
from dkm.runs.directory import RunDirectory
from dkm.runs.sinks.base import Sink, SinkContext, Sinks
from dkm.train import _main as main

WORDS = (
    *("data=blobs", "data.n_samples=60", "model.hidden=[8]", "batch_size=20", "device=cpu", "threads=1"),
    *("recipe=classic", "pretrain.epochs=3", "joint.epochs=4", "joint.tolerance=0", "checkpoint.every_s=0"),
    *("clustering.n_init=2", "evaluation.every_epochs=2"),
    *("log.figures=false", "log.report=false", "log.progress=off"),
)
BYTES = ("metrics.jsonl", "result.json", "assignments.csv", "metrics.csv", "model/weights.safetensors")


def train(run: Path, *words: str) -> Path:
    assert main([*WORDS, *words, f"hydra.run.dir={run}"]) == 0
    return run


@contextmanager
def copied_at_record(number: int, copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copy the run directory when a record has been written to ``metrics.jsonl``: what a kill would leave there."""
    append, n_calls = RunDirectory.append_metrics, 0

    def appended(run: RunDirectory, record: Mapping[str, Any]) -> None:
        nonlocal n_calls
        append(run, record)
        n_calls += 1
        if n_calls == number:
            shutil.copytree(run.path, copy, symlinks=True)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "append_metrics", appended)
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("reference") / "run", "log.to=[csv]")


# --- log.to -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["tensorboard"]),
        (["log.tensorboard=false"], []),
        (["log.to=[]"], []),
        (["log.to=[csv,tensorboard,csv]"], ["csv", "tensorboard"]),
        (["log.to=[csv,tensorboard]", "log.tensorboard=false"], ["csv"]),
    ],
)
def test_the_sinks_are_those_that_are_named(words: list[str], names: list[str]) -> None:
    assert compose(parse(words)).config.log.sinks == names


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "log.to=[csv,tensorbord]",
            r"log\.to=\[csv, tensorbord\]: expected a list of tensorboard, csv.*; did you mean ",
        ),
        ("log.to=[paper]", r"expected a list of .*; leave paper out"),
    ],
)
def test_an_unknown_sink_is_refused(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(parse([word]))


def test_a_single_word_is_refused_with_the_list_to_write() -> None:
    with pytest.raises(UserError, match=r"; write log\.to=\[csv\]"):
        main(["log.to=csv"])


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_is_loaded_by_its_name(name: str) -> None:
    assert SINKS[name].name == name
    assert issubclass(SINKS[name].load(), Sink)


# --- csv ----------------------------------------------------------------------------------------------------------


def test_the_table_has_the_records(reference: Path) -> None:
    rows, records = rows_of(reference / "metrics.csv"), records_of(reference)
    assert len(rows) == len(records) == 6
    for row, record in zip(rows, records, strict=True):
        for key, cell in row.items():
            expected = record.get(key)
            assert cell == ("" if expected is None else expected if key == "phase" else json.dumps(expected))
    assert rows[-1]["clusters/sizes"] == json.dumps(records[-1]["clusters/sizes"])


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_table_of_a_resumed_run_is_that_of_an_undivided_one(
    number: int, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    with copied_at_record(number, killed, monkeypatch):
        train(tmp_path / "run", "log.to=[csv]")
    (killed / "metrics.csv").write_text("half a li", encoding="utf-8")
    assert main([f"resume={killed}"]) == 0
    for name in BYTES:
        assert (killed / name).read_bytes() == (reference / name).read_bytes(), name


def test_a_completed_run_gets_its_table_when_it_is_resumed(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (run / "metrics.csv").unlink()
    assert main([f"resume={run}"]) == 0
    assert (run / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()


# --- failures -----------------------------------------------------------------------------------------------------


class Paper(Sink):
    """Writes down what it gets; fails in the method that ``fails`` names."""

    fails = ""
    calls: list[tuple[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.reference = {"page": 7}
        self.notice = "on the desk"

    @classmethod
    def open(cls, context: SinkContext) -> Paper:
        cls.calls = [("open", dict(context.reference))]
        return cls()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name not in vars(Sink) or not callable(value):
            return value

        def written(*arguments: Any) -> None:
            self.calls.append((name, arguments))
            if name == self.fails:
                raise OSError(28, "No space left on device")

        return written


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> type[Paper]:
    monkeypatch.setitem(SINKS, "paper", SinkType("paper", "Paper", Paper))
    monkeypatch.setattr(Paper, "fails", "")
    return Paper


def test_a_sink_gets_the_records_of_metrics_jsonl_and_all_else_in_order(
    paper: type[Paper], reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "run", "log.to=[paper]", "log.progress=plain")
    assert "paper: on the desk\n" in capsys.readouterr().out
    records = [arguments[0] for name, arguments in paper.calls if name == "record"]
    assert records == records_of(run)
    names = [name for name, _ in paper.calls]
    assert names[0] == "open"
    assert names[-1] == "close"
    for name in ("record", "result", "end"):
        assert name in names
    ((_, (step, scores, given)),) = [call for call in paper.calls if call[0] == "result"]
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert step == result["steps"] + 1
    assert scores == {name: result[name] for name in scores}
    assert "batch_size" in given
    assert [arguments for name, arguments in paper.calls if name == "end"] == [("completed",)]
    assert manifest_of(run)["logged_to"] == {"paper": {"page": 7}}
    for name in set(BYTES) - {"metrics.csv"}:
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name


def test_a_resumed_run_opens_the_sink_with_its_reference(
    paper: type[Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path / "run", "log.to=[paper]")
    assert paper.calls[0] == ("open", {})
    assert main([f"resume={run}", "joint.epochs=5"]) == 0
    assert paper.calls[0] == ("open", {"page": 7})
    assert main([f"resume={run}", "log.to=[]"]) == 0
    assert manifest_of(run)["logged_to"] == {"paper": {"page": 7}}
    monkeypatch.setitem(SINKS, "other", SinkType("other", "Other", Paper))
    assert main([f"resume={run}", "log.to=[other]"]) == 0
    assert paper.calls[0] == ("open", {})
    assert manifest_of(run)["logged_to"] == {"paper": {"page": 7}, "other": {"page": 7}}


@pytest.mark.parametrize("fails", ["record", "text", "flush", "result", "end", "close"])
def test_a_failing_sink_does_not_end_the_run(
    fails: str,
    paper: type[Paper],
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(paper, "fails", fails)
    run = train(tmp_path / "run", "log.to=[paper,csv]")
    [line] = [line for line in capsys.readouterr().err.splitlines() if "paper" in line]
    assert line.startswith("warning: log.to=paper: No space left on device; the run goes on without it")
    manifest = manifest_of(run)
    assert manifest["status"] == "completed"
    assert sum("log.to=paper" in warning for warning in manifest["warnings"]) == 1
    assert [name for name, _ in paper.calls].count(fails) == 1
    assert paper.calls[-1][0] == "close"
    for name in BYTES:
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name


def test_a_sink_that_cannot_be_opened_does_not_end_the_run(
    paper: type[Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(context: SinkContext) -> Paper:
        raise ValueError("no\npaper")

    monkeypatch.setattr(paper, "open", refused)
    train(tmp_path / "run", "log.to=[paper]")
    assert "warning: log.to=paper: ValueError: paper; the run goes on" in capsys.readouterr().err


def test_a_bug_in_the_run_itself_is_not_taken_for_one_of_a_sink() -> None:
    class Stops(Sink):
        def flush(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sinks({"stops": Stops()}).flush()


# --- packages -----------------------------------------------------------------------------------------------------


def test_a_package_that_is_missing_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SINKS, "paper", SinkType("paper", "Paper", Paper, package="no_such_package", extra="umap"))
    with pytest.raises(UserError, match=r"^log\.to=paper: no_such_package is not installed; .* umap; install it: "):
        train(tmp_path / "run", "log.to=[paper]")
    assert not (tmp_path / "run").exists()
