"""The user's own classes and modules, as in docs/how-to/own-code.md, and that no file of a run can name code."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import torch
import yaml

import dkm
from dkm import compare, export, predict, select
from dkm.config import page
from dkm.config.clustering import METHODS
from dkm.config.compose import compose, parse
from dkm.config.custom import construct, import_named, plugin_names
from dkm.config.data import DATASETS
from dkm.config.model import MODELS, CustomModelConfig
from dkm.config.schema import dotted
from dkm.config.settings import section_from
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.evaluation.figures.run import FIGURES
from dkm.evaluation.scores import SCORES
from dkm.models.autoencoder import evaluation_mode, mix_encoder
from dkm.models.build import build_autoencoder
from dkm.models.description import FORMAT_VERSION
from dkm.models.saved import load_model
from dkm.train import main

PAGE = "docs/how-to/own-code.md"
EXAMPLE, PLUGIN = pages.python_blocks(PAGE)
COMMANDS = [command for command in pages.commands(PAGE) if command.verb == "train"]
QUICK = [
    *(
        "data.n_samples=90",
        "recipe=classic",
        "pretrain.epochs=2",
        "joint.epochs=2",
        "joint.tolerance=0",
        "batch_size=32",
        "device=cpu",
    ),
    *("log.figures=false", "log.report=false", "log.tensorboard=false", "log.progress=off", "clustering.n_init=1"),
]
MALICIOUS = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\ndef Class(**options):\n    ...\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a user, with the modules of that page; registries and modules are as before after it."""
    (tmp_path / "mine.py").write_text(EXAMPLE)
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    (tmp_path / "evil.py").write_text(MALICIOUS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    registries = [(registry, dict(registry)) for registry in REGISTRIES]
    yield tmp_path
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    for name in ("mine", "my_plugin", "evil", "broken"):
        sys.modules.pop(name, None)


# The dicts that a plugin adds to.
REGISTRIES: tuple[dict[str, Any], ...] = (METHODS, MODELS, DATASETS, SCORES, FIGURES)

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``dkm.train`` in this process and returns its exit code and its errors."""

    def start(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dkm-train", *words])
        with pytest.raises(SystemExit) as exited:
            main()
        return int(exited.value.code or 0), capsys.readouterr().err

    return start


# --- what the page says --------------------------------------------------------------------------------------------

CLASSES = {
    "model": ["model=custom", "model.class=mine.MyAutoencoder", "model.options={width: 16}"],
    "clustering": ["clustering=custom", "clustering.class=mine.MyLoss"],
    "data": ["data=custom", "data.class=mine.read", "data.options={n_samples: 90}"],
}


@pytest.mark.parametrize("groups", [["model"], ["clustering"], ["data"], ["model", "clustering", "data"]])
def test_a_run_trains_with_classes_of_the_users_own(groups: list[str], here: Path, run: Run) -> None:
    words = [word for group in groups for word in CLASSES[group]]
    quick = [word for word in QUICK if not (word.startswith("data.") and "data" in groups)]
    data = [] if "data" in groups else ["data=blobs"]
    assert run(*data, *words, *quick, "hydra.run.dir=run") == (0, "")
    result = json.loads((here / "run" / "result.json").read_text())
    assert result["steps"] == 13  # three batches in each of four epochs, and the initialization
    assert np.isfinite(result["inertia"])
    config = yaml.safe_load((here / "run" / "config.yaml").read_text())
    for group in groups:
        assert config[group]["class"] == CLASSES[group][1].partition("=")[2]


ONE_LAYER = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, n_features, latent_dim):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(n_features, latent_dim), nn.Linear(latent_dim, n_features)
    def encode(self, x):
        return self.encoder(x)
    def decode(self, z):
        return self.decoder(z)
"""
NOISY = """
from torch import nn
class Noisy(nn.Module):
    def __init__(self, n_features, latent_dim, image_shape):
        super().__init__()
        layers = [nn.Linear(n_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)]
        self.encoder = nn.Sequential(*layers, nn.Linear(16, latent_dim))
        self.decoder = nn.Linear(latent_dim, n_features)
    def encode(self, x):
        return self.encoder(x)
    def decode(self, z):
        return self.decoder(z)
"""


def test_batch_norm_and_dropout_act_in_training_alone(here: Path, run: Run) -> None:
    (here / "mine.py").write_text(NOISY)
    words = ["data=blobs", "model=custom", "model.class=mine.Noisy", *QUICK, "threads=1"]
    assert run(*words, "hydra.run.dir=run") == (0, "")
    torch.manual_seed(1)  # what the caller of an estimator may do
    assert run(*words, "hydra.run.dir=again") == (0, "")
    for name in ("metrics.jsonl", "assignments.csv"):
        assert (here / "again" / name).read_bytes() == (here / "run" / name).read_bytes(), name
    model = load_model("run", model_class="mine.Noisy")
    X = torch.randn(40, 16)
    z = model.embed(X)
    torch.testing.assert_close(model.embed(X[:1]), z[:1])  # a row's embedding is its own
    torch.testing.assert_close(model.embed(X), z)


def test_threads_may_share_a_model_with_batch_norm(here: Path) -> None:
    """Each call would switch the mode back that another one still needs."""
    (here / "mine.py").write_text(NOISY)
    X = np.random.default_rng(0).normal(size=(60, 4))
    quick: dict[str, Any] = {"recipe": "classic", "pretrain_epochs": 1, "joint_epochs": 1, "n_init": 1}
    fitted = dkm.DeepKMeans(2, config=["model=custom", "model.class=mine.Noisy"], random_state=0, **quick).fit(X)
    fitted.save("saved")
    for model in (fitted.model_, load_model("saved", model_class="mine.Noisy")):
        before = {name: value.clone() for name, value in model.autoencoder.state_dict().items()}
        rows = model.scaling.apply(X)
        expected = model.embed(torch.from_numpy(rows))
        one, other = evaluation_mode(model.autoencoder), evaluation_mode(model.autoencoder)
        with one:
            other.__enter__()
        assert torch.equal(model.autoencoder.encode(torch.from_numpy(rows)), expected)
        other.__exit__(None, None, None)
        assert torch.equal(model.embed(torch.from_numpy(rows)), expected)
        assert all(torch.equal(value, before[name]) for name, value in model.autoencoder.state_dict().items())


def test_dropout_of_a_resumed_run_draws_the_same(here: Path, run: Run) -> None:
    (here / "mine.py").write_text(NOISY)
    words = ["data=blobs", "model=custom", "model.class=mine.Noisy", *QUICK, "threads=1"]
    assert run(*words, "hydra.run.dir=longer", "joint.epochs=1") == (0, "")
    assert run("resume=longer", "joint.epochs=2", "model.class=mine.Noisy") == (0, "")
    assert run(*words, "hydra.run.dir=whole") == (0, "")
    assert (here / "longer" / "metrics.jsonl").read_bytes() == (here / "whole" / "metrics.jsonl").read_bytes()


SCALED_LOSS = """
import torch
from torch import nn
from dkm.clustering.losses.base import ClusteringLoss
class Scaled(ClusteringLoss):
    def __init__(self, n_clusters, latent_dim, n_samples):
        super().__init__(n_clusters, latent_dim, n_samples)
        self.log_scale = nn.Parameter(torch.zeros(()))
    @classmethod
    def from_config(cls, config, *, n_clusters, latent_dim, n_samples, n_epochs):
        return cls(n_clusters, latent_dim, n_samples)
    def forward(self, z, index):
        return torch.cdist(z, self.centroids).amin(1).mean() * torch.exp(-self.log_scale) + self.log_scale
class Alone(nn.Module):
    def __init__(self, n_clusters, latent_dim):
        super().__init__()
        self.centroids = nn.Parameter(torch.zeros(n_clusters, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(()))
    forward = Scaled.forward
"""


@pytest.mark.parametrize(("name", "key"), [("Scaled", "log_scale"), ("Alone", "module.log_scale")])
def test_all_parameters_of_a_clustering_loss_are_trained(name: str, key: str, here: Path, run: Run) -> None:
    (here / "mine.py").write_text(SCALED_LOSS)
    words = ["data=blobs", "clustering=custom", f"clustering.class=mine.{name}", *QUICK, "joint.average_epochs=1"]
    assert run(*words, "hydra.run.dir=run") == (0, "")
    state = torch.load(here / "run" / "checkpoints" / "last.pt", weights_only=True)
    value = state["clustering"][key].item()
    assert value != 0
    scalars = [average.item() for average in state["average"] if average.dim() == 0]
    assert len(scalars) == 1
    assert 0 < scalars[0] / value < 1  # the average follows it


NOISY_LOSS = """
import torch
from torch import nn
class NoisyLoss(nn.Module):
    def __init__(self, n_clusters, latent_dim):
        super().__init__()
        self.centroids = nn.Parameter(torch.zeros(n_clusters, latent_dim))
    def forward(self, z, index):
        return torch.cdist(z + torch.randn_like(z) / 2, self.centroids).amin(1).mean()
"""


@pytest.mark.thorough
def test_a_clustering_loss_that_draws_draws_from_the_seed(here: Path, run: Run) -> None:
    (here / "mine.py").write_text(NOISY_LOSS)
    words = ["data=blobs", "clustering=custom", "clustering.class=mine.NoisyLoss", *QUICK, "threads=1"]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert run(*words, "hydra.run.dir=run") == (0, "")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert run(*words, "hydra.run.dir=longer", "joint.epochs=1") == (0, "")
    assert run("resume=longer", "joint.epochs=2", "clustering.class=mine.NoisyLoss") == (0, "")
    for name in ("metrics.jsonl", "assignments.csv"):
        assert (here / "longer" / name).read_bytes() == (here / "run" / name).read_bytes(), name


def test_the_commands_of_the_page_train(here: Path, run: Run) -> None:
    assert len(COMMANDS) == 2
    for number, command in enumerate(COMMANDS):
        quick = [word for word in QUICK if not word.startswith("data.")]
        assert run(*command.words, *quick, f"hydra.run.dir=run{number}") == (0, ""), command
        assert json.loads((here / f"run{number}" / "manifest.json").read_text())["status"] == "completed"


@pytest.mark.thorough
def test_a_plugin_adds_options_that_are_chosen_like_any_other(here: Path, run: Run) -> None:
    words = ["plugins=[my_plugin]", "data=rings", "data.noise=0.01", "model=shallow", "clustering=median"]
    quick = [word for word in QUICK if not word.startswith(("data.", "log.figures"))]
    assert run(*words, *quick, "clustering.n_clusters=2", "hydra.run.dir=run") == (0, "")
    sizes = np.bincount(
        np.genfromtxt(here / "run" / "assignments.csv", delimiter=",", names=True)["cluster"].astype(int)
    )
    assert json.loads((here / "run" / "result.json").read_text())["largest_share"] == sizes.max() / sizes.sum()
    assert (here / "run" / "figures" / "ranked_sizes.png").exists()
    config = yaml.safe_load((here / "run" / "config.yaml").read_text())
    assert (config["data"]["name"], config["data"]["noise"]) == ("rings", 0.01)
    assert (config["model"]["name"], config["clustering"]["name"]) == ("shallow", "median")


def test_a_score_of_a_plugin_is_compared_in_its_own_direction(here: Path) -> None:
    for name, share in (("a", 0.75), ("b", 0.5)):
        run = here / "runs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"seed: 0\nbatch_size: {len(name) + int(100 * share)}\n")
        (run / "manifest.json").write_text(json.dumps({"status": "completed"}))
        (run / "result.json").write_text(json.dumps({"largest_share": share}))
    config, _ = compare.parse_words(compare.CompareConfig, ["sort=largest_share", "plugins=my_plugin"])
    groups = compare.compare(["runs"], config)
    assert [group.scores["largest_share"].mean for group in groups] == [0.5, 0.75]  # the plugin says: low is good


@pytest.mark.thorough
def test_a_number_of_clusters_is_searched_with_code_of_the_users_own(here: Path) -> None:
    words = ["plugins=[my_plugin]", "data=rings", "model=custom", "model.class=mine.MyAutoencoder", "recipe=classic"]
    quick = [word for word in QUICK if not word.startswith(("data.", "clustering.n_clusters", "hydra"))]
    select.work([*words, *quick, "k=2-3", "seeds=0", "output=out"])
    answer = json.loads((here / "out" / "select.json").read_text())
    assert answer["n_clusters"] in (2, 3)
    with pytest.raises(UserError, match=r"^model\.options\.width=8: expected None as in "):
        select.work([*words, *quick, "k=2-3", "seeds=0", "output=out", "model.options={width: 8}"])


@pytest.mark.parametrize("text", ["one,two", "[one,two]", "'[one, two]'", '["one", "two"]', "one , two,"])
def test_plugins_may_be_written_as_a_list(text: str) -> None:
    assert plugin_names(text) == ["one", "two"]
    assert plugin_names("") == plugin_names("[]") == []


def test_a_model_of_a_plugin_names_the_plugin_as_the_remedy(here: Path) -> None:
    (here / "run" / "model").mkdir(parents=True)
    (here / "run" / "model" / "model.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "model": {"name": "elsewhere"}})
    )
    (here / "run" / "model" / "weights.safetensors").touch()
    (here / "run" / "config.yaml").write_text("plugins: [my_plugin, evil]\n")
    np.save(here / "x.npy", np.zeros((9, 16)))
    expected = "or its plugin; add plugins=my_plugin,evil if you trust it, or in Python import it; else copy the folder"
    for work in (
        lambda: predict.work(["run=run", "x.npy", "output=x.csv"]),
        lambda: export.work(["run=run", "output=a"]),
    ):
        with pytest.raises(UserError, match=expected):
            work()
    assert "evil" not in sys.modules
    (here / "run" / "config.yaml").write_text("[]\n")
    with pytest.raises(UserError, match="add plugins=MODULE"):
        export.work(["run=run", "output=a"])
    with pytest.raises(UserError, match="or its plugin"):  # and it has been imported
        predict.work(["run=run", "x.npy", "output=x.csv", "plugins=[my_plugin]"])


def test_a_plugin_is_named_in_a_config_of_the_users_own(here: Path) -> None:
    (here / "base.yaml").write_text("defaults: [config, {override data: rings}, _self_]\nplugins: [my_plugin]\n")
    config = compose(parse(["--config-dir", str(here), "--config-name", "base"])).config
    assert (config.data.name, config.plugins) == ("rings", ["my_plugin"])


def test_an_experiment_of_the_users_own_names_a_class(here: Path) -> None:
    (here / "configs" / "experiment").mkdir(parents=True)
    (here / "configs" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: custom]\nmodel: {class: mine.MyAutoencoder}\n"
    )
    config = compose(parse(["--config-dir", str(here / "configs"), "experiment=mine"])).config
    assert dotted(config)["model.class"] == "mine.MyAutoencoder"


