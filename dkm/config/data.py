"""Settings of the group ``data``: one dataclass per kind of data set, and the registry ``DATASETS``."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dkm.config.checks import AtLeast, Between, Choice, NonNegative, Positive, Satisfies, require
from dkm.config.custom import add_class_field
from dkm.config.registry import load
from dkm.config.settings import REQUIRED, Role, Section, setting

SCALINGS = ("none", "unit", "symmetric", "rms", "standard", "l2", "row_rms")


SPLITS = ("all", "train", "test")


LOADS = ("auto", "memory", "disk")


@dataclass
class DataConfig(Section):
    """The data set. ``data.name`` identifies it; choose another one with ``data=NAME``, not with ``data.name=NAME``."""

    section: ClassVar[str] = "data"
    name: str = REQUIRED
    root: str = setting(
        "${oc.env:DKM_DATA_ROOT,./data}",
        "Folder of the data sets, to which they are downloaded; by default that of the environment variable "
        "`DKM_DATA_ROOT`, else `./data`.",
        role=Role.PLACE,
    )
    scaling: str | None = setting(
        None,
        "Scaling of the data, fitted once on the training data and stored with the model. `none`. `unit`: the range of "
        "all features together to [0, 1]. `symmetric`: the same range to [-1, 1]. `rms`: all values divided by one "
        "number, so that their mean square is 1. `standard`: each feature to mean 0 and variance 1. `l2`: each row to "
        "Euclidean norm 1. `row_rms`: each row to mean square 1. null: `unit` for images, `standard` for tables, "
        "`row_rms` for text and sparse matrices.",
        check=Choice(SCALINGS),
    )


@dataclass
class DigitsData(DataConfig):
    """scikit-learn's handwritten digits: 1,797 images of 8x8, 10 classes; nothing to download."""

    name: str = "digits"


@dataclass
class TorchvisionData(DataConfig):
    """An image data set of torchvision (``mnist``, ``fashion_mnist``, ``kmnist``, ``usps``, ``cifar10``, ``stl10``)."""

    split: str = setting(
        "all",
        "Images to use. `all`: training and test images, as in the papers; `train`; `test`.",
        check=Choice(SPLITS),
    )


@dataclass
class NewsgroupsData(DataConfig):
    """20 Newsgroups as TF-IDF: all 18,846 documents with their headers, as in the DKM paper (arXiv:1806.10069)."""

    name: str = "newsgroups"
    n_terms: int = setting(2000, "Size of the vocabulary: the most frequent terms.", unit="terms", check=AtLeast(1))


@dataclass
class SyntheticData(DataConfig):
    """Common settings of the generated data sets."""

    n_samples: int = setting(2000, "Number of points.", unit="points", check=AtLeast(1))
    generator_seed: int = setting(
        0,
        "Seed of the points. It is separate from `seed`, so that runs with different seeds train on the same points.",
        check=Between(0, 2**32 - 1, "a whole number"),
    )


@dataclass
class BlobsData(SyntheticData):
    """Isotropic Gaussian blobs of equal size in ``n_features`` dimensions."""

    name: str = "blobs"
    n_features: int = setting(16, "Number of features.", unit="dimensions", check=AtLeast(1))
    n_blobs: int = setting(5, "Number of blobs.", check=AtLeast(1))
    blob_std: float = setting(
        1.0,
        "Standard deviation of a blob along each axis. The centers are drawn uniformly from [-10, 10] along each axis.",
        check=Positive(),
    )


@dataclass
class MoonsData(SyntheticData):
    """Two interleaving half circles in the plane: no two centroids separate them, so k-means on the raw data fails."""

    name: str = "moons"
    noise: float = setting(
        0.05, "Standard deviation of the Gaussian noise; the half circles have radius 1.", check=NonNegative()
    )


@dataclass
class FileData(DataConfig):
    """A file of the user."""

    path: str = setting(REQUIRED, "The file or folder.", role=Role.INPUT)
    labels: str | None = setting(
        None,
        "Labels, used only to score the clustering. `csv` and `parquet`: the name of a column. `npy`: another .npy "
        "file. `npz`: the name of an array in the same file, or a .npy file. `image_folder`: `folder` takes the name "
        "of the folder below `data.path` that contains the image. `text` and `image_parquet`: the name of a column. "
        "null: no labels.",
        role=Role.INPUT,
    )


@dataclass
class NpyData(FileData):
    """An array in a ``.npy`` file: (N, F) rows, (N, H, W), (N, C, H, W) or (N, H, W, C) images.

    ``data.path`` may also be a folder of such files, which are concatenated in the order of their names (sorted as
    text: ``10`` comes before ``2``).
    """

    name: str = "npy"
    load: str = setting(
        "auto",
        "`memory`: read all rows at the start. `disk`: read rows when they are needed. `auto`: `disk` if the data "
        "exceed 1 GiB as float32, whatever the memory of the machine, because the order of batches depends on the "
        "choice.",
        check=Choice(LOADS),
    )


