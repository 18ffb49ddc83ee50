"""The README's code runs and its commands compose."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits, make_blobs

from dkm import compare, export, predict, select, train, tune
from dkm.clustering.functional import kmeans_loss
from dkm.config.compose import compose, parse
from dkm.config.groups import GROUPS
from dkm.config.messages import keys
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.search.trials import Study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^    python -m dkm\.train(.*)$", README, re.M) + re.findall(
    r"`python -m dkm\.train ([^`]*)`", README
)


def test_the_ten_lines_are_the_loss() -> None:
    names: dict[str, Any] = {"torch": torch}
    exec(BLOCKS[0], names)
    assert len(BLOCKS[0].strip().splitlines()) <= 10
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    c = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    loss, ours = names["kmeans_loss"](z, c), kmeans_loss(z, c)
    assert loss.item() == pytest.approx(ours.item(), rel=1e-12)
    for mine, theirs in zip(torch.autograd.grad(ours, [z, c]), torch.autograd.grad(loss, [z, c]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_pieces_train_on_their_own() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[1], names)
    assert len(names["optimizer"].param_groups[0]["params"]) == 5  # two weights, two biases, the centroids
    assert names["clustering"].centroids.grad.abs().sum() > 0
    assert names["encoder"].weight.grad.abs().sum() > 0


OWN_DATA = README.partition("## Your own data")[2].partition("\n## ")[0]


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands on the user's own data read, in the current folder."""
    monkeypatch.chdir(tmp_path)
    X, y = make_blobs(300, 3, centers=8, random_state=0)
    frame = pd.DataFrame({"customer": [f"c{i}" for i in range(300)], "age": X[:, 0], "income": X[:, 1], "city": "Rome"})
    frame.to_csv("customers.csv", index=False)
    frame.to_parquet("customers.parquet")
    frame.head(20).to_csv("new.csv", index=False)
    np.save("points.npy", X)
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

        zarr.open_group("store.zarr", mode="w").create_array("x", data=X)
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
def test_the_commands_on_own_data_run() -> None:
    commands = re.findall(r"^    python -m dkm\.train (.*)$", OWN_DATA, re.M)
    assert {word for c in commands for word in c.split() if word.startswith("data=")} == {
        f"data={name}"
        for name in (
            *("csv", "parquet", "image_folder", "image_list", "image_parquet", "text", "npy", "npz"),
            *("h5ad", "hdf5", "zarr", "mat"),
        )
    }
    quick = ["model.hidden=[16]", "pretrain.epochs=1", "joint.epochs=1", "clustering.n_init=1", "log.tensorboard=false"]
    packages = {"data=h5ad": "h5py", "data=hdf5": "h5py", "data=zarr": "zarr"}
    commands = [c for c in commands if find_spec(packages.get(c.split()[0], "numpy"))]
    for number, command in enumerate(commands):
        words = [*shlex.split(command), *quick, f"hydra.run.dir=run{number}", "log.progress=off"]
        assert train._main([*words, f"log.figures={str(number == 0).lower()}"]) == 0
    assert len(Path("run0/features.csv").read_text().splitlines()) == 1 + 8 * 2
    assert Path("run0/figures/features.png").exists()
    (command,) = re.findall(r"^    python -m dkm\.predict (.*)$", OWN_DATA, re.M)
    predict.work([word.replace("RUN", "run0") for word in shlex.split(command)])
    assert Path("clusters.csv").read_text().splitlines() == Path("run0/assignments.csv").read_text().splitlines()[:21]
    (command,) = re.findall(r"^    python -m dkm\.export (.*)$", OWN_DATA, re.M)
    export.work([word.replace("RUN", "run0") for word in shlex.split(command)])
    assert Path("artifact/assign.py").exists()


def test_the_estimator_of_the_readme_fits() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[2], names)
    assert names["model"].score(names["X"]) > 0.5


