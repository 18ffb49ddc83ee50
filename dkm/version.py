"""``dkm version``: print the version."""

from __future__ import annotations

from importlib import import_module


def main() -> None:
    """Print the version."""
    print(import_module("dkm").__version__)


if __name__ == "__main__":
    main()
