"""The parts of the package's metadata that depend on where the repository is published; hatchling calls this.

A package index shows the README without the repository, so relative links and pictures lead nowhere there. If
``repository`` is set in pyproject.toml, links become absolute and the project's addresses are declared; otherwise
pictures are left out and links become plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"^!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)$\n*", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


class Metadata(MetadataHookInterface):
    """Sets the dynamic fields ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        repository = str(self.config["repository"]).rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_an_index(text, repository)}
        metadata["urls"] = addresses(repository)


def for_an_index(readme: str, repository: str) -> str:
    """Return the README as a package index can show it; ``repository`` is the address on GitHub, or empty."""
    if repository:
        readme = _PICTURE.sub(rf"![\1]({repository}/raw/main/\2)\n\n", readme)
        return _LINK.sub(rf"[\1]({repository}/blob/main/\2)", readme)
    return _LINK.sub(r"\1", _PICTURE.sub("", readme))


def addresses(repository: str) -> dict[str, str]:
    """Return the addresses of the project, none without a public repository."""
    if not repository:
        return {}
    return {
        "Source": repository,
        "Documentation": f"{repository}/tree/main/docs",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
