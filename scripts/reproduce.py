"""Runs the experiments that are missing, and writes ``docs/results.md``; see ``reproduce.sh``."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import spearmanr

from dkm.config.commands import EXIT_INTERRUPTED, EXIT_USER_ERROR
from dkm.config.compose import compose, parse
from dkm.config.roles import differences, distinguishing_settings
from dkm.config.schema import dotted
from dkm.config.values import quoted
from dkm.errors import UserError
from dkm.evaluation.scores import SCORES
from dkm.evaluation.summary import Summary
from dkm.runs import reading
from dkm.runtime.atomic import write_atomically
from dkm.search.pool import ChildRun, train_in_child
from dkm.training.state import PHASES

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "reproduce"
RESULTS = ROOT / "docs" / "results"
TABLE = ROOT / "docs" / "results.md"
AGAINST_LABELS = [score for score in SCORES.values() if score.needs_labels]
# A run that ends this far below the best ACC of its data set ended badly: in another partition, not another detail.
BAD = 0.02
# Scores without labels, with the sign that makes higher better. Inertias of two runs are not comparable: the scales of
# their spaces differ.
LABEL_FREE = {
    score.name: 1 if score.higher_is_better else -1
    for score in SCORES.values()
    if not score.needs_labels and score.space != "objective"
}
# Entries of the manifest that are kept; the others describe the machine.
KEPT = ("versions", "git", "threads", "processes", "processor", "device", "precision", "data", "seed", "seconds")


class Experiment(NamedTuple):
    """The number of seeds in the table, and the published ACC and NMI, None if there is none.

    A variation has the name of the varied experiment as ``base`` and the ``overrides`` that differ.
    """

    n_seeds: int
    method: str
    acc: float | None = None
    nmi: float | None = None
    source: str = ""
    base: str | None = None
    overrides: tuple[str, ...] = ()


DKM = (
    "arXiv:1806.10069, from memory; ACC over ten runs {}, of 90 % of the data, the weight chosen by labels of the rest"
)
DEC_DA = "{}, from memory; ConvDEC-DA, convolutional, has {} (README of XifengGuo/DEC-DA)"
ASPC_DA = "TKDE 2019, from memory"
BRB = "the authors of BRB measured ACC {} (pretrained)"
EXPERIMENTS = {
    "flagship_mnist": Experiment(3, "flagship", 0.988, 0.966, f"ASPC-DA, {ASPC_DA}"),
    "flagship_usps": Experiment(5, "flagship", 0.982, 0.951, f"ASPC-DA, {ASPC_DA}"),
    "flagship_digits": Experiment(10, "flagship"),
    "dkm_mnist": Experiment(3, "DKM, pretrained", 0.840, 0.796, DKM.format("0.840 ± 0.022")),
    "dkm_usps": Experiment(5, "DKM, pretrained", 0.757, 0.776, DKM.format("0.757 ± 0.013")),
    "dkm_newsgroups": Experiment(3, "DKM, pretrained", 0.512, 0.467, DKM.format("0.512 ± 0.028")),
    "dcn_mnist": Experiment(
        3, "DCN", 0.83, 0.81, f"as quoted in boyangumn/DCN, issue 4; {BRB.format('0.892 ± 0.020')}"
    ),
    "dcn_usps": Experiment(5, "DCN", 0.783, None, BRB.format("0.783")),
    "idec_mnist": Experiment(3, "IDEC", 0.881, 0.867, "IJCAI 2017; NMI from memory"),
    "idec_usps": Experiment(5, "IDEC", 0.761, 0.785, "IJCAI 2017; NMI from memory"),
    "dec_da_mnist": Experiment(3, "FcDEC-DA", None, None, DEC_DA.format("ACC about 0.983 to 0.985", "0.985 / 0.960")),
    "dec_da_usps": Experiment(5, "FcDEC-DA", None, None, DEC_DA.format("ACC about 0.98", "0.987 / 0.962")),
    "aspc_da_mnist": Experiment(3, "ASPC-DA", 0.988, 0.966, ASPC_DA),
    "aspc_da_usps": Experiment(5, "ASPC-DA", 0.982, 0.951, ASPC_DA),
}
# Variations of the flagship in one setting.
VARIED = {
    "flagship_usps": (
        *(f"clustering.weight={weight}" for weight in ("0.1", "0.3", "3.0", "10.0")),
        *(f"clustering.init={init}" for init in ("k-means++", "gmm", "spectral", "ward")),
        "clustering.centroids=mean",
        "clustering.centroids=fixed",
        "clustering.self_paced=false",
        "clustering.reconstruction=0",
        "clustering.norm_weight=0.1",
        "clustering.reset_every=20",
        "clustering.revive=false",
        "clustering.initial_epochs=1",
    ),
    "flagship_digits": (
        *(f"clustering.init={init}" for init in ("k-means++", "gmm", "spectral", "ward")),
        "clustering.norm_weight=0.1",
        "clustering.reset_every=20",
    ),
}
for _base, _overrides in VARIED.items():
    for _override in _overrides:
        _name = f"{_base}_{_override.removeprefix('clustering.').replace('=', '_')}"
        EXPERIMENTS[_name] = Experiment(EXPERIMENTS[_base].n_seeds, _override, base=_base, overrides=(_override,))


def main() -> int:
    """Train missing runs, and write the table of all existing results."""
    words = sys.argv[1:]
    names = words[0].split(",") if words else list(EXPERIMENTS)
    unknown = [name for name in names if name not in EXPERIMENTS]
    seeds = words[1].split(",") if len(words) > 1 else None
    wrong = [seed for seed in seeds or () if not seed.isdecimal()]
    if unknown or wrong or len(words) > 2:
        bad = (unknown or wrong or words[2:])[0]
        print(f"error: {bad}: expected [NAMES] [SEEDS]; the names are {', '.join(EXPERIMENTS)}", file=sys.stderr)
        return 2
    for name in names:
        for seed in seeds or map(str, range(EXPERIMENTS[name].n_seeds)):
            try:
                code = run(name, int(seed))
            except (UserError, reading.DamagedRun) as error:
                print(f"error: {error}", file=sys.stderr)
                return EXIT_USER_ERROR
            except KeyboardInterrupt:
                return EXIT_INTERRUPTED  # the run has printed how to resume it
            if code != 0:
                return code
            write_atomically(TABLE, table(collect(RESULTS)).encode())
    print(f"written: {TABLE}")
    return 0


def run(name: str, seed: int) -> int:
    """Ensure that the results of a run are in ``docs/results``; return the exit code of training."""
    experiment = EXPERIMENTS[name]
    kept = RESULTS / name / f"seed{seed}.json"
    settings = settings_of(name)
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8"))["settings_sha256"] == settings:
        return 0
    directory = RUNS / name / f"seed{seed}"
    words = [f"experiment={experiment.base or name}", *experiment.overrides, f"seed={seed}"]
    if not _is_completed(directory, words):
        print(f"{name}, seed {seed}: {directory}", flush=True)
        child = train_in_child(ChildRun([*words, f"pretrain.cache={quoted(RUNS / 'cache')}"], directory))
        if child.exit_code < 0:  # killed, without a word of its own
            print(f"error: {directory}: {child.error()}", file=sys.stderr)
            return 1
        if child.exit_code != 0:
            return child.exit_code
    kept.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(summary(directory) | {"settings_sha256": settings}, indent=2) + "\n"
    write_atomically(kept, content.encode())
    return 0


def settings_of(name: str) -> str:
    """Return the SHA-256 of the files of an experiment and of its recipe, without comments, and of its overrides.

    If it changes, the experiment is trained again.
    """
    experiment = EXPERIMENTS[name]
    lines = _lines_of("experiment", experiment.base or name)
    recipes = [line.partition(":")[2].strip() for line in lines if line.strip().startswith("- override /recipe:")]
    lines += [line for recipe in recipes for line in _lines_of("recipe", recipe)]
    return hashlib.sha256("\n".join([*lines, *experiment.overrides]).encode()).hexdigest()


def _lines_of(group: str, option: str) -> list[str]:
    """Return the lines of a config file that are not comments."""
    path = ROOT / "configs" / group / f"{option}.yaml"
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _is_completed(directory: Path, words: Sequence[str]) -> bool:
    """Return whether a directory has a completed run of these overrides.

    Raises
    ------
    UserError
        If its run has other settings.
    """
    if not reading.is_run(directory):
        return False
    settings = distinguishing_settings(dotted(compose(parse(words)).config))
    run = reading.read(directory)
    for key, wanted, kept in differences(settings, run.settings):
        if key != "data.path":  # the data may have moved
            what = f"{key}={kept}, expected {wanted}"
            raise UserError(
                f"{directory}: a run of other settings, {what}; move it away, and the seed is trained again"
            )
    return run.is_completed


def summary(directory: Path) -> dict[str, Any]:
    """Return a run's ``result.json`` and the kept entries of its manifest."""
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return {"result": result, **{key: manifest.get(key) for key in KEPT}}


