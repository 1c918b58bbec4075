"""The ops whose kernels come from BLAS libraries, each with its `TileOp`. A new one is a file and a line here."""

from __future__ import annotations

from tilewright.kernels import (
    gemm,
    gemml,
    geqrf,
    geqrt,
    getrf,
    hemm,
    level3,
    lu,
    panel,
    potrf,
    syrk,
    tournament,
    tpqrt,
    trsm,
    trsml,
    trsmr,
    trtri,
)
from tilewright.kernels.tile_op import TileOp

__all__ = ["TILE_OPS"]

TILE_OPS: dict[str, TileOp] = {
    tile_op.name: tile_op
    for tile_op in (
        potrf.TILE_OP,
        trsm.TILE_OP,
        syrk.TILE_OP,
        gemm.TILE_OP,
        trsml.TILE_OP,
        gemml.TILE_OP,
        hemm.TILE_OP,
        gemml.PLUS,
        hemm.DIAGONAL,
        trsmr.TILE_OP,
        trtri.TILE_OP,
        level3.MATMUL,
        level3.RANKK,
        level3.TRMM,
        level3.TRSOLVE,
        level3.LAUUM,
        getrf.TILE_OP,
        getrf.PLAIN,
        lu.GEMMN,
        lu.TRSMN,
        lu.TRSMU,
        lu.SWPTRSM,
        lu.SWPGEMM,
        panel.GETRF2,
        panel.TRSM2,
        panel.GEMM2,
        tournament.ELECT,
        tournament.ELECT_LAST,
        tournament.MATCH,
        tournament.MATCH_LAST,
        tournament.CROWN,
        geqrt.GEQRT,
        geqrt.UNMQR,
        tpqrt.TSQRT,
        tpqrt.TSMQR,
        tpqrt.TTQRT,
        tpqrt.TTMQR,
        geqrf.GEQRF,
        geqrf.LARFB,
    )
}
"""By name."""
