"""Settings of the group ``data``: one dataclass per kind of data set, and the registry ``DATASETS``."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dkm.config.checks import AtLeast, Between, Choice, NonNegative, Positive, Satisfies, require
from dkm.config.custom import add_class_field
from dkm.config.registry import Entry
from dkm.config.settings import REQUIRED, Role, Section, setting

SCALINGS = ("none", "unit", "symmetric", "rms", "standard", "centered", "l2", "row_rms", "counts")
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
        "number, so that their mean square is 1. `standard`: each feature to mean 0 and variance 1. `centered`: each "
        "feature to mean 0, and all values divided by one number, so that their mean square is 1. `l2`: each row to "
        "Euclidean norm 1. `row_rms`: each row to mean square 1. `counts`: each row to the median sum of the rows, "
        "log(1 + x), each feature to mean 0, and all values divided by one number, so that their mean square is 1. "
        "null: `unit` for images, `counts` for counts (whole numbers of 0 or more in 100 features or more, most of "
        "them far below the largest), `centered` for features on one scale (at least half of them have the same lowest "
        "and highest value), `row_rms` for text, sparse matrices (.npz, .mat) and embeddings (100 features or more of "
        "similar spread, rows of about the same length), else `standard`.",
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
        "Labels, used only to score the clustering. `csv`, `parquet`, `image_list`, `image_parquet` and `text`: the "
        "name of a column. `npy`: another .npy file. `npz`: the name of an array in the same file, or a .npy file. "
        "`hdf5`, `zarr` and `mat`: the name of an array in the same file. `h5ad`: a column of `obs`. `image_folder`: "
        "`folder` takes the name of the folder below `data.path` that contains the image. null: no labels.",
        role=Role.INPUT,
    )
    max_expansion: int = setting(
        200,
        "How many times its size a compressed file may unpack to, above 1 GiB. A file that declares more, or turns out "
        "to have more, is refused before it fills memory and disk.",
        role=Role.INPUT,
        check=AtLeast(1),
    )


LAYOUTS = ("rows", "hwc", "chw", "series")


@dataclass
class ArrayData(FileData):
    """An array: (N, F) rows, (N, H, W), (N, C, H, W) or (N, H, W, C) images, or (N, T, C) series."""

    layout: str | None = setting(
        None,
        "Meaning of the axes after the first. `rows`: the values of a row, flattened. `hwc`: images (N, H, W, C) or "
        "(N, H, W). `chw`: images (N, C, H, W) or (N, H, W). `series`: series (N, T) or (N, T, C), flattened to rows "
        "with one channel after the other. null: the only plausible layout; the data are refused if there are several.",
        check=Choice(LAYOUTS),
    )


@dataclass
class NpyData(ArrayData):
    """An array in a ``.npy`` file.

    ``data.path`` may also be a folder of such files, which are concatenated in the natural order of their names: ``2``
    comes before ``10``.
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
class NpzData(ArrayData):
    """An array in a ``.npz`` file, or a sparse matrix of ``scipy.sparse.save_npz``."""

    name: str = "npz"
    array: str | None = setting(None, "Name of the array with the data. null: `x`, `X` or `data`, or the only array.")


@dataclass
class MatrixData(FileData):
    """A matrix in a file of which parts can be read."""

    load: str = setting(
        "auto",
        "`memory`: keep all scaled rows in memory. `disk`: read rows when they are needed. `auto`: `disk` if the data "
        "exceed 1 GiB as float32, whatever the memory of the machine, because the order of batches depends on the "
        "choice.",
        check=Choice(LOADS),
    )


@dataclass
class H5adData(MatrixData):
    """Cells by genes in an AnnData file (``.h5ad``), dense or sparse; needs the extra ``anndata``.

    The names of the observations are the ids of the rows, those of the variables the names of the features.
    """

    name: str = "h5ad"
    layer: str | None = setting(
        None, "Name of the layer with the data; `raw` is the matrix in `raw` if no layer has that name. null: `X`."
    )


@dataclass
class ArrayFileData(MatrixData, ArrayData):
    """A file with several named arrays."""

    array: str | None = setting(
        None,
        "Name of the array with the data, in HDF5 and Zarr the path to it, such as `train/images`. null: the only "
        "array of numbers with two dimensions or more, or the only one with as many rows as there are labels.",
    )


@dataclass
class Hdf5Data(ArrayFileData):
    """An array in an HDF5 file, shaped as for ``npy``; needs the extra ``hdf5``."""

    name: str = "hdf5"


@dataclass
class ZarrData(ArrayFileData):
    """An array in a Zarr store, shaped as for ``npy``; needs the extra ``zarr``.

    ``data.path`` is a folder, or a ``.zip`` file of one.
    """

    name: str = "zarr"


