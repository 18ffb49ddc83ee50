"""Settings of the group ``regularization``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dkm.config.checks import Choice, NonNegative
from dkm.config.settings import REQUIRED, Section, Stage, setting

REGULARIZED = ("weights", "all", "encoder", "decoder")


@dataclass
class RegularizationConfig(Section):
    """L2 regularization."""

    section: ClassVar[str] = "regularization"
    stages: ClassVar[Stage] = Stage.TRAINING
    name: str = REQUIRED


@dataclass
class _StrengthConfig(RegularizationConfig):
    strength: float = setting(
        1e-6,
        "Strength s of the penalty s/2 * sum(w^2), in both forms.",
        check=NonNegative(),
        example="1e-6",
    )
    parameters: str = setting(
        "weights",
        "Which parameters are regularized. `weights`: all weight matrices. `encoder`, `decoder`: the weight matrices "
        "of one half. `all`: weights, biases, norms and centroids.",
        check=Choice(REGULARIZED),
    )


@dataclass
class WeightDecayConfig(_StrengthConfig):
    """The optimizer adds ``strength * w`` to the gradient; with SGD and Adam this is equivalent to ``l2_penalty``."""

    name: str = "weight_decay"


@dataclass
class L2PenaltyConfig(_StrengthConfig):
    """The loss includes the term ``strength / 2 * sum(w^2)``."""

    name: str = "l2_penalty"


@dataclass
class NoRegularizationConfig(RegularizationConfig):
    """No regularization."""

    name: str = "none"
