"""The training run: pretrain the autoencoder, cluster its embedding, train both together, report.

``Trainer.run`` is the whole story and ``Trainer._train_epoch`` the one loop of both phases. Where a run stands is a
``Position``; everything random is a function of the seed and the position, so that a checkpoint needs no generator
state and a resumed run ends with the same bits as one that was never stopped.
"""

# Shapes: N samples, B batch, F input features, D latent, K clusters.

from __future__ import annotations

import logging
import math
import time
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dkm.clustering import initialization
from dkm.clustering.assignment import assign
from dkm.clustering.labels import cluster_sizes
from dkm.clustering.lloyd import kmeans, lowest_inertia
from dkm.clustering.methods import build_clustering
from dkm.config.clustering import JointClusteringConfig
from dkm.config.run import Config, PhaseConfig
from dkm.config.schema import RESUMABLE, dotted, flatten, to_dict
from dkm.data.augmentation import build_augmentation
from dkm.data.batches import build_batches, stream_seed
from dkm.data.datasets import Dataset, load_dataset
from dkm.errors import Failure, UserError
from dkm.evaluation import evaluator, report
from dkm.evaluation.evaluator import Scores
from dkm.evaluation.figures import plane
from dkm.models.autoencoder import mix_encoder
from dkm.models.build import build_autoencoder
from dkm.models.saved import SavedModel
from dkm.runs.directory import RunWriter
from dkm.runtime import checkpoints, distributed
from dkm.runtime.devices import deterministic, find_device, require_compiler
from dkm.runtime.environment import versions
from dkm.runtime.signals import Interrupted, Signals, signals_handled
from dkm.training.cache import Cache
from dkm.training.objective import LossTerms
from dkm.training.optimizers import learning_rate, reset_rows
from dkm.training.phase import Learner
from dkm.training.recorder import Recorder
from dkm.training.state import Position

log = logging.getLogger(__name__)

_TERMS = LossTerms._fields
# Several processes agree to stop at every so many steps: a request has a second to spare, a message each step has not.
_STEPS_BETWEEN_POLLS = 8


class NonFiniteLoss(Exception):
    """A loss term became nan or inf; the update was not made."""


