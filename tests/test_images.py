"""Folders of the user's own images."""

from __future__ import annotations

import logging
import os
import struct
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageFile, features
from pyarrow import parquet

from dkm.config.data import ImageFolderData, ImageListData, ImageParquetData
from dkm.data.datasets import Dataset, load_dataset
from dkm.data.images.decoding import Decoder
from dkm.data.images.reader import ImageFolder, ImageList, ImageReader
from dkm.data.stored import StoredRows
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
    np.testing.assert_array_equal(folder(tmp_path, range=[0, 65535]).read().X[0], GRADIENT)


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


def test_large_images_come_in_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkm.data.stored.CHUNK_ROWS", 2)
    monkeypatch.setattr("dkm.data.stored._PART_VALUES", 3 * 8 * 8)
    for i in range(5):
        write(tmp_path / f"{i}.png", GRADIENT)
    config = ImageFolderData(path=str(tmp_path), root="", image_size=8)
    for n_channels, sizes in ((1, [3, 2]), (3, [2, 2, 1])):
        reader = ImageFolder(config, plan={}, n_channels=n_channels)
        assert [len(part.X) for part in reader.parts(100)] == sizes
    assert len(ImageFolder(config).read().X) == 5


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
    with pytest.raises(UserError, match=r"an empty folder; expected a folder with images below it"):
        folder(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"text")
    with pytest.raises(UserError, match=r"no images \(a.txt is not in an image format that Pillow reads\)"):
        folder(tmp_path)
    with pytest.raises(UserError, match="a file; expected a folder"):
        folder(tmp_path / "a.txt")
    with pytest.raises(UserError, match="no such folder; expected"):
        folder(tmp_path / "none")


# --- formats ---


@pytest.mark.parametrize(
    "suffix", ["bmp", "gif", "jfif", "jp2", "pcx", "pgm", "png", "ppm", "tga", "tif", "tiff", "webp", "avif"]
)
def test_every_format_of_pillow_is_read(suffix: str, tmp_path: Path) -> None:
    if suffix == "avif" and not ("avif" in features.features and features.check("avif")):
        pytest.skip("Pillow was built without AVIF")
    if suffix == "jp2" and not features.check("jpg_2000"):
        pytest.skip("Pillow was built without JPEG 2000")
    options = {"webp": {"lossless": True}, "avif": {"quality": 100}}.get(suffix, {})
    write(tmp_path / f"a.{suffix}", GRADIENT, **options)
    reader = folder(tmp_path)
    X = reader.read().X
    assert np.abs(X.reshape(8, 8, -1)[..., 0].astype(int) - GRADIENT).max() <= 3
    assert reader.report.decisions["formats"].endswith(" (1)")


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    for name, file_format in (("a", "PNG"), ("b.jpg", "PNG"), ("c.dat", "WEBP"), ("d.gif", "BMP")):
        Image.fromarray(GRADIENT).save(tmp_path / name, format=file_format, lossless=True)
    (tmp_path / "notes.txt").write_text("P5 is how a PGM file begins, but this is text")
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    reader = folder(tmp_path)
    part = reader.read()
    assert part.ids is not None
    assert part.ids.tolist() == ["a", "b.jpg", "c.dat", "d.gif"]
    assert part.position.tolist() == [0, 1, 2, 3]
    (left_out,) = reader.report.left_out
    assert (left_out.what, left_out.n, left_out.examples) == ("files", 3, ["notes.txt", "phone.heic", "table.csv"])
    assert reader.report.odd == ["pictures are left out in formats that Pillow does not read: .heic (1); convert them"]


