"""Ops on blocks of vectors, for refinement. Their kernels are in `tilewright.kernels.vectors`."""

from __future__ import annotations

from tilewright.graph import Op
from tilewright.kernels.vectors import KERNELS

__all__ = ["OPS"]

OPS = {name: Op(name, weight=0) for name in KERNELS}
"""By the name of the kernel."""
