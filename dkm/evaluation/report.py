"""What a run prints about its scores: one line while it trains, a table at the end."""

from __future__ import annotations

from dkm.evaluation.evaluator import Scores
from dkm.evaluation.summary import format_score

# Effective clusters of what is as good as one; and how much less modularity on the data is more than its noise.
_COLLAPSED, _LOST_MODULARITY = 1.5, 0.05

_COLUMNS = {
    "acc": "ACC",
    "nmi": "NMI",
    "ari": "ARI",
    "modularity_data": "mod. data",
    "silhouette": "sil. own",
    "davies_bouldin": "DB",
    "calinski_harabasz": "CH",
    "inertia": "inertia",
    "n_effective_clusters": "eff. K",
}


def line(scores: Scores) -> str:
    shown = ("acc", "nmi", "ari") if "acc" in scores else ("modularity_data", "silhouette", "n_effective_clusters")
    return ", ".join(f"{_COLUMNS[name]} {format_score(scores[name])}" for name in shown)


def doubt(raw: Scores | None, final: Scores, n_clusters: int) -> str | None:
    """Return what speaks against the final clustering without labels, in one line; None if nothing does.

    Parameters
    ----------
    raw : dict, optional
        Of k-means on the data as they are.
    """
    effective = final["n_effective_clusters"]
    if n_clusters > 1 and effective is not None and effective < _COLLAPSED:
        return (
            f"nearly all rows are in one of the {n_clusters} clusters: the embedding has collapsed; "
            "try data.scaling=rms or row_rms, a smaller clustering.weight or regularization.strength, or a longer "
            "pretraining"
        )
    before = None if raw is None else raw.get("modularity_data")
    after = final.get("modularity_data")
    if before is not None and after is not None and after < before - _LOST_MODULARITY:
        return (
            f"the clusters hang together less in the data (modularity {after:.3f}) than those of k-means on the raw "
            f"data ({before:.3f}): train longer (pretrain.epochs), try other settings, or take k-means"
        )
    return None


def table(raw: Scores | None, pretrained: Scores | None, final: Scores, *, name: str) -> list[str]:
    """Return the closing table; "own" scores are taken in the space that was clustered and do not compare rows."""
    rows = {"k-means, raw data": raw, "k-means, pretrained embedding": pretrained, f"final ({name})": final}
    columns = [column for column in _COLUMNS if column in final]
    lines = [" " * 30 + "".join(f"{_COLUMNS[column]:>11}" for column in columns)]
    for title, scores in rows.items():
        if scores is None:  # evaluation.kmeans_raw=false
            continue
        values = scores.get
        lines.append(f"{title:30}" + "".join(f"{format_score(values(column)):>11}" for column in columns))
    return lines
