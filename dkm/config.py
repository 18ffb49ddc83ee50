"""Every setting of a run: one dataclass per section or group option, with its range checks.

The dataclasses are the single place where a setting has its type, default and meaning. ``register`` puts them into
Hydra's ConfigStore, where the YAML files of ``configs/`` pick them up as schemas; ``from_dictconfig`` turns what Hydra
composed into these objects and refuses whatever does not fit. Nothing here imports torch, so that a wrong override and
``--cfg job`` answer in a fraction of the time that ``import torch`` takes.
"""

from __future__ import annotations

import codecs
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)


class UserError(Exception):
    """Something that the user can mend: the message is one line that names key or file, value, expectation, remedy."""


class Failure(Exception):
    """What ended a run though the input was right: the message is one line."""


def config_dir() -> Path:
    """Return the folder of the YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


# --- checks -------------------------------------------------------------------------------------------------------


def require(ok: bool, key: str, value: object, expected: str, remedy: str) -> None:
    """Raise ``UserError`` in the one form that every message about a setting has."""
    if not ok:
        raise UserError(f"{key}={_show(value)}: expected {expected}; {remedy}")


def _show(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _positive(key: str, value: float, example: str) -> None:
    ok = math.isfinite(value) and value > 0
    require(ok, key, value, "a finite number above 0", f"for example {key}={example}")


def _non_negative(key: str, value: float, example: str) -> None:
    ok = math.isfinite(value) and value >= 0
    require(ok, key, value, "a finite number, 0 or more", f"for example {key}={example}")


def _at_least(key: str, value: int, least: int, example: int) -> None:
    require(value >= least, key, value, f"a whole number, {least} or more", f"for example {key}={example}")


def _fraction(key: str, value: float, example: str) -> None:
    require(0 <= value < 1, key, value, "a number from 0 to below 1", f"for example {key}={example}")


def _choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    near = difflib.get_close_matches(str(value), choices, n=1)
    remedy = f"did you mean {key}={near[0]}?" if near else f"choose one, for example {key}={choices[0]}"
    require(value in choices, key, value, "one of " + ", ".join(choices), remedy)


# --- data ---------------------------------------------------------------------------------------------------------

SCALINGS = ("none", "unit", "symmetric", "rms", "standard", "l2", "row_rms")
SPLITS = ("all", "train", "test")
LOADS = ("auto", "memory", "disk")


@dataclass
class DataConfig:
    """What every data set has. ``name`` says which one it is and cannot be overridden on its own."""

    name: str = MISSING
    # Where data sets are cached and looked for.
    root: str = "${oc.env:DKM_DATA_ROOT,./data}"
    # none | unit (one range for all features, to [0, 1]) | symmetric (to [-1, 1]) | rms (divided by one number, so that
    # squares are 1 on average) | standard (each feature to mean 0, variance 1) | l2 (each row to length 1) | row_rms
    # (each row to mean square 1). null: what suits the data set (unit for images, standard for tables, row_rms for text
    # and sparse matrices). Fitted once on the training data and stored with the model.
    scaling: str | None = None

    def __post_init__(self) -> None:
        if self.scaling is not None:
            _choice("data.scaling", self.scaling, SCALINGS)


@dataclass
class DigitsData(DataConfig):
    """scikit-learn's handwritten digits: 1,797 images of 8x8, 10 classes; nothing to download."""

    name: str = "digits"


@dataclass
class TorchvisionData(DataConfig):
    """An image data set of torchvision (``mnist``, ``fashion_mnist``, ``kmnist``, ``usps``, ``cifar10``, ``stl10``)."""

    # all (train and test joined, as in the papers) | train | test
    split: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("data.split", self.split, SPLITS)


@dataclass
class NewsgroupsData(DataConfig):
    """20 Newsgroups as TF-IDF: all 18,846 documents with their headers, as in the DKM paper (arXiv:1806.10069)."""

    name: str = "newsgroups"
    # The vocabulary: the most frequent terms.
    n_terms: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("data.n_terms", self.n_terms, 1, 2000)