def test_help_shows_the_settings_of_a_plugin(here: Path) -> None:
    text = page.help_text(compose(parse(["plugins=[my_plugin]", "data=rings"])).config)
    assert "  data.noise=0.05" in text


@pytest.mark.thorough
def test_a_run_with_a_class_is_resumed_repeated_and_used_when_the_command_line_names_it(here: Path, run: Run) -> None:
    named = "model.class=mine.MyAutoencoder"
    words = ["data=blobs", *CLASSES["model"], *QUICK]
    assert run(*words, "hydra.run.dir=run")[0] == 0
    assert run("resume=run", "joint.epochs=3", named) == (0, "")
    again = ["--config-dir", "run", "--config-name", "config", "hydra.run.dir=again", "joint.epochs=3", named]
    assert run(*again) == (0, "")
    for name in ("assignments.csv", "result.json"):
        assert (here / "again" / name).read_bytes() == (here / "run" / name).read_bytes()
    np.save(here / "x.npy", np.random.default_rng(0).normal(size=(9, 16)))
    predict.work(["run=run", "input=x.npy", "output=x.csv", named])
    assert len((here / "x.csv").read_text().splitlines()) == 10
    assert len(dkm.DeepKMeans.load("run", model_class="mine.MyAutoencoder").predict(np.load(here / "x.npy"))) == 9
    # An artifact has the encoder alone, and this class does not say which part that is.
    with pytest.raises(UserError, match=r"expected a submodule encoder; give the class a self\.encoder"):
        export.work(["run=run", "input=x.npy", "output=artifact", named])
    text = (here / "mine.py").read_text().replace("self.down", "self.encoder").replace("self.up", "self.decoder")
    (here / "mine.py").write_text(text)
    del sys.modules["mine"]
    assert run("data=blobs", *CLASSES["model"], *QUICK, "hydra.run.dir=halves")[0] == 0
    export.work(["run=halves", "input=x.npy", "output=artifact", named])
    assert (here / "artifact" / "model.pt2").exists()


