"""The ops of tiled linear algebra. Their kernels are in `tilewright.kernels`, one file each."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

from tilewright.errors import NotPositiveDefiniteError, SingularMatrixError
from tilewright.graph import Handle, Op, Task, Use
from tilewright.kernels import gemm as _gemm
from tilewright.kernels import gemml as _gemml
from tilewright.kernels import geqrf as _geqrf
from tilewright.kernels import geqrt as _geqrt
from tilewright.kernels import getrf as _getrf
from tilewright.kernels import hemm as _hemm
from tilewright.kernels import level3 as _level3
from tilewright.kernels import lu as _lu
from tilewright.kernels import narrow as _narrow
from tilewright.kernels import panel as _panels
from tilewright.kernels import potrf as _potrf
from tilewright.kernels import syrk as _syrk
from tilewright.kernels import tournament as _tournament
from tilewright.kernels import tpqrt as _tpqrt
from tilewright.kernels import trsm as _trsm
from tilewright.kernels import trsml as _trsml
from tilewright.kernels import trsmr as _trsmr
from tilewright.kernels import trtri as _trtri
from tilewright.kernels.vectors import KERNELS as _VECTORS
from tilewright.tiles import Store, TiledMatrix

__all__ = [
    "OPS",
    "blocks",
    "convert",
    "copy",
    "crown",
    "diag",
    "diagonal",
    "elect",
    "elect_last",
    "finite",
    "gauge",
    "gemm",
    "gemml",
    "gemmlb",
    "gemmn",
    "geqrf",
    "geqrt",
    "getrf",
    "getrfn",
    "hemm",
    "hemmd",
    "identity",
    "in_place",
    "larfb",
    "match",
    "match_last",
    "mirror",
    "potrf",
    "residues",
    "scaled",
    "scalen",
    "signs",
    "split",
    "squares",
    "swap",
    "swapc",
    "swpgemm",
    "swptrsm",
    "syrk",
    "take",
    "tf32",
    "times_columns",
    "times_rows",
    "trade",
    "transpose",
    "tril",
    "triu",
    "trsm",
    "trsml",
    "trsmn",
    "trsmr",
    "trsmu",
    "trtri",
    "tsmqr",
    "tsqrt",
    "ttmqr",
    "ttqrt",
    "unmqr",
    "unscaled",
    "widen",
    "zero",
    "butterfly",
    "gemm2",
    "getrf2",
    "trsm2",
    "geadd",
    "lauum",
    "matmul",
    "rankk",
    "regular",
    "rescale",
    "retile",
    "trmm",
    "trsolve",
    "colscale",
    "colsize",
    "extents",
    "gemmp",
    "rowscale",
]


def _tile(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,j) of the tile written last."""
    return uses[-1].handle.index


