"""General systems in dask.arrays: factors, solutions and inverses stay in tiles on the workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewright.linalg.call import Call
from tilewright.linalg.evaluate import Wanted, distinct, evaluate, frame_of
from tilewright.linalg.expression import Expression, Inverse, Leaf, ProgramBuilder, Solution, Transposed
from tilewright.linalg.matrix import factor_dtype
from tilewright.linalg.program import Ref

__all__ = [
    "expression_of_chunks",
    "inverse_from_factor",
    "inverse_of_chunks",
    "solution_of_chunks",
    "solve_from_factor",
]


def _factor(b: ProgramBuilder, lu: Leaf, dtype: np.dtype, piv: int, trans: str = "N") -> tuple[Ref, Ref]:
    """References of an LU factor and its pivots, after a look for exact zeros."""
    found = b.operand(lu, dtype)
    count = b.value(lu.extent, np.int64, "count")
    b.step("regular", (Ref(found.value), Ref(count)), True)
    return Ref(found.value, trans), Ref(piv)


def _pivots(b: ProgramBuilder, piv: np.ndarray, place: int) -> dict[str, Any]:
    nb = b.tile_size
    return {b.values[place].name: [piv[k : k + nb] - np.int32(k) for k in range(0, len(piv), nb)]}


def solve_from_factor(
    call: Call, lu: Any, piv: np.ndarray, right: Any, trans: int, check_finite: bool, tile_size: int | None
) -> Any:
    """X with op(A) X = B from P A = L U, lu a dask.array: a dask.array."""
    factor, b = Leaf(lu, what="lu"), Leaf(right, what="b")
    if factor.extent[0] != factor.extent[1]:
        raise ValueError(f"lu must be square, not {factor.extent[0]} x {factor.extent[1]}")
    if b.extent[0] != factor.extent[0]:
        raise ValueError(f"b has {b.extent[0]} rows, but the matrix has {factor.extent[0]}")
    dtype = factor_dtype(np.result_type(factor.dtype, b.dtype))
    known: list[int] = []

    def build(builder: ProgramBuilder, places: list[int]) -> None:
        known.append(builder.value(factor.extent, np.int32, "pivots"))
        b._into(builder, places[0], 1.0, 0.0)
        builder.step("lu_solve", (*_factor(builder, factor, dtype, known[0], "NTC"[trans]), Ref(places[0])))

    result = Wanted(b.extent, dtype, "F", b.vector)
    (found,) = evaluate(
        call,
        [factor, b],
        [result],
        build,
        tile_size,
        "lu_solve",
        check_finite=check_finite,
        more=lambda builder: _pivots(builder, piv, known[0]),
    )
    return found


def inverse_from_factor(call: Call, lu: Any, piv: np.ndarray, tile_size: int | None) -> Any:
    """A^-1 from P A = L U, lu a dask.array: a dask.array."""
    factor, known = Leaf(lu, what="lu"), list[int]()

    def build(builder: ProgramBuilder, places: list[int]) -> None:
        known.append(builder.value(factor.extent, np.int32, "pivots"))
        builder.step("lu_inverse", (*_factor(builder, factor, factor.dtype, known[0]), Ref(places[0])))

    (found,) = evaluate(
        call,
        [factor],
        [Wanted(factor.extent, factor.dtype, "F")],
        build,
        tile_size,
        "lu inverse",
        more=lambda builder: _pivots(builder, piv, known[0]),
    )
    return found


def expression_of_chunks(call: Call, node: Expression, tile_size: int | None, check_finite: bool) -> Any:
    """The values of an expression in which dask.arrays are."""

    def build(builder: ProgramBuilder, places: list[int]) -> None:
        builder.assign(node, places[0])

    (found,) = evaluate(
        call,
        distinct([node]),
        [Wanted(node.extent, node.dtype, node._order(), node.vector)],
        build,
        tile_size,
        call.routine.__name__,
        check_finite=check_finite,
    )
    return found


def inverse_of_chunks(call: Call, a: Any, tile_size: int | None, check_finite: bool) -> Any:
    """The inverse of a dask.array, a dask.array."""
    return expression_of_chunks(call, Inverse(Leaf(a), "gen"), tile_size, check_finite)


def solution_of_chunks(
    routine: Any,
    a: Any,
    b: Any,
    assume: str,
    lower: bool,
    transposed: bool,
    check_finite: bool,
    tile_size: int | None,
    how: Mapping[str, Any],
) -> Any:
    """X with A X = B where one of them is a dask.array."""
    matrix: Expression = Leaf(a)
    right = Leaf(b, what="b")
    if transposed:
        matrix = Transposed.of(matrix, "T")
    if assume == "pos" and lower == transposed:  # the triangle that is read is the upper one
        matrix = Transposed.of(matrix, "C")
    node = Solution(matrix, right, assume)
    call = frame_of(
        routine,
        distinct([node]),
        how.get("options", {}),
        backend=how["backend"],
        scheduler=how["scheduler"],
        workers=how["workers"],
    )
    return call.result(expression_of_chunks(call, node, tile_size, check_finite))
