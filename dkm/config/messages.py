"""Look up the keys of the config, and format errors of OmegaConf as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from dkm.config.groups import GROUPS, PRESETS
from dkm.config.run import Config
from dkm.config.settings import default_of
from dkm.config.short import SHORT_NAMES
from dkm.config.values import as_list


def keys() -> Iterator[str]:
    """Yield every dotted key that some configuration has, without the names of groups."""
    names = {f"{group}.name" for group in GROUPS}
    return (key for key in defaults() if key not in names)


def defaults() -> dict[str, Any]:
    """Return every dotted key that some configuration has, with its default in one of those that have it."""
    by_key: dict[str, Any] = {}
    for part in fields(Config):
        default = default_of(part)
        if part.name in GROUPS:
            schemas: list[Any] = [*GROUPS[part.name].values()]
        elif is_dataclass(default):
            schemas = [type(default)]
        else:
            by_key[part.name] = default
            continue
        values = {field.name: default_of(field) for schema in schemas for field in fields(schema)}
        by_key |= {f"{part.name}.{name}": values[name] for name in sorted(values)}
    return by_key


def unknown_key(key: str, override: str | None = None) -> str:
    """Return the message about a key that the configuration does not have.

    Parameters
    ----------
    key : str
    override : str, optional
        The override as given, which may have short names; without it the key stands in a file, which has none.
    """
    has_short_names, override = override is not None, override or key
    section, _, name = key.rpartition(".")
    known = list(keys())
    if key in known:
        owners = [option for option, schema in GROUPS[section].items() if name in {f.name for f in fields(schema)}]
        choices = " or ".join(f"{section}={owner}" for owner in owners)
        return f"{override}: expected a key of the chosen {section} option; {key} belongs to {choices}"
    near = _nearest(key.lstrip("+~"), known, has_short_names=has_short_names)
    remedy = f"did you mean {near}?" if near else "`python -m dkm.train --cfg job` lists the keys"
    return f"{override}: expected a key of the config; {remedy}"


def _nearest(key: str, known: Sequence[str], *, has_short_names: bool) -> str | None:
    """Return what a mistyped key was probably meant to be; one without a dot is compared with names without a dot."""
    by_last_part: dict[str, str] = {}
    for full in known:
        by_last_part.setdefault(full.rpartition(".")[2], full)
    if (name := key.rpartition(".")[2]) in by_last_part:
        return by_last_part[name]
    if "." not in key:
        names: dict[str, str] = dict(by_last_part)
        names |= {name: name for name in (*GROUPS, *PRESETS, *(SHORT_NAMES if has_short_names else ()))}
        if near := difflib.get_close_matches(key, names, n=1):
            return names[near[0]]
    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def describe(error: OmegaConfBaseException, override: str | None = None, key: str = "") -> str:
    """Return OmegaConf's error as one line with the dotted key, the value, what was expected and the remedy."""
    key = key or str(error.full_key or error.key or "")
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return unknown_key(key, override)
    if isinstance(error, MissingMandatoryValue):
        return f"{key}=???: expected a value; set {key}=VALUE"
    if isinstance(error, InterpolationResolutionError):
        return f"{override or key}: {_first_line(error)}; expected a reference that resolves; check the ${{...}} in it"
    kind = kind_of(key)
    remedy = (
        f"write {as_list(key, override.partition('=')[2])}"
        if kind.startswith("a list") and override
        else f"correct {key}"
    )
    return f"{override or key}: {_first_line(error)}; expected {kind}; {remedy}"


def kind_of(key: str) -> str:
    """Return which values a dotted key accepts, for a message."""
    section, _, name = key.partition("[")[0].rpartition(".")
    kinds = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "list": "a list [...]",
        "NumberOfClusters": "a whole number, auto, auto:A-B",
    }
    schemas: list[Any] = [*GROUPS[section].values()] if section in GROUPS else [Config]
    schemas += [part.default_factory for part in fields(Config) if part.name == section]
    for schema in schemas:
        for part in fields(schema) if is_dataclass(schema) else ():
            if part.name == name:
                annotation = str(part.type)
                kind = kinds.get(annotation.partition(" ")[0].partition("[")[0], "its own keys")
                return f"{kind} or null" if annotation.endswith("None") else kind
    return "the type that `python -m dkm.train --cfg job` shows"


def _first_line(error: BaseException) -> str:
    line = str(error).strip().splitlines()[0].rstrip(".")
    line = line.replace("KeyError raised while resolving interpolation: ", "")
    return line.replace("Invalid value assigned: str is not a ListConfig, list or tuple", "one text")
