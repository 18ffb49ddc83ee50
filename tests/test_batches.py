"""Batches: each row once per epoch, in an order that depends on seed, phase and epoch, from memory and from disk."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from dkm.data import batches
from dkm.data.batches import Batches, DiskBatches, MemoryBatches, batch_indices, build_batches, prefetch, stream_seed
from dkm.data.files import NpyFiles
from dkm.data.scaling import Scaling
from dkm.data.stored import StoredArray, StoredRows
from dkm.errors import UserError
from dkm.runtime import distributed


@pytest.mark.parametrize(("n_samples", "batch_size"), [(1797, 256), (512, 256), (5, 256), (257, 256), (7, 1), (1, 1)])
def test_batches_cover_every_sample_once_in_nearly_equal_sizes(n_samples: int, batch_size: int) -> None:
    found = batch_indices(n_samples, batch_size, seed=0, phase_idx=0, epoch=0)
    sizes = [len(batch) for batch in found]
    assert len(found) == -(-n_samples // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert sorted(torch.cat(found).tolist()) == list(range(n_samples))


def test_batches_depend_on_seed_phase_and_epoch_and_on_nothing_else() -> None:
    def order(*at: int) -> list[int]:
        torch.manual_seed(len(orders))  # the global stream must not matter
        return torch.cat(batch_indices(100, 32, *at)).tolist()

    orders: list[list[int]] = []
    for at in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)):
        orders.append(order(*at))
        assert order(*at) == orders[-1]
    assert len({tuple(o) for o in orders}) == len(orders)


def test_batches_are_shuffled() -> None:
    order = torch.cat(batch_indices(1000, 100, seed=0, phase_idx=0, epoch=0)).double()
    correlation = torch.corrcoef(torch.stack([order, torch.arange(1000).double()]))[0, 1]
    assert abs(correlation) < 0.1  # the standard deviation of chance is 0.03


def test_stream_seeds_are_fixed_distinct_and_of_63_bits() -> None:
    # A literal, because another mixing would silently change every run.
    assert stream_seed(0, 0, 0) == 1445694884619442965
    seeds = [stream_seed(seed, phase, epoch) for seed in range(20) for phase in range(3) for epoch in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_stream_seed_tells_the_number_of_parts_apart() -> None:
    assert len({stream_seed(), stream_seed(0), stream_seed(0, 0), stream_seed(0, -1)}) == 4


# --- from disk and from memory ------------------------------------------------------------------------------------

CPU = torch.device("cpu")
Build = Callable[..., Batches]


class Rows:
    """Rows in memory behind the face of ``StoredRows``; row i is (i, i, ...). Records what is read."""

    def __init__(self, n_rows: int, n_features: int = 2) -> None:
        self.shape = (n_rows, n_features)
        self.X = torch.arange(n_rows).float()[:, None].repeat(1, n_features)
        self.n_reads = 0
        self.before_read: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self.X)

    def check_unchanged(self) -> None:
        pass

    def read(self, start: int, stop: int) -> torch.Tensor:
        self.before_read()
        assert 0 <= start <= stop <= len(self)
        self.n_reads += 1
        return self.X[start:stop].clone()

    def take(self, index: torch.Tensor) -> torch.Tensor:
        return self.X[index]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return a function that sets the bytes of a window and its number of blocks."""

    def set_sizes(n_bytes: int, n_blocks: int) -> None:
        monkeypatch.setattr(batches, "_WINDOW_BYTES", n_bytes)
        monkeypatch.setattr(batches, "_WINDOW_BATCHES", 0)
        monkeypatch.setattr(batches, "_BLOCKS_PER_WINDOW", n_blocks)

    return set_sizes


def on_disk(rows: Rows, batch_size: int, seed: int = 0) -> DiskBatches:
    return DiskBatches(cast(StoredRows, rows), batch_size, seed, CPU)


def stored(X: np.ndarray, folder: Path, cuts: Sequence[int] = ()) -> StoredRows:
    """Write the array into shards and return its rows as they are read from there."""
    folder.mkdir()
    for number, part in enumerate(np.split(X, cuts)):
        np.save(folder / f"{number}.npy", part)
    return StoredRows(StoredArray(NpyFiles("data.path", str(folder))), Scaling.fit([X], "none", None))


X = np.random.default_rng(0).normal(size=(1003, 3)).astype(np.float32)


