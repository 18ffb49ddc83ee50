"""Times the k-means loss against other implementations and k-means against scikit-learn, and measures memory.

Timed are forward and backward in float32, with gradients for z (n, d) and the centroids (k, d):

    dkm        dkm.kmeans_loss
    repeat     both repeated to (n, k, d), difference, square, sum, minimum, mean
    broadcast  the same without the repeat
    cdist      torch.cdist, square, minimum, mean
    product    z @ c.T alone, forward without gradient: a lower bound for every form that searches with it

A turn of a short form is ten calls in a row, as in a training loop. A ratio a/b is the time of a divided by that of b.
A form whose (n, k, d) tensor would exceed 2 GiB is skipped ("-").

Peak extra memory is the rise of the peak resident memory of a new process in one forward and backward: after a warm-up
call of tiny size the kernel's high-water mark is reset (Linux: "5" into /proc/self/clear_refs), and read after the call
(VmHWM), minus the memory resident before. It includes the gradients, not z and the centroids. ``of_n_k`` is its
multiple of one (n, k) matrix in float32.

k-means has 20 restarts, with the tolerance and the maximum number of iterations of scikit-learn; ``inertia`` is the
ratio of the lowest inertias, with different random numbers. ``--against DIR`` also times ``dkm.kmeans_loss`` of the
version of the package in DIR, a checkout of an earlier commit, in a separate process; the two processes take turns.

``--large`` adds the assignment of a million points to 10,000 centroids, d = 64: its time (against the same product in
chunks of the same size) and memory. The (n, k) matrix would have 40 GB. It takes some minutes.

    python scripts/benchmark_loss.py [--repeats 5] [--seconds 2] [--large] [--against DIR] [--json FILE]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from dkm.clustering.assignment import CHUNK_NUMEL, assign
from dkm.clustering.functional import kmeans_loss
from dkm.clustering.lloyd import MAX_ITERATIONS, TOLERANCE, kmeans
from timing import Report, Row, Turns, options_parser, read_options, take_turns

_LARGEST_TENSOR_BYTES = 2 * 2**30
_FRACTIONS = ("repeat/dkm", "broadcast/dkm", "cdist/dkm", "dkm/product")
_FLOAT_BYTES = 4
_CALLS = 10

Size = tuple[int, int, int]  # n, d, k

SIZES: list[Size] = [(256, 10, 10), (2000, 10, 10), (4096, 64, 100), (4096, 64, 1000), (70_000, 10, 10)]
SCALING: dict[str, list[Size]] = {
    "n": [(n, 10, 10) for n in (1000, 10_000, 100_000, 1_000_000)],
    "k": [(4096, 64, k) for k in (10, 100, 1000, 10_000)],
    "d": [(4096, d, 100) for d in (2, 8, 32, 128, 512)],
}
KMEANS_SIZES: list[Size] = [(20_000, 10, 10), (1797, 64, 10)]
_N_INIT = 20
MEMORY_SIZE: Size = (4096, 64, 1000)
LARGE_SIZE: Size = (1_000_000, 64, 10_000)
TINY_SIZE: Size = (64, 4, 4)


# --- the forms ----------------------------------------------------------------------------------------------------


def repeat_loss(z: Tensor, c: Tensor) -> Tensor:
    N, K = len(z), len(c)
    difference = z.unsqueeze(1).repeat(1, K, 1) - c.unsqueeze(0).repeat(N, 1, 1)  # (N, K, D)
    return difference.square().sum(2).min(1).values.mean()


def broadcast_loss(z: Tensor, c: Tensor) -> Tensor:
    return (z.unsqueeze(1) - c.unsqueeze(0)).square().sum(2).min(1).values.mean()


def cdist_loss(z: Tensor, c: Tensor) -> Tensor:
    return torch.cdist(z, c).square().min(1).values.mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dkm": kmeans_loss,
    "repeat": repeat_loss,
    "broadcast": broadcast_loss,
    "cdist": cdist_loss,
}


def forward_and_backward(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a loss."""
    return torch.autograd.grad(loss(z, c), (z, c))


