"""Record a run: its start, its evaluations, its figures, and the output of a finished run.

The trainer calls the recorder with its results. The recorder does not affect the results.
"""

# Shapes: N samples, D latent, K clusters.

from __future__ import annotations

import contextlib
import json
import logging
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dkm.clustering.labels import adjusted_rand_index
from dkm.clustering.losses.base import ClusteringLoss
from dkm.config.clustering import JointClusteringConfig
from dkm.config.optimizer import AdamWConfig
from dkm.config.regularization import WeightDecayConfig
from dkm.config.roles import distinguishing_settings
from dkm.config.run import Config
from dkm.config.schema import flatten, to_dict
from dkm.data.row_identity import digest_of_rows
from dkm.data.stored import StoredRows
from dkm.errors import in_short
from dkm.evaluation import printed_scores
from dkm.evaluation.assignments import Assignments
from dkm.evaluation.clusters import Clusters
from dkm.evaluation.evaluator import Evaluator
from dkm.evaluation.exemplars import Contrast, contrast_clusters, find_exemplars
from dkm.evaluation.projection import project
from dkm.evaluation.scores import Scores
from dkm.models.autoencoder import Autoencoder
from dkm.models.saved import SavedModel
from dkm.reports.material import Material, Rows
from dkm.runs.directory import RunWriter
from dkm.runs.reading import COMPLETED, LOGGED_TO, N_CLUSTERS_CHOICE, RESULTS_SHA256
from dkm.runtime import distributed
from dkm.runtime.devices import has_bf16
from dkm.runtime.environment import environment, peak_memory_bytes, processor
from dkm.training.n_clusters import choice_lines
from dkm.training.segments import changes_between, earlier_segments
from dkm.training.state import Progress
from dkm.training.throughput import Throughput

if TYPE_CHECKING:
    from dkm.evaluation.figures.run import RunContext

log = logging.getLogger(__name__)


