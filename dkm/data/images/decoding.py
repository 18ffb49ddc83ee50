"""Decode an image file of any format that Pillow reads to gray or RGB pixels of one size.

The format follows from the content of the file. EPS is not read, because Pillow would run an external program, nor are
formats without a decoder of their own. The pixel count in the header is checked before anything is unpacked.
"""

# Shapes: H height, W width.

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from dkm.data.scaling import Array
from dkm.errors import in_short

if TYPE_CHECKING:
    from PIL.Image import Image

# EPS and WMF are rendered by external programs or by Windows, the others have no decoder in Pillow.
_REFUSED = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5")
# Raw files of cameras begin as TIFF, whose first image is a small preview.
RAW_SUFFIXES = (".3fr", ".arw", ".cr2", ".dng", ".nef", ".nrw", ".pef", ".sr2", ".srw")
_ORIENTATION = 0x0112  # EXIF tag
Limits = tuple[float, float]
T = TypeVar("T")


class Decoded(NamedTuple):
    """A decoded image."""

    # (H, W) or (H, W, 3): uint8, or float32 (H, W) if the image has more than 8 bits per pixel
    pixels: Array
    # Smallest and largest value before resizing, if the image has more than 8 bits per pixel.
    limits: Limits | None
    is_color: bool
    # What was done with the image, as keys of the data report.
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """Decodes image files.

    Attributes
    ----------
    side : int
        Height and width of the decoded images.
    n_channels : int, optional
        1 or 3; by default that of each image.
    background : str
        See ``ImageData.background``.
    """

    side: int
    n_channels: int | None
    background: str

    def decode(self, content: Path | bytes) -> Decoded | str:
        """Return the image in a file or its content, or the reason why it cannot be read."""
        return self._read(content, self._decode)

    def open_rgb(self, content: Path | bytes) -> Image | str:
        """Return the image in color, at its own size, or the reason why it cannot be read."""
        return self._read(content, self._to_rgb)

    def _read(self, content: Path | bytes, convert: Callable[[Image], T]) -> T | str:
        from PIL import Image, UnidentifiedImageError

        try:
            # The list of formats is explicit because the default includes those that need an external program.
            formats = _formats(content.suffix if isinstance(content, Path) else "")
            with Image.open(content if isinstance(content, Path) else io.BytesIO(content), formats=formats) as file:
                limit = Image.MAX_IMAGE_PIXELS
                if limit is not None and file.width * file.height > limit:
                    return f"{file.width} x {file.height} pixels, the limit is {limit:,} pixels"
                return convert(file)
        except Image.DecompressionBombError:
            return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        except UnidentifiedImageError:
            return "not an image that Pillow reads"
        # Decoders raise errors of many types on damaged files: struct.error, KeyError, ZeroDivisionError and others.
        except Exception as error:
            return in_short(error)

    def _decode(self, file: Image) -> Decoded:
        from PIL import Image

        notes = [f"format {file.format}"]
        if getattr(file, "is_animated", False):
            notes.append("frames")
        if _loses_bits(file):
            notes.append("lost bits")
        file.load()
        image = _upright(file, notes)
        if image.mode.startswith(("I", "F")):
            values = _deep_pixels(image)
            resized = Image.fromarray(values).resize((self.side, self.side), Image.Resampling.BILINEAR)
            return Decoded(np.asarray(resized), (float(values.min()), float(values.max())), False, tuple(notes))
        has_palette = image.mode in ("P", "PA")
        is_gray = image.mode in ("1", "L", "LA", "La")
        if image.has_transparency_data:
            image, is_opaque = self._composite(image)
            if not is_opaque:
                notes.append("transparent")
                is_gray = is_gray and self._is_background_gray
        if has_palette:
            colors = np.asarray(image.convert("RGB"))
            is_gray = bool((colors == colors[..., :1]).all())
        n_channels = self.n_channels or (1 if is_gray else 3)
        converted = image.convert("L" if n_channels == 1 else "RGB")
        resized = converted.resize((self.side, self.side), Image.Resampling.BILINEAR)
        return Decoded(np.asarray(resized), None, not is_gray, tuple(notes))

    def _to_rgb(self, file: Image) -> Image:
        from PIL import Image

        file.load()
        image = _upright(file, [])
        if image.mode.startswith(("I", "F")):  # the encoder sees the image by its own range
            values = _deep_pixels(image)
            image = Image.fromarray(to_bytes(values, (float(values.min()), float(values.max()))))
        if image.has_transparency_data:
            image, _ = self._composite(image)
        return image.convert("RGB")

    @property
    def _is_background_gray(self) -> bool:
        digits = self.background.removeprefix("#").lower()
        return not self.background.startswith("#") or digits == digits[:2] * 3

    def _composite(self, image: Image) -> tuple[Image, bool]:
        """Return the image on the background, and whether it was opaque."""
        from PIL import Image

        rgba = image.convert("RGBA")
        is_opaque = rgba.getchannel("A").getextrema()[0] == 255
        if is_opaque or self.background == "none":
            return rgba.convert("RGB"), is_opaque
        return Image.alpha_composite(Image.new("RGBA", rgba.size, self.background), rgba).convert("RGB"), False


