"""Export the model of a run for use without this package:

    python -m dkm.export run=RUN output=DIR format=torch

The artifact contains preprocessing, encoder and nearest-centroid assignment, with a short USAGE.md. The formats are
torch (``torch.export``, needs torch alone), onnx (any runtime, any number of rows; the extra ``onnx``) and
numpy (an archive and a short module that needs NumPy alone; ``model=mlp`` only).

    input=FILE       real rows on which to compare the artifact with the model; by default the data of the run, if its
                     config.yaml and the data still exist
    overwrite=true   replace an existing folder
    model.class=pkg.Class  the class of a run with model=custom; classes named in files are not imported
    plugins=one,two  modules of your own that the run was trained with

The artifact is compared with the model: the largest difference is printed, and an artifact that differs is removed.
"""

# Shapes: n rows, F input features, D latent, K clusters.

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dkm.config.commands import ExportConfig, parse_words
from dkm.config.commands import main as run_command
from dkm.config.custom import import_plugins, plugin_names, split_model_class
from dkm.config.data import CustomData, DataConfig, FileData
from dkm.config.resolved import read_config
from dkm.config.values import absolute
from dkm.config.verbs import screen
from dkm.errors import Failure, UserError, input_error, missing_extra_error
from dkm.runtime.atomic import publish, sync

if TYPE_CHECKING:
    import numpy as np

    from dkm.data.tables.columns import Column
    from dkm.evaluation.clusters import Clusters
    from dkm.models.saved import SavedModel

# Number of rows on which the artifact is compared with the model.
_N_COMPARED = 1000
# Number of centroids among which a graph chooses the nearest by exact differences.
_N_CANDIDATES = 4
# Largest difference of a distance, relative to the largest distance, that float32 rounding can cause.
_TOLERANCE = 1e-4

_NUMPY_MODULE = '''\
"""Assign rows to clusters; needs NumPy alone. Written by dkm.export."""

from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent


def load(path=_FOLDER / "model.npz"):
    """Return the arrays of the model."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def predict(x, model=None):
    """Return cluster (n,), distance to its centroid (n,), embedding (n, D) of unscaled rows x (n, F).

    NaN in x means that a value is missing; it is filled if the model was trained on filled values. ValueError is raised
    for other values that are not finite, for negative counts, and for values too far from those of the training data.
    """
    m = load() if model is None else model
    x = np.asarray(x, dtype=np.float64).reshape(len(x), len(m["fill"]))
    x = np.where(np.isnan(x), m["fill"], x)
    if m["total"]:
        _require((x >= 0) & (x < np.inf), "a value that is no count: negative, NaN or infinite")
        sums = x.sum(1, keepdims=True)
        x = np.log1p(x * (m["total"] / np.where(sums > 0, sums, 1.0)))
    x = (x - m["shift"]) / m["scale"]
    if m["row_length"]:
        length = np.linalg.norm(x, axis=1, keepdims=True) / m["row_length"]
        x = x / np.where(length > 0, length, 1.0)
    with np.errstate(over="ignore"):
        z = x.astype(np.float32)
    _require(np.isfinite(z), "a value that is NaN, infinite or too large")
    n_layers = sum(name.startswith("weight_") for name in m)
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are too far away, which are refused below
        for layer in range(n_layers):
            z = z @ m[f"weight_{layer}"].T + m[f"bias_{layer}"]
            if layer < n_layers - 1:
                z = np.maximum(z, 0)
        points, cluster, squared = z.astype(np.float64), np.zeros(len(z), dtype=np.int64), np.full(len(z), np.inf)
        for number, centroid in enumerate(m["centroids"]):
            squared_to_this = np.square(points - centroid).sum(1)
            is_nearer = squared_to_this < squared
            cluster[is_nearer], squared[is_nearer] = number, squared_to_this[is_nearer]
        as_float32 = np.square(z - m["centroids"][cluster]).sum(1)
    _require(np.isfinite(as_float32)[:, None], "values too far from the training data")
    return cluster, np.sqrt(squared).astype(np.float32), z


def _require(is_good, found):
    rows = np.flatnonzero(~is_good.all(1))
    if len(rows):
        raise ValueError(f"row {rows[0]} has {found}; {len(rows)} such rows, counted from 0")
'''

