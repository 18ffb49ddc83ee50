"""Small pictures of images whose features, not whose pixels, are the data of a run."""

# Shapes: M images, S side of a picture.

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dkm.config.data import DataConfig, ImageData, ImageFolderData, ImageListData, ImageParquetData
from dkm.data.images.decoding import Decoder, silence_pillow
from dkm.data.images.encoded import FileRows, ImageSource
from dkm.data.images.parquet import ImageParquet
from dkm.data.images.reader import open_images
from dkm.data.images.rows import ImageRow
from dkm.errors import UserError

IntArray = npt.NDArray[np.int64]
Pictures = npt.NDArray[np.float32]

SIDE = 48
# An image that is far larger than the picture is reduced by whole factors first, which is many times as fast.
_REDUCING_GAP = 2.0


def thumbnail_reader(config: DataConfig, position: IntArray | None) -> Callable[[IntArray], Pictures | None] | None:
    """Return a function that returns pictures of rows, float32 (M, 3, S, S) in [0, 1]; None for data of other kinds.

    The function returns None if the images are not there any more. One that cannot be read is black.

    Parameters
    ----------
    config : DataConfig
        The data of the run.
    position : int array, shape (N,), optional
        Positions of the rows in the source; None if all of its images are rows.
    """
    if not isinstance(config, ImageData) or config.encoder is None:
        return None

    def read(index: IntArray) -> Pictures | None:
        wanted = index if position is None else position[index]
        try:
            source = _source(config)
            return None if source is None else _draw(source, wanted, config.background)
        except UserError:
            return None

    return read


def _source(config: ImageData) -> ImageSource | None:
    if isinstance(config, ImageParquetData):
        return ImageParquet(config)
    return FileRows(open_images(config)) if isinstance(config, ImageFolderData | ImageListData) else None


def _draw(source: ImageSource, positions: IntArray, background: str) -> Pictures:
    silence_pillow()
    decoder = Decoder(SIDE, 3, background)
    place_of = {int(position): place for place, position in enumerate(positions)}

    def picture(row: ImageRow) -> npt.NDArray[np.uint8]:
        image: Any = "no bytes" if row.content is None else decoder.open_rgb(row.content)
        return np.zeros((SIDE, SIDE, 3), np.uint8) if isinstance(image, str) else _small(image)

    pictures = np.zeros((len(positions), SIDE, SIDE, 3), np.uint8)
    rows: Iterable[ImageRow] = [row for row in source.rows() if row.position in place_of]
    with ThreadPoolExecutor() as pool:
        for row, pixels in zip(rows, pool.map(picture, rows), strict=True):
            pictures[place_of[row.position]] = pixels
    return pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def _small(image: Any) -> npt.NDArray[np.uint8]:
    """Return the middle square of an image, S pixels wide."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP)
    return np.asarray(small, np.uint8)
