"""Data sets as one float32 matrix, in memory or on disk, and the order of the batches.

``load_dataset`` turns the ``data`` section of a config into a ``Dataset``. To add a data set: a dataclass in
``dkm.config``, a YAML file, and here a function that returns its ``_Raw`` arrays. Labels only ever score.

No file is trusted: see ``dkm.files`` for the user's own; archives are unpacked in memory. Whatever is wrong with
the user's data becomes one ``UserError`` line. scikit-learn and torchvision are imported where they are
used, because they take long to load.
"""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import logging
import math
import os
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.config import (
    BlobsData,
    DataConfig,
    DigitsData,
    FileData,
    ImageFolderData,
    MoonsData,
    NewsgroupsData,
    NpyData,
    NpzData,
    TableData,
    TorchvisionData,
    UserError,
)
from dkm.files import (
    NpyFiles,
    Part,
    check_there,
    expand,
    find_file,
    format_of,
    input_error,
    one_line_errors,
    read_npy,
    reason,
)
from dkm.images import ImageFolder
from dkm.scaling import Array, Scaling, channels_first, row_slices, to_rows
from dkm.stored import CHUNK_ROWS, SparseArray, StoredArray, StoredRows, load_sparse
from dkm.tables import TableReader

log = logging.getLogger(__name__)

# As float32, for data.load=auto: 1 GiB. A fixed number, because the choice decides how batches are drawn.
_MOST_BYTES_IN_MEMORY = 2**30


# --- data sets ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data ready for training."""

    name: str
    # float32 (N, F), scaled: in memory, in C order, or rows that are read when they are asked for.
    X: Tensor | StoredRows
    # (N,), 0 to n_classes - 1; only ever for scores.
    y: npt.NDArray[np.int64] | None
    # (C, H, W) where each row is an image.
    image_shape: tuple[int, int, int] | None
    scaling: Scaling
    # Of the data as they were read (dtype, shape and bytes, before scaling) and of the labels.
    sha256: str
    # What the labels were in the data, sorted: (n_classes,).
    classes: Array | None = None
    # (N,) where the rows were in the file, counted from 0, if some were left out.
    position: npt.NDArray[np.int64] | None = None
    # (N,) what names the rows: a column of a table, or the paths of images.
    ids: Array | None = None
    # The names of the columns of a table, and what fills their gaps (data.missing=median): (F,).
    features: tuple[str, ...] | None = None
    fill: npt.NDArray[np.float64] | None = None

    @property
    def n_samples(self) -> int:
        return self.X.shape[0]

    @property
    def n_features(self) -> int:
        return self.X.shape[1]

    @property
    def labels(self) -> Array | None:
        """The labels as they were in the data, (N,)."""
        return self.y if self.y is None or self.classes is None else self.classes[self.y]

    @property
    def n_classes(self) -> int | None:
        return None if self.y is None else int(self.y.max()) + 1


_Rows = Array | StoredArray | SparseArray


class _Raw(NamedTuple):
    """What the function of a data set returns."""

    # (N, F), or images (N, H, W), (N, C, H, W) or (N, H, W, C)
    X: _Rows
    labels: Array | None
    # None: unit for images, standard for tables
    scaling: str | None = None
    value_range: tuple[float, float] | None = None
    # As in Dataset.
    position: npt.NDArray[np.int64] | None = None
    ids: Array | None = None
    features: tuple[str, ...] | None = None
    fill: npt.NDArray[np.float64] | None = None


def load_dataset(config: DataConfig, scaling: Scaling | None = None) -> Dataset:
    """Read the data set that the ``data`` section of a config names.

    Parameters
    ----------
    config : DataConfig
    scaling : Scaling, optional
        Of a trained model, for data to predict: applied instead of a fitted one. ``config.scaling`` then has
        no effect, and rows may all be equal.

    Raises
    ------
    UserError
        If the data cannot be had, or are not rows or images of finite numbers.
    """
    source = label_source = f"data={config.name}"
    if isinstance(config, FileData):
        source, label_source = f"data.path={config.path}", f"data.labels={config.labels}"
    return _dataset(_LOADERS[config.name](config), config, source, label_source, scaling)


