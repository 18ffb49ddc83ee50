"""Signals during a run: stop at a point from which the run can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The user or the system asked the run to stop; its state is that after the last completed step.

    Not an ``Exception``: a sweep would take it for the failure of one run and continue with the next.
    """


class Signals:
    """Turns signals into ``Interrupted``, but never in the middle of a change of state.

    The training loop checks ``is_requested`` after each step. Code that changes no state runs inside ``interruptible``,
    which a request leaves at once. A second request raises ``KeyboardInterrupt`` without waiting.

    Parameters
    ----------
    is_alone : bool
        False with several processes, which must stop at the same point: every request only sets ``is_requested``.
    """

    def __init__(self, *, is_alone: bool = True) -> None:
        self.is_requested = False
        self.is_to_queue_again = False
        self._is_alone = is_alone
        self._is_interruptible = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_alone:
            self.is_requested = True
            return
        if self.is_requested and not self._is_interruptible:
            raise KeyboardInterrupt
        self.is_requested = True
        self.is_to_queue_again = number == signal.SIGUSR2
        if self._is_interruptible:
            raise Interrupted

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

    submitit sends SIGUSR2 before the time is up or the machine is taken away. Its handler queues the job again and
    exits, which it is left to do when the run has written its checkpoint. SIGTERM it ignores: some clusters send that
    just before, and a job that ended by itself would not be queued again.

    Of several processes, one that was asked to stop ignores the signals from then on: it is about to end, and torchrun
    sends SIGTERM after the SIGINT that the terminal sent.
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
        if is_stopped and requests.is_to_queue_again:
            signal.raise_signal(signal.SIGUSR2)
