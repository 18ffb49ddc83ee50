"""``dkm train FILE``, ``dkm train NAME``: what a word that stands alone means, and that it is told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from omegaconf import OmegaConf

from dkm import select, train, tune
from dkm.config.compose import compose, parse
from dkm.config.schema import dotted, to_dict
from dkm.errors import UserError
from dkm.runs import reading
from dkm.training.command_line import understand
from dkm.training.launch import plan_run

FOUND = "; without labels and n_clusters, the number of clusters is found: clustering.n_clusters=auto"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table, an array, and a folder of the name of a data set."""
    monkeypatch.setattr(sys, "argv", ["dkm-train"])  # which Hydra's flags replace, as they do this variable
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(60, 3))
    lines = [f"c{k},{','.join(f'{value:.3f}' for value in row)},{k % 3}" for k, row in enumerate(rows)]
    Path("customers.csv").write_text("\n".join(["customer,age,income,visits,class", *lines]))
    np.save("points.npy", rows)
    Path("year=2024").mkdir()
    Path("year=2024/my table.csv").write_text("a,b\n1,2\n3,4\n")
    return tmp_path


def test_a_file_decides_the_data_and_without_labels_the_number_is_found(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    understood = understand(["customers.csv"])
    assert understood.words == ["data=csv", "data.path=customers.csv", "clustering.n_clusters=auto"]
    assert capsys.readouterr() == ("", "")
    understood.tell()
    assert capsys.readouterr() == ("", f"customers.csv: data=csv, by its name{FOUND}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("customers.csv n_clusters=8", "data=csv data.path=customers.csv clustering.n_clusters=8"),
        ("customers.csv labels=class", "data=csv data.path=customers.csv data.labels=class"),
        ("seed=1 points.npy clustering.n_clusters=3", "data=npy data.path=points.npy seed=1 clustering.n_clusters=3"),
        ("customers.csv data=text n_clusters=2", "data.path=customers.csv data=text clustering.n_clusters=2"),
        ("customers.csv text=customer n_clusters=2", "data=text data.path=customers.csv data.text=customer "
         "clustering.n_clusters=2"),
        ("customers.csv data.path=customers.csv n_clusters=2", "data=csv data.path=customers.csv "
         "clustering.n_clusters=2"),
        ("customers.csv resume=RUN", "data=csv data.path=customers.csv resume=RUN"),
        ("customers.csv resume=auto", "data=csv data.path=customers.csv clustering.n_clusters=auto resume=auto"),
        ("-m customers.csv n_clusters=2-4 output=out", "-m data=csv data.path=customers.csv "
         "clustering.n_clusters=range(2,5) hydra.sweep.dir=out"),
        ("--cfg job customers.csv n_clusters=2", "--cfg job data=csv data.path=customers.csv clustering.n_clusters=2"),
        ("digits", "data=digits"),
        ("debug seed=1", "experiment=debug seed=1"),
        ("data=blobs", "data=blobs"),
        # A config of the user's own may set the number.
        ("--config-dir year=2024 customers.csv", "--config-dir year=2024 data=csv data.path=customers.csv"),
        ("-sc query=bash", "-sc query=bash"),
        ("--hydra-help customers.csv", "--hydra-help customers.csv"),
    ],
)  # fmt: skip
def test_words_mean(arguments: str, words: str, here: Path) -> None:
    assert understand(arguments.split(" ")).words == words.split(" ")


def test_a_path_may_have_an_equals_sign_and_spaces(here: Path) -> None:
    assert understand(["year=2024/my table.csv", "n_clusters=2"]).words == [
        *("data=csv", 'data.path="year=2024/my table.csv"', "clustering.n_clusters=2")
    ]


def test_an_experiment_of_the_users_own_is_a_name(here: Path) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text("# @package _global_\nseed: 5\n")
    assert understand(["--config-dir", "own", "mine"]).words == ["--config-dir", "own", "experiment=mine"]


def test_a_file_beside_the_config_of_a_run_is_the_path_of_its_data(here: Path) -> None:
    Path("run").mkdir()
    text = OmegaConf.to_yaml(OmegaConf.create(to_dict(compose(parse(["data=csv", "data.path=old.csv"])).config)))
    Path("run/config.yaml").write_text(text, encoding="utf-8")
    flags = ["--config-dir", "run", "--config-name", "config"]
    words = understand([*flags, "customers.csv"]).words
    assert words == [*flags, "data.path=customers.csv"]
    assert dotted(compose(parse(words)).config)["data.path"] == str(here / "customers.csv")


