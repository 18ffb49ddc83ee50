"""Format the settings as text: ``python -m dkm.train --help`` and the page ``docs/settings.md``.

    python -m dkm.config.page > docs/settings.md

regenerates the page after a setting has changed.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from dkm.config.checks import format_value
from dkm.config.commands import COMMANDS
from dkm.config.groups import GROUPS, PRESETS
from dkm.config.roles import plain_sections
from dkm.config.run import Config
from dkm.config.schema import option_names
from dkm.config.settings import REQUIRED, Role, Section, Setting, dotted_key, is_nullable, setting_of
from dkm.config.short import SHORT_NAMES

_WIDTH = 100
_PAGE_HEAD = """\
# Settings

Every setting of `python -m dkm.train`, and at the end those of the other commands. This page is generated from the
dataclasses in `dkm/config/`, by
`python -m dkm.config.page > docs/settings.md`. `GROUP=OPTION` chooses an option of a group, `KEY=VALUE` sets a value,
and `python -m dkm.train --help GROUP=OPTION` shows the settings of the chosen options with their values.
A plain `dkm train` has `recipe=auto`, which sets other values than those of the dataclasses: they come first in the
column *default*. Other recipes, and experiments, set their own: `dkm help recipe`.
Some options need an extra, such as `hdf5`: in the checkout, `pip install -e '.[hdf5]'` installs it.

| role | what the setting decides |
|---|---|
"""
_COLUMNS = "| key | default | values | role | meaning |\n|---|---|---|---|---|\n"
_HELP_HEAD = """\
usage: python -m dkm.train [FLAG ...] [GROUP=OPTION ...] [KEY=VALUE ...]

Train an autoencoder together with a clustering of its embedding, and write a run directory.
--cfg job prints the composed config, --multirun starts one run for each of several values,
--hydra-help explains Hydra's flags. docs/settings.md lists the settings of all options.

