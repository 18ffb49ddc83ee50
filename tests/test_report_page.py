"""``report.html`` of a run and ``dkm.report``: what the page says, that it is whole and safe, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, make_blobs
from words import SMALL_RUN

from dkm import report, train
from dkm.config.clustering import INITS
from dkm.config.compose import compose, parse
from dkm.config.data import ImageFolderData
from dkm.data.datasets import array_dataset
from dkm.data.images.thumbnails import thumbnail_reader
from dkm.data.scaling import Scaling
from dkm.data.tables.columns import Column
from dkm.data.tables.plan import TablePlan
from dkm.errors import UserError
from dkm.evaluation.assignments import Assignments, csv_parts
from dkm.evaluation.exemplars import Exemplars
from dkm.reports import page
from dkm.reports.colors import cluster_colors, matching_colors
from dkm.reports.columns import Values, columns_of, format_number, format_value
from dkm.reports.content import Content, _cut_id, _packed_column, titles
from dkm.reports.features import Feature, features_of, levels_of
from dkm.reports.layout import lay_out, rows_of_map
from dkm.reports.material import Material
from dkm.reports.naming import Differences, name_clusters, top_words
from dkm.reports.page import render
from dkm.reports.pictures import draw_sprite
from dkm.reports.reading import read_material
from dkm.reports.trust import _INITIALIZATIONS, judge

OLD = Path(__file__).parent / "fixtures" / "runs_0.1"
EVIL = "</script><script>alert(1)</script>\u2028<!--"
QUICK = [*SMALL_RUN, "log.report=true"]

Call = Callable[..., tuple[int, str, str]]


def people(folder: Path) -> Path:
    """A table with an id, numbers, a category, a date, a gap, and a name that is a tag."""
    X, label = make_blobs(120, 3, centers=4, cluster_std=0.3, random_state=0)
    frame = pd.DataFrame(
        {
            "who": [f"p{i:03d} {EVIL}" for i in range(120)],
            "income": (X[:, 0] * 100).round(1),
            "<script>alert(2)</script>": X[:, 1].round(3),
            "age": (X[:, 2] * 10).round(),
            "pet": np.array(["cat & dog", "fish", "none", "bird"])[label],
            "joined": pd.date_range("2020-01-01", periods=120).astype(str),
        }
    )
    frame.loc[5, "income"] = np.nan
    frame.to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    words = ["data=csv", f"data.path={people(folder)}", "data.id=who", *QUICK, f"hydra.run.dir={folder / 'run'}"]
    assert train._main(words) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same images, with other seeds."""
    folder = tmp_path_factory.mktemp("images")
    digits = load_digits()
    np.savez(folder / "x.npz", x=digits.images[:200], y=digits.target[:200])
    words = ["data=npz", f"data.path={folder / 'x.npz'}", "data.labels=y", *QUICK]
    for seed in (0, 1):
        assert train._main([*words, f"seed={seed}", f"hydra.run.dir={folder / f'seed{seed}'}"]) == 0
    return [folder / "seed0", folder / "seed1"]


@pytest.fixture(scope="module")
def other_columns(table: Path) -> list[Path]:
    """Runs on the rows of ``table``: one without two of its columns, one with labels and another seed."""
    runs = {"fewer": ["data.exclude=[pet,joined]"], "labeled": ["data.labels=pet", "seed=1"]}
    words = ["data=csv", f"data.path={table.parent / 'people.csv'}", "data.id=who", *QUICK]
    for name, own in runs.items():
        assert train._main([*words, *own, f"hydra.run.dir={table.parent / name}"]) == 0
    return [table.parent / name for name in runs]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs ``dkm.report`` and returns its exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dkm-report", *map(str, words)])
        code = 0
        try:
            report.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return (code, *capsys.readouterr())

    return run


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def payload_of(text: str) -> dict[str, Any]:
    [found] = re.findall(r'<script type="application/json" id="payload">(.*?)</script>', text, re.S)
    payload: dict[str, Any] = json.loads(found)
    return payload


