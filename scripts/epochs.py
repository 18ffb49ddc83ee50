"""Training epochs for timing: the trainer's, and a bare loop's. Only this script uses the trainer's internals."""

# Shapes: N samples, B batch, F input features, D latent, K clusters.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from dkm.clustering.lloyd import kmeans
from dkm.config.clustering import JointClusteringConfig
from dkm.config.compose import compose, parse
from dkm.config.model import MLPConfig
from dkm.data.datasets import Dataset, load_dataset
from dkm.data.scaling import Scaling
from dkm.runs.directory import RunDirectory
from dkm.runtime.devices import deterministic
from dkm.training.state import TrainState
from dkm.training.trainer import Trainer

_MNIST_SAMPLES, _MNIST_SHAPE = 70_000, (1, 28, 28)
# So that no timed epoch or step is the last or an evaluated one.
_NEVER = 10**6


def load(*overrides: str) -> Dataset:
    return load_dataset(compose(parse([*overrides])).config.data)


def random_images(n_samples: int) -> Dataset:
    """Return uniform noise with the shape and range of MNIST's images, and labels of ten classes."""
    image_size = int(np.prod(_MNIST_SHAPE))
    X = torch.rand(n_samples, image_size, generator=torch.Generator().manual_seed(0))
    return Dataset("noise", X, np.arange(n_samples) % 10, _MNIST_SHAPE, Scaling("none", image_size), sha256="")


def mnist(root: str | None, n_samples: int | None = None) -> Dataset:
    """Return the first ``n_samples`` of MNIST from ``root``, or noise of its shape if that is None."""
    if root is None:
        return random_images(n_samples or _MNIST_SAMPLES)
    return first_rows(load("data=mnist", f"data.root={root}"), n_samples)


def first_rows(data: Dataset, n_samples: int | None) -> Dataset:
    y = None if data.y is None else data.y[:n_samples]
    return Dataset(data.name, rows_of(data)[:n_samples], y, data.image_shape, data.scaling, data.sha256)


def rows_of(data: Dataset) -> Tensor:
    assert isinstance(data.X, Tensor), "in memory"
    return data.X


class OurEpochs:
    """The trainer within a phase; a call trains one epoch, ``steps`` only its steps.

    An epoch includes what every epoch of a run has: the order of the batches, augmentation, the steps, the check for
    non-finite values, and in the joint phase the pass over the unaugmented data with new assignments and revival. It
    excludes work at intervals: evaluation, TensorBoard, checkpoints. The centroids are initialized by k-means; training
    is on the CPU.

    Parameters
    ----------
    data : Dataset
    *overrides : str
        Overrides of the config, as on the command line, without ``data``.
    phase : {"joint", "pretrain"}
        Phase to train.
    """

    def __init__(self, data: Dataset, *overrides: str, phase: str = "joint") -> None:
        fixed = [
            "recipe=classic",
            "device=cpu",
            f"evaluation.every_epochs={_NEVER}",
            "joint.tolerance=0",
            "checkpoint.every_s=1e9",
        ]
        fixed += [f"pretrain.epochs={_NEVER}", f"joint.epochs={_NEVER}", "pretrain.schedule=constant"]
        self.config = compose(parse([*fixed, *overrides])).config
        self.settings = self.config.joint if phase == "joint" else self.config.pretrain
        self.is_joint = phase == "joint"
        clustering = self.config.clustering
        self.weight = clustering.weight if isinstance(clustering, JointClusteringConfig) else 0.0
        trainer = self.trainer = Trainer(self.config, data)
        trainer.run_dir = RunDirectory(Path(gettempdir()), progress="off")  # nothing is written
        trainer.progress.state = TrainState(phase, epoch=1)  # the first epoch is evaluated
        if self.is_joint:
            z = trainer.embed()
            clusters = kmeans(z, trainer.n_clusters, n_init=1)
            trainer.clustering.initialize(clusters.centroids, clusters.labels, z)
        self._phase = trainer.begin(self.settings)
        self._bar = tqdm(disable=True)

    def __call__(self) -> None:
        with deterministic(self.config.deterministic):
            self.trainer._train_epoch(self._phase, self.settings, self._bar)
            self.trainer._end_epoch(self._phase, self.settings, {})

    def steps(self) -> None:
        with deterministic(self.config.deterministic):
            self.trainer._train_epoch(self._phase, self.settings, self._bar)
        self.trainer.progress.state.batch = 0


class BareEpochs:
    """A minimal hand-written loop with the network, batch size, precision and data of ``ours``.

    Index a tensor, forward, MSE (in the joint phase plus the squared distance to assigned, learnable centroids),
    backward, fused Adam. No augmentation, logging, checks, or new assignments.
    """

    def __init__(self, ours: OurEpochs) -> None:
        trainer, config = ours.trainer, ours.config
        assert isinstance(config.model, MLPConfig) and config.model.hidden is not None
        widths = [trainer.data.n_features, *config.model.hidden, trainer.latent_dim]
        self._X, self._batch_size, self._weight = rows_of(trainer.data), config.batch_size, ours.weight
        self._is_bf16 = config.precision == "bf16"
        self._encoder, self._decoder = _layers(widths), _layers(widths[::-1])
        self._centroids = nn.Parameter(trainer.clustering.centroids.detach().clone())
        self._labels = trainer.clustering.assignments.clone() if ours.is_joint else None
        parameters = [*self._encoder.parameters(), *self._decoder.parameters(), self._centroids]
        self._optimizer = torch.optim.Adam(parameters, lr=ours.settings.lr, fused=True)

    def __call__(self) -> None:
        for index in torch.split(torch.randperm(len(self._X)), self._batch_size):
            loss = self._loss(self._X[index], index)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def _loss(self, x: Tensor, index: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._is_bf16):
            z: Tensor = self._encoder(x)  # (B, D)
            x_hat = self._decoder(z)
        loss = F.mse_loss(x_hat.float(), x)
        if self._labels is None:
            return loss
        return loss + self._weight * (z.float() - self._centroids[self._labels[index]]).square().sum(1).mean()


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
