"""Large data: k-means and scores of distances see a fixed sample, all else sees every row."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from processes import train
from sklearn.datasets import load_digits
from torch import Tensor

from dkm.clustering import initialization
from dkm.clustering.assignment import assign
from dkm.clustering.graph import modularity, neighbor_graph
from dkm.clustering.initialization import Start
from dkm.clustering.labels import cluster_sizes, effective_clusters
from dkm.clustering.lloyd import kmeans
from dkm.config.compose import compose, parse
from dkm.config.data import NpyData
from dkm.data import batches, sampling
from dkm.data.batches import Batches, DiskBatches, MemoryBatches
from dkm.data.datasets import load_dataset
from dkm.data.files import NpyFiles
from dkm.data.scaling import Scaling
from dkm.data.stored import StoredArray, StoredRows
from dkm.evaluation import evaluator, metrics
from dkm.runs.directory import RunDirectory
from dkm.runtime import distributed
from dkm.training import baseline
from dkm.training.starting import Starter
from dkm.training.state import Baseline
from dkm.training.trainer import Trainer

N, N_INIT, N_SCORED, N_SILHOUETTE, N_GRAPH = 300, 120, 90, 60, 70
LABEL_FREE = ("silhouette", "davies_bouldin", "calinski_harabasz")


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    digits = load_digits()
    np.save(folder / "x.npy", digits.data[:N])
    np.save(folder / "y.npy", digits.target[:N])
    return [
        *("data=npy", f"data.path={folder / 'x.npy'}", f"data.labels={folder / 'y.npy'}"),
        *(
            "model.hidden=[16]",
            "batch_size=50",
            "recipe=classic",
            "pretrain.epochs=2",
            "joint.epochs=2",
            "joint.tolerance=0",
        ),
        *("clustering.n_init=3", "log.figures=false", "log.report=false", "log.tensorboard=false"),
    ]


class Sampled(NamedTuple):
    """A finished run that saw samples; ``seen``, how many points each k-means had.

    ``embedding`` and ``start`` are those with which the joint phase began, ``pretrained`` is k-means on the embedding.
    """

    trainer: Trainer
    result: dict[str, Any]
    path: Path
    seen: list[int]
    log: list[str]
    embedding: Tensor
    start: Start
    pretrained: Baseline


@pytest.fixture(scope="module", params=["memory", "disk"])
def sampled(request: pytest.FixtureRequest, overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    path = tmp_path_factory.mktemp("sampled")
    sizes = [f"clustering.init_samples={N_INIT}", f"evaluation.samples={N_SCORED}"]
    sizes += [f"evaluation.silhouette_samples={N_SILHOUETTE}", f"evaluation.graph_samples={N_GRAPH}"]
    sizes += [f"data.load={request.param}"]
    config = compose(parse([*overrides, *sizes])).config
    seen: list[int] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(z: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.append(len(z))
            return function(z, *args, **kwargs)

        return call

    started: list[tuple[Tensor, Start, Baseline]] = []
    start_joint_phase = Starter.start

    def start(self: Starter, z: Tensor, *, is_scored: bool) -> tuple[Start, Baseline | None]:
        found, plain = start_joint_phase(self, z, is_scored=is_scored)
        assert plain is not None
        started.append((z.clone(), Start(found.centroids.clone(), found.labels.clone()), plain))
        return found, plain

    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dkm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Starter, "start", start)
        patch.setattr(baseline, "kmeans", counted(baseline.kmeans))
        patch.setattr(initialization, "kmeans_restarts", counted(initialization.kmeans_restarts))
        level = logger.level
        logger.setLevel(logging.INFO)  # which, unlike the attribute, forgets what it has found disabled
        logger.addHandler(handler)
        try:
            run = RunDirectory(path, progress="off")
            run.open(config, step=None, has_labels=False)
            one = Trainer(config, load_dataset(config.data))
            one.run(run)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
    (at_start,) = started
    return Sampled(one, json.loads((path / "result.json").read_text()), path, seen, records, *at_start)


def rows_of_sample(limit: int) -> np.ndarray:
    sample = sampling.sample_rows(N, limit)
    assert sample is not None
    return sample.numpy()


def label_free(Z: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """The scores of the sample's points, of Z (N, D) and labels (N,) of all."""
    rows = rows_of_sample(N_SCORED)
    silhouette = metrics.silhouette(Z[rows], labels[rows], max_samples=N_SILHOUETTE)
    return {"silhouette": silhouette, **metrics.dispersion(Z[rows], labels[rows])._asdict()}


def against_labels(y: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "acc": metrics.accuracy(y, labels),
        "nmi": metrics.normalized_mutual_information(y, labels),
        "ari": metrics.adjusted_rand_index(y, labels),
    }


