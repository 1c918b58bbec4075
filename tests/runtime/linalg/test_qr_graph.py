"""The graphs of QR: counts and critical paths in closed form, edges, trees as arguments, rooms."""

import math
import pickle

import numpy as np
import pytest
from matrices import DTYPES, random_matrix, roundoff

import tilewright as tw
from tilewright.linalg.qr_graph import qr_graph, task_count
from tilewright.linalg.trees import TREES, Elimination

DOMAINS = ("hierarchical", 4, "binary", "binary")
FIXED = ("hierarchical", 4, "earliest", "binary", "fixed")
SHAPES = [(m, n) for m in range(6) for n in range(6)] + [(8, 8), (16, 4), (4, 16)]


def flat_ts(p, q):
    return 6 * p - 2 if q == 1 else 30 * p - 34 if p == q else 12 * p + 18 * q - 32


def flat_tt(p, q):
    return 2 * p + 2 if q == 1 else 22 * p - 24 if p == q else 6 * p + 16 * q - 22


@pytest.mark.parametrize(("p", "q"), [(2, 1), (9, 1), (2, 2), (8, 8), (16, 16), (3, 2), (16, 4), (40, 4), (20, 7)])
def test_critical_paths_of_flat_trees(p, q):
    assert qr_graph(p, q, "flat").critical_path().length == flat_ts(p, q)
    assert qr_graph(p, q, "flat-tt").critical_path().length == flat_tt(p, q)


@pytest.mark.parametrize("p", [1, 2, 3, 5, 16, 33, 64])
@pytest.mark.parametrize("tree", ["binary", "greedy"])
def test_critical_paths_of_one_column(p, tree):
    assert qr_graph(p, 1, tree).critical_path().length == 4 + 2 * math.ceil(math.log2(p))


@pytest.mark.parametrize(
    ("tree", "p", "q", "length"),
    [
        ("flat", 16, 4, 232),
        ("flat", 40, 4, 520),
        ("flat-tt", 16, 4, 138),
        ("flat-tt", 16, 16, 328),
        ("binary", 16, 4, 114),
        ("binary", 40, 4, 154),
        ("binary", 20, 20, 608),
        ("greedy", 16, 4, 86),
        ("greedy", 40, 4, 104),
        ("greedy", 40, 8, 192),
        ("greedy", 16, 16, 310),
        ("greedy", 20, 20, 398),
        (DOMAINS, 16, 4, 128),
        (DOMAINS, 40, 4, 168),
        (DOMAINS, 16, 16, 446),
        (FIXED, 16, 4, 192),
        (FIXED, 40, 4, 222),
        (FIXED, 16, 16, 722),
    ],
)
def test_critical_paths_of_the_literature_and_of_domains(tree, p, q, length):
    assert qr_graph(p, q, tree).critical_path().length == length


@pytest.mark.parametrize(("p", "q"), [(16, 4), (40, 4), (16, 16), (15, 2), (40, 1), (7, 7)])
def test_greedy_and_fibonacci_are_near_22_q(p, q):
    assert qr_graph(p, q, "greedy").critical_path().length <= 22 * q + 6 * math.ceil(math.log2(p))
    assert qr_graph(p, q, "fibonacci").critical_path().length <= 22 * q + 6 * math.ceil(math.sqrt(2 * p))


@pytest.mark.parametrize("tree", ["panel", *TREES, DOMAINS, FIXED])
@pytest.mark.parametrize(("mt", "nt"), SHAPES)
def test_work_is_that_of_the_flops_for_every_tree(tree, mt, nt):
    g = qr_graph(mt, nt, tree)
    if mt >= nt:
        assert g.work() == 6 * mt * nt**2 - 2 * nt**3
    else:  # the same of the first columns, and their reflections on the others
        more = sum(6 + 12 * (mt - k - 1) for k in range(mt)) * (nt - mt)
        assert g.work() == 4 * mt**3 + more


