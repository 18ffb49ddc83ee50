"""Settings of the group ``model``: one dataclass per network, and the registry ``MODELS``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dkm.config.checks import AtLeast, Choice, Satisfies, require
from dkm.config.custom import add_class_field
from dkm.config.registry import Entry
from dkm.config.settings import REQUIRED, Section, Stage, setting

INITIAL_WEIGHTS = ("fan_in", "glorot")


@dataclass
class ModelConfig(Section):
    """The autoencoder."""

    section: ClassVar[str] = "model"
    stages: ClassVar[Stage] = Stage.TRAINING
    name: str = REQUIRED
    latent_dim: int | None = setting(
        None,
        "Dimension of the embedding. null: the number of clusters, as in the papers.",
        check=AtLeast(1),
        example=10,
    )


@dataclass
class LayersConfig(ModelConfig):
    """Common settings of the networks of this package."""

    initial_weights: str = setting(
        "fan_in",
        "Distribution of the initial weights; biases are zero. `fan_in`: uniform in +-1/sqrt(inputs), as in torch and "
        "in the DEC family. `glorot`: uniform in +-sqrt(6/(inputs + outputs)), as in TensorFlow and therefore in the "
        "authors' code of DKM and DCN.",
        check=Choice(INITIAL_WEIGHTS),
    )


def _are_filters(values: Any) -> bool:
    return len(values) == 3 and all(n >= 1 for n in values)


@dataclass
class MLPConfig(LayersConfig):
    """Fully connected: features-500-500-2000-latent and the mirrored decoder, ReLU between layers, linear outputs."""

    name: str = "mlp"
    hidden: list[int] | None = setting(
        [500, 500, 2000],
        "Widths of the hidden layers of the encoder; the decoder reverses them. []: a linear autoencoder. null: "
        "256, 256, 128.",
        check=Satisfies("widths of 1 or more", lambda widths: all(width >= 1 for width in widths)),
        example=[500, 500],
    )

    def __post_init__(self) -> None:
        is_flat = all(isinstance(width, int) for width in self.hidden or ())
        example = "for example model.hidden=[500,500]"
        require(is_flat, "model.hidden", list(self.hidden or ()), "a list [...] of whole numbers", example)
        super().__post_init__()


@dataclass
class ConvConfig(LayersConfig):
    """Convolutional, for images: the autoencoder of DEC-DA (Guo et al., ACML 2018)."""

    name: str = "conv"
    filters: list[int] = setting(
        [32, 64, 128],
        "Output channels of the three convolutions of the encoder; the decoder reverses them.",
        check=Satisfies("three whole numbers of 1 or more", _are_filters),
    )


@dataclass
@add_class_field(
    "Dotted name of a `torch.nn.Module` with the methods `encode`, which maps rows (B, features) to (B, latent_dim), "
    "and `decode`, which maps them back. `__init__` may have the parameters `n_features`, `latent_dim` and "
    "`image_shape`."
)
class CustomModelConfig(ModelConfig):
    """Your own network. The dotted name is imported from the working directory or ``PYTHONPATH``."""

    name: str = "custom"
    options: dict[str, Any] = setting({}, "Further arguments of the class, for example `model.options={width: 64}`.")


class Model(Entry[ModelConfig]):
    """A network: a function ``(config, *, n_features, image_shape, latent_dim) -> Autoencoder``."""


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("mlp", MLPConfig, "dkm.models.mlp:build_mlp"),
        Model("conv", ConvConfig, "dkm.models.conv:build_conv"),
        Model("custom", CustomModelConfig, "dkm.models.custom:build_custom"),
    )
}
