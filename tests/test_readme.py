"""The README's and the documentation's code runs and their commands compose."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits, make_blobs

from dkm import compare, export, predict, select, train, tune
from dkm.clustering.functional import kmeans_loss
from dkm.config.commands import CompareConfig, ExportConfig, PredictConfig, parse_words
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS
from dkm.config.messages import keys
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.search.trials import Study
from dkm.training.command_line import understand

ROOT = Path(__file__).parents[1]
README = pages.read("README.md")
WORK = {"predict": predict.work, "export": export.work, "compare": compare.work}
QUICK = (
    *("model.hidden=[16]", "pretrain.epochs=1", "joint.epochs=1", "clustering.n_init=1", "log.tensorboard=false"),
    *("log.progress=off", *(["log.report=false"] if "log.report" in set(keys()) else [])),
)


def quick(command: pages.Command) -> list[str]:
    """Return words that make a command short; the default recipe would compute a neighbor embedding."""
    return [*QUICK, *([] if "experiment=" in str(command) else ["recipe=classic"])]


def words_of(page: str, verb: str, having: str = "") -> list[str]:
    """Return the words of the only command of a verb in the blocks of a page that has a text in it."""
    blocks = [block for block in pages.blocks(page) if block.language == "bash"]
    found = {c.words for block in blocks for c in pages.commands_in(page, block) if c.verb == verb and having in str(c)}
    (words,) = found
    return list(words)


# --- the README ---------------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000


def test_the_links_and_pictures_of_the_readme_are_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert len(targets) > 15
    assert [target for target in targets if not target.startswith("https:") and not (ROOT / target).is_file()] == []


def test_the_error_of_the_readme_is_the_error(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for page in ("README.md", "docs/reference/commands.md"):
        (shown,) = re.findall(r"^error: .*$", pages.read(page), re.M)
        (command,) = (c for c in pages.commands("README.md") if "n_cluster=" in str(c))
        monkeypatch.setattr(sys, "argv", ["dkm-train", *command.words])
        with pytest.raises(SystemExit) as exited:
            train.main()
        assert (exited.value.code, capsys.readouterr().err.strip()) == (2, shown)


def test_the_tables_of_the_readme_have_the_measured_scores() -> None:
    measured = pages.read("docs/tables.md")
    names = {"search snippets, embedded": "searchsnippets", "pbmc, counts of genes": "pbmc"}
    rows = re.findall(r"^\| ([a-z_, ]+) \| [\d,]+ x [\d,]+ \| (.*) \| (\d+) \|$", README, re.M)
    assert len(rows) == 7
    for name, cells, seconds in rows:
        section = measured.partition(f"\n## {names.get(name, name)} (")[2].partition("\n## ")[0]
        shown = [cell.strip("* ").split(" / ") for cell in cells.split(" | ")]
        for method, pair in zip(("k-means", "UMAP, k-means", "**dkm**, defaults"), shown, strict=True):
            row = next(line for line in section.splitlines() if line.startswith(f"| {method} |")).split("|")
            assert [f"{float(cell.split()[0]):.3f}".lstrip("0") for cell in row[2:4]] == pair, (name, method)
        assert float(row[6].split()[0]) == pytest.approx(int(seconds), abs=0.51), name
    results = pages.read("docs/results.md")
    rows = re.findall(r"^\| `(\w+)` \| (\d) \| ([\d.]+) \| ([\d.]+ ± [\d.]+) \| ([\d.]+)", README, re.M)
    assert len(rows) == 4
    for name, seeds, raw, acc, published in rows:
        first, second = (line.split(" | ") for line in results.splitlines() if line.startswith(f"| {name} |"))
        assert (first[2], first[4], first[7]) == (seeds, acc, published)
        assert second[1].partition(" ±")[0] == raw


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/repeat.md"])
def test_the_ten_lines_are_the_loss(page: str) -> None:
    (block,) = (block for block in pages.python_blocks(page) if "def kmeans_loss" in block)
    names: dict[str, Any] = {}
    exec(block, names)
    assert len(block.partition("\n\n\n")[2].strip().splitlines()) <= 10
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    c = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    loss, ours = names["kmeans_loss"](z, c), kmeans_loss(z, c)
    assert loss.item() == pytest.approx(ours.item(), rel=1e-12)
    for mine, theirs in zip(torch.autograd.grad(ours, [z, c]), torch.autograd.grad(loss, [z, c]), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.slow
def test_the_estimator_of_the_readme_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in pages.python_blocks("README.md") if "DeepKMeans" in block)
    assert len(block.strip().splitlines()) <= 10
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["model"].score(names["X"]) > 0.8


@pytest.mark.usefixtures("quick_search")
def test_the_estimator_of_the_reference_fits() -> None:
    (block,) = pages.python_blocks("docs/reference/python.md")
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["model"].score(names["X"]) > 0.5


# --- the tutorials ------------------------------------------------------------------------------------------------

TUTORIALS = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md"))


def run_tutorial(name: str, *, is_quick: bool) -> dict[str, Any]:
    """Run the blocks of a tutorial in order, and return the names of its code."""
    if name == "single-cells":
        pytest.importorskip("h5py")
    page = f"docs/tutorials/{name}.md"
    names: dict[str, Any] = {}
    for block in pages.blocks(page):
        if block.language == "python":
            exec(block.text, names)
        elif block.language == "bash":
            for command in pages.commands_in(page, block):
                if command.verb != "train":
                    WORK[command.verb](command.words)
                elif is_quick and "auto" in str(command):  # the search for the number takes some seconds
                    compose(parse(understand(command.words).words))
                else:
                    more = [*quick(command), "log.figures=false"] if is_quick else ["log.progress=off"]
                    assert train._main([*command.words, *more]) == 0, command
    return names


def check_tutorial(name: str, names: dict[str, Any]) -> None:
    """Check what each tutorial says of its outputs."""
    if name == "table":
        lines = Path("runs/customers/assignments.csv").read_text().splitlines()
        assert Path("clusters.csv").read_text().splitlines() == lines[:21]
        assert lines[0].startswith("index,id,cluster,distance,margin")
        assert {"age", "income", "visits"} < set(names["features"]["feature"])
    elif name == "images":
        assert len(names["table"]) == 600
    elif name == "single-cells":
        assert Path("cells.csv").read_text() == Path("runs/cells/assignments.csv").read_text()
    elif name == "text":
        assert {"battery", "screen"} & set(names["terms"]["feature"])
    elif name == "own-loop":
        assert len(set(names["labels"].tolist())) == 10


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", TUTORIALS)
@pytest.mark.thorough
def test_the_tutorials_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_tutorial(name, run_tutorial(name, is_quick=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TUTORIALS)
def test_the_tutorials_run_as_they_are_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_tutorial(name, is_quick=False)
    check_tutorial(name, names)
    if name == "single-cells":
        table = pd.crosstab(names["cell_type"], names["cells"]["cluster"]).to_numpy()
        assert table.max(1).sum() > 0.95 * table.sum()


def test_there_is_a_tutorial_for_each_kind_of_data() -> None:
    assert TUTORIALS == ["images", "own-loop", "single-cells", "table", "text"]


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands on the user's own data read."""
    tmp_path = tmp_path_factory.mktemp("own")
    with contextlib.chdir(tmp_path):
        write_files(tmp_path)
    return tmp_path