@dataclass
class SyntheticData(DataConfig):
    """What the generated data sets share. ``generator_seed`` is apart from ``seed``: new weights, the same points."""

    n_samples: int = 2000
    generator_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("data.n_samples", self.n_samples, 1, 2000)
        ok = 0 <= self.generator_seed < 2**32
        example = "for example data.generator_seed=0"
        require(ok, "data.generator_seed", self.generator_seed, "a whole number from 0 to 4294967295", example)


@dataclass
class BlobsData(SyntheticData):
    """Gaussian balls of equal size in ``n_features`` dimensions."""

    name: str = "blobs"
    n_features: int = 16
    n_blobs: int = 5
    # Standard deviation of a blob; the centers are uniform in [-10, 10] along each axis.
    blob_std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("data.n_features", self.n_features, 1, 16)
        _at_least("data.n_blobs", self.n_blobs, 1, 5)
        _positive("data.blob_std", self.blob_std, "1.0")


@dataclass
class MoonsData(SyntheticData):
    """Two interleaving half circles in the plane: no two centroids separate them, so k-means on the raw data fails."""

    name: str = "moons"
    # Standard deviation of the Gaussian noise; the half circles have radius 1.
    noise: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        _non_negative("data.noise", self.noise, "0.05")


@dataclass
class FileData(DataConfig):
    """A file of the user's own."""

    path: str = MISSING
    # Labels only ever score the finished clustering. null: there are none.
    labels: str | None = None


@dataclass
class NpyData(FileData):
    """An array in a ``.npy`` file: (N, F) rows, (N, H, W), (N, C, H, W) or (N, H, W, C) images.

    ``path`` may also be a folder of such files, which are joined in the order of their names (as text: ``10`` comes
    before ``2``). ``labels``: another ``.npy`` file.
    """

    name: str = "npy"
    # memory | disk (rows are read when they are needed) | auto: disk for more than 1 GiB as float32. That number is
    # the same on every machine, because batches are drawn in another way from disk.
    load: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("data.load", self.load, LOADS)


@dataclass
class NpzData(FileData):
    """An array in a ``.npz`` file, shaped as for ``npy``, or a sparse matrix of ``scipy.sparse.save_npz``.

    ``labels``: the name of an array in the same file, or a ``.npy`` file.
    """

    name: str = "npz"
    # Which array holds the data. null: `x`, `X`, `data`, or the only one.
    array: str | None = None


MISSING_VALUES = ("refuse", "drop", "median")
DELIMITERS = ("comma", "semicolon", "tab", "pipe", "space")


@dataclass
class TableData(FileData):
    """A table with named columns, all of them numbers. ``labels``: the name of a column."""

    # The features; null: all columns but the labels, the id and those of `exclude`.
    columns: list[str] | None = None
    # Columns to leave out.
    exclude: list[str] = field(default_factory=list)
    # A column that is carried into the answers and is no feature. null: the first column if it has no name, as pandas
    # writes its index.
    id: str | None = None
    # A row without a value: refuse | drop (leave it out) | median (of the column, kept with the model).
    missing: str = "refuse"

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("data.missing", self.missing, MISSING_VALUES)
        if self.columns is not None:
            example = "for example data.columns=[age,income], or null for all"
            require(len(self.columns) > 0, "data.columns", "[]", "one column or more", example)


@dataclass
class CsvData(TableData):
    """A CSV file, also compressed (``.gz``, ``.bz2``, ``.xz``, ``.zip``)."""

    name: str = "csv"
    # comma | semicolon | tab | pipe | space; null: what the first line has most of.
    delimiter: str | None = None
    # Whether the first row has the names of the columns. null: unless it has only numbers. Without names the columns
    # are called 0, 1, 2, ...
    header: bool | None = None
    encoding: str = "utf-8"
    # What stands for a missing value, besides an empty cell, NA, NaN, null and the like.
    missing_values: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delimiter is not None:
            _choice("data.delimiter", self.delimiter, DELIMITERS)
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            example = "for example data.encoding=latin-1"
            require(False, "data.encoding", self.encoding, "an encoding that Python knows", example)


