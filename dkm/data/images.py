"""Read a folder of the user's own images: PNG and JPEG at any depth, gray or in color, resized to one size.

Files that cannot be read are logged and dropped; if their fraction exceeds ``data.max_unreadable``, and for every other
error, a one-line ``UserError`` is raised.
"""

# Shapes: n images, H height, W width.

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dkm.config.data import ImageFolderData
from dkm.data.files import Part, expand
from dkm.data.scaling import Array
from dkm.errors import UserError, input_error, reason

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

_SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
_MAX_LISTED = 10
_FILES_AT_ONCE = 1024


class ImageFolder:
    """The images below a folder; ``read`` or ``parts`` reads them.

    Parameters
    ----------
    config : ImageFolderData
    key : str
        The setting that names the folder, for messages.
    plan : Mapping, optional
        Not used.
    n_channels : int, optional
        Number of channels of a trained model, 1 or 3. By default ``data.color`` and the images decide.

    Raises
    ------
    UserError
        If the folder does not exist or contains no images.
    """

    def __init__(
        self,
        config: ImageFolderData,
        *,
        key: str = "data.path",
        plan: Mapping[str, Any] | None = None,
        n_channels: int | None = None,
    ) -> None:
        self.source = f"{key}={config.path}"
        self._config = config
        self._folder = expand(config.path)
        self._n_channels = n_channels or {"auto": None, "gray": 1, "rgb": 3}[config.color]
        self._is_trained = n_channels is not None
        self._has_labels = False
        self.names = self._find_images()
        self._max_unreadable = int(config.max_unreadable * len(self.names))
        self._unreadable: list[str] = []
        self.n_rows = len(self.names)

    def read(self) -> Part:
        """Return all images, uint8: (n, H, W), or (n, H, W, 3) if any of them is in color."""
        parts = list(self._read(len(self.names)))
        if not parts:
            raise self._too_many_unreadable_error()
        return parts[0]

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all images in parts of at most ``n_rows`` files."""
        return self._read(n_rows)

    def path_of(self, name: str) -> Path:
        """Return the file of an image."""
        return self._folder / name

    def label_of(self, name: str) -> str | None:
        """Return the class folder of an image; None without labels."""
        return name.partition(os.sep)[0] if self._has_labels else None

    def _find_images(self) -> list[str]:
        expected = "a folder with .png or .jpg files below it"
        if not os.path.isdir(self._folder):  # noqa: PTH112  # Path.is_dir raises for a name that is too long
            is_there = os.path.lexists(self._folder)
            found = "a file" if is_there else "no such folder"
            raise input_error(self.source, found, expected, f"correct {self.source.partition('=')[0]}")
        names: list[str] = []
        others: list[str] = []
        for folder, _, files in os.walk(self._folder):
            for file in files:
                name = str(Path(folder, file).relative_to(self._folder))
                if not file.startswith("."):
                    (names if file.lower().endswith(_SUFFIXES) else others).append(name)
        if not names:
            found = f"no images (it has {others[0]}, for example)" if others else "an empty folder"
            raise input_error(self.source, found, expected, "convert the images, or name another folder")
        is_loose = any(os.sep not in name for name in names)
        self._has_labels = self._config.labels is not None and not (is_loose and self._is_trained)
        if self._has_labels and is_loose:
            name = next(name for name in names if os.sep not in name)
            expected = "each image in a folder that names its class"
            remedy = "move it into one, or set data.labels=null"
            raise input_error("data.labels=folder", f"{name} is in none", expected, remedy)
        return sorted(names)

    def _read(self, n_rows: int) -> Iterator[Part]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.names), n_rows):
                names = self.names[start : start + n_rows]
                images: list[Array] = []
                index: list[int] = []
                for first in range(0, len(names), _FILES_AT_ONCE):  # stops early if there are too many bad files
                    chunk = names[first : first + _FILES_AT_ONCE]
                    for position, image in enumerate(pool.map(self._read_image, chunk), start + first):
                        if isinstance(image, str):
                            self._unreadable.append(f"{self.names[position]} ({image})")
                        else:
                            images.append(image)
                            index.append(position)
                    if len(self._unreadable) > self._max_unreadable:
                        raise self._too_many_unreadable_error()
                if images:
                    yield self._make_part(images, index)
        if self._unreadable:
            log.warning("%s: %d images cannot be read and are left out: %s", self.source, *self._list_unreadable())

    def _make_part(self, images: list[Array], index: list[int]) -> Part:
        ids = np.array([self.names[position] for position in index])
        labels = np.array([self.label_of(name) for name in ids]) if self._has_labels else None
        return Part(stack_images(images, self._n_channels), np.array(index), ids, labels)

    def _read_image(self, name: str) -> Array | str:
        image = open_image(self.path_of(name))
        return image if isinstance(image, str) else to_pixels(image, self._config.image_size, self._n_channels)

    def _list_unreadable(self) -> tuple[int, str]:
        more = len(self._unreadable) - _MAX_LISTED
        first = ", ".join(self._unreadable[:_MAX_LISTED])
        return len(self._unreadable), first + (f", and {more} more" if more > 0 else "")

    def _too_many_unreadable_error(self) -> UserError:
        n, names = self._list_unreadable()
        found = f"{n} of {len(self.names)} images cannot be read: {names}"
        expected = f"at most {self._max_unreadable} (data.max_unreadable={self._config.max_unreadable})"
        return input_error(self.source, found, expected, "repair or remove them, or raise data.max_unreadable")


def open_image(file: Path | BinaryIO) -> Image.Image | str:
    """Return an image in memory, turned upright, with 8 bits a channel, or the reason why it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of a decompression bomb
            with Image.open(file, formats=_FORMATS) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I"):  # 16 bits, which convert would clip at 255
                    image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
                image.load()
                return image
    except (OSError, ValueError, SyntaxError, EOFError, Warning, Image.DecompressionBombError) as error:
        return reason(error)


def to_pixels(image: Image.Image, side: int, n_channels: int | None) -> Array:
    """Return the resized image, uint8 (side, side), or (side, side, 3) in color.

    Parameters
    ----------
    n_channels : int, optional
        1 or 3; by default the mode of the image decides.
    """
    from PIL import Image

    n_channels = n_channels or (1 if image.mode in ("1", "L", "LA") else 3)
    mode = "L" if n_channels == 1 else "RGB"
    return np.asarray(image.convert(mode).resize((side, side), Image.Resampling.BILINEAR))


def stack_images(images: Sequence[Array], n_channels: int | None) -> Array:
    """Return gray images as (n, H, W); if any image is in color or ``n_channels`` is 3, all as (n, H, W, 3)."""
    n_channels = n_channels or max(1 if image.ndim == 2 else 3 for image in images)
    if n_channels == 3:
        images = [image if image.ndim == 3 else np.repeat(image[:, :, np.newaxis], 3, axis=2) for image in images]
    return np.stack(images)