@dataclass
class NpzData(FileData):
    """An array in a ``.npz`` file, shaped as for ``npy``, or a sparse matrix of ``scipy.sparse.save_npz``."""

    name: str = "npz"
    array: str | None = setting(None, "Name of the array with the data. null: `x`, `X` or `data`, or the only array.")


def is_image_encoder(name: str) -> bool:
    """Return whether a text has the form of ``data.encoder``."""
    library, _, network = name.partition("/")
    return name.endswith(".onnx") or (library in ("timm", "torchvision") and bool(network))


def has_three(values: Sequence[float]) -> bool:
    return len(values) == 3


MISSING_VALUES = ("refuse", "drop", "median")


DELIMITERS = ("comma", "semicolon", "tab", "pipe", "space")


@dataclass
class TableData(FileData):
    """A table with named, numeric columns."""

    columns: list[str] | None = setting(
        None,
        "Columns to use as features. null: all columns except the labels, the id and those of `data.exclude`.",
        check=Satisfies("one column or more", bool),
        example="[age,income], or null for all",
    )
    exclude: list[str] = setting([], "Columns to leave out.")
    id: str | None = setting(
        None,
        "A column that identifies the rows. It is copied to the outputs and is not a feature. null: the first column "
        "if it has no name, like an index written by pandas.",
    )
    missing: str = setting(
        "refuse",
        "Treatment of missing values. `refuse`: an error. `drop`: drop the row. `median`: fill in the median of the "
        "column, which is stored with the model.",
        check=Choice(MISSING_VALUES),
    )


def _is_encoding(name: Any) -> bool:
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True


@dataclass
class CsvData(TableData):
    """A CSV file, also compressed (``.gz``, ``.bz2``, ``.xz``, ``.zip``)."""

    name: str = "csv"
    delimiter: str | None = setting(
        None,
        "Character between columns. null: the most frequent of them in the first line.",
        check=Choice(DELIMITERS),
    )
    header: bool | None = setting(
        None,
        "Whether the first row contains the column names. null: true unless it contains only numbers. Without names "
        "the columns are called 0, 1, 2, ...",
    )
    encoding: str = setting(
        "utf-8",
        "Encoding of the text.",
        check=Satisfies("an encoding that Python knows", _is_encoding),
        example="latin-1",
    )
    missing_values: list[str] = setting(
        [], "Further markers of a missing value, in addition to an empty cell, NA, NaN, null and similar ones."
    )


@dataclass
class ParquetData(TableData):
    """A Parquet file; needs pyarrow (``pip install 'dkm[parquet]'``)."""

    name: str = "parquet"


@dataclass
class EncodedData(FileData):
    """Images that a pretrained network may turn into features before clustering."""

    encoder: str | None = setting(
        None,
        "Pretrained network whose features, after pooling, are clustered instead of pixels: `timm/NAME` (needs "
        "`pip install 'dkm[encoders]'`), `torchvision/NAME`, or an ONNX file (`pip install 'dkm[onnx]'`). The features "
        "are kept in a cache, by content, below the folder of the environment variable `DKM_CACHE`, else in the "
        "user's cache directory. null: pixels.",
        role=Role.INPUT,
        check=Satisfies("timm/NAME, torchvision/NAME or FILE.onnx", is_image_encoder),
        example="timm/resnet50.a1_in1k",
    )
    encoder_weights: str | None = setting(
        None,
        "File with the weights of `timm/NAME` or `torchvision/NAME`: safetensors, or a state dict of PyTorch. null: "
        "the published weights, from the user's cache, or downloaded to it.",
        role=Role.INPUT,
    )
    encoder_size: int | None = setting(
        None,
        "Height and width of the encoder's input. null: the network's own.",
        unit="pixels",
        check=AtLeast(1),
        example=224,
    )
    encoder_mean: list[float] | None = setting(
        None,
        "Mean of each RGB channel, in [0, 1], that is subtracted from the encoder's input. null: the network's own; "
        "for an ONNX file ImageNet's [0.485, 0.456, 0.406].",
        check=Satisfies("three numbers", has_three),
        example="[0.5,0.5,0.5]",
    )
    encoder_std: list[float] | None = setting(
        None,
        "Standard deviation of each RGB channel, by which the encoder's input is divided. null: the network's own; for "
        "an ONNX file ImageNet's [0.229, 0.224, 0.225].",
        check=Satisfies("three positive numbers", lambda values: has_three(values) and min(values) > 0),
        example="[0.5,0.5,0.5]",
    )


COLORS = ("auto", "gray", "rgb")


