"""One colour per op, another palette for causes of idle time; colours and markers of the lines of plots.

The eight colours of Okabe and Ito [1]_ can be told apart with any colour vision. The four ops of Cholesky take
those that also differ in lightness, so that a grey print still shows them; moves of data are grey. Markers tell again
what the colours of lines do.

.. [1] M. Okabe, K. Ito, Color Universal Design (2008).
"""

from __future__ import annotations

from collections.abc import Iterable
from colorsys import hls_to_rgb

__all__ = ["ACCENT", "CAUSES", "LINES", "MARKERS", "colours", "text_on", "wheel"]

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#F0E442")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")

ACCENT = "#000000"
"""For the critical path."""

CAUSES = {
    "startup": "#A98B5D",
    "no_task": "#DDD3BE",
    "data": "#6B4E9B",
    "communication": "#A3195B",
    "overhead": "#7A7A7A",
    "tail": "#C2B08E",
}
"""Colours of idle time (`tilewright.runs.idle`): no colour of an op is among them; hatched beside bars of ops."""

_KNOWN = {
    "potrf": "#D55E00",  # vermillion
    "trsm": "#F0E442",  # yellow
    "syrk": "#56B4E9",  # sky blue
    "gemm": "#0072B2",  # blue
    "copy": "#BBBBBB",
    "convert": "#BBBBBB",
    "split": "#BBBBBB",
    "tf32": "#BBBBBB",
    "scaled": "#BBBBBB",
    "scalen": "#BBBBBB",
    "unscaled": "#BBBBBB",
    "diagonal": "#DDDDDD",
    "tril": "#DDDDDD",
    "zero": "#DDDDDD",
}
_OTHERS = ("#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", "#0072B2")


def colours(ops: Iterable[str]) -> dict[str, str]:
    """``#RRGGBB`` for each op name; ops without a fixed colour take the palette in the order they come.

    Beyond the palette colours go round the wheel, light and dark in turns, so that no two are the same.
    """
    chosen: dict[str, str] = {}
    unknown = 0
    for op in ops:
        if op in chosen:
            continue
        if op in _KNOWN:
            chosen[op] = _KNOWN[op]
        else:
            chosen[op] = _OTHERS[unknown] if unknown < len(_OTHERS) else wheel(unknown - len(_OTHERS))
            unknown += 1
    return chosen


def wheel(place: int) -> str:
    """A colour of an endless sequence: hues a golden section apart.

    >>> len({wheel(place) for place in range(100)})
    100
    """
    red, green, blue = hls_to_rgb((0.08 + place * 0.618034) % 1, (0.40, 0.72, 0.55)[place % 3], 0.45)
    return f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}"


def text_on(colour: str) -> str:
    """Black or white, whichever has more contrast on ``colour`` (relative luminance of WCAG 2)."""
    red, green, blue = (_linear(int(colour[k : k + 2], 16) / 255) for k in (1, 3, 5))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#FFFFFF"


def _linear(channel: float) -> float:
    return float(channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4)
