"""Iterative refinement: an FP64 solution from a factor in any precision, by one method or by several in turn.

Residuals are FP64, the factor is a preconditioner in its own precision; each method is a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from tilewright.linalg.classical import classical
from tilewright.linalg.conjugate_gradients import cg
from tilewright.linalg.gmres import RESTART, gmres
from tilewright.linalg.nested import nested
from tilewright.linalg.stopping import Stop
from tilewright.linalg.system import System

__all__ = ["ITERATIONS", "METHODS", "refinement"]

ITERATIONS = 30
"""LAPACK's limit for refinement."""

INNER = 2
"""Steps in FP32 for one in FP64: of nested refinement there may be as many more."""

METHODS: dict[str, Callable[[System, int], Stop]] = {
    "cg": cg, "gmres": gmres, "classical": classical, "nested": lambda system, cap: _nested(system, INNER * cap),
}  # fmt: skip
"""method(system, most steps)"""


def refinement(system: System, method: str = "auto", worth: float = inf) -> Iterator[Stop]:
    """Refine until LAPACK's criterion holds for all right-hand sides, or until this factor does not seem to lead there.

    Parameters
    ----------
    system
        With a factor to use. What was found is in its x and r, also where no method converged.
    method
        One of `METHODS`, or ``"auto"``: conjugate gradients, then nested refinement if steps run out, then GMRES if
        that ends close to the goal.
    worth
        For ``"auto"``: what the solution costs with the next factor, in steps with this one.

    Yields
    ------
    Stop
        Of each method that had its turn.
    """
    cap = max(ITERATIONS, system.n // 256)
    if method != "auto":
        yield METHODS[method](system, cap)
        return
    outcome = cg(system, cap, worth)
    yield outcome
    if outcome.status == "slow" and outcome.iterations < cap and worth < inf:
        return  # the next factor is quicker
    if outcome.status == "slow" and outcome.iterations == cap:
        outcome = METHODS["nested"](system, cap)
        yield outcome
    near = system.excess < 1e3 and outcome.status in ("slow", "stalled")
    if near:
        yield gmres(system, RESTART)


def _nested(system: System, cap: int) -> Stop:
    """Nested refinement where it can be: for real systems in tiles and an FP32 factor."""
    return nested(system, cap) if system.nests else cg(system, cap)
