"""`solve`: an FP64-accurate solution of A x = b from the cheapest factor that leads to one, and the story of how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import frexp
from time import perf_counter
from typing import Any

import numpy as np

from tilewright.engine import Run
from tilewright.errors import AccuracyError, NotPositiveDefiniteError
from tilewright.graph import R, TaskGraph, W
from tilewright.linalg import ladder
from tilewright.linalg.cholesky import tiled_cholesky
from tilewright.linalg.ladder import Estimate
from tilewright.linalg.matrix import Matrix, check_finite_lower, is_device_tensor
from tilewright.linalg.mixed import mixed_factor
from tilewright.linalg.nested import nested
from tilewright.linalg.refinement import METHODS, RESTART, Outcome, System, U, row_sums
from tilewright.linalg.right_hand_side import RightHandSide
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.linalg.vectors import OPS
from tilewright.replay import Replay, Stage
from tilewright.schedulers import Policy
from tilewright.tiles import TiledMatrix

__all__ = ["Attempt", "Problem", "SolveInfo", "solve"]

ITERATIONS = 30
"""LAPACK's limit for refinement."""

INNER = 2
"""Steps in FP32 for one in FP64: of nested refinement there may be as many more."""

_HUGE = 400  # binary exponent; entries beyond 2^400 or below 2^-400 are brought to about 1 first


@dataclass(frozen=True)
class Attempt:
    """One rung of the ladder."""

    precision: str
    status: str
    """``converged``, or why not: ``overflow``, ``breakdown``, ``slow``, ``stalled``, ``diverged``, ``indefinite``,
    ``unavailable``."""
    iterations: int = 0
    method: str = ""
    """Of the refinement; two names with a plus if a second one took over."""
    order: int = 0
    """Of the leading minor at which the factorisation broke down."""
    shift: float = 0.0
    """What was added to the unit diagonal."""
    reason: str = ""

    @property
    def code(self) -> int:
        """LAPACK's ITER: the iterations, or -1 for a precision this machine has not, -2 for an overflow, -3 for a
        factorisation that broke down, -31 for refinement that did not converge."""
        known = {"converged": self.iterations, "unavailable": -1, "overflow": -2, "breakdown": -3}
        return known.get(self.status, -(ITERATIONS + 1))

    def __str__(self) -> str:
        if self.status == "breakdown":
            what = f"breaks down at the leading minor of order {self.order}"
        elif self.status in ("overflow", "unavailable"):
            what = self.status
        else:
            what = f"{self.status} after {self.iterations} {self.method} iteration{'s' * (self.iterations != 1)}"
        return f"{self.precision} {what}" + (f" ({self.code})" if self.code < 0 else "")