def test_the_command_that_compares_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["data=blobs", "model.hidden=[4]", "pretrain.epochs=1", "joint.epochs=1", "log.progress=off"]
    for seed in (0, 1):
        directory = f"hydra.run.dir=runs/{'sweeps/day' if seed else 'digits_kmeans'}/{seed}"
        words = [*quick, f"seed={seed}", directory, "log.figures=false", "log.report=false", "log.tensorboard=false"]
        assert train._main(words) == 0
    (command,) = re.findall(r"^    python -m dkm\.compare (.*)$", README, re.M)
    compare.work(shlex.split(command))
    assert "2 runs of one setting: 2 completed" in capsys.readouterr().out


def test_the_command_that_chooses_the_number_of_clusters_trains_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (command,) = re.findall(r"^    python -m dkm\.select (.*)$", README, re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dkm.search.selection_runs._train", lambda search, ks: trained.append((ks, search.seeds)))
    monkeypatch.setattr(
        "dkm.search.selection_runs.require_trainable", lambda config: checked.append(config) or "the SHA-256"
    )
    monkeypatch.setattr("dkm.search.selection_runs._why_lost", lambda *_: None)
    monkeypatch.setattr("dkm.search.selection_runs.collect_scores", lambda *_: 1 / 0)
    checked: list[Config] = []
    trained: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        select.work(shlex.split(command))
    assert trained == [([2], [0, 1, 2]), (list(range(3, 13)), [0, 1, 2])]
    assert [config.clustering.n_clusters for config in checked] == [12]


def test_the_command_that_searches_settings_searches_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (command,) = re.findall(r"^    python -m dkm\.tune (.*\\\n.*)$", README, re.M)
    studies: list[Study] = []
    monkeypatch.setattr("dkm.search.study.require_trainable", lambda config, **options: "the SHA-256")
    monkeypatch.setattr("dkm.search.study.run_trials", studies.append)
    monkeypatch.setattr("dkm.search.study.build_answer", lambda study: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune.work([*shlex.split(command.replace("\\\n", "")), f"output={tmp_path / 'out'}"])
    (study,) = studies
    assert study.config.trials == 40
    assert list(study.space) == ["clustering.weight", "clustering.init"]
    assert study.start == {"clustering.weight": 0.1, "clustering.init": "data"}


# The others are run as a whole in test_config.py, test_resume.py and test_custom.py.
ELSEWHERE = r"--cfg|--help|--multirun|--config-dir|resume=|mine\.|plugins="


@pytest.mark.parametrize("command", [c for c in COMMANDS if not re.search(ELSEWHERE, c)])
def test_each_command_composes(command: str) -> None:
    compose(parse(shlex.split(command)))


def test_the_commands_were_found() -> None:
    assert len(COMMANDS) >= 5


def test_the_table_of_groups_is_complete() -> None:
    for group, options in GROUPS.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
        others = {"auto", "mlp"} if group == "model" else set()  # `auto` is `mlp` with other widths
        assert set(re.findall(r"`([a-z_0-9]+)`", row)) == {group, *options, *others}


# In the table of keys, defaults that the config leaves to the environment or to the data.
NOT_IN_THE_CONFIG = {"data.root": "$DKM_DATA_ROOT or ./data", "data.scaling": "per data set"}
NOT_IN_THE_CONFIG |= {f"{group}.class": "required" for group in ("model", "clustering", "data")}
NOT_IN_THE_CONFIG |= {f"{group}.options": "{}" for group in ("model", "clustering", "data")}


def table_of_keys() -> list[tuple[str, str]]:
    """Return the keys of the table and their defaults, as the table has them."""
    table = README.partition("| key | default | meaning |")[2].partition("\n\n")[0]
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
    for row in README.partition("| room of `dkm/` |")[2].partition("\n\n")[0].splitlines()[2:]:
        room, modules_of_room = row.strip("| ").split(" | ")
        found = set(re.findall(r"`(\w+\.py)`", modules_of_room))
        named |= {(room.strip("`/") if "top" not in room else ".", name) for name in found}
    rooms = {(path.parts[0] if len(path.parts) > 1 else ".", path.name) for path in modules}
    assert named == rooms
