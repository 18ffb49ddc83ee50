"""Settings outside the groups, and ``Config``, which contains all settings of a run."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from dkm.config.augmentation import AugmentationConfig
from dkm.config.checks import DEVICE, AtLeast, Between, Choice, EachOf, Fraction, NonNegative, Positive, require
from dkm.config.clustering import ClusteringConfig
from dkm.config.data import DataConfig
from dkm.config.groups import GROUPS
from dkm.config.model import ModelConfig
from dkm.config.optimizer import OptimizerConfig
from dkm.config.regularization import RegularizationConfig
from dkm.config.settings import REQUIRED, Role, Section, Stage, setting
from dkm.config.sinks import SINKS

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
        "Reduction of the squared error. `mean`: averaged over samples and features, like torch's MSELoss. `sum`: "
        "summed over features and averaged over samples, as in the code of the DKM papers.",
        check=Choice(REDUCTIONS),
    )


@dataclass
class PhaseConfig(Section):
    """Common settings of both phases."""

    epochs: int | None = setting(
        0,
        "Length of the phase. null: as many epochs as have at least `steps` steps.",
        role=Role.LENGTH,
        unit="epochs",
        check=AtLeast(0),
        example=100,
    )
    steps: int | None = setting(
        None,
        "Smallest number of steps, used if `epochs` is null: the work then hardly depends on the number of rows.",
        unit="steps",
        check=AtLeast(0),
        example=400,
    )
    lr: float = setting(1e-3, "Learning rate.", check=Positive(), example="1e-3")
    schedule: str = setting(
        "constant",
        "Learning rate schedule of the phase. `constant`. `cosine`: decreases to 0. `one_cycle`: increases to `lr` in "
        "the first 30 % of the steps, then decreases to 0.",
        check=Choice(SCHEDULES),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        is_known = self.epochs is not None or self.steps is not None
        key = f"{self.section}.epochs"
        require(is_known, key, None, f"a number, or {self.section}.steps beside it", f"for example {key}=100")

    @property
    def n_epochs(self) -> int:
        """The number of epochs of a phase that ``in_epochs`` has made definite."""
        assert self.epochs is not None
        return self.epochs


@dataclass
class PretrainConfig(PhaseConfig):
    """The first phase, which trains the autoencoder alone."""

    section: ClassVar[str] = "pretrain"
    stages: ClassVar[Stage] = Stage.TRAINING
    epochs: int | None = 100
    lr: float = 3e-3
    schedule: str = "one_cycle"
    optimizer: str | None = setting(
        None,
        "Optimizer of this phase only, with its default settings. null: the optimizer of the run.",
        check=Choice(tuple(GROUPS["optimizer"])),
    )
    neighbor_weight: float = setting(
        0.0,
        "Weight of the mean squared distance between the embedding and a neighbor embedding of the rows, in which the "
        "nearest neighbors attract each other and all other rows repel (UMAP's objective). 0: none is computed.",
        check=NonNegative(),
        example=1,
    )
    cache: str | None = setting(
        None,
        "Folder of a cache of pretrainings and scores of k-means on the raw data. Runs share an entry if everything "
        "that affects its numbers is equal (data, model, settings, seed, versions, processor, threads), so a run has "
        "the same results with and without the cache.",
        role=Role.PLACE,
    )


@dataclass
class JointConfig(PhaseConfig):
    """The second phase, which trains the autoencoder and the clustering loss together."""

    section: ClassVar[str] = "joint"
    stages: ClassVar[Stage] = Stage.JOINT
    epochs: int | None = 50
    lr: float = 1e-4
    tolerance: float = setting(
        0.001,
        "Stop when less than this fraction of the labels changes from one epoch to the next. 0: do not stop early.",
        check=Fraction(),
    )
    average_epochs: float = setting(
        0.0,
        "Time constant of an exponential moving average of the weights, which assignments, scores and the final model "
        "use. 0: the weights of the last step.",
        unit="epochs",
        check=NonNegative(),
        example=4,
    )
    hold_labels: bool = setting(
        False,
        "Whether the phase learns the clusters that it starts from: the rows are not assigned anew, and the phase ends "
        "when the nearest centroids give these labels but for `tolerance`. Of effect with `clustering=dcn`, and with "
        "`clustering=kmeans` and its `assignment=epoch`.",
    )
    guard: bool = setting(
        False,
        "Whether a run ends with its best clusters. Clusters are better than others if their modularity on the data "
        "is higher, and its geometric mean with the assortativity too (more even sizes alone are not better). "
        "Compared are those of k-means on the pretrained embedding, those after ten or more epochs of the joint "
        "phase (the first and every tenth one if its length is in epochs), and those at its end. If some are better "
        "than the end by more than 0.0005, that state of the model is restored. Before, if k-means on the raw data "
        "or on the pretrained embedding is better than what the joint phase would end with, a second one learns its "
        "labels. They are held; with methods that `hold_labels` does not affect, the phase only starts from them.",
    )


@dataclass
class CheckpointConfig(Section):
    """Checkpoints."""

    section: ClassVar[str] = "checkpoint"
    every_s: float = setting(
        30.0,
        "Time between two checkpoints; the end of each phase also writes one. The value does not affect the results "
        "of a resumed run.",
        role=Role.OUTPUT,
        unit="seconds",
        check=NonNegative(),
        example=30,
    )


@dataclass
class DistributedConfig(Section):
    """Several processes."""

    section: ClassVar[str] = "distributed"
    timeout_s: int = setting(
        600,
        "How long a process of a torchrun job may be silent, or reach an exchange later than the others, before the "
        "job ends with a checkpoint. Work that one process does for all, such as k-means, is not limited. Raise it if "
        "the jobs of a cluster are paused.",
        role=Role.OUTPUT,
        unit="seconds",
        check=AtLeast(1),
        example=3600,
    )


# The interval of the evaluations in epochs, also where `evaluation.every_epochs` is null and the epochs are few.
EVERY_EPOCHS = 10


@dataclass
class EvaluationConfig(Section):
    """Scores."""

    section: ClassVar[str] = "evaluation"
    every_epochs: int | None = setting(
        EVERY_EPOCHS,
        "Number of epochs between two evaluations. The first and the last epoch of a phase are always evaluated. null: "
        f"{EVERY_EPOCHS} or, in a phase whose length is a number of steps, a tenth of its epochs if that is more: with "
        "few rows, 800 steps are 800 epochs.",
        role=Role.EVALUATION,
        unit="epochs",
        check=AtLeast(1),
        stages=Stage.TRAINING,
    )
    samples: int = setting(
        100_000,
        "Largest number of points for the scores that use distances and for the map of the embedding. With more "
        "points, they use a fixed random sample of this size. Scores that compare with labels always use all points.",
        unit="points",
        check=AtLeast(2),
    )
    silhouette_samples: int = setting(
        10_000,
        "Size of the fixed random sample for the silhouette, which compares all pairs of points.",
        unit="points",
        check=AtLeast(2),
    )
    graph_samples: int = setting(
        10_000,
        "Size of the fixed random sample for the nearest-neighbor graph of the modularity on the data.",
        unit="points",
        check=AtLeast(2),
    )
    kmeans_raw: bool = setting(
        True,
        "Whether to run k-means on the raw data as a baseline. With many features this takes minutes. "
        "`joint.guard=true` runs it in any case.",
        role=Role.EVALUATION,
        stages=Stage.BASELINE,
    )


@dataclass
class LogConfig(Section):
    """Logging and figures."""

    section: ClassVar[str] = "log"
    to: list[str] = setting(
        ["tensorboard"],
        "Where the records, settings and results of the run are sent, beside `metrics.jsonl`, which is always written. "
        + " ".join(f"`{sink.name}`: {sink.meaning}." for sink in SINKS.values()),
        role=Role.OUTPUT,
        check=EachOf(SINKS),
    )
    tensorboard: bool = setting(
        True, "Whether `tensorboard` in `log.to` counts: `false` leaves it out.", role=Role.OUTPUT
    )
    figures: bool = setting(True, "Whether to draw figures, in TensorBoard and in `figures/`.", role=Role.OUTPUT)
    report: bool = setting(True, "Whether a finished run writes `report.html`.", role=Role.OUTPUT)
    progress: str = setting(
        "auto",
        "Display of progress. `bar`. `plain`: one line per evaluation. `off`. `auto`: `bar` on a terminal, `plain` "
        "elsewhere.",
        role=Role.OUTPUT,
        check=Choice(PROGRESS),
    )
    map: str = setting(
        "pca",
        "Projection of the embedding to two dimensions in figures. `pca`; `tsne` and `umap` (extra `umap`) take "
        "seconds per figure.",
        role=Role.OUTPUT,
        check=Choice(MAPS),
    )

    @property
    def sinks(self) -> list[str]:
        """The names of the sinks, each once."""
        return [name for name in dict.fromkeys(self.to) if name != "tensorboard" or self.tensorboard]


@dataclass
class Config(Section):
    """All settings of a run."""

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
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)

    batch_size: int = setting(256, "Number of rows per training step.", unit="rows", check=AtLeast(1))
    seed: int = setting(
        0,
        "Seed of all random numbers, except those of generated data.",
        check=Between(0, 2**31 - 1, "a whole number"),
    )
    device: str = setting(
        "auto",
        "`cpu`, `cuda` or `cuda:N`. `auto`: `cuda` if available, else `cpu`. `mps` is not supported.",
        role=Role.MACHINE,
        check=DEVICE,
        example="cpu",
    )
    precision: str = setting(
        "fp32",
        "Precision of the computation. `fp32`; `bf16`: autocast, with distances in fp32.",
        check=Choice(("fp32", "bf16")),
    )
    compile: bool = setting(
        False,
        "Whether to use torch.compile for the training step, with CUDA graphs on a GPU, where a step took 0.4 of the "
        "time. Compilation takes some seconds, and 20 or more on a CPU, where a step became no faster.",
    )
    threads: int | None = setting(
        None,
        "Number of CPU threads. null: OMP_NUM_THREADS, else all cores available to this process, shared with the other "
        "processes of a torchrun job on the machine.",
        role=Role.MACHINE,
        check=AtLeast(1),
        example=4,
    )
    deterministic: bool = setting(
        True,
        "Whether to use only deterministic algorithms. An operation without such an algorithm is an error.",
    )
    plugins: list[str] = setting(
        [],
        "Your own modules to import first, from the working directory or `PYTHONPATH`. They may add entries to the "
        "registries of methods, networks, data sets, scores, figures and sinks.",
        role=Role.OUTPUT,
    )
    safe_csv: bool = setting(
        False,
        "Whether ids, labels, texts and names of features in CSV files that begin with `=`, `+`, `-`, `@`, a tab or a "
        "line break, and are no numbers, get an apostrophe before them, and also one after each `;`, tab or line break "
        "in them that is followed by such a character. A spreadsheet would execute them as formulas: "
        "set it if you open the files in one and do not trust where the data come from.",
        role=Role.OUTPUT,
    )
    resume: str | None = setting(
        None,
        "Run directory to resume. `auto`: the run in the directory that `output=` names; without `output=`, the newest "
        "unfinished run of the same data with the same config next to the new run directory; in a sweep, the run in "
        "the directory of each job.",
        role=Role.PLACE,
    )

    @property
    def holds_labels(self) -> bool:
        """Whether ``joint.hold_labels`` is of effect: the joint phase learns the clusters that it starts from."""
        return self.joint.hold_labels and self.clustering.can_hold_labels


def in_epochs(config: Config, n_batches: int) -> Config:
    """Return the config with a number of epochs in both phases, ``n_batches`` steps each."""

    def definite(phase: Any) -> Any:
        return phase if phase.epochs is not None else replace(phase, epochs=math.ceil(phase.steps / n_batches))

    return replace(config, pretrain=definite(config.pretrain), joint=definite(config.joint))


def with_number(config: Config, n_clusters: int) -> Config:
    """Return the config with a number of clusters."""
    clustering = copy.copy(config.clustering)  # `replace` would lose fields that __init__ omits
    clustering.n_clusters = n_clusters
    return replace(config, clustering=clustering)