@dataclass
class ParquetData(TableData):
    """A Parquet file; needs pyarrow (``pip install 'dkm[parquet]'``)."""

    name: str = "parquet"


COLORS = ("auto", "gray", "rgb")


@dataclass
class ImageFolderData(FileData):
    """PNG and JPEG images below a folder, however nested, each resized to one size.

    ``labels``: ``folder`` takes the name of the folder below ``path`` that an image is in.
    """

    name: str = "image_folder"
    # Height and width in pixels.
    image_size: int = 32
    # gray | rgb | auto: rgb if any image has colors.
    color: str = "auto"
    # The run ends if more than this fraction of the images cannot be read; fewer are listed and left out.
    max_unreadable: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("data.image_size", self.image_size, 1, 32)
        _choice("data.color", self.color, COLORS)
        ok = 0 <= self.max_unreadable <= 1
        example = "for example data.max_unreadable=0.01"
        require(ok, "data.max_unreadable", self.max_unreadable, "a number from 0 to 1", example)
        ok = self.labels in (None, "folder")
        require(ok, "data.labels", self.labels, "null or folder", "for example data.labels=folder")


# --- model --------------------------------------------------------------------------------------------------------


INITIAL_WEIGHTS = ("fan_in", "glorot")


@dataclass
class ModelConfig:
    name: str = MISSING
    # Dimensions of the embedding; null: the number of clusters, as in the papers.
    latent_dim: int | None = None
    # fan_in (uniform, +-1/sqrt(inputs): torch's and the DEC family's) | glorot (uniform, +-sqrt(6/(inputs + outputs)):
    # TensorFlow's, and so of the codes of DKM and DCN). Biases are zero.
    initial_weights: str = "fan_in"

    def __post_init__(self) -> None:
        if self.latent_dim is not None:
            _at_least("model.latent_dim", self.latent_dim, 1, 10)
        _choice("model.initial_weights", self.initial_weights, INITIAL_WEIGHTS)


@dataclass
class MLPConfig(ModelConfig):
    """Fully connected: features-500-500-2000-latent and its mirror, ReLU, linear ends."""

    name: str = "mlp"
    hidden: list[int] = field(default_factory=lambda: [500, 500, 2000])

    def __post_init__(self) -> None:
        super().__post_init__()
        example = "for example model.hidden=[500,500]"
        is_flat = all(isinstance(width, int) for width in self.hidden)
        require(is_flat, "model.hidden", list(self.hidden), "a list [...] of whole numbers", example)
        require(all(w >= 1 for w in self.hidden), "model.hidden", list(self.hidden), "widths of 1 or more", example)


@dataclass
class ConvConfig(ModelConfig):
    """Convolutional, for images: the autoencoder of DEC-DA (Guo et al., ACML 2018)."""

    name: str = "conv"
    filters: list[int] = field(default_factory=lambda: [32, 64, 128])

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = len(self.filters) == 3 and all(n >= 1 for n in self.filters)
        require(
            ok,
            "model.filters",
            list(self.filters),
            "three whole numbers of 1 or more",
            "for example model.filters=[32,64,128]",
        )


# --- clustering ---------------------------------------------------------------------------------------------------

INITS = ("k-means++", "random", "gmm", "spectral", "ward", "auto", "uniform", "file")
ASSIGNMENTS = ("epoch", "batch")
CENTROIDS = ("gradient", "mean", "fixed")
ALPHA_SCHEDULES = ("constant", "annealed")


