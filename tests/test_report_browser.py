"""``report.html`` in a real browser: the map answers, tables sort, nothing fails, and no other host is asked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, make_blobs
from words import SMALL_RUN

from dkm import report, train
from dkm.config.commands import ReportConfig

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a table with ids and a column that are tags."""
    folder = tmp_path_factory.mktemp("table")
    X, label = make_blobs(200, 3, centers=4, cluster_std=0.3, random_state=0)
    frame = pd.DataFrame(
        {"who": [f"p{i:03d} {EVIL} {'x' * 40} {i:03d}" for i in range(200)], "income": X[:, 0], EVIL: X[:, 1]}
    )
    frame["lon"] = -122.42 + np.arange(200) / 10_000
    frame["code"] = [f"k{n % 14:02d}" if n > 5 else None for n in range(200)]
    frame["pet"] = np.array(["cat", "dog", "fish", "none"])[label]
    frame.to_csv(folder / "people.csv", index=False)
    words = ["data=csv", f"data.path={folder / 'people.csv'}", "data.id=who", *SMALL_RUN, "log.report=true"]
    assert train._main([*words, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run" / "report.html"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs on images."""
    folder = tmp_path_factory.mktemp("images")
    np.savez(folder / "x.npz", x=load_digits().images[:200], y=load_digits().target[:200])
    words = ["data=npz", f"data.path={folder / 'x.npz'}", "data.labels=y", *SMALL_RUN]
    runs = [folder / f"seed{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        assert train._main([*words, f"seed={seed}", f"hydra.run.dir={run}"]) == 0
    return report.report([str(run) for run in runs], ReportConfig(output=str(folder / "seeds.html")))


@pytest.fixture(scope="module")
def half(seeds: Path) -> Path:
    """The report of two runs, the first of which has lost its data."""
    gone = Path(shutil.copytree(seeds.parent / "seed0", seeds.parent / "gone"))
    config = (gone / "config.yaml").read_text(encoding="utf-8")
    (gone / "config.yaml").write_text(config.replace("x.npz", "gone.npz"), encoding="utf-8")
    return report.report([str(gone), str(seeds.parent / "seed1")], ReportConfig(output=str(seeds.parent / "half.html")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Return a function that opens a file; at the end no script has failed and nothing else was asked for."""
    contexts, errors, requests = [], [], []

    def open_file(path: Path, **options: Any) -> Any:
        options = {"viewport": {"width": 1366, "height": 768}, "color_scheme": "light", **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert errors == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}
    assert len({url for url in requests if url.startswith("file")}) == 1


def wait_for_map(page: Any) -> Any:
    page.locator("#legend button").first.wait_for()
    page.wait_for_function("() => Bokeh.documents.every((one) => one.is_idle)")
    canvas = page.locator(".canvas").first
    canvas.scroll_into_view_if_needed()
    return canvas


def hover_over_a_row(page: Any, canvas: Any) -> str:
    """Move the mouse over the map until it meets a row; return its id."""
    box = canvas.bounding_box()
    for y in np.linspace(0.04, 0.96, 47):
        for x in np.linspace(0.03, 0.97, 24):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if page.locator("#tip").is_visible():
                return str(page.locator("#tip").get_attribute("data-row"))
    raise AssertionError("no row is under the mouse anywhere")


def colors(page: Any, number: int = 0) -> list[str]:
    """The colors of the rows that a map draws."""
    found: list[str] = page.evaluate(
        """(number) => {
          const plots = Bokeh.documents.map((one) => one.roots()[0]);
          const [points] = plots[number].renderers;
          return Array.from(points.data_source.get("color"));
        }""",
        number,
    )
    return found


@pytest.mark.thorough
def test_the_map_answers_the_mouse_with_the_values_of_the_row(open_page: Any, table: Path) -> None:
    page = open_page(table)
    canvas = wait_for_map(page)
    row = hover_over_a_row(page, canvas)
    assert row.startswith(f"p{row[-3:]} {EVIL[:10]}")  # text, not an image
    frame = pd.read_csv(table.parent.parent / "people.csv")
    frame.index = frame["who"].str[-3:]
    short, row = row, row[-3:]
    tip = page.locator("#tip")
    assert tip.get_by_text(str(frame.loc[row, "pet"]), exact=True).count() == 1
    assert f"{frame.loc[row, 'income']:.3g}"[:3] in tip.inner_text()
    assert f"{frame.loc[row, 'lon']:.4f}".rstrip("0") in tip.inner_text()
    page.mouse.down()
    page.mouse.up()
    page.locator("#details h6", has_text=short).wait_for()


@pytest.mark.thorough
def test_rows_are_colored_by_clusters_confidence_and_columns(open_page: Any, table: Path) -> None:
    page = open_page(table)
    wait_for_map(page)
    assert len(set(colors(page))) == 4
    assert page.locator("#legend button").count() == 4
    page.select_option("#color", "confidence")
    assert len(set(colors(page))) > 10
    assert page.locator("#legend .ends").inner_text().split() == ["0", "1"]
    page.select_option("#color", label="pet")
    pets = pd.read_csv(table.parent.parent / "people.csv")["pet"].tolist()
    pairs = set(zip(pets, colors(page), strict=True))
    assert len(pairs) == 4
    page.select_option("#color", label=EVIL)
    assert len(set(colors(page))) > 10
    page.select_option("#color", label="code")
    codes = pd.read_csv(table.parent.parent / "people.csv")["code"].fillna("missing").tolist()
    assert len(set(zip(codes, colors(page), strict=True))) == len(set(colors(page))) == 15
    assert page.locator("#legend button", has_text="missing").locator(".count").inner_text() == "6"


@pytest.mark.thorough
def test_a_cluster_is_shown_alone_from_its_card_and_from_the_legend(open_page: Any, table: Path) -> None:
    page = open_page(table)
    wait_for_map(page)
    before = colors(page)
    page.locator("#c0-2 .show").click()
    cluster = pd.read_csv(table.parent / "assignments.csv")["cluster"].to_numpy()
    alone = np.array(colors(page))
    assert (alone[cluster == 2] == np.array(before)[cluster == 2]).all()
    assert len(set(alone[cluster != 2])) == 1
    page.locator("#legend button").nth(2).click()
    assert colors(page) == before


def test_the_keyboard_zooms_and_moves_the_map_and_finds_a_row(open_page: Any, table: Path) -> None:
    page = open_page(table)
    canvas = wait_for_map(page)
    extent = "() => { const { x_range } = Bokeh.documents[0].roots()[0]; return [x_range.start, x_range.end]; }"
    start, end = page.evaluate(extent)
    canvas.focus()
    page.keyboard.press("+")
    near, far = page.evaluate(extent)
    assert start < near < far < end
    page.keyboard.press("ArrowRight")
    assert page.evaluate(extent)[0] > near
    page.keyboard.press("0")
    page.wait_for_function(f"() => Math.abs(Bokeh.documents[0].roots()[0].x_range.start - {start}) < 1")
    page.fill("#find", f"p007 {EVIL} {'x' * 40} 007")
    page.locator("#details h6", has_text="p007").wait_for()
    page.fill("#find", "nobody")
    page.locator("#found", has_text="not on the map").wait_for()


def test_tables_sort(open_page: Any, table: Path) -> None:
    page = open_page(table)
    sizes = pd.read_csv(table.parent / "assignments.csv")["cluster"].value_counts().tolist()
    head = page.locator(".overview thead th", has_text="rows")
    cells = page.locator(".overview tbody tr td:nth-child(3)")
    head.locator("button").click()
    assert [int(text) for text in cells.all_inner_texts()] == sorted(sizes, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert [int(text) for text in cells.all_inner_texts()] == sorted(sizes)


@pytest.mark.thorough
def test_dark_follows_the_system_and_the_button(open_page: Any, table: Path) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(table, color_scheme=scheme) for scheme in ("light", "dark"))
    found = [page.evaluate(ground) for page in (light, dark)]
    assert found[0] != found[1]
    light.locator("#theme").click()
    assert light.evaluate(ground) == found[1]
    dark.locator("#theme").click()
    assert dark.evaluate(ground) == found[0]


def test_it_is_printed_on_white_without_controls(open_page: Any, table: Path) -> None:
    page = open_page(table, color_scheme="dark")
    wait_for_map(page)
    page.emulate_media(media="print")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".controls").is_visible()
    assert page.locator(".card").count() == 4


def test_without_scripts_sizes_cards_tables_and_a_map_are_there(open_page: Any, table: Path) -> None:
    page = open_page(table, java_script_enabled=False)
    assert page.locator(".card").count() == 4
    assert page.locator(".overview tbody tr").count() == 4
    assert page.locator("figure img").is_visible()
    assert not page.locator(".controls").is_visible()
    assert not page.locator("#theme").is_visible()
    assert re.search(r"\d+ rows \(", page.locator(".card").first.inner_text())


@pytest.mark.parametrize("name", ["table", "seeds"])
@pytest.mark.thorough
def test_a_phone_scrolls_down_only(name: str, open_page: Any, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    page = open_page(path, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    canvas = wait_for_map(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert canvas.bounding_box()["width"] > 300


@pytest.mark.thorough
def test_runs_side_by_side_point_at_the_same_row(open_page: Any, seeds: Path) -> None:
    page = open_page(seeds)
    canvas = wait_for_map(page)
    assert page.locator(".canvas").count() == 2
    row = int(hover_over_a_row(page, canvas))
    assert page.locator("#tip .thumb").is_visible()
    marked = page.evaluate(
        "() => Bokeh.documents.map((one) => Array.from(one.roots()[0].renderers[1].data_source.get('x'))[0])"
    )
    points = page.evaluate(
        "(row) => Bokeh.documents.map((one) => one.roots()[0].renderers[0].data_source.get('x')[row])", row
    )
    assert marked == points
    assert json.dumps(colors(page, 0)) != json.dumps(colors(page, 1))
    page.select_option("#color", "distance")
    titles, ends = page.locator("#legend .soft"), page.locator("#legend .ends")
    assert [text[:1] for text in titles.all_inner_texts()] == ["A", "B"]
    distances = [pd.read_csv(seeds.parent / f"seed{n}" / "assignments.csv")["distance"] for n in (0, 1)]
    for n, found in enumerate(distances):
        low, high = map(float, ends.nth(n).inner_text().split())
        assert (low, high) == pytest.approx((found.min(), found.max()), rel=1e-3)
    page.select_option("#color", "label")
    assert colors(page, 0) == colors(page, 1)
    counts = [int(text) for text in page.locator("#legend .count").all_inner_texts()]
    assert counts == np.bincount(load_digits().target[:200]).tolist()
    assert len(set(colors(page, 0))) == 10


def test_a_run_without_its_data_leaves_the_map_of_the_other_alone(open_page: Any, half: Path) -> None:
    page = open_page(half)
    wait_for_map(page)
    assert page.locator(".canvas").count() == 1
    page.locator("details.run summary").nth(1).click()
    page.locator("#c1-2 .show").click()
    assert page.locator('#legend button[aria-pressed="true"] .name').inner_text().startswith("2")


def test_rows_of_cards_answer_the_keyboard_with_what_their_run_says(open_page: Any, seeds: Path) -> None:
    page = open_page(seeds)
    wait_for_map(page)
    page.locator("details.run summary").nth(1).click()
    thumbs = page.locator("#c1-2 .thumbs").first.locator(".thumb")
    thumbs.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.dataset.place") == thumbs.nth(1).get_attribute("data-place")
    page.keyboard.press("Enter")
    row = int(page.locator("#details h6").inner_text().split()[-1])
    for letter, seed in zip("AB", (0, 1), strict=True):
        found = pd.read_csv(seeds.parent / f"seed{seed}" / "assignments.csv").iloc[row]
        shown = page.locator("#details tr", has_text=f"confidence in {letter}").locator("td").inner_text()
        assert float(shown) == pytest.approx(found["margin"] / (found["margin"] + found["distance"]), abs=0.01)


def test_on_paper_all_runs_and_the_whole_legend_are_there(open_page: Any, seeds: Path) -> None:
    page = open_page(seeds)
    wait_for_map(page)
    page.emulate_media(media="print")
    assert page.evaluate("() => getComputedStyle(document.querySelector('#legend')).maxHeight") == "none"
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#c1-2").is_visible()
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#c1-2").is_visible()
