"""``dkm completion bash``: print the code with which a shell completes ``dkm``; likewise for zsh and fish.

    eval "$(dkm completion bash)"

argcomplete has the code of the shells and their rules of quoting. At each press of the tab key the shell runs ``dkm``
itself, and ``answer`` prints what the current word can be: verbs, keys, options of groups, values, files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dkm.config.checks import Choice
from dkm.config.commands import COMMANDS, SELECT_ALIASES
from dkm.config.commands import main as run_command
from dkm.config.settings import setting_of
from dkm.config.short import SHORT_NAMES, key_of
from dkm.config.verbs import VERBS, screen
from dkm.errors import UserError

SHELLS = ("bash", "zsh", "fish")
# Verbs that take the settings of ``dkm train``.
_TRAINING = ("train", "select", "tune")
_FLAGS = ("--multirun", "--cfg", "--config-dir", "--config-name", "--info", "--help")
# What may have a + before it, as ``dkm.config.compose`` accepts it.
_ADDED = ("experiment=", "resume=")
# Settings whose values are files or folders.
_PATHS = frozenset(
    [
        *("run", "input", "output", "csv", "markdown", "figure", "pairs", "resume", "hydra.run.dir", "data.path"),
        *("data.root", "pretrain.cache", "clustering.init_file", "data.encoder_weights", "hydra.sweep.dir"),
    ]
)


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, screen("completion"))


def work(words: Sequence[str]) -> None:
    """Print the code for a shell."""
    shell = " ".join(words)
    if shell not in SHELLS:
        raise UserError(f"{shell}: expected one of {', '.join(SHELLS)}; for example dkm completion bash")
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        remedy = "install it: pip install argcomplete"
        raise UserError(f"dkm completion {shell}: expected the package argcomplete; {remedy}") from error
    print(shellcode(["dkm"], shell=shell))


def answer() -> None:
    """Print the completions of the current word for the shell that asks, and exit."""
    try:
        import argcomplete
    except ImportError:
        raise SystemExit(1) from None
    parser = argparse.ArgumentParser(prog="dkm", add_help=False)
    words: Any = parser.add_argument("words", nargs=argparse.REMAINDER)  # flags too
    words.completer = lambda prefix, parsed_args, **_: candidates(parsed_args.words or [], prefix)
    argcomplete.autocomplete(parser, validator=lambda candidate, prefix: True)


def candidates(words: Sequence[str], prefix: str) -> list[str]:
    """Return what a word can be.

    Parameters
    ----------
    words : sequence of str
        The words before it, without ``dkm``.
    prefix : str
        Its beginning.
    """
    if not words:
        return _beginning_with(prefix, VERBS)
    verb = words[0]
    if verb == "help":
        from dkm.config.explain import names

        return _beginning_with(prefix, [*names(), *VERBS, "settings"])
    if verb == "completion":
        return _beginning_with(prefix, SHELLS)
    if prefix.startswith("-"):
        return _beginning_with(prefix, _FLAGS if verb == "train" else ["--help"])
    if verb in _TRAINING and (name := prefix.lstrip("+")) != prefix:
        plus = prefix.removesuffix(name)
        return [f"{plus}{word}" for word in candidates(words, name) if word.startswith(_ADDED)]
    key, equals, value = prefix.partition("=")
    if equals:
        return [f"{key}={text}" for text in _values(verb, key, value)]
    found = _beginning_with(prefix, (f"{name}=" for name in _own_keys(verb)))
    if verb in _TRAINING:
        found += _words_of_training(prefix)
    elif verb == "predict":
        found += [
            f"{name}="
            for name, short in SHORT_NAMES.items()
            if short.key.startswith("data.") and name.startswith(prefix)
        ]
    return [*dict.fromkeys(found), *_files(prefix)]


def _own_keys(verb: str) -> list[str]:
    own = [part.name for part in fields(COMMANDS[verb])] if verb in COMMANDS else []
    return [*own, *SELECT_ALIASES] if verb == "select" else own


def _words_of_training(prefix: str) -> list[str]:
    """Return keys, groups and names that begin with ``prefix``; sections as a whole where several keys would follow."""
    from dkm.config.data import DATASETS, CustomData, FileData
    from dkm.config.groups import GROUPS, PRESETS
    from dkm.config.roles import declarations

    keys = list(declarations())
    if "." in prefix:
        return _beginning_with(prefix, (f"{key}=" for key in keys))
    names = [name for name, entry in DATASETS.items() if not issubclass(entry.config, FileData | CustomData)]
    short = [f"{name}=" for name in (*GROUPS, *PRESETS, *SHORT_NAMES, *(key for key in keys if "." not in key))]
    sections = _beginning_with(prefix, dict.fromkeys(f"{key.partition('.')[0]}." for key in keys if "." in key))
    found = _beginning_with(prefix, [*short, *names])
    if not found and len(sections) == 1:
        return _beginning_with(sections[0], (f"{key}=" for key in keys))
    return [*found, *sections]


def _values(verb: str, key: str, prefix: str) -> list[str]:
    """Return the values of a key that begin with ``prefix``."""
    key = key if key in _own_keys(verb) else key_of(key)
    if key in _PATHS:
        return _files(prefix)
    if key in _own_keys(verb):
        return _beginning_with(prefix, _values_of_field(COMMANDS[verb], SELECT_ALIASES.get(key, key)))
    from dkm.config.explain import options
    from dkm.config.groups import GROUPS, PRESETS
    from dkm.config.roles import declaring_schema

    if key in GROUPS or key in PRESETS:
        return _beginning_with(prefix, options(key))
    schema = declaring_schema(key)
    values = [] if schema is None else _values_of_field(schema, key.rpartition(".")[2])
    return _beginning_with(prefix, ["auto"] if key == "clustering.n_clusters" else values)


def _values_of_field(schema: type[Any], name: str) -> list[str]:
    annotation = next((str(part.type) for part in fields(schema) if part.name == name), "")
    if annotation.startswith("bool"):
        return ["true", "false"]
    declared = setting_of(schema, name)
    return list(declared.check.choices) if declared is not None and isinstance(declared.check, Choice) else []


def _beginning_with(prefix: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


def _files(prefix: str) -> list[str]:
    """Return the files and folders whose paths begin with ``prefix``; folders end in a slash."""
    folder, start = os.path.split(prefix)
    try:
        entries = sorted(Path(folder or ".").iterdir())
    except (OSError, ValueError):
        return []
    names = (entry for entry in entries if entry.name.startswith(start) and (start or not entry.name.startswith(".")))
    return [os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "") for entry in names]  # noqa: PTH118


if __name__ == "__main__":
    main()
