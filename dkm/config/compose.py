"""From the arguments of a command to a checked config.

Hydra composes, ``dkm.config.schema`` checks, errors become one line.

Imports no torch: a wrong override answers at once.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from dkm.config.custom import import_plugins, is_of_a_run, plugins_of, require_named_by_user
from dkm.config.data import FileData, NpyData, NpzData
from dkm.config.groups import GROUPS
from dkm.config.messages import describe, keys, kind_of, unknown_key
from dkm.config.run import Config
from dkm.config.schema import config_dir, dotted, from_dictconfig, register
from dkm.errors import UserError

# Hydra's own flags that are passed on. Not among them: --experimental-rerun, which loads a pickle.
HYDRA_FLAGS = frozenset(
    (
        *("--help", "-h", "--hydra-help", "--version", "--info", "-i", "--cfg", "-c", "--resolve", "--package", "-p"),
        *("--multirun", "-m", "--shell-completion", "-sc"),
    )
)


# What the plugins of the extra `sweep` bring; configs/hydra/launcher/slurm.yaml builds on the last.
LAUNCHERS = frozenset(f"hydra/launcher/{name}" for name in ("joblib", "submitit_local", "submitit_slurm"))

_CONFIG_FLAGS = {"-cd": "--config-dir", "-cp": "--config-path", "-cn": "--config-name"}
_FLAGS_WITH_VALUE = frozenset(["--cfg", "-c", "--package", "-p", "--info", "-i"])


# Hydra's message about a file that does not fit the schema.
_IN_FILE = re.compile(r"In '([^']+)': (\w+) raised while composing config:\s*(.*?)\s*full_key: *(\S*)", re.DOTALL)


class Command(NamedTuple):
    """The command line, taken apart.

    ``is_for_hydra``: there are flags of Hydra among the ``overrides``, which are then its whole command line.
    ``is_only_read``: the config is compared with another one, and nothing of it is run.
    """

    config_path: Path
    config_name: str
    extra_dir: Path | None
    overrides: list[str]
    is_for_hydra: bool
    is_only_read: bool = False

    @property
    def is_of_a_run(self) -> bool:
        """Whether the config may be that of a run, whose code is only imported if the command line names it."""
        return is_of_a_run(self.config_path, self.config_name, self.extra_dir, config_dir())


class Composed(NamedTuple):
    """The checked config, and Hydra's own part of the composition."""

    config: Config
    job: DictConfig
    hydra: DictConfig


class OwnConfigs(SearchPathPlugin):
    """Lets the groups and ``paths.yaml`` of the application be found whichever config is the primary one."""

    extra_dir: Path | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("dkm", f"file://{config_dir()}")
        if self.extra_dir is not None:
            search_path.append("command-line", f"file://{self.extra_dir}")


@functools.cache
def _register(options: frozenset[tuple[str, str]]) -> None:
    register()  # anew when a plugin has added options


def set_up() -> None:
    """Make the schemas and the application's configs known to Hydra.

    Its plugins anew each time: for every job that joblib starts in a process, Hydra forgets those of the job before.
    """
    _register(frozenset((group, option) for group, options in GROUPS.items() for option in options))
    Plugins.instance().register(OwnConfigs)


