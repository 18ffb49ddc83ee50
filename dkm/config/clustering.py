"""Settings of the group ``clustering``: one dataclass for each method, and ``METHODS``, which names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dkm.config.checks import AtLeast, Between, Choice, NonNegative, Positive, require
from dkm.config.custom import add_class_field
from dkm.config.registry import load
from dkm.config.settings import REQUIRED, Section, Stage, setting

INITS = ("k-means++", "random", "gmm", "spectral", "ward", "auto", "uniform", "file")


ASSIGNMENTS = ("epoch", "batch")


CENTROIDS = ("gradient", "mean", "fixed")


ALPHA_SCHEDULES = ("constant", "annealed")

_BASELINE_TOO = Stage.BASELINE | Stage.JOINT


@dataclass
class ClusteringConfig(Section):
    """The clusters, and the loss that shapes them in the joint phase."""

    section: ClassVar[str] = "clustering"
    stages: ClassVar[Stage] = Stage.JOINT
    name: str = REQUIRED
    n_clusters: int | None = setting(
        None,
        "Number of clusters. null: the number of classes, where the data have labels.",
        check=AtLeast(1),
        example=10,
    )
    init: str = setting(
        "k-means++",
        "The clusters that the joint phase starts from. `k-means++`, `random`: k-means on the embedding, started by "
        "k-means++ or from random distinct points. `gmm`, `spectral`, `ward`: other clusterings of the embedding, "
        "which find stretched clusters too: a mixture of Gaussians with full covariances, spectral clustering of the "
        "graph of nearest neighbors, Ward linkage. `auto`: all of these and k-means, each improved by moving single "
        "points, then the one with the highest modularity in the graph of nearest neighbors. `uniform`: centroids "
        "drawn from -1 to 1 in each dimension, without a clustering. `file`: `clustering.init_file`.",
        check=Choice(INITS),
    )
    init_file: str | None = setting(
        None,
        "With `clustering.init=file`, a .npy file with the cluster of each point, integers (N,), or with centroids, "
        "floats (K, D).",
    )
    n_init: int = setting(
        20,
        "Restarts of k-means. On the raw data the restart with the lowest inertia wins; for the embedding see "
        "`clustering.balance_slack`.",
        check=AtLeast(1),
        stages=_BASELINE_TOO,
    )
    balance_slack: float = setting(
        0.03,
        "Restarts on the embedding whose inertia is within this fraction of the lowest count as equal, and the one "
        "with the most even cluster sizes wins: two classes under one centroid and another class split in two show in "
        "the sizes, but hardly in the inertia. 0: the lowest inertia, which k-means on the raw data always takes.",
        check=NonNegative(),
    )
    init_samples: int = setting(
        100_000,
        "With more points than this, k-means (on the raw data and on the embedding) runs on a fixed random sample of "
        "this size; all points are then assigned to the resulting centroids. The sample of rows on disk takes at most "
        "1 GiB.",
        unit="points",
        check=AtLeast(1),
        stages=_BASELINE_TOO,
    )
    partition_samples: int = setting(
        10_000,
        "`gmm`, `spectral`, `ward` and `auto` cluster at most this many points; the other points get the clusters of "
        "their nearest neighbors.",
        unit="points",
        check=AtLeast(1),
    )
    n_neighbors: int = setting(
        20,
        "Neighbors of each point in the graph of `spectral`; `auto` tries one to four times as many.",
        check=AtLeast(1),
    )
    modularity_slack: float = setting(
        0.002,
        "Candidates of `auto` whose modularity is within this of the highest count as equal, and the one with the most "
        "even cluster sizes wins. 0: the highest modularity.",
        check=NonNegative(),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = (self.init == "file") == (self.init_file is not None)
        expected = "a .npy file, with clustering.init=file and only then"
        require(ok, "clustering.init_file", self.init_file, expected, "set both or neither")
        for name in ("init_samples", "partition_samples"):
            value, least = getattr(self, name), self.n_clusters or 1
            require(value >= least, f"clustering.{name}", value, f"at least clustering.n_clusters={least}", "raise it")


@dataclass
class JointClusteringConfig(ClusteringConfig):
    """What all clustering losses have."""

    weight: float = setting(
        0.1,
        "Weight of the clustering loss, which is summed over latent dimensions and averaged over samples.",
        check=NonNegative(),
    )
    reconstruction: float = setting(
        1.0,
        "Weight of the reconstruction error in the joint phase. 0: the decoder stays as pretraining left it.",
        check=NonNegative(),
        example=1,
    )
    reset_every: int | None = setting(
        None,
        "Every so many joint epochs, mix fresh weights into all layers of the encoder but the last, and cluster the "
        "embedding again by k-means (BRB, arXiv:2411.02275). null: never.",
        unit="epochs",
        check=AtLeast(1),
        example=20,
    )
    reset_fraction: float = setting(0.2, "Fraction of the fresh weights in the mixture.", check=Between(0, 1))


@dataclass
class KMeansConfig(JointClusteringConfig):
    """The k-means loss with learnable centroids."""

    name: str = "kmeans"
    assignment: str = setting(
        "epoch",
        "`epoch`: points are assigned in one pass over the unaugmented data before each epoch. `batch`: each batch "
        "takes the nearest centroids.",
        check=Choice(ASSIGNMENTS),
    )
    initial_epochs: int = setting(
        1,
        "With `clustering.assignment=epoch`, keep the initial labels for this many epochs, because the centroids are "
        "not yet where the nearest one is the right one. 1: for the first epoch only.",
        unit="epochs",
        check=AtLeast(1),
    )
    revive: bool = setting(
        True,
        "Move a centroid without points to the point farthest from its centroid, and reset its optimizer state.",
    )
    centroids: str = setting(
        "gradient",
        "`gradient`: centroids are learned with the network. `mean`: after each epoch they are set to the mean of "
        "their points, the minimum of the loss. `fixed`: they stay as they were initialized.",
        check=Choice(CENTROIDS),
    )
    self_paced: bool = setting(
        False,
        "In each epoch but the first, leave out points that are farther from their centroids than the mean distance "
        "plus a multiple of its standard deviation. The multiple grows from 0 to 1 over the phase (ASPC-DA).",
    )
    norm_weight: float = setting(
        0.0,
        "Weight of -|z|^2 in the loss, which counteracts a shrinking embedding; 1 in soft regularized k-means.",
        check=NonNegative(),
        example=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        is_held = self.assignment == "epoch"
        for name, needs_held in (("self_paced", self.self_paced), ("centroids", self.centroids == "mean")):
            expected = "clustering.assignment=epoch beside it"
            ok = is_held or not needs_held
            require(ok, f"clustering.{name}", getattr(self, name), expected, "set clustering.assignment=epoch")


@dataclass
class DKMConfig(JointClusteringConfig):
    """Deep k-means: the mean over centroids of the squared distances, weighted by a softmin (arXiv:1806.10069)."""

    name: str = "dkm"
    # Points choose in every batch, where a large weight empties clusters.
    weight: float = 0.01
    schedule: str = setting(
        "constant",
        "`constant`: `clustering.alpha`. `annealed`: alpha grows from `clustering.alpha_start`, more and more slowly, "
        "once in `clustering.epochs_per_alpha` epochs.",
        check=Choice(ALPHA_SCHEDULES),
    )
    alpha: float = setting(
        1000.0, "Inverse temperature of the softmin; 1000 is nearly the hard minimum.", check=Positive(), example=1000
    )
    alpha_start: float = setting(0.1, "First inverse temperature of the annealed schedule.", check=Positive())
    epochs_per_alpha: int = setting(
        5, "Epochs for which the annealed schedule keeps each inverse temperature.", unit="epochs", check=AtLeast(1)
    )


@dataclass
class DCNConfig(JointClusteringConfig):
    """Deep clustering network: the k-means loss, and centroids that are running means (arXiv:1610.04794)."""

    name: str = "dcn"
    count: int = setting(
        100,
        "How many points each centroid counts for at the start: the n-th point after that moves it by 1/(count + n) of "
        "the way. 100 is the value of the authors' code; the paper has none.",
        unit="points",
        check=AtLeast(0),
    )


@dataclass
class DECConfig(JointClusteringConfig):
    """Deep embedded clustering: Student's t assignments drawn towards sharper ones, no decoder (arXiv:1511.06335)."""

    name: str = "dec"
    weight: float = 1.0
    reconstruction: float = 0.0
    update_interval: int | None = setting(
        None,
        "Steps between two computations of the targets from all data. null: once before every epoch.",
        unit="steps",
        check=AtLeast(1),
        example=140,
    )


