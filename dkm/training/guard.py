"""The guard of a run: keeps the best clusters that the model has had, and judges the end of a joint phase by them."""

# Shapes: N rows, D latent, K clusters.

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from dkm.clustering.graph import VISIBLE, GraphScore
from dkm.clustering.losses.base import ClusteringLoss
from dkm.evaluation import printed_scores
from dkm.evaluation.clusters import assign_clusters
from dkm.evaluation.evaluator import Evaluator
from dkm.evaluation.scores import Scores, graph_score
from dkm.models.autoencoder import Autoencoder
from dkm.runtime import distributed

if TYPE_CHECKING:
    from dkm.training.state import Baseline, Progress

log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """A state of the model that can be restored.

    ``stage`` says which clusters it has: "initialization" for those of k-means on the pretrained embedding, "joint", or
    the baseline whose labels were being learned. ``modularity`` and ``assortativity`` are those on the data (None if
    unknown), ``autoencoder`` holds the weights, ``centroids`` is (K, D), and ``step`` is the number of finished steps
    of the run.
    """

    stage: str
    modularity: float | None
    autoencoder: dict[str, Tensor]
    centroids: Tensor
    assortativity: float | None = None  # checkpoints of earlier versions lack these two
    step: int | None = None

    @classmethod
    def of(cls, stage: str, score: GraphScore | None, autoencoder: Autoencoder, centroids: Tensor, step: int) -> Self:
        """Return a copy of the present state; the score is the same on every process."""
        weights = {name: value.detach().clone() for name, value in autoencoder.state_dict().items()}
        modularity, assortativity = score or (None, None)
        return cls(stage, modularity, weights, centroids.detach().clone(), assortativity, step)

    @classmethod
    def from_dict(cls, state: dict[str, Any] | None) -> Self | None:
        """Return what ``_asdict`` gave for a checkpoint; None for None."""
        return None if state is None else cls(**state)

    @property
    def score(self) -> GraphScore | None:
        """The scores of these clusters in the graph of the data; None if unknown."""
        return None if self.modularity is None else GraphScore(self.modularity, self.assortativity)

    def is_ahead_of(self, score: GraphScore | None, by: float = 0.0) -> bool:
        """Return whether these clusters are known to come before others with this score, see `GraphScore`."""
        return self.score is not None and score is not None and self.score.is_ahead_of(score, by)

    def restore(self, autoencoder: Autoencoder, centroids: Tensor) -> None:
        """Load the weights, and the centroids into ``centroids`` (K, D)."""
        autoencoder.load_state_dict(self.autoencoder)
        centroids.copy_(self.centroids)


def of_main(score: GraphScore | None) -> GraphScore | None:
    """Return the score that the first process has, on every process."""
    known = distributed.from_main(json.dumps(score).encode())
    assert known is not None
    values = json.loads(known)
    return None if values is None else GraphScore(*values)


def baseline_above(baselines: Mapping[str, Scores | None], score: GraphScore | None) -> str | None:
    """Return the baseline that is above this score on the data, of two the one that comes first, or None."""
    if score is None:
        return None
    known = {name: graph_score(scores) for name, scores in baselines.items()}
    above = {name: found.order for name, found in known.items() if found is not None and found.is_above(score)}
    return max(above, key=above.__getitem__, default=None)


class Verdict(NamedTuple):
    """What follows the end of a joint phase: a baseline to learn, or None; whether the kept state is the better one."""

    learn: str | None
    is_kept_better: bool


