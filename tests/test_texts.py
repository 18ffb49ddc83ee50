"""``data=text``: files of texts, TF-IDF kept as JSON, sentence encoders, and the texts in the outputs."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import os
import shlex
import sys
import zipfile
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from dkm import predict, train
from dkm.config.data import TextData
from dkm.data import features
from dkm.data.datasets import load_dataset
from dkm.data.raw import RawData
from dkm.data.reader import option_for
from dkm.data.texts import features as text_features
from dkm.data.texts.features import Tfidf, find_sentence_encoder
from dkm.data.texts.reader import TextReader, read_text
from dkm.errors import UserError

WORDS = [
    "tennis ball court",
    "match point tennis, court",
    "court of law",
    'judge and "jury" of law',
    "law, judge",
    "ball",
]
pytestmark = pytest.mark.usefixtures("quick_search")

QUICK = [
    *("model.hidden=[8]", "pretrain.epochs=1", "joint.epochs=1", "joint.tolerance=0", "clustering.n_clusters=2"),
    *(
        "clustering.n_init=1",
        "log.progress=off",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
        "threads=1",
    ),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DKM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "features"


def read(path: Path, **settings: Any) -> RawData:
    return read_text(TextData(path=str(path), root="", **settings))


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


# --- files ------------------------------------------------------------------------------------------------------


def test_lines_jsonl_csv_and_parquet_give_the_same_matrix(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": ["007", "NA", "3", "4", "5", "6"], "words": WORDS, "kind": list("aabbba")})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "semicolon.csv", index=False, sep=";")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    expected = read(write_lines(tmp_path / "t.txt", WORDS)).X.read(0, len(WORDS))  # type: ignore[union-attr]
    for name in ("t.csv", "semicolon.csv", "t.jsonl", "t.parquet", "t.csv.gz"):
        raw = read(tmp_path / name, text="words", id="id", labels="kind")
        np.testing.assert_array_equal(raw.X.read(0, len(WORDS)), expected)  # type: ignore[union-attr]
        assert raw.ids is not None
        assert raw.labels is not None
        assert raw.ids.tolist() == ["007", "NA", "3", "4", "5", "6"]
        assert "".join(raw.labels) == "aabbba"


def test_ids_of_parquet_are_written_without_quotation_marks(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    columns = {
        "date": [date(2024, 1, 2), date(2024, 1, 3)],
        "price": [Decimal("1.50"), Decimal("2.00")],
        "bytes": [b"caf\xc3\xa9", b"\xff"],
        "number": [7, 8],
        "list": [["a"], ["b"]],
    }
    pandas.DataFrame({"text": WORDS[:2], **columns}).to_parquet(tmp_path / "t.parquet")
    expected = {
        "date": ["2024-01-02", "2024-01-03"],
        "price": ["1.50", "2.00"],
        "bytes": ["café", "\\xff"],
        "number": ["7", "8"],
        "list": ['["a"]', '["b"]'],
    }
    for name, texts in expected.items():
        reader = TextReader(TextData(path=str(tmp_path / "t.parquet"), root="", text="text", id=name, labels=name))
        rows = list(reader.rows())
        assert [row.id for row in rows] == [row.label for row in rows] == texts


def test_the_columns_of_json_lines_are_the_keys_of_all_first_objects(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"note": "x"}\n{"id": 2, "text": "b"}\n{"text": "c"}\n')
    reader = TextReader(TextData(path=str(tmp_path / "t.jsonl"), root="", text="text", id="id"), plan={"text": {}})
    assert [(row.position, row.id, row.text) for row in reader.rows()] == [(1, "2", "b"), (2, "", "c")]
    assert TextReader(TextData(path=str(tmp_path / "t.jsonl"), root="")).text == "text", "not the only key of the first"


def test_the_column_of_the_texts_is_text_or_the_only_one_left(tmp_path: Path) -> None:
    for header, settings in (("text,more", {}), ("kind,words", {"labels": "kind"})):
        (tmp_path / "t.csv").write_text(f"{header}\nfirst text,second text\nthird,fourth\n")
        reader = TextReader(TextData(path=str(tmp_path / "t.csv"), root="", **settings))  # type: ignore[arg-type]
        assert reader.text == ("text" if not settings else "words")
    (tmp_path / "t.csv").write_text("a,b\nx,y\n")
    with pytest.raises(
        UserError, match=r"several columns that could be the texts; expected one of a, b; set data.text=a"
    ):
        read(tmp_path / "t.csv")


def test_a_model_reads_the_column_of_the_texts_that_it_was_trained_on(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("review\n" + "\n".join(f'"{words}"' for words in WORDS[:3]) + "\n")
    plan = read(tmp_path / "t.csv").plan
    (tmp_path / "new.csv").write_text("stars,review\nfive,ball\n")
    config = TextData(path=str(tmp_path / "new.csv"), root="")
    assert TextReader(config, plan=plan).text == "review"
    config.text = "stars"
    assert TextReader(config, plan=plan).text == "stars"


def test_a_remedy_with_an_odd_name_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("the text,b\nx,y\n")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "t.csv")
    remedy = str(caught.value).partition("; set ")[2].removesuffix(", for example")
    assert shlex.split(remedy) == ['data.text="the text"']  # which Hydra unquotes


def test_empty_texts_are_left_out_and_reported(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.txt", ["tennis court", "", "law court", "   ", "tennis law"])
    raw = read(path)
    assert raw.position is not None
    assert raw.position.tolist() == [0, 2, 4]
    assert raw.report is not None
    (left_out,) = raw.report.left_out
    assert (left_out.n, left_out.what, left_out.examples) == (2, "rows", ["row 1", "row 3"])
    (tmp_path / "t.csv").write_text('id,text\n1,"two\nlines"\n2,\n3,three words here\n')
    assert read(tmp_path / "t.csv").position.tolist() == [0, 2]  # type: ignore[union-attr]


def test_a_text_may_be_longer_than_the_csv_module_reads_by_default(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\n" + "word " * 50_000 + "\nother words\n")
    assert len(read(tmp_path / "t.csv").X) == 2


def test_texts_without_a_known_term_are_reported(tmp_path: Path) -> None:
    raw = read(write_lines(tmp_path / "t.txt", [*["tennis court"] * 3, "law"]), n_terms=2)
    assert raw.report is not None
    assert raw.report.odd == [
        "texts without a term of the vocabulary: 1; all their features are 0, so they share one cluster"
    ]


REFUSED = {
    "csv cells": ("t.csv", "a,text\n1,one, two\n", {}, r"3 cells in the row that ends in line 2; expected 2"),
    "csv column": (
        "t.csv",
        "a,text\n1,one\n",
        {"text": "txt"},
        r"data.text=txt: no such column; expected one of a, text",
    ),
    "csv id": ("t.csv", "a,text\n1,one\n", {"id": "b"}, r"data.id=b: .* has no such column"),
    "label": ("t.csv", "a,text\n,one\n", {"labels": "a"}, r"data.labels=a: no label in row 0"),
    "lines id": ("t.txt", "one\n", {"id": "b"}, r"data.id=b: a file of lines has no columns"),
    "json": ("t.jsonl", '{"text": "a"}\n{"text": \n', {}, r"line 2 is no JSON object"),
    "json array": ("t.json", '[{"text": "a"}]\n', {}, r"t.json: JSON; expected JSON lines, one object in each line"),
    "json strings": ("t.jsonl", '"caf\\u00e9"\n"tea"\n', {}, r"t.jsonl: JSON; expected JSON lines"),
    "json number": ("t.jsonl", '{"text": 3}\n', {}, r"data.text=text: .* has '3' in row 0"),
    "byte-order mark": ("t.csv", "\ufeff", {}, r"data.path=.*t.csv: no rows; expected one text or more"),
    "byte-order mark and column": ("t.txt", "\ufeff", {"text": "text"}, r"t.txt: no rows; expected one text or more"),
    "blank lines": ("t.csv", "\n\n", {}, r"t.csv: no rows; expected one text or more"),
    "nothing": ("t.txt", "\n \n", {}, r"all 2 texts are empty"),
    "no terms": ("t.txt", "a\nb\n", {}, r"the texts have no terms"),
    "encoding": (
        "t.txt",
        "tea\n" * 300_000 + "caf\udce9 au lait\n",
        {},
        r"its beginning is in the encoding utf-8, and a later part is not.*data.encoding=cp1252",
    ),
    "given encoding": (
        "t.txt",
        "caf\udce9\n",
        {"encoding": "utf-8"},
        r"data.encoding=utf-8: .* is not in this encoding",
    ),
    "no text": ("t.txt", "some text\0" * 50, {}, r"not a text file"),
    "cut gzip": ("t.csv.gz", "\x1f\udc8b\x08\0\0", {}, r"cannot be read"),
    "no such place": (
        "t.csv",
        "1,one\n2,two\n",
        {"text": "2"},
        r"expected one of 1, one, or a place from 0 to 1 if the file has no header; set",
    ),
    "npy": ("t.npy", "\udc93NUMPY", {}, r"the content of a .npy file; expected texts; use data=npy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_file_of_texts_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, content, settings, message = REFUSED[case]
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name, **settings)
    assert "\n" not in str(caught.value)


TEXTS = ["größer und schöner", "kleiner; aber, fein", 'ein "Zitat"', "noch größer"]
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "t.csv": bytes,
    "t.csv.gz": gzip.compress,
    "t.csv.bz2": bz2.compress,
    "t.csv.xz": lzma.compress,
}


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("t.csv", content)
    return file.getvalue()


PACKED["t.zip"] = zipped


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_compression_encoding_and_delimiter_follow_from_the_content(name: str, encoding: str, tmp_path: Path) -> None:
    rows = ["Nr;Text", *(f'{i};"{text.replace(chr(34), 2 * chr(34))}"' for i, text in enumerate(TEXTS))]
    (tmp_path / name).write_bytes(PACKED[name]("\r\n".join([*rows, ""]).encode(encoding)))
    data = read(tmp_path / name, text="Text", id="Nr")
    assert data.texts is not None and data.ids is not None and data.report is not None
    assert data.texts.tolist() == TEXTS
    assert data.ids.tolist() == ["0", "1", "2", "3"]
    assert ("encoding" in data.report.decisions) == (not encoding.startswith("utf-8"))
    assert option_for(str(tmp_path / name), "input", "text") == "text"
    assert "delimiter ';'" in data.report.decisions["format"]


def test_columns_of_a_csv_without_a_header_are_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,good tea\nb,bad coffee\na,good cake\n")
    data = read(tmp_path / "t.csv", text="1", labels="0")
    assert data.texts is not None and data.labels is not None and data.report is not None
    assert data.texts.tolist() == ["good tea", "bad coffee", "good cake"]
    assert data.labels.tolist() == ["a", "b", "a"]
    assert "no header" in data.report.decisions["format"]


@pytest.mark.parametrize(
    ("rows", "text", "expected"),
    [
        (["1,good phone", "2,bad phone"], "1", ["good phone", "bad phone"]),
        (['"2","title","the body"', '"1","other","a body"'], "2", ["the body", "a body"]),
        (["0,1", "7,good phone"], "1", ["good phone"]),
        (["1,2,3", "7,good phone,9"], "2", ["good phone"]),
    ],
)
def test_a_value_that_equals_the_place_of_the_texts_is_no_name(
    rows: list[str], text: str, expected: list[str], tmp_path: Path
) -> None:
    reader = TextReader(TextData(path=str(write_lines(tmp_path / "t.csv", rows)), root="", text=text))
    assert [row.text for row in reader.rows()] == expected


def test_a_model_knows_whether_its_texts_had_a_header(tmp_path: Path) -> None:
    new = [["1,42", "2,ball"], ["1,id", "court,2"]]
    for header, expected in (("0", ["42", "ball"]), ("id,1", ["court"])):
        trained = write_lines(tmp_path / "t.csv", [*([header] if "," in header else []), "0,ball", "1,court"])
        plan = json.loads(json.dumps(read(trained, text="1").plan))
        path = write_lines(tmp_path / "new.csv", new["," in header])
        reader = TextReader(TextData(path=str(path), root="", text="1"), plan=plan)
        assert [row.text for row in reader.rows()] == expected


def test_words_that_are_equally_many_in_each_line_are_not_cells(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("the text here\none two three\nfour five six\n")
    data = read(tmp_path / "t.csv")
    assert data.texts is not None
    assert data.texts.tolist() == ["one two three", "four five six"]


# --- TF-IDF -----------------------------------------------------------------------------------------------------


def test_tfidf_is_scikit_learns_and_json_keeps_it_exactly() -> None:
    tfidf = Tfidf.fit(WORDS, 5, "data.path=t.txt")
    expected = TfidfVectorizer(max_features=5, dtype=np.float32).fit_transform(WORDS).toarray()
    np.testing.assert_allclose(tfidf.transform(WORDS).toarray(), expected, rtol=1e-6)
    again = Tfidf.from_plan(json.loads(json.dumps(tfidf.to_plan())))
    assert again.terms == tfidf.terms
    np.testing.assert_array_equal(again.transform(WORDS[3:]).toarray(), tfidf.transform(WORDS).toarray()[3:])


def test_rows_have_the_same_length_and_the_report_says_so(tmp_path: Path) -> None:
    data = load_dataset(TextData(path=str(write_lines(tmp_path / "t.txt", WORDS)), root=""))
    np.testing.assert_allclose(data.X.square().mean(dim=1), 1.0, rtol=1e-6)  # type: ignore[union-attr]
    assert data.report.scaling == "row_rms: each row to the same length, the default for TF-IDF"
    assert data.features is not None
    assert "tennis" in data.features


def test_a_large_vocabulary_comes_in_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "t.txt", WORDS * 2)
    plan = read(path).plan
    assert plan is not None
    monkeypatch.setattr("dkm.data.stored.CHUNK_ROWS", 2)
    monkeypatch.setattr("dkm.data.stored._PART_VALUES", 5 * len(plan["text"]["tfidf"]["vocabulary"]))
    parts = list(TextReader(TextData(path=str(path), root=""), plan=plan).parts(100))
    assert [len(part.X) for part in parts] == [5, 5, 2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "words", "kind"])
        writer.writerows(
            [str(i), f"{WORDS[i % 6]} {'very ' * (60 * (i == 1))}" if i % 7 else "", "ab"[i % 2]] for i in range(40)
        )
    words = ["data=text", f"data.path={tmp_path / 't.csv'}", "data.text=words", "data.id=id", "data.labels=kind"]
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    return tmp_path / "run"


def test_predicting_the_training_file_repeats_the_assignments(run: Path, tmp_path: Path) -> None:
    predict.work([f"run={run}", f"input={tmp_path / 't.csv'}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()
    plan = json.loads((run / "model" / "model.json").read_text())["plan"]["text"]["tfidf"]
    assert len(plan["vocabulary"]) == len(plan["idf"])


def test_a_model_of_texts_reads_lines_too_and_writes_every_format(run: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_lines(tmp_path / "new.txt", ["tennis court", "", "law judge"])
    for suffix in ("csv", "parquet", "npz"):
        words = [f"run={run}", f"input={tmp_path / 'new.txt'}", f"output={tmp_path / f'o.{suffix}'}", "data.text=null"]
        predict.work([*words, "threads=1"])
    table = pandas.read_csv(tmp_path / "o.csv")
    assert table["index"].tolist() == [0, 2]
    assert table["text"].tolist() == ["tennis court", "law judge"]
    assert pandas.read_parquet(tmp_path / "o.parquet")["text"].tolist() == ["tennis court", "law judge"]
    assert np.load(tmp_path / "o.npz")["text"].tolist() == ["tennis court", "law judge"]


def test_each_text_stands_beside_its_cluster_shortened(run: Path) -> None:
    with (run / "assignments.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 34  # rows 0, 7, 14, ... are empty
    assert rows[3]["text"] == WORDS[4]
    assert rows[0]["text"] == f"{WORDS[1]} {'very ' * 60}"[:197] + "..."
    with (run / "exemplars.csv").open(newline="") as file:
        exemplars = list(csv.DictReader(file))
    text_of = {row["index"]: row["text"] for row in rows}
    assert {row["cluster"] for row in exemplars} == {"0", "1"}
    assert all(row["text"] == text_of[row["index"]] for row in exemplars)


def test_a_long_text_is_cut_and_set_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('text\n"' + "two\nlines " * 100 + '"\nshort text\n')
    texts = read(tmp_path / "t.csv").texts
    assert texts is not None
    assert len(texts[0]) == 200
    assert texts[0].startswith("two lines two")
    assert texts[0].endswith("...")
    assert texts[1] == "short text"


# --- sentence encoders ------------------------------------------------------------------------------------------


class Lengths:
    """A stand-in for a sentence encoder: the length of each text and the number of its words."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        self.calls.append(len(texts))
        return np.array([[len(text), len(text.split()), 1] for text in texts], np.float32)


