"""A low-dimensional embedding of the graph of nearest neighbors: UMAP's objective, on tensors.

Points that are neighbors attract each other, all others repel. k-means on such an embedding finds clusters of any shape
that few edges leave, which k-means on the points themselves does not.

Source: McInnes, Healy, Melville: UMAP (arXiv:1802.03426). The similarity, the forces and the number of negative points
are those of its implementation umap-learn. Three things differ: a step moves a batch of edges at once; an edge of the
largest weight is drawn 500 times for up to 4,000 points (umap-learn: 10,000), else 200 times; and half of the initial
dimensions are principal components, half eigenvectors of the graph (umap-learn: all eigenvectors).
"""

# Shapes: N points, D dimensions, B edges of a step, M negative points of an edge.

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dkm.clustering.labels import FloatArray

if TYPE_CHECKING:  # SciPy takes long to load
    from scipy.sparse import csc_array, csr_array

# The similarity at a distance d is 1 / (1 + _A * d^(2 * _B)); umap-learn fits these numbers to min_dist=0.1.
_A, _B = 1.577, 0.895
_N_NEGATIVES = 5
# Edges that a step moves at once; also at most so many per point, as all of them see the same positions.
_BATCH_EDGES, _EDGES_PER_POINT = 8192, 2
# Largest change of a coordinate by one edge, and the extent of the initial positions.
_MAX_FORCE, _EXTENT = 4.0, 10.0
# Parts of the graph with a smaller fraction of the points have no initial direction of their own.
_LARGE_PART = 0.01
# Eigenvalues of at most so much may be those of functions that were removed from the search, up to its tolerance.
_NEAR_ZERO = 1e-3
# Up to so many points an edge of the largest weight is drawn 500 times, with more points 200 times.
_FEW_POINTS, _N_DRAWS_OF_FEW, _N_DRAWS = 4000, 500, 200


@torch.no_grad()
def embed_neighbors(
    graph: csr_array,
    points: FloatArray,
    latent_dim: int,
    *,
    seed: int = 0,
    eigenvectors: FloatArray | None = None,
    n_draws: int | None = None,
) -> Tensor:
    """Embed the points of a graph.

    Parameters
    ----------
    graph : sparse array, shape (N, N), symmetric, weights in (0, 1]
        A `dkm.clustering.graph.fuzzy_graph`.
    points : float array, shape (N, P)
        The points; half of the initial dimensions are their principal components.
    latent_dim : int
        D.
    seed : int
    eigenvectors : float array, shape (N, n), optional
        The `laplacian_eigenvectors` of the graph, if they are known; they are the other half.
    n_draws : int, optional
        How often an edge of the largest weight is drawn: the time is proportional to it. By default 500 times for at
        most 4,000 points and 200 times for more.

    Returns
    -------
    float32 Tensor of shape (N, D)
        Centered, with a mean variance of 1 over the dimensions.
    """
    N = graph.shape[0]
    generator = torch.Generator().manual_seed(seed)
    if eigenvectors is None:
        eigenvectors = laplacian_eigenvectors(graph, latent_dim + 1, seed=seed)
    Z = torch.from_numpy(_initial_positions(points, eigenvectors, latent_dim, seed))
    starts, ends, cumulative, n_steps, batch = _edges_to_draw(graph, n_draws)
    for step in range(n_steps):
        lr = 1 - step / n_steps
        drawn = torch.rand(batch, generator=generator, dtype=torch.float64) * cumulative[-1]
        edges = torch.searchsorted(cumulative, drawn).clamp_(max=len(cumulative) - 1)
        # index_select takes half the time of indexing with a tensor.
        i, j = starts.index_select(0, edges), ends.index_select(0, edges)  # (B,)
        others = torch.randint(N, (_N_NEGATIVES * batch,), generator=generator)
        z = Z.index_select(0, i)
        attraction = _attraction(z - Z.index_select(0, j))
        repulsion = _repulsion(z - Z.index_select(0, others).view(_N_NEGATIVES, batch, latent_dim)).sum(0)
        Z.index_add_(0, j, attraction, alpha=-lr)
        Z.index_add_(0, i, attraction + repulsion, alpha=lr)
    Z = Z - Z.mean(0)
    return Z / Z.square().mean().sqrt().clamp(min=1e-12)


def _attraction(offset: Tensor) -> Tensor:
    """Return the gradient of the log of the similarity with respect to the first of two points, (B, D)."""
    squared = offset.square().sum(-1, keepdim=True).clamp(min=1e-12)
    power = squared**_B
    return (offset * (-2 * _A * _B * power / (squared * (1 + _A * power)))).clamp_(-_MAX_FORCE, _MAX_FORCE)


def _repulsion(offset: Tensor) -> Tensor:
    """Return the gradient of the log of one minus the similarity, (M, B, D); 0.001 bounds it at small distances."""
    squared = offset.square().sum(-1, keepdim=True)
    return (offset * (2 * _B / ((0.001 + squared) * (1 + _A * squared**_B)))).clamp_(-_MAX_FORCE, _MAX_FORCE)


