"""Read the user's own image files, of a folder or a list, resized to one size, gray or in color.

Files that cannot be read are logged and left out; if their fraction exceeds ``data.max_unreadable``, and for every
other error, a one-line ``UserError`` is raised.
"""

# Shapes: n images, H height, W width.

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dkm.config.data import ImageData, ImageListData
from dkm.data.files import NpyFiles, Part, expand
from dkm.data.images.decoding import (
    Decoded,
    Decoder,
    Limits,
    describe_notes,
    lost_bits_warnings,
    silence_pillow,
    to_bytes,
)
from dkm.data.images.paths import ImageFile, escape_name, find_images, read_image_list
from dkm.data.raw import RawData, from_part
from dkm.data.report import DataReport, LeftOut
from dkm.data.scaling import Array
from dkm.data.stored import StoredArray, is_large, rows_per_part
from dkm.errors import UserError, first_of, input_error, reason
from dkm.runtime.atomic import replacing, write_atomically
from dkm.runtime.locks import acquire, holder_of

log = logging.getLogger(__name__)

_MAX_LISTED = 10
_FILES_AT_ONCE = 1024
# Range of images with more than 8 bits where no data of the model tell it: that of 16 bits.
SIXTEEN_BITS: Limits = (0.0, 65535.0)
_BYTES: Limits = (0.0, 255.0)
_CACHE_VERSION = 2
_PAUSE_S = 0.1


def read_images(config: ImageData) -> RawData:
    """Read a folder or a list of images for training."""
    reader = open_images(config)
    n_values = reader.n_rows * config.image_size**2 * (1 if config.color == "gray" else 3)
    if config.load == "memory" or (config.load == "auto" and not is_large(n_values)):
        return from_part(reader.read(), value_range=_BYTES, plan=reader.plan, report=reader.report)
    stored, index = _stored_images(reader, config)
    part = reader.select(np.empty(0), index)
    raw = from_part(part, value_range=_BYTES, plan=reader.plan, report=reader.report)
    return raw._replace(X=stored)


def _stored_images(reader: ImageReader, config: ImageData) -> tuple[StoredArray, Sequence[int]]:
    """Return the decoded images in the cache file, which is written if it does not exist, and their positions.

    The name of the file is a hash of the settings and of the place, size and times of each image file. Beside it a JSON
    file has what the reader decided.
    """
    folder = expand(config.root) / "images"
    path = folder / f"{reader.fingerprint()}.npy"
    notes = path.with_suffix(".json")
    try:
        if not notes.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock"), reader.source):
                if not notes.exists():
                    _write_cache(reader, path, notes)
        state = json.loads(notes.read_text(encoding="utf-8"))
    except OSError as error:
        found = f"the cache of decoded images cannot be written ({reason(error)})"
        remedy = "set data.root=FOLDER, or data.load=memory"
        raise input_error(f"data.root={config.root}", found, "a folder to write to", remedy) from error
    reader.plan, reader.report.decisions = state["plan"], state["report"]["decisions"]
    reader.report.odd = list(dict.fromkeys([*reader.report.odd, *state["report"]["odd"]]))
    reader.report.left_out = [LeftOut(**part) for part in state["report"]["left_out"]]
    reader.report.decisions["cache"] = f"the decoded images are in {path}"
    return StoredArray(NpyFiles("data.root", str(path))), state["index"]


def _write_cache(reader: ImageReader, path: Path, notes: Path) -> None:
    with replacing(path, is_shared=True) as temporary:
        index = reader.store(temporary)
    state = {"index": list(index), "plan": reader.plan, "report": reader.report.to_dict()}
    write_atomically(notes, json.dumps(state).encode(), is_shared=True)


