"""Blocks of vectors: the operations of iterative refinement between two products. Any dtype, plain NumPy.

A block is an (n_i, m) piece of m vectors, one column for each right-hand side; a scalar per right-hand side is a
(1, m) array. Sums over blocks are taken in the order of the blocks, so they have the same bits on every engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["KERNELS"]

_STRIP = 384


# ------------------------------------------------------------------ norms and determinants of matrices


def norms(a: np.ndarray, si: np.ndarray, sj: np.ndarray) -> None:
    """Add the row sums of |A_ij| to s_i and its column sums to s_j, both (n, 1)."""
    with np.errstate(all="ignore"):  # infinities are looked for in the sums
        for s in range(0, len(a), _STRIP):
            size = np.abs(a[s : s + _STRIP])
            si[s : s + _STRIP, 0] += size.sum(axis=1)
            sj[:, 0] += size.sum(axis=0)


def normsd(a: np.ndarray, s: np.ndarray) -> None:
    """Add the row sums of |A| for a Hermitian tile of which the lower triangle is given."""
    with np.errstate(all="ignore"):
        size = np.abs(np.tril(a))
        s[:, 0] += size.sum(axis=1) + size.sum(axis=0) - size.diagonal()


def asymmetry(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> None:
    """d := max |A - B^H|, max |A|; not finite if A or B is not."""
    with np.errstate(all="ignore"):
        d[0] = np.abs(a - b.conj().T).max(initial=0)
        d[1] = np.abs(a).max(initial=0)


def logdiag(t: np.ndarray, s: np.ndarray) -> None:
    """s := log det(T T^H) for a triangular tile."""
    with np.errstate(divide="ignore"):
        s[...] = 2 * np.log(np.abs(t.diagonal().astype(np.complex128 if t.dtype.kind == "c" else np.float64))).sum()


# ------------------------------------------------------------------ between precisions


def narrow(d: np.ndarray, r: np.ndarray, sizes: np.ndarray, w: np.ndarray) -> None:
    """w := D r / max|D r|, in the precision of w: nothing overflows, whatever the size of r."""
    np.copyto(w, d * r / _positive(sizes[2:]), casting="same_kind")


def widen(d: np.ndarray, w: np.ndarray, sizes: np.ndarray, z: np.ndarray) -> None:
    """z := D w max|D r|: undo `narrow`, apply D from the other side."""
    np.multiply(d * w, sizes[2:], out=z)


def _positive(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, scale, 1.0)


# ------------------------------------------------------------------ sums


def dot(x: np.ndarray, y: np.ndarray, part: np.ndarray) -> None:
    """part := Re x^H y, a column each; in FP64 for FP32."""
    part[0] = np.einsum("ij,ij->j", x.conj(), y, dtype=np.float64 if x.dtype == np.float32 else None).real


def gather(parts: Sequence[np.ndarray], sizes: np.ndarray) -> None:
    """sizes := the largest of its parts; a NaN stays."""
    sizes[...] = parts[0]
    for part in parts[1:]:
        np.maximum(sizes, part, out=sizes)


def _sum(parts: Sequence[np.ndarray]) -> np.ndarray:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; 0 for a right-hand side that is done or breaks down, which `step` and `turn` then leave alone."""
    return np.divide(above, below, out=np.zeros_like(above), where=(below > 0) & np.isfinite(below))


# ------------------------------------------------------------------ conjugate gradients


def turn(parts: Sequence[np.ndarray], rho: np.ndarray, beta: np.ndarray) -> None:
    """beta := rho_new / rho with rho_new = r^H z, the sum of the parts; rho := rho_new."""
    new = _sum(parts)
    beta[...] = _ratio(new, rho)
    rho[...] = new


def sweep(beta: np.ndarray, z: np.ndarray, p: np.ndarray) -> None:
    """p := z + beta p."""
    p *= beta
    p += z


def step(parts: Sequence[np.ndarray], rho: np.ndarray, curvature: np.ndarray, alpha: np.ndarray) -> None:
    """curvature := p^H A p, the sum of the parts; alpha := rho / curvature."""
    curvature[...] = _sum(parts)
    alpha[...] = _ratio(rho, curvature)


