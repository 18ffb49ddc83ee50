"""Reads what the report of a finished run is made of from its directory, and its data again where they are at hand."""

# Shapes: N rows, F features, D latent, K clusters.

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dkm.config.compose import compose, parse
from dkm.config.data import CustomData, FileData
from dkm.config.run import Config
from dkm.data.datasets import Dataset, load_dataset
from dkm.data.images.thumbnails import thumbnail_reader
from dkm.data.sampling import sample_dataset
from dkm.data.scaling import Scaling
from dkm.data.stored import CHUNK_ROWS, StoredRows
from dkm.data.tables.plan import TablePlan
from dkm.errors import UserError, in_short, input_error
from dkm.evaluation.assignments import Assignments, without_mark
from dkm.evaluation.exemplars import contrast_clusters
from dkm.models.description import read_description
from dkm.models.saved import DESCRIPTION, WEIGHTS, SavedModel, load_model
from dkm.reports.features import features_of
from dkm.reports.material import Material, Rows
from dkm.reports.naming import read_differences
from dkm.runs import reading
from dkm.runs.directory import read_json
from dkm.runtime.devices import set_threads

# Rows that are embedded again, those of the map included; of more rows only those of the map.
_MAX_EMBEDDED = 200_000


def read_material(run: Path, overrides: Sequence[str] = (), model_class: str | None = None) -> Material:
    """Return what the report of a finished run is made of.

    Parameters
    ----------
    run : Path
        The run directory.
    overrides : sequence of str
        Settings of the data, such as ``data.path=`` for a file that has moved.
    model_class : str, optional
        Dotted name of the class of a run with ``model=custom``; the name in the directory is never imported.

    Raises
    ------
    UserError
        If the run is not finished or one of its files is damaged, or the overrides name other data.
    """
    try:
        known = reading.read(run)
        if not known.is_completed:
            remedy = f"finish it: python -m dkm.train resume={shlex.quote(str(run))}"
            raise input_error(str(run), f"the run is {known.status}", "a finished run", remedy)
        result = read_json(run / reading.RESULT) or {}
        _require_scores(result)
        is_safe = reading.has_safe_csv(run)
        assignments = _read_assignments(run / reading.ASSIGNMENTS, result, is_safe=is_safe)
        texts = assignments.texts is not None
        plan, row_length = _read_plan(run)
        kept = read_differences(
            *(run / reading.FEATURES, int(result["n_clusters"])),
            are_terms=texts,
            has_means=not row_length,
            plan=plan,
            is_safe=is_safe,
        )
        centroids = _read_centroids(run)
        data_report = _read_data_report(run / reading.DATA)
    except (reading.DamagedRun, OverflowError, ValueError, KeyError, TypeError) as error:
        found = f"the run is damaged ({in_short(error)})"
        raise input_error(str(run), found, "the files of a finished run", "copy them again, or train again") from error
    material = Material(
        settings=known.settings,
        seed=known.seed,
        data_name=str(known.data.get("name", "")),
        sha256=known.data.get("sha256"),
        result=result,
        data_report=data_report,
        assignments=assignments,
        centroids=centroids,
        rows=None,
        kept_differences=kept,
        rows_sha256=known.rows_sha256,
    )
    results = (reading.RESULT, reading.ASSIGNMENTS, reading.FEATURES)
    material.warnings.extend(reading.alterations(known, results))
    return _with_rows(material, run, overrides, model_class)


def _require_scores(result: dict[str, Any]) -> None:
    """Raise a TypeError unless what the run says of labels that it learned are numbers or None."""
    start = result.get("start", {})
    if not isinstance(start, dict):
        raise TypeError("start is of another type")
    for value in (result.get("learned_agreement"), *start.values()):
        if not isinstance(value, int | float | None):
            raise TypeError("an agreement is not a number")


def _read_assignments(path: Path, result: dict[str, Any], *, is_safe: bool) -> Assignments:
    import pandas as pd

    try:
        frame = pd.read_csv(
            path,
            dtype={"index": np.int64, "cluster": np.int64, "id": str, "label": str, "text": str},
            keep_default_na=False,
            na_values={"distance": [""], "margin": [""]},
        )
    except (OSError, OverflowError, ValueError) as error:  # pandas' own errors are among these
        raise ValueError(f"{path.name} cannot be read: {in_short(error)}") from error
    if missing := {"index", "cluster", "distance", "margin"} - set(frame):
        raise ValueError(f"{path.name} has no column {min(missing)}")
    n_rows, K = int(result["n_samples"]), int(result["n_clusters"])
    cluster = frame["cluster"].to_numpy()
    if len(frame) != n_rows or (n_rows and not 0 <= cluster.min() <= cluster.max() < K):
        raise ValueError(f"{path.name} does not have the {n_rows} rows and {K} clusters of {reading.RESULT}")

    def text(name: str) -> Any:
        if name not in frame:
            return None
        return (frame[name].map(without_mark) if is_safe else frame[name]).to_numpy(dtype=object)

    index, distance, margin = frame["index"].to_numpy(), *_numbers_of(frame, path.name, has_margins=K > 1)
    return Assignments(
        *(index, text("id"), cluster, distance, margin),
        labels=text("label"),
        texts=text("text"),
    )


