"""Sparse products as task graphs over per-rank handles.

===============  ==================================================================================================
handle           what it names
===============  ==================================================================================================
``x[k,p]``       level k on rank p: its own components of A^k x, then those of others that it holds at that level
``w[k,p,q]``     what p sends to q of level k on; the only data that another rank reads, so it is the message
``A[i,p]``       row pointers, columns and values of the local block (i = 0, 1, 2) and of the remote one (3, 4, 5)
``A[k,i,p]``     the same of the inner rows of level k: they need no message
``B[k,i,p]``     the same of the rows that rank p computes at level k when its message is in
``c[p]``         coefficients of a recurrence
===============  ==================================================================================================

One product on rank p: pack(p, q) for all neighbours q, local(p), which needs nothing of others, then remote(p), which
reads the messages. The order in which a rank sends is by (q - p) mod ranks, so that neighbours do not all send to one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilewright.comm.closure import Closure
from tilewright.comm.inspector import Block, Piece
from tilewright.graph import RW, Handle, Op, R, TaskGraph, W
from tilewright.kernels import csr

__all__ = ["Assembly", "blocked_graph", "product_graph", "recur", "transposed_graph"]

Data = dict[Handle, np.ndarray]


# ------------------------------------------------------------------ ops


def _pack(*arguments: Any) -> None:
    """message := the components that a rank asked for, level by level."""
    *levels, where, message = arguments
    level, place = where
    for k in np.unique(level):
        chosen = level == k
        message[chosen] = levels[k][place[chosen]]


def _local(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """y := A_local x."""
    y[...] = 0
    csr.multiply_add(indptr, indices, values, x, y)


def _remote(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, boundary: np.ndarray, *rest: np.ndarray) -> None:
    """y := y + A_remote ghosts, for the rows that have remote entries."""
    *messages, y = rest
    partial = y[boundary]
    csr.multiply_add(indptr, indices, values, np.concatenate(messages), partial)
    y[boundary] = partial


def _back(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, boundary: np.ndarray, x: np.ndarray,
          *messages: np.ndarray) -> None:  # fmt: skip
    """messages := A_remote^T x, the part of each owner of ghosts."""
    ghosts = np.zeros((sum(map(len, messages)), *x.shape[1:]), x.dtype)
    csr.transposed_multiply_add(indptr, indices, values, x[boundary], ghosts)
    first = 0
    for message in messages:
        message[...] = ghosts[first : first + len(message)]
        first += len(message)


def _transposed(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """y := A_local^T x."""
    y[...] = 0
    csr.transposed_multiply_add(indptr, indices, values, x, y)


def _add(where: np.ndarray, message: np.ndarray, y: np.ndarray) -> None:
    """y := y + message, at the components that were asked for."""
    y[where] += message


def recur(y: np.ndarray, coefficients: np.ndarray | None, k: int, before: np.ndarray, earlier: np.ndarray | None) -> None:
    """y := (y - theta before - sigma earlier) / gamma, with row k - 1 of ``coefficients``. None leaves y as it is."""
    if coefficients is None:
        return
    theta, sigma, gamma = coefficients[k - 1]
    if theta:
        y -= y.dtype.type(theta) * before
    if sigma and earlier is not None:
        y -= y.dtype.type(sigma) * earlier
    if gamma != 1:
        y /= y.dtype.type(gamma)


def sweep(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, first: int, own: int, k: int,
          coefficients: np.ndarray | None, before: np.ndarray, earlier: np.ndarray | None, y: np.ndarray) -> None:  # fmt: skip
    """Level k of rows that need no message, from row ``first`` on: y := A_local x, ``indptr`` has these rows only."""
    last = first + len(indptr) - 1
    part = y[first:last]
    part[...] = 0
    csr.multiply_add(indptr, indices, values, before[:own], part)
    recur(part, coefficients, k, before[first:last], None if earlier is None else earlier[first:last])


def finish(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, rows: np.ndarray, k: int,
           coefficients: np.ndarray | None, before: np.ndarray, earlier: np.ndarray | None, y: np.ndarray) -> None:  # fmt: skip
    """Level k of the other rows, own and redundant ones."""
    part = np.zeros((len(rows), *y.shape[1:]), y.dtype)
    csr.multiply_add(indptr, indices, values, before, part)
    if coefficients is not None:
        recur(part, coefficients, k, before[rows], None if earlier is None else earlier[rows])
    y[rows] = part


def _sweep(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, *rest: Any) -> None:
    *vectors, first, own, k, shifted = rest
    sweep(indptr, indices, values, first, own, k, *_vectors(vectors, k, shifted))


def _finish(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, rows: np.ndarray, *rest: Any) -> None:
    *vectors, k, shifted = rest
    finish(indptr, indices, values, rows, k, *_vectors(vectors, k, shifted))


def _vectors(vectors: list[np.ndarray], k: int, shifted: bool) -> tuple[Any, Any, Any, Any]:
    """(coefficients, level k - 1, level k - 2 or None, level k)."""
    coefficients = vectors.pop(0) if shifted else None
    before = vectors[0]
    earlier = vectors[1] if shifted and k > 1 else None
    return coefficients, before, earlier, vectors[-1]


def _arrive(*arguments: Any) -> None:
    """Messages to their places in the extended vector of one level."""
    *pairs, vector, k = arguments
    for where, message in zip(pairs[::2], pairs[1::2], strict=True):
        level, place = where
        chosen = level == k
        vector[place[chosen]] = message[chosen]


def _entries(*shapes: Any) -> float:
    """A multiplication and an addition for each entry and vector: shapes of row pointers, columns, values, ..., y."""
    return 2.0 * shapes[2][0] * (shapes[-1][1] if len(shapes[-1]) > 1 else 1)


def _words(*shapes: Any) -> float:
    return float(np.prod(shapes[1]))


PACK = Op("pack", _pack, weight=0, flops=lambda *shapes: 0.0)
LOCAL = Op("local", _local, flops=_entries)
REMOTE = Op("remote", _remote, flops=_entries)
BACK = Op("back", _back, flops=lambda *shapes: 2.0 * shapes[2][0] * (shapes[4][1] if len(shapes[4]) > 1 else 1))
TRANSPOSED = Op("transposed", _transposed, flops=_entries)
ADD = Op("add", _add, flops=_words)
SWEEP = Op("sweep", _sweep, flops=_entries)
FINISH = Op("finish", _finish, flops=_entries)
ARRIVE = Op("arrive", _arrive, weight=0, flops=lambda *shapes: 0.0)


# ------------------------------------------------------------------ graphs


class Assembly:
    """A graph under construction, with the buffers of its handles and the ranks that own them."""

    def __init__(self, name: str, ranks: int, dtype: Any, trailing: tuple[int, ...]) -> None:
        self.graph = TaskGraph(name)
        self.ranks = ranks
        self.dtype = np.dtype(dtype)
        self.trailing = trailing
        """() for one vector, (k,) for k at once."""
        self.data: Data = {}
        self.owner: dict[Handle, int] = {}
        self.outputs: list[list[tuple[Handle, Any, int]]] = []
        """By level: (handle, its place in the whole vector, how many components) for each rank."""

    def give(self, name: str, index: tuple[int, ...], rank: int, array: np.ndarray) -> Handle:
        """A handle with its buffer."""
        handle = Handle(name, index)
        self.data[handle] = array
        self.owner[handle] = rank
        return handle

    def vector(self, name: str, index: tuple[int, ...], rank: int, size: int) -> Handle:
        return self.give(name, index, rank, np.zeros((size, *self.trailing), self.dtype))


def _order(rank: int, ranks: int, others: Any) -> list[int]:
    return sorted(others, key=lambda other: (other - rank) % ranks)


def _matrix(assembly: Assembly, piece: Piece) -> tuple[list[Handle], list[Handle]]:
    """Handles of the local and of the remote block."""
    arrays = [piece.local.indptr, piece.local.indices, piece.local.values,
              piece.remote.indptr, piece.remote.indices, piece.remote.values, piece.boundary]  # fmt: skip
    handles = [assembly.give("A", (i, piece.rank), piece.rank, array) for i, array in enumerate(arrays)]
    return handles[:3], handles[3:]


def _rows(block: Block, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some consecutive rows of a block; nothing but the row pointers is copied."""
    start, end = int(block.indptr[first]), int(block.indptr[last])
    return block.indptr[first : last + 1] - block.indptr[first], block.indices[start:end], block.values[start:end]


