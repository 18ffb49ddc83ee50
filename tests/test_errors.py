"""Every mistake of a user ends with exit code 2 and one line, and changes nothing on disk.

``refuse`` runs a command line in this process (a process of its own costs seconds) in an empty folder, and holds for
every case: nothing on standard output, ``error: what was given: ... expected ...; what to do`` on standard error, no
file made or changed. The tables give what the line says beside that.
"""

from __future__ import annotations

import gc
import hashlib
import io
import logging
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from malicious import Malicious
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from quick import search_quickly

import dkm.training.trainer
from dkm.config.compose import compose, parse
from dkm.config.data import NpyData, NpzData
from dkm.config.groups import GROUPS
from dkm.config.messages import describe
from dkm.config.roles import declarations
from dkm.config.run import Config
from dkm.config.schema import from_dictconfig, to_dict
from dkm.config.settings import REQUIRED
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.train import main

Refuse = Callable[..., str]
RefuseData = Callable[[NpyData | NpzData], str]

BASE = [
    "experiment=debug",
    "data=blobs",
    "data.n_samples=60",
    "clustering.n_init=2",
    "log.tensorboard=false",
    "log.figures=false",
]
TRACEBACK = r'Traceback|File "|\w(Error|Exception|Warning)\b|full_key|object_type|\x1b'


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Return the content of every file below ``root``, and every directory."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder in which the command is run."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refuse(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Refuse]:
    """Return a function that runs a command line, sees it refused as described above, and returns the line."""

    def accepted(*_: Any) -> None:
        pytest.fail("the command line was accepted")  # and would train for minutes

    monkeypatch.setattr(dkm.training.trainer.Trainer, "_score_raw_data", accepted)
    monkeypatch.setattr(dkm.training.trainer.Trainer, "_run_phase", accepted)

    def run(*arguments: str) -> str:
        before = snapshot(tmp_path)
        monkeypatch.setattr(sys, "argv", ["dkm-train", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        assert (exited.value.code, out) == (2, "")
        assert_is_one_line(err)
        assert snapshot(tmp_path) == before
        return err

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # main sets it; so it is taken back
    gc.disable()  # a quarter of the time: Hydra makes many objects, and torch has many to be looked through
    # Hydra's sweeps and its --info replace the handlers of the root logger.
    loggers = [logging.getLogger(name) for name in (None, "hydra")]
    states = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield run
    gc.enable()
    for logger, handlers, level in states:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    signal.signal(signal.SIGTERM, handler)


def assert_is_one_line(err: str) -> None:
    assert re.fullmatch(r"error: .*(expected|choose from) .+; .+\n", err), err
    assert not re.search(TRACEBACK, err), err


@pytest.fixture
def refuse_data(here: Path, tmp_path: Path) -> RefuseData:
    """Return a function that sees data refused, which leaves no file, and returns the line of the command."""

    def load(config: NpyData | NpzData) -> str:
        before = snapshot(tmp_path)
        with pytest.raises(UserError) as raised:
            load_dataset(config)
        line = f"error: {raised.value}\n"
        assert_is_one_line(line)
        assert snapshot(tmp_path) == before
        return line

    return load


# --- keys and options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_an_option_that_is_not_there_is_answered_with_those_that_are(group: str, refuse: Refuse) -> None:
    line = refuse(f"{group}=qqq")
    options = {*GROUPS[group], *(["auto"] if group == "model" else [])}
    assert f"error: {group}=qqq: expected one of {', '.join(sorted(options))}; choose {group}=OPTION" in line


NEAR = {
    "data=csvv": "did you mean data=csv?",
    "model=mpl": "did you mean model=mlp?",
    "optimizer=adma": "did you mean optimizer=adam?",
    "clustering=kmaens": "did you mean clustering=kmeans?",
    "experiment=mnsit": "did you mean experiment=aspc_da_mnist or experiment=dcn_mnist or experiment=dec_da_mnist?",
    "recipe=atuo": "did you mean recipe=auto?",
    "device=cuad": "did you mean device=cuda?",
    "--multirn": "did you mean --multirun?",
    "hydra.rn.dir=x": "hydra.rn.dir=x: expected a key of Hydra's config; did you mean hydra.run.dir=x?",
    "hydra.job.chdri=true": "did you mean hydra.job.chdir=true?",
    "hydra.nope=1": "hydra.nope=1: expected a key of Hydra's config; `python -m dkm.train --cfg hydra` lists the keys",
}


@pytest.mark.parametrize("word", NEAR)
def test_the_nearest_option_flag_or_key_of_hydra_is_suggested(word: str, refuse: Refuse) -> None:
    assert refuse(word).rstrip().endswith(NEAR[word])


UNKNOWN = {
    "experiment=nope": "experiment=nope: expected one of aspc_da_mnist,",
    "pretrain.epoch=3": "pretrain.epoch=3: expected a key of the config; did you mean pretrain.epochs?",
    "+pretrain.epoch=3": "pretrain.epoch=3: expected a key of the config; did you mean pretrain.epochs?",
    "++pretrain.epoch=3": "pretrain.epoch=3: expected a key of the config; did you mean pretrain.epochs?",
    "pretrian.epochs=3": "pretrian.epochs=3: expected a key of the config; did you mean pretrain.epochs?",
    "+pretrian.epochs=3": "pretrian.epochs=3: expected a key of the config; did you mean pretrain.epochs?",
    "bach_size=3": "bach_size=3: expected a key of the config; did you mean batch_size?",
    "epochs=3": "epochs=3: expected a key of the config; did you mean pretrain.epochs?",
    "optimizer.lr=0.1": "optimizer.lr=0.1: expected a key of the config; did you mean pretrain.lr?",
    "+lr=0.1": "lr=0.1: expected a key of the config; did you mean pretrain.lr?",
    "a.b.c=1": "a.b.c=1: expected a key of the config; `python -m dkm.train --cfg job` lists the keys",
    "modle=mlp": "modle=mlp: expected a key of the config; did you mean model?",
    "recipie=classic": "recipie=classic: expected a key of the config; did you mean recipe?",
    "nclusters=3": "nclusters=3: expected a key of the config; did you mean n_clusters?",
    "+nclusters=3": "nclusters=3: expected a key of the config; did you mean n_clusters?",
    "~nclusters": "~nclusters: expected a key of the config; did you mean n_clusters?",
    "lables=city": "lables=city: expected a key of the config; did you mean labels?",
    "ouput=x": "ouput=x: expected a key of the config; did you mean output?",
    "latent_dims=3": "latent_dims=3: expected a key of the config; did you mean model.latent_dim?",
    "hydra.nope=1": "hydra.nope=1: expected a key of Hydra's config",
    "log={tensorboar:false}": "log={tensorboar:false}: expected a key of the config",
    "model={hiden:[8]}": "model={hiden:[8]}: expected",
    "optimizer.momentum=0.9": "optimizer.momentum=0.9: expected a key of the chosen optimizer option; "
    "optimizer.momentum belongs to optimizer=sgd",
    "+optimizer.momentum=0.9": "optimizer.momentum=0.9: expected a key of the chosen optimizer option",
    "data.path=x": "data.path=x: expected a key of the chosen data option; data.path belongs to data=npy or data=npz",
    "data.labels=y": "data.labels=y: expected a key of the chosen data option",
    "model.filters=[1,2,3]": "model.filters=[1,2,3]: expected a key of the chosen model option; "
    "model.filters belongs to model=conv",
    "clustering=none clustering.weight=1": "clustering.weight=1: expected a key of the chosen clustering option; "
    "clustering.weight belongs to clustering=kmeans",
    "regularization=none regularization.strength=1": "regularization.strength belongs to regularization=weight_decay "
    "or regularization=l2_penalty",
    # `name` says which option a section came from; changing it alone would leave the keys of another one.
    "model.name=conv": "model.name=conv: expected",
    "data.name=moons": "data.name=moons: expected",
    "data={name:moons}": "data={name:moons}: expected",
}


@pytest.mark.parametrize("flag", [["--cfg", "job"], ["--multirun"]])
def test_a_key_below_a_value_is_refused_by_hydra_too(flag: list[str], refuse: Refuse) -> None:
    assert refuse(*flag, "model.hidden.0=3").startswith(
        "error: model.hidden.0=3: model.hidden is one value, without keys"
    )


@pytest.mark.parametrize("overrides", UNKNOWN)
def test_an_unknown_key_is_answered_with_the_nearest_or_its_owner(overrides: str, refuse: Refuse) -> None:
    assert UNKNOWN[overrides] in refuse(*overrides.split(" "))


SYNTAX = {
    "+seed=1": "+seed=1: expected no +, as the key is there already; write seed=1",
    "joint.lr=1 +joint.lr=2": "+joint.lr=2: expected no +, as the key is there already; write joint.lr=2",
    "++joint.lr=1 +joint.lr=2": "+joint.lr=2: expected no +, as the key is there already; write joint.lr=2",
    "model.hidden.0=3": "model.hidden.0=3: model.hidden is one value, without keys; expected model.hidden=VALUE; ",
    "+optimizer=sgd": "optimizer=sgd: expected no +",
    "++optimizer=sgd": "optimizer=sgd: expected no +",
    "+recipe=classic": "recipe=classic: expected no +",
    "optimizer=[adam,sgd]": "optimizer=[adam,sgd]: expected one of adam, adamw, sgd",
    "optimizer=null": "optimizer=null: ",
    "optimizer=5": "optimizer=5: ",
    "optimizer={lr:5}": "optimizer={lr:5}: expected",
    "data=null": "data=null: ",
    "data=": "data=: expected one of blobs",
    "recipe=null": "recipe=null: expected one of aspc_da, auto, classic, dcn, dec, dec_da, dkm, flagship, idec; choose",
    "model=null": "model=null: expected one of mlp, conv, custom, auto; choose model=OPTION",
    "data.scaling=None": "write data.scaling=null, or data.scaling=none\n",
    "optimizer@x=adam": "optimizer@x=adam: expected",
    "hydra/launcher=nope": "hydra/launcher=nope: expected one of basic",
    "~optimizer": "~optimizer: expected",
    "~seed": "~seed: expected",
    "~batch_size": "~batch_size: expected",
    "~batch_size=256": "~batch_size=256: expected",
    "~pretrain": "~pretrain: expected",
    "~pretrain.lr": "~pretrain.lr: expected",
    "~model.hidden": "~model.hidden: expected",
    "~nope": "~nope: expected a key of the config",
    "seed": "seed: expected an override KEY=VALUE",
    "=1": "=1: expected an override KEY=VALUE",
    "seed==1": "seed==1: expected an override KEY=VALUE",
    "seed=1=2": "seed=1=2: expected an override KEY=VALUE",
    "seed='1": "seed='1: expected an override KEY=VALUE",
    "model.hidden=[1,2": "model.hidden=[1,2: expected an override KEY=VALUE",
    "data=npy data.path=~/x.npy": "data.path=~/x.npy: expected an override KEY=VALUE; write 'data.path=\"~/x.npy\"'\n",
    "data=npy data.path=a&b=c#d!.npy": "KEY=VALUE; write 'data.path=\"a&b=c#d!.npy\"'\n",
    "data=npy data.path=[a].npy": "KEY=VALUE; write 'data.path=\"[a].npy\"'\n",
    "data=csv data.id=it's": "KEY=VALUE; write 'data.id=\"it'\"'\"'s\"'\n",
    "seed=nope(1)": "seed=nope(1): expected an override KEY=VALUE",
    "seed=range(1,3)": "seed=range(1,3): expected one value; `dkm train -m` trains a run for each\n",
    "seed=1,2": "seed=1,2: expected one value; `dkm train -m` trains a run for each\n",
    "data=digits,blobs": "data=digits,blobs: expected one value; `dkm train -m` trains a run for each\n",
    "device=cpu,cuda": "device=cpu,cuda: expected one value; `dkm train -m` trains a run for each\n",
    "clustering.weight=0.1,1 seed=1": "clustering.weight=0.1,1: expected one value; `dkm train -m` trains a run "
    "for each\n",
    "model.hidden=8,4": "expected one value; `dkm train -m` trains a run for each, or write model.hidden=[8,4]\n",
    "data=csv data.path=a,b.csv": "for each, or write 'data.path=\"a,b.csv\"'\n",
    "seed=${nope}": "seed=${nope}: ",
    "seed=${nope:1}": "seed=${nope:1}: ",
    "seed=${batch_size}x": "seed=${batch_size}x: ",
    "data.root=${oc.env:NO_SUCH_VARIABLE}": "data.root=${oc.env:NO_SUCH_VARIABLE}: ",
    "seed=???": "Missing mandatory value: seed",
    "data=npz": "data.path=???: expected a value; set data.path=VALUE",
}


@pytest.mark.parametrize("overrides", SYNTAX)
def test_an_override_that_cannot_be_applied_is_shown_as_it_was_given(overrides: str, refuse: Refuse) -> None:
    assert SYNTAX[overrides] in refuse(*overrides.split(" "))


# --- types --------------------------------------------------------------------------------------------------------


TYPES = {
    "batch_size=null": "expected a whole number",
    "pretrain.lr=null": "expected a number",
    "log.tensorboard=null": "expected true or false",
    "data.root=null": "expected text",
    "joint=null": "expected its own keys",
    "batch_size=ten": "expected a whole number",
    "batch_size=1.5": "expected a whole number",
    "batch_size=true": "expected a whole number",
    "batch_size=[1]": "expected a whole number",
    "batch_size={a:1}": "expected a whole number",
    "batch_size=": "expected a whole number",
    "pretrain.epochs=1e2": "expected a whole number",
    "seed=0x10": "expected a whole number",
    "pretrain.lr=fast": "expected a number",
    "pretrain.lr=true": "expected a number",
    "pretrain.lr=[1]": "expected a number",
    "joint.tolerance=false": "expected a number",
    "regularization.strength=true": "expected a number",
    "compile=maybe": "expected true or false",
    "compile=0.5": "expected true or false",
    "log.figures=[true]": "expected true or false",
    "model.hidden=5": "expected a list [...]",
    "model.hidden={a:1}": "expected a list [...]",
    "optimizer.betas=0.9": "expected a list [...]",
    "pretrain=5": "expected its own keys",
    "pretrain=text": "expected its own keys",
    "pretrain.schedule=[cosine]": "expected text",
}


@pytest.mark.parametrize("override", TYPES)
def test_a_value_of_another_type_is_refused(override: str, refuse: Refuse) -> None:
    line = refuse(override)
    assert line.startswith(f"error: {override}: ")
    assert TYPES[override] in line


@pytest.mark.parametrize("override", ["model.hidden=[a]", "model.hidden=[1.5]", "model.hidden=[[5]]"])
def test_a_list_of_another_type_is_refused(override: str, refuse: Refuse) -> None:
    line = refuse(override)
    assert line.startswith("error: model.hidden")
    assert "expected a list [...]" in line


def settings() -> Iterator[tuple[str, str, Field[Any]]]:
    """Yield (the option to choose or "", dotted key, field) of every setting, each once."""
    seen = set()
    for part in fields(Config):
        default: Any = part.default_factory
        options: Mapping[str, Any] = {"": default} if is_dataclass(default) else GROUPS.get(part.name, {})
        if not options:
            yield "", part.name, part
        for option, schema in options.items():
            for setting in fields(schema):
                key = f"{part.name}.{setting.name}"
                if setting.name != "name" and key not in seen:
                    seen.add(key)
                    yield f"{part.name}={option}" if option else "", key, setting


NOT_NULL = {key: option for option, key, setting in settings() if not str(setting.type).endswith("None")}
NOT_NULL = {**{section.name: "" for section in fields(Config) if is_dataclass(section.default_factory)}, **NOT_NULL}


@cache
def plain(option: str) -> dict[str, Any]:
    """Return a config with this option, as it stands in a file."""
    group, _, name = option.partition("=")
    needed = (
        [
            f"{group}.{part.name}=a.b"
            for part in fields(GROUPS[group][name])
            if part.default == REQUIRED and part.name != "name"
        ]
        if option
        else []
    )
    return to_dict(compose(parse([*filter(None, [option]), *needed])).config)


def message_of(option: str, values: Mapping[str, Any]) -> str:
    """Return what is said about values in a config file. Faster than by a command line, for the many keys."""
    container = deepcopy(plain(option))
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (container[section] if section else container)[name] = value
    try:
        from_dictconfig(OmegaConf.create(container))
    except UserError as error:
        return str(error)
    except OmegaConfBaseException as error:
        return describe(error)
    pytest.fail(f"{values} was accepted")


@pytest.mark.parametrize("key", NOT_NULL)
def test_null_is_refused_where_it_has_no_meaning(key: str) -> None:
    message = message_of(NOT_NULL[key], {key: None})
    assert re.fullmatch(rf"{re.escape(key)}[:=].*; expected (a|text|true|its|one).*; correct {re.escape(key)}", message)


# --- ranges -------------------------------------------------------------------------------------------------------

RANGES = {
    "data.scaling=minmax": "expected one of none, unit, symmetric, rms, standard, centered, l2",
    "data=npy data.load=ram": "expected one of auto, memory, disk",
    "data=csv data.missing=mean": "expected one of refuse, drop, median",
    "data=csv data.columns=[]": "expected one column or more",
    "data=csv data.delimiter=semi": "did you mean data.delimiter=semicolon?",
    "data=csv data.decimal=dot": "expected one of point, comma",
    "data=csv data.thousands=dot": "expected one of none, comma, point, space",
    "data=csv data.encoding=utf-88": "expected an encoding that Python knows",
    "data=image_folder data.image_size=0": "expected a whole number, 1 or more",
    "data=image_folder data.color=grey": "did you mean data.color=gray?",
    "data=image_folder data.background=pink": "expected white, black, none or",
    "data=image_folder data.range=[1]": "expected two numbers, the lower one first",
    "data=npy data.layout=hcw": "did you mean data.layout=hwc?",
    "data=image_folder data.max_unreadable=1.1": "expected a number from 0 to 1",
    "data=image_folder data.encoder=resnet18": "expected timm/NAME, torchvision/NAME or FILE.onnx",
    "data=image_folder data.encoder_size=0": "expected a whole number, 1 or more",
    "data=image_folder data.encoder_mean=[0.5]": "expected three numbers",
    "data=image_folder data.encoder_std=[0,1,1]": "expected three positive numbers",
    "data=mnist data.split=valid": "expected one of all, train, test",
    "data=npz data.max_expansion=0": "expected a whole number, 1 or more",
    "data=newsgroups data.n_terms=0": "expected a whole number, 1 or more",
    "data=blobs data.n_samples=0": "expected a whole number, 1 or more",
    "data=blobs data.generator_seed=-1": "expected a whole number from 0 to 4294967295",
    "data=blobs data.generator_seed=4294967296": "expected a whole number from 0 to 4294967295",
    "data=blobs data.n_features=0": "expected a whole number, 1 or more",
    "data=blobs data.n_blobs=0": "expected a whole number, 1 or more",
    "data=blobs data.blob_std=0": "expected a finite number above 0",
    "data=moons data.noise=-0.1": "expected a finite number, 0 or more",
    "model.latent_dim=0": "expected a whole number, 1 or more",
    "model.initial_weights=he": "expected one of fan_in, glorot",
    "model.hidden=[0]": "expected widths of 1 or more",
    "model.hidden=[8,-8]": "expected widths of 1 or more",
    "model=conv model.filters=[1,2]": "expected three whole numbers of 1 or more",
    "model=conv model.filters=[1,2,0]": "expected three whole numbers of 1 or more",
    "clustering.n_clusters=0": "expected a whole number, 1 or more, auto, or auto:A-B with 2 <= A < B",
    "clustering.n_clusters=-3": "expected a whole number, 1 or more",
    **{
        f"clustering.n_clusters={value}": "expected a whole number, 1 or more, auto, or auto:A-B with 2 <= A < B"
        "; for example clustering.n_clusters=10"
        for value in ("2.5", "true", "[2]")
    },
    **{
        f"clustering.n_clusters={text}": "expected a whole number, 1 or more, auto, or auto:A-B with 2 <= A < B; "
        "for example clustering.n_clusters=auto:2-30"
        for text in ("auto:", "auto:5", "auto:9-3", "auto:4-4", "auto:1-4", "auto:2-5-9", "auto5-9", "foo")
    },
    "clustering.init=file clustering.n_clusters=auto": "expected a number beside clustering.init=file; for "
    "example clustering.n_clusters=10",
    "clustering.init=kmeans++": "uniform, file; did you mean clustering.init=k-means++?",
    "clustering.partition_samples=0": "expected a whole number, 1 or more",
    "clustering.n_clusters=10 clustering.partition_samples=9": "expected at least clustering.n_clusters=10; raise it",
    "clustering.n_neighbors=0": "expected a whole number, 1 or more",
    "clustering.reconstruction=-1": "expected a finite number, 0 or more",
    "clustering.initial_epochs=0": "expected a whole number, 1 or more",
    "clustering.centroids=free": "expected one of gradient, mean, fixed",
    "clustering.assignment=batch clustering.centroids=mean": "expected clustering.assignment=epoch beside it",
    "clustering.assignment=batch clustering.self_paced=true": "expected clustering.assignment=epoch beside it",
    "clustering.norm_weight=-1": "expected a finite number, 0 or more",
    "clustering.reset_every=0": "expected a whole number, 1 or more",
    "clustering.reset_fraction=1.1": "expected a number from 0 to 1",
    "clustering.init_file=start.npy": "expected a .npy file, with clustering.init=file and only then",
    "clustering=dkm clustering.schedule=linear": "expected one of constant, annealed",
    "clustering=dkm clustering.alpha=0": "expected a finite number above 0",
    "clustering=dkm clustering.alpha_start=-1": "expected a finite number above 0",
    "clustering=dkm clustering.epochs_per_alpha=0": "expected a whole number, 1 or more",
    "clustering=dcn clustering.count=-1": "expected a whole number, 0 or more",
    "clustering=dec clustering.update_interval=0": "expected a whole number, 1 or more",
    "clustering=idec clustering.update_interval=-3": "expected a whole number, 1 or more",
    "clustering.n_init=0": "expected a whole number, 1 or more",
    "clustering.balance_slack=-1": "expected a finite number, 0 or more",
    "clustering.modularity_slack=-1": "expected a finite number, 0 or more",
    "clustering.init_samples=0": "expected a whole number, 1 or more",
    "clustering.n_clusters=10 clustering.init_samples=9": "expected at least clustering.n_clusters=10; raise it",
    "evaluation.samples=1": "expected a whole number, 2 or more",
    "threads=0": "expected a whole number, 1 or more",
    "clustering.weight=-0.1": "expected a finite number, 0 or more",
    "clustering.assignment=epochs": "expected one of epoch, batch; did you mean clustering.assignment=epoch?",
    "regularization.strength=-1": "expected a finite number, 0 or more",
    "regularization.parameters=biases": "expected one of weights, all, encoder, decoder",
    "regularization=l2_penalty regularization.strength=-1": "expected a finite number, 0 or more",
    "optimizer.betas=[0.9]": "expected two numbers from 0 to below 1",
    "optimizer.betas=[0.9,1]": "expected two numbers from 0 to below 1",
    "optimizer.betas=[-0.1,0.9]": "expected two numbers from 0 to below 1",
    "optimizer.eps=0": "expected a finite number above 0",
    "optimizer=sgd optimizer.momentum=1": "expected a number from 0 to below 1",
    "optimizer=sgd optimizer.momentum=0 optimizer.nesterov=true": "expected a momentum above 0 with it",
    "augmentation.rotation=-1": "expected degrees from 0 to 180",
    "augmentation.rotation=181": "expected degrees from 0 to 180",
    "augmentation=affine augmentation.shift=1": "expected a number from 0 to below 1",
    "augmentation.shift=-0.1": "expected a number from 0 to below 1",
    "loss.reduction=max": "expected one of mean, sum",
    "pretrain.epochs=-1": "expected a whole number, 0 or more",
    "pretrain.steps=-1": "expected a whole number, 0 or more",
    "joint.steps=-1": "expected a whole number, 0 or more",
    "pretrain.neighbor_weight=-1": "expected a finite number, 0 or more",
    "pretrain.lr=0": "expected a finite number above 0",
    "pretrain.lr=nan": "expected a finite number above 0",
    "pretrain.lr=-inf": "expected a finite number above 0",
    "joint.tolerance=nan": "expected a number from 0 to below 1",
    "checkpoint.every_s=inf": "expected a finite number, 0 or more",
    "pretrain.schedule=linear": "expected one of constant, cosine, one_cycle",
    "pretrain.optimizer=sdg": "expected one of adam, adamw, sgd; did you mean pretrain.optimizer=sgd?",
    "joint.epochs=-1": "expected a whole number, 0 or more",
    "joint.lr=-1": "expected a finite number above 0",
    "joint.schedule=onecycle": "expected one of constant, cosine, one_cycle; did you mean joint.schedule=one_cycle?",
    "joint.average_epochs=-1": "expected a finite number, 0 or more",
    "joint.tolerance=1": "expected a number from 0 to below 1",
    "joint.tolerance=-0.1": "expected a number from 0 to below 1",
    "checkpoint.every_s=-1": "expected a finite number, 0 or more",
    "evaluation.every_epochs=0": "expected a whole number, 1 or more",
    "evaluation.silhouette_samples=1": "expected a whole number, 2 or more",
    "evaluation.graph_samples=1": "expected a whole number, 2 or more",
    "log.progress=none": "expected one of auto, bar, plain, off",
    "log.map=mds": "expected one of pca, tsne, umap",
    "log.to=[csv,tensorbord]": "expected a list of tensorboard, csv, wandb, mlflow",
    "distributed.timeout_s=0": "expected a whole number, 1 or more",
    "batch_size=0": "expected a whole number, 1 or more",
    "seed=-1": "expected a whole number from 0 to 2147483647",
    "seed=2147483648": "expected a whole number from 0 to 2147483647",
    "device=tpu": "expected one of auto, cpu, cuda, cuda:N",
    "device=cuda:x": "expected one of auto, cpu, cuda, cuda:N",
    "device=": "expected one of auto, cpu, cuda, cuda:N",
    "precision=fp16": "expected one of fp32, bf16",
}


@pytest.mark.parametrize("overrides", RANGES)
def test_a_value_out_of_range_is_refused(overrides: str) -> None:
    given = [OverridesParser.create().parse_override(override) for override in overrides.split(" ")]
    options = [override.input_line for override in given if override.key_or_group in GROUPS]
    values = {override.key_or_group: override.value() for override in given[len(options) :]}
    message = message_of("".join(options), values)
    key, _, value = given[-1].input_line.partition("=")
    # Numbers come back in their own spelling (-1.0), lists with spaces.
    assert message.startswith(f"{key}={value[:2]}")
    assert RANGES[overrides] in message


@pytest.mark.parametrize("override", ["batch_size=0", "clustering.n_clusters=0", "device=tpu", "optimizer.betas=[0.9]"])
def test_a_value_out_of_range_is_refused_on_the_command_line(override: str, refuse: Refuse) -> None:
    line = refuse(override)
    assert line.startswith(f"error: {override}: {RANGES[override]}; for example ")


def test_every_setting_that_has_a_range_has_a_case() -> None:
    limited = {key for key, declared in declarations().items() if declared.check is not None}
    limited |= {"optimizer.nesterov", "clustering.self_paced", "clustering.init_file"}  # limited by other settings
    assert {overrides.split(" ")[-1].partition("=")[0] for overrides in RANGES} == limited


FLOATS = {key: option for option, key, setting in settings() if str(setting.type).startswith("float")}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", FLOATS)
def test_a_number_must_be_finite(key: str, value: float) -> None:
    message = message_of(FLOATS[key], {key: value})
    assert re.match(rf"{re.escape(key)}={value}: expected .+; for example {re.escape(key)}=\d", message)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_numbers_of_a_list_must_be_finite(value: float) -> None:
    message = message_of("", {"optimizer.betas": [value, 0.9]})
    assert message.startswith(f"optimizer.betas=[{value}, 0.9]: expected two numbers from 0 to below 1; ")


# --- flags --------------------------------------------------------------------------------------------------------

FLAGS = {
    "--seed=1": "--seed: expected a flag that is known",
    "--seed 1": "--seed: expected a flag that is known",
    "-x": "-x: expected a flag that is known",
    "--cfgs job": "--cfgs: expected a flag that is known",
    "--cfg nope": "nope",
    "--cfg": "--cfg",
    "--info nope": "nope",
    "--config-name nope": "--config-name=nope: expected a config that exists",
    "--config-name=nope.yaml": "--config-name=nope: expected a config that exists",
    "--config-name": "--config-name: expected the name of a config after it; for example --config-name mine\n",
    "--config-dir": "--config-dir: expected a folder after it; for example --config-dir mine\n",
    "--config-path=": "--config-path=: expected a folder after it; for example --config-path mine\n",
    "--config-dir nope": "--config-dir=nope: expected an existing directory",
    "--config-dir=nope": "--config-dir=nope: expected an existing directory",
    "--config-path nope": "--config-path=nope: expected an existing directory",
}


@pytest.mark.parametrize("arguments", FLAGS)
def test_a_wrong_flag_is_refused(arguments: str, refuse: Refuse) -> None:
    assert FLAGS[arguments] in refuse(*arguments.split(" "))


def test_hydras_rerun_from_a_pickle_is_refused_and_executes_nothing(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
    line = refuse("--experimental-rerun", str(tmp_path / "config.pickle"))
    assert "--experimental-rerun: expected a flag that is known" in line


@pytest.mark.parametrize(
    ("overrides", "expected"),
    {
        "seed=1,2 bach_size=3": "bach_size=3: expected a key of the config; did you mean batch_size?",
        "seed=1,2 model=nope": "model=nope: expected one of auto, conv, custom, mlp",
        "seed=[1": "seed=[1: expected an override KEY=VALUE",
        "seed=1,2 batch_size=0": "batch_size=0: expected a whole number, 1 or more",
        "seed=0,-1": "seed=-1: expected a whole number",
        "joint.lr=interval(0,1)": "joint.lr=interval(0,1): expected single values in a sweep, as joint.lr=VALUE,VALUE; "
        "to search an interval: dkm tune 'joint.lr=interval(0,1)'\n",
        "seed=1,2 resume=run": "resume=run: expected null or auto in a sweep",
        "seed=1,2 hydra.sweep.dir=/proc/nope": "output=/proc/nope",
    }.items(),
)
def test_a_sweep_is_refused_before_its_first_run(overrides: str, expected: str, refuse: Refuse) -> None:
    assert expected in refuse("--multirun", *overrides.split(" "))


# --- a config of the user's own -----------------------------------------------------------------------------------

HEAD = "# @package _global_\n"
YAMLS = {
    "broken": (b"model: {hidden: [1, 2\n", "experiment/mine.yaml"),
    "not text": (b"\xff\xfe\x00", "experiment/mine.yaml"),
    "a list": (b"- seed\n- 1\n", "experiment/mine"),
    "a word": (b"seed\n", "experiment/mine"),
    "twice": (b"seed: 1\nseed: 2\n", "duplicate key seed"),
    "unknown key": (b"bach_size: 3\n", "bach_size: expected a key of the config; did you mean batch_size?"),
    "unknown nested": (
        b"model: {hiden: [8]}\n",
        "model.hiden: expected a key of the config; did you mean model.hidden?",
    ),
    "another option's": (b"model: {filters: [8]}\n", "model.filters belongs to model=conv"),
    "type": (b"batch_size: many\n", "expected a whole number"),
    "range": (b"batch_size: 0\n", "batch_size=0: expected a whole number, 1 or more"),
    "null": (b"batch_size: null\n", "expected a whole number"),
    "reference": (b"seed: ${nope}\n", "nope"),
    "no such option": (b"defaults: [{override /model: nope}]\n", "model=nope: expected one of auto, conv, custom, mlp"),
    "text for a section": (
        b"model: conv\n",
        "mine.yaml: model: conv: expected keys of model; choose an option in the list defaults of the file: "
        "`- override /model: conv`\n",
    ),
    "text for keys": (b"joint: fast\n", "JointConfig"),
    "no override": (b"defaults: [/model: conv]\n", "list defaults of the file: `- override /model: conv`\n"),
    "no slash": (b"defaults: [override model: conv]\n", "list defaults of the file: `- override /model: OPTION`\n"),
    "code": (b"seed: !!python/object/apply:os.mkdir [executed]\n", "experiment/mine.yaml"),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_a_mistake_in_an_experiment_is_refused(kind: str, tmp_path: Path, refuse: Refuse) -> None:
    content, expected = YAMLS[kind]
    experiment = tmp_path / "configs" / "experiment"
    experiment.mkdir(parents=True)
    (experiment / "mine.yaml").write_bytes(HEAD.encode() + content)
    line = refuse("--config-dir", str(tmp_path / "configs"), "experiment=mine")
    assert expected in line
    assert "/configs/config.yaml" not in line  # which is not where the mistake is


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("seed: [\n", "mine.yaml"),
        ("[]\n", "mine"),
        ("seed: 1\n", "begin a config of your own with the line `defaults: [config, _self_]`\n"),
        ("defaults: [config, _self_]\nbach_size: 3\n", "bach_size: expected a key of the config; did you mean"),
        ("defaults: [config, _self_]\nbatch_size: 0\n", "batch_size=0: expected a whole number, 1 or more"),
        ("defaults: [nope]\n", "nope"),
    ],
)
def test_a_mistake_in_an_own_config_is_refused(content: str, expected: str, tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert expected in refuse("--config-dir", str(tmp_path), "--config-name", "mine")


def test_a_config_without_the_choices_of_the_package_is_told_how_to_have_them(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    line = refuse("--config-dir", str(tmp_path), "--config-name", "mine", "data=digits")
    remedy = f"begin {tmp_path / 'mine.yaml'} with the line `defaults: [config, _self_]`"
    assert line == f"error: data=digits: expected a config with a choice of data; {remedy}\n"


@pytest.mark.parametrize("head", ["", "\ufeff# @package _global_\n", "# Mine.\n\n# @package _global_\n"])
def test_an_experiment_without_its_first_line_is_told_so(head: str, tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(f"{head}seed: 1\n", encoding="utf-8")
    line = refuse("--config-dir", str(tmp_path / "own"), "experiment=mine")
    assert line.startswith("error: experiment/mine.yaml: expected it to begin with the line `# @package _global_`, ")


@pytest.mark.parametrize("words", [["experiment=mine"], ["data=blobs"]])
def test_an_own_option_with_a_name_of_the_package_is_refused(words: list[str], tmp_path: Path, refuse: Refuse) -> None:
    """The one of the package would be read instead, in silence; one that the run does not use does no harm."""
    for name in ("experiment/mine", "data/blobs", "data/moons"):
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("# @package _global_\ndefaults:\n  - override /data: blobs\n")
    own = tmp_path / "configs" / "data"
    expected = f"data=blobs: expected another name for {own}/blobs.yaml, as the package has an option of that name; "
    line = refuse("--config-dir", str(tmp_path / "configs"), *words)
    assert line == f"error: {expected}rename it: mv {own}/blobs.yaml {own}/my_blobs.yaml\n"


def test_a_config_directory_that_is_a_file_is_refused(tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\n")
    assert f"--config-dir={path}: expected an existing directory" in refuse("--config-dir", str(path))


# --- what the data and the machine allow --------------------------------------------------------------------------

AFFINE_ON_A_TABLE = (
    "augmentation=affine: expected image data, got rows of a table; use recipe=auto instead of a recipe for images "
    "(aspc_da, dec_da, flagship), or augmentation=none\n"
)
UNFIT = {
    "data=digits clustering.init_samples=5": "clustering.init_samples=5: expected at least the number of clusters, 10",
    "data=digits clustering.partition_samples=9": "clustering.partition_samples=9: expected at least the number of ",
    "data=blobs data.n_samples=30 clustering.n_clusters=50": "clustering.n_clusters=50: expected at most n_samples=30",
    "data=blobs model=conv": "model=conv: expected image data, got rows of a table; use model=mlp",
    "data=blobs augmentation=affine": AFFINE_ON_A_TABLE,
    "data=blobs recipe=flagship": AFFINE_ON_A_TABLE,
    "data=blobs recipe=aspc_da model=mlp": AFFINE_ON_A_TABLE,
    "data=moons recipe=dec_da": AFFINE_ON_A_TABLE,
    "device=cuda:99": "device=cuda:99: expected a device that is there (cpu",
    "data=blobs data.blob_std=1e300": "data=blobs: values that are NaN, infinite or too large for float32",
}


@pytest.mark.parametrize("overrides", UNFIT)
def test_what_does_not_fit_the_data_or_the_machine_is_refused(overrides: str, refuse: Refuse) -> None:
    assert f"error: {UNFIT[overrides]}" in refuse(*overrides.split(" "))


def test_without_labels_the_number_of_clusters_is_required(tmp_path: Path, refuse: Refuse) -> None:
    np.save(tmp_path / "x.npy", TABLE)
    line = refuse("data=npy", f"data.path={tmp_path / 'x.npy'}")
    assert "clustering.n_clusters=null: expected a number, as data=npy has no labels" in line
    assert "for example clustering.n_clusters=10, or clustering.n_clusters=auto to find one" in line


# --- files --------------------------------------------------------------------------------------------------------

TABLE = np.arange(12.0).reshape(6, 2)


def damage(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save = np.save if path.suffix == ".npy" else np.savez
        save(path, TABLE)
        path.write_bytes(change(path.read_bytes()))

    return write


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.touch(), "an empty file (0 bytes)"),
    "text": (lambda path: path.write_text("1,2\n3,4\n"), "neither a .npy nor a .npz file; expected"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Malicious(path.with_name("executed")))), "neither a .npy"),
    "cut in the header": (damage(lambda content: content[:40]), "expected a complete file"),
    "cut in the data": (damage(lambda content: content[:-60]), "expected a complete file"),
}
ARRAYS: dict[str, tuple[Any, str]] = {
    "NaN": (
        np.where(TABLE == 5, np.nan, TABLE),
        "NaN, infinite or too large for float32: 1, the first is nan in row 2",
    ),
    "infinity": (np.where(TABLE == 5, -np.inf, TABLE), "1, the first is -inf in row 2, column 1 (counted from 0)"),
    "too large": (TABLE * 1e300, "too large for float32"),
    "objects": (np.array([[Malicious(Path("executed"))]], dtype=object), "holds Python objects; expected numbers"),
    "strings": (np.array([["a", "b"], ["c", "d"]]), "an array of <U1; expected real numbers"),
    "complex": (TABLE + 1j, "an array of complex128; expected real numbers"),
    "dates": (TABLE.astype("datetime64[s]"), "expected real numbers"),
    "records": (np.zeros(6, dtype=[("a", float)]), "expected real numbers"),
    "no rows": (np.zeros((0, 2)), "no values (shape (0, 2)); expected one row or more"),
    "no columns": (np.zeros((6, 0)), "no values (shape (6, 0))"),
    "one dimension": (np.arange(6.0), "shape (6,); expected rows (N, F) or images"),
    "five dimensions": (np.zeros((2, 2, 2, 2, 2)), "shape (2, 2, 2, 2, 2); expected rows (N, F) or images"),
    "a number": (np.float64(1), "shape (); expected rows (N, F) or images"),
    "constant": (np.ones((6, 2)), "all 6 rows are equal; expected rows that differ"),
}


@pytest.mark.parametrize("option", ["npy", "npz"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_cannot_be_read_is_refused(kind: str, option: str, tmp_path: Path, refuse_data: RefuseData) -> None:
    write, expected = DAMAGED[kind]
    path = tmp_path / f"x.{option}"
    write(path)
    line = refuse_data((NpyData if option == "npy" else NpzData)(path=str(path)))
    assert line.startswith(f"error: data.path={path}: ")
    assert expected in line


FOLDERS: dict[str, tuple[Mapping[str, Any], str]] = {
    "empty": ({}, "an empty folder; expected a .npy file, or a folder of .npy files; correct data.path"),
    "only hidden files": ({".a.npy": TABLE}, "an empty folder"),
    "other files": ({"b.txt": b"", "a.npz": b""}, "a folder without .npy files (it has a.npz, for example)"),
    "a folder in it": ({"a.npy": TABLE, "b.npy": None}, "shard b.npy: cannot be opened (Is a directory)"),
    "an empty file": ({"a.npy": TABLE, "b.npy": b""}, "shard b.npy: an empty file (0 bytes); expected a .npy file"),
    "text": ({"a.npy": TABLE, "b.npy": b"1,2"}, "shard b.npy: neither a .npy nor a .npz file"),
    "an archive": (
        {"a.npy": TABLE, "b.npy": b"PK\x03\x04"},
        "shard b.npy: the content of a .npz file; expected a .npy",
    ),
    "a cut header": ({"a.npy": TABLE, "b.npy": b"\x93NUMPY\x01\x00v"}, "shard b.npy: cannot be read ("),
    "objects": ({"a.npy": TABLE, "b.npy": np.array([{}])}, "shard b.npy: holds Python objects; expected numbers"),
    "dtypes": (
        {"a.npy": TABLE, "b.npy": TABLE.astype("f4")},
        "shard b.npy: an array of float32; expected float64 as in a.npy; save all shards with the same dtype",
    ),
    "byte orders": ({"a.npy": TABLE, "b.npy": TABLE.astype(">f8")}, "shard b.npy: an array of >f8; expected float64"),
    "widths": (
        {"a.npy": TABLE, "b.npy": TABLE[:, :1]},
        "shard b.npy: shape (6, 1); expected (any number, 2) as in a.npy; save all shards with the same dtype",
    ),
    "dimensions": ({"a.npy": TABLE, "b.npy": TABLE[0]}, "shard b.npy: shape (2,); expected (any number, 2) as in"),
    "numbers": ({"a.npy": np.float64(1), "b.npy": np.float64(1)}, "shard b.npy: shape (); expected "),
    "no rows": ({"a.npy": TABLE[:0], "b.npy": TABLE[:0]}, "no values (shape (0, 2)); expected one row or more"),
    "equal rows": ({"a.npy": TABLE[:1], "b.npy": TABLE[:1]}, "all 2 rows are equal; expected rows that differ"),
    "NaN": ({"a.npy": TABLE, "b.npy": TABLE * np.nan}, "float32: 12, the first is nan in row 6, column 0 (counted"),
    "strings": ({"a.npy": np.array([["a"]])}, "an array of <U1; expected real numbers"),
    "records": ({"a.npy": np.zeros((2, 2), dtype=[("a", float)])}, "expected real numbers"),
}


@pytest.mark.parametrize("load", ["memory", "disk"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_data_is_refused(kind: str, load: str, tmp_path: Path, refuse_data: RefuseData) -> None:
    folder = tmp_path / "shards"
    write_folder(folder, kind)
    line = refuse_data(NpyData(path=str(folder), load=load))
    assert line.startswith(f"error: data.path={folder}: ")
    assert FOLDERS[kind][1] in line


def write_folder(folder: Path, kind: str) -> None:
    folder.mkdir()
    for name, content in FOLDERS[kind][0].items():
        if content is None:
            (folder / name).mkdir()
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            np.save(folder / name, content, allow_pickle=True)


@pytest.mark.parametrize("key", ["data.path", "data.labels"])
def test_a_folder_is_refused_where_only_a_file_will_do(key: str, tmp_path: Path, refuse: Refuse) -> None:
    np.save(tmp_path / "x.npy", TABLE)
    data = ["data=npz"] if key == "data.path" else ["data=npy", f"data.path={tmp_path / 'x.npy'}"]
    assert f"{key}={tmp_path}: cannot be opened (Is a directory)" in refuse(*data, f"{key}={tmp_path}")


@pytest.mark.parametrize("kind", [kind for kind in DAMAGED if kind != "cut in the header"])
def test_a_file_that_cannot_be_read_is_refused_for_the_disk_too(
    kind: str, tmp_path: Path, refuse_data: RefuseData
) -> None:
    write, expected = DAMAGED[kind]
    write(tmp_path / "x.npy")
    line = refuse_data(NpyData(path=str(tmp_path / "x.npy"), load="disk"))
    assert line.startswith(f"error: data.path={tmp_path / 'x.npy'}: ")
    assert expected in line


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_on_disk_is_refused_with_the_line_of_one_in_memory(
    kind: str, tmp_path: Path, refuse_data: RefuseData
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ARRAYS[kind][0], allow_pickle=True)
    lines = [refuse_data(NpyData(path=str(path), load=load)) for load in ("disk", "memory")]
    assert lines[0] == lines[1]


def test_fortran_order_on_disk_is_refused(tmp_path: Path, refuse: Refuse) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(TABLE))
    line = refuse("data=npy", f"data.path={tmp_path / 'x.npy'}", "data.load=disk", "clustering.n_clusters=2")
    assert "an array in Fortran order, whose rows lie scattered; expected C order; save np.ascontig" in line
    assert line.endswith("(X), or set data.load=memory\n")


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_is_no_data_is_refused(kind: str, tmp_path: Path, refuse_data: RefuseData) -> None:
    array, expected = ARRAYS[kind]
    path = tmp_path / "x.npy"
    np.save(path, array, allow_pickle=True)
    line = refuse_data(NpyData(path=str(path)))
    assert line.startswith(f"error: data.path={path}: ")
    assert expected in line


@pytest.mark.parametrize("load", ["memory", "disk"])
@pytest.mark.parametrize("what", ["a file", "an array", "a folder"])
def test_the_command_prints_the_line_of_the_data(
    what: str, load: str, tmp_path: Path, refuse: Refuse, refuse_data: RefuseData
) -> None:
    path = tmp_path / "x.npy"
    if what == "a file":
        DAMAGED["a pickle"][0](path)
    elif what == "an array":
        np.save(path, ARRAYS["NaN"][0])
    else:
        write_folder(path, "objects")
    line = refuse("data=npy", f"data.path={path}", f"data.load={load}", "clustering.n_clusters=2")
    assert line == refuse_data(NpyData(path=str(path), load=load))


NPZ = {
    "data.array=z": "data.array=z: no such array; expected one of the arrays of",
    "data.array=null": "data.array=null: several arrays that could be the data",
    "data.array=a data.labels=z": "data.labels=z: no such array",
    "data.array=a data.labels=short": "data.labels=short: shape (5,); expected (6,)",
    "data.array=a data.labels=fractions": "expected whole numbers, bools or strings",
    "data.array=a data.labels=b": "data.labels=b: shape (6, 2); expected (6,)",
}


@pytest.mark.parametrize("overrides", NPZ)
def test_arrays_and_labels_of_an_npz_are_checked(overrides: str, tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=TABLE, b=TABLE, short=np.arange(5), fractions=np.linspace(0, 1, 6))
    assert NPZ[overrides] in refuse("data=npz", f"data.path={path}", *overrides.split(" "))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, "no such file"),
        (np.arange(5), "shape (5,); expected (6,)"),
        (np.full(6, np.nan), "expected whole numbers, bools or strings"),
        (np.array([Malicious(Path("executed"))] * 6, dtype=object), "holds Python objects"),
    ],
)
def test_the_label_file_is_checked_under_its_own_key(
    labels: Any, expected: str, tmp_path: Path, refuse: Refuse
) -> None:
    np.save(tmp_path / "x.npy", TABLE)
    path = tmp_path / "y.npy"
    if labels is not None:
        np.save(path, labels, allow_pickle=True)
    line = refuse("data=npy", f"data.path={tmp_path / 'x.npy'}", f"data.labels={path}")
    assert line.startswith(f"error: data.labels={path}: ")
    assert expected in line


def test_the_other_file_format_names_the_right_option(tmp_path: Path, refuse: Refuse) -> None:
    np.savez(tmp_path / "x.npz", TABLE)
    assert "use data=npz" in refuse("data=npy", f"data.path={tmp_path / 'x.npz'}")


def test_the_home_of_an_unknown_user_is_a_missing_folder(refuse: Refuse) -> None:
    assert "~nobody-here/x.npy: no such file" in refuse("data=npy", "data.path='~nobody-here/x.npy'")


# --- the run directory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notes.txt", ".hidden"])
def test_a_run_directory_that_is_not_empty_is_left_alone(name: str, tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / name).write_text("mine")
    line = refuse(*BASE, f"hydra.run.dir={path}")
    assert f"output={path}: expected a new or an empty directory" in line


def test_the_directory_of_a_run_is_not_used_twice(copy_of_run: Path, refuse: Refuse) -> None:
    assert f"continue the run in it with resume={copy_of_run}" in refuse(*BASE, f"hydra.run.dir={copy_of_run}")


@pytest.mark.parametrize("below", ["", "/run"])
def test_a_run_directory_that_is_a_file_or_below_one_is_refused(below: str, tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert f"output={path}{below}: " in refuse(*BASE, f"hydra.run.dir={path}{below}")


@pytest.mark.parametrize("path", ["/proc/nope/run", "x" * 300])
def test_a_run_directory_that_cannot_be_made_is_refused(path: str, refuse: Refuse) -> None:
    assert "output=" in refuse(*BASE, f"hydra.run.dir={path}")


def test_a_run_directory_that_cannot_be_written_is_refused(tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / "read-only"
    path.mkdir(mode=0o500)
    if os.geteuid() == 0:  # may write there, but not below /proc
        path = Path("/proc/tty/ldisc")
        if not path.is_dir() or any(path.iterdir()):
            pytest.skip("root may write everywhere")
    assert f"output={path}: " in refuse(*BASE, f"hydra.run.dir={path}")


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        search_quickly(patch.setattr)
        patch.setattr(sys, "argv", ["dkm-train", *BASE, f"hydra.run.dir={path}"])
        with pytest.raises(SystemExit) as exited:
            main()
    signal.signal(signal.SIGTERM, handler)
    assert exited.value.code == 0
    return path


@pytest.fixture
def copy_of_run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


NO_RUNS = {
    "": ", got a directory without config.yaml; ",
    "nothing": ", got a path that does not exist; ",
    "folder": ", got a directory without config.yaml; ",
    "file": "expected a run directory, got a file; ",
    "run/config.yaml": "expected a run directory, got a file; ",
    "'~nobody-here/run'": ", got a path that does not exist; ",
    "x" * 300: "expected a run directory",
}


@pytest.mark.parametrize("value", NO_RUNS)
def test_resuming_what_is_no_run_is_refused(
    value: str, copy_of_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    line = refuse(f"resume={value}")
    stripped = value.strip("'")
    assert line.startswith(f"error: resume={stripped}: expected a run directory")
    assert NO_RUNS[value] in line


RESUMED = {
    "seed=1": "seed=1: expected 0 as in RUN/config.yaml, a resumed run keeps its config; leave the override out",
    "batch_size=32": "batch_size=32: expected 256 as in RUN/config.yaml",
    "data.n_samples=61": "data.n_samples=61: expected 60 as in RUN/config.yaml",
    "joint.lr=1": "joint.lr=1.0: expected 0.002 as in RUN/config.yaml",
    "joint.epochs=1": "joint.epochs=1: expected 2 as in RUN/config.yaml, as joint.schedule=one_cycle depends on it",
    "pretrain.epochs=5": "pretrain.epochs=5: expected 2 as in RUN/config.yaml, as pretrain.schedule=one_cycle "
    "depends on it",
    "pretrain.epochs=1": "pretrain.epochs=1: expected 2 as in RUN/config.yaml",
    "optimizer=sgd": "optimizer",
    "clustering=none": "clustering",
    "data=moons": "data",
    "sed=1": "sed=1: expected a key of the config; did you mean seed?",
    "data.path=x": "data.path=x: expected a key of the chosen data option",
    "seed=ten": "seed=ten: ",
    "batch_size=0": "batch_size=0: expected a whole number, 1 or more",
    "device=cuda:99": "device=cuda:99: expected a device that is there (cpu",
}


@pytest.mark.parametrize("override", RESUMED)
def test_a_run_is_not_resumed_with_another_config(override: str, copy_of_run: Path, refuse: Refuse) -> None:
    line = refuse(f"resume={copy_of_run}", override)
    assert line.startswith(f"error: {RESUMED[override].replace('RUN', str(copy_of_run))}")


def test_the_whole_command_with_one_difference_names_that(copy_of_run: Path, refuse: Refuse) -> None:
    """From another working directory, on which ``data.root`` of these generated data does not depend."""
    assert refuse(f"resume={copy_of_run}", *BASE, "seed=1").startswith("error: seed=1: expected 0 as in ")


EDITED = {
    ("\nseed: 0", "\nseed: 1"): "RUN/config.yaml: seed=1, but the checkpoint was written with 0; expected the same",
    ("n_clusters: null", "n_clusters: 3"): "RUN/config.yaml: clustering.n_clusters=3, but the checkpoint was written",
    ("n_samples: 60", "n_samples: 61"): "RUN/config.yaml: data.n_samples=61, but the checkpoint was written with 60",
    ("batch_size: 256", "batch_size: 0"): "batch_size=0: expected a whole number, 1 or more",
    ("batch_size: 256", "batch_size: many"): "RUN/config.yaml: batch_size=many: expected a whole number",
    ("batch_size: 256", "batch_size: ["): "RUN/config.yaml",
    ("batch_size: 256", "bach_size: 256"): "bach_size: expected a key of the config; did you mean batch_size?",
    ("name: mlp", "name: conv"): "model.",
    ("name: blobs", "name: nope"): "data.name=nope: expected one of digits, ",
    ("defaults:", "no_defaults:"): "",
    ("\ndata:", "\n\xff\xfe:"): "",
}
# Of these not even the digest is looked at.
UNREADABLE = {("batch_size: 256", "batch_size: ["), ("\ndata:", "\n\xff\xfe:")}


@pytest.mark.parametrize("edit", EDITED, ids=lambda edit: edit[1].strip().encode("ascii", "replace").decode())
def test_a_run_whose_config_was_edited_is_not_resumed(edit: tuple[str, str], copy_of_run: Path, refuse: Refuse) -> None:
    path = copy_of_run / "config.yaml"
    content = path.read_text()
    assert content.count(edit[0]) == 1
    edited = content.replace(*edit)
    path.write_bytes(edited.encode("latin-1"))
    line = refuse(f"resume={copy_of_run}", "log.tensorboard=true")  # no event file may be begun
    if edit not in UNREADABLE:
        assert line.startswith(f"error: {path}: damaged or altered")
    # Runs of earlier versions have no digest.
    digest = re.search("# SHA-256 .*\n", edited)
    assert digest is not None
    path.write_bytes(edited.replace(digest.group(), "").encode("latin-1"))
    line = refuse(f"resume={copy_of_run}", "log.tensorboard=true")
    assert EDITED[edit].replace("RUN", str(copy_of_run)) in line


def test_a_run_whose_data_changed_is_not_resumed(
    copy_of_run: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse
) -> None:
    import sklearn.datasets

    original = sklearn.datasets.make_blobs

    def other_blobs(**arguments: Any) -> tuple[Any, Any]:
        X, y = original(**arguments)
        X[7, 3] += 1e-9
        return X, y

    monkeypatch.setattr(sklearn.datasets, "make_blobs", other_blobs)
    line = refuse(f"resume={copy_of_run}", "log.tensorboard=true")
    assert line.startswith("error: data=blobs: the data changed since the run began (SHA-256 ")


def signed(payload: bytes) -> bytes:
    """Return a checkpoint file with a digest that is right."""
    return payload + b"\ndkm sha256 " + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return signed(buffer.getvalue())


CHECKPOINTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda marker: b"", "last.pt: damaged or altered"),
    "garbage": (lambda marker: b"garbage" * 100, "last.pt: damaged or altered"),
    "a pickle": (lambda marker: pickle.dumps(Malicious(marker)), "last.pt: damaged or altered"),
    "a signed pickle": (lambda marker: signed(pickle.dumps(Malicious(marker), protocol=2)), "not loaded"),
    "a saved object": (
        lambda marker: saved({"format_version": 1, "position": Malicious(marker)}),
        "last.pt: holds something other than tensors and plain containers; not loaded",
    ),
    "another version": (lambda marker: saved({"format_version": 99}), "last.pt: format_version=99, expected 1"),
    "something else": (lambda marker: saved([1, 2]), "last.pt: "),
    "nothing in it": (lambda marker: saved({"format_version": 1}), "the state does not fit this model ('config'); "),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_run_without_an_intact_checkpoint_is_not_resumed_and_executes_nothing(
    kind: str, copy_of_run: Path, tmp_path: Path, refuse: Refuse
) -> None:
    make, expected = CHECKPOINTS[kind]
    for name in ("last.pt", "previous.pt"):
        (copy_of_run / "checkpoints" / name).write_bytes(make(tmp_path / "executed"))
    line = refuse(f"resume={copy_of_run}", "log.tensorboard=true")
    assert line.startswith(f"error: {copy_of_run / 'checkpoints'}")
    assert expected in line
    assert not (tmp_path / "executed").exists()


# --- real processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            [sys.executable, "-m", "dkm.train", "bach_size=1"],
            "bach_size=1: expected a key of the config; did you mean batch_size?",
        ),
        (
            [str(Path(sys.executable).with_name("dkm-train")), "data=moons", "augmentation=affine"],
            "augmentation=affine: expected image data, got rows of a table",
        ),
    ],
)
@pytest.mark.thorough
def test_a_real_process_writes_one_line_and_nothing_else(command: list[str], expected: str, here: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert_is_one_line(done.stderr)
    assert f"error: {expected}" in done.stderr
    assert list(here.iterdir()) == []