# --- no file of a run names code ----------------------------------------------------------------------------------


def planted(here: Path, run: Run, settings: dict[str, object]) -> str:
    """Train a small run and write ``settings`` into its config.yaml and model.json, as an attacker would."""
    assert run("data=blobs", "model.hidden=[4]", *QUICK, "hydra.run.dir=run")[0] == 0
    path = here / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        if section:
            config[section] = (
                {"name": "custom", name: value, "root": "."} if section == "data" else {"name": "custom", name: value}
            )
        else:
            config[key] = value
    path.write_text(yaml.safe_dump(config))
    path = here / "run" / "model" / "model.json"
    description = json.loads(path.read_text())
    del description["sha256"]
    description["model"] = {"name": "custom", "class": "evil.Class", "latent_dim": None, "options": {}}
    path.write_text(json.dumps(description))
    return str(here / "run")


EVIL = {
    "model.class": "evil.Class",
    "clustering.class": "evil.Class",
    "data.class": "evil.Class",
    "plugins": ["evil"],
}


@pytest.mark.parametrize("key", EVIL)
@pytest.mark.thorough
def test_code_that_a_run_directory_names_is_not_imported(key: str, here: Path, run: Run) -> None:
    folder = planted(here, run, {key: EVIL[key]})
    value = "[evil]" if key == "plugins" else "evil.Class"
    for words in (
        [f"resume={folder}"],
        ["--config-dir", folder, "--config-name", "config"],
        ["--config-dir", folder],
        ["--config-dir", folder, "--config-name", "config", "--multirun", "seed=0,1"],
        ["--config-dir", folder, "--config-name", "config", "--cfg", "job"],
    ):
        code, err = run(*words)
        if "--cfg" not in words:
            assert code == 2
            assert err.startswith(f"error: {key}={value}: expected on the command line, as {folder}/config.yaml")
            assert err.count("\n") == 1
            assert re.search(rf"add '?{re.escape(key)}={re.escape(value)}'?$", err.strip()), err
    assert run("resume=auto", "data=blobs", *QUICK, "hydra.run.dir=${now:%Y}")[0] == 0  # it looks at the run
    assert not (here / "executed").exists()
    assert "evil" not in sys.modules


