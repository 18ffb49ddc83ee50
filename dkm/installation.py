"""The version of this package, and the commands that install what it lacks.

Only the standard library is imported: every room may use this, and ``import dkm`` does.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

# The build reads it here, so a checkout that is not installed knows it too.
VERSION = "0.2.0"
# The package is called `dkm`. A distribution of that name on the public index belongs to another project.
DISTRIBUTION = "deepkmeans"


def install_command(extra: str) -> str:
    """Return the shell command that installs the packages of an extra into the environment of this process.

    It names the packages themselves. So it holds for a checkout and for a wheel, whether or not an index has the
    distribution, and in any working directory.
    """
    return pip_install(*_requirements(extra))


def pip_install(*arguments: str) -> str:
    """Return the shell command that installs packages into the environment of this process."""
    pip = shutil.which("pip")
    if pip is not None and Path(pip).parent == Path(sys.executable).parent:
        words = ["pip", "install"]
    elif find_spec("pip") is not None:
        words = [sys.executable, "-m", "pip", "install"]
    else:  # an environment that uv made
        words = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*words, *arguments])


def _requirements(extra: str) -> list[str]:
    """Return the requirements of an extra, from the checkout or else from the installed distribution."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    if project.is_file():
        import tomllib

        table = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if table.get("name") == DISTRIBUTION:
            return list(table["optional-dependencies"][extra])
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # the folder of the package was copied somewhere
        lines = []
    halves = (line.partition(";") for line in lines)
    names = [name.strip() for name, _, marker in halves if marker.strip().replace('"', "'") == f"extra == '{extra}'"]
    return names or [f"{DISTRIBUTION}[{extra}]"]
