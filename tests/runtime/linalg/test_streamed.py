"""Tiles of a matrix on a disk come by in few buffers; the one that is needed again last is given up."""

import numpy as np

from tilewright import RW, Handle, R, TaskGraph, TiledMatrix, run
from tilewright.linalg.lu import solve_graph
from tilewright.linalg.streamed import streamed
from tilewright.storage.matrix import Held, StoredTiles

NB = 4


def add(tile, total):
    total += tile.sum()


def sums(order, n=16):
    """A graph that reads tiles (k, 0) in this order."""
    g = TaskGraph("sums")
    A, total = g.handles("A"), g.handle("total")
    for k in order:
        g.insert(add, R(A[k, 0]), RW(total))
    return g


def loads(graph):
    return [task.uses[0].handle.index[0] for task in graph if task.op.name == "load"]


def test_the_tile_that_is_needed_again_last_is_given_up():
    a = np.arange(16.0 * NB).reshape(16, NB)
    order = [0, 1, 2, 0, 1, 3, 0, 2, 1]
    graph, buffers = streamed(sums(order), "A", StoredTiles(Held(a), NB), 3)
    assert len(buffers) == 3 and loads(graph) == [0, 1, 2, 3, 1]  # LRU would read 0, 1, 2, 3, 2, 1
    total = np.zeros(1)
    run(graph, {"A": StoredTiles(Held(a), NB), "A:buffer": buffers, "total": total}, workers=2)
    assert total[0] == sum(a[4 * k : 4 * k + 4].sum() for k in order)


def test_what_comes_by_once_takes_all_buffers_in_turn():
    graph, _ = streamed(sums([0, 1, 2, 3]), "A", StoredTiles(Held(np.zeros((16, NB))), NB), 2)
    assert [task.uses[1].handle for task in graph if task.op.name == "load"] == [
        Handle("A:buffer", (k,)) for k in (0, 1, 0, 1)
    ]


def test_a_graph_of_many_reads_gives_what_it_gives_in_memory():
    rng = np.random.default_rng(0)
    n = 22
    lu, b = np.asfortranarray(rng.standard_normal((n, n)) + 5 * np.eye(n)), rng.standard_normal((n, 2))
    piv = [np.arange(min(NB, n - k), dtype=np.int32) for k in range(0, n, NB)]
    graph = solve_graph(-(-n // NB), 1, 0, False)
    wanted = TiledMatrix.view(np.empty((n, 2), order="F"), NB)
    run(graph, {"LU": TiledMatrix.view(lu, NB), "piv": piv, "B": TiledMatrix.view(b, NB), "X": wanted})
    for most in (1, 2, 5, 50):
        made, buffers = streamed(graph, "LU", StoredTiles(Held(lu), NB), most, "F")
        X = TiledMatrix.view(np.empty((n, 2), order="F"), NB)
        data = {"LU": StoredTiles(Held(lu), NB), "LU:buffer": buffers, "piv": piv, "B": TiledMatrix.view(b, NB), "X": X}
        run(made, data, workers=2)
        assert np.array_equal(X.to_numpy(), wanted.to_numpy()) and len(buffers) <= 4 * most
        assert [task.label for task in made if task.op.name != "load"] == [task.label for task in graph]