def _numbers_of(frame: Any, name: str, *, has_margins: bool) -> list[Any]:
    """Return the distances and the margins (N,), None for the latter with a single cluster."""
    numbers: list[Any] = []
    for column in ("distance", "margin") if has_margins else ("distance",):
        values = frame[column].to_numpy(np.float32)
        if np.isnan(values).any():
            raise ValueError(f"{name} has no {column} for row {frame['index'][int(np.isnan(values).argmax())]}")
        numbers.append(values)
    return numbers if has_margins else [*numbers, None]


def _read_data_report(path: Path) -> dict[str, Any]:
    """Return the data report of a run; empty for one of before there were any."""
    content = read_json(path)
    if content is None and path.exists():
        raise ValueError(f"{path.name} cannot be read: expected a JSON object")
    return content or {}


def _read_plan(run: Path) -> tuple[Any, float]:
    """Return the plan of a table from the description of the model, and the length that scaling gives each row.

    None without a plan or if it cannot be read; the length is 0 if rows keep theirs.
    """
    try:
        description = read_description(run / "model" / DESCRIPTION)
        plan, scaling = description.get("plan"), Scaling.from_dict(description["scaling"])
        if plan is not None:
            names = description.get("features") or []
            if any(column.length > len(names) for column in TablePlan.from_dict(plan, names).columns):
                raise ValueError("a list of more numbers than there are features")
            features_of(names, plan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, 0.0
    return plan, scaling.row_length


def _read_centroids(run: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(run / "model" / WEIGHTS, framework="np") as file:
            return file.get_tensor("centroids")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"model/{WEIGHTS} cannot be read: {in_short(error)}") from error


def _with_rows(material: Material, run: Path, overrides: Sequence[str], model_class: str | None) -> Material:
    """Return the material with the rows of the data, or with a warning that says why they are missing."""
    part, remedy = "config", ""
    try:
        config = _config(run, overrides)
        part = "data"
        if isinstance(config.data, FileData):
            remedy = "; set data.path=FILE if they moved"
        elif isinstance(config.data, CustomData):
            remedy = "; add data.class=package.Class"
        if isinstance(config.data, CustomData) and not any(word.startswith("data.class=") for word in overrides):
            raise _refused(run, overrides, "the data come from code", "add data.class=package.Class")
        set_threads(config.threads)
        part = "model"
        model = load_model(str(run), model_class=model_class)
        part = "data"
        data = load_dataset(config.data, model.scaling)
        if material.sha256 is not None and data.sha256 != material.sha256:
            raise _refused(run, overrides, "the data have changed since", "name those of the run")
    except UserError as error:
        if overrides or model_class is not None:
            raise
        lack, why = "the report has no map and no values", f"its {part} cannot be read again"
        if part == "data":
            material.warnings.append(f"{run}: {why} ({in_short(error)}); {lack}{remedy}")
        else:  # an error that ends with its own remedy
            material.warnings.append(f"{run}: {lack}, as {why}: {' '.join(str(error).split())}")
        return material
    contrast = None
    if data.image_shape is None and material.n_clusters > 1:
        sample = sample_dataset(data, config.evaluation.samples)
        index = np.arange(data.n_samples) if sample is None else sample.numpy()
        labels = material.assignments.cluster[index]
        contrast = contrast_clusters(_take(data, index), labels, material.n_clusters, data.scaling)
    pictures = thumbnail_reader(config.data, data.position)
    rows = Rows(data, lambda index: _take(data, index), _embedder(model, data), contrast, pictures)
    return replace(material, rows=rows)


def _refused(run: Path, overrides: Sequence[str], why: str, remedy: str) -> UserError:
    """Return the error as a whole line where the user has named data, else in short for a warning."""
    return input_error(str(run), why, "the data of the run", remedy) if overrides else UserError(why)


def _config(run: Path, overrides: Sequence[str]) -> Config:
    command = parse(["--config-dir", str(run), "--config-name", "config", *overrides])
    return compose(command._replace(is_only_read=True)).config


def _take(data: Dataset, index: Any) -> Any:
    rows = torch.from_numpy(np.asarray(index))
    return (data.X.take(rows) if isinstance(data.X, StoredRows) else data.X[rows]).numpy()


def _embedder(model: SavedModel, data: Dataset) -> Any:
    """Return a function that embeds rows at positions (M,).

    All rows are embedded in the chunks of training, on which the last bits depend, unless there are very many.
    """
    if data.n_samples > _MAX_EMBEDDED:
        return lambda index: model.embed(torch.from_numpy(_take(data, index))).numpy()
    kept: list[Any] = []

    def embed(index: Any) -> Any:
        if not kept:
            starts = range(0, data.n_samples, CHUNK_ROWS)
            ends = [min(start + CHUNK_ROWS, data.n_samples) for start in starts]
            chunks = (torch.from_numpy(_take(data, np.arange(a, b))) for a, b in zip(starts, ends, strict=True))
            kept.append(torch.cat([model.embed(chunk) for chunk in chunks]).numpy())
        return kept[0][index]

    return embed
