"""One piece of memory under two handles is refused where a task writes it."""

import numpy as np
import pytest

import tilewright as tw
from tilewright import RW, R, TaskGraph, W


def add(x, y):
    y += x


def graph():
    g = TaskGraph()
    g.insert(add, R(g.handle("x")), RW(g.handle("y")))
    return g


def tiles_graph(read, written):
    g = TaskGraph()
    g.insert(add, R(g.handles("X")[read]), RW(g.handles("Y")[written]))
    return g


LINE, SQUARE = np.zeros(12), np.zeros((4, 4))
APART = {
    "halves": (LINE[:6], LINE[6:]),
    "every second": (LINE[::2], LINE[1::2]),
    "tiles of one row": (SQUARE[:2, :2], SQUARE[:2, 2:]),
    "backwards": (LINE[5::-1], LINE[:5:-1]),
    "empty": (LINE[:0], LINE[:1][:0]),
    "copies": (LINE.copy(), LINE.copy()),
}
SHARED = {
    "one object": (LINE, LINE),
    "a view and its array": (LINE[3:4], LINE[:].reshape(-1)),
    "overlapping": (LINE[:6], LINE[5:11]),
    "reversed": (LINE[:6], LINE[7:4:-1]),
    "transposed": (SQUARE, SQUARE.T),
    "other dtype": (LINE[:2], LINE.view(np.int32)[3:7].view(np.float64)),
}


@pytest.mark.parametrize("pair", APART)
def test_memory_of_its_own_is_taken(pair):
    x, y = (array[: min(map(len, APART[pair]))] for array in APART[pair])
    tw.run(graph(), {"x": x, "y": y}, backend="serial")


@pytest.mark.parametrize("pair", SHARED)
@pytest.mark.parametrize("backend", ["serial", "threads", "mpi"])
def test_shared_memory_is_refused_before_any_task(pair, backend):
    x, y = SHARED[pair]
    with pytest.raises(ValueError, match="(x and y|y and x) are the same memory"):
        tw.run(graph(), {"x": x, "y": y}, backend=backend)


def test_what_nobody_writes_may_be_shared():
    g = TaskGraph()
    x, y, z = (g.handle(name) for name in "xyz")
    g.insert(np.add, R(x), R(y), W(z))
    both = np.ones(3)
    assert tw.run(g, {"x": both, "y": both}, backend="serial")["z"].tolist() == [2, 2, 2]


def test_tensors_are_compared_by_their_storage():
    torch = pytest.importorskip("torch")
    whole = torch.zeros(8)
    tw.run(graph(), {"x": whole[:4], "y": whole[4:]}, backend="serial")
    with pytest.raises(ValueError, match="(x and y|y and x) are the same memory"):
        tw.run(graph(), {"x": whole[:4], "y": whole[3:7]}, backend="serial")


def test_lists_that_tasks_change_are_one_only_under_one_handle():
    g = TaskGraph()
    g.insert(list.append, RW(g.handle("y")), 1)
    g.insert(len, R(g.handle("x")))
    same = []
    with pytest.raises(ValueError, match="(x and y|y and x) are the same memory"):
        tw.run(g, {"x": same, "y": same}, backend="serial")


@pytest.mark.parametrize(
    ("read", "written", "transposed", "shared"),
    [((0, 1), (1, 0), False, False), ((0, 1), (1, 0), True, True), ((0, 1), (0, 1), False, True)],
)
def test_tiled_matrices_share_where_their_tiles_do(read, written, transposed, shared):
    matrix = tw.TiledMatrix.view(np.eye(6), 3)
    data = {"X": matrix, "Y": matrix.T if transposed else matrix}
    if not shared:
        tw.run(tiles_graph(read, written), data, backend="serial")
        return
    with pytest.raises(ValueError, match=r"[XY]\[.,.\] and [XY]\[.,.\] are the same memory"):
        tw.run(tiles_graph(read, written), data, backend="serial")


def itself(x, *_):
    return x


def twice(x, *_):
    return x[:2], x[1:]


def one_more(y):
    y += 1


@pytest.mark.parametrize("backend", ["serial", "threads", "mpi"])
def test_a_value_that_a_function_returns_is_not_the_memory_of_what_it_read(backend):
    g = TaskGraph()
    x, y, z = (g.handle(name) for name in "xyz")
    g.insert(itself, R(x), W(y))
    g.insert(one_more, RW(y))
    g.insert(twice, R(x), W(y), W(z))
    g.insert(one_more, RW(y))
    run = tw.run(g, {"x": np.zeros(3)}, backend=backend, workers=2)
    assert [run[name].tolist() for name in "xyz"] == [[0, 0, 0], [1, 1], [0, 0]]