@dataclass
class ClusteringConfig:
    name: str = MISSING
    # null: the number of classes where the data set has labels.
    n_clusters: int | None = None
    # The clusters that the joint phase starts from. k-means on the embedding, started by k-means++ | random (distinct
    # points). Other clusterings of the embedding, which see stretched clouds: gmm (mixture of Gaussians with full
    # covariances) | spectral (on the graph of nearest neighbors) | ward | auto (all these and
    # k-means, improved point by point, and then the one with the highest modularity in the graph of nearest neighbors).
    # Or no clustering: uniform (centroids drawn from -1 to 1 in each dimension) | file (init_file).
    init: str = "k-means++"
    # With init=file, a .npy file of the cluster of each point, integers (N,), or of centroids, floats (K, D).
    init_file: str | None = None
    # Restarts of k-means: on the raw data the one with the lowest inertia wins, on the embedding see balance_slack.
    n_init: int = 20
    # Restarts on the embedding whose inertia is within this fraction of the lowest count as equal, and the one with the
    # most even cluster sizes wins: two classes under one centroid and another one halved show in the sizes, hardly in
    # the inertia. 0: the lowest inertia. k-means on the raw data always takes the lowest.
    balance_slack: float = 0.03
    # Of more points than this, k-means, on the raw data and on the embedding, sees a fixed random sample of this many;
    # all points are then assigned to the centroids that it found. Of rows on disk, no more than take 1 GiB.
    init_samples: int = 100_000

    # gmm, spectral, ward and auto find the clusters on at most this many points; the others follow their neighbors.
    partition_samples: int = 10_000
    # Of the graph of spectral; auto has it from one to four times as wide.
    n_neighbors: int = 20
    # auto: candidates whose modularity is within this of the highest count as equal, and the one with the most even
    # cluster sizes wins, as with balance_slack. 0: the highest modularity.
    modularity_slack: float = 0.002

    def __post_init__(self) -> None:
        if self.n_clusters is not None:
            _at_least("clustering.n_clusters", self.n_clusters, 1, 10)
        _at_least("clustering.partition_samples", self.partition_samples, 1, 10_000)
        _at_least("clustering.n_neighbors", self.n_neighbors, 1, 20)
        _non_negative("clustering.modularity_slack", self.modularity_slack, "0.002")
        _choice("clustering.init", self.init, INITS)
        ok = (self.init == "file") == (self.init_file is not None)
        expected = "a .npy file, with clustering.init=file and only then"
        require(ok, "clustering.init_file", self.init_file, expected, "set both or neither")
        _at_least("clustering.n_init", self.n_init, 1, 20)
        _non_negative("clustering.balance_slack", self.balance_slack, "0.03")
        _at_least("clustering.init_samples", self.init_samples, 1, 100_000)
        if self.n_clusters is not None:
            ok = self.init_samples >= self.n_clusters
            expected = f"at least clustering.n_clusters={self.n_clusters}"
            require(ok, "clustering.init_samples", self.init_samples, expected, "raise it")
            ok = self.partition_samples >= self.n_clusters
            require(ok, "clustering.partition_samples", self.partition_samples, expected, "raise it")


@dataclass
class JointClusteringConfig(ClusteringConfig):
    """What all clustering losses have."""

    # Of the clustering loss (summed over latent dimensions, mean over samples) beside the reconstruction.
    weight: float = 0.1
    # Of the reconstruction in the joint phase. 0: the decoder stays as pretraining left it.
    reconstruction: float = 1.0
    # Every so many joint epochs, mix fresh weights into the encoder, all layers but the last, and cluster the embedding
    # anew by k-means (BRB, arXiv 2411.02275). null: never.
    reset_every: int | None = None
    # Of the fresh weights in the mixture.
    reset_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _non_negative("clustering.weight", self.weight, "0.1")
        _non_negative("clustering.reconstruction", self.reconstruction, "1")
        if self.reset_every is not None:
            _at_least("clustering.reset_every", self.reset_every, 1, 20)
        key, ok = "clustering.reset_fraction", 0 <= self.reset_fraction <= 1
        require(ok, key, self.reset_fraction, "a number from 0 to 1", f"for example {key}=0.2")


