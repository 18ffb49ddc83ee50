"""``dkm.runs.tensorboard``: charts of curves that are there, lines of the baselines, what the projector reads."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dkm import train
from dkm.config.compose import compose, parse
from dkm.errors import Failure
from dkm.evaluation.figures.clusters import contingency_map
from dkm.runs.tensorboard import Dashboard, compared_scores, layout, mosaic
from dkm.training.divergence import NonFiniteLoss
from dkm.training.trainer import Trainer

SMALL = [
    *(
        "model.hidden=[16]",
        "batch_size=64",
        "recipe=classic",
        "pretrain.epochs=4",
        "joint.epochs=8",
        "joint.tolerance=0",
        "threads=1",
    ),
    *("clustering.n_init=2", "evaluation.every_epochs=1", "log.progress=off", "log.report=false"),
]


def small_run(folder: Path, *words: str) -> Path:
    np.savez(folder / "x.npz", x=load_digits().images[:200], y=load_digits().target[:200])
    data = ["data=npz", f"data.path={folder / 'x.npz'}", "clustering.n_clusters=10"]
    assert train._main([*data, *SMALL, *words, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("labeled"), "data.labels=y")


def events_of(run: Path) -> Any:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def records_of(run: Path, phase: str) -> list[dict[str, Any]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["phase"] == phase]


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("unlabeled"), "data.labels=null")


@pytest.mark.parametrize("name", ["run", "unlabeled"])
@pytest.mark.thorough
def test_every_curve_of_every_chart_is_there(name: str, request: pytest.FixtureRequest) -> None:
    tags = events_of(request.getfixturevalue(name)).Tags()["scalars"]
    for charts in layout(has_labels=name == "run").values():
        for title, (kind, patterns) in charts.items():
            assert kind == "Multiline"
            for pattern in patterns:
                assert any(re.fullmatch(pattern, tag) for tag in tags), (title, pattern)


def charts_of(run: Path) -> list[dict[str, list[str]]]:
    """The layouts that its events have: titles of charts by their groups."""
    from google.protobuf import json_format
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    found = []
    for text in events_of(run).Tensors("custom_scalars__config__"):
        groups = json_format.MessageToDict(Layout.FromString(text.tensor_proto.string_val[0]))["category"]
        found.append({group["title"]: [chart["title"] for chart in group["chart"]] for group in groups})
    return found


def test_the_charts_are_written_once(run: Path, tmp_path: Path) -> None:
    (charts,) = charts_of(run)
    assert charts["Scores and baselines"] == ["acc", "nmi", "ari", "modularity_data", "n_effective_clusters"]
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    assert train._main([f"resume={resumed}", "joint.epochs=9", "log.figures=false"]) == 0
    assert charts_of(resumed) == [charts]


def test_without_labels_there_are_no_charts_of_them(unlabeled: Path) -> None:
    (charts,) = charts_of(unlabeled)
    assert charts["Scores and baselines"] == ["modularity_data", "n_effective_clusters"]


def test_the_lines_of_the_baselines_go_along(run: Path) -> None:
    events = events_of(run)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    steps = [record["step"] for record in records_of(run, "joint")]
    for baseline in ("kmeans_raw", "kmeans_pretrained"):
        for name in (score.name for score in compared_scores()):
            line = events.Scalars(f"baseline/{baseline}/{name}")
            assert [point.step for point in line] == steps
            assert [point.value for point in line] == pytest.approx([result[baseline][name]] * len(line))


def test_the_modularity_is_that_of_each_evaluation(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert records_of(run, "joint")[-1]["metrics/modularity_data"] == result["modularity_data"]


def test_pictures_are_drawn_at_evaluations_ever_farther_apart(run: Path) -> None:
    events = events_of(run)
    n_batches = 4
    joint = [image.step for image in events.Images("joint/images/embedding")]
    start = 4 * n_batches + 1
    assert joint == [start + epoch * n_batches for epoch in (1, 4, 8)]
    assert len(events.Images("pretrain/images/reconstructions")) == 2
    # What the last evaluation and the end have in common is drawn once.
    assert [image.step for image in events.Images("joint/images/reconstructions")] == joint
    for name in ("reconstructions", "decoded_centroids", "embedding", "contingency"):
        *_, last = events.Images(f"joint/images/{name}")
        [end] = events.Images(f"result/images/{name}")
        assert (last.step, end.step) == (joint[-1], joint[-1] + 1)
        assert last.encoded_image_string == end.encoded_image_string


def test_the_first_evaluation_after_that_of_the_first_epoch_has_no_pictures(tmp_path: Path) -> None:
    run = small_run(tmp_path, "evaluation.every_epochs=2", "pretrain.epochs=12", "joint.epochs=1")
    assert [record["epoch"] for record in records_of(run, "pretrain")] == [1, 2, 4, 6, 8, 10, 12]
    steps = [image.step for image in events_of(run).Images("pretrain/images/reconstructions")]
    assert steps == [4 * epoch for epoch in (1, 8, 12)]


def test_without_labels_the_agreement_with_the_evaluation_before_is_drawn(unlabeled: Path) -> None:
    run = unlabeled
    images = set(events_of(run).Tags()["images"])
    assert {"joint/images/agreement", "result/images/agreement"} <= images
    assert (run / "figures" / "agreement.png").exists()
    assert not any("contingency" in tag for tag in images)
    header = (run / "projector" / "metadata.tsv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split("\t") == ["cluster", "kind", "index", "margin"]


def test_the_table_and_the_warnings_are_texts(run: Path) -> None:
    events = events_of(run)
    table = events.Tensors("table/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "final (kmeans)" in table
    warnings = events.Tensors("warnings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "the modularity of the clusters on the data" in warnings  # after so few epochs


def test_the_manifest_is_shown_as_it_is_in_the_end(run: Path) -> None:
    begun, ended = (
        text.tensor_proto.string_val[0].decode() for text in events_of(run).Tensors("manifest/text_summary")
    )
    assert '"status": "running"' in begun
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads(ended) == manifest
    assert manifest["status"] == "completed"


def test_a_run_that_fails_tells_its_warnings_and_a_resumed_one_those_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        logging.getLogger("dkm").warning("something is odd")
        raise NonFiniteLoss("the loss is nan")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_finish", broken)
        with pytest.raises(Failure):
            small_run(tmp_path, "log.figures=false")
    run = tmp_path / "run"
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["status"], manifest["warnings"]) == ("failed", ["something is odd"])
    (text,) = events_of(run).Tensors("warnings/text_summary")
    assert "something is odd" in text.tensor_proto.string_val[0].decode()
    assert train._main([f"resume={run}"]) == 0
    warnings = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["warnings"]
    assert warnings[0] == "something is odd"
    assert len(warnings) == 2  # the other one is of its clusters


@pytest.mark.thorough
def test_classes_have_the_names_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[Any] = []
    drawn = contingency_map
    monkeypatch.setattr(
        "dkm.evaluation.figures.run.contingency_map",
        lambda table, names=None, **more: named.append(names) or drawn(table, names, **more),
    )
    X, y = load_digits(n_class=3, return_X_y=True)
    np.savez(tmp_path / "x.npz", x=X, y=np.array(["gold\tmedal", "silver", "青銅"])[y])
    words = ["data=npz", f"data.path={tmp_path / 'x.npz'}", "data.labels=y", *SMALL, "joint.epochs=2"]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert named == [["gold\tmedal", "silver", "青銅"]] * 2  # on the way, and at the end
    lines = (tmp_path / "run" / "projector" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert {line.split("\t")[3] for line in lines[1:]} == {"gold medal", "silver", "青銅", ""}


def test_of_large_images_the_projector_has_fewer_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", x=load_digits().images[:200])
    monkeypatch.setattr("dkm.evaluation.projection._MAX_VALUES", 64 * 100 + 63)
    words = ["data=npz", f"data.path={tmp_path / 'x.npz'}", "clustering.n_clusters=3", *SMALL]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    lines = (tmp_path / "run" / "projector" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 100 + 3


def test_settings_that_were_given_are_the_first_columns(run: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events_of(run).SummaryMetadata("_hparams_/experiment").plugin_data.content
    infos = HParamsPluginData.FromString(content).experiment.hparam_infos
    assert len(infos) > 30
    first = {info.name for info in infos if info.differs}
    always = {"clustering.n_clusters", "clustering.name", "seed"}
    given = {"batch_size", "clustering.n_init", "data.name", "model.hidden", "pretrain.epochs"}
    assert first == always | given | {"joint.epochs", "joint.tolerance"}


def test_every_run_has_the_columns_of_all(tmp_path: Path) -> None:
    """TensorBoard takes those of any one run: this one's must do for a run of DKM whose silhouette is defined."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    board = Dashboard(tmp_path, None, has_labels=False)
    config = compose(parse(["clustering=kmeans"])).config
    board.hyperparameters(config, {"modularity_data": 0.5, "silhouette": None})
    board.close()
    metadata = events_of(tmp_path).summary_metadata
    whole = HParamsPluginData.FromString(metadata["_hparams_/experiment"].plugin_data.content).experiment
    assert {"clustering.alpha", "clustering.weight", "optimizer.momentum"} <= {info.name for info in whole.hparam_infos}
    assert {info.name.tag for info in whole.metric_infos} == {"result/modularity_data", "result/silhouette"}
    content = metadata["_hparams_/session_start_info"].plugin_data.content
    own = HParamsPluginData.FromString(content).session_start_info.hparams
    assert own["clustering.weight"].number_value == 0.1
    assert "clustering.alpha" not in own


