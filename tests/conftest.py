"""What several test files share."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from quick import search_quickly

# Most systems have a file system in memory. The files of a whole suite, if every test failed, would take 2 GiB.
_MEMORY, _MIN_FREE = Path("/dev/shm"), 4 * 2**30


def pytest_configure() -> None:
    """Put the temporary folders into memory if there is room.

    A run flushes dozens of files, and a disk takes milliseconds for each. ``--basetemp`` and ``PYTEST_DEBUG_TEMPROOT``
    choose another place.
    """
    if not os.access(_MEMORY, os.W_OK) or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC:  # no place to install scripts
        return
    if shutil.disk_usage(_MEMORY).free >= _MIN_FREE:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """Remove the handler that a command gives the root logger: it would write to the output of an ended test."""
    yield
    for handler in logging.getLogger().handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.getLogger().removeHandler(handler)


@pytest.fixture
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for the number of clusters takes a tenth of its time; ``monkeypatch.undo()`` takes that back."""
    search_quickly(monkeypatch.setattr)


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
