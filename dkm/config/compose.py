"""Compose a checked config from command-line arguments.

Hydra composes the config, ``dkm.config.schema`` checks it, and each error is reported in one line. ``compose`` does not
change Hydra's global state, so it can be called inside another Hydra application and from several threads.

This module does not import torch, so a wrong override is reported without that delay.
"""

from __future__ import annotations

import copy
import difflib
import functools
import os
import re
import shlex
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from dkm.config.custom import import_plugins, is_of_a_run, is_run_directory, plugins_of, require_named_by_user
from dkm.config.data import EncodedData, FileData, NpyData, NpzData, TextData
from dkm.config.groups import GROUPS, PRESETS
from dkm.config.messages import describe, keys, kind_of, unknown_key
from dkm.config.resolved import escaped, read_config
from dkm.config.roles import declarations
from dkm.config.run import Config
from dkm.config.schema import begin_with_config, config_dir, dotted, from_dictconfig, option_names, register, to_dict
from dkm.config.values import absolute, as_list, override, require_utf8
from dkm.errors import UserError
from dkm.installation import install_command

# Names that a message suggests at most.
_MOST_NEAR = 3
# Flags that are passed on to Hydra. --experimental-rerun is refused, because it loads a pickle.
HYDRA_FLAGS = frozenset(
    (
        *("--help", "-h", "--hydra-help", "--version", "--info", "-i", "--cfg", "-c", "--resolve", "--package", "-p"),
        *("--multirun", "-m", "--shell-completion", "-sc"),
    )
)


# Launchers of the plugins in the extra `sweep`. configs/hydra/launcher/slurm.yaml extends the last one.
LAUNCHERS = frozenset(f"hydra/launcher/{name}" for name in ("joblib", "submitit_local", "submitit_slurm"))

# The name in Hydra's stores under which the config of a run stands, which is read as plain values.
_RUN_CONFIG = "config_of_a_run"

