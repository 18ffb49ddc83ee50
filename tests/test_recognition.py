"""A file decides ``data=``: by its name, and by its content where the name leaves several options."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dkm.data.recognition import recognize
from dkm.errors import UserError

TABLE = "age,income\n" + "".join(f"{20 + i},{1000 * i}.5\n" for i in range(30))
PROSE = "".join(f"This is text {i}{', with a comma' * (i % 3)}.\n" for i in range(30))
EVEN = "".join(f"word{i}, other{i}\n" for i in range(30))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def refusal(path: str, *keys: str) -> str:
    with pytest.raises(UserError) as raised:
        recognize(path, keys)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("t.csv", "csv"), ("t.TSV", "csv"), ("t.csv.gz", "csv"), ("t.data", "csv"), ("x.feather", "feather")),
        *(("x.npy", "npy"), ("x.npz", "npz"), ("x.h5ad", "h5ad"), ("x.zarr.zip", "zarr"), ("x.mat", "mat")),
        *(("x.jsonl", "text"), ("x.pq", "parquet"), ("x.arrow", "feather"), ("x.hdf5", "hdf5")),
    ],
)
def test_a_name_decides(name: str, option: str, here: Path) -> None:
    (here / name).write_bytes(b"anything")
    assert recognize(name).option == option


@pytest.mark.parametrize(
    ("content", "option", "why"),
    [
        (TABLE, "csv", "by its content, rows of numbers"),
        (TABLE.replace(",", "\t"), "csv", "by its content, rows of numbers"),
        (TABLE.replace(",", "  "), "csv", "by its content, rows of numbers"),
        ("1\n2\n3\n", "csv", "by its content, rows of numbers"),
        (PROSE, "text", "by its content, lines of text"),
        ('{"text": "one"}\n{"text": "two"}\n', "text", "by its content, JSON lines"),
    ],
)
@pytest.mark.parametrize("name", ["x.txt", "x", "x.unknown"])
def test_text_of_another_name_is_read_by_its_content(
    name: str, content: str, option: str, why: str, here: Path
) -> None:
    (here / name).write_text(content)
    assert recognize(name) == (option, why)


def test_a_damaged_gzip_file_is_left_to_the_reader_of_its_kind(here: Path) -> None:
    content = bytearray(gzip.compress(TABLE.encode()))
    content[10] |= 0b110  # a type of block that does not exist
    (here / "x.csv.gz").write_bytes(content)
    assert recognize("x.csv.gz").option == "csv"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_text_is_read_by_its_content(compress, here: Path) -> None:  # type: ignore[no-untyped-def]
    (here / "x.gz").write_bytes(compress((TABLE * 9000).encode()))
    assert recognize("x.gz").option == "csv"
    (here / "x.txt.gz").write_bytes(compress(PROSE.encode()))
    assert recognize("x.txt.gz").option == "text"


def test_binary_files_are_known_by_their_first_bytes(here: Path) -> None:
    np.save("x.npy", np.zeros((3, 2)))
    pd.DataFrame({"a": [1, 2]}).to_parquet("x.parquet")
    for name, option in (("x.npy", "npy"), ("x.parquet", "parquet")):
        (here / name).rename(here / "unnamed")
        assert recognize("unnamed").option == option


def test_an_archive_is_what_is_in_it(here: Path) -> None:
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.writestr("folder/table.csv", TABLE)
    assert recognize("x.zip").option == "csv"
    with zipfile.ZipFile("y.zip", "w") as archive:
        archive.writestr("zarr.json", "{}")
        archive.writestr("c/0", "0")
    assert recognize("y.zip").option == "zarr"


def save_zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, TABLE)


@pytest.mark.parametrize("name", ["x.zip", "x.bak", "x"])
def test_an_archive_has_arrays_if_a_file_in_it_is_one(name: str, here: Path) -> None:
    for arrays in ({"a": np.zeros((3, 2))}, {"a": np.zeros((3, 2)), "b": np.zeros(3)}):
        np.savez(here / "x.npz", **arrays)
        (here / "x.npz").rename(here / name)
        assert recognize(name).option == "npz"
    save_zip(here / name, "table.csv")
    assert recognize(name).option == "csv"
    save_zip(here / name, "a.csv", "b.csv")
    assert refusal(name).startswith(
        f"{name}: a zip archive of 2 files without an array (a.csv, b.csv); expected a table"
    )
    save_zip(here / name)
    assert refusal(name).startswith(f"{name}: a zip archive of 0 files without an array; expected a table")
    (here / name).write_bytes(b"PK\3\4 and nothing else")
    assert recognize(name).option == "npz"  # whose reader says that it is damaged


@pytest.mark.parametrize("name", ["x.xlsx", "x.XLSM", "x.xlsb", "x.xltx", "x.ods", "x.zip", "x.bak", "x"])
def test_a_workbook_is_a_spreadsheet_whatever_its_name(name: str, here: Path) -> None:
    save_zip(here / name, "[Content_Types].xml", "xl/workbook.xml", "xl/worksheets/sheet1.xml")
    assert refusal(name).startswith(f"{name}: a spreadsheet; expected a table, an array")


def test_parquet_has_rows_images_or_texts(here: Path) -> None:
    save_image(here / "a.png")
    content = (here / "a.png").read_bytes()
    pd.DataFrame({"image": [content] * 3, "label": [0, 1, 2]}).to_parquet("images.parquet")
    pd.DataFrame({"a": [1.0, 2.0], "text": ["x", "y"]}).to_parquet("table.parquet")
    pd.DataFrame({"text": ["x", "y"]}).to_parquet("texts.parquet")
    found = {name: recognize(f"{name}.parquet").option for name in ("images", "table", "texts")}
    assert found == {"images": "image_parquet", "table": "parquet", "texts": "text"}
    assert recognize("table.parquet", ["text"]).option == "text"


@pytest.mark.skipif(find_spec("h5py") is None, reason="no h5py")
def test_an_hdf5_file_with_the_tables_of_anndata_has_cells(here: Path) -> None:
    import h5py

    with h5py.File("cells.h5", "w") as file:
        file["X"], file["obs/_index"], file["var/_index"] = np.zeros((3, 2)), np.arange(3), np.arange(2)
    with h5py.File("array.h5", "w") as file:
        file["X"] = np.zeros((3, 2))
    assert recognize("cells.h5") == ("h5ad", "by its content")
    assert recognize("array.h5") == ("hdf5", "by its content")
    assert recognize("cells.h5", ["array"]).option == "hdf5"


def test_a_csv_file_may_list_images(here: Path) -> None:
    for k in range(4):
        save_image(here / "photos" / f"{k}.png")
    names = [f"photos/{k}.png" for k in range(4)]
    (here / "list.csv").write_text("\n".join(["file,animal", *(f"{name},cat" for name in names)]))
    assert recognize("list.csv") == ("image_list", "by its content, paths of images")
    (here / "both.csv").write_text("\n".join(["file,a,b", *(f"{name},1,2" for name in names)]))
    assert "data=image_list or data=csv; choose one, for example: both.csv data=image_list" in refusal("both.csv")
    assert recognize("both.csv", ["columns"]).option == "csv"
    (here / "gone.csv").write_text("\n".join(["file,animal", *(f"elsewhere/{k}.png,cat" for k in range(4))]))
    assert recognize("gone.csv").option == "csv"


def test_the_settings_that_are_given_choose_among_the_options_of_a_name(here: Path) -> None:
    (here / "reviews.csv").write_text("review,city\ngood,Rome\n")
    assert recognize("reviews.csv") == ("csv", "by its name")
    assert recognize("reviews.csv", ["text"]) == ("text", "by its name and the settings")
    assert recognize("reviews.csv", ["image_size"]).option == "image_list"
    (here / "even.txt").write_text(EVEN)
    assert recognize("even.txt", ["delimiter"]).option == "csv"


def test_a_folder_is_what_is_in_it(here: Path) -> None:
    save_image(here / "photos" / "cats" / "1.png")
    (here / "photos" / "README.md").write_text("About these photos")
    (here / "photos" / ".hidden.csv").write_text(TABLE)
    (here / "tables" / "year=2024").mkdir(parents=True)
    (here / "tables" / "year=2024" / "part.parquet").write_bytes(b"PAR1")
    (here / "shards").mkdir()
    (here / "shards" / "0.npy").write_bytes(b"")
    (here / "store").mkdir()
    (here / "store" / "zarr.json").write_text("{}")
    found = {name: recognize(name).option for name in ("photos", "tables", "shards", "store")}
    assert found == {"photos": "image_folder", "tables": "parquet", "shards": "npy", "store": "zarr"}


def test_an_address_or_a_pattern_is_known_by_its_name(here: Path) -> None:
    assert recognize("s3://bucket/x.parquet") == ("parquet", "by its name")
    assert recognize("parts/*.csv.gz") == ("csv", "by its name")
    assert "data=text or data=csv" in refusal("s3://bucket/x.txt")
    assert "no known suffix" in refusal("https://host/table")


def test_several_readings_are_refused_with_the_candidates(here: Path) -> None:
    (here / "even.txt").write_text(EVEN)
    assert refusal("even.txt") == (
        "even.txt: lines with 2 cells each, few of them numbers; expected one reading of data=csv or data=text; choose "
        "one, for example: even.txt data=csv"
    )
    save_image(here / "mixed" / "1.png")
    (here / "mixed" / "table.csv").write_text(TABLE)
    assert "1 files for data=csv and 1 files for data=image_folder" in refusal("mixed")


def test_what_cannot_be_read_is_refused_with_what_can(here: Path) -> None:
    (here / "book.xlsx").write_bytes(b"PK\3\4")
    (here / "empty.csv").write_bytes(b"")
    (here / "object.json").write_text('[{"a": 1}]')
    (here / "noise").write_bytes(bytes(range(256)) * 9)
    save_image(here / "photos" / "one.png")
    (here / "nothing").mkdir()
    (here / "docs").mkdir()
    (here / "docs" / "x.pdf").write_bytes(b"%PDF")
    (here / "run" / "checkpoints").mkdir(parents=True)
    (here / "run" / "config.yaml").write_text("")
    expected = {
        "book.xlsx": "a spreadsheet; expected a table, an array, a matrix, texts, or a folder of images or of table "
        "files; save the sheet as CSV",
        "empty.csv": "an empty file (0 bytes)",
        "object.json": "JSON; expected JSON lines",
        "noise": "a format that no data option reads",
        "photos/one.png": "one image; expected a folder of images; name its folder: photos",
        "nothing": "an empty folder",
        "docs": "a folder without files that a data option reads",
        "run": "the directory of a run; expected a table, an array, a matrix, texts, or a folder of images or of table "
        "files; resume it with resume=run",
    }
    for path, text in expected.items():
        assert refusal(path).startswith(f"{path}: {text}")
