"""Which rows a data set has, whatever is read of them.

Runs on one file may use other columns or labels, so that their values differ while their rows are the same. The digest
tells: it covers the content of the file, the settings that decide what a row of it is, and the positions of the rows
that are used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dkm.config.data import DataConfig, FileData, ImageListData, ImageParquetData
from dkm.config.values import scheme_of
from dkm.data.features import digest_of_files
from dkm.errors import UserError

# A larger source is not read a second time.
_MAX_BYTES = 2**30
# Settings of the values, the labels and the place of the rows. Any other setting may decide what a row is.
_NOT_OF_ROWS = frozenset(
    [
        *("path", "root", "max_expansion", "load", "scaling", "labels", "id", "columns", "exclude", "categorical"),
        *("numeric", "dates", "missing", "strict", "decimal", "thousands", "missing_values", "layer", "image_size"),
        *("color", "background", "range", "max_unreadable", "text", "text_encoder", "n_terms", "encoder"),
        *("encoder_weights", "encoder_size", "encoder_mean", "encoder_std"),
    ]
)


def digest_of_rows(config: DataConfig, n_rows: int, position: npt.NDArray[np.int64] | None) -> str | None:
    """Return a SHA-256 that is equal for equal rows of equal files, whichever columns and labels are read.

    Parameters
    ----------
    config : DataConfig
    n_rows : int
        Number of rows that are used.
    position : array, optional
        Their positions (n_rows,) in the file; None if all rows are used.

    Returns
    -------
    str or None
        None if it is not known which rows they are: the data are no local files, name other files, or are too large.
    """
    if not isinstance(config, FileData) or isinstance(config, ImageListData | ImageParquetData):
        return None
    content = _digest_of_source(config.path)
    if content is None:
        return None
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_OF_ROWS}
    rows = np.arange(n_rows) if position is None else position
    digest = hashlib.sha256(f"{content} {json.dumps(settings, sort_keys=True)} ".encode())
    digest.update(np.ascontiguousarray(rows, dtype="<i8").data)
    return digest.hexdigest()


def _digest_of_source(path: str) -> str | None:
    """Return the SHA-256 of a file, or of the files in a folder with their names below it."""
    if scheme_of(path) is not None:
        return None
    place = Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises for unknown users
    try:
        files = [place] if place.is_file() else sorted(_files_below(place))
        if not files or sum(file.stat().st_size for file in files) > _MAX_BYTES:
            return None
        names = {"" if file == place else file.relative_to(place).as_posix(): file for file in files}
        return digest_of_files(names, path)
    except (UserError, OSError, ValueError):
        return None


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (file for name in names if not name.startswith(".") and (file := Path(place, name)).is_file())
