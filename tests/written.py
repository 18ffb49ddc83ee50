"""Read what a run has written, and compare two runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

# The files that equal runs have to the byte.
SAME = ("metrics.jsonl", "result.json", "assignments.csv")


def json_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def manifest_of(run: Path) -> dict[str, Any]:
    return json_of(run / "manifest.json")


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same(run: Path, reference: Path, *more: str) -> None:
    """Compare the bytes of a completed run, of ``more`` files too, with those of another one."""
    for name in (*SAME, *more):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    assert manifest_of(run)["status"] == "completed"
