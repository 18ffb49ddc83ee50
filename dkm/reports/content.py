"""The content of a report, as the template and the script of the page take it: plain values and texts."""

# Shapes: N rows, n rows of the map, K clusters, F features.

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dkm.config.roles import role_of
from dkm.config.settings import Role
from dkm.evaluation.exemplars import Exemplars
from dkm.evaluation.scores import SCORES
from dkm.evaluation.summary import format_score
from dkm.reports.colors import cluster_colors, matching_colors
from dkm.reports.columns import Values, columns_of, decimals_of, format_number, format_value
from dkm.reports.features import Feature
from dkm.reports.layout import Layout, lay_out, rows_of_map
from dkm.reports.material import Material
from dkm.reports.naming import Differences
from dkm.reports.pictures import Sprite, bytes_per_image, draw_map, draw_sprite
from dkm.reports.trust import UNCERTAIN, agreement_of, judge

IntArray = npt.NDArray[np.int64]

# Rows of a map of one run; the maps of several runs share them, but each has at least the second number.
MAX_POINTS, _LEAST_POINTS = 10_000, 2_500
# Bytes of all thumbnails and of all values of rows, before they are written as text.
_SPRITE_BYTES, _VALUE_BYTES = 2_000_000, 1_000_000
_MAX_COLUMNS = 40
# Images that are decoded again for their thumbnails.
_MAX_DECODED = 2_000
_MAX_TEXT = 160
# Of an id that is longer than both together and one more.
_ID_START, _ID_END = 20, 39
# What a card shows; clusters beyond the number of cards are in the table only.
_N_EXEMPLARS, _N_UNCERTAIN, _N_ROWS, _N_DIFFERENCES, _N_COLUMNS = 8, 8, 3, 5, 3
_MAX_CARDS = 200
_MAX_LABELS = 1000
# Longest side of a thumbnail on a card, in pixels of the page.
_TILE = 40

_BASELINES = {"kmeans_raw": "k-means on the rows", "kmeans_pretrained": "k-means on the pretrained embedding"}


class Shown(NamedTuple):
    """The rows of the maps: their positions (n,) among all rows, and what is known of them."""

    positions: IntArray
    columns: list[Values]
    sprite: Sprite | None

    def place(self, row: int) -> int | None:
        """Return the place of a row among those that are shown; None if it is not."""
        place = int(np.searchsorted(self.positions, row))
        return place if place < len(self.positions) and self.positions[place] == row else None


