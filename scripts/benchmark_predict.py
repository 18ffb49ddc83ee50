"""Times the prediction of clusters: encode 70,000 x 784 with the default network and find the nearest of k centroids.

``encoder`` is the bare forward pass without gradient, in chunks of the same number of rows; ``to_encoder`` is the time
of a row divided by that of the encoder. ``command`` is ``python -m dkm.predict`` from an .npy file to a .csv, without
the start of Python; ``memory`` is its peak resident memory and the factor for four times the rows. All take turns. The
data are noise, in float32.

    python scripts/benchmark_predict.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from dkm.clustering.assignment import nearest_centroids
from dkm.config.commands import PredictConfig
from dkm.config.model import MLPConfig
from dkm.data.batches import Batches, build_batches
from dkm.data.scaling import Scaling
from dkm.data.stored import CHUNK_ROWS
from dkm.evaluation.evaluator import encode
from dkm.models.autoencoder import Autoencoder
from dkm.models.mlp import mlp_autoencoder
from dkm.models.saved import SavedModel
from dkm.predict import predict as predict_file
from epochs import random_images, rows_of
from timing import Report, Row, options_parser, read_options, take_turns

_HIDDEN, _LATENT_DIM = (500, 500, 2000), 10
_SHAPE = (1, 28, 28)


def predict(autoencoder: Autoencoder, batches: Batches, centroids: Tensor) -> Tensor:
    return nearest_centroids(encode(autoencoder, batches), centroids)


@torch.no_grad()
def encode_only(autoencoder: Autoencoder, X: Tensor) -> None:
    for rows in torch.split(X, CHUNK_ROWS):
        autoencoder.encoder(rows)


def command(folder: Path, model: str = "model", name: str = "1") -> None:
    """Predict one file of the folder as the command line does."""
    config = PredictConfig(str(folder / model), str(folder / f"{name}.npy"), str(folder / "o.csv"), overwrite=True)
    with contextlib.redirect_stdout(io.StringIO()):
        predict_file(config)


def peak_bytes(folder: Path, n_files: int) -> int:
    """Return the peak resident memory of a process that predicts."""
    code = (
        "import sys; from dkm import predict; from dkm.runtime.environment import peak_memory_bytes;"
        "predict.work(sys.argv[1:]); print(peak_memory_bytes())"
    )
    words = [f"run={folder / 'model'}", f"input={folder / f'{n_files}.npy'}", f"output={folder / 'o.csv'}"]
    command = [sys.executable, "-c", code, *words, "overwrite=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def save_model(autoencoder: Autoencoder, folder: Path, largest: float) -> None:
    section = asdict(MLPConfig(hidden=list(_HIDDEN)))
    scaling = Scaling("unit", math.prod(_SHAPE), scale=(largest,))
    centroids = torch.randn(_LATENT_DIM, _LATENT_DIM)
    SavedModel(autoencoder, centroids, scaling, _SHAPE, None, None, None, {}, 1.0, section).save(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=5)
    options = read_options(parser, argv)
    X = rows_of(random_images(512 if options.quick else 70_000))
    batches = build_batches(X, 256, 0, X.device)
    autoencoder = mlp_autoencoder(X.shape[1], _HIDDEN, _LATENT_DIM)
    works: dict[str, Callable[[], object]] = {"encoder": partial(encode_only, autoencoder, X)}
    centroids = {f"k={k}": torch.randn(k, _LATENT_DIM) for k in (10, 100, 1000)}
    works |= {name: partial(predict, autoencoder, batches, c) for name, c in centroids.items()}
    report = Report(options.json, precision="fp32", chunk=CHUNK_ROWS)
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_model(autoencoder, folder / "model", 1.0)
        save_model(autoencoder, folder / "uint8", 255.0)
        images = X.numpy().reshape(-1, *_SHAPE)
        np.save(folder / "1.npy", images)
        np.save(folder / "bytes.npy", (255 * images).astype(np.uint8))
        os.sync()  # so that no file is written back to disk while others are timed
        works["command"] = partial(command, folder)
        works["command uint8"] = partial(command, folder, "uint8", "bytes")
        turns = take_turns(works, repeats=options.repeats)
        rows: list[Row] = []
        for work in works:
            rate = len(X) / turns.median_s(work)
            rows.append({"work": work, "rows_per_s": rate, "ratio": {"to_encoder": turns.ratio(f"{work}/encoder")}})
        report.add("predict", f"Prediction of {len(X):,} x {X.shape[1]}", rows)
        np.save(folder / "4.npy", np.concatenate([images] * 4))
        one, four = (peak_bytes(folder, n_files) for n_files in (1, 4))
        memory: list[Row] = [{"rows": len(X), "peak_mb": one / 1e6, "ratio": {"four_times_the_rows": four / one}}]
        report.add("memory", "Peak resident memory of the command", memory)
    report.write()


if __name__ == "__main__":
    main()
