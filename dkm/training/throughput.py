"""How fast a phase trains, and how much of its time is not arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from dkm.data.batches import Batch


@dataclass(frozen=True)
class Throughput:
    """The speed of training since the last evaluation.

    Parameters
    ----------
    rows_per_s : float
        Rows per second of the steps, of all processes together.
    data_share : float
        Fraction of the time in which the next batch was fetched and augmented.
    overhead_share : float
        Fraction of the time outside of forward, backward and optimizer: data, assignments after an epoch, evaluation,
        logging, figures, checkpoints.
    left_s : float
        Seconds until the last epoch of the phase, at its mean speed so far. It may end earlier.
    """

    rows_per_s: float
    data_share: float
    overhead_share: float
    left_s: float

    def scalars(self) -> dict[str, float | None]:
        """Return the numbers by the names of their curves. Those of equal runs differ: ``metrics.jsonl`` has none."""
        return {
            "throughput/rows_per_s": self.rows_per_s,
            "time/data_share": self.data_share,
            "time/overhead_share": self.overhead_share,
        }

    def __str__(self) -> str:
        left = f", {timedelta(seconds=round(self.left_s))} left" if self.left_s > 0 else ""
        return f"{self.rows_per_s:,.0f} rows/s, overhead {self.overhead_share:.0%}{left}"


@dataclass
class _Booked:
    """Seconds and rows since the start of a phase."""

    wall_s: float = 0.0
    steps_s: float = 0.0
    data_s: float = 0.0
    n_rows: int = 0


class StepTimer:
    """Books the seconds of a phase, by the clock of the host.

    No step waits for a GPU. There, the seconds of fetching a batch are those in which the host fetches or queues it;
    those of the steps of an epoch are exact, as the losses are read at its end.

    Parameters
    ----------
    clock : callable, optional
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.start_phase()

    def start_phase(self) -> None:
        """Forget the phase before."""
        self._start_s, self._is_in_steps = self._clock(), False
        self._total = _Booked()
        self._last = _Booked()

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Book the block as steps, but for the ``data`` and ``pause`` blocks in it."""
        start_s, self._is_in_steps = self._clock(), True
        yield
        self._total.steps_s += self._clock() - start_s
        self._is_in_steps = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the seconds of a block out of the steps, if it is in them: it writes a checkpoint."""
        start_s = self._clock()
        yield
        if self._is_in_steps:
            self._total.steps_s -= self._clock() - start_s

    @contextmanager
    def data(self) -> Iterator[None]:
        """Book the block as the preparation of a batch."""
        start_s = self._clock()
        yield
        self._total.data_s += self._clock() - start_s

    def fetch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and book the seconds until each is there and its rows."""
        remaining = iter(batches)
        while True:
            start_s = self._clock()
            batch = next(remaining, None)
            self._total.data_s += self._clock() - start_s
            if batch is None:
                return
            self._total.n_rows += batch.n_rows
            yield batch

    def overhead_share(self) -> float:
        """Return the fraction of the phase so far that was not arithmetic."""
        return self._overhead(self._clock() - self._start_s, self._total)

    def lap(self, n_rows_left: int) -> Throughput:
        """Return the speed since the last call; ``n_rows_left`` are those of the remaining epochs of the phase."""
        now = _Booked(self._clock() - self._start_s, self._total.steps_s, self._total.data_s, self._total.n_rows)
        since = _Booked(
            *(now.wall_s - self._last.wall_s, now.steps_s - self._last.steps_s, now.data_s - self._last.data_s),
            n_rows=now.n_rows - self._last.n_rows,
        )
        self._last = now
        return Throughput(
            rows_per_s=since.n_rows / max(since.steps_s, 1e-9),
            data_share=since.data_s / max(since.wall_s, 1e-9),
            overhead_share=self._overhead(since.wall_s, since),
            left_s=n_rows_left * now.wall_s / max(now.n_rows, 1),
        )

    @staticmethod
    def _overhead(wall_s: float, booked: _Booked) -> float:
        return 1 - (booked.steps_s - booked.data_s) / max(wall_s, 1e-9)