class Trainer:
    """A run, ready to start.

    Raises
    ------
    UserError
        If the config does not fit the data or the machine. Nothing is written before ``run``.
    """

    def __init__(self, config: Config, data: Dataset) -> None:
        self.config = config
        self.n_clusters = _n_clusters(config, data)
        self.device = find_device(config.device)
        if config.compile:
            require_compiler(self.device)
        if config.log.figures and not plane.is_available(config.log.map):
            what = f"log.map={config.log.map}: expected its package"
            raise UserError(f"{what}; install it: pip install 'dkm[{config.log.map}]', or choose log.map=tsne")
        self.data = data
        self.batches = build_batches(data.X, config.batch_size, config.seed, self.device)
        self._require_rows_for_all()
        self.augment = build_augmentation(config.augmentation, data.image_shape)
        self.latent_dim = config.model.latent_dim or self.n_clusters
        self.autoencoder = build_autoencoder(
            config.model, data.n_features, data.image_shape, self.latent_dim, config.seed
        ).to(self.device)
        kind = config.clustering
        self.clustering = build_clustering(
            kind, self.n_clusters, self.latent_dim, data.n_samples, config.joint.epochs
        ).to(self.device)
        self._given_start: np.ndarray | None = None
        if kind.init_file is not None:
            self._given_start = initialization.read(kind.init_file, data.n_samples, self.n_clusters, self.latent_dim)
        self.evaluator = evaluator.Evaluator(data, self.batches, self.n_clusters, config.evaluation)
        self.cache = Cache(config, data, n_clusters=self.n_clusters, latent_dim=self.latent_dim, device=self.device)
        self.at = Position()
        self._n_batches = self.batches.n_batches
        # One row per step of the epoch: the terms, and the gradient norm where it was taken. Read once per epoch, so
        # that no step waits for the device.
        self._terms = torch.full((self._n_batches, len(_TERMS) + 1), math.nan, device=self.device)
        self._centroids_before = torch.zeros(self.n_clusters, self.latent_dim)
        self._saved_at_s = time.monotonic()
        self._signals = Signals()
        # Of the phase that is under way; until it is, what a checkpoint has of it.
        self._learner: Learner | None = None
        self._learner_state: dict[str, Any] = {"optimizer": None, "average": None}
        self._metrics_bytes = 0
        self._is_restored = False
        self._is_state_half_done = False

    # --- the run ---

    def run(self, run: RunWriter) -> dict[str, Any]:
        """Train from the start, or from what was restored, to the result; return ``result.json``'s content.

        Raises
        ------
        Interrupted
            After SIGINT or SIGTERM; a checkpoint was written.
        NonFiniteLoss
            The last good checkpoint is kept.
        RankLost
            Another process of the job ended; a checkpoint was written.
        UserError
            The data changed while the run read them; a checkpoint was written.
        """
        self.run_dir = run
        self.recorder = Recorder(run, self.config, self.evaluator, self.autoencoder, self.clustering)
        is_alone = not distributed.is_several()
        with signals_handled(is_alone=is_alone) as self._signals, deterministic(self.config.deterministic):
            self.recorder.start(self._init_sample(), metrics_bytes=self._metrics_bytes, is_resumed=self._is_restored)
            try:
                return self._run_to_result()
            except BaseException as error:
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                reason = "signal" if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
                self.recorder.end(status, reason, self.at)
                raise

    def _run_to_result(self) -> dict[str, Any]:
        try:
            with distributed.peers_needed():
                if self.at.raw is None and self.config.evaluation.kmeans_raw:
                    self._score_raw_data()
                if self.at.phase_idx == 0:
                    self._pretrain()
                    self._initialize_clusters()
                if isinstance(self.config.clustering, JointClusteringConfig):
                    self._run_phase(self.config.joint)
                with self._averaged():
                    result = self._finish()
                average = None if self._learner is None else self._learner.average
                if average is not None:  # what the trainer has from here on is what was reported
                    average.adopt()
                return result
        except (Interrupted, distributed.RankLost, UserError):
            self._save()
            raise

    def _score_raw_data(self) -> None:
        """Find the scores of k-means on the data themselves, the baseline; rank 0 has them."""
        key = self.cache.key("raw")
        found = self.cache.find(key)
        if found is None:
            self.at.raw = self._cluster_raw_data()
            if self.run_dir.is_written:
                self.cache.keep(key, {"scores": self.at.raw})
        else:
            self.at.raw = found["scores"]
            log.info("k-means on the raw data: %s (from pretrain.cache)", report.line(found["scores"]))
        self._save()

    def _cluster_raw_data(self) -> Scores:
        start_s = time.perf_counter()
        K, kind = self.n_clusters, self.config.clustering
        sample = evaluator.sample_of(self.data, kind.init_samples, least=K)
        scores: Scores = {}
        with self._signals.interruptible():
            centroids = torch.zeros(K, self.data.n_features, device=self.device)
            if distributed.is_main():
                X = self.batches.take(sample)
                found = kmeans(X, K, n_init=kind.n_init, seed=self.config.seed)
                labels, inertia = found.labels, found.inertia
                centroids = found.centroids
            if sample is not None:
                distributed.broadcast_(centroids)
                every = evaluator.every_row(lambda x: torch.stack(tuple(assign(x, centroids)), 1), self.batches, 2)
                labels, inertia = every[:, 0].long(), every[:, 1].sum(dtype=torch.float64).item()
            if distributed.is_main():
                scores = self.evaluator.scores(self.evaluator.X, labels.cpu().numpy(), inertia)
                scores["silhouette_data"] = scores["silhouette"]
                scores["modularity_data"] = self.evaluator.modularity_data(labels.cpu().numpy())
                log.info("k-means on the raw data: %s (%.1f s)", report.line(scores), time.perf_counter() - start_s)
        return scores

    def _init_sample(self) -> Tensor | None:
        """Return the rows of the embedding that k-means sees, None for all."""
        return evaluator.sample_rows(self.data.n_samples, self.config.clustering.init_samples)

    def _initialize_clusters(self) -> None:
        """Cluster the embedding: the step between the phases."""
        with self._signals.interruptible():
            z = evaluator.encode(self.autoencoder, self.batches)
            start: initialization.Start | None = None
            pretrained: Scores = {}
            if distributed.is_main():
                start, pretrained = self._cluster_embedding(z)
            start = self._of_main(start)
        self._start_from(start, z)
        at = self.at
        at.pretrained = pretrained
        at.phase_idx, at.epoch, at.batch, at.step = 1, 0, 0, at.step + 1
        self._learner = None
        self._save()

    def _of_main(self, start: initialization.Start | None) -> initialization.Start:
        """Return rank 0's clusters on every rank; the others have None."""
        if start is None:
            clustering = self.clustering
            start = initialization.Start(
                torch.zeros_like(clustering.centroids), torch.zeros_like(clustering.assignments)
            )
        for value in start:
            distributed.broadcast_(value)
        return start

    def _start_from(self, start: initialization.Start, z: Tensor) -> None:
        with torch.no_grad():
            self.clustering.centroids.copy_(start.centroids)
            self.clustering.assignments.copy_(start.labels)
        self.clustering.start(z)

    def _cluster_embedding(self, z: Tensor) -> tuple[initialization.Start, Scores]:
        """Return the clusters of z (N, D) to start from, and the scores of plain k-means."""
        kind, seed = self.config.clustering, self.config.seed
        restarts = initialization.restarts(z, self.n_clusters, kind, self._init_sample(), seed)
        plain = initialization.of_all_points(z, lowest_inertia(restarts))
        scores: Scores = {}
        if self.run_dir.is_written:
            Z, labels = self.evaluator.sampled(z), plain.labels.cpu().numpy()
            scores = self.evaluator.scores(Z, labels, plain.inertia, on_data=True)
            log.info("k-means on the embedding: %s", report.line(scores))
        return initialization.start(z, restarts, kind, self._given_start, seed), scores

    @property
    def _reset_every(self) -> int | None:
        return getattr(self.config.clustering, "reset_every", None)

    def _is_reset_due(self) -> bool:
        every = self._reset_every
        return every is not None and self.at.batch == 0 < self.at.epoch and self.at.epoch % every == 0

    def _is_reset_ahead(self, phase: PhaseConfig, epoch: int) -> bool:
        """Whether a reset follows when ``epoch`` epochs have ended; labels that have settled are its reason."""
        every = self._reset_every
        return every is not None and math.ceil(epoch / every) * every < phase.epochs

    def _reset(self) -> None:
        """Mix fresh weights into the encoder and cluster its embedding anew (BRB); all of it, or nothing."""
        config, at, kind = self.config, self.at, self.config.clustering
        assert isinstance(kind, JointClusteringConfig)
        kept = {name: value.clone() for name, value in self.autoencoder.state_dict().items()}
        seed = stream_seed(config.seed, at.phase_idx, at.epoch, -1)
        fresh = build_autoencoder(config.model, self.data.n_features, self.data.image_shape, self.latent_dim, seed)
        mix_encoder(self.autoencoder, fresh.to(self.device), kind.reset_fraction)
        try:
            with self._signals.interruptible():
                z = evaluator.encode(self.autoencoder, self.batches)
                start: initialization.Start | None = None
                if distributed.is_main():
                    old, sample = self.clustering.assignments, self._init_sample()
                    start = initialization.again(z, self.n_clusters, kind, sample, seed, old)
                start = self._of_main(start)
        except BaseException:
            self.autoencoder.load_state_dict(kept)
            raise
        self._start_from(start, z)
        reset_rows(self.learner.optimizer, self.clustering.centroids, torch.arange(self.n_clusters))
        if self.learner.average is not None:
            self.learner.average.restart()
        log.info("joint: weights mixed with fresh ones and clustered anew before epoch %d", at.epoch + 1)

    # --- what earlier runs have done ---

    def _pretrain(self) -> None:
        """Pretrain the autoencoder, or take over what a run has left that pretrained the same."""
        at, key = self.at, self.cache.key("pretrained")
        if at.epoch == at.batch == 0:
            found = self.cache.find(key)
            if found is not None:
                self._take_over(found)
                return
            at.cache_key = key
        self._run_phase(self.config.pretrain)
        # A run that was made longer, or went on on another machine, is not what the key says.
        if self.run_dir.is_written and key is not None and at.cache_key == key:
            state = {
                "autoencoder": self.autoencoder.state_dict(),
                "run": str(self.run_dir.path),
                "metrics": self.run_dir.read_metrics(),
                "epoch": at.epoch,
                "step": at.step,
                "seconds": at.seconds["pretrain"],
            }
            self.cache.keep(key, state)

    def pretrained_embedding(self) -> Tensor:
        """Return the embedding (N, D) that a run of this config had after the pretraining, from ``pretrain.cache``.

        Raises
        ------
        Failure
            If the cache has no such pretraining.
        """
        found = self.cache.find(self.cache.key("pretrained"))
        if found is None:
            raise Failure(
                f"pretrain.cache={self.config.pretrain.cache}: has no pretraining of this config; train again"
            )
        self.autoencoder.load_state_dict(found["autoencoder"])
        return evaluator.encode(self.autoencoder, self.batches)

    def _take_over(self, pretrained: dict[str, Any]) -> None:
        at = self.at
        self.autoencoder.load_state_dict(pretrained["autoencoder"])
        at.epoch, at.step = pretrained["epoch"], pretrained["step"]
        at.seconds["pretrain"] = pretrained["seconds"]
        for record in pretrained["metrics"]:
            self.recorder.numbers(record, at)
        self._save()
        self.run_dir.update_manifest(seconds=at.seconds, pretrained_by=pretrained["run"])
        log.info("pretrain: %d epochs taken over from pretrain.cache (%.0f s there)", at.epoch, at.seconds["pretrain"])

    # --- a phase ---

    @property
    def learner(self) -> Learner:
        """The learning of the phase that is under way."""
        assert self._learner is not None
        return self._learner

    def begin(self, phase: PhaseConfig) -> None:
        """Make ready for steps of the phase, with what a checkpoint has of it."""

        def note(seconds: float) -> None:
            log.info("compile: the first step of the %s phase took %.1f s", phase.section, seconds)
            known = self.run_dir.manifest.get("compile_seconds", {})
            self.run_dir.update_manifest(compile_seconds={**known, phase.section: round(seconds, 1)})

        self._learner = None  # lets go of the last phase's hooks on the same parameters
        self._learner = Learner(
            self.config, phase, self.autoencoder, self.clustering, n_batches=self._n_batches, on_compiled=note
        )
        self._learner.load(self._learner_state)
        self._learner_state = {"optimizer": None, "average": None}
        self._clock_s = time.perf_counter()

    def _averaged(self) -> AbstractContextManager[None]:
        """Have network and centroids hold their average within the block, where the phase has one."""
        return nullcontext() if self._learner is None else self._learner.averaged()

    def _run_phase(self, phase: PhaseConfig) -> None:
        """Train until the last epoch or, in the joint phase, until the labels have settled."""
        at = self.at
        is_joint = at.phase_idx == 1
        self.begin(phase)
        n_steps = phase.epochs * self._n_batches
        done = at.epoch * self._n_batches + at.batch
        hidden = not self.run_dir.shows_bars
        with tqdm(total=n_steps, initial=done, desc=phase.section, unit="step", leave=False, disable=hidden) as bar:
            while at.epoch < phase.epochs and not at.is_stopped:
                self._train_epoch(phase, n_steps, bar)
                self._raise_if_broken()
                losses = self.learner.losses(self._terms[:, : len(_TERMS)])
                bar.set_postfix(loss=f"{losses['loss/total']:.4g}", refresh=False)
                with self._averaged():
                    self._end_epoch(phase, is_joint, losses)
                if self._checkpoint_is_due():
                    self._save()
        self._tick(phase)
        self._save()
        self.run_dir.update_manifest(
            seconds=self.at.seconds,
            samples_per_second={
                **self.run_dir.manifest.get("samples_per_second", {}),
                phase.section: round(at.epoch * self.data.n_samples / max(self.at.seconds[phase.section], 1e-9)),
            },
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _train_epoch(self, phase: PhaseConfig, n_steps: int, bar: tqdm[Any]) -> None:
        config, at, n_batches, learner = self.config, self.at, self._n_batches, self.learner
        is_joint = at.phase_idx == 1
        if at.batch == 0:
            self._terms.fill_(math.nan)
            with self._averaged():
                self._centroids_before = self.clustering.centroids.detach().cpu().clone()
        if is_joint:
            self.clustering.start_epoch(at.epoch)
            if self._is_reset_due():
                self._reset()
                self._is_state_half_done = True  # until a step has ended: resumed here it would be reset once more
        is_evaluated = self._is_evaluated(phase, at.epoch + 1)
        # ------------------------------------------------------------------------------------------------------------
        with closing(self.batches.epoch(at.phase_idx, at.epoch, at.batch)) as batches:
            for number, batch in enumerate(batches, at.batch):
                if is_joint and self.clustering.is_refresh_due(at.epoch * n_batches + number):
                    with self._averaged():
                        self.clustering.refresh(evaluator.encode(self.autoencoder, self.batches, config.precision))
                x = batch.x  # (B, F)
                if self.augment is not None:
                    seed = stream_seed(config.seed, at.phase_idx, at.epoch, number)
                    x = self.augment(x, seed, first=batch.first, n_rows=batch.n_rows)
                learner.set_lr(learning_rate(phase.schedule, phase.lr, at.epoch * n_batches + number, n_steps))
                share = len(x) * distributed.world_size() / batch.n_rows
                with self._autocast():
                    local = learner.forward(x, batch.rows, share)
                learner.optimizer.zero_grad()
                local.total.backward()  # type: ignore[no-untyped-call]
                terms = distributed.mean_(torch.stack(local).detach())
                self._terms[number, : len(_TERMS)] = terms
                torch.maximum(learner.is_broken, (~terms[0].isfinite()).float(), out=learner.is_broken)
                if is_evaluated and number == n_batches - 1:
                    self._terms[number, -1] = learner.gradient_norm()
                learner.optimizer.step()
                if is_joint and self.clustering.has_running_means:
                    self._is_state_half_done = True
                    with torch.no_grad(), self._autocast():
                        z = self.autoencoder.encode(x)
                    self.clustering.after_step(z)
                self._is_state_half_done = False
                if learner.average is not None:
                    learner.average.update()
                at.batch, at.step = number + 1, at.step + 1
                bar.update()
                if self._is_stop_agreed():
                    self._tick(phase)
                    raise Interrupted
                if self._checkpoint_is_due():
                    self._tick(phase)
                    self._save()
        # ------------------------------------------------------------------------------------------------------------

    def _is_stop_agreed(self) -> bool:
        """Whether SIGINT or SIGTERM came; with several processes, to any of them, and all learn it at the same step."""
        if not distributed.is_several():
            return self._signals.is_requested
        is_poll = self.at.step % _STEPS_BETWEEN_POLLS == 0 or self.at.batch == self._n_batches
        if is_poll and distributed.any_rank(self._signals.is_requested):
            self._signals.is_requested = True
            return True
        return False

    def _end_epoch(self, phase: PhaseConfig, is_joint: bool, losses: dict[str, float]) -> None:
        """Update the assignments, and evaluate where it is due."""
        at = self.at
        z: Tensor | None = None
        if is_joint and not at.pass_info:
            z = self._reassign()
        is_settled = is_joint and at.pass_info["label_change"] < self.config.joint.tolerance
        is_settled = is_settled and not self._is_reset_ahead(phase, at.epoch + 1)
        record: dict[str, Any] | None = None
        found: evaluator.Clustering | None = None
        if self._is_evaluated(phase, at.epoch + 1) or (is_settled and not self._is_for_nobody):
            with self._signals.interruptible():
                if z is None or self.config.precision != "fp32":
                    z = evaluator.encode(self.autoencoder, self.batches)
                if self.run_dir.is_written:
                    found = evaluator.cluster(z, self.clustering.centroids.detach()) if is_joint else None
                    record = self._evaluate(phase, found, losses, z)
        at.epoch, at.batch, at.pass_info, at.is_stopped = at.epoch + 1, 0, {}, is_settled
        if record is None:
            self.run_dir.dashboard.scalars(phase.section, at.step, losses)
        else:
            self.recorder.evaluation(record, at)
            is_last = is_joint and (is_settled or at.epoch == phase.epochs)  # the end draws these pictures, and more
            if z is not None and not is_last and self._is_pictured(phase, at.epoch):
                self.recorder.pictures(record, z, found)
        if is_settled:
            log.info("joint: stopped after epoch %d, the labels have settled (joint.tolerance)", at.epoch)
        self._tick(phase)

    def embed(self) -> Tensor:
        """Return the embedding (N, D) of the training data."""
        return evaluator.encode(self.autoencoder, self.batches)

    def _reassign(self) -> Tensor:
        """Give all points their nearest centroids, in a clean pass; return the embedding (N, D) that it found."""
        at, clustering = self.at, self.clustering
        # In the precision of the steps, so that the assignments are those that the steps would find.
        with self._signals.interruptible():
            z = evaluator.encode(self.autoencoder, self.batches, self.config.precision)
        found = clustering.reassign(z)
        reset_rows(self.learner.optimizer, clustering.centroids, found.revived)
        at.pass_info = {"label_change": found.change, "n_dead": found.n_dead, "n_revived": len(found.revived)}
        # What decides is that of rank 0: which points are nearest or served worst may depend on the hardware. After the
        # state of rank 0 is whole: this finds out that a rank is gone, and then rank 0 writes a checkpoint.
        numbers = torch.tensor(list(at.pass_info.values()), dtype=torch.float64, device=self.device)
        distributed.broadcast_(numbers)
        change, n_dead, n_revived = numbers.tolist()
        at.pass_info = {"label_change": change, "n_dead": int(n_dead), "n_revived": int(n_revived)}
        if n_dead:
            distributed.broadcast_(clustering.centroids.detach())
            distributed.broadcast_(clustering.assignments)
            log.info("joint: epoch %d: %d dead centroids, %d revived", at.epoch + 1, n_dead, n_revived)
        return z

    @property
    def _is_for_nobody(self) -> bool:
        """Whether nothing is written and no other process waits for this one's part of a pass."""
        return not self.run_dir.is_written and not distributed.is_several()

    def _is_evaluated(self, phase: PhaseConfig, epoch: int) -> bool:
        if self._is_for_nobody:
            return False
        return epoch % self.config.evaluation.every_epochs == 0 or epoch in (1, phase.epochs)

    def _is_pictured(self, phase: PhaseConfig, epoch: int) -> bool:
        """Of the evaluations, those of the first and last epoch and numbers 4, 16, ... have pictures."""
        settings = self.config.log
        if not (settings.tensorboard and settings.figures):
            return False
        number, rest = divmod(epoch, self.config.evaluation.every_epochs)
        is_power_of_4 = rest == 0 and number & (number - 1) == 0 and number.bit_length() % 2 == 1
        return epoch in (1, phase.epochs) or (number > 1 and is_power_of_4)

    # --- numbers ---

    @torch.no_grad()
    def _evaluate(
        self, phase: PhaseConfig, found: evaluator.Clustering | None, losses: dict[str, float], z: Tensor
    ) -> dict[str, Any]:
        """Return the record of this epoch for ``metrics.jsonl``; writes nothing.

        z (N, D) is the clean embedding, ``found`` its clusters in the joint phase.
        """
        at = self.at
        record: dict[str, Any] = {"phase": phase.section, "epoch": at.epoch + 1, "step": at.step, **losses}
        record["optimizer/lr"] = self.learner.lr
        record["optimizer/gradient_norm"] = None if (n := self._terms[-1, -1].item()) != n else n
        record["embedding/variance"] = evaluator.embedding_variance(z)
        if found is not None:
            centroids = self.clustering.centroids
            moved = (centroids.cpu() - self._centroids_before).square().sum(1).sqrt()
            record["clusters/label_change"] = at.pass_info["label_change"]
            record["clusters/n_dead"] = at.pass_info["n_dead"]
            record["clusters/n_revived"] = at.pass_info["n_revived"]
            record["clusters/centroid_drift"] = moved.mean().item()
            record["clusters/smallest_centroid_distance"] = evaluator.smallest_centroid_distance(centroids)
            record["clusters/sizes"] = cluster_sizes(found.labels, self.n_clusters).tolist()
            scores = self.evaluator.scores(self.evaluator.sampled(z), found.labels, found.inertia)
            scores["modularity_data"] = self.evaluator.modularity_data(found.labels)
            record |= {f"metrics/{name}": value for name, value in scores.items()}
        return record

    # --- the end ---

    def _finish(self) -> dict[str, Any]:
        """Take the labels from one more full pass and write everything that a finished run has."""
        at = self.at
        if self._is_for_nobody:
            return {}
        with self._signals.interruptible():
            z = evaluator.encode(self.autoencoder, self.batches)
            if not self.run_dir.is_written:
                return {}
            found = evaluator.cluster(z, self.clustering.centroids.detach())
            scores = self.evaluator.scores(self.evaluator.sampled(z), found.labels, found.inertia, on_data=True)
        result: dict[str, Any] = {
            **scores,
            "n_clusters": self.n_clusters,
            "n_samples": self.data.n_samples,
            "joint_epochs": at.epoch if isinstance(self.config.clustering, JointClusteringConfig) else 0,
            "steps": at.step,
            **at.baselines,
        }
        self.recorder.finish(result, scores, z, found, at)
        return result

    def saved_model(self, inertia: float) -> SavedModel:
        """Return all that is needed to assign new data; ``inertia`` is that of the final clustering."""
        return SavedModel.of(self.config, self.data, self.autoencoder, self.clustering.centroids.detach(), inertia)

    # --- checkpoints ---

    def identity(self) -> dict[str, Any]:
        """Return what must be the same in all processes that train together."""
        own = ("data.root", "data.path", "device", "resume", "threads", "log.", "checkpoint.", "pretrain.cache")
        settings = {key: value for key, value in dotted(self.config).items() if not key.startswith(own)}
        found = versions()
        software = {f"the version of {name}": found[name] for name in ("dkm", "torch")}
        data = {f"the SHA-256 of data={self.data.name}": self.data.sha256}
        return settings | software | data | {"device": self.device.type}

    def _checkpoint_is_due(self) -> bool:
        return self.run_dir.is_written and time.monotonic() - self._saved_at_s >= self.config.checkpoint.every_s

    def _save(self) -> None:
        self._raise_if_broken()  # on every rank: one whose peer stopped for a non-finite loss does so for that reason
        if not self.run_dir.is_written:  # rank 0 has the same state
            return
        if self._is_state_half_done:  # a rank was lost: the last checkpoint is a whole state, this is none
            return
        state = {
            "position": asdict(self.at),
            "autoencoder": self.autoencoder.state_dict(),
            "clustering": self.clustering.state_dict(),
            **(self._learner_state if self._learner is None else self._learner.state()),
            "terms": self._terms,
            "centroids_before": self._centroids_before,
            "metrics_bytes": self.run_dir.sync_metrics(),
            "config": to_dict(self.config),
            "data_sha256": self.data.sha256,
        }
        checkpoints.save(self.run_dir.path / "checkpoints", state)
        self._saved_at_s = time.monotonic()

    def restore(self, state: dict[str, Any], directory: Path) -> None:
        """Go on from a checkpoint's ``state``, found in the run ``directory``.

        Raises
        ------
        UserError
            If it is of another config or other data, or not what a run of this version writes.
        """
        try:
            self._check_origin(state, directory)
            self.at = Position(**state["position"])
            self.autoencoder.load_state_dict(state["autoencoder"])
            self.clustering.load_state_dict(state["clustering"])
            self._learner_state = {name: state[name] for name in self._learner_state}
            self._terms.copy_(state["terms"])
            self._centroids_before = state["centroids_before"]
            self._metrics_bytes = state["metrics_bytes"]
            # With more epochs than before there is something left to do.
            is_longer = self.config.joint.epochs > state["config"]["joint"]["epochs"]
            self.at.is_stopped = self.at.is_stopped and not is_longer
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            found = " ".join(str(error).split())
            raise checkpoints.CheckpointError(
                f"{directory / 'checkpoints'}: the state does not fit this model ({found}); "
                f"expected what a run of this version writes; start a new run"
            ) from error
        self._is_restored = True
        phase = self.at.phase
        log.info("resumed in %s at epoch %d, batch %d, step %d", phase, self.at.epoch, self.at.batch, self.at.step)

    def _check_origin(self, state: dict[str, Any], directory: Path) -> None:
        mine, theirs = dotted(self.config), flatten(state["config"])
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key) and not key.startswith(RESUMABLE):
                raise UserError(
                    f"{directory / 'config.yaml'}: {key}={mine.get(key)}, but the checkpoint was written with "
                    f"{theirs.get(key)}; expected the same config; restore the file or start a new run"
                )
        n_epochs, n_before = mine["pretrain.epochs"], theirs["pretrain.epochs"]
        if n_epochs != n_before and state["position"]["phase_idx"] > 0:
            raise UserError(
                f"pretrain.epochs={n_epochs}: expected {n_before}, as the pretraining of {directory} has ended; leave "
                "the override out or start a new run"
            )
        if state["data_sha256"] != self.data.sha256:
            raise UserError(
                f"data={self.data.name}: the data changed since the run began (SHA-256 {self.data.sha256[:12]}..., "
                f"then {state['data_sha256'][:12]}...); expected the same data; restore them or start a new run"
            )

    def _require_rows_for_all(self) -> None:
        n_processes, smallest = distributed.world_size(), self.data.n_samples // self.batches.n_batches
        if n_processes > smallest:
            raise UserError(
                f"torchrun with {n_processes} processes: expected at most {smallest}, the rows of the smallest batch "
                f"(batch_size={self.config.batch_size}, {self.data.n_samples} samples); start fewer processes"
            )

    def _tick(self, phase: PhaseConfig) -> None:
        """Book the seconds since the last call."""
        now_s = time.perf_counter()
        self.at.seconds[phase.section] = round(self.at.seconds[phase.section] + now_s - self._clock_s, 3)
        self._clock_s = now_s

    def _raise_if_broken(self) -> None:
        """Stop at the first non-finite term of the epoch, which the optimizer has skipped, and all after it."""
        done = self._terms[: self.at.batch, : len(_TERMS)]
        bad = (~done.isfinite()).nonzero()
        if len(bad) > 0:
            batch = int(bad[0, 0])
            names = [_TERMS[i] for i in bad[bad[:, 0] == batch, 1].tolist()]
            name = next((n for n in names if n != "total"), "total")
            value = done[batch, _TERMS.index(name)].item()
            raise NonFiniteLoss(
                f"the {name} loss is {value} in phase {self.at.phase}, epoch {self.at.epoch + 1}, step "
                f"{self.at.step - self.at.batch + batch + 1}; expected finite losses; the update was not made and the "
                f"last good checkpoint is kept; lower {self.at.phase}.lr or look at the data's scale"
            )
        parameters = [*self.autoencoder.parameters(), self.clustering.centroids]
        if not torch.stack([p.detach().isfinite().all() for p in parameters]).all():
            raise NonFiniteLoss(
                f"a weight became nan or inf in phase {self.at.phase}, epoch {self.at.epoch + 1}, up to "
                f"step {self.at.step}; the last good checkpoint is kept; lower {self.at.phase}.lr"
            )


