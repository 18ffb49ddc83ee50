"""``log.to=[wandb,mlflow]``: what they get, once each, also when a run is killed and resumed, in a store of their own.

Most tests use a stand-in for the package, which writes down its calls. Those at the end use the package, if installed.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_sinks import copied_at_record, manifest_of, records_of, train

from dkm.config.compose import compose, parse
from dkm.errors import UserError
from dkm.evaluation.figures.style import figure_to_png
from dkm.runs.sinks.base import SinkContext
from dkm.runs.sinks.mlflow import MlflowSink
from dkm.runs.sinks.wandb import WandbSink
from dkm.runs.tensorboard import scalars_of
from dkm.runtime import atomic
from dkm.train import _main as main

CONFIG = compose(parse(["data=blobs", "joint.epochs=4"])).config
# Numbers that differ between equal runs.
TIMED = ("rows_per_s", "_share")
BASELINES = {"kmeans_raw": {"nmi": 0.5, "acc": None}, "kmeans_pretrained": None}


def context_of(path: Path, step: int | None = None, **reference: str) -> SinkContext:
    return SinkContext(path, CONFIG, step, has_labels=True, reference=reference)


def record_at(step: int) -> dict[str, Any]:
    return {"phase": "joint", "epoch": step, "step": step, "loss/total": step / 8, "metrics/nmi": None}


@pytest.fixture(scope="module")
def png() -> bytes:
    from matplotlib.figure import Figure

    return figure_to_png(Figure((0.2, 0.2)))


@pytest.fixture(autouse=True)
def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_NAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


# --- a stand-in for W&B -------------------------------------------------------------------------------------------


class FakeRun:
    """A run of the stand-in. Online it has the summary of the runs with its id before it."""

    def __init__(self, server: FakeWandb, arguments: dict[str, Any]) -> None:
        self.id = arguments["id"] or "abcd1234"
        self.arguments = arguments
        self.offline = server.is_offline
        self.url = None if self.offline else f"https://server/{self.id}"
        self.summary: dict[str, Any] = {} if self.offline else server.summaries[self.id]
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings_of_run.update(values))
        self.settings_of_run: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        number = len(server.runs)
        folder = Path(arguments["dir"]) / "wandb" / f"{'offline-' * self.offline}run-{number}-{self.id}"
        self.settings = SimpleNamespace(sync_dir=str(folder))
        folder.mkdir(parents=True)

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.summary.update(row)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb:
    def __init__(self) -> None:
        self.is_offline = True
        self.is_logged_in = False
        self.runs: list[FakeRun] = []
        self.summaries: dict[str, dict[str, Any]] = defaultdict(dict)

    def init(self, **arguments: Any) -> FakeRun:
        self.runs.append(FakeRun(self, arguments))
        return self.runs[-1]

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        return self.is_logged_in

    def setup(self, settings: object) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(_offline=self.is_offline, _noop=False))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    members = {name: getattr(fake, name) for name in ("init", "login", "setup")}
    histogram = SimpleNamespace
    install(monkeypatch, "wandb", Settings=dict, Image=lambda image: image.size, Histogram=histogram, **members)
    return fake


def test_wandb_gets_the_records_settings_and_the_result(wandb: FakeWandb, tmp_path: Path) -> None:
    run_directory = train(tmp_path / "run", "log.to=[wandb]")
    [run] = wandb.runs
    assert run.arguments["dir"] == str(run_directory)
    assert (run.arguments["project"], run.arguments["name"]) == ("dkm", f"{tmp_path.name}/run")
    assert run.arguments["settings"] == {"silent": True, "console": "off"}
    assert manifest_of(run_directory)["logged_to"] == {"wandb": {"id": "abcd1234"}}
    for record in records_of(run_directory):
        phase = record["phase"]
        [row] = [row for row in run.rows if row["step"] == record["step"] and f"{phase}/embedding/variance" in row]
        assert row["epoch"] == record["epoch"]
        for name, value in scalars_of(record).items():
            assert row.get(f"{phase}/{name}") == value
    assert row["joint/clusters/sizes"].np_histogram[0] == record["clusters/sizes"]
    result = json.loads((run_directory / "result.json").read_text(encoding="utf-8"))
    assert row["baseline/kmeans_raw/nmi"] == result["kmeans_raw"]["nmi"]
    assert run.summary["result/nmi"] == result["nmi"]
    assert (run.summary["status"], run.exit_code) == ("completed", 0)
    assert run.settings_of_run["joint.epochs"] == 4
    assert "data.root" not in run.settings_of_run  # no paths


@pytest.mark.parametrize("is_offline", [True, False])
def test_wandb_has_each_step_once_when_a_killed_run_is_resumed(
    is_offline: bool, wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.is_offline, wandb.is_logged_in = is_offline, not is_offline
    killed = tmp_path / "killed"
    with copied_at_record(5, killed, monkeypatch):
        train(tmp_path / "run", "log.to=[wandb]")
    [undivided] = wandb.runs
    expected = [row for row in undivided.rows if "loss" in str(row)]
    # What the server got before the kill: less than the checkpoint has, as the client buffers.
    wandb.summaries.clear()
    wandb.summaries["abcd1234"]["step"] = 6
    assert main([f"resume={killed}"]) == 0
    run = wandb.runs[-1]
    assert (run.arguments["id"], run.arguments["resume"]) == ("abcd1234", "allow")
    assert steps_of(run.rows) == [step for step in steps_of(expected) if is_offline or step > 6]
    assert len(list((killed / "wandb").glob("*run-*"))) == (1 if is_offline else 2)
    # Resumed once more, it has all.
    assert main([f"resume={killed}", "joint.epochs=5"]) == 0
    assert steps_of(wandb.runs[-1].rows)[: len(expected)] == (steps_of(expected) if is_offline else [25])


def steps_of(rows: list[dict[str, Any]]) -> list[int]:
    """Return the steps of the rows with a loss."""
    return [row["step"] for row in rows if any("loss/total" in name for name in row)]


def test_wandb_goes_by_the_environment(wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "first")
    sink = WandbSink.open(context_of(tmp_path))
    [run] = wandb.runs
    assert (run.arguments["project"], run.arguments["name"]) == ("mine", "first")
    assert sink.notice == f"offline; send it with: wandb sync {run.settings.sync_dir}"
    wandb.is_offline = False
    sink = WandbSink.open(context_of(tmp_path))
    assert sink.notice == sink.reference["url"] == "https://server/abcd1234"


def test_wandb_shows_pictures_and_large_numbers_of_clusters(wandb: FakeWandb, png: bytes, tmp_path: Path) -> None:
    sink = WandbSink.open(context_of(tmp_path))
    sink.image("joint/images/embedding", 3, png)
    sink.record({**record_at(4), "clusters/sizes": [1] * 600}, BASELINES)
    picture, row = wandb.runs[0].rows
    assert picture["step"] == 3
    assert all(size > 1 for size in picture["joint/images/embedding"])
    assert row == {"step": 4, "epoch": 4, "joint/loss/total": 0.5, "baseline/kmeans_raw/nmi": 0.5}
    sink.close()
    assert wandb.runs[0].exit_code == 1  # it did not end as completed


def test_a_line_that_was_cut_off_ends_the_history(wandb: FakeWandb, tmp_path: Path) -> None:
    sink = WandbSink.open(context_of(tmp_path))
    sink.record(record_at(1), {})
    history = tmp_path / "wandb" / "history.jsonl"
    history.write_text(history.read_text(encoding="utf-8") + '{"step": 2, "jo', encoding="utf-8")
    WandbSink.open(context_of(tmp_path, step=3, id="abcd1234"))
    assert [row["step"] for row in wandb.runs[1].rows] == [1]
    WandbSink.open(context_of(tmp_path))  # a new run
    assert history.read_text(encoding="utf-8") == ""


def test_a_history_that_cannot_be_rewritten_is_kept(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed while it resumes a run must leave the rows for the next one."""
    sink = WandbSink.open(context_of(tmp_path))
    for step in (1, 2):
        sink.record(record_at(step), {})
    before = (tmp_path / "wandb" / "history.jsonl").read_bytes()

    def fail(temporary: Path, path: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(atomic, "publish", fail)
    with pytest.raises(OSError, match="No space left"):
        WandbSink.open(context_of(tmp_path, step=1, id="abcd1234"))
    assert (tmp_path / "wandb" / "history.jsonl").read_bytes() == before
    assert before.count(b"\n") == 2


@pytest.mark.parametrize("is_old", [False, True])
def test_without_a_key_wandb_is_refused_before_anything_is_written(
    is_old: bool, wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.is_offline = False
    if is_old:
        api = SimpleNamespace(api_key=None)
        monkeypatch.setattr(sys.modules["wandb"], "login", lambda *, verify: 1 / 0)
        monkeypatch.setattr(sys.modules["wandb"], "api", api, raising=False)
    with pytest.raises(UserError, match=r"log\.to=wandb: no API key is known; expected one, or WANDB_MODE=offline; "):
        train(tmp_path / "run", "log.to=[wandb]")
    assert not (tmp_path / "run").exists()
    wandb.is_logged_in = True
    if is_old:
        api.api_key = "a key"
    WandbSink.check()


def test_a_setting_that_wandb_does_not_take_is_one_line(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("1 validation error for Settings\nmode\n  Input should be 'online'" + " or x" * 100)

    monkeypatch.setattr(sys.modules["wandb"], "setup", refuse)
    expected = r"^log.to=wandb: ValueError: 1 validation error for Settings mode Input should be 'online' .*; expected"
    with pytest.raises(UserError, match=expected) as refused:
        train(tmp_path / "run", "log.to=[wandb]")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 450
    assert not (tmp_path / "run").exists()


# --- a stand-in for MLflow ----------------------------------------------------------------------------------------


class FakeError(Exception):
    pass


class FakeStore:
    def __init__(self) -> None:
        self.experiments: dict[str, str | None] = {}
        self.runs: dict[str, Any] = {}
        self.artifacts: list[str] = []


class FakeClient:
    """A client of the stand-in. Like MLflow it refuses to change a parameter."""

    stores: dict[str, FakeStore]
    n_requests = 0

    def __init__(self, uri: str) -> None:
        self._store = self.stores[uri]

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in self._store.experiments else None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self._store.experiments[name] = artifact_location
        return name

    def create_run(self, experiment: str, *, run_name: str) -> Any:
        info = SimpleNamespace(run_id=f"run{len(self._store.runs)}", experiment=experiment, name=run_name)
        data = SimpleNamespace(params={}, tags={}, metrics=[])
        run = SimpleNamespace(info=info, data=data, status="RUNNING")
        self._store.runs[info.run_id] = run
        return run

    def get_run(self, run_id: str) -> Any:
        if run_id not in self._store.runs:
            raise FakeError(run_id)
        return self._store.runs[run_id]

    def update_run(self, run_id: str, *, status: str) -> None:
        self._store.runs[run_id].status = status

    set_terminated = lambda self, run_id, status: self.update_run(run_id, status=status)  # noqa: E731

    def log_batch(self, run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert len(metrics) <= 1000
        assert len(params) <= 100
        FakeClient.n_requests += 1
        data = self._store.runs[run_id].data
        data.metrics += metrics
        for param in params:
            assert param.key not in data.params
            data.params[param.key] = param.value
        data.tags |= {tag.key: tag.value for tag in tags}

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        return [metric for metric in self._store.runs[run_id].data.metrics if metric.key == name]

    def log_artifact(self, run_id: str, path: str, folder: str) -> None:
        assert Path(path).read_bytes().startswith(b"\x89PNG")
        self._store.artifacts.append(f"{folder}/{Path(path).name}")


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    FakeClient.stores, FakeClient.n_requests = defaultdict(FakeStore), 0

    def named(*names: str) -> Any:
        return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))

    pair = named("key", "value")
    install(monkeypatch, "mlflow")
    metric = named("key", "value", "timestamp", "step")
    install(monkeypatch, "mlflow.entities", Metric=metric, Param=pair, RunTag=pair)
    install(monkeypatch, "mlflow.tracking", MlflowClient=FakeClient)
    install(monkeypatch, "mlflow.exceptions", MlflowException=FakeError)
    return FakeClient


def store_in(run: Path) -> FakeStore:
    return FakeClient.stores[f"sqlite:///{run / 'mlflow' / 'mlflow.db'}"]


def points_of(metrics: list[Any]) -> list[tuple[str, int, float]]:
    return sorted((metric.key, metric.step, metric.value) for metric in metrics if not metric.key.endswith(TIMED))


def test_mlflow_gets_the_records_settings_and_the_result(mlflow: type[FakeClient], tmp_path: Path) -> None:
    run_directory = train(tmp_path / "run", "log.to=[mlflow]")
    store = store_in(run_directory)
    assert store.experiments == {"dkm": (run_directory / "mlflow" / "artifacts").as_uri()}
    [run] = store.runs.values()
    assert (run.info.name, run.status) == (f"{tmp_path.name}/run", "FINISHED")
    assert manifest_of(run_directory)["logged_to"] == {"mlflow": {"run_id": "run0"}}
    assert run.data.params["joint.epochs"] == "4"
    assert "data.root" not in run.data.params
    points = set(points_of(run.data.metrics))
    for record in records_of(run_directory):
        for name, value in scalars_of(record).items():
            if value is not None:
                assert (f"{record['phase']}/{name}", record["step"], value) in points
    result = json.loads((run_directory / "result.json").read_text(encoding="utf-8"))
    assert ("result/nmi", result["steps"] + 1, result["nmi"]) in points
    assert ("baseline/kmeans_raw/nmi", record["step"], result["kmeans_raw"]["nmi"]) in points


def test_mlflow_has_each_point_once_when_a_killed_run_is_resumed(
    mlflow: type[FakeClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    with copied_at_record(5, killed, monkeypatch):
        train(tmp_path / "run", "log.to=[mlflow]")
    [undivided] = store_in(tmp_path / "run").runs.values()
    expected = points_of(undivided.data.metrics)
    # The store has all that was sent, here more than the checkpoint knows.
    [*_, last] = [record["step"] for record in records_of(tmp_path / "run")][:5]
    copied = store_in(killed)
    run = FakeClient(f"sqlite:///{killed / 'mlflow' / 'mlflow.db'}").create_run("dkm", run_name="x")
    run.data.metrics += [metric for metric in undivided.data.metrics if metric.step <= last]
    run.data.params |= undivided.data.params
    assert main([f"resume={killed}"]) == 0
    assert copied.runs == {"run0": run}
    assert points_of(run.data.metrics) == expected
    assert run.status == "FINISHED"
    assert main([f"resume={killed}", "joint.epochs=5"]) == 0
    assert run.data.params["joint.epochs"] == "4"
    assert run.data.tags == {"resumed.joint.epochs": "5"}
    points = points_of(run.data.metrics)
    assert len(points) == len({(key, step) for key, step, _ in points})
    assert set(expected) < set(points)


def test_numbers_between_evaluations_are_sent_together(mlflow: type[FakeClient], tmp_path: Path) -> None:
    sink = MlflowSink.open(context_of(tmp_path))
    [run] = store_in(tmp_path).runs.values()
    before = mlflow.n_requests
    for step in range(1500):
        sink.scalars("pretrain", step, {"loss/total": 1.0, "loss/l2": None})
    assert mlflow.n_requests == before
    sink.record(record_at(1500), {})
    assert mlflow.n_requests == before + 2
    assert len(run.data.metrics) == 1501
    sink.scalars("joint", 1501, {"loss/total": 1.0})
    sink.flush()
    sink.flush()
    assert mlflow.n_requests == before + 3


def test_mlflow_goes_by_the_environment(
    mlflow: type[FakeClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "https://me:secret@server/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "first")
    sink = MlflowSink.open(context_of(tmp_path))
    assert mlflow.stores[uri].experiments == {"mine": None}
    [run] = mlflow.stores[uri].runs.values()
    assert (run.info.experiment, run.info.name) == ("mine", "first")
    assert sink.notice == "run run0 in https://server/mlflow"
    assert not (tmp_path / "mlflow").exists()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    sink = MlflowSink.open(context_of(tmp_path, run_id="unknown"))  # of another store
    assert sink.reference == {"run_id": "run1"}
    assert mlflow.stores[uri].runs["run1"].info.experiment == "7"


@pytest.mark.parametrize(
    ("status", "shown"), [("completed", "FINISHED"), ("interrupted", "KILLED"), ("failed", "FAILED"), (None, "FAILED")]
)
def test_mlflow_shows_how_a_run_ended(status: str | None, shown: str, mlflow: type[FakeClient], tmp_path: Path) -> None:
    sink = MlflowSink.open(context_of(tmp_path))
    if status is not None:
        sink.end(status)
    sink.close()
    assert store_in(tmp_path).runs["run0"].status == shown


def test_mlflow_keeps_the_final_figures(mlflow: type[FakeClient], png: bytes, tmp_path: Path) -> None:
    sink = MlflowSink.open(context_of(tmp_path))
    sink.image("joint/images/embedding", 3, png)
    sink.image("result/images/embedding", 4, png)
    assert store_in(tmp_path).artifacts == ["figures/embedding.png"]


def test_mlflow_keeps_long_values_short(mlflow: type[FakeClient], tmp_path: Path) -> None:
    config = compose(parse([f"model.hidden=[{','.join(['10'] * 300)}]"])).config
    MlflowSink.open(SinkContext(tmp_path, config, None, has_labels=True))
    assert len(store_in(tmp_path).runs["run0"].data.params["model.hidden"]) == 500


# --- the packages -------------------------------------------------------------------------------------------------


def wandb_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an offline run: records in blocks, as in LevelDB's log, after a header of 7 bytes."""
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    [path] = folder.glob("*.wandb")
    data, position, content = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, n_bytes, part = struct.unpack_from("<IHB", data, position)
        content = (
            data[position + 7 : position + 7 + n_bytes]
            if part in (1, 2)
            else content + data[position + 7 : position + 7 + n_bytes]
        )
        position += 7 + n_bytes
        if part in (1, 4):
            record = protocol.Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                yield {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}


def test_a_real_offline_run_of_wandb_has_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    killed = tmp_path / "killed"
    with copied_at_record(5, killed, monkeypatch):
        run = train(tmp_path / "run", "log.to=[wandb]")
    assert main([f"resume={killed}"]) == 0
    assert capfd.readouterr().err == ""
    rows = []
    for directory in (run, killed):
        [folder] = (directory / "wandb").glob("offline-run-*")
        rows.append(list(wandb_rows(folder)))
        assert folder.name.endswith(manifest_of(directory)["logged_to"]["wandb"]["id"])
    assert steps_of(rows[0]) == steps_of(rows[1])
    assert len(steps_of(rows[0])) == len(set(steps_of(rows[0]))) == 7  # epochs
    for name in ("metrics.jsonl", "result.json", "assignments.csv"):
        assert (killed / name).read_bytes() == (run / name).read_bytes(), name


def test_a_real_store_of_mlflow_has_each_point_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("alembic")
    killed = tmp_path / "killed"
    with copied_at_record(5, killed, monkeypatch):
        run = train(tmp_path / "run", "log.to=[mlflow]", "log.figures=true")
    assert main([f"resume={killed}", "joint.epochs=5"]) == 0
    assert capfd.readouterr().err == ""
    for directory in (run, killed):
        client = tracking.MlflowClient(f"sqlite:///{directory / 'mlflow' / 'mlflow.db'}")
        stored = client.get_run(manifest_of(directory)["logged_to"]["mlflow"]["run_id"])
        assert stored.info.status == "FINISHED"
        for record in records_of(directory):
            name = f"{record['phase']}/loss/total"
            history = client.get_metric_history(stored.info.run_id, name)
            [point] = [metric for metric in history if metric.step == record["step"]]
            assert math.isclose(point.value, record["loss/total"])
    assert stored.data.tags["resumed.joint.epochs"] == "5"
    client = tracking.MlflowClient(f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")
    run_id = manifest_of(run)["logged_to"]["mlflow"]["run_id"]
    assert "figures/embedding.png" in [file.path for file in client.list_artifacts(run_id, "figures")]
    shutil.rmtree(run / "mlflow")
