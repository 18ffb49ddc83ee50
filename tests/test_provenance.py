"""What a run tells of itself survives resumes, kills and damaged files, and a finished run stays finished."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from written import json_of

from dkm import compare, report
from dkm.config.compose import compose, parse
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.models.saved import load_model
from dkm.runs import reading
from dkm.runs.directory import RunDirectory, Unwritten
from dkm.runtime import checkpoints, environment
from dkm.search import sweep
from dkm.train import _main as main
from dkm.training import launch, recorder
from dkm.training.resume import config_of, unfinished_run
from dkm.training.segments import changes_between, earlier_segments
from dkm.training.trainer import Trainer

WORDS = [
    *("data=blobs", "data.n_samples=60", "model.hidden=[4]", "pretrain.epochs=1", "joint.epochs=2", "recipe=classic"),
    *("log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off", "device=cpu"),
    "clustering.n_init=1",
    *("joint.tolerance=0", "evaluation.every_epochs=1", "checkpoint.every_s=0"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    assert main([*WORDS, f"hydra.run.dir={path}"]) == 0
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resume(run: Path, *words: str) -> dict[str, Any]:
    assert main([f"resume={run}", "log.progress=off", *words]) == 0
    return json_of(run / "manifest.json")


# --- versions and git ---


def test_git_is_asked_once_in_a_process_and_not_for_a_run_that_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    act = environment.subprocess.run

    def run(command: Sequence[str], **options: Any) -> Any:
        asked.append(command[0])
        return act(command, **options)

    monkeypatch.setattr(environment.subprocess, "run", run)
    environment.git_state.cache_clear()
    config = compose(parse(WORDS)).config
    Trainer(config, load_dataset(config.data)).run(Unwritten())
    assert asked == []
    assert environment.environment()["git"] == environment.environment()["git"]
    assert 1 <= asked.count("git") <= 3  # one command in an installation, three in a checkout


# --- segments -----------------------------------------------------------------------------------------------------


def test_a_run_keeps_what_each_of_its_parts_was_made_with(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json_of(run / "manifest.json")
    [first] = before["segments"]
    assert first["step"] == 0
    assert {key: first[key] for key in first if key != "step"} == {key: before[key] for key in first if key != "step"}
    assert first.keys() >= {"started", "python", "versions", "git", "threads", "processes", "device", "processor"}
    versions = {**before["versions"], "torch": "9.9"}
    monkeypatch.setattr(environment, "versions", lambda: versions)
    monkeypatch.setattr(recorder, "processor", lambda device: "cpu: another")
    manifest = resume(run, "joint.epochs=3")
    assert manifest["segments"][0] == first
    assert [segment["step"] for segment in manifest["segments"]] == [0, json_of(run / "result.json")["steps"] - 1]
    assert manifest["segments"][1]["versions"] == manifest["versions"] == versions
    assert manifest["segments"][1]["processor"] == manifest["processor"] == "cpu: another"
    assert manifest["started"] == before["started"] == first["started"]
    was = f"torch 9.9 (before: {before['versions']['torch']}), processor cpu: another (before: {before['processor']})"
    line = f"resumed with {was}; the last bits of the results may differ from those of an undivided run"
    assert capsys.readouterr().err == f"warning: {line}\n"
    assert manifest["warnings"].count(line) == 1


def test_a_run_that_is_resumed_with_the_same_is_not_warned_about(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json_of(run / "manifest.json")
    after = resume(run)
    assert len(after["segments"]) == 2
    assert after["warnings"] == before["warnings"] != []
    assert capsys.readouterr().err == ""


def test_a_run_of_an_earlier_version_has_the_segment_that_its_manifest_tells_of(run: Path) -> None:
    path = run / "manifest.json"
    manifest = json_of(path)
    del manifest["segments"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    first, second = resume(run)["segments"]
    assert first["step"] is None
    assert first["versions"] == manifest["versions"]
    assert second["step"] == json_of(run / "result.json")["steps"]


PRESENT = {"device": "cpu", "processor": "A", "threads": 2, "processes": 1, "versions": {"torch": "2", "numpy": "1"}}
CHECKOUT = {"commit": "aaa", "dirty": False}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"commit": "bbb"}, ["commit bbb (before: aaa)"]),
        ({"dirty": True}, ["dirty True (before: False)"]),
        ({"commit": "bbb", "dirty": True}, ["commit bbb (before: aaa)", "dirty True (before: False)"]),
        ({}, []),
    ],
)
def test_another_commit_of_the_code_is_told(change: dict[str, Any], expected: list[str]) -> None:
    assert changes_between({**PRESENT, "git": CHECKOUT}, {**PRESENT, "git": CHECKOUT | change}) == expected


@pytest.mark.parametrize("git", [None, ..., "aaa"])
def test_a_run_outside_of_a_checkout_has_no_commit_to_compare(git: object) -> None:
    one = PRESENT if git is ... else {**PRESENT, "git": git}
    for earlier, present in ((one, {**PRESENT, "git": CHECKOUT}), ({**PRESENT, "git": CHECKOUT}, one), (one, one)):
        assert changes_between(earlier, present) == []


def test_a_run_that_is_resumed_with_another_commit_is_warned_about(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps(json_of(path) | {"git": CHECKOUT}), encoding="utf-8")
    monkeypatch.setattr(environment, "git_state", lambda _: {"commit": "bbb", "dirty": False})
    assert resume(run)["segments"][-1]["git"]["commit"] == "bbb"
    assert capsys.readouterr().err.startswith("warning: resumed with commit bbb (before: aaa); the last bits of the ")


@pytest.mark.parametrize("key", ["device", "processor", "threads", "processes"])
def test_what_the_bits_hang_on_is_told(key: str) -> None:
    assert changes_between(PRESENT, PRESENT) == []
    assert changes_between({**PRESENT, key: "other"}, PRESENT) == [f"{key} {PRESENT[key]} (before: other)"]


@pytest.mark.parametrize("name", ["dkm", "torch", "numpy", "scikit-learn", "scipy"])
def test_packages_that_the_bits_hang_on_are_told(name: str) -> None:
    one, other = ({**PRESENT, "versions": {name: version, "tensorboard": version}} for version in ("1", "2"))
    assert changes_between(one, other) == [f"{name} 2 (before: 1)"]


@pytest.mark.parametrize("earlier", [{}, {"versions": None}, {"versions": [1]}, {"threads": 2}])
def test_what_an_earlier_manifest_does_not_tell_has_not_changed(earlier: dict[str, Any]) -> None:
    assert changes_between(earlier, PRESENT) == []
    assert earlier_segments({}) == []


# --- warnings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory(tmp_path, progress="off")
    run.open_log()
    run.update_manifest(status="running", warnings=[])
    yield run
    run.close()


def test_the_warnings_of_a_process_that_is_killed_are_in_the_manifest_since_its_checkpoint(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("first", "first", "second"):
        logging.getLogger("dkm.test").warning(text)
    assert json_of(directory.path / "manifest.json")["warnings"] == []
    directory.sync_metrics()
    assert json_of(directory.path / "manifest.json") == {"status": "running", "warnings": ["first", "second"]}
    monkeypatch.setattr(directory, "update_manifest", lambda **_: pytest.fail("written though nothing has changed"))
    directory.sync_metrics()


def test_warnings_of_all_processes_are_kept_in_their_order(run: Path) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps({**json_of(path), "warnings": ["an earlier one"]}), encoding="utf-8")
    (run / "metrics.jsonl").write_bytes(b"")
    assert resume(run)["warnings"][0] == "an earlier one"
    assert [text for text in resume(run)["warnings"] if "is shorter than" in text] != []


# --- damaged files of a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b'{"status": "compl', b"[]", b"\xff\xfe"])
def test_a_completed_run_with_a_damaged_manifest_is_not_taken_up(
    damage: bytes, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = compose(parse(WORDS)).config
    assert unfinished_run(wanted, run.parent / "new") is None
    assert capsys.readouterr().err == ""
    (run / "manifest.json").write_bytes(damage)
    assert unfinished_run(wanted, run.parent / "new") is None
    found = f"warning: resume=auto: {run / 'manifest.json'} is damaged, so the run is left alone"
    assert capsys.readouterr().err == f"{found}; if it has not ended, set resume={run}\n"
    assert unfinished_run(compose(parse([*WORDS, "seed=1"])).config, run.parent / "new") is None
    assert capsys.readouterr().err == ""  # it is none of its business


def test_of_unfinished_runs_the_newest_is_taken_up(run: Path) -> None:
    wanted = compose(parse(WORDS)).config
    for name, started in (("a", "2026-01-01"), ("b", "2026-01-03"), ("c", "2026-01-02")):
        other = Path(shutil.copytree(run, run.parent / name))
        manifest = {**json_of(other / "manifest.json"), "status": "running", "started": started}
        (other / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert unfinished_run(wanted, run.parent / "new") == run.parent / "b"
    with (run.parent / "b" / "config.yaml").open("a") as file:
        file.write(":::")
    assert unfinished_run(wanted, run.parent / "new") == run.parent / "c"
    assert unfinished_run(wanted, run) == run  # the directory that was asked for


def test_a_run_with_a_damaged_manifest_says_what_is_lost(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "manifest.json").write_text("{", encoding="utf-8")
    manifest = resume(run)
    assert manifest["status"] == "completed"
    told = f"{run / 'manifest.json'} is damaged: what it told about the earlier parts of the run is lost"
    assert capsys.readouterr().err == f"warning: {told}\n"


@pytest.mark.parametrize("n_before", range(4))
def test_a_manifest_that_cannot_be_read_now_is_not_damaged(
    n_before: int, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever of the readings of a resume fails, neither the manifest nor results are written."""
    path, n_left, act = run / "manifest.json", [n_before], Path.read_bytes

    def fail(self: Path) -> bytes:
        if self == path:
            n_left[0] -= 1
            if n_left[0] < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return act(self)

    (run / "metrics.jsonl").write_bytes(b"")  # which is warned about
    before = state_of(run)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError) as refused:
            main([f"resume={run}", "joint.epochs=3", "log.progress=off"])
    found = "cannot be read (Input/output error); it was left as it is"
    assert str(refused.value) == f"{path}: {found}; expected a readable file; run the command again once it is"
    after = state_of(run)
    del after["config.yaml"], before["config.yaml"]  # may have the new number of epochs
    assert after == before
    assert capsys.readouterr().err == ""


