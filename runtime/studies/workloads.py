"""Graphs by name, with data to run them on: what ``tilewright dag``, ``simulate``, ``compare`` and ``run`` take.

`WORKLOADS` is the table of names; a new algorithm is a function of `Sizes` and a row. Beside names there are
``random:SEED``, a graph of your own, ``file.py:function``, and files of task graphs (`tilewright.studies.imported`).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tilewright.distribution import BlockCyclic, Distribution, RowBlocks, SymmetricBlockCyclic
from tilewright.graph import TaskGraph
from tilewright.scalars import nearby
from tilewright.studies import imported, synthetic

__all__ = ["OWNERS", "WORKLOADS", "Sizes", "Work", "Workload", "owner_of", "workload"]

Data = Mapping[Any, Any]


@dataclass(frozen=True)
class Sizes:
    """How large a graph is, and how it is cut. What an algorithm has no use for it does not look at."""

    nt: int | None = None
    """Tile columns, blocks a side, leaves, layers."""
    mt: int | None = None
    """Tile rows; by default ``nt``."""
    tile_size: int = 256
    """Rows of a tile or block."""
    n: int | None = None
    """Order of a matrix, or words of a vector."""
    ranks: int = 1
    grid: tuple[int, int] | None = None
    """Rows and columns of ranks."""
    steps: int = 4
    """Steps of an iteration, or of a training."""
    seed: int = 0
    algorithm: str = "auto"
    """Rounds of a collective."""
    pivoting: str = "partial"
    update: str = "tile"
    panel: str = "single"
    """A panel of LU: one task, or recursive."""
    tree: Any = "greedy"
    """The tree of QR: who eliminates which tile."""
    precision: str | None = None
    """The format of the products of Cholesky."""

    @property
    def tiles(self) -> int:
        return 16 if self.nt is None else self.nt

    @property
    def rows(self) -> int:
        return self.tiles if self.mt is None else self.mt


class Work(NamedTuple):
    """A graph, and what makes data for it; ``data()`` is new memory at each call."""

    graph: TaskGraph
    data: Callable[[], Data] | None
    """None where nobody knows data for it: it can be drawn and simulated."""


def workload(name: str, sizes: Sizes | None = None) -> Work:
    """The graph of that name, and its data.

    Parameters
    ----------
    name
        A name of `WORKLOADS`; ``random:7``, the random graph of seed 7; ``file.py:function``, whose function returns a
        graph, or a graph and its data or a function that makes it, and may take any of the fields of `Sizes` by name;
        or a file of a task graph, ``.dot``, ``.gv``, ``.graphml`` or ``.json``.
    sizes
        How large.

    Raises
    ------
    ValueError
        An unknown name; the message has what may be meant. Or sizes that do not fit.
    TypeError
        The function returns no graph, or needs arguments that there are not.
    OSError, ImportError
        The file cannot be read, or something it needs is not installed.

    Examples
    --------
    >>> from tilewright.studies.workloads import Sizes, workload
    >>> workload("tree", Sizes(nt=8)).graph
    TaskGraph('tree of 8 leaves', 15 tasks)
    """
    sizes = sizes or Sizes()
    kind, _, rest = name.partition(":")
    if name in WORKLOADS:
        return WORKLOADS[name].build(sizes)
    if kind == "random" and rest:
        try:
            seed = int(rest)
        except ValueError:
            raise ValueError(f"{name!r} has no number for its seed; such as random:7") from None
        return _random(sizes, seed)
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), function, sizes)
    if Path(name).suffix.lower() in imported.SUFFIXES:
        return Work(imported.read_graph(name), None)
    if name.endswith(".py"):
        raise ValueError(f"{name!r} names no function; {name}:function does, one that returns a graph")
    hint = nearby([name], WORKLOADS)
    raise ValueError(
        f"there is no graph {name!r}; known: {', '.join(WORKLOADS)}, random:SEED, file.py:function, and files "
        f"{', '.join(imported.SUFFIXES)}{f'; {hint}' if hint else ''}"
    )


# ------------------------------------------------------------------ who owns what

OWNERS = ("grid", "symmetric", "rows")
"""Rules for tiles, by name: `owner_of`."""


def owner_of(kind: str, sizes: Sizes) -> Distribution:
    """The distribution of that name. ValueError for ranks that it is not for."""
    if kind == "symmetric":
        r = next((r for r in range(2, 1 << 12) if r * (r - 1) // 2 >= sizes.ranks), 2)
        if r * (r - 1) // 2 != sizes.ranks:
            raise ValueError(f"a symmetric distribution is for 1, 3, 6, 10, ... ranks, not {sizes.ranks}")
        return SymmetricBlockCyclic(r)
    if kind == "rows":
        return RowBlocks(sizes.ranks, max(sizes.rows, 1))
    p = max(p for p in range(1, sizes.ranks + 1) if sizes.ranks % p == 0 and p * p <= sizes.ranks)
    return BlockCyclic(*(sizes.grid or (p, sizes.ranks // p)))


# ------------------------------------------------------------------ tiles


def _tiled(matrix: np.ndarray, tile_size: int) -> Data:
    from tilewright.tiles import TiledMatrix

    return {"A": TiledMatrix.view(matrix, tile_size)}


def _cholesky(s: Sizes) -> Work:
    from tilewright.linalg.cholesky import cholesky_graph
    from tilewright.linalg.gallery import random_spd

    graph = cholesky_graph(s.tiles)
    if s.precision is not None:
        from tilewright.passes.conversions import with_conversions
        from tilewright.precision import PrecisionMap

        uniform = PrecisionMap.uniform(s.tiles, s.precision)
        return Work(with_conversions(graph, uniform, lambda form: "reference"), None)  # no route: for any machine
    return Work(graph, lambda: _tiled(random_spd(s.tiles * s.tile_size, "float64", s.seed), s.tile_size))


def _lu(s: Sizes) -> Work:
    from tilewright.linalg.lu_graph import lu_graph

    shape = s.rows * s.tile_size, s.tiles * s.tile_size
    graph = lu_graph(
        s.rows, s.tiles, s.pivoting, s.update, ranks=s.ranks, shape=shape, tile_size=s.tile_size, panel=s.panel
    )

    def data() -> Data:
        from tilewright.linalg.gallery import random_spd

        if s.pivoting == "none" and shape[0] == shape[1]:
            return _tiled(random_spd(shape[0], "float64", s.seed), s.tile_size)
        return _tiled(np.random.default_rng(s.seed).standard_normal(shape), s.tile_size)

    return Work(graph, data)


def _qr(s: Sizes) -> Work:
    from tilewright.linalg.qr_graph import qr_graph

    shape = s.rows * s.tile_size, s.tiles * s.tile_size
    graph = qr_graph(s.rows, s.tiles, s.tree, ranks=s.ranks, shape=shape, tile_size=s.tile_size)
    return Work(graph, lambda: _tiled(np.random.default_rng(s.seed).standard_normal(shape), s.tile_size))


def _eig(s: Sizes) -> Work:
    from tilewright.linalg.eigen_graph import band_graph
    from tilewright.linalg.gallery import random_spd
    from tilewright.linalg.tuning import band_width

    n = s.tiles * s.tile_size
    graph = band_graph(s.tiles, s.tile_size, band_width(n, s.tile_size, 64))
    return Work(graph, lambda: _tiled(random_spd(n, "float64", s.seed), s.tile_size))


def _solve(s: Sizes) -> Work:
    from tilewright.linalg.cho_solve import substitute_back, substitute_forward
    from tilewright.linalg.cholesky import cholesky
    from tilewright.linalg.gallery import random_spd

    nt, nb = s.tiles, s.tile_size
    graph = TaskGraph(f"cholesky and solve nt={nt}")
    A, X = graph.handles("A"), graph.handles("X")
    cholesky(graph, A, nt)
    substitute_forward(graph, A, X, nt)
    substitute_back(graph, A, X, nt)

    def data() -> Data:
        right = np.random.default_rng(s.seed).standard_normal((nt * nb, nb))
        X = [right[i * nb : (i + 1) * nb] for i in range(nt)]
        return {**_tiled(random_spd(nt * nb, "float64", s.seed), nb), "X": X}

    return Work(graph, data)


# ------------------------------------------------------------------ ranks


def _matvec(s: Sizes) -> Work:
    from tilewright.comm.grid import Grid
    from tilewright.comm.matvec_graph import matvec_graph

    n = s.n or 1024
    grid = Grid(n, n, *(s.grid or (s.ranks, 1)))

    def data() -> Data:
        generator = np.random.default_rng(s.seed)
        A, x = generator.standard_normal((n, n)), generator.standard_normal(n)
        places = [grid.place(q) for q in range(grid.ranks)]
        return {
            "A": [A[slice(*grid.rows(i)), slice(*grid.columns(j))].copy() for i, j in places],
            "x": [x[slice(*grid.x_piece(q))].copy() for q in range(grid.ranks)],
        }

    return Work(matvec_graph(grid), data)


def _spmv(s: Sizes) -> Work:
    import scipy.sparse as sp

    from tilewright.comm.sparse import SparseOperator

    side = s.nt or 64
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side))
    A = sp.csr_array(sp.kronsum(line, line))  # the five-point Laplacian
    operator = SparseOperator(A, ranks=s.ranks, backend="serial")
    work = operator.assembly(s.steps)
    x = np.random.default_rng(s.seed).standard_normal(side * side)

    def data() -> Data:
        for handle, place, size in work.outputs[0]:
            work.data[handle][:size] = x[place]
        return work.data

    return Work(work.graph, data)


def _collective(name: str) -> Callable[[Sizes], Work]:
    def build(s: Sizes) -> Work:
        from tilewright import comm

        n = 10_000 if s.n is None else s.n
        ranks = s.ranks if s.ranks > 1 else 8
        graph: TaskGraph = getattr(comm, name)(ranks=ranks, n=n, algorithm=s.algorithm)

        def data() -> Data:
            generator = np.random.default_rng(s.seed)
            return {"x": [generator.standard_normal(n) for _ in range(ranks)]}

        return Work(graph, data)

    return build


# ------------------------------------------------------------------ others


def _training(s: Sizes) -> Work:
    from tilewright.training.sample import sample

    return Work(*sample(s.ranks, s.steps, s.seed))


def _stencil(s: Sizes) -> Work:
    graph = synthetic.stencil_graph(s.tiles, s.steps)
    return Work(graph, lambda: synthetic.blocks(graph, (s.tile_size, s.tile_size), s.seed))


def _tree(s: Sizes) -> Work:
    graph = synthetic.tree_graph(s.tiles)
    return Work(graph, lambda: synthetic.blocks(graph, (s.n or 10_000,), s.seed))


def _random(s: Sizes, seed: int | None = None) -> Work:
    graph = synthetic.random_graph(s.tiles, s.tiles, s.seed if seed is None else seed)
    return Work(graph, lambda: synthetic.blocks(graph, (s.n or 10_000,), s.seed))


# ------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Workload:
    """A row of the table."""

    summary: str
    build: Callable[[Sizes], Work]
    sizes: tuple[str, ...] = field(default=("nt", "tile_size"))
    """Fields of `Sizes` that it looks at."""


_RANKS = ("n", "ranks", "seed")
_LU = ("nt", "mt", "tile_size", "ranks", "seed")

WORKLOADS: dict[str, Workload] = {
    "cholesky": Workload("A = L L^H of nt x nt tiles", _cholesky, ("nt", "tile_size", "precision", "seed")),
    "lu": Workload("P A = L U of mt x nt tiles", _lu, (*_LU, "pivoting", "update", "panel")),
    "qr": Workload("A = Q R of mt x nt tiles, along a tree", _qr, (*_LU, "tree")),
    "eig": Workload("a Hermitian matrix of nt x nt tiles to a band", _eig, ("nt", "tile_size", "seed")),
    "solve": Workload("Cholesky and a solution with a block of right-hand sides", _solve, ("nt", "tile_size", "seed")),
    "matvec": Workload("y = A x on ranks, or a --grid of them", _matvec, ("n", "ranks", "grid", "seed")),
    "spmv": Workload("products with the Laplacian of nt x nt points", _spmv, ("nt", "ranks", "steps", "seed")),
    "broadcast": Workload("the vector of one rank to all", _collective("broadcast"), (*_RANKS, "algorithm")),
    "reduce": Workload("the sum of all ranks' vectors on one", _collective("reduce"), (*_RANKS, "algorithm")),
    "allgather": Workload("a block of each rank to all", _collective("allgather"), (*_RANKS, "algorithm")),
    "allreduce": Workload("the sum of all ranks' vectors on all", _collective("allreduce"), (*_RANKS, "algorithm")),
    "training": Workload("steps of a training, replicas on ranks", _training, ("ranks", "steps", "seed")),
    "stencil": Workload("Jacobi steps on nt x nt blocks", _stencil, ("nt", "tile_size", "steps", "seed")),
    "tree": Workload("a sum along a tree of nt leaves", _tree, ("nt", "n", "seed")),
    "random": Workload("nt random layers of about nt tasks", _random, ("nt", "n", "seed")),
}
"""By name, what `workload` builds."""


# ------------------------------------------------------------------ a graph of your own


def _from_file(path: Path, name: str, sizes: Sizes) -> Work:
    """The graph that a function in a file returns."""
    function = getattr(_module(path), name, None)
    if not callable(function):
        raise ValueError(f"{path} has no function {name!r}")
    known = {key: getattr(sizes, key) for key in Sizes.__dataclass_fields__} | {"nt": sizes.tiles, "mt": sizes.rows}
    parameters = signature(function).parameters.values()
    given = {p.name: known[p.name] for p in parameters if p.name in known and known[p.name] is not None}
    missing = [
        p.name
        for p in parameters
        if p.name not in given
        and p.default is Parameter.empty
        and p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    ]
    if missing:
        raise TypeError(f"{path}:{name} needs {', '.join(missing)}; it may take {', '.join(known)}, by these names")
    found = function(**given)
    graph, data = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(graph, TaskGraph):
        raise TypeError(f"{path}:{name} returns {type(found).__name__}, not a TaskGraph, or one and its data")
    return Work(graph, data if data is None or callable(data) else lambda: data)


def _module(path: Path) -> Any:
    """The module in a file. It has no name that others can import, so ranks get its functions as code."""
    spec = importlib.util.spec_from_file_location(f"tilewright_graph_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as long as it is made: dataclasses look there
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
        del sys.modules[spec.name]
    return module
