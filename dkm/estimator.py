"""``DeepKMeans``: the same training as ``dkm.train``, behind scikit-learn's interface.

It composes the config that the command line would, gives the trainer the array instead of a file, and keeps the model.
"""

# Shapes: N samples, F features, D latent, K clusters.

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
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
from dkm.config.run import Config
from dkm.data.datasets import array_dataset
from dkm.errors import UserError
from dkm.evaluation import report
from dkm.evaluation.clusters import Clusters, assign_clusters
from dkm.evaluation.metrics import sample_neighbors
from dkm.models.saved import SavedModel, load_model
from dkm.runs.directory import Unwritten
from dkm.runtime.devices import threads
from dkm.training.trainer import Trainer

# The most rows of the graph in which ``score`` compares clusterings: as in a run's result.
_MOST_SCORED = 10_000

FloatArray = npt.NDArray[np.float32]


class DeepKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """k-means in the embedding of an autoencoder, both trained together.

    Parameters
    ----------
    n_clusters : int
        The number of clusters.
    init : str
        How the clusters are found that the joint training starts from; see ``clustering.init``.
    n_init : int
        Restarts of k-means; of those within 3 % of the lowest inertia the one with the most even sizes is taken, see
        ``clustering.balance_slack``.
    weight : float, optional
        Of the clustering loss beside the reconstruction error, see ``clustering.weight``; that of the method if None,
        0.1 for k-means.
    latent_dim : int, optional
        Dimensions of the embedding; the number of clusters if None.
    hidden : sequence of int, optional
        Widths of the encoder's inner layers; 500, 500 and 2000 if None.
    pretrain_epochs, joint_epochs : int
        Epochs of the two phases.
    batch_size : int
        Rows of a training step.
    tol : float
        The joint training stops when less than this fraction of the labels changes in an epoch.
    random_state : int, RandomState instance or None
        The seed. With an int the results are those of ``python -m dkm.train seed=...`` on the same array, bit for bit.
    image_shape : tuple of int, optional
        (C, H, W) if each row is an image, which is then augmented as images are.
    config : mapping or sequence of str, optional
        More settings of the run: ``{"joint.lr": 1e-4}`` or ``["optimizer=sgd", "precision=bf16"]``.

    Attributes
    ----------
    labels_ : int64 ndarray, shape (N,)
        The cluster of each training row.
    cluster_centers_ : float32 ndarray, shape (K, D)
        The centroids, in the embedding.
    inertia_ : float
        Sum of the squared distances of the training rows to their centroids, in the embedding.
    n_iter_ : int
        Joint epochs that were run.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    model_ : SavedModel
        Preprocessing, autoencoder and centroids.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str = "k-means++",
        n_init: int = 20,
        weight: float | None = None,
        latent_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        pretrain_epochs: int = 100,
        joint_epochs: int = 50,
        batch_size: int = 256,
        tol: float = 0.001,
        random_state: Any = None,
        image_shape: Sequence[int] | None = None,
        config: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> None:
        self.n_clusters = n_clusters
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
        self.config = config

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # what the network computes in
        return tags

    # --- training ---

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on X (N, F); ``y`` is ignored.

        Warns
        -----
        ConvergenceWarning
            If nearly all rows are in one cluster.

        Raises
        ------
        ValueError
            For a setting or data that a run would refuse.
        """
        rows = validate_data(self, X, dtype=[np.float64, np.float32])
        try:
            config = self._composed()
            if self.image_shape is not None:
                rows = rows.reshape(len(rows), *self.image_shape)
            with threads(config.threads):
                data = array_dataset(rows, config.data, "X")
                self._require_image_shape(data.image_shape)
                trainer = Trainer(config, data)
                trainer.run(Unwritten())
                found = assign_clusters(trainer.embed(), trainer.clustering.centroids.detach())
        except UserError as error:
            raise ValueError(str(error)) from error
        self.model_ = trainer.saved_model(found.inertia).to(torch.device("cpu"))
        self.labels_ = found.labels
        self.inertia_ = found.inertia
        self.n_iter_ = trainer.at.epoch
        self.cluster_centers_ = self.model_.centroids.numpy()
        K = self._n_features_out = len(self.cluster_centers_)
        n_effective = effective_clusters(cluster_sizes(found.labels, K))
        if warning := report.clustering_warning(None, {"n_effective_clusters": n_effective}, K):
            warnings.warn(warning, ConvergenceWarning, stacklevel=2)
        return self

    def _require_image_shape(self, found: tuple[int, int, int] | None) -> None:
        given = self.image_shape
        if given is not None and found not in (tuple(given), (1, *given)):
            raise ValueError(
                f"image_shape={tuple(given)}: expected (C, H, W), but it would be read as {found}; give the channels "
                "first, and the columns of X in that order"
            )

    def _composed(self) -> Config:
        """Return the config that the command line would have composed."""
        given = self.config if self.config is not None else ()
        words = [f"{k}={_shown(v)}" for k, v in given.items()] if isinstance(given, Mapping) else list(given)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        own = {
            "clustering.n_clusters": self.n_clusters,
            "clustering.init": self.init,
            "clustering.n_init": self.n_init,
            "model.latent_dim": self.latent_dim,
            "pretrain.epochs": self.pretrain_epochs,
            "joint.epochs": self.joint_epochs,
            "joint.tolerance": self.tol,
            "batch_size": self.batch_size,
            "seed": int(seed),
        }
        # Not every method has a weight, nor every network these layers.
        own |= {} if self.weight is None else {"clustering.weight": self.weight}
        own |= {} if self.hidden is None else {"model.hidden": list(self.hidden)}
        fixed = ["data=npy", "data.path=X", "log.progress=off", "evaluation.kmeans_raw=false"]
        return compose(parse([*fixed, *(f"{key}={_shown(value)}" for key, value in own.items()), *words])).config

    # --- a fitted model ---

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Return the cluster of each row of X (N, F)."""
        return self._cluster(X)[1].labels

    def transform(self, X: Any) -> FloatArray:
        """Return the Euclidean distance of each row of X (N, F) to each centroid, in the embedding: (N, K)."""
        distances: FloatArray = torch.cdist(self._embedded(X).double(), self.model_.centroids.double()).float().numpy()
        return distances

    def embed(self, X: Any) -> FloatArray:
        """Return the encoder's output for each row of X (N, F): (N, D)."""
        embedding: FloatArray = self._embedded(X).numpy()
        return embedding

    def score(self, X: Any, y: Any = None) -> float:
        """Return how far the clusters of X hang together in the data themselves; ``y`` is ignored.

        The modularity of the labels in the graph of the 20 nearest neighbors of X (scaled as in training). Unlike an
        inertia in the embedding, which any setting can shrink, it compares models: higher is better.
        """
        rows, found = self._cluster(X)
        neighbors = sample_neighbors(rows.numpy(), _MOST_SCORED)
        return 0.0 if neighbors is None else neighbors.modularity(found.labels)

    def _embedded(self, X: Any) -> Tensor:
        return self.model_.embed(self._rows(X))

    def _cluster(self, X: Any) -> tuple[Tensor, Clusters]:
        rows = self._rows(X)
        return rows, assign_clusters(self.model_.embed(rows), self.model_.centroids)

    def _rows(self, X: Any) -> Tensor:
        check_is_fitted(self)
        fill = self.model_.fill  # of a run's model that filled gaps: None after `fit`
        finite = True if fill is None else "allow-nan"
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False, ensure_all_finite=finite)
        if fill is not None:
            rows = np.where(np.isnan(rows), np.asarray(fill, rows.dtype), rows)
        return torch.from_numpy(self.model_.scaling.apply(rows))

    # --- files ---

    def save(self, directory: str | Path) -> None:
        """Write the ``model/`` folder that ``dkm.predict``, ``dkm.export`` and ``load`` read."""
        check_is_fitted(self)
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.model_.save(folder / "model")

    @classmethod
    def load(cls, run: str | Path) -> DeepKMeans:
        """Return the estimator with the model of a run directory; what was said of the training rows is not there.

        Raises
        ------
        ValueError
            If there is no model.
        """
        try:
            model: SavedModel = load_model(str(run))
        except UserError as error:
            raise ValueError(str(error)) from error
        estimator = cls(model.n_clusters, latent_dim=model.centroids.shape[1], image_shape=model.image_shape)
        estimator.model_ = model
        estimator.cluster_centers_ = model.centroids.numpy()
        estimator.n_features_in_ = model.scaling.n_features
        estimator._n_features_out = model.n_clusters
        if model.features is not None:
            estimator.feature_names_in_ = np.array(model.features, dtype=object)
        return estimator


def _shown(value: Any) -> str:
    """Return a setting as an override has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    return str(value)
