"""Cut the power at each moment of a run, in a model of a file system, and resume the run from what is left:

    python scripts/power_cut.py                 all states of each recorded run
    python scripts/power_cut.py --most 200      200 of the states, drawn at random

A short run is recorded with strace (Debian: apt-get install strace): all that changes its folder (files and directories
made, written, cut off, renamed, linked, removed) and all that flushes it to disk, in order. After each of these
operations the power may fail. What the folder then holds depends on the file system; POSIX promises only that the
content of a file is there which was there at its last fsync, and the names of a directory which were there at the last
fsync of the directory. After each operation these are tried:

- *kept*: everything is on disk, as after a kill;
- *data lost*, *zeros*, *half*: all names are on disk (the journal of the file system was written), but of the data that
  were not flushed nothing, or zeros, or the first half;
- *names lost*: each directory has the names of its last flush, each file all of its data;
- *both lost*: each directory and each file is as it was at its last flush;
- *mixed*: each of these drawn at random for each file and each directory, twice.

States that differ only in events and logs are taken for one. Each is written to a folder, in which the run is resumed;
a run without ``config.yaml`` is started again with the same command. The run must end with the bytes of the undisturbed
run, or refuse with one line that names a file of the run (exit code 2). And a state whose manifest says that the run is
completed must already have all results.

Each state is a line of ``docs/reliability/power_cut.jsonl``. The recordings stay in ``--folder``: the same command goes
on with them; the lines of a new recording replace those of the one before. ``scripts/reliability.py`` makes the tables
of ``docs/reliability.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from attacks import (
    RESULTS,
    ROOT,
    Ended,
    Process,
    Verdict,
    Work,
    append_line,
    judge,
    lines_with,
    read_lines,
    undisturbed,
    version,
    works,
    write_lines,
)

LINES = RESULTS / "power_cut.jsonl"
VARIANTS = ("kept", "data lost", "zeros", "half", "names lost", "both lost", "mixed 1", "mixed 2")
# The content of these changes no result.
_DULL = ("events.out", "train.log", "run.lock")
_CALLS = (
    *("open", "openat", "creat", "write", "pwrite64", "writev", "lseek", "ftruncate", "truncate", "close"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
    *("fsync", "fdatasync", "copy_file_range", "sendfile", "dup", "dup2", "dup3", "fcntl"),
)


class Operation(NamedTuple):
    """A change of the folder, or a flush: ``name`` and what it is applied to.

    ``create``, ``mkdir``, ``unlink``, ``rmdir`` and ``sync`` have a path, ``rename`` and ``link`` also a ``target``,
    ``write`` a path, an offset and data, ``truncate`` a path and its new size as the offset. Paths are relative.
    """

    name: str
    path: str
    target: str = ""
    offset: int = 0
    data: bytes = b""


# --- recording --------------------------------------------------------------------------------------------------------


def record(work: Work, folder: Path, traces: Path) -> list[Operation]:
    """Run a work in ``folder/run`` under strace; return what it did to the folder."""
    traces.mkdir(parents=True)
    folder.mkdir(parents=True)
    strace = ["strace", "-ff", "-y", "-xx", "-s", str(2**26), "--seccomp-bpf", "-o", str(traces / "trace")]
    strace += ["--absolute-timestamps=format:unix,precision:ns", "-e", f"trace={','.join(_CALLS)}"]
    command = [*strace, sys.executable, "-m", work.module, *work.command(folder / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"exit code {ended.returncode}: {ended.stderr}")
    return list(read_trace(traces, folder))


_LINE = re.compile(r"(?P<time>\d+\.\d+) (?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)(?P<rest>.*)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"(?:^|[ (])(\w+|-?\d+)<([^>]*)>")


def read_trace(traces: Path, folder: Path) -> Iterator[Operation]:
    """Yield the operations on a folder that the files of ``strace -ff`` tell of."""
    lines = [line for path in traces.iterdir() for line in path.read_text(encoding="ascii").splitlines()]
    found = sorted(
        (m for line in lines if (m := _LINE.fullmatch(line))), key=lambda m: tuple(map(int, m["time"].split(".")))
    )
    reader = _TraceReader(folder)
    for match in found:
        yield from reader.operations(match["name"], match["arguments"], int(match["result"]), match["rest"])


class _TraceReader:
    """Follows the open files of a process; its children, which have numbers of their own, open none of the folder."""

    def __init__(self, folder: Path) -> None:
        self._root = f"{folder}/"
        self._known: set[str] = set()
        self._offsets: dict[tuple[int, str], int] = {}
        self._appends: set[tuple[int, str]] = set()

    def _relative(self, path: str) -> str | None:
        return path.removeprefix(self._root) if path.startswith(self._root) else None

    def operations(self, name: str, arguments: str, result: int, rest: str) -> Iterator[Operation]:
        if result < 0:
            return
        texts = [_decode(text) for text in _TEXT.findall(arguments)]
        number, path = self._descriptor(arguments)
        if name in ("open", "openat", "creat"):
            yield from self._open(result, _decode_path(rest), arguments)
        elif name in ("write", "pwrite64", "writev") and path is not None:
            data = b"".join(texts)[:result]
            file = number, path
            offset = int(arguments.rpartition(", ")[2]) if name == "pwrite64" else self._offsets.get(file, 0)
            if name != "pwrite64":
                self._offsets[file] = offset + result
            yield Operation("append" if file in self._appends else "write", path, offset=offset, data=data)
        elif name == "lseek" and path is not None:
            self._offsets[number, path] = result
        elif name == "ftruncate" and path is not None:
            yield Operation("truncate", path, offset=int(arguments.rpartition(", ")[2]))
        elif name in ("fsync", "fdatasync") and path is not None:
            yield Operation("sync", path)
        elif name in ("copy_file_range", "sendfile") and path is not None:
            raise RuntimeError(f"{name} of {path} is not modeled")
        elif name.startswith(("rename", "link")):
            old, new = (self._relative(os.fsdecode(text)) for text in texts[:2])
            if new is not None:
                if old is None:
                    raise RuntimeError(f"{name} from outside to {new} is not modeled")
                yield Operation("rename" if name.startswith("rename") else "link", old, new)
                self._known.add(new)
                if name.startswith("rename"):
                    self._known.discard(old)
        elif name.startswith(("mkdir", "unlink", "rmdir", "truncate")):
            at = self._full(arguments, os.fsdecode(texts[0]))
            target = self._relative(at)
            if target is not None:
                is_rmdir = "AT_REMOVEDIR" in arguments
                what = "rmdir" if is_rmdir else name.removesuffix("at")
                yield Operation(what, target)
                self._known.discard(target)

    def _open(self, number: int, path: str | None, flags: str) -> Iterator[Operation]:
        relative = None if path is None else self._relative(path)
        if relative is None:
            return
        self._offsets[number, relative] = 0
        self._appends.discard((number, relative))
        if "O_APPEND" in flags:
            self._appends.add((number, relative))
        if "O_CREAT" in flags and relative not in self._known:
            self._known.add(relative)
            yield Operation("create", relative)
        elif "O_TRUNC" in flags:
            yield Operation("truncate", relative)

    def _full(self, arguments: str, name: str) -> str:
        if name.startswith("/"):
            return name
        match = _DESCRIPTOR.search(arguments)
        return f"{_decode(match[2]).decode()}/{name}" if match else name

    def _descriptor(self, arguments: str) -> tuple[int, str | None]:
        match = _DESCRIPTOR.match(arguments)
        if match is None or not match[1].isdigit():
            return -1, None
        path = _decode(match[2]).decode(errors="replace").removesuffix(" (deleted)")
        relative = self._relative(path)
        if relative is None and f"{path}/" == self._root:
            relative = ""
        return int(match[1]), relative


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


def _decode_path(rest: str) -> str | None:
    match = re.match(r"<([^>]*)>", rest)
    return _decode(match[1]).decode() if match else None


# --- the file system --------------------------------------------------------------------------------------------------


@dataclass
class File:
    """Content now and at the last flush; ``was_cut`` tells whether it was cut off since."""

    now: bytearray = field(default_factory=bytearray)
    flushed: bytes = b""
    was_cut: bool = False

    def after_cut(self, how: str) -> bytes:
        """Return the content after a power cut: ``kept``, ``data lost``, ``zeros`` or ``half``."""
        if how == "kept":
            return bytes(self.now)
        n_kept = 0 if self.was_cut else len(self.flushed)
        safe = b"" if self.was_cut else self.flushed
        if how == "data lost":
            return safe
        if how == "zeros":
            return safe + bytes(max(0, len(self.now) - n_kept))
        return safe + bytes(self.now[n_kept : n_kept + (len(self.now) - n_kept) // 2])


@dataclass
class Directory:
    """Entries now and at the last flush."""

    now: dict[str, File | Directory] = field(default_factory=dict)
    flushed: dict[str, File | Directory] = field(default_factory=dict)


class Disk:
    """A folder, with what of it is on disk."""

    def __init__(self) -> None:
        self.root = Directory()

    def apply(self, operation: Operation) -> None:
        name, path = operation.name, operation.path
        if name == "sync":
            node = self._node(path)
            if isinstance(node, Directory):
                node.flushed = dict(node.now)
            else:
                node.flushed, node.was_cut = bytes(node.now), False
            return
        if name in ("write", "append", "truncate"):
            file = self._node(path)
            assert isinstance(file, File)
            if name == "truncate":
                file.was_cut |= operation.offset < len(file.flushed)
                file.now = file.now[: operation.offset].ljust(operation.offset, b"\0")
                return
            offset = len(file.now) if name == "append" else operation.offset
            if offset > len(file.now):
                file.now.extend(bytes(offset - len(file.now)))
            file.now[offset : offset + len(operation.data)] = operation.data
            return
        parent, _, entry = path.rpartition("/")
        entries = self._directory(parent).now
        if name == "create":
            entries[entry] = File()
        elif name == "mkdir":
            entries[entry] = Directory()
        elif name in ("unlink", "rmdir"):
            del entries[entry]
        else:
            target, _, new = operation.target.rpartition("/")
            node = entries[entry] if name == "link" else entries.pop(entry)
            self._directory(target).now[new] = node

    def _node(self, path: str) -> File | Directory:
        node: File | Directory = self.root
        for part in path.split("/") if path else []:
            assert isinstance(node, Directory)
            node = node.now[part]
        return node

    def _directory(self, path: str) -> Directory:
        node = self._node(path)
        assert isinstance(node, Directory)
        return node

    def after_cut(self, variant: str, draw: random.Random) -> dict[str, bytes | None]:
        """Return what a power cut leaves: content by path, None for a directory."""
        left: dict[str, bytes | None] = {}
        self._collect(self.root, "", variant, draw, left)
        return left

    def _collect(
        self, directory: Directory, path: str, variant: str, draw: random.Random, left: dict[str, bytes | None]
    ) -> None:
        are_lost = variant in ("names lost", "both lost") or (variant.startswith("mixed") and draw.random() < 0.5)
        for name, node in sorted((directory.flushed if are_lost and path else directory.now).items()):
            where = f"{path}/{name}" if path else name
            if isinstance(node, Directory):
                left[where] = None
                self._collect(node, where, variant, draw, left)
                continue
            how = {"names lost": "kept", "both lost": "data lost"}.get(variant, variant)
            if variant.startswith("mixed"):
                how = draw.choice(("kept", "data lost", "zeros", "half"))
            left[where] = node.after_cut(how)


def states(operations: Sequence[Operation]) -> Iterator[tuple[int, str, dict[str, bytes | None]]]:
    """Yield each distinct state after each operation: its number, the variant, and what is left."""
    disk, seen = Disk(), set()
    for number, operation in enumerate(operations, 1):
        disk.apply(operation)
        for variant in VARIANTS:
            left = disk.after_cut(variant, random.Random(f"{number} {variant}"))
            digest = hashlib.sha256()
            for path, content in left.items():
                is_dull = path.rpartition("/")[2].startswith(_DULL)
                digest.update(
                    json.dumps([path, None if content is None else len(content) if not is_dull else 0]).encode()
                )
                digest.update(b"" if content is None or is_dull else content)
            if digest.digest() not in seen:
                seen.add(digest.digest())
                yield number, variant, left


def write_state(left: Mapping[str, bytes | None], folder: Path) -> None:
    """Write what a power cut has left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in left.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def resume(work: Work, folder: Path, expected: Mapping[str, bytes]) -> Verdict:
    """Resume the run in ``folder/run`` from what is left of it; return the verdict."""
    run = folder / "run"
    wrong_claim = false_claim(work, run, expected)
    if wrong_claim:
        return Verdict("failed", wrong_claim)
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    ended = Process(work.module, work.command(run), folder.with_name(f"{folder.name}.err")).wait()
    return judge(ended, work.results(run), expected, _named(ended, files))


