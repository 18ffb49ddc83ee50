"""What the report of a run is made of: its result, its assignments, and its data where they are at hand."""

# Shapes: N rows, M rows at some positions, F features, D latent, K clusters.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dkm.clustering.labels import contingency
from dkm.data.datasets import Dataset
from dkm.data.files import natural_key
from dkm.evaluation.assignments import Assignments
from dkm.evaluation.exemplars import Contrast, Exemplars, find_exemplars
from dkm.reports.features import features_of
from dkm.reports.naming import Differences, are_shares, name_clusters, top_words

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

# Texts whose features have no names are read for the words of their clusters, at most so many.
_MAX_TEXTS = 20_000


@dataclass(frozen=True, eq=False)
class Rows:
    """The data of a run, and its embedding."""

    data: Dataset
    take: Callable[[IntArray], Float32Array]  # scaled rows (M, F) at positions (M,)
    embed: Callable[[IntArray], Float32Array]  # their embedding (M, D)
    contrast: Contrast | None  # of scaled rows; None for images and for a single cluster
    # Pictures (M, 3, H, W) in [0, 1] of images whose features are the data; None for other data.
    pictures: Callable[[IntArray], Float32Array | None] | None = None


class Majority(NamedTuple):
    """The most frequent label in a cluster, and its share of the rows of the cluster."""

    label: str
    share: float


@dataclass(frozen=True, eq=False)
class Material:
    """What the report of one run is made of; nothing in it depends on the time or the place of the run."""

    # The settings of the run by their dotted keys, without those that name places.
    settings: Mapping[str, Any]
    seed: int | None
    data_name: str
    sha256: str | None
    # The contents of result.json and of data.json; empty without one.
    result: Mapping[str, Any]
    data_report: Mapping[str, Any]
    assignments: Assignments
    centroids: Float32Array | None  # (K, D)
    # None where the data are not at hand.
    rows: Rows | None
    # From features.csv, where there are no rows.
    kept_differences: Differences | None = None
    # The digest of the rows, whichever columns and labels are read; None where it is not known.
    rows_sha256: str | None = None
    # What sets the run apart from others beside it.
    title: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def data_label(self) -> str:
        """The name of the data for a reader: that of the file, without its folder."""
        source = str(self.data_report.get("source", ""))
        path = source.removeprefix("data.path=") if source.startswith("data.path=") else ""
        if not source:  # of an earlier version
            path = str(self.settings.get("data.path") or "")
        return PurePath(path.replace("\\", "/").rstrip("/")).name or self.data_name

    @property
    def n_clusters(self) -> int:
        return int(self.result["n_clusters"])

    @property
    def n_samples(self) -> int:
        return len(self.assignments.cluster)

    @cached_property
    def sizes(self) -> IntArray:
        """The number of rows (K,) in each cluster."""
        return np.bincount(self.assignments.cluster, minlength=self.n_clusters)

    @cached_property
    def exemplars(self) -> list[Exemplars]:
        return find_exemplars(self.assignments, self.n_clusters)

    @cached_property
    def confidence(self) -> Float32Array | None:
        """How much nearer (N,) the centroid of a row is than the second one: 0 is equally near, 1 is at the centroid.

        None with one cluster.
        """
        distance, margin = self.assignments.distance, self.assignments.margin
        if margin is None:
            return None
        second = distance.astype(np.float64) + margin
        confidence: Float32Array = np.where(second > 0, margin / np.maximum(second, 1e-30), 0.0).astype(np.float32)
        return confidence

    @cached_property
    def differences(self) -> Differences | None:
        """How the clusters differ, in the units of the data; None for images and for a single cluster.

        The features of images that an encoder returned mean nothing to a reader either.
        """
        if self.settings.get("data.encoder") is not None:
            return None
        texts = self.assignments.texts
        if texts is not None and (self.rows is None or self.rows.data.features is None) and self.n_clusters > 1:
            step = -(-len(texts) // _MAX_TEXTS)
            return top_words([str(text) for text in texts[::step]], self.assignments.cluster[::step], self.n_clusters)
        if self.rows is None or self.rows.contrast is None:
            return self.kept_differences
        data, contrast = self.rows.data, self.rows.contrast
        names = data.features or [f"feature {f}" for f in range(data.n_features)]
        features = features_of(names, data.plan)
        is_share, has_means = self._is_share(data) | are_shares(features), not data.scaling.row_length
        means = (contrast.mean, contrast.mean_of_others)
        return Differences(features, contrast.difference, *means, is_share, texts is not None, has_means)

    @cached_property
    def names(self) -> list[str]:
        """A name for each cluster, empty where nothing sets it apart; images have that of their most frequent label."""
        if self.differences is not None:
            return name_clusters(self.differences)
        return ["" if m is None or m.share <= 0.5 else f"mostly {m.label}" for m in self.majorities]

    @cached_property
    def label_codes(self) -> tuple[list[str], IntArray] | None:
        """The distinct labels in natural order, 10 after 9, and the position (N,) of each row's label among them."""
        labels = self.assignments.labels
        if labels is None:
            return None
        distinct, codes = np.unique(labels, return_inverse=True)
        names = [str(label) for label in distinct.tolist()]
        order = sorted(range(len(names)), key=lambda position: natural_key(names[position]))
        rank = np.empty(len(names), np.int64)
        rank[order] = np.arange(len(names))
        return [names[position] for position in order], rank[codes]

    @cached_property
    def majorities(self) -> list[Majority | None]:
        """The most frequent label in each cluster; None without labels, or without rows."""
        if self.label_codes is None:
            return [None] * self.n_clusters
        names, codes = self.label_codes
        counts = contingency(self.assignments.cluster, codes, self.n_clusters, len(names))
        return [Majority(names[row.argmax()], float(row.max() / row.sum())) if row.any() else None for row in counts]

    def _is_share(self, data: Dataset) -> npt.NDArray[np.bool_]:
        """Return which features (F,) are 0 or 1 in each row, as far as a few thousand rows show."""
        if data.texts is not None or self.rows is None or data.scaling.total is not None or data.scaling.row_length:
            return np.zeros(data.n_features, bool)
        some = np.arange(0, data.n_samples, -(-data.n_samples // 5000))
        values = data.scaling.unscale(self.rows.take(some))
        low, high = values.min(axis=0), values.max(axis=0)
        is_end = np.minimum(np.abs(values), np.abs(values - 1)) < 1e-4
        is_share: npt.NDArray[np.bool_] = is_end.all(axis=0) & (low < 0.5) & (high > 0.5)
        return is_share
