"""What ``METHODS``, ``MODELS`` and ``DATASETS`` share: code that is named as text and imported when it is used.

So the settings know which class or function belongs to them without importing torch.
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
    """The dataclass of each entry of a registry, by name; entries that are added later are seen."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> type[Any]:
        return self._entries[name].config

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def load(target: Any) -> Any:
    """Return what a registry entry names as ``"module:attribute"``; anything else than text is returned as it is.

    Only names in our code and in plugins come here, which are code themselves. See ``dkm.config.custom`` for names in
    a config.
    """
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
