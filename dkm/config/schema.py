"""Every setting of a run: one dataclass per section or group option, with its range checks.

The dataclasses are the single place where a setting has its type, default and meaning. ``register`` puts them into
Hydra's ConfigStore, where the YAML files of ``configs/`` pick them up as schemas; ``from_dictconfig`` turns what Hydra
composed into these objects and refuses whatever does not fit. Nothing here imports torch, so that a wrong override and
``--cfg job`` answer in a fraction of the time that ``import torch`` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from dkm.config.checks import require
from dkm.config.groups import GROUPS
from dkm.config.run import Config
from dkm.errors import UserError


def config_dir() -> Path:
    """Return the folder of the YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


# --- checks -------------------------------------------------------------------------------------------------------


# --- data ---------------------------------------------------------------------------------------------------------


# --- model --------------------------------------------------------------------------------------------------------


# --- clustering ---------------------------------------------------------------------------------------------------


# --- regularization, optimizer, augmentation ----------------------------------------------------------------------


# --- plain sections -----------------------------------------------------------------------------------------------


# --- groups and their options -------------------------------------------------------------------------------------


def register(store: ConfigStore | None = None) -> None:
    """Put the schemas into ``store``, by default Hydra's: ``schema``, the root, and ``GROUP/schema/OPTION``."""
    store = ConfigStore.instance() if store is None else store
    store.store(name="schema", node=Config)
    for group, options in GROUPS.items():
        for option, schema in options.items():
            node = OmegaConf.structured(schema)
            node.name = option
            store.store(group=f"{group}/schema", name=option, node=node)


def from_dictconfig(cfg: DictConfig) -> Config:
    """Turn a composed configuration into a checked ``Config``.

    Raises
    ------
    UserError
        For a value out of range or a group without a known name.
    OmegaConfBaseException
        For an unknown key, a wrong type or a missing value; see ``describe``.
    """
    schema = OmegaConf.structured(Config)
    for group, options in GROUPS.items():
        section = OmegaConf.select(cfg, group)
        if not isinstance(section, DictConfig):
            raise UserError(f"{group}: missing from the config; expected a section with a name; choose {group}=OPTION")
        name = section.get("name")
        require(name in options, f"{group}.name", name, "one of " + ", ".join(options), f"choose {group}=OPTION")
        schema[group] = OmegaConf.structured(options[name])
    merged = OmegaConf.merge(schema, OmegaConf.create(OmegaConf.to_container(cfg)))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain containers, in the order of the dataclasses."""
    return asdict(config)


# What a resumed run may change: keys, and sections ending in a dot, that touch no number of the steps already taken.
# The data may have moved: their SHA-256 is compared.
RESUMABLE = (
    *("resume", "device", "threads", "pretrain.epochs", "pretrain.cache", "joint.epochs"),
    *("checkpoint.", "log.", "data.root", "data.path"),
)


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


# --- messages -----------------------------------------------------------------------------------------------------