@dataclass
class KMeansConfig(JointClusteringConfig):
    """The k-means loss with learnable centroids."""

    name: str = "kmeans"
    # epoch: from one clean pass over all data, held for the epoch | batch: the nearest centroid in every batch.
    assignment: str = "epoch"
    # With assignment=epoch, keep the labels that the phase starts with for its first epochs: the centroids are not yet
    # where the nearest one is the right one. 1: those of the first epoch only.
    initial_epochs: int = 1
    # Move a centroid that no point is assigned to onto the point that is worst served, and reset its optimizer state.
    revive: bool = True
    # gradient: learned with the network | mean: set after every epoch to the mean of its points, the minimum of the
    # loss | fixed: as the joint phase found them.
    centroids: str = "gradient"
    # In each epoch but the first, leave out the points that are farther from their centroids than the mean distance
    # plus a multiple of its standard deviation that grows from 0 to 1 over the phase (ASPC-DA).
    self_paced: bool = False
    # Of -|z|^2 in the loss, against the gain from a shrinking embedding; 1 in soft regularized k-means.
    norm_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("clustering.assignment", self.assignment, ASSIGNMENTS)
        _at_least("clustering.initial_epochs", self.initial_epochs, 1, 3)
        _choice("clustering.centroids", self.centroids, CENTROIDS)
        _non_negative("clustering.norm_weight", self.norm_weight, "0")
        is_held = self.assignment == "epoch"
        for key, ok in (("self_paced", not self.self_paced), ("centroids", self.centroids != "mean")):
            expected = "clustering.assignment=epoch beside it"
            require(ok or is_held, f"clustering.{key}", getattr(self, key), expected, "hold the assignments")


@dataclass
class DKMConfig(JointClusteringConfig):
    """Deep k-means: the mean over centroids of the squared distances, weighted by a softmin (arXiv:1806.10069)."""

    name: str = "dkm"
    # As with assignments for each batch, a large weight empties clusters.
    weight: float = 0.01
    # constant: alpha | annealed: from alpha_start upwards, by less and less, once in epochs_per_alpha epochs.
    schedule: str = "constant"
    # Inverse temperature of the softmin; 1000 is nearly the hard minimum.
    alpha: float = 1000.0
    alpha_start: float = 0.1
    epochs_per_alpha: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _choice("clustering.schedule", self.schedule, ALPHA_SCHEDULES)
        _positive("clustering.alpha", self.alpha, "1000")
        _positive("clustering.alpha_start", self.alpha_start, "0.1")
        _at_least("clustering.epochs_per_alpha", self.epochs_per_alpha, 1, 5)


@dataclass
class DCNConfig(JointClusteringConfig):
    """Deep clustering network: the k-means loss, and centroids that are running means (arXiv:1610.04794)."""

    name: str = "dcn"
    # What each centroid counts as at the start, in points: the n-th point after that moves it by 1 / (count + n) of the
    # way. 100 in the authors' code, not in the paper.
    count: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("clustering.count", self.count, 0, 100)


@dataclass
class DECConfig(JointClusteringConfig):
    """Deep embedded clustering: Student's t assignments drawn towards sharper ones, no decoder (arXiv:1511.06335)."""

    name: str = "dec"
    weight: float = 1.0
    reconstruction: float = 0.0
    # Steps from one computation of the targets, from all data, to the next. null: once before every epoch.
    update_interval: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update_interval is not None:
            _at_least("clustering.update_interval", self.update_interval, 1, 140)


@dataclass
class IDECConfig(DECConfig):
    """Improved DEC: the same beside the reconstruction (Guo et al., IJCAI 2017)."""

    name: str = "idec"
    weight: float = 0.1
    reconstruction: float = 1.0


