"""What TensorBoard's page shows of a run, in a real browser against a real server: every tab of ours has content."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_dashboard import small_run

from dkm.runs.tensorboard import layout

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that shows one small run."""
    yield from _served(small_run(tmp_path_factory.mktemp("browser"), "data.labels=y"))


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of one that shows a run without labels, as of a person's own data."""
    yield from _served(small_run(tmp_path_factory.mktemp("unlabeled"), "log.figures=false"))


def _served(run: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            found = next(match for line in server.stderr if (match := re.search(r"http://\S+", line)))
            yield _with_projector(found.group())
        finally:
            server.terminate()


def _with_projector(address: str) -> str:
    """Wait until the server knows of the projector: the first page asked for does not have it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{address}data/plugins_listing", timeout=30) as answer:
            if json.load(answer)["projector"]["enabled"]:
                return address
        time.sleep(0.2)
    raise AssertionError("the server does not show the projector")


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


@pytest.fixture
def opened(page: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page at the tab that the test is marked with; no script of it may fail."""
    errors: list[str] = []
    listen = lambda error: errors.append(str(error))  # noqa: E731
    page.on("pageerror", listen)
    page.goto("about:blank")
    page.goto(f"{address}#{request.param}")
    yield page
    page.remove_listener("pageerror", listen)
    assert errors == []


def tab(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opened", [name], indirect=True)


def open_all(page: Any) -> None:
    """Open the categories that are closed."""
    page.locator("button.heading").first.wait_for()
    closed = page.locator("button.heading:not([open-button])")
    while closed.count():
        closed.first.click()


@tab("custom_scalars")
@pytest.mark.thorough
def test_every_chart_of_the_layout_has_its_curves(opened: Any) -> None:
    expect_charts(opened, has_labels=True)


@pytest.mark.thorough
def test_without_labels_every_chart_has_its_curves_too(page: Any, unlabeled: str) -> None:
    page.goto("about:blank")
    page.goto(f"{unlabeled}#custom_scalars")
    expect_charts(page, has_labels=False)


def expect_charts(page: Any, *, has_labels: bool) -> None:
    """See all charts and no others, each with curves."""
    open_all(page)
    titles = [title for charts in layout(has_labels=has_labels).values() for title in charts]
    for title in titles:
        page.get_by_text(title, exact=True).first.wait_for(state="attached")
    page.get_by_text("Matches (").nth(len(titles) - 1).wait_for(state="attached")
    found = page.get_by_text("Matches (").all_inner_texts()
    assert len(found) == len(titles)
    assert not [text for text in found if "(0)" in text]
    page.locator("vz-line-chart2 path").first.wait_for(state="attached")


@tab("scalars")
@pytest.mark.thorough
def test_the_curves_of_both_phases_are_listed(opened: Any) -> None:
    open_all(opened)
    for tag in ("baseline/kmeans_raw/acc", "joint/clusters/label_change", "pretrain/loss/reconstruction"):
        opened.get_by_text(tag).first.wait_for()
    opened.locator("tf-scalar-card vz-line-chart2 path").first.wait_for(state="attached")


@tab("images")
def test_the_pictures_are_loaded(opened: Any) -> None:
    for name in ("contingency", "decoded_centroids", "embedding", "reconstructions"):
        opened.get_by_text(f"joint/images/{name}").first.wait_for()
    opened.locator("tf-image-loader img").nth(3).wait_for()
    for picture in opened.locator("tf-image-loader img").all()[:4]:
        opened.wait_for_function("image => image.complete && image.naturalWidth > 200", arg=picture.element_handle())


@tab("histograms")
def test_the_sizes_of_the_clusters_are_drawn(opened: Any) -> None:
    opened.get_by_text("joint/clusters/sizes").first.wait_for()
    opened.locator("vz-histogram-timeseries path").first.wait_for(state="attached")


@tab("projector")
@pytest.mark.thorough
def test_the_projector_has_points_centroids_and_columns(opened: Any) -> None:
    projector = opened.frame_locator("iframe").frame_locator("iframe")
    projector.locator("canvas").first.wait_for()
    projector.locator("span.numDataPoints", has_text="210").first.wait_for()  # 200 rows and 10 centroids
    for column in ("cluster", "label", "margin"):
        projector.locator("paper-item", has_text=column).first.wait_for(state="attached")


@tab("hparams")
def test_settings_and_scores_are_in_the_table(opened: Any) -> None:
    for name in ("batch_size", "clustering.weight", "result/acc", "Trial ID"):
        opened.get_by_text(name).first.wait_for(state="attached")
    opened.get_by_text("joint.tolerance").nth(1).wait_for(state="attached")  # a column too, because it was given


@tab("text")
def test_config_and_closing_table_can_be_read(opened: Any) -> None:
    open_all(opened)
    opened.get_by_text("The resolved config").first.wait_for()
    opened.get_by_text("final (kmeans)").first.wait_for()


@tab("timeseries")
def test_the_first_page_shows_cards(opened: Any) -> None:
    opened.locator("card-view").first.wait_for()
