"""Where a run stands: what a checkpoint keeps of it beside tensors, and what its numbers are booked under."""

from __future__ import annotations

from dataclasses import dataclass, field

from dkm.evaluation.scores import Scores
from dkm.runs.tensorboard import BASELINES

PHASES = ("pretrain", "joint")


@dataclass
class Position:
    """Where a run stands, with what must survive until the end of the epoch. Builtins only."""

    phase_idx: int = 0
    epoch: int = 0  # finished epochs of the phase
    batch: int = 0  # finished batches of the epoch
    step: int = 0  # finished optimizer steps of the run; setting the centroids counts as one
    is_stopped: bool = False  # the joint phase met its tolerance
    # What the pass over the data at the end of the epoch found; empty until then.
    pass_info: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    raw: Scores | None = None  # scores of k-means on the raw data
    pretrained: Scores | None = None  # scores of k-means on the pretrained embedding
    cache_key: str | None = None  # under which this run's pretraining may be kept; see ``pretrain.cache``

    @property
    def phase(self) -> str:
        return PHASES[self.phase_idx]

    @property
    def baselines(self) -> dict[str, Scores | None]:
        """The scores of k-means, by the names that result and dashboard give them."""
        return dict(zip(BASELINES, (self.raw, self.pretrained), strict=True))