@dataclass
class MatData(ArrayFileData):
    """A matrix or images in a MATLAB file (``.mat``); version 7.3 needs the extra ``hdf5``."""

    name: str = "mat"


def is_image_encoder(name: str) -> bool:
    """Return whether a text has the form of ``data.encoder``."""
    library, _, network = name.partition("/")
    return name.endswith(".onnx") or (library in ("timm", "torchvision") and bool(network))


def has_three(values: Sequence[float]) -> bool:
    return len(values) == 3


MISSING_VALUES = ("refuse", "drop", "median")
DELIMITERS = ("comma", "semicolon", "tab", "pipe", "space")
DECIMALS = ("point", "comma")
THOUSANDS = ("none", "comma", "point", "space", "apostrophe")


@dataclass
class TableData(FileData):
    """A table with named columns.

    What a column is follows from its values, and the data report tells it: numbers, yes or no, categories, dates,
    lists. Ids, free text, constant and nearly empty columns are left out.
    """

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
        "that identifies rows: an index that a program wrote, or different values below a name such as `id`.",
    )
    categorical: list[str] = setting(
        [],
        "Columns to read as categories: one number for each level, together with the variance of one number. Among "
        "texts only an empty cell and `data.missing_values` mean a missing value, so that None and NA are levels.",
    )
    numeric: list[str] = setting([], "Columns to read as numbers, whatever their names and values suggest.")
    dates: list[str] = setting([], "Columns to read as dates or times.")
    missing: str | None = setting(
        None,
        "Treatment of missing values. `refuse`: an error. `drop`: drop the row. `median`: fill in the median of the "
        "column (of a category the most frequent level), which is stored with the model; the reconstruction error of a "
        "filled cell does not count. null: `median`, or `refuse` with `data.strict`.",
        check=Choice(MISSING_VALUES),
    )
    strict: bool = setting(
        False,
        "Whether to refuse instead of deciding: each column that is not excluded must have numbers without gaps.",
    )
    load: str = setting(
        "auto",
        "`memory`: keep all scaled rows in memory. `disk`: keep the numbers in a temporary file (in the folder of "
        "`TMPDIR`) and read rows when they are needed. `auto`: `disk` if they exceed 1 GiB as float32.",
        check=Choice(LOADS),
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
        "Character between columns. null: the one that cuts most lines into the same number of cells.",
        check=Choice(DELIMITERS),
    )
    header: bool | None = setting(
        None,
        "Whether the first row contains the column names. null: by comparison with the other rows; refused if they do "
        "not settle it. Without names the columns are called 0, 1, 2, ...",
    )
    decimal: str | None = setting(
        None, "Decimal mark of numbers. null: the one that the first rows have.", check=Choice(DECIMALS)
    )
    thousands: str | None = setting(
        None,
        "Mark between groups of three digits. `space` is any space, also a narrow or no-break one. null: the one that "
        "the first rows have.",
        check=Choice(THOUSANDS),
    )
    encoding: str | None = setting(
        None,
        "Encoding of the text. null: by its byte-order mark, else UTF-8 if it is that, else cp1252.",
        check=Satisfies("an encoding that Python knows", _is_encoding),
        example="latin-1",
    )
    missing_values: list[str] = setting(
        [], "Further markers of a missing value, in addition to an empty cell, NA, NaN, null and similar ones."
    )


@dataclass
class ParquetData(TableData):
    """A Parquet file, a glob, or a folder of files, also with Hive partitions."""

    name: str = "parquet"


@dataclass
class FeatherData(TableData):
    """A Feather (Arrow IPC) file, a glob, or a folder of files."""

    name: str = "feather"


