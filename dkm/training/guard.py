"""The guard of a run: keeps the best clusters that the model has had, and judges the end of a joint phase by them."""

# Shapes: N rows, D latent, K clusters.

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
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
    the baseline whose labels were being learned. ``modularity`` and ``assortativity`` are those on the data,
    ``autoencoder`` holds the weights, ``centroids`` is (K, D), and ``step`` is the number of finished steps of the run.
    """

    stage: str
    modularity: float
    autoencoder: dict[str, Tensor]
    centroids: Tensor
    assortativity: float | None = None  # checkpoints of earlier versions lack these two
    step: int | None = None

    @classmethod
    def of(cls, stage: str, score: GraphScore, autoencoder: Autoencoder, centroids: Tensor, step: int) -> Self:
        """Return a copy of the present state, on the CPU."""
        weights = {name: _copy(value) for name, value in autoencoder.state_dict().items()}
        return cls(stage, score.modularity, weights, _copy(centroids), score.assortativity, step)

    @property
    def score(self) -> GraphScore:
        """The scores of these clusters in the graph of the data."""
        return GraphScore(self.modularity, self.assortativity)

    def restore(self, autoencoder: Autoencoder, centroids: Tensor) -> None:
        """Load the weights, and the centroids into ``centroids`` (K, D)."""
        autoencoder.load_state_dict(self.autoencoder)
        centroids.copy_(self.centroids)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def of_main(score: GraphScore | None) -> GraphScore | None:
    """Return the score that the first process has, on every process."""
    known = distributed.from_main(json.dumps(score).encode())
    assert known is not None
    values = json.loads(known)
    return None if values is None else GraphScore(*values)


def states_from(saved: Sequence[dict[str, Any]] | dict[str, Any] | None) -> list[Kept]:
    """Return the states that a checkpoint holds as dictionaries; those of earlier versions hold one or None."""
    states = [saved] if isinstance(saved, dict) else saved or []
    return [Kept(**state) for state in states if state["modularity"] is not None]


def is_covered(score: GraphScore, kept: Sequence[Kept]) -> bool:
    """Return whether a state with this score need not be kept beside others."""
    return any(state.score.covers(score) for state in kept)


def with_state(kept: Sequence[Kept], state: Kept) -> list[Kept]:
    """Return the kept states, without those that a new one covers, and that one."""
    return [other for other in kept if not state.score.covers(other.score)] + [state]


def best_above(kept: Sequence[Kept], score: GraphScore | None) -> Kept | None:
    """Return the state that is above this score by a visible margin, of several the one with the highest mean."""
    above = [state for state in kept if score is not None and state.score.is_above(score, VISIBLE)]
    return max(above, key=lambda state: state.score.mean, default=None)


def baseline_above(baselines: Mapping[str, Scores | None], score: GraphScore | None) -> str | None:
    """Return the baseline that is above this score on the data, of two the one with the higher mean, or None."""
    if score is None:
        return None
    known = {name: graph_score(scores) for name, scores in baselines.items()}
    above = {name: found.mean for name, found in known.items() if found is not None and found.is_above(score)}
    return max(above, key=above.__getitem__, default=None)


class Verdict(NamedTuple):
    """What follows the end of a joint phase: a baseline is learned, or a state is restored, or neither."""

    learn: str | None = None
    restore: Kept | None = None


def judge(
    baselines: Mapping[str, Scores | None], kept: Sequence[Kept], score: GraphScore | None, *, learned: str | None
) -> Verdict:
    """Compare the clusters at the end of a joint phase with those that the run had before; the same on every process.

    Parameters
    ----------
    baselines : dict
        Scores of k-means on the raw data and on the pretrained embedding, on the first process.
    kept : sequence of Kept
        The best states of the model before.
    score : GraphScore, optional
        That of the present clusters on the data, on every process; None if unknown.
    learned : str, optional
        The baseline whose labels this phase has learned.
    """
    learn = None
    if learned is None:
        # k-means on the pretrained embedding is one of the baselines: its labels are learned before it is restored.
        best = best_above([state for state in kept if state.stage != "initialization"], score)
        learn = baseline_above(baselines, score if best is None else best.score)
    name = distributed.from_main((learn or "").encode())
    assert name is not None
    return Verdict(learn=name.decode()) if name else Verdict(restore=best_above(kept, score))


class Guard:
    """Keeps the best states of a model while it trains, see ``joint.guard``; they are ``kept`` of the run's progress.

    A clustering is better than another if it is above it, see ``GraphScore``; of two, neither may be. So all states are
    kept that no other one covers, seldom more than two. All methods are called on every process.

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
        """Return the scores of the present clusters of z (N, D) in the graph of the data; None if it has none."""
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
        score = of_main(score)
        if score is not None:
            progress.kept = [Kept.of("initialization", score, self._autoencoder, centroids, progress.step)]

    def keep(self, progress: Progress, z: Tensor) -> None:
        """Keep the present state of the model, whose embedding is z (N, D), if no kept one covers it."""
        score, stage = self.score(z), progress.state.learned or "joint"
        if score is not None and not is_covered(score, progress.kept):
            state = Kept.of(stage, score, self._autoencoder, self._centroids, progress.step)
            progress.kept = with_state(progress.kept, state)

    def judge(self, progress: Progress, z: Tensor) -> Verdict:
        """Compare the end of a joint phase, with embedding z (N, D), with what the run had before; see ``judge``."""
        score = self.score(z)
        verdict = judge(progress.baselines, progress.kept, score, learned=progress.state.learned)
        if verdict.restore is not None:
            kept = verdict.restore
            what = "the pretraining" if kept.stage == "initialization" else printed_scores.earlier(kept.step)
            log.info(
                "joint: the clusters at the end are worse than those of %s, which are restored (%s for %s)",
                *(what, kept.score, score),
            )
        return verdict

    def restore(self, progress: Progress, kept: Kept) -> None:
        """Go back to a state that was kept: the run ends with it."""
        state = progress.state
        kept.restore(self._autoencoder, self._centroids)
        progress.state = replace(
            state, step=state.step + 1, is_stopped=True, restored=kept.stage, restored_step=kept.step
        )
