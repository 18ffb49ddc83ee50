"""Settings of the group ``optimizer``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dkm.config.checks import Fraction, Positive, Satisfies, require
from dkm.config.settings import REQUIRED, Section, Stage, setting


def _are_betas(values: Any) -> bool:
    return len(values) == 2 and all(0 <= beta < 1 for beta in values)


@dataclass
class OptimizerConfig(Section):
    """The optimizer. Its learning rates are settings of the phases: ``pretrain.lr`` and ``joint.lr``."""

    section: ClassVar[str] = "optimizer"
    stages: ClassVar[Stage] = Stage.TRAINING
    name: str = REQUIRED


@dataclass
class AdamConfig(OptimizerConfig):
    """Adam (arXiv:1412.6980)."""

    name: str = "adam"
    betas: list[float] = setting(
        [0.9, 0.999],
        "Decay rates of the running means of the gradient and of its square.",
        check=Satisfies("two numbers from 0 to below 1", _are_betas),
    )
    eps: float = setting(
        1e-8, "Constant added to the denominator of a step to avoid division by zero.", check=Positive(), example="1e-8"
    )


@dataclass
class AdamWConfig(AdamConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101), which differs from L2 regularization of the loss."""

    name: str = "adamw"


@dataclass
class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    name: str = "sgd"
    momentum: float = setting(0.9, "Fraction of the previous step that is added to the next one.", check=Fraction())
    nesterov: bool = setting(False, "Whether to use Nesterov momentum; requires a momentum above 0.")

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = not (self.nesterov and self.momentum == 0)
        remedy = "set optimizer.momentum=0.9"
        require(ok, "optimizer.nesterov", self.nesterov, "a momentum above 0 with it", remedy)