def test_formats_that_run_other_programs_are_never_opened(tmp_path: Path) -> None:
    write(tmp_path / "a.png", GRADIENT)
    Image.fromarray(GRADIENT).save(tmp_path / "b.eps")
    (tmp_path / "b.eps").rename(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read: b.png \(not an image that Pillow reads\)"):
        folder(tmp_path).read()


def test_the_first_of_several_frames_is_used(tmp_path: Path) -> None:
    frames = [Image.fromarray(GRADIENT), Image.fromarray(GRADIENT[::-1])]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
    reader = folder(tmp_path)
    np.testing.assert_array_equal(reader.read().X, [GRADIENT, GRADIENT])
    assert reader.report.decisions["frames"] == "2 files have several frames, the first is used"


def test_a_header_that_promises_too_many_pixels_is_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.png", GRADIENT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert folder(tmp_path).read().X.shape == (1, 8, 8)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("unpacked"))
    for limit, why in ((63, "8 x 8 pixels, the limit is 63 pixels"), (31, "more than 62 pixels")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=rf"1 of 1 images cannot be read: a.png \({why}\)"):
            folder(tmp_path).read()


# --- transparency, palettes, EXIF, 16 bits ---


def half_transparent(color: int) -> np.ndarray:
    """An image whose left half is opaque and whose right half is transparent, (8, 8, 4)."""
    pixels = np.full((8, 8, 4), color, np.uint8)
    pixels[:, :4, 3], pixels[:, 4:, 3] = 255, 0
    return pixels


@pytest.mark.parametrize(
    ("background", "expected"),
    [("white", [255] * 3), ("black", [0] * 3), ("#ff8000", [255, 128, 0]), ("none", [7] * 3)],
)
def test_transparent_images_are_drawn_on_the_background(background: str, expected: list[int], tmp_path: Path) -> None:
    write(tmp_path / "a.png", half_transparent(7))
    reader = folder(tmp_path, background=background)
    X = reader.read().X
    assert X[0, 0, 0].tolist() == [7, 7, 7]
    assert X[0, 0, 7].tolist() == expected
    told = reader.report.decisions["transparency"]
    assert told.startswith("1 images are transparent, ")
    assert f"data.background={background}" in told


def test_hidden_colors_of_transparent_pixels_do_not_count(tmp_path: Path) -> None:
    pixels = half_transparent(7)
    write(tmp_path / "a.png", pixels)
    pixels[:, 4:, :3] = np.random.default_rng(0).integers(0, 255, (8, 4, 3))
    write(tmp_path / "b.png", pixels)
    X = folder(tmp_path).read().X
    np.testing.assert_array_equal(X[0], X[1])


def test_half_transparency_mixes_with_the_background(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.dstack([np.full((8, 8), 100, np.uint8), np.full((8, 8), 51, np.uint8)]))
    reader = folder(tmp_path)
    np.testing.assert_array_equal(reader.read().X, np.full((1, 8, 8), 224))  # 255 + (100 - 255) * 51 / 255
    assert folder(tmp_path, background="#ff0000").read().X.shape == (1, 8, 8, 3)


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.dstack([GRADIENT, np.full_like(GRADIENT, 255)]))
    reader = folder(tmp_path)
    np.testing.assert_array_equal(reader.read().X[0], GRADIENT)
    assert "transparency" not in reader.report.decisions


def test_a_palette_may_be_transparent_and_gray(tmp_path: Path) -> None:
    image = Image.fromarray((GRADIENT > 100).astype(np.uint8), mode=None).convert("P")
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.save(tmp_path / "gray.png")
    assert folder(tmp_path).read().X.shape == (1, 8, 8)
    image.save(tmp_path / "mixed.png", transparency=bytes([0, 255]))
    image.putpalette([10, 10, 10, 200, 0, 0])
    image.save(tmp_path / "red.gif", transparency=0)
    reader = folder(tmp_path)
    gray, mixed, red = reader.read().X
    assert (gray[0, 0].tolist(), gray[7, 7].tolist()) == ([10, 10, 10], [200, 200, 200])
    assert (mixed[0, 0].tolist(), mixed[7, 7].tolist()) == ([255, 255, 255], [200, 200, 200])
    assert (red[0, 0].tolist(), red[7, 7].tolist()) == ([255, 255, 255], [200, 0, 0])
    assert reader.report.decisions["transparency"].startswith("2 images")


