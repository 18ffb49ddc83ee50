"""What is written is whole or was not written: no torn file, no lost file, nothing temporary that stays."""

from __future__ import annotations

import errno
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dkm import export
from dkm.data.builtin import newsgroups
from dkm.errors import UserError
from dkm.evaluation.assignments import FORMATS, Assignments, Writer
from dkm.evaluation.figures.style import save_png
from dkm.runtime import atomic, checkpoints
from dkm.runtime.atomic import publish, replacing, sync, write_atomically
from dkm.training import cache

ROWS = Assignments(np.arange(3), None, np.zeros(3, np.int64), np.ones(3, np.float32), None)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fail_in(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a call of the file system fail for a full disk."""

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, no_space)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that gets what is flushed to disk, by its name then, and the renames."""
    made: list[str] = []
    fsync, replace = os.fsync, os.replace

    def fsync_seen(descriptor: int) -> None:
        made.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def replace_seen(source: Any, target: Any, **_: Any) -> None:
        made.append(f"rename to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync_seen)
    monkeypatch.setattr(os, "replace", replace_seen)
    return made


# --- writing in general -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    call: str, is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        fail_in(patch, call)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new", is_shared=is_shared)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == {"file"}


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert names_in(tmp_path) == set()


def test_the_names_of_two_writers_never_meet_where_files_are_shared(tmp_path: Path) -> None:
    """Process ids repeat on the hosts that share a folder."""
    path = tmp_path / "file"
    with replacing(path, is_shared=True) as one, replacing(path, is_shared=True) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one"  # the last to end
    with replacing(path) as first:
        first.write_bytes(b"")
    with replacing(path) as second:
        second.write_bytes(b"")
    assert first == second  # one file at most is left by processes that are killed


def test_a_file_is_taken_for_one_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watch(monkeypatch)
    write_atomically(tmp_path / "file", b"new")
    assert made == ["sync file.tmp", "rename to file", f"sync {tmp_path.name}"]


def test_the_descriptor_of_a_directory_is_closed_when_it_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda descriptor: (closed.append(descriptor), close(descriptor)))
    fail_in(monkeypatch, "fsync")
    with pytest.raises(OSError, match="No space left"):
        sync(tmp_path)
    assert len(closed) == 1


def test_a_folder_reaches_the_disk_with_all_of_its_files_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new" / "inner").mkdir(parents=True)
    for name in ("new/one", "new/inner/two"):
        (tmp_path / name).touch()
    made = watch(monkeypatch)
    publish(tmp_path / "new", tmp_path / "name")
    assert {*made[:4]} == {"sync one", "sync two", "sync inner", "sync new"}
    assert made.index("sync two") < made.index("sync inner") < made.index("sync new")
    assert made[4:] == ["rename to name", f"sync {tmp_path.name}"]
    assert names_in(tmp_path / "name") == {"one", "inner"}


def test_a_figure_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(b"old", tmp_path / "a.png")
    fail_in(monkeypatch, "replace")
    with pytest.raises(OSError, match="No space left"):
        save_png(b"new", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert names_in(tmp_path) == {"a.png"}


# --- predictions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_predictions_reach_the_disk_before_their_name(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = watch(monkeypatch)
    with Writer(tmp_path / f"out{suffix}", "output=out", overwrite=False) as writer:
        writer.write(ROWS)
    assert made[0].startswith(f"sync .out{suffix}.")
    assert made[1:] == [f"rename to out{suffix}", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_predictions_that_cannot_be_written_leave_the_old_ones(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    fail_in(monkeypatch, call)
    with pytest.raises(UserError, match="cannot be written"), Writer(path, "output=out", overwrite=True) as writer:
        writer.write(ROWS)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == {"out.csv"}


# --- exports ------------------------------------------------------------------------------------------------------


@pytest.fixture
def artifacts(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of an artifact, and that of the one to replace it with."""
    folder, temporary = tmp_path / "out", tmp_path / ".out.new"
    for place, content in ((folder, b"old"), (temporary, b"new")):
        place.mkdir()
        (place / "USAGE.md").write_bytes(content)
    return folder, temporary


def test_an_artifact_reaches_the_disk_and_replaces_the_old_one(
    artifacts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, temporary = artifacts
    made = watch(monkeypatch)
    export._replace_folder(folder, temporary)
    assert made[0] == "sync USAGE.md"
    assert made[-2:] == ["rename to out", f"sync {tmp_path.name}"]
    assert (folder / "USAGE.md").read_bytes() == b"new"
    assert names_in(tmp_path) == {"out"}


@pytest.mark.parametrize("n_renames", [0, 1])
def test_an_artifact_whose_rename_fails_leaves_the_old_one(
    n_renames: int, artifacts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, temporary = artifacts
    replace, made = os.replace, []

    def fail_once(source: Any, target: Any, **_: Any) -> None:
        made.append(target)
        if len(made) == n_renames + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="Input/output error"):
        export._replace_folder(folder, temporary)
    assert (folder / "USAGE.md").read_bytes() == b"old"
    assert names_in(tmp_path) == {"out", ".out.new"}  # which the caller removes


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(path.parent)])
def test_a_file_or_a_link_is_not_replaced_by_an_artifact(make: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    make(tmp_path / "out")
    with pytest.raises(NotADirectoryError):
        export._replace_folder(tmp_path / "out", tmp_path / "new")
    assert names_in(tmp_path) == {"out", "new"}


# --- caches and downloads -----------------------------------------------------------------------------------------


def test_two_hosts_that_finish_the_same_pretraining_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    seen: list[set[str]] = []

    def meanwhile(path: Path) -> None:
        seen.append(names_in(tmp_path))
        if len(seen) == 1:
            cache.save(tmp_path, "key", {"n": 2})

    monkeypatch.setattr(atomic, "sync", meanwhile)
    cache.save(tmp_path, "key", {"n": 1})
    assert [len(names) for names in seen] == [1, 2]
    state = cache.load(tmp_path, "key")
    assert state is not None
    assert state["n"] == 1
    assert names_in(tmp_path) == {"key.pt"}


def test_two_downloads_of_the_same_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[Path] = []

    def fetch(_: str, part: Path) -> None:
        parts.append(part)
        part.write_bytes(b"content")
        if len(parts) == 1:
            newsgroups._download("url", tmp_path / "file", DIGEST)

    monkeypatch.setattr(urllib.request, "urlretrieve", fetch)
    newsgroups._download("url", tmp_path / "file", DIGEST)
    assert parts[0] != parts[1]
    assert (tmp_path / "file").read_bytes() == b"content"
    assert names_in(tmp_path) == {"file"}


DIGEST = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"  # of "content"


def test_a_checkpoint_that_fails_for_a_full_disk_leaves_nothing_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        checkpoints.save(tmp_path, {"step": step})
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            fail_in(patch, call)
            with pytest.raises(OSError, match="No space left"):
                checkpoints.save(tmp_path, {"step": 3})
        assert names_in(tmp_path) == {"last.pt", "previous.pt"}
