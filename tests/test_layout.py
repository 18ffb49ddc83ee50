"""Layouts of array images and series, and the order of the files of a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import io
from test_predict import QUICK

from dkm import predict, train
from dkm.config.data import MatData, NpyData, NpzData
from dkm.data.arrays import read_for_model
from dkm.data.datasets import Dataset, load_dataset
from dkm.data.files import natural_key
from dkm.data.reader import InputReader
from dkm.data.scaling import picture_channels
from dkm.errors import UserError


def count(*shape: int, dtype: str = "float64") -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def load(tmp_path: Path, X: np.ndarray, **settings: Any) -> Dataset:
    np.save(tmp_path / "x.npy", X)
    return load_dataset(NpyData(path=str(tmp_path / "x.npy"), scaling="none", **settings))


@pytest.mark.parametrize(
    ("shape", "layout", "image_shape"),
    [
        ((3, 16, 16, 2), "hwc", (2, 16, 16)),
        ((3, 2, 16, 16), "chw", (2, 16, 16)),
        ((3, 5, 16, 16), "chw", (5, 16, 16)),
        ((3, 16, 16, 5), "hwc", (5, 16, 16)),
        ((3, 64, 64, 13), "hwc", (13, 64, 64)),
        ((3, 16, 16, 4), "hwc", (4, 16, 16)),
        ((3, 28, 20), "hwc", (1, 28, 20)),
    ],
)
@pytest.mark.parametrize("is_set", [True, False])
def test_images_of_any_number_of_channels_become_channels_first(
    shape: tuple[int, ...], layout: str, image_shape: tuple[int, ...], is_set: bool, tmp_path: Path
) -> None:
    data = load(tmp_path, count(*shape), layout=layout if is_set else None)
    assert data.image_shape == image_shape
    X = count(*shape) if layout == "chw" or len(shape) == 3 else count(*shape).transpose(0, 3, 1, 2)
    assert isinstance(data.X, torch.Tensor)
    np.testing.assert_array_equal(data.X.numpy(), X.reshape(3, -1))
    assert f"data.layout={layout}" in data.report.decisions["layout"]


@pytest.mark.parametrize(
    ("shape", "dtype", "candidates"),
    [
        ((3, 16, 16, 12), "uint8", ["hwc (12 channels of 16 x 16)", "chw (16 channels of 16 x 12)", "rows (3,072"]),
        ((3, 3, 32, 3), "uint8", ["hwc (3 channels of 3 x 32)", "chw (3 channels of 32 x 3)", "rows (288"]),
        ((3, 128, 9), "float64", ["series (9 values at 128 points in time)", "hwc (gray images of 128 x 9)"]),
        ((3, 6, 3), "uint8", ["series (3 values at 6 points in time)"]),
        ((3, 4, 4, 4, 4), "uint8", ["rows flattens each row"]),
    ],
)
def test_several_plausible_layouts_are_refused_with_the_candidates(
    shape: tuple[int, ...], dtype: str, candidates: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, count(*shape, dtype=dtype))
    assert f"shape {shape}" in str(caught.value)
    for candidate in candidates:
        assert f"data.layout={candidate}" in str(caught.value)
        name = candidate.split()[0]
        assert load(tmp_path, count(*shape, dtype="float64"), layout=name).n_features == math.prod(shape[1:])


def test_a_layout_that_the_array_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.layout=hwc: .* has shape \(3, 4\); .*; set data.layout=rows or data"):
        load(tmp_path, count(3, 4), layout="hwc")


def test_long_pictures_of_bytes_are_images(tmp_path: Path) -> None:
    assert load(tmp_path, count(3, 8, 40, dtype="uint8")).image_shape == (1, 8, 40)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_series_are_rows_with_one_channel_after_the_other(where: str, tmp_path: Path) -> None:
    data = load(tmp_path, count(2, 3, 2), layout="series", load=where)
    rows = data.X if isinstance(data.X, torch.Tensor) else data.X.read(0, 2)
    assert rows.tolist() == [[0, 2, 4, 1, 3, 5], [6, 8, 10, 7, 9, 11]]
    assert data.image_shape is None


def test_a_layout_on_disk_is_that_in_memory(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(50, 8, 8, 12))
    memory, disk = (load(tmp_path, X, layout="hwc", load=where) for where in ("memory", "disk"))
    assert disk.sha256 == memory.sha256
    assert not isinstance(disk.X, torch.Tensor)
    index = torch.tensor([40, 3, 3])
    assert torch.equal(disk.X.take(index), memory.X[index])


def test_a_layout_that_is_the_guess_changes_no_hash(tmp_path: Path) -> None:
    X = count(3, 8, 8, 3)
    assert load(tmp_path, X).sha256 == load(tmp_path, X, layout="hwc").sha256


def test_an_array_of_an_archive_has_a_layout(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=count(3, 16, 16, 12))
    data = load_dataset(NpzData(path=str(tmp_path / "x.npz"), layout="hwc"))
    assert data.image_shape == (12, 16, 16)


@pytest.mark.parametrize(("n_channels", "expected"), [(1, [0]), (2, [0.5]), (3, [0, 1, 2]), (4, [0, 1, 2]), (6, [2.5])])
def test_pictures_show_three_of_four_channels_or_the_mean(n_channels: int, expected: list[float]) -> None:
    images = np.broadcast_to(np.arange(n_channels, dtype=np.float32)[:, None, None], (2, n_channels, 5, 5))
    shown = picture_channels(images)
    assert shown.shape == (2, len(expected), 5, 5)
    assert shown[1, :, 2, 3].tolist() == expected


def test_the_report_tells_which_channels_are_drawn(tmp_path: Path) -> None:
    assert load(tmp_path, count(3, 16, 16, 4)).report.decisions["pictures"].startswith("the first three of four")
    assert load(tmp_path, count(3, 5, 16, 16)).report.decisions["pictures"] == "the mean of 5 channels"


@pytest.mark.parametrize(
    ("shape", "layout"), [((60, 2, 10, 10), "chw"), ((60, 10, 10, 4), "hwc"), ((60, 8, 9), "series")]
)
def test_a_run_with_all_pictures_predicts_its_rows_as_it_clustered_them(
    shape: tuple[int, ...], layout: str, tmp_path: Path
) -> None:
    X = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    np.save(tmp_path / "x.npy", X)
    words = [word for word in QUICK if word not in ("log.figures=false", "log.report=false", "log.tensorboard=false")]
    run = tmp_path / "run"
    data = ["data=npy", f"data.path={tmp_path / 'x.npy'}", f"data.layout={layout}", f"hydra.run.dir={run}"]
    assert train._main([*data, *words, "pretrain.epochs=1", "joint.epochs=1"]) == 0
    assert (run / "projector" / "sprite.png").exists() == (layout != "series")
    assert json.loads((run / "data.json").read_text())["decisions"]["layout"]
    predict.work([f"run={run}", f"input={tmp_path / 'x.npy'}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()
    if layout == "hwc":  # the same images with their channels first
        np.save(tmp_path / "first.npy", np.moveaxis(X, 3, 1))
        predict.work([f"run={run}", f"input={tmp_path / 'first.npy'}", f"output={tmp_path / 'f.csv'}", "threads=1"])
        assert (tmp_path / "f.csv").read_bytes() == (run / "assignments.csv").read_bytes()


def test_a_model_without_a_layout_reads_images_as_it_did(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", count(3, 16, 16, 12))
    config = NpyData(path=str(tmp_path / "x.npy"), load="memory")
    (part,) = InputReader(config, key="input", plan=None, image_shape=(16, 16, 12)).parts()
    assert part.X.shape == (3, 16, 16, 12)


@pytest.mark.parametrize("kind", ["npy", "mat"])
def test_a_model_of_image_files_refuses_arrays_of_another_shape(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"

    def read(X: np.ndarray) -> np.ndarray:
        if kind == "npy":
            np.save(path, X)
        else:
            io.savemat(path, {"x": X})
        config = NpyData(path=str(path)) if kind == "npy" else MatData(path=str(path))
        reader = InputReader(config, key="input", plan={"range": [0, 255], "is_last": False}, image_shape=(1, 6, 8))
        (part,) = reader.parts()
        return part.X

    for shape in ((5, 6, 8), (5, 1, 6, 8), (5, 6, 8, 1), (5, 48)):
        assert read(count(*shape)).size == 5 * 48
    expected = r"input=.*: images of shape \(4, 12\); expected those of the model, 1 x 6 x 8"
    with pytest.raises(UserError, match=expected):
        read(count(5, 4, 12))


@pytest.mark.parametrize("config", [NpyData(path="x.npy"), NpyData(path="x.npy", load="disk"), NpzData(path="x.npz")])
def test_a_damaged_array_is_named_by_the_setting_that_the_user_gave(
    config: NpyData | NpzData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", count(3, 6))
    np.savez("x.npz", x=count(3, 6))
    path = tmp_path / config.path
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(UserError, match=rf"^input={config.path}: "):
        list(InputReader(config, key="input", plan={}, image_shape=None).parts())


# --- the order of files ---


def test_natural_order_compares_numbers_by_value() -> None:
    names = ["part10", "part2", "part02", "a", "2", "10", "part2b", "B"]
    assert sorted(names, key=natural_key) == ["2", "10", "B", "a", "part02", "part2", "part2b", "part10"]


def test_shards_are_read_by_number_and_the_report_tells_it(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        np.save(tmp_path / f"part{number}.npy", np.full((1, 1), float(number)))
    data = load_dataset(NpyData(path=str(tmp_path), scaling="none"))
    assert isinstance(data.X, torch.Tensor)
    assert data.X.ravel().tolist() == [1, 2, 10]
    assert data.report.decisions["order"] == "files by the numbers in their names, from part1.npy to part10.npy"
    (tmp_path / "part10.npy").rename(tmp_path / "part3.npy")
    assert "order" not in load_dataset(NpyData(path=str(tmp_path), scaling="none")).report.decisions


@pytest.mark.parametrize("load", ["memory", "disk"])
def test_images_of_another_shape_than_the_models_are_refused(load: str, tmp_path: Path) -> None:
    plan = {"layout": "hwc", "image_shape": [1, 6, 8]}
    config = NpyData(path=str(tmp_path / "x.npy"), load=load)
    for shape in ((5, 6, 8), (5, 1, 6, 8), (5, 6, 8, 1), (5, 48), (5, 48, 1)):
        np.save(tmp_path / "x.npy", np.zeros(shape))
        assert read_for_model(config, plan).X.size == 5 * 48
    for shape in ((5, 8, 6), (5, 4, 12), (5, 2, 4, 6)):
        np.save(tmp_path / "x.npy", np.zeros(shape))
        sides = ", ".join(map(str, shape[1:]))
        expected = rf"data.path=.*x.npy: images of shape \({sides}\); expected those of the model, 1 x 6 x 8"
        with pytest.raises(UserError, match=expected):
            read_for_model(config, plan)
