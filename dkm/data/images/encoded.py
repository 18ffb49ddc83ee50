"""Images of a folder or a Parquet file as the features of a pretrained encoder; without one, as pixels.

Images are decoded by threads while the network computes, and the features are cached by content.
"""

# Shapes: n images of a part, H height, W width, F features.

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import compress, islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import PIL

from dkm.config.data import EncodedData, ImageData, ImageParquetData
from dkm.data.features import (
    CHUNK,
    EncodingProgress,
    FeatureCache,
    Features,
    chunked,
    first_line,
    require_trained_encoder,
    unusable_encoder_error,
)
from dkm.data.files import Part, concatenate, part_of
from dkm.data.images.decoding import Decoder
from dkm.data.images.encoders import BATCH, Network, find_image_encoder
from dkm.data.images.parquet import ImageParquet
from dkm.data.images.reader import ImageReader, open_images, read_images
from dkm.data.images.rows import ImageRow, UnreadableImages
from dkm.data.raw import RawData, from_part
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.errors import UserError, input_error
from dkm.runtime.devices import find_device

if TYPE_CHECKING:
    from PIL.Image import Image

    from dkm.data.reader import PartReader

S = TypeVar("S")
T = TypeVar("T")


class ImageSource(Protocol):
    """Images that are not decoded; ``rows`` yields those from the position ``start``."""

    source: str
    n_rows: int
    report: DataReport

    def rows(self, start: int = 0) -> Iterator[ImageRow]: ...


class FileRows:
    """The images of a folder or a list as an ``ImageSource``."""

    def __init__(self, reader: ImageReader) -> None:
        self.source, self.n_rows, self.report = reader.source, reader.n_rows, reader.report
        self._files = reader.files

    def rows(self, start: int = 0) -> Iterator[ImageRow]:
        for position, file in enumerate(self._files[start:], start):
            yield ImageRow(position, file.path, file.id, file.label)


