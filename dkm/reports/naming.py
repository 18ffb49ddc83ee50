"""Names of clusters, made from what sets them apart, and how they differ from all other rows."""

# Shapes: N rows, K clusters, F features.

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkm.errors import in_short
from dkm.evaluation.assignments import without_mark
from dkm.reports.features import Feature, features_of

FloatArray = npt.NDArray[np.floating[Any]]

# A difference of so many standard deviations is worth a word; at least the largest one is named above the second.
_WORTH_A_WORD, _LEAST = 0.8, 0.3
# Two features whose differences are so alike over the clusters say the same.
_ALIKE = 0.9
_N_WORDS_OF_TEXT, _N_PARTS = 3, 2
# Shares of rows from which a level or a yes is what nearly all have, or none.
_NEARLY_ALL, _HARDLY_ANY = 0.75, 0.05
# A word of a cluster is so many times as frequent in it as elsewhere; more often if this share of the texts has it.
_MORE, _CLEARLY_MORE, _COMMON = 1.5, 3.0, 0.3


@dataclass(frozen=True)
class Differences:
    """How the rows of each cluster differ from all other rows, in the units of the data.

    Attributes
    ----------
    features : sequence of Feature, F
    difference : float array, shape (K, F)
        Standardized mean difference (Cohen's d); nan where it is not known.
    mean, mean_of_others : float array, shape (K, F)
    is_share : bool array, shape (F,)
        Whether the feature is 0 or 1 in each row, so that its mean is a share of the rows.
    are_terms : bool
        Whether the features are terms of texts, and their values weights that mean little to a reader.
    has_means : bool
        Whether the means are in the units of the data: not if the scaling has normalized the length of each row.
    """

    features: Sequence[Feature]
    difference: FloatArray
    mean: FloatArray
    mean_of_others: FloatArray
    is_share: npt.NDArray[np.bool_]
    are_terms: bool = False
    has_means: bool = True

    @property
    def names(self) -> list[str]:
        """The names of the features, F."""
        return [feature.name for feature in self.features]

    def largest(self, cluster: int, n: int) -> list[int]:
        """Return the features with the largest known differences of a cluster; of terms only the more frequent ones.

        The sine and cosine of a time are left out: alone they mean nothing to a reader.
        """
        row, is_cycle = self.difference[cluster], [feature.kind == "cycle" for feature in self.features]
        sizes = np.where(np.isnan(row) | is_cycle, -1.0, row if self.are_terms else np.abs(row))
        return [int(f) for f in np.argsort(-sizes, kind="stable")[:n] if sizes[f] > 0]


