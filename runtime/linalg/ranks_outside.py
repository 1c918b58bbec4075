"""Cholesky and LU factorisations of matrices larger than memory on ranks: block columns dealt out, one store.

Each rank has pages for its own block columns and for the panels that come by; see `tilewright.linalg.by_pages`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.graph import Handle, R, TaskGraph
from tilewright.linalg.by_pages import ByPages, Destination, nothing, run_by_pages
from tilewright.linalg.call import Call
from tilewright.linalg.cholesky import cholesky
from tilewright.linalg.finals import Finals
from tilewright.linalg.outofcore import LUParts, Outside
from tilewright.linalg.paged import OnDisk
from tilewright.linalg.slabs import finite_at, gauge_at, potrf_at
from tilewright.linalg.triangle import triangle_graph
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.ops import gauge, potrf
from tilewright.storage.matrix import Stored, StoredTiles, check_tiles
from tilewright.storage.opening import folder_of, open_source
from tilewright.tiles import TiledMatrix

__all__ = ["cholesky_on_ranks", "lu_on_ranks"]


def _opened(call: Call, outside: Outside, a: Any, stack: ExitStack, *, square: bool) -> Stored:
    """The matrix, after what can be refused before."""
    outside.check_options(call.options)
    if not isinstance(outside.out, str | Path):
        raise ValueError("on ranks the factor goes to a file of its own: out= is a path, such as 'L.npy'")
    source = open_source(a)
    if source is not a:
        stack.callback(source.close)
    if square and source.shape[0] != source.shape[1]:
        raise ValueError(f"the matrix a must be square, not {source.shape[0]} x {source.shape[1]}")
    return source


def _tile_size(call: Call, source: Stored, given: int | None, rule: Callable[[int, int], int]) -> int:
    made = source.tile_size
    nb = rule(max(1, min(source.shape)), call.count()) if given is None and made is None else given or made
    if not isinstance(nb, int) or isinstance(nb, bool) or nb < 1:
        call.tile_size(given, source, rule)
    if made is not None and nb != made:
        raise ValueError(f"tile_size={nb}, but {source.name} makes tiles of {made}")
    assert nb is not None
    check_tiles(source, nb)
    return nb


def _again(outside: Outside, nb: int, check: bool, engine: str) -> dict[str, Any]:
    return {
        "tile_size": nb, "memory": outside.memory, "check_finite": check, "overwrite_out": outside.overwrite_out,
        "backend": engine,
    }  # fmt: skip


def cholesky_on_ranks(
    call: Call, outside: Outside, a: Any, *, lower: bool, tile_size: int | None, check_finite: bool
) -> Any:
    """The factor of a triangle: what `tiled_cholesky` returns."""
    with ExitStack() as stack:
        given = _opened(call, outside, a, stack, square=True)
        source = given if lower else given.T
        n, nb = source.shape[0], _tile_size(call, source, tile_size, cholesky_tile_size)
        nt, item, dtype = -(-n // nb), source.dtype.itemsize, source.dtype
        finite = finite_at(nb)

        def loaded(graph: TaskGraph, page: Handle, tile: Handle, rank: int) -> None:
            i, j = tile.index
            graph.insert(finite, R(page), "lower" if i == j else "all", label=tile.index, on=rank)

        def families(matrices: list[Stored], matrix: Stored) -> dict[str, OnDisk]:
            return {"A": OnDisk(StoredTiles(matrices[0], nb), StoredTiles(matrix, nb), kept=True)}

        job = ByPages(
            triangle_graph(cholesky, nt, True, "", False),
            f"a Cholesky factorisation of order {n}",
            nb,
            item,
            n * nb * item,
            families,
            Finals((("A", 1),), "A", half="lower", behind=("tril",)),
            loaded=loaded if check_finite else nothing,
            ops={potrf: potrf_at(nb)},
            panel=n * nb * item,
        )
        place = Destination(outside.out, (n, n), dtype, nb, "C" if lower else "F", turned=not lower)
        facts = {"shape": [n, n], "dtype": str(dtype), "tile_size": nb, "lower": lower, "place": "out of core, ranks"}
        keywords = {"lower": lower, **_again(outside, nb, check_finite, call.engine.name)}
        folder = folder_of(outside.out)
        (found,), _ = run_by_pages(call, outside, job, a, source, [place], [], folder, facts, keywords)
        return call.result(found)


def lu_on_ranks(
    call: Call,
    outside: Outside,
    a: Any,
    build: Callable[..., TaskGraph],
    *,
    tile_size: int | None,
    rule: Callable[[int, int], int],
    check_finite: bool,
) -> tuple[LUParts, TiledMatrix]:
    """The factor of a general matrix with partial pivoting, updates by tile; and the tiling of the matrix."""
    with ExitStack() as stack:
        source = _opened(call, outside, a, stack, square=False)
        (m, n), nb, dtype = source.shape, _tile_size(call, source, tile_size, rule), source.dtype
        item, least = dtype.itemsize, min(source.shape)

        def families(matrices: list[Stored], matrix: Stored) -> dict[str, OnDisk]:
            return {"A": OnDisk(StoredTiles(matrices[0], nb), StoredTiles(matrix, nb), kept=True, by_columns=True)}

        job = ByPages(
            build((m, n), nb, "partial", "tile", True, check_finite, str(dtype)),
            f"an LU factorisation of {m} x {n}",
            nb,
            item,
            m * nb * item,
            families,
            Finals((("A", 1), ("piv", 0)), "A", behind=("swap",)),
            late=frozenset(("swap",)),
            ops={gauge: gauge_at(nb)},
            panel=m * nb * item,
            copies=m * nb * item,
        )
        place = Destination(outside.out, (m, n), dtype, nb)
        facts = {"shape": [m, n], "dtype": str(dtype), "tile_size": nb, "place": "out of core, ranks"}
        keywords = _again(outside, nb, check_finite, call.engine.name)
        folder = folder_of(outside.out)
        (lu,), record = run_by_pages(call, outside, job, a, source, [place], [], folder, facts, keywords)
    piv = np.arange(least, dtype=np.int32)
    diagonal = np.ones(least, dtype)
    for k, start in enumerate(range(0, least, nb)):
        piv[start : start + nb] = record.store[Handle("piv", (k,))] + np.int32(start)
        diagonal[start : start + nb] = record.store[Handle("D", (k,))]
    tiling = TiledMatrix((m, n), nb, dtype, np.empty(0, dtype), packed=True)
    return LUParts(lu, piv, diagonal, record["M"] if m and n and check_finite else {}, nb), tiling
