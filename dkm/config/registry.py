"""Common code of the registries ``METHODS``, ``MODELS`` and ``DATASETS``.

An entry names its class or function as text, which is imported on first use. The settings can therefore refer to code
without importing torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol


class Entry(Protocol):
    """An entry of a registry."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> type[Any]: ...


class Schemas(Mapping[str, type[Any]]):
    """View of a registry that maps each name to its dataclass, including entries that are added later."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> type[Any]:
        return self._entries[name].config

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def load(target: Any) -> Any:
    """Import the ``"module:attribute"`` that a registry entry names; return an object that is not text unchanged.

    The names come from this package and from plugins, which are trusted code. ``dkm.config.custom`` imports names that
    come from a config.
    """
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
