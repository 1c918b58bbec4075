"""Where matplotlib begins: figures on no screen, or one sentence if it is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tilewright.extras import brings
from tilewright.host.files import replacing
from tilewright.runs.text import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_matplotlib", "drawn", "new_figure", "save"]


def check_matplotlib(what: str) -> None:
    """ImportError, in a sentence that says what to do, if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401  whether it is there is the question
    except ImportError as error:
        raise ImportError(f"{what} needs matplotlib; {brings('plot')}") from error


def new_figure(what: str, width: float, height: float, *, dpi: float | None = None) -> Figure:
    """An empty figure of so many inches, laid out by constraints. ImportError that names ``what`` cannot be drawn."""
    check_matplotlib(what)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def drawn(text: str) -> str:
    """A user's name as matplotlib draws it: on one line, and no formula where it has dollars."""
    return " ".join(shown(text).translate(_NO_GLYPHS).split()).replace("$", r"\$")


_NO_GLYPHS = dict.fromkeys(range(0x2400, 0x2427), "\ufffd")  # its font has no signs for control characters


def save(figure: Figure, path: str | Path | BinaryIO, **options: Any) -> None:
    """Write a figure, whole or not at all; a path without a suffix becomes a PNG's, as matplotlib has it."""
    if not isinstance(path, str | Path):
        figure.savefig(path, **options)
        return
    with replacing(path if Path(path).suffix else f"{path}.png") as aside:
        figure.savefig(aside, **options)
