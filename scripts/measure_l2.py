"""Measures how much the weights differ between weight decay and an explicit L2 penalty.

Prints the table of docs/explanation/regularization.md.

    python scripts/measure_l2.py

Both train the whole loss, reconstruction and k-means with learnable centroids, on scikit-learn's digits: full batches,
the same initial weights, 200 steps. Both have the same strength and regularize the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.data import DigitsData
from dkm.config.model import MLPConfig
from dkm.config.optimizer import AdamConfig, AdamWConfig, OptimizerConfig, SGDConfig
from dkm.config.regularization import L2PenaltyConfig, WeightDecayConfig
from dkm.data.datasets import load_dataset
from dkm.models.build import build_autoencoder
from dkm.models.regularization import parameter_groups, regularized_parameters
from dkm.training.objective import Objective
from dkm.training.optimizers import build_optimizer

N_STEPS, STRENGTH, WEIGHT, K = 200, 0.01, 0.1, 10
OPTIMIZERS: dict[str, tuple[OptimizerConfig, float]] = {
    "sgd": (SGDConfig(momentum=0.9), 0.05),
    "adam": (AdamConfig(), 1e-3),
    "adamw": (AdamWConfig(), 1e-3),
}


def train(optimizer: str, form: type[WeightDecayConfig | L2PenaltyConfig], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return all parameters before and after training."""
    autoencoder = build_autoencoder(MLPConfig(hidden=[128, 64]), x.shape[1], None, K, seed=0).to(x.dtype)
    clustering = KMeansClustering(K, K, len(x), hold_assignments=False, revive=False).to(x.dtype)
    with torch.no_grad():
        clustering.centroids.copy_(autoencoder.encode(x)[:K])
    regularization = form(strength=STRENGTH)
    regularized = regularized_parameters(regularization, autoencoder, clustering.centroids)
    penalized = regularized if form is L2PenaltyConfig else ()
    objective = Objective(autoencoder, clustering, clustering_weight=WEIGHT, penalized=penalized, l2_strength=STRENGTH)
    config, lr = OPTIMIZERS[optimizer]
    stepper = build_optimizer(config, parameter_groups(regularization, objective.parameters(), regularized), lr)

    def weights() -> Tensor:
        return torch.cat([p.detach().flatten() for p in objective.parameters()])

    before, index = weights(), torch.arange(len(x))
    for _ in range(N_STEPS):
        stepper.zero_grad()
        objective(x, index).total.backward()
        stepper.step()
    return before, weights()


def main() -> None:
    """Print the table."""
    X = load_dataset(DigitsData()).X
    assert isinstance(X, Tensor)
    print("| optimizer | float64 | float32 | moved by up to, with `weight_decay` |\n|---|---|---|---|")
    for optimizer in OPTIMIZERS:
        cells = []
        for dtype in (torch.float64, torch.float32):
            before, decay = train(optimizer, WeightDecayConfig, X.to(dtype))
            _, penalty = train(optimizer, L2PenaltyConfig, X.to(dtype))
            cells.append(f"{(decay - penalty).abs().max():.0e}")
            moved = (decay - before).abs().max().item()
        print(f"| `{optimizer}` | {' | '.join(cells)} | {moved:.2f} |")


if __name__ == "__main__":
    main()