class EncodedImages:
    """The features of the images of a source; ``read`` or ``parts`` returns them.

    Parameters
    ----------
    images : ImageSource
    config : ImageData
        Names the encoder.
    plan : Mapping, optional
        What a trained model stores; its ``encoder`` must be the one that the config names.

    Raises
    ------
    UserError
        If the encoder cannot be found, is not the one of the training, or ``data.range`` or ``data.color=gray``
        is set for the training.
    """

    def __init__(self, images: ImageSource, config: ImageData, plan: Mapping[str, Any] | None = None) -> None:
        if plan is None and config.range is not None:
            found = "an encoder sees each image by its own range"
            raise input_error(f"data.range={config.range}", found, "null", "leave out data.range, or data.encoder")
        if plan is None and config.color == "gray":
            found = "an encoder sees each image in color"
            raise input_error("data.color=gray", found, "auto", "leave out data.color, or data.encoder")
        self.source, self.n_rows = images.source, images.n_rows
        self._images = images
        self._contents, self._next = images.rows(), 0  # read a second time, and the position of the next row
        self._encoder = find_image_encoder(config)
        trained = None if plan is None else dict(plan["encoder"])
        if trained is not None and trained.get("digest") == (self._encoder.earlier_digest or ""):
            trained["digest"] = self._encoder.identity["digest"]
        require_trained_encoder(trained, self._encoder.identity, self._encoder.source)
        self._cache = FeatureCache(
            {
                "background": config.background,
                "images": self._encoder.identity | ({"name": "onnx"} if self._encoder.is_file else {}),
                "library": self._encoder.version,
                "decoder": f"Pillow {PIL.__version__}",
                "device": find_device("auto").type,
            }
        )
        self._network: Network | None = None
        self._decoder = Decoder(config.image_size, 3, config.background)
        self._progress = EncodingProgress(self._encoder.source, f"images of {images.n_rows:,}")
        self.unreadable = UnreadableImages(images.source, images.n_rows, config.max_unreadable)
        identity = self._encoder.identity
        self.plan = {"encoder": identity}
        self.report = images.report
        self.report.decisions["encoder"] = f"{identity['name']}, SHA-256 of the weights {identity['digest'][:12]}"

    def read(self) -> Part:
        """Return the features of all images, float32 (n, F)."""
        return concatenate(list(self.parts(self.n_rows)))

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield the features of all images in parts of at most ``CHUNK`` rows, whatever ``n_rows``."""
        with ThreadPoolExecutor() as pool:
            digested = map_ahead(pool, _digest_and_drop, self._images.rows(), n_ahead=2 * BATCH)
            for chunk in chunked(digested, CHUNK):
                rows = [row for row, _ in chunk]
                features = self._find_or_encode(rows, self._cache.key(digest for _, digest in chunk), pool)
                is_missing = _has_nan(features)
                is_readable: Array = np.logical_not(is_missing)
                for row in self._reread(rows, is_missing):
                    image = self._open(row)
                    self.unreadable.add(row, image if isinstance(image, str) else "its features are not finite numbers")
                kept = [row for row, is_kept in zip(rows, is_readable, strict=True) if is_kept]
                if kept:
                    yield part_of(kept, features[is_readable])
        self.unreadable.warn()

    def _reread(self, rows: list[ImageRow], is_wanted: Array) -> Iterator[ImageRow]:
        """Yield the wanted ones of consecutive rows, with the contents that ``_digest_and_drop`` has dropped."""
        if is_wanted.any():
            yield from compress(self._contents_of(rows[0].position, len(rows)), is_wanted)

    def _contents_of(self, start: int, n_rows: int) -> Iterator[ImageRow]:
        """Yield consecutive rows with their contents, going on where the last ones ended.

        A Parquet file is read from the beginning of a group of rows, which may have all of them.
        """
        if start < self._next:
            self._contents, self._next = self._images.rows(start), start
        for row in islice(self._contents, start + n_rows - self._next):
            self._next = row.position + 1
            if row.position >= start:
                yield row

    def _open(self, row: ImageRow) -> Image | str:
        return "no bytes" if row.content is None else self._decoder.open_rgb(row.content)

    def _find_or_encode(self, rows: list[ImageRow], key: str, pool: Executor) -> Features:
        """Return the features (n, F) from the cache or the network; NaN for an image that cannot be read."""
        features = self._cache.find(key, len(rows))
        if features is None or self._has_readable(rows, features):
            self._network = self._network or self._encoder.load()
            features = self._encode(rows, self._network, pool)
            self._cache.keep(key, features)
        return features

    def _has_readable(self, rows: list[ImageRow], features: Features) -> bool:
        """Return whether an image without features can be read, unlike before: memory or open files were short."""
        missing = self._reread(rows, _has_nan(features))
        return any(not isinstance(self._open(row), str) for row in missing)

    def _encode(self, rows: list[ImageRow], network: Network, pool: Executor) -> Features:
        def prepare(row: ImageRow) -> Array | str:
            image = self._open(row)
            if isinstance(image, str):
                return image
            try:
                return network.prepare(image)
            except (OSError, ValueError, RuntimeError, ZeroDivisionError) as error:  # sides too short to resize
                return f"cannot be resized: {first_line(error)}"

        features: Features | None = None
        contents = self._reread(rows, np.ones(len(rows), bool))
        prepared = enumerate(map_ahead(pool, prepare, contents, n_ahead=2 * BATCH))
        readable = ((i, pixels) for i, pixels in prepared if not isinstance(pixels, str))
        for batch in chunked(readable, BATCH):
            index, pixels = zip(*batch, strict=True)
            try:
                encoded = network.encode(np.stack(pixels))
            except UserError:
                raise
            except Exception as error:  # a library's errors have many types
                raise unusable_encoder_error(self._encoder.source, error, "a network for such images") from error
            if features is None:
                features = np.full((len(rows), encoded.shape[1]), np.nan, np.float32)
            features[list(index)] = encoded
            self._progress.add(len(batch))
        return np.full((len(rows), 1), np.nan, np.float32) if features is None else features


def _has_nan(features: Features) -> Array:
    return np.asarray(np.isnan(features).any(axis=1))


def _digest_and_drop(row: ImageRow) -> tuple[ImageRow, bytes]:
    """Return a row without the content of its image, of which a chunk may have gigabytes, and the digest of it."""
    return row._replace(content=None), row.digest()


def map_ahead(pool: Executor, function: Callable[[S], T], items: Iterable[S], n_ahead: int) -> Iterator[T]:
    """Yield the results in order; at most ``n_ahead`` of them are computed before they are needed."""
    iterator = iter(items)
    waiting: deque[Future[T]] = deque(pool.submit(function, item) for item in islice(iterator, n_ahead))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(function, item) for item in islice(iterator, 1))
        yield result


# --- the entries of the registry -----------------------------------------------------------------------------


def read_image_files(config: ImageData) -> RawData:
    """Read the images of a folder or a list for training."""
    if config.encoder is None:
        return read_images(config)
    return _read_encoded(FileRows(open_images(config)), config)


def read_image_parquet(config: ImageParquetData) -> RawData:
    images = ImageParquet(config)
    if config.encoder is not None:
        return _read_encoded(images, config)
    part = images.read()
    images.unreadable.report(images.report)
    return from_part(part, value_range=(0.0, 255.0), plan=images.plan, report=images.report)


def _read_encoded(images: ImageSource, config: ImageData) -> RawData:
    encoded = EncodedImages(images, config)
    part = encoded.read()
    encoded.unreadable.report(encoded.report)
    if config.scaling is None:
        encoded.report.scaling = "row_rms: each row to the same length, the default for the features of an encoder"
    return from_part(part, scaling="row_rms", plan=encoded.plan, report=encoded.report)


def image_files_reader(
    config: ImageData, *, key: str, plan: Mapping[str, Any] | None, n_channels: int | None
) -> PartReader:
    """Return the reader of a folder or a list of images for a trained model."""
    uses_encoder = _uses_encoder(config, plan)
    reader = open_images(config, key=key, plan=plan, n_channels=3 if uses_encoder else n_channels)
    return EncodedImages(FileRows(reader), config, plan) if uses_encoder else reader


def image_parquet_reader(
    config: ImageParquetData, *, key: str, plan: Mapping[str, Any] | None, n_channels: int | None
) -> PartReader:
    """Return the reader of a Parquet file of images for a trained model."""
    images = ImageParquet(config, key=key, plan=plan, n_channels=n_channels, is_trained=True)
    return EncodedImages(images, config, plan) if _uses_encoder(config, plan) else images


def _uses_encoder(config: EncodedData, plan: Mapping[str, Any] | None) -> bool:
    if plan is None or "encoder" not in plan:
        return False
    if config.encoder is None:
        expected = f"expected the encoder of the training, {plan['encoder']['name']}"
        raise UserError(f"data.encoder=null: {expected}; leave out data.encoder")
    return True
