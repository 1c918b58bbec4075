"""Pictures of graphs, runs and precision maps."""

from __future__ import annotations

from tilewright.plot.precision import precision_map

__all__ = ["precision_map"]
