"""Write the report of a finished run, or of several runs side by side, as one file to open and to send:

    python -m dkm.report RUN... output=FILE.html

A RUN is a run directory, a folder with runs anywhere below it, or a glob of these. A single run needs no output: its
report.html is written anew. Several runs must be of the same rows, but may read other columns or labels of them; the
report then says how well they agree, and has their maps side by side. The page has a map of the embedding, a card for
each cluster, and tables; it loads nothing from anywhere.

The data are read again for the map and the values. Without them the report has the clusters and tables alone.

    output=FILE.html        the file to write
    overwrite=true          replace an existing file, except the report.html of a run, which is always replaced
    data.path=FILE          the data, if they have moved; other keys of data. likewise
    model.class=pkg.Class   the class of a run with model=custom; classes named in files are not imported
    plugins=one,two         modules of your own that the run was trained with
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from dkm.config.commands import ReportConfig, parse_words, split_options
from dkm.config.commands import main as run_command
from dkm.config.custom import import_plugins, plugin_names, split_model_class
from dkm.config.values import absolute
from dkm.config.verbs import screen
from dkm.errors import UserError
from dkm.runs import reading

# The maps of more runs than this are too small to read.
_MOST_RUNS = 12


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, screen("report"))


def work(words: Sequence[str]) -> None:
    """Run ``dkm.report`` with the words of the command line."""
    known = {part.name for part in fields(ReportConfig)} | {"data", "model"}
    paths, options = split_options(words, known)
    config, rest = parse_words(ReportConfig, options, sections=("data", "model"))
    report(paths, config, rest)


def report(paths: Sequence[str], config: ReportConfig, overrides: Sequence[str] = ()) -> Path:
    """Write the report and return its path.

    Raises
    ------
    UserError
        If a run is unfinished or damaged, the runs are of different rows, or the file cannot be written.
    """
    if not paths:
        raise UserError("RUN: missing; expected run directories, or folders with runs in them; add one")
    import_plugins(plugin_names(config.plugins))
    runs = reading.find(paths)
    if len(runs) > _MOST_RUNS:
        raise UserError(
            f"{paths[0]}: {len(runs)} runs; expected at most {_MOST_RUNS} side by side; name fewer, or "
            "compare them in a table with python -m dkm.compare"
        )
    path = _output(runs, config)

    from dataclasses import replace

    from dkm.reports.content import titles
    from dkm.reports.page import write_report
    from dkm.reports.reading import read_material

    model_class, data = split_model_class(overrides)
    materials = [read_material(run, data, model_class) for run in runs]
    if len(materials) > 1:
        materials = [replace(m, title=title) for m, title in zip(materials, titles(materials), strict=True)]
    for material in materials:
        for warning in material.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    try:
        write_report(materials, path)
    except OSError as error:
        raise UserError(
            f"output={path}: {error.strerror or error}; expected a writable folder; choose another"
        ) from error
    print(f"written: {path}")
    return path


def _output(runs: Sequence[Path], config: ReportConfig) -> Path:
    """Return the file to write, and refuse one that cannot be written, before any run is read."""
    if config.output is None:
        if len(runs) > 1:
            raise UserError(
                "output: missing; expected a file for the report of several runs; for example output=report.html"
            )
        return runs[0].absolute() / "report.html"
    path, given = Path(absolute(config.output)), f"output={config.output}"
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"{given}: expected a name ending in .html; correct it")
    if os.path.isdir(path) or not os.path.isdir(path.parent):  # noqa: PTH112  # pathlib raises for a name too long
        raise UserError(f"{given}: expected a file in an existing folder; choose another")
    if os.path.exists(path) and not config.overwrite:  # noqa: PTH110
        raise UserError(f"{given}: the file exists; expected a new file; pass overwrite=true or choose another name")
    return path


if __name__ == "__main__":
    main()
