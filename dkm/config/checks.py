"""Checks of single settings; each failure is one line with key, value, expectation and remedy.

A check is declared with the setting that it belongs to (see ``dkm.config.settings``). It validates a value, and it
describes itself for messages, ``--help`` and ``docs/settings.md``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dkm.errors import UserError


def require(ok: bool, key: str, value: object, expected: str, remedy: str) -> None:
    """Raise ``UserError`` in the one form that every message about a setting has."""
    if not ok:
        raise UserError(f"{key}={format_value(value)}: expected {expected}; {remedy}")


def format_value(value: object) -> str:
    """Return a value in the spelling of the command line, except that lists keep their spaces."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


class Check(Protocol):
    """What a value of a setting must satisfy."""

    @property
    def expected(self) -> str:
        """What is expected, as it is said after the word "expected"."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is in range."""


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
class Between:
    """A number in a closed interval; ``kind`` says in words what it counts."""

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
class Satisfies:
    """Whatever a predicate accepts."""

    expected: str
    accepts: Callable[[Any], bool]


def apply_check(check: Check, key: str, value: object, example: object) -> None:
    """Raise ``UserError`` if the check does not accept the value; ``example`` is a value that it accepts."""
    if check.accepts(value):
        return
    remedy = f"for example {key}={_spelled(example)}"
    if isinstance(check, Choice):
        near = difflib.get_close_matches(str(value), check.choices, n=1)
        remedy = f"did you mean {key}={near[0]}?" if near else f"choose one, for example {key}={check.choices[0]}"
    require(False, key, value, check.expected, remedy)


def _spelled(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    return format_value(value)
