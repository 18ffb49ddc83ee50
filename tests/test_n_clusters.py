"""``clustering.n_clusters=auto``: the number that is found, what a run keeps of it, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import signal
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import OPTIMIZER, Finished, Point, train, train_ranks
from quick import search_quickly
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score
from written import SAME

from dkm.clustering import neighborhood as neighborhood_module
from dkm.clustering.agreement import agreement_of_halves
from dkm.clustering.lloyd import kmeans
from dkm.clustering.neighborhood import Neighborhood
from dkm.clustering.numbers import calinski_harabasz, score_numbers
from dkm.clustering.selection import Scores, recommend, recommend_stable
from dkm.config.compose import compose, parse
from dkm.config.run import Config, with_number
from dkm.data.datasets import Dataset, load_dataset
from dkm.errors import UserError
from dkm.runs import reading
from dkm.runs.directory import RunDirectory
from dkm.runtime import checkpoints
from dkm.train import main
from dkm.training import n_clusters
from dkm.training.launch import execute, plan_run, require_new, require_trainable
from dkm.training.n_clusters import choice_lines, find_number, with_largest_number

pytestmark = pytest.mark.usefixtures("quick_search")

BLOBS = ["data=blobs", "data.n_samples=200", "data.n_blobs=5", "data.n_features=6", "data.blob_std=0.5"]
SMALL = [
    *("recipe=classic", "model.hidden=[16]", "batch_size=50", "pretrain.epochs=2", "joint.epochs=2"),
    *("joint.tolerance=0", "clustering.n_init=2", "log.tensorboard=false", "log.figures=false", "log.report=false"),
]
ASKED = "clustering.n_clusters=auto:3-7"
WORDS = [*BLOBS, *SMALL, ASKED]


def main_with_quick_search() -> None:
    search_quickly()
    main()


def inputs(*words: str) -> tuple[Config, Dataset]:
    config = compose(parse([*BLOBS, *SMALL, *words])).config
    return config, load_dataset(config.data)


def start(path: Path, *words: str, point: Point | None = None) -> Finished:
    return train([*words, f"hydra.run.dir={path}"], path.parent / f"log-{path.name}", point, search_quickly)


def choice_of(path: Path) -> dict[str, Any]:
    choice: dict[str, Any] = json.loads((path / "result.json").read_text())["n_clusters_choice"]
    return choice


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    finished = start(path, *WORDS)
    assert finished.code == 0, finished.err
    return path


# --- the scores ---------------------------------------------------------------------------------------------------


def scores_of(**values: dict[int, float]) -> dict[int, Scores]:
    """Return scores with the modularity and the agreement of each number, for three seeds that are alike."""
    of_k: dict[int, Scores] = {}
    for k, modularity in values["modularity"].items():
        agreement = values["agreement"].get(k, 0.5)
        of_k[k] = {
            "modularity_data": {(seed,): modularity for seed in range(3)},
            "calinski_harabasz": {(seed,): values.get("ratio", {}).get(k, 10.0) for seed in range(3)},
            "agreement_seeds": {(0, 1): agreement + 0.01, (0, 2): agreement - 0.01},
            "agreement_halves": {(seed,): agreement for seed in range(3)},
        }
    return of_k


def test_of_numbers_that_agree_the_smallest_that_is_nearly_the_best_is_taken() -> None:
    """Of a higher modularity there is a warning: the clusters may have parts."""
    modularity = {2: 0.5, 3: 0.699, 4: 0.701, 5: 0.71, 6: 0.709, 7: 0.77}
    scores = scores_of(modularity=modularity, agreement={2: 0.99, 3: 1.0, 4: 0.971, 5: 0.971, 6: 0.98, 7: 0.969})
    found = recommend_stable(scores)
    assert found.n_clusters == 4
    assert found.reason.startswith("its clusterings agree to 0.971 between seeds and halves, and its modularity on")
    assert found.warnings[1] == "the modularity is higher with 7 clusters, 0.770 for 0.701: the clusters may have parts"


@pytest.mark.parametrize(("ratio", "number"), [(6.0, 4), (5.9, 5)])
def test_the_calinski_harabasz_score_may_not_be_far_lower(ratio: float, number: int) -> None:
    """Many round groups of one size have a high modularity with fewer clusters, but not this score."""
    modularity, agreement = {3: 0.5, 4: 0.7, 5: 0.7, 6: 0.7}, {4: 1.0, 5: 1.0, 6: 0.9}
    scores = scores_of(modularity=modularity, agreement=agreement, ratio={4: ratio, 5: 10.0, 6: 100.0})
    assert recommend_stable(scores).n_clusters == number


def test_the_largest_number_that_agrees_is_taken_if_none_is_nearly_the_best_in_both() -> None:
    modularity, ratio = {3: 0.7, 4: 0.5, 5: 0.6}, {3: 1.0, 4: 10.0, 5: 2.0}
    scores = scores_of(modularity=modularity, agreement=dict.fromkeys(modularity, 1.0), ratio=ratio)
    found = recommend_stable(scores)
    assert found.n_clusters == 5
    assert found.reason.endswith("are not nearly the best of such numbers: it is the largest of them")
    higher = "the modularity is higher with 3 clusters, 0.700 for 0.600: some of the clusters may belong together"
    assert higher in found.warnings


def test_the_calinski_harabasz_score_is_that_of_scikit_learn() -> None:
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    found = kmeans(z, 4, n_init=1)
    expected = calinski_harabasz_score(z.numpy(), found.labels.numpy())
    assert calinski_harabasz(z, 4, found.inertia) == pytest.approx(expected, rel=1e-4)
    assert calinski_harabasz(z[:4].repeat(2, 1), 4, 0.0) == float("inf")


def test_numbers_that_agree_nearly_as_well_are_plausible_if_the_modularity_is_not_much_lower() -> None:
    modularity = {3: 0.649, 4: 0.651, 5: 0.68, 6: 0.7, 7: 0.7, 8: 0.72}
    agreement = {3: 1.0, 4: 0.96, 5: 0.951, 6: 0.99, 7: 0.951, 8: 0.949}
    found = recommend_stable(scores_of(modularity=modularity, agreement=agreement))
    assert (found.n_clusters, found.plausible) == (6, [4, 5, 6, 7])
    assert found.warnings[0] == "4 numbers are plausible: the data may have groups within groups"


def test_without_clusterings_that_agree_the_modularity_decides_and_that_is_told() -> None:
    scores = scores_of(modularity={2: 0.5, 3: 0.6, 4: 0.55}, agreement={2: 0.969, 3: 0.9})
    found = recommend_stable(scores)
    assert found.n_clusters == recommend(scores).n_clusters == 3
    assert found.warnings[0] == "no number has clusterings that agree to 0.97; it is chosen by the modularity"
    assert found.warnings[1:] == recommend(scores).warnings


def test_a_low_modularity_and_the_end_of_the_range_are_doubts() -> None:
    found = recommend_stable(scores_of(modularity={2: 0.1, 3: 0.2}, agreement={3: 1.0}), more="look further")
    assert found.warnings == [
        "the modularity is only 0.20: the data hardly fall into clusters",
        "3 is at the end of the range: look further",
    ]


def test_scores_are_those_of_clusterings_of_each_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    first = Neighborhood(lambda index: rows, None, 2, 7)
    hoods = [first, first.with_seed(8), first.with_seed(9)]
    scores = score_numbers(hoods, [2, 31])
    labels = {hood.seed: kmeans(hood.own_embedding, 2, n_init=10, seed=hood.seed).labels.numpy() for hood in hoods}
    assert scores[2]["modularity_data"] == {(hood.seed,): hood.modularity(labels[hood.seed]) for hood in hoods}
    pairs = {(a, b): adjusted_rand_score(labels[a], labels[b]) for a, b in combinations((7, 8, 9), 2)}
    assert scores[2]["agreement_seeds"] == pytest.approx(pairs)
    halves = [agreement_of_halves(hood.own_embedding, [2], seed=hood.seed, n_splits=2)[2] for hood in hoods]
    assert list(scores[2]["agreement_halves"].values()) == halves
    assert len(scores[31]["modularity_data"]) == len(scores[31]["agreement_seeds"]) == 3
    assert scores[31]["agreement_halves"] == {}  # of 30 rows each


# --- the number ---------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_number_of_blobs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    config, data = inputs(ASKED, "seed=4")
    choice = find_number(config, data)
    assert choice is not None
    found = choice.to_dict()
    assert (found["n_clusters"], found["plausible"], found["warnings"]) == (5, [5], [])
    assert (found["asked"], found["range"], found["n_rows"]) == ("auto:3-7", [3, 7], 200)
    assert list(choice.scores[3]["modularity_data"]) == [(4,), (5,), (6,)]


def test_labels_have_no_part_in_the_number() -> None:
    config, data = inputs(ASKED, "seed=4")
    assert data.y is not None
    choices = []
    for y in (data.y, np.random.default_rng(0).permutation(data.y), None):
        choice = find_number(config, dataclasses.replace(data, y=y))
        assert choice is not None
        choices.append(choice.to_dict())
    assert choices[0] == choices[1] == choices[2]


def test_the_recipe_has_no_part_in_the_number() -> None:
    config, data = inputs(ASKED)
    other = compose(parse([*BLOBS, "recipe=auto", "model.latent_dim=3", "batch_size=9", ASKED])).config
    choices = [find_number(one, data) for one in (config, other)]
    assert choices[0] is not None
    assert choices[1] is not None
    assert choices[0].to_dict() == choices[1].to_dict()


def test_the_scores_that_are_kept_are_means() -> None:
    config, data = inputs(ASKED)
    choice = find_number(config, data)
    assert choice is not None
    kept = choice.to_dict()["scores"]
    assert list(kept) == ["3", "4", "5", "6", "7"]
    assert kept["4"]["modularity_data"] == pytest.approx(np.mean(list(choice.scores[4]["modularity_data"].values())))
    assert json.loads(json.dumps(kept)) == kept


def test_an_infinite_score_is_kept_as_none() -> None:
    """Rows of two values have clusters without spread, whose Calinski-Harabasz score is infinite."""
    config, data = inputs()
    config.clustering.n_clusters = "auto:2-3"
    found = find_number(config, data)
    assert found is not None
    scores: Scores = {"calinski_harabasz": {(0,): math.inf}, "modularity_data": {(0,): 0.5}}
    kept = found._replace(scores={2: scores}).to_dict()["scores"]["2"]
    assert kept == {"calinski_harabasz": None, "modularity_data": 0.5}


def test_many_rows_are_sampled(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(n_clusters, "_N_ROWS", 120)
    config, data = inputs(ASKED)
    caplog.set_level(logging.INFO, "dkm")
    choice = find_number(config, data)
    assert choice is not None
    assert (choice.n_rows, len(choice.neighborhood.points)) == (120, 120)
    assert choice.neighborhood.sample is not None
    assert "comparing 3 to 7 on 3 embeddings of 120 of 200 rows" in caplog.text


@pytest.mark.parametrize("n_rows", [200, 120])
def test_rows_on_disk_have_the_same_number(n_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(n_clusters, "_N_ROWS", n_rows)
    data = inputs()[1]
    assert isinstance(data.X, torch.Tensor)
    np.save(tmp_path / "x.npy", data.X.numpy())
    found = []
    for load in ("memory", "disk"):
        words = ["data=npy", f"data.path={tmp_path / 'x.npy'}", f"data.load={load}", "data.scaling=none", *SMALL]
        config = compose(parse([*words, ASKED])).config
        choice = find_number(config, load_dataset(config.data))
        assert choice is not None
        found.append(choice.to_dict())
    assert found[0] == found[1]
    assert found[0]["n_rows"] == n_rows


def test_a_config_with_a_number_asks_for_no_search() -> None:
    config, data = inputs("clustering.n_clusters=4")
    assert find_number(config, data) is None
    assert with_largest_number(config, data) is config


def test_with_number_keeps_what_init_omits() -> None:
    config = compose(parse([*BLOBS, "clustering=custom", "clustering.class=mine.Loss", ASKED])).config
    changed = with_number(config, 6)
    assert (changed.clustering.n_clusters, getattr(changed.clustering, "class")) == (6, "mine.Loss")
    assert config.clustering.n_clusters == "auto:3-7"


# --- the range ----------------------------------------------------------------------------------------------------


def test_no_more_clusters_than_half_of_the_rows_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dkm")
    config, data = inputs("clustering.n_clusters=auto", "data.n_samples=13", "data.n_blobs=2")
    assert with_largest_number(config, data).clustering.n_clusters == 6
    choice = find_number(config, data)
    assert choice is not None
    assert choice.to_dict()["range"] == [2, 6]
    assert "clustering.n_clusters=auto: no more than 6, half of these rows, are compared" in caplog.text
    caplog.clear()
    config, data = inputs("clustering.n_clusters=auto:2-6", "data.n_samples=13", "data.n_blobs=2")
    find_number(config, data)
    assert "no more than" not in caplog.text


@pytest.mark.parametrize(("n_samples", "remedy"), [(9, "auto:2-4"), (7, "auto:2-3"), (5, "2"), (3, "2"), (1, "1")])
def test_too_few_rows_are_refused_with_what_is_possible(n_samples: int, remedy: str) -> None:
    words = [f"data.n_samples={n_samples}", "data.n_blobs=1"]
    with pytest.raises(UserError) as caught:
        require_trainable(inputs(*words, "clustering.n_clusters=auto:5-15")[0])
    assert str(caught.value) == (
        f"clustering.n_clusters=auto:5-15: expected at least 10 rows, two for each cluster, got {n_samples}; load more "
        f"data, or choose clustering.n_clusters={remedy}"
    )
    require_trainable(inputs(*words, f"clustering.n_clusters={remedy}")[0])


def test_two_rows_for_each_of_the_fewest_clusters_are_enough() -> None:
    config, data = inputs("clustering.n_clusters=auto:5-15", "data.n_samples=10")
    choice = find_number(config, data)
    assert choice is not None
    assert choice.recommendation.n_clusters == 5
    assert "there is no other number to compare with" in choice.recommendation.warnings


def test_a_config_is_checked_with_the_largest_number() -> None:
    require_trainable(inputs(ASKED, "clustering.init_samples=7")[0])
    with pytest.raises(UserError, match=r"clustering\.init_samples=6: expected at least the number of clusters, 7"):
        require_trainable(inputs(ASKED, "clustering.init_samples=6")[0])


@pytest.mark.parametrize(("asked", "number", "wider"), [("auto:2-4", 4, "auto:2-8"), ("auto:6-8", 6, "auto:3-16")])
def test_a_number_at_the_end_of_the_range_has_a_remedy(asked: str, number: int, wider: str) -> None:
    choice = find_number(*inputs(f"clustering.n_clusters={asked}"))
    assert choice is not None
    remedy = f"try a wider one, clustering.n_clusters={wider}"
    assert f"{number} is at the end of the range: {remedy}" in choice.recommendation.warnings


@pytest.mark.parametrize(
    ("numbers", "n_rows", "expected"),
    [
        (range(2, 5), 12, "try a wider one, clustering.n_clusters=auto:2-6"),
        (range(5, 7), 12, "try a wider one, clustering.n_clusters=auto:2-6"),
        (range(2, 7), 12, "more clusters need more rows"),
    ],
)
def test_a_wider_range_is_one_that_the_rows_allow(numbers: range, n_rows: int, expected: str) -> None:
    assert n_clusters._wider_range(numbers, n_rows) == expected


def test_the_closing_lines_have_number_others_and_doubts() -> None:
    choice = {"n_clusters": 4, "range": [2, 9], "plausible": [4, 5, 6], "reason": "R", "warnings": ["W", "V"]}
    assert list(choice_lines(choice)) == [
        "number of clusters: 4 of 2 to 9; as plausible: 5, 6; R",
        "  doubtful: W",
        "  doubtful: V",
    ]


# --- a run --------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_number_and_how_it_was_found(run: Path) -> None:
    read = reading.read(run)
    assert (read.settings["clustering.n_clusters"], read.scores["n_clusters"]) == (5, 5)
    manifest = json.loads((run / "manifest.json").read_text())
    assert choice_of(run) == manifest["n_clusters_choice"]
    assert (choice_of(run)["n_clusters"], choice_of(run)["range"]) == (5, [3, 7])
    assert manifest["seconds"]["n_clusters"] > 0
    log = (run / "train.log").read_text()
    assert log.count("number of clusters: 5 of 3 to 7; no other number is as plausible; its") == 2
    assert log.index("number of clusters: 5") < log.index("pretrain epoch") < log.rindex("number of clusters: 5")


@pytest.mark.parametrize("damage", ["altered", "lost"])
def test_a_resumed_run_has_the_scores_of_the_search_from_its_checkpoint(damage: str, run: Path, tmp_path: Path) -> None:
    """The manifest has them too, but nothing says whether it was damaged."""
    resumed = Path(shutil.copytree(run, tmp_path / "run"))
    path = resumed / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"n_clusters": 5', '"n_clusters": 7') if damage == "altered" else "{")
    assert json.loads(path.read_text() if damage == "altered" else "{}") != json.loads(text)
    assert train([f"resume={resumed}"], tmp_path / "log").code == 0
    assert (resumed / "result.json").read_bytes() == (run / "result.json").read_bytes()


def test_the_search_is_not_lost_with_the_manifest_before_the_first_epoch(tmp_path: Path) -> None:
    path = tmp_path / "run"
    killed = start(path, *WORDS, point=Point("dkm.training.baseline", "kmeans", 1))
    assert killed.code == -signal.SIGKILL
    state = checkpoints.load(path / "checkpoints")
    assert state is not None
    assert state["n_clusters_choice"] == json.loads((path / "manifest.json").read_text())["n_clusters_choice"]


def test_a_run_with_that_number_from_the_start_is_the_same(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert start(other, *BLOBS, *SMALL, "clustering.n_clusters=5").code == 0
    for name in ("metrics.jsonl", "assignments.csv", "config.yaml"):
        text = (other / name).read_text().replace(str(other), str(run))
        assert (run / name).read_text() == text
    assert "n_clusters_choice" not in json.loads((other / "result.json").read_text())
    assert "n_clusters" not in json.loads((other / "manifest.json").read_text())["seconds"]


def test_doubts_are_warnings_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    finished = start(path, *BLOBS, *SMALL, "clustering.n_clusters=auto:2-4", "log.progress=off")
    warnings = choice_of(path)["warnings"]
    assert warnings[-1] == "4 is at the end of the range: try a wider one, clustering.n_clusters=auto:2-8"
    lines = [f"number of clusters: {warning}" for warning in warnings]
    assert (finished.code, finished.err) == (0, "".join(f"warning: {line}\n" for line in lines))
    assert json.loads((path / "manifest.json").read_text())["warnings"] == lines
    log = (path / "train.log").read_text()
    assert all(f"  doubtful: {warning}" in log for warning in warnings)


def test_the_recipe_takes_over_the_embedding_of_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    embed = neighborhood_module.embed_neighbors

    def counted(*arguments: Any, seed: int, **others: Any) -> Any:
        seeds.append(seed)
        return embed(*arguments, seed=seed, **others)

    monkeypatch.setattr(neighborhood_module, "embed_neighbors", counted)
    words = [
        "recipe=auto",
        "pretrain.steps=3",
        "joint.steps=3",
        "log.tensorboard=false",
        "log.figures=false",
        "log.report=false",
    ]
    for latent_dim, expected in ((10, [0, 1, 2]), (4, [0, 1, 2, 0, 1, 2])):
        seeds.clear()
        where = [f"model.latent_dim={latent_dim}", f"hydra.run.dir={tmp_path / str(latent_dim)}"]
        execute(plan_run(parse([*BLOBS, *words, *where, "log.progress=off", ASKED])))
        assert seeds == expected


@pytest.mark.parametrize(
    "word", ["clustering.n_clusters=auto:150-160", "clustering.n_clusters=auto:9-3", "device=cuda:99"]
)
def test_a_mistake_is_one_line_and_leaves_nothing(word: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    finished = start(path, *WORDS, word)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith(f"error: {word}: expected ")
    assert not path.exists()


# --- stopped and resumed ------------------------------------------------------------------------------------------

RESUMES = {
    "the run": lambda path: [f"resume={path}"],
    "the whole command": lambda path: [*WORDS, f"resume={path}"],
    "auto": lambda path: [*WORDS, "resume=auto", f"hydra.run.dir={path.parent / '${now:%Y}'}"],
}


@pytest.mark.parametrize("name", RESUMES)
@pytest.mark.thorough
def test_a_resumed_run_keeps_the_number_and_its_result(name: str, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert start(path, *WORDS, point=Point(*OPTIMIZER, 11)).code == -signal.SIGKILL
    resumed = train(RESUMES[name](path), tmp_path / "log", Point("dkm.training.n_clusters", "score_numbers", 1))
    assert resumed.code == 0, resumed.err  # and would have been killed in a search
    for file in SAME:
        assert (path / file).read_bytes() == (run / file).read_bytes()


@pytest.mark.parametrize("asked", ["auto:3-8", "auto", "4"])
def test_another_range_is_another_run(asked: str, run: Path, tmp_path: Path) -> None:
    word = f"clustering.n_clusters={asked}"
    finished = train([*BLOBS, *SMALL, word, f"resume={run}"], tmp_path / "log")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith(f"error: {word}: expected 5 as in {run}/config.yaml")


BEFORE_THE_CONFIG = {
    "in the search": Point("dkm.training.n_clusters", "score_numbers", 1),
    "before the config": Point("dkm.runs.directory:RunDirectory", "open", 1),
}


@pytest.mark.parametrize("name", BEFORE_THE_CONFIG)
def test_the_directory_of_a_run_that_was_killed_before_its_config_is_used_again(
    name: str, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    assert start(path, *WORDS, point=BEFORE_THE_CONFIG[name]).code == -signal.SIGKILL
    assert (path / "manifest.json").exists() == (name == "before the config")
    assert not (path / "config.yaml").exists()
    assert start(path, *BLOBS, *SMALL, "clustering.n_clusters=5").code == 0
    assert "n_clusters_choice" not in json.loads((path / "manifest.json").read_text())
    for file in ("metrics.jsonl", "assignments.csv"):
        assert (path / file).read_bytes() == (run / file).read_bytes()


def test_a_manifest_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"n_clusters_choice": {}, "name": "web app"}')
    with pytest.raises(UserError, match="expected a new or an empty directory"):
        require_new(tmp_path)
    (tmp_path / "manifest.json").write_text('{"n_clusters_choice": {}}')
    require_new(tmp_path)


def test_an_interrupt_in_the_search_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run"
    finished = start(path, *WORDS, point=Point("dkm.training.n_clusters", "score_numbers", 1, signal.SIGINT))
    assert (finished.code, finished.err) == (130, "interrupted\n")
    assert {file.name for file in path.iterdir()} == {".hydra", "train.log"}
    require_new(path)


def test_two_processes_train_with_the_number_that_one_finds(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    first, second = train_ranks([*WORDS, f"hydra.run.dir={path}"], tmp_path / "log", program=main_with_quick_search)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "number of clusters: 5 of 3 to 7" in first.out
    assert second.out == ""
    assert choice_of(path) == choice_of(run)


def test_two_processes_resume_with_the_number_that_was_found(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert start(path, *WORDS, point=Point(*OPTIMIZER, 11)).code == -signal.SIGKILL
    first, second = train_ranks(RESUMES["auto"](path), tmp_path / "log")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "resumed in joint at epoch 0, batch 0, step 9" in first.out
    assert choice_of(path) == choice_of(run)


def test_the_log_is_open_during_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config_exists: list[bool] = []
    open_run = RunDirectory.open

    def opened(self: RunDirectory, *arguments: Any, **others: Any) -> None:
        config_exists.append((self.path / "config.yaml").exists())
        assert "number of clusters: 5" in (self.path / "train.log").read_text()
        open_run(self, *arguments, **others)

    monkeypatch.setattr(RunDirectory, "open", opened)
    execute(plan_run(parse([*WORDS, "log.progress=off", f"hydra.run.dir={tmp_path / 'run'}"])))
    assert config_exists == [False]
