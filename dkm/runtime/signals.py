"""Signal handling: stop a run at a point from which it can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dkm.runtime import distributed

# Several processes agree to stop at every so many steps: a request has a second to spare, a message each step has not.
_STEPS_BETWEEN_POLLS = 8


class Interrupted(KeyboardInterrupt):
    """Raised if a signal asks the run to stop; its state is that after the last completed step.

    It is not an ``Exception``: a sweep would treat that as the failure of one run and continue with the next.
    """


class Signals:
    """Converts signals into ``Interrupted``, but never during a change of state.

    The training loop checks ``is_requested`` after each step. Code that changes no state runs inside ``interruptible``,
    where a signal raises ``Interrupted`` at once. A second signal raises ``KeyboardInterrupt`` at once.

    Parameters
    ----------
    is_alone : bool
        False with several processes, which must stop at the same step: a signal then only sets ``is_requested``. If
        another process has failed, it raises ``RankLost`` where it would raise ``Interrupted``.
    """

    def __init__(self, *, is_alone: bool = True) -> None:
        self.is_requested = False
        self.must_requeue = False
        self._is_alone = is_alone
        self._is_interruptible = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_alone:
            self.is_requested = True
            failure = distributed.failure()
            if failure is not None and self._is_interruptible:
                raise distributed.RankLost(failure)
            return
        if self.is_requested and not self._is_interruptible:
            raise KeyboardInterrupt
        self.is_requested = True
        self.must_requeue = number == signal.SIGUSR2
        if self._is_interruptible:
            raise Interrupted

    def is_stop_agreed(self, step: int, *, is_epoch_end: bool) -> bool:
        """Return whether a signal asks the run to stop after this step; all processes learn of it at the same step."""
        if self._is_alone:
            return self.is_requested
        is_poll = step % _STEPS_BETWEEN_POLLS == 0 or is_epoch_end
        if is_poll and distributed.any_rank(self.is_requested):
            self.is_requested = True
            return True
        return False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        if self.is_requested and self._is_alone:
            raise Interrupted
        self._is_interruptible = True
        try:
            yield
        finally:
            self._is_interruptible = False


@contextmanager
def signals_handled(*, is_alone: bool = True) -> Iterator[Signals]:
    """Handle SIGINT and SIGTERM; in a job of submitit, SIGINT and SIGUSR2.

    submitit sends SIGUSR2 before a timeout or a preemption. Its handler requeues the job and exits; it is called after
    the run has written its checkpoint. submitit ignores SIGTERM, because some clusters send it just before SIGUSR2, and
    a job that ended by itself would not be requeued.

    With several processes, a process ignores further signals after the first one: it is about to end, and torchrun
    sends SIGTERM after the SIGINT of the terminal.
    """
    requests = Signals(is_alone=is_alone)
    if threading.current_thread() is not threading.main_thread():
        yield requests  # only the main thread may set handlers
        return
    is_queued = callable(signal.getsignal(signal.SIGUSR2))
    numbers = (signal.SIGINT, signal.SIGUSR2 if is_queued else signal.SIGTERM)
    before = [signal.signal(number, requests.handle) for number in numbers]
    is_stopped = False
    try:
        yield requests
    except Interrupted:
        is_stopped = True
        raise
    finally:
        is_ending = requests.is_requested and not is_alone
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_IGN if is_ending else handler)
        if is_stopped and requests.must_requeue:
            signal.raise_signal(signal.SIGUSR2)
