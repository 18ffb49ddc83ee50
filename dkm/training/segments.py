"""The segments of a run: what each process that trained a part of it was made with, as the manifest keeps it.

The last bits of the results depend on packages, processor, device and threads; a run that is resumed with others than
before is not quite the run that was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# The entries of a manifest, of its git state, and the packages, that the last bits of the results depend on.
_DECIDING = ("device", "processor", "threads", "processes")
_DECIDING_GIT = ("commit", "dirty")
_DECIDING_PACKAGES = ("dkm", "torch", "numpy", "scikit-learn", "scipy")
_ENTRIES = ("started", "python", "platform", "versions", "git", "threads", "processes", "device", "processor")


def earlier_segments(manifest: Mapping[str, Any]) -> list[Any]:
    """Return the segments in a manifest; those of earlier versions have the last one, without its first step."""
    segments = manifest.get("segments")
    if isinstance(segments, list):
        return segments
    last = {key: manifest[key] for key in _ENTRIES if key in manifest}
    return [{"step": None, **last}] if "versions" in last else []


def changes_between(earlier: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Return what the last bits of the results depend on and has changed, such as "torch 2.9.1 (before: 2.8.0)"."""
    before, now = (dict(_deciding(manifest)) for manifest in (earlier, present))
    return [f"{key} {now[key]} (before: {before[key]})" for key in now if before.get(key, now[key]) != now[key]]


def _deciding(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    versions, git = manifest.get("versions"), manifest.get("git")
    for entries, keys in ((versions, _DECIDING_PACKAGES), (git, _DECIDING_GIT), (manifest, _DECIDING)):
        if isinstance(entries, Mapping):
            yield from ((key, entries[key]) for key in keys if key in entries)
