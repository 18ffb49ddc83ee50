"""Training with several processes, started by torchrun; with one process every function is a no-op.

    torchrun --nproc_per_node=2 -m dkm.train [overrides]

Each process (rank) runs the same program on its share of every batch. The processes communicate through
torch.distributed: gloo for tensors on the CPU, NCCL for tensors on GPUs. Only rank 0 writes, and prints for all.

Whatever ends one rank ends all of them, and rank 0 prints one line that says which rank failed and why. A user error
is agreed upon (``jointly``). For everything else the ranks have connections of their own, see ``dkm.runtime.peers``. A
collective operation has a short timeout. Where one rank works long while the others wait, they wait in ``meet``.

torch is imported inside the functions, so that a wrong override is reported without that delay.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dkm.config.commands import EXIT_INTERRUPTED, EXIT_USER_ERROR
from dkm.errors import Failure, UserError, in_short, is_out_of_memory
from dkm.runtime import peers
from dkm.runtime.peers import Peers, RankFailure

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds in which all processes must have started, and ``distributed.timeout_s`` until the config is known.
_START_S = 600.0

# Of the process group that this process is in.
_peers: Peers | None = None
_group: ProcessGroup | None = None
_with_cuda = False


class ToldElsewhere(UserError):
    """A user error that another rank prints."""


class Told(Exception):
    """What ended this rank is printed by rank 0; ``code`` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class RankLost(RuntimeError):
    """Another process of the job failed, ended, or does not answer.

    Attributes
    ----------
    failure : RankFailure
    is_told_here : bool
        Whether this rank prints it: rank 0, or if that is gone another one.
    remedy : str
        What is left of the work, and how to go on.
    """

    def __init__(self, failure: RankFailure) -> None:
        super().__init__(failure.text if _peers is None else _peers.line(failure))
        self.failure = failure
        self.is_told_here = is_main() or _peers is None or _peers.must_tell
        self.remedy = "nothing was trained yet; start all processes again"


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
    """Initialize torch's process group and the connections for failures; end both on exit.

    Raises
    ------
    RankLost
        If the block ends because another rank has failed.
    Told
        Instead of an exception of the block on another rank than 0, once rank 0 has its message.
    Failure
        Instead of an exception of the block that is a bug. Its traceback is in the log of the run, or printed if there
        is none yet.
    """
    global _peers, _group, _with_cuda
    if not is_several():
        yield
        return
    from torch import distributed

    _with_cuda = with_cuda
    _initialize(with_cuda=with_cuda)
    _peers = _connected()
    logger, handler = logging.getLogger("dkm"), _OwnWarnings() if is_main() else _Forwarder()
    logger.addHandler(handler)
    try:
        yield
        distributed.destroy_process_group()  # after a failure it might wait for a rank that is gone
    except BaseException as error:
        _tell(error)
        raise
    finally:
        _peers.is_ending = True
        _show_warnings()
        logger.removeHandler(handler)
        _peers.close()
        _peers = _group = None


def _initialize(*, with_cuda: bool) -> None:
    from torch import distributed

    timeout = peers.collective_timeout(_START_S, with_cuda=with_cuda)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if with_cuda else "gloo", timeout=timeout)
    except RuntimeError as error:  # of a store or of gloo
        problem = f"the {world_size()} processes did not all start and connect within {timeout.seconds} s"
        failure = Failure(f"rank {rank()}: {problem} ({in_short(error)}); start all of them again")
        # One line in each terminal: that of rank 0, and those of the machines that do not reach it.
        is_first = rank() == 1 or local_rank() == 0
        must_say = is_main() or (is_first and isinstance(error, distributed.DistNetworkError))
        raise failure if must_say else Told(1) from error


def _connected() -> Peers:
    """Return the connections of this process to the others."""
    if is_main():
        server, place = peers.listen(is_local=local_world_size() == world_size())
        from_main(json.dumps(place).encode())
        connections = peers.accept(server, place["token"], world_size())
    else:
        sent = from_main(None)
        assert sent is not None
        connections = {0: peers.connect(json.loads(sent), rank())}
    return Peers(connections, rank(), world_size(), _START_S)


