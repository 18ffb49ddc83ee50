"""What composes, with which defaults, and how fast: the config files, the dataclasses and the command line agree."""

from __future__ import annotations

import json
import logging
import re
import resource
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from written import SAME

import dkm
from dkm.config.compose import compose, parse
from dkm.config.data import NpzData
from dkm.config.groups import GROUPS
from dkm.config.messages import keys
from dkm.config.optimizer import SGDConfig
from dkm.config.run import Config
from dkm.config.schema import config_dir, dotted, flatten, from_dictconfig, to_dict
from dkm.config.settings import REQUIRED
from dkm.train import main

OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
RECIPES = sorted(path.stem for path in (config_dir() / "recipe").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
QUIET = ["log.tensorboard=false", "log.figures=false", "log.report=false", "clustering.n_init=1"]


class Done(NamedTuple):
    code: Any
    out: str
    err: str


Start = Callable[..., Done]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Start]:
    """Return a function that runs a command line in this process, in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # main sets it; so it is taken back
    monkeypatch.delenv("DKM_DATA_ROOT", raising=False)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["dkm-train", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        return Done(exited.value.code, *capsys.readouterr())

    # Hydra's sweeps and its --info replace the handlers of the root logger.
    loggers = [logging.getLogger(name) for name in (None, "hydra")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield run
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty handwritten digits of four classes, with their labels; and a table without."""
    from sklearn.datasets import load_digits

    digits = load_digits(n_class=4)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=digits.images[:40], y=digits.target[:40])
    np.save(path.with_suffix(".npy"), digits.data[:40])
    return path


def config_of(*arguments: str) -> Config:
    return compose(parse(arguments)).config


def required(group: str, option: str) -> list[str]:
    """Return the names of the settings of an option that have no default."""
    return [part.name for part in fields(GROUPS[group][option]) if part.default == REQUIRED and part.name != "name"]


@cache
def config_with(group: str, option: str) -> Config:
    words = (f"{group}.{name}=a.b" for name in required(group, option))
    return config_of("recipe=classic", f"{group}={option}", *words)


# --- files and dataclasses ----------------------------------------------------------------------------------------


def test_every_option_has_a_file_and_every_file_a_dataclass() -> None:
    files: dict[str, set[str]] = {}
    for path in config_dir().glob("*/*.yaml"):
        files.setdefault(path.parent.name, set()).add(path.stem)
    assert files.pop("experiment") == set(EXPERIMENTS)
    assert files.pop("recipe") == set(RECIPES)
    files["model"].remove("auto")  # mlp with other widths
    assert files == {group: set(options) for group, options in GROUPS.items()}


@pytest.mark.parametrize("path", sorted(config_dir().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_begins_with_what_it_is_for(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if line != "# @package _global_")
    assert re.match(r"# \S.{10,}[.:]", first)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_composes_to_its_dataclass_with_its_defaults(group: str, option: str) -> None:
    """The files set nothing beside the name: a default stands in one place."""
    section, schema = getattr(config_with(group, option), group), GROUPS[group][option]
    assert type(section) is schema
    given = {"root", *required(group, option)}  # the first one is made absolute
    assert without(asdict(section), given) == without(asdict(schema(name=option)), given)


def without(mapping: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in names}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_a_config_survives_plain_containers_and_yaml(group: str, option: str) -> None:
    config = config_with(group, option)
    plain = to_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert dotted(from_dictconfig(OmegaConf.create(plain))) == dotted(config)
    assert from_dictconfig(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(plain)))) == config
    assert flatten(plain) == dotted(config)


def test_the_classic_recipe_has_the_defaults_of_the_dataclasses() -> None:
    config = config_of("recipe=classic")
    for part in fields(Config):
        if is_dataclass(part.default_factory):
            assert getattr(config, part.name) == part.default_factory(), part.name
        elif part.name not in GROUPS:
            default = part.default_factory() if callable(part.default_factory) else part.default
            assert getattr(config, part.name) == default, part.name


# --- the contract -------------------------------------------------------------------------------------------------

DEFAULTS = """
data.name: digits
data.scaling: null
model.name: mlp
model.latent_dim: 10
model.hidden: null
clustering.name: kmeans
clustering.n_clusters: null
clustering.weight: 0.1
clustering.assignment: epoch
clustering.init: data
clustering.revive: true
regularization.name: weight_decay
regularization.strength: 0.000001
regularization.parameters: weights
optimizer.name: adam
augmentation.name: auto
loss.reduction: mean
pretrain.epochs: null
pretrain.steps: 800
pretrain.lr: 0.002
joint.epochs: null
joint.steps: 800
joint.lr: 0.002
joint.tolerance: 0.001
batch_size: 256
seed: 0
device: auto
precision: fp32
compile: false
deterministic: true
resume: null
"""


