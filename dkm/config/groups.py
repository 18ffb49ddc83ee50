"""The groups of the config and their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dkm.config.augmentation import AffineConfig, AutoAugmentationConfig, NoAugmentationConfig
from dkm.config.clustering import METHODS
from dkm.config.data import DATASETS
from dkm.config.model import MODELS
from dkm.config.optimizer import AdamConfig, AdamWConfig, SGDConfig
from dkm.config.registry import Schemas
from dkm.config.regularization import L2PenaltyConfig, NoRegularizationConfig, WeightDecayConfig

GROUPS: Mapping[str, Mapping[str, type[Any]]] = {
    "data": Schemas(DATASETS),
    "model": Schemas(MODELS),
    "clustering": Schemas(METHODS),
    "regularization": {
        "weight_decay": WeightDecayConfig,
        "l2_penalty": L2PenaltyConfig,
        "none": NoRegularizationConfig,
    },
    "optimizer": {"adam": AdamConfig, "adamw": AdamWConfig, "sgd": SGDConfig},
    "augmentation": {"auto": AutoAugmentationConfig, "affine": AffineConfig, "none": NoAugmentationConfig},
}

# Groups without settings of their own: each option is a file of settings for all sections.
PRESETS = ("recipe", "experiment")
