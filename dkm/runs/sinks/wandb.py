"""The sink ``wandb``: Weights & Biases, online or offline as the environment says (``WANDB_MODE`` and so on)."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from dkm.config.roles import role_of
from dkm.config.schema import dotted
from dkm.errors import UserError
from dkm.runs.sinks.base import ScoresOf, Sink, SinkContext
from dkm.runs.tensorboard import baseline_scalars, scalars_of
from dkm.runtime.atomic import write_atomically

# W&B draws no histogram with more bars.
_MAX_BARS = 512
_PROJECT = "dkm"


class WandbSink(Sink):
    """Logs one run to Weights & Biases.

    The rows of the run are kept in ``wandb/history.jsonl`` too. Its client buffers what it writes, so the last seconds
    of a killed run are lost there, and offline it cannot continue a run. A resumed run therefore sends again, from the
    file, what precedes the checkpoint and W&B lacks, and nothing twice: online it asks for the last step; offline the
    new folder has the whole history and replaces that of the earlier process.

    Parameters
    ----------
    context : SinkContext
    """

    shows_images = True

    def __init__(self, context: SinkContext) -> None:
        import wandb

        super().__init__()
        self._wandb = wandb
        folder = context.path / "wandb"
        folder.mkdir(exist_ok=True)
        self._history = folder / "history.jsonl"
        before = sorted(folder.glob("offline-run-*"))
        rows = [] if context.step is None else _rows(self._history, context.step)
        write_atomically(self._history, "".join(json.dumps(row) + "\n" for row in rows).encode())
        run_id = context.reference.get("id")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME") or f"{context.path.parent.name}/{context.path.name}",
            dir=str(context.path),
            id=run_id,
            resume="allow" if run_id else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Its own steps count rows, and may not go back.
        self._run.define_metric("*", step_metric="step")
        settings = {key: value for key, value in dotted(context.config).items() if role_of(key).is_hyperparameter}
        self._run.config.update(settings, allow_val_change=True)
        is_offline = self._run.offline
        last = None if is_offline else self._run.summary.get("step")
        self._last_step = last if isinstance(last, int) else -1
        for row in rows:
            self._send(row)
        self.reference = {"id": self._run.id}
        if is_offline:
            now = Path(self._run.settings.sync_dir)
            for earlier in before:
                if earlier.name.endswith(f"-{run_id}") and earlier.name != now.name:
                    shutil.rmtree(earlier, ignore_errors=True)
            self.notice = f"offline; send it with: wandb sync {shlex.quote(str(now))}"
        elif self._run.url:
            self.reference["url"] = self._run.url
            self.notice = self._run.url

    @classmethod
    def check(cls) -> None:
        import wandb

        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if settings._offline or settings._noop:
            return
        try:
            is_logged_in = wandb.login(prompt=False, verify=False)
        except TypeError:  # before 0.31 it would ask
            is_logged_in = wandb.api.api_key is not None
        if is_logged_in:
            return
        raise UserError(
            "log.to=wandb: no API key is known; expected one, or WANDB_MODE=offline; enter it with wandb login, or set "
            "WANDB_API_KEY or WANDB_MODE=offline"
        )

    @classmethod
    def open(cls, context: SinkContext) -> WandbSink:
        return cls(context)

    def record(self, record: Mapping[str, Any], baselines: ScoresOf) -> None:
        phase, sizes = record["phase"], record.get("clusters/sizes")
        numbers = {f"{phase}/{name}": value for name, value in scalars_of(record).items()}
        if sizes is not None:
            numbers |= {f"{phase}/clusters/sizes": sizes}
            numbers |= {f"baseline/{name}": value for name, value in baseline_scalars(baselines).items()}
        self._log(record["step"], {"epoch": record["epoch"], **numbers})

    def scalars(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        self._log(step, {f"{phase}/{name}": value for name, value in values.items()})

    def baselines(self, step: int, scores: ScoresOf) -> None:
        self._log(step, {f"baseline/{name}": value for name, value in baseline_scalars(scores).items()})

    def image(self, tag: str, step: int, png: bytes) -> None:
        from PIL import Image

        if step > self._last_step:
            self._run.log({"step": step, tag: self._wandb.Image(Image.open(BytesIO(png)))})

    def result(self, step: int, scores: Mapping[str, float | None], given: Collection[str]) -> None:
        self._run.summary.update({f"result/{name}": value for name, value in scores.items() if value is not None})

    def end(self, status: str) -> None:
        self._run.summary.update({"status": status})

    def close(self) -> None:
        self._run.finish(exit_code=0 if self._run.summary.get("status") == "completed" else 1)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        """Keep a row, and send it if W&B does not have its step."""
        row = {"step": step, **{name: value for name, value in values.items() if value is not None}}
        with self._history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._send(row)

    def _send(self, row: Mapping[str, Any]) -> None:
        if row["step"] <= self._last_step:
            return
        shown = {name: self._histogram(value) if isinstance(value, list) else value for name, value in row.items()}
        self._run.log({name: value for name, value in shown.items() if value is not None})

    def _histogram(self, sizes: list[int]) -> Any:
        """Return the cluster sizes (K,) as a histogram whose bar k is the size of cluster k; None if K is too large."""
        if len(sizes) > _MAX_BARS:
            return None
        return self._wandb.Histogram(np_histogram=(sizes, list(range(len(sizes) + 1))))


def _rows(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Return the rows up to a step; a line that a kill has cut off ends them."""
    return list(_complete(path, last_step)) if path.exists() else []


def _complete(path: Path, last_step: int) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return
        if row["step"] <= last_step:
            yield row
