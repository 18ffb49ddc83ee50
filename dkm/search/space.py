"""The search space: the settings to vary and their values, in the syntax of a Hydra sweep."""

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
    """A setting with a finite set of values, written as on the command line."""

    values: tuple[str, ...]

    def suggest(self, trial: optuna.Trial, key: str) -> str:
        """Return the value that the trial suggests."""
        return str(trial.suggest_categorical(key, self.values))

    def holds(self, value: object) -> str | None:
        """Convert a value of the config to a value of a trial; None if it is not one of the choices."""
        return next((text for text in self.values if _parse(text) == value), None)

    def samples(self) -> tuple[str, ...]:
        """Return example values, with which a config can be checked."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """A setting with any value between two numbers."""

    low: float
    high: float
    is_log: bool
    is_int: bool

    def suggest(self, trial: optuna.Trial, key: str) -> float:
        """Return the value that the trial suggests."""
        if self.is_int:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.is_log)
        return trial.suggest_float(key, self.low, self.high, log=self.is_log)

    def holds(self, value: object) -> float | None:
        """Convert a value of the config to a value of a trial; None if it is outside the interval."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and self.low <= value <= self.high else None  # type: ignore[return-value, operator]

    def samples(self) -> tuple[str, ...]:
        """Return example values, with which a config can be checked."""
        return str(self.low), str(self.high)


def _parse(text: str) -> object:
    """Return the value of a text on the command line."""
    return OverridesParser.create().parse_override(f"key={text}").value()


Space = Mapping[str, Choices | Interval]


def n_points(space: Space) -> float:
    """Return the number of points of a space, infinity if it has an interval."""
    return math.prod(len(d.values) if isinstance(d, Choices) else math.inf for d in space.values())


def points(space: Space) -> Iterator[dict[str, Any]]:
    """Yield all points of a space that has only choices."""
    for values in itertools.product(*(dimension.samples() for dimension in space.values())):
        yield dict(zip(space, values, strict=True))


def whole_numbers(key: str, interval: Interval) -> Interval:
    """Restrict an interval to its whole numbers.

    Raises
    ------
    UserError
        If it contains none.
    """
    low, high = math.ceil(interval.low), math.floor(interval.high)
    if low > high:
        given = f"{key}=interval({interval.low:g},{interval.high:g})"
        raise UserError(f"{given}: expected an interval with whole numbers in it, as {key} takes only those; widen it")
    return Interval(low, high, interval.is_log, is_int=True)


def space_of(overrides: Sequence[str]) -> tuple[dict[str, Choices | Interval], list[str]]:
    """Split overrides into the search space and the overrides that are the same for every trial."""
    space: dict[str, Choices | Interval] = {}
    fixed = []
    for word in overrides:
        try:
            override = OverridesParser.create().parse_override(word) if "=" in word else None
        except HydraException:
            override = None  # composing the config reports the error
        if override is None or not override.is_sweep_override():
            fixed.append(word)
        elif override.key_or_group in space:
            raise UserError(f"{word}: expected each key once; leave one of them out")
        else:
            space[override.key_or_group] = _parse_dimension(word, override)
    return space, fixed


def _parse_dimension(word: str, override: Override) -> Choices | Interval:
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
