"""The losses without the application: torch and numpy, and none of the packages that a run needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = (
    *("hydra", "omegaconf", "yaml", "sklearn", "scipy", "pandas", "matplotlib", "joblib", "safetensors"),
    *("tensorboard", "torchvision", "tqdm", "PIL"),
)
BLOCK = f"""
import sys
from importlib.util import spec_from_loader

class Blocker:  # torch asks whether some of them are installed, which is no import
    def find_spec(self, name, path=None, target=None):
        return spec_from_loader(name, self) if name.partition(".")[0] in {BLOCKED} else None

    def create_module(self, spec):
        raise ImportError(f"{{spec.name}} is blocked")

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, Blocker())
"""
TRAIN = (
    BLOCK
    + """
import torch
from dkm import KMeansLoss, kmeans, kmeans_loss, l2_penalty, soft_kmeans_loss

torch.manual_seed(0)
centers = torch.tensor([[0.0, 0, 0, 0], [5, 5, 0, 0], [0, 5, 5, 0]])
x = centers.repeat(20, 1) + 0.1 * torch.randn(60, 4)
encoder, decoder = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
clustering = KMeansLoss(n_clusters=3, latent_dim=2)
labels = clustering.initialize(encoder(x))
assert (labels.view(20, 3) == labels[:3]).all(), labels
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *clustering.parameters()], lr=1e-2)
losses = []
for _ in range(10):
    z = encoder(x)
    loss = torch.nn.functional.mse_loss(decoder(z), x) + 0.1 * clustering(z) + 1e-6 * l2_penalty(encoder.parameters())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
z = encoder(x).detach()
hard, soft = kmeans_loss(z, clustering.centroids), soft_kmeans_loss(z, clustering.centroids, alpha=1e4)
torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-6)
assert kmeans(z, 3).inertia <= len(z) * hard.item() * (1 + 1e-5)
"""
)


def run(program: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr[-2000:] if done.returncode else ""


@pytest.mark.thorough
def test_ten_steps_with_the_losses_need_torch_and_numpy_only() -> None:
    assert run(TRAIN) == ""


@pytest.mark.thorough
def test_the_estimator_is_the_application() -> None:
    assert "is blocked" in run(f"{BLOCK}\nfrom dkm import DeepKMeans")
