"""One training phase: its objective, its optimizer, and the optional average of its weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dkm.clustering.losses.base import ClusteringLoss
from dkm.config.clustering import JointClusteringConfig
from dkm.config.groups import GROUPS
from dkm.config.optimizer import OptimizerConfig
from dkm.config.regularization import L2PenaltyConfig
from dkm.config.run import Config, PhaseConfig, PretrainConfig
from dkm.data.gaps import GapMask
from dkm.models.autoencoder import Autoencoder
from dkm.models.regularization import l2_penalty, parameter_groups, regularized_parameters
from dkm.runtime import distributed
from dkm.training.objective import LossTerms, Objective
from dkm.training.optimizers import WeightAverage, build_optimizer


class Phase:
    """Objective, optimizer and weight average of one training phase.

    Parameters
    ----------
    config : Config
    settings : PhaseConfig
        ``config.pretrain`` or ``config.joint``.
    autoencoder : Autoencoder
    clustering : ClusteringLoss
        Clustering loss, part of the objective in the joint phase.
    n_batches : int
        Number of steps per epoch.
    on_compiled : callable
        Called with the seconds of the first step if steps are compiled.
    filled : GapMask (N, F), optional
        Cells that were missing; see ``Objective``.
    targets : Tensor of shape (N, D), optional
        The neighbor embedding of the rows, in a pretraining with ``pretrain.neighbor_weight``.

    Attributes
    ----------
    forward : callable
        The objective that a step calls, compiled if configured, with gradients averaged over the processes.
    optimizer : torch.optim.Optimizer
    average : WeightAverage or None
    is_broken : Tensor, scalar
        Nonzero after a non-finite loss. The fused optimizer then skips the update on the device, so the host need not
        wait for each loss.
    """

    def __init__(
        self,
        config: Config,
        settings: PhaseConfig,
        autoencoder: Autoencoder,
        clustering: ClusteringLoss,
        *,
        n_batches: int,
        on_compiled: Callable[[float], None],
        filled: GapMask | None = None,
        targets: Tensor | None = None,
    ) -> None:
        regularization, is_joint = config.regularization, settings is config.joint
        self._centroids = clustering.centroids.detach()
        reconstruction_weight = clustering_weight = 1.0
        if is_joint and isinstance(config.clustering, JointClusteringConfig):
            reconstruction_weight, clustering_weight = config.clustering.reconstruction, config.clustering.weight
        autoencoder.require_decoder_grad(reconstruction_weight > 0)
        parameters = [p for p in autoencoder.parameters() if p.requires_grad]
        centroids = clustering.centroids if is_joint and clustering.centroids.requires_grad else None
        if is_joint:  # centroids, and what a loss of the user's own has beside them
            parameters += [p for p in clustering.parameters() if p.requires_grad]
        chosen = regularized_parameters(regularization, autoencoder, centroids)
        self._regularized = [p for p in chosen if p.requires_grad]  # excludes a frozen decoder
        self._l2_strength: float = getattr(regularization, "strength", 0.0)
        is_penalty = isinstance(regularization, L2PenaltyConfig) and self._l2_strength > 0
        self._objective = Objective(
            autoencoder,
            clustering if is_joint else None,
            clustering_weight=clustering_weight,
            reconstruction_weight=reconstruction_weight,
            reduction=config.loss.reduction,
            penalized=self._regularized if is_penalty else (),
            l2_strength=self._l2_strength,
            filled=filled,
            targets=targets,
            target_weight=config.pretrain.neighbor_weight,
        )
        self.forward = self._wrap(config.compile, self._centroids.device, on_compiled)
        groups = parameter_groups(regularization, parameters, self._regularized)
        self.optimizer = build_optimizer(_optimizer_config(config, settings), groups, settings.lr)
        self.average: WeightAverage | None = None
        if is_joint and config.joint.average_epochs > 0:
            n_steps = max(1.0, config.joint.average_epochs * n_batches)
            # With the buffers, such as the running statistics of batch norm, which belong to the weights.
            buffers = [buffer for buffer in autoencoder.buffers() if buffer.is_floating_point()]
            everything = [*autoencoder.parameters(), *clustering.parameters(), *buffers]
            self.average = WeightAverage(everything, decay=1 - 1 / n_steps)
        self.is_broken = torch.zeros((), device=self._centroids.device)
        self.optimizer.found_inf = self.is_broken  # type: ignore[attr-defined]  # read by fused optimizers

    def _wrap(
        self, is_compiled: bool, device: torch.device, on_compiled: Callable[[float], None]
    ) -> Callable[..., LossTerms]:
        forward: Callable[..., LossTerms] = self._objective
        if distributed.is_several():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers: its replacement differs
                forward = DistributedDataParallel(
                    self._objective,
                    device_ids=[device] if device.type == "cuda" else None,
                    process_group=distributed.current_group(),
                    # Every rank has the same assignments already; those of the network see `distributed.share_buffers`.
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
        if not is_compiled:
            return forward
        # CUDA graphs, because launching the kernels of a step takes several times as long as running them.
        is_graph = device.type == "cuda" and not distributed.is_several()
        compiled = torch.compile(forward, mode="reduce-overhead" if is_graph else "default")

        def timed(*batch: Any) -> LossTerms:
            start_s = time.perf_counter()
            terms: LossTerms = compiled(*batch)
            on_compiled(time.perf_counter() - start_s)
            self.forward = compiled
            return terms

        return timed

    # --- checkpoint ---

    def state(self) -> dict[str, Any]:
        """Return the state of the phase for a checkpoint."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Load a state returned by ``state``; a part that is None keeps its initial value.

        Raises
        ------
        KeyError, RuntimeError, ValueError
            If it is that of another phase.
        """
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            for parameter, moments in self.optimizer.state.items():
                shapes = {value.shape for value in moments.values() if isinstance(value, Tensor) and value.dim() > 0}
                if shapes - {parameter.shape}:
                    raise ValueError("optimizer: a state of another shape than its parameter")
        if self.average is not None and state["average"] is not None:
            self.average.load(state["average"])

    # --- averaged weights ---

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap in the averaged weights, if there are any; swap back on exit.

        Centroids that the block changes (revived centroids, closed-form means) keep their new values after it.
        """
        if self.average is None:
            yield
            return
        centroids = self._centroids
        is_changed, rows = torch.zeros(len(centroids), dtype=torch.bool, device=centroids.device), centroids[:0]
        try:
            with self.average.swapped_in():
                before = centroids.clone()
                try:
                    yield
                finally:
                    is_changed = (centroids != before).any(1)
                    rows = centroids[is_changed].clone()
        finally:  # also after an interrupt in the block
            centroids[is_changed] = rows

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
        """Return the total norm of the gradients of all parameters of the optimizer."""
        grads = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return nn.utils.get_total_norm(grads)

    @torch.no_grad()
    def losses(self, terms: Tensor) -> dict[str, float]:
        """Return the raw and weighted losses of an epoch by their keys in ``metrics.jsonl``.

        Parameters
        ----------
        terms : Tensor of shape (n_steps, 5)
            Loss terms of the steps. Under weight decay they lack L2, which is computed from the current weights.
        """
        means = dict(zip(LossTerms._fields, terms.double().mean(0).tolist(), strict=True))
        objective, weights = self._objective, {}
        if objective.reconstruction_weight > 0:
            weights["reconstruction"] = objective.reconstruction_weight
        if objective.clustering is not None:
            weights["clustering"] = objective.clustering_weight
        if objective.targets is not None:
            weights["neighbors"] = objective.target_weight
        if self._regularized:
            weights["l2"] = self._l2_strength
            means["l2"] = means["l2"] or l2_penalty(self._regularized).item()
        weighted = {f"loss_weighted/{name}": weight * means[name] for name, weight in weights.items()}
        raw = {f"loss/{name}": means[name] for name in weights}
        return {"loss/total": sum(weighted.values()), **raw, **weighted}


def _optimizer_config(config: Config, settings: PhaseConfig) -> OptimizerConfig:
    name = settings.optimizer if isinstance(settings, PretrainConfig) else None
    return config.optimizer if name is None else GROUPS["optimizer"][name](name=name)
