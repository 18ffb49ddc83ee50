"""The autoencoders: ``encode`` maps rows to the embedding, ``decode`` maps it back.

Both take and return flat rows (B, F), images too, so that nothing around them asks what they are. The embedding and the
reconstruction are linear: a ReLU or sigmoid at either end squeezes the space that k-means works in.
"""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

from torch import nn

from dkm.config.model import ConvConfig, MLPConfig, ModelConfig
from dkm.errors import UserError
from dkm.models.autoencoder import Autoencoder
from dkm.models.conv import conv_autoencoder
from dkm.models.mlp import mlp_autoencoder
from dkm.runtime.seeding import SeededDraws


def build_autoencoder(
    config: ModelConfig, n_features: int, image_shape: tuple[int, int, int] | None, latent_dim: int, seed: int
) -> Autoencoder:
    """Build the autoencoder of ``config`` with weights that depend on ``seed`` alone.

    ``latent_dim`` is the resolved one (``config.latent_dim`` may be null).
    """
    with SeededDraws(seed):
        autoencoder = _build(config, n_features, image_shape, latent_dim)
        if config.initial_weights == "glorot":
            for layer in autoencoder.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.xavier_uniform_(layer.weight)
        return autoencoder


def _build(
    config: ModelConfig, n_features: int, image_shape: tuple[int, int, int] | None, latent_dim: int
) -> Autoencoder:
    if isinstance(config, MLPConfig):
        return mlp_autoencoder(n_features, config.hidden, latent_dim)
    assert isinstance(config, ConvConfig)
    if image_shape is None:
        raise UserError("model=conv: expected image data, got rows of a table; use model=mlp")
    return conv_autoencoder(image_shape, config.filters, latent_dim)
