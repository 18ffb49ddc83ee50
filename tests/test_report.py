"""What a run says of its scores at the end."""

import json
from pathlib import Path

import pytest

from dkm.evaluation import report
from dkm.evaluation.evaluator import Scores


def scores(modularity: float | None, effective: float | None) -> Scores:
    return {"modularity_data": modularity, "n_effective_clusters": effective}


@pytest.mark.parametrize(
    ("raw", "final", "n_clusters", "told"),
    [
        (0.78, scores(0.82, 9.9), 10, None),
        (0.78, scores(0.731, 9.9), 10, None),  # no more than noise, which is 0.05
        (0.78, scores(0.729, 9.9), 10, "the clusters hang together less in the data (modularity 0.729) than those of"),
        (None, scores(0.5, 1.51), 10, None),
        (None, scores(0.5, 1.49), 10, "nearly all rows are in one of the 10 clusters"),
        (None, scores(0.5, 1.49), 2, "nearly all rows are in one of the 2 clusters"),
        (0.78, scores(0.12, 8.0), 10, "the clusters hang together less in the data (modularity 0.120) than those of"),
        (0.78, scores(0.0, 1.0), 10, "nearly all rows are in one of the 10 clusters: the embedding has collapsed"),
        (None, scores(0.0, 1.2), 10, "nearly all rows are in one of the 10 clusters"),
        (None, scores(0.1, 9.0), 10, None),
        (0.0, scores(0.0, 1.0), 1, None),
        (0.78, scores(None, 9.9), 10, None),
    ],
)
def test_a_clustering_that_is_in_doubt_is_told(
    raw: float | None, final: Scores, n_clusters: int, told: str | None
) -> None:
    found = report.doubt(None if raw is None else scores(raw, 9.0), final, n_clusters)
    assert (found is None) == (told is None)
    assert found is None or (found.startswith(told or "") and "\n" not in found)


def test_no_recorded_run_is_in_doubt() -> None:
    """As README says."""
    paths = sorted((Path(__file__).parents[1] / "docs" / "results").glob("*/*.json"))
    assert paths
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))["result"]
        assert report.doubt(result["kmeans_raw"], result, result["n_clusters"]) is None, path
