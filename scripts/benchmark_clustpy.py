"""Times our joint epoch against the clustering epochs of ClustPy's DCN and DKM, and against a bare loop.

All use the same data in memory, fully connected autoencoder with ReLU, batch size 256, Adam, and number of threads
(default: 1). ``mnist`` is 70,000 x 784 with 784-500-500-2000-10 (noise of that shape without ``--root``), ``blobs`` is
20,000 x 64 with 64-64-32-10. One epoch of each per turn. A ratio a/b is the time of a divided by that of b. An epoch is
one pass over the data:

    dkm          ``OurEpochs`` in epochs.py: batches, steps, checks, then a pass over the data with new assignments; no
                 augmentation, as in ClustPy's defaults
    dkm_bf16     the same with precision=bf16, which ClustPy does not have
    clustpy_dcn  ``_DCN_Module.fit``: batches from its data loader, steps, and after each step the batch encoded again,
                 assigned, and its centroids updated point by point
    clustpy_dkm  ``_DKM_Module.fit`` for one alpha, the default of 1000: batches from its data loader and steps; the
                 labels, computed once after the last epoch, are not included
    bare         ``BareEpochs`` in epochs.py

Not timed: pretraining, k-means for the initial centroids (separate for each), evaluation, final labels. ClustPy runs as
its documented ``fit`` does, with its initialization, data loaders and defaults (fp32, Adam not fused); the activation
is set to ours, and its progress bar writes to memory.

    pip install -e '.[benchmark]'
    python scripts/benchmark_clustpy.py --root DIRECTORY_WITH_MNIST [--work mnist blobs] [--samples N] [--json FILE]
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec

import torch

from dkm.data.datasets import Dataset
from epochs import BareEpochs, OurEpochs, first_rows, load, mnist, rows_of
from timing import Report, Row, options_parser, read_options, take_turns

_HIDDEN = {"mnist": [500, 500, 2000], "blobs": [64, 32]}
_N_CLUSTERS = _LATENT_DIM = 10
_BATCH_SIZE = 256
_BLOBS = ("data=blobs", "data.n_samples=20000", "data.n_features=64", f"data.n_blobs={_N_CLUSTERS}")
_FRACTIONS = [f"{theirs}/{ours}" for ours in ("dkm", "dkm_bf16") for theirs in ("clustpy_dcn", "clustpy_dkm")]


def clustpy_epochs(algorithm: str, data: Dataset, hidden: Sequence[int]) -> Callable[[], None]:
    """Return a function that trains one clustering epoch of ClustPy's ``DCN`` or ``DKM``, set up as in ``fit``."""
    from clustpy.deep import DCN, DKM
    from clustpy.deep._train_utils import get_default_deep_clustering_initialization
    from clustpy.deep.dcn import _DCN_Module
    from clustpy.deep.dkm import _DKM_Module
    from clustpy.deep.neural_networks import FeedforwardAutoencoder

    network = FeedforwardAutoencoder([data.n_features, *hidden, _LATENT_DIM], activation_fn=torch.nn.ReLU)
    estimator = {"DCN": DCN, "DKM": DKM}[algorithm]
    settings = estimator(_N_CLUSTERS, neural_network=network, batch_size=_BATCH_SIZE, random_state=0)
    _, _, random_state, pretrain_params, params, kmeans_params = settings._check_parameters(rows_of(data)[:2].numpy())
    device, trainloader, testloader, _, network, _, _, labels, centers, _ = get_default_deep_clustering_initialization(
        rows_of(data),
        _N_CLUSTERS,
        _BATCH_SIZE,
        pretrain_params,
        0,  # epochs of pretraining
        settings.optimizer_class,
        settings.ssl_loss_fn,
        network,
        _LATENT_DIM,
        None,
        settings.initial_clustering_class,
        kmeans_params,
        torch.device("cpu"),
        random_state,
    )
    weights = (settings.clustering_loss_weight, settings.ssl_loss_weight)
    if algorithm == "DCN":
        module = _DCN_Module(labels, centers, False).to_device(device)
        optimizer = settings.optimizer_class(list(network.parameters()), **params)
        loaders = [trainloader, testloader]
    else:
        module = _DKM_Module(centers, settings.alphas, False).to(device)
        optimizer = settings.optimizer_class([*network.parameters(), *module.parameters()], **params)
        loaders = [trainloader]

    def epoch() -> None:
        with redirect_stderr(io.StringIO()):
            module.fit(network, *loaders, 1, device, optimizer, settings.ssl_loss_fn, *weights)

    return epoch


def compare(data: Dataset, hidden: Sequence[int], repeats: int) -> Row:
    network = [f"model.hidden=[{','.join(str(width) for width in hidden)}]", f"model.latent_dim={_LATENT_DIM}"]
    network += [f"clustering.n_clusters={_N_CLUSTERS}", f"batch_size={_BATCH_SIZE}", "augmentation=none"]
    ours = OurEpochs(data, *network)
    works: dict[str, Callable[[], object]] = {
        "dkm": ours,
        "dkm_bf16": OurEpochs(data, *network, "precision=bf16"),
        "clustpy_dcn": clustpy_epochs("DCN", data, hidden),
        "clustpy_dkm": clustpy_epochs("DKM", data, hidden),
        "bare": BareEpochs(ours),
    }
    return take_turns(works, repeats=repeats).row("dkm/bare", "dkm/dkm_bf16", *_FRACTIONS)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__, repeats=3, threads=1)
    parser.add_argument("--root", help="the folder with MNIST/raw")
    parser.add_argument("--work", nargs="+", choices=[*_HIDDEN], default=[*_HIDDEN])
    parser.add_argument("--samples", type=int, help="use only the first samples")
    options = read_options(parser, argv)
    if find_spec("clustpy") is None:
        sys.exit("ClustPy is not installed: pip install -e '.[benchmark]'")
    samples = 512 if options.quick else options.samples
    report = Report(options.json, clustpy=version("clustpy"), precision="fp32, bf16 where named")
    rows: list[Row] = []
    for work in options.work:
        data = mnist(options.root, samples) if work == "mnist" else first_rows(load(*_BLOBS), samples)
        row = compare(data, _HIDDEN[work], options.repeats)
        rows.append({"data": data.name, "n": data.n_samples, **row})
    report.add("epochs", "One epoch of clustering", rows)
    report.write()


if __name__ == "__main__":
    main()