@pytest.mark.parametrize(("mt", "nt"), SHAPES)
def test_the_flat_tree_has_as_many_tasks_as_the_loop_says(mt, nt):
    g, q = qr_graph(mt, nt, "flat"), min(mt, nt)
    names = [task.op.name for task in g]
    assert len(g) == task_count(mt, nt, "flat") and names.count("geqrt") == q
    if mt >= nt:
        assert names.count("unmqr") == q * (q - 1) // 2 and names.count("tsqrt") == mt * q - q * (q + 1) // 2
        assert names.count("tsmqr") == sum((mt - k - 1) * (nt - k - 1) for k in range(q))
    assert len(qr_graph(mt, nt, "panel")) == task_count(mt, nt, "panel")


def test_counts_of_8_by_8():
    assert len(qr_graph(8, 8, "flat")) == 204 and len(qr_graph(8, 8, "greedy")) == 372
    assert len(qr_graph(8, 8, "panel")) == 36


def test_updates_beside_the_diagonal_run_beside_its_eliminations():
    g = qr_graph(3, 3, "flat")
    following = {task.label for task in g.predecessors(g.task("tsqrt(1,0)"))}
    assert following == {"geqrt(0,0)"}  # not unmqr, which reads a copy of the vectors
    assert {t.label for t in g.predecessors(g.task("unmqr(0,1,0)"))} == {"geqrt(0,0)"}
    assert {t.label for t in g.predecessors(g.task("tsmqr(1,1,0)"))} == {"tsqrt(1,0)", "unmqr(0,1,0)"}


def test_labels_name_tile_column_and_step():
    assert [task.label for task in qr_graph(2, 2, "flat")] == [
        "geqrt(0,0)",
        "unmqr(0,1,0)",
        "tsqrt(1,0)",
        "tsmqr(1,1,0)",
        "geqrt(1,1)",
    ]
    assert [task.label for task in qr_graph(2, 1, "binary")] == ["geqrt(0,0)", "geqrt(1,0)", "ttqrt(1,0)"]
    assert [task.label for task in qr_graph(2, 2, "panel")] == ["geqrf(0)", "larfb(0,1)", "geqrf(1)"]


@pytest.mark.parametrize("tree", ["panel", "flat", "greedy", DOMAINS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sized_graph_runs_and_travels(tree, dtype):
    g = qr_graph(3, 2, tree, shape=(14, 9), tile_size=5, ib=2, dtype=dtype)
    a = random_matrix(14, 9, dtype)
    found = a.copy(order="F")
    tw.run(pickle.loads(pickle.dumps(g)), {"A": tw.TiledMatrix.view(found, 5)}, workers=2)
    r = np.triu(found[:9])
    assert np.allclose(np.abs(r), np.abs(np.linalg.qr(a)[1]), atol=1e3 * roundoff(dtype))


def test_a_tree_of_one_s_own_is_checked_before_a_task_is_made():
    steps = [Elimination(0, 2, 1, "TT"), Elimination(0, 1, 0, "TT"), Elimination(1, 2, 1, "TS")]
    assert len(qr_graph(3, 2, steps)) == 3 + 2 + 1 + 3 + 2 + 1
    assert len(qr_graph(3, 2, [tuple(step) for step in steps])) == 12
    with pytest.raises(ValueError, match=r"leaves tile \(2, 1\)"):
        qr_graph(3, 2, steps[:2])


@pytest.mark.parametrize("workers", [2, 8, 16])
def test_simulated_time_is_near_its_bound(workers):
    run = tw.simulate(qr_graph(16, 8, "greedy"), tw.Machine(workers=workers, gamma=1.0))
    assert run.bounds.lower / run.makespan > 0.8


def test_what_is_wrong_is_named():
    for arguments, message in (
        ((-1, 2), "mt must not be negative"),
        ((10**6, 10**6), "take larger tiles"),
        ((2, 2, "tree"), "unknown tree"),
    ):
        with pytest.raises(ValueError, match=message):
            qr_graph(*arguments)
    with pytest.raises(ValueError, match="give both or neither"):
        qr_graph(2, 2, shape=(4, 4))
    with pytest.raises(ValueError, match="is not 2 x 2 tiles"):
        qr_graph(2, 2, shape=(4, 4), tile_size=4)