@dataclass
class NoClusteringConfig(ClusteringConfig):
    """No joint phase: the autoencoder, then k-means on its embedding."""

    name: str = "none"


# --- regularization, optimizer, augmentation ----------------------------------------------------------------------

REGULARIZED = ("weights", "all", "encoder", "decoder")


@dataclass
class RegularizationConfig:
    name: str = MISSING


@dataclass
class _StrengthConfig(RegularizationConfig):
    # s in s/2 * sum(w^2), whichever of the two forms computes it.
    strength: float = 1e-6
    # weights (all weight matrices) | encoder | decoder (the weight matrices of one half) | all (weights, biases, norms
    # and centroids).
    parameters: str = "weights"

    def __post_init__(self) -> None:
        _non_negative("regularization.strength", self.strength, "1e-6")
        _choice("regularization.parameters", self.parameters, REGULARIZED)


@dataclass
class WeightDecayConfig(_StrengthConfig):
    """The optimizer adds ``strength * w`` to the gradient; under SGD and Adam the same training as ``l2_penalty``."""

    name: str = "weight_decay"


@dataclass
class L2PenaltyConfig(_StrengthConfig):
    """``strength / 2 * sum(w^2)`` is a term of the loss."""

    name: str = "l2_penalty"


@dataclass
class NoRegularizationConfig(RegularizationConfig):
    name: str = "none"


@dataclass
class OptimizerConfig:
    """The learning rates stand with their phases: ``pretrain.lr`` and ``joint.lr``."""

    name: str = MISSING


@dataclass
class AdamConfig(OptimizerConfig):
    name: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8

    def __post_init__(self) -> None:
        ok = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        require(
            ok,
            "optimizer.betas",
            list(self.betas),
            "two numbers from 0 to below 1",
            "for example optimizer.betas=[0.9,0.999]",
        )
        _positive("optimizer.eps", self.eps, "1e-8")


