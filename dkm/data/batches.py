"""Where batches come from, and in which order: rows on the device, in host memory, or on disk.

The order is a function of the seed, the phase and the epoch, so that a run can go on from the middle of an epoch. Rows
in memory are shuffled as a whole. Rows on disk are shuffled by blocks: an epoch is a sequence of windows of 64 MiB,
each made of blocks that lie anywhere in the data, and the rows of a window are shuffled as a whole. The next window is
read while the network trains on the present one.

With several processes each takes its share of every batch: together they train on the same batches as one would.
"""

# Shapes: N samples, B batch (this rank's share), F input features.

from __future__ import annotations

import hashlib
import math
import struct
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dkm.data.stored import CHUNK_ROWS, StoredRows
from dkm.runtime import distributed
from dkm.runtime.devices import to_device

S = TypeVar("S")
T = TypeVar("T")

_WINDOW_BYTES = 2**26
# Of 1 MiB each, a size that disks read well.
_BLOCKS_PER_WINDOW = 64
# Data that take more than this part of the free memory of a GPU stay in host memory.
_DEVICE_SHARE = 0.5


class Batch(NamedTuple):
    """This rank's share of a batch.

    ``x`` (B, F); ``rows`` (B,), their positions in the data set; both on the device. The share begins at row ``first``
    of the whole batch, which has ``n_rows``.
    """

    x: Tensor
    rows: Tensor
    first: int
    n_rows: int


