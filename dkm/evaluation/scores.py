"""The scores of a clustering: ``SCORES`` says everything about each of them.

Whatever computes, writes or shows scores iterates ``SCORES``: ``result.json``, ``metrics.jsonl``, the tables of
``dkm.train`` and ``dkm.compare``, the dashboard. A new score is a function of a ``ScoreContext`` and an entry here.

Quick to import: commands that only read runs take labels and directions from here, so NumPy and what computes the
scores are imported where they are used.
"""

# Shapes: N rows, n rows of the sample, F features, D latent, K clusters.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from dkm.clustering.graph import GraphScore
    from dkm.clustering.labels import FloatArray, Int64Array, IntArray
    from dkm.evaluation.metrics import Dispersion, NeighborSample

# What a score compares the clusters with: the classes, the embedding that was clustered, each other by their sizes, the
# quantity that k-means minimizes, or the data themselves. Files list the scores in this order.
Space = Literal["labels", "embedding", "sizes", "objective", "data"]
SPACES: tuple[Space, ...] = get_args(Space)

# Where a score is shown: in the line of each evaluation and all tables, in the closing table of a run, or only in files
# and on the dashboard.
Prominence = Literal["headline", "table", "file"]

# Scores by their names; None where one is undefined.
Scores = dict[str, float | None]


class ScoredData(Protocol):
    """What all clusterings of one data set are scored with."""

    @property
    def y(self) -> IntArray | None:
        """The class (N,) of each row; None without labels."""

    @property
    def X(self) -> FloatArray:
        """The rows (n, F) of the sample in the space of the data."""

    @property
    def neighbors(self) -> NeighborSample | None:
        """The graph of nearest neighbors on rows of the sample; None where it is undefined."""

    @property
    def n_clusters(self) -> int: ...

    @property
    def silhouette_samples(self) -> int:
        """The largest number of points of which all pairs are compared."""

    def sampled_labels(self, labels: Int64Array) -> Int64Array:
        """Return the labels (n,) of the rows of the sample."""


@dataclass
class ScoreContext:
    """One clustering, with what its scores are computed from; what several scores take is computed once."""

    data: ScoredData
    labels: Int64Array  # (N,) of all rows
    Z: FloatArray  # (n, D) the sample in the space that was clustered
    inertia: float

    @property
    def y(self) -> IntArray:
        """The class (N,) of each row; for scores that need labels."""
        y = self.data.y
        assert y is not None, "scores that need labels are computed only where there are labels"
        return y

    @cached_property
    def sample_labels(self) -> Int64Array:
        """The labels (n,) of the rows of the sample."""
        return self.data.sampled_labels(self.labels)

    @cached_property
    def sizes(self) -> Int64Array:
        """The number of rows (K,) in each cluster."""
        from dkm.clustering.labels import cluster_sizes

        return cluster_sizes(self.labels, self.data.n_clusters)

    @cached_property
    def dispersion(self) -> Dispersion:
        """The two scores that follow from the means of the clusters in the embedding."""
        from dkm.evaluation.metrics import dispersion

        return dispersion(self.Z, self.sample_labels)

    @cached_property
    def graph_score(self) -> GraphScore | None:
        """The two scores in the graph of the data; None where they are undefined."""
        return None if self.data.neighbors is None else self.data.neighbors.score(self.sample_labels)

    @cached_property
    def silhouette(self) -> float | None:
        """The silhouette in the space that was clustered."""
        return self.silhouette_in(self.Z)

    def silhouette_in(self, points: FloatArray) -> float | None:
        """Return the silhouette of the sample's labels for its points (n, F or D) in some space."""
        from dkm.evaluation.metrics import silhouette

        return silhouette(points, self.sample_labels, max_samples=self.data.silhouette_samples)


