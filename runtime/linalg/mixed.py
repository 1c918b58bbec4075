"""Cholesky in mixed precision: the same loop, with scaling before it and conversions in between.

What is factored is H + shift diag(H) with H = D A D, for use as a preconditioner or under refinement; or A itself, for
`tiled_cholesky(A, precision=...)`. The calls are in `tilewright.linalg.factor`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from tilewright.builder import graph_builder
from tilewright.errors import NotPositiveDefiniteError
from tilewright.graph import RW, Handle, R, TaskGraph, W
from tilewright.host.memory import room, zeros
from tilewright.kernels import products
from tilewright.linalg.call import Call
from tilewright.linalg.cholesky import cholesky
from tilewright.linalg.finals import Finals
from tilewright.linalg.tuning import mixed_tile_size
from tilewright.ops import convert, copy, diagonal, scaled, scalen, tril, unscaled
from tilewright.passes.conversions import copy_name, copy_outline, with_conversions
from tilewright.precision import FORMATS, PrecisionMap, find_format
from tilewright.runs.run import Run
from tilewright.tiles import TiledMatrix

__all__ = ["SHIFTS", "MixedFactor", "MixedProblem", "default_shift", "factor_graph", "in_tiles", "shifted"]

SHIFTS = 4
"""Attempts with ``shift=None``: the first shift, then doubled, at most so often."""

_FIRST_SHIFT = 2.0  # c_n of Higham and Pranesh, in units of u

T = TypeVar("T")
Tiles = dict[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class MixedFactor:
    """L with L L^T = D A D + shift diag(D A D), up to the rounding of its precision.

    Attributes
    ----------
    array
        L as tasks left it, or None if they left it in tiles.
    scale
        (n,) float64, the diagonal of D: d_i = a_ii^(-1/2). Ones for precision ``"fp64"``.
    shift
        The shift it was factored with. diag(D A D) = 1, so it adds to every diagonal element.
    precision
        What was asked for: a name, or ``"map"``.
    precision_map
        The format of every tile.
    run
        The run that made it; its report counts the conversions.
    attempts
        The shifts that were tried, this one last.
    row_sums
        (n,), the sums of |a_ij| along the rows of A, if that was asked for.
    tile_size
        Rows of a tile.
    tiles
        {(i, j): tile} of the lower triangle of L, if asked for in tiles and tasks write into memory of this process.
    narrow
        {(i, j): tile} of L below the diagonal in BF16, as uint16, if it was asked for in tiles and ``narrow_pays``.
    narrow_pays
        Whether substitution reads such tiles faster than those of FP32: products were native ones in BF16.
    """

    array: Any
    scale: np.ndarray
    shift: float
    precision: str
    precision_map: PrecisionMap
    run: Run
    attempts: tuple[float, ...] = ()
    row_sums: np.ndarray | None = None
    tile_size: int = 0
    tiles: Tiles | None = None
    narrow: Tiles | None = None
    narrow_pays: bool = False

    @cached_property
    def L(self) -> Any:  # noqa: N802 - as in the equation
        """(n, n), rows contiguous, float32; float64 if some tile is FP64; a tensor on a device.

        Its lower triangle is the factor; what stands above is undefined. Made of the tiles where it lies in tiles.
        """
        if self.tiles is None:
            return self.array
        L = np.zeros((self.n, self.n), np.float32)
        whole = TiledMatrix.view(L, self.tile_size)
        for (i, j), tile in self.tiles.items():
            whole[i, j][...] = tile
        return L

    @property
    def n(self) -> int:
        return len(self.scale)


def default_shift(precision: PrecisionMap) -> float:
    """c_n u of the least exact format of the products, with c_n = 2; 0 for FP32 and FP64 [1]_.

    .. [1] N. Higham, S. Pranesh, Exploiting lower precision arithmetic in solving symmetric positive definite linear
       systems and least squares problems, SISC 43 (2021), section 3.
    """
    u = max((FORMATS[name].u for name in precision.counts()), default=0.0)
    return _FIRST_SHIFT * u if u > FORMATS["fp32"].u else 0.0


def shifted(factor: Callable[[float], T], shift: float | None, first: float) -> tuple[T, tuple[float, ...]]:
    """(factor(shift), the shifts that were tried). Without a shift ``first``, doubled on breakdown."""
    if shift is not None:
        if not 0 <= shift < np.inf:
            raise ValueError(f"shift must be a number of at least 0, not {shift!r}")
        return factor(float(shift)), (float(shift),)
    attempts = [first]
    while True:
        try:
            return factor(attempts[-1]), tuple(attempts)
        except NotPositiveDefiniteError:
            if not first or len(attempts) == SHIFTS:
                raise
            attempts.append(2 * attempts[-1])


class MixedProblem:
    """One matrix to factor in one precision: checked arguments, the graph, the buffers."""

    def __init__(
        self,
        call: Call,
        precision: str | PrecisionMap,
        tile_size: int | None,
        route: str | None,
        *,
        finish: bool,
        lower: bool = True,
        overwrite: bool = False,
        norms: bool = False,
        in_tiles: bool = False,
    ) -> None:
        self.call = call
        with call.agreement() as facts:
            self.matrix = matrix = call.triangle(lower=lower, overwrite=overwrite and call.chunked)
            if matrix.dtype.kind == "c":
                raise TypeError(f"mixed precision is for real matrices, not {matrix.dtype}")
            known = matrix.tile_size if tile_size is None and not call.chunked else tile_size
            tile_size = fitting_tile_size(precision, matrix.n, known)
            self.source = matrix.source(call.tile_size(tile_size, matrix, mixed_tile_size))
            self.tile_size = self.source.tile_size
            nt = self.source.nt
            self.name = "map" if isinstance(precision, PrecisionMap) else precision
            self.precision = fitting_map(precision, matrix.n, self.tile_size)
            routes = chosen_routes(self.precision, route)
            facts.update(
                shape=self.source.shape,
                dtype=str(matrix.dtype),
                tile_size=self.tile_size,
                precision=self.precision.names,
                routes=routes,
            )
        self.bits = {
            "shape": list(self.source.shape), "dtype": str(matrix.dtype), "tile_size": self.tile_size, "lower": lower,
            "precision": self.precision.single.name if self.precision.single else repr(self.precision.names),
            "routes": [list(pair) for pair in routes],
        }  # fmt: skip
        self.scales = self.precision.single is not FORMATS["fp64"]
        self.norms, self.finish = norms and self.scales, finish
        self.in_tiles = in_tiles and call.here and self.precision.accumulate == "float32"
        self.recipe = self.precision, routes, self.scales, finish
        # An accelerator multiplies the narrow copies, and in mode "tasks" Dask sends what a product reads.
        self.wide = not (call.options.get("devices") or call.options.get("mode") == "tasks")
        self.narrow_pays = ("bfloat16", "cblas") in routes and self.precision.single is FORMATS["bf16"]
        self.width = nt * (nt - 1) // 2

    def factor(self, shift: float) -> MixedFactor:
        n, source, precision = self.matrix.n, self.source, self.precision
        scale = np.ones(n)
        L: np.ndarray | None = None
        tiles: Tiles | None = None
        if self.in_tiles:
            whole = TiledMatrix.view(np.broadcast_to(np.float32(0), (n, n)), self.tile_size)  # shapes, no memory
            tiles = dict(in_tiles(whole, "float32"))
        else:
            L = self._room()
            whole = TiledMatrix.view(L, self.tile_size)
        data: dict[str, Any] = {"S": source, "D": TiledMatrix.view(scale.reshape(n, 1), self.tile_size)}
        if one_dtype(precision):
            data["A"] = whole if tiles is None else tiles
        else:
            data["L"] = whole
            data["A"] = {
                (i, j): whole[i, j]
                if (f := precision[i, j]).accumulate == precision.accumulate
                else np.zeros(whole[i, j].shape, f.accumulate)
                for i, j in precision
            }
        if self.norms:
            data["N"] = sums = {(i, j): np.zeros((2, len(whole[j, j]))) for i, j in precision}
        graph = factor_graph(*self.recipe, shift, norms=self.norms, wide=self.wide)
        data.update(copies(graph, whole))
        record = self._run(graph, data, shift)
        total = _row_sums(sums, whole) if self.norms else None
        narrow = data.get(copy_name("A", "bfloat16"), {}) if self.in_tiles and self.narrow_pays else None
        return MixedFactor(
            L,
            scale,
            shift,
            self.name,
            precision,
            record,
            (shift,),
            total,
            self.tile_size,
            tiles,
            narrow,
            self.narrow_pays,
        )

    def _run(self, graph: TaskGraph, data: dict[str, Any], shift: float) -> Run:
        def first() -> None:  # NaN comes first, on every engine
            self.matrix.check_finite(optional=False)

        return self.call.run(
            graph,
            data,
            width=self.width,
            tiles=self.source,
            first=first,
            finals=Finals((("A", 1),), "S", half="lower", behind=("tril", "unscaled")),
            facts={**self.bits, "shift": shift},
            keywords={"lower": self.matrix.lower, "tile_size": self.tile_size, "precision": self.name},
        )

    def whole(self) -> Any:
        """What `tiled_cholesky` returns: the factor of A itself, of the kind of A, with no shift."""
        if self.call.chunked:
            return self.call.result(self._on_workers())
        found = self.factor(0.0)
        factor: Any = found.L if self.matrix.lower else found.L.T
        if self.matrix.tiled:
            factor = TiledMatrix.view(factor, self.tile_size)
        elif self.matrix.tensor:
            factor = sys.modules["torch"].from_numpy(factor)
        return self.call.result(factor)

    def _on_workers(self) -> Any:
        """The factor as a `dask.array` of futures. Copies in other formats stay on the workers."""
        formats, S = self.precision, self.source
        L = self.matrix.target(dtype=formats.accumulate)
        apart = not one_dtype(formats)
        graph = factor_graph(*self.recipe, 0.0, apart)
        data: dict[str, Any] = {
            "S": S,
            "D": TiledMatrix.view(np.ones((self.matrix.n, 1)), self.tile_size),
            "L" if apart else "A": L,
        }
        self._run(graph, data, 0.0)
        return self.matrix.result(L)

    def _room(self) -> np.ndarray:
        """Where the factor goes. For nobody but us a room with rows a few cache lines longer than they need to be.

        Rows that are a power of two apart share few sets of a cache: products were 10 to 20 % slower there.
        """
        n, dtype = self.matrix.n, self.precision.accumulate
        if self.finish:
            return zeros((n, n), dtype)
        lines = -(-n * np.dtype(dtype).itemsize // 64) | 1
        return room((n, lines * 64 // np.dtype(dtype).itemsize), dtype)[:, :n]

    def gathered(self, factor: MixedFactor) -> MixedFactor:
        """The factor as each rank of a collective call gets it."""
        sums = factor.row_sums
        return replace(
            factor,
            array=self.call.result(factor.array),
            scale=self.call.result(factor.scale),
            row_sums=None if sums is None else self.call.result(sums),
        )


def _row_sums(sums: dict[tuple[int, int], np.ndarray], tiles: TiledMatrix) -> np.ndarray:
    """The row sums of a Hermitian matrix from those along the rows and columns of the tiles of its lower triangle."""
    total = np.zeros(tiles.shape[0])
    for (i, j), (along, down) in sums.items():
        rows, columns = tiles.rows(i), tiles.columns(j)
        total[rows] += along[: rows.stop - rows.start]
        if i != j:
            total[columns] += down
    return total


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


def copies(
    graph: TaskGraph, tiles: TiledMatrix, *, by_columns: bool = False
) -> dict[str, dict[tuple[int, ...], np.ndarray]]:
    """Room for the copies that a graph makes, by family, each tile on a cache line of one arena."""
    data: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    for name in sorted(name for name in graph.temporary if ":" in name):
        handles = [handle for handle in graph.written if handle.name == name]
        _, dtype = copy_outline(handles[0], (1, 1))
        data[name] = dict(_room(handles, tiles, dtype, by_columns))
    return data


def in_tiles(tiles: TiledMatrix, dtype: str) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Room for the tiles of a lower triangle."""
    return _room([Handle("", (i, j)) for j in range(tiles.nt) for i in range(j, tiles.nt)], tiles, dtype)


def _room(
    handles: list[Handle], tiles: TiledMatrix, dtype: str, by_columns: bool = False
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """A tile for each handle in one arena. Rows, or columns, are an odd number of cache lines long.

    Rows a power of two apart share few sets of a cache: with such rows in both operands and the result products took
    20 % longer.
    """
    whole, _ = copy_outline(handles[0], (tiles.tile_size, tiles.tile_size))
    lines = -(-tiles.tile_size * np.dtype(dtype).itemsize // 64) | 1
    length = lines * 64 // np.dtype(dtype).itemsize
    arena = room((len(handles), *whole[:-1], length), dtype, huge=True)
    for place, handle in enumerate(handles):
        i, j = handle.index
        rows, columns = tiles[i, j].shape
        tile = arena[place, ..., :columns, :rows].swapaxes(-1, -2) if by_columns else arena[place, ..., :rows, :columns]
        yield handle.index, tile