@pytest.fixture
def own_files(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is one with the user's own data."""
    monkeypatch.chdir(files)


def write_files(tmp_path: Path) -> None:
    """Write the user's own data to the current folder."""
    X, y = make_blobs(300, 3, centers=8, random_state=0)
    frame = pd.DataFrame({"customer": [f"c{i}" for i in range(300)], "age": X[:, 0], "income": X[:, 1], "city": "Rome"})
    frame.to_csv("customers.csv", index=False)
    frame.to_parquet("customers.parquet")
    frame.head(20).to_csv("new.csv", index=False)
    for name in ("points", "embeddings"):
        np.save(f"{name}.npy", X)
    np.savez("images.npz", x=load_digits().images[:300], y=y)
    savemat("file.mat", {"X": X, "y": y[:, np.newaxis]})
    if find_spec("h5py"):
        import h5py

        with h5py.File("file.h5", "w") as file:
            file["train/x"], file["train/y"] = X, y
        with h5py.File("cells.h5ad", "w") as file:
            file["X"], file["obs/_index"], file["var/_index"] = X, np.arange(300), np.arange(3)
            file["obs/cell_type"] = y
    if find_spec("zarr"):
        import zarr

        zarr.open_group("store.zarr", mode="w").create_array("x", shape=X.shape, dtype=X.dtype)[...] = X
    for i, image in enumerate(load_digits().images[:40]):
        (tmp_path / "photos" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(tmp_path / "photos" / str(i % 2) / f"{i}.png")
    content = [path.read_bytes() for path in sorted(Path("photos").rglob("*.png"))]
    pd.DataFrame({"image": content, "label": [i % 8 for i in range(40)]}).to_parquet("photos.parquet")
    words = ("good", "bad", "large", "small", "red", "blue", "late", "early")
    pd.DataFrame({"review": [f"{words[i % 8]} and {words[i // 8]}" for i in range(64)]}).to_csv("reviews.csv")
    lines = [f"photos/{i % 2}/{i}.png,{('cat', 'dog')[i % 2]}" for i in range(40)]
    (tmp_path / "photos.csv").write_text("\n".join(["file,animal", *lines]))


@pytest.mark.usefixtures("own_files")
@pytest.mark.thorough
def test_the_commands_on_own_data_run() -> None:
    commands = [command for command in pages.commands("docs/reference/data.md") if "data.path" in str(command)]
    assert {word for c in commands for word in c.words if word.startswith("data=")} == {
        f"data={name}"
        for name in (
            *("csv", "parquet", "image_folder", "image_list", "image_parquet", "text", "npy", "npz"),
            *("h5ad", "hdf5", "zarr", "mat"),
        )
    }
    packages = {"data=h5ad": "h5py", "data=hdf5": "h5py", "data=zarr": "zarr"}
    commands = [c for c in commands if find_spec(packages.get(c.words[0], "numpy"))]
    for number, command in enumerate(commands):
        words = [*command.words, *quick(command), f"hydra.run.dir=run{number}"]
        assert train._main([*words, f"log.figures={str(number == 0).lower()}"]) == 0
    assert len(Path("run0/features.csv").read_text().splitlines()) == 1 + 8 * 2
    assert Path("run0/figures/features.png").exists()
    for verb, page in (("predict", "docs/how-to/predict.md"), ("export", "docs/how-to/export.md")):
        WORK[verb]([word.replace("RUN", "run0") for word in words_of(page, verb)])
    assert Path("clusters.csv").read_text().splitlines() == Path("run0/assignments.csv").read_text().splitlines()[:21]
    assert Path("artifact/assign.py").exists()


def test_the_command_that_compares_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["data=blobs", "recipe=classic", "model.hidden=[4]", "pretrain.epochs=1", "joint.epochs=1"]
    for seed in (0, 1):
        directory = f"hydra.run.dir=runs/{'sweeps/day' if seed else 'digits_kmeans'}/{seed}"
        words = [
            *short,
            f"seed={seed}",
            directory,
            "log.figures=false",
            "log.report=false",
            "log.tensorboard=false",
            "log.progress=off",
        ]
        assert train._main(words) == 0
    compare.work(words_of("docs/how-to/compare-runs.md", "compare"))
    assert "2 runs of one setting: 2 completed" in capsys.readouterr().out


@pytest.mark.usefixtures("own_files")
def test_the_command_that_chooses_the_number_of_clusters_trains_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkm.search.selection_runs._train", lambda search, ks: trained.append((ks, search.seeds)))
    monkeypatch.setattr(
        "dkm.search.selection_runs.require_trainable", lambda config: checked.append(config) or "the SHA-256"
    )
    monkeypatch.setattr("dkm.search.selection_runs._why_lost", lambda *_: None)
    monkeypatch.setattr("dkm.search.selection_runs.collect_scores", lambda *_: 1 / 0)
    checked: list[Config] = []
    trained: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        select.work(words_of("docs/how-to/number-of-clusters.md", "select"))
    assert trained == [([2], [0, 1, 2]), (list(range(3, 13)), [0, 1, 2])]
    assert [config.clustering.n_clusters for config in checked] == [12]


@pytest.mark.usefixtures("own_files")
def test_the_command_that_searches_settings_searches_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    studies: list[Study] = []
    monkeypatch.setattr("dkm.search.study.require_trainable", lambda config, **options: "the SHA-256")
    monkeypatch.setattr("dkm.search.study.run_trials", studies.append)
    monkeypatch.setattr("dkm.search.study.build_answer", lambda study: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune.work([*words_of("docs/how-to/search-settings.md", "tune"), f"output={tmp_path / 'out'}"])
    (study,) = studies
    assert study.config.trials == 40
    assert list(study.space) == ["clustering.weight", "clustering.init"]
    assert study.start == {"clustering.weight": 0.1, "clustering.init": "data"}


# The others are run as a whole in test_config.py, test_resume.py, test_sweep.py and test_custom.py.
ELSEWHERE = r"--cfg|--help|--multirun|--config-dir|resume=|mine\.|plugins=|n_cluster=| \.\.\."


@pytest.mark.parametrize(
    "command", [c for c in pages.all_commands("train") if not re.search(ELSEWHERE, str(c))], ids=str
)
@pytest.mark.usefixtures("own_files")
def test_each_command_composes(command: pages.Command) -> None:
    config = compose(parse(understand(command.words).words)).config
    if "customers.csv" in command.words and "n_clusters=8" in command.words:
        assert (config.data.name, config.clustering.n_clusters) == ("csv", 8)


@pytest.mark.parametrize("command", [c for c in pages.all_commands("train") if "--multirun" in c.words], ids=str)
def test_each_sweep_is_of_runs_that_compose(command: pages.Command) -> None:
    words = [
        word for word in understand(command.words).words if not word.startswith(("--multirun", "hydra", "resume="))
    ]
    (swept,) = (word for word in words if "," in word)
    key, _, values = swept.partition("=")
    bounds = re.fullmatch(r"range\((\d+),(\d+)\)", values)
    for value in map(str, range(int(bounds[1]), int(bounds[2]))) if bounds else values.split(","):
        compose(parse([*(word for word in words if word != swept), f"{key}={value}"]))


def test_the_configs_of_the_reference_compose(tmp_path: Path) -> None:
    experiment, primary = (b.text for b in pages.blocks("docs/reference/options.md") if b.language == "yaml")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "first.yaml").write_text(experiment, encoding="utf-8")
    (tmp_path / "second.yaml").write_text(primary, encoding="utf-8")
    for words in (["experiment=first"], ["--config-name", "second"]):
        config = compose(parse(["--config-dir", str(tmp_path), *words])).config
        assert (config.model.name, config.joint.epochs) == ("conv", 20)


def test_the_arguments_of_the_other_commands_are_known() -> None:
    for verb, schema, alone in (("predict", PredictConfig, ("run", "input")), ("export", ExportConfig, ("run",))):
        found = [command for command in pages.all_commands(verb) if "..." not in command.words]
        assert found
        for command in found:
            parse_words(schema, command.words, alone=alone)
    for command in pages.all_commands("compare"):
        parse_words(CompareConfig, [word for word in command.words if "=" in word])
    for verb, page in (("select", "number-of-clusters"), ("tune", "search-settings")):
        words = tuple(words_of(f"docs/how-to/{page}.md", verb))
        assert {command.words for command in pages.all_commands(verb)} == {words}


def test_the_commands_were_found() -> None:
    assert len(pages.all_commands("train")) >= 35


def test_each_python_block_is_a_test() -> None:
    """Blocks are run above and in test_custom.py, page by page."""
    with_code = {page for page in pages.pages() if pages.python_blocks(page)}
    tutorials = {f"docs/tutorials/{name}.md" for name in TUTORIALS}
    others = {"README.md", "docs/explanation/repeat.md", "docs/how-to/own-code.md", "docs/reference/python.md"}
    assert with_code == tutorials | others
    assert {page: len(pages.python_blocks(page)) for page in sorted(others)} == {
        "README.md": 2,
        "docs/explanation/repeat.md": 1,
        "docs/how-to/own-code.md": 2,
        "docs/reference/python.md": 1,
    }


# --- tables of the reference --------------------------------------------------------------------------------------

OPTIONS = pages.read("docs/reference/options.md")


def test_the_table_of_groups_is_complete() -> None:
    for group, options in GROUPS.items():
        row = next(line for line in OPTIONS.splitlines() if line.startswith(f"| `{group}` |"))
        others = {"auto", "mlp"} if group == "model" else set()  # `auto` is `mlp` with other widths
        assert set(re.findall(r"`([a-z_0-9]+)`", row)) == {group, *options, *others}


# In the table of keys, defaults that the config leaves to the environment or to the data.
NOT_IN_THE_CONFIG = {"data.root": "$DKM_DATA_ROOT or ./data", "data.scaling": "per data set"}
NOT_IN_THE_CONFIG |= {f"{group}.class": "required" for group in ("model", "clustering", "data")}
NOT_IN_THE_CONFIG |= {f"{group}.options": "{}" for group in ("model", "clustering", "data")}


def table_of_keys() -> list[tuple[str, str]]:
    """Return the keys of the table and their defaults, as the table has them."""
    table = OPTIONS.partition("| key | default | meaning |")[2].partition("\n\n")[0]
    pairs = []
    for row in table.splitlines()[2:]:
        names, values = (cell.strip().replace("`", "") for cell in row.split("|")[1:3])
        section = names.partition(".")[0]
        full = [f"{section}{name}" if name.startswith(".") else name for name in names.split(", ")]
        pairs += list(zip(full, re.split(r", ", values), strict=True))
    return pairs


def test_the_table_of_keys_has_the_defaults_of_the_config() -> None:
    settings: dict[str, Any] = {}
    for data in ("image_folder", "npy", "csv"):
        settings |= dotted(compose(parse([f"data={data}", "data.path=x"])).config)
    pairs = table_of_keys()
    assert len(pairs) == len(dict(pairs)) >= 30
    for key, shown in pairs:
        if key in NOT_IN_THE_CONFIG:
            assert shown == NOT_IN_THE_CONFIG[key]
            assert key in set(keys())
        else:
            assert settings[key] == as_default(shown), key


def as_default(shown: str) -> Any:
    """Return a default as the table shows it: JSON, or a word."""
    try:
        return json.loads(shown)
    except json.JSONDecodeError:
        return shown


def test_the_file_map_has_every_module_in_its_room() -> None:
    package = ROOT / "dkm"
    modules = {path.relative_to(package) for path in package.rglob("*.py") if path.name != "__init__.py"}
    named = set()
    code = pages.read("docs/reference/code.md")
    for row in code.partition("| room of `dkm/` |")[2].partition("\n\n")[0].splitlines()[2:]:
        room, modules_of_room = row.strip("| ").split(" | ")
        found = set(re.findall(r"`(\w+\.py)`", modules_of_room))
        named |= {(room.strip("`/") if "top" not in room else ".", name) for name in found}
    rooms = {(path.parts[0] if len(path.parts) > 1 else ".", path.name) for path in modules}
    assert named == rooms
