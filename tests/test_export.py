"""``dkm.export``: the artifact alone gives the run's answers."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits, make_blobs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from words import SMALL_RUN

from dkm import export, predict, train
from dkm.config.model import MLPConfig
from dkm.data.scaling import Scaling
from dkm.errors import Failure, UserError
from dkm.models.build import build_autoencoder
from dkm.models.saved import SavedModel

QUICK = [*SMALL_RUN]
KINDS = ("table", "images", "sparse", "counts", "conv")
FORMATS = ("torch", "onnx", "numpy")
X = make_blobs(300, 5, centers=4, random_state=0)[0] + 1e5  # a large offset
X[:, 4] = 7  # has one value in training, and any afterwards
IMAGES = load_digits().images[:200]
SPARSE = sparse.random_array((200, 30), density=0.2, random_state=0, format="csr", dtype=np.float32)
COUNTS = np.random.default_rng(0).poisson(np.random.default_rng(1).lognormal(-2, 1.5, 120), (200, 120))
ROWS = {
    "table": np.column_stack([X[:, :4], np.full(300, 1e20)]),
    "images": IMAGES.reshape(200, -1),
    "sparse": SPARSE.toarray(),
    "counts": COUNTS.astype(np.float64),
    "conv": IMAGES.reshape(200, -1),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "table.npy", X)
    np.save(folder / "images.npy", IMAGES)
    sparse.save_npz(folder / "sparse.npz", SPARSE)
    np.save(folder / "counts.npy", COUNTS)
    words = {
        "table": ["data=npy", f"data.path={folder / 'table.npy'}"],
        "images": ["data=npy", f"data.path={folder / 'images.npy'}"],
        "sparse": ["data=npz", f"data.path={folder / 'sparse.npz'}"],
        "counts": ["data=npy", f"data.path={folder / 'counts.npy'}", "data.scaling=counts"],
        "conv": ["data=npy", f"data.path={folder / 'images.npy'}", "model=conv", "model.filters=[2,2,2]"],
    }
    for kind, own in words.items():
        quick = QUICK[1:] if kind == "conv" else QUICK
        assert train._main([*own, *quick, f"hydra.run.dir={folder / kind}"]) == 0
    return {kind: folder / kind for kind in words}


def answers(folder: Path, name: str, rows: np.ndarray) -> tuple[Any, Any, Any]:
    """Return what the artifact says, as USAGE.md tells a person to ask it."""
    x = np.ascontiguousarray(rows)
    if name == "torch":
        cluster, distance, z = torch.export.load(folder / "model.pt2").module()(torch.from_numpy(x))
        return cluster.numpy(), distance.numpy(), z.numpy()
    if name == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        return tuple(session.run(None, {"x": x}))
    spec = importlib.util.spec_from_file_location("assign", folder / "assign.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(module.predict(rows))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thorough
def test_the_artifact_gives_the_runs_answers_for_any_number_of_rows(
    kind: str, name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "onnx":
        pytest.importorskip("onnxscript")
    words = [f"run={runs[kind]}", f"output={tmp_path / 'out'}", f"format={name}"]
    if (kind, name) == ("conv", "numpy"):
        with pytest.raises(UserError, match="format=numpy: the model is of model=conv; expected model=mlp"):
            export.work(words)
        return
    export.work(words)
    assert "largest difference of a distance" in capsys.readouterr().out
    expected = np.genfromtxt(runs[kind] / "assignments.csv", delimiter=",", names=True)
    rows = ROWS[kind].astype(np.float32 if kind in ("images", "conv") else np.float64)
    for n in (1, 2, 57, len(rows)):
        cluster, distance, z = answers(tmp_path / "out", name, rows[:n])
        assert z.shape == (n, 4)
        is_clear = expected["margin"][:n] > 1e-3
        np.testing.assert_array_equal(cluster[is_clear], expected["cluster"][:n][is_clear])
        np.testing.assert_allclose(distance, expected["distance"][:n], rtol=1e-4, atol=1e-5)
    usage = (tmp_path / "out" / "USAGE.md").read_text()
    assert f"(n, {rows.shape[1]})" in usage
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["table", "counts"])
@pytest.mark.thorough
def test_the_artifact_refuses_the_rows_that_a_prediction_refuses(
    kind: str, name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    if name == "onnx":
        pytest.importorskip("onnxscript")
    export.work([f"run={runs[kind]}", f"output={tmp_path / 'out'}", f"format={name}"])
    rows = ROWS[kind].astype(np.float64)[:6].copy()
    whole = answers(tmp_path / "out", name, rows)
    rows[1, 0], rows[3, 1] = np.nan, np.inf
    rows[4, 0] = -1 if kind == "counts" else 1e300
    if name == "numpy":
        for i in (1, 3, 4):
            with pytest.raises(ValueError, match="row 1 has a value that"):
                answers(tmp_path / "out", name, rows[[0, i, 5]])
        assert "ValueError" in (tmp_path / "out" / "USAGE.md").read_text()
        return
    cluster, distance, _ = answers(tmp_path / "out", name, rows)
    bad = [1, 3, 4]
    assert cluster.tolist() == [-1 if i in bad else whole[0][i] for i in range(6)]
    assert np.isnan(distance[bad]).all()
    np.testing.assert_allclose(np.delete(distance, bad), np.delete(whole[1], bad), rtol=1e-5)
    assert "-1" in (tmp_path / "out" / "USAGE.md").read_text()


# Latent dimensions of the tests of distances: the encoder of their model passes its input through.
N_LATENT = 24


def model_of(centroids: np.ndarray) -> SavedModel:
    """Return a model whose embedding of a row is the row, as float32."""
    D = centroids.shape[1]
    autoencoder = build_autoencoder(MLPConfig(hidden=[]), D, None, D, seed=0)
    layer = autoencoder.encoder[0]
    layer.weight.data, layer.bias.data = torch.eye(D), torch.zeros(D)
    section = {"name": "mlp", "hidden": []}
    scaling = Scaling("none", D)
    return SavedModel(
        autoencoder.requires_grad_(False),
        torch.from_numpy(centroids.astype(np.float32)),
        scaling,
        *(None, None, None, None, {}, 1.0, section),
    )


def exported(model: SavedModel, name: str, folder: Path, rows: np.ndarray) -> Path:
    """Export the model, compared on the rows, and return the folder of the artifact."""
    model.save(folder / "model")
    np.save(folder / "x.npy", rows)
    words = [f"run={folder / 'model'}", f"output={folder / 'out'}", f"format={name}", f"input={folder / 'x.npy'}"]
    export.work(words)
    return folder / "out"


@pytest.mark.parametrize("name", FORMATS)
def test_distances_far_from_the_origin_are_exact_and_ties_go_to_the_first(name: str, tmp_path: Path) -> None:
    if name == "onnx":
        pytest.importorskip("onnxscript")
    rng = np.random.default_rng(0)
    centroids = (2.0**20 + rng.integers(-8, 8, (40, N_LATENT)) / 8).astype(np.float32)
    centroids[7], centroids[30], centroids[39] = centroids[3], centroids[3], 0  # the last one is far from all others
    rows = np.concatenate([centroids[[3, 30, 39]], centroids[rng.integers(0, 39, 200)] + 0.125]).astype(np.float64)
    cluster, distance, _ = answers(exported(model_of(centroids), name, tmp_path, rows), name, rows)
    squared = np.square(rows[:, None] - centroids.astype(np.float64)).sum(2)
    np.testing.assert_array_equal(cluster, squared.argmin(1))
    np.testing.assert_array_equal(distance, np.sqrt(squared.min(1)).astype(np.float32))
    assert cluster[:3].tolist() == [3, 3, 39]


class LargestTensor(TorchDispatchMode):
    """Notes the number of values in the largest tensor that an operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *(tensor.numel() for tensor in tensors)])
        return result


