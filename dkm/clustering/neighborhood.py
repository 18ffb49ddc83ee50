"""The rows of a data set as a graph of nearest neighbors: clusters by it, and an embedding of it."""

# Shapes: N rows, F features, M rows of a sample, P principal components, D latent, K clusters.

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dkm.clustering import graph
from dkm.clustering.assignment import Assignment
from dkm.clustering.graph import GraphScore, Neighbors
from dkm.clustering.labels import FloatArray, IntArray, adjusted_rand_index
from dkm.clustering.lloyd import kmeans, kmeans_restarts, lowest_inertia
from dkm.clustering.neighbor_embedding import embed_neighbors, laplacian_eigenvectors
from dkm.clustering.partition import principal_components
from dkm.errors import input_error

if TYPE_CHECKING:  # SciPy takes long to load
    from scipy.sparse import csr_array

log = logging.getLogger(__name__)

# Neighbors of a row in the graph that is embedded, as in UMAP.
_N_EMBEDDED = 15
# By so much must the modularity of clusters of the eigenvectors exceed that of clusters of the neighbor embedding.
_SLACK = 0.01
# Restarts of k-means on the neighbor embedding are tied if their inertia is above the lowest by at most this fraction;
# there are so many times as many of them as in the other spaces.
_TIED, _MORE = 0.02, 3
# The adjusted Rand index of two clusterings that count as the same.
_SAME = 0.95
# Of at most so many rows this many neighbor embeddings are made: those of few rows vary with the seed, and on some of
# them k-means splits a large cluster. They are compared by clusters of these numbers.
_FEW_ROWS, _N_EMBEDDINGS, _COMPARED = 1_000, 3, (2, 3, 5, 8, 13)
# With fewer rows there is no graph to speak of.
_FEWEST_ROWS = 3
EMBEDDING, SPECTRUM, ROWS = "the neighbor embedding", "the eigenvectors of the graph", "the rows"


class RowClusters(NamedTuple):
    """``labels`` (M,) of the rows in a neighborhood, the ``origin`` of the clustering, and its modularity.

    ``modularities`` has that of the candidate of each origin.
    """

    labels: IntArray
    origin: str
    modularity: float
    modularities: dict[str, float]


class _RowGraph:
    """The part of a neighborhood that depends on the rows alone, not on a seed; see there for the parameters."""

    def __init__(self, take_rows: Callable[[Tensor | None], Tensor], sample: Tensor | None) -> None:
        self.take_rows = take_rows
        self._sample = sample
        self.by_seed: dict[int, Neighborhood] = {}
        self.is_reduced = False  # whether the points are principal components; known with the points

    @cached_property
    def points(self) -> Tensor:
        rows = self.take_rows(self._sample).cpu().numpy()
        if not graph.has_distances(rows):
            found = f"values up to {np.abs(rows).max():.3g}, whose squared distances are infinite in float32"
            raise input_error("data.scaling", found, "rows with finite distances", "set data.scaling=standard")
        points = principal_components(rows)
        self.is_reduced = points is not rows
        return torch.from_numpy(np.ascontiguousarray(points, np.float32))

    @cached_property
    def _neighbors(self) -> Neighbors:
        return graph.nearest_neighbors(self.points.numpy(), graph.MOST_COMPARED)

    @cached_property
    def unweighted(self) -> csr_array:
        """The graph (M, M) of the modularity."""
        return graph.compared_graph(self._neighbors)

    @cached_property
    def fuzzy(self) -> csr_array:
        """The weights (M, M) of the graph that is embedded."""
        return graph.fuzzy_graph(self._neighbors.first(_N_EMBEDDED))


