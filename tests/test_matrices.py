"""AnnData, HDF5, Zarr and MATLAB files: what is read, what is told, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import io, sparse
from sklearn.datasets import load_digits

from dkm import predict, train
from dkm.config.data import H5adData, Hdf5Data, MatData, NpyData, NpzData, ZarrData
from dkm.data.datasets import load_dataset
from dkm.data.matrices import mat5
from dkm.data.matrices.reader import MatrixReader
from dkm.data.stored import StoredRows
from dkm.errors import UserError
from dkm.installation import install_command

h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.usefixtures("quick_search")

N, F = 150, 110
QUICK = [
    *("model.hidden=[8]", "pretrain.epochs=1", "joint.epochs=1", "clustering.n_clusters=3", "clustering.n_init=1"),
    *("log.progress=off", "log.figures=false", "log.report=false", "log.tensorboard=false"),
]
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.lognormal(-2, 1.5, (3, F))[np.arange(N) % 3] * RNG.lognormal(0, 1, (N, 1))).astype(np.float32)
GENES = [f"gene{i}" for i in range(F)]
CELLS = [f"cell{i}" for i in range(N)]
TYPES = np.array(["B", "NK", "T"])
TEXT = h5py.string_dtype()


# --- files --------------------------------------------------------------------------------------------------


def write_matrix(parent: Any, name: str, X: Any, encoding: str) -> None:
    if encoding == "dense":
        parent.create_dataset(name, data=X, chunks=(16, 32), compression="gzip")
        return
    matrix = sparse.csr_array(X) if encoding == "csr" else sparse.csc_array(X)
    group = parent.create_group(name)
    group.attrs["encoding-type"], group.attrs["shape"] = f"{encoding}_matrix", X.shape
    for part in ("data", "indices", "indptr"):
        group[part] = getattr(matrix, part)


def write_h5ad(path: Path, X: Any = COUNTS, encoding: str = "dense", genes: Any = GENES, cells: Any = CELLS) -> Path:
    """Write a file as anndata 0.8 and later do."""
    with h5py.File(path, "w") as file:
        write_matrix(file, "X", X, encoding)
        write_matrix(file, "layers/half", X / 2, "csr")
        write_matrix(file, "raw/X", X[:, :105], "csr")
        for name, names in (("obs", cells), ("var", genes), ("raw/var", genes[:105])):
            file[f"{name}/_index"] = np.array(names, dtype=object)
            file[name].attrs["_index"] = "_index"
        levels = file.create_group("obs/type")
        levels.attrs["encoding-type"] = "categorical"
        levels["codes"], levels["categories"] = (np.arange(len(X)) % 3).astype(np.int8), TYPES.astype(object)
        file["obs/batch"] = np.arange(len(X)) % 2
        gaps = file.create_group("obs/gaps")
        gaps["values"], gaps["mask"] = np.arange(len(X)), np.arange(len(X)) == 4
    return path


def write_old_h5ad(path: Path) -> Path:
    """Write a file as anndata 0.6 did: tables are compound data sets, categories stand in ``uns``."""
    with h5py.File(path, "w") as file:
        file["X"] = COUNTS
        obs = np.zeros(N, dtype=[("index", "S8"), ("type", "i1")])
        obs["index"], obs["type"] = [cell.encode() for cell in CELLS], np.arange(N) % 3
        file["obs"] = obs
        file["uns/type_categories"] = TYPES.astype("S2")
        file["var"] = np.array([(gene.encode(),) for gene in GENES], dtype=[("index", "S8")])
    return path


def write_hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return path


def write_zarr(path: Path, **arrays: Any) -> Path:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w")
    for name, values in arrays.items():
        chunks = (16, *values.shape[1:])
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)[...] = values
    return path


def write_mat73(path: Path, **arrays: Any) -> Path:
    """Write arrays as MATLAB 7.3 does: HDF5 behind a block of 512 bytes, with the axes in reverse order."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            if sparse.issparse(values):
                matrix = sparse.csc_array(values)
                group = file.create_group(name)
                group.attrs["MATLAB_sparse"] = values.shape[0]
                group["data"], group["ir"], group["jc"] = matrix.data, matrix.indices, matrix.indptr
            else:
                file[name] = values.T
                file[name].attrs["MATLAB_class"] = np.bytes_(b"double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    return path


def write(kind: str, folder: Path) -> list[str]:
    """Write a file of some kind; return the words of a run on it."""
    images = load_digits().images[:N]
    y = np.arange(N) % 3
    if kind.startswith("h5ad"):
        path = write_h5ad(folder / "x.h5ad", encoding=kind.split()[1]) if kind != "h5ad old" else None
        path = path or write_old_h5ad(folder / "x.h5ad")
        return ["data=h5ad", f"data.path={path}", "data.labels=type"]
    if kind == "hdf5":
        path = write_hdf5(folder / "x.h5", train__x=COUNTS, train__y=y)
        return ["data=hdf5", f"data.path={path}", "data.labels=train/y"]
    if kind == "hdf5 images":
        path = write_hdf5(folder / "x.h5", a=images, b=images[:, :4])
        return ["data=hdf5", f"data.path={path}", "data.array=a"]
    if kind == "zarr":
        path = write_zarr(folder / "x.zarr", x=COUNTS, y=y)
        return ["data=zarr", f"data.path={path}", "data.labels=y"]
    path, y = folder / "x.mat", y[:, np.newaxis]
    if kind == "mat 5":
        io.savemat(path, {"fea": COUNTS, "other": COUNTS[:, :2], "gnd": y})
    elif kind == "mat 5 sparse":
        io.savemat(path, {"A": sparse.csc_array(COUNTS.astype(np.float64)), "gnd": y})
    elif kind == "mat 5 images":
        io.savemat(path, {"A": np.moveaxis(images, 0, -1), "gnd": y})
    elif kind == "mat 7.3 sparse":
        write_mat73(path, A=sparse.csc_array(COUNTS), gnd=y)
    elif kind == "mat 7.3 images":
        write_mat73(path, A=np.moveaxis(images, 0, -1), gnd=y)
    else:
        write_mat73(path, A=COUNTS, gnd=y)
    return ["data=mat", f"data.path={path}", "data.labels=gnd"]


KINDS = [
    *("h5ad dense", "h5ad csr", "h5ad csc", "h5ad old", "hdf5", "hdf5 images", "zarr"),
    *("mat 5", "mat 5 sparse", "mat 5 images", "mat 7.3", "mat 7.3 sparse", "mat 7.3 images"),
]
CONFIGS = {"h5ad": H5adData, "hdf5": Hdf5Data, "zarr": ZarrData, "mat": MatData}


def config_of(words: list[str], **more: Any) -> Any:
    keys = dict(word.removeprefix("data.").split("=") for word in words[1:])
    return CONFIGS[words[0].removeprefix("data=")](**keys, **more)


def rows_of(X: Any) -> Any:
    return X.numpy() if isinstance(X, torch.Tensor) else X.read(0, len(X)).numpy()


# --- read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_predicting_the_training_file_repeats_the_assignments(kind: str, tmp_path: Path) -> None:
    words, run = write(kind, tmp_path), tmp_path / "run"
    recipe = "auto" if kind in ("h5ad csr", "mat 5 images") else "classic"  # classic takes half of the time
    assert train._main([*words, *QUICK, f"recipe={recipe}", f"hydra.run.dir={run}"]) == 0
    source = words[1].removeprefix("data.path=")
    predict.work([f"run={run}", f"input={source}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()
    model = json.loads((run / "model" / "model.json").read_text())
    assert model["scaling"]["kind"] == ("unit" if "images" in kind else "counts")
    assert json.loads((run / "data.json").read_text())["decisions"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "images" not in kind])
def test_the_same_counts_are_the_same_rows_in_every_file_in_memory_and_on_disk(kind: str, tmp_path: Path) -> None:
    words = write(kind, tmp_path)
    memory, disk = (load_dataset(config_of(words, load=load)) for load in ("memory", "disk"))
    assert isinstance(memory.X, torch.Tensor)
    assert isinstance(disk.X, StoredRows) or kind == "mat 5"
    sums = COUNTS.sum(axis=1)
    logarithms = np.log1p(COUNTS * (np.median(sums) / sums)[:, np.newaxis].astype(np.float64))
    centered = logarithms - logarithms.mean(axis=0)
    np.testing.assert_allclose(rows_of(memory.X), centered / np.sqrt(np.square(centered).mean()), atol=1e-5)
    np.testing.assert_array_equal(rows_of(disk.X), rows_of(memory.X))
    index = torch.tensor([140, 3, 3, 4, 77])
    taken = disk.X.take(index) if isinstance(disk.X, StoredRows) else disk.X[index]
    np.testing.assert_array_equal(taken.numpy(), memory.X[index].numpy())
    assert (disk.sha256, disk.scaling) == (memory.sha256, memory.scaling)
    assert memory.y is not None
    assert memory.y.tolist() == [i % 3 for i in range(N)]
    if kind.startswith("h5ad"):
        assert memory.features == tuple(GENES)
        assert memory.ids is not None
        assert memory.ids.tolist() == CELLS
        assert memory.classes is not None
        assert memory.classes.tolist() == TYPES.tolist()


def test_images_of_matlab_are_moved_to_rows(tmp_path: Path) -> None:
    for kind in ("mat 5 images", "mat 7.3 images"):
        data = load_dataset(config_of(write(kind, tmp_path)))
        assert data.image_shape == (1, 8, 8)
        np.testing.assert_allclose(rows_of(data.X).reshape(-1, 8, 8), load_digits().images[:N] / 16, rtol=1e-6)
        assert "along the last axis" in data.report.decisions["samples"]


def test_layers_and_raw_of_anndata_are_read_and_the_others_named(tmp_path: Path) -> None:
    path = str(write_h5ad(tmp_path / "x.h5ad"))
    half = load_dataset(H5adData(path=path, layer="half", scaling="none"))
    np.testing.assert_array_equal(rows_of(half.X), COUNTS / 2)
    assert half.report.decisions["matrix"] == (
        "layers/half, 150 x 110, sparse by rows; data.layer=NAME reads another one (X, raw)"
    )
    raw = load_dataset(H5adData(path=path, layer="raw", scaling="none"))
    assert raw.features == tuple(GENES[:105])
    np.testing.assert_array_equal(rows_of(raw.X), COUNTS[:, :105])


def test_numbers_of_an_obs_column_are_labels(tmp_path: Path) -> None:
    data = load_dataset(H5adData(path=str(write_h5ad(tmp_path / "x.h5ad")), labels="batch"))
    assert data.classes is not None
    assert data.classes.tolist() == [0, 1]


def test_repeated_feature_names_become_unique_and_are_told(tmp_path: Path) -> None:
    genes = ["a", "b", "a", "a-1", "a", *GENES[5:]]
    data = load_dataset(H5adData(path=str(write_h5ad(tmp_path / "x.h5ad", genes=genes))))
    assert data.features is not None
    assert data.features[:5] == ("a", "b", "a-2", "a-1", "a-3")
    assert data.report.decisions["feature names"] == "-1, -2, ... is appended to 2 repeated names: a"


def test_genes_are_matched_by_name_and_others_are_ignored_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order = RNG.permutation(F)
    X = np.column_stack([COUNTS[:, order], np.ones((N, 2), np.float32)])
    path = write_h5ad(tmp_path / "new.h5ad", X, "csr", [*(GENES[i] for i in order), "new1", "new2"])
    with caplog.at_level(logging.WARNING):
        (part,) = MatrixReader(H5adData(path=str(path)), key="input", plan={"features": GENES}).parts(4096)
    np.testing.assert_array_equal(part.X, COUNTS)
    assert "2 features that the model does not know are ignored: new1, new2" in caplog.text


def test_parts_of_a_prediction_are_the_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkm.data.stored.CHUNK_ROWS", 16)
    monkeypatch.setattr("dkm.data.stored._PART_VALUES", 1)
    path = write_h5ad(tmp_path / "x.h5ad", encoding="csr")
    parts = list(MatrixReader(H5adData(path=str(path), labels="type"), plan={"features": GENES}).parts(4096))
    assert [len(part.X) for part in parts] == [16] * 9 + [6]
    np.testing.assert_array_equal(np.concatenate([part.X for part in parts]), COUNTS)
    assert np.concatenate([part.ids for part in parts if part.ids is not None]).tolist() == CELLS


def test_the_only_array_or_the_one_that_fits_the_labels_is_chosen_and_told(tmp_path: Path) -> None:
    path = str(write_hdf5(tmp_path / "x.h5", a__x=COUNTS, y=np.arange(N) % 3))
    assert load_dataset(Hdf5Data(path=path)).report.decisions["array"] == (
        "a/x of 150 x 110, the only array of numbers with two dimensions or more"
    )
    path = str(write_hdf5(tmp_path / "x.h5", x_train=COUNTS, x_test=COUNTS[:7], y=np.arange(N) % 3))
    told = load_dataset(Hdf5Data(path=path, labels="y")).report.decisions["array"]
    assert told == "x_train of 150 x 110, the only one with as many rows as there are labels (150)"


def test_links_within_a_file_are_followed(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "x.h5", a__x=COUNTS)
    with h5py.File(path, "a") as file:
        file["data"] = h5py.SoftLink("/a")
        file["a/loop"] = h5py.SoftLink("/a/loop")
    np.testing.assert_array_equal(
        rows_of(load_dataset(Hdf5Data(path=str(path), array="data/x", scaling="none")).X), COUNTS
    )


def test_missing_chunks_of_a_zarr_store_are_told(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "x.zarr", x=COUNTS)
    (path / "x" / "c" / "3" / "0").unlink()
    assert load_dataset(ZarrData(path=str(path))).report.odd == [
        "1 of 10 chunks are not stored and read as the fill value"
    ]


def test_cell_arrays_of_text_are_labels(tmp_path: Path) -> None:
    io.savemat(tmp_path / "x.mat", {"X": COUNTS, "names": TYPES[np.arange(N) % 3].astype(object)[:, np.newaxis]})
    data = load_dataset(MatData(path=str(tmp_path / "x.mat"), labels="names"))
    assert data.classes is not None
    assert data.classes.tolist() == TYPES.tolist()


@pytest.mark.parametrize("encoding", ["csr", "csc"])
def test_a_sparse_matrix_may_have_half_precision(encoding: str, tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad", encoding=encoding)
    with h5py.File(path, "r+") as file:
        values = file["X/data"][()].astype(np.float16)
        del file["X/data"]
        file["X/data"] = values
    X = load_dataset(H5adData(path=str(path), scaling="none")).X
    np.testing.assert_array_equal(rows_of(X), COUNTS.astype(np.float16))


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("shape", [(N, 1), (1, N)])
def test_a_vector_of_matlab_that_is_named_is_a_column(shape: tuple[int, int], version: str, tmp_path: Path) -> None:
    path, X = tmp_path / "x.mat", COUNTS[:, 0].astype(np.float64).reshape(shape)
    if version == "5":
        io.savemat(path, {"X": X, "Y": COUNTS})
    else:
        write_mat73(path, X=X, Y=COUNTS)
    data = load_dataset(MatData(path=str(path), array="X", scaling="none"))
    np.testing.assert_array_equal(rows_of(data.X), COUNTS[:, :1])
    reader = MatrixReader(MatData(path=str(path), array="X"), plan={})
    assert reader.n_rows == shape[0], "one row is enough for a model"


def test_a_sparse_matrix_of_matlab_may_be_logical(tmp_path: Path) -> None:
    io.savemat(tmp_path / "x.mat", {"X": sparse.csc_array(COUNTS > 0)})
    data = load_dataset(MatData(path=str(tmp_path / "x.mat"), scaling="none"))
    np.testing.assert_array_equal(rows_of(data.X), COUNTS > 0)


@pytest.mark.parametrize("is_last", [False, True])
def test_a_sparse_matrix_of_matlab_is_scaled_as_that_of_scipy(is_last: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    terms = sparse.csc_array(np.where(random.random((60, 200)) < 0.05, random.random((60, 200)), 0))
    io.savemat(tmp_path / "x.mat", {"X": terms.T if is_last else terms, "y": np.arange(60) % 3})
    sparse.save_npz(tmp_path / "x.npz", terms)
    data = load_dataset(MatData(path=str(tmp_path / "x.mat"), labels="y" if is_last else None))
    expected = load_dataset(NpzData(path=str(tmp_path / "x.npz")))
    assert data.scaling.kind == expected.scaling.kind == "row_rms"
    np.testing.assert_array_equal(rows_of(data.X), rows_of(expected.X))


def test_a_model_of_one_format_reads_another_one(tmp_path: Path) -> None:
    words, run = write("h5ad csr", tmp_path), tmp_path / "run"
    assert train._main([*words[:2], *QUICK, f"hydra.run.dir={run}"]) == 0
    expected = [line.split(",")[2:] for line in (run / "assignments.csv").read_text().splitlines()]
    table = pd.DataFrame(COUNTS, columns=GENES)
    table.to_csv(tmp_path / "x.csv", index=False)
    np.save(tmp_path / "x.npy", COUNTS)
    for path in (tmp_path / "x.csv", tmp_path / "x.npy", write_hdf5(tmp_path / "x.h5", x=COUNTS)):
        predict.work([f"run={run}", f"input={path}", f"output={path}.out.csv", "threads=1"])
        lines = [line.split(",") for line in Path(f"{path}.out.csv").read_text().splitlines()]
        assert [line[1:] for line in lines] == expected


def test_a_model_of_a_table_finds_its_columns_among_the_genes(tmp_path: Path) -> None:
    run, table = tmp_path / "run", pd.DataFrame(COUNTS, columns=GENES)
    table.to_csv(tmp_path / "x.csv", index=False)
    assert train._main(["data=csv", f"data.path={tmp_path / 'x.csv'}", *QUICK, f"hydra.run.dir={run}"]) == 0
    path = write_h5ad(tmp_path / "x.h5ad", COUNTS[:, ::-1], genes=GENES[::-1])
    predict.work([f"run={run}", f"input={path}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    expected = [line.split(",")[1:] for line in (run / "assignments.csv").read_text().splitlines()]
    assert [line.split(",")[2:] for line in (tmp_path / "o.csv").read_text().splitlines()] == expected
    other = write_h5ad(tmp_path / "y.h5ad", genes=[f"other{i}" for i in range(len(GENES))])
    with pytest.raises(UserError, match=r"lacks .* features of the model"):
        predict.work([f"run={run}", f"input={other}", f"output={tmp_path / 'p.csv'}", "threads=1"])


@pytest.mark.parametrize("kind", ["hdf5", "mat 7.3"])
def test_a_model_of_an_array_reads_a_table(kind: str, tmp_path: Path) -> None:
    words, run = write(kind, tmp_path), tmp_path / "run"
    assert train._main([*words[:2], *QUICK, f"hydra.run.dir={run}"]) == 0
    pd.DataFrame(COUNTS, columns=GENES).to_csv(tmp_path / "x.csv", index=False)
    predict.work([f"run={run}", f"input={tmp_path / 'x.csv'}", f"output={tmp_path / 'o.csv'}", "threads=1"])
    assert (tmp_path / "o.csv").read_bytes() == (run / "assignments.csv").read_bytes()


def test_the_axes_of_an_array_are_read_as_those_of_a_npy_file(tmp_path: Path) -> None:
    series = COUNTS[:, :24].reshape(N, 8, 3).astype(np.float32)
    path, run = write_hdf5(tmp_path / "x.h5", x=series), tmp_path / "run"
    assert "has several readings; expected a known layout; set data.layout=series" in message(Hdf5Data(path=str(path)))
    words = ["data=hdf5", f"data.path={path}", "data.layout=series", *QUICK, f"hydra.run.dir={run}"]
    assert train._main(words) == 0
    np.save(tmp_path / "x.npy", series)
    in_memory = load_dataset(NpyData(path=str(tmp_path / "x.npy"), layout="series"))
    np.testing.assert_array_equal(load_dataset(Hdf5Data(path=str(path), layout="series")).X, in_memory.X)
    for name in ("x.h5", "x.npy"):
        output = tmp_path / f"{name}.csv"
        predict.work([f"run={run}", f"input={tmp_path / name}", f"output={output}", "threads=1"])
        assert output.read_bytes() == (run / "assignments.csv").read_bytes()


def test_categories_that_a_column_refers_to_are_labels(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(path, "a") as file:  # as anndata 0.7 wrote it
        file["obs/__categories/old"] = TYPES.astype(object)
        file["obs/old"] = np.arange(N) % 3
        file["obs/old"].attrs["categories"] = file["obs/__categories/old"].ref
    data = load_dataset(H5adData(path=str(path), labels="old"))
    assert data.classes is not None
    assert data.classes.tolist() == TYPES.tolist()


def test_a_file_that_changes_during_a_run_is_noticed(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad")
    data = load_dataset(H5adData(path=str(path), load="disk"))
    assert isinstance(data.X, StoredRows)
    data.X.check_unchanged()
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="changed while it was used; expected the same file to the end"):
        data.X.check_unchanged()


# --- refused ------------------------------------------------------------------------------------------------


def message(config: Any, **plan: Any) -> str:
    with pytest.raises(UserError) as caught:
        MatrixReader(config, plan=plan) if plan else load_dataset(config)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("data")
    return text


def test_missing_genes_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad")
    text = message(H5adData(path=str(path)), features=[*GENES, "CD3", "CD4"])
    assert f"data.path={path}: lacks 2 of 112 features of the model: CD3, CD4; expected the var_names" in text


@pytest.mark.parametrize("keep", [0, 7, 100, 3000, -500])
@pytest.mark.parametrize("kind", ["h5ad csr", "hdf5", "mat 5", "mat 7.3"])
def test_a_truncated_file_is_refused(kind: str, keep: int, tmp_path: Path) -> None:
    words = write(kind, tmp_path)
    path = Path(words[1].removeprefix("data.path="))
    path.write_bytes(path.read_bytes()[:keep])
    message(config_of(words))


@pytest.mark.parametrize("kind", ["h5ad csr", "hdf5", "mat 5", "zarr"])
def test_a_file_of_another_content_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a,b\n1,2\n" * 200)
    assert "expected a" in message(config_of([write(kind, tmp_path)[0], f"data.path={tmp_path / 't'}"]))
    assert "no such file" in message(config_of([write(kind, tmp_path)[0], f"data.path={tmp_path / 'u'}"]))


def test_an_hdf5_file_that_is_no_anndata_is_refused(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "x.h5", x=COUNTS)
    assert "no obs; expected an AnnData file with X, obs and var; use data=hdf5" in message(H5adData(path=str(path)))


def test_other_files_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = write_hdf5(tmp_path / "secret.h5", x=COUNTS, obs=COUNTS)
    (tmp_path / "bytes").write_bytes(COUNTS.tobytes())
    layout = h5py.VirtualLayout(COUNTS.shape, COUNTS.dtype)
    layout[:] = h5py.VirtualSource(str(secret), "x", COUNTS.shape)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink(str(secret), "x")
        file["group"] = h5py.ExternalLink(str(secret), "/")
        file["soft"] = h5py.SoftLink("/group")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset(
            "raw", COUNTS.shape, COUNTS.dtype, external=[(str(tmp_path / "bytes"), 0, h5py.h5f.UNLIMITED)]
        )
    for name in ("link", "group/x", "soft/x"):
        text = message(Hdf5Data(path=str(path), array=name))
        assert f"a link to {secret}; expected data in this file (no other file is ever opened)" in text
    assert "a virtual data set" in message(Hdf5Data(path=str(path), array="virtual"))
    assert f"whose values are in {tmp_path / 'bytes'}" in message(Hdf5Data(path=str(path), array="raw"))
    path = write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(path, "a") as file:
        del file["obs"]
        file["obs"] = h5py.ExternalLink(str(secret), "obs")
    assert "no other file is ever opened" in message(H5adData(path=str(path)))


def test_sparse_parts_that_form_no_matrix_are_refused(tmp_path: Path) -> None:
    for part, row, value in (("indptr", 3, 10**6), ("indptr", 0, 1), ("indices", 5, F), ("indices", 5, -1)):
        for encoding in ("csr", "csc"):
            path = write_h5ad(tmp_path / f"{part}{row}{value}{encoding}.h5ad", encoding=encoding)
            with h5py.File(path, "a") as file:
                file[f"X/{part}"][row] = value if encoding == "csr" or value < 0 or part == "indptr" else N
            message(H5adData(path=str(path)))


def test_wrong_names_are_refused_with_the_right_ones(tmp_path: Path) -> None:
    path = str(write_h5ad(tmp_path / "x.h5ad"))
    assert "did you mean data.labels=type?" in message(H5adData(path=path, labels="typ"))
    assert "no such layer; the file has half, raw" in message(H5adData(path=path, layer="counts"))
    assert "1 rows without a value, the first is row 4" in message(H5adData(path=path, labels="gaps"))
    path = str(write_hdf5(tmp_path / "two.h5", train=COUNTS, test=COUNTS[:7], y=np.arange(N)))
    assert "2 arrays that could be the data (test of 7 x 110, train of 150 x 110)" in message(Hdf5Data(path=path))
    assert "did you mean data.array=train?" in message(Hdf5Data(path=path, array="trian"))
    assert "did you mean data.labels=y?" in message(Hdf5Data(path=path, array="train", labels="yy"))
    text = message(Hdf5Data(path=str(write_hdf5(tmp_path / "none.h5", y=np.arange(N)))))
    assert "no array of numbers with two dimensions or more (y of 150)" in text


def test_what_are_no_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["text"] = np.array([["a", "b"]], dtype=object)
        file["complex"] = np.ones((3, 3), dtype=complex)
        file["group/x"] = COUNTS
        file["refs"] = np.array([[file["text"].ref]], dtype=h5py.ref_dtype)
    for name in ("text", "complex", "group", "refs"):
        message(Hdf5Data(path=str(path), array=name))
    message(Hdf5Data(path=str(path), array="group/x", labels="refs"))


def test_python_objects_in_a_zarr_store_are_never_loaded(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "x.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("x", shape=COUNTS.shape, dtype=COUNTS.dtype)[...] = COUNTS
    metadata = json.loads((path / "x" / ".zarray").read_text())
    (path / "x" / ".zarray").write_text(json.dumps(metadata | {"filters": [{"id": "pickle", "protocol": 5}]}))
    text = message(ZarrData(path=str(path)))
    assert "x: Python objects; expected numbers" in text or "cannot be read" in text


@pytest.mark.parametrize(
    ("module", "extra", "config"),
    [("h5py", "anndata", H5adData), ("h5py", "hdf5", Hdf5Data), ("zarr", "zarr", ZarrData)],
)
def test_a_package_that_is_not_installed_is_named(
    module: str, extra: str, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    text = message(config(path=str(tmp_path)))
    remedy = f"install it: {install_command(extra)}"
    assert text.endswith(f"{module} is not installed; expected the extra {extra}; {remedy}")


# --- damaged files of MATLAB that end SciPy's process -----------------------------------------------------------------

MAT_VALUES: dict[str, Any] = {
    "numbers": np.random.default_rng(0).random((20, 3)),
    "complex": np.ones((20, 3)) + 1j,
    "bytes": np.arange(60, dtype=np.uint8).reshape(20, 3),
    "text": np.array(["some text"]),
    "sparse": sparse.csc_array(np.eye(20, 3)),
    "complex sparse": sparse.csc_array(np.eye(20, 3) * 1j),
    "cells": np.array([["a", np.ones((2, 2))], [np.array([]), np.array([["b", 1.0]], dtype=object)]], dtype=object),
    "empty": np.zeros((0, 3)),
    "short": np.array([[1]], dtype=np.uint8),
}


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("name", MAT_VALUES)
def test_the_types_of_each_class_of_matlab_are_known(name: str, is_compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    io.savemat(path, {"first": np.ones(3), "x": MAT_VALUES[name]}, do_compression=is_compressed)
    mat5.require_known_types(path, "x")
    mat5.require_known_types(path, "not there")


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("type_", [0, 8, 10, 19, 99, 65535])
@pytest.mark.parametrize(
    ("name", "n_elements"),
    [("numbers", 1), ("complex", 2), ("sparse", 3), ("complex sparse", 4), ("cells", 1), ("short", 1)],
)
def test_a_type_that_matlab_does_not_have_is_refused_before_scipy_reads_it(
    name: str, n_elements: int, type_: int, is_compressed: bool, tmp_path: Path
) -> None:
    """SciPy would end the process with a segmentation fault."""
    path = tmp_path / "x.mat"
    io.savemat(path, {"x": MAT_VALUES[name]})
    content = bytearray(path.read_bytes())
    places = places_of_types(bytes(content))
    assert len(places) >= n_elements
    for place in places:
        damaged = bytearray(content)
        damaged[place : place + 2] = type_.to_bytes(2, "little")
        packed = zlib.compress(damaged[128:])
        element = struct.pack("<II", 15, len(packed)) + packed if is_compressed else damaged[128:]
        path.write_bytes(bytes(damaged[:128]) + bytes(element))
        with pytest.raises(ValueError, match=f"^values of type {type_}, which the format does not have$"):
            mat5.require_known_types(path, "x")
    if name == "numbers":
        assert "x: cannot be read (values of type" in message(MatData(path=str(path), array="x"))


def places_of_types(content: bytes) -> list[int]:
    """Return where the types of the values are in a file that SciPy wrote without compression."""
    places: list[int] = []

    def walk(at: int) -> None:
        kind, is_complex = content[at + 16], bool(content[at + 17] & 8)
        n_dims = int.from_bytes(content[at + 28 : at + 32], "little")
        shape = np.frombuffer(content[at + 32 : at + 32 + n_dims], "<i4")
        place = at + 32 + -(-n_dims // 8) * 8
        place = after(place)  # the name
        if kind == 1:
            for _ in range(int(shape.prod())):
                if int.from_bytes(content[place + 4 : place + 8], "little"):
                    walk(place)
                place = after(place)
            return
        for _ in range(is_complex + (3 if kind == 5 else 1)):
            places.append(place)
            place = after(place)

    def after(place: int) -> int:
        if content[place + 2] or content[place + 3]:
            return place + 8
        return place + 8 + -(-int.from_bytes(content[place + 4 : place + 8], "little") // 8) * 8

    walk(128)
    return places


def test_a_variable_of_matlab_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    io.savemat(path, {"x": MAT_VALUES["cells"]}, do_compression=True)
    content = path.read_bytes()
    for end in range(140, len(content) - 60, 3):  # whether the last value is whole is SciPy's concern
        path.write_bytes(content[:end])
        with pytest.raises((ValueError, zlib.error)):
            mat5.require_known_types(path, "x")
