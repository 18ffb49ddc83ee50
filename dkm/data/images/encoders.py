"""Pretrained networks that turn images into features: timm, torchvision, and ONNX files.

``find_image_encoder`` finds the weights and their digest; ``ImageEncoder.load`` loads the network, which a run whose
features are in the cache does not need. Weights are safetensors or state dicts, read with ``weights_only=True``.
"""

# Shapes: n images of a batch, H height, W width, F features.

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dkm.config.data import EncodedData
from dkm.data.builtin.torchvision import import_torchvision
from dkm.data.features import Features, digest_of_files, first_line, require_package, unusable_encoder_error
from dkm.data.files import expand
from dkm.errors import UserError, input_error
from dkm.runtime import checkpoints
from dkm.runtime.devices import find_device

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

BATCH = 64
# ImageNet's, which most networks are trained with.
_MEAN, _STD, _SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
_LOAD_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, ImportError)

# Networks of torchvision that normalize their input again, as their published weights need it.
_TRANSFORMED = ("googlenet", "inception_v3")
# The published weights of torchvision's DenseNets have norm.1 and so on for norm1.
_OLD_DENSENET_KEY = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")
# An entry (key, value) of an ONNX graph up to the length of the value, one or two bytes.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x00-\x7f]|[\x80-\xff][\x00-\x7f])", re.DOTALL)

Pixels = npt.NDArray[np.float32]


class Network(NamedTuple):
    """A loaded network."""

    # RGB image -> float32 (3, H, W), the network's own preprocessing; called by several threads
    prepare: Callable[[Image.Image], Pixels]
    # float32 (n, 3, H, W) -> float32 (n, F), after pooling
    encode: Callable[[Pixels], Features]


@dataclass(frozen=True)
class ImageEncoder:
    """An encoder of images whose weights were found but not loaded.

    Attributes
    ----------
    identity : dict
        What the model keeps and a prediction compares: name, digest of the weights, size, mean and std.
    version : str
        The library and its version, which also decide the last bits of the features.
    load : callable
        Returns the ``Network``; raises ``UserError``.
    earlier_digest : str, optional
        The digest that earlier versions computed, if it is another.
    """

    source: str
    identity: dict[str, Any]
    is_file: bool  # whether the name is a path, which does not decide the features
    version: str
    load: Callable[[], Network]
    earlier_digest: str | None = None


def find_image_encoder(config: EncodedData) -> ImageEncoder:
    """Return the encoder that ``data.encoder`` names.

    Raises
    ------
    UserError
        If its package is not installed, the name is unknown, or there are no weights.
    """
    assert config.encoder is not None
    source = f"data.encoder={config.encoder}"
    if config.encoder.endswith(".onnx"):
        if config.encoder_weights is not None:
            found, remedy = "an ONNX file has its own weights", "leave out data.encoder_weights"
            raise input_error(f"data.encoder_weights={config.encoder_weights}", found, "null", remedy)
        library, path = "onnxruntime", expand(config.encoder)
        installed = require_package(library, source, "onnx")
        load = functools.partial(_load_onnx, path, config, source)
    else:
        library, _, name = config.encoder.partition("/")
        if library == "torchvision":
            import_torchvision("torchvision", source)
        installed = require_package(library, source, "encoders")
        find, loader = _LIBRARIES[library]
        if config.encoder_weights is None:
            path = find(name, source)
        else:
            path, source = expand(config.encoder_weights), f"data.encoder_weights={config.encoder_weights}"
        load = functools.partial(loader, name, path, config, source)
    files = {"network": path} | (_external_weights(path) if library == "onnxruntime" else {})
    identity = {
        "name": config.encoder,
        "digest": digest_of_files(files, source),
        "size": config.encoder_size,
        "mean": config.encoder_mean,
        "std": config.encoder_std,
    }
    if library == "torchvision" and config.encoder.endswith(tuple(f"/{name}" for name in _TRANSFORMED)):
        identity["input"] = "transformed"  # earlier versions did not, so their models need another encoder
    earlier = {key: value for key, value in files.items() if key in ("network", "weights")}
    earlier_digest = digest_of_files(earlier, source) if earlier != files else None
    is_file = config.encoder.endswith(".onnx")
    return ImageEncoder(source, identity, is_file, f"{library} {installed}", load, earlier_digest)


def _external_weights(graph: Path) -> dict[str, Path]:
    """Return the files beside an ONNX graph that it names as the places of weights.

    Each is the value of an entry ``location`` of the graph's protocol buffers: its length as a varint, and its name.
    """
    usual = graph.with_name(f"{graph.name}.data")  # of torch.onnx; its name here is that of earlier versions
    files = {"weights": usual} if usual.exists() else {}
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for match in _LOCATION.finditer(content):
                n_bytes = match[1][0] if len(match[1]) == 1 else match[1][0] % 128 + 128 * match[1][1]
                name = content[match.end() : match.end() + n_bytes].decode("utf-8", "replace")
                place = graph.parent / name
                if place != usual and graph.parent in place.parents and ".." not in place.parts and place.is_file():
                    files[name] = place
    except (OSError, ValueError):  # an empty or missing file, which loading refuses
        pass
    return files


