"""Read the arrays of a data set from its config."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dkm.config.custom import class_of, construct, import_named
from dkm.config.data import DATASETS, CustomData, DataConfig, TableData
from dkm.data.raw import RawData
from dkm.data.scaling import Array
from dkm.data.tables.reader import TableReader
from dkm.errors import UserError, reason


def read_raw(config: DataConfig) -> RawData:
    """Read the data set that ``config`` names; it is not yet checked and scaled."""
    raw: RawData = DATASETS[config.name].load()(config)
    return raw


def read_table(config: TableData) -> RawData:
    return TableReader(config).read()


def read_custom(config: CustomData) -> RawData:
    """Call the user's function, which returns X, or X and y, as arrays, sparse matrices, tensors, frames or lists.

    Raises
    ------
    UserError
        If the function cannot be imported or called, or returns something else.
    """
    name = class_of(config)
    function = import_named("data.class", name)
    expected = "expected a function that returns X, or X and y"
    if not callable(function):
        raise UserError(f"data.class={name}: {expected}, got {type(function).__name__}; define a function")
    result = construct("data", function, {}, config.options)
    if callable(result):  # an instance of a class, which returns the data when it is called
        result = result()
    if isinstance(result, RawData):
        return result
    values = result if isinstance(result, tuple) else (result, None)
    if len(values) != 2:
        raise UserError(f"data.class={name}: {expected}, got {len(values)} values; return X, y")
    X, y = values
    try:
        return RawData(_rows(X, name), None if y is None else _labels(y))
    except (TypeError, ValueError) as error:
        raise UserError(f"data.class={name}: {expected} as arrays ({reason(error)}); return NumPy arrays") from error


def _rows(X: Any, name: str) -> Array:
    """Return the rows that the user's function ``name`` returned as an array of numbers."""
    from scipy.sparse import issparse

    if isinstance(X, Tensor):
        X = X.detach().cpu().to_dense()
        X = X.float() if X.dtype is torch.bfloat16 else X  # NumPy has no bfloat16
    rows = np.asarray(X.toarray() if issparse(X) else X)
    if rows.dtype != object:
        return rows
    if type(X).__module__.partition(".")[0] == "pandas" and hasattr(X, "columns"):
        return _rows_of_frame(X, name)
    found = f"a {type(X).__name__}" + (" of other values" if rows.ndim else "")
    raise UserError(f"data.class={name}: expected rows of numbers, got {found}; return a NumPy array of numbers")


def _rows_of_frame(X: Any, name: str) -> Array:
    """Return the rows of a frame of pandas whose columns have no common type of NumPy, such as nullable numbers."""
    from pandas.api.types import is_numeric_dtype

    for column, kind in X.dtypes.items():
        if not is_numeric_dtype(kind):
            raise UserError(
                f"data.class={name}: expected rows of numbers, got a {type(X).__name__} with the column {column!r} "
                f"({kind}); encode it, for example with pandas.get_dummies, or train on the table as a file"
            )
    rows: Array = X.to_numpy(np.float64, na_value=np.nan)
    return rows


def _labels(y: Any) -> Array:
    """Return labels as an array; texts and whole numbers in an array of objects, as pandas has them, as such."""
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.dtype == object:
        for kinds, dtype in (((str,), np.str_), ((int, np.integer), np.int64)):
            if all(isinstance(label, kinds) and not isinstance(label, bool) for label in labels.flat):
                return labels.astype(dtype)
    return labels
