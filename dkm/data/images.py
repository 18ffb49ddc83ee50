"""Read the user's own image files, of a folder or a list, resized to one size, gray or in color.

Files that cannot be read are logged and left out; if their fraction exceeds ``data.max_unreadable``, and for every
other error, a one-line ``UserError`` is raised.
"""

# Shapes: n images, H height, W width.

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dkm.config.data import ImageData, ImageListData
from dkm.data.decoding import Decoded, Decoder, Limits, describe_notes, silence_pillow, to_bytes
from dkm.data.files import Part, expand
from dkm.data.image_paths import ImageFile, find_images, read_image_list
from dkm.data.raw import RawData, from_part
from dkm.data.report import DataReport
from dkm.data.scaling import Array
from dkm.errors import UserError, input_error

log = logging.getLogger(__name__)

_MAX_LISTED = 10
_FILES_AT_ONCE = 1024
# Range of images with more than 8 bits where no data of the model tell it: that of 16 bits.
_SIXTEEN_BITS: Limits = (0.0, 65535.0)


def read_images(config: ImageData) -> RawData:
    """Read a folder or a list of images for training."""
    reader = ImageList(config) if isinstance(config, ImageListData) else ImageFolder(config)
    part = reader.read()
    return from_part(part, value_range=(0.0, 255.0), plan=reader.plan, report=reader.report)


