"""What several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def data_root(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a file or folder from DKM_DATA_ROOT and returns the copy's root."""
    root = os.environ.get("DKM_DATA_ROOT")
    if root is None:
        pytest.skip("DKM_DATA_ROOT is not set")

    def copy(name: str) -> Path:
        source, target = Path(root, name), tmp_path / name
        if not source.exists():
            pytest.skip(f"no {source}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, target)
        return tmp_path

    return copy
