"""Rows on disk: the bits and the SHA-256 that they have in memory, however they are cut into files; changed files."""

from __future__ import annotations

import os
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dkm.data.scaling
import dkm.data.stored
from dkm.config.data import NpyData
from dkm.data.datasets import load_dataset
from dkm.data.files import NpyFiles
from dkm.data.scaling import Scaling, to_rows
from dkm.data.stored import StoredArray, StoredRows
from dkm.errors import UserError

N = 50
DTYPES = ("u1", "i8", "f4", "f8", ">f4", "?")
SCALINGS = ("none", "unit", "symmetric", "rms", "standard", "centered", "l2", "row_rms")
# Row shapes: a table, and images as (H, W), (C, H, W) and (H, W, C).
ROWS = ((7,), (4, 5), (3, 4, 5), (4, 5, 3))


def random_array(dtype: str, *shape: int) -> Any:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2 if dtype == "?" else 200, size=shape)
    return (values + generator.random(shape) * ("f" in dtype)).astype(dtype)


def write_file(path: Path, array: Any) -> str:
    np.save(path.with_suffix(".npy"), array)
    return str(path.with_suffix(".npy"))


def write_shards(path: Path, array: Any, ends: Sequence[int] = (1, 1, 20, 33)) -> str:
    """Write a folder of shards that end behind these rows; the second is empty."""
    path.mkdir()
    for number, part in enumerate(np.split(array, ends)):
        np.save(path / f"part-{number:02d}.npy", part)
    (path / "README.txt").write_text("not a shard")
    return str(path)


def stored(path: str) -> StoredArray:
    return StoredArray(NpyFiles("data.path", path))


def rows_of(path: str, n_features: int) -> StoredRows:
    return StoredRows(stored(path), Scaling("none", n_features))


WRITERS = pytest.mark.parametrize("write", [write_file, write_shards])


# --- the same as in memory ----------------------------------------------------------------------------------


def assert_same_everywhere(array: Any, tmp_path: Path, **settings: Any) -> None:
    """Load an array from a file and from shards, into memory and from disk, and compare."""
    file, shards = write_file(tmp_path / "x", array), write_shards(tmp_path / "x", array)
    expected = load_dataset(NpyData(path=file, load="memory", **settings))
    assert isinstance(expected.X, torch.Tensor)
    for path, load in ((shards, "memory"), (file, "disk"), (shards, "disk")):
        data = load_dataset(NpyData(path=path, load=load, **settings))
        assert data.scaling == expected.scaling
        assert (data.sha256, data.image_shape) == (expected.sha256, expected.image_shape)
        assert (data.n_samples, data.n_features) == expected.X.shape
        X = data.X if isinstance(data.X, torch.Tensor) else data.X.read(0, len(array))
        assert X.dtype == torch.float32
        assert X.numpy().tobytes() == expected.X.numpy().tobytes()
        if isinstance(data.X, StoredRows):
            index = torch.randperm(len(array), generator=torch.Generator().manual_seed(0))
            assert data.X.take(index).numpy().tobytes() == expected.X[index].numpy().tobytes()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_on_disk_are_those_in_memory_to_the_bit(
    dtype: str, scaling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dkm.data.scaling, "_CHUNK_VALUES", 7 * 8)  # 8 rows, so chunks do not end where shards do
    monkeypatch.setattr(dkm.data.scaling, "_PIECE_VALUES", 7 * 3)
    assert_same_everywhere(random_array(dtype, N, 7), tmp_path, scaling=scaling)


@pytest.mark.parametrize("scaling", [None, "counts"])
def test_counts_on_disk_are_those_in_memory_to_the_bit(
    scaling: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dkm.data.scaling, "_CHUNK_VALUES", 110 * 8)
    X = np.random.default_rng(0).poisson(np.random.default_rng(1).lognormal(-2, 1.5, 110), (N, 110))
    assert_same_everywhere(X.astype(np.uint16), tmp_path, scaling=scaling)


@pytest.mark.parametrize("row_shape", ROWS)
def test_images_on_disk_are_those_in_memory_to_the_bit(row_shape: tuple[int, ...], tmp_path: Path) -> None:
    assert_same_everywhere(random_array("u1", N, *row_shape), tmp_path)


