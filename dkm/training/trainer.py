"""The training run: pretrain the autoencoder, cluster its embedding, train both together, report.

``Trainer.run`` is the whole story and ``Trainer._train_epoch`` the one loop of both phases. The position of a run is a
``TrainState``; everything random is a function of the seed and the position, so that a checkpoint needs no generator
state and a resumed run ends with the same bits as one that was never stopped.
"""

# Shapes: N samples, B batch, F input features, D latent, K clusters.

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dkm.clustering.assignment import means_of_parts
from dkm.clustering.losses.base import ClusteringLoss
from dkm.clustering.methods import build_clustering
from dkm.clustering.neighborhood import Neighborhood
from dkm.config.clustering import JointClusteringConfig
from dkm.config.run import Config, PhaseConfig, in_epochs
from dkm.data.augmentation import build_augmentation
from dkm.data.batches import build_batches, stream_seed
from dkm.data.datasets import Dataset
from dkm.data.sampling import sample_dataset
from dkm.errors import UserError
from dkm.evaluation import evaluator
from dkm.evaluation.clusters import Clusters, assign_clusters
from dkm.evaluation.scores import Scores
from dkm.models.autoencoder import Autoencoder, evaluation_mode
from dkm.models.build import build_autoencoder
from dkm.models.custom import is_of_package, require_halves
from dkm.models.saved import SavedModel
from dkm.runs.directory import RunWriter, Unwritten
from dkm.runs.reading import N_CLUSTERS_CHOICE
from dkm.runtime import distributed
from dkm.runtime.devices import deterministic, find_device, seeded
from dkm.runtime.signals import Interrupted, Signals, signals_handled
from dkm.training import due
from dkm.training.baseline import find_or_score_raw_data
from dkm.training.cache import Cache
from dkm.training.divergence import require_finite
from dkm.training.guard import Guard
from dkm.training.optimizers import learning_rate, reset_rows
from dkm.training.phase import Phase
from dkm.training.pretraining import adopt_pretraining, keep_pretraining
from dkm.training.reassignment import reassign
from dkm.training.recorder import Recorder
from dkm.training.records import evaluation_record
from dkm.training.requirements import (
    require_labels_kept,
    require_packages,
    require_rows_for_all_processes,
    resolve_n_clusters,
)
from dkm.training.restoring import Checkpointer, refusing_what_does_not_fit
from dkm.training.starting import Starter, mixed_encoder
from dkm.training.state import Baseline, Clock, Progress, TrainState
from dkm.training.steps import EpochSteps
from dkm.training.throughput import StepTimer, Throughput

log = logging.getLogger(__name__)


