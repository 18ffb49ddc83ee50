"""What a run prints of its scores: a line for each evaluation, warnings, and the closing table."""

from __future__ import annotations

import math

from dkm.clustering.graph import LOW_MODULARITY, VISIBLE
from dkm.evaluation.scores import SCORES, Scores, graph_score
from dkm.evaluation.summary import format_score

# Losses of modularity on the data up to so much are noise.
_LOST_MODULARITY = 0.05
# An embedding has collapsed if sizes are less even than if one cluster had this share and the others were equal, unless
# the clusters of the raw data are nearly as uneven.
_COLLAPSED_SHARE, _AS_UNEVEN = 0.95, 0.75
# The adjusted Rand index to a baseline's clusters from which on they count as learned.
LEARNED = 0.95
# Clusters with this assortativity hang together, whatever their modularity: that of a small cluster and a large one
# cannot be high. k-means on noise had at most 0.56 where its modularity was below 0.3 (8 and 20 features, 2 to 8
# clusters); a tenth of the rows, 5 deviations away from all others, has 0.88.
_HANGING_TOGETHER = 0.8


def line(scores: Scores) -> str:
    """Return the scores of an evaluation in one line: those against labels where there are some, else the others."""
    headline = [score for score in SCORES.values() if score.shown == "headline" and score.name in scores]
    against_labels = [score for score in headline if score.needs_labels]
    return ", ".join(f"{score.label} {format_score(scores[score.name])}" for score in against_labels or headline)


def clustering_warning(raw: Scores | None, final: Scores, n_clusters: int) -> str | None:
    """Return in one line why the scores without labels speak against the final clustering; None if they do not.

    Parameters
    ----------
    raw : dict, optional
        The scores of k-means on the raw data.
    final : dict
        The scores of the final clustering.
    n_clusters : int
    """
    if _has_collapsed(raw, final, n_clusters):
        return (
            f"nearly all rows are in one of the {n_clusters} clusters: the embedding has collapsed; "
            "try data.scaling=rms or row_rms, a smaller clustering.weight or regularization.strength, or a longer "
            "pretraining"
        )
    before = None if raw is None else raw.get("modularity_data")
    after = final.get("modularity_data")
    if before is not None and after is not None and after < before - _LOST_MODULARITY:
        return (
            f"the modularity of the clusters on the data ({after:.3f}) is lower than that of k-means on the raw data "
            f"({before:.3f}): train longer (pretrain.epochs), try other settings, or use k-means"
        )
    return None


def structure_warning(raw: Scores | None, pretrained: Scores | None, final: Scores, n_clusters: int) -> str | None:
    """Return in one line that no clustering of the run is good on the data; None if one is, or if it is not known.

    Parameters
    ----------
    raw, pretrained : dict, optional
        The scores of k-means on the raw data and on the embedding. Without both nothing is known: one clustering says
        little of the data.
    final : dict
        The scores of the final clustering.
    n_clusters : int
    """
    baselines = [found for found in map(graph_score, (raw, pretrained)) if found is not None]
    of_final = graph_score(final)
    if n_clusters == 1 or of_final is None or not baselines:  # a single cluster has 0 by definition
        return None
    found = [*baselines, of_final]
    highest = max(score.modularity for score in found)
    if highest >= LOW_MODULARITY or any((score.assortativity or 0) >= _HANGING_TOGETHER for score in found):
        return None
    return f"the modularity of all clusterings on the data is at most {highest:.3f}: the data hardly fall into clusters"


def _has_collapsed(raw: Scores | None, final: Scores, n_clusters: int) -> bool:
    effective = final["n_effective_clusters"]
    if n_clusters == 1 or effective is None:
        return False
    rest = 1 - _COLLAPSED_SHARE
    least = math.exp(-_COLLAPSED_SHARE * math.log(_COLLAPSED_SHARE) - rest * math.log(rest / (n_clusters - 1)))
    of_raw = None if raw is None else raw.get("n_effective_clusters")
    return effective < least and (of_raw is None or effective < _AS_UNEVEN * of_raw)


