"""``data.encoder`` and ``data=image_parquet``: features of pretrained networks, cached, and images in tables."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from malicious import Malicious
from PIL import Image

from dkm import predict, train
from dkm.config.data import ImageFolderData, ImageListData, ImageParquetData
from dkm.data import features
from dkm.data.datasets import load_dataset
from dkm.data.images import encoded as encoded_images
from dkm.data.images import encoders
from dkm.data.images.decoding import Decoder
from dkm.data.images.encoded import EncodedImages, image_files_reader, map_ahead, read_image_files, read_image_parquet
from dkm.data.images.parquet import ImageParquet, has_image_column
from dkm.data.images.rows import ImageRow
from dkm.data.raw import RawData
from dkm.errors import UserError
from dkm.installation import install_command

pytestmark = pytest.mark.usefixtures("quick_search")

QUICK = [
    *("model.hidden=[8]", "pretrain.epochs=1", "joint.epochs=1", "joint.tolerance=0", "clustering.n_clusters=2"),
    *(
        "clustering.n_init=1",
        "log.progress=off",
        "log.figures=false",
        "log.report=false",
        "log.tensorboard=false",
        "threads=1",
    ),
]
N_IMAGES = 10


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DKM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "features"


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png")
    return file.getvalue()


@pytest.fixture
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (12 + i, 10, 3), dtype=np.uint8) for i in range(N_IMAGES)]


@pytest.fixture
def photos(images: list[np.ndarray], tmp_path: Path) -> Path:
    for i, image in enumerate(images):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "ab"[i % 2] / f"{i}.png").write_bytes(png(image))
    return tmp_path / "photos"


@pytest.fixture
def table(photos: Path, tmp_path: Path) -> Path:
    """The same images, in the order of their paths, as Hugging Face data sets write them."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    paths = sorted(photos.rglob("*.png"))
    values = [{"bytes": path.read_bytes(), "path": path.relative_to(photos).as_posix()} for path in paths]
    data = {"image": values, "label": [path.parent.name for path in paths], "n": list(range(N_IMAGES))}
    parquet.write_table(pyarrow.table(data), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """An ONNX file: a convolution without pooling, 8 x 8 pixels, 4 features."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return write_network(onnx, tmp_path / "net.onnx", seed=0)


def write_network(onnx: Any, path: Path, *, seed: int, batch: int | str = "n") -> Path:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(seed).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", kind, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, [batch, 4, 6, 6])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def read_folder(path: Path, **settings: Any) -> RawData:
    return read_image_files(ImageFolderData(path=str(path), root="", **settings))


def read_table(path: Path, **settings: Any) -> RawData:
    return read_image_parquet(ImageParquetData(path=str(path), root="", **settings))


# --- images in Parquet ------------------------------------------------------------------------------------------


def test_images_in_parquet_are_those_of_the_folder(table: Path, photos: Path) -> None:
    expected = read_folder(photos, image_size=8, labels="folder")
    raw = read_table(table, image_size=8, labels="label")
    np.testing.assert_array_equal(raw.X, expected.X)
    for values, others in ((raw.ids, expected.ids), (raw.labels, expected.labels)):
        np.testing.assert_array_equal(values, others)
    assert raw.report is not None
    assert raw.report.decisions["images"] == "column image (structs of bytes and path)"


def test_the_report_of_a_table_of_images_tells_what_that_of_their_folder_tells(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.fromarray(np.full((8, 8, 4), 100, np.uint8)).save(folder / "0.png")
    Image.fromarray(np.full((8, 8, 3), 50, np.uint8)).save(folder / "1.png", exif=exif)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 60).save(folder / "2.png")
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    pandas.DataFrame({"image": contents}).to_parquet(tmp_path / "t.parquet")
    data = load_dataset(ImageParquetData(path=str(tmp_path / "t.parquet"), root="", image_size=8))
    expected = load_dataset(ImageFolderData(path=str(folder), root="", image_size=8)).report.decisions
    assert {"color", "range", "formats", "transparency", "orientation"} <= expected.keys()
    assert data.report.decisions == {"images": "column image (bytes)", "ids": "none", **expected}


def test_large_images_of_a_table_come_in_smaller_parts(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkm.data.stored.CHUNK_ROWS", 2)
    monkeypatch.setattr("dkm.data.stored._PART_VALUES", 4 * 3 * 8 * 8)
    config = ImageParquetData(path=str(table), root="", image_size=8)
    reader = ImageParquet(config, plan={}, n_channels=3, is_trained=True)
    assert [len(part.X) for part in reader.parts(100)] == [4, 4, 2]
    assert len(ImageParquet(config).read().X) == N_IMAGES


def test_a_column_of_bytes_is_found_by_its_content(table: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    given = parquet.read_table(table)
    content = [row["bytes"] for row in given["image"].to_pylist()]
    other = [b"no image"] * N_IMAGES
    parquet.write_table(pyarrow.table({"photo": content, "other": other, "n": given["n"]}), table)
    raw = read_table(table, image_size=8, id="n", labels="n")
    assert raw.ids is not None
    assert raw.labels is not None
    assert raw.ids.tolist() == [str(i) for i in range(N_IMAGES)]
    assert raw.labels.tolist() == list(range(N_IMAGES))
    parquet.write_table(pyarrow.table({"a": content, "b": content}), table)
    with pytest.raises(UserError, match=r"several columns with images: a, b; expected one of its .*set data.image=a"):
        read_table(table)
    with pytest.raises(UserError, match=r"data.image=c: .* has no such column; expected one of a, b"):
        read_table(table, image="c")


def test_unreadable_images_of_a_table_are_left_out_and_reported(table: Path, network: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = parquet.read_table(table)["image"].to_pylist()
    values[2] = {"bytes": b"\x89PNG damaged", "path": "two.png"}
    values[5] = None
    parquet.write_table(pyarrow.table({"image": values}), table)
    for encoder in (None, str(network), str(network)):  # the last one from the cache
        raw = read_table(table, max_unreadable=0.2, image_size=8, encoder=encoder)
        assert raw.position is not None
        assert raw.position.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
        assert raw.report is not None
        assert [(part.n, part.reason) for part in raw.report.left_out] == [(2, "cannot be read")]
        assert raw.report.left_out[0].examples[0].startswith("two.png (")
        assert raw.report.left_out[0].examples[1] == "row 5 (counted from 0) (no bytes)"
        with pytest.raises(
            UserError, match=r"2 of 10 images or more cannot be read: two.png .*data.max_unreadable=0.1"
        ):
            read_table(table, max_unreadable=0.1, encoder=encoder)


def test_other_files_are_no_parquet_of_images(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"not a Parquet file; expected a Parquet file"):
        read_table(tmp_path / "t.csv")
    parquet.write_table(pyarrow.table({"a": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"no column with images; expected one of its columns a"):
        read_table(tmp_path / "t.parquet")


def test_a_struct_of_bytes_alone_is_an_image(images: list[np.ndarray], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = [{"bytes": png(image)} for image in images]
    parquet.write_table(pyarrow.table({"image": content}), tmp_path / "t.parquet")
    assert has_image_column(str(tmp_path / "t.parquet"))
    raw = read_table(tmp_path / "t.parquet", image_size=8)
    assert len(raw.X) == N_IMAGES
    assert raw.ids is None


def test_the_rows_of_a_table_are_read_from_any_position(table: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(parquet.read_table(table), table, row_group_size=3)
    images = ImageParquet(ImageParquetData(path=str(table), root="", labels="label"))
    rows = list(images.rows())
    for start in range(N_IMAGES + 1):
        assert list(images.rows(start)) == rows[start:]


def test_the_rows_of_a_table_are_read_twice_whatever_its_row_groups(
    table: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_images, "CHUNK", 4)
    monkeypatch.setattr("dkm.data.images.parquet._ROWS_AT_ONCE", 2)
    images = ImageParquet(ImageParquetData(path=str(table), root="", encoder=str(network)))
    assert images._file.metadata.num_row_groups == 1
    n_read, file, iter_batches = 0, images._file, images._file.iter_batches

    def count(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal n_read
        for batch in iter_batches(*arguments, **options):
            n_read += batch.num_rows
            yield batch

    images._file = SimpleNamespace(
        metadata=file.metadata, schema=file.schema, schema_arrow=file.schema_arrow, iter_batches=count
    )
    encoded = EncodedImages(images, images._config)
    assert len(encoded.read().X) == N_IMAGES
    assert n_read == 2 * N_IMAGES


def test_the_contents_of_the_images_of_a_chunk_are_not_kept(
    table: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_images, "CHUNK", 4)
    find_or_encode, held = EncodedImages._find_or_encode, list[object]()

    def record(self: EncodedImages, rows: list[ImageRow], *rest: Any) -> Any:
        held.extend(row.content for row in rows)
        return find_or_encode(self, rows, *rest)

    monkeypatch.setattr(EncodedImages, "_find_or_encode", record)
    read_table(table, encoder=str(network))
    assert held == [None] * N_IMAGES


def test_images_in_parquet_are_read_into_memory_only() -> None:
    with pytest.raises(UserError, match=r"data.load=disk: expected auto or memory for images in Parquet"):
        ImageParquetData(path="t.parquet", root="", load="disk")


# --- encoders ---------------------------------------------------------------------------------------------------


def test_an_onnx_file_encodes_images_resized_to_its_input(network: Path, photos: Path, table: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    raw = read_folder(photos, encoder=str(network))
    assert raw.X.shape == (N_IMAGES, 4)
    np.testing.assert_array_equal(read_table(table, encoder=str(network)).X, raw.X)
    with Image.open(sorted(photos.rglob("*.png"))[0]) as file:  # 10 x 12: the middle 10 rows
        cropped = np.asarray(file.resize((8, 8), Image.Resampling.BILINEAR, box=(0, 1, 10, 11)), np.float32)
    pixels = (cropped / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    session = onnxruntime.InferenceSession(str(network))
    (expected,) = session.run(None, {"x": np.moveaxis(pixels, 2, 0)[np.newaxis].astype(np.float32)})
    np.testing.assert_allclose(raw.X[0], expected.mean(axis=(2, 3))[0], rtol=1e-5, atol=1e-6)


def test_a_list_of_images_is_encoded_as_its_folder(network: Path, photos: Path) -> None:
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]
    (photos / "list.csv").write_text("\n".join(["file", *names]) + "\n")
    raw = read_image_files(ImageListData(path=str(photos / "list.csv"), root="", encoder=str(network)))
    assert raw.ids is not None
    assert raw.ids.tolist() == names
    np.testing.assert_array_equal(raw.X, read_folder(photos, encoder=str(network)).X)


def test_an_encoder_sees_transparent_images_on_the_background(network: Path, tmp_path: Path) -> None:
    (tmp_path / "clear").mkdir()
    (tmp_path / "white").mkdir()
    for i, alpha in enumerate((0, 255)):
        rgba = np.full((9, 9, 4), (200, 30 * i, 10, alpha), np.uint8)
        (tmp_path / "clear" / f"{i}.png").write_bytes(png(rgba))
        (tmp_path / "white" / f"{i}.png").write_bytes(
            png(rgba[..., :3] if alpha else np.full((9, 9, 3), 255, np.uint8))
        )
    X = read_folder(tmp_path / "clear", encoder=str(network)).X
    np.testing.assert_array_equal(X, read_folder(tmp_path / "white", encoder=str(network)).X)
    black = read_folder(tmp_path / "clear", encoder=str(network), background="black").X
    assert np.abs(black[0] - X[0]).max() > 0.1
    np.testing.assert_array_equal(black[1], X[1])


def test_a_fixed_batch_size_of_an_onnx_file_gives_the_same_features(
    tmp_path: Path, photos: Path, network: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    fixed = write_network(onnx, tmp_path / "fixed.onnx", seed=0, batch=4)
    expected = read_folder(photos, encoder=str(network)).X
    np.testing.assert_allclose(read_folder(photos, encoder=str(fixed)).X, expected, rtol=1e-6, atol=1e-6)


def test_a_torchvision_network_gives_the_features_before_its_classifier(tmp_path: Path, photos: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5
    from torchvision.transforms._presets import ImageClassification

    torch.manual_seed(0)
    model = shufflenet_v2_x0_5(num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    settings = {"encoder": "torchvision/shufflenet_v2_x0_5", "encoder_weights": str(tmp_path / "w.pth")}
    X = read_folder(photos, encoder_size=32, **settings).X
    model.fc = torch.nn.Identity()
    transform = ImageClassification(crop_size=32, resize_size=32)
    pixels = []
    for path in sorted(photos.rglob("*.png")):
        with Image.open(path) as file:
            pixels.append(transform(file.convert("RGB")))
    with torch.inference_mode():
        expected = model(torch.stack(pixels)).numpy()
    np.testing.assert_allclose(X, expected, rtol=1e-4, atol=1e-5)


def test_a_timm_network_gives_its_pooled_features(tmp_path: Path, photos: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    model = timm.create_model("test_efficientnet").eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    X = read_folder(photos, encoder="timm/test_efficientnet", encoder_weights=str(tmp_path / "w.safetensors")).X
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    pixels = []
    for path in sorted(photos.rglob("*.png")):
        with Image.open(path) as file:
            pixels.append(transform(file.convert("RGB")))
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(torch.stack(pixels)), pre_logits=True).numpy()
    np.testing.assert_allclose(X, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "backbone."])
def test_weights_of_timm_with_other_names_are_refused(prefix: str, tmp_path: Path, photos: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    weights = timm.create_model("test_efficientnet").state_dict()
    save_file({prefix + key: value for key, value in weights.items()}, tmp_path / "w.safetensors")
    message = r"data.encoder_weights=.*/w.safetensors: it lacks [0-9]+ of [0-9]+ weights .*conv_stem.weight; expected"
    with pytest.raises(UserError, match=message):
        read_folder(photos, encoder="timm/test_efficientnet", encoder_weights=str(tmp_path / "w.safetensors"))
    save_file({k: v for k, v in weights.items() if "classifier" not in k}, tmp_path / "w.safetensors")
    read_folder(photos, encoder="timm/test_efficientnet", encoder_weights=str(tmp_path / "w.safetensors"))


def test_an_image_that_could_not_be_decoded_once_is_decoded_again(
    network: Path, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_folder(photos, encoder=str(network)).X
    shutil.rmtree(cache)
    settings = {"encoder": str(network), "max_unreadable": 0.2}
    with monkeypatch.context() as patch:
        open_rgb = Decoder.open_rgb

        def fail(self: Decoder, content: Path | bytes) -> Image.Image | str:
            is_bad = isinstance(content, Path) and content.name == "4.png"
            return "Too many open files" if is_bad else open_rgb(self, content)

        patch.setattr(Decoder, "open_rgb", fail)
        assert len(read_folder(photos, **settings).X) == N_IMAGES - 1
        assert len(read_folder(photos, **settings).X) == N_IMAGES - 1
    np.testing.assert_array_equal(read_folder(photos, **settings).X, expected)
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "_load_onnx", lambda *_: pytest.fail("loaded"))  # all of it is in the cache
        np.testing.assert_array_equal(read_folder(photos, **settings).X, expected)
        patch.setattr("PIL.__version__", "1.0")
        with pytest.raises(pytest.fail.Exception, match="loaded"):
            read_folder(photos, **settings)


@pytest.mark.parametrize("name", ["net.onnx.data", "model.onnx_data", "w"])
def test_weights_beside_a_graph_are_part_of_the_encoder(name: str, network: Path, photos: Path, tmp_path: Path) -> None:
    import onnx

    location = {"location": name, "size_threshold": 0, "save_as_external_data": True}
    onnx.save(onnx.load(network), network, **location)
    config = ImageFolderData(path="", root="", encoder=str(network))
    identity, earlier = (encoder := encoders.find_image_encoder(config)).identity, encoder.earlier_digest
    assert (earlier is None) == (name == "net.onnx.data")
    reader = image_files_reader(
        replace(config, path=str(photos)),
        key="input",
        plan={"encoder": identity | {"digest": earlier or identity["digest"]}},
        n_channels=3,
    )
    assert reader.report.decisions["encoder"].endswith(identity["digest"][:12])
    (tmp_path / "other").write_bytes(b"no part of it")
    assert encoders.find_image_encoder(config).identity == identity
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[::-1])
    assert encoders.find_image_encoder(config).identity["digest"] != identity["digest"]


@pytest.mark.parametrize("name", ["inception_v3", "densenet121"])
def test_torchvision_networks_are_loaded_as_torchvision_loads_them(name: str, tmp_path: Path, photos: Path) -> None:
    """Published: inputs are transformed, and layers are called norm.1 instead of norm1."""
    from torchvision import models

    settings = {"transform_input": True, "init_weights": False} if name != "densenet121" else {}
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, **settings).eval()
    published = {
        re.sub(r"(denselayer\d+\.[a-z]+)([12])\.", r"\1.\2.", key): value for key, value in model.state_dict().items()
    }
    torch.save(published, tmp_path / "w.pth")
    config = ImageFolderData(
        path="", root="", encoder=f"torchvision/{name}", encoder_weights=str(tmp_path / "w.pth"), encoder_size=80
    )
    network = encoders.find_image_encoder(config).load()
    with Image.open(next(photos.rglob("*.png"))) as file:
        pixels = np.stack([network.prepare(file.convert("RGB"))] * 2)
    setattr(model, "classifier" if name == "densenet121" else "fc", torch.nn.Identity())
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(network.encode(pixels), expected, rtol=1e-3, atol=1e-5)


def test_images_are_encoded_once(network: Path, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_images, "CHUNK", 4)
    n_encoded: list[int] = []
    load = encoders._load_onnx

    def counting(*arguments: Any) -> encoders.Network:
        loaded = load(*arguments)
        return loaded._replace(encode=lambda batch: n_encoded.append(len(batch)) or loaded.encode(batch))  # type: ignore[func-returns-value]

    monkeypatch.setattr(encoders, "_load_onnx", counting)
    first = read_folder(photos, encoder=str(network)).X
    assert n_encoded == [4, 4, 2]
    np.testing.assert_array_equal(read_folder(photos, encoder=str(network)).X, first)
    assert n_encoded == [4, 4, 2]
    (photos / "b" / "9.png").write_bytes(png(np.zeros((9, 9, 3), np.uint8)))  # in the last chunk
    read_folder(photos, encoder=str(network))
    assert n_encoded == [4, 4, 2, 2]
    read_folder(photos, encoder=str(network), encoder_std=[0.5, 0.5, 0.5])
    assert n_encoded == [4, 4, 2, 2, 4, 4, 2]
    assert len(list(cache.rglob("*.npy"))) == 7


def test_a_network_that_fails_is_one_line(network: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: np.ndarray) -> np.ndarray:
        raise RuntimeError(f"expected 16 pixels, not {batch.shape[2]}\nmore lines")

    load = encoders._load_onnx
    monkeypatch.setattr(encoders, "_load_onnx", lambda *arguments: load(*arguments)._replace(encode=fail))
    with pytest.raises(
        UserError, match=r"data.encoder=.*cannot be used \(expected 16 pixels, not 8\); expected a network"
    ):
        read_folder(photos, encoder=str(network))


def test_features_have_rows_of_the_same_length_and_the_report_says_so(network: Path, photos: Path) -> None:
    data = load_dataset(ImageFolderData(path=str(photos), root="", encoder=str(network)))
    np.testing.assert_allclose(data.X.square().mean(dim=1), 1.0, rtol=1e-5)  # type: ignore[union-attr]
    assert data.image_shape is None
    assert data.report.scaling == "row_rms: each row to the same length, the default for the features of an encoder"
    assert data.report.decisions["encoder"].startswith(f"{network}, SHA-256 of the weights ")


@pytest.mark.parametrize("option", ["image_folder", "image_parquet"])
def test_predicting_the_training_images_repeats_the_assignments(
    option: str, network: Path, photos: Path, table: Path, tmp_path: Path, cache: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    path, labels = (photos, "folder") if option == "image_folder" else (table, "label")
    words = [f"data={option}", f"data.path={path}", f"data.labels={labels}", f"data.encoder={network}"]
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    for file in cache.rglob("*.npy"):
        file.unlink()
    ask = [f"run={tmp_path / 'run'}", f"output={tmp_path / 'o.csv'}", "overwrite=true", "threads=1"]
    expected = (tmp_path / "run" / "assignments.csv").read_bytes()
    predict.work([*ask, f"input={path}"])
    assert (tmp_path / "o.csv").read_bytes() == expected
    predict.work([*ask, f"input={table if path == photos else photos}"])  # the same images from the other source
    clusters = [
        [line.split(b",")[:4] for line in lines.splitlines()] for lines in ((tmp_path / "o.csv").read_bytes(), expected)
    ]
    assert clusters[0] == clusters[1]
    write_network(onnx, network, seed=1)
    with pytest.raises(
        UserError, match=r"data.encoder=.*net.onnx: its digest is .*; expected the encoder of the training"
    ):
        predict.work([*ask, f"input={path}"])
    with pytest.raises(UserError, match=r"data.encoder=null: expected the encoder of the training"):
        predict.work([*ask, f"input={path}", "data.encoder=null"])


def test_a_model_of_pixels_reads_a_folder_and_a_table(photos: Path, table: Path, tmp_path: Path) -> None:
    words = ["data=image_parquet", f"data.path={table}", "data.labels=label", "data.image_size=8"]
    assert train._main([*words, *QUICK, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    expected = (tmp_path / "run" / "assignments.csv").read_bytes()
    ask = [f"run={tmp_path / 'run'}", f"output={tmp_path / 'o.csv'}", "overwrite=true", "threads=1"]
    predict.work([*ask, f"input={table}"])
    assert (tmp_path / "o.csv").read_bytes() == expected
    predict.work([*ask, f"input={photos}", "data.labels=folder"])
    assert (tmp_path / "o.csv").read_bytes() == expected


def test_weights_are_never_unpickled(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "harm")))
    torch.save({"a": Malicious(tmp_path / "harm")}, tmp_path / "w.pt")
    for name in ("w.pth", "w.pt"):
        with pytest.raises(UserError, match=r"data.encoder_weights=.*cannot be read as weights") as caught:
            read_folder(photos, encoder="torchvision/resnet18", encoder_weights=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


WRONG = {
    "no file": ({"encoder": "missing.onnx"}, r"data.encoder=missing.onnx: .*cannot be read \(No such file"),
    "no network": (
        {"encoder": "torchvision/resnet17", "encoder_weights": "{weights}"},
        r"torchvision has no such network; expected one of its .*did you mean data.encoder=torchvision/resnet1",
    ),
    "other weights": (
        {"encoder": "torchvision/resnet18", "encoder_weights": "{weights}"},
        r"data.encoder_weights=.* cannot be used \(.*; expected the weights of torchvision/resnet18",
    ),
    "range": (
        {"encoder": "{network}", "range": [0, 4095]},
        r"data.range=\[0, 4095\]: an encoder sees each image by its own range; expected null; leave out data.range",
    ),
    "gray": (
        {"encoder": "{network}", "color": "gray"},
        r"data.color=gray: an encoder sees each image in color; expected auto; leave out data.color, or data.encoder",
    ),
    "two weights": ({"encoder": "{network}", "encoder_weights": "{weights}"}, r"an ONNX file has its own weights"),
    "size": ({"encoder": "{network}", "encoder_size": 9}, r"data.encoder_size=9: the graph has 8 x 8"),
    "no graph": ({"encoder": "{text}"}, r"data.encoder=.*cannot be used \(.*; expected an ONNX file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_encoder_is_one_line(case: str, network: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("text")
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "w.pth")
    places = {"network": network, "weights": tmp_path / "w.pth", "text": tmp_path / "text.onnx"}
    settings, message = WRONG[case]
    given = {key: value.format(**places) if isinstance(value, str) else value for key, value in settings.items()}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=message) as caught:
        read_folder(photos, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "package", "extra"), [("timm/x", "timm", "encoders"), ("x.onnx", "onnxruntime", "onnx")]
)
def test_a_missing_package_is_one_line(
    encoder: str, package: str, extra: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise features.PackageNotFoundError(name)

    monkeypatch.setattr(features, "version", missing)
    message = f"data.encoder={encoder}: {package} is not installed; expected the extra {extra}; "
    message += f"install it: {install_command(extra)}"
    with pytest.raises(UserError, match=re.escape(message)):
        read_folder(photos, encoder=encoder)


def test_an_encoder_of_another_form_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.encoder=resnet18: expected timm/NAME, torchvision/NAME or FILE.onnx"):
        ImageFolderData(path="photos", root="", encoder="resnet18")


def test_a_cache_that_cannot_be_written_is_a_warning(
    network: Path, photos: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    assert read_folder(photos, encoder=str(network)).X.shape == (N_IMAGES, 4)
    assert "cannot be written to" in caplog.text


def test_map_ahead_keeps_the_order_and_bounds_what_waits() -> None:
    from concurrent.futures import ThreadPoolExecutor

    started: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, lambda item: started.append(item) or item * 2, range(20), n_ahead=3)  # type: ignore[func-returns-value]
        assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
        pool.submit(lambda: None).result()
        assert started == list(range(8))
        assert list(results) == list(range(10, 40, 2))


@pytest.mark.data
def test_the_real_encoder_gives_the_features_of_a_bare_loop(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from pyarrow import parquet
    from safetensors.torch import load_file

    root, folder = os.environ.get("DKM_DATA_ROOT"), os.environ.get("DKM_ENCODERS")
    if root is None or folder is None:
        pytest.skip("DKM_DATA_ROOT and DKM_ENCODERS are not set")
    rows = parquet.read_table(Path(root, "photos/cifar10_test.parquet")).slice(0, 4)
    parquet.write_table(rows, tmp_path / "t.parquet")
    weights = str(Path(folder, "tf_efficientnet_lite2.safetensors"))
    raw = read_table(
        tmp_path / "t.parquet", labels="label", encoder="timm/tf_efficientnet_lite2", encoder_weights=weights
    )
    model = timm.create_model("tf_efficientnet_lite2", num_classes=0).eval()
    model.load_state_dict(load_file(weights), strict=False)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    opened = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows["image"].to_pylist()]
    with torch.inference_mode():
        expected = model(torch.stack([transform(image) for image in opened])).numpy()
    np.testing.assert_allclose(raw.X, expected, rtol=1e-4, atol=1e-5)
    assert raw.labels is not None
    assert raw.labels.tolist() == rows["label"].to_pylist()
