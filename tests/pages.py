"""The commands and Python blocks of the README and of the documentation pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Written by scripts, which have tests of their own.
_GENERATED = ("results.md", "tables.md", "n_clusters.md", "select.md", "settings.md", "changelog.md")
VERBS = ("train", "predict", "select", "tune", "compare", "export", "report", "checks", "completion", "version", "help")

# Language and text of a fenced block. The tests of the tutorials run the blocks of language bash and only read those of
# language sh, which need packages, data or a terminal that a test does not have.
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(rf"(?:dkm |python -m dkm[. ])({'|'.join(VERBS)})\b *(.*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """``dkm VERB WORDS``, and the page it is on."""

    page: str
    verb: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(("dkm", self.verb, *self.words))


def read(page: str) -> str:
    """Return the text of a page, named relative to the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def pages() -> list[str]:
    """Return the README and the pages of the documentation that are written by hand."""
    written = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", *(page for page in written if page.removeprefix("docs/") not in _GENERATED)]


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(*found) for found in _BLOCK.findall(read(page))]


def python_blocks(page: str) -> list[str]:
    """Return the Python code of a page."""
    return [block.text for block in blocks(page) if block.language == "python"]


def commands_in(page: str, block: Block) -> Iterator[Command]:
    """Yield the commands ``dkm VERB`` of a block of a shell; a command of a transcript follows a ``$``."""
    lines = re.sub(r"\\\n *", "", block.text).splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        if found := _COMMAND.search(line.partition("  #")[0]):
            yield Command(page, found[1], tuple(shlex.split(found[2])))


def commands(page: str) -> list[Command]:
    """Return all commands ``dkm VERB`` of a page: of its blocks, and those in the text that have arguments."""
    text = _BLOCK.sub("", read(page))
    shell = [block for block in blocks(page) if block.language in ("bash", "sh", "console")]
    shell += [
        Block("sh", found.replace("\n", " ")) for found in re.findall(r"`((?:dkm|python -m dkm)[ .][^`]* [^`]+)`", text)
    ]
    return [command for block in shell for command in commands_in(page, block)]


def all_commands(verb: str) -> list[Command]:
    """Return the commands of a verb on all pages, each once."""
    found = {command.words: command for page in pages() for command in commands(page) if command.verb == verb}
    return list(found.values())
