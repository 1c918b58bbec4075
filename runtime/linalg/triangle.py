"""A loop on the lower triangle of a matrix, and what a call puts around it: tiles filled before, cleared behind.

``loop(g, A, nt, *rest)`` inserts the tasks that work in place on the tiles of the triangle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilewright.builder import graph_builder
from tilewright.graph import RW, R, Task, TaskGraph, W
from tilewright.linalg.call import Call
from tilewright.linalg.finals import Finals
from tilewright.ops import copy, transpose, tril, zero

__all__ = ["on_triangle", "triangle_graph", "turned_graph"]

Loop = Callable[..., None]
Levels = Callable[[Task, int], float]


@graph_builder(
    lambda loop, nt, *_: f"{loop.__name__} nt={nt}",
    cache=32,
    levels=lambda task, loop, nt, in_place, check, clear, rest, levels: levels(task, nt),
    known=lambda loop, nt, in_place, check, clear, rest, levels: levels is not None,
    tasks=lambda loop, nt, *_: nt**3 / 6,
)
def triangle_graph(
    g: TaskGraph,
    loop: Loop,
    nt: int,
    in_place: bool,
    check: str,
    clear: bool,
    rest: tuple[Any, ...] = (),
    levels: Levels | None = None,
) -> None:
    """Fill the tiles ``A[i,j]`` from ``S[i,j]`` unless ``in_place``, work on them, clear the other triangle.

    Copying in and clearing are tasks, so that all workers share them and they overlap with the rest.

    Parameters
    ----------
    check
        Where to look for NaN and infinities: ``"before"``, while tiles are copied; ``"behind"``, on the diagonal of the
        result, for a loop by which any in the matrix lead to one there; or ``""``.
    clear
        Whether there may be anything above the diagonal tiles of the result; else they are zero already.
    rest
        More arguments of the loop.
    levels
        The closed form of bottom levels, of a task and nt, which counts copies and clearing too.
    """
    A, S = g.handles("A"), g.handles("S")
    if not in_place:
        look = check == "before"
        for j in g.range(nt):
            g.insert(copy, R(S[j, j]), W(A[j, j]), *["lower"] * look)
            for i in g.range(j + 1, nt):
                g.insert(copy, R(S[i, j]), W(A[i, j]), *["all"] * look)
    loop(g, A, nt, *rest)
    for j in g.range(nt):
        g.insert(tril, RW(A[j, j]), *[True] * (check == "behind"))
        if clear:
            for i in g.range(j):
                g.insert(zero, W(A[i, j]))


@graph_builder(
    lambda loop, nt, *_: f"{loop.__name__} nt={nt} by columns", cache=32, tasks=lambda loop, nt, *_: nt**3 / 6
)
def turned_graph(g: TaskGraph, loop: Loop, nt: int, rest: tuple[Any, ...] = ()) -> None:
    """The same in place in a matrix that lies by columns, handles ``A[i,j]`` the tiles of its transpose, by rows.

    What is to be worked on lies above the diagonal there. It is turned over the diagonal, worked on by rows, and turned
    back: two transposed copies of a triangle, so that bits are those of every other layout.
    """
    A = g.handles("A")
    for j in g.range(nt):
        g.insert(transpose, RW(A[j, j]))
        for i in g.range(j + 1, nt):
            g.insert(transpose, R(A[j, i]), W(A[i, j]))  # A_ij := A_ji^T
    loop(g, A, nt, *rest)
    for j in g.range(nt):
        g.insert(tril, RW(A[j, j]))
        g.insert(transpose, RW(A[j, j]))
        for i in g.range(j + 1, nt):
            g.insert(transpose, R(A[i, j]), W(A[j, i]))
            g.insert(zero, W(A[i, j]))


def on_triangle(
    call: Call,
    loop: Loop,
    *,
    lower: bool,
    overwrite: bool,
    tile_size: int | None,
    rule: Callable[[int, int], int],
    check_finite: bool,
    check: str,
    width: Callable[[int], int],
    rest: tuple[Any, ...] = (),
    levels: Levels | None = None,
    first: Callable[[Any], None] | None = None,
) -> Any:
    """Run the loop on a triangle of the matrix of a call; returns what the call returns.

    Parameters
    ----------
    lower, overwrite, tile_size
        As the caller gave them; ``rule`` chooses a tile size from n and the number of workers.
    check_finite
        Whether to look for NaN and infinities: in place before the first task, else as ``check`` says for
        `triangle_graph`.
    width
        How many tasks of nt x nt tiles can run at a time.
    rest, levels
        As in `triangle_graph`.
    first
        Looks at the triangle before the first task and raises what is wrong with it.
    """
    with call.agreement() as facts:
        matrix = call.triangle(lower=lower, overwrite=overwrite)
        source = matrix.source(call.tile_size(tile_size, matrix, rule))
        facts.update(
            shape=source.shape,
            dtype=str(matrix.dtype),
            turned=matrix.turned,
            lower=lower,
            tile_size=source.tile_size,
            overwrite_a=overwrite,
        )
        if call.has_data:
            if check_finite and (matrix.in_place or call.on_device):  # tasks on a device look at nothing
                matrix.check_finite()
            if first is not None:
                first(matrix)
    nt, target = source.nt, matrix.target(used_again=call.here)
    if matrix.turned:
        graph = turned_graph(loop, nt, rest)
    else:
        look = check if check_finite and not matrix.in_place else ""
        graph = triangle_graph(loop, nt, matrix.in_place, look, matrix.clear, rest, levels)
    data = {"A": target} if matrix.in_place else {"A": target, "S": source}
    finals = Finals(
        (("A", 1),),
        "A" if matrix.in_place else "S",
        column=0 if matrix.turned else 1,
        half="upper" if matrix.turned else "lower",
        behind=("tril", "zero", "transpose"),
    )
    bits = {"shape": list(source.shape), "dtype": str(matrix.dtype), "tile_size": source.tile_size, "lower": lower}
    late = matrix.check_finite if check_finite and not matrix.in_place else None  # NaN comes before what it causes
    call.run(
        graph,
        data,
        width=width(nt),
        tiles=source,
        first=late,
        finals=finals,
        facts=bits,
        keywords={"lower": lower, "tile_size": source.tile_size, "check_finite": check_finite},
    )
    return call.result(matrix.result(target))