def test_labels_are_in_the_sha256_and_scored_as_in_memory(tmp_path: Path) -> None:
    labels = write_file(tmp_path / "y", np.arange(N) % 3)
    assert_same_everywhere(random_array("f4", N, 7), tmp_path, labels=labels)
    data = load_dataset(NpyData(path=str(tmp_path / "x"), load="disk", labels=labels))
    assert data.y is not None
    assert data.y.tolist() == [i % 3 for i in range(N)]


def test_a_trained_scaling_is_applied_to_rows_on_disk(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x", np.full((3, 2), 22.0))  # constant, which only training refuses
    scaling = Scaling("unit", 2, (0.0,), (11.0,))
    data = load_dataset(NpyData(path=path, load="disk"), scaling=scaling)
    assert isinstance(data.X, StoredRows)
    assert data.X.read(0, 3).tolist() == [[2.0, 2.0]] * 3
    assert data.scaling is scaling


@pytest.mark.parametrize("load", ["memory", "disk"])
def test_shards_are_joined_in_the_natural_order_of_their_names(load: str, tmp_path: Path) -> None:
    for name, value in (("b", 1), ("10", -1), ("a", 0), ("2", -0.5)):
        np.save(tmp_path / f"{name}.npy", np.full((1, 1), float(value)))
    np.save(tmp_path / ".hidden.npy", np.full((1, 1), np.nan))
    data = load_dataset(NpyData(path=str(tmp_path), load=load, scaling="none"))
    X = data.X if isinstance(data.X, torch.Tensor) else data.X.read(0, 4)
    assert X.ravel().tolist() == [-0.5, -1, 0, 1]


@pytest.mark.parametrize("n_rows", [2**20, 2**20 + 1])
def test_auto_leaves_more_than_a_gibibyte_of_float32_on_disk(n_rows: int, tmp_path: Path) -> None:
    """Whatever the dtype in the file. Only headers are written: which of the two paths misses the values?"""
    for name, dtype in (("a", "u1"), ("b", "f2")):
        with (tmp_path / f"{name}.npy").open("wb") as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (n_rows, 256)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
        with pytest.raises(UserError) as caught:
            load_dataset(NpyData(path=str(tmp_path / f"{name}.npy")))
        assert ("but its header promises" in str(caught.value)) == (n_rows > 2**20)


# --- reading ------------------------------------------------------------------------------------------------


@WRITERS
def test_any_range_of_rows_is_read_across_shards(write: Callable[..., str], tmp_path: Path) -> None:
    array = random_array("i8", N, 2, 3)
    files = stored(write(tmp_path / "x", array))
    assert (files.dtype, files.shape, files.ndim, files.size, len(files)) == (np.int64, (N, 2, 3), 3, N * 6, N)
    for start in range(N + 1):
        for stop in range(start, N + 1):
            np.testing.assert_array_equal(files.read(start, stop), array[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, N + 1), (N + 1, N + 1)])
def test_rows_that_are_not_there_are_refused(start: int, stop: int, tmp_path: Path) -> None:
    with pytest.raises(IndexError, match=rf"rows {start} to {stop}: expected an ascending range within 0 to {N}"):
        stored(write_file(tmp_path / "x", np.zeros((N, 2)))).read(start, stop)


@WRITERS
@pytest.mark.parametrize("gap_bytes", [0, 8, 40, 2**13])
@pytest.mark.parametrize("piece_bytes", [1, 100, 2**25])
def test_rows_are_taken_in_any_order_and_more_than_once(
    write: Callable[..., str], gap_bytes: int, piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dkm.data.stored, "_GAP_BYTES", gap_bytes)
    monkeypatch.setattr(dkm.data.stored, "_PIECE_BYTES", piece_bytes)
    array = random_array("f4", N, 2)
    rows = rows_of(write(tmp_path / "x", array), 2)
    generator = torch.Generator().manual_seed(0)
    for n in (0, 1, 2, 10, 49, 200):
        index = torch.randint(N, (n,), generator=generator)
        assert torch.equal(rows.take(index), torch.from_numpy(array[index.numpy()]))
    assert torch.equal(rows.take(torch.arange(N).flip(0)), torch.from_numpy(array).flip(0))


@pytest.mark.parametrize("index", [[-1], [0, N], [3, 2**40]])
def test_taking_rows_that_are_not_there_is_refused(index: list[int], tmp_path: Path) -> None:
    rows = rows_of(write_file(tmp_path / "x", np.zeros((N, 2))), 2)
    with pytest.raises(IndexError, match=rf"rows {min(index)} to {max(index)}: expected rows within 0 to {N - 1}"):
        rows.take(torch.tensor(index))


