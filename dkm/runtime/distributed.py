"""Training with several processes, started by torchrun; with one process every function is a no-op.

    torchrun --nproc_per_node=2 -m dkm.train [overrides]

Each process (rank) runs the same program on its share of every batch. The processes communicate through
torch.distributed: gloo for tensors on the CPU, NCCL for tensors on GPUs. Only rank 0 writes. A user error on one rank
is sent to all ranks, so that they stop together instead of waiting for a process that has ended.

torch is imported inside the functions, so that a wrong override is reported without that delay.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dkm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# The other ranks wait while rank 0 runs k-means. A rank that died is detected at once by its closed connection.
_TIMEOUT = timedelta(hours=6)


class ToldElsewhere(UserError):
    """A user error on another rank, which prints it."""


class RankLost(RuntimeError):
    """A process of the group ended before its work was done."""


# --- ranks --------------------------------------------------------------------------------------------------------


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the index of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_several() -> bool:
    return world_size() > 1


def is_main() -> bool:
    """Whether this is the process that writes, prints and scores."""
    return rank() == 0


def share(n: int) -> slice:
    """Return this rank's contiguous share of ``n`` items; the sizes of shares differ by at most one."""
    return slice(rank() * n // world_size(), (rank() + 1) * n // world_size())


@contextmanager
def process_group(*, with_cuda: bool) -> Iterator[None]:
    """Initialize torch's process group; destroy it on exit."""
    if not is_several():
        yield
        return
    from torch import distributed

    if not is_main():  # rank 0 prints for all; without any handler, warnings would go to standard error
        logging.getLogger("dkm").addHandler(logging.NullHandler())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process with an exit code.

    One of several processes flushes its output and skips the shutdown of the interpreter. During that shutdown, threads
    of torch have called ``std::terminate`` in a rank that had finished, and torchrun then reports a failure.
    """
    if is_several():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


# --- tensors, in place --------------------------------------------------------------------------------------------


@contextmanager
def peers_needed() -> Iterator[None]:
    """Convert the error of a lost connection to ``RankLost``.

    Raises
    ------
    RankLost
        Instead of the error that torch raises if another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        if is_several() and (isinstance(error, DistError) or "gloo" in str(error)):
            raise RankLost("another process of the job ended") from error
        raise


def sum_(tensor: Tensor) -> Tensor:
    """Replace the tensor by its sum over the ranks, which is bitwise equal on all of them."""
    if is_several():
        from torch import distributed

        with peers_needed():
            distributed.all_reduce(tensor)
    return tensor


def mean_(tensor: Tensor) -> Tensor:
    """Replace the tensor by its mean over the ranks."""
    return sum_(tensor).div_(world_size()) if is_several() else tensor


def broadcast_(tensor: Tensor) -> Tensor:
    """Replace the tensor by that of rank 0."""
    if is_several():
        from torch import distributed

        with peers_needed():
            distributed.broadcast(tensor, src=0)
    return tensor


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on any rank."""
    if not is_several():
        return flag
    import torch

    return bool(sum_(torch.tensor(int(flag))) > 0)


# --- bytes --------------------------------------------------------------------------------------------------------


def gather(data: bytes) -> list[bytes]:
    """Return the bytes of each rank, in the order of the ranks."""
    if not is_several():
        return [data]
    import torch

    lengths = torch.zeros(world_size(), dtype=torch.int64)
    lengths[rank()] = len(data)
    sum_(lengths)
    rows = torch.zeros(world_size(), int(lengths.max()), dtype=torch.uint8)
    rows[rank(), : len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
    sum_(rows)  # each row is zero on all ranks but one
    return [bytes(row[:n].numpy()) for row, n in zip(rows, lengths.tolist(), strict=True)]


def from_main(data: bytes | None) -> bytes | None:
    """Return the bytes of rank 0."""
    if not is_several():
        return data
    import torch

    length = broadcast_(torch.tensor(-1 if data is None else len(data)))
    if length < 0:
        return None
    buffer = torch.zeros(int(length), dtype=torch.uint8)
    if is_main() and data:
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return bytes(broadcast_(buffer).numpy())


def state_of_main(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the state of rank 0 (tensors and builtin containers)."""
    if not is_several():
        return state
    import torch

    buffer = io.BytesIO()
    if is_main():
        torch.save(state, buffer)
    data = from_main(buffer.getvalue() if is_main() else None)
    assert data is not None
    received: dict[str, Any] | None = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return received


# --- agreement ----------------------------------------------------------------------------------------------------


def jointly(action: Callable[[], T]) -> T:
    """Return the result of ``action`` on this rank if it succeeds on all ranks.

    Raises
    ------
    UserError
        If ``action`` raised one on any rank; the other ranks raise ``ToldElsewhere``.
    """
    if not is_several():
        return action()
    problem: UserError | None = None
    try:
        result = action()
    except UserError as error:
        problem = error
    messages = [text.decode() for text in gather(b"" if problem is None else str(problem).encode())]
    if not any(messages):
        return result
    first = next(number for number, text in enumerate(messages) if text)
    if first == rank() and problem is not None:
        raise problem
    raise ToldElsewhere(messages[first])


def on_main(action: Callable[[], T]) -> T | None:
    """Call ``action`` on rank 0 only; its ``UserError`` stops all ranks."""
    return jointly(lambda: action() if is_main() else None)


def first_of_machine_first(action: Callable[[], T]) -> T:
    """Call ``action`` on one rank per machine before the others, which can then use its downloads."""
    is_first = local_rank() == 0
    early = jointly(lambda: action() if is_first else None)
    late = jointly(lambda: None if is_first else action()) if is_several() else None
    result = early if is_first else late
    assert result is not None
    return result


def require_equal(settings: Mapping[str, Any]) -> None:
    """Refuse ranks with different settings, which must be representable in JSON.

    Raises
    ------
    UserError
        With the first differing key, the rank, and both values.
    """
    by_rank = [json.loads(text) for text in gather(json.dumps(settings).encode())]

    def check() -> None:
        expected = by_rank[0]
        for number, actual in enumerate(by_rank):
            for key in sorted(expected.keys() | actual.keys()):
                if actual.get(key) != expected.get(key):
                    raise UserError(
                        f"{key}={actual.get(key)} on rank {number}: expected {expected.get(key)} as on rank 0; "
                        "start all ranks with the same command, code and data"
                    )

    on_main(check)
