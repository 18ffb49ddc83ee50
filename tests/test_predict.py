"""``dkm.predict``: the same answers as the run gave, for any input that holds the same rows, and every refusal."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.datasets import load_digits, make_blobs
from torch import nn
from words import SMALL_RUN
from written import rows_of

from dkm import predict, train
from dkm.data.reader import option_for
from dkm.data.scaling import Scaling
from dkm.data.stored import StoredArray
from dkm.errors import UserError
from dkm.evaluation import assignments
from dkm.evaluation.assignments import Assignments, Writer
from dkm.evaluation.prediction import input_reader, unit_doubt
from dkm.models.saved import SavedModel, load_model

QUICK = [*SMALL_RUN, "threads=1"]

Run = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in this process and returns its exit code."""

    def run(module: Any, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dkm", *words])
        with pytest.raises(SystemExit) as caught:
            module.main()
            raise SystemExit(0)
        return int(caught.value.code or 0)

    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    X, y = make_blobs(5000, 6, centers=4, random_state=0)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    frame.insert(0, "customer", [f"c,{i:05d}" for i in range(len(X))])
    frame["kind"] = [f"k{label}" for label in y]
    frame.loc[[7, 4999], "b"] = np.nan
    frame.to_csv(folder / "t.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    words = ["data=csv", f"data.path={table / 't.csv'}", "data.id=customer", "data.labels=kind", "data.missing=median"]
    assert train._main([*words, *QUICK, f"hydra.run.dir={table / 'run'}"]) == 0
    return table / "run"


@pytest.mark.parametrize("part_rows", [2048, 4096, 8 * 2048])
@pytest.mark.thorough
def test_predicting_the_training_file_repeats_the_assignments(
    part_rows: int, run: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dkm.data.reader._PART_ROWS", part_rows)
    predict.work([f"run={run}", f"input={table / 't.csv'}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["o.csv"]


@pytest.mark.thorough
def test_rows_that_are_left_out_move_no_other_row(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first part has a row too few, and is filled up from the next: the chunks are those of training."""
    words = ["data=csv", f"data.path={table / 't.csv'}", "data.exclude=[customer,kind]", "data.missing=drop"]
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    monkeypatch.setattr("dkm.data.reader._PART_ROWS", 2048)
    predict.work([f"run={tmp_path / 'run'}", f"input={table / 't.csv'}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "run" / "assignments.csv").read_bytes()
    assert "4,998 rows, 2 left out" in capsys.readouterr().out
    assert [row["index"] for row in rows_of(tmp_path / "o.csv")[5:8]] == ["5", "6", "8"]


def test_a_copied_model_folder_is_enough(run: Path, table: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "elsewhere")
    predict.work([f"run={tmp_path / 'elsewhere'}", f"input={table / 't.csv'}", f"output={tmp_path / 'o.csv'}"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()


def test_columns_are_matched_by_name(run: Path, table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table / "t.csv")
    frame[["f", "kind", "e", "d", "c", "b", "a"]].assign(more="text").to_csv(tmp_path / "t.csv", index=False)
    predict.work([f"run={run}", f"input={tmp_path / 't.csv'}", f"output={tmp_path / 'o.csv'}"])
    expected = [{k: v for k, v in row.items() if k != "id"} for row in rows_of(run / "assignments.csv")]
    assert rows_of(tmp_path / "o.csv") == expected


def test_memberships_are_one_cluster_each_where_all_rows_are_centroids() -> None:
    centroids = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    saved = SavedModel(nn.Identity(), centroids, *[None] * 6, 0.0, {})  # type: ignore[arg-type]
    assert saved.memberships(centroids).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_memberships_and_the_embedding_go_with_it(run: Path, table: Path, tmp_path: Path) -> None:
    words = [f"run={run}", f"input={table / 't.csv'}", "memberships=true", "embedding=true", "threads=1"]
    predict.work([*words, f"output={tmp_path / 'o.npz'}"])
    predict.work([*words, f"output={tmp_path / 'o.csv'}"])
    with np.load(tmp_path / "o.npz", allow_pickle=False) as found:
        q, cluster = found["memberships"], found["cluster"]
        assert found["embedding"].shape == (5000, 4)
        assert list(found) == ["index", "id", "cluster", "distance", "margin", "label", "memberships", "embedding"]
        assert (found["index"][3], found["id"][3], found["label"][3]) == (
            3,
            "c,00003",
            rows_of(table / "t.csv")[3]["kind"],
        )
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(q.argmax(1), cluster)
    first = rows_of(tmp_path / "o.csv")[0]
    assert float(first["membership_2"]) == pytest.approx(float(q[0, 2]), rel=1e-6)
    assert [name for name in first if name.startswith("z_")] == ["z_0", "z_1", "z_2", "z_3"]


def test_labels_that_turn_into_words_in_a_later_part_are_written(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with Writer(tmp_path / "o.parquet", "output=o.parquet", overwrite=False) as writer:
        for labels in (np.array([1, 2]), np.array(["a", "b"])):
            writer.write(Assignments(np.arange(2), None, np.zeros(2, np.int64), np.ones(2), None, labels))
    assert pd.read_parquet(tmp_path / "o.parquet")["label"].tolist() == ["1", "2", "a", "b"]


def test_the_columns_of_parquet_have_the_types_of_the_arrays(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = np.arange(3)
    with Writer(tmp_path / "o.parquet", "output=o.parquet", overwrite=False) as writer:
        writer.write(Assignments(rows, np.array(list("abc")), rows, rows.astype(np.float32), None, labels=rows))
    types = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "o.parquet")}
    assert types == {
        "index": "int64",
        "id": "string",
        "cluster": "int64",
        "distance": "float",
        "margin": "float",
        "label": "string",
    }


def test_parquet_has_large_groups_of_rows_whatever_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(assignments, "_ROWS_AT_ONCE", 5)
    with Writer(tmp_path / "o.parquet", "output=o.parquet", overwrite=False) as writer:
        for start in (0, 3, 6):
            rows = np.arange(start, start + 3)
            writer.write(Assignments(rows, None, rows, rows.astype(np.float32), None))
    file = parquet.ParquetFile(tmp_path / "o.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [6, 3]
    assert file.read()["index"].to_pylist() == list(range(9))


def test_parquet_has_the_same_columns(run: Path, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.read_csv(table / "t.csv").to_parquet(tmp_path / "t.parquet")
    predict.work([f"run={run}", f"input={tmp_path / 't.parquet'}", f"output={tmp_path / 'o.parquet'}", "threads=1"])
    found, expected = pd.read_parquet(tmp_path / "o.parquet"), pd.read_csv(run / "assignments.csv")
    assert list(found) == list(expected)
    np.testing.assert_array_equal(found["cluster"], expected["cluster"])
    np.testing.assert_array_equal(found["distance"], expected["distance"].astype(np.float32))
    assert found["id"].tolist() == expected["id"].tolist()


def arrays(kind: str, folder: Path) -> list[str]:
    """Write an input of some kind; return the words of the run on it."""
    X, images = make_blobs(300, 8, centers=4, random_state=0)[0], load_digits().images[:300]
    if kind == "npy":
        np.save(folder / "x.npy", X)
    elif kind == "shards":
        (folder / "x").mkdir()
        np.save(folder / "x" / "0.npy", X[:100])
        np.save(folder / "x" / "1.npy", X[100:])
    elif kind == "npz images":
        np.savez(folder / "x.npz", x=images, y=load_digits().target[:300])
    elif kind == "sparse":
        sparse.save_npz(folder / "x.npz", sparse.random_array((300, 40), density=0.2, random_state=0, format="csr"))
    else:
        for i, image in enumerate(images[:60]):
            (folder / "x" / str(i % 3)).mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype(np.uint8)).save(folder / "x" / str(i % 3) / f"{i}.png")
        lines = [f"x/{i % 3}/{i}.png,{i % 3}" for i in reversed(range(60))]
        (folder / "x.csv").write_text("\n".join(["file,class", *lines]))
    if kind == "image list":
        return ["data=image_list", f"data.path={folder / 'x.csv'}", "data.labels=class"]
    option = {"npy": "npy", "shards": "npy", "npz images": "npz", "sparse": "npz"}.get(kind, "image_folder")
    suffix = {"npy": ".npy", "npz images": ".npz", "sparse": ".npz"}.get(kind, "")
    return [f"data={option}", f"data.path={folder / f'x{suffix}'}"] + (
        ["data.labels=y"] if kind == "npz images" else []
    )


@pytest.mark.parametrize("header", [True, False])
def test_a_model_of_an_array_takes_the_columns_of_a_table_in_the_order_of_the_file(
    header: bool, tmp_path: Path
) -> None:
    X = make_blobs(60, 3, centers=3, random_state=0)[0]
    np.save(tmp_path / "x.npy", X)
    pd.DataFrame(X, columns=["c", "b", "a"]).to_csv(tmp_path / "x.csv", index=False, header=header)
    run = tmp_path / "run"
    assert train._main(["data=npy", f"data.path={tmp_path / 'x.npy'}", *QUICK, f"hydra.run.dir={run}"]) == 0
    predict.work([f"run={run}", f"input={tmp_path / 'x.csv'}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()


def test_a_model_of_an_array_may_be_told_its_columns_but_no_kinds(tmp_path: Path) -> None:
    X = make_blobs(60, 3, centers=3, random_state=0)[0]
    np.save(tmp_path / "x.npy", X)
    pd.DataFrame(X[:, ::-1], columns=["c", "b", "a"]).assign(name="text").to_csv(tmp_path / "x.csv", index=False)
    run = tmp_path / "run"
    assert train._main(["data=npy", f"data.path={tmp_path / 'x.npy'}", *QUICK, f"hydra.run.dir={run}"]) == 0
    words = [f"run={run}", f"input={tmp_path / 'x.csv'}", f"output={tmp_path / 'o.csv'}", "threads=1"]
    predict.work([*words, "columns=a,b,c"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()
    with pytest.raises(
        UserError, match=r"^data.dates=\[a\]: the training has decided it; expected one of columns, dec"
    ):
        predict.work([*words, "data.dates=[a]"])


def test_a_model_of_a_table_reads_tables_in_every_form(tmp_path: Path) -> None:
    frame = pd.DataFrame(make_blobs(60, 3, centers=3, random_state=0)[0], columns=["a", "b", "c"])
    (tmp_path / "parts").mkdir()
    for number in range(3):
        frame[20 * number : 20 * number + 20].to_csv(tmp_path / "parts" / f"{number}.csv", index=False)
    frame.to_csv(tmp_path / "x.csv.zip", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_feather(tmp_path / "x.feather")
    run = tmp_path / "run"
    assert train._main(["data=csv", f"data.path={tmp_path / 'parts'}", *QUICK, f"hydra.run.dir={run}"]) == 0
    for number, name in enumerate(("parts", "parts/*.csv", "x.csv.zip", "x.parquet", "x.feather")):
        output = tmp_path / f"{number}.csv"
        predict.work([f"run={run}", f"input={tmp_path / name}", f"output={output}", "threads=1"])
        assert output.read_bytes() == (run / "assignments.csv").read_bytes()


@pytest.mark.parametrize("kind", ["npy", "shards", "npz images", "sparse", "image folder", "image list"])
def test_every_kind_of_file_is_predicted_as_it_was_clustered(kind: str, tmp_path: Path) -> None:
    words = arrays(kind, tmp_path)
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    source = words[1].removeprefix("data.path=")
    predict.work([f"run={tmp_path / 'run'}", f"input={source}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "run" / "assignments.csv").read_bytes()


def test_a_model_of_an_array_of_images_takes_image_files(tmp_path: Path) -> None:
    words = arrays("npz images", tmp_path)
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    for i, image in enumerate(load_digits().images[:3]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    predict.work([f"run={tmp_path / 'run'}", f"input={tmp_path / 'photos'}", f"output={tmp_path / 'o.csv'}"])
    expected = [row["cluster"] for row in rows_of(tmp_path / "run" / "assignments.csv")[:3]]
    assert [row["cluster"] for row in rows_of(tmp_path / "o.csv")] == expected


@pytest.mark.parametrize(
    ("name", "trained", "option"),
    [
        ("a.png", "image_list", "image_folder"),
        ("a.png", "image_parquet", "image_folder"),
        ("a.csv", "csv", "csv"),
        ("a.txt", "csv", "csv"),
        ("a.txt", "image_folder", "npy"),
        ("b.npy", "csv", "npy"),
        ("a.png", "npz", "npy"),
    ],
)
def test_arrays_beside_the_files_that_a_model_reads_do_not_replace_them(
    name: str, trained: str, option: str, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / name).touch()
    np.save(tmp_path / "labels.npy", np.arange(3))
    assert option_for(str(tmp_path), "input", trained) == option


@pytest.mark.parametrize("kind", ["image folder", "image list"])
def test_a_model_of_images_takes_a_single_image(kind: str, tmp_path: Path) -> None:
    words = arrays(kind, tmp_path)
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    for number, name in enumerate(("5.png", "without a suffix")):
        image = tmp_path / name
        image.write_bytes((tmp_path / "x" / "2" / "5.png").read_bytes())
        output = tmp_path / f"{number}.csv"
        predict.work([f"run={tmp_path / 'run'}", f"input={image}", f"output={output}", "threads=1"])
        (row,) = rows_of(output)
        assert row["id"] == name
        (same,) = [other for other in rows_of(tmp_path / "run" / "assignments.csv") if "2/5.png" in other["id"]]
        assert same["cluster"] == row["cluster"]


def test_a_model_of_listed_images_takes_folders_and_unlabeled_lists(tmp_path: Path) -> None:
    words = arrays("image list", tmp_path)
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    (tmp_path / "new.csv").write_text("x/0/0.png\nx/1/1.png\n")
    outputs = {}
    for source in ("x", "new.csv"):
        output = tmp_path / f"{source}_clusters.csv"
        predict.work([f"run={tmp_path / 'run'}", f"input={tmp_path / source}", f"output={output}", "threads=1"])
        outputs[source] = rows_of(output)
    expected = {Path(row["id"]).name: row["cluster"] for row in rows_of(tmp_path / "run" / "assignments.csv")}
    assert {Path(row["id"]).name: row["cluster"] for row in outputs["x"]} == expected
    assert [row["cluster"] for row in outputs["new.csv"]] == [expected["0.png"], expected["1.png"]]
    assert "label" not in outputs["new.csv"][0]


def test_a_model_of_before_ignores_transparency_and_the_range_as_it_did(tmp_path: Path) -> None:
    """Earlier models store neither a background nor a range of 16-bit images."""
    arrays("image folder", tmp_path)
    assert (
        train._main(["data=image_folder", f"data.path={tmp_path / 'x'}", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"])
        == 0
    )
    description = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    del description["reading"]["background"], description["reading"]["range"], description["plan"]
    del description["sha256"]
    (tmp_path / "run" / "model" / "model.json").write_text(json.dumps(description))
    pixels = np.full((8, 8, 2), 100, np.uint8)
    pixels[..., 1] = 0
    for name, values in (("a", pixels), ("b", np.full((8, 8), 257 * 9, np.uint16))):
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / "new" / f"{name}.png")
    (part,) = input_reader(str(tmp_path / "new"), load_model(str(tmp_path / "run"))).parts()
    assert [int(image.max()) for image in part.X] == [100, 9]


def test_a_npy_file_is_read_in_parts_whatever_its_size(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(0).normal(size=(5000, 6))
    np.save(tmp_path / "c.npy", X)
    np.save(tmp_path / "f.npy", np.asfortranarray(X))
    monkeypatch.setattr("dkm.data.reader._PART_ROWS", 2048)
    sizes: list[int] = []
    read = StoredArray.read
    monkeypatch.setattr(StoredArray, "read", lambda self, *rows: sizes.append(rows[1] - rows[0]) or read(self, *rows))
    for name in ("c", "f"):  # a row of the second one lies scattered: it is read as a whole
        predict.work([f"run={run}", f"input={tmp_path / f'{name}.npy'}", f"output={tmp_path / f'{name}.csv'}"])
    assert sizes == [2048, 2048, 904]
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "f.csv").read_bytes()


@pytest.mark.parametrize("kind", ["standard", "counts"])
def test_what_did_not_vary_in_training_is_ignored_and_told(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    X = np.random.default_rng(0).poisson(5, (60, 5)).astype(np.float64)
    X[:, 2] = 0 if kind == "counts" else 3
    np.save(tmp_path / "x.npy", X)
    train._main(
        [
            "data=npy",
            f"data.path={tmp_path / 'x.npy'}",
            f"data.scaling={kind}",
            *QUICK,
            f"hydra.run.dir={tmp_path / 'r'}",
        ]
    )
    X[[4, 7], 2] += 1e30 if kind == "standard" else 1
    np.save(tmp_path / "other.npy", X)
    caplog.clear()
    for name in ("x", "other"):
        assert not caplog.messages
        predict.work(
            [f"run={tmp_path / 'r'}", f"input={tmp_path / f'{name}.npy'}", f"output={tmp_path / f'{name}.csv'}"]
        )
    was = "" if kind == "counts" else " (3)"
    [warning] = caplog.messages
    assert f"feature 2 (counted from 0) had one value in training{was} and has others in 2 rows; what" in warning
    if kind == "standard":
        assert (tmp_path / "other.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()


def test_what_was_decided_about_the_input_is_told(
    run: Path, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.read_csv(table / "t.csv", nrows=40).drop(columns=["customer", "kind"])
    frame.loc[[3, 9], "e"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";", decimal=",")
    predict.work([f"run={run}", f"input={tmp_path / 't.csv'}", f"output={tmp_path / 'o.csv'}"])
    told = [message.removeprefix(f"input={tmp_path / 't.csv'}: ") for message in caplog.messages]
    assert [message for message in told if message.startswith("decimal mark: comma, as in ")]
    assert "ids: none, as there is no column customer" in told
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.endswith("3 missing values are filled as those of the training data were: b (1), e (2)")


def test_names_of_columns_steer_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(predict, "parse_words", lambda *_, **__: predict.log.warning("column \x1b]0;x\x07\nmore"))
    with pytest.raises(TypeError):  # after the log lines are set up
        predict.work([])
    assert capsys.readouterr().err == "WARNING: column \\x1b]0;x\\x07\nmore\n"


@pytest.mark.parametrize(
    ("kind", "high", "values", "doubt"),
    [
        ("counts", 9, [0, 3, 1.386], "values up to 3 that are not whole"),
        ("counts", 9, [0, 3, 7], None),
        ("counts", 9, [0, 0.5, 4000], None),
        ("unit", 255, [0, 0.5, 1], "values from 0 to 1, and those of the training data were from 0 to 255"),
        ("unit", 255, [0, 1, 1], None),
        ("unit", 1, [0, 17, 255], "values from 0 to 255, and those of the training data were from 0 to 1"),
        ("unit", 1, [0, 0.5, 1.5], None),
        ("unit", 16, [0, 17, 255], "values from 0 to 255, and those of the training data were from 0 to 16"),
        ("unit", 16, [0, 17, 60], None),
        ("standard", 9, [0, 0.5, 1], None),
    ],
)
def test_values_in_another_unit_than_in_training_are_doubted(
    kind: str, high: float, values: list[float], doubt: str | None
) -> None:
    scaling = Scaling.fit([np.array([[0.0, high], [high, 0.0], [0.0, 0.0]])], kind, total=high)
    found = unit_doubt(scaling, np.array([values]))
    assert found == doubt if doubt is None else str(found).startswith(doubt)


@pytest.mark.parametrize("kind", ["standard", "centered"])
def test_a_column_far_from_that_of_training_is_doubted(kind: str) -> None:
    random = np.random.default_rng(0)
    flags = (random.uniform(size=(500, 1)) < 0.002).astype(np.float64)
    X = np.concatenate([random.normal(64, 20, size=(500, 2)), flags], axis=1)
    scaling = Scaling.fit([X], kind)
    assert unit_doubt(scaling, X) is None
    thousands = X * [1, 1000, 1]
    found = str(unit_doubt(scaling, thousands, ["age", "income", "is_new"]))
    assert found.startswith("column income has a median of 6")
    assert found.endswith(": give the model values in the same unit")
    assert "where the mean of the training data was 6" in found
    assert str(unit_doubt(scaling, X * [1000, 1000, 1])).startswith("feature 0 (counted from 0) has a median of 6")
    assert "likewise 1 more" in str(unit_doubt(scaling, X * [1000, 1000, 1]))
    assert unit_doubt(scaling, np.repeat([[64.0, 64.0, 1.0]], 20, axis=0)) is None  # a rare flag, set everywhere
    assert unit_doubt(scaling, thousands[:3]) is None  # few rows may be unusual ones


# --- refused ------------------------------------------------------------------------------------------------


def refusals(run: Path, table: Path, tmp: Path) -> dict[str, tuple[list[str], str]]:
    """Return words that are refused, and what is said."""
    given = [f"run={run}", f"input={table / 't.csv'}", f"output={tmp / 'o.csv'}"]
    np.save(tmp / "narrow.npy", np.zeros((3, 5)))
    np.save(tmp / "text.npy", np.array([["a"] * 6]))
    np.save(tmp / "nan.npy", np.full((3, 6), np.nan))
    np.save(tmp / "far.npy", np.array([[0.0] * 6, [1e32] * 6, [1e33] * 6]))
    with zipfile.ZipFile(tmp / "x.xlsm", "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    description = json.loads((run / "model" / "model.json").read_text())
    shutil.copytree(run / "model", tmp / "array" / "model")
    del description["sha256"]
    description |= {"data": "npy", "features": None, "fill": None, "plan": None, "reading": {}}
    (tmp / "array" / "model" / "model.json").write_text(json.dumps(description))
    frame = pd.read_csv(table / "t.csv")
    frame.drop(columns=["a", "d"]).to_csv(tmp / "short.csv", index=False)
    frame.assign(c="x").to_csv(tmp / "words.csv", index=False)
    (tmp / "there.csv").write_text("mine")
    shutil.copytree(run / "model", tmp / "bad" / "model")
    (tmp / "bad" / "model" / "weights.safetensors").write_bytes(b"no")
    (tmp / "new" / "model").mkdir(parents=True)
    (tmp / "new" / "model" / "model.json").write_text(json.dumps({"format_version": 2}))
    (tmp / "new" / "model" / "weights.safetensors").write_bytes(b"")
    (tmp / "plain").mkdir()
    return {
        "no value": (["run"], "run: expected KEY=VALUE"),
        "no input to assign": (["RUN"], "input: missing; expected input=VALUE"),
        "a word too many": ([*given, "overwrite"], "overwrite: expected KEY=VALUE"),
        "unknown key": ([*given, "outputs=x"], "outputs=x: expected a key of this command; did you mean output?"),
        "unknown key of data": ([*given, "data.idd=x"], "data.idd=x: expected a key of data=csv; the keys are"),
        "columns that the training decided": (
            [*given, "data.exclude=[a]"],
            "data.exclude=[a]: the training has decided it; expected one of decimal, delimiter, encoding, header, id, "
            "labels, max_expansion, missing, strict, thousands; leave it out",
        ),
        "kinds that the training decided": ([*given, "data.numeric=[a]"], "data.numeric=[a]: the training has decided"),
        "no output": (given[:2], "output: missing; expected output=VALUE"),
        "no run": (["run=nowhere", *given[1:]], "run=nowhere: no such folder"),
        "no model": ([f"run={tmp / 'plain'}", *given[1:]], "no model.json in it; expected the model of a finished run"),
        "damaged": ([f"run={tmp / 'bad'}", *given[1:]], "cannot be read"),
        "newer": ([f"run={tmp / 'new'}", *given[1:]], "format_version=2, this release reads 1"),
        "no input": ([given[0], "input=t.csvv", given[2]], "input=t.csvv: no such file"),
        "columns": ([given[0], f"input={tmp / 'short.csv'}", given[2]], "has no 2 columns a, d; its columns are"),
        "text column": (
            [given[0], f"input={tmp / 'words.csv'}", given[2]],
            "column c has 'x' in row 0 (counted from 0)",
        ),
        "features": ([given[0], f"input={tmp / 'narrow.npy'}", given[2]], "5 features; expected 6"),
        "text": ([given[0], f"input={tmp / 'text.npy'}", given[2]], "an array of <U1; expected real numbers"),
        "nan": ([given[0], f"input={tmp / 'nan.npy'}", given[2]], "a value that is NaN, infinite or too large"),
        "far": (
            [given[0], f"input={tmp / 'far.npy'}", given[2]],
            "2 rows whose distance to every centroid is infinite, the first is row 1 (counted from 0); expected values",
        ),
        "spreadsheet": (
            [f"run={tmp / 'array'}", f"input={tmp / 'x.xlsm'}", given[2]],
            "an Excel workbook; expected a CSV file; save its sheet as CSV",
        ),
        "exists": (
            [*given[:2], f"output={tmp / 'there.csv'}"],
            "the file exists; expected a new file; pass overwrite=true",
        ),
        "suffix": ([*given[:2], f"output={tmp / 'o.xls'}"], "the suffix '.xls'; expected one of .csv, .parquet, .npz"),
        "folder": ([*given[:2], f"output={tmp / 'none' / 'o.csv'}"], "cannot be written (No such file or directory)"),
        "flag": ([*given, "overwrite=yes"], "overwrite=yes: expected true or false"),
        "threads": ([*given, "threads=0"], "threads=0: expected a whole number, 1 or more"),
        "device": ([*given, "device=cuda:99"], "device=cuda:99: expected a device that is there"),
    }


CASES = [
    *("no value", "no input to assign", "a word too many", "unknown key", "unknown key of data", "no output"),
    *("columns that the training decided", "kinds that the training decided"),
    *("no run", "no model", "damaged", "newer"),
    *("no input", "columns", "text column", "features", "text", "nan", "far", "exists", "suffix", "folder", "flag"),
    "spreadsheet",
    *("threads", "device"),
]


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_costs_one_line_and_leaves_no_output(
    case: str, run: Path, table: Path, tmp_path: Path, call: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = refusals(run, table, tmp_path)[case]
    before = sorted(tmp_path.rglob("*"))
    assert call(predict, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:x", ""])
def test_a_device_is_checked_as_in_training(device: str) -> None:
    words = ["run=run", "input=x.npy", "output=o.csv", f"device={device}"]
    with pytest.raises(
        UserError, match=f"^device={device}: expected one of auto, cpu, cuda, cuda:N; (for ex|did you mean)"
    ):
        predict.work(words)


def test_labels_for_other_rows_are_refused(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 5))
    np.savez(tmp_path / "t.npz", x=X, y=np.arange(40) % 2)
    words = ["data=npz", f"data.path={tmp_path / 't.npz'}", "data.labels=y", *QUICK]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    for n_rows in (7, 40):
        np.savez(tmp_path / "new.npz", x=X[:30], y=np.arange(n_rows) % 2)
        with pytest.raises(UserError, match=rf"data.labels=y: shape \({n_rows},\); expected \(30,\); .*=null"):
            predict.work([f"run={tmp_path / 'run'}", f"input={tmp_path / 'new.npz'}", f"output={tmp_path / 'o.csv'}"])


def test_overwrite_replaces(run: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text("old")
    predict.work([f"run={run}", f"input={table / 't.csv'}", f"output={tmp_path / 'o.csv'}", "overwrite=true"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()


@pytest.mark.parametrize("link", [None, "output", "input", "hard"])
def test_the_input_is_not_overwritten(link: str | None, run: Path, table: Path, tmp_path: Path) -> None:
    names = {"input": "new.csv", "output": "new.csv"}
    shutil.copyfile(table / "t.csv", tmp_path / "new.csv")
    if link == "hard":
        names["output"] = "link.csv"
        (tmp_path / "link.csv").hardlink_to(tmp_path / "new.csv")
    elif link is not None:
        names[link] = "link.csv"
        (tmp_path / "link.csv").symlink_to("new.csv")
    words = [f"{key}={tmp_path / name}" for key, name in names.items()]
    for more in ([], ["overwrite=true"]):
        with pytest.raises(UserError) as raised:
            predict.work([f"run={run}", *words, *more])
        expected = "is the input, which would be lost; expected another file; choose another name"
        assert str(raised.value) == f"{words[1]}: {expected}"
    assert (tmp_path / "new.csv").read_bytes() == (table / "t.csv").read_bytes()


def test_an_address_is_not_overwritten_by_its_prediction(run: Path) -> None:
    with pytest.raises(UserError, match=r"^output=memory://t.csv: is the input, which would be lost; expected another"):
        predict.work([f"run={run}", "memory://t.csv", "output=memory://t.csv", "overwrite=true"])


def test_without_words_the_command_explains_itself(call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(predict, "--help") == 0
    told = capsys.readouterr().out
    assert "usage: dkm predict RUN FILE output=FILE [KEY=VALUE ...]" in told
    assert "CPU threads, by default all cores" in told  # a model does not know those of its run


def test_run_and_input_may_stand_alone_and_short_names_say_how_the_input_is_read(
    run: Path, table: Path, tmp_path: Path
) -> None:
    predict.work([str(run), str(table / "t.csv"), f"output={tmp_path / 'o.csv'}", "id=customer"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()
