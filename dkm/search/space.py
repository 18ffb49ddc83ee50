"""The search space: each setting that varies with its values, written as for a Hydra sweep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override
from hydra.errors import HydraException

from dkm.errors import UserError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of some values, as they are written on the command line."""

    values: tuple[str, ...]

    def suggest(self, trial: optuna.Trial, key: str) -> str:
        """Return the value for a trial."""
        return str(trial.suggest_categorical(key, self.values))

    def holds(self, value: object) -> str | None:
        """Return a value of the config as a value of the trial, None if it is not one of these."""
        return next((text for text in self.values if _parsed(text) == value), None)

    def samples(self) -> tuple[str, ...]:
        """Return values that a config can be checked with."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """A setting that takes any number between two."""

    low: float
    high: float
    is_log: bool
    is_int: bool

    def suggest(self, trial: optuna.Trial, key: str) -> float:
        """Return the value for a trial."""
        if self.is_int:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.is_log)
        return trial.suggest_float(key, self.low, self.high, log=self.is_log)

    def holds(self, value: object) -> float | None:
        """Return a value of the config as a value of the trial, None if it lies outside."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and self.low <= value <= self.high else None  # type: ignore[return-value, operator]

    def samples(self) -> tuple[str, ...]:
        """Return values that a config can be checked with."""
        return str(self.low), str(self.high)


def _parsed(text: str) -> object:
    """Return the value that a text on the command line stands for."""
    return OverridesParser.create().parse_override(f"key={text}").value()


Space = Mapping[str, Choices | Interval]


def n_points(space: Space) -> float:
    """Return how many points a space has, infinity where there is an interval."""
    return math.prod(len(d.values) if isinstance(d, Choices) else math.inf for d in space.values())


def points(space: Space) -> Iterator[dict[str, Any]]:
    """Yield every point of a space of choices."""
    for values in itertools.product(*(dimension.samples() for dimension in space.values())):
        yield dict(zip(space, values, strict=True))


def whole_numbers(key: str, interval: Interval) -> Interval:
    """Return the interval of the whole numbers within an interval.

    Raises
    ------
    UserError
        If there are none.
    """
    low, high = math.ceil(interval.low), math.floor(interval.high)
    if low > high:
        given = f"{key}=interval({interval.low:g},{interval.high:g})"
        raise UserError(f"{given}: expected an interval with whole numbers in it, as {key} takes only those; widen it")
    return Interval(low, high, interval.is_log, is_int=True)


def space_of(overrides: Sequence[str]) -> tuple[dict[str, Choices | Interval], list[str]]:
    """Return what varies, by its key, and the overrides that are the same for every trial."""
    space: dict[str, Choices | Interval] = {}
    fixed = []
    for word in overrides:
        try:
            override = OverridesParser.create().parse_override(word) if "=" in word else None
        except HydraException:
            override = None  # composing it says what is wrong
        if override is None or not override.is_sweep_override():
            fixed.append(word)
        elif override.key_or_group in space:
            raise UserError(f"{word}: expected each key once; leave one of them out")
        else:
            space[override.key_or_group] = _dimension(word, override)
    return space, fixed


def _dimension(word: str, override: Override) -> Choices | Interval:
    sweep: Any = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high = sweep.start, sweep.end
        assert low is not None and high is not None
        if not low < high:
            remedy = f"for example '{override.key_or_group}=interval({high},{low})'"
            raise UserError(f"{word}: expected an interval that goes up; {remedy}")
        if "log" in sweep.tags and low <= 0:
            raise UserError(f"{word}: expected a logarithmic interval above 0; raise its lower end")
        return Interval(low, high, "log" in sweep.tags, isinstance(low, int) and isinstance(high, int))
    if getattr(sweep, "shuffle", False):
        raise UserError(f"{word}: expected no shuffle, which gives another order in each call; leave shuffle() out")
    if override.is_range_sweep() or isinstance(sweep, ChoiceSweep):
        return Choices(tuple(dict.fromkeys(override.sweep_string_iterator())))
    remedy = f"for example '{override.key_or_group}=interval(0.1,10)'"
    raise UserError(f"{word}: expected choices a,b,c or range(...) or interval(...); {remedy}")
