"""LU and products of level 3 on torch's tensors, FP32 and FP64: `TileOp.tensor` of their ops.

They launch work on the current stream. Only a panel with pivots waits for the device: its row exchanges are numbers in
the memory of the host, as ``piv`` is, and tell the others which rows to move. Tournaments are in
`tilewright.kernels.tournament`, recursive panels in `tilewright.kernels.panel`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilewright.kernels import elements, reference
from tilewright.kernels.columns import tops
from tilewright.kernels.swaps import by_tile, moved

__all__ = [
    "KERNELS",
    "as_tensor",
    "gemmn",
    "getrf",
    "getrfn",
    "lauum",
    "matmul",
    "rankk",
    "stacked",
    "swpgemm",
    "swptrsm",
    "trmm",
    "trsmn",
    "trsmu",
    "trsolve",
]

Tensor = Any

_FEW = 16  # columns that are eliminated one by one


# ------------------------------------------------------------------ LU


def getrf(tiles: Sequence[Tensor], piv: Any, threshold: float = 1.0) -> None:
    """P A = L U of the tiles below each other. Panels with a threshold, which no library has, go to the host."""
    import torch

    strip = torch.cat(list(tiles))
    if threshold < 1:
        here, found = strip.cpu().numpy().copy(), np.empty(min(strip.shape), np.int32)
        reference.getrf(
            [here[start : start + len(t)] for start, t in zip(tops(tiles), tiles, strict=True)], found, threshold
        )
        factor = torch.from_numpy(here)
    else:
        factor, pivots, _ = torch.linalg.lu_factor_ex(strip)
        found = pivots.cpu().numpy() - 1
    for start, tile in zip(tops(tiles), tiles, strict=True):
        tile.copy_(factor[start : start + len(tile)])
    piv[...] = found if isinstance(piv, np.ndarray) else torch.from_numpy(found).to(piv)


def getrfn(a: Tensor) -> None:
    """A = L U without pivoting, by halves of its columns. A zero pivot divides nothing."""
    import torch

    m, n = a.shape
    if n > _FEW and m > 1:
        h = min(n // 2, m)
        getrfn(a[:, :h])
        trsmn(a[:h, :h], a[:h, h:])
        if m > h:
            a[h:, h:].addmm_(a[h:, :h], a[:h, h:], alpha=-1)
            getrfn(a[h:, h:])
        return
    for j in range(min(m, n)):
        pivot = a[j, j]
        a[j + 1 :, j] /= torch.where(pivot == 0, torch.ones_like(pivot), pivot)
        a[j + 1 :, j + 1 :] -= torch.outer(a[j + 1 :, j], a[j, j + 1 :])


def gemmn(a: Tensor, b: Tensor, c: Tensor, flag: str = "N") -> None:
    """C := C - op(A) B."""
    c.addmm_(_op(a, flag), b, alpha=-1)


def trsmn(t: Tensor, x: Tensor, part: str = "L", flag: str = "N") -> None:
    """X := op(T)^-1 X, T unit lower or upper."""
    lower, k = part == "L", len(x)
    x.copy_(_solved(_op(t[:k, :k], flag), x, lower == (flag == "N"), True, lower))


def trsmu(u: Tensor, a: Tensor) -> None:
    """A := A U^-1."""
    k = a.shape[1]
    a.copy_(_solved(u[:k, :k], a, False, False, False))


def swptrsm(piv: Any, l: Tensor, tiles: Sequence[Tensor]) -> None:  # noqa: E741
    """Rows exchanged, then A_k := L_kk^-1 A_k."""
    swap_rows(piv, tiles)
    trsmn(l, tiles[0])


def swpgemm(piv: Any, panel: Sequence[Tensor], tiles: Sequence[Tensor]) -> None:
    """The same, and A_i := A_i - L_ik A_k below; of several panels, when all rows are exchanged."""
    together = len(piv) if isinstance(piv, list | tuple) else 1
    pivots = piv if isinstance(piv, list | tuple) else [piv]
    for first, one in enumerate(pivots):
        swap_rows(one, tiles[first:])
    for first, one in enumerate(pivots):
        k, below = len(one), tiles[first:]
        top = below[0][:k]
        beside = panel[first::together][first:]
        trsmn(beside[0], top)
        for left, tile in zip(beside, below, strict=True):
            rest = slice(k, None) if tile is below[0] else slice(None)
            if len(tile[rest]):
                gemmn(left[rest, :k], top, tile[rest])


def swap(pivots: Sequence[Any], tiles: Sequence[Tensor], backwards: bool = False) -> None:
    """Apply the swaps of several panels to a block column: `tilewright.kernels.swaps.swap`."""
    steps = list(zip(pivots, range(len(tiles)), strict=False))
    for piv, first in reversed(steps) if backwards else steps:
        swap_rows(piv, tiles[first:], backwards)


def swap_columns(pivots: Sequence[Any], tiles: Sequence[Tensor], backwards: bool = False) -> None:
    """The same with the columns of a block row."""
    swap(pivots, [tile.mT for tile in tiles], backwards)


def swap_rows(piv: Any, tiles: Sequence[Tensor], backwards: bool = False) -> None:
    """Apply one panel's swaps to the strip of these tiles. Rows that stay are not touched."""
    targets, sources = moved(piv if isinstance(piv, np.ndarray) else piv.cpu().numpy(), backwards)
    starts = np.array(tops(tiles))
    rows = tiles[0].new_empty((len(sources), tiles[0].shape[1]))
    for i, places, local in by_tile(sources, starts):
        rows[_index(places, rows)] = tiles[i][_index(local, rows)]
    for i, places, local in by_tile(targets, starts):
        tiles[i][_index(local, rows)] = rows[_index(places, rows)]


