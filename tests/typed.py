"""What a user's type checker knows of tilewright: `make types` runs mypy over this file, `make pyright` pyright.

Each `assert_type` is a claim. So is each `type: ignore`: both checkers complain of one that silences nothing, so what
stands there is refused. `test_typed.py` runs the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, assert_type

import numpy as np

import tilewright as tw
from tilewright.comm.cg import Report
from tilewright.linalg.array_api import SlogdetResult
from tilewright.linalg.plan import Plan
from tilewright.studies.scaling import Study
from tilewright.studies.table import Table

if TYPE_CHECKING:
    import torch


def scale(x: np.ndarray, factor: float) -> None:
    x *= factor


def own_graph(nt: int) -> tw.TaskGraph:
    """A user's algorithm, in a strict checker's eyes."""
    graph = tw.TaskGraph("own")
    op = tw.Op("scale", scale)
    for i in range(nt):
        task = graph.insert(op, tw.RW(graph.handle(f"x{i}")), 2.0)
        assert_type(task, tw.Task)
    return graph


class Shortest:
    """A policy of one's own: `tw.Policy` is a protocol."""

    def prepare(self, graph: tw.TaskGraph, machine: tw.Machine) -> None:
        self.tasks: list[tw.Task] = []

    def push(self, task: tw.Task, worker: int | None = None) -> None:
        self.tasks.append(task)

    def pop(self, worker: int) -> tw.Task | None:
        return self.tasks.pop() if self.tasks else None


def main() -> Iterator[object]:
    A = assert_type(tw.random_spd(40), np.ndarray)
    graph = assert_type(tw.cholesky_graph(nt=4), tw.TaskGraph)
    machine = assert_type(tw.Machine(workers=2), tw.Machine)
    policy: tw.Policy = Shortest()
    run = assert_type(tw.simulate(graph, machine, scheduler=policy), tw.Run)
    assert_type(run.makespan, float)
    assert_type(run.efficiency, float)
    assert_type(run.trace, tw.Trace)
    assert_type(tw.bounds(graph, workers=2), tw.Bounds)
    assert_type(tw.run(own_graph(2), {"x0": np.ones(3), "x1": np.ones(3)}, backend="serial"), tw.Run)
    assert_type(tw.compare_schedulers(graph, workers=[2]), Table)
    assert_type(tw.plan(graph, tile_size=10), Plan)
    assert_type(tw.lazy(A) @ A, tw.Expression)
    assert_type(tw.linalg.slogdet(A), SlogdetResult)
    assert_type(tw.comm.cost("broadcast", p=4, n=100, machine=machine), float)
    assert_type(tw.comm.scaling_study(n=64, p=4, most=4, memory=4096), Study)
    assert_type(tw.__version__, str)
    x, report = tw.cg(A, np.ones(40))
    assert_type(report, Report)
    yield from (x, factors(A), tw.solve(A, np.ones(40)))


def factors(A: np.ndarray) -> np.ndarray:
    """The result is of the kind of the matrix, and has the run where that was asked for."""
    tiles = tw.TiledMatrix.from_numpy(A, 16)
    assert_type(tw.tiled_cholesky(tiles, workers=1), tw.TiledMatrix)
    assert_type(tw.tiled_cholesky([[4.0, 2.0], [2.0, 5.0]]), np.ndarray)
    L, run = tw.tiled_cholesky(A, tile_size=16, backend="serial", return_run=True)
    assert_type(L, np.ndarray)
    assert_type(run, tw.Run)
    x, info = tw.solve(A, np.ones(40), return_info=True)
    assert_type(x, np.ndarray)
    assert_type(info, tw.SolveInfo)
    assert_type(tw.cho_solve(L, np.ones(40)), np.ndarray)
    assert_type(tw.qr(tiles), tuple[tw.TiledMatrix, tw.TiledMatrix])
    assert_type(tw.qr(A, mode="r"), np.ndarray)
    U, s, Vh = tw.svd(tiles)
    assert_type(U, tw.TiledMatrix)
    assert_type(s, np.ndarray)
    assert_type(Vh, tw.TiledMatrix)
    assert_type(tw.eigh(A).eigenvectors, np.ndarray)
    assert_type(tw.lu_factor(A), tw.LUFactor)
    assert_type(tw.inv(A), np.ndarray)
    assert_type(tw.norm(A, np.inf), np.float64)
    assert_type(tw.gemm(tiles, A), tw.TiledMatrix)
    assert_type(tw.linalg.matmul(A, A), np.ndarray)
    assert_type(tiles @ tiles + 2 * tiles, tw.Expression)
    return L


def of_tensors(a: torch.Tensor) -> None:
    """Where torch is installed; mypy follows no torch here, pyright does. Never called."""
    assert_type(tw.tiled_cholesky(a), torch.Tensor)
    assert_type(tw.solve(np.eye(3), a), torch.Tensor)
    assert_type(tw.lstsq(a, np.ones(3))[0], torch.Tensor)


def refused() -> None:
    """Never called."""
    tw.tiled_cholesy(np.eye(3))  # type: ignore[attr-defined]
    tw.comm.broadcst()  # type: ignore[attr-defined]
    tw.simulate(tw.cholesky_graph(nt=4), wrokers=2)  # type: ignore[call-arg]
    tw.solve(np.eye(3), np.ones(3), precison="bf16")  # type: ignore[call-overload]
    tw.tiled_cholesky("A.npy")  # type: ignore[arg-type]
    tw.tiled_cholesky(np.eye(3), grid=7)  # type: ignore[call-overload]
    print(tw.svd(np.eye(3), return_run=True).S)  # type: ignore[attr-defined]
    tw.Machine(workers="two")  # type: ignore[arg-type]
    tw.run(own_graph(1), {}, devics=["cuda"])  # type: ignore[call-arg]
    tw.bounds("cholesky", workers=2)  # type: ignore[arg-type]
    wrong: Literal[3] = tw.cholesky_graph(nt=4)  # type: ignore[assignment]
    print(wrong)
