"""What one phase trains and how: its objective, its optimizer, and the average of the weights where one is kept."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.clustering import JointClusteringConfig
from dkm.config.groups import GROUPS
from dkm.config.optimizer import OptimizerConfig
from dkm.config.regularization import L2PenaltyConfig
from dkm.config.run import Config, PhaseConfig, PretrainConfig
from dkm.models.autoencoder import Autoencoder
from dkm.models.regularization import l2_penalty, parameter_groups, regularized_parameters
from dkm.runtime import distributed
from dkm.training.objective import LossTerms, Objective
from dkm.training.optimizers import WeightAverage, build_optimizer


class Learner:
    """The learning of one phase.

    Parameters
    ----------
    config : Config
    phase : PhaseConfig
        ``config.pretrain`` or ``config.joint``.
    autoencoder : Autoencoder
    clustering : KMeansClustering
        In the joint phase part of the objective.
    n_batches : int
        Steps of an epoch.
    on_compiled : callable
        Called with the seconds that the first step took, where steps are compiled.

    Attributes
    ----------
    forward : callable
        The objective as a step calls it: gradients averaged over the processes, compiled.
    optimizer : torch.optim.Optimizer
    average : WeightAverage or None
    is_broken : Tensor, scalar
        Not 0 after a loss that was not finite. The optimizer then leaves everything as it is: the update is skipped on
        the device, without the host waiting for each loss.
    """

    def __init__(
        self,
        config: Config,
        phase: PhaseConfig,
        autoencoder: Autoencoder,
        clustering: KMeansClustering,
        *,
        n_batches: int,
        on_compiled: Callable[[float], None],
    ) -> None:
        kind, is_joint = config.regularization, phase is config.joint
        self._centroids = clustering.centroids.detach()
        reconstruction = weight = 1.0
        if is_joint and isinstance(config.clustering, JointClusteringConfig):
            reconstruction, weight = config.clustering.reconstruction, config.clustering.weight
        autoencoder.require_decoder_grad(reconstruction > 0)
        parameters = [p for p in autoencoder.parameters() if p.requires_grad]
        centroids = clustering.centroids if is_joint and clustering.centroids.requires_grad else None
        if centroids is not None:
            parameters.append(centroids)
        self._regularized = regularized_parameters(kind, autoencoder, centroids)
        self._strength: float = getattr(kind, "strength", 0.0)
        is_penalty = isinstance(kind, L2PenaltyConfig) and self._strength > 0
        self._objective = Objective(
            autoencoder,
            clustering if is_joint else None,
            weight=weight,
            reconstruction=reconstruction,
            reduction=config.loss.reduction,
            penalized=self._regularized if is_penalty else (),
            strength=self._strength,
        )
        self.forward = self._wrapped(config.compile, self._centroids.device, on_compiled)
        groups = parameter_groups(kind, parameters, self._regularized)
        self.optimizer = build_optimizer(_optimizer_of(config, phase), groups, phase.lr)
        self.average: WeightAverage | None = None
        if is_joint and config.joint.average_epochs > 0:
            n_steps = max(1.0, config.joint.average_epochs * n_batches)
            everything = [*autoencoder.parameters(), clustering.centroids]
            self.average = WeightAverage(everything, decay=1 - 1 / n_steps)
        self.is_broken = torch.zeros((), device=self._centroids.device)
        self.optimizer.found_inf = self.is_broken  # type: ignore[attr-defined]  # read by fused optimizers

    def _wrapped(
        self, is_compiled: bool, device: torch.device, on_compiled: Callable[[float], None]
    ) -> Callable[..., LossTerms]:
        forward: Callable[..., LossTerms] = self._objective
        if distributed.is_several():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # the new name of broadcast_buffers does something else
                forward = DistributedDataParallel(
                    self._objective,
                    device_ids=[device] if device.type == "cuda" else None,
                    broadcast_buffers=False,  # every rank has the same assignments already
                    gradient_as_bucket_view=True,
                )
        if not is_compiled:
            return forward
        # On a GPU the host would need several times as long to start the kernels of a step as they take.
        is_graph = device.type == "cuda" and not distributed.is_several()
        compiled = torch.compile(forward, mode="reduce-overhead" if is_graph else "default")

        def timed(*batch: Any) -> LossTerms:
            start_s = time.perf_counter()
            terms: LossTerms = compiled(*batch)
            on_compiled(time.perf_counter() - start_s)
            self.forward = compiled
            return terms

        return timed

    # --- a checkpoint's part ---

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs of the learning."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on with what ``state`` returned; a part that is None begins anew."""
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state["average"] is not None:
            self.average.load(state["average"])

    # --- averaged weights ---

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have network and centroids hold their average within the block, where there is one.

        Centroids that the block sets, because they were dead or are means, are set beyond it too.
        """
        if self.average is None:
            yield
            return
        centroids = self._centroids
        is_set, rows = torch.zeros(len(centroids), dtype=torch.bool, device=centroids.device), centroids[:0]
        try:
            with self.average.taken():
                before = centroids.clone()
                try:
                    yield
                finally:
                    is_set = (centroids != before).any(1)
                    rows = centroids[is_set].clone()
        finally:  # also where the block was interrupted after it had set some
            centroids[is_set] = rows

    # --- numbers ---

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradients of all that learns."""
        grads = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return nn.utils.get_total_norm(grads)

    @torch.no_grad()
    def losses(self, terms: Tensor) -> dict[str, float]:
        """Return mean losses, raw and weighted, of the terms (B, 4) of steps; L2 under weight decay is that of now."""
        means = dict(zip(LossTerms._fields, terms.double().mean(0).tolist(), strict=True))
        weights = {"reconstruction": self._objective.reconstruction}
        if self._objective.clustering is not None:
            weights["clustering"] = self._objective.weight
        if self._regularized:
            weights["l2"] = self._strength
            means["l2"] = means["l2"] or l2_penalty(self._regularized).item()
        weighted = {f"loss_weighted/{name}": weight * means[name] for name, weight in weights.items()}
        raw = {f"loss/{name}": means[name] for name in weights}
        return {"loss/total": sum(weighted.values()), **raw, **weighted}


def _optimizer_of(config: Config, phase: PhaseConfig) -> OptimizerConfig:
    own = phase.optimizer if isinstance(phase, PretrainConfig) else None
    return config.optimizer if own is None else GROUPS["optimizer"][own](name=own)
