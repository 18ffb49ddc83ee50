"""``dkm checks``: print what a bug report needs, and test the loss for two seconds.

    python -m dkm.checks

Versions of the packages, system, processor, cores, memory, GPU, threads, data root, and which optional extras are
installed. A package that cannot be imported is shown with the reason. The exit code is 1 if torch cannot be imported
or the loss differs from its definition.
"""

# Shapes: N points, D dimensions, K centroids.

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from dkm.config.commands import main as run_command
from dkm.config.values import absolute
from dkm.config.verbs import screen
from dkm.errors import Failure, UserError, in_short
from dkm.runtime.environment import cpu_name, version_of

_PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "hydra-core", "omegaconf"),
    *("safetensors", "matplotlib", "tensorboard", "fsspec"),
)
# The modules of each extra.
EXTRAS = {
    "anndata": ("h5py",),
    "encoders": ("huggingface_hub", "timm"),
    "hdf5": ("h5py",),
    "mlflow": ("alembic", "mlflow", "sqlalchemy"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "optuna": ("optuna", "sqlalchemy"),
    "sweep": ("hydra_plugins.hydra_joblib_launcher", "hydra_plugins.hydra_submitit_launcher"),
    "text": ("huggingface_hub", "sentence_transformers", "transformers"),
    "umap": ("umap",),
    "wandb": ("wandb",),
    "zarr": ("zarr",),
}
_WIDTH = 16
_TEST_S = 2.0
# Of float64 sums of a few thousand squares.
_TOLERANCE = 1e-9


def main() -> None:
    """Run the command line and exit with its code."""
    if len(sys.argv) == 1:
        sys.argv.append("checks")  # a command without words would print its help
    run_command(work, screen("checks"))


def work(words: Sequence[str]) -> None:
    """Print the report.

    Raises
    ------
    Failure
        If torch cannot be imported, or the self test fails.
    """
    if list(words) != ["checks"]:
        raise UserError(f"{' '.join(words)}: expected no argument; write dkm checks")
    for name, value in [*_software(), *_machine(), *_places(), *_extras()]:
        print(f"{name:<{_WIDTH}}{value}", flush=True)
    torch_error = _import_error("torch")
    if torch_error is not None:
        raise Failure(f"torch cannot be imported: {torch_error}; install torch and torchvision from one source")
    n_tests, difference = compare_loss()
    shown = f"{n_tests:,} losses against their broadcast form, largest relative difference {difference:.1e}"
    print(f"{'self test':<{_WIDTH}}{shown}")
    if not difference <= _TOLERANCE:
        raise Failure(f"the loss differs from its definition by {difference:.1e}, more than {_TOLERANCE:g}; report it")


def _software() -> Iterator[tuple[str, str]]:
    yield "dkm", str(import_module("dkm").__version__)
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    for name in _PACKAGES:
        found = version_of(name)
        module = {"scikit-learn": "sklearn", "hydra-core": "hydra"}.get(name, name)
        error = _import_error(module) if found is not None and name in ("torch", "torchvision") else None
        yield name, (found or "missing") + ("" if error is None else f", cannot be imported: {error}")


def _import_error(module: str) -> str | None:
    """Return why a module cannot be imported, None if it can; a mismatched torchvision raises RuntimeError."""
    try:
        import_module(module)
    except Exception as error:
        return in_short(error)
    return None


def _machine() -> Iterator[tuple[str, str]]:
    yield "system", platform.platform()
    yield "processor", cpu_name()
    n_usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{os.cpu_count()}, usable {n_usable}"
    yield "memory", _memory()
    if _import_error("torch") is not None:
        return
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield "GPU", "; ".join(gpus) or f"none (torch is built for CUDA {torch.version.cuda or 'no'})"
    yield "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})"


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB"


def _places() -> Iterator[tuple[str, str]]:
    root = Path(absolute(os.environ.get("DKM_DATA_ROOT", "data")))
    origin = "DKM_DATA_ROOT" if "DKM_DATA_ROOT" in os.environ else "by default"
    yield "data root", f"{root} ({origin}, {'exists' if root.is_dir() else 'does not exist'})"
    here = Path.cwd()
    yield "folder", f"{here} ({'writable' if _is_writable(here) else 'not writable: choose another with output=DIR'})"


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _extras() -> Iterator[tuple[str, str]]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not _is_there(module)]
        yield f"extra {extra}", f"missing: {', '.join(missing)}" if missing else "installed"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def compare_loss() -> tuple[int, float]:
    """Compare the k-means loss with its broadcast form on random points, for two seconds.

    Returns
    -------
    n_tests : int
        Number of comparisons, at least 1.
    difference : float
        Largest relative difference of a loss or of a gradient.
    """
    import torch

    from dkm.clustering.functional import kmeans_loss

    generator = torch.Generator().manual_seed(0)
    end_s, n_tests, largest = time.monotonic() + _TEST_S, 0, 0.0
    while n_tests == 0 or (time.monotonic() < end_s and n_tests < 100):
        N, D, K = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 300), (1, 30), (1, 20)))
        z = torch.randn(N, D, dtype=torch.float64, generator=generator).requires_grad_()
        centroids = torch.randn(K, D, dtype=torch.float64, generator=generator).requires_grad_()
        loss = kmeans_loss(z, centroids)
        broadcast = (z[:, None] - centroids[None]).square().sum(2).min(1).values.mean()
        pairs = [(loss, broadcast)]
        gradients = [torch.autograd.grad(value, (z, centroids)) for value in (loss, broadcast)]
        pairs += zip(*gradients, strict=True)
        for ours, theirs in pairs:
            scale = max(1e-300, float(theirs.detach().abs().max()))
            largest = max(largest, float((ours - theirs).detach().abs().max()) / scale)
        n_tests += 1
    return n_tests, largest


if __name__ == "__main__":
    main()
