"""Times the trainer's epochs against a bare loop over the same network, batch size, precision and data.

The bare loop is what one would write by hand: index a tensor, forward, MSE (in the joint phase plus the squared
distance to given centroids), backward, fused Adam; no augmentation, no logging, no checks, no assignments. Both take
turns, so that what else the machine does hits both; the table shows medians and their ratio.

    python scripts/benchmark_epoch.py --root DIRECTORY_WITH_MNIST [--repeats 5] [--precision bf16] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from dkm.compose import compose, parse
from dkm.config import PhaseConfig
from dkm.data import load_dataset
from dkm.kmeans import assign
from dkm.rundir import RunDirectory
from dkm.trainer import Trainer


def bare_epoch(trainer: Trainer, model: nn.Module, optimizer: torch.optim.Optimizer, centroids: Tensor | None) -> None:
    """Train one epoch; ``model`` returns embedding and reconstruction."""
    is_bf16 = trainer.config.precision == "bf16"
    labels = None if centroids is None else trainer.clustering.assignments
    for index in torch.split(torch.randperm(len(trainer.X)), trainer.config.batch_size):
        x = trainer.X[index]
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            z, x_hat = model(x)
        loss = F.mse_loss(x_hat.float(), x)
        if centroids is not None and labels is not None:
            loss = loss + trainer.weight * (z.float() - centroids[labels[index]]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class _Bare(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.encoder, self.decoder = (self._half(w) for w in (widths, widths[::-1]))

    @staticmethod
    def _half(widths: list[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        return z, self.decoder(z)


def seconds(work: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def compare(trainer: Trainer, phase: PhaseConfig, repeats: int) -> dict[str, float]:
    """Time epochs of one phase; the trainer's include augmentation and, in the joint phase, the pass for the labels."""
    is_joint = phase is trainer.config.joint
    trainer.at.phase_idx = int(is_joint)
    trainer.at.epoch = 1  # the first epoch is evaluated, which is not timed here
    trainer._build(phase)
    trainer._clock_s = time.perf_counter()
    data = trainer.data
    model = _Bare([data.n_features, 500, 500, 2000, trainer.latent_dim])
    parameters = list(model.parameters())
    centroids = None
    if is_joint:
        z = trainer.autoencoder.encode(trainer.X[:5000]).detach()
        with torch.no_grad():
            trainer.clustering.centroids.copy_(z[: trainer.n_clusters])
            trainer.clustering.assignments.copy_(assign(trainer.autoencoder.encode(trainer.X), z[:10]).labels)
        centroids = nn.Parameter(z[: trainer.n_clusters].clone())
        parameters.append(centroids)
    optimizer = torch.optim.Adam(parameters, lr=phase.lr, fused=True)
    bar = tqdm(disable=True)

    def ours() -> None:
        trainer._train_epoch(phase, 10**6, bar)
        trainer._end_epoch(phase, is_joint, bar)

    times: dict[str, list[float]] = {"bare": [], "dkm": []}
    for _ in range(repeats):
        times["bare"].append(seconds(lambda: bare_epoch(trainer, model, optimizer, centroids)))
        times["dkm"].append(seconds(ours))
    medians = {f"{name}_s": statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": statistics.median(b / a for a, b in zip(times["bare"], times["dkm"], strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder with MNIST/raw")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    epochs = options.repeats + 10
    overrides = ["data=mnist", f"data.root={options.root}", f"precision={options.precision}"]
    overrides += [f"pretrain.epochs={epochs}", f"joint.epochs={epochs}", f"evaluation.every_epochs={epochs}"]
    overrides += ["joint.tolerance=0", "pretrain.schedule=constant", "pretrain.lr=0.001", "checkpoint.every_s=1e9"]
    config = compose(parse(overrides)).config
    trainer = Trainer(config, load_dataset(config.data))
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        trainer.run_dir = RunDirectory(Path(directory), tensorboard=False, progress="off")
        for phase in (config.pretrain, config.joint):
            table[phase.section] = compare(trainer, phase, options.repeats)
    threads = torch.get_num_threads()
    print(f"MNIST, {trainer.data.n_samples} images, {options.precision}, batch {config.batch_size}, {threads} threads")
    print(f"{'epoch':10}{'bare loop':>12}{'dkm':>10}{'ratio':>8}")
    for name, row in table.items():
        print(f"{name:10}{row['bare_s']:>10.2f} s{row['dkm_s']:>8.2f} s{row['ratio']:>8.2f}")
    if options.json is not None:
        options.json.write_text(
            json.dumps({"precision": options.precision, "threads": threads, **table}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
