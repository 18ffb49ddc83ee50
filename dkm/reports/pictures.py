"""Pictures of a report: thumbnails of images in one sprite, and a static map for pages without scripts."""

# Shapes: n images, C channels, H height, W width; m points.

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

# Longest side of a thumbnail, in pixels. JPEG codes blocks of eight pixels: tiles of such sides do not mix.
_MAX_SIDE, _BLOCK = 32, 8
_QUALITY = 60
# Sprites of fewer values are kept as they are.
_SMALL = 2**20
_PILOT = 400
# The static map: its size, the radius of a point, and how much larger it is drawn than shown.
_WIDTH, _HEIGHT, _RADIUS, _SCALE = 900, 620, 2.2, 2


class Sprite(NamedTuple):
    """Images side by side in one file, ``n_columns`` in a row, in the order of their rows."""

    uri: str
    n_images: int
    n_columns: int
    width: int  # of a tile, without the padding
    height: int
    step_x: int  # from one tile to the next
    step_y: int


def draw_sprite(images: npt.NDArray[np.float32], max_side: int = _MAX_SIDE) -> Sprite:
    """Return a sprite of images (n, 1 or 3, H, W) with values in [0, 1], the longest side at most ``max_side``."""
    images = _shrink(images, max_side)
    content, kind, n_columns, steps = _encode(images)
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Sprite(uri, len(images), n_columns, images.shape[3], images.shape[2], steps[1], steps[0])


def bytes_per_image(images: npt.NDArray[np.float32]) -> float:
    """Return about how many bytes one of these images (n, 1 or 3, H, W) takes in a large sprite."""
    pilot = _shrink(images[:_PILOT])
    return len(_encode(pilot, is_small=False)[0]) / max(1, len(pilot))


def _shrink(images: npt.NDArray[np.float32], max_side: int = _MAX_SIDE) -> npt.NDArray[np.float32]:
    """Return the images with at most ``max_side`` pixels a side: means of blocks, without the rest at the end."""
    factor = math.ceil(max(images.shape[2:]) / max_side)
    if factor == 1:
        return images
    n, C, H, W = images.shape
    h, w = max(1, H // factor), max(1, W // factor)
    images = images[:, :, : h * factor, : w * factor]
    blocks = images.reshape(n, C, h, min(factor, H), w, min(factor, W))
    smaller: npt.NDArray[np.float32] = blocks.mean(axis=(3, 5))
    return smaller


def _encode(
    images: npt.NDArray[np.float32], *, is_small: bool | None = None
) -> tuple[bytes, str, int, tuple[int, int]]:
    from PIL import Image

    n, C, H, W = images.shape
    is_small = images.size <= _SMALL if is_small is None else is_small
    h, w = (H, W) if is_small else (_padded(H), _padded(W))
    n_columns = max(1, math.ceil(math.sqrt(n * h / w)))
    n_lines = math.ceil(n / n_columns)
    pixels = np.zeros((n_lines * n_columns, h, w, C), np.uint8)
    pixels[:n, :H, :W] = np.round(images.transpose(0, 2, 3, 1).clip(0, 1) * 255)
    pixels[:n, H:, :W] = pixels[:n, H - 1 : H, :W]  # the padding repeats the edge
    pixels[:n, :, W:] = pixels[:n, :, W - 1 : W]
    sheet = pixels.reshape(n_lines, n_columns, h, w, C).swapaxes(1, 2).reshape(n_lines * h, n_columns * w, C)
    image = Image.fromarray(sheet[:, :, 0] if C == 1 else sheet)
    file = io.BytesIO()
    if is_small:
        image.save(file, "PNG", compress_level=6)
        return file.getvalue(), "png", n_columns, (h, w)
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue(), "jpeg", n_columns, (h, w)


def _padded(side: int) -> int:
    return -(-side // _BLOCK) * _BLOCK


def draw_map(
    points: FloatArray,
    labels: npt.NDArray[np.int64],
    colors: Sequence[str],
    places: Sequence[tuple[float, float] | None],
) -> str:
    """Return a picture of the map as a data address: points (m, 2) in the colors of their clusters, with numbers."""
    from PIL import Image, ImageDraw, ImageFont

    size = (_WIDTH * _SCALE, _HEIGHT * _SCALE)
    image = Image.new("RGB", size, "#ffffff")
    pen = ImageDraw.Draw(image)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    margin = 24 * _SCALE
    room = np.array(size) - 2 * margin

    def place(positions: FloatArray) -> Any:
        """Return pixels (m, 2): y grows downward."""
        share = (positions - low) / np.where(extent > 0, extent, 1)
        return (np.column_stack([share[:, 0], 1 - share[:, 1]]) * room + margin).tolist()

    r = _RADIUS * _SCALE
    for (x, y), label in zip(place(points), labels.tolist(), strict=True):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colors[label])
    font = ImageFont.load_default(15 * _SCALE)
    for number, position in enumerate(places):
        if position is not None:
            [(x, y)] = place(np.array([position]))
            pen.text((x, y), str(number), fill="#111111", font=font, anchor="mm", stroke_width=5, stroke_fill="#ffffff")
    file = io.BytesIO()
    image = image.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR)
    image.quantize(128).save(file, "PNG", compress_level=6)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