@dataclass
class AdamWConfig(AdamConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101), which is not the L2 regularization of the loss."""

    name: str = "adamw"


@dataclass
class SGDConfig(OptimizerConfig):
    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        _fraction("optimizer.momentum", self.momentum, "0.9")
        ok = not (self.nesterov and self.momentum == 0)
        require(
            ok,
            "optimizer.nesterov",
            self.nesterov,
            "a momentum above 0 with it",
            "set optimizer.momentum=0.9",
        )


@dataclass
class AugmentationConfig:
    name: str = MISSING


@dataclass
class AffineConfig(AugmentationConfig):
    """Random rotation and shift of images, the ranges of DEC-DA (Guo et al., ACML 2018)."""

    name: str = "affine"
    # Rotations are uniform in [-rotation, rotation], in degrees.
    rotation: float = 10.0
    # Shifts along each axis are uniform in [-shift, shift], as a fraction of the image's side.
    shift: float = 0.1

    def __post_init__(self) -> None:
        ok = 0 <= self.rotation <= 180
        require(
            ok,
            "augmentation.rotation",
            self.rotation,
            "degrees from 0 to 180",
            "for example augmentation.rotation=10",
        )
        _fraction("augmentation.shift", self.shift, "0.1")


@dataclass
class AutoAugmentationConfig(AffineConfig):
    """``affine`` for images, ``none`` for tables and text."""

    name: str = "auto"


@dataclass
class NoAugmentationConfig(AugmentationConfig):
    name: str = "none"


# --- plain sections -----------------------------------------------------------------------------------------------

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
        _choice("loss.reduction", self.reduction, REDUCTIONS)


@dataclass
class PhaseConfig:
    section: ClassVar[str]
    epochs: int = 0
    lr: float = 1e-3
    # constant | cosine (to 0 over the phase) | one_cycle (up to lr in the first 30 %, then down to 0).
    schedule: str = "constant"

    def __post_init__(self) -> None:
        _at_least(f"{self.section}.epochs", self.epochs, 0, 100)
        _positive(f"{self.section}.lr", self.lr, "1e-3")
        _choice(f"{self.section}.schedule", self.schedule, SCHEDULES)


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
            _choice("pretrain.optimizer", self.optimizer, tuple(GROUPS["optimizer"]))


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
        _fraction("joint.tolerance", self.tolerance, "0.001")
        _non_negative("joint.average_epochs", self.average_epochs, "4")


@dataclass
class CheckpointConfig:
    # A checkpoint is written when this many seconds have passed since the last one, and at the end of each phase. A
    # resumed run ends the same whatever this is.
    every_s: float = 30.0

    def __post_init__(self) -> None:
        _non_negative("checkpoint.every_s", self.every_s, "30")


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
        _at_least("evaluation.every_epochs", self.every_epochs, 1, 10)
        _at_least("evaluation.samples", self.samples, 2, 100_000)
        _at_least("evaluation.silhouette_samples", self.silhouette_samples, 2, 10_000)


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
        _choice("log.progress", self.progress, PROGRESS)
        _choice("log.map", self.map, MAPS)


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
        _at_least("batch_size", self.batch_size, 1, 256)
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
        _choice("precision", self.precision, ("fp32", "bf16"))
        if self.threads is not None:
            _at_least("threads", self.threads, 1, 4)


# --- groups and their options -------------------------------------------------------------------------------------

_TORCHVISION = ("mnist", "fashion_mnist", "kmnist", "usps", "cifar10", "stl10")

GROUPS: Mapping[str, Mapping[str, type]] = {
    "data": {
        "digits": DigitsData,
        **dict.fromkeys(_TORCHVISION, TorchvisionData),
        "newsgroups": NewsgroupsData,
        "blobs": BlobsData,
        "moons": MoonsData,
        "npy": NpyData,
        "npz": NpzData,
        "csv": CsvData,
        "parquet": ParquetData,
        "image_folder": ImageFolderData,
    },
    "model": {"mlp": MLPConfig, "conv": ConvConfig},
    "clustering": {
        "kmeans": KMeansConfig,
        "dkm": DKMConfig,
        "dcn": DCNConfig,
        "dec": DECConfig,
        "idec": IDECConfig,
        "none": NoClusteringConfig,
    },
    "regularization": {
        "weight_decay": WeightDecayConfig,
        "l2_penalty": L2PenaltyConfig,
        "none": NoRegularizationConfig,
    },
    "optimizer": {"adam": AdamConfig, "adamw": AdamWConfig, "sgd": SGDConfig},
    "augmentation": {"auto": AutoAugmentationConfig, "affine": AffineConfig, "none": NoAugmentationConfig},
}


def register() -> None:
    """Put the schemas into Hydra's ConfigStore: ``schema`` for the root, ``GROUP/schema/OPTION`` for the groups."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, options in GROUPS.items():
        for option, schema in options.items():
            node = OmegaConf.structured(schema)
            node.name = option
            store.store(group=f"{group}/schema", name=option, node=node)


