"""Reads the rows of a file as a trained model needs them, and assigns them to its clusters."""

# Shapes: n rows of a part, F input features, D latent, K clusters.

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dkm.config.commands import PredictConfig
from dkm.config.data import FileData, ImageData, MatrixData, TableData, TextData
from dkm.config.groups import GROUPS
from dkm.config.messages import describe
from dkm.config.resolved import escaped, section_of
from dkm.data.scaling import to_rows
from dkm.errors import UserError, input_error

if TYPE_CHECKING:
    from dkm.data.files import Part
    from dkm.data.reader import InputReader
    from dkm.data.scaling import Array, Scaling
    from dkm.evaluation.assignments import Assignments
    from dkm.models.saved import SavedModel

log = logging.getLogger(__name__)

Int64Array = npt.NDArray[np.int64]

# Keys of `data` that only decide what a training makes of its data, and those that a model without names still needs.
_OF_TRAINING = ("scaling", "categorical", "numeric", "dates", "missing_values", "n_terms")
_OF_COLUMNS = ("columns", "exclude")

# Counts of 1e8 are rare, and so are logarithms above this.
_MAX_LOGARITHM = 20
# The largest value of an image with pixels from 0 to 255 is hardly ever lower.
_LARGE_RANGE = 100
# New values are hardly ever this many times the largest of the training data.
_MAX_EXCESS = 4
# The rows of which medians are taken, at least and at most, and how many times the spread of the training data a median
# may be from their mean: an amount in another unit is much further, other customers are not.
_FEWEST_LOOKED_AT, _N_LOOKED_AT, _FAR = 10, 1_000, 20


def input_reader(path: str, model: SavedModel, words: Sequence[str] = (), key: str = "input") -> InputReader:
    """Return the reader of a file for the model.

    Parameters
    ----------
    path : str
    model : SavedModel
    words : sequence of str
        Overrides ``data.KEY=VALUE`` of how the file is read.
    key : str
        The setting that names the file, for messages.
    """
    from dkm.data.reader import InputReader

    data = _data_config(path, model, words)
    return InputReader(data, key=key, plan=model.plan, image_shape=model.image_shape)


def _data_config(path: str, model: SavedModel, words: Sequence[str]) -> FileData:
    """Return the config that reads a file as the run read its data, with the overrides applied."""
    from dkm.data.arrays import has_array
    from dkm.data.files import NpyFiles
    from dkm.data.reader import option_for

    option = option_for(path, "input", model.data)
    schema = GROUPS["data"][option]
    names = {part.name for part in fields(schema)}
    kept = {key: value for key, value in model.reading.items() if key in names}
    # The run's labels belong to its rows, unless the labels are in the same file as the rows.
    labels = kept.get("labels")
    has_labels_inside = labels is not None and (
        option == model.data  # the labels of one source of images have no meaning in another
        if issubclass(schema, ImageData)
        else issubclass(schema, TableData | TextData | MatrixData) or has_array(path, labels)
    )
    if issubclass(schema, ImageData) and "image_size" in model.reading:
        kept.setdefault("background", "none")  # models of older versions ignored transparency
    elif issubclass(schema, ImageData) and model.image_shape is not None and len(set(model.image_shape[1:])) == 1:
        kept["image_size"] = model.image_shape[1]
    if not has_labels_inside:
        kept["labels"] = None
    if option == "npy":  # read in parts, whatever the size; in Fortran order a row is not contiguous
        is_fortran = any(header.is_fortran for header in NpyFiles("input", path).headers)
        kept["load"] = "memory" if is_fortran else "disk"
    decided = _decided_keys(model.plan)
    usable = names - {"path", "root", "name"} - decided
    # Checked as plain values: a text in the folder of a model is not resolved.
    reading = section_of("data", schema, {**kept, "path": path, "name": option, "root": ""})
    structured = OmegaConf.structured(schema)
    try:
        structured = OmegaConf.merge(structured, OmegaConf.create(escaped(asdict(reading))))
        for word in words:
            key = word.partition("=")[0].removeprefix("data.")
            if key not in usable:
                raise _unusable_key_error(word, key in names & decided, option, usable - {"load"})
            structured = OmegaConf.merge(structured, OmegaConf.from_dotlist([word.removeprefix("data.")]))
        config = OmegaConf.to_object(structured)
    except OmegaConfBaseException as error:
        raise UserError(describe(error)) from error
    assert isinstance(config, FileData)
    return config


def _decided_keys(plan: Mapping[str, Any] | None) -> set[str]:
    """Return the keys of ``data`` that have no effect on a trained model."""
    has_names = plan is not None and bool(plan.get("columns") or plan.get("features"))
    return {*_OF_TRAINING, *(_OF_COLUMNS if has_names else ())}


def _unusable_key_error(word: str, is_decided: bool, option: str, usable: Collection[str]) -> UserError:
    keys = ", ".join(sorted(usable))
    if is_decided:
        return input_error(word, "the training has decided it", f"one of {keys}", "leave it out")
    return UserError(f"{word}: expected a key of data={option}; the keys are {keys}")


