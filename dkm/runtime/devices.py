"""What computes: the device, its threads, its arithmetic, and whether it gives the same bits each time."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dkm.errors import UserError
from dkm.runtime import distributed

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def find_device(name: str) -> torch.device:
    """Return the device that the setting ``device`` names; see ``Config.device``.

    Raises
    ------
    UserError
        If it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "mps":
        what = "expected a device with float64 arithmetic, which sums of clusters and scores need"
        raise UserError(f"device=mps: {what}; use device=cpu")
    count = {"cpu": 1, "cuda": torch.cuda.device_count()}[kind]
    if int(number or 0) >= count:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UserError(f"device={name}: expected a device that is there ({', '.join(there)}); use device=auto")
    if distributed.is_several() and kind != "cpu":
        n_local = distributed.local_world_size()
        if number or n_local > count:
            raise UserError(
                f"device={name} with {n_local} processes on this machine: expected one GPU for each, found {count}; "
                "use device=cuda with as many processes as GPUs, or device=cpu"
            )
        torch.cuda.set_device(distributed.local_rank())
        return torch.device(kind, distributed.local_rank())
    return torch.device(name)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on the device; from pinned memory, so that the host need not wait for the copy."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def set_threads(n_threads: int | None) -> None:
    """Set the CPU threads of this process; see ``Config.threads``."""
    if n_threads is None:
        from joblib import cpu_count  # knows affinity and container limits

        n_local = distributed.local_world_size()
        given = os.environ.get("OMP_NUM_THREADS")
        if given is not None and (n_local == 1 or given != "1"):  # torchrun's own 1 is not the user's choice
            return
        n_threads = max(1, cpu_count(only_physical_cores=True) // n_local)
        if n_local == 1:
            n_threads = min(n_threads, torch.get_num_threads())
    torch.set_num_threads(n_threads)


def keep_freed_memory() -> None:
    """Tell the GNU C library to keep what is freed for what is asked for next, up to 1 GiB; elsewhere do nothing.

    The activations of a chunk come and go. Each time that their memory goes back to the system, the next chunk pays a
    page fault for every 4 KiB of it: of 70,000 rows a tenth of a second in 1.3.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that is allowed


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """Compute with as many CPU threads as a run would, and then with as many as before."""
    before = torch.get_num_threads()
    set_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16, or may do so."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True  # unknown
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "arm_bf16"))


def require_compiler(device: torch.device) -> None:
    """Refuse ``compile=true`` on a CPU without a C++ compiler before anything is written."""
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "compile=true: found no C++ compiler, which torch.compile needs on a CPU; expected g++ or clang++ on the "
            "PATH; install one or set compile=false"
        ) from error


@contextmanager
def deterministic(is_wanted: bool) -> Iterator[None]:
    """Allow only algorithms that give the same bits each time, if that is wanted."""
    if not is_wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Unlike use_deterministic_algorithms, which does the same, this does not import the compiler, a second or two.
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    # Filling memory that is about to be written anyway costs time and hides nothing here.
    memory: Any = torch.utils.deterministic
    fills, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        memory.fill_uninitialized_memory = fills
