"""Random numbers of torch that are independent of its global generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# These take no generator in torch 2.6. The methods that fill a tensor do, and draw the same numbers.
_FILLS = {"rand_like": "uniform_", "randn_like": "normal_", "randint_like": "random_"}


class SeededDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draw the random numbers of CPU tensors in this thread from a private generator while the context is active.

    They equal the numbers after ``torch.manual_seed(seed)``. Layers draw their initial weights from the global
    generator, which all threads share: two threads that seed it and build models at the same time would interfere.

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
        named = dict(kwargs or {})
        device = args[0].device if args and isinstance(args[0], Tensor) else torch.device(named.get("device") or "cpu")
        if device.type == "cpu" and named.get("generator") is None:
            if (fill := _FILLS.get(func.overloadpacket.__name__)) is not None:
                return getattr(torch.empty_like(args[0], **named), fill)(*args[1:], generator=self._generator)
            if any(argument.name == "generator" for argument in func._schema.arguments):
                named["generator"] = self._generator
            elif "generator" in func.overloadpacket.overloads():  # such as torch.randn, with an overload for generators
                func, named["generator"] = func.overloadpacket.generator, self._generator
        return func(*args, **named)