def unpacked(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bytes"]), "<" + packed["type"])


def visible(text: str) -> str:
    """The page without its scripts, styles and tags."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    return html.unescape(re.sub(r"<[^>]*>", " ", text))


# --- the page of a run ------------------------------------------------------------------------------------------------


def test_a_finished_run_has_its_report_and_the_command_writes_the_same_bytes(table: Path, call: Call) -> None:
    before = (table / "report.html").read_bytes()
    (table / "report.html").unlink()
    code, out, err = call(table)
    assert (code, err) == (0, "")
    assert out == f"written: {table / 'report.html'}\n"
    assert (table / "report.html").read_bytes() == before


def test_the_page_says_what_the_run_has_found(table: Path) -> None:
    text = visible(text_of(table / "report.html"))
    assert "4 clusters in 120 rows of people.csv" in text
    assert "How far to trust these clusters" in text
    assert "1 missing value was filled, in income." in text
    result = json.loads(text_of(table / "result.json"))
    assert f"{result['modularity_data']:.3f}" in text
    assert f"{result['kmeans_raw']['modularity_data']:.3f}" in text
    sizes = pd.read_csv(table / "assignments.csv")["cluster"].value_counts()
    for size in sizes:
        assert re.search(rf"\b{size}\s+rows \({size / 120:.1%}\)", text)
    assert text.count("What differs from the rest") == text.count("Nearest cluster:") == 4


def test_sentences_are_apart(table: Path, images: list[Path]) -> None:
    assert "All 120 rows. Position:" in " ".join(visible(text_of(table / "report.html")).split())
    several = [replace(read_material(run), title=f"A{number}") for number, run in enumerate(images)]
    gone = [replace(m, rows=None) if number else m for number, m in enumerate(several)]
    pages = [text_of(table / "report.html"), text_of(images[0] / "report.html"), render(several), render(gone)]
    for text in pages:
        assert not re.findall(r"\w+[.;:!?][A-Z]\w*", visible(text))


def test_no_time_and_no_path_is_in_the_page(table: Path) -> None:
    text = text_of(table / "report.html")
    assert str(table.parent) not in text
    manifest = json.loads(text_of(table / "manifest.json"))
    assert manifest["started"][:10] not in text


def test_values_from_files_are_text(table: Path) -> None:
    text = text_of(table / "report.html")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in text
    payload = payload_of(text)
    assert payload["ids"][3] == f"p003 {EVIL}"
    assert "\u2028" not in re.findall(r'id="payload">(.*?)</script>', text, re.S)[0]


def test_the_policy_allows_the_scripts_of_the_page_and_no_others(table: Path) -> None:
    text = text_of(table / "report.html")
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts}
    assert set(rules["script-src"].split()) == hashes
    assert len(hashes) == 3


def test_the_page_refers_to_no_other_file(table: Path) -> None:
    body = re.sub(r"<script>.*?</script>", "", text_of(table / "report.html"), flags=re.S)
    assert not re.findall(r"https?://", body)
    assert {link[:1] for link in re.findall(r'href="([^"]*)"', body)} == {"#"}
    assert {source[:5] for source in re.findall(r'src="([^"]*)"', body)} == {"data:"}


def test_the_values_of_rows_are_those_of_the_file(table: Path) -> None:
    payload = payload_of(text_of(table / "report.html"))
    frame = pd.read_csv(table.parent / "people.csv")
    columns = {column["name"]: column for column in payload["columns"]}
    assert set(columns) == set(frame.columns) - {"who"}
    income = unpacked(columns["income"]["values"])
    assert np.isnan(income[5])
    np.testing.assert_allclose(income, frame["income"].to_numpy(), rtol=1e-5)
    pets = np.array(columns["pet"]["levels"])[unpacked(columns["pet"]["values"])]
    assert pets.tolist() == frame["pet"].tolist()
    days = unpacked(columns["joined"]["values"])
    assert columns["joined"]["kind"] == "date"
    assert (np.datetime64("1970-01-01") + days.astype("timedelta64[D]")).astype(str).tolist() == frame[
        "joined"
    ].tolist()
    assignments = pd.read_csv(table / "assignments.csv")
    assert unpacked(payload["runs"][0]["cluster"]).tolist() == assignments["cluster"].tolist()
    second = assignments["distance"] + assignments["margin"]
    expected = assignments["margin"] / second
    np.testing.assert_allclose(unpacked(payload["runs"][0]["confidence"]) / 255, expected, atol=0.003)


def test_without_the_data_the_clusters_have_the_same_names(table: Path) -> None:
    found = read_material(table)
    without = replace(found, rows=None)
    assert without.names == found.names
    assert any(name.startswith("pet: ") for name in found.names)
    cards = [Content([one]).context()["runs"][0]["cards"] for one in (found, without)]
    for one, other in zip(*cards, strict=True):
        means, kept = ({row["name"]: row["mean"] for row in card["differences"]} for card in (one, other))
        both = means.keys() & kept.keys()
        assert len(both) >= 4  # of five; equal differences are in either order
        assert {name: means[name] for name in both} == {name: kept[name] for name in both}


def test_rows_of_equal_length_have_no_values_in_wrong_units(tmp_path: Path) -> None:
    words = ["data=csv", f"data.path={people(tmp_path)}", "data.id=who", "data.exclude=[joined]", "data.scaling=l2"]
    assert train._main([*words, *SMALL_RUN, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    found = read_material(tmp_path / "run")
    content = Content([found])
    frame = pd.read_csv(tmp_path / "people.csv")
    columns = {column.name: column for column in content.shown.columns}
    assert list(columns) == ["income (scaled)", "<script>alert(2)</script> (scaled)", "age (scaled)", "pet"]
    assert [columns["pet"].text(row) for row in range(120)] == frame["pet"].tolist()
    for one in (found, replace(found, rows=None)):
        assert not any(word in name for name in one.names for word in ("=", ":"))  # how many, is not known
        cards = Content([one]).context()["runs"][0]["cards"]
        assert {(row["mean"], row["others"]) for card in cards for row in card["differences"]} == {(None, None)}
    assert "What differs from the rest" in render([found])


def test_values_come_from_the_run_that_has_their_units(table: Path) -> None:
    found = read_material(table)
    assert found.rows is not None
    scaling = Scaling("l2", found.rows.data.n_features)
    scaled = replace(found, rows=replace(found.rows, data=replace(found.rows.data, scaling=scaling)))
    names = {column.name for column in Content([scaled, found]).shown.columns}
    assert "income" in names
    assert "income (scaled)" in {column.name for column in Content([scaled]).shown.columns}


def test_a_date_that_no_calendar_has_is_a_number() -> None:
    assert format_value("date", 1e9) == "1,000,000,000 days"


def test_every_level_has_a_color_and_the_missing_ones_are_counted() -> None:
    levels = [f"level {n}" for n in range(20)]
    packed = _packed_column(Values("code", "category", np.array([0.0, 19.0, np.nan, 13.0]), levels))
    assert len(set(packed["colors"])) == 20
    assert unpacked(packed["values"]).tolist() == [0, 19, 20, 13]
    assert packed["missing"] == 1


def test_the_legend_counts_the_labels_of_all_rows(images: list[Path]) -> None:
    payload = Content([read_material(images[0])], max_points=50).payload()
    assert payload is not None
    assert payload["n"] < payload["n_rows"] == 200
    assert payload["labels"]["counts"] == np.bincount(load_digits().target[:200]).tolist()


def test_a_feature_with_one_value_has_that_value() -> None:
    X = np.array([[1.0, 7.0], [2.0, 7.0], [4.0, 7.0]])
    data = array_dataset(X, compose(parse(["data=npy", "data.path=X"])).config.data, "X")
    columns = columns_of(data, data.X.numpy(), np.arange(3))
    np.testing.assert_allclose([column.values for column in columns], X.T, rtol=1e-6)


def test_without_scripts_the_map_is_a_picture(table: Path) -> None:
    [picture] = re.findall(r'<noscript><img src="data:image/png;base64,([^"]*)"', text_of(table / "report.html"))
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_images_have_thumbnails_and_the_names_of_their_labels(images: list[Path]) -> None:
    text = text_of(images[0] / "report.html")
    payload = payload_of(text)
    assert payload["sprite"]["n_images"] == payload["n"] == 200
    assert payload["labels"]["names"] == [str(n) for n in range(10)]
    body = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert body.count("data:image/png") == 2  # the thumbnails and the map without scripts
    assert len(re.findall(r'class="thumb"', text)) > 4 * 8
    assert "Compared with the labels" in text


def test_log_report_switches_it_off(tmp_path: Path) -> None:
    words = ["data=blobs", "data.n_samples=60", *SMALL_RUN, f"hydra.run.dir={tmp_path / 'run'}"]
    assert "log.report=false" in words
    assert train._main(words) == 0
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_fails_is_a_warning_and_the_run_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left\non device")

    monkeypatch.setattr(page, "write_report", fail)
    words = ["data=blobs", "data.n_samples=60", *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]
    assert train._main(words) == 0
    lines = capsys.readouterr().err.splitlines()
    remedy = f"the run is complete; write it with: dkm report {tmp_path / 'run'}"
    assert lines == [f"warning: report.html was not written (OSError: No space left on device); {remedy}"]
    manifest = json.loads(text_of(tmp_path / "run" / "manifest.json"))
    assert manifest["status"] == "completed"
    assert manifest["warnings"] == [lines[0].removeprefix("warning: ")]
    assert not (tmp_path / "run" / "report.html").exists()


# --- several runs -----------------------------------------------------------------------------------------------------


def test_runs_side_by_side_have_their_agreement_and_share_the_rows(images: list[Path], call: Call) -> None:
    output = images[0].parent / "both.html"
    code, _, err = call(*images, f"output={output}")
    assert (code, err) == (0, "")
    text, payload = visible(text_of(output)), payload_of(text_of(output))
    assert "2 runs, 4 clusters in 200 rows of x.npz" in text
    assert "A (4 clusters, seed=0)" in text
    assert "B (4 clusters, seed=1)" in text
    from sklearn.metrics import adjusted_rand_score

    clusters = [pd.read_csv(run / "assignments.csv")["cluster"].to_numpy() for run in images]
    assert f"{adjusted_rand_score(*clusters):.3f}" in text
    assert [run["cluster"]["bytes"] for run in payload["runs"]] != [payload["runs"][0]["cluster"]["bytes"]] * 2
    assert sorted(payload["runs"][0]["colors"]) == sorted(payload["runs"][1]["colors"])


@pytest.mark.parametrize("gone", [0, 1])
def test_a_run_without_its_data_has_no_map_beside_one_that_has_them(images: list[Path], gone: int) -> None:
    found = [replace(read_material(run), title=f"{name} (a run)") for run, name in zip(images, "AB", strict=True)]
    found[gone] = replace(found[gone], rows=None)
    text = render(found)
    payload = payload_of(text)
    assert [run["number"] for run in payload["runs"]] == [1 - gone]
    assert payload["n"] == 200
    assert re.findall(r'class="canvas" data-run="(\d)"', text) == [str(1 - gone)]
    assert set(re.findall(r'class="show" data-run="(\d)"', text)) == {str(1 - gone)}
    assert "None" not in re.findall(r'src="([^"]*)"', text)
    assert f"The data of run {'AB'[gone]} were not at hand" in visible(text)
    assert text.count('<article class="card"') == 8
    assert text.count('class="thumb"') > 8 * 8  # the rows are the same, so the run without data shows them too


def test_runs_of_the_same_rows_stand_side_by_side_whatever_they_read(
    table: Path, other_columns: list[Path], call: Call, tmp_path: Path
) -> None:
    code, _, err = call(table, *other_columns, f"output={tmp_path / 'x.html'}")
    assert (code, err) == (0, "")
    text = text_of(tmp_path / "x.html")
    assert "The runs have the same rows, but read other columns, labels or values of them" in visible(text)
    assert "Agreement of the runs: adjusted Rand index" in text
    payload = payload_of(text)
    assert [run["number"] for run in payload["runs"]] == [0, 1, 2]
    assert payload["labels"]["names"] == ["bird", "cat & dog", "fish", "none"]
    assert re.search(r'<th scope="row">features</th>(<td class="n">\d+</td>){3}', text)
    assert "SHA-256" not in text
    # The cards of each run have its own columns.
    materials = [replace(read_material(run), title=f"{n}") for n, run in enumerate([table, *other_columns])]
    content = Content(materials)
    for number, material_ in enumerate(materials):
        shown = {c for card in content._run(number, material_)["cards"] for c in card["exemplars"]["columns"]}
        assert shown
        if number == 1:
            assert shown <= {"income", "<script>alert(2)</script>", "age"}


def test_runs_whose_rows_are_not_known_are_refused(
    table: Path, other_columns: list[Path], call: Call, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(other_columns[0], tmp_path / "run"))
    manifest = json.loads(text_of(run / "manifest.json"))
    del manifest["data"]["rows_sha256"]  # as of an earlier version
    (run / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = call(table, run, f"output={tmp_path / 'x.html'}")
    assert code == 2
    assert err == (
        "error: RUN: the runs are of other columns, labels or values of people.csv, or of other rows; expected runs "
        "that keep which rows they are of, as those of earlier versions and of large files do not; give each its own "
        "report: dkm report RUN output=FILE.html\n"
    )
    manifest["data"]["rows_sha256"] = "0" * 64  # the file has changed
    (run / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = call(table, run, f"output={tmp_path / 'x.html'}")
    assert code == 2
    assert err.startswith("error: RUN: the runs are of different data, people.csv (120 rows) and people.csv (120 rows)")


def test_runs_of_different_data_are_refused(images: list[Path], table: Path, call: Call, tmp_path: Path) -> None:
    code, _, err = call(images[0], table, f"output={tmp_path / 'x.html'}")
    assert code == 2
    assert err.startswith("error: RUN: the runs are of different data, x.npz (200 rows) and people.csv (120 rows); ")
    assert err.count("\n") == 1
    assert not (tmp_path / "x.html").exists()


def test_the_same_clusters_have_the_same_color() -> None:
    first = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    colors = cluster_colors(3)
    matched = matching_colors(np.array([2, 2, 2, 0, 0, 1, 1, 3]), 4, first, colors)
    assert [matched[2], matched[0], matched[1]] == colors
    assert matched[3] not in colors
    assert len(set(cluster_colors(100))) == 100


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("killed", "the run is running"), ("interrupted", "the run is interrupted")],
)
def test_a_report_of_an_unfinished_run_is_refused(name: str, expected: str, call: Call, tmp_path: Path) -> None:
    code, _, err = call(OLD / name, f"output={tmp_path / 'x.html'}")
    assert code == 2
    assert f"{expected}; expected a finished run; finish it: python -m dkm.train resume=" in err
    assert err.count("\n") == 1


def damage_assignments(run: Path) -> None:
    (run / "assignments.csv").write_text("a,b\n1,2\n")


def write_a_huge_index(run: Path) -> None:
    header, line, *lines = (run / "assignments.csv").read_text().splitlines()
    (run / "assignments.csv").write_text("\n".join([header, "9" * 30 + line[1:], *lines]) + "\n")


def lose_rows(run: Path) -> None:
    lines = (run / "assignments.csv").read_text().splitlines()
    (run / "assignments.csv").write_text("\n".join(lines[:-3]) + "\n")


def cut_weights(run: Path) -> None:
    (run / "model" / "weights.safetensors").write_bytes(b"123")


def lose_margin(run: Path) -> None:
    cut_assignments(run, "margin")


def lose_distance(run: Path) -> None:
    cut_assignments(run, "distance")


def cut_assignments(run: Path, column: str) -> None:
    """End the file before a number of the last row."""
    path = run / "assignments.csv"
    lines = path.read_text().splitlines()
    kept = lines[0].split(",").index(column)
    path.write_text("\n".join([*lines[:-1], ",".join(lines[-1].split(",")[:kept])]))


def cut_data_report(run: Path) -> None:
    (run / "data.json").write_text('{"source": "data.path=peo')


def damage_features(run: Path) -> None:
    (run / "features.csv").write_text("cluster,feature,difference,mean,mean_of_others\n99,x,1,1,1\n")


def open_a_quote(run: Path) -> None:
    """As one flipped bit before a feature's name does in a large file: a cell of more characters than csv reads."""
    lines = (run / "features.csv").read_text().splitlines()
    (run / "features.csv").write_text("\n".join([lines[0], '0,1,"' + "x" * 140_000, *lines[1:]]))


def write_no_text(run: Path) -> None:
    (run / "features.csv").write_bytes(b"\xff\n")


def write_infinity(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"n_samples": float("inf")}))


