"""Ids, labels and texts that cannot be written: refused with their row, or replaced and counted, when they are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from dkm.config.commands import PredictConfig, parse_words
from dkm.config.compose import compose, parse
from dkm.data.datasets import Dataset, load_dataset
from dkm.data.reader import InputReader
from dkm.data.unicode import is_encodable, replace_surrogates, require_encodable
from dkm.errors import UserError

HALF = "\ud800"


def load(*words: str) -> Dataset:
    return load_dataset(compose(parse(words)).config.data)


def refused(*words: str) -> str:
    with pytest.raises(UserError) as error:
        load(*words)
    text = str(error.value)
    text.encode()
    assert "\n" not in text
    return text


def json_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [{"text": f"words and more words number {i}", "id": f"r{i}", "kind": "ab"[i % 2]} for i in range(12)]


@pytest.mark.parametrize(("key", "name"), [("data.id=id", "id"), ("data.labels=kind", "label")])
def test_an_id_or_label_with_half_a_character_is_refused_with_its_row(key: str, name: str, tmp_path: Path) -> None:
    column = key.partition("=")[2]
    path = json_lines(tmp_path / "x.jsonl", *ROWS[:5], {**ROWS[5], column: f"x{HALF}"}, *ROWS[6:])
    text = refused("data=text", f"data.path={path}", "data.text=text", key)
    source = f"data.path={path}" if name == "id" else "data.labels=kind"
    assert text.startswith(
        f"{source}: the {name} in row 5 (counted from 0) is 'x\\ud800', which has half of a character"
    )
    assert text.endswith(
        "expected text that can be encoded; correct it, or name the file so that its name is valid UTF-8"
    )


def test_a_text_with_half_a_character_is_replaced_and_counted(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "x.jsonl", *ROWS[:5], {**ROWS[5], "text": f"some {HALF} words"}, *ROWS[6:])
    data = load("data=text", f"data.path={path}", "data.text=text")
    assert data.texts is not None
    assert data.texts[5] == "some \ufffd words"
    assert data.report is not None
    assert "texts with half of a character (a lone surrogate), which is replaced by U+FFFD: 1" in data.report.odd


def test_rows_for_a_model_are_checked_too(tmp_path: Path) -> None:
    plan = load("data=text", f"data.path={json_lines(tmp_path / 'x.jsonl', *ROWS)}", "data.text=text").plan

    def reader(row: dict[str, Any]) -> InputReader:
        path = json_lines(tmp_path / "new.jsonl", ROWS[0], row)
        words = ["data=text", f"data.path={path}", "data.text=text", "data.id=id"]
        return InputReader(compose(parse(words)).config.data, key="input", plan=plan, image_shape=None)

    replaced = reader({**ROWS[1], "text": f"some {HALF} words"})
    (part,) = replaced.parts()
    assert part.texts[1] == "some \ufffd words"
    assert "which is replaced by U+FFFD: 1" in replaced.report.odd[0]
    with pytest.raises(UserError, match=r"input=.*: the id in row 1 \(counted from 0\) is '\\ud800'"):
        list(reader({**ROWS[1], "id": HALF}).parts())


def test_labels_of_an_array_are_checked(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(20.0).reshape(10, 2), y=np.array(["a"] * 5 + ["b"] * 4 + [HALF]))
    text = refused("data=npz", f"data.path={tmp_path / 'x.npz'}", "data.labels=y")
    assert text.startswith("data.labels=y: the label in row 9 (counted from 0) is '\\ud800'")


def test_the_name_of_an_image_that_is_no_text_is_written_with_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in (b"a.png", b"b\xff.png"):
        Image.new("L", (8, 8), ord(name[:1])).save(folder / "x.png")
        (folder / "x.png").rename(folder / os.fsdecode(name))
    data = load("data=image_folder", f"data.path={folder}", "data.image_size=8")
    assert data.ids is not None
    assert data.ids.tolist() == ["a.png", "b\\xff.png"]


def test_a_column_of_parquet_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.arange(13, dtype=np.int32).tobytes())
    names = pa.Array.from_buffers(pa.string(), 12, [None, offsets, pa.py_buffer(b"abcdef\xffhijkl")])
    parquet.write_table(pa.table({"x": np.arange(12.0) ** 2, "name": names}), tmp_path / "x.parquet")
    assert refused("data=parquet", f"data.path={tmp_path / 'x.parquet'}", "data.id=name")


def test_an_argument_that_is_no_text_is_refused() -> None:
    expected = r"^'data\.path=/x\\udcff\.csv': expected an argument in UTF-8; rename the file or folder that it names$"
    with pytest.raises(UserError, match=expected):
        parse(["data=csv", "data.path=/x\udcff.csv"])
    with pytest.raises(UserError, match=expected.replace(r"data\.path", "input")):
        parse_words(PredictConfig, ["run=r", "output=o.csv", "input=/x\udcff.csv"])


def test_only_lone_surrogates_are_replaced() -> None:
    for text in ("", "abc", "äöü", "😀", "\ufffd"):
        assert is_encodable(text)
        assert replace_surrogates(text) == text
    assert replace_surrogates(f"a{HALF}😀\udfff") == "a\ufffd😀\ufffd"
    require_encodable(np.array([1, 2]), "label", "x")
    require_encodable(np.array(["ä", "b"]), "id", "x")
    with pytest.raises(UserError, match=r"^x: feature 1 is '\\udfff'"):
        require_encodable(["a", "\udfff"], "feature", "x")
