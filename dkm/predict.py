"""Assign new data with the model of a run:

    python -m dkm.predict run=RUN input=FILE output=OUT.csv

Only ``RUN/model`` is read, so ``run`` may also name a copy of that folder. The input is read and scaled as the data of
the run were; the columns of a table are matched by name, in any order. The output has a row for each row of the input
(index, id, cluster, distance to its centroid, margin to the second nearest centroid); its suffix chooses the format:
.csv, .parquet or .npz. What was decided about the input is printed, with a warning for filled cells and for levels of a
category that the training data did not have.

    overwrite=true         replace an existing file
    memberships=true       one column for each cluster: soft memberships
    embedding=true         one column for each dimension: the encoder's output
    safe_csv=true          mark texts that a spreadsheet would execute as formulas
    device=cpu threads=4   the device and the number of CPU threads
    data.KEY=VALUE         how the input is read, if not as in the run: data.id=customer, data.missing=drop
    model.class=pkg.Class  the class of a run with model=custom: code is not imported because a file names it
    plugins=one,two        modules of your own that the run was trained with

The input is read in parts, so it may be larger than memory, except for .npz files and .npy files in Fortran order.
"""

# Shapes: n rows of a part, F input features, D latent, K clusters.

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dkm.config.commands import PredictConfig, parse_words
from dkm.config.commands import main as run_command
from dkm.config.custom import import_plugins, plugin_names, split_model_class
from dkm.config.short import translate_data_names
from dkm.config.values import absolute, scheme_of
from dkm.config.verbs import screen
from dkm.errors import input_error, printable_lines
from dkm.evaluation.prediction import assign_parts, input_reader
from dkm.runtime.remote import uploaded

if TYPE_CHECKING:
    from dkm.models.saved import SavedModel

log = logging.getLogger("dkm.predict")


class _PrintableLines(logging.Formatter):
    """Escapes control characters: names of columns come from the file."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, screen("predict"))


def work(words: Sequence[str]) -> None:
    """Run ``dkm.predict`` with the words of the command line."""
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_PrintableLines("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[console])
    log.setLevel(logging.INFO)
    words = translate_data_names(words, kept=[part.name for part in fields(PredictConfig)])
    config, rest = parse_words(PredictConfig, words, sections=("data", "model"), alone=("run", "input"))
    model_class, reading = split_model_class(rest)
    predict(config, reading, model_class)


def predict(config: PredictConfig, reading: Sequence[str] = (), model_class: str | None = None) -> int:
    """Assign all rows of ``config.input``, write the assignments, and return the number of rows.

    Parameters
    ----------
    config : PredictConfig
    reading : sequence of str
        Overrides ``data.KEY=VALUE`` of how the input is read.
    model_class : str, optional
        The dotted name of the class of a run with ``model=custom``.

    Raises
    ------
    UserError
        If the input does not fit the model, or the output cannot be written; no output remains then.
    """
    from dkm.models.saved import load_model
    from dkm.runtime.devices import find_device, keep_freed_memory, set_threads

    import_plugins(plugin_names(config.plugins))
    _require_other_file(config)
    set_threads(config.threads)
    keep_freed_memory()
    device = find_device(config.device)
    model = load_model(config.run, model_class=model_class).to(device)
    shown = config.output
    if scheme_of(shown) is None:
        shown = str(Path(absolute(shown)))
        n_rows, n_left_out = _assign(config, Path(shown), model, reading)
    else:
        with uploaded(shown, "output", overwrite=config.overwrite) as local:
            n_rows, n_left_out = _assign(config, local, model, reading)
    print(f"{shown}: {n_rows:,} rows" + (f", {n_left_out:,} left out" if n_left_out else ""))
    return n_rows


def _assign(config: PredictConfig, output: Path, model: SavedModel, reading: Sequence[str]) -> tuple[int, int]:
    """Write the assignments of all rows to a local file; return how many were assigned, and how many left out."""
    from dkm.evaluation.assignments import Writer

    reader = input_reader(config.input, model, reading)
    n_rows = 0
    with Writer(output, f"output={config.output}", overwrite=config.overwrite, is_safe=config.safe_csv) as writer:
        for part in assign_parts(model, reader.parts(), reader.source, config):
            writer.write(part)
            n_rows += len(part.position)
        if n_rows == 0:
            found = f"all {reader.n_rows:,} rows are left out"
            raise input_error(reader.source, found, "a row to assign", "complete the rows, or set data.missing=median")
    for remark in reader.report.prediction_remarks():
        log.info("%s: %s", reader.source, remark)
    for warning in reader.report.prediction_warnings():
        log.warning("%s: %s", reader.source, warning)
    return n_rows, reader.n_rows - n_rows


def _require_other_file(config: PredictConfig) -> None:
    """Refuse to replace the input, also by another name of the same file."""
    is_same = scheme_of(config.input) is not None and config.input == config.output
    with contextlib.suppress(OSError, ValueError):  # one of them does not exist
        is_same = is_same or Path(absolute(config.input)).samefile(absolute(config.output))
    if is_same:
        found = "is the input, which would be lost"
        raise input_error(f"output={config.output}", found, "another file", "choose another name")


if __name__ == "__main__":
    main()
