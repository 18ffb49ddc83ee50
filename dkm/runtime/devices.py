"""The device of the computation, its threads, its precision, and deterministic algorithms."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from dkm.errors import UserError
from dkm.runtime import distributed

# Constants of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def find_device(name: str) -> torch.device:
    """Return the device that the setting ``device`` names; see ``Config.device``.

    Raises
    ------
    UserError
        If the device is not available.
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
    """Return ``x`` on the device; copy from pinned memory, so that the host does not wait for the copy."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def matmul_precision() -> str | None:
    """Return torch's precision of float32 matrix products: "highest", "high" or "medium".

    None where it was lowered for one backend by ``torch.backends.cuda.matmul.fp32_precision`` or the like.
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to read the old setting while the new one differs from it
        return None


def set_threads(n_threads: int | None) -> None:
    """Set the CPU threads of this process; see ``Config.threads``."""
    before = torch.get_num_threads()
    if (wanted := _wanted_threads(n_threads, before)) != before:
        torch.set_num_threads(wanted)


def _wanted_threads(n_threads: int | None, before: int) -> int:
    """Return the number of threads for a run in a process that currently has ``before``."""
    if n_threads is not None:
        return n_threads
    from joblib import cpu_count  # knows affinity and container limits

    n_local = distributed.local_world_size()
    given = os.environ.get("OMP_NUM_THREADS")
    if given is not None and (n_local == 1 or given != "1"):  # torchrun sets 1 by default
        return before
    n_threads = max(1, cpu_count(only_physical_cores=True) // n_local)
    return min(n_threads, before) if n_local == 1 else n_threads


def keep_freed_memory() -> None:
    """Make the GNU C library keep up to 1 GiB of freed memory for later allocations; no effect elsewhere.

    Each chunk allocates and frees its activations. If their memory is returned to the system, the next chunk causes a
    page fault for every 4 KiB: for 70,000 rows, 0.1 s of 1.3 s.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the largest allowed value


T = TypeVar("T")


class _ProcessSetting(Generic[T]):
    """A process-wide setting of torch that threads set temporarily.

    Threads that need the same value share it; a thread that needs another value waits for them. The last thread
    restores the original value.
    """

    def __init__(self, read: Callable[[], T], write: Callable[[T], None]) -> None:
        self._read, self._write = read, write
        self._changed = threading.Condition()
        self._n_holders = 0
        self._before: T
        self._value: T

    @contextmanager
    def hold(self, choose: Callable[[T], T]) -> Iterator[None]:
        """Set the value that ``choose`` returns for the original value; restore the original on exit."""
        with self._changed:
            self._changed.wait_for(lambda: self._n_holders == 0 or choose(self._before) == self._value)
            if self._n_holders == 0:
                self._before = self._read()
                self._value = choose(self._before)
            # Also if the value is already set: OpenMP keeps a number of threads per calling thread.
            self._write(self._value)
            self._n_holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_holders -= 1
                if self._n_holders == 0:
                    self._write(self._before)
                self._changed.notify_all()


def _set_determinism(setting: tuple[int | str, bool]) -> None:
    # Equivalent to use_deterministic_algorithms, without its import of the compiler, which takes 1 to 2 s.
    mode, torch.utils.deterministic.fill_uninitialized_memory = setting  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode(mode)


class _Precision(NamedTuple):
    """torch's ``precision`` of float32 matrix products, see `matmul_precision`, and that of each of ``_products()``."""

    precision: str | None
    of_backends: tuple[str, ...]


def _products() -> list[Any]:
    """Return what has torch's newer setting of the precision, ``fp32_precision``; torch 2.6 has none."""
    products = [getattr(backend, "matmul", None) for backend in (torch.backends.cuda, torch.backends.mkldnn)]
    return [product for product in products if hasattr(product, "fp32_precision")]


def _precision_of_torch() -> _Precision:
    return _Precision(matmul_precision(), tuple(product.fp32_precision for product in _products()))


def _set_precision(setting: _Precision) -> None:
    if setting == _precision_of_torch():
        return
    torch.set_float32_matmul_precision(setting.precision or "highest")  # sets those of the backends too
    for product, precision in zip(_products(), setting.of_backends, strict=True):
        product.fp32_precision = "none"  # that of torch.backends.fp32_precision
        if product.fp32_precision != precision:
            product.fp32_precision = precision


def _highest(before: _Precision) -> _Precision:
    is_highest = before.precision == "highest"
    return before if is_highest else _Precision("highest", ("ieee",) * len(before.of_backends))


_threads = _ProcessSetting(torch.get_num_threads, torch.set_num_threads)
_default_dtype = _ProcessSetting(torch.get_default_dtype, torch.set_default_dtype)
_precision = _ProcessSetting(_precision_of_torch, _set_precision)
_determinism = _ProcessSetting[tuple[int | str, bool]](
    lambda: (torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory),  # type: ignore[attr-defined]
    _set_determinism,
)


def threads(n_threads: int | None) -> contextlib.AbstractContextManager[None]:
    """Use the number of CPU threads that a run would use; restore the previous number on exit."""
    return _threads.hold(lambda before: _wanted_threads(n_threads, before))


@contextmanager
def standard_torch() -> Iterator[None]:
    """Compute with torch's default modes, whatever the calling application has set.

    Gradient mode, autocast and the default device are settings of the thread. The default dtype and the precision of
    float32 matrix products are settings of the process: other threads are affected only if they were not float32 and
    "highest".
    """
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        _default_dtype.hold(lambda before: torch.float32),
        _precision.hold(_highest),
        ExitStack() as stack,
    ):
        # torch.get_default_device does not see blocks of other devices before torch 2.7.
        if torch.empty(0).device.type != "cpu":  # only if needed: the mode slows down each call of torch
            stack.enter_context(torch.device("cpu"))
        for device in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
            # Nested autocast blocks free their copies of the weights only when the outermost block ends.
            stack.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
        yield


_generators = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw torch's numbers from ``seed`` within the block; outside it, its generators go on as before.

    All threads share torch's generators: one thread at a time is in such a block.
    """
    with _generators, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def has_bf16(device: torch.device) -> bool:
    """Return whether the device supports bfloat16 arithmetic; True if that is unknown."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True  # unknown
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.6
        return bool(torch.cpu._is_avx512_bf16_supported()) if platform.machine() == "x86_64" else True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "arm_bf16"))


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
    """Allow only deterministic algorithms if ``is_wanted``."""
    if is_wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Filling uninitialized memory costs time, and all of it is overwritten here.
    with _determinism.hold(lambda before: ("error", False) if is_wanted else before):
        yield
