"""`dkm.runs.directory`: the table of the assignments, written in parts."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dkm.evaluation import assignments
from dkm.evaluation.assignments import Assignments, csv_parts
from dkm.runs.directory import RunDirectory, RunWriter, Unwritten
from dkm.runtime.atomic import write_atomically


def table(labels: np.ndarray, distance: np.ndarray, margin: np.ndarray | None, y: np.ndarray | None) -> bytes:
    """The same table, row by row, with the library's writer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "cluster", "distance", "margin"] + ([] if y is None else ["label"]))
    for i in range(len(labels)):
        shown = ["" if margin is None else f"{float(margin[i]):.9g}"] + ([] if y is None else [str(int(y[i]))])
        writer.writerow([str(i), str(int(labels[i])), f"{float(distance[i]):.9g}", *shown])
    return text.getvalue().encode()


@pytest.mark.parametrize("has_labels", [False, True])
@pytest.mark.parametrize("has_margin", [False, True])
@pytest.mark.parametrize("n_rows", [1, 999, 1000, 1001, 3500])
def test_assignments_are_the_same_table_in_parts(
    n_rows: int, has_margin: bool, has_labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignments, "_ROWS_AT_ONCE", 1000)
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=n_rows)
    distance = generator.exponential(size=n_rows).astype(np.float32)
    distance[::7] *= np.float32(1e-20)
    margin = generator.exponential(size=n_rows).astype(np.float32) if has_margin else None
    y = generator.integers(3, size=n_rows) if has_labels else None
    content = b"".join(csv_parts(Assignments(np.arange(n_rows), None, labels, distance, margin, y)))
    assert content == table(labels, distance, margin, y)
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    # Nine digits bring back each float32 exactly.
    assert np.array_equal(np.array([row["distance"] for row in rows]).astype(np.float32), distance)


def test_only_a_part_of_the_assignments_is_text_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "_ROWS_AT_ONCE", 100)
    some = Assignments(np.arange(250), None, np.zeros(250, np.int64), np.zeros(250, np.float32), None)
    assert [part.count(b"\n") for part in csv_parts(some)] == [1, 100, 100, 50]


def test_text_in_a_cell_is_quoted_where_a_reader_needs_it() -> None:
    ids = np.array(["plain", "a,b", 'say "x"', "two\nlines", "100%"])
    some = Assignments(np.arange(5), ids, np.zeros(5, np.int64), np.zeros(5, np.float32), None)
    rows = list(csv.DictReader(io.StringIO(b"".join(csv_parts(some)).decode(), newline="")))
    assert [row["id"] for row in rows] == ids.tolist()


def broken() -> Iterator[bytes]:
    yield b"new"
    raise OSError("no more")


@pytest.mark.parametrize("parts", [lambda: [b"one ", b"", b"two"], lambda: iter([b"one ", b"two"]), lambda: b"one two"])
def test_a_file_is_written_whole_or_in_parts(parts: Callable[[], bytes | Iterator[bytes]], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something older and longer")
    write_atomically(path, parts())
    assert path.read_bytes() == b"one two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_parts_that_break_off_leave_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no more"):
        write_atomically(path, broken())
    assert path.read_bytes() == b"old"


def test_what_is_not_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each of the two writers, every method that the trainer calls: before, some would have written to a device."""
    monkeypatch.chdir(tmp_path)
    names = {name for name, value in vars(RunWriter).items() if callable(value) and not name.startswith("_")}
    assert names <= vars(Unwritten).keys()
    assert names <= vars(RunDirectory).keys()
    run: RunWriter = Unwritten()
    run.write_result({"acc": 1.0})
    run.append_metrics({"epoch": 1})
    assert (run.sync_metrics(), run.read_metrics(), run.read_manifest()) == (0, [], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_safe", [False, True])
def test_the_results_are_written_as_their_lines(is_safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(*parts: Any, is_safe: bool) -> Iterator[str]:
        yield from (f"{part}\n" for part in (*parts, is_safe))

    def parts(*arguments: Any, is_safe: bool) -> Iterator[bytes]:
        yield from (line.encode() for line in lines(*arguments, is_safe=is_safe))

    for name, function in (("csv_parts", parts), ("exemplar_lines", lines), ("feature_lines", lines)):
        monkeypatch.setattr(f"dkm.runs.directory.{name}", function)
    given = {"safe_csv": True} if is_safe else {}  # the default is what a spreadsheet may execute
    run: Any = RunDirectory(tmp_path, progress="off", **given)
    run.write_assignments("a", "e")
    run.write_features("c", "n")
    run.write_result({"b": 1, "a": None})
    run.write_data_report(SimpleNamespace(to_dict=lambda: {"ä": 1}))
    assert (tmp_path / "assignments.csv").read_text() == f"a\n{is_safe}\n"
    assert (tmp_path / "exemplars.csv").read_text() == f"a\ne\n{is_safe}\n"
    assert (tmp_path / "features.csv").read_text() == f"c\nn\n{is_safe}\n"
    assert (tmp_path / "result.json").read_text() == '{\n  "b": 1,\n  "a": null\n}\n'
    assert (tmp_path / "data.json").read_text(encoding="utf-8") == '{\n  "ä": 1\n}\n'


@pytest.mark.parametrize("is_terminal", [False, True])
def test_bars_are_shown_where_they_are_asked_for_or_on_a_terminal(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: is_terminal))
    shown = {
        progress: RunDirectory(tmp_path, progress=progress).shows_bars for progress in ("auto", "bar", "plain", "off")
    }
    assert shown == {"auto": is_terminal, "bar": True, "plain": False, "off": False}


@pytest.mark.parametrize(
    ("progress", "printed"),
    [
        ("plain", ["a line", "of progress", "of something else", "a warning"]),
        ("bar", ["a line", "of something else", "a warning"]),
        ("off", ["a warning"]),
    ],
)
def test_what_is_printed_of_the_log(
    progress: str, printed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path, progress=progress)
    run.open_log()
    log = logging.getLogger("dkm.anything")
    log.info("a line")
    log.info("of progress", extra={"is_progress": True})
    log.info("of something else", extra={"is_progress": False})
    log.warning("a warning")
    run.close()
    lines = ["a line", "of progress", "of something else", "a warning"]
    captured = capsys.readouterr()
    assert [line for line in lines if line in captured.out + captured.err] == printed
    assert [line.split(" ", 3)[3] for line in (tmp_path / "train.log").read_text().splitlines()] == lines
    assert run.warnings == ["a warning"]


def test_a_checkpoint_follows_the_events_and_the_records(tmp_path: Path) -> None:
    run, flushed = RunDirectory(tmp_path, progress="off"), []
    run.sinks = cast(Any, SimpleNamespace(flush=lambda: flushed.append(True)))
    run.append_metrics({"epoch": 1})
    assert run.sync_metrics() == len('{"epoch": 1}\n')
    assert flushed == [True]
