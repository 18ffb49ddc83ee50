"""The guard of a run: the best clusters that the model has had so far, and whether the joint phase ended below them."""

# Shapes: D latent, K clusters.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from torch import Tensor

from dkm.clustering.graph import GraphScore
from dkm.evaluation.scores import Scores, graph_score
from dkm.models.autoencoder import Autoencoder
from dkm.runtime import distributed


class Kept(NamedTuple):
    """A state of the model that can be restored.

    ``stage`` says which clusters it has, "initialization" for those of k-means on the pretrained embedding or "joint",
    ``modularity`` and ``assortativity`` are those on the data (None if unknown, and on all processes but the first),
    ``autoencoder`` holds the weights and ``centroids`` is (K, D).
    """

    stage: str
    modularity: float | None
    autoencoder: dict[str, Tensor]
    centroids: Tensor
    assortativity: float | None = None  # checkpoints of earlier versions lack it

    @classmethod
    def of(cls, stage: str, score: GraphScore | None, autoencoder: Autoencoder, centroids: Tensor) -> Self:
        """Return a copy of the present state."""
        weights = {name: value.detach().clone() for name, value in autoencoder.state_dict().items()}
        modularity, assortativity = score or (None, None)
        return cls(stage, modularity, weights, centroids.detach().clone(), assortativity)

    @classmethod
    def from_dict(cls, state: dict[str, Any] | None) -> Self | None:
        """Return what ``_asdict`` gave for a checkpoint; None for None."""
        return None if state is None else cls(**state)

    def is_above(self, score: GraphScore | None) -> bool:
        """Return whether these clusters are known to be better than some with this score."""
        if self.modularity is None or score is None:
            return False
        return GraphScore(self.modularity, self.assortativity).is_above(score)

    def restore(self, autoencoder: Autoencoder) -> Tensor:
        """Load the weights, on every process; return the first process's centroids (K, D)."""
        autoencoder.load_state_dict(self.autoencoder)
        device = next(iter(autoencoder.parameters())).device
        centroids = self.centroids.to(device).clone()
        distributed.broadcast_(centroids)
        return centroids


def baseline_above(baselines: Mapping[str, Scores | None], score: GraphScore | None) -> str | None:
    """Return the baseline that is above this score on the data, of two the one with the higher modularity, or None."""
    if score is None:
        return None
    known = {name: graph_score(scores) for name, scores in baselines.items()}
    above = {name: found.modularity for name, found in known.items() if found is not None and found.is_above(score)}
    return max(above, key=above.__getitem__, default=None)


class Verdict(NamedTuple):
    """What follows the end of a joint phase: a baseline to learn, or None; whether the kept state is the better one."""

    learn: str | None
    restore: bool


def judge(
    baselines: Mapping[str, Scores | None], kept: Kept | None, score: GraphScore | None, *, learned: str | None
) -> Verdict:
    """Compare the clusters at the end of a joint phase with those that the run had before; the same on every process.

    Parameters
    ----------
    baselines : dict
        Scores of k-means on the raw data and on the pretrained embedding.
    kept : Kept, optional
        The best state of the model before.
    score : GraphScore, optional
        That of the present clusters on the data, on the first process; None if unknown.
    learned : str, optional
        The baseline whose labels this phase has learned.
    """
    learn = baseline_above(baselines, score) if learned is None else None
    restore = kept is not None and kept.is_above(score)
    known = distributed.from_main(f"{learn or ''} {int(restore)}".encode())
    assert known is not None
    name, number = known.decode().split(" ")
    return Verdict(name or None, number == "1")