def test_damaged_exif_is_no_reason_to_refuse_whole_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "A LONG NAME OF A CAMERA"
    write(tmp_path / "a.jpg", GRADIENT, exif=exif, quality=100)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    start = content.find(b"Exif\0\0")
    size = int.from_bytes(content[start - 2 : start], "big")
    content[start - 2 : start] = (size - 12).to_bytes(2, "big")
    del content[start - 2 + size - 12 : start - 2 + size]
    (tmp_path / "a.jpg").write_bytes(content)
    write(tmp_path / "b.png", GRADIENT, exif=b"Exif\0\0no TIFF header")
    X = folder(tmp_path).read().X
    assert np.abs(X.astype(int) - GRADIENT).max() <= 2


def test_deep_images_are_scaled_by_the_range_of_all_of_them(tmp_path: Path) -> None:
    write(tmp_path / "a.png", GRADIENT.astype(np.uint16) + 1000)
    write(tmp_path / "b.tif", GRADIENT.astype(np.uint16) + 1003)
    write(tmp_path / "c.png", GRADIENT)  # 8 bits stay as they are
    reader = folder(tmp_path)
    a, b, c = reader.read().X
    np.testing.assert_array_equal(a, GRADIENT)
    np.testing.assert_array_equal(b, GRADIENT + 3)
    np.testing.assert_array_equal(c, GRADIENT)
    assert reader.plan == {"range": [1000, 1255]}
    assert "data.range=[1000,1255]" in reader.report.decisions["range"]
    (part,) = ImageFolder(ImageFolderData(path=str(tmp_path), image_size=8), plan=reader.plan, n_channels=1).parts(9)
    np.testing.assert_array_equal(part.X, [a, b, c])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_deep_images_that_are_not_finite_are_unreadable(value: float, tmp_path: Path) -> None:
    pixels = GRADIENT.astype(np.float32)
    pixels[3, 3] = value
    write(tmp_path / "x.tif", pixels)
    decoder = Decoder(8, 3, "white")
    assert decoder.decode(tmp_path / "x.tif") == decoder.open_rgb(tmp_path / "x.tif") == "pixels that are not finite"


def test_deep_images_may_have_a_given_range(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.array([[0, 4095], [2048, 5000]], np.uint16))
    config = ImageFolderData(path=str(tmp_path), image_size=2, range=[0, 4095])
    assert ImageFolder(config).read().X.tolist() == [[[0, 255], [128, 255]]]
    with pytest.raises(UserError, match=r"data\.range=\[9.0, 1.0\]: expected two numbers, the lower one first"):
        ImageFolderData(path="x", range=[9.0, 1.0])


# --- folders ---


