"""The sink ``mlflow``: the store that ``MLFLOW_TRACKING_URI`` names, else an SQLite file in the run directory."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from dkm.config.roles import role_of
from dkm.config.schema import dotted
from dkm.runs.sinks.base import ScoresOf, Sink, SinkContext
from dkm.runs.tensorboard import baseline_scalars, scalars_of

_EXPERIMENT = "dkm"
# The largest numbers of metrics and of parameters in one request.
_MAX_METRICS, _MAX_PARAMS = 1000, 100
# The largest number of characters of a parameter that all stores take.
_MAX_CHARACTERS = 500
_STATUS = {"completed": "FINISHED", "interrupted": "KILLED"}
_FINAL_FIGURES = "result/images/"


class MlflowSink(Sink):
    """Logs one run to MLflow.

    Numbers of epochs without an evaluation are sent with the next evaluation or checkpoint, as a request takes longer
    than a small epoch. A resumed run continues the same MLflow run, and leaves out the steps that the store has.

    Parameters
    ----------
    context : SinkContext
    """

    def __init__(self, context: SinkContext) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        super().__init__()
        self._metric = Metric
        self._pending: list[Any] = []
        self._status = "FAILED"
        uri, folder = os.environ.get("MLFLOW_TRACKING_URI"), context.path / "mlflow"
        where = None if uri is None else _without_password(uri)
        if uri is None:
            folder.mkdir(exist_ok=True)
            where = uri = f"sqlite:///{folder / 'mlflow.db'}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the packages that MLflow uses
            self._client = MlflowClient(uri)
            is_own = "MLFLOW_TRACKING_URI" not in os.environ
            experiment = self._experiment((folder / "artifacts").as_uri() if is_own else None)
        settings = {
            key: str(value)[:_MAX_CHARACTERS]
            for key, value in dotted(context.config).items()
            if role_of(key).is_hyperparameter
        }
        earlier = self._find(context.reference.get("run_id"))
        # By key, the last step that the store has; None for a run that is new there.
        self._last_steps: dict[str, int] | None = None if earlier is None else {}
        if earlier is None:
            name = os.environ.get("MLFLOW_RUN_NAME") or f"{context.path.parent.name}/{context.path.name}"
            self._run_id: str = self._client.create_run(experiment, run_name=name).info.run_id
        else:
            self._run_id = earlier.info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        self._log_settings(settings, {} if earlier is None else earlier.data.params)
        self.reference = {"run_id": self._run_id}
        self.notice = f"run {self._run_id} in {where}"

    @classmethod
    def open(cls, context: SinkContext) -> MlflowSink:
        return cls(context)

    def record(self, record: Mapping[str, Any], baselines: ScoresOf) -> None:
        phase, step = record["phase"], record["step"]
        self._log(step, {f"{phase}/{name}": value for name, value in scalars_of(record).items()})
        if "clusters/sizes" in record:
            self.baselines(step, baselines)
        self.flush()

    def scalars(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        self._log(step, {f"{phase}/{name}": value for name, value in values.items()})

    def baselines(self, step: int, scores: ScoresOf) -> None:
        self._log(step, {f"baseline/{name}": value for name, value in baseline_scalars(scores).items()})

    def image(self, tag: str, step: int, png: bytes) -> None:
        if not tag.startswith(_FINAL_FIGURES):
            return
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{tag.removeprefix(_FINAL_FIGURES)}.png"
            path.write_bytes(png)
            self._client.log_artifact(self._run_id, str(path), "figures")

    def result(self, step: int, scores: Mapping[str, float | None], given: Collection[str]) -> None:
        self._log(step, {f"result/{name}": value for name, value in scores.items()})
        self.flush()

    def end(self, status: str) -> None:
        self._status = _STATUS.get(status, "FAILED")

    def flush(self) -> None:
        pending, self._pending = self._pending, []
        for start in range(0, len(pending), _MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=pending[start : start + _MAX_METRICS])

    def close(self) -> None:
        self.flush()
        self._client.set_terminated(self._run_id, self._status)

    def _log(self, step: int, values: Mapping[str, float | None]) -> None:
        now_ms = int(time.time() * 1000)
        for name, value in values.items():
            if value is not None and step > self._last_step(name):
                self._pending.append(self._metric(name, float(value), now_ms, step))

    def _last_step(self, name: str) -> int:
        """Return the last step of a metric that an earlier process has sent."""
        if self._last_steps is None:
            return -1
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._run_id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]

    def _find(self, run_id: str | None) -> Any:
        """Return the run of an earlier process, if this store has it."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            return self._client.get_run(run_id)
        except MlflowException:
            return None

    def _experiment(self, artifacts: str | None) -> str:
        """Return the id of the experiment, which is created where the store lacks it."""
        from mlflow.exceptions import MlflowException

        if (given := os.environ.get("MLFLOW_EXPERIMENT_ID")) is not None:
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                created: str = self._client.create_experiment(name, artifact_location=artifacts)
                return created
            except MlflowException:  # another run was faster
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _log_settings(self, settings: Mapping[str, str], known: Mapping[str, str]) -> None:
        """Log the settings. MLflow cannot change one: a tag has that of a run that was made longer."""
        from mlflow.entities import Param, RunTag

        params = [Param(key, value) for key, value in settings.items() if key not in known]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + _MAX_PARAMS])
        changed = {key: value for key, value in settings.items() if known.get(key, value) != value}
        if changed:
            self._client.log_batch(
                self._run_id, tags=[RunTag(f"resumed.{key}", value) for key, value in changed.items()]
            )


def _without_password(uri: str) -> str:
    """Return the address of a store without the name and the password that it may have."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else uri