class Neighborhood:
    """The nearest neighbors of the rows, or of a sample of many rows; each part is computed when it is first used.

    Parameters
    ----------
    take_rows : callable
        Returns the scaled rows (M, F) at positions (M,), or all rows for None.
    sample : Tensor of shape (M,), int64, optional
        The positions of the rows; None for all.
    latent_dim : int
        D.
    seed : int

    Attributes
    ----------
    labels_of_rows : int array of shape (M,), optional
        The clusters of k-means on the rows, with the seed and the restarts that ``cluster`` will use, if they are known
        already; they are not computed again then.

    Raises
    ------
    UserError
        When a part is computed, if squared distances of the rows overflow.
    """

    def __init__(
        self, take_rows: Callable[[Tensor | None], Tensor], sample: Tensor | None, latent_dim: int, seed: int
    ) -> None:
        self.sample = sample
        self.seed = seed
        self.labels_of_rows: IntArray | None = None
        self._latent_dim = latent_dim
        self._rows = _RowGraph(take_rows, sample)
        self._rows.by_seed[seed] = self

    def with_seed(self, seed: int) -> Neighborhood:
        """Return the neighborhood with another seed. They share the neighbors and their graph, which have no seed."""
        if seed not in self._rows.by_seed:
            other = Neighborhood(self._rows.take_rows, self.sample, self._latent_dim, seed)
            other._rows, self._rows.by_seed[seed] = self._rows, other
        return self._rows.by_seed[seed]

    def is_like(self, other: Neighborhood) -> bool:
        """Return whether all parts of both are equal, if they are of the same data."""
        if self.sample is None or other.sample is None:
            has_same_rows = self.sample is other.sample
        else:
            has_same_rows = torch.equal(self.sample, other.sample)
        return has_same_rows and (self._latent_dim, self.seed) == (other._latent_dim, other.seed)

    @property
    def points(self) -> Tensor:
        """The rows (M, P), or their principal components where there are many features, on the CPU."""
        return self._rows.points

    @property
    def graph(self) -> csr_array:
        """The graph (M, M) of the modularity."""
        return self._rows.unweighted

    @cached_property
    def _eigenvectors(self) -> FloatArray:
        return laplacian_eigenvectors(self._rows.fuzzy, self._latent_dim + 1, seed=self.seed)

    def spectral_points(self, n_clusters: int) -> Tensor:
        """Return the rows as spectral clustering sees them: K eigenvectors, of unit length for each row (M, K).

        Ng, Jordan, Weiss: On spectral clustering (NIPS 2001). With more than D + 1 clusters these are D + 1.
        """
        used = torch.from_numpy(np.ascontiguousarray(self._eigenvectors[:, :n_clusters], np.float32))
        return torch.nn.functional.normalize(used, dim=1)

    @cached_property
    def embedding(self) -> Tensor:
        """The neighbor embedding (M, D), on the CPU; all zeros for fewer than three rows.

        Of at most 1,000 rows three are made, with this and the next two seeds. This is the one whose clusters, 2, 3, 5,
        8 and 13 of them, agree most with those of the other two by the adjusted Rand index.
        """
        if not _FEWEST_ROWS <= len(self.points) <= _FEW_ROWS:
            return self.own_embedding
        embeddings = [self.with_seed(self.seed + offset).own_embedding for offset in range(_N_EMBEDDINGS)]
        n_distinct = min(len(torch.unique(embedding, dim=0)) for embedding in embeddings)
        numbers = [number for number in _COMPARED if number <= n_distinct]

        def cluster(embedding: Tensor) -> list[IntArray]:
            return [kmeans(embedding, number, n_init=3, seed=self.seed).labels.numpy() for number in numbers]

        def agreement(mine: Sequence[IntArray]) -> float:
            return sum(adjusted_rand_index(*pair) for theirs in found for pair in zip(mine, theirs, strict=True))

        found = list(map(cluster, embeddings))
        agreements = list(map(agreement, found))
        return embeddings[agreements.index(max(agreements))]

    @cached_property
    def own_embedding(self) -> Tensor:
        """The neighbor embedding (M, D) with this seed, on the CPU; all zeros for fewer than three rows."""
        start_s = time.perf_counter()
        if len(self.points) < _FEWEST_ROWS:
            return torch.zeros(len(self.points), self._latent_dim)
        embedding = embed_neighbors(
            *(self._rows.fuzzy, self.points.numpy(), self._latent_dim),
            seed=self.seed,
            eigenvectors=self._eigenvectors,
        )
        log.info("neighbor embedding of %d rows (%.1f s)", len(embedding), time.perf_counter() - start_s)
        return embedding

    def targets(self, n_rows: int) -> Tensor:
        """Return the embedding as (N, D), nan for rows outside the sample."""
        if self.sample is None:
            return self.embedding
        targets = torch.full((n_rows, self._latent_dim), torch.nan)
        targets[self.sample] = self.embedding
        return targets

    def cluster(self, n_clusters: int, *, n_init: int) -> RowClusters:
        """Cluster the rows by their graph.

        The candidates are the restarts of k-means with the lowest inertia on the neighbor embedding, on the
        eigenvectors of the graph and on the rows. That of the neighbor embedding is returned unless another is above it
        in the graph, see `GraphScore`; of two that are, the one with the higher modularity. The modularity of the
        eigenvectors must be higher by 0.01, as they too are made from the graph; the rows owe nothing to it. And
        k-means with another seed must find the other clusters again, to an adjusted Rand index of 0.95: splits of a
        large cluster are seldom the same.

        Distances in the neighbor embedding vary with the seed, so its restarts, three times as many, are tied if their
        inertia is within 2 % of the lowest: its candidate is one of these that is above that with the lowest, if any.

        Parameters
        ----------
        n_clusters : int
            K, at most M.
        n_init : int
            Restarts of k-means in each space.
        """
        spaces = {ROWS: self.points}
        if len(self.points) >= _FEWEST_ROWS:
            spaces = {EMBEDDING: self.embedding, SPECTRUM: self.spectral_points(n_clusters), **spaces}

        def cluster(origin: str, seed: int) -> IntArray:
            if origin != EMBEDDING:
                return kmeans(spaces[origin], n_clusters, n_init=n_init, seed=seed).labels.numpy()
            restarts = kmeans_restarts(spaces[origin], n_clusters, n_init=_MORE * n_init, seed=seed)
            return self._best_of_ties(restarts)

        def is_found_again(origin: str) -> bool:
            return adjusted_rand_index(found[origin], cluster(origin, self.seed + 1)) >= _SAME

        found: dict[str, IntArray] = {}
        if self.labels_of_rows is not None and not self._rows.is_reduced:
            found[ROWS] = self.labels_of_rows
        for origin in spaces:
            if origin not in found:
                found[origin] = cluster(origin, self.seed)
        scores = {origin: self.score(found[origin]) for origin in spaces}
        modularity = {origin: score.modularity for origin, score in scores.items()}
        first, *others = spaces
        higher = [origin for origin in others if scores[origin].is_above(scores[first])]
        higher = [origin for origin in higher if origin == ROWS or modularity[origin] > modularity[first] + _SLACK]
        higher.sort(key=modularity.__getitem__, reverse=True)
        best = next(filter(is_found_again, higher), first)
        return RowClusters(found[best], best, modularity[best], modularity)

    def _best_of_ties(self, restarts: Sequence[Assignment]) -> IntArray:
        """Return the labels (M,) of the restart with the lowest inertia, or of a tied one that is above it."""
        lowest = lowest_inertia(restarts)
        base = self.score(lowest.labels.numpy())
        ties = [restart.labels.numpy() for restart in restarts if restart.inertia <= (1 + _TIED) * lowest.inertia]
        scored = [(self.score(labels), labels) for labels in ties]
        above = [(score.mean, labels) for score, labels in scored if score.is_above(base)]
        return max(above, key=lambda pair: pair[0])[1] if above else lowest.labels.numpy()

    def score(self, labels: IntArray) -> GraphScore:
        """Return the scores of labels (M,) in the graph; zeros for a single row."""
        return graph.score(self.graph, labels) if len(labels) > 1 else GraphScore(0.0, 0.0)

    def modularity(self, labels: IntArray) -> float:
        """Return the modularity of labels (M,) in the graph; 0 for a single row."""
        return self.score(labels).modularity
