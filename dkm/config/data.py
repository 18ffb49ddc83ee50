"""Settings of the group ``data``: one dataclass per kind of data set, and the registry ``DATASETS``."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from dkm.config.checks import AtLeast, Between, Choice, NonNegative, Positive, Satisfies, require
from dkm.config.custom import add_class_field
from dkm.config.registry import load
from dkm.config.settings import REQUIRED, Role, Section, setting

SCALINGS = ("none", "unit", "symmetric", "rms", "standard", "l2", "row_rms", "counts")


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
        "Euclidean norm 1. `row_rms`: each row to mean square 1. `counts`: each row to the median sum of the rows, "
        "log(1 + x), each feature to mean 0, and all values divided by one number, so that their mean square is 1. "
        "null: `unit` for images, `counts` for counts (whole numbers of 0 or more in 100 features or more, most of "
        "them far below the largest), `row_rms` for text and sparse matrices, else `standard`.",
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
        "file. `npz`: the name of an array in the same file, or a .npy file. `hdf5`, `zarr` and `mat`: the name of an "
        "array in the same file. `h5ad`: a column of `obs`. `image_folder`: `folder` takes the name of the folder "
        "below `data.path` that contains the image. null: no labels.",
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
    """Cells by genes in an AnnData file (``.h5ad``), dense or sparse; needs h5py (``pip install 'dkm[anndata]'``).

    The names of the observations are the ids of the rows, those of the variables the names of the features.
    """

    name: str = "h5ad"
    layer: str | None = setting(
        None, "Name of the layer with the data; `raw` is the matrix in `raw` if no layer has that name. null: `X`."
    )


@dataclass
class ArrayFileData(MatrixData):
    """A file with several named arrays."""

    array: str | None = setting(
        None,
        "Name of the array with the data, in HDF5 and Zarr the path to it, such as `train/images`. null: the only "
        "array of numbers with two dimensions or more, or the only one with as many rows as there are labels.",
    )


@dataclass
class Hdf5Data(ArrayFileData):
    """An array in an HDF5 file, shaped as for ``npy``; needs h5py (``pip install 'dkm[hdf5]'``)."""

    name: str = "hdf5"


@dataclass
class ZarrData(ArrayFileData):
    """An array in a Zarr store, shaped as for ``npy``; needs zarr (``pip install 'dkm[zarr]'``).

    ``data.path`` is a folder, or a ``.zip`` file of one.
    """

    name: str = "zarr"


@dataclass
class MatData(ArrayFileData):
    """A matrix or images in a MATLAB file (``.mat``); version 7.3 needs h5py (``pip install 'dkm[hdf5]'``)."""

    name: str = "mat"


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


COLORS = ("auto", "gray", "rgb")


@dataclass
class ImageFolderData(FileData):
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
        DataSet("h5ad", H5adData, "dkm.data.matrices:read_matrix", "dkm.data.matrices:MatrixReader"),
        DataSet("hdf5", Hdf5Data, "dkm.data.matrices:read_matrix", "dkm.data.matrices:MatrixReader"),
        DataSet("zarr", ZarrData, "dkm.data.matrices:read_matrix", "dkm.data.matrices:MatrixReader"),
        DataSet("mat", MatData, "dkm.data.matrices:read_matrix", "dkm.data.matrices:MatrixReader"),
        DataSet("image_folder", ImageFolderData, "dkm.data.loaders:read_image_folder", "dkm.data.images:ImageFolder"),
        DataSet("custom", CustomData, "dkm.data.loaders:read_custom"),
    )
}
