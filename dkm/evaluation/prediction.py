"""The rows of a file, read as a trained model needs them, and their clusters."""

# Shapes: n rows of a part, F input features, D latent, K clusters.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dkm.config.commands import PredictConfig
from dkm.config.data import FileData, ImageFolderData, TableData
from dkm.config.groups import GROUPS
from dkm.config.messages import describe
from dkm.errors import UserError

if TYPE_CHECKING:
    from dkm.data.files import Part
    from dkm.data.reader import InputReader
    from dkm.evaluation.assignments import Assignments
    from dkm.models.saved import SavedModel


def input_reader(path: str, model: SavedModel, words: Sequence[str] = (), key: str = "input") -> InputReader:
    """Return what reads a file for the model; ``key`` names the file in messages, ``words`` as in ``predict``."""
    from dkm.data.reader import InputReader

    n_channels = None if model.image_shape is None else model.image_shape[0]
    data = _data_config(path, model, words)
    return InputReader(data, key=key, features=model.features, fill=model.fill, n_channels=n_channels)


def _data_config(path: str, model: SavedModel, words: Sequence[str]) -> FileData:
    """Return how to read a file for the model: as the run read its data, with what the words change."""
    from dkm.data.arrays import has_array
    from dkm.data.files import NpyFiles
    from dkm.data.reader import option_for

    option = option_for(path, "input")
    schema = GROUPS["data"][option]
    names = {part.name for part in fields(schema)}
    kept = {key: value for key, value in model.reading.items() if key in names}
    # Labels of the run are those of its own rows, unless they stand beside the rows that are read now.
    is_beside = issubclass(schema, TableData | ImageFolderData) or has_array(path, kept.get("labels"))
    if not is_beside:
        kept["labels"] = None
    if option == "npy":  # part by part, whatever its size; in Fortran order a row is not in one place
        is_fortran = any(header.is_fortran for header in NpyFiles("input", path).headers)
        kept["load"] = "memory" if is_fortran else "disk"
    structured = OmegaConf.structured(schema)
    try:
        structured = OmegaConf.merge(structured, OmegaConf.create(kept))
        for word in words:
            key = word.partition("=")[0].removeprefix("data.")
            if key not in names - {"path", "root", "scaling", "name"}:
                usable = sorted(names - {"path", "root", "scaling", "name", "load"})
                raise UserError(f"{word}: expected a key of data={option}; the keys are {', '.join(usable)}")
            structured = OmegaConf.merge(structured, OmegaConf.from_dotlist([word.removeprefix("data.")]))
        structured.path, structured.name, structured.root = path, option, ""
        found = OmegaConf.to_object(structured)
    except OmegaConfBaseException as error:
        raise UserError(describe(error)) from error
    assert isinstance(found, FileData)
    return found


def assign_parts(model: SavedModel, parts: Iterator[Part], source: str, config: PredictConfig) -> Iterator[Assignments]:
    """Yield the assignments of each part of the input; the next part is read meanwhile.

    Read, not scaled: scaling beside the encoder, which keeps every core busy, costs it more time than it takes.
    """
    import torch

    from dkm.data.batches import one_ahead
    from dkm.evaluation.assignments import Assignments
    from dkm.evaluation.clusters import assign_clusters
    from dkm.models.saved import scaled_rows

    def as_read(part: Part) -> Part:
        return part

    for part in one_ahead(as_read, parts):
        rows = scaled_rows(model, part.X, source, part.position)
        z = model.embed(torch.from_numpy(rows))
        clusters = assign_clusters(z, model.centroids, with_margin=True)
        yield Assignments(
            part.position,
            part.ids,
            clusters.labels,
            clusters.distance,
            clusters.margin,
            part.labels,
            model.memberships(z).cpu().numpy() if config.memberships else None,
            z.cpu().numpy() if config.embedding else None,
        )
