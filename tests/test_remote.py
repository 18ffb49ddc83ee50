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
from dkm.data.recognition import recognize
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
    monkeypatch.setattr(memory, "get_file", None)
    assert remote.fetch("memory://t.csv") == first
    monkeypatch.undo()
    memory.pipe("/t.csv", ROWS + b"41.5,3\n")
    assert remote.fetch("memory://t.csv").read_bytes() == ROWS + b"41.5,3\n"


class Web(fsspec.AbstractFileSystem):
    """Files of a web server: ``ukey`` is that of the address, as fsspec has it."""

    protocol = ("http", "https")
    cachable = False

    def __init__(self, content: bytes, **headers: str) -> None:
        super().__init__()
        self.content, self.headers, self.n_read = content, headers, 0

    def ukey(self, path: str) -> str:
        return path

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": len(self.content), "type": "file", **self.headers}

    def isdir(self, path: str) -> bool:
        return False

    def get_file(self, path: str, target: str, **_: object) -> None:
        self.n_read += 1
        Path(target).write_bytes(self.content)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    monkeypatch.setenv("DKM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_read_files", {})
    server = Web(ROWS)
    monkeypatch.setattr(remote, "_filesystem", lambda url, key: (server, url))
    return server


class Answer(Exception):
    """An answer of a server, as aiohttp has it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}, message={message!r}, url='https://host/t.csv?signature=secret'")
        self.status, self.message = status, message


FAILING: dict[str, tuple[BaseException | None, str]] = {
    "no file": (None, "no such file; expected an existing file or folder; correct data.path"),
    "404": (Answer(404, "Not Found"), "no such file; expected an existing file or folder; correct data.path"),
    "410": (Answer(410, "Gone"), "no such file; expected an existing file or folder; correct data.path"),
    "403": (
        Answer(403, "Forbidden"),
        "cannot be read (403 Forbidden); expected a readable file; check its rights and the network",
    ),
    "503": (Answer(503, ""), "cannot be read (503); expected a readable file; "),
    "no network": (
        OSError("Cannot connect to host host:443 ssl:default [Name or service not known]"),
        "cannot be read (Cannot connect to host host:443 ssl:default [Name or service not known]); expected",
    ),
    "no answer": (TimeoutError(), "cannot be read (TimeoutError); expected"),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_file_that_cannot_be_reached_is_told_from_one_that_does_not_exist(
    what: str, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec says that a file of the web does not exist, whatever has failed; ``exists`` says so of any file."""
    cause, expected = FAILING[what]

    def info(path: str, **_: object) -> None:
        raise FileNotFoundError(path) from cause

    monkeypatch.setattr(web, "info", info)
    with pytest.raises(UserError) as refused:
        remote.fetch("https://host/t.csv", "data.path")
    assert str(refused.value).startswith(f"data.path=https://host/t.csv: {expected}")
    assert "secret" not in str(refused.value)


