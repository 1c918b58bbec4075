"""Sparse products as task graphs over per-rank handles.

===============  ==================================================================================================
handle           what it names
===============  ==================================================================================================
``x[k,p]``       level k on rank p: its own components of A^k x, then those of others that it holds at that level
``w[k,p,q]``     what p sends to q of level k on; the only data that another rank reads, so it is the message
``A[i,p]``       row pointers, columns, values and `Form` of the local block (i = 0 to 3); row pointers, columns and
                 values of the remote one, and its rows (4 to 7)
``B[k,i,p]``     the rows that rank p computes at level k when its message is in
``i[p,q]``       which of its components p sends to q
``c[p]``         coefficients of a recurrence
===============  ==================================================================================================

One product on rank p: pack(p, q) for all neighbours q, local(p), which needs nothing of others, then remote(p), which
reads the messages. Tasks say in which order they should run (policy "prio"): what others wait for comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from tilewright.comm.closure import Closure
from tilewright.comm.inspector import Piece
from tilewright.graph import RW, Handle, Layout, Op, R, TaskGraph, Use, W
from tilewright.kernels import csr, diagonals
from tilewright.kernels.diagonals import Diagonals

__all__ = ["Assembly", "Form", "blocked_graph", "product_graph", "recur", "rounds", "transposed_graph"]

# ------------------------------------------------------------------ ops


class Form:
    """The diagonals of a local block, once it was found out whether they are the better form; see `diagonals`.

    A buffer of its own: a block is looked at where it lives, in its first product.
    """

    shape = ()

    def __init__(self) -> None:
        self.looked = False
        self.found: Diagonals | None = None

    def of(self, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, columns: int) -> Diagonals | None:
        """The diagonals of the block in these arrays; None where rows are better."""
        if not self.looked:
            self.found, self.looked = diagonals.find(indptr, indices, values, columns), True
        return self.found


class Places:
    """Where components of a message are: ``parts`` has (level, places in its vector, from which component, to which).

    Parameters
    ----------
    places : (2, words)
        Level and place of each component; levels ascend.
    """

    shape = ()

    def __init__(self, places: np.ndarray) -> None:
        level, place = places
        self.parts: list[tuple[int, np.ndarray, int, int]] = []
        for k in np.unique(level).tolist():
            first, last = np.searchsorted(level, [k, k + 1]).tolist()
            self.parts.append((k, place[first:last].copy(), first, last))


def _pack(x: np.ndarray, places: np.ndarray, message: np.ndarray) -> None:
    """message := the components that a rank asked for."""
    x.take(places, 0, message, "clip")


def _pack_levels(levels: list[np.ndarray], where: Places, message: np.ndarray) -> None:
    """The same, level by level."""
    for level, places, first, last in where.parts:
        levels[level].take(places, 0, message[first:last], "clip")


def _local(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, form: Form, x: np.ndarray, y: np.ndarray
) -> None:
    """y := A_local x; by diagonals where there is such a form, unless these met infinity or NaN."""
    found = form.of(indptr, indices, values, len(x)) if x.ndim == 1 else None
    if found is not None and found.multiply(x, y):
        return
    y.fill(0)
    csr.multiply_add(indptr, indices, values, x, y)


def _remote(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    boundary: np.ndarray,
    messages: list[np.ndarray],
    y: np.ndarray,
) -> None:
    """y := y + A_remote ghosts, for the rows that have remote entries."""
    partial = y.take(boundary, 0)
    ghosts = messages[0] if len(messages) == 1 else np.concatenate(messages)
    csr.multiply_add(indptr, indices, values, ghosts, partial)
    y[boundary] = partial


def _back(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    boundary: np.ndarray,
    x: np.ndarray,
    messages: list[np.ndarray],
) -> None:
    """messages := A_remote^T x, the part of each owner of ghosts."""
    ghosts = np.zeros((sum(map(len, messages)), *x.shape[1:]), x.dtype)
    csr.transposed_multiply_add(indptr, indices, values, x.take(boundary, 0), ghosts)
    first = 0
    for message in messages:
        message[...] = ghosts[first : first + len(message)]
        first += len(message)


def _transposed(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, form: Form, x: np.ndarray, y: np.ndarray
) -> None:
    """y := A_local^T x, likewise."""
    found = form.of(indptr, indices, values, len(y)) if x.ndim == 1 else None
    if found is not None and found.multiply_transposed(x, y):
        return
    y.fill(0)
    csr.transposed_multiply_add(indptr, indices, values, x, y)


def _add(where: np.ndarray, message: np.ndarray, y: np.ndarray) -> None:
    """y := y + message, at the components that were asked for."""
    y[where] += message


def recur(
    y: np.ndarray, coefficients: np.ndarray | None, k: int, before: np.ndarray, earlier: np.ndarray | None
) -> None:
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


def _sweep(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    form: Form,
    coefficients: list[np.ndarray],
    before: np.ndarray,
    earlier: list[np.ndarray],
    y: np.ndarray,
    first: int,
    last: int,
    own: int,
    k: int,
) -> None:
    """Level k of rows that need no message, from row ``first`` on to ``last``: y := A_local x.

    There are ``coefficients`` if a recurrence follows, and then the level ``earlier`` than the one before, if any.
    """
    part, x = y[first:last], before[:own]
    found = form.of(indptr, indices, values, own) if x.ndim == 1 else None
    if found is None or not found.multiply(x, part, first):
        part.fill(0)
        csr.multiply_add(indptr[first : last + 1], indices, values, x, part)
    if coefficients:
        recur(part, coefficients[0], k, before[first:last], earlier[0][first:last] if earlier else None)


def _finish(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    coefficients: list[np.ndarray],
    before: np.ndarray,
    earlier: list[np.ndarray],
    y: np.ndarray,
    k: int,
) -> None:
    """Level k of the other rows, own and redundant ones."""
    part = np.zeros((len(rows), *y.shape[1:]), y.dtype)
    csr.multiply_add(indptr, indices, values, before, part)
    if coefficients:
        recur(part, coefficients[0], k, before[rows], earlier[0][rows] if earlier else None)
    y[rows] = part


def _arrive(places_of: list[Places], messages: list[np.ndarray], vector: np.ndarray, k: int) -> None:
    """Messages to their places in the extended vector of one level."""
    for where, message in zip(places_of, messages, strict=True):
        for level, places, first, last in where.parts:
            if level == k:
                vector[places] = message[first:last]


Shape = tuple[int, ...]


def _entries(indptr: Shape, indices: Shape, values: Shape, form: Shape, x: Shape, *_: Any) -> float:
    """A multiplication and an addition for each entry and vector."""
    return _per_vector(values[0], x)


def _entries_of_rows(
    indptr: Shape, indices: Shape, values: Shape, rows: Shape, messages: list[Shape], y: Shape
) -> float:
    """The same of `_remote`."""
    return _per_vector(values[0], y)


def _entries_of_level(
    indptr: Shape,
    indices: Shape,
    values: Shape,
    rows: Shape,
    coefficients: list[Shape],
    before: Shape,
    earlier: list[Shape],
    y: Shape,
) -> float:
    """The same of `_finish`."""
    return _per_vector(values[0], y)


def _swept(
    entries: int,
    indptr: Shape,
    indices: Shape,
    values: Shape,
    form: Shape,
    coefficients: list[Shape],
    before: Shape,
    earlier: list[Shape],
    y: Shape,
) -> float:
    """The same of some rows with so many entries."""
    return _per_vector(entries, y)


def _per_vector(entries: int, vector: Shape) -> float:
    return 2.0 * entries * (vector[1] if len(vector) > 1 else 1)


def _added(where: Shape, message: Shape, y: Shape) -> float:
    return float(np.prod(message))


def _none(*shapes: Any) -> float:
    return 0.0


PACK = Op("pack", _pack, weight=0, flops=_none)
PACK_LEVELS = Op("pack", _pack_levels, weight=0, flops=_none)
LOCAL = Op("local", _local, flops=_entries)
REMOTE = Op("remote", _remote, flops=_entries_of_rows)
BACK = Op("back", _back, flops=_entries)
TRANSPOSED = Op("transposed", _transposed, flops=_entries)
ADD = Op("add", _add, flops=_added)
FINISH = Op("finish", _finish, flops=_entries_of_level)
ARRIVE = Op("arrive", _arrive, weight=0, flops=_none)


# ------------------------------------------------------------------ graphs


class Assembly:
    """A graph under construction, with the buffers of its handles and the ranks that own them."""

    def __init__(self, name: str, ranks: int, dtype: Any, trailing: tuple[int, ...]) -> None:
        self.graph = TaskGraph(name)
        self.ranks = ranks
        self.dtype = np.dtype(dtype)
        self.trailing = trailing
        """() for one vector, (k,) for k at once."""
        self.data: dict[Handle, Any] = {}
        self.owner: dict[Handle, int] = {}
        self.outputs: list[list[tuple[Handle, Any, int]]] = []
        """By level: (handle, its place in the whole vector, how many components) for each rank."""

    def give(self, name: str, index: tuple[int, ...], rank: int, array: Any) -> Handle:
        """A handle with its buffer."""
        handle = Handle(name, index)
        self.data[handle] = array
        self.owner[handle] = rank
        return handle

    def finish(self) -> Assembly:
        """The graph now knows who owns what."""
        owner, data = self.owner, self.data
        self.graph.layout = Layout(self.ranks, owner.__getitem__, lambda handle: data[handle].shape)
        return self

    def vector(self, name: str, index: tuple[int, ...], rank: int, size: int) -> Handle:
        return self.give(name, index, rank, np.zeros((size, *self.trailing), self.dtype))


def rounds(wanted: Sequence[Iterable[int]]) -> list[list[int]]:
    """By rank, in which order to send to those of ``wanted``: in a round each sends to one and receives of one.

    A machine where a rank can send one message and receive one at a time then wastes no time. Each round is a largest
    matching of senders and receivers; where all have d neighbours there are d rounds (Koenig).
    """
    ranks = len(wanted)
    left = [set(others) for others in wanted]
    order: list[list[int]] = [[] for _ in range(ranks)]
    while any(left):
        pairs = [(p, q) for p, others in enumerate(left) for q in sorted(others, key=lambda q: (q - p) % ranks)]
        places = tuple(np.array(pairs, np.int32).T)  # older SciPy matches with indices of 32 bits only
        table = csr_array((np.ones(len(pairs)), places), shape=(ranks, ranks))
        for p, q in enumerate(maximum_bipartite_matching(table, perm_type="column").tolist()):
            if q >= 0:
                order[p].append(q)
                left[p].discard(q)
    return order


def _matrix(assembly: Assembly, piece: Piece) -> tuple[list[Handle], list[Handle]]:
    """Handles of the local and of the remote block."""
    arrays = [
        piece.local.indptr,
        piece.local.indices,
        piece.local.values,
        Form(),
        piece.remote.indptr,
        piece.remote.indices,
        piece.remote.values,
        piece.boundary,
    ]
    handles = [assembly.give("A", (i, piece.rank), piece.rank, array) for i, array in enumerate(arrays)]
    return handles[:4], handles[4:]


def product_graph(
    pieces: list[Piece], dtype: Any, steps: int = 1, trailing: tuple[int, ...] = (), *, overlap: bool = True
) -> Assembly:
    """``steps`` separate products, each with its own exchange.

    With ``overlap`` local(p) waits for no message; without, it waits for all of its level, as if communication could
    not be hidden.
    """
    ranks = len(pieces)
    out = Assembly(f"sparse product x {steps}", ranks, dtype, trailing)
    g = out.graph
    blocks = [_matrix(out, piece) for piece in pieces]
    order = rounds([piece.wanted for piece in pieces])
    x = {(0, p): out.vector("x", (0, p), p, piece.size[1]) for p, piece in enumerate(pieces)}
    out.outputs.append([(x[0, p], piece.columns, piece.size[1]) for p, piece in enumerate(pieces)])
    for k in range(1, steps + 1):
        w: dict[tuple[int, int], Handle] = {}
        for p, piece in enumerate(pieces):
            for q in order[p]:
                w[p, q] = out.vector("w", (k - 1, p, q), p, len(piece.wanted[q]))
                where = out.give("i", (p, q), p, piece.wanted[q])
                g.insert(PACK, R(x[k - 1, p]), R(where), W(w[p, q]), priority=2)
        for p, piece in enumerate(pieces):
            x[k, p] = out.vector("x", (k, p), p, piece.size[0])
            local, remote = blocks[p]
            messages = [R(w[q, p]) for q in piece.sources]
            waits = [] if overlap else messages
            if waits:
                g.insert(_WAITING, *map(R, local), R(x[k - 1, p]), waits, W(x[k, p]))
            else:
                g.insert(LOCAL, *map(R, local), R(x[k - 1, p]), W(x[k, p]))
            if messages:
                g.insert(REMOTE, *map(R, remote), messages, RW(x[k, p]))
        out.outputs.append([(x[k, p], piece.rows, piece.size[0]) for p, piece in enumerate(pieces)])
    return out.finish()


def _waiting(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    form: Form,
    x: np.ndarray,
    _messages: list[np.ndarray],
    y: np.ndarray,
) -> None:
    """`_local` of a rank that has its messages."""
    _local(indptr, indices, values, form, x, y)


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
            g.insert(BACK, *map(R, blocks[p][1]), R(x[p]), [W(w[p, q]) for q in piece.sources], priority=2)
    for p, piece in enumerate(pieces):
        g.insert(TRANSPOSED, *map(R, blocks[p][0]), R(x[p]), W(y[p]))
        for q, places in piece.wanted.items():
            where = out.give("i", (p, q), p, places)
            g.insert(ADD, R(where), R(w[q, p]), RW(y[p]))
    out.outputs = [
        [(x[p], piece.rows, piece.size[0]) for p, piece in enumerate(pieces)],
        [(y[p], piece.columns, piece.size[1]) for p, piece in enumerate(pieces)],
    ]
    return out.finish()


def blocked_graph(
    pieces: list[Piece],
    plans: list[list[Closure]],
    dtype: Any,
    trailing: tuple[int, ...] = (),
    *,
    coefficients: np.ndarray | None = None,
    overlap: bool = True,
) -> Assembly:
    """Products in blocks, one exchange a block: ``plans`` has for each block the closures of all ranks.

    With ``overlap`` a rank computes the inner components while its messages travel (latency hiding); without, it waits
    for them first. ``coefficients`` are those of one block.
    """
    ranks = range(len(pieces))
    steps = sum(plan[0].steps for plan in plans)
    out = Assembly(f"{steps} sparse products in {len(plans)} blocks", len(pieces), dtype, trailing)
    local = [_matrix(out, piece)[0] for piece in pieces]
    factors = [] if coefficients is None else [out.give("c", (p,), p, coefficients.copy()) for p in ranks]
    x = {(0, p): out.vector("x", (0, p), p, plans[0][p].size) for p in ranks}
    base = 0
    for plan, following in zip(plans, [*plans[1:], plans[-1]], strict=True):
        for k in range(1, plan[0].steps + 1):
            for p in ranks:  # the last level of a block is the first of the next
                x[base + k, p] = out.vector("x", (base + k, p), p, max(plan[p].size, following[p].size))
        block = _Block(out, local, plan, base, x, factors)
        for p in ranks:
            block.inner(p, 1, plan[p].top)
            block.pack(p)
            if overlap:
                block.inner(p, plan[p].top + 1, plan[p].steps)
        for p in ranks:
            block.arrive(p)
            if not overlap:
                block.inner(p, plan[p].top + 1, plan[p].steps)
            block.finish(p)
        base += plan[0].steps
    for k in range(base + 1):
        out.outputs.append([(x[k, p], piece.rows, piece.size[0]) for p, piece in enumerate(pieces)])
    return out.finish()


class _Block:
    """The tasks of one block of products, rank by rank."""

    def __init__(
        self,
        out: Assembly,
        local: list[list[Handle]],
        plan: list[Closure],
        base: int,
        x: dict[tuple[int, int], Handle],
        factors: list[Handle],
    ) -> None:
        self.out, self.local, self.plan, self.base, self.x, self.factors = out, local, plan, base, x, factors
        self.order = rounds([mine.wanted for mine in plan])
        self.w = {
            (p, q): out.vector("w", (base, p, q), p, places.shape[1])
            for p, mine in enumerate(plan)
            for q, places in mine.wanted.items()
        }

    def inner(self, p: int, first_level: int, last_level: int) -> None:
        """Levels of the rows that need no message."""
        for k in range(first_level, last_level + 1):
            first, last = self.plan[p].levels[k - 1].inner
            if last > first:
                rows = self.out.data[self.local[p][0]]
                op = Op("sweep", _sweep, flops=partial(_swept, int(rows[last] - rows[first])))
                self.out.graph.insert(
                    op,
                    *map(R, self.local[p]),
                    *self._before(p, k),
                    RW(self._level(p, k)),
                    first,
                    last,
                    self.plan[p].own,
                    k,
                )

    def pack(self, p: int) -> None:
        for q in self.order[p]:
            places = self.plan[p].wanted[q]
            where = self.out.give("i", (self.base, 0, p, q), p, Places(places))
            levels = [R(self._level(p, k)) for k in range(int(places[0].max()) + 1)]
            self.out.graph.insert(PACK_LEVELS, levels, R(where), W(self.w[p, q]), priority=2)

    def arrive(self, p: int) -> None:
        sources = self.plan[p].sources
        where = [R(self.out.give("i", (self.base, 1, p, q), p, Places(places))) for q, places in sources.items()]
        came = [R(self.w[q, p]) for q in sources]
        highest = max((int(places[0].max()) for places in sources.values()), default=-1)
        for k in range(highest + 1):
            self.out.graph.insert(ARRIVE, where, came, RW(self._level(p, k)), k)

    def finish(self, p: int) -> None:
        """All levels of the rows that needed the message."""
        for k, level in enumerate(self.plan[p].levels, start=1):
            if len(level.rows):
                block = level.block
                arrays = self._give("B", k, p, (block.indptr, block.indices, block.values, level.rows))
                self.out.graph.insert(FINISH, *map(R, arrays), *self._before(p, k), RW(self._level(p, k)), k)

    def _level(self, p: int, k: int) -> Handle:
        return self.x[self.base + k, p]

    def _before(self, p: int, k: int) -> tuple[list[Use], Use, list[Use]]:
        """What level k is made of beside the matrix: coefficients, the level before, and if need be that before it."""
        recurs = bool(self.factors)
        coefficients = [R(self.factors[p])] if recurs else []
        earlier = [R(self._level(p, k - 2))] if recurs and k > 1 else []
        return coefficients, R(self._level(p, k - 1)), earlier

    def _give(self, name: str, k: int, p: int, arrays: Iterable[np.ndarray]) -> list[Handle]:
        return [self.out.give(name, (self.base + k, i, p), p, array) for i, array in enumerate(arrays)]
