"""One planner says which messages there are: the simulator and the MPI engine send those, each along the same tree."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import programs

import tilewright as tw
from tilewright.comm.grid import Grid
from tilewright.comm.matvec_graph import matvec_graph
from tilewright.linalg.cho_solve import inverse_graph, solve_graph
from tilewright.ops import gemm
from tilewright.passes.conversions import with_conversions
from tilewright.passes.messages import TREES

RANKS = 6


@cache
def product_graph(nt):
    """C += A B, all operands everywhere: every tile of A and B is read in a row or column of C."""
    g = tw.TaskGraph(f"product nt={nt}")
    A, B, C = g.handles("A"), g.handles("B"), g.handles("C")
    for k in range(nt):
        for i in range(nt):
            for j in range(nt):
                g.insert(gemm, tw.R(A[i, k]), tw.R(B[j, k]), tw.RW(C[i, j]))
    return g


GRAPHS = {
    "cholesky": lambda: tw.cholesky_graph(16),
    "product": lambda: product_graph(5),
    "inverse": lambda: inverse_graph(5, True),
    "solve": lambda: solve_graph(6, 2, True, False),
    "mixed": lambda: with_conversions(tw.cholesky_graph(9), "bf16", lambda storage: "reference"),
}
OWNERS = {
    "1 x 4": tw.BlockCyclic(1, 4),
    "2 x 3": tw.BlockCyclic(2, 3),
    "6 x 1": tw.BlockCyclic(6, 1),
    "symmetric": tw.SymmetricBlockCyclic(4),
    "rows": tw.RowBlocks(6, 16),
    "random": None,
}


def size(handle):
    """Ragged: each tile has a size of its own."""
    i, j = (*handle.index, 0, 0)[:2]
    return 3 + i, 2 + j


MACHINE = tw.Machine(ranks=RANKS, workers=2, alpha=1.0, beta=0.01, shape=size)


def planned(plan):
    nbytes = {handle: 8 * size(handle)[0] * size(handle)[1] for handle in plan.graph.handles_used}
    return Counter((m.source, m.destination, m.handle, m.writer, nbytes[m.handle]) for m in plan.messages)


def sent(run):
    return Counter((m.source, m.destination, m.handle, m.writer, m.nbytes) for m in run.trace.messages)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_simulated_messages_are_those_of_the_plan(graph, owner):
    g = GRAPHS[graph]()
    rng = np.random.default_rng(len(g))
    rule = OWNERS[owner] or {handle: int(rng.integers(RANKS)) for handle in g.handles_used}
    run = tw.simulate(g, MACHINE, owner=rule)
    run.trace.check()
    assert sent(run) == planned(tw.MessagePlan(g, RANKS, rule)) and run.messages > 0


@given(programs, st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_simulated_messages_of_random_programs_are_those_of_the_plan(program, ranks, seed):
    g = program.graph()
    homes = np.random.default_rng(seed).integers(ranks, size=program.handles)
    owner = {f"h{i}": int(home) for i, home in enumerate(homes)}
    run = tw.simulate(g, MACHINE.replace(ranks=ranks), owner=owner)
    assert sent(run) == planned(tw.MessagePlan(g, ranks, owner))


@pytest.mark.parametrize("tree", TREES)
def test_another_tree_is_that_of_a_plan_with_it(tree):
    g = tw.cholesky_graph(9)
    run = tw.simulate(g, MACHINE, owner=tw.BlockCyclic(1, 6), broadcast=tree)
    assert sent(run) == planned(tw.MessagePlan(g, RANKS, tw.BlockCyclic(1, 6), broadcast=tree))


def test_layout_of_a_graph_places_simulated_messages_as_it_does_the_plan_s():
    g = matvec_graph(Grid(24, 24, 2, 3))
    plan = tw.MessagePlan(g, 6, {handle: g.layout.owner(handle) for handle in g.handles_used})
    run = tw.simulate(g, tw.Machine(alpha=1.0))
    assert Counter(m[:3] for m in run.trace.messages) == Counter(
        (m.source, m.destination, m.handle) for m in plan.messages
    )


def test_a_policy_that_places_tasks_itself_sends_along_the_tree_of_the_plan():
    g = tw.cholesky_graph(8)
    run = tw.simulate(g, MACHINE, scheduler="heft")
    ranks = {record.task: record.rank for record in run.trace}
    plan = tw.MessagePlan(g, RANKS, places=[ranks[task.index] for task in g])
    assert sent(run) == planned(plan) and run.messages > 0


def test_ranks_send_what_the_simulator_says():
    n, nb = 45, 10
    rng = np.random.default_rng(0)
    a = rng.standard_normal((n, n))
    a = a @ a.T + n * np.eye(n)
    data = {"A": tw.TiledMatrix.from_numpy(a, nb)}
    g = tw.cholesky_graph(5)
    real = tw.run(g, data, backend="mpi", owner=tw.BlockCyclic(1, 3), workers=3)
    simulated = tw.simulate(g, tw.Machine(ranks=3, alpha=1.0), owner=tw.BlockCyclic(1, 3), data=data)
    assert sent(real) == sent(simulated)
