"""What the attacks on runs have in common: ``chaos.py``, ``power_cut.py`` and ``soak.py``.

They start commands of dkm in real processes, which a server has forked with their imports done, judge how these ended,
and keep one line of JSON for each attack, so that an attack that is started again goes on from there.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import dkm
from dkm.search import server

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "reliability"
# A process that takes longer hangs.
LONGEST_S = 120.0
# What runs import beside what the server imports anyway.
_MORE_IMPORTS = (
    *("dkm.reports.page", "dkm.data.images.thumbnails", "dkm.evaluation.projection", "dkm.evaluation.figures.run"),
    *("torch.utils.tensorboard", "tensorboard.backend.event_processing.event_accumulator"),
)
# The files whose bytes a resumed run has in common with an undisturbed one, as far as the run has them.
SAME = (
    *("metrics.jsonl", "result.json", "assignments.csv", "exemplars.csv", "features.csv", "report.html"),
    *("model/model.json", "model/weights.safetensors"),
)


class Ended(NamedTuple):
    """How a process has ended: its exit code, negative after a signal, None if it hung, and its standard error."""

    code: int | None
    err: str


class Verdict(NamedTuple):
    """``outcome`` is equal, told, refused or failed; ``detail`` says of what."""

    outcome: str
    detail: str = ""


# --- processes --------------------------------------------------------------------------------------------------------


class Process:
    """A command of dkm in processes of its own.

    Parameters
    ----------
    module : str
        Such as ``dkm.train``.
    words : sequence of str
    log : Path
        File for the standard error of all processes.
    way : {"fork", "plain", "torchrun"}
        Forked by the server, ``python -m``, or ``torchrun --nproc_per_node=2``.
    n_ranks : int
        More than one forked process train together; nobody ends the others if one dies.
    max_file_bytes : int, optional
        Size beyond which no file can be written, as if the disk were full.
    """

    def __init__(
        self,
        module: str,
        words: Sequence[str],
        log: Path,
        *,
        way: str = "fork",
        n_ranks: int = 1,
        max_file_bytes: int | None = None,
    ) -> None:
        self.log = log
        self._processes: list[server.ForkedProcess | subprocess.Popen[bytes]] = []
        torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2"] if way == "torchrun" else []
        with log.open("wb") as err, Path(os.devnull).open("wb") as devnull:
            if way == "fork":
                for rank in range(n_ranks):
                    with _environment(_place(rank, n_ranks) if n_ranks > 1 else {}):
                        self._processes.append(_fork(module, words, devnull.fileno(), err.fileno()))
            else:
                command = [sys.executable, *torchrun, "-m", module, *words]
                self._processes.append(subprocess.Popen(command, stdout=devnull, stderr=err, start_new_session=True))
        if max_file_bytes is not None:
            import resource

            for process in self._processes:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    @property
    def has_ended(self) -> bool:
        return all(process.poll() is not None for process in self._processes)

    def kill(self, which: str = "all") -> None:
        """Send SIGKILL: to all processes with their children, to the ``parent`` alone, or to the rank that is named."""
        victims = self._processes if which in ("all", "parent") else [self._processes[int(which)]]
        pids = [process.pid for process in victims if process.poll() is None]
        if which == "all":
            for pid in pids:  # stopped, so that none of them starts another meanwhile
                _send(pid, signal.SIGSTOP)
            pids = [*pids, *(child for pid in pids for child in descendants(pid))]
        for pid in pids:
            _send(pid, signal.SIGKILL)

    def wait(self, longest_s: float = LONGEST_S) -> Ended:
        """Wait for the end of all processes; kill those that hang."""
        deadline = time.monotonic() + longest_s
        codes: list[int | None] = []
        for process in self._processes:
            try:
                codes.append(process.wait(max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                codes.append(None)
        if None in codes:
            self.kill()
            for process in self._processes:
                process.wait()
        code = None if None in codes else next((code for code in codes if code), 0)
        return Ended(code, self.log.read_text(encoding="utf-8", errors="replace"))


def _fork(module: str, words: Sequence[str], out: int, err: int) -> server.ForkedProcess:
    _add_imports()
    return server.start(module, words, [out, err])


@functools.cache
def _add_imports() -> None:
    server.PRELOADED.extend(_MORE_IMPORTS)


def _place(rank: int, n_ranks: int, port: list[int] = []) -> dict[str, str]:  # noqa: B006 - one port for all ranks
    if rank == 0:
        port[:] = [_free_port()]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port[0]), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    return place | {"WORLD_SIZE": str(n_ranks), "LOCAL_WORLD_SIZE": str(n_ranks)}


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({"OMP_NUM_THREADS": "1", **changes})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Return the process ids of the children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


# --- what is trained --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A command whose results must not depend on how often it was killed.

    Parameters
    ----------
    name : str
    module : str
    words : tuple of str
        Without the folder.
    folder_key : str
        The override that gives the folder.
    is_resumed_by_name : bool
        Whether ``resume=FOLDER`` resumes it once there is a ``config.yaml``; otherwise the same command does.
    """

    name: str
    module: str
    words: tuple[str, ...]
    folder_key: str = "hydra.run.dir"
    is_resumed_by_name: bool = True
    # Files in the folder that are compared, as globs.
    compared: tuple[str, ...] = field(default=SAME)

    def command(self, folder: Path) -> list[str]:
        """Return the words that start the work in a folder, or go on with it."""
        if self.is_resumed_by_name and (folder / "config.yaml").is_file():
            return [f"resume={folder}"]
        return [*self.words, f"{self.folder_key}={folder}"]

    def results(self, folder: Path) -> dict[str, bytes]:
        """Return the content of the files that are compared."""
        paths = sorted({path for pattern in self.compared for path in folder.glob(pattern)})
        return {path.relative_to(folder).as_posix(): _repeatable(path, folder) for path in paths}

    def manifests(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("manifest.json" if self.is_resumed_by_name else "*/manifest.json"))


