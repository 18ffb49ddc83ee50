"""The cells of a data set that were missing and are filled, in one bit each.

Their reconstruction error does not count. The mask stays in memory also where the rows are on disk: at most 1/32 of the
rows as float32, and features without gaps take nothing.
"""

# Shapes: N samples, F features, G features with gaps, n rows of a part, B rows of a batch.

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.data.stored import CHUNK_ROWS

Mask = npt.NDArray[np.bool_]


class GapMask:
    """A mask (N, F), read row by row: ``mask[index]`` is a bool tensor (B, F) for positions (B,).

    Parameters
    ----------
    bits : uint8 Tensor of shape (N, ceil(G / 8))
        The features with gaps in ``np.packbits`` order.
    features : int64 Tensor of shape (G,)
        The features with gaps, ascending.
    n_features : int
        F.
    """

    def __init__(self, bits: Tensor, features: Tensor, n_features: int) -> None:
        self.bits, self.features, self.n_features = bits, features, n_features
        place = torch.arange(len(features), device=bits.device)
        self._byte, self._bit = place // 8, (128 >> place % 8).to(torch.uint8)

    @classmethod
    def pack(cls, mask: Mask) -> GapMask:
        """Return the mask (N, F) packed."""
        builder = GapMaskBuilder(len(mask), mask.shape[1], np.flatnonzero(mask.any(axis=0)))
        builder.append(mask, len(mask))
        return builder.finish()

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: Tensor) -> Tensor:
        gaps = (self.bits[index][:, self._byte] & self._bit) != 0  # (B, G)
        mask = torch.zeros(len(gaps), self.n_features, dtype=torch.bool, device=gaps.device)
        mask[:, self.features] = gaps
        return mask

    def of_feature(self, feature: int, index: npt.NDArray[np.int64]) -> Mask:
        """Return the mask (B,) of one feature for positions (B,)."""
        places = (self.features == feature).nonzero().flatten()
        if not len(places):
            return np.zeros(len(index), dtype=bool)
        place = int(places[0])
        gaps: Mask = (self.bits[torch.from_numpy(index), place // 8] & (128 >> place % 8)).numpy() != 0
        return gaps

    def any(self) -> bool:
        """Return whether there is any gap."""
        return bool(self.bits.any())

    def to(self, device: torch.device) -> GapMask:
        """Return the mask on a device."""
        return GapMask(self.bits.to(device), self.features.to(device), self.n_features)

    def sha256(self) -> str:
        """Return the SHA-256 of the mask (N, F) with one byte for each cell."""
        digest = hashlib.sha256()
        for index in torch.split(torch.arange(len(self)), CHUNK_ROWS):
            digest.update(self[index].numpy().data)
        return digest.hexdigest()


class GapMaskBuilder:
    """Builds a mask of at most ``n_rows`` rows part by part; ``features`` (G,) are the only ones with gaps."""

    def __init__(self, n_rows: int, n_features: int, features: npt.NDArray[np.int64]) -> None:
        self._bits = np.zeros((n_rows, -(-len(features) // 8)), np.uint8)
        self._features, self._n_features, self._n_rows = features, n_features, 0

    def append(self, mask: Mask, n_rows: int) -> None:
        """Add ``n_rows`` rows (n, F); a mask without size stands for rows without gaps."""
        if mask.size:
            self._bits[self._n_rows : self._n_rows + n_rows] = np.packbits(mask[:, self._features], axis=1)
        self._n_rows += n_rows

    def finish(self) -> GapMask:
        """Return the mask of the rows that were added."""
        bits = torch.from_numpy(self._bits[: self._n_rows])
        return GapMask(bits, torch.from_numpy(self._features), self._n_features)