@pytest.fixture(params=["memory", "disk"])
def build(
    request: pytest.FixtureRequest, tmp_path: Path, small_windows: Callable[[int, int], None]
) -> Callable[..., Batches]:
    """Return a function that gives the batches of X from memory, or from three shards in ten windows."""
    if request.param == "memory":
        return lambda batch_size=32, seed=0: MemoryBatches(torch.from_numpy(X), batch_size, seed, CPU)
    small_windows(X.nbytes // 10 + 1, 7)
    rows = stored(X, tmp_path / "shards", [400, 401])
    return lambda batch_size=32, seed=0: DiskBatches(rows, batch_size, seed, CPU)


def order_of(source: Batches, phase_idx: int = 0, epoch: int = 0) -> list[int]:
    return torch.cat([batch.rows for batch in source.epoch(phase_idx, epoch)]).tolist()


def test_an_epoch_has_each_row_once_with_its_values(build: Build) -> None:
    source = build()
    found = list(source.epoch(0, 0))
    assert len(found) == source.n_batches
    assert sorted(torch.cat([batch.rows for batch in found]).tolist()) == list(range(1003))
    for batch in found:
        assert torch.equal(batch.x, torch.from_numpy(X)[batch.rows])
        assert (batch.first, batch.n_rows) == (0, len(batch.x))


def test_the_order_depends_on_seed_phase_and_epoch_and_on_nothing_else(build: Build) -> None:
    orders = []
    for seed, phase_idx, epoch in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)):
        torch.manual_seed(len(orders))  # the global stream must not matter
        source = build(seed=seed)
        order_of(source, 7, 7)  # nor what was drawn before
        orders.append(order_of(source, phase_idx, epoch))
        assert order_of(build(seed=seed), phase_idx, epoch) == orders[-1]
    assert len({tuple(order) for order in orders}) == len(orders)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_an_epoch_from_any_batch_on_is_the_rest_of_the_whole_one(batch_size: int, build: Build) -> None:
    source = build(batch_size)
    whole = list(source.epoch(1, 2))
    step = 41 if batch_size == 1 else 1
    for first in [*range(0, len(whole), step), len(whole) - 1, len(whole)]:
        rest = list(source.epoch(1, 2, first=first))
        assert len(rest) == len(whole) - first
        for found, expected in zip(rest, whole[first:], strict=True):
            assert torch.equal(found.rows, expected.rows)
            assert torch.equal(found.x, expected.x)


def test_chunks_are_all_rows_in_order(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 17)
    at = 0
    for rows, x in build().chunks():
        assert (rows.start, rows.stop) == (at, min(at + 17, 1003))
        assert torch.equal(x, torch.from_numpy(X[rows]))
        at = rows.stop
    assert at == 1003


@pytest.mark.parametrize("index", [[], [0], [1002, 0, 5, 5, 401], list(range(1003))], ids=len)
def test_take_returns_the_rows_asked_for(index: list[int], build: Build) -> None:
    assert torch.equal(build().take(torch.tensor(index, dtype=torch.int64)), torch.from_numpy(X[index]))


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_the_ranks_share_each_batch_and_the_chunks(n_ranks: int, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CHUNK_ROWS", 17)
    whole, chunks = list(build().epoch(0, 0)), [rows for rows, _ in build().chunks()]
    monkeypatch.setenv("WORLD_SIZE", str(n_ranks))
    monkeypatch.setattr(distributed, "jointly", lambda action: action())  # there are no other ranks to agree with
    shares, chunks_of = [], []
    for rank in range(n_ranks):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(list(build().epoch(0, 0)))
        chunks_of.append([rows for rows, _ in build().chunks()])
    for parts, expected in zip(zip(*shares, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.rows for part in parts]), expected.rows)
        assert torch.equal(torch.cat([part.x for part in parts]), expected.x)
        assert [part.n_rows for part in parts] == [len(expected.rows)] * n_ranks
        assert [part.first for part in parts] == [sum(len(p.rows) for p in parts[:i]) for i in range(n_ranks)]
    assert [rows for part in chunks_of for rows in part] == chunks


# --- windows ------------------------------------------------------------------------------------------------------