def array_dataset(X: Array, config: DataConfig, source: str) -> Dataset:
    """Return rows (N, F) or images in memory as ``load_dataset`` returns those of a file; ``source`` names them."""
    return _dataset(_Raw(X, None), config, source, source, None)


def _dataset(raw: _Raw, config: DataConfig, source: str, label_source: str, scaling: Scaling | None) -> Dataset:
    _check_shape(raw.X, source)
    classes, y = (None, None) if raw.labels is None else _encode_labels(raw.labels, len(raw.X), label_source)
    F, image_shape = math.prod(raw.X.shape[1:]), _image_shape(raw.X)
    if scaling is not None and scaling.n_features != F:
        expected = f"{scaling.n_features}, as in the data that the model was trained on"
        raise input_error(source, f"{F} features", expected, "give it data of the same kind")

    digest = hashlib.sha256()
    chunks = _checked(raw.X, source, digest, may_be_constant=scaling is not None)
    if scaling is None:
        kind = config.scaling or raw.scaling or ("unit" if image_shape else "standard")
        scaling = Scaling.fit(map(to_rows, chunks), kind, raw.value_range)
    for _ in chunks:  # which the scaling had no need to see
        pass
    if raw.labels is not None:
        _update(digest, raw.labels)
    return Dataset(
        config.name,
        _scaled(raw.X, scaling),
        y,
        image_shape,
        scaling,
        digest.hexdigest(),
        classes=classes,
        position=raw.position,
        ids=raw.ids,
        features=raw.features,
        fill=raw.fill,
    )


def _scaled(X: _Rows, scaling: Scaling) -> Tensor | StoredRows:
    return torch.from_numpy(scaling.apply(to_rows(X))) if isinstance(X, np.ndarray) else StoredRows(X, scaling)


def _image_shape(X: _Rows) -> tuple[int, int, int] | None:
    """Return (C, H, W) of images, None for a table."""
    shape = channels_first(np.empty((0, *X.shape[1:]))).shape[1:]
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def _chunks(X: _Rows) -> Iterator[Array]:
    """Yield all rows in order, cut at the same places whether they are in memory or on disk."""
    for rows in row_slices(X.shape):
        yield X[rows] if isinstance(X, np.ndarray) else X.read(rows.start, rows.stop)


def _update(digest: hashlib._Hash, array: Array) -> None:
    digest.update(_kind(array))
    digest.update(np.ascontiguousarray(array).data)


def _kind(array: _Rows) -> bytes:
    """Return what the SHA-256 of an array begins with, so that equal bytes of another kind differ."""
    return f"{array.dtype.str} {array.shape} ".encode()


# --- checks -------------------------------------------------------------------------------------------------


def _check_shape(X: _Rows, source: str) -> None:
    if X.dtype.kind not in "biuf":
        found, expected = f"an array of {X.dtype}", "real numbers (bool, int, uint or float)"
        raise input_error(source, found, expected, "convert it, for example with X.astype(np.float32)")
    if X.ndim not in (2, 3, 4):
        expected = "rows (N, F) or images (N, H, W), (N, C, H, W) or (N, H, W, C)"
        n_rows = "-1, 1" if X.ndim < 2 else "len(X), -1"
        raise input_error(source, f"shape {X.shape}", expected, f"X.reshape({n_rows}) makes rows of it")
    if X.size == 0:
        raise input_error(source, f"no values (shape {X.shape})", "one row or more", "write it again")


def _checked(X: _Rows, source: str, digest: hashlib._Hash, *, may_be_constant: bool) -> Iterator[Array]:
    """Yield all rows in chunks, each checked and added to the SHA-256: one pass, with memory for a chunk."""
    digest.update(_kind(X))
    is_constant = len(X) > 1 and not may_be_constant  # as far as was seen
    first_row = None
    for chunk in _chunks(X):
        if not _is_finite(chunk):
            raise _not_finite(X, source)
        digest.update(np.ascontiguousarray(chunk).data)
        first_row = chunk[:1].copy() if first_row is None else first_row
        is_constant = is_constant and bool((chunk == first_row).all())
        yield chunk
    if is_constant:
        raise input_error(source, f"all {len(X):,} rows are equal", "rows that differ", "check how it was written")