def test_the_keys_that_users_rely_on_have_these_defaults() -> None:
    config = dotted(config_of())
    defaults = yaml.safe_load(DEFAULTS)
    assert {key: config[key] for key in defaults} == defaults
    assert {"data.path", "data.labels", "data.root"} <= set(keys())


def test_without_an_experiment_none_is_chosen() -> None:
    assert "experiment" not in to_dict(config_of())


def test_data_root_comes_from_the_environment_else_is_below_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DKM_DATA_ROOT", raising=False)
    assert config_of().data.root == str(tmp_path / "data")
    monkeypatch.setenv("DKM_DATA_ROOT", "/somewhere/else")
    assert config_of().data.root == "/somewhere/else"
    assert config_of("data.root=here").data.root == str(tmp_path / "here")


# --- experiments and own configs ----------------------------------------------------------------------------------


def values_of(path: Path) -> dict[str, Any]:
    """Return what a config file itself sets, under dotted keys."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return flatten({key: value for key, value in content.items() if key != "defaults"})


CLASSIC = """
model.latent_dim: null
model.hidden: [500, 500, 2000]
clustering.init: k-means++
pretrain.epochs: 100
pretrain.lr: 0.003
joint.epochs: 50
joint.lr: 0.0001
batch_size: 256
"""


def test_the_classic_recipe_has_the_defaults_of_version_0_1() -> None:
    config, defaults = dotted(config_of("recipe=classic")), yaml.safe_load(CLASSIC)
    assert {key: config[key] for key in defaults} == defaults


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_wins_over_the_defaults_and_loses_to_the_command_line(experiment: str) -> None:
    config = dotted(config_of(f"experiment={experiment}"))
    wanted = values_of(config_dir() / "experiment" / f"{experiment}.yaml")
    for key in wanted.keys() & {"data.path"}:
        wanted[key] = wanted[key].replace("${data.root}", config["data.root"])
    assert {key: config[key] for key in wanted} == wanted
    assert dotted(config_of(f"experiment={experiment}", "pretrain.epochs=77"))["pretrain.epochs"] == 77
    assert dotted(config_of("pretrain.epochs=77", f"experiment={experiment}"))["pretrain.epochs"] == 77


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder with an experiment and a data set."""
    folder = tmp_path / "my configs"
    for group in ("experiment", "data"):
        (folder / group).mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /optimizer: sgd\n  - override /data: shapes\n"
        "seed: 5\nmodel: {hidden: [7]}\njoint: {lr: 0.5}\noptimizer: {momentum: 0.25}\n"
    )
    (folder / "data" / "shapes.yaml").write_text(
        "defaults:\n  - schema/npz@_here_\n  - _self_\npath: /data/shapes.npz\nlabels: y\n"
    )
    return folder


@pytest.mark.parametrize("how", ["--config-dir={}", "-cd={}", "hydra.searchpath=['{}']"])
def test_a_users_own_folder_adds_experiments_and_options(how: str, own: Path) -> None:
    flag = how.format(own)
    config = config_of(flag, "experiment=mine", "joint.lr=0.75")
    assert (config.seed, config.model.hidden, config.joint.lr) == (5, [7], 0.75)
    assert config.optimizer == SGDConfig(momentum=0.25)
    assert isinstance(config.data, NpzData)
    assert (config.data.path, config.data.labels) == ("/data/shapes.npz", "y")
    # The application's own options are still there.
    assert config_of(flag, "experiment=debug", "data=blobs").model.hidden == [64, 32]


def test_a_users_own_config_is_named_with_config_name(own: Path) -> None:
    (own / "base.yaml").write_text("defaults: [config, _self_]\nseed: 9\nclustering: {weight: 0.5}\n")
    for name in ("base", "base.yaml"):
        config = config_of("--config-dir", str(own), "--config-name", name, "data=blobs")
        assert (config.seed, config.clustering.weight, config.data.name) == (9, 0.5, "blobs")


# --- each option runs ---------------------------------------------------------------------------------------------

