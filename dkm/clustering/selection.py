"""The number of clusters that scores without labels recommend, and what makes the answer doubtful.

Pure functions of the scores: `recommend` for those of trained runs (``dkm.search.selection_runs``), `recommend_stable`
for those of embeddings of the rows (``dkm.clustering.numbers``).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dkm.clustering.graph import LOW_MODULARITY
from dkm.errors import Failure

# Kinds of agreement, and what it is between.
_AGREEMENTS = {"agreement_seeds": "seeds", "agreement_halves": "halves of the data"}

# Differences in modularity below this count as none; see `recommend`.
_SLACK = 0.01
# Thresholds of the warnings.
_FEW_SEEDS, _MANY_PLAUSIBLE = 3, 3
_LOW_AGREEMENT = 0.8
# Of `recommend_stable`: the agreement of a number that is stable, and the fraction of the highest Calinski-Harabasz
# score that suffices.
_STABLE, _FRACTION = 0.97, 0.6
# What makes another number plausible: its agreement, and by how much its modularity may be lower.
_PLAUSIBLE, _LOWER = 0.95, 0.05

# Each score by its name, and its values by the seed, or the two seeds, that it is of. A seed may lack a score.
Scores = dict[str, dict[tuple[int, ...], float]]


class Recommendation(NamedTuple):
    """A number of clusters and the evidence for it."""

    n_clusters: int
    # Numbers that the evidence does not distinguish from it, itself included.
    plausible: list[int]
    reason: str
    # Why the evidence is weak; empty where it is not.
    warnings: list[str]


def recommend(scores: Mapping[int, Scores], *, more: str = "try more numbers") -> Recommendation:
    """Return the number of clusters that the scores recommend.

    Numbers whose mean modularity on the data lies within 0.01 of the highest, or within the standard deviation of the
    difference over seeds, are plausible; of these the one is taken whose clusterings agree best, the mean over seeds
    and over halves of the data. Modularity alone would split round clusters, at little cost, in ways on which no two
    runs agree; agreement alone would take two clusters of almost any data.

    Parameters
    ----------
    scores : mapping
        The scores of each number of clusters.
    more : str
        The remedy in warnings about a number at the end of the range.

    Raises
    ------
    Failure
        If no run has a modularity.
    """
    modularity = {k: scores_of_k["modularity_data"] for k, scores_of_k in scores.items()}
    means = {k: statistics.fmean(values.values()) for k, values in modularity.items() if values}
    if not means:
        raise Failure("modularity on the data: undefined for every run; expected finite data with two rows or more")
    best = max(means, key=means.__getitem__)
    plausible = [k for k in means if _excess(modularity[best], modularity[k]) <= 0]
    agreement = _mean_agreements(scores, plausible)
    chosen = max(plausible, key=lambda k: (agreement.get(k, 0.0), means[k]))
    return Recommendation(
        n_clusters=chosen,
        plausible=plausible,
        reason=_reason(means, plausible, agreement, chosen),
        warnings=list(_warnings(scores, means, plausible, chosen, more)),
    )


def recommend_stable(scores: Mapping[int, Scores], *, more: str = "try more numbers") -> Recommendation:
    """Return a number of clusters whose clusterings agree, for scores of clusterings without training.

    A number is stable if its clusterings agree to 0.97, the mean over seeds and over halves of the data: a clustering
    with too many clusters cuts through groups of points, in another place each time. One with too few agrees as well,
    so the number must be nearly as good as the best stable ones: its modularity within 0.01 of the highest, and its
    Calinski-Harabasz score 0.6 of the highest or more. The smallest such number is taken; if there is none, the largest
    stable one. Plausible are the other numbers that agree to 0.95 and whose modularity is at most 0.05 lower. If no
    number is stable, it is the answer of `recommend`.

    Parameters
    ----------
    scores : mapping
        The scores of each number of clusters, with both kinds of agreement.
    more : str
        The remedy in warnings about a number at the end of the range.

    References
    ----------
    Tibshirani, Walther: Cluster validation by prediction strength (Journal of Computational and Graphical Statistics
    14(3), 2005), which takes the largest number whose clusters in one half predict those in the other.
    """
    agreement = _mean_agreements(scores, list(scores))
    means = {k: statistics.fmean(of_k["modularity_data"].values()) for k, of_k in scores.items()}
    stable = [k for k, value in agreement.items() if value >= _STABLE]
    if not stable:
        found = recommend(scores, more=more)
        none = f"no number has clusterings that agree to {_STABLE}; it is chosen by the modularity"
        return found._replace(warnings=[none, *found.warnings])
    ratio = {k: statistics.fmean(scores[k]["calinski_harabasz"].values()) for k in stable}
    least, least_ratio = max(means[k] for k in stable) - _SLACK, _FRACTION * max(ratio.values())
    good = [k for k in stable if means[k] >= least and ratio[k] >= least_ratio]
    chosen = min(good) if good else max(stable)
    rank = "is hardly lower than that of larger numbers whose clusterings agree"
    if not good:
        rank = "and its Calinski-Harabasz score are not nearly the best of such numbers: it is the largest of them"
    lowest = means[chosen] - _LOWER
    plausible = [k for k in scores if k == chosen or (agreement[k] >= _PLAUSIBLE and means[k] >= lowest)]
    return Recommendation(
        n_clusters=chosen,
        plausible=plausible,
        reason=f"its clusterings agree to {agreement[chosen]:.3f} between seeds and halves, and its modularity on the "
        f"data, {means[chosen]:.3f}, {rank}",
        warnings=list(_warnings_of_stable(means, plausible, chosen, more)),
    )


def _warnings_of_stable(means: Mapping[int, float], plausible: Sequence[int], chosen: int, more: str) -> Iterator[str]:
    highest = max(means, key=means.__getitem__)
    if len(plausible) > _MANY_PLAUSIBLE:
        yield f"{len(plausible)} numbers are plausible: the data may have groups within groups"
    if means[highest] > means[chosen] + _LOWER:
        yield (
            f"the modularity is higher with {highest} clusters, {means[highest]:.3f} for {means[chosen]:.3f}: "
            + ("the clusters may have parts" if highest > chosen else "some of the clusters may belong together")
        )
    if means[chosen] < LOW_MODULARITY:
        yield f"the modularity is only {means[chosen]:.2f}: the data hardly fall into clusters"
    yield from _warnings_about_the_range(list(means), means, chosen, more)


def _excess(best: Mapping[tuple[int, ...], float], other: Mapping[tuple[int, ...], float]) -> float:
    """Return by how much the modularity of one number exceeds that of another beyond noise and slack.

    Differences are taken within seeds, of those seeds that both numbers have.
    """
    differences = [best[seed] - other[seed] for seed in best if seed in other]
    if not differences:
        return statistics.fmean(best.values()) - statistics.fmean(other.values()) - _SLACK
    noise = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return statistics.fmean(differences) - max(_SLACK, noise)


def _mean_agreements(scores: Mapping[int, Scores], ks: Sequence[int]) -> dict[int, float]:
    """Return the mean over those kinds of agreement that all of the numbers have; empty if there are none."""
    kinds = [name for name in _AGREEMENTS if all(scores[k][name] for k in ks)]
    if not kinds:
        return {}
    return {k: statistics.fmean(statistics.fmean(scores[k][name].values()) for name in kinds) for k in ks}


def _reason(means: Mapping[int, float], plausible: Sequence[int], agreement: Mapping[int, float], chosen: int) -> str:
    highest = max(means.values())
    rank = "the highest" if means[chosen] == highest else f"close to the highest, {highest:.3f}"
    reason = f"its modularity on the data, {means[chosen]:.3f}, is {rank}"
    if not agreement:
        return reason
    if len(plausible) == 1:
        return f"{reason}; the agreement of its clusterings is {agreement[chosen]:.2f}"
    rank = f"of {len(plausible)} plausible numbers its clusterings have the highest agreement"
    return f"{reason}; {rank}, {agreement[chosen]:.2f}"


def _warnings(
    scores: Mapping[int, Scores], means: Mapping[int, float], plausible: Sequence[int], chosen: int, more: str
) -> Iterator[str]:
    """Yield why the evidence is weak."""
    n_seeds = len(scores[chosen]["modularity_data"])
    if n_seeds < _FEW_SEEDS:
        yield f"fewer than {_FEW_SEEDS} seeds: the noise in the scores is hardly known"
    if len(plausible) > _MANY_PLAUSIBLE:
        yield f"{len(plausible)} numbers are equally plausible: the data may have no natural number of clusters"
    for name, between in _AGREEMENTS.items():
        values = scores[chosen][name].values()
        if not values and (name != "agreement_seeds" or n_seeds > 1):
            yield f"the agreement between {between} is not known"
        elif values and statistics.fmean(values) < _LOW_AGREEMENT:
            mean = statistics.fmean(values)
            yield f"clusterings with {chosen} clusters agree only to {mean:.2f} between {between}"
    if means[chosen] < LOW_MODULARITY:
        yield f"the modularity is only {means[chosen]:.2f}: the data hardly fall into clusters"
    yield from _warnings_about_the_range(list(scores), means, chosen, more)


def _warnings_about_the_range(ks: Sequence[int], means: Mapping[int, float], chosen: int, more: str) -> Iterator[str]:
    if len(ks) == 1:
        yield "there is no other number to compare with"
        return
    ends = {min(ks), max(ks)} - {2}  # no number is below 2
    highest = max(means, key=means.__getitem__)
    if chosen in ends:
        yield f"{chosen} is at the end of the range: {more}"
    if highest != chosen and highest in ends:
        yield f"the modularity is highest with {highest}, the end of the range: {more}"
