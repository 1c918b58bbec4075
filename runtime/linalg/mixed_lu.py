"""LU in mixed precision: the loop of `lu_graph`, with scaling before it and conversions in between.

What is factored is D A E, for use under refinement. Panels, substitutions and sums are FP32; products of tiles have
operands in the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewright.builder import graph_builder
from tilewright.errors import SingularMatrixError
from tilewright.graph import Handle, R, TaskGraph, W
from tilewright.host.memory import room
from tilewright.kernels import products
from tilewright.linalg.arena import copies
from tilewright.linalg.call import Call
from tilewright.linalg.equilibrate import Scaling
from tilewright.linalg.lu_graph import insert_lu
from tilewright.linalg.tuning import mixed_lu_tile_size
from tilewright.ops import diag, scaled
from tilewright.passes.conversions import with_conversions
from tilewright.precision import FORMATS, PrecisionMap
from tilewright.runs.progress import ProgressOption
from tilewright.runs.run import Run
from tilewright.schedulers import Policy
from tilewright.tiles import TiledMatrix

__all__ = ["MixedLU", "mixed_lu", "mixed_lu_graph"]


@dataclass(frozen=True)
class MixedLU:
    """P D A E = L U, up to the rounding of its precision.

    Attributes
    ----------
    lu
        (n, n) float32 in tiles, by columns: U on and above the diagonal, L below it.
    pivots
        int32, the row exchanges of each panel, counted from its first row, from 0.
    scaling
        D and E.
    precision_map
        The format of its tiles.
    run
        The run that made it; its report counts the conversions.
    """

    lu: TiledMatrix
    pivots: list[np.ndarray]
    scaling: Scaling
    precision_map: PrecisionMap
    run: Run
    shift: float = 0.0

    @property
    def row_sums(self) -> np.ndarray:
        """The sums of |a_ij| along the rows of A."""
        return self.scaling.sums

    @property
    def tile_size(self) -> int:
        return self.lu.tile_size


@graph_builder("lu n={n} tile_size={nb} in {precision}, pivoting {pivoting}", cache=32)
def mixed_lu_graph(
    g: TaskGraph,
    n: int,
    nb: int,
    precision: str,
    route: str | None,
    pivoting: str = "partial",
    ranks: int = 1,
    wide: bool = True,
) -> TaskGraph:
    """Scale and convert the source S into A and factor that; ``U[k]`` is the diagonal of U.

    Parameters
    ----------
    route
        That of products with narrow operands: `tilewright.kernels.products`.
    pivoting, ranks
        As in `lu_graph`; ``"partial"`` or ``"none"``.
    wide
        As in `with_conversions`.
    """
    nt = -(-n // nb)
    S, D, E, A = g.handles("S"), g.handles("D"), g.handles("E"), g.handles("A")
    for j in range(nt):
        for i in range(nt):
            g.insert(scaled, R(S[i, j]), R(D[i]), R(E[j]), W(A[i, j]))  # A := D S E
    insert_lu(g, A, nt, nt, pivoting, "tile", ranks, 1, (n, n), nb, "float32")
    U = g.handles("U", shape=lambda k: min(nb, n - k * nb), dtype="float32", keep=True)
    for k in range(nt):
        g.insert(diag, R(A[k, k]), W(U[k]))
    return with_conversions(g, {"A": precision}, lambda form: str(route), wide=wide)


def mixed_lu(
    a: Any,
    precision: str,
    scaling: Scaling,
    *,
    pivoting: str = "partial",
    tile_size: int | None = None,
    workers: int | None = None,
    scheduler: str | Policy = "critical-path",
    backend: str | None = None,
    progress: ProgressOption = False,
    **options: Any,
) -> MixedLU:
    """Scale, convert and factor a square matrix in low precision.

    Parameters
    ----------
    a : (n, n) array, float64
    precision
        A name of `tilewright.precision.FORMATS`, not "fp64".
    scaling
        That of this matrix.
    pivoting
        ``"partial"``, or ``"none"`` for matrices that are diagonally dominant.
    tile_size, workers, scheduler, backend, progress, options
        See `tilewright.lu_factor`.

    Raises
    ------
    SingularMatrixError
        U has an exact zero on its diagonal, which in low precision may be rounding.
    OverflowError
        A number does not fit FP32, or a tile of the factor does not fit FP16.
    ValueError
        The matrix has a NaN or an infinity.

    Notes
    -----
    2/3 n^3 flops. Scaling, conversion and factorisation are one graph of tile tasks. The bits depend on the matrix, the
    tile size, the route and the library behind it; not on engine, policy and workers.
    """
    call = Call(mixed_lu, a, options, backend=backend, scheduler=scheduler, workers=workers, progress=progress)
    storage = FORMATS[precision].storage
    with call.agreement() as facts:
        matrix = call.by_columns(square=True)
        n = matrix.shape[0]
        nb = call.tile_size(tile_size, matrix, mixed_lu_tile_size)
        source = matrix.source(nb)
        route = products.route(storage).name if storage in products.FORMS else None
        ranks = call.rank_rows()
        facts.update(shape=matrix.shape, tile_size=nb, precision=precision, route=route, pivoting=pivoting)
    wide = call.options.get("mode") != "tasks"  # there Dask sends what a product reads
    graph = mixed_lu_graph(n, nb, precision, route, pivoting, ranks if pivoting == "partial" else 1, wide)
    A = TiledMatrix.view(_by_columns(n), nb)
    scales = {"D": scaling.rows, "E": scaling.columns}
    data: dict[str, Any] = {
        "S": source,
        "A": A,
        **copies(graph, A, by_columns=True),
        **{name: [d.reshape(n, 1)[A.rows(i)] for i in range(A.nt)] for name, d in scales.items()},
    }
    record = call.run(graph, data)
    diagonals = [record.store[Handle("U", (k,))] for k in range(A.nt)]
    if pivoting == "none":
        pivots = [np.arange(len(found), dtype=np.int32) for found in diagonals]
    else:
        pivots = [record.store[Handle("piv", (k,))] for k in range(A.nt)]
    _check(np.concatenate(diagonals) if diagonals else np.zeros(0), nb)
    return MixedLU(A, pivots, scaling, PrecisionMap.uniform(A.nt, precision), record)


def _check(diagonal: np.ndarray, nb: int) -> None:
    """SingularMatrixError for a zero on the diagonal of U, OverflowError for what is no number."""
    if not np.isfinite(diagonal).all():
        raise OverflowError("a number of the factor does not fit FP32, whose largest is 3.4e38")
    zeros = np.flatnonzero(diagonal == 0)
    if len(zeros):
        k = int(zeros[0]) // nb
        raise SingularMatrixError(int(zeros[0]), f"getrf({k})", nb, min(nb, len(diagonal) - k * nb))


def _by_columns(n: int) -> np.ndarray:
    """Memory for the factor, by columns, an odd number of cache lines apart: see `tilewright.linalg.arena`."""
    lines = -(-n * 4 // 64) | 1
    return room((n, lines * 16), np.float32, huge=True).T[:n]
