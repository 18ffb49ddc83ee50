"""How far to trust the clusters of a report, and why: statements in words, each for or against them."""

# Shapes: R runs.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from dkm.clustering.graph import LOW_MODULARITY
from dkm.clustering.labels import adjusted_rand_index
from dkm.evaluation import printed_scores
from dkm.evaluation.summary import format_score
from dkm.reports.material import Material

Verdict = Literal["for", "note", "doubt", "against"]

# Differences in modularity below this count as none.
_SLACK = 0.01
# Below the lower agreement runs have found different clusters; below the higher one parts of them differ.
_GOOD_AGREEMENT, _LOW_AGREEMENT = 0.9, 0.8
# A row below this confidence lies between two clusters; this share of such rows is worth a doubt.
UNCERTAIN, _MANY_UNCERTAIN = 0.1, 0.1
# Clusters with a smaller share of the mean size are small, and so are those with fewer rows and half the mean size.
_SMALL_SHARE, _FEW_ROWS, _UNEVEN = 0.1, 10, 0.5
_MAX_NAMES = 6
# A cluster whose most frequent label has a smaller share is a mixture.
_MIXED = 0.7


class Statement(NamedTuple):
    """One sentence or two, and whether they speak for the clusters."""

    verdict: Verdict
    text: str


class Judgment(NamedTuple):
    """How far to trust the clusters, in one sentence, and the statements behind it."""

    level: Literal["good", "open", "doubt", "bad"]
    headline: str
    statements: list[Statement]


def agreement_of(materials: Sequence[Material]) -> np.ndarray | None:
    """Return the adjusted Rand index (R, R) of each pair of runs; None for a single run."""
    if len(materials) < 2:
        return None
    ari = np.eye(len(materials))
    for (i, one), (j, other) in combinations(enumerate(materials), 2):
        ari[i, j] = ari[j, i] = adjusted_rand_index(one.assignments.cluster, other.assignments.cluster)
    return ari


def judge(materials: Sequence[Material]) -> Judgment:
    """Return how far to trust the clusters of a run, or of several runs of the same rows."""
    statements: list[Statement] = []
    is_alone, found = len(materials) == 1, materials[0].result.get("n_clusters_choice")
    if not is_alone:
        statements.append(_agreement(materials))
    if len({material.sha256 for material in materials}) > 1:
        text = "The runs have the same rows, but read other columns, labels or values of them: the agreement compares "
        statements.append(Statement("note", f"{text}the runs, scores on the data do not."))
    for material in materials:
        for statement in _of_run(material):
            if is_alone:
                statements.append(statement)
            elif statement.verdict in ("doubt", "against"):
                statements.append(Statement(statement.verdict, f"Run {material.title}: {statement.text}"))
    statements += _of_data(materials[0])
    if is_alone and not found:
        text = "Whether another seed finds the same clusters is not known from one run: train with seed=1 and seed=2, "
        statements.append(Statement("note", f"{text}then dkm report RUN1 RUN2 RUN3 compares them."))
    return _sum_up(statements, is_seen_again=bool(found) if is_alone else statements[0].verdict == "for")


def _sum_up(statements: list[Statement], *, is_seen_again: bool) -> Judgment:
    n_against = sum(statement.verdict == "against" for statement in statements)
    n_doubts = sum(statement.verdict == "doubt" for statement in statements)
    if n_against:
        speaks = "one finding speaks" if n_against == 1 else f"{n_against} findings speak"
        return Judgment("bad", f"Little: {speaks} against them.", statements)
    if n_doubts:
        needs = "one finding needs" if n_doubts == 1 else f"{n_doubts} findings need"
        return Judgment("doubt", f"With care: {needs} a look.", statements)
    if not is_seen_again:
        text = "Nothing that was measured speaks against them, but whether other seeds find them again is open."
        return Judgment("open", text, statements)
    return Judgment("good", "Far: nothing that was measured speaks against them.", statements)