def _is_finite(chunk: Array) -> bool:
    """Return whether float32 can hold all values."""
    limit = float(np.finfo(np.float32).max)
    # Both are NaN if any value is. So nothing of the size of the chunk is allocated.
    return -limit <= float(chunk.min()) <= float(chunk.max()) <= limit


def _not_finite(X: _Rows, source: str) -> UserError:
    n_bad, n_rows, first = 0, 0, ""
    for chunk in _chunks(X):
        rows = chunk.reshape(len(chunk), -1).astype(np.float64)
        bad = np.argwhere(~(np.abs(rows) <= np.finfo(np.float32).max))
        if len(bad) and not first:
            row, column = bad[0]
            first = f"{rows[row, column]} in row {n_rows + row}, column {column} (counted from 0)"
        n_bad, n_rows = n_bad + len(bad), n_rows + len(chunk)
    found = f"values that are NaN, infinite or too large for float32: {n_bad:,}, the first is {first}"
    return input_error(source, found, "finite numbers", "replace them, or leave out their rows")


def _encode_labels(labels: Array, n_samples: int, source: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return the sorted distinct labels, and the labels as indices into them."""
    expected = "whole numbers, bools or strings"
    if labels.shape != (n_samples,):
        found, remedy = f"shape {labels.shape}", "give each row of the data one label"
        raise input_error(source, found, f"({n_samples},)", remedy)
    if labels.dtype.kind not in "biufUS":
        raise input_error(source, f"labels of {labels.dtype}", expected, "convert them, for example to strings")
    if labels.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)))
        if len(bad):
            found = f"{len(bad):,} labels like {labels[bad[0]]}, the first in row {bad[0]} (counted from 0)"
            raise input_error(source, found, expected, "give each row a class, or set data.labels=null")
        labels = labels.astype(np.int64)
    classes, index = np.unique(labels, return_inverse=True)
    return classes, index.astype(np.int64)


# --- what comes with scikit-learn ---------------------------------------------------------------------------


def _digits(config: DigitsData) -> _Raw:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _Raw(digits.images, digits.target, value_range=(0.0, 16.0))


def _blobs(config: BlobsData) -> _Raw:
    from sklearn.datasets import make_blobs

    X, labels = make_blobs(
        n_samples=config.n_samples,
        n_features=config.n_features,
        centers=config.n_blobs,
        cluster_std=config.blob_std,
        random_state=config.generator_seed,
    )
    return _Raw(X, labels)


def _moons(config: MoonsData) -> _Raw:
    from sklearn.datasets import make_moons

    X, labels = make_moons(config.n_samples, noise=config.noise, random_state=config.generator_seed)
    return _Raw(X, labels)


# --- what has to be downloaded ------------------------------------------------------------------------------


def _idx_files(class_name: str) -> tuple[str, ...]:
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{class_name}/raw/{kind}-ubyte.gz" for kind in kinds)


# The class in torchvision.datasets, and the files that it downloads, in their places below data.root.
_TORCHVISION = {
    "mnist": ("MNIST", _idx_files("MNIST")),
    "fashion_mnist": ("FashionMNIST", _idx_files("FashionMNIST")),
    "kmnist": ("KMNIST", _idx_files("KMNIST")),
    "usps": ("USPS", ("usps.bz2", "usps.t.bz2")),
    "cifar10": ("CIFAR10", ("cifar-10-python.tar.gz",)),
    "stl10": ("STL10", ("stl10_binary.tar.gz",)),
}

# What torchvision and urllib raise without a network, without permission, or on a damaged file.
_FETCH_ERRORS = (OSError, RuntimeError, EOFError, ValueError, LookupError, AssertionError, HTTPException)


def _torchvision(config: TorchvisionData) -> _Raw:
    datasets = _import_torchvision(config.name)
    class_name, files = _TORCHVISION[config.name]
    root, is_stl10 = _root(config), config.name == "stl10"
    parts = []
    log.info("data=%s: reading %s; torchvision downloads what is missing", config.name, root)
    for split in ("train", "test") if config.split == "all" else (config.split,):
        which = {"split": split} if is_stl10 else {"train": split == "train"}
        try:
            # torchvision draws its progress bars on stderr. CIFAR-10 consists of pickles: torchvision compares
            # their md5 with its own list before it loads them.
            with contextlib.redirect_stderr(io.StringIO()):
                parts.append(getattr(datasets, class_name)(str(root), download=True, **which))
        except _FETCH_ERRORS as error:
            raise _unavailable(config, files, error) from error
    X = np.concatenate([np.asarray(part.data) for part in parts])
    labels = np.concatenate([np.asarray(part.labels if is_stl10 else part.targets) for part in parts])
    return _Raw(X, labels, value_range=(0.0, 255.0))


def _import_torchvision(name: str) -> Any:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, AttributeError) as error:
        # RuntimeError "operator torchvision::nms does not exist": built for another torch.
        found = f"torchvision cannot be imported ({reason(error)})"
        expected = f"the release that belongs to torch {torch.__version__}"
        remedy = "install the matching pair together: pip install --force-reinstall torch torchvision"
        raise input_error(f"data={name}", found, expected, remedy) from error
    return datasets


# Address and digest are those of sklearn.datasets.fetch_20newsgroups, whose own cache is a pickle.
_NEWSGROUPS_URL = "https://ndownloader.figshare.com/files/5975967"
_NEWSGROUPS_SHA256 = "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"
_NEWSGROUPS_FILE = "20newsgroups/20news-bydate.tar.gz"
_N_POSTS, _N_GROUPS = 18_846, 20


def _newsgroups(config: NewsgroupsData) -> _Raw:
    from sklearn.feature_extraction.text import TfidfVectorizer

    archive = _root(config) / _NEWSGROUPS_FILE
    try:
        if not archive.exists():
            log.info("data=newsgroups: downloading %s", archive)
            _download(_NEWSGROUPS_URL, archive, _NEWSGROUPS_SHA256)
        packed = archive.read_bytes()
    except _FETCH_ERRORS as error:
        raise _unavailable(config, (_NEWSGROUPS_FILE,), error) from error
    try:
        posts = _read_posts(packed)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        found = f"{archive} is damaged ({reason(error)})"
        expected = f"{_N_POSTS:,} posts in {_N_GROUPS} groups"
        remedy = "delete the file, and the next run downloads it again"
        raise input_error(f"data.root={_root(config)}", found, expected, remedy) from error
    paths = sorted(posts)  # 20news-bydate-PART/GROUP/NUMBER
    X = TfidfVectorizer(max_features=config.n_terms, dtype=np.float32).fit_transform(map(posts.get, paths))
    return _Raw(X.toarray(), np.array([path.split("/")[1] for path in paths]), scaling="row_rms")


def _read_posts(packed: bytes) -> dict[str, str]:
    """Return the text of each post, headers included, by its path in the archive."""
    posts = {}
    # Unpacked as a whole: tarfile stops before the checksum at the end of the gzip stream.
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as tar:
        for member in tar:
            if file := tar.extractfile(member):
                posts[member.name] = file.read().decode("latin-1")
    n_groups = len({Path(path).parent.name for path in posts})
    # The content rather than a digest, because mirrors differ in how they packed it.
    if (len(posts), n_groups) != (_N_POSTS, _N_GROUPS):
        raise ValueError(f"{len(posts):,} posts in {n_groups} groups")
    return posts


def _download(url: str, path: Path, sha256: str) -> None:
    """Fetch a file such that it is either whole or not there."""
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        urllib.request.urlretrieve(url, part)
        found = hashlib.sha256(part.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"SHA-256 of {url} is {found}, not {sha256}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _root(config: DataConfig) -> Path:
    return expand(config.root).absolute()


def _unavailable(config: DataConfig, files: tuple[str, ...], error: BaseException) -> UserError:
    """Return the line that tells which files belong where."""
    root = _root(config)
    found = f"{config.name} can neither be read there nor downloaded ({reason(error)})"
    expected = f"{', '.join(files)} below it"
    remedy = "put them there, over damaged ones, or set data.root or DKM_DATA_ROOT to the folder that has them"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        is_packed = all(os.access(root / file, os.R_OK) for file in files)
        state = "is there, but only packed, and cannot be unpacked" if is_packed else "cannot be read or stored there"
        found = f"{config.name} {state} ({error.strerror}: {error.filename})"
        expected = "a folder that can be read and written, or one with the unpacked files"
        remedy = "set data.root or DKM_DATA_ROOT to a copy that you may write to"
    return input_error(f"data.root={root}", found, expected, remedy)


# --- the user's own files -----------------------------------------------------------------------------------


def _labels_of_file(path: str) -> Array:
    return read_npy(find_file("data.labels", path, "npy"), f"data.labels={path}")


def _npy(config: NpyData) -> _Raw:
    labels = None if config.labels is None else _labels_of_file(config.labels)
    files = NpyFiles("data.path", config.path)
    is_large = 4 * math.prod(files.shape) > _MOST_BYTES_IN_MEMORY
    if config.load == "disk" or (config.load == "auto" and is_large):
        return _Raw(StoredArray(files), labels)
    return _Raw(files.read_whole(), labels)


def _npz(config: NpzData) -> _Raw:
    path, source = find_file("data.path", config.path, "npz"), f"data.path={config.path}"
    # Opened here, because np.load leaves a file open that is no zip archive in the end.
    with one_line_errors(source), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = [name.removesuffix(".npy") for name in archive.zip.namelist() if name.endswith(".npy")]

        def read(key: str, name: str | None) -> Array:
            if name not in names:
                found = "no such array" if name is not None else "several arrays that could be the data, or none"
                expected = f"one of the arrays of {path}: {', '.join(names) or '(it has none)'}"
                raise input_error(f"{key}={name or 'null'}", found, expected, f"set {key}=NAME")
            with one_line_errors(f"{source}: array {name}"):
                array = archive[name]
                if not isinstance(array, np.ndarray):
                    raise ValueError("it does not begin as an array does")
            return array

        labels = None
        if config.labels is not None:
            is_file = config.labels.endswith(".npy")
            labels = _labels_of_file(config.labels) if is_file else read("data.labels", config.labels)
        if config.array is None and SparseArray.is_in(names):
            with one_line_errors(source):
                sparse = SparseArray(load_sparse(path))
            is_large = 4 * sparse.size > _MOST_BYTES_IN_MEMORY
            return _Raw(sparse if is_large else sparse.read(0, len(sparse)), labels, scaling="row_rms")
        return _Raw(read("data.array", _choose_array(config, names)), labels)


def has_array(path: str, name: str | None) -> bool:
    """Return whether a ``.npz`` file has an array of this name."""
    try:
        with zipfile.ZipFile(expand(path)) as archive:
            return f"{name}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _choose_array(config: NpzData, names: list[str]) -> str | None:
    if config.array is not None:
        return config.array
    usual = [name for name in ("x", "X", "data") if name in names]
    others = [name for name in names if name != config.labels]
    return usual[0] if usual else others[0] if len(others) == 1 else None


def _table(config: TableData) -> _Raw:
    reader = TableReader(config)
    part = reader.read()
    n_left_out = reader.n_rows - len(part.position)
    if n_left_out:
        log.info("%s: %d of %d rows have a missing value and are left out", reader.source, n_left_out, reader.n_rows)
    for name in reader.suspected_ids(part.X):
        log.warning(
            "%s: column %s has a different whole number in each row, as an id has, and is a feature; "
            "data.id=%s or data.exclude=[%s] takes it out",
            *(reader.source, name, name, name),
        )
    return _raw(part, features=reader.features, fill=reader.fill)


def _image_folder(config: ImageFolderData) -> _Raw:
    part = ImageFolder(config).read()
    return _raw(part, value_range=(0.0, 255.0))


def _raw(part: Part, **more: Any) -> _Raw:
    is_whole = bool((part.position == np.arange(len(part.position))).all())
    return _Raw(part.X, part.labels, position=None if is_whole else part.position, ids=part.ids, **more)


# Each takes its own subclass of DataConfig; GROUPS in dkm.config has the same names.
_LOADERS: dict[str, Callable[[Any], _Raw]] = {
    "digits": _digits,
    **dict.fromkeys(_TORCHVISION, _torchvision),
    "newsgroups": _newsgroups,
    "blobs": _blobs,
    "moons": _moons,
    "npy": _npy,
    "npz": _npz,
    "csv": _table,
    "parquet": _table,
    "image_folder": _image_folder,
}


# --- rows to predict ----------------------------------------------------------------------------------------

# Rows of a part: a multiple of what is encoded at once, so that rows get the same bits as in training. At most so many,
# and of an array no more than so many values (16 MiB as float32): scaled rows are still in the cache when encoded.
_PART_ROWS = 8 * CHUNK_ROWS
_PART_VALUES = 2**22


def option_for(path: str, key: str) -> str:
    """Return which option of ``data`` reads a file or folder of the user's own, by what is in it.

    Raises
    ------
    UserError
        If there is nothing.
    """
    place = expand(path)
    if place.is_dir():
        return "npy" if any(place.glob("*.npy")) else "image_folder"
    return format_of(check_there(place, f"{key}={path}", key)) or "csv"


class InputReader:
    """The rows of one file for a trained model, as they were read, in parts that fit memory.

    Parameters
    ----------
    config : FileData
        How to read it; its labels are carried along where there are any.
    key : str
        The setting that names the file, for messages.
    features, fill : optional
        See ``TableReader``.
    n_channels : int, optional
        Of the images of the model.
    """

    def __init__(
        self,
        config: FileData,
        *,
        key: str,
        features: Sequence[str] | None,
        fill: Sequence[float] | None,
        n_channels: int | None,
    ) -> None:
        self.source = f"{key}={config.path}"
        self._config = config
        self._reader: TableReader | ImageFolder | None = None
        if isinstance(config, TableData):
            self._reader = TableReader(config, key=key, features=features, fill=fill)
        elif isinstance(config, ImageFolderData):
            self._reader = ImageFolder(config, key=key, n_channels=n_channels)
        self.n_rows = 0

    def parts(self) -> Iterator[Part]:
        """Yield all rows, in parts of a multiple of ``CHUNK_ROWS``, the last one aside."""
        if self._reader is None:
            return self._array_parts()
        return _joined(self._table_parts(self._reader), _PART_ROWS)

    def _table_parts(self, reader: TableReader | ImageFolder) -> Iterator[Part]:
        yield from reader.parts(_PART_ROWS)
        self.n_rows = reader.n_rows

    def _array_parts(self) -> Iterator[Part]:
        raw = _LOADERS[self._config.name](self._config)
        _check_shape(raw.X, self.source)
        self.n_rows = len(raw.X)
        n_chunks = _PART_VALUES // (CHUNK_ROWS * math.prod(raw.X.shape[1:]))
        n_part = min(max(n_chunks, 1) * CHUNK_ROWS, _PART_ROWS)
        for start in range(0, len(raw.X), n_part):
            stop = min(start + n_part, len(raw.X))
            X = raw.X[start:stop] if isinstance(raw.X, np.ndarray) else raw.X.read(start, stop)
            labels = None if raw.labels is None else raw.labels[start:stop]
            yield Part(X, np.arange(start, stop), None, labels)


def _joined(parts: Iterable[Part], n_rows: int) -> Iterator[Part]:
    """Yield the same rows in parts of ``n_rows``, the last one aside."""
    kept: list[Part] = []
    n_kept = 0
    for part in parts:
        kept.append(part)
        n_kept += len(part.position)
        while n_kept >= n_rows:
            whole = _concatenated(kept)
            yield _rows_of_part(whole, slice(0, n_rows))
            n_kept -= n_rows
            kept = [_rows_of_part(whole, slice(n_rows, None))] if n_kept else []
    if n_kept:
        yield _concatenated(kept)


def _concatenated(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    columns: list[Any] = [None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)]
    return Part(*columns)


def _rows_of_part(part: Part, rows: slice) -> Part:
    columns: list[Any] = [None if values is None else values[rows] for values in part]
    return Part(*columns)
