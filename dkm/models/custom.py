"""Use the user's own network as the autoencoder of a run: ``model=custom model.class=package.Class``."""

# Shapes: B batch, F input features, D latent.

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dkm.config.checks import require
from dkm.config.custom import class_of, construct, import_named
from dkm.config.model import CustomModelConfig
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.errors import UserError, in_short, is_out_of_memory
from dkm.models.autoencoder import Autoencoder, evaluation_mode

_PACKAGE = str(Path(__file__).parents[1])


class CustomAutoencoder(Autoencoder):
    """Adapter that gives a module with ``encode`` and ``decode`` the interface of ``Autoencoder``.

    Features that need one half of the network (a fixed decoder, regularization of one half, resets, export) use the
    submodules ``encoder`` and ``decoder`` of the module. They raise ``UserError`` if the module has no such submodule.

    Parameters
    ----------
    network : Module
    latent_dim : int
    name : str
        Name of the class, for messages.
    """

    def __init__(self, network: nn.Module, latent_dim: int, name: str) -> None:
        nn.Module.__init__(self)
        self.network = network
        self.latent_dim = latent_dim
        self._name = name

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The submodule that encodes."""
        return self._half("encoder")

    @property
    def decoder(self) -> nn.Module:  # type: ignore[override]
        """The submodule that decodes."""
        return self._half("decoder")

    def has_half(self, half: str) -> bool:
        """Return whether the network has a submodule of that name."""
        return isinstance(getattr(self.network, half, None), nn.Module)

    def _half(self, half: str) -> nn.Module:
        if not self.has_half(half):
            raise UserError(f"model.class={self._name}: expected a submodule {half}; give the class a self.{half}")
        part: nn.Module = getattr(self.network, half)
        return part

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.network.encode(x)  # type: ignore[operator]
        return z

    def decode(self, z: Tensor) -> Tensor:
        x_hat: Tensor = self.network.decode(z)  # type: ignore[operator]
        return x_hat

    def decaying_parameters(self, part: str = "weights") -> list[nn.Parameter]:
        """Return the result of the network's method ``decaying_parameters(part)`` if it has one, else all weights."""
        named = getattr(self.network, "decaying_parameters", None)
        return super().decaying_parameters(part) if named is None else list(named(part))

    @property
    def embedding_layer(self) -> nn.Module:
        """The network's attribute ``embedding_layer`` if it has one, else the last layer of its encoder."""
        named = getattr(self.network, "embedding_layer", None)
        return named if isinstance(named, nn.Module) else super().embedding_layer


def is_of_package(module: nn.Module) -> bool:
    """Return whether the classes of a network or a loss, and of all their parts, are ones of this package or torch."""
    return all(type(part).__module__.partition(".")[0] in ("dkm", "torch") for part in module.modules())


def require_halves(config: Config, autoencoder: Autoencoder) -> None:
    """Refuse settings that need one half of a network without such a submodule.

    Raises
    ------
    UserError
        If a setting needs a submodule that the network does not have.
    """
    if not isinstance(autoencoder, CustomAutoencoder):
        return
    settings = dotted(config)
    for half, key, is_needed in (
        ("encoder", "regularization.parameters", settings.get("regularization.parameters") == "encoder"),
        ("decoder", "regularization.parameters", settings.get("regularization.parameters") == "decoder"),
        ("encoder", "clustering.reset_every", settings.get("clustering.reset_every") is not None),
        ("decoder", "clustering.reconstruction", settings.get("clustering.reconstruction") == 0),
    ):
        remedy = f"give the class a self.{half}, or leave out {key}"
        ok = not is_needed or autoencoder.has_half(half)
        require(ok, key, settings.get(key), f"a submodule {half} of model.class={settings['model.class']}", remedy)
    reset_every = settings.get("clustering.reset_every")
    if reset_every is not None and not autoencoder.inner_parameters():
        expected = f"an encoder of model.class={settings['model.class']} with layers before its embedding_layer"
        require(False, "clustering.reset_every", reset_every, expected, "leave out clustering.reset_every")


def build_custom(
    config: CustomModelConfig, *, n_features: int, image_shape: tuple[int, int, int] | None, latent_dim: int
) -> Autoencoder:
    """Build the network of ``model=custom``.

    Raises
    ------
    UserError
        If the class cannot be imported or called, or its instance is not an autoencoder of these shapes.
    """
    name = class_of(config)
    key = f"model.class={name}"
    given = {"n_features": n_features, "latent_dim": latent_dim, "image_shape": image_shape}
    expected = "expected a torch.nn.Module with the methods encode and decode"
    make = import_named("model.class", name)
    network = construct("model", make, given, config.options) if callable(make) else make
    if not isinstance(network, nn.Module):
        raise UserError(f"{key}: {expected}, got {type(network).__name__}; derive the class from torch.nn.Module")
    missing = [method for method in ("encode", "decode") if not callable(getattr(network, method, None))]
    if missing:
        raise UserError(f"{key}: {expected}, but it has no {' and no '.join(missing)}; define them")
    autoencoder = network if isinstance(network, Autoencoder) else CustomAutoencoder(network, latent_dim, name)
    _check_shapes(autoencoder, n_features, latent_dim, key)
    return autoencoder


@torch.no_grad()
def _check_shapes(autoencoder: Autoencoder, n_features: int, latent_dim: int, key: str) -> None:
    with evaluation_mode(autoencoder):
        x = torch.zeros(2, n_features)
        z = _call(autoencoder.encode, x, (2, latent_dim), key)
        _call(autoencoder.decode, z, (2, n_features), key)


def _call(method: Callable[[Tensor], Tensor], rows: Tensor, shape: tuple[int, int], key: str) -> Tensor:
    """Return what ``encode`` or ``decode`` returns for two rows; refuse other things than a tensor of that shape."""
    name = method.__name__
    try:
        output: object = method(rows)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"{type(error).__name__}: {in_short(error)}{_place(error)}"
        raise UserError(
            f"{key}: {name} raised {what} for 2 rows {tuple(rows.shape)}; expected it to return {shape}; correct it: "
            "rows are flat, also those of images"
        ) from error
    if not isinstance(output, Tensor):
        raise UserError(
            f"{key}: expected {name} to return a tensor {shape} for 2 rows, got a {type(output).__name__}; return the "
            f"{'embedding' if name == 'encode' else 'reconstruction'} alone"
        )
    if output.shape != shape:
        raise UserError(
            f"{key}: expected {name} to return {shape} for 2 rows, got {tuple(output.shape)}; use the arguments "
            "n_features and latent_dim of its __init__"
        )
    return output


def _place(error: Exception) -> str:
    """Return where the user's code raised an error: its last line outside of this and the installed packages."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(place in frame.filename for place in ("site-packages", _PACKAGE))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
