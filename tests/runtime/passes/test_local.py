"""A rank's part made from the loops, or from arrays, is that of the flat plan: same tasks, messages, order, rooms and
levels."""

import gc
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest

import tilewright as tw
from tilewright import RW, R, TaskGraph, W
from tilewright.backends.ranks.outcome import plan_of
from tilewright.builder import graph_builder
from tilewright.distribution import RowBlocks, SymmetricBlockCyclic, by_handle, owners
from tilewright.linalg import trees
from tilewright.linalg.cholesky import bottom_level, cholesky
from tilewright.linalg.lu import _factor_graph
from tilewright.linalg.qr import _factor_graph as _qr_factor_graph
from tilewright.linalg.qr import _qr_graph
from tilewright.linalg.qr_graph import QRPlan
from tilewright.linalg.trees import normal
from tilewright.linalg.triangle import triangle_graph, turned_graph
from tilewright.ops import convert, copy, gemm, getrf, potrf, syrk, trsm
from tilewright.passes.listed import ListedPlan, listed_graph
from tilewright.passes.local import LocalPlan
from tilewright.passes.loops import Nest, NotALoop, nest_of, record
from tilewright.passes.messages import MessagePlan

RULES = [
    tw.BlockCyclic(1, 1),
    tw.BlockCyclic(2, 2),
    tw.BlockCyclic(2, 3),
    tw.BlockCyclic(5, 1),
    SymmetricBlockCyclic(3),
    SymmetricBlockCyclic(4),
    RowBlocks(3, 6),
]
GRAPHS = {
    "bare": lambda nt: tw.cholesky_graph(nt),
    "copied": lambda nt: triangle_graph(cholesky, nt, False, "behind", True, (), bottom_level),
    "looked at": lambda nt: triangle_graph(cholesky, nt, False, "before", True, (), None),
    "in place": lambda nt: triangle_graph(cholesky, nt, True, "", False, (), bottom_level),
    "by columns": lambda nt: turned_graph(cholesky, nt),
}


def calls(part):
    return [
        (
            task.op.name,
            task.op.weight,
            task.uses,
            task.groups,
            task.params,
            task.place,
            task.predecessors,
            task.priority,
            origin,
        )
        for task, origin in zip(part.graph, part.origin, strict=True)
    ]


def size(handle):
    return 8 + sum(handle.index) % 3


def compare(graph, rule, ranks, **ends):
    nest = record(*graph.recipe)
    assert nest.tasks == len(graph)
    compare_plans(graph, rule, ranks, lambda rank: LocalPlan(nest, ranks, rank, rule, **ends), **ends)
    compare_listed(graph, rule, ranks, **ends)


def compare_listed(graph, rule, ranks, **ends):
    listed = listed_graph(graph)
    assert listed is not None
    sent = pickle.loads(pickle.dumps(listed))
    owner = by_handle(graph, owners(rule, ranks))
    compare_plans(graph, rule, ranks, lambda rank: ListedPlan(sent, ranks, rank, owner, **ends), **ends)


def compare_plans(graph, rule, ranks, made, **ends):
    plan = MessagePlan(graph, ranks, rule, **ends)
    peaks = [plan.peak_memory(size, window) for window in (None, 30)]
    for rank in range(ranks):
        local = made(rank)
        mine, whole = local.part(rank), plan.part(rank)
        assert calls(mine) == calls(whole)
        assert mine.graph.name == whole.graph.name
        assert mine.graph.rooms.keys() == whole.graph.rooms.keys()
        if graph.closed_form is not None:
            assert mine.graph.bottom_levels() == whole.graph.bottom_levels()
        assert local.messages == [m for m in plan.messages if rank in (m.source, m.destination)]
        assert set(local.made_by(rank)) == set(plan.made_by(rank))
        assert [local.peak_memory(size, window) for window in (None, 30)] == [peak[rank] for peak in peaks]
        for places in ("own", "shared", "none"):
            assert local.rooms(rank, places) == plan.rooms(rank, places)


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_parts_are_those_of_the_flat_plan(kind, rule):
    for nt in (0, 1, 2, 6):
        compare(GRAPHS[kind](nt), rule, rule.ranks)


