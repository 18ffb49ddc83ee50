"""Read the ``config.yaml`` of a run as plain values.

A run directory may come from someone else. Its config is therefore never composed by Hydra: it cannot name folders to
search, callbacks, classes or other configs, and a text such as ``${oc.env:HOME}`` stays that text. Each value is
checked against the schema, as a value on the command line is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf

from dkm.config.checks import format_value, require
from dkm.config.groups import GROUPS
from dkm.config.messages import kind_of, unknown_key
from dkm.config.run import Config
from dkm.config.settings import REQUIRED, Section, default_of, is_nullable, section_from
from dkm.errors import UserError, in_short

# The largest file that is read, in bytes: a list of 100,000 column names has about half of it.
_MAX_BYTES = 2**22
# The settings have three levels; the options of a class of the user's own may have more.
_MAX_DEPTH = 32
# The line of a config that has the digest of all lines below it. It is above them, so that no part of the file that was
# cut off can be missed.
_DIGEST = b"# SHA-256 of the lines below: "
# What the config of a run may name in `defaults`. A run writes it, so that the file works with --config-dir.
_DEFAULTS = ["paths", "_self_"]
S = TypeVar("S")
_EXPECTED = "expected the plain values that a run writes"


# libyaml, which is ten times as fast, where PyYAML was built with it. Both build plain values only.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads numbers as OmegaConf does: 1e-3 is a number, a date is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file of plain values; a file with tags or references is refused.

    Raises
    ------
    UserError
        If it cannot be read, is larger than 4 MiB, or is not such a file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES:,} bytes")
        _require_plain(content)
        return yaml.load(content, Loader=_Loader)  # a safe loader
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({in_short(error)}); expected a readable file; correct it") from error
    except Exception as error:  # crafted content can raise any exception; nothing of it is executed
        raise UserError(f"{path}: {in_short(error)}; {_EXPECTED}, in YAML; restore the file") from error


def _require_plain(content: bytes) -> None:
    """Refuse tags, deep nesting, and references, which can make a small file describe a huge value."""
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} levels in line {event.start_mark.line + 1}")
        what = "a reference (*)" if isinstance(event, yaml.AliasEvent) else None
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            what = f"the tag {event.tag}"
        if what is not None:
            raise ValueError(f"{what} in line {event.start_mark.line + 1}")


def with_digest(text: str) -> str:
    """Return the lines of a config below a line with their SHA-256, for ``read_config``."""
    return f"{_DIGEST.decode()}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _require_unaltered(content: bytes) -> None:
    """Refuse a config with another SHA-256 than it was written with; earlier versions wrote none."""
    _, mark, rest = content.partition(_DIGEST)
    digest, _, text = rest.partition(b"\n")
    if mark and digest != hashlib.sha256(text).hexdigest().encode():
        raise UserError(
            "damaged or altered (its SHA-256 is not the one it was written with); expected the settings that the run "
            "began with; restore the file, give other settings on the command line, or start a new run"
        )


def read_config(path: Path, *, to_resume: bool = False) -> Config:
    """Return the config in a file that a run has written.

    Parameters
    ----------
    path : Path
    to_resume : bool
        Whether it must be as the run wrote it, if it has a digest. The table of a run of version 0.1 is then read as
        that version did: numbers, or refused.

    Raises
    ------
    UserError
        If the file cannot be read, or has an unknown key or a value that no run can have.
    """
    content = read_yaml(path)
    try:
        if to_resume:
            _require_unaltered(path.read_bytes())
        if not isinstance(content, dict):
            raise UserError(f"a {type(content).__name__}; {_EXPECTED}; restore the file")
        _require_no_composition(content)
        if to_resume and isinstance(data := content.get("data"), dict) and "exclude" in data:
            data.setdefault("strict", True)
        if isinstance(evaluation := content.get("evaluation"), dict) and "silhouette_samples" in evaluation:
            evaluation.setdefault("graph_samples", evaluation["silhouette_samples"])  # once one number for both
        return _config_from({key: value for key, value in content.items() if key != "defaults"})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _config_from(values: Mapping[Any, Any]) -> Config:
    parts = {part.name: part for part in fields(Config)}
    for key in values:
        if key not in parts:
            raise UserError(unknown_key(str(key)))
    given: dict[str, Any] = {}
    for name, part in parts.items():
        schema = _schema_of(part, values)
        if schema is None:
            if name in values:
                given[name] = typed(name, values[name], str(part.type))
        elif name in GROUPS or name in values:
            given[name] = section_of(name, schema, _mapping(name, values[name]))
    return Config(**given)


def _require_no_composition(content: Mapping[Any, Any]) -> None:
    composed = content.get("defaults", _DEFAULTS)
    if composed is not None and not (isinstance(composed, list) and all(name in _DEFAULTS for name in composed)):
        raise UserError(
            f"defaults={composed}: expected no other configs, as a file config.yaml is read as that of a run, from "
            "values alone; give a config of your own another name: --config-name NAME"
        )
    if "hydra" in content:
        raise UserError(
            "hydra: expected no settings of Hydra in the config of a run; remove them, and give what you need on the "
            "command line: hydra.KEY=VALUE"
        )


def _schema_of(part: Field[Any], values: Mapping[str, Any]) -> type[Section] | None:
    """Return the dataclass of a section, None for a setting of the whole run."""
    group = part.name
    if group in GROUPS:
        if group not in values:
            raise UserError(f"{group}: missing from the config; expected a section with a name; choose {group}=OPTION")
        name = _mapping(group, values[group]).get("name")
        plugins = values.get("plugins")
        modules = ",".join(map(str, plugins)) if isinstance(plugins, list) else ""
        remedy = f"add 'plugins=[{modules}]' if you trust these modules" if modules else f"choose {group}=OPTION"
        is_known = isinstance(name, str) and name in GROUPS[group]
        require(is_known, f"{group}.name", name, "one of " + ", ".join(GROUPS[group]), remedy)
        schema: type[Section] = GROUPS[group][str(name)]
        return schema
    factory: Any = part.default_factory
    return factory if isinstance(factory, type) and issubclass(factory, Section) else None


def _mapping(key: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{key}={format_value(value)}: expected a section with keys and values; restore the file")
    return value


def section_of(section: str, schema: type[S], values: Mapping[Any, Any]) -> S:
    """Return a section with plain values, each checked; those that are left out have their defaults.

    Raises
    ------
    UserError
        If a key is unknown, or a value has another type or is out of range.
    """
    parts = {part.name: part for part in fields(schema)}  # type: ignore[arg-type]
    for name in values:
        if name not in parts:
            raise UserError(unknown_key(f"{section}.{name}"))
    complete = {name: values[name] if name in values else _default(part) for name, part in parts.items()}
    for name, part in parts.items():
        key = f"{section}.{name}"
        require(complete[name] != REQUIRED, key, REQUIRED, "a value", f"set {key}=VALUE")
        complete[name] = typed(key, complete[name], str(part.type))
    return section_from(schema, complete)


def _default(part: Field[Any]) -> Any:
    default = default_of(part)
    if default == REQUIRED or not isinstance(default, str):
        return default
    return OmegaConf.create({"value": default})["value"]  # interpolations in the package's schemas are resolved


def typed(key: str, value: Any, annotation: str, expected: str | None = None) -> Any:
    """Return the value in the type of its field; ``expected`` describes it in messages.

    Raises
    ------
    UserError
        If it has another type.
    """
    if value is None and is_nullable(annotation):
        return None
    kind, _, rest = annotation.removesuffix(" | None").partition("[")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_text = isinstance(value, str)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and is_number and isinstance(value, int):
        return value
    if kind == "float" and is_number and abs(value) < 2.0**1023:
        return float(value)
    if kind == "float" and is_number and isinstance(value, float):  # infinite or not a number
        return value
    if kind == "str" and (is_text or is_number):
        return str(value)
    if kind == "NumberOfClusters" and (is_text or (is_number and isinstance(value, int))):
        return value
    if kind == "list" and isinstance(value, list):
        return [typed(key, item, rest.removesuffix("]"), expected) for item in value]
    if kind == "dict" and isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return value
    known = ("bool", "int", "float", "str", "NumberOfClusters", "list", "dict")
    if kind not in known:  # of a plugin
        return value
    raise UserError(f"{key}={format_value(value)}: expected {expected or kind_of(key)}; correct {key}")


def escaped(value: Any) -> Any:
    """Return plain values so that OmegaConf reads every text in them as it stands, also ``${...}``."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value
