"""A system of equations under refinement: its buffers, the graphs bound to them, the x and r of the moment.

Methods are loops, each a module (`conjugate_gradients`, `gmres`, `classical`, `nested`). What stands between two of
their decisions is a graph of tile tasks that is prepared once and run again and again: `System.replay`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, sqrt
from typing import Any

import numpy as np

from tilewright.graph import TaskGraph
from tilewright.kernels.hemm import BLOCK
from tilewright.linalg.operator import block_rows, blocks_graph
from tilewright.linalg.preconditioner import narrow_graph
from tilewright.linalg.runner import Bindings, Runner
from tilewright.linalg.stopping import U, worst
from tilewright.linalg.structure import Positive, Structure
from tilewright.tiles import TiledMatrix

__all__ = ["System"]


CONSTANT = frozenset(("A", "F", "L", "N", "D", "E", "B", "piv"))
"""Names of what the graphs of a factor only read."""

LOCAL = frozenset(("basis",))
"""Names of what tasks alone look at, from graph to graph: it stays where they run."""

SCRATCH = frozenset(("V", "Z", "W", "T", "S", "parts", "size"))
"""Names of what each graph writes before it reads it."""


class System:
    """A x = b in FP64 with a preconditioner: the buffers, the graphs bound to them, the current x and r.

    Parameters
    ----------
    A : (n, n) tiles, float64 or complex128
        The lower triangle is read.
    b : (n, m)
    runner
        Where tasks run.

    Attributes
    ----------
    norm, measured
        ||A||_inf, and whether it was set.
    narrow
        Whether the factor is read in BF16 below the diagonal.
    x, r : (n, m)
        The solution so far, zero at first, and its residual: recursive within an iteration, true at its end.
    residuals
        After each iteration the largest ||r||_inf / (||A||_inf ||x||_inf) of all right-hand sides.
    """

    b: Any  # arrays here, tensors on a device; so the rest
    x: Any
    r: Any
    z: Any
    p: Any
    v: Any

    norm: float = 0.0
    measured: bool = True
    narrow: bool = False

    @property
    def structure(self) -> Structure:
        """What graphs have to know of A and of the factor."""
        return Positive(narrow=self.narrow)

    def __init__(self, A: TiledMatrix, b: np.ndarray, runner: Runner) -> None:
        self.A, self.runner, self.measured = A, runner, False
        self.n, self.m = b.shape
        self.kind = A.dtype
        self.nt = A.nt
        keep = runner.engine.keep
        self.b = keep(np.ascontiguousarray(b, A.dtype))
        self.x, self.r, self.z, self.p, self.v = (keep(np.zeros_like(self.b)) for _ in range(5))
        self.r[...] = self.b
        self.sizes = keep(np.zeros((3, self.m)))
        names = "rho", "alpha", "beta", "curvature", "norm"
        self.scalars = dict(zip(names, keep(np.zeros((len(names), 1, self.m))), strict=True))
        self.bound = np.abs(self.b).max(axis=0, initial=0)
        self.residuals: list[float] = []
        self.diagonal: dict[tuple[int, int], np.ndarray] = {}
        self.tolerance = sqrt(self.n) * U
        """LAPACK's: ||r||_inf <= sqrt(n) u ||x||_inf ||A||_inf."""
        self.krylov: dict[str, Any] = {}

    def use(
        self, L: Any, scale: np.ndarray, tile_size: int = 0, narrow: dict[tuple[int, ...], np.ndarray] | None = None
    ) -> None:
        """Take L L^H of D A D for the preconditioner, with D = diag(``scale``).

        L is an array or, with a ``tile_size``, may be a dict of tiles. ``narrow`` has those below the diagonal in BF16,
        to be read instead; where it is empty they are made here. What was found so far stays if it is better than
        x = 0.
        """
        self._cut(tile_size or self.A.tile_size)
        tiles = L if isinstance(L, dict) else TiledMatrix.view(L, self.A.tile_size)
        self.narrow = narrow is not None
        dtype = tiles[0, 0].dtype if self.n else np.dtype(np.float64)
        if narrow is not None and not narrow:
            narrow = self._narrowed(tiles)
        self._bind({"F": self.diagonal, "L": tiles, "N": narrow or {}}, scale, dtype)

    def _bind(self, factor: dict[str, Any], scale: np.ndarray, dtype: np.dtype) -> None:
        """Let graphs have this factor of a matrix whose rows were scaled so, and vectors in its ``dtype``."""
        d = self.runner.engine.keep(np.ascontiguousarray(scale, np.float64).reshape(self.n, 1))
        m, nt = self.m, self.nt
        blocks: dict[str, Any] = {
            name: block_rows(array, self.A)
            for name, array in {
                "B": self.b,
                "X": self.x,
                "R": self.r,
                "Z": self.z,
                "P": self.p,
                "V": self.v,
                "D": d,
                "W": self.runner.engine.keep(np.zeros((self.n, m), dtype)),
            }.items()
        }
        parts = {"S": [np.zeros((3, m)) for _ in range(nt)], "T": [np.zeros((1, m)) for _ in range(nt)]}
        self.data = {"A": self.A, **factor, "sizes": self.sizes, **blocks, **parts, **self.scalars}
        self.krylov = {name: {} for name in ("basis", "H", "parts", "Y", "number")} | {"size": np.zeros((3, m))}
        self.bindings = Bindings(self.runner, self.data, CONSTANT, SCRATCH, LOCAL)
        self.data |= self.krylov
        self._scale = d
        self.settle()

    def settle(self) -> None:
        """Keep what was found so far if it is better than x = 0."""
        size = np.abs(self.r).max(axis=0, initial=0)
        if not (size < self.bound).all() or not np.isfinite(self.x).all():
            self.x.fill(0)
            self.r[...] = self.b
            size = self.bound
        scaled = np.abs(self.r * self._scale).max(axis=0, initial=0)
        self.sizes[:] = np.abs(self.x).max(axis=0, initial=0), size, scaled

    def _cut(self, tile_size: int) -> None:
        """Take tiles of this size, and make the squares on the diagonal of A whole."""
        if self.diagonal and tile_size == self.A.tile_size:
            return
        if tile_size != self.A.tile_size:
            self.A = TiledMatrix.view(self.A.to_numpy(), tile_size)
        A, keep = self.A, self.runner.engine.keep
        self.nt = A.nt
        self.diagonal = {(i, i): keep(np.empty((len(A[i, i]), BLOCK), A.dtype)) for i in range(A.nt)}
        self.runner.run(blocks_graph(A.nt), {"A": A, "F": self.diagonal})

    def _narrowed(self, L: Any) -> dict[tuple[int, ...], np.ndarray]:
        """Its tiles below the diagonal in BF16, by the task that the factorisation has for it."""
        below = [(i, j) for j in range(self.nt) for i in range(j + 1, self.nt)]
        made: dict[tuple[int, ...], np.ndarray] = {
            index: self.runner.engine.keep(np.empty(L[index].shape, np.uint16)) for index in below
        }
        if below:
            self.runner.run(narrow_graph(self.nt), {"L": L, "N": made})
        return made

    def bind(self, name: str, array: np.ndarray) -> None:
        """Let graphs of this system have an (n, m) array under this name."""
        self.data[name] = block_rows(array, self.A)

    def restart(self) -> None:
        """Conjugate gradients begin anew: beta = 0 in the first step."""
        self.scalars["rho"][...] = inf
        self.p.fill(0)

    # -------------------------------------------------------------- measures

    def replay(self, graph: Callable[..., TaskGraph], *arguments: Any) -> None:
        """Run the graph of this number of tiles on the buffers of this system."""
        self.bindings.run(graph(self.nt, *arguments))

    @property
    def nests(self) -> bool:
        """Whether nested refinement can be: with real numbers and a factor in FP32."""
        return self.kind == np.float64 and bool(self.data["W"][0].dtype == np.float32)

    @property
    def excess(self) -> float:
        """max ||r||_inf / (sqrt(n) u ||A||_inf ||x||_inf): LAPACK's criterion holds for all if it is at most 1."""
        x, r, _ = self.sizes
        return self.excess_of(r, x)

    @property
    def backward_errors(self) -> np.ndarray:
        """||r||_inf / (||A||_inf ||x||_inf + ||b||_inf), (m,); 0 for r = 0."""
        x, r, _ = self.sizes
        below = self.norm * x + self.bound
        return np.divide(r, below, out=np.where(r == 0, 0.0, inf), where=below > 0)

    @property
    def hpl(self) -> float:
        """The scaled residual of HPL-MxP, which has to be at most 16: the worst backward error over n u."""
        return float(self.backward_errors.max(initial=0)) / (max(self.n, 1) * U)

    def excess_of(self, r: np.ndarray, x: np.ndarray) -> float:
        """`excess` for residuals and solutions of these sizes."""
        return worst(r, self.tolerance * self.norm * x)

    def note(self, r: np.ndarray, x: np.ndarray) -> None:
        """Write down an iteration that led to these sizes, as far as they are known."""
        self.residuals.append(worst(r, self.norm * x))

    def correct(self) -> None:
        """Replace what was written down last by the true residual."""
        x, r, _ = self.sizes
        self.residuals[-1:] = [worst(r, self.norm * x)]

    def record(self) -> float:
        """Write down an iteration that led to the sizes of the moment; returns `excess`."""
        x, r, _ = self.sizes
        self.note(r, x)
        return self.excess

    def open_krylov(self, most: int) -> None:
        """Room for a basis of so many vectors, below each other in each block of rows, and what belongs to it."""
        if self.krylov["basis"]:
            return
        keep, m, kind, rooms = self.runner.engine.keep, self.m, self.kind, self.krylov
        heights = [len(block) for block in self.data["X"]]
        rooms["basis"].update(enumerate(np.zeros((most * height, m), kind) for height in heights))
        rooms["parts"].update(enumerate(np.zeros((most, m), kind) for _ in heights))
        rooms["H"].update(enumerate(keep(np.zeros((2, most, m), kind))))
        rooms["Y"][0], rooms["number"][0] = keep(np.zeros((most, m), kind)), keep(np.zeros((1, 1)))
