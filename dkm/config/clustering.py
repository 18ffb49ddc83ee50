"""Settings of the group ``clustering``: one dataclass per method, and the registry ``METHODS``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dkm.config.checks import AtLeast, Between, Choice, ClusterCount, NonNegative, Positive, require
from dkm.config.custom import add_class_field
from dkm.config.registry import Entry
from dkm.config.settings import REQUIRED, Section, Stage, setting

if TYPE_CHECKING:
    NumberOfClusters = int | str
else:
    NumberOfClusters = Any  # OmegaConf cannot merge a config that has a union; `ClusterCount` checks the type too

INITS = ("k-means++", "random", "gmm", "spectral", "ward", "auto", "data", "uniform", "file")
ASSIGNMENTS = ("epoch", "batch")
CENTROIDS = ("gradient", "mean", "fixed")
ALPHA_SCHEDULES = ("constant", "annealed")

_BASELINE_AND_JOINT = Stage.BASELINE | Stage.JOINT


@dataclass
class ClusteringConfig(Section):
    """The initial clustering, and the clustering loss of the joint phase."""

    section: ClassVar[str] = "clustering"
    stages: ClassVar[Stage] = Stage.JOINT
    name: str = REQUIRED
    n_clusters: NumberOfClusters | None = setting(
        None,
        "Number of clusters. null: the number of classes, if the data have labels. `auto:A-B`: the number from A to B, "
        "at most half of the rows, that is found before the training, without labels: its clusters have a high "
        "modularity in the nearest-neighbor graph of the rows and agree between seeds and between halves of the rows. "
        "`auto`: `auto:2-30`.",
        check=ClusterCount(),
        example=10,
    )
    init: str = setting(
        "k-means++",
        "Initial clustering of the joint phase. `k-means++`, `random`: k-means on the embedding, initialized by "
        "k-means++ or with random distinct points. `gmm`, `spectral`, `ward`: a Gaussian mixture with full "
        "covariances, spectral clustering of the nearest-neighbor graph, or Ward linkage, which also find elongated "
        "clusters. `auto`: k-means and these three, each refined by moving single points; the one with the highest "
        "modularity in the nearest-neighbor graph is used. `data`: k-means on a neighbor embedding of the rows (UMAP's "
        "objective), on the eigenvectors of their graph and on the rows; one of the latter two is used if its "
        "modularity in the rows' graph (on 100 principal components of more features) is higher, for the "
        "eigenvectors by 0.01, and its mean with the assortativity too, and if another seed finds it again. "
        "`uniform`: centroids drawn from [-1, 1] in each dimension. `file`: `clustering.init_file`.",
        check=Choice(INITS),
    )
    init_file: str | None = setting(
        None,
        "With `clustering.init=file`: a .npy file with either the cluster of each point, integers (N,), or the "
        "centroids, floats (K, D).",
    )
    n_init: int = setting(
        20,
        "Number of restarts of k-means. On the raw data the restart with the lowest inertia is used; for the embedding "
        "see `clustering.balance_slack`. With `init=data` three times as many run on the neighbor embedding; of those "
        "within 2 % of the lowest inertia, one that is better in the rows' graph is used.",
        check=AtLeast(1),
        stages=_BASELINE_AND_JOINT,
    )
    balance_slack: float = setting(
        0.03,
        "Tolerance for choosing a restart on the embedding. Among the restarts whose inertia exceeds the lowest by at "
        "most this fraction, the one with the most even cluster sizes is used: merging two classes and splitting "
        "another one changes the sizes, but hardly the inertia. 0: the lowest inertia.",
        check=NonNegative(),
    )
    init_samples: int = setting(
        100_000,
        "Largest number of points for k-means on the raw data and on the embedding. With more points, k-means runs on "
        "a fixed random sample of this size, and all points are then assigned to the resulting centroids. A sample of "
        "rows on disk is limited to 1 GiB.",
        unit="points",
        check=AtLeast(1),
        stages=_BASELINE_AND_JOINT,
    )
    partition_samples: int = setting(
        10_000,
        "Largest number of points that `gmm`, `spectral`, `ward` and `auto` cluster. The other points get the "
        "clusters of their nearest neighbors.",
        unit="points",
        check=AtLeast(1),
    )
    n_neighbors: int = setting(
        20,
        "Number of neighbors per point in the graph of `spectral`. `auto` tries one to four times this number.",
        check=AtLeast(1),
    )
    modularity_slack: float = setting(
        0.002,
        "Tolerance of `auto`. Among the candidates whose modularity is at most this far below the highest, the one "
        "with the most even cluster sizes is used. 0: the highest modularity.",
        check=NonNegative(),
    )

    def __post_init__(self) -> None:
        if isinstance(self.n_clusters, str):
            self._read_n_clusters(self.n_clusters)
        super().__post_init__()
        ok = (self.init == "file") == (self.init_file is not None)
        expected = "a .npy file, with clustering.init=file and only then"
        require(ok, "clustering.init_file", self.init_file, expected, "set both or neither")
        for name in ("init_samples", "partition_samples"):
            value, least = getattr(self, name), self.n_clusters if isinstance(self.n_clusters, int) else 1
            require(value >= least, f"clustering.{name}", value, f"at least clustering.n_clusters={least}", "raise it")

    @property
    def can_hold_labels(self) -> bool:
        """Whether the loss uses labels that can be held for the whole phase; see ``joint.hold_labels``."""
        return False

    def _read_n_clusters(self, text: str) -> None:
        """Make a number of a text with digits; refuse a text that is no range, with a range as the example."""
        key = "clustering.n_clusters"
        if text.isdecimal():
            self.n_clusters = int(text)
            return
        is_known = self.init != "file"
        require(is_known, key, text, "a number beside clustering.init=file", f"for example {key}=10")
        require(ClusterCount().accepts(text), key, text, ClusterCount().expected, f"for example {key}=auto:2-30")


@dataclass
class JointClusteringConfig(ClusteringConfig):
    """Common settings of all clustering losses."""

    weight: float = setting(
        0.1,
        "Weight of the clustering loss, which is summed over latent dimensions and averaged over samples.",
        check=NonNegative(),
    )
    reconstruction: float = setting(
        1.0,
        "Weight of the reconstruction error in the joint phase. 0: the decoder is not trained.",
        check=NonNegative(),
        example=1,
    )
    reset_every: int | None = setting(
        None,
        "Number of joint epochs between two resets. A reset mixes new random weights into all encoder layers except "
        "the last and clusters the embedding again by k-means (BRB, arXiv:2411.02275). null: no resets.",
        unit="epochs",
        check=AtLeast(1),
        example=20,
    )
    reset_fraction: float = setting(0.2, "Fraction of the new weights in the mixture of a reset.", check=Between(0, 1))


@dataclass
class KMeansConfig(JointClusteringConfig):
    """The k-means loss with learnable centroids."""

    name: str = "kmeans"
    assignment: str = setting(
        "epoch",
        "When points are assigned to centroids. `epoch`: in one pass over the unaugmented data before each epoch. "
        "`batch`: in each batch, to the nearest centroids.",
        check=Choice(ASSIGNMENTS),
    )
    initial_epochs: int = setting(
        1,
        "With `clustering.assignment=epoch`: number of epochs that use the initial labels, because the nearest "
        "centroid may still be the wrong one. 1: only the first epoch.",
        unit="epochs",
        check=AtLeast(1),
    )
    revive: bool = setting(
        True,
        "Whether to move a centroid without points to the point farthest from its centroid, and to reset its "
        "optimizer state.",
    )
    centroids: str = setting(
        "gradient",
        "Update of the centroids. `gradient`: by the optimizer, together with the network. `mean`: after each epoch to "
        "the mean of their points, which minimizes the loss. `fixed`: no update.",
        check=Choice(CENTROIDS),
    )
    self_paced: bool = setting(
        False,
        "Whether to leave out, in each epoch but the first, points whose squared distance to their centroid exceeds "
        "the mean squared distance plus a multiple of its standard deviation. The multiple grows from 0 to 1 over the "
        "phase (ASPC-DA).",
    )
    norm_weight: float = setting(
        0.0,
        "Weight of -|z|^2 in the loss, which counteracts a shrinking embedding. Soft regularized k-means uses 1.",
        check=NonNegative(),
        example=0,
    )

    @property
    def can_hold_labels(self) -> bool:
        return self.assignment == "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_held = self.assignment == "epoch"
        for name, needs_held in (("self_paced", self.self_paced), ("centroids", self.centroids == "mean")):
            expected = "clustering.assignment=epoch beside it"
            ok = is_held or not needs_held
            require(ok, f"clustering.{name}", getattr(self, name), expected, "set clustering.assignment=epoch")


@dataclass
class DKMConfig(JointClusteringConfig):
    """Deep k-means: the squared distances to the centroids, weighted by their softmin (arXiv:1806.10069)."""

    name: str = "dkm"
    # Assignments change in every batch, and a large weight then empties clusters.
    weight: float = 0.01
    schedule: str = setting(
        "constant",
        "Schedule of the inverse temperature. `constant`: `clustering.alpha`. `annealed`: it grows from "
        "`clustering.alpha_start` by factors that approach 1, once every `clustering.epochs_per_alpha` epochs.",
        check=Choice(ALPHA_SCHEDULES),
    )
    alpha: float = setting(
        1000.0, "Inverse temperature of the softmin. 1000 is close to the hard minimum.", check=Positive(), example=1000
    )
    alpha_start: float = setting(0.1, "Initial inverse temperature of the annealed schedule.", check=Positive())
    epochs_per_alpha: int = setting(
        5, "Number of epochs at each inverse temperature of the annealed schedule.", unit="epochs", check=AtLeast(1)
    )


@dataclass
class DCNConfig(JointClusteringConfig):
    """Deep clustering network: the k-means loss with running means as centroids (arXiv:1610.04794)."""

    name: str = "dcn"
    count: int = setting(
        100,
        "Initial count of each centroid: its n-th point moves it by 1/(count + n) of the distance. 100 is the value in "
        "the authors' code; the paper gives none.",
        unit="points",
        check=AtLeast(0),
    )

    @property
    def can_hold_labels(self) -> bool:
        return True


@dataclass
class DECConfig(JointClusteringConfig):
    """Deep embedded clustering: Student's t soft assignments and a sharpened target, no decoder (arXiv:1511.06335)."""

    name: str = "dec"
    weight: float = 1.0
    reconstruction: float = 0.0
    update_interval: int | None = setting(
        None,
        "Number of steps between two updates of the targets, which use all data. null: one update before each epoch.",
        unit="steps",
        check=AtLeast(1),
        example=140,
    )