class Trainer:
    """A run, ready to start.

    Parameters
    ----------
    config : Config
    data : Dataset
    clock : Clock, optional
        Books the seconds of the run; by default one that starts now.
    neighborhood : Neighborhood, optional
        One of the same data, which is used if it is what this run would compute.

    Attributes
    ----------
    config : Config
        With a definite number of epochs.
    autoencoder : Autoencoder
    clustering : ClusteringLoss
    progress : Progress
        Position, seconds and baselines.

    Raises
    ------
    UserError
        If the config does not fit the data or the machine. Nothing is written before ``run``.
    """

    def __init__(
        self, config: Config, data: Dataset, clock: Clock | None = None, neighborhood: Neighborhood | None = None
    ) -> None:
        self.data = data
        self.n_clusters = resolve_n_clusters(config, data)
        self.latent_dim = config.model.latent_dim or self.n_clusters
        self.device = find_device(config.device)
        require_packages(config, self.device)
        require_labels_kept(config)
        self.batches = build_batches(data.X, config.batch_size, config.seed, self.device)
        in_steps = [phase.section for phase in (config.pretrain, config.joint) if phase.epochs is None]
        self.config = config = in_epochs(config, self.batches.n_batches)
        every = config.evaluation.every_epochs
        self._evaluation_intervals = {
            phase.section: due.evaluation_interval(every, phase.n_epochs, is_in_steps=phase.section in in_steps)
            for phase in (config.pretrain, config.joint)
        }
        # With ``joint.guard`` clusters are compared at these, whatever is evaluated.
        self._comparison_interval = due.comparison_interval(
            config.joint.n_epochs, is_in_steps=config.joint.section in in_steps
        )
        require_rows_for_all_processes(config, data, self.batches.n_batches)
        self.augment = build_augmentation(config.augmentation, data.image_shape)
        self.autoencoder = self._build_autoencoder(config.seed)
        require_halves(config, self.autoencoder)
        # Such as the running statistics of batch norm in a network of the user's own.
        self._has_buffers = next(self.autoencoder.buffers(), None) is not None
        self.clustering: ClusteringLoss = build_clustering(
            config.clustering, self.n_clusters, self.latent_dim, data.n_samples, config.joint.n_epochs
        ).to(self.device)
        self._has_own_code = not (is_of_package(self.autoencoder) and is_of_package(self.clustering))
        sample = sample_dataset(data, config.clustering.init_samples, at_least=self.n_clusters)
        self.neighborhood = Neighborhood(self.batches.take, sample, self.latent_dim, config.seed)
        if neighborhood is not None and neighborhood.is_like(self.neighborhood):
            self.neighborhood = neighborhood
        self.evaluator = evaluator.Evaluator(data, self.batches, self.n_clusters, config.evaluation, self.neighborhood)
        self.guard = Guard(self.autoencoder, self.clustering, self.evaluator)
        self.starter = Starter(config.clustering, self.evaluator, self.neighborhood, self.latent_dim, config.seed)
        self.cache = Cache(config, data, n_clusters=self.n_clusters, latent_dim=self.latent_dim, device=self.device)
        self.run_dir: RunWriter = Unwritten()
        self.recorder = Recorder(self.run_dir, config, self.evaluator, self.autoencoder, self.clustering)
        self.progress = Progress(clock=clock or Clock())
        self._timer = StepTimer()
        self._steps = EpochSteps(self.batches.n_batches, self.clustering.centroids)
        self._checkpointer = Checkpointer(config, data, self.autoencoder, self.clustering, self._steps)
        self._signals = Signals()
        # Of the phase that is under way; before it begins, what a checkpoint holds of it.
        self._phase: Phase | None = None
        self._phase_state: dict[str, Any] = {"optimizer": None, "average": None}
        # Size and digest of the metrics at the checkpoint that was restored.
        self._metrics_bytes: int | None = None
        self._metrics_sha256: str | None = None
        self._is_state_consistent = True  # false within a step

    # --- the run ---

    def run(self, run_dir: RunWriter) -> dict[str, Any]:
        """Train from the start, or from what was restored, to the result; return the content of ``result.json``.

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
        self.run_dir = self.recorder.run = run_dir
        is_alone = not distributed.is_several()
        with signals_handled(is_alone=is_alone) as self._signals, deterministic(self.config.deterministic):
            self.recorder.start(
                self.starter.sample,
                step=self.progress.step,
                metrics_bytes=self._metrics_bytes,
                metrics_sha256=self._metrics_sha256,
            )
            try:
                if self._metrics_bytes is None and N_CLUSTERS_CHOICE in run_dir.manifest:
                    self._save()  # the search may have taken minutes
                return self._run_phases()
            except BaseException as error:
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                reason = "signal" if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
                self.recorder.end(status, reason, self.progress)
                raise

    def _run_phases(self) -> dict[str, Any]:
        progress, clock = self.progress, self.progress.clock
        try:
            with distributed.peers_needed():
                if progress.raw is None and self._needs_raw_baseline:
                    with clock.section("baseline"):
                        self._score_raw_data()
                if not progress.state.is_joint:
                    with clock.section("pretrain"):
                        self._pretrain()
                    with clock.section("initialization"):
                        self._initialize_clusters()
                if isinstance(self.config.clustering, JointClusteringConfig):
                    with clock.section("joint"):
                        self._run_joint_phase()
                with clock.section("report"), self._averaged_weights():
                    result = self._finish()
                if self._phase is not None and self._phase.average is not None:
                    self._phase.average.adopt()  # what was reported is what the trainer has from here on
                return result
        except (Interrupted, distributed.RankLost, UserError):
            distributed.begin_ending()
            self._save()
            raise

    def _score_raw_data(self) -> None:
        baseline = find_or_score_raw_data(
            self.cache,
            self.evaluator,
            self.config.clustering,
            self.config.seed,
            interruptible=self._signals.interruptible,
            is_kept=self.run_dir.is_written,
        )
        distributed.meet()  # the first process scores alone
        self.progress.raw = self._kept("kmeans_raw", baseline)
        self._save()

    def _kept(self, name: str, baseline: Baseline | None) -> Scores:
        """Return the scores of a baseline; keep its labels where ``joint.guard`` may need them."""
        if baseline is None:
            return {}
        if self.config.joint.guard:
            self.progress.labels[name] = baseline.labels
        return baseline.scores

    def _pretrain(self) -> None:
        """Pretrain the autoencoder, or take the same pretraining of an earlier run from the cache."""
        state = self.progress.state
        if state.epoch == state.batch == 0:
            key = self.cache.key("pretrained")
            pretraining = self.cache.find(key)
            if pretraining is not None:
                adopt_pretraining(pretraining, self.autoencoder, self.progress, self.recorder)
                self._save()
                return
            self.progress.cache_key = key
        self._run_phase(self.config.pretrain)
        keep_pretraining(self.cache, self.autoencoder, self.progress, self.run_dir)

    def _initialize_clusters(self) -> None:
        """Cluster the embedding: the step between the phases."""
        with self._signals.interruptible():
            z = self.embed()
            of_rows = self.progress.labels.get("kmeans_raw")
            # On a GPU the baseline is computed there, with other last bits than the clusters of the neighborhood.
            if of_rows is not None and self.neighborhood.sample is None and self.device.type == "cpu":
                self.neighborhood.labels_of_rows = of_rows.numpy()
            is_scored = self.run_dir.is_written or self.config.joint.guard
            start, baseline = self.starter.start(z, is_scored=is_scored)
        self.clustering.initialize(*start, z)
        self.progress.pretrained = self._kept("kmeans_pretrained", baseline)
        if self.config.joint.guard:
            self.guard.keep_pretrained(self.progress, baseline)
        self.progress.state = TrainState("joint", step=self.progress.step + 1)
        self._phase = None
        self._save()

    def _run_joint_phase(self) -> None:
        """Train both together; with ``joint.guard``, never end below what the model had before."""
        progress, settings = self.progress, self.config.joint
        while progress.state.restored is None:
            self._run_phase(settings)
            if not settings.guard:
                return
            with self._averaged_weights(), self._signals.interruptible():
                verdict = self.guard.judge(progress, self.embed())
            if verdict.learn is not None:
                self._learn(verdict.learn)
                continue
            if verdict.restore is not None:
                self._phase = None
                self.guard.restore(progress, verdict.restore)
                self._save()
            return

    def _learn(self, baseline: str) -> None:
        """Start a second joint phase that holds the labels of a baseline."""
        progress, step = self.progress, self.progress.step
        can_hold = self.config.clustering.can_hold_labels
        what = "whose labels are learned now" if can_hold else "from which a second joint phase starts"
        log.info("joint: on the data the clusters are below those of %s, %s", baseline, what)
        if self._phase is not None and self._phase.average is not None:
            self._phase.average.adopt()  # what was judged goes on
        with self._signals.interruptible():
            z = self.embed()
        labels = progress.labels.get(baseline, self.clustering.assignments).to(self.device).clone()
        distributed.broadcast_(labels)
        self.guard.keep(progress, z)
        if self.config.holds_labels and progress.state.epoch > 0:
            progress.labels["start"] = self.clustering.assignments.cpu().clone()
        self.clustering.initialize(means_of_parts(z, labels, self.n_clusters), labels, z)
        epochs_before = progress.state.epoch
        progress.state = TrainState("joint", step=step + 1, learned=baseline, epochs_before=epochs_before)
        self._phase = None
        self._save()

    def _reset_weights(self, phase: Phase) -> None:
        """Mix fresh weights into the encoder and cluster its embedding again (BRB); all of it, or nothing."""
        settings, epoch = self.config.clustering, self.progress.epoch
        assert isinstance(settings, JointClusteringConfig)
        seed = stream_seed(self.config.seed, self.progress.state.phase_idx, epoch, -1)
        fresh = self._build_autoencoder(seed)
        with mixed_encoder(self.autoencoder, fresh, settings.reset_fraction), self._signals.interruptible():
            z = self.embed()
            start = self.starter.restart(z, self.clustering.assignments, seed)
        self.clustering.initialize(*start, z)
        reset_rows(phase.optimizer, self.clustering.centroids, torch.arange(self.n_clusters))
        if phase.average is not None:
            phase.average.restart()
        log.info("joint: weights mixed with fresh ones and clustered again before epoch %d", epoch + 1)

    # --- a phase ---

    def begin(self, settings: PhaseConfig) -> Phase:
        """Prepare for the steps of a phase, with what a checkpoint holds of it."""
        self._phase = None  # drop the previous DDP wrapper first: it has hooks on the same parameters
        if self.config.joint.hold_labels or self.progress.state.learned is not None:
            self.clustering.hold_labels()
        phase = Phase(
            self.config,
            settings,
            self.autoencoder,
            self.clustering,
            n_batches=self.batches.n_batches,
            on_compiled=partial(self.recorder.note_compilation, settings.section),
            filled=None if self.data.filled is None else self.data.filled.to(self.device),
            targets=self._targets(settings),
        )
        with refusing_what_does_not_fit(self.run_dir.path):
            phase.load(self._phase_state)
        self._phase = phase  # only now: until here a checkpoint has the state that it was read with
        self._phase_state = {"optimizer": None, "average": None}
        return phase

    def _targets(self, settings: PhaseConfig) -> Tensor | None:
        """Return the neighbor embedding (N, D) for a pretraining that uses it; the same on every process."""
        if settings is not self.config.pretrain or self.config.pretrain.neighbor_weight == 0:
            return None
        targets = torch.zeros(self.data.n_samples, self.latent_dim)
        if distributed.is_main():
            with self._signals.interruptible():
                targets = self.neighborhood.targets(self.data.n_samples)
        targets = targets.to(self.device)
        distributed.meet()
        distributed.broadcast_(targets)
        return targets

    def _run_phase(self, settings: PhaseConfig) -> None:
        """Train until the last epoch or, in the joint phase, until the labels have settled."""
        state, section = self.progress.state, settings.section
        phase = self.begin(settings)
        self._timer.start_phase()
        with self._progress_bar(settings) as bar:
            while state.epoch < settings.n_epochs and not state.is_stopped:
                with self._timer.steps():
                    self._train_epoch(phase, settings, bar)
                    self._require_finite()
                    losses = phase.losses(self._steps.terms)
                overhead = f"{self._timer.overhead_share():.0%}"
                bar.set_postfix(loss=f"{losses['loss/total']:.4g}", overhead=overhead, refresh=False)
                with self._averaged_weights():
                    self._end_epoch(phase, settings, losses)
                self._save_if_due()
        self._save()
        self.recorder.end_phase(section, self.progress)

    def _progress_bar(self, settings: PhaseConfig) -> tqdm[Any]:
        """Return the bar of a phase, in rows."""
        state, N = self.progress.state, self.data.n_samples
        return tqdm(
            total=settings.n_epochs * N,
            initial=state.epoch * N + state.batch * N // self.batches.n_batches,
            desc=settings.section,
            unit=" rows",
            unit_scale=True,
            leave=False,
            disable=not self.run_dir.shows_bars,
        )

    def _throughput(self, settings: PhaseConfig) -> Throughput:
        """Return the speed since the last evaluation, when an epoch has ended."""
        state = self.progress.state
        n_epochs_left = 0 if state.is_stopped else settings.n_epochs - state.epoch
        return self._timer.lap(n_epochs_left * self.data.n_samples)

    def _train_epoch(self, phase: Phase, settings: PhaseConfig, bar: tqdm[Any]) -> None:
        config, state, clustering, n_batches = self.config, self.progress.state, self.clustering, self.batches.n_batches
        n_steps, is_joint = settings.n_epochs * n_batches, state.is_joint
        if state.batch == 0:
            with self._averaged_weights():
                self._steps.start_epoch(clustering.centroids)
        if is_joint:
            clustering.start_epoch(state.epoch)
            if state.batch == 0 and due.is_reset_due(state.epoch, self._reset_every):
                self._reset_weights(phase)
                self._is_state_consistent = False  # until a step has ended: a run resumed here would reset again
        is_evaluated = self._is_evaluated(state.epoch + 1, settings)
        # ------------------------------------------------------------------------------------------------------------
        with closing(self.batches.epoch(state.phase_idx, state.epoch, state.batch)) as batches:
            for number, batch in enumerate(self._timer.fetch(batches), state.batch):
                step = state.epoch * n_batches + number  # of the phase
                if is_joint and clustering.is_refresh_due(step):
                    with self._averaged_weights():
                        clustering.refresh(self.embed(config.precision))
                x = batch.x  # (B, F)
                if self.augment is not None:
                    seed = stream_seed(config.seed, state.phase_idx, state.epoch, number)
                    with self._timer.data():
                        x = self.augment(x, seed, first=batch.first, n_rows=batch.n_rows)
                phase.set_lr(learning_rate(settings.schedule, settings.lr, step, n_steps))
                share = len(x) * distributed.world_size() / batch.n_rows
                if self._has_buffers:
                    self._is_state_consistent = False  # from the forward pass on, which changes them
                with self._autocast(), self._draws_seeded(number):
                    local = phase.forward(x, batch.rows, share)
                phase.optimizer.zero_grad()
                local.total.backward()  # type: ignore[no-untyped-call]
                terms = distributed.mean_(torch.stack(local).detach())
                distributed.share_buffers(self.autoencoder)
                self._steps.terms[number] = terms
                torch.maximum(phase.is_broken, (~terms[0].isfinite()).float(), out=phase.is_broken)
                if is_evaluated and number == n_batches - 1:
                    self._steps.norms[number] = phase.gradient_norm()
                self._is_state_consistent = False
                phase.optimizer.step()
                if is_joint:
                    clustering.after_step(lambda x=x: self._encode_batch(x))  # type: ignore[misc]
                if phase.average is not None:
                    phase.average.update()
                self._is_state_consistent = True
                state.batch, state.step = number + 1, state.step + 1
                bar.update(batch.n_rows)
                if self._signals.is_stop_agreed(state.step, is_epoch_end=state.batch == n_batches):
                    raise Interrupted
                self._save_if_due()
        # ------------------------------------------------------------------------------------------------------------

    def _end_epoch(self, phase: Phase, settings: PhaseConfig, losses: dict[str, float]) -> None:
        """Update the assignments, and evaluate where it is due."""
        progress, state = self.progress, self.progress.state
        z: Tensor | None = None
        if state.is_joint and not progress.reassignment:
            z = self._reassign(phase)
        has_settled = state.is_joint and due.have_labels_settled(
            progress.reassignment, self.config.joint, state.epoch + 1, self._reset_every
        )
        record: dict[str, Any] | None = None
        clusters: Clusters | None = None
        if state.is_joint and self._is_compared(state.epoch + 1):
            with self._signals.interruptible():
                z = self.embed(self.config.precision) if z is None else z
                self.guard.keep(progress, z if self.config.precision == "fp32" else self.embed())
        if self._is_evaluated(state.epoch + 1, settings) or (has_settled and not self._skips_evaluation):
            with self._signals.interruptible():
                z = self.embed(self.config.precision) if z is None else z
                if self.run_dir.is_written:
                    if state.is_joint:
                        clusters = assign_clusters(z, self.clustering.centroids.detach())
                    record = evaluation_record(progress, losses, phase.lr, self._steps, self.evaluator, z, clusters)
        progress.reassignment = {}
        state.epoch, state.batch, state.is_stopped = state.epoch + 1, 0, has_settled
        if record is None:
            self.run_dir.sinks.scalars(settings.section, state.step, losses)
        else:
            self.recorder.evaluation(record, progress, self._throughput(settings))
            # The report draws the figures of the last one.
            is_last = state.is_joint and (has_settled or state.epoch == settings.n_epochs)
            if z is not None and not is_last and self._is_pictured(state.epoch, settings):
                self.recorder.pictures(record, z, clusters)
        if z is not None:
            distributed.meet()  # the first process scores and draws alone
        if has_settled:
            log.info("joint: stopped after epoch %d, the labels have settled (joint.tolerance)", state.epoch)

    def _reassign(self, phase: Phase) -> Tensor:
        """Assign all rows in a pass over the unaugmented data; return the embedding (N, D)."""
        with self._signals.interruptible():
            z = self.embed(self.config.precision)
        reassign(self.clustering, phase.optimizer, z, self.progress)
        return z

    # --- the end ---

    def _finish(self) -> dict[str, Any]:
        """Take the labels from one more pass over the data and write everything that a finished run has."""
        if self._skips_evaluation:
            return {}
        with self._signals.interruptible():
            z = self.embed()
            if not self.run_dir.is_written:
                return {}
            clusters = assign_clusters(z, self.clustering.centroids.detach(), with_margin=True)
            Z = self.evaluator.sampled(z)
            scores = self.evaluator.scores(Z, clusters.labels, clusters.inertia, final=True)
        return self.recorder.finish(scores, z, clusters, self.progress)

    def embed(self, precision: str = "fp32") -> Tensor:
        """Return the embedding (N, D) of the unaugmented training data."""
        return evaluator.encode(self.autoencoder, self.batches, precision)

    def saved_model(self, inertia: float) -> SavedModel:
        """Return all that is needed to assign new data; ``inertia`` is that of the final clustering."""
        return SavedModel.of(self.config, self.data, self.autoencoder, self.clustering.centroids.detach(), inertia)

    # --- what is due ---

    @property
    def _needs_raw_baseline(self) -> bool:
        is_guarded = self.config.joint.guard and isinstance(self.config.clustering, JointClusteringConfig)
        return is_guarded or self.config.evaluation.kmeans_raw

    @property
    def _reset_every(self) -> int | None:
        """The interval of the resets; None without, and while the labels of a baseline are learned."""
        if self.progress.state.learned is not None:
            return None
        return getattr(self.config.clustering, "reset_every", None)

    @property
    def _skips_evaluation(self) -> bool:
        """No output and a single process: nobody would see an evaluation."""
        return not self.run_dir.is_written and not distributed.is_several()

    def _is_evaluated(self, epoch: int, settings: PhaseConfig) -> bool:
        every = self._evaluation_intervals[settings.section]
        return not self._skips_evaluation and due.is_evaluated(epoch, settings.n_epochs, every)

    def _is_compared(self, epoch: int) -> bool:
        """Return whether the clusters after this epoch of the joint phase may be kept; the end is judged apart.

        That of a phase whose length is in epochs may be an epoch on the way of a longer run.
        """
        return self.config.joint.guard and (epoch == 1 or epoch % self._comparison_interval == 0)

    def _is_pictured(self, epoch: int, settings: PhaseConfig) -> bool:
        has_figures = self.config.log.figures and self.run_dir.sinks.shows_images
        return has_figures and due.is_pictured(epoch, settings.n_epochs, self._evaluation_intervals[settings.section])

    # --- checkpoints ---

    def _save(self) -> None:
        self._require_finite()  # in every process: one whose peer stopped for a non-finite loss stops for that reason
        if self.run_dir.is_written and self._is_state_consistent:  # else the last checkpoint is kept
            phase = self._phase_state if self._phase is None else self._phase.state()
            self._checkpointer.save(self.run_dir, self.progress, phase)

    def _save_if_due(self) -> None:
        if self.run_dir.is_written and self._checkpointer.is_due():
            with self._timer.pause():
                self._save()

    def restore(self, state: dict[str, Any], directory: Path) -> None:
        """Continue from a checkpoint's ``state``, read from the run ``directory``.

        Raises
        ------
        UserError
            If it is of another config or other data, or not what a run of this version writes.
        """
        restored = self._checkpointer.restore(state, directory, self.progress.clock)
        self.progress, self._phase_state, self._metrics_bytes, self._metrics_sha256 = restored
        at = self.progress.state
        log.info("resumed in %s at epoch %d, batch %d, step %d", at.phase, at.epoch, at.batch, at.step)

    def _require_finite(self) -> None:
        state = self.progress.state
        parameters = [*self.autoencoder.parameters(), *self.clustering.parameters()]
        require_finite(self._steps.terms[: state.batch], parameters, state)

    # --- parts ---

    def _build_autoencoder(self, seed: int) -> Autoencoder:
        data = self.data
        built = build_autoencoder(self.config.model, data.n_features, data.image_shape, self.latent_dim, seed)
        return built.to(self.device)

    def _averaged_weights(self) -> AbstractContextManager[None]:
        """Swap in the averaged weights within the block, where the phase has them."""
        return nullcontext() if self._phase is None else self._phase.averaged()

    def _draws_seeded(self, batch: int) -> AbstractContextManager[None]:
        """Seed what layers of the user's own classes draw, such as dropout: resumed runs draw the same."""
        if not self._has_own_code:
            return nullcontext()
        state = self.progress.state
        seed = stream_seed(self.config.seed, state.phase_idx, state.epoch, batch, distributed.rank())
        return seeded(seed, self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _encode_batch(self, x: Tensor) -> Tensor:
        with torch.no_grad(), self._autocast(), evaluation_mode(self.autoencoder):
            return self.autoencoder.encode(x)
