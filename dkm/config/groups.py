"""The groups of the config and their options."""

from __future__ import annotations

from collections.abc import Mapping

from dkm.config.augmentation import AffineConfig, AutoAugmentationConfig, NoAugmentationConfig
from dkm.config.clustering import DCNConfig, DECConfig, DKMConfig, IDECConfig, KMeansConfig, NoClusteringConfig
from dkm.config.data import (
    BlobsData,
    CsvData,
    DigitsData,
    ImageFolderData,
    MoonsData,
    NewsgroupsData,
    NpyData,
    NpzData,
    ParquetData,
    TorchvisionData,
)
from dkm.config.model import ConvConfig, MLPConfig
from dkm.config.optimizer import AdamConfig, AdamWConfig, SGDConfig
from dkm.config.regularization import L2PenaltyConfig, NoRegularizationConfig, WeightDecayConfig

_TORCHVISION = ("mnist", "fashion_mnist", "kmnist", "usps", "cifar10", "stl10")


GROUPS: Mapping[str, Mapping[str, type]] = {
    "data": {
        "digits": DigitsData,
        **dict.fromkeys(_TORCHVISION, TorchvisionData),
        "newsgroups": NewsgroupsData,
        "blobs": BlobsData,
        "moons": MoonsData,
        "npy": NpyData,
        "npz": NpzData,
        "csv": CsvData,
        "parquet": ParquetData,
        "image_folder": ImageFolderData,
    },
    "model": {"mlp": MLPConfig, "conv": ConvConfig},
    "clustering": {
        "kmeans": KMeansConfig,
        "dkm": DKMConfig,
        "dcn": DCNConfig,
        "dec": DECConfig,
        "idec": IDECConfig,
        "none": NoClusteringConfig,
    },
    "regularization": {
        "weight_decay": WeightDecayConfig,
        "l2_penalty": L2PenaltyConfig,
        "none": NoRegularizationConfig,
    },
    "optimizer": {"adam": AdamConfig, "adamw": AdamWConfig, "sgd": SGDConfig},
    "augmentation": {"auto": AutoAugmentationConfig, "affine": AffineConfig, "none": NoAugmentationConfig},
}