def deep_color_png(values: np.ndarray) -> bytes:
    """Return a PNG file of uint16 (H, W, 3), which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["folder", "disk", "parquet"])
def test_lost_bits_of_sixteen_bit_colors_are_told(kind: str, tmp_path: Path) -> None:
    deep = np.dstack([GRADIENT.astype(np.uint16) * 16] * 3)  # 12 bits: Pillow keeps the upper 8 of 16
    write(tmp_path / "photos" / "a.png", np.dstack([GRADIENT] * 3))
    write(tmp_path / "photos" / "b.png", GRADIENT.astype(np.uint16) * 16)
    (tmp_path / "photos" / "c.png").write_bytes(deep_color_png(deep))
    settings: dict[str, Any] = {"root": str(tmp_path), "image_size": 8}
    if kind == "parquet":
        files = sorted((tmp_path / "photos").iterdir())
        parquet.write_table(pa.table({"image": [file.read_bytes() for file in files]}), tmp_path / "t.parquet")
        data = load_dataset(ImageParquetData(path=str(tmp_path / "t.parquet"), **settings))
    else:
        load = "auto" if kind == "folder" else "disk"
        data = load_dataset(ImageFolderData(path=str(tmp_path / "photos"), load=load, **settings))
    message = "images in color with 16 bits per channel: 1; the upper 8 are read, so values below 256 are black"
    assert data.report.odd == [message]


def test_hidden_folders_are_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.png", GRADIENT)
    for name in (".thumbnails/1.png", ".thumbnails/2.png", "b/.cache/3.png", "b/.4.png"):
        write(tmp_path / name, GRADIENT)
    reader = folder(tmp_path)
    ids = reader.read().ids
    assert reader.fingerprint()
    assert ids is not None
    assert ids.tolist() == ["a.png"]
    left_out = [(part.what, part.n, part.reason, part.examples) for part in reader.report.left_out]
    assert left_out == [
        ("files", 1, "hidden", ["b/.4.png"]),
        ("folders", 2, "hidden", [".thumbnails", "b/.cache"]),
    ]


@pytest.mark.parametrize("suffix", [".nef", ".DNG"])
def test_the_preview_in_a_raw_file_is_not_its_image(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / "a.tif", GRADIENT)
    raw = tmp_path / f"b{suffix}"
    raw.write_bytes((tmp_path / "a.tif").read_bytes())
    write(tmp_path / "c.jpg", GRADIENT)
    (tmp_path / "c.jpg").rename(tmp_path / "c.nef")  # the content decides
    reader = folder(tmp_path)
    assert [file.id for file in reader.files] == ["a.tif", "c.nef"]
    assert reader.report.odd == [
        f"pictures are left out in formats that Pillow does not read: {suffix.lower()} (1); convert them"
    ]
    assert Decoder(8, 1, "white").decode(raw) == "not an image that Pillow reads"


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "real" / "1.png", GRADIENT)
    write(tmp_path / "photos" / "a" / "2.png", GRADIENT)
    (tmp_path / "photos" / "b").symlink_to("../real")
    (tmp_path / "photos" / "a" / "loop").symlink_to("..")
    reader = folder(tmp_path / "photos", labels="folder")
    part = reader.read()
    assert part.ids is not None
    assert part.labels is not None
    assert part.ids.tolist() == ["a/2.png", "b/1.png"]
    assert part.labels.tolist() == ["a", "b"]
    (left_out,) = reader.report.left_out
    assert (left_out.reason, left_out.examples) == ("linked to a folder that contains them", ["a/loop"])


def test_a_folder_that_cannot_be_opened_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "1.png", GRADIENT)
    write(tmp_path / "b" / "2.png", GRADIENT)
    scan = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = folder(tmp_path).report
    assert [(part.what, part.n, part.examples) for part in report.left_out] == [("folders", 1, ["b"])]
    assert report.odd == ["1 folders cannot be opened (Permission denied), for example b; check their permissions"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names of other systems are Unicode")
def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    reader = folder(tmp_path)
    ids = reader.read().ids
    assert ids is not None
    assert ids.tolist() == ["caf\\xe9.png"]
    assert reader.report.decisions["names"].startswith("1 are not UTF-8 and are escaped in the ids")


def test_a_broken_link_is_an_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"1 of 1 images cannot be read: a.png \(No such file or directory\)"):
        folder(tmp_path).read()


def test_reading_images_leaves_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    for i in range(40):
        image = Image.fromarray(GRADIENT + np.uint8(i)).convert("P")
        image.save(tmp_path / f"{i:02d}.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        X = folder(tmp_path).read().X
        assert len(X) == 40
        for _ in range(3):
            np.testing.assert_array_equal(folder(tmp_path).read().X, X)
        with pytest.warns(UserWarning, match="any library"):
            warnings.warn("any library", stacklevel=1)


# --- on disk ---


@pytest.mark.parametrize("kind", ["gray", "color", "deep", "deep and color", "given range"])
def test_images_on_disk_are_those_in_memory_to_the_bit(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dkm.data.images.reader._FILES_AT_ONCE", 2)
    for i in range(5):
        write(tmp_path / "photos" / f"{i}.png", GRADIENT + np.uint8(i))
    if "color" in kind:
        write(tmp_path / "photos" / "6.png", np.dstack([GRADIENT, GRADIENT.T, GRADIENT]))
    if "deep" in kind or kind == "given range":
        write(tmp_path / "photos" / "3a.png", GRADIENT.astype(np.uint16) * 7)
        write(tmp_path / "photos" / "7.tif", GRADIENT.astype(np.uint16) * 9 + 5)
    (tmp_path / "photos" / "4.png").write_bytes(b"damaged")
    limits = [0.0, 1000.0] if kind == "given range" else None

    def load(where: str) -> Dataset:
        path, root = str(tmp_path / "photos"), str(tmp_path / "root")
        return load_dataset(
            ImageFolderData(path=path, root=root, image_size=8, load=where, max_unreadable=0.5, range=limits)
        )

    memory, first = load("memory"), load("disk")
    monkeypatch.setattr(Decoder, "decode", lambda *_: pytest.fail("decoded again"))
    second = load("disk")
    for disk in (first, second):
        assert isinstance(disk.X, StoredRows)
        assert torch.equal(disk.X.read(0, disk.n_samples), memory.X)
        assert (disk.sha256, disk.image_shape, disk.plan) == (memory.sha256, memory.image_shape, memory.plan)
        assert disk.ids is not None
        np.testing.assert_array_equal(disk.ids, memory.ids)
        np.testing.assert_array_equal(disk.position, memory.position)
        cache = {"cache": disk.report.decisions["cache"]}
        assert disk.report.decisions == memory.report.decisions | cache
        assert disk.report.left_out == memory.report.left_out
    assert len(list((tmp_path / "root" / "images").iterdir())) == 2


def test_a_changed_image_is_decoded_anew(photos: Path) -> None:
    config = ImageFolderData(path=str(photos / "photos"), root=str(photos), image_size=8, load="disk")
    before = load_dataset(config)
    write(photos / "photos" / "1.png", GRADIENT[::-1])
    os.utime(photos / "photos" / "1.png", (1, 1))
    after = load_dataset(config)
    assert isinstance(after.X, StoredRows)
    assert after.sha256 != before.sha256
    np.testing.assert_allclose(after.X.read(1, 2).numpy().reshape(8, 8) * 255, GRADIENT[::-1], atol=1e-4)


def test_two_processes_decode_the_same_images_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ImageFolderData(path=str(photos / "photos"), root=str(photos), image_size=8, load="disk")
    store, n_stored, is_storing = ImageReader.store, list[Path](), threading.Event()

    def store_slowly(self: ImageReader, path: Path) -> Sequence[int]:
        n_stored.append(path)
        is_storing.set()
        time.sleep(0.3)
        return store(self, path)

    monkeypatch.setattr(ImageReader, "store", store_slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(load_dataset, config)
        assert is_storing.wait(10)
        second = pool.submit(load_dataset, config)
        loaded = [first.result(), second.result()]
    assert len(n_stored) == 1
    for data in loaded:
        assert isinstance(data.X, StoredRows)
        data.X.check_unchanged()
    assert sorted(path.suffix for path in (photos / "images").iterdir()) == [".json", ".npy"]


def test_equal_names_sizes_and_times_of_another_folder_are_other_images(photos: Path) -> None:
    digests = set()
    for name, turned in (("a", GRADIENT), ("b", np.ascontiguousarray(GRADIENT[::-1]))):
        write(photos / name / "1.bmp", turned)
        os.utime(photos / name / "1.bmp", (1, 1))
        config = ImageFolderData(path=str(photos / name), root=str(photos), image_size=8, load="disk")
        digests.add(load_dataset(config).sha256)
    write(photos / "b" / "1.bmp", GRADIENT.T)
    os.utime(photos / "b" / "1.bmp", (1, 1))
    assert len(digests | {load_dataset(config).sha256}) == 3


def test_a_cache_that_cannot_be_written_is_one_line(photos: Path) -> None:
    (photos / "file").write_text("")
    config = ImageFolderData(path=str(photos / "photos"), root=str(photos / "file"), image_size=8, load="disk")
    with pytest.raises(UserError, match=r"data.root=.*file: the cache of decoded images cannot be written"):
        load_dataset(config)


# --- lists ---


def image_list(path: Path, **settings: Any) -> ImageList:
    return ImageList(ImageListData(path=str(path), image_size=8, **settings))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three images below ``photos``."""
    for i in range(3):
        write(tmp_path / "photos" / f"{i}.png", GRADIENT + np.uint8(i))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("photos/2.png\nphotos/0.png\n", "0"),
        ("007,photos/2.png,cat\n008,photos/0.png,dog\n", "1"),
        ("id;file;kind\n007;photos/2.png;cat\n\n008;photos/0.png;dog\n", "file"),
        ('\ufeff"a ""file""",kind\r\n"photos/2.png",cat\r\nphotos/0.png,dog\r\n', 'a "file"'),
    ],
)
def test_a_list_names_its_images_in_its_order(text: str, column: str, photos: Path) -> None:
    (photos / "list.csv").write_text(text, encoding="utf-8", newline="")
    reader = image_list(photos / "list.csv")
    part = reader.read()
    assert part.ids is not None
    assert part.ids.tolist() == ["photos/2.png", "photos/0.png"]
    np.testing.assert_array_equal(part.X, [GRADIENT + 2, GRADIENT])
    assert reader.report.decisions["images"] == f"column {column}, whose values are paths of files"
    assert reader.report.decisions["header"].startswith("none" if column.isdigit() else "the first line")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_the_encoding_of_a_list_follows_from_its_content(encoding: str, photos: Path) -> None:
    (photos / "list.csv").write_bytes("file,kind\nphotos/2.png,süß\nphotos/0.png,sauer\n".encode(encoding))
    reader = image_list(photos / "list.csv", labels="kind")
    labels = reader.read().labels
    assert labels is not None
    assert labels.tolist() == ["süß", "sauer"]
    assert reader.report.decisions["encoding"].lower().startswith(encoding)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("my photos/2.png 1\nmy photos/0.png  0\n", "1"),
        ("path, label\nmy photos/2.png, 1\nmy photos/0.png, 0\n", "label"),
        ('label, path\n1, "my photos/2.png"\n0, my photos/0.png\n', "label"),
    ],
)
def test_a_list_may_have_spaces(text: str, labels: str, photos: Path) -> None:
    (photos / "photos").rename(photos / "my photos")
    (photos / "list.txt").write_text(text)
    part = image_list(photos / "list.txt", labels=labels).read()
    assert part.ids is not None and part.labels is not None
    assert part.ids.tolist() == ["my photos/2.png", "my photos/0.png"]
    assert part.labels.tolist() == ["1", "0"]
    (photos / "list.txt").write_text("my photos/2.png\nmy photos/0.png\n")
    assert image_list(photos / "list.txt").read().ids.tolist() == part.ids.tolist()  # type: ignore[union-attr]


