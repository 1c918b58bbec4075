"""Iterative refinement: an FP64 solution from a factor in any precision, for many right-hand sides at once.

The loops are those of the textbook; what stands between two decisions is a graph of tile tasks that is built once and
run again and again. Residuals are FP64, the factor is a preconditioner M^-1 = D L^-H L^-1 D in its own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf, log, sqrt
from typing import Any

import numpy as np

from tilewright.graph import RW, Handle, Handles, R, TaskGraph, W
from tilewright.kernels.hemm import BLOCK
from tilewright.linalg.cho_solve import substitute_back, substitute_forward
from tilewright.linalg.ops import blocks, convert, gemmlb, hemm, hemmd, trsml, zero
from tilewright.linalg.residual import unit_roundoff
from tilewright.linalg.vectors import OPS
from tilewright.replay import Replay, Stage
from tilewright.tiles import TiledMatrix

__all__ = [
    "METHODS", "RESTART", "Outcome", "System", "blocks_graph", "product", "residual_tasks", "row_sums", "steps_left",
    "substitute",
]  # fmt: skip

RESTART = 30
"""Steps of GMRES before it starts anew."""

_CYCLE = 1e-8
"""A cycle of GMRES ends with a residual that much smaller: its vectors lose their use beyond."""

U = unit_roundoff(np.dtype(np.float64))


# ------------------------------------------------------------------ graphs


def product(g: TaskGraph, A: Handles, X: Handles, V: Handles, nt: int) -> None:
    """Insert V := A X for a Hermitian A, reading its lower triangle once; F[i] are the `blocks` of tile (i, i).

    Tiles are taken diagonal by diagonal, so that neighbours write different blocks of V.
    """
    F = g.handles("F")
    for i in range(nt):
        g.insert(zero, W(V[i]))
        g.insert(hemmd, R(A[i, i]), R(F[i, i]), R(X[i]), RW(V[i]), on=A[i, i])  # V_i := V_i + A_ii X_i
    for distance in range(1, nt):
        for j in range(nt - distance):
            i = j + distance  # V_i := V_i + A_ij X_j, V_j := V_j + A_ij^H X_i
            g.insert(hemm, R(A[i, j]), R(X[i]), R(X[j]), RW(V[i]), RW(V[j]), on=A[i, j])


def precondition(g: TaskGraph, source: Handles, Z: Handles, sizes: Handle, nt: int, narrow: bool) -> None:
    """Insert Z := D L^-H L^-1 D ``source``, in the precision of W and L."""
    D, Y = g.handles("D"), g.handles("W")
    for i in range(nt):
        g.insert(OPS["narrow"], R(D[i]), R(source[i]), R(sizes), W(Y[i]))
    substitute(g, Y, nt, narrow)
    for i in range(nt):
        g.insert(OPS["widen"], R(D[i]), R(Y[i]), R(sizes), W(Z[i]))


def substitute(g: TaskGraph, X: Handles, nt: int, narrow: bool) -> None:
    """Insert X := L^-H L^-1 X; with ``narrow`` the tiles of L below the diagonal are read in BF16, from N."""
    L, N = g.handles("L"), g.handles("N")
    if not narrow:
        substitute_forward(g, L, X, nt)
        substitute_back(g, L, X, nt)
        return
    for k in range(nt):
        g.insert(trsml, R(L[k, k]), RW(X[k]), False, True, on=L[k, k])  # X_k := L_kk^-1 X_k
        for i in range(k + 1, nt):
            g.insert(gemmlb, R(N[i, k]), R(X[k]), RW(X[i]), False, on=N[i, k])  # X_i := X_i - L_ik X_k
    for k in reversed(range(nt)):
        g.insert(trsml, R(L[k, k]), RW(X[k]), True, True, on=L[k, k])  # X_k := L_kk^-T X_k
        for i in reversed(range(k)):
            g.insert(gemmlb, R(N[k, i]), R(X[k]), RW(X[i]), True, on=N[k, i])  # X_i := X_i - L_ki^T X_k


def residual_tasks(g: TaskGraph, nt: int) -> None:
    """Insert R := B - A X, and its size."""
    A, B, D, X, V, S = map(g.handles, "ABDXVS")
    r = g.handles("R")
    product(g, A, X, V, nt)
    for i in range(nt):
        g.insert(OPS["residual"], R(D[i]), R(B[i]), R(V[i]), R(X[i]), W(r[i]), W(S[i]))
    g.insert(OPS["gather"], *[R(S[i]) for i in range(nt)], W(g.handle("sizes")))


@lru_cache(maxsize=32)
def residual_graph(nt: int) -> TaskGraph:
    """r := b - A x."""
    g = TaskGraph(f"residual nt={nt}")
    residual_tasks(g, nt)
    g.recipe = residual_graph, (nt,)
    return g


@lru_cache(maxsize=32)
def classical_graph(nt: int, narrow: bool) -> TaskGraph:
    """One step of classical refinement [1]_: x := x + M^-1 r, r := b - A x.

    .. [1] LAPACK dsposv.
    """
    g = TaskGraph(f"refinement nt={nt}")
    r, Z, X = map(g.handles, "RZX")
    precondition(g, r, Z, g.handle("sizes"), nt, narrow)
    for i in range(nt):
        g.insert(OPS["add"], R(Z[i]), RW(X[i]))
    residual_tasks(g, nt)
    g.recipe = classical_graph, (nt, narrow)
    return g


@lru_cache(maxsize=32)
def cg_graph(nt: int, narrow: bool) -> TaskGraph:
    """One step of preconditioned conjugate gradients [2]_, each right-hand side with its own scalars.

    .. [2] Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., algorithm 9.1.
    """
    g = TaskGraph(f"conjugate gradients nt={nt}")
    A, D, P, V, X, Z, S, T = map(g.handles, "ADPVXZST")
    r = g.handles("R")
    sizes, rho, alpha, beta, curvature = map(g.handle, ("sizes", "rho", "alpha", "beta", "curvature"))
    precondition(g, r, Z, sizes, nt, narrow)  # z := M^-1 r
    for i in range(nt):
        g.insert(OPS["dot"], R(r[i]), R(Z[i]), W(T[i]))
    g.insert(OPS["turn"], *[R(T[i]) for i in range(nt)], RW(rho), W(beta))  # beta := r^H z / rho, rho := r^H z
    for i in range(nt):
        g.insert(OPS["sweep"], R(beta), R(Z[i]), RW(P[i]))  # p := z + beta p
    product(g, A, P, V, nt)
    for i in range(nt):
        g.insert(OPS["dot"], R(P[i]), R(V[i]), W(T[i]))
    g.insert(OPS["step"], *[R(T[i]) for i in range(nt)], R(rho), W(curvature), W(alpha))  # alpha := rho / p^H A p
    for i in range(nt):  # x := x + alpha p, r := r - alpha A p
        g.insert(OPS["advance"], R(alpha), R(D[i]), R(P[i]), R(V[i]), RW(X[i]), RW(r[i]), W(S[i]))
    g.insert(OPS["gather"], *[R(S[i]) for i in range(nt)], W(sizes))
    g.recipe = cg_graph, (nt, narrow)
    return g


@lru_cache(maxsize=32)
def gmres_start_graph(nt: int) -> TaskGraph:
    """v_0 := r / ||r||."""
    g = TaskGraph(f"GMRES start nt={nt}")
    r, T, basis, norm = g.handles("R"), g.handles("T"), g.handles("basis"), g.handle("norm")
    for i in range(nt):
        g.insert(OPS["dot"], R(r[i]), R(r[i]), W(T[i]))
    g.insert(OPS["root"], *[R(T[i]) for i in range(nt)], W(norm))
    for i in range(nt):
        g.insert(OPS["normalize"], R(r[i]), R(norm), W(basis[0, i]))
    g.recipe = gmres_start_graph, (nt,)
    return g


@lru_cache(maxsize=64)
def gmres_step_graph(nt: int, k: int, narrow: bool) -> TaskGraph:
    """Step k of Arnoldi on A M^-1, orthogonalised twice by classical Gram-Schmidt [3]_.

    .. [3] Y. Saad, algorithms 6.9 and 9.5; SLATE posv_mixed_gmres.
    """
    g = TaskGraph(f"GMRES step {k} nt={nt}")
    A, D, V, Z, S, T, H = map(g.handles, "ADVZSTH")
    basis, parts, sizes, norm = g.handles("basis"), g.handles("parts"), g.handle("size"), g.handle("norm")
    for i in range(nt):
        g.insert(OPS["measure"], R(D[i]), R(basis[k, i]), W(S[i]))
    g.insert(OPS["gather"], *[R(S[i]) for i in range(nt)], W(sizes))
    precondition(g, _row(basis, k), Z, sizes, nt, narrow)
    product(g, A, Z, V, nt)  # w := A M^-1 v_k
    for turn in range(2):
        for i in range(nt):
            vectors = [R(basis[j, i]) for j in range(k + 1)]
            g.insert(OPS["project"], *vectors, R(V[i]), W(parts[k, i]))
        g.insert(OPS["total"], *[R(parts[k, i]) for i in range(nt)], W(H[k, turn]))
        for i in range(nt):  # w := w - sum_j h_j v_j
            vectors = [R(basis[j, i]) for j in range(k + 1)]
            g.insert(OPS["orthogonalize"], *vectors, R(H[k, turn]), RW(V[i]))
    for i in range(nt):
        g.insert(OPS["dot"], R(V[i]), R(V[i]), W(T[i]))
    g.insert(OPS["root"], *[R(T[i]) for i in range(nt)], W(norm))
    for i in range(nt):
        g.insert(OPS["normalize"], R(V[i]), R(norm), W(basis[k + 1, i]))  # v_{k+1} := w / ||w||
    g.recipe = gmres_step_graph, (nt, k, narrow)
    return g


@lru_cache(maxsize=64)
def gmres_update_graph(nt: int, k: int, narrow: bool) -> TaskGraph:
    """x := x + M^-1 sum_j y_j v_j for j < k, and r := b - A x."""
    g = TaskGraph(f"GMRES update {k} nt={nt}")
    D, V, X, Z, S, Y = map(g.handles, "DVXZSY")
    basis, sizes = g.handles("basis"), g.handle("size")
    for i in range(nt):
        g.insert(OPS["combine"], *[R(basis[j, i]) for j in range(k)], R(Y[k]), W(V[i]))
        g.insert(OPS["measure"], R(D[i]), R(V[i]), W(S[i]))
    g.insert(OPS["gather"], *[R(S[i]) for i in range(nt)], W(sizes))
    precondition(g, V, Z, sizes, nt, narrow)
    for i in range(nt):
        g.insert(OPS["add"], R(Z[i]), RW(X[i]))
    residual_tasks(g, nt)
    g.recipe = gmres_update_graph, (nt, k, narrow)
    return g


class _row(Handles):  # noqa: N801 - it stands for a family of handles
    """Row k of an indexed family, as a family: ``row[i]`` is ``family[k, i]``."""

    def __init__(self, family: Handles, k: int) -> None:
        super().__init__(family.name)
        self.family, self.k = family, k

    def __getitem__(self, index: int | tuple[int, ...]) -> Handle:
        assert isinstance(index, int)
        return self.family[self.k, index]


@lru_cache(maxsize=32)
def blocks_graph(nt: int) -> TaskGraph:
    """F[i,i] := the blocks on the diagonal of tile (i, i) of A."""
    g = TaskGraph(f"diagonal nt={nt}")
    A, F = g.handles("A"), g.handles("F")
    for i in range(nt):
        g.insert(blocks, R(A[i, i]), W(F[i, i]))
    g.recipe = blocks_graph, (nt,)
    return g


@lru_cache(maxsize=32)
def narrow_graph(nt: int) -> TaskGraph:
    """N[i,j] := tile (i, j) of L in BF16, below the diagonal."""
    g = TaskGraph(f"narrow factor nt={nt}")
    L, N = g.handles("L"), g.handles("N")
    for j in range(nt):
        for i in range(j + 1, nt):
            g.insert(convert, R(L[i, j]), W(N[i, j]), on=L[i, j])
    g.recipe = narrow_graph, (nt,)
    return g


@lru_cache(maxsize=32)
def row_sums_graph(nt: int) -> TaskGraph:
    """s := the row sums of |A|, handles ``A[i,j]``, ``S[i]``."""
    g = TaskGraph(f"row sums nt={nt}")
    A, S = g.handles("A"), g.handles("S")
    for i in range(nt):
        g.insert(zero, W(S[i]))
        g.insert(OPS["normsd"], R(A[i, i]), RW(S[i]), on=A[i, i])
    for distance in range(1, nt):
        for j in range(nt - distance):
            i = j + distance
            g.insert(OPS["norms"], R(A[i, j]), RW(S[i]), RW(S[j]), on=A[i, j])
    g.recipe = row_sums_graph, (nt,)
    return g


def row_sums(A: TiledMatrix, stage: Stage) -> np.ndarray:
    """The sums of |a_ij| along the rows of a Hermitian matrix, (n,); its lower triangle is read once, by tile tasks.

    The largest is ||A||_inf; one that is not finite says that there is a NaN or an infinity, or an overflow.
    """
    sums = np.zeros((A.shape[0], 1))
    Replay(row_sums_graph(A.nt), {"A": A, "S": _blocks(sums, A)}, stage)()
    return sums[:, 0]


# ------------------------------------------------------------------ the iterations


@dataclass(frozen=True)
class Outcome:
    """How an iteration ended."""

    method: str
    status: str
    """``converged``, ``slow`` (too many steps), ``stalled`` (steps no longer help), ``diverged``, ``indefinite``."""
    iterations: int

    @property
    def converged(self) -> bool:
        return self.status == "converged"


class System:
    """A x = b in FP64 with a preconditioner: the buffers, the graphs bound to them, the current x and r.

    Parameters
    ----------
    A : (n, n) tiles, float64 or complex128
        The lower triangle is read.
    b : (n, m)
    stage
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

    def __init__(self, A: TiledMatrix, b: np.ndarray, stage: Stage) -> None:
        self.A, self.stage, self.measured = A, stage, False
        self.n, self.m = b.shape
        self.kind = A.dtype
        self.nt = A.nt
        keep = stage.site.keep
        self.b = keep(np.ascontiguousarray(b, A.dtype))
        self.x, self.r, self.z, self.p, self.v = (keep(np.zeros_like(self.b)) for _ in range(5))
        self.r[...] = self.b
        self.sizes = np.zeros((3, self.m))
        self.scalars = {name: np.zeros((1, self.m)) for name in ("rho", "alpha", "beta", "curvature", "norm")}
        self.bound = np.abs(self.b).max(axis=0, initial=0)
        self.residuals: list[float] = []
        self.diagonal: dict[tuple[int, int], np.ndarray] = {}
        self.tolerance = sqrt(self.n) * U
        """LAPACK's: ||r||_inf <= sqrt(n) u ||x||_inf ||A||_inf."""
        self._replays: dict[Any, Replay] = {}
        self._gmres: dict[str, Any] = {}

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
        d = self.stage.site.keep(np.ascontiguousarray(scale, np.float64).reshape(self.n, 1))
        m, nt = self.m, self.nt
        blocks: dict[str, Any] = {
            name: _blocks(array, self.A)
            for name, array in {
                "B": self.b, "X": self.x, "R": self.r, "Z": self.z, "P": self.p, "V": self.v, "D": d,
                "W": self.stage.site.keep(np.zeros((self.n, m), dtype)),
            }.items()
        }  # fmt: skip
        parts = {"S": [np.zeros((3, m)) for _ in range(nt)], "T": [np.zeros((1, m)) for _ in range(nt)]}
        self.data = {
            "A": self.A,
            "F": self.diagonal,
            "L": tiles,
            "N": narrow or {},
            "sizes": self.sizes,
            **blocks,
            **parts,
            **self.scalars,
        }
        self._gmres = {name: {} for name in ("basis", "H", "parts", "Y")}
        self._replays.clear()
        size = np.abs(self.r).max(axis=0, initial=0)
        if not (size < self.bound).all() or not np.isfinite(self.x).all():
            self.x.fill(0)
            self.r[...] = self.b
            size = self.bound
        self.sizes[:] = np.abs(self.x).max(axis=0, initial=0), size, np.abs(self.r * d).max(axis=0, initial=0)

    def _cut(self, tile_size: int) -> None:
        """Take tiles of this size, and make the squares on the diagonal of A whole."""
        if self.diagonal and tile_size == self.A.tile_size:
            return
        if tile_size != self.A.tile_size:
            self.A = TiledMatrix.view(self.A.to_numpy(), tile_size)
        A, keep = self.A, self.stage.site.keep
        self.nt = A.nt
        self.diagonal = {(i, i): keep(np.empty((len(A[i, i]), BLOCK), A.dtype)) for i in range(A.nt)}
        Replay(blocks_graph(A.nt), {"A": A, "F": self.diagonal}, self.stage)()

    def _narrowed(self, L: Any) -> dict[tuple[int, ...], np.ndarray]:
        """Its tiles below the diagonal in BF16, by the task that the factorisation has for it."""
        below = [(i, j) for j in range(self.nt) for i in range(j + 1, self.nt)]
        made: dict[tuple[int, ...], np.ndarray] = {
            index: self.stage.site.keep(np.empty(L[index].shape, np.uint16)) for index in below
        }
        if below:
            Replay(narrow_graph(self.nt), {"L": L, "N": made}, self.stage)()
        return made

    def bind(self, name: str, array: np.ndarray) -> None:
        """Let graphs of this system have an (n, m) array under this name."""
        self.data[name] = _blocks(array, self.A)

    def _restart(self) -> None:
        """Conjugate gradients begin anew: beta = 0 in the first step."""
        self.scalars["rho"][...] = inf
        self.p.fill(0)

    # -------------------------------------------------------------- measures

    def replay(self, graph: Callable[..., TaskGraph], *arguments: int) -> None:
        """Run the graph of this number of tiles on the buffers of this system."""
        key = graph, arguments
        if key not in self._replays:
            self._replays[key] = Replay(graph(self.nt, *arguments), self.data | self._gmres, self.stage)
        self._replays[key]()

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
        return _worst(r, self.tolerance * self.norm * x)

    def note(self, r: np.ndarray, x: np.ndarray) -> None:
        """Write down an iteration that led to these sizes, as far as they are known."""
        self.residuals.append(_worst(r, self.norm * x))

    def correct(self) -> None:
        """Replace what was written down last by the true residual."""
        x, r, _ = self.sizes
        self.residuals[-1:] = [_worst(r, self.norm * x)]

    def _record(self) -> float:
        x, r, _ = self.sizes
        self.note(r, x)
        return self.excess

    # -------------------------------------------------------------- methods

    def classical(self, cap: int) -> Outcome:
        """x := x + M^-1 r until LAPACK's criterion holds; ends when the residual grows twice in a row."""
        previous, grown = inf, 0
        for k in range(1, cap + 1):
            self.replay(classical_graph, self.narrow)
            excess = self._record()
            if excess <= 1:
                return Outcome("classical", "converged", k)
            grown = grown + 1 if excess >= previous else 0
            if not np.isfinite(excess) or grown == 2:
                return Outcome("classical", "diverged" if not np.isfinite(excess) or k < 4 else "stalled", k)
            if k >= 6 and steps_left(self.residuals[-k:], excess) > 2 * cap:
                return Outcome("classical", "slow", k)
            previous = excess
        return Outcome("classical", "slow", cap)

    def cg(self, cap: int) -> Outcome:
        """Preconditioned conjugate gradients; where the recursive residual has converged the true one is looked at."""
        k, checks, last = 0, 0, inf
        while True:
            self._restart()
            start = len(self.residuals)
            excess = self.excess
            while not excess <= 1 and k < cap:
                self.replay(cg_graph, self.narrow)
                k += 1
                excess = self._record()
                rho, curvature = self.scalars["rho"], self.scalars["curvature"]
                if not (np.isfinite(excess) and np.isfinite(rho).all()):
                    return Outcome("cg", "diverged", k)
                if ((curvature <= 0) & (rho > 0)).any():
                    return Outcome("cg", "indefinite", k)
                since = self.residuals[start:]
                if len(since) >= 8 and k + steps_left(since, excess) > 2 * cap:
                    return Outcome("cg", "slow", k)
            self.replay(residual_graph)
            excess = self.excess
            if excess <= 1:
                return Outcome("cg", "converged", k)
            if k >= cap:
                return Outcome("cg", "slow", k)
            checks += 1
            if checks > 4 or not excess < last:
                return Outcome("cg", "stalled", k)
            last = excess / 2

    def gmres(self, cap: int) -> Outcome:
        """GMRES(30), preconditioned from the right, each right-hand side with its own Hessenberg matrix.

        It starts from x = M^-1 b: the size of x tells how far to go.
        """
        k, last = 0, inf
        if not self.x.any():
            self.replay(classical_graph, self.narrow)
            k, excess = 1, self._record()
            if excess <= 1:
                return Outcome("gmres", "converged", k)
        while k < cap:
            steps = self._cycle(min(RESTART, cap - k))
            k += steps
            excess = self.excess
            if excess <= 1:
                return Outcome("gmres", "converged", k)
            if not np.isfinite(excess) or not steps:
                return Outcome("gmres", "diverged", k)
            if excess > last / 2:
                return Outcome("gmres", "stalled", k)
            last = excess
        return Outcome("gmres", "slow", k)

    def _cycle(self, most: int) -> int:
        """One cycle of GMRES: at most ``most`` steps, then x and the true residual. Returns the number of steps."""
        hessenberg = np.zeros((self.m, most + 1, most), self.kind)
        self._grow(0)
        self.replay(gmres_start_graph)
        beta = self.scalars["norm"][0].copy()
        if not np.isfinite(beta).all() or not beta.any():
            return 0
        wanted = np.maximum(beta / np.maximum(self._columns_excess(), 1) / 2, _CYCLE * beta)
        x, r, _ = self.sizes
        start = _worst(r, self.norm * x)
        k = 0
        while k < most:
            self._grow(k + 1)
            self.replay(gmres_step_graph, k, self.narrow)
            H = self._gmres["H"]
            hessenberg[:, : k + 1, k] = (H[k, 0] + H[k, 1]).T
            hessenberg[:, k + 1, k] = self.scalars["norm"][0]
            k += 1
            y, left = _least_squares(hessenberg[:, : k + 1, :k], beta)
            if not np.isfinite(left).all():
                return 0
            self.residuals.append(_worst(left, beta) * start)
            if (left <= wanted).all():
                break
        self._gmres["Y"][k][...] = y.T
        self.replay(gmres_update_graph, k, self.narrow)
        return k

    def _columns_excess(self) -> np.ndarray:
        """How far each right-hand side is from LAPACK's criterion."""
        x, r, _ = self.sizes
        below = self.tolerance * self.norm * x
        return np.divide(r, below, out=np.zeros_like(r), where=below > 0)

    def _grow(self, k: int) -> None:
        """Room for vector k of the basis, and for what belongs to the step that makes it from those before."""
        gmres, m, kind = self._gmres, self.m, self.kind
        if (k, 0) in gmres["basis"]:
            return
        gmres["size"] = gmres.get("size", np.zeros((3, m)))
        vector = self.stage.site.keep(np.zeros_like(self.b))
        gmres["basis"].update({(k, i): block for i, block in enumerate(_blocks(vector, self.A))})
        gmres["Y"][k] = np.zeros((k, m), kind)
        if k:
            gmres["H"].update({(k - 1, turn): np.zeros((k, m), kind) for turn in range(2)})
            gmres["parts"].update({(k - 1, i): np.zeros((k, m), kind) for i in range(self.nt)})