def lose_result(run: Path) -> None:
    (run / "result.json").unlink()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_assignments, "assignments.csv has no column cluster"),
        (write_a_huge_index, "assignments.csv cannot be read: Overflow"),
        (lose_rows, "assignments.csv does not have the 48 rows and 3 clusters of result.json"),
        (cut_weights, "model/weights.safetensors cannot be read"),
        (damage_features, "features.csv: not what a run writes"),
        (open_a_quote, "features.csv: not what a run writes (field larger than field limit (131072))"),
        (write_no_text, "features.csv: not what a run writes ('utf-8' codec can't decode byte 0xff"),
        (write_infinity, "the run is damaged (cannot convert float infinity to integer)"),
        (lose_result, "there is no result.json"),
        (lose_margin, "assignments.csv has no margin for row 47"),
        (lose_distance, "assignments.csv has no distance for row 47"),
        (
            cut_data_report,
            "data.json cannot be read: expected a JSON object); expected the files of a finished run; copy",
        ),
    ],
)
def test_a_damaged_run_is_one_line(damage: Callable[[Path], None], expected: str, call: Call, tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD / "table", tmp_path / "run"))
    damage(run)
    code, _, err = call(run)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not (run / "report.html").exists()


def test_a_cut_description_of_the_model_is_named_with_its_remedy(table: Path, call: Call, tmp_path: Path) -> None:
    run = Path(shutil.copytree(table, tmp_path / "run"))
    path = run / "model" / "model.json"
    path.write_bytes(path.read_bytes()[:-20])
    code, _, err = call(run)
    assert code == 0
    assert re.fullmatch(
        rf"warning: {run}: the report has no map and no values, as its model cannot be read again: run={run}: "
        r".*model\.json: .*; expected what a run writes; copy the folder again\n",
        err,
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["output=x.pdf"], "expected a name ending in .html"),
        (["output=no/such/x.html"], "expected a file in an existing folder"),
        (["output=taken.html"], "the file exists"),
        (["data.pth=x", "output=x.html"], "did you mean data.path?"),
        ([str(OLD), "output=x.html"], "the run is interrupted"),
    ],
)
def test_other_wrong_words_are_one_line(
    words: list[str], expected: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.html").write_text("mine")
    code, _, err = call(OLD / "table", *words)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert Path("taken.html").read_text() == "mine"


def test_several_runs_need_an_output(images: list[Path], call: Call) -> None:
    assert "output: missing" in call(*images)[2]


# --- runs without their data, and old ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["table", "conv", "kmeans", "none"])
def test_an_old_run_has_a_report_without_a_map_if_its_data_are_gone(name: str, call: Call, tmp_path: Path) -> None:
    code, _, err = call(OLD / name, f"output={tmp_path / 'x.html'}")
    assert code == 0
    assert err.count("\n") == 1
    assert "the report has no map and no values; set data.path=FILE if they moved" in err
    text = text_of(tmp_path / "x.html")
    assert "payload" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert f"clusters in {48 if name in ('table', 'conv') else 64} rows" in text
    assert "Nearest cluster:" in text


def test_an_old_run_has_its_map_if_the_data_are_named(call: Call, tmp_path: Path) -> None:
    code, _, err = call(OLD / "table", f"data.path={OLD / 'people.csv'}", f"output={tmp_path / 'x.html'}")
    assert (code, err) == (0, "")
    payload = payload_of(text_of(tmp_path / "x.html"))
    assert payload["n"] == 48
    assert {column["name"] for column in payload["columns"]} == {"age", "income", "visits"}


# --- the parts --------------------------------------------------------------------------------------------------------


def differences(**rows: list[float]) -> Differences:
    """Features with their differences in each cluster."""
    d = np.array(list(rows.values())).T
    return Differences([Feature(name) for name in rows], d, d, -d, np.zeros(len(rows), bool))


def test_names_are_what_sets_a_cluster_apart() -> None:
    found = differences(income=[2.0, -0.1, -1.9, 0.0], wealth=[1.9, -0.1, -1.8, 0.0], age=[-1.0, 1.5, 0.2, 0.1])
    # Wealth says the same as income; nothing sets the last cluster apart.
    assert name_clusters(found) == ["income high, age low", "age high", "income low", ""]


def test_shares_are_named_by_how_many_have_them() -> None:
    features = [Feature("pet=a=b", "level", "pet=a", "b"), Feature("pet=a=c", "level", "pet=a", "c"), Feature("member")]
    difference = np.array([[3.0, -1.0, 0.0], [-1.0, 0.1, 1.5], [0.1, 0.1, -1.0]])
    mean = np.array([[0.9, 0.0, 0.5], [0.02, 0.3, 0.6], [0.3, 0.3, 0.2]])
    found = Differences(features, difference, mean, mean, np.ones(3, bool))
    assert name_clusters(found) == ["pet=a: b", "member often, pet=a not b", "member seldom"]


def test_dates_are_dates_and_their_sines_are_left_out() -> None:
    origin = 18_262 * 86_400  # 2020-01-01
    plan = TablePlan([Column("joined", kind="date", cycles=["days", "year"], origin=origin)]).to_dict()
    features = features_of(["joined (days)", "joined (year sin)", "joined (year cos)"], plan)
    difference, mean = np.array([[1.5, 2.0, 3.0], [-1.5, -2.0, -3.0]]), np.array([[366.0, 0.5, 0.5], [31.0, 0.0, 0.0]])
    found = Differences(features, difference, mean, mean[::-1], np.zeros(3, bool))
    assert name_clusters(found) == ["joined late", "joined early"]
    [card, _] = Content([replace(material(), kept_differences=found)]).context()["runs"][0]["cards"]
    [row] = card["differences"]
    assert (row["name"], row["mean"], row["others"]) == ("joined", "2021-01-01", "2020-02-01")


def test_a_long_id_keeps_its_start_and_its_end() -> None:
    path = f"photos/{'x' * 60}/IMG_0001.jpg"
    assert _cut_id(path) == f"photos/{'x' * 13}…{'x' * 26}/IMG_0001.jpg"
    assert len(_cut_id(path)) == 60
    assert _cut_id(path[-60:]) == path[-60:]


@pytest.mark.parametrize(
    "part", [{"kind": "list", "length": 10**12}, {"cycles": ["x"]}, {"origin": "x"}, {"levels": 5}]
)
def test_a_plan_that_no_run_writes_is_not_used(part: dict[str, Any], table: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(table, tmp_path / "run"))
    description = json.loads(text_of(run / "model" / "model.json"))
    del description["sha256"]
    description["plan"]["columns"] = [{**column, **part} for column in description["plan"]["columns"]]
    (run / "model" / "model.json").write_text(json.dumps(description), encoding="utf-8")
    found = read_material(run)
    assert found.rows is None
    assert found.kept_differences is not None
    assert {feature.kind for feature in found.kept_differences.features} == {"number"}


def test_an_equals_sign_in_a_name_is_no_end_of_it() -> None:
    category = Column("a=b", kind="category", levels=["c", "d=e"])
    plan = TablePlan([category, Column("x=y", kind="number")]).to_dict()
    found = features_of(["a=b=c", "a=b=d=e", "x=y"], plan)
    assert [(feature.column, feature.level) for feature in found] == [("a=b", "c"), ("a=b", "d=e"), ("x=y", "")]
    assert levels_of(category) == ["c", "d=e"]


def test_the_words_of_texts_are_those_that_others_lack() -> None:
    texts = ["the cat sat", "a cat ran", "the stock fell", "stock prices"] * 3
    found = top_words(texts, np.array([0, 0, 1, 1] * 3), 2)
    assert found is not None
    assert [name.split(", ")[0] for name in name_clusters(found)] == ["cat", "stock"]
    assert top_words(["1", "2"], np.array([0, 1]), 2) is None


def test_stop_words_of_any_language_are_no_names() -> None:
    rng = np.random.default_rng(0)
    nouns = [["katze", "pfote", "fell"], ["aktie", "börse", "kurs"], ["regen", "sonne", "wolke"]]
    labels = np.arange(300) % 3
    texts = [" ".join([*rng.choice(["und", "der", "die", "nicht"], 6), *rng.choice(nouns[k], 2)]) for k in labels]
    found = top_words(texts, labels, 3)
    assert found is not None
    assert [set(name.split(", ")) for name in name_clusters(found)] == [set(words) for words in nouns]
    # A word of nearly all rows of a large cluster is its name all the same.
    large = top_words(["katze und"] * 90 + ["regen und"] * 10, np.repeat([0, 1], [90, 10]), 2)
    assert large is not None
    assert name_clusters(large) == ["katze", "regen"]


def test_the_map_has_a_sample_with_all_exemplars_and_some_of_each_cluster() -> None:
    labels = np.zeros(5000, np.int64)
    labels[[7, 17, 27]] = 1
    exemplars = [Exemplars(np.array([4999]), np.array([1234])), Exemplars(np.array([7]), np.array([7]))]
    rows = rows_of_map(labels, exemplars, 300)
    assert len(rows) == 300
    assert {7, 17, 27, 1234, 4999} <= set(rows.tolist())
    assert (np.diff(rows) > 0).all()
    assert rows_of_map(labels, exemplars, 5000).tolist() == list(range(5000))


def test_the_layout_keeps_neighbors_together_and_repeats() -> None:
    Z, labels = make_blobs(2600, 5, centers=3, cluster_std=0.4, random_state=0)
    Z = Z.astype(np.float32)
    found = lay_out(Z)
    from sklearn.neighbors import KNeighborsClassifier

    assert KNeighborsClassifier(5).fit(found.points, labels).score(found.points, labels) > 0.99
    np.testing.assert_array_equal(lay_out(Z).points, found.points)
    np.testing.assert_array_equal(lay_out(Z[:, :2]).points, Z[:, :2])
    for few in (Z[:1], Z[:5], np.zeros((100, 4), np.float32), Z[:50, :1]):
        assert lay_out(few).points.shape == (len(few), 2)


def test_thumbnails_stand_where_the_sprite_says() -> None:
    import io

    from PIL import Image

    images = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1) / 7 * np.ones((1, 1, 6, 4), np.float32)
    sprite = draw_sprite(images)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite.uri.partition(",")[2]))))
    for n in range(7):
        line, column = divmod(n, sprite.n_columns)
        x, y = column * sprite.step_x, line * sprite.step_y
        assert (pixels[y : y + sprite.height, x : x + sprite.width] == round(n / 7 * 255)).all()
    large = draw_sprite(np.random.default_rng(0).random((3, 3, 100, 50)).astype(np.float32))
    assert (large.height, large.width) == (25, 12)


