"""``SINKS``: where a run can be logged to with ``log.to``.

A new sink is a module with a subclass of ``dkm.runs.sinks.base.Sink`` and an entry here. A plugin may add one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from dkm.config.registry import load
from dkm.errors import UserError, missing_extra_error


@dataclass(frozen=True)
class SinkType:
    """A kind of sink.

    Parameters
    ----------
    name : str
        Its name in ``log.to``.
    meaning : str
        What it writes, for the documentation.
    target : callable or str
        A subclass of ``dkm.runs.sinks.base.Sink``, or ``"module:attribute"``.
    package : str, optional
        The module that must be installed.
    extra : str, optional
        The extra that installs it.
    """

    name: str
    meaning: str
    target: str | Callable[..., Any]
    package: str | None = None
    extra: str | None = None

    def load(self) -> Any:
        """Return the class."""
        return load(self.target)

    def require_installed(self) -> None:
        """Refuse the sink if its package is not installed."""
        if self.package is None or find_spec(self.package) is not None:
            return
        if self.extra is None:
            raise UserError(f"log.to={self.name}: {self.package} is not installed; expected it; install {self.package}")
        raise missing_extra_error(f"log.to={self.name}", self.package, self.extra)


SINKS: dict[str, SinkType] = {
    sink.name: sink
    for sink in (
        SinkType("tensorboard", "TensorBoard events in the run directory", "dkm.runs.tensorboard:Dashboard"),
        SinkType("csv", "`metrics.csv` in the run directory, one row per evaluation", "dkm.runs.sinks.csv:CsvSink"),
        SinkType(
            "wandb",
            "Weights & Biases (extra `wandb`), offline with `WANDB_MODE=offline`",
            "dkm.runs.sinks.wandb:WandbSink",
            *("wandb", "wandb"),
        ),
        SinkType(
            "mlflow",
            "MLflow (extra `mlflow`), to the store of `MLFLOW_TRACKING_URI`, else to a file in the run directory",
            "dkm.runs.sinks.mlflow:MlflowSink",
            *("mlflow", "mlflow"),
        ),
    )
}