def test_a_run_that_begins_to_log_when_it_is_resumed_has_its_charts_and_texts(tmp_path: Path) -> None:
    run = small_run(tmp_path, "log.tensorboard=false", "log.figures=false")
    assert train._main([f"resume={run}", "joint.epochs=9", "log.tensorboard=true"]) == 0
    (charts,) = charts_of(run)
    assert "Loss" in charts
    assert events_of(run).Tensors("config/text_summary")


def test_a_run_without_a_joint_phase_shows_its_baselines(tmp_path: Path) -> None:
    run = small_run(tmp_path, "clustering=none", "data.labels=y", "log.figures=false")
    events = events_of(run)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    (point,) = events.Scalars("baseline/kmeans_pretrained/acc")
    assert point.value == pytest.approx(result["kmeans_pretrained"]["acc"])


def test_large_pictures_are_smaller_in_the_projector(tmp_path: Path) -> None:
    board = Dashboard(tmp_path, None, has_labels=False)
    images = np.linspace(0, 1, 4 * 5000 * 4).reshape(4, 1, 5000, 4)
    board.projector(np.zeros((4, 2)), {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}, images)
    board.close()
    sprite = imread(tmp_path / "projector" / "sprite.png")
    assert sprite.shape[:2] == (5000, 4)  # two images of 2,500 pixels a side
    text = (tmp_path / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert "single_image_dim: 2 single_image_dim: 2500" in text


def test_without_figures_there_is_still_a_projector(tmp_path: Path) -> None:
    run = small_run(tmp_path, "log.figures=false")
    assert (run / "projector" / "tensors.tsv").exists()
    assert not (run / "figures").exists()
    assert not events_of(run).Tags()["images"]


def test_the_projector_reads_points_centroids_and_pictures(run: Path) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
    from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

    config = text_format.Parse((run / "projector_config.pbtxt").read_text(encoding="utf-8"), ProjectorConfig())
    (embedding,) = config.embeddings
    Z = _read_tensor_tsv_file(str(run / embedding.tensor_path))
    assert Z.shape == tuple(embedding.tensor_shape) == (210, 10)
    lines = (run / embedding.metadata_path).read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == ["cluster", "kind", "index", "label", "margin"]
    assert len(lines) == 1 + 210
    assert [line.split("\t")[1] for line in lines[1:]] == ["point"] * 200 + ["centroid"] * 10
    clusters = [row.split(",")[1] for row in (run / "assignments.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [line.split("\t")[0] for line in lines[1:201]] == clusters
    sprite = imread(run / embedding.sprite.image_path)
    assert sprite.shape[:2] == (15 * 8, 15 * 8)
    assert list(embedding.sprite.single_image_dim) == [8, 8]
    np.testing.assert_allclose(sprite[:8, 8:16, 0] * 16, load_digits().images[1], atol=0.04)


def test_nothing_is_written_where_nothing_is_wanted(tmp_path: Path) -> None:
    run = small_run(tmp_path, "log.tensorboard=false", "log.figures=false")
    assert not list(run.glob("events*"))
    assert not (run / "projector").exists()


def test_mosaic_tiles_to_the_right_and_down() -> None:
    images = np.stack([np.full((1, 2, 3), level) for level in (0.0, 0.5, 1.0, 2.0, -1.0)])
    tiles = mosaic(images, 3)
    assert tiles.shape == (6, 9, 3)
    assert tiles[::2, ::3, 0].tolist() == [[0, 128, 255], [255, 0, 0], [0, 0, 0]]