EXPECTED = "expected an override KEY=VALUE, a file or folder, or the name of a data set or an experiment; "
REFUSED = {
    "cstomers.csv": f"cstomers.csv: no such file or folder; {EXPECTED}did you mean customers.csv?",
    "omers.csv": f"omers.csv: no such file or folder; {EXPECTED}did you mean customers.csv?",
    "my.csv": f"my.csv: no such file or folder; {EXPECTED}`dkm help` explains them",
    "nowhere/x.bin": f"nowhere/x.bin: no such file or folder; {EXPECTED}`dkm help` explains them",
    "digts": f"digts: {EXPECTED}did you mean digits?",
    "debgu": f"debgu: {EXPECTED}did you mean debug?",
    "seed": f"seed: {EXPECTED}write seed=VALUE",
    "labels": f"labels: {EXPECTED}write labels=VALUE",
    "csv": f"csv: {EXPECTED}write data=csv data.path=VALUE",
    "custom": f"custom: {EXPECTED}write data=custom data.class=VALUE",
    "flagship": f"flagship: {EXPECTED}write recipe=flagship",
    "customers.csv data=digits": "customers.csv: expected no file beside data=digits, which reads none; leave",
    "customers.csv data.path=points.npy": "customers.csv and data.path=points.npy: expected one of them",
    "digits data=blobs": "digits and data=blobs: expected one of them; leave the other out",
    "customers.csv points.npy": "customers.csv points.npy: expected one file, folder or name, got 2; write the others",
    "moons": "moons: expected one meaning, got a file here and data=moons; write ./moons or data=moons",
    "--nope customers.csv": "--nope: expected a flag that is known",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_a_word_without_a_meaning_or_with_several_is_refused(arguments: str, here: Path) -> None:
    Path("moons").mkdir()
    with pytest.raises(UserError) as raised:
        understand(arguments.split(" "))
    assert str(raised.value).startswith(REFUSED[arguments])


def test_files_that_a_shell_has_listed_are_answered_with_their_pattern(here: Path) -> None:
    for name in ("a.csv", "b.csv"):
        Path("year=2024", name).write_text("a\n1\n")
    with pytest.raises(UserError, match=r"quote a pattern: 'year=2024/\*\.csv'"):
        understand(["year=2024/a.csv", "year=2024/b.csv"])


@pytest.mark.parametrize("flags", [[], ["-m"], ["--cfg", "job"], ["--help"]])
def test_an_error_is_not_preceded_by_what_was_derived(
    flags: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^nclusters=3: expected a key of the config; did you mean n_clusters\?$"):
        train._main([*flags, "customers.csv", "nclusters=3"])
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in here.iterdir()) == ["customers.csv", "points.npy", "year=2024"]


@pytest.mark.parametrize("command", [select, tune])
def test_an_error_of_a_search_is_not_preceded_by_what_was_derived(
    command: ModuleType, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^lables=class: expected a key of the config; did you mean labels\?$"):
        command.work(["customers.csv", "n_clusters=2-3" if command is select else "n_clusters=2", "lables=class"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--help"]])
def test_what_was_derived_is_told_beside_the_config(
    flags: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train._main([*flags, "customers.csv"]) == 0
    out, err = capsys.readouterr()
    assert "n_clusters" in out
    assert err == f"customers.csv: data=csv, by its name{FOUND}\n"


QUICK = [
    *("model.hidden=[4]", "pretrain.epochs=1", "joint.epochs=1", "clustering.n_init=1", "log.figures=false"),
    *("log.tensorboard=false", "log.progress=off", "evaluation.kmeans_raw=false"),
]


@pytest.mark.usefixtures("quick_search")
@pytest.mark.thorough
def test_a_table_is_clustered_by_its_name_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train._main(["customers.csv", "exclude=class", "output=run", *QUICK]) == 0
    assert capsys.readouterr().err.startswith(f"customers.csv: data=csv, by its name{FOUND}\n")
    run = reading.read(Path("run"))
    assert run.is_completed
    assert run.settings["data.path"] == str(here / "customers.csv")
    assert run.settings["data.exclude"] == ["class"]
    assert run.settings["clustering.n_clusters"] >= 2
    # The words that were understood repeat it, and the run is resumed by either spelling.
    assert train._main(["customers.csv", "exclude=class", "resume=run"]) == 0


def test_a_choice_takes_a_file_and_the_spellings_of_training(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(select, "select", lambda config, overrides, _: chosen.append((config, overrides)))
    select.work(["points.npy", "n_clusters=2-4", "seed=0-1", "output=out", "model.hidden=[4]"])
    select.work(["data=npy", "data.path=points.npy", "k=2-4", "seeds=range(0,2)", "output=out", "model.hidden=[4]"])
    (first, words), (second, same) = chosen
    assert (first.k, first.seeds, first.output) == ("2-4", "0-1", "out")
    assert second.seeds == "range(0,2)"
    assert words == same == ["data=npy", "data.path=points.npy", "model.hidden=[4]"]


def test_a_wrong_range_is_shown_as_it_was_written(here: Path) -> None:
    with pytest.raises(UserError, match=r"^n_clusters=1-4: expected numbers of 2 or more"):
        select.work(["points.npy", "n_clusters=1-4"])
    with pytest.raises(UserError, match=r"^n_clusters: missing; expected n_clusters=VALUE; add it to the command$"):
        select.work(["points.npy"])
    with pytest.raises(UserError, match=r"^n_clusters=2-4 and k=: expected one of them"):
        select.work(["points.npy", "k=2", "n_clusters=2-4"])


# --- output= ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["output=~/runs/x", "hydra.run.dir='~/runs/x'"])
def test_the_directory_of_a_run_may_be_in_the_home_folder(
    word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan_run(parse(understand(["data=blobs", word]).words)).directory == tmp_path / "runs" / "x"
