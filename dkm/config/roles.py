"""Look up the role and the stages of a setting by its dotted key."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from dkm.config.groups import GROUPS
from dkm.config.run import Config
from dkm.config.settings import REQUIRED, Role, Section, Setting, Stage, default_of, dotted_key, setting_of


def plain_sections() -> list[type[Section]]:
    """Return the dataclasses of the sections that are not groups."""
    factories: list[Any] = [part.default_factory for part in fields(Config)]
    return [factory for factory in factories if isinstance(factory, type) and issubclass(factory, Section)]


def group_sections(group: str) -> list[type[Section]]:
    """Return the dataclasses of the options of a group, each once."""
    return list(dict.fromkeys(GROUPS[group].values()))


def declarations() -> Mapping[str, Setting]:
    """Return the declaration of every setting that some configuration has, by its dotted key."""
    return _declarations(tuple(map(len, GROUPS.values())))


@functools.cache
def _declarations(n_options: tuple[int, ...]) -> Mapping[str, Setting]:
    """Collect the declarations, once per size of the groups, because a plugin may add options."""
    by_key: dict[str, Setting] = {}
    group_schemas = [schema for group in GROUPS for schema in group_sections(group)]
    schemas: list[type[Section]] = [Config, *plain_sections(), *group_schemas]
    for schema in schemas:
        for part in fields(schema):
            declared = setting_of(schema, part.name)
            if declared is not None:
                by_key.setdefault(dotted_key(schema, part.name), declared)
    return by_key


def declaring_schema(key: str) -> type[Any] | None:
    """Return a dataclass that has a setting, by its dotted key, None for an unknown key."""
    section, _, name = key.rpartition(".")
    schemas: list[type[Section]] = group_sections(section) if section in GROUPS else [Config, *plain_sections()]
    has_section = (schema for schema in schemas if schema.section == section)
    return next((schema for schema in has_section if setting_of(schema, name) is not None), None)


def role_of(key: str) -> Role:
    """Return the role of a setting. The role of an unknown key, for example of another version, is NUMBERS."""
    declared = declarations().get(key)
    return Role.NUMBERS if declared is None else declared.role


def stages_of(key: str) -> Stage:
    """Return the stages that a setting affects, by default those of its section."""
    declared = declarations().get(key)
    if declared is not None and declared.stages is not None:
        return declared.stages
    section = key.partition(".")[0]
    schemas = group_sections(section) if section in GROUPS else plain_sections()
    return next((schema.stages for schema in schemas if schema.section == section), Stage.ALL)


def distinguishing_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, by dotted key, in which two runs must differ to be different ones."""
    return {key: value for key, value in settings.items() if role_of(key).tells_runs_apart}


def default_in(settings: Mapping[str, Any], key: str) -> Any:
    """Return the default of a setting in the options that these settings, by dotted key, have chosen.

    None if they have no such setting; a run of an earlier version may lack it.
    """
    section, _, name = key.rpartition(".")
    schemas: list[type[Section]] = [Config, *plain_sections()]
    if section in GROUPS:
        option = GROUPS[section].get(str(settings.get(f"{section}.name")))
        schemas = [] if option is None else [option]
    having = (part for schema in schemas if schema.section == section for part in fields(schema))
    part = next((part for part in having if part.name == name), None)
    return None if part is None else default_of(part)


def differences(settings: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the key, the value and the kept value of each setting that differs from those of a run, by dotted key.

    A setting that the run lacks, as an earlier version did not have it, had the present default; one without a default
    is not compared.
    """
    for key in {**kept, **settings}:
        value = settings.get(key)
        other = kept[key] if key in kept else default_in(settings, key)
        if value != other and other != REQUIRED:
            yield key, value, other


def that_processes_share(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, by dotted key, that must be equal in all processes of one training."""
    return {key: value for key, value in settings.items() if role_of(key).decides_work}
