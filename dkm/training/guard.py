"""The guard of a run: the best clusters that the model has had so far, and whether the joint phase ended below them."""

# Shapes: D latent, K clusters.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from torch import Tensor

from dkm.evaluation.scores import Scores
from dkm.models.autoencoder import Autoencoder
from dkm.runtime import distributed


class Kept(NamedTuple):
    """A state of the model that can be restored.

    ``stage`` says which clusters it has, "initialization" for those of k-means on the pretrained embedding or "joint",
    ``modularity`` is that on the data (None if unknown, and on all processes but the first), ``autoencoder`` holds the
    weights and ``centroids`` is (K, D).
    """

    stage: str
    modularity: float | None
    autoencoder: dict[str, Tensor]
    centroids: Tensor

    @classmethod
    def of(cls, stage: str, modularity: float | None, autoencoder: Autoencoder, centroids: Tensor) -> Self:
        """Return a copy of the present state."""
        weights = {name: value.detach().clone() for name, value in autoencoder.state_dict().items()}
        return cls(stage, modularity, weights, centroids.detach().clone())

    @classmethod
    def from_dict(cls, state: dict[str, Any] | None) -> Self | None:
        """Return what ``_asdict`` gave for a checkpoint; None for None."""
        return None if state is None else cls(**state)

    def is_above(self, modularity: float | None) -> bool:
        """Return whether these clusters are known to have a higher modularity than this."""
        return self.modularity is not None and modularity is not None and self.modularity > modularity

    def restore(self, autoencoder: Autoencoder) -> Tensor:
        """Load the weights, on every process; return the first process's centroids (K, D)."""
        autoencoder.load_state_dict(self.autoencoder)
        device = next(iter(autoencoder.parameters())).device
        centroids = self.centroids.to(device).clone()
        distributed.broadcast_(centroids)
        return centroids


def baseline_above(baselines: Mapping[str, Scores | None], modularity: float | None) -> str | None:
    """Return the baseline with the highest modularity on the data, if it is above this one; None if none is."""
    if modularity is None:
        return None
    known = {name: (scores or {}).get("modularity_data") for name, scores in baselines.items()}
    above = {name: value for name, value in known.items() if value is not None and value > modularity}
    return max(above, key=above.__getitem__, default=None)


class Verdict(NamedTuple):
    """What follows the end of a joint phase: a baseline to learn, or None; whether the kept state is the better one."""

    learn: str | None
    restore: bool


def judge(
    baselines: Mapping[str, Scores | None], kept: Kept | None, modularity: float | None, *, learned: str | None
) -> Verdict:
    """Compare the clusters at the end of a joint phase with those that the run had before; the same on every process.

    Parameters
    ----------
    baselines : dict
        Scores of k-means on the raw data and on the pretrained embedding.
    kept : Kept, optional
        The best state of the model before.
    modularity : float, optional
        That of the present clusters on the data, on the first process; None if unknown.
    learned : str, optional
        The baseline whose labels this phase has learned.
    """
    learn = baseline_above(baselines, modularity) if learned is None else None
    restore = kept is not None and kept.is_above(modularity)
    known = distributed.from_main(f"{learn or ''} {int(restore)}".encode())
    assert known is not None
    name, number = known.decode().split(" ")
    return Verdict(name or None, number == "1")