def _repeatable(path: Path, folder: Path) -> bytes:
    """Return the content of a file without the paths and the seconds that the tables of searches have."""
    content = path.read_bytes()
    if path.name in ("select.json", "tune.json"):
        return content.replace(os.fsencode(folder), b"FOLDER")
    if path.name not in ("sweep.csv", "tune.csv"):
        return content
    rows = csv.DictReader(io.StringIO(content.decode()))
    kept = [{k: v for k, v in row.items() if k not in ("paths", "seconds", "seconds_sd")} for row in rows]
    return json.dumps(kept).encode()


_SMALL = (
    *("recipe=classic", "model.hidden=[16]", "batch_size=50", "pretrain.epochs=3", "joint.epochs=5", "threads=1"),
    *("joint.tolerance=0", "joint.lr=0.01", "evaluation.every_epochs=2", "clustering.n_init=2", "log.figures=false"),
)


def works(folder: Path) -> dict[str, Work]:
    """Write small data below a folder; return what is trained on them."""
    from sklearn.datasets import load_digits, make_blobs

    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images, table, points = (folder / name for name in ("digits.npz", "table.csv", "points.npz"))
    np.savez(images, x=digits.images[:100], y=digits.target[:100])
    X, y = make_blobs(120, 4, centers=3, cluster_std=1.0, random_state=0)
    np.savez(points, x=X.astype(np.float32), y=y)
    rows = [["name", "a", "b", "c", "d", "kind"]]
    for i, (x, label) in enumerate(zip(X, y, strict=True)):
        rows.append([f"row{i}", *map(str, np.round(x, 3)), "abc"[(i * 7 + label) % 3]])
    table.write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
    of_images = (*_SMALL, "data=npz", f"data.path={images}", "data.labels=y")
    of_table = (*_SMALL, "data=csv", f"data.path={table}", "data.id=name")
    of_points = (*_SMALL, "data=npz", f"data.path={points}", "data.labels=y", "log.tensorboard=false")
    runs = [
        Work("images", "dkm.train", of_images),
        Work("table", "dkm.train", (*of_table, "n_clusters=3")),
        Work("number", "dkm.train", (*of_table, "n_clusters=auto:2-4")),
        Work("dec", "dkm.train", (*of_points, "clustering=dec", "clustering.update_interval=3")),
        Work("averaged", "dkm.train", (*of_points, "joint.average_epochs=2", "clustering.centroids=mean")),
        Work("resets", "dkm.train", (*of_points, "clustering.reset_every=2", "clustering.initial_epochs=2")),
    ]
    below = tuple(f"*/{name}" for name in SAME)
    searches = [
        Work(
            *("sweep", "dkm.train", ("--multirun", *of_points, "seed=0,1", "resume=auto")),
            *("hydra.sweep.dir", False, (*below, "sweep.csv")),
        ),
        Work(
            *("select", "dkm.select", (*of_points[:-1], "n_clusters=2,3", "seed=0,1")),
            *("output", False, ("*/*/result.json", "*/*/assignments.csv", "select.csv", "select.json")),
        ),
        Work(
            *("tune", "dkm.tune", (*of_points[:-1], "trials=3", "prune=false", "clustering.weight=interval(0.1,10)")),
            *("output", False, ("trials/*/result.json", "tune.csv", "tune.json")),
        ),
    ]
    return {work.name: work for work in (*runs, *searches)}


# --- verdicts ---------------------------------------------------------------------------------------------------------


def judge(ended: Ended, found: Mapping[str, bytes], expected: Mapping[str, bytes], damaged: str | None) -> Verdict:
    """Return whether a run that was attacked kept what is promised.

    Parameters
    ----------
    ended : Ended
        Of the last process of the run.
    found, expected : mapping
        The results of the run and of the undisturbed one: content by name.
    damaged : str, optional
        Name of the file that the attack has damaged.
    """
    if ended.code is None:
        return Verdict("failed", f"hung; {last_line(ended.err)}")
    if "Traceback" in ended.err:
        return Verdict("failed", f"traceback: {last_line(ended.err)}")
    if ended.code == 0:
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        if not different:
            return Verdict("equal")
        if (
            damaged is not None
            and different == [damaged]
            and any(damaged in line for line in lines_with("warning: ", ended.err))
        ):
            return Verdict("told", f"{damaged} differs")
        return Verdict("failed", f"differs: {', '.join(different)}")
    errors = lines_with("error: ", ended.err)
    if ended.code == 2 and damaged is not None and len(errors) == 1 and Path(damaged).name in errors[0]:
        return Verdict("refused", errors[0])
    return Verdict("failed", f"exit code {ended.code}: {last_line(ended.err)}")


def lines_with(start: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing on standard error"])[-1][:500]


# --- results ----------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; none if it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def version() -> str:
    """Return the version of dkm and the commit of its checkout."""
    command = ["git", "rev-parse", "--short=10", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return f"{dkm.__version__}+{commit}" if commit else dkm.__version__


def undisturbed(work: Work, folder: Path, *, way: str = "fork", n_ranks: int = 1) -> dict[str, bytes]:
    """Run a work that nothing happens to; return its results."""
    target = folder / f"{work.name}_{n_ranks}"
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    ended = Process(work.module, work.command(target), folder / "log", way=way, n_ranks=n_ranks).wait()
    if ended.code != 0:
        raise RuntimeError(f"{work.name}: exit code {ended.code}: {ended.err}")
    return work.results(target)
