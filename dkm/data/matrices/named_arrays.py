"""Choose the array with the data, and that with the labels, among the named arrays of a file."""

# Shapes: N samples.

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dkm.config.data import ArrayFileData
from dkm.data.scaling import Array
from dkm.errors import UserError, first_of, input_error

_MAX_NAMES = 5


class NamedShape(NamedTuple):
    """Shape and dtype of an array that is not yet read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def choose_array(
    arrays: Mapping[str, NamedShape],
    config: ArrayFileData,
    source: str,
    plan: Mapping[str, Any] | None,
    *,
    usual: Sequence[str] = (),
    axes: Sequence[int] = (0,),
) -> tuple[str, str]:
    """Return the name of the array with the data, and why it was chosen ("" if the user named it).

    Parameters
    ----------
    arrays : Mapping from name to NamedShape
    config : ArrayFileData
    source : str
        ``KEY=VALUE`` that names the file.
    plan : Mapping, optional
        The plan of a trained model, whose ``array`` is preferred.
    usual : sequence of str
        Names that decide between several arrays.
    axes : sequence of int
        The axes that may be those of the samples.

    Raises
    ------
    UserError
        If the array does not exist, or several could be meant.
    """
    name = config.array or (plan or {}).get("array")
    if name is not None and (config.array is not None or name in arrays):
        name = name.strip("/")
        if name not in arrays:
            raise _no_array_error("data.array", name, arrays, source)
        return name, ""
    label_name = (config.labels or "").strip("/")
    shapes = {
        name: array.shape
        for name, array in arrays.items()
        if len(array.shape) >= 2 and array.dtype.kind in "biuf" and 0 not in array.shape and name != label_name
    }
    if len(shapes) == 1:
        return next(iter(shapes)), "the only array of numbers with two dimensions or more"
    if label_name in arrays:
        n_labels = math.prod(arrays[label_name].shape)
        same = [name for name, shape in shapes.items() if n_labels in [shape[axis] for axis in axes]]
        if len(same) == 1:
            return same[0], f"the only one with as many rows as there are labels ({n_labels:,})"
    for name in usual:
        if name in shapes:
            return name, f"the usual name among {len(shapes)} arrays of numbers"
    if not shapes:
        found, remedy = f"no array of numbers with two dimensions or more{_listed(arrays)}", "write the data to one"
        raise input_error(source, found, "rows (N, F) or images", remedy)
    found = f"{len(shapes)} arrays that could be the data{_listed({name: arrays[name] for name in shapes})}"
    remedy = f"set {shlex.quote(f'data.array={next(iter(shapes))}')}, for example"
    raise input_error(source, found, "one of them", remedy)


def choose_labels(
    arrays: Mapping[str, NamedShape], config: ArrayFileData, source: str, plan: Mapping[str, Any] | None
) -> str | None:
    """Return the name of the array with the labels; None if there is none, which only prediction accepts."""
    if config.labels is None:
        return None
    name = config.labels.strip("/")
    if name in arrays:
        return name
    if plan is None:
        raise _no_array_error("data.labels", config.labels, arrays, source)
    return None


def flat_labels(labels: Array) -> Array:
    """Return labels (N, 1) or (1, N) as (N,); bytes as text."""
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)
    return np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels


def describe_array(name: str, shape: Sequence[int], why: str) -> str:
    """Return what the data report says about the array."""
    return f"{name} of {describe_shape(shape)}" + (f", {why}" if why else "")


def describe_shape(shape: Sequence[int]) -> str:
    """Return a shape in words."""
    return " x ".join(f"{length:,}" for length in shape) or "a single value"


def _no_array_error(key: str, name: str, arrays: Mapping[str, NamedShape], source: str) -> UserError:
    near = difflib.get_close_matches(name, list(arrays), n=1)
    remedy = f"did you mean {shlex.quote(f'{key}={near[0]}')}?" if near else f"correct {key}"
    return input_error(f"{key}={name}", f"no such array in {source}{_listed(arrays)}", "one of its arrays", remedy)


def _listed(arrays: Mapping[str, NamedShape]) -> str:
    listed = [f"{name} of {describe_shape(array.shape)}" for name, array in arrays.items()]
    return f" ({first_of(listed, _MAX_NAMES)})" if listed else ""
