"""Check ``model.json``: every field that a model is built from has the type, length and range that a run writes.

A model folder may come from someone else. Nothing in it is executed, no text is resolved, and no array is allocated
before its size is known to be that of the stored weights.
"""

# Shapes: F input features, D latent, K clusters.

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dkm.config.data import SCALINGS
from dkm.config.groups import GROUPS
from dkm.config.model import MODELS
from dkm.config.resolved import section_of, typed
from dkm.data.tables.columns import MARKS, Column
from dkm.data.tables.plan import TablePlan

FORMAT_VERSION = 1
# The key with the SHA-256 of all other keys.
_DIGEST = "sha256"
# The vocabulary of a model of texts and the columns of a wide table are in it.
_MAX_BYTES = 2**28
_MAX_FEATURES = 2**31 - 1
_MAX_WIDTH = 2**24
_MAX_LAYERS = 1000
_COLUMN_KINDS = ("", "number", "boolean", "category", "date", "list")
_COLUMN_ROLES = ("feature", "id", "label", "left_out")
_CYCLES = ("days", "year", "day")
_LAYOUTS = ("rows", "hwc", "chw", "series")

Object = Mapping[str, Any]


def with_digest(description: Object) -> dict[str, Any]:
    """Return a description as JSON values, with their SHA-256 for ``read_description``."""
    values: dict[str, Any] = json.loads(json.dumps(description))
    return {**values, _DIGEST: _digest_of(values)}