def require_trainable(config: Config, *, labels_for: str | None = None) -> str:
    """Return the SHA-256 of the data; refuse what a run would refuse when it sees them, such as too many clusters.

    Parameters
    ----------
    labels_for : str, optional
        What needs labels; the data are refused if they have none.

    Raises
    ------
    UserError
    """
    data = load_dataset(config.data)
    if labels_for is not None and data.y is None:
        raise UserError(f"{labels_for}: expected data with labels, got data={data.name} without; give data.labels=")
    Trainer(config, data)
    return data.sha256


# --- what the machine and the data allow --------------------------------------------------------------------------


def _n_clusters(config: Config, data: Dataset) -> int:
    K = config.clustering.n_clusters or data.n_classes
    if K is None:
        raise UserError(
            f"clustering.n_clusters=null: expected a number, as data={data.name} has no labels to count classes by; "
            "for example clustering.n_clusters=10"
        )
    if data.n_samples < K:
        raise UserError(
            f"clustering.n_clusters={K}: expected at most n_samples={data.n_samples}; lower it or load more data"
        )
    for key in ("init_samples", "partition_samples"):
        if (value := getattr(config.clustering, key)) < K:
            raise UserError(f"clustering.{key}={value}: expected at least the number of clusters, {K}; raise it")
    return K