def test_code_that_a_model_folder_names_is_not_imported(here: Path, run: Run) -> None:
    folder = planted(here, run, {})
    np.save(here / "x.npy", np.zeros((9, 16)))
    expected = "model.class=evil.Class: expected on the command line.*add model.class=evil.Class$"
    with pytest.raises(UserError, match=expected):
        predict.work([f"run={folder}", "input=x.npy", "output=x.csv"])
    with pytest.raises(UserError, match=expected):
        export.work([f"run={folder}", "output=artifact"])
    with pytest.raises(ValueError, match=expected):
        dkm.DeepKMeans.load(folder)
    assert not (here / "executed").exists()


def test_the_data_of_a_run_are_not_read_by_code_that_it_names(here: Path, run: Run) -> None:
    folder = planted(here, run, {"data.class": "evil.Class"})
    path = here / "run" / "model" / "model.json"
    description = json.loads(path.read_text())
    description["model"] = {"name": "mlp", "hidden": [4], "latent_dim": None, "initial_weights": "fan_in"}
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match="input=null: the data of the run come from code; expected real rows"):
        export.work([f"run={folder}", "output=artifact"])
    assert not (here / "executed").exists()


# --- mistakes -----------------------------------------------------------------------------------------------------

WRONG = {
    "model=custom": "model.class=???: expected a value; set model.class=my_module.NAME",
    "model=custom model.class=Nope": "expected the dotted name of something that can be imported; for example",
    "model=custom model.class=nope_nope.Nope": "cannot be imported (ModuleNotFoundError: No module named 'nope_nope')",
    "model=custom model.class=broken.Nope": "cannot be imported (SyntaxError: ",
    "model=custom model.class=mine.Nope": "module mine has no Nope; correct model.class",
    "model=custom model.class=mine.read": "expected a torch.nn.Module with the methods encode and decode, got tuple",
    "model=custom model.class=torch.nn.Identity": "but it has no encode and no decode; define them",
    "model=custom model.class=mine.MyAutoencoder +model.options.depth=3": "model.options={depth: 3}: got an unexpected",
    "model=custom model.class=mine.MyAutoencoder regularization.parameters=encoder": "a submodule encoder of model",
    "model=custom model.class=mine.MyAutoencoder clustering.reconstruction=0": "a submodule decoder of model.class",
    "clustering=custom clustering.class=torch.nn.Identity": "and a parameter centroids of shape (n_clusters",
    "clustering=custom clustering.class=mine.read": "expected a torch.nn.Module with forward(z, index) and a parameter",
    "data=custom data.class=mine.MyLoss clustering.n_clusters=2": "missing a required argument: 'n_clusters'",
    "data=custom data.class=sys.path clustering.n_clusters=2": "expected a function that returns X, or X and y",
    "plugins=[nope_nope]": "plugins=[nope_nope]: cannot be imported",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_class_that_does_not_fit_is_refused_in_one_line(words: str, here: Path, run: Run) -> None:
    (here / "broken.py").write_text("def\n")
    data = [] if "data=" in words else ["data=blobs", "data.n_samples=90"]
    code, err = run(*data, *words.split(" "), "hydra.run.dir=run")
    assert code == 2
    assert re.fullmatch(r"error: [^\n]*expected[^\n]*;[^\n]*\n", err), err
    assert WRONG[words] in err
    assert not (here / "run").exists()


def test_arguments_are_those_that_the_signature_names() -> None:
    assert construct("model", lambda a, b=2: (a, b), {"a": 1, "c": 3}, {}) == (1, 2)
    assert construct("model", lambda a, b=2: (a, b), {"a": 1}, {"b": 5}) == (1, 5)
    with pytest.raises(UserError, match=r"model.options=\{d: 4\}: got an unexpected keyword argument 'd'"):
        construct("model", lambda a: a, {"a": 1}, {"d": 4})


def test_a_wrong_shape_of_the_embedding_is_refused(here: Path) -> None:
    (here / "mine.py").write_text(
        EXAMPLE + "\nclass Wide(MyAutoencoder):\n    def __init__(self, n_features):\n"
        "        super().__init__(n_features, 7)\n"
    )
    config = section_from(CustomModelConfig, {"class": "mine.Wide"})
    with pytest.raises(UserError, match=r"expected encode to return \(2, 3\) for 2 rows, got \(2, 7\)"):
        build_autoencoder(config, 5, None, 3, seed=0)


WRONG_METHODS = {
    "return self.encoder(x), x": r"expected encode to return a tensor \(2, 2\) for 2 rows, got a tuple; return the",
    "return torch.cat([self.encoder(x)] * 2, 1)": r"expected encode to return \(2, 2\) for 2 rows, got \(2, 4\); use",
    "return self.encoder(x.view(-1, 3, 8, 8))": r"encode raised RuntimeError: shape .* \(mine.py, line 9\) for 2 row",
    "return self.encoder(x).half()": r"decode raised RuntimeError: .* \(mine.py, line 11\) for 2 rows \(2, 2\); exp",
    "raise KeyError": r"encode raised KeyError: KeyError \(mine.py, line 9\) for 2 rows",
}


@pytest.mark.parametrize("body", WRONG_METHODS)
def test_a_wrong_method_of_a_network_is_refused_in_one_line(body: str, here: Path) -> None:
    (here / "mine.py").write_text(ONE_LAYER.replace("return self.encoder(x)", body))
    config = section_from(CustomModelConfig, {"class": "mine.Net"})
    with pytest.raises(UserError, match=f"^model.class=mine.Net: {WRONG_METHODS[body]}") as refused:
        build_autoencoder(config, 5, None, 2, seed=0)
    assert "\n" not in str(refused.value)


def test_an_encoder_of_one_layer_is_its_embedding_layer(here: Path, run: Run) -> None:
    (here / "mine.py").write_text(ONE_LAYER)
    net = build_autoencoder(section_from(CustomModelConfig, {"class": "mine.Net"}), 5, None, 2, seed=0)
    assert net.embedding_layer is net.encoder
    code, err = run("data=blobs", "model=custom", "model.class=mine.Net", *QUICK, "clustering.reset_every=1")
    assert code == 2
    assert err.startswith(
        "error: clustering.reset_every=1: expected an encoder of model.class=mine.Net with layers before"
    )


READS = """
import numpy as np, pandas as pd, scipy.sparse as sparse, torch
rows = np.arange(24.0).reshape(12, 2) % 7
texts = list("abc") * 4
"""
READ = {
    "sparse.csr_matrix(rows)": False,
    "sparse.csr_array(rows), texts": True,
    "torch.tensor(rows, requires_grad=True), torch.arange(12) % 3": True,
    "torch.tensor(rows).bfloat16()": False,
    "torch.tensor(rows).to_sparse()": False,
    "rows, pd.Series(texts)": True,
    "rows, pd.Series(texts, dtype='category')": True,
    "rows, np.array(texts, dtype=object)": True,
    "rows, pd.Series([1, 2, 3] * 4, dtype='Int64')": True,
    "pd.DataFrame(rows).astype({0: 'Int64'})": False,
}


@pytest.mark.parametrize("returned", READ)
def test_data_may_be_sparse_a_tensor_or_of_pandas(returned: str, here: Path) -> None:
    (here / "mine.py").write_text(f"{READS}def read():\n    return {returned}\n")
    data = load_dataset(compose(parse(["data=custom", "data.class=mine.read", "data.scaling=none"])).config.data)
    np.testing.assert_array_equal(data.X, np.arange(24.0).reshape(12, 2) % 7)
    assert (data.y is not None) == READ[returned]
    if data.y is not None:
        np.testing.assert_array_equal(data.y, np.arange(12) % 3)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "pd.DataFrame({'kind': texts, 'x': range(12)})",
            r"got a DataFrame with the column 'kind' \(.*get_dummies, or",
        ),
        ("None", "expected rows of numbers, got a NoneType; return a NumPy array"),
        ("rows.astype(object)", "expected rows of numbers, got a ndarray of other values; return"),
    ],
)
def test_data_without_numbers_are_refused(returned: str, message: str, here: Path) -> None:
    (here / "mine.py").write_text(f"{READS}def read():\n    return {returned}\n")
    with pytest.raises(UserError, match=f"^data.class=mine.read: .*{message}"):
        load_dataset(compose(parse(["data=custom", "data.class=mine.read"])).config.data)