def collect(results: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results of each experiment with its present settings, in the order of the table and of the seeds."""
    runs = {}
    for name in EXPERIMENTS:
        paths = sorted((results / name).glob("seed*.json"), key=_seed_of)
        kept = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        runs[name] = [run for run in kept if run["settings_sha256"] == settings_of(name)]
    return {name: kept for name, kept in runs.items() if kept}


def _seed_of(path: Path) -> int:
    return int(path.stem.removeprefix("seed"))


_INTRODUCTION = """\
Written by `./scripts/reproduce.sh` from the runs in `docs/results/`; do not edit. Mean and sample standard
deviation over all seeds that were run, without selection. NMI has arithmetic averaging; the geometric mean that some
papers use is equal if clusters and classes have equal entropies. Published figures *from memory* have not yet been
checked in the paper. Seconds are those of the two training phases, on the named processor, with the code *of* these
commits; a pretraining that several methods share counts in full for each. They exclude the work before, between and
after the phases (loading, k-means on the raw data, the initial clusters, figures).
"""


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return ``docs/results.md``."""
    unvaried = {name: kept for name, kept in runs.items() if EXPERIMENTS[name].base is None}
    lines = [
        *("# Results", ""),
        *_INTRODUCTION.splitlines(),
        "",
        "| experiment | method | seeds | score | mean ± sd | min | max | published | gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, kept in unvaried.items():
        experiment = EXPERIMENTS[name]
        for i, score in enumerate(AGAINST_LABELS):
            values = [run["result"][score.name] for run in kept]
            published = {"acc": experiment.acc, "nmi": experiment.nmi}.get(score.name)
            gap = "" if published is None else f"{statistics.mean(values) - published:+.3f}"
            head = [name, experiment.method, str(len(kept))] if i == 0 else ["", "", ""]
            shown = "" if published is None else f"{published:.3f}"
            cells = [score.label, Summary.of(values).format(), f"{min(values):.3f}", f"{max(values):.3f}", shown, gap]
            lines.append(f"| {' | '.join([*head, *cells])} |")
    lines += ["", "| experiment | k-means on raw data | k-means on the embedding | seconds | on | of | published in |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, kept in unvaried.items():
        baselines = ("kmeans_raw", "kmeans_pretrained")
        before = [Summary.of([run["result"][part]["acc"] for run in kept]).format() for part in baselines]
        seconds = Summary.of([_training_seconds(run) for run in kept]).format(0)
        machines = sorted({f"{run['processor']}, {run['threads']} threads, {run['precision']}" for run in kept})
        commits = ", ".join(dict.fromkeys(run["git"]["commit"][:7] for run in kept if run["git"]))
        cells = [name, *before, seconds, "; ".join(machines), commits, EXPERIMENTS[name].source]
        lines.append(f"| {' | '.join(cells)} |")
    lines += _between_seeds(unvaried)
    for base in VARIED:
        names = [name for name in runs if base in (name, EXPERIMENTS[name].base)]
        lines += _variations(base, names, runs)
        lines += _initializations(base, runs)
        lines += _bad_runs([run["result"] for name in names for run in runs[name]])
    return "\n".join([*lines, ""])


def _training_seconds(run: dict[str, Any]) -> float:
    """Return the seconds of both training phases; older results have no other sections."""
    seconds: dict[str, float] = run["seconds"]
    return sum(seconds.get(phase, 0.0) for phase in PHASES)


def _between_seeds(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return lines on how well scores without labels separate bad seeds of an experiment from good ones."""
    pairs = []
    for kept in runs.values():
        results = [run["result"] for run in kept]
        bad, good = _bad_and_good(results)
        pairs += [(b, g) for b in bad for g in good]
    if not pairs:
        return []
    lines = [
        *("", "## Bad seeds", ""),
        f"Pairs of two seeds of one experiment above, one of which ended well and the other more than {BAD} below the",
        f"best ACC of that experiment: {len(pairs)}. In how many the bad one has the worse score:",
        *("", "| score without labels | bad is worse |", "|---|---|"),
    ]
    for score, sign in LABEL_FREE.items():
        values = [(b.get(score), g.get(score)) for b, g in pairs]
        known = [(sign * b, sign * g) for b, g in values if b is not None and g is not None]
        if known:  # older results lack newer scores
            lines.append(f"| {score} | {sum(b < g for b, g in known)} of {len(known)} |")
    return lines


def _bad_and_good(results: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the results of one data set that ended badly, and the others."""
    best = max((result["acc"] for result in results), default=0.0)
    bad = [result for result in results if result["acc"] < best - BAD]
    return bad, [result for result in results if result["acc"] >= best - BAD]


def _variations(base: str, names: Sequence[str], runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    if len(names) < 2 or base not in names:
        return []
    lines = ["", f"## {base}, one setting changed", ""]
    lines += ["| changed | seeds | ACC | min | NMI | modularity on the data |", "|---|---|---|---|---|---|"]
    for name in names:
        kept = [run["result"] for run in runs[name]]
        acc, nmi, modularity = ([result[score] for result in kept] for score in ("acc", "nmi", "modularity_data"))
        what = "nothing" if name == base else f"`{EXPERIMENTS[name].method}`"
        cells = [what, str(len(kept)), Summary.of(acc).format(), f"{min(acc):.3f}", Summary.of(nmi).format()]
        lines.append(f"| {' | '.join([*cells, Summary.of(modularity).format(4)])} |")
    return lines


def _initializations(base: str, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return how often each initialization ends near the best one with the same seed; ``base`` has ``auto``."""
    of_init = {}
    for name, experiment in EXPERIMENTS.items():
        key, _, init = experiment.method.partition("=")
        if experiment.base == base and key == "clustering.init":
            of_init[init] = {run["seed"]: run["result"] for run in runs.get(name, ())}
    auto = {run["seed"]: run["result"] for run in runs.get(base, ())}
    seeds = sorted(set(auto).intersection(*of_init.values()))
    if not of_init or not seeds:
        return []
    rows = {f"`{init}`": [results[seed] for seed in seeds] for init, results in of_init.items()}
    # The choice without labels after training them all.
    chosen = [max(ran, key=lambda result: result["modularity_data"]) for ran in zip(*rows.values(), strict=True)]
    rows[f"of these {len(of_init)} the run of the highest modularity on the data"] = chosen
    rows["`auto`"] = [auto[seed] for seed in seeds]
    ends = {row: [result["acc"] for result in results] for row, results in rows.items()}
    best = [max(accs) for accs in zip(*ends.values(), strict=True)]
    lines = [
        *("", f"How often an initialization is right, which is at most {BAD} below the best ACC with the same seed:"),
        *("", "| `clustering.init` | right | ACC | min |", "|---|---|---|---|"),
    ]
    for row, accs in ends.items():
        right = sum(acc >= top - BAD for acc, top in zip(accs, best, strict=True))
        lines.append(f"| {row} | {right} of {len(seeds)} | {Summary.of(accs).format()} | {min(accs):.3f} |")
    return lines


def _bad_runs(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines on how well scores without labels detect bad runs of one data set; none if no run ended badly."""
    bad, good = _bad_and_good(results)
    if not bad:
        return []
    lines = [
        "",
        f"Of these {len(results)} runs {len(bad)} ended badly, more than {BAD} below the highest ACC. How often a",
        "bad one has the worse score of a bad and a good one (0.5: chance), and the rank correlation with ACC:",
        *("", "| score without labels | bad is worse | rank correlation |", "|---|---|---|"),
    ]
    for score, sign in LABEL_FREE.items():
        # Some scores of a single cluster are undefined, and older results lack newer scores.
        worse, better = ([sign * r[score] for r in some if r.get(score) is not None] for some in (bad, good))
        if not worse or not better:
            continue
        often = statistics.mean((b < g) + (b == g) / 2 for b in worse for g in better)
        known = [r for r in results if r.get(score) is not None]
        correlation = spearmanr([sign * r[score] for r in known], [r["acc"] for r in known]).statistic
        lines.append(f"| {score} | {often:.2f} | {correlation:+.2f} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