def test_an_artifact_makes_no_difference_of_each_row_to_each_centroid(tmp_path: Path) -> None:
    n, K, rng = 5000, 200, np.random.default_rng(0)
    rows = rng.normal(size=(n, N_LATENT))
    model = model_of(rng.normal(size=(K, N_LATENT)))
    for name in ("numpy", "torch"):
        (tmp_path / name).mkdir()
        exported(model, name, tmp_path / name, rows[:5])
    tracemalloc.start()
    answers(tmp_path / "numpy" / "out", "numpy", rows)
    peak = tracemalloc.get_traced_memory()[1]  # bytes
    tracemalloc.stop()
    assert peak < 8 * n * K
    with LargestTensor() as largest:
        answers(tmp_path / "torch" / "out", "torch", rows)
    assert largest.numel == n * K


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_too_far_away_where_a_prediction_says_so(name: str, tmp_path: Path) -> None:
    """The square of the distance must be finite as float32."""
    if name == "onnx":
        pytest.importorskip("onnxscript")
    rows = np.random.default_rng(0).normal(size=(6, N_LATENT))
    model = model_of(rows[:3])
    rows[1], rows[3], rows[4, 0], rows[5, 0] = 1e32, -1e38, 1.9e19, 1.8e19
    folder = exported(model, name, tmp_path, rows[[0, 2]])
    for i in (1, 3, 4):
        np.save(tmp_path / "x.npy", rows[[0, i, 5]])
        with pytest.raises(UserError, match="1 rows whose distance to every centroid is infinite, the first is row 1 "):
            predict.work([f"run={tmp_path / 'model'}", f"input={tmp_path / 'x.npy'}", f"output={tmp_path / 'o.csv'}"])
        if name == "numpy":
            with pytest.raises(ValueError, match=r"^row 1 has values too far from the training data; 1 such rows"):
                answers(folder, name, rows[[0, i, 5]])
    if name == "numpy":
        rows = rows[[0, 2, 5]]
    cluster, distance, _ = answers(folder, name, rows)
    assert cluster.tolist() == ([0, 2, cluster[-1]] if name == "numpy" else [0, -1, 2, -1, -1, cluster[-1]])
    assert cluster[-1] in range(3)
    assert distance[-1] == np.float32(1.8e19)
    assert (np.isnan(distance) == (cluster == -1)).all()


