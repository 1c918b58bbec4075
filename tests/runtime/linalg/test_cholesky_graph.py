"""The graph of tiled Cholesky: closed forms, labels, edges."""

import networkx
import pytest

import tilewright as tw
from tilewright import cholesky_graph
from tilewright.linalg.cholesky import bottom_level, cholesky
from tilewright.linalg.triangle import triangle_graph

SIZES = [*range(1, 13), 20, 31]


@pytest.mark.parametrize("t", [0, *SIZES])
def test_number_of_tasks(t):
    assert len(cholesky_graph(t)) == t * (t + 1) * (t + 2) // 6


@pytest.mark.parametrize(("t", "edges"), [(1, 0), (2, 3), (3, 12), (4, 30), (5, 60), (8, 252)])
def test_number_of_edges_is_that_of_the_lecture_s_picture(t, edges):
    assert cholesky_graph(t).to_networkx().number_of_edges() == edges


@pytest.mark.parametrize("workers", [2, 4])
def test_with_lookahead_the_second_panel_is_factored_before_the_first_update_ends(workers):
    graph = cholesky_graph(8)
    trace = tw.simulate(graph, tw.Machine(workers=workers, gamma=1e-9), scheduler="lookahead(1)").trace
    records = {graph.tasks[record.task].label: record for record in trace}
    last = max(record.start for label, record in records.items() if label.startswith("gemm") and label.endswith(",0)"))
    assert records["potrf(1)"].end < last


@pytest.mark.parametrize("t", SIZES)
def test_critical_path_counts_3t_minus_2_tasks(t):
    path = cholesky_graph(t).critical_path(cost=lambda task: 1)
    assert (len(path), path.length) == (3 * t - 2, 3 * t - 2)


@pytest.mark.parametrize("t", SIZES)
def test_critical_path_is_9t_minus_10_units(t):
    assert cholesky_graph(t).critical_path().length == max(9 * t - 10, 1)


@pytest.mark.parametrize("t", SIZES)
def test_work_is_t_cubed_units(t):
    assert cholesky_graph(t).work() == t**3


@pytest.mark.parametrize("t", [0, *SIZES])
def test_closed_form_of_bottom_levels_is_the_reverse_sweep(t):
    g = cholesky_graph(t)
    assert g.closed_form is not None
    assert g.bottom_levels() == g.bottom_levels([task.op.weight for task in g])


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("t", [0, *SIZES])
def test_closed_form_holds_with_copies_and_clearing(t, in_place):
    g = triangle_graph(cholesky, t, in_place, "" if in_place else "behind", in_place, (), bottom_level)
    assert g.bottom_levels() == g.bottom_levels([task.op.weight for task in g])
    tiles = t * (t + 1) // 2
    extra = t + (t * (t - 1) // 2 if in_place else tiles)
    assert len(g) == t * (t + 1) * (t + 2) // 6 + extra


@pytest.mark.parametrize("t", [2, 5, 9])
def test_networkx_finds_the_same_longest_path(t):
    g = cholesky_graph(t)
    oracle = g.to_networkx()
    assert networkx.is_directed_acyclic_graph(oracle)
    for u, v in oracle.edges:
        oracle.edges[u, v]["weight"] = g.tasks[u].op.weight
    assert networkx.dag_longest_path_length(oracle) + 1 == 9 * t - 10  # the last task is a potrf and weighs 1
    assert networkx.dag_longest_path_length(oracle, weight=None) + 1 == 3 * t - 2


def test_tasks_of_three_tiles_in_program_order():
    assert [task.label for task in cholesky_graph(3)] == [
        "potrf(0)",
        "trsm(1,0)",
        "trsm(2,0)",
        "syrk(1,0)",
        "syrk(2,0)",
        "gemm(2,1,0)",
        "potrf(1)",
        "trsm(2,1)",
        "syrk(2,1)",
        "potrf(2)",
    ]


def test_gemm_waits_for_both_panels_and_the_update_before():
    g = cholesky_graph(4)
    assert {t.label for t in g.predecessors(g.task("gemm(3,2,1)"))} == {"trsm(3,1)", "trsm(2,1)", "gemm(3,2,0)"}


def test_each_task_waits_for_what_the_textbook_says():
    g = cholesky_graph(6)
    for task in g:
        name, index = task.op.name, eval(task.label.removeprefix(task.op.name).replace(")", ",)"))
        if name == "potrf":
            (k,) = index
            wanted = {f"syrk({k},{k - 1})"} if k else set()
        elif name == "trsm":
            i, k = index
            wanted = {f"potrf({k})"} | ({f"gemm({i},{k},{k - 1})"} if k else set())
        elif name == "syrk":
            i, k = index
            wanted = {f"trsm({i},{k})"} | ({f"syrk({i},{k - 1})"} if k else set())
        else:
            i, j, k = index
            wanted = {f"trsm({i},{k})", f"trsm({j},{k})"} | ({f"gemm({i},{j},{k - 1})"} if k else set())
        assert {t.label for t in g.predecessors(task)} == wanted


def test_longest_chain_of_four_tiles_by_name():
    assert str(cholesky_graph(2).critical_path()) == "potrf(0) -> trsm(1,0) -> syrk(1,0) -> potrf(1)  (length 8)"


def test_negative_size_is_an_error():
    with pytest.raises(ValueError, match="nt must not be negative, got -1"):
        cholesky_graph(-1)


def test_a_task_more_ends_the_closed_form():
    """A graph that the user goes on with has other bottom levels than the factorisation alone."""
    from tilewright import RW

    g = cholesky_graph(2)
    tail = g.insert(lambda tile: None, RW(g.handles("A")[1, 1]))
    assert g.closed_form is None
    assert g.bottom_levels() == [9, 8, 5, 2, tail.op.weight]
