"""One system on its way up the ladder: factor in a precision, refine, and go on with the next where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import zip_longest
from math import frexp, inf
from time import perf_counter
from typing import Any

import numpy as np

from tilewright import rates
from tilewright.errors import AccuracyError, NotPositiveDefiniteError, SingularMatrixError
from tilewright.kernels.scale import scaled
from tilewright.linalg import ladder
from tilewright.linalg.classical import classical
from tilewright.linalg.factor import mixed_factor, tiled_cholesky
from tilewright.linalg.ladder import Estimate
from tilewright.linalg.matrix import check_finite_lower
from tilewright.linalg.operator import row_sums
from tilewright.linalg.refinement import ITERATIONS, refinement
from tilewright.linalg.runner import Runner
from tilewright.linalg.solve_info import Attempt, SolveInfo
from tilewright.linalg.stopping import U
from tilewright.linalg.system import System
from tilewright.linalg.tuning import cholesky_tile_size
from tilewright.rates import Rates
from tilewright.tiles import TiledMatrix

__all__ = ["HUGE", "Problem", "unscaled"]

HUGE = 400  # binary exponent; entries beyond 2^400 or below 2^-400 are brought to about 1 first


def unscaled(
    x: np.ndarray, exponents: np.ndarray, norm: tuple[float, int], b: np.ndarray, info: SolveInfo
) -> np.ndarray:
    """x 2^exponents: the solution for columns b, where x is that of a system of middling size.

    Parameters
    ----------
    x, b
        (n, m).
    exponents
        (m,)
    norm
        ||A||_inf as a number times two to the power of an integer.

    Raises
    ------
    AccuracyError
        The solution overflows; or what underflow took from it breaks the promise,
        ||A|| eta > n u (||A|| ||x|| + ||b||) with half the smallest number eta. That can be only where the largest
        entry of a column is no normal number, and there the first term on the right does not count.
    """
    found, kind = scaled(x, exponents), np.finfo(x.dtype)
    if not np.isfinite(found).all():
        raise AccuracyError(f"the solution overflows: its largest entries are beyond {kind.max:.1e}", info)
    size = np.log2(max(norm[0], float(np.finfo(np.float64).tiny))) + norm[1]
    for k in np.flatnonzero(np.abs(found).max(axis=0, initial=0) < kind.tiny):
        if not np.array_equal(scaled(found[:, k], -exponents[k]), x[:, k]):
            right = float(np.abs(b[:, k]).max())
            least = np.log2(len(x) * float(kind.eps) / 2) + np.log2(right) if right else np.inf
            if size + kind.minexp - kind.nmant - 1 > least or not right:
                what = f"the solution underflows: its largest entries are below {kind.tiny:.1e}"
                raise AccuracyError(what, info, found)
    return found


class Problem:
    """One system on its way up the ladder."""

    a: Any  # arrays here, tensors on a device
    b: Any
    doubtful = "indefinite"
    """What an attempt in low precision may end with that only FP64 may say."""
    answer: Any = None
    """The solution, where it was found without the system."""

    def __init__(
        self,
        a: np.ndarray,
        b: np.ndarray,
        precision: Any,
        refine: str,
        fallback: bool,
        check_finite: bool,
        lower: bool,
        tile_size: int | None,
        runner: Runner,
    ) -> None:
        self.n, self.runner = len(a), runner
        self.precision, self.refine, self.fallback = precision, refine, fallback
        self.check_finite, self.lower = check_finite, lower
        self.given_tile_size = tile_size
        self.tile_size = tile_size or cholesky_tile_size(self.n, runner.engine.workers(runner.workers))
        self.a, self.b = a, b
        self.A = TiledMatrix.view(a, self.tile_size)
        self.info = SolveInfo(self.n, b.shape[1], str(b.dtype))
        self.system: System | None = None

    def _new_system(self, right: np.ndarray) -> System:
        return System(self.A, right, self.runner)

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
        info.messages, info.bytes = info.messages + self.runner.messages, info.bytes + self.runner.bytes
        info.times["total"] = perf_counter() - began
        return info

    # -------------------------------------------------------------- preparing

    def solve(self) -> np.ndarray:
        if not self.b.size:
            return self.b
        with self.timed("check"):
            exponent = self._exponent()
            _, shifts = np.frexp(np.abs(self.b).max(axis=0))
            right = scaled(self.b, -shifts)
        rungs = self._rungs()
        self.system = system = self._new_system(right)
        self._climb(system, rungs)
        if self.answer is not None:
            return self.answer
        return unscaled(system.x, shifts - exponent, (system.norm, exponent), self.b, self.info)

    def _exponent(self) -> int:
        """k of the matrix times 2^-k, which is what is solved with; 0 unless numbers are extreme.

        The largest element of a positive definite matrix is on its diagonal.
        """
        self._look_at_b()
        top = float(np.abs(self.a.diagonal()).max())
        largest = frexp(top)[1]
        if not np.isfinite(top) or top == 0 or abs(largest) < HUGE:
            return 0
        self.a = scaled(self.a, -largest)
        self.A = TiledMatrix.view(self.a, self.tile_size)
        return largest

    def _look_at_b(self) -> None:
        """ValueError if b has a NaN or an infinity."""
        if self.check_finite and not np.isfinite(self.b).all():
            place = ", ".join(map(str, np.argwhere(~np.isfinite(self.b))[0]))
            raise ValueError(f"b has a NaN or infinity at ({place}); check_finite=False skips this check")

    def _look(self, system: System) -> None:
        """ValueError if the matrix has a NaN or an infinity; nothing to do once its norm is known."""
        if self.check_finite and not system.measured:
            check_finite_lower(self.A, self.runner.engine.workers(self.runner.workers), self.lower)

    def _measure(self, system: System, sums: np.ndarray | None = None) -> None:
        """Tell the system ||A||_inf: from the row sums of |A|, by a pass of its own if nobody has added them up."""
        if system.measured:
            return
        norm = float(sums.max()) if sums is not None else np.nan
        if not np.isfinite(norm):
            with self.timed("check"):
                norm = float(row_sums(self.A, self.runner).max())
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
            self.info.estimate = self._start(self._estimate())
        available = ladder.ON_CPU if isinstance(self.a, np.ndarray) else ladder.RUNGS
        return ladder.rungs_from(self.info.estimate.rung, self.fallback, available)

    def _estimate(self) -> Estimate:
        return ladder.estimate(self.a)

    def _start(self, guess: Estimate) -> Estimate:
        """The same with the rung that takes the least time here."""
        return ladder.cheapest(guess, self.n, self.workers, self.rates)

    @cached_property
    def workers(self) -> int:
        return self.runner.engine.workers(self.runner.workers)

    @cached_property
    def rates(self) -> Rates:
        """The rates of this computer, or of the first rank's where there are several."""
        return self.runner.engine.agreed(rates.current())

    # -------------------------------------------------------------- climbing

    def _climb(self, system: System, rungs: tuple[Any, ...]) -> None:
        """Try the rungs until LAPACK's criterion holds; FP64 is content with a backward error of n u."""
        indefinite = False
        for rung, above in zip_longest(rungs, rungs[1:]):
            if indefinite and rung != "fp64" and "fp64" in rungs:
                continue  # only FP64 may say so
            if rung == "fp64":
                self._exact(system)
                return
            attempt = self._attempt(system, rung, self._price(above, rung))
            self.info.path += (attempt,)
            if attempt.status == "converged":
                return
            indefinite = attempt.status == self.doubtful
        last = self.info.path[-1]
        raise AccuracyError(
            f"no solution with FP64 accuracy: {last}{'; ' * bool(last.reason)}{last.reason}; fallback=True would go on",
            self.info,
            system.x,
        )

    def _price(self, rung: str | None, below: Any) -> float:
        """In steps with the factor that is there; infinite if there is no next rung."""
        if rung is None:
            return inf
        return ladder.price(rung, below if isinstance(below, str) else "fp32", self.n, self.workers, self.rates)

    def _attempt(self, system: System, rung: Any, worth: float) -> Attempt:
        """Factor in one low precision and refine, unless the next one, that is ``worth`` so many steps, is quicker."""
        name = rung if isinstance(rung, str) else "map"
        try:
            with self.timed("factor"):
                factor = self._factor(rung)
        except NotPositiveDefiniteError as error:
            return Attempt(name, "breakdown", order=error.order, reason=str(error))
        except SingularMatrixError as error:
            return Attempt(name, "breakdown", method="lu", order=error.index + 1, reason=str(error))
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
            self._take(system, factor)
            outcomes = list(refinement(system, self.refine, worth))
        return Attempt(
            name,
            outcomes[-1].status,
            sum(outcome.iterations for outcome in outcomes),
            "+".join(outcome.method for outcome in outcomes),
            shift=factor.shift,
        )

    def _take(self, system: System, factor: Any) -> None:
        """Let the system have the factor."""
        narrow = {} if factor.narrow_pays and factor.narrow is None else factor.narrow
        L = factor.array if factor.tiles is None else factor.tiles
        system.use(L, factor.scale, factor.tile_size, narrow)

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
        runner = self.runner
        options = dict(runner.options)
        if isinstance(rung, str):
            options["tile_size"] = self.given_tile_size
        return mixed_factor(
            self.a,
            rung,
            shift=shift,
            norms=True,
            in_tiles=True,
            workers=runner.workers,
            scheduler=runner.scheduler,
            backend=runner.backend,
            progress=runner.progress,
            **options,
        )

    def _ones(self) -> Any:
        """The scaling of an FP64 factor: none."""
        return np.ones(self.n)

    def _exact(self, system: System) -> None:
        """Factor and solve in FP64."""
        runner = self.runner
        self._measure(system)
        with self.timed("factor"):
            L, run = tiled_cholesky(
                self.a,
                tile_size=self.given_tile_size,
                backend=runner.backend,
                scheduler=runner.scheduler,
                workers=runner.workers,
                check_finite=False,
                return_run=True,
                progress=runner.progress,
                **runner.options,
            )
        self.info.factor_run = run
        self.info.messages += run.messages
        self.info.bytes += run.bytes
        with self.timed("refine"):
            system.use(L, self._ones())
            outcome = classical(system, ITERATIONS)
        accepted = bool((system.backward_errors <= max(self.n, 1) * U).all())
        status = "converged" if accepted else outcome.status
        self.info.path += (Attempt("fp64", status, outcome.iterations, outcome.method),)
        if not accepted:
            raise AccuracyError(
                f"no solution with FP64 accuracy: the backward error is {system.backward_errors.max():.2e} "
                f"after {outcome.iterations} steps of refinement with an FP64 factor",
                self.info,
                system.x,
            )
