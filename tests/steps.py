"""Looks at every optimizer step that this process takes, whoever takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@dataclass
class Step:
    """One step: copies of the parameters before and after it, of the gradients, and of what the optimizer remembers."""

    before: list[Tensor]
    gradients: list[Tensor]
    lr: float
    # Tensors of the optimizer's state that have the shape of their parameter, None before the first step.
    momentum: list[Tensor | None]
    after: list[Tensor] = field(default_factory=list)

    def index_of(self, shape: Sequence[int]) -> int:
        """Return the position of the one parameter of that shape."""
        (index,) = [i for i, tensor in enumerate(self.before) if tensor.shape == tuple(shape)]
        return index


@contextmanager
def recorded_steps(after: Callable[[int, list[Tensor]], None] | None = None) -> Iterator[list[Step]]:
    """Record the steps within the block.

    Parameters
    ----------
    after : callable, optional
        Called after each step with its number, from 0, and the parameters, which it may change.
    """
    steps: list[Step] = []

    def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
        return [p for group in optimizer.param_groups for p in group["params"]]

    def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in tensors]

    def look_before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = parameters_of(optimizer)
        gradients = copies([p.grad for p in parameters if p.grad is not None])
        momentum: list[Tensor | None] = [optimizer.state.get(p, {}).get("exp_avg") for p in parameters]
        momentum = [None if m is None else m.clone() for m in momentum]
        steps.append(Step(copies(parameters), gradients, optimizer.param_groups[0]["lr"], momentum))

    def look_after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = parameters_of(optimizer)
        steps[-1].after = copies(parameters)
        if after is not None:
            with torch.no_grad():
                after(len(steps) - 1, parameters)

    hooks = [register_optimizer_step_pre_hook(look_before), register_optimizer_step_post_hook(look_after)]
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()
