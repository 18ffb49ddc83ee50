"""Assign new data with the model of a run:

    python -m dkm.predict run=RUN input=FILE output=OUT.csv

Reads ``RUN/model`` alone, so a copy of that folder will do as ``run``. The input is read and scaled as the data of the
run were: a table by the names of its columns, whatever their order. The output has a row for each row of the input
(index, id, cluster, distance to its centroid, margin to the second nearest); its suffix says the format: .csv,
.parquet or .npz.

    overwrite=true         replace a file that is there
    memberships=true       one column for each cluster: soft memberships
    embedding=true         one column for each dimension: the encoder's output
    device=cpu threads=4   where it runs
    data.KEY=VALUE         how the input is read, where that differs from the run: data.id=customer, data.missing=drop

The input is read in parts, so it may be larger than memory. An .npz file is not, nor a .npy file in Fortran order.
"""

# Shapes: n rows of a part, F input features, D latent, K clusters.

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dkm.commands import PredictConfig, parse_words
from dkm.commands import main as run_command
from dkm.compose import absolute
from dkm.config import GROUPS, FileData, ImageFolderData, TableData, UserError, describe

if TYPE_CHECKING:
    from dkm.answers import Answers
    from dkm.data import InputReader
    from dkm.files import Part
    from dkm.saved import SavedModel


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, __doc__)


def work(words: Sequence[str]) -> None:
    """Predict what the words say."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    config, rest = parse_words(PredictConfig, words, sections=("data",))
    predict(config, rest)


def predict(config: PredictConfig, reading: Sequence[str] = ()) -> int:
    """Assign all rows of ``config.input``, write the answers, and return how many rows there were.

    Parameters
    ----------
    config : PredictConfig
    reading : sequence of str
        Words ``data.KEY=VALUE``: how the input is read, where that differs from the run.

    Raises
    ------
    UserError
        If the input is not what the model takes, or the output cannot be written; no output is left then.
    """
    from dkm.answers import Writer
    from dkm.devices import find_device, keep_freed_memory, set_threads
    from dkm.saved import load_model

    set_threads(config.threads)
    keep_freed_memory()
    device = find_device(config.device)
    model = load_model(config.run).to(device)
    output = Path(absolute(config.output))
    reader = input_reader(config.input, model, reading)
    n_rows = 0
    with Writer(output, f"output={config.output}", overwrite=config.overwrite) as writer:
        for part in answers(model, reader.parts(), reader.source, config):
            writer.write(part)
            n_rows += len(part.position)
    left_out = reader.n_rows - n_rows
    print(f"{output}: {n_rows:,} rows" + (f", {left_out:,} left out" if left_out else ""))
    return n_rows


def input_reader(path: str, model: SavedModel, words: Sequence[str] = (), key: str = "input") -> InputReader:
    """Return what reads a file for the model; ``key`` names the file in messages, ``words`` as in ``predict``."""
    from dkm.data import InputReader

    n_channels = None if model.image_shape is None else model.image_shape[0]
    data = _data_config(path, model, words)
    return InputReader(data, key=key, features=model.features, fill=model.fill, n_channels=n_channels)


def _data_config(path: str, model: SavedModel, words: Sequence[str]) -> FileData:
    """Return how to read a file for the model: as the run read its data, with what the words change."""
    from dkm.data import has_array, option_for
    from dkm.files import NpyFiles

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


def answers(model: SavedModel, parts: Iterator[Part], source: str, config: PredictConfig) -> Iterator[Answers]:
    """Yield the answers to each part of the input; the next part is read meanwhile.

    Read, not scaled: scaling beside the encoder, which keeps every core busy, costs it more time than it takes.
    """
    import torch

    from dkm.answers import Answers
    from dkm.batches import one_ahead
    from dkm.evaluate import cluster
    from dkm.saved import scaled_rows

    def as_read(part: Part) -> Part:
        return part

    for part in one_ahead(as_read, parts):
        rows = scaled_rows(model, part.X, source, part.position)
        z = model.embed(torch.from_numpy(rows))
        found = cluster(z, model.centroids)
        yield Answers(
            part.position,
            part.ids,
            found.labels,
            found.distance,
            found.margin,
            part.labels,
            model.memberships(z).cpu().numpy() if config.memberships else None,
            z.cpu().numpy() if config.embedding else None,
        )


if __name__ == "__main__":
    main()
