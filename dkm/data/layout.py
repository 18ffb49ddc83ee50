"""The meaning of the axes of an array (N, ...): rows, images with channels first or last, or series."""

# Shapes: N samples, F features, C channels, H height, W width, T points in time; F = C * H * W for images.

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dkm.data.scaling import Array, channels_first
from dkm.errors import UserError, input_error

Shape = tuple[int, ...]

_AXES = {
    "rows": "(N, F), or more axes to flatten",
    "hwc": "(N, H, W) or (N, H, W, C)",
    "chw": "(N, H, W) or (N, C, H, W)",
    "series": "(N, T) or (N, T, C)",
}
_N_AXES = {"rows": range(2, 33), "hwc": (3, 4), "chw": (3, 4), "series": (2, 3)}
# Numbers of channels that are common: gray, RGB, RGBA.
_USUAL_CHANNELS = (1, 3, 4)
# Bytes with two sides of this length are pictures, whatever their aspect ratio.
_MIN_SIDE = 8


class Layout(NamedTuple):
    """A layout, and why it was chosen."""

    name: str
    evidence: str


def choose_layout(shape: Shape, dtype: np.dtype[Any], given: str | None, source: str) -> Layout:
    """Return the given layout, or the only plausible one.

    Raises
    ------
    UserError
        If the array cannot have the given layout, or if several are plausible.
    """
    if given is not None:
        if len(shape) not in _N_AXES[given]:
            found, fitting = f"{source} has shape {shape}", [name for name in _AXES if len(shape) in _N_AXES[name]]
            remedy = "set " + " or ".join(f"data.layout={name}" for name in fitting) if fitting else "reshape it"
            raise input_error(f"data.layout={given}", found, _AXES[given], remedy)
        return Layout(given, "as set")
    if len(shape) <= 2:
        return Layout("rows", "two axes")
    if len(shape) == 3:
        return _guess_of_three(shape, dtype, source)
    if len(shape) == 4:
        return _guess_of_four(shape, source)
    found, expected = f"shape {shape}", "rows (N, F) or images (N, H, W), (N, C, H, W) or (N, H, W, C)"
    raise input_error(source, found, expected, "data.layout=rows flattens each row")


def _guess_of_three(shape: Shape, dtype: np.dtype[Any], source: str) -> Layout:
    _, first, last = shape
    if dtype == np.uint8 and min(first, last) >= _MIN_SIDE:
        return Layout("hwc", "bytes with two long sides")
    may_be_channels = last <= max(_USUAL_CHANNELS) and first > last
    if max(first, last) <= 2 * min(first, last) and not may_be_channels:
        return Layout("hwc", "sides of similar length")
    candidates = {
        "series": f"{last:,} values at {first:,} points in time",
        "hwc": f"gray images of {first:,} x {last:,}",
        "rows": f"{first * last:,} features",
    }
    raise _ambiguous_error(shape, candidates, source)


def _guess_of_four(shape: Shape, source: str) -> Layout:
    _, first, middle, last = shape
    plausible = {
        "chw": _is_number_of_channels(first, (middle, last)),
        "hwc": _is_number_of_channels(last, (first, middle)),
    }
    square = {"chw": middle == last, "hwc": first == middle}
    names = [name for name in plausible if plausible[name]]
    if len(names) == 2 and square["chw"] != square["hwc"]:
        names = [name for name in names if square[name]]
    if len(names) == 2 and (first == 4) != (last == 4):  # four channels are rarer than one or three
        names = ["hwc"] if first == 4 else ["chw"]
    if len(names) == 1:
        axis, n = ("first", first) if names[0] == "chw" else ("last", last)
        return Layout(names[0], f"the {axis} axis after the rows has a plausible number of channels, {n}")
    candidates = {
        "hwc": f"{last:,} channels of {first:,} x {middle:,}",
        "chw": f"{first:,} channels of {middle:,} x {last:,}",
        "rows": f"{first * middle * last:,} features",
    }
    raise _ambiguous_error(shape, candidates, source)


def _is_number_of_channels(n: int, sides: tuple[int, int]) -> bool:
    return n in _USUAL_CHANNELS or 2 * n <= min(sides)


def _ambiguous_error(shape: Shape, candidates: Mapping[str, str], source: str) -> UserError:
    remedy = " or ".join(f"data.layout={name} ({meaning})" for name, meaning in candidates.items())
    return input_error(source, f"shape {shape} has several readings", "a known layout", f"set {remedy}")


def layout_of_plan(shape: Shape, given: str | None, plan: Mapping[str, Any] | None, source: str) -> str | None:
    """Return the layout of data for a trained model; None if the model has neither one nor images.

    Images may come with channels first or last, whatever the training data had: the layout is that which gives the
    model's image shape. Rows of flattened images fit too.

    Raises
    ------
    UserError
        If the data are images of another shape than the model's.
    """
    expected, trained = (plan or {}).get("image_shape"), (plan or {}).get("layout")
    if expected is None and trained is None:
        return given
    names = [name for name in (given, trained, "hwc", "chw") if name and len(shape) in _N_AXES[name]]
    if expected is None:
        return names[0] if names else None
    layout = next((name for name in names if image_shape(shape, name) == tuple(expected)), None)
    if layout is None and sum(n > 1 for n in shape[1:]) > 1:
        sides = " x ".join(map(str, expected))
        found = f"images of shape {shape[1:]}"
        raise input_error(
            source, found, f"those of the model, {sides} (channels, height, width)", "resize or turn them"
        )
    return layout


def image_shape(shape: Shape, layout: str) -> tuple[int, int, int] | None:
    """Return (C, H, W) of images, None for rows and series."""
    if layout not in ("hwc", "chw"):
        return None
    if len(shape) == 3:
        return 1, shape[1], shape[2]
    _, *sides = shape if layout == "chw" else (shape[0], shape[3], shape[1], shape[2])
    return sides[0], sides[1], sides[2]


def is_default(shape: Shape, layout: str) -> bool:
    """Return whether ``dkm.data.scaling.to_rows`` reads an array of this shape in this layout."""
    if len(shape) <= 2:
        return True
    if layout not in ("hwc", "chw"):
        return False
    if len(shape) == 3:
        return True
    is_moved = channels_first(np.empty((0, *shape[1:]))).shape[1:] != shape[1:]
    return image_shape(shape, "hwc" if is_moved else "chw") == image_shape(shape, layout)


def flatten(X: Array, layout: str) -> Array:
    """Return an array (N, ...) of this layout as rows (N, F), channels first."""
    has_channels_last = (layout == "hwc" and X.ndim == 4) or (layout == "series" and X.ndim == 3)
    return (np.moveaxis(X, -1, 1) if has_channels_last else X).reshape(len(X), math.prod(X.shape[1:]))


def describe_layout(shape: Shape, layout: Layout) -> dict[str, str]:
    """Return the decisions of the data report."""
    if len(shape) <= 2:
        return {}
    sides = image_shape(shape, layout.name)
    if sides is None:
        kind = "series, one channel after the other" if layout.name == "series" else "flattened rows"
        return {"layout": f"{kind}: data.layout={layout.name}, {layout.evidence}"}
    C, H, W = sides
    channels = "1 channel" if C == 1 else f"{C:,} channels"
    decisions = {"layout": f"images of {H} x {W}, {channels}: data.layout={layout.name}, {layout.evidence}"}
    if C not in (1, 3):
        shown = "the first three of four channels as red, green and blue" if C == 4 else f"the mean of {C:,} channels"
        decisions["pictures"] = shown
    return decisions