def assert_the_promised_batches(n_rows: int, n_features: int, batch_size: int) -> None:
    source = on_disk(Rows(n_rows, n_features), batch_size)
    found = list(source.epoch(0, 0))
    sizes = [len(batch.rows) for batch in found]
    assert sorted(row for batch in found for row in batch.rows.tolist()) == list(range(n_rows))
    assert len(found) == source.n_batches
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    # What the trainer takes for the rows of the smallest batch.
    assert min(sizes) == n_rows // source.n_batches


# With a byte each row is a window of its own, whose blocks say nothing more.
WINDOWS = [pytest.param(1, n, marks=pytest.mark.slow) if n in (2, 5) else (1, n) for n in (1, 2, 5, 64)]
WINDOWS += [(window_bytes, n_blocks) for window_bytes in (24, 100, 1000) for n_blocks in (1, 2, 5, 64)]


@pytest.mark.parametrize(("window_bytes", "n_blocks"), WINDOWS)
def test_batches_from_disk_differ_by_at_most_a_row_and_are_never_too_large(
    window_bytes: int, n_blocks: int, small_windows: Callable[[int, int], None]
) -> None:
    small_windows(window_bytes, n_blocks)
    for n_rows in (1, 2, 3, 7, 10, 29, 64, 65, 131):
        for batch_size in (1, 2, 3, 8, 30, 256):
            for n_features in (1, 3):
                assert_the_promised_batches(n_rows, n_features, batch_size)


def test_a_row_larger_than_a_window_is_a_window(small_windows: Callable[[int, int], None]) -> None:
    small_windows(100, 4)
    assert_the_promised_batches(n_rows=5, n_features=1000, batch_size=3)


