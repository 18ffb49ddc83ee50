"""Kill runs at random moments, damage some of their files, resume them, and compare their results:

    python scripts/chaos.py 300                  300 runs of one process
    python scripts/chaos.py 300 --ranks 2        300 runs of two processes
    python scripts/chaos.py --only 17            run 17 alone, with the same draws

Each run is killed with SIGKILL one to four times: at a random moment, or a random fraction of a second after it has
reached a phase that is drawn too: its start, the pretraining, the joint phase, an evaluation, a checkpoint, the writing
of its results. One in ten meets a fault besides: a process that can write no file beyond a random size, as on a full
disk; or a file of the run directory, drawn at random, that is cut off at a random byte, has zeros from there on, or has
one bit flipped. Then it is resumed until it ends. It must end

- *equal*: each result file has the bytes of the undisturbed run;
- *told*: as equal, but for the one file that was damaged, which a warning names;
- *refused*: with exit code 2 and one line that names the damaged file.

All else is *failed*: the run directory as it was before the last process is then kept below ``--folder``.

Most processes are forked from a server that has imported everything; one run in twenty is started with ``python -m``,
or with torchrun if it has two processes. Of the runs with one process, one in twenty is a sweep, a ``dkm.select`` or a
``dkm.tune``, of which sometimes only the parent is killed and its children live on. Of the runs with two processes,
sometimes only one is killed.

Each run is a line of ``docs/reliability/chaos.jsonl``; those in that file are not run again, so that the command goes
on where it was interrupted. ``scripts/reliability.py`` makes the tables of ``docs/reliability.md`` of it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attacks import (
    RESULTS,
    Ended,
    Process,
    Verdict,
    Work,
    append_line,
    judge,
    last_line,
    lines_with,
    read_lines,
    undisturbed,
    version,
    works,
)

LINES = RESULTS / "chaos.jsonl"
PHASES = ("any", "start", "pretraining", "joint", "evaluation", "checkpoint", "results")
FAULTS = ("full", "cut", "zeros", "bit")
# Seconds after a phase was reached within which the signal comes.
_WINDOW_S = {
    "any": 2.5,
    "start": 0.8,
    "pretraining": 0.5,
    "joint": 0.5,
    "evaluation": 0.01,
    "checkpoint": 0.02,
    "results": 0.6,
}
# Where the imports or several runs come first.
_SLOW = {"plain": 8.0, "torchrun": 12.0, "search": 12.0}
_POLL_S = 0.0002
# Attempts to kill, or to start while children of a killed search still train.
_N_TRIES, _PATIENCE_S, _PAUSE_S = 4, 90.0, 0.3


@dataclass(frozen=True)
class Case:
    """What is done to one run: all draws of it, but for those of the moments."""

    seed: int
    index: int
    n_ranks: int
    work: str
    way: str
    n_kills: int
    fault: str | None
    every_s: str

    @property
    def key(self) -> tuple[int, int, int]:
        return (self.n_ranks, self.seed, self.index)


@dataclass
class Story:
    """What was done to a run."""

    kills: list[dict[str, Any]] = field(default_factory=list)
    fault: dict[str, Any] | None = None
    damaged: str | None = None


def draw_case(seed: int, index: int, n_ranks: int) -> Case:
    """Return the case with this number."""
    draw = random.Random(f"{seed} {index} {n_ranks}")
    way, work = "fork", draw.choice(["images", "table", "number", "dec", "averaged", "resets"])
    if index % 20 == 3:
        way = "plain" if n_ranks == 1 else "torchrun"
    elif index % 20 == 9 and n_ranks == 1:
        work = ("sweep", "select", "tune")[index // 20 % 3]
    is_fault = index % 10 == 7
    return Case(
        seed=seed,
        index=index,
        n_ranks=n_ranks,
        work=work,
        way=way,
        n_kills=1 + min(int(draw.expovariate(1.0)), 3),
        fault=FAULTS[index // 10 % len(FAULTS)] if is_fault else None,
        every_s=draw.choice(["0", "0", "1000"]),
    )


# --- one case ---------------------------------------------------------------------------------------------------------


class Attack:
    """Does to one run what its case says.

    Parameters
    ----------
    case : Case
    work : Work
    expected : dict
        The results of the undisturbed run.
    folder : Path
        For the run directory and what is needed beside it.
    """

    def __init__(self, case: Case, work: Work, expected: dict[str, bytes], folder: Path) -> None:
        self.case, self.work, self.expected = case, work, expected
        self.folder = folder
        self.run = folder / "run"
        self.before = folder / "before"
        self.draw = random.Random(f"{case.seed} {case.index} {case.n_ranks} moments")
        self.story = Story()

    def execute(self) -> Verdict:
        """Kill, damage and resume the run until it ends; return the verdict."""
        verdict = self._kill_until_enough()
        if verdict is not None:
            return verdict
        if self.case.fault is not None:
            verdict = self._fault()
            if verdict is not None:
                return verdict
        return self._judge(self._resume())

    def _kill_until_enough(self) -> Verdict | None:
        """Kill the run as often as the case says; return a verdict if it ended before in a way that it must not."""
        for _ in range(self.case.n_kills + _N_TRIES):
            has_file_to_damage = self.case.fault in (None, "full") or (self.run / "config.yaml").exists()
            if len(self.story.kills) >= self.case.n_kills and has_file_to_damage:
                return None
            ended = self._kill_once()
            if ended is None:
                continue
            if _is_in_use(ended) and any(kill["which"] == "parent" for kill in self.story.kills):
                time.sleep(_PAUSE_S)
                continue
            if ended.code != 0:
                return self._judge(ended)
            if self.story.kills:  # it has completed, which a resume must not change
                return None
            shutil.rmtree(self.run)  # too late for the first kill
        return None

    def _kill_once(self) -> Ended | None:
        """Start or resume the run and kill it; return how it ended if it was not killed."""
        case, phase = self.case, self.draw.choice(PHASES)
        which = "all"
        is_begun = (self.run / "config.yaml").exists()
        if case.n_ranks > 1 and case.way == "fork" and is_begun and self.draw.random() < 0.3:
            which = str(self.draw.randrange(2))
        elif not self.work.is_resumed_by_name and self.work.name != "sweep" and self.draw.random() < 0.4:
            which = "parent"
        started = time.monotonic()
        process = self._start()
        if which in ("0", "1"):  # the processes have found each other; before that torchrun would end the other
            self._wait_for("pretraining", process, started)
        reached = self._wait_for(phase, process, started)
        delay = self.draw.uniform(0, self._window(phase))
        if reached:
            time.sleep(delay)
        if process.has_ended:
            return process.wait()
        kill = {"phase": phase, "after_s": round(time.monotonic() - started, 6), "which": which}
        process.kill(which)
        ended = process.wait()
        self.story.kills.append(kill | {"found": self._position()})
        is_survivor = which in ("0", "1")
        if is_survivor and (ended.code is None or "Traceback" in ended.err):
            return Ended(None, f"the other rank: {ended.err}")
        return None

    def _start(self, max_file_bytes: int | None = None) -> Process:
        case, words = self.case, self.work.command(self.run)
        if self.work.is_resumed_by_name and words[0] != f"resume={self.run}":
            words = [*words, f"checkpoint.every_s={case.every_s}"]
        shutil.rmtree(self.before, ignore_errors=True)
        if self.run.exists():
            shutil.copytree(self.run, self.before)
        log = self.folder / "err"
        return Process(self.work.module, words, log, way=case.way, n_ranks=case.n_ranks, max_file_bytes=max_file_bytes)

    def _resume(self, max_file_bytes: int | None = None) -> Ended:
        """Resume the run to its end, once children of a killed search have ended."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            ended = self._start(max_file_bytes).wait()
            if not _is_in_use(ended) or time.monotonic() > deadline:
                return ended
            time.sleep(_PAUSE_S)

    def _judge(self, ended: Ended) -> Verdict:
        return judge(ended, self.work.results(self.run), self.expected, self.story.damaged)

    # --- moments ---

    def _window(self, phase: str) -> float:
        slow = _SLOW.get(self.case.way, 0.0) if self.work.is_resumed_by_name else _SLOW["search"]
        return _WINDOW_S[phase] + (slow if phase in ("any", "start") else 0.0)

    def _wait_for(self, phase: str, process: Process, started: float) -> bool:
        """Wait until the run has reached a phase; return False if it ended before."""
        is_reached = self._condition(phase)
        while not is_reached():
            if process.has_ended:
                return False
            if time.monotonic() - started > _PATIENCE_S:
                return True
            time.sleep(_POLL_S)
        return True

    def _condition(self, phase: str) -> Callable[[], bool]:
        """Return the test whether a phase has been reached."""
        pattern = "" if self.work.is_resumed_by_name else "**/"
        count = self.draw.randint(1, 8)

        def stamps(name: str) -> dict[Path, int]:
            found = {}
            for path in self.run.glob(f"{pattern}{name}"):
                try:
                    found[path] = path.stat().st_mtime_ns
                except OSError:
                    continue
            return found

        def changes(name: str, n_changes: int) -> Callable[[], bool]:
            last, seen = stamps(name), 0

            def is_changed() -> bool:
                nonlocal last, seen
                now = stamps(name)
                seen, last = seen + (now != last), now
                return seen >= n_changes

            return is_changed

        def is_joint() -> bool:
            return any(b'"phase": "joint"' in path.read_bytes() for path in self.run.glob(f"{pattern}metrics.jsonl"))

        return {
            "any": lambda: True,
            "start": lambda: True,
            "pretraining": changes("manifest.json", 1),
            "joint": is_joint,
            "evaluation": changes("metrics.jsonl", min(count, 3)),
            "checkpoint": changes("checkpoints/last.pt", count),
            "results": changes("result.json", 1),
        }[phase]

    def _position(self) -> str:
        """Return how far the run has come, by its files."""
        if not self.work.is_resumed_by_name:
            return "search"
        files = {path.relative_to(self.run).as_posix() for path in self.run.rglob("*") if path.is_file()}
        writing = sorted(name for name in files if name.endswith(".tmp"))
        if "config.yaml" not in files:
            return "start"
        if writing:
            return f"writing {writing[0].removesuffix('.tmp')}"
        if "report.html" in files:
            return "end"
        if "result.json" in files:
            return "results"
        if "metrics.jsonl" not in files:
            return "baseline"
        return "joint" if b'"phase": "joint"' in (self.run / "metrics.jsonl").read_bytes() else "pretraining"

    # --- faults ---

    def _fault(self) -> Verdict | None:
        """Let the run meet its fault; return the verdict if that ends it."""
        if self.case.fault == "full":
            n_bytes = int(10 ** self.draw.uniform(2.3, 6.3))
            self.story.fault = {"kind": "full", "bytes": n_bytes}
            ended = self._resume(n_bytes)
            errors = lines_with("error: ", ended.err)
            is_said = ended.code in (1, 2) and len(errors) == 1 and "File too large" in errors[0]
            if "Traceback" in ended.err or not (ended.code == 0 or is_said):
                return Verdict("failed", f"disk full, exit code {ended.code}: {last_line(ended.err)}")
            self.story.fault["end"] = "completed" if ended.code == 0 else "one line"
            return None
        victims = sorted(path for path in self.run.rglob("*") if path.is_file() and path.stat().st_size > 0)
        if not victims:
            return None
        dull = ("events.out", "train.log", "run.lock")
        worthy = [path for path in victims if not path.name.startswith(dull) and ".hydra" not in path.parts]
        victim = self.draw.choice(worthy if worthy and self.draw.random() < 0.8 else victims)
        assert self.case.fault is not None
        offset = damage(victim, self.case.fault, self.draw)
        self.story.damaged = victim.relative_to(self.run).as_posix()
        self.story.fault = {"kind": self.case.fault, "file": self.story.damaged, "offset": offset}
        return None