def silence_pillow() -> None:
    """Ignore warnings of Pillow, for example about damaged EXIF; call this before images are decoded in threads.

    Threads cannot use ``warnings.catch_warnings``: it changes the filters of the whole process, and two threads that
    leave it in another order than they entered it leave the wrong filters behind (python/cpython#128384).
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def is_image_suffix(suffix: str) -> bool:
    """Return whether Pillow reads files with this suffix."""
    return suffix.lower() in _suffixes()


def has_image_signature(path: Path) -> bool:
    """Return whether the first bytes of a file are those of an image."""
    from PIL import Image

    try:
        with Image.open(path, formats=_formats(path.suffix)):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # see Decoder.decode
        return False


def is_image(path: Path) -> bool:
    """Return whether a file has a suffix that Pillow knows, or the first bytes of an image."""
    return is_image_suffix(path.suffix) or has_image_signature(path)


def to_bytes(pixels: Array, limits: Limits) -> Array:
    """Map the range ``limits`` to [0, 255]; values outside are clipped."""
    low, high = limits
    scaled = (pixels.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    rounded: Array = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return rounded


def describe_notes(notes: Counter[str], background: str) -> dict[str, str]:
    """Return the decisions of the data report that the notes of all images tell."""
    formats = {note.removeprefix("format "): n for note, n in notes.items() if note.startswith("format ")}
    decisions = {"formats": ", ".join(f"{name} ({n:,})" for name, n in sorted(formats.items(), key=_by_count))}
    if n := notes["transparent"]:
        how = "ignored (data.background=none)" if background == "none" else f"drawn on data.background={background}"
        decisions["transparency"] = f"{n:,} images are transparent, {how}"
    if n := notes["turned"]:
        decisions["orientation"] = f"{n:,} images are turned as their EXIF data say"
    if n := notes["exif"]:
        decisions["EXIF"] = f"{n:,} images have a damaged EXIF block and are used as stored"
    if n := notes["frames"]:
        decisions["frames"] = f"{n:,} files have several frames, the first is used"
    return decisions


def lost_bits_warnings(notes: Counter[str]) -> list[str]:
    """Return what the data report calls odd: colors of which Pillow reads a part of the bits."""
    n = notes["lost bits"]
    what = "images in color with 16 bits per channel"
    return [f"{what}: {n:,}; the upper 8 are read, so values below 256 are black"] if n else []


def _deep_pixels(image: Image) -> Array:
    """Return the pixels (H, W) of an image with more than 8 bits per pixel, float32; ``ValueError`` for NaN."""
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite")
    return values


def _loses_bits(file: Image) -> bool:
    """Return whether an image that is not loaded yet has 16 bits per channel, and its mode 8."""
    if file.mode.startswith(("I", "F")):
        return False
    modes = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in getattr(file, "tile", ())]
    return any(isinstance(mode, str) and ";16" in mode for arguments in modes for mode in arguments)


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


@cache
def _suffixes() -> dict[str, str]:
    """Return the format of each suffix that Pillow reads."""
    from PIL import Image

    known = Image.registered_extensions()
    return {suffix: name for suffix, name in known.items() if name in Image.OPEN and name not in _REFUSED}


@cache
def _formats(suffix: str) -> tuple[str, ...]:
    """Return the formats to try: those with a signature, and that of the suffix.

    Formats without a signature, such as TGA, would accept some files that are no images.
    """
    from PIL import Image

    own = _suffixes().get(suffix.lower())
    refused = (*_REFUSED, own, "TIFF" if suffix.lower() in RAW_SUFFIXES else None)
    others = [name for name in Image.ID if Image.OPEN[name][1] is not None and name not in refused]
    return (*others, own) if own else tuple(others)


def _upright(image: Image, notes: list[str]) -> Image:
    """Return the image turned as its EXIF orientation says."""
    from PIL import Image

    transpose = Image.Transpose
    methods: dict[Any, Image.Transpose] = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_270,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_90,
    }
    try:
        method = methods.get(image.getexif().get(_ORIENTATION))
    except Exception:  # a damaged block; the pixels are whole
        notes.append("exif")
        return image
    if method is None:
        return image
    notes.append("turned")
    return image.transpose(method)
