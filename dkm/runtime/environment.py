"""Versions, processor, memory and git state, for the reproducibility of results."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkm.installation import VERSION
from dkm.runtime import distributed

if TYPE_CHECKING:
    import torch

_PACKAGES = ["torch", "torchvision", "numpy", "scikit-learn", "scipy", "hydra-core", "omegaconf", "tensorboard"]


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that affect results, None for a package that is not installed."""
    return {"dkm": VERSION} | {name: version_of(name) for name in _PACKAGES}


def environment() -> dict[str, Any]:
    """Return the description of the software and the machine for the manifest of a run.

    The versions and the git state are those at the first call: what a process has imported does not change later.
    """
    import torch

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "git": git_state(Path(__file__).parents[1]),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
    }


def processor(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with the instruction set that torch uses."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}: {cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"


def cpu_name() -> str:
    """Return the model of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def peak_memory_bytes() -> int | None:
    """Return the peak resident memory of this process; None if the system does not report it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


@functools.cache
def git_state(directory: Path) -> dict[str, Any] | None:
    """Return the commit, and whether code or configs have changed since; None outside of a checkout of dkm."""

    def git(*arguments: str) -> str:
        # Without locks: a killed `git status` would leave index.lock, and git would refuse to work in the checkout.
        command: Sequence[str] = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails for an installed package inside another checkout
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", ".", "../configs")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def version_of(name: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
