"""The graph of Cholesky in mixed precision, and the formats and routes of its tiles."""

from __future__ import annotations

from collections.abc import Callable

from tilewright.builder import graph_builder
from tilewright.graph import RW, R, TaskGraph, W
from tilewright.kernels import products
from tilewright.linalg.cholesky import cholesky
from tilewright.ops import convert, copy, diagonal, scaled, scalen, tril, unscaled
from tilewright.passes.conversions import with_conversions
from tilewright.precision import FORMATS, PrecisionMap, find_format

__all__ = ["chosen_routes", "factor_graph", "fitting_map", "fitting_tile_size", "one_dtype"]


def fitting_tile_size(precision: str | PrecisionMap, n: int, tile_size: int | None) -> int | None:
    """The tile size that was said, or that of a map; None if it has to be chosen. ValueError for an unknown format."""
    if not isinstance(precision, PrecisionMap):
        find_format(precision)
        return tile_size
    if tile_size is not None:
        return tile_size
    return precision.tile_size or max(-(-n // max(precision.nt, 1)), 1)


def fitting_map(precision: str | PrecisionMap, n: int, tile_size: int) -> PrecisionMap:
    """The format of each tile. ValueError for a map with another number of tiles."""
    nt = -(-n // tile_size)
    if not isinstance(precision, PrecisionMap):
        return PrecisionMap.uniform(nt, precision)
    if precision.nt != nt:
        raise ValueError(
            f"the PrecisionMap has {precision.nt} x {precision.nt} tiles, but a matrix of {n} rows has {nt} x {nt} "
            f"tiles of {tile_size}"
        )
    return precision


def chosen_routes(
    precision: PrecisionMap, route: str | None, find: Callable[[str, str | None], str] | None = None
) -> tuple[tuple[str, str], ...]:
    """(form, route) for each narrow form that products with this map read.

    ``find`` gives the route for a form, or checks the one that was asked for; by default that of this CPU. ValueError
    where it cannot be used, or nothing is multiplied in 16 bits.
    """
    find = find or (lambda form, name: products.route(form, name).name)
    forms = sorted({FORMATS[f].storage for f in precision.counts()} & set(products.FORMS))
    if route is not None and not forms and precision.nt:
        raise ValueError(f"route={route!r} is for products with 16-bit operands: precision bf16, fp16 or bf16x3")
    return tuple((form, find(form, route)) for form in forms)


def _named(precision: PrecisionMap, *_: object) -> str:
    return f"cholesky nt={precision.nt} in {precision.single or 'mixed precision'}"


@graph_builder(_named, cache=32)
def factor_graph(
    g: TaskGraph,
    precision: PrecisionMap,
    routes: tuple[tuple[str, str], ...],
    scales: bool,
    finish: bool,
    shift: float,
    apart: bool = False,
    norms: bool = False,
    wide: bool = True,
) -> TaskGraph:
    """Scale and convert the source S into A, factor A, and with ``finish`` make it the factor of S itself.

    ``wide`` as in `with_conversions`.

    Where tiles have several dtypes, those of another one than the result's are converted into L; with ``apart`` L gets
    all tiles, and A is temporary. With ``norms``, N[i,j] are the sums of |S[i,j]| along its rows and columns.
    """
    nt = precision.nt
    S, D, N = g.handles("S"), g.handles("D"), g.handles("N")
    A = g.handles("A", like="L", dtype=lambda i, j: precision[i, j].accumulate) if apart else g.handles("A")
    if scales:
        for i in range(nt):
            g.insert(diagonal, R(S[i, i]), W(D[i, 0]))  # d_i := a_ii^(-1/2)
    for j in range(nt):
        for i in range(j, nt):  # A := D S D, on the diagonal 1 + shift
            if scales:
                extra = (shift,) if i == j else ()
                if norms:
                    g.insert(scalen, R(S[i, j]), R(D[i, 0]), R(D[j, 0]), W(A[i, j]), W(N[i, j]), *extra, on=A[i, j])
                else:
                    g.insert(scaled, R(S[i, j]), R(D[i, 0]), R(D[j, 0]), W(A[i, j]), *extra)
            else:
                g.insert(copy, R(S[i, j]), W(A[i, j]), "lower" if i == j else "all")
    cholesky(g, A, nt)
    if finish:
        for j in range(nt):
            g.insert(tril, RW(A[j, j]))
            for i in range(j, nt):
                if scales:
                    g.insert(unscaled, R(D[i, 0]), RW(A[i, j]), "lower" if i == j else "all")
    for i, j in precision:
        if precision[i, j].accumulate != precision.accumulate:
            g.insert(convert, R(A[i, j]), W(g.handles("L")[i, j]))
        elif apart:
            g.insert(copy, R(A[i, j]), W(g.handles("L")[i, j]))
    return with_conversions(g, precision, dict(routes).__getitem__, wide=wide)


def one_dtype(precision: PrecisionMap) -> bool:
    """Whether all tiles are stored in the dtype of the result."""
    return all(FORMATS[f].accumulate == precision.accumulate for f in precision.counts())
