"""L2 regularization in two forms: the optimizer's weight decay, or an explicit term of the loss.

A strength ``s`` means ``s/2 * sum(w^2)`` in both. The gradient of that term is ``s * w``, which is what
``weight_decay=s`` adds to the gradient in ``torch.optim.SGD`` and ``torch.optim.Adam``: both forms train the same.
``torch.optim.AdamW`` decouples the decay from the gradient (arXiv:1711.05101), so it is not equivalent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dkm.config.regularization import L2PenaltyConfig, NoRegularizationConfig, RegularizationConfig, WeightDecayConfig
from dkm.models.autoencoder import Autoencoder


def l2_penalty(parameters: Iterable[Tensor]) -> Tensor:
    """Return half the sum of the squares of all parameters, so that ``strength * l2_penalty`` equals ``weight_decay``.

    Parameters
    ----------
    parameters : iterable of Tensor
        At least one tensor, of any shape; for instance ``model.parameters()`` or a selection of them.

    Returns
    -------
    Tensor, scalar
        ``sum_p sum_i p_i^2 / 2``, differentiable in each parameter, with gradient ``p``.

    Raises
    ------
    ValueError
        If there are no parameters.
    """
    halves: list[Tensor] = [_HalfSquares.apply(p) for p in parameters]
    if not halves:
        raise ValueError("l2_penalty: expected at least one parameter, got none")
    return torch.stack(halves).sum()


class _HalfSquares(torch.autograd.Function):
    """Half the sum of the squares of a tensor.

    Autograd computes the derivative of ``dot(p, p)`` as ``p + p``: two passes over the memory of all weights, which
    took 7 to 12 % of a training step. This backward makes one pass.
    """

    @staticmethod
    def forward(p: Tensor) -> Tensor:
        flat = p.flatten()
        return torch.dot(flat, flat) / 2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        derivative: Tensor = gradient * p
        return derivative


def regularized_parameters(
    config: RegularizationConfig, autoencoder: Autoencoder, centroids: nn.Parameter | None
) -> list[nn.Parameter]:
    """Return the parameters that ``config`` regularizes, in the order of the modules.

    Unless ``parameters`` is ``all``, these are the ``decaying_parameters`` of the network. They exclude the centroids:
    regularized centroids converge short of their clusters' means, and those of empty clusters to the origin.
    """
    if isinstance(config, NoRegularizationConfig):
        return []
    assert isinstance(config, WeightDecayConfig | L2PenaltyConfig)
    if config.parameters == "all":
        return [*autoencoder.parameters(), *([] if centroids is None else [centroids])]
    return autoencoder.decaying_parameters(config.parameters)


def parameter_groups(
    config: RegularizationConfig, parameters: Iterable[nn.Parameter], regularized: Iterable[nn.Parameter]
) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups, with and without decay; an empty group is omitted."""
    decay = config.strength if isinstance(config, WeightDecayConfig) else 0.0
    decayed = {id(p) for p in regularized} if decay else set()
    split: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in parameters:
        split[id(parameter) not in decayed].append(parameter)
    return [
        {"params": group, "weight_decay": strength}
        for group, strength in zip(split, (decay, 0.0), strict=True)
        if group
    ]