def table(
    raw: Scores | None,
    pretrained: Scores | None,
    final: Scores,
    *,
    name: str,
    learned: str | None = None,
    agreement: float | None = None,
    start: Scores | None = None,
    restored: str | None = None,
    restored_step: int | None = None,
) -> list[str]:
    """Return the lines of the closing table.

    Scores in the embedding are taken in the space that was clustered in each row and do not compare the rows.

    Parameters
    ----------
    raw, pretrained : dict, optional
        The scores of k-means on the raw data, which ``evaluation.kmeans_raw`` may have switched off, and on the
        embedding.
    name : str
        The name of the method.
    learned : str, optional
        The baseline whose labels a second joint phase was to learn, as the first had ended below it (``joint.guard``).
    agreement : float, optional
        The adjusted Rand index of the final labels and the learned ones.
    start : dict, optional
        Two scores of the labels that ``joint.hold_labels`` was to learn, and the ``agreement`` of the final labels with
        them, an adjusted Rand index.
    restored : str, optional
        The stage of the model that was restored, as the joint phase had ended below it: "initialization", "joint" or
        the learned baseline.
    restored_step : int, optional
        The step of the run that it is of.
    """
    titles = {"kmeans_raw": "k-means, raw data", "kmeans_pretrained": "k-means, pretrained embedding"}
    rows = dict(zip(titles.values(), (raw, pretrained), strict=True)) | {f"final ({name})": final}
    columns = [score for score in SCORES.values() if score.shown != "file" and score.name in final]
    lines = [" " * 30 + "".join(f"{score.label:>11}" for score in columns)]
    for title, scores in rows.items():
        if scores is not None:
            lines.append(f"{title:30}" + "".join(f"{format_score(scores.get(score.name)):>11}" for score in columns))
    is_undone = restored not in (None, learned or "joint")
    if restored is not None:
        which = titles["kmeans_pretrained"] if restored == "initialization" else earlier(restored_step)
        why = "the joint phase ended with worse clusters on the data"
        if is_undone and learned is not None:
            why = f"a second joint phase, which started from {titles[learned]}, ended with worse clusters on the data"
        lines.append(f"The final model and clusters are those of {which}, restored: {why}.")
    if learned is not None and not is_undone:
        lines.append(_on_learning(titles[learned], rows[titles[learned]], final, agreement))
    if note := not_learned(start, final):
        lines.append(f"The joint phase was to keep the clusters that it started from; {note}.")
    for title in titles.values():
        if note := evenness(rows[title], final):
            lines.append(f"The modularity of {title} is higher, but {note}.")
    return lines


def earlier(step: int | None) -> str:
    """Say which earlier state of the model was restored; runs of earlier versions did not keep its step."""
    return "an earlier state" if step is None else f"step {step}"


def not_learned(start: Scores | None, final: Scores) -> str | None:
    """Return how far the final clusters fall short of those of the start, which they were to be; None if not at all."""
    agreement = (start or {}).get("agreement")
    if agreement is None or agreement >= LEARNED or not (below := _below(start, final)):
        return None
    return f"the final ones differ from them (adjusted Rand index {agreement:.3f}){below}"


def _on_learning(title: str, baseline: Scores | None, final: Scores, agreement: float | None) -> str:
    """Return the line that says how well a second joint phase has learned the labels of a baseline."""
    if agreement is not None and agreement < LEARNED:
        return (
            f"The joint phase had ended below {title}, and a second one started from those clusters; the final ones "
            f"differ from them (adjusted Rand index {agreement:.3f}){_below(baseline, final)}."
        )
    found_again = "" if agreement is None else f" (adjusted Rand index {agreement:.3f})"
    return f"The final clusters are those of {title}, learned{found_again}: the joint phase had ended below them."


def _below(baseline: Scores | None, final: Scores) -> str:
    """Return words that say that the final clusters are worse than a baseline; empty if they are not."""
    before, after = graph_score(baseline), graph_score(final)
    if before is None or after is None or not before.is_above(after) or before.modularity < after.modularity + VISIBLE:
        return ""
    return f" and are below them: their modularity on the data is {after.modularity:.3f} for {before.modularity:.3f}"


def evenness(baseline: Scores | None, final: Scores) -> str | None:
    """Return why a baseline with a higher modularity is not better, or None if it has no higher one or is better."""
    before, after = graph_score(baseline), graph_score(final)
    if before is None or after is None or before.assortativity is None or after.assortativity is None:
        return None
    if before.is_above(after) or before.modularity < after.modularity + VISIBLE:
        return None
    return (
        f"its assortativity is lower ({before.assortativity:.3f} for {after.assortativity:.3f}): its clusters are more "
        "even, not better"
    )