@pytest.mark.parametrize("row_shape", ROWS)
def test_no_rows_are_a_matrix_without_rows(row_shape: tuple[int, ...], tmp_path: Path) -> None:
    F = int(np.prod(row_shape))
    rows = rows_of(write_shards(tmp_path / "x", np.zeros((N, *row_shape))), F)
    assert (len(rows), rows.shape) == (N, (N, F))
    for empty in (rows.read(20, 20), rows.read(0, 0), rows.read(N, N), rows.take(torch.empty(0, dtype=torch.int64))):
        assert (empty.shape, empty.dtype) == ((0, F), torch.float32)


def test_neighbors_are_read_together_and_far_rows_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dkm.data.stored, "_GAP_BYTES", 16)  # of two rows
    rows, ranges = rows_of(write_file(tmp_path / "x", np.zeros((N, 1))), 1), []
    read = StoredArray._read_runs

    def spy(array: StoredArray, starts: Any, stops: Any) -> Any:
        ranges.extend(zip(starts.tolist(), stops.tolist(), strict=True))
        return read(array, starts, stops)

    monkeypatch.setattr(StoredArray, "_read_runs", spy)
    rows.take(torch.tensor([30, 1, 4, 2, 2, 8, 31, 49]))
    assert ranges == [(1, 5), (8, 9), (30, 32), (49, 50)]


def test_several_threads_read_at_once(tmp_path: Path) -> None:
    array = random_array("f4", 2000, 5)
    rows = rows_of(write_shards(tmp_path / "x", array, ends=range(50, 2000, 50)), 5)

    def is_right(seed: int) -> bool:
        index = torch.randint(2000, (300,), generator=torch.Generator().manual_seed(seed))
        start = int(index[0])
        read, taken = rows.read(start, min(start + 120, 2000)), rows.take(index)
        return bool((read.numpy() == array[start : start + 120]).all() and (taken.numpy() == array[index]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(200)))


class ShortReads:
    """A file that returns at most 5 bytes at a time, as the system may for requests of more than 2 GiB."""

    def __init__(self, file: Any) -> None:
        self.file, self.seek = file, file.seek

    def __enter__(self) -> ShortReads:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def readinto(self, target: memoryview) -> int:
        return int(self.file.readinto(target[:5]))


def test_a_read_that_returns_less_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = random_array("f8", N, 3)
    files = stored(write_shards(tmp_path / "x", array))
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda *args, **keywords: ShortReads(original(*args, **keywords)))
    np.testing.assert_array_equal(files.read(0, N), array)


# --- memory -------------------------------------------------------------------------------------------------


@WRITERS
def test_loading_takes_memory_for_chunks_and_not_for_the_array(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x", np.random.default_rng(0).random((2**17, 64)))  # 64 MiB
    monkeypatch.setattr(dkm.data.scaling, "_CHUNK_VALUES", 2**16)  # 512 KiB
    config = NpyData(path=path, load="disk", scaling="standard")
    load_dataset(config)  # what is imported and cached on the way is not counted
    tracemalloc.start()
    data = load_dataset(config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(data.X, StoredRows)
    # Measured 1.6 MiB: the chunk, its copy in float64, and temporary arrays.
    assert peak < 4 * 2**20


def test_taking_rows_takes_memory_for_them_and_for_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dkm.data.stored, "_PIECE_BYTES", 2**20)
    rows = rows_of(write_file(tmp_path / "x", np.zeros((2**17, 64))), 64)
    index = torch.arange(0, 2**17, 16)  # all are near enough to be read together: the whole 64 MiB
    tracemalloc.start()
    rows.take(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20  # measured 1.2 MiB, without the rows themselves, which are torch's


# --- files that change --------------------------------------------------------------------------------------


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith("; expected the same file to the end; restore it and continue with resume=RUN")
    return text


def target_of(path: str) -> tuple[Path, str]:
    """Return the file to change, and how a message about it begins."""
    file = Path(path)
    if file.is_dir():
        return file / "part-02.npy", f"data.path={path}: shard part-02.npy: "
    return file, f"data.path={path}: "


@WRITERS
def test_unchanged_files_pass(write: Callable[..., str], tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "x", random_array("f8", N, 3)), 3)
    rows.read(0, N)
    rows.check_unchanged()


@WRITERS
def test_a_file_that_became_shorter_is_reported_by_the_check_and_by_reading(
    write: Callable[..., str], tmp_path: Path
) -> None:
    path = write(tmp_path / "x", random_array("f8", N, 3))
    rows = rows_of(path, 3)
    file, source = target_of(path)
    size = file.stat().st_size
    os.truncate(file, size - 1)
    for act in (rows.check_unchanged, lambda: rows.read(0, N), lambda: rows.take(torch.arange(N))):
        text = refusal(act)
        assert text.startswith(f"{source}changed while it was used ({size - 1:,} bytes of 2")
        assert f"; at first {size:,} bytes of 2" in text
    rows.read(0, 1)  # which is still there


@WRITERS
def test_a_file_that_grew_is_reported(write: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "x", random_array("f8", N, 3))
    rows = rows_of(path, 3)
    file, source = target_of(path)
    with file.open("ab") as end:
        end.write(b"0")
    assert refusal(rows.check_unchanged).startswith(f"{source}changed while it was used (")


@WRITERS
def test_a_file_of_the_same_size_that_was_written_again_is_reported(write: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "x", random_array("f8", N, 3))
    rows = rows_of(path, 3)
    file, source = target_of(path)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1000))
    assert refusal(rows.check_unchanged).startswith(f"{source}changed while it was used (")


