"""The TensorBoard events of a run: the same tags, charts and figures for every run, so that runs can be compared.

Tags are ``phase/group/name``. The charts of the tab Custom Scalars group them, and show scores together with those of
the two baselines. tensorboard is imported where it is used, because it takes long to load.
"""

# Shapes: N points, D latent, K clusters, C channels, H height, W width.

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dkm.config.messages import defaults
from dkm.config.roles import role_of
from dkm.config.run import Config
from dkm.config.schema import dotted
from dkm.evaluation.scores import SCORES, Score
from dkm.runs.sinks.base import ScoresOf, Sink, SinkContext

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# The largest width and height in pixels of a sprite image that TensorBoard's projector loads.
_SPRITE_PIXELS = 8192
_PROJECTOR = "projector"
BASELINES = ("kmeans_raw", "kmeans_pretrained")
# Hyperparameters that identify runs with otherwise equal settings.
_ALWAYS_SHOWN = ("clustering.n_clusters", "clustering.name", "seed")


def compared_scores() -> list[Score]:
    """Return the scores that are drawn together with those of the baselines, as they compare clusterings."""
    return [score for score in SCORES.values() if score.on_the_way and score.compares_clusterings]


def scalars_of(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers of an evaluation's record by their names, without its position and the cluster sizes."""
    return {name: value for name, value in record.items() if name not in ("phase", "epoch", "step", "clusters/sizes")}


def baseline_scalars(scores: ScoresOf) -> dict[str, float | None]:
    """Return the scores of the baselines by the names of their curves; ``scores`` maps their names to their scores."""
    known = {baseline: values or {} for baseline, values in scores.items()}
    return {f"{name}/{score.name}": known[name].get(score.name) for name in known for score in compared_scores()}


def layout(*, has_labels: bool) -> dict[str, dict[str, list[Any]]]:
    """Return the charts of Custom Scalars, each with the tags of its curves.

    Charts of scores that need labels are left out without labels; TensorBoard shows the union of the charts of all
    runs.
    """

    def chart(*tags: str) -> list[Any]:
        return ["Multiline", list(tags)]

    compared = [score.name for score in compared_scores() if has_labels or not score.needs_labels]
    in_embedding = [score.name for score in SCORES.values() if score.on_the_way and score.space == "embedding"]
    return {
        "Loss": {
            "pretraining, weighted terms": chart("pretrain/loss/total", "pretrain/loss_weighted/.*"),
            "joint phase, weighted terms": chart("joint/loss/total", "joint/loss_weighted/.*"),
            "joint phase, raw terms": chart("joint/loss/(reconstruction|clustering)"),
        },
        "Scores and baselines": {
            name: chart(f"joint/metrics/{name}", *(f"baseline/{baseline}/{name}" for baseline in BASELINES))
            for name in compared
        },
        "Scores in the embedding": {name: chart(f"joint/metrics/{name}") for name in in_embedding},
        "Clusters": {
            "labels that changed": chart("joint/clusters/label_change"),
            "dead and revived": chart("joint/clusters/n_dead", "joint/clusters/n_revived"),
            "centroids": chart("joint/clusters/centroid_drift", "joint/clusters/smallest_centroid_distance"),
            "variance of the embedding": chart("(pretrain|joint)/embedding/variance"),
        },
        "Optimizer": {
            "learning rate": chart("(pretrain|joint)/optimizer/lr"),
            "gradient norm": chart("(pretrain|joint)/optimizer/gradient_norm"),
        },
    }


class Dashboard(Sink):
    """Writes the events of one run.

    Parameters
    ----------
    path : Path
        The run directory.
    step : int, optional
        The step of the checkpoint to continue from: events after it are dropped. None for a new run.
    has_labels : bool
        Whether the charts have the scores that need labels.
    config : Config, optional
        The settings for the HParams entry, which a result adds; None for a dashboard without one.

    Attributes
    ----------
    is_new : bool
        Whether the run had no events before.
    """

    shows_images = True

    def __init__(self, path: Path, step: int | None, *, has_labels: bool, config: Config | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__()
        self._config = config
        has_events = any(path.glob("events.out.tfevents*"))
        self.is_new = not has_events
        self._restore_hook = _silence_writer_thread()
        first = 0 if step is None else step + 1
        self._path = path
        self._writer: SummaryWriter = SummaryWriter(str(path), purge_step=first if has_events else None)
        if self.is_new or step is None:
            self._writer.add_custom_scalars(layout(has_labels=has_labels))

    @classmethod
    def open(cls, context: SinkContext) -> Dashboard:
        return cls(context.path, context.step, has_labels=context.has_labels, config=context.config)

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._restore_hook()

    def flush(self) -> None:
        self._writer.flush()

    def record(self, record: Mapping[str, Any], baselines: ScoresOf) -> None:
        phase, step = record["phase"], record["step"]
        self.scalars(phase, step, scalars_of(record))
        if "clusters/sizes" in record:
            self.sizes(f"{phase}/clusters/sizes", step, record["clusters/sizes"])
            self.baselines(step, baselines)

    def scalars(self, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        """Write tags ``phase/group/name``; None leaves a gap in the curve."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{phase}/{name}", value, step)

    def baselines(self, step: int, scores: ScoresOf) -> None:
        """Continue the lines of the baselines."""
        self.scalars("baseline", step, baseline_scalars(scores))

    def sizes(self, tag: str, step: int, sizes: Sequence[int]) -> None:
        """Write the cluster sizes (K,) as a histogram whose bar k is the size of cluster k."""
        index = np.arange(len(sizes))
        self._writer.add_histogram_raw(
            tag,
            min=0,
            max=len(sizes),
            num=sum(sizes),
            sum=float(np.dot(index, sizes)),
            sum_squares=float(np.dot(index**2, sizes)),
            bucket_limits=(index + 1.0).tolist(),
            bucket_counts=list(sizes),
            global_step=step,
        )

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Write an RGB image from the content of a PNG file; ``SummaryWriter.add_image`` would encode it again."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = Image.open(BytesIO(png)).size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Write text as preformatted lines."""
        self._writer.add_text(tag, "    " + text.replace("\n", "\n    "), step)  # Markdown leaves indented text alone

    def result(self, step: int, scores: Mapping[str, float | None], given: Collection[str]) -> None:
        self.scalars("result", step, scores)
        if self._config is not None:
            self.hyperparameters(self._config, scores, given)

    def hyperparameters(self, config: Config, metrics: Mapping[str, float | None], given: Container[str] = ()) -> None:
        """Write the HParams entry into the events of this run; ``SummaryWriter.add_hparams`` would add a sub-run.

        TensorBoard takes the columns from an arbitrary run, so every run has the columns of all: also the settings of
        other methods and data sets, and metrics that are undefined here.

        Parameters
        ----------
        config : Config
        metrics : mapping
            What ``scalars`` wrote under ``result``; None where a metric is undefined.
        given : container of keys
            Settings that the user gave: TensorBoard shows their columns first, together with a few others.
        """
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard.summary import hparams

        def cells(values: Mapping[str, Any]) -> dict[str, Any]:
            return {
                key: value if isinstance(value, bool | int | float | str) else str(value)
                for key, value in values.items()
                if role_of(key).is_hyperparameter
            }

        settings = dotted(config)
        columns = dict.fromkeys(f"result/{name}" for name in metrics)
        experiment, *_ = hparams(cells(defaults() | settings), columns)  # type: ignore[no-untyped-call]
        _, *session = hparams(cells(settings), {})  # type: ignore[no-untyped-call]
        plugin_data = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin_data.content)
        for info in content.experiment.hparam_infos:  # columns that differ come first, the others in alphabetical order
            info.differs = info.name in given or info.name in _ALWAYS_SHOWN
        plugin_data.content = content.SerializeToString()
        for summary in (experiment, *session):
            self._add_summary(summary)

    def projector(self, Z: np.ndarray, columns: Mapping[str, Sequence[object]], images: np.ndarray | None) -> None:
        """Write points for the projector.

        Parameters
        ----------
        Z : float array, shape (N, D)
        columns : mapping of name to N values
            Properties that points can be colored and searched by; at least two columns.
        images : float array, shape (N, C, H, W), optional
            Values in [0, 1]; downsampled if they exceed the largest sprite image.
        """
        from PIL import Image

        N, D = Z.shape
        folder = self._path / _PROJECTOR
        folder.mkdir(exist_ok=True)
        np.savetxt(folder / "tensors.tsv", Z, fmt="%.6g", delimiter="\t")
        rows = zip(*columns.values(), strict=True)
        lines = ["\t".join(str(cell) for cell in row) for row in (tuple(columns), *rows)]
        (folder / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        sprite = ""
        side = math.ceil(math.sqrt(N))
        if images is not None:
            every = math.ceil(side * max(images.shape[2:]) / _SPRITE_PIXELS)
            images = images[:, :, ::every, ::every]
            _, _, H, W = images.shape
            Image.fromarray(mosaic(images, side)).save(folder / "sprite.png")
            sprite = (
                f'  sprite {{ image_path: "{_PROJECTOR}/sprite.png" single_image_dim: {W} single_image_dim: {H} }}\n'
            )
        text = (
            f'embeddings {{\n  tensor_name: "embedding"\n  tensor_shape: {N}\n  tensor_shape: {D}\n'
            f'  tensor_path: "{_PROJECTOR}/tensors.tsv"\n  metadata_path: "{_PROJECTOR}/metadata.tsv"\n{sprite}}}\n'
        )
        (self._path / "projector_config.pbtxt").write_text(text, encoding="utf-8")

    def _add_summary(self, summary: Any, step: int | None = None) -> None:
        self._writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]


def _silence_writer_thread() -> Callable[[], None]:
    """Print no traceback of the thread that writes events; return a function that undoes it.

    Its error, such as a full disk, is raised again by the next call of the writer, and ends the run with one line.
    """
    from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not (isinstance(arguments.thread, _AsyncWriterThread) and issubclass(arguments.exc_type, OSError)):
            before(arguments)

    def restore() -> None:
        if threading.excepthook is hook:
            threading.excepthook = before

    threading.excepthook = hook
    return restore


def mosaic(images: np.ndarray, side: int) -> np.ndarray:
    """Tile images (N, C, H, W) in [0, 1] into ``side`` rows of ``side`` images: uint8 (side * H, side * W, 3)."""
    N, _, H, W = images.shape
    pixels = np.zeros((side * side, H, W, 3), np.uint8)
    pixels[:N] = np.round(images.transpose(0, 2, 3, 1).clip(0, 1) * 255)  # a gray channel is broadcast to all three
    return pixels.reshape(side, side, H, W, 3).swapaxes(1, 2).reshape(side * H, side * W, 3)