@dataclass
class EncodedData(FileData):
    """Images that a pretrained network may turn into features before clustering."""

    encoder: str | None = setting(
        None,
        "Pretrained network whose features, after pooling, are clustered instead of pixels: `timm/NAME` (needs "
        "the extra `encoders`), `torchvision/NAME`, or an ONNX file (needs the extra `onnx`). The features are "
        "kept in a cache, by content, below the folder of the environment variable `DKM_CACHE`, else in the "
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


def _is_background(name: Any) -> bool:
    return name in ("white", "black", "none") or bool(re.fullmatch("#[0-9a-fA-F]{6}", name))


def _is_range(limits: Any) -> bool:
    return len(limits) == 2 and all(map(math.isfinite, limits)) and limits[0] < limits[1]


@dataclass
class ImageData(EncodedData):
    """Images in files, all resized to the same size."""

    image_size: int = setting(32, "Height and width of the resized images.", unit="pixels", check=AtLeast(1))
    color: str = setting(
        "auto", "Color mode. `gray`; `rgb`; `auto`: `rgb` if any image is colored.", check=Choice(COLORS)
    )
    background: str = setting(
        "white",
        "Background of transparent images: `white`, `black` or `#rrggbb`, which needs quotes. `none`: ignore "
        "transparency and use the stored colors of transparent pixels.",
        check=Satisfies("white, black, none or #rrggbb", _is_background),
        example="black",
    )
    range: list[float] | None = setting(
        None,
        "Values of 16-bit and floating-point gray images that become black and white. null: the smallest and the "
        "largest value of all of these images, which are stored with the model.",
        check=Satisfies("two numbers, the lower one first", _is_range),
        example=[0, 4095],
    )
    load: str = setting(
        "auto",
        "`memory`: decode all images at the start. `disk`: keep the decoded images in a file below `data.root`, which "
        "later runs on the same files reuse, and read rows when they are needed. `auto`: `disk` if the images could "
        "exceed 1 GiB as float32.",
        check=Choice(LOADS),
    )
    max_unreadable: float = setting(
        0.01,
        "Largest accepted fraction of unreadable images. Unreadable images are listed and skipped; the run stops if "
        "their fraction is larger.",
        check=Between(0, 1),
    )


@dataclass
class ImageFolderData(ImageData):
    """The images below a folder, at any depth, in any format that Pillow reads.

    Linked folders are followed; hidden files and folders are skipped.
    """

    name: str = "image_folder"

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.labels in (None, "folder")
        require(ok, "data.labels", self.labels, "null or folder", "for example data.labels=folder")


@dataclass
class ImageListData(ImageData):
    """The images that a CSV file lists, one per line; relative paths start at the folder of the CSV file."""

    name: str = "image_list"
    images: str | None = setting(
        None,
        "Column of the image paths, by name or, in a file without header, by number from 0. null: the only column "
        "that contains paths of files.",
        role=Role.INPUT,
    )


@dataclass
class ImageParquetData(ImageData):
    """Images in a Parquet file: a column of encoded images, or of structs with ``bytes`` and ``path``."""

    name: str = "image_parquet"
    image: str | None = setting(None, "Column with the images. null: the only column that has images.")
    id: str | None = setting(
        None,
        "Column that identifies the images, copied to the outputs. null: the `path` of structs that have one.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "for example data.load=memory; image_folder reads images from disk"
        require(self.load != "disk", "data.load", self.load, "auto or memory for images in Parquet", remedy)


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
        "from the user's cache or downloaded to it, or a folder with one. Needs the extra `text`. The "
        "embeddings are kept in a cache, as for `data.encoder`.",
        role=Role.INPUT,
        example="all-MiniLM-L6-v2",
    )
    encoding: str | None = setting(
        None,
        "Encoding of the file. null: by its content (a byte-order mark, UTF-8, UTF-16, else cp1252), which is told. A "
        "byte-order mark is dropped.",
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
class DataSet(Entry[DataConfig]):
    """A data set: a function that maps the config to ``dkm.data.raw.RawData``.

    ``reader``, if prediction reads such files in parts, is a class like ``dkm.data.reader.PartReader``.
    """

    reader: str | None = None


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
        DataSet("csv", CsvData, "dkm.data.loaders:read_table", "dkm.data.tables.reader:TableReader"),
        DataSet("parquet", ParquetData, "dkm.data.loaders:read_table", "dkm.data.tables.reader:TableReader"),
        DataSet("feather", FeatherData, "dkm.data.loaders:read_table", "dkm.data.tables.reader:TableReader"),
        DataSet("h5ad", H5adData, "dkm.data.matrices.reader:read_matrix", "dkm.data.matrices.reader:MatrixReader"),
        DataSet("hdf5", Hdf5Data, "dkm.data.matrices.reader:read_matrix", "dkm.data.matrices.reader:MatrixReader"),
        DataSet("zarr", ZarrData, "dkm.data.matrices.reader:read_matrix", "dkm.data.matrices.reader:MatrixReader"),
        DataSet("mat", MatData, "dkm.data.matrices.reader:read_matrix", "dkm.data.matrices.reader:MatrixReader"),
        DataSet(
            "image_folder",
            ImageFolderData,
            "dkm.data.images.encoded:read_image_files",
            "dkm.data.images.encoded:image_files_reader",
        ),
        DataSet(
            "image_list",
            ImageListData,
            "dkm.data.images.encoded:read_image_files",
            "dkm.data.images.encoded:image_files_reader",
        ),
        DataSet(
            "image_parquet",
            ImageParquetData,
            "dkm.data.images.encoded:read_image_parquet",
            "dkm.data.images.encoded:image_parquet_reader",
        ),
        DataSet("text", TextData, "dkm.data.texts.reader:read_text", "dkm.data.texts.reader:TextReader"),
        DataSet("custom", CustomData, "dkm.data.loaders:read_custom"),
    )
}
