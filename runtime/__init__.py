"""tilewright: write a linear-algebra algorithm once, as a loop over tiles; run its task graph on any engine.

>>> import numpy as np, tilewright as tw
>>> A = np.array([[4.0, 2.0], [2.0, 5.0]])
>>> tw.tiled_cholesky(A)
array([[2., 0.],
       [1., 2.]])
"""

import os as _os

TYPE_CHECKING = False  # as type checkers know it; the module typing would be found in the current folder by `python -m`

if TYPE_CHECKING:
    from tilewright import comm, linalg, plot
    from tilewright import training as training  # not in __all__: `from tilewright import *` needs no torch
    from tilewright.backends import BACKENDS, mpi
    from tilewright.comm.matvec import DenseOperator, matvec
    from tilewright.comm.solve import cg
    from tilewright.comm.sparse import SparseOperator
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
    from tilewright.studies.imported import read_graph
    from tilewright.studies.schedulers import compare_schedulers
    from tilewright.tiles import Store, TiledMatrix

    __version__: str

# An MKL that has not computed yet keeps to one way of computing: tilewright/kernels/blas.py says why.
_os.environ.setdefault("MKL_CBWR", "AUTO")

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
    "tri_inverse",
    "trmm",
    "trmm_graph",
    "trsm",
    "trsm_graph",
]

# Names are imported when they are first used, so that `import tilewright` costs next to nothing. By module of
# `tilewright`, the names that it has here; they stand above as well, for type checkers.
_HOMES = {
    "backends": "BACKENDS mpi",
    "comm.matvec": "DenseOperator matvec",
    "comm.solve": "cg",
    "comm.sparse": "SparseOperator",
    "distribution": "BlockCyclic Distribution RowBlocks SymmetricBlockCyclic",
    "engine": "run simulate",
    "errors": "AccuracyError AccuracyWarning MissingDataError NotPositiveDefiniteError RankDied SchedulerError "
    "SingularMatrixError WorkerDied",
    "graph": "RW Access CriticalPath Handle Op R Task TaskGraph W",
    "linalg.cho_solve": "cho_inverse cho_solve logdet",
    "linalg.cholesky": "cholesky_graph",
    "linalg.eigen": "eigh eigvalsh",
    "linalg.evaluate": "compute",
    "linalg.expression": "Expression lazy",
    "linalg.factor": "tiled_cholesky",
    "linalg.gallery": "random_spd",
    "linalg.level3": "gemm_graph lauum_graph potri_graph syrk_graph trmm_graph trsm_graph",
    "linalg.level3_calls": "gemm herk lauum potri syrk trmm trsm",
    "linalg.lowrank": "svd_lowrank",
    "linalg.lstsq": "lstsq",
    "linalg.lu": "LUFactor lu lu_factor lu_solve",
    "linalg.lu_graph": "lu_graph",
    "linalg.matrix_norms": "cond norm",
    "linalg.plan": "Plan plan",
    "linalg.polar": "polar",
    "linalg.qr": "QRFactor qr qr_factor",
    "linalg.qr_graph": "qr_graph",
    "linalg.solve": "SolveInfo solve",
    "linalg.stacks": "det inv slogdet",
    "linalg.svd": "svd svdvals",
    "linalg.triangular": "tri_inverse",
    "machine": "Machine",
    "passes.bounds": "Bounds bounds",
    "passes.messages": "Message MessagePlan",
    "precision": "FORMATS PrecisionMap",
    "resident": "Prepared Resident prepare",
    "runs.run": "Run",
    "runs.trace": "MessageRecord TaskRecord Trace",
    "schedulers": "SCHEDULERS Policy",
    "storage.checkpoint": "CheckpointError",
    "storage.function": "TileFunction",
    "studies.contention": "contention_study",
    "studies.engines": "compare_engines",
    "studies.imported": "read_graph",
    "studies.schedulers": "compare_schedulers",
    "tiles": "Store TiledMatrix",
}


if not TYPE_CHECKING:  # else a type checker would take any word for a name of ours

    def __getattr__(name):
        import importlib
        import importlib.util

        home = next((module for module, names in _HOMES.items() if name in names.split()), None)
        if home:
            value = getattr(__import__(f"tilewright.{home}", fromlist=[name]), name)  # from tilewright.home import name
        elif name == "__version__":
            from importlib.metadata import version

            value = version("tilewright")
        elif name.isidentifier() and name[0] != "_" and importlib.util.find_spec(f"tilewright.{name}"):
            value = importlib.import_module(f"tilewright.{name}")
        else:
            raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
        globals()[name] = value  # asked for once
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "training", "__version__"})
