"""The scaling that suits data of no declared kind: that of counts, of features on one scale, of embeddings, or another.

Every choice looks at the values alone, and is told in the report with its reason.
"""

# Shapes: N samples, F features.

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from dkm.data.bounds import FeatureRanges
from dkm.data.counts import Counts
from dkm.data.embeddings import Embeddings
from dkm.data.report import DataReport
from dkm.data.scaling import Array, Scaling


def fit_default_scaling(
    chunks: Iterator[Array], read_again: Callable[[], Iterator[Array]], default: str, report: DataReport
) -> Scaling:
    """Fit the scaling that suits the values, and say in ``report`` why it is not ``default``.

    Parameters
    ----------
    chunks : iterator of arrays of finite numbers, shape (n, F)
        All rows in order, at least one.
    read_again : callable
        Returns the same chunks once more; a scaling that is not ``default`` is fitted on them.
    default : {"standard", "row_rms"}
        The scaling of values without a kind.
    report : DataReport
    """
    first = next(chunks)
    counts = Counts() if Counts.may_be(first) else None
    embeddings = Embeddings() if default == "standard" and Embeddings.may_be(first) else None
    bounds = FeatureRanges() if default == "standard" else None
    seen = [kind for kind in (counts, embeddings, bounds) if kind is not None]

    def observed() -> Iterator[Array]:
        for chunk in itertools.chain([first], chunks):
            for kind in seen:
                kind.add(chunk)
            yield chunk

    rows = observed()
    scaling = Scaling.fit(rows, default)
    for _ in rows:  # what the scaling did not need
        pass
    if counts is not None and (evidence := counts.evidence()) is not None:
        how = f"rows to the sum {counts.total:g}, log(1 + x), centered"
        _tell(report, "counts", how, "the values are counts", f"counts: {evidence}", default)
        return Scaling.fit(read_again(), "counts", total=counts.total)
    if embeddings is not None and (evidence := embeddings.evidence()) is not None:
        _tell(report, "row_rms", "each row to the same length", "the rows are embeddings", evidence, default)
        return Scaling.fit(read_again(), "row_rms")
    if bounds is not None and (evidence := bounds.evidence()) is not None:
        how = "each feature to mean 0, all values divided by one number"
        _tell(report, "centered", how, "the features are on one scale", evidence, default)
        return Scaling.fit(read_again(), "centered")
    return scaling


def _tell(report: DataReport, kind: str, how: str, why: str, evidence: str, default: str) -> None:
    report.decisions["values"] = evidence
    report.scaling = f"{kind} ({how}) because {why}; else {default}"
