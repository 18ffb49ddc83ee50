"""``dkm.training.resume``: which run is resumed, and with which config; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dkm.config.compose import compose, parse
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.errors import UserError
from dkm.runs import reading
from dkm.runs.directory import RunDirectory
from dkm.runtime.locks import acquire
from dkm.training.launch import execute, plan_run
from dkm.training.resume import config_of, named_run, resumed_config, unfinished_run, with_config_of

WORDS = ["data=blobs", "recipe=classic", "model.hidden=[4]", "pretrain.epochs=3", "joint.epochs=4"]
CONSTANT = ["pretrain.schedule=constant", "joint.schedule=constant"]


def make_run(path: Path, *words: str, **manifest: Any) -> Path:
    """Write the config and the manifest of a run that was killed."""
    path.mkdir()
    directory = RunDirectory(path, progress="off")
    directory.open(composed(*words), step=None, has_labels=True)
    directory.update_manifest(status="running", **manifest)
    return path


def composed(*words: str) -> Config:
    return compose(parse([*WORDS, *words])).config


def resumed(run: Path, *words: str) -> dict[str, Any]:
    return dotted(resumed_config(run, parse([f"resume={run}", *words])))


def refusal(run: Path, *words: str) -> str:
    with pytest.raises(UserError) as raised:
        resumed(run, *words)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", *CONSTANT)


# --- which run ----------------------------------------------------------------------------------------------------


def test_a_run_is_named_by_its_directory(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_run(str(run)) == run
    monkeypatch.chdir(tmp_path)
    assert named_run("run") == run
    (tmp_path / "file").touch()
    for name, found in (("nothing", "a path that does not exist"), ("file", "a file"), (".", "a directory without")):
        with pytest.raises(UserError, match=f"^resume={name}: expected a run directory, got {found}"):
            named_run(name)


def test_the_runs_beside_the_new_directory_are_candidates(run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert unfinished_run(composed(*CONSTANT), new) == run
    assert unfinished_run(composed(*CONSTANT, "log.progress=off"), new) == run
    assert unfinished_run(composed(*CONSTANT, "seed=1"), new) is None
    assert unfinished_run(composed(*CONSTANT), tmp_path / "elsewhere" / "new") is None


@pytest.mark.parametrize("longer", ["joint.epochs=9", "pretrain.epochs=9"])
def test_a_run_of_another_length_is_resumed_only_in_a_directory_that_is_named(longer: str, run: Path) -> None:
    for other in (longer, longer.replace("9", "1")):
        assert unfinished_run(composed(*CONSTANT, other), run.parent / "new") is None
    plan = plan_run(parse([*WORDS, *CONSTANT, longer, f"hydra.run.dir={run}", "resume=auto"]))
    key, _, n_epochs = longer.partition("=")
    assert (plan.directory, plan.is_new, dotted(plan.config)[key]) == (run, False, int(n_epochs))


@pytest.mark.parametrize("key", ["data.path", "data.labels"])
def test_a_run_of_other_data_is_no_candidate(key: str, tmp_path: Path) -> None:
    words = ["data=csv", "data.path=a.csv", "data.labels=kind", "clustering.n_clusters=3"]
    run = make_run(tmp_path / "run", *words)
    assert unfinished_run(composed(*words), tmp_path / "new") == run
    assert unfinished_run(composed(*words, f"{key}=b.csv"), tmp_path / "new") is None


def test_only_the_directory_that_the_user_has_named_is_looked_at(run: Path, tmp_path: Path) -> None:
    words = [*WORDS, *CONSTANT, "resume=auto"]
    assert plan_run(parse([*words, f"hydra.run.dir={tmp_path}/${{now:%Y}}"])).directory == run
    assert plan_run(parse([*words, f"hydra.run.dir={run}"])).directory == run
    plan = plan_run(parse([*words, f"hydra.run.dir={tmp_path}/new"]))
    assert (plan.directory, plan.is_new) == (tmp_path / "new", True)


@pytest.mark.parametrize("plus", ["+", "++"])
def test_a_plus_before_resume_is_accepted(plus: str, run: Path, tmp_path: Path) -> None:
    for words in ([f"{plus}resume={run}"], [*WORDS, *CONSTANT, f"hydra.run.dir={run}", f"{plus}resume=auto"]):
        plan = plan_run(parse(words))
        assert (plan.directory, plan.is_new) == (run, False)
    line = refusal(run, f"++hydra.run.dir={tmp_path}/other")
    assert line.startswith(f"output={tmp_path}/other: expected the directory of the run, {run}")


def test_a_config_of_the_users_own_may_say_auto(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    words = ["--config-dir", str(tmp_path / "own"), *WORDS, *CONSTANT, "experiment=mine", f"hydra.run.dir={run}"]
    file.write_text("# @package _global_\nresume: auto\n")
    plan = plan_run(parse(words))
    assert (plan.directory, plan.is_new) == (run, False)
    with pytest.raises(UserError, match=r"^output=.*: expected a new or an empty directory"):
        plan_run(parse([*words, "resume=null"]))
    file.write_text(f"# @package _global_\nresume: {run}\n")
    with pytest.raises(UserError) as raised:
        plan_run(parse(words))
    expected = f"expected null or auto in a config file; put resume={run} on the command line"
    assert str(raised.value) == f"resume={run}: {expected}"


def test_a_run_that_was_started_with_auto_is_repeated_as_a_new_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *CONSTANT, "resume=auto")
    words = ["--config-dir", str(run), "--config-name", "config", f"hydra.run.dir={tmp_path}/${{now:%Y}}"]
    plan = plan_run(parse(words))
    assert (plan.directory.parent, plan.is_new, plan.config.resume) == (tmp_path, True, None)


@pytest.mark.parametrize("words", [[], [*WORDS, *CONSTANT]])
def test_a_run_is_resumed_in_its_own_directory(words: list[str], run: Path, tmp_path: Path) -> None:
    line = refusal(run, *words, f"hydra.run.dir='{tmp_path}/a copy'")
    assert line.startswith(f"output={tmp_path}/a copy: expected the directory of the run, {run}, as resume= goes on")
    assert line.endswith(f"leave output out, or resume a copy: cp -r {run} '{tmp_path}/a copy'")
    (tmp_path / "link").symlink_to(run)
    for same in (run, tmp_path / "link"):
        assert resumed(run, *words, f"hydra.run.dir={same}") == dotted(composed(*CONSTANT))


def test_a_run_without_a_checkpoint_is_not_resumed_with_other_data(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *CONSTANT, data={"name": "blobs", "sha256": "0" * 64})
    with pytest.raises(UserError, match=r"^data=blobs: the data changed since the run began .*, then 000000000000"):
        execute(plan_run(parse([f"resume={run}", "log.to=[]"])))


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "completed"])
def test_only_a_completed_run_is_finished(status: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "manifest.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    assert unfinished_run(composed(), tmp_path / "new") == (None if status == "completed" else run)


def test_a_run_that_trains_is_no_candidate(run: Path, tmp_path: Path) -> None:
    lock = acquire(run / reading.LOCK)
    assert lock is not None
    assert unfinished_run(composed(*CONSTANT), tmp_path / "new") is None
    lock.release()
    assert unfinished_run(composed(*CONSTANT), tmp_path / "new") == run


# --- with which config --------------------------------------------------------------------------------------------


def test_a_run_keeps_its_config(run: Path) -> None:
    assert resumed(run) == dotted(composed(*CONSTANT)) == dotted(config_of(run))
    assert resumed(run)["resume"] is None


def test_the_config_of_a_run_that_is_made_longer_is_written(run: Path) -> None:
    directory = RunDirectory(run, progress="off")
    directory.open(composed(*CONSTANT, "joint.epochs=9"), step=3, has_labels=True)
    assert config_of(run).joint.epochs == 9


def test_what_cannot_change_steps_already_taken_may_be_set(run: Path) -> None:
    changed = resumed(run, "log.progress=off", "checkpoint.every_s=7", "joint.epochs=9", "hydra.verbose=true")
    expected = {"log.progress": "off", "checkpoint.every_s": 7, "joint.epochs": 9}
    assert changed == {**dotted(composed(*CONSTANT)), **expected}


def test_the_whole_command_of_the_start_may_be_repeated(run: Path) -> None:
    assert resumed(run, *WORDS, *CONSTANT, "log.progress=off")["log.progress"] == "off"
    line = refusal(run, *WORDS, *CONSTANT, "seed=1")
    assert line.startswith(f"seed=1: expected 0 as in {run / 'config.yaml'}, a resumed run keeps its config; leave")


def test_a_recipe_beside_a_run_needs_the_whole_command(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "data=csv", "data.path=a.csv", "clustering.n_clusters=3")
    remedy = "a command with recipe=auto must be the whole one that started the run; leave recipe=auto out"
    assert refusal(run, "recipe=auto") == f"data.name=digits: expected csv as in {run / 'config.yaml'}, {remedy}"


def test_a_table_of_version_0_1_is_read_as_that_version_did(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    run = make_run(tmp_path / "table", "data=csv", f"data.path={table}", "clustering.n_clusters=3", *CONSTANT)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    added = ("strict:", "# SHA-256")  # since then
    without = "".join(line for line in config.splitlines(keepends=True) if not any(text in line for text in added))
    assert without != config
    (run / "config.yaml").write_text(without, encoding="utf-8")
    assert resumed(run)["data.strict"] is True
    assert resumed(run, "joint.epochs=9")["data.strict"] is True


def test_one_number_of_points_for_both_samples_stays_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "evaluation.silhouette_samples=500", *CONSTANT)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    added = ("graph_samples:", "# SHA-256")  # since then
    without = "".join(line for line in config.splitlines(keepends=True) if not any(text in line for text in added))
    (run / "config.yaml").write_text(without, encoding="utf-8")
    assert resumed(run)["evaluation.graph_samples"] == 500


@pytest.mark.parametrize("words", [["clustering=kmeans"], ["data=blobs"], ["model=mlp", "optimizer=adam"]])
def test_the_options_of_the_run_may_be_repeated(words: list[str], run: Path) -> None:
    assert resumed(run, *words) == dotted(composed(*CONSTANT))


def test_another_option_is_refused(run: Path) -> None:
    line = refusal(run, "clustering=dec")
    assert line.startswith(f"clustering=dec: expected clustering=kmeans as in {run / 'config.yaml'}, a resumed run")
    line = refusal(run, "recipe=classic", *WORDS[:1], *WORDS[2:], *CONSTANT, "clustering=dec")
    assert line.startswith("clustering.name=dec: expected kmeans as in ")  # before the settings of the option


def test_another_setting_is_refused(run: Path) -> None:
    line = refusal(run, "batch_size=7")
    assert line == (
        f"batch_size=7: expected 256 as in {run / 'config.yaml'}, a resumed run keeps its config; "
        "leave the override out or start a new run"
    )


@pytest.mark.parametrize("phase", ["pretrain", "joint"])
def test_a_run_is_only_made_longer(phase: str, run: Path) -> None:
    n = {"pretrain": 3, "joint": 4}[phase]
    assert resumed(run, f"{phase}.epochs={n}")[f"{phase}.epochs"] == n
    assert resumed(run, f"{phase}.epochs={n + 1}")[f"{phase}.epochs"] == n + 1
    line = refusal(run, f"{phase}.epochs={n - 1}")
    assert line.startswith(f"{phase}.epochs={n - 1}: expected {n} or more, as in {run / 'config.yaml'}; a resumed run")


@pytest.mark.parametrize("phase", ["pretrain", "joint"])
def test_epochs_that_a_schedule_depends_on_stay(phase: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *CONSTANT, f"{phase}.schedule=cosine")
    line = refusal(run, f"{phase}.epochs=9")
    assert f"as {phase}.schedule=cosine depends on it; leave the override out" in line
    other = {"pretrain": "joint", "joint": "pretrain"}[phase]
    assert resumed(run, f"{other}.epochs=9")[f"{other}.epochs"] == 9


def test_epochs_that_self_pacing_depends_on_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *CONSTANT, "clustering.self_paced=true")
    assert "with clustering.self_paced=true they say how fast far points are taken in" in refusal(run, "joint.epochs=9")
    assert resumed(run, "pretrain.epochs=9")["pretrain.epochs"] == 9


@pytest.mark.parametrize("phase", ["pretrain", "joint"])
def test_epochs_are_not_set_where_the_steps_were(phase: str, tmp_path: Path) -> None:
    steps = f"{phase}.steps=10"
    run = make_run(tmp_path / "run", *CONSTANT, f"{phase}.epochs=null", steps)
    assert refusal(run, f"{phase}.epochs=9").startswith(f"{phase}.epochs=9: expected null as in ")
    other = make_run(tmp_path / "other", *CONSTANT, steps)
    assert refusal(other, f"{phase}.epochs=null").startswith(f"{phase}.epochs=null: expected ")


# --- a number of clusters that was found --------------------------------------------------------------------------


def found(path: Path, asked: str, number: int) -> Path:
    return make_run(path, *CONSTANT, f"clustering.n_clusters={number}", n_clusters_choice={"asked": asked})


def test_a_search_that_is_repeated_takes_the_number_that_was_found(tmp_path: Path) -> None:
    run, new = found(tmp_path / "run", "auto:3-7", 5), tmp_path / "new"
    wanted = composed(*CONSTANT, "clustering.n_clusters=auto:3-7")
    assert with_config_of(run, wanted).clustering.n_clusters == 5
    assert unfinished_run(wanted, new) == run


@pytest.mark.parametrize("asked", ["auto", "auto:3-8"])
def test_another_search_is_another_run(asked: str, tmp_path: Path) -> None:
    run = found(tmp_path / "run", "auto:3-7", 5)
    wanted = composed(*CONSTANT, f"clustering.n_clusters={asked}")
    assert unfinished_run(wanted, tmp_path / "new") is None
    with pytest.raises(UserError, match=rf"clustering.n_clusters={asked}: expected 5 as in"):
        with_config_of(run, wanted)


@pytest.mark.parametrize("choice", [None, "5", {}, {"asked": 5}])
def test_a_number_that_was_given_is_not_one_that_was_found(choice: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "run", *CONSTANT, "clustering.n_clusters=5", n_clusters_choice=choice)
    assert unfinished_run(composed(*CONSTANT, "clustering.n_clusters=auto:3-7"), tmp_path / "new") is None
    assert unfinished_run(composed(*CONSTANT, "clustering.n_clusters=5"), tmp_path / "new") == tmp_path / "run"