# --- weights ------------------------------------------------------------------------------------------------


def _published_timm_weights(name: str, source: str) -> Path:
    """Return the file of the published weights, downloaded to the user's cache if it is not there."""
    timm = import_torchvision("timm", source)
    from huggingface_hub import hf_hub_download

    config = timm.models.get_pretrained_cfg(name)
    if not timm.is_model(name):
        raise _unknown_network_error(name, timm.list_models(), source)
    if config is None or not config.hf_hub_id:
        raise _no_weights_error(source, "timm has no published weights for it")
    repository = f"{config.hf_hub_id}{name}" if config.hf_hub_id.endswith("/") else config.hf_hub_id
    file = config.hf_hub_filename or "model.safetensors"
    try:
        return Path(hf_hub_download(repository, file, local_files_only=True))
    except Exception:  # the client's errors have many types
        log.warning("%s is not in the cache; downloading %s", source, repository)
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:
        raise _no_weights_error(source, first_line(error)) from error


def _published_torchvision_weights(name: str, source: str) -> Path:
    models = import_torchvision("torchvision.models", source)
    if name not in models.list_models(models):
        raise _unknown_network_error(name, models.list_models(models), source)
    url = models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        log.warning("%s is not in the cache; downloading %s", source, url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = path.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise _no_weights_error(source, first_line(error)) from error
    return path


def _unknown_network_error(name: str, names: list[str], source: str) -> UserError:
    near = difflib.get_close_matches(name, names, n=1)
    library = source.removeprefix("data.encoder=").partition("/")[0]
    remedy = f"did you mean data.encoder={library}/{near[0]}?" if near else "correct data.encoder"
    return input_error(source, f"{library} has no such network", f"one of its {len(names):,} networks", remedy)


def _no_weights_error(source: str, found: str) -> UserError:
    expected = "weights in the user's cache, or a network to download them"
    return input_error(source, f"no weights ({found})", expected, "set data.encoder_weights=FILE.safetensors")


def _read_state_dict(path: Path, source: str) -> dict[str, Tensor]:
    """Read weights, safetensors or PyTorch's; nothing in the file is executed."""
    import safetensors.torch

    try:
        if path.suffix == ".safetensors":
            weights: Any = safetensors.torch.load_file(path)
            return dict(weights)
        with path.open("rb") as file:
            checkpoints.require_stored(file)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
        if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise ValueError(f"it holds a {type(weights).__name__}")
        return dict(weights)
    except Exception as error:  # pickle.UnpicklingError, SafetensorError, zipfile's and others
        found = f"cannot be read as weights ({first_line(error)})"
        expected = "safetensors, or a state dict that torch.load(weights_only=True) reads"
        raise input_error(source, found, expected, "write it with safetensors.torch.save_file") from error


# --- networks -----------------------------------------------------------------------------------------------


def _load_timm(name: str, path: Path, config: EncodedData, source: str) -> Network:
    timm = import_torchvision("timm", f"data.encoder={config.encoder}")
    if not timm.is_model(name):
        raise _unknown_network_error(name, timm.list_models(), f"data.encoder={config.encoder}")
    weights = _read_state_dict(path, source)
    size = config.encoder_size
    try:
        pretrained = timm.models.get_pretrained_cfg(name)
        is_fixed = size is not None and pretrained is not None and pretrained.fixed_input_size
        with _missing_keys() as missing:
            model = timm.create_model(
                name,
                pretrained=True,
                num_classes=0,
                pretrained_cfg_overlay={"state_dict": weights},
                **({"img_size": size} if is_fixed else {}),
            )
        input_size = None if size is None else (3, size, size)
        given = {"mean": config.encoder_mean, "std": config.encoder_std, "input_size": input_size}
        chosen = {key: value for key, value in given.items() if value is not None}
        data_config = timm.data.resolve_data_config(chosen, model=model)
        transform = timm.data.create_transform(**data_config, is_training=False)
    except _LOAD_ERRORS as error:
        raise unusable_encoder_error(source, error, f"the weights of timm/{name}") from error
    names = [key for key, _ in model.named_parameters()]
    if lacking := [key for key in names if key in missing]:
        found = f"it lacks {len(lacking):,} of {len(names):,} weights of timm/{name}, such as {lacking[0]}"
        remedy = "save the network's own state_dict(), without a prefix of its keys"
        raise input_error(source, found, "all of them", remedy)
    return Network(lambda image: transform(image).numpy(), _TorchNetwork(model))


@contextlib.contextmanager
def _missing_keys() -> Iterator[set[str]]:
    """Collect the weights that ``load_state_dict`` misses: without a classifier timm loads what it finds."""
    missing: set[str] = set()
    load_state_dict = nn.Module.load_state_dict

    def load_and_record(self: nn.Module, *args: Any, **options: Any) -> Any:
        result = load_state_dict(self, *args, **options)
        missing.update(result.missing_keys)
        return result

    with mock.patch.object(nn.Module, "load_state_dict", load_and_record):
        yield missing


def _load_torchvision(name: str, path: Path, config: EncodedData, source: str) -> Network:
    models = import_torchvision("torchvision.models", f"data.encoder={config.encoder}")
    if name not in models.list_models(models):
        raise _unknown_network_error(name, models.list_models(models), f"data.encoder={config.encoder}")
    weights = _read_state_dict(path, source)
    try:
        settings: dict[str, Any] = {"transform_input": True, "init_weights": False} if name in _TRANSFORMED else {}
        model = models.get_model(name, weights=None, **settings)
        n_classes = _classifier(model)[1].out_features
        head = next((value for key, value in reversed(weights.items()) if key.endswith("weight")), None)
        if head is not None and head.ndim == 2 and len(head) != n_classes:
            model = models.get_model(name, weights=None, num_classes=len(head), **settings)
        if name.startswith("densenet"):
            weights = {_OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in weights.items()}
        model.load_state_dict(weights)
        classifier, _ = _classifier(model)
        parent, _, child = classifier.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
        preset = models.get_model_weights(name).DEFAULT.transforms
        options: dict[str, Any] = {"mean": config.encoder_mean, "std": config.encoder_std}
        if config.encoder_size is not None:
            options |= {"crop_size": config.encoder_size, "resize_size": config.encoder_size}
        transform = preset(**{key: value for key, value in options.items() if value is not None})
    except _LOAD_ERRORS as error:
        raise unusable_encoder_error(source, error, f"the weights of torchvision/{name}") from error
    return Network(lambda image: transform(image).numpy(), _TorchNetwork(model))


def _classifier(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the name and the module of the last linear layer, the classifier of torchvision's networks."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the network has no linear classifier")
    return layers[-1]


_LIBRARIES = {
    "timm": (_published_timm_weights, _load_timm),
    "torchvision": (_published_torchvision_weights, _load_torchvision),
}


class _TorchNetwork:
    """The features of a network in evaluation mode, on the GPU if there is one."""

    def __init__(self, model: nn.Module) -> None:
        self._device = find_device("auto")
        # oneDNN and cuDNN convolve in this layout; converting each batch would cost more than the copy here.
        self._model = model.eval().requires_grad_(False).to(self._device).to(memory_format=torch.channels_last)

    def __call__(self, batch: Pixels) -> Features:
        x = torch.from_numpy(batch).to(self._device, memory_format=torch.channels_last)
        with torch.inference_mode():
            features: Features = self._model(x).float().cpu().numpy()
        return features


def _load_onnx(path: Path, config: EncodedData, source: str) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors derive from Exception
        raise unusable_encoder_error(source, error, "an ONNX file") from error
    expected = "one input of float32 images (n, 3, H, W)"
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shape) != 4 or shape[1] != 3:
        found = ", ".join(f"{part.name}: {part.type} {part.shape}" for part in inputs)
        raise input_error(source, f"its inputs are {found}", expected, "export the network with such an input")
    height, width = (side if isinstance(side, int) else config.encoder_size or _SIZE for side in shape[2:])
    if config.encoder_size not in (None, height) or config.encoder_size not in (None, width):
        key = f"data.encoder_size={config.encoder_size}"
        raise input_error(key, f"the graph has {height} x {width}", "its own size", "leave out data.encoder_size")
    prepare = functools.partial(
        _fit_and_normalize,
        size=(width, height),
        mean=np.array(config.encoder_mean or _MEAN, np.float32),
        std=np.array(config.encoder_std or _STD, np.float32),
    )
    n_fixed = shape[0] if isinstance(shape[0], int) else None

    def encode(batch: Pixels) -> Features:
        n = n_fixed or len(batch)
        parts = []
        for start in range(0, len(batch), n):
            part = batch[start : start + n]
            padded = np.concatenate([part, np.zeros((n - len(part), *part.shape[1:]), np.float32)])
            parts.append(_pool(session.run(None, {inputs[0].name: padded})[0], source)[: len(part)])
        return np.concatenate(parts)

    return Network(prepare, encode)


def _fit_and_normalize(image: Image.Image, *, size: tuple[int, int], mean: Pixels, std: Pixels) -> Pixels:
    """Resize and crop the center to a size (width, height), scale to [0, 1] and normalize each channel."""
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    pixels = (np.asarray(fitted, dtype=np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def _pool(output: npt.NDArray[Any], source: str) -> Features:
    """Return features (n, F); a map (n, F, H, W) is averaged over its pixels."""
    if output.ndim == 4:
        output = output.mean(axis=(2, 3))
    if output.ndim != 2:
        found, expected = f"its first output has shape {output.shape}", "features (n, F), or a map (n, F, H, W)"
        raise input_error(source, found, expected, "export the network up to its pooling")
    return output.astype(np.float32)
