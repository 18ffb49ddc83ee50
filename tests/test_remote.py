"""Files elsewhere, through fsspec; its file system in memory stands for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkm import predict, train
from dkm.config.data import CsvData, NpyData, ParquetData
from dkm.config.values import absolute, scheme_of
from dkm.data.datasets import load_dataset
from dkm.errors import UserError
from dkm.installation import pip_install
from dkm.runtime import remote

QUICK = [
    "model.hidden=[8]",
    "pretrain.epochs=1",
    "joint.epochs=1",
    "log.tensorboard=false",
    "log.figures=false",
    "log.report=false",
]
ROWS = b"a,b\n" + b"".join(b"%d.5,%d\n" % (i, i % 7) for i in range(40))


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    monkeypatch.setenv("DKM_CACHE", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def test_an_address_is_no_local_path() -> None:
    assert scheme_of("s3://bucket/a.csv") == "s3"
    assert scheme_of("C:/a.csv") is None
    assert scheme_of("a.csv") is None
    assert absolute("s3://bucket/a.csv") == "s3://bucket/a.csv"
    assert absolute("a.csv") == str(Path.cwd() / "a.csv")


def test_a_remote_table_is_that_of_the_local_copy(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.pipe("/here/t.csv", ROWS)
    (tmp_path / "t.csv").write_bytes(ROWS)
    far, near = (load_dataset(CsvData(path=path)) for path in ("memory://here/t.csv", str(tmp_path / "t.csv")))
    assert far.sha256 == near.sha256
    assert far.report.source == "data.path=memory://here/t.csv"


def test_a_changed_file_is_copied_again_and_an_equal_one_is_not(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/t.csv", ROWS)
    first = remote.fetch("memory://t.csv")
    monkeypatch.setattr(memory, "get", None)
    assert remote.fetch("memory://t.csv") == first
    monkeypatch.undo()
    memory.pipe("/t.csv", ROWS + b"41.5,3\n")
    assert remote.fetch("memory://t.csv").read_bytes() == ROWS + b"41.5,3\n"


def test_a_remote_folder_of_parquet_files_and_an_array(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    for i in (2, 10):
        pq.write_table(pa.table({"a": np.arange(30.0) + i, "b": np.arange(30) % 7}), tmp_path / f"part{i}.parquet")
        memory.put(str(tmp_path / f"part{i}.parquet"), f"/set/part{i}.parquet")
    assert load_dataset(ParquetData(path="memory://set")).n_samples == 60
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 3)))
    memory.put(str(tmp_path / "x.npy"), "/x.npy")
    assert load_dataset(NpyData(path="memory://x.npy")).n_features == 3


@pytest.mark.usefixtures("quick_search")
def test_a_run_and_its_prediction_elsewhere(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memory.pipe("/t.csv", ROWS)
    words = ["data=csv", "data.path=memory://t.csv", "clustering.n_clusters=3", *QUICK, "hydra.run.dir=run"]
    assert train._main(words) == 0
    memory.put("run/model", "/runs/one/model", recursive=True)
    predict.work(["run=memory://runs/one", "input=memory://t.csv", "output=memory://out/o.csv"])
    assert memory.cat("/out/o.csv") == Path("run/assignments.csv").read_bytes()
    with pytest.raises(UserError, match=r"output=memory://out/o.csv: it exists; .* set overwrite=true"):
        predict.work(["run=memory://runs/one", "input=memory://t.csv", "output=memory://out/o.csv"])


REFUSED = {
    "memory://no/such.csv": "data.path=memory://no/such.csv: no such file; expected an existing file or folder",
    "reference://x.csv": "reference://; expected one of s3://",
    "s3://bucket/x.csv": f"s3fs is not installed; expected the package for s3://; {pip_install('s3fs')}",
}


@pytest.mark.parametrize("address", REFUSED)
@pytest.mark.usefixtures("memory")
def test_what_cannot_be_reached_is_one_line(address: str) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(CsvData(path=address))
    assert REFUSED[address] in str(caught.value)
