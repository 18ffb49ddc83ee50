"""Classes, functions and modules of the user's own, which a config names by their dotted names.

A dotted name is code. It is imported only if the command line gives it, or a config of the user's own; never because a
file in a run directory or a model folder has it: see ``require_named_by_user``.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from dkm.config.settings import REQUIRED, Role, setting
from dkm.errors import UserError, reason

T = TypeVar("T", bound=type)

# The keys whose values are code.
CODE_KEYS = ("model.class", "clustering.class", "data.class", "plugins")
# What marks a run directory; ``config.yaml`` is the name that every run gives to its config.
_OF_A_RUN = ("manifest.json", ".hydra", "checkpoints")


def add_class_field(meaning: str) -> Callable[[T], T]:
    """Return a decorator that adds the field ``class``; apply it below ``@dataclass``.

    ``class`` is a keyword of Python, so the field cannot be written down, and the methods that ``dataclass`` generates
    cannot mention it: it is in neither ``__init__`` nor ``__repr__`` nor ``__eq__``. For ``fields``, ``asdict`` and
    OmegaConf it is a field like any other; ``section_from`` sets it.
    """

    def add(schema: T) -> T:
        schema.__annotations__["class"] = "str"
        field = setting(REQUIRED, meaning, role=Role.NUMBERS, init=False, repr=False, compare=False)
        setattr(schema, "class", field)
        return schema

    return add


def class_of(config: object) -> str:
    """Return the dotted name in the field ``class``."""
    return str(getattr(config, "class"))


# --- import -------------------------------------------------------------------------------------------------------


def import_named(key: str, name: str) -> Any:
    """Import ``package.module.attribute``, from the working directory too.

    Raises
    ------
    UserError
        If it cannot be imported; ``key`` is the setting that names it.
    """
    module, _, attribute = name.rpartition(".")
    expected = "expected the dotted name of something that can be imported"
    if not module or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{key}={name}: {expected}; for example {key}=my_module.MyClass")
    imported = import_module_of_user(key, module, name)
    if not hasattr(imported, attribute):
        raise UserError(f"{key}={name}: {expected}, but module {module} has no {attribute}; correct {key}")
    return getattr(imported, attribute)


def import_module_of_user(key: str, module: str, name: str) -> Any:
    """Import a module, from the working directory too; ``key=name`` is the setting that names it."""
    here = os.getcwd()  # noqa: PTH109  # a string, as sys.path has them
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a file of the user's must not hide a module of Python's
    try:
        return import_module(module)
    except Exception as error:
        what = f"{type(error).__name__}: {reason(error)}"
        remedy = "correct it, or start in the folder that has the module or add that folder to PYTHONPATH"
        raise UserError(f"{key}={name}: cannot be imported ({what}); expected an importable name; {remedy}") from error


def construct(section: str, target: Any, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Call ``target`` with the options, and with those of the ``given`` arguments that its signature names.

    Raises
    ------
    UserError
        If the signature does not take the options, or wants arguments that nobody gives.
    """
    parameters = inspect.signature(target).parameters
    arguments = {name: value for name, value in given.items() if name in parameters} | dict(options)
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        shown = ", ".join(f"{name}: {value}" for name, value in options.items())
        called = f"{getattr(target, '__name__', target)}{inspect.signature(target)}"
        raise UserError(
            f"{section}.options={{{shown}}}: {error}; expected the arguments of {called} beside {', '.join(given)}; "
            f"set '{section}.options={{NAME: VALUE}}'"
        ) from error
    return target(**arguments)


# --- who names it -------------------------------------------------------------------------------------------------


def is_of_a_run(folder: Path, name: str, extra_folder: Path | None, package_configs: Path) -> bool:
    """Return whether a config may be that of a run and not one of the user's own.

    Parameters
    ----------
    folder, name
        Where the primary config is, and its name without the suffix.
    extra_folder
        A folder that is searched too.
    package_configs
        The folder of the configs of this package.
    """
    has_name_of_a_run = name == "config" and folder != package_configs
    folders = [place for place in (folder, extra_folder) if place is not None]
    return has_name_of_a_run or any((place / mark).exists() for place in folders for mark in _OF_A_RUN)


def require_named_by_user(settings: Mapping[str, Any], overrides: Sequence[str], source: str) -> None:
    """Refuse code that only a file of a run names.

    Parameters
    ----------
    settings : mapping
        By dotted keys, as composed.
    overrides : sequence of str
        Of the command line. What they set is what was composed: nothing goes before them.
    source : str
        The file of the run, for the message.
    """
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    for key in CODE_KEYS:
        value = settings.get(key)
        if value in (None, [], REQUIRED) or key in given:
            continue
        text = f"[{','.join(value)}]" if isinstance(value, list) else str(value)
        raise UserError(
            f"{key}={text}: expected on the command line, as {source} is a file of a run, whose code is not "
            f"imported without being asked for; if you trust it, add {shlex.quote(f'{key}={text}')}"
        )


def split_model_class(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of ``model.class=`` among the words of a command, None without one, and the other words."""
    named, rest = None, []
    for word in words:
        key, _, value = word.partition("=")
        if key == "model.class":
            named = value
        elif key.startswith("model."):
            raise UserError(f"{word}: expected no other key of the model than model.class; leave it out")
        else:
            rest.append(word)
    return named, rest


# --- plugins ------------------------------------------------------------------------------------------------------


def plugins_of(overrides: Iterable[str], files: Iterable[Path]) -> list[str]:
    """Return the modules that the last override ``plugins=`` names, or else those that the config files name."""
    import yaml  # late: it comes with OmegaConf, which the losses can do without

    named: list[str] = []
    for path in files:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):  # composing the config says what is wrong with it
            continue
        found = content.get("plugins") if isinstance(content, dict) else None
        named += found if isinstance(found, list) else []
    for override in overrides:
        key, equals, text = override.partition("=")
        if key.lstrip("+") == "plugins" and equals:
            try:
                found = yaml.safe_load(text)
            except yaml.YAMLError:
                found = None
            named = found if isinstance(found, list) else []
    return [str(name) for name in named]


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules of the user's own, which may add entries to the registries.

    Raises
    ------
    UserError
        If one cannot be imported.
    """
    for module in modules:
        import_module_of_user("plugins", module, f"[{module}]")
