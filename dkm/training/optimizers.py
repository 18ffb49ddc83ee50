"""The optimizer, its learning rate as a function of the step, which needs no state, and averaged weights."""

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


@torch.no_grad()
def reset_rows(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, rows: Tensor) -> None:
    """Forget the optimizer's past of some rows of a parameter, because they were moved.

    Momentum starts at zero. Adam divides by the root of the second moment, and corrects its bias by a step count that
    all rows share: a second moment of zero would make a row move up to 6 times the learning rate (``(1 - b1^k) /
    sqrt(1 - b2^k)`` in step k after the reset). The second moment of a row therefore stays, or rises to the mean over
    the other rows: a dead centroid has had no gradients for long. Where all rows are reset, all state starts again,
    including the step count.

    Parameters
    ----------
    rows : Tensor of shape (M,), int64
        Indices into the first dimension of the parameter.
    """
    state = optimizer.state.get(parameter, {})
    if not state or len(rows) == 0:
        return
    is_reset = torch.zeros(len(parameter), dtype=torch.bool, device=parameter.device)
    is_reset[rows.to(parameter.device)] = True
    is_whole = bool(is_reset.all())
    for name, value in state.items():
        if name == "step" and is_whole:
            value.zero_()
        elif isinstance(value, Tensor) and value.shape == parameter.shape:
            keeps = name == "exp_avg_sq" and not is_whole
            value[is_reset] = value[is_reset].maximum(value[~is_reset].mean(0)) if keeps else 0.0


class WeightAverage:
    """The exponential moving average of parameters over the steps.

    The average is smoother than the parameters: where a network learns from its own assignments, those of the average
    are wrong less often. Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992); as a
    teacher: Tarvainen and Valpola (arXiv:1703.01780).

    Parameters
    ----------
    parameters : iterable of Tensors
        Parameters, and buffers that belong to them. The average starts at their present values.
    decay : float in [0, 1)
        The part of the average that remains after a step; it spans about ``1 / (1 - decay)`` steps.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self._parameters = [parameter.detach() for parameter in parameters]  # the same memory
        self._averages = [parameter.clone() for parameter in self._parameters]

    def update(self) -> None:
        """Update the average with the parameters after a step."""
        torch._foreach_lerp_(self._averages, self._parameters, 1 - self.decay)  # as torch.optim.swa_utils does

    def restart(self) -> None:
        """Restart the average at the present parameters."""
        self.load(self._parameters)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Swap in the averaged weights; swap back on exit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def adopt(self) -> None:
        """Set the parameters to the average."""
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            parameter.copy_(average)

    def state(self) -> list[Tensor]:
        """Return the averages, for a checkpoint."""
        return self._averages

    def load(self, averages: Sequence[Tensor]) -> None:
        """Load averages that ``state`` returned.

        Raises
        ------
        ValueError
            If they are of other parameters.
        """
        for average, value in zip(self._averages, averages, strict=True):
            if value.shape != average.shape:
                raise ValueError("average: of another shape than its parameter")
            average.copy_(value)

    def _exchange(self) -> None:
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
