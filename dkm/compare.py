"""Compare runs: the settings in which they differ, and their scores.

    python -m dkm.compare PATH...

A PATH is a run directory, a folder with runs anywhere below it (a sweep, or many), or a glob of these. Runs that differ
only in the seed share a row: mean and standard deviation (of a sample) of their scores, and ``agreement``, the mean
adjusted Rand index between the assignments of all pairs of them, which needs no labels. Runs that did not complete are
listed separately with their last scores and count for no mean; of several runs with one seed only the last one counts.
``mod. data`` and ``agreement`` compare clusterings of one data set without labels; scores in the embedding
(``sil. own``) do not.

    each=true            one row for each run
    sort=acc             the best first, by any score (davies_bouldin, inertia, reconstruction, seconds: the lowest)
    output=FILE,...      files by their suffixes: .csv, .md and .png, as the next three
    csv=FILE.csv         the table with every score
    markdown=FILE.md     the printed tables, for a report
    figure=FILE.png      the scores of each run, and the agreement of all pairs
    pairs=FILE.csv       the agreement of all pairs
    agreement=true       compare assignments even of more than 100 runs, which take long to read
    overwrite=true       replace existing files
    plugins=one,two      modules of your own with scores, which say whether a low one is good
"""

# Shapes: N rows of the data, R runs.

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from dkm.config.commands import CompareConfig, parse_words, split_options
from dkm.config.commands import main as run_command
from dkm.config.custom import import_plugins, plugin_names
from dkm.config.values import absolute
from dkm.config.verbs import screen
from dkm.errors import UserError, printable
from dkm.runs import reading
from dkm.runs.comparison import (
    Agreement,
    Group,
    agreement_of,
    comparison_warnings,
    csv_rows,
    csv_text,
    group_runs,
    pair_rows,
    read_all,
    score_groups,
    sort_groups,
)
from dkm.runs.comparison_report import Report, build_report, draw_comparison, markdown_table, text_table

# The assignments of more runs than this are compared only on request.
_MOST_AGREEING = 100


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, screen("compare"))


def work(words: Sequence[str]) -> None:
    """Run ``dkm.compare`` with the words of the command line."""
    known = {part.name for part in fields(CompareConfig)}
    paths, options = split_options(words, known)
    config, _ = parse_words(CompareConfig, options)
    compare(paths, config)


def compare(paths: Sequence[str], config: CompareConfig) -> list[Group]:
    """Print the comparison, write the requested files, and return the groups.

    Raises
    ------
    UserError
        If there are no runs, or a file exists or cannot be written.
    """
    if not paths:
        raise UserError("PATH: missing; expected run directories, or folders with runs in them; add one")
    import_plugins(plugin_names(config.plugins))
    config = _with_files_of_output(config)
    _check_files(config)
    runs = read_all(reading.find(paths))
    is_requested = config.agreement or config.pairs is not None
    n_completed = sum(run.is_completed for run in runs)
    agreement = agreement_of(runs) if is_requested or n_completed <= _MOST_AGREEING else None
    groups = score_groups(group_runs(runs, each=config.each), agreement, each=config.each)
    for warning in comparison_warnings(runs, groups):
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if config.sort is not None:
        groups = sort_groups(groups, config.sort)
    report = build_report(groups, agreement)
    print("\n".join(report.lines(text_table)))
    _write_files(config, groups, agreement, report)
    return groups


_SUFFIXES = {"csv": ".csv", "markdown": ".md", "figure": ".png", "pairs": ".csv"}


def _with_files_of_output(config: CompareConfig) -> CompareConfig:
    """Return the config with the files of ``output`` under the keys that their suffixes choose."""
    keys = {".csv": "csv", ".md": "markdown", ".png": "figure"}
    for name in filter(None, (config.output or "").split(",")):
        key = keys.get(Path(name).suffix)
        if key is None:
            raise UserError(f"output={name}: expected a name ending in {', '.join(keys)}; correct it")
        if getattr(config, key) is not None:
            raise UserError(f"output={name} and {key}={getattr(config, key)}: expected one file; leave one of them out")
        config = replace(config, **{key: name})  # type: ignore[arg-type]
    return config


def _files(config: CompareConfig) -> dict[str, Path]:
    return {key: Path(absolute(name)) for key in _SUFFIXES if (name := getattr(config, key)) is not None}


def _check_files(config: CompareConfig) -> None:
    """Refuse files that cannot be written, before any run is read."""
    for key, path in _files(config).items():
        given = f"{key}={getattr(config, key)}"
        if path.suffix != _SUFFIXES[key]:
            raise UserError(f"{given}: expected a name ending in {_SUFFIXES[key]}; correct it")
        if os.path.isdir(path) or not os.path.isdir(path.parent):  # noqa: PTH112  # pathlib raises for a name too long
            raise UserError(f"{given}: expected a file in an existing folder; choose another")
        if list(_files(config).values()).count(path) > 1:
            raise UserError(f"{given}: expected one file for each key; choose another")
        if os.path.exists(path) and not config.overwrite:  # noqa: PTH110
            raise UserError(
                f"{given}: the file exists; expected a new file; pass overwrite=true or choose another name"
            )


def _write_files(config: CompareConfig, groups: list[Group], agreement: Agreement | None, report: Report) -> None:
    from dkm.runtime.atomic import write_atomically

    for key, path in _files(config).items():
        try:
            if key == "figure":
                if not any(group.completed for group in groups):
                    raise UserError(f"figure={config.figure}: expected a completed run to draw; leave it out")
                draw_comparison(groups, agreement, path)
            elif key == "markdown":
                write_atomically(path, ("\n".join(report.lines(markdown_table)) + "\n").encode())
            elif key == "csv":
                write_atomically(path, csv_text(csv_rows(groups), is_safe=config.safe_csv).encode())
            elif agreement is not None:
                write_atomically(path, csv_text(pair_rows(agreement), is_safe=config.safe_csv).encode())
            else:
                raise UserError(f"pairs={config.pairs}: expected two completed runs or more; leave it out")
        except OSError as error:
            given = f"{key}={getattr(config, key)}"
            raise UserError(f"{given}: {error.strerror}; expected a writable folder; choose another") from error
        print(f"written: {path}")


if __name__ == "__main__":
    main()
