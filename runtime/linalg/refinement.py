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
from tilewright.linalg.structure import General
from tilewright.linalg.system import System

__all__ = ["FOR_GENERAL", "ITERATIONS", "METHODS", "refinement"]

ITERATIONS = 30
"""LAPACK's limit for refinement."""

INNER = 2
"""Nested refinement takes its steps in FP32, and may take so many times as many of them as others in FP64."""

PATIENCE = 5
"""Steps of classical refinement of a general system that may be left after two; with more GMRES takes over."""

METHODS: dict[str, Callable[[System, int], Stop]] = {
    "cg": cg,
    "gmres": gmres,
    "classical": classical,
    "nested": lambda system, cap: _nested(system, INNER * cap),
}
"""method(system, most steps)"""

FOR_GENERAL = ("gmres", "classical")
"""Those that do not ask for a positive definite matrix."""


def refinement(system: System, method: str = "auto", worth: float = inf) -> Iterator[Stop]:
    """Refine until LAPACK's criterion holds for all right-hand sides, or until this factor does not seem to lead there.

    Parameters
    ----------
    system
        With a factor to use. What was found is in its x and r, also where no method converged.
    method
        One of `METHODS`, or ``"auto"``: conjugate gradients, then nested refinement if steps run out, then GMRES if
        that ends close to the goal. For general systems classical refinement, then GMRES where that is slow.
    worth
        For ``"auto"``: what the solution costs with the next factor, in steps with this one.

    Yields
    ------
    Stop
        How each method that had its turn ended.
    """
    cap = max(ITERATIONS, system.n // 256)
    if method != "auto":
        yield METHODS[method](system, cap)
        return
    if isinstance(system.structure, General):
        yield from _general(system, cap, worth)
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


def _general(system: System, cap: int, worth: float) -> Iterator[Stop]:
    """Classical refinement, and GMRES from where that got to unless the next factor is quicker."""
    outcome = classical(system, cap, PATIENCE)
    yield outcome
    if not outcome.converged and cap > outcome.iterations:
        system.settle()
        yield gmres(system, cap - outcome.iterations, worth)