def _diagonal(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(k) of a task on the diagonal tile (k, k)."""
    return uses[-1].handle.index[:1]


def _diagonal_update(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,k) of an update of tile (i, i) by tile (i, k)."""
    return uses[0].handle.index


def _update(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,j,k) of an update of tile (i, j) by tiles (i, k) and (j, k)."""
    return *uses[-1].handle.index, uses[0].handle.index[1]


def _substitution(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(k,c) of a substitution with tile (k, k) in column c of the right-hand sides."""
    return uses[-1].handle.index


def _product(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,j) of a product with tile (i, j)."""
    return uses[0].handle.index


def _elimination(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,c,k) of an update of right-hand sides (i, c) by the unknowns (k, c)."""
    return *uses[-1].handle.index, uses[1].handle.index[0]


def _panel(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(k) of the panel whose pivots are written last."""
    return uses[-1].handle.index


def _column(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(k,j) of the update of block column j by panel k."""
    return *uses[0].handle.index, uses[-1].handle.index[1]


def _last_column(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(j) of a task on block column j."""
    return uses[-1].handle.index[1:]


def _plain_update(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,j,k) of an update of tile (i, j) by tiles (i, k) and (k, j)."""
    return *uses[2].handle.index, uses[1].handle.index[0]


def _pair(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,j,k) of reflections (i, k) applied in column j."""
    return *uses[-1].handle.index, uses[1].handle.index[1]


def _reflected(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(k,j) of the reflections of panel k applied to block column j, the last of several."""
    return uses[0].handle.index[1], uses[-1].handle.index[1]


def _first_row(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(k) of a panel whose first tile is (k, k)."""
    return uses[0].handle.index[:1]


def _first(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,j) of the tile that is used first."""
    return uses[0].handle.index


def _second(uses: tuple[Use, ...]) -> tuple[object, ...]:
    """(i,j) of the tile that is used second."""
    return uses[1].handle.index


def in_place(name: str, function: Any, **how: Any) -> Op:
    """An op of one function, which changes arrays of NumPy; its tasks are named for what they use last."""
    return Op(name, function, in_place=True, **{"indices": _tile, **how})


@cache
def getrf(tiles: int) -> Op:
    """The factorisation of a panel of so many tiles, 3 tiles - 1 units."""
    return Op("getrf", weight=3 * tiles - 1, flops=_getrf.flops, indices=_panel)


@cache
def swpgemm(tiles: int, together: int = 1) -> Op:
    """Row exchanges, substitution and products in a block column of so many tiles, 6 tiles - 3 units.

    Of so many panels ``together`` 6 together tiles - 3 together^2.
    """
    weight = 6 * together * tiles - 3 * together**2
    return Op("swpgemm", weight=weight, flops=_lu.flops_swpgemm, indices=_column)


@cache
def getrf2(tiles: int, leaf: int, of: int) -> Op:
    """One of so many leaves of a panel of so many tiles. The last parameters of a task are these numbers, too."""
    weight = (3 * (tiles * of - leaf) - 1) / of**3
    return Op("getrf2", weight=weight, flops=partial(_panels.flops_getrf2, leaf, of), indices=_panel)


@cache
def trsm2(first: int, middle: int, last: int, of: int) -> Op:
    """The update of some leaves by others in the tile on top of a panel."""
    done, wide = middle - first, last - middle
    weight = 3 * done * wide * (done + 2 * (of - middle)) / of**3
    return Op("trsm2", weight=weight, flops=partial(_panels.flops_trsm2, first, middle, last, of), indices=_diagonal)


@cache
def gemm2(first: int, middle: int, last: int, of: int) -> Op:
    """The same in another tile of the panel."""
    weight = 6 * (middle - first) * (last - middle) / of**2
    return Op("gemm2", weight=weight, flops=partial(_panels.flops_gemm2, first, middle, last, of), indices=_tile)


def _not_positive_definite(task: Task, store: Store, info: int) -> Exception:
    tile = task.writes[0]
    if info < 0:
        return ValueError(f"{task} on {tile}: LAPACK calls its argument {-info} illegal")
    offset = store.offset(tile)
    return NotPositiveDefiniteError(offset + info, task.label, tile, offset, len(store[tile]))


def _singular(task: Task, store: Store, info: int) -> Exception:
    tile = task.writes[0]
    if info < 0:
        return ValueError(f"{task} on {tile}: LAPACK calls its argument {-info} illegal")
    place = store.offset(tile) + info - 1
    return np.linalg.LinAlgError(f"{task}: the matrix is singular: its diagonal is zero at ({place}, {place})")


def _zero_pivot(task: Task, store: Store, info: int) -> Exception:
    tile = task.uses[0].handle
    k, (offset, tile_size) = tile.index[0], task.params
    if not tile_size:
        place = offset + info - 1
        return np.linalg.LinAlgError(f"{task}: the matrix is singular: its diagonal is zero at ({place}, {place})")
    return SingularMatrixError(offset + info - 1, f"getrf({k})", tile_size, len(store[tile]))


def _not_finite(task: Task, store: Store, info: int) -> Exception:
    return ValueError(f"{task}: {task.uses[0].handle} has a NaN or an infinity; check_finite=False skips this check")


def _factor_not_finite(task: Task, store: Store, info: int) -> Exception:
    tile = task.writes[0]
    return ValueError(
        f"{task}: {tile} of the factor has a NaN or an infinity; numbers are too large for "
        f"{store[tile].dtype}, or the matrix has some; check_finite=False skips this check"
    )


def _does_not_fit(task: Task, store: Store, info: int) -> Exception:
    """A number that was or became too large, at its global place."""
    source, target = task.uses[0].handle, task.writes[0]
    if info == _narrow.NOT_FINITE:
        return ValueError(f"{task}: {source} has a NaN or an infinity")
    if info == _narrow.UNDERFLOW:
        return OverflowError(f"{task}: {target} has a pivot too small for FP32, whose smallest normal is 1.2e-38")
    tile, made = store[source], store[target].astype(np.float64)
    if tile.shape != made.shape:  # unscaled: by a column of D
        source, tile = target, np.broadcast_to(np.nan, made.shape)
    places = np.argwhere(np.isinf(made) & ~np.isinf(tile))
    if not len(places):
        return OverflowError(f"{task}: {source} has a number too large for {_format_of(store[target])}")
    i, j = (int(k) for k in places[0])
    known = source if isinstance(store.families.get(source.name), TiledMatrix) else target
    rows, columns = (store.offset(Handle(known.name, (k, k))) for k in source.index)
    place = f"at row {rows + i}, column {columns + j}" + ("" if source == target else f": {float(tile[i, j]):.4g}")
    return OverflowError(f"{task}: {source} has a number too large for {_format_of(store[target])}, {place}")


def _format_of(tile: np.ndarray) -> str:
    return {"float16": "FP16, whose largest is 65504", "float32": "FP32, whose largest is 3.4e38"}[str(tile.dtype)]


potrf = Op(
    "potrf", weight=1, flops=_potrf.flops, indices=_diagonal, explain=_not_positive_definite, operands="accumulate"
)
trsm = Op("trsm", weight=3, flops=_trsm.flops, indices=_tile, operands="accumulate")
syrk = Op("syrk", weight=3, flops=_syrk.flops, indices=_diagonal_update, operands="storage")
gemm = Op("gemm", weight=6, flops=_gemm.flops, indices=_update, operands="storage")

trsml = Op("trsml", weight=3, flops=_trsml.flops, indices=_substitution)
trsmr = Op("trsmr", weight=3, flops=_trsmr.flops, indices=_tile)
trtri = Op("trtri", weight=1, flops=_trtri.flops, indices=_diagonal, explain=_singular)
gemml = Op("gemml", weight=6, flops=_gemml.flops, indices=_elimination)
gemmlb = Op("gemmlb", weight=6, flops=_gemml.flops, indices=_elimination)
gemmp = Op("gemmp", weight=6, flops=_gemm.flops, indices=_product)
hemm = Op("hemm", weight=12, flops=_hemm.flops, indices=_product)
hemmd = Op("hemmd", weight=6, flops=_hemm.flops_diagonal, indices=_product)

matmul = Op("matmul", weight=6, flops=_level3.flops_matmul, indices=_tile)
rankk = Op("rankk", weight=3, flops=_level3.flops_rankk, indices=_tile)
trmm = Op("trmm", weight=3, flops=_level3.flops_trmm, indices=_tile)
trsolve = Op("trsolve", weight=3, flops=_level3.flops_trmm, indices=_tile)
lauum = Op("lauum", weight=1, flops=_level3.flops_lauum, indices=_diagonal)
geadd = Op("geadd", weight=0, indices=_tile)
rescale = Op("rescale", weight=0, indices=_tile)
retile = Op("retile", weight=0, indices=_tile)
regular = Op("regular", weight=0, indices=_first_row, explain=_zero_pivot)

getrfn = Op("getrfn", weight=2, flops=_getrf.flops_plain, indices=_diagonal)
gemmn = Op("gemmn", weight=6, flops=_lu.flops_gemmn, indices=_plain_update, operands="storage")
trsmn = Op("trsmn", weight=3, flops=_lu.flops_trsmn, indices=_tile)
trsmu = Op("trsmu", weight=3, flops=_lu.flops_trsmu, indices=_tile)
swptrsm = Op("swptrsm", weight=3, flops=_lu.flops_swptrsm, indices=_column)
swap = Op("swap", weight=0, indices=_last_column)
swapc = Op("swapc", weight=0, indices=_diagonal)

geqrt = Op("geqrt", weight=4, flops=_geqrt.flops_geqrt, indices=_first)
unmqr = Op("unmqr", weight=6, flops=_geqrt.flops_unmqr, indices=_pair)
tsqrt = Op("tsqrt", weight=6, flops=_tpqrt.flops_tsqrt, indices=_second)
tsmqr = Op("tsmqr", weight=12, flops=_tpqrt.flops_tsmqr, indices=_pair)
ttqrt = Op("ttqrt", weight=2, flops=_tpqrt.flops_ttqrt, indices=_second)
ttmqr = Op("ttmqr", weight=6, flops=_tpqrt.flops_ttmqr, indices=_pair)


@cache
def geqrf(tiles: int) -> Op:
    """The QR factorisation of a panel of so many tiles, 6 tiles - 2 units."""
    return Op("geqrf", weight=6 * tiles - 2, flops=_geqrf.flops_geqrf, indices=_first_row)


@cache
def larfb(tiles: int, across: int = 1) -> Op:
    """Its reflections applied to so many block columns, 12 tiles - 6 units each."""
    return Op("larfb", weight=(12 * tiles - 6) * across, flops=_geqrf.flops_larfb, indices=_reflected)


copy = Op("copy", weight=0, indices=_tile, explain=_not_finite)
finite = Op("finite", weight=0, indices=_tile, explain=_not_finite)


@cache
def elect(tiles: int) -> Op:
    """The candidates of so many tiles of a panel, 3 tiles - 1 units."""
    return Op("elect", weight=3 * tiles - 1, flops=_tournament.flops_elect, indices=_tile)


@cache
def elect_last(tiles: int) -> Op:
    """The same where these are all tiles of the panel: its pivots."""
    return Op("electl", weight=3 * tiles - 1, flops=_tournament.flops_elect, indices=_diagonal)


match = Op("match", weight=5, flops=_tournament.flops_match, indices=_tile)
match_last = Op("matchl", weight=5, flops=_tournament.flops_match_last, indices=_diagonal)
crown = Op("crown", weight=0, indices=_diagonal)
take = Op("take", weight=0, indices=_column)
butterfly = Op("butterfly", weight=0, indices=_tile)
trade = Op("trade", weight=0, indices=_tile)

diag = Op("diag", weight=0, indices=_diagonal)
gauge = Op("gauge", weight=0, indices=_tile, explain=_not_finite)
squares = Op("squares", weight=0, indices=_tile)
zero = Op("zero", weight=0, indices=_tile)
tril = Op("tril", weight=0, indices=_diagonal, explain=_factor_not_finite)
triu = Op("triu", weight=0, indices=_tile)
signs = Op("signs", weight=0, indices=_diagonal)
residues = Op("residues", weight=0, indices=_tile)
times_rows = Op("times_rows", weight=0, indices=_tile)
times_columns = Op("times_columns", weight=0, indices=_tile)
identity = Op("identity", weight=0, indices=_tile)
mirror = Op("mirror", weight=0, indices=_tile)
transpose = Op("transpose", weight=0, indices=_tile)
blocks = Op("blocks", weight=0, indices=_tile)

convert = Op("convert", weight=0, indices=_tile, explain=_does_not_fit, again="shared")
widen = Op("convert", weight=0, indices=_tile, explain=_does_not_fit, again="always")
split = Op("split", weight=0, indices=_tile, again="shared")
tf32 = Op("tf32", weight=0, indices=_tile, again="shared")
diagonal = Op("diagonal", weight=0, indices=_diagonal)
scaled = Op("scaled", weight=0, indices=_tile, explain=_does_not_fit)
scalen = Op("scalen", weight=0, indices=_tile, explain=_does_not_fit)
unscaled = Op("unscaled", weight=0, indices=_tile, explain=_does_not_fit)

extents = Op("extents", weight=0, indices=_product)
rowscale = Op("rowscale", weight=0, indices=_tile)
colsize = Op("colsize", weight=0, indices=_tile)
colscale = Op("colscale", weight=0, indices=_tile)

OPS = {name: Op(name, weight=0) for name in (*_VECTORS, "exchange")}
"""On blocks of vectors, by the name of the kernel: `tilewright.kernels.vectors`."""