def test_a_run_whose_manifest_cannot_be_read_is_left_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    act = Path.read_bytes

    def fail(self: Path) -> bytes:
        if self.name == "manifest.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return act(self)

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert unfinished_run(compose(parse(WORDS)).config, run.parent / "new") is None
    told = f"warning: resume=auto: the run is left alone: {run / 'manifest.json'}: cannot be read (Input/output error)"
    assert capsys.readouterr().err.startswith(told)


OTHER_TYPES: dict[str, Any] = {
    "started": 3,
    "n_resumed": "x",
    "segments": "abc",
    "versions": [],
    "epochs": 3,
    "seconds": "x",
    "samples_per_second": 3,
    "compile_seconds": [1],
    "warnings": 5,
    "logged_to": [1],
    "results_sha256": [1],
    "n_clusters_choice": 3,
    "status": ["running"],
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_an_entry_of_another_type_in_the_manifest_is_left_out(
    name: str, run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps(json_of(path) | {name: OTHER_TYPES[name]}), encoding="utf-8")
    manifest = resume(run, "log.to=[csv]")
    assert manifest["status"] == "completed"
    assert manifest.get(name) != OTHER_TYPES[name]
    assert capsys.readouterr().err == f"warning: {path}: {name} is not what a run writes, and is left out\n"
    assert (run / "result.json").read_bytes() == (finished / "result.json").read_bytes()


STRANGE: dict[str, Any] = {
    "warnings": ["an earlier one", 3],
    "n_clusters_choice": {"asked": "auto"},
    "data": "blobs",
    "self": 1,
    "what nobody knows": [None],
}


def test_a_strange_manifest_ends_no_run(run: Path, finished: Path) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps(json_of(path) | STRANGE), encoding="utf-8")
    manifest = resume(run)
    assert manifest["status"] == "completed"
    assert manifest["data"] == json_of(finished / "manifest.json")["data"]
    assert (run / "result.json").read_bytes() == (finished / "result.json").read_bytes()
    path.write_text("[" * 100_000, encoding="utf-8")
    assert resume(run)["status"] == "completed"