@dataclass
class SolveInfo:
    """How a solution was found and how good it is. Print it."""

    n: int
    right_hand_sides: int
    dtype: str
    path: tuple[Attempt, ...] = ()
    """What was tried, in order; the last one succeeded if any did."""
    backward_errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of each right-hand side."""
    residuals: list[float] = field(default_factory=list)
    """After each iteration of all rungs: the largest ||r||_inf / (||A||_inf ||x||_inf)."""
    criterion: float = 0.0
    """max ||r||_inf / (sqrt(n) u ||A||_inf ||x||_inf): LAPACK's dsposv stops at 1."""
    hpl_mxp_residual: float = 0.0
    """Backward error over n u; HPL-MxP accepts up to 16, we up to 1."""
    times: dict[str, float] = field(default_factory=dict)
    """Seconds: ``check``, ``estimate``, ``factor``, ``refine``, ``total``."""
    estimate: Estimate | None = None
    """What ``precision="auto"`` went by."""
    precision_map: Any = None
    """The format of every tile of the last factor."""
    factor_run: Run | None = None
    """The `Run` of the last factorisation."""
    messages: int = 0
    """Between ranks."""
    bytes: int = 0
    """In those messages."""

    @property
    def precision(self) -> str:
        """Of the factor that led to the solution."""
        return self.path[-1].precision if self.path else ""

    @property
    def iterations(self) -> int:
        """Refinement steps of all rungs."""
        return sum(attempt.iterations for attempt in self.path)

    @property
    def backward_error(self) -> float:
        """max_j ||b_j - A x_j||_inf / (||A||_inf ||x_j||_inf + ||b_j||_inf)."""
        return float(self.backward_errors.max(initial=0))

    @property
    def code(self) -> int:
        """LAPACK's ITER, of the rung where it began: how many iterations, or why that rung was left."""
        return self.path[0].code if self.path else 0

    @property
    def flops(self) -> float:
        """n^3/3 + 2 n^2 m, those of a solution without refinement: what rates count."""
        return self.n**3 / 3 + 2.0 * self.n**2 * self.right_hand_sides

    @property
    def gflops(self) -> float:
        """10^9 `flops` per second, with everything."""
        return self.flops / self.times["total"] / 1e9 if self.times.get("total") else 0.0

    @property
    def factor_gflops(self) -> float:
        """10^9 flops of one factorisation per second of all factorisations, without refinement."""
        return self.n**3 / 3 / self.times["factor"] / 1e9 if self.times.get("factor") else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        attempts = [
            {name: getattr(attempt, name) for name in (*Attempt.__dataclass_fields__, "code")} for attempt in self.path
        ]
        names = (
            "n", "right_hand_sides", "dtype", "precision", "code", "iterations", "backward_error", "residuals",
            "criterion", "hpl_mxp_residual", "times", "gflops", "factor_gflops", "messages", "bytes",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "path": attempts}

    def __str__(self) -> str:
        path = "\n          ".join(map(str, self.path)) or "nothing to do"
        times = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in self.times.items())
        rows = [
            f"solve     n = {self.n}, {self.right_hand_sides} right-hand sides, {self.dtype}",
            f"path      {path}",
            f"accuracy  backward error {self.backward_error:.2e}; LAPACK's criterion {self.criterion:.2g} (<= 1); "
            f"HPL-MxP residual {self.hpl_mxp_residual:.2g} (<= 16)",
            f"times     {times}",
            f"rates     {self.gflops:.4g} GFLOP/s, the factorisation alone {self.factor_gflops:.4g}",
        ]
        if self.estimate is not None:
            guess = self.estimate
            rows.insert(
                1, f"estimate  last pivot {guess.pivot:.1e}, errors add up to {guess.spread:.1f} u: {guess.rung}"
            )
        if self.messages:
            rows.append(f"moved     {self.messages} messages, {self.bytes} bytes")
        return "\n".join(rows)