def test_a_column_of_a_list_has_the_labels(photos: Path) -> None:
    (photos / "list.csv").write_text("file,kind\nphotos/2.png,cat\nphotos/0.png,007\n")
    labels = image_list(photos / "list.csv", labels="kind").read().labels
    assert labels is not None
    assert labels.tolist() == ["cat", "007"]
    data = load_dataset(ImageListData(path=str(photos / "list.csv"), image_size=8, labels="kind"))
    assert data.labels is not None
    assert data.labels.tolist() == ["cat", "007"]
    assert data.report.source == f"data.path={photos / 'list.csv'}"


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a,b\nphotos/0.png,photos/1.png\n", {}, r"2 columns contain paths .*; set data.images=a or data.images=b"),
        ("the file,b\nx.png,1\n", {}, r"no column contains paths .* set 'data.images=.*the file.*' or data.images=b"),
        ("a,b\nphotos/0.png,1\n", {"labels": "c"}, r"data.labels=c: .* no such column; .*; set data.labels=a or data"),
        ("a,b\nphotos/0.png,\n", {"labels": "b"}, r"data.labels=b: line 2 has no label; .*; set data.labels=null"),
        ("a,b\nphotos/0.png,1,2\n", {}, r"3 values in line 2; expected 2"),
        ("a,a\nphotos/0.png,1\n", {}, r"two columns a; expected column names that differ"),
        ("", {}, "an empty file"),
        ("a,b\n", {}, "a header and no further line"),
        ('a\n"photos', {}, r"line 2 cannot be read"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(text: str, settings: dict[str, str], message: str, photos: Path) -> None:
    (photos / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        image_list(photos / "list.csv", **settings)


def test_a_list_of_missing_images_is_refused(photos: Path) -> None:
    (photos / "list.csv").write_text("file\nphotos/0.png\nphotos/none.png\n")
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read: photos/none.png \(No such file"):
        image_list(photos / "list.csv").read()
    with pytest.raises(UserError, match=r"no.csv: cannot be opened \(No such file or directory\)"):
        image_list(photos / "no.csv")
