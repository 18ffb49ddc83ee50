"""What a run prints about its scores: one line while it trains, a table at the end."""

from __future__ import annotations

from dkm.evaluate import Scores

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
    shown = ("acc", "nmi", "ari") if "acc" in scores else ("silhouette", "davies_bouldin", "n_effective_clusters")
    return ", ".join(f"{_COLUMNS[name]} {_number(scores[name])}" for name in shown)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def table(raw: Scores | None, pretrained: Scores | None, final: Scores, *, name: str) -> list[str]:
    """Return the closing table; "own" scores are taken in the space that was clustered and do not compare rows."""
    rows = {"k-means, raw data": raw, "k-means, pretrained embedding": pretrained, f"final ({name})": final}
    columns = [column for column in _COLUMNS if column in final]
    lines = [" " * 30 + "".join(f"{_COLUMNS[column]:>11}" for column in columns)]
    for title, scores in rows.items():
        if scores is None:  # evaluation.kmeans_raw=false
            continue
        values = scores.get
        lines.append(f"{title:30}" + "".join(f"{_number(values(column)):>11}" for column in columns))
    return lines