def modularity_of_sample(Z: np.ndarray, labels: np.ndarray) -> float:
    """That of a part of the sample's points."""
    part = np.random.default_rng(0).choice(N_SCORED, N_GRAPH, replace=False)
    rows = np.asarray(rows_of_sample(N_SCORED))[part]
    return modularity(neighbor_graph(Z[rows], N_GRAPH // 8), labels[rows])


def all_rows(one: Trainer) -> np.ndarray:
    return one.batches.take(torch.arange(N)).numpy()


# --- which rows ---------------------------------------------------------------------------------------------------


def test_wide_rows_on_disk_starve_k_means_on_the_data_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And not below the number of clusters; the embedding is in memory already."""
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32))
    words = ["data=npy", f"data.path={tmp_path}/X.npy", "data.load=disk", "clustering.n_clusters=5", "model.hidden=[4]"]
    config = compose(parse([*words, "pretrain.epochs=1", "joint.epochs=1", "clustering.n_init=1"])).config
    monkeypatch.setattr(sampling, "_STORED_SAMPLE_VALUES", 8 * 3)
    seen: list[int] = []
    for owner, name in ((baseline, "kmeans"), (initialization, "kmeans_restarts")):
        function = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda z, *rest, function=function, **more: seen.append(len(z)) or function(z, *rest, **more)
        )
    found = Trainer(config, load_dataset(config.data))
    run = RunDirectory(tmp_path / "run", progress="off")
    run.path.mkdir()
    run.open(config, step=None, has_labels=False)
    found.run(run)
    assert seen == [5, 60]


def test_a_sample_is_fixed_sorted_and_distinct() -> None:
    rows = rows_of_sample(N_INIT)
    torch.manual_seed(1)
    assert rows.tolist() == rows_of_sample(N_INIT).tolist()
    assert len(rows) == N_INIT
    assert (np.diff(rows) > 0).all()
    assert 0 <= rows[0] < rows[-1] < N
    # A literal, because other rows would silently change every run on large data.
    assert sampling.sample_rows(1000, 5).tolist() == [37, 44, 675, 775, 947]  # type: ignore[union-attr]


@pytest.mark.parametrize("limit", [N, N + 1])
def test_as_many_rows_as_there_are_need_no_sample(limit: int) -> None:
    assert sampling.sample_rows(N, limit) is None


def test_drawn_rows_are_distinct_and_decided_by_the_seed() -> None:
    assert sampling.draw_rows(1000, 5).tolist() == np.random.default_rng(0).choice(1000, 5, replace=False).tolist()
    assert sampling.draw_rows(1000, 5, seed=1).tolist() != sampling.draw_rows(1000, 5).tolist()
    assert sorted(sampling.draw_rows(7, 100).tolist()) == list(range(7))


@pytest.mark.parametrize(("limit", "n_rows"), [(5, 5), (9, 9), (10, 9)])
def test_the_indices_of_a_sample_are_those_of_all_rows_where_there_are_few(limit: int, n_rows: int) -> None:
    indices = sampling.sample_row_indices(9, limit)
    assert len(set(indices.tolist())) == len(indices) == n_rows


def test_a_sample_of_wide_rows_on_disk_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((50, 8), np.float32))
    monkeypatch.setattr(sampling, "_STORED_SAMPLE_VALUES", 80)
    for load, expected in (("disk", 10), ("memory", 20)):
        data = load_dataset(NpyData(path=str(tmp_path / "x.npy"), load=load))
        sample = sampling.sample_dataset(data, 20)
        assert sample is not None
        assert len(sample) == expected


# --- a run on samples ---------------------------------------------------------------------------------------------


def test_k_means_sees_the_sample_only_and_the_log_says_so(sampled: Sampled) -> None:
    assert sampled.seen == [N_INIT, N_INIT]
    assert f"k-means takes {N_INIT} of {N} samples (clustering.init_samples)" in sampled.log
    said = f"scores that look at distances take {N_SCORED} of {N} samples (evaluation.samples)"
    assert said in sampled.log


def test_the_raw_baseline_assigns_all_rows_to_the_centroids_of_the_sample(sampled: Sampled) -> None:
    X = torch.from_numpy(all_rows(sampled.trainer))
    found = kmeans(X[rows_of_sample(N_INIT)], 10, n_init=3, seed=0)
    nearest = assign(X, found.centroids)
    labels = nearest.labels
    raw = sampled.result["kmeans_raw"]
    y = load_digits().target[:N]
    assert {name: raw[name] for name in ("acc", "nmi", "ari")} == against_labels(y, labels.numpy())
    assert raw["inertia"] == pytest.approx(nearest.inertia, rel=1e-6)
    assert raw["n_effective_clusters"] == effective_clusters(cluster_sizes(labels.numpy(), 10))
    expected = label_free(X.numpy(), labels.numpy())
    assert {name: raw[name] for name in LABEL_FREE} == {name: expected[name] for name in LABEL_FREE}
    assert raw["silhouette_data"] == raw["silhouette"]
    assert raw["modularity_data"] == modularity_of_sample(X.numpy(), labels.numpy())


def test_the_joint_phase_starts_with_all_rows_assigned(sampled: Sampled) -> None:
    nearest = assign(sampled.embedding, sampled.start.centroids)
    assert sampled.start.labels.tolist() == nearest.labels.tolist()
    assert sampled.trainer.clustering.assignments.shape == (N,)


def test_k_means_on_the_embedding_is_scored_on_all_rows(sampled: Sampled) -> None:
    assert sampled.pretrained.centroids is not None
    nearest = assign(sampled.embedding, sampled.pretrained.centroids)
    assert sampled.pretrained.labels.tolist() == nearest.labels.tolist()
    result = sampled.result["kmeans_pretrained"]
    # The sum over all rows, and not over the sample, which has 40 % of them.
    assert result["inertia"] == pytest.approx(nearest.inertia, rel=1e-6)
    assert result["n_effective_clusters"] == effective_clusters(cluster_sizes(nearest.labels.numpy(), 10))


def test_scores_against_labels_are_over_all_rows_and_those_of_distances_over_the_sample(sampled: Sampled) -> None:
    rows = np.genfromtxt(sampled.path / "assignments.csv", delimiter=",", names=True)
    assert rows["index"].tolist() == list(range(N))
    labels, y = rows["cluster"].astype(np.int64), rows["label"].astype(np.int64)
    with torch.no_grad():
        z = evaluator.encode(sampled.trainer.autoencoder, sampled.trainer.batches).numpy()
    result = sampled.result
    assert {name: result[name] for name in ("acc", "nmi", "ari")} == against_labels(y, labels)
    assert result["n_effective_clusters"] == effective_clusters(cluster_sizes(labels, 10))
    assert result["inertia"] == pytest.approx(np.square(rows["distance"]).sum(), rel=1e-6)
    expected = label_free(z, labels)
    assert {name: result[name] for name in LABEL_FREE} == {name: expected[name] for name in LABEL_FREE}
    assert result["silhouette_data"] == label_free(all_rows(sampled.trainer), labels)["silhouette"]
    assert result["modularity_data"] == modularity_of_sample(all_rows(sampled.trainer), labels)


@pytest.mark.parametrize("load", ["memory", "disk"])
def test_limits_of_at_least_all_rows_change_nothing(load: str, overrides: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "plain", tmp_path / "limited"
    more = ["clustering.init_samples=300", "evaluation.samples=300"]
    for run, limits in zip(runs, ([], more), strict=True):
        finished = train([*overrides, f"data.load={load}", *limits, f"hydra.run.dir={run}"], tmp_path / "log")
        assert finished.code == 0, finished.err
        assert "init_samples" not in finished.out
    for name in ("metrics.jsonl", "result.json", "assignments.csv"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


# --- every row ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Batches, Tensor]:
    """Rows in chunks of 17, and the same rows at once."""
    monkeypatch.setattr(batches, "CHUNK_ROWS", 17)
    X = np.random.default_rng(0).normal(size=(103, 4)).astype(np.float32)
    device = torch.device("cpu")
    if request.param == "memory":
        return MemoryBatches(torch.from_numpy(X), 10, 0, device), torch.from_numpy(X)
    monkeypatch.setattr(batches, "_WINDOW_BYTES", 1000)
    monkeypatch.setattr(batches, "_WINDOW_BATCHES", 0)
    np.save(tmp_path / "x.npy", X)
    rows = StoredRows(StoredArray(NpyFiles("data.path", str(tmp_path / "x.npy"))), Scaling.fit([X], "none"))
    return DiskBatches(rows, 10, 0, device), torch.from_numpy(X)


def difference_and_product(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] - x[:, 1], x[:, 2] * x[:, 3]], 1)


def test_every_row_is_the_function_of_all_rows(source: tuple[Batches, Tensor]) -> None:
    found = evaluator.every_row(difference_and_product, source[0], 2)
    assert found.dtype == torch.float32
    assert torch.equal(found, difference_and_product(source[1]))


def test_the_ranks_add_up_to_every_row(source: tuple[Batches, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "sum_", lambda tensor: tensor)
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(evaluator.every_row(difference_and_product, source[0], 2))
    assert torch.equal(sum(parts, torch.zeros(103, 2)), difference_and_product(source[1]))
    assert all((part != 0).any() for part in parts)