METHODS = ("cg", "gmres", "classical")


def _blocks(array: np.ndarray, A: TiledMatrix) -> list[np.ndarray]:
    """The rows of ``array`` that belong to each row of tiles."""
    return [array[A.rows(i)] for i in range(A.nt)]


def _worst(above: np.ndarray, below: np.ndarray) -> float:
    """The largest quotient; 0/0 is 0, a NaN wins."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = np.where(above == 0, 0.0, above / below)
    return float(quotients.max(initial=0))


def steps_left(history: list[float], excess: float) -> float:
    """Steps until the excess is 1, if it goes on as in the second half of this iteration."""
    half = history[len(history) // 2 :]
    if len(half) < 2 or not half[0] > 0 or not half[-1] > 0:
        return 0
    rate = log(half[-1] / half[0]) / (len(half) - 1)
    return log(max(excess, 1)) / -rate if rate < 0 else inf


def _least_squares(H: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each right-hand side y with least ||beta e_1 - H y||, (m, k), and that norm, (m,)."""
    m, rows, k = H.shape
    y, left = np.zeros((m, k), H.dtype), np.zeros(m)
    for j, matrix in _finite(H):
        target = np.zeros(rows, H.dtype)
        target[0] = beta[j]
        y[j] = np.linalg.lstsq(matrix, target, rcond=None)[0]
        left[j] = np.linalg.norm(target - matrix @ y[j])
    left[~np.isfinite(H).all(axis=(1, 2))] = np.nan
    return y, left


def _finite(H: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    return ((j, matrix) for j, matrix in enumerate(H) if np.isfinite(matrix).all())
