"""The page of a report: one HTML file with its styles, scripts and pictures, which asks no host for anything.

The template escapes every value. What the script of the page reads is JSON in which no tag can end or begin. The
content security policy allows the scripts of the page, by their hashes, and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dkm.errors import UserError
from dkm.reports.content import MAX_POINTS, Content
from dkm.reports.material import Material
from dkm.runtime.atomic import write_atomically

# The name of the report in a run directory.
REPORT = "report.html"
# The largest size of a page, in bytes, and the fewest points of a map that is made smaller for it.
_MAX_BYTES, _FEWEST_POINTS = 5_000_000, 500
# The parts of BokehJS that draw the maps; its other parts (widgets, tables, formulas) are not needed.
_BOKEH = ("bokeh.min.js", "bokeh-api.min.js")
# What JSON within a script element must not have.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_report(materials: Sequence[Material], path: Path) -> None:
    """Write the report of a run, or of several runs of the same rows, as one file."""
    write_atomically(path, render(materials).encode())


def render(materials: Sequence[Material]) -> str:
    """Return the page; equal material gives equal text.

    Raises
    ------
    UserError
        If the runs are not of the same rows.
    """
    _require_same_rows(materials)
    max_points = MAX_POINTS
    page = _render(Content(materials, max_points))
    while len(page.encode()) > _MAX_BYTES and max_points > _FEWEST_POINTS:
        max_points //= 2
        page = _render(Content(materials, max_points))
    return page


def _require_same_rows(materials: Sequence[Material]) -> None:
    first = materials[0]
    for other in materials[1:]:
        has_positions = np.array_equal(first.assignments.position, other.assignments.position)
        digests = first.rows_sha256, other.rows_sha256
        if has_positions and (other.sha256 == first.sha256 or (None not in digests and digests[0] == digests[1])):
            continue
        remedy = "give each its own report: dkm report RUN output=FILE.html"
        if has_positions and None in digests and first.data_label == other.data_label:
            what = f"of other columns, labels or values of {first.data_label}, or of other rows"
            raise UserError(
                f"RUN: the runs are {what}; expected runs that keep which rows they are of, as those of earlier "
                f"versions and of large files do not; {remedy}"
            )
        names = f"{first.data_label} ({first.n_samples:,} rows) and {other.data_label} ({other.n_samples:,} rows)"
        raise UserError(f"RUN: the runs are of different data, {names}; expected runs of the same rows; {remedy}")


def _render(content: Content) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["share"] = lambda value: f"{value:.1%}"
    environment.filters["number"] = lambda value: f"{value:,}"
    payload = content.payload()
    scripts = [*(_bokeh_script(name) for name in _BOKEH if payload is not None), _asset("page.js")]
    return environment.get_template("page.html").render(
        **content.context(),
        style=_asset("page.css"),
        scripts=scripts,
        payload=None if payload is None else _json_text(payload),
        policy=_policy(scripts),
    )


def _policy(scripts: Sequence[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json_text(payload: Any) -> str:
    """Return JSON that may stand in a script element."""
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPES[match.group()], text)


def _asset(name: str) -> str:
    return (resources.files("dkm.reports") / "assets" / name).read_text(encoding="utf-8")


def _bokeh_script(name: str) -> str:
    """Return a script of BokehJS from the installed package, without importing that, which takes half a second."""
    from importlib.util import find_spec

    found = find_spec("bokeh")
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "server" / "static" / "js" / name).read_text(encoding="utf-8")
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError(f"{name} cannot stand in a page")
    return text
