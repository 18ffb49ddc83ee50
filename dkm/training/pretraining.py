"""Share pretrainings between runs: adopt one from ``pretrain.cache``, and keep a new one there."""

from __future__ import annotations

import logging
from typing import Any

from dkm.errors import Failure
from dkm.models.autoencoder import Autoencoder
from dkm.runs.directory import RunWriter
from dkm.training.cache import Cache
from dkm.training.recorder import Recorder
from dkm.training.state import Progress

log = logging.getLogger(__name__)


def adopt_pretraining(
    pretraining: dict[str, Any], autoencoder: Autoencoder, progress: Progress, recorder: Recorder
) -> None:
    """Continue from the end of a pretraining of an earlier run, as if this run had made it.

    Parameters
    ----------
    pretraining : dict
        Entry of the cache.
    autoencoder : Autoencoder
        Gets the weights.
    progress : Progress
        Gets the position and the seconds.
    recorder : Recorder
        Writes the records.
    """
    autoencoder.load_state_dict(pretraining["autoencoder"])
    n_epochs, seconds = pretraining["epoch"], pretraining["seconds"]
    progress.state.epoch, progress.state.step = n_epochs, pretraining["step"]
    progress.clock.credit({"pretrain": seconds})
    for record in pretraining["metrics"]:
        recorder.numbers(record, progress)
    recorder.run.update_manifest(seconds=progress.seconds, pretrained_by=pretraining["run"])
    log.info("pretrain: %d epochs taken from pretrain.cache (%.0f s there)", n_epochs, seconds)


def keep_pretraining(cache: Cache, autoencoder: Autoencoder, progress: Progress, run: RunWriter) -> None:
    """Store the finished pretraining of this run in the cache."""
    key = cache.key("pretrained")
    # A run that was made longer, or resumed on another machine, is not what the key says.
    if not run.is_written or key is None or progress.cache_key != key:
        return
    pretraining = {
        "autoencoder": autoencoder.state_dict(),
        "run": str(run.path),
        "metrics": run.read_metrics(),
        "epoch": progress.epoch,
        "step": progress.step,
        "seconds": progress.seconds["pretrain"],
    }
    cache.keep(key, pretraining)


def load_pretrained(autoencoder: Autoencoder, cache: Cache) -> None:
    """Load the weights that a run of the config of ``cache`` had after the pretraining.

    Raises
    ------
    Failure
        If the cache has no such pretraining.
    """
    pretraining = cache.find(cache.key("pretrained"))
    if pretraining is None:
        raise Failure(f"pretrain.cache={cache.folder}: has no pretraining of this config; train again")
    autoencoder.load_state_dict(pretraining["autoencoder"])