Groups and their options:"""


def settings_page() -> str:
    """Return ``docs/settings.md``."""
    roles = "\n".join(f"| {role.name.lower()} | {role.value} |" for role in Role)
    parts = [_PAGE_HEAD + roles, "## Short names", _short_names(), "## The run", _table({"": Config})]
    for schema in plain_sections():
        parts += [f"## `{schema.section}`", summary_of(schema), _table({"": schema})]
    for group, options in GROUPS.items():
        parts += [f"## Group `{group}`", summary_of(_base_of(next(iter(options.values()))))]
        parts.append("\n".join(f"- `{group}={option}`: {summary_of(schema)}" for option, schema in options.items()))
        for names in _group_by_shared_declarations(options):
            title = "all options" if len(names) == len(options) else ", ".join(f"`{group}={name}`" for name in names)
            parts += [f"Settings of {title}:", _table({name: options[name] for name in names}, among=options)]
    for name, command in COMMANDS.items():
        parts += [f"## `python -m dkm.{name}`", _command_table(command)]
    return "\n\n".join(parts) + "\n"


def help_text(config: Config) -> str:
    """Return the text of ``--help``: the groups, and the settings of a config with their values."""
    lines = [_HELP_HEAD, *(f"  {group}: {', '.join(sorted(option_names(group)))}" for group in (*GROUPS, *PRESETS))]
    for part in fields(config):
        section = getattr(config, part.name)
        if isinstance(section, Section):
            chosen = f"{part.name}={section.name}" if part.name in GROUPS else part.name  # type: ignore[attr-defined]
            lines += ["", f"{chosen}: {summary_of(type(section))}".replace("`", ""), *_help_lines(section)]
    return "\n".join([*lines, "", "The run:", *_help_lines(config)])


def _help_lines(section: Section) -> Iterator[str]:
    indent = " " * 6
    for part in fields(section):
        declared = setting_of(type(section), part.name)
        if declared is not None:
            value, values = format_value(getattr(section, part.name)), valid_values(declared, part.type)
            yield f"  {dotted_key(type(section), part.name)}={value}" + (f"    ({values})" if values else "")
            text = declared.meaning.replace("`", "")
            yield textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


# --- the page -----------------------------------------------------------------------------------------------------


def _base_of(schema: type[Any]) -> type[Any]:
    """Return the dataclass from which all options of a group inherit."""
    return next(base for base in schema.__mro__ if Section in base.__bases__)


def _declarations_of(schema: type[Any]) -> dict[str, Setting]:
    declarations = {part.name: setting_of(schema, part.name) for part in fields(schema)}
    return {name: declared for name, declared in declarations.items() if declared is not None}


def _group_by_shared_declarations(options: Mapping[str, type[Any]]) -> list[tuple[str, ...]]:
    """Return each set of options that share a declaration, in the order of the first declaration."""
    owners: dict[tuple[str, int], list[str]] = {}
    for option, schema in options.items():
        for name, declared in _declarations_of(schema).items():
            owners.setdefault((name, id(declared)), []).append(option)
    return list(dict.fromkeys(map(tuple, owners.values())))


def _short_names() -> str:
    """Return the table of the short names."""
    rows = [f"| `{short.name}` | `{short.key}` | {short.meaning} |" for short in SHORT_NAMES.values()]
    head = (
        "`dkm train`, `dkm select` and `dkm tune` also take these names, `dkm predict` those of `data.` keys. Lists "
        "may be written `a,b,c`.\n\n| name | key | meaning |\n|---|---|---|"
    )
    return "\n".join([head, *rows])


def _table(schemas: Mapping[str, type[Any]], among: Mapping[str, type[Any]] | None = None) -> str:
    """Return the table of the settings that exactly these dataclasses ``among`` the options declare."""
    names, (first, *_) = set(schemas), schemas.values()
    rows = []
    for part in fields(first):
        declared = setting_of(first, part.name)
        others = {
            option for option, other in (among or schemas).items() if _declarations_of(other).get(part.name) is declared
        }
        if declared is not None and others == names:
            defaults = {option: default_of(schema, part.name) for option, schema in schemas.items()}
            key = dotted_key(first, part.name)
            role = declared.role.name.lower()
            meaning = declared.meaning.replace("|", "\\|")
            rows.append(
                f"| `{key}` | {_defaults(key, defaults)} | {valid_values(declared, part.type)} | {role} | {meaning} |"
            )
    return _COLUMNS + "\n".join(rows)


def _command_table(schema: type[Any]) -> str:
    """Return the table of the settings of a command, which have no role: they belong to no run."""
    rows = []
    for name, declared in _declarations_of(schema).items():
        values = valid_values(declared, type_of(schema, name))
        rows.append(f"| `{name}` | {default_of(schema, name)} | {values} | {declared.meaning} |")
    return "| key | default | values | meaning |\n|---|---|---|---|\n" + "\n".join(rows)


def type_of(schema: type[Any], name: str) -> object:
    return next(part.type for part in fields(schema) if part.name == name)


def default_of(schema: type[Any], name: str) -> str:
    part = next(part for part in fields(schema) if part.name == name)
    value = part.default if part.default_factory is MISSING else part.default_factory()
    return "required" if value == REQUIRED else f"`{format_value(value)}`"


def _defaults(key: str, by_option: Mapping[str, str]) -> str:
    """Return the value in a run without overrides, the default of the first option, and those that differ from it."""
    common, *_ = by_option.values()
    others = [f"{default} for `{option}`" for option, default in by_option.items() if default != common]
    current = current_value(key)
    if current is not None and f"`{current}`" not in by_option.values():
        common = f"`{current}`; with `recipe=classic` {common}"
    return ", ".join([common, *others])


def current_value(key: str) -> str | None:
    """Return the value of a setting in a run without overrides, None if that has no such setting."""
    return None if key == "data.root" else composed_values().get(key)  # the environment decides data.root


@functools.cache
def composed_values(*overrides: str) -> Mapping[str, str]:
    """Return the values of all settings of a run with these overrides."""
    from dkm.config.compose import compose_for_help, parse
    from dkm.config.schema import dotted

    return {key: format_value(value) for key, value in dotted(compose_for_help(parse(overrides))).items()}


def valid_values(declared: Setting, annotation: object) -> str:
    """Return a description of the range of a setting, with its unit."""
    check, kind = declared.check, str(annotation).partition(" ")[0]
    text = check.expected if check is not None else "true or false" if kind == "bool" else ""
    text += f" ({declared.unit})" if declared.unit else ""
    return f"{text}, or null" if text and is_nullable(annotation) else text


def summary_of(schema: type[Any]) -> str:
    """Return the first paragraph of a docstring, as Markdown on one line."""
    return " ".join((schema.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")


if __name__ == "__main__":
    print(settings_page(), end="")
