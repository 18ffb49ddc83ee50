"""Batches of rows on the device, in host memory, or on disk, and their order.

The order is a function of the seed, the phase and the epoch, so that a run can resume in the middle of an epoch. Rows
in memory are shuffled as a whole. Rows on disk are shuffled by blocks: an epoch is a sequence of windows of 64 MiB, or
of eight batches if these are larger, each made of random blocks of the data, and the rows of a window are shuffled as a
whole. A thread reads the next window while the network trains on the current one.

With several processes each takes its share of every batch: together they train on the batches of a single process.
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

# No batch has rows of two windows: in windows of few batches these would be clearly smaller than ``batch_size``.
_WINDOW_BYTES, _WINDOW_BATCHES = 2**26, 8
# Blocks of 1 MiB, a size that disks read efficiently.
_BLOCKS_PER_WINDOW = 64
# Data that take more than this fraction of a GPU's free memory stay in host memory.
_DEVICE_SHARE = 0.5


class Batch(NamedTuple):
    """This rank's share of a batch.

    ``x`` (B, F) and ``rows`` (B,), their positions in the data set, are on the device. The share begins at row
    ``first`` of the whole batch, which has ``n_rows`` rows.
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
        """Yield this rank's share of the chunks of CHUNK_ROWS rows, in order, on the device."""

    def take(self, index: Tensor | None) -> Tensor:
        """Return the rows (M, F) at the positions ``index`` (M,), on the device; None returns all rows."""


def build_batches(X: Tensor | StoredRows, batch_size: int, seed: int, device: torch.device) -> Batches:
    """Build the batches: on disk if the data are stored there, else on the device if they fit, else in host memory."""
    if isinstance(X, StoredRows):
        return DiskBatches(X, batch_size, seed, device)
    if device.type == "cuda" and X.nbytes > _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return MemoryBatches(X, batch_size, seed, device)
    return MemoryBatches(X.to(device), batch_size, seed, device)


class MemoryBatches:
    """Batches of rows in memory, of the device or the host; see ``Batches``."""

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
        local = [index[share] for index, share in zip(order, shares, strict=True)]
        on_device = torch.split(to_device(torch.cat(local), self.device), [len(rows) for rows in local])
        is_on_device = self._X.device.type == self.device.type
        for number in range(first, len(order)):
            rows = on_device[number]
            x = self._X[rows] if is_on_device else to_device(self._X[local[number]], self.device)
            yield Batch(x, rows, shares[number].start, len(order[number]))

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in _chunk_slices(len(self._X)):
            yield rows, to_device(self._X[rows], self.device)

    def take(self, index: Tensor | None) -> Tensor:
        return (self._X if index is None else self._X[index.to(self._X.device)]).to(self.device)