def test_images_behind_an_encoder_are_shown_small(tmp_path: Path) -> None:
    from PIL import Image

    for number, color in enumerate(["#ff0000", "#00ff00", "#0000ff"]):
        Image.new("RGB", (200, 90), color).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    config = ImageFolderData(path=str(tmp_path), encoder="net.onnx")
    read = thumbnail_reader(config, np.array([0, 1, 2]))
    assert read is not None
    pictures = read(np.array([2, 0, 1]))
    assert pictures is not None
    assert pictures.shape == (3, 3, 48, 48)
    assert pictures[:, :, 20, 20].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert thumbnail_reader(ImageFolderData(path=str(tmp_path)), None) is None
    shutil.rmtree(tmp_path)
    assert read(np.array([0])) is None


def test_numbers_are_short() -> None:
    assert [format_number(value) for value in (0.0, -0.0, 3.0, 0.12345, 1234.5, 66666.6, np.nan)] == [
        *("0", "0", "3", "0.123", "1234", "66,667", "-")
    ]
    assert [format_value("number", value) for value in (9999.7, 1e300, 1.5e-7, 0.5)] == [
        "10,000",
        "1e+300",
        "1.5e-07",
        "0.5",
    ]


def test_digits_that_tell_values_apart_are_shown() -> None:
    lon = Values("lon", "number", np.array([-122.4194, -122.4231, -122.4302, np.nan]))
    assert [lon.text(row) for row in range(4)] == ["-122.4194", "-122.4231", "-122.4302", "missing"]
    packed = _packed_column(lon)
    np.testing.assert_allclose(unpacked(packed["values"]) + packed["offset"], lon.values, atol=1e-7)
    assert packed["decimals"] == 5  # 0.0108 / 1000 and less
    assert Values("year", "number", np.array([2014.0, 2015.0])).text(0) == "2014"
    mean = np.array([[2015.31, 0.9961, -122.4194], [2014.8, 0.9993, -122.4231]])
    features = [Feature("year"), Feature("member"), Feature("lon")]
    is_share = np.array([False, True, False])
    found = Differences(features, np.array([[3.0, 2.0, 1.0]] * 2), mean, mean[::-1], is_share)
    [card, _] = Content([replace(material(), kept_differences=found)]).context()["runs"][0]["cards"]
    shown = [(row["mean"], row["others"]) for row in card["differences"]]
    assert shown == [("2015.31", "2014.8"), ("99.6%", "99.9%"), ("-122.4194", "-122.4231")]


