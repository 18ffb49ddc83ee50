"""The model of a finished run, read from its ``model/`` folder alone: preprocessing, encoder, centroids.

Nothing in the folder is executed: the weights are safetensors, the rest is JSON.
"""

# Shapes: n rows, F input features, D latent, K clusters.

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dkm.config.custom import require_named_by_user
from dkm.config.model import MODELS, LayersConfig
from dkm.config.resolved import read_yaml
from dkm.config.run import Config
from dkm.config.schema import to_dict
from dkm.config.settings import section_from
from dkm.data.datasets import Dataset, cell_name
from dkm.data.files import expand
from dkm.data.scaling import Array, Scaling, to_rows
from dkm.data.stored import CHUNK_ROWS
from dkm.errors import UserError, input_error, reason
from dkm.models.autoencoder import Autoencoder, evaluation_mode
from dkm.models.build import build_autoencoder
from dkm.models.description import FORMAT_VERSION, check_description, read_description, with_digest
from dkm.runtime.atomic import write_atomically

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
# The key of the description with the SHA-256 of the weights.
_DIGEST = "weights_sha256"
_PREFIX = "autoencoder."
# The config of the run whose model it is, beside the folder.
_CONFIG = "config.yaml"


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A trained model, ready to assign rows."""

    autoencoder: Autoencoder
    centroids: Tensor  # (K, D)
    scaling: Scaling
    image_shape: tuple[int, int, int] | None
    # For a table: column names and the values that replace missing ones, (F,).
    features: tuple[str, ...] | None
    fill: tuple[float, ...] | None
    # What the reader of the data needs to read further rows alike, as JSON values.
    plan: Mapping[str, Any] | None
    # How the data of the run were read: the `data` section without its paths.
    reading: Mapping[str, Any]
    # Mean squared distance of the training rows to their centroids, per latent dimension.
    variance: float | None

    # The `model` section of the config, with its name.
    section: Mapping[str, Any]
    # The name of the data set, for information.
    data: str = ""

    @classmethod
    def of(
        cls, config: Config, data: Dataset, autoencoder: Autoencoder, centroids: Tensor, inertia: float
    ) -> SavedModel:
        """Return the model of a run; ``inertia`` is the inertia of its final clustering."""
        settings = to_dict(config)
        return cls(
            autoencoder,
            centroids,
            data.scaling,
            data.image_shape,
            data.features,
            None if data.fill is None else tuple(data.fill.tolist()),
            data.plan,
            {key: value for key, value in settings["data"].items() if key not in ("name", "root", "path")},
            inertia / (data.n_samples * centroids.shape[1]),
            settings["model"],
            data.name,
        )

    @property
    def n_clusters(self) -> int:
        return len(self.centroids)

    def to(self, device: torch.device) -> SavedModel:
        """Return the model with its tensors on the device."""
        self.autoencoder.to(device)
        return SavedModel(**{**self.__dict__, "centroids": self.centroids.to(device)})

    @torch.no_grad()
    def embed(self, rows: Tensor) -> Tensor:
        """Return the embedding (n, D) of scaled rows (n, F), in the chunks of training, so bit for bit as there."""
        with evaluation_mode(self.autoencoder):
            pieces = [
                self.autoencoder.encode(piece.to(self.centroids.device)) for piece in torch.split(rows, CHUNK_ROWS)
            ]
        return torch.cat(pieces)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to store: the weights of the autoencoder and the centroids."""
        weights = {f"{_PREFIX}{name}": value for name, value in self.autoencoder.state_dict().items()}
        return {**weights, "centroids": self.centroids.detach()}

    def description(self) -> dict[str, Any]:
        """Return everything but the tensors, as JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "model": dict(self.section),
            "n_features": self.scaling.n_features,
            "image_shape": self.image_shape,
            "latent_dim": self.centroids.shape[1],
            "n_clusters": self.n_clusters,
            "scaling": self.scaling.to_dict(),
            "data": self.data,
            "features": self.features,
            "fill": self.fill,
            "plan": self.plan,
            "reading": dict(self.reading),
            "variance": self.variance,
        }

    def save(self, folder: Path) -> None:
        """Write the ``model/`` folder: the tensors as safetensors, the rest as JSON, each with its SHA-256 there."""
        folder.mkdir(exist_ok=True)
        cpu = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        weights = safetensors.torch.save(cpu)
        write_atomically(folder / WEIGHTS, weights)
        description = with_digest({**self.description(), _DIGEST: hashlib.sha256(weights).hexdigest()})
        write_atomically(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())

    def memberships(self, z: Tensor) -> Tensor:
        """Return the soft memberships (n, K) of embedded rows z (n, D); each row sums to 1.

        They are the posterior of a mixture of Gaussians with equal weights and one spherical variance, estimated from
        the training rows around their centroids. k-means is its hard limit.
        """
        squared = torch.cdist(z.double(), self.centroids.double()).square()
        variance = 1.0 if self.variance is None else max(self.variance, 1e-30)
        return torch.softmax(-squared / (2 * variance), dim=1).float()


def load_model(run: str, model_class: str | None = None) -> SavedModel:
    """Read the model of a run directory, or a ``model/`` folder itself.

    Parameters
    ----------
    run : str
        Path of the run directory or model folder.
    model_class : str, optional
        Dotted name of the class of a ``model=custom`` model. The name stored in the folder is never imported.

    Raises
    ------
    UserError
        If the folder does not exist or does not contain a model.
    """
    folder, source = expand(run, "run"), f"run={run}"
    if not folder.is_dir():
        raise input_error(source, "no such folder", "a run directory, or its model/ folder", "correct run")
    if (folder / "model").is_dir():
        folder = folder / "model"
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            found = f"no {name} in it"
            raise input_error(source, found, "the model of a finished run", f"finish the run: resume={run}")
    try:
        description = read_description(folder / DESCRIPTION)
    except (ValueError, OSError) as error:
        raise _wrong_description_error(source, folder, error) from error
    section = description["model"]
    if section["name"] not in MODELS:
        raise _unknown_network_error(source, folder, section["name"])
    is_custom = section["name"] == "custom"
    if is_custom:
        named = [] if model_class is None else [f"model.class={model_class}"]
        require_named_by_user({"model.class": section.get("class")}, named, str(folder / DESCRIPTION))
        description["model"] = {**section, "class": model_class}
    try:
        check_description(description)
    except (ValueError, UserError) as error:
        raise _wrong_description_error(source, folder, error) from error
    try:
        weights = (folder / WEIGHTS).read_bytes()
        _require_digest(weights, description.get(_DIGEST))
        return _build_model(description, safetensors.torch.load(weights))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, safetensors.SafetensorError, UserError) as error:
        if is_custom and isinstance(error, UserError):  # its message is about the class
            raise
        raise _unreadable_model_error(source, folder, error) from error


def _unknown_network_error(source: str, folder: Path, name: str) -> UserError:
    """Return the error about a network of a plugin, with the modules that the run names; none of them is imported."""
    try:
        named = read_yaml(folder.parent / _CONFIG).get("plugins") or []
        modules = ",".join(module for module in named if isinstance(module, str)) or "MODULE"
    except (UserError, AttributeError, TypeError):  # a copy of the model folder alone, or a damaged file
        modules = "MODULE"
    what = f"{DESCRIPTION}: model.name: {name[:60]!r}, expected one of {', '.join(MODELS)}"
    found = f"the model in {folder} cannot be read ({what})"
    remedy = f"add {shlex.quote(f'plugins={modules}')} if you trust it, or in Python import it; else"
    return input_error(source, found, "what a run writes, or its plugin", f"{remedy} copy the folder again")


def _wrong_description_error(source: str, folder: Path, error: Exception) -> UserError:
    found = f"the model in {folder} cannot be read ({DESCRIPTION}: {reason(error)})"
    return input_error(source, found, "what a run writes", "copy the folder again")


def _unreadable_model_error(source: str, folder: Path, error: Exception) -> UserError:
    found = f"the model in {folder} cannot be read ({reason(error)})"
    return input_error(source, found, "what a run writes", "copy the folder again")


def _require_digest(weights: bytes, expected: object) -> None:
    """Refuse weights other than those that were written; models of earlier versions have no SHA-256."""
    if expected not in (None, hashlib.sha256(weights).hexdigest()):
        raise ValueError(f"{WEIGHTS} is damaged or altered: its SHA-256 is not the one in {DESCRIPTION}")


def _build_model(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedModel:
    section = dict(description["model"])
    config = section_from(MODELS[section["name"]].config, section)
    shape = description["image_shape"]
    image_shape = None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2]))
    weights = {k.removeprefix(_PREFIX): v for k, v in tensors.items() if k.startswith(_PREFIX)}
    sizes = description["n_features"], image_shape, description["latent_dim"]
    if isinstance(config, LayersConfig):  # networks of this package: nothing is allocated before the sizes are known
        with torch.device("meta"):
            _require_shapes(build_autoencoder(config, *sizes, seed=0), weights)
    autoencoder = build_autoencoder(config, *sizes, seed=0)
    autoencoder.load_state_dict(weights)
    autoencoder.requires_grad_(False).eval()  # see `evaluation_mode`: nothing to switch while threads predict
    centroids = tensors["centroids"]
    if centroids.shape != (description["n_clusters"], description["latent_dim"]):
        raise ValueError(f"centroids of shape {tuple(centroids.shape)}")
    own = autoencoder.state_dict()  # integers are counters of a user's own network, such as that of batch norm
    has_same_kinds = all(weights[name].is_floating_point() == own[name].is_floating_point() for name in own)
    is_finite = all(bool(tensor.isfinite().all()) for tensor in (*weights.values(), centroids))
    if not (has_same_kinds and is_finite and centroids.is_floating_point()):
        raise ValueError("weights that are not finite numbers")
    features, fill = description.get("features"), description.get("fill")
    return SavedModel(
        autoencoder,
        centroids,
        Scaling.from_dict(description["scaling"]),
        image_shape,
        None if features is None else tuple(features),
        None if fill is None else tuple(fill),
        description.get("plan") or (None if features is None else {"features": features, "fill": fill}),
        description.get("reading", {}),
        description.get("variance"),
        section,
        str(description.get("data", "")),
    )


def _require_shapes(autoencoder: Autoencoder, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of the network that is described."""
    expected = {name: tuple(tensor.shape) for name, tensor in autoencoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            shapes = f"{found.get(name, 'missing')}, {DESCRIPTION} describes {expected.get(name, 'none')}"
            raise ValueError(f"{WEIGHTS}: {name}: {shapes}")


def scaled_rows(model: SavedModel, X: Array, source: str, index: Array) -> Array:
    """Convert rows or images (n, ...) to the model's scaled float32 rows (n, F); ``index`` (n,) is for messages.

    Raises
    ------
    UserError
        If the number of features differs from the model's, or a value is not finite.
    """
    rows = to_rows(X)
    if rows.shape[1] != model.scaling.n_features:
        expected = f"{model.scaling.n_features}, as in the data that the model was trained on"
        raise input_error(source, f"{rows.shape[1]} features", expected, "give it data of the same kind")
    if model.scaling.kind == "counts" and rows.min() < 0:
        row, column = np.argwhere(rows < 0)[0]
        found = f"{rows[row, column]} in {cell_name(index[row], column, model.features)}"
        raise input_error(source, found, "counts, 0 or more, as in training", "give it counts that are not yet scaled")
    with np.errstate(over="ignore"):
        scaled = model.scaling.apply(rows)
    if not torch.from_numpy(scaled).sum().isfinite() and not np.isfinite(scaled).all():
        row, column = np.argwhere(~np.isfinite(scaled))[0]
        where = cell_name(index[row], column, model.features)
        found = f"a value that is NaN, infinite or too large for float32 in {where}"
        raise input_error(source, found, "finite numbers", "replace it, or leave out the row")
    return scaled
