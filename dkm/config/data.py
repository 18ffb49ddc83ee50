"""Settings of the group ``data``: one dataclass for each kind of data set."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

from omegaconf import MISSING

from dkm.config.checks import require, require_at_least, require_choice, require_non_negative, require_positive

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
            require_choice("data.scaling", self.scaling, SCALINGS)


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
        require_choice("data.split", self.split, SPLITS)


@dataclass
class NewsgroupsData(DataConfig):
    """20 Newsgroups as TF-IDF: all 18,846 documents with their headers, as in the DKM paper (arXiv:1806.10069)."""

    name: str = "newsgroups"
    # The vocabulary: the most frequent terms.
    n_terms: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("data.n_terms", self.n_terms, 1, 2000)


@dataclass
class SyntheticData(DataConfig):
    """What the generated data sets share. ``generator_seed`` is apart from ``seed``: new weights, the same points."""

    n_samples: int = 2000
    generator_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("data.n_samples", self.n_samples, 1, 2000)
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
        require_at_least("data.n_features", self.n_features, 1, 16)
        require_at_least("data.n_blobs", self.n_blobs, 1, 5)
        require_positive("data.blob_std", self.blob_std, "1.0")


@dataclass
class MoonsData(SyntheticData):
    """Two interleaving half circles in the plane: no two centroids separate them, so k-means on the raw data fails."""

    name: str = "moons"
    # Standard deviation of the Gaussian noise; the half circles have radius 1.
    noise: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require_non_negative("data.noise", self.noise, "0.05")


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
        require_choice("data.load", self.load, LOADS)


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
        require_choice("data.missing", self.missing, MISSING_VALUES)
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
            require_choice("data.delimiter", self.delimiter, DELIMITERS)
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
        require_at_least("data.image_size", self.image_size, 1, 32)
        require_choice("data.color", self.color, COLORS)
        ok = 0 <= self.max_unreadable <= 1
        example = "for example data.max_unreadable=0.01"
        require(ok, "data.max_unreadable", self.max_unreadable, "a number from 0 to 1", example)
        ok = self.labels in (None, "folder")
        require(ok, "data.labels", self.labels, "null or folder", "for example data.labels=folder")