class Content:
    """What a page says of one run or of several runs of the same rows.

    Parameters
    ----------
    materials : sequence of Material
        At least one; all of the same rows.
    max_points : int
        The largest number of rows in a map, apart from those that a card shows and a few of each cluster.
    """

    def __init__(self, materials: Sequence[Material], max_points: int = MAX_POINTS) -> None:
        self.materials = list(materials)
        self._first = materials[0]
        # The run with the labels of the rows, which another one may not have read.
        self._labeled = next((m for m in materials if m.assignments.labels is not None), self._first)
        self._is_of_same_data = len({material.sha256 for material in materials}) == 1
        self._max_points = max(max_points // len(materials), min(max_points, _LEAST_POINTS))

    @cached_property
    def colors(self) -> list[list[str]]:
        """The colors of the clusters of each run; clusters of the same rows have the same color in all runs."""
        first = self._first
        colors = [cluster_colors(first.n_clusters)]
        for other in self.materials[1:]:
            labels = (other.assignments.cluster, other.n_clusters, first.assignments.cluster)
            colors.append(matching_colors(*labels, colors[0]))
        return colors

    # --- the rows of the maps ---

    @cached_property
    def _source(self) -> Material | None:
        """The run from which the values of rows come, in their units if any run has them; None without data at hand.

        Scaling may have normalized the length of the rows, which then is lost.
        """
        found = [(bool(m.rows.data.scaling.row_length), m) for m in self.materials if m.rows is not None]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    @cached_property
    def shown(self) -> Shown:
        exemplars = [few for material in self.materials for few in _few(material)]
        limit, source = self._max_points, self._source
        if source is None or (rows := source.rows) is None:
            return Shown(np.array([], np.int64), [], None)
        labels = source.assignments.cluster
        if rows.data.image_shape is not None:
            pilot = rows.take(rows_of_map(labels, [], min(limit, 400)))
            limit = min(limit, int(_SPRITE_BYTES / bytes_per_image(rows.data.to_pictures(pilot))))
        elif rows.pictures is not None:
            limit = min(limit, _MAX_DECODED)
        index = rows_of_map(labels, exemplars, limit)
        scaled = rows.take(index)
        sprite = None
        if rows.data.image_shape is not None:
            sprite = draw_sprite(rows.data.to_pictures(scaled))
        elif rows.pictures is not None and (pictures := rows.pictures(index)) is not None:
            sprite = draw_sprite(pictures, max(pictures.shape[2:]))
        return Shown(index, columns_of(rows.data, scaled, index), sprite)

    @cached_property
    def layouts(self) -> list[Layout | None]:
        return [None if m.rows is None else lay_out(m.rows.embed(self.shown.positions)) for m in self.materials]

    def payload(self) -> dict[str, Any] | None:
        """Return what the script of the page takes; None where there is no map."""
        if self._source is None:
            return None
        shown, assignments = self.shown, self._first.assignments
        index = shown.positions
        payload: dict[str, Any] = {
            "n": len(index),
            "n_rows": self._first.n_samples,
            "id_ends": [_ID_START, _ID_END],
            "index": _packed(assignments.position[index], "u4"),
            "ids": None if assignments.ids is None else [_cut_id(str(id_)) for id_ in assignments.ids[index]],
            "texts": None if assignments.texts is None else [_cut(str(text)) for text in assignments.texts[index]],
            "labels": None,
            "sprite": None if shown.sprite is None else shown.sprite._replace(uri="")._asdict(),
            "columns": [_packed_column(column) for column in self._chosen_columns],
            "runs": [self._map(number, layout) for number, layout in enumerate(self.layouts) if layout is not None],
        }
        if self._labeled.label_codes is not None:
            names, codes = self._labeled.label_codes
            if len(names) <= _MAX_LABELS:
                payload["labels"] = {"names": names, "codes": _packed(codes[index], "u2")}
                payload["labels"]["colors"] = cluster_colors(len(names))
                payload["labels"]["counts"] = np.bincount(codes, minlength=len(names)).tolist()  # of all rows
        return payload

    def _map(self, number: int, layout: Layout) -> dict[str, Any]:
        material = self.materials[number]
        index, a = self.shown.positions, material.assignments
        labels = a.cluster[index]
        low, extent = layout.points.min(axis=0), float(np.ptp(layout.points, axis=0).max()) or 1.0
        grid = np.rint((layout.points - low) / extent * 65535)
        confidence = material.confidence
        places = _places(grid, labels, material.n_clusters)
        return {
            "number": number,
            "title": material.title,
            "x": _packed(grid[:, 0], "u2"),
            "y": _packed(grid[:, 1], "u2"),
            "cluster": _packed(labels, "u2"),
            "distance": _packed(a.distance[index], "f4"),
            "margin": None if a.margin is None else _packed(a.margin[index], "f4"),
            "confidence": None if confidence is None else _packed(np.rint(confidence[index] * 255), "u1"),
            "names": material.names,
            "sizes": material.sizes.tolist(),
            "colors": self.colors[number],
            "places": places,
        }

    @cached_property
    def _telling(self) -> IntArray:
        """The columns in the order of how much clusters differ in them, the most telling first."""
        columns = self.shown.columns
        differences = None if self._source is None else self._source.differences
        weight = np.zeros(len(columns))
        if differences is not None and len(columns):
            largest = np.nan_to_num(np.abs(differences.difference), nan=0.0, posinf=1e9).max(axis=0)
            weight = np.array([largest[list(column.features)].max(initial=0) for column in columns])
        return np.argsort(-weight, kind="stable")

    @cached_property
    def _chosen_columns(self) -> list[Values]:
        """The columns that there is room for, the most telling first."""
        n = min(_MAX_COLUMNS, int(_VALUE_BYTES / (4 * max(1, len(self.shown.positions)))))
        return [self.shown.columns[i] for i in self._telling[: max(1, n)].tolist()]

    # --- what the template takes ---

    def context(self) -> dict[str, Any]:
        """Return the variables of the template."""
        first, judgment = self._first, judge(self.materials)
        n_rows, shown, labels = first.n_samples, self.shown, self._labeled.label_codes
        runs = [self._run(number, material) for number, material in enumerate(self.materials)]
        return {
            "title": _title(self.materials),
            "data_name": first.data_label,
            "n_rows": n_rows,
            "n_features": first.data_report.get("n_features"),
            "is_alone": len(self.materials) == 1,
            "has_map": self._source is not None,
            "without_map": [material.title[:1] for material in self.materials if material.rows is None],
            "n_shown": len(shown.positions),
            "sprite": shown.sprite,
            "tile": None if shown.sprite is None else _tile(shown.sprite),
            "judgment": judgment,
            "runs": runs,
            "has_labels": labels is not None,
            "colors_by_label": labels is not None and len(labels[0]) <= _MAX_LABELS,
            "column_names": [column.name for column in self._chosen_columns] if self._source is not None else [],
            "n_columns": len(shown.columns),
            "settings": _settings(self.materials),
            "scores": _score_table(self.materials),
            "agreement": _agreement_table(self.materials),
            "data": _data_facts(
                first, with_scaling=_have_one_scaling(self.materials), is_of_same_data=self._is_of_same_data
            ),
            "columns": list(first.data_report.get("columns", [])) if self._is_of_same_data else [],
            "uncertain": UNCERTAIN,
        }

    def _run(self, number: int, material: Material) -> dict[str, Any]:
        layout = self.layouts[number]
        order = np.argsort(-material.sizes, kind="stable")
        carded = set(order[:_MAX_CARDS].tolist())
        clusters = [self._cluster(number, k, with_card=k in carded) for k in range(material.n_clusters)]
        static = None
        if layout is not None:
            labels = material.assignments.cluster[self.shown.positions]
            places = [None if p is None else (p[0], p[1]) for p in _places(layout.points, labels, material.n_clusters)]
            static = draw_map(layout.points, labels, self.colors[number], places)
        return {
            "number": number,
            "title": material.title,
            "clusters": clusters,
            "has_names": any(cluster["name"] for cluster in clusters),
            "cards": [cluster for cluster in clusters if cluster["number"] in carded],
            "n_without_card": material.n_clusters - len(carded),
            "map": static,
            "method": None if layout is None else layout.method,
            "has_margins": layout is not None and material.assignments.margin is not None,
        }

    def _cluster(self, number: int, k: int, *, with_card: bool) -> dict[str, Any]:
        material = self.materials[number]
        size, members = int(material.sizes[k]), material.assignments.cluster == k
        nearest = _nearest(material, k)
        cluster = {
            "number": k,
            "name": material.names[k],
            "color": self.colors[number][k],
            "size": size,
            "share": size / max(1, material.n_samples),
            "distance": float(material.assignments.distance[members].mean()) if size else None,
            "confidence": None
            if material.confidence is None or not size
            else float(np.median(material.confidence[members])),
            "nearest": nearest,
            "label": material.majorities[k],
            "has_card": with_card,
        }
        if with_card:
            cluster |= {
                "differences": _difference_rows(material.differences, k),
                "exemplars": self._rows_of_card(material, k, "nearest"),
                "least_certain": self._rows_of_card(material, k, "least_certain"),
            }
        return cluster

    def _rows_of_card(self, material: Material, k: int, kind: str) -> dict[str, Any]:
        """Return some rows of a cluster: pictures, texts, or a table of the columns in which it differs."""
        rows = getattr(material.exemplars[k], kind)
        is_wide = self.shown.sprite is not None
        rows = rows[: (_N_EXEMPLARS if kind == "nearest" else _N_UNCERTAIN) if is_wide else _N_ROWS]
        columns = [] if is_wide else self._columns_of_card(material, k)
        found = [self._row(material, int(row), columns, kind) for row in rows]
        return {"columns": [column.name for column in columns], "rows": found}

    def _columns_of_card(self, material: Material, k: int) -> list[Values]:
        if material.differences is None or material.rows is None:
            return self.shown.columns[:_N_COLUMNS]
        largest = material.differences.largest(k, 20)
        if self._is_of_same_data:
            by_feature = {f: column for column in self.shown.columns for f in column.features}
            wanted = [by_feature.get(f) for f in largest]
        else:  # the run may have read other columns than the one whose values are shown
            by_name = {column.name: column for column in self.shown.columns}
            features = material.differences.features
            wanted = [by_name.get(features[f].column or features[f].name) for f in largest]
        chosen = {column.name: column for column in wanted if column is not None}
        return list(chosen.values())[:_N_COLUMNS]

    def _row(self, material: Material, row: int, columns: Sequence[Values], kind: str) -> dict[str, Any]:
        a, place = material.assignments, self.shown.place(row)
        second = None
        if kind == "least_certain" and material.confidence is not None:
            second = f"{material.confidence[row]:.2f}"
        sprite = self.shown.sprite
        return {
            "place": place,
            "id": _cut_id(str(a.position[row] if a.ids is None else a.ids[row])),
            "text": None if a.texts is None else _cut(str(a.texts[row])),
            "label": None if a.labels is None else str(a.labels[row]),
            "values": [] if place is None else [column.text(place) for column in columns],
            "confidence": second,
            "style": None if sprite is None or place is None else _tile_position(sprite, place),
        }


def _few(material: Material) -> Iterator[Exemplars]:
    for nearest, least_certain in material.exemplars:
        yield Exemplars(nearest[:_N_EXEMPLARS], least_certain[:_N_UNCERTAIN])


# --- numbers for the script -------------------------------------------------------------------------------------------


def _packed(values: Any, kind: str) -> dict[str, str]:
    """Return an array as the script reads it: its type and its bytes, the lowest first."""
    array = np.ascontiguousarray(values, dtype=f"<{kind}")
    return {"type": kind, "bytes": base64.b64encode(array.tobytes()).decode()}


def _packed_column(column: Values) -> dict[str, Any]:
    packed: dict[str, Any] = {"name": column.name, "kind": column.kind, "levels": list(column.levels)}
    packed["decimals"] = column.n_decimals
    present = column.values[~np.isnan(column.values)]
    if column.kind == "category":
        missing = len(column.levels)
        return packed | {
            "values": _packed(np.nan_to_num(column.values, nan=missing), "u1"),
            "colors": cluster_colors(missing),
            "missing": int(np.isnan(column.values).sum()),
        }
    is_byte = len(present) == len(column.values) and len(present) and (present == np.rint(present)).all()
    is_byte = is_byte and present.min() >= 0 and present.max() <= 255
    # Numbers far from 0 that lie close together lose their differences in 32 bits.
    is_far = not is_byte and column.kind == "number" and len(present) and np.ptp(present) < abs(present).max() / 100
    offset = float(np.floor(present.min())) if is_far else 0.0
    return packed | {"offset": offset, "values": _packed(column.values - offset, "u1" if is_byte else "f4")}


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _cut_id(text: str) -> str:
    """Return an id without its middle if it is long: paths begin alike, and end apart. The script does the same."""
    if len(text) <= _ID_START + 1 + _ID_END:
        return text
    return f"{text[:_ID_START]}…{text[-_ID_END:]}"


def _places(points: Any, labels: IntArray, n_clusters: int) -> list[list[float] | None]:
    """Return for each cluster the place of its number: the point that is nearest to the median of its points."""
    places: list[list[float] | None] = []
    for k in range(n_clusters):
        own = points[labels == k]
        if not len(own):
            places.append(None)
            continue
        middle = np.median(own, axis=0)
        places.append(own[np.square(own - middle).sum(axis=1).argmin()].tolist())
    return places


# --- texts for the template -------------------------------------------------------------------------------------------


def _title(materials: Sequence[Material]) -> str:
    numbers = sorted({material.n_clusters for material in materials})
    clusters = " or ".join(map(str, numbers)) if len(numbers) < 4 else f"{numbers[0]} to {numbers[-1]}"
    noun = "cluster" if numbers == [1] else "clusters"
    of = f"{len(materials)} runs, " if len(materials) > 1 else ""
    return f"{of}{clusters} {noun} in {materials[0].n_samples:,} rows of {materials[0].data_label}"


def _nearest(material: Material, k: int) -> dict[str, Any] | None:
    """Return the cluster whose centroid is nearest to that of cluster k."""
    if material.centroids is None or material.n_clusters < 2:
        return None
    squared = np.square(material.centroids.astype(np.float64) - material.centroids[k]).sum(axis=1)
    squared[k] = np.inf
    squared[material.sizes == 0] = np.inf
    number = int(squared.argmin())
    if not np.isfinite(squared[number]):
        return None
    return {"number": number, "name": material.names[number], "distance": math.sqrt(squared[number])}


def _difference_rows(differences: Differences | None, k: int) -> list[dict[str, Any]]:
    if differences is None:
        return []
    rows: list[dict[str, Any]] = []
    has_means = differences.has_means and not differences.are_terms
    for f in differences.largest(k, _N_DIFFERENCES):
        d = float(differences.difference[k, f])
        values = [float(part[k, f]) for part in (differences.mean, differences.mean_of_others)]
        feature = differences.features[f]
        gap = abs(values[0] - values[1])  # must be seen in the digits
        if feature.kind == "days":
            shown = [format_value("date", value + feature.origin) for value in values]
        elif differences.is_share[f]:
            shown = [f"{abs(value):.{decimals_of(100 * gap, 1)}%}" for value in values]
        else:
            shown = [format_number(value, decimals_of(gap, 2)) for value in values]
        rows.append(
            {
                "name": _name_of(feature),
                "d": d,
                "bar": min(1.0, abs(d) / 3),
                "mean": shown[0] if has_means else None,
                "others": shown[1] if has_means else None,
                "is_term": differences.are_terms,
            }
        )
    if differences.are_terms and rows:
        largest = max(row["d"] for row in rows)
        rows = [row | {"bar": row["d"] / largest} for row in rows]
    return rows


def _name_of(feature: Feature) -> str:
    if feature.kind == "level":
        return f"{feature.column}: {feature.level}"
    return feature.column if feature.kind == "days" else feature.name


def _score_table(materials: Sequence[Material]) -> dict[str, Any]:
    """Return the scores of the runs, and of the baselines of a single one."""
    rows: list[tuple[str, Any]] = []
    if len(materials) == 1:
        result = materials[0].result
        rows = [(title, result[name]) for name, title in _BASELINES.items() if result.get(name)]
        rows.append(("the clusters of this report", result))
    else:
        rows = [(f"{material.title}", material.result) for material in materials]
    used = [s for s in SCORES.values() if s.shown != "file" and any(row.get(s.name) is not None for _, row in rows)]
    cells = [[(format_score(row.get(s.name)), row.get(s.name)) for s in used] for _, row in rows]
    return {"head": [s.label for s in used], "rows": list(zip([title for title, _ in rows], cells, strict=True))}


def _agreement_table(materials: Sequence[Material]) -> list[list[float]] | None:
    ari = agreement_of(materials)
    return None if ari is None else ari.tolist()


_SHOWN_SETTINGS = (
    *("clustering.name", "clustering.init", "model.name", "model.latent_dim", "regularization.name"),
    *("regularization.strength", "clustering.weight", "batch_size", "optimizer.name", "precision"),
)
_SHOWN_RESULTS = {"steps": "steps", "joint_epochs": "joint epochs"}


def _settings(materials: Sequence[Material]) -> list[tuple[str, list[str]]]:
    """Return the names of settings, and their values in each run."""
    rows: dict[str, list[Any]] = {"seed": [material.seed for material in materials]}
    rows |= {key.removesuffix(".name"): [m.settings.get(key) for m in materials] for key in _SHOWN_SETTINGS}
    rows |= {name: [m.result.get(key) for m in materials] for key, name in _SHOWN_RESULTS.items()}
    if len({material.sha256 for material in materials}) > 1:
        rows["features"] = [m.data_report.get("n_features") for m in materials]
    if not _have_one_scaling(materials):
        rows["scaling"] = [m.data_report.get("scaling") for m in materials]
    shown = {name: values for name, values in rows.items() if any(value is not None for value in values)}
    return [(name, ["" if value is None else str(value) for value in values]) for name, values in shown.items()]


def _have_one_scaling(materials: Sequence[Material]) -> bool:
    return len({m.data_report.get("scaling") for m in materials}) == 1


def _data_facts(material: Material, *, with_scaling: bool, is_of_same_data: bool) -> list[tuple[str, str]]:
    data = material.data_report
    facts = [("source", material.data_label), ("rows", f"{data.get('n_rows', material.n_samples):,}")]
    if data.get("n_used", material.n_samples) != data.get("n_rows", material.n_samples):
        facts.append(("rows used", f"{data['n_used']:,}"))
    if data.get("n_features") and is_of_same_data:
        facts.append(("features", f"{data['n_features']:,}"))
    facts += [(what, str(how)) for what, how in data.get("decisions", {}).items() if what != "cache"]
    if data.get("scaling") and with_scaling:
        facts.append(("scaling", str(data["scaling"])))
    if material.sha256 and is_of_same_data:
        facts.append(("SHA-256", f"{material.sha256[:16]}…"))
    return facts


def _tile(sprite: Sprite) -> dict[str, Any]:
    """Return the size at which cards show thumbnails."""
    factor = _TILE / max(sprite.width, sprite.height)
    n_lines = math.ceil(sprite.n_images / sprite.n_columns)
    return {
        "factor": factor,
        "width": sprite.width * factor,
        "height": sprite.height * factor,
        "sheet_width": sprite.n_columns * sprite.step_x * factor,
        "sheet_height": n_lines * sprite.step_y * factor,
        "is_enlarged": factor > 1.5,
    }


def _tile_position(sprite: Sprite, place: int) -> str:
    factor = _tile(sprite)["factor"]
    line, column = divmod(place, sprite.n_columns)
    return f"background-position:{-column * sprite.step_x * factor:g}px {-line * sprite.step_y * factor:g}px"


def titles(materials: Sequence[Material]) -> list[str]:
    """Return short titles for runs side by side: A, B, ... with what sets each apart."""
    keys = dict.fromkeys(key for material in materials for key in material.settings)
    values = [{**material.settings, "seed": material.seed, "clusters": material.n_clusters} for material in materials]
    skipped = {"clustering.n_clusters", "clusters", "seed"}
    compared = (key for key in keys if key not in skipped and role_of(key) is not Role.INPUT)
    differing = [key for key in compared if len({str(v.get(key)) for v in values}) > 1]
    named = ["clusters", *differing[:2], "seed"]
    letters = (chr(ord("A") + n) for n in count())
    result = []
    for letter, settings in zip(letters, values, strict=False):
        noun = "cluster" if settings["clusters"] == 1 else "clusters"
        parts = [f"{settings[key]} {noun}" if key == "clusters" else f"{key}={settings.get(key)}" for key in named]
        result.append(f"{letter} ({', '.join(parts)})")
    return result
