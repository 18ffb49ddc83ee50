"""Explain a name of the configuration: ``dkm help NAME``.

A name is a setting in full (``pretrain.lr``), its last part (``lr``), a short name (``n_clusters``), a setting of
another command (``trials``), a section, a group, or an option of a group (``clustering=dec``).
"""

from __future__ import annotations

import difflib
import functools
import itertools
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from dkm.config.checks import format_value
from dkm.config.commands import COMMANDS, SELECT_ALIASES
from dkm.config.groups import GROUPS, PRESETS
from dkm.config.page import composed_values, default_of, summary_of, type_of, valid_values
from dkm.config.roles import declarations, plain_sections
from dkm.config.run import Config
from dkm.config.schema import config_dir, option_names
from dkm.config.settings import Section, Setting, dotted_key, setting_of
from dkm.config.short import SHORT_NAMES, key_of
from dkm.config.verbs import VERBS, WIDTH
from dkm.errors import UserError

# Words that stand for keys of Hydra.
_HYDRA = {
    "hydra.run.dir": "Directory of the run, a new or an empty one. By default runs/DATA_METHOD/TIME_seedSEED. With "
    "--multirun output= sets hydra.sweep.dir, the directory of the sweep, by default runs/sweeps/TIME.",
    "jobs": "Number of runs that dkm train --multirun trains at a time, by default 1. More than one require the extra "
    "sweep.",
}
_INDENT = 10
_MORE = "Values without other overrides. `dkm help KEY` explains a key in full."


def explain(name: str) -> str:
    """Return what a name of the configuration means, as text of 80 columns.

    Raises
    ------
    UserError
        If nothing has the name.
    """
    group, equals, option = name.partition("=")
    if equals and group in (*GROUPS, *PRESETS):
        return _explain_option(group, option)
    key = group.lstrip("+~")
    texts = list(_explanations(key))
    if not texts:
        raise UserError(_unknown(key))
    return "\n\n".join(texts)


def _explanations(name: str) -> Iterator[str]:
    if name in GROUPS or name in PRESETS:
        yield _explain_group(name)
    sections = {schema.section: schema for schema in plain_sections()}
    if name in sections:
        yield _explain_section(name, sections[name])
    key = key_of(name)
    if key != name:
        yield f"{name} is short for {key}."
    if key in _HYDRA:
        yield "\n".join([key, *_wrapped(_HYDRA[key])])
    known = declarations()
    named = [key] if key in known else [other for other in known if other.rpartition(".")[2] == name]
    yield from (text for other in named if key not in _HYDRA for text in _explain_key(other))
    for command, schema in COMMANDS.items():
        part = SELECT_ALIASES.get(name, name) if command == "select" else name
        declared = setting_of(schema, part) if part in {field.name for field in fields(schema)} else None
        if declared is not None:
            lines = [*_wrapped(declared.meaning), *_facts(_facts_of_field(schema, part, declared))]
            yield "\n".join([f"dkm {command} {name}=", *lines])


def names() -> list[str]:
    """Return every name that ``explain`` knows, but for the last parts of keys."""
    of_commands = {part.name for schema in COMMANDS.values() for part in fields(schema)} | set(SELECT_ALIASES)
    sections = [schema.section for schema in plain_sections()]
    return sorted({*declarations(), *SHORT_NAMES, *_HYDRA, *GROUPS, *PRESETS, *sections, *of_commands})


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [*names(), *VERBS], n=1)
    remedy = f"did you mean `dkm help {near[0]}`?" if near else "`dkm help settings` lists the settings"
    return f"{name}: expected a setting, a group, a section or a command; {remedy}"


# --- settings -----------------------------------------------------------------------------------------------------


def _explain_key(key: str) -> Iterator[str]:
    """Yield each explanation of a setting, which options may declare in different ways, with its default in them."""
    section, _, part = key.rpartition(".")
    by_declaration: dict[str, dict[str, type[Any]]] = {}
    for option, schema in _owners(section, part).items():
        by_declaration.setdefault(repr(setting_of(schema, part)), {})[option] = schema
    for owners in by_declaration.values():
        first = next(iter(owners.values()))
        declared = setting_of(first, part)
        assert declared is not None
        facts = _facts_of_field(first, part, declared)
        facts["default"] = _default_of_key(key, part, owners)
        if section in GROUPS and len(owners) < len(GROUPS[section]):
            facts["only"] = " ".join(f"{section}={option}" for option in owners)
        facts["resume"] = declared.role.value
        short = next((name for name, entry in SHORT_NAMES.items() if entry.key == key), None)
        if short is not None:
            facts["short"] = f"{short}="
        yield "\n".join([key, *_wrapped(declared.meaning), *_facts(facts)])


def _owners(section: str, part: str) -> Mapping[str, type[Any]]:
    """Return the dataclasses that have a setting, by the option of the group that has it, "" outside of groups."""
    if section not in GROUPS:
        schemas: list[type[Section]] = [Config, *plain_sections()]
        return {"": next(schema for schema in schemas if schema.section == section)}
    return {option: schema for option, schema in GROUPS[section].items() if setting_of(schema, part) is not None}


