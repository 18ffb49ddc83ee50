"""Find the number of clusters of a run before it trains: ``clustering.n_clusters=auto`` and ``auto:A-B``.

The rows are embedded by their nearest neighbors, with three seeds, and clustered with each number in the range. The
number does not depend on the recipe, and labels have no part in it. ``dkm.select`` compares trained runs instead.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dkm.clustering.neighborhood import Neighborhood
from dkm.clustering.numbers import score_numbers
from dkm.clustering.selection import Recommendation, Scores, recommend_stable
from dkm.config.run import Config, with_number
from dkm.config.values import auto_bounds
from dkm.data.datasets import Dataset
from dkm.data.sampling import sample_dataset
from dkm.errors import UserError

log = logging.getLogger(__name__)

# The most rows that are looked at, dimensions of their embedding, and seeds: that of the run and the next ones.
_N_ROWS, _LATENT_DIM, _N_SEEDS = 10_000, 10, 3


class Choice(NamedTuple):
    """A number of clusters, and how it was found."""

    # ``clustering.n_clusters`` as it was given: "auto" or "auto:A-B".
    asked: str
    recommendation: Recommendation
    # The scores of each number that was compared.
    scores: Mapping[int, Scores]
    n_rows: int
    # That of the rows with the seed of the run, which may need it too.
    neighborhood: Neighborhood

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest and the result hold of it: builtins only, and the mean of each score.

        A mean that is not finite is None, as JSON has no infinity: clusters without spread have an infinite
        Calinski-Harabasz score.
        """
        numbers = list(self.scores)
        return {
            "asked": self.asked,
            "range": [numbers[0], numbers[-1]],
            "n_rows": self.n_rows,
            **self.recommendation._asdict(),
            "scores": {
                str(k): {name: _finite_mean(values.values()) for name, values in of_k.items() if values}
                for k, of_k in self.scores.items()
            },
        }


def _finite_mean(values: Iterable[float]) -> float | None:
    mean = statistics.fmean(values)
    return mean if math.isfinite(mean) else None


class _Task(NamedTuple):
    """The numbers to compare and the rows to look at."""

    asked: str
    # Whether the range was made smaller, because the rows are few.
    is_clipped: bool
    numbers: range
    n_rows: int
    # The positions of the rows; None for all rows.
    sample: Tensor | None


def with_largest_number(config: Config, data: Dataset) -> Config:
    """Return the config with the largest number that a search may find, to check it; a config with a number stays.

    Raises
    ------
    UserError
        If there are fewer rows than two for each of the fewest clusters.
    """
    task = _task(config, data)
    return config if task is None else with_number(config, task.numbers[-1])


def find_number(config: Config, data: Dataset) -> Choice | None:
    """Find the number of clusters that ``clustering.n_clusters`` asks for; None if it asks for none.

    What is done and its result are logged, but not the warnings of the recommendation.

    Raises
    ------
    UserError
        If there are fewer rows than two for each of the fewest clusters.
    """
    task = _task(config, data)
    if task is None:
        return None
    start_s = time.perf_counter()
    numbers, low, high = task.numbers, task.numbers[0], task.numbers[-1]
    rows = f"{task.n_rows} of {data.n_samples} rows" if task.n_rows < data.n_samples else f"{task.n_rows} rows"
    log.info("number of clusters: comparing %d to %d on %d embeddings of %s", low, high, _N_SEEDS, rows)
    if task.is_clipped:
        log.info("clustering.n_clusters=%s: no more than %d, half of these rows, are compared", task.asked, high)
    first = Neighborhood(lambda index: _take(data, index), task.sample, _LATENT_DIM, config.seed)
    neighborhoods = [first, *(first.with_seed(config.seed + offset) for offset in range(1, _N_SEEDS))]
    scores = score_numbers(neighborhoods, numbers)
    found = recommend_stable(scores, more=_wider_range(numbers, task.n_rows))
    choice = Choice(task.asked, found, scores, task.n_rows, first)
    log.info("number of clusters: %s (%.1f s)", _in_words(choice.to_dict()), time.perf_counter() - start_s)
    return choice


def choice_lines(choice: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a closing table says of a choice, as ``Choice.to_dict`` returns it: the number and its doubts."""
    yield f"number of clusters: {_in_words(choice)}"
    for warning in choice["warnings"]:
        yield f"  doubtful: {warning}"


def _in_words(choice: Mapping[str, Any]) -> str:
    number, (low, high) = choice["n_clusters"], choice["range"]
    others = ", ".join(str(k) for k in choice["plausible"] if k != number)
    also = f"as plausible: {others}" if others else "no other number is as plausible"
    return f"{number} of {low} to {high}; {also}; {choice['reason']}"


def _task(config: Config, data: Dataset) -> _Task | None:
    asked = config.clustering.n_clusters
    bounds = auto_bounds(asked)
    if bounds is None:
        return None
    sample = sample_dataset(data, _N_ROWS, at_least=2 * bounds.low)
    n_rows = data.n_samples if sample is None else len(sample)
    high = min(bounds.high, n_rows // 2)
    if high < bounds.low:
        smaller = f"auto:2-{high}" if high > 2 else min(2, n_rows)
        raise UserError(
            f"clustering.n_clusters={asked}: expected at least {2 * bounds.low} rows, two for each cluster, got "
            f"{n_rows}; load more data, or choose clustering.n_clusters={smaller}"
        )
    return _Task(str(asked), high < bounds.high, range(bounds.low, high + 1), n_rows, sample)


def _wider_range(numbers: range, n_rows: int) -> str:
    """Return the remedy for a number at the end of the range."""
    low, high = max(2, numbers[0] // 2), min(2 * numbers[-1], n_rows // 2)
    if (low, high) == (numbers[0], numbers[-1]):
        return "more clusters need more rows"
    return f"try a wider one, clustering.n_clusters=auto:{low}-{high}"


def _take(data: Dataset, index: Tensor | None) -> Tensor:
    """Return the rows (M, F) at the positions (M,), or all rows for None."""
    X = data.X
    if isinstance(X, torch.Tensor):
        return X if index is None else X[index]
    return X.read(0, data.n_samples) if index is None else X.take(index)
