"""tilewright: write a linear-algebra algorithm once, as a loop over tiles; run its task graph on any engine.

>>> import numpy as np, tilewright as tw
>>> A = np.array([[4.0, 2.0], [2.0, 5.0]])
>>> tw.tiled_cholesky(A)
array([[2., 0.],
       [1., 2.]])
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _checking  # noqa: N811
from typing import Any as _Any

from tilewright import linalg
from tilewright.backends import BACKENDS
from tilewright.distribution import BlockCyclic, Distribution, RowBlocks, SymmetricBlockCyclic
from tilewright.engine import run, simulate
from tilewright.errors import (
    AccuracyError,
    AccuracyWarning,
    MissingDataError,
    NotPositiveDefiniteError,
    RankDied,
    SchedulerError,
    SingularMatrixError,
    WorkerDied,
)
from tilewright.graph import RW, Access, CriticalPath, Handle, Op, R, Task, TaskGraph, W
from tilewright.linalg.cho_solve import cho_inverse, cho_solve, logdet
from tilewright.linalg.cholesky import cholesky_graph
from tilewright.linalg.eigen import eigh, eigvalsh
from tilewright.linalg.evaluate import compute
from tilewright.linalg.expression import Expression, lazy
from tilewright.linalg.factor import tiled_cholesky
from tilewright.linalg.gallery import random_spd
from tilewright.linalg.level3 import gemm_graph, lauum_graph, potri_graph, syrk_graph, trmm_graph, trsm_graph
from tilewright.linalg.level3_calls import gemm, herk, lauum, potri, syrk, trmm, trsm
from tilewright.linalg.lowrank import svd_lowrank
from tilewright.linalg.lstsq import lstsq
from tilewright.linalg.lu import LUFactor, lu, lu_factor, lu_solve
from tilewright.linalg.lu_graph import lu_graph
from tilewright.linalg.matrix_norms import cond, norm
from tilewright.linalg.plan import Plan, plan
from tilewright.linalg.polar import polar
from tilewright.linalg.qr import QRFactor, qr, qr_factor
from tilewright.linalg.qr_graph import qr_graph
from tilewright.linalg.solve import SolveInfo, solve
from tilewright.linalg.stacks import det, inv, slogdet
from tilewright.linalg.svd import svd, svdvals
from tilewright.linalg.triangular import tri_inverse
from tilewright.machine import Machine
from tilewright.passes.bounds import Bounds, bounds
from tilewright.passes.messages import Message, MessagePlan
from tilewright.precision import FORMATS, PrecisionMap
from tilewright.resident import Prepared, Resident, prepare
from tilewright.runs.run import Run
from tilewright.runs.trace import MessageRecord, TaskRecord, Trace
from tilewright.schedulers import SCHEDULERS, Policy
from tilewright.storage.checkpoint import CheckpointError
from tilewright.storage.function import TileFunction
from tilewright.studies.contention import contention_study
from tilewright.studies.engines import compare_engines
from tilewright.studies.schedulers import compare_schedulers
from tilewright.tiles import Store, TiledMatrix

if _checking:
    from tilewright import comm, plot, training
    from tilewright.backends import mpi
    from tilewright.comm.matvec import DenseOperator, matvec
    from tilewright.comm.solve import cg
    from tilewright.comm.sparse import SparseOperator
    from tilewright.studies.imported import read_graph

__version__ = _version("tilewright")

__all__ = [
    "AccuracyError",
    "AccuracyWarning",
    "BACKENDS",
    "FORMATS",
    "RW",
    "SCHEDULERS",
    "Access",
    "BlockCyclic",
    "Bounds",
    "CheckpointError",
    "CriticalPath",
    "DenseOperator",
    "Distribution",
    "Expression",
    "Handle",
    "LUFactor",
    "Machine",
    "Message",
    "MessagePlan",
    "MessageRecord",
    "MissingDataError",
    "NotPositiveDefiniteError",
    "Op",
    "Plan",
    "Policy",
    "PrecisionMap",
    "Prepared",
    "QRFactor",
    "R",
    "RankDied",
    "Resident",
    "RowBlocks",
    "Run",
    "SchedulerError",
    "SingularMatrixError",
    "SolveInfo",
    "SparseOperator",
    "Store",
    "SymmetricBlockCyclic",
    "Task",
    "TaskGraph",
    "TaskRecord",
    "TileFunction",
    "TiledMatrix",
    "Trace",
    "W",
    "WorkerDied",
    "bounds",
    "cho_inverse",
    "cho_solve",
    "cg",
    "cholesky_graph",
    "comm",
    "compare_engines",
    "contention_study",
    "compare_schedulers",
    "compute",
    "cond",
    "det",
    "gemm",
    "gemm_graph",
    "herk",
    "eigh",
    "eigvalsh",
    "inv",
    "lauum",
    "lauum_graph",
    "lazy",
    "linalg",
    "logdet",
    "lstsq",
    "lu",
    "lu_factor",
    "lu_graph",
    "lu_solve",
    "matvec",
    "mpi",
    "norm",
    "plan",
    "plot",
    "potri",
    "potri_graph",
    "polar",
    "prepare",
    "qr",
    "qr_factor",
    "qr_graph",
    "random_spd",
    "read_graph",
    "run",
    "simulate",
    "slogdet",
    "solve",
    "syrk",
    "syrk_graph",
    "svd",
    "svd_lowrank",
    "svdvals",
    "tiled_cholesky",
    "training",
    "tri_inverse",
    "trmm",
    "trmm_graph",
    "trsm",
    "trsm_graph",
]


# Imported when they are first used, and so are these names of theirs:
_ROOMS = {
    "comm": "tilewright.comm",
    "mpi": "tilewright.backends.mpi",
    "plot": "tilewright.plot",
    "training": "tilewright.training",
}
_NAMES = {
    "DenseOperator": "tilewright.comm.matvec",
    "SparseOperator": "tilewright.comm.sparse",
    "cg": "tilewright.comm.solve",
    "matvec": "tilewright.comm.matvec",
    "read_graph": "tilewright.studies.imported",
}


def __getattr__(name: str) -> _Any:
    import importlib

    if name in _ROOMS:
        return importlib.import_module(_ROOMS[name])
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
