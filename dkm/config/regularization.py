"""Settings of the group ``regularization``."""

from __future__ import annotations

from dataclasses import dataclass

from dkm.config.checks import require_choice, require_non_negative

# What omegaconf calls MISSING. Its import would make `from dkm import l2_penalty` need it.
MISSING = "???"

REGULARIZED = ("weights", "all", "encoder", "decoder")


@dataclass
class RegularizationConfig:
    name: str = MISSING


@dataclass
class _StrengthConfig(RegularizationConfig):
    # s in s/2 * sum(w^2), whichever of the two forms computes it.
    strength: float = 1e-6
    # weights (all weight matrices) | encoder | decoder (the weight matrices of one half) | all (weights, biases, norms
    # and centroids).
    parameters: str = "weights"

    def __post_init__(self) -> None:
        require_non_negative("regularization.strength", self.strength, "1e-6")
        require_choice("regularization.parameters", self.parameters, REGULARIZED)


@dataclass
class WeightDecayConfig(_StrengthConfig):
    """The optimizer adds ``strength * w`` to the gradient; under SGD and Adam the same training as ``l2_penalty``."""

    name: str = "weight_decay"


@dataclass
class L2PenaltyConfig(_StrengthConfig):
    """``strength / 2 * sum(w^2)`` is a term of the loss."""

    name: str = "l2_penalty"


@dataclass
class NoRegularizationConfig(RegularizationConfig):
    name: str = "none"
