"""Graphs by name: each is drawn, simulated, compared and run, with the right answer on every engine."""

import numpy as np
import pytest
from optional import torch

import tilewright as tw
from tilewright.studies.synthetic import random_graph, stencil_graph, tree_graph
from tilewright.studies.workloads import OWNERS, WORKLOADS, Sizes, owner_of, workload

SMALL = Sizes(nt=4, tile_size=8, n=24, ranks=2, steps=2, seed=3)
ENGINES = ("serial", "threads", "mpi", "dask")


def small(name):
    if name == "training":
        torch.zeros(1)
    return workload(name, SMALL)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_graph_is_simulated_and_compared(name):
    work = small(name)
    machine = tw.Machine(alpha=1e-6, beta=1e-9, gamma=1e-9)
    run = tw.simulate(work.graph, machine)
    run.trace.check()
    assert len(run.trace) == len(work.graph) > 1
    table = tw.compare_schedulers(work.graph, 2, machine=machine, schedulers=["eager", "critical-path"])
    assert {row.scheduler for row in table} == {"eager", "critical-path"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_graph_has_a_picture_and_is_the_same_again(name):
    graph, again = small(name).graph, small(name).graph
    assert graph.to_dot() == again.to_dot()
    assert graph.to_svg(layout="layered").count('class="task') >= len(graph)


def values(run):
    """Numbers of all handles that a run wrote, where they are arrays."""
    found = {}
    for handle in run.graph.written:
        value = run.store[handle]
        if isinstance(value, np.ndarray) and handle.name not in run.graph.temporary:
            found[handle] = value
    return found


@pytest.mark.parametrize("backend", ["threads", "mpi", "dask"])
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "training"])
def test_every_graph_runs_on_every_engine_with_the_same_bits(name, backend):
    work = small(name)
    expected = values(tw.run(work.graph, work.data(), backend="serial"))
    found = values(tw.run(work.graph, work.data(), backend=backend, workers=2))
    assert expected.keys() == found.keys() and expected
    assert all(np.array_equal(found[handle], expected[handle]) for handle in expected)


@pytest.mark.parametrize("backend", ENGINES)
def test_the_training_runs_on_every_engine_with_the_same_losses(backend):
    work = small("training")
    losses = [
        [
            row["loss"]
            for row in tw.run(work.graph, work.data(), backend=engine, workers=2)[tw.Handle("log", (0,))].steps
        ]
        for engine in ("serial", backend)
    ]
    assert len(losses[0]) == 2 and losses[0] == losses[1]


def test_the_answers_are_right():
    data = workload("solve", SMALL).data()
    A = data["A"].to_numpy()
    run = tw.run(workload("solve", SMALL).graph, workload("solve", SMALL).data())
    X = np.vstack([run[tw.Handle("X", (i,))] for i in range(4)])
    B = np.vstack(data["X"])
    np.testing.assert_allclose(A @ X, B, rtol=1e-9, atol=1e-9)

    work = workload("matvec", SMALL)
    data = work.data()
    run = tw.run(work.graph, work.data(), backend="serial")
    y = np.concatenate([run[tw.Handle("y", (q,))] for q in range(2)])
    np.testing.assert_allclose(y, np.vstack(data["A"]) @ np.concatenate(data["x"]), rtol=1e-12)

    work = workload("allreduce", SMALL)
    total = sum(work.data()["x"])
    run = tw.run(work.graph, work.data(), backend="serial")
    assert all(np.allclose(run[tw.Handle("x", (q,))], total) for q in range(2))


def test_the_stencil_is_jacobis_iteration():
    """On a plate cut into blocks as on the whole, with zeros around."""
    nt, nb, steps = 3, 4, 5
    whole = np.random.default_rng(0).random((nt * nb, nt * nb))
    blocks = {
        tw.Handle("u", (i, j)): whole[i * nb : (i + 1) * nb, j * nb : (j + 1) * nb].copy()
        for i in range(nt)
        for j in range(nt)
    }
    blocks |= {tw.Handle("v", handle.index): np.empty((nb, nb)) for handle in list(blocks)}
    run = tw.run(stencil_graph(nt, steps), blocks, workers=2)
    for _ in range(steps):
        padded = np.pad(whole, 1)
        whole = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    found = np.block([[run[tw.Handle("v", (i, j))] for j in range(nt)] for i in range(nt)])
    np.testing.assert_allclose(found, whole, rtol=1e-14)
    assert len(stencil_graph(nt, steps).critical_path(lambda task: 1)) == steps


@pytest.mark.parametrize("leaves", [1, 2, 5, 8, 13])
def test_the_tree_adds_squares_along_the_shortest_path(leaves):
    x = np.random.default_rng(0).random((leaves, 3))
    graph = tree_graph(leaves)
    run = tw.run(graph, {"x": list(x.copy())})
    np.testing.assert_allclose(run[tw.Handle("x", (0,))], (x**2).sum(0))
    assert len(graph) == 2 * leaves - 1
    assert len(graph.critical_path(lambda task: 1)) == 1 + int(np.ceil(np.log2(leaves)))


def test_a_seed_makes_one_random_graph():
    one, same, other = random_graph(5, 4, 1), workload("random:1", Sizes(nt=5)).graph, random_graph(5, 4, 2)
    assert one.to_dot() == random_graph(5, 4, 1).to_dot() != other.to_dot()
    assert same.to_dot() == random_graph(5, 5, 1).to_dot()


def test_a_function_of_a_file_makes_the_graph_from_the_sizes_that_it_names(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np, tilewright as tw\n"
        "def twice(x): x *= 2\n"
        "def graph(nt, seed=7):\n"
        "    g = tw.TaskGraph(f'mine {nt} {seed}')\n"
        "    for i in range(nt): g.insert(twice, tw.RW(g.handles('x')[i]))\n"
        "    return g, {'x': [np.ones(2) for _ in range(nt)]}\n"
        "def none(): return 3\n"
        "def more(colour): return None\n"
    )
    work = workload(f"{path}:graph", Sizes(nt=3))
    assert work.graph.name == "mine 3 0"
    for backend in ENGINES:
        run = tw.run(work.graph, workload(f"{path}:graph", Sizes(nt=3)).data(), backend=backend, workers=2)
        assert np.array_equal(run[tw.Handle("x", (2,))], [2, 2])
    for name, error, message in [
        ("none", TypeError, "returns int, not a TaskGraph"),
        ("more", TypeError, "needs colour; it may take nt"),
        ("missing", ValueError, "has no function 'missing'"),
    ]:
        with pytest.raises(error, match=message):
            workload(f"{path}:{name}")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        workload(f"{tmp_path}/other.py:graph")
    with pytest.raises(ValueError, match="names no function"):
        workload(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("choleski", "did you mean cholesky"), ("random:x", "no number for its seed"), ("", "there is no graph ''")],
)
def test_an_unknown_name_says_what_there_is(name, message):
    with pytest.raises(ValueError, match=message):
        workload(name)


@pytest.mark.parametrize("kind", OWNERS)
def test_owners_by_name_are_distributions(kind):
    rule = owner_of(kind, Sizes(nt=6, ranks=6))
    assert {rule(i, j) for i in range(6) for j in range(i + 1)} == set(range(6))


def test_a_symmetric_distribution_wants_a_number_of_pairs():
    with pytest.raises(ValueError, match="is for 1, 3, 6, 10, ... ranks, not 4"):
        owner_of("symmetric", Sizes(ranks=4))