# The files that an export or its use writes to a folder. A folder with any other file is never replaced.
_WRITTEN = {"USAGE.md", "model.pt2", "model.onnx", "model.npz", "assign.py", "__pycache__"}
_USAGE = {
    "torch": """\
import torch

model = torch.export.load("model.pt2").module()
cluster, distance, embedding = model(x)  # x: {dtype} tensor, (n, {F})
""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
cluster, distance, embedding = session.run(None, {{"x": x}})  # x: {dtype} array, (n, {F})
""",
    "numpy": """\
from assign import predict  # assign.py and model.npz in the same folder

cluster, distance, embedding = predict(x)  # x: array, (n, {F})
""",
}


_REFUSED_ROWS = "Rows with values that are not finite, with negative counts or too far from the training data"
_REFUSED = {
    **dict.fromkeys(("torch", "onnx"), f"{_REFUSED_ROWS} get cluster -1 and distance NaN."),
    "numpy": f"{_REFUSED_ROWS} raise ValueError.",
}


def main() -> None:
    """Run the command line and exit with its code."""
    run_command(work, screen("export"))


def work(words: Sequence[str]) -> None:
    """Run ``dkm.export`` with the words of the command line."""
    config, rest = parse_words(ExportConfig, words, sections=("model",), alone=("run",))
    export(config, split_model_class(rest)[0])


def export(config: ExportConfig, model_class: str | None = None) -> Path:
    """Write the artifact and return its folder.

    Parameters
    ----------
    config : ExportConfig
    model_class : str, optional
        Dotted name of the class of a run with ``model=custom``.

    Raises
    ------
    UserError
        If there is no model, no data to compare on, or the folder cannot be written.
    Failure
        If the artifact does not reproduce the model's assignments; it is then removed.
    """
    from dkm.models.saved import load_model

    import_plugins(plugin_names(config.plugins))
    model = load_model(config.run, model_class=model_class)
    folder = Path(absolute(config.output))
    source = f"output={config.output}"
    if folder.exists() and not config.overwrite:
        raise UserError(
            f"{source}: the folder exists; expected a new folder; pass overwrite=true or choose another name"
        )
    others = sorted({path.name for path in folder.iterdir()} - _WRITTEN) if folder.is_dir() else []
    if others:
        what = f"the folder contains other files ({others[0]}), which would be deleted"
        raise UserError(f"{source}: {what}; expected a new folder or an artifact to replace; choose another name")
    if config.format == "numpy" and model.section["name"] != "mlp":
        name = model.section["name"]
        raise UserError(f"format=numpy: the model is of model={name}; expected model=mlp; use format=torch or onnx")
    rows, position, source_of_rows = _read_rows(config, model)
    expected = _assign(model, rows, position, source_of_rows)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)
        write = {"torch": _write_torch, "onnx": _write_onnx, "numpy": _write_numpy}[config.format]
        difference = _compare(expected, write(model, rows, temporary))
        _write_usage(model, config.format, difference, len(rows), temporary)
        _replace_folder(folder, temporary)
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or error}; expected a writable folder; choose another") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    print(f"{folder}: compared on {len(rows):,} rows, largest difference of a distance {difference:.2g}")
    return folder


def _replace_folder(folder: Path, temporary: Path) -> None:
    """Give a folder its final name; an artifact of that name is deleted after that, and stays if it fails."""
    if not folder.exists():
        publish(temporary, folder)
        return
    if folder.is_symlink() or not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    sync(temporary)
    earlier = temporary.with_name(f"{temporary.name}.old")
    folder.replace(earlier)
    try:
        publish(temporary, folder)
    finally:
        if not folder.exists():
            earlier.replace(folder)
        shutil.rmtree(earlier, ignore_errors=True)


