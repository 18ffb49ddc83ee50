"""Read the arrays of a data set from its config."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import numpy as np

from dkm.config.custom import class_of, construct, import_named
from dkm.config.data import DATASETS, CustomData, DataConfig, TableData
from dkm.data.raw import RawData
from dkm.data.tables.reader import TableReader
from dkm.errors import UserError, reason


def read_raw(config: DataConfig) -> RawData:
    """Read the data set that ``config`` names; it is not yet checked and scaled."""
    raw: RawData = DATASETS[config.name].load()(config)
    return raw


def read_table(config: TableData) -> RawData:
    return TableReader(config).read()


def read_custom(config: CustomData) -> RawData:
    """Call the user's function, which returns X, or X and y, as arrays, tensors or nested lists.

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
        return RawData(np.asarray(X), None if y is None else np.asarray(y))
    except ValueError as error:
        raise UserError(f"data.class={name}: {expected} as arrays ({reason(error)}); return NumPy arrays") from error
