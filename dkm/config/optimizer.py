"""Settings of the group ``optimizer``."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from dkm.config.checks import require, require_fraction, require_positive


@dataclass
class OptimizerConfig:
    """The learning rates stand with their phases: ``pretrain.lr`` and ``joint.lr``."""

    name: str = MISSING


@dataclass
class AdamConfig(OptimizerConfig):
    name: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8

    def __post_init__(self) -> None:
        ok = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        require(
            ok,
            "optimizer.betas",
            list(self.betas),
            "two numbers from 0 to below 1",
            "for example optimizer.betas=[0.9,0.999]",
        )
        require_positive("optimizer.eps", self.eps, "1e-8")


@dataclass
class AdamWConfig(AdamConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101), which is not the L2 regularization of the loss."""

    name: str = "adamw"


@dataclass
class SGDConfig(OptimizerConfig):
    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        require_fraction("optimizer.momentum", self.momentum, "0.9")
        ok = not (self.nesterov and self.momentum == 0)
        require(
            ok,
            "optimizer.nesterov",
            self.nesterov,
            "a momentum above 0 with it",
            "set optimizer.momentum=0.9",
        )
