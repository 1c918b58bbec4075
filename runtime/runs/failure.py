"""What a run that failed leaves behind: the engine leaves its trace with the exception, which then has the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilewright.runs.trace import Trace

__all__ = ["leave", "take"]

_LEFT = "_tilewright_left"


def leave(error: BaseException, trace: Trace, task: int) -> None:
    """Let an exception carry the trace of the tasks that ran, and the index of the one that raised it."""
    if 0 <= task < len(trace.graph) and hasattr(error, "__dict__"):
        error.__dict__[_LEFT] = trace, task


def take(error: BaseException) -> tuple[Trace, int] | None:
    """What `leave` left, once."""
    found: tuple[Trace, int] | None = getattr(error, "__dict__", {}).pop(_LEFT, None)
    return found