def _agreement(materials: Sequence[Material]) -> Statement:
    ari = agreement_of(materials)
    assert ari is not None
    n_clusters, seeds = ([getattr(material, name) for material in materials] for name in ("n_clusters", "seed"))
    pairs = list(combinations(range(len(materials)), 2))
    # Runs that began alike agree whether the clusters are stable or not, and so do runs with a single cluster.
    other_seeds = [(i, j) for i, j in pairs if seeds[i] != seeds[j]]
    counted = other_seeds or pairs
    alike = [(i, j) for i, j in counted if n_clusters[i] == n_clusters[j]]
    values = [float(ari[pair]) for pair in alike or counted]
    mean = sum(values) / len(values)
    span = f", from {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
    scale = "(1: the same clusters, 0: as by chance)"
    if not alike:
        text = f"The runs have different numbers of clusters; they agree at an adjusted Rand index of {mean:.2f}{span} "
        return Statement("note", f"{text}{scale}.")
    alikeness = ["different seeds"] if len(counted) < len(pairs) else []
    alikeness += ["the same number of clusters"] if len(alike) < len(counted) else []
    which = f"Runs with {' and '.join(alikeness)}" if alikeness else "The runs"
    text = f"{which} agree at an adjusted Rand index of {mean:.2f}{span} {scale}. "
    if mean < _LOW_AGREEMENT:
        return Statement("against", text + "They have found different clusters.")
    if mean < _GOOD_AGREEMENT:
        return Statement("doubt", text + "Parts of the clusters differ.")
    if all(n_clusters[i] == 1 for i, _ in alike):
        return Statement("note", text + "With a single cluster they cannot but agree.")
    if not other_seeds:
        another = f"compare with a run with seed={(seeds[0] or 0) + 1}"
        return Statement("note", f"{text}They have the same seed, so this says nothing about other seeds: {another}.")
    return Statement("for", text + "They have found the same clusters.")


def _of_run(material: Material) -> Iterator[Statement]:
    yield from _stage(material)
    yield from _modularity(material)
    yield from _number(material)
    yield from _certainty(material)
    yield from _sizes(material)
    yield from _labels(material)


_UNDONE = {
    "joint": "The clusters come from the first joint training of the network and the clusters, as it was at {}. A "
    "second one, which started from the clusters of a baseline, ended with worse clusters in the graph of the data and "
    "was undone.",
    "initialization": "The joint training ended with worse clusters in the graph of the data than k-means on the "
    "pretrained embedding, whose clusters these are; it was undone.",
}
_STAGES = {
    "joint": "The clusters come from the joint training of the network and the clusters.",
    "kmeans_raw": "The joint training ended below k-means on the rows, whose clusters were learned instead.",
    "kmeans_pretrained": "The joint training ended below k-means on the pretrained embedding, whose clusters were "
    "learned instead.",
}
_NOT_LEARNED = {
    "kmeans_raw": "The joint training ended below k-means on the rows, and a second one started from its clusters.",
    "kmeans_pretrained": "The joint training ended below k-means on the pretrained embedding, and a second one started "
    "from its clusters.",
}
# What clustering.init has found, if it was not k-means on the pretrained embedding.
_INITIALIZATIONS = {
    "gmm": "of a Gaussian mixture on the pretrained embedding",
    "spectral": "of spectral clustering of the pretrained embedding",
    "ward": "of Ward linkage of the pretrained embedding",
    "auto": "with the highest modularity of several clusterings of the pretrained embedding",
    "data": "that clustering.init=data has found in the rows themselves",
    "uniform": "of centroids that were drawn at random",
    "file": "that clustering.init_file gave",
}


def _stage(material: Material) -> Iterator[Statement]:
    stage, result = material.result.get("stage"), material.result
    step = result.get("restored_step")
    if step is not None and not result.get("is_undone"):
        text = "the joint training ended with worse clusters in the graph of the data."
        yield Statement("note", f"The network and the clusters are those of step {step}: {text}")
    if note := printed_scores.not_learned(result.get("start"), dict(result)):
        yield Statement("doubt", f"The joint training was to keep the clusters that it started from; {note}.")
    if result.get("is_undone"):
        yield Statement("doubt", _UNDONE[stage].format(printed_scores.earlier(step)))  # type: ignore[index]
    elif stage == "initialization":
        init = _INITIALIZATIONS.get(
            str(material.settings.get("clustering.init")), "of k-means on the pretrained embedding"
        )
        yield Statement("note", f"The clusters are those {init}, without joint training.")
    elif stage in _STAGES:
        agreement = material.result.get("learned_agreement")
        if agreement is None or stage not in _NOT_LEARNED:
            yield Statement("note", _STAGES[stage])
        elif agreement >= printed_scores.LEARNED:
            text = f"{_STAGES[stage]} They were learned to an adjusted Rand index of {agreement:.2f}."
            yield Statement("note", text)
        else:
            text = f"{_NOT_LEARNED[stage]} The final ones agree with them to an adjusted Rand index of {agreement:.2f}."
            yield Statement("doubt", text)


