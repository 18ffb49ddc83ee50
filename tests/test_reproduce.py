"""The table of results: what is missing is run, what was interrupted goes on, and the numbers are those of the runs."""

from __future__ import annotations

import importlib
import json
import signal
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from processes import OPTIMIZER, Point, train

from dkm.config.compose import compose, parse
from dkm.config.resolved import with_digest
from dkm.config.schema import dotted
from dkm.search.pool import ChildRun

QUICK = ("recipe=classic", "log.figures=false")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with ``experiment=debug`` as its only experiment and ``tmp_path`` as its place."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("reproduce")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "TABLE", tmp_path / "results.md")
    monkeypatch.setattr(
        module, "EXPERIMENTS", {"debug": module.Experiment(2, "a test", 0.5, None, "nowhere", overrides=QUICK)}
    )
    return module


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["reproduce.py", *words])
    code: int = module.main()
    return code


@pytest.mark.thorough
def test_an_interrupted_run_goes_on_and_a_finished_one_is_kept(
    reproduce: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = tmp_path / "runs" / "debug" / "seed0"
    words = [
        "experiment=debug",
        *QUICK,
        "seed=0",
        f"hydra.run.dir={run}",
        f"pretrain.cache={tmp_path / 'runs' / 'cache'}",
    ]
    killed = train([*words, "checkpoint.every_s=0"], tmp_path / "log", Point(*OPTIMIZER, 10))
    assert killed.code == -signal.SIGKILL
    header, _, lines = (run / "config.yaml").read_text().partition("# SHA-256")
    settings = lines.partition("\n")[2].replace("every_s: 0.0", "every_s: 30.0")
    (run / "config.yaml").write_text(header + with_digest(settings))
    assert call(reproduce, monkeypatch, "debug", "0") == 0
    assert json.loads((run / "manifest.json").read_text())["n_resumed"] == 1
    kept = json.loads((tmp_path / "results" / "debug" / "seed0.json").read_text())
    assert kept["result"] == json.loads((run / "result.json").read_text())
    assert kept["seed"] == 0
    assert f"| debug | a test | 1 | ACC | {kept['result']['acc']:.3f} |" in (tmp_path / "results.md").read_text()

    def unexpected(run: ChildRun) -> None:
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(reproduce, "train_in_child", unexpected)
    assert call(reproduce, monkeypatch, "debug", "0") == 0
    # A result that was deleted while its run is still there is taken from the run.
    (tmp_path / "results" / "debug" / "seed0.json").unlink()
    assert call(reproduce, monkeypatch, "debug", "0") == 0
    assert json.loads((tmp_path / "results" / "debug" / "seed0.json").read_text()) == kept
    # A result of other settings is in no table, and is trained again.
    monkeypatch.setattr(reproduce, "settings_of", lambda name: "of other settings")
    assert reproduce.collect(tmp_path / "results") == {}
    (run / "manifest.json").unlink()
    with pytest.raises(AssertionError, match="nothing is missing"):
        call(reproduce, monkeypatch, "debug", "0")


def test_a_finished_run_of_other_settings_is_not_taken_for_one_of_these(
    reproduce: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "debug" / "seed0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\njoint: {lr: 0.5}\n")
    (run / "manifest.json").write_text('{"status": "completed"}')
    (run / "result.json").write_text("{}")
    monkeypatch.setattr(reproduce, "train_in_child", lambda run: pytest.fail("trained"))
    assert call(reproduce, monkeypatch, "debug", "0") == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {run}: a run of other settings, joint.lr=0.5, expected 0.")
    assert not (tmp_path / "results").exists()


def test_a_run_that_fails_ends_the_script_with_its_code(
    reproduce: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "train_in_child", lambda run: SimpleNamespace(exit_code=2))
    assert call(reproduce, monkeypatch) == 2
    assert not (tmp_path / "results.md").exists()


def test_the_table_has_mean_and_deviation_extremes_and_the_gap(reproduce: ModuleType) -> None:
    def run(acc: float, seconds: float) -> dict[str, object]:
        scores = {"acc": acc, "nmi": 0.25, "ari": 0.125} | dict.fromkeys(reproduce.LABEL_FREE, acc)
        scores["silhouette"] = None if acc == 0.4 else 0.5
        parts = {"kmeans_raw": {"acc": 0.1}, "kmeans_pretrained": {"acc": 0.2}}
        machine = {"processor": "a processor", "threads": 2, "precision": "fp32", "git": {"commit": "0123456789"}}
        seconds_by_section = {"setup": 50.0, "pretrain": seconds, "joint": 1.0, "report": 50.0}
        return {"result": {**scores, **parts}, "seconds": seconds_by_section, **machine}

    text = reproduce.table({"debug": [run(0.4, 9.0), run(0.6, 9.0), run(0.8, 12.0)]})
    assert "| debug | a test | 3 | ACC | 0.600 ± 0.200 | 0.400 | 0.800 | 0.500 | +0.100 |" in text
    assert "|  |  |  | NMI | 0.250 ± 0.000 | 0.250 | 0.250 |  |  |" in text
    assert (
        "| debug | 0.100 ± 0.000 | 0.200 ± 0.000 | 11 ± 2 | a processor, 2 threads, fp32 | 0123456 | nowhere |" in text
    )
    # Two ended badly, and the third is the best: a high modularity and a low Davies-Bouldin speak for a seed.
    for line in ("modularity_data | 2 of 2", "davies_bouldin | 0 of 2", "silhouette | 0 of 1"):
        assert f"| {line} |" in text


def test_variations_stand_beside_what_they_vary(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(acc: float, seed: int = 0) -> dict[str, object]:
        label_free = dict.fromkeys(reproduce.LABEL_FREE, acc / 2)
        scores = {"acc": acc, "nmi": 0.25, "ari": 0.125, **label_free}
        parts = {"kmeans_raw": {"acc": 0.1}, "kmeans_pretrained": {"acc": 0.2}}
        machine = {"processor": "a processor", "threads": 2, "precision": "fp32", "git": {"commit": "0123456789"}}
        return {"seed": seed, "result": {**scores, **parts}, "seconds": {"joint": 1.0}, **machine}

    monkeypatch.setattr(reproduce, "VARIED", {"debug": ("seed=1",)})
    reproduce.EXPERIMENTS["debug_seed_1"] = reproduce.Experiment(2, "seed=1", base="debug", overrides=("seed=1",))
    text = reproduce.table({"debug": [run(0.5)], "debug_seed_1": [run(0.4), run(0.6, 1)]})
    assert "| nothing | 1 | 0.500 | 0.500 | 0.250 | 0.2500 |" in text
    assert "| `seed=1` | 2 | 0.500 ± 0.141 | 0.400 | 0.250 ± 0.000 | 0.2500 ± 0.0707 |" in text
    assert text.count("| debug") == 2  # not in the tables above
    assert "one setting changed" not in reproduce.table({"debug": [run(0.5)]})


def test_an_initialization_is_right_where_it_ends_with_the_best_of_its_seed(reproduce: ModuleType) -> None:
    def run(seed: int, acc: float, modularity: float) -> dict[str, object]:
        return {"seed": seed, "result": {"acc": acc, "modularity_data": modularity}}

    for init in ("gmm", "ward"):
        word = f"clustering.init={init}"
        reproduce.EXPERIMENTS[f"debug_{init}"] = reproduce.Experiment(2, word, base="debug", overrides=(word,))
    runs = {
        "debug": [run(0, 0.79, 0.5), run(1, 0.9, 0.7), run(2, 1.0, 0.9)],
        "debug_gmm": [run(0, 0.8, 0.5), run(1, 0.6, 0.6)],
        "debug_ward": [run(0, 0.5, 0.6), run(1, 0.7, 0.3)],
    }
    # Seed 2 has not been run with all of them. The higher modularity is that of ward, then that of gmm.
    assert reproduce._initializations("debug", runs)[-4:] == [
        "| `gmm` | 1 of 2 | 0.700 ± 0.141 | 0.600 |",
        "| `ward` | 0 of 2 | 0.600 ± 0.141 | 0.500 |",
        "| of these 2 the run of the highest modularity on the data | 0 of 2 | 0.550 ± 0.071 | 0.500 |",
        "| `auto` | 2 of 2 | 0.845 ± 0.078 | 0.790 |",
    ]
    assert reproduce._initializations("debug", {"debug": runs["debug"]}) == []


def test_scores_without_labels_are_asked_which_runs_ended_badly(reproduce: ModuleType) -> None:
    def result(acc: float, modularity: float, bouldin: float) -> dict[str, float]:
        others = dict.fromkeys(reproduce.LABEL_FREE, acc)
        return others | {"acc": acc, "modularity_data": modularity, "davies_bouldin": bouldin}

    good = [result(0.95, 0.7, 0.3), result(0.96, 0.5, 0.2)]
    assert reproduce._bad_runs(good) == []
    # Low modularity is bad: one of two pairs has the bad run below. High Davies-Bouldin is bad: both have it above.
    _, said, _, *lines = reproduce._bad_runs([*good, result(0.9, 0.6, 0.4)])
    assert said.startswith("Of these 3 runs 1 ended badly, more than 0.02 below")
    assert "| modularity_data | 0.50 | -0.50 |" in lines
    assert "| davies_bouldin | 1.00 | +1.00 |" in lines


@pytest.mark.parametrize("words", [["nothing"], ["debug", "one"], ["debug", "0", "more"]])
def test_a_wrong_word_is_one_line(
    words: list[str], reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(reproduce, monkeypatch, *words) == 2
    line = f"error: {words[-1]}: expected [NAMES] [SEEDS]; the names are debug\n"
    assert capsys.readouterr().err == line


def test_each_experiment_of_the_table_has_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("reproduce")
    files = {path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")} - {"debug"}
    assert {name for name, experiment in module.EXPERIMENTS.items() if experiment.base is None} == files
    assert {e.base for e in module.EXPERIMENTS.values() if e.base is not None} <= files


def test_a_variation_of_an_experiment_has_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("reproduce")
    assert len({module.settings_of(name) for name in module.EXPERIMENTS}) == len(module.EXPERIMENTS)


def test_one_configuration_serves_the_flagship_on_all_images() -> None:
    """Apart from the data and the steps, which are the epochs and, on digits, the size of a batch."""
    settings = []
    for name in ("mnist", "usps", "digits"):
        config = dotted(compose(parse([f"experiment=flagship_{name}"])).config)
        own = ("data.", "pretrain.epochs", "joint.epochs", "batch_size")
        settings.append({key: value for key, value in config.items() if not key.startswith(own)})
    assert settings[0] == settings[1] == settings[2]


def test_the_committed_table_is_that_of_the_committed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("reproduce")
    runs = module.collect(module.RESULTS)
    assert runs
    assert module.TABLE.read_text(encoding="utf-8") == module.table(runs)
    for name in runs:
        for path in (module.RESULTS / name).iterdir():
            assert json.loads(path.read_text())["settings_sha256"] == module.settings_of(name), path
