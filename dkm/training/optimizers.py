"""The optimizer, its learning rate, which is a function of the step and so needs no state of its own, and averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dkm.config.optimizer import AdamConfig, AdamWConfig, OptimizerConfig, SGDConfig

# torch's OneCycleLR: start at a 25th of the peak, reach it after 30 % of the steps, end at a 10,000th of the start.
_WARMUP = 0.3
_START = 1 / 25
_END = _START / 10_000


def build_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """Build the fused optimizer: one pass over the parameters per step, and a flag on the device can skip a step."""
    if isinstance(config, SGDConfig):
        sgd = torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        if config.momentum > 0:
            # torch allocates the buffers in the first step without filling them; were that step skipped, the second
            # would read whatever was there. Starting from zero is the same step.
            for parameter in (p for group in groups for p in group["params"]):
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    assert isinstance(config, AdamConfig)
    kind = torch.optim.AdamW if isinstance(config, AdamWConfig) else torch.optim.Adam
    return kind(groups, lr=lr, betas=(config.betas[0], config.betas[1]), eps=config.eps, fused=True)


def learning_rate(schedule: str, peak: float, step: int, n_steps: int) -> float:
    """Return the learning rate of ``step`` (0 to ``n_steps - 1``) in a phase of ``n_steps``.

    ``one_cycle`` is Smith's (arXiv:1708.07120) with cosine flanks.
    """
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        return peak * _cosine(1.0, 0.0, step / n_steps)
    top = _WARMUP * n_steps
    if step < top:
        return peak * _cosine(_START, 1.0, step / top)
    return peak * _cosine(1.0, _END, (step - top) / (n_steps - top))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def reset_rows(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, rows: Tensor) -> None:
    """Forget the momentum of some rows of a parameter: what they moved towards is gone."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value[rows] = 0


class WeightAverage:
    """The exponential moving average of parameters over the steps.

    It is smoother than the parameters, and so are the targets that it gives: where a network learns from its own
    assignments, those of the average are wrong less often. Polyak and Juditsky, "Acceleration of stochastic
    approximation by averaging" (1992); as a teacher: Tarvainen and Valpola (arXiv:1703.01780).

    Parameters
    ----------
    parameters : iterable of Parameters
        The average begins with what they are.
    decay : float in [0, 1)
        What remains of the average in a step; it spans about ``1 / (1 - decay)`` steps.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = [parameter.detach() for parameter in parameters]  # the same memory
        self._averages = [parameter.clone() for parameter in self._parameters]

    def update(self) -> None:
        """Take in the parameters after a step."""
        torch._foreach_lerp_(self._averages, self._parameters, 1 - self.decay)  # as torch.optim.swa_utils does

    def restart(self) -> None:
        """Forget the past: begin again with what the parameters are."""
        self.load(self._parameters)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the parameters hold the average within the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def adopt(self) -> None:
        """Have the parameters hold the average from here on."""
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            parameter.copy_(average)

    def state(self) -> list[Tensor]:
        """Return the averages, for a checkpoint."""
        return self._averages

    def load(self, averages: Sequence[Tensor]) -> None:
        """Go on with averages that ``state`` returned."""
        for average, value in zip(self._averages, averages, strict=True):
            average.copy_(value)

    def _exchange(self) -> None:
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
