"""Look up the keys of the config, and format errors of OmegaConf as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from dkm.config.groups import GROUPS
from dkm.config.run import Config
from dkm.config.settings import default_of
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
    """Return the message about a key that the configuration does not have; ``override`` is the override as given."""
    override = override or key
    section, _, name = key.rpartition(".")
    known = list(keys())
    if key in known:
        owners = [option for option, schema in GROUPS[section].items() if name in {f.name for f in fields(schema)}]
        choices = " or ".join(f"{section}={owner}" for owner in owners)
        return f"{override}: expected a key of the chosen {section} option; {key} belongs to {choices}"
    near = [k for k in known if k.rpartition(".")[2] == name][:1] or difflib.get_close_matches(key, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else "`python -m dkm.train --cfg job` lists the keys"
    return f"{override}: expected a key of the config; {remedy}"


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
    return line.replace("KeyError raised while resolving interpolation: ", "")