CONFIG_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one bit, which makes the run longer": lambda content: content.replace(b"epochs: 2", b"epochs: 3"),
    "one bit of the digest": lambda content: content.replace(b"below: ", b"below: 0"),
    "cut off after a line": lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
}


@pytest.mark.parametrize("damage", CONFIG_DAMAGE)
def test_a_damaged_config_is_not_resumed_from(damage: str, run: Path) -> None:
    path = run / "config.yaml"
    content = path.read_bytes()
    path.write_bytes(CONFIG_DAMAGE[damage](content))
    assert path.read_bytes() != content
    before = (run / "result.json").read_bytes()
    with pytest.raises(UserError) as raised:
        resume(run)
    assert str(raised.value).startswith(f"{path}: damaged or altered (its SHA-256 is not the one it was written with)")
    assert (run / "result.json").read_bytes() == before


def test_an_unfinished_run_with_a_damaged_config_is_not_passed_over_in_silence(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json_of(run / "manifest.json")
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}), encoding="utf-8")
    wanted = compose(parse(WORDS)).config
    assert unfinished_run(wanted, run.parent / "new") == run
    (run / "config.yaml").write_bytes((run / "config.yaml").read_bytes()[:-1])
    assert unfinished_run(wanted, run.parent / "new") is None
    err = capsys.readouterr().err
    assert err.startswith(f"warning: resume=auto: the run is left alone: {run / 'config.yaml'}: damaged or altered")
    assert err.count("\n") == 1


