"""The documentation pages build without a warning, their links have targets, and they load nothing from other hosts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    find_spec("zensical") is None or find_spec("mkdocstrings_handlers") is None, reason="needs the extra docs"
)


class Page(HTMLParser):
    """The targets of a page's links, what it loads by itself, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag == "a" and (target := values.get("href")):
            self.links.append(target)
        elif target := values.get("src") or values.get("href"):
            self.loaded.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. Zensical writes next to its config, so that is a copy."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "dkm").symlink_to(ROOT / "dkm")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(folder / "mkdocs.yml")]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def names(entry: Any) -> list[str]:
    """Return the files of an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [name for value in (entry.values() if isinstance(entry, dict) else entry) for name in names(value)]


def test_each_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(names(config["nav"])) == sorted(written)


@pytest.mark.thorough
def test_all_links_have_a_target(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            is_anchored = not parts.fragment or unquote(parts.fragment) in pages[target].anchors
            if not (target.is_file() and is_anchored):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_pages_load_nothing_from_other_hosts(pages: dict[Path, Page]) -> None:
    assert {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc} == set()


def test_the_reference_has_the_public_names_with_their_docstrings(site: Path, pages: dict[Path, Page]) -> None:
    import dkm

    page = pages[site / "reference" / "python.html"]
    for name in dkm.__all__:
        assert any(anchor.startswith("dkm.") and anchor.endswith(f".{name}") for anchor in page.anchors), name
    assert "Weight of the clustering loss" in (site / "reference" / "python.html").read_text(encoding="utf-8")
