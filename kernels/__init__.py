"""Tile kernels: buffers in, buffers changed in place. No tasks, no threads, no graph."""

from tilewright.kernels.blas import NAMES as LIBRARIES
from tilewright.kernels.blas import available
from tilewright.kernels.choice import current, use
from tilewright.kernels.table import Row, lookup, register, rows

__all__ = ["LIBRARIES", "Row", "available", "current", "lookup", "register", "rows", "use"]
