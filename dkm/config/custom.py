"""User-defined classes, functions and modules, which a config names by their dotted names.

A dotted name is code. It is imported only if the command line or a config of the user names it, never because a file in
a run directory or a model folder does: see ``require_named_by_user``.
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
# Entries that mark a run directory. The config of every run is called ``config.yaml``.
_RUN_MARKS = ("manifest.json", ".hydra", "checkpoints")


def add_class_field(meaning: str) -> Callable[[T], T]:
    """Return a decorator that adds the field ``class``; apply it below ``@dataclass``.

    ``class`` is a keyword of Python: the field cannot be declared in the class body, and the methods that ``dataclass``
    generates cannot use it. ``__init__``, ``__repr__`` and ``__eq__`` therefore omit it. ``fields``, ``asdict`` and
    OmegaConf treat it as an ordinary field; ``section_from`` sets it.
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
    """Import ``package.module.attribute``, also from the working directory.

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
    """Import a module, also from the working directory; ``key=name`` is the setting that names it."""
    here = os.getcwd()  # noqa: PTH109  # a string, as sys.path has them
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a file of the user must not shadow an installed module
    try:
        return import_module(module)
    except Exception as error:
        what = f"{type(error).__name__}: {reason(error)}"
        remedy = "correct it, or start in the folder that has the module or add that folder to PYTHONPATH"
        raise UserError(f"{key}={name}: cannot be imported ({what}); expected an importable name; {remedy}") from error


def construct(section: str, target: Any, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Call ``target`` with the options and with the ``given`` arguments that its signature names.

    Raises
    ------
    UserError
        If the signature does not accept the options or requires further arguments.
    """
    parameters = inspect.signature(target).parameters
    arguments = {name: value for name, value in given.items() if name in parameters} | dict(options)
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        given_options = ", ".join(f"{name}: {value}" for name, value in options.items())
        signature = f"{getattr(target, '__name__', target)}{inspect.signature(target)}"
        raise UserError(
            f"{section}.options={{{given_options}}}: {error}; expected the arguments of {signature} beside "
            f"{', '.join(given)}; set '{section}.options={{NAME: VALUE}}'"
        ) from error
    return target(**arguments)


# --- trusted names ---------------------------------------------------------------------------------------------------


def is_of_a_run(folder: Path, name: str, extra_folder: Path | None, package_configs: Path) -> bool:
    """Return whether a config may belong to a run rather than to the user.

    Parameters
    ----------
    folder, name
        Folder of the primary config, and its name without the suffix.
    extra_folder
        Further folder of the search path.
    package_configs
        Folder of the configs of this package.
    """
    has_name_of_a_run = name == "config" and folder != package_configs
    folders = [place for place in (folder, extra_folder) if place is not None]
    return has_name_of_a_run or any((place / mark).exists() for place in folders for mark in _RUN_MARKS)


def is_run_directory(folder: Path) -> bool:
    """Return whether a folder is a run directory, by the files that every run writes."""
    return (folder / "manifest.json").exists() or ((folder / ".hydra").is_dir() and (folder / "config.yaml").exists())


def require_named_by_user(settings: Mapping[str, Any], overrides: Sequence[str], source: str) -> None:
    """Refuse code that only a file of a run names.

    Parameters
    ----------
    settings : mapping
        Composed settings by dotted key.
    overrides : sequence of str
        Overrides of the command line, which take precedence over all files.
    source : str
        File of the run, for the message.
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
    """Return the value of the argument ``model.class=``, None without one, and the other arguments."""
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
    """Return the modules that the last override ``plugins=`` names, by default those of the config files."""
    import yaml  # not at the top: the losses need neither it nor OmegaConf

    named: list[str] = []
    for path in files:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):  # composing the config reports the error
            continue
        modules = content.get("plugins") if isinstance(content, dict) else None
        named += modules if isinstance(modules, list) else []
    for override in overrides:
        key, equals, text = override.partition("=")
        if key.lstrip("+") == "plugins" and equals:
            try:
                modules = yaml.safe_load(text)
            except yaml.YAMLError:
                modules = None
            named = modules if isinstance(modules, list) else []
    return [str(name) for name in named]


def plugin_names(text: str) -> list[str]:
    """Return the modules of ``one,two`` or of ``[one,two]``, with or without quotes and spaces."""
    names = text.strip("\"' ").removeprefix("[").removesuffix("]").split(",")
    return [name for word in names if (name := word.strip("\"' "))]


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules of the user, which may add entries to the registries.

    Raises
    ------
    UserError
        If a module cannot be imported.
    """
    for module in modules:
        import_module_of_user("plugins", module, f"[{module}]")
