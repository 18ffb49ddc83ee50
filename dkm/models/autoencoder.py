"""The base class of all autoencoders: ``encode`` maps rows to the embedding, ``decode`` maps it back."""

# Shapes: B batch, F input features, D latent, C channels, H height, W width.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# The weights of normalization and embedding modules are not regularized.
_NOT_DECAYED = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
    *(nn.Embedding, nn.EmbeddingBag),
)


class Autoencoder(nn.Module):
    """An encoder (B, F) -> (B, D) and a decoder (B, D) -> (B, F)."""

    encoder: nn.Module
    decoder: nn.Module
    # What `require_decoder_grad` has frozen.
    _frozen: Sequence[nn.Parameter] = ()

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
        """Return the parameters that L2 regularization shrinks: the weights of all layers, of any type.

        It excludes biases, norms and embeddings: parameters of one dimension, parameters whose name contains "bias",
        and the parameters of normalization and embedding modules.

        Parameters
        ----------
        part : {"weights", "encoder", "decoder"}
            Whether to return the weights of the whole network or of one half.
        """
        return _weights_of(self if part == "weights" else getattr(self, part))

    def require_decoder_grad(self, is_trained: bool) -> None:
        """Freeze the decoder, or undo that; parameters that were built as frozen ones stay so."""
        if not is_trained:
            self._frozen = [*self._frozen, *(p for p in self.decoder.parameters() if p.requires_grad)]
        for parameter in self._frozen:
            parameter.requires_grad_(is_trained)
        if is_trained:
            self._frozen = ()

    @property
    def embedding_layer(self) -> nn.Module:
        """The layer whose output is the embedding: the last one of the encoder, or the encoder if it is one layer."""
        return [self.encoder, *self.encoder.children()][-1]

    def inner_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder, without those of its embedding layer."""
        excluded = {id(parameter) for parameter in self.embedding_layer.parameters()}
        return [parameter for parameter in self.encoder.parameters() if id(parameter) not in excluded]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode within the block: batch norm and dropout act on each row alone.

    The mode belongs to the network: threads may share one only if it is in evaluation mode before.
    """
    in_training = [module for module in network.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


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
    """Interpolate all layers of the encoder but the embedding layer toward ``fresh`` by ``fraction``.

    This is the soft reset of BRB (arXiv:2411.02275). ``fresh`` has the same layers with newly drawn weights.
    """
    for parameter, drawn in zip(autoencoder.inner_parameters(), fresh.inner_parameters(), strict=True):
        parameter.lerp_(drawn, fraction)


def zero_bias(layer: nn.Module) -> nn.Module:
    """Set the bias to zero; the weights keep torch's default U(+-1/sqrt(fan_in)), as in the DEC family."""
    assert isinstance(layer.bias, Tensor)
    nn.init.zeros_(layer.bias)
    return layer
