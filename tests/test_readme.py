"""The README's code runs and its commands compose."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from dkm.clustering import kmeans_loss
from dkm.compose import compose, parse
from dkm.config import GROUPS, dotted

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^    python -m dkm\.train(.*)$", README, re.M) + re.findall(
    r"`python -m dkm\.train ([^`]*)`", README
)


def test_the_ten_lines_are_the_loss() -> None:
    names: dict[str, Any] = {"torch": torch}
    exec(BLOCKS[0], names)
    assert len(BLOCKS[0].strip().splitlines()) <= 10
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    c = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    loss, ours = names["kmeans_loss"](z, c), kmeans_loss(z, c)
    assert loss.item() == pytest.approx(ours.item(), rel=1e-12)
    for mine, theirs in zip(torch.autograd.grad(ours, [z, c]), torch.autograd.grad(loss, [z, c]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_pieces_train_on_their_own() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[1], names)
    assert names["clustering"].centroids.grad.abs().sum() > 0
    assert names["encoder"].weight.grad.abs().sum() > 0


# The others are run as a whole in test_config.py and test_resume.py.
@pytest.mark.parametrize("command", [c for c in COMMANDS if not re.search(r"--cfg|--multirun|--config-dir|resume=", c)])
def test_each_command_composes(command: str) -> None:
    compose(parse(shlex.split(command)))


def test_the_commands_were_found() -> None:
    assert len(COMMANDS) >= 5


def test_the_table_of_groups_is_complete() -> None:
    for group, options in GROUPS.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
        assert set(re.findall(r"`([a-z_0-9]+)`", row)) == {group, *options}


def test_the_table_of_keys_names_keys_that_exist() -> None:
    known = dotted(compose(parse([])).config)
    table = README.partition("| key | default | meaning |")[2].partition("\n\n")[0]
    keys = [name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1])]
    for key in keys:
        assert any(name == key or name.endswith(key) for name in known), key


def test_the_file_map_has_every_module() -> None:
    modules = {path.name for path in (ROOT / "dkm").glob("*.py")} - {"__init__.py"}
    table = README.partition("| file of `dkm/` |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+\.py)`", table)) == modules
