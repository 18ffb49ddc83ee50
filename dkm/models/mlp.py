"""The fully connected autoencoder."""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from dkm.config.model import MLPConfig
from dkm.models.autoencoder import Autoencoder, zero_bias

# The widths of model.hidden=null.
_SMALL = (256, 256, 128)


def build_mlp(
    config: MLPConfig, *, n_features: int, image_shape: tuple[int, int, int] | None, latent_dim: int
) -> Autoencoder:
    """Build the network of ``model=mlp``, which treats images as rows."""
    hidden = _SMALL if config.hidden is None else config.hidden
    return mlp_autoencoder(n_features, hidden, latent_dim)


def mlp_autoencoder(n_features: int, hidden: Sequence[int], latent_dim: int) -> Autoencoder:
    """Build fully connected layers with ReLU; ``hidden`` are the encoder's inner widths, mirrored in the decoder."""
    widths = [n_features, *hidden, latent_dim]
    return Autoencoder(_mlp(widths), _mlp(widths[::-1]), latent_dim)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [zero_bias(nn.Linear(n_in, n_out)), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
