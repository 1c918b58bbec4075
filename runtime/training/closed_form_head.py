"""Where both halves meet: a closed-form head on the features of a trained network, behind the training in one graph.

The last segment of the network is replaced by regression on one-hot targets Y (n x c) from the features F (n x d) that
it gets. With a kernel matrix K (n x n) of the training features, a Gaussian process [1]_ predicts for test features

    K(test, train) alpha,     (K + noise I) alpha = Y.

K is symmetric positive definite, so this is tiled Cholesky with two triangular solves. ``ridge`` takes K = F F^T,
which is ridge regression in its dual form; ``gp`` takes K_ij = exp(-|f_i - f_j|^2 / (2 l^2)). Both begin with the same
products F_i F_j^T, tile by tile: syrk and gemm.

The targets stand below the matrix as one more row of tiles, Y^T: the same trsm and gemm that make L turn it into
Z = Y^T L^-H, which saves the forward solve. The backward solve alpha^T = Z L^-1 follows.

With several places the matrix is distributed over all of them, block-cyclically, and tile i of the features is made at
place i mod p; whatever has to travel for that is inferred.

.. [1] C. Rasmussen, C. Williams, Gaussian processes for machine learning, 2006, algorithm 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tilewright.distribution import near_square
from tilewright.graph import RW, Handle, Op, R, W
from tilewright.linalg.cholesky import cholesky
from tilewright.ops import gemm, trsm
from tilewright.tiles import TiledMatrix
from tilewright.training import models
from tilewright.training.contents import Contents
from tilewright.training.data.augment import normalise
from tilewright.training.state import Setup, State

if TYPE_CHECKING:
    from tilewright.training.step import Builder, Span

__all__ = ["HEADS", "Head", "head_data", "insert_head", "least_noise"]

HEADS = ("ridge", "gp")
TILE = 256


@dataclass(frozen=True)
class Head:
    """What a closed-form head makes of the trained network."""

    kind: str
    test_accuracy: float
    """A fraction; NaN if there is no such head."""
    problem: str = ""
    """Why not."""


def features(state: State, examiner: nn.Module, images: np.ndarray, setup: Setup, _: Any, first: int, last: int) -> Any:
    """(model, what the last segment gets (rows, d), in FP64): 16-bit kernel matrices have no factorisation."""
    Contents(examiner).load(state.tensors, state.extra)
    with torch.no_grad():
        x = torch.from_numpy(normalise(images[first:last], setup.recipe)).to(setup.target)
        for segment in models.segments(examiner)[:-1]:
            x = segment(x)
    return examiner, x.flatten(1).double().cpu().numpy()


def spread(parts: list[np.ndarray], _: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """(mean, deviation of each feature, mean squared distance of two standardised rows); NaN if one is not finite."""
    rows = np.concatenate(parts)
    if not np.isfinite(rows).all():
        return rows[0], rows[0], np.nan
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation[deviation < 1e-6 * max(deviation.max(), 1e-300)] = np.inf  # a constant feature says nothing
    return mean, deviation, 2.0 * max(float(np.isfinite(deviation).sum()), 1.0)


def products(f: np.ndarray, g: np.ndarray, scale: Any, tile: np.ndarray, kind: str, noise: float) -> None:
    """A tile of the kernel matrix, in place; with ``noise`` a diagonal one. Of a head that cannot be, of noise I."""
    tile[...] = 0.0 if np.isnan(scale[-1]) else _kernel(f, g, scale, kind)
    if noise:
        tile[np.diag_indices(len(tile))] += noise


def _kernel(f: np.ndarray, g: np.ndarray, scale: Any, kind: str) -> np.ndarray:
    mean, deviation, distance = scale
    f, g = (f - mean) / deviation, (g - mean) / deviation
    inner: np.ndarray = f @ g.T
    if kind == "ridge":
        return inner / (distance / 2)
    # |f - g|^2 = |f|^2 + |g|^2 - 2 f.g, and 2 l^2 is its mean over the training set
    squares = (f**2).sum(axis=1)[:, None] + (g**2).sum(axis=1)[None, :] - 2 * inner
    return np.exp(-np.maximum(squares, 0) / distance)


def one_hot(labels: np.ndarray, tile: np.ndarray, first: int) -> None:
    """Targets (classes, rows) in place: 1 for the class and 0 for the others, less their mean."""
    tile[...] = -1 / len(tile)
    tile[labels[first : first + tile.shape[1]], np.arange(tile.shape[1])] += 1


def solve_back(l: np.ndarray, z: np.ndarray) -> None:  # noqa: E741 - the factor, as in the literature
    """z := z L^-1, in place."""
    from scipy.linalg import solve_triangular

    z[...] = solve_triangular(l, z.T, lower=True, trans="T").T


def update_back(a: np.ndarray, l: np.ndarray, z: np.ndarray) -> None:  # noqa: E741
    """z := z - a L_kj, in place."""
    z -= a @ l


def predict(
    f: np.ndarray,
    labels: np.ndarray,
    scale: Any,
    features: list[np.ndarray],
    weights: list[np.ndarray],
    _: Any,
    kind: str,
    first: int,
) -> tuple[int, int]:
    """(correct, images) of one part of the test set, by features and weights of the training set."""
    if np.isnan(scale[-1]):
        return -1, len(f)
    scores = sum(_kernel(f, g, scale, kind) @ a.T for g, a in zip(features, weights, strict=True))
    return int((np.argmax(scores, axis=1) == labels[first : first + len(f)]).sum()), len(f)


def conclude(scores: list[tuple[int, int]], _: Any, kind: str) -> Head:
    """The accuracy of all parts."""
    if any(correct < 0 for correct, _ in scores):
        return Head(kind, np.nan, "the features are not finite")
    return Head(kind, sum(correct for correct, _ in scores) / sum(n for _, n in scores))


_OPS = {
    op.name: op for op in (
        Op("features", features), Op("spread", spread, weight=0), Op("products", products, weight=3, in_place=True),
        Op("one_hot", one_hot, weight=0, in_place=True), Op("solve_back", solve_back, weight=1, in_place=True),
        Op("update_back", update_back, weight=1, in_place=True), Op("predict", predict),
        Op("conclude", conclude, weight=0),
    )
}  # fmt: skip


def least_noise(n: int) -> float:
    """Above which the kernel matrix of n images, of trace n, has a Cholesky factor in FP64 whatever it rounds to.

    Roundings are at most some n u ||K|| [1]_, and the norm is at most the trace.

    .. [1] N. Higham, Accuracy and stability of numerical algorithms, 2002, theorem 10.7.
    """
    return 4 * n * (n + 1) * 2.0**-53


def head_data(n: int, classes: int) -> dict[str, Any]:
    """The matrices that the graph of a head needs: K (n, n) and Y^T (classes, n), FP64."""
    size = max(TILE, classes)
    return {"K": TiledMatrix.view(np.zeros((n, n)), size), "Y": TiledMatrix.view(np.zeros((classes, n)), size)}


def insert_head(builder: Builder, span: Span, kind: str, noise: float, classes: int) -> None:
    """Add the tasks of a head behind the last step. It leaves head[0], a `Head`."""
    h, g, places = builder.h, builder.g, builder.layout.places
    size = max(TILE, classes)
    nt, mt = -(-span.size // size), -(-span.test_size // size)
    K, Y = g.handles("K"), g.handles("Y")
    owner = near_square(places)
    ranks = builder.rooms.rank
    ranks |= {K[i, j]: owner(i, j) for i in range(nt) for j in range(i + 1)}
    ranks |= {Y[0, j]: owner(nt, j) for j in range(nt)}
    state = R(h("result", 0))

    def take(name: str, images: str, count: int, tiles: int) -> list[Handle]:
        made = [h(name, i % places, i) for i in range(tiles)]
        for i, handle in enumerate(made):
            p = i % places
            g.insert(
                _OPS["features"],
                state,
                RW(h("examiner", p)),
                R(h(images, p)),
                R(h("setup", p)),
                W(handle),
                i * size,
                min((i + 1) * size, count),
                on=p,
            )
        return made

    f = take("f", "images", span.size, nt)
    scale = h("scale", 0)
    g.insert(_OPS["spread"], [R(handle) for handle in f], W(scale), on=0)
    for i in range(nt):
        g.insert(_OPS["one_hot"], R(h("targets", ranks[Y[0, i]])), W(Y[0, i]), i * size, on=ranks[Y[0, i]])
        for j in range(i + 1):
            g.insert(
                _OPS["products"],
                R(f[i]),
                R(f[j]),
                R(scale),
                W(K[i, j]),
                kind,
                noise if i == j else 0.0,
                on=ranks[K[i, j]],
            )
    cholesky(g, K, nt)
    for k in range(nt):
        g.insert(trsm, R(K[k, k]), RW(Y[0, k]))
        for i in range(k + 1, nt):
            g.insert(gemm, R(Y[0, k]), R(K[i, k]), RW(Y[0, i]))
    for k in reversed(range(nt)):
        g.insert(_OPS["solve_back"], R(K[k, k]), RW(Y[0, k]), on=ranks[Y[0, k]])
        for j in range(k):
            g.insert(_OPS["update_back"], R(Y[0, k]), R(K[k, j]), RW(Y[0, j]), on=ranks[Y[0, j]])
    tests = take("t", "test_images", span.test_size, mt)
    trained, weights = [R(handle) for handle in f], [R(Y[0, i]) for i in range(nt)]
    scores = [h("head_score", i % places, i) for i in range(mt)]
    for i in range(mt):
        p = i % places
        g.insert(
            _OPS["predict"],
            R(tests[i]),
            R(h("test_targets", p)),
            R(scale),
            trained,
            weights,
            W(scores[i]),
            kind,
            i * size,
            on=p,
        )
    g.insert(_OPS["conclude"], [R(score) for score in scores], W(h("head", 0)), kind, on=0)
