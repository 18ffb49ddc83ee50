"""Folders of the user's own images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dkm.config.data import ImageFolderData
from dkm.data.datasets import load_dataset
from dkm.data.images import ImageFolder
from dkm.errors import UserError

GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def write(path: Path, values: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def folder(path: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(ImageFolderData(path=str(path), image_size=8, **settings))


def test_images_come_in_the_order_of_their_paths_at_one_size(tmp_path: Path) -> None:
    write(tmp_path / "b" / "deep" / "two.PNG", np.full((20, 30), 200, np.uint8))
    write(tmp_path / "a" / "one.jpeg", np.full((5, 7), 100, np.uint8), quality=95)
    write(tmp_path / ".hidden.png", GRADIENT)
    (tmp_path / "readme.txt").write_text("not an image")
    part = folder(tmp_path).read()
    assert part.ids is not None
    assert part.ids.tolist() == ["a/one.jpeg", "b/deep/two.PNG"]
    assert part.X.shape == (2, 8, 8)
    assert part.X.dtype == np.uint8
    assert np.abs(part.X.astype(int) - np.array([100, 200])[:, None, None]).max() <= 1


def test_one_image_in_color_makes_all_of_them_rgb(tmp_path: Path) -> None:
    write(tmp_path / "gray.png", GRADIENT)
    write(tmp_path / "red.png", np.full((8, 8, 3), (255, 0, 0), np.uint8))
    X = folder(tmp_path).read().X
    assert X.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(X[0], np.repeat(GRADIENT[:, :, None], 3, axis=2))
    assert X[1, 0, 0].tolist() == [255, 0, 0]
    assert folder(tmp_path, color="gray").read().X.shape == (2, 8, 8)
    assert load_dataset(ImageFolderData(path=str(tmp_path), image_size=8)).image_shape == (3, 8, 8)


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    write(tmp_path / "deep.png", GRADIENT.astype(np.uint16) * 257)
    np.testing.assert_array_equal(folder(tmp_path).read().X[0], GRADIENT)


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    write(tmp_path / "turned.png", GRADIENT, exif=exif)
    np.testing.assert_array_equal(folder(tmp_path).read().X[0], GRADIENT[::-1, ::-1])


def test_class_folders_are_labels_only_if_asked(tmp_path: Path) -> None:
    for name in ("cats/1.png", "cats/more/2.png", "dogs/1.png"):
        write(tmp_path / name, np.full((8, 8), len(name) * 9, np.uint8))
    assert folder(tmp_path).read().labels is None
    labels = folder(tmp_path, labels="folder").read().labels
    assert labels is not None
    assert labels.tolist() == ["cats", "cats", "dogs"]
    write(tmp_path / "loose.png", GRADIENT)
    with pytest.raises(UserError, match=r"data\.labels=folder: loose.png is in none; expected each image in a folder"):
        folder(tmp_path, labels="folder")


@pytest.mark.parametrize("n_rows", [1, 3, 100])
def test_parts_are_the_same_images(n_rows: int, tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / f"{i}.png", GRADIENT + np.uint8(i))
    (tmp_path / "2.png").write_bytes(b"\x89PNG broken")
    whole = folder(tmp_path, max_unreadable=0.5).read()
    parts = list(folder(tmp_path, max_unreadable=0.5).parts(n_rows))
    np.testing.assert_array_equal(np.concatenate([part.X for part in parts]), whole.X)
    assert np.concatenate([part.position for part in parts]).tolist() == whole.position.tolist() == [0, 1, 3, 4]


def test_unreadable_images_are_listed_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(9):
        write(tmp_path / f"{i}.png", GRADIENT + np.uint8(i))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        data = load_dataset(ImageFolderData(path=str(tmp_path), image_size=8, max_unreadable=0.1))
    assert "1 images cannot be read and are left out: bad.jpg (" in caplog.text
    assert data.n_samples == 9
    with pytest.raises(UserError, match=r"1 of 10 images cannot be read: bad.jpg .* raise data.max_unreadable"):
        folder(tmp_path).read()


def test_a_truncated_image_is_unreadable(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.random.default_rng(0).integers(255, size=(50, 50)).astype(np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    with pytest.raises(UserError, match=r"1 of 1 images cannot be read: a.png"):
        folder(tmp_path).read()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"an empty folder; expected a folder with \.png or \.jpg files"):
        folder(tmp_path)
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"no images \(it has a.gif, for example\)"):
        folder(tmp_path)
    with pytest.raises(UserError, match="a file; expected a folder"):
        folder(tmp_path / "a.gif")
    with pytest.raises(UserError, match="no such folder; expected"):
        folder(tmp_path / "none")
