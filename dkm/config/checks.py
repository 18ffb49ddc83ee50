"""Checks of single settings; each failure is one line with key, value, expectation and remedy.

Each setting declares its check (see ``dkm.config.settings``). A check validates a value and describes the valid range
for messages, ``--help`` and ``docs/settings.md``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dkm.config.values import auto_bounds
from dkm.errors import UserError


def require(ok: bool, key: str, value: object, expected: str, remedy: str) -> None:
    """Raise ``UserError`` unless ``ok``, in the format that all messages about settings share."""
    if not ok:
        raise UserError(f"{key}={format_value(value)}: expected {expected}; {remedy}")


def format_value(value: object) -> str:
    """Format a value as on the command line, except that lists keep their spaces."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    return str(value)


class Check(Protocol):
    """A condition on the value of a setting."""

    @property
    def expected(self) -> str:
        """Description of valid values, which follows the word "expected" in messages."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is valid."""


@dataclass(frozen=True)
class AtLeast:
    """A whole number with a lower bound."""

    least: int

    @property
    def expected(self) -> str:
        return f"a whole number, {self.least} or more"

    def accepts(self, value: Any) -> bool:
        return bool(value >= self.least)


@dataclass(frozen=True)
class ClusterCount:
    """A number of clusters, or the range in which it is found."""

    expected: str = "a whole number, 1 or more, auto, or auto:A-B with 2 <= A < B"

    def accepts(self, value: Any) -> bool:
        if isinstance(value, int) and not isinstance(value, bool):
            return value >= 1
        return auto_bounds(value) is not None


@dataclass(frozen=True)
class Between:
    """A number in a closed interval; ``kind`` describes the number in messages."""

    low: int
    high: int
    kind: str = "a number"

    @property
    def expected(self) -> str:
        return f"{self.kind} from {self.low} to {self.high}"

    def accepts(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)


@dataclass(frozen=True)
class Positive:
    """A finite number above 0."""

    expected: str = "a finite number above 0"

    def accepts(self, value: Any) -> bool:
        return math.isfinite(value) and value > 0


@dataclass(frozen=True)
class NonNegative:
    """A finite number, 0 or more."""

    expected: str = "a finite number, 0 or more"

    def accepts(self, value: Any) -> bool:
        return math.isfinite(value) and value >= 0


@dataclass(frozen=True)
class Fraction:
    """A number from 0 to below 1."""

    expected: str = "a number from 0 to below 1"

    def accepts(self, value: Any) -> bool:
        return bool(0 <= value < 1)


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    choices: tuple[str, ...]

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(self.choices)

    def accepts(self, value: Any) -> bool:
        return value in self.choices


@dataclass(frozen=True)
class EachOf:
    """A list of words; plugins may add to the mapping whose keys they are."""

    choices: Mapping[str, object]

    @property
    def expected(self) -> str:
        return "a list of " + ", ".join(self.choices)

    def accepts(self, value: Any) -> bool:
        return all(name in self.choices for name in value)


@dataclass(frozen=True)
class Satisfies:
    """A value that a predicate accepts; ``choices`` are words among them, to suggest the nearest."""

    expected: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def _is_device(name: Any) -> bool:
    kind, _, number = str(name).partition(":")
    return name in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and number.isdecimal())


# `find_device` explains why mps is refused.
DEVICE = Satisfies("one of auto, cpu, cuda, cuda:N", _is_device, choices=("auto", "cpu", "cuda"))


def apply_check(check: Check, key: str, value: object, example: object, *, is_nullable: bool = False) -> None:
    """Raise ``UserError`` if the check does not accept the value; ``example`` is a value that it accepts."""
    if check.accepts(value):
        return
    if value == "None" and is_nullable:
        also = f", or {key}=none" if check.accepts("none") else ""
        require(False, key, value, f"{check.expected}, or null", f"write {key}=null{also}")
    remedy = f"for example {key}={_format_override_value(example)}"
    if isinstance(check, Choice):
        near = difflib.get_close_matches(str(value), check.choices, n=1)
        remedy = f"did you mean {key}={near[0]}?" if near else f"choose one, for example {key}={check.choices[0]}"
    elif isinstance(check, Satisfies) and (near := difflib.get_close_matches(str(value), check.choices, 1, 0.7)):
        remedy = f"did you mean {key}={near[0]}?"
    if isinstance(check, EachOf) and isinstance(value, list):
        wrong = next(str(name) for name in value if name not in check.choices)
        near = difflib.get_close_matches(wrong, check.choices, n=1)
        remedy = f"did you mean {near[0]} for {wrong}?" if near else f"leave {wrong} out"
    require(False, key, value, check.expected, remedy)


def _format_override_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_format_override_value, value))}]"
    return format_value(value)
