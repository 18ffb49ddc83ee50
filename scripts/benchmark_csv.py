"""Times the reading of a CSV file of 200,000 rows with an id and 50 columns of numbers, against pandas' C reader.

``reader`` selects the columns, reads, checks for text and missing values and builds one matrix; ``data set`` also fits
and applies the scaling and computes the SHA-256, as a run does before training. All take turns.

    python scripts/benchmark_csv.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from dkm.config.data import CsvData
from dkm.data.datasets import load_dataset
from dkm.data.tables.reader import TableReader
from timing import Report, Row, options_parser, read_options, take_turns

_N_FEATURES = 50


def write(path: Path, n_rows: int) -> None:
    """Write numbers with all digits of float64, as most programs do."""
    X = np.random.default_rng(0).normal(size=(n_rows, _N_FEATURES))
    frame = pd.DataFrame(X, columns=[f"feature_{number}" for number in range(_N_FEATURES)])
    frame.insert(0, "id", [f"c{number:06d}" for number in range(n_rows)])
    frame.to_csv(path, index=False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=5)
    options = read_options(parser, argv)
    n_rows = 200 if options.quick else 200_000
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write(path, n_rows)
        config = CsvData(path=str(path), id="id")
        works: dict[str, Callable[[], object]] = {
            "pandas": lambda: pd.read_csv(path),
            "reader": lambda: TableReader(config).read(),
            "data set": lambda: load_dataset(config),
        }
        report = Report(options.json, pandas=pd.__version__)
        turns = take_turns(works, repeats=options.repeats)
        rows: list[Row] = [turns.row("reader/pandas", "data set/pandas")]
        report.add("csv", f"{n_rows:,} x {_N_FEATURES}, {path.stat().st_size / 1e6:.0f} MB", rows)
        report.write()


if __name__ == "__main__":
    main()
