"""tilewright: write a linear-algebra algorithm once, as a loop over tiles; run its task graph on any engine.

>>> import numpy as np, tilewright as tw
>>> A = np.array([[4.0, 2.0], [2.0, 5.0]])
>>> tw.tiled_cholesky(A)
array([[2., 0.],
       [1., 2.]])
"""

from importlib.metadata import version as _version

from tilewright.backends import BACKENDS
from tilewright.backends.simulate import simulate
from tilewright.compare import compare_schedulers
from tilewright.engine import Run, run
from tilewright.errors import MissingDataError, NotPositiveDefiniteError, SchedulerError
from tilewright.graph import RW, Access, CriticalPath, Handle, Op, R, Task, TaskGraph, W
from tilewright.linalg.cholesky import cholesky_graph, tiled_cholesky
from tilewright.machine import Machine
from tilewright.plan import Bounds, bounds
from tilewright.schedulers import SCHEDULERS, Policy
from tilewright.tiles import Store, TiledMatrix
from tilewright.trace import MessageRecord, TaskRecord, Trace

__version__ = _version("tilewright")

__all__ = [
    "BACKENDS",
    "RW",
    "SCHEDULERS",
    "Access",
    "Bounds",
    "CriticalPath",
    "Handle",
    "Machine",
    "MessageRecord",
    "MissingDataError",
    "NotPositiveDefiniteError",
    "Op",
    "Policy",
    "R",
    "Run",
    "SchedulerError",
    "Store",
    "Task",
    "TaskGraph",
    "TaskRecord",
    "TiledMatrix",
    "Trace",
    "W",
    "bounds",
    "cholesky_graph",
    "compare_schedulers",
    "run",
    "simulate",
    "tiled_cholesky",
]
