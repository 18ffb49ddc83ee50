"""From the name of a data set to the function that reads it."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dkm.config.data import ImageFolderData, TableData
from dkm.data.arrays import read_npy_data, read_npz_data
from dkm.data.builtin.generated import read_blobs, read_digits, read_moons
from dkm.data.builtin.newsgroups import read_newsgroups
from dkm.data.builtin.torchvision import FILES, read_torchvision
from dkm.data.images import ImageFolder
from dkm.data.raw import RawData, from_part
from dkm.data.tables import TableReader

log = logging.getLogger(__name__)


def read_table(config: TableData) -> RawData:
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
    return from_part(part, features=reader.features, fill=reader.fill)


def read_image_folder(config: ImageFolderData) -> RawData:
    part = ImageFolder(config).read()
    return from_part(part, value_range=(0.0, 255.0))


# Each takes its own subclass of DataConfig; GROUPS in dkm.config.schema has the same names.
LOADERS: dict[str, Callable[[Any], RawData]] = {
    "digits": read_digits,
    **dict.fromkeys(FILES, read_torchvision),
    "newsgroups": read_newsgroups,
    "blobs": read_blobs,
    "moons": read_moons,
    "npy": read_npy_data,
    "npz": read_npz_data,
    "csv": read_table,
    "parquet": read_table,
    "image_folder": read_image_folder,
}