def stacked(tiles: Sequence[Tensor]) -> Tensor:
    """The rows of all tiles in a new tensor."""
    import torch

    return torch.cat(list(tiles))


def as_tensor(tile: Any) -> Tensor:
    """The tensor that is given, or one over the memory of the array."""
    import torch

    return torch.as_tensor(tile)


def _index(places: np.ndarray, like: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(places).to(like.device)


def diag(source: Tensor, target: Any) -> None:
    """target := the diagonal of the tile, a vector, on the device or not."""
    if isinstance(target, np.ndarray):
        target[...] = source.diagonal().cpu().numpy()
    else:
        target.copy_(source.diagonal())


def zero(target: Tensor) -> None:
    """target := 0."""
    target.zero_()


def identity(target: Tensor) -> None:
    """target := I, where the tile is on the diagonal."""
    target.zero_()
    target.diagonal().fill_(1)


# ------------------------------------------------------------------ sums, scales, tilings


def geadd(x: Tensor, y: Tensor, flag: str = "N", alpha: complex = 1.0, beta: complex = 0.0) -> None:
    """Y := alpha op(X) + beta Y: `tilewright.kernels.elements.geadd`. With beta = 0 Y is not read."""
    source = x.mT if flag in "TC" else x
    if source.shape != y.shape:
        raise ValueError(f"geadd: X {tuple(x.shape)} and Y {tuple(y.shape)} do not fit, flag {flag}")
    source = (source.conj() if flag in "CJ" else source).to(y.dtype)
    if beta == 0:
        y.copy_(source if alpha == 1 else alpha * source)
    else:
        y.mul_(beta).add_(source, alpha=alpha)


def rescale(y: Tensor, alpha: complex, part: str = "") -> None:
    """Y := alpha Y, or zeros for alpha = 0, whatever was there; of a triangle, if ``part`` says so."""
    if alpha == 1:
        return
    scaled = y.new_zeros(y.shape) if alpha == 0 else alpha * y
    if part:
        _keep(y, scaled, part)
    else:
        y.copy_(scaled)


def retile(pieces: Sequence[Tensor], y: Tensor, places: Sequence[tuple[int, int, int, int]]) -> None:
    """Y := what of other tiles lies in it: `tilewright.kernels.elements.retile`."""
    elements.retile(pieces, y, places)  # by slices, which tensors have too


def mirror(source: Tensor, target: Tensor) -> None:
    """target := source^H; a tile of the diagonal, which is both, becomes Hermitian by its lower triangle."""
    if source is not target:
        target.copy_(source.mH)
        return
    lower = target.tril(-1)
    diagonal = target.diagonal().real.clone()
    target.copy_(lower + lower.mH)
    target.diagonal().copy_(diagonal)


# ------------------------------------------------------------------ level 3


def _op(a: Tensor, flag: str) -> Tensor:
    return {"N": a, "T": a.mT, "C": a.mH}[flag]


def _solved(t: Tensor, x: Tensor, lower: bool, left: bool, unit: bool) -> Tensor:
    import torch

    return torch.linalg.solve_triangular(t, x, upper=not lower, left=left, unitriangular=unit)


def matmul(a: Tensor, b: Tensor, c: Tensor, flags: str = "NN", alpha: float = 1.0, beta: float = 0.0) -> None:
    """C := alpha op(A) op(B) + beta C. With beta = 0 C is not read."""
    c.addmm_(_op(a, flags[0]), _op(b, flags[1]), alpha=alpha, beta=beta)


def rankk(
    a: Tensor, c: Tensor, uplo: str = "L", flag: str = "N", conj: bool = True, alpha: float = 1.0, beta: float = 0.0
) -> None:
    """C := alpha op(A) op(A)^H + beta C on one triangle; numbers are real, so ^H is ^T."""
    whole = c.clone()
    matmul(a, a, whole, "NT" if flag == "N" else "TN", alpha, beta)
    _keep(c, whole, uplo)


def _keep(c: Tensor, whole: Tensor, uplo: str) -> None:
    """C := ``whole`` on one triangle."""
    import torch

    rows, columns = (torch.tril_indices if uplo == "L" else torch.triu_indices)(*c.shape, device=c.device)
    c[rows, columns] = whole[rows, columns]


def _triangle(t: Tensor, uplo: str, diag: str) -> Tensor:
    whole = t.tril() if uplo == "L" else t.triu()
    if diag == "U":
        whole.diagonal().fill_(1)
    return whole


def trmm(
    t: Tensor, x: Tensor, side: str = "L", uplo: str = "L", flag: str = "N", diag: str = "N", alpha: float = 1.0
) -> None:
    """X := alpha op(T) X, or alpha X op(T)."""
    whole = _op(_triangle(t, uplo, diag), flag)
    x.copy_(alpha * (whole @ x if side == "L" else x @ whole))


def trsolve(
    t: Tensor, x: Tensor, side: str = "L", uplo: str = "L", flag: str = "N", diag: str = "N", alpha: float = 1.0
) -> None:
    """X := alpha op(T)^-1 X, or alpha X op(T)^-1."""
    lower = (uplo == "L") == (flag == "N")
    x.copy_(alpha * _solved(_op(t, flag), x, lower, side == "L", diag == "U"))


def lauum(t: Tensor) -> None:
    """T := T^T T on the lower triangle."""
    lower = t.tril()
    _keep(t, lower.mT @ lower, "L")


KERNELS: dict[str, Callable[..., None]] = {
    "swap": swap,
    "swapc": swap_columns,
    "diag": diag,
    "zero": zero,
    "identity": identity,
    "geadd": geadd,
    "rescale": rescale,
    "retile": retile,
    "mirror": mirror,
}
"""Kernels that move numbers of every dtype, by the name of the op."""
