"""Settings of a run outside the groups, and ``Config``, which holds all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from dkm.config.augmentation import AugmentationConfig
from dkm.config.checks import AtLeast, Between, Choice, Fraction, NonNegative, Positive, Satisfies
from dkm.config.clustering import ClusteringConfig
from dkm.config.data import DataConfig
from dkm.config.groups import GROUPS
from dkm.config.model import ModelConfig
from dkm.config.optimizer import OptimizerConfig
from dkm.config.regularization import RegularizationConfig
from dkm.config.settings import REQUIRED, Role, Section, Stage, setting

REDUCTIONS = ("mean", "sum")


SCHEDULES = ("constant", "cosine", "one_cycle")


PROGRESS = ("auto", "bar", "plain", "off")


MAPS = ("pca", "tsne", "umap")


@dataclass
class LossConfig(Section):
    """The reconstruction error."""

    section: ClassVar[str] = "loss"
    stages: ClassVar[Stage] = Stage.TRAINING
    reduction: str = setting(
        "mean",
        "`mean`: the squared error averaged over samples and features, torch's MSELoss. `sum`: summed over features "
        "and averaged over samples, as in the code of the DKM papers.",
        check=Choice(REDUCTIONS),
    )


@dataclass
class PhaseConfig(Section):
    """What both phases have."""

    epochs: int = setting(0, "Length of the phase.", role=Role.LENGTH, unit="epochs", check=AtLeast(0), example=100)
    lr: float = setting(1e-3, "Learning rate.", check=Positive(), example="1e-3")
    schedule: str = setting(
        "constant",
        "Learning rate over the phase. `constant`; `cosine`: to 0; `one_cycle`: up to `lr` in the first 30 %, then "
        "down to 0.",
        check=Choice(SCHEDULES),
    )


@dataclass
class PretrainConfig(PhaseConfig):
    """The first phase, which trains the autoencoder alone."""

    section: ClassVar[str] = "pretrain"
    stages: ClassVar[Stage] = Stage.TRAINING
    epochs: int = 100
    lr: float = 3e-3
    schedule: str = "one_cycle"
    optimizer: str | None = setting(
        None,
        "The optimizer of this phase alone, with its defaults. null: the optimizer of the run.",
        check=Choice(tuple(GROUPS["optimizer"])),
    )
    cache: str | None = setting(
        None,
        "A folder that keeps finished pretrainings, and the scores of k-means on the raw data, so that runs that begin "
        "in the same way share them. The key has all that decides the numbers (data, model, settings, seed, versions, "
        "processor, threads): a run ends the same with the folder and without it.",
        role=Role.PLACE,
    )


@dataclass
class JointConfig(PhaseConfig):
    """The second phase, which trains the autoencoder and the clustering loss together."""

    section: ClassVar[str] = "joint"
    stages: ClassVar[Stage] = Stage.JOINT
    epochs: int = 50
    lr: float = 1e-4
    tolerance: float = setting(
        0.001,
        "Stop when less than this fraction of the labels changes from one epoch to the next. 0: never.",
        check=Fraction(),
    )
    average_epochs: float = setting(
        0.0,
        "Assignments, scores and the final model use weights averaged exponentially over about this many epochs. 0: "
        "the weights of the last step.",
        unit="epochs",
        check=NonNegative(),
        example=4,
    )


@dataclass
class CheckpointConfig(Section):
    """Checkpoints."""

    section: ClassVar[str] = "checkpoint"
    every_s: float = setting(
        30.0,
        "A checkpoint is written when this much time has passed since the last one, and at the end of each phase. A "
        "resumed run ends the same whatever this is.",
        role=Role.OUTPUT,
        unit="seconds",
        check=NonNegative(),
        example=30,
    )


@dataclass
class EvaluationConfig(Section):
    """Scores."""

    section: ClassVar[str] = "evaluation"
    every_epochs: int = setting(
        10,
        "Epochs between two evaluations; the first and the last epoch of a phase are always evaluated.",
        role=Role.EVALUATION,
        unit="epochs",
        check=AtLeast(1),
        stages=Stage.TRAINING,
    )
    samples: int = setting(
        100_000,
        "With more points than this, scores that look at distances, and the map of the embedding, see a fixed random "
        "sample of this size. Scores that compare with labels always use all points.",
        unit="points",
        check=AtLeast(2),
    )
    silhouette_samples: int = setting(
        10_000,
        "Size of the fixed random sample on which the silhouette is computed, because it compares all pairs of points, "
        "and of the graph of neighbors in which the modularity on the data is computed.",
        unit="points",
        check=AtLeast(2),
    )
    kmeans_raw: bool = setting(
        True,
        "Whether to run k-means on the raw data too, as the baseline; on wide data this takes minutes.",
        role=Role.EVALUATION,
        stages=Stage.BASELINE,
    )


@dataclass
class LogConfig(Section):
    """What a run shows."""

    section: ClassVar[str] = "log"
    tensorboard: bool = setting(True, "Whether to write TensorBoard events.", role=Role.OUTPUT)
    figures: bool = setting(True, "Whether to draw pictures, in TensorBoard and in `figures/`.", role=Role.OUTPUT)
    progress: str = setting(
        "auto",
        "`bar`; `plain`: one line per evaluation; `off`. `auto`: a bar on a terminal, plain elsewhere.",
        role=Role.OUTPUT,
        check=Choice(PROGRESS),
    )
    map: str = setting(
        "pca",
        "How pictures project the embedding to two dimensions. `pca`; `tsne` and `umap` (extra `umap`) take seconds "
        "for each picture.",
        role=Role.OUTPUT,
        check=Choice(MAPS),
    )


def _is_device(name: Any) -> bool:
    kind, _, number = str(name).partition(":")
    return name in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and number.isdecimal())


@dataclass
class Config(Section):
    """A whole run."""

    data: DataConfig = REQUIRED
    model: ModelConfig = REQUIRED
    clustering: ClusteringConfig = REQUIRED
    regularization: RegularizationConfig = REQUIRED
    optimizer: OptimizerConfig = REQUIRED
    augmentation: AugmentationConfig = REQUIRED
    loss: LossConfig = field(default_factory=LossConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)

    batch_size: int = setting(256, "Rows of a training step.", unit="rows", check=AtLeast(1))
    seed: int = setting(
        0,
        "Seed of everything that is random, except for generated data.",
        check=Between(0, 2**31 - 1, "a whole number"),
    )
    device: str = setting(
        "auto",
        "`cpu`, `cuda` or `cuda:N`; `auto`: cuda where there is one, else cpu. `mps` is known, and refused.",
        role=Role.MACHINE,
        check=Satisfies("one of auto, cpu, cuda, cuda:N", _is_device),
        example="cpu",
    )
    precision: str = setting(
        "fp32",
        "`fp32`; `bf16`: autocast, with distances in fp32.",
        check=Choice(("fp32", "bf16")),
    )
    compile: bool = setting(
        False,
        "Whether to use torch.compile for the training step, as CUDA graphs on a GPU, where a step took 0.4 of the "
        "time. It takes some seconds at the start, and 20 or more on a CPU, where it gained nothing.",
    )
    threads: int | None = setting(
        None,
        "CPU threads. null: OMP_NUM_THREADS, else all cores that this process may use, shared with the other processes "
        "of a torchrun job on the machine.",
        role=Role.MACHINE,
        check=AtLeast(1),
        example=4,
    )
    deterministic: bool = setting(
        True,
        "Use only algorithms that give the same bits each time; an operation without such an algorithm is an error.",
    )
    plugins: list[str] = setting(
        [],
        "Modules of your own that are imported first, from the working directory or `PYTHONPATH`. They may add to the "
        "registries of methods, networks, data sets, scores and figures.",
        role=Role.OUTPUT,
    )
    resume: str | None = setting(
        None,
        "A run directory to continue in. `auto`: the newest unfinished run of the same config beside this one; in a "
        "sweep the one that each run has in its directory.",
        role=Role.PLACE,
    )
