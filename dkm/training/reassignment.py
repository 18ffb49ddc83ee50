"""The assignments at the end of a joint epoch; the same on every process."""

# Shapes: N samples, D latent.

from __future__ import annotations

import logging

import torch
from torch import Tensor

from dkm.clustering.losses.base import ClusteringLoss
from dkm.runtime import distributed
from dkm.training.optimizers import reset_rows
from dkm.training.state import Progress

log = logging.getLogger(__name__)


def reassign(clustering: ClusteringLoss, optimizer: torch.optim.Optimizer, z: Tensor, progress: Progress) -> None:
    """Assign all rows, reset the optimizer's state of revived centroids, and note what changed in ``progress``.

    Parameters
    ----------
    clustering : ClusteringLoss
    optimizer : torch.optim.Optimizer
    z : Tensor of shape (N, D)
        The embedding of the unaugmented data, in the precision of the steps, so that the assignments are those that
        the steps would find.
    progress : Progress
    """
    result = clustering.end_epoch(z)
    reset_rows(optimizer, clustering.centroids, result.revived)
    numbers = [result.label_change, result.n_dead, len(result.revived)]
    progress.reassignment = _to_dict(numbers)
    # The first process decides, since which points are nearest or farthest may depend on the hardware. Its state is
    # consistent already: if this finds that a process is gone, it writes a checkpoint.
    shared = torch.tensor(numbers, dtype=torch.float64, device=z.device)
    distributed.broadcast_(shared)
    progress.reassignment = _to_dict(shared.tolist())
    if n_dead := progress.reassignment["n_dead"]:
        clustering.broadcast()
        n_revived = progress.reassignment["n_revived"]
        log.info("joint: epoch %d: %d dead centroids, %d revived", progress.epoch + 1, n_dead, n_revived)


def _to_dict(numbers: list[float]) -> dict[str, float]:
    label_change, n_dead, n_revived = numbers
    return {"label_change": label_change, "n_dead": int(n_dead), "n_revived": int(n_revived)}
