"""The sink ``csv``: ``metrics.csv``, the records of ``metrics.jsonl`` as a table with one row per evaluation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dkm.runs import reading
from dkm.runs.reading import METRICS, METRICS_CSV
from dkm.runs.sinks.base import ScoresOf, Sink, SinkContext
from dkm.runtime.atomic import write_atomically


class CsvSink(Sink):
    """Writes ``metrics.csv``.

    The columns are the keys of all records, in the order in which they first occur; a cell is empty where a record
    lacks the key or its value is undefined. Numbers are written as in ``metrics.jsonl``, cluster sizes as a list. The
    table is a function of ``metrics.jsonl``: a resumed run writes it anew from there, as does a record with a new key;
    other records are appended.

    Parameters
    ----------
    path : Path
        The run directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._records = path / METRICS
        self._table = path / METRICS_CSV
        self._columns: tuple[str, ...] = ()

    @classmethod
    def open(cls, context: SinkContext) -> CsvSink:
        return cls(context.path)

    def record(self, record: Mapping[str, Any], baselines: ScoresOf) -> None:
        if record.keys() <= set(self._columns):
            with self._table.open("a", encoding="utf-8") as file:
                file.write(_lines([[record.get(column) for column in self._columns]]))
        else:
            self._write_all()

    def result(self, *_: Any) -> None:
        if not self._columns:  # resumed after the last evaluation
            self._write_all()

    def _write_all(self) -> None:
        records = reading.records(self._records)
        self._columns = tuple(dict.fromkeys(column for record in records for column in record))
        rows = [[record.get(column) for column in self._columns] for record in records]
        header = ",".join(self._columns) + "\n"
        write_atomically(self._table, (header + _lines(rows)).encode())


def _lines(rows: Sequence[Sequence[Any]]) -> str:
    """Return lines of CSV; None is an empty cell."""
    text = io.StringIO()
    cells = [["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in row] for row in rows]
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()
