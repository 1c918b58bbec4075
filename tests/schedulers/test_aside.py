"""Tasks that wait for a disk have workers of their own, and those who compute the rest."""

import pytest

from tilewright import RW, SCHEDULERS, Op, TaskGraph, run
from tilewright.schedulers import policy
from tilewright.schedulers.aside import Aside

MOVE = Op("move", lambda x: None, in_place=True)
WORK = Op("work", lambda x: None, in_place=True)


def graph(chains=6, length=8):
    g = TaskGraph("chains")
    x = g.handles("x")
    for k in range(length):
        for c in range(chains):
            g.insert(MOVE if k % 2 else WORK, RW(x[c]))
    return g


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("parsec", "chameleon")])
@pytest.mark.parametrize("workers", [3, 4])
def test_each_worker_has_tasks_of_its_kind(name, workers):
    g = graph()
    data = {"x": [[0] for _ in range(6)]}
    done = run(g, data, scheduler=Aside(policy(name), {MOVE.name}, 2, name), workers=workers)
    who = {op: {r.worker for r in done.trace.records if g.tasks[r.task].op is op} for op in (MOVE, WORK)}
    assert len(done.trace) == len(g) and done.scheduler == name
    assert who[MOVE] <= set(range(workers - 2, workers)) and who[WORK] <= set(range(workers - 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_where_there_are_no_more_workers_all_do_all(workers):
    done = run(
        graph(), {"x": [[0] for _ in range(6)]}, scheduler=Aside(policy("eager"), {MOVE.name}, 2), workers=workers
    )
    assert len(done.trace) == 48 and done.scheduler == "Eager"
