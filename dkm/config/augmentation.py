"""Settings of the group ``augmentation``."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from dkm.config.checks import require, require_fraction


@dataclass
class AugmentationConfig:
    name: str = MISSING


@dataclass
class AffineConfig(AugmentationConfig):
    """Random rotation and shift of images, the ranges of DEC-DA (Guo et al., ACML 2018)."""

    name: str = "affine"
    # Rotations are uniform in [-rotation, rotation], in degrees.
    rotation: float = 10.0
    # Shifts along each axis are uniform in [-shift, shift], as a fraction of the image's side.
    shift: float = 0.1

    def __post_init__(self) -> None:
        ok = 0 <= self.rotation <= 180
        require(
            ok,
            "augmentation.rotation",
            self.rotation,
            "degrees from 0 to 180",
            "for example augmentation.rotation=10",
        )
        require_fraction("augmentation.shift", self.shift, "0.1")


@dataclass
class AutoAugmentationConfig(AffineConfig):
    """``affine`` for images, ``none`` for tables and text."""

    name: str = "auto"


@dataclass
class NoAugmentationConfig(AugmentationConfig):
    name: str = "none"