def parse(arguments: Sequence[str]) -> Command:
    """Take the command line apart.

    A config in the folder of ``--config-dir`` goes before one of the same name in the application, so that
    ``--config-dir RUN --config-name config`` repeats a run.
    """
    given: dict[str, str] = {}
    flags: list[str] = []
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        flag = _CONFIG_FLAGS.get(flag, flag)
        if flag in _CONFIG_FLAGS.values():
            given[flag] = value if equals else next(words, "")
        elif word.startswith("-") or (flags[-1:] and flags[-1] in _FLAGS_WITH_VALUE and "=" not in word):
            flags.append(word)
        elif word != "experiment=null":  # the default, which Hydra does not let one say
            overrides.append(word)
    name = given.get("--config-name", "config").removesuffix(".yaml")
    path, extra = (Path(given[key]) if key in given else None for key in ("--config-path", "--config-dir"))
    for key, folder in (("--config-path", path), ("--config-dir", extra)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{key}={folder}: expected an existing directory; correct the path")
    if path is None:
        is_primary = extra is not None and (extra / f"{name}.yaml").is_file()
        path, extra = (extra, None) if is_primary and extra is not None else (config_dir(), extra)
    for flag in (word.partition("=")[0] for word in flags if word.startswith("-")):
        if flag not in HYDRA_FLAGS:
            known = ", ".join(sorted(HYDRA_FLAGS | _CONFIG_FLAGS.keys() | set(_CONFIG_FLAGS.values())))
            raise UserError(f"{flag}: expected a flag that is known ({known}); overrides are written KEY=VALUE")
    if flags:
        _check_hydra_flags(flags)
    path, extra = path.absolute(), extra.absolute() if extra else None
    # Before anything else, because they may add options that the overrides choose.
    files = [path / f"{name}.yaml"]
    files += [extra / f"{o.replace('=', '/')}.yaml" for o in overrides if extra and o.startswith("experiment=")]
    import_plugins(plugins_of(overrides, () if is_of_a_run(path, name, extra, config_dir()) else files))
    for override in overrides:
        _check_override(override, is_sweep=not {"-m", "--multirun"}.isdisjoint(flags))
    return Command(path, name, extra, [*flags, *overrides], bool(flags))


def _check_override(override: str, *, is_sweep: bool) -> None:
    """Refuse overrides that Hydra would take in a way that no run can use, or refuse in many words."""
    left, _, value = override.partition("=")
    key = left.lstrip("+~")
    section, _, name = key.rpartition(".")
    if override.startswith("~") and not key.startswith("hydra"):
        if key not in (*GROUPS, "experiment") and not any(f"{k}.".startswith(f"{key}.") for k in keys()):
            raise UserError(unknown_key(key, override))
        raise UserError(f"{override}: expected every key to stay; set another value: {key}=VALUE")
    if "=" in override and not key:
        raise UserError(f"{override}: expected an override KEY=VALUE; put a key before the =")
    if key in GROUPS or key == "experiment":
        if left != key:
            raise UserError(f"{key}={value}: expected no + or ~ before a group; write {key}={value}")
        is_name = re.fullmatch(r"[\w./-]*(,[\w./-]*)*" if is_sweep else r"[\w./-]*", value)
        if (is_name is None and value[:1] in "[{") or (value == "null" and key != "experiment"):
            options = ", ".join(GROUPS.get(key, ["the name of an experiment"]))
            raise UserError(f"{override}: expected one of {options}; choose {key}=OPTION")
    if section in GROUPS and name == "name":
        raise UserError(f"{override}: expected the option to be chosen by its group; write {section}={value}")


def _check_hydra_flags(arguments: Sequence[str]) -> None:
    """Let Hydra's own parser look at its flags, and say what it says in one line."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{' '.join(arguments)}: {message}; --help shows the flags")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    if {"--help", "-h", "--version"}.isdisjoint(arguments):
        parser.parse_args(arguments)


def compose(command: Command) -> Composed:
    """Compose and check the config.

    Raises
    ------
    UserError
        One line about the first thing that is wrong.
    """
    set_up()
    OwnConfigs.extra_dir = command.extra_dir
    try:
        with (
            _no_other_hydra(),
            warnings.catch_warnings(),
            hydra.initialize_config_dir(str(command.config_path), job_name="train", version_base="1.3"),
        ):
            warnings.simplefilter("ignore", UserWarning)  # a folder of hydra.searchpath that is not there
            cfg = hydra.compose(command.config_name, command.overrides, return_hydra_config=True)
        hydra_part = cfg.hydra
        job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        config = checked(job)
        if command.is_of_a_run and not command.is_only_read:
            source = str(command.config_path / f"{command.config_name}.yaml")
            require_named_by_user(dotted(config), command.overrides, source)
        OmegaConf.to_container(hydra_part.run, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, command.overrides)) from error
    except YAMLError as error:
        raise UserError(f"{error}; expected YAML; correct the file") from error
    except ValueError as error:  # of Hydra, for a group set to a number, or of a file that is not text
        names = (*GROUPS, "experiment")
        groups = [o for o in command.overrides if o.partition("=")[0] in names]
        files = [f"{o.replace('=', '/')}.yaml" for o in groups] or [f"{command.config_path / command.config_name}.yaml"]
        shown = " or ".join(files if isinstance(error, UnicodeError) else groups)
        raise UserError(f"{shown}: {error}; expected the name of an option that is a text file; correct it") from error
    return Composed(config, job, hydra_part)


@contextmanager
def _no_other_hydra() -> Iterator[None]:
    """Compose as if nobody had set up Hydra: the caller may be a job of it, of ours or of another application."""
    theirs, name, base = (
        GlobalHydra.instance().hydra,
        JobRuntime.instance().get("name"),
        VersionBase.instance().getbase(),
    )
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = theirs
        JobRuntime.instance().set("name", name)
        VersionBase.instance().version_base = base


def checked(job: DictConfig) -> Config:
    """Return the typed config with absolute paths, so that the run can be repeated from anywhere."""
    config = from_dictconfig(job)
    data = config.data
    data.root = absolute(data.root)
    if isinstance(data, FileData):
        data.path = absolute(data.path)
    is_file = isinstance(data, NpyData) or (isinstance(data, NpzData) and (data.labels or "").endswith(".npy"))
    if isinstance(data, FileData) and is_file and data.labels is not None:
        data.labels = absolute(data.labels)
    if config.clustering.init_file is not None:
        config.clustering.init_file = absolute(config.clustering.init_file)
    if config.pretrain.cache is not None:
        config.pretrain.cache = absolute(config.pretrain.cache)
    return config


def absolute(path: str) -> str:
    """Return an absolute path; a ``~user`` that is unknown stays as it is."""
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  # pathlib raises for unknown users


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Return a composition error of Hydra or OmegaConf as one line with key, value, expectation, remedy."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _no_such_option(str(error.missing_cfg_file), error.options or [])
    if isinstance(error, OverrideParseException):
        return f"{error.override}: expected an override KEY=VALUE; quote special characters: 'KEY=\"VALUE\"'"
    if isinstance(error, ConfigCompositionException) and text.startswith("Could not "):
        key = text.splitlines()[0].split("'")[1] if "'" in text.splitlines()[0] else text
        shown = next((o for o in overrides if o.lstrip("+~").partition("=")[0] == key), key)
        if key.partition("@")[0] in GROUPS or key == "experiment":
            return f"{shown}: expected keys, as this config has no choice of {key}; leave the override out"
        if shown.startswith("+") and key in keys():
            return f"{shown}: expected no +, as the key is there already; write {shown.lstrip('+')}"
        return unknown_key(key, shown)
    if in_file := _IN_FILE.match(text):
        file, kind, message, key = in_file.groups()
        if kind in ("ConfigKeyError", "ConfigAttributeError") and key:
            return f"{file}.yaml: {unknown_key(key)}"
        where = f"{file}.yaml: {key}" if key else f"{file}.yaml"
        expected = kind_of(key) if key else "keys and values of the config"
        return f"{where}: {' '.join(message.split())}; expected {expected}; correct the file"
    if isinstance(cause, OmegaConfBaseException):
        key = cause.full_key or ""
        given = {o.lstrip("+").partition("=")[0]: o.lstrip("+") for o in overrides}
        inner = next((k for k in given if k.startswith(f"{key}.")), "") if isinstance(cause, ConfigKeyError) else ""
        return describe(cause, given.get(key, given.get(inner)), inner or key)
    return " ".join(text.split()) + "; expected what `python -m dkm.train --cfg job` shows; correct it"


def _no_such_option(path: str, options: Sequence[str]) -> str:
    group, _, option = path.rpartition("/")
    if not group:
        return f"--config-name={option}: expected a config that exists; correct the name or give --config-dir"
    known = sorted(set(options) - {"schema"})
    if path in LAUNCHERS:
        return f"{path.replace('/launcher/', '/launcher=')}: expected its plugin; install it: pip install 'dkm[sweep]'"
    return f"{group}={option}: expected one of {', '.join(known)}; choose {group}=OPTION"