class Recorder:
    """Writes one run to its directory, its sinks and its log.

    Parameters
    ----------
    run : RunWriter
    config : Config
    evaluator : Evaluator
        The evaluator of the run's data.
    autoencoder, clustering : nn.Module
        Trained modules; the recorder reads their current weights.
    """

    def __init__(
        self,
        run: RunWriter,
        config: Config,
        evaluator: Evaluator,
        autoencoder: Autoencoder,
        clustering: ClusteringLoss,
    ) -> None:
        self.run = run
        self._config = config
        self._evaluator = evaluator
        self._data = evaluator.data
        self._autoencoder = autoencoder
        self._clustering = clustering
        # Labels (N,) at the last evaluation with figures in this process.
        self._labels_before: np.ndarray | None = None

    @property
    def _centroids(self) -> Tensor:
        return self._clustering.centroids.detach()

    # --- the start ---

    def start(
        self,
        init_sample: Tensor | None,
        *,
        step: int,
        metrics_bytes: int | None,
        metrics_sha256: str | None = None,
    ) -> None:
        """Write the initial manifest, and log the data, the model and the device.

        Parameters
        ----------
        init_sample : Tensor, optional
            Indices of the rows that k-means uses; None for all rows.
        step : int
            Number of steps of earlier processes of the run.
        metrics_bytes : int, optional
            Size of ``metrics.jsonl`` at the checkpoint that the run continues from; later records are discarded. None
            for a new run.
        metrics_sha256 : str, optional
            Digest of ``metrics.jsonl`` at the checkpoint; None if it is not known.
        """
        run = self.run
        earlier = run.read_manifest()  # before anything is changed: it may be unreadable
        run.truncate_metrics(metrics_bytes or 0, metrics_sha256)
        if run.is_written:
            self._start_manifest(earlier, step, metrics_bytes)
        self._log_data_report()
        self._log_setup(init_sample)
        self._log_advice()

    def _start_manifest(self, earlier: dict[str, Any], step: int, metrics_bytes: int | None) -> None:
        """Write what the run is made with, beside the entries of earlier processes; warn of what differs from them."""
        run, config, data, device = self.run, self._config, self._data, self._centroids.device
        rows = digest_of_rows(config.data, data.n_samples, data.position)
        made_with = {**environment(), "device": str(device), "processor": processor(device)}
        manifest = {
            **made_with,
            "precision": config.precision,
            "data": {
                "name": data.name,
                "sha256": data.sha256,
                "shape": list(data.X.shape),
                "scaling": data.scaling.kind,
                **({} if rows is None else {"rows_sha256": rows}),
            },
            "seed": config.seed,
            "epochs": {phase.section: phase.n_epochs for phase in (config.pretrain, config.joint)},
            "status": "running",
            "reason": None,
        }
        # Keep the entries of earlier processes of the run, such as its start and the seconds of pretraining.
        earlier.pop(RESULTS_SHA256, None)  # the results will be written anew
        manifest["started"] = earlier.get("started", manifest["started"])
        manifest["n_resumed"] = earlier.get("n_resumed", -1) + 1
        manifest["segments"] = [*earlier_segments(earlier), {"step": step, **made_with}]
        if metrics_bytes is not None and (changes := changes_between(earlier, made_with)):
            text = "resumed with %s; the last bits of the results may differ from those of an undivided run"
            log.warning(text, ", ".join(changes))
        run.warnings[:0] = [text for text in earlier.get("warnings") or [] if text not in run.warnings]
        manifest["warnings"] = list(run.warnings)
        if logged_to := {**(earlier.get(LOGGED_TO) or {}), **run.sinks.references}:
            manifest[LOGGED_TO] = logged_to
        run.update_manifest(**earlier | run.manifest | manifest)
        if run.sinks.is_new or metrics_bytes is None:
            run.sinks.text("config", (run.path / "config.yaml").read_text(encoding="utf-8"))
            run.sinks.text("manifest", (run.path / "manifest.json").read_text(encoding="utf-8"))

    def _log_data_report(self) -> None:
        """Write ``data.json``; log what was decided about the user's data, and warn of what looks odd."""
        report, run = self._data.report, self.run
        run.write_data_report(report)
        run.sinks.text("data", "\n".join(f"    {line}" for line in report.lines()))
        if report.has_decisions:
            for line in report.lines():
                log.info("%s", line)
        for text in report.odd:
            log.warning("%s: %s", report.source, text)

    def _log_setup(self, init_sample: Tensor | None) -> None:
        data, (K, D) = self._data, self._centroids.shape
        where = f"{self._centroids.device}, {torch.get_num_threads()} threads"
        if distributed.is_several():
            where = f"{distributed.world_size()} processes, each {where}"
        log.info(
            "%s: %d samples, %d features, scaling %s%s; %d clusters, %d latent dimensions, %d parameters; %s",
            *(data.name, data.n_samples, data.n_features, data.scaling.kind),
            ", read from disk" if isinstance(data.X, StoredRows) else "",
            *(K, D, sum(p.numel() for p in self._autoencoder.parameters()), where),
        )
        for what, key, sample in (
            ("k-means takes", "clustering.init_samples", init_sample),
            ("scores that look at distances take", "evaluation.samples", self._evaluator.sample),
        ):
            if sample is not None:
                log.info("%s %d of %d samples (%s)", what, len(sample), data.n_samples, key)

    def _log_advice(self) -> None:
        config, device = self._config, self._centroids.device
        if config.precision == "bf16" and not has_bf16(device):
            log.warning(
                "precision=bf16: %s has no arithmetic for it and will be slower than with precision=fp32", device
            )
        decays = isinstance(config.regularization, WeightDecayConfig) and config.regularization.strength > 0
        if isinstance(config.optimizer, AdamWConfig) and decays:
            log.info(
                "optimizer=adamw decays the weights apart from the gradient, which is not the L2 regularization that "
                "regularization=l2_penalty, or weight_decay under adam and sgd, trains with"
            )

    # --- during training ---

    def note_compilation(self, section: str, seconds: float) -> None:
        """Note how long the first step of a phase took, which compiled it."""
        log.info("compile: the first step of the %s phase took %.1f s", section, seconds)
        earlier = self.run.manifest.get("compile_seconds", {})
        self.run.update_manifest(compile_seconds={**earlier, section: round(seconds, 1)})

    def end_phase(self, section: str, progress: Progress) -> None:
        """Write the seconds of the run and the speed of a phase to the manifest."""
        seconds = progress.seconds
        n_epochs = progress.state.epochs_before + progress.epoch
        per_second = round(n_epochs * self._data.n_samples / max(seconds[section], 1e-9))
        earlier = self.run.manifest.get("samples_per_second", {})
        self.run.update_manifest(seconds=seconds, samples_per_second={**earlier, section: per_second})

    def numbers(self, record: dict[str, Any], progress: Progress) -> None:
        """Write a record to ``metrics.jsonl`` and to the sinks."""
        self.run.append_metrics(record)
        self.run.sinks.record(record, progress.baselines)

    def evaluation(self, record: dict[str, Any], progress: Progress, throughput: Throughput) -> None:
        """Write the record of an evaluation and log it; the throughput is written to the sinks only."""
        self.numbers(record, progress)
        self.run.sinks.scalars(record["phase"], record["step"], throughput.scalars())
        scores = {k.removeprefix("metrics/"): v for k, v in record.items() if k.startswith("metrics/")}
        terms = [f"{k.partition('/')[2]} {v:.4g}" for k, v in record.items() if k.startswith("loss_weighted/")]
        line = f"{record['phase']} epoch {record['epoch']}: loss {record['loss/total']:.4g} = {' + '.join(terms)}"
        if scores:
            line += f"; labels changed {record['clusters/label_change']:.4f}; {printed_scores.line(scores)}"
        log.info("%s; %s", line, throughput, extra={"is_progress": True})

    def pictures(self, record: dict[str, Any], z: Tensor, clusters: Clusters | None) -> None:
        """Show the figures of an evaluation in the sinks.

        Parameters
        ----------
        record : dict
            Record of the evaluation in ``metrics.jsonl``.
        z : Tensor of shape (N, D)
            Embedding of the unaugmented data.
        clusters : Clusters, optional
            Clusters of the embedding, in the joint phase.
        """
        from dkm.evaluation.figures.run import draw_figures  # imports matplotlib
        from dkm.evaluation.figures.style import figure_to_png

        for figure, drawing in draw_figures(self._context(z, clusters), at_end=False):
            if drawing is not None:
                tag = f"{record['phase']}/images/{figure.name}"
                self.run.sinks.image(tag, record["step"], figure_to_png(drawing))
        self._labels_before = None if clusters is None else clusters.labels

    def _context(self, z: Tensor, clusters: Clusters | None, **more: Any) -> RunContext:
        from dkm.evaluation.figures.run import RunContext

        method = self._config.log.map
        return RunContext(self._autoencoder, self._evaluator, z, clusters, self._labels_before, method, **more)

    # --- the end ---

    def finish(self, scores: Scores, z: Tensor, clusters: Clusters, progress: Progress) -> dict[str, Any]:
        """Write the output of a finished run; return the content of ``result.json``.

        Parameters
        ----------
        scores : dict
            Scores of the final clustering.
        z : Tensor of shape (N, D)
            Embedding of the unaugmented data.
        clusters : Clusters
            Clusters of the embedding, with margins.
        progress : Progress
            Position and scores at the end of the run.
        """
        run, data, config = self.run, self._data, self._config
        has_joint_phase = isinstance(config.clustering, JointClusteringConfig)
        result: dict[str, Any] = {
            **scores,
            "n_clusters": len(self._centroids),
            "n_samples": data.n_samples,
            "joint_epochs": progress.state.n_joint_epochs if has_joint_phase else 0,
            "steps": progress.step,
            "stage": progress.stage(has_joint_phase),
            "is_undone": progress.state.is_undone,
            "restored_step": progress.state.restored_step,
            **progress.baselines,
            **{key: run.manifest[key] for key in (N_CLUSTERS_CHOICE,) if key in run.manifest},
        }
        agreement = _agreement(progress, clusters)
        if agreement is not None:
            result["learned_agreement"] = agreement
        start = self._start(progress, clusters)
        if start is not None:
            result["start"] = start
        run.write_result(result)
        position = np.arange(data.n_samples) if data.position is None else data.position
        assignments = Assignments(
            *(position, data.ids, clusters.labels, clusters.distance, clusters.margin),
            labels=data.labels,
            texts=data.texts,
        )
        exemplars = find_exemplars(assignments, len(self._centroids))
        contrast = self._contrast(clusters.labels)
        run.write_assignments(assignments, exemplars)
        if contrast is not None:
            names = data.features or [str(feature) for feature in range(data.n_features)]
            run.write_features(contrast, names)
        SavedModel.of(config, data, self._autoencoder, self._centroids, clusters.inertia).save(run.path / "model")
        step = progress.step + 1
        if not has_joint_phase:
            run.sinks.baselines(progress.step, progress.baselines)
        if config.log.figures:
            self._write_figures(
                self._context(
                    z,
                    clusters,
                    records=run.read_metrics(),
                    exemplars=exemplars,
                    contrast=contrast,
                ),
                progress,
            )
        if "tensorboard" in run.sinks:
            run.sinks.projector(*project(self._autoencoder, self._evaluator, z, clusters))
        run.sinks.result(step, scores, run.given_settings())
        warnings = (
            printed_scores.clustering_warning(progress.raw, scores, len(self._centroids)),
            printed_scores.structure_warning(progress.raw, progress.pretrained, scores, len(self._centroids)),
        )
        for warning in filter(None, warnings):
            # Logged like the table below, so that log.progress=off silences both.
            log.info("warning: %s", warning)
            if warning not in run.warnings:  # as it is where a completed run is resumed
                run.warnings.append(warning)
        log.info("run directory: %s", run.path)
        table = printed_scores.table(
            *(progress.raw, progress.pretrained, scores),
            name=config.clustering.name,
            learned=progress.state.learned,
            agreement=agreement,
            start=start,
            restored=progress.state.restored,
            restored_step=progress.state.restored_step,
        )
        if N_CLUSTERS_CHOICE in run.manifest:
            table += choice_lines(run.manifest[N_CLUSTERS_CHOICE])
        for line in table:
            log.info("%s", line)
        run.sinks.text("table", "\n".join(table), step)
        # Before the manifest says that the run is completed: a process that is killed meanwhile leaves it unfinished.
        self._write_report(result, assignments, z, contrast)
        self.end(COMPLETED, None, progress)
        return result

    def _start(self, progress: Progress, clusters: Clusters) -> Scores | None:
        """Return how far the final clusters are those that ``joint.hold_labels`` was to learn, and the scores of these.

        None if no labels were held.
        """
        kept = progress.labels.get("start")
        is_held = self._config.holds_labels and progress.state.n_joint_epochs > 0
        if kept is None and (not is_held or progress.state.learned is not None):
            return None
        labels = (self._clustering.assignments.cpu() if kept is None else kept).numpy()
        modularity, assortativity = self._evaluator.graph_score(labels) or (None, None)
        agreement = adjusted_rand_index(labels, clusters.labels)
        return {"agreement": agreement, "modularity_data": modularity, "assortativity_data": assortativity}

    def _write_report(
        self, result: dict[str, Any], assignments: Assignments, z: Tensor, contrast: Contrast | None
    ) -> None:
        """Write ``report.html``; without it, if that goes wrong, the run is complete all the same."""
        from dkm.data.images.thumbnails import thumbnail_reader  # these import what only a report needs
        from dkm.reports.page import REPORT, write_report

        run, data, config = self.run, self._data, self._config
        path = run.path / REPORT
        if not config.log.report:
            path.unlink(missing_ok=True)  # an earlier end of the run, with fewer epochs, may have written it
            return
        try:
            settings = distinguishing_settings(flatten(to_dict(config)))
            pictures = thumbnail_reader(config.data, data.position)
            material = Material(
                settings={key: value for key, value in settings.items() if key != "seed"},
                seed=config.seed,
                data_name=data.name,
                sha256=data.sha256,
                result=result,
                data_report=data.report.to_dict(),
                assignments=assignments,
                centroids=self._centroids.cpu().numpy(),
                rows=Rows(data, self._evaluator.rows, z.cpu().numpy().__getitem__, contrast, pictures),
            )
            write_report([material], path)
            log.info("report: %s", path)
        except Exception as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # of an earlier end of the run
            log.warning(
                "%s was not written (%s: %s); the run is complete; write it with: dkm report %s",
                *(REPORT, type(error).__name__, in_short(error), shlex.quote(str(self.run.path))),
            )

    def end(self, status: str, reason: str | None, progress: Progress) -> None:
        """Write the final status to the manifest: ``completed``, or ``interrupted`` or ``failed`` with a reason.

        The manifest of a completed run has the SHA-256 of its results too.
        """
        run = self.run
        digests = {RESULTS_SHA256: dict(run.results_sha256)} if status == COMPLETED else {}
        run.update_manifest(
            status=status,
            reason=reason,
            warnings=list(run.warnings),
            seconds=progress.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            **digests,
        )
        # One step after the last one, so that TensorBoard keeps the initial manifest.
        step = progress.step + 1
        run.sinks.text("manifest", json.dumps(run.manifest, indent=2), step)
        run.sinks.text("warnings", "\n".join(run.warnings) or "none", step)
        run.sinks.end(status)

    def _contrast(self, labels: np.ndarray) -> Contrast | None:
        """Return how each cluster of a table differs from the other rows; None for images or a single cluster."""
        K = len(self._centroids)
        if self._data.image_shape is not None or K == 1:
            return None
        return contrast_clusters(self._evaluator.X, self._evaluator.sampled_labels(labels), K, self._data.scaling)

    def _write_figures(self, context: RunContext, progress: Progress) -> None:
        from dkm.evaluation.figures.run import draw_figures
        from dkm.evaluation.figures.style import figure_to_png, save_png

        folder = self.run.path / "figures"
        folder.mkdir(exist_ok=True)
        has_joint_phase = isinstance(self._config.clustering, JointClusteringConfig) and progress.epoch > 0
        for figure, drawing in draw_figures(context, at_end=True):
            path = folder / f"{figure.name}.png"
            if drawing is None:
                path.unlink(missing_ok=True)  # an earlier end of the run, with fewer epochs, may have drawn it
                continue
            png = figure_to_png(drawing)
            save_png(png, path)
            self.run.sinks.image(f"result/images/{figure.name}", progress.step + 1, png)
            if has_joint_phase and figure.when == "evaluation":  # the last evaluation does not draw these
                self.run.sinks.image(f"joint/images/{figure.name}", progress.step, png)


def _agreement(progress: Progress, clusters: Clusters) -> float | None:
    """Return the adjusted Rand index of the clusters and the baseline whose labels were learned; None without one."""
    labels = progress.labels.get(progress.state.learned or "")
    if labels is None or progress.state.is_undone:
        return None
    return adjusted_rand_index(labels.numpy(), clusters.labels)
