"""Files that may come from someone else: run directories, model folders, data. None of them makes code run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import yaml
from pyarrow import feather

from dkm import export, predict
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS
from dkm.config.resolved import escaped, read_config, read_yaml, section_of
from dkm.config.schema import dotted
from dkm.data.datasets import load_dataset
from dkm.data.texts import features
from dkm.errors import UserError
from dkm.evaluation.prediction import input_reader
from dkm.models.saved import load_model
from dkm.runtime.atomic import write_atomically
from dkm.train import main
from dkm.training import resume

# Importing it leaves a trace.
EVIL = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"
EVIL += "class Callback:\n    def __init__(self, **options): ...\n"
SECRET = "correct horse battery staple"
QUICK = [
    *("data=blobs", "data.n_samples=60", "recipe=classic", "model.hidden=[4]", "clustering.n_init=1", "device=cpu"),
    *("pretrain.epochs=1", "joint.epochs=1", "log.figures=false", "log.tensorboard=false", "log.progress=off"),
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``dkm.train`` in this process and returns its exit code, output and errors."""

    def start(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dkm-train", *words])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capfd.readouterr()
        return int(exited.value.code or 0), captured.out, captured.err

    return start


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exited:
        patch.setattr(sys, "argv", ["dkm-train", *QUICK, f"hydra.run.dir={folder}"])
        main()
    assert not exited.value.code
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of a run, in a working directory with a module that must not be imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "evil_configs").mkdir()
    (tmp_path / "evil_configs" / "evil.yaml").write_text("_target_: evil.Callback\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DKM_TEST_SECRET", SECRET)
    yield Path(shutil.copytree(trained, tmp_path / "run"))
    assert not (tmp_path / "executed").exists()
    assert "evil" not in sys.modules


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


OLD = Path(__file__).parent / "fixtures" / "runs_0.1"


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a model folder of ``tests/fixtures``, by default that of a table."""
    return Path(shutil.copytree(OLD / getattr(request, "param", "table") / "model", tmp_path / "model"))


def change_json(path: Path, key: str, value: object) -> None:
    """Set the value of a dotted key; ``...`` removes it."""
    content = part = json.loads(path.read_text())
    *sections, name = key.split(".")
    for section in sections:
        part = part[section]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    path.write_text(json.dumps(content))


# --- the config of a run --------------------------------------------------------------------------------------------

CALLBACKS = {"callbacks": {"evil": {"_target_": "evil.Callback"}}}
PLANTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "callbacks": lambda config: config.update(hydra=CALLBACKS),
    "searchpath": lambda config: config.update(hydra={"searchpath": ["pkg://evil", "file://evil_configs"]}),
    "launcher": lambda config: config.update(hydra={"launcher": {"_target_": "evil.Callback"}}),
    "defaults": lambda config: config["defaults"].insert(0, {"override /hydra/job_logging": "default"}),
    "another config": lambda config: config["defaults"].append("evil"),
    "a group": lambda config: config["defaults"].append({"hydra/callbacks": "evil"}),
}
WAYS = {
    "resume": ["resume=run"],
    "repeat": ["--config-dir", "run", "--config-name", "config", "hydra.run.dir=again"],
    "by path": ["--config-path", "run", "hydra.run.dir=again"],
    "sweep": ["--config-dir", "run", "--multirun", "seed=0,1", "hydra.sweep.dir=again"],
    "show": ["--config-dir", "run", "--cfg", "all"],
    "help": ["--config-dir", "run", "--help"],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", PLANTED)
def test_hydra_composes_nothing_of_a_run(what: str, way: str, folder: Path, run: Run) -> None:
    edit(folder / "config.yaml", PLANTED[what])
    code, out, err = run(*WAYS[way])
    assert (code, out) == (2, "")
    has_hydra = "hydra" in yaml.safe_load((folder / "config.yaml").read_text())
    key = "hydra: expected no settings of Hydra" if has_hydra else "defaults="
    assert err.startswith(f"error: {folder / 'config.yaml'}: {key}")
    assert err.count("\n") == 1
    assert not Path("again").exists()


@pytest.mark.thorough
def test_a_config_beside_that_of_a_run_is_not_composed(folder: Path, run: Run) -> None:
    (folder / "paths.yaml").write_text(yaml.safe_dump({"hydra": CALLBACKS}))
    (folder / "schema.yaml").write_text(yaml.safe_dump({"hydra": CALLBACKS}))
    for way in ("repeat", "show", "sweep"):
        code, _, err = run(*WAYS[way])
        assert (code, err) == (0, "")
    code, _, err = run("--config-dir", "run", "--config-name", "paths")
    assert code == 2
    assert "paths.yaml: hydra: expected no settings of Hydra" in err
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"hydra": CALLBACKS}))
    (folder / "config.yaml").rename("elsewhere.yaml")
    code, _, err = run("--config-dir", "run", "experiment=mine")
    assert code == 2
    assert "nothing in a run directory is composed" in err


@pytest.mark.parametrize("way", WAYS)
def test_interpolations_in_the_config_of_a_run_are_not_evaluated(way: str, folder: Path, run: Run) -> None:
    cache = str(folder.parent / "${oc.env:DKM_TEST_SECRET}")
    edit(folder / "config.yaml", lambda config: config["pretrain"].update(cache=cache))
    longer = ["joint.epochs=2"] if way == "resume" else []  # a run that has ended writes its config when it goes on
    code, out, err = run(*WAYS[way], *longer)
    assert code == 0
    assert SECRET not in " ".join((out + err).split())  # YAML folds long lines
    assert not any(SECRET in path.name for path in Path().rglob("*"))
    for path in Path().rglob("*.yaml"):
        assert SECRET not in " ".join(path.read_text().split())


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_of_the_config_of_a_run_evaluates_no_interpolation(way: str, folder: Path, run: Run) -> None:
    """A file of initial clusters does not go with the run's clustering.init."""
    init_file = "${oc.env:DKM_TEST_SECRET}/${seed}"
    edit(folder / "config.yaml", lambda config: config["clustering"].update(init_file=init_file))
    code, out, err = run(*WAYS[way])
    assert (code, out) == (2, "")
    assert init_file in err
    assert SECRET not in err


