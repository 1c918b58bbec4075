"""The graphs of LU: counts, critical paths and levels in closed form, labels, edges."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest
from matrices import DTYPES, lu_ratio, random_matrix

import tilewright as tw
from tilewright.linalg.lu import _factor_graph
from tilewright.linalg.lu_graph import bottom_level, lu_graph, task_count

SHAPES = [(m, n) for m in range(6) for n in range(6)] + [(8, 8), (12, 5), (5, 12)]
KINDS = [
    *(
        (pivoting, update, panel)
        for pivoting in ("partial", "threshold")
        for update in ("tile", "column")
        for panel in ("single", "recursive")
    ),
    ("none", "tile", "single"),
]


@pytest.mark.parametrize(("nt", "tasks"), [(1, 1), (2, 4), (4, 24), (8, 176), (16, 1376)])
def test_partial_pivoting_has_as_many_tasks_as_the_loop_says(nt, tasks):
    g = lu_graph(nt, nt)
    assert len(g) == tasks + nt - 1 == task_count(nt, nt)  # and nt - 1 exchanges at the end
    names = [task.op.name for task in g]
    assert names.count("getrf") == nt and names.count("swptrsm") == nt * (nt - 1) // 2
    assert names.count("gemmn") == nt * (nt - 1) * (2 * nt - 1) // 6 and names.count("swap") == nt - 1


@pytest.mark.parametrize(("nt", "length"), [(1, 2), (2, 16), (3, 33), (4, 53), (8, 163), (16, 527)])
def test_critical_path_with_a_panel_of_one_task(nt, length):
    path = lu_graph(nt, nt).critical_path()
    assert path.length == length == 3 * nt * (nt + 1) // 2 - nt + 9 * (nt - 1)
    names = [task.op.name for task in path.tasks if task.op.weight]
    assert names == ["getrf", "swptrsm", "gemmn"] * (nt - 1) + ["getrf"]


@pytest.mark.parametrize("nt", [1, 2, 3, 8, 16])
def test_critical_path_and_tasks_without_pivoting(nt):
    g = lu_graph(nt, nt, "none")
    assert g.critical_path().length == 11 * nt - 9
    assert len(g) == nt + nt * (nt - 1) + nt * (nt - 1) * (2 * nt - 1) // 6


@pytest.mark.parametrize("nt", [1, 2, 4, 8, 16])
def test_updates_by_column_are_one_task_each(nt):
    g = lu_graph(nt, nt, update="column")
    assert len(g) == nt + nt * (nt - 1) // 2 + nt - 1
    length = sum(3 * (nt - k) - 1 for k in range(nt)) + sum(3 + 6 * (nt - k - 1) for k in range(nt - 1))
    assert g.critical_path().length == length


@pytest.mark.parametrize(("nt", "length"), [(1, 2), (2, 16), (3, 30.75), (8, 115.75), (16, 290.75), (32, 784.75)])
def test_tasks_and_critical_path_with_recursive_panels(nt, length):
    g = lu_graph(nt, nt, panel="recursive")
    path = g.critical_path()
    assert path.length == length == 2 + 9 * (nt - 1) + sum(0.75 * m + 3.5 for m in range(2, nt + 1))
    names = [task.op.name for task in g]
    assert names.count("getrf2") == 4 * nt and names.count("trsm2") == 3 * nt
    assert names.count("gemm2") == 3 * nt * (nt - 1) // 2 and "getrf" not in names
    stages = ["getrf2", "trsm2", "gemm2"] * 3 + ["getrf2"]
    own = ["getrf2", "trsm2"] * 3 + ["getrf2"]
    assert [task.op.name for task in path.tasks if task.op.weight] == [*stages, "swptrsm", "gemmn"] * (nt - 1) + own


def test_tasks_of_a_recursive_panel_wait_for_its_leaves_and_not_for_each_other():
    g = lu_graph(4, 2, panel="recursive")
    for i in (1, 2, 3):
        task = g.task(f"gemm2({i},0,3)")
        assert {p.label for p in g.predecessors(task)} == {"getrf2(0,2)", "trsm2(0,3)"}
        assert [s.label for s in g.successors(task)] == ["getrf2(0,4)"]
    assert {s.label for s in g.successors(g.task("getrf2(0,6)"))} >= {"swptrsm(0,1)", "gemmn(3,1,0)"}


@pytest.mark.parametrize(("workers", "share", "gain"), [(16, 0.91, 1.05), (32, 0.86, 1.5), (64, 0.94, 1.7)])
def test_recursive_panels_feed_more_workers(workers, share, gain):
    machine = tw.Machine(workers=workers, gamma=1.0)
    one, recursive = (tw.simulate(lu_graph(16, 16, panel=panel), machine) for panel in ("single", "recursive"))
    assert recursive.bounds.lower / recursive.makespan > share
    assert one.makespan / recursive.makespan > gain


@pytest.mark.parametrize(("nt", "ratio"), [(8, 6.3), (16, 15.5), (24, 25.5), (32, 35.8)])
def test_a_panel_of_one_task_feeds_about_nt_workers(nt, ratio):
    length = 3 * nt * (nt + 1) / 2 - nt + 9 * (nt - 1)
    assert 2 * nt**3 / length == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize(("pivoting", "update", "panel"), KINDS)
@pytest.mark.parametrize("nt", [0, 1, 2, 5, 9])
def test_work_of_a_square_is_two_thirds_of_its_cube(nt, pivoting, update, panel):
    assert lu_graph(nt, nt, pivoting, update, panel=panel).work() == 2 * nt**3


@pytest.mark.parametrize(("pivoting", "update", "panel"), KINDS)
@pytest.mark.parametrize(("mt", "nt"), SHAPES)
def test_closed_form_of_bottom_levels_is_the_reverse_sweep(mt, nt, pivoting, update, panel):
    g = lu_graph(mt, nt, pivoting, update, panel=panel)
    assert len(g) == task_count(mt, nt, pivoting, update, panel)
    assert g.bottom_levels() == g.bottom_levels([task.op.weight for task in g])


@pytest.mark.parametrize(("pivoting", "update", "panel"), KINDS)
@pytest.mark.parametrize("in_place", [True, False])
def test_closed_form_holds_with_copies(in_place, pivoting, update, panel):
    for m, n in ((9, 9), (10, 4), (4, 10)):
        g = _factor_graph((m, n), 3, pivoting, update, in_place, True, "float64", panel=panel)
        assert g.bottom_levels() == g.bottom_levels([task.op.weight for task in g])


@pytest.mark.parametrize("together", [1, 2, 3, 9])
@pytest.mark.parametrize(("mt", "nt"), [(1, 1), (5, 5), (8, 8), (9, 4), (4, 9)])
def test_panels_that_update_together_do_the_same_work_in_fewer_tasks(mt, nt, together):
    g = lu_graph(mt, nt, update="column", together=together)
    assert len(g) == task_count(mt, nt, update="column", together=together)
    assert g.work() == lu_graph(mt, nt).work()
    assert len(pickle.loads(pickle.dumps(g))) == len(g)
    for first in range(0, min(mt, nt), together):
        end = min(first + together, mt, nt)
        beyond = [task for task in g if task.op.name == "swpgemm" and task.uses[0].handle.index == (first,)]
        wanted = set(range(first + 1, max(end, nt)))
        assert {task.writes[0].index[1] for task in beyond} == wanted
        for task in beyond:
            pivots = [use.handle.index[0] for use in task.uses if use.handle.name == "piv"]
            alone = end if first else min(end + together, mt, nt)  # the second group takes the first panel by panel
            assert pivots == list(range(first, end if task.writes[0].index[1] >= alone else first + 1))


def test_panels_of_a_group_take_turns_and_then_update_what_lies_beyond():
    g = lu_graph(3, 4, update="column", together=2)
    assert [task.label for task in g] == [
        "getrf(0)",
        "swpgemm(0,1)",
        "swpgemm(0,2)",
        "getrf(1)",
        "swap(0,1)",
        "swpgemm(1,2)",
        "swpgemm(0,3)",
        "getrf(2)",
        "swpgemm(2,3)",
        "swap(0)",
        "swap(1)",
    ]
    assert g.predecessors(g.tasks[2]) == [g.tasks[0]]
    for how in ({}, {"update": "column", "pivoting": "none"}, {"update": "column", "ranks": 2}):
        with pytest.raises(ValueError, match="together=2 is for update='column' and pivots of the whole column"):
            lu_graph(3, 3, together=2, **how)
    with pytest.raises(ValueError, match="together"):
        lu_graph(3, 3, update="column", together=0)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("mt", "nt"), SHAPES)
def test_closed_form_holds_where_rows_are_dealt_out(mt, nt, ranks):
    g = _factor_graph((3 * mt, 3 * nt), 3, "partial", "column", False, True, "float64", ranks)
    assert g.closed_form is not None
    assert g.bottom_levels() == g.bottom_levels([task.op.weight for task in g])


def test_levels_are_those_of_the_docstring():
    g = lu_graph(4, 4)
    assert [bottom_level(g.task(label), 4, 4) for label in ("getrf(3)", "getrf(2)", "getrf(0)")] == [2, 16, 53]
    assert bottom_level(g.task("swptrsm(0,3)"), 4, 4) == 9 * 3 + 2
    assert bottom_level(g.task("gemmn(2,3,0)"), 4, 4) == 9 * 3 - 3 + 2
    assert bottom_level(g.task("swap(1)"), 4, 4) == 0


def test_labels_name_panel_column_and_tile():
    labels = [task.label for task in lu_graph(3, 3)]
    assert labels == [
        "getrf(0)",
        "swptrsm(0,1)",
        "gemmn(1,1,0)",
        "gemmn(2,1,0)",
        "swptrsm(0,2)",
        "gemmn(1,2,0)",
        "gemmn(2,2,0)",
        "getrf(1)",
        "swptrsm(1,2)",
        "gemmn(2,2,1)",
        "getrf(2)",
        "swap(0)",
        "swap(1)",
    ]
    assert [task.label for task in lu_graph(2, 2, update="column")] == [
        "getrf(0)",
        "swpgemm(0,1)",
        "getrf(1)",
        "swap(0)",
    ]
    assert [task.label for task in lu_graph(2, 2, "none")][:4] == [
        "getrfn(0)",
        "trsmn(0,1)",
        "trsmu(1,0)",
        "gemmn(1,1,0)",
    ]


def test_exchanges_in_finished_columns_wait_for_all_pivots_and_nobody_for_them():
    g = lu_graph(5, 5)
    for task in g:
        if task.op.name == "swap":
            j = task.writes[0].index[1]
            assert {p.label for p in g.predecessors(task)} >= {f"getrf({k})" for k in range(j + 1, 5)}
            assert not g.successors(task)


def test_a_panel_is_a_group_and_its_pivots_are_a_room():
    g = lu_graph(3, 2, shape=(8, 5), tile_size=3)
    panel = g.task("getrf(1)")
    assert panel.groups == (2, -1) and [str(h) for h in panel.writes] == ["A[1,1]", "A[2,1]", "piv[1]"]
    assert [g.rooms["piv"].of(tw.Handle("piv", (k,)), lambda handle: ())[0] for k in range(2)] == [(3,), (2,)]
    a = np.random.default_rng(0).standard_normal((8, 5))
    tiles = tw.TiledMatrix.view(a.copy(order="F"), 3)
    again = pickle.loads(pickle.dumps(g))
    run = tw.run(again, {"A": tiles}, workers=2)
    piv = tw.lu_factor(a, tile_size=3).piv
    assert np.array_equal(np.concatenate([found + 3 * h.index[0] for h, found in run["piv"].items()]), piv)


@pytest.mark.parametrize("workers", [2, 8, 16])
def test_simulated_time_is_near_its_bound(workers):
    g = lu_graph(16, 16)
    run = tw.simulate(g, tw.Machine(workers=workers, gamma=1.0))
    assert run.bounds.lower / run.makespan > 0.8


@pytest.mark.parametrize(("nt", "length"), [(1, 2), (2, 18), (4, 60), (8, 164), (16, 412), (32, 988)])
def test_critical_path_of_a_tournament(nt, length):
    g = lu_graph(nt, nt, "tournament")
    assert g.critical_path().length == length
    assert length == sum(11 + 5 * math.ceil(math.log2(nt - k)) for k in range(nt - 1)) + 2
    assert len(g) == task_count(nt, nt, "tournament")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "nb"), [(20, 20, 6), (25, 14, 4), (14, 25, 4), (5, 5, 8), (9, 3, 8), (17, 5, 4)])
def test_ranks_change_no_bit_of_partial_pivoting_and_tournaments_are_stable(m, n, nb, dtype):
    a = random_matrix(m, n, dtype)

    def factored(**how):
        tiles = tw.TiledMatrix.view(np.asfortranarray(a).copy(order="F"), nb)
        g = lu_graph(tiles.mt, tiles.nt, shape=(m, n), tile_size=nb, dtype=dtype, **how)
        run = tw.run(g, {"A": tiles}, workers=2)
        return tiles.to_numpy(), np.concatenate([p + nb * h.index[0] for h, p in run["piv"].items()])

    wanted = factored()
    for ranks in (2, 3):
        for found, right in zip(factored(ranks=ranks), wanted, strict=True):
            assert np.array_equal(found, right)
        for leaf in (1, 4):
            assert lu_ratio(a, *factored(ranks=ranks, leaf=leaf, pivoting="tournament")) < 30


@pytest.mark.parametrize(("P", "Q", "nt"), [(2, 1, 5), (2, 2, 8), (4, 4, 9), (8, 8, 16), (32, 32, 24)])
def test_a_row_exchange_is_two_messages_a_pair_of_ranks_and_block_column(P, Q, nt):
    for pivoting in ("partial", "tournament"):
        g = lu_graph(nt, nt, pivoting, ranks=P, leaf=nt)
        plan = tw.MessagePlan(g, P * Q, tw.BlockCyclic(P, Q))
        columns = nt if pivoting == "tournament" else nt - 1  # the panel's own exchanges are inside getrf
        pairs = sum(columns * (min(P, nt - k) - 1) for k in range(nt))
        assert sum(m.handle.name == "up" for m in plan.messages) == pairs
        if pivoting == "tournament":
            readers = [g.tasks[m.reader].op.name for m in plan.messages if m.handle.name == "A" and m.reader < len(g)]
            assert readers.count("trade") == pairs
            # candidates reach the rank of the panel along a binary tree: one message a set but the first
            assert sum(m.handle.name == "C" for m in plan.messages) == sum(min(P, nt - k) - 1 for k in range(nt))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="mt must not be negative"):
        lu_graph(-1, 2)
    with pytest.raises(TypeError, match="nt"):
        lu_graph(1, 2.5)
    with pytest.raises(ValueError, match="unknown pivoting 'rook'; known: partial"):
        lu_graph(1, 1, "rook")
    with pytest.raises(ValueError, match="unknown update 'row'; known: tile, column"):
        lu_graph(1, 1, update="row")
    for mt, nt in ((10**4, 10**4), (10**12, 2), (2, 10**12), (10**12, 10**12)):
        for update in ("tile", "column"):
            with pytest.raises(ValueError, match="more than a graph can hold"):
                lu_graph(mt, nt, update=update)
    with pytest.raises(ValueError, match="unknown panel 'split'; known: single, recursive"):
        lu_graph(1, 1, panel="split")
    for how in ({"pivoting": "none"}, {"pivoting": "tournament"}, {"ranks": 2}):
        with pytest.raises(ValueError, match="panel='recursive' is for pivoting partial and threshold on one rank"):
            lu_graph(2, 2, panel="recursive", **how)
    with pytest.raises(ValueError, match="threshold is for pivoting='threshold', not for pivoting='partial'"):
        lu_graph(1, 1, threshold=0.5)
    for tau in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="threshold must be"):
            lu_graph(1, 1, "threshold", threshold=tau)
    for shape in ({"mt": 2, "nt": 3}, {"mt": 2, "nt": 2, "shape": (7, 8), "tile_size": 4}):
        with pytest.raises(ValueError, match="is for square matrices"):
            lu_graph(pivoting="butterfly", **shape)


GRIDS = [(2, 2, 6), (3, 2, 7), (4, 4, 9), (8, 4, 12), (8, 8, 20), (32, 8, 16), (32, 32, 24)]  # 4 to 1024 ranks


def sent(g, P, Q):
    """How many messages there are of each family of handles."""
    return Counter(m.handle.name for m in tw.MessagePlan(g, P * Q, tw.BlockCyclic(P, Q)).messages)


@pytest.mark.parametrize(("P", "Q", "nt"), GRIDS)
def test_messages_without_pivoting(P, Q, nt):
    """The diagonal tile goes along its row and column of ranks, a tile of L along its row, of U along its column."""
    rest = [nt - 1 - k for k in range(nt)]
    assert sent(lu_graph(nt, nt, "none"), P, Q) == {"A": sum((r + 1) * (min(P - 1, r) + min(Q - 1, r)) for r in rest)}


@pytest.mark.parametrize(("P", "Q", "nt"), GRIDS)
@pytest.mark.parametrize("pivoting", ["partial", "threshold"])
def test_messages_of_panels_that_one_rank_gathers(P, Q, nt, pivoting):
    A = pivots = rows = 0
    for k in range(nt):
        r = nt - 1 - k  # tiles below and beside the diagonal
        own = r // P  # of those below, how many are on the rank of the panel
        groups = min(P, nt - k)  # ranks that have tiles of a block column
        A += r - own  # the panel comes together,
        A += own * min(Q - 1, r) + (r - own) * min(Q, r + 1)  # goes to all that multiply with it, and home;
        A += min(Q - 1, r) + r * min(P - 1, r)  # the diagonal tile to its row, those of U down their columns;
        A += (nt - 1) * (groups - 1)  # and the row on top to all that exchange rows with it,
        A -= k > 0 and nt - k >= P  # but for the rank that factored it in the panel before;
        rows += (nt - 1) * (groups - 1)  # which send as much back
        pivots += groups * Q - 1 if nt > Q else groups * (nt - 1)
    assert sent(lu_graph(nt, nt, pivoting, ranks=P), P, Q) == {"A": A, "piv": pivots, "up": rows}
