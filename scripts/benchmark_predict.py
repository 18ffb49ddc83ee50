"""Times the prediction of clusters: encode 70,000 x 784 with the default network and find the nearest of k centroids.

``encoder`` is the bare forward pass without gradient, in chunks of the same number of rows; ``to_encoder`` is how many
times as long the whole prediction takes. All take turns. The data are noise, in float32.

    python scripts/benchmark_predict.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dkm.batches import CHUNK_ROWS, Batches, build_batches
from dkm.evaluate import encode
from dkm.kmeans import nearest_centroids
from dkm.models import Autoencoder, mlp_autoencoder
from epochs import random_images, rows_of
from timing import Report, Row, options_parser, read_options, take_turns

_HIDDEN, _LATENT_DIM = (500, 500, 2000), 10


def predict(autoencoder: Autoencoder, batches: Batches, centroids: Tensor) -> Tensor:
    return nearest_centroids(encode(autoencoder, batches), centroids)


@torch.no_grad()
def encode_only(autoencoder: Autoencoder, X: Tensor) -> None:
    for rows in torch.split(X, CHUNK_ROWS):
        autoencoder.encoder(rows)


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
    turns = take_turns(works, repeats=options.repeats)
    rows: list[Row] = []
    for name in works:
        rate = len(X) / turns.median_s(name)
        rows.append({"work": name, "rows_per_s": rate, "ratio": {"to_encoder": turns.ratio(f"{name}/encoder")}})
    report.add("predict", f"Prediction of {len(X):,} x {X.shape[1]}", rows)
    report.write()


if __name__ == "__main__":
    main()