def _tell(error: BaseException) -> None:
    """Tell the other ranks that this one ends, unless they have agreed on it."""
    assert _peers is not None
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # of torchrun, which ends all ranks when the first one has ended
            signal.signal(number, signal.SIG_IGN)
    if isinstance(error, (ToldElsewhere, RankLost)):
        return
    first = _peers.failure
    if isinstance(error, KeyboardInterrupt) and first is not None and first.code == EXIT_INTERRUPTED:
        return  # of all ranks, as from the terminal
    if first is not None and isinstance(error, (KeyboardInterrupt, RuntimeError)):  # caused by it
        raise RankLost(first) from error
    code = 1
    if isinstance(error, UserError):
        code = EXIT_USER_ERROR
    elif isinstance(error, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    own, text = f"rank {rank()}: ", "interrupted" if isinstance(error, KeyboardInterrupt) else cause(error)
    trace = traceback_of(error)
    failed = RankFailure(rank(), text if text.startswith(own) else own + text, code, trace)
    if trace and not _peers.log:
        print(trace, end="", file=sys.stderr)
    if _peers.fail(failed) and not is_main():
        raise Told(code) from error
    if trace:
        raise Failure(f"{_peers.line(failed)}; {_peers.remedy}") from error


def cause(error: BaseException) -> str:
    """Return what ended a rank, on one line."""
    if isinstance(error, (UserError, Failure)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {in_short(error)}" if error.filename else in_short(error)
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def traceback_of(error: BaseException) -> str:
    """Return the traceback of a bug on this rank or another; empty for what a user can cause, and with one process."""
    if isinstance(error, RankLost):
        return error.failure.traceback
    if isinstance(error, (UserError, Failure, OSError)) or is_out_of_memory(error):
        return ""
    is_bug = is_several() and isinstance(error, Exception)
    return "".join(traceback.format_exception(error)) if is_bug else ""


def prepare_for_failure(log_file: str, remedy: str) -> None:
    """Note where the log of the run is, and what the line about a failure ends with."""
    if _peers is not None:
        _peers.log, _peers.remedy = log_file, remedy


def begin_ending() -> None:
    """Note that this rank knows that the job ends, and needs no reminder while it writes its last checkpoint."""
    if _peers is not None:
        _peers.is_ending = True


def failure() -> RankFailure | None:
    """Return the first failure of another rank, as soon as this one knows of it."""
    return None if _peers is None else _peers.failure


def limit_waits(timeout_s: float) -> None:
    """Set ``distributed.timeout_s``, to that of rank 0.

    A rank is given up if it does not answer for so long, and so is a collective operation a little later.
    """
    global _group
    if _peers is None:
        return
    sent = from_main(str(timeout_s).encode())
    assert sent is not None
    timeout_s = float(sent)
    if timeout_s != _peers.limit_s:
        from torch import distributed

        group = distributed.new_group(timeout=peers.collective_timeout(timeout_s, with_cuda=_with_cuda))
        assert isinstance(group, distributed.ProcessGroup)
        _group = group
        _peers.limit_s = timeout_s


def current_group() -> ProcessGroup | None:
    """Return the group for collective operations; None is torch's default group."""
    return _group


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
        Instead of the error that torch raises if another process has ended or does not answer.
    """
    try:
        yield
    except RankLost:
        raise
    except RuntimeError as error:
        from torch.distributed import DistError

        if is_several() and (isinstance(error, DistError) or "gloo" in str(error)):
            raise _lost("an exchange with the other processes failed, or took longer than it may") from error
        raise


def _lost(problem: str) -> RankLost:
    """Return the error about another rank; ``problem`` is the cause if it has told none."""
    if _peers is None:
        return RankLost(RankFailure(rank(), f"rank {rank()}: {problem}"))
    lost = RankLost(_peers.reason(problem))
    _show_warnings()
    return lost


def meet() -> None:
    """Wait until all ranks are here.

    The place for it is where one rank works longer than the others, who wait for a collective operation next: that has
    a timeout, and this has none as long as all ranks live.

    Raises
    ------
    RankLost
        If one of them has ended.
    """
    if _peers is None:
        return
    try:
        _peers.meet()
    except ConnectionError as error:
        raise _lost("another process has left the job") from error
    _show_warnings()


def sum_(tensor: Tensor) -> Tensor:
    """Replace the tensor by its sum over the ranks, which is bitwise equal on all of them."""
    if is_several():
        from torch import distributed

        with peers_needed():
            distributed.all_reduce(tensor, group=_group)
    return tensor


def mean_(tensor: Tensor) -> Tensor:
    """Replace the tensor by its mean over the ranks."""
    return sum_(tensor).div_(world_size()) if is_several() else tensor


def broadcast_(tensor: Tensor) -> Tensor:
    """Replace the tensor by that of rank 0."""
    if is_several():
        from torch import distributed

        with peers_needed():
            distributed.broadcast(tensor, src=0, group=_group)
    return tensor


def share_buffers(module: nn.Module) -> None:
    """Replace the floating-point buffers of a module by their mean over the ranks, all others by those of rank 0."""
    if not is_several():
        return
    import torch

    buffers = list(module.buffers())
    floating = [buffer for buffer in buffers if buffer.is_floating_point()]
    others = [buffer for buffer in buffers if not (buffer.is_floating_point() or buffer.is_complex())]
    for group, dtype, share in ((floating, torch.float64, mean_), (others, torch.int64, broadcast_)):
        if group:
            flat = share(torch.cat([buffer.detach().flatten().to(dtype) for buffer in group]))
            parts = torch.split(flat, [buffer.numel() for buffer in group])
            for buffer, values in zip(group, parts, strict=True):
                buffer.detach().copy_(values.view_as(buffer))


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
    """Return the bytes of rank 0, which may have worked long for them."""
    if not is_several():
        return data
    import torch

    meet()
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
        On rank 0, if ``action`` raised one on any rank; the other ranks raise ``ToldElsewhere``. The message names the
        rank if it is not 0.
    RankLost
        If another rank has ended.
    """
    if not is_several():
        return action()
    problem: UserError | None = None
    try:
        result = action()
    except UserError as error:
        problem = error
    meet()
    messages = [text.decode() for text in gather(b"" if problem is None else str(problem).encode())]
    if not any(messages):
        return result
    first = next(number for number, text in enumerate(messages) if text)
    message = messages[0] or f"rank {first}: {messages[first]}"
    if is_main():
        raise UserError(message) if problem is None else problem
    raise ToldElsewhere(message)


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


# --- warnings -----------------------------------------------------------------------------------------------------


class _Forwarder(logging.Handler):
    """Sends the warnings of another rank to rank 0; without any handler they would go to standard error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if _peers is not None:
            _peers.warn(record.getMessage())


class _OwnWarnings(logging.Handler):
    """Remembers what rank 0 has warned about, most of which the other ranks find too."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.add(record.getMessage())
        others = (h for h in logging.getLogger("dkm").handlers if not isinstance(h, _OwnWarnings | logging.NullHandler))
        if next(others, None) is None and logging.lastResort is not None:  # the run has no log yet
            logging.lastResort.handle(record)


def _show_warnings() -> None:
    """Log what other ranks have warned about and rank 0 has not, once the run has a log, or when the job ends."""
    if _peers is None or not is_main() or not (_peers.log or _peers.is_ending):
        return
    own = next(h.messages for h in logging.getLogger("dkm").handlers if isinstance(h, _OwnWarnings))
    for number, text in _peers.take_warnings():
        if text not in own:
            own.add(text)
            log.warning("rank %d: %s", number, text)