def test_the_artifact_needs_nothing_of_this_package(runs: dict[str, Path], tmp_path: Path) -> None:
    export.work([f"run={runs['table']}", f"output={tmp_path / 'out'}", "format=numpy"])
    np.save(tmp_path / "out" / "x.npy", X[:5])
    code = "import sys, numpy as np; from assign import predict; predict(np.load('x.npy')); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=True)
    assert not {"dkm", "torch"} & set(done.stdout.split())


def test_rows_to_compare_on_may_be_named(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["table"] / "model", tmp_path / "model")
    words = [f"run={tmp_path / 'model'}", f"output={tmp_path / 'out'}", "format=numpy"]
    with pytest.raises(UserError, match=r"input=null: no config\.yaml in the folder"):
        export.work(words)
    np.save(tmp_path / "x.npy", X[:3])
    export.work([*words, f"input={tmp_path / 'x.npy'}"])
    assert "on 3 rows" in (tmp_path / "out" / "USAGE.md").read_text()


def test_rows_to_compare_on_that_are_all_left_out_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame(X[:60, :3], columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = ["data=csv", f"data.path={tmp_path / 't.csv'}", "data.missing=drop", *QUICK]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    frame.assign(b=np.nan).to_csv(tmp_path / "t.csv", index=False)
    words = [f"run={tmp_path / 'run'}", f"output={tmp_path / 'out'}", "format=numpy"]
    for more, source in (([f"input={tmp_path / 't.csv'}"], "input"), ([], "data.path")):
        with pytest.raises(UserError) as raised:
            export.work([*words, *more])
        expected = (
            "all 60 rows are left out; expected a row to compare on; complete the rows, or name others: input=FILE"
        )
        assert str(raised.value) == f"{source}={tmp_path / 't.csv'}: {expected}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.nan, "a value that is NaN, infinite or too large for float32 in row 1, column 0 (counted from 0)"),
        (1e38, "1 rows whose distance to every centroid is infinite, the first is row 1 (counted from 0)"),
    ],
)
def test_rows_to_compare_on_that_the_model_refuses_are_told(
    value: float, found: str, name: str, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(6, N_LATENT))
    model = model_of(rows[:3])
    rows[1, 0] = value
    with pytest.raises(UserError) as raised:
        exported(model, name, tmp_path, rows)
    assert str(raised.value).startswith(f"input={tmp_path / 'x.npy'}: {found}; expected ")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_kept(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    words = [f"run={runs['table']}", f"output={tmp_path / 'out'}", "format=numpy"]
    with pytest.raises(UserError, match="the folder exists; expected a new folder; pass overwrite=true"):
        export.work(words)
    assert (tmp_path / "out" / "mine").exists()
    with pytest.raises(UserError, match=r"the folder contains other files \(mine\), which would be deleted"):
        export.work([*words, "overwrite=true"])
    (tmp_path / "out" / "mine").unlink()
    export.work([*words, "overwrite=true"])
    export.work([*words, "overwrite=true"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.npz", "assign.py", "USAGE.md"}


def test_an_artifact_that_differs_is_not_kept(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = export._NUMPY_MODULE.replace("np.maximum(z, 0)", "z")
    monkeypatch.setattr(export, "_NUMPY_MODULE", wrong)
    with pytest.raises(Failure, match=r"the artifact differs from the model: distances by .* it was not kept"):
        export.work([f"run={runs['table']}", f"output={tmp_path / 'out'}", "format=numpy"])
    assert list(tmp_path.iterdir()) == []


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format=tflite: expected one of torch, onnx, numpy"):
        export.work(["run=x", f"output={tmp_path / 'out'}", "format=tflite"])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.thorough
def test_the_artifact_of_a_model_that_fills_gaps_fills_them(name: str, tmp_path: Path) -> None:
    if name == "onnx":
        pytest.importorskip("onnxscript")
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(60, 3)) + 5 * (np.arange(60)[:, None] % 3), 3)
    X[4, 1] = np.nan
    cells = [",".join("" if np.isnan(value) else str(value) for value in row) for row in X]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *cells, ""]), encoding="utf-8")
    quick = [
        "model.hidden=[8]",
        "pretrain.epochs=1",
        "joint.epochs=1",
        "log.tensorboard=false",
        "log.figures=false",
        "log.report=false",
    ]
    words = ["data=csv", f"data.path={tmp_path / 't.csv'}", "clustering.n_clusters=3", *quick]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    export.work([f"run={tmp_path / 'run'}", f"output={tmp_path / 'out'}", f"format={name}"])
    cluster, distance, _ = answers(tmp_path / "out", name, X)
    expected = np.genfromtxt(tmp_path / "run" / "assignments.csv", delimiter=",", names=True)
    np.testing.assert_allclose(distance, expected["distance"], rtol=1e-4, atol=1e-5)
    assert cluster[4] == expected["cluster"][4]
    if name == "numpy":
        assert answers(tmp_path / "out", name, X[:0])[0].shape == (0,)