def _default_of_key(key: str, part: str, owners: Mapping[str, type[Any]]) -> str:
    """Return the values that recipes set, that of most options, and those of the other options."""
    by_option: dict[str, list[str]] = {}
    for option, schema in owners.items():
        by_option.setdefault(default_of(schema, part).strip("`"), []).append(option)
    usual = max(by_option, key=lambda value: len(by_option[value]))
    others = [f"{value} for {', '.join(names)}" for value, names in by_option.items() if value != usual]
    by_recipe: dict[str, list[str]] = {}
    for recipe, values in _values_of_recipes().items():
        if key in values and (others or values[key] != usual):
            by_recipe.setdefault(values[key], []).append(recipe)
    recipes = [f"{value} with recipe={','.join(names)}" for value, names in by_recipe.items()]
    return "; ".join([*recipes, f"else {usual}" if recipes else usual, *others])


@functools.cache
def _values_of_recipes() -> Mapping[str, Mapping[str, str]]:
    """Return the settings, by dotted key, that each recipe and the files of the options that it chooses set."""
    from dkm.config.resolved import read_yaml
    from dkm.config.schema import flatten

    def values_in(file: str, section: str = "") -> dict[str, Any]:
        content = read_yaml(config_dir() / f"{file}.yaml") or {}
        values: dict[str, Any] = {}
        for chosen in content.pop("defaults", ()):
            for group, option in chosen.items() if isinstance(chosen, dict) else ():
                name = group.removeprefix("override /")
                values |= values_in(f"{name}/{option}", f"{name}.")
        return values | flatten(content, section)

    recipes = sorted(option_names("recipe"), key=lambda recipe: recipe != "auto")
    return {
        recipe: {key: format_value(value) for key, value in values_in(f"recipe/{recipe}").items()} for recipe in recipes
    }


def _facts_of_field(schema: type[Any], part: str, declared: Setting) -> dict[str, str]:
    """Return the default and the valid values of a field."""
    facts = {"default": default_of(schema, part).strip("`")}
    values = valid_values(declared, type_of(schema, part))
    return facts | ({"values": values} if values else {})


def _facts(facts: Mapping[str, str]) -> list[str]:
    lines = []
    for name, text in facts.items():
        indent = " " * (2 + _INDENT)
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {name:<{_INDENT}}", subsequent_indent=indent)
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text.replace("`", ""), WIDTH, initial_indent="  ", subsequent_indent="  ")


# --- groups and sections ------------------------------------------------------------------------------------------


def _explain_group(group: str) -> str:
    """Return the options of a group, each with its meaning."""
    lines = [f"{group}=OPTION chooses one; `dkm help {group}=OPTION` explains it."]
    for option, meaning in options(group).items():
        first = f"  {option:<16} "
        text = textwrap.shorten(meaning.replace("`", ""), 2 * (WIDTH - len(first)), placeholder=" ...")
        lines += textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first)) or [first]
    return "\n".join(lines)


def options(group: str) -> dict[str, str]:
    """Return the options of a group, or of ``recipe`` and ``experiment``, with their meanings."""
    schemas = GROUPS.get(group, {})
    folder = config_dir() / group
    return {
        option: summary_of(schemas[option]) if option in schemas else _comment(folder / f"{option}.yaml")
        for option in option_names(group)
    }


def _comment(file: Path) -> str:
    """Return the comment at the head of a config file."""
    text = file.read_text(encoding="utf-8")
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines if "@package" not in line)


def _explain_option(group: str, option: str) -> str:
    """Return what an option of a group is for, and its settings."""
    meanings = options(group)
    if option not in meanings:
        near = difflib.get_close_matches(option, meanings, n=1)
        remedy = f"did you mean `dkm help {group}={near[0]}`?" if near else f"`dkm help {group}` explains them"
        raise UserError(f"{group}={option}: expected one of {', '.join(meanings)}; {remedy}")
    text = "\n".join([f"{group}={option}", *_wrapped(meanings[option])])
    if group in PRESETS:
        return text
    values = composed_values(f"{group}={option}")
    schema = GROUPS[group].get(option) or GROUPS[group][values[f"{group}.name"]]
    return "\n".join([text, "", *_list_settings(schema, values), "", _MORE])


def _explain_section(name: str, schema: type[Section]) -> str:
    return "\n".join([name, *_wrapped(summary_of(schema)), "", *_list_settings(schema, composed_values()), "", _MORE])


def _list_settings(schema: type[Any], values: Mapping[str, str]) -> list[str]:
    """Return a line for each setting of a section: its key, its value, and its meaning as far as that fits."""
    lines = []
    for part in fields(schema):
        declared = setting_of(schema, part.name)
        if declared is not None:
            key = dotted_key(schema, part.name)
            start = f"  {key}={values.get(key, default_of(schema, part.name).strip('`'))}"
            start = f"{start:<34} " if len(start) < 60 else f"{start[:56]}... "
            text = declared.meaning.replace("`", "")
            lines.append(start + textwrap.shorten(text, WIDTH - len(start), placeholder=" ..."))
    return lines