def judge(
    baselines: Mapping[str, Scores | None], kept: Kept | None, score: GraphScore | None, *, learned: str | None
) -> Verdict:
    """Compare the clusters at the end of a joint phase with those that the run had before; the same on every process.

    Parameters
    ----------
    baselines : dict
        Scores of k-means on the raw data and on the pretrained embedding, on the first process.
    kept : Kept, optional
        The best state of the model before.
    score : GraphScore, optional
        That of the present clusters on the data, on every process; None if unknown.
    learned : str, optional
        The baseline whose labels this phase has learned.
    """
    is_kept_better = kept is not None and kept.is_ahead_of(score, VISIBLE)
    learn = None
    if learned is None:
        # k-means on the pretrained embedding is one of the baselines: its labels are learned before it is restored.
        is_of_phase = kept is not None and kept.stage != "initialization"
        learn = baseline_above(baselines, kept.score if kept is not None and is_kept_better and is_of_phase else score)
        if learn is not None and kept is not None and kept.is_ahead_of(graph_score(baselines[learn])):
            learn = None
    name = distributed.from_main((learn or "").encode())
    assert name is not None
    return Verdict(name.decode() or None, is_kept_better)


class Guard:
    """Keeps the best state of a model while it trains, see ``joint.guard``; it is ``kept`` of the run's progress.

    All methods are called on every process.

    Parameters
    ----------
    autoencoder, clustering : nn.Module
        The model, whose present weights are those that are compared.
    evaluator : Evaluator
        Scores clusters in the graph of the run's data.
    """

    def __init__(self, autoencoder: Autoencoder, clustering: ClusteringLoss, evaluator: Evaluator) -> None:
        self._autoencoder = autoencoder
        self._clustering = clustering
        self._evaluator = evaluator

    @property
    def _centroids(self) -> Tensor:
        return self._clustering.centroids.detach()

    def score(self, z: Tensor) -> GraphScore | None:
        """Return the scores of the present clusters of z (N, D) in the graph of the data."""
        score: GraphScore | None = None
        if distributed.is_main():
            score = self._evaluator.graph_score(assign_clusters(z, self._centroids).labels)
        return of_main(score)

    def keep_pretrained(self, progress: Progress, baseline: Baseline | None) -> None:
        """Keep the pretrained autoencoder with the centroids of k-means on its embedding (None on other processes)."""
        score, centroids = None, torch.zeros_like(self._centroids)
        if baseline is not None and baseline.centroids is not None:
            score, centroids = graph_score(baseline.scores), baseline.centroids.clone()
        distributed.broadcast_(centroids)
        progress.kept = Kept.of("initialization", of_main(score), self._autoencoder, centroids, progress.step)

    def keep_if_best(self, progress: Progress, z: Tensor) -> None:
        """Keep the present state, whose embedding is z (N, D), if no earlier clusters are as good."""
        score, kept = self.score(z), progress.kept
        if score is not None and (kept is None or kept.score is None or score.is_ahead_of(kept.score)):
            self._keep(progress, score)

    def keep(self, progress: Progress, z: Tensor) -> None:
        """Keep the present state, whose embedding is z (N, D)."""
        self._keep(progress, self.score(z))

    def judge(self, progress: Progress, z: Tensor) -> Verdict:
        """Compare the end of a joint phase, with embedding z (N, D), with what the run had before; see ``judge``."""
        score, kept = self.score(z), progress.kept
        verdict = judge(progress.baselines, kept, score, learned=progress.state.learned)
        if kept is not None and verdict == Verdict(None, is_kept_better=True):
            what = "the pretraining" if kept.stage == "initialization" else printed_scores.earlier(kept.step)
            log.info(
                "joint: the clusters at the end are worse than those of %s, which are restored (%s for %s)",
                *(what, kept.score, score),
            )
        return verdict

    def restore(self, progress: Progress) -> None:
        """Go back to the state that is kept: the run ends with it."""
        state, kept = progress.state, progress.kept
        assert kept is not None
        kept.restore(self._autoencoder, self._centroids)
        progress.state = replace(
            state, step=state.step + 1, is_stopped=True, restored=kept.stage, restored_step=kept.step
        )

    def _keep(self, progress: Progress, score: GraphScore | None) -> None:
        stage = progress.state.learned or "joint"
        progress.kept = Kept.of(stage, score, self._autoencoder, self._centroids, progress.step)
