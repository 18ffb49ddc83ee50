"""Compressed files that unpack to far more than their size are refused before they fill memory and disk."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io as io_
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr
from pyarrow import feather, ipc, parquet
from scipy import io, sparse

from dkm.config.compose import compose, parse
from dkm.data import unpacking
from dkm.data.datasets import load_dataset
from dkm.data.images.encoders import _read_state_dict
from dkm.data.matrices import mat5
from dkm.data.tables import sources
from dkm.data.tables.dialect import Given
from dkm.data.tables.notation import Known
from dkm.data.unpacking import UnpackingLimit
from dkm.errors import UserError
from dkm.runtime import checkpoints

N = 2_000
X = np.zeros((N, 10))
X[0] = 1
TABLE = ("a,b\n" + "0.000000000,1\n" * (N * 5) + "1,2\n").encode()
COLUMNS = pa.table({"a": X[:, 0], "b": np.r_[np.ones(N - 1), 2.0]})
TEXTS = ("one text and another\n" * N + "the end\n").encode()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.csv", TABLE)


def write_hdf5(path: Path, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, **options)


def write_fill_value(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(10**9, 10), dtype="f8", chunks=(1000, 10), fillvalue=1.0)


def write_zarr(path: Path) -> None:
    array = zarr.create_array(path, shape=X.shape, dtype="f8", chunks=X.shape)
    array[...] = X


def write_mat(path: Path) -> None:
    io.savemat(path, {"X": X, "y": np.arange(3)}, do_compression=True)


# The option, the name of the file, and how it is written.
WRITERS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "gzip": ("csv", "x.csv.gz", lambda path: path.write_bytes(gzip.compress(TABLE))),
    "bzip2": ("csv", "x.csv.bz2", lambda path: path.write_bytes(bz2.compress(TABLE))),
    "xz": ("csv", "x.csv.xz", lambda path: path.write_bytes(lzma.compress(TABLE))),
    "zstd": ("csv", "x.csv.zst", lambda path: path.write_bytes(pa.compress(TABLE, "zstd", asbytes=True))),
    "zip": ("csv", "x.zip", write_zip),
    "texts": ("text", "x.txt.gz", lambda path: path.write_bytes(gzip.compress(TEXTS))),
    "parquet": ("parquet", "x.parquet", lambda path: parquet.write_table(COLUMNS, path, compression="zstd")),
    "feather": ("feather", "x.feather", lambda path: feather.write_feather(COLUMNS, path, compression="zstd")),
    "npz": ("npz", "x.npz", lambda path: np.savez_compressed(path, x=X)),
    "sparse": ("npz", "x.npz", lambda path: sparse.save_npz(path, sparse.csr_array(X + 1))),
    "hdf5": ("hdf5", "x.h5", lambda path: write_hdf5(path, compression="gzip")),
    "a fill value": ("hdf5", "x.h5", write_fill_value),
    "mat": ("mat", "x.mat", write_mat),
    "zarr": ("zarr", "x.zarr", write_zarr),
}


def load(option: str, path: Path, *words: str) -> Any:
    return load_dataset(compose(parse([f"data={option}", f"data.path={path}", *words])).config.data)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.thorough
def test_a_file_that_unpacks_to_much_more_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option, name, write = WRITERS[kind]
    path = tmp_path / name
    write(path)
    if kind != "a fill value":
        assert len(load(option, path).X) >= 1  # up to 1 GiB any ratio is accepted
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**12)
    with pytest.raises(UserError) as refused:
        load(option, path, "data.max_expansion=2")
    text = str(refused.value)
    assert text.startswith(f"data.path={path}: ")
    assert "expected at most 2 times their size; if you trust the file, unpack it yourself or raise data.max" in text
    assert "\n" not in text
    if kind != "a fill value":
        assert len(load(option, path, "data.max_expansion=10000").X) >= 1


def test_bytes_are_counted_while_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"0" * 100_000))
    monkeypatch.setattr(unpacking, "FREE_BYTES", 0)
    limit = UnpackingLimit("data.path=x", 10)
    stream = limit.bounded(gzip.GzipFile(path), path)
    assert stream.read(100) == b"0" * 100
    assert stream.tell() == 100
    stream.seek(0)
    buffer = bytearray(50)
    assert stream.readinto(buffer) == 50
    with pytest.raises(UserError, match=r"\d+ bytes that unpack to [\d,]+ bytes or more"):
        while stream.read(1000):
            pass
    stream.close()
    assert UnpackingLimit("x", 10).check_file(10**15, tmp_path / "missing") is None  # type: ignore[func-returns-value]


# --- sizes that a file declares wrongly, or not at all ----------------------------------------------------------------


def write_mat_with_a_wrong_size(path: Path, value: Any) -> None:
    """Write a compressed variable whose outer tag declares 1,000 bytes."""
    plain = path.with_suffix(".plain")
    io.savemat(plain, {"X": value})
    content = plain.read_bytes()
    plain.unlink()
    packed = zlib.compress(content[128:132] + (1000).to_bytes(4, "little") + content[136:])
    path.write_bytes(content[:128] + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed)


CELLS = np.empty((3, 1), object)
CELLS[:, 0] = [np.zeros(2**18)] * 3


@pytest.mark.parametrize("value", [np.zeros((2**18, 2)), sparse.csc_array(np.eye(2**9) + 1), np.zeros((9, 2**15)) + 1j])
def test_the_size_that_a_matlab_variable_declares_is_not_trusted(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mat"
    write_mat_with_a_wrong_size(path, value)
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**20)
    with pytest.raises(UserError, match=r"bytes that unpack to [\d,]+ bytes or more; expected at most 200 times"):
        load("mat", path)


def test_other_matlab_variables_are_counted_only_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mat"
    write_mat_with_a_wrong_size(path, CELLS)
    limit = UnpackingLimit("data.path=x", 1)
    assert mat5.compressed_parts(path, limit) == 1000  # too short to exceed 1 GiB: not unpacked
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**20)
    assert 2**20 < mat5.compressed_parts(path, limit) <= 2**20 + 2**17


def write_hdf5_chunk(path: Path) -> None:
    with h5py.File(path, "w") as file:
        x = file.create_dataset(
            "x", shape=(40, 8), maxshape=(None, 8), dtype="f8", chunks=(100_000, 8), compression="gzip"
        )
        x[...] = np.arange(320.0).reshape(40, 8)


def write_zarr_chunk(path: Path) -> None:
    array = zarr.create_array(path, shape=(40, 8), dtype="f8", chunks=(100_000, 8))
    array[...] = np.arange(320.0).reshape(40, 8)


@pytest.mark.parametrize(("option", "write"), [("hdf5", write_hdf5_chunk), ("zarr", write_zarr_chunk)])
def test_a_chunk_larger_than_its_array_is_refused_by_its_own_size(
    option: str, write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write(path)
    assert load(option, path).X.shape == (40, 8)
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**20)
    with pytest.raises(UserError, match=r"bytes that unpack to 6,400,000 bytes or more"):
        load(option, path)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_feather_batches_are_refused_before_they_are_unpacked(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"a": np.zeros(2**18), "b": pa.array(["a", "b"] * 2**17).dictionary_encode()})
    path, plain = tmp_path / "x.feather", tmp_path / "plain.feather"
    feather.write_feather(table, path, compression=compression, chunksize=2**17)
    feather.write_feather(table, plain, compression="uncompressed")
    assert unpacking.feather_bytes(plain) == 0
    n_bytes = unpacking.feather_bytes(path)
    assert 2**18 * 12 <= n_bytes <= 2**18 * 12 + 1000
    for n in range(0, path.stat().st_size, 97):  # a damaged file is read without an error
        (tmp_path / "cut").write_bytes(path.read_bytes()[:n])
        unpacking.feather_bytes(tmp_path / "cut")
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**20)
    monkeypatch.setattr(ipc.RecordBatchFileReader, "get_batch", None)
    with pytest.raises(UserError, match=f"bytes that unpack to {n_bytes:,} bytes or more"):
        load("feather", path)


@pytest.mark.parametrize("option", ["feather", "parquet"])
def test_values_of_a_dictionary_are_counted_before_they_are_repeated(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = pa.DictionaryArray.from_arrays(np.arange(5_000) % 2, ["x" * 10_000, "y" * 10_000])
    path = tmp_path / "x"
    table = pa.table({"a": np.arange(5_000.0) % 7, "b": text})
    getattr(feather if option == "feather" else parquet, f"write_{'feather' if option == 'feather' else 'table'}")(
        table, path
    )
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**20)
    monkeypatch.setattr(sources.pc, "cast", None)
    with pytest.raises(UserError, match=r"bytes that unpack to [\d,]+ bytes or more"):
        load(option, path)


def write_long_texts(path: Path, **options: Any) -> None:
    """Write 2,000 rows, in row groups of 500, of which the last have two texts of 20,000 characters by turns."""
    texts = [f"text {i % 7}" for i in range(1_500)] + [f"{i % 2}" + "x" * 20_000 for i in range(500)]
    table = pa.table({"a": np.arange(2_000.0) % 7, "text": texts, "some": [{"b": text} for text in texts]})
    parquet.write_table(table, path, compression="zstd", row_group_size=500, **options)


@pytest.mark.parametrize(("option", "column"), [("parquet", "text"), ("text", "text"), ("parquet", "some")])
def test_long_texts_that_parquet_stores_once_are_read_in_small_batches(
    option: str, column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    write_long_texts(path)
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**20)
    sizes: list[int] = []
    read = parquet.ParquetFile.iter_batches

    def iter_batches(*arguments: Any, **options: Any) -> Any:
        for batch in read(*arguments, **options):
            sizes.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", iter_batches)
    if option == "parquet":
        source = sources.open_source(str(path), option, f"data.path={path}", "data.path", Given(), Known(), 200)
        with pytest.raises(UserError, match=r"bytes that unpack to [\d,]+ bytes or more"):
            list(source.batches([column], [], None))
    else:
        assert len(load(option, path, "data.text=text").X) == 2_000
    assert max(sizes) <= 2**20


def test_rows_of_parquet_that_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"

    def n_rows(*columns: str) -> int:
        with parquet.ParquetFile(path) as file:
            return unpacking.parquet_rows(path, file, columns, 2**16)

    write_long_texts(path)
    with monkeypatch.context() as patch:
        patch.setattr(parquet.ParquetFile, "iter_batches", None)
        assert n_rows("a", "text", "some") == 2**16  # 500 rows of 40 kB: nothing is read to see that
    monkeypatch.setattr(unpacking, "FREE_BYTES", 2**20)
    assert n_rows("a") == 2**16
    assert n_rows("text") == n_rows("some") == 2**20 // 20_001
    assert n_rows("text", "some") == 2**20 // 40_002
    write_long_texts(path, use_dictionary=False)
    assert n_rows("text") == 2**16  # the file has each text by itself
    write_long_texts(path, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})
    assert n_rows("text") < 2**20 // 20_001
    parquet.write_table(pa.table({"text": pa.array([b"x" * 2**12] * 9, pa.binary(2**12))}), path)
    assert n_rows("text") == 2**8


def compress_members(content: bytes, *, is_repeated: bool = False) -> bytes:
    """Return the output of ``torch.save`` with compressed members, or with a member that is there many times."""
    buffer = io_.BytesIO()
    method = zipfile.ZIP_STORED if is_repeated else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(io_.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w", method) as changed:
        for info in archive.infolist():
            changed.writestr(info.filename, archive.read(info))
        if is_repeated:
            for i in range(10):
                copy = zipfile.ZipInfo.from_file(__file__, f"copy{i}")
                first = max(changed.infolist(), key=lambda info: info.file_size)
                copy.header_offset, copy.CRC = first.header_offset, first.CRC
                copy.file_size = copy.compress_size = first.file_size
                changed.filelist.append(copy)
    return buffer.getvalue()


@pytest.mark.parametrize("is_repeated", [False, True])
def test_compressed_checkpoints_and_weights_are_refused(is_repeated: bool, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(checkpoints.serialized({"weights": torch.zeros(2**16)}))
    assert checkpoints.read(path)["weights"].shape == (2**16,)
    trailer = b"\ndkm sha256 "
    payload = compress_members(path.read_bytes().rpartition(trailer)[0], is_repeated=is_repeated)
    path.write_bytes(payload + trailer + hashlib.sha256(payload).hexdigest().encode() + b"\n")
    found = "has members that are larger than the file" if is_repeated else "has compressed members"
    with pytest.raises(checkpoints.CheckpointError, match=rf"last.pt: {found}.*; not loaded; expected a checkpoint"):
        checkpoints.read(path)
    path.write_bytes(payload)
    with pytest.raises(UserError, match=rf"cannot be read as weights \({found}.*expected safetensors, or a state dict"):
        _read_state_dict(path, "data.encoder_weights=x")
    torch.save({"weights": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert _read_state_dict(path, "data.encoder_weights=x")["weights"].tolist() == [1, 1]