class Batches(Protocol):
    """The rows of a data set, for training and for passes over all of them."""

    device: torch.device
    n_samples: int
    n_batches: int

    def epoch(self, phase_idx: int, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from number ``first`` on."""

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all rows in their order in chunks of CHUNK_ROWS, this rank's share of them, on the device."""

    def take(self, index: Tensor | None) -> Tensor:
        """Return the rows (M, F) at the positions ``index`` (M,), on the device; None for all of them."""


def build_batches(X: Tensor | StoredRows, batch_size: int, seed: int, device: torch.device) -> Batches:
    """Return what suits the data: on the device if they fit, else in host memory; on disk if they are there."""
    if isinstance(X, StoredRows):
        return DiskBatches(X, batch_size, seed, device)
    if device.type == "cuda" and X.nbytes > _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return MemoryBatches(X, batch_size, seed, device)
    return MemoryBatches(X.to(device), batch_size, seed, device)


class MemoryBatches:
    """Rows in memory, on the device or not; see ``Batches``."""

    def __init__(self, X: Tensor, batch_size: int, seed: int, device: torch.device) -> None:
        self.n_samples = len(X)
        self.n_batches = math.ceil(len(X) / batch_size)
        self._X = X
        self._batch_size = batch_size
        self._seed = seed
        self.device = device

    def epoch(self, phase_idx: int, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        order = batch_indices(len(self._X), self._batch_size, self._seed, phase_idx, epoch)
        shares = [distributed.share(len(index)) for index in order]
        mine = [index[share] for index, share in zip(order, shares, strict=True)]
        there = torch.split(to_device(torch.cat(mine), self.device), [len(rows) for rows in mine])
        is_there = self._X.device.type == self.device.type
        for number in range(first, len(order)):
            rows = there[number]
            x = self._X[rows] if is_there else to_device(self._X[mine[number]], self.device)
            yield Batch(x, rows, shares[number].start, len(order[number]))

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in _chunk_slices(len(self._X)):
            yield rows, to_device(self._X[rows], self.device)

    def take(self, index: Tensor | None) -> Tensor:
        return (self._X if index is None else self._X[index.to(self._X.device)]).to(self.device)


class DiskBatches:
    """Rows on disk; see ``Batches``.

    The rows are cut into blocks, the first ones a row longer than the rest. An epoch deals out the blocks to windows:
    each gets equally many, and of the longer ones as many as the others or one more. So the windows differ by at most
    one row, and so do all batches.
    """

    def __init__(self, X: StoredRows, batch_size: int, seed: int, device: torch.device) -> None:
        N, F = X.shape
        self._X = X
        self._seed = seed
        self.device = device
        self._n_windows = min(N, math.ceil(N * F * 4 / _WINDOW_BYTES))  # float32
        self._n_blocks = min(_BLOCKS_PER_WINDOW, N // self._n_windows)  # of a window
        sizes = [N // self._n_windows + (window < N % self._n_windows) for window in range(self._n_windows)]
        most = math.ceil(sizes[0] / batch_size)
        # Only batches of a single row are fewer in a window that is a row shorter.
        self._batches_of = [min(most, size) for size in sizes]
        self.n_samples = N
        self.n_batches = sum(self._batches_of)

    def epoch(self, phase_idx: int, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        distributed.jointly(self._X.check_unchanged)
        generator = torch.Generator().manual_seed(stream_seed(self._seed, phase_idx, epoch))
        windows = self._deal(generator)
        ends = list(accumulate(self._batches_of))
        skipped = bisect_right(ends, first)
        n_done = first - (ends[skipped - 1] if skipped else 0)

        def read(window: int) -> tuple[Tensor, Tensor]:
            return self._read_blocks(windows[window])

        for window, (rows, position) in enumerate(prefetch(read, range(skipped, self._n_windows)), skipped):
            # A stream apart from those of the augmentation, which end in the number of a batch.
            generator.manual_seed(stream_seed(self._seed, phase_idx, epoch, -1 - window))
            batches = torch.randperm(len(rows), generator=generator).tensor_split(self._batches_of[window])
            for index in batches[n_done:]:
                mine = distributed.share(len(index))
                x, where = rows[index[mine]], position[index[mine]]
                yield Batch(to_device(x, self.device), to_device(where, self.device), mine.start, len(index))
            n_done = 0

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        distributed.jointly(self._X.check_unchanged)
        parts = _chunk_slices(len(self._X))
        at_once = max(1, _WINDOW_BYTES // (CHUNK_ROWS * self._X.shape[1] * 4))
        groups = [parts[i : i + at_once] for i in range(0, len(parts), at_once)]

        def read(group: list[slice]) -> Tensor:
            return self._X.read(group[0].start, group[-1].stop)

        for group, rows in zip(groups, prefetch(read, groups), strict=True):
            for part in group:
                chunk = rows[part.start - group[0].start : part.stop - group[0].start]
                yield part, to_device(chunk, self.device)

    def take(self, index: Tensor | None) -> Tensor:
        rows = self._X.read(0, self.n_samples) if index is None else self._X.take(index.cpu())
        return rows.to(self.device)

    def _deal(self, generator: torch.Generator) -> list[list[int]]:
        """Draw the blocks of each window, in the order in which they are stored."""
        n_longer = self.n_samples % (self._n_windows * self._n_blocks)
        n_shorter = self._n_windows * self._n_blocks - n_longer
        longer = torch.randperm(n_longer, generator=generator).tensor_split(self._n_windows)
        shorter = n_longer + torch.randperm(n_shorter, generator=generator)
        rest = torch.split(shorter, [self._n_blocks - len(blocks) for blocks in longer])
        return [torch.cat(parts).sort().values.tolist() for parts in zip(longer, rest, strict=True)]

    def _read_blocks(self, blocks: list[int]) -> tuple[Tensor, Tensor]:
        """Return the rows of the blocks and their positions in the data set.

        Copied by NumPy: torch would start a second team of threads for the thread that reads, and with more threads
        than cores each parallel operation of the training would wait on the system.
        """
        length, n_longer = divmod(self.n_samples, self._n_windows * self._n_blocks)
        starts = [block * length + min(block, n_longer) for block in blocks]
        bounds = [(start, start + length + (block < n_longer)) for block, start in zip(blocks, starts, strict=True)]
        rows = np.empty((sum(stop - start for start, stop in bounds), self._X.shape[1]), np.float32)
        at = 0
        for start, stop in bounds:
            rows[at : at + stop - start] = self._X.read(start, stop).numpy()
            at += stop - start
        position = np.concatenate([np.arange(start, stop) for start, stop in bounds])
        return torch.from_numpy(rows), torch.from_numpy(position)


def _chunk_slices(n_samples: int) -> list[slice]:
    """Return this rank's chunks: the same ones, and so the same bits, however many ranks there are."""
    starts = range(0, n_samples, CHUNK_ROWS)[distributed.share(math.ceil(n_samples / CHUNK_ROWS))]
    return [slice(start, min(start + CHUNK_ROWS, n_samples)) for start in starts]


def prefetch(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield ``work(item)`` for each item; a thread fetches and computes it while the caller has the one before."""
    remaining = iter(items)

    def following() -> list[T]:
        return [work(item) for item in islice(remaining, 1)]

    pool = ThreadPoolExecutor(max_workers=1)
    try:
        pending: Future[list[T]] = pool.submit(following)
        while done := pending.result():
            pending = pool.submit(following)
            yield from done
    finally:
        pool.shutdown(cancel_futures=True)  # waits for what has begun; nobody wants the rest


def stream_seed(*parts: int) -> int:
    """Mix integers into the seed of a random stream of its own.

    A hash, so that neighboring seeds, phases and epochs give unrelated streams: with ``seed + epoch``, run 1
    would repeat what run 0 drew one epoch later.

    Parameters
    ----------
    *parts : int, signed 64-bit
        For example seed, phase and epoch.

    Returns
    -------
    int, 0 to 2**63 - 1
    """
    digest = hashlib.blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def batch_indices(n_samples: int, batch_size: int, seed: int, phase_idx: int, epoch: int) -> tuple[Tensor, ...]:
    """Draw the batches of an epoch, such that each sample is in exactly one.

    Their sizes differ by at most one. Full batches and a rest would leave 5 of digits' 1,797 samples beside
    7 batches of 256: one very noisy step per epoch.

    Returns
    -------
    tuple of int64 tensors
        ``ceil(n_samples / batch_size)`` of them. Equal arguments give equal batches, whatever was drawn before.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, phase_idx, epoch))
    order = torch.randperm(n_samples, generator=generator)
    return order.tensor_split(math.ceil(n_samples / batch_size))
