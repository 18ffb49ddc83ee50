"""The sinks of a run: what each may show, and ``Sinks``, which passes everything on to all of them.

``dkm.config.sinks.SINKS`` names the sinks. ``metrics.jsonl`` is none of them: it is always written, as a resumed run
needs it.
"""

# Shapes: N points, D latent, K clusters.

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dkm.config.run import Config
from dkm.config.sinks import SINKS
from dkm.errors import in_short

log = logging.getLogger(__name__)

ScoresOf = Mapping[str, Mapping[str, float | None] | None]


@dataclass(frozen=True)
class SinkContext:
    """What a sink is opened with.

    Parameters
    ----------
    path : Path
        The run directory.
    config : Config
    step : int, optional
        The step of the checkpoint to continue from; None for a new run.
    has_labels : bool
        Whether there are scores against labels.
    reference : mapping
        The ``Sink.reference`` of an earlier process of the run, empty if there was none.
    """

    path: Path
    config: Config
    step: int | None
    has_labels: bool
    reference: Mapping[str, Any] = field(default_factory=dict)


class Sink:
    """A place that a run is logged to. The methods do nothing; a sink overrides those whose content it shows.

    All are called in the first process only. An exception closes the sink, with a warning, and the run goes on.

    Attributes
    ----------
    is_new : bool
        Whether the sink has no texts of the run yet.
    shows_images : bool
        Whether figures are drawn for it during the run.
    reference : dict
        What finds the run there again, for the manifest; values that JSON can hold.
    notice : str
        Where to look, in words that follow the name of the sink; empty to say nothing.
    """

    is_new = False
    shows_images = False
    notice = ""

    def __init__(self) -> None:
        self.reference: dict[str, Any] = {}

    @classmethod
    def check(cls) -> None:
        """Raise ``UserError`` if the sink cannot be used; called before a run directory exists."""

    @classmethod
    def open(cls, context: SinkContext) -> Sink:
        """Return the sink of a run."""
        raise NotImplementedError

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Show a text: the config, the manifest, the data report, the closing table, the warnings."""

    def record(self, record: Mapping[str, Any], baselines: ScoresOf) -> None:
        """Show the record of an evaluation, which ``metrics.jsonl`` has already, and the scores of k-means."""

    def scalars(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        """Show numbers of an epoch that are not in ``metrics.jsonl``; None where one is undefined."""

    def baselines(self, step: int, scores: ScoresOf) -> None:
        """Show the scores of k-means in a run without a joint phase."""

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Show a figure, the content of a PNG file."""

    def projector(self, Z: np.ndarray, columns: Mapping[str, Sequence[object]], images: np.ndarray | None) -> None:
        """Show points (N, D) with N values per column."""

    def result(self, step: int, scores: Mapping[str, float | None], given: Collection[str]) -> None:
        """Show the final scores; ``given`` are the keys of the settings that the user gave."""

    def end(self, status: str) -> None:
        """Show how the run ended: completed, interrupted or failed."""

    def flush(self) -> None:
        """Hand on what is buffered; called before each checkpoint."""

    def close(self) -> None:
        """Let go of the sink."""


class Sinks:
    """The sinks of a run. One that fails is closed with a warning, and the others go on.

    Parameters
    ----------
    sinks : mapping of name to Sink, optional
    """

    def __init__(self, sinks: Mapping[str, Sink] | None = None) -> None:
        self._sinks = dict(sinks or {})

    @classmethod
    def open(cls, names: Sequence[str], context: SinkContext, references: Mapping[str, Any]) -> Sinks:
        """Open the sinks of these names; ``references`` are those of an earlier process of the run."""
        opened = cls()
        for name in names:
            reference = references.get(name)
            own = replace(context, reference=reference if isinstance(reference, dict) else {})
            with _guarded(name):
                sink: Sink = SINKS[name].load().open(own)
                opened._sinks[name] = sink
                if sink.notice:
                    log.info("%s: %s", name, sink.notice)
        return opened

    @property
    def is_new(self) -> bool:
        """Whether a sink has no texts of the run yet."""
        return any(sink.is_new for sink in self._sinks.values())

    @property
    def shows_images(self) -> bool:
        return any(sink.shows_images for sink in self._sinks.values())

    @property
    def references(self) -> dict[str, dict[str, Any]]:
        """What finds the run in its sinks again, by the name of the sink."""
        return {name: sink.reference for name, sink in self._sinks.items() if sink.reference}

    def __contains__(self, name: str) -> bool:
        return name in self._sinks

    def text(self, tag: str, text: str, step: int = 0) -> None:
        self._each(lambda sink: sink.text(tag, text, step))

    def record(self, record: Mapping[str, Any], baselines: ScoresOf) -> None:
        self._each(lambda sink: sink.record(record, baselines))

    def scalars(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        self._each(lambda sink: sink.scalars(phase, step, values))

    def baselines(self, step: int, scores: ScoresOf) -> None:
        self._each(lambda sink: sink.baselines(step, scores))

    def image(self, tag: str, step: int, png: bytes) -> None:
        self._each(lambda sink: sink.image(tag, step, png))

    def projector(self, Z: np.ndarray, columns: Mapping[str, Sequence[object]], images: np.ndarray | None) -> None:
        self._each(lambda sink: sink.projector(Z, columns, images))

    def result(self, step: int, scores: Mapping[str, float | None], given: Collection[str]) -> None:
        self._each(lambda sink: sink.result(step, scores, given))

    def end(self, status: str) -> None:
        self._each(lambda sink: sink.end(status))

    def flush(self) -> None:
        self._each(lambda sink: sink.flush())

    def close(self) -> None:
        sinks, self._sinks = self._sinks, {}
        for name, sink in sinks.items():
            with _guarded(name):
                sink.close()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            is_done = False
            with _guarded(name):
                call(sink)
                is_done = True
            if not is_done:
                del self._sinks[name]
                with contextlib.suppress(Exception):
                    sink.close()


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Turn an exception of a sink into a warning."""
    try:
        yield
    except Exception as error:
        is_named = isinstance(error, OSError) and error.strerror
        what = in_short(error) if is_named else f"{type(error).__name__}: {in_short(error)}"
        log.warning("log.to=%s: %s; the run goes on without it, and metrics.jsonl has all of its numbers", name, what)