# --- a network says what it is made of ----------------------------------------------------------------------------


def test_a_decoder_that_was_built_frozen_stays_frozen(here: Path) -> None:
    (here / "mine.py").write_text(
        NOISY.replace("    def encode", "        self.decoder.weight.requires_grad_(False)\n    def encode", 1)
    )
    net = build_autoencoder(section_from(CustomModelConfig, {"class": "mine.Noisy"}), 5, None, 2, seed=0)
    decoder = net.decoder
    for is_trained, expected in ((True, True), (False, False), (False, False), (True, True)):
        net.require_decoder_grad(is_trained)
        assert (decoder.weight.requires_grad, decoder.bias.requires_grad) == (False, expected)
    assert all(parameter.requires_grad for parameter in net.encoder.parameters())


def test_a_reset_leaves_the_embedding_layer_alone(here: Path) -> None:
    (here / "mine.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, n_features, latent_dim):\n"
        "        super().__init__()\n        self.embedding_layer = nn.Linear(4, latent_dim)\n"
        "        self.encoder = nn.Sequential(nn.Linear(n_features, 4), self.embedding_layer, nn.Identity())\n"
        "        self.decoder = nn.Linear(latent_dim, n_features)\n"
        "    def encode(self, x):\n        return self.encoder(x)\n"
        "    def decode(self, z):\n        return self.decoder(z)\n"
    )
    config = section_from(CustomModelConfig, {"class": "mine.Net"})
    net, fresh = (build_autoencoder(config, 5, None, 2, seed) for seed in (0, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    mix_encoder(net, fresh, 1.0)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"network.encoder.0.weight", "network.encoder.0.bias"}


def test_a_network_has_weights_that_depend_on_the_seed_alone(here: Path) -> None:
    config = section_from(CustomModelConfig, {"class": "mine.MyAutoencoder"})
    one, two, other = (build_autoencoder(config, 5, None, 3, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_dotted_name_is_imported_from_the_working_directory(here: Path) -> None:
    assert import_named("model.class", "mine.MyAutoencoder").__name__ == "MyAutoencoder"
    assert sys.path[-1] == str(here)
