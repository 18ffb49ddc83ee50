"""Settings of the group ``clustering``: one dataclass for each method."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from dkm.config.checks import require, require_at_least, require_choice, require_non_negative, require_positive

INITS = ("k-means++", "random", "gmm", "spectral", "ward", "auto", "uniform", "file")


ASSIGNMENTS = ("epoch", "batch")


CENTROIDS = ("gradient", "mean", "fixed")


ALPHA_SCHEDULES = ("constant", "annealed")


@dataclass
class ClusteringConfig:
    name: str = MISSING
    # null: the number of classes where the data set has labels.
    n_clusters: int | None = None
    # The clusters that the joint phase starts from. k-means on the embedding, started by k-means++ | random (distinct
    # points). Other clusterings of the embedding, which see stretched clouds: gmm (mixture of Gaussians with full
    # covariances) | spectral (on the graph of nearest neighbors) | ward | auto (all these and
    # k-means, improved point by point, and then the one with the highest modularity in the graph of nearest neighbors).
    # Or no clustering: uniform (centroids drawn from -1 to 1 in each dimension) | file (init_file).
    init: str = "k-means++"
    # With init=file, a .npy file of the cluster of each point, integers (N,), or of centroids, floats (K, D).
    init_file: str | None = None
    # Restarts of k-means: on the raw data the one with the lowest inertia wins, on the embedding see balance_slack.
    n_init: int = 20
    # Restarts on the embedding whose inertia is within this fraction of the lowest count as equal, and the one with the
    # most even cluster sizes wins: two classes under one centroid and another one halved show in the sizes, hardly in
    # the inertia. 0: the lowest inertia. k-means on the raw data always takes the lowest.
    balance_slack: float = 0.03
    # Of more points than this, k-means, on the raw data and on the embedding, sees a fixed random sample of this many;
    # all points are then assigned to the centroids that it found. Of rows on disk, no more than take 1 GiB.
    init_samples: int = 100_000

    # gmm, spectral, ward and auto find the clusters on at most this many points; the others follow their neighbors.
    partition_samples: int = 10_000
    # Of the graph of spectral; auto has it from one to four times as wide.
    n_neighbors: int = 20
    # auto: candidates whose modularity is within this of the highest count as equal, and the one with the most even
    # cluster sizes wins, as with balance_slack. 0: the highest modularity.
    modularity_slack: float = 0.002

    def __post_init__(self) -> None:
        if self.n_clusters is not None:
            require_at_least("clustering.n_clusters", self.n_clusters, 1, 10)
        require_at_least("clustering.partition_samples", self.partition_samples, 1, 10_000)
        require_at_least("clustering.n_neighbors", self.n_neighbors, 1, 20)
        require_non_negative("clustering.modularity_slack", self.modularity_slack, "0.002")
        require_choice("clustering.init", self.init, INITS)
        ok = (self.init == "file") == (self.init_file is not None)
        expected = "a .npy file, with clustering.init=file and only then"
        require(ok, "clustering.init_file", self.init_file, expected, "set both or neither")
        require_at_least("clustering.n_init", self.n_init, 1, 20)
        require_non_negative("clustering.balance_slack", self.balance_slack, "0.03")
        require_at_least("clustering.init_samples", self.init_samples, 1, 100_000)
        if self.n_clusters is not None:
            ok = self.init_samples >= self.n_clusters
            expected = f"at least clustering.n_clusters={self.n_clusters}"
            require(ok, "clustering.init_samples", self.init_samples, expected, "raise it")
            ok = self.partition_samples >= self.n_clusters
            require(ok, "clustering.partition_samples", self.partition_samples, expected, "raise it")


@dataclass
class JointClusteringConfig(ClusteringConfig):
    """What all clustering losses have."""

    # Of the clustering loss (summed over latent dimensions, mean over samples) beside the reconstruction.
    weight: float = 0.1
    # Of the reconstruction in the joint phase. 0: the decoder stays as pretraining left it.
    reconstruction: float = 1.0
    # Every so many joint epochs, mix fresh weights into the encoder, all layers but the last, and cluster the embedding
    # anew by k-means (BRB, arXiv 2411.02275). null: never.
    reset_every: int | None = None
    # Of the fresh weights in the mixture.
    reset_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_non_negative("clustering.weight", self.weight, "0.1")
        require_non_negative("clustering.reconstruction", self.reconstruction, "1")
        if self.reset_every is not None:
            require_at_least("clustering.reset_every", self.reset_every, 1, 20)
        key, ok = "clustering.reset_fraction", 0 <= self.reset_fraction <= 1
        require(ok, key, self.reset_fraction, "a number from 0 to 1", f"for example {key}=0.2")


@dataclass
class KMeansConfig(JointClusteringConfig):
    """The k-means loss with learnable centroids."""

    name: str = "kmeans"
    # epoch: from one clean pass over all data, held for the epoch | batch: the nearest centroid in every batch.
    assignment: str = "epoch"
    # With assignment=epoch, keep the labels that the phase starts with for its first epochs: the centroids are not yet
    # where the nearest one is the right one. 1: those of the first epoch only.
    initial_epochs: int = 1
    # Move a centroid that no point is assigned to onto the point that is worst served, and reset its optimizer state.
    revive: bool = True
    # gradient: learned with the network | mean: set after every epoch to the mean of its points, the minimum of the
    # loss | fixed: as the joint phase found them.
    centroids: str = "gradient"
    # In each epoch but the first, leave out the points that are farther from their centroids than the mean distance
    # plus a multiple of its standard deviation that grows from 0 to 1 over the phase (ASPC-DA).
    self_paced: bool = False
    # Of -|z|^2 in the loss, against the gain from a shrinking embedding; 1 in soft regularized k-means.
    norm_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("clustering.assignment", self.assignment, ASSIGNMENTS)
        require_at_least("clustering.initial_epochs", self.initial_epochs, 1, 3)
        require_choice("clustering.centroids", self.centroids, CENTROIDS)
        require_non_negative("clustering.norm_weight", self.norm_weight, "0")
        is_held = self.assignment == "epoch"
        for key, ok in (("self_paced", not self.self_paced), ("centroids", self.centroids != "mean")):
            expected = "clustering.assignment=epoch beside it"
            require(ok or is_held, f"clustering.{key}", getattr(self, key), expected, "hold the assignments")


@dataclass
class DKMConfig(JointClusteringConfig):
    """Deep k-means: the mean over centroids of the squared distances, weighted by a softmin (arXiv:1806.10069)."""

    name: str = "dkm"
    # As with assignments for each batch, a large weight empties clusters.
    weight: float = 0.01
    # constant: alpha | annealed: from alpha_start upwards, by less and less, once in epochs_per_alpha epochs.
    schedule: str = "constant"
    # Inverse temperature of the softmin; 1000 is nearly the hard minimum.
    alpha: float = 1000.0
    alpha_start: float = 0.1
    epochs_per_alpha: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("clustering.schedule", self.schedule, ALPHA_SCHEDULES)
        require_positive("clustering.alpha", self.alpha, "1000")
        require_positive("clustering.alpha_start", self.alpha_start, "0.1")
        require_at_least("clustering.epochs_per_alpha", self.epochs_per_alpha, 1, 5)


@dataclass
class DCNConfig(JointClusteringConfig):
    """Deep clustering network: the k-means loss, and centroids that are running means (arXiv:1610.04794)."""

    name: str = "dcn"
    # What each centroid counts as at the start, in points: the n-th point after that moves it by 1 / (count + n) of the
    # way. 100 in the authors' code, not in the paper.
    count: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("clustering.count", self.count, 0, 100)


@dataclass
class DECConfig(JointClusteringConfig):
    """Deep embedded clustering: Student's t assignments drawn towards sharper ones, no decoder (arXiv:1511.06335)."""

    name: str = "dec"
    weight: float = 1.0
    reconstruction: float = 0.0
    # Steps from one computation of the targets, from all data, to the next. null: once before every epoch.
    update_interval: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update_interval is not None:
            require_at_least("clustering.update_interval", self.update_interval, 1, 140)


@dataclass
class IDECConfig(DECConfig):
    """Improved DEC: the same beside the reconstruction (Guo et al., IJCAI 2017)."""

    name: str = "idec"
    weight: float = 0.1
    reconstruction: float = 1.0


@dataclass
class NoClusteringConfig(ClusteringConfig):
    """No joint phase: the autoencoder, then k-means on its embedding."""

    name: str = "none"
