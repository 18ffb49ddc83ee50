"""The image data sets of torchvision."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import contextlib
import io
import logging
from importlib import import_module
from typing import Any

import numpy as np
import torch

from dkm.config.data import TorchvisionData
from dkm.data.builtin.fetching import FETCH_ERRORS, root_of, unavailable
from dkm.data.raw import RawData
from dkm.errors import input_error, reason
from dkm.installation import pip_install

log = logging.getLogger(__name__)


def _idx_files(class_name: str) -> tuple[str, ...]:
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{class_name}/raw/{kind}-ubyte.gz" for kind in kinds)


# The class in torchvision.datasets, and the paths below data.root of the files that it downloads.
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mnist": ("MNIST", _idx_files("MNIST")),
    "fashion_mnist": ("FashionMNIST", _idx_files("FashionMNIST")),
    "kmnist": ("KMNIST", _idx_files("KMNIST")),
    "usps": ("USPS", ("usps.bz2", "usps.t.bz2")),
    "cifar10": ("CIFAR10", ("cifar-10-python.tar.gz",)),
    "stl10": ("STL10", ("stl10_binary.tar.gz",)),
}


def read_torchvision(config: TorchvisionData) -> RawData:
    datasets = import_torchvision("torchvision.datasets", f"data={config.name}")
    class_name, files = FILES[config.name]
    root, is_stl10 = root_of(config), config.name == "stl10"
    parts = []
    log.info("data=%s: reading %s; torchvision downloads what is missing", config.name, root)
    for split in ("train", "test") if config.split == "all" else (config.split,):
        argument = {"split": split} if is_stl10 else {"train": split == "train"}
        try:
            # torchvision prints progress bars to stderr. The pickles of CIFAR-10 are safe: torchvision checks their MD5
            # before it loads them.
            with contextlib.redirect_stderr(io.StringIO()):
                parts.append(getattr(datasets, class_name)(str(root), download=True, **argument))
        except FETCH_ERRORS as error:
            raise unavailable(config, files, error) from error
    X = np.concatenate([np.asarray(part.data) for part in parts])
    labels = np.concatenate([np.asarray(part.labels if is_stl10 else part.targets) for part in parts])
    return RawData(X, labels, value_range=(0.0, 255.0))


def import_torchvision(module: str, source: str) -> Any:
    """Import a module of torchvision, or of a package that needs it; only what uses torchvision calls this.

    Raises
    ------
    UserError
        If torchvision does not belong to the installed torch, or is missing.
    """
    try:
        import_module("torchvision")  # whose modules may be loaded though it is not
        return import_module(module)
    except (ImportError, RuntimeError, AttributeError) as error:
        # RuntimeError "operator torchvision::nms does not exist" means that it was built for another torch.
        found = f"torchvision cannot be imported ({reason(error)})"
        expected = f"the release that belongs to torch {torch.__version__}"
        command = pip_install("--force-reinstall", "torch", "torchvision")
        raise input_error(source, found, expected, f"install the matching pair together: {command}") from error
