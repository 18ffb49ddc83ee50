"""Matrices in the files of other programs: AnnData, HDF5, Zarr, MATLAB.

Training and prediction open a file in the same way, by the function of its option; ``MatrixReader`` reads the rows for
prediction in parts. The plan of a trained model names the array, so that prediction reads the same one.
"""

# Shapes: N samples, F features.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dkm.config.data import ArrayFileData, MatrixData
from dkm.data.arrays import arrange, arrange_for_model
from dkm.data.datasets import check_labels, check_shape
from dkm.data.files import Part
from dkm.data.matrices.h5ad import open_h5ad
from dkm.data.matrices.hdf5 import open_hdf5
from dkm.data.matrices.mat import open_mat
from dkm.data.matrices.zarrs import open_zarr
from dkm.data.raw import RawData
from dkm.data.report import DataReport
from dkm.data.stored import is_large, rows_per_part

_OPENERS: Mapping[str, Callable[[Any, str, Mapping[str, Any] | None], RawData]] = {
    "h5ad": open_h5ad,
    "hdf5": open_hdf5,
    "zarr": open_zarr,
    "mat": open_mat,
}


def read_matrix(config: MatrixData) -> RawData:
    """Open the file for training."""
    raw = _OPENERS[config.name](config, f"data.path={config.path}", None)
    if isinstance(config, ArrayFileData):
        raw = arrange(raw, config)
    is_on_disk = config.load == "disk" or (config.load == "auto" and is_large(raw.X.size))
    return raw._replace(in_memory=not is_on_disk)


class MatrixReader:
    """Reads the rows of one file in parts for a trained model; see ``dkm.data.reader.PartReader``.

    Parameters
    ----------
    config : MatrixData
    key : str
        The setting that names the file, for messages.
    plan : Mapping, optional
        What ``RawData.plan`` of the training data had.
    n_channels : int, optional
        Not used.

    Raises
    ------
    UserError
        If the file cannot be opened, or lacks the array or features of the model.
    """

    def __init__(
        self,
        config: MatrixData,
        *,
        key: str = "data.path",
        plan: Mapping[str, Any] | None = None,
        n_channels: int | None = None,
    ) -> None:
        source = f"{key}={config.path}"
        raw = _OPENERS[config.name](config, source, plan)
        self._raw = arrange_for_model(raw, config, plan, source) if isinstance(config, ArrayFileData) else raw
        check_shape(self._raw.X, source)
        if self._raw.labels is not None:
            check_labels(self._raw.labels, len(self._raw.X), f"data.labels={config.labels}")
        self.report = self._raw.report or DataReport(source)
        self.n_rows = len(self._raw.X)

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all rows in parts of at most ``n_rows`` rows."""
        X, labels, ids = self._raw.X, self._raw.labels, self._raw.ids
        n_part = rows_per_part(n_rows, math.prod(X.shape[1:]))
        for start in range(0, len(X), n_part):
            rows = slice(start, min(start + n_part, len(X)))
            yield Part(
                X[rows] if isinstance(X, np.ndarray) else X.read(rows.start, rows.stop),
                np.arange(rows.start, rows.stop),
                None if ids is None else ids[rows],
                None if labels is None else labels[rows],
            )
