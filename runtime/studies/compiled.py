"""Tasks of C, for what schedules such: Cholesky's four ops on the tiles of a run, with the BLAS that serves them here.

The C files beside this one are compiled where they are used and loaded into this process, so that they work on the same
memory. A task there is a call of a C function: graphs of Python functions, and kernels in several formats, are not for
them.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilewright import ops
from tilewright.backends.execution.engine import blame
from tilewright.backends.execution.program import Program, check_info
from tilewright.graph import Task
from tilewright.kernels import blas, choice
from tilewright.runs.trace import TaskRecord, Trace
from tilewright.studies.baselines import AbsentError, Baseline

__all__ = ["Compiled", "built"]

OPS = (ops.potrf, ops.trsm, ops.syrk, ops.gemm)
"""In the order of their numbers in `tasks.h`."""

_NUMBERS = ("op", "m", "n", "k", "lda", "ldb", "ldc", "info", "thread", "tile_a", "tile_b", "tile_c")
_TASK = np.dtype(
    [(name, np.intc) for name in _NUMBERS] + [(name, np.uintp) for name in "abc"] + [("start", float), ("end", float)],
    align=True,
)
_TILE = np.dtype([("data", np.uintp), ("lead", np.intc), ("rows", np.intc), ("columns", np.intc)], align=True)


class Compiled(Baseline):
    """Somebody else's scheduler of C tasks. AbsentError for what it has no kernel for."""

    @abstractmethod
    def call(self, tasks: np.ndarray, tiles: np.ndarray, workers: int, routines: Any) -> int:
        """Run the tasks; 0, or 1 + the number of the first that failed."""

    def carry_out(self, program: Program, workers: int) -> Trace:
        graph = program.graph
        numbers = {handle: number for number, handle in enumerate(graph.handles_used)}
        tiles = np.zeros(len(numbers), _TILE)
        rows = np.zeros(len(graph), _TASK)
        for task in graph:
            buffers = [program.store[use.handle] for use in task.uses]
            places = [numbers[use.handle] for use in task.uses]
            rows[task.index] = _row(task, buffers, places)
            for place, buffer in zip(places, buffers, strict=True):
                tiles[place] = buffer.ctypes.data, _lead(buffer), *buffer.shape
        failed = self.call(rows, tiles, workers, (ctypes.c_void_p * len(OPS))(*(_address(op.name) for op in OPS)))
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


def _row(task: Task, tiles: Sequence[Any], numbers: Sequence[int]) -> tuple[Any, ...]:
    """One task as the C files have it. AbsentError for what they have no kernel for."""
    if task.op not in OPS:
        raise AbsentError(f"its C tasks are {', '.join(op.name for op in OPS)}; this graph has {task.op.name}")
    for tile in tiles:
        if not isinstance(tile, np.ndarray) or tile.dtype != np.float64 or (tile.size and tile.strides[1] != 8):
            raise AbsentError(f"its C tasks are for row-major tiles of float64; {task} has another")
    m, n = tiles[-1].shape
    read = [(tile.ctypes.data, _lead(tile), number) for tile, number in zip(tiles[:-1], numbers[:-1], strict=True)]
    (a, lda, first), (b, ldb, second) = (*read, (0, 1, -1), (0, 1, -1))[:2]
    c, ldc, last = tiles[-1].ctypes.data, _lead(tiles[-1]), numbers[-1]
    return OPS.index(task.op), m, n, tiles[0].shape[1], lda, ldb, ldc, 0, 0, first, second, last, a, b, c, 0.0, 0.0


def _lead(tile: np.ndarray) -> int:
    return max(tile.strides[0] // 8, 1)


def _address(op: str) -> int | None:
    """The routine of the library that serves this op, or where that does not export it SciPy's."""
    routine = f"d{op}"
    function = choice.library(op, "d").symbol(routine) or blas.load("openblas").symbol(routine)
    return ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]


def built(name: str, flags: Sequence[str]) -> ctypes.CDLL:
    """The C file of that name beside this one, compiled and loaded. AbsentError without a compiler, or quoting it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise AbsentError("no C compiler (cc, gcc) to build its tasks with")
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        library = Path(folder) / f"{name}.so"
        source = Path(__file__).with_name(f"{name}.c")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["nothing"]
            fault = next((line for line in said if re.search("error|cannot|undefined", line)), said[0])
            raise AbsentError(f"its tasks cannot be built here ({fault})")
        return ctypes.CDLL(str(library))
