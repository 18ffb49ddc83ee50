"""``DeepKMeans``: the training of ``dkm.train`` behind scikit-learn's interface.

It composes the config that the command line would, gives the trainer an array instead of a file, and keeps the model.
"""

# Shapes: N samples, F features, D latent, K clusters.

from __future__ import annotations

import ast
import copy
import functools
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from dkm.clustering.labels import cluster_sizes, effective_clusters
from dkm.config.compose import compose, parse
from dkm.config.messages import kind_of
from dkm.config.run import Config, with_number
from dkm.config.schema import dotted, flatten
from dkm.config.short import key_of, translate
from dkm.config.values import as_value
from dkm.data.datasets import Dataset, array_dataset
from dkm.errors import UserError, reason
from dkm.evaluation import printed_scores
from dkm.evaluation.clusters import Clusters, assign_clusters, require_finite_distances
from dkm.evaluation.metrics import sample_neighbors
from dkm.evaluation.prediction import unit_doubt
from dkm.models.saved import SavedModel, load_model
from dkm.runs.directory import Unwritten
from dkm.runtime.devices import deterministic, standard_torch, threads
from dkm.training.n_clusters import Choice, find_number, with_largest_number
from dkm.training.trainer import Trainer

# The most rows of the graph in which ``score`` compares clusterings: as in a run's result.
_MOST_SCORED = 10_000

# The setting of a run that each parameter makes.
_KEYS = {
    "n_clusters": "clustering.n_clusters",
    "init": "clustering.init",
    "n_init": "clustering.n_init",
    "weight": "clustering.weight",
    "latent_dim": "model.latent_dim",
    "hidden": "model.hidden",
    "pretrain_epochs": "pretrain.epochs",
    "joint_epochs": "joint.epochs",
    "batch_size": "batch_size",
    "tol": "joint.tolerance",
    "random_state": "seed",
}
# Arrays keep their type, as files do on the command line: the scaling of whole numbers may be another one.
_ANY_NUMBERS = "numeric"
# Parameters whose names are no keys of the config.
_NO_KEYS = {"image_shape", "verbose", *(name for name, key in _KEYS.items() if name != key)}
# Settings that would have no effect on `fit`.
_REFUSED = {
    **dict.fromkeys(("data", "data.path"), "no choice of data, as X is the data"),
    "data.labels": "no labels, as `fit` does not score the clusters",
    "resume": "no run to resume, as `fit` starts anew",
    "hydra.run.dir": "no directory, as `fit` writes nothing and `save` takes one",
}
_FIXED = ("data=npy", "data.path=X", "log.progress=off")

FloatArray = npt.NDArray[np.float32]

# What the user must know, `fit` warns about. No command imports this module: their log messages reach the terminal.
logging.getLogger("dkm").addHandler(logging.NullHandler())


class DeepKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """k-means in the embedding of an autoencoder, both trained together.

    Several fits may run at the same time in threads, and threads may share a fitted model.

    Parameters
    ----------
    n_clusters : int or str
        Number of clusters. "auto" or "auto:A-B", with 2 <= A < B: the number from A to B, at most half of the rows,
        that is found before the training; "auto" is "auto:2-30".
    recipe : str, optional
        The settings to start from, ``recipe=`` of a run; None takes "auto". Parameters that are None leave their
        setting to the recipe.
    init : str, optional
        Method that finds the clusters from which the joint training starts; see ``clustering.init``.
    n_init : int, optional
        Number of restarts of k-means.
    weight : float, optional
        Weight of the clustering loss; see ``clustering.weight``. 0.1 for k-means unless the recipe has another.
    latent_dim : int, optional
        Number of dimensions of the embedding.
    hidden : sequence of int, optional
        Widths of the encoder's inner layers.
    pretrain_epochs, joint_epochs : int, optional
        Number of epochs of the two phases.
    batch_size : int, optional
        Number of rows in a training step.
    tol : float, optional
        The joint training stops when less than this fraction of the labels changes in an epoch; with labels that are
        held, as by the default recipe, when the nearest centroids give other labels to less than this fraction.
    random_state : int, RandomState instance or None
        Seed. With an int the results are those of ``python -m dkm.train seed=...`` on the same array, bit for bit.
    image_shape : tuple of int, optional
        (C, H, W) if each row is an image. The images are then augmented in training.
    verbose : bool or int
        Show, on standard error, how X is scaled and why, and a progress bar with the loss for each phase.
    config : mapping or sequence of str, optional
        Other settings of the run: ``{"joint.lr": 1e-4}`` or ``["optimizer=sgd", "precision=bf16"]``. It must not
        contradict the parameters above; those that are None leave their setting to ``config``.

    Attributes
    ----------
    labels_ : int64 ndarray, shape (N,)
        Cluster of each training row.
    cluster_centers_ : float32 ndarray, shape (K, D)
        Centroids in the embedding.
    inertia_ : float
        Sum of the squared distances of the training rows to their centroids, in the embedding.
    n_clusters_ : int
        Number of clusters, K.
    n_clusters_choice_ : dict or None
        How the number was found, as in ``result.json`` of a run: "n_clusters", the "range" that was compared, the
        "plausible" numbers, "reason", "warnings", and the mean "scores" of each number. None if it was given.
    n_iter_ : int
        Number of joint epochs that were run.
    data_report_ : dict
        What was recognized in X, as in ``data.json`` of a run: "scaling" says how X is scaled, "decisions" why.
    n_features_in_, feature_names_in_
        Number and names of the features, as in scikit-learn.
    model_ : SavedModel
        Preprocessing, autoencoder and centroids.
    """

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        recipe: str | None = None,
        init: str | None = None,
        n_init: int | None = None,
        weight: float | None = None,
        latent_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        pretrain_epochs: int | None = None,
        joint_epochs: int | None = None,
        batch_size: int | None = None,
        tol: float | None = None,
        random_state: Any = None,
        image_shape: Sequence[int] | None = None,
        verbose: bool | int = False,
        config: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.recipe = recipe
        self.init = init
        self.n_init = n_init
        self.weight = weight
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.pretrain_epochs = pretrain_epochs
        self.joint_epochs = joint_epochs
        self.batch_size = batch_size
        self.tol = tol
        self.random_state = random_state
        self.image_shape = image_shape
        self.verbose = verbose
        self.config = config

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # what the network computes in
        return tags

    # --- training ---

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on X (N, F); ``y`` is ignored. X is scaled as ``data.scaling`` says, by default as a table of a run is.

        Warns
        -----
        ConvergenceWarning
            If nearly all rows are in one cluster, or if a cluster has no rows.
        UserWarning
            If the number of clusters that was found is doubtful.

        Raises
        ------
        ValueError
            For a parameter, a setting or data that a run would refuse.
        """
        rows = validate_data(self, X, dtype=_ANY_NUMBERS)
        try:
            config = self._compose_config()
            if self.image_shape is not None:
                rows = self._as_images(rows)
            with threads(config.threads), standard_torch():
                data = array_dataset(rows, config.data, "X", features=getattr(self, "feature_names_in_", None))
                self._require_image_shape(data.image_shape)
                if self.verbose:
                    print(*data.report.lines(), sep="\n", file=sys.stderr)
                trainer, choice = self._build_trainer(config, data)
                run = Unwritten()
                run.shows_bars = bool(self.verbose)
                trainer.run(run)
                clusters = assign_clusters(trainer.embed(), trainer.clustering.centroids.detach())
                self.model_ = trainer.saved_model(clusters.inertia).to(torch.device("cpu"))
                self.model_.autoencoder.eval()  # so that `predict` need not switch it, which threads would share
        except UserError as error:
            raise ValueError(self._with_parameter_names(str(error))) from error
        self.labels_ = clusters.labels
        self.n_clusters_ = trainer.n_clusters
        self.n_clusters_choice_ = None if choice is None else choice.to_dict()
        self.inertia_ = clusters.inertia
        self.n_iter_ = trainer.progress.state.n_joint_epochs
        self.data_report_ = trainer.data.report.to_dict()
        self.cluster_centers_ = self.model_.centroids.numpy()
        self._n_features_out = len(self.cluster_centers_)
        for doubt in [] if choice is None else choice.recommendation.warnings:
            warnings.warn(self._with_parameter_names(f"n_clusters={self.n_clusters}: {doubt}"), stacklevel=2)
        if warning := self._clustering_warning():
            warnings.warn(warning, ConvergenceWarning, stacklevel=2)
        return self

    @staticmethod
    def _build_trainer(config: Config, data: Dataset) -> tuple[Trainer, Choice | None]:
        """Return the trainer, after the search for the number of clusters if the config asks for one."""
        trainer = Trainer(with_largest_number(config, data), data)
        with deterministic(config.deterministic):
            choice = find_number(config, data)
        if choice is None:
            return trainer, None
        number = choice.recommendation.n_clusters
        return Trainer(with_number(config, number), data, neighborhood=choice.neighborhood), choice

    def _as_images(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        given, n_features = self.image_shape, rows.shape[1]
        shape = tuple(given) if isinstance(given, Iterable) else ()
        if not shape or not all(isinstance(n, int | np.integer) and n >= 1 for n in shape):
            raise ValueError(
                f"image_shape={given!r}: expected (C, H, W), whole numbers of 1 or more; for example "
                "image_shape=(1, 28, 28)"
            )
        if math.prod(shape) != n_features:
            raise ValueError(f"image_shape={shape}: expected (C, H, W) with C * H * W = n_features={n_features}")
        return rows.reshape(len(rows), *shape)

    def _require_image_shape(self, read_as: tuple[int, int, int] | None) -> None:
        given = self.image_shape
        if given is not None and read_as not in (tuple(given), (1, *given)):
            raise ValueError(
                f"image_shape={tuple(given)}: expected (C, H, W), but it would be read as {read_as}; give the channels "
                "first, and the columns of X in that order"
            )

    def _clustering_warning(self) -> str | None:
        """Return what speaks against the clusters, in one line; None if nothing does."""
        K, sizes = self._n_features_out, cluster_sizes(self.labels_, self._n_features_out)
        n_with_rows = int(np.count_nonzero(sizes))
        if warning := printed_scores.clustering_warning(None, {"n_effective_clusters": effective_clusters(sizes)}, K):
            return self._with_parameter_names(warning)
        if n_with_rows < K:
            return f"n_clusters={K}: only {n_with_rows} clusters have rows; lower n_clusters, or train longer"
        return None

    # --- the config of the run ---

    def _compose_config(self) -> Config:
        """Return the config that the command line would have composed."""
        parameters = self._parameter_settings()
        seed = parameters["seed"] if "seed" in parameters else check_random_state(self.random_state).randint(2**31 - 1)
        others = {key: value for key, value in parameters.items() if key != "seed"}
        recipe = () if self.recipe is None else (f"recipe={self.recipe}",)
        config = _composed((*_FIXED, *recipe, *_overrides(others), *self._config_overrides()), int(seed))
        config.evaluation.kmeans_raw = False  # nobody sees the baseline; joint.guard runs it where it needs it
        settings = dotted(config)
        for name, key in _KEYS.items():
            if key in parameters and not _is_equal(settings[key], parameters[key]):
                raise ValueError(
                    f"{name}={parameters[key]}: expected no other value in config, got "
                    f"{key}={_override_value(settings[key])}; leave {key} out of config"
                )
        return config

    def _parameter_settings(self) -> dict[str, Any]:
        """Return the settings that the parameters make, by their keys; a parameter that is None makes none."""
        settings = {key: getattr(self, name) for name, key in _KEYS.items()}
        hidden: Any = self.hidden
        if hidden is not None:
            if isinstance(hidden, str) or not isinstance(hidden, Iterable):
                raise ValueError(f"hidden={hidden!r}: expected a sequence of widths; for example hidden=(500, 500)")
            settings["model.hidden"] = list(hidden)
        if not isinstance(self.random_state, int | np.integer):
            del settings["seed"]
        return {key: value for key, value in settings.items() if value is not None}

    def _config_overrides(self) -> list[str]:
        """Return ``config`` as overrides KEY=VALUE, short names as the keys that they stand for."""
        config = self.config if self.config is not None else ()
        if isinstance(config, str):
            raise ValueError(f"config={config!r}: expected a mapping or a sequence; write config=[{config!r}]")
        overrides = _overrides(flatten(config)) if isinstance(config, Mapping) else list(config)
        for word in overrides:
            name, _, value = word.lstrip("+~").partition("=")
            if name in _NO_KEYS:
                raise ValueError(
                    f"config: {name}={value} is no key of the config; expected keys such as joint.lr; give the "
                    f"parameter {name}={_python_value(value)}"
                )
            if refusal := _REFUSED.get(key_of(name)):
                raise ValueError(f"config: expected {refusal}; leave {word} out of config")
        try:
            return translate(overrides)
        except UserError as error:
            raise ValueError(f"config: {error}") from error

    def _with_parameter_names(self, message: str) -> str:
        """Return a message about settings with the names of the parameters that made them; other keys stay."""
        given = {override.lstrip("+~").partition("=")[0] for override in self._config_overrides()}
        for name, key in _KEYS.items():
            if key not in given:
                # `seed` and `batch_size` are words of prose too.
                end = r"(?![\w.])" if "." in key else r"(?==)"
                message = re.sub(rf"(?<![\w.]){re.escape(key)}{end}", name, message)
        return message

    # --- a fitted model ---

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Return the cluster of each row of X (N, F). A feature with one value in training is ignored.

        Warns
        -----
        UserWarning
            If X seems to be in another unit than the training rows. So do ``transform``, ``embed`` and ``score``.
        """
        _, _, clusters = self._cluster(X)
        return clusters.labels

    def transform(self, X: Any) -> FloatArray:
        """Return the Euclidean distance of each row of X (N, F) to each centroid, in the embedding: (N, K)."""
        with standard_torch():
            _, z, _ = self._cluster(X)
            distances: FloatArray = torch.cdist(z.double(), self.model_.centroids.double()).float().numpy()
        return distances

    def embed(self, X: Any) -> FloatArray:
        """Return the encoder's output for each row of X (N, F): (N, D)."""
        with standard_torch():
            rows = self._rows(X, stacklevel=3)
            embedding: FloatArray = self.model_.embed(rows).numpy()
        return embedding

    def score(self, X: Any, y: Any = None) -> float:
        """Return the modularity of the clusters of X in the data, not in the embedding; ``y`` is ignored.

        The graph is that of the 20 nearest neighbors of X, scaled as in training; of fewer than 160 rows, of an eighth
        of them and at least 2. Of more than 10,000 rows, 10,000 random ones are compared; of more than 100 features,
        their first 100 principal components, unless X are images or embeddings. Higher is better. It compares models,
        unlike the inertia in the embedding, which any setting can shrink.
        """
        rows, _, clusters = self._cluster(X)
        is_image = self.model_.image_shape is not None
        neighbors = sample_neighbors(rows.numpy(), _MOST_SCORED, is_image=is_image)
        return 0.0 if neighbors is None else neighbors.modularity(clusters.labels)

    def _cluster(self, X: Any) -> tuple[Tensor, Tensor, Clusters]:
        """Return the scaled rows (N, F) of X, their embedding (N, D) and their clusters."""
        with standard_torch():
            rows = self._rows(X, stacklevel=4)
            z = self.model_.embed(rows)
            clusters = assign_clusters(z, self.model_.centroids)
        try:
            require_finite_distances(clusters, np.arange(len(rows)), "X")
        except UserError as error:
            raise ValueError(str(error)) from error
        return rows, z, clusters

    def _rows(self, X: Any, stacklevel: int) -> Tensor:
        """Return the scaled rows (N, F) of X; ``stacklevel`` is that of the user's call, for a warning."""
        check_is_fitted(self)
        fill = self.model_.fill  # a run may have filled gaps in its data; `fit` does not
        finite = True if fill is None else "allow-nan"
        rows = validate_data(self, X, dtype=_ANY_NUMBERS, reset=False, ensure_all_finite=finite)
        if fill is not None and rows.dtype.kind == "f":
            rows = np.where(np.isnan(rows), np.array(fill), rows)
        if (doubt := unit_doubt(self.model_.scaling, rows, self.model_.features)) is not None:
            warnings.warn(f"X: {doubt}", stacklevel=stacklevel)
        with np.errstate(over="ignore"):
            scaled = self.model_.scaling.apply(rows)
        if not np.isfinite(scaled).all():
            raise ValueError("X: expected values that are finite as float32 once they are scaled; correct the largest")
        return torch.from_numpy(scaled)

    # --- files ---

    def save(self, directory: str | Path) -> None:
        """Write the ``model/`` folder that ``dkm.predict``, ``dkm.export`` and ``load`` read.

        Raises
        ------
        ValueError
            If the folder cannot be written.
        """
        check_is_fitted(self)
        folder = Path(directory).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.model_.save(folder / "model")
        except OSError as error:
            what = f"cannot be written ({reason(error)}); expected a folder; choose another"
            raise ValueError(f"directory={directory}: {what}") from error

    @classmethod
    def load(cls, run: str | Path, *, model_class: str | None = None) -> DeepKMeans:
        """Return an estimator with the model of a run directory, without the attributes of the training rows.

        Parameters
        ----------
        run : str or Path
        model_class : str, optional
            Of a run with ``model=custom``, the dotted name of its class.

        Raises
        ------
        ValueError
            If there is no model.
        """
        try:
            model: SavedModel = load_model(str(run), model_class=model_class)
        except UserError as error:
            raise ValueError(str(error)) from error
        estimator = cls(model.n_clusters, latent_dim=model.centroids.shape[1], image_shape=model.image_shape)
        estimator.model_ = model
        estimator.cluster_centers_ = model.centroids.numpy()
        estimator.n_features_in_ = model.scaling.n_features
        estimator._n_features_out = estimator.n_clusters_ = model.n_clusters
        estimator.n_clusters_choice_ = None  # the manifest of the run has it, a model folder has none
        if model.features is not None:
            estimator.feature_names_in_ = np.array(model.features, dtype=object)
        return estimator


