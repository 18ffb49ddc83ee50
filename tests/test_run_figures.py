"""``FIGURES``: a new figure of a run is one entry, and what does not apply leaves no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dkm import train
from dkm.evaluation.figures.run import FIGURES, Figure, RunContext

WORDS = [
    "model.hidden=[4]",
    "recipe=classic",
    "pretrain.epochs=1",
    "joint.epochs=1",
    "clustering.n_init=1",
    "log.progress=off",
    "log.report=false",
]


def image_tags(run: Path) -> set[str]:
    events: Any = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    return set(events.Tags()["images"])


def test_a_new_figure_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[bool, int, bool]] = []

    def radii(context: RunContext) -> Drawing | None:
        seen.append((context.clusters is not None, len(context.records), context.contrast is not None))
        if context.clusters is None:
            return None
        drawing = Drawing()
        drawing.add_subplot().plot(np.sort(context.clusters.distance))
        return drawing

    monkeypatch.setitem(FIGURES, "radii", Figure("radii", "evaluation", radii))
    monkeypatch.setitem(FIGURES, "radii_at_the_end", Figure("radii_at_the_end", "end", radii))
    run = tmp_path / "run"
    assert train._main(["data=blobs", "data.n_samples=200", *WORDS, f"hydra.run.dir={run}"]) == 0
    assert {"radii.png", "radii_at_the_end.png"} <= {path.name for path in (run / "figures").iterdir()}
    added = {tag for tag in image_tags(run) if "radii" in tag}
    assert added == {"joint/images/radii", "result/images/radii", "result/images/radii_at_the_end"}
    # In pretraining without clusters; at the end both, with the records of metrics.jsonl and the contrast of a table.
    assert seen == [(False, 0, False), (True, 2, True), (True, 2, True)]


def test_a_figure_that_goes_wrong_is_told_and_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(context: RunContext) -> Drawing | None:
        raise ValueError("too many bins")

    monkeypatch.setitem(FIGURES, "broken", Figure("broken", "end", broken))
    run = tmp_path / "run"
    words = ["data=blobs", "data.n_samples=200", *WORDS, "log.tensorboard=false", f"hydra.run.dir={run}"]
    assert train._main(words) == 0
    told = "figure broken was not drawn (ValueError: too many bins); the run goes on"
    assert told in json.loads((run / "manifest.json").read_text())["warnings"]
    assert (run / "figures" / "margins.png").exists()


@pytest.mark.thorough
def test_a_figure_that_does_not_apply_leaves_no_file_of_an_earlier_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = Drawing()
    monkeypatch.setitem(FIGURES, "sometimes", Figure("sometimes", "end", lambda context: empty))
    run = tmp_path / "run"
    assert (
        train._main(["data=blobs", "data.n_samples=200", *WORDS, "log.tensorboard=false", f"hydra.run.dir={run}"]) == 0
    )
    assert (run / "figures" / "sometimes.png").exists()
    monkeypatch.setitem(FIGURES, "sometimes", Figure("sometimes", "end", lambda context: None))
    assert train._main([f"resume={run}", "joint.epochs=2"]) == 0
    assert not (run / "figures" / "sometimes.png").exists()


def test_the_files_have_the_names_of_the_figures_that_apply(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=load_digits().images[:100], y=load_digits().target[:100])
    words = ["data=npz", f"data.path={tmp_path / 'x.npz'}", "data.labels=y", *WORDS, "log.tensorboard=false"]
    assert train._main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    names = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert names == FIGURES.keys() - {"agreement", "features"}  # of data without labels, and of tables