def test_the_config_of_an_earlier_version_has_no_digest_and_is_resumed_from(run: Path) -> None:
    path = run / "config.yaml"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "SHA-256" not in line).replace("epochs: 2", "epochs: 3"))
    assert resume(run)["epochs"]["joint"] == 3


@pytest.mark.parametrize("n_lost", [1, 30, 10**6])
def test_metrics_that_are_too_short_are_cut_back_to_a_whole_record(
    n_lost: int, run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "metrics.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-n_lost])
    assert resume(run, "joint.epochs=3")["status"] == "completed"
    err = capsys.readouterr().err
    assert err == f"warning: {path} is shorter than when the checkpoint was written: records are missing\n"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = [json.loads(line) for line in content.splitlines()]
    n_kept = 0 if n_lost > len(content) else len(expected) - 1
    assert records[:-1] == expected[:n_kept]
    assert (records[-1]["phase"], records[-1]["epoch"]) == ("joint", 3)


@pytest.mark.parametrize(
    ("content", "n_bytes", "kept", "warns"),
    [
        (b'{"a": 1}\n{"a": 2}\n', 18, b'{"a": 1}\n{"a": 2}\n', False),
        (b'{"a": 1}\n{"a": 2}\n', 9, b'{"a": 1}\n', False),  # written after the checkpoint
        (b'{"a": 1}\n{"a": 2}\n', 0, b"", False),
        (b'{"a": 1}\n{"a', 18, b'{"a": 1}\n', True),
        (b'{"a": 1}\n{"a', 9, b'{"a": 1}\n', False),
        (b'{"a', 9, b"", True),
        (b"", 9, b"", True),
        (b"", 0, b"", False),
    ],
)
def test_metrics_end_where_the_checkpoint_was_written(
    content: bytes, n_bytes: int, kept: bytes, warns: bool, directory: RunDirectory
) -> None:
    (directory.path / "metrics.jsonl").write_bytes(content)
    directory.truncate_metrics(n_bytes)
    assert (directory.path / "metrics.jsonl").read_bytes() == kept
    assert len(directory.warnings) == warns
    directory.append_metrics({"a": 3})
    assert directory.sync_metrics() == len(kept) + 9
    assert directory.read_metrics()[-1] == {"a": 3}


@pytest.mark.parametrize("digit", [b"1", b"2"])
def test_metrics_that_were_altered_since_the_checkpoint_are_told(
    digit: bytes, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "metrics.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"epoch": 1', b'"epoch": ' + digit))
    assert resume(run)["status"] == "completed"
    told = f"warning: {path} was altered since the checkpoint was written: curves may be wrong, results are not\n"
    assert capsys.readouterr().err == ("" if digit == b"1" else told)


def test_the_metrics_after_the_checkpoint_do_not_count_for_its_digest(directory: RunDirectory) -> None:
    directory.append_metrics({"a": 1})
    n_bytes, sha256 = directory.sync_metrics(), directory.metrics_sha256()
    directory.append_metrics({"a": 2})
    directory.truncate_metrics(n_bytes, sha256)
    assert directory.warnings == []
    assert directory.read_metrics() == [{"a": 1}]
    directory.truncate_metrics(n_bytes)  # an earlier version has no digest
    assert directory.warnings == []


def test_records_that_were_damaged_do_not_end_a_finished_run(directory: RunDirectory) -> None:
    path = directory.path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n\x00\x00\xff\n[]\n' + b"[" * 100_000 + b'\n{"a": 2}\n')
    assert directory.read_metrics() == [{"a": 1}, {"a": 2}]
    assert directory.warnings == [f"{path}: 3 lines hold no record, so curves lack them"]


def test_the_settings_of_the_command_line_are_told_from_the_others(directory: RunDirectory) -> None:
    assert directory.given_settings() == set()
    (directory.path / ".hydra").mkdir()
    path = directory.path / ".hydra" / "overrides.yaml"
    path.write_text("- +seed=1\n- ~model.hidden\n- clustering=dkm\n", encoding="utf-8")
    assert directory.given_settings() == {"seed", "model.hidden", "clustering.name"}


def test_the_files_of_hydra_are_written_whole(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("dkm.runtime.atomic.write_atomically", lambda path, data: written.append(path.name))
    launch._write_hydra_files(tmp_path / ".hydra", compose(parse(WORDS)))
    assert written == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert list((tmp_path / ".hydra").iterdir()) == []
    contents = [yaml.safe_load((finished / ".hydra" / name).read_bytes()) for name in written]
    assert contents[0]["batch_size"] == 256
    assert contents[1]["hydra"]["job"]["name"] == "train"
    assert contents[2][: len(WORDS)] == WORDS


# --- lost checkpoints ---------------------------------------------------------------------------------------------


def state_of(run: Path) -> dict[str, bytes]:
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.suffix != ".log"}


def set_status(run: Path, status: str) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps(json_of(path) | {"status": status}), encoding="utf-8")


@pytest.mark.parametrize("lost", ["completed", "has results", "its joint phase has begun"])
def test_a_run_without_the_checkpoints_that_it_had_is_not_begun_again(
    lost: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if lost != "completed":
        set_status(run, "interrupted")
    if lost == "its joint phase has begun":
        (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints")
    before = state_of(run)
    for words in ([f"resume={run}", "joint.epochs=3"], [*WORDS, f"hydra.run.dir={run}", "resume=auto"]):
        with pytest.raises(UserError) as refused:
            main(words)
        gone = "but its checkpoints are gone; expected checkpoints/last.pt"
        remedy = "put it back, or start a new run with output=DIR; a search trains a run again whose directory is gone"
        assert str(refused.value) == f"{run}: {lost}, {gone}; {remedy}"
        assert state_of(run) == before
    capsys.readouterr()
    assert unfinished_run(compose(parse(WORDS)).config, run.parent / "new") is None
    left_alone = f"warning: resume=auto: {run}: {lost}, but its checkpoints are gone, so the run is left alone\n"
    assert capsys.readouterr().err == ("" if lost == "completed" else left_alone)


@pytest.mark.parametrize("records", [None, b'{"phase": "pretrain", "epoch": 1}\n[]\n{"phase": "jo'])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    records: bytes | None, run: Path, finished: Path
) -> None:
    set_status(run, "running")
    for name in ("result.json", "assignments.csv", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    if records is not None:
        (run / "metrics.jsonl").write_bytes(records)
    assert unfinished_run(compose(parse(WORDS)).config, run.parent / "new") == run
    assert resume(run)["status"] == "completed"
    for name in ("result.json", "assignments.csv", "metrics.jsonl"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_the_folder_of_the_checkpoints_survives_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(checkpoints, "sync_directory", synced.append)
    for _ in range(2):
        checkpoints.save(tmp_path / "checkpoints", {"step": 1})
    assert synced == [tmp_path]


# --- digests of the results ---------------------------------------------------------------------------------------


def altered_line(run: Path, name: str) -> str:
    what = "damaged or altered since the run completed (its SHA-256 is not the one in manifest.json)"
    remedy = f"copy it again, or write it anew: python -m dkm.train resume={run}"
    return f"warning: {run / name}: {what}; what is read from it may be wrong; {remedy}\n"


def test_a_completed_run_has_the_digests_of_its_results(finished: Path) -> None:
    digests = json_of(finished / "manifest.json")["results_sha256"]
    assert list(digests) == ["result.json", "assignments.csv", "exemplars.csv", "features.csv"]
    for name, digest in digests.items():
        assert hashlib.sha256((finished / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(("name", "key"), [("result.json", b'"silhouette"'), ("assignments.csv", b"margin")])
def test_a_result_with_one_bit_flipped_is_told_and_written_anew(
    name: str, key: bytes, run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (run / name).read_bytes()
    (run / name).write_bytes(with_other_digit(content, key))
    compare.work([str(run), str(finished)])
    assert capsys.readouterr().err.startswith(altered_line(run, name))
    report.work([str(run)])
    assert capsys.readouterr().err == altered_line(run, name)
    assert resume(run)["results_sha256"] == json_of(finished / "manifest.json")["results_sha256"]
    assert (run / name).read_bytes() == content
    capsys.readouterr()
    report.work([str(run)])
    assert capsys.readouterr().err == ""


def test_features_that_are_lost_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "features.csv").unlink()
    report.work([str(run)])
    assert f"warning: {run / 'features.csv'}: cannot be read (No such file or directory); " in capsys.readouterr().err


def test_a_result_that_was_altered_does_not_count_as_done_in_a_sweep(run: Path) -> None:
    config = config_of(run)
    assert sweep._scores_of_completed(run, config) is not None
    (run / "result.json").write_bytes(with_other_digit((run / "result.json").read_bytes(), b'"silhouette"'))
    assert sweep._scores_of_completed(run, config) is None


def test_a_run_that_is_resumed_has_no_digests_of_its_earlier_results(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder.Recorder, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([f"resume={run}", "log.progress=off", "joint.epochs=3"])
    manifest = json_of(run / "manifest.json")
    assert (manifest["status"], "results_sha256" in manifest) == ("failed", False)
    assert list(reading.alterations(reading.read(run), ["result.json"])) == []


def test_a_run_of_an_earlier_version_has_no_digests_of_its_results(run: Path) -> None:
    manifest = json_of(run / "manifest.json")
    del manifest["results_sha256"]
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (run / "result.json").write_bytes((run / "result.json").read_bytes() + b"\n")
    assert list(reading.alterations(reading.read(run), ["result.json"])) == []


# --- the model ----------------------------------------------------------------------------------------------------


def test_weights_with_one_bit_flipped_are_refused(run: Path) -> None:
    path = run / "model" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    for words in (run, run / "model"):
        with pytest.raises(UserError) as raised:
            load_model(str(words))
        found = "weights.safetensors is damaged or altered: its SHA-256 is not the one in model.json"
        expected = "expected what a run writes; copy the folder again"
        assert str(raised.value) == f"run={words}: the model in {run / 'model'} cannot be read ({found}); {expected}"


def test_the_model_of_an_earlier_version_has_no_digest_and_loads(run: Path) -> None:
    path = run / "model" / "model.json"
    description = json_of(path)
    assert len(description.pop("weights_sha256")) == len(description.pop("sha256")) == 64
    path.write_text(json.dumps(description), encoding="utf-8")
    assert load_model(str(run)).n_clusters == 5


def with_other_digit(content: bytes, key: bytes) -> bytes:
    """Flip the lowest bit of the first digit from 0 to 7 after a key."""
    start = content.index(key) + len(key)
    place = next(i for i in range(start, len(content)) if content[i] in b"01234567")
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DESCRIPTION_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a digit of a number": lambda content: with_other_digit(content, b'"shift"'),
    "the name of a field": lambda content: content.replace(b'"fill"', b'"fimm"'),
    "the digest of the weights": lambda content: with_other_digit(content, b'"weights_sha256"'),
    "its own digest": lambda content: with_other_digit(content, b'"sha256"'),
}


@pytest.mark.parametrize("damage", DESCRIPTION_DAMAGE)
def test_a_description_with_one_bit_flipped_is_refused(damage: str, run: Path) -> None:
    path = run / "model" / "model.json"
    content = path.read_bytes()
    path.write_bytes(DESCRIPTION_DAMAGE[damage](content))
    assert path.read_bytes() != content
    for words in (run, run / "model"):
        with pytest.raises(UserError) as raised:
            load_model(str(words))
        found = "model.json: damaged or altered: its SHA-256 is not the one that it was written with"
        expected = "expected what a run writes; copy the folder again"
        assert str(raised.value) == f"run={words}: the model in {run / 'model'} cannot be read ({found}); {expected}"


def test_the_digest_of_a_description_does_not_depend_on_its_layout(run: Path) -> None:
    path = run / "model" / "model.json"
    path.write_text(json.dumps(json_of(path), sort_keys=True), encoding="utf-8")
    assert load_model(str(run)).n_clusters == 5


def test_a_model_is_described_only_after_its_weights_are_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, written = load_model(str(run)), []
    monkeypatch.setattr("dkm.models.saved.write_atomically", lambda path, data: written.append(path.name))
    model.save(run / "model")
    assert written == ["weights.safetensors", "model.json"]


def test_asking_for_the_commit_does_not_write_to_the_checkout(tmp_path: Path) -> None:
    """`git status` writes the index anew, and leaves index.lock if it is killed meanwhile."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    package = tmp_path / "dkm"
    package.mkdir()
    (package / "__init__.py").touch()
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    os.utime(package / "__init__.py", (1, 1))  # so that the index is out of date
    index = tmp_path / ".git" / "index"
    before = index.read_bytes()
    state = environment.git_state(package)
    assert state is not None
    assert state["dirty"] is False
    assert index.read_bytes() == before
