"""What an autoencoder is: ``encode`` maps rows to the embedding, ``decode`` maps it back."""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

import torch
from torch import Tensor, nn


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

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction (B, F) of rows x (B, F)."""
        return self.decode(self.encode(x))


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


def zero_bias(layer: nn.Module) -> nn.Module:
    """Weights stay torch's default, U(+-1/sqrt(fan_in)): what the DEC family's end-to-end training uses."""
    assert isinstance(layer.bias, Tensor)
    nn.init.zeros_(layer.bias)
    return layer
