"""Random samples of rows, for computations that would be too expensive on all rows.

Every sample is a function of its arguments alone. ``sample_rows`` uses torch's generator and returns sorted rows, for
whole runs. ``draw_rows`` uses NumPy's generator and returns rows in random order, for arrays in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from dkm.data.datasets import Dataset

# Largest sample of rows that stay on disk, in values: 1 GiB as float32.
_STORED_SAMPLE_VALUES = 2**28


def sample_rows(n_samples: int, limit: int) -> Tensor | None:
    """Return the sorted indices of ``limit`` random rows, always the same; None if there are at most ``limit`` rows."""
    import torch

    if n_samples <= limit:
        return None
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(n_samples, generator=generator)[:limit].sort().values


def sample_row_indices(n_samples: int, limit: int) -> npt.NDArray[np.int64]:
    """Return ``sample_rows`` as an array; the indices of all rows if there are at most ``limit``."""
    sample = sample_rows(n_samples, limit)
    indices: npt.NDArray[np.int64] = np.arange(n_samples) if sample is None else sample.numpy()
    return indices


def sample_dataset(data: Dataset, limit: int, *, at_least: int = 1) -> Tensor | None:
    """Return ``sample_rows`` of a data set; rows on disk are limited to 1 GiB, but not below ``at_least`` rows."""
    from dkm.data.stored import StoredRows

    if isinstance(data.X, StoredRows):
        limit = min(limit, max(at_least, _STORED_SAMPLE_VALUES // data.n_features))
    return sample_rows(data.n_samples, limit)


def draw_rows(n_samples: int, limit: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return the indices of at most ``limit`` distinct rows in random order."""
    return np.random.default_rng(seed).choice(n_samples, min(n_samples, limit), replace=False)
