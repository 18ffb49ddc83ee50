"""The guard of a run: whether the joint phase ended below a baseline."""

from __future__ import annotations

from collections.abc import Mapping

from dkm.evaluation.scores import Scores


def baseline_above(baselines: Mapping[str, Scores | None], modularity: float | None) -> str | None:
    """Return the baseline with the highest modularity on the data, if it is above this one; None if none is."""
    if modularity is None:
        return None
    known = {name: (scores or {}).get("modularity_data") for name, scores in baselines.items()}
    above = {name: value for name, value in known.items() if value is not None and value > modularity}
    return max(above, key=above.__getitem__, default=None)