def _is_in_use(ended: Ended) -> bool:
    """Return whether a start was refused because children of a killed search still train."""
    return ended.code == 2 and "in use by" in ended.err


def damage(path: Path, kind: str, draw: random.Random) -> int:
    """Damage a file at a random byte; return its offset.

    Parameters
    ----------
    kind : {"cut", "zeros", "bit"}
        The file ends there; it has zeros from there on; or one bit of that byte is flipped.
    """
    content = bytearray(path.read_bytes())
    offset = draw.randrange(len(content))
    if kind == "cut":
        content = content[:offset]
    elif kind == "zeros":
        content[offset:] = bytes(len(content) - offset)
    else:
        content[offset] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return offset


# --- the command ------------------------------------------------------------------------------------------------------


def attack(case: Case, work: Work, expected: dict[str, bytes], folder: Path) -> dict[str, Any]:
    """Execute a case in a folder; return its line of the results. The folder stays if the case has failed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    attacked = Attack(case, work, expected, folder)
    verdict = attacked.execute()
    if verdict.outcome != "failed":
        shutil.rmtree(folder)
    return {
        "ranks": case.n_ranks,
        "seed": case.seed,
        "case": case.index,
        "work": case.work,
        "way": case.way,
        "every_s": case.every_s,
        "kills": attacked.story.kills,
        "fault": attacked.story.fault,
        "outcome": verdict.outcome,
        "detail": verdict.detail.replace(str(folder), "FOLDER"),
        "seconds": round(time.monotonic() - started, 1),
        "version": version(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if a run has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", type=int, default=300, metavar="N", help="number of runs")
    parser.add_argument("--ranks", type=int, choices=[1, 2], default=1, help="processes that train together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, action="append", metavar="I", help="this run alone; no line is written")
    parser.add_argument("--results", type=Path, default=LINES)
    parser.add_argument("--folder", type=Path, help="where the runs are, and failed ones stay")
    options = parser.parse_args(argv)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="dkm-chaos-"))
    catalog = works(folder / "data")
    expected: dict[str, dict[str, bytes]] = {}
    known = {(line["ranks"], line["seed"], line["case"]) for line in read_lines(options.results)}
    outcomes: Counter[str] = Counter()
    for index in options.only or range(options.cases):
        case = draw_case(options.seed, index, options.ranks)
        if case.key in known and not options.only:
            continue
        if case.work not in expected:
            expected[case.work] = undisturbed(catalog[case.work], folder / "undisturbed", n_ranks=case.n_ranks)
        place = folder / f"{case.n_ranks}_{case.seed}_{case.index}"
        line = attack(case, catalog[case.work], expected[case.work], place)
        outcomes[line["outcome"]] += 1
        if not options.only:
            append_line(options.results, line)
        print(
            f"{index}: {case.work} {case.way}: {len(line['kills'])} kills, {line['fault']}: {line['outcome']}", end=""
        )
        print(f" ({line['detail']}; {place})" if line["outcome"] == "failed" else "", flush=True)
    print(", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items())) or "nothing to do")
    if not options.folder and not outcomes["failed"]:
        shutil.rmtree(folder)
    return 1 if outcomes["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