def _digest_of(values: Object) -> str:
    """Return the SHA-256 of the values, which does not depend on their order or on white space in the file."""
    rest = {key: value for key, value in values.items() if key != _DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_description(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file: as it was written, if it has a digest, otherwise unchecked.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, is larger than 256 MiB, holds no description of this format, or was altered.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes")
    try:
        description = json.loads(content.decode("utf-8"))
        digest = _digest_of(description) if isinstance(description, dict) else None
    except RecursionError as error:
        raise ValueError("too many levels") from error
    if not isinstance(description, dict):
        raise ValueError(f"a {type(description).__name__}, expected an object")
    version = description.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ValueError(f"format_version={_short(version)}, this release reads {FORMAT_VERSION}")
    if description.get(_DIGEST, digest) != digest:  # models of earlier versions have none
        raise ValueError("damaged or altered: its SHA-256 is not the one that it was written with")
    if not isinstance(description.get("model"), dict) or not isinstance(description["model"].get("name"), str):
        raise ValueError("model: expected the section of a network, with its name")
    for key, value in description.items():
        _require_encodable(key, value)
    return description


def _require_encodable(key: str, value: object) -> None:
    """Refuse half characters (lone surrogates), which JSON can escape and no file can have."""
    try:
        json.dumps({key: value}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start])
        raise ValueError(
            f"{ascii(key)[1:-1]}: the half character {found}, expected texts of whole characters"
        ) from None


def check_description(description: Object) -> None:
    """Check all fields; ``description["model"]`` already names the class of the user's own, if there is one.

    Raises
    ------
    ValueError, UserError
        With the name of the first field that is not what a run writes.
    """
    model = description["model"]
    _require(model["name"] in MODELS, "model.name", model["name"], f"one of {', '.join(MODELS)}")
    section = section_of("model", MODELS[model["name"]].config, model)
    for name in ("hidden", "filters"):
        widths = getattr(section, name, None)
        if widths is not None and model["name"] in ("mlp", "conv"):
            is_small = len(widths) <= _MAX_LAYERS and all(width <= _MAX_WIDTH for width in widths)
            _require(is_small, f"model.{name}", widths, f"at most {_MAX_LAYERS:,} widths of at most {_MAX_WIDTH:,}")
    F = _whole(description, "n_features", _MAX_FEATURES)
    _whole(description, "latent_dim", _MAX_WIDTH)
    _whole(description, "n_clusters", _MAX_FEATURES)
    _check_image_shape(description, F)
    _check_scaling(description.get("scaling"), F)
    _require(isinstance(description.get("data", ""), str), "data", description.get("data"), "the name of a data set")
    features, fill = description.get("features"), description.get("fill")
    if features is not None:
        _texts(features, "features", F)
    if fill is not None:
        _numbers(fill, "fill", (F,), "a number for each feature, which may be NaN", lambda value: not math.isinf(value))
    variance = description.get("variance")
    is_variance = variance is None or (_is_number(variance) and 0 <= variance < math.inf)
    _require(is_variance, "variance", variance, "null or a finite number, 0 or more")
    _check_reading(description)
    _check_plan(description, F)


def _check_scaling(scaling: Any, F: int) -> None:
    _require(isinstance(scaling, dict), "scaling", scaling, "an object")
    kind, total = scaling.get("kind"), scaling.get("total")
    _require(isinstance(kind, str) and kind in SCALINGS, "scaling.kind", kind, f"one of {', '.join(SCALINGS)}")
    n_features = scaling.get("n_features")
    _require(_is_whole(n_features) and n_features == F, "scaling.n_features", n_features, f"n_features={F}")
    _numbers(scaling.get("shift"), "scaling.shift", (1, F), "finite numbers", math.isfinite)
    scale = scaling.get("scale")
    values = [1.0 if value is None else value for value in scale] if isinstance(scale, list) else scale
    _numbers(values, "scaling.scale", (1, F), "finite numbers above 0, or null", lambda v: 0 < v < math.inf)
    if kind == "counts":
        _require(_is_number(total) and 0 < total < math.inf, "scaling.total", total, "a finite number above 0")
    else:
        _require(total is None, "scaling.total", total, f"null for kind={kind}")


def _check_image_shape(fields_: Object, F: int, prefix: str = "") -> None:
    shape = fields_.get("image_shape")
    if shape is None:
        return
    is_shape = isinstance(shape, list) and len(shape) == 3 and all(_is_whole(n) and 1 <= n <= F for n in shape)
    is_shape = is_shape and math.prod(shape) == F
    _require(is_shape, f"{prefix}image_shape", shape, f"null or three numbers whose product is n_features={F}")


def _check_reading(description: Object) -> None:
    """Check how the data of the run were read: settings of ``data``, by the schema of the option."""
    reading = description.get("reading", {})
    _require(isinstance(reading, dict), "reading", reading, "an object")
    schema = GROUPS["data"].get(description.get("data", ""))
    if schema is not None:
        annotations = {part.name: str(part.type) for part in fields(schema)}
        for name, value in reading.items():
            if name in annotations:
                typed(f"reading.{name}", value, annotations[name], f"what data.{name} may be")


def _check_plan(description: Object, F: int) -> None:
    plan = description.get("plan")
    if plan is None:
        return
    _require(isinstance(plan, dict), "plan", plan, "null or an object")
    if "columns" in plan:
        _check_columns(plan, description, F)
    if plan.get("features") is not None:
        _texts(plan["features"], "plan.features", F)
    if plan.get("fill") is not None:
        _numbers(plan["fill"], "plan.fill", (F,), "a number for each feature", lambda value: not math.isinf(value))
    if plan.get("range") is not None:
        _numbers(plan["range"], "plan.range", (2,), "finite numbers", math.isfinite)
        _require(plan["range"][0] <= plan["range"][1], "plan.range", plan["range"], "the smaller number first")
    if "layout" in plan:
        _require(plan["layout"] in _LAYOUTS, "plan.layout", plan["layout"], f"one of {', '.join(_LAYOUTS)}")
        _check_image_shape(plan, F, "plan.")
    if "array" in plan:
        _require(isinstance(plan["array"], str), "plan.array", plan["array"], "the name of an array")
    if "is_last" in plan:
        _require(isinstance(plan["is_last"], bool), "plan.is_last", plan["is_last"], "true or false")
    if "encoder" in plan:
        _check_encoder(plan["encoder"], "plan.encoder")
    if "text" in plan:
        _check_text(plan["text"], F)


def _check_text(text: Any, F: int) -> None:
    _require(isinstance(text, dict), "plan.text", text, "an object")
    _require(("tfidf" in text) != ("encoder" in text), "plan.text", sorted(text), "either tfidf or encoder")
    column = text.get("column")
    _require(column is None or isinstance(column, str), "plan.text.column", column, "null or the name of a column")
    if "has_header" in text:
        _require(isinstance(text["has_header"], bool), "plan.text.has_header", text["has_header"], "true or false")
    if "encoder" in text:
        _check_encoder(text["encoder"], "plan.text.encoder")
        return
    tfidf = text["tfidf"]
    _require(isinstance(tfidf, dict), "plan.text.tfidf", tfidf, "an object")
    _texts(tfidf.get("vocabulary"), "plan.text.tfidf.vocabulary", F)
    terms = tfidf["vocabulary"]
    _require(len(set(terms)) == len(terms), "plan.text.tfidf.vocabulary", terms, "different terms")
    _numbers(tfidf.get("idf"), "plan.text.tfidf.idf", (F,), "finite numbers above 0", lambda v: 0 < v < 1e30)


def _check_encoder(encoder: Any, key: str) -> None:
    _require(isinstance(encoder, dict), key, encoder, "an object")
    for name in ("name", "digest"):
        if name == "name" or name in encoder:
            _require(isinstance(encoder.get(name), str), f"{key}.{name}", encoder.get(name), "text")


def _check_columns(plan: Object, description: Object, F: int) -> None:
    columns = plan["columns"]
    _require(isinstance(columns, list), "plan.columns", columns, "a list")
    for name in ("has_header", "refuses_gaps"):
        _require(isinstance(plan.get(name), bool), f"plan.{name}", plan.get(name), "true or false")
    annotations = {part.name: str(part.type) for part in fields(Column)}
    for number, column in enumerate(columns):
        key = f"plan.columns[{number}]"
        is_column = isinstance(column, dict) and "name" in column and set(column) <= set(annotations)
        _require(is_column, key, column, f"an object with name and others of {', '.join(annotations)}")
        for name, value in column.items():
            if name != "fill":
                typed(f"{key}.{name}", value, annotations[name], "a value of this type")
        _check_column(Column.from_dict(column), key, F)
    features = TablePlan.from_dict(plan).features
    _require(len(features) == F, "plan.columns", f"{len(features):,} features", f"n_features={F}")
    expected = description.get("features")
    if expected is not None:
        _require(list(features) == expected, "plan.columns", "other features", "those of the field features")


def _check_column(column: Column, key: str, F: int) -> None:
    _require(column.role in _COLUMN_ROLES, f"{key}.role", column.role, f"one of {', '.join(_COLUMN_ROLES)}")
    _require(column.kind in _COLUMN_KINDS, f"{key}.kind", column.kind, f"one of {', '.join(_COLUMN_KINDS[1:])}")
    _require(all(cycle in _CYCLES for cycle in column.cycles), f"{key}.cycles", column.cycles, ", ".join(_CYCLES))
    _require(0 <= column.length <= F, f"{key}.length", column.length, f"a whole number from 0 to n_features={F}")
    _require(column.marks in MARKS, f"{key}.marks", column.marks, f"one of {', '.join(MARKS)}")
    _require(0 < column.first_year < 9900, f"{key}.first_year", column.first_year, "a year before 9900")
    _require(math.isfinite(column.origin), f"{key}.origin", column.origin, "a finite number")
    if column.role != "feature":
        return
    _require(column.kind != "", f"{key}.kind", column.kind, f"one of {', '.join(_COLUMN_KINDS[1:])}")
    is_number = _is_number(column.fill) and math.isfinite(column.fill)  # type: ignore[arg-type]
    is_fill = column.fill is None or (isinstance(column.fill, str) if column.kind == "category" else is_number)
    _require(is_fill, f"{key}.fill", column.fill, "null, a finite number, or the level of a category")


def _whole(fields_: Object, key: str, most: int) -> int:
    value = fields_.get(key)
    is_right = _is_whole(value) and 1 <= value <= most  # type: ignore[operator]
    _require(is_right, key, value, f"a whole number from 1 to {most:,}")
    return int(value)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (isinstance(value, float) or abs(value) < 2**1000)  # type: ignore[arg-type]


def _numbers(values: object, key: str, lengths: Sequence[int], expected: str, accepts: Callable[[float], bool]) -> None:
    _require(isinstance(values, list), key, values, f"a list of {expected}")
    assert isinstance(values, list)
    counts = " or ".join(f"{n:,}" for n in dict.fromkeys(lengths))
    _require(len(values) in lengths, key, f"{len(values):,} numbers", f"{counts} of them")
    for value in values:
        _require(_is_number(value) and accepts(value), key, value, expected)


def _texts(values: object, key: str, length: int) -> None:
    is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
    _require(is_list, key, values, "a list of texts")
    assert isinstance(values, list)
    _require(len(values) == length, key, f"{len(values):,} texts", f"n_features={length} of them")


def _require(is_right: bool, key: str, found: object, expected: str) -> None:
    if not is_right:
        raise ValueError(f"{key}: {_short(found)}, expected {expected}")


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str) and " " not in value else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