LU = {
    "bare": lambda m, n, P: tw.lu_graph(-(-m // 4), -(-n // 4), ranks=P),
    "by columns": lambda m, n, P: tw.lu_graph(-(-m // 4), -(-n // 4), "threshold", "column"),
    "none": lambda m, n, P: tw.lu_graph(-(-m // 4), -(-n // 4), "none"),
    "factor": lambda m, n, P: _factor_graph((m, n), 4, "partial", "tile", False, True, "float64", P),
}


@pytest.mark.parametrize("kind", LU)
@pytest.mark.parametrize("rule", [rule for rule in RULES if isinstance(rule, tw.BlockCyclic)], ids=str)
def test_parts_of_lu_are_those_of_the_flat_plan(kind, rule):
    """Groups of tiles, with a stride where rows are dealt out; rooms, of which some have three indices."""
    for m, n in ((0, 0), (3, 3), (10, 22), (22, 13)):
        compare(LU[kind](m, n, rule.P), rule, rule.ranks)


QR = {
    "panel": lambda m, n, P: tw.qr_graph(-(-m // 4), -(-n // 4), "panel"),
    "flat": lambda m, n, P: tw.qr_graph(-(-m // 4), -(-n // 4), "flat", shape=(m, n), tile_size=4),
    "binary": lambda m, n, P: tw.qr_graph(-(-m // 4), -(-n // 4), "binary"),
    "domains": lambda m, n, P: tw.qr_graph(-(-m // 4), -(-n // 4), ("hierarchical", 2, "binary", "flat"), ranks=P),
    "ranks": lambda m, n, P: tw.qr_graph(-(-m // 4), -(-n // 4), ("hierarchical", 3, "flat", "binary"), ranks=P),
    "R": lambda m, n, P: _qr_graph(qr_tree_plan(m, n, "binary", P), None, True, False, True),
    "factor": lambda m, n, P: _qr_factor_graph(
        qr_tree_plan(m, n, ("hierarchical", 2, "flat", "binary"), P), False, True
    ),
}


def qr_tree_plan(m, n, tree, ranks):
    return QRPlan(m, n, 4, 4, 2, normal(tree), ranks, "float64")


@pytest.mark.parametrize("kind", QR)
@pytest.mark.parametrize("rule", [rule for rule in RULES if isinstance(rule, tw.BlockCyclic)], ids=str)
def test_parts_of_qr_are_those_of_the_flat_plan(kind, rule):
    """Trees whose eliminations are loops, in each column from its own first row on; what is beside no last column."""
    for m, n in ((0, 0), (3, 3), (10, 22), (33, 13), (20, 20)):
        compare(QR[kind](m, n, rule.P), rule, rule.ranks)


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_trees_as_loops_are_those_in_lists(ranks):
    hierarchies = [
        ("hierarchical", a, low, high) for a in (1, 3) for low in ("flat", "binary") for high in ("flat", "binary")
    ]
    for tree in map(normal, ("flat", "flat-tt", "binary", *hierarchies)):
        assert trees.is_loop(tree)
        for mt in (1, 2, 7, 16, 23):
            g = TaskGraph("none")
            steps = trees.eliminations(tree, mt, 5, ranks)
            assert tuple(step for k in range(min(mt, 5)) for step in trees.column(g, tree, k, mt, ranks)) == steps
            for k in range(min(mt, 5)):
                whole = {step.row for step in steps if step.column == k and step.kind == "TS"}
                assert list(trees.heads(g, tree, k, mt, ranks)) == [i for i in range(k, mt) if i not in whole]
    for tree in (
        "greedy",
        "fibonacci",
        ("hierarchical", 4, "greedy", "binary"),
        ("hierarchical", 2, "flat", "flat", "fixed"),
    ):
        assert not trees.is_loop(normal(tree))


@pytest.mark.parametrize("rule", RULES[2:4], ids=str)
def test_parts_that_begin_and_end_on_some_ranks_are_those_of_the_flat_plan(rule):
    """One rank has all data at first, some get all results: ranks under mpiexec. A tile that is only written, too."""
    graphs = [GRAPHS["looked at"](4), LU["factor"](18, 13, rule.P), QR["R"](18, 9, rule.P), multiples_graph(3)]
    for graph in graphs:
        for start, collect in ((2, ()), (None, (1,)), (0, range(rule.ranks))):
            compare(graph, rule, rule.ranks, start=start, collect=tuple(collect))


def test_more_ranks_than_the_rule_names_have_parts_without_tasks():
    compare(tw.cholesky_graph(4), tw.BlockCyclic(2, 2), 6)


def test_versions_that_go_along_trees_are_those_of_the_flat_plan():
    compare(tw.cholesky_graph(14), tw.BlockCyclic(3, 4), 12)


@graph_builder("odd nt={nt}")
def odd_graph(g, nt):
    """What Cholesky has not: a vector, a handle without index, backward indices, a tile named twice, two writes, data of
    the run that others read, tiles written and never read; groups, steps, rooms, ops and parameters that depend on
    indices, tasks that run elsewhere than where they write."""
    A, x, s = g.handles("A"), g.handles("x"), g.handle("s")
    g.insert(potrf, RW(s))
    for k in g.range(nt):
        g.insert(syrk, R(A[nt - 1 - k, k]), RW(x[k]))
        g.insert(gemm, R(x[k]), R(x[k]), RW(s))
        for i in g.range(2, nt - k):
            g.insert(trsm, RW(x[i]), RW(A[i, k]))
            g.insert(gemm, R(A[k, i]), RW(A[i, k]), R(A[i, k]))
        g.insert(copy, R(s), W(x[k]))
    for k in g.range(1, nt):
        g.insert(copy, R(x[k - 1]), W(A[k, k]), "all", priority=2)
    T = g.handles("T", shape=(2, 2), dtype=float)
    for k in g.range(1, nt, 2):
        block = [RW(A[i, j]) for i in g.range(k, nt) for j in g.range(g.least(k, 2))]
        g.insert(g.value(getrf, nt - k), block, W(T[k, k, 0]), k, g.value(str, k), label=(k, "T"), on=A[k, k])
        for i in g.range(k, g.least(nt, k + 3)):
            g.insert(gemm, [R(A[j, k]) for j in g.range(i, nt, 3)], R(x[0]), [], R(T[k, k, 0]), RW(A[i, i]))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_loops_of_all_kinds_have_the_parts_of_the_flat_plan(rule):
    for nt in (1, 3, 6):
        compare(odd_graph(nt), rule, rule.ranks)


@pytest.mark.parametrize(
    "graph",
    [
        *[GRAPHS[kind](5) for kind in GRAPHS],
        *[LU[kind](22, 13, 3) for kind in LU],
        *[QR[kind](22, 13, 2) for kind in QR],
        odd_graph(6),
    ],
    ids=lambda graph: graph.name,
)
def test_single_tasks_and_handles_of_loops_are_those_of_the_graph(graph):
    def fields(task):
        return [getattr(task, name) for name in ("index", "uses", "params", "predecessors", "on", "groups", "place")]

    nest = record(*graph.recipe)
    for task in graph.tasks[:: len(graph) // 7]:
        alone = nest.task(task.index)
        assert fields(alone) == fields(task)
        assert (alone.op.name, alone.op.weight) == (task.op.name, task.op.weight)
    assert nest.families == {name: any(handle.name == name for handle in graph.written) for name in graph.families}
    for name in graph.families:
        mine = [handle for handle in graph.handles_used if handle.name == name]
        assert nest.handles(name) == mine
        extents = tuple(1 + max(column) for column in zip(*(handle.index for handle in mine), strict=True))
        assert nest.within(name, extents) and nest.within(name, tuple(extent + 1 for extent in extents))
        for place in range(len(extents)):
            assert not nest.within(name, (*extents[:place], extents[place] - 1, *extents[place + 1 :]))
        assert not nest.within(name, (*extents, 1))


def test_loops_have_one_checksum_in_every_process_and_others_another():
    recipes = [
        (tw.cholesky_graph, (5,)),
        (tw.cholesky_graph, (6,)),
        (odd_graph, (5,)),
        triangle_graph(cholesky, 5, False, "behind", True).recipe,
        triangle_graph(cholesky, 5, False, "before", True).recipe,
        *[tw.lu_graph(5, 5, "threshold", threshold=tau).recipe for tau in (0.25, 0.5)],
        tw.lu_graph(5, 5).recipe,
    ]
    sums = [record(*recipe).checksum for recipe in recipes]
    assert len(set(sums)) == len(sums)
    assert [record(*recipe).checksum for recipe in recipes] == sums
    script = (
        "import tilewright as tw\nfrom tilewright.passes.loops import record\n"
        "print(record(*tw.lu_graph(5, 5).recipe).checksum)"
    )
    assert int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout) == sums[-1]


@pytest.mark.parametrize("kind", [lambda graph: record(*graph.recipe), listed_graph], ids=["loops", "arrays"])
def test_a_plan_goes_with_the_loops_or_arrays_that_it_is_of(kind):
    graph = tw.cholesky_graph(4)
    contents = kind(graph)
    owner = tw.BlockCyclic(2, 2)
    known = owner if isinstance(contents, Nest) else by_handle(graph, owners(owner, 4))
    plan = plan_of(contents, 4, 1, (known, None, ()))
    assert plan is plan_of(contents, 4, 1, (known, None, ())) and len(plan.part(1).graph) > 0
    watched = weakref.ref(contents)
    del contents, graph
    gc.collect()
    assert watched() is None


def test_tasks_are_counted_and_numbered_without_unrolling_them():
    assert record(tw.cholesky_graph, (390,)).tasks == 390 * 391 * 392 // 6


def test_a_rank_of_many_plans_a_part_of_ten_million_tasks():
    """As many messages as the flat plan of this nt and grid has for that rank, counted by formula."""
    nt, P = 130, 16
    nest = record(tw.cholesky_graph, (nt,))
    local = LocalPlan(nest, P * P, 17, tw.BlockCyclic(P, P))
    received = [m for m in local.messages if m.destination == 17]
    #   rank (1, 1) needs the tiles of column k in its rows and in its columns, and does not own those in column 1
    rows = {(i, k) for k in range(nt) for i in range(k + 1, nt) if i % P == 1}
    own = {(i, k) for i, k in rows if k % P == 1}
    diagonal = {(k, k) for k in range(nt) if k % P == 1}
    assert {m.handle.index for m in received} == rows - own - diagonal
    assert all(m.version == m.handle.index[1] + 1 for m in received)


def plain(g, nt):
    for k in range(nt):
        g.insert(potrf, RW(g.handles("A")[k, k]))


def asking(g, nt):
    A = g.handles("A")
    for i in g.range(nt):
        if i == 0:
            g.insert(potrf, RW(A[i, i]))


def leaving(g, nt):
    for i in g.range(nt):
        g.insert(potrf, RW(g.handles("A")[i, i]))
        break


def stepping(g, nt):
    for i in g.range(nt, 0, -2):
        g.insert(potrf, RW(g.handles("A")[i, i]))


def empty_first(g, nt):
    for k in g.range(nt):
        g.insert(potrf, [RW(g.handles("A")[i, k]) for i in g.range(k + 1, nt)])


def late(g, nt):
    A = g.handles("A")
    for i in g.range(nt):
        g.insert(potrf, RW(A[i, i]))
    g.insert(potrf, [RW(A[i, i])])


def sums(g, nt):
    A = g.handles("A")
    for k in g.range(nt):
        for i in g.range(nt):
            g.insert(potrf, RW(A[i + k, i - k]))


def calling(g, nt):
    for i in g.range(nt):
        g.insert(np.copyto, RW(g.handles("A")[i, i]))


def placed(g, nt):
    for i in g.range(nt):
        g.insert(potrf, RW(g.handles("A")[i, i]), on=0)


def with_numbers(g, nt):
    for i in g.range(nt):
        g.insert(potrf, RW(g.handles("A")[i, i]), priority=i)


def rounding(g, nt):
    A = g.handles("A")
    for i in g.range(nt):
        g.insert(potrf, RW(A[i // 2, i % 2]))


@graph_builder("multiples nt={nt}")
def multiples_graph(g, nt):
    A = g.handles("A")
    for k in g.range(nt):
        g.insert(potrf, RW(A[2 * k, k * 3]))
        for i in g.range(2 * k + 1, 2 * nt):
            g.insert(trsm, R(A[2 * k, k * 3]), RW(A[i, 3 * k]))


@pytest.mark.parametrize("rule", RULES[:4], ids=str)
def test_multiples_of_an_index_are_indices(rule):
    compare(multiples_graph(5), rule, rule.ranks)


@pytest.mark.parametrize(
    "loop", [rounding, plain, asking, leaving, stepping, calling, placed, with_numbers, empty_first, late, sums]
)
def test_what_is_no_loop_over_tiles_is_not_recorded(loop):
    builder = graph_builder("loop")(loop)
    with pytest.raises(NotALoop):
        record(builder, (100,))
    assert builder.__name__ == loop.__name__


def test_a_graph_that_grew_behind_its_builder_has_no_loops():
    graph = tw.cholesky_graph(3)
    assert nest_of(graph) is not None
    graph.insert(potrf, RW(graph.handles("A")[0, 0]))
    assert nest_of(graph) is None
    assert nest_of(TaskGraph()) is None


def test_graphs_whose_plans_need_more_than_their_calls_are_not_listed():
    graph = TaskGraph()
    x, y = graph.handle("x"), graph.handle("y")
    graph.insert(potrf, RW(x))
    assert listed_graph(graph) is listed_graph(graph) is not None
    graph.insert(potrf, RW(x), on=y)  # whose owner nobody is told
    assert listed_graph(graph) is None
    other = TaskGraph()
    other.insert(convert, R(x), W(y))
    assert listed_graph(other) is None


def test_tasks_without_data_and_tasks_placed_by_number_are_listed():
    graph = TaskGraph()
    graph.insert(potrf)
    graph.insert(potrf, R(graph.handle("x")), on=1)
    graph.insert(potrf, W(graph.handle("x")), [R(graph.handle("z"))], 3, label=("a",))
    compare_listed(graph, tw.BlockCyclic(1, 2), 2)
    with pytest.raises(ValueError, match="task 1 is to run on 1, not on one of 1 ranks"):
        ListedPlan(listed_graph(graph), 1, 0, (0, 0))
