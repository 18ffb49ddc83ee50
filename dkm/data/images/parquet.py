"""Images in a Parquet file: a column of encoded images, or of structs with ``bytes`` and ``path``."""

# Shapes: n images, H height, W width.

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dkm.config.data import ImageParquetData
from dkm.config.values import override
from dkm.data.features import chunked
from dkm.data.files import (
    Part,
    expand,
    find_column,
    format_of,
    missing_label_error,
    no_column_error,
    part_of,
    read_first_bytes,
)
from dkm.data.images.decoding import Decoded, Decoder, Limits, describe_notes, lost_bits_warnings, silence_pillow
from dkm.data.images.reader import SIXTEEN_BITS, choose_color, fit_range, stack_images
from dkm.data.images.rows import ImageRow, UnreadableImages
from dkm.data.report import DataReport
from dkm.data.stored import rows_per_part
from dkm.data.unpacking import UnpackingLimit, parquet_bytes, parquet_rows
from dkm.errors import UserError, input_error, reason

# The first bytes of the formats that people keep in tables.
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
# Rows that are read from the file together: 1,024 photos of a camera take gigabytes.
_ROWS_AT_ONCE = 128


class ImageParquet:
    """The images of a Parquet file; ``read`` or ``parts`` returns resized pixels, ``rows`` the encoded images.

    Parameters
    ----------
    config : ImageParquetData
    key : str
        The setting that names the file, for messages.
    plan : Mapping, optional
        ``range`` of a trained model: the values of 16-bit images that become black and white.
    n_channels : int, optional
        Number of channels of a trained model, 1 or 3. By default ``data.color`` and the images decide.
    is_trained : bool
        Whether rows are read for a trained model: columns of ids and labels may then be missing.

    Raises
    ------
    UserError
        If the file cannot be read, or has no column of images or several.
    """

    def __init__(
        self,
        config: ImageParquetData,
        *,
        key: str = "data.path",
        plan: Mapping[str, Any] | None = None,
        n_channels: int | None = None,
        is_trained: bool = False,
    ) -> None:
        self.source = f"{key}={config.path}"
        self._config = config
        self._n_channels = n_channels or {"auto": None, "gray": 1, "rgb": 3}[config.color]
        self._limits: Limits | None = None
        given = config.range or (plan or {}).get("range") or (SIXTEEN_BITS if is_trained else None)
        if given is not None:
            self._limits = (given[0], given[1])
        self.plan: dict[str, Any] = {}
        silence_pillow()
        self._place = expand(config.path, key)
        self._file = open_parquet(config.path, self.source, key, config.max_expansion)
        schema = self._file.schema_arrow
        self.image = self._find_image_column(schema)
        self._is_struct = _is_struct(schema.field(self.image).type)
        self._id = find_column("data.id", config.id, schema.names, self.source, is_trained=is_trained)
        self._labels = find_column("data.labels", config.labels, schema.names, self.source, is_trained=is_trained)
        self.n_rows = self._file.metadata.num_rows
        if not self.n_rows:
            raise input_error(self.source, "no rows", "one image or more", "check how the file was written")
        self._has_paths = self._id is None and self._first_path() is not None
        self.unreadable = UnreadableImages(self.source, self.n_rows, config.max_unreadable)
        self.report = DataReport(self.source, n_rows=self.n_rows, decisions=self._decisions())

    def _decisions(self) -> dict[str, str]:
        """Return how the file is read."""
        kind = "structs of bytes and path" if self._is_struct else "bytes"
        ids = f"column {self._id}" if self._id else "the path of each image" if self._has_paths else "none"
        return {"images": f"column {self.image} ({kind})", "ids": ids}

    def rows(self, start: int = 0) -> Iterator[ImageRow]:
        """Yield the images from row ``start``, not decoded."""
        columns = [name for name in (self.image, self._id, self._labels) if name is not None]
        groups, position = self._row_groups_from(start)
        try:
            n_rows = parquet_rows(self._place, self._file, columns, _ROWS_AT_ONCE)
            for batch in self._file.iter_batches(n_rows, groups, columns=list(dict.fromkeys(columns))):
                n_skipped = min(max(start - position, 0), batch.num_rows)
                batch, position = batch.slice(n_skipped), position + n_skipped
                images = batch.column(self.image).to_pylist()
                ids = None if self._id is None else batch.column(self._id).to_pylist()
                labels = None if self._labels is None else batch.column(self._labels).to_pylist()
                for i, image in enumerate(images):
                    content, path = (image or {}).get("bytes") if self._is_struct else image, None
                    if self._has_paths:
                        path = (image or {}).get("path") or ""
                    name = path if ids is None else "" if ids[i] is None else str(ids[i])
                    label = None if labels is None else self._check_label(labels[i], position)
                    yield ImageRow(position, content, name, label)
                    position += 1
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise unreadable_parquet_error(self.source, error) from error

    def _row_groups_from(self, start: int) -> tuple[list[int], int]:
        """Return the row groups from that of row ``start``, and the position of their first row."""
        metadata = self._file.metadata
        ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        first = int(np.searchsorted(ends, start, side="right"))
        return list(range(first, len(ends))), int(ends[first - 1]) if first else 0

    def read(self) -> Part:
        """Return all images, uint8: (n, H, W), or (n, H, W, 3) if any of them is in color."""
        (part,) = self._parts(self.n_rows)
        return part

    def parts(self, n_rows: int) -> Iterator[Part]:
        """Yield all images in parts of at most ``n_rows`` rows of the file, fewer if they are large."""
        return self._parts(rows_per_part(n_rows, self._config.image_size**2 * (self._n_channels or 3)))

    def _parts(self, n_rows: int) -> Iterator[Part]:
        decoder = Decoder(self._config.image_size, self._n_channels, self._config.background)

        def decode(row: ImageRow) -> Decoded | str:
            return "no bytes" if row.content is None else decoder.decode(row.content)

        rows = self.rows()
        n_read = 0
        notes: Counter[str] = Counter()
        with ThreadPoolExecutor() as pool:
            while n_read < self.n_rows:
                kept: list[ImageRow] = []
                images: list[Decoded] = []
                n_part = min(n_rows, self.n_rows - n_read)
                for start in range(0, n_part, _ROWS_AT_ONCE):
                    chunk = next(chunked(rows, min(_ROWS_AT_ONCE, n_part - start)))
                    for row, image in zip(chunk, pool.map(decode, chunk), strict=True):
                        if isinstance(image, str):
                            self.unreadable.add(row, image)
                        else:
                            kept.append(row._replace(content=None))
                            images.append(image)
                            notes.update(image.notes)
                n_read += n_part
                if kept:
                    limits = self._limits or fit_range([image.limits for image in images], self.plan, self.report)
                    n_channels = self._n_channels or choose_color([image.is_color for image in images], self.report)
                    yield part_of(kept, stack_images(images, n_channels, limits))
        self.report.decisions |= describe_notes(notes, self._config.background)
        self.report.odd = lost_bits_warnings(notes)
        self.unreadable.warn()

    def _find_image_column(self, schema: Any) -> str:
        names = [str(field.name) for field in schema if _is_struct(field.type) or _is_binary(field.type)]
        if self._config.image is not None:
            if self._config.image not in schema.names:
                raise no_column_error("data.image", self._config.image, schema.names, self.source)
            if self._config.image not in names:
                found = f"{self.source} has values of {schema.field(self._config.image).type} there"
                expected = "bytes of image files, or structs of bytes and path"
                raise input_error(f"data.image={self._config.image}", found, expected, "correct data.image")
            return self._config.image
        with_images = [name for name in names if _is_struct(schema.field(name).type) or self._begins_as_image(name)]
        if len(with_images) != 1:
            found = f"several columns with images: {', '.join(with_images)}" if with_images else "no column with images"
            expected = f"one of its columns {', '.join(schema.names)}"
            raise input_error(
                self.source, found, expected, f"set {override('data.image', (with_images or ['COLUMN'])[0])}"
            )
        return with_images[0]

    def _begins_as_image(self, name: str) -> bool:
        n_rows = parquet_rows(self._place, self._file, [name], _ROWS_AT_ONCE)
        for batch in self._file.iter_batches(batch_size=n_rows, columns=[name]):
            for value in batch.column(0).to_pylist():
                if value is not None:
                    return bool(value.startswith(_IMAGE_STARTS))
        return False

    def _first_path(self) -> str | None:
        """Return the path of the first struct that has one; None if there is none."""
        if not self._is_struct or self._file.schema_arrow.field(self.image).type.get_field_index("path") < 0:
            return None
        n_rows = parquet_rows(self._place, self._file, [self.image], _ROWS_AT_ONCE)
        for batch in self._file.iter_batches(batch_size=n_rows, columns=[f"{self.image}.path"]):
            for value in batch.column(0).to_pylist():
                if value and value.get("path"):
                    return str(value["path"])
        return None

    def _check_label(self, label: Any, position: int) -> str | int:
        if label is None:
            raise missing_label_error(self._config.labels, f"no label in row {position:,} (counted from 0)")
        return label if isinstance(label, int) and not isinstance(label, bool) else str(label)


