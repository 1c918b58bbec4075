"""OpenMP tasks beside our engines: a Cholesky graph as ``#pragma omp task depend`` on the same tiles and the same BLAS.

`openmp.c` is compiled where it is used. A task there is a call of a C function, so graphs of Python functions, and of
kernels in several formats, are not for it.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tilewright import ops
from tilewright.backends.execution.engine import blame
from tilewright.backends.execution.program import Program, check_info
from tilewright.graph import Task
from tilewright.kernels import blas, choice
from tilewright.runs.trace import TaskRecord, Trace
from tilewright.studies.baselines import AbsentError, Baseline

__all__ = ["OpenMP"]

SOURCE = Path(__file__).with_name("openmp.c")
OPS = (ops.potrf, ops.trsm, ops.syrk, ops.gemm)
"""In the order of their numbers in the C file."""

_NUMBERS = ("op", "m", "n", "k", "lda", "ldb", "ldc", "info", "thread")
_FIELDS = np.dtype(
    [(name, np.intc) for name in _NUMBERS] + [(name, np.uintp) for name in "abc"] + [("start", float), ("end", float)],
    align=True,
)


class OpenMP(Baseline):
    """The tasks of OpenMP, on the threads of the compiler's own library. AbsentError without a compiler."""

    name: ClassVar[str] = "openmp"

    def __init__(self) -> None:
        super().__init__()
        self.driver = _driver()

    def carry_out(self, program: Program, workers: int) -> Trace:
        graph = program.graph
        rows = np.zeros(len(graph), _FIELDS)
        for task in graph:
            rows[task.index] = _row(task, [program.store[use.handle] for use in task.uses])
        routines = [_address(op.name) for op in OPS]
        pointer = rows.ctypes.data_as(ctypes.c_void_p)
        failed = self.driver(pointer, ctypes.c_long(len(graph)), ctypes.c_int(workers), *routines)
        if failed:
            task = graph.tasks[failed - 1]
            try:
                check_info(task, program.store, int(rows[task.index]["info"]))
            except Exception as error:
                blame(error, task, task.index, self.name)
                raise
        records = [
            TaskRecord(index, int(row["thread"]), float(row["start"]), float(row["end"]))
            for index, row in enumerate(rows)
        ]
        return Trace(graph, workers, records)


def _row(task: Task, tiles: list[Any]) -> tuple[Any, ...]:
    """One task as the C file has it. AbsentError for what it has no kernel for."""
    if task.op not in OPS:
        raise AbsentError(f"its C tasks are {', '.join(op.name for op in OPS)}; this graph has {task.op.name}")
    for tile in tiles:
        if not isinstance(tile, np.ndarray) or tile.dtype != np.float64 or (tile.size and tile.strides[1] != 8):
            raise AbsentError(f"its C tasks are for row-major tiles of float64; {task} has another")
    leads = [max(tile.strides[0] // 8, 1) for tile in tiles]
    places = [tile.ctypes.data for tile in tiles]
    reads, (m, n) = len(tiles) - 1, tiles[-1].shape
    read = [*zip(places[:reads], leads[:reads], strict=True), (0, 1), (0, 1)]
    (a, lda), (b, ldb) = read[:2]
    return OPS.index(task.op), m, n, tiles[0].shape[1], lda, ldb, leads[-1], 0, 0, a, b, places[-1], 0.0, 0.0


def _address(op: str) -> ctypes.c_void_p:
    """The routine of the library that serves this op, or where that does not export it SciPy's."""
    routine = f"d{op}"
    function = choice.library(op, "d").symbol(routine) or blas.load("openblas").symbol(routine)
    return ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]


@cache
def _driver() -> Any:
    """The function of `openmp.c`, compiled and loaded once."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise AbsentError("no C compiler (cc, gcc) to build its tasks with")
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        built = Path(folder) / "openmp.so"
        command = [compiler, "-O2", "-fopenmp", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["nothing"]
            raise AbsentError(f"its tasks cannot be built here ({said[0]})")
        function = ctypes.CDLL(str(built)).tilewright_openmp
    function.restype = ctypes.c_long
    return function
