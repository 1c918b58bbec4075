"""What 16 bits do to numbers: overflow, underflow, and what scaling is for. Computed, not told.

The notebook is *Lab 2.1.4: Mixed Precision Training - Speed Up with AMP*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tilewright.precision import FORMATS, Format

__all__ = ["Demonstration", "demonstrations", "format_rows"]

SCALE = 2.0**16


class Demonstration(NamedTuple):
    """One computation in four formats, every step rounded."""

    topic: str
    expression: str
    results: dict[str, float]
    """By format name."""
    note: str


def format_rows() -> list[dict[str, Any]]:
    """The table of formats as plain data."""
    return [
        {
            "format": f.name,
            "bits": f.bits,
            "digits": f.digits,
            "u": f.u,
            "eps": f.eps,
            "max": f.max,
            "tiny": f.tiny,
            "smallest": f.smallest,
            "products into": f.accumulate,
        }
        for f in FORMATS.values()
    ]


def demonstrations(formats: tuple[str, ...] = ("fp64", "fp32", "bf16", "fp16")) -> list[Demonstration]:
    """The three of the notebook, with the scaling one done right.

    A gradient of 1e-5 is multiplied twice by itself. Its cube, 1e-15, is below the smallest FP16 number, 6e-8.
    Scaled by 2^16 first, the cube is 0.28 and fits; but it has to be divided by 2^48 in FP32. Divided in FP16
    it is zero again.
    """

    def table(topic: str, expression: str, compute: Callable[[Format], float], note: str) -> Demonstration:
        return Demonstration(topic, expression, {name: compute(FORMATS[name]) for name in formats}, note)

    def cube(f: Format, x: float) -> float:
        x = float(f.round(x))
        return float(f.round(float(f.round(x * x)) * x))

    return [
        table("overflow", "70000", lambda f: float(f.round(70000.0)),
              "FP16 ends at 65504; BF16 has the range of FP32, and rounds to 8 bits"),
        table("overflow", "300 * 300", lambda f: float(f.round(float(f.round(300.0)) ** 2)),
              "each factor fits FP16, their product does not"),
        table("underflow", "1e-8", lambda f: float(f.round(1e-8)), "below half the smallest FP16 number"),
        table("underflow", "(1e-5)^3", lambda f: cube(f, 1e-5), "every product is rounded"),
        table("scaling", "(2^16 1e-5)^3 / 2^48, divided in the format",
              lambda f: float(f.round(cube(f, SCALE * float(f.round(1e-5))) / SCALE**3)),
              "what the notebook does: the quotient underflows again"),
        table("scaling", "(2^16 1e-5)^3 / 2^48, divided in FP32",
              lambda f: float(FORMATS["fp32" if f.name != "fp64" else "fp64"].round(
                  cube(f, SCALE * float(f.round(1e-5))) / SCALE**3)),
              "unscale after the conversion to FP32: preserved"),
    ]  # fmt: skip