NEEDS_FILES = {"mnist", "fashion_mnist", "kmnist", "usps", "cifar10", "stl10", "newsgroups"}
NEEDS_FILES |= {"csv", "parquet", "feather", "image_folder", "image_list"}  # which test_readme.py trains on
NEEDS_FILES |= {"h5ad", "hdf5", "zarr", "mat", "image_parquet", "text"}  # these too
NEEDS_FILES |= {"custom"}  # see test_custom.py
RUNNABLE = [(group, option) for group, option in OPTIONS if option not in NEEDS_FILES]


@pytest.mark.parametrize(("group", "option"), RUNNABLE)
def test_an_option_trains_both_phases(group: str, option: str, start: Start, images: Path) -> None:
    """One step in each phase, and the setting of the centroids between them."""
    arguments = [
        "recipe=classic",
        "pretrain.epochs=1",
        "joint.epochs=1",
        "batch_size=2000",
        *QUIET,
        f"{group}={option}",
    ]
    if group != "data" or option == "npz":
        arguments += ["data=npz", f"data.path={images}", "data.labels=y"]
    elif option == "npy":
        arguments += [f"data.path={images.with_suffix('.npy')}", "clustering.n_clusters=4"]
    arguments += ["model.filters=[2,2,2]"] if option == "conv" else ["model.hidden=[8]"]
    done = start(*dict.fromkeys(arguments), "hydra.run.dir=run")
    assert (done.code, done.err) == (0, "")
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == (2 if (group, option) == ("clustering", "none") else 3)
    assert np.isfinite(result["inertia"])
    losses = [json.loads(line)["loss/total"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == result["steps"] - 1
    assert np.isfinite(losses).all()


def test_the_config_of_a_run_repeats_it_from_anywhere(
    start: Start, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "my run"
    monkeypatch.chdir(images.parent)
    tiny = ["recipe=classic", "model.hidden=[8]", "pretrain.epochs=2", "joint.epochs=2", "batch_size=16", *QUIET]
    overrides = ["data=npz", f"data.path={images.name}", "data.labels=y", "optimizer=sgd", "optimizer.momentum=0.5"]
    assert start(*overrides, *tiny, "clustering.weight=0.03", f"hydra.run.dir={run}").code == 0
    # The command stands in the file's head.
    text = (run / "config.yaml").read_text()
    [command] = re.findall(r"^#   python -m dkm\.train (.*)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path / "here")
    done = start(*shlex.split(command))
    assert (done.code, done.err) == (0, "")
    [again] = Path("runs/npz_kmeans").iterdir()
    assert again.name.endswith("_seed0")
    for name in SAME:
        assert (again / name).read_bytes() == (run / name).read_bytes(), name
    assert yaml.safe_load((again / "config.yaml").read_text()) == yaml.safe_load(text)


def test_paths_are_absolute_so_that_a_run_goes_on_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["pretrain.cache=cache", "clustering.init=file", "clustering.init_file=start.npy", "data.root=data"]
    config = compose(parse(words)).config
    assert (config.pretrain.cache, config.data.root) == (str(tmp_path / "cache"), str(tmp_path / "data"))
    assert config.clustering.init_file == str(tmp_path / "start.npy")


@pytest.mark.parametrize(
    ("key", "value", "is_path"),
    [
        ("encoder", "nets/net.onnx", True),
        ("encoder", "timm/resnet50", False),
        ("encoder_weights", "w.safetensors", True),
        ("text_encoder", "./minilm", True),
        ("text_encoder", "all-MiniLM-L6-v2", False),
    ],
)
def test_the_files_of_encoders_are_absolute_and_names_stay(
    key: str, value: str, is_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("minilm").mkdir()
    option = "text" if key == "text_encoder" else "image_folder"
    config = compose(parse([f"data={option}", "data.path=x", f"data.{key}={value}"])).config
    assert getattr(config.data, key) == (str(tmp_path / value) if is_path else value)


@pytest.mark.thorough
def test_a_sweep_makes_one_run_for_each_seed(start: Start, images: Path) -> None:
    tiny = ["recipe=classic", "model.hidden=[8]", "pretrain.epochs=1", "joint.epochs=1", *QUIET]
    tiny += ["data.labels=y", f"data.path={images}"]
    done = start("--multirun", "data=npz", *tiny, "seed=0,1", "hydra.sweep.dir=sweep")
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in Path("sweep").iterdir() if path.is_dir()) == ["0", "1"]
    for seed in (0, 1):
        manifest = json.loads(Path(f"sweep/{seed}/manifest.json").read_text())
        assert (manifest["seed"], manifest["status"]) == (seed, "completed")
    contents = [Path(f"sweep/{seed}/metrics.jsonl").read_bytes() for seed in (0, 1)]
    assert contents[0] != contents[1]


# --- the command line ---------------------------------------------------------------------------------------------

FLAGS = {
    "--help": "usage: dkm train [FILE | FOLDER | NAME] [KEY=VALUE ...]\n",
    "--help data=blobs": "data: blobs, cifar10, csv, custom, digits",
    "-h": "usage: dkm train [FILE | FOLDER | NAME] [KEY=VALUE ...]\n",
    "--help clustering=dcn clustering.count=7": "  clustering.count=7    (a whole number, 0 or more (points))\n"
    "      Initial count of each centroid",
    "--hydra-help": "--multirun",
    "--version": "Hydra 1.",
    "--cfg job": "\nbatch_size: 256\n",
    "-c job": "\nbatch_size: 256\n",
    "--cfg job seed=3": "\nseed: 3\n",
    "--cfg job --resolve": "root: ./data\n",
    "--cfg job --package model": "name: mlp\n",
    "--cfg hydra": "\n  run:\n    dir: runs/",
    "--info config": "Config search path",
    "-i defaults": "Defaults List",
}


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.thorough
def test_a_flag_that_asks_is_answered_and_nothing_is_written(flags: str, start: Start) -> None:
    done = start(*flags.split())
    assert (done.code, done.err) == (0, "")
    assert FLAGS[flags] in done.out
    assert list(Path.cwd().iterdir()) == []


def test_cfg_job_shows_every_key(start: Start) -> None:
    shown = flatten(yaml.safe_load(start("--cfg", "job").out))
    assert shown.keys() == dotted(config_of()).keys()


# --- time ---------------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
sys.argv = ["dkm-train", *{arguments}]
from dkm.train import main
try:
    main()
except SystemExit as exited:
    code = exited.code
assert code == {code}, code
loaded = {{"torch", "sklearn", "matplotlib", "tensorboard"}} & sys.modules.keys()
assert not loaded, loaded
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--cfg", "job"], 0), (["bach_size=1"], 2), (["seed=x"], 2)])
def test_an_answer_about_the_config_loads_no_torch(arguments: list[str], code: int, tmp_path: Path) -> None:
    program = WITHOUT_TORCH.format(arguments=arguments, code=code)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_mistake_is_answered_in_a_fraction_of_the_time_that_torch_takes(tmp_path: Path) -> None:
    """In processor time, so that what else the machine does hardly matters; a doubt is settled by more turns."""
    commands = {
        "torch": ["-c", "import torch"],
        "cfg": ["-m", "dkm.train", "--cfg", "job"],
        "typo": ["-m", "dkm.train", "bach_size=1"],
        "verbs": ["-m", "dkm", "--help"],
        "help": ["-m", "dkm", "train", "--help"],
    }
    codes = {"torch": 0, "cfg": 0, "typo": 2, "verbs": 0, "help": 0}
    taken_s: dict[str, list[float]] = {name: [] for name in commands}
    limits = {"cfg": 0.6, "typo": 0.6, "verbs": 0.3, "help": 0.3}  # fractions of the time of torch
    for _ in range(3):
        for name, arguments in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert done.returncode == codes[name], done.stderr
            taken_s[name].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        medians_s = {name: statistics.median(times) for name, times in taken_s.items()}
        if all(medians_s[name] <= limit * medians_s["torch"] for name, limit in limits.items()):
            return
    pytest.fail(f"too slow: {taken_s}")


def test_importing_the_package_loads_no_torch(tmp_path: Path) -> None:
    program = "import sys, dkm; dir(dkm); assert not {'torch', 'numpy', 'hydra'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_public_names_resolve_to_their_homes() -> None:
    from dkm.clustering.functional import kmeans_loss
    from dkm.clustering.losses.kmeans import KMeansLoss
    from dkm.estimator import DeepKMeans
    from dkm.models.regularization import l2_penalty

    assert dkm.DeepKMeans is DeepKMeans
    assert dkm.KMeansLoss is KMeansLoss
    assert dkm.kmeans_loss is kmeans_loss
    assert dkm.l2_penalty is l2_penalty
    losses = {"KMeansLoss", "kmeans", "kmeans_loss", "l2_penalty", "soft_kmeans_loss"}
    assert {"DeepKMeans", *losses} == set(dkm.__all__) <= set(dir(dkm))
    with pytest.raises(AttributeError, match="module 'dkm' has no attribute 'nope'"):
        _ = dkm.nope
