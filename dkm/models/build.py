"""Build the autoencoder of a config.

All networks take and return flat rows (B, F), also for images, so that no other code has to distinguish them. The
embedding and the reconstruction are linear: a ReLU or sigmoid there would squeeze the space that k-means works in.
"""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

from torch import nn

from dkm.config.model import MODELS, LayersConfig, ModelConfig
from dkm.models.autoencoder import Autoencoder
from dkm.runtime.seeding import SeededDraws


def build_autoencoder(
    config: ModelConfig, n_features: int, image_shape: tuple[int, int, int] | None, latent_dim: int, seed: int
) -> Autoencoder:
    """Build the autoencoder of ``config``; its weights depend on ``seed`` alone.

    ``latent_dim`` is the resolved value (``config.latent_dim`` may be null).
    """
    build = MODELS[config.name].load()
    with SeededDraws(seed):
        autoencoder: Autoencoder = build(config, n_features=n_features, image_shape=image_shape, latent_dim=latent_dim)
        if isinstance(config, LayersConfig) and config.initial_weights == "glorot":
            for layer in autoencoder.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.xavier_uniform_(layer.weight)
        return autoencoder
