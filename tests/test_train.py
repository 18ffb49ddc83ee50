"""A whole run: what it writes, that it repeats, and that labels only ever score it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import Finished, train
from sklearn.datasets import load_digits
from steps import recorded_steps
from tqdm import tqdm
from written import SAME, records_of, rows_of

from dkm.config.compose import compose, parse
from dkm.data.datasets import load_dataset
from dkm.models.autoencoder import mix_encoder
from dkm.runs.directory import RunDirectory, Unwritten
from dkm.runtime import checkpoints
from dkm.training.divergence import NonFiniteLoss
from dkm.training.optimizers import WeightAverage
from dkm.training.state import Clock, TrainState
from dkm.training.trainer import Trainer

SMALL = [
    "model.hidden=[32,16]",
    "batch_size=64",
    "recipe=classic",
    "pretrain.epochs=4",
    "joint.epochs=4",
    "joint.tolerance=0",
    "evaluation.every_epochs=2",
    "clustering.n_init=3",
]
NUMBERS_ONLY = ["log.figures=false", "log.report=false", "log.tensorboard=false"]


def write_images(path: Path, labels: np.ndarray | None = None) -> list[str]:
    digits = load_digits()
    arrays = {"x": digits.images[:300]} | ({} if labels is None else {"y": labels})
    np.savez(path, **arrays)
    return ["data=npz", f"data.path={path}", *([] if labels is None else ["data.labels=y"])]


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    return [*write_images(path, load_digits().target[:300]), *SMALL]


@pytest.fixture(scope="module")
def run(labeled: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with pictures and TensorBoard."""
    path = tmp_path_factory.mktemp("run") / "run"
    finished = start(labeled, path)
    assert finished.code == 0, finished.err
    return path


def start(overrides: list[str], path: Path) -> Finished:
    return train([*overrides, f"hydra.run.dir={path}"], path.parent / f"log-{path.name}")


def run_quietly(trainer: Trainer, path: Path) -> None:
    directory = RunDirectory(path, progress="off")
    directory.open(trainer.config, step=None, has_labels=True)
    trainer.run(directory)


def labels_of(path: Path) -> list[int]:
    return [int(row["cluster"]) for row in rows_of(path / "assignments.csv")]


# --- repeatability ------------------------------------------------------------------------------------------------


