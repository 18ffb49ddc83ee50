"""The command ``dkm``: verbs, help on one screen, explanations of every name, checks."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from dkm import __main__ as command
from dkm import __version__, checks, completion
from dkm import help as help_command
from dkm.clustering import functional
from dkm.config.commands import COMMANDS
from dkm.config.commands import main as run_command
from dkm.config.explain import explain, names, options
from dkm.config.groups import GROUPS, PRESETS
from dkm.config.page import composed_values
from dkm.config.roles import declarations
from dkm.config.settings import REQUIRED, setting_of
from dkm.config.short import SHORT_NAMES
from dkm.config.verbs import VERBS, default_of, overview, screen
from dkm.errors import Failure, UserError

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
Output = pytest.CaptureFixture[str]


def run(*words: str) -> int:
    """Return the exit code of ``dkm WORDS``."""
    try:
        return command.run(words)
    except SystemExit as exited:
        return int(exited.code or 0)


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dkm"])


# --- verbs --------------------------------------------------------------------------------------------------------


def test_every_verb_has_a_module_that_runs_it() -> None:
    assert [*VERBS] == [
        *("train", "predict", "export", "compare", "select", "tune", "report", "checks", "completion", "version"),
        "help",
    ]
    for verb in VERBS.values():
        assert callable(import_module(verb.module).main)
    assert COMMANDS.keys() <= VERBS.keys()


def test_the_console_scripts_are_the_command_and_the_modules() -> None:
    scripts = PROJECT["scripts"]
    assert scripts["dkm"] == "dkm.__main__:main"
    for name in ("train", "predict", "export", "compare", "select", "tune"):
        assert scripts[f"dkm-{name}"] == f"dkm.{name}:main"


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_fits_a_screen(name: str, capsys: Output) -> None:
    assert run(name, "--help") == 0
    text, error = capsys.readouterr()
    assert error == ""
    lines = text.splitlines()
    assert len(lines) <= 23  # the prompt takes one of 24
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: dkm {name}")
    assert sum(line.startswith(f"  dkm {name}") for line in lines) == (1 if name == "version" else 3)
    assert "hydra" not in text.lower()
    for key in VERBS[name].settings:
        [line] = [line for line in lines if line.startswith(f"  {key} ")]
        default = default_of(name, key)
        assert ("(required)" in line) == (default == REQUIRED)
    assert run("help", name) == 0
    assert capsys.readouterr().out == text


def test_the_defaults_on_a_screen_are_those_of_the_declarations() -> None:
    assert "  seed         seed of all random numbers (default 0)" in screen("train")
    assert "  image_size   height and width of images, in pixels (default 32)" in screen("train")
    assert "  objective    the score to optimize (default modularity_data)" in screen("tune")
    assert "(also seeds=) (default 0,1,2)" in screen("select")
    assert "below the median, if joint.guard=false (default true)" in screen("tune")  # not with the default recipe
    assert "  output       directory of the run, or of the sweep\n" in screen("train")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_command_alone_lists_its_verbs(words: list[str], capsys: Output) -> None:
    assert run(*words) == (0 if words else 2)
    text = capsys.readouterr().out
    assert text == overview() + "\n"
    lines = text.splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if re.match(r"  \w+ +[A-Z]", line)] == [*VERBS]


@pytest.mark.parametrize("words", [["version"], ["--version"], ["-V"]])
def test_the_version_is_that_of_the_package(words: list[str], capsys: Output) -> None:
    assert run(*words) == 0
    assert capsys.readouterr() == (f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("trian", "trian: unknown command; did you mean `dkm train`?"),
        ("comparre runs", "comparre: unknown command; did you mean `dkm compare`?"),
        ("qqq", f"qqq: unknown command; expected one of {', '.join(VERBS)}"),
        ("data=blobs seed=1", "data=blobs: unknown command; did you mean `dkm train data=blobs seed=1`?"),
        ("pyproject.toml", "pyproject.toml: unknown command; did you mean `dkm train pyproject.toml`?"),
    ],
)
def test_a_mistyped_verb_is_answered_from_the_commands_own_words(
    words: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(*words.split()) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_a_command_that_is_suggested_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my file.csv").touch()
    assert run("my file.csv", "columns=a b,c") == 2
    line = capsys.readouterr().err
    assert shlex.split(line.split("`")[1]) == ["dkm", "train", "my file.csv", "columns=a b,c"]


def test_the_words_after_a_verb_reach_its_module(capsys: Output) -> None:
    assert run("train", "--cfg", "job", "--package", "model", "debug") == 0
    out, err = capsys.readouterr()
    assert "hidden:\n- 64\n- 32\n" in out
    assert err == "debug: experiment=debug\n"
    assert run("train", "bach_size=1") == 2
    assert "did you mean batch_size?" in capsys.readouterr().err
    assert run("predict", "RUN", "new.csv") == 2
    assert capsys.readouterr().err == "error: output: missing; expected output=VALUE; add it to the command\n"


@pytest.mark.parametrize("name", VERBS)
def test_the_examples_of_a_verb_are_commands_of_it(name: str) -> None:
    for example in VERBS[name].examples:
        assert shlex.split(example)[0] == name


# --- explanations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_name_is_explained(name: str) -> None:
    text = explain(name)
    lines = text.splitlines()
    assert len(lines) > 1 or name in text
    assert max(map(len, lines)) <= 80
    if name in declarations():
        meaning = " ".join(declarations()[name].meaning.replace("`", "").split())
        assert meaning[:60] in " ".join(text.split())
        assert re.search(r"^  default   \S", text, re.M)
        assert re.search(r"^  resume    \S", text, re.M)


@pytest.mark.parametrize("group", [*GROUPS, *PRESETS])
def test_every_option_is_explained(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"model.name": "mlp"}  # of model=auto, which has no schema of its own
    monkeypatch.setattr("dkm.config.explain.composed_values", lambda *overrides: values)  # 0.3 s for each option
    for option, meaning in options(group).items():
        text = explain(f"{group}={option}")
        assert text.startswith(f"{group}={option}\n")
        assert " ".join(meaning.replace("`", "").split())[:50] in " ".join(text.split())


def test_a_key_has_its_default_range_unit_options_and_short_name() -> None:
    assert explain("n_clusters").startswith("n_clusters is short for clustering.n_clusters.\n\nclustering.n_clusters\n")
    text = explain("pretrain.lr")
    assert "  default   0.002 with recipe=auto; 1.0 with recipe=aspc_da,dcn,dec,dec_da,idec;" in text
    assert "with recipe=flagship; else 0.003\n  values    a finite number above 0\n" in text
    text = explain("clustering.weight")
    assert "else 0.1; 0.01 for dkm; 1.0 for dec\n" in " ".join(text.split("\n            "))
    assert "  only      clustering=kmeans clustering=dkm" in text
    assert "clustering=none" not in text
    assert "(epochs)" in explain("pretrain.epochs")
    assert "  short     id=\n" in explain("data.id") + "\n"
    assert explain("lr").count("Learning rate.") == 2
    assert "dkm select jobs=" in explain("jobs")
    assert explain("jobs").startswith("jobs\n  Number of runs that dkm train --multirun trains at a time, by default")
    assert "dkm tune jobs=" in explain("jobs")
    assert "hydra.run.dir\n  Directory of the run" in explain("output")


@pytest.mark.parametrize("recipe", ["auto", "classic", "dec"])
def test_the_defaults_of_a_recipe_are_those_of_a_run_with_it(recipe: str) -> None:
    values = composed_values(f"recipe={recipe}")
    for key in ("pretrain.lr", "pretrain.epochs", "joint.lr", "precision", "model.hidden", "model.latent_dim"):
        default = " ".join(explain(key).partition("  default")[2].partition("\n  resume")[0].split())
        of_recipe = re.search(rf"(?:^|; )([^;]*) with recipe=[\w,]*\b{recipe}\b", default)
        otherwise = re.search(r"(?:^|; )else (\[.*?\]|[^; ]*)", default)
        assert values[key] == (of_recipe or otherwise)[1], (key, default)  # type: ignore[index]


@pytest.mark.parametrize("key", ["data.id", "data.load", "data.array", "data.encoding"])
def test_a_key_that_options_declare_in_different_ways_is_explained_for_each(key: str) -> None:
    part = key.partition(".")[2]
    having = {option: declared for option, schema in GROUPS["data"].items() if (declared := setting_of(schema, part))}
    text = explain(key)
    assert text.count(f"{key}\n  ") == len({declared.meaning for declared in having.values()}) > 1
    for declared in having.values():
        assert " ".join(declared.meaning.replace("`", "").split()) in " ".join(text.split())


def test_an_option_is_explained_with_the_values_of_a_run_that_has_it() -> None:
    assert "  clustering.init=data  " in explain("clustering=dec")
    assert "  data.path=required  " in explain("data=csv")
    assert "  joint.lr=0.002  " in explain("joint")


def test_an_option_without_a_schema_of_its_own_is_explained() -> None:
    assert list(options("model")) == ["mlp", "conv", "custom", "auto"]
    text = explain("model=auto")
    assert text.startswith("model=auto\n  Fully connected like mlp, but small")
    assert "  model.hidden=null  " in text
    assert "  auto  " in explain("model")
    assert completion.candidates(["train"], "model=a") == ["model=auto"]


@pytest.mark.parametrize(
    ("words", "key"), [("data=csv", "data.path"), ("model=custom", "model.class"), ("data=custom", "data.class")]
)
def test_what_an_option_requires_is_shown_by_help(words: str, key: str, capsys: Output) -> None:
    assert run("train", "--help", words) == 0
    assert f"  {key}=required" in capsys.readouterr().out
    assert run("help", "settings", words) == 0
    assert f"  {key}=required" in capsys.readouterr().out


def test_help_with_settings_takes_short_names(capsys: Output) -> None:
    assert run("help", "settings", "customers.csv", "n_clusters=8") == 2
    capsys.readouterr()
    assert run("help", "settings", "data=csv", "data.path=customers.csv", "n_clusters=8", "columns=a,b") == 0
    out = capsys.readouterr().out
    assert "  clustering.n_clusters=8 " in out
    assert re.search(r"^  data.columns=\[.?a.?, ?.?b.?\]", out, re.M)
    assert "customers.csv" in out


def test_a_value_beside_a_key_is_left_out() -> None:
    assert explain("pretrain.lr=0.1") == explain("pretrain.lr") == explain("+pretrain.lr=0.1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.lables", "data.lables: expected a setting, a group, a section or a command; did you mean `dkm help "
         "data.labels`?"),
        ("traim", "traim: expected a setting, a group, a section or a command; did you mean `dkm help train`?"),
        ("qqqq", "qqqq: expected a setting, a group, a section or a command; `dkm help settings` lists the settings"),
        ("clustering=kmean", "clustering=kmean: expected one of kmeans, dkm, dcn, dec, idec, none, custom; did you "
         "mean `dkm help clustering=kmeans`?"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(name: str, message: str, capsys: Output) -> None:
    with pytest.raises(UserError) as raised:
        explain(name)
    assert str(raised.value) == message
    assert run("help", name) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_all_settings_are_listed_with_their_values(capsys: Output) -> None:
    help_command.work(["settings", "clustering=dcn", "clustering.count=7"])
    text = capsys.readouterr().out
    assert "  clustering.count=7 " in text
    assert "  joint.lr=0.002 " in text


def test_short_names_are_on_the_screen_of_training() -> None:
    assert SHORT_NAMES.keys() <= VERBS["train"].settings.keys()


# --- checks -------------------------------------------------------------------------------------------------------


def test_checks_print_what_a_bug_report_needs(capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setenv("DKM_DATA_ROOT", f"~/{tmp_path.name}")
    assert run("checks") == 0
    out, err = capsys.readouterr()
    assert err == ""
    shown = {line[:16].rstrip(): line[16:] for line in out.splitlines()}
    assert shown["dkm"] == __version__
    assert shown["Python"].startswith(sys.version.partition(" ")[0])
    assert shown["torch"] == import_module("torch").__version__.partition("+")[0]
    assert {"numpy", "hydra-core", "system", "processor", "cores", "memory", "GPU", "threads"} <= shown.keys()
    assert shown["data root"] == f"{tmp_path} (DKM_DATA_ROOT, exists)"
    assert shown["folder"] == f"{tmp_path} (writable)"
    assert re.fullmatch(r"\d+ losses against their broadcast form, largest relative difference \S+", shown["self test"])


def test_the_extras_are_those_of_the_project() -> None:
    extras = PROJECT["optional-dependencies"].keys() - {"test", "dev", "docs", "benchmark", "fuzz"}
    assert checks.EXTRAS.keys() == extras
    for extra, modules in checks.EXTRAS.items():
        assert len(modules) == len(PROJECT["optional-dependencies"][extra]), extra


def test_a_wrong_loss_fails_the_self_test(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    kmeans_loss = functional.kmeans_loss
    monkeypatch.setattr(functional, "kmeans_loss", lambda z, centroids: kmeans_loss(z, centroids) * 1.001)
    with pytest.raises(Failure, match=r"the loss differs from its definition by 1\.0e-03"):
        checks.work(["checks"])


def test_checks_take_no_argument(capsys: Output) -> None:
    assert run("checks", "all") == 2
    assert capsys.readouterr().err == "error: all: expected no argument; write dkm checks\n"


# --- time ---------------------------------------------------------------------------------------------------------

WITHOUT = """
import sys
from dkm.__main__ import run
code = run({words})
loaded = {{"torch", "numpy", "hydra", "sklearn", "pyarrow"}} & sys.modules.keys()
assert not loaded, loaded
raise SystemExit(code)
"""


@pytest.mark.parametrize(("words", "code"), [(["train", "--help"], 0), (["select", "-h"], 0), (["trian"], 2)])
def test_help_loads_neither_torch_nor_hydra(words: list[str], code: int, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(words=words)], cwd=tmp_path, capture_output=True)
    assert done.returncode == code, done.stderr


def test_a_door_prints_the_screen_of_its_verb(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(sys, "argv", ["dkm-predict", "--help"])
    with pytest.raises(SystemExit) as exited:
        import_module("dkm.predict").main()
    assert (exited.value.code, capsys.readouterr().out) == (0, screen("predict") + "\n")
    monkeypatch.setattr(sys, "argv", ["anything"])
    with pytest.raises(SystemExit) as exited:
        run_command(lambda words: None, "a text")
    assert (exited.value.code, capsys.readouterr().out) == (2, "a text\n")
