"""The convolutional autoencoder of DEC-DA."""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dkm.config.model import ConvConfig
from dkm.errors import UserError
from dkm.models.autoencoder import Autoencoder, zero_bias


def build_conv(
    config: ConvConfig, *, n_features: int, image_shape: tuple[int, int, int] | None, latent_dim: int
) -> Autoencoder:
    """Build the network of ``model=conv``."""
    if image_shape is None:
        raise UserError("model=conv: expected image data, got rows of a table; use model=mlp")
    return conv_autoencoder(image_shape, config.filters, latent_dim)


def conv_autoencoder(image_shape: tuple[int, int, int], filters: Sequence[int], latent_dim: int) -> Autoencoder:
    """Build the convolutional autoencoder of DEC-DA (Guo et al., ACML 2018; github.com/XifengGuo/DEC-DA, ConvDEC.py).

    It has three convolutions of stride 2 (5x5, 5x5, 3x3) with ReLU, a linear embedding, a dense layer with ReLU, and
    the mirrored transposed convolutions. The third convolution is padded only where the side is a multiple of 8.
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
        down += [zero_bias(nn.Conv2d(n_in, n_out, kernel, stride=2, padding=padding)), nn.ReLU(inplace=True)]
        # Output padding restores the pixels that a stride of 2 rounded away in the encoder.
        unpadded = [(side - 1) * 2 + kernel - 2 * pad for side, pad in zip(sides[level + 1], padding, strict=True)]
        extra = (sides[level][0] - unpadded[0], sides[level][1] - unpadded[1])
        layer = nn.ConvTranspose2d(n_out, n_in, kernel, stride=2, padding=padding, output_padding=extra)
        up = [nn.ReLU(inplace=True), zero_bias(layer), *up]
    deepest = (filters[-1], *sides[-1])
    n_flat = filters[-1] * sides[-1][0] * sides[-1][1]
    encoder = nn.Sequential(*down, nn.Flatten(), zero_bias(nn.Linear(n_flat, latent_dim)))
    decoder = nn.Sequential(
        zero_bias(nn.Linear(latent_dim, n_flat)),
        nn.ReLU(inplace=True),
        nn.Unflatten(1, deepest),
        *up[1:],
        nn.Flatten(),
    )
    return Autoencoder(encoder, decoder, latent_dim)