def _wants(places: np.ndarray) -> np.ndarray:
    return places if places.ndim == 2 else np.stack([np.zeros_like(places), places])


def product_graph(pieces: list[Piece], dtype: Any, steps: int = 1, trailing: tuple[int, ...] = (), *,
                  overlap: bool = True) -> Assembly:  # fmt: skip
    """``steps`` separate products, each with its own exchange.

    With ``overlap`` local(p) waits for no message; without, it waits for all of its level, as if communication could not
    be hidden.
    """
    ranks = len(pieces)
    out = Assembly(f"sparse product x {steps}", ranks, dtype, trailing)
    g = out.graph
    blocks = [_matrix(out, piece) for piece in pieces]
    x = {(0, p): out.vector("x", (0, p), p, piece.size[1]) for p, piece in enumerate(pieces)}
    out.outputs.append([(x[0, p], piece.columns, piece.size[1]) for p, piece in enumerate(pieces)])
    for k in range(1, steps + 1):
        w: dict[tuple[int, int], Handle] = {}
        for p, piece in enumerate(pieces):
            for q in _order(p, ranks, piece.wanted):
                w[p, q] = out.vector("w", (k - 1, p, q), p, len(piece.wanted[q]))
                where = out.give("i", (p, q), p, _wants(piece.wanted[q]))
                g.insert(PACK, R(x[k - 1, p]), R(where), W(w[p, q]), on=p, priority=2)
        for p, piece in enumerate(pieces):
            x[k, p] = out.vector("x", (k, p), p, piece.size[0])
            local, remote = blocks[p]
            messages = [R(w[q, p]) for q in piece.sources]
            waits = [] if overlap else messages
            if waits:
                g.insert(_WAITING, *map(R, local), R(x[k - 1, p]), *waits, W(x[k, p]), len(waits), on=p)
            else:
                g.insert(LOCAL, *map(R, local), R(x[k - 1, p]), W(x[k, p]), on=p)
            if messages:
                g.insert(REMOTE, *map(R, remote), *messages, RW(x[k, p]), on=p)
        out.outputs.append([(x[k, p], piece.rows, piece.size[0]) for p, piece in enumerate(pieces)])
    return out


