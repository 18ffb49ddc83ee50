"""Times the k-means loss against other ways to write it, and measures the memory that each needs.

Timed is a forward and backward in float32, with gradients for z (n, d) and the centroids (k, d):

    dkm        dkm.kmeans_loss
    repeat     both repeated to (n, k, d), difference, square, sum, minimum, mean
    broadcast  the same without repeating first
    cdist      torch.cdist, square, minimum, mean
    product    z @ c.T alone: forward only, without gradient; less than this no form needs that finds the nearest

A turn of a short form is ten calls in a row, as in a training loop. A ratio a/b is how many times as long a takes as b.
A form whose (n, k, d) tensor would exceed 2 GiB is left out ("-").

Peak extra memory is by how much one forward and backward raises the resident memory of a fresh process at its highest:
after a call at a tiny size, which loads what is loaded once, the kernel's high-water mark is reset (Linux: "5" into
/proc/self/clear_refs), and read again after the call (VmHWM), with what was resident before subtracted. The gradients
count, z and the centroids do not. ``of_n_k`` is that as a multiple of one (n, k) matrix in float32.

``--large`` adds the assignment of a million points to 10,000 centroids, d = 64, in time (against the same product in
chunks of the same size) and in memory. The (n, k) matrix would have 40 GB. It takes some minutes.

    python scripts/benchmark_loss.py [--repeats 5] [--seconds 2] [--large] [--json FILE]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dkm.clustering.assignment import CHUNK_NUMEL, assign
from dkm.clustering.functional import kmeans_loss
from timing import Report, Row, options_parser, read_options, take_turns

_LARGEST_TENSOR_BYTES = 2 * 2**30
_FRACTIONS = ("repeat/dkm", "broadcast/dkm", "cdist/dkm", "dkm/product")
_FLOAT_BYTES = 4
_CALLS = 10

Size = tuple[int, int, int]  # n, d, k

SIZES: list[Size] = [(2000, 10, 10), (4096, 64, 1000), (70_000, 10, 10)]
SCALING: dict[str, list[Size]] = {
    "n": [(n, 10, 10) for n in (1000, 10_000, 100_000, 1_000_000)],
    "k": [(4096, 64, k) for k in (10, 100, 1000, 10_000)],
    "d": [(4096, d, 100) for d in (2, 8, 32, 128, 512)],
}
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


def both_ways(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a loss."""
    return torch.autograd.grad(loss(z, c), (z, c))


def draw(size: Size, *, requires_grad: bool) -> tuple[Tensor, Tensor]:
    n, d, k = size
    generator = torch.Generator().manual_seed(0)
    z, c = (torch.randn(rows, d, generator=generator) for rows in (n, k))
    return z.requires_grad_(requires_grad), c.requires_grad_(requires_grad)


# --- time ---------------------------------------------------------------------------------------------------------


def time_size(size: Size, repeats: int, seconds: float) -> Row:
    n, d, k = size
    z, c = draw(size, requires_grad=True)
    is_small = n * d * k * _FLOAT_BYTES <= _LARGEST_TENSOR_BYTES
    works: dict[str, Callable[[], object]] = {
        name: partial(both_ways, loss, z, c)
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
    turns = take_turns(works, repeats=repeats, is_warm=True)  # seconds each: the first call costs no more than others
    memory = peak_memory("assign", size)
    return {"n": size[0], "d": size[1], "k": size[2], **turns.row("assign/product"), **memory}


# --- memory -------------------------------------------------------------------------------------------------------


def peak_memory(work: str, size: Size) -> Row:
    """Return the peak extra memory of a work, measured in a process of its own."""
    numbers = (str(number) for number in (torch.get_num_threads(), *size))
    command = [sys.executable, __file__, "--peak", work, "--threads", next(numbers), "--size", *numbers]
    measured = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    extra_bytes = int(measured.splitlines()[-1])
    n, _, k = size
    return {"extra_mib": extra_bytes / 2**20, "of_n_k": extra_bytes / (n * k * _FLOAT_BYTES)}


def measure_peak(work: str, size: Size) -> int:
    """Return by how many bytes one call raises this process's resident memory at its highest."""
    is_loss = work in LOSSES
    call: Callable[[Tensor, Tensor], object] = partial(both_ways, LOSSES[work]) if is_loss else assign
    call(*draw(TINY_SIZE, requires_grad=is_loss))
    z, c = draw(size, requires_grad=is_loss)
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    result = call(z, c)  # kept: it is part of the peak
    after = _resident_bytes("VmHWM")
    del result
    return after - before


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


# --- all ----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="turns of a size go on for this long (default: 2)")
    parser.add_argument("--large", action="store_true", help="also a million points and 10,000 centroids")
    parser.add_argument("--peak", choices=[*LOSSES, "assign"], help="only print the peak extra bytes of this at --size")
    parser.add_argument("--size", type=int, nargs=3, default=MEMORY_SIZE, metavar=("N", "D", "K"))
    options = read_options(parser, argv)
    if options.peak is not None:
        print(measure_peak(options.peak, options.size))
        return
    report = Report(options.json, precision="fp32")
    sizes, scaling, memory_size, large_size, forms = SIZES, SCALING, MEMORY_SIZE, LARGE_SIZE, list(LOSSES)
    seconds = options.seconds
    if options.quick:
        sizes, scaling, memory_size, large_size = [(200, 4, 5)], {"n": [(100, 4, 5)]}, (1024, 8, 500), (2000, 8, 300)
        forms, seconds = ["dkm"], 0.0
    report.add("sizes", "Forward and backward", [time_size(size, options.repeats, seconds) for size in sizes])
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