def _composed(words: tuple[str, ...], seed: int) -> Config:
    """Return the config of the words and a seed, unless the words have one.

    To compose takes four times as long as the rest of a small fit, and an estimator is often fitted again with another
    seed.
    """
    if any(word.lstrip("+~").startswith(("seed=", "plugins=")) for word in words):
        return compose(parse([f"seed={seed}", *words])).config
    return replace(copy.deepcopy(_composed_without_seed(words, os.getcwd())), seed=seed)  # noqa: PTH109


@functools.lru_cache(maxsize=64)
def _composed_without_seed(words: tuple[str, ...], folder: str) -> Config:
    """Return the config; the working directory is in the key because relative paths have become absolute in it."""
    return compose(parse(list(words))).config


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings as overrides KEY=VALUE; short names stay."""
    return [
        f"{name}={_override_value(value, is_text=kind_of(key_of(name)).startswith('text'))}"
        for name, value in settings.items()
    ]


def _python_value(text: str) -> str:
    """Return the value of an override as Python writes it."""
    if text in ("null", "true", "false"):
        return {"null": "None", "true": "True", "false": "False"}[text]
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return repr(text)
    return text


def _override_value(value: Any, *, is_text: bool = False) -> str:
    """Return a value as Hydra reads it; if ``is_text``, a text such as 1e3 or true stays one."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_override_value, value))}]"
    text = str(value)
    # Lists, mappings and quoted text that the user has written as an override may have any characters.
    if text == "null" or text[:1] in ("[", "{", "'", '"', "$"):
        return text
    is_plain = re.fullmatch(r"[\w./+-]*", text, re.ASCII) is not None and not is_text
    return text if is_plain else as_value(text)


def _is_equal(setting: Any, given: Any) -> bool:
    """Return whether a setting is what was given, perhaps as another type: 0.0 for 0, or 256 for "256"."""
    return bool(setting == given) or _override_value(setting) == _override_value(given)