def _read_rows(config: ExportConfig, model: SavedModel) -> tuple[np.ndarray, np.ndarray, str]:
    """Return unscaled rows (n, F) of ``input=``, by default of the run's data, their positions (n,), and their name."""
    import numpy as np

    from dkm.data.datasets import load_dataset
    from dkm.data.scaling import Scaling, to_rows
    from dkm.evaluation.prediction import input_reader

    path, key = config.input, "input"
    if path is None:
        data = _data_of_run(Path(absolute(config.run)))
        if not isinstance(data, FileData):
            X = load_dataset(data, Scaling("none", model.scaling.n_features)).X
            assert isinstance(X, torch.Tensor)
            rows = X[:_N_COMPARED].numpy().astype(_dtype(model))
            return rows, np.arange(len(rows)), f"data={data.name}"
        path, key = data.path, "data.path"
    reader = input_reader(path, model, key=key)
    part = next(reader.parts(), None)
    if part is None:
        remedy = "complete the rows, or name others: input=FILE"
        raise input_error(reader.source, f"all {reader.n_rows:,} rows are left out", "a row to compare on", remedy)
    rows = np.ascontiguousarray(to_rows(part.X[:_N_COMPARED]), dtype=_dtype(model))
    return rows, part.position[:_N_COMPARED], reader.source


def _assign(model: SavedModel, rows: np.ndarray, position: np.ndarray, source: str) -> Clusters:
    """Return the model's own clusters of the rows; refuse rows that an artifact could only refuse."""
    from dkm.evaluation.clusters import assign_clusters, require_finite_distances
    from dkm.models.saved import scaled_rows

    scaled = torch.from_numpy(scaled_rows(model, rows, source, position))
    clusters = assign_clusters(model.embed(scaled), model.centroids, with_margin=True)
    require_finite_distances(clusters, position, source)
    return clusters


def _dtype(model: SavedModel) -> str:
    """Return the type of the artifact's input: float64 for tables, whose offsets may be too large for float32."""
    return "float64" if model.image_shape is None else "float32"


def _data_of_run(run: Path) -> DataConfig:
    """Return the data section of the run's config."""
    if not (run / "config.yaml").is_file():
        raise UserError("input=null: no config.yaml in the folder names its data; expected real rows; set input=FILE")
    data = read_config(run / "config.yaml").data
    if isinstance(data, CustomData):
        raise UserError("input=null: the data of the run come from code; expected real rows; set input=FILE")
    return data