class DiskBatches:
    """Batches of rows on disk; see ``Batches``.

    The rows are split into blocks; the first blocks are one row longer than the rest. An epoch assigns the same number
    of blocks to each window, and spreads the longer ones evenly, so that window sizes differ by at most one row, and so
    do batch sizes.
    """

    def __init__(self, X: StoredRows, batch_size: int, seed: int, device: torch.device) -> None:
        N, F = X.shape
        self._X = X
        self._seed = seed
        self.device = device
        row_bytes = 4 * F  # of float32
        window_bytes = max(_WINDOW_BYTES, _WINDOW_BATCHES * batch_size * row_bytes)
        self._n_windows = min(N, math.ceil(N * row_bytes / window_bytes))
        self._n_blocks = min(_BLOCKS_PER_WINDOW, N // self._n_windows)  # per window
        sizes = [N // self._n_windows + (window < N % self._n_windows) for window in range(self._n_windows)]
        largest = math.ceil(sizes[0] / batch_size)
        # A window that is one row shorter has fewer batches only if they have a single row.
        self._n_batches_of = [min(largest, size) for size in sizes]
        self.n_samples = N
        self.n_batches = sum(self._n_batches_of)

    def epoch(self, phase_idx: int, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        distributed.jointly(self._X.check_unchanged)
        generator = torch.Generator().manual_seed(stream_seed(self._seed, phase_idx, epoch))
        windows = self._deal(generator)
        ends = list(accumulate(self._n_batches_of))
        skipped = bisect_right(ends, first)
        n_done = first - (ends[skipped - 1] if skipped else 0)

        def read(window: int) -> tuple[Tensor, Tensor]:
            return self._read_blocks(windows[window])

        for window, (rows, position) in enumerate(prefetch(read, range(skipped, self._n_windows)), skipped):
            # Negative, so that the stream differs from those of the augmentation, which end in a batch number.
            generator.manual_seed(stream_seed(self._seed, phase_idx, epoch, -1 - window))
            batches = torch.randperm(len(rows), generator=generator).tensor_split(self._n_batches_of[window])
            for index in batches[n_done:]:
                share = distributed.share(len(index))
                x, x_position = rows[index[share]], position[index[share]]
                yield Batch(to_device(x, self.device), to_device(x_position, self.device), share.start, len(index))
            n_done = 0

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        distributed.jointly(self._X.check_unchanged)
        parts = _chunk_slices(len(self._X))
        group_size = max(1, _WINDOW_BYTES // (CHUNK_ROWS * self._X.shape[1] * 4))
        groups = [parts[i : i + group_size] for i in range(0, len(parts), group_size)]

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
        """Draw the blocks of each window; within a window they are in storage order."""
        n_longer = self.n_samples % (self._n_windows * self._n_blocks)
        n_shorter = self._n_windows * self._n_blocks - n_longer
        longer = torch.randperm(n_longer, generator=generator).tensor_split(self._n_windows)
        shorter = n_longer + torch.randperm(n_shorter, generator=generator)
        rest = torch.split(shorter, [self._n_blocks - len(blocks) for blocks in longer])
        return [torch.cat(parts).sort().values.tolist() for parts in zip(longer, rest, strict=True)]

    def _read_blocks(self, blocks: list[int]) -> tuple[Tensor, Tensor]:
        """Return the rows of the blocks and their positions in the data set.

        NumPy copies them: torch would start a second thread pool for the reading thread, and with more threads than
        cores each parallel operation of the training would be delayed.
        """
        length, n_longer = divmod(self.n_samples, self._n_windows * self._n_blocks)
        starts = [block * length + min(block, n_longer) for block in blocks]
        bounds = [(start, start + length + (block < n_longer)) for block, start in zip(blocks, starts, strict=True)]
        rows = np.empty((sum(stop - start for start, stop in bounds), self._X.shape[1]), np.float32)
        offset = 0
        for start, stop in bounds:
            rows[offset : offset + stop - start] = self._X.read(start, stop).numpy()
            offset += stop - start
        position = np.concatenate([np.arange(start, stop) for start, stop in bounds])
        return torch.from_numpy(rows), torch.from_numpy(position)


def _chunk_slices(n_samples: int) -> list[slice]:
    """Return this rank's chunks. They are cut alike for any number of ranks, so results are bit for bit equal."""
    starts = range(0, n_samples, CHUNK_ROWS)[distributed.share(math.ceil(n_samples / CHUNK_ROWS))]
    return [slice(start, min(start + CHUNK_ROWS, n_samples)) for start in starts]


def prefetch(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield ``work(item)`` for each item; a thread computes the next one while the caller uses the current one."""
    remaining = iter(items)

    def compute_next() -> list[T]:
        return [work(item) for item in islice(remaining, 1)]

    pool = ThreadPoolExecutor(max_workers=1)
    try:
        pending: Future[list[T]] = pool.submit(compute_next)
        while done := pending.result():
            pending = pool.submit(compute_next)
            yield from done
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the running call


def stream_seed(*parts: int) -> int:
    """Hash integers to the seed of an independent random stream.

    Neighboring seeds, phases and epochs give unrelated streams. With ``seed + epoch``, epoch 0 of seed 1 would repeat
    epoch 1 of seed 0.

    Parameters
    ----------
    *parts : int, signed 64-bit
        The parts that identify the stream, for example seed, phase and epoch.

    Returns
    -------
    int, 0 to 2**63 - 1
    """
    digest = hashlib.blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def batch_indices(n_samples: int, batch_size: int, seed: int, phase_idx: int, epoch: int) -> tuple[Tensor, ...]:
    """Draw the batches of an epoch: a random partition of the samples.

    Batch sizes differ by at most one. Full batches and a remainder would give 7 batches of 256 and one of 5 for the
    1,797 samples of digits: one very noisy step per epoch.

    Returns
    -------
    tuple of int64 tensors
        ``ceil(n_samples / batch_size)`` tensors of sample indices. Equal arguments give equal batches.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, phase_idx, epoch))
    order = torch.randperm(n_samples, generator=generator)
    return order.tensor_split(math.ceil(n_samples / batch_size))