def advance(
    alpha: np.ndarray, d: np.ndarray, p: np.ndarray, v: np.ndarray, x: np.ndarray, r: np.ndarray, sizes: np.ndarray
) -> None:
    """x := x + alpha p, r := r - alpha v; sizes := max|x|, max|r|, max|D r|."""
    x += alpha * p
    r -= alpha * v
    _measure(d, x, r, sizes)


def descend(
    alpha: np.ndarray, d: np.ndarray, p: np.ndarray, v: np.ndarray, y: np.ndarray, r: np.ndarray, sizes: np.ndarray
) -> None:
    """y := y + alpha p, r := r - alpha v; sizes := max|D y|, max|D^-1 r|, max|r|."""
    with np.errstate(all="ignore"):  # what is not finite is looked for in the sizes
        y += alpha * p
        r -= alpha * v
        size = np.abs(r)
        sizes[0] = np.abs(d * y).max(axis=0)
        sizes[1] = (size / d).max(axis=0)
        sizes[2] = size.max(axis=0)


def residual(d: np.ndarray, b: np.ndarray, v: np.ndarray, x: np.ndarray, r: np.ndarray, sizes: np.ndarray) -> None:
    """r := b - v; sizes := max|x|, max|r|, max|D r|."""
    np.subtract(b, v, out=r)
    _measure(d, x, r, sizes)


def _measure(d: np.ndarray, x: np.ndarray, r: np.ndarray, sizes: np.ndarray) -> None:
    size = np.abs(r)
    sizes[0] = np.abs(x).max(axis=0)
    sizes[1] = size.max(axis=0)
    size *= d
    sizes[2] = size.max(axis=0)


# ------------------------------------------------------------------ GMRES


def measure(d: np.ndarray, v: np.ndarray, sizes: np.ndarray) -> None:
    """sizes := 0, max|v|, max|D v|."""
    size = np.abs(v)
    sizes[0] = 0
    sizes[1] = size.max(axis=0)
    size *= d
    sizes[2] = size.max(axis=0)


def _vectors(basis: np.ndarray, number: np.ndarray, rows: int) -> list[np.ndarray]:
    """The vectors v_0 to v_k of a basis, in whose array they stand below each other; ``number`` has k."""
    return [basis[j * rows : (j + 1) * rows] for j in range(int(number[0, 0]) + 1)]


def append(v: np.ndarray, number: np.ndarray, basis: np.ndarray) -> None:
    """v_k := v."""
    _vectors(basis, number, len(v))[-1][...] = v


def project(basis: np.ndarray, number: np.ndarray, w: np.ndarray, h: np.ndarray) -> None:
    """h_j := v_j^H w for each v_j of the basis, 0 beyond; h is (most, m)."""
    h[...] = 0
    for j, v in enumerate(_vectors(basis, number, len(w))):
        h[j] = np.einsum("ij,ij->j", v.conj(), w)


def total(parts: Sequence[np.ndarray], result: np.ndarray) -> None:
    """result := the sum of the parts."""
    result[...] = _sum(parts)


def orthogonalize(basis: np.ndarray, number: np.ndarray, h: np.ndarray, w: np.ndarray) -> None:
    """w := w - sum_j v_j h_j."""
    for v, coefficient in zip(_vectors(basis, number, len(w)), h, strict=False):
        w -= v * coefficient


def root(parts: Sequence[np.ndarray], norm: np.ndarray) -> None:
    """norm := the square root of the sum of the parts."""
    np.sqrt(_sum(parts), out=norm)


def normalize(w: np.ndarray, norm: np.ndarray, v: np.ndarray) -> None:
    """v := w / norm; zero where the norm is."""
    v.fill(0)
    np.divide(w, norm, out=v, where=norm > 0)


def combine(basis: np.ndarray, number: np.ndarray, y: np.ndarray, u: np.ndarray) -> None:
    """u := sum_j v_j y_j."""
    u.fill(0)
    for v, coefficient in zip(_vectors(basis, number, len(u)), y, strict=False):
        u += v * coefficient


def add(z: np.ndarray, x: np.ndarray) -> None:
    """x := x + z."""
    x += z


KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        norms,
        normsd,
        asymmetry,
        logdiag,
        narrow,
        widen,
        dot,
        gather,
        turn,
        sweep,
        step,
        advance,
        descend,
        residual,
        measure,
        append,
        project,
        total,
        orthogonalize,
        root,
        normalize,
        combine,
        add,
    )
}
"""By the name of the op."""
