"""Settings of a run outside the groups, and ``Config``, which holds all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from dkm.config.augmentation import AugmentationConfig
from dkm.config.checks import (
    require,
    require_at_least,
    require_choice,
    require_fraction,
    require_non_negative,
    require_positive,
)
from dkm.config.clustering import ClusteringConfig
from dkm.config.data import DataConfig
from dkm.config.groups import GROUPS
from dkm.config.model import ModelConfig
from dkm.config.optimizer import OptimizerConfig
from dkm.config.regularization import RegularizationConfig

REDUCTIONS = ("mean", "sum")


SCHEDULES = ("constant", "cosine", "one_cycle")


PROGRESS = ("auto", "bar", "plain", "off")


MAPS = ("pca", "tsne", "umap")


@dataclass
class LossConfig:
    # Of the reconstruction error: mean (over samples and features, torch's MSELoss) | sum (over features, mean over
    # samples, as in the DKM papers' code).
    reduction: str = "mean"

    def __post_init__(self) -> None:
        require_choice("loss.reduction", self.reduction, REDUCTIONS)


@dataclass
class PhaseConfig:
    section: ClassVar[str]
    epochs: int = 0
    lr: float = 1e-3
    # constant | cosine (to 0 over the phase) | one_cycle (up to lr in the first 30 %, then down to 0).
    schedule: str = "constant"

    def __post_init__(self) -> None:
        require_at_least(f"{self.section}.epochs", self.epochs, 0, 100)
        require_positive(f"{self.section}.lr", self.lr, "1e-3")
        require_choice(f"{self.section}.schedule", self.schedule, SCHEDULES)


@dataclass
class PretrainConfig(PhaseConfig):
    section: ClassVar[str] = "pretrain"
    epochs: int = 100
    lr: float = 3e-3
    schedule: str = "one_cycle"
    # null: the run's optimizer. adam | adamw | sgd: this one, with its defaults, in this phase only.
    optimizer: str | None = None
    # A folder that keeps finished pretrainings, so that runs which begin with the same one share it. The key is made of
    # all that decides the numbers (data, model, settings, seed, versions, processor, threads): a run ends the same with
    # it and without. Also kept: the scores of k-means on the raw data.
    cache: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer is not None:
            require_choice("pretrain.optimizer", self.optimizer, tuple(GROUPS["optimizer"]))


@dataclass
class JointConfig(PhaseConfig):
    section: ClassVar[str] = "joint"
    epochs: int = 50
    lr: float = 1e-4
    # Stop when less than this fraction of the labels changed from one epoch to the next; 0: never.
    tolerance: float = 0.001
    # Assignments, scores and the final model take the weights averaged over about this many epochs, exponentially.
    # 0: the weights as the last step left them.
    average_epochs: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("joint.tolerance", self.tolerance, "0.001")
        require_non_negative("joint.average_epochs", self.average_epochs, "4")


@dataclass
class CheckpointConfig:
    # A checkpoint is written when this many seconds have passed since the last one, and at the end of each phase. A
    # resumed run ends the same whatever this is.
    every_s: float = 30.0

    def __post_init__(self) -> None:
        require_non_negative("checkpoint.every_s", self.every_s, "30")


@dataclass
class EvaluationConfig:
    # Epochs between two evaluations; the first and the last epoch of a phase are always evaluated.
    every_epochs: int = 10
    # Of more points than this, scores that look at distances, and the map of the embedding, see a fixed random sample
    # of this many. Scores that compare with labels always take all points.
    samples: int = 100_000
    # The silhouette compares all pairs of points: it is taken on a fixed random sample of at most this many. The graph
    # of neighbors in which the modularity on the data is counted has as many.
    silhouette_samples: int = 10_000
    # Whether k-means on the raw data is run too, the baseline; of wide data it takes minutes.
    kmeans_raw: bool = True

    def __post_init__(self) -> None:
        require_at_least("evaluation.every_epochs", self.every_epochs, 1, 10)
        require_at_least("evaluation.samples", self.samples, 2, 100_000)
        require_at_least("evaluation.silhouette_samples", self.silhouette_samples, 2, 10_000)


@dataclass
class LogConfig:
    tensorboard: bool = True
    # Pictures in TensorBoard and in figures/.
    figures: bool = True
    # bar | plain (one line per evaluation) | off; auto: bar on a terminal, plain elsewhere.
    progress: str = "auto"
    # The embedding's two dimensions in pictures. pca | tsne | umap (needs the extra `umap`): seconds for each picture.
    map: str = "pca"

    def __post_init__(self) -> None:
        require_choice("log.progress", self.progress, PROGRESS)
        require_choice("log.map", self.map, MAPS)


@dataclass
class Config:
    """A whole run."""

    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    clustering: ClusteringConfig = MISSING
    regularization: RegularizationConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    augmentation: AugmentationConfig = MISSING
    loss: LossConfig = field(default_factory=LossConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)

    batch_size: int = 256
    seed: int = 0
    # auto (cuda, else cpu) | cpu | cuda | cuda:N; mps is known, and refused
    device: str = "auto"
    # fp32 | bf16 (autocast; distances stay in fp32)
    precision: str = "fp32"
    # torch.compile for the training step, as CUDA graphs on a GPU, where a step took 0.4 of the time. It takes some
    # seconds at the start, 20 or more on a CPU, where it gained nothing.
    compile: bool = False
    # CPU threads. null: OMP_NUM_THREADS, else all cores that this process may use, shared with the other processes of
    # a torchrun job on the machine. The number of threads decides the last bits of the results.
    threads: int | None = None
    # Only algorithms that give the same bits each time; an operation without one is an error.
    deterministic: bool = True
    # A run directory to continue in, or auto: the newest unfinished run of the same config beside this one;
    # in a sweep the one that each run has in its directory.
    resume: str | None = None

    def __post_init__(self) -> None:
        require_at_least("batch_size", self.batch_size, 1, 256)
        require(
            0 <= self.seed < 2**31,
            "seed",
            self.seed,
            "a whole number from 0 to 2147483647",
            "for example seed=0",
        )
        kind, _, number = self.device.partition(":")
        ok = self.device in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and number.isdecimal())
        require(ok, "device", self.device, "one of auto, cpu, cuda, cuda:N", "for example device=cpu")
        require_choice("precision", self.precision, ("fp32", "bf16"))
        if self.threads is not None:
            require_at_least("threads", self.threads, 1, 4)