_CONFIG_FLAGS = {"-cd": "--config-dir", "-cp": "--config-path", "-cn": "--config-name"}
_EXCLUSIVE_FLAGS = frozenset(["--multirun", "-m", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"])
CONFIG_FLAGS = frozenset([*_CONFIG_FLAGS, *_CONFIG_FLAGS.values()])
# Hydra accepts a + before keys that are null by default; other programs that use it add experiments this way.
_ADDED = re.compile(r"\+{1,2}(experiment|resume)=")
_FLAGS_WITH_VALUE = frozenset(["--cfg", "-c", "--package", "-p", "--info", "-i"])

# Matches Hydra's message about a file that does not fit the schema.
_IN_FILE = re.compile(r"In '([^']+)': (\w+) raised while composing config:\s*(.*?)\s*full_key: *(\S*)", re.DOTALL)
# Match Hydra's messages about a wrong entry of `defaults`, and about a text in the place of a section.
_IN_DEFAULTS = re.compile(
    r"^Multiple values for (\w+)\. To override a value use 'override /?\w+: (?P<option>\w+)'"
    r"|^In '(?P<file>[^']+)': Could not override '(?:\w+/)+(\w+)@"
)
_NO_SECTION = re.compile(r"Merge error: str is not a subclass of (\w+)\.")

# What ``explain`` explains. OmegaConf raises AssertionError for a key below a list that is null.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, AssertionError)
# Matches Hydra's messages about several values of a setting in a command that is no sweep.
_SEVERAL_VALUES = re.compile(r"^Ambiguous value for argument '|^Sweep parameters '.* requires --multirun", re.DOTALL)


class Command(NamedTuple):
    """A parsed command line.

    ``is_for_hydra`` is true if ``overrides`` contains Hydra flags; it is then the complete command line for Hydra.
    ``is_only_read`` is true if the config is only compared with another one, so that none of its code is imported.
    ``is_to_resume`` is true if the config is that of a run that is resumed.
    """

    config_path: Path
    config_name: str
    extra_dir: Path | None
    overrides: list[str]
    is_for_hydra: bool
    is_only_read: bool = False
    is_to_resume: bool = False

    @property
    def is_of_a_run(self) -> bool:
        """Whether the config may belong to a run; its code is then imported only if the command line names it."""
        return is_of_a_run(self.config_path, self.config_name, self.extra_dir, config_dir())

    @property
    def is_plain(self) -> bool:
        """Whether the config is read as plain values, as that of a run, and not composed."""
        has_name_of_a_run = self.config_name == "config" and self.config_path != config_dir()
        return has_name_of_a_run or is_run_directory(self.config_path)

    @property
    def file(self) -> Path:
        return self.config_path / f"{self.config_name}.yaml"


class Composed(NamedTuple):
    """The checked ``config``, the same config as Hydra composed it (``job``), and the node ``hydra``."""

    config: Config
    job: DictConfig
    hydra: DictConfig


class OwnConfigs(SearchPathPlugin):
    """Adds the application's groups and ``paths.yaml`` to the search path of ``hydra.main``, as ``compose`` does."""

    extra_dir: Path | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        _append_application_configs(search_path, self.extra_dir)


def _append_application_configs(search_path: ConfigSearchPath, extra_dir: Path | None) -> None:
    """Add the application's configs to the search path, whichever config is the primary one."""
    search_path.append("dkm", f"file://{config_dir()}")
    if extra_dir is not None:
        search_path.append("command-line", f"file://{extra_dir}")


def _options() -> frozenset[tuple[str, str]]:
    """Return all options of all groups. The result is not cached, because a plugin may add options."""
    return frozenset((group, option) for group, options in GROUPS.items() for option in options)


@functools.cache
def _register(options: frozenset[tuple[str, str]]) -> None:
    register()  # called again when a plugin has added options


def set_up() -> None:
    """Register the schemas and the application's configs globally, for ``hydra.main``.

    The plugin is registered at each call, because Hydra forgets it for every job that joblib starts in a process.
    """
    _register(_options())
    Plugins.instance().register(OwnConfigs)


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags of a command line, each followed by its value, and the other words."""
    flags: list[str] = []
    words: list[str] = []
    previous = ""
    for word in arguments:
        is_value = previous in CONFIG_FLAGS or (previous in _FLAGS_WITH_VALUE and "=" not in word)
        (flags if is_value or word.startswith("-") else words).append(word)
        previous = "" if is_value else word
    return flags, words


def is_multirun(flags: Iterable[str]) -> bool:
    """Return whether flags or words of a command line ask for several runs."""
    return not {"-m", "--multirun"}.isdisjoint(flags)


def require_known_flags(flags: Iterable[str]) -> None:
    """Refuse a flag that neither this application nor Hydra has; words without a hyphen are values of flags."""
    accepted = HYDRA_FLAGS | CONFIG_FLAGS
    for flag in (word.partition("=")[0] for word in flags if word.startswith("-")):
        if flag not in accepted:
            known = ", ".join(sorted(accepted))
            near = difflib.get_close_matches(flag, [name for name in accepted if name.startswith("--")], n=1)
            remedy = f"did you mean {near[0]}?" if near else "overrides are written KEY=VALUE"
            raise UserError(f"{flag}: expected a flag that is known ({known}); {remedy}")


def parse(arguments: Sequence[str]) -> Command:
    """Parse the command line.

    A config in the folder of ``--config-dir`` takes precedence over one of the same name in the application, so that
    ``--config-dir RUN --config-name config`` repeats a run.

    Raises
    ------
    UserError
        If a flag is unknown, a folder does not exist, or no run can use an override.
    """
    flag_values: dict[str, str] = {}
    flags: list[str] = []
    overrides: list[str] = []
    remaining = iter(arguments)
    for word in remaining:
        require_utf8(word)
        flag, equals, value = word.partition("=")
        flag = _CONFIG_FLAGS.get(flag, flag)
        if flag in _CONFIG_FLAGS.values():
            flag_values[flag] = value if equals else next(remaining, "")
            if not flag_values[flag]:
                what = "the name of a config" if flag == "--config-name" else "a folder"
                raise UserError(f"{word}: expected {what} after it; for example {flag} mine")
        elif word.startswith("-") or (flags[-1:] and flags[-1] in _FLAGS_WITH_VALUE and "=" not in word):
            flags.append(word)
        else:
            overrides.append(word.lstrip("+") if _ADDED.match(word) else word)
    overrides = [word for word in overrides if word != "experiment=null"]  # the default, which Hydra refuses
    name = flag_values.get("--config-name", "config").removesuffix(".yaml")
    path, extra = (Path(flag_values[key]) if key in flag_values else None for key in ("--config-path", "--config-dir"))
    for key, folder in (("--config-path", path), ("--config-dir", extra)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{key}={folder}: expected an existing directory; correct the path")
    if path is None:
        is_primary = extra is not None and (extra / f"{name}.yaml").is_file()
        path, extra = (extra, None) if is_primary and extra is not None else (config_dir(), extra)
    require_known_flags(flags)
    if flags:
        _check_hydra_flags(flags)
    path, extra = path.absolute(), extra.absolute() if extra else None
    if extra is not None and is_run_directory(extra):
        raise UserError(
            f"--config-dir={extra}: expected a folder of your own configs, as nothing in a run directory is composed; "
            "repeat the run with --config-name config"
        )
    # Plugins are imported first, because they may add options that the overrides choose.
    files = [path / f"{name}.yaml"]
    files += [extra / f"{o.replace('=', '/')}.yaml" for o in overrides if extra and o.startswith("experiment=")]
    import_plugins(plugins_of(overrides, () if is_of_a_run(path, name, extra, config_dir()) else files))
    for word in overrides:
        _check_override(word, is_sweep=is_multirun(flags))
    return Command(path, name, extra, [*flags, *overrides], bool(flags))


def _check_override(override: str, *, is_sweep: bool) -> None:
    """Refuse an override that Hydra accepts but no run can use, or that Hydra refuses in several lines."""
    left, _, value = override.partition("=")
    key = left.lstrip("+~")
    section, _, name = key.rpartition(".")
    if override.startswith("~") and not key.startswith("hydra"):
        if key not in (*GROUPS, *PRESETS) and not any(f"{k}.".startswith(f"{key}.") for k in keys()):
            raise UserError(unknown_key(key, override))
        raise UserError(f"{override}: expected every key to stay; set another value: {key}=VALUE")
    if "=" in override and not key:
        raise UserError(f"{override}: expected an override KEY=VALUE; put a key before the =")
    if key in GROUPS or key in PRESETS:
        if left != key:
            raise UserError(f"{key}={value}: expected no + or ~ before a group; write {key}={value}")
        is_name = re.fullmatch(r"[\w./-]*(,[\w./-]*)*" if is_sweep else r"[\w./-]*", value)
        if (is_name is None and value[:1] in "[{") or (value == "null" and key != "experiment"):
            raise UserError(f"{override}: expected one of {', '.join(option_names(key))}; choose {key}=OPTION")
    if key == ("hydra.run.dir" if is_sweep else "hydra.sweep.dir"):
        what = "a sweep" if is_sweep else "a single run"
        raise UserError(f"{override}: expected no such key, as {what} ignores it; write {_output(value)}")
    if section in GROUPS and name == "name":
        raise UserError(f"{override}: expected the option to be chosen by its group; write {section}={value}")


def _output(value: str) -> str:
    """Return the short name of the directory of a run or of a sweep with its value, to paste into a shell."""
    return shlex.quote("output=" + value.strip("\"'"))


def _check_hydra_flags(arguments: Sequence[str]) -> None:
    """Check the flags with Hydra's parser and report its error in one line."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{' '.join(arguments)}: {message}; --help shows the flags")

    exclusive = [flag for flag in arguments if flag.partition("=")[0] in _EXCLUSIVE_FLAGS]
    if len(exclusive) > 1:
        raise UserError(f"{' '.join(exclusive)}: expected one of these flags; leave the others out")
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    if {"--help", "-h", "--version"}.isdisjoint(arguments):
        parser.parse_args(arguments)


_VERSION_BASE = "1.3"

# Hydra's parsers share caches that are not thread-safe, and the first composition scans for plugins.
_composition = threading.Lock()


def compose(command: Command, *, missing: str | None = None) -> Composed:
    """Compose and check the config.

    Hydra's global state (``GlobalHydra``, ``HydraConfig``, the job's name, the version base, the config store) is
    not changed and does not affect the result. The function is thread-safe.

    Parameters
    ----------
    command : Command
    missing : str, optional
        Value of required settings that are not given, for a text about the config; by default they are refused.

    Raises
    ------
    UserError
        With one line about the first error.
    """
    try:
        with _composition:
            cfg = _load(command)
            if command.extra_dir is not None:
                _require_own_names(command.extra_dir, cfg.hydra.runtime.choices)
            hydra_part = cfg.hydra
            job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            absent = [] if missing is None else _missing_keys(job)
            for group, name in absent:
                job[group][name] = missing
            config = checked(job)
            for group, name in absent:  # not the absolute path that it would be
                setattr(getattr(config, group), name, missing)
            OmegaConf.to_container(hydra_part.run, resolve=True)
        if command.is_of_a_run and not command.is_only_read:
            require_named_by_user(dotted(config), command.overrides, str(command.file))
    except COMPOSITION_ERRORS as error:
        raise UserError(explain(error, command)) from error
    except YAMLError as error:
        raise UserError(f"{error}; expected YAML; correct the file") from error
    except ValueError as error:  # a group is set to a number, or a file is not text
        names = (*GROUPS, *PRESETS)
        groups = [o for o in command.overrides if o.partition("=")[0] in names]
        files = [f"{o.replace('=', '/')}.yaml" for o in groups] or [f"{command.config_path / command.config_name}.yaml"]
        source = " or ".join(files if isinstance(error, UnicodeError) else groups)
        raise UserError(f"{source}: {error}; expected the name of an option that is a text file; correct it") from error
    return Composed(config, job, hydra_part)


def compose_for_help(command: Command) -> Config:
    """Return the config of a text about it: what is required and not given is ``required``; no code is imported."""
    return compose(command._replace(is_only_read=True), missing="required").config


def _missing_keys(job: DictConfig) -> list[tuple[str, str]]:
    """Return the group and the name of each required setting without a value."""
    sections = {group: section for group in GROUPS if isinstance(section := job.get(group), DictConfig)}
    return [(group, str(name)) for group, part in sections.items() for name in part if OmegaConf.is_missing(part, name)]


def _require_own_names(folder: Path, choices: Mapping[str, str | None]) -> None:
    """Refuse an option of the user's folder with the name of one of the package, which is the one that is read.

    The folder of the user is not searched first: what it holds must not replace files that the user has not named, as
    the folder may come from someone else.
    """
    for group in (*GROUPS, *PRESETS):
        file = f"{group}/{choices.get(group)}.yaml"
        if (folder / file).is_file() and (config_dir() / file).is_file():
            raise UserError(
                f"{group}={choices[group]}: expected another name for {folder / file}, as the package has an option "
                f"of that name; rename it: mv {shlex.quote(str(folder / file))} "
                f"{shlex.quote(str(folder / group / f'my_{choices[group]}.yaml'))}"
            )


def _below_a_value(given: str) -> str | None:
    """Return what is wrong with an override such as ``model.hidden.0=3``, whose key is below that of a setting."""
    key = given.partition("=")[0].lstrip("+~")
    above = next((known for known in declarations() if key.startswith(f"{known}.")), None)
    return above and f"{given}: {above} is one value, without keys; expected {above}=VALUE; dkm help {above} says which"


def _load(command: Command) -> DictConfig:
    """Compose as ``hydra.compose`` does, but with the node ``hydra`` and without ``hydra.initialize_config_dir``."""
    if not OmegaConf.has_resolver("hydra"):
        setup_globals()  # the resolvers `now` and `hydra`
    version_base: object = version.getbase()
    if type(version_base) is object:  # not set yet: Hydra would use that of its version 1.1
        version.setbase(_VERSION_BASE)
    search_path = ConfigSearchPathImpl()
    search_path.append("hydra", "pkg://hydra.conf")
    if not command.is_plain:  # what a run directory holds is not composed
        search_path.append("main", str(command.config_path))
    plugins = [plugin() for plugin in Plugins.instance().discover(SearchPathPlugin) if plugin is not OwnConfigs]
    for plugin in plugins:
        assert isinstance(plugin, SearchPathPlugin)
        plugin.manipulate_search_path(search_path)
    _append_application_configs(search_path, command.extra_dir)
    search_path.append("schema", "structured://")
    loader = ConfigLoaderImpl(search_path)
    store, name = _schemas(_options()), command.config_name
    if command.is_plain:
        store, name = store.with_run_config(command), _RUN_CONFIG
    loader.repository = _Repository(search_path, store)
    with _suppress_search_path_warnings(command):
        cfg = loader.load_configuration(name, command.overrides, RunMode.RUN, from_shell=False)
    cfg.hydra.runtime.version_base = _VERSION_BASE
    return cfg


class _Repository(ConfigRepository):
    """Looks up schemas in a private store instead of Hydra's global one.

    In the global store, a schema that the calling application registers under the name of one of our files, for example
    ``optimizer/adam``, would be used as the schema of that file.
    """

    def __init__(self, config_search_path: ConfigSearchPath, store: _Schemas) -> None:
        self._store = store
        super().__init__(config_search_path)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        schema_source: Any = self.get_schema_source()
        schema_source.store = self._store


class _Schemas(ConfigStore):
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # Hydra copies the repository for every composition, and each schema that it loads

    def with_run_config(self, command: Command) -> _Schemas:
        """Return a copy that has the config of a run too."""
        store = _Schemas.__new__(_Schemas)
        store.repo = dict(self.repo)
        _store_run_config(store, command)
        return store


def _store_run_config(store: ConfigStore, command: Command) -> None:
    """Read the config of a run as plain values, and store it as the primary config.

    How the run was started, with ``resume=auto``, is not repeated.
    """
    values = escaped(to_dict(read_config(command.file, to_resume=command.is_to_resume)))
    store.store(name=_RUN_CONFIG, node={"defaults": ["paths", "_self_"], **values, "resume": None})


def prepare_primary(command: Command) -> tuple[str | None, str]:
    """Return the folder and the name of the primary config for ``hydra.main``.

    The config of a run is not in a folder for Hydra: it is put into Hydra's store.
    """
    if not command.is_plain:
        return str(command.config_path), command.config_name
    _store_run_config(ConfigStore.instance(), command)
    return None, _RUN_CONFIG


@functools.cache
def _schemas(options: frozenset[tuple[str, str]]) -> _Schemas:
    """Return a store with the schemas of the application, of Hydra and of its plugins."""
    store = _Schemas.__new__(_Schemas)  # the constructor would make a singleton, which Hydra pickles
    store.repo = {"hydra": dict(ConfigStore.instance().repo["hydra"])}
    node = copy.deepcopy(store.repo["hydra"]["config.yaml"])
    node.node.job.name = "train"  # otherwise Hydra uses the name of the caller's job
    store.repo["hydra"]["config.yaml"] = node
    register(store)
    return store


@contextmanager
def _suppress_search_path_warnings(command: Command) -> Iterator[None]:
    """Suppress Hydra's warnings about folders of ``hydra.searchpath`` that do not exist.

    All threads share the warning filters, so they are changed only where ``hydra.searchpath`` may be set.
    """
    may_be_set = command.config_path != config_dir() or any("searchpath" in word for word in command.overrides)
    if not may_be_set:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def checked(job: DictConfig) -> Config:
    """Return the typed config with absolute paths, so that the run can be repeated from any folder."""
    return with_absolute_paths(from_dictconfig(job))


def with_absolute_paths(config: Config) -> Config:
    """Make the paths in a config absolute, and return it."""
    data = config.data
    data.root = absolute(data.root)
    if isinstance(data, FileData):
        data.path = absolute(data.path)
    is_file = isinstance(data, NpyData) or (isinstance(data, NpzData) and (data.labels or "").endswith(".npy"))
    if isinstance(data, FileData) and is_file and data.labels is not None:
        data.labels = absolute(data.labels)
    if isinstance(data, EncodedData):
        if data.encoder is not None and data.encoder.endswith(".onnx"):
            data.encoder = absolute(data.encoder)
        if data.encoder_weights is not None:
            data.encoder_weights = absolute(data.encoder_weights)
    if isinstance(data, TextData) and data.text_encoder is not None:
        folder = absolute(data.text_encoder)
        data.text_encoder = folder if os.path.isdir(folder) else data.text_encoder  # noqa: PTH112  # else a name
    if config.clustering.init_file is not None:
        config.clustering.init_file = absolute(config.clustering.init_file)
    if config.pretrain.cache is not None:
        config.pretrain.cache = absolute(config.pretrain.cache)
    return config


def quoted_override(word: str) -> str | None:
    """Return the remedy for a list, a text, or a value with characters that Hydra reads as syntax: it in quotes."""
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[+~]*[\w.]+", key):
        return None
    value, kind = value.strip("\"'"), kind_of(key.lstrip("+~"))
    if not value or not (kind.startswith("text") or re.search(r"[\s(),:{}]|[^\x00-\x7f]", value)):
        return None
    if kind.startswith("a list"):
        return f"write {as_list(key, value)}"
    return f"write {override(key, value)}"


def explain(error: Exception, command: Command) -> str:
    """Return one of ``COMPOSITION_ERRORS`` as one line: key, value, what was expected, and a remedy.

    An AssertionError that no override explains is raised again.
    """
    overrides = command.overrides
    if isinstance(error, AssertionError):
        below = next(filter(None, map(_below_a_value, overrides)), None)
        if below is None:
            raise error
        return below
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _no_such_option(str(error.missing_cfg_file), error.options or [])
    if isinstance(error, OverrideParseException):
        remedy = quoted_override(str(error.override)) or "quote special characters: 'KEY=\"VALUE\"'"
        return f"{error.override}: expected an override KEY=VALUE; {remedy}"
    if isinstance(error, ConfigCompositionException) and text.startswith("Could not "):
        key = text.splitlines()[0].split("'")[1] if "'" in text.splitlines()[0] else text
        of_key = [o for o in overrides if o.lstrip("+~").partition("=")[0] == key]
        appended = [o for o in of_key if re.match(r"\+(?!\+)", o)]  # the key may be given without + as well
        override = next(iter(appended if text.startswith("Could not append") else of_key), key)
        if key.partition("@")[0] in GROUPS or key in PRESETS:
            if command.is_plain:
                return f"{override}: expected keys, as this config has no choice of {key}; leave the override out"
            return f"{override}: expected a config with a choice of {key}; {begin_with_config(str(command.file))}"
        if override.startswith("+") and key in keys():
            return f"{override}: expected no +, as the key is there already; write {override.lstrip('+')}"
        return _unknown_hydra_key(key, override) if key.startswith("hydra.") else unknown_key(key, override)
    if isinstance(error, ConfigCompositionException) and _SEVERAL_VALUES.search(text):
        return _several_values(text, overrides)
    if in_defaults := _IN_DEFAULTS.search(text):
        file, group, option = in_defaults["file"], in_defaults[1] or in_defaults[4], in_defaults["option"] or "OPTION"
        what = f"expected an override of the choice of {group} in the default config"
        return f"{f'{file}.yaml' if file else 'defaults'}: {what}; {_choose_in_defaults(group, option)}"
    if in_file := _IN_FILE.match(text):
        file, kind, message, key = in_file.groups()
        if key and file.startswith(f"{key}/") and key in PRESETS:
            what = "expected it to begin with the line `# @package _global_`, without a byte order mark before it"
            return f"{file}.yaml: {what}; insert the line, or save the file as plain UTF-8"
        schema = _NO_SECTION.match(message)
        by_schema = {option.__name__: name for name, options in GROUPS.items() for option in options.values()}
        if schema and (group := by_schema.get(schema[1])):
            option = message.rpartition("value: ")[2]
            return f"{file}.yaml: {group}: {option}: expected keys of {group}; {_choose_in_defaults(group, option)}"
        if kind in ("ConfigKeyError", "ConfigAttributeError") and key:
            return f"{file}.yaml: {unknown_key(key)}"
        where = f"{file}.yaml: {key}" if key else f"{file}.yaml"
        expected = kind_of(key) if key else "keys and values of the config"
        return f"{where}: {' '.join(message.split())}; expected {expected}; correct the file"
    if isinstance(cause, OmegaConfBaseException):
        key = cause.full_key or ""
        by_key = {o.lstrip("+").partition("=")[0]: o.lstrip("+") for o in overrides}
        inner = next((k for k in by_key if k.startswith(f"{key}.")), "") if isinstance(cause, ConfigKeyError) else ""
        return describe(cause, by_key.get(key, by_key.get(inner)), inner or key)
    return " ".join(text.split()) + "; expected what `python -m dkm.train --cfg job` shows; correct it"


def _choose_in_defaults(group: str, option: str) -> str:
    return f"choose an option in the list defaults of the file: `- override /{group}: {option}`"


def _several_values(text: str, overrides: Sequence[str]) -> str:
    """Return the message about an override with several values, of which a single run takes one."""
    named = text.partition("'")[2]
    word = next((o for o in sorted(overrides, key=len, reverse=True) if named.startswith(o)), named.partition("'")[0])
    key, _, value = word.partition("=")
    kind = kind_of(key.lstrip("+~"))
    other = ""
    declared = declarations().get(key)
    if kind.startswith("a list"):
        other = (
            f", or write {key}=[{value}]" if re.fullmatch(r"[\d.,]+", value) else f", or write {as_list(key, value)}"
        )
    elif kind.startswith("text") and declared is not None and declared.check is None:
        other = f", or write {override(key, value)}"
    return f"{word}: expected one value; `dkm train -m` trains a run for each{other}"


def _no_such_option(path: str, options: Sequence[str]) -> str:
    group, _, option = path.rpartition("/")
    if not group:
        return f"--config-name={option}: expected a config that exists; correct the name or give --config-dir"
    known = sorted(set(options) - {"schema"})
    if path in LAUNCHERS:
        launcher = path.replace("/launcher/", "/launcher=")
        return f"{launcher}: expected its plugin; install it: {install_command('sweep')}"
    # A part of a name is enough: several experiments are called METHOD_mnist.
    near = difflib.get_close_matches(option, known, n=1)
    near = near or [name for name in known if difflib.get_close_matches(option, name.split("_"))]
    remedy = f"did you mean {' or '.join(f'{group}={name}' for name in near[:_MOST_NEAR])}?"
    return f"{group}={option}: expected one of {', '.join(known)}; {remedy if near else f'choose {group}=OPTION'}"


def _unknown_hydra_key(key: str, word: str) -> str:
    """Return the message about an unknown key of Hydra's own config."""
    from hydra.conf import HydraConf

    known = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.structured(HydraConf)))
    near = difflib.get_close_matches(key.removeprefix("hydra."), [name[1:] for name in _keys_below("", known)], n=1)
    remedy = "`python -m dkm.train --cfg hydra` lists the keys"
    if near:
        suggestion = f"hydra.{near[0]}{word.lstrip('+~')[len(key) :]}"
        remedy = f"did you mean {shlex.quote(suggestion)}?"
    return f"{word}: expected a key of Hydra's config; {remedy}"


def _keys_below(prefix: str, values: Mapping[str, Any]) -> list[str]:
    keys = []
    for name, value in values.items():
        key = f"{prefix}.{name}"
        keys += _keys_below(key, value) if isinstance(value, dict) and value else [key]
    return keys
