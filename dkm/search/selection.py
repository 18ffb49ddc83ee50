"""The number of clusters that scores without labels speak for."""

# Shapes: N rows of the data, D latent, K clusters.

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dkm.errors import Failure

# Kinds of agreement, and what it is between.
_AGREEMENTS = {"agreement_seeds": "seeds", "agreement_halves": "halves of the data"}


# The rule and its doubts; see `recommend`.
_SLACK = 0.01


_FEW_SEEDS, _MANY_PLAUSIBLE = 3, 3


_LOW_AGREEMENT, _LOW_MODULARITY = 0.8, 0.3


Scores = dict[str, list[float]]


class Recommendation(NamedTuple):
    """A number of clusters, with what speaks for it."""

    n_clusters: int
    # Numbers that the evidence does not tell apart from it, itself among them.
    plausible: list[int]
    reason: str
    # Why the evidence is weak; empty where it is not.
    warnings: list[str]


def recommend(scores: Mapping[int, Scores]) -> Recommendation:
    """Return the number of clusters that the scores speak for.

    Numbers whose mean modularity on the data lies within 0.01 of the highest, or within the standard deviation of the
    difference over seeds, are plausible; of these the one is taken whose clusterings agree best, the mean over seeds
    and over halves of the data. Modularity alone would split round clusters, at little cost, in ways on which no two
    runs agree; agreement alone would take two clusters of almost any data.
    """
    modularity = {k: own["modularity_data"] for k, own in scores.items()}
    known = {k: statistics.fmean(values) for k, values in modularity.items() if values}
    if not known:
        raise Failure("modularity on the data: undefined for every run; expected finite data with two rows or more")
    best = max(known, key=known.__getitem__)
    plausible = [k for k in known if _gap(modularity[best], modularity[k]) <= 0]
    agreement = _agreements(scores, plausible)
    chosen = max(plausible, key=lambda k: (agreement.get(k, 0.0), known[k]))
    reason = f"modularity on the data {known[chosen]:.3f}, the highest"
    if chosen != best:
        reason = f"modularity on the data {known[chosen]:.3f} of at most {known[best]:.3f}"
    if agreement and len(plausible) > 1:
        reason += f"; of {len(plausible)} numbers that it does not tell apart the one with the best agreement"
    if agreement:
        reason += f", {agreement[chosen]:.2f}"
    return Recommendation(chosen, plausible, reason, _doubts(scores, known, plausible, chosen))


def _gap(best: Sequence[float], other: Sequence[float]) -> float:
    """Return by how much more than noise, or than the slack, the modularity of one number exceeds that of another."""
    differences = [mine - its for mine, its in zip(best, other, strict=False)]
    noise = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return statistics.fmean(differences) - max(_SLACK, noise)


def _agreements(scores: Mapping[int, Scores], ks: Sequence[int]) -> dict[int, float]:
    """Return the mean over those kinds of agreement that all of the numbers have; empty if there are none."""
    kinds = [name for name in _AGREEMENTS if all(scores[k][name] for k in ks)]
    return {k: statistics.fmean(statistics.fmean(scores[k][name]) for name in kinds) for k in ks} if kinds else {}


def _doubts(
    scores: Mapping[int, Scores], known: Mapping[int, float], plausible: Sequence[int], chosen: int
) -> list[str]:
    """Return why the evidence is weak."""
    doubts = []
    if len(scores[chosen]["modularity_data"]) < _FEW_SEEDS:
        doubts.append(f"fewer than {_FEW_SEEDS} seeds: how much chance there is in the scores is hardly known")
    if len(plausible) > _MANY_PLAUSIBLE:
        doubts.append(f"{len(plausible)} numbers are as plausible: the data may have no natural one")
    for name, between in _AGREEMENTS.items():
        own = scores[chosen][name]
        if not own and (name != "agreement_seeds" or len(scores[chosen]["modularity_data"]) > 1):
            doubts.append(f"how far clusterings agree between {between} is not known")
        elif own and statistics.fmean(own) < _LOW_AGREEMENT:
            doubts.append(
                f"clusterings with {chosen} clusters agree between {between} only to {statistics.fmean(own):.2f}"
            )
    if known[chosen] < _LOW_MODULARITY:
        doubts.append(f"a modularity of {known[chosen]:.2f} says that the data hardly fall into clusters")
    if len(scores) == 1:
        doubts.append("there is no other number to compare with")
    else:
        # No number is below 2.
        ends = [k for k in (min(scores), max(scores)) if k > 2]
        highest = max(known, key=known.__getitem__)
        doubts += [f"{k} is at the end of the range: try more numbers" for k in ends if k == chosen]
        if highest != chosen and highest in ends:
            doubts.append(f"the modularity is highest with {highest}, the end of the range: try more numbers")
    return doubts