@pytest.fixture
def lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lengths:
    monkeypatch.setattr(features, "version", lambda package: "1.0")
    model = Lengths()
    monkeypatch.setattr(text_features.SentenceEncoder, "_load", lambda self: model)
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"weights")
    return model


def test_texts_are_embedded_once_in_chunks(
    lengths: Lengths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(text_features, "CHUNK", 4)
    config = {"text_encoder": str(tmp_path / "encoder")}
    path = write_lines(tmp_path / "t.txt", WORDS)
    first = read(path, **config)
    np.testing.assert_array_equal(first.X[:, 0], [len(text) for text in WORDS])
    np.testing.assert_array_equal(read(path, **config).X, first.X)
    assert lengths.calls == [4, 2]
    read(write_lines(path, [*WORDS[:4], "new text"]), **config)  # the first chunk is known
    assert lengths.calls == [4, 2, 1]
    for file in cache.rglob("*.npy"):
        file.write_bytes(b"damaged")
    read(path, **config)
    assert lengths.calls == [4, 2, 1, 4, 1]


def test_a_model_keeps_its_encoder_and_refuses_another(lengths: Lengths, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    path = write_lines(tmp_path / "t.txt", WORDS * 3)
    words = ["data=text", f"data.path={path}", f"data.text_encoder={encoder}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert train._main([*words, *QUICK]) == 0
    ask = [f"run={tmp_path / 'run'}", f"input={path}", f"output={tmp_path / 'o.csv'}", "threads=1", "overwrite=true"]
    predict.work(ask)
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "run" / "assignments.csv").read_bytes()
    encoder.rename(tmp_path / "moved")
    predict.work([*ask, f"data.text_encoder={tmp_path / 'moved'}"])
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "run" / "assignments.csv").read_bytes()
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(
        UserError, match=r"data.text_encoder=.*moved: its digest is .*; expected the encoder of the train"
    ):
        predict.work([*ask, f"data.text_encoder={tmp_path / 'moved'}"])
    with pytest.raises(UserError, match=r"data.text_encoder=null: expected the encoder of the training"):
        predict.work([*ask, "data.text_encoder=null"])


def test_a_missing_package_is_one_line() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            features, "version", lambda package: (_ for _ in ()).throw(features.PackageNotFoundError(package))
        )
        expected = (
            r"data.text_encoder=x: sentence-transformers is not installed; expected the extra text; install it: .*pip "
            r"install .*sentence-transformers"
        )
        with pytest.raises(UserError, match=expected):
            find_sentence_encoder("x", None)


