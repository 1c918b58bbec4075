import networkx
import pytest

import tilewright as tw
from tilewright.passes.bounds import mixed_bounds, width


def test_the_speed_up_limit_is_work_over_path():
    bound = tw.bounds(tw.cholesky_graph(16), workers=8)
    assert (bound.work, bound.lower) == (4096, 512)
    assert bound.speedup_limit == 4096 / 134


def test_one_kind_of_worker_gives_the_plain_area():
    graph = tw.cholesky_graph(5)
    assert mixed_bounds(graph, tw.Machine(workers=3)) == tw.bounds(graph, 3)


def test_the_linear_programme_splits_work_as_by_hand():
    """6 of a (CPU 2, GPU 1) and 4 of b (CPU 2, GPU 4) on 2 CPUs and 1 GPU: CPUs take all b, then share a."""
    g = tw.TaskGraph()
    h = g.handles("h")
    for i in range(10):
        g.insert(tw.Op("a", weight=2) if i < 6 else tw.Op("b", weight=2), tw.W(h[i]))
    machine = tw.Machine(workers=3, gpus=1, acceleration={"a": 2.0, "b": 0.5})
    bound = mixed_bounds(g, machine)
    # GPU runs x of a in x seconds; the CPUs (6 - x) of a and 4 of b in (20 - 2x)/2 seconds: x = 5.
    assert bound.area == pytest.approx(5)
    assert bound.critical_path == 2
    assert bound.work == 6 + 8


@pytest.mark.parametrize("scheduler", ["heft", "dmda", "heteroprio", "eager"])
def test_no_schedule_on_cpus_and_gpus_beats_the_bounds(scheduler):
    machine = tw.Machine(workers=5, gpus=2, acceleration={"gemm": 20.0, "syrk": 18.0, "trsm": 8.0, "potrf": 0.7})
    run = tw.simulate(tw.cholesky_graph(9), machine, scheduler=scheduler)
    assert run.makespan >= run.bounds.lower * (1 - 1e-9)
    assert run.bounds.area < tw.bounds(run.graph, 5).area


def test_width_is_at_most_the_longest_antichain():
    for graph in (tw.cholesky_graph(5), tw.cholesky_graph(1), tw.cholesky_graph(0)):
        g = networkx.transitive_closure_dag(graph.to_networkx())
        # Dilworth: the longest antichain has as many tasks as the fewest chains that cover all of them.
        split = networkx.Graph()
        split.add_nodes_from((("from", t), {"bipartite": 0}) for t in g)
        split.add_nodes_from(("to", t) for t in g)
        split.add_edges_from((("from", a), ("to", b)) for a, b in g.edges)
        matching = networkx.bipartite.hopcroft_karp_matching(split, [("from", t) for t in g])
        assert width(graph) <= len(g) - len(matching) // 2


def test_width_counts_tasks_of_one_depth():
    generations = networkx.topological_generations(tw.cholesky_graph(6).to_networkx())
    assert width(tw.cholesky_graph(6)) == max(map(len, generations))
