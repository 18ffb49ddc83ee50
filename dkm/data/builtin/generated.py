"""Data sets that scikit-learn ships or generates: digits, blobs, moons."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

from dkm.config.data import BlobsData, DigitsData, MoonsData
from dkm.data.raw import RawData


def read_digits(config: DigitsData) -> RawData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return RawData(digits.images, digits.target, value_range=(0.0, 16.0))


def read_blobs(config: BlobsData) -> RawData:
    from sklearn.datasets import make_blobs

    X, labels = make_blobs(
        n_samples=config.n_samples,
        n_features=config.n_features,
        centers=config.n_blobs,
        cluster_std=config.blob_std,
        random_state=config.generator_seed,
    )
    return RawData(X, labels)


def read_moons(config: MoonsData) -> RawData:
    from sklearn.datasets import make_moons

    X, labels = make_moons(config.n_samples, noise=config.noise, random_state=config.generator_seed)
    return RawData(X, labels)
