"""The communication half of the lecture: collectives, matrix-vector products and sparse products as task graphs.

Each cost formula is a function (`cost`, `terms`, `lower_bound`, `efficiency`), each algorithm a graph that runs on the
simulator as long as its formula says, and on the other engines for real.
"""

import importlib
from typing import Any

# Modules that have a function of their own name are imported here, so that the name stands for the function.
from tilewright.comm.collectives import allgather, allreduce, broadcast, gather, reduce, reduce_scatter, scatter
from tilewright.comm.cost import best, cost, lower_bound, terms
from tilewright.comm.scaling import efficiency, isoefficiency, weak_efficiency
from tilewright.comm.schedule import schedule

__all__ = [
    "allgather",
    "allreduce",
    "best",
    "broadcast",
    "cost",
    "efficiency",
    "gather",
    "isoefficiency",
    "lower_bound",
    "reduce",
    "reduce_scatter",
    "scaling_study",
    "scatter",
    "schedule",
    "terms",
    "weak_efficiency",
]

_HOMES = {"scaling_study": "tilewright.studies.scaling"}
"""Public name: the module above this room that has it, imported when the name is first used."""

_MODULES = ("closure", "domains", "neighbours", "partition")  # they need SciPy


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"tilewright.comm.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tilewright.comm' has no attribute {name!r}")