@contextlib.contextmanager
def _locked(path: Path, source: str) -> Iterator[None]:
    """Wait until no other process holds the lock: a second one must not replace a file that the first trains on."""
    is_told = False
    while (lock := acquire(path)) is None:
        if not is_told:
            log.info("%s: waiting for %s, which decodes the same images", source, holder_of(path))
            is_told = True
        time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        lock.release()


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
        self.files = files
        self._limits: Limits | None = None
        if config.range is not None:
            self._limits = (config.range[0], config.range[1])
        elif plan is not None and plan.get("range") is not None:
            self._limits = (plan["range"][0], plan["range"][1])
        elif n_channels is not None:
            self._limits = SIXTEEN_BITS
        self._n_channels = n_channels or {"auto": None, "gray": 1, "rgb": 3}[config.color]
        self._decoder = Decoder(config.image_size, self._n_channels, config.background)
        self._max_unreadable = int(config.max_unreadable * len(files))
        self._unreadable: list[str] = []
        self._notes: Counter[str] = Counter()
        self.n_rows = report.n_rows = len(files)
        silence_pillow()

    def read(self) -> Part:
        """Return all images, uint8: (n, H, W), or (n, H, W, 3) if any of them is in color."""
        parts = list(self._parts(len(self.files)))
        if not parts:
            raise self._too_many_unreadable_error()
        self._complete_report()
        return parts[0]

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all images in parts of at most ``n_rows`` files, fewer if they are large."""
        return self._parts(rows_per_part(n_rows, self._config.image_size**2 * (self._n_channels or 3)))

    def _parts(self, n_rows: int) -> Iterator[Part]:
        for images, index in self._decode(n_rows):
            limits = self._limits or fit_range([image.limits for image in images], self.plan, self.report)
            n_channels = self._n_channels or choose_color([image.is_color for image in images], self.report)
            yield self.select(stack_images(images, n_channels, limits), index)
        self._describe_notes()

    def store(self, path: Path) -> Sequence[int]:
        """Write all images to a ``.npy`` file, as ``read`` returns them; return their positions.

        Color and range depend on all images. Until both are known, the images are kept in a temporary file, in color;
        those with more than 8 bits are decoded once more.
        """
        positions: list[int] = []
        limits: list[Limits | None] = []
        is_color: list[bool] = []
        with tempfile.TemporaryFile(dir=path.parent) as rows:
            for images, index in self._decode(_FILES_AT_ONCE):
                rows.write(stack_images(images, 3, self._limits or SIXTEEN_BITS).data)
                positions += index
                limits += [image.limits for image in images]
                is_color += [image.is_color for image in images]
            if not positions:
                raise self._too_many_unreadable_error()
            n_channels = self._n_channels or choose_color(is_color, self.report)
            is_fitted = self._limits is None
            self._limits = self._limits or fit_range(limits, self.plan, self.report)
            self._complete_report()
            side = self._config.image_size
            shape = (side, side) if n_channels == 1 else (side, side, 3)
            rows.seek(0)
            with path.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(positions), *shape)}
                np.lib.format.write_array_header_1_0(file, header)
                for position, own_limits in zip(positions, limits, strict=True):
                    pixels = np.frombuffer(rows.read(side * side * 3), np.uint8).reshape(side, side, 3)
                    if is_fitted and own_limits is not None:
                        pixels = self._decode_again(position)
                    file.write(np.ascontiguousarray(pixels[:, :, 0] if n_channels == 1 else pixels).data)
        return positions

    def select(self, X: Array, index: Sequence[int]) -> Part:
        """Return the images ``X`` of the files at the positions ``index``, with their ids and labels."""
        files = [self.files[position] for position in index]
        has_labels = files[0].label is not None
        labels: Array | None = np.array([file.label for file in files]) if has_labels else None
        return Part(X, np.array(index), np.array([file.id for file in files]), labels)

    def fingerprint(self) -> str:
        """Return a hash of the settings that decide the pixels and of the place, size and times of each file.

        Size and time of the content alone may be those of other images: copies keep their times.
        """
        import PIL

        config = self._config
        settings = [config.image_size, config.color, config.background, config.range, config.max_unreadable]
        digest = hashlib.sha256(json.dumps([_CACHE_VERSION, PIL.__version__, *settings]).encode())
        for file in self.files:
            try:
                state = file.path.stat()
                times = f"{state.st_mtime_ns}\0{state.st_ctime_ns}"
                identity = f"{file.id}\0{state.st_size}\0{times}\0"
                digest.update(os.fsencode(file.path.absolute()) + b"\0")
            except (OSError, ValueError):
                identity = f"{file.id}\0missing\0"
            digest.update(identity.encode())
        return digest.hexdigest()[:32]

    def _decode(self, n_rows: int) -> Iterator[tuple[list[Decoded], list[int]]]:
        """Yield the readable images of at most ``n_rows`` files each, and their positions."""
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.files), n_rows):
                files = self.files[start : start + n_rows]
                images: list[Decoded] = []
                index: list[int] = []
                for first in range(0, len(files), _FILES_AT_ONCE):  # stops early if there are too many bad files
                    chunk = [file.path for file in files[first : first + _FILES_AT_ONCE]]
                    for position, image in enumerate(pool.map(self._decoder.decode, chunk), start + first):
                        if isinstance(image, str):
                            self._unreadable.append(f"{self.files[position].id} ({image})")
                        else:
                            images.append(image)
                            index.append(position)
                            self._notes.update(image.notes)
                    if len(self._unreadable) > self._max_unreadable:
                        raise self._too_many_unreadable_error()
                if images:
                    yield images, index
        if self._unreadable:
            log.warning("%s: %d images cannot be read and are left out: %s", self.source, *self._list_unreadable())

    def _decode_again(self, position: int) -> Array:
        image = self._decoder.decode(self.files[position].path)
        if isinstance(image, str) or self._limits is None:
            found = f"{self.files[position].id} changed while it was read"
            raise input_error(self.source, found, "files that stay as they are", "start the command again")
        (pixels,) = stack_images([image], 3, self._limits)
        return np.asarray(pixels)

    def _describe_notes(self) -> None:
        self.report.decisions |= describe_notes(self._notes, self._config.background)
        self.report.odd = list(dict.fromkeys([*self.report.odd, *lost_bits_warnings(self._notes)]))

    def _complete_report(self) -> None:
        self._describe_notes()
        self.report.leave_out("images", len(self._unreadable), "cannot be read", self._unreadable)

    def _list_unreadable(self) -> tuple[int, str]:
        return len(self._unreadable), first_of(self._unreadable, _MAX_LISTED)

    def _too_many_unreadable_error(self) -> UserError:
        n, names = self._list_unreadable()
        found = f"{n} of {len(self.files)} images cannot be read: {names}"
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
        If the folder does not exist or contains no images. A trained model also takes a single image.
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
        place = expand(config.path, key)
        if plan is not None and place.is_file():  # one image to assign
            files = [ImageFile(escape_name(place.name), place)]
        else:
            files = find_images(place, report.source, report)
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
            expand(config.path, key),
            report.source,
            config.images,
            config.labels,
            report,
            is_trained=n_channels is not None,
        )
        super().__init__(config, files, report=report, plan=plan, n_channels=n_channels)


def open_images(config: ImageData, **how: Any) -> ImageReader:
    """Return the reader of a folder or a list of images; ``how`` as for ``ImageFolder``."""
    return ImageList(config, **how) if isinstance(config, ImageListData) else ImageFolder(config, **how)


def choose_color(is_color: Sequence[bool], report: DataReport) -> int:
    """Return the number of channels, 1 or 3, for images that are gray or in color, and record it."""
    mode = "rgb" if any(is_color) else "gray"
    report.decisions["color"] = f"{mode}, as {sum(is_color):,} of {len(is_color):,} images are in color"
    return 3 if any(is_color) else 1


def fit_range(limits: Sequence[Limits | None], plan: dict[str, Any], report: DataReport) -> Limits:
    """Return the range of all images with more than 8 bits, and record it."""
    known = [pair for pair in limits if pair is not None]
    if not known:
        return SIXTEEN_BITS
    low, high = min(low for low, _ in known), max(high for _, high in known)
    plan["range"] = [low, high]
    report.decisions["range"] = (
        f"{len(known):,} gray images have more than 8 bits per pixel; their smallest value is black, their largest "
        f"white: data.range=[{low:g},{high:g}]"
    )
    return low, high


def stack_images(images: Sequence[Decoded], n_channels: int, limits: Limits) -> Array:
    """Return images as uint8 (n, H, W), or (n, H, W, 3) for three channels."""
    side = images[0].pixels.shape[0]
    X = np.empty((len(images), side, side) if n_channels == 1 else (len(images), side, side, 3), np.uint8)
    for row, image in zip(X, images, strict=True):
        pixels = image.pixels if image.limits is None else to_bytes(image.pixels, limits)
        row[...] = pixels if pixels.ndim == row.ndim else pixels[:, :, np.newaxis]
    return X


def _label_by_folder(files: Sequence[ImageFile], *, is_trained: bool) -> list[ImageFile]:
    """Return the files with the first folder of their path as label; unlabeled if a trained model gets loose images."""
    loose = next((file.id for file in files if os.sep not in file.id), None)
    if loose is None:
        return [file._replace(label=file.id.partition(os.sep)[0]) for file in files]
    if is_trained:
        return list(files)
    expected, remedy = "each image in a folder that names its class", "move it into one, or set data.labels=null"
    raise input_error("data.labels=folder", f"{loose} is in none", expected, remedy)