def test_a_text_like_an_interpolation_stays_that_text(folder: Path) -> None:
    path = "/a/${seed}/\\${x}/\\\\${"
    edit(folder / "config.yaml", lambda config: config["pretrain"].update(cache=path))
    assert read_config(folder / "config.yaml").pretrain.cache == path
    words = ["--config-dir", "run", "--config-name", "config"]
    assert compose(parse(words)).config.pretrain.cache == path
    own = compose(parse([*words, "pretrain.cache=/x/${seed}", "seed=3"])).config  # the command line is the user's
    assert own.pretrain.cache == "/x/3"
    assert escaped({"a": ["${x}", 1], "b": None}) == {"a": ["\\${x}", 1], "b": None}


def test_the_config_of_a_run_is_read_as_hydra_would_compose_it(folder: Path) -> None:
    config = read_config(folder / "config.yaml")
    composed = compose(parse([*QUICK])).config
    composed.data.root = config.data.root  # relative to the working directory
    before, after = dotted(composed), dotted(config)
    assert {key: (before[key], after[key]) for key in before if before[key] != after[key]} == {}
    assert {key: type(value) for key, value in before.items()} == {key: type(value) for key, value in after.items()}


WRONG: dict[str, tuple[str, str]] = {
    "not a mapping": ("- 1\n", "a list; expected the plain values"),
    "no YAML": ("seed: [\n", "expected the plain values that a run writes, in YAML"),
    "a tag": ("seed: !!python/object/apply:os.mkdir [executed]\n", "the tag tag:yaml.org,2002:python/object/apply"),
    "a tag of YAML": ("seed: !!int\n", "the tag tag:yaml.org,2002:int in line 1"),
    "references": ("a: &a [1]\nb: *a\n", "a reference (*) in line 2"),
    "deep": ("a: " + "[" * 40, "more than 32 levels in line 1; expected the plain values"),
    "too deep": ("a: " + "[" * 2_000_000, "; expected the plain values"),  # PyYAML 6.0.4 has a limit of its own
    "too deep in blocks": ("- " * 2_000_000, "more than 32 levels in line 1; expected the plain values"),
    "too large": ("a: " + "x" * 2**22, "more than 4,194,304 bytes"),
    "no text": ("\x00\x01", "expected the plain values that a run writes, in YAML"),
    "an unknown key": ("sed: 1\n", "sed: expected a key of the config; did you mean"),
    "a mistyped short name": (
        "nclusters: 3\n",
        "nclusters: expected a key of the config; did you mean clustering.n_cl",
    ),
    "no sections": ("seed: 1\n", "data: missing from the config"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_config_that_no_run_wrote_is_refused(what: str, tmp_path: Path) -> None:
    content, expected = WRONG[what]
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        read_config(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ")
    assert expected in text
    assert "\n" not in text
    assert len(text) < 500


VALUES: dict[str, tuple[Any, str]] = {
    "batch_size": ("${oc.env:DKM_TEST_SECRET}", "batch_size=${oc.env:DKM_TEST_SECRET}: expected a whole number"),
    "seed": (-1, "seed=-1: expected a whole number from 0"),
    "compile": (1, "compile=1: expected true or false"),
    "pretrain.lr": ("fast", "pretrain.lr=fast: expected a number"),
    "model.hidden": ([4.5], "model.hidden=4.5: expected a list"),
    "model.latent_dim": ("???", "model.latent_dim=???: expected a value"),
    "model.name": ("nope", "model.name=nope: expected one of mlp, conv, custom"),
    "model": ([1], "model=[1]: expected a section with keys and values"),
    "model.depth": (2, "model.depth: expected a key of the config"),
    "data": ({"name": "csv", "labels": "y"}, "data.path=???: expected a value; set data.path=VALUE"),
    "clustering": ({"name": "custom"}, "clustering.class=???: expected a value"),
    "clustering.n_clusters": ([3], "clustering.n_clusters=[3]: expected a whole number, auto, auto:A-B or null"),
}


@pytest.mark.parametrize("key", VALUES)
def test_a_value_of_the_config_of_a_run_is_checked_against_the_schema(key: str, folder: Path) -> None:
    value, expected = VALUES[key]

    def plant(config: dict[str, Any]) -> None:
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value

    edit(folder / "config.yaml", plant)
    with pytest.raises(UserError) as refused:
        read_config(folder / "config.yaml")
    assert str(refused.value).startswith(f"{folder / 'config.yaml'}: {expected}")


def test_numbers_and_dates_are_read_as_omegaconf_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("[1e-3, 1.5, -2e+4, 2024-01-01, 7, true, null, 'off', 1.e2]\n")
    assert read_yaml(path) == [1e-3, 1.5, -2e4, "2024-01-01", 7, True, None, "off", 100.0]


def test_export_and_predict_execute_nothing_of_a_run(folder: Path) -> None:
    np.save("x.npy", np.zeros((5, 16)))
    edit(folder / "config.yaml", lambda config: config.update(hydra=CALLBACKS))
    with pytest.raises(UserError, match="hydra: expected no settings of Hydra"):
        export.work(["run=run", "output=artifact", "format=numpy"])
    predict.work(["run=run", "input=x.npy", "output=x.csv"])  # which does not read the config
    assert Path("x.csv").exists()


# --- model.json ---------------------------------------------------------------------------------------------------

COLUMN = {"name": "age", "kind": "number"}
COLUMNS = {"columns": [COLUMN, {"name": "b", "kind": "number"}, {"name": "c", "kind": "number"}]}
COLUMNS |= {"has_header": True, "refuses_gaps": True}


def with_column(**fields: object) -> dict[str, object]:
    return {**COLUMNS, "columns": [{**COLUMN, **fields}, *COLUMNS["columns"][1:]]}  # type: ignore[index]


TAMPERED: list[tuple[str, object, str]] = [
    ("format_version", 2, "format_version=2, this release reads 1"),
    ("format_version", True, "format_version=True"),
    ("model", "mlp", "model: expected the section of a network"),
    ("model.name", "nope", "model.name: 'nope', expected one of mlp, conv, custom"),
    ("model.name", ["mlp"], "model: expected the section"),
    ("model.hidden", "${oc.env:DKM_TEST_SECRET}", "model.hidden=${oc.env:DKM_TEST_SECRET}: expected a list"),
    ("model.hidden", [10**12], "model.hidden: [1000000000000], expected at most 1,000 widths of at most 16,777,216"),
    ("model.hidden", [4] * 2000, "model.hidden: [4, 4,"),
    (
        "model.hidden",
        [2**24, 2**24],
        "weights.safetensors: encoder.0.weight: (8, 3), model.json describes (16777216, 3)",
    ),
    ("model.depth", 3, "model.depth: expected a key of the config"),
    ("n_features", 4, "scaling.n_features: 3, expected n_features=4"),
    ("n_features", 2**62, "n_features: 4611686018427387904, expected a whole number from 1 to 2,147,483,647"),
    ("n_features", "3", "n_features: '3', expected a whole number"),
    ("n_features", ..., "n_features: None, expected a whole number"),
    ("latent_dim", -1, "latent_dim: -1, expected a whole number"),
    ("latent_dim", 2**24, "weights.safetensors: encoder.2.weight"),
    ("n_clusters", 2.0, "n_clusters: 2.0, expected a whole number"),
    ("n_clusters", 7, "centroids of shape (3, 2)"),
    ("image_shape", [1, 2, 3], "image_shape: [1, 2, 3], expected null or three numbers whose product is n_features=3"),
    ("image_shape", "abc", "image_shape: 'abc'"),
    ("scaling", [], "scaling: [], expected an object"),
    ("scaling.kind", "nope", "scaling.kind: 'nope', expected one of"),
    ("scaling.kind", "counts", "scaling.total: None, expected a finite number above 0"),
    ("scaling.shift", [0.0] * 7, "scaling.shift: 7 numbers, expected 1 or 3 of them"),
    ("scaling.shift", [0, "1", 2], "scaling.shift: '1', expected finite numbers"),
    ("scaling.shift", [0, None, 2], "scaling.shift: None, expected finite numbers"),
    ("scaling.shift", [float("nan")], "scaling.shift: nan, expected finite numbers"),
    ("scaling.scale", [0, 1, 1], "scaling.scale: 0, expected finite numbers above 0, or null"),
    ("scaling.scale", [10**400], "scaling.scale: 1000"),
    ("data", 5, "data: 5, expected the name of a data set"),
    ("features", ["a"], "features: 1 texts, expected n_features=3 of them"),
    ("features", [1, 2, 3], "features: [1, 2, 3], expected a list of texts"),
    ("fill", [1.0], "fill: 1 numbers, expected 3 of them"),
    ("fill", [1.0, 2.0, float("inf")], "fill: inf, expected a number for each feature"),
    ("variance", -1, "variance: -1, expected null or a finite number"),
    ("reading", 3, "reading: 3, expected an object"),
    ("reading.missing_values", "x", "reading.missing_values=x: expected what data.missing_values may be"),
    ("plan", [], "plan: [], expected null or an object"),
    ("plan", {"columns": 1}, "plan.columns: 1, expected a list"),
    ("plan", {**COLUMNS, "has_header": 1}, "plan.has_header: 1, expected true or false"),
    ("plan", with_column(evil=1), "plan.columns[0]: {"),
    ("plan", with_column(kind="code"), "plan.columns[0].kind: 'code', expected one of number"),
    ("plan", with_column(role="boss"), "plan.columns[0].role: 'boss', expected one of feature"),
    ("plan", with_column(levels=3), "plan.columns[0].levels=3: expected a value of this type"),
    ("plan", with_column(kind="list", length=10**12), "plan.columns[0].length: 1000000000000"),
    ("plan", with_column(kind="date", cycles=["moon"]), "plan.columns[0].cycles: ['moon']"),
    ("plan", with_column(marks="x"), "plan.columns[0].marks: 'x', expected one of earlier"),
    ("plan", with_column(first_year=10**9), "plan.columns[0].first_year: 1000000000, expected a year before 9900"),
    ("plan", with_column(fill="x"), "plan.columns[0].fill: 'x', expected null, a finite number"),
    ("plan", with_column(role="id"), "plan.columns: 2 features, expected n_features=3"),
    ("plan", with_column(name="bge"), "plan.columns: other features, expected those of the field features"),
    ("plan", {"features": ["a"]}, "plan.features: 1 texts"),
    ("plan", {"range": [3, 1]}, "plan.range: [3, 1], expected the smaller number first"),
    ("plan", {"range": [3]}, "plan.range: 1 numbers, expected 2 of them"),
    ("plan", {"layout": "whc"}, "plan.layout: 'whc', expected one of rows"),
    ("plan", {"layout": "hwc", "image_shape": [9, 9, 9]}, "plan.image_shape: [9, 9, 9]"),
    ("plan", {"array": 3}, "plan.array: 3, expected the name of an array"),
    ("plan", {"is_last": "yes"}, "plan.is_last: 'yes', expected true or false"),
    (
        "plan",
        {"text": {"encoder": {"name": "x"}, "has_header": 1}},
        "plan.text.has_header: 1, expected true or false",
    ),
    ("plan", {"encoder": {"name": 3}}, "plan.encoder.name: 3, expected text"),
    ("plan", {"text": {}}, "plan.text: [], expected either tfidf or encoder"),
    ("plan", {"text": {"tfidf": {"vocabulary": ["a", "a", "b"]}}}, "plan.text.tfidf.vocabulary: ['a', 'a', 'b']"),
    ("plan", {"text": {"tfidf": {"vocabulary": ["a", "c", "b"], "idf": [1]}}}, "plan.text.tfidf.idf: 1 numbers"),
]


@pytest.mark.parametrize(("key", "value", "expected"), TAMPERED)
def test_a_tampered_description_is_refused_with_its_field(
    key: str, value: object, expected: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DKM_TEST_SECRET", SECRET)
    change_json(model / "model.json", key, value)
    with pytest.raises(UserError) as refused:
        load_model(str(model))
    text = str(refused.value)
    assert text.startswith(f"run={model}: the model in {model} cannot be read (")
    assert expected in text
    assert text.endswith(" copy the folder again")
    assert "\n" not in text
    assert SECRET not in text


@pytest.mark.parametrize(
    "model", sorted(path.parent.parent.name for path in OLD.glob("*/model/model.json")), indirect=True
)
def test_the_models_of_version_0_1_pass_the_checks(model: Path) -> None:
    assert load_model(str(model)).n_clusters == 3


@pytest.mark.parametrize("model", ["conv"], indirect=True)
def test_a_huge_image_is_refused_before_anything_is_allocated(model: Path) -> None:
    for key in ("n_features", "scaling.n_features"):
        change_json(model / "model.json", key, 2**30)
    change_json(model / "model.json", "image_shape", [1, 2**15, 2**15])
    with pytest.raises(UserError, match=r"weights\.safetensors: encoder\.\d+\.weight: .*, model\.json describes"):
        load_model(str(model))


def test_a_description_that_is_no_object_of_json_is_refused(model: Path) -> None:
    for content in (b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b"", b'{"format_version": 1}'):
        (model / "model.json").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read \(model\.json: "):
            load_model(str(model))


HALF = "the half character '\\ud800', expected texts of whole characters"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("features", ["\ud800", "b", "c"], f"features: {HALF}"),
        ("data", "csv\ud800", f"data: {HALF}"),
        ("plan", {**COLUMNS, "columns": [{"name": "x", "levels": ["\ud800"]}]}, f"plan: {HALF}"),
        ("plan", {"\ud800": 1}, f"plan: {HALF}"),
        ("\ud800", 1, f"\\ud800: {HALF}"),
    ],
)
def test_half_characters_of_a_description_are_refused(key: str, value: object, expected: str, model: Path) -> None:
    change_json(model / "model.json", key, value)
    for work in (
        lambda: predict.work([f"run={model}", f"input={OLD / 'people.csv'}", f"output={model.parent / 'x.csv'}"]),
        lambda: export.work([f"run={model}", f"input={OLD / 'people.csv'}", f"output={model.parent / 'artifact'}"]),
    ):
        with pytest.raises(UserError) as refused:
            work()
        assert f"cannot be read (model.json: {expected})" in str(refused.value)
        assert str(refused.value).encode()


def test_whole_characters_of_a_description_are_read(model: Path) -> None:
    change_json(model / "model.json", "data", "daten ä 😀")
    assert load_model(str(model)).data == "daten ä 😀"


def test_weights_that_are_not_finite_are_refused(model: Path) -> None:
    path = model / "weights.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    tensors["centroids"][0, 0] = float("nan")
    path.write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(UserError, match="weights that are not finite numbers"):
        load_model(str(model))


def test_texts_of_a_model_folder_are_not_resolved(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKM_TEST_SECRET", SECRET)
    monkeypatch.chdir(model.parent)
    change_json(model / "model.json", "reading.missing_values", ["${oc.env:DKM_TEST_SECRET}"])
    reader = input_reader(str(OLD / "people.csv"), load_model(str(model)))
    assert reader._config.missing_values == ["${oc.env:DKM_TEST_SECRET}"]  # type: ignore[attr-defined]
    change_json(model / "model.json", "reading.encoding", "${oc.env:DKM_TEST_SECRET}")
    with pytest.raises(UserError) as refused:
        predict.work(["run=model", f"input={OLD / 'people.csv'}", "output=x.csv"])
    assert SECRET not in str(refused.value)


def test_a_sentence_encoder_names_no_class_of_another_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "require_package", lambda *_: "5.0")
    encoder = Path("encoder")
    encoder.mkdir()
    (encoder / "model.safetensors").touch()
    for name, content in (
        ("modules.json", [{"idx": 0, "type": "sentence_transformers.models.Transformer"}, {"type": "evil.Callback"}]),
        ("router_config.json", {"types": {"query": "evil.Callback"}}),
    ):
        (encoder / name).write_text(json.dumps(content))
        with pytest.raises(UserError, match=f"{name} names the class evil.Callback; expected classes of sentence_tran"):
            features.find_sentence_encoder("encoder", None)
        (encoder / name).write_text(json.dumps({"types": 1}))
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            features.find_sentence_encoder("encoder", None)
        (encoder / name).unlink()


def test_resume_auto_reads_the_configs_of_other_runs_plainly(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest unfinished run of the same config is found without a composition for each run."""
    wanted = compose(parse([*QUICK])).config
    wanted.data.root = read_config(folder / "config.yaml").data.root
    for number in range(3):
        other = Path(shutil.copytree(folder, folder.parent / f"run{number}"))
        change_json(other / "manifest.json", "status", "interrupted")
        change_json(other / "manifest.json", "started", f"2026-01-0{number + 1}T00:00:00+00:00")
    edit(folder.parent / "run2" / "config.yaml", lambda config: config.update(seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(resume, "compose", None)  # would fail if it were called
        assert resume.unfinished_run(wanted, folder.parent / "new") == folder.parent / "run1"


# --- links ----------------------------------------------------------------------------------------------------------

# What resuming a run would write through, and what it would write to.
LINKS = {
    "train.log": "file",
    "metrics.jsonl": "file",
    "run.lock": "file",
    "result.json.tmp": "file",
    "model/model.json.tmp": "file",
    "exemplars.csv": "new file",
    "model": "folder",
    "checkpoints": "folder",
    ".hydra": "folder",
    "figures": "new folder",
}


@pytest.mark.parametrize("name", LINKS)
def test_a_run_with_a_link_that_leads_out_of_it_is_not_resumed(name: str, folder: Path, run: Run) -> None:
    target, link = Path("mine", LINKS[name]).absolute(), folder / name
    Path("mine", "folder").mkdir(parents=True)
    Path("mine", "file").write_text("ssh-rsa AAAA\n")
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = run("resume=run", "joint.epochs=2")
    assert (code, out) == (2, "")
    assert err == (
        f"error: {link}: a link to {target}; expected files of the run alone, as resuming it writes to them; remove "
        f"the link, or resume a copy without links: cp -rL {folder} {folder}-copy\n"
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in Path("mine").rglob("*")) == ["file", "folder"]
    assert Path("mine", "file").read_text() == "ssh-rsa AAAA\n"


def test_links_within_a_run_and_to_it_are_welcome(folder: Path, run: Run) -> None:
    (folder / "wandb" / "run-1").mkdir(parents=True)
    (folder / "wandb" / "latest-run").symlink_to("run-1")  # as wandb makes it
    Path("here").symlink_to(folder)
    code, _, err = run("resume=here")
    assert (code, err) == (0, "")
    assert json.loads((folder / "manifest.json").read_text())["n_resumed"] == 1


def test_a_link_under_a_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a.json.tmp").symlink_to("mine")
    write_atomically(tmp_path / "a.json", b"{}")
    assert ((tmp_path / "mine").read_text(), (tmp_path / "a.json").read_text()) == ("mine", "{}")
    assert not (tmp_path / "a.json").is_symlink()


# --- data -----------------------------------------------------------------------------------------------------------


def test_a_feather_file_with_damaged_offsets_ends_no_process(tmp_path: Path) -> None:
    path = tmp_path / "x.feather"
    table = pa.table({"x": np.arange(40.0) ** 2, "name": [f"name {i % 4}" for i in range(40)]})
    feather.write_feather(table, path, compression="uncompressed")
    content = path.read_bytes()
    offsets = np.arange(0, 41 * 6, 6, dtype=np.int32)
    assert content.count(offsets.tobytes()) == 1
    damaged = offsets.copy()
    damaged[7] = 2**30
    path.write_bytes(content.replace(offsets.tobytes(), damaged.tobytes()))
    data = {"name": "feather", "path": str(path), "root": "."}
    with pytest.raises(UserError, match=r"data\.path=.*: cannot be read \(.*\); expected a complete table"):
        load_dataset(section_of("data", GROUPS["data"]["feather"], data))
