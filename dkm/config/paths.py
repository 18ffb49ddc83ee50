"""Paths in settings: local ones, and addresses of files elsewhere such as ``s3://bucket/table.parquet``."""

from __future__ import annotations

import os
import re

_ADDRESS = re.compile(r"([a-z][a-z0-9+.\-]+)://")


def scheme_of(path: str) -> str | None:
    """Return ``s3`` for ``s3://bucket/file``, None for a local path."""
    match = _ADDRESS.match(path)
    return None if match is None else match[1]


def absolute(path: str) -> str:
    """Return an absolute path; an unknown ``~user`` is not expanded, and an address such as ``s3://`` stays."""
    if scheme_of(path) is not None:
        return path
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  # pathlib raises for unknown users
