"""What a run knows of itself beside tensors: its position, its seconds, its baselines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from dkm.evaluation.scores import Scores
from dkm.runs.tensorboard import BASELINES
from dkm.training.guard import Kept

PHASES = ("pretrain", "joint")


@dataclass
class TrainState:
    """The position of a run in its training. Builtins only."""

    phase: str = "pretrain"
    epoch: int = 0  # finished epochs of the phase
    batch: int = 0  # finished batches of the epoch
    step: int = 0  # finished optimizer steps of the run; setting the clusters counts as one
    is_stopped: bool = False  # the joint phase met its tolerance
    # See ``joint.guard``.
    learned: str | None = None  # the baseline whose labels a second joint phase learns
    epochs_before: int = 0  # finished epochs of the first joint phase, in the second one
    restored: str | None = None  # the stage of the model that was restored at the end, see ``Kept``
    restored_step: int | None = None  # and the step that it is of

    @property
    def is_undone(self) -> bool:
        """Whether the run has gone back to what it had before its last joint phase."""
        return self.restored not in (None, self.learned or "joint")

    @property
    def phase_idx(self) -> int:
        return PHASES.index(self.phase)

    @property
    def is_joint(self) -> bool:
        return self.phase == "joint"

    @property
    def n_joint_epochs(self) -> int:
        """Finished epochs of both joint phases; 0 in the pretraining."""
        return self.epochs_before + self.epoch if self.is_joint else 0


class Baseline(NamedTuple):
    """A clustering by k-means: its scores, its labels (N,) on the CPU, and its centroids if they are needed later."""

    scores: Scores
    labels: Tensor
    centroids: Tensor | None = None


class Clock:
    """Books the wall-clock seconds of a run under sections; at every moment exactly one section is open."""

    SECTIONS = ("setup", "baseline", "pretrain", "initialization", "joint", "report")
    # A section that only some runs have; it is listed only there.
    SEARCH = "n_clusters"

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(self.SECTIONS, 0.0)
        self._open = "setup"
        self._since_s = time.perf_counter()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Book the seconds of the block under ``name``, one of ``SECTIONS`` or ``SEARCH``."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each section so far, to the millisecond."""
        self._switch(self._open)
        return {name: round(seconds, 3) for name, seconds in self._seconds.items()}

    def credit(self, earlier: Mapping[str, float]) -> None:
        """Add seconds that an earlier process of the run, or the run that a pretraining comes from, has taken."""
        for name, seconds in earlier.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _switch(self, name: str) -> str:
        """Close the open section, open another, and return the name of the closed one."""
        now_s, outer = time.perf_counter(), self._open
        self._seconds[outer] = self._seconds.get(outer, 0.0) + now_s - self._since_s
        self._open, self._since_s = name, now_s
        return outer


@dataclass
class Progress:
    """Everything that a checkpoint keeps of a run beside tensors."""

    state: TrainState = field(default_factory=TrainState)
    clock: Clock = field(default_factory=Clock)
    # Label change, dead and revived centroids of the pass at the end of the present epoch; empty until that pass.
    reassignment: dict[str, float] = field(default_factory=dict)
    raw: Scores | None = None  # scores of k-means on the raw data
    pretrained: Scores | None = None  # scores of k-means on the pretrained embedding
    # With ``joint.guard`` the labels (N,) of both, by their names, on the first process; in a second joint phase also
    # those of the "start", which the first one held, on every process.
    labels: dict[str, Tensor] = field(default_factory=dict)
    # With ``joint.guard`` the best states of the model so far, from the end of the pretraining on; see ``Guard``.
    kept: list[Kept] = field(default_factory=list)
    cache_key: str | None = None  # the key under which this run's pretraining may be cached; see ``pretrain.cache``

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def epoch(self) -> int:
        return self.state.epoch

    @property
    def seconds(self) -> dict[str, float]:
        return self.clock.seconds()

    def stage(self, has_joint_phase: bool) -> str:
        """Return which labels the run ends with: "joint", "initialization", or a baseline that was learned."""
        return self.state.restored or self.state.learned or ("joint" if has_joint_phase else "initialization")

    @property
    def baselines(self) -> dict[str, Scores | None]:
        """The scores of k-means, by the names that result and dashboard give them."""
        return dict(zip(BASELINES, (self.raw, self.pretrained), strict=True))