@pytest.mark.slow  # the two runs of the test of what is logged, below, are equal commands but for that
def test_equal_commands_give_equal_bytes(labeled: list[str], run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert start(labeled, again).code == 0
    for name in SAME:
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.thorough
def test_another_seed_gives_another_run(labeled: list[str], run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert start([*labeled, *NUMBERS_ONLY, "seed=1"], other).code == 0
    assert (other / "assignments.csv").read_bytes() != (run / "assignments.csv").read_bytes()


def test_what_is_logged_and_when_checkpoints_are_written_changes_no_number(
    labeled: list[str], run: Path, tmp_path: Path
) -> None:
    quiet = tmp_path / "quiet"
    silent = [
        "log.tensorboard=false",
        "log.figures=false",
        "log.report=false",
        "log.progress=off",
        "checkpoint.every_s=0",
    ]
    finished = start([*labeled, *silent], quiet)
    assert (finished.code, finished.out, finished.err) == (0, "", "")
    for name in SAME:
        assert (quiet / name).read_bytes() == (run / name).read_bytes(), name
    assert not list(quiet.glob("events*"))


@pytest.mark.thorough
def test_without_logging_its_libraries_are_not_loaded(labeled: list[str], tmp_path: Path) -> None:
    words = [
        *labeled,
        "log.tensorboard=false",
        "log.figures=false",
        "log.progress=off",
        f"hydra.run.dir={tmp_path / 'r'}",
    ]
    code = "import sys; from dkm.train import _main; print(_main(sys.argv[1:]), {'matplotlib', 'tensorboard'} & "
    code += "{*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout == "0 set()\n"


@pytest.mark.thorough
def test_no_label_reaches_the_training(run: Path, tmp_path: Path) -> None:
    shuffled = np.random.default_rng(0).permutation(load_digits().target[:300])
    one, other = tmp_path / "shuffled", tmp_path / "unlabeled"
    assert start([*write_images(tmp_path / "shuffled.npz", shuffled), *SMALL, *NUMBERS_ONLY], one).code == 0
    assert (
        start([*write_images(tmp_path / "none.npz"), *SMALL, *NUMBERS_ONLY, "clustering.n_clusters=10"], other).code
        == 0
    )
    assert labels_of(one) == labels_of(other) == labels_of(run)
    assert json.loads((one / "result.json").read_text())["acc"] != json.loads((run / "result.json").read_text())["acc"]
    result = json.loads((other / "result.json").read_text())
    assert "acc" not in result
    assert "label" not in rows_of(other / "assignments.csv")[0]
    assert result["silhouette"] == json.loads((run / "result.json").read_text())["silhouette"]


@pytest.mark.parametrize(
    "method",
    [
        ["clustering.init=auto", "clustering.initial_epochs=2", "clustering.self_paced=true", "joint.average_epochs=1"],
        ["clustering=dec"],
        ["clustering=dcn"],
        ["clustering=dkm"],
        ["clustering.reset_every=2", "clustering.norm_weight=0.1", "clustering.assignment=batch"],
    ],
    ids=" ".join,
)
def test_no_label_reaches_any_method(method: list[str], tmp_path: Path) -> None:
    """Neither steps nor evaluations: with the labels in another order only the scores against them differ."""
    labels = load_digits().target[:300]
    paths = []
    for name, y in (("one", labels), ("other", labels[::-1])):
        path = tmp_path / name
        words = [*write_images(tmp_path / f"{name}.npz", y), *SMALL, *method, *NUMBERS_ONLY]
        finished = start(words, path)
        assert finished.code == 0, finished.err
        paths.append(path)
    weights = [(path / "model" / "weights.safetensors").read_bytes() for path in paths]
    assert weights[0] == weights[1]
    one, other = paths
    for ours, theirs in zip(*(rows_of(path / "assignments.csv") for path in (one, other)), strict=True):
        assert {**ours, "label": ""} == {**theirs, "label": ""}
    against_labels = dict.fromkeys(["metrics/acc", "metrics/nmi", "metrics/ari"])
    for ours, theirs in zip(records_of(one), records_of(other), strict=True):
        assert ours | against_labels == theirs | against_labels
        assert (ours.get("metrics/acc") == theirs.get("metrics/acc")) == (ours["phase"] == "pretrain")


@pytest.mark.thorough
def test_weight_decay_and_penalty_give_the_same_run(labeled: list[str], tmp_path: Path) -> None:
    runs = {}
    for name in ("weight_decay", "l2_penalty"):
        path = tmp_path / name
        words = [*labeled, *NUMBERS_ONLY, f"regularization={name}", "regularization.strength=1e-3"]
        assert start(words, path).code == 0
        runs[name] = records_of(path)[-1]
    decay, penalty = runs["weight_decay"], runs["l2_penalty"]
    # One rounds the sum of two gradients, the other adds in another order: float32 over 40 steps.
    assert decay["loss/reconstruction"] == pytest.approx(penalty["loss/reconstruction"], rel=1e-4)
    assert decay["embedding/variance"] == pytest.approx(penalty["embedding/variance"], rel=1e-3)
    assert labels_of(tmp_path / "weight_decay") == labels_of(tmp_path / "l2_penalty")


# --- what a run leaves --------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_run_directory_has_every_file(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    names = {name for name in names if not name.startswith("events.out.tfevents")}
    figures = ("embedding", "cluster_sizes", "contingency", "decoded_centroids", "exemplars", "loss_curves")
    figures += ("exemplars_least_certain", "silhouettes", "margins", "reconstructions")
    assert names == {
        *("config.yaml", "manifest.json", "data.json", "metrics.jsonl", "result.json", "assignments.csv", "train.log"),
        "report.html",
        "exemplars.csv",
        *("projector_config.pbtxt", "projector/tensors.tsv", "projector/metadata.tsv", "projector/sprite.png"),
        *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
        *("checkpoints/last.pt", "checkpoints/previous.pt", "model/weights.safetensors", "model/model.json"),
        *(f"figures/{name}.png" for name in figures),
    }
    assert len(list(run.glob("events.out.tfevents*"))) == 1


def test_the_manifest_tells_how_the_run_was_made(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "completed"
    assert manifest["data"]["shape"] == [300, 64]
    assert re.fullmatch(r"[0-9a-f]{64}", manifest["data"]["sha256"])
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (manifest["seed"], manifest["device"], manifest["precision"]) == (0, "cpu", "fp32")
    assert list(manifest["seconds"]) == ["setup", "baseline", "pretrain", "initialization", "joint", "report"]
    assert all(seconds > 0 for seconds in manifest["seconds"].values())
    assert all(rate > 0 for rate in manifest["samples_per_second"].values())


def test_times_and_paths_stand_in_the_manifest_only(run: Path) -> None:
    for name in SAME:
        text = (run / name).read_text()
        assert str(run.parent) not in text
        assert "seconds" not in text


def test_each_evaluation_has_its_terms_and_metrics(run: Path) -> None:
    records = records_of(run)
    assert [(r["phase"], r["epoch"]) for r in records] == [
        *(("pretrain", epoch) for epoch in (1, 2, 4)),
        *(("joint", epoch) for epoch in (1, 2, 4)),
    ]
    for record in records:
        weighted = [value for key, value in record.items() if key.startswith("loss_weighted/")]
        assert record["loss/total"] == pytest.approx(sum(weighted), rel=1e-12)
        assert record["optimizer/gradient_norm"] > 0
    last = records[-1]
    assert last["loss_weighted/clustering"] == pytest.approx(0.1 * last["loss/clustering"])
    assert last["loss_weighted/l2"] == pytest.approx(1e-6 * last["loss/l2"])
    assert sum(last["clusters/sizes"]) == 300
    assert {"metrics/acc", "metrics/nmi", "metrics/ari", "metrics/silhouette", "metrics/inertia"} <= last.keys()
    # 300 samples in 5 batches; setting the centroids counts as one step.
    assert last["step"] == 8 * 5 + 1


def test_the_result_has_both_baselines_beside_it(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    scores = {"acc", "nmi", "ari", "silhouette", "davies_bouldin", "calinski_harabasz", "inertia"}
    scores |= {"n_effective_clusters", "silhouette_data", "modularity_data", "assortativity_data"}
    for part in (result, result["kmeans_raw"], result["kmeans_pretrained"]):
        assert scores <= part.keys()
        assert all(np.isfinite(part[name]) for name in scores)


def test_k_means_on_the_raw_data_is_as_good_as_scikit_learns(run: Path) -> None:
    from sklearn.cluster import KMeans

    raw = json.loads((run / "result.json").read_text())["kmeans_raw"]
    X = load_digits().data[:300]
    # In the units of the data scaled to [0, 1]; the best of 3 starts of ours against the best of 20 of theirs.
    best = KMeans(10, n_init=20, random_state=0).fit(X / X.max()).inertia_
    assert raw["inertia"] <= best * 1.02


def test_the_result_is_that_of_the_saved_model(run: Path, labeled: list[str]) -> None:
    """Labels, distances and margins follow from ``model/`` and the data alone."""
    from safetensors.torch import load_file

    description = json.loads((run / "model" / "model.json").read_text())
    assert description["n_clusters"] == description["latent_dim"] == 10
    assert description["image_shape"] == [1, 8, 8]
    config = compose(parse(labeled)).config
    data = load_dataset(config.data)
    trainer = Trainer(config, data)
    tensors = load_file(run / "model" / "weights.safetensors")
    centroids = tensors.pop("centroids").double()
    trainer.autoencoder.load_state_dict({name.removeprefix("autoencoder."): t for name, t in tensors.items()})
    with torch.no_grad():
        z = trainer.autoencoder.encode(data.X).double()
    distances = torch.cdist(z, centroids).sort(1)
    rows = rows_of(run / "assignments.csv")
    assert [int(row["index"]) for row in rows] == list(range(300))
    assert [int(row["cluster"]) for row in rows] == distances.indices[:, 0].tolist()
    margin = distances.values[:, 1] - distances.values[:, 0]
    # Written from float32 embeddings.
    assert [float(row["distance"]) for row in rows] == pytest.approx(distances.values[:, 0].tolist(), abs=1e-4)
    assert [float(row["margin"]) for row in rows] == pytest.approx(margin.tolist(), abs=1e-4)
    assert [int(row["label"]) for row in rows] == load_digits().target[:300].tolist()


def test_the_terminal_shows_plain_lines_the_closing_table_and_the_report(labeled: list[str], tmp_path: Path) -> None:
    finished = start([*labeled, "log.figures=false"], tmp_path / "run")
    assert finished.err == ""
    assert "\r" not in finished.out
    assert len(re.findall(r"^pretrain epoch \d+: loss ", finished.out, re.M)) == 3
    assert len(re.findall(r"^joint epoch \d+: loss ", finished.out, re.M)) == 3
    *table, report = finished.out.splitlines()[-5:]
    assert report == f"report: {tmp_path / 'run' / 'report.html'}"
    assert table[0].split()[:3] == ["ACC", "NMI", "ARI"]
    titles = ("k-means, raw data", "k-means, pretrained embedding", "final (kmeans)")
    for title, line in zip(titles, table[1:], strict=True):
        assert line.startswith(title)
    acc = json.loads((tmp_path / "run" / "result.json").read_text())["acc"]
    assert table[3].split()[2] == f"{acc:.4f}"
    assert finished.out.splitlines()[-1] in (tmp_path / "run" / "train.log").read_text()


def test_adamw_says_that_its_decay_is_something_else(labeled: list[str], tmp_path: Path) -> None:
    finished = start([*labeled, *NUMBERS_ONLY, "optimizer=adamw"], tmp_path / "run")
    assert "decays the weights apart from the gradient, which is not the L2 regularization" in finished.out


def test_none_clusters_the_pretrained_embedding(labeled: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert start([*labeled, *NUMBERS_ONLY, "clustering=none"], path).code == 0
    result = json.loads((path / "result.json").read_text())
    assert result["acc"] == result["kmeans_pretrained"]["acc"]
    assert {record["phase"] for record in records_of(path)} == {"pretrain"}


# --- TensorBoard --------------------------------------------------------------------------------------------------


def test_tensorboard_has_the_dashboard(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    terms = ("reconstruction", "clustering", "l2")
    assert {
        *(f"joint/loss/{term}" for term in (*terms, "total")),
        *(f"joint/loss_weighted/{term}" for term in terms),
        *("pretrain/loss/total", "pretrain/loss/reconstruction", "pretrain/embedding/variance"),
        *("joint/optimizer/lr", "joint/optimizer/gradient_norm", "joint/clusters/label_change"),
        *("joint/clusters/n_dead", "joint/clusters/n_revived", "joint/clusters/centroid_drift"),
        *("joint/clusters/smallest_centroid_distance", "joint/embedding/variance", "joint/metrics/acc"),
        *("joint/metrics/silhouette", "result/acc"),
    } <= set(tags["scalars"])
    assert tags["histograms"] == ["joint/clusters/sizes"]
    assert {
        *("pretrain/images/reconstructions", "joint/images/reconstructions", "joint/images/decoded_centroids"),
        *("joint/images/embedding", "joint/images/contingency"),
        *("result/images/embedding", "result/images/contingency", "result/images/silhouettes", "result/images/margins"),
    } <= set(tags["images"])
    texts = ("config", "manifest", "table", "warnings")
    assert {f"{text}/text_summary" for text in texts} <= set(tags["tensors"])
    # Losses are shown for every epoch, whatever the evaluations are.
    assert [event.step for event in events.Scalars("pretrain/loss/total")] == [5, 10, 15, 20]
    sizes = events.Histograms("joint/clusters/sizes")[-1].histogram_value
    assert list(sizes.bucket)[-10:] == [float(size) for size in records_of(run)[-1]["clusters/sizes"]]


def test_hyper_parameters_stand_in_the_run_itself(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    assert not list(run.glob("*/events.out.tfevents*"))
    events = EventAccumulator(str(run))
    events.Reload()
    assert metadata.SESSION_START_INFO_TAG in events.PluginTagToContent("hparams")
    content = metadata.parse_session_start_info_plugin_data(
        events.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    )
    assert content.hparams["clustering.weight"].number_value == 0.1
    assert content.hparams["regularization.name"].string_value == "weight_decay"


# --- failures and modes -------------------------------------------------------------------------------------------


def test_a_non_finite_loss_stops_before_the_update_and_keeps_the_checkpoint(labeled: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run"
    wild = ["optimizer=sgd", "pretrain.lr=1e30", "pretrain.schedule=constant", "checkpoint.every_s=0"]
    finished = start([*labeled, *NUMBERS_ONLY, *wild], path)
    assert finished.code == 1
    assert finished.err.count("\n") == 1
    message = r"error: the reconstruction loss is (nan|inf) in phase pretrain, epoch 1, step (\d+)"
    match = re.match(message, finished.err)
    assert match is not None, finished.err
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "reconstruction loss" in manifest["reason"]
    state = checkpoints.load(path / "checkpoints")
    assert state is not None
    # The last checkpoint is from just before the step that failed.
    assert state["train_state"]["step"] == int(match[2]) - 1
    assert all(tensor.isfinite().all() for tensor in state["autoencoder"].values())


def test_no_update_is_made_from_a_non_finite_loss_on(labeled: list[str]) -> None:
    wild = ["optimizer=sgd", "pretrain.lr=1e30", "pretrain.schedule=constant", "evaluation.kmeans_raw=false"]
    config = compose(parse([*labeled, *wild])).config
    trainer = Trainer(config, load_dataset(config.data))
    with recorded_steps() as steps, pytest.raises(NonFiniteLoss, match="the update was not made") as error:
        trainer.run(Unwritten())
    failed = int(re.findall(r"step (\d+)", str(error.value))[0]) - 1
    assert 0 < failed < len(steps) - 1
    for step in steps[failed:]:
        assert all(map(torch.equal, step.after, steps[failed].before))
    assert all(parameter.isfinite().all() for parameter in trainer.autoencoder.parameters())


def losses_of(path: Path, phase: str, name: str) -> list[float]:
    return [record[f"loss/{name}"] for record in records_of(path) if record["phase"] == phase]


def mode(labeled: list[str], path: Path, *more: str) -> Path:
    """Return a run with other settings, in which each epoch is one step; the first loss is that before any step."""
    words = [o for o in labeled if "model=conv" not in more or not o.startswith("model.hidden")]
    quiet = ["augmentation=none", "batch_size=300", "evaluation.every_epochs=1", *NUMBERS_ONLY]
    finished = start([*words, *quiet, *more], path)
    assert finished.code == 0, finished.err
    return path


@pytest.fixture(scope="module")
def plain(labeled: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mode(labeled, tmp_path_factory.mktemp("plain") / "run")


def test_bf16_rounds_what_fp32_computes(labeled: list[str], plain: Path, tmp_path: Path) -> None:
    run = mode(labeled, tmp_path / "run", "precision=bf16")
    ours, theirs = (losses_of(path, "pretrain", "reconstruction") for path in (run, plain))
    assert ours[0] == pytest.approx(theirs[0], rel=2**-8)  # the rounding of 8 bits
    assert ours[0] != theirs[0]
    assert ours[-1] < ours[0]
    assert json.loads((run / "manifest.json").read_text())["precision"] == "bf16"


def test_reduction_sum_is_the_mean_times_the_features(labeled: list[str], plain: Path, tmp_path: Path) -> None:
    run = mode(labeled, tmp_path / "run", "loss.reduction=sum")
    ours, theirs = (losses_of(path, "pretrain", "reconstruction") for path in (run, plain))
    assert ours[0] == pytest.approx(64 * theirs[0], rel=1e-6)
    assert ours[-1] < ours[0]


def test_sgd_steps_along_the_gradient(labeled: list[str], plain: Path, tmp_path: Path) -> None:
    """To first order the loss falls by the learning rate times the squared norm of the gradient."""
    run = mode(labeled, tmp_path / "run", "optimizer=sgd", "pretrain.schedule=constant", "pretrain.lr=0.001")
    losses, record = losses_of(run, "pretrain", "reconstruction"), records_of(run)[0]
    assert losses[0] == losses_of(plain, "pretrain", "reconstruction")[0]
    assert losses[0] - losses[1] == pytest.approx(0.001 * record["optimizer/gradient_norm"] ** 2, rel=0.02)


def test_the_convolutional_network_is_the_model_that_is_saved(labeled: list[str], tmp_path: Path) -> None:
    run = mode(labeled, tmp_path / "run", "model=conv", "model.filters=[2,3,4]")
    model = json.loads((run / "model" / "model.json").read_text())["model"]
    assert (model["name"], model["filters"]) == ("conv", [2, 3, 4])
    losses = losses_of(run, "pretrain", "reconstruction")
    assert losses[-1] < losses[0]


def test_assignments_of_the_batch_are_nearer_than_those_that_are_held(labeled: list[str], tmp_path: Path) -> None:
    """The clusters to start from are given, and are not those of the nearest centroids."""
    np.save(tmp_path / "clusters.npy", np.arange(300) % 10)
    words = [f"clustering.init_file={tmp_path / 'clusters.npy'}", "clustering.init=file", "joint.epochs=1"]
    held = mode(labeled, tmp_path / "held", *words)
    batch = mode(labeled, tmp_path / "batch", *words, "clustering.assignment=batch")
    assert losses_of(held, "pretrain", "total") == losses_of(batch, "pretrain", "total")
    # The epoch has one step: both losses are those of the same weights and centroids.
    assert losses_of(batch, "joint", "clustering")[0] < losses_of(held, "joint", "clustering")[0]


def test_dead_centroids_are_counted_and_revived(tmp_path: Path) -> None:
    """Two points, far apart and each many times over, and four clusters: two centroids have nothing to do."""
    X = np.repeat(np.array([[0.0, 1.0], [5.0, -1.0]]), 20, axis=0)
    X[0] += 1e-3
    np.save(tmp_path / "x.npy", X)
    overrides = ["data=npy", f"data.path={tmp_path / 'x.npy'}", "clustering.n_clusters=4", *SMALL, "joint.lr=0.1"]
    assert start([*overrides, *NUMBERS_ONLY], tmp_path / "run").code == 0
    joint = [record for record in records_of(tmp_path / "run") if record["phase"] == "joint"]
    assert sum(record["clusters/n_dead"] for record in joint) > 0
    assert sum(record["clusters/n_revived"] for record in joint) > 0


def test_the_phase_goes_on_after_an_epoch_that_revived_a_centroid(labeled: list[str]) -> None:
    """Few labels change when one point of many gets a cluster of its own; that does not mean that they have settled."""
    words = [*labeled, "joint.tolerance=0.1", "joint.epochs=9", "clustering.n_clusters=3"]
    config = compose(parse(words)).config
    trainer = Trainer(config, load_dataset(config.data))
    trainer.progress.state = TrainState("joint")
    phase = trainer.begin(config.joint)
    z, far = trainer.embed(), torch.full((1, 3), 1e3)
    trainer.clustering.initialize(torch.cat([z.mean(0)[None], far, -far]), torch.zeros(300, dtype=torch.int64), z)
    for n_revived, is_stopped in ((2, False), (0, True)):
        trainer._train_epoch(phase, config.joint, tqdm(disable=True))
        trainer._reassign(phase)
        reassignment = trainer.progress.reassignment
        assert reassignment["n_revived"] == n_revived
        reassignment["label_change"] = 2 / 300  # below the tolerance either way
        trainer._end_epoch(phase, config.joint, {})
        assert trainer.progress.state.is_stopped is is_stopped


@pytest.mark.parametrize(("tolerance", "is_stopped"), [("0", False), ("1e-9", True)])
def test_labels_that_stay_end_the_phase_unless_the_tolerance_is_0(
    tolerance: str, is_stopped: bool, labeled: list[str]
) -> None:
    config = compose(parse([*labeled, f"joint.tolerance={tolerance}"])).config
    trainer = Trainer(config, load_dataset(config.data))
    trainer.progress.state = TrainState("joint")
    trainer.progress.reassignment = {"label_change": 0.0, "n_dead": 0, "n_revived": 0}
    trainer._end_epoch(trainer.begin(config.joint), config.joint, {})
    assert trainer.progress.state == TrainState("joint", epoch=1, is_stopped=is_stopped)


def test_a_run_without_reconstruction_decodes_no_batch_and_regularizes_no_decoder(
    labeled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*labeled, "clustering=dec", "regularization=l2_penalty", "regularization.parameters=decoder"]
    config = compose(parse(words)).config
    trainer = Trainer(config, load_dataset(config.data))
    n_decoded = 0
    decode = trainer.autoencoder.decode

    def count(z: torch.Tensor) -> torch.Tensor:
        nonlocal n_decoded
        n_decoded += 1
        return decode(z)

    monkeypatch.setattr(trainer.autoencoder, "decode", count)
    trainer.run(Unwritten())
    assert n_decoded == config.pretrain.epochs * trainer.batches.n_batches  # none in the joint phase
    losses = trainer.begin(config.joint).losses(torch.ones(2, 5))
    assert losses == {"loss/total": 1.0, "loss/clustering": 1.0, "loss_weighted/clustering": 1.0}


def test_a_bf16_run_encodes_the_data_once_per_evaluated_epoch(
    labeled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = [
        "log.tensorboard=false",
        "log.figures=false",
        "log.report=false",
        "log.progress=off",
        "evaluation.every_epochs=1",
    ]
    config = compose(parse([*labeled, *quiet, "precision=bf16", "evaluation.kmeans_raw=false"])).config
    trainer = Trainer(config, load_dataset(config.data))
    precisions: list[str] = []
    embed = trainer.embed

    def note(precision: str = "fp32") -> torch.Tensor:
        precisions.append(precision)
        return embed(precision)

    monkeypatch.setattr(trainer, "embed", note)
    run_quietly(trainer, tmp_path)
    # One pass for each evaluated epoch of both phases, one for the clusters, one for what is reported.
    assert precisions == ["bf16"] * 4 + ["fp32"] + ["bf16"] * 4 + ["fp32"]


def test_all_seconds_of_a_run_are_booked(labeled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves only where the run is made slow."""
    now_s = 0.0

    def slow_down(owner: Any, name: str, seconds: float) -> None:
        act = getattr(owner, name)

        def take(*arguments: Any, **options: Any) -> Any:
            nonlocal now_s
            now_s += seconds
            return act(*arguments, **options)

        monkeypatch.setattr(owner, name, take)

    config = compose(parse([*labeled, "log.tensorboard=false", "log.progress=off"])).config
    monkeypatch.setattr("dkm.training.state.time.perf_counter", lambda: now_s)
    clock = Clock()
    now_s += 0.5  # the data are loaded
    trainer = Trainer(config, load_dataset(config.data), clock)
    for name, seconds in {"_score_raw_data": 40, "_initialize_clusters": 5, "_finish": 1, "_end_epoch": 0.125}.items():
        slow_down(trainer, name, seconds)
    run_quietly(trainer, tmp_path)
    seconds = {"setup": 0.5, "baseline": 40, "pretrain": 0.5, "initialization": 5, "joint": 0.5, "report": 1}
    assert json.loads((tmp_path / "manifest.json").read_text())["seconds"] == seconds


def test_the_targets_of_dec_are_those_of_clean_data_at_every_interval(
    labeled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = ["clustering=dec", "clustering.update_interval=3", "augmentation=affine", "joint.epochs=2"]
    config = compose(parse([*labeled, *method])).config
    trainer = Trainer(config, load_dataset(config.data))
    refresh = trainer.clustering.refresh
    n_steps: list[int] = []
    steps = 0

    def step(*arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        return act(*arguments, **options)

    def look(z: torch.Tensor) -> None:
        n_steps.append(steps)
        with torch.no_grad():
            torch.testing.assert_close(z, trainer.autoencoder.encode(trainer.data.X), rtol=1e-4, atol=1e-5)
        refresh(z)

    begin = trainer.begin

    def begun(settings: Any) -> Any:
        nonlocal act, steps
        phase = begin(settings)
        steps, act = 0, phase.optimizer.step
        monkeypatch.setattr(phase.optimizer, "step", step)
        return phase

    act: Any = None
    monkeypatch.setattr(trainer.clustering, "refresh", look)
    monkeypatch.setattr(trainer, "begin", begun)
    trainer.run(Unwritten())
    assert steps == 10  # two epochs of 300 rows in batches of 64
    assert n_steps[-3:] == [3, 6, 9]  # those of step 0 are computed when the clusters are set
    assert len(n_steps) == 4


def test_a_reset_mixes_as_much_as_it_is_told(labeled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(parse([*labeled, "clustering.reset_every=2", "clustering.reset_fraction=0.3"])).config
    trainer = Trainer(config, load_dataset(config.data))
    mixed: list[tuple[int, float]] = []

    def mix(autoencoder: Any, fresh: Any, fraction: float) -> None:
        mixed.append((trainer.progress.epoch, fraction))
        mix_encoder(autoencoder, fresh, fraction)

    monkeypatch.setattr("dkm.training.starting.mix_encoder", mix)
    trainer.run(Unwritten())
    assert mixed == [(2, 0.3)]


def test_averaged_weights_assign_and_are_the_model(labeled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a slow average, from the weights that each step left."""
    seen: list[list[torch.Tensor]] = []
    passes: list[torch.Tensor] = []
    config = compose(parse([*labeled, "joint.average_epochs=2", "joint.lr=0.01", "clustering.revive=false"])).config
    trainer = Trainer(config, load_dataset(config.data))
    live = [*trainer.autoencoder.parameters(), trainer.clustering.centroids]

    def step(average: WeightAverage) -> None:
        seen.append([p.detach().double().clone() for p in live])
        update(average)

    def look(z: torch.Tensor) -> Any:
        passes.append(trainer.clustering.centroids.detach().clone())
        return end_epoch(z)

    update, end_epoch = WeightAverage.update, trainer.clustering.end_epoch
    monkeypatch.setattr(WeightAverage, "update", step)
    monkeypatch.setattr(trainer.clustering, "end_epoch", look)
    start_of: list[list[torch.Tensor]] = []
    build = trainer.begin

    def built(settings: Any) -> Any:
        phase = build(settings)
        start_of.append([p.detach().double().clone() for p in live])
        return phase

    monkeypatch.setattr(trainer, "begin", built)
    trainer.run(Unwritten())
    n_batches = trainer.batches.n_batches
    assert len(seen) == config.joint.epochs * n_batches
    decay = 1 - 1 / (2 * n_batches)
    averages = start_of[-1]
    for number, weights in enumerate(seen, 1):
        averages = [decay * a + (1 - decay) * w for a, w in zip(averages, weights, strict=True)]
        if number % n_batches == 0:
            torch.testing.assert_close(passes[number // n_batches - 1].double(), averages[-1], rtol=1e-4, atol=1e-5)
    for mine, expected in zip(live, averages, strict=True):
        torch.testing.assert_close(mine.detach().double(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(live[0].detach().double(), seen[-1][0], rtol=1e-4)


# --- real data ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_default_run_beats_k_means_on_digits(tmp_path: Path) -> None:
    """The first command of the README, seeds 0 to 4."""
    results = []
    for seed in range(5):
        finished = train([f"seed={seed}", f"hydra.run.dir={tmp_path / str(seed)}"], tmp_path / "log")
        assert finished.code == 0, finished.err
        results.append(json.loads((tmp_path / str(seed) / "result.json").read_text()))
    assert np.mean([result["acc"] for result in results]) >= 0.88
    assert np.mean([result["nmi"] for result in results]) >= 0.85
    assert 0.77 < np.mean([result["kmeans_raw"]["acc"] for result in results]) < 0.81


@pytest.mark.data
@pytest.mark.thorough
def test_mnist_runs_from_its_files(data_root: Callable[[str], Path], tmp_path: Path) -> None:
    overrides = [
        "recipe=classic",
        "data=mnist",
        "data.split=test",
        f"data.root={data_root('MNIST/raw')}",
        "model.hidden=[128]",
    ]
    overrides += [
        "evaluation.silhouette_samples=1000",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
    ]
    finished = start([*overrides, "pretrain.epochs=3", "joint.epochs=1", "clustering.n_init=2"], tmp_path / "run")
    assert finished.code == 0, finished.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["n_samples"] == 10_000
    assert 0.5 < result["kmeans_raw"]["acc"] < 0.6  # 0.53 in the literature, on all 70,000
    assert result["acc"] > 0.4


def test_the_baseline_on_the_raw_data_may_be_left_out(run: Path, labeled: list[str], tmp_path: Path) -> None:
    finished = start([*labeled, *NUMBERS_ONLY, "evaluation.kmeans_raw=false"], tmp_path / "run")
    assert "raw data" not in finished.out
    result, whole = (json.loads((path / "result.json").read_text()) for path in (tmp_path / "run", run))
    assert result == whole | {"kmeans_raw": None}


def test_the_baseline_is_in_a_checkpoint_before_pretraining_begins(
    labeled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(parse([*labeled, "log.figures=false", "log.report=false", "log.tensorboard=false"])).config
    trainer = Trainer(config, load_dataset(config.data))

    def fail() -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(trainer, "_pretrain", fail)
    with pytest.raises(RuntimeError, match="killed"):
        run_quietly(trainer, tmp_path)
    state = checkpoints.load(tmp_path / "checkpoints")
    assert state is not None
    assert state["baselines"]["kmeans_raw"] == trainer.progress.raw
    assert trainer.progress.raw is not None


def test_pretraining_may_have_an_optimizer_of_its_own(run: Path, labeled: list[str], tmp_path: Path) -> None:
    def losses(phase: str, path: Path) -> list[float]:
        records = records_of(path)
        return [record["loss/reconstruction"] for record in records if record["phase"] == phase]

    quick = ["log.tensorboard=false", "log.figures=false", "log.report=false"]
    assert start([*labeled, *quick, "pretrain.optimizer=sgd"], tmp_path / "own").code == 0
    assert start([*labeled, *quick, "optimizer=sgd"], tmp_path / "sgd").code == 0
    assert losses("pretrain", tmp_path / "own") == losses("pretrain", tmp_path / "sgd")
    assert losses("pretrain", tmp_path / "own") != losses("pretrain", run)
    assert losses("joint", tmp_path / "own") != losses("joint", tmp_path / "sgd")
