"""The folder of downloaded data sets, and the error for data sets that are not available."""

# Shapes: N samples, F features, C channels, H height, W width; F = C * H * W for images.

from __future__ import annotations

import errno
import os
from http.client import HTTPException
from pathlib import Path

from dkm.config.data import DataConfig
from dkm.data.files import expand
from dkm.errors import UserError, input_error, reason

# The errors of torchvision and urllib without a network, without permission, or on a damaged file.
FETCH_ERRORS = (OSError, RuntimeError, EOFError, ValueError, LookupError, AssertionError, HTTPException)


def root_of(config: DataConfig) -> Path:
    return expand(config.root).absolute()


def unavailable(config: DataConfig, files: tuple[str, ...], error: BaseException) -> UserError:
    """Return the error of a data set that cannot be read or downloaded; it names the files and their folder."""
    root = root_of(config)
    found = f"{config.name} can neither be read there nor downloaded ({reason(error)})"
    expected = f"{', '.join(files)} below it"
    remedy = "put them there, over damaged ones, or set data.root or DKM_DATA_ROOT to the folder that has them"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        is_packed = all(os.access(root / file, os.R_OK) for file in files)
        state = "is there, but only packed, and cannot be unpacked" if is_packed else "cannot be read or stored there"
        found = f"{config.name} {state} ({error.strerror}: {error.filename})"
        expected = "a folder that can be read and written, or one with the unpacked files"
        remedy = "set data.root or DKM_DATA_ROOT to a copy that you may write to"
    return input_error(f"data.root={root}", found, expected, remedy)