class ImageReader:
    """Images in files; ``read`` or ``parts`` reads them.

    Parameters
    ----------
    config : ImageData
    files : sequence of ImageFile
    report : DataReport
        To which the reader adds what it decides and leaves out.
    plan : Mapping, optional
        What the reader of the training data decided; see ``plan``.
    n_channels : int, optional
        Number of channels of a trained model, 1 or 3. By default ``data.color`` and the images decide.

    Attributes
    ----------
    plan : dict
        ``range``: the values of 16-bit images that become black and white.
    """

    def __init__(
        self,
        config: ImageData,
        files: Sequence[ImageFile],
        *,
        report: DataReport,
        plan: Mapping[str, Any] | None,
        n_channels: int | None,
    ) -> None:
        self.source = report.source
        self.report = report
        self.plan: dict[str, Any] = {}
        self._config = config
        self._files = files
        self._limits: Limits | None = None
        if config.range is not None:
            self._limits = (config.range[0], config.range[1])
        elif plan is not None and plan.get("range") is not None:
            self._limits = (plan["range"][0], plan["range"][1])
        elif n_channels is not None:
            self._limits = _SIXTEEN_BITS
        self._n_channels = n_channels or {"auto": None, "gray": 1, "rgb": 3}[config.color]
        self._decoder = Decoder(config.image_size, self._n_channels, config.background)
        self._max_unreadable = int(config.max_unreadable * len(files))
        self._unreadable: list[str] = []
        self._notes: Counter[str] = Counter()
        self.n_rows = report.n_rows = len(files)
        silence_pillow()

    def read(self) -> Part:
        """Return all images, uint8: (n, H, W), or (n, H, W, 3) if any of them is in color."""
        parts = list(self.parts(len(self._files)))
        if not parts:
            raise self._too_many_unreadable_error()
        self.report.decisions |= describe_notes(self._notes, self._config.background)
        self.report.leave_out("images", len(self._unreadable), "cannot be read", self._unreadable)
        return parts[0]

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all images in parts of at most ``n_rows`` files."""
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self._files), n_rows):
                files = self._files[start : start + n_rows]
                images: list[Decoded] = []
                index: list[int] = []
                for first in range(0, len(files), _FILES_AT_ONCE):  # stops early if there are too many bad files
                    chunk = [file.path for file in files[first : first + _FILES_AT_ONCE]]
                    for position, image in enumerate(pool.map(self._decoder.decode, chunk), start + first):
                        if isinstance(image, str):
                            self._unreadable.append(f"{self._files[position].id} ({image})")
                        else:
                            images.append(image)
                            index.append(position)
                    if len(self._unreadable) > self._max_unreadable:
                        raise self._too_many_unreadable_error()
                if images:
                    yield self._make_part(images, index)
        if self._unreadable:
            log.warning("%s: %d images cannot be read and are left out: %s", self.source, *self._list_unreadable())

    def _make_part(self, images: Sequence[Decoded], index: Sequence[int]) -> Part:
        for image in images:
            self._notes.update(image.notes)
        limits = self._limits or self._fit_range(images)
        n_channels = self._n_channels or self._choose_color(images)
        side = self._config.image_size
        X = np.empty((len(images), side, side) if n_channels == 1 else (len(images), side, side, 3), np.uint8)
        for row, image in zip(X, images, strict=True):
            pixels = image.pixels if image.limits is None else to_bytes(image.pixels, limits)
            row[...] = pixels if pixels.ndim == row.ndim else pixels[:, :, np.newaxis]
        files = [self._files[position] for position in index]
        has_labels = files[0].label is not None
        labels: Array | None = np.array([file.label for file in files]) if has_labels else None
        return Part(X, np.array(index), np.array([file.id for file in files]), labels)

    def _choose_color(self, images: Sequence[Decoded]) -> int:
        n_color = sum(image.is_color for image in images)
        mode = "rgb" if n_color else "gray"
        self.report.decisions["color"] = f"{mode}, as {n_color:,} of {len(images):,} images are in color"
        return 3 if n_color else 1

    def _fit_range(self, images: Sequence[Decoded]) -> Limits:
        """Return the range of all images with more than 8 bits, and record it."""
        known = [image.limits for image in images if image.limits is not None]
        if not known:
            return _SIXTEEN_BITS
        low, high = min(low for low, _ in known), max(high for _, high in known)
        self.plan["range"] = [low, high]
        self.report.decisions["range"] = (
            f"{len(known):,} gray images have more than 8 bits per pixel; their smallest value is black, their largest "
            f"white: data.range=[{low:g},{high:g}]"
        )
        return low, high

    def _list_unreadable(self) -> tuple[int, str]:
        more = len(self._unreadable) - _MAX_LISTED
        first = ", ".join(self._unreadable[:_MAX_LISTED])
        return len(self._unreadable), first + (f", and {more} more" if more > 0 else "")

    def _too_many_unreadable_error(self) -> UserError:
        n, names = self._list_unreadable()
        found = f"{n} of {len(self._files)} images cannot be read: {names}"
        expected = f"at most {self._max_unreadable} (data.max_unreadable={self._config.max_unreadable})"
        return input_error(self.source, found, expected, "repair or remove them, or raise data.max_unreadable")


class ImageFolder(ImageReader):
    """The images below a folder.

    Parameters
    ----------
    config : ImageFolderData
    key : str
        The setting that names the folder, for messages.
    plan, n_channels
        As for ``ImageReader``.

    Raises
    ------
    UserError
        If the folder does not exist or contains no images.
    """

    def __init__(
        self,
        config: ImageData,
        *,
        key: str = "data.path",
        plan: Mapping[str, Any] | None = None,
        n_channels: int | None = None,
    ) -> None:
        report = DataReport(f"{key}={config.path}")
        files = find_images(expand(config.path), report.source, report)
        if config.labels is not None:
            files = _label_by_folder(files, is_trained=n_channels is not None)
        super().__init__(config, files, report=report, plan=plan, n_channels=n_channels)


class ImageList(ImageReader):
    """The images that a CSV file lists.

    Parameters
    ----------
    config : ImageListData
    key : str
        The setting that names the file, for messages.
    plan, n_channels
        As for ``ImageReader``.

    Raises
    ------
    UserError
        If the file cannot be read, or its columns of paths and labels are not found.
    """

    def __init__(
        self,
        config: ImageListData,
        *,
        key: str = "data.path",
        plan: Mapping[str, Any] | None = None,
        n_channels: int | None = None,
    ) -> None:
        report = DataReport(f"{key}={config.path}")
        files = read_image_list(
            expand(config.path), report.source, config.images, config.labels, report, is_trained=n_channels is not None
        )
        super().__init__(config, files, report=report, plan=plan, n_channels=n_channels)


def _label_by_folder(files: Sequence[ImageFile], *, is_trained: bool) -> list[ImageFile]:
    """Return the files with the first folder of their path as label; unlabeled if a trained model gets loose images."""
    loose = next((file.id for file in files if os.sep not in file.id), None)
    if loose is None:
        return [file._replace(label=file.id.partition(os.sep)[0]) for file in files]
    if is_trained:
        return list(files)
    expected, remedy = "each image in a folder that names its class", "move it into one, or set data.labels=null"
    raise input_error("data.labels=folder", f"{loose} is in none", expected, remedy)