def test_a_name_that_is_not_in_the_cache_is_one_line_without_a_network(
    lengths: Lengths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match=r"data.text_encoder=no-such-model: no such fold"),
    ):
        find_sentence_encoder("no-such-model", None)
    assert "is not in the cache; downloading sentence-transformers/no-such-model" in caplog.text


MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


@pytest.mark.usefixtures("lengths")
def test_a_part_of_a_published_encoder_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "encoder"  # with the weights alone, as other libraries leave it
    asked: list[bool] = []

    def snapshot_download(repository: str, *, local_files_only: bool = False, ignore_patterns: list[str]) -> str:
        asked.append(local_files_only)
        if not local_files_only and not is_offline:
            (folder / "1_Pooling").mkdir()
            (folder / "modules.json").write_text(json.dumps(MODULES))
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    is_offline = True
    find_sentence_encoder("model", None)
    assert asked == [True, False]
    assert "it has no modules.json, so the mean of the tokens is the embedding" in caplog.text
    caplog.clear()
    is_offline = False
    find_sentence_encoder("model", None)
    assert asked == [True, False] * 2
    assert "in the cache in part; downloading the rest of sentence-transformers/model" in caplog.text
    assert "modules.json" not in caplog.text
    find_sentence_encoder("model", None)
    assert asked == [*[True, False] * 2, True]
    (folder / "1_Pooling").rmdir()
    assert not text_features._is_complete(folder)