@dataclass
class ImageFolderData(EncodedData):
    """PNG and JPEG images below a folder, at any depth, all resized to the same size."""

    name: str = "image_folder"
    image_size: int = setting(32, "Height and width of the resized images.", unit="pixels", check=AtLeast(1))
    color: str = setting(
        "auto", "Color mode. `gray`; `rgb`; `auto`: `rgb` if any image is colored.", check=Choice(COLORS)
    )
    max_unreadable: float = setting(
        0.01,
        "Largest accepted fraction of unreadable images. Unreadable images are listed and skipped; the run stops if "
        "their fraction is larger.",
        check=Between(0, 1),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.labels in (None, "folder")
        require(ok, "data.labels", self.labels, "null or folder", "for example data.labels=folder")


@dataclass
class ImageParquetData(ImageFolderData):
    """Images in a Parquet file: a column of encoded images, or of structs with ``bytes`` and ``path``."""

    name: str = "image_parquet"
    image: str | None = setting(None, "Column with the images. null: the only column that has images.")
    id: str | None = setting(
        None,
        "Column that identifies the images, copied to the outputs. null: the `path` of structs that have one.",
    )

    def __post_init__(self) -> None:
        Section.__post_init__(self)  # the labels are a column


@dataclass
class TextData(FileData):
    """Texts: a file of lines, JSON lines, or one column of a CSV or Parquet file.

    Every text gets a cluster, and equal commands write equal results.
    """

    name: str = "text"
    text: str | None = setting(
        None,
        "Column (or key of JSON lines) with the texts. null: each line is a text; in JSON lines and Parquet the column "
        "`text`, or the only column besides labels and id.",
    )
    id: str | None = setting(None, "Column or key that identifies the texts, copied to the outputs. null: none.")
    n_terms: int = setting(
        2000, "Size of the vocabulary of TF-IDF: the most frequent terms.", unit="terms", check=AtLeast(1)
    )
    text_encoder: str | None = setting(
        None,
        "Sentence encoder whose embeddings are clustered instead of TF-IDF: the name of a sentence-transformers model, "
        "from the user's cache or downloaded to it, or a folder with one. Needs `pip install 'dkm[text]'`. The "
        "embeddings are kept in a cache, as for `data.encoder`.",
        role=Role.INPUT,
        example="all-MiniLM-L6-v2",
    )
    encoding: str = setting(
        "utf-8",
        "Encoding of the file. A byte-order mark is dropped.",
        check=Satisfies("an encoding that Python knows", _is_encoding),
        example="latin-1",
    )


@dataclass
@add_class_field(
    "Dotted name of a function or class that returns the data: X, or X and y. X has rows (N, F) or images (N, H, W), "
    "(N, C, H, W) or (N, H, W, C); y has labels (N,), or is None."
)
class CustomData(DataConfig):
    """Data from your own function. The dotted name is imported from the working directory or ``PYTHONPATH``."""

    name: str = "custom"
    options: dict[str, Any] = setting({}, "Arguments of the function, for example `data.options={year: 2024}`.")


@dataclass(frozen=True)
class DataSet:
    """A data set.

    ``read`` is a function that maps the config to ``dkm.data.raw.RawData``. ``reader``, if prediction reads such files
    in parts, is a class like ``dkm.data.reader.PartReader``.
    """

    name: str
    config: type[DataConfig]
    read: str | Callable[..., Any]
    reader: str | None = None

    def load(self) -> Callable[..., Any]:
        """Return the function."""
        function: Callable[..., Any] = load(self.read)
        return function


_TORCHVISION = ("mnist", "fashion_mnist", "kmnist", "usps", "cifar10", "stl10")

DATASETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        DataSet("digits", DigitsData, "dkm.data.builtin.generated:read_digits"),
        *(DataSet(name, TorchvisionData, "dkm.data.builtin.torchvision:read_torchvision") for name in _TORCHVISION),
        DataSet("newsgroups", NewsgroupsData, "dkm.data.builtin.newsgroups:read_newsgroups"),
        DataSet("blobs", BlobsData, "dkm.data.builtin.generated:read_blobs"),
        DataSet("moons", MoonsData, "dkm.data.builtin.generated:read_moons"),
        DataSet("npy", NpyData, "dkm.data.arrays:read_npy_data"),
        DataSet("npz", NpzData, "dkm.data.arrays:read_npz_data"),
        DataSet("csv", CsvData, "dkm.data.loaders:read_table", "dkm.data.tables:TableReader"),
        DataSet("parquet", ParquetData, "dkm.data.loaders:read_table", "dkm.data.tables:TableReader"),
        DataSet(
            "image_folder",
            ImageFolderData,
            "dkm.data.encoded_images:read_image_folder",
            "dkm.data.encoded_images:image_folder_reader",
        ),
        DataSet(
            "image_parquet",
            ImageParquetData,
            "dkm.data.encoded_images:read_image_parquet",
            "dkm.data.encoded_images:image_parquet_reader",
        ),
        DataSet("text", TextData, "dkm.data.texts:read_text", "dkm.data.texts:TextReader"),
        DataSet("custom", CustomData, "dkm.data.loaders:read_custom"),
    )
}