def material(n_clusters: int = 2, n_rows: int = 100, **result: Any) -> Material:
    """Material of a run without data, with even clusters."""
    cluster = np.arange(n_rows) % n_clusters
    ones = np.ones(n_rows, np.float32)
    scores = {"n_clusters": n_clusters, "n_effective_clusters": float(n_clusters), "stage": "joint"}
    assignments = Assignments(np.arange(n_rows), None, cluster, ones, 3 * ones)
    centroids = np.arange(n_clusters, dtype=np.float32)[:, np.newaxis]
    return Material({}, 0, "test", "abc", scores | result, {}, assignments, centroids, None)


GOOD = {"modularity_data": 0.8, "kmeans_raw": {"modularity_data": 0.7}}
EVEN = {"modularity_data": 0.8, "assortativity_data": 0.88}


def test_trust_follows_the_evidence() -> None:
    assert judge([material(**GOOD)]).level == "open"
    low = judge([material(modularity_data=0.6, kmeans_raw={"modularity_data": 0.7})])
    assert low.level == "bad"
    assert "lower than that of k-means on the raw data" in low.statements[1].text
    below = judge([material(modularity_data=0.78, kmeans_pretrained={"modularity_data": 0.8})])
    assert below.level == "doubt"
    assert below.statements[1].text.endswith("A baseline is better.")
    even = judge([material(modularity_data=0.78, assortativity_data=0.95, kmeans_raw=EVEN)])
    assert even.level == "open"
    assert "That of k-means on the rows is higher, but its assortativity is lower (0.880 for" in even.statements[1].text
    better = judge([material(modularity_data=0.78, assortativity_data=0.87, kmeans_raw=EVEN)])
    assert better.level == "doubt"
    same, other = material(**GOOD), replace(material(**GOOD), seed=1)
    assert judge([same, other]).level == "good"
    shuffled = same.assignments._replace(cluster=np.random.default_rng(0).integers(2, size=100))
    assert judge([same, replace(other, assignments=shuffled)]).level == "bad"
    odd = judge([replace(same, data_report={"odd": ["an income of 666,666"]})])
    assert (odd.level, odd.headline) == ("doubt", "With care: one finding needs a look.")


