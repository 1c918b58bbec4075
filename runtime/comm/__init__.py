"""The communication half of the lecture: collectives, matrix-vector products and sparse products as task graphs.

Each cost formula is a function (`cost`, `terms`, `lower_bound`, `efficiency`), each algorithm a graph that runs on the
simulator as long as its formula says, and on the other engines for real.

The lecture is V. Eijkhout's *Parallel scalability*.
"""

import importlib
from typing import TYPE_CHECKING

from tilewright.comm.collectives import allgather, allreduce, broadcast, gather, reduce, reduce_scatter, scatter
from tilewright.comm.cost import best, cost, lower_bound, terms
from tilewright.comm.matvec_graph import matvec_graph
from tilewright.comm.scaling import efficiency, isoefficiency, weak_efficiency
from tilewright.comm.schedule import schedule

# Modules that have a function of their own name are imported here, so that the name stands for the function.
from tilewright.door import upstairs

if TYPE_CHECKING:
    from tilewright.comm import closure as closure
    from tilewright.comm import domains as domains
    from tilewright.comm import neighbours as neighbours
    from tilewright.comm import partition as partition
    from tilewright.studies.scaling import scaling_study

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
    "matvec_graph",
    "reduce",
    "reduce_scatter",
    "scaling_study",
    "scatter",
    "schedule",
    "terms",
    "weak_efficiency",
]

_MODULES = ("closure", "domains", "neighbours", "partition")  # they need SciPy

if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _MODULES:
            return importlib.import_module(f"tilewright.comm.{name}")
        if name == "scaling_study":
            return upstairs("studies.scaling:scaling_study")
        raise AttributeError(f"module 'tilewright.comm' has no attribute {name!r}")
