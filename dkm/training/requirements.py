"""What a run requires of the data, of the machine, and of the other processes of its job."""

from __future__ import annotations

import textwrap
from typing import Any

import torch

from dkm.config.checks import require
from dkm.config.roles import that_processes_share
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.config.sinks import SINKS
from dkm.data.datasets import Dataset
from dkm.errors import UserError
from dkm.evaluation.figures import plane
from dkm.installation import install_command
from dkm.runtime import distributed
from dkm.runtime.devices import require_compiler
from dkm.runtime.environment import versions


def resolve_n_clusters(config: Config, data: Dataset) -> int:
    """Return the number of clusters: ``clustering.n_clusters``, or the number of classes of labeled data."""
    asked = config.clustering.n_clusters
    if isinstance(asked, str):  # dkm.training.n_clusters finds the number first
        raise UserError(
            f"clustering.n_clusters={asked}: expected a number, as a trainer finds none; for example "
            "clustering.n_clusters=10"
        )
    K = asked or data.n_classes
    if K is None:
        raise UserError(
            f"clustering.n_clusters=null: expected a number, as data={data.name} has no labels to count classes by; "
            "for example clustering.n_clusters=10, or clustering.n_clusters=auto to find one"
        )
    if data.n_samples < K:
        raise UserError(
            f"clustering.n_clusters={K}: expected at most n_samples={data.n_samples}; lower it or load more data"
        )
    for key in ("init_samples", "partition_samples"):
        if (value := getattr(config.clustering, key)) < K:
            raise UserError(f"clustering.{key}={value}: expected at least the number of clusters, {K}; raise it")
    return K


def require_packages(config: Config, device: torch.device) -> None:
    """Refuse settings whose compiler or package is not installed."""
    if config.compile:
        require_compiler(device)
    if config.log.figures and not plane.is_available(config.log.map):
        what = f"log.map={config.log.map}: expected its package"
        raise UserError(f"{what}; install it: {install_command(config.log.map)}, or choose log.map=tsne")
    for name in config.log.sinks:
        SINKS[name].require_installed()


def require_labels_kept(config: Config) -> None:
    """Refuse resets of the weights, which cluster anew, where the labels of the start are to be learned."""
    every = getattr(config.clustering, "reset_every", None)
    require(
        not config.holds_labels or every is None,
        *("clustering.reset_every", every, "null with joint.hold_labels=true, as a reset clusters anew"),
        "set joint.hold_labels=false",
    )


_MAX_ERROR = 300


def check_sinks(config: Config) -> None:
    """Refuse sinks that cannot be used, such as a server that nobody has logged in to; imports their packages."""
    for name in config.log.sinks:
        try:
            SINKS[name].load().check()
        except UserError:
            raise
        except Exception as error:  # of the package: it cannot be imported, or does not take a variable or a key
            what = textwrap.shorten(f"{type(error).__name__}: {error}", _MAX_ERROR, placeholder=" ...")
            raise UserError(
                f"log.to={name}: {what}; expected a sink that can be used; correct that, or leave {name} out of log.to"
            ) from error


def require_rows_for_all_processes(config: Config, data: Dataset, n_batches: int) -> None:
    """Refuse more processes than the smallest batch has rows."""
    n_processes, smallest = distributed.world_size(), data.n_samples // n_batches
    if n_processes > smallest:
        raise UserError(
            f"torchrun with {n_processes} processes: expected at most {smallest}, the rows of the smallest batch "
            f"(batch_size={config.batch_size}, {data.n_samples} samples); start fewer processes"
        )


def identity(config: Config, data: Dataset, device: torch.device) -> dict[str, Any]:
    """Return what must be the same in all processes that train together."""
    settings = that_processes_share(dotted(config))
    software = {f"the version of {name}": versions()[name] for name in ("dkm", "torch")}
    return settings | software | {f"the SHA-256 of data={data.name}": data.sha256, "device": device.type}