@WRITERS
def test_a_file_that_is_gone_is_reported(write: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "x", random_array("f8", N, 3))
    rows = rows_of(path, 3)
    file, source = target_of(path)
    file.unlink()
    for act in (rows.check_unchanged, lambda: rows.read(0, N)):
        assert refusal(act).startswith(f"{source}cannot be read any more (No such file or directory)")


@WRITERS
def test_a_file_shorter_than_its_header_says_is_refused_at_once(write: Callable[..., str], tmp_path: Path) -> None:
    path = write(tmp_path / "x", random_array("f8", N, 3))
    file, source = target_of(path)
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(UserError) as caught:
        stored(path)
    found = f"cannot be read ({size - 1:,} bytes, but its header promises {size:,})"
    assert str(caught.value) == f"{source}{found}; expected a complete file; write or copy it again"


def test_a_damaged_header_is_refused_or_harmless(tmp_path: Path) -> None:
    """Any byte may be wrong; what is still data has the rows that NumPy reads."""
    path = Path(write_file(tmp_path / "x", random_array("f8", N, 3)))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    n_refused = 0
    for position in [*range(10, 90)] * 3:
        damaged = bytearray(content)
        damaged[position] = generator.integers(32, 127)
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of NumPy and of the parser, about the damage
                data = load_dataset(NpyData(path=str(path), load="disk", scaling="none"))
                expected = np.load(path)
        except UserError:
            n_refused += 1
            continue
        assert isinstance(data.X, StoredRows)
        rows = to_rows(expected).astype(np.float64).astype(np.float32)
        np.testing.assert_array_equal(data.X.read(0, len(data.X)).numpy(), rows)
    assert n_refused > 100


# --- Fortran order ------------------------------------------------------------------------------------------


@WRITERS
def test_fortran_order_is_refused_on_disk_and_read_into_memory(write: Callable[..., str], tmp_path: Path) -> None:
    array = random_array("f8", N, 3)
    path = write(tmp_path / "x", np.asfortranarray(array))
    if Path(path).is_dir():  # np.split leaves only copies of whole columns in Fortran order
        file = target_of(path)[0]
        np.save(file, np.asfortranarray(np.load(file)))
    with pytest.raises(
        UserError, match=r"Fortran order, .*; expected C order; save np.ascontiguousarray\(X\), or set "
    ):
        load_dataset(NpyData(path=path, load="disk"))
    data = load_dataset(NpyData(path=path, load="memory", scaling="none"))
    assert isinstance(data.X, torch.Tensor)
    np.testing.assert_array_equal(data.X.numpy(), array.astype(np.float32))


@pytest.mark.parametrize("shape", [(N, 1), (1, N), (1, 1, N)])
def test_fortran_order_that_is_also_c_order_is_read(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = random_array("f8", *shape)
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": True, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
        file.write(array.tobytes())
    np.testing.assert_array_equal(stored(str(tmp_path / "x.npy")).read(0, shape[0]), array)
