"""Random numbers of torch that neither depend on the global generator nor change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class SeededDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, this thread draws the random numbers of CPU tensors from a generator of its own.

    They are the numbers that follow ``torch.manual_seed(seed)``. Layers draw their initial weights from the global
    generator, which all threads share: seeded there, the weights of two models that are built at the same time mix.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        device = args[0].device if args and isinstance(args[0], Tensor) else torch.device(given.get("device") or "cpu")
        if device.type == "cpu" and given.get("generator") is None:
            if any(argument.name == "generator" for argument in func._schema.arguments):
                given["generator"] = self._generator
            elif "generator" in func.overloadpacket.overloads():  # torch.randn and its kin have one overload for each
                func, given["generator"] = func.overloadpacket.generator, self._generator
        return func(*args, **given)
