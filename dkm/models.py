"""The autoencoders: ``encode`` maps rows to the embedding, ``decode`` maps it back.

Both take and return flat rows (B, F), images too, so that nothing around them asks what they are. The embedding and the
reconstruction are linear: a ReLU or sigmoid at either end squeezes the space that k-means works in.
"""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dkm.config import ConvConfig, MLPConfig, ModelConfig, UserError


class Autoencoder(nn.Module):
    """An encoder (B, F) -> (B, D) and a decoder (B, D) -> (B, F)."""

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        x_hat: Tensor = self.decoder(z)
        return x_hat


def build_autoencoder(
    config: ModelConfig, n_features: int, image_shape: tuple[int, int, int] | None, latent_dim: int, seed: int
) -> Autoencoder:
    """Build the autoencoder of ``config`` with weights that depend on ``seed`` alone.

    ``latent_dim`` is the resolved one (``config.latent_dim`` may be null).
    """
    # Layers draw their initial weights from the global generator, which is left as it was found.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
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


@torch.no_grad()
def mix_encoder(autoencoder: Autoencoder, fresh: Autoencoder, fraction: float) -> None:
    """Mix ``fraction`` of the weights of ``fresh`` into the encoder, all its layers but the last, the embedding.

    The soft reset of BRB (arXiv:2411.02275). ``fresh`` has the same layers; here its weights are drawn as those of any
    new network.
    """
    pairs = list(zip(autoencoder.encoder.children(), fresh.encoder.children(), strict=True))
    for layer, other in pairs[:-1]:
        for parameter, drawn in zip(layer.parameters(), other.parameters(), strict=True):
            parameter.lerp_(drawn, fraction)


def mlp_autoencoder(n_features: int, hidden: Sequence[int], latent_dim: int) -> Autoencoder:
    """Fully connected layers with ReLU between them, mirrored; ``hidden`` are the encoder's inner widths."""
    widths = [n_features, *hidden, latent_dim]
    return Autoencoder(_mlp(widths), _mlp(widths[::-1]), latent_dim)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [_zero_bias(nn.Linear(n_in, n_out)), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _zero_bias(layer: nn.Module) -> nn.Module:
    """Weights stay torch's default, U(+-1/sqrt(fan_in)): what the DEC family's end-to-end training uses."""
    assert isinstance(layer.bias, Tensor)
    nn.init.zeros_(layer.bias)
    return layer


def conv_autoencoder(image_shape: tuple[int, int, int], filters: Sequence[int], latent_dim: int) -> Autoencoder:
    """The convolutional autoencoder of DEC-DA (Guo et al., ACML 2018; github.com/XifengGuo/DEC-DA, ConvDEC.py).

    Three convolutions of stride 2 (5x5, 5x5, 3x3) with ReLU, a linear embedding, a dense layer with ReLU, and the
    mirrored transposed convolutions. The third convolution is padded only where the side is a multiple of 8.
    """
    C, H, W = image_shape
    if min(H, W) < 8:
        raise UserError(f"model=conv: expected images of at least 8x8, got {H}x{W}; use model=mlp")
    kernels = [5, 5, 3]
    paddings = [(2, 2), (2, 2), (1 if H % 8 == 0 else 0, 1 if W % 8 == 0 else 0)]
    channels = [C, *filters]
    sides = [(H, W)]
    for kernel, (top, left) in zip(kernels, paddings, strict=True):
        h, w = sides[-1]
        sides.append(((h + 2 * top - kernel) // 2 + 1, (w + 2 * left - kernel) // 2 + 1))

    down: list[nn.Module] = [nn.Unflatten(1, image_shape)]
    up: list[nn.Module] = []
    for level, (kernel, padding) in enumerate(zip(kernels, paddings, strict=True)):
        n_in, n_out = channels[level], channels[level + 1]
        down += [_zero_bias(nn.Conv2d(n_in, n_out, kernel, stride=2, padding=padding)), nn.ReLU(inplace=True)]
        # What a stride of 2 rounded away on the way down is added on the way up.
        grown = [(side - 1) * 2 + kernel - 2 * pad for side, pad in zip(sides[level + 1], padding, strict=True)]
        extra = (sides[level][0] - grown[0], sides[level][1] - grown[1])
        layer = nn.ConvTranspose2d(n_out, n_in, kernel, stride=2, padding=padding, output_padding=extra)
        up = [nn.ReLU(inplace=True), _zero_bias(layer), *up]
    deepest = (filters[-1], *sides[-1])
    n_flat = filters[-1] * sides[-1][0] * sides[-1][1]
    encoder = nn.Sequential(*down, nn.Flatten(), _zero_bias(nn.Linear(n_flat, latent_dim)))
    decoder = nn.Sequential(
        _zero_bias(nn.Linear(latent_dim, n_flat)),
        nn.ReLU(inplace=True),
        nn.Unflatten(1, deepest),
        *up[1:],
        nn.Flatten(),
    )
    return Autoencoder(encoder, decoder, latent_dim)