def has_image_column(path: str) -> bool:
    """Return whether a Parquet file has a column of images that ``data=image_parquet`` reads by itself."""
    try:
        ImageParquet(ImageParquetData(path=path))
    except UserError:
        return False
    return True


def open_parquet(path: str, source: str, key: str, max_expansion: int) -> Any:
    """Return the ``pyarrow.parquet.ParquetFile``.

    Raises
    ------
    UserError
        If the file is missing or no Parquet file.
    """
    place = expand(path, key)
    expected = "a Parquet file"
    head = read_first_bytes(place, source, key, expected)
    if format_of(head) != "parquet":
        raise input_error(source, "not a Parquet file", expected, "write it with pandas' DataFrame.to_parquet")
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(place)
    except (OSError, ValueError) as error:
        raise unreadable_parquet_error(source, error) from error
    UnpackingLimit(source, max_expansion).check_file(parquet_bytes(file), place)
    return file


def unreadable_parquet_error(source: str, error: Exception) -> UserError:
    return input_error(source, f"cannot be read ({reason(error)})", "a complete Parquet file", "write or copy it again")


def _is_binary(dtype: Any) -> bool:
    from pyarrow import types

    return (
        bool(types.is_binary(dtype) or types.is_large_binary(dtype) or types.is_fixed_size_binary(dtype))
        or str(dtype) == "binary_view"
    )


def _is_struct(dtype: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(dtype)) and any(
        field.name == "bytes" and _is_binary(field.type) for field in (dtype.field(i) for i in range(dtype.num_fields))
    )