def read_differences(
    path: Path,
    n_clusters: int,
    *,
    are_terms: bool,
    has_means: bool = True,
    plan: Mapping[str, Any] | None = None,
    is_safe: bool = False,
) -> Differences | None:
    """Return what ``features.csv`` has: the largest differences of each cluster; None without such a file.

    ``plan`` is that of a table, by which the features are what they are with the data at hand. ``is_safe`` tells that
    texts are marked which a spreadsheet would execute.

    Raises
    ------
    ValueError
        If the file is not what a run writes.
    """
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if is_safe:
            rows = [row | {"feature": without_mark(row["feature"])} for row in rows]
        names = list(dict.fromkeys(row["feature"] for row in rows))
        number = {name: n for n, name in enumerate(names)}
        values = np.full((3, n_clusters, len(names)), np.nan)
        for row in rows:
            cells = [float(row[key]) for key in ("difference", "mean", "mean_of_others")]
            values[:, int(row["cluster"]), number[row["feature"]]] = cells
    except (OSError, csv.Error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: not what a run writes ({in_short(error)})") from error
    difference, mean, mean_of_others = values
    features = features_of(names, plan)
    return Differences(features, difference, mean, mean_of_others, are_shares(features), are_terms, has_means)


def are_shares(features: Sequence[Feature]) -> npt.NDArray[np.bool_]:
    """Return which features (F,) are 0 or 1 in each row by the plan of their table."""
    return np.array([feature.kind in ("level", "boolean") for feature in features], bool)


def name_clusters(differences: Differences) -> list[str]:
    """Return a name for each cluster, empty where nothing sets it apart."""
    return [_name(differences, cluster) for cluster in range(len(differences.difference))]


def _name(differences: Differences, cluster: int) -> str:
    if differences.are_terms:
        return ", ".join(differences.names[f] for f in differences.largest(cluster, _N_WORDS_OF_TEXT))
    chosen: list[int] = []
    row = np.abs(differences.difference[cluster])
    for f in differences.largest(cluster, len(row)):
        if row[f] < (_WORTH_A_WORD if chosen else _LEAST) or len(chosen) == _N_PARTS:
            break
        if not any(_are_alike(differences, f, other) for other in chosen):
            chosen.append(f)
    return ", ".join(_in_words(differences, cluster, f) for f in chosen)


def _are_alike(differences: Differences, one: int, other: int) -> bool:
    """Return whether two features differ in the same way in all clusters, or are levels of one category."""
    parts = [differences.features[f] for f in (one, other)]
    if all(part.kind == "level" for part in parts) and parts[0].column == parts[1].column:
        return True
    pair = differences.difference[:, [one, other]]
    pair = np.clip(pair[np.isfinite(pair).all(axis=1)], -10, 10)
    if len(pair) < 3:
        return False
    norms = np.linalg.norm(pair, axis=0)
    return bool(norms.all() and abs(pair[:, 0] @ pair[:, 1]) / norms.prod() > _ALIKE)


def _in_words(differences: Differences, cluster: int, feature: int) -> str:
    name, kind, column, level, _ = differences.features[feature]
    is_more, is_level = differences.difference[cluster, feature] > 0, kind == "level"
    if kind == "days":
        return f"{column} {'late' if is_more else 'early'}"
    if not differences.is_share[feature]:
        return f"{name} {'high' if is_more else 'low'}"
    share = differences.mean[cluster, feature] if differences.has_means else np.nan
    if is_more and share >= _NEARLY_ALL:
        return f"{column}: {level}" if is_level else f"{name}: yes"
    if not is_more and share <= _HARDLY_ANY:
        return f"{column} not {level}" if is_level else f"{name}: no"
    return f"{f'{column} {level}' if is_level else name} {'often' if is_more else 'seldom'}"


def top_words(texts: Sequence[str], labels: npt.NDArray[np.int64], n_clusters: int) -> Differences | None:
    """Return the words that are frequent in the texts of each cluster and rare in the others.

    For texts whose features are the dimensions of an embedding, which have no names. The difference of a word is its
    share of the cluster's words, times the logarithm of one plus its inverse share of all words (class-based TF-IDF,
    arXiv:2203.05794). It is nan, so that the word is not shown, where the share is not clearly larger than among all
    other words: so are the stop words of any language, of which only the English ones are known.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    try:
        counter = CountVectorizer(stop_words="english", max_features=5000, token_pattern=r"(?u)\b[^\W\d]{3,}\b")
        counts = counter.fit_transform(texts)
    except ValueError:  # no words at all
        return None
    from scipy.sparse import csr_array

    n = len(texts)
    member = csr_array((np.ones(n), (labels, np.arange(n))), shape=(n_clusters, n))
    of_cluster = np.asarray((member @ counts).todense(), np.float64)  # (K, F)
    share = of_cluster / np.maximum(of_cluster.sum(axis=1, keepdims=True), 1)
    average = of_cluster.sum() / max(1, n_clusters)
    score = share * np.log1p(average / np.maximum(of_cluster.sum(axis=0), 1))
    of_others = of_cluster.sum(axis=0) - of_cluster
    share_of_others = of_others / np.maximum(of_others.sum(axis=1, keepdims=True), 1)
    is_common = np.asarray((counts > 0).mean(axis=0)).ravel() > _COMMON
    score[share < np.where(is_common, _CLEARLY_MORE, _MORE) * share_of_others] = np.nan
    names = counter.get_feature_names_out().tolist()
    empty = np.full(score.shape, np.nan)
    terms = [Feature(name) for name in names]
    return Differences(terms, score, empty, empty, np.zeros(len(names), bool), are_terms=True)