@dataclass
class IDECConfig(DECConfig):
    """Improved DEC: DEC with the reconstruction error (Guo et al., IJCAI 2017)."""

    name: str = "idec"
    weight: float = 0.1
    reconstruction: float = 1.0


@dataclass
class NoClusteringConfig(ClusteringConfig):
    """No joint phase: the autoencoder, then k-means on its embedding."""

    name: str = "none"


@dataclass
@add_class_field(
    "Dotted name of a subclass of the package's clustering losses, or of a `torch.nn.Module` with a parameter "
    "`centroids` (K, latent_dim) and `forward(z, index)`: the scalar loss of the embedded batch z (B, latent_dim), "
    "whose positions in the data are index (B,). Its `__init__` gets those of `n_clusters`, `latent_dim`, `n_samples` "
    "and `n_epochs` that it names."
)
class CustomClusteringConfig(JointClusteringConfig):
    """A loss of your own. The dotted name is imported from the working directory or ``PYTHONPATH``."""

    name: str = "custom"
    options: dict[str, Any] = setting(
        {}, "Further arguments of the class, for example `clustering.options={margin: 1}`."
    )


@dataclass(frozen=True)
class Method:
    """A clustering method. ``loss`` is its class, with ``from_config(config, *, n_clusters, latent_dim, ...)``."""

    name: str
    config: type[ClusteringConfig]
    loss: str | type

    def load(self) -> Any:
        """Return the class."""
        return load(self.loss)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("kmeans", KMeansConfig, "dkm.clustering.losses.kmeans:KMeansClustering"),
        Method("dkm", DKMConfig, "dkm.clustering.losses.dkm:DKMClustering"),
        Method("dcn", DCNConfig, "dkm.clustering.losses.dcn:DCNClustering"),
        Method("dec", DECConfig, "dkm.clustering.losses.dec:DECClustering"),
        Method("idec", IDECConfig, "dkm.clustering.losses.dec:DECClustering"),
        Method("none", NoClusteringConfig, "dkm.clustering.losses.base:NoClustering"),
        Method("custom", CustomClusteringConfig, "dkm.clustering.losses.custom:CustomClustering"),
    )
}