@dataclass(frozen=True)
class Score:
    """Everything that there is to say about a score."""

    # Its key in files and the last part of its tags.
    name: str
    # Its name in tables.
    label: str
    space: Space
    higher_is_better: bool
    # Returns None where the score is undefined.
    function: Callable[[ScoreContext], float | None]
    shown: Prominence = "headline"
    # Computed at each evaluation; otherwise for the baselines and the result only, as it takes long.
    on_the_way: bool = True

    @property
    def needs_labels(self) -> bool:
        """Whether the score compares with classes."""
        return self.space == "labels"

    @property
    def compares_clusterings(self) -> bool:
        """Whether it compares clusterings of one data set, wherever they were found.

        Each embedding has its own distances, which the joint phase can make as small as it likes.
        """
        return self.space not in ("embedding", "objective")

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The direction of a search for the best value."""
        return "maximize" if self.higher_is_better else "minimize"


def compute_scores(context: ScoreContext, *, final: bool) -> Scores:
    """Compute the scores of a clustering; those that need labels only where there are some.

    Parameters
    ----------
    context : ScoreContext
    final : bool
        Compute the scores too that are not taken on the way.
    """
    has_labels = context.data.y is not None
    wanted = [score for score in SCORES.values() if score.on_the_way or final]
    wanted = [score for score in wanted if has_labels or not score.needs_labels]
    wanted.sort(key=lambda score: SPACES.index(score.space))
    return {score.name: score.function(context) for score in wanted}


def graph_score(scores: Scores | None) -> GraphScore | None:
    """Return the scores of a clustering in the graph of the data, as kept; None where they are undefined."""
    from dkm.clustering.graph import GraphScore

    modularity = (scores or {}).get("modularity_data")
    return None if modularity is None else GraphScore(modularity, (scores or {}).get("assortativity_data"))


def objectives(*, with_labels: bool) -> list[Score]:
    """Return the scores that a search can optimize: those that are known on the way and tell a good clustering.

    Neither the sizes nor the inertia do by themselves: both are best for clusters that ignore the data.
    """
    candidates = [score for score in SCORES.values() if score.space not in ("sizes", "objective")]
    return [score for score in candidates if score.on_the_way and score.needs_labels == with_labels]


# --- the scores -------------------------------------------------------------------------------------------------------


def _acc(context: ScoreContext) -> float:
    from dkm.evaluation.metrics import accuracy

    return accuracy(context.y, context.labels)


def _nmi(context: ScoreContext) -> float:
    from dkm.evaluation.metrics import normalized_mutual_information

    return normalized_mutual_information(context.y, context.labels)


def _ari(context: ScoreContext) -> float:
    from dkm.evaluation.metrics import adjusted_rand_index

    return adjusted_rand_index(context.y, context.labels)


def _modularity_data(context: ScoreContext) -> float | None:
    return None if context.graph_score is None else context.graph_score.modularity


def _assortativity_data(context: ScoreContext) -> float | None:
    return None if context.graph_score is None else context.graph_score.assortativity


def _silhouette_data(context: ScoreContext) -> float | None:
    # The raw data are clustered in their own space: the silhouette, which compares all pairs, is the same one.
    is_same_space = context.Z is context.data.X
    return context.silhouette if is_same_space else context.silhouette_in(context.data.X)


def _n_effective_clusters(context: ScoreContext) -> float:
    from dkm.clustering.labels import effective_clusters

    return effective_clusters(context.sizes)


# In the order of the columns of tables.
SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("acc", "ACC", "labels", True, _acc),
        Score("nmi", "NMI", "labels", True, _nmi),
        Score("ari", "ARI", "labels", True, _ari),
        Score("modularity_data", "mod. data", "data", True, _modularity_data),
        Score("assortativity_data", "ass. data", "data", True, _assortativity_data, shown="file", on_the_way=False),
        Score("silhouette_data", "sil. data", "data", True, _silhouette_data, shown="file", on_the_way=False),
        Score("silhouette", "sil. own", "embedding", True, lambda context: context.silhouette),
        Score("davies_bouldin", "DB", "embedding", False, lambda c: c.dispersion.davies_bouldin, shown="table"),
        Score("calinski_harabasz", "CH", "embedding", True, lambda c: c.dispersion.calinski_harabasz, shown="table"),
        Score("inertia", "inertia", "objective", False, lambda context: context.inertia, shown="table"),
        Score("n_effective_clusters", "eff. K", "sizes", True, _n_effective_clusters),
    )
}
