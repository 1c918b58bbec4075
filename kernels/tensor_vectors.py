"""`tilewright.kernels.vectors`, substitution and products with a symmetric matrix on torch tensors of any dtype.

Rows of the table for devices, as those of `tilewright.kernels.tensors`: torch operations that put work on the current
stream and do not wait. A block is an (n_i, m) piece of m vectors, a scalar per right-hand side a (1, m) tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewright.kernels import vectors

__all__ = ["KERNELS"]

Tensor = Any


# ------------------------------------------------------------------ triangles


def trsml(
    t: Tensor, x: Tensor, adjoint: bool = False, lower: bool = True, unit: bool = False, alpha: float = 1.0
) -> None:
    """X := alpha op(T)^-1 X; only the named triangle of T is read."""
    import torch

    a, upper = (t.mH, lower) if adjoint else (t, not lower)
    x.copy_(torch.linalg.solve_triangular(a, x, upper=upper, unitriangular=unit))
    if alpha != 1:
        x.mul_(alpha)


def trsmr(t: Tensor, x: Tensor, lower: bool = True, unit: bool = False) -> None:
    """X := X T^-1."""
    import torch

    x.copy_(torch.linalg.solve_triangular(t, x, upper=not lower, left=False, unitriangular=unit))


def trtri(t: Tensor, unit: bool = False) -> None:
    """T := T^-1, its lower triangle."""
    import torch

    n = t.shape[0]
    eye = torch.eye(n, dtype=t.dtype, device=t.device)
    t.copy_(torch.linalg.solve_triangular(t, eye, upper=False, unitriangular=unit))


def gemml(a: Tensor, y: Tensor, x: Tensor, adjoint: bool = False) -> None:
    """X := X - op(A) Y."""
    x.addmm_(a.mH if adjoint else a, y, alpha=-1)


def identity(target: Tensor) -> None:
    """target := I."""
    target.zero_().fill_diagonal_(1)


def mirror(source: Tensor, target: Tensor) -> None:
    """target := source^H; a tile of the diagonal, which is both, becomes Hermitian by its lower triangle."""
    if source is target:
        below = source.tril(-1)
        target.tril_().add_(below.mH)
        if target.is_complex():
            target.diagonal().imag.zero_()
    else:
        target.copy_(source.mH)


def zero(target: Tensor) -> None:
    """target := 0."""
    target.zero_()


def logdiag(t: Tensor, s: Tensor) -> None:
    """s := log det(T T^H) for a triangular tile."""
    s.copy_(2 * t.diagonal().abs().to(s.dtype).log().sum())


# ------------------------------------------------------------------ symmetric matrices


def blocks(a: Tensor, f: Tensor) -> None:
    """F := the whole tile, by the lower triangle of A: on a device a block is as large as the tile."""
    f.copy_(a)
    mirror(f, f)


def hemmd(a: Tensor, f: Tensor, x: Tensor, v: Tensor) -> None:
    """V := V + A X for a tile of the diagonal, whose blocks are F."""
    v.addmm_(f, x)


def hemm(a: Tensor, xi: Tensor, xj: Tensor, vi: Tensor, vj: Tensor) -> None:
    """V_i := V_i + A X_j and V_j := V_j + A^H X_i."""
    vi.addmm_(a, xj)
    vj.addmm_(a.mH, xi)


def norms(a: Tensor, si: Tensor, sj: Tensor) -> None:
    """Add the row sums of |A_ij| to s_i and its column sums to s_j."""
    size = a.abs()
    si[:, 0] += size.sum(dim=1)
    sj[:, 0] += size.sum(dim=0)


def normsd(a: Tensor, s: Tensor) -> None:
    """Add the row sums of |A| for a Hermitian tile of which the lower triangle is given."""
    below = a.tril().abs()
    s[:, 0] += below.sum(dim=1) + below.sum(dim=0) - below.diagonal()


def asymmetry(a: Tensor, b: Tensor, d: Tensor) -> None:
    """d := max |A - B^H|, max |A|; not finite if A or B is not."""
    d[0] = (a - b.mH).abs().max()
    d[1] = a.abs().max()


# ------------------------------------------------------------------ vectors


def narrow(d: Tensor, r: Tensor, sizes: Tensor, w: Tensor) -> None:
    """w := D r / max|D r|, in the precision of w."""
    import torch

    size = sizes[2:]
    w.copy_(d * r / torch.where(size > 0, size, torch.ones_like(size)))


def widen(d: Tensor, w: Tensor, sizes: Tensor, z: Tensor) -> None:
    """z := D w max|D r|."""
    z.copy_(d * w.to(z.dtype) * sizes[2:])


def dot(x: Tensor, y: Tensor, part: Tensor) -> None:
    """part := Re x^H y, a column each."""
    part[0] = (x.conj() * y).sum(dim=0).real


def gather(parts: Sequence[Tensor], sizes: Tensor) -> None:
    """sizes := the largest of its parts; a NaN stays."""
    import torch

    sizes.copy_(parts[0])
    for part in parts[1:]:
        torch.maximum(sizes, part, out=sizes)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    import torch

    return torch.where((below > 0) & below.isfinite(), above / below, torch.zeros_like(above))


def turn(parts: Sequence[Tensor], rho: Tensor, beta: Tensor) -> None:
    """beta := rho_new / rho with rho_new = r^H z, the sum of the parts; rho := rho_new."""
    new = _sum(parts)
    beta.copy_(_ratio(new, rho))
    rho.copy_(new)


def sweep(beta: Tensor, z: Tensor, p: Tensor) -> None:
    """p := z + beta p."""
    p.mul_(beta).add_(z)


def step(parts: Sequence[Tensor], rho: Tensor, curvature: Tensor, alpha: Tensor) -> None:
    """curvature := p^H A p, the sum of the parts; alpha := rho / curvature."""
    curvature.copy_(_sum(parts))
    alpha.copy_(_ratio(rho, curvature))


def advance(alpha: Tensor, d: Tensor, p: Tensor, v: Tensor, x: Tensor, r: Tensor, sizes: Tensor) -> None:
    """x := x + alpha p, r := r - alpha v; sizes := max|x|, max|r|, max|D r|."""
    x += alpha * p
    r -= alpha * v
    _measure(d, x, r, sizes)


def descend(alpha: Tensor, d: Tensor, p: Tensor, v: Tensor, y: Tensor, r: Tensor, sizes: Tensor) -> None:
    """y := y + alpha p, r := r - alpha v; sizes := max|D y|, max|D^-1 r|, max|r|."""
    y += alpha * p
    r -= alpha * v
    for row, block in enumerate((d * y, r / d, r)):
        sizes[row] = block.abs().amax(dim=0)


def residual(d: Tensor, b: Tensor, v: Tensor, x: Tensor, r: Tensor, sizes: Tensor) -> None:
    """r := b - v; sizes := max|x|, max|r|, max|D r|."""
    import torch

    torch.sub(b, v, out=r)
    _measure(d, x, r, sizes)


def _measure(d: Tensor, x: Tensor, r: Tensor, sizes: Tensor) -> None:
    for row, block in enumerate((x, r, d * r)):
        sizes[row] = block.abs().amax(dim=0)


def measure(d: Tensor, v: Tensor, sizes: Tensor) -> None:
    """sizes := 0, max|v|, max|D v|."""
    sizes[0] = 0
    for row, block in enumerate((v, d * v), 1):
        sizes[row] = block.abs().amax(dim=0)


def _vectors(basis: Tensor, number: Tensor, rows: int) -> list[Tensor]:
    """The vectors v_0 to v_k of a basis, in whose array they stand below each other; ``number`` has k."""
    return [basis[j * rows : (j + 1) * rows] for j in range(int(number[0, 0]) + 1)]


def append(v: Tensor, number: Tensor, basis: Tensor) -> None:
    """v_k := v."""
    _vectors(basis, number, len(v))[-1][...] = v


def project(basis: Tensor, number: Tensor, w: Tensor, h: Tensor) -> None:
    """h_j := v_j^H w for each v_j of the basis, 0 beyond; h is (most, m)."""
    h[...] = 0
    for j, v in enumerate(_vectors(basis, number, len(w))):
        h[j] = (v.conj() * w).sum(dim=0)


def total(parts: Sequence[Tensor], result: Tensor) -> None:
    """result := the sum of the parts."""
    result.copy_(_sum(parts))


def orthogonalize(basis: Tensor, number: Tensor, h: Tensor, w: Tensor) -> None:
    """w := w - sum_j v_j h_j."""
    for v, coefficient in zip(_vectors(basis, number, len(w)), h, strict=False):
        w -= v * coefficient


def root(parts: Sequence[Tensor], norm: Tensor) -> None:
    """norm := the square root of the sum of the parts."""
    norm.copy_(_sum(parts).sqrt())


def normalize(w: Tensor, norm: Tensor, v: Tensor) -> None:
    """v := w / norm; zero where the norm is."""
    import torch

    v.copy_(torch.where(norm > 0, w / norm, torch.zeros_like(w)))


def combine(basis: Tensor, number: Tensor, y: Tensor, u: Tensor) -> None:
    """u := sum_j v_j y_j."""
    u.zero_()
    for v, coefficient in zip(_vectors(basis, number, len(u)), y, strict=False):
        u += v * coefficient


def add(z: Tensor, x: Tensor) -> None:
    """x := x + z."""
    x += z


_TILES = (trsml, trsmr, trtri, gemml, identity, mirror, zero, blocks, hemmd, hemm)

KERNELS = {kernel.__name__: kernel for kernel in _TILES}
"""By the name of the op: of tiles, and one for each of `tilewright.kernels.vectors`."""
KERNELS |= {name: globals()[name] for name in vectors.KERNELS}