def false_claim(work: Work, run: Path, expected: Mapping[str, bytes]) -> str:
    """Return what is wrong in a state whose manifest says that the run is completed; the report is written later."""
    try:
        manifest = json.loads((run / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return ""
    if manifest.get("status") != "completed":
        return ""
    found = work.results(run)
    missing = [name for name in expected if name != "report.html" and found.get(name) != expected[name]]
    return f"completed, but without {', '.join(missing)}" if missing else ""


def _named(ended: Ended, files: Sequence[str]) -> str | None:
    """Return the file of the run that the message names."""
    lines = lines_with("error: ", ended.err) if ended.code else lines_with("warning: ", ended.err)
    named = [name for name in (*files, "metrics.jsonl") if any(Path(name).name in line for line in lines)]
    return named[0] if named else None


# --- the command ------------------------------------------------------------------------------------------------------


def recorded(work: Work, folder: Path) -> tuple[str, list[Operation]]:
    """Return a name and the operations of a recording, which is made if there is none in the folder."""
    path = folder / "recording.json"
    if path.exists():
        content = json.loads(path.read_text(encoding="ascii"))
        return content["name"], [
            Operation(name, path, target, offset, bytes.fromhex(data))
            for name, path, target, offset, data in content["operations"]
        ]
    shutil.rmtree(folder, ignore_errors=True)
    operations = record(work, folder / "recorded", folder / "traces")
    require_whole(operations, folder / "recorded")
    name = uuid.uuid4().hex[:8]
    rows = [[*operation[:4], operation.data.hex()] for operation in operations]
    path.write_text(json.dumps({"name": name, "operations": rows}), encoding="ascii")
    shutil.rmtree(folder / "traces")
    return name, operations


def require_whole(operations: Sequence[Operation], folder: Path) -> None:
    """Make sure that the operations, one after the other, give the files that the run has left."""
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    replayed = {
        path: content for path, content in disk.after_cut("kept", random.Random(0)).items() if content is not None
    }
    left = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    different = sorted(path for path in {*replayed, *left} if replayed.get(path) != left.get(path))
    if different:
        raise RuntimeError(f"the recording does not give the files of the run: {', '.join(different)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if a state has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", default=["images", "number"], metavar="NAME", help="what is recorded")
    parser.add_argument("--most", type=int, metavar="N", help="at most so many states of each recording, at random")
    parser.add_argument("--results", type=Path, default=LINES)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "power_cut")
    options = parser.parse_args(argv)
    folder = options.folder.absolute()
    catalog = works(folder / "data")
    outcomes: Counter[str] = Counter()
    for name in options.works:
        work = catalog[name]
        recording, operations = recorded(work, folder / name)
        expected = undisturbed(work, folder / "undisturbed")
        all_states = list(states(operations))
        # In random order, so that an interrupted command has a sample of all of them.
        chosen = random.Random(0).sample(range(len(all_states)), len(all_states))[: options.most]
        print(f"{name}: {len(operations)} operations, {len(all_states)} distinct states", flush=True)
        lines = [line for line in read_lines(options.results) if line["work"] != name or line["recording"] == recording]
        write_lines(options.results, lines)
        known = {line["state"] for line in lines if line["work"] == name}
        for index in chosen:
            if index in known:
                continue
            number, variant, left = all_states[index]
            place = folder / f"{name}_{index}"
            write_state(left, place)
            verdict = resume(work, place, expected)
            outcomes[verdict.outcome] += 1
            if verdict.outcome == "failed":
                write_state(left, place)  # as it was before the run was resumed
                print(
                    f"{name} {index}: {variant} after {operations[number - 1][:4]}: {verdict.detail} ({place})",
                    flush=True,
                )
            else:
                shutil.rmtree(place)
            place.with_name(f"{place.name}.err").unlink(missing_ok=True)
            line = {"work": name, "recording": recording, "operations": len(operations), "states": len(all_states)}
            line |= {"state": index, "operation": number, "after": operations[number - 1].name, "variant": variant}
            line |= {"outcome": verdict.outcome, "detail": verdict.detail.replace(str(place), "FOLDER")}
            append_line(options.results, line | {"version": version()})
    print(", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items())) or "nothing to do")
    return 1 if outcomes["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
