"""Common code of the registries ``METHODS``, ``MODELS`` and ``DATASETS``.

An entry names its class or function as text, which is imported on first use. The settings can therefore refer to code
without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

C = TypeVar("C")


@dataclass(frozen=True)
class Entry(Generic[C]):
    """An entry of a registry.

    Parameters
    ----------
    name : str
    config : type
        Dataclass of its settings.
    target : callable or str
        Its class or function, or ``"module:attribute"``. The text comes from this package and from plugins, which are
        trusted code; ``dkm.config.custom`` imports names that come from a config.
    """

    name: str
    config: type[C]
    target: str | Callable[..., Any]

    def load(self) -> Any:
        """Return the class or function."""
        return load(self.target)


def load(target: str | Callable[..., Any]) -> Any:
    """Return what ``"module:attribute"`` names; anything but text is returned unchanged."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


class Schemas(Mapping[str, type[Any]]):
    """View of a registry that maps each name to its dataclass, including entries that are added later."""

    def __init__(self, entries: Mapping[str, Entry[Any]]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> type[Any]:
        return self._entries[name].config

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