@pytest.mark.usefixtures("lengths")
def test_weights_that_are_not_read_are_no_part_of_an_encoder(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    identity = find_sentence_encoder(str(folder), None).identity
    (folder / "pytorch_model.bin").write_bytes(b"the same weights")
    assert find_sentence_encoder(str(folder), None).identity == identity
    before = identity | {"digest": features.digest_of_files({p.name: p for p in folder.iterdir()}, "")}
    assert find_sentence_encoder(str(folder), before).identity == before  # a model of an earlier version
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="its digest is"):
        find_sentence_encoder(str(folder), before)


@pytest.mark.data
def test_the_real_encoder_embeds_snippets_as_the_library_does(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    root, encoders = os.environ.get("DKM_DATA_ROOT"), os.environ.get("DKM_ENCODERS")
    if root is None or encoders is None:
        pytest.skip("DKM_DATA_ROOT and DKM_ENCODERS are not set")
    lines = Path(root, "text/searchsnippets.csv").read_text(encoding="utf-8").splitlines()[:101]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    encoder = str(Path(encoders, "all-MiniLM-L6-v2"))
    data = load_dataset(
        TextData(path=str(tmp_path / "t.csv"), text="snippet", root="", text_encoder=encoder, scaling="l2")
    )
    known = np.load(Path(root, "embeddings/searchsnippets_minilm.npz"))["x"][:100].astype(np.float64)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    assert (data.X.numpy() * known).sum(axis=1).min() > 0.9999  # type: ignore[union-attr]
