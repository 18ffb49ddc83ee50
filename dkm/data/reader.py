"""Read the rows of a file for a trained model, in parts that fit into memory."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dkm.config.data import DATASETS, ArrayData, FileData, ImageData, TableData, TextData
from dkm.config.registry import load
from dkm.data.arrays import has_array, read_for_model
from dkm.data.datasets import check_labels, check_shape
from dkm.data.files import Part, concatenate, expand, format_of, read_first_bytes
from dkm.data.images.decoding import is_image
from dkm.data.images.parquet import has_image_column
from dkm.data.loaders import read_raw
from dkm.data.matrices.h5ad import is_h5ad
from dkm.data.matrices.zarrs import METADATA
from dkm.data.recognition import count_files
from dkm.data.report import DataReport
from dkm.data.stored import CHUNK_ROWS
from dkm.data.tables.sources import has_wildcard
from dkm.data.unicode import require_encodable

# Limits of a part. Rows come in multiples of CHUNK_ROWS, so that their embeddings equal those of training bit for bit.
# Parts of an array have at most 16 MiB as float32: scaled rows are still in the cache when they are encoded.
_PART_ROWS = 8 * CHUNK_ROWS
_PART_VALUES = 2**22
# What the files of a folder of tables may be, as ``count_files`` has them.
_TABLES = {"csv", "parquet", "feather", "text"}


def option_for(path: str, key: str, trained: str = "") -> str:
    """Return the option of ``data`` that reads a file or folder, judged by its content.

    ``trained`` is the option that read the training data, which decides where one content has several options.

    Raises
    ------
    UserError
        If the file does not exist, cannot be opened or is empty.
    """
    place = expand(path, key)
    schema = DATASETS[trained].config if trained in DATASETS else FileData
    if place.is_dir():
        if any((place / name).is_file() for name in METADATA):
            return "zarr"
        is_table = issubclass(schema, TableData)
        read = _TABLES if is_table else {"image_folder"} if issubclass(schema, ImageData) else set()
        if any(place.glob("*.npy")) and not read & count_files(place).keys():
            return "npy"
        return trained if is_table else "image_folder"
    if issubclass(schema, TableData) and has_wildcard(path) and not place.is_file():
        return trained
    content = format_of(read_first_bytes(place, f"{key}={path}", key))
    if content is None and not issubclass(schema, TableData | TextData) and is_image(place):
        return "image_folder"
    if content == "hdf5" and trained not in ("hdf5", "mat"):
        return "h5ad" if is_h5ad(path, f"{key}={path}") else "hdf5"
    if content == "hdf5" or (content == "npz" and trained == "zarr"):
        return trained
    may_be_zipped = content == "npz" and (issubclass(schema, TableData | TextData) or _has_members(place))
    if may_be_zipped and not has_array(path):  # zipped text, or a workbook, which the reader of tables refuses
        return "text" if issubclass(schema, TextData) else "csv"
    if content in (None, "parquet") and trained == "text":
        return "text"
    if content in (None, "parquet") and issubclass(schema, ImageData):
        return "image_list" if content is None else "image_parquet"
    if content == "parquet" and not issubclass(schema, TableData) and has_image_column(path):
        return "image_parquet"
    # Files of MATLAB 4 have no mark.
    return content or ("mat" if place.suffix.lower() == ".mat" else "csv")


def _has_members(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as opened:
            return bool(opened.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):  # whose reader says what is wrong
        return False


class PartReader(Protocol):
    """Reads the rows of one file in parts, as the rows of training were read.

    Its class is called with ``(config, key=..., plan=..., n_channels=...)``; see ``InputReader``. The plan is empty if
    the model has none.
    """

    n_rows: int  # rows of the file read so far
    report: DataReport  # complete after the last part

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all rows in parts of at most ``n_rows`` rows of the file."""
        ...


class InputReader:
    """The unscaled rows of one file for a trained model, in parts that fit into memory.

    Parameters
    ----------
    config : FileData
        How to read the file. Labels are returned if the file has them.
    key : str
        The setting that names the file, for messages.
    plan : Mapping, optional
        What the reader of the training data stored with the model (``RawData.plan``).
    image_shape : tuple of int, optional
        Shape (C, H, W) of the model's images.

    Attributes
    ----------
    n_rows : int
        Rows of the file read so far.
    report : DataReport
        What was decided, filled and left out; complete after the last part.
    """

    def __init__(
        self,
        config: FileData,
        *,
        key: str,
        plan: Mapping[str, Any] | None,
        image_shape: tuple[int, int, int] | None,
    ) -> None:
        self.source = f"{key}={config.path}"
        # Models of image files have images without a layout.
        plan = {"image_shape": image_shape, **(plan or {})}
        self._config, self._plan, self._key = config, plan, key
        self._reader: PartReader | None = None
        reader = DATASETS[config.name].reader
        if reader is not None:
            self._reader = load(reader)(
                config, key=key, plan=plan, n_channels=None if image_shape is None else image_shape[0]
            )
        self.report = DataReport(self.source) if self._reader is None else self._reader.report
        self.n_rows = 0

    def parts(self) -> Iterator[Part]:
        """Yield all rows; all parts but the last have a multiple of ``CHUNK_ROWS`` rows."""
        is_array = self._reader is None
        parts = self._array_parts() if is_array else _rechunk(self._table_parts(), _PART_ROWS)
        for part in parts:
            require_encodable(part.ids, "id", self.source, part.position)
            require_encodable(part.labels, "label", self.source, part.position)
            yield part

    def _table_parts(self) -> Iterator[Part]:
        assert self._reader is not None
        yield from self._reader.parts(_PART_ROWS)
        self.n_rows = self._reader.n_rows

    def _array_parts(self) -> Iterator[Part]:
        config = self._config
        raw = read_for_model(config, self._plan, self._key) if isinstance(config, ArrayData) else read_raw(config)
        check_shape(raw.X, self.source)
        if raw.labels is not None:
            check_labels(raw.labels, len(raw.X), f"data.labels={config.labels}")
        self.report = raw.report or self.report
        self.n_rows = len(raw.X)
        n_part = min(_rows_per_part(raw.X.shape), _PART_ROWS)
        for start in range(0, len(raw.X), n_part):
            stop = min(start + n_part, len(raw.X))
            X = raw.X[start:stop] if isinstance(raw.X, np.ndarray) else raw.X.read(start, stop)
            labels = None if raw.labels is None else raw.labels[start:stop]
            yield Part(X, np.arange(start, stop), None, labels)


def _rows_per_part(shape: tuple[int, ...]) -> int:
    return max(_PART_VALUES // (CHUNK_ROWS * math.prod(shape[1:])), 1) * CHUNK_ROWS


def _rechunk(parts: Iterable[Part], n_rows: int) -> Iterator[Part]:
    """Yield the same rows; all parts but the last have ``n_rows`` rows, or fewer if the rows are wide."""
    kept: list[Part] = []
    n_kept = 0
    for part in parts:
        n_rows = min(n_rows, _rows_per_part(part.X.shape))
        kept.append(part)
        n_kept += len(part.position)
        while n_kept >= n_rows:
            whole = concatenate(kept)
            yield _slice_part(whole, slice(0, n_rows))
            n_kept -= n_rows
            kept = [_slice_part(whole, slice(n_rows, None))] if n_kept else []
    if n_kept:
        yield concatenate(kept)


def _slice_part(part: Part, rows: slice) -> Part:
    columns: list[Any] = [None if values is None else values[rows] for values in part]
    return Part(*columns)
