"""Settings of the group ``augmentation``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dkm.config.checks import Between, Fraction
from dkm.config.settings import REQUIRED, Section, Stage, setting


@dataclass
class AugmentationConfig(Section):
    """Random transformations of the training images."""

    section: ClassVar[str] = "augmentation"
    stages: ClassVar[Stage] = Stage.TRAINING
    name: str = REQUIRED


@dataclass
class AffineConfig(AugmentationConfig):
    """Random rotation and shift of images, with the ranges of DEC-DA (Guo et al., ACML 2018)."""

    name: str = "affine"
    rotation: float = setting(
        10.0,
        "Rotations are drawn uniformly from [-rotation, rotation].",
        unit="degrees",
        check=Between(0, 180, "degrees"),
        example=10,
    )
    shift: float = setting(
        0.1,
        "Shifts along each axis are drawn uniformly from [-shift, shift].",
        unit="fraction of the image's side",
        check=Fraction(),
    )


@dataclass
class AutoAugmentationConfig(AffineConfig):
    """``affine`` for images, ``none`` for tables and text."""

    name: str = "auto"


@dataclass
class NoAugmentationConfig(AugmentationConfig):
    """No augmentation."""

    name: str = "none"