def _edges_to_draw(graph: csr_array, n_draws: int | None) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Return both ends of the edges, their cumulative weights, the number of steps, and the edges of a step."""
    N = graph.shape[0]
    if n_draws is None:
        n_draws = _N_DRAWS_OF_FEW if N <= _FEW_POINTS else _N_DRAWS
    edges = graph.tocoo()
    weights = edges.data / edges.data.max()
    kept = weights > 1 / n_draws  # the others would not be drawn once
    starts, ends = (torch.from_numpy(index[kept].astype(np.int64)) for index in (edges.row, edges.col))
    cumulative = torch.from_numpy(weights[kept].cumsum())
    batch = max(1, min(_BATCH_EDGES, _EDGES_PER_POINT * N))
    return starts, ends, cumulative, int(cumulative[-1].item() * n_draws / batch) + 1, batch


def laplacian_eigenvectors(graph: csr_array, n_vectors: int, *, seed: int = 0) -> FloatArray:
    """Return the smoothest functions on a graph: eigenvectors of the normalized Laplacian (Laplacian eigenmaps).

    Parameters
    ----------
    graph : sparse array, shape (N, N), symmetric, weights >= 0, a degree above 0 for each point
    n_vectors : int
        At most N - 1 are returned.
    seed : int

    Returns
    -------
    float64 array, shape (N, n_vectors), in the order of their eigenvalues
        The first is the constant function, times the root of the degrees. The largest entry of each is positive. With
        fewer columns if the search did not converge.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    N = graph.shape[0]
    n_vectors = min(n_vectors, N - 1)
    degree = np.asarray(graph.sum(1)).ravel()
    root = diags_array(1 / np.sqrt(degree))
    normalized = root @ graph @ root
    # Functions that are constant on each part of the graph have the same eigenvalue: the search would find only some.
    constants, is_large = _constants_on_parts(graph, np.sqrt(degree))
    flat = _orthonormal(np.sqrt(degree), constants[:, is_large].toarray(), n_vectors)
    n_left = min(n_vectors - flat.shape[1], N - constants.shape[1])
    if n_left <= 0:
        return flat

    def search(shift: float) -> tuple[FloatArray, FloatArray]:
        """Return eigenvalues and eigenvectors where those of the constants are lowered from 1 by the shift."""
        rest = LinearOperator(
            (N, N), matvec=lambda x: normalized @ x - shift * (constants @ (constants.T @ x)), dtype=np.float64
        )
        start = np.random.default_rng(seed).uniform(-1, 1, size=N)
        try:
            values, vectors = eigsh(rest, n_left, which="LA", v0=start, tol=1e-4)
        except ArpackNoConvergence as error:
            values, vectors = error.eigenvalues, error.eigenvectors
        return values, vectors

    values, vectors = search(1)
    if (values < _NEAR_ZERO).any():  # of few points; all others are at least -1
        values, vectors = search(3)
    vectors = vectors[:, np.argsort(-values)]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    smoothest: FloatArray = np.column_stack([flat, vectors * signs])
    return smoothest


def _constants_on_parts(graph: csr_array, root_degree: FloatArray) -> tuple[csc_array, npt.NDArray[np.bool_]]:
    """Return orthonormal functions (N, parts), each constant on a connected part of the graph times the root of the
    degrees, and which parts have at least a hundredth of the points; the largest parts come first."""
    from scipy.sparse import csc_array
    from scipy.sparse.csgraph import connected_components

    n_parts, part = connected_components(graph, directed=False)
    size = np.bincount(part)
    rank = np.empty(n_parts, np.int64)
    rank[np.argsort(-size, kind="stable")] = np.arange(n_parts)
    norm = np.sqrt(np.bincount(part, weights=root_degree**2))
    constants = csc_array((root_degree / norm[part], (np.arange(len(part)), rank[part])))
    return constants, np.sort(size)[::-1] >= _LARGE_PART * len(part)


def _orthonormal(constant: FloatArray, parts: FloatArray, limit: int) -> FloatArray:
    """Return an orthonormal basis (N, at most ``limit``): the constant one, then those that tell parts apart."""
    functions = np.column_stack([constant, parts[:, : max(0, parts.shape[1] - 1)]])[:, :limit]
    basis: FloatArray = np.linalg.qr(functions)[0]
    basis *= np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
    return basis


def _initial_positions(points: FloatArray, eigenvectors: FloatArray, latent_dim: int, seed: int) -> FloatArray:
    """Return positions (N, D): principal components, then eigenvectors, then noise, which all dimensions have a little.

    Components keep the large distances; eigenvectors tell parts of the graph apart that components mix.
    """
    from sklearn.decomposition import PCA

    positions = np.random.default_rng(seed).normal(scale=1e-3 * _EXTENT, size=(len(points), latent_dim))
    n_components = min(latent_dim // 2 or 1, *points.shape)
    centered = points - points.mean(axis=0)
    components = PCA(n_components, svd_solver="full").fit_transform(centered) if centered.any() else centered[:, :0]
    used = np.column_stack([_scaled(components), _broad(eigenvectors[:, 1:])])[:, :latent_dim]
    positions[:, : used.shape[1]] += used
    return positions.astype(np.float32)


def _broad(functions: FloatArray) -> FloatArray:
    """Return those functions (N, n) that do not vanish on nearly all points, without their outermost hundredths.

    An eigenvector that is large on a few far points and zero elsewhere would put all others into one place.
    """
    low, high = np.quantile(functions, (0.01, 0.99), axis=0)
    is_broad = high - low > 0.2 * np.abs(functions).max(axis=0, initial=1e-12)
    clipped = np.clip(functions, low, high)[:, is_broad]
    clipped -= clipped.mean(axis=0)
    scaled: FloatArray = clipped * (_EXTENT / np.abs(clipped).max(axis=0, initial=1e-12))
    return scaled


def _scaled(functions: FloatArray) -> FloatArray:
    scaled: FloatArray = functions * (_EXTENT / np.abs(functions).max(initial=1e-12))
    return scaled