def assign_parts(model: SavedModel, parts: Iterator[Part], source: str, config: PredictConfig) -> Iterator[Assignments]:
    """Yield the assignments of each part of the input; the next part is read in the background.

    It is not scaled there: the encoder keeps every core busy, and would lose more time than the scaling takes. A
    warning at the end tells how many rows differ in features that were constant in training, which are ignored, and
    whether the first rows seem to be in another unit than those of training.

    Raises
    ------
    UserError
        If a row does not fit the model, or is so far from the training data that its distances are not finite.
    """
    import torch

    from dkm.data.batches import prefetch
    from dkm.evaluation.assignments import Assignments
    from dkm.evaluation.clusters import assign_clusters, require_finite_distances
    from dkm.models.saved import scaled_rows

    def as_read(part: Part) -> Part:
        return part

    constant = model.scaling.constant
    differing = np.zeros(len(constant), dtype=np.int64)  # number of rows, by constant feature
    doubt: str | None = None
    for i, part in enumerate(prefetch(as_read, parts)):
        doubt = unit_doubt(model.scaling, part.X, model.features) if i == 0 else doubt
        rows = scaled_rows(model, part.X, source, part.position)
        if len(constant):
            differing += model.scaling.differs_in_constant(part.X).sum(axis=0)
        z = model.embed(torch.from_numpy(rows))
        clusters = assign_clusters(z, model.centroids, with_margin=True)
        if not np.isfinite(clusters.squared_distance.sum().item()):
            require_finite_distances(clusters, part.position, source)
        yield Assignments(
            part.position,
            part.ids,
            clusters.labels,
            clusters.distance,
            clusters.margin,
            part.labels,
            part.texts,
            model.memberships(z).cpu().numpy() if config.memberships else None,
            z.cpu().numpy() if config.embedding else None,
        )
    if doubt is not None:
        log.warning("%s: %s", source, doubt)
    if differing.any():
        _warn_of_constant(model, source, constant[differing > 0], differing[differing > 0])


def unit_doubt(scaling: Scaling, X: Array, features: Sequence[str] | None = None) -> str | None:
    """Return why rows (n, ...) seem to be in another unit than those that a scaling was fitted to, None if not.

    Pixels are from 0 to 1 or from 0 to 255, counts are often given as their logarithm, and a column of a table, named
    in ``features``, may be in thousands.
    """
    if scaling.kind in ("standard", "centered"):
        return _column_doubt(scaling, to_rows(X[:_N_LOOKED_AT]), features)
    if scaling.kind not in ("counts", "unit"):
        return None
    low, high = float(X.min()), float(X.max())
    has_fractions = X.dtype.kind == "f" and bool((np.floor(X) != X).any())
    if scaling.kind == "counts" and low >= 0 and high <= _MAX_LOGARITHM and has_fractions:
        return (
            f"values up to {high:g} that are not whole, as logarithms are; the model takes those itself: give it counts"
        )
    first, last = scaling.shift[0], scaling.shift[0] + scaling.scale[0]
    is_below = last >= _LARGE_RANGE and low >= 0 and high <= 1 and has_fractions
    is_above = first >= 0 and last > 0 and high > _MAX_EXCESS * last
    if scaling.kind == "unit" and (is_below or is_above):
        trained = f"those of the training data were from {first:g} to {last:g}"
        return f"values from {low:g} to {high:g}, and {trained}: give the model values in the same unit"
    return None


def _column_doubt(scaling: Scaling, X: Array, features: Sequence[str] | None) -> str | None:
    """Return which features of X (n, F) have a median that is far from their mean in training, None if none has."""
    if len(X) < _FEWEST_LOOKED_AT:
        return None
    shift, scale = (np.broadcast_to(np.array(part), scaling.n_features) for part in (scaling.shift, scaling.scale))
    median = np.median(X, axis=0)
    is_far = np.abs(median - shift) > _FAR * scale  # a constant feature has an infinite scale
    is_far &= ~np.isin(X, (0, 1)).all(axis=0)  # a rare level or flag that all rows have
    if not is_far.any():
        return None
    first, *others = map(int, np.flatnonzero(is_far))
    more = f", and likewise {len(others):,} more" if others else ""
    return (
        f"{_name_of(first, features)} has a median of {median[first]:g}, where the mean of the training data was "
        f"{shift[first]:g}{more}: give the model values in the same unit"
    )


def _name_of(feature: int, features: Sequence[str] | None) -> str:
    return f"feature {feature} (counted from 0)" if features is None else f"column {features[feature]}"


def _warn_of_constant(model: SavedModel, source: str, constant: Int64Array, n_rows: Int64Array) -> None:
    first, value = int(constant[0]), np.broadcast_to(np.array(model.scaling.shift), model.scaling.n_features)
    name = _name_of(first, model.features)
    was = "" if model.scaling.total is not None else f" ({value[first]:g})"
    more = f", and likewise {len(constant) - 1:,} more" if len(constant) > 1 else ""
    log.warning(
        "%s: %s had one value in training%s and has others in %s rows%s; what the model has not seen vary is ignored",
        *(source, name, was, f"{n_rows[0]:,}", more),
    )