def from_dictconfig(cfg: DictConfig) -> Config:
    """Turn a composed configuration into a checked ``Config``.

    Raises
    ------
    UserError
        For a value out of range or a group without a known name.
    OmegaConfBaseException
        For an unknown key, a wrong type or a missing value; see ``describe``.
    """
    schema = OmegaConf.structured(Config)
    for group, options in GROUPS.items():
        section = OmegaConf.select(cfg, group)
        if not isinstance(section, DictConfig):
            raise UserError(f"{group}: missing from the config; expected a section with a name; choose {group}=OPTION")
        name = section.get("name")
        require(name in options, f"{group}.name", name, "one of " + ", ".join(options), f"choose {group}=OPTION")
        schema[group] = OmegaConf.structured(options[name])
    merged = OmegaConf.merge(schema, OmegaConf.create(OmegaConf.to_container(cfg)))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain containers, in the order of the dataclasses."""
    return asdict(config)


# What a resumed run may change: keys, and sections ending in a dot, that touch no number of the steps already taken.
# The data may have moved: their SHA-256 is compared.
RESUMABLE = (
    *("resume", "device", "threads", "pretrain.epochs", "pretrain.cache", "joint.epochs"),
    *("checkpoint.", "log.", "data.root", "data.path"),
)


def dotted(config: Config) -> dict[str, Any]:
    """Return every setting under its dotted key."""
    return flatten(to_dict(config))


def flatten(container: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"pretrain": {"lr": 1}}`` as ``{"pretrain.lr": 1}``; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in container.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# --- messages -----------------------------------------------------------------------------------------------------


def keys() -> Iterator[str]:
    """Yield every dotted key that some configuration has, without the names of groups."""
    names = {f"{group}.name" for group in GROUPS}
    return (key for key in defaults() if key not in names)


def defaults() -> dict[str, Any]:
    """Return every dotted key that some configuration has, with its default in one of those that have it."""
    found: dict[str, Any] = {}
    for part in fields(Config):
        default = _default(part)
        if part.name in GROUPS:
            schemas: list[Any] = [*GROUPS[part.name].values()]
        elif is_dataclass(default):
            schemas = [type(default)]
        else:
            found[part.name] = default
            continue
        own = {field.name: _default(field) for schema in schemas for field in fields(schema)}
        found |= {f"{part.name}.{name}": own[name] for name in sorted(own)}
    return found


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def unknown_key(key: str, shown: str | None = None) -> str:
    """Return the line about a key that this configuration does not have; ``shown`` is the override as it was given."""
    shown = shown or key
    section, _, name = key.rpartition(".")
    known = list(keys())
    if key in known:
        owners = [option for option, schema in GROUPS[section].items() if name in {f.name for f in fields(schema)}]
        choices = " or ".join(f"{section}={owner}" for owner in owners)
        return f"{shown}: expected a key of the chosen {section} option; {key} belongs to {choices}"
    near = [k for k in known if k.rpartition(".")[2] == name][:1] or difflib.get_close_matches(key, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else "`python -m dkm.train --cfg job` lists the keys"
    return f"{shown}: expected a key of the config; {remedy}"


def describe(error: OmegaConfBaseException, shown: str | None = None, key: str = "") -> str:
    """Return OmegaConf's error as one line with the dotted key, the value, what was expected and the remedy."""
    key = key or str(error.full_key or error.key or "")
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return unknown_key(key, shown)
    if isinstance(error, MissingMandatoryValue):
        return f"{key}=???: expected a value; set {key}=VALUE"
    if isinstance(error, InterpolationResolutionError):
        return f"{shown or key}: {_first_line(error)}; expected a reference that resolves; check the ${{...}} in it"
    return f"{shown or key}: {_first_line(error)}; expected {kind_of(key)}; correct {key}"


def kind_of(key: str) -> str:
    """Return what a dotted key takes, for a message."""
    section, _, name = key.partition("[")[0].rpartition(".")
    kinds = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "list": "a list [...]",
    }
    schemas: list[Any] = [*GROUPS[section].values()] if section in GROUPS else [Config]
    schemas += [part.default_factory for part in fields(Config) if part.name == section]
    for schema in schemas:
        for part in fields(schema) if is_dataclass(schema) else ():
            if part.name == name:
                annotation = str(part.type)
                kind = kinds.get(annotation.partition(" ")[0].partition("[")[0], "its own keys")
                return f"{kind} or null" if annotation.endswith("None") else kind
    return "the type that `python -m dkm.train --cfg job` shows"


def _first_line(error: BaseException) -> str:
    line = str(error).strip().splitlines()[0].rstrip(".")
    return line.replace("KeyError raised while resolving interpolation: ", "")
