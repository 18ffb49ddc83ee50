"""Convert between Hydra's configs and the dataclasses of settings.

``register`` puts the dataclasses into Hydra's ConfigStore, where the YAML files of ``configs/`` pick them up as
schemas; ``from_dictconfig`` converts a composed config into these objects and refuses invalid values. This module does
not import torch, so a wrong override and ``--cfg job`` take a fraction of the time of ``import torch``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from dkm.config.checks import require
from dkm.config.groups import GROUPS
from dkm.config.run import Config
from dkm.config.settings import REQUIRED
from dkm.errors import UserError


def config_dir() -> Path:
    """Return the folder of the YAML files: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def begin_with_config(file: str) -> str:
    """Return the remedy for a primary config that lacks the sections of the package's."""
    return f"begin {file} with the line `defaults: [config, _self_]`"


def option_names(group: str) -> list[str]:
    """Return the options of a group, or of ``recipe`` and ``experiment``: those with a schema, and then the others.

    An option without a schema of its own, such as ``model=auto``, is a file with other values of another option.
    """
    files = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
    return list(dict.fromkeys([*GROUPS.get(group, ()), *files]))


def register(store: ConfigStore | None = None) -> None:
    """Put the schemas into ``store``, by default Hydra's: the root ``schema``, and ``GROUP/schema/OPTION``.

    An option that a plugin adds needs no YAML file: its schema also serves as the option.
    """
    store = ConfigStore.instance() if store is None else store
    store.store(name="schema", node=Config)
    for group, options in GROUPS.items():
        for option, schema in options.items():
            node = OmegaConf.structured(schema)
            node.name = option
            if "options" in node:
                OmegaConf.set_struct(node.options, False)  # accepts any keys
            store.store(group=f"{group}/schema", name=option, node=node)
            if not (config_dir() / group / f"{option}.yaml").exists():
                store.store(group=group, name=option, node=node)


# OmegaConf merges into a copy of the schema, and takes its nodes apart for a moment while it makes the copy.
_merging = threading.Lock()


@functools.cache
def _schema(chosen: tuple[tuple[str, type], ...]) -> DictConfig:
    """Return the schema of a config with these options of the groups; it is not to be changed.

    It takes half of the time of ``from_dictconfig`` to make, and a search converts many configs.
    """
    schema: DictConfig = OmegaConf.structured(Config)
    for group, option in chosen:
        schema[group] = OmegaConf.structured(option)
    return schema


def from_dictconfig(cfg: DictConfig) -> Config:
    """Convert a composed config into a checked ``Config``.

    Raises
    ------
    UserError
        If a value is out of range or the name of a group is unknown.
    OmegaConfBaseException
        If a key is unknown, a type is wrong or a value is missing; see ``describe``.
    """
    chosen = []
    for group, options in GROUPS.items():
        section = OmegaConf.select(cfg, group)
        if not isinstance(section, DictConfig):
            remedy = begin_with_config("a config of your own")
            raise UserError(f"{group}: missing from the config; expected a section with a name; {remedy}")
        name = section.get("name")
        plugins = ",".join(map(str, cfg.get("plugins") or ()))
        remedy = f"add 'plugins=[{plugins}]' if you trust these modules" if plugins else f"choose {group}=OPTION"
        require(name in options, f"{group}.name", name, "one of " + ", ".join(options), remedy)
        chosen.append((group, options[name]))
    values = OmegaConf.create(OmegaConf.to_container(cfg))
    with _merging:
        merged = OmegaConf.merge(_schema(tuple(chosen)), values)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    for group in GROUPS:  # OmegaConf does not check for missing values of fields that __init__ omits
        missing = getattr(getattr(config, group), "class", None) == REQUIRED
        require(not missing, f"{group}.class", REQUIRED, "a value", f"set {group}.class=my_module.NAME")
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain containers, in the order of the dataclasses."""
    return asdict(config)


def dotted(config: Config) -> dict[str, Any]:
    """Return every setting under its dotted key."""
    return flatten(to_dict(config))


def flatten(container: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"pretrain": {"lr": 1}}`` as ``{"pretrain.lr": 1}``; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in container.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