def solve(
    a: Any,
    b: Any,
    *,
    assume_a: str = "pos",
    lower: bool = True,
    precision: Any = "auto",
    refine: str = "auto",
    fallback: bool = True,
    check_finite: bool = True,
    check_symmetric: bool = False,
    tile_size: int | None = None,
    backend: str = "threads",
    scheduler: str | Policy = "critical-path",
    workers: int | None = None,
    return_info: bool = False,
    **options: Any,
) -> Any:
    """Solve A x = b to FP64 accuracy, for a symmetric or Hermitian positive definite A.

    The factor is computed in low precision and the solution refined with FP64 residuals [1]_, [2]_; where that does not
    converge, the next precision of the ladder bf16, bf16x3, fp32, fp64 takes over and goes on from what was found.

    Parameters
    ----------
    a : (n, n) array_like or torch tensor
        Any of LAPACK's four dtypes, or integers. Only the triangle named by ``lower`` is read.
    b : (n,) or (n, m) array_like or torch tensor
    assume_a
        ``"pos"``: positive definite.
    precision
        Where to begin: ``"auto"`` looks at a principal submatrix (`tilewright.linalg.ladder`), and on a CPU leaves out
        bf16x3; ``"bf16"``, ``"fp16"``, ``"tf32"``, ``"bf16x3"``, ``"fp32"``, ``"fp64"``; or a `PrecisionMap`. Complex
        matrices take FP64.
    refine
        ``"cg"``, ``"gmres"`` (restarted after 30 steps), ``"classical"``, or ``"auto"``: conjugate gradients, then
        nested refinement if steps run out, then GMRES if that ends close to the goal, with the same factor;
        ``"nested"`` is conjugate gradients in FP32 between FP64 residuals. FP64 factors are refined classically.
    fallback
        Go on to the next precision. Without it `AccuracyError` says what happened.
    check_finite
        Look for NaN and infinities in a and b.
    check_symmetric
        Compare the two triangles of a.
    tile_size
        Rows of a tile; chosen by default.
    backend, scheduler, workers, options
        See `tilewright.run`.
    return_info
        Also return the `SolveInfo`.

    Returns
    -------
    x
        Of the shape of b, float64 or complex128; a tensor if a or b is one. CUDA tensors stay on their device.
    info : SolveInfo
        Only with ``return_info``.

    Raises
    ------
    NotPositiveDefiniteError
        The FP64 factorisation found a leading minor that is not positive definite; ``.order`` is LAPACK's info. Low
        precisions never decide that.
    AccuracyError
        Some right-hand side has a backward error above n u, u = 2^-53. A `numpy.linalg.LinAlgError` with ``.info`` and
        the best ``.x``.
    ValueError
        Shapes that do not fit, NaN or infinities, triangles that differ, an unknown name.
    TypeError
        A dtype that is none of LAPACK's four and no integer.

    Notes
    -----
    The promise: ||b - A x||_inf <= n u (||A||_inf ||x||_inf + ||b||_inf) for every right-hand side, or an exception.
    Refinement stops at LAPACK's criterion, ||r||_inf <= sqrt(n) u ||A||_inf ||x||_inf. n^3/3 flops in low precision, 2
    n^2 in FP64 and as many in low precision per iteration and right-hand side. The bits of x depend on the matrix, the
    tile size and the kernels in use, not on engine, scheduler and workers.

    References
    ----------
    .. [1] LAPACK dsposv.
    .. [2] N. Higham, S. Pranesh, Exploiting lower precision arithmetic in solving symmetric positive definite linear
       systems and least squares problems, SISC 43 (2021).

    Examples
    --------
    >>> import numpy as np, tilewright as tw
    >>> x, info = tw.solve([[4.0, 2.0], [2.0, 5.0]], [2.0, 5.0], return_info=True)
    >>> x
    array([0., 1.])
    >>> info.precision, info.code >= 0
    ('fp64', True)
    """
    began = perf_counter()
    _check_names(assume_a, precision, refine)
    if is_device_tensor(a):
        from tilewright.linalg.device_solve import DeviceProblem

        stage = Stage(backend, scheduler, workers, options)
        device = DeviceProblem(
            a, b, precision, refine, fallback, check_finite, check_symmetric, lower, tile_size, stage
        )  # fmt: skip
        x, info = _finished(device, began)
        shape = np.shape(b)
        return (x.reshape(shape), info) if return_info else x.reshape(shape)
    stage = Stage(backend, scheduler, workers, {k: v for k, v in options.items() if k not in ("root", "gather")})
    outer = Stage(backend, scheduler, workers, options).site
    given = a
    a, b = outer.everywhere(outer.argument(a)), outer.everywhere(outer.argument(b))
    with outer.agreement() as facts:
        matrix = Matrix(a, lower=lower, overwrite=False)
        columns = RightHandSide(b, matrix.n)
        facts.update(a=(matrix.n, str(matrix.dtype)), b=columns.shape, precision=str(precision), refine=refine)
    array = matrix.array.to_numpy() if matrix.tiled else matrix.array
    if matrix.tiled and not lower:
        array = array.T
    kind = np.dtype(np.complex128 if "c" in (matrix.dtype.kind, columns.columns.dtype.kind) else np.float64)
    real = np.dtype(np.float64) if matrix.dtype.kind != "c" else np.dtype(np.complex128)
    right = columns.columns.astype(kind)
    if not lower and matrix.dtype.kind == "c":
        right = right.conj()  # the lower triangle of A^T is that of conj(A)
    if real != kind:  # real and imaginary parts are right-hand sides of a real system
        right = np.concatenate([right.real, right.imag], axis=1)
    problem = Problem(
        array.astype(real, copy=False), right, precision, refine, fallback, check_finite, lower, tile_size, stage
    )
    if check_symmetric:
        with problem.timed("check"):
            _check_symmetric(problem.A, stage)
    x, info = _finished(problem, began)
    if real != kind:
        x = x[:, : x.shape[1] // 2] + 1j * x[:, x.shape[1] // 2 :]
    if not lower and matrix.dtype.kind == "c":
        x = x.conj()
    info.right_hand_sides = columns.columns.shape[1]
    solution = outer.result(columns.result(x, given))
    return (solution, info) if return_info else solution


def _finished(problem: Problem, began: float) -> tuple[Any, SolveInfo]:
    """The solution and how it was found; an exception that says why there is none has that as well."""
    try:
        x = problem.solve()
    except (AccuracyError, NotPositiveDefiniteError) as error:
        error.info = problem.finish(began)  # type: ignore[union-attr]
        raise
    return x, problem.finish(began)


def _check_names(assume_a: str, precision: Any, refine: str) -> None:
    if assume_a != "pos":
        raise ValueError(f"assume_a must be 'pos', not {assume_a!r}: only positive definite systems are solved")
    if isinstance(precision, str) and precision not in ("auto", *ladder.ROUNDOFF):
        raise ValueError(f"unknown precision {precision!r}; known: auto, {', '.join(ladder.ROUNDOFF)}")
    if refine not in ("auto", "nested", *METHODS):
        raise ValueError(f"unknown refinement {refine!r}; known: auto, nested, {', '.join(METHODS)}")


class Problem:
    """One system on its way up the ladder."""

    a: Any  # arrays here, tensors on a device
    b: Any

    def __init__(
        self, a: np.ndarray, b: np.ndarray, precision: Any, refine: str, fallback: bool, check_finite: bool,
        lower: bool, tile_size: int | None, stage: Stage,
    ) -> None:  # fmt: skip
        self.n, self.stage = len(a), stage
        self.precision, self.refine, self.fallback = precision, refine, fallback
        self.check_finite, self.lower = check_finite, lower
        self.given_tile_size = tile_size
        self.tile_size = tile_size or cholesky_tile_size(self.n, stage.site.workers(stage.workers))
        self.a, self.b = a, b
        self.A = TiledMatrix.view(a, self.tile_size)
        self.info = SolveInfo(self.n, b.shape[1], str(b.dtype))
        self.system: System | None = None

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.info.times[name] = self.info.times.get(name, 0.0) + perf_counter() - start

    def finish(self, began: float) -> SolveInfo:
        info, system = self.info, self.system
        if system is not None:
            info.backward_errors = system.backward_errors
            info.criterion, info.hpl_mxp_residual = system.excess, system.hpl
            info.residuals = system.residuals
        info.messages, info.bytes = info.messages + self.stage.messages, info.bytes + self.stage.bytes
        info.times["total"] = perf_counter() - began
        return info

    # -------------------------------------------------------------- preparing

    def solve(self) -> np.ndarray:
        if not self.b.size:
            return self.b
        with self.timed("check"):
            exponent = self._exponent()
            _, shifts = np.frexp(np.abs(self.b).max(axis=0))
            right = np.ldexp(self.b, -shifts) if self.b.dtype.kind != "c" else self.b * np.ldexp(1.0, -shifts)
        rungs = self._rungs()
        self.system = system = System(self.A, right, self.stage)
        self._climb(system, rungs)
        with np.errstate(over="ignore", under="ignore"):
            scale = shifts - exponent
            x = np.ldexp(system.x, scale) if system.x.dtype.kind != "c" else system.x * np.ldexp(1.0, scale)
        if not np.isfinite(x).all():
            raise AccuracyError("the solution overflows: its largest entries are beyond 1.8e308", self.info)
        return x

    def _exponent(self) -> int:
        """k of the matrix times 2^-k, which is what is solved with; 0 unless numbers are extreme.

        The largest element of a positive definite matrix is on its diagonal.
        """
        if self.check_finite and not np.isfinite(self.b).all():
            place = ", ".join(map(str, np.argwhere(~np.isfinite(self.b))[0]))
            raise ValueError(f"b has a NaN or infinity at ({place}); check_finite=False skips this check")
        top = float(np.abs(self.a.diagonal()).max())
        largest = frexp(top)[1]
        if not np.isfinite(top) or top == 0 or abs(largest) < _HUGE:
            return 0
        self.a = np.ldexp(self.a, -largest) if self.a.dtype.kind != "c" else self.a * 2.0**-largest
        self.A = TiledMatrix.view(self.a, self.tile_size)
        return largest

    def _look(self, system: System) -> None:
        """ValueError if the matrix has a NaN or an infinity; nothing to do once its norm is known."""
        if self.check_finite and not system.measured:
            check_finite_lower(self.A, self.stage.site.workers(self.stage.workers), self.lower)

    def _measure(self, system: System, sums: np.ndarray | None = None) -> None:
        """Tell the system ||A||_inf: from the row sums of |A|, by a pass of its own if nobody has added them up."""
        if system.measured:
            return
        norm = float(sums.max()) if sums is not None else np.nan
        if not np.isfinite(norm):
            with self.timed("check"):
                norm = float(row_sums(self.A, self.stage).max())
                if not np.isfinite(norm):
                    self._look(system)
        system.norm, system.measured = norm, True

    def _rungs(self) -> tuple[Any, ...]:
        """What to try in turn."""
        if "complex" in str(self.a.dtype):
            return ("fp64",)
        if self.precision != "auto":
            if not isinstance(self.precision, str):
                return (self.precision, *ladder.RUNGS[1:]) if self.fallback else (self.precision,)
            return ladder.rungs_from(self.precision, self.fallback)
        if self.n < ladder.SMALL:
            return ("fp64",)
        with self.timed("estimate"):
            self.info.estimate = self._estimate()
        available = ladder.ON_CPU if isinstance(self.a, np.ndarray) else ladder.RUNGS
        return ladder.rungs_from(self.info.estimate.rung, self.fallback, available)

    def _estimate(self) -> Estimate:
        return ladder.estimate(self.a)

    # -------------------------------------------------------------- climbing

    def _climb(self, system: System, rungs: tuple[Any, ...]) -> None:
        """Try the rungs until LAPACK's criterion holds; FP64 is content with a backward error of n u."""
        indefinite = False
        for rung in rungs:
            if indefinite and rung != "fp64" and "fp64" in rungs:
                continue  # only FP64 may say so
            if rung == "fp64":
                self._exact(system)
                return
            attempt = self._attempt(system, rung)
            self.info.path += (attempt,)
            if attempt.status == "converged":
                return
            indefinite = attempt.status == "indefinite"
        last = self.info.path[-1]
        raise AccuracyError(
            f"no solution with FP64 accuracy: {last}{'; ' * bool(last.reason)}{last.reason}; fallback=True would go on",
            self.info, system.x,
        )  # fmt: skip

    def _attempt(self, system: System, rung: Any) -> Attempt:
        """Factor in one low precision and refine."""
        name = rung if isinstance(rung, str) else "map"
        try:
            with self.timed("factor"):
                factor = self._factor(rung)
        except NotPositiveDefiniteError as error:
            return Attempt(name, "breakdown", order=error.order, reason=str(error))
        except OverflowError as error:
            return Attempt(name, "overflow", reason=str(error))
        except ValueError as error:
            self._look(system)
            if name not in ladder.ROUNDOFF or not self.fallback:
                raise
            return Attempt(name, "unavailable", reason=str(error))
        self.info.precision_map, self.info.factor_run = factor.precision_map, factor.run
        self.info.messages += factor.run.messages
        self.info.bytes += factor.run.bytes
        self._measure(system, factor.row_sums)
        with self.timed("refine"):
            narrow = {} if factor.precision == "bf16" and factor.narrow is None else factor.narrow
            system.use(factor.L, factor.scale, factor.tile_size, narrow)
            outcomes = list(self._refine(system))
        return Attempt(
            name, outcomes[-1].status, sum(outcome.iterations for outcome in outcomes),
            "+".join(outcome.method for outcome in outcomes), shift=factor.shift,
        )  # fmt: skip

    def _factor(self, rung: Any) -> Any:
        """A `MixedFactor`. Without a shift where that works: each u of it costs iterations."""
        try:
            return self._mixed(rung, 0.0)
        except NotPositiveDefiniteError:
            if self.precision == "auto" and rung != "fp32":
                raise  # the next rung costs about as much as another attempt, and gives more
            return self._mixed(rung, None)

    def _mixed(self, rung: Any, shift: float | None) -> Any:
        """`mixed_factor` where tasks of this problem run."""
        stage = self.stage
        options = dict(stage.options)
        if isinstance(rung, str):
            options["tile_size"] = self.given_tile_size
        return mixed_factor(
            self.a,
            rung,
            shift=shift,
            norms=True,
            in_tiles=True,
            workers=stage.workers,
            scheduler=stage.scheduler,
            backend=stage.backend,
            **options,
        )

    def _ones(self) -> Any:
        """The scaling of an FP64 factor: none."""
        return np.ones(self.n)

    def _refine(self, system: System) -> Iterator[Outcome]:
        cap = max(ITERATIONS, self.n // 256)
        if self.refine == "nested":
            yield self._nested(system, INNER * cap)
            return
        if self.refine != "auto":
            yield getattr(system, self.refine)(cap)
            return
        outcome = system.cg(cap)
        yield outcome
        if outcome.status == "slow" and outcome.iterations == cap:
            outcome = self._nested(system, INNER * cap)
            yield outcome
        near = system.excess < 1e3 and outcome.status in ("slow", "stalled")
        if near:
            yield system.gmres(RESTART)

    def _nested(self, system: System, cap: int) -> Outcome:
        """Nested refinement, which is for real systems and an FP32 factor."""
        if system.kind != np.float64 or system.data["W"][0].dtype != np.float32:
            return system.cg(cap)
        return nested(system, cap)

    def _exact(self, system: System) -> None:
        """Factor and solve in FP64."""
        stage = self.stage
        self._measure(system)
        with self.timed("factor"):
            L, run = tiled_cholesky(
                self.a, tile_size=self.given_tile_size, backend=stage.backend, scheduler=stage.scheduler,
                workers=stage.workers, check_finite=False, return_run=True, **stage.options,
            )  # fmt: skip
        self.info.factor_run = run
        self.info.messages += run.messages
        self.info.bytes += run.bytes
        with self.timed("refine"):
            system.use(L, self._ones())
            outcome = system.classical(ITERATIONS)
        accepted = bool((system.backward_errors <= max(self.n, 1) * U).all())
        status = "converged" if accepted else outcome.status
        self.info.path += (Attempt("fp64", status, outcome.iterations, outcome.method),)
        if not accepted:
            raise AccuracyError(
                f"no solution with FP64 accuracy: the backward error is {system.backward_errors.max():.2e} "
                f"after {outcome.iterations} steps of refinement with an FP64 factor", self.info, system.x,
            )  # fmt: skip


def _check_symmetric(A: TiledMatrix, stage: Stage) -> None:
    """ValueError if the triangles differ by more than n u max|A|. Tile tasks."""
    nt = A.nt
    g = TaskGraph(f"symmetric nt={nt}")
    handles, D = g.handles("A"), g.handles("D")
    for j in range(nt):
        for i in range(j, nt):
            g.insert(OPS["asymmetry"], R(handles[i, j]), R(handles[j, i]), W(D[i, j]))
    differences = {(i, j): np.zeros((2, 1)) for j in range(nt) for i in range(j, nt)}
    Replay(g, {"A": A, "D": differences}, stage)()
    largest = max((float(d[1, 0]) for d in differences.values()), default=0.0)
    bound = A.shape[0] * U * largest
    for (i, j), difference in differences.items():
        if difference[0, 0] > bound:
            apart = np.abs(A[i, j] - A[j, i].conj().T)
            row, column = np.unravel_index(int(np.nanargmax(apart)), apart.shape)
            row, column = int(row) + A.rows(i).start, int(column) + A.columns(j).start
            raise ValueError(f"the matrix is not symmetric: entries ({row}, {column}) and ({column}, {row}) differ")
