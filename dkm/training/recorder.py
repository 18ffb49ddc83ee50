"""What a run tells of itself: its start, each evaluation, pictures on the way, and all that a finished run has.

The trainer says when and hands over what it found. Nothing here changes a number of the run.
"""

# Shapes: N samples, D latent, K clusters.

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dkm.clustering.losses.kmeans import KMeansClustering
from dkm.config.clustering import JointClusteringConfig
from dkm.config.optimizer import AdamWConfig
from dkm.config.regularization import WeightDecayConfig
from dkm.config.run import Config
from dkm.data.stored import StoredRows
from dkm.evaluation import evaluator as evaluate
from dkm.evaluation import exemplars, report
from dkm.evaluation.assignments import Answers
from dkm.evaluation.evaluator import Evaluator, Scores
from dkm.evaluation.pictures import final_figures, pictures, projection
from dkm.models.autoencoder import Autoencoder
from dkm.models.saved import SavedModel
from dkm.runs.directory import RunWriter
from dkm.runtime import distributed
from dkm.runtime.devices import has_bf16
from dkm.runtime.environment import environment, peak_memory_bytes, processor
from dkm.training.state import Position

log = logging.getLogger(__name__)


class Recorder:
    """Writes what one run has to tell into its directory, its dashboard and its log.

    Parameters
    ----------
    run : RunWriter
    config : Config
    evaluator : Evaluator
        Of the run's data.
    autoencoder, clustering : nn.Module
        As they are when a method is called.
    """

    def __init__(
        self,
        run: RunWriter,
        config: Config,
        evaluator: Evaluator,
        autoencoder: Autoencoder,
        clustering: KMeansClustering,
    ) -> None:
        self.run = run
        self._config = config
        self._evaluator = evaluator
        self._data = evaluator.data
        self._autoencoder = autoencoder
        self._clustering = clustering
        # Of the last evaluation with pictures in this process.
        self._labels_before: np.ndarray | None = None

    @property
    def _centroids(self) -> Tensor:
        return self._clustering.centroids.detach()

    # --- the start ---

    def start(self, init_sample: Tensor | None, *, metrics_bytes: int, is_resumed: bool) -> None:
        """Say what is going to be trained, on what.

        Parameters
        ----------
        init_sample : Tensor, optional
            The rows that k-means sees, None for all.
        metrics_bytes : int
            What the checkpoint knows of ``metrics.jsonl``; what lies behind it is cut off.
        is_resumed : bool
            The run goes on from a checkpoint.
        """
        run, config, data, device = self.run, self._config, self._data, self._centroids.device
        run.truncate_metrics(metrics_bytes)
        manifest = {
            **environment(),
            "device": str(device),
            "processor": processor(device),
            "precision": config.precision,
            "data": {"name": data.name, "sha256": data.sha256, "shape": list(data.X.shape)},
            "seed": config.seed,
            "status": "running",
            "reason": None,
        }
        # What an earlier process of the run has found out is kept: when it started, what pretraining took.
        earlier = run.read_manifest()
        manifest["started"] = earlier.get("started", manifest["started"])
        manifest["n_resumed"] = earlier.get("n_resumed", -1) + 1
        run.warnings[:0] = [text for text in earlier.get("warnings", []) if text not in run.warnings]
        run.update_manifest(**earlier | manifest)
        if run.is_written and (run.dashboard.is_new or not is_resumed):
            run.dashboard.text("config", (run.path / "config.yaml").read_text(encoding="utf-8"))
            run.dashboard.text("manifest", (run.path / "manifest.json").read_text(encoding="utf-8"))
        self._say_what(init_sample)
        self._advise()

    def _say_what(self, init_sample: Tensor | None) -> None:
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

    def _advise(self) -> None:
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

    # --- on the way ---

    def numbers(self, record: dict[str, Any], at: Position) -> None:
        """Write a record of ``metrics.jsonl``, and its curves."""
        run, phase, step = self.run, record["phase"], record["step"]
        run.append_metrics(record)
        scalars = {k: v for k, v in record.items() if k not in ("phase", "epoch", "step", "clusters/sizes")}
        run.dashboard.scalars(phase, step, scalars)
        if "clusters/sizes" in record:
            run.dashboard.sizes(f"{phase}/clusters/sizes", step, record["clusters/sizes"])
            run.dashboard.baselines(step, at.baselines)

    def evaluation(self, record: dict[str, Any], at: Position) -> None:
        """Write the record of an evaluation, and say it."""
        self.numbers(record, at)
        scores = {k.removeprefix("metrics/"): v for k, v in record.items() if k.startswith("metrics/")}
        terms = [f"{k.partition('/')[2]} {v:.4g}" for k, v in record.items() if k.startswith("loss_weighted/")]
        line = f"{record['phase']} epoch {record['epoch']}: loss {record['loss/total']:.4g} = {' + '.join(terms)}"
        if scores:
            line += f"; labels changed {record['clusters/label_change']:.4f}; {report.line(scores)}"
        log.info("%s", line, extra={"is_progress": True})

    def pictures(self, record: dict[str, Any], z: Tensor, found: evaluate.Clustering | None) -> None:
        """Show the pictures of an evaluation: z (N, D), the clean embedding, and its clusters in the joint phase."""
        from dkm.evaluation.figures.style import figure_to_png  # matplotlib, only where there is something to draw

        for name, figure in self._pictures(z, found):
            self.run.dashboard.image(f"{record['phase']}/images/{name}", record["step"], figure_to_png(figure))
        self._labels_before = None if found is None else found.labels

    def _pictures(self, z: Tensor, found: evaluate.Clustering | None) -> Iterator[tuple[str, Any]]:
        method, before = self._config.log.map, self._labels_before
        return pictures(self._autoencoder, self._evaluator, z, self._centroids, found, before, method)

    # --- the end ---

    def finish(
        self, result: dict[str, Any], scores: Scores, z: Tensor, found: evaluate.Clustering, at: Position
    ) -> None:
        """Write everything that a finished run has.

        Parameters
        ----------
        result : dict
            The content of ``result.json``, of which ``scores`` are those of the final clustering.
        z : Tensor of shape (N, D)
        found : evaluate.Clustering
            The final clusters of z.
        at : Position
        """
        run, data, config = self.run, self._data, self._config
        run.write_result(result)
        position = np.arange(data.n_samples) if data.position is None else data.position
        answers = Answers(position, data.ids, found.labels, found.distance, found.margin, data.labels)
        chosen = exemplars.find(answers, len(self._centroids))
        contrast = self._contrast(found.labels)
        run.write_answers(answers, chosen)
        if contrast is not None:
            names = data.features or [str(feature) for feature in range(data.n_features)]
            run.write_features(contrast, names, data.scaling)
        SavedModel.of(config, data, self._autoencoder, self._centroids, found.inertia).save(run.path / "model")
        step = at.step + 1
        if not isinstance(config.clustering, JointClusteringConfig):
            run.dashboard.baselines(at.step, at.baselines)
        if config.log.figures:
            self._draw(z, found, chosen, contrast, at)
        if config.log.tensorboard:
            shown = projection(self._autoencoder, self._evaluator, z, self._centroids, found)
            run.dashboard.projector(*shown)
        run.dashboard.scalars("result", step, scores)
        run.dashboard.hyperparameters(config, scores, run.given_settings())
        if doubt := report.doubt(at.raw, scores, len(self._centroids)):
            log.info("in doubt: %s", doubt)
            run.warnings.append(doubt)
        log.info("run directory: %s", run.path)
        table = report.table(at.raw, at.pretrained, scores, name=config.clustering.name)
        for line in table:
            log.info("%s", line)
        run.dashboard.text("table", "\n".join(table), step)
        self.end("completed", None, at)

    def end(self, status: str, reason: str | None, at: Position) -> None:
        """Write how the run ended: ``completed``, or interrupted or failed for a reason."""
        run = self.run
        run.update_manifest(
            status=status,
            reason=reason,
            warnings=run.warnings,
            seconds=at.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        # Behind the last step that there can be, not in the place of the manifest of the start.
        step = at.step + 1
        run.dashboard.text("manifest", json.dumps(run.manifest, indent=2), step)
        run.dashboard.text("warnings", "\n".join(run.warnings) or "none", step)

    def _contrast(self, labels: np.ndarray) -> exemplars.Contrast | None:
        """Return what sets the clusters of a table apart; None for images, and of one cluster."""
        K = len(self._centroids)
        if self._data.image_shape is not None or K == 1:
            return None
        return exemplars.contrast(self._evaluator.X, self._evaluator.sampled_labels(labels), K)

    def _draw(
        self,
        z: Tensor,
        found: evaluate.Clustering,
        chosen: list[exemplars.Exemplars],
        contrast: exemplars.Contrast | None,
        at: Position,
    ) -> None:
        from dkm.evaluation.figures.style import figure_to_png, save_png
        from dkm.evaluation.figures.training import loss_curves

        directory = self.run.path / "figures"
        directory.mkdir(exist_ok=True)
        (directory / "agreement.png").unlink(missing_ok=True)  # of a run that is made longer: there may be none now
        has_joint_phase = isinstance(self._config.clustering, JointClusteringConfig) and at.epoch > 0
        pictures = dict(self._pictures(z, found))
        finals = final_figures(self._data, self._evaluator, z, self._centroids, found, chosen, contrast)
        for name, figure in {**pictures, **dict(finals), "loss_curves": loss_curves(self.run.read_metrics())}.items():
            png = figure_to_png(figure)
            save_png(png, directory / f"{name}.png")
            self.run.dashboard.image(f"result/images/{name}", at.step + 1, png)
            if has_joint_phase and name in pictures:  # the evaluation after the last epoch has left them to us
                self.run.dashboard.image(f"joint/images/{name}", at.step, png)