def draw(size: Size, *, requires_grad: bool) -> tuple[Tensor, Tensor]:
    n, d, k = size
    generator = torch.Generator().manual_seed(0)
    z, c = (torch.randn(rows, d, generator=generator) for rows in (n, k))
    return z.requires_grad_(requires_grad), c.requires_grad_(requires_grad)


# --- time ---------------------------------------------------------------------------------------------------------


class Other:
    """``kmeans_loss`` of another version of the package, run in a separate process."""

    _PROGRAM = """
import sys, time, torch
from dkm import kmeans_loss
torch.set_num_threads(int(sys.argv[1]))
n, d, k = (int(size) for size in sys.argv[2:])
generator = torch.Generator().manual_seed(0)
z, c = (torch.randn(rows, d, generator=generator).requires_grad_() for rows in (n, k))
for line in sys.stdin:
    start_s = time.perf_counter()
    for _ in range(int(line)):
        torch.autograd.grad(kmeans_loss(z, c), (z, c))
    print(time.perf_counter() - start_s, flush=True)
"""

    def __init__(self, folder: Path, size: Size) -> None:
        command = [sys.executable, "-c", self._PROGRAM, str(torch.get_num_threads()), *map(str, size)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": ""}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder, env=environment)

    def time_calls(self, n_calls: int) -> float:
        """Return the seconds of that many calls."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{n_calls}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def time_against(folder: Path, size: Size, repeats: int, seconds: float) -> Row:
    """Return medians of both versions; a turn is ten calls in each process, after one untimed call."""
    z, c = draw(size, requires_grad=True)
    other = Other(folder, size)
    times_s: dict[str, list[float]] = {"dkm": [], "other": []}
    begin_s = time.perf_counter()
    while len(times_s["dkm"]) <= repeats or time.perf_counter() - begin_s < seconds:
        forward_and_backward(kmeans_loss, z, c)
        start_s = time.perf_counter()
        for _ in range(_CALLS):
            forward_and_backward(kmeans_loss, z, c)
        times_s["dkm"].append((time.perf_counter() - start_s) / _CALLS)
        other.time_calls(1)
        times_s["other"].append(other.time_calls(_CALLS) / _CALLS)
    other.close()
    turns = Turns({name: values[1:] for name, values in times_s.items()})  # the first turn warms up
    return {"n": size[0], "d": size[1], "k": size[2], **turns.row("other/dkm")}


def time_kmeans(size: Size, repeats: int) -> Row:
    n, d, k = size
    z, _ = draw((n, d, 1), requires_grad=False)
    reference = KMeans(k, n_init=_N_INIT, max_iter=MAX_ITERATIONS, tol=TOLERANCE, algorithm="lloyd", random_state=0)
    works: dict[str, Callable[[], object]] = {
        "kmeans": partial(kmeans, z, k, n_init=_N_INIT),
        "scikit-learn": partial(reference.fit, z.numpy()),
    }
    turns = take_turns(works, repeats=repeats)
    inertia = kmeans(z, k, n_init=_N_INIT).inertia / reference.inertia_
    return {"n": n, "d": d, "k": k, **turns.row("kmeans/scikit-learn"), "inertia": inertia}


def time_size(size: Size, repeats: int, seconds: float) -> Row:
    n, d, k = size
    z, c = draw(size, requires_grad=True)
    is_small = n * d * k * _FLOAT_BYTES <= _LARGEST_TENSOR_BYTES
    works: dict[str, Callable[[], object]] = {
        name: partial(forward_and_backward, loss, z, c)
        for name, loss in LOSSES.items()
        if is_small or name not in ("repeat", "broadcast")
    }
    works["product"] = partial(torch.matmul, z.detach(), c.detach().T)
    turns = take_turns(works, repeats=repeats, seconds=seconds, calls=_CALLS)
    return {"n": n, "d": d, "k": k, **turns.row(*_FRACTIONS)}


def product_in_chunks(z: Tensor, c: Tensor) -> None:
    for rows in torch.split(z, max(1, CHUNK_NUMEL // len(c))):
        rows @ c.T


def time_assignment(size: Size, repeats: int) -> Row:
    z, c = draw(size, requires_grad=False)
    works: dict[str, Callable[[], object]] = {
        "assign": partial(assign, z, c),
        "product": partial(product_in_chunks, z, c),
    }
    turns = take_turns(works, repeats=repeats, is_warm=True)  # a call takes seconds: it needs no warm-up
    memory = peak_memory("assign", size)
    return {"n": size[0], "d": size[1], "k": size[2], **turns.row("assign/product"), **memory}


# --- memory -------------------------------------------------------------------------------------------------------


def peak_memory(work: str, size: Size) -> Row:
    """Return the peak extra memory of a workload, measured in a separate process."""
    numbers = (str(number) for number in (torch.get_num_threads(), *size))
    command = [sys.executable, __file__, "--peak", work, "--threads", next(numbers), "--size", *numbers]
    measured = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    extra_bytes = int(measured.splitlines()[-1])
    n, _, k = size
    return {"extra_mib": extra_bytes / 2**20, "of_n_k": extra_bytes / (n * k * _FLOAT_BYTES)}


def measure_peak(work: str, size: Size) -> int:
    """Return by how many bytes one call raises the peak resident memory of this process."""
    is_loss = work in LOSSES
    call: Callable[[Tensor, Tensor], object] = partial(forward_and_backward, LOSSES[work]) if is_loss else assign
    call(*draw(TINY_SIZE, requires_grad=is_loss))
    z, c = draw(size, requires_grad=is_loss)
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    result = call(z, c)  # a reference, since the result is part of the peak
    after = _resident_bytes("VmHWM")
    del result
    return after - before


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


# --- command ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest time of the turns of a size (default: 2)")
    parser.add_argument("--large", action="store_true", help="also assign a million points to 10,000 centroids")
    parser.add_argument("--against", type=Path, metavar="DIR", help="also time the version of the package in DIR")
    parser.add_argument("--peak", choices=[*LOSSES, "assign"], help="only print the peak extra bytes of this at --size")
    parser.add_argument("--size", type=int, nargs=3, default=MEMORY_SIZE, metavar=("N", "D", "K"))
    options = read_options(parser, argv)
    if options.peak is not None:
        print(measure_peak(options.peak, options.size))
        return
    report = Report(options.json, precision="fp32")
    sizes, scaling, memory_size, large_size, forms = SIZES, SCALING, MEMORY_SIZE, LARGE_SIZE, list(LOSSES)
    kmeans_sizes = KMEANS_SIZES
    seconds = options.seconds
    if options.quick:
        sizes, scaling, memory_size, large_size = [(200, 4, 5)], {"n": [(100, 4, 5)]}, (1024, 8, 500), (2000, 8, 300)
        forms, seconds, kmeans_sizes = ["dkm"], 0.0, [(200, 4, 5)]
    report.add("sizes", "Forward and backward", [time_size(size, options.repeats, seconds) for size in sizes])
    if options.against is not None:
        rows = [time_against(options.against, size, options.repeats, seconds) for size in sizes]
        report.add("against", "Against another version", rows)
    title = f"k-means, {_N_INIT} restarts"
    report.add("kmeans", title, [time_kmeans(size, min(options.repeats, 3)) for size in kmeans_sizes])
    for axis, row in scaling.items():
        rows = [time_size(size, options.repeats, seconds) for size in row]
        report.add(f"scaling_{axis}", f"Scaling in {axis}", rows)
    if Path("/proc/self/clear_refs").exists():
        rows = [{"form": form, **peak_memory(form, memory_size)} for form in forms]
        report.add("memory", "Peak extra memory at n {:,}, d {}, k {:,}".format(*memory_size), rows)
        if options.large:
            report.add("large", "Assignment alone", [time_assignment(large_size, min(options.repeats, 3))])
    else:
        print("\nPeak memory: measured on Linux only")
    report.write()


if __name__ == "__main__":
    main()