def test_rows_of_a_sorted_file_are_mixed(small_windows: Callable[[int, int], None]) -> None:
    """Ten classes one after the other, in 20 windows of 50 rows: 10 blocks of 5 rows each."""
    small_windows(50 * 2 * 4, 10)
    order, shares = [], []
    for epoch in range(20):
        for batch in on_disk(Rows(1000), batch_size=25).epoch(0, epoch):
            order += batch.rows.tolist()
            shares.append(torch.bincount(batch.rows // 100, minlength=10).max().item() / len(batch.rows))
    place = torch.arange(1000).repeat(20)
    correlation = torch.corrcoef(torch.stack([torch.tensor(order), place]).double())[0, 1]
    assert abs(correlation) < 0.03  # 20,000 pairs in blocks of 5: the standard deviation of chance is 0.016
    # Drawn one by one, the most frequent of 10 classes has 0.21 of 25 rows; blocks of 5 raise that, and 1 is unmixed.
    assert sum(shares) / len(shares) < 0.35


def test_every_block_may_come_into_every_window(small_windows: Callable[[int, int], None]) -> None:
    small_windows(50 * 2 * 4, 10)
    source = on_disk(Rows(1003), batch_size=25)
    assert source._n_windows == 21
    first_windows = [order_of(source, 0, epoch)[:47] for epoch in range(60)]
    counts = torch.bincount(torch.tensor(first_windows).flatten() // 100, minlength=11)[:10].double()
    # 47.8 * 60 rows over ten tenths of the file, five at a time: 281 each, with a standard deviation of 36.
    assert counts.min() > 281 - 4 * 36
    assert counts.max() < 281 + 4 * 36


def test_the_next_window_is_read_while_the_present_one_is_used(small_windows: Callable[[int, int], None]) -> None:
    small_windows(10 * 2 * 4, 5)
    rows = Rows(100)
    n_begun, events = 0, [threading.Event() for _ in range(51)]

    def tell() -> None:
        nonlocal n_begun
        n_begun += 1
        events[n_begun].set()

    rows.before_read = tell
    source = on_disk(rows, batch_size=10)
    epoch = source.epoch(0, 0)
    for window in range(10):
        next(epoch)
        n_wanted = 5 * min(window + 2, 10)  # blocks of this window and of the next
        assert events[n_wanted].wait(timeout=60)
        assert n_begun <= 5 * (window + 2)
    assert next(epoch, None) is None
    assert rows.n_reads == 50


def test_at_most_one_window_is_in_memory_besides_those_in_use(
    small_windows: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one in use, the one read ahead, and at the change of windows for a moment the one after that."""
    small_windows(10 * 2 * 4, 5)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    original, most = DiskBatches._read_blocks, 0

    def counted(self: DiskBatches, blocks: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal most
        rows, position = original(self, blocks)
        alive.add(rows)
        most = max(most, len(alive))
        return rows, position

    monkeypatch.setattr(DiskBatches, "_read_blocks", counted)
    for _ in on_disk(Rows(200), batch_size=3).epoch(0, 0):
        assert len(alive) <= 2
    assert 2 <= most <= 3
    gc.collect()
    assert len(alive) == 0


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("n_taken", [1, 5])
def test_closing_an_epoch_early_ends_its_thread(n_taken: int, small_windows: Callable[[int, int], None]) -> None:
    small_windows(10 * 2 * 4, 5)
    rows = Rows(1000)
    epoch = on_disk(rows, batch_size=5).epoch(0, 0)
    for _ in range(n_taken):
        next(epoch)
    assert len(reading_threads()) == 1
    epoch.close()
    assert reading_threads() == []
    assert rows.n_reads <= 5 * (2 + n_taken // 2)


def test_an_error_in_the_reading_thread_reaches_the_consumer_after_what_was_read_before(
    small_windows: Callable[[int, int], None],
) -> None:
    small_windows(10 * 2 * 4, 5)
    rows, n_tried = Rows(100), 0

    def fail() -> None:
        nonlocal n_tried
        n_tried += 1
        if rows.n_reads >= 13:  # in the third window
            raise UserError("data.path=x: gone")

    rows.before_read = fail
    found = []
    with pytest.raises(UserError, match=r"data\.path=x: gone"):
        for batch in on_disk(rows, batch_size=5).epoch(0, 0):
            found += batch.rows.tolist()
    assert len(found) == 20
    # The window after it was begun at most: nobody waits for the rest.
    assert n_tried <= 15
    assert reading_threads() == []


def test_an_error_while_a_pass_reads_reaches_the_consumer(
    small_windows: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_windows(10 * 2 * 4, 5)
    monkeypatch.setattr(batches, "CHUNK_ROWS", 5)
    rows = Rows(100)

    def fail() -> None:
        if rows.n_reads >= 3:  # two chunks at a time
            raise UserError("data.path=x: gone")

    rows.before_read = fail
    n_rows = 0
    with pytest.raises(UserError, match=r"data\.path=x: gone"):
        for _, x in on_disk(rows, batch_size=5).chunks():
            n_rows += len(x)
    assert n_rows == 30
    assert reading_threads() == []


@pytest.mark.parametrize("use", ["epoch", "chunks"])
def test_files_that_changed_are_refused_before_a_pass(use: str, tmp_path: Path) -> None:
    source = DiskBatches(stored(X, tmp_path / "shards", [500]), 32, 0, CPU)
    with (tmp_path / "shards" / "1.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"shard 1\.npy: changed while it was used"):
        next(iter(source.epoch(0, 0) if use == "epoch" else source.chunks()))


@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_batches", "n_windows"),
    [
        (100_000, 784, 395, 5),  # 64 MiB are 21,400 rows
        (10_000, 8192, 40, 5),  # 64 MiB are 2,048 rows: eight batches
        (10_000, 33_538, 40, 5),
        (10_000, 60_664, 40, 5),
        (10_000, 150_528, 40, 5),
        (100, 150_528, 1, 1),
    ],
)
def test_wide_rows_have_whole_batches(n_rows: int, n_features: int, n_batches: int, n_windows: int) -> None:
    class Wide:
        shape = (n_rows, n_features)

    source = DiskBatches(cast(StoredRows, Wide()), 256, 0, CPU)
    assert (source.n_batches, source._n_windows) == (n_batches, n_windows)


def test_the_data_decide_where_batches_come_from(tmp_path: Path) -> None:
    assert isinstance(build_batches(torch.from_numpy(X), 32, 0, CPU), MemoryBatches)
    assert isinstance(build_batches(stored(X, tmp_path / "shards"), 32, 0, CPU), DiskBatches)


def test_prefetch_fetches_and_computes_in_a_thread_in_order() -> None:
    fetched: list[int] = []

    def items() -> Iterator[int]:
        for item in range(4):
            fetched.append(threading.get_ident())
            yield item

    found = list(prefetch(lambda item: (item * 10, threading.get_ident()), items()))
    assert [value for value, _ in found] == [0, 10, 20, 30]
    assert {ident for _, ident in found} == set(fetched)
    assert threading.get_ident() not in fetched


def test_prefetch_raises_what_fetching_raises() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the file is gone")

    ahead = prefetch(lambda item: item, items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the file is gone"):
        next(ahead)