@dataclass
class IDECConfig(DECConfig):
    """Improved DEC: DEC combined with the reconstruction error (Guo et al., IJCAI 2017)."""

    name: str = "idec"
    weight: float = 0.1
    reconstruction: float = 1.0


@dataclass
class NoClusteringConfig(ClusteringConfig):
    """No joint phase: pretraining of the autoencoder, followed by k-means on its embedding."""

    name: str = "none"


@dataclass
@add_class_field(
    "Dotted name of a subclass of the package's clustering losses, or of a `torch.nn.Module` with a parameter "
    "`centroids` (K, latent_dim) and a method `forward(z, index)` that returns the scalar loss of the embedded batch z "
    "(B, latent_dim); index (B,) has its positions in the data. `__init__` may have the parameters `n_clusters`, "
    "`latent_dim`, `n_samples` and `n_epochs`."
)
class CustomClusteringConfig(JointClusteringConfig):
    """Your own loss. The dotted name is imported from the working directory or ``PYTHONPATH``."""

    name: str = "custom"
    options: dict[str, Any] = setting(
        {}, "Further arguments of the class, for example `clustering.options={margin: 1}`."
    )


class Method(Entry[ClusteringConfig]):
    """A clustering method: a class with ``from_config(config, *, n_clusters, latent_dim, n_samples, n_epochs)``."""


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