def _waiting(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, x: np.ndarray, *rest: Any) -> None:
    _local(indptr, indices, values, x, rest[-2])


_WAITING = Op("local", _waiting, flops=_entries)


def transposed_graph(pieces: list[Piece], dtype: Any, trailing: tuple[int, ...] = ()) -> Assembly:
    """y := A^T x: the exchange runs backwards, and what arrives is added, in the order of the ranks."""
    ranks = len(pieces)
    out = Assembly("transposed sparse product", ranks, dtype, trailing)
    g = out.graph
    blocks = [_matrix(out, piece) for piece in pieces]
    x = [out.vector("x", (0, p), p, piece.size[0]) for p, piece in enumerate(pieces)]
    y = [out.vector("x", (1, p), p, piece.size[1]) for p, piece in enumerate(pieces)]
    w: dict[tuple[int, int], Handle] = {}
    for p, piece in enumerate(pieces):
        for q, (first, last) in piece.sources.items():
            w[p, q] = out.vector("w", (0, p, q), p, last - first)
        if piece.sources:
            g.insert(BACK, *map(R, blocks[p][1]), R(x[p]), *(W(w[p, q]) for q in piece.sources), on=p, priority=2)
    for p, piece in enumerate(pieces):
        g.insert(TRANSPOSED, *map(R, blocks[p][0]), R(x[p]), W(y[p]), on=p)
        for q, places in piece.wanted.items():
            where = out.give("i", (p, q), p, places)
            g.insert(ADD, R(where), R(w[q, p]), RW(y[p]), on=p)
    out.outputs = [
        [(x[p], piece.rows, piece.size[0]) for p, piece in enumerate(pieces)],
        [(y[p], piece.columns, piece.size[1]) for p, piece in enumerate(pieces)],
    ]
    return out


