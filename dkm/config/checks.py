"""Checks of single settings; each failure is one line with key, value, expectation and remedy."""

from __future__ import annotations

import difflib
import math

from dkm.errors import UserError


def require(ok: bool, key: str, value: object, expected: str, remedy: str) -> None:
    """Raise ``UserError`` in the one form that every message about a setting has."""
    if not ok:
        raise UserError(f"{key}={format_value(value)}: expected {expected}; {remedy}")


def format_value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def require_positive(key: str, value: float, example: str) -> None:
    ok = math.isfinite(value) and value > 0
    require(ok, key, value, "a finite number above 0", f"for example {key}={example}")


def require_non_negative(key: str, value: float, example: str) -> None:
    ok = math.isfinite(value) and value >= 0
    require(ok, key, value, "a finite number, 0 or more", f"for example {key}={example}")


def require_at_least(key: str, value: int, least: int, example: int) -> None:
    require(value >= least, key, value, f"a whole number, {least} or more", f"for example {key}={example}")


def require_fraction(key: str, value: float, example: str) -> None:
    require(0 <= value < 1, key, value, "a number from 0 to below 1", f"for example {key}={example}")


def require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    near = difflib.get_close_matches(str(value), choices, n=1)
    remedy = f"did you mean {key}={near[0]}?" if near else f"choose one, for example {key}={choices[0]}"
    require(value in choices, key, value, "one of " + ", ".join(choices), remedy)
