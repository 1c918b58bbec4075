"""Where matplotlib begins: figures on no screen, or one sentence if it is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_matplotlib", "new_figure"]


def check_matplotlib(what: str) -> None:
    """ImportError, in a sentence that says what to do, if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401  whether it is there is the question
    except ImportError as error:
        raise ImportError(f"{what} needs matplotlib; pip install 'tilewright[plot]' brings it") from error


def new_figure(what: str, width: float, height: float, *, dpi: float | None = None) -> Figure:
    """An empty figure of so many inches, laid out by constraints. ImportError that names ``what`` cannot be drawn."""
    check_matplotlib(what)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")
