"""The digest of rows: equal for the same rows of the same file, whatever is read of them, and for no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dkm.config.data import CsvData, DigitsData, ImageListData, NpyData, NpzData
from dkm.data import row_identity
from dkm.data.row_identity import digest_of_rows

ROWS = "age,income,city\n1,2,a\n3,4,b\n5,6,c\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "x.csv").write_text(ROWS)
    return str(tmp_path / "x.csv")


def test_columns_labels_and_the_place_of_the_file_are_no_matter(path: str, tmp_path: Path) -> None:
    digest = digest_of_rows(CsvData(path=path), 3, None)
    assert digest is not None
    assert len(digest) == 64
    moved = shutil.copy(path, tmp_path / "y.csv")
    others = [
        CsvData(path=path, exclude=["city"]),
        CsvData(path=path, columns=["age"], labels="city", scaling="rms", missing="median"),
        CsvData(path=str(moved)),
    ]
    assert {digest_of_rows(config, 3, np.arange(3)) for config in others} == {digest}


def test_other_rows_have_another_digest(path: str, tmp_path: Path) -> None:
    config = CsvData(path=path)
    digests = [digest_of_rows(config, 3, None), digest_of_rows(config, 2, None)]
    digests += [digest_of_rows(config, 2, np.array(position)) for position in ([0, 2], [2, 0])]
    digests.append(digest_of_rows(CsvData(path=path, header=False), 3, None))
    (tmp_path / "x.csv").write_text(ROWS.replace("6", "7"))
    digests.append(digest_of_rows(config, 3, None))
    digests += [digest_of_rows(NpzData(path=path, array=array), 3, None) for array in ("train", "test")]
    assert None not in digests
    assert len(set(digests)) == len(digests)


def test_a_folder_is_its_files_with_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.npy").write_bytes(name.encode())
    digest = digest_of_rows(NpyData(path=str(folder)), 3, None)
    (folder / ".hidden").write_text("x")
    assert digest_of_rows(NpyData(path=str(folder)), 3, None) == digest is not None
    (folder / "b.npy").rename(folder / "c.npy")
    assert digest_of_rows(NpyData(path=str(folder)), 3, None) != digest


def test_where_the_rows_are_not_known_there_is_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A list of images names files whose content it does not have.
    for config in (DigitsData(), CsvData(path="s3://b/x.csv"), CsvData(path="/no/x.csv"), ImageListData(path=path)):
        assert digest_of_rows(config, 3, None) is None
    monkeypatch.setattr(row_identity, "_MAX_BYTES", len(ROWS) - 1)
    assert digest_of_rows(CsvData(path=path), 3, None) is None
