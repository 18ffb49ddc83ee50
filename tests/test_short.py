"""Short names, ``output=``, ranges and ``jobs=``: the same spelling for the same thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dkm.config.compose import compose, parse
from dkm.config.messages import keys
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.config.settings import setting_of
from dkm.config.short import SHORT_NAMES, translate, translate_data_names
from dkm.config.values import absolute
from dkm.errors import UserError


def test_ten_short_names_stand_for_keys_that_exist() -> None:
    assert len(SHORT_NAMES) == 10
    assert {short.key for short in SHORT_NAMES.values()} - {"hydra.run.dir"} <= set(keys())


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_no_short_name_hides_a_setting(name: str) -> None:
    assert setting_of(Config, name) is None
    assert name not in set(keys())


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("n_clusters=8", "clustering.n_clusters", 8),
        ("n_clusters=auto:3-9", "clustering.n_clusters", "auto:3-9"),
        ("labels=class", "data.labels", "class"),
        ("id=customer", "data.id", "customer"),
        ("columns=age,income", "data.columns", ["age", "income"]),
        ("columns=[age,income]", "data.columns", ["age", "income"]),
        ("columns=null", "data.columns", None),
        ("exclude=first name,city", "data.exclude", ["first name", "city"]),
        ("scaling=rms", "data.scaling", "rms"),
        ("plugins=json,re", "plugins", ["json", "re"]),
        ("plugins=[json]", "plugins", ["json"]),
    ],
)
def test_a_short_name_sets_its_key(word: str, key: str, value: object) -> None:
    words = translate(["data=csv", "data.path=x.csv", word])
    assert dotted(compose(parse(words)).config)[key] == value


@pytest.mark.parametrize("folder", ["out", "my runs/a,b", "it's", "1e5", "x=y"])
def test_output_is_the_directory_of_a_run_or_of_a_sweep(folder: str) -> None:
    composed = compose(parse(translate([f"output={folder}"])))
    assert composed.hydra.run.dir == folder
    command = parse(["--multirun", *translate([f"output={folder}"], is_sweep=True)])
    composed = compose(command._replace(overrides=command.overrides[-1:]))
    assert composed.hydra.sweep.dir == folder


@pytest.mark.parametrize(
    ("flags", "key", "what"),
    [
        (["-m"], "hydra.run.dir", "a sweep"),
        (["-m"], "+hydra.run.dir", "a sweep"),
        ([], "hydra.sweep.dir", "a single run"),
    ],
)
def test_a_directory_that_would_be_ignored_is_refused(flags: list[str], key: str, what: str) -> None:
    with pytest.raises(UserError) as raised:
        parse([*flags, "seed=0", f"{key}='my runs'"])
    remedy = f"expected no such key, as {what} ignores it; write 'output=my runs'"
    assert str(raised.value) == f"{key}='my runs': {remedy}"


def test_a_directory_with_a_reference_is_left_to_hydra() -> None:
    assert translate(["output=runs/${seed}"]) == ["hydra.run.dir=runs/${seed}"]


def test_a_sweep_may_have_ranges_and_jobs() -> None:
    words = translate(["seed=0-4", "n_clusters=2-12", "jobs=2"], is_sweep=True)
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert words == ["seed=range(0,5)", "clustering.n_clusters=range(2,13)", *launcher]
    assert translate(["seed=3", "jobs=1"]) == ["seed=3"]


def test_equal_values_of_both_forms_are_one() -> None:
    assert translate(["n_clusters=8", "clustering.n_clusters=8"]) == ["clustering.n_clusters=8"]
    assert translate(["output=a", "hydra.run.dir='a'"]) == ["hydra.run.dir='a'"]


def test_a_sweep_that_is_resumed_may_name_its_folder_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = f"output={tmp_path / 'my runs'}"  # as the remedy of an interrupted sweep says
    for started in ("output=my runs", "hydra.sweep.dir='my runs'"):
        command = parse(["-m", *translate([started, folder], is_sweep=True)])
        words = [word for word in command.overrides if "=" in word]
        assert absolute(compose(command._replace(overrides=words)).hydra.sweep.dir) == str(tmp_path / "my runs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n_clusters=8", "clustering.n_clusters=5"], "n_clusters=8 and clustering.n_clusters=5: expected one value"),
        (["+labels=a", "data.labels=b"], "+labels=a and data.labels=b: expected one value; leave one of them out"),
        (["seed=0-2"], "seed=0-2: expected one value for one run; add --multirun for a run with each value"),
        (["n_clusters=5-9"], "write clustering.n_clusters=auto:5-9 to find the number in one run, or add --multirun"),
        (["seed=4-2"], "seed=4-2: expected a range that goes up; write seed=2-4"),
        (["jobs=2"], "jobs=2: expected one process for one run; add --multirun, or leave jobs out"),
        (["output="], "output=: expected a folder, got an empty text; for example output=runs/mine"),
        (["hydra.run.dir=''"], "hydra.run.dir='': expected a folder, got an empty text"),
        (["jobs=all"], "jobs=all: expected a whole number, 1 or more; for example jobs=2"),
    ],
)
def test_what_contradicts_itself_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        translate(words)
    assert message in str(raised.value)


def test_a_command_keeps_its_own_keys() -> None:
    words = ["run=R", "output=x.csv", "id=customer", "text=review", "n_clusters=3"]
    assert translate_data_names(words, kept=["run", "output", "text"]) == [
        *("run=R", "output=x.csv", "data.id=customer", "text=review", "n_clusters=3"),
    ]


@pytest.mark.parametrize("word", ["+experiment=debug", "++experiment=debug"])
def test_a_plus_before_an_experiment_is_accepted(word: str) -> None:
    assert dotted(compose(parse([word])).config) == dotted(compose(parse(["experiment=debug"])).config)
    assert parse(["+experiment=null"]).overrides == []