def test_a_place_without_rights_is_not_taken_for_an_empty_one(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def info(path: str, **_: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(memory, "info", info)
    with pytest.raises(UserError, match=r"path=memory://t.csv: cannot be read \(Access Denied\); expected a readable"):
        remote.fetch("memory://t.csv")


def test_a_file_of_a_bucket_does_not_exist_if_its_client_says_so(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def info(path: str, **_: object) -> None:
        raise FileNotFoundError(path) from Answer(400, "NoSuchKey")

    monkeypatch.setattr(memory, "info", info)
    with pytest.raises(UserError, match=r"path=memory://t.csv: no such file"):
        remote.fetch("memory://t.csv")


def test_reading_a_file_changes_no_version_of_it(memory: fsspec.AbstractFileSystem) -> None:
    """The key that fsspec makes of a file on a server of sftp contains the time of the last access."""
    same = {"name": "/t.csv", "size": 3, "type": "file", "time": 1, "mtime": 5}
    versions = []
    for accessed in (1, 2):
        memory.info = lambda path, accessed=accessed, **_: {**same, "time": accessed}
        memory.ukey = lambda path, accessed=accessed: str(accessed)
        memory.isdir = lambda path: False
        versions.append(remote._version(memory, "/t.csv", memory.info("/t.csv")))
    del memory.info, memory.ukey, memory.isdir
    assert versions[0] == versions[1] is not None


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_changed_file_of_the_web_is_copied_again(header: str, web: Web) -> None:
    web.headers = {header: "1"}
    first = remote.fetch("https://host/t.csv")
    assert remote.fetch("https://host/t.csv") == first
    assert web.n_read == 1
    web.headers, web.content = {header: "2"}, ROWS.replace(b"0.5", b"7.5")
    assert remote.fetch("https://host/t.csv").read_bytes() == web.content
    assert first.read_bytes() == ROWS


def test_a_server_that_tells_no_version_is_read_again_by_the_next_command(web: Web) -> None:
    first = remote.fetch("https://host/t.csv")
    assert remote.fetch("https://host/t.csv") == first
    assert web.n_read == 1
    remote._read_files.clear()  # as in another process
    assert remote.fetch("https://host/t.csv") == first
    remote._read_files.clear()
    web.content = ROWS.replace(b"0.5", b"7.5")
    assert remote.fetch("https://host/t.csv").read_bytes() == web.content
    assert first.read_bytes() == ROWS


def test_a_changed_file_of_a_folder_is_noticed_whatever_its_time_is_called() -> None:
    same = {"name": "/a", "size": 3, "time": 1, "last_accessed_on": 5}
    for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated"):
        versions = {str(remote._version_of({**same, "time": i, key: i})) for i in (1, 2)}
        assert len(versions) == 2, key
    assert remote._version_of(same) == remote._version_of({**same, "time": 2, "last_accessed_on": 6})


def test_the_query_of_an_address_is_no_part_of_the_name(web: Web) -> None:
    signed = f"https://host/a%20b/t.csv.gz?download=1&name=x.txt&signature={'a' * 400}"
    assert remote.fetch(signed).name == "t.csv.gz"
    assert recognize(signed).option == "csv"
    assert remote.fetch(f"https://host/{'é' * 120}.csv").name == f"{'é' * 50}.csv"
    assert remote.local_name("https://host") == ""
    assert remote.local_name("s3://bucket/a?b.csv") == "a?b.csv"


def test_a_name_with_the_marks_of_a_pattern_is_one_file(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/a[1]?.csv", ROWS)
    assert remote.fetch("memory://a[1]?.csv").read_bytes() == ROWS


def test_a_remote_folder_of_parquet_files_and_an_array(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    for i in (2, 10):
        pq.write_table(pa.table({"a": np.arange(30.0) + i, "b": np.arange(30) % 7}), tmp_path / f"part{i}.parquet")
        memory.put(str(tmp_path / f"part{i}.parquet"), f"/set/part{i}.parquet")
    assert load_dataset(ParquetData(path="memory://set")).n_samples == 60
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 3)))
    memory.put(str(tmp_path / "x.npy"), "/x.npy")
    assert load_dataset(NpyData(path="memory://x.npy")).n_features == 3


@pytest.mark.parametrize("name", ["o.csv", "o[1]?*.csv"])
def test_a_file_is_copied_under_its_name(name: str, memory: fsspec.AbstractFileSystem) -> None:
    for text in ("first", "second"):
        with remote.uploaded(f"memory://out/{name}", "output", overwrite=True) as local:
            local.write_text(text)
    assert memory.find("/") == [f"/out/{name}"]
    assert memory.cat_file(f"/out/{name}") == b"second"


@pytest.mark.parametrize("name", ["model", "model[1]"])
def test_a_folder_is_copied_into_the_one_that_exists(name: str, memory: fsspec.AbstractFileSystem) -> None:
    for text in ("first", "second"):
        with remote.uploaded(f"memory://out/{name}", "output", overwrite=True) as local:
            (local / "part[2]").mkdir(parents=True)
            (local / "a.json").write_text(text)
            (local / "part[2]" / "b.bin").write_text(text)
    assert memory.find("/") == [f"/out/{name}/a.json", f"/out/{name}/part[2]/b.bin"]
    assert memory.cat_file(f"/out/{name}/part[2]/b.bin") == b"second"


@pytest.mark.usefixtures("quick_search")
def test_a_run_and_its_prediction_elsewhere(
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    memory.pipe("/t.csv", ROWS)
    words = ["data=csv", "data.path=memory://t.csv", "clustering.n_clusters=3", *QUICK, "hydra.run.dir=run"]
    assert train._main(words) == 0
    memory.put("run/model", "/runs/one/model", recursive=True)
    capsys.readouterr()
    predict.work(["run=memory://runs/one", "input=memory://t.csv", "output=memory://out/o.csv"])
    assert capsys.readouterr().out == "memory://out/o.csv: 40 rows\n"
    assert memory.cat("/out/o.csv") == Path("run/assignments.csv").read_bytes()
    with pytest.raises(UserError, match=r"output=memory://out/o.csv: it exists; .* set overwrite=true"):
        predict.work(["run=memory://runs/one", "input=memory://t.csv", "output=memory://out/o.csv"])
    with pytest.raises(UserError, match=r"^output=memory://out/o.txt: "):
        predict.work(["run=memory://runs/one", "input=memory://t.csv", "output=memory://out/o.txt"])
    monkeypatch.setattr(memory, "put_file", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=r"output=memory://out/p.csv: cannot be written \(division by zero\)"):
        predict.work(["run=memory://runs/one", "input=memory://t.csv", "output=memory://out/p.csv"])
    assert capsys.readouterr().out == ""


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
