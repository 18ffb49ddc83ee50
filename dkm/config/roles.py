"""What each setting decides, by its dotted key."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dkm.config.groups import GROUPS
from dkm.config.run import Config
from dkm.config.settings import Role, Section, Setting, Stage, dotted_key, setting_of


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
    """Collect them, once for each size of the groups: a plugin may add options."""
    found: dict[str, Setting] = {}
    of_groups = [schema for group in GROUPS for schema in group_sections(group)]
    schemas: list[type[Section]] = [Config, *plain_sections(), *of_groups]
    for schema in schemas:
        for part in fields(schema):
            declared = setting_of(schema, part.name)
            if declared is not None:
                found.setdefault(dotted_key(schema, part.name), declared)
    return found


def role_of(key: str) -> Role:
    """Return what a setting decides. A key that is not known, of another version say, counts as deciding numbers."""
    declared = declarations().get(key)
    return Role.NUMBERS if declared is None else declared.role


def stages_of(key: str) -> Stage:
    """Return the computations that a setting has a part in: its own, or else those of its section."""
    declared = declarations().get(key)
    if declared is not None and declared.stages is not None:
        return declared.stages
    section = key.partition(".")[0]
    schemas = group_sections(section) if section in GROUPS else plain_sections()
    return next((schema.stages for schema in schemas if schema.section == section), Stage.ALL)


def that_tell_runs_apart(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings, by their dotted keys, in which runs of one row of a comparison are equal."""
    return {key: value for key, value in settings.items() if role_of(key).tells_runs_apart}


def that_processes_share(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the settings, by their dotted keys, that all processes of one training have in common."""
    return {key: value for key, value in settings.items() if role_of(key).decides_work}