def test_the_usage_says_how_a_table_becomes_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seconds = rng.integers(0, 3 * 365 * 86_400, 120)
    frame = pd.DataFrame(
        {
            "age": rng.normal(40, 9, 120).round(2),
            "member": rng.choice(["yes", "no"], 120),
            "city": rng.choice(["Rome", "Oslo", "Lima"], 120),
            "since": np.datetime64("2021-03-05T07:30:00") + seconds.astype("timedelta64[s]"),
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = ["data=csv", f"data.path={tmp_path / 't.csv'}", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]
    assert train._main(words) == 0
    export.work([f"run={tmp_path / 'run'}", f"output={tmp_path / 'out'}", "format=numpy"])
    usage, levels = (tmp_path / "out" / "USAGE.md").read_text(), frame["city"].value_counts().index
    origin = frame["since"].min()
    names = ", ".join(f"`city={level}`" for level in levels)
    assert [line for line in usage.splitlines() if line.startswith("- ")] == [
        "- `member`: 1 for yes, 0 for no.",
        f"- {names}: 1 for the level of the row, 0 for the others.",
        f"- `since (days)`: days since {origin}, with their fraction.",
        "- `since (year sin)`, `since (year cos)`: sine and cosine of 2 pi d / 365.2425, where d is the number of days "
        "since 1970-01-01 00:00:00, with its fraction.",
        "- `since (day sin)`, `since (day cos)`: sine and cosine of 2 pi d, where d is the number of days since "
        "1970-01-01 00:00:00, with its fraction.",
    ]
    d = (frame["since"] - pd.Timestamp("1970-01-01")).dt.total_seconds().to_numpy() / 86_400
    x = [frame["age"], frame["member"] == "yes", *(frame["city"] == level for level in levels)]
    x += [(frame["since"] - origin).dt.total_seconds() / 86_400]
    x += [f(2 * np.pi * d / cycle) for cycle in (365.2425, 1) for f in (np.sin, np.cos)]
    cluster, distance, _ = answers(tmp_path / "out", "numpy", np.column_stack(x).astype(np.float64))
    expected = pd.read_csv(tmp_path / "run" / "assignments.csv")
    np.testing.assert_array_equal(cluster, expected["cluster"])
    np.testing.assert_allclose(distance, expected["distance"], rtol=1e-4, atol=1e-5)


def test_the_usage_says_which_values_pixels_have(runs: dict[str, Path], tmp_path: Path) -> None:
    export.work([f"run={runs['images']}", f"output={tmp_path / 'out'}", "format=numpy"])
    line = "Each row is an image of shape (1, 8, 8) (channels, height, width), flattened, with values from 0 to 16.\n"
    assert line in (tmp_path / "out" / "USAGE.md").read_text()
