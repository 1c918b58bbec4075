"""`tilewright bench plan`: what one of many ranks needs to plan its part, and what empty tasks cost on ranks.

1. The plan of one rank of a grid for a Cholesky, LU or QR factorisation, made from its loops in a process of its own:
   seconds, and by how much that process grew. Beside it all that a rank under ``mpiexec`` does before its first task,
   but for what it tells the others: graph, checks of its data, plan, kernels, policy. And, for as many tasks as fit,
   the flat plan of the whole graph.
2. Independent tasks that do nothing on two MPI ranks and two Dask workers: microseconds a task, from call to result.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import tilewright as tw
from tilewright.benchmarks import options, record, table
from tilewright.benchmarks.overhead import independent, nothing
from tilewright.benchmarks.timing import Contender, alternate

__all__ = ["FLAT", "LOOPS", "READY", "command", "empty", "plan_of_one"]

LOOPS, FLAT, READY = "from the loops", "flat", "until its first task"

_SCRIPT = """
import json, resource, sys, time
import tilewright as tw
from tilewright import builder
from tilewright.backends.execution.program import Program
from tilewright.backends.execution.rooms import provide
from tilewright.backends.ranks.bound import bound_loops
from tilewright.linalg.lu_graph import _lu_graph
from tilewright.linalg.qr_graph import QRPlan, _sized
from tilewright.linalg.trees import normal
from tilewright.passes.local import LocalPlan
from tilewright.passes.loops import nest_of, record
from tilewright.passes.messages import MessagePlan
from tilewright.rooms import Outline
from tilewright.schedulers import policy
way, routine, (nt, P, Q, rank, nb) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
size = (nt * nb, nt * nb)
recipe = {
    "cholesky": lambda: (tw.cholesky_graph, (nt,)),
    "lu": lambda: (_lu_graph, (nt, nt, "partial", "tile", P, 1, size, nb, "float64", "single", 1.0, 1)),
    "qr": lambda: (_sized, (QRPlan(*size, nb, nb, 64, normal(("hierarchical", 4, "binary", "binary")), P, "float64"),)),
}[routine]()
grew = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before, start = grew(), time.perf_counter()
if way == "flat":
    graph = recipe[0](*recipe[1])
    plan, tasks = MessagePlan(graph, P * Q, tw.BlockCyclic(P, Q)), len(graph)
elif way == "ready":
    builder.MANY = 0
    graph = recipe[0](*recipe[1])
    nest, tasks = nest_of(graph), len(graph)
    bound = bound_loops(graph, nest, {"A": tw.TiledMatrix.view(Outline.of(size, "float64"), nb)})
    told = bound.layouts(), nest.checksum
    plan = LocalPlan(nest, P * Q, rank, tw.BlockCyclic(P, Q))
else:
    nest = record(*recipe)
    plan, tasks = LocalPlan(nest, P * Q, rank, tw.BlockCyclic(P, Q)), nest.tasks
part = plan.part(rank)
if way == "ready":
    provide(part.graph, bound.store)
    program = Program(part.graph, bound.store)
    policy("critical-path").prepare(part.graph, tw.Machine(workers=1))
    assert not graph.unrolled
seconds, size = time.perf_counter() - start, grew() - before
print(json.dumps({"seconds": seconds, "bytes": size, "tasks": tasks, "part": len(part.graph)}))
"""


def plan_of_one(
    nt: int,
    grid: tuple[int, int],
    *,
    rank: int | None = None,
    way: str = LOOPS,
    routine: str = "cholesky",
    nb: int = 512,
) -> dict[str, Any]:
    """Seconds and bytes that a fresh process needs for the part of ``rank``, by default one in the middle of the grid,
    of a factorisation of nt x nt tiles: `LOOPS`, `FLAT`, or all that it does until its first task, `READY`."""
    P, Q = grid
    rank = (P // 2) * Q + Q // 2 if rank is None else rank
    word = {LOOPS: "loops", FLAT: "flat", READY: "ready"}[way]
    command = [sys.executable, "-c", _SCRIPT, word, routine, *map(str, (nt, P, Q, rank, nb))]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "benchmark": "plan",
        "contender": f"{routine}, {way}",
        "routine": routine,
        "nt": nt,
        "grid": f"{P} x {Q}",
        "rank": rank,
        "megabytes": told.pop("bytes") / 1e6,
        **told,
    }


def _in_turn(i: int) -> int:
    """Half of the tasks on each rank: a handle of one index lives in the first column of the grid by default."""
    return i % 2


def empty(tasks: int, repeat: int) -> list[dict[str, Any]]:
    """Microseconds a task of ``tasks`` independent ones that do nothing, on two ranks of each kind."""
    graph = independent(tw.Op("nothing", nothing), tasks)
    contenders: list[tuple[str, Callable[[], Any]]] = []
    how: dict[str, Any] = {"workers": 2, "owner": _in_turn}
    records: list[dict[str, Any]] = []
    if importlib.util.find_spec("mpi4py"):
        contenders.append(("2 MPI ranks", lambda: tw.run(graph, {}, backend="mpi", **how)))
    if importlib.util.find_spec("distributed"):
        contenders.append(("2 Dask workers", lambda: tw.run(graph, {}, backend="dask", mode="resident", **how)))
    for name, call in contenders:
        taken = alternate([Contender(name, call)], repeat)[name]
        records.append(
            {
                "benchmark": "plan empty",
                "contender": name,
                "tasks": tasks,
                "us_per_task": taken.median / tasks * 1e6,
                **taken.record(),
            }
        )
    return records


@click.command("plan", short_help="what one of many ranks plans, and empty tasks on ranks")
@click.option("--n", default=200_000, show_default=True, help="Rows of the matrix.")
@click.option("--nb", default=512, show_default=True, help="Rows of a tile.")
@click.option("--grid", nargs=2, type=int, default=(32, 32), show_default=True, help="P and Q.")
@click.option("--flat", "flat", default=64, show_default=True, help="Tile rows of the flat plan beside it; 0 for none.")
@click.option("--tasks", default=100_000, show_default=True, help="Empty tasks; 0 for none.")
@options.repeat(3)
@options.output
@options.as_json
def command(
    n: int, nb: int, grid: tuple[int, int], flat: int, tasks: int, repeat: int, output: Path | None, as_json: bool
) -> None:
    """What one of many ranks needs for its plan, and what an empty task costs on ranks."""
    routines = ("cholesky", "lu", "qr")
    ways = [(routine, way) for routine in routines for way in (LOOPS, READY)]
    plans = [plan_of_one(-(-n // nb), grid, routine=routine, way=way, nb=nb) for routine, way in ways]
    if flat:
        plans += [plan_of_one(flat, grid), plan_of_one(flat, grid, way=FLAT)]
    columns = {"tile rows": "nt", "tasks": "tasks", "of the rank": "part", "s": "seconds", "MB": "megabytes"}
    table.show(f"Plan of one rank of {grid[0]} x {grid[1]}", "contender", columns, plans, as_json=as_json)
    runs = empty(tasks, repeat) if tasks else []
    if runs:
        columns = {"us / task": "us_per_task", "s": "median"}
        table.show(f"{tasks} empty tasks", "contender", columns, runs, as_json=as_json)
    record.append(output, [*plans, *runs])