def test_only_runs_with_other_seeds_are_evidence_of_stability() -> None:
    first, second = material(**GOOD), replace(material(**GOOD), seed=1)
    alike = judge([first, replace(first, settings={"batch_size": 64})])
    assert (alike.level, alike.statements[0].verdict) == ("open", "note")
    assert "adjusted Rand index of 1.00" in alike.statements[0].text
    assert "They have the same seed, so this says nothing about other seeds: compare with a run with seed=1" in (
        alike.statements[0].text
    )
    differing = judge([first, replace(first, assignments=first.assignments._replace(cluster=np.arange(100) // 50))])
    assert (differing.level, differing.statements[0].verdict) == ("bad", "against")
    shuffled = second.assignments._replace(cluster=np.random.default_rng(0).integers(2, size=100))
    # Of three runs only the two pairs with other seeds count, which disagree.
    three = judge([first, first, replace(second, assignments=shuffled)])
    assert three.level == "bad"
    assert three.statements[0].text.startswith("Runs with different seeds agree at an adjusted Rand index of -0.0")
    one = judge([material(1, **GOOD), replace(material(1, **GOOD), seed=1)])
    assert (one.level, one.statements[0].verdict) == ("open", "note")
    assert "With a single cluster they cannot but agree" in one.statements[0].text


def test_the_evidence_of_a_number_that_was_found_counts() -> None:
    choice = {"n_clusters": 2, "range": [2, 30], "plausible": [2, 3], "reason": "it agrees", "warnings": []}
    found = judge([material(**GOOD, n_clusters_choice=choice)])
    assert found.level == "good"
    assert any("found: 2 of 2 to 30; it agrees. As plausible: 3." in statement.text for statement in found.statements)
    doubtful = judge([material(**GOOD, n_clusters_choice=choice | {"warnings": ["seeds disagree"]})])
    assert doubtful.level == "doubt"


def test_clusters_of_tiny_data_are_small_only_beside_others() -> None:
    def told(cluster: np.ndarray) -> bool:
        found = material(4, len(cluster))
        found = replace(found, assignments=found.assignments._replace(cluster=cluster))
        return any("They may be outliers" in statement.text for statement in judge([found]).statements)

    assert not told(np.arange(24) % 4)
    assert told(np.repeat(np.arange(4), [2, 7, 7, 8]))
    assert told(np.repeat(np.arange(4), [9, 30, 30, 31]))
    assert told(np.repeat(np.arange(4), [20, 1000, 1000, 1000]))


def test_labels_are_in_natural_order_whatever_their_type() -> None:
    labels = np.array([10, 9, 1] * 33 + [9])
    for values in (labels, labels.astype(str), labels.astype(str).astype(object)):
        found = material(2, 100)
        found = replace(found, assignments=found.assignments._replace(labels=values))
        assert found.label_codes is not None
        names, codes = found.label_codes
        assert names == ["1", "9", "10"]
        assert [names[code] for code in codes] == labels.astype(str).tolist()
        majority = found.majorities[0]
        assert majority is not None
        assert majority.share == np.bincount(codes[::2]).max() / 50


def test_a_hundred_clusters_and_a_single_one() -> None:
    text = render([material(100, 1000, **GOOD)])
    assert text.count('<article class="card"') == 100
    assert "100 clusters in 1,000 rows of test" in text
    one = render([material(1, **GOOD)])
    assert "1 cluster in 100 rows" in one
    assert "Nearest cluster:" not in one
    assert not any("odularity" in statement.text for statement in judge([material(1, modularity_data=0.0)]).statements)
    assert titles([material(1), material(2)]) == ["A (1 cluster, seed=0)", "B (2 clusters, seed=0)"]
    scaled = [replace(material(2), settings={"data.path": p, "data.scaling": p}) for p in ("rms", "l2")]
    assert titles(scaled) == ["A (2 clusters, data.scaling=rms, seed=0)", "B (2 clusters, data.scaling=l2, seed=0)"]
    many = Content([material(300, 1000)]).context()["runs"][0]
    assert (len(many["cards"]), many["n_without_card"]) == (200, 100)
    assert sum(cluster["has_card"] for cluster in many["clusters"]) == 200


def test_runs_of_several_scalings_each_say_theirs() -> None:
    same = [replace(material(2), data_report={"scaling": "rms"}) for _ in range(2)]
    assert ("scaling", "rms") in Content(same).context()["data"]
    two = Content([same[0], replace(same[1], data_report={"scaling": "l2"})]).context()
    assert "scaling" not in dict(two["data"])
    assert ("scaling", ["rms", "l2"]) in two["settings"]


def test_the_report_of_a_run_with_safe_csv_has_the_texts_without_marks(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(table, run)
    assignments = read_material(run).assignments
    assert assignments.ids is not None
    marked = assignments._replace(ids=np.array(["=1", *assignments.ids[1:]], dtype=object))
    (run / "assignments.csv").write_bytes(b"".join(csv_parts(marked, is_safe=True)))
    (run / "features.csv").write_text(text_of(run / "features.csv").replace("age", "'=age"), encoding="utf-8")
    (run / "config.yaml").write_text(text_of(run / "config.yaml").replace("safe_csv: false", "safe_csv: true"))
    found = read_material(run)
    assert found.assignments.ids is not None
    assert found.assignments.ids[0] == "=1"
    assert found.kept_differences is not None
    assert "=age" in [feature.name for feature in found.kept_differences.features]


def test_data_that_are_not_those_of_the_run_are_named_with_the_run(table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(people(tmp_path).read_text(encoding="utf-8").replace("bird", "cow"), encoding="utf-8")
    with pytest.raises(UserError, match=r"run: the data have changed since; expected the data of the run; name those"):
        read_material(table, [f"data.path={other}"])


def test_without_a_second_cluster_no_confidence_is_offered(table: Path) -> None:
    found = read_material(table)
    assert '<option value="confidence">' in render([found])
    single = render([replace(found, assignments=found.assignments._replace(margin=None))])
    assert '<option value="distance">' in single
    assert '<option value="confidence">' not in single
    assert '<option value="margin">' not in single


def test_texts_have_the_direction_of_their_letters() -> None:
    found = material()
    texts = np.array(["שלום עולם", "hello"] * 50, dtype=object)
    page_of_texts = render([replace(found, assignments=found.assignments._replace(texts=texts))])
    assert '<li dir="auto">שלום עולם</li>' in page_of_texts


def test_a_page_that_is_too_large_has_fewer_rows(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_material(table)
    whole = render([found])
    monkeypatch.setattr(page, "_MAX_BYTES", len(whole.encode()) - 1)
    monkeypatch.setattr(page, "MAX_POINTS", 120)
    monkeypatch.setattr(page, "_FEWEST_POINTS", 30)
    fewer = render([found])
    assert len(fewer.encode()) < len(whole.encode())
    assert payload_of(fewer)["n"] < 120
    assert f"{payload_of(fewer)['n']} of 120 rows" in visible(fewer)


@pytest.mark.parametrize(("agreement", "verdict"), [(0.99, "note"), (0.6, "doubt")])
def test_how_far_a_baseline_was_learned_is_told(agreement: float, verdict: str) -> None:
    judgment = judge([material(**GOOD, stage="kmeans_raw", learned_agreement=agreement)])
    [told] = [statement for statement in judgment.statements if "ended below k-means on the rows" in statement.text]
    assert told.verdict == verdict
    assert ("learned" in told.text) == (agreement > 0.95)
    assert f"adjusted Rand index of {agreement:.2f}" in told.text


def test_labels_of_the_start_that_were_not_learned_are_a_doubt() -> None:
    better = {"modularity_data": 0.99, "assortativity_data": 0.99}
    for agreement, is_told in ((0.9, True), (0.97, False)):
        judgment = judge([material(**GOOD, stage="joint", start={"agreement": agreement, **better})])
        told = [s for s in judgment.statements if "was to keep the clusters that it started from" in s.text]
        assert [s.verdict for s in told] == ["doubt"] * is_told


def test_a_second_joint_training_that_was_undone_is_told() -> None:
    result = {"stage": "joint", "is_undone": True, "restored_step": 120}
    told = [s for s in judge([material(**GOOD, **result)]).statements if "step 120" in s.text]
    assert [s.verdict for s in told] == ["doubt"]
    assert "as it was at step 120. A second one, which started from the clusters of a baseline, ended" in told[0].text


def test_an_earlier_state_of_the_joint_training_is_told() -> None:
    judgment = judge([material(**GOOD, stage="joint", restored_step=120)])
    [told] = [statement for statement in judgment.statements if "step 120" in statement.text]
    assert told.verdict == "note"


@pytest.mark.parametrize(
    ("init", "told"),
    [
        ("k-means++", "of k-means on the pretrained embedding"),
        ("data", "that clustering.init=data has found in the rows themselves"),
        ("ward", "of Ward linkage of the pretrained embedding"),
        (None, "of k-means on the pretrained embedding"),  # of an early version
    ],
)
def test_clusters_without_joint_training_are_those_of_the_initialization(init: str | None, told: str) -> None:
    found = replace(material(**GOOD, stage="initialization"), settings={"clustering.init": init})
    texts = [statement.text for statement in judge([found]).statements]
    assert f"The clusters are those {told}, without joint training." in texts


def test_every_initialization_has_its_words() -> None:
    assert set(_INITIALIZATIONS) == set(INITS) - {"k-means++", "random"}
