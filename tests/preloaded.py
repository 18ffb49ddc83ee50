"""What the server of ``processes.py`` imports and prepares once, for all the processes that it forks.

Only imports and a composed config: it computes nothing, since threads of torch do not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
from pathlib import Path

import dkm
from dkm.config.compose import compose, parse

for _name in (
    *("torch._dynamo", "torch.utils.serialization", "torch.utils.tensorboard"),
    *("sklearn.datasets", "sklearn.metrics", "sklearn.neighbors", "scipy.io"),
    *("dkm.data.datasets", "dkm.data.builtin.generated", "dkm.data.builtin.torchvision", "dkm.data.images.reader"),
    *("dkm.models.mlp", "dkm.clustering.losses.kmeans", "dkm.evaluation.figures", "dkm.reports.page"),
    *("dkm.training.trainer", "dkm.training.resume", "dkm.training.launch", "dkm.train"),
):
    importlib.import_module(_name)
from dkm.runtime.environment import git_state, versions  # noqa: E402

git_state(Path(dkm.__file__).parent)  # asked once, not by each process
versions()
compose(parse([]))  # the plugins and schemas of Hydra
gc.collect()
gc.freeze()  # a forked process does not visit these objects, so their pages stay shared