def _modularity(material: Material) -> Iterator[Statement]:
    result = dict(material.result)
    final = result.get("modularity_data")
    if final is None or material.n_clusters == 1:  # 0 by definition, whatever the rows
        return
    names = {"kmeans_raw": "k-means on the rows", "kmeans_pretrained": "k-means on the pretrained embedding"}
    baselines = {words: result.get(key) or {} for key, words in names.items()}
    found = {words: scores.get("modularity_data") for words, scores in baselines.items()}
    before = {words: value for words, value in found.items() if value is not None}
    listed = " and ".join(f"{value:.3f} ({words})" for words, value in before.items())
    text = f"Modularity on the data, which is high if neighboring rows share a cluster: {final:.3f}"
    text += f"; baselines: {listed}." if listed else "."
    if warning := printed_scores.clustering_warning(result.get("kmeans_raw"), result, len(material.sizes)):
        yield Statement("against", f"{warning[0].upper()}{warning[1:]}.")
    if final < LOW_MODULARITY:
        yield Statement("doubt", f"{text} It is low: many neighbors are in different clusters.")
    elif not before:
        yield Statement("note", text)
    elif final > max(before.values()) + _SLACK:
        yield Statement("for", f"{text} The training has found clusters that hang together better.")
    elif final >= max(before.values()) - _SLACK:
        yield Statement("for", f"{text} No baseline is better.")
    else:
        higher = [words for words, value in before.items() if value > final + _SLACK]
        notes = {words: printed_scores.evenness(baselines[words], result) for words in higher}
        if all(notes.values()):
            also = " ".join(f"That of {words} is higher, but {note}." for words, note in notes.items())
            yield Statement("for", f"{text} {also}")
        else:
            yield Statement("doubt", f"{text} A baseline is better.")


def _number(material: Material) -> Iterator[Statement]:
    choice = material.result.get("n_clusters_choice")
    if not choice:
        return
    number, (low, high) = choice["n_clusters"], choice["range"]
    others = ", ".join(str(k) for k in choice["plausible"] if k != number)
    also = f"As plausible: {others}." if others else "No other number is as plausible."
    verdict: Verdict = "note" if choice["warnings"] else "for"
    yield Statement(
        verdict, f"The number of clusters was found: {number} of {low} to {high}; {choice['reason']}. {also}"
    )
    for warning in choice["warnings"]:
        yield Statement("doubt", f"The number of clusters: {warning}.")


def _certainty(material: Material) -> Iterator[Statement]:
    if material.confidence is None:
        return
    n = int((material.confidence < UNCERTAIN).sum())
    share = n / max(1, material.n_samples)
    text = (
        f"{n:,} of {material.n_samples:,} rows ({share:.1%}) lie between two clusters (confidence below {UNCERTAIN})."
    )
    yield Statement("doubt" if share > _MANY_UNCERTAIN else "note", text)


def _sizes(material: Material) -> Iterator[Statement]:
    sizes = material.sizes
    empty = int((sizes == 0).sum())
    if empty:
        yield Statement("doubt", f"{empty} of the {len(sizes)} clusters have no rows.")
    mean = material.n_samples / len(sizes)
    few = max(min(_FEW_ROWS, _UNEVEN * mean), _SMALL_SHARE * mean)
    small = [k for k in range(len(sizes)) if 0 < sizes[k] < few]
    if small and len(sizes) > 1:
        listed = _listed([f"{k} ({sizes[k]:,})" for k in small])
        yield Statement("note", f"Small clusters, with their rows: {listed}. They may be outliers.")


def _labels(material: Material) -> Iterator[Statement]:
    scores = {name: material.result.get(name) for name in ("acc", "nmi", "ari")}
    if all(value is None for value in scores.values()):
        return
    listed = ", ".join(f"{name.upper()} {format_score(value)}" for name, value in scores.items() if value is not None)
    yield Statement("note", f"Compared with the labels, which the training did not see: {listed}.")
    mixed = [(k, part) for k, part in enumerate(material.majorities) if part is not None and part.share < _MIXED]
    if mixed:
        listed = _listed([f"{k} ({part.label}: {part.share:.0%})" for k, part in mixed])
        yield Statement("note", f"Clusters of several labels, with the most frequent one: {listed}.")


def _of_data(material: Material) -> Iterator[Statement]:
    data = material.data_report
    for text in data.get("odd", []):
        yield Statement("doubt", f"In the data: {text}.")
    for part in data.get("left_out", []):
        yield Statement("note", f"Left out: {part['n']:,} {part['what']}, {part['reason']}.")
    left_out = [column["name"] for column in data.get("columns", []) if column.get("role") == "left_out"]
    if left_out:
        which = f"{len(left_out)} columns were" if len(left_out) > 1 else "One column was"
        yield Statement("note", f"{which} not used: {_listed(left_out)} (see Data below).")
    if filled := data.get("filled"):
        n = sum(filled.values())
        were = "missing value was" if n == 1 else "missing values were"
        yield Statement("note", f"{n:,} {were} filled, in {_listed(list(filled))}.")


def _listed(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