def blocked_graph(pieces: list[Piece], plans: list[list[Closure]], dtype: Any, trailing: tuple[int, ...] = (), *,
                  coefficients: np.ndarray | None = None, overlap: bool = True) -> Assembly:  # fmt: skip
    """Products in blocks, one exchange a block: ``plans`` has for each block the closures of all ranks.

    With ``overlap`` a rank computes the inner components while its messages travel (latency hiding); without, it waits
    for them first.
    """
    ranks = len(pieces)
    steps = sum(plan[0].steps for plan in plans)
    out = Assembly(f"{steps} sparse products in {len(plans)} blocks", ranks, dtype, trailing)
    g = out.graph
    shifted = coefficients is not None
    factors = []
    if coefficients is not None:
        factors = [out.give("c", (p,), p, coefficients.copy()) for p in range(ranks)]
    x: dict[tuple[int, int], Handle] = {}
    base = 0
    for number, plan in enumerate(plans):
        following = plans[number + 1] if number + 1 < len(plans) else plan
        for k in range(0 if number == 0 else 1, plan[0].steps + 1):
            for p, mine in enumerate(plan):
                size = max(mine.size, following[p].size)  # the last level of a block is the first of the next
                x[base + k, p] = out.vector("x", (base + k, p), p, size)
        w: dict[tuple[int, int], Handle] = {}
        where: dict[tuple[int, int], Handle] = {}
        for p, mine in enumerate(plan):
            for q in mine.wanted:
                w[p, q] = out.vector("w", (base, p, q), p, mine.wanted[q].shape[1])
                where[p, q] = out.give("i", (base, 0, p, q), p, mine.wanted[q])
        reads = {
            (k, p): [
                *([R(factors[p])] if shifted else []), R(x[base + k - 1, p]),
                *([R(x[base + k - 2, p])] if shifted and k > 1 else []),
            ]
            for p in range(ranks) for k in range(1, plan[0].steps + 1)
        }  # fmt: skip

        def inner(p: int, k: int, plan: list[Closure] = plan, reads: dict[Any, Any] = reads, base: int = base) -> None:
            first, last = plan[p].levels[k - 1].inner
            if last > first:
                part = [out.give("A", (base + k, i, p), p, array)
                        for i, array in enumerate(_rows(pieces[p].local, first, last))]  # fmt: skip
                g.insert(SWEEP, *map(R, part), *reads[k, p], RW(x[base + k, p]), first, plan[p].own, k, shifted, on=p)

        def send(p: int, plan: list[Closure] = plan, base: int = base) -> None:
            for q in _order(p, ranks, plan[p].wanted):
                levels = range(int(plan[p].wanted[q][0].max()) + 1)
                g.insert(PACK, *(R(x[base + k, p]) for k in levels), R(where[p, q]), W(w[p, q]), on=p, priority=2)

        for p, mine in enumerate(plan):
            for k in range(1, mine.top + 1):
                inner(p, k)
            send(p)
            if overlap:
                for k in range(mine.top + 1, mine.steps + 1):
                    inner(p, k)
        for p, mine in enumerate(plan):
            came = []
            for q, places in mine.sources.items():
                came += [R(out.give("i", (base, 1, p, q), p, places)), R(w[q, p])]
            last = max((int(places[0].max()) for places in mine.sources.values()), default=-1)
            for k in range(last + 1):
                g.insert(ARRIVE, *came, RW(x[base + k, p]), k, on=p)
            if not overlap:
                for k in range(mine.top + 1, mine.steps + 1):
                    inner(p, k)
            for k in range(1, mine.steps + 1):
                level = mine.levels[k - 1]
                if len(level.rows):
                    rows = out.give("B", (base + k, 3, p), p, level.rows)
                    arrays = level.block.indptr, level.block.indices, level.block.values
                    block = [out.give("B", (base + k, i, p), p, array) for i, array in enumerate(arrays)]
                    g.insert(FINISH, *map(R, block), R(rows), *reads[k, p], RW(x[base + k, p]), k, shifted, on=p)
        base += plan[0].steps
    for k in range(base + 1):
        out.outputs.append([(x[k, p], piece.rows, piece.size[0]) for p, piece in enumerate(pieces)])
    return out
