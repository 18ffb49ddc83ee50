"""Tab completion as the README installs it, in a real bash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
ASK = """
{install}
complete -p dkm-train > /dev/null || exit 1
for line in "dkm-train clustering=" "dkm-train joint.lr=0.1 joint.av" "dkm-train experiment=flag"; do
    COMP_LINE=$line COMP_POINT=${{#line}} COMP_WORDS=($line) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
done
"""


@pytest.mark.skipif(
    shutil.which("bash") is None or not (BIN / "dkm-train").exists(), reason="no bash, or not installed"
)
def test_groups_keys_and_experiments_are_completed() -> None:
    (install,) = re.findall(r"`(eval \"\$\(dkm-train -sc install=bash\)\")`", README)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", ASK.format(install=install)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    groups, keys, experiments = done.stdout.splitlines()
    options = ("custom", "dcn", "dec", "dkm", "idec", "kmeans", "none")
    assert groups.split() == [f"clustering={option}" for option in options]
    assert keys.split() == ["joint.average_epochs="]
    assert experiments.split() == [f"experiment=flagship_{name}" for name in ("digits", "mnist", "usps")]
