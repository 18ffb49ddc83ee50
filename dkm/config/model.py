"""Settings of the group ``model``: one dataclass for each network."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from dkm.config.checks import require, require_at_least, require_choice

INITIAL_WEIGHTS = ("fan_in", "glorot")


@dataclass
class ModelConfig:
    name: str = MISSING
    # Dimensions of the embedding; null: the number of clusters, as in the papers.
    latent_dim: int | None = None
    # fan_in (uniform, +-1/sqrt(inputs): torch's and the DEC family's) | glorot (uniform, +-sqrt(6/(inputs + outputs)):
    # TensorFlow's, and so of the codes of DKM and DCN). Biases are zero.
    initial_weights: str = "fan_in"

    def __post_init__(self) -> None:
        if self.latent_dim is not None:
            require_at_least("model.latent_dim", self.latent_dim, 1, 10)
        require_choice("model.initial_weights", self.initial_weights, INITIAL_WEIGHTS)


@dataclass
class MLPConfig(ModelConfig):
    """Fully connected: features-500-500-2000-latent and its mirror, ReLU, linear ends."""

    name: str = "mlp"
    hidden: list[int] = field(default_factory=lambda: [500, 500, 2000])

    def __post_init__(self) -> None:
        super().__post_init__()
        example = "for example model.hidden=[500,500]"
        is_flat = all(isinstance(width, int) for width in self.hidden)
        require(is_flat, "model.hidden", list(self.hidden), "a list [...] of whole numbers", example)
        require(all(w >= 1 for w in self.hidden), "model.hidden", list(self.hidden), "widths of 1 or more", example)


@dataclass
class ConvConfig(ModelConfig):
    """Convolutional, for images: the autoencoder of DEC-DA (Guo et al., ACML 2018)."""

    name: str = "conv"
    filters: list[int] = field(default_factory=lambda: [32, 64, 128])

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = len(self.filters) == 3 and all(n >= 1 for n in self.filters)
        require(
            ok,
            "model.filters",
            list(self.filters),
            "three whole numbers of 1 or more",
            "for example model.filters=[32,64,128]",
        )
