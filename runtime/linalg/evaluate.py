"""Expressions run: what stands in them becomes tiles, they become one program, and the results go back in kind."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewright.arguments import is_chunked, like
from tilewright.graph import TaskGraph
from tilewright.host.memory import zeros
from tilewright.linalg.by_columns import ByColumns
from tilewright.linalg.call import Call
from tilewright.linalg.expression import Expression, Leaf, ProgramBuilder, Transposed, lazy, walk
from tilewright.linalg.matrix import Matrix
from tilewright.linalg.norm_parts import check_order, norm_from
from tilewright.linalg.program import program_graph
from tilewright.linalg.tuning import product_tile_size
from tilewright.runs.progress import ProgressOption
from tilewright.scalars import flag, positive
from tilewright.schedulers import Policy
from tilewright.tiles import TiledMatrix

if TYPE_CHECKING:
    from tilewright import kinds

__all__ = ["Wanted", "assign", "compute", "distinct", "evaluate", "frame_of", "graph_of", "norm_of"]


class Wanted(NamedTuple):
    """What a program makes."""

    extent: tuple[int, int]
    dtype: np.dtype
    order: str = "C"
    vector: bool = False
    into: Leaf | None = None
    """The matrix that it overwrites."""
    target: np.ndarray | None = None
    """The array that it becomes."""


def compute(
    *expressions: Expression | kinds.Matrix,
    tile_size: int | None = None,
    backend: str | None = None,
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_run: bool = False,
    progress: ProgressOption = False,
    **options: Any,
) -> Any:
    """Compute expressions of matrices, all in one graph.

    Parameters
    ----------
    expressions
        Made by operators on `TiledMatrix` and `lazy`: see `tilewright.linalg.expression.Expression`. What several of
        them share is computed once.
    tile_size
        Rows and columns of a tile; by default those of the tiled matrices, of which the first counts, or by a rule.
        A matrix in other tiles is cut anew, by tasks of the same graph.
    backend, scheduler, workers, options
        See `tilewright.run`. With a dask.array among the matrices ``dask``, unless another is named.
    return_run
        Also return the `Run`.
    progress
        Draw a progress bar on standard error; ``"page"`` or a function as in `tilewright.run`.

    Returns
    -------
    values
        One, or a tuple of several: a `TiledMatrix`, an array, a tensor or a dask.array, as the first matrix in the
        expressions is; of a vector a 1-D one, an array for a TiledMatrix.
    run : Run
        Only with ``return_run``.

    Raises
    ------
    SingularMatrixError, NotPositiveDefiniteError
        A matrix to be solved with or inverted is singular, or not positive definite.
    TypeError, ValueError
        Not an expression, nor a matrix; a bad option.

    Notes
    -----
    Matrices are read when this is called. NaN and infinities go their way, as in BLAS. The bits depend on the matrices,
    the tile size and the BLAS in use, not on engine, scheduler and workers.

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> A, B = tw.lazy(np.eye(2)), tw.lazy(np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> product, inverse = tw.compute(A @ B, B.inv())
    >>> inverse.round(12)
    array([[-2. ,  1. ],
           [ 1.5, -0.5]])
    """
    if not expressions:
        raise TypeError("compute takes expressions, and got none")
    nodes = [lazy(expression) for expression in expressions]
    leaves = distinct(nodes)
    call = frame_of(
        compute,
        leaves,
        options,
        backend=backend,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
        return_run=return_run,
    )
    results = [Wanted(node.extent, node.dtype, node._order(), node.vector) for node in nodes]

    def build(b: ProgramBuilder, places: list[int]) -> None:
        b.count(*nodes)
        for node, place in zip(nodes, places, strict=True):
            b.assign(node, place)

    found = evaluate(call, leaves, results, build, tile_size, _title(nodes))
    return call.result(*found)


def frame_of(routine: Any, leaves: Sequence[Leaf], options: Any, *, backend: str | None, **how: Any) -> Call:
    """The frame of a call on these matrices: where a dask.array is among them, it leads."""
    first = next((leaf for leaf in leaves if is_chunked(leaf.given)), leaves[0])
    return Call(routine, first.given, options, backend=backend, chunks=True, **how)


def distinct(nodes: Sequence[Expression]) -> list[Leaf]:
    """The matrices in expressions, each once."""
    found: dict[Any, Leaf] = {}
    for node in nodes:
        for leaf in walk(node):
            found.setdefault(leaf.key, leaf)
    return list(found.values())


def _title(nodes: Sequence[Expression]) -> str:
    names: dict[int, str] = {}
    text = "; ".join(node._text(names) for node in nodes)
    return text if len(text) <= 60 else f"{text[:57]}..."


def evaluate(
    call: Call,
    leaves: Sequence[Leaf],
    results: Sequence[Wanted],
    build: Callable[[ProgramBuilder, list[int]], None],
    tile_size: int | None,
    title: str,
    *,
    more: Callable[[ProgramBuilder], dict[str, Any]] | None = None,
    check_finite: bool = False,
) -> list[Any]:
    """Run what ``build`` inserts, and return the results in the kind of the first matrix.

    ``build(builder, places)`` gets the number of the value of each result. ``more(builder)`` is data beside the
    matrices; ``check_finite`` looks for NaN and infinities in these first.
    """
    with call.agreement() as facts:
        made = _Frame(call, leaves, results, tile_size)
        b = made.builder
        build(b, made.places)
        facts.update(
            tile_size=b.tile_size, program=_checksum(b), results=str([(r.extent, str(r.dtype)) for r in results])
        )
        data = made.data() | (more(b) if more is not None else {})
        if check_finite and call.has_data:
            for source in made.sources:
                source.check_finite()
    call.run(program_graph(tuple(b.values), tuple(b.steps), title), data)
    return made.found()


def _checksum(b: ProgramBuilder) -> str:
    return f"{len(b.steps)} steps (checksum {zlib.crc32(repr((b.values, b.steps)).encode())})"


class _Frame:
    """The matrices of a call, and where its results go."""

    def __init__(self, call: Call, leaves: Sequence[Leaf], results: Sequence[Wanted], tile_size: int | None) -> None:
        self.call, self.leaves, self.results = call, leaves, results
        self.chunks: Any = None
        self.sources = [self._source(leaf) for leaf in leaves]
        extent = max((max(leaf.extent) for leaf in leaves), default=1)
        self.builder = b = ProgramBuilder(_tile_size(call, leaves, self.sources, results, tile_size, extent))
        self.kind = leaves[0].given if leaves else None
        self.outs: list[Any] = []
        self.places: list[int] = []
        for result in results:
            out = self._out(result.into)
            self.outs.append(out)
            if out is not None and out.in_place:
                self.places.append(b.given(result.into))  # type: ignore[arg-type]
            else:
                self.places.append(b.value(result.extent, result.dtype, "given", result.order))

    def _source(self, leaf: Leaf) -> Any:
        if not is_chunked(leaf.given):
            return leaf.read()
        if not self.call.chunked:
            return Matrix(leaf.given.compute(), what=leaf.what)
        from tilewright.linalg.chunked import Chunks

        found = Chunks(leaf.given, self.call.engine, self.call.workers, triangle=False)
        self.chunks = self.chunks or found
        return found

    def _out(self, leaf: Leaf | None) -> Any:
        """The matrix that is overwritten, looked at as such."""
        if leaf is None:
            return None
        if is_chunked(leaf.given):
            raise ValueError(f"a dask.array cannot be overwritten; pass {leaf.option}=False")
        out = Matrix(leaf.given, overwrite=True, what=leaf.what, option=leaf.option)
        self.sources[next(k for k, other in enumerate(self.leaves) if other.key == leaf.key)] = out
        return out

    def data(self) -> dict[str, Any]:
        """What the run is given, by handle name."""
        b, nb = self.builder, self.builder.tile_size
        found: dict[str, Any] = {}
        for leaf, source in zip(self.leaves, self.sources, strict=True):
            place = b.placed.get(leaf.key)
            if place is not None:
                value = b.values[place]
                found[value.name] = _tiles(source, value.tile_size)
        for place, result, out in zip(self.places, self.results, self.outs, strict=True):
            value = b.values[place]
            if out is None or not out.in_place:
                found[value.name] = self._target(result)
        if self.call.here:
            for value in b.values:
                if value.kind == "room" and value.order == "F":  # panels are strips of one array then
                    found[value.name] = TiledMatrix.view(np.empty(value.shape, value.dtype, "F"), nb)
        self._given = found
        return found

    def _target(self, result: Wanted) -> TiledMatrix:
        nb = self.builder.tile_size
        if result.target is not None:
            return TiledMatrix.view(result.target, nb)
        if self.chunks is not None:
            return self.chunks.new(result.extent, nb, nb, result.dtype, result.order)
        if result.order == "F":
            return TiledMatrix.view(np.empty(result.extent, result.dtype, "F"), nb)
        return TiledMatrix.view(zeros(result.extent, result.dtype), nb)

    def found(self) -> list[Any]:
        """The results, in the kind of the first matrix."""
        values = []
        for place, result, out in zip(self.places, self.results, self.outs, strict=True):
            target = self._given[self.builder.values[place].name]
            if out is not None:
                values.append(out.result(target))
            elif self.chunks is not None:
                made = self.chunks.made(target)
                values.append(made[:, 0] if result.vector else made)
            elif result.vector:
                values.append(like(target.to_numpy().reshape(-1), self.kind))
            elif isinstance(self.kind, TiledMatrix):
                values.append(target)
            else:
                values.append(like(target.to_numpy(), self.kind))
        return values


def _tiles(source: Any, tile_size: int) -> Any:
    """The tiles to read, cut anew where they are views."""
    if isinstance(source, Matrix | ByColumns) and source.tiled and source.tile_size != tile_size:
        source.tiles = TiledMatrix.view(source.array.to_numpy(), tile_size)
        return source.tiles
    return source.source(tile_size)


def _tile_size(
    call: Call,
    leaves: Sequence[Leaf],
    sources: Sequence[Any],
    results: Sequence[Wanted],
    given: int | None,
    extent: int,
) -> int:
    """As given; else that of a matrix which is overwritten, of the first tiled matrix, of good chunks, or by rule."""
    into = [result.into for result in results if result.into is not None]
    if given is not None:
        for leaf in into:
            if leaf.packed not in (None, given):
                raise ValueError(f"tile_size={given}, but {leaf.what} has tiles of {leaf.packed}")
        return positive(given, "tile_size")
    ours = [leaf.tile_size for leaf in into]
    for size in (*ours, *[leaf.tile_size for leaf in leaves], *[source.tile_size for source in sources]):
        if size:
            return int(size)
    return product_tile_size(extent, call.count())


def assign(target: TiledMatrix, value: Any) -> None:
    """target := value, an expression that may read it."""
    node = lazy(value)
    if target._transpose_of is not None:
        target, node = target._transpose_of, Transposed.of(node, "T")
    leaf = Leaf(target, what="the matrix that is changed")
    if node.extent != leaf.extent or node.vector:
        raise ValueError(f"a matrix of shape {leaf.shape} cannot become one of shape {node.shape}")
    if target.dtype != leaf.dtype or not np.can_cast(node.dtype, target.dtype, "same_kind"):
        raise TypeError(f"a matrix of {target.dtype} cannot be changed in place to numbers of {node.dtype}")
    leaves = distinct([leaf, node])
    call = frame_of(assign, leaves, {}, backend="threads")

    def build(b: ProgramBuilder, places: list[int]) -> None:
        b.count(node)
        b.assign(node, places[0])

    evaluate(call, leaves, [Wanted(leaf.extent, leaf.dtype, into=leaves[0])], build, None, _title([node]))


def graph_of(node: Expression, tile_size: int | None = None) -> TaskGraph:
    """The graph that `compute` runs."""
    leaves = distinct([node])
    sizes = [leaf.tile_size for leaf in leaves if leaf.tile_size]
    nb = positive(tile_size, "tile_size") if tile_size is not None else 0
    b = ProgramBuilder(nb or (sizes[0] if sizes else product_tile_size(max(max(leaf.extent) for leaf in leaves), 2)))
    b.count(node)
    b.assign(node, b.value(node.extent, node.dtype, "given", node._order()))
    return program_graph(tuple(b.values), tuple(b.steps), _title([node]))


def norm_of(node: Expression, ord: Any, how: dict[str, Any]) -> Any:
    """The norm of an expression, found by tasks of its graph."""
    check_order(ord, "ord")
    if ord in (2, -2, "nuc"):
        return np.float64(np.linalg.norm(np.asarray(node.compute(**how)), ord))
    plan = {name: how.pop(name) for name in ("backend", "scheduler", "workers", "progress") if name in how}
    tile_size, return_run = how.pop("tile_size", None), flag(how.pop("return_run", False), "return_run")
    leaves = distinct([node])
    plan.setdefault("backend", None)
    call = frame_of(compute, leaves, how, return_run=return_run, **plan)
    frobenius, known = ord in (None, "fro"), []

    def build(b: ProgramBuilder, places: list[int]) -> None:
        b.count(node)
        found = b.ref(node)
        sizes = b.value(b.values[found.value].shape, np.float64, "squares" if frobenius else "sizes")
        b.step("sizes", (found, _plain(sizes)), frobenius)
        known.append((b.values[sizes], found.flag in "TC"))

    evaluate(call, leaves, [], build, tile_size, f"norm({_title([node])})")
    (value, turned), record = known[0], call.record
    assert record is not None
    found = record[value.name].items() if value.mt * value.nt else ()
    parts = {place: part for (_, place), part in found if part is not None}
    if turned and ord in (1, -1, np.inf, -np.inf):
        ord = {1: np.inf, -1: -np.inf, np.inf: 1, -np.inf: -1}[ord]
    return call.result(norm_from(parts, value.shape, value.tile_size, ord))


def _plain(value: int) -> Any:
    from tilewright.linalg.program import Ref

    return Ref(value)
