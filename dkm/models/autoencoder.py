"""What an autoencoder is: ``encode`` maps rows to the embedding, ``decode`` maps it back."""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

import torch
from torch import Tensor, nn

# Modules whose weights are scales or positions, and are not regularized.
_NOT_DECAYED = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
    *(nn.Embedding, nn.EmbeddingBag),
)


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

    def decaying_parameters(self, part: str = "weights") -> list[nn.Parameter]:
        """Return the parameters that L2 regularization shrinks: the weights of all layers, of whatever type.

        Not biases, norms and embeddings: parameters of one dimension, whose names have "bias" in them, or of modules
        that normalize or look up.

        Parameters
        ----------
        part : {"weights", "encoder", "decoder"}
            Those of both halves, or of one.
        """
        return _weights_of(self if part == "weights" else getattr(self, part))

    def require_decoder_grad(self, is_trained: bool) -> None:
        """Train the decoder, or leave it as it is."""
        self.decoder.requires_grad_(is_trained)

    @property
    def embedding_layer(self) -> nn.Module:
        """The layer whose output is the embedding: the last one of the encoder."""
        *_, last = self.encoder.children()
        return last

    def inner_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder but for those of its embedding layer."""
        kept = {id(parameter) for parameter in self.embedding_layer.parameters()}
        return [parameter for parameter in self.encoder.parameters() if id(parameter) not in kept]


def _weights_of(part: nn.Module) -> list[nn.Parameter]:
    """Return the weights of all layers of a module, each once, in the order of the modules."""
    weights = (
        parameter
        for module in part.modules()
        if not isinstance(module, _NOT_DECAYED)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim >= 2 and "bias" not in name
    )
    return list(dict.fromkeys(weights))


@torch.no_grad()
def mix_encoder(autoencoder: Autoencoder, fresh: Autoencoder, fraction: float) -> None:
    """Mix ``fraction`` of the weights of ``fresh`` into all layers of the encoder but the embedding layer.

    The soft reset of BRB (arXiv:2411.02275). ``fresh`` has the same layers, with newly drawn weights.
    """
    for parameter, drawn in zip(autoencoder.inner_parameters(), fresh.inner_parameters(), strict=True):
        parameter.lerp_(drawn, fraction)


def zero_bias(layer: nn.Module) -> nn.Module:
    """Set the bias to zero; weights keep torch's default, U(+-1/sqrt(fan_in)), as in the DEC family's training."""
    assert isinstance(layer.bias, Tensor)
    nn.init.zeros_(layer.bias)
    return layer