def assigner(model: SavedModel) -> torch.nn.Module:
    """Build a module that maps unscaled rows to (cluster, distance, embedding).

    The cluster of rows that ``dkm predict`` refuses is -1, their distance NaN: a graph cannot raise an error.
    """

    class Assigner(torch.nn.Module):
        shift: torch.Tensor
        scale: torch.Tensor
        centroids: torch.Tensor
        fill: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.autoencoder.encoder
            self.row_length = model.scaling.row_length
            self.total = model.scaling.total
            self.n_candidates = min(_N_CANDIDATES, model.n_clusters)
            # In float64, as in training, so that a large offset costs no digits.
            self.register_buffer("shift", torch.tensor(model.scaling.shift, dtype=torch.float64))
            self.register_buffer("scale", torch.tensor(model.scaling.scale, dtype=torch.float64))
            self.register_buffer("centroids", model.centroids)
            self.is_filled = model.fill is not None
            self.register_buffer("fill", torch.tensor(model.fill or (), dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            rows = x.double()
            if self.is_filled:
                rows = torch.where(rows.isnan(), self.fill, rows)
            is_valid = rows.isfinite().all(1)
            if self.total is not None:
                is_valid &= (rows >= 0).all(1)
                sums = rows.sum(1, keepdim=True)
                rows = torch.log1p(rows * (self.total / torch.where(sums > 0, sums, torch.ones_like(sums))))
            rows = (rows - self.shift) / self.scale
            if self.row_length:
                length = rows.square().sum(1, keepdim=True).sqrt() / self.row_length
                rows = rows / torch.where(length > 0, length, torch.ones_like(length))
            inputs = rows.float()
            z = self.encoder(inputs)
            # A product, which needs (n, K) values instead of (n, K, D), leaves few centroids to choose from exactly. It
            # is taken about the mean of the centroids, so that an offset that they share costs no digits.
            points, centroids = z.double(), self.centroids.double()
            offset = centroids.mean(0)
            about = centroids - offset
            scores = about.square().sum(1) - 2 * (points - offset) @ about.T  # |z - c|^2 - |z|^2, (n, K)
            nearest = scores.topk(self.n_candidates, dim=1, largest=False).indices.sort(dim=1).values
            squared = (points[:, None] - centroids[nearest]).square().sum(2)  # (n, n_candidates)
            smallest, which = squared.min(1)
            cluster = nearest.gather(1, which[:, None])[:, 0]
            # A prediction refuses a row if the square of its distance is not finite as float32.
            as_float32 = (z - self.centroids[cluster]).square().sum(1)
            is_valid &= inputs.isfinite().all(1) & as_float32.isfinite()
            cluster = torch.where(is_valid, cluster, torch.full_like(cluster, -1))
            return cluster, torch.where(is_valid, smallest.sqrt(), torch.nan).float(), z

    return Assigner().eval()


# Cluster, distance and embedding of rows.
Outputs = tuple[Any, Any, Any]


def _write_torch(model: SavedModel, rows: np.ndarray, folder: Path) -> Outputs:
    x = torch.from_numpy(rows)
    program = torch.export.export(assigner(model), (_at_least_two(x),), dynamic_shapes=({0: _rows()},))
    torch.export.save(program, folder / "model.pt2")
    cluster, distance, z = torch.export.load(folder / "model.pt2").module()(x)
    return cluster.numpy(), distance.numpy(), z.numpy()


def _rows() -> torch.export.Dim:
    """Return the number of rows, which varies; without a limit torch 2.6 fears an overflow."""
    return torch.export.Dim("n", max=2**31 - 1)


def _write_onnx(model: SavedModel, rows: np.ndarray, folder: Path) -> Outputs:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra_error("format=onnx", str(error.name), "onnx") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        torch.onnx.export(
            assigner(model),
            (_at_least_two(torch.from_numpy(rows)),),
            folder / "model.onnx",
            input_names=["x"],
            output_names=["cluster", "distance", "embedding"],
            dynamic_shapes=({0: _rows()},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    cluster, distance, z = session.run(None, {"x": rows})
    return cluster, distance, z


def _write_numpy(model: SavedModel, rows: np.ndarray, folder: Path) -> Outputs:
    import numpy as np

    layers = [layer for layer in model.autoencoder.encoder.children() if isinstance(layer, torch.nn.Linear)]
    arrays: dict[str, Any] = {
        "shift": np.array(model.scaling.shift),
        "scale": np.array(model.scaling.scale),
        "row_length": np.array(model.scaling.row_length),
        "total": np.array(model.scaling.total or 0.0),
        "centroids": model.centroids.numpy(),
        "fill": np.full(model.scaling.n_features, np.nan) if model.fill is None else np.array(model.fill),
    }
    for number, layer in enumerate(layers):
        arrays |= {f"weight_{number}": layer.weight.numpy(), f"bias_{number}": layer.bias.numpy()}
    np.savez(folder / "model.npz", **arrays)
    (folder / "assign.py").write_text(_NUMPY_MODULE, encoding="utf-8")
    names: dict[str, Any] = {"__file__": str(folder / "assign.py")}
    exec(compile(_NUMPY_MODULE, "assign.py", "exec"), names)  # our own constant, not a file
    outputs: Outputs = names["predict"](rows)
    return outputs


def _at_least_two(x: torch.Tensor) -> torch.Tensor:
    """Repeat a single row, because the exporters would specialize to a batch of one."""
    return x if len(x) > 1 else x.repeat(2, 1)


def _compare(expected: Clusters, outputs: Outputs) -> float:
    """Return the largest difference of a distance; raise ``Failure`` if it is larger than rounding can cause."""
    import numpy as np

    difference = float(np.abs(outputs[1] - expected.distance).max())
    limit = _TOLERANCE * max(1.0, float(expected.distance.max()))
    # Both of two centroids are accepted if rounding decides which one is nearer.
    is_clear = np.ones(len(expected.labels), dtype=bool) if expected.margin is None else expected.margin > 2 * limit
    n_other = int((outputs[0] != expected.labels)[is_clear].sum())
    if not difference <= limit or n_other:
        what = f"distances by {difference:.3g}, {n_other} clusters"
        raise Failure(f"the artifact differs from the model: {what}; it was not kept")
    return difference


def _encodings(model: SavedModel) -> Iterator[str]:
    """Yield how texts, images, categories and dates of the run's data become the columns of x, a line for each kind."""
    plan = model.plan or {}
    text = plan.get("text", {})
    if "tfidf" in text:
        where = "scikit-learn's TfidfVectorizer computes it with the idf in model/model.json of the run"
        yield f"Each column is a term, each value its TF-IDF weight in a text, as {where}."
    for encoder, what in ((text.get("encoder"), "a text"), (plan.get("encoder"), "an image")):
        if encoder is not None:
            yield f"Each row has the features of {what} that {encoder['name']} computes."
    if "columns" not in plan:
        return
    from dkm.data.tables.plan import TablePlan

    for column in TablePlan.from_dict(plan).used:
        names = [f"`{name}`" for name in column.features]
        if column.kind == "boolean":
            yield f"{names[0]}: 1 for yes, 0 for no."
        elif column.kind == "category":
            other = f" {names[-1]} is any level without a column of its own." if column.has_other else ""
            yield f"{', '.join(names)}: 1 for the level of the row, 0 for the others.{other}"
        elif column.kind == "number" and column.formats:
            yield f"{names[0]}: a duration in seconds."
        elif column.kind == "date":
            yield from _encodings_of_date(column)


def _encodings_of_date(column: Column) -> Iterator[str]:
    """Yield how a date becomes numbers, one line for each of its cycles."""
    import numpy as np

    from dkm.data.tables.columns import YEAR_DAYS

    names = iter(f"`{name}`" for name in column.features)
    for cycle in column.cycles:
        if cycle == "days":
            is_whole = column.origin == round(column.origin)
            first = np.datetime64(round(column.origin), "s")
            origin = first if is_whole else np.datetime64(round(column.origin * 1e6), "us")
            yield f"{next(names)}: days since {str(origin).replace('T', ' ')}, with their fraction."
        else:
            turn = f"2 pi d / {YEAR_DAYS}" if cycle == "year" else "2 pi d"
            what = "where d is the number of days since 1970-01-01 00:00:00, with its fraction"
            yield f"{next(names)}, {next(names)}: sine and cosine of {turn}, {what}."


def _range(model: SavedModel) -> str:
    """Return which values pixels have, as the end of a sentence; "" where it is not known."""
    kind, shift, scale = model.scaling.kind, model.scaling.shift[0], model.scaling.scale[0]
    low = {"unit": shift, "symmetric": shift - scale}.get(kind)
    return "" if low is None else f", with values from {low:g} to {shift + scale:g}"


def _write_usage(model: SavedModel, name: str, difference: float, n_rows: int, folder: Path) -> None:
    F, shape = model.scaling.n_features, model.image_shape
    columns = "" if model.features is None else f"The columns of x, in this order: {', '.join(model.features)}.\n"
    if model.fill is not None:
        columns += f"NaN, for a missing value, is replaced by: {', '.join(f'{value:.9g}' for value in model.fill)}.\n"
    if encodings := "".join(f"- {line}\n" for line in _encodings(model)):
        columns += f"\n{encodings}\n"
    if shape is not None:
        columns += f"Each row is an image of shape {shape} (channels, height, width), flattened{_range(model)}.\n"
    code = _USAGE[name].format(F=F, dtype=_dtype(model))
    text = (
        f"# {model.n_clusters} clusters of {F} features\n\n```python\n{code}```\n\n{columns}"
        "Pass unscaled values: the model contains the scaling. `distance` is the Euclidean distance to the centroid\n"
        f"in the embedding. {_REFUSED[name]}\n"
        f"Compared with the model on {n_rows:,} rows: distances differ by at most {difference:.2g}.\n"
    )
    (folder / "USAGE.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
