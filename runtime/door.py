"""The one door upwards: a graph, a run or a study that is asked to draw, save or measure finds here who can.

Modules import only from rooms below their own (`tests/test_floors.py` reads every import). What is convenient to ask of
an object and lives above it has its name in this table; it is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["DOOR", "upstairs"]

DOOR = frozenset(
    {
        # a graph, as loops
        "passes.loops:recorded",
        # a graph, drawn
        "plot.dag:LIMIT",
        "plot.dag:to_dot",
        "plot.dag:to_png",
        "plot.dag:to_svg",
        "plot.html:graph_frame",
        "plot.html:graph_page",
        # a run, drawn, saved, told
        "plot.gantt:gantt",
        "plot.gantt:svg",
        "plot.html:run_frame",
        "plot.html:run_page",
        "runs.saved:save",
        "runs.text:text",
        "runs.text:unit_name",
        "runs.validity:check",
        # a run while it goes on
        "plot.live:LivePage",
        # what else a notebook shows
        "plot.cards:machine",
        "plot.cards:precision_map",
        "plot.cards:text",
        "plot.cards:tiles",
        "plot.cards:trace",
        # studies and trainings, drawn
        "plot.compare:figure",
        "plot.html:comparison_page",
        "plot.html:comparison_table",
        "plot.scaling:figure",
        "plot.training:figure",
        "plot.training:page",
        # a matrix, in formulas
        "linalg.evaluate:assign",
        "linalg.evaluate:compute",
        "linalg.evaluate:graph_of",
        "linalg.evaluate:norm_of",
        "linalg.expression:lazy",
        # constructors that need a run
        "linalg.norms:tile_norms",
        "studies.calibration:calibrate",
        # public names of a lower room
        "studies.scaling:scaling_study",
    }
)
"""``room.module:name`` of everything that a module below may ask for."""


def upstairs(name: str) -> Any:
    """The object of that name. KeyError for a name that is not in `DOOR`."""
    if name not in DOOR:
        raise KeyError(f"{name} is not in the table of {__name__}")
    module, attribute = name.split(":")
    return getattr(importlib.import_module(f"tilewright.{module}"), attribute)
