"""Make the summaries and the tables of ``docs/reliability.md`` of what the attacks have found:

    python scripts/reliability.py

reads ``docs/reliability/chaos.jsonl``, ``power_cut.jsonl`` and ``soak.jsonl``, writes a summary of each beside it
(``chaos.json`` and so on), and replaces the tables of the page, each between two comments with its name. The figures of
``fuzz.py`` and ``fuzz_coverage.py`` are in ``fuzz.json`` as those write them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attacks import RESULTS, ROOT, read_lines
from soak import verdict

PAGE = ROOT / "docs" / "reliability.md"
OUTCOMES = ("equal", "told", "refused", "failed")
_WAYS = {"fork": "forked", "plain": "`python -m dkm.train`", "torchrun": "torchrun"}
_SEARCHES = {"sweep": "a sweep", "select": "`dkm select`", "tune": "`dkm tune`"}
# What the targets of scripts/fuzz.py are; all others are files of data.
_FUZZED = {
    "command lines": ("config",),
    "configs of run directories": ("run_config", "run_config_bytes"),
    "models, weights, checkpoints, run directories": (
        *("run", "model", "model_bytes", "weights", "checkpoint", "signed_checkpoint"),
    ),
    "whole trainings": ("train",),
}
_FILES = "files of data"
_FAULTS = {"full": "disk full", "cut": "file cut off", "zeros": "file ends in zeros", "bit": "one bit flipped"}


# --- summaries --------------------------------------------------------------------------------------------------------


def summarize_chaos(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of ``chaos.jsonl``."""
    return {
        "versions": _versions(lines),
        "seeds": sorted({line["seed"] for line in lines}),
        "ranks": _counts((str(line["ranks"]), line) for line in lines),
        "ways": _counts((_way(line), line) for line in lines),
        "faults": _counts((line["fault"]["kind"], line) for line in lines if line["fault"]),
        "found": dict(sorted(Counter(_place(kill["found"]) for line in lines for kill in line["kills"]).items())),
    }


def _way(line: Mapping[str, Any]) -> str:
    return str(line["work"] if line["work"] in _SEARCHES else line["way"])


def _place(found: str) -> str:
    return "writing a file" if found.startswith("writing") else found


def _counts(lines: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for name, line in lines:
        count = counts.setdefault(name, Counter())
        count["runs"] += 1
        count["kills"] += len(line.get("kills", ()))
        count["faults"] += line.get("fault") is not None
        count[line["outcome"]] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def _versions(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({line["version"] for line in lines})


def summarize_power_cut(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of ``power_cut.jsonl``."""
    runs = _counts((line["work"], line) for line in lines)
    for line in lines:
        runs[line["work"]] |= {"operations": line["operations"], "states": line["states"]}
    variants = _counts((line["variant"].partition(" 1")[0].partition(" 2")[0], line) for line in lines)
    return {"versions": _versions(lines), "runs": runs, "variants": variants}


def summarize_soak(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the samples of ``soak.jsonl`` show, by mode."""
    modes = sorted({line["mode"] for line in lines})
    found = {mode: verdict([line for line in lines if line["mode"] == mode]) for mode in modes}
    return {"versions": _versions(lines), "modes": found}


SUMMARIES = {"chaos": summarize_chaos, "power_cut": summarize_power_cut, "soak": summarize_soak}


def fuzz_rows(figures: Mapping[str, Any]) -> list[list[object]]:
    """Return kinds of input with the number of examples, how many were read, refused and faults, of ``fuzz.json``."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*_FUZZED, _FILES)}
    for target, found in figures["targets"].items():
        name = next((name for name, targets in _FUZZED.items() if target in targets), _FILES)
        counts[name].update({key: found.get(key, 0) for key in ("examples", "read", "refused", "n_faults")})
    guided = sum(found["executions"] for found in figures["coverage"]["targets"].values())
    rows: list[list[object]] = [
        [name, *(f"{count[key]:,}" for key in ("examples", "read", "refused", "n_faults"))]
        for name, count in counts.items()
    ]
    faults = sum(len(found["faults"]) for found in figures["coverage"]["targets"].values())
    return [*rows, ["files, guided by coverage", f"{guided:,}", "", "", f"{faults:,}"]]


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(summaries: Mapping[str, Mapping[str, Any]], fuzz: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the lines of each table of the page, by its name; ``fuzz`` has the figures of the fuzzing."""
    chaos, power, soak = (summaries[name] for name in ("chaos", "power_cut", "soak"))
    counted, names = ("runs", "kills", "faults", *OUTCOMES), ("runs", "kills", "with a fault", *OUTCOMES)
    ways = {**_WAYS, **_SEARCHES}
    return {
        "ranks": _table(("processes", *names), _rows(chaos["ranks"], counted)),
        "ways": _table(("started as", *names), _rows(chaos["ways"], counted, ways)),
        "found": _table(("where the signal met the run", "kills"), [[k, v] for k, v in chaos["found"].items()]),
        "faults": _table(("fault", "runs", *OUTCOMES), _rows(chaos["faults"], ("runs", *OUTCOMES), _FAULTS)),
        "power_cut": _table(
            ("recorded run", "operations", "states", "tried", *OUTCOMES),
            _rows(power["runs"], ("operations", "states", "runs", *OUTCOMES)),
        ),
        "variants": _table(("on disk", "tried", *OUTCOMES), _rows(power["variants"], ("runs", *OUTCOMES))),
        "soak": _table(
            ("mode", "runs", "bytes per run", "memory, MB", "open files", "threads", "below the bar"),
            [
                [
                    *(mode, found["runs"], f"{found['bytes_per_run']:,}"),
                    " -> ".join(f"{memory / 1e6:.1f}" for memory in found["memory"]),
                    *(" -> ".join(map(str, found[key])) for key in ("files", "threads")),
                    "yes" if found["is_flat"] else "no",
                ]
                for mode, found in soak["modes"].items()
            ],
        ),
        "fuzz": _table(("input", "examples", "read", "refused", "faults"), fuzz_rows(fuzz)),
    }


def _rows(
    counts: Mapping[str, Mapping[str, int]], keys: Sequence[str], names: Mapping[str, str] | None = None
) -> list[list[object]]:
    ordered = [name for name in names or counts if name in counts]
    return [[(names or {}).get(name, name), *(counts[name].get(key, 0) for key in keys)] for name in ordered]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(str, row))} |".replace("| --- ", "|---").replace(" --- |", "---|") for row in cells]


def with_tables(page: str, made: Mapping[str, Sequence[str]]) -> str:
    """Return the page with its tables replaced."""
    for name, lines in made.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"{PAGE}: expected a table between <!-- {name} --> and <!-- end -->")
        page = "\n".join((before + mark, *lines, "", end + after))
    return page


def make_page(page: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the summaries, and the page with the tables that they give."""
    summaries = {name: summarize(read_lines(RESULTS / f"{name}.jsonl")) for name, summarize in SUMMARIES.items()}
    fuzz = json.loads((RESULTS / "fuzz.json").read_text(encoding="utf-8"))
    return summaries, with_tables(page, tables(summaries, fuzz))


def main() -> int:
    summaries, page = make_page(PAGE.read_text(encoding="utf-8"))
    for name, summary in summaries.items():
        (RESULTS / f"{name}.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
